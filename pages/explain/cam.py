from cnnviz_core.methods import cam
from cnnviz_core.ui import cam_view, cut_view, frame, pickers, sidebar, trust_view

chosen = sidebar.current()

layer = pickers.layer_by_depth(chosen.model, default=cam.default_layer(chosen.model))
comparison = cam_view.compare(chosen.model)
look, signed = cam_view.options(comparison)
maps = cam_view.COMPARISONS[comparison](chosen, layer, signed=signed)
one = cam_view.side_by_side(maps, look, comparison)
if one:
    cut_view.draw(one)
    trust_view.draw(one, maps)
frame.about(cam.__doc__)
