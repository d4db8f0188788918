"""The similarity view in a real browser: what is painted, pointer, brush, keys, lines, and what is sent."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from cnnviz_core import render
from cnnviz_core.ui.components import packing

APP = Path(__file__).parent / "similarity_view_app.py"
GRIDS = ((4, 6), (7, 5), (3, 3))
LUT = render.find_colour_map(signed=True).lut
MINUS = "\N{MINUS SIGN}"
Cell = tuple[int, int]


def unit_vectors(at: int, cells: Cell, *, bits: int) -> np.ndarray:
    """(h, w, D) of what similarity_view_app packs, as they are after packing."""
    values = np.random.default_rng(at).normal(size=(cells[0] * cells[1], 10))
    whole = np.round(values / np.abs(values).max(1, keepdims=True) * (2 ** (bits - 1) - 1))
    return (whole / np.linalg.norm(whole, axis=1, keepdims=True)).reshape(*cells, 10)


def vectors(first: int = 0) -> list[np.ndarray]:
    return [unit_vectors(first, GRIDS[0], bits=8), unit_vectors(1, GRIDS[1], bits=16)]


VECTORS = vectors()


def cosines(origin: int, *cells: Cell, join: Callable = np.mean) -> np.ndarray:
    """Of the other picture's cells to some of one."""
    return join([VECTORS[1 - origin] @ VECTORS[origin][cell] for cell in cells], axis=0)


def coloured(values: np.ndarray, low: float = -1, high: float = 1) -> np.ndarray:
    share = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1)
    return LUT[np.floor(254 * share + 0.5).astype(int)].astype(int)


