from cnnviz_core.methods import embeddings
from cnnviz_core.ui import collection_view, embedding_view, frame, plane_view, sidebar

chosen = sidebar.current()

if collection := collection_view.choose():
    with frame.row():
        layer = embedding_view.layer(chosen.model)
        pooling = embedding_view.pooling(chosen.model, layer)
    if found := collection_view.indexed(chosen.model, collection, layers=[layer], pooling=pooling):
        with frame.row():
            wanted = embedding_view.wanted(found, layer)
            view = plane_view.view(found)
        if projection := embedding_view.project(found, wanted):
            plane_view.draw(chosen, found, wanted, projection, view)
        embedding_view.separation(found)
frame.about(embeddings.__doc__)
