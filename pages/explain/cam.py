from cnnviz_core.methods import cam
from cnnviz_core.ui import cam_view, frame, pickers, sidebar

chosen = sidebar.current()

layer = pickers.layer_by_depth(chosen.model, default=cam.default_layer(chosen.model))
comparison = cam_view.compare()
look, signed = cam_view.options(comparison)
maps = cam_view.COMPARISONS[comparison](chosen, layer, signed=signed)
cam_view.side_by_side(maps, look, comparison)
frame.about(cam.__doc__)
