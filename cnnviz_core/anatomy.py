"""What a network is made of, read off one dry run: head, activations, pooling, in-place code.

Read from the operations that ran, not from the modules that are registered: a functional ReLU has no module, and a
registered module may never be called. What the order of operations suggests about the head is then tried on numbers:
an average pooling may leave out a border, and a network may go on after its last layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import probe
from cnnviz_core.layers import LayerTree
from cnnviz_core.probe import DryRun, Operation

HeadKind = Literal["gap_linear", "gap_norm_linear", "conv_gap", "flatten_linear", "several", "none"]
Output = Literal["logits", "log_softmax", "softmax", "sigmoid", "features"]

# aten name -> (name in the field, whether its gradient rule of guided backprop and deconvnet is defined)
ACTIVATIONS: dict[str, tuple[str, bool]] = {
    "relu": ("ReLU", True),
    "hardtanh": ("ReLU6", True),
    "silu": ("SiLU", False),
    "gelu": ("GELU", False),
    "hardswish": ("Hardswish", False),
    "mish": ("Mish", False),
    "leaky_relu": ("Leaky ReLU", False),
    "_prelu_kernel": ("PReLU", False),
    "elu": ("ELU", False),
    "celu": ("CELU", False),
    "tanh": ("Tanh", False),
    "softplus": ("Softplus", False),
    "sigmoid": ("Sigmoid", False),
    "hardsigmoid": ("Hardsigmoid", False),
}

# A hard tanh from 0 up is a ReLU6; others let negative values through.
_HARD_TANH = ("Hard tanh", False)

_POOLINGS = {
    "max_pool2d_with_indices": "max",
    "avg_pool2d": "average",
    "_adaptive_avg_pool2d": "average",
    "mean": "average",
    "adaptive_max_pool2d": "max",
    "amax": "max",
}

_NO_ARITHMETIC = {
    "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "t", "transpose", "permute", "clone", "detach", "alias",
    "empty", "as_strided_", "_to_copy", "expand", "slice", "select",
}  # fmt: skip
_LINEAR = {"addmm", "mm", "linear"}
_NORMS = {"native_layer_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}

# How the scores become what the network puts out.
_ENDS: Mapping[Output, Callable[[Tensor], Tensor]] = {
    "logits": lambda scores: scores,
    "log_softmax": lambda scores: torch.log_softmax(scores, dim=1),
    "softmax": lambda scores: torch.softmax(scores, dim=1),
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Head:
    """How maps become class scores.

    Attributes:
        kind: "gap_linear": global average pooling and one linear layer; "gap_norm_linear": a normalisation between
            them; "conv_gap": a 1x1 convolution and global average pooling; "flatten_linear": one linear layer on all
            cells; "several": more than that; "none": no classifier.
        classifier: Dotted name of the last layer with weights; empty without a classifier.
        feature_layer: The layer whose maps the head pools or flattens; empty where there are none.
        relu_before_pooling: Whether a functional ReLU stands between that layer and the pooling.
        output: What the network puts out.
    """

    kind: HeadKind
    classifier: str
    feature_layer: str
    relu_before_pooling: bool
    output: Output


@dataclass(frozen=True)
class Activation:
    """One kind of activation function: how often it runs as a module and how often as a plain function."""

    name: str
    num_modules: int
    num_functional: int
    has_relu_rule: bool

    @property
    def num_calls(self) -> int:
        """Calls in one forward."""
        return self.num_modules + self.num_functional


@dataclass(frozen=True)
class Anatomy:
    """What a network is made of.

    Attributes:
        head: How maps become class scores.
        activations: Most frequent first; a sigmoid that the network ends in is not counted.
        num_ruled: How many of their calls the gradient rules of guided backprop and deconvnet reach.
        poolings: Kinds of pooling that run before the head: "max", "average".
        num_in_place: Functional operations that overwrite their input.
        num_in_place_modules: Modules that did so until they were switched off on loading.
        num_frozen: Parameters that came frozen.
        num_params: All parameters.
    """

    head: Head
    activations: tuple[Activation, ...]
    num_ruled: int
    poolings: tuple[str, ...]
    num_in_place: int
    num_in_place_modules: int
    num_frozen: int
    num_params: int


@torch.no_grad()
def describe(
    net: nn.Module,
    x: Tensor,
    run: DryRun,
    layers: LayerTree,
    *,
    num_in_place_modules: int,
    num_frozen: int,
) -> Anatomy:
    """What a network is made of.

    Args:
        net: The network as it is used, in-place modules switched off.
        x: The input of the dry run.
        run: The dry run.
        layers: What the dry run showed of the layers.
        num_in_place_modules: See :class:`Anatomy`.
        num_frozen: See :class:`Anatomy`.
    """
    head = head_of(net, run)
    name = head.feature_layer
    with probe.relu_rule("backprop") as rule:
        recording = probe.record(net, x, [name] if name else [])
    if head.kind in ("gap_linear", "conv_gap"):
        maps = recording.outputs[name][-1].movedim(layers[name].channel_dim, 1) if name else x
        head = head if _averages(net, head, maps, run.result) else replace(head, kind="several")
    return Anatomy(
        head=head,
        activations=activations_of(net, _without_output(head, run.operations)),
        num_ruled=rule.num_answered,
        poolings=poolings_of(run.operations),
        num_in_place=num_in_place(run.operations),
        num_in_place_modules=num_in_place_modules,
        num_frozen=num_frozen,
        num_params=sum(p.numel() for p in net.parameters()),
    )


def head_of(net: nn.Module, run: DryRun) -> Head:
    """The head of a network, as the operations of its dry run suggest."""
    arithmetic = [op for op in run.operations if op.name not in _NO_ARITHMETIC]
    last_map = max((i for i, op in enumerate(arithmetic) if _is_map(op.shape)), default=-1)
    tail = arithmetic[last_map + 1 :]
    kind = _head_kind(net, run, arithmetic, tail)
    output = _output(arithmetic) if kind != "none" else "features"
    weighted = [op for op in arithmetic if op.name in _LINEAR or op.name == "convolution"]
    feature_layer, pending = _feature_layer(run)
    return Head(
        kind=kind,
        classifier=weighted[-1].module if weighted and kind != "none" else "",
        feature_layer=feature_layer,
        relu_before_pooling=pending == {"relu"},
        output=output,
    )


def activations_of(net: nn.Module, operations: Sequence[Operation]) -> tuple[Activation, ...]:
    """The activation functions that ran, most frequent first."""
    modules = dict(net.named_modules())
    as_module: Counter[tuple[str, bool]] = Counter()
    as_function: Counter[tuple[str, bool]] = Counter()
    for op in operations:
        if (name := op.name.rstrip("_")) in ACTIVATIONS:
            module = modules.get(op.module)
            counter = as_module if _is_activation_module(module) else as_function
            counter[_HARD_TANH if _clamps_below_zero(module) else ACTIVATIONS[name]] += 1
    kinds = sorted({*as_module, *as_function}, key=lambda kind: (-as_module[kind] - as_function[kind], kind))
    return tuple(Activation(kind[0], as_module[kind], as_function[kind], kind[1]) for kind in kinds)


def poolings_of(operations: Sequence[Operation]) -> tuple[str, ...]:
    """Kinds of pooling whose output is still a map."""
    return tuple(dict.fromkeys(_POOLINGS[op.name] for op in operations if op.name in _POOLINGS and _is_map(op.shape)))


def num_in_place(operations: Sequence[Operation]) -> int:
    """Operations that overwrite their input."""
    return sum(op.name.endswith("_") and op.name not in _NO_ARITHMETIC for op in operations)


def _is_map(shape: Sequence[int]) -> bool:
    """Whether an output has more than one cell: two dimensions above 1 besides the batch."""
    return len(shape) > 2 and sorted(shape[1:])[-2] > 1


def _is_activation_module(module: nn.Module | None) -> bool:
    """Whether a module does nothing but apply the function: no children, no weights but a PReLU's slope."""
    if module is None or any(True for _ in module.children()):
        return False
    return isinstance(module, nn.PReLU) or not any(True for _ in module.parameters(recurse=False))


