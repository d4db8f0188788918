"""Who is at the screen, so that long work is theirs after a reload, in another tab, and after a restart of the server.

Somebody who signed in is known by that. Everybody else gets a random number in a cookie, which comes with the page
itself and says nothing about them; scripts in the browser cannot read it. Where cookies are refused, a person is one
session and ends with it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from http.cookies import CookieError, SimpleCookie

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cnnviz_core.ui import access

_COOKIE = "cnnviz_person"
_NUMBER = re.compile(r"[0-9a-f]{32}")
_YEAR_SECONDS = 365 * 24 * 3600
_SESSION = "session-"


def me() -> str:
    """The id of the person whose run this is; no secret: neither address nor cookie can be got back from it."""
    who = access.person()
    if who.is_signed_in:
        return f"user-{_digest(who.subject)}"
    number = st.context.cookies.get(_COOKIE, "")
    if isinstance(number, str) and _NUMBER.fullmatch(number):  # the test runner’s cookies are no strings
        return f"browser-{_digest(number)}"
    context = get_script_run_ctx()
    return f"{_SESSION}{context.session_id if context else ''}"


def may_return(person: str) -> bool:
    """Whether that person is connected or can come back; one known by the session alone cannot, once it has ended."""
    if not person.startswith(_SESSION):
        return True
    return runtime.exists() and runtime.get_instance().is_active_session(person.removeprefix(_SESSION))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"cnnviz").hexdigest()


class GivesCookie:
    """ASGI middleware: every page that goes to a browser brings its person's cookie, or renews it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on; see the class."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "text/html" not in headers.get("accept", ""):  # pictures, scripts, sockets
            await self._app(scope, receive, send)
            return
        cookie = _cookie(_number_in(headers.get("cookie", "")), secure=scope.get("scheme") == "https")

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        await self._app(scope, receive, send_with_cookie)


def _number_in(cookies: str) -> str:
    """The number that the browser has; a new one where it has none, or something that is not one."""
    try:
        found = SimpleCookie(cookies).get(_COOKIE)
    except CookieError:
        found = None
    return found.value if found is not None and _NUMBER.fullmatch(found.value) else secrets.token_hex(16)


def _cookie(number: str, *, secure: bool) -> str:
    parts = [f"{_COOKIE}={number}", "Path=/", f"Max-Age={_YEAR_SECONDS}", "HttpOnly", "SameSite=Lax"]
    return "; ".join([*parts, "Secure"] if secure else parts)
