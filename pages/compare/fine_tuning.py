from cnnviz_core.methods import fine_tuning
from cnnviz_core.ui import collection_view, fine_tuning_view, frame, sidebar, tuned_view

chosen = sidebar.current()

if collection := collection_view.choose():
    split = fine_tuning_view.parts(collection)
    if found := collection_view.indexed(chosen.model, collection):
        fine_tuning_view.probe(found)
        wanted = fine_tuning_view.wanted(chosen.model)
        if (result := fine_tuning_view.train(found, split, wanted)) is not None:
            tuned_view.draw(chosen, found, result)
        tuned_view.earlier(found)
frame.about(fine_tuning.__doc__)
