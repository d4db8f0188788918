"""Feature vectors of whole pictures: what a network knows of each place, at a size of one's own choice.

Convolutions take pictures of any size, so a picture is not cropped to the network's input here: the whole of it, with
its own proportions, is brought to a working size, and the forward ends with the last layer that is needed, before a
head that might ask for a fixed size. A network that needs its own size before that gets the picture squashed to it.

Each cell of a layer's maps is a vector of one number per channel. Vectors are compared by their cosine, so each is
brought to length one. Several layers are joined: the vectors of each, of length one, are brought to the finest grid
among them, weighed and put one behind the other. The cosine of the joined vectors is then about the weighted mean of
the layers' cosines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import dilation, doctor, probe, startup
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Features, FloatArray, PictureMaps

# The working size for a network of 224 px, which gives 16 cells where its own picture gives 7; others in proportion.
_SIZE_PX = 512
_OF_INPUT_PX = 224

SMALLEST_PX, LARGEST_PX = 16, 2048

# Their grid is the same for every picture size.
_FIXED_GRIDS = {"AdaptiveAvgPool2d", "AdaptiveMaxPool2d"}


def default_layer(model: LoadedModel) -> str:
    """The layer that sums up the last stage.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    return stage_layers(model)[-1]


def stage_layers(model: LoadedModel) -> tuple[str, ...]:
    """One layer for each stage, from the finest map to the coarsest.

    Pooling to a fixed grid is passed over, since a larger picture gets no more cells there.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    doctor.require(model, "feature_maps")
    names = []
    for stage in model.layers.stages:
        free = [layer.name for layer in stage.layers if layer.kind not in _FIXED_GRIDS]
        names.append(stage.representative if stage.representative in free or not free else free[-1])
    return tuple(names)


def default_size_px(model: LoadedModel) -> int:
    """The working size where none is asked for: 512 px, less for networks of small pictures."""
    return min(_SIZE_PX, round(max(model.preprocessing.input_px) * _SIZE_PX / _OF_INPUT_PX))


def working_px(model: LoadedModel, image: InputImage, size_px: int | None = None) -> tuple[int, int]:
    """(H, W) of a picture as the network is to see it.

    Args:
        model: Any network.
        image: Any picture.
        size_px: Its longer side; None takes :func:`default_size_px`. Both sides are rounded to whole strides of the
            network, at least one.

    Raises:
        BadSetting: A size out of range.
    """
    size = default_size_px(model) if size_px is None else size_px
    if not SMALLEST_PX <= size <= LARGEST_PX:
        raise BadSetting(f"The working size is {size} px; choose one from {SMALLEST_PX} to {LARGEST_PX}.")
    stride, scale = _total_stride(model), size / max(image.height, image.width)
    height, width = (stride * max(1, round(side * scale / stride)) for side in (image.height, image.width))
    return height, width


def compute(
    model: LoadedModel,
    images: Sequence[InputImage],
    *,
    layers: str | Sequence[str] | None = None,
    size_px: int | None = None,
    weights: Sequence[float] | None = None,
    centre: bool = False,
    dilate_last: bool = False,
) -> list[Features]:
    """The vectors of several pictures; :func:`record` and :func:`combine` in one, with their arguments and errors."""
    recorded = [record(model, image, layers=layers, size_px=size_px, dilate_last=dilate_last) for image in images]
    return combine(recorded, weights=weights, centre=centre)


@torch.no_grad()
def record(
    model: LoadedModel,
    image: InputImage,
    *,
    layers: str | Sequence[str] | None = None,
    size_px: int | None = None,
    dilate_last: bool = False,
) -> PictureMaps:
    """What layers put out for a whole picture, from one forward that ends with the last of them.

    Args:
        model: Any network with maps.
        image: Any picture, of any proportions.
        layers: Dotted names of one or several layers with maps; None takes :func:`default_layer`.
        size_px: As in :func:`working_px`.
        dilate_last: Take the stride out of the last stage, for a grid twice as fine there; see
            :mod:`cnnviz_core.dilation`.

    Raises:
        BadSetting: A size out of range, or no layer at all.
        UnknownLayer: No layer of that name.
        NotApplicable: The layer puts out a vector, or the stride cannot be taken out.
    """
    infos = [_spatial(model, name) for name in layer_names(model, layers)]
    net = dilation.without_last_stride(model.net, _example(model), model.layers, infos) if dilate_last else model.net
    wanted, own = working_px(model, image, size_px), model.preprocessing.input_px
    notices: tuple[str, ...] = ()
    try:
        maps, seen = _forward(model, net, image, wanted, infos), wanted
    except Exception as error:  # a network that takes one size only can raise anything
        if wanted == own or startup.is_out_of_memory(error):  # a smaller size would fit: for the person to choose
            raise
        maps, seen = _forward(model, net, image, own, infos), own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        notices = (
            f"{model.spec.title} does not take pictures of {wanted[1]} x {wanted[0]} px ({reason}), so "
            f"{image.name} was brought to its own {own[1]} x {own[0]} px, which changes the proportions.",
        )
    size = default_size_px(model) if size_px is None else size_px
    return PictureMaps(maps, (image.height, image.width), seen, size, dilate_last, image.digest, notices)


def layer_names(model: LoadedModel, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """The layers that were asked for, each once, in their order; :func:`default_layer` for None.

    Raises:
        BadSetting: An empty list.
    """
    names = (default_layer(model),) if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise BadSetting("No layer was chosen; choose one or more.")
    return tuple(dict.fromkeys(names))


def combine(
    recorded: Sequence[PictureMaps],
    *,
    layers: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    centre: bool = False,
    means: Mapping[str, FloatArray] | None = None,
) -> list[Features]:
    """Vectors of length one for every cell of pictures that were recorded alike.

    Args:
        recorded: From :func:`record`, with the same network and layers.
        layers: Which of their layers; None takes all.
        weights: How much each layer counts in the cosine, from 0 up; None takes all alike.
        centre: Subtract the mean vector of all cells of these pictures first, each picture counted alike. What all
            places have in common then no longer makes them similar.
        means: Mean vectors to subtract, as :func:`mean_vectors` gives them, in place of those of these pictures.

    Returns:
        For each picture its vectors, on the finest grid of its layers. A cell where the network is silent has a
        vector of zeros.

    Raises:
        BadSetting: Weights that do not fit.
    """
    names = tuple(layers or recorded[0].values)
    shares = np.ones(len(names)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(names),) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
        raise BadSetting(
            f"The weights are {weights} for {len(names)} layers; give one number from 0 up for each, not all 0."
        )
    if means is None and centre:
        means = mean_vectors(recorded)
    return [_combined(maps, names, shares, means or {}) for maps in recorded]


def mean_vectors(recorded: Sequence[PictureMaps]) -> dict[str, FloatArray]:
    """For each layer the mean vector (C,) over the cells of pictures, each picture counted alike."""
    return {
        name: np.mean([maps.values[name].mean(axis=(1, 2)) for maps in recorded], axis=0, dtype=np.float32)
        for name in recorded[0].values
    }


def _combined(maps: PictureMaps, names: Sequence[str], shares: np.ndarray, means: Mapping[str, FloatArray]) -> Features:
    finest = max((maps.values[name].shape[1:] for name in names), key=math.prod)
    parts = []
    for name, share in zip(names, shares, strict=True):
        values = torch.from_numpy(maps.values[name])
        if name in means:
            values = values - torch.from_numpy(means[name])[:, None, None]
        unit = _unit(values)
        if unit.shape[1:] != finest:
            unit = F.interpolate(unit[None], finest, mode="bilinear", align_corners=False)[0]
        parts.append(unit * math.sqrt(share))
    # One layer is of length one already; once more would only add rounding.
    joined = _unit(torch.cat(parts)) if len(parts) > 1 else _unit(parts[0])
    return Features(joined.numpy(), tuple(names), maps.picture_px, maps.seen_px, maps.notices)


def _unit(values: Tensor) -> Tensor:
    """(D, h, w) with every cell's vector of length one, or zero. In double, since large maps have large squares."""
    length = values.double().square().sum(0, keepdim=True).sqrt()
    return torch.where(length > 0, values / length, 0).float()


