"""Nearest neighbours: which pictures a network takes for alike.

Each layer turns a picture into a list of numbers. Two pictures whose lists are close look alike to the network, and
one need not know what any single number means: look at the neighbours. Compare the same picture's neighbours **in
pixel space**, where only colour and layout count: a cat on a red cushion is next to whatever else is red in the middle.
Deep layers bring cats on any cushion together. Going through the layers shows where along the way that happens.

*Cosine* compares directions: 1 less the cosine of the angle, so that a strong and a weak answer of the same kind are
alike. *Euclidean* is the length of the difference, as in the AlexNet paper, where strength counts, too.

The search is exact: it finds what measuring every picture would find. Where a **region** is drawn, its part of the
layer's maps is averaged and compared with every window of that size in other pictures.

When it misleads: after a ReLU all numbers are 0 or above, so that any two pictures have something in common and cosines
are high throughout; what counts is who is nearer than others, not the number itself. In many dimensions some pictures,
often plain or blurred ones, are near to nearly everything (hubs) and turn up for queries that they have little to do
with. The network looks at the whole crop: neighbours may share a lawn or a frame, not the object. And the nearest of a
small collection may be far all the same; look at the bars.

Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks (2012), figure 4; Stanford
CS231n on nearest neighbours in pixel space; on hubs Radovanović et al., Hubs in Space (2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import doctor, probe
from cnnviz_core.collections import search as exact
from cnnviz_core.collections.search import Found, Searcher
from cnnviz_core.errors import BadImage, BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.preprocessing import Box
from cnnviz_core.results import FloatArray, Neighbors, Step

OnStep = Callable[[Step], None]

METRICS = exact.METRICS

# Pictures whose maps are in memory at the same time; early maps of large networks are large.
_BATCH = 8


@runtime_checkable
class HasVectors(Protocol):
    """An index: a vector (D,) for each of N pictures. One that has a ``searcher``, too, is searched with that."""

    @property
    def vectors(self) -> NDArray[np.floating[Any]]:
        """(N, D)."""
        ...


Index = HasVectors | ArrayLike


def search(
    index: Index, vector: ArrayLike, *, k: int = 10, metric: str = "cosine", exclude: Sequence[int] | None = None
) -> Neighbors:
    """The rows of an index nearest to one vector, exactly; of rows at the same distance the earlier first.

    Args:
        index: An index or its vectors (N, D). A :class:`Searcher` made of them answers several times as fast, and
            reads no more than a quarter.
        vector: (D,).
        k: How many; fewer where the index has fewer.
        metric: A key of :data:`METRICS`. To a vector of zeros the cosine distance is 1.
        exclude: Rows to leave out, such as the query's own.

    Raises:
        BadSetting: Numbers that are not finite, a vector of another length, or another argument out of range.
    """
    searcher, vectors, query = _prepared(index), _vectors(index), np.asarray(vector)
    if query.ndim != 1:
        raise BadSetting(f"The query has shape {query.shape}; give one vector, or use search_many.")
    if searcher is None:
        return _neighbors(exact.scan(vectors, query, k=k, metric=metric, exclude=exclude or ()), metric)
    (found,) = searcher.nearest(query[None], k=k, metric=metric, exclude=None if exclude is None else [exclude])
    return _neighbors(found, metric)


def search_many(
    index: Index,
    vectors: ArrayLike,
    *,
    k: int = 10,
    metric: str = "cosine",
    exclude: Sequence[Sequence[int]] | None = None,
) -> tuple[Neighbors, ...]:
    """:func:`search` for each of several vectors, in less time.

    Args:
        index: As in :func:`search`.
        vectors: (Q, D).
        k: As in :func:`search`.
        metric: As in :func:`search`.
        exclude: For each vector the rows to leave out.

    Raises:
        BadSetting: As in :func:`search`.
    """
    found = _searcher(index).nearest(vectors, k=k, metric=metric, exclude=exclude)
    return tuple(_neighbors(one, metric) for one in found)


def label_purity(neighbors: Neighbors, labels: Sequence[str], label: str) -> float:
    """Share of the neighbours that have this label, among those that have one; not a number where none has.

    Args:
        neighbors: What a search found.
        labels: (N,) of the index's rows; empty where it is not known.
        label: The query's.
    """
    known = [labels[row] for row in neighbors.indices if labels[row]]
    return sum(other == label for other in known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, nearest first.

    Attributes:
        rows: (n, 2), the lower row first.
        distances: (n,).
        metric: "cosine" or "euclidean".
    """

    rows: NDArray[np.int64]
    distances: FloatArray
    metric: str


