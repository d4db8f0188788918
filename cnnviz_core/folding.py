"""A copy of a network that gives the same scores in less time on a CPU.

In eval mode a batch normalisation multiplies and adds fixed numbers, which the convolution before it can do in its own
weights; and with the channels of a place side by side in memory the convolutions need not rearrange what they read.
Where a picture enters through one convolution alone, that one is affine: the mean of many gradients need go back
through it only once, and it is the dearest of all going back. Layers inside no longer put out what they did, so such a
copy is for scores and their gradients, not for looking into; :func:`up_to` makes one for a single layer, whose output
stays. Rounding differs: a ReLU whose input is zero up to rounding may open where it was shut. Convolutions keep their
weights in the order that the processor wants and apply the activation that follows (:mod:`cnnviz_core.convolution`);
other ReLUs overwrite what they read where the network's author had them do so.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cnnviz_core import convolution, probe
from cnnviz_core.convolution import Convolution, Follower

Copy = TypeVar("Copy")

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
        halves: The copy to be cut after the entrance, which puts out what it did.
        folded: The copy that only has its norms folded, in which more layers put out what they did.
        writes: Whether the network goes on to write into what the entrance put out.
    """

    net: nn.Module
    shape: tuple[int, ...]
    entrance: str
    halves: nn.Module
    folded: nn.Module
    writes: bool = True

    def enter(self, x: Tensor) -> Tensor:
        """The first step, an affine map: pictures (n, C, H, W) to what the entrance puts out, or the pictures."""
        if not self.entrance:
            return x
        return probe.record(self.halves, x, [self.entrance], stop_after={self.entrance: 1}).outputs[self.entrance][0]

    def go_on(self, entered: Tensor) -> Tensor:
        """The second step, to what the network returns."""
        result: Tensor
        if self.entrance:
            any_picture = torch.zeros((1, *self.shape))
            mine = entered.clone() if self.writes else entered
            result = probe.resume(self.halves, any_picture, self.entrance, lambda _: mine)
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
        return FastCopy(net, x.shape[1:], "", net, net)
    state = (x.shape[1:], *((id(t), t._version) for t in (*net.parameters(), *net.buffers())))
    with _lock:
        known, copy = _copies.get(net, (None, FastCopy(net, x.shape[1:], "", net, net)))
    if known != state:
        copy = _make(net, x)
        with _lock:
            _copies[net] = state, copy
    return copy


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
        found = _beginning(net, layer, x, num_calls, dtype)
    with _lock:
        known[key] = found
        known.move_to_end(key)
        while len(known) > _MAX_BEGINNINGS:
            known.popitem(last=False)
    return found


@torch.no_grad()
def _beginning(net: nn.Module, layer: str, x: Tensor, num_calls: int, dtype: torch.dtype) -> Beginning:
    two = _noise(x)
    expected = Beginning(net, layer, num_calls)(two)

    def is_right(copy: nn.Module) -> bool:
        return _same(Beginning(copy, layer, num_calls)(two), expected)

    copy = next(filter(is_right, _candidates(net, layer, two, num_calls)), None) or probe.private_copy(net)
    plain = copy if dtype is torch.float32 else deepcopy(copy).to(dtype)
    if x.device.type == "cpu":
        activated = _activated(copy, two, layer=layer, stop_after=(layer, num_calls) if layer else None)
        quick = Beginning(_quickened(copy, activated), layer, num_calls)
        if _holds(lambda it: is_right(it.net) and _goes_back(it, two), quick):
            return quick if plain is copy else replace(quick, net=_quickened(plain, activated))
    return Beginning(plain, layer, num_calls)


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
        found += [beginning.net for beginning in _beginnings.get(net, {}).values()]
    kernels = {
        kernel
        for copy in found
        for module in copy.modules()
        if isinstance(module, Convolution)
        for kernel in module.kernels
    }
    tensors = [tensor for copy in found for tensor in (*copy.parameters(), *copy.buffers())]
    tensors += [kernel.weight for kernel in kernels]
    places = {tensor.data_ptr(): tensor for tensor in tensors}
    mine = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    weights = sum(tensor.numel() * tensor.element_size() for place, tensor in places.items() if place not in mine)
    return weights + sum(kernel.kept_bytes for kernel in kernels)


