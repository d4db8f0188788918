"""The gradient of what layers put out with respect to a picture of any size, in bounded memory.

The forward ends with the deepest layer that is asked for, the weights take no part in going back, and for a single
layer the network is a copy that computes the same in less time. A picture larger
than a tile is cut into tiles of nearly equal size, each differentiated by itself, so that memory grows with the tile
and not with the picture. Tiles begin at whole strides of the layers, where the whole picture has its cells, too. So
away from the tiles' borders, by as much as a cell sees, the gradient is that of the whole picture; nearer to them a
tile sees padding where the picture goes on. Who makes many steps shifts the picture by chance between them, so that no
seam stays in its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnviz_core import folding, probe
from cnnviz_core.errors import NotApplicable
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel

# From what a layer puts out, (1, C, h, w), to the gradient to set there.
Direction = Callable[[Tensor], Tensor]
# From the network's input to what layers put out, in their own order of axes.
Read = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Goal:
    """What is to grow at one layer: the sum of ``a * direction(a)``, with the direction taken as given.

    Attributes:
        layer: The layer that puts out a, (1, C, h, w).
        direction: What its gradient is set to.
    """

    layer: LayerInfo
    direction: Direction


def find(
    model: LoadedModel,
    x: Tensor,
    goals: Sequence[Goal],
    scales: Sequence[float],
    *,
    tile_px: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, tuple[float, ...]]:
    """The gradient with respect to the picture of what is to grow, each goal times its scale.

    Args:
        model: Any network.
        x: (1, C, H, W) pixels, 0..255, before the network's normalisation.
        goals: At least one, each at a layer of its own.
        scales: One per goal.
        tile_px: Largest side of a tile, rounded up to a whole stride; a picture of no more pixels than such a square
            is not cut.
        dtype: What is computed in. In bfloat16 a step takes half the time on processors that know it, and the gradient
            points a little elsewhere: enough for a picture, not for a measurement. For one goal only; several are
            always computed in float32.

    Returns:
        The gradient, (1, C, H, W), and for each goal the mean of ``a * direction(a)`` over all numbers of its layer.

    Raises:
        NotApplicable: The network does not take pictures of the size.
    """
    gradient = torch.zeros_like(x)
    sums, counts = [0.0] * len(goals), [0] * len(goals)
    read = _reader(model, [goal.layer for goal in goals], dtype)
    for rows, columns in _tiles(x.shape[-2], x.shape[-1], tile_px, stride=_common_stride(goals)):
        tile = x[..., rows, columns].detach().clone().requires_grad_()
        outputs = _outputs(model, tile, goals, read)
        directions = [goal.direction(a.detach().float()) for goal, a in zip(goals, outputs, strict=True)]
        weighted = [(scale * d).to(a.dtype) for scale, d, a in zip(scales, directions, outputs, strict=True)]
        gradient[..., rows, columns] = torch.autograd.grad(outputs, tile, weighted)[0]
        for at, (a, direction) in enumerate(zip(outputs, directions, strict=True)):
            sums[at] += float((a.detach() * direction).flatten(2).sum(2).cpu().double().sum())
            counts[at] += a.numel()
    return gradient, tuple(total / count for total, count in zip(sums, counts, strict=True))


def _outputs(model: LoadedModel, x: Tensor, goals: Sequence[Goal], read: Read) -> list[Tensor]:
    """What the layers put out, each (1, C, h, w)."""
    try:
        found = read(normalised(model, x))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a network that takes one size only can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotApplicable(
            f"{model.spec.title} does not take a picture, or a tile of one, of {x.shape[-1]} x {x.shape[-2]} px "
            f"({reason}). Choose a larger size, fewer octaves or an earlier layer; a network of one fixed input size "
            "cannot be used here."
        ) from error
    return [a.movedim(goal.layer.channel_dim, 1) for a, goal in zip(found, goals, strict=True)]


def _reader(model: LoadedModel, layers: Sequence[LayerInfo], dtype: torch.dtype) -> Read:
    """By the fast copy where there is one."""
    if len(layers) == 1 and model.is_static:
        (info,) = layers
        usual = torch.empty((1, model.preprocessing.num_channels, *model.preprocessing.input_px), device=model.device)
        begin = folding.up_to(model.net, info.name, usual, num_calls=info.num_calls, dtype=dtype)
        return lambda x: [begin(x.to(dtype).contiguous(memory_format=torch.channels_last))]
    stop_after = {info.name: info.num_calls for info in layers}

    def read(x: Tensor) -> list[Tensor]:
        outputs = probe.record(model.net, x, stop_after, stop_after=stop_after).outputs
        return [outputs[info.name][info.num_calls - 1] for info in layers]

    return read


def normalised(model: LoadedModel, x: Tensor) -> Tensor:
    """Pixels 0..255 as the network's input, both (N, C, H, W)."""
    mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    return (x / 255 - mean) / std


def _tiles(height: int, width: int, tile_px: int, *, stride: int) -> Iterator[tuple[slice, slice]]:
    if height * width <= tile_px**2:
        tile_px = max(height, width)
    for rows in _pieces(height, tile_px, stride):
        for columns in _pieces(width, tile_px, stride):
            yield rows, columns


def _pieces(length: int, longest: int, stride: int) -> list[slice]:
    """Pieces of nearly equal length that begin at whole strides."""
    num = math.ceil(length / longest)
    edges = [round(length * i / num / stride) * stride for i in range(num)] + [length]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]


def _common_stride(goals: Sequence[Goal]) -> int:
    """Input pixels after which the cells of all layers lie alike; 1 where that is not known."""
    strides: Mapping[str, float] = {goal.layer.name: goal.layer.stride_px or 1.0 for goal in goals}
    return math.lcm(*(max(1, round(stride)) for stride in strides.values()))
