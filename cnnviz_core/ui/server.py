"""What happens once, when the server starts and before the first session."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import metadata

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from cnnviz_core import journal, settings
from cnnviz_core.errors import BadSetting
from cnnviz_core.settings import Settings

_DAY_SECONDS = 24 * 3600


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[dict[str, object]]:
    """Prepares the process before the first session."""
    # A folder called pages switches Streamlit's automatic menu on until st.navigation has run once; the first link
    # to a page after a start would be answered with "page not found".
    PagesManager.uses_pages_directory = False
    _take_over_logs()  # all loggers are there now
    yield {}


def prepare() -> None:
    """Checks the settings, then imports the libraries and loads the default network in a thread of its own, while the
    server opens its port.

    Raises:
        SystemExit: Settings are wrong; says which.
    """
    try:
        chosen = settings.current()
    except BadSetting as error:
        raise SystemExit(f"cnnviz does not start, since its settings are wrong.\n{error}") from None
    journal.configure(chosen.log)
    _tell_start(chosen)
    threading.Thread(target=_prepare, daemon=True).start()
    threading.Thread(target=_keep_up, name="cnnviz-upkeep", daemon=True).start()


def version() -> str:
    """Of the installed package."""
    try:
        return metadata.version("cnnviz")
    except metadata.PackageNotFoundError:  # run from a copy that was never installed
        return "unknown"


def is_public() -> bool:
    """Whether other machines can reach this server."""
    address = str(st.get_option("server.address") or "")
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address != "localhost"


def _tell_start(chosen: Settings) -> None:
    changed = {name: _unnamed(value) for name, value in asdict(chosen).items() if value != getattr(Settings(), name)}
    journal.event("start", version=version(), streamlit=st.__version__, settings=changed)
    for name in settings.unknown(os.environ):
        journal.event("unknown setting", level=logging.WARNING, name=name)
    if is_public() and not (st.secrets.load_if_toml_exists() and "auth" in st.secrets):
        journal.event(
            "other machines can reach this server and nobody has to sign in",
            level=logging.WARNING,
            address=st.get_option("server.address") or "all",
        )


def _unnamed(value: object) -> object:
    """A setting as the log may have it, which says nowhere who somebody is."""
    if not isinstance(value, tuple):
        return value
    return tuple("…" if isinstance(one, str) and "@" in one else one for one in value)


def _take_over_logs() -> None:
    """Has Streamlit's and the server's own lines written as the settings say; bugs are written by the journal."""
    logging.getLogger("streamlit.error_util").addFilter(lambda record: record.msg != "Uncaught app execution")
    if settings.current().log != "json":
        return
    for name in list(logging.root.manager.loggerDict):
        # Not uvicorn.access, which is silent otherwise: addresses hold names of pictures.
        if name.partition(".")[0] in {"streamlit", "uvicorn"} and name != "uvicorn.access":
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True


def _keep_up() -> None:
    """Looks after the data folder now and once a day."""
    while True:
        from cnnviz_core import upkeep  # brings torch, which the other thread imports meanwhile

        try:
            upkeep.sweep()
        except Exception as error:  # the next day is another one
            journal.bug(error, where="upkeep")
        time.sleep(_DAY_SECONDS)


def _prepare() -> None:
    gc.disable()  # a hundred thousand new objects, all to stay: looking for garbage costs a tenth of the time
    try:
        _import_and_load()
        gc.freeze()
    finally:
        gc.enable()


def _import_and_load() -> None:
    from cnnviz_core import catalogue, startup
    from cnnviz_core.methods import feature_maps, filters  # noqa: F401
    from cnnviz_core.ui import compute, sidebar  # noqa: F401

    began = time.monotonic()
    startup.prepare(settings.current().threads_per_run)
    catalogue.entries()
    model = compute.model(catalogue.DEFAULT_MODEL, "default")
    journal.event("ready", device=str(model.device), seconds=round(time.monotonic() - began, 2))
