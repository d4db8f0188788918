"""The server's side of the similarity view; tests/browser/test_similarity_view.py drives the other one."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from cnnviz_core import render
from cnnviz_core.results import Packed
from cnnviz_core.ui.components import packing, similarity_view
from cnnviz_core.ui.components.similarity_view import Line, Origin, Pictured


def unpack(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def mounted(at: AppTest, component: str) -> list:
    protos = (element.proto for element in at.get("bidi_component"))
    return [proto for proto in protos if proto.component_name == component]


def header_of(at: AppTest) -> tuple[dict, bytes]:
    return unpack(mounted(at, "cnnviz.similarity_view")[0].bytes)


def tell(at: AppTest, numbers: object) -> AppTest:
    """Runs the app as after a message from the browser, callbacks included."""
    states = at._tree.get_widget_states()
    view = mounted(at, "cnnviz.similarity_view")[0]
    states.widgets.append(WidgetState(id=view.id, json_value=json.dumps({"pin": numbers})))
    return at._run(states)


def view_app() -> None:
    import numpy as np
    import streamlit as st

    from cnnviz_core import render
    from cnnviz_core.results import Packed
    from cnnviz_core.ui.components import similarity_view
    from cnnviz_core.ui.components.similarity_view import Line, Origin, Pictured

    state = st.session_state
    for name, value in (("pinned", Origin(1, ((0, 3),))), ("heard", []), ("exact", {})):
        state.setdefault(name, value)
    st.button("again", key="again")

    def pin(origin: Origin | None) -> None:
        state.pinned = origin
        state.heard = [*state.heard, origin]

    pictures = []
    for cells, kind in (((2, 3), np.int8), ((3, 4), np.int16)):
        num = cells[0] * cells[1]
        whole = np.arange(5 * num).astype(kind).reshape(num, 5) - 7
        packed = Packed(whole, np.linspace(0.01, 0.02, num, dtype=np.float32), cells, 0.004, 10)
        grey = np.full((8 * cells[0], 10 * cells[1], 3), 99, np.uint8)
        pictures.append(Pictured(render.png(grey), packed, f"<i>{num}</i>"))
    state.returned = similarity_view.show(
        pictures,
        key="view",
        aria="Similar places",
        lut=render.find_colour_map(signed=True).lut,
        pinned=state.pinned,
        exact=state.exact,
        lines=[Line((0, 1, 2), (1, 2, 3), 0.5)],
        on_pin=pin,
    )


def test_what_is_sent():
    at = AppTest.from_function(view_app).run()
    header, lut = header_of(at)
    parts = {part["token"]: rest for part, rest in (unpack(one.bytes) for one in mounted(at, "cnnviz.part"))}
    assert lut == render.find_colour_map(signed=True).lut.tobytes()
    small, large = header["pictures"]
    assert (small["cells"], small["bits"], small["size"], small["name"]) == ([2, 3], 8, [30, 16], "<i>6</i>")
    assert (large["cells"], large["bits"], large["size"], large["name"]) == ([3, 4], 16, [40, 24], "<i>12</i>")
    assert Image.open(io.BytesIO(parts[small["picture"]])).size == (30, 16)
    for about, num, kind in ((small, 6, "i1"), (large, 12, "<i2")):
        vectors = parts[about["vectors"]]
        assert np.frombuffer(vectors[: 4 * num], "<f4") == pytest.approx(np.linspace(0.01, 0.02, num))
        assert np.frombuffer(vectors[4 * num :], kind).tolist() == (np.arange(5 * num) - 7).tolist()
    assert header["pinned"] == {"picture": 1, "cells": [3]}
    assert header["lines"] == [[0, 1, 2, 1, 2, 3, 0.5]]
    assert (header["low"], header["high"], header["error"], header["exact"]) == (-1, 1, 0.004, {})


def test_a_new_pin_sends_neither_pictures_nor_vectors():
    at = AppTest.from_function(view_app).run()
    before = {proto.id: proto.SerializeToString() for proto in mounted(at, "cnnviz.part")}
    tell(at, [4, 100])
    assert {proto.id: proto.SerializeToString() for proto in mounted(at, "cnnviz.part")} == before
    at.session_state["exact"] = {1: np.arange(12, dtype=np.float32).reshape(3, 4)}
    at.run()
    after = {proto.id: (proto.SerializeToString(), unpack(proto.bytes)) for proto in mounted(at, "cnnviz.part")}
    assert {key: sent for key, (sent, _) in after.items() if key in before} == before
    ((token, exact),) = ((about["token"], rest) for key, (_, (about, rest)) in after.items() if key not in before)
    assert np.frombuffer(exact, "<f4").tolist() == list(range(12))
    assert header_of(at)[0]["exact"] == {"1": token}


def test_pins_are_told_once_as_rows_and_columns_of_their_picture():
    at = AppTest.from_function(view_app).run()
    assert at.session_state["returned"] == Origin(1, ((0, 3),))
    for told, origin in (
        ([5, 100], Origin(0, ((1, 2),))),
        ([6, 200], Origin(1, ((0, 0),))),
        ([17, 6 + 5, 6 + 4, 17, 300], Origin(1, ((1, 0), (1, 1), (2, 3)))),
        ([400], None),
    ):
        tell(at, told)
        assert at.session_state["returned"] == at.session_state["pinned"] == at.session_state["heard"][-1] == origin
        assert header_of(at)[0]["answers"] == told[-1]
    assert header_of(at)[0]["pinned"] is None
    at.button(key="again").click().run()
    assert len(at.session_state["heard"]) == 4
    at.session_state["pinned"] = Origin(0, ((1, 1), (0, 1)))
    at.run()
    assert at.session_state["returned"] == Origin(0, ((1, 1), (0, 1))), "an old pin must not win over the page's own"
    assert header_of(at)[0]["pinned"] == {"picture": 0, "cells": [4, 1]}


def test_a_state_set_as_a_test_of_a_page_would():
    at = AppTest.from_function(view_app).run()
    at.session_state["view"] = {"pin": [2, 1]}
    at.run()
    assert at.session_state["returned"] == Origin(0, ((0, 2),))


@pytest.mark.parametrize(
    "numbers",
    [[18, 1], [-1, 1], [1.5, 1], ["1", 1], [True, 1], [], "x", {"0": 1}, [[1], 1], None, [5, 6, 1], [0, 17, 1]],
)
def test_what_a_hostile_browser_sends_is_ignored(numbers):
    at = AppTest.from_function(view_app).run()
    tell(at, numbers)
    assert not at.exception
    assert at.session_state["returned"] == Origin(1, ((0, 3),))
    assert at.session_state["heard"] == []


PACKED = Packed(np.ones((6, 4), np.int8), np.ones(6, np.float32), (2, 3), 0.0, 1)
PICTURE = render.png(np.zeros((8, 12, 3), np.uint8))
LUT = render.find_colour_map().lut
PIN = Origin(0, ((1, 2),))
FLOATS = np.zeros((2, 3), np.float32)


def pair(**change: object) -> list[Pictured]:
    return [Pictured(PICTURE, PACKED, "a"), Pictured(PICTURE, replace(PACKED, **change), "b")]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"pictures": pair()[:1]}, ValueError),
        ({"pictures": [Pictured(b"GIF89a", PACKED, "a")] * 2}, ValueError),
        ({"pictures": [Pictured("photo.png", PACKED, "a")] * 2}, TypeError),
        ({"pictures": pair(values=np.ones((6, 5), np.int8))}, ValueError),
        ({"pictures": pair(values=np.ones((6, 4), np.uint8))}, TypeError),
        ({"pictures": pair(cells=(2, 2))}, ValueError),
        ({"pictures": pair(scales=np.ones(5, np.float32))}, ValueError),
        ({"lut": LUT.astype(np.float32)}, TypeError),
        ({"lut": LUT[:255]}, ValueError),
        ({"low": 2.0}, ValueError),
        ({"high": float("nan")}, ValueError),
        ({"opacity": 60}, ValueError),
        ({"max_px": 0}, ValueError),
        ({"join": "median"}, ValueError),
        ({"pinned": Origin(2, ((0, 0),))}, ValueError),
        ({"pinned": Origin(-1, ((0, 0),))}, ValueError),
        ({"pinned": Origin(0, ((0, 0), (0, 3)))}, ValueError),
        ({"pinned": Origin(0, ())}, ValueError),
        ({"lines": [Line((0, 0, 0), (1, 2, 0), 1.0)]}, ValueError),
        ({"lines": [Line((0, 0, 0), (0, 1, 0), 1.0)]}, ValueError),
        ({"lines": [Line((0, 0, 0), (1, 1, 0), float("nan"))]}, ValueError),
        ({"exact": {1: FLOATS}}, ValueError),
        ({"exact": {0: FLOATS}, "pinned": PIN}, ValueError),
        ({"exact": {2: FLOATS}, "pinned": PIN}, ValueError),
        ({"exact": {1: FLOATS.T}, "pinned": PIN}, ValueError),
        ({"exact": {1: FLOATS.astype(np.float64)}, "pinned": PIN}, TypeError),
    ],
)
def test_view_refuses_wrong_arguments(wrong, error):
    arguments = {"pictures": pair(), "key": "view", "aria": "Similar", "lut": LUT, **wrong}
    with pytest.raises(error):
        similarity_view.show(arguments.pop("pictures"), **arguments)


def test_scripts_need_no_rights_that_a_strict_server_withholds():
    """No eval, no markup from text, no address: what a content security policy and untrusted names demand."""
    scripts = sorted(Path(packing.__file__).parent.glob("similarity_view*.js"))
    assert len(scripts) == 4
    for script in scripts:
        for word in ("eval(", "Function(", "innerHTML", "insertAdjacentHTML", "document.write", "http", "fetch("):
            assert word not in script.read_text()
