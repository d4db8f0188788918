"""Two jobs of one page for the tests: the first ends while the second is being drawn, slowly."""

import threading
import time
import uuid

import streamlit as st

from cnnviz_core.results import Step
from cnnviz_core.ui import work
from cnnviz_core.ui.frame import PageLink

DRAWING_SECONDS = 2.0

here = PageLink("look", "pages/look/home.py", "Home", "What?", "home")
st.session_state["page"], st.session_state["pages"] = here, (here,)
me = st.session_state.setdefault("me", uuid.uuid4().hex)
ends: threading.Event = st.session_state.setdefault("ends", threading.Event())


def brief(on_step: work.jobs.OnStep) -> str:
    while not ends.wait(0.02):
        on_step(Step(0, 1))
    return "there"


def lengthy(on_step: work.jobs.OnStep) -> None:
    for done in range(6000):
        on_step(Step(done, 6000, partial=done))
        time.sleep(0.02)


def draw_slowly(partial: object) -> None:
    """Meanwhile, what the browser asks for gathers, and is answered in one go."""
    if isinstance(partial, int) and partial > 50:
        ends.set()
        st.caption("Now")
        time.sleep(DRAWING_SECONDS)


for name, what, show in (("brief", brief, None), ("lengthy", lengthy, draw_slowly)):
    found = work.until_done(
        what, key=f"{name} {me}", name=name, title=name, cost="Some time.", at_once=True, line=name, show=show
    )
    st.caption(f"The {name} one: {found}")
