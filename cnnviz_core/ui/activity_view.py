"""The page of jobs: what is being computed, what has been, and the way back to each result."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import streamlit as st

from cnnviz_core.job_records import Record, State
from cnnviz_core.jobs import Job, Queue
from cnnviz_core.ui import access, frame, person, screen, work

_POLL_SECONDS = 1.0
_AT_A_TIME = 10
_DAY_SECONDS = 24 * 3600

_WORDS = {
    State.WAITING: ":material/hourglass_empty: waits in another process of this server",
    State.RUNNING: ":material/play_circle: runs in another process of this server",
    State.PAUSED: ":material/pause_circle: paused in another process of this server",
    State.DONE: ":material/check_circle: done",
    State.CANCELLED: ":material/stop_circle: cancelled",
    State.FAILED: ":material/error: failed",
    State.INTERRUPTED: ":material/restart_alt: interrupted, since the server was restarted",
}


@dataclass(frozen=True)
class Whose:
    """Whose jobs are listed.

    Attributes:
        me: Who looks.
        is_everyones: Whether others’ are listed, too.
    """

    me: str
    is_everyones: bool

    def shows(self, people: Collection[str]) -> bool:
        """Whether a job of these people is listed."""
        return self.is_everyones or self.me in people


def choose() -> Whose:
    """Asks whose jobs to list, where the person may see others’."""
    st.session_state.pop("run_again", None)  # that page never asked for it
    is_everyones = access.may("see_all_jobs") and st.toggle(
        "Everyone’s",
        key="everyones",
        bind="query-params",
        help="Also the jobs of others. Without it, the list is of what you asked for in this browser, or as the "
        "person who is signed in.",
    )
    return Whose(person.me(), is_everyones)


def now(whose: Whose) -> None:
    """What waits, runs or is paused, with its progress."""
    st.subheader("Now", anchor=False)
    live = _live(whose)
    if not live:
        st.caption("Nothing is being computed.")
        return
    st.fragment(_now, run_every=_POLL_SECONDS)(whose, [job.key for _, job in live])


def _live(whose: Whose) -> list[tuple[Queue, Job]]:
    return [(line, job) for line, job in work.live() if whose.shows(job.owners)]


def _now(whose: Whose, keys: list[str]) -> None:
    live = _live(whose)
    for line, job in live:
        record = job.record
        if record is None:
            continue
        with st.container(border=True, key=f"live_{record.name}"):
            if whose.me in job.owners:
                work.controls(line, job, name=f"live_{record.name}")
            else:
                share, words = work.progress(line, job)
                st.progress(share, text=frame.plain(words))
            _described(record, whose)
            _open_button(record, "Open", f"live_{record.name}_open")
    if {job.key for _, job in live} != set(keys):  # last, so that a click has been heard
        st.rerun()


def before(whose: Whose) -> None:
    """What has ended, the latest first, with the way back to it."""
    st.subheader("Before", anchor=False)
    running = {job.record.name for _, job in work.live() if job.record}
    ended = [one for one in work.records().all() if whose.shows(one.people) and one.name not in running]
    if not ended:
        st.caption("Long work that you start on any page is listed here, and its result is kept for a while.")
        return
    shown = st.session_state.setdefault("activity_shown", _AT_A_TIME)
    for record in ended[:shown]:
        _ended(record, whose)
    if len(ended) > shown and st.button(f"Show more of {len(ended):,}", key="activity_more"):
        st.session_state["activity_shown"] = shown + _AT_A_TIME
        st.rerun()


def _ended(record: Record, whose: Whose) -> None:
    is_kept = record.state is State.DONE and record.is_of_this_version and work.records().results.has(record.name)
    with st.container(border=True, key=f"ended_{record.name}"):
        words, buttons = st.columns([3, 2], vertical_alignment="center")
        with words:
            st.markdown(f"**{frame.plain(record.title)}**\u2002{_state(record, is_kept=is_kept)}")
            if record.error:
                st.caption(frame.plain(record.error))
            _described(record, whose)
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            if record.state.is_live:
                return
            _open_button(record, "Open" if is_kept else "Open the page", f"open_{record.name}")
            if not is_kept:
                _open_button(record, "Run again", f"again_{record.name}", again=True)
            if whose.me in record.people and st.button(
                "Remove",
                key=f"remove_{record.name}",
                icon=":material/delete:",
                help="From your list; the result goes with it unless others asked for it, too.",
            ):
                with frame.errors():
                    work.records().remove(record.name, person=whose.me)
                    st.rerun()


def _state(record: Record, *, is_kept: bool) -> str:
    if record.state is State.DONE and not record.is_of_this_version:
        return ":material/history: made by another version of cnnviz, which may have computed something else"
    if record.state is State.DONE and not is_kept:
        return ":material/check_circle: done; the result is not on disk"
    return _WORDS[record.state]


def _described(record: Record, whose: Whose) -> None:
    """When, how long, with which settings; in one grey line."""
    parts = [_when(record.asked)]
    if record.seconds:
        parts.append(f"ran {work.duration(record.seconds)}")
    parts += [frame.plain(f"{name} {value}") for name, value in record.about.items() if value]
    if whose.me not in record.people:
        parts.append("another person’s")
    st.caption(" · ".join(parts))


def _when(seconds: float) -> str:
    """A time of the day, with the date where it was not within the last day; in the person's own time zone."""
    try:
        then = datetime.fromtimestamp(seconds, UTC) - timedelta(minutes=_minutes_behind())
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"
    return then.strftime("%H:%M") if time.time() - seconds < _DAY_SECONDS else then.strftime("%d %b %Y, %H:%M")


def _minutes_behind() -> int:
    """Minutes by which the clock at the screen is behind universal time."""
    offset = st.context.timezone_offset
    return offset if isinstance(offset, int) else 0


def _open_button(record: Record, label: str, key: str, *, again: bool = False) -> None:
    """A button that goes to the page where a job was asked for, in the state that it had then."""
    is_here = record.page in {link.path for link in frame.pages()}
    icon = ":material/replay:" if again else ":material/open_in_new:"
    if st.button(label, key=key, icon=icon, disabled=not is_here, help=None if is_here else "That page is not here."):
        if again:
            work.run_again(record.key)
        screen.go(record.page, record.link)
