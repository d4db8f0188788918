from cnnviz_core.methods import occlusion
from cnnviz_core.ui import cut_view, frame, occlusion_view, sidebar, trust_view

chosen = sidebar.current()

patch = occlusion_view.patch(chosen.model)
look = occlusion_view.look()
found = occlusion_view.find(chosen, patch)
one = occlusion_view.draw(chosen, found, look)
occlusion_view.by_hand(chosen, patch)
cut_view.draw(one)
trust_view.draw(one, [one, *occlusion_view.others(chosen, found)])
frame.about(occlusion.__doc__)
