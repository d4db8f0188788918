"""The server's side of the mask painter; tests/browser drives the other one."""

import base64
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from cnnviz_core.ui.components import mask_painter, packing, working_size

SHAPE = (30, 43)


def picture(width: int = 43, height: int = 30, level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (level, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def a_mask(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < 0.3


def told(mask: np.ndarray) -> str:
    """A mask as the browser sends it."""
    deflater = zlib.compressobj(wbits=-15)
    bits = np.packbits(mask, bitorder="little").tobytes()
    return base64.b64encode(deflater.compress(bits) + deflater.flush()).decode()


def unpack(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def sent(at: AppTest) -> tuple[dict, np.ndarray]:
    """Header and mask that the browser gets."""
    (proto,) = (it.proto for it in at.get("bidi_component") if it.proto.component_name == "cnnviz.mask_painter")
    header, rest = unpack(proto.bytes)
    bits = np.unpackbits(np.frombuffer(zlib.decompress(rest, wbits=-15), np.uint8), bitorder="little")
    rows, columns = header["shape"]
    return header, bits[: rows * columns].reshape(rows, columns).astype(bool)


def paint(at: AppTest, *report: object) -> AppTest:
    """Runs the app as after strokes in the browser, callbacks included."""
    states = at._tree.get_widget_states()
    (proto,) = (it.proto for it in at.get("bidi_component") if it.proto.component_name == "cnnviz.mask_painter")
    states.widgets.append(WidgetState(id=proto.id, json_value=json.dumps({"mask": list(report)})))
    return at._run(states)


def app() -> None:
    import streamlit as st

    from cnnviz_core.ui.components import mask_painter

    state = st.session_state
    state.setdefault("heard", [])

    def remember(mask: object) -> None:
        state.heard = [*state.heard, mask]
        if state.get("round"):
            state.given = mask

    state.returned = mask_painter.show(
        state.picture, key="painter", aria="Mark the cat", mask=state.get("given"), on_paint=remember
    )


@pytest.fixture
def at() -> AppTest:
    at = AppTest.from_function(app)
    at.session_state["picture"] = picture()
    return at.run()


def test_nothing_is_marked_at_first(at):
    header, mask = sent(at)
    assert at.session_state["returned"] is None
    assert (header["shape"], header["size"], header["answers"]) == ([30, 43], [43, 30], 0)
    assert mask.shape == SHAPE
    assert not mask.any()


def test_a_painted_mask_is_told_once_returned_from_then_on_and_sent_back(at):
    header, _ = sent(at)
    paint(at, told(a_mask()), header["picture"], 1000)
    assert (at.session_state["returned"] == a_mask()).all()
    assert len(at.session_state["heard"]) == 1
    assert (at.session_state["heard"][0] == a_mask()).all()
    at.run()
    assert (at.session_state["returned"] == a_mask()).all()
    assert at.session_state["returned"].dtype == np.bool_
    assert len(at.session_state["heard"]) == 1
    after, mask = sent(at)
    assert (mask == a_mask()).all()
    assert after["answers"] == 1000
    assert after["mask"] != header["mask"]
    paint(at, told(np.zeros(SHAPE, bool)), header["picture"], 2000)
    assert at.session_state["returned"] is None
    assert not at.session_state["heard"][-1].any(), "that nothing is marked any more has to be told, too"


def test_another_mask_from_the_page_replaces_what_was_painted_until_more_is_painted(at):
    at.session_state["given"] = a_mask(1)
    at.run()
    header, mask = sent(at)
    assert (mask == a_mask(1)).all()
    assert (at.session_state["returned"] == a_mask(1)).all()
    paint(at, told(a_mask(2)), header["picture"], 1000)
    assert (at.session_state["returned"] == a_mask(2)).all()
    at.session_state["given"] = a_mask(3)
    at.run()
    assert (at.session_state["returned"] == a_mask(3)).all()
    assert (sent(at)[1] == a_mask(3)).all()
    paint(at, told(a_mask(4)), header["picture"], 2000)
    assert (at.session_state["returned"] == a_mask(4)).all()


def test_a_page_may_pass_back_what_was_painted(at):
    at.session_state["round"] = True
    for stamp, seed in ((1000, 1), (2000, 2)):
        paint(at, told(a_mask(seed)), sent(at)[0]["picture"], stamp)
        assert (at.session_state["returned"] == a_mask(seed)).all()
        assert (sent(at)[1] == a_mask(seed)).all()
        assert (at.run().session_state["returned"] == a_mask(seed)).all()


def test_what_was_painted_on_another_picture_does_not_count(at):
    header, _ = sent(at)
    paint(at, told(a_mask()), header["picture"], 1000)
    at.session_state["picture"] = picture(level=9)
    at.run()
    assert at.session_state["returned"] is None
    paint(at, told(a_mask()), header["picture"], 2000)  # a late report from the first picture
    assert at.session_state["returned"] is None
    assert len(at.session_state["heard"]) == 1


def test_a_mask_of_another_size_is_brought_to_the_working_size(at):
    fine = np.kron(a_mask(), np.ones((4, 4), bool))
    at.session_state["given"] = fine
    at.run()
    assert (at.session_state["returned"] == a_mask()).all()


def bits_of(num: int) -> str:
    return told(np.zeros(8 * num, bool))


def stray() -> str:
    """One bit more than there are pixels: the last byte is used in part only."""
    flags = np.zeros(8 * 162, bool)
    flags[30 * 43] = True
    return told(flags)


GOOD = told(a_mask())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!!!!",
        "ü" * 8,
        GOOD[:-8],
        base64.b64encode(base64.b64decode(GOOD) + b"x").decode(),
        base64.b64encode(b"\x00" * 50).decode(),
        bits_of(161),
        bits_of(163),
        bits_of(100_000_000 // 8),
        stray(),
        "A" * 5_000_000,
    ],
    ids=[
        "empty",
        "no base64",
        "no ascii",
        "cut",
        "more behind",
        "no deflate",
        "short",
        "long",
        "bomb",
        "stray",
        "huge",
    ],
)
def test_masks_that_a_hostile_browser_sends_are_ignored(at, text):
    header, _ = sent(at)
    paint(at, text, header["picture"], 1000)
    assert not at.exception
    assert at.session_state["returned"] is None
    assert at.session_state["heard"] == []
    paint(at, GOOD, header["picture"], 2000)
    assert (at.session_state["returned"] == a_mask()).all()


@pytest.mark.parametrize("report", [[], [GOOD], [GOOD, 3, 4], [3, "x", 4], [GOOD, "x", True], [[GOOD], "x", 4], [None]])
def test_reports_of_another_form_are_ignored(at, report):
    paint(at, *report)
    assert not at.exception
    assert at.session_state["returned"] is None


def test_reports_are_small_even_for_noise():
    noise = np.random.default_rng(0).random((512, 512)) < 0.5
    text = told(noise)
    assert len(text) < 45_000
    assert (mask_painter._inflated(text, (512, 512)) == noise).all()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"mask": np.zeros(SHAPE, np.uint8)}, TypeError),
        ({"mask": [[True]]}, TypeError),
        ({"mask": np.zeros((0, 4), bool)}, ValueError),
        ({"mask": np.zeros((4, 4, 3), bool)}, ValueError),
        ({"max_px": 0}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(wrong, error):
    with pytest.raises(error):
        mask_painter.show(picture(), **{"key": "painter", "aria": "Mark", **wrong})


@pytest.mark.parametrize(
    ("size", "shape"),
    [((43, 30), (30, 43)), ((512, 512), (512, 512)), ((1024, 768), (384, 512)), ((768, 1024), (512, 384))],
)
def test_working_size(size, shape):
    assert working_size.of(*size) == shape


@pytest.mark.parametrize("size", [(1500, 1001), (4000, 30), (30, 4000), (741, 500), (513, 1), (5000, 37)])
def test_working_size_keeps_proportions(size):
    rows, columns = working_size.of(*size)
    assert max(rows, columns) <= 512
    assert min(rows, columns) >= 1
    exact = min(size) * 512 / max(size)
    if exact >= 1:
        assert columns / rows == pytest.approx(size[0] / size[1], rel=0.01)


def test_coverage_is_the_covered_area():
    mask = np.random.default_rng(0).random((30, 20)) < 0.5
    fine = np.kron(mask, np.ones((4, 7)))  # 120 x 140: cells of the new size are whole numbers of these
    expected = 255 * fine.reshape(8, 15, 20, 7).mean((1, 3))
    assert np.abs(working_size.coverage(mask, (8, 20)) - expected).max() <= 1
    assert (working_size.coverage(mask, (30, 20)) == 255 * mask).all()


@pytest.mark.parametrize("component", ["mask_painter", "threshold_view"])
def test_scripts_need_no_rights_that_a_strict_server_withholds(component):
    folder = Path(packing.__file__).parent
    script = "".join((folder / f"{part}.js").read_text() for part in ("packing", "mask_layer", component))
    for word in ("eval(", "Function(", "innerHTML", "insertAdjacentHTML", "document.write", "http", "fetch("):
        assert word not in script
