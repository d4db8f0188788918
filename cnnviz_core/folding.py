"""A copy of a network that gives the same scores in less time on a CPU.

In eval mode a batch normalisation multiplies and adds fixed numbers, which the convolution before it can do in its own
weights; and with the channels of a place side by side in memory the convolutions need not rearrange what they read.
Where a picture enters through one convolution alone, that one is affine: the mean of many gradients need go back
through it only once, and it is the dearest of all going back. Layers inside no longer put out what they did, so such a
copy is for scores and their gradients, not for looking into; :func:`up_to` makes one for a single layer, whose output
stays. Rounding differs: a ReLU whose input is zero up to rounding may open where it was shut. :func:`forward_copy` goes
further for those who ask for no gradients: activations are applied as convolutions write, not in passes of their own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import probe

# More than rounding changes, less than any mistake would.
_ROUNDING = 1e-3

# Layers of one network whose beginnings are kept; each may hold weights of its own.
_MAX_BEGINNINGS = 3


@dataclass(frozen=True)
class FastCopy:
    """A network in two steps.

    Attributes:
        net: The copy; the network itself where there is none to be had.
        shape: (C, H, W) of its input.
        entrance: The convolution through which alone a picture enters; empty where that is not so.
    """

    net: nn.Module
    shape: tuple[int, ...]
    entrance: str

    def enter(self, x: Tensor) -> Tensor:
        """The first step, an affine map: pictures (n, C, H, W) to what the entrance puts out, or the pictures."""
        if not self.entrance:
            return x
        return probe.record(self.net, x, [self.entrance], stop_after={self.entrance: 1}).outputs[self.entrance][0]

    def go_on(self, entered: Tensor) -> Tensor:
        """The second step, to what the network returns."""
        result: Tensor
        if self.entrance:
            any_picture = torch.zeros((1, *self.shape))
            result = probe.resume(self.net, any_picture, self.entrance, lambda _: entered.clone())
        else:
            result = self.net(entered)
        return result


_copies: WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], FastCopy]] = WeakKeyDictionary()
_lock = threading.Lock()


def fast_copy(net: nn.Module, x: Tensor) -> FastCopy:
    """The copy, made once for each network and again if its weights were written into.

    Args:
        net: A network in eval mode, which takes the same way for every picture. It is not touched.
        x: An input of the kind that it takes, (N, C, H, W); only shape and device matter.
    """
    if x.device.type != "cpu":
        return FastCopy(net, x.shape[1:], "")
    state = (x.shape[1:], *((id(t), t._version) for t in (*net.parameters(), *net.buffers())))
    with _lock:
        known, copy = _copies.get(net, (None, FastCopy(net, x.shape[1:], "")))
    if known != state:
        copy = _make(net, x)
        with _lock:
            _copies[net] = state, copy
    return copy


# Activations that a convolution can apply: oneDNN's name and numbers.
_ACTIVATIONS: Mapping[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}

_forward_copies: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def forward_copy(net: nn.Module, x: Tensor) -> nn.Module:
    """A copy that gives the same scores in less time still, for forwards without gradients.

    Args:
        net: As for :func:`fast_copy`, which is what comes back where activations cannot be applied on the way.
        x: Likewise.
    """
    plain = fast_copy(net, x).net
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return plain
    with _lock:
        found = _forward_copies.get(plain)
    if found is None:
        found = _with_activations(plain, _noise(x)) or probe.private_copy(plain)
        with _lock:
            _forward_copies[plain] = found
    return found


@torch.no_grad()
def _with_activations(net: nn.Module, two: Tensor) -> nn.Module | None:
    """A copy whose convolutions apply the activations that follow them; None where its scores are others."""
    copy = probe.private_copy(net)
    modules = dict(copy.named_modules())
    for kind, activation in _ACTIVATIONS.items():
        for convolution, follower in probe.direct_pairs(net, two, nn.Conv2d, kind):
            conv = modules[convolution]
            if _is_plain(conv) and type(modules[follower]) is kind:
                probe.put(copy, convolution, _Activated(conv, activation))
                probe.put(copy, follower, nn.Identity())
    try:
        return copy if _same(copy(two), net(two)) else None
    except (RuntimeError, AttributeError):  # an odd convolution; or a network that reads its modules' attributes
        return None


def _is_plain(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether :class:`_Activated` can take its place."""
    if not isinstance(conv, nn.Conv2d) or "weight" not in conv._parameters or conv.padding_mode != "zeros":
        return False
    if type(conv) is nn.Conv2d:
        return not isinstance(conv.padding, str)
    return type(conv).__name__ == "Conv2dSame" and conv.dilation == (1, 1)  # timm's


