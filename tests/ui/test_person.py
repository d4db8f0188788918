"""Who is who: signed in, by the cookie, by the session; and the cookie itself."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest

from cnnviz_core.ui import person

BROWSER = {"accept": "text/html,application/xhtml+xml"}


def says_who() -> None:
    import streamlit as st

    from cnnviz_core.ui import person

    st.write(person.me())


def who(monkeypatch: pytest.MonkeyPatch, *, cookies: dict[str, str] | None = None, subject: str = "") -> str:
    monkeypatch.setattr("streamlit.runtime.context.ContextProxy.cookies", cookies or {})
    app = AppTest.from_function(says_who)
    app.user = {"is_logged_in": True, "iss": "provider", "sub": subject} if subject else {}
    app.run()
    assert not app.exception
    return app.markdown[0].value


def test_the_cookie_is_the_person_and_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ({"cnnviz_person": digit * 32} for digit in "ab")
    me = who(monkeypatch, cookies=one)
    assert re.fullmatch("browser-[0-9a-f]{32}", me)
    assert "a" * 32 not in me
    assert me == who(monkeypatch, cookies=one) != who(monkeypatch, cookies=other)
    assert person.may_return(me)


def test_signing_in_goes_before_the_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    me = who(monkeypatch, cookies={"cnnviz_person": "a" * 32}, subject="ada")
    assert re.fullmatch("user-[0-9a-f]{32}", me)
    assert me == who(monkeypatch, subject="ada") != who(monkeypatch, subject="bob")


@pytest.mark.parametrize("cookie", ["", "a" * 31, "A" * 32, "a" * 32 + "\n", "../" * 11, "é" * 32])
def test_what_is_no_number_is_no_person(monkeypatch: pytest.MonkeyPatch, cookie: str) -> None:
    me = who(monkeypatch, cookies={"cnnviz_person": cookie})
    assert me.startswith("session-")
    assert not person.may_return(me)  # its session has ended


def served(scheme: str = "http") -> TestClient:
    async def page(_request: Request) -> Response:
        return PlainTextResponse("page")

    app = Starlette(routes=[Route("/", page)], middleware=[Middleware(person.GivesCookie)])
    return TestClient(app, base_url=f"{scheme}://test")


def test_a_page_brings_a_cookie_that_scripts_and_other_sites_do_not_get() -> None:
    given = served().get("/", headers=BROWSER).headers["set-cookie"]
    assert re.fullmatch(r"cnnviz_person=[0-9a-f]{32}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", given)
    assert served("https").get("/", headers=BROWSER).headers["set-cookie"].endswith("; Secure")


def test_who_has_a_cookie_keeps_it_and_two_people_get_two() -> None:
    client = served()
    numbers = [client.get("/", headers=BROWSER).headers["set-cookie"].split(";")[0] for _ in range(2)]
    assert numbers[0] == numbers[1]  # the client sends it back
    assert served().get("/", headers=BROWSER).headers["set-cookie"].split(";")[0] != numbers[0]


@pytest.mark.parametrize("cookie", ["cnnviz_person=x", "cnnviz_person=" + "A" * 32, '"', "cnnviz_person=; a[=b"])
def test_nonsense_is_replaced(cookie: str) -> None:
    given = served().get("/", headers={**BROWSER, "cookie": cookie}).headers["set-cookie"]
    assert re.match(r"cnnviz_person=[0-9a-f]{32};", given)


def test_other_files_bring_none() -> None:
    assert "set-cookie" not in served().get("/", headers={"accept": "image/png"}).headers
