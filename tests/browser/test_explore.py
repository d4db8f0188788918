"""The pages that explore a collection, in a real browser: lasso and back, hover, regions, walls, the grid."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect


def ready(page: Page, key: str) -> Locator:
    view = page.locator(f".st-key-{key} [data-ready]").first
    view.wait_for()
    return view


def places(view: Locator, points: np.ndarray) -> np.ndarray:
    """(N, 2) CSS px on the page of points of a picture map."""
    mid_x, mid_y, per_x, per_y, x, y = map(float, view.get_attribute("data-view").split())
    box = view.locator(".stage").bounding_box()
    return np.array([box["x"], box["y"]]) + [mid_x, mid_y] + (points - [x, y]) * [per_x, per_y]


@pytest.fixture
def embeddings(app) -> Page:
    page = app.open("/embeddings")
    ready(page, "map").scroll_into_view_if_needed()
    app.idle()
    return page


def test_lasso_to_a_picture_grid_and_a_click_there_lights_the_point(app, embeddings: Page) -> None:
    page = embeddings
    view = ready(page, "map")
    view.get_by_role("button", name="Box", exact=True).click()
    box = view.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=5)
    page.mouse.up()
    expect(page.get_by_role("heading", name=re.compile(r"\d+ selected"))).to_be_visible()
    expect(page.get_by_text(re.compile("^Labels: "))).to_be_visible()
    wall = ready(page, "selected_wall")
    wall.locator("canvas").first.click(position={"x": 20, "y": 20})
    expect(view).not_to_have_attribute("data-lit", "")


def test_hover_shows_the_picture_without_a_word_to_the_server(app, embeddings: Page) -> None:
    page = embeddings
    view = ready(page, "map")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    box = view.locator(".stage").bounding_box()
    card = view.locator(".card")
    for across in np.linspace(0.3, 0.7, 30):
        page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
        if card.is_visible():
            break
    expect(card.locator(".name")).to_have_text(re.compile(r".+/.+\.png"))
    assert not sent


def test_the_picture_grid_zooms_and_is_taken_away(app) -> None:
    page = app.open("/embeddings?show_as=picture+grid")
    view = ready(page, "grid")
    before = view.get_attribute("data-view")
    view.locator(".stage").hover()
    page.mouse.wheel(0, -600)
    expect(view).not_to_have_attribute("data-view", before)
    page.locator(".st-key-grid_downloads").get_by_role("button", name="Download").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="The grid as one picture").click()
    assert waiting.value.suggested_filename == "grid.jpg"


def test_a_neighbour_leads_on_and_the_trail_back(app) -> None:
    page = app.open("/neighbors")
    wall = ready(page, "near_wall")
    expect(page.get_by_text("Query: Chelsea the cat")).to_be_visible()
    wall.locator("canvas").first.click(position={"x": 30, "y": 30})
    expect(page.get_by_text(re.compile("Query: chelsea/"))).to_be_visible()
    page.get_by_role("button", name="the chosen picture").click()
    expect(page.get_by_text("Query: Chelsea the cat")).to_be_visible()


def test_a_drawn_region_finds_places(app) -> None:
    page = app.open("/neighbors")
    ready(page, "region_view")
    app.idle()
    stage = page.locator(".st-key-region_view .stage")
    stage.hover(position={"x": 40, "y": 40})  # waits until what is above it has its height
    page.mouse.down()
    stage.hover(position={"x": 160, "y": 150})
    page.mouse.up()
    expect(page.get_by_text(re.compile("The best place of"))).to_be_visible()
    ready(page, "regions_wall")


def test_a_click_on_the_wall_of_channels_chooses_one(app) -> None:
    page = app.open("/top_patches")
    wall = ready(page, "channel_wall")
    before = page.locator(".st-key-channel input").input_value()
    wall.locator("canvas").first.click(position={"x": 170, "y": 40})
    expect(page.locator(".st-key-channel input")).not_to_have_value(before)
    number = page.locator(".st-key-channel input").input_value()
    expect(page.get_by_role("heading", name=f"Channel {number}")).to_be_visible()
    expect(page).to_have_url(re.compile(f"channel={number}"))
