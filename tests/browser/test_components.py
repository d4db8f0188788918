"""The browser-side components in a real browser: clicks, keys, colours, pictures that are not sent twice."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import plotly.colors
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from cnnviz_core.numerals import true_minus

COMPONENT_APP = Path(__file__).parent / "component_app.py"
VALUES = {seed: np.random.default_rng(seed).normal(size=(7, 9)).astype(np.float32) for seed in range(3)}
for _map in VALUES.values():
    _map[6, 8] = _map[1, 3] = np.nan
LOW, HIGH = -1.0, 2.0
LUT = np.round(255 * np.array(plotly.colors.sample_colorscale("Viridis", 255, colortype="tuple"))).astype(np.uint8)


def component(page: Page, key: str) -> Locator:
    """A component's outermost element, once it shows its picture."""
    root = page.locator(f".st-key-{key}").locator("[data-ready]")
    root.wait_for()
    return root


def says(page: Page, text: str) -> None:
    expect(page.get_by_text(re.compile(f"^{re.escape(text)}"))).to_be_visible()


def pixels(canvas: Locator) -> np.ndarray:
    """(H, W, 4) content of a canvas, as it is, whatever CSS does with it."""
    address = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


def screenshot(target: Locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(target.screenshot())).convert("RGB")).astype(int)


