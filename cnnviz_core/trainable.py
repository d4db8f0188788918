"""Which layers of a network can be trained further, and a copy of it in which they can, with a head for new classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnviz_core import probe
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer, did_you_mean
from cnnviz_core.models import LoadedModel

# With few pictures it is better not to bend more of what the network knows.
NUM_BLOCKS = 1
_SMALL_HEAD = 0.01


def head(model: LoadedModel) -> str:
    """The layer that is replaced by one for the new classes.

    Raises:
        NotApplicable: The network has no such layer.
    """
    return _classifier(model)[0]


def _classifier(model: LoadedModel) -> tuple[str, nn.Linear | nn.Conv2d]:
    name = model.anatomy.head.classifier
    module = dict(model.net.named_modules()).get(name) if name else None
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        return name, module
    raise NotApplicable(
        f"{model.spec.title} does not end in a linear layer or a convolution that gives one score for each class, so "
        "no new head can be put in its place; choose another network."
    )


def blocks(model: LoadedModel) -> tuple[str, ...]:
    """The units that a network repeats, in the order in which they run: residual blocks and the like, else the layers
    with weights of their own. The head is not one of them.
    """
    last = head(model)
    found = [name for name in _units("", model.net) if name != last and not last.startswith(f"{name}.")]
    order = {name: place for place, name in enumerate(model.layers.names)}
    return tuple(sorted((name for name in found if name in order), key=lambda name: order[name]))


def _units(name: str, module: nn.Module) -> list[str]:
    """Dotted names of the units inside a module that are blocks or layers with weights."""
    found = []
    for child_name, child in module.named_children():
        whole = f"{name}.{child_name}" if name else child_name
        if _is_group(child):
            found += _units(whole, child)
        elif any(isinstance(inner, nn.Conv2d | nn.Linear) for inner in child.modules()):
            found.append(whole)
    return found


def _is_group(module: nn.Module) -> bool:
    """Whether a module only lines up others, or several blocks of one kind."""
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return True
    inner = [
        grandchild
        for child in module.children()
        for grandchild in (child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child])
    ]
    kinds = [type(one) for one in inner if sum(isinstance(m, nn.Conv2d | nn.Linear) for m in one.modules()) > 1]
    return any(kinds.count(kind) > 1 for kind in kinds)


def last_blocks(model: LoadedModel, num: int = NUM_BLOCKS) -> tuple[str, ...]:
    """The last blocks and the head, to be trained; 0 blocks for the head alone."""
    return (*(blocks(model)[-num:] if num else ()), head(model))


def from_stage(model: LoadedModel, cells: tuple[int, int]) -> tuple[str, ...]:
    """All blocks whose maps have at most so many cells, and the head, to be trained."""
    most = cells[0] * cells[1]
    late = [name for name in blocks(model) if math.prod(model.layers[name].cells or (1, 1)) <= most]
    return (*late, head(model))


def num_layers(model: LoadedModel, trained: Sequence[str]) -> int:
    """How many convolutions and linear layers are trained besides the head."""
    modules = {one for name in trained for one in model.net.get_submodule(name).modules()}
    return sum(isinstance(one, nn.Conv2d | nn.Linear) for one in modules - {_classifier(model)[1]})


def everything(model: LoadedModel) -> tuple[str, ...]:
    """All layers with weights."""
    return tuple(name for name, child in model.net.named_children() if any(True for _ in child.parameters()))


def check_layers(model: LoadedModel, trainable: Sequence[str]) -> tuple[str, ...]:
    """The layers to train, the head among them, each named once.

    Args:
        model: Any network with a classifier.
        trainable: Dotted names; what is inside a layer is trained with it.

    Raises:
        UnknownLayer: No layer of that name.
        BadSetting: None of them has weights.
        NotApplicable: The network has no head that could be replaced.
    """
    modules = dict(model.net.named_modules())
    for name in trainable:
        if not name or name not in modules:
            raise UnknownLayer(f"The network has no layer {name!r}.{did_you_mean(name, modules)}")
    if not any(True for name in trainable for _ in modules[name].parameters()):
        raise BadSetting(
            "All layers are frozen, so there is nothing to train. Choose at least the head, "
            f"{head(model)}, or a layer with weights."
        )
    trained = list(dict.fromkeys([*trainable, head(model)]))
    return tuple(name for name in trained if not any(name.startswith(f"{other}.") for other in trained))


def trained_copy(model: LoadedModel, trained: Sequence[str], num_classes: int) -> tuple[nn.Module, list[nn.Parameter]]:
    """A network with a new head, whose trained weights are its own and whose frozen ones are the model's.

    Returns:
        The network, in eval mode, and its trained weights, which want gradients.
    """
    own = {id(weight) for name in trained for weight in model.net.get_submodule(name).parameters()}
    tensors = [*model.net.parameters(), *model.net.buffers()]
    net = copy.deepcopy(model.net, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})
    last, classifier = _classifier(model)
    probe.put(net, last, _new_head(classifier, num_classes))
    weights = list(dict.fromkeys(weight for name in trained for weight in net.get_submodule(name).parameters()))
    for weight in weights:
        weight.requires_grad_(True)  # noqa: FBT003 - torch's word
    return net.eval(), weights


def own_statistics(net: nn.Module, trained: Sequence[str]) -> list[Tensor]:
    """Gives the batch norms in trained layers means, variances and counts of their own, apart from the model's.

    Returns:
        These, which change wherever such a norm runs in training mode; empty where the layers have no such norm.
    """
    found: list[Tensor] = []
    for norm in batch_norms(net, trained):
        for name, buffer in list(norm.named_buffers(recurse=False)):
            setattr(norm, name, buffer.clone())
            found.append(getattr(norm, name))
    return found


def batch_norms(net: nn.Module, trained: Sequence[str]) -> tuple[_BatchNorm, ...]:
    """The norms in trained layers that keep a mean and a variance of what they have seen."""
    inside = dict.fromkeys(one for name in trained for one in net.get_submodule(name).modules())
    return tuple(one for one in inside if isinstance(one, _BatchNorm) and one.running_mean is not None)


def _new_head(old: nn.Linear | nn.Conv2d, num_classes: int) -> nn.Module:
    """A layer of the same kind for so many classes; it knows nothing yet."""
    new = copy.deepcopy(old)
    if isinstance(new, nn.Linear):
        new.out_features = num_classes
    else:
        new.out_channels = num_classes
    shape = (num_classes, *new.weight.shape[1:])
    # A rectified score that starts at 0 has no gradient.
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * _SMALL_HEAD
    device = new.weight.device
    new.weight = nn.Parameter((torch.zeros(shape) if isinstance(new, nn.Linear) else values).to(device))
    if new.bias is not None:
        new.bias = nn.Parameter(torch.zeros(num_classes, device=device))
    return new
