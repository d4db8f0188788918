"""Masks carried from a few pictures to others: cells scored by their likeness to marked ones, and a threshold.

:mod:`cnnviz_core.methods.few_shot` tells what this is for and when it misleads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnviz_core import features, maps, masks
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.masks import Bools, MaskLike
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Features, FewShot, FloatArray, Mask, PictureMaps

_MOST_SUPPORTS = 32
_NUM_NEAREST = 5
_NUM_THRESHOLDS = 256

# A single support's grid is cut into as many blocks down and across, each of which is found from the others.
_BLOCKS = 4

# Pairs of cells that are compared at a time, and the largest grid that is segmented: that is a billion pairs.
_PAIRS = 2**24
_MOST_CELLS = 2**16


@dataclass(frozen=True)
class Side:
    """The object's cells of a support, or those beside it.

    Attributes:
        vectors: (n, D) of the cells that are mostly covered.
        prototype: (D,) mean of all cells' vectors, each counted by how much of it is covered; of length one.
    """

    vectors: Tensor
    prototype: Tensor


def _maximum(side: Side, cells: Tensor) -> Tensor:
    return (cells @ side.vectors.T).amax(1)


def _nearest(side: Side, cells: Tensor) -> Tensor:
    return (cells @ side.vectors.T).topk(min(_NUM_NEAREST, len(side.vectors)), dim=1).values.mean(1)


def _mean(side: Side, cells: Tensor) -> Tensor:
    return cells @ side.vectors.mean(0)


def _prototype(side: Side, cells: Tensor) -> Tensor:
    return cells @ side.prototype


@dataclass(frozen=True)
class Score:
    """One way to score a cell against a support's cells.

    Attributes:
        title: On screen.
        help: What it does, in a sentence.
        source: Paper.
        score: From one side of a support and cells (N, D) to their scores, (N,).
    """

    title: str
    help: str
    source: str
    score: Callable[[Side, Tensor], Tensor]


SCORES: Mapping[str, Score] = {
    "nearest": Score(
        "Nearest cells",
        f"Mean cosine of the {_NUM_NEAREST} most similar cells of the support: one chance likeness does not decide.",
        "the maximum, steadied",
        _nearest,
    ),
    "max": Score(
        "Nearest cell",
        "Cosine of the one most similar cell of the support: finds every part, and every chance likeness.",
        "Tian et al. 2020, before its scaling to 0..1",
        _maximum,
    ),
    "mean": Score(
        "All cells",
        "Mean cosine over all cells of the support: finds what the object is like on the whole.",
        "the plain reading of few-shot segmentation by similarity",
        _mean,
    ),
    "prototype": Score(
        "Prototype",
        "Cosine to the mean vector of the support, each cell counted by its covered area.",
        "Wang et al. 2019",
        _prototype,
    ),
}

SHOTS: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": lambda t: t.mean(0), "max": lambda t: t.amax(0)}


@dataclass(frozen=True)
class _Options:
    """How cells are scored; see :func:`few_shot`."""

    score: str
    shots: str
    background: bool

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise BadSetting(f"{self.score!r} is not a score; choose one of {', '.join(SCORES)}.")
        if self.shots not in SHOTS:
            raise BadSetting(f"Supports are combined by {' or '.join(SHOTS)}, not by {self.shots!r}.")


@dataclass(frozen=True)
class _Support:
    """A support picture, ready to score others: its mask as the network saw it, each cell's share of it, both sides."""

    features: Features
    mask: Bools
    shares: FloatArray
    sides: tuple[Side, Side]


@dataclass(frozen=True)
class Fitted:
    """Supports that are ready to segment any number of pictures; made by :func:`fit`.

    Attributes:
        threshold: As given, or the one that serves the supports best.
        support_iou: Mean IoU of the supports at it, each found from the others; not a number where it was given.
        settings: Keyword arguments of :func:`few_shot`, defaults filled in.
        digests: Of the support pictures.
        notices: What is not as was asked for, in sentences.
    """

    threshold: float
    support_iou: float
    settings: Mapping[str, Any]
    digests: tuple[str, ...]
    notices: tuple[str, ...]
    _supports: tuple[_Support, ...]
    _options: _Options
    _means: Mapping[str, FloatArray]


