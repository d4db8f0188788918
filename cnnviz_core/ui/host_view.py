"""The parts of the page of the host: the machine, the disk, what is in memory, jobs, errors, settings in force."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import fields

import streamlit as st
from streamlit import runtime

from cnnviz_core import journal, machine, settings, upkeep
from cnnviz_core.ui import access, compute, server, work

_MB = 2**20
_KINDS = {
    "pictures": "uploaded pictures",
    "checkpoints": "uploaded weights",
    "collections": "collections",
    "indexes": "indexes",
    "jobs": "results of long work",
    "reports": "reports",
}


def overview() -> None:
    """Version, machine, memory and disk, measured now."""
    access.require("see_host")
    now = machine.measure(settings.current().data_dir)
    st.button("Measure again", key="measure_again", icon=":material/refresh:")
    cells = st.columns(4)
    cells[0].metric("This process", _size(now.process_mb), help="Memory that it holds.")
    cells[1].metric("Memory left", _size(now.memory_left_mb), help=f"Of {_size(now.memory_mb)} on this machine.")
    cells[2].metric("Disk left", _size(now.disk_left_mb), help="Where the data folder is.")
    cells[3].metric("Open sessions", f"{num_sessions():,}", help="Browser tabs that are connected.")
    gpu = f"{now.accelerator}, {_size(now.accelerator_left_mb)} of {_size(now.accelerator_mb)} left"
    where = gpu if now.accelerator_mb else now.accelerator or f"CPU, {now.num_cores} cores"
    st.caption(
        f"cnnviz {server.version()} · Python {now.python} · torch {now.torch} · Streamlit {st.__version__} · "
        f"{now.system} · {where} · up for {work.duration(now.up_seconds)}"
    )


def disk() -> None:
    """The data folder by kind."""
    used = upkeep.disk_use()
    st.subheader("Data folder", anchor=False)
    if not used:
        st.caption("Empty.")
        return
    st.dataframe(
        {
            "What": [_KINDS.get(name, name) for name in used],
            "MB": [round(num_bytes / _MB, 2) for num_bytes in used.values()],
        },
        hide_index=True,
        width="content",
    )


def networks() -> None:
    """The networks in memory."""
    st.subheader("Networks in memory", anchor=False)
    held = compute.shelf().held()
    if not held:
        st.caption("None.")
        return
    chosen = settings.current()
    st.dataframe(
        {
            "Network": [one.title for one in held],
            "MB": [round(one.num_bytes / _MB, 1) for one in held],
            "Last used": [f"{work.duration(one.seconds_unused)} ago" for one in held],
        },
        hide_index=True,
        width="content",
    )
    total = sum(one.num_bytes for one in held) / _MB
    st.caption(
        f"{len(held)} of at most {chosen.max_models}, {total:,.0f} of at most {chosen.models_mb:,} MB. The longest "
        "unused go first; one in use stays."
    )


def jobs() -> None:
    """How many jobs live, and how those ended that are kept."""
    st.subheader("Jobs", anchor=False)
    states = Counter(job.state.value for _, job in work.live())
    ended = Counter(record.state.value for record in work.records().all() if not record.state.is_live)
    words = [f"{count} {state}" for state, count in (*states.items(), *ended.items())]
    st.caption(", ".join(words) + "." if words else "None.")


def errors() -> None:
    """The last bugs, each with the id that the person saw."""
    st.subheader("Recent errors", anchor=False)
    bugs = journal.bugs()
    if not bugs:
        st.caption("None since the start. What a person can mend, such as a damaged picture, is not listed.")
        return
    st.dataframe(
        {
            "Number": [bug.bug_id for bug in bugs],
            "When (UTC)": [bug.when.strftime("%Y-%m-%d %H:%M:%S") for bug in bugs],
            "Where": [bug.where for bug in bugs],
            "Error": [bug.kind for bug in bugs],
            "Raised in": [bug.place for bug in bugs],
        },
        hide_index=True,
    )
    st.caption("The log has the traceback of each under its number.")


def in_force() -> None:
    """Every setting with its value and where that comes from."""
    st.subheader("Settings in force", anchor=False)
    chosen = settings.current()
    names = [field.name for field in fields(chosen)]
    st.dataframe(
        {
            "Variable": [settings.variable(name) for name in names],
            "Value": [_words(getattr(chosen, name)) for name in names],
            "From": [
                "environment" if os.environ.get(settings.variable(name), "").strip() else "default" for name in names
            ],
        },
        hide_index=True,
    )


def num_sessions() -> int:
    """Browser tabs that are connected to this server."""
    if not runtime.exists():
        return 0
    stats = runtime.get_instance().stats_mgr.get_stats(family_names=["active_sessions"])
    return sum(int(getattr(stat, "value", 0)) for family in stats.values() for stat in family)


def _size(mb: float) -> str:
    return f"{mb / 1024:,.1f} GB" if mb >= 1024 else f"{mb:,.0f} MB"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
