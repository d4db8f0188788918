from cnnviz_core.ui import doctor_view, sidebar

chosen = sidebar.current()
doctor_view.facts(chosen.model)
doctor_view.capabilities(chosen.model)
doctor_view.layers(chosen.model)
