"""What tests of pages share: reading a page, and waiting for the work behind it."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamlit.testing.v1 import AppTest

WAIT_S = 300  # for whatever a test waits for: machines differ by a factor of four, and more where others work, too


def captions(app: AppTest) -> str:
    return " ".join(caption.value for caption in app.caption)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not in {WAIT_S} s"
        time.sleep(0.05)


def run_until(app: AppTest, what: str | Callable[[], bool]) -> None:
    """Runs the page again and again, as a job's fragment does in a browser, until words are in a caption, or so."""
    deadline = time.monotonic() + WAIT_S
    while not (what in captions(app) if isinstance(what, str) else what()):
        assert time.monotonic() < deadline, f"not in {WAIT_S} s: {captions(app)} {[m.value for m in app.markdown]}"
        time.sleep(0.2)
        app.run()
    assert not app.exception, app.exception
