from cnnviz_core.methods import embeddings
from cnnviz_core.ui import collection_view, embedding_view, frame, plane_view, sidebar

chosen = sidebar.current()

if collection := collection_view.choose():
    layer = embedding_view.layer(chosen.model)
    if found := collection_view.indexed(chosen.model, collection, layers=[layer]):
        wanted = embedding_view.wanted(found, layer)
        if projection := embedding_view.project(found, wanted):
            plane_view.draw(chosen, found, wanted, projection, plane_view.facts(found))
        embedding_view.separation(found)
frame.about(embeddings.__doc__)