class _Activated(nn.Module):
    """A convolution and an activation in one.

    Where a convolution pads its input itself so that sizes stay, with one row and column more at the far side if need
    be, as TensorFlow does, a kernel with a first row and column of zeros does the same without a padded copy.
    """

    def __init__(self, conv: nn.Conv2d, activation: tuple[str, list[float]]) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._stride, self._dilation, self._padding = list(conv.stride), list(conv.dilation), conv.padding
        self._groups, self._activation = conv.groups, activation
        self._pads_itself = type(conv) is not nn.Conv2d
        if self._pads_itself:
            self.wider = _frozen(F.pad(conv.weight, (1, 0, 1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) of inputs (N, C', H, W)."""
        weight, padding = self.weight, list(self._padding)
        if self._pads_itself:
            missing = [
                max((-(-side // stride) - 1) * stride + kernel - side, 0)
                for side, stride, kernel in zip(x.shape[2:], self._stride, weight.shape[2:], strict=True)
            ]
            if all(rows % 2 for rows in missing):
                weight = self.wider
            elif any(rows % 2 for rows in missing):
                x, missing = F.pad(x, (0, missing[1] % 2, 0, missing[0] % 2)), [rows - rows % 2 for rows in missing]
            padding = [(rows + 1) // 2 for rows in missing]
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, padding, self._stride, self._dilation, self._groups, *self._activation, ""
        )
        return result


@dataclass(frozen=True)
class Beginning:
    """A network up to one of its layers.

    Attributes:
        net: A copy with the layer's output unchanged.
        layer: Dotted name; empty for the whole network.
        num_calls: How often one forward calls the layer.
    """

    net: nn.Module
    layer: str
    num_calls: int

    def __call__(self, x: Tensor) -> Tensor:
        """What the layer puts out at its last call for pictures (n, C, H, W), in the layer's own order of axes.

        Nothing after that call is computed. With gradients enabled the output is part of the graph.
        """
        if not self.layer:
            result: Tensor = self.net(x)
            return result
        stop = {self.layer: self.num_calls}
        return probe.record(self.net, x, [self.layer], stop_after=stop).outputs[self.layer][-1]


_beginnings: WeakKeyDictionary[nn.Module, OrderedDict[tuple[object, ...], Beginning]] = WeakKeyDictionary()


def up_to(
    net: nn.Module, layer: str, x: Tensor, *, num_calls: int = 1, dtype: torch.dtype = torch.float32
) -> Beginning:
    """The network up to a layer, in less time than the network itself; made once, and again if weights were written.

    Batch norms go into the convolutions before them unless the layer lies between the two. The copy was checked
    against the network on noise; where it differs by more than rounding, the network is taken as it is.

    Args:
        net: A network in eval mode, which takes the same way for every picture. It is not touched.
        layer: Dotted name of a module that puts out a tensor; empty for the whole network.
        x: An input of the kind that it takes, (N, C, H, W); only shape and device matter.
        num_calls: How often one forward calls the layer.
        dtype: What the copy computes in, and takes pictures in.

    Raises:
        UnknownLayer: A name that no module of the network has.
    """
    state = ((id(t), t._version) for t in (*net.parameters(), *net.buffers()))
    key = (layer, num_calls, dtype, x.device, *state)
    with _lock:
        known = _beginnings.setdefault(net, OrderedDict())
        found = known.get(key)
    if found is None:
        found = _beginning(net, layer, x, num_calls)
        if dtype is not torch.float32:
            found = replace(found, net=deepcopy(found.net).to(dtype))
    with _lock:
        known[key] = found
        known.move_to_end(key)
        while len(known) > _MAX_BEGINNINGS:
            known.popitem(last=False)
    return found


@torch.no_grad()
def _beginning(net: nn.Module, layer: str, x: Tensor, num_calls: int) -> Beginning:
    two = _noise(x)
    expected = Beginning(net, layer, num_calls)(two)
    for copy in _candidates(net, layer, two, num_calls):
        found = Beginning(copy, layer, num_calls)
        if _same(found(two), expected):
            return found
    return Beginning(probe.private_copy(net), layer, num_calls)


def _candidates(net: nn.Module, layer: str, x: Tensor, num_calls: int) -> Iterator[nn.Module]:
    """Copies to be tried, the fastest first."""
    stop = (layer, num_calls) if layer else None
    pairs = probe.direct_pairs(net, x, nn.Conv2d, nn.BatchNorm2d, stop_after=stop)
    # What a layer's own norm does after it is not what it puts out; and a norm's own parts must stay where they are.
    yield _folded(net, [(conv, norm) for conv, norm in pairs if layer != conv and not layer.startswith(f"{norm}.")])
    yield _folded(net, [])


def _noise(x: Tensor) -> Tensor:
    """Two pictures like x."""
    return torch.randn((2, *x.shape[1:]), generator=torch.Generator().manual_seed(0)).to(x.device)


def kept_bytes(net: nn.Module) -> int:
    """Memory that a network's copies take beside the network."""
    with _lock:
        found = [_copies[net][1].net] if net in _copies else []
        found += [_forward_copies[copy] for copy in found if copy in _forward_copies]
        found += [beginning.net for beginning in _beginnings.get(net, {}).values()]
    mine = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    tensors = {id(tensor): tensor for copy in found for tensor in (*copy.parameters(), *copy.buffers())}
    return sum(tensor.numel() * tensor.element_size() for key, tensor in tensors.items() if key not in mine)


@torch.no_grad()
def _make(net: nn.Module, x: Tensor) -> FastCopy:
    two = _noise(x)
    expected = net(two)
    pairs = probe.direct_pairs(net, two, nn.Conv2d, nn.BatchNorm2d)
    candidates = (_folded(net, pairs), _folded(net, []))
    # Never the network itself: what is kept for it must not keep it alive.
    folded = next((copy for copy in candidates if _same(copy(two), expected)), probe.private_copy(net))
    first = next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), "")
    copy = FastCopy(folded, x.shape[1:], first)
    try:
        fits = _is_affine(copy, *two.split(1)) and _is_only_way(copy, two) and _same(_through(copy, two), expected)
    except (RuntimeError, LookupError):  # the first to be registered need not be the first to be called
        fits = False
    return copy if fits else replace(copy, entrance="")


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether scores of two pictures are the same but for far less than what tells the pictures apart."""
    difference = float((expected[0] - expected[1]).abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=_ROUNDING * difference)


def _through(copy: FastCopy, x: Tensor) -> Tensor:
    return copy.go_on(copy.enter(x))


def _is_affine(copy: FastCopy, one: Tensor, other: Tensor) -> bool:
    expected = 3 * copy.enter(one) - 2 * copy.enter(other)
    found = copy.enter(3 * one - 2 * other)
    return torch.allclose(found, expected, rtol=0, atol=_ROUNDING * float(expected.abs().max()))


def _is_only_way(copy: FastCopy, x: Tensor) -> bool:
    """Whether no gradient reaches the picture when what the entrance put out is taken as given."""
    entered = copy.enter(x)
    with torch.enable_grad():
        result = probe.resume(copy.net, x[:1].clone().requires_grad_(), copy.entrance, lambda _: entered.clone())
    return not result.requires_grad


def _folded(net: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    """A private copy with norms moved into the convolutions before them, and channels last."""
    copy = probe.private_copy(net)
    modules = dict(copy.named_modules())
    for convolution, norm in pairs:
        _fold(copy, modules, convolution, norm)
    for module in modules.values():
        if isinstance(module, nn.Conv2d) and "weight" in module._parameters:
            module.weight = _frozen(module.weight)
    return copy


def _fold(copy: nn.Module, modules: Mapping[str, nn.Module], convolution: str, norm: str) -> None:
    """Moves a norm's numbers into the convolution before it, where both are of a plain kind."""
    conv, bn = modules[convolution], modules[norm]
    rest = _without_norm(bn)
    if rest is None or not isinstance(bn, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
        return
    if "weight" not in conv._parameters:  # made anew from others at each use
        return
    scale, shift = _scale_and_shift(bn)
    bias = shift if conv.bias is None else shift + scale * _exact(conv.bias)
    conv.weight = _frozen((_exact(conv.weight) * scale[:, None, None, None]).to(conv.weight))
    conv.bias = _frozen(bias.to(conv.weight))
    probe.put(copy, norm, rest)


def _without_norm(bn: nn.Module) -> nn.Module | None:
    """What is left of a batch norm module when the norm is taken out; None if that is not known."""
    if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None:
        return None
    if type(bn) is nn.BatchNorm2d:
        return nn.Identity()
    drop, act = getattr(bn, "drop", None), getattr(bn, "act", None)  # timm's norm with an activation
    return nn.Sequential(drop, act) if isinstance(drop, nn.Module) and isinstance(act, nn.Module) else None


def _scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds, (C,), in double precision."""
    mean, var = _exact(bn.get_buffer("running_mean")), _exact(bn.get_buffer("running_var"))
    scale = (var + bn.eps).rsqrt()
    if not bn.affine:
        return scale, -mean * scale
    scale = scale * _exact(bn.weight)
    return scale, _exact(bn.bias) - mean * scale


def _exact(values: Tensor) -> Tensor:
    """In double precision, which not every device has, so on the CPU."""
    return values.cpu().double()


def _frozen(weight: Tensor) -> nn.Parameter:
    layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
    return nn.Parameter(weight.contiguous(memory_format=layout), requires_grad=False)
