"""A dream in a real browser: its live frames, a pause that lasts, and a cancel that keeps what was there."""

from __future__ import annotations

import re

from playwright.sync_api import expect

TIMEOUT_MS = 60_000
LONG = "/deep_dream?dream_size=320&dream_steps=40"  # 160 steps


def test_a_dream_is_seen_growing_pauses_and_is_cancelled(app) -> None:
    page = app.open(LONG)
    page.get_by_role("button", name="Run: Dream").click(timeout=TIMEOUT_MS)
    # The quick dream may be going on still, with a picture and buttons of its own.
    expect(page.get_by_text(re.compile(r"^Dream: \d+ of 160, "))).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.locator(".st-key-dream_so_far").first).to_be_visible()
    page.locator(".st-key-dream_pause").get_by_role("button").click()
    paused = page.get_by_text(re.compile(r"^Dream: paused, \d+ of 160$"))
    expect(paused).to_be_visible(timeout=TIMEOUT_MS)
    words = paused.inner_text()
    page.wait_for_timeout(2_000)  # several rounds of the page's own timer
    assert paused.inner_text() == words
    page.locator(".st-key-dream_resume").get_by_role("button").click()
    expect(page.locator(".st-key-dream_pause")).to_be_visible(timeout=TIMEOUT_MS)
    page.locator(".st-key-dream_cancel").get_by_role("button").click()
    expect(page.get_by_text(re.compile(r"^Cancelled after \d+ of 160 steps"))).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.get_by_text("How it grew")).to_be_visible(timeout=TIMEOUT_MS)  # what was there by then
