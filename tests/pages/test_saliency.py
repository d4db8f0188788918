"""The saliency page: classes and units, views, methods that do not fit, the cut-out and the trust checks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core.images import InputImage
from cnnviz_core.methods import saliency, segmentation, trust
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Attribution, ContextEdit, Mask, Predictions, Step
from cnnviz_core.ui import trust_view
from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "explain/saliency"
QUICK = ["Gradient", "Deconvnet", "Guided backprop", "Input × gradient", "Guided Grad-CAM"]


def side_by_side(app: AppTest) -> list[str]:
    return list(app.selectbox(key="map").options)


def words(app: AppTest) -> str:
    return " ".join(m.value for m in app.markdown)


def test_the_three_rules_stand_side_by_side_at_once(open_page: Open) -> None:
    app = open_page(PAGE)
    assert side_by_side(app) == QUICK
    assert "Gradient of class Egyptian cat" in captions(app)
    assert "draw edges whatever the network has learned" in captions(app)


def test_a_unit_is_explained_and_its_place_follows_the_numbers(open_page: Open) -> None:
    app = open_page(PAGE, explain="a unit", layer="blocks.3", channel="7", row="2", column="5")
    assert "Guided Grad-CAM" not in side_by_side(app)
    assert "Gradient of unit (7, 2, 5) of blocks\\.3" in captions(app).replace("blocks.3", "blocks\\.3")
    app.number_input(key="row").set_value(4).run()
    assert "unit (7, 4, 5)" in captions(app)


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [("8", "1", "is 5.998. At first"), ("0", "4", "at the upper limit"), ("11", "11", "silent")],
)
def test_a_unit_that_small_changes_do_not_move_is_said_where_it_is_chosen(
    row: str, column: str, words: str, open_page: Open
) -> None:
    app = open_page(PAGE, explain="a unit", layer="blocks.3.0.bn1", channel="69", row=row, column=column)
    assert words in captions(app)


@pytest.mark.parametrize("view", ["strength", "sign", "colours"])
def test_each_view_has_its_picture(open_page: Open, view: str) -> None:
    app = open_page(PAGE, attribution_view=view)
    assert not app.exception
    assert side_by_side(app) == QUICK


def test_how_many_values_the_colours_clip_is_told_and_can_be_set(open_page: Open) -> None:
    app = open_page(PAGE, attribution_view="colours")
    said = {1: "the strongest 1 % of", 5: "the strongest 5 % of", 0: "strongest value is"}
    pictures = set()
    for percent, words_for_it in said.items():
        app.select_slider(key="clip_maps").set_value(percent).run()
        assert words_for_it in captions(app)
        pictures.add(app.get("image")[-1].proto.imgs[0].url)  # named by what is in it
    assert len(pictures) == 3


def test_brightness_of_all_maps_alike_holds_for_colours_too(open_page: Open) -> None:
    """The methods' values differ by orders of magnitude: alike, the weak ones fade to mid grey."""

    def picture(app: AppTest, method: str) -> tuple[str, str]:
        app.selectbox(key="map").set_value(method).run()
        return app.get("image")[-1].proto.imgs[0].url, captions(app)  # named by what is in it

    app = open_page(PAGE, attribution_view="colours")
    apart = {method: picture(app, method) for method in QUICK}
    app.selectbox(key="brightness_of_maps").set_value("all maps alike").run()
    alike = {method: picture(app, method) for method in QUICK}
    assert all("of each map’s values" in said for _, said in apart.values())
    assert all("of each unit’s values" in said for _, said in alike.values())
    changed = [method for method in QUICK if alike[method][0] != apart[method][0]]
    assert len(changed) >= len(QUICK) - 2
    assert "Input × gradient" not in changed  # the only one here in units of the score


def test_what_has_no_effect_in_colours_is_greyed_out_and_comes_back_as_it_was(open_page: Open) -> None:
    app = open_page(PAGE, smooth="true")
    for view, is_greyed in (("strength", False), ("colours", True), ("sign", False)):
        app.session_state["attribution_view"] = view
        app.run()
        settings = app.toggle(key="smooth"), app.selectbox(key="colours")
        assert [setting.disabled for setting in settings] == [is_greyed] * 2
        assert settings[0].value
        assert not app.select_slider(key="clip_maps").disabled
        assert not app.selectbox(key="brightness_of_maps").disabled


