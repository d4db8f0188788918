"""The server's side of the browser-side components; tests/browser drives the other one."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest

from cnnviz_core.ui.components import heat_view, packing, tiles


def picture(width: int, height: int, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(buffer, file_format)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def mounted(at: AppTest) -> dict[str, list]:
    """The protos of all mounted components, by component name."""
    found: dict[str, list] = {}
    for element in at.get("bidi_component"):
        found.setdefault(element.proto.component_name, []).append(element.proto)
    return found


def click(at: AppTest, component: str, numbers: object) -> AppTest:
    """Runs the app as after a click in the browser, callbacks included."""
    states = at._tree.get_widget_states()
    proto = mounted(at)[component][0]
    states.widgets.append(WidgetState(id=proto.id, json_value=json.dumps({"click": numbers})))
    return at._run(states)


def wall_app() -> None:
    import io

    import streamlit as st
    from PIL import Image

    from cnnviz_core.ui.components import tiles

    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    st.session_state.setdefault("chosen", 2)
    st.session_state.setdefault("heard", [])
    st.button("again", key="again")

    def remember(index: int) -> None:
        st.session_state.chosen = index
        st.session_state.heard = [*st.session_state.heard, index]

    st.session_state.returned = tiles.show(
        buffer.getvalue(),
        num=10,
        tile_size=(10, 10),
        atlas_columns=4,
        key="wall",
        selected=st.session_state.chosen,
        aria="Tiles",
        hints=[f"<i>{i}</i>" for i in range(10)],
        on_select=remember,
    )


def heat_app() -> None:
    import io

    import numpy as np
    import streamlit as st
    from PIL import Image

    from cnnviz_core.ui.components import heat_view

    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG")
    st.session_state.setdefault("cell", (0, 1))
    st.session_state.setdefault("scale", 1.0)
    st.session_state.returned = heat_view.show(
        buffer.getvalue(),
        np.arange(6, dtype=np.float32).reshape(2, 3) * np.float32(st.session_state.scale),
        key="heat",
        low=0.0,
        high=5.0,
        lut=np.zeros((256, 3), np.uint8),
        unit="activation",
        cell=st.session_state.cell,
        clickable=True,
        aria="Map",
        on_cell=lambda cell: st.session_state.update(cell=cell),
    )


# ---- packing


def test_pack_is_length_header_parts():
    data = packing.pack({"a": [1, 2.5, None], "b": "ü<b>"}, b"\x00\x01", b"xyz")
    assert unpack(data) == ({"a": [1, 2.5, None], "b": "ü<b>"}, b"\x00\x01xyz")


def test_pack_refuses_what_json_cannot_say():
    with pytest.raises(ValueError):
        packing.pack({"low": float("nan")})


@pytest.mark.parametrize(("file_format", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
def test_picture_info(file_format, media_type):
    assert packing.picture_info(picture(31, 17, file_format)) == (media_type, 31, 17)


def test_picture_info_refuses_other_things():
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        packing.picture_info(picture(4, 4, "GIF"))
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        packing.picture_info(b"")
    with pytest.raises(TypeError):
        packing.picture_info("photo.png")


# ---- tiles


def test_wall_sends_the_atlas_once_and_the_choice_apart():
    at = AppTest.from_function(wall_app).run()
    before = mounted(at)
    header, rest = unpack(before["cnnviz.tiles"][0].bytes)
    part_header, atlas = unpack(before["cnnviz.part"][0].bytes)
    assert rest == b""
    assert header["atlas"] == part_header["token"]
    assert Image.open(io.BytesIO(atlas)).size == (40, 30)
    assert (header["num"], header["tile"], header["columns"], header["selected"]) == (10, [10, 10], 4, 2)
    assert header["hints"][3] == "<i>3</i>"
    at.session_state["chosen"] = 5
    after = mounted(at.run())
    assert unpack(after["cnnviz.tiles"][0].bytes)[0] == {**header, "selected": 5}
    assert after["cnnviz.part"][0].SerializeToString() == before["cnnviz.part"][0].SerializeToString()
    assert after["cnnviz.tiles"][0].id == before["cnnviz.tiles"][0].id


def test_click_calls_back_once_and_is_returned():
    at = AppTest.from_function(wall_app).run()
    assert at.session_state["returned"] == 2
    click(at, "cnnviz.tiles", [7, 1000])
    assert (at.session_state["returned"], at.session_state["chosen"], at.session_state["heard"]) == (7, 7, [7])
    assert unpack(mounted(at)["cnnviz.tiles"][0].bytes)[0]["answers"] == 1000
    at.button(key="again").click().run()
    assert (at.session_state["returned"], at.session_state["heard"]) == (7, [7])
    at.session_state["chosen"] = 1
    at.run()
    assert at.session_state["returned"] == 1, "an old click must not win over the page's own choice"
    click(at, "cnnviz.tiles", [7, 2000])
    assert (at.session_state["returned"], at.session_state["heard"]) == (7, [7, 7])


def test_click_set_through_session_state_is_returned():
    at = AppTest.from_function(wall_app).run()
    at.session_state["wall"] = {"click": [4, 1]}
    at.run()
    assert at.session_state["returned"] == 4
    at.run()
    assert at.session_state["returned"] == 2


@pytest.mark.parametrize(
    "numbers", [[10, 1], [-1, 1], [1.5, 1], ["1", 1], [True, 1], [3], [], [1, 2, 3], None, "x", {"0": 1}, [[1], 1]]
)
def test_what_a_hostile_browser_sends_is_ignored(numbers):
    at = AppTest.from_function(wall_app).run()
    click(at, "cnnviz.tiles", numbers)
    assert not at.exception
    assert (at.session_state["returned"], at.session_state["heard"]) == (2, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"num": 0},
        {"num": 13},
        {"tile_size": (0, 10)},
        {"tile_size": (10, 11)},
        {"atlas_columns": 5},
        {"selected": 12},
        {"selected": -1},
        {"labels": ["one"]},
        {"hints": ["one"]},
        {"tile_px": 0},
        {"max_height": 0},
    ],
)
def test_wall_refuses_wrong_arguments(wrong):
    right = {"num": 12, "tile_size": (10, 10), "atlas_columns": 4, "key": "wall", "selected": None, "aria": "Tiles"}
    with pytest.raises(ValueError):
        tiles.show(picture(40, 30), **{**right, **wrong})


# ---- heat view


def test_heat_view_sends_raw_values_the_picture_and_the_colours():
    at = AppTest.from_function(heat_app).run()
    found = mounted(at)
    header, lut = unpack(found["cnnviz.heat_view"][0].bytes)
    parts = {part["token"]: rest for part, rest in (unpack(proto.bytes) for proto in found["cnnviz.part"])}
    assert len(lut) == 768
    assert (header["shape"], header["size"], header["cell"]) == ([2, 3], [40, 30], [0, 1])
    assert np.frombuffer(parts[header["values"]], "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert Image.open(io.BytesIO(parts[header["picture"]])).format == "JPEG"
    at.session_state["scale"] = 2.0
    after = mounted(at.run())
    sent = {proto.id: proto.SerializeToString() for proto in found["cnnviz.part"]}
    same = [sent[proto.id] == proto.SerializeToString() for proto in after["cnnviz.part"]]
    assert same == [True, False], "new values must not send the picture again"


def test_click_on_a_cell():
    at = AppTest.from_function(heat_app).run()
    assert at.session_state["returned"] == (0, 1)
    click(at, "cnnviz.heat_view", [1, 2, 50])
    assert at.session_state["returned"] == at.session_state["cell"] == (1, 2)
    click(at, "cnnviz.heat_view", [2, 0, 60])  # no such row
    assert at.session_state["returned"] == (1, 2)


FLOATS = np.zeros((2, 3), np.float32)
LUT = np.zeros((256, 3), np.uint8)


def drawing():
    import io

    import numpy as np
    import streamlit as st
    from PIL import Image

    from cnnviz_core.ui.components import heat_view

    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG")
    box = st.session_state.setdefault("box", None)
    heat_view.show(
        buffer.getvalue(),
        np.zeros((2, 3), np.float32),
        key="heat",
        lut=np.zeros((256, 3), np.uint8),
        drawable=True,
        boxes={} if box is None else {"yours": box},
        aria="Map",
        on_box=lambda box: st.session_state.update(box=box),
        **st.session_state.get("more", {}),
    )


def test_a_drawn_rectangle_is_told_in_shares_of_the_picture_and_comes_back_to_be_outlined():
    at = AppTest.from_function(drawing).run()
    click(at, "cnnviz.heat_view", [100, 0, 1000, 255, 70])
    assert at.session_state["box"] == (0.1, 0.0, 1.0, 0.255)
    header, _ = unpack(mounted(at)["cnnviz.heat_view"][0].bytes)
    assert header["boxes"] == [["yours", [100, 0, 1000, 255]]]
    assert header["answers"] == 70
    for nonsense in ([0, 0, 1001, 10, 80], [-1, 0, 10, 10, 90], [0, 0, 10, 100]):
        click(at, "cnnviz.heat_view", nonsense)
        assert at.session_state["box"] == (0.1, 0.0, 1.0, 0.255)


@pytest.mark.parametrize("window", [None, (0.25, -0.125, 0.75, 1.5)])
def test_what_the_map_covers_is_the_whole_picture_unless_said(window):
    at = AppTest.from_function(drawing)
    at.session_state["more"] = {} if window is None else {"window": window}
    header, _ = unpack(mounted(at.run())["cnnviz.heat_view"][0].bytes)
    assert not at.exception
    assert header["window"] == list(window or (0, 0, 1, 1))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"values": FLOATS.astype(np.float64)}, TypeError),
        ({"values": [[0.0]]}, TypeError),
        ({"values": FLOATS[None]}, ValueError),
        ({"values": FLOATS[:0]}, ValueError),
        ({"lut": None}, TypeError),
        ({"lut": LUT.astype(np.float32)}, TypeError),
        ({"lut": LUT[:255]}, ValueError),
        ({"low": 2.0}, ValueError),
        ({"high": float("inf")}, ValueError),
        ({"opacity": 60}, ValueError),
        ({"max_px": 0}, ValueError),
        ({"cell": (2, 0)}, ValueError),
        ({"values": None, "clickable": True}, ValueError),
        ({"drawable": True, "clickable": True}, ValueError),
        ({"drawable": True, "follow": True}, ValueError),
        ({"window": (0, 0, 1)}, ValueError),
        ({"window": (0, 0, float("nan"), 1)}, ValueError),
        ({"window": (0, 0, float("inf"), 1)}, ValueError),
        ({"window": (0.5, 0, 0.5, 1)}, ValueError),
        ({"window": (0, 0.8, 1, 0.2)}, ValueError),
        ({"window": (1, 0, 2, 1)}, ValueError),
        ({"window": (0, -0.5, 1, 0)}, ValueError),
    ],
)
def test_heat_view_refuses_wrong_arguments(wrong, error):
    right = {"values": FLOATS, "lut": LUT, "low": 0.0, "high": 1.0, "key": "heat", "aria": "Map"}
    with pytest.raises(error):
        heat_view.show(picture(4, 4), **{**right, **wrong})


@pytest.mark.parametrize("component", ["tiles", "heat_view", "part"])
def test_scripts_need_no_rights_that_a_strict_server_withholds(component):
    """No eval, no markup from text, no address: what a content security policy and untrusted names demand."""
    folder = Path(packing.__file__).parent
    script = (folder / "packing.js").read_text() + (folder / f"{component}.js").read_text()
    for word in ("eval(", "Function(", "innerHTML", "insertAdjacentHTML", "document.write", "http", "fetch("):
        assert word not in script
