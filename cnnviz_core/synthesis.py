"""Pictures of what channels look for: many at once, in batches, with what tells good ones from failures.

:func:`synthesize` is what the feature visualisation page, the class images and the comparison of networks share. All
pictures of one call have the same seed, so the same noise and the same views: what differs between them is what was
asked for, or the network.

Source: Olah, Mordvintsev and Schubert, Feature Visualization (2017). The score of grey failures and their cut are those
of the study of a network before and after fine-tuning, taken in floating point.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz_core import ascent, objectives
from cnnviz_core.ascent import Batch, Recipe, Sight
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.objectives import ClassScore, Combination, Direction, Energy, Objective, Unit
from cnnviz_core.parametrization import Parametrization
from cnnviz_core.results import FloatArray, Run, Step, Synthesis
from cnnviz_core.robustness import Views

# Pictures that go up together; more take more memory and no less time each.
BATCH_SIZE = 8
# Of one thing; they go up in one batch, so that they see each other.
MAX_VARIANTS = 16
_PARTIAL_SECONDS = 0.5

# PIL's weights of red, green and blue in a grey value.
_LUMA = np.array([299, 587, 114], dtype=np.float32) / 1000
# A failure's score lies below the first gap between neighbours that is larger than this share of the largest score...
_GAP = 0.1
# ...and no picture with more colour than this is a failure: root mean square, pixels 0..1. Where even the largest
# score is as faint as noise before its first step, all have failed.
_MOST_GREY = 0.02
_FAINT = 0.005

_DIVERSITY = 100.0


@dataclass(frozen=True)
class Goal:
    """A kind of objective.

    Attributes:
        title: Its name on screen.
        help: What it is, in a sentence.
        needs: The argument of :func:`synthesize` that it is made of, "channels", "classes" or "direction"; empty for
            none.
        aims: From what is looked at and what is asked to one objective per picture, and what each is called.
        is_each: Whether each of what it needs has a picture of its own, or all of them one together.
    """

    title: str
    help: str
    needs: str
    aims: Callable[[Sight, Asked], list[tuple[str, Objective]]]
    is_each: bool = False


@dataclass(frozen=True)
class Asked:
    """What an objective is made of.

    Attributes:
        channels: Their numbers.
        classes: Class indices.
        sign: 1 to excite, -1 to inhibit.
        cell: (row, column) of a unit; None for the middle.
        direction: (C,) a direction among the channels.
    """

    channels: tuple[int, ...]
    classes: tuple[int, ...]
    sign: int
    cell: tuple[int, int] | None
    direction: tuple[float, ...] | None


def _layer(sight: Sight, channels: tuple[int, ...]) -> LayerInfo:
    """The layer, which has these channels."""
    info = sight.model.layers[sight.layer]
    objectives.check_channels(info, channels)
    return info


def _each_channel(sight: Sight, asked: Asked) -> list[tuple[str, Objective]]:
    _layer(sight, asked.channels)
    return [(f"channel {c}", objectives.channel(c, sign=asked.sign)) for c in asked.channels]


def _each_unit(sight: Sight, asked: Asked) -> list[tuple[str, Objective]]:
    objectives.check_cell(_layer(sight, asked.channels), asked.cell, sight.cells())
    return [(f"unit of channel {c}", Unit(c, asked.cell, asked.sign)) for c in asked.channels]


def _each_class(sight: Sight, asked: Asked) -> list[tuple[str, Objective]]:
    if not asked.classes:
        raise BadSetting("No class is asked for; name at least one.")
    for index in asked.classes:
        sight.model.check_class(index)
    return [(sight.model.class_names[c], ClassScore(c, asked.sign)) for c in asked.classes]


def _sum(sight: Sight, asked: Asked) -> list[tuple[str, Objective]]:
    _layer(sight, asked.channels)
    weights = (float(asked.sign),) * len(asked.channels)
    return [(" + ".join(map(str, asked.channels)), Combination(asked.channels, weights))]


def _difference(sight: Sight, asked: Asked) -> list[tuple[str, Objective]]:
    _layer(sight, asked.channels)
    weights = (float(asked.sign), *(-float(asked.sign),) * (len(asked.channels) - 1))
    return [(" - ".join(map(str, asked.channels)), Combination(asked.channels, weights))]


def _direction(sight: Sight, asked: Asked) -> list[tuple[str, Objective]]:
    info, vector = sight.model.layers[sight.layer], asked.direction or ()
    if len(vector) != info.num_channels:
        raise BadSetting(
            f"The direction has {len(vector)} numbers; {info.name} has {info.num_channels} channels and needs one for "
            "each."
        )
    if not any(vector) or not all(map(math.isfinite, vector)):
        raise BadSetting("The direction is zero everywhere, or not finite, and points nowhere; give another.")
    return [("direction", Direction(tuple(asked.sign * value for value in vector)))]


def _energy(_sight: Sight, _asked: Asked) -> list[tuple[str, Objective]]:
    return [("energy", Energy())]


GOALS: Mapping[str, Goal] = {
    "channel": Goal(
        "channel",
        "The mean of a channel over all places: its texture everywhere.",
        "channels",
        _each_channel,
        is_each=True,
    ),
    "unit": Goal(
        "one unit",
        "A channel at a single place: its pattern once, where that unit looks.",
        "channels",
        _each_unit,
        is_each=True,
    ),
    "class": Goal(
        "class score",
        "The score of a class, before the softmax; no layer plays a part. The page Class images says how sure the "
        "network is of the pictures.",
        "classes",
        _each_class,
        is_each=True,
    ),
    "sum": Goal("sum of channels", "The channels named, together in one picture.", "channels", _sum),
    "difference": Goal(
        "difference of channels",
        "The first channel named, without what excites the others.",
        "channels",
        _difference,
    ),
    "direction": Goal(
        "direction", "A mixture of all channels in given proportions, by cosine.", "direction", _direction
    ),
    "energy": Goal("whole layer", "Whatever the layer answers, more of it, as in deep dreams.", "", _energy),
}


def synthesize(
    model: LoadedModel,
    image: InputImage | None = None,
    *,
    layer: str,
    channels: Sequence[int],
    steps: int = 128,
    size_px: int = 128,
    seed: int = 0,
    objective: str = "channel",
    classes: Sequence[int] = (),
    sign: int = 1,
    cell: tuple[int, int] | None = None,
    direction: Sequence[float] | None = None,
    fourier: bool = True,
    decorrelated: bool = True,
    robust: bool = True,
    redirected: bool = True,
    learning_rate: float = 0.1,
    variants: int = 1,
    diversity: float = _DIVERSITY,
    on_step: Callable[[Step], None] | None = None,
) -> Synthesis:
    """Pictures that excite channels of a layer, or classes, by gradient ascent from noise.

    Args:
        model: Any network.
        image: A picture to start from, cut to a square; None starts from noise.
        layer: Dotted name; not used by class.
        channels: Their numbers, one picture each, or together one picture for the objectives sum and difference; not
            used by class, direction and energy.
        steps: Steps of Adam; 0 gives what they start from.
        size_px: Side of the pictures, and of what the network sees where it takes that size; else its usual input.
        seed: Of the noise and the views; the same for every picture. Variants take the seeds that follow.
        objective: A key of :data:`GOALS`.
        classes: Class indices, one picture each, for the objective class.
        sign: 1 to excite, -1 to inhibit.
        cell: (row, column) of the unit, for the objective unit; None takes the middle.
        direction: One number per channel, for the objective direction.
        fourier: Step in the spectrum rather than in pixels.
        decorrelated: Step along the axes of photos' colours; passed over by grey networks.
        robust: Show the network a shifted, scaled and turned view at each step.
        redirected: Help a picture that excites nothing over its first steps.
        learning_rate: Of Adam.
        variants: Pictures of each objective, asked to differ if there are several.
        diversity: How much they are asked to differ.
        on_step: Called after each step of each batch with the steps of all pictures done, their number in all, and the
            result so far: the pictures begun; what it raises ends the work.

    Returns:
        Pictures with their scores.

    Raises:
        BadSetting: A channel, unit, class, direction, size or number of steps that does not exist.
        UnknownLayer: No such layer.
        NotApplicable: The layer does not put out maps or vectors of several pictures at once, or the network has no
            classes.
    """
    start = time.perf_counter()
    if objective not in GOALS:
        raise BadSetting(f"objective is {objective!r}, not one of {', '.join(GOALS)}.")
    for name, value, low, high in (
        ("variants", variants, 1, MAX_VARIANTS),
        ("learning_rate", learning_rate, 0, 10),
        ("diversity", diversity, 0, 1e9),
    ):
        if not low <= value <= high:
            raise BadSetting(f"{name} is {value}; choose one from {low:g} to {high:g}.")
    if sign not in (1, -1):
        raise BadSetting(f"sign is {sign}; give 1 to excite or -1 to inhibit.")
    goal = GOALS[objective]
    if goal.needs == "classes":
        layer = ""
        check_has_classes(model)
    else:
        layer = model.layers[layer].name
    sight = Sight.of(model, layer, size_px)
    asked = Asked(tuple(channels), tuple(classes), sign, cell, None if direction is None else tuple(direction))
    aims = goal.aims(sight, asked)
    recipe = Recipe(
        Parametrization((size_px, size_px), model.preprocessing.num_channels, fourier, decorrelated),
        views=Views() if robust else None,
        learning_rate=learning_rate,
        redirected_steps=ascent.REDIRECTED_STEPS if redirected else 0,
        diversity=diversity if variants > 1 else 0.0,
    )
    items = [Item(name, aim, seed + v, i) for i, (name, aim) in enumerate(aims) for v in range(variants)]
    begin = None if image is None else square(model, image, size_px)
    settings = {
        "layer": layer,
        "channels": list(asked.channels),
        "steps": steps,
        "size_px": size_px,
        "seed": seed,
        "objective": objective,
        "classes": list(asked.classes),
        "sign": sign,
        "cell": cell,
        "direction": None if direction is None else [float(value) for value in direction],
        "fourier": fourier,
        "decorrelated": decorrelated,
        "robust": robust,
        "redirected": redirected,
        "learning_rate": learning_rate,
        "variants": variants,
        "diversity": diversity,
    }

    def climb(chosen: Sequence[Item], tell: ascent.OnProgress) -> Batch:
        return ascent.ascend(
            sight,
            [item.aim for item in chosen],
            recipe,
            seeds=[item.seed for item in chosen],
            steps=steps,
            families=[item.family for item in chosen],
            start=None if begin is None else begin.expand(len(chosen), -1, -1, -1),
            on_step=tell,
        )

    def result(batches: Sequence[Batch]) -> Synthesis:
        seconds = time.perf_counter() - start
        run = model.provenance("feature_visualization.synthesize", seconds, image=image, seed=seed)
        return collect(batches, items, layer=layer, run=dataclasses.replace(run, settings=settings))

    return in_batches(items, climb, result, steps=steps, family_size=variants, on_step=on_step)


def check_has_classes(model: LoadedModel) -> None:
    """Passes where the network has class scores.

    Raises:
        NotApplicable: It has none.
    """
    if not model.num_classes:
        raise NotApplicable(
            f"{model.spec.title} has no classifier, so there are no class scores to excite; visualise channels of "
            "layers instead."
        )


def seconds_per_step(model: LoadedModel, *, layer: str, size_px: int) -> float:
    """How long one step of one picture takes, measured; arguments as in :func:`synthesize`; layer "" for scores."""
    sight = Sight.of(model, layer, size_px)
    recipe = Recipe(Parametrization((size_px, size_px), model.preprocessing.num_channels))
    start = time.perf_counter()
    ascent.ascend(sight, [Energy()], recipe, seeds=[0], steps=2)
    return (time.perf_counter() - start) / 3  # the pictures before and after are seen, too


@dataclass(frozen=True)
class Item:
    """One picture to be made.

    Attributes:
        name: What it is of.
        aim: What is to grow.
        seed: Of its noise and views.
        family: Pictures of one family are asked to differ.
    """

    name: str
    aim: Objective
    seed: int
    family: int


def in_batches(
    items: Sequence[Item],
    climb: Callable[[Sequence[Item], ascent.OnProgress], Batch],
    result: Callable[[Sequence[Batch]], Synthesis],
    *,
    steps: int,
    family_size: int = 1,
    on_step: Callable[[Step], None] | None = None,
) -> Synthesis:
    """Makes pictures a batch at a time.

    Args:
        items: The pictures.
        climb: Makes one batch.
        result: Puts batches together, also while some are missing.
        steps: Steps of each picture.
        family_size: So many neighbours stay in one batch.
        on_step: As in :func:`synthesize`.
    """
    size = max(1, BATCH_SIZE // family_size) * family_size
    finished: list[Batch] = []
    partial, shown_at = None, -_PARTIAL_SECONDS
    total = len(items) * steps
    for first in range(0, len(items), size):
        chosen = items[first : first + size]

        def tell(step: int, as_is: Callable[[], Batch], begun: int = first, num: int = len(chosen)) -> None:
            nonlocal partial, shown_at
            if on_step is None:
                return
            if time.perf_counter() - shown_at >= _PARTIAL_SECONDS:
                partial = result([*finished, as_is()])
                shown_at = time.perf_counter()
            on_step(Step(begun * steps + step * num, total, partial))

        finished.append(climb(chosen, tell))
    return result(finished)


def collect(batches: Sequence[Batch], items: Sequence[Item], *, layer: str, run: Run) -> Synthesis:
    """One result of several batches; items beyond them are not begun."""
    num = sum(len(batch.images) for batch in batches)
    images = np.concatenate([batch.images for batch in batches])
    return Synthesis(
        images=images,
        names=tuple(item.name for item in items[:num]),
        scores=np.concatenate([batch.scores for batch in batches]),
        start_scores=np.concatenate([batch.start_scores for batch in batches]),
        peaks=np.concatenate([batch.peaks for batch in batches]),
        alphas=np.concatenate([batch.alphas for batch in batches]),
        histories=_joined([batch.history for batch in batches]),
        grey_scores=grey_scores(images),
        grey_cut=grey_cut(grey_scores(images)),
        layer=layer,
        run=run,
    )


def _joined(histories: Sequence[FloatArray]) -> FloatArray:
    """(n, S) from histories (s, n_i) of batches, not a number where a step is yet to come."""
    most = max(len(history) for history in histories)
    padded = [np.pad(history, ((0, most - len(history)), (0, 0)), constant_values=np.nan) for history in histories]
    return np.concatenate(padded, axis=1).T.copy()


def square(model: LoadedModel, image: InputImage, size_px: int) -> Tensor:
    """The middle square of a picture as the network's colours, (1, C, size_px, size_px), values 0..1."""
    fit = dataclasses.replace(model.preprocessing, input_px=(size_px, size_px), crop_pct=1.0, crop_mode="center")
    pixels = torch.from_numpy(fit.crop(image)[..., : fit.num_channels].copy())
    return pixels.permute(2, 0, 1)[None].float() / 255


