"""The guided tour: every stop with words out of real results, the way onward, and the stop in the link."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest
from torch import nn

from cnnviz_core import models, settings
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import compute, tour_stops, work
from cnnviz_core.ui.tour_stops import STOPS
from tests.pages.reading import wait_until

Open = Callable[..., AppTest]
PAGE = "share/tour"


@pytest.fixture(autouse=True)
def short_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pictures of channels from two steps, small; nothing goes on after the test."""
    monkeypatch.setattr(tour_stops, "_SYNTHESIS", {**tour_stops._SYNTHESIS, "steps": 2, "size_px": 48})
    yield
    wait_until(lambda: not work.live())


def slide(app: AppTest) -> dict[str, Any]:
    """What the slide was told."""
    (proto,) = [e.proto for e in app.get("bidi_component") if e.proto.component_name.endswith("slide")]
    (length,) = struct.unpack_from("<I", proto.bytes)
    return {"id": proto.id, **json.loads(proto.bytes[4 : 4 + length])}


def go(app: AppTest, stop: int, stamp: int) -> dict[str, Any]:
    """As after a press of a button or key in the browser."""
    states = app._tree.get_widget_states()
    states.widgets.append(WidgetState(id=slide(app)["id"], json_value=json.dumps({"click": [stop, stamp]})))
    app._run(states)
    assert not app.exception, app.exception
    return slide(app)


def until_done(app: AppTest) -> dict[str, Any]:
    """The slide once its long work is done."""
    wait_until(lambda: not work.live())
    app.run()
    assert not app.exception, app.exception
    return slide(app)


def test_every_stop_says_what_the_network_really_did(open_page: Open, lite0: LoadedModel) -> None:
    app = open_page(PAGE)
    told = [slide(app)]
    for stop in range(1, len(STOPS)):
        told.append(go(app, stop, stamp=stop))
        if STOPS[stop].long:
            told[-1] = until_done(app)
    large = [one["large"] for one in told]
    assert large[0] == "Shown this photo, the network answers: “Egyptian cat”."
    assert told[0]["bars"][0][0] == "Egyptian cat"
    assert "only the bright 67 % of it, at 224 × 224 pixels" in told[0]["small"]
    assert [picture["label"] for picture in told[1]["pictures"]][2] == "Late: 7 × 7 places"
    assert len(told[2]["pictures"]) == 3
    assert "“Egyptian cat”" in large[3]
    assert "“tripod”" in large[4]
    assert "finds with 0.9" in told[5]["small"]
    assert told[6]["pictures"][0]["label"] == "Eileen Collins, astronaut: “bobsled”, 19 %"
    assert large[7] == "A change that nobody sees, and it answers: “goldfish”."
    assert "by more than 2." in told[7]["small"]
    assert not app.error
    assert not app.sidebar.children


def test_the_stop_is_in_the_link_and_stays_within_the_tour(open_page: Open) -> None:
    app = open_page(PAGE, stop="4")
    assert slide(app)["stop"] == 3
    assert slide(app)["titles"][3] == "The evidence"
    assert go(app, 4, stamp=1)["stop"] == 4
    assert app.query_params["stop"] == "5"
    assert go(app, len(STOPS), stamp=2)["stop"] == 4, "what a browser sends is not to be trusted"
    assert go(app, 0, stamp=3)["stop"] == 0
    assert app.query_params["stop"] == "1"


@pytest.mark.parametrize("stop", ["99", "0", "²"])
def test_a_link_to_no_stop_says_so(open_page: Open, stop: str) -> None:
    app = open_page(PAGE, stop=stop)
    assert any(f"stop “{stop}” of 8" in warning.value for warning in app.warning)
    assert slide(app)["stop"] == 0


def test_its_page_opens_with_the_same_settings_and_result(open_page: Open) -> None:
    app = open_page(PAGE, stop="5")
    assert "“tripod”" in until_done(app)["large"]
    app.button(key="tour_open").click().run().run()
    assert not app.exception
    assert app.title[0].value == "Occlusion"
    assert app.selectbox(key="image").value == "camera"
    assert (app.slider(key="patch").value, app.slider(key="stride").value) == (56, 28)
    assert "Run: Occlusion" not in [button.label for button in app.button]


def test_what_was_chosen_in_the_sidebar_outlasts_the_tour(open_page: Open) -> None:
    app = open_page()
    app.selectbox(key="image").select("coffee").run()
    app.switch_page(f"pages/{PAGE}.py").run()
    app.run()
    app.switch_page("pages/look/home.py").run()
    assert app.selectbox(key="image").value == "coffee"


def test_in_demo_mode_it_is_the_start_page(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNVIZ_DEMO", "true")
    settings.current.cache_clear()
    assert slide(open_page())["stop"] == 0


def test_a_network_that_cannot_show_a_stop_says_why(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU(), nn.Linear(5, 4))
    torch.manual_seed(0)
    model = models.from_module(net, input_px=8, mean=(0.5,) * 3, std=(0.5,) * 3, name="perceptron")
    monkeypatch.setattr(compute, "model", lambda *_: model)
    app = open_page(PAGE)
    assert slide(app)["large"].startswith("Shown this photo, the network answers")
    for stop in (1, 2, 3, 5):
        told = go(app, stop, stamp=stop)
        assert told["large"] == "This network cannot show this stop.", told
        assert "perceptron" in told["small"]
    assert go(app, 7, stamp=8)["pictures"][0]["label"]