def default_layers(model: LoadedModel) -> tuple[str, ...]:
    """The layers that sum up the last two stages, which did best together on aeroplanes and on motorcycles.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    return features.stage_layers(model)[-2:]


def few_shot(
    model: LoadedModel,
    supports: Sequence[tuple[InputImage, MaskLike]],
    query: InputImage,
    *,
    layer: str | Sequence[str] | None = None,
    threshold: float | None = None,
    score: str = "nearest",
    shots: str = "mean",
    background: bool = True,
    size_px: int | None = None,
    weights: Sequence[float] | None = None,
    centre: bool = True,
    dilate_last: bool = False,
) -> FewShot:
    """The part of a picture that is alike to the objects in a few others.

    Args:
        model: Any network with maps.
        supports: One to 32 pictures with masks of their size; :func:`masks.check` says what counts as a mask.
        query: The picture to find the object in.
        layer: Dotted name of a layer, or several to join; None takes :func:`default_layers`.
        threshold: Cells that reach it are the object; None takes the one that serves the supports best.
        score: A key of :data:`SCORES`.
        shots: How the scores of several supports are combined, a key of :data:`SHOTS`: "max" trusts the most similar
            support, "mean" all alike.
        background: Subtract the score of the supports' cells beside the object.
        size_px: Longer side of the pictures as the network sees them; None takes :func:`features.default_size_px`.
        weights: How much each layer counts; None takes all alike.
        centre: Subtract the mean vector of the supports' cells first, from the query's cells, too.
        dilate_last: Take the stride out of the last stage; see :mod:`cnnviz_core.dilation`.

    Returns:
        Scores are cosines, -1..1, or differences of two of them, -2..2.

    Raises:
        BadSetting: No support or too many, a mask that does not fit, or a setting out of range.
        UnknownLayer: No layer of that name.
        NotApplicable: The network has no maps, the layer puts out a vector, or the stride cannot be taken out.
    """
    start = time.perf_counter()
    _check_number(supports)
    options = _Options(score, shots, background)
    names = default_layers(model) if layer is None else features.layer_names(model, layer)
    recorded = [
        features.record(model, image, layers=names, size_px=size_px, dilate_last=dilate_last)
        for image in (*(image for image, _ in supports), query)
    ]
    pairs = [(maps, mask) for maps, (_, mask) in zip(recorded, supports, strict=False)]
    fitted = fit(pairs, threshold=threshold, weights=weights, centre=centre, **vars(options))
    result = apply(model, fitted, recorded[-1])
    return replace(result, run=replace(result.run, seconds=time.perf_counter() - start))


def fit(
    supports: Sequence[tuple[PictureMaps, MaskLike]],
    *,
    layers: Sequence[str] | None = None,
    threshold: float | None = None,
    score: str = "nearest",
    shots: str = "mean",
    background: bool = True,
    weights: Sequence[float] | None = None,
    centre: bool = True,
) -> Fitted:
    """Makes recorded supports ready; a change of score, layers or weights needs no new forward.

    Args:
        supports: What :func:`features.record` gave for each picture, with its mask.
        layers: Which of the recorded layers; None takes all.
        threshold: As in :func:`few_shot`, like the others.
        score: A key of :data:`SCORES`.
        shots: A key of :data:`SHOTS`.
        background: Whether to subtract the background's score.
        weights: One for each layer.
        centre: Whether to subtract the supports' mean vector.

    Raises:
        BadSetting: As in :func:`few_shot`.
    """
    _check_number(supports)
    options = _Options(score, shots, background)
    recorded = [maps for maps, _ in supports]
    names = tuple(layers or recorded[0].values)
    means = features.mean_vectors(recorded) if centre else {}
    vectors = features.combine(recorded, layers=names, weights=weights, means=means)
    ready, notices = [], []
    for number, (found, (_, mask)) in enumerate(zip(vectors, supports, strict=True), start=1):
        if found.cells[0] * found.cells[1] > _MOST_CELLS:
            raise BadSetting(
                f"{' + '.join(names)} has {found.cells[0]} x {found.cells[1]} cells at this working size; at most "
                f"{_MOST_CELLS:,} cells are compared. Choose a later layer or a smaller size."
            )
        checked, said = masks.check(mask, found.picture_px, name=f"mask {number}")
        shares = masks.to_grid(checked, found.cells)
        seen = masks.to_grid(checked, found.seen_px) > 0.5
        ready.append(_Support(found, seen, shares, _sides(found, shares)))
        notices += [*said, *found.notices]
    chosen, support_iou = (threshold, np.nan) if threshold is not None else _honest_threshold(ready, options)
    if not np.isfinite(chosen):
        raise BadSetting(f"The threshold is {chosen}; give a number.")
    settings = {
        "layer": names,
        "threshold": threshold,
        **vars(options),
        "size_px": recorded[0].size_px,
        "weights": None if weights is None else tuple(weights),
        "centre": centre,
        "dilate_last": recorded[0].dilate_last,
    }
    unique = tuple(dict.fromkeys(notices))
    digests = tuple(maps.digest for maps in recorded)
    return Fitted(float(chosen), float(support_iou), settings, digests, unique, tuple(ready), options, means)


def apply(model: LoadedModel, fitted: Fitted, query: PictureMaps) -> FewShot:
    """The object in a picture that was recorded as the supports were.

    Args:
        model: The network.
        fitted: From :func:`fit`.
        query: From :func:`features.record`.
    """
    start = time.perf_counter()
    names, weights = fitted.settings["layer"], fitted.settings["weights"]
    (found,) = features.combine([query], layers=names, weights=weights, means=fitted._means)
    scores = _score_grid([support.sides for support in fitted._supports], found, fitted._options)
    score_map = maps.resize(scores, found.picture_px)
    run = model.provenance("similarity.few_shot", time.perf_counter() - start, **fitted.settings)
    return FewShot(
        scores,
        score_map,
        Mask(score_map >= fitted.threshold, "few_shot"),
        fitted.threshold,
        fitted.support_iou,
        found.layers,
        tuple(dict.fromkeys((*fitted.notices, *found.notices))),
        replace(run, image_digest=query.digest),
    )


def _check_number(supports: Sequence[object]) -> None:
    if not 1 <= len(supports) <= _MOST_SUPPORTS:
        raise BadSetting(f"There are {len(supports)} support pictures; give 1 to {_MOST_SUPPORTS}, each with a mask.")


def record_alike(model: LoadedModel, fitted: Fitted, image: InputImage) -> PictureMaps:
    """A picture as the supports were recorded, for :func:`apply`; errors as in :func:`features.record`."""
    asked = fitted.settings
    return features.record(
        model, image, layers=asked["layer"], size_px=asked["size_px"], dilate_last=asked["dilate_last"]
    )


def _sides(found: Features, shares: FloatArray, *, kept: Bools | None = None) -> tuple[Side, Side]:
    """Object and background of a picture, from the share of each cell that the mask covers."""
    on_object = masks.foreground(shares)
    return _side(found, on_object, shares, kept), _side(found, ~on_object, 1 - shares, kept)


def _side(found: Features, chosen: Bools, covered: FloatArray, kept: Bools | None) -> Side:
    if kept is not None and (chosen & kept).any():  # of what lies in one block alone nothing can be left out
        chosen, covered = chosen & kept, covered * kept
    cells = torch.from_numpy(found.vectors)
    total = torch.from_numpy(covered).flatten() @ cells
    length = total.norm().clamp_min(torch.finfo(total.dtype).tiny)
    return Side(cells[torch.from_numpy(chosen).flatten()], total / length)


def _scores(supports: Sequence[tuple[Side, Side]], cells: Tensor, options: _Options) -> FloatArray:
    """(n,) scores of cells (n, D)."""
    score, combine = SCORES[options.score].score, SHOTS[options.shots]
    most = max(len(side.vectors) for support in supports for side in support)
    chunks = []
    for some in cells.split(max(1, _PAIRS // most)):
        scores = combine(torch.stack([score(on_object, some) for on_object, _ in supports]))
        if options.background:
            scores = scores - combine(torch.stack([score(beside, some) for _, beside in supports]))
        chunks.append(scores)
    found: FloatArray = torch.cat(chunks).numpy()
    return found


def _score_grid(supports: Sequence[tuple[Side, Side]], query: Features, options: _Options) -> FloatArray:
    """(h, w) score of each of a picture's cells."""
    return _scores(supports, torch.from_numpy(query.vectors), options).reshape(query.cells)


