"""The server's side of the threshold view; tests/browser drives the other one."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from cnnviz_core import maps
from cnnviz_core.ui.components import threshold_view

LUT = np.zeros((256, 3), np.uint8)
SCORES = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def picture(width: int = 40, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def mounted(at: AppTest) -> tuple[dict, bytes, dict[str, bytes]]:
    """Header, colours, and the parts by token."""
    protos = [it.proto for it in at.get("bidi_component")]
    (view,) = (proto for proto in protos if proto.component_name == "cnnviz.threshold_view")
    parts = (unpack(proto.bytes) for proto in protos if proto.component_name == "cnnviz.part")
    return *unpack(view.bytes), {header["token"]: rest for header, rest in parts}


def slide(at: AppTest, numbers: object) -> AppTest:
    """Runs the app as after the slider was released in the browser, callbacks included."""
    states = at._tree.get_widget_states()
    (proto,) = (it.proto for it in at.get("bidi_component") if it.proto.component_name == "cnnviz.threshold_view")
    states.widgets.append(WidgetState(id=proto.id, json_value=json.dumps({"threshold": numbers})))
    return at._run(states)


def app() -> None:
    import io

    import numpy as np
    import streamlit as st
    from PIL import Image

    from cnnviz_core.ui.components import threshold_view

    state = st.session_state
    state.setdefault("threshold", 0.25)
    state.setdefault("heard", [])
    state.setdefault("scores", np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))
    buffer = io.BytesIO()
    Image.new("RGB", state.get("size", (40, 30))).save(buffer, "PNG")

    def remember(threshold: float) -> None:
        state.threshold = threshold
        state.heard = [*state.heard, threshold]

    state.returned = threshold_view.show(
        buffer.getvalue(),
        state.scores,
        key="view",
        aria="Mask",
        threshold=state.threshold,
        low=-0.5,
        high=1.5,
        lut=np.zeros((256, 3), np.uint8),
        marks={"honest": 0.3, "<b>best</b>": 0.6},
        truth=state.get("truth"),
        on_threshold=remember,
    )


def test_scores_truth_and_marks_are_sent():
    at = AppTest.from_function(app)
    truth = np.random.default_rng(0).random((60, 80)) < 0.5
    at.session_state["truth"] = truth
    header, lut, parts = mounted(at.run())
    assert len(lut) == 768
    assert (header["threshold"], header["low"], header["high"], header["step"]) == (0.25, -0.5, 1.5, 0.01)
    assert header["marks"] == [["honest", 0.3], ["<b>best</b>", 0.6]]
    assert (header["cells"], header["shape"]) == ([2, 3], [30, 40])
    assert (np.frombuffer(parts[header["scores"]], "<f4").reshape(2, 3) == SCORES).all()
    shares = np.frombuffer(parts[header["truth"]], np.uint8).reshape(30, 40)
    assert np.abs(shares - 255 * truth.reshape(30, 2, 40, 2).mean((1, 3))).max() <= 1


def test_another_threshold_sends_nothing_but_the_header_again():
    at = AppTest.from_function(app).run()
    before = [it.proto.SerializeToString() for it in at.get("bidi_component")]
    at.session_state["threshold"] = 0.5
    at.run()
    after = [it.proto.SerializeToString() for it in at.get("bidi_component")]
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) == 1


def test_scores_finer_than_the_working_size_are_sampled_there():
    at = AppTest.from_function(app)
    at.session_state["size"] = (1200, 900)
    scores = np.random.default_rng(0).normal(size=(900, 1200)).astype(np.float32)
    at.session_state["scores"] = scores
    header, _, parts = mounted(at.run())
    assert header["cells"] == header["shape"] == [384, 512]
    sent = np.frombuffer(parts[header["scores"]], "<f4").reshape(384, 512)
    assert (sent == maps.resize(scores, (384, 512))).all()


def test_a_threshold_is_told_once_and_comes_back():
    at = AppTest.from_function(app).run()
    assert at.session_state["returned"] == 0.25
    slide(at, [0.7, 1000])
    assert at.session_state["heard"] == [0.7]
    assert at.session_state["returned"] == at.session_state["threshold"] == 0.7
    assert mounted(at)[0]["answers"] == 1000
    at.session_state["threshold"] = 0.1
    at.run()
    assert at.session_state["returned"] == 0.1, "an old choice must not win over the page's own"
    slide(at, [1.5, 2000])
    assert at.session_state["returned"] == 1.5
    slide(at, [1, 3000])
    assert at.session_state["returned"] == 1.0, "a whole number comes without its point"


@pytest.mark.parametrize(
    "numbers",
    [
        [1.51, 1],
        [-0.51, 1],
        [float("nan"), 1],
        [0.5, 1.0],
        [0.5],
        [],
        None,
        "x",
        [0.5, 2, 3],
        [True, 1],
        [0.5, True],
        ["0.5", 1],
    ],
)
def test_what_a_hostile_browser_sends_is_ignored(numbers):
    at = AppTest.from_function(app).run()
    slide(at, numbers)
    assert not at.exception
    assert (at.session_state["returned"], at.session_state["heard"]) == (0.25, [])


def test_a_threshold_beyond_the_slider_is_brought_to_its_end():
    at = AppTest.from_function(app)
    at.session_state["threshold"] = 9.0
    at.run()
    assert at.session_state["returned"] == mounted(at)[0]["threshold"] == 1.5


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"scores": SCORES.astype(np.float64)}, TypeError),
        ({"scores": SCORES[None]}, ValueError),
        ({"scores": SCORES[:0]}, ValueError),
        ({"scores": np.full((2, 2), np.nan, np.float32)}, ValueError),
        ({"lut": LUT[:255]}, ValueError),
        ({"lut": LUT.astype(int)}, TypeError),
        ({"low": 1.0}, ValueError),
        ({"high": np.inf}, ValueError),
        ({"threshold": np.nan}, ValueError),
        ({"marks": {"best": np.nan}}, ValueError),
        ({"step": 0.0}, ValueError),
        ({"max_px": 0}, ValueError),
        ({"truth": np.zeros((3, 3))}, TypeError),
        ({"truth": np.zeros((3, 3, 1), bool)}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(wrong, error):
    right = {"scores": SCORES, "key": "view", "aria": "Mask", "threshold": 0.5, "low": 0.0, "high": 1.0, "lut": LUT}
    with pytest.raises(error):
        threshold_view.show(picture(), **{**right, **wrong})
