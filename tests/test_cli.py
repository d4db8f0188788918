"""The commands: wrong settings are said before anything starts, and the health check asks the right address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cnnviz_core import cli, settings


def test_wrong_settings_are_said_and_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.current.cache_clear()
    monkeypatch.setenv("CNNVIZ_MAX_MODELS", "many")
    monkeypatch.setattr(cli.os, "execv", lambda *_: pytest.fail("it started"))
    with pytest.raises(SystemExit, match="CNNVIZ_MAX_MODELS is 'many'"):
        cli.main()
    settings.current.cache_clear()


def test_the_app_is_found_in_a_checkout() -> None:
    assert (cli.app_folder() / "pages").is_dir()


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/team/_stcore/health" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running.server_port, asked
    running.shutdown()
    running.server_close()


def test_health_asks_below_the_base_path(server: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    port, asked = server
    monkeypatch.setenv("STREAMLIT_SERVER_PORT", str(port))
    monkeypatch.setenv("STREAMLIT_SERVER_BASE_URL_PATH", "/team/")
    cli.health()
    monkeypatch.delenv("STREAMLIT_SERVER_BASE_URL_PATH")
    with pytest.raises(SystemExit, match="404"):
        cli.health()
    assert asked == ["/team/_stcore/health", "/_stcore/health"]


def test_health_says_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLIT_SERVER_PORT", "9")
    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:9"):
        cli.health()
