"""Filters: the patterns a convolution looks for, read straight from its weights.

A kernel of the first layer acts on pixels, so it can be looked at as a small colour picture: the patch it answers to
most strongly for its contrast. Trained networks show edges of many directions, colour blobs and gratings; noise there
means too little training, too little regularisation, or kernels that are not used. Deeper kernels act on channels
without a colour of their own and are shown slice by slice.

When it misleads: the picture shows weights, not what survives the bias, the normalisation and the ReLU behind them; and
a kernel with small weights can matter as much as one with large weights if the layer is normalised afterwards.

Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks (2012), figure 3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Kernels


def compute(model: LoadedModel, *, layer: str | None = None) -> Kernels:
    """The kernels of one convolution.

    Args:
        model: Any network.
        layer: Dotted name of a Conv2d; None takes the first.

    Returns:
        Raw weights, (O, I, kh, kw); I is the number of channels that one kernel reads.

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer is not a convolution, or the network has none.
    """
    start = time.perf_counter()
    name = default_layer(model) if layer is None else model.layers[layer].name
    module = model.net.get_submodule(name)
    if not isinstance(module, nn.Conv2d):
        raise NotApplicable(
            f"Layer {name} is a {type(module).__name__} and has no kernels; choose a convolution, such as "
            f"{default_layer(model)}."
        )
    values: FloatArray = module.weight.detach().float().cpu().numpy().copy()  # else a view of the shared weights
    reads_image = name == first_convolution(model)
    return Kernels(
        values=values,
        layer=name,
        groups=module.groups,
        input_std=np.array(model.preprocessing.std if reads_image else (), dtype=np.float32),
        run=model.provenance("filters.compute", time.perf_counter() - start, layer=name),
    )


def default_layer(model: LoadedModel) -> str:
    """The first convolution.

    Raises:
        NotApplicable: The network has none.
    """
    if not model.layers.convolutions:
        raise NotApplicable(f"{model.spec.title} has no convolution, so it has no kernels to show.")
    return model.layers.convolutions[0].name


def first_convolution(model: LoadedModel) -> str:
    """The convolution that reads the picture's colours; empty where the first one reads another number of channels."""
    first = model.layers.convolutions[0] if model.layers.convolutions else None
    module = model.net.get_submodule(first.name) if first else None
    reads_pixels = isinstance(module, nn.Conv2d) and module.in_channels == model.preprocessing.num_channels
    return first.name if first and reads_pixels else ""


@dataclass(frozen=True)
class Order:
    """One way to order kernels, from (O, I, kh, kw) to kernel indices (O,)."""

    title: str
    help: str
    needs_colour: bool
    order: Callable[[FloatArray], NDArray[np.intp]]


def norms(kernels: Kernels) -> FloatArray:
    """Euclidean norm of every kernel, (O,)."""
    return _norms(kernels.values)


def _by_norm(values: FloatArray) -> NDArray[np.intp]:
    return np.argsort(-_norms(values), kind="stable")


def _by_similarity(values: FloatArray) -> NDArray[np.intp]:
    """Leaves of an average-linkage tree on cosine distance, so that like kernels stand together."""
    from scipy.cluster import hierarchy  # late: its import takes longer than the first page may wait
    from scipy.spatial import distance

    if len(values) < 3:
        return np.arange(len(values))
    distances = np.clip(1 - _cosines(values), 0, 2)
    np.fill_diagonal(distances, 0)
    tree = hierarchy.linkage(distance.squareform(distances, checks=False), method="average")
    leaves: NDArray[np.intp] = hierarchy.leaves_list(tree).astype(np.intp)
    return leaves


def _by_hue(values: FloatArray) -> NDArray[np.intp]:
    """Hue of the most coloured place of each kernel; kernels with little colour come last, by norm."""
    colour = values - values.mean(axis=1, keepdims=True)
    chroma = np.linalg.norm(colour, axis=1).reshape(len(values), -1)
    places = chroma.argmax(axis=1)
    red, green, blue = (values.reshape(len(values), 3, -1)[np.arange(len(values)), :, places]).T
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) % (2 * np.pi)
    # In trained networks the share of colour has a gap near one half: edges below it, colour blobs above.
    is_grey = _norms(colour) <= 0.5 * _norms(values)
    return np.lexsort((np.where(is_grey, -_norms(values), hue), is_grey))


ORDERS: Mapping[str, Order] = {
    "index": Order("Kernel number", "As the layer has them.", False, lambda v: np.arange(len(v))),  # noqa: FBT003
    "norm": Order("Norm", "Largest weights first.", False, _by_norm),  # noqa: FBT003
    "similarity": Order("Similarity", "Like kernels stand together.", False, _by_similarity),  # noqa: FBT003
    "hue": Order("Hue", "By the colour a kernel prefers; grey ones last.", True, _by_hue),  # noqa: FBT003
}


