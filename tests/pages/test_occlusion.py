"""The occlusion page: preview, cost, the run, and the patch moved by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
from streamlit.testing.v1 import AppTest

from cnnviz_core import photos
from cnnviz_core.methods import cam, occlusion, saliency, trust
from cnnviz_core.models import LoadedModel
from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "explain/occlusion"


def chart(app: AppTest, key: str) -> str:
    """The figure of that key, as JSON."""
    return str(next(found.proto.spec for found in app.get("plotly_chart") if found.proto.id.endswith(f"-{key}")))


def test_a_coarse_map_is_there_before_the_first_click_and_the_cost_of_the_fine_one(open_page: Open) -> None:
    app = open_page(PAGE)
    assert "a coarse preview with a patch of 32 pixels" in captions(app)
    assert "729 places, as many forwards: about" in captions(app)
    assert "patch 32 px, step 32 px · 50 forwards" in captions(app)


def test_the_cost_follows_patch_and_step(open_page: Open) -> None:
    app = open_page(PAGE, patch="32", stride="32")
    assert "49 places" in captions(app)
    app.slider(key="stride").set_value(16).run()
    assert "169 places" in captions(app)


def test_the_run_gives_the_map_that_was_asked_for(open_page: Open) -> None:
    app = open_page(PAGE, patch="56", stride="56")
    app.button(key="occlusion_run").click().run()
    run_until(app, "patch 56 px, step 56 px")
    assert "step 56 px · 17 forwards" in captions(app)


def test_the_patch_can_be_moved_by_hand(open_page: Open) -> None:
    app = open_page(PAGE)
    before = chart(app, "hand_bars")
    app.session_state["hand"] = (3, 3)  # what a click in the browser does; tests/browser clicks
    app.run()
    moved = chart(app, "hand_bars")
    assert moved != before
    assert app.query_params["hand"] == "3~3"
    assert chart(open_page(PAGE, hand="3~3"), "hand_bars") == moved
    nonsense = open_page(PAGE, hand="here")
    assert chart(nonsense, "hand_bars") == before
    assert any("“here”, which is no place here" in w.value for w in nonsense.warning)
    assert "Without it: Egyptian cat, 38.1 %" in captions(app)


def test_it_is_compared_with_methods_that_work_in_other_ways(
    open_page: Open, check_charts: Callable[[AppTest], set[str]], lite0: LoadedModel
) -> None:
    app = open_page(PAGE)
    assert app.segmented_control(key="check").value == "agreement"
    assert "agreement" in check_charts(app)
    matrix = json.loads(chart(app, "agreement"))["data"][0]
    assert matrix["x"] == ["Occlusion", "Grad-CAM", "Gradient"]
    picture = photos.open_photo("chelsea")
    maps = {
        "occlusion": occlusion.explain(lite0, picture, patch_px=32, stride_px=32, target=285),
        "grad_cam": cam.explain(lite0, picture, method="grad_cam", target=285),
        "gradient": saliency.explain(lite0, picture, method="gradient", target=285),
    }
    shown = np.frombuffer(base64.b64decode(matrix["z"]["bdata"]), matrix["z"]["dtype"]).reshape(3, 3)
    np.testing.assert_allclose(shown, trust.agreement(maps).correlations, atol=1e-6)


def test_a_network_without_classes_is_told_what_to_do(open_page: Open) -> None:
    app = open_page(PAGE, model="timm/convnext_tiny.dinov3_lvd1689m", weights="untrained")
    assert "This page does not fit" in " ".join(i.value for i in app.info)
    assert "it has no classifier" in " ".join(i.value for i in app.info)
