"""Feature maps: what each channel of a layer answers, place by place.

A convolutional layer turns a picture into a stack of maps, one per channel. Early maps look like edge and colour
pictures of the photo; later ones are coarse and light up where a part or an object is. Each is shown as the layer put
it out: after a ReLU there are only values from 0 up, before it negative ones mean "against".

When it misleads: a bright map says that a channel answered here, not that the answer mattered for the class, and a
map scaled to its own maximum looks strong even where the raw values are tiny. A channel that is silent on this photo
may be busy on another.

Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014); Yosinski et al., Understanding
Neural Networks Through Deep Visualization (2015).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz_core import photos, probe
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FeatureMaps, FloatArray

_BATCH = 4


def compute(model: LoadedModel, image: InputImage, *, layer: str | None = None, call: int = -1) -> FeatureMaps:
    """All maps of one layer.

    Args:
        model: Any network.
        image: Any picture.
        layer: Dotted name; None takes the middle of the network (the second of ``model.layers.landmarks``).
        call: Which call, where the network uses the layer several times: 0 is the first, -1 the last.

    Returns:
        Raw activations, (C, h, w).

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer puts out a vector, or the network has no maps at all.
        BadSetting: No such call.
    """
    name = default_layer(model) if layer is None else layer
    return _compute(model, image, [name], call)[name]


def compute_many(model: LoadedModel, image: InputImage, *, layers: Sequence[str]) -> dict[str, FeatureMaps]:
    """The maps of several layers from one forward; arguments and errors as in :func:`compute`."""
    return _compute(model, image, layers, -1)


def default_layer(model: LoadedModel) -> str:
    """The layer in the middle of the network.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    landmarks = model.layers.landmarks
    if not landmarks:
        raise NotApplicable(
            f"{model.spec.title} has no layer whose output is a map, so there are no feature maps; "
            "this page needs a network with convolutions."
        )
    return landmarks[len(landmarks) // 2]


@torch.no_grad()
def _compute(model: LoadedModel, image: InputImage, names: Sequence[str], call: int) -> dict[str, FeatureMaps]:
    start = time.perf_counter()
    names = tuple(dict.fromkeys(names))
    layers = [_spatial(model, name, call) for name in names]
    recording = probe.record(
        model.net, model.to_input(image), names, stop_after={layer.name: layer.num_calls for layer in layers}
    )
    values = {layer.name: _values(recording.outputs[layer.name][call], layer) for layer in layers}
    seconds = time.perf_counter() - start
    return {
        name: FeatureMaps(
            maps, name, model.provenance("feature_maps.compute", seconds, image=image, layer=name, call=call)
        )
        for name, maps in values.items()
    }


def _spatial(model: LoadedModel, name: str, call: int) -> LayerInfo:
    layer = model.layers[name]
    if layer.cells is None:
        raise NotApplicable(
            f"Layer {name} puts out a vector of {layer.num_channels} values, not maps; choose a layer before the "
            f"pooling, such as {default_layer(model)}."
        )
    if not -layer.num_calls <= call < layer.num_calls:
        raise BadSetting(f"Layer {layer.name} is called {layer.num_calls} times; there is no call {call}.")
    return layer


def _values(output: Tensor, layer: LayerInfo) -> FloatArray:
    """(C, h, w) of the first picture."""
    maps: FloatArray = output[0].movedim(layer.channel_dim - 1, 0).float().cpu().numpy()
    return np.ascontiguousarray(maps)


@torch.no_grad()
def channel_means(model: LoadedModel, images: Sequence[InputImage], *, layer: str, call: int = -1) -> FloatArray:
    """Mean activation of every channel on several pictures, (N, C); errors as in :func:`compute`."""
    info = _spatial(model, layer, call)
    means = []
    for start in range(0, len(images), _BATCH):  # small batches, since early maps of large networks are large
        x = torch.cat([model.to_input(image) for image in images[start : start + _BATCH]])
        output = probe.record(model.net, x, [layer], stop_after={layer: info.num_calls}).outputs[layer][call]
        means.append(output.movedim(info.channel_dim, 1).mean(dim=(2, 3)).float().cpu().numpy())
    return np.concatenate(means)


def bundled_means(model: LoadedModel, *, layer: str, call: int = -1) -> FloatArray:
    """:func:`channel_means` of the bundled photos, a small sample of what the world looks like."""
    return channel_means(model, [photos.open_photo(photo_id) for photo_id in photos.PHOTOS], layer=layer, call=call)


@dataclass(frozen=True)
class Fusion:
    """One way to make one map of all channels."""

    title: str
    help: str
    fuse: Callable[[FloatArray], FloatArray]


FUSIONS: Mapping[str, Fusion] = {
    "mean": Fusion("Mean", "Average over the channels: where the layer answers at all.", lambda v: v.mean(axis=0)),
    "max": Fusion("Maximum", "The strongest channel at each place.", lambda v: v.max(axis=0)),
    "l2": Fusion(
        "L2 norm",
        "Length of the feature vector at each place: how much is going on there.",
        lambda v: np.sqrt((v.astype(np.float64) ** 2).sum(axis=0)).astype(np.float32),
    ),
}


def fuse(maps: FeatureMaps, *, method: str) -> FloatArray:
    """All channels in one map, (h, w).

    Args:
        maps: Any feature maps.
        method: A key of :data:`FUSIONS`.

    Raises:
        BadSetting: No such method.
    """
    if method not in FUSIONS:
        raise BadSetting(f"{method!r} is not a way to fuse channels; choose one of {', '.join(FUSIONS)}.")
    return FUSIONS[method].fuse(maps.values)


def principal_components(maps: FeatureMaps, *, num_components: int = 3) -> FloatArray:
    """The directions in which the feature vectors of this picture differ most, as maps (num_components, h, w).

    The vectors of the cells are centred and projected on their first principal components. A component's sign is
    arbitrary; it is set so that the larger absolute value is positive. Components beyond the rank are 0.
    """
    num_channels, height, width = maps.values.shape
    vectors = maps.values.reshape(num_channels, -1).T.astype(np.float64)
    vectors -= vectors.mean(axis=0)
    left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
    projected = (left * singular)[:, :num_components].T
    flip = np.abs(projected.min(axis=1)) > projected.max(axis=1)
    projected[flip] *= -1
    components = np.zeros((num_components, height * width), dtype=np.float32)
    components[: len(projected)] = projected
    return components.reshape(num_components, height, width)


@dataclass(frozen=True)
class Ranking:
    """One way to order channels: a score for each, (C,), from the maps and the channels' means on other pictures."""

    title: str
    help: str
    score: Callable[[FloatArray, FloatArray], FloatArray]
    needs_reference: bool = False


RANKINGS: Mapping[str, Ranking] = {
    "mean": Ranking("Mean activation", "Strong all over the picture.", lambda v, _: v.mean(axis=(1, 2))),
    "max": Ranking("Maximum", "Strong somewhere in the picture.", lambda v, _: v.max(axis=(1, 2))),
    "specificity": Ranking(
        "Specific to this picture",
        "Answers more here than on the bundled photos, in standard deviations of its mean on those.",
        lambda v, reference: _specificity(v, reference),
        needs_reference=True,
    ),
    "variance": Ranking("Variance", "Tells places apart most.", lambda v, _: v.var(axis=(1, 2))),
    "sparsity": Ranking(
        "Sparsity",
        "Active in few places: Hoyer’s measure, 1 for a single active cell, 0 for an even map.",
        lambda v, _: _hoyer(v.reshape(len(v), -1)),
    ),
    "index": Ranking("Channel number", "As the layer has them.", lambda v, _: -np.arange(len(v), dtype=np.float32)),
}


def rank(maps: FeatureMaps, *, by: str, reference: FloatArray | None = None) -> tuple[NDArray[np.intp], FloatArray]:
    """Channels in order, and the score of each channel.

    Args:
        maps: Any feature maps.
        by: A key of :data:`RANKINGS`.
        reference: :func:`channel_means` of other pictures, (N, C), at least two; only "specificity" needs it.

    Returns:
        Channel indices (C,), best first, and scores (C,) by channel.

    Raises:
        BadSetting: No such ranking, or it needs a reference and there is none that fits.
    """
    if by not in RANKINGS:
        raise BadSetting(f"{by!r} is not a ranking; choose one of {', '.join(RANKINGS)}.")
    none = np.empty((0, len(maps.values)), dtype=np.float32)
    reference = none if reference is None else reference
    if RANKINGS[by].needs_reference and (len(reference) < 2 or reference.shape[1] != len(maps.values)):
        raise BadSetting(
            f"Ranking by {by} compares with other pictures; give the means of the {len(maps.values)} channels on at "
            "least two as reference."
        )
    scores = RANKINGS[by].score(maps.values, reference)
    return np.argsort(-scores, kind="stable"), scores


def _specificity(values: FloatArray, reference: FloatArray) -> FloatArray:
    spread = reference.std(axis=0, ddof=1)
    # A channel that never varied has no scale of its own; a share of the layer's typical spread keeps it finite.
    floor = max(float(np.median(spread)) * 0.1, 1e-12)
    scores: FloatArray = (values.mean(axis=(1, 2)) - reference.mean(axis=0)) / np.maximum(spread, floor)
    return scores


def dead_channels(maps: FeatureMaps) -> NDArray[np.intp]:
    """Channels whose map is the same value everywhere on this picture, (n,)."""
    flat = maps.values.reshape(len(maps.values), -1)
    return np.flatnonzero(flat.max(axis=1) == flat.min(axis=1))


def _hoyer(flat: FloatArray) -> FloatArray:
    """(sqrt(n) - L1 / L2) / (sqrt(n) - 1) of each row; 0 for a row of zeros. Source: Hoyer 2004."""
    magnitude = np.abs(flat.astype(np.float64))
    root = np.sqrt(flat.shape[1])
    l2 = np.sqrt((magnitude**2).sum(axis=1))
    ratio = np.divide(magnitude.sum(axis=1), l2, out=np.full(len(flat), root), where=l2 > 0)
    sparsity: FloatArray = ((root - ratio) / max(root - 1, 1e-12)).astype(np.float32)
    return sparsity
