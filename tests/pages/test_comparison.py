"""The page of two networks: pair, depth, one picture, changed answers, the study, the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "compare/comparison"
FEW = "Photos of scikit-image and scikit-learn"


def test_the_first_screen_shows_a_known_change_then_changed_answers_and_the_report(
    open_page: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    app = open_page(PAGE, collection=FEW)
    assert "One was trained on from the other" in " ".join(i.value for i in app.info)
    run_until(app, "Least alike: channels")
    assert check_charts(app) == {"depth", "channel_correlations"}
    assert "pictures. CKA is unbiased" in captions(app)
    assert "13 of 19 layers are unchanged to the last bit" in captions(app)
    assert "CKA and correlations come from" in captions(app)
    app.segmented_control(key="part").set_value("Changed answers").run()
    assert "Those whose evidence moved farthest come first (logits)" in captions(app)
    assert "pictures are answered differently" in " ".join(m.value for m in app.markdown)
    assert check_charts(app) == {"changed_bars_Base", "changed_bars_Tuned"}
    app.segmented_control(key="part").set_value("Report").run()
    assert not app.exception
    words = " ".join(m.value for m in app.markdown)
    assert ":material/check_circle: Layers on real pictures" in words
    assert "not yet: run it under “What channels look for”" in words


def test_the_study_fills_in_and_its_charts_are_taken_away(
    open_page: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    few = {"study_layers": "blocks.6.0", "study_channels": "4", "study_steps": "16", "study_size": "64"}
    app = open_page(PAGE, part="What channels look for", **few)
    run_until(app, "quick pictures of 2 channels of each layer, of 16 steps at 64 pixels")  # before the first click
    assert "too few to judge a layer" in captions(app)
    assert not app.get("plotly_chart")
    assert "comparison_study" not in app.session_state  # a report takes nothing of it
    app.button(key="study_run").click().run()
    run_until(app, "Each point is a channel")
    charts = {"study_boxes", "study_failures", "study_grey_base", "study_grey_tuned", "study_gram", "study_measures"}
    assert check_charts(app) == charts


def test_an_untrained_partner_is_named_as_unrelated_and_itself_as_the_same(open_page: Open) -> None:
    app = open_page(PAGE, part="This picture", other="the same architecture, untrained")
    assert "Two unrelated trainings" in " ".join(w.value for w in app.warning)
    assert "Rank correlation of the two maps" in captions(app)
    app.selectbox(key="other").set_value("itself").run()
    assert "the same network twice" in " ".join(i.value for i in app.info)
    assert "Rank correlation of the two maps: 1.00" in captions(app)
    app.selectbox(key="both_layer").set_value("blocks.0.0").run()
    app.number_input(key="both_channel").set_value(3).run()
    assert "Channel 3 of blocks.0.0. Correlation of the two maps over the places: 1.00" in captions(app)


def test_nearest_pictures_of_a_network_and_itself_are_the_same(open_explore: Open) -> None:
    app = open_explore(PAGE, part="This picture", other="the very same network", both_nearest="true")
    assert "8 of 8 in both" in captions(app)


def test_the_study_is_one_button_with_its_cost(open_page: Open) -> None:
    link = {"study_layers": "blocks.0.0", "study_channels": "4", "study_steps": "16", "study_size": "64"}
    app = open_page(PAGE, part="What channels look for", **link)
    assert "4 pictures of 16 steps: about" in captions(app)  # unchanged up to there, both networks share them
    assert "are there already" not in captions(app)
    app.button(key="study_run").click().run()
    run_until(app, "of 4 channels have a picture that stayed grey")
    app.segmented_control(key="part").set_value("Report").run()
    assert ":material/check_circle: What channels look for" in " ".join(m.value for m in app.markdown)


def test_networks_of_other_architectures_are_not_on_offer(open_page: Open, data_dir: Path) -> None:
    app = open_page(
        PAGE, part="Report", model="timm/convnext_atto", weights="untrained", other="timm/tf_efficientnet_lite0"
    )
    assert all("efficientnet" not in str(option) for option in app.selectbox(key="other").options)
    assert not app.exception
