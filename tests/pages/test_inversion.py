"""The inversion page: rough pictures before the first click, the run that was asked for, a network without classes."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "create/inversion"


def test_rough_pictures_are_there_before_the_first_click_and_the_run_gives_what_was_asked(
    open_page: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    app = open_page(PAGE, inversion_layers="blocks.1.0.bn1", inversion_steps="64")
    run_until(app, "Feature inversion · 48 steps for each layer")
    assert "1 layer, 64 steps each at 224 pixels: about" in captions(app)
    assert "Its answer to the photo" in captions(app)
    app.selectbox(key="inversion_size").set_value(64).run()
    app.button(key="inversion_run").click().run()
    run_until(app, "Feature inversion · 64 steps for each layer")
    assert check_charts(app) == {"inversion_curves"}


def test_a_network_without_classes_has_no_answers(open_page: Open) -> None:
    app = open_page(PAGE, model="timm/convnext_tiny.dinov3_lvd1689m", weights="untrained", inversion_layers="stem")
    run_until(app, "Feature inversion · 48 steps for each layer")
    assert "Its answer to the photo" not in captions(app)
