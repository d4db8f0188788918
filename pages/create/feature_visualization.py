from cnnviz_core.methods import feature_visualization
from cnnviz_core.ui import feature_visualization_view, frame, sidebar

chosen = sidebar.current()

asked = feature_visualization_view.question(chosen)
found = feature_visualization_view.find(chosen, asked)
if found:
    feature_visualization_view.draw(chosen, found)
feature_visualization_view.ingredients(chosen, asked)
feature_visualization_view.atlas(chosen, asked)
frame.about(feature_visualization.__doc__)
