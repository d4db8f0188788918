"""Class images: what would be the perfect example of a class, to the network?

Gradient ascent raises the score of a class, before the softmax, from noise. The textbook’s way works on pixels: it
goes a fixed length along the gradient at each step, keeps the picture small (a penalty on its squares), blurs it now
and then, and shifts it before each step so that nothing depends on one position. The modern way steps in the spectrum
with colours as they vary in photos, and shows the network a shifted, scaled and turned view each time.

When it misleads: the network is surer of these pictures than of any photo, and yet no one would take them for the
class; a high probability is no proof of having understood. They show what tells the class from others (often a texture,
or a thing that stands beside it in the training photos), many times over and in no order, since the score asks for
nothing else. Raising the probability in place of the score would do as well by lowering all other classes.

Source: Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks (2014), section 2, with jitter and blur as
in CS231n’s exercise; Olah, Mordvintsev and Schubert, Feature Visualization (2017).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cnnviz_core import ascent, synthesis
from cnnviz_core.ascent import Batch, OnProgress, Recipe, Sight, SimpleRecipe
from cnnviz_core.errors import BadSetting
from cnnviz_core.models import LoadedModel
from cnnviz_core.objectives import ClassScore
from cnnviz_core.parametrization import Parametrization
from cnnviz_core.results import ClassImages, FloatArray, Step, Synthesis
from cnnviz_core.synthesis import Item

check_has_classes = synthesis.check_has_classes


@dataclass(frozen=True)
class _Asked:
    """What both ways are told."""

    sight: Sight
    items: Sequence[Item]
    steps: int
    size_px: int
    settings: Mapping[str, float]


def _modern(asked: _Asked, tell: OnProgress) -> Batch:
    recipe = Recipe(
        Parametrization((asked.size_px, asked.size_px), asked.sight.model.preprocessing.num_channels),
        learning_rate=asked.settings["learning_rate"],
    )
    aims, seeds = [item.aim for item in asked.items], [item.seed for item in asked.items]
    return ascent.ascend(asked.sight, aims, recipe, seeds=seeds, steps=asked.steps, on_step=tell)


def _simple(asked: _Asked, tell: OnProgress) -> Batch:
    recipe = SimpleRecipe(
        learning_rate=asked.settings["learning_rate"],
        l2=asked.settings["l2"],
        blur_every=int(asked.settings["blur_every"]),
        jitter_px=int(asked.settings["jitter_px"]),
    )
    aims, seeds = [item.aim for item in asked.items], [item.seed for item in asked.items]
    return ascent.ascend_simply(
        asked.sight, aims, recipe, seeds=seeds, steps=asked.steps, size_px=asked.size_px, on_step=tell
    )


@dataclass(frozen=True)
class Method:
    """A way of making class images.

    Attributes:
        title: Its name on screen.
        help: What it is, in a sentence.
        defaults: Its own settings.
        climb: Makes one batch.
    """

    title: str
    help: str
    defaults: Mapping[str, float]
    climb: Callable[[_Asked, OnProgress], Batch]


METHODS: Mapping[str, Method] = {
    "modern": Method(
        "modern",
        "The picture is a spectrum with decorrelated colours, and the network sees it a little shifted, scaled and "
        "turned at each step.",
        {"learning_rate": 0.1},
        _modern,
    ),
    "simple": Method(
        "textbook",
        "Plain pixels, with a penalty on their squares, a blur every few steps, and a random shift before each.",
        {"learning_rate": 0.03, "l2": 1e-3, "blur_every": 10, "jitter_px": 16},
        _simple,
    ),
}


def synthesize(
    model: LoadedModel,
    *,
    classes: Sequence[int],
    method: str = "modern",
    steps: int = 128,
    size_px: int | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    l2: float | None = None,
    blur_every: int | None = None,
    jitter_px: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> ClassImages:
    """Pictures that the network takes for the classes.

    Args:
        model: A network with class scores.
        classes: Class indices, one picture each.
        method: A key of :data:`METHODS`.
        steps: Steps; 0 gives what they start from.
        size_px: Side of the pictures; None takes the network's usual input.
        seed: Of the noise, and of views or shifts; the same for all.
        learning_rate: Of Adam, or the length of a simple step: root mean square, in units of the normalised input. None
            as in :data:`METHODS`, like the ones that follow, which are of the simple way only.
        l2: Weight of the sum of squares of the normalised input.
        blur_every: Steps from one blur to the next; 0 never blurs.
        jitter_px: Largest shift.
        on_step: As for :func:`cnnviz_core.synthesis.synthesize`.

    Returns:
        Pictures with scores and probabilities.

    Raises:
        BadSetting: No class is asked for, or one that does not exist; an unknown method, or a setting out of range.
        NotApplicable: The network has no classifier.
    """
    start = time.perf_counter()
    check_has_classes(model)
    if method not in METHODS:
        raise BadSetting(f"method is {method!r}, not one of {', '.join(METHODS)}.")
    if not classes:
        raise BadSetting("No class is asked for; name at least one.")
    for index in classes:
        model.check_class(index)
    size_px = size_px or min(model.preprocessing.input_px)
    given = {"learning_rate": learning_rate, "l2": l2, "blur_every": blur_every, "jitter_px": jitter_px}
    own = {name: value if given[name] is None else given[name] for name, value in METHODS[method].defaults.items()}
    numbers = {name: float(value) for name, value in own.items() if value is not None}
    for name, value in numbers.items():
        if not 0 <= value < np.inf:
            raise BadSetting(f"{name} is {value}; give 0 or more.")
    sight = Sight.of(model, "", size_px)
    items = [Item(model.class_names[c], ClassScore(c), seed, place) for place, c in enumerate(classes)]
    settings = {"classes": list(classes), "method": method, "steps": steps, "size_px": size_px, "seed": seed, **own}

    def climb(chosen: Sequence[Item], tell: OnProgress) -> Batch:
        return METHODS[method].climb(_Asked(sight, chosen, steps, size_px, numbers), tell)

    def result(batches: Sequence[Batch]) -> Synthesis:
        run = model.provenance("class_image.synthesize", time.perf_counter() - start, seed=seed)
        return synthesis.collect(batches, items, layer="", run=dataclasses.replace(run, settings=settings))

    def found(pictures: Synthesis) -> ClassImages:
        indices = np.array(classes[: len(pictures.images)], dtype=np.int64)
        return ClassImages(pictures, indices, _probabilities(sight, pictures.images, indices), method, pictures.run)

    last: list[ClassImages] = []

    def tell(step: Step) -> None:
        if on_step is None:
            return
        if isinstance(step.partial, Synthesis) and not (last and last[0].pictures is step.partial):
            last[:] = [found(step.partial)]
        on_step(dataclasses.replace(step, partial=last[0] if last else None))

    return found(synthesis.in_batches(items, climb, result, steps=steps, on_step=tell))


def seconds_per_step(model: LoadedModel, *, size_px: int) -> float:
    """How long one step of one picture takes, measured at a size."""
    return synthesis.seconds_per_step(model, layer="", size_px=size_px)


@torch.no_grad()
def _probabilities(sight: Sight, images: FloatArray, classes: NDArray[np.int64]) -> FloatArray:
    """Of each picture's own class, (n,), the picture as it is."""
    model = sight.model
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)[:, : model.preprocessing.num_channels].to(model.device)
    found = [
        model.probabilities(sight(one[None]))[0, int(index)].item() for one, index in zip(pixels, classes, strict=True)
    ]
    return np.array(found, dtype=np.float32)
