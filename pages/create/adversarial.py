from cnnviz_core.methods import adversarial
from cnnviz_core.ui import adversarial_view, attack_effects, frame, sidebar

chosen = sidebar.current()

found = adversarial_view.make(chosen)
adversarial_view.draw(chosen, found)
attack_effects.draw(chosen, found)
frame.about(adversarial.__doc__)
