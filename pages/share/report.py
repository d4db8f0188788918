from cnnviz_core.ui import report_view

report_view.draw()
