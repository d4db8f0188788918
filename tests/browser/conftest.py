"""A real server and a real Chromium.

Every test in this folder is marked ``browser``. Where there is no Chromium they are skipped with the reason, unless
``CNNVIZ_REQUIRE_BROWSER=1`` asks them to fail instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, expect

HERE = Path(__file__).parent
WAIT_MS = 180_000  # for whatever a test waits for: machines differ by a factor of four
REPOSITORY = HERE.parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
NO_OUTSIDE = ("--disable-background-networking", "--disable-component-update")
IDLE = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  return app && app.dataset.testConnectionState === 'CONNECTED' && app.dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-stale=true]') && !document.querySelector('[data-testid=stSkeleton]');
}"""


expect.set_options(timeout=WAIT_MS)


def chromium() -> str | None:
    """Path of the browser, from ``CNNVIZ_CHROMIUM`` or the search path."""
    return os.environ.get("CNNVIZ_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if HERE in item.path.parents]
    missing = chromium() is None and os.environ.get("CNNVIZ_REQUIRE_BROWSER") != "1"
    for item in here:
        item.add_marker("browser")
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"no Chromium on this machine (looked for {', '.join(BROWSERS)})"))


@pytest.fixture(scope="session")
def base_url() -> None:
    """Each server has its own address. Also keeps the fixture of pytest-base-url out, which pytest 9.2 warns about."""


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    path = chromium()
    if path is None:
        pytest.fail("CNNVIZ_REQUIRE_BROWSER=1, but there is no Chromium on this machine.")
    return {**browser_type_launch_args, "executable_path": path, "args": [*QUIET, *NO_OUTSIDE]}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict) -> dict:
    return {**browser_context_args, "viewport": {"width": 1280, "height": 900}}


@pytest.fixture
def context(context: BrowserContext) -> BrowserContext:
    context.set_default_timeout(WAIT_MS)
    return context


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    """Starts a Streamlit server for a script, once per session and script, and gives its address."""
    servers: dict[Path, tuple[str, subprocess.Popen]] = {}

    def start(script: Path) -> str:
        if script not in servers:
            log = tmp_path_factory.mktemp("server") / "log.txt"
            servers[script] = _start(script, log)
        return servers[script][0]

    yield start
    for _, process in servers.values():
        process.terminate()
    for _, process in servers.values():
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(
    script: Path, log: Path, more_options: Mapping[str, str] | None = None, variables: Mapping[str, str] | None = None
) -> tuple[str, subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "server.port": port,
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "full",  # a failing test then tells the traceback
        **(more_options or {}),
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(script), *flags],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path, "CNNVIZ_DATA_DIR": str(log.parent / "data"), **(variables or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + WAIT_MS / 1000
    while not _answers(f"{url}/_stcore/health"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            pytest.fail(f"The server for {script.name} did not start:\n{log.read_text()}")
        time.sleep(0.05)
    return url, process


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


class Site:
    """One server as one browser page sees it; remembers what went wrong on the way."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("console", self._heard)
        page.on("request", self._requested)

    def open(self, path: str = "/") -> Page:
        """Goes there and waits until the page has run."""
        self.page.goto(self.url + path)
        self.page.get_by_test_id("stApp").wait_for()
        self.idle()
        return self.page

    def idle(self) -> None:
        """Waits until no run is going on. Right after a click, expect its outcome first: the run may not have begun."""
        self.page.wait_for_function(IDLE)

    def go(self, section: str, title: str) -> None:
        """Goes to a page by the menu."""
        self.page.get_by_test_id("stTopNavSection").filter(has_text=section).click()
        self.page.get_by_test_id("stTopNavDropdownLink").filter(has_text=title).click()

    def check(self) -> None:
        """Fails on page errors, console errors, requests to other hosts, and exceptions or notices of bugs shown."""
        exceptions = self.page.locator("[data-testid=stException], [class*=st-key-bug_]").all_inner_texts()
        assert not (self.faults + exceptions), "\n".join(self.faults + exceptions)

    def _heard(self, message: ConsoleMessage) -> None:
        # A deep link makes Streamlit probe /page/_stcore/...; the 404 is part of its routine.
        if message.type == "error" and "/_stcore/" not in message.location.get("url", ""):
            self.faults.append(f"console: {message.text} {message.location.get('url', '')}")

    def _requested(self, request: Request) -> None:
        target = urlsplit(request.url)
        if target.scheme not in {"data", "blob"} and target.netloc != urlsplit(self.url).netloc:
            self.faults.append(f"request to another host: {request.url}")


@pytest.fixture
def visit(page: Page, serve: Callable[[Path], str]) -> Iterator[Callable[[Path], Site]]:
    """Makes a Site for a script; at the end of the test, faults fail it."""
    sites: list[Site] = []

    def make(script: Path) -> Site:
        sites.append(Site(page, serve(script)))
        return sites[-1]

    yield make
    for site in sites:
        site.check()


@pytest.fixture
def app(visit: Callable[[Path], Site]) -> Site:
    """The real app."""
    return visit(REPOSITORY / "app.py")


@pytest.fixture
def parts(visit: Callable[[Path], Site]) -> Site:
    """The app that mounts the browser-side components for tests; ``open("/?scene=...")``."""
    return visit(HERE / "component_app.py")


@pytest.fixture
def start_server() -> Iterator[Callable[..., str]]:
    """Starts a server of its own; takes the script, where the log goes, further options, and variables."""
    processes = []

    def start(script: Path, log: Path, options: Mapping[str, str], variables: Mapping[str, str]) -> str:
        url, process = _start(script, log, options, variables)
        processes.append(process)
        return url

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.fixture
def fresh_app(page: Page, tmp_path: Path) -> Iterator[Site]:
    """The real app on a server that nobody has visited yet."""
    url, process = _start(REPOSITORY / "app.py", tmp_path / "log.txt")
    site = Site(page, url)
    yield site
    process.terminate()
    process.wait(20)
    site.check()
