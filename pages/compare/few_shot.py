from cnnviz_core.methods import few_shot
from cnnviz_core.ui import few_shot_view, frame, sidebar, support_view

chosen = sidebar.current()

with frame.row():
    options = few_shot_view.options(chosen.model)
learn, find = few_shot_view.columns()
with learn:
    supports = support_view.draw()
with find:
    found = few_shot_view.search(chosen, supports, options)
if found is not None:
    few_shot_view.layers(found, supports, options)
frame.about(few_shot.__doc__)
