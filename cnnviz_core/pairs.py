"""Two networks of one architecture: whether they are, which layers to compare, what became of the weights.

A base network and one that was trained on from it share every layer but perhaps the head, so channel 7 of one is
channel 7 of the other and the two can be held against each other weight by weight. Of two networks that were trained
apart this is not so, although the shapes agree; the direction of the weights tells the one from the other. Weights that
were never related stand at right angles: for a layer of n weights the cosine is about 1/sqrt(n).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_fixed
from cnnviz_core.results import Kinship, Run, WeightChange

# The weights of a copy whose last stage is redrawn with seed 0.
LAST_STAGE_REDRAWN = "last stage redrawn"

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FEWEST_STOPS = 3
# Networks are related if a quarter of the layers or more still point in the old direction by this cosine.
_RELATED_COSINE = 0.3
_RELATED_SHARE = 0.25
# What decides about a convolution's output beside its weights.
_GEOMETRY = ("stride", "padding", "dilation", "groups")


def check(base: LoadedModel, tuned: LoadedModel) -> None:
    """Passes where two networks have one architecture; the head may differ.

    Raises:
        NotApplicable: They have not; names the first difference.
    """
    heads = {model.anatomy.head.classifier for model in (base, tuned)} - {""}
    one, other = (structure(model.net, heads) for model in (base, tuned))
    for name in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(name), other.get(name)
        if mine == theirs:
            continue
        if mine is None or theirs is None:
            words = f"{(base if theirs is None else tuned).spec.title} has a layer {name}, the other has not"
        else:
            here, there = (
                " and ".join(w for w in a if w not in b) or "less" for a, b in ((mine, theirs), (theirs, mine))
            )
            words = f"layer {name} has {here} in one and {there} in the other"
        raise NotApplicable(
            f"{base.spec.title} and {tuned.spec.title} are of different architectures: {words}. Choose two networks of "
            "the same architecture; only the head may differ."
        )


def structure(net: nn.Module, without: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """For each module its type, the shapes of its own weights, and a convolution's geometry.

    Args:
        net: Any network.
        without: Names of modules to leave out, with all that is in them.
    """
    found = {}
    for name, module in net.named_modules():
        if not name or any(f"{name}.".startswith(f"{left_out}.") for left_out in without):
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        words = [
            f"the type {type(module).__name__}",
            *(f"{key} {'x'.join(map(str, t.shape))}" for key, t in own if t.ndim),
        ]
        if isinstance(module, nn.Conv2d):
            words += [f"{key} {getattr(module, key)}" for key in _GEOMETRY]
        found[name] = tuple(words)
    return found


def paired_run(base: LoadedModel, tuned: LoadedModel, method: str, seconds: float, /, **settings: object) -> Run:
    """How a result was made with two networks."""
    one, other = (replace(model.provenance(method, seconds), settings=settings) for model in (base, tuned))
    return replace(one, other=other)


@dataclass(frozen=True)
class Stop:
    """One stop on the way through a network.

    Attributes:
        layer: Dotted name; its output is looked at.
        parts: Names of the modules whose weights count.
    """

    layer: str
    parts: tuple[str, ...]


def stops(model: LoadedModel) -> tuple[Stop, ...]:
    """Where networks are compared: blocks, and layers with weights outside of blocks, in order of depth.

    A block is a module that is more than a list of others: a bottleneck, an inverted residual. What is only called
    within a block is not listed by itself. A convolution outside of blocks counts with the normalisation that follows
    it, under the latter's name.
    """
    names = list(_units("", model.net))
    while len(names) < _FEWEST_STOPS:
        deeper = [inner for name in names for inner in _opened(name, model.net.get_submodule(name))]
        if deeper == names:
            break
        names = deeper
    places = {name: at for at, name in enumerate(model.layers.names)}

    def depth(name: str) -> int:
        inside = [at for other, at in places.items() if f"{other}.".startswith(f"{name}.")]
        return max(inside, default=len(places))

    found: list[Stop] = []
    for name in sorted(names, key=depth):
        if found and _normalises(model.net.get_submodule(name), model.net.get_submodule(found[-1].layer)):
            found[-1] = Stop(name, (*found[-1].parts, name))
        else:
            found.append(Stop(name, (name,)))
    return tuple(found)


def layers(model: LoadedModel) -> tuple[str, ...]:
    """The names of the :func:`stops`, in order of depth."""
    return tuple(stop.layer for stop in stops(model))


def _normalises(module: nn.Module, before: nn.Module) -> bool:
    """Whether a module is the normalisation of a convolution."""
    params = list(module.parameters())
    return isinstance(before, nn.Conv2d) and all(tuple(p.shape) == (before.out_channels,) for p in params)


def _units(name: str, module: nn.Module) -> Iterator[str]:
    for key, child in module.named_children():
        inner = f"{name}.{key}" if name else key
        if not any(True for _ in child.parameters()):
            continue
        if isinstance(child, _CONTAINERS) or any(_is_list_of_blocks(part) for part in child.children()):
            yield from _units(inner, child)
        else:
            yield inner


def _is_list_of_blocks(module: nn.Module) -> bool:
    blocks = [child for child in module.children() if _is_block(child)]
    return isinstance(module, _CONTAINERS) and len(blocks) > 1


def _is_block(module: nn.Module) -> bool:
    """Whether it joins several layers with kernels: a convolution with its normalisation is none."""
    return sum(isinstance(inner, nn.Conv2d | nn.Linear) for inner in module.modules()) > 1


def _opened(name: str, module: nn.Module) -> list[str]:
    """The parts of a unit, or the unit itself where it has none."""
    return list(_units(name, module)) or [name]


@torch.no_grad()
def weight_changes(base: LoadedModel, tuned: LoadedModel) -> tuple[WeightChange, ...]:
    """What became of the weights, layer by layer.

    Per layer ‖W' - W‖ / ‖W‖ and the cosine of W and W', W being all its kernels and matrices in one vector; for a
    layer that has none, as a normalisation by itself, all its parameters. Scales of normalisations are left out where
    there are kernels: they are positive, so their directions agree in any two networks.

    Raises:
        NotApplicable: As :func:`check`.
    """
    check(base, tuned)
    return tuple(_change(stop, base.net, tuned.net) for stop in stops(base))


def _change(stop: Stop, base: nn.Module, tuned: nn.Module) -> WeightChange:
    one, other = (_state(net, stop) for net in (base, tuned))
    params = [f"{part}.{key}" for part in stop.parts for key, _ in base.get_submodule(part).named_parameters()]
    fits = one.keys() == other.keys() and all(one[key].shape == other[key].shape for key in one)
    relative = cosine = float("nan")
    if fits:
        weights = [key for key in params if one[key].ndim > 1] or params
        w, v = (torch.cat([state[key].double().flatten() for key in weights]) for state in (one, other))
        length = float(w.norm())
        relative = float((v - w).norm()) / length if length else float("nan")
        both = length * float(v.norm())
        cosine = float(w @ v) / both if both else float("nan")
    return WeightChange(
        layer=stop.layer,
        num_params=sum(one[key].numel() for key in params),
        relative=relative,
        cosine=cosine,
        same_parameters=fits and all(torch.equal(one[key], other[key]) for key in params),
        same_statistics=fits and all(torch.equal(one[key], other[key]) for key in one if key not in params),
        same_shape=fits,
    )


def _state(net: nn.Module, stop: Stop) -> dict[str, Tensor]:
    """All weights and statistics of a stop, on the CPU; a head may lack what the other network's has."""
    modules = dict(net.named_modules())
    return {
        f"{part}.{key}": tensor.detach().cpu()
        for part in stop.parts
        if part in modules
        for key, tensor in modules[part].state_dict().items()
    }


