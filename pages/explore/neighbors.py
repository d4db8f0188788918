from cnnviz_core.methods import neighbors
from cnnviz_core.ui import collection_view, embedding_view, frame, neighbor_view, sidebar

chosen = sidebar.current()

if collection := collection_view.choose():
    with frame.row():
        layer = embedding_view.layer(chosen.model)
        pooling = embedding_view.pooling(chosen.model, layer)
        wanted = neighbor_view.wanted(layer)
    if found := collection_view.indexed(chosen.model, collection, layers=[layer], pooling=pooling):
        query = neighbor_view.query(chosen, found)
        neighbor_view.draw(query, found, wanted)
        neighbor_view.region(query, found, wanted)
        neighbor_view.lists(found, wanted)
frame.about(neighbors.__doc__)
