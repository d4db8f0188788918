from cnnviz_core.ui import network_view

network_view.search()
network_view.add_checkpoint()
network_view.kept()
