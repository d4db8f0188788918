"""What can be done with any figure: its files, the way into the report, and the link to its screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import streamlit as st

from cnnviz_core import manifest, reports
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
    is_small: bool = False,
) -> None:
    """The row below a figure.

    Args:
        files: What can be downloaded, made when it is asked for.
        key: Unique on the page.
        title: What is to be seen.
        picture: Makes the PNG or SVG for the report.
        settings: Everything that led to it; as :func:`settings_of` gives it.
        caption: How it was made, in one line.
        is_small: One button that holds all of it, below a small figure beside others.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}_take_away"):
        if is_small:
            with st.popover("Take away", icon=":material/ios_share:", type="tertiary", key=f"{key}_downloads"):
                _downloads(files, key)
                is_wanted = _report_button(key, "stretch")
                copy_link.show(key=f"{key}_link", of=title)
        else:
            with st.popover("Download", icon=":material/download:", key=f"{key}_downloads"):
                _downloads(files, key)
            is_wanted = _report_button(key, "content")
            copy_link.show(key=f"{key}_link", of=title)
    if is_wanted:
        with frame.errors():
            report = reports.add(
                person.me(), picture(), title=title, caption=caption, settings=settings, link=screen.here()
            )
            count = len(report.entries)
            st.toast(f"Added to your report: {count} figure{'s' * (count != 1)}.", icon=":material/note_add:")


def draw_of_screen(
    files: Sequence[File],
    *,
    key: str,
    title: str,
    picture: Callable[[], bytes],
    made: Mapping[str, object],
    caption: str = "",
    is_small: bool = False,
) -> None:
    """The row below a figure for which no function gave an account of its own; its manifest brings the screen back.

    Args:
        files: As in :func:`draw`, like the others; without the manifest.
        key: See there.
        title: See there.
        picture: See there.
        made: Everything that led to it, by name, with numbers as numbers.
        caption: See there.
        is_small: See there.
    """
    link = screen.here()
    account = manifest_file(title, lambda: manifest.of_screen(link, settings=made), has_python=False)
    draw(
        [*files, account],
        key=key,
        title=title,
        picture=picture,
        settings=setting_words.of(made),
        caption=caption,
        is_small=is_small,
    )


def _downloads(files: Sequence[File], key: str) -> None:
    for place, (label, name, tooltip, data) in enumerate(files):
        st.download_button(
            label, data, name, help=tooltip, key=f"{key}_download_{place}", on_click="ignore", width="stretch"
        )


def _report_button(key: str, width: Literal["content", "stretch"]) -> bool:
    return st.button(
        "Add to report",
        key=f"{key}_report",
        icon=":material/note_add:",
        help="Keeps this figure with its settings and link on the page Report, where you comment and export it.",
        width=width,
    )


def stem(title: str) -> str:
    """What the files of a figure are called, without their endings."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", title)


def manifest_file(title: str, account: Callable[[], str], *, has_python: bool = True) -> File:
    """The file that brings the screen back.

    Args:
        title: What is to be seen.
        account: Makes it; as :mod:`cnnviz_core.manifest` writes it.
        has_python: Whether it can be repeated in Python.
    """
    repeats = "versions, and lines of Python to repeat it" if has_python else "and versions"
    return (
        "Manifest (JSON)",
        f"{stem(title)}.json",
        f"Network, settings, {repeats}. Dropped into the sidebar, it brings this screen back.",
        lambda: account().encode(),
    )


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