def written(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", MINUS)


def best(values: np.ndarray) -> str:
    return ",".join(map(str, np.unravel_index(values.argmax(), values.shape)))


@dataclass
class View:
    """The component as a person sees it."""

    page: Page
    sent: list[int] = field(default_factory=list)

    @property
    def root(self) -> Locator:
        return self.page.locator(".st-key-view [data-ready]")

    def pane(self, at: int) -> Locator:
        return self.root.locator(".pane").nth(at)

    def stage(self, at: int) -> Locator:
        return self.pane(at).locator(".stage")

    def told(self, name: str) -> str | None:
        return self.root.get_attribute(f"data-{name}")

    def place(self, at: int, cell: Cell) -> tuple[float, float]:
        """The middle of a cell, on the page."""
        box, (rows, columns) = self.stage(at).bounding_box(), GRIDS[at]
        x = box["x"] + (cell[1] + 0.5) * box["width"] / columns
        return x, box["y"] + (cell[0] + 0.5) * box["height"] / rows

    def hover(self, at: int, cell: Cell) -> None:
        self.page.mouse.move(*self.place(at, cell))
        expect(self.root).to_have_attribute("data-hover", f"{at}:{cell[0]},{cell[1]}")

    def click(self, at: int, cell: Cell) -> None:
        self.page.mouse.click(*self.place(at, cell))

    def leave(self) -> None:
        self.page.mouse.move(4, 4)
        expect(self.root).to_have_attribute("data-hover", "")

    def drag(self, at: int, *cells: Cell) -> None:
        """Holds the button from the first cell to the last; does not let go."""
        self.page.mouse.move(*self.place(at, cells[0]))
        self.page.mouse.down()
        for cell in cells[1:]:
            self.page.mouse.move(*self.place(at, cell))
        expect(self.root).not_to_have_attribute("data-drawn", "")

    def pixels(self, canvas: Locator) -> np.ndarray:
        address = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA")).astype(int)

    def map(self, at: int) -> np.ndarray:
        return self.pixels(self.pane(at).locator(".map"))

    def shows(self, at: int, values: np.ndarray, **scale: float) -> None:
        """Fails unless a picture's map has the colours of values, its best cell a ring and a number."""
        found, expected = self.map(at), coloured(values, **scale)
        levels = np.abs(found[..., :3] - expected).sum(-1)
        assert found.shape[:2] == values.shape
        assert (found[..., 3] == 255).all()
        assert levels.max() <= 12  # a value at the border of two levels, which float32 rounds otherwise
        expect(self.pane(at)).to_have_class(re.compile("mapped"))
        expect(self.pane(at)).to_have_attribute("data-best", best(values))
        expect(self.pane(at).locator(".best")).to_have_text(written(values.max()))

    def shows_nothing(self, at: int) -> None:
        expect(self.pane(at)).not_to_have_class(re.compile("mapped"))
        expect(self.pane(at).locator(".best")).not_to_be_visible()
        expect(self.pane(at).locator(".map")).to_have_css("opacity", "0")

    def reads(self, at: int, text: str) -> None:
        expect(self.pane(at).locator(".readout")).to_have_text(text)

    def says(self, text: str) -> None:
        expect(self.page.get_by_text(re.compile(f"^{re.escape(text)}"))).to_be_visible()

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def turn_on(self, key: str) -> None:
        self.page.locator(f".st-key-{key}").get_by_role("switch").set_checked(True, force=True)

    def quiet(self) -> list[int]:
        """Sizes of the frames that the server sends from now on."""
        self.sent.clear()
        return self.sent


@pytest.fixture
def open_view(visit, page) -> Callable[..., View]:
    def open_scene(query: str = "") -> View:
        site = visit(APP)
        shown = View(page)
        for event in ("framereceived", "framesent"):
            page.on("websocket", lambda socket, e=event: socket.on(e, lambda data: shown.sent.append(len(data))))
        site.open(f"/?{query}")
        shown.root.wait_for()
        site.idle()
        return shown

    return open_scene


def settled(shown: View) -> None:
    """Past the fade from a preview back to the pin."""
    shown.page.wait_for_timeout(350)


# ---- pointing


def test_maps_follow_the_pointer_without_a_word_to_the_server(open_view):
    shown = open_view()
    shown.page.wait_for_timeout(500)
    for at in (0, 1):
        shown.shows_nothing(at)
    frames = shown.quiet()
    for origin, cell in ((0, (0, 0)), (0, (3, 4)), (1, (6, 1)), (1, (2, 4)), (0, (1, 5))):
        shown.hover(origin, cell)
        shown.shows(1 - origin, cosines(origin, cell))
        shown.shows_nothing(origin)
        shown.reads(origin, f"row {cell[0]}, column {cell[1]}")
        row, column = best(cosines(origin, cell)).split(",")
        shown.reads(1 - origin, f"best {written(cosines(origin, cell).max())} at row {row}, column {column}")
    shown.leave()
    shown.shows_nothing(1)
    assert frames == []
    assert 6 <= int(shown.told("updates")) < 40


def test_a_pin_stays_while_previews_come_and_go(open_view):
    shown = open_view()
    shown.click(0, (2, 1))
    expect(shown.root).to_have_attribute("data-pinned", "0:2,1")
    shown.says("returned 0:[(2, 1)], session 0:[(2, 1)], calls 1")
    shown.hover(0, (3, 5))  # another cell of the pinned picture is a preview
    shown.shows(1, cosines(0, (3, 5)))
    shown.leave()
    settled(shown)
    shown.shows(1, cosines(0, (2, 1)))
    shown.reads(0, "row 2, column 1, pinned")
    shown.hover(1, (4, 2))  # the other picture is read, and the pinned one answers
    value = cosines(0, (2, 1))[4, 2]
    assert float(shown.pane(1).get_attribute("data-value")) == pytest.approx(value, abs=1e-6)
    shown.reads(1, f"row 4, column 2: {written(value)}")
    mark = shown.root.locator(".mark").evaluate("mark => parseFloat(mark.style.left)")
    assert mark == pytest.approx(50 * (value + 1), abs=0.1)
    shown.shows(1, cosines(0, (2, 1)))
    shown.shows(0, cosines(1, (4, 2)))
    shown.click(1, (5, 0))
    shown.says("returned 1:[(5, 0)], session 1:[(5, 0)], calls 2")
    shown.click(1, (5, 0))  # once more takes the pin away
    shown.says("returned nothing, session nothing, calls 3")
    expect(shown.root).to_have_attribute("data-pinned", "")
    shown.page.locator(".st-key-pin").get_by_role("button").click()
    expect(shown.root).to_have_attribute("data-pinned", "1:6,4")
    settled(shown)
    shown.shows(0, cosines(1, (6, 4)))
    shown.press("Unpin")
    shown.says("returned nothing, session nothing, calls 4")
    expect(shown.root.get_by_role("button", name="Unpin")).to_be_disabled()


def test_exact_values_replace_the_browsers_own_for_the_pin_only(open_view):
    shown = open_view()
    shown.turn_on("exact")
    shown.click(0, (2, 1))
    shown.leave()
    exact = np.linspace(-0.5, 0.5, 35).reshape(7, 5)
    expect(shown.pane(1)).to_have_attribute("data-exact", "true")
    settled(shown)
    shown.shows(1, exact)
    shown.reads(1, "best 0.500 at row 6, column 4")
    shown.hover(1, (0, 3))
    shown.reads(1, f"row 0, column 3: {written(exact[0, 3], 4)} exact")
    expect(shown.pane(0)).to_have_attribute("data-exact", "false")
    shown.hover(0, (2, 2))
    shown.shows(1, cosines(0, (2, 2)))
    expect(shown.pane(1)).to_have_attribute("data-exact", "false")
    shown.hover(0, (2, 1))  # the pinned cell itself is no preview
    shown.shows(1, exact)
    shown.click(0, (0, 0))  # at once a map, and the exact one later
    expect(shown.pane(1)).to_have_attribute("data-origin", "0:0,0")
    expect(shown.pane(1)).to_have_attribute("data-exact", "true")


# ---- several cells


@pytest.mark.parametrize("join", ["mean", "max"])
def test_brush(open_view, join):
    shown = open_view(f"join={join}")
    joined = {"mean": np.mean, "max": np.max}[join]
    shown.press("Brush")
    cells = [(0, 0), (1, 1), (2, 2), (2, 3), (2, 4)]
    shown.drag(0, (0, 0), (2, 2), (2, 4))  # a quick stroke leaves no gaps
    expect(shown.root).to_have_attribute("data-drawn", "0:0,0 1,1 2,2 2,3 2,4")
    shown.shows(1, cosines(0, *cells, join=joined))
    shown.reads(0, {"mean": "mean of 5 cells", "max": "most alike of 5 cells"}[join])
    shown.says("returned nothing")
    shown.page.mouse.up()
    shown.says(f"returned 0:{cells}, session 0:{cells}, calls 1")
    expect(shown.root).to_have_attribute("data-drawn", "")
    shown.leave()
    settled(shown)
    shown.shows(1, cosines(0, *cells, join=joined))
    shown.press("Point")
    shown.page.keyboard.down("Shift")
    shown.click(0, (3, 5))
    shown.page.keyboard.up("Shift")
    shown.says(f"returned 0:{[*cells, (3, 5)]}")
    shown.leave()
    settled(shown)
    shown.shows(1, cosines(0, *cells, (3, 5), join=joined))
    shown.press("Brush")
    shown.drag(1, (6, 0), (6, 1))
    shown.page.keyboard.press("Escape")
    shown.page.mouse.up()
    expect(shown.root).to_have_attribute("data-drawn", "")
    shown.says(f"returned 0:{[*cells, (3, 5)]}")


# ---- keyboard


def test_keyboard(open_view):
    shown = open_view()
    press = shown.page.keyboard.press
    stage = shown.page.locator(".st-key-view").get_by_role("application", name="Similar places: <b>0</b>")
    stage.focus()
    walk = {"ArrowRight": "2,3", "ArrowDown": "3,3", "Home": "3,0", "PageUp": "0,0", "ArrowUp": "0,0", "End": "0,5"}
    for key, cell in walk.items():
        press(key)
        expect(shown.root).to_have_attribute("data-hover", f"0:{cell}")
    values = cosines(0, (0, 5))
    shown.shows(1, values)
    row, column = best(values).split(",")
    said = f"row 0, column 5; <b>1</b>: best {written(values.max())} at row {row}, column {column}"
    expect(shown.root.locator(".live")).to_have_text(said)
    press("Enter")
    shown.says("returned 0:[(0, 5)]")
    press("ArrowLeft")
    expect(shown.root).to_have_attribute("data-pinned", "0:0,5")
    shown.shows(1, cosines(0, (0, 4)))
    press("Shift+ArrowLeft")
    press("Shift+ArrowDown")
    expect(shown.root).to_have_attribute("data-drawn", "0:0,4 0,3 1,3")
    press("Enter")
    shown.says("returned 0:[(0, 3), (0, 4), (1, 3)]")
    press("b")
    expect(shown.root).to_have_attribute("data-tool", "brush")
    press("m")
    expect(shown.pane(1).locator(".map")).to_have_css("opacity", "0")
    press("Escape")
    shown.says("returned nothing")
    expect(stage).to_be_focused()
    press("Tab")
    expect(shown.root).to_have_attribute("data-hover", "")


# ---- what the person sets


def test_stretch_opacity_and_smooth(open_view):
    shown = open_view()
    shown.press("Stretch colours")
    shown.hover(1, (3, 3))
    values = cosines(1, (3, 3))
    shown.shows(0, values, low=values.min(), high=values.max())
    texts = shown.root.locator(".ticks span").all_inner_texts()
    found = [float(text.split(" ")[0].replace(MINUS, "-")) for text in texts]
    assert found == pytest.approx([values.min(), (values.min() + values.max()) / 2, values.max()], abs=6e-4)
    shown.press("Stretch colours")
    expect(shown.root.locator(".ticks span")).to_have_text([f"{MINUS}1", "0", "1 cosine similarity"])
    shown.root.get_by_role("slider").focus()
    shown.page.keyboard.press("End")
    shown.hover(1, (3, 3))
    expect(shown.pane(0).locator(".map")).to_have_css("opacity", "1")
    shown.turn_on("smooth")
    shown.says("returned nothing")
    shown.hover(1, (3, 3))
    expect(shown.pane(0).locator(".map")).not_to_have_class(re.compile("pixelated"))
    found = shown.map(0)
    times = round(256 / 6)
    assert found.shape[:2] == (4 * times, 6 * times)

    def weights(few: int) -> np.ndarray:
        centres = np.clip((np.arange(few * times) + 0.5) / times - 0.5, 0, few - 1)
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(few)))

    expected = coloured(weights(4) @ values @ weights(6).T)
    assert np.abs(found[..., :3] - expected).sum(-1).max() <= 12
    assert shown.told("opacity") == "100"


