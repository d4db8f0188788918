"""A person who meets a bug sees a number and no traceback; the log has both under that number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.bug_app import SECRET

HERE = Path(__file__).parent


def test_a_bug_shows_its_number_wherever_it_happens(
    page: Page, tmp_path: Path, start_server: Callable[..., str]
) -> None:
    log = tmp_path / "log.txt"
    page.goto(start_server(HERE / "bug_app.py", log, {"client.showErrorDetails": "none"}, {}))
    seen = []
    for place in ("script", "callback", "fragment"):
        page.get_by_role("button", name=place).click()
        notice = page.locator("[class*=st-key-bug_]")
        expect(notice).to_contain_text(re.compile("[0-9a-f]{8}"))
        (number,) = re.findall(r"[0-9a-f]{8}", notice.inner_text())
        seen.append(number)
        assert SECRET not in page.locator("body").inner_text()
        page.reload()
        expect(page.get_by_text("end of the page")).to_be_visible()
    for passes in ("stop", "again"):  # Streamlit's own ways to end a run are no bugs
        page.get_by_role("button", name=passes).click()
        expect(page.locator("[class*=st-key-bug_]")).to_have_count(0)
        page.reload()  # a run that was stopped draws nothing below
        expect(page.get_by_text("end of the page")).to_be_visible()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    bugs = [line for line in lines if line["event"] == "bug"]
    assert [line["id"] for line in bugs] == seen
    assert all("in fail" in line["traceback"] for line in bugs)
