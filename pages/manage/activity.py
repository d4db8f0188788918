from cnnviz_core.ui import activity_view

whose = activity_view.choose()
activity_view.now(whose)
activity_view.before(whose)
