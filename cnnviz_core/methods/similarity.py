"""Feature similarity: which places of a picture are, to the network, like a given place of another.

Each cell of a layer's grid holds a vector of one number per channel: what the network knows of that place. Two vectors
are compared by the cosine of the angle between them: 1 for the same direction, 0 for nothing in common; below 0 only
in layers that are not rectified. Point at the wheel of one motorcycle, and the wheels of another light up, though no
label ever said "wheel". The same picture on both sides shows self-similarity: what the network takes for more of the
same.

In early layers like means like in texture and colour; in late ones it is like in meaning, on a coarse grid: a cell of
the last stage is 32 pixels wide and has seen far more than that. Several layers joined have some of both.

When it misleads: after a ReLU no cosine is below 0, and all are high where a few channels answer everywhere; then take
off the mean vector, or look at ranks. A cell's vector tells of its surroundings, too, so the cells next to the object
are like it. The border of the picture, where the network saw padding, is like itself. And the best match is a match
even where nothing fits: look at its cosine, and whether it is mutual, that is, whether the way back leads to the cell
that one came from.

Is the network learning something meaningful? With a mask of an object, see whether the object's cells are more alike to
each other than to those around, layer by layer. An untrained network gets there by colour and texture alone, so compare
with one. This looks at the features themselves, unlike saliency maps, of which some hardly depend on the weights
(Adebayo et al. 2018).

Source: Adebayo et al., Sanity Checks for Saliency Maps (2018), for the warning; Fong and Vedaldi, Net2Vec (2018), for
comparing the vectors of places; Amir et al., Deep ViT Features as Dense Visual Descriptors (2021), for mutual nearest
neighbours ("best buddies").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from cnnviz_core import features, mask_transfer, masks
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.masks import MaskLike
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Correspondences, Features, FloatArray, Heatmap, Matches, Packed, SelfSimilarity

Cell = tuple[int, int]
Whole = NDArray[np.int8] | NDArray[np.int16]

few_shot = mask_transfer.few_shot

# Cosines of the same vectors differ by less than this; among such equals the nearest place is the best match.
_ROUNDING = 1e-6

# Pairs of cells that are compared at a time.
_PAIRS = 2**24

# Cells of either side whose pairs are compared one by one for the score of a layer.
_MOST_SAMPLED = 512

BRUSHES: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": lambda t: t.mean(0), "max": lambda t: t.amax(0)}

_WIDTHS = (np.int8, np.int16)


def compare(
    model: LoadedModel,
    image_a: InputImage,
    image_b: InputImage,
    *,
    layer: str | Sequence[str] | None = None,
    cell: Cell | Sequence[Cell],
    brush: str = "mean",
    size_px: int | None = None,
    weights: Sequence[float] | None = None,
    centre: bool = False,
    dilate_last: bool = False,
) -> Heatmap:
    """How alike every cell of a picture is to a cell of another, or to several.

    Args:
        model: Any network with maps.
        image_a: The picture that the cell lies in.
        image_b: The picture that is searched; it may be the same one.
        layer: Dotted name of a layer, or several to join; None takes :func:`features.default_layer`.
        cell: (row, col) in the grid of ``image_a``, or several of them.
        brush: How the cosines to several cells are combined, a key of :data:`BRUSHES`.
        size_px: Longer side of the pictures as the network sees them; None takes :func:`features.default_size_px`.
        weights: How much each layer counts; None takes all alike.
        centre: Subtract the mean vector of both pictures first.
        dilate_last: Take the stride out of the last stage; see :mod:`cnnviz_core.dilation`.

    Returns:
        Cosines, -1..1, (h, w) of ``image_b``'s grid. The run's digest is that of ``image_a``.

    Raises:
        BadSetting: A cell outside the grid, or a setting out of range.
        UnknownLayer: No layer of that name.
        NotApplicable: The network has no maps, the layer puts out a vector, or the stride cannot be taken out.
    """
    start = time.perf_counter()
    names = features.layer_names(model, layer)
    pictures = (image_a,) if image_a.digest == image_b.digest else (image_a, image_b)
    found = features.compute(
        model, pictures, layers=names, size_px=size_px, weights=weights, centre=centre, dilate_last=dilate_last
    )
    cells = _cells(cell)
    values = similarity(found[0], found[-1], cell=cells, brush=brush)
    run = model.provenance(
        "similarity.compare",
        time.perf_counter() - start,
        image=image_a,
        layer=names[0] if len(names) == 1 else names,
        cell=cells[0] if len(cells) == 1 else cells,
        brush=brush,
        size_px=features.default_size_px(model) if size_px is None else size_px,
        weights=None if weights is None else tuple(weights),
        centre=centre,
        dilate_last=dilate_last,
    )
    return Heatmap(values, " + ".join(names), None, "", "cosine", run)


def similarity(a: Features, b: Features, *, cell: Cell | Sequence[Cell], brush: str = "mean") -> FloatArray:
    """What :func:`compare` gives, from vectors that were computed before; arguments and errors as there.

    Args:
        a: Vectors of the picture that the cell lies in.
        b: Vectors of the picture that is searched, from the same call of :func:`features.compute`.
        cell: (row, col), or several.
        brush: A key of :data:`BRUSHES`.

    Returns:
        (h, w), -1..1.
    """
    if brush not in BRUSHES:
        raise BadSetting(f"Several cells are combined by {' or '.join(BRUSHES)}, not by {brush!r}.")
    cosines = torch.from_numpy(a.vectors[_indices(a, _cells(cell))]) @ _tensor(b).T
    values: FloatArray = BRUSHES[brush](cosines).clamp(-1, 1).numpy().reshape(b.cells)
    return values


def best_matches(a: Features, b: Features, *, cell: Cell, k: int = 5) -> Matches:
    """The cells of a picture most like a cell of another.

    Where several are equally alike, as in a flat sky, that at the nearest place of the picture comes first.

    Args:
        a: Vectors of the picture that the cell lies in.
        b: Vectors of the picture that is searched.
        cell: (row, col) in the grid of ``a``.
        k: How many, at least 1; more than there are cells means all.

    Raises:
        BadSetting: A cell outside the grid, or k below 1.
    """
    if k < 1:
        raise BadSetting(f"k is {k}; it must be 1 or more.")
    (index,) = _indices(a, [cell])
    cosines = _tensor(b) @ torch.from_numpy(a.vectors[index])
    distances = torch.cdist(_places(a)[index : index + 1], _places(b))[0]
    order = torch.argsort(cosines - _ROUNDING * distances, descending=True, stable=True)[:k]
    back = _tensor(b)[order] @ _tensor(a).T
    is_mutual = back[:, index] >= back.amax(1) - _ROUNDING
    return Matches(
        _rows_and_columns(order.numpy(), b), cosines[order].clamp(-1, 1).numpy(), is_mutual.numpy().astype(np.bool_)
    )


def correspondences(a: Features, b: Features, *, mutual: bool = True, k: int | None = None) -> Correspondences:
    """For every cell of a picture the most similar one of another, most alike first.

    Args:
        a: Vectors of the first picture.
        b: Vectors of the other.
        mutual: Keep only pairs that are each other's most similar cell.
        k: Keep only so many; None keeps all.

    Raises:
        BadSetting: k below 1.
    """
    if k is not None and k < 1:
        raise BadSetting(f"k is {k}; it must be 1 or more.")
    forth, cosines = _most_similar(a, b)
    from_a = np.arange(len(forth))
    if mutual:
        back, _ = _most_similar(b, a)
        from_a = np.flatnonzero(back[forth] == from_a)
    order = from_a[np.argsort(-cosines[from_a], kind="stable")][:k]
    return Correspondences(_rows_and_columns(order, a), _rows_and_columns(forth[order], b), cosines[order])


def pack(pictures: Sequence[Features], *, max_error: float = 0.01) -> tuple[Packed, ...]:
    """The vectors of pictures in whole numbers, for a browser that compares any two of their cells.

    Each vector is divided by its largest magnitude and written in 8 bits, so it takes a quarter of the room, and a dot
    product needs the two cells' scales and nothing else. No dimension is left out: 64 principal directions miss single
    cosines by 0.05 to 0.6, since it is the rare cells that do not lie in them.

    Args:
        pictures: Vectors that may be compared, from the same call of :func:`features.compute`.
        max_error: Where 8 bits miss a cosine by more than this, 16 are taken.

    Returns:
        For each picture its cells; the error was measured on all pairs, or, where these are more than 16 million, on
        all pairs with cells spread evenly over the pictures.

    Raises:
        BadSetting: No picture.
    """
    if not pictures:
        raise BadSetting("There is no picture to pack; give one or more.")
    vectors = np.concatenate([picture.vectors for picture in pictures])
    for width in _WIDTHS:
        values, scales = _whole_numbers(vectors, width)
        error, num_pairs = _packing_error(vectors, values, scales)
        if error <= max_error:
            break
    packed, first = [], 0
    for picture in pictures:
        mine = slice(first, first + len(picture.vectors))
        packed.append(Packed(values[mine], scales[mine], picture.cells, error, num_pairs))
        first = mine.stop
    return tuple(packed)


def self_similarity_score(
    model: LoadedModel,
    image: InputImage,
    mask: MaskLike,
    *,
    layers: Sequence[str] | None = None,
    size_px: int | None = None,
    centre: bool = False,
) -> SelfSimilarity:
    """How much more alike the places of an object are to each other than to what surrounds it, layer by layer.

    Args:
        model: Any network with maps.
        image: A picture of an object.
        mask: (H, W) the object; :func:`masks.check` says what counts as a mask.
        layers: Dotted names; None takes one for each stage.
        size_px: Longer side of the picture as the network sees it; None takes :func:`features.default_size_px`.
        centre: Subtract the picture's mean vector first, so that what all places share does not count.

    Returns:
        A cell counts as object where more than half of it is covered. The share of pairs is of at most 512 cells of
        either side, spread evenly; the means are of all. Not a number for a layer too coarse to have two cells on the
        object and one beside it.

    Raises:
        BadSetting: A mask that does not fit.
        UnknownLayer: No layer of that name.
        NotApplicable: The network has no maps, or a layer puts out a vector.
    """
    start = time.perf_counter()
    names = features.stage_layers(model) if layers is None else features.layer_names(model, layers)
    recorded = features.record(model, image, layers=names, size_px=size_px)
    checked, notices = masks.check(mask, (image.height, image.width))
    each = [features.combine([recorded], layers=[name], centre=centre)[0] for name in names]
    contrasts = [_contrast(found, masks.to_grid(checked, found.cells)) for found in each]
    within, across, aucs = np.array(contrasts, dtype=np.float32).T
    run = model.provenance(
        "similarity.self_similarity_score",
        time.perf_counter() - start,
        image=image,
        layers=names,
        size_px=recorded.size_px,
        centre=centre,
    )
    cells = tuple(found.cells for found in each)
    return SelfSimilarity(names, cells, within, across, aucs, (*notices, *recorded.notices), run)


def _contrast(found: Features, shares: FloatArray) -> tuple[float, float, float]:
    """Mean cosine within the object, mean cosine to the rest, and how often the first is above the second."""
    on_object = (shares > 0.5).ravel()
    inside, outside = found.vectors[on_object], found.vectors[~on_object]
    num = len(inside)
    if num < 2 or not len(outside):
        return math.nan, math.nan, math.nan
    total = inside.sum(axis=0, dtype=np.float64)
    own = np.square(inside, dtype=np.float64).sum()
    within = (total @ total - own) / (num * (num - 1))
    across = total @ outside.mean(axis=0, dtype=np.float64) / num
    inside, outside = _spread(inside), _spread(outside)
    pairs_within = (inside @ inside.T)[~np.eye(len(inside), dtype=bool)]
    pairs_across = (inside @ outside.T).ravel()
    ranks = stats.rankdata(np.concatenate([pairs_within, pairs_across]))[: pairs_within.size]
    wins = ranks.sum() - pairs_within.size * (pairs_within.size + 1) / 2
    return float(within), float(across), float(wins / (pairs_within.size * pairs_across.size))


def _spread(vectors: FloatArray) -> FloatArray:
    """At most so many of them, evenly spread."""
    some: FloatArray = vectors[_evenly(len(vectors), _MOST_SAMPLED)]
    return some


def _evenly(num: int, most: int) -> NDArray[np.int64]:
    """At most so many indices, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, num - 1, min(num, max(1, most))).astype(np.int64))


