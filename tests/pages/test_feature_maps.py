from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions

PAGE = "look/feature_maps"


def test_shows_the_middle_layer_before_the_first_click(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    assert "240 channels of 28 × 28 cells" in captions(app)


def test_another_layer_shows_other_maps(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    app.selectbox(key="layer").select("blocks.6").run()
    assert "320 channels of 7 × 7 cells" in captions(app)
    app.segmented_control(key="depth").set_value("112 × 112").run()
    assert "112 × 112 cells" in captions(app)
    assert not app.exception


def test_a_click_on_the_wall_chooses_the_channel(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    before = app.number_input(key="channel").value
    app.session_state["channel"] = before + 1
    app.run()
    assert app.number_input(key="channel").value == before + 1
    assert f"channel {before + 1}" in captions(app)


def test_every_order_fusion_and_scale_works(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    seen = set()
    for key in ("order", "view", "brightness"):
        for option in app.selectbox(key=key).options:
            app.selectbox(key=key).select(option).run()
            assert not app.exception, (key, option)
            seen.add(captions(app))
    assert len(seen) > 8


def test_a_link_to_an_unknown_layer_says_so(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE, layer="blocks.99")
    assert any("blocks.99" in w.value for w in app.warning)
    assert "240 channels" in captions(app)


def test_reused_layer_offers_its_calls(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE, model="torchvision/resnet18", weights="untrained", layer="layer1.0.relu")
    assert app.number_input(key="call").value == 1
    first = captions(app)
    app.number_input(key="call").set_value(0).run()
    assert captions(app) != first


def test_channel_of_another_network_does_not_break(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE, layer="bn2", channel="1200")
    assert app.number_input(key="channel").value == 1200
    app.selectbox(key="layer").select("conv_stem").run()
    assert app.number_input(key="channel").value < 32
    assert not app.exception