def kinship(base: LoadedModel, changes: Sequence[WeightChange]) -> Kinship:
    """How two networks are related, from :func:`weight_changes`, in a word and in a sentence or two."""
    head = base.anatomy.head.classifier
    body = [change for change in changes if not _meets(change.layer, head)]
    frozen = [change for change in body if change.same_parameters]
    drifted = [change for change in frozen if not change.same_statistics]
    cosines = np.array([change.cosine for change in body if np.isfinite(change.cosine)])
    near = float(np.mean(cosines >= _RELATED_COSINE)) if len(cosines) else 1.0
    if len(frozen) == len(body) and not drifted:
        is_same = all(change.same_parameters for change in changes)
        words = (
            "Every weight and every statistic is equal: these are the same network twice."
            if is_same
            else "Only the head differs; every layer below it is unchanged, as in training with all of them frozen."
        )
        return Kinship("same" if is_same else "same body", words, float(near))
    if near < _RELATED_SHARE:
        words = (
            "Two unrelated trainings: the weights point in unrelated directions (median cosine "
            f"{format_fixed(float(np.median(cosines)), 2)} over {len(cosines)} layers). Channels of the same number "
            "have nothing to do with each other, so channel-wise numbers and pictures compare what only happens to "
            "share a place. CKA compares layers as wholes and still counts."
        )
        return Kinship("unrelated", words, near)
    words = (
        f"One was trained on from the other, or both from one ancestor: median cosine of the weights "
        f"{format_fixed(float(np.median(cosines)), 2)}. {len(frozen)} of {len(body)} layers below the head are "
        "unchanged."
    )
    if drifted:
        words += (
            f" In {len(drifted)} of these the weights were frozen but the running statistics of normalisations were "
            "not, so what they put out changed all the same."
        )
    return Kinship("related", words, near)


