"""The pages that explain a decision, in a real browser: clicks, drags, live pictures, cancel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from playwright.sync_api import Locator, Page, expect


def ready(page: Page, key: str) -> Locator:
    view = page.locator(f".st-key-{key}")
    view.locator("[data-ready]").first.wait_for()
    return view


def place(view: Locator, across: float, down: float) -> tuple[float, float]:
    view.locator("canvas").first.scroll_into_view_if_needed()
    box = view.locator("canvas").first.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def _saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=re.compile(f"^{button}")).click()
    waiting.value.save_as(folder / waiting.value.suggested_filename)
    return folder / waiting.value.suggested_filename


def test_a_click_on_the_grid_enlarges_a_method_and_names_it_in_the_link(app) -> None:
    page = app.open("/cam")
    wall = ready(page, "maps_wall")
    page.mouse.click(*place(wall, 0.5, 0.1))
    expect(page.locator(".st-key-map input")).to_have_value("Grad-CAM")
    expect(page).to_have_url(re.compile("map=Grad-CAM"))
    expect(page.get_by_text(re.compile("Grad-CAM at bn2 for Egyptian cat"))).to_be_visible()
    page.reload()
    expect(page.locator(".st-key-map input")).to_have_value("Grad-CAM")


def test_a_dragged_rectangle_is_measured(app) -> None:
    page = app.open("/cam")
    view = ready(page, "closeup")
    page.mouse.move(*place(view, 0.02, 0.02))
    page.mouse.down()
    page.mouse.move(*place(view, 0.3, 0.4), steps=4)
    page.mouse.move(*place(view, 0.98, 0.5), steps=4)
    page.mouse.up()
    expect(page.get_by_text(re.compile(r"% of the map’s positive values lie in your rectangle"))).to_be_visible()
    expect(view.locator(".boxes [data-name='your rectangle']")).to_be_visible()
    page.get_by_role("button", name="Remove the rectangle").click()
    expect(view.locator(".boxes [data-name='your rectangle']")).to_have_count(0)


def test_a_rectangle_can_be_drawn_with_the_keyboard(app) -> None:
    page = app.open("/cam")
    stage = ready(page, "closeup").locator(".stage")
    stage.focus()
    for key in ("Home", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        stage.press(key)
    expect(page.get_by_text("positive values lie in your rectangle")).to_be_visible()


def test_the_map_taken_away_is_the_map_that_its_manifest_makes(app, tmp_path: Path) -> None:
    page = app.open("/cam?map=HiResCAM&signed=true")
    ready(page, "closeup")
    page.locator(".st-key-closeup_downloads").get_by_role("button", name="Download").click()
    values = np.load(_saved(page, "Raw values", tmp_path))
    manifest = json.loads(_saved(page, "Manifest", tmp_path).read_text())
    names: dict[str, object] = {}
    *lines, last = manifest["python"]
    exec("\n".join(lines), names)
    made = eval(last, names)
    assert manifest["method"] == "cam.explain"
    np.testing.assert_allclose(made, values, rtol=1e-4, atol=1e-6)


def test_a_clicked_unit_is_explained(app) -> None:
    page = app.open("/saliency?explain=a+unit&layer=blocks.3&channel=7")
    view = ready(page, "unit_map")
    page.mouse.click(*place(view, 0.25, 0.75))
    expect(page.locator(".st-key-row input")).to_have_value("10")
    expect(page.locator(".st-key-column input")).to_have_value("3")
    expect(page.get_by_text(re.compile(r"of unit \(7, 10, 3\) of blocks.3"))).to_be_visible()
    expect(page).to_have_url(re.compile("row=10"))


def test_an_occlusion_is_seen_while_it_runs_and_keeps_what_is_there_when_cancelled(app) -> None:
    page = app.open("/occlusion?patch=12&stride=2")
    page.get_by_role("button", name="Run: Occlusion").click()
    expect(page.get_by_text(re.compile(r"Occlusion: \d+ of 11,449, \d+ a second"))).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text(re.compile("Cancelled after .* What is shown was computed until then"))).to_be_visible()
    expect(page.get_by_text(re.compile("patch 12 px, step 2 px"))).to_be_visible()
    expect(page.get_by_role("button", name="Run: Occlusion")).to_be_visible()


def test_a_run_goes_on_when_its_page_is_left(app) -> None:
    page = app.open("/occlusion?patch=18&stride=9")
    page.get_by_role("button", name="Run: Occlusion").click()
    expect(page.get_by_text(re.compile(r"Occlusion: \d+ of 576"))).to_be_visible()
    app.go("Look", "Home")
    expect(page.get_by_role("heading", name="It says: Egyptian cat")).to_be_visible()
    page.goto(app.url + "/occlusion?patch=18&stride=9")
    expect(page.get_by_text(re.compile("patch 18 px, step 9 px"))).to_be_visible()


def test_the_patch_follows_the_pointer_and_the_answer_the_patch(app) -> None:
    page = app.open("/occlusion")
    view = ready(page, "hand_view")
    page.mouse.move(*place(view, 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*place(view, 0.2, 0.4), steps=6)
    page.mouse.up()
    expect(view.locator("[data-selected='12,6']")).to_be_visible()
    app.idle()


def test_the_charts_of_the_places_are_beside_the_map_where_there_is_room_else_below(app) -> None:
    page = app.open("/occlusion")
    for width, is_beside in ((1400, True), (800, False)):
        page.set_viewport_size({"width": width, "height": 900})
        view, chart = ready(page, "closeup"), page.locator(".st-key-probabilities .main-svg").first
        expect(chart).to_be_visible()
        app.idle()
        page.wait_for_timeout(500)  # the chart follows the width
        map_box, chart_box = view.bounding_box(), chart.bounding_box()
        assert (chart_box["x"] > map_box["x"] + 300) == is_beside, (map_box, chart_box)
        assert chart_box["width"] > 400, chart_box
    ticks = page.locator(".st-key-hand_bars .xtick text").all_text_contents()
    assert {"0 %", "100 %"} <= set(ticks)
    assert all(tick.endswith(" %") for tick in ticks)


def test_the_enlarged_map_is_beside_the_others_where_there_is_room_else_below(app) -> None:
    page = app.open("/cam")
    for width, is_beside in ((1400, True), (1280, True), (800, False)):
        page.set_viewport_size({"width": width, "height": 900})
        wall, one = ready(page, "maps_wall"), ready(page, "closeup")
        app.idle()
        page.wait_for_timeout(500)  # the wall follows the width
        wall_box, box = wall.bounding_box(), one.bounding_box()
        assert (box["x"] >= wall_box["x"] + wall_box["width"]) == is_beside, (wall_box, box)
        assert (box["y"] >= wall_box["y"] + wall_box["height"]) != is_beside, (wall_box, box)
        assert box["width"] >= 320, box


def test_the_trust_panel_gives_a_verdict(app) -> None:
    page = app.open("/cam?map=Grad-CAM&check=is+it+cheating%3F")
    page.get_by_role("button", name="Run: Is it cheating?").click()
    expect(page.get_by_text(re.compile("of the map’s positive values lie outside the object"))).to_be_visible()
    ready(page, "edits")
    ready(page, "edited_maps")
