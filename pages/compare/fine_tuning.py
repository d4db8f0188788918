import streamlit as st

from cnnviz_core.methods import fine_tuning
from cnnviz_core.ui import collection_view, fine_tuning_view, frame, sidebar, tuned_view

chosen = sidebar.current()

if collection := collection_view.choose():
    chosen, split = fine_tuning_view.parts(chosen, collection)
    probed = st.container()  # filled last: a training need not wait for the index
    wanted = fine_tuning_view.wanted(chosen.model)
    result = fine_tuning_view.train(chosen.model, collection, split, wanted)
    with probed:
        if found := collection_view.indexed(chosen.model, collection):
            fine_tuning_view.probe(found)
        else:
            fine_tuning_view.say_why_index()
    if result is not None:
        tuned_view.draw(found, result)
    tuned_view.earlier(collection)
frame.about(fine_tuning.__doc__)
