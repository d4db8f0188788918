"""Long work in a real browser: found again after the tab was closed, by the cookie; two people in one line; cancel."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

HERE = Path(__file__).parent
SLOW = "/occlusion?patch=8&stride=1"  # tens of thousands of places


def start(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("button", name="Run: Occlusion").click()
    expect(page.locator(".st-key-occlusion_cancel")).to_be_visible()


def test_a_job_outlives_its_tab_and_is_found_by_its_owner_only(app, browser: Browser) -> None:
    page = app.page
    start(page, app.url + SLOW)
    context = page.context
    tab = context.new_page()  # a new tab of the same browser, with the cookie
    page.goto("about:blank")  # as closing the first: its session ends
    tab.goto(f"{app.url}/activity")
    mine = tab.locator("[class*=st-key-live_]").first
    expect(mine.get_by_text("of 47,089")).to_be_visible()

    with browser.new_context() as stranger:  # another browser
        other = stranger.new_page()
        other.goto(f"{app.url}/activity")
        expect(other.get_by_text("Nothing is being computed.")).to_be_visible()
        start(other, app.url + "/occlusion?patch=9&stride=1")
        expect(other.get_by_text("waiting, 1 before it")).to_be_visible()
        other.get_by_role("button", name="Cancel").click()
        expect(other.get_by_text("Cancelled", exact=False).first).to_be_visible()

    mine.get_by_role("button", name="Open").click()
    expect(tab.locator(".st-key-occlusion_cancel")).to_be_visible()
    expect(tab.locator(".st-key-patch")).to_contain_text("8")
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.get_by_text("Cancelled after")).to_be_visible()
    tab.close()


def test_a_click_counts_although_another_job_of_the_page_ends_at_that_moment(visit) -> None:
    page = visit(HERE / "job_app.py").open()
    page.get_by_text("Now", exact=True).wait_for()
    page.locator(".st-key-lengthy_cancel").get_by_role("button").click()
    expect(page.get_by_text("The brief one: there")).to_be_visible()
    expect(page.get_by_text("Cancelled after")).to_be_visible()
