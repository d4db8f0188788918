import streamlit as st

from cnnviz_core.ui import overview, sidebar

chosen = sidebar.current()
photo, answer = st.columns([2, 3], gap="large")
with photo:
    overview.what_it_saw(chosen)
with answer:
    overview.its_answer(chosen)
overview.inside(chosen)
overview.onward()
overview.words()
