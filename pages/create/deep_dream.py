from cnnviz_core.methods import deep_dream
from cnnviz_core.ui import dream_view, frame, sidebar

chosen = sidebar.current()

asked = dream_view.question(chosen)
found = dream_view.find(chosen, asked)
if found:
    dream_view.draw(chosen, found)
dream_view.zoom(chosen, asked)
frame.about(deep_dream.__doc__)