def order(kernels: Kernels, *, by: str) -> NDArray[np.intp]:
    """Kernel indices in order, (O,).

    Args:
        kernels: Any kernels.
        by: A key of :data:`ORDERS`.

    Raises:
        BadSetting: No such order.
        NotApplicable: Ordering by hue, and the kernels do not read three colours.
    """
    if by not in ORDERS:
        raise BadSetting(f"{by!r} is not an order of kernels; choose one of {', '.join(ORDERS)}.")
    if ORDERS[by].needs_colour and len(kernels.input_std) != 3:
        raise NotApplicable("Only kernels that read red, green and blue have a hue; order by norm or similarity.")
    return ORDERS[by].order(kernels.values)


def dead_kernels(kernels: Kernels, *, threshold: float = 0.01) -> NDArray[np.intp]:
    """Kernels that answer almost nothing, whatever comes: indices, (n,).

    Args:
        kernels: Any kernels.
        threshold: Share of the layer's upper quartile of norms up to which a kernel counts as dead. The quartile and
            not the median, since more than half of a layer may be dead.
    """
    lengths = norms(kernels)
    return np.flatnonzero(lengths <= threshold * np.quantile(lengths, 0.75))


class Pair(NamedTuple):
    """Two kernels that point the same way (cosine near 1) or opposite ways (near -1)."""

    first: int
    second: int
    cosine: float


class Pairs(Sequence[Pair]):
    """Pairs of kernels, closest first; a layer may have a million, so they are made only when looked at."""

    def __init__(self, first: NDArray[np.intp], second: NDArray[np.intp], cosine: FloatArray) -> None:
        self._first, self._second, self._cosine = first, second, cosine

    def __len__(self) -> int:
        return len(self._cosine)

    @overload
    def __getitem__(self, key: int) -> Pair: ...
    @overload
    def __getitem__(self, key: slice) -> list[Pair]: ...
    def __getitem__(self, key: int | slice) -> Pair | list[Pair]:
        """One pair, or a list of some."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        return Pair(int(self._first[key]), int(self._second[key]), float(self._cosine[key]))


def duplicate_pairs(kernels: Kernels, *, threshold: float = 0.95) -> Pairs:
    """Pairs with absolute cosine above the threshold, closest first; dead kernels are left out.

    Kernels of one weight (1x1 and one channel) all point the same way, so they have no pairs.
    """
    alive = np.setdiff1d(np.arange(len(kernels.values)), dead_kernels(kernels))
    if kernels.values[0].size == 1:
        alive = alive[:0]
    cosines = _cosines(kernels.values[alive])
    rows, cols = np.nonzero(np.triu(np.abs(cosines) > threshold, k=1))
    found = cosines[rows, cols]
    closest = np.argsort(-np.abs(found), kind="stable")
    return Pairs(alive[rows][closest], alive[cols][closest], found[closest])


def frequency_response(kernels: Kernels, *, kernel: int, size: int = 65) -> FloatArray:
    """How strongly a kernel answers to gratings of every direction and fineness, (size, size).

    The magnitude of the kernel's Fourier transform, root of the sum of squares over its input channels. The middle is
    frequency 0 (even areas); the border is half a cycle per input cell, the finest grating there is.

    Args:
        kernels: Any kernels.
        kernel: Which one.
        size: Number of frequencies each way, at least the kernel's size; odd, so that frequency 0 has a cell.

    Raises:
        BadSetting: No such kernel, or too few frequencies.
    """
    if not 0 <= kernel < len(kernels.values):
        raise BadSetting(f"Layer {kernels.layer} has kernels 0 to {len(kernels.values) - 1}; there is no {kernel}.")
    if size < max(kernels.values.shape[2:]):
        raise BadSetting(f"size is {size}; kernels of {kernels.layer} need at least {max(kernels.values.shape[2:])}.")
    spectrum = np.fft.fftshift(np.fft.fft2(kernels.values[kernel].astype(np.float64), s=(size, size)), axes=(-2, -1))
    response: FloatArray = np.sqrt((np.abs(spectrum) ** 2).sum(axis=0)).astype(np.float32)
    return response


def _cosines(values: FloatArray) -> FloatArray:
    """Cosine of every kernel with every other, (O, O); 0 with a kernel of zeros."""
    flat, lengths = _flat(values), _norms(values)[:, None]
    directions = np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
    cosines: FloatArray = directions @ directions.T
    return cosines


def _norms(values: FloatArray) -> FloatArray:
    lengths: FloatArray = np.linalg.norm(_flat(values), axis=1).astype(np.float32)
    return lengths


def _flat(values: FloatArray) -> FloatArray:
    """(O, weights of one kernel), also where there is no kernel."""
    return values.reshape(len(values), math.prod(values.shape[1:]))
