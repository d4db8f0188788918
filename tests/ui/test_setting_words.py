"""Settings in words: names, units, classes, what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from cnnviz_core import images
from cnnviz_core.results import PictureName
from cnnviz_core.ui import setting_words

CLASSES = ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size_px": 256, "octave_scale": 1.4}, {"size": "256 px", "scale from octave to octave": "1.4"}),
        ({"learning_rate": 0.05, "steps": 8}, {"learning rate": "0.05", "steps": "8"}),
        ({"target": 1, "classes": [2, 0]}, {"target": "dog", "classes": "bird, cat"}),
        ({"target": 7}, {"target": "7"}),
        ({"target": None, "channels": [], "guide": None, "channel": 0}, {"channel": "0"}),
        ({"fourier": True, "robust": False}, {"Fourier": "on", "changing views": "off"}),
        ({"sign": -1, "norm": "linf"}, {"excite or inhibit": "inhibit", "norm": "largest change"}),
        ({"settings": (("layer", "conv1"), ("stride_px", 4))}, {"settings": "layer conv1, step 4 px"}),
        ({"cell": (1, 2), "layers": ("a", "b")}, {"unit at row, column": "1, 2", "layers": "a, b"}),
        ({"other": PictureName("Coffee", "12")}, {"other": "Coffee"}),
        ({"guide": images.from_pixels(np.zeros((4, 4, 3), np.uint8), name="black")}, {"guide": "black"}),
        ({"direction": [0.5] * 100}, {"mixture": ", ".join(["0.5"] * 100)[:80] + "…"}),
        ({"patch px": "8"}, {"patch px": "8"}),
    ],
)
def test_settings_in_words(settings: dict[str, object], words: dict[str, str]) -> None:
    found = setting_words.of(settings, class_names=CLASSES)
    assert found == words
    assert setting_words.of(found, class_names=CLASSES) == words


def test_classes_without_names_stay_numbers() -> None:
    assert setting_words.of({"target": 1}) == {"target": "1"}