def test_a_network_without_relus_says_what_is_not_defined_and_what_to_use(open_page: Open) -> None:
    app = open_page(PAGE, model="timm/convnext_atto", weights="untrained")
    assert side_by_side(app) == ["Gradient", "Input × gradient"]
    assert "Deconvnet, Guided backprop, Guided Grad-CAM" in captions(app)
    assert "Use the plain gradient, SmoothGrad or integrated gradients" in captions(app)
    assert "draw edges" not in captions(app), "none of those is shown"


def test_a_slow_method_runs_on_demand_and_tells_its_completeness(open_page: Open) -> None:
    app = open_page(PAGE)
    app.multiselect(key="saliency_methods").set_value(["gradient", "integrated_gradients"]).run()
    assert side_by_side(app) == ["Gradient"]
    app.button(key="integrated_gradients_run").click().run()
    run_until(app, lambda: side_by_side(app) == ["Gradient", "Integrated gradients"])
    app.selectbox(key="map").set_value("Integrated gradients").run()
    assert "completeness error" in captions(app)


def test_what_a_slow_method_costs_follows_its_settings(open_page: Open) -> None:
    app = open_page(PAGE, saliency_methods="SmoothGrad")
    assert "26 here" in captions(app)
    app.slider(key="num_samples").set_value(50).run()
    assert "51 here" in captions(app)


def test_agreement_does_not_depend_on_the_view(open_page: Open) -> None:
    matrices = [
        open_page(PAGE, attribution_view=view).get("plotly_chart")[-1].proto.spec for view in ("strength", "sign")
    ]
    assert matrices[0] == matrices[1]


def test_grabcut_shows_a_mask_on_demand(open_page: Open) -> None:
    app = open_page("explain/cam", cut="true")
    assert "of the whole photo. The rest is dimmed" in captions(app)
    before = captions(app)
    app.slider(key="surely_object").set_value(30).run()
    assert captions(app) != before


def test_agreement_is_there_without_a_click(open_page: Open) -> None:
    app = open_page("explain/cam")
    assert "Spearman’s rank correlation" in captions(app)


def test_deletion_and_insertion_give_a_verdict(open_page: Open, check_charts: Callable[[AppTest], set[str]]) -> None:
    app = open_page("explain/cam", map="Grad-CAM", check="deletion and insertion")
    app.button(key="deletion_run").click().run()
    run_until(app, lambda: any(button.key == "inserted_curve_report" for button in app.button))  # not there before
    assert "Insertion: area" in captions(app)
    assert "by chance" in captions(app)
    assert check_charts(app) == {"deleted_curve", "inserted_curve"}


def test_random_weights_give_a_verdict(open_page: Open, check_charts: Callable[[AppTest], set[str]]) -> None:
    app = open_page("explain/cam", map="Grad-CAM", check="random weights")
    app.button(key="randomization_run").click().run()
    run_until(app, lambda: "A map that explains the network has to change" in captions(app))
    run_until(app, lambda: "Rank correlation with the first map" in words(app))
    assert check_charts(app) == {"randomization"}


@pytest.mark.parametrize(
    ("num_loud", "verdict"), [(5, "3 of 8 steps that left the map"), (0, "The check cannot tell for this unit")]
)
def test_random_weights_that_silence_the_unit_are_no_evidence(
    num_loud: int,
    verdict: str,
    open_page: Open,
    monkeypatch: pytest.MonkeyPatch,
    check_charts: Callable[[AppTest], set[str]],
) -> None:
    steps = itertools.count()
    explain = saliency.explain

    def silenced(model: LoadedModel, image: InputImage, **settings: object) -> Attribution:
        found = explain(model, image, **settings)
        if "shuffled" not in model.spec.weights or next(steps) < num_loud:
            return found
        return replace(found, values=np.zeros_like(found.values))

    monkeypatch.setattr(saliency, "explain", silenced)
    app = open_page(PAGE, explain="a unit", layer="blocks.3", map="Gradient", check="random weights")
    app.button(key="randomization_run").click().run()
    run_until(app, lambda: verdict in words(app))
    assert "Flat: a map is the same everywhere there" in captions(app)
    assert check_charts(app) == ({"randomization"} if num_loud else set())
    assert num_loud or "follows the weights, as" not in words(app)