@torch.inference_mode(mode=False)
@torch.no_grad()
def _make(net: nn.Module, x: Tensor) -> FastCopy:
    two = _noise(x)
    expected = net(two)
    pairs = probe.direct_pairs(net, two, nn.Conv2d, nn.BatchNorm2d)
    candidates = (_folded(net, pairs), _folded(net, []))
    # Never the network itself: what is kept for it must not keep it alive.
    folded = next((copy for copy in candidates if _same(copy(two), expected)), probe.private_copy(net))

    def is_entered(copy: FastCopy) -> bool:
        return _is_affine(copy, *two.split(1)) and _is_only_way(copy, two) and _same(_through(copy, two), expected)

    first = next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), "")
    copy = FastCopy(folded, x.shape[1:], first, folded, folded)
    if not _holds(is_entered, copy):  # the first to be registered need not be the first to be called
        copy = replace(copy, entrance="")
    activated = _activated(folded, two)

    def is_right(copy: FastCopy) -> bool:
        is_same = _same(copy.net(two), expected) and _same(_through(copy, two), expected)
        return is_same and _goes_back(copy.net, two) and _goes_back(copy.go_on, copy.enter(two))

    quick = _quickened(folded, activated)
    cut_open = _cut_open(quick, folded, copy.entrance, activated.get(copy.entrance), two)
    quicker = (replace(copy, net=quick, halves=halves) for halves in cut_open)
    copy = next((one for one in quicker if _holds(is_right, one)), copy)
    return replace(copy, writes=_writes(replace(copy, writes=False), two))


def _writes(copy: FastCopy, x: Tensor) -> bool:
    """Whether the second step writes into what it is given."""
    entered = copy.enter(x)
    version = entered._version
    copy.go_on(entered)
    return entered._version != version


def _holds(check: Callable[[Copy], bool], copy: Copy) -> bool:
    """Whether a copy passes; a network's own code may need of a module what its replacement has not."""
    try:
        return check(copy)
    except Exception:
        return False


def _goes_back(read: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether there is a gradient; a network that writes into what an activation put out may have none any more."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        one = x[:1].clone().requires_grad_()
        return bool(torch.autograd.grad(read(one).sum(), one)[0].isfinite().all())


def _activated(
    net: nn.Module, x: Tensor, *, layer: str = "", stop_after: tuple[str, int] | None = None
) -> Mapping[str, str]:
    """Each convolution with the activation that follows it, unless the layer's output lies between the two."""
    modules = dict(net.named_modules())

    def is_inside(name: str) -> bool:
        return bool(layer) and f"{name}.".startswith(f"{layer}.")

    kinds = tuple(convolution.ACTIVATIONS)
    clamps = tuple(kind for kind, activation in convolution.ACTIVATIONS.items() if activation.bounds is not None)
    return {
        conv: then
        for conv, then in probe.direct_pairs(net, x[:1], nn.Conv2d, kinds, reused=clamps, stop_after=stop_after)
        if type(modules[then]) in kinds and is_inside(conv) == is_inside(then)
    }


def _quickened(net: nn.Module, activated: Mapping[str, str]) -> nn.Module:
    """A copy whose convolutions take less time, those named with their activations; others overwrite what they may."""
    copy = probe.private_copy(net)
    modules = dict(copy.named_modules())
    fitting = {name: module for name, module in modules.items() if convolution.fits(module)}
    for name, module in fitting.items():
        probe.put(copy, name, Convolution(module, modules.get(activated.get(name, "none"))))
    applied = {activated[name] for name in fitting if name in activated}
    overwriting = {name for name, module in modules.items() if convolution.may_overwrite(module)}
    for then in applied | overwriting:
        may_be_shared = convolution.ACTIVATIONS[type(modules[then])].bounds is not None
        probe.put(copy, then, Follower(modules[then]) if may_be_shared else nn.Identity())
    return copy


def _cut_open(quick: nn.Module, net: nn.Module, conv: str, then: str | None, x: Tensor) -> Iterator[nn.Module]:
    """Copies in which a convolution does not apply the activation that follows it in the network; the fastest first.

    A pool that takes the largest gives the same before an activation that only cuts off, and leaves it less to do.
    """
    if then is None:
        yield quick
        return
    activation = probe.private_copy(net.get_submodule(then))
    activation.inplace = False  # type: ignore[assignment]
    copy = probe.private_copy(quick)
    probe.put(copy, conv, cast(Convolution, copy.get_submodule(conv)).without_activation())
    probe.put(copy, then, activation)
    pools = dict(probe.direct_pairs(net, x, type(activation), nn.MaxPool2d))
    if then in pools and convolution.ACTIVATIONS[type(activation)].bounds is not None:
        swapped = probe.private_copy(copy)
        probe.put(swapped, then, nn.Identity())
        probe.put(swapped, pools[then], nn.Sequential(net.get_submodule(pools[then]), activation))
        yield swapped
    yield copy


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
        result = probe.resume(copy.halves, x[:1].clone().requires_grad_(), copy.entrance, lambda _: entered.clone())
    return not result.requires_grad


def _folded(net: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    """A private copy with norms moved into the convolutions before them, and channels last."""
    copy = probe.private_copy(net)
    modules = dict(copy.named_modules())
    for conv, norm in pairs:
        _fold(copy, modules, conv, norm)
    for module in modules.values():
        if isinstance(module, nn.Conv2d) and "weight" in module._parameters:
            module.weight = _frozen(module.weight)
    return copy


def _fold(copy: nn.Module, modules: Mapping[str, nn.Module], before: str, norm: str) -> None:
    """Moves a norm's numbers into the convolution before it, where both are of a plain kind."""
    conv, bn = modules[before], modules[norm]
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