# ---- layout and lines


def test_pictures_keep_their_proportions_and_share_the_room(open_view):
    shown = open_view("scene=lines")
    wide = [shown.stage(i).bounding_box() for i in range(3)]
    for box, (height, width) in zip(wide, ((200, 300), (280, 200), (160, 160)), strict=True):
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
        assert max(box["width"], box["height"]) == pytest.approx(280, abs=1.5)
    assert len({box["y"] for box in wide}) == 1
    shown.page.set_viewport_size({"width": 480, "height": 900})
    expect(shown.stage(2)).to_be_visible()
    shown.page.wait_for_timeout(400)
    narrow = [shown.stage(i).bounding_box() for i in range(3)]
    assert narrow[2]["y"] > narrow[0]["y"] + 100
    assert max(box["x"] + box["width"] for box in narrow) <= 480
    assert len({round(max(box["width"], box["height"])) for box in narrow}) == 1


def test_lines_span_the_gap_and_far_pairs_are_numbered(open_view):
    shown = open_view("scene=lines")
    canvas = shown.root.locator("canvas.lines")
    box = canvas.bounding_box()

    def at(picture: int, cell: Cell) -> np.ndarray:
        return np.array(shown.place(picture, cell)) - [box["x"], box["y"]]

    def lit(start: np.ndarray, end: np.ndarray, share: float) -> int:
        """Alpha on a line between two places."""
        x, y = np.round(start + share * (end - start)).astype(int)
        return shown.pixels(canvas)[y, x, 3]

    origin, strong, weak = at(0, (1, 1)), at(1, (6, 4)), at(1, (0, 0))
    for share in (0.2, 0.6, 0.9):
        assert lit(origin, strong, share) > 200
        assert 60 < lit(origin, weak, share) < 200
    far = at(2, (2, 2))
    assert lit(origin, far, 0.93) == 0, "no line over a picture between"
    badge = shown.pixels(canvas)[int(far[1]) - 7 : int(far[1]) + 8, int(far[0]) - 7 : int(far[0]) + 8]
    assert (badge[..., 3] > 200).mean() > 0.7
    shown.hover(1, (0, 0))
    shown.page.wait_for_timeout(100)
    assert lit(origin, weak, 0.6) > 240, "the line of what is pointed at stands out"
    shown.hover(0, (3, 3))
    shown.page.wait_for_timeout(100)
    assert lit(origin, strong, 0.6) < 140, "lines of the pin step back for a preview"


