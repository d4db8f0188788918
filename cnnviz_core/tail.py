"""A network cut in two: what stays as it is runs once for each picture, what is trained runs on what that put out.

Most of a network is the same in every epoch of a training that changes its last layers alone. Where everything that
these layers read passes through one tensor, that tensor can be kept for each picture, and the rest of the network goes
on from it. Such a place is looked for from the first layer that is trained towards the picture: what it reads, what
the modules before it put out, then the same for the module around it.

Whether a place will do is tried, not argued: all that ran before it is replaced by "not a number", and the scores must
come out as before. A shortcut past the place, as in a residual or dense block, would let that through. Both halves are
private copies over the same weights, so that a weight that is trained is trained in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnviz_core import folding, probe
from cnnviz_core.probe import ModuleCall

# More than rounding changes, less than any mistake would.
_ROUNDING = 1e-4
_MOST_TRIED = 40

_given: ContextVar[Tensor] = ContextVar("given")


class _Nothing(nn.Module):
    """In place of a module that ran before the cut: whatever still reads it ends as not-a-number."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, *_: object, **__: object) -> Tensor:
        return torch.full(self.shape, torch.nan, device=_given.get().device)


class _Start(nn.Module):
    """Where the second half starts: puts in what was kept."""

    def __init__(self, then: nn.Module) -> None:
        super().__init__()
        self.then = then

    def forward(self, *_: object, **__: object) -> Tensor:
        result: Tensor = self.then(_given.get())
        return result


class _Reached(BaseException):
    """The first half has come to its end. Not an Exception, so that no network's own handler takes it."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class _End(nn.Module):
    """Where the first half ends."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        raise _Reached(self.before(*args, **kwargs))


@dataclass(frozen=True)
class Place:
    """Where a network is cut.

    Attributes:
        layer: Dotted name; empty for the picture itself, where nothing is saved.
        reads: Whether what the layer reads is kept; else what it puts out.
    """

    layer: str = ""
    reads: bool = True

    def __str__(self) -> str:
        if not self.layer:
            return "the picture"
        return f"what {self.layer} {'reads' if self.reads else 'puts out'}"