def near_duplicates(
    index: Index,
    *,
    max_pairs: int = 100,
    threshold: float | None = None,
    metric: str = "cosine",
    on_step: OnStep | None = None,
) -> Pairs:
    """The pairs of pictures that are nearest to each other, exactly.

    All pairs are looked at, so the time grows with the square of the number of pictures: a few seconds for 10,000,
    minutes for 100,000. Memory stays flat.

    Args:
        index: As in :func:`search`.
        max_pairs: How many at most.
        threshold: The largest distance that counts; None lists the nearest pairs however far they are.
        metric: As in :func:`search`.
        on_step: Called every few pictures with how many are done; what it raises ends the work.

    Raises:
        BadSetting: As in :func:`search`.
    """
    searcher = _searcher(index)
    found = searcher.closest_pairs(k=max_pairs, metric=metric, most=threshold, on_step=on_step)
    return _pairs(found, len(searcher.vectors), metric)


def confusing_pairs(
    index: Index,
    labels: Sequence[str],
    *,
    max_pairs: int = 100,
    metric: str = "cosine",
    on_step: OnStep | None = None,
) -> Pairs:
    """The nearest pairs of pictures with different labels: what a classifier will mix up, or what is labelled wrong.

    Args:
        index: As in :func:`search`.
        labels: (N,) of the index's rows; those without one, "", take no part.
        max_pairs: As in :func:`near_duplicates`, whose time it takes, too.
        metric: As in :func:`search`.
        on_step: As in :func:`near_duplicates`.

    Raises:
        BadSetting: As in :func:`search`, or not a label for each row.
    """
    searcher = _searcher(index)
    if len(labels) != len(searcher.vectors):
        raise BadSetting(f"There are {len(labels)} labels for {len(searcher.vectors)} vectors; give one for each.")
    names = {name: number for number, name in enumerate(sorted(set(labels) - {""}))}
    groups = np.array([names.get(label, -1) for label in labels], dtype=np.int64)
    found = searcher.closest_pairs(k=max_pairs, metric=metric, groups=groups, on_step=on_step)
    return _pairs(found, len(searcher.vectors), metric)


@dataclass(frozen=True)
class Outliers:
    """How lonely each row of an index is.

    Attributes:
        order: (N,) rows, loneliest first.
        scores: (N,) for each row its mean distance to its nearest ones; not a number for a row without any.
        metric: "cosine" or "euclidean".
    """

    order: NDArray[np.int64]
    scores: FloatArray
    metric: str


def outliers(index: Index, *, k: int = 5, metric: str = "cosine", on_step: OnStep | None = None) -> Outliers:
    """The mean distance of each picture to the k nearest others, exactly; it takes the time of :func:`near_duplicates`.

    Args:
        index: As in :func:`search`.
        k: How many others; a picture that has k near copies is no outlier.
        metric: As in :func:`search`.
        on_step: Called after each picture with how many are done; what it raises ends the work.

    Raises:
        BadSetting: As in :func:`search`.
    """
    searcher = _searcher(index)
    num_rows = len(searcher.vectors)
    scores = np.full(num_rows, np.nan)
    itself = [[row] for row in range(num_rows)]
    for row, found in enumerate(searcher.nearest(searcher.vectors, k=k, metric=metric, exclude=itself)):
        if len(found.distances):
            scores[row] = found.distances.mean()
        if on_step:
            on_step(Step(row + 1, num_rows))
    return Outliers(np.argsort(-scores, kind="stable"), scores.astype(np.float32), metric)


