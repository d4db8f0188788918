from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions

PAGE = "look/filters"


def test_first_layer_kernels_with_the_dead_ones_named(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    assert "Zero is mid grey" in captions(app)
    assert "11, 16, 28, 31" in captions(app)


def test_another_kernel_shows_its_own_numbers(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    app.number_input(key="kernel").set_value(3).run()
    assert "Kernel 3 of" in captions(app)


def test_deeper_and_depthwise_layers(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    app.selectbox(key="convolution").select("blocks.0.0.conv_dw").run()
    assert "each read one channel" in captions(app)
    app.selectbox(key="convolution").select("blocks.1.0.conv_pw").run()
    assert "slices of kernel" in captions(app)
    assert "hue" not in [o.lower() for o in app.selectbox(key="kernel_order").options]


def test_every_order_and_drawing_works(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    for option in app.selectbox(key="kernel_order").options:
        app.selectbox(key="kernel_order").select(option).run()
        assert not app.exception, option
    app.toggle(key="kernel_scale").set_value(True).run()
    app.toggle(key="undo").set_value(True).run()
    assert not app.exception