def test_cheating_asks_for_a_rectangle_and_takes_it(open_page: Open, rectangle_key: str) -> None:
    app = open_page("explain/cam", map="Grad-CAM", check="is it cheating?", object="my rectangle")
    assert "Draw a rectangle around the object" in " ".join(i.value for i in app.info)
    app.session_state[rectangle_key] = (0.1, 0.1, 0.9, 0.9)
    app.run()
    app.button(key="context_run").click().run()
    run_until(app, lambda: "outside the object, which leaves 3" in captions(app))


def test_cheating_has_labels_that_fit_and_hints_that_say_all() -> None:
    """A tile is 150 px wide; a letter of its label 6 px on the average."""
    best = Predictions((3,), ("cat",), (1.0,), (9.0,))
    edits = [
        ContextEdit(part, fill, np.zeros((2, 2, 3), np.uint8), best, 1.0, 9.0, np.zeros((2, 2)))
        for part in ("background", "object")
        for fill in trust.FILLS
    ]
    labels = [trust_view._edit_label(edit) for edit in edits]
    assert len(set(labels)) == len(edits)
    assert max(map(len, labels)) <= 25
    for edit in edits:
        hint = trust_view._edit_hint(edit)
        assert hint.startswith(f"The {edit.replaced} replaced by: {trust.FILLS[edit.fill].title.lower()}.")
        assert hint.endswith("cat 100 %")


def test_cheating_is_seen_filling_in_and_what_is_there_stays_after_a_cancel(
    open_page: Open, rectangle_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = trust.context_test

    def stops_at_the_third_step(*args: object, on_step: Callable[[Step], None], **settings: object) -> object:
        def tell(step: Step) -> None:
            on_step(step)
            while step.done == 3:
                time.sleep(0.01)
                on_step(step)

        return test(*args, on_step=tell, **settings)

    monkeypatch.setattr(trust, "context_test", stops_at_the_third_step)
    app = open_page("explain/cam", map="Grad-CAM", check="is it cheating?", object="my rectangle")
    app.session_state[rectangle_key] = (0.1, 0.1, 0.9, 0.85)
    app.run()
    app.button(key="context_run").click().run()
    run_until(app, lambda: "3 of 7" in " ".join(bar.proto.text for bar in app.get("progress")))
    assert "outside the object, which leaves" in captions(app)
    assert "Probability of" not in words(app)  # no verdict while it may change
    app.button(key="context_cancel").click().run()
    run_until(app, lambda: "Cancelled after 3 of 7 steps" in " ".join(w.value for w in app.warning))
    assert "outside the object, which leaves" in captions(app)
    assert "with the object alone" in words(app)


def test_cheating_takes_the_object_as_it_was_cut_out(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAM is shown cut at zero here, which its method does not do."""
    masks, by_default = [], []
    cut = segmentation.grabcut

    def noting(*args: object, **settings: object) -> Mask:
        by_default.append(cut(*args, crop_box=settings["crop_box"]))
        masks.append(cut(*args, **settings))
        return masks[-1]

    monkeypatch.setattr(segmentation, "grabcut", noting)
    app = open_page("explain/cam", map="CAM", check="is it cheating?", object="GrabCut from the map")
    app.toggle(key="cut").set_value(True).run()
    app.slider(key="surely_object").set_value(20).run()
    on_page = masks[-1]
    assert (on_page.values != by_default[-1].values).any(), "else this test shows nothing"
    num = len(masks)
    app.button(key="context_run").click().run()
    run_until(app, lambda: "of the map’s positive values lie outside the object" in captions(app))
    assert len(masks) == num + 1
    np.testing.assert_array_equal(masks[-1].values, on_page.values)


def test_checks_that_need_a_class_say_so_for_a_unit(open_page: Open) -> None:
    app = open_page(PAGE, explain="a unit", check="deletion and insertion")
    assert "the map explains a unit" in " ".join(i.value for i in app.info)
