from cnnviz_core.methods import saliency
from cnnviz_core.ui import cut_view, frame, saliency_view, sidebar, trust_view

chosen = sidebar.current()

asked = saliency_view.question(chosen)
look, view = saliency_view.view()
maps = saliency_view.maps(chosen, asked, look, view)
one = saliency_view.side_by_side(maps, look)
if one:
    cut_view.draw(one)
    trust_view.draw(one, maps)
frame.about(saliency.__doc__)
