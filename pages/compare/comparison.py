from cnnviz_core.methods import comparison
from cnnviz_core.ui import both_view, changed_view, comparison_report, comparison_view, frame, sidebar, study_view

PARTS = {
    "Through depth": comparison_view.depth,
    "This picture": both_view.draw,
    "Changed answers": changed_view.draw,
    "What channels look for": study_view.draw,
    "Report": comparison_report.draw,
}

chosen = sidebar.current()

pair = comparison_view.pair(chosen)
PARTS[comparison_view.part(PARTS)](chosen, pair)
frame.about(comparison.__doc__)
