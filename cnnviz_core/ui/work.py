"""Slow methods on a page: the cost first, one Run button, then progress with what is there so far, and a cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cnnviz_core import jobs, startup
from cnnviz_core.jobs import Job, Queue, State
from cnnviz_core.ui import compute, frame
from cnnviz_core.ui.pickers import Selection

_POLL_SECONDS = 0.5


@st.cache_resource(show_spinner=False)
def _queue(line: str = "methods") -> Queue:
    """The jobs of one line; a line of its own keeps hours of indexing from holding up everybody’s seconds."""
    del line
    return Queue()


def run(
    function: Callable[..., Any],
    chosen: Selection,
    *,
    name: str,
    title: str,
    cost: str,
    show: Callable[[Any], None],
    **settings: Any,
) -> Any | None:
    """Draws a slow method until it is done; as :func:`until_done`.

    Args:
        function: Takes model, image, the settings, and ``on_step``.
        chosen: Network and picture.
        name: Unique on the page.
        title: What is computed, for people.
        cost: What it takes, said before it is started.
        show: Draws what is there so far, while it runs.
        **settings: Keyword arguments of the function: numbers, strings, or sequences of them.
    """
    key = repr((compute.key(function, chosen.model, chosen.image), sorted(settings.items())))
    model, image = chosen.model, chosen.image
    return until_done(
        lambda on_step: function(model, image, on_step=on_step, **settings),
        key=key,
        name=name,
        title=title,
        cost=cost,
        show=show,
    )


def until_done(
    work: jobs.Work,
    *,
    key: str,
    name: str,
    title: str,
    cost: str,
    show: Callable[[Any], None] | None = None,
    at_once: bool = False,
    line: str = "methods",
) -> Any | None:
    """Draws long work until it is done: a button to start it, then its progress.

    Args:
        work: Takes ``on_step``.
        key: What is computed; whoever asks for the same key shares the work.
        name: Unique on the page.
        title: What is computed, for people.
        cost: What it takes, said before it is started.
        show: Draws what is there so far, while it runs; None for nothing to show.
        at_once: Whether it starts by itself when it was never asked for; for what takes seconds and the page needs.
        line: Jobs of one line wait for each other.

    Returns:
        The result; after a cancel what was there by then, if anything; None until it is there.
    """
    queue, me = _queue(line), _session()
    job = queue.find(key)
    if job is not None and job.state is State.DONE:
        return job.result
    mine = job if job is not None and me in job.asked_by else None
    given_up: set[str] = st.session_state.setdefault("given_up", set())
    is_live = job is not None and job.is_live and job.can_be_joined
    if key not in given_up and (is_live or (at_once and mine is None)):
        queue.submit(key, title, _released(work), owner=me)
        _live(key, name, show, line)
        return None
    found = None if mine is None else _broken_off(mine)
    if st.button(f"Run: {title}", key=f"{name}_run", type="primary", icon=":material/play_arrow:", help=cost):
        given_up.discard(key)
        queue.submit(key, title, _released(work), owner=me)
        st.rerun()
    st.caption(cost)
    return found


def _released(work: jobs.Work) -> jobs.Work:
    """The work, after which memory that it left behind is given back."""

    def do(on_step: jobs.OnStep) -> object:
        try:
            with compute.shelf().keeping():
                return work(on_step)
        finally:
            startup.release_memory()  # long work leaves hundreds of MB behind

    return do


def _session() -> str:
    context = get_script_run_ctx()
    return context.session_id if context else ""


def _is_here(session: str) -> bool:
    return runtime.exists() and runtime.get_instance().is_active_session(session)


@st.fragment(run_every=_POLL_SECONDS)
def _live(key: str, name: str, show: Callable[[Any], None] | None, line: str) -> None:
    """Progress of a job, told twice a second; the page runs again when it has ended."""
    queue = _queue(line)
    job = queue.find(key)
    if job is None or not job.is_live:
        st.rerun()
        return
    bar, button = st.columns([5, 1], vertical_alignment="center")
    share, words = _progress(queue, job)
    bar.progress(share, text=words)
    if button.button("Cancel", key=f"{name}_cancel", icon=":material/stop:", width="stretch"):
        st.session_state["given_up"].add(key)
        queue.cancel(job, owner=_session(), is_here=_is_here)
        st.rerun()
    if show is not None and job.step is not None and job.step.partial is not None:
        show(job.step.partial)


def _progress(queue: Queue, job: Job) -> tuple[float, str]:
    ahead = queue.num_ahead(job)
    if job.state is State.WAITING:
        return 0.0, f"{job.title}: waiting, {ahead} before it"
    if job.step is None:
        return 0.0, f"{job.title}: starting"
    left = job.seconds_left
    rate = job.step.done / job.seconds if job.seconds else 0
    time_left = f", about {left:.0f} s left" if left is not None else ""
    words = f"{job.title}: {job.step.done:,} of {job.step.total:,}, {rate:.0f} a second{time_left}"
    return min(1.0, job.step.done / max(1, job.step.total)), words


def _broken_off(job: Job) -> Any | None:
    """Says how a job ended that did not succeed; gives what was there by then."""
    partial = job.step.partial if job.step else None
    after = f" after {job.step.done:,} of {job.step.total:,} steps" if job.step else ""
    kept = " What is shown was computed until then." if partial is not None else ""
    if job.state is State.FAILED:
        frame.problem(f"{job.error}{kept}")
    else:  # also while it goes on for others
        st.warning(f"Cancelled{after}.{kept}", icon=":material/stop_circle:")
    return partial
