from cnnviz_core.methods import class_image
from cnnviz_core.ui import class_image_view, frame, sidebar

chosen = sidebar.current()

asked = class_image_view.question(chosen)
class_image_view.draw(chosen, asked)
frame.about(class_image.__doc__)