def _forward(
    model: LoadedModel, net: nn.Module, image: InputImage, size: tuple[int, int], infos: Sequence[LayerInfo]
) -> dict[str, FloatArray]:
    """(C, h, w) of each layer."""
    fit = replace(model.preprocessing, input_px=size, crop_pct=1.0, crop_mode="squash")
    stop_after = {info.name: info.num_calls for info in infos}
    recording = probe.record(net, fit.to_input(image).to(model.device), stop_after, stop_after=stop_after)
    maps = {}
    for info in infos:
        output = recording.outputs[info.name][info.num_calls - 1]
        values = output[0].movedim(info.channel_dim - 1, 0).float().cpu().numpy()
        if not np.isfinite(values).all():
            raise NotApplicable(
                f"Layer {info.name} puts out values that are not finite for {image.name}; choose an earlier layer."
            )
        maps[info.name] = np.ascontiguousarray(values)
    return maps


def _spatial(model: LoadedModel, name: str) -> LayerInfo:
    layer = model.layers[name]
    if layer.cells is None:
        raise NotApplicable(
            f"Layer {name} puts out a vector of {layer.num_channels} values, which has no places to compare; choose a "
            f"layer before the pooling, such as {default_layer(model)}."
        )
    return layer


def _example(model: LoadedModel) -> Tensor:
    """An input of the network's own size, of noise."""
    shape = (1, model.preprocessing.num_channels, *model.preprocessing.input_px)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)


def _total_stride(model: LoadedModel) -> int:
    """Input pixels from one cell of the coarsest maps to the next."""
    height = model.preprocessing.input_px[0]
    return max(round(layer.stride_px or height / layer.shape[1]) for layer in model.layers.spatial)
