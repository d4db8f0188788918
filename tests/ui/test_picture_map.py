"""The server's side of the picture map; tests/browser/test_picture_map.py drives the other one."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import color
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from cnnviz_core import render
from cnnviz_core.ui.components import packing, picture_map


def unpack(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def mounted(at: AppTest, component: str) -> list:
    protos = (element.proto for element in at.get("bidi_component"))
    return [proto for proto in protos if proto.component_name == component]


def header_of(at: AppTest) -> tuple[dict, bytes]:
    return unpack(mounted(at, "cnnviz.picture_map")[0].bytes)


def parts_of(at: AppTest) -> dict[str, bytes]:
    sent = (unpack(proto.bytes) for proto in mounted(at, "cnnviz.part"))
    return {part["token"]: rest for part, rest in sent}


def tell(at: AppTest, state: object) -> AppTest:
    """Runs the app as after a message from the browser, callbacks included."""
    states = at._tree.get_widget_states()
    states.widgets.append(WidgetState(id=mounted(at, "cnnviz.picture_map")[0].id, json_value=json.dumps(state)))
    return at._run(states)


def map_app() -> None:
    import numpy as np
    import streamlit as st

    from cnnviz_core import render
    from cnnviz_core.ui.components import picture_map

    state = st.session_state
    for name, value in (("picked", None), ("selected", (1,)), ("lit", ()), ("heard", [])):
        state.setdefault(name, value)
    st.button("again", key="again")

    def pick(index: int) -> None:
        state.picked = index
        state.heard = [*state.heard, index]

    def select(indices: tuple[int, ...]) -> None:
        state.selected = indices
        state.heard = [*state.heard, indices]

    pictures = np.arange(10 * 48, dtype=np.uint8).reshape(10, 4, 4, 3)
    state.returned = picture_map.show(
        np.stack([np.arange(10), np.arange(10) ** 2], 1),
        key="map",
        aria="Map",
        colouring=picture_map.by_label(["b", "a", "", "a", "b", "b", "10", "9", "9", "9"]),
        captions=[f"<b>{i}</b>\nlabel ü" for i in range(9)] + ["x" * 1000],
        thumbnails=render.thumbnail_atlas(pictures, px=16),
        mode="auto",
        extra=[picture_map.Extra(1, 2, "mine", render.png(pictures[0])), picture_map.Extra(3, 4, "<i>other</i>")],
        selected=state.selected,
        lit=state.lit,
        on_pick=pick,
        on_select=select,
    )


def test_what_is_sent():
    at = AppTest.from_function(map_app).run()
    header, flags = header_of(at)
    parts = parts_of(at)
    assert np.frombuffer(parts[header["points"]], "<f4").reshape(10, 2)[3].tolist() == [3, 9]
    captions = json.loads(parts[header["captions"]])
    assert captions[4] == "<b>4</b>\nlabel ü"
    assert len(captions) == 10
    assert len(captions[9]) < 500, "captions are bounded"
    about, colours = unpack(parts[header["colouring"]])
    assert (about["labels"], about["shapes"]) == (["9", "10", "a", "b", "no label"], [0] * 5)
    assert np.frombuffer(colours[15:], "<u2").tolist() == [3, 2, 4, 2, 3, 3, 1, 0, 0, 0]
    assert (header["columns"], header["thumb"], header["atlasType"]) == (4, 16, "image/jpeg")
    assert Image.open(io.BytesIO(parts[header["atlas"]])).size == (64, 48)
    assert [extra["name"] for extra in header["extra"]] == ["mine", "<i>other</i>"]
    assert header["extra"][0]["picture"] in parts
    assert header["extra"][1]["picture"] is None
    assert np.unpackbits(np.frombuffer(flags, np.uint8), bitorder="little")[:10].tolist() == [0, 1] + 8 * [0]


def test_a_new_selection_sends_nothing_but_the_header():
    at = AppTest.from_function(map_app).run()
    before = {proto.id: proto.SerializeToString() for proto in mounted(at, "cnnviz.part")}
    tell(at, {"lasso": [5, 2, 100]})
    assert {proto.id: proto.SerializeToString() for proto in mounted(at, "cnnviz.part")} == before
    _, flags = header_of(at)
    assert np.flatnonzero(np.unpackbits(np.frombuffer(flags, np.uint8), bitorder="little")).tolist() == [2, 5]


def test_picks_and_selections_are_told_once_and_apart():
    at = AppTest.from_function(map_app).run()
    assert at.session_state["returned"] == picture_map.Picked(None, (1,))
    tell(at, {"lasso": [5, 2, 5, 100]})
    assert at.session_state["returned"] == picture_map.Picked(None, (2, 5))
    assert at.session_state["heard"] == [(2, 5)]
    assert header_of(at)[0]["answers"] == [0, 100]
    tell(at, {"lasso": [5, 2, 5, 100], "click": [7, 200]})
    assert at.session_state["returned"] == picture_map.Picked(7, (2, 5))
    assert at.session_state["heard"] == [(2, 5), 7]
    at.button(key="again").click().run()
    assert at.session_state["returned"] == picture_map.Picked(None, (2, 5))
    assert at.session_state["heard"] == [(2, 5), 7]
    tell(at, {"lasso": [300], "click": [7, 200]})  # an empty selection clears
    assert at.session_state["returned"] == picture_map.Picked(None, ())
    at.session_state["selected"] = (4, 3)
    at.run()
    assert at.session_state["returned"].selected == (3, 4), "an old selection must not win over the page's own"


def test_a_state_set_as_a_test_of_a_page_would():
    at = AppTest.from_function(map_app).run()
    at.session_state["map"] = {"click": [4, 1], "lasso": [0, 9, 1]}
    at.run()
    assert at.session_state["returned"] == picture_map.Picked(4, (0, 9))


@pytest.mark.parametrize(
    "state",
    [
        {"lasso": [10, 1]},
        {"lasso": [-1, 3, 1]},
        {"lasso": [1.5, 1]},
        {"lasso": [True, 1]},
        {"lasso": ["1", 1]},
        {"lasso": []},
        {"lasso": "x"},
        {"lasso": {"0": 1}},
        {"lasso": [[1], 1]},
        {"click": [10, 1]},
        {"click": [1, 2, 3]},
        {"click": None},
        [1, 2],
    ],
)
def test_what_a_hostile_browser_sends_is_ignored(state):
    at = AppTest.from_function(map_app).run()
    tell(at, state)
    assert not at.exception
    assert at.session_state["returned"] == picture_map.Picked(None, (1,))
    assert at.session_state["heard"] == []


POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
ATLAS = render.thumbnail_atlas(np.zeros((4, 8, 8, 3), np.uint8), px=16)
SEAM = np.zeros((2, 1), np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": POINTS[:0]},
        {"points": POINTS[:, :1]},
        {"points": np.full((4, 2), np.nan)},
        {"points": np.zeros((picture_map.MOST_POINTS + 1, 2))},
        {"captions": ["one"]},
        {"colouring": picture_map.by_label(["a"])},
        {"mode": "thumbnails", "thumbnails": None},
        {"mode": "cubes"},
        {"thumbnails": b"GIF89a"},
        {"thumbnails": render.png(np.zeros((32, 31, 3), np.uint8))},
        {"thumbnails": render.png(np.zeros((16, 32, 3), np.uint8))},
        {"cell": 0.0},
        {"seams": (SEAM, SEAM.T)},
        {"seams": (SEAM, SEAM), "cell": 1.0},
        {"selected": [4]},
        {"selected": [-1]},
        {"lit": [4]},
        {"ticks": True},
        {"height": 50},
        {"extra": [picture_map.Extra(float("inf"), 0, "x")]},
    ],
)
def test_map_refuses_wrong_arguments(wrong):
    right = {"points": POINTS, "thumbnails": ATLAS, "key": "map", "aria": "Map"}
    arguments = {**right, **wrong}
    with pytest.raises(ValueError):
        picture_map.show(arguments.pop("points"), **arguments)


def test_map_takes_thumbnails_as_bytes_only():
    with pytest.raises(TypeError):
        picture_map.show(POINTS, key="map", aria="Map", thumbnails="atlas.jpg")  # type: ignore[arg-type]


# ---- colours


def test_labels_are_in_natural_order_and_each_has_its_own_colour_and_shape():
    labels = [f"c{i}" for i in range(30)]
    colouring = picture_map.by_label(labels[::-1])
    assert list(colouring.labels) == labels, "c9 comes before c10"
    assert [colouring.labels[row] for row in colouring.index] == labels[::-1]
    about, _ = unpack(picture_map._packed_colouring(colouring))
    looks = {(tuple(colour), shape) for colour, shape in zip(colouring.palette.tolist(), about["shapes"], strict=True)}
    assert len(looks) == 30


def test_order_of_labels_can_be_given():
    colouring = picture_map.by_label(["wrong", "", "right", "unsure"], order=("right", "never", "wrong"))
    assert colouring.labels == ("right", "wrong", "unsure", "no label")
    assert colouring.index.tolist() == [1, 3, 0, 2]
    assert colouring.palette[3].tolist() == [128, 128, 128]


def test_of_very_many_labels_the_rare_ones_share_a_grey_entry():
    many = [f"c{i}" for i in range(picture_map.MOST_LABELS + 50)]
    colouring = picture_map.by_label([*many, *many[100:], "", *many[100:]])
    assert len(colouring.labels) == picture_map.MOST_LABELS + 2
    assert colouring.labels[-2:] == ("other labels", "no label")
    assert set(many[100:]) < set(colouring.labels)
    shown = [colouring.labels[row] for row in colouring.index]
    assert shown.count("other labels") == 50
    assert shown.count("no label") == 1
    assert all(name in ("other labels", label) for name, label in zip(shown, [*many, *many[100:]], strict=False))
    about, _ = unpack(picture_map._packed_colouring(colouring))
    assert about["shapes"][-2:] == [0, 0]


# Machado, Oliveira and Fernandes 2009, severity 1: how people see who lack one kind of cones; linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("matrix", SIGHT.values(), ids=SIGHT.keys())
def test_colours_of_labels_stay_apart_for_colour_blind_eyes(matrix):
    palette = picture_map.by_label(["a", "b", "c", "d", "e", "f"]).palette / 255
    linear = np.where(palette <= 0.04045, palette / 12.92, ((palette + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(matrix), 0, 1)
    encoded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(encoded)
    assert min(color.deltaE_ciede2000(one, other) for one, other in itertools.combinations(lab, 2)) > 10


def test_numbers_take_the_colours_of_a_map_and_missing_ones_are_grey():
    colouring = picture_map.by_value(np.array([0.0, 1.0, 4.0, np.nan, 2.0]), title="Loss", unit="nat")
    assert (colouring.low, colouring.high) == (0, 4)
    assert colouring.index.tolist() == [0, 64, 254, 255, 127]
    about, rest = unpack(picture_map._packed_colouring(colouring))
    assert (about["values"], about["labels"], about["unit"]) == (True, [], "nat")
    assert rest[:768] == render.COLOUR_MAPS["viridis"].lut.tobytes()
    assert np.frombuffer(rest[768:788], "<f4")[[0, 1, 2, 4]].tolist() == [0, 1, 4, 2]
    assert np.frombuffer(rest[788:], "<u2").tolist() == colouring.index.tolist()


def test_numbers_that_are_all_alike_or_all_missing():
    assert picture_map.by_value(np.full(3, 2.0), title="x").index.tolist() == [0, 0, 0]
    missing = picture_map.by_value(np.full(3, np.nan), title="x")
    assert missing.index.tolist() == [255] * 3
    packing.pack({"low": missing.low, "high": missing.high})  # finite, so JSON can say it


def test_seams_are_levels_and_missing_ones_have_none():
    right = np.array([[0.0, 0.5], [1.0, np.nan]], np.float32)
    down = np.array([[0.25, 2.0, -1.0]], np.float32)
    about, rest = unpack(picture_map._packed_seams((right, down)))
    assert about["shape"] == [2, 3]
    assert list(rest[768:]) == [0, 127, 254, about["none"], 64, 254, 0]


def test_scripts_need_no_rights_that_a_strict_server_withholds():
    """No eval, no markup from text, no address: what a content security policy and untrusted names demand."""
    folder = Path(packing.__file__).parent
    for name in ("packing", *picture_map._SCRIPTS, "picture_map"):
        script = (folder / f"{name}.js").read_text()
        for word in ("eval(", "Function(", "innerHTML", "insertAdjacentHTML", "document.write", "http", "fetch("):
            assert word not in script, f"{word} in {name}.js"