def _honest_threshold(supports: Sequence[_Support], options: _Options) -> tuple[float, float]:
    """The threshold at which the supports' masks are found best, each from the others, and their mean IoU there."""
    if len(supports) == 1:
        score_maps = [_own_scores(supports[0], options)]
    else:
        score_maps = [
            _score_grid([other.sides for other in supports if other is not support], support.features, options)
            for support in supports
        ]
    fine = [maps.resize(scores, support.mask.shape) for scores, support in zip(score_maps, supports, strict=True)]
    low, high = min(float(scores.min()) for scores in fine), max(float(scores.max()) for scores in fine)
    thresholds = np.linspace(low, high, _NUM_THRESHOLDS, dtype=np.float32)
    ious = np.mean(
        [
            masks.iou_curve(scores, support.mask, thresholds=thresholds).ious
            for scores, support in zip(fine, supports, strict=True)
        ],
        axis=0,
    )
    return float(thresholds[ious.argmax()]), float(ious.max())


def _own_scores(support: _Support, options: _Options) -> FloatArray:
    """(h, w) score of each of a support's cells from the other blocks of its own grid."""
    rows, columns = (np.arange(side) * _BLOCKS // side for side in support.shares.shape)
    blocks = rows[:, None] * _BLOCKS + columns
    scores = np.zeros(blocks.shape, dtype=np.float32)
    cells = torch.from_numpy(support.features.vectors)
    for block in np.unique(blocks):
        inside = blocks == block
        elsewhere = _sides(support.features, support.shares, kept=~inside)
        scores[inside] = _scores([elsewhere], cells[torch.from_numpy(inside).flatten()], options)
    return scores
