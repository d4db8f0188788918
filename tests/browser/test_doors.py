"""Whom the server answers: its own pages. Asked without a browser, as somebody who means no good would."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

APP = Path(__file__).parents[2] / "app.py"


@pytest.fixture(scope="module")
def url(serve: Callable[[Path], str]) -> str:
    return serve(APP)


def knock(url: str, **more: object) -> None:
    address = f"ws://{urlsplit(url).netloc}/_stcore/stream"
    with connect(address, subprotocols=["streamlit"], **more):  # type: ignore[arg-type]
        pass


def asked(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_page_of_another_site_gets_no_socket(url: str) -> None:
    knock(url, origin=url)
    with pytest.raises(InvalidStatus, match="403"):
        knock(url, origin="http://elsewhere.example")


def test_another_name_for_this_server_is_refused_where_its_names_are_set(
    tmp_path: Path, start_server: Callable[..., str]
) -> None:
    url = start_server(APP, tmp_path / "log.txt", {"server.allowedHosts": "127.0.0.1"}, {})
    knock(url)
    with pytest.raises(InvalidStatus, match="403"):
        knock(url.replace("127.0.0.1", "localhost"))


def test_an_upload_without_its_token_is_refused(url: str) -> None:
    request = urllib.request.Request(f"{url}/_stcore/upload_file/some-session/some-file", data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize(
    "path",
    [
        "/media/..%2f..%2fapp.py",
        "/component/..%2f..%2fpyproject.toml",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/app/static/..%2fapp.py",
        "/_stcore/agent/",
    ],
)
def test_no_file_of_the_server_comes_out(url: str, path: str) -> None:
    status, content = asked(url + path)
    assert status in (400, 403, 404) or content == asked(url)[1]  # the app's own first page