def _meets(name: str, other: str) -> bool:
    """Whether one of two modules is, or lies in, the other; an empty name is none."""
    return bool(name and other) and (f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}."))


@torch.no_grad()
def redrawn(model: LoadedModel, names: Sequence[str], *, seed: int = 0) -> LoadedModel:
    """A copy of a network in which what some layers learned is gone: their kernels and matrices in random order.

    A partner with a known difference, to see what a change looks like and where it begins.

    Args:
        model: Any network; not touched.
        names: Dotted names of layers.
        seed: Of the draw.

    Raises:
        UnknownLayer: No such layer.
        BadSetting: No layer, or layers without weights.
    """
    draw = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(model.net)
    num_drawn = 0
    for name in dict.fromkeys(names):
        for weight in net.get_submodule(model.layers[name].name).parameters():
            if weight.ndim > 1:
                order = torch.randperm(weight.numel(), generator=draw).to(weight.device)
                weight.copy_(weight.flatten()[order].reshape(weight.shape))
                num_drawn += 1
    if not num_drawn:
        raise BadSetting(f"There are no weights to draw anew in {', '.join(names) or 'no layer'}; name a convolution.")
    account = f"{model.spec.weights_hash} {seed} {list(names)}"
    is_last_stage = tuple(names) == last_stage(model) and not seed
    spec = replace(
        model.spec,
        weights=LAST_STAGE_REDRAWN if is_last_stage else f"{', '.join(names)} redrawn",
        weights_hash=hashlib.blake2b(account.encode(), digest_size=16).hexdigest(),
    )
    return replace(model, net=net, spec=spec)


def last_stage(model: LoadedModel) -> tuple[str, ...]:
    """The layers with weights in the last stage, without the head: what to draw anew for a change in the depth.

    Raises:
        NotApplicable: There is none.
    """
    head = model.anatomy.head.classifier
    found = [
        stop
        for stop in stops(model)
        if stop.layer in model.layers.names and model.layers[stop.layer].cells and not _meets(stop.layer, head)
    ]
    if not found:
        raise NotApplicable(f"{model.spec.title} has no layer with weights below its head; choose another network.")
    coarsest = model.layers[found[-1].layer].cells
    return tuple(part for stop in found if model.layers[stop.layer].cells == coarsest for part in stop.parts)