def grey_scores(images: FloatArray) -> FloatArray:
    """How far pictures are from grey, (n,): root mean square of colour less luma, over pictures (n, H, W, 3), 0..1.

    Pictures that are grey throughout, as a grey network's are, are scored by their contrast in its place: the standard
    deviation of their pixels.
    """
    away = images - (images @ _LUMA)[..., None]
    colour = np.sqrt(np.square(away).mean(axis=(1, 2, 3), dtype=np.float64))
    contrast = images.std(axis=(1, 2, 3), dtype=np.float64)
    is_grey_throughout = bool(len(images)) and colour.max() < 1e-4  # luma's rounding
    return np.asarray(contrast if is_grey_throughout else colour, dtype=np.float32)


def grey_cut(scores: NDArray[np.float32]) -> float:
    """The grey score below which a picture has failed; 0 where none has.

    Sorted, the first gap between neighbours larger than a tenth of the largest score separates failures from the rest,
    if what lies below it has next to no colour.
    """
    ordered = np.sort(scores[np.isfinite(scores)].astype(np.float64))
    if not len(ordered):
        return 0.0
    if ordered[-1] < _FAINT:
        return _FAINT
    gaps = np.flatnonzero(np.diff(ordered) > _GAP * ordered[-1])
    if not len(gaps) or ordered[gaps[0]] > _MOST_GREY:
        return 0.0
    return float(ordered[gaps[0] : gaps[0] + 2].mean())
