"""The pages that compare, in a real browser: masks painted by mouse, a live threshold, places pinned by a click."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect


def ready(page: Page, kind: str) -> Locator:
    view = page.locator(f".{kind}[data-ready]")
    view.wait_for()
    return view


def place(root: Locator, across: float, down: float) -> tuple[float, float]:
    stage = root.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def drag(root: Locator, *places: tuple[float, float]) -> None:
    mouse = root.page.mouse
    mouse.move(*place(root, *places[0]))
    mouse.down()
    for at in places[1:]:
        mouse.move(*place(root, *at), steps=5)
    mouse.up()


def iou(view: Locator) -> float:
    return float(view.get_attribute("data-iou"))


def changed(view: Locator, before: float) -> float:
    """The IoU, once it is another one."""
    expect(view).not_to_have_attribute("data-iou", str(before))
    return iou(view)


def test_a_mask_is_painted_cut_and_the_threshold_moved(app) -> None:
    page = app.open("/few_shot")
    painter, view = ready(page, "mask-painter"), ready(page, "threshold-view")
    bundled = iou(view)
    assert round(bundled, 2) == 0.86
    painter.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Mark the object in a picture on the left")).to_be_visible()
    painter.get_by_role("button", name="Rectangle", exact=True).click()
    drag(painter, (0.1, 0.15), (0.95, 0.92))
    view = ready(page, "threshold-view")
    app.idle()
    boxed = iou(view)
    assert boxed < bundled
    page.get_by_role("button", name="GrabCut what is marked").click()
    cut = changed(view, boxed)
    assert cut > boxed
    # The mask follows the slider before the server knows.
    app.idle()
    slider = view.locator("input[type=range]").bounding_box()
    middle = slider["y"] + slider["height"] / 2
    page.mouse.move(slider["x"] + 0.5 * slider["width"], middle)
    page.mouse.down()
    page.mouse.move(slider["x"] + 0.8 * slider["width"], middle, steps=5)
    moved = iou(view)
    assert moved != cut
    assert "threshold=" not in page.url
    page.mouse.up()
    expect(page).to_have_url(re.compile("threshold=0"))
    app.idle()
    page.reload()
    view = ready(page, "threshold-view")
    assert iou(view) == moved, "masks and threshold are in the link"
    view.get_by_role("button", name=re.compile("honest")).click()
    expect(page).not_to_have_url(re.compile("threshold="))
