"""The guided tour: one slide at a time, the way onward, and the way to the page that shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import streamlit as st

from cnnviz_core import catalogue, photos
from cnnviz_core.errors import CnnvizError
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import compute, frame, screen, work
from cnnviz_core.ui.components import slide
from cnnviz_core.ui.tour_stops import STOPS, Slide, Stop, with_photo


def draw() -> None:
    """The slide that one is at, the way to its page, and ahead of time what the next ones need."""
    at = _at()
    stop = STOPS[at]
    with st.spinner("Loading the network", show_time=True):
        model = compute.model(catalogue.DEFAULT_MODEL)
    told = _told(stop, model)
    slide.show(
        key="tour",
        titles=[one.title for one in STOPS],
        stop=at,
        large=told.large,
        small=told.small,
        pictures=told.pictures,
        bars=told.bars,
        on_go=_go,
    )
    if told.below is None:
        st.empty()  # in place of what was there, which else would stay while the next stop is computed
    else:
        with st.container():
            told.below()
    _onward(stop, told)
    _ahead(model, at)


def _at() -> int:
    """The stop, from the session or the link."""
    if "stop" not in st.session_state:
        wanted = st.query_params.get("stop", "1")
        is_there = wanted in [str(number) for number in range(1, len(STOPS) + 1)]
        if not is_there:
            frame.notice(f"The link asks for stop “{wanted[:40]}” of {len(STOPS)}; the tour begins at the first.")
        st.session_state["stop"] = int(wanted) - 1 if is_there else 0
    at: int = st.session_state["stop"]
    if at or "stop" in st.query_params:
        st.query_params["stop"] = str(at + 1)
    return at


def _go(at: int) -> None:
    st.session_state["stop"] = at


def _told(stop: Stop, model: LoadedModel) -> Slide:
    """The slide; where a network cannot show it, or it takes a while, one that says so."""
    chosen = with_photo(model, stop.photo)
    try:
        if stop.long is None:
            return stop.tell(chosen)
        job = stop.long(chosen).job(chosen)
        found = work.finished(job["key"])
        if found is None:
            words = "This server computes it for the first time. Go on meanwhile, and come back."
            return Slide(stop.waiting, words, below=lambda: _wait(stop, job))
        return stop.tell(chosen, found)
    except CnnvizError as error:
        return Slide("This network cannot show this stop.", str(error))


def _wait(stop: Stop, job: Mapping[str, Any]) -> None:
    """The progress of long work, and then the stop itself."""
    cost, name = "It takes a few seconds.", f"tour {stop.title}"
    if work.until_done(**job, name=name, cost=cost, show=stop.so_far, at_once=True) is not None:
        st.rerun()


def _onward(stop: Stop, told: Slide) -> None:
    """The ways out of the tour."""
    here = {link.path: link.title for link in frame.pages()}
    with st.container(horizontal=True, vertical_alignment="center", key="tour_onward"):
        words = f"Open this on the page {here[stop.page]}"
        if st.button(words, key="tour_open", icon=":material/open_in_new:", type="tertiary"):
            screen.go(stop.page, {"image": [photos.PHOTOS[stop.photo].title], **told.link})
        st.page_link("pages/look/home.py", label="Leave the tour", icon=":material/close:")


def _ahead(model: LoadedModel, at: int) -> None:
    """Computes what the next stops need, while one looks at this one."""
    following = STOPS[at + 1 :]
    with suppress(CnnvizError):  # the stop itself will say it
        for stop in following:
            chosen = with_photo(model, stop.photo)
            if stop.long is not None:
                work.begin(**stop.long(chosen).job(chosen))
            elif stop is following[0]:
                stop.tell(chosen)
