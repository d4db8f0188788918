"""The CAM page: what is compared, what is chosen, and what a link restores."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from cnnviz_core import photos, render
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Step
from cnnviz_core.ui import gallery, take_away, work
from cnnviz_core.ui.components import heat_view
from tests.pages.reading import captions, run_until, wait_until

Open = Callable[..., AppTest]
PAGE = "explain/cam"


def enlarged(app: AppTest) -> tuple[str, list[str]]:
    """The map that is enlarged, and all that stand side by side."""
    box = app.selectbox(key="map")
    return box.value, list(box.options)


def test_the_first_screen_compares_all_quick_methods(open_page: Open) -> None:
    app = open_page(PAGE)
    chosen, names = enlarged(app)
    assert chosen == "CAM"
    assert names == [
        "CAM", "Grad-CAM", "Grad-CAM++", "XGrad-CAM", "HiResCAM", "LayerCAM", "Eigen-CAM", "Finer-CAM",
    ]  # fmt: skip
    assert "CAM at bn2 for Egyptian cat" in captions(app)


@pytest.mark.parametrize(
    ("comparison", "names"),
    [
        ("layers", ["blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1", "bn2"]),
        ("classes", ["Egyptian cat", "tiger cat", "tabby", "lynx", "plastic bag"]),
        (
            "two classes",
            ["Egyptian cat", "tiger cat", "Egyptian cat, not tiger cat", "Finer-CAM: Egyptian cat, not its likes"],
        ),
        ("networks", ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]),
    ],
)
def test_each_comparison_has_its_maps(open_page: Open, comparison: str, names: list[str]) -> None:
    app = open_page(PAGE)
    app.segmented_control(key="compare").set_value(comparison).run()
    assert not app.exception
    assert enlarged(app) == (names[0], names)


def done(app: AppTest, button: str) -> None:
    """Presses Run, and waits for the maps."""
    app.button(key=button).click().run()
    wait_until(lambda: not work.live())
    app.run()
    assert not app.exception
    assert button not in [b.key for b in app.button]


@pytest.mark.parametrize(
    ("comparison", "link", "forwards", "names"),
    [
        ("layers", {"layers": ["blocks.0.0.bn2", "bn2"]}, 1296, ["blocks.0.0.bn2", "bn2"]),
        ("classes", {"cam_classes": ["281 tabby", "282 tiger cat"]}, 16, ["tabby", "tiger cat"]),
        (
            "two classes",
            {"class": "281 tabby", "not": "282 tiger cat"},
            16,
            ["tabby", "tiger cat", "tabby, not tiger cat", "Finer-CAM: tabby, not its likes"],
        ),
        ("networks", {}, 1296, ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]),
    ],
)
def test_a_slow_method_makes_the_maps_of_each_comparison_in_one_job_of_as_many_steps_as_it_said(
    open_page: Open,
    lite0: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    comparison: str,
    link: dict[str, list[str]],
    forwards: int,
    names: list[str],
) -> None:
    shown: list[gallery.MapPicture] = []
    steps: list[Step] = []
    grid, until_done = gallery.grid, work.until_done

    def noting(pictures: list[gallery.MapPicture], *args: object, **settings: object) -> object:
        shown[:] = pictures
        return grid(pictures, *args, **settings)

    def counting(make: Callable[..., Any], **settings: Any) -> Any:
        def do(on_step: Callable[[Step], None]) -> Any:
            def tell(step: Step) -> None:
                steps.append(step)
                on_step(step)

            return make(tell)

        return until_done(do, **settings)

    monkeypatch.setattr(gallery, "grid", noting)
    monkeypatch.setattr(work, "until_done", counting)
    app = open_page(PAGE, compare=comparison, method="Ablation-CAM", layer="blocks.0.0.bn2", **link)
    assert app.selectbox(key="method").value == "ablation_cam"
    assert f"once per channel, {forwards:,} here, at most about" in captions(app)
    assert not {picture.name for picture in shown} & set(names[:3])
    done(app, "ablation_cam_run")
    assert (steps[-1].done, {step.total for step in steps}) == (forwards, {forwards})
    assert [picture.name for picture in shown] == names
    for picture in shown:
        model, image = picture.chosen.model, picture.chosen.image
        function = cam.contrast if picture.run.method == "cam.contrast" else cam.explain
        again = function(model, image, **picture.run.settings)
        np.testing.assert_allclose(picture.values, again.values, rtol=1e-4, atol=1e-6)
    assert shown[0].chosen.model.spec == lite0.spec
    assert shown[0].values.min() >= 0


def test_a_comparison_that_breaks_off_keeps_the_layers_that_were_finished(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(model: LoadedModel, image: InputImage, *, layer: str, **settings: Any) -> Any:
        if layer == "blocks.1" and settings.get("on_step"):
            settings["on_step"](Step(1, 24, explain_many(model, image, layer=layer, **{**settings, "on_step": None})))
            raise BadSetting("Not this one.")
        return explain_many(model, image, layer=layer, **settings)

    explain_many = cam.explain_many
    monkeypatch.setattr(cam, "explain_many", broken_off)
    app = open_page(PAGE, compare="layers", method="Score-CAM", layers=["blocks.0", "blocks.1"])
    app.button(key="score_cam_run").click().run()
    run_until(app, lambda: any(box.key == "map" for box in app.selectbox))
    assert enlarged(app)[1] == ["blocks.0", "blocks.1"]
    assert any("Not this one. What is shown was computed until then" in box.value for box in (*app.error, *app.warning))


def test_a_link_restores_comparison_method_layer_and_map(open_page: Open) -> None:
    link = {"compare": "layers", "method": "HiResCAM", "layer": "blocks.4", "map": "blocks.4"}
    app = open_page(PAGE, **link)
    assert app.selectbox(key="method").value == "hires_cam"
    assert enlarged(app)[0] == "blocks.4"
    assert "HiResCAM at blocks.4 for Egyptian cat" in captions(app)


def test_the_class_of_the_sidebar_is_explained(open_page: Open) -> None:
    app = open_page(PAGE)
    app.selectbox(key="target").set_value(282).run()
    assert "for tiger cat" in captions(app)


def test_cam_is_left_out_at_other_layers_with_the_reason(open_page: Open) -> None:
    app = open_page(PAGE, layer="blocks.4")
    assert "CAM" not in enlarged(app)[1]
    assert "it is defined at bn2 only" in captions(app)


def test_a_network_without_classes_still_has_eigen_cam(open_page: Open) -> None:
    app = open_page(PAGE, model="timm/convnext_tiny.dinov3_lvd1689m", weights="untrained")
    assert enlarged(app)[1] == ["Eigen-CAM"]
    assert list(app.segmented_control(key="compare").options) == ["methods", "layers"]
    assert "it has no classifier" in captions(app)
    app.segmented_control(key="compare").set_value("layers").run()
    assert not app.exception
    assert len(enlarged(app)[1]) > 1


def test_a_slow_method_waits_for_its_button_and_says_its_cost(open_page: Open) -> None:
    app = open_page(PAGE)
    app.multiselect(key="methods").set_value(["grad_cam", "score_cam"]).run()
    assert enlarged(app)[1] == ["Grad-CAM"]
    assert app.button(key="score_cam_run").label == "Run: Score-CAM"
    assert "one forward per channel, 1,280 here" in captions(app)


def test_a_quick_slow_method_joins_the_others_when_it_is_done(open_page: Open) -> None:
    app = open_page(PAGE)
    app.multiselect(key="methods").set_value(["grad_cam", "ablation_cam"]).run()
    app.button(key="ablation_cam_run").click().run()
    run_until(app, lambda: "Ablation-CAM" in enlarged(app)[1])
    assert enlarged(app)[1] == ["Grad-CAM", "Ablation-CAM"]


def test_a_drawn_rectangle_tells_how_much_of_the_map_it_holds(open_page: Open, rectangle_key: str) -> None:
    app = open_page(PAGE)
    app.session_state[rectangle_key] = (0.0, 0.0, 1.0, 1.0)
    app.run()
    words = " ".join(m.value for m in app.markdown)
    assert "**100 %** of the map’s positive values lie in your rectangle, which covers 100 %" in words
    app.button(key="remove_rectangle").click().run()
    assert "your rectangle" not in " ".join(m.value for m in app.markdown)


def test_a_rectangle_is_in_the_link_of_its_picture(open_page: Open, rectangle_key: str) -> None:
    app = open_page(PAGE)
    app.session_state[rectangle_key] = (0.1, 0.25, 0.5, 1.0)
    app.run()
    assert app.query_params["rectangle"] == "0.100~0.250~0.500~1.000"
    app = open_page(PAGE, rectangle="0.100~0.250~0.500~1.000")
    assert app.session_state[rectangle_key] == (0.1, 0.25, 0.5, 1.0)
    app.selectbox(key="image").set_value("coffee").run()
    assert "your rectangle" not in " ".join(m.value for m in app.markdown)
    app = open_page(PAGE, rectangle="0.9~<b>")
    assert any("rectangle that is none" in w.value for w in app.warning)


def test_on_the_whole_photo_the_map_lies_where_the_crop_does_and_is_measured_likewise(
    open_page: Open, rectangle_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    figures: dict[str, Callable[[], Any]] = {}
    show_view = heat_view.show

    def noting(picture: bytes, *values: Any, **view: Any) -> Any:
        shown.update(view, size=Image.open(io.BytesIO(picture)).size)
        return show_view(picture, *values, **view)

    monkeypatch.setattr(heat_view, "show", noting)
    monkeypatch.setattr(take_away, "draw", lambda _, *, key, picture, **__: figures.update({key: picture}))
    app = open_page(PAGE, shown_on="the whole photo", rectangle="0.000~0.000~1.000~0.500")
    assert "only what is inside the white frame" in captions(app)
    assert shown["size"] == (451, 300)
    # The shorter side becomes 224 px, the longer one int(451 * 224 / 300) = 336, of which the middle 224 are cut.
    assert shown["window"] == pytest.approx((0, 56 / 336, 1, 280 / 336), abs=1e-6)
    assert shown["drawable"]
    assert shown["boxes"]["your rectangle"] == (0, 0, 1, 0.5)
    assert [name.split()[0] for name in shown["boxes"]] == ["your", "above"]
    words = " ".join(m.value for m in app.markdown)
    assert "of the map’s positive values lie in your rectangle" in words
    assert app.session_state[rectangle_key] == (0, 0, 1, 0.5)
    monkeypatch.setattr(render, "figure_png", lambda pixels, **_: pixels)
    pixels, photo = figures["closeup"](), photos.open_photo("chelsea").pixels
    assert pixels.shape == photo.shape
    np.testing.assert_allclose(pixels[:, :70], 0.4 * photo[:, :70], atol=0.51)  # beside the crop, dimmed by 60 %


def test_a_link_with_too_many_layers_shows_as_many_as_fit(open_page: Open, lite0: LoadedModel) -> None:
    names = [info.name for info in lite0.layers.spatial][:20]
    app = open_page(PAGE, compare="layers", layers=names)
    assert 1 <= len(enlarged(app)[1]) <= 12


def test_without_evidence_against_no_gradient_map_and_no_cam_is_below_zero(open_page: Open) -> None:
    app = open_page(PAGE, compare="two classes")
    assert "0 in the middle" in captions(app)  # the difference has two sides
    app.segmented_control(key="compare").set_value("classes").run()
    assert "All maps: from 0 on the left" in captions(app)


@pytest.mark.parametrize(
    ("link", "together", "words"),
    [
        (
            {"compare": "two classes", "method": "LayerCAM"},
            [[0, 1, 2], [3]],
            [
                r"“Egyptian cat”, “tiger cat” and “Egyptian cat, not tiger cat”: from \S+ on the left, 0 in the "
                r"middle, to \S+ on the right \(evidence by LayerCAM\)",
                r"“Finer-CAM.*, not its likes”: from 0 on the left to \S+ on the right \(evidence by Grad-CAM\)",
                "different units",
            ],
        ),
        ({"compare": "two classes", "method": "Grad-CAM"}, [[0, 1, 2, 3]], [r"All maps: .* \(evidence by Grad-CAM\)"]),
        ({"compare": "classes"}, [[0, 1, 2, 3, 4]], [r"All maps: .* \(evidence\)"]),
        ({"brightness_of_maps": "all maps alike"}, [[*range(8)]], [r"All maps: .* \(evidence\)"]),
        ({"compare": "two classes", "method": "Score-CAM"}, [[0]], [r"From 0 .* \(evidence by Grad-CAM\)"]),
    ],
)
def test_maps_of_one_unit_share_a_scale_that_says_whose_it_is(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, link: dict[str, str], together: list[list[int]], words: list[str]
) -> None:
    shown: list[gallery.MapPicture] = []
    scales: list[render.Scale] = []
    scales_of = gallery.Look.scales

    def noting(look: gallery.Look, maps: list[gallery.MapPicture]) -> list[render.Scale]:
        shown[:], scales[:] = maps, scales_of(look, maps)
        return scales

    monkeypatch.setattr(gallery.Look, "scales", noting)
    app = open_page(PAGE, **link)
    assert sum(map(len, together)) == len(shown)
    for places in together:
        values = np.stack([shown[at].values for at in places])
        low = -np.abs(values).max() if values.min() < 0 else 0
        for at in places:
            assert (*scales[at].low, *scales[at].high) == pytest.approx((low, np.abs(values).max()))
    for pattern in words:
        assert re.search(pattern, captions(app)), (pattern, captions(app))
    assert ("different units" in captions(app)) == (len(together) > 1)


def test_a_comparison_starts_with_its_own_first_map(open_page: Open) -> None:
    app = open_page(PAGE, map="Grad-CAM")
    app.segmented_control(key="compare").set_value("layers").run()
    assert enlarged(app)[0] == enlarged(app)[1][0]


def test_the_classes_follow_the_picture(open_page: Open) -> None:
    app = open_page(PAGE, compare="classes")
    assert enlarged(app)[1][0] == "Egyptian cat"
    app.selectbox(key="image").set_value("coffee").run()
    assert enlarged(app)[1][0] == "espresso"


def test_maps_of_the_same_name_are_told_apart() -> None:
    same = [gallery.MapPicture(name, None, None, "", None, "", "") for name in ("a", "b", "a", "a")]
    assert gallery.told_apart(same) == ["a", "b", "a (2)", "a (3)"]
