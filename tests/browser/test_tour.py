"""The guided tour in a real browser: through all stops by keyboard, each within one screen."""

from __future__ import annotations

import re

from playwright.sync_api import expect

TOO_TALL = """() => {
  const main = document.querySelector("[data-testid=stMain]");
  return main.scrollHeight > main.clientHeight;
}"""


def test_through_all_stops_by_keyboard(app) -> None:
    page = app.page
    page.set_viewport_size({"width": 1400, "height": 800})
    app.open("/tour")
    slide = page.locator(".tour")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("the network answers: “Egyptian cat”"))
    expect(page.get_by_test_id("stSidebar")).to_have_count(0)
    page.keyboard.press("ArrowLeft")  # nothing is before the first
    for stop in range(1, 8):
        page.keyboard.press("PageDown" if stop % 2 else "ArrowRight")
        expect(slide).to_have_attribute("data-stop", str(stop))
        expect(page).to_have_url(re.compile(rf"stop={stop + 1}$"))
        if slide.locator("img").count():
            expect(slide.locator("img").last).to_have_js_property("complete", value=True)
        assert not page.evaluate(TOO_TALL), f"stop {stop + 1} does not fit the screen"
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("“goldfish”"))
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")  # the second before the server has answered the first
    expect(slide).to_have_attribute("data-stop", "5")
    view = page.locator(".similarity-view[data-ready]")
    view.wait_for()
    app.idle()
    view.locator(".stage").first.focus()
    page.keyboard.press("ArrowRight")  # moves within the picture
    expect(slide).to_have_attribute("data-stop", "5")
    page.reload()
    expect(page.locator(".tour")).to_have_attribute("data-stop", "5")
    page.get_by_role("button", name=re.compile("^4: ")).click()
    expect(slide).to_have_attribute("data-stop", "3")
    page.get_by_role("button", name="Open this on the page CAM").click()
    expect(page).to_have_url(re.compile("/cam[?].*map=Grad-CAM"))
    expect(page.get_by_role("heading", name="CAM", exact=True)).to_be_visible()
    app.idle()
