"""A dream in a real browser: its live frames, a pause that lasts, and a cancel that keeps what was there."""

from __future__ import annotations

import re

from playwright.sync_api import expect

LONG = "/deep_dream?dream_size=320&dream_steps=40"  # 160 steps


def test_a_dream_is_seen_growing_pauses_and_is_cancelled(app) -> None:
    page = app.open(LONG)
    page.get_by_role("button", name="Run: Dream").click()
    # The quick dream may be going on still, with a picture and buttons of its own.
    expect(page.get_by_text(re.compile(r"^Dream: \d+ of 160, "))).to_be_visible()
    expect(page.locator(".st-key-dream_so_far").first).to_be_visible()
    page.locator(".st-key-dream_pause").get_by_role("button").click()
    paused = page.get_by_text(re.compile(r"^Dream: paused, \d+ of 160$"))
    expect(paused).to_be_visible()
    words = paused.inner_text()
    page.wait_for_timeout(2_000)  # several rounds of the page's own timer
    assert paused.inner_text() == words
    page.locator(".st-key-dream_resume").get_by_role("button").click()
    expect(page.locator(".st-key-dream_pause")).to_be_visible()
    page.locator(".st-key-dream_cancel").get_by_role("button").click()
    expect(page.get_by_text(re.compile(r"^Cancelled after \d+ of 160 steps"))).to_be_visible()
    expect(page.get_by_text("How it grew")).to_be_visible()  # what was there by then


def test_a_dream_is_finished_after_its_tab_was_closed_and_opened_from_the_list_in_another(app) -> None:
    first = app.page.context.new_page()
    first.goto(f"{app.url}/deep_dream?dream_size=320&dream_steps=16&octaves=3")
    first.get_by_role("button", name="Run: Dream").click()
    expect(first.get_by_text(re.compile(r"^Dream: \d+ of 48, "))).to_be_visible()
    first.close()
    page = app.open("/activity")
    ended = page.locator("[class*=st-key-ended_]").filter(has_text=re.compile(r"^Dream\s+\S*\s*done"))
    expect(ended).to_contain_text("size 320 px")
    expect(ended).to_contain_text("steps 16")
    ended.get_by_role("button", name="Open").click()
    expect(page.locator(".st-key-dream_compared [data-ready]")).to_be_visible()
    expect(page.get_by_text("48 steps up to 320 × 213 px")).to_be_visible()
    expect(page.get_by_role("button", name="Run: Dream")).to_have_count(0)
