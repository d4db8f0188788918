"""What happens once, when the server starts and before the first session."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[dict[str, object]]:
    """Prepares the process before the first session."""
    # A folder called pages switches Streamlit's automatic menu on until st.navigation has run once; the first link
    # to a page after a start would be answered with "page not found".
    PagesManager.uses_pages_directory = False
    yield {}


def prepare() -> None:
    """Imports the libraries and loads the default network in a thread of its own, while the server opens its port."""
    threading.Thread(target=_prepare, daemon=True).start()


def _prepare() -> None:
    gc.disable()  # a hundred thousand new objects, all to stay: looking for garbage costs a tenth of the time
    try:
        _import_and_load()
        gc.freeze()
    finally:
        gc.enable()


def _import_and_load() -> None:
    from cnnviz_core import catalogue, settings, startup
    from cnnviz_core.methods import feature_maps, filters  # noqa: F401
    from cnnviz_core.ui import compute, sidebar  # noqa: F401

    startup.prepare(settings.current().threads_per_run)
    catalogue.entries()
    compute.model(catalogue.DEFAULT_MODEL, "default")
