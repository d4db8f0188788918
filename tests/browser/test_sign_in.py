"""Signing in by OpenID Connect, from the first screen to the way out, with a provider of the test suite's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider

PEOPLE = {
    "Ann": {"sub": "1", "email": "ann@lab.org", "email_verified": True},
    "Ben": {"sub": "2", "email": "ben@lab.org"},
    "Stranger": {"sub": "3", "email": "eve@elsewhere.net", "email_verified": True},
    "Impostor": {"sub": "1", "email": "ann@lab.org", "email_verified": True, "forged": True},
}


@dataclass
class Visit:
    page: Page
    url: str
    provider: Provider
    log: Path

    def sign_in(self, who: str) -> None:
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("link", name=who).click()

    def sign_out(self) -> None:
        with self.page.expect_request(lambda request: "/end_session" in request.url):
            self.page.get_by_role("button", name="Sign out").click()
        expect(self.page.get_by_role("button", name="Sign in")).to_be_visible()


@pytest.fixture
def visit_with_sign_in(page: Page, tmp_path: Path, start_server: Callable[..., str]) -> Iterator[Visit]:
    with Provider(PEOPLE) as provider:
        secrets = tmp_path / "secrets.toml"
        secrets.write_text(
            f"""[auth]
redirect_uri = "http://127.0.0.1:{{port}}/oauth2callback"
cookie_secret = "a secret of thirty-two characters"
client_id = "{CLIENT_ID}"
client_secret = "{CLIENT_SECRET}"
server_metadata_url = "{provider.url}/.well-known/openid-configuration"
"""
        )
        url = start_server(
            Path(__file__).parents[2] / "app.py",
            tmp_path / "log.txt",
            {"secrets.files": str(secrets)},
            {
                "CNNVIZ_ADMINS": "ann@lab.org",
                "CNNVIZ_ALLOWED_PEOPLE": "@lab.org",
                "CNNVIZ_MAY_UPLOAD": "admins",
                "CNNVIZ_LOG": "json",
            },
        )
        yield Visit(page, url, provider, tmp_path / "log.txt")


def test_people_sign_in_have_their_rights_and_sign_out(visit_with_sign_in: Visit) -> None:
    visit, page = visit_with_sign_in, visit_with_sign_in.page
    menu = page.get_by_test_id("stTopNavSection")
    link = f"{visit.url}/cam?image=coffee"
    page.goto(link)  # also a link to a page shows nothing before
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(menu).to_have_count(0)

    visit.sign_in("Impostor")
    page.goto(link)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()

    visit.sign_in("Ben")
    expect(page.get_by_role("heading", name="CAM", exact=True)).to_be_visible()  # where the link led
    assert "image=coffee" in page.url
    page.goto(visit.url)
    expect(menu.filter(has_text="Explain")).to_be_visible()
    pages = page.get_by_test_id("stMain")  # the start page lists them all
    expect(pages.get_by_role("link", name="Networks")).to_be_visible()
    expect(pages.get_by_role("link", name="Host")).to_have_count(0)
    page.get_by_role("button", name="Your own picture").click()
    expect(page.get_by_text("You may not bring files to this server")).to_be_visible()
    page.reload()  # the cookie keeps it
    expect(menu.filter(has_text="Explain")).to_be_visible()
    visit.sign_out()
    assert visit.provider.signed_out == 1

    visit.sign_in("Ann")
    expect(pages.get_by_role("link", name="Host")).to_be_visible()
    page.goto(f"{visit.url}/host")
    expect(page.get_by_role("heading", name="Settings in force")).to_be_visible()
    visit.sign_out()

    visit.sign_in("Stranger")
    expect(page.get_by_text("not open to your account")).to_be_visible()
    expect(menu).to_have_count(0)

    log = visit.log.read_text()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    came = [event["person"] for event in events if event["event"] == "signed in"]
    left = [event["person"] for event in events if event["event"] == "signed out"]
    assert left == list(dict.fromkeys(came))[:2]
    assert not any(word in log for word in ("ann@", "eve@", "ben@", CLIENT_SECRET))