def _clamps_below_zero(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Hardtanh) and module.min_val < 0


def _head_kind(net: nn.Module, run: DryRun, arithmetic: Sequence[Operation], tail: Sequence[Operation]) -> HeadKind:
    result = run.result
    if not isinstance(result, Tensor) or _is_map(result.shape) or getattr(net, "num_classes", None) == 0:
        return "none"
    names = [op.name for op in tail]
    layers = [op for op in tail if op.name in _LINEAR or op.name == "convolution"]
    pools = bool(names) and _POOLINGS.get(names[0]) == "average"
    if not layers:
        return "conv_gap" if pools and _ends_in_1x1_convolution(net, arithmetic) else "none"
    if len(layers) > 1:
        return "several"
    between = names[1 if pools else 0 : names.index(layers[0].name)]
    if not pools:
        return "flatten_linear" if not between else "several"
    if not between:
        return "gap_linear"
    return "gap_norm_linear" if set(between) <= _NORMS else "several"


def _ends_in_1x1_convolution(net: nn.Module, arithmetic: Sequence[Operation]) -> bool:
    """Whether nothing but an activation stands between a last 1x1 convolution and the pooling."""
    last = max((i for i, op in enumerate(arithmetic) if op.name == "convolution"), default=None)
    if last is None:
        return False
    module = dict(net.named_modules()).get(arithmetic[last].module)
    between = [op.name.rstrip("_") for op in arithmetic[last + 1 : -1] if op.name not in _POOLINGS]
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and set(between) <= {"relu", "hardtanh"}


