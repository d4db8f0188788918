"""The link that was opened before signing in, across the provider and back; and what is no link of this server."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from cnnviz_core.ui import way_back


def visit(referer: str = "", *, base: str = "", cookie: str = "") -> str:
    """Signs in from an address, or with a cookie alone; where one comes out."""

    async def to_provider(_request: Request) -> Response:
        return RedirectResponse("https://provider.org/", 302)

    async def back(_request: Request) -> Response:
        return RedirectResponse(f"{base}/", 302)

    routes = [Route(f"{base}/auth/login", to_provider), Route(f"{base}/oauth2callback", back)]
    app = Starlette(routes=routes, middleware=[Middleware(way_back.KeepsLink)])
    client = TestClient(app, base_url="http://lab.org", follow_redirects=False)
    if not cookie:
        answer = client.get(f"{base}/auth/login", headers={"referer": referer})
        assert answer.headers["location"] == "https://provider.org/"
    arrived = client.get(f"{base}/oauth2callback", headers={"cookie": cookie} if cookie else {})
    if not cookie:
        assert not client.cookies  # it served its purpose
    return arrived.headers["location"]


def test_one_comes_back_to_the_link() -> None:
    assert visit("http://lab.org/cam?model=timm%2Fx&layer=a.b;c%22") == "/cam?model=timm%2Fx&layer=a.b;c%22"
    assert visit("http://lab.org/cnnviz/cam", base="/cnnviz") == "/cnnviz/cam"
    assert visit("http://lab.org/") == "/"


@pytest.mark.parametrize(
    "referer",
    [
        "",
        "nonsense",
        "http://[",
        "http://evil.org/cam",
        "http://lab.org//evil.org",
        "http://lab.org/\\evil.org",
        f"http://lab.org/cam?{'x' * 4000}",
    ],
)
def test_what_is_no_place_here_leads_to_the_start_page(referer: str) -> None:
    assert visit(referer) == "/"


def test_a_place_outside_the_apps_path_leads_to_the_start_page() -> None:
    assert visit("http://lab.org/other/page", base="/cnnviz") == "/cnnviz/"


@pytest.mark.parametrize(
    "cookie",
    [
        "cnnviz_way_back=//evil.org",
        "cnnviz_way_back=/%5Cevil.org",
        "cnnviz_way_back=/%09/evil.org",
        "cnnviz_way_back=/cam%0D%0Aset-cookie:%20a=b",
        "cnnviz_way_back=https://evil.org/",
        "cnnviz_way_back=; a[=b",
    ],
)
def test_a_forged_cookie_leads_nowhere_else(cookie: str) -> None:
    assert visit(cookie=cookie) == "/"
