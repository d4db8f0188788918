from cnnviz_core.ui import tour_view

tour_view.draw()
