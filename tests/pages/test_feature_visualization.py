"""The feature visualisation page: quick pictures before the first click, the asked ones, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core.collections import embedding
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import compute
from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "create/feature_visualization"


def test_quick_pictures_are_there_before_the_first_click_and_the_cost_of_the_asked_ones(
    open_page: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    app = open_page(PAGE)
    assert "4 × 96 steps at 128 pixels: about" in captions(app)
    run_until(app, "4 pictures · 24 steps · from noise, seed 0")
    assert "The picture reaches" in captions(app)
    assert "Channel 0" in [heading.value for heading in app.subheader]
    app.session_state["made"] = 2
    app.run()
    assert "Channel 2" in [heading.value for heading in app.subheader]
    assert check_charts(app) == {"grey_scores", "climb"}


def test_a_link_asks_for_objective_layer_and_start(open_page: Open) -> None:
    app = open_page(
        PAGE,
        layer="conv_stem",
        objective="whole layer",
        visualization_steps="8",
        visualization_size="64",
        start="the picture",
        fourier="false",
    )
    run_until(app, "conv\\_stem · 1 pictures · 8 steps · from the picture")
    assert not app.toggle(key="fourier").value


def test_a_unit_outside_the_map_is_said(open_page: Open) -> None:
    app = open_page(
        PAGE, objective="one unit", middle="false", unit_row="900", visualization_steps="8", visualization_size="64"
    )
    run_until(app, lambda: any("no unit at row 900" in error.value for error in app.error))


def test_real_patches_stand_beside_the_picture_of_a_layer_that_is_indexed(
    open_explore: Open, lite0: LoadedModel
) -> None:
    layer = embedding.standard_layers(lite0)[-2]
    app = open_explore(PAGE, layer=layer, channels="3", visualization_steps="8", visualization_size="64")
    run_until(app, "Strongest real patches. The highest of ")
    assert re.search(
        r"is [\d.]+; the made picture reaches [-\d.]+ at its strongest place, [-\d.]+ times that", captions(app)
    )


def test_a_class_is_chosen_by_name_and_has_no_layer(open_page: Open) -> None:
    app = open_page(
        PAGE, objective="class score", classes="1 goldfish", visualization_steps="8", visualization_size="64"
    )
    run_until(app, "1 pictures · 8 steps · from noise, seed 0")
    assert "That is the score of the class, before the softmax." in captions(app)
    assert "Goldfish" in [heading.value for heading in app.subheader]
    assert "layer" not in [box.key for box in app.selectbox]
    assert not any("Atlas" in part.label for part in app.expander)


def test_a_network_without_classifier_says_why_it_has_no_class_scores(
    open_page: Open, small_model: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "model", lambda *_args, **_settings: small_model("headless"))
    app = open_page(PAGE, objective="class score")
    assert "no classifier, so there are no class scores to excite" in app.error[0].value
    app.selectbox(key="objective").set_value("channel").run()
    assert not app.error