def region_vector(
    model: LoadedModel,
    image: InputImage,
    *,
    layer: str,
    box: Box | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """What a layer makes of a part of a picture: the mean over its cells, each by how much of it the part covers.

    Args:
        model: A network with maps.
        image: Any picture.
        layer: Dotted name of a layer with maps; a cell late in the network has seen far more than its own place.
        box: (left, top, right, bottom) in pixels of the picture, of which what lies in the crop counts. One smaller
            than a cell stands for the cell under its middle.
        mask: (H, W) over the crop that the network sees, in place of a box.

    Returns:
        (D,), one value per channel.

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer, or the network, has no maps.
        BadSetting: Neither or both of box and mask, or one that covers nothing of the crop.
    """
    info = _layer(model, layer)
    cells = _cells_under(model, image, info.cells or (1, 1), box, mask)
    maps = _maps(model, model.to_input(image), info)[0].double().cpu().numpy()
    vector: FloatArray = ((maps * cells).sum(axis=(1, 2)) / cells.sum()).astype(np.float32)
    return vector


def region_cells(
    model: LoadedModel,
    image: InputImage,
    *,
    layer: str,
    box: Box | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[int, int]:
    """(rows, columns) of the layer's cells that a part of a picture is large, at least (1, 1): for search_regions.

    Args:
        model: As in :func:`region_vector`.
        image: As in :func:`region_vector`.
        layer: As in :func:`region_vector`.
        box: As in :func:`region_vector`.
        mask: As in :func:`region_vector`; its bounding box counts.

    Raises:
        UnknownLayer: As in :func:`region_vector`.
        NotApplicable: As in :func:`region_vector`.
        BadSetting: As in :func:`region_vector`.
    """
    info = _layer(model, layer)
    down, across = _spans(model, image, info.cells or (1, 1), box, mask)
    return max(1, round(down[1] - down[0])), max(1, round(across[1] - across[0]))


@dataclass(frozen=True)
class RegionMatch:
    """The place in one picture that is most like a region.

    Attributes:
        image: Which of the pictures.
        row: First row of the window, in cells of the layer.
        col: First column.
        similarity: Cosine, -1..1.
        box: (left, top, right, bottom) of the window in pixels of the picture.
    """

    image: int
    row: int
    col: int
    similarity: float
    box: Box


@torch.no_grad()
def search_regions(
    model: LoadedModel,
    images: Sequence[InputImage | Callable[[], InputImage]],
    query_vector: ArrayLike,
    *,
    layer: str,
    k: int = 10,
    box_cells: tuple[int, int] = (1, 1),
    on_step: OnStep | None = None,
) -> list[RegionMatch]:
    """The places in other pictures that are most like a region, one for each picture.

    The layer's maps of each picture are averaged over every window of the region's size, and the window with the
    largest cosine to the query counts.

    Args:
        model: A network with maps.
        images: Pictures, or functions that open them when their turn comes; one that fails is left out.
        query_vector: (D,) from :func:`region_vector`.
        layer: As in :func:`region_vector`.
        k: How many pictures, at most.
        box_cells: (rows, columns) of the window, as from :func:`region_cells`; at most the whole grid is taken.
        on_step: Called after each batch with the pictures done and the matches so far; what it raises ends the work.

    Returns:
        The most similar first; of equal ones the earlier picture, and in it the first place in reading order.

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer, or the network, has no maps.
        BadSetting: A query of another length or with values that are not finite, or another argument out of range.
    """
    exact.check(k=k, metric="cosine")
    info = _layer(model, layer)
    (query,) = exact.as_queries(exact.as_matrix(np.asarray(query_vector)[None], width=info.num_channels))
    if min(box_cells) < 1:
        raise BadSetting(f"box_cells is {box_cells}; a region has one row and one column of cells or more.")
    direction = torch.from_numpy(query).to(model.device, torch.float32)
    matches: list[RegionMatch] = []
    for start in range(0, len(images), _BATCH):
        batch = list(_opened(images, range(start, min(start + _BATCH, len(images)))))
        if batch:
            x = torch.cat([model.to_input(image) for _, image in batch])
            similarities, cells = _windows(_maps(model, x, info), direction, box_cells)
            found = [_best_window(model, i, image, s, cells) for (i, image), s in zip(batch, similarities, strict=True)]
            matches = sorted([*matches, *found], key=lambda match: -match.similarity)[:k]
        if on_step:
            on_step(Step(min(start + _BATCH, len(images)), len(images), list(matches)))
    return matches


def _prepared(index: Index) -> Searcher | None:
    """The searcher that comes with an index."""
    found = index if isinstance(index, Searcher) else getattr(index, "searcher", None)
    return found if isinstance(found, Searcher) else None


def _vectors(index: Index) -> ArrayLike:
    return index.vectors if isinstance(index, HasVectors) else index


def _searcher(index: Index) -> Searcher:
    return _prepared(index) or Searcher.build(_vectors(index))


def _neighbors(found: Found, metric: str) -> Neighbors:
    return Neighbors(found.ids, found.distances.astype(np.float32), metric)


def _pairs(found: Found, num_rows: int, metric: str) -> Pairs:
    rows = np.stack(np.divmod(found.ids, max(1, num_rows)), axis=1)
    return Pairs(rows, found.distances.astype(np.float32), metric)


def _layer(model: LoadedModel, name: str) -> LayerInfo:
    doctor.require(model, "feature_maps")
    layer = model.layers[name]
    if not layer.is_spatial:
        raise NotApplicable(
            f"Layer {name} puts out one vector for the whole picture, in which no region can be told from another; "
            f"choose a layer before the pooling, such as {model.layers.spatial[-1].name}."
        )
    return layer


@torch.no_grad()
def _maps(model: LoadedModel, x: Tensor, layer: LayerInfo) -> Tensor:
    """(N, C, h, w) of the layer's last call."""
    outputs = probe.record(model.net, x, [layer.name], stop_after={layer.name: layer.num_calls}).outputs
    return outputs[layer.name][-1].movedim(layer.channel_dim, 1).float()


def _cells_under(
    model: LoadedModel, image: InputImage, cells: tuple[int, int], box: Box | None, mask: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """(h, w) how much of each cell lies in the region."""
    spans = _spans(model, image, cells, box, mask)
    if mask is None:
        down, across = (_under(span, num) for span, num in zip(spans, cells, strict=True))
        return np.outer(down, across)
    to_rows, to_cols = (
        _overlaps(np.arange(side) * num / side, np.arange(1, side + 1) * num / side, num)
        for side, num in zip(mask.shape, cells, strict=True)
    )
    shares: NDArray[np.float64] = to_rows.T @ mask.astype(np.float64) @ to_cols
    return shares


def _spans(
    model: LoadedModel, image: InputImage, cells: tuple[int, int], box: Box | None, mask: NDArray[np.bool_] | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the region, or the box around it, begins and ends: down and across, in cells."""
    if mask is None and box is not None:
        return _spans_of_box(box, model.preprocessing.crop_box(image), cells)
    if mask is None or box is not None:
        raise BadSetting("Give the region as either a box or a mask.")
    if mask.shape != model.preprocessing.input_px:
        raise BadSetting(
            f"The mask has {mask.shape} px; it must lie on the network's input of {model.preprocessing.input_px} px."
        )
    if not mask.any():
        raise BadSetting("The mask is empty; mark the region to look for.")
    down, across = (np.flatnonzero(mask.any(axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0))
    y, x = cells[0] / mask.shape[0], cells[1] / mask.shape[1]
    return (down[0] * y, down[1] * y), (across[0] * x, across[1] * x)


def _spans_of_box(box: Box, crop: Box, cells: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    left, top, right, bottom = box
    if not (all(map(math.isfinite, box)) and left <= right and top <= bottom):
        raise BadSetting(f"The box is {box}; give left, top, right and bottom in pixels, each side in its order.")
    y, x = cells[0] / (crop[3] - crop[1]), cells[1] / (crop[2] - crop[0])
    down = max((top - crop[1]) * y, 0), min((bottom - crop[1]) * y, cells[0])
    across = max((left - crop[0]) * x, 0), min((right - crop[0]) * x, cells[1])
    if down[0] > down[1] or across[0] > across[1]:
        raise BadSetting(
            f"The box {tuple(map(round, box))} lies outside what the network sees of the picture, "
            f"{tuple(map(round, crop))}; draw it inside."
        )
    return down, across


def _under(span: tuple[float, float], num: int) -> NDArray[np.float64]:
    """(num,) how much of each cell lies in a span; where that is a point, the cell under it."""
    is_point = span[0] == span[1]
    shares: NDArray[np.float64] = (
        np.eye(num)[min(math.floor(span[0]), num - 1)]
        if is_point
        else _overlaps(np.array([span[0]]), np.array([span[1]]), num)[0]
    )
    return shares


def _overlaps(low: NDArray[np.float64], high: NDArray[np.float64], num: int) -> NDArray[np.float64]:
    """(n, num) length that spans (n,) and the spans from 0 to 1, from 1 to 2... have in common."""
    first = np.arange(num)
    shared: NDArray[np.float64] = np.minimum(high[:, None], first + 1) - np.maximum(low[:, None], first)
    return shared.clip(0)


def _opened(
    images: Sequence[InputImage | Callable[[], InputImage]], numbers: range
) -> Iterator[tuple[int, InputImage]]:
    for number in numbers:
        source = images[number]
        try:
            image = source if isinstance(source, InputImage) else source()
        except BadImage:  # gone or changed since it was listed
            continue
        yield number, image


def _windows(
    maps: Tensor, direction: Tensor, box_cells: tuple[int, int]
) -> tuple[FloatArray, tuple[int, int, int, int]]:
    """(N, rows, cols) cosines of the windows, and (h, w) of the grid and of the window."""
    grid = maps.shape[2], maps.shape[3]
    window = min(box_cells[0], grid[0]), min(box_cells[1], grid[1])
    means = F.avg_pool2d(maps, window, stride=1)
    similarities: FloatArray = F.cosine_similarity(means, direction[None, :, None, None], dim=1).cpu().numpy()
    return similarities.clip(-1, 1), (*grid, *window)


def _best_window(
    model: LoadedModel, number: int, image: InputImage, similarities: FloatArray, cells: tuple[int, int, int, int]
) -> RegionMatch:
    row, col = (int(place) for place in np.unravel_index(similarities.argmax(), similarities.shape))
    height, width, rows, cols = cells
    left, top, right, bottom = model.preprocessing.crop_box(image)
    x, y = (right - left) / width, (bottom - top) / height
    box = left + col * x, top + row * y, left + (col + cols) * x, top + (row + rows) * y
    return RegionMatch(number, row, col, float(similarities[row, col]), box)
