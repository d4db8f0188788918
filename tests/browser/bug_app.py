"""An app with one bug in its script, one in a callback and one in a fragment, each behind a button."""

from __future__ import annotations

import streamlit as st

from cnnviz_core import journal
from cnnviz_core.ui import frame

SECRET = "holiday.png"


def fail() -> None:
    raise LookupError(SECRET)


@st.fragment
def part() -> None:
    if st.button("fragment"):
        fail()


if __name__ == "__main__":
    st.button("callback", on_click=fail)
    part()
    if st.button("script"):
        fail()
    if st.button("stop"):
        st.stop()
    if st.button("again"):
        st.rerun()
    st.text("end of the page")
else:
    journal.configure("json")
    app = st.App(__file__, on_script_error=frame.bug)