def _feature_layer(run: DryRun) -> tuple[str, set[str]]:
    """The last layer that puts out a map, and the names of the operations that change the map after it."""
    calls = [call for call in run.module_calls if call.name and len(call.shape) == 4 and _is_map(call.shape)]
    if not calls:
        return "", set()
    last = max(reversed(calls), key=lambda call: call.num_operations)  # the outermost of those that end together
    after = run.operations[last.num_operations :]
    return last.name, {op.name.rstrip("_") for op in after if _is_map(op.shape) and op.name not in _NO_ARITHMETIC}


def _averages(net: nn.Module, head: Head, maps: Tensor, result: Tensor) -> bool:
    """Whether the feature maps (1, C, h, w), averaged over all places and weighed, give what the network put out."""
    scores = (maps.relu() if head.relu_before_pooling else maps).mean((2, 3))
    if head.kind == "gap_linear":
        classifier = net.get_submodule(head.classifier)
        if not isinstance(classifier, nn.Linear | nn.Conv2d) or classifier.weight[0].numel() != scores.shape[1]:
            return False
        scores = F.linear(scores, classifier.weight.flatten(1), classifier.bias)
    expected = result.reshape(len(result), -1)
    put_out = _ENDS[head.output](scores)
    return put_out.shape == expected.shape and torch.allclose(
        put_out, expected, rtol=0, atol=1e-3 * float(expected.abs().max())
    )


def _without_output(head: Head, operations: Sequence[Operation]) -> Sequence[Operation]:
    """The operations without the sigmoid that makes probabilities of the scores."""
    if head.output != "sigmoid":
        return operations
    last = max(i for i, op in enumerate(operations) if op.name.rstrip("_") == "sigmoid")
    return [*operations[:last], *operations[last + 1 :]]


def _output(arithmetic: Sequence[Operation]) -> Output:
    last = arithmetic[-1].name.rstrip("_") if arithmetic else ""
    kinds: Mapping[str, Output] = {"_softmax": "softmax", "_log_softmax": "log_softmax", "sigmoid": "sigmoid"}
    return kinds.get(last, "logits")
