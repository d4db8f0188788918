"""What can be done with any figure: its files, the way into the report, and the link to its screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
import streamlit as st

from cnnviz_core import render, reports
from cnnviz_core.results import Run
from cnnviz_core.ui import frame, person, screen, setting_words
from cnnviz_core.ui.components import copy_link

# Label, file name, tooltip, and what makes the bytes.
File = tuple[str, str, str, Callable[[], bytes]]


def draw(
    files: Sequence[File],
    *,
    key: str,
    title: str,
    picture: Callable[[], bytes],
    settings: Mapping[str, str],
    caption: str = "",
) -> None:
    """The row below a figure.

    Args:
        files: What can be downloaded, made when it is asked for.
        key: Unique on the page.
        title: What is to be seen.
        picture: Makes the PNG or SVG for the report.
        settings: Everything that led to it; as :func:`settings_of` gives it.
        caption: How it was made, in one line.
    """
    row = st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}_take_away")
    with row.popover("Download", icon=":material/download:", key=f"{key}_downloads"):
        for place, (label, name, tooltip, data) in enumerate(files):
            st.download_button(
                label, data, name, help=tooltip, key=f"{key}_download_{place}", on_click="ignore", width="stretch"
            )
    with row:
        is_wanted = st.button(
            "Add to report",
            key=f"{key}_report",
            icon=":material/note_add:",
            help="Keeps this figure with its settings and link on the page Report, where you comment and export it.",
        )
        copy_link.show(key=f"{key}_link", of=title)
    if is_wanted:
        with frame.errors():
            report = reports.add(
                person.me(), picture(), title=title, caption=caption, settings=settings, link=screen.here()
            )
            count = len(report.entries)
            st.toast(f"Added to your report: {count} figure{'s' * (count != 1)}.", icon=":material/note_add:")


def chart(figure: go.Figure, *, key: str, title: str, settings: Mapping[str, str], caption: str = "") -> None:
    """A chart with its row: as SVG, into the report, the link.

    Args:
        figure: What :func:`render.svg` can draw.
        key: Unique on the page.
        title: What is to be seen.
        settings: As in :func:`draw`, like the next one.
        caption: See there.
    """
    st.plotly_chart(figure, key=key, width="stretch")
    row(lambda: figure, key=key, title=title, settings=settings, caption=caption)


def row(
    figure: Callable[[], go.Figure], *, key: str, title: str, settings: Mapping[str, str], caption: str = ""
) -> None:
    """The row of a chart that is on screen already, with the arguments of :func:`chart`; it is made when asked for."""

    def picture() -> bytes:
        return render.svg(figure())

    name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', title)}.svg"
    files = [("Chart (SVG)", name, "For a slide or a paper, sharp at any size.", picture)]
    draw(files, key=key, title=title, picture=picture, settings=settings, caption=caption)


def settings_of(run: Run, *, network: str = "", picture: str = "") -> dict[str, str]:
    """Everything that led to a result, for people.

    Args:
        run: The result's own account.
        network: What the network is called; empty for its id.
        picture: What the picture is called; empty where none took part.
    """
    made: dict[str, object] = {
        "network": network or run.model_id,
        "weights": None if run.weights == "default" else run.weights,
        "other network": run.other.model_id if run.other else None,
        "picture": picture or None,
        "method": run.method,
        **run.settings,
        "seed": run.seed,
    }
    return setting_words.of(made)
