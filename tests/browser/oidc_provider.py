"""A provider of OpenID Connect for tests: discovery, a page with three people to be, tokens signed with RS256."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID = "cnnviz-test"
CLIENT_SECRET = secrets.token_hex(16)


class Provider:
    """Runs in a thread while the ``with`` block lasts.

    Args:
        people: For each name on the page the claims about that person; a claim ``forged`` has the token signed with a
            key that is not the provider's.
    """

    def __init__(self, people: Mapping[str, Mapping[str, Any]]) -> None:
        self.people = people
        self.codes: dict[str, tuple[str, str]] = {}
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"}, private=True)
        self.foreign_key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"}, private=True)
        self.signed_out = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                provider.give_token(self, {name: values[0] for name, values in parse_qs(body).items()})

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Provider:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/.well-known/openid-configuration":
            endpoints = {f"{name}_endpoint": f"{self.url}/{name}" for name in ("authorization", "token", "end_session")}
            _json(request, {
                "issuer": self.url, **endpoints, "jwks_uri": f"{self.url}/jwks",
                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"], "code_challenge_methods_supported": ["S256"],
            })  # fmt: skip
        elif address.path == "/jwks":
            _json(request, {"keys": [self.key.as_dict(private=False)]})
        elif address.path == "/authorization":
            assert asked["client_id"] == CLIENT_ID
            assert asked["code_challenge_method"] == "S256"
            links = "".join(f'<p><a href="/choose?{urlencode({**asked, "who": who})}">{who}</a>' for who in self.people)
            _html(request, f"<title>Provider</title>{links}")
        elif address.path == "/choose":
            code = secrets.token_hex(8)
            self.codes[code] = (asked["who"], asked["nonce"])
            _redirect(request, f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}")
        elif address.path == "/end_session":
            self.signed_out += 1
            _redirect(request, asked["post_logout_redirect_uri"])
        else:
            request.send_error(404)

    def give_token(self, request: BaseHTTPRequestHandler, asked: Mapping[str, str]) -> None:
        who, nonce = self.codes.pop(asked["code"])
        claims = dict(self.people[who])
        key = self.foreign_key if claims.pop("forged", False) else self.key
        now = int(time.time())
        claims |= {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 600, "nonce": nonce}
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, key)
        _json(request, {"access_token": secrets.token_hex(8), "token_type": "Bearer", "id_token": token})


def _json(request: BaseHTTPRequestHandler, content: object) -> None:
    _send(request, "application/json", json.dumps(content))


def _html(request: BaseHTTPRequestHandler, content: str) -> None:
    _send(request, "text/html", content)


def _send(request: BaseHTTPRequestHandler, kind: str, content: str) -> None:
    body = content.encode()
    request.send_response(200)
    request.send_header("content-type", kind)
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _redirect(request: BaseHTTPRequestHandler, target: str) -> None:
    request.send_response(302)
    request.send_header("location", target)
    request.send_header("content-length", "0")
    request.end_headers()
