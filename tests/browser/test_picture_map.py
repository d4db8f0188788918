"""The picture map in a real browser: what is painted where, pointer, lasso, keys, and what is sent."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from skimage import color, measure

from cnnviz_core.ui.components import packing, picture_map

APP = Path(__file__).parent / "picture_map_app.py"
NUM = 60
AT = np.arange(NUM)
POINTS = np.random.default_rng(0).uniform((-3, 10), (3, 14), (NUM, 2))
LABELS = ["<i>cat</i>", "dog", "ant"]
COLOURING = picture_map.by_label([LABELS[i % 3] for i in range(NUM)])
COLOURS = COLOURING.palette[COLOURING.index].astype(int)
FLAT = np.stack([4 * AT, 255 - 4 * AT, np.full(NUM, 128)], 1)


@dataclass
class Map:
    """The component, and where its points are."""

    page: Page
    points: np.ndarray

    @property
    def root(self) -> Locator:
        return self.page.locator(".st-key-map [data-ready]")

    @property
    def stage(self) -> Locator:
        return self.root.locator(".stage")

    def told(self, name: str) -> str | None:
        return self.root.get_attribute(f"data-{name}")

    def places(self) -> np.ndarray:
        """(N, 2) CSS px within the stage, computed from the view that the component tells."""
        mid_x, mid_y, per_x, per_y, x, y = map(float, self.told("view").split())
        return np.array([mid_x, mid_y]) + (self.points - [x, y]) * [per_x, per_y]

    def on_page(self, place: np.ndarray) -> tuple[float, float]:
        box = self.stage.bounding_box()
        return float(box["x"] + place[0]), float(box["y"] + place[1])

    def hover(self, index: int) -> None:
        self.page.mouse.move(*self.on_page(self.places()[index]))

    def click(self, index: int) -> None:
        self.page.mouse.click(*self.on_page(self.places()[index]))

    def draw(self, corners: np.ndarray) -> None:
        """Draws with the pressed pointer from corner to corner."""
        self.page.mouse.move(*self.on_page(corners[0]))
        self.page.mouse.down()
        for corner in corners[1:]:
            self.page.mouse.move(*self.on_page(corner), steps=4)
        self.page.mouse.up()

    def rest(self) -> None:
        """Waits until nothing moves any more."""
        seen = ""
        while seen != (seen := self.told("view") + self.told("paints")):
            self.page.wait_for_timeout(120)

    def picture(self, selector: str = ".base") -> np.ndarray:
        """(H, W, 4) content of a canvas."""
        address = self.root.locator(selector).evaluate("canvas => canvas.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA")).astype(int)

    def says(self, text: str) -> None:
        expect(self.page.get_by_text(re.compile(text))).to_be_visible()

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def open_map(visit) -> Callable[..., Map]:
    def open_scene(query: str = "", points: np.ndarray = POINTS) -> Map:
        site = visit(APP)
        found = Map(site.open(f"/?{query}"), points)
        found.root.wait_for()
        site.idle()
        found.rest()
        return found

    return open_scene


def selection(indices: np.ndarray) -> str:
    return f"selected {','.join(map(str, sorted(indices)))},"


# ---- painting


def test_dots_and_marks_are_where_their_points_are(open_map):
    shown = open_map("extra=1")
    places = shown.places().round().astype(int)
    picture = shown.picture()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1000 * np.eye(NUM)
    alone = np.flatnonzero(apart.min(1) > 14)
    assert len(alone) > 15
    assert np.abs(picture[places[alone, 1], places[alone, 0], :3] - COLOURS[alone]).max() <= 2
    assert (picture[..., 3] == 255).all()
    # The star of the own picture lies on top, at (0, 12), with the picture above it.
    middle = Map(shown.page, np.array([[0.0, 12.0]])).places()[0].round().astype(int)
    over = shown.picture(".over")
    assert over[middle[1] - 40, middle[0], :3].tolist() == [10, 200, 30]
    assert over[middle[1], middle[0], 3] == 255
    shown.page.mouse.move(*shown.on_page(middle))
    expect(shown.root.locator(".card .name")).to_have_text("mine.jpg")
    shown.page.mouse.click(*shown.on_page(middle))  # it is no point that could be picked
    shown.press("dog 20")
    assert shown.told("lit") == ""
    # Labels that are not asked for fade, but do not go.
    faded = shown.picture()[places[alone, 1], places[alone, 0], :3]
    dog = COLOURING.labels.index("dog")
    is_dog = COLOURING.index[alone] == dog
    assert np.abs(faded[is_dog] - COLOURS[alone][is_dog]).max() <= 2
    ground = picture[3, 80, :3]
    strength = np.abs(faded - ground).sum(1) / np.abs(COLOURS[alone] - ground).sum(1)
    assert strength[~is_dog].max() < 0.3
    assert strength[~is_dog].min() > 0.05


def test_grid_shows_each_picture_in_its_cell_at_every_zoom(open_map):
    cells = np.stack([AT % 8 + 0.5, AT // 8 + 0.5], 1) * 3
    shown = open_map("scene=grid", points=cells)
    for turns in (0, 1, 3):
        for _ in range(turns):
            shown.press("Zoom in")
            shown.rest()
        places, picture = shown.places(), shown.picture()
        side = 3 * float(shown.told("view").split()[2])
        height, width = picture.shape[:2]
        seen = 0
        for index, (x, y) in enumerate(places):
            reach = side / 2 - 1
            edges = np.array([y - reach, y + reach, x - reach, x + reach]).round().astype(int)
            top, bottom, left, right = edges.clip(2, [height - 2, height - 2, width - 2, width - 2])
            if bottom - top > 5 and right - left > 5:
                assert np.abs(picture[top:bottom, left:right, :3] - FLAT[index]).max() <= 3, index
                seen += 1
        assert seen >= 4
    assert side > 100
    shown.press("Reset view")
    shown.page.wait_for_timeout(350)
    shown.rest()
    corner = Map(shown.page, np.array([[6.0, 9.0]])).places()[0]
    shown.page.mouse.move(*shown.on_page(corner))
    assert shown.told("hover") in {"17", "18", "25", "26"}, "no gap where cells meet"


def test_seams_are_as_bright_as_their_distance(open_map):
    cells = np.stack([AT % 8 + 0.5, AT // 8 + 0.5], 1) * 3
    shown = open_map("scene=grid&seams=1", points=cells)
    picture = shown.picture()[..., :3] / 255
    edges = Map(shown.page, np.array([[(c + 1) * 3, (r + 0.5) * 3] for r in range(8) for c in range(7)])).places()
    lightness = np.array([color.rgb2lab(picture[round(y), round(x)])[0] for x, y in edges])
    assert (np.diff(lightness) > -1.5).all()
    assert lightness[0] < 5
    assert lightness[-1] > 90
    # Up and down there are none: a cell's thumbnail reaches its lower edge.
    x, y = Map(shown.page, np.array([[1.5, 3.0]])).places()[0]
    assert np.abs(255 * picture[round(y) - 2, round(x)] - FLAT[0]).max() <= 3


def test_auto_shows_thumbnails_where_there_is_room_and_more_when_zoomed(open_map):
    shown = open_map("mode=auto")

    def thumbnails() -> np.ndarray:
        places, picture = shown.places().round().astype(int), shown.picture()
        inside = (places > 4).all(1) & (places < np.array(picture.shape[1::-1]) - [4, 50]).all(1)
        inside &= places[:, 0] > 70
        is_one = np.zeros(NUM, bool)
        x, y = places[inside].T
        is_one[inside] = np.abs(picture[y, x, :3] - FLAT[inside]).max(1) <= 3
        return is_one, inside

    first, _ = thumbnails()
    assert 10 < first.sum() < NUM
    shown.page.mouse.move(*shown.on_page(np.array([500, 200])))
    shown.page.wait_for_timeout(350)
    shown.page.mouse.wheel(0, -700)
    shown.page.wait_for_timeout(100)
    shown.rest()
    assert float(shown.told("zoom")) > 2.5
    now, inside = thumbnails()
    assert now[first & inside].all(), "zooming in takes no thumbnail away"
    assert now[inside].mean() > first.mean()


def test_theme_and_width_change_while_it_is_shown(open_map):
    shown = open_map()
    light = shown.picture()[3, 80, :3]
    shown.page.emulate_media(color_scheme="dark")
    expect(shown.root).not_to_have_attribute("data-paints", shown.told("paints"))
    shown.page.wait_for_timeout(300)
    dark = shown.picture()[3, 80, :3]
    assert light.min() > 240
    assert dark.max() < 60
    for width in (800, 1500):
        shown.page.set_viewport_size({"width": width, "height": 900})
        shown.page.wait_for_timeout(300)
        shown.rest()
        box = shown.stage.bounding_box()
        assert shown.picture().shape[:2] == (round(box["height"]), round(box["width"]))
        places = shown.places()
        assert places.min() > 0
        assert (places.max(0) < [box["width"], box["height"]]).all()


def test_in_a_tab_that_was_hidden_and_as_a_file(visit):
    shown = Map(visit(APP).open("/?scene=tabs"), POINTS)
    shown.page.wait_for_timeout(500)
    shown.page.get_by_role("tab", name="Second").click()
    shown.root.wait_for()
    cells = Map(shown.page, np.array([[1.5, 1.5]]))
    x, y = cells.places()[0].round().astype(int)
    assert np.abs(shown.picture()[y, x, :3] - FLAT[0]).max() <= 3
    with shown.page.expect_download() as download:
        shown.press("Save picture")
    saved = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    box = shown.stage.bounding_box()
    assert saved.shape[:2] == (round(2 * box["height"]), round(2 * box["width"]))
    assert np.abs(saved[2 * y, 2 * x] - FLAT[0]).max() <= 3


# ---- pointer


def test_hover_shows_the_card_at_once_and_costs_nothing(page, open_map):
    frames: list[int] = []
    page.on(
        "websocket",
        lambda socket: (
            socket.on("framereceived", lambda frame: frames.append(len(frame))),
            socket.on("framesent", lambda frame: frames.append(len(frame))),
        ),
    )
    shown = open_map()
    assert sum(frames) > 5_000
    page.wait_for_timeout(500)
    frames.clear()
    paints = shown.told("paints")
    card = shown.root.locator(".card")
    places = shown.places()
    probes = places[:12] + np.random.default_rng(1).uniform(-18, 18, (12, 2))
    for place in probes.round():
        page.mouse.move(*shown.on_page(place))
        away = np.linalg.norm(places - place, axis=1)
        nearest = int(away.argmin())
        if away[nearest] > 16.5:
            assert shown.told("hover") in ("", None)
        elif away[nearest] < 15.5:
            assert shown.told("hover") == str(nearest)
            expect(card.locator(".name")).to_have_text(f"<b>{nearest}</b>.jpg")
            expect(card.locator(".more")).to_have_text(f"label {LABELS[nearest % 3]}")
            box, on_page = card.bounding_box(), shown.on_page(places[nearest])
            overlap = box["y"] < on_page[1] < box["y"] + box["height"]
            assert not (overlap and box["x"] < on_page[0] < box["x"] + box["width"]), "the card hides the point"
            assert box["x"] >= 0
            assert box["y"] >= 0
    expect(card.locator("canvas")).to_have_attribute("width", "16")
    shown.hover(5)
    colour = shown.picture(".card canvas")[8, 8, :3]
    assert np.abs(colour - FLAT[5]).max() <= 3
    assert shown.told("paints") == paints, "hovering must not paint the points anew"
    assert frames == []
    page.mouse.move(2, 2)
    expect(card).to_be_hidden()


def test_a_click_picks_and_the_server_can_light_another(open_map):
    shown = open_map()
    shown.click(11)
    assert shown.told("lit") == "11", "the ring does not wait for the server"
    shown.says("returned 11, picked 11, selected , calls 1$")
    shown.page.locator(".st-key-again").get_by_role("button").click()
    shown.says("returned None, picked 11, selected , calls 1$")
    for _ in range(6):
        shown.press("Zoom in")
    shown.rest()
    size = shown.stage.bounding_box()
    assert not ((shown.places()[7] > 0) & (shown.places()[7] < [size["width"], size["height"]])).all()
    shown.page.locator(".st-key-seven").get_by_role("button").click()
    expect(shown.root).to_have_attribute("data-lit", "7")
    shown.page.wait_for_timeout(400)
    shown.rest()
    x, y = shown.places()[7]
    assert 0 < x < size["width"]
    assert 0 < y < size["height"], "the map moves to the point that the page lights"


def test_lasso_and_box_select_what_lies_inside(open_map):
    shown = open_map()
    places = shown.places()
    line = np.array([[150, 60], [600, 40], [420, 200], [700, 330], [200, 350], [330, 180]])
    shown.press("Lasso")
    shown.draw(line)
    inside = measure.points_in_poly(places, line)
    assert 5 < inside.sum() < 50
    assert shown.told("selected") == str(inside.sum())
    shown.says(f"{selection(AT[inside])} calls 1$")
    # A box with Shift adds to it.
    shown.stage.focus()
    shown.page.keyboard.press("b")
    corners = np.array([[600, 100], [880, 300]])
    boxed = ((places > corners[0]) & (places < corners[1])).all(1)
    assert (boxed & ~inside).any()
    shown.page.keyboard.down("Shift")
    shown.draw(corners)
    shown.page.keyboard.up("Shift")
    shown.says(f"{selection(AT[inside | boxed])} calls 2$")
    # A run for another reason leaves it, the server may replace it, and Escape clears it.
    shown.page.locator(".st-key-again").get_by_role("button").click()
    shown.page.wait_for_timeout(300)
    assert shown.told("selected") == str((inside | boxed).sum())
    shown.page.locator(".st-key-two").get_by_role("button").click()
    expect(shown.root).to_have_attribute("data-selected", "2")
    shown.stage.focus()
    shown.page.keyboard.press("Escape")
    shown.says("selected , calls 3$")
    expect(shown.root.locator(".count")).to_have_text("60 pictures")


def test_labels_confine_what_is_seen_and_selected(open_map):
    shown = open_map()
    dogs = AT[AT % 3 == 1]
    shown.press("dog 20")
    expect(shown.root.get_by_role("button", name="dog 20")).to_have_attribute("aria-pressed", "true")
    for index in (4, 6):  # a dog, and a cat, which is now out of reach
        shown.hover(index)
        away = np.linalg.norm(shown.places() - shown.places()[index], axis=1)
        near = dogs[away[dogs] <= 16]
        expected = str(near[away[near].argmin()]) if len(near) else ""
        assert (shown.told("hover") or "") == expected
    shown.press("Select all of “dog”")
    shown.says(f"{selection(dogs)} calls 1$")
    shown.root.get_by_role("button", name="ant 20").click(modifiers=["Shift"])
    shown.press("Select these 2 labels")
    shown.says(f"{selection(AT[AT % 3 != 0])} calls 2$")
    shown.press("Clear selection")
    shown.says("selected , calls 3$")
    assert shown.root.locator(".labels span").all_text_contents() == list(COLOURING.labels), "text, not markup"


def test_zoom_keeps_the_place_under_the_pointer_and_outlives_runs(open_map):
    shown = open_map()
    place = shown.places()[20]
    moved = place + np.array([60, -25])
    shown.page.mouse.move(*shown.on_page(place))
    shown.page.wait_for_timeout(350)
    shown.page.mouse.wheel(0, -600)
    expect(shown.root).not_to_have_attribute("data-zoom", "1.000")
    shown.rest()
    assert np.linalg.norm(shown.places()[20] - place) < 2.5, "a browser's pointer goes by whole px"
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.on_page(moved), steps=5)
    shown.page.mouse.up()
    shown.rest()
    assert np.linalg.norm(shown.places()[20] - moved) < 2.5
    view = shown.told("view")
    shown.says("picked None, selected , calls 0$")  # moving is not a click
    shown.page.locator(".st-key-colour").get_by_role("combobox").click()
    shown.page.get_by_role("option", name="number").click()
    expect(shown.root.locator(".legend > .title")).to_have_text("Confidence")
    expect(shown.root.locator(".scale span").first).to_have_text("0")
    assert shown.told("view") == view
    shown.hover(20)
    mark = shown.root.locator(".mark")
    assert mark.evaluate("mark => parseFloat(mark.style.left)") == pytest.approx(100 * 20 / 59, abs=0.1)
    shown.press("Reset view")
    shown.page.wait_for_timeout(350)
    assert shown.told("zoom") == "1.000"


def test_the_wheel_leaves_the_page_its_scrolling(open_map):
    shown = open_map("scene=grid")
    scrolled = "() => document.querySelector('[data-testid=stMain]').scrollTop"
    shown.page.mouse.move(*shown.on_page(np.array([300, 150])))
    shown.page.mouse.wheel(0, 120)  # all is in view: nothing to zoom out of
    shown.page.mouse.wheel(0, -20)  # the page goes on scrolling
    shown.page.wait_for_timeout(1000)
    top = shown.page.evaluate(scrolled)
    assert top == 100
    assert shown.told("zoom") == "1.000"
    shown.page.mouse.wheel(0, -60)
    expect(shown.root).to_have_attribute("data-zoom", "1.101")
    assert shown.page.evaluate(scrolled) == top


# ---- keyboard


def test_keyboard(open_map):
    shown = open_map()
    shown.page.locator(".st-key-map").get_by_role("application", name="Map of pictures").focus()
    press = shown.page.keyboard.press
    press("ArrowRight")
    places = shown.places()
    mid = np.array(list(map(float, shown.told("view").split()[:2])))
    at = int(shown.told("hover"))
    assert at == np.linalg.norm(places - mid, axis=1).argmin(), "the first key goes to the middle"
    for key, axis, sign in (("ArrowUp", 1, -1), ("ArrowLeft", 0, -1), ("ArrowDown", 1, 1), ("ArrowRight", 0, 1)):
        press(key)
        to = int(shown.told("hover"))
        step = places[to] - places[at]
        assert sign * step[axis] > 0
        assert abs(step[axis]) >= abs(step[1 - axis])
        at = to
    expect(shown.root.locator(".live")).to_have_text(re.compile(rf"^{at + 1} of 60: <b>{at}</b>"))
    expect(shown.root.locator(".card")).to_be_visible()
    press("Enter")
    shown.says(f"returned {at}, picked {at}, selected , calls 1$")
    press("Shift+Enter")
    shown.says(f"selected {at}, calls 2$")
    press("+")
    shown.page.wait_for_timeout(350)
    assert float(shown.told("zoom")) == pytest.approx(1.6)
    press("0")
    shown.page.wait_for_timeout(350)
    assert float(shown.told("zoom")) == 1
    for key, tool in (("l", "lasso"), ("b", "box"), ("v", "move")):
        press(key)
        assert shown.told("tool") == tool
    press("Escape")
    shown.says("selected , calls 3$")
    expect(shown.stage).to_be_focused()


# ---- what is sent


def test_runs_send_decode_and_paint_nothing_twice(page, open_map):
    sizes: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: sizes.append(len(frame))))
    shown = open_map("mode=auto")
    page.wait_for_timeout(500)
    paints = shown.told("paints")
    sizes.clear()
    page.locator(".st-key-again").get_by_role("button").click()
    page.wait_for_timeout(700)
    rerun = sum(sizes)
    assert (shown.told("paints"), shown.told("decodes")) == (paints, "1")
    sizes.clear()
    shown.click(3)
    shown.says("picked 3,")
    assert 0 < sum(sizes) < 120_000
    assert rerun < 20_000
    assert shown.told("decodes") == "1"


def test_another_projection_takes_its_points_there(open_map):
    shown = open_map()
    ready = shown.told("ready")
    shown.page.locator(".st-key-seed").get_by_role("combobox").click()
    shown.page.get_by_role("option", name="1", exact=True).click()
    expect(shown.root).not_to_have_attribute("data-ready", ready)
    shown.page.wait_for_timeout(900)
    shown.rest()
    shown.points = np.random.default_rng(1).uniform((-3, 10), (3, 14), (NUM, 2))
    places, picture = shown.places().round().astype(int), shown.picture()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1000 * np.eye(NUM)
    alone = np.flatnonzero(apart.min(1) > 14)
    assert np.abs(picture[places[alone, 1], places[alone, 0], :3] - COLOURS[alone]).max() <= 2
    assert shown.told("decodes") == "1"


# ---- the scripts by themselves


@pytest.fixture(scope="module")
def scripts() -> str:
    folder = Path(packing.__file__).parent
    return (folder / "plane.js").read_text() + (folder / "pixels.js").read_text()


def test_nearest_and_inside_and_thinning(page, scripts):
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(3000, 2)).astype(np.float32)
    asked = rng.normal(size=(200, 2))
    line = rng.uniform(-1, 1, (9, 2))
    found = page.evaluate(
        f"""([xy, asked, line]) => {{ {scripts}
          const plane = new Plane(Float32Array.from(xy.flat()));
          const nearest = asked.map(([x, y]) => plane.nearest(x, y, 0.2, 0.1, (i) => {{
            const d = Math.hypot((xy[i][0] - x) / 0.2, (xy[i][1] - y) / 0.1);
            return d <= 1 ? d : Infinity;
          }}));
          const inside = xy.map(([x, y]) => encloses(line.flat(), x, y));
          const [xs, ys] = [0, 1].map((axis) => Float32Array.from(xy, (point) => 100 * point[axis]));
          const thinning = new Thinning(xs, ys, 40, Uint8Array.from(xs, (_, i) => i % 5 > 0));
          return {{ nearest, inside, levels: [40, 39, 25, 10, 3].map((side) => [...thinning.shown(side)]) }};
        }}""",
        [xy.tolist(), asked.tolist(), line.tolist()],
    )
    away = np.linalg.norm((xy[None] - asked[:, None]) / [0.2, 0.1], axis=2)
    expected = [int(row.argmin()) if row.min() <= 1 else None for row in away]
    assert found["nearest"] == expected
    assert None in expected
    assert np.array_equal(found["inside"], measure.points_in_poly(xy, line))
    coarser = np.zeros(3000, bool)
    for side, flags in zip((40, 39, 25, 10, 3), found["levels"], strict=True):
        shown = np.flatnonzero(flags)
        gaps = np.abs(100 * (xy[shown][:, None] - xy[shown][None])).max(2) + 1000 * np.eye(len(shown))
        assert gaps.min() >= side - 1e-3, "thumbnails do not overlap"
        assert np.array(flags)[coarser].all(), "what has room keeps it"
        assert (shown % 5 > 0).all(), "others are not candidates"
        coarser = np.array(flags) > 0
    assert 20 < sum(found["levels"][0]) < sum(found["levels"][2]) < sum(found["levels"][4]) < 2400


@pytest.mark.parametrize(("side", "width", "height"), [(8, 8, 8), (8, 5, 7), (8, 19, 12), (4, 40, 40)])
def test_a_tile_is_stretched_bilinearly_and_no_neighbour_bleeds_in(page, scripts, side, width, height):
    rng = np.random.default_rng(0)
    atlas = rng.integers(0, 256, (2 * side, 3 * side, 4), np.uint8)
    atlas[..., 3] = 255
    painted = page.evaluate(
        f"""([bytes, side, width, height]) => {{ {scripts}
          const source = {{ pixels: new Uint32Array(Uint8Array.from(bytes).buffer), width: 3 * side, side }};
          const target = new Pixels(width + 4, height + 4);
          target.clear(packed([9, 8, 7]));
          target.tile(source, side, side, 2, 2, 2 + width, 2 + height, 64, 0);
          return [...target.image.data];
        }}""",
        [atlas.ravel().tolist(), side, width, height],
    )
    painted = np.array(painted).reshape(height + 4, width + 4, 4)[..., :3]
    tile = atlas[side:, side : 2 * side, :3].astype(float)

    def weights(many: int) -> np.ndarray:
        centres = np.clip((np.arange(many) + 0.5) * side / many - 0.5, 0, side - 1)
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(side)))

    expected = np.einsum("yi,ijc,xj->yxc", weights(height), tile, weights(width))
    assert np.abs(painted[2:-2, 2:-2] - expected).max() <= 6  # weights of 1/64
    painted[2:-2, 2:-2] = (9, 8, 7)
    assert (painted == (9, 8, 7)).all(), "nothing beyond the box"


def test_halves_of_an_atlas_are_means(page, scripts):
    atlas = np.random.default_rng(0).integers(0, 256, (16, 24, 4), np.uint8)
    atlas[..., 3] = 255
    halves = page.evaluate(
        f"""(bytes) => {{ {scripts}
          const pixels = new Uint32Array(Uint8Array.from(bytes).buffer);
          const half = halved({{ pixels, width: 24, height: 16, side: 8 }});
          return [...new Uint8Array(half.pixels.buffer)];
        }}""",
        atlas.ravel().tolist(),
    )
    means = atlas.reshape(8, 2, 12, 2, 4).mean((1, 3))
    assert np.abs(np.array(halves).reshape(8, 12, 4) - means).max() <= 0.51
