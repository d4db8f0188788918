"""What is on screen as a link, and the way to another screen: from a job, a report, a manifest, a pasted address."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import streamlit as st
from streamlit.errors import StreamlitAPIException

from cnnviz_core import links, manifest
from cnnviz_core.errors import BadLink
from cnnviz_core.links import Link
from cnnviz_core.ui import frame
from cnnviz_core.ui.components import cleared

# What a session knows beside the state of its pages; going to another screen is as opening its link, but for these.
_KEPT = ("my_pictures", "given_up", "run_again", "num_opened", "begun")


def here() -> Link:
    """The screen that is shown now."""
    params = {name: st.query_params.get_all(name) for name in st.query_params}
    return Link(_name(frame.page().path), params)


def remember(name: str, text: str) -> None:
    """Keeps a part of the page's state that no widget holds in the address; an empty one leaves it."""
    if text and st.query_params.get(name) != text:
        st.query_params[name] = text
    elif not text and name in st.query_params:
        del st.query_params[name]


def base() -> str:
    """Where the app is, as the browser has it: "https://cnnviz.example.org"; empty where that is not known."""
    url = st.context.url
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return ""
    return url.rstrip("/").removesuffix(f"/{_name(frame.page().path)}").rstrip("/")


def go(path: str, params: Mapping[str, list[str]]) -> None:
    """Leaves this screen for another one, which gets all of its state from the link.

    Args:
        path: Script of the page, as the table of pages has it.
        params: What it is to be set to.
    """
    st.session_state["wanted_screen"] = path, dict(params), ""
    st.rerun()


def follow() -> bool:
    """Goes to the screen that was asked for; gives whether one was, and then nothing else may be drawn in this run.

    A widget that stays on screen would keep its value against the link, and its name in the address is taken. So one
    run draws no widgets at all, and only after it does the page change. What begins the second run must do so once:
    another request on its way, such as a timer's, would arrive on the new page with the old page's address.
    """
    if "wanted_screen" not in st.session_state:
        return False
    if "is_cleared" not in st.session_state:
        st.session_state["is_cleared"] = True
        st.caption("Opening the screen")
        cleared.then_run(key="cleared")
        return True
    path, params, notice = st.session_state["wanted_screen"]
    kept = {name: st.session_state[name] for name in _KEPT if name in st.session_state}
    st.session_state.clear()
    st.session_state.update(kept)
    if notice:
        st.session_state["notice_there"] = notice
    st.switch_page(path, query_params=params)
    return True


def path_of(link: Link) -> str | None:
    """Script of the page that a link leads to; None where this person has no such page here."""
    return next((page.path for page in frame.pages() if _name(page.path) == link.page), None)


def opener() -> None:
    """Takes a manifest or a pasted link and opens the screen that it names."""
    turn = st.session_state.setdefault("num_opened", 0)  # parts of another name are closed and empty
    take = frame.guarded(_take)
    with st.popover("Open a manifest or link", icon=":material/file_open:", width="stretch", key=f"opener_{turn}"):
        st.caption("Shows the screen that a figure came from: its page, network, picture and settings.")
        st.file_uploader(
            "Manifest", type=["json"], key=f"manifest_{turn}", max_upload_size=1, on_change=take, args=(turn,),
            help="The JSON file from a figure’s Download menu. It is only read; nothing in it is run.",
        )  # fmt: skip
        st.text_input("Link", key=f"link_{turn}", on_change=take, args=(turn,), placeholder="https://…")


def mend_address() -> None:
    """Gives settings in the address their present names and leaves out numbers without end; then begins again.

    Every screen passes here, whatever led to it: a link, a manifest, a report, a job. At numbers without end
    Streamlit's number boxes fail.
    """
    given = here()
    renamed = links.with_present_names(given).params
    endless = [name for name, values in renamed.items() if any(map(_is_endless, values))]
    mended = {name: values for name, values in renamed.items() if name not in endless}
    if mended == given.params:
        return
    left_out = f"The link gives no usable number for {', '.join(endless)}; left out." if endless else ""
    notice = " ".join(filter(None, [st.session_state.pop("notice_there", ""), left_out]))
    try:
        st.query_params.from_dict(mended)  # all in one: each change is a step on the way back
    except StreamlitAPIException:  # on the way back to such an address, when widgets have their names in it already
        st.session_state["wanted_screen"] = frame.page().path, mended, notice
    else:
        st.session_state["notice_there"] = notice
    st.rerun()


def _is_endless(text: str) -> bool:
    try:
        return math.isinf(float(text))
    except ValueError:
        return False


def tell_notice() -> None:
    """Says what is to be known of a screen that was just opened."""
    if words := st.session_state.pop("notice_there", ""):
        frame.notice(words)


def _take(turn: int) -> None:
    """Reads what was given; a link that leads nowhere changes nothing."""
    file, text = st.session_state.get(f"manifest_{turn}"), st.session_state.get(f"link_{turn}") or ""
    if file is None and not text.strip():
        return
    st.session_state["num_opened"] = turn + 1
    origin = manifest.read(file.getvalue()) if file is not None else manifest.Origin(links.parse(text))
    path = path_of(origin.link)
    if path is None:
        raise BadLink(f"It leads to a page {origin.link.page!r}, which is not here.")
    changed = f"Made with other versions: {'; '.join(origin.changed)}. Numbers may differ." if origin.changed else ""
    st.session_state["wanted_screen"] = path, dict(origin.link.params), changed


def _name(path: str) -> str:
    """A page's name in the address; the start page has none."""
    return "" if path == frame.start_page().path else Path(path).stem