def _cells(cell: Cell | Sequence[Cell]) -> tuple[Cell, ...]:
    """One cell or several as several."""
    cells = np.atleast_2d(np.asarray(cell))
    if cells.ndim != 2 or cells.shape[1:] != (2,) or not len(cells) or cells.dtype.kind not in "iu":
        raise BadSetting(f"The cell is {cell}; give (row, col) in whole numbers, or several of them.")
    return tuple((int(row), int(col)) for row, col in cells)


def _indices(picture: Features, cells: Sequence[Cell]) -> list[int]:
    """Where cells lie among a picture's vectors."""
    rows, columns = picture.cells
    for row, col in cells:
        if not (0 <= row < rows and 0 <= col < columns):
            raise BadSetting(
                f"There is no cell ({row}, {col}): the grid has rows 0 to {rows - 1} and columns 0 to {columns - 1}."
            )
    return [row * columns + col for row, col in cells]


def _tensor(picture: Features) -> Tensor:
    return torch.from_numpy(picture.vectors)


def _rows_and_columns(indices: NDArray[np.int64], picture: Features) -> NDArray[np.int64]:
    return np.stack(np.divmod(indices, picture.cells[1]), axis=-1)


def _places(picture: Features) -> Tensor:
    """(h w, 2) centres of the cells as shares of the picture's sides."""
    rows, columns = ((torch.arange(num) + 0.5) / num for num in picture.cells)
    return torch.cartesian_prod(rows, columns)


