"""Whoever opens a link and is asked to sign in comes back to that link, not to the start page.

Streamlit sends people to the provider from ``auth/login`` and, when they return, from ``oauth2callback`` to the start
page. The first of these requests says which address it came from; a cookie of some minutes keeps it until the second.
"""

from __future__ import annotations

import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE = "cnnviz_way_back"
_MINUTES = 15
_MOST_LETTERS = 3000  # browsers drop cookies above 4096
_PLACE = re.compile(r"/(?![/\\])[!-~]*")  # of this server: two slashes would begin the name of another one


class KeepsLink:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on; see the module."""
        step = scope["path"].rpartition("/")[2] if scope["type"] == "http" else ""
        if step not in ("login", "oauth2callback"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        place = _came_from(headers) if step == "login" else _kept(headers.get("cookie", ""))
        security = "; Secure" if scope.get("scheme") == "https" else ""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and place:
                answer = MutableHeaders(scope=message)
                seconds = _MINUTES * 60 if step == "login" else 0
                value = f"{_COOKIE}={quote(place, safe='/')}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"
                answer.append("set-cookie", value + security)
                start = answer.get("location", "")
                if step == "oauth2callback" and start and place.startswith(start):
                    answer["location"] = place
            await send(message)

        await self._app(scope, receive, send_on)


def _came_from(headers: Headers) -> str:
    """The place on this server from which a request came, with what stands behind the question mark; empty for none."""
    try:
        address = urlsplit(headers.get("referer", ""))
    except ValueError:
        return ""
    place = f"{address.path}?{address.query}" if address.query else address.path
    is_here = address.netloc == headers.get("host") and len(quote(place, safe="/")) <= _MOST_LETTERS
    return place if is_here and _PLACE.fullmatch(place) else ""


def _kept(cookies: str) -> str:
    try:
        found = SimpleCookie(cookies).get(_COOKIE)
    except CookieError:
        return ""
    place = unquote(found.value) if found is not None else ""
    return place if _PLACE.fullmatch(place) else ""
