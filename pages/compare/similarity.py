from cnnviz_core.methods import similarity
from cnnviz_core.ui import frame, pair_view, sidebar

chosen = sidebar.current()

with frame.row():
    pictures = [chosen.image, *pair_view.targets(chosen)]
    options = pair_view.options(chosen.model)
found = pair_view.vectors(chosen.model, pictures, options)
pinned = pair_view.draw(chosen, pictures, found, options)
pair_view.depth(chosen, pictures, found, pinned, options)
pair_view.score(chosen, options)
frame.about(similarity.__doc__)