# ---- what is sent


def test_runs_send_and_decode_nothing_twice(page, open_view):
    shown = open_view()
    shown.hover(0, (1, 1))
    page.wait_for_timeout(400)
    counts = [shown.told(name) for name in ("decodes", "paints")]
    frames = shown.quiet()
    page.locator(".st-key-again").get_by_role("button").click()
    page.wait_for_timeout(600)
    assert 0 < sum(frames) < 20_000
    assert shown.told("decodes") == counts[0] == "2"
    page.locator(".st-key-first").get_by_role("combobox").click()
    page.get_by_role("option", name="10", exact=True).click()
    expect(shown.root).to_have_attribute("data-decodes", "3")
    shown.hover(0, (1, 1))
    shown.shows(1, vectors(10)[1] @ vectors(10)[0][1, 1])


def test_view_takes_the_colours_of_the_theme(page, open_view):
    page.emulate_media(color_scheme="dark")
    shown = open_view()
    ink = shown.root.evaluate("node => getComputedStyle(node).color")
    assert sum(int(number) for number in re.findall(r"\d+", ink)[:3]) / 3 > 150


# ---- the scripts by themselves


def test_vectors_origins_and_enlarging(page):
    folder = Path(packing.__file__).parent
    script = (folder / "similarity_view_vectors.js").read_text()
    rng = np.random.default_rng(0)
    whole = [rng.integers(-3000, 3001, (num, 7)).astype("<i2") for num in (12, 9)]
    scales = [(1 / np.linalg.norm(w.astype(float), axis=1)).astype("<f4") for w in whole]
    sent = [list(s.tobytes() + w.tobytes()) for s, w in zip(scales, whole, strict=True)]
    few = rng.normal(size=(3, 4))
    few[2, 3] = np.nan
    found = page.evaluate(
        f"""([sent, few]) => {{ {script}
          const all = sent.map((bytes, i) => toVectors(Uint8Array.from(bytes), [12, 9][i], 16));
          const grown = (join) => {{
            let origin = new Origin(0, [5]);
            for (const cell of [3, 5, 11, 0]) {{
              if (cell !== 11) origin.map(all, 1, join);
              origin = origin.with(cell);
            }}
            return [origin.cells, [...origin.map(all, 1, join)]];
          }};
          const many = [...new Enlarger(3, 4, 5).enlarge(Float32Array.from(few, (v) => v ?? NaN))];
          return {{ mean: grown("mean"), max: grown("max"), many: many.map((v) => (Number.isNaN(v) ? null : v)) }};
        }}""",
        [sent, [None if np.isnan(v) else v for v in few.ravel()]],
    )
    units = [w * s[:, None].astype(float) for w, s in zip(whole, scales, strict=True)]
    every = units[0][[5, 3, 11, 0]] @ units[1].T
    assert found["mean"][0] == found["max"][0] == [5, 3, 11, 0]
    assert found["mean"][1] == pytest.approx(every.mean(0), abs=1e-6)
    assert found["max"][1] == pytest.approx(every.max(0), abs=1e-6)
    many = np.array([np.nan if v is None else v for v in found["many"]]).reshape(15, 20)
    centres = [np.clip((np.arange(n * 5) + 0.5) / 5 - 0.5, 0, n - 1) for n in (3, 4)]
    down, across = (np.maximum(0, 1 - np.abs(c[:, None] - np.arange(n))) for c, n in zip(centres, (3, 4), strict=True))
    undefined = down @ np.isnan(few) @ across.T > 0
    assert np.isnan(many).tolist() == undefined.tolist()
    assert many[~undefined] == pytest.approx((down @ np.nan_to_num(few) @ across.T)[~undefined], abs=1e-5)
