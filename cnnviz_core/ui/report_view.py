"""The page of the report: figures set aside on other pages, put in order, commented, and exported as one file."""

from __future__ import annotations

import re
import time

import streamlit as st

from cnnviz_core import reports
from cnnviz_core.errors import BadImage
from cnnviz_core.reports import Entry, Report
from cnnviz_core.ui import frame, person, screen

_JUST_TYPED_SECONDS = 0.5


def draw() -> None:
    """The whole page."""
    me = person.me()
    report = reports.load(me)
    if report.problem:
        frame.notice(report.problem)
    if report.entries:
        _head(me, report)
    _undo(me)
    if not report.entries:
        st.info(
            "Nothing here yet. On any page, press **Add to report** below a figure; it comes here with its settings "
            "and its link, to be commented, put in order and exported as one file.",
            icon=":material/note_add:",
        )
    for place, entry in enumerate(report.entries):
        _entry(me, entry, is_first=place == 0, is_last=place == len(report.entries) - 1)


def _head(me: str, report: Report) -> None:
    """The title, and what is done with the whole report."""
    _title_field(me, report.title)
    base = screen.base()
    row = frame.row()
    row.download_button(
        "Export as HTML",
        lambda: _exported(me, base),
        f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', report.title).strip('-') or 'report'}.html",
        "text/html",
        key="report_export",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
        help="One file that opens in any browser, also without a network: the pictures are inside, and nothing is "
        "fetched from elsewhere.",
    )
    with row.popover("Start anew", icon=":material/delete_sweep:", key="report_anew"):
        st.markdown("Removes all figures and comments from this report. This cannot be undone; export it first.")
        st.button("Remove all", key="report_clear", on_click=frame.guarded(_clear), args=(me,))
    if not base:
        st.caption("The server’s address is not known here, so the export names the screens without it.")
    count = len(report.entries)
    st.caption(
        f"{count} of at most {reports.MOST_ENTRIES} figures. Kept on this server for you: in this browser, or as the "
        "person who is signed in."
    )


def _exported(me: str, base: str) -> bytes:
    time.sleep(_JUST_TYPED_SECONDS)  # a press on the button ends a comment, too, which comes by another way
    return reports.export(me, base=base).encode()


def _entry(me: str, entry: Entry, *, is_first: bool, is_last: bool) -> None:
    with st.container(border=True, key=f"figure_{entry.entry_id}"):
        left, right = st.columns([2, 3], gap="medium")
        with left:
            _picture(me, entry)
        with right:
            st.markdown(f"**{frame.plain(entry.title)}**")
            st.caption(frame.plain(entry.caption))
            _comment_field(me, entry)
            _buttons(me, entry, is_first=is_first, is_last=is_last)
            with st.expander("Settings"):
                words = [f"{name} {value}" for name, value in entry.settings.items()]
                st.caption(frame.plain(" · ".join(words)) or "None.")


# Fields run again by themselves: a press on the export right after typing, while the whole page ran again, would be
# lost, because the page gives its download buttons new files at every run.
@st.fragment
def _title_field(me: str, title: str) -> None:
    st.text_input("Title", title, key="report_title", max_chars=200, on_change=frame.guarded(_name), args=(me,))
    _tell_failure()


@st.fragment
def _comment_field(me: str, entry: Entry) -> None:
    st.text_area(
        "Comment",
        entry.comment,
        key=f"comment_{entry.entry_id}",
        on_change=frame.guarded(_comment),
        args=(me, entry.entry_id),
        placeholder="What is to be seen here, and what follows from it?",
        help="Kept as soon as you leave the field.",
    )
    _tell_failure()


def _tell_failure() -> None:
    """What a field's callback could not do, in the field's own run; the page's run has told it already."""
    if failure := st.session_state.pop("failure", ""):
        frame.problem(failure)


def _picture(me: str, entry: Entry) -> None:
    try:
        content = reports.picture(me, entry)
    except BadImage as error:
        st.warning(frame.plain(str(error)), icon=":material/broken_image:")
        return
    st.image(content if entry.ending == ".png" else content.decode(), width="stretch")


def _buttons(me: str, entry: Entry, *, is_first: bool, is_last: bool) -> None:
    row = frame.row()
    for label, by, icon, at_end in (("Up", -1, "arrow_upward", is_first), ("Down", 1, "arrow_downward", is_last)):
        row.button(
            label,
            key=f"{label.lower()}_{entry.entry_id}",
            icon=f":material/{icon}:",
            disabled=at_end,
            on_click=frame.guarded(reports.move),
            args=(me, entry.entry_id, by),
        )
    row.button(
        "Remove", key=f"remove_{entry.entry_id}", icon=":material/delete:", on_click=frame.guarded(_remove),
        args=(me, entry.entry_id),
    )  # fmt: skip
    path = screen.path_of(entry.link)
    is_wanted = row.button(
        "Open the screen",
        key=f"open_{entry.entry_id}",
        icon=":material/open_in_new:",
        disabled=path is None,
        help="That page is not here." if path is None else "The page with the settings that it had.",
    )
    if is_wanted and path is not None:
        screen.go(path, entry.params)


def _undo(me: str) -> None:
    """The way back for a figure that was just taken out."""
    removed: tuple[Entry, int] | None = st.session_state.get("report_removed")
    if removed is None:
        return
    row = st.container(horizontal=True, vertical_alignment="center")
    row.markdown(f"Removed “{frame.plain(removed[0].title)}”.")
    row.button("Undo", key="report_undo", icon=":material/undo:", on_click=frame.guarded(_put_back), args=(me,))


def _name(me: str) -> None:
    reports.set_title(me, st.session_state["report_title"])


def _comment(me: str, entry_id: str) -> None:
    reports.set_comment(me, entry_id, st.session_state[f"comment_{entry_id}"])


def _remove(me: str, entry_id: str) -> None:
    st.session_state["report_removed"] = reports.remove(me, entry_id)


def _put_back(me: str) -> None:
    reports.put_back(me, *st.session_state.pop("report_removed"))


def _clear(me: str) -> None:
    st.session_state.pop("report_removed", None)
    reports.clear(me)
