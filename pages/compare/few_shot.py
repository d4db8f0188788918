from cnnviz_core.methods import few_shot
from cnnviz_core.ui import few_shot_view, frame, layer_trial_view, sidebar, support_view

chosen = sidebar.current()

with frame.row():
    options = few_shot_view.options(chosen.model)
learn, find = few_shot_view.columns()
with learn:
    supports = support_view.draw()
with find:
    query = few_shot_view.search(chosen, supports, options)
if query is not None:
    layer_trial_view.draw(query, supports, options)
frame.about(few_shot.__doc__)
