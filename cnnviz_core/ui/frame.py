"""The frame around every page: menu, sidebar, header, and the one place where errors are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from PIL import Image

from cnnviz_core import journal, render, settings
from cnnviz_core.errors import CnnvizError
from cnnviz_core.ui import access

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator
    from streamlit.navigation.page import StreamlitPage

    from cnnviz_core.ui.pickers import Selection


_FEW_CELLS = 4
_TOUR = "pages/share/tour.py"


@dataclass(frozen=True)
class PageLink:
    """One line of the table of pages.

    Attributes:
        section: Heading of the menu.
        path: The script, below the app's folder; its stem is the page's address.
        title: Name in the menu.
        question: What the page answers, in one sentence.
        icon: Name of a Material symbol.
        capability: Key of :data:`cnnviz_core.doctor.CAPABILITIES` that the network must have; empty for none.
        needs_network: Whether the page shows nothing without a loaded network.
        right: Key of :data:`cnnviz_core.roles.RIGHTS` that the person must have to see it; empty for everyone.
        is_alone: Whether it has the whole screen: no sidebar, no title, and it hides the menu.
    """

    section: str
    path: str
    title: str
    question: str
    icon: str
    capability: str = ""
    needs_network: bool = True
    right: str = ""
    is_alone: bool = False


def icon() -> Image.Image:
    """The browser tab's picture: a mosaic of tiles. Named icons would be fetched from an outside host."""
    tiles = (
        np.array([[0, 120, 60], [200, 255, 150], [90, 180, 30]], dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    )
    picture = Image.fromarray(tiles)
    picture.putpalette(render.find_colour_map("viridis").lut.tobytes())
    return picture.convert("RGB")


def run(pages: Sequence[PageLink]) -> None:
    """Draws the menu, the sidebar and the page that was asked for.

    The first page of the table is the start page, but for a server in demo mode: there it is the tour. Who may not
    enter sees neither menu nor pages.
    """
    if not access.gate():
        return
    _draw([link for link in pages if not link.right or access.may(link.right)])


def _draw(pages: Sequence[PageLink]) -> None:
    menu: dict[str, list[StreamlitPage]] = {}
    links: dict[StreamlitPage, PageLink] = {}
    st.session_state["pages"] = pages
    start = start_page()
    for link in pages:
        page = st.Page(link.path, title=link.title, icon=f":material/{link.icon}:", default=link is start)
        menu.setdefault(link.section.capitalize(), []).append(page)
        links[page] = link
    page = st.navigation(menu, position="top")
    st.session_state["page"] = links[page]
    from cnnviz_core.ui import screen  # which knows the frame

    if screen.follow():
        return
    screen.mend_address()
    if not links[page].is_alone:
        header("cnnviz" if links[page] is pages[0] else links[page].title, links[page].question)
    # Always there, so that a notice does not move what follows.
    st.session_state["notices"] = st.container(key="notices")
    if failure := st.session_state.pop("failure", ""):
        problem(failure)
    with errors():
        _run_page(page, links[page])


def _run_page(page: StreamlitPage, link: PageLink) -> None:
    # The frame is on screen before torch is imported.
    from cnnviz_core import doctor, startup
    from cnnviz_core.ui import compute, screen, sidebar

    screen.tell_notice()
    startup.prepare(settings.current().threads_per_run)
    selection = None
    with errors():
        if link.is_alone:
            sidebar.leave_out()
        else:
            selection = sidebar.draw()
    if link.needs_network:
        if selection is None:
            return
        if link.capability:
            verdict = doctor.verdict(selection.model, link.capability)
            if not verdict.usable:
                words = f"This page does not fit {selection.model.spec.title}: {verdict.reason} {verdict.instead}"
                st.info(plain(words))
                return
    with compute.shelf().keeping():
        page.run()


def notice(text: str) -> None:
    """A sentence above the page about what was asked for and is not here; shown as text."""
    st.session_state["notices"].warning(plain(text), icon=":material/link_off:")


def guarded(callback: Callable[..., object]) -> Callable[..., None]:
    """A widget's callback whose errors are shown as sentences in the run that follows."""

    def run_callback(*args: object, **settings: object) -> None:
        try:
            callback(*args, **settings)
        except CnnvizError as error:
            st.session_state["failure"] = str(error)

    return run_callback


def pages() -> Sequence[PageLink]:
    """The table of pages."""
    table: Sequence[PageLink] = st.session_state["pages"]
    return table


def page() -> PageLink:
    """The page that is on screen."""
    link: PageLink = st.session_state["page"]
    return link


def start_page() -> PageLink:
    """The page that the address without a name opens."""
    is_demo = settings.current().demo
    return next((link for link in pages() if is_demo and link.path == _TOUR), pages()[0])


@contextmanager
def errors() -> Iterator[None]:
    """Shows what a person can act on as a sentence; anything else is a bug and goes on to :func:`bug`."""
    try:
        yield
    except CnnvizError as error:
        problem(error)


def problem(error: CnnvizError | str) -> None:
    """A sentence that says what went wrong and what to do; file and class names in it are shown as text."""
    journal.event("problem", kind=type(error).__name__)
    st.error(plain(str(error)), icon=":material/error:")


def bug(error: Exception) -> bool:
    """Shows the id of an error that nobody had foreseen, by which the log has it; Streamlit calls it for all of them.

    Returns:
        Whether Streamlit is to show nothing of it; in tests it is asked to tell the traceback, too.
    """
    link: PageLink | None = st.session_state.get("page")
    bug_id = journal.bug(error, where=link.path if link else "frame")
    with st.container(key=f"bug_{bug_id}"):
        st.error(
            f"Something went wrong that should not have. Please tell whoever hosts this server the number "
            f"**{bug_id}**; its log says more. Another setting, picture or page may work meanwhile.",
            icon=":material/bug_report:",
        )
    return str(st.get_option("client.showErrorDetails")) not in ("full", "True")


def header(title: str, question: str) -> None:
    """A page's title and the question it answers."""
    st.title(title, anchor=False)
    st.markdown(f":gray[{question}]")


def about(module_docstring: str | None) -> None:
    """The method's own lesson, from the docstring of its module, folded away at the end of the page."""
    with st.expander("What this shows, when it misleads, and where it comes from", icon=":material/school:"):
        st.markdown(module_docstring or "")


def row() -> DeltaGenerator:
    """Controls side by side, which go on in the next line where the page is narrow."""
    return st.container(horizontal=True, vertical_alignment="bottom")


def caption(selection: Selection, *parts: str) -> None:
    """How a picture was made: network, picture, and what else matters, in one grey line."""
    words = [selection.model.spec.title, selection.image.name, *parts]
    st.caption(" · ".join(plain(word) for word in words))


def few_cells(cells: tuple[int, ...]) -> None:
    """Says so where a grid is too coarse for a picture of its proportions."""
    if min(cells) < _FEW_CELLS:
        st.info(
            f"The grid has only {cells[0]} × {cells[1]} cells, which is coarse for this picture. A larger working size "
            "in Settings, or an earlier layer, gives more.",
            icon=":material/grid_off:",
        )


def plain(text: str) -> str:
    """Text from outside, so that no character of it acts as markup.

    Half a character, as a file name that is no text may hold, becomes a question mark.
    """
    whole = text.encode("utf-8", "replace").decode()
    return "".join(f"\\{c}" if c in r"\`*_[]<>#$~:" else c for c in whole)
