"""A copy of a network whose last stage keeps the grid of the stage before it.

The last stage is coarse because its first convolution (or pooling) moves by two cells. Without that stride it answers
at every place; and the convolutions after it, whose weights were learned on the coarse grid, get holes between their
taps (they are dilated) so that they read the same neighbours as before. At every second place in each direction the
copy then puts out what the network itself does; the places in between are new. No weight changes.

That is so only where all that a stage does is to convolve, to pool and to work place by place. Each copy is therefore
checked against the network on noise before it is used.

Source: Yu, Koltun and Funkhouser, Dilated Residual Networks (2017).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import product
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cnnviz_core import probe
from cnnviz_core.errors import NotApplicable
from cnnviz_core.layers import LayerInfo, LayerTree

_MOVING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)

# Share of the largest value by which sums in another order may differ.
_ROUNDING = 1e-4

_copies: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], nn.Module]] = WeakKeyDictionary()
_lock = threading.Lock()


def without_last_stride(net: nn.Module, x: Tensor, tree: LayerTree, layers: Sequence[LayerInfo]) -> nn.Module:
    """The copy, made and checked once for each network and choice of layers.

    Args:
        net: A network in eval mode; not touched.
        x: An input that it takes, (1, C, H, W), for the check.
        tree: Its layers.
        layers: Those that will be looked at; what comes after them is not checked.

    Raises:
        NotApplicable: None of the layers lies in the last stage, or the stride cannot be taken out.
    """
    last = [layer for layer in layers if layer.cells == tree.stages[-1].cells]
    if not last:
        raise NotApplicable(
            f"Only the last stage loses its stride, and {', '.join(layer.name for layer in layers)} lies before it; "
            f"choose {tree.stages[-1].representative}, or keep the stride."
        )
    names = tuple(layer.name for layer in last)
    with _lock:
        known = _copies.setdefault(net, {})
    if names not in known:
        known[names] = _checked(net, x, tree, last)
    return known[names]


@torch.no_grad()
def _checked(net: nn.Module, x: Tensor, tree: LayerTree, layers: Sequence[LayerInfo]) -> nn.Module:
    copy, step = _dilated(net, tree)
    stop_after = {layer.name: layer.num_calls for layer in layers}
    expected = probe.record(net, x, stop_after, stop_after=stop_after).outputs
    try:
        found = probe.record(copy, x, stop_after, stop_after=stop_after).outputs
    except Exception as error:  # what else a network does with its maps may ask for their size
        raise NotApplicable(_refusal(f"what follows does not take the finer maps ({_first_line(error)})")) from error
    for layer in layers:
        fine, coarse = (outputs[layer.name][-1].movedim(layer.channel_dim, 1) for outputs in (found, expected))
        if not _agree(fine, coarse, step):
            raise NotApplicable(_refusal(f"{layer.name} would put out other values than before"))
    return copy


def _refusal(reason: str) -> str:
    return f"The stride of the last stage cannot be taken out: {reason}. Keep it, or join a finer layer."


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _dilated(net: nn.Module, tree: LayerTree) -> tuple[nn.Module, tuple[int, int]]:
    """The copy, unchecked, and how many times finer its grid is, down and across."""
    copy, stage = probe.private_copy(net), tree.stages[-1]
    modules = dict(copy.named_modules())
    inside = [module for layer in stage.layers if isinstance(module := modules[layer.name], _MOVING)]
    steps = {_pair(module.stride) for module in inside} - {(1, 1)}
    if len(tree.stages) < 2 or len(steps) != 1:
        raise NotApplicable(_refusal("no convolution or pooling with a stride begins it"))
    (step,) = steps
    for module in inside:
        if _pair(module.stride) == step:
            module.stride = 1 if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) else (1, 1)
        else:
            _spread(module, step)
    return copy, step


def _spread(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, step: tuple[int, int]) -> None:
    """Takes the neighbours of a convolution or pooling as many times farther away."""
    if max(_pair(module.kernel_size)) == 1:
        return
    if isinstance(module, nn.AvgPool2d):
        raise NotApplicable(_refusal("it holds an average pooling, which cannot be given holes"))
    module.dilation = _times(_pair(module.dilation), step)
    if not isinstance(module.padding, str):  # "same" and "valid" follow by themselves
        module.padding = _times(_pair(module.padding), step)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] * b[0], a[1] * b[1]


def _agree(fine: Tensor, coarse: Tensor, step: tuple[int, int]) -> bool:
    """Whether the coarse maps lie in the fine ones, at every so many places from one of the first."""
    height, width = coarse.shape[2:]
    bound = _ROUNDING * float(coarse.abs().max())
    for top, left in product(range(step[0]), range(step[1])):
        taken = fine[:, :, top :: step[0], left :: step[1]][:, :, :height, :width]
        if taken.shape == coarse.shape and float((taken - coarse).abs().max()) <= bound:
            return fine.shape != coarse.shape
    return False
