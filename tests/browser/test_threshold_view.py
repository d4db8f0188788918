"""The threshold view in a real browser: what follows the slider, how well, and what the server hears."""

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

from cnnviz_core import maps, masks, render

APP = Path(__file__).parent / "mask_app.py"
LOW, HIGH = -0.2, 1.0
FILL = [0x32, 0x50, 0xFF]
LUT = render.find_colour_map("viridis").lut.astype(int)


def disc(width: int, height: int) -> np.ndarray:
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.hypot(across - 0.4 * width, down - 0.55 * height) < 0.3 * height


def score_map(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(scale=0.08, size=(14, 20))
    coarse = disc(400, 280).reshape(14, 20, 20, 20).mean((1, 3))
    return (0.2 + 0.5 * coarse + noise).astype(np.float32)


@dataclass
class View:
    """The component."""

    page: Page

    @property
    def root(self) -> Locator:
        return self.page.locator(".threshold-view[data-ready]")

    @property
    def stage(self) -> Locator:
        return self.root.locator(".stage")

    @property
    def slider(self) -> Locator:
        return self.root.get_by_role("slider")

    def told(self, name: str) -> str | None:
        return self.root.get_attribute(f"data-{name}")

    def number(self, name: str) -> float:
        return float(self.told(name))

    def place(self, threshold: float) -> tuple[float, float]:
        """Where the slider's thumb is for a threshold."""
        box = self.slider.bounding_box()
        return box["x"] + 7 + (threshold - LOW) / (HIGH - LOW) * (box["width"] - 14), box["y"] + box["height"] / 2

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name).click()

    def says(self, text: str) -> None:
        expect(self.page.get_by_text(re.compile(f"^{text}"))).to_be_visible()

    def map(self) -> np.ndarray:
        """(H, W, 4) what is painted over the picture, at the next frame."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        address = self.root.locator("canvas.map").evaluate("canvas => canvas.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA")).astype(int)


@pytest.fixture
def open_view(visit) -> Callable[..., View]:
    def open_scene(query: str = "") -> View:
        site = visit(APP)
        found = View(site.open(f"/?scene=threshold&{query}"))
        found.root.wait_for()
        expect(found.root).to_have_attribute("data-paints", re.compile(r"\d+"))
        return found

    return open_scene


def near_edge(inside: np.ndarray, reach: int) -> np.ndarray:
    """Pixels so close to where the mask begins or ends that its outline may cover them."""
    near = np.zeros_like(inside)
    for axis in (0, 1):
        for shift in range(-reach, reach + 1):
            near |= np.roll(inside, shift, axis) != inside
    return near


def test_overlap_and_share_agree_with_the_server_at_every_threshold(open_view):
    view = open_view("size=1500x1040")
    truth = disc(1500, 1040)
    fine = maps.resize(score_map(0), truth.shape)
    view.slider.focus()
    seen = []
    for key in ["Home", *["PageUp"] * 9, *["ArrowRight"] * 4, "PageUp", "PageUp", "End"]:
        paints = view.told("paints")
        view.page.keyboard.press(key)
        expect(view.root).not_to_have_attribute("data-paints", paints)
        threshold = view.number("threshold")
        found = fine >= threshold
        assert view.number("iou") == pytest.approx(masks.iou(found, truth), abs=0.005)
        assert view.number("covered") == pytest.approx(found.mean(), abs=0.005)
        expect(view.root.locator(".iou b")).to_have_text(f"{view.number('iou'):.3f}")
        seen.append(threshold)
    assert seen[0] == LOW
    expect(view.root.locator(".ends span").first).to_have_text("\u22120.20")
    assert seen[-1] == HIGH
    assert np.diff(seen[:10]) == pytest.approx(0.1)
    assert np.diff(seen[9:14]) == pytest.approx(0.01)
    assert view.number("iou") == 0.0
    view.says(f"returned {HIGH:.6f}, session {HIGH:.6f}, calls ")


def test_the_three_modes_show_mask_object_and_scores(open_view):
    view = open_view("size=150x100")
    scores = maps.resize(score_map(0), (333, 500))
    inside = scores >= 0.5
    near = near_edge(inside, 3)
    seen = view.map()
    assert seen.shape[:2] == (333, 500)
    assert np.abs(seen[inside & ~near][:, :3] - FILL).max() <= 3  # premultiplied in the canvas
    assert (seen[~inside & ~near] == 0).all()
    assert (seen[near_edge(inside, 1) & inside] == 255).all()
    view.press("Cut out")
    expect(view.root).to_have_attribute("data-mode", "cut")
    seen = view.map()
    far = ~near_edge(inside, 1)
    assert (seen[far][:, 3] == 255 * inside[far]).all()
    expect(view.root.locator("canvas.picture")).to_have_css("visibility", "hidden")
    across = np.linspace(0, 200, 500)[None, :, None]
    assert np.abs(seen[..., :1] - across)[inside & far].max() < 8  # the photo's own red
    view.stage.focus()
    view.page.keyboard.press("3")
    expect(view.root).to_have_attribute("data-mode", "heat")
    seen = view.map()
    levels = np.floor(254 * np.clip((scores - LOW) / (HIGH - LOW), 0, 1) + 0.5).astype(int)
    assert np.abs(seen[..., :3] - LUT[levels])[~near].max() <= 4
    assert (seen[near_edge(inside, 1) & inside] == 255).all()
    # The true outline, striped, lies where the true mask ends.
    outline = view.root.locator("canvas.truth")
    expect(outline).to_be_visible()
    view.page.keyboard.press("t")
    expect(outline).to_be_hidden()
    view.page.locator(".st-key-again").get_by_role("button").click()
    view.page.wait_for_timeout(500)
    expect(outline).to_be_hidden()
    assert view.told("mode") == "heat"


def test_dragging_repaints_at_once_and_tells_the_server_when_released(open_view):
    view = open_view()
    view.page.mouse.move(*view.place(0.5))
    view.page.mouse.down()
    shares = []
    for threshold in (0.4, 0.3, 0.2, 0.1):
        view.page.mouse.move(*view.place(threshold))
        view.map()
        assert view.number("threshold") == pytest.approx(threshold, abs=0.011)
        assert len(view.told("threshold")) <= 4, "whole steps"
        shares.append(view.number("covered"))
    assert shares == sorted(shares)
    assert len(set(shares)) == 4
    view.says("returned 0.500000, session 0.500000, calls 0$")
    view.page.mouse.up()
    told = f"{view.number('threshold'):.6f}"
    view.says(f"returned {told}, session {told}, calls 1$")
    view.press("honest 0.41")
    view.says("returned 0.412346, session 0.412346, calls 2$")
    expect(view.root.get_by_role("button", name="honest")).to_have_attribute("aria-pressed", "true")
    view.press("far")  # beyond the slider
    view.says("returned 1.000000, session 1.000000, calls 3$")
    view.press("best")
    view.says("returned 0.470000, session 0.470000, calls 4$")
    view.page.mouse.move(*view.place(0.47))
    view.page.mouse.down()
    for threshold in (0.6, 0.47):  # away and back: the browser tells of no change
        view.page.mouse.move(*view.place(threshold), steps=2)
    view.page.mouse.up()
    view.page.locator(".st-key-set").get_by_role("button").click()
    expect(view.root).to_have_attribute("data-threshold", "0.3")
    assert view.root.locator(".mark").all_inner_texts()[1].endswith("<b>best</b> 0.47")
    assert view.told("decodes") == "1"


def test_a_late_answer_does_not_move_the_slider_back(open_view):
    view = open_view("slow=1")
    view.press("honest")
    view.page.mouse.move(*view.place(0.6))
    view.page.mouse.down()
    expect(view.root).to_have_attribute("data-threshold", "0.6")
    view.says("returned 0.412346, session 0.412346, calls 1$")  # the answer to what was chosen before
    view.page.wait_for_timeout(200)
    assert view.told("threshold") == "0.6"
    view.page.mouse.up()
    view.press("best")  # while the server is busy with that
    view.page.wait_for_timeout(600)
    assert view.told("threshold") == "0.47"
    view.says("returned 0.470000, session 0.470000")
    assert view.told("threshold") == "0.47"


def test_scores_are_read_by_pointer_and_keys_also_without_a_true_mask(open_view, page):
    page.emulate_media(color_scheme="dark")
    view = open_view("blind=1")
    scores = maps.resize(score_map(0), (333, 500))
    assert view.root.locator(".iou").is_hidden()
    assert view.root.get_by_role("button", name="True outline").is_hidden()
    box = view.stage.bounding_box()
    for x, y in ((0.3, 0.6), (0.9, 0.1), (0.001, 0.999)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        value = scores[int(y * 333), int(x * 500)]
        where = "in the mask" if value >= 0.5 else "outside"
        expect(view.root.locator(".readout")).to_have_text(re.compile(rf"^cosine \u2212?\d\.\d\d\d?, {where}$"))
        assert view.number("value") == pytest.approx(value, abs=0.02)
    page.mouse.move(2, 2)
    view.stage.focus()
    page.keyboard.press("ArrowLeft")  # shows where one is
    page.keyboard.press("ArrowLeft")
    assert view.number("value") == pytest.approx(scores[166, 250 - round(500 / 48)], abs=0.02)
    expect(view.root.locator(".live")).to_have_text(re.compile("^cosine "))
    ink = view.root.evaluate("node => getComputedStyle(node).color")
    assert min(int(number) for number in re.findall(r"\d+", ink)[:3]) > 150
    # Other scores come without the picture.
    page.locator(".st-key-seed").get_by_role("combobox").click()
    page.get_by_role("option", name="1", exact=True).click()
    covered = (maps.resize(score_map(1), (80, 120)) >= 0.5).mean()
    expect(view.root).to_have_attribute("data-covered", re.compile(f"^{covered:.4f}"[:6]))
    assert view.told("decodes") == "1"