@dataclass(frozen=True, eq=False)
class Cut:
    """The two halves; any number of threads may use them.

    Attributes:
        place: Where it is cut.
        shape: Of what is kept of one picture.
    """

    place: Place
    shape: tuple[int, ...]
    _first: nn.Module
    _second: nn.Module
    _picture: Tensor

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What is kept of pictures (N, C, H, W): (N, ...)."""
        return _run_to_end(self._first, x)

    def result(self, features: Tensor) -> Tensor:
        """What the network returns, from what was kept; gradients reach the weights of the second half."""
        token = _given.set(features)
        try:
            result: Tensor = self._second(self._picture if self.place.layer else features)
            return result
        finally:
            _given.reset(token)

    def norms(self, statistics: Sequence[Tensor]) -> list[_BatchNorm]:
        """The norms of the second half whose means and variances are among these; modules of this cut alone."""
        known = {id(tensor) for tensor in statistics}
        return [one for one in self._second.modules() if isinstance(one, _BatchNorm) and id(one.running_mean) in known]

    def reader(self, layer: str) -> Cut:
        """The second half up to what a layer reads: its ``features`` take what was kept."""
        second = probe.private_copy(self._second)
        inside = Place(layer)
        if inside == self.place:
            return Cut(inside, self.shape, nn.Identity(), second, self._picture)
        probe.put(second, layer, _End(nn.Identity()))
        return Cut(inside, (), _Resumed(second, self._picture if self.place.layer else None), second, self._picture)


class _Resumed(nn.Module):
    """A second half that takes what was kept as its argument."""

    def __init__(self, second: nn.Module, picture: Tensor | None) -> None:
        super().__init__()
        self.second = second
        self.picture = picture

    def forward(self, features: Tensor) -> Tensor:
        token = _given.set(features)
        try:
            result: Tensor = self.second(features if self.picture is None else self.picture)
            return result
        finally:
            _given.reset(token)


def _run_to_end(net: nn.Module, x: Tensor) -> Tensor:
    try:
        result: Tensor = net(x)
    except _Reached as reached:
        return reached.features
    return result


@torch.no_grad()
def cut(net: nn.Module, trained: Sequence[str], x: Tensor, *, is_static: bool = True) -> Cut:
    """The latest place before all layers that are trained through which everything passes, and the halves there.

    Args:
        net: A network in eval mode; it is not touched, and its weights are shared.
        trained: Dotted names of layers, at least one.
        x: Two inputs of the kind that it takes, (2, C, H, W).
        is_static: Whether it takes the same way for every picture; one that does not is not cut.
    """
    expected = net(x)
    if is_static:
        calls = probe.dry_run(net, x[:1]).module_calls
        for place, replaced in _places(trained, calls):
            if (found := _halves(net, place, replaced, x, expected)) is not None:
                return found
    return Cut(Place(), tuple(x.shape[1:]), nn.Identity(), probe.private_copy(net), x[:1])


def _places(trained: Sequence[str], calls: Sequence[ModuleCall]) -> Iterator[tuple[Place, list[ModuleCall]]]:
    """Places to try, the latest first, each with the calls whose modules the second half does without."""
    layer, start = _first_trained(trained, calls)
    times = Counter(call.name for call in calls)
    before = [call for call in calls[:start] if times[call.name] == 1]
    chain = [layer]
    while "." in chain[-1]:
        chain.append(chain[-1].rpartition(".")[0])
    levels = [[call for call in before if _parent(call.name) == _parent(name)] for name in chain]
    num_tried = 0
    for at, name in enumerate(chain):
        above = [call for level in levels[at + 1 :] for call in level]
        if times[name] <= 1:
            yield Place(name), [*above, *levels[at]]
        for i in range(len(levels[at]) - 1, -1, -1):
            num_tried += 1
            if num_tried > _MOST_TRIED:
                return
            yield Place(levels[at][i].name, reads=False), [*above, *levels[at][:i]]


def _first_trained(trained: Sequence[str], calls: Sequence[ModuleCall]) -> tuple[str, int]:
    """The trained layer that runs first, and the place of the first call inside it; what is earlier ended before."""
    for place, call in enumerate(calls):
        for layer in trained:
            if call.name == layer or call.name.startswith(f"{layer}."):
                return layer, place
    return trained[0], 0


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _halves(net: nn.Module, place: Place, replaced: Sequence[ModuleCall], x: Tensor, expected: Tensor) -> Cut | None:
    """The halves, if the second gives what the network does from what the first put out."""
    second = probe.private_copy(net)
    for call in replaced:
        probe.put(second, call.name, _Nothing((1, *call.shape[1:])))
    probe.put(second, place.layer, _Start(second.get_submodule(place.layer) if place.reads else nn.Identity()))
    picture = torch.full_like(x[:1], torch.nan)
    try:
        features = _run_to_end(_first_half(net, place), x)
        found = Cut(place, tuple(features.shape[1:]), nn.Identity(), second, picture)
        fits = _same(found.result(features), expected)
    except Exception:  # a network's own code may need of a module what its replacement has not
        return None
    return replace(found, _first=_quick_first_half(net, place, x, features)) if fits else None


def _first_half(net: nn.Module, place: Place) -> nn.Module:
    first = probe.private_copy(net)
    probe.put(first, place.layer, _End(nn.Identity() if place.reads else first.get_submodule(place.layer)))
    return first


def _quick_first_half(net: nn.Module, place: Place, x: Tensor, expected: Tensor) -> nn.Module:
    """The first half with norms folded into convolutions, where it puts out the same."""
    quick = _first_half(folding.fast_copy(net, x).net, place)
    return quick if _same(_run_to_end(quick, x), expected) else _first_half(net, place)


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=0, atol=_ROUNDING * float(expected.abs().max())
    )
