from cnnviz_core.ui import host_view

host_view.overview()
host_view.disk()
host_view.networks()
host_view.jobs()
host_view.errors()
host_view.in_force()
