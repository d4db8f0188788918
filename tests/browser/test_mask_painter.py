"""The mask painter in a real browser: what is marked by which stroke, what is seen, and what the server hears."""

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
from skimage import draw

APP = Path(__file__).parent / "mask_app.py"
FILL = [0x32, 0x50, 0xFF]


@dataclass
class Painter:
    """The component, and the size of its mask."""

    page: Page
    columns: int
    rows: int

    @property
    def root(self) -> Locator:
        return self.page.locator(".mask-painter[data-ready]")

    @property
    def stage(self) -> Locator:
        return self.root.locator(".stage")

    def told(self, name: str) -> str | None:
        return self.root.get_attribute(f"data-{name}")

    def on_page(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the mask is on the page."""
        box = self.stage.bounding_box()
        return box["x"] + x * box["width"] / self.columns, box["y"] + y * box["height"] / self.rows

    def drag(self, *places: tuple[float, float], key: str | None = None) -> None:
        self.page.mouse.move(*self.on_page(*places[0]))
        if key:
            self.page.keyboard.down(key)
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.on_page(*place), steps=5)
        self.page.mouse.up()
        if key:
            self.page.keyboard.up(key)

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def size(self, diameter: int) -> None:
        """Sets the brush by keys."""
        for _ in range(40):
            now = int(self.told("size"))
            if now == diameter:
                return
            self.page.keyboard.press("]" if now < diameter else "[")
            if (int(self.told("size")) - diameter) * (now - diameter) < 0:
                break
        raise AssertionError(f"no brush of {diameter}")

    def covers(self, num: int) -> None:
        """In the browser, and once it is told, on the server."""
        expect(self.root).to_have_attribute("data-covered", str(num))
        expect(self.page.get_by_text(re.compile(f"^covered {num},"))).to_be_visible()

    def mask(self) -> np.ndarray:
        """What the server has, once it has what the browser has."""
        self.covers(num := int(self.told("covered")))
        text = self.page.locator(".st-key-told")
        expect(text).to_have_text(re.compile(f"^{num} "))
        _, encoded = text.inner_text().split()
        flags = np.unpackbits(np.frombuffer(base64.b64decode(encoded), np.uint8))
        return flags[: self.rows * self.columns].reshape(self.rows, self.columns).astype(bool)

    def overlay(self) -> np.ndarray:
        address = self.root.locator("canvas.mask").evaluate("canvas => canvas.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA")).astype(int)


@pytest.fixture
def open_painter(visit) -> Callable[..., Painter]:
    def open_scene(query: str = "", columns: int = 120, rows: int = 80) -> Painter:
        site = visit(APP)
        found = Painter(site.open(f"/?{query}"), columns, rows)
        found.root.wait_for()
        expect(found.root).to_have_attribute("data-covered", "0")
        return found

    return open_scene


def distance_to(start: tuple[float, float], end: tuple[float, float], columns: int, rows: int) -> np.ndarray:
    """(rows, columns) from the centre of each pixel to a line."""
    centres = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1)
    way = np.subtract(end, start)
    along = np.clip(((centres - start) @ way) / (way @ way), 0, 1)
    return np.linalg.norm(centres - start - along[..., None] * way, axis=-1)


def test_a_stroke_marks_what_lies_under_the_brush_and_survives_runs(open_painter):
    painter = open_painter()
    size = int(painter.told("size"))
    painter.drag((30, 20), (90.25, 60.5))
    mask = painter.mask()
    distance = distance_to((30, 20), (90.25, 60.5), 120, 80)
    assert mask[distance < size / 2 - 0.3].all()
    assert not mask[distance > size / 2 + 0.3].any()
    expect(painter.root.locator(".covered")).to_have_text(f"{100 * mask.mean():.1f} % marked")
    # What is seen: the fill well within, nothing well outside, a white line between.
    seen = painter.overlay()
    assert seen.shape[:2] == (320, 480)
    fine = distance.repeat(4, 0).repeat(4, 1)
    assert np.abs(seen[fine < size / 2 - 2][:, :3] - FILL).max() <= 3  # premultiplied in the canvas
    assert (seen[fine > size / 2 + 2] == 0).all()
    line = (seen == 255).all(-1)
    assert 700 < line.sum() < 2500
    assert np.abs(fine[line] - size / 2).max() < 1.2
    painter.page.locator(".st-key-again").get_by_role("button").click()
    painter.page.wait_for_timeout(600)
    assert (painter.mask() == mask).all()
    painter.page.get_by_text(re.compile("calls 1$")).wait_for()
    assert painter.told("decodes") == "1"


def test_rectangle_lasso_eraser_and_their_history(open_painter):
    painter = open_painter()
    steps = []

    def step() -> np.ndarray:
        steps.append(painter.mask())
        return steps[-1]

    painter.press("Rectangle")
    painter.drag((20.5, 10.5), (59.5, 39.5))
    expected = np.zeros((80, 120), bool)
    expected[10:40, 20:60] = True
    assert (step() == expected).all()
    painter.drag((70.5, 70.5), (50.5, 30.5), key="Control")  # the other way round, taking away
    expected[30:71, 50:71] = False
    assert (step() == expected).all()
    painter.press("Invert")
    assert (step() == ~expected).all()
    painter.press("Clear")
    painter.press("Lasso")
    corners = [(20, 10), (100, 20), (60, 70)]
    painter.drag(*corners)
    across, down = np.array([*corners]).T - 0.5  # skimage counts from the centre of the first pixel
    polygon = draw.polygon2mask((80, 120), np.stack([down, across], 1))
    found = step()
    assert (found & polygon).sum() / (found | polygon).sum() > 0.97
    painter.page.keyboard.press("e")
    expect(painter.root).to_have_attribute("data-tool", "eraser")
    painter.size(7)
    painter.drag((0, 40), (120, 40))
    assert (step() == found & ~(distance_to((0, 40), (120, 40), 120, 80) <= 3.5)).all()
    for mask in (steps[3], np.zeros((80, 120), bool), steps[2], steps[1], steps[0]):
        painter.page.keyboard.press("Control+z")
        expect(painter.root).to_have_attribute("data-covered", str(mask.sum()))
    painter.page.keyboard.press("Control+Shift+z")
    assert (painter.mask() == steps[1]).all()
    painter.drag((30, 20), (31, 20))
    expect(painter.root.get_by_role("button", name="Redo")).to_be_disabled()
    painter.press("Fill all")
    painter.covers(120 * 80)
    assert (painter.overlay()[..., 3] == painter.overlay()[0, 0, 3]).all(), "the picture's border is no outline"


def test_the_keyboard_marks_a_rectangle_and_streamlit_does_not_listen(open_painter):
    painter = open_painter()
    keys = painter.page.keyboard
    painter.stage.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):  # the first one shows where one is: 60, 40
        keys.press(key)
    expect(painter.root).to_have_attribute("data-cursor", "57,37")
    for key in ["ArrowRight"] * 5 + ["ArrowDown"] * 3:
        keys.press(f"Shift+{key}")
    expect(painter.root.locator(".live")).to_have_text(re.compile("^rectangle of 16 by 10 pixels; Enter marks it"))
    keys.press("Enter")
    expected = np.zeros((80, 120), bool)
    expected[37:47, 57:73] = True
    assert (painter.mask() == expected).all()
    keys.press("e")
    keys.press("Shift+ArrowUp")
    keys.press("Enter")
    expected[43:47, 72] = False
    assert (painter.mask() == expected).all()
    keys.press("Shift+ArrowUp")
    keys.press("Escape")
    expect(painter.root.locator(".drawn")).to_be_hidden()
    keys.press("r")  # would run the app again, and C would offer to clear its cache
    keys.press("m")
    expect(painter.root.locator("canvas.mask")).to_have_css("visibility", "hidden")
    painter.page.get_by_text(re.compile("calls 2$")).wait_for()


def test_a_mask_from_the_server_replaces_the_painted_one_and_undo_brings_it_back(open_painter):
    painter = open_painter("back=1")
    painter.press("Rectangle")
    painter.drag((1.5, 1.5), (9.5, 9.5))
    painter.covers(81)
    painter.page.locator(".st-key-give").get_by_role("button").click()
    across, down = np.meshgrid(np.arange(120) + 0.5, np.arange(80) + 0.5)
    disc = np.hypot(across - 48, down - 44) < 24
    painter.covers(int(disc.sum()))
    assert (painter.mask() == disc).all()
    painter.press("Undo")
    painter.covers(81)
    painter.press("Redo")
    painter.covers(int(disc.sum()))
    painter.drag((100.5, 1.5), (109.5, 9.5))
    painter.covers(int(disc.sum()) + 90)
    # Another picture begins anew.
    painter.page.locator(".st-key-give").get_by_role("button").click()
    painter.covers(int(disc.sum()))
    painter.page.locator(".st-key-seed").get_by_role("combobox").click()
    painter.page.get_by_role("option", name="1", exact=True).click()
    expect(painter.root).to_have_attribute("data-decodes", "2")
    expect(painter.root.get_by_role("button", name="Undo")).to_be_disabled()
    assert (painter.mask() == disc).all()


def test_strokes_are_not_undone_by_late_answers(open_painter):
    painter = open_painter("back=1&slow=1")
    painter.press("Rectangle")
    painter.drag((10.5, 10.5), (15.5, 15.5))
    expect(painter.root).to_have_attribute("data-told", re.compile(r"\d"))
    painter.page.keyboard.press("b")
    painter.page.mouse.move(*painter.on_page(60, 40))
    painter.page.mouse.down()  # and held until the answer to the rectangle is here
    painter.page.mouse.move(*painter.on_page(80, 40))
    expect(painter.page.get_by_text(re.compile("^covered 36, calls 1$"))).to_be_visible()
    painter.page.wait_for_timeout(200)
    both = int(painter.told("covered"))
    assert both > 36 + 20 * 5
    painter.page.mouse.up()
    painter.covers(both)
    # Strokes that have not been told when the answer to the one before comes.
    painter.root.evaluate("""root => {
      root.seen = [];
      new MutationObserver(() => root.seen.push(Number(root.dataset.covered))).observe(root, { attributes: true });
    }""")
    painter.press("Rectangle")
    for at in range(4):
        told = painter.told("told")
        painter.drag((10.5 + 15 * at, 60.5), (15.5 + 15 * at, 65.5))
        expect(painter.root).not_to_have_attribute("data-told", told)
        painter.page.wait_for_timeout(100 + 100 * at)
    painter.covers(both + 144)
    seen = painter.root.evaluate("root => root.seen")
    assert seen == sorted(seen)


def test_each_pixel_of_a_tiny_picture_can_be_marked_by_itself(open_painter):
    painter = open_painter("size=9x5", columns=9, rows=5)
    painter.size(1)
    expected = np.zeros((5, 9), bool)
    for row, column in ((0, 0), (4, 8), (2, 3), (0, 8)):
        painter.page.mouse.click(*painter.on_page(column + 0.5, row + 0.5))
        expected[row, column] = True
    assert (painter.mask() == expected).all()
    painter.page.mouse.move(*painter.on_page(4.5, 2.5))
    painter.page.mouse.down()
    painter.page.mouse.move(*painter.on_page(7.5, 2.5))
    expect(painter.root).to_have_attribute("data-covered", "8")
    painter.page.keyboard.press("Escape")  # takes the stroke back while it is being drawn
    painter.page.mouse.up()
    painter.covers(4)


def test_a_large_picture_is_painted_at_its_working_size_on_a_dark_page(open_painter, page):
    page.emulate_media(color_scheme="dark")
    painter = open_painter("size=1600x1000", columns=512, rows=320)
    painter.press("Rectangle")
    painter.drag((100.5, 50.5), (411.5, 269.5))
    mask = painter.mask()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert np.abs(np.array([rows[0], rows[-1], columns[0], columns[-1]]) - [50, 269, 100, 411]).max() <= 1
    assert mask.sum() == len(rows) * len(columns)
    ink = painter.root.evaluate("node => getComputedStyle(node).color")
    assert min(int(number) for number in re.findall(r"\d+", ink)[:3]) > 150
