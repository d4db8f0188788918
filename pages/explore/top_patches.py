from cnnviz_core.methods import top_patches
from cnnviz_core.ui import collection_view, frame, patch_view, sidebar

chosen = sidebar.current()

if collection := collection_view.choose(default="bundled/photos"):
    with frame.row():
        info = patch_view.layer(chosen.model)
        k = patch_view.how_many()
    if found := collection_view.indexed(chosen.model, collection, layers=[info.name]):
        patches = patch_view.search(found, info, k)
        number = patch_view.wall(found, patches)
        patch_view.channel(chosen, found, patches, number)
        patch_view.like(chosen, found, patches)
frame.about(top_patches.__doc__)
