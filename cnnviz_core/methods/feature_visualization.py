"""Feature visualisation: pictures made to excite a channel, which show what it looks for.

From faint noise, gradient ascent raises the mean activation of a channel (or one unit, a class score, a direction, the
difference of two channels). Left to itself it ends in high-frequency noise that excites the network and means nothing.
Three things make pictures that can be read, and each can be switched off to see what it does: the picture is a
spectrum, scaled as in photos; its colours are along axes that vary independently in photos; and at each step the
network sees it a little shifted, scaled and turned.

When it misleads: the picture is one way to excite the channel, from one start; others may look different, which is what
variants are for. It shows an extreme that no photo reaches, and a channel that answers to several things shows a
mixture or only one of them: look at the strongest real patches, too. A grey picture tells of a start that excited
nothing rather than of the channel. And what looks like a dog’s head was called so by you.

Source: Erhan et al. (2009); Simonyan, Vedaldi and Zisserman (2014); Olah, Mordvintsev and Schubert, Feature
Visualization (2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cnnviz_core import synthesis
from cnnviz_core.errors import NotApplicable
from cnnviz_core.models import LoadedModel

synthesize = synthesis.synthesize
seconds_per_step = synthesis.seconds_per_step
GOALS = synthesis.GOALS
check_has_classes = synthesis.check_has_classes


@dataclass(frozen=True)
class Ingredients:
    """What makes pictures readable, some of it left out.

    Attributes:
        title: Its name on screen.
        settings: Arguments of :func:`synthesize`.
    """

    title: str
    settings: Mapping[str, bool]


INGREDIENTS: Mapping[str, Ingredients] = {
    "all": Ingredients("everything", {}),
    "no_fourier": Ingredients("pixels, no spectrum", {"fourier": False}),
    "no_decorrelation": Ingredients("plain colours", {"decorrelated": False}),
    "no_robustness": Ingredients("always the same view", {"robust": False}),
    "none": Ingredients("none of them", {"fourier": False, "decorrelated": False, "robust": False}),
}


def default_layer(model: LoadedModel) -> str:
    """A layer in the middle, whose pictures show patterns of some size.

    Raises:
        NotApplicable: The network has no maps.
    """
    landmarks = model.layers.landmarks
    if not landmarks:
        raise NotApplicable(f"{model.spec.title} has no layer with maps; look at its class images instead.")
    return landmarks[len(landmarks) // 2]