def coloured(values: np.ndarray) -> np.ndarray:
    """The colour table as heat_view documents it, in numpy."""
    share = np.clip((values.astype(np.float64) - LOW) / (HIGH - LOW), 0, 1)
    return LUT[np.floor(254 * np.nan_to_num(share) + 0.5).astype(int)].astype(int)


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Matrix form of half-pixel bilinear interpolation: rows of weights on each side."""

    def weights(few: int, many: int) -> np.ndarray:
        centres = (np.arange(many) + 0.5) * few / many - 0.5
        return np.maximum(0, 1 - np.abs(np.clip(centres, 0, few - 1)[:, None] - np.arange(few)))

    down, across = weights(values.shape[0], height), weights(values.shape[1], width).T
    undefined = down @ np.isnan(values).astype(float) @ across > 0
    return np.where(undefined, np.nan, down @ np.nan_to_num(values).astype(np.float64) @ across)


def frames_of(page: Page) -> list[int]:
    """Sizes of the websocket frames that the browser gets from now on."""
    sizes: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: sizes.append(len(frame))))
    return sizes


# ---- tiles


@pytest.mark.parametrize("width", [800, 1100, 1400])
def test_tile_under_the_pointer_is_the_one_reported(parts, width):
    parts.page.set_viewport_size({"width": width, "height": 700})
    page = parts.open("/?scene=flat&lines=12")
    wall = component(page, "wall")
    canvas = wall.locator("canvas")
    canvas.scroll_into_view_if_needed()
    rng = np.random.default_rng(width)
    hits = 0
    for scroll in (0, 137, 10_000):
        wall.locator(".scroller").evaluate("(box, top) => { box.scrollTop = top; }", scroll)
        page.mouse.move(2, 2)
        page.wait_for_timeout(100)
        box = canvas.bounding_box()
        for x, y in rng.uniform((10, 25), (box["width"] - 10, box["height"] - 25), (4, 2)):
            red, _, blue = screenshot(canvas)[round(y), round(x)]
            if blue != 128:  # not on a tile
                continue
            hits += 1
            page.mouse.click(box["x"] + round(x), box["y"] + round(y))
            expect(wall).to_have_attribute("data-hover", str(red))  # tile i is red by i
            expect(wall).to_have_attribute("data-selected", str(red))
            says(page, f"returned {red}")
            page.mouse.move(2, 2)
    assert hits > 5


def test_selection_shows_before_the_server_answers_and_survives_runs(parts):
    page = parts.open("/?scene=wall")
    wall = component(page, "wall")
    expect(wall).to_have_attribute("data-selected", "3")
    canvas = wall.locator("canvas")
    at_once = canvas.evaluate(
        """canvas => {
          const box = canvas.getBoundingClientRect();
          const root = canvas.getRootNode().querySelector('.wall');
          canvas.dispatchEvent(new MouseEvent('click', {clientX: box.left + 30, clientY: box.top + 30, bubbles: true}));
          return root.dataset.selected;
        }"""
    )
    assert at_once == "0"
    says(page, "returned 0, session 0, calls 1")
    page.locator(".st-key-again").get_by_role("button").click()
    parts.idle()
    expect(wall).to_have_attribute("data-selected", "0")
    says(page, "returned 0, session 0, calls 1")
    page.locator(".st-key-seven").get_by_role("button").click()
    expect(wall).to_have_attribute("data-selected", "7")
    says(page, "returned 7, session 7, calls 1")
    canvas.click(position={"x": 30, "y": 30})  # the same tile as at first, now a new choice
    says(page, "returned 0, session 0, calls 2")


def test_server_wins_when_it_keeps_its_selection(parts):
    page = parts.open("/?scene=refusing")
    wall = component(page, "wall")
    wall.locator("canvas").click(position={"x": 30, "y": 30})
    says(page, "returned 0")
    expect(wall).to_have_attribute("data-selected", "3")


def test_runs_neither_resend_nor_redraw_nor_decode(page, parts):
    sizes = frames_of(page)
    parts.open("/?scene=wall")
    wall = component(page, "wall")
    canvas = wall.locator("canvas")
    canvas.hover(position={"x": 200, "y": 100})
    parts.idle()
    page.wait_for_timeout(500)
    first = sum(sizes)
    counts = [wall.get_attribute(name) for name in ("data-decodes", "data-paints")]
    assert counts[0] == "1"
    sizes.clear()
    page.locator(".st-key-again").get_by_role("button").click()
    page.wait_for_timeout(700)
    parts.idle()
    rerun = sum(sizes)
    sizes.clear()
    canvas.click(position={"x": 200, "y": 100})
    says(page, "returned 13")
    parts.idle()
    page.wait_for_timeout(300)
    assert [wall.get_attribute(name) for name in ("data-decodes", "data-paints")] == counts
    assert first > 150_000  # the atlas was in it
    assert rerun < 20_000
    assert 0 < sum(sizes) < 60_000  # the header and the script, no atlas


def test_a_new_atlas_is_decoded_once_and_keeps_a_valid_selection(parts):
    page = parts.open("/?scene=wall")
    wall = component(page, "wall")
    before = wall.get_attribute("data-ready")
    page.locator(".st-key-num").get_by_role("combobox").click()
    page.get_by_role("option", name="8", exact=True).click()
    expect(wall).not_to_have_attribute("data-ready", before)
    expect(wall).to_have_attribute("data-decodes", "2")
    expect(wall).to_have_attribute("data-selected", "3")


def test_keyboard_on_the_wall(parts):
    page = parts.open("/?scene=wall")
    wall = component(page, "wall")
    canvas = wall.get_by_role("listbox", name="Feature maps")
    columns = int(wall.get_attribute("data-columns"))
    canvas.focus()
    page.keyboard.press("Home")
    for key, cursor in [
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("ArrowLeft", columns),
        ("ArrowUp", 0),
        ("ArrowUp", 0),
        ("ArrowLeft", 0),
        ("End", 63),
        ("ArrowRight", 63),
    ]:
        page.keyboard.press(key)
        expect(wall).to_have_attribute("data-hover", str(cursor))
    # The last row was below the edge of the box; the cursor brings it into view.
    scroller = wall.locator(".scroller")
    assert scroller.evaluate("box => box.scrollTop + box.clientHeight >= box.scrollHeight - 1")
    expect(wall.locator(".live")).to_have_text(re.compile("^64 of 64: Channel 63"))
    page.keyboard.press("Enter")
    expect(wall).to_have_attribute("data-selected", "63")
    expect(wall.locator(".live")).to_have_text(re.compile("selected$"))
    expect(canvas.get_by_role("option")).to_have_attribute("aria-selected", "true")
    says(page, "returned 63, session 63, calls 1")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    says(page, "returned 0, session 0, calls 2")
    expect(canvas).to_be_focused()
    page.keyboard.press("Tab")
    expect(wall).to_have_attribute("data-hover", "")


def test_tooltip_is_plain_text_and_never_cut_off(parts):
    page = parts.open("/?scene=wall")
    page.set_viewport_size({"width": 800, "height": 600})
    for key, text in (("picker", "<b>rocket</b>"), ("wall", "Channel 4\nmean 0.571, peak 6.0")):
        root = component(page, key)
        canvas = root.locator("canvas")
        canvas.scroll_into_view_if_needed()
        index = {"picker": 3, "wall": 4}[key]
        root.get_by_role("listbox").focus()
        page.keyboard.press("Home")
        for _ in range(index):
            page.keyboard.press("ArrowRight")
        tip = root.locator(".tip")
        expect(tip).to_be_visible()
        assert tip.evaluate("tip => tip.textContent") == text
        assert tip.locator("*").count() == 0
        page.keyboard.press("Escape")
        expect(tip).not_to_be_visible()
        box = canvas.bounding_box()
        right, middle = box["width"] - 20, box["height"] / 2
        for x, y in ((12, 12), (right, 12), (12, middle), (right, middle)):
            page.mouse.move(box["x"] + x, box["y"] + y)
            page.mouse.move(box["x"] + x + 1, box["y"] + y)
            if root.get_attribute("data-hover") == "":
                continue
            expect(tip).to_be_visible()
            frame = tip.bounding_box()
            assert 0 <= frame["x"] <= 800 - frame["width"]
            assert 0 <= frame["y"] <= 600 - frame["height"]
            assert tip.evaluate(
                """tip => { const b = tip.getBoundingClientRect(); tip.style.pointerEvents = 'auto';
                  const seen = [[b.left + 4, b.top + 4], [b.right - 4, b.bottom - 4]].every(([x, y]) =>
                    tip.getRootNode().elementFromPoint(x, y) === tip);
                  tip.style.pointerEvents = ''; return seen; }"""
            ), "something lies over the tooltip"


def test_outline_follows_a_scroll_under_a_resting_pointer(parts):
    page = parts.open("/?scene=flat")
    wall = component(page, "wall")
    wall.locator("canvas").hover(position={"x": 60, "y": 60})
    before = int(wall.get_attribute("data-hover"))
    page.mouse.wheel(0, 120)
    page.wait_for_timeout(300)
    after = int(wall.get_attribute("data-hover"))
    columns = int(wall.get_attribute("data-columns"))
    assert after > before
    assert (after - before) % columns == 0
    expect(wall.locator(".tip")).to_have_text(f"tile {after}")


def test_wall_lays_itself_out_anew_when_the_page_narrows(parts):
    page = parts.open("/?scene=flat")
    wall = component(page, "wall")
    wide = int(wall.get_attribute("data-columns"))
    page.set_viewport_size({"width": 640, "height": 900})
    expect(wall).not_to_have_attribute("data-columns", str(wide))
    assert int(wall.get_attribute("data-columns")) < wide
    expect(wall).to_have_attribute("data-decodes", "1")
    canvas = wall.locator("canvas").bounding_box()
    box = wall.bounding_box()
    assert canvas["width"] <= box["width"] + 1


def test_wall_is_as_sharp_as_the_screen(browser, browser_context_args, serve):
    """On a screen with two pixels per CSS px the canvas has twice as many."""
    with browser.new_context(**browser_context_args, device_scale_factor=2) as context:
        page = context.new_page()
        page.goto(serve(COMPONENT_APP) + "/?scene=flat")
        canvas = component(page, "wall").locator("canvas")
        assert canvas.evaluate("canvas => canvas.width / canvas.getBoundingClientRect().width") == pytest.approx(2)


def test_shrunk_tiles_do_not_bleed_and_the_selected_one_is_in_view(parts):
    page = parts.open("/?scene=shrunk")
    wall = component(page, "wall")
    shown = pixels(wall.locator("canvas")).astype(int)
    opaque = shown[shown[..., 3] == 255]
    assert 190 in opaque[:, 0]
    assert 0 not in opaque[:, 0]
    assert (opaque[:, 0] + opaque[:, 1] == 255).all()  # a tile's own colour up to its edge ...
    assert np.diff(np.unique(opaque[:, 0])).max() == 1
    counts = np.unique(opaque[:, 0], return_counts=True)[1]
    assert counts.max() - np.median(counts) < 1  # ... and none of it in the next tile


def test_a_finger_selects_and_sees_the_tooltip(browser, browser_context_args, serve):
    with browser.new_context(**browser_context_args, has_touch=True) as context:
        page = context.new_page()
        page.goto(serve(COMPONENT_APP) + "/?scene=flat")
        wall = component(page, "wall")
        wall.locator("canvas").tap(position={"x": 70, "y": 20})
        expect(wall).to_have_attribute("data-selected", "1")
        expect(wall.locator(".tip")).to_have_text("tile 1")
        says(page, "returned 1")


def test_wall_in_a_tab_that_was_hidden_at_first(parts):
    page = parts.open("/?scene=tabs")
    page.get_by_role("tab", name="Second").click()
    wall = component(page, "wall")
    wall.locator("canvas").click(position={"x": 70, "y": 20})
    says(page, "returned 1")


def test_a_thousand_tiles(parts):
    page = parts.open("/?scene=thousand")
    wall = component(page, "wall")
    ms = float(wall.get_attribute("data-ms"))
    print(f"1,024 tiles of 56 px: {ms:.0f} ms from the header to the painted canvas")
    assert ms < 3000  # tells a wall that paints tile by tile through the server from one that does not
    shown = pixels(wall.locator("canvas"))
    assert shown.shape[0] == 4096
    assert len(np.unique(shown[2000:2100, :, :3].reshape(-1, 3), axis=0)) > 100


# ---- heat view


def test_readout_tells_the_value_under_the_pointer(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    stage = view.locator(".stage")
    box = stage.bounding_box()
    tall = view.bounding_box()["height"]
    for row, column in ((0, 0), (3, 5), (6, 7), (2, 8)):
        page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 9, box["y"] + (row + 0.5) * box["height"] / 7)
        expect(view).to_have_attribute("data-hover", f"{row},{column}")
        value = VALUES[0][row, column]
        assert np.float32(view.get_attribute("data-value")) == value
        number = true_minus(f"{float(f'{value:.4g}'):g}")
        expect(view.locator(".readout")).to_have_text(f"row {row}, column {column}: {number} activation")
        outline = view.locator(".pointed").bounding_box()
        assert outline["x"] == pytest.approx(box["x"] + column * box["width"] / 9, abs=1)
        assert outline["height"] == pytest.approx(box["height"] / 7, abs=1)
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
    expect(view.locator(".readout")).to_have_text("row 6, column 8: no value")
    assert view.bounding_box()["height"] == tall
    page.mouse.move(5, 5)
    expect(view).to_have_attribute("data-hover", "")
    assert view.bounding_box()["height"] == tall


def test_cells_have_the_colours_of_the_table(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    shown = pixels(view.locator("canvas.map"))
    finite = ~np.isnan(VALUES[0])
    assert shown.shape == (7, 9, 4)
    assert (shown[..., 3] == 255 * finite).all()
    assert (shown[finite][:, :3] == coloured(VALUES[0])[finite]).all()


def test_opacity_of_100_percent_shows_the_pure_colours(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    view.get_by_role("slider").focus()
    page.keyboard.press("End")
    expect(view).to_have_attribute("data-opacity", "100")
    page.wait_for_timeout(300)
    stage = screenshot(view.locator(".stage"))
    height, width = stage.shape[:2]
    rows, columns = np.mgrid[0:7, 0:9]
    middles = stage[((rows + 0.5) * height / 7).astype(int), ((columns + 0.5) * width / 9).astype(int)]
    finite = ~np.isnan(VALUES[0])
    assert np.abs(middles - coloured(VALUES[0]))[finite].max() <= 2


def test_smooth_map_interpolates_values_not_colours(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    page.locator(".st-key-smooth").get_by_role("switch").set_checked(True, force=True)
    expect(view).to_have_attribute("data-paints", "2")
    shown = pixels(view.locator("canvas.map"))
    expected = bilinear(VALUES[0], *shown.shape[:2])
    finite = ~np.isnan(expected)
    assert 0.9 < finite.mean() < 1
    assert (shown[..., 3] == 255 * finite).all()
    assert np.abs(shown[..., :3].astype(int) - coloured(expected))[finite].max() <= 2
    assert shown.shape[1] == round(view.locator(".stage").bounding_box()["width"])


def test_click_and_keyboard_pin_a_cell(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    stage = view.locator(".stage")
    box = stage.bounding_box()
    page.mouse.click(box["x"] + 5.5 * box["width"] / 9, box["y"] + 3.5 * box["height"] / 7)
    says(page, "returned (3, 5), session (3, 5)")
    expect(view).to_have_attribute("data-selected", "3,5")
    walk = {"ArrowRight": "3,6", "ArrowDown": "4,6", "Home": "4,0", "ArrowLeft": "4,0", "PageUp": "0,0"}
    for key, cell in walk.items():
        page.keyboard.press(key)
        expect(view).to_have_attribute("data-hover", cell)
    expect(view.locator(".live")).to_have_text(re.compile("^row 0, column 0: "))
    page.keyboard.press("Enter")
    says(page, "returned (0, 0), session (0, 0)")
    page.locator(".st-key-pin").get_by_role("button").click()
    expect(view).to_have_attribute("data-selected", "1,2")
    says(page, "returned (1, 2), session (1, 2)")
    expect(view).to_have_attribute("data-decodes", "1")
    expect(view).to_have_attribute("data-paints", "1")


def test_new_values_reuse_the_picture_and_keep_the_chosen_opacity(page, parts):
    sizes = frames_of(page)
    parts.open("/?scene=heat")
    view = component(page, "heat")
    view.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    expect(view).to_have_attribute("data-opacity", "59")
    parts.idle()
    sizes.clear()
    page.locator(".st-key-seed").get_by_role("combobox").click()
    page.get_by_role("option", name="1", exact=True).click()
    expect(view).to_have_attribute("data-paints", "2")
    expect(view).to_have_attribute("data-decodes", "1")
    expect(view).to_have_attribute("data-opacity", "59")
    finite = ~np.isnan(VALUES[1])
    shown = pixels(view.locator("canvas.map"))
    assert (shown[finite][:, :3] == coloured(VALUES[1])[finite]).all()
    assert 0 < sum(sizes) < 80_000  # the photo alone is more


def test_map_can_be_switched_off_and_on(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    toggle = view.get_by_role("button", name="Map")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "false")
    expect(view.locator("canvas.map")).to_have_css("opacity", "0")
    view.locator(".stage").focus()
    page.keyboard.press("m")
    expect(view.locator("canvas.map")).to_have_css("opacity", "0.6")


def test_scale_says_where_values_go_beyond_it(parts):
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    assert np.nanmin(VALUES[0]) < LOW
    assert np.nanmax(VALUES[0]) < HIGH
    assert view.locator(".ticks span").all_inner_texts() == ["≤ \u22121", "0.5", "2 activation"]
    bar = pixels(view.locator(".bar canvas"))
    assert (bar[0, :, :3] == LUT).all()
    view.evaluate("view => { view.style.width = '130px'; }")
    for tick in view.locator(".ticks span").all():
        assert tick.evaluate("span => span.scrollWidth <= span.clientWidth"), tick.inner_text()


def test_a_picture_alone_and_cells_without_colours(parts):
    page = parts.open("/?scene=heat")
    plain = component(page, "plain")
    for part in (".readout", ".scale", ".controls", "canvas.map"):
        expect(plain.locator(part)).not_to_be_visible()
    box = plain.locator(".stage").bounding_box()
    assert (box["width"], box["height"]) == pytest.approx((300, 300), abs=1)
    cells = component(page, "cells")
    expect(cells.locator(".controls")).not_to_be_visible()
    cells.locator(".stage").scroll_into_view_if_needed()
    cells.locator(".stage").hover(position={"x": 5, "y": 5})
    expect(cells.locator(".readout")).to_have_text("row 0, column 0")
    shown = pixels(plain.locator("canvas.picture"))
    assert shown.shape == (224, 224, 4)


WINDOWS = {  # by scene: places in px of the stage, 400 x 200, worked out by hand from the window
    "middle": {  # the map lies from (100, 50) to (300, 150); a cell is 50 x 50 px
        "cells": {(101, 51): 0, (299, 51): 3, (199, 149): 5, (201, 149): 6},
        "beside": [(98, 100), (302, 100), (200, 48), (200, 152), (5, 5)],
        "drags": {((150, 60), (250, 140)): (0.1, 0.25, 0.9, 0.75), ((20, 75), (390, 190)): (0.25, 0.0, 1.0, 1.0)},
    },
    "corner": {  # the map lies from (-100, -100) to (300, 100); a cell is 100 x 100 px
        "cells": {(1, 1): 5, (99, 99): 5, (101, 99): 6, (299, 1): 7},
        "beside": [(302, 50), (150, 102), (390, 190)],
        "drags": {((100, 20), (200, 60)): (0.6, 0.5, 0.8, 0.75), ((350, 150), (-40, -40)): (0.5, 0.25, 1.0, 1.0)},
    },
}


@pytest.mark.parametrize("scene", WINDOWS)
def test_a_map_on_part_of_a_picture_has_its_cells_colours_and_rectangles_there(parts, scene):
    page = parts.open("/?scene=windows")
    view, places = component(page, scene), WINDOWS[scene]
    stage = view.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert (box["width"], box["height"]) == (400, 200)
    shown = screenshot(stage)
    for (x, y), cell in places["cells"].items():
        page.mouse.move(box["x"] + x, box["y"] + y)
        expect(view).to_have_attribute("data-hover", f"{cell // 4},{cell % 4}")
        assert view.get_attribute("data-value") == str(cell)
        assert np.abs(shown[y, x] - LUT[np.floor(254 * cell / 7 + 0.5).astype(int)]).max() <= 2
    for x, y in places["beside"]:
        page.mouse.move(box["x"] + x, box["y"] + y)
        expect(view).to_have_attribute("data-hover", "")
        expect(view.locator(".readout")).to_have_text("The network did not see this place.")
        assert np.abs(shown[y, x] - 80).max() <= 2  # 200 dimmed by 60 %
    view.get_by_role("button", name="Map").click()
    expect(view).to_have_attribute("data-opacity", "0")
    page.wait_for_timeout(300)
    x, y = next(iter(places["cells"]))
    assert np.abs(screenshot(stage)[y, x] - 200).max() <= 2  # what is seen without its map is not dimmed
    for (start, end), edges in places["drags"].items():
        page.mouse.move(box["x"] + start[0], box["y"] + start[1])
        page.mouse.down()
        page.mouse.move(box["x"] + (start[0] + end[0]) / 2, box["y"] + (start[1] + end[1]) / 2)
        page.mouse.move(box["x"] + end[0], box["y"] + end[1])
        page.mouse.up()
        says(page, f"{scene}: {edges}")
        outlined, window = view.locator(".boxes .box").bounding_box(), view.locator(".window").bounding_box()
        assert outlined["x"] == pytest.approx(window["x"] + edges[1] * window["width"], abs=1)
        assert outlined["y"] == pytest.approx(window["y"] + edges[0] * window["height"], abs=1)
        assert outlined["width"] == pytest.approx((edges[3] - edges[1]) * window["width"], abs=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_components_take_the_colours_of_the_theme(parts, scheme):
    parts.page.emulate_media(color_scheme=scheme)
    page = parts.open("/?scene=heat")
    view = component(page, "heat")
    ink = view.evaluate("node => getComputedStyle(node).color")
    brightness = sum(int(number) for number in re.findall(r"\d+", ink)[:3]) / 3
    assert brightness > 150 if scheme == "dark" else brightness < 100


# ---- before and after


def test_the_edge_between_two_pictures_follows_pointer_and_keys_and_stays(parts):
    page = parts.open("/?scene=compared")
    view = component(page, "pair")
    slider = view.get_by_role("slider", name="Edge")
    box = view.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(1.6, abs=0.01)

    def seen(share: float) -> tuple[int, ...]:
        pixels = screenshot(view)
        return tuple(pixels[len(pixels) // 4, round(share * pixels.shape[1])])

    black, red, green = (0, 0, 0), (255, 0, 0), (0, 255, 0)
    assert (seen(0.4), seen(0.6)) == (black, red)
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 20)
    page.mouse.up()
    expect(slider).to_have_value("80")
    assert (seen(0.75), seen(0.85)) == (black, red)
    page.keyboard.press("Home")
    assert seen(0.05) == red
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("10")
    assert (seen(0.06), seen(0.14)) == (black, red)
    page.locator(".st-key-other").get_by_role("button").click()
    page.wait_for_timeout(1_000)  # for the other picture to be decoded
    assert (seen(0.06), seen(0.14)) == (black, green)
    expect(slider).to_have_value("10")


# ---- cleared


def test_a_page_runs_once_more_after_its_run_has_ended(parts):
    page = parts.open("/?scene=emptied")
    says(page, "runs 2, 2 after")
    page.wait_for_timeout(1000)
    says(page, "runs 2, 2 after")
