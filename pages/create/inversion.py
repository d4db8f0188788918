from cnnviz_core.methods import inversion
from cnnviz_core.ui import frame, inversion_view, sidebar

chosen = sidebar.current()

asked = inversion_view.question(chosen)
found = inversion_view.find(chosen, asked)
if found:
    inversion_view.draw(chosen, found)
frame.about(inversion.__doc__)