def _most_similar(a: Features, b: Features) -> tuple[NDArray[np.int64], FloatArray]:
    """For each cell of a the index of the most similar one of b, and their cosine."""
    size = max(1, _PAIRS // max(1, len(b.vectors)))
    found = []
    for vectors, places in zip(_tensor(a).split(size), _places(a).split(size), strict=True):
        cosines = vectors @ _tensor(b).T
        index = (cosines - _ROUNDING * torch.cdist(places, _places(b))).argmax(1)
        found.append((index, cosines.gather(1, index[:, None])[:, 0].clamp(-1, 1)))
    indices, cosines = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return indices, cosines


def _whole_numbers(vectors: FloatArray, width: type[np.int8 | np.int16]) -> tuple[Whole, FloatArray]:
    """Vectors (N, D) in whole numbers, and what each is to be multiplied by."""
    largest = np.abs(vectors).max(axis=1)
    scales = np.where(largest > 0, largest / np.iinfo(width).max, 1).astype(np.float32)
    return np.rint(vectors / scales[:, None]).astype(width), scales


def _packing_error(vectors: FloatArray, values: Whole, scales: FloatArray) -> tuple[float, int]:
    """Largest difference of a cosine, and over how many pairs."""
    exact, restored = torch.from_numpy(vectors), torch.from_numpy(values.astype(np.float32) * scales[:, None])
    num = len(vectors)
    chosen = torch.from_numpy(_evenly(num, _PAIRS // num))
    differences = exact[chosen] @ exact.T - restored[chosen] @ restored.T
    return float(differences.abs().max()), len(chosen) * num
