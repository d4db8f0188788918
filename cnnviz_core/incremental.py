"""Many forwards of one picture, each with a patch of it replaced, for little more than what the patch changes.

A patch changes only a window of each early map: its image through kernel, stride and padding, layer by layer. So the
maps of the whole picture are computed once and kept, and for each patch only the window is computed anew, with a rim of
kept cells around it wherever a kernel reaches out. Windows of many patches go through the network together. Once the
window is most of the map, or at an operation that mixes all places (global pooling, squeeze and excite, attention), the
windows are put into copies of the kept map and the rest runs as usual.

What runs is a trace of the network's tensor operations, taken once for two and once for three pictures: where the two
differ tells which numbers are the number of pictures. The trace is trusted only after its results were compared with
the network's own, and where a network cannot be traced, or the comparison fails, the network itself runs on whole
pictures.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import probe
from cnnviz_core.probe import Ref, Trace, TracedCall

Ints = NDArray[np.int64]
_P = ParamSpec("_P")
_T = TypeVar("_T")

# A window above this share of its map is not worth the bookkeeping.
_MAX_SHARE = 0.8

# Above this share of the whole picture's numbers the network itself runs.
_MAX_TOTAL_SHARE = 0.95

# How far results may lie from the network's own, as a share of the range of its scores, and of their size (rounding).
_TOLERANCE, _ROUNDING = 1e-5, 2e-6

# Pictures that mix change each other's scores by more than this share; rounding in a wild network by less.
_MIXING = 1e-4

_log = logging.getLogger("cnnviz")


class _Unfit(Exception):
    """The network cannot be replayed from a trace."""


# ---- the graph ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PerPicture:
    """A whole number in the network's code that is so many times the number of pictures."""

    factor: int


@dataclass(frozen=True)
class _Node:
    """One operation to be replayed; ``args`` and ``kwargs`` hold Refs and _PerPictures.

    Attributes:
        is_literal: Whether it must run as it was traced, on whole maps: somebody writes into memory that several
            tensors look into.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int | None, ...]
    is_literal: bool = False

    @property
    def name(self) -> str:
        """The operator's name without overload."""
        return str(self.func.overloadpacket.__name__)

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by the name in the operator's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for value, parameter in zip(self.args, self.func._schema.arguments, strict=False):
            if parameter.name == name:
                return value
        return default


@dataclass
class _Graph:
    """A forward for any number of pictures.

    Attributes:
        nodes: In order.
        shapes: Of every tensor, the number of pictures as a _PerPicture.
        fixed: Tensors that neither the picture nor the number of pictures has a part in.
        result: What the network returns.
    """

    nodes: list[_Node]
    shapes: Mapping[int, tuple[Any, ...]]
    fixed: dict[int, Tensor]
    result: int

    def num_uses(self) -> Mapping[int, int]:
        """How often each tensor is read; the result once more."""
        uses: dict[int, int] = defaultdict(int)
        uses[self.result] += 1
        for node in self.nodes:
            for index in _refs([node.args, node.kwargs]):
                uses[index] += 1
        return uses


def _refs(value: Any) -> Iterator[int]:
    """The numbers of the tensors in nested arguments."""
    if isinstance(value, Ref):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _refs(item)
    elif isinstance(value, Mapping):
        yield from _refs(list(value.values()))


def _build(net: nn.Module, x: Tensor) -> _Graph:
    """Two traces made one."""
    two, three = (probe.trace(net, x.repeat(n, 1, 1, 1)) for n in (2, 3))
    if len(two.calls) != len(three.calls) or two.result is None or two.result != three.result:
        raise _Unfit
    shapes = {index: _unite(two.shapes[index], three.shapes[index]) for index in two.shapes}
    written, disturbed = _overwritten(two)
    graph = _Graph([], shapes, {}, two.result.index)
    depends = {0}
    for a, b in zip(two.calls, three.calls, strict=True):
        if a.func is not b.func or a.outputs != b.outputs:
            raise _Unfit
        args, kwargs = _unite(a.args, b.args), _unite(a.kwargs, b.kwargs)
        outputs = tuple(None if ref is None else ref.index for ref in a.outputs)
        is_fixed = not _has_per_picture([args, kwargs]) and depends.isdisjoint(_refs([args, kwargs]))
        if is_fixed:
            continue
        if _CANNOT_REPLAY & set(a.func.tags):
            raise _Unfit
        depends |= {index for index in outputs if index is not None}
        touched = {*_refs([args, kwargs]), *depends.intersection(outputs)}
        node = _Node(a.func, args, kwargs, outputs, is_literal=bool(touched & disturbed))
        graph.nodes.append(node if node.is_literal else _without_writing(node))
    graph.fixed = {index: tensor for index, tensor in two.fixed.items() if index not in depends}
    if written & graph.fixed.keys() or 0 in disturbed or graph.result not in depends:
        raise _Unfit
    if not all(_is_same(tensor, three.fixed[index]) for index, tensor in graph.fixed.items()):
        raise _Unfit
    return _alive(graph)


def _is_same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.data_ptr() == other.data_ptr() or torch.equal(tensor, other)


# Results that are another draw each time, or that the network's Python code may look at to choose its way.
_CANNOT_REPLAY = {
    torch.Tag.nondeterministic_seeded,
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}


def _unite(two: Any, three: Any) -> Any:
    """An argument of a forward of two and of three pictures, as one for any number."""
    if isinstance(two, (list, tuple)) and isinstance(three, (list, tuple)) and len(two) == len(three):
        return tuple(_unite(a, b) for a, b in zip(two, three, strict=True))
    if isinstance(two, Mapping):
        return {name: _unite(value, three[name]) for name, value in two.items()}
    if type(two) is int and type(three) is int and two != three and 3 * two == 2 * three:
        return _PerPicture(two // 2)
    if type(two) is not type(three) or two != three:
        raise _Unfit
    return two


def _has_per_picture(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _has_per_picture(list(value.values()))
    return isinstance(value, _PerPicture) or (isinstance(value, (list, tuple)) and any(map(_has_per_picture, value)))


def _overwritten(trace: Trace) -> tuple[set[int], set[int]]:
    """Numbers of all tensors that are written into, and of those whose memory others look into at that time."""
    group: dict[int, set[int]] = {}
    written, viewed, disturbed = set[int](), set[int](), set[int]()
    for call in trace.calls:
        outputs = [ref.index for ref in call.outputs if ref is not None]
        for parameter, value in _by_parameter(call):
            if parameter.alias_info is None:
                continue
            indices = set(_refs([value]))
            together = set().union(*(group.get(index, {index}) for index in (*indices, *outputs)))
            group |= dict.fromkeys(together, together)
            if not parameter.alias_info.is_write:
                viewed |= together
            else:
                written |= together
                if viewed & together:
                    disturbed |= together
    return written, set().union(*(group[index] for index in disturbed))


def _by_parameter(call: TracedCall) -> Iterator[tuple[Any, Any]]:
    parameters = call.func._schema.arguments
    yield from zip(parameters, call.args, strict=False)
    yield from ((p, call.kwargs[p.name]) for p in parameters if p.name in call.kwargs)


def _without_writing(node: _Node) -> _Node:
    """The same on a new tensor: what is overwritten may be needed once more, where operations are joined."""
    if not node.func._schema.is_mutable:
        return node
    pure = getattr(getattr(torch.ops.aten, node.name.removesuffix("_"), None), node.func._overloadname, None)
    if node.name == "as_strided_":  # restates where the same values lie
        return replace(node, func=torch.ops.aten.view.default, args=node.args[:2], kwargs={})
    if pure is None:
        raise _Unfit
    return replace(node, func=pure)


def _alive(graph: _Graph) -> _Graph:
    """Without what nobody reads."""
    needed, alive = {graph.result}, []
    for node in reversed(graph.nodes):
        if node.is_literal or needed.intersection(index for index in node.outputs if index is not None):
            needed |= set(_refs([node.args, node.kwargs]))
            alive.append(replace(node, outputs=tuple(index if index in needed else None for index in node.outputs)))
    fixed = {index: tensor for index, tensor in graph.fixed.items() if index in needed}
    return replace(graph, nodes=alive[::-1], fixed=fixed)


def _filled(value: Any, tensors: Mapping[int, Tensor], num_pictures: int) -> Any:
    """Arguments with tensors and numbers put in."""
    if isinstance(value, Ref):
        return tensors[value.index]
    if isinstance(value, _PerPicture):
        return value.factor * num_pictures
    if isinstance(value, tuple):
        return [_filled(item, tensors, num_pictures) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, tensors, num_pictures) for name, item in value.items()}
    return value


# ---- windows ------------------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """Where maps differ from the kept one along one axis, for each picture of a batch.

    Attributes:
        low: (N,) first cell that may differ.
        high: (N,) one past the last.
        start: (N,) first cell of the window that holds them all.
        size: Cells of the window, the same for all pictures.
    """

    low: Ints
    high: Ints
    start: Ints
    size: int


class _Reach(NamedTuple):
    """Which cells of its input an operation's output cell o reads along one axis: o stride - padding + i dilation."""

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    @property
    def width(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    def image(self, span: _Span) -> tuple[Ints, Ints]:
        """(low, high) of the output cells that read a cell that differs."""
        low = -((self.width - 1 - self.padding - span.low) // self.stride)
        return low, (span.high - 1 + self.padding) // self.stride + 1

    def source(self, start: Ints, size: int) -> tuple[Ints, int]:
        """First cell and number of cells of the input that a window of the output reads; may lie outside the map."""
        return start * self.stride - self.padding, (size - 1) * self.stride + self.width


Reaches = tuple[_Reach, _Reach]
Spans = tuple[_Span, _Span]
_HERE = (_Reach(), _Reach())


def _meeting(changed: Sequence[tuple[Ints, Ints]], num_cells: int) -> _Span:
    """The windows around all [low, high) of each picture, as wide as the widest and moved inside the map."""
    low, high = changed[0]
    for other_low, other_high in changed[1:]:
        low, high = np.minimum(low, other_low), np.maximum(high, other_high)
    low, high = np.maximum(low, 0), np.minimum(high, num_cells)
    size = max(1, int((high - low).max()))
    return _Span(low, high, np.minimum(low, num_cells - size), size)


# ---- operations ---------------------------------------------------------------------------------------------------

# Computes the outputs from the inputs: windows with their rim, or whole maps (spans is None) of so many pictures.
_Compute = Callable[[Sequence[Tensor], int, "Spans | None"], Sequence[Tensor]]


class _Local(NamedTuple):
    """How an operation acts on windows.

    Attributes:
        reaches: For each input the cells that an output cell reads, rows and columns.
        compute: On windows and on whole maps; None where both are the traced call.
        pad: What lies outside the map: 0 or minus infinity.
    """

    reaches: tuple[Reaches, ...]
    compute: _Compute | None = None
    pad: float = 0.0


@dataclass(frozen=True)
class _Step:
    """One operation as it is replayed.

    Attributes:
        inputs: Numbers of the tensors it reads that depend on the picture.
        outputs: Numbers of the tensors it makes; None for what nobody reads.
        compute: Makes the outputs.
        local: How it acts on windows; None where it needs whole maps.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    compute: _Compute
    local: _Local | None = None


_Rule = Callable[[_Node, _Graph, "tuple[int, ...]"], "_Local | None"]


def _traced(node: _Node, graph: _Graph, inputs: Sequence[int]) -> _Compute:
    """The call as it was traced. Views are made by reshape, since maps may lie in memory in another order here."""
    func = torch.reshape if node.name in _VIEWS and not node.is_literal else node.func
    fixed = {index: graph.fixed[index] for index in _refs([node.args, node.kwargs]) if index in graph.fixed}

    def compute(tensors: Sequence[Tensor], num_pictures: int, _spans: Spans | None) -> Sequence[Tensor]:
        known = fixed | dict(zip(inputs, tensors, strict=True))
        out = func(*_filled(node.args, known, num_pictures), **_filled(node.kwargs, known, num_pictures))
        return out if isinstance(out, (list, tuple)) else [out]

    return compute


_VIEWS = {"view", "_unsafe_view"}


def _cell_by_cell(node: _Node, graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
    """Each output cell reads the same cell of every input."""
    cells = {graph.shapes[index][-2:] for index in (*inputs, *_some(node.outputs))}
    is_same = all(
        set(graph.shapes[index][-2:]) <= {1} for index in _refs([node.args, node.kwargs]) if index in graph.fixed
    )
    return _Local((_HERE,) * len(inputs)) if len(cells) == 1 and is_same else None


def _normalised(node: _Node, _graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
    """Batch norm with fixed statistics: a factor and an offset for each channel."""
    if node.argument("training", default=False) or len(inputs) > 1:
        return None
    return _Local((_HERE,))


def _channels(*dims: str) -> _Rule:
    """Operations along the dimensions between the picture and its places, named by these arguments."""

    def rule(node: _Node, graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
        old, new = len(graph.shapes[inputs[0]]), len(graph.shapes[_some(node.outputs)[0]])
        has_fixed = any(index in graph.fixed for index in _refs(node.args))
        if has_fixed or any(len(graph.shapes[index]) != old for index in inputs) or min(old, new) < 3:
            return None
        num_dims = max(old, new)  # a new dimension counts from the end of what comes out
        inside = all(1 <= node.argument(name, 0) % num_dims < num_dims - 2 for name in dims)
        return _Local((_HERE,) * len(inputs)) if inside else None

    return rule


def _viewed(node: _Node, graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
    old, new = graph.shapes[inputs[0]], graph.shapes[_some(node.outputs)[0]]
    if len(new) < 3 or old[0] != new[0] or old[-2:] != new[-2:]:
        return None

    def compute(tensors: Sequence[Tensor], num_pictures: int, _spans: Spans | None) -> Sequence[Tensor]:
        return [tensors[0].reshape(num_pictures, *new[1:-2], *tensors[0].shape[-2:])]

    return _Local((_HERE,), compute)


def _padded(node: _Node, graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
    """Zeros around the map: the windows stay, and their cells have other numbers."""
    pad = node.argument("pad")
    if len(pad) > 4 or min(pad) < 0 or node.argument("value", 0) != 0:
        return None
    left, top = pad[0], pad[2] if len(pad) == 4 else 0
    whole = _traced(node, graph, inputs)

    def compute(tensors: Sequence[Tensor], num_pictures: int, spans: Spans | None) -> Sequence[Tensor]:
        return tensors if spans is not None else whole(tensors, num_pictures, spans)

    return _Local(((_Reach(padding=top), _Reach(padding=left)),), compute)


def _pair(value: Any, default: Any = None) -> tuple[int, int]:
    """Rows and columns of an argument that is one number, a list of one or two, or left out."""
    if value is None or (isinstance(value, tuple) and not value):
        return _pair(default)
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _max_pooled(node: _Node, graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
    kernel = _pair(node.argument("kernel_size"))
    stride, dilation = _pair(node.argument("stride"), kernel), _pair(node.argument("dilation"), 1)
    padding = _pair(node.argument("padding"), 0)
    if any(out is not None for out in node.outputs[1:]) or len(graph.shapes[inputs[0]]) != 4:
        return None
    whole = _traced(node, graph, inputs)

    def compute(tensors: Sequence[Tensor], num_pictures: int, spans: Spans | None) -> Sequence[Tensor]:
        if spans is None:
            return whole(tensors, num_pictures, spans)
        return [F.max_pool2d(tensors[0], kernel, stride, 0, dilation)]

    return _Local((_reaches(kernel, stride, dilation, padding),), compute, pad=-math.inf)


def _average_pooled(node: _Node, graph: _Graph, inputs: tuple[int, ...]) -> _Local | None:
    kernel = _pair(node.argument("kernel_size"))
    stride, padding = _pair(node.argument("stride"), kernel), _pair(node.argument("padding"), 0)
    shape = graph.shapes[inputs[0]]
    if len(shape) != 4:
        return None
    whole = _traced(node, graph, inputs)
    # What a cell's sum is divided by depends on where it lies to the border.
    ones = torch.ones(1, 1, *shape[2:])
    ceil_mode, with_padding = (
        node.argument(name, d) for name, d in (("ceil_mode", False), ("count_include_pad", True))
    )
    sums = F.avg_pool2d(ones, kernel, stride, padding, ceil_mode, with_padding, 1)
    factors = (whole([ones], 1, None)[0] / sums)[0, 0].numpy()

    def compute(tensors: Sequence[Tensor], num_pictures: int, spans: Spans | None) -> Sequence[Tensor]:
        if spans is None:
            return whole(tensors, num_pictures, spans)
        sums = F.avg_pool2d(tensors[0], kernel, stride, divisor_override=1)
        rows, cols = (span.start[:, None] + np.arange(span.size) for span in spans)
        return [sums * torch.from_numpy(factors[rows[:, :, None], cols[:, None, :]]).to(sums)[:, None]]

    return _Local((_reaches(kernel, stride, (1, 1), padding),), compute)


def _reaches(kernel: Any, stride: Any, dilation: Any, padding: Any) -> Reaches:
    rows, cols = (_Reach(*axis) for axis in zip(kernel, stride, dilation, padding, strict=True))
    return _HERE if (rows, cols) == _HERE else (rows, cols)


_RULES: Mapping[str, _Rule] = {
    "native_batch_norm": _normalised,
    "_native_batch_norm_legit_no_training": _normalised,
    "cudnn_batch_norm": _normalised,
    "max_pool2d_with_indices": _max_pooled,
    "avg_pool2d": _average_pooled,
    "constant_pad_nd": _padded,
    "view": _viewed,
    "_unsafe_view": _viewed,
    "cat": _channels("dim"),
    "split": _channels("dim"),
    "split_with_sizes": _channels("dim"),
    "slice": _channels("dim"),
    "select": _channels("dim"),
    "unsqueeze": _channels("dim"),
    "transpose": _channels("dim0", "dim1"),
    "clone": _cell_by_cell,
    "detach": _cell_by_cell,
    "alias": _cell_by_cell,
    "_to_copy": _cell_by_cell,
    "hardswish": _cell_by_cell,
    "_prelu_kernel": _cell_by_cell,
}


def _some(outputs: Sequence[int | None]) -> list[int]:
    return [index for index in outputs if index is not None]


# ---- convolutions -------------------------------------------------------------------------------------------------

# aten name -> what oneDNN calls it: name, numbers, variant.
_FUSED: Mapping[str, Callable[[_Node], tuple[str, list[Any], str]]] = {
    "relu": lambda _: ("relu", [], ""),
    "hardtanh": lambda node: ("hardtanh", [node.argument("min_val", -1.0), node.argument("max_val", 1.0)], ""),
    "silu": lambda _: ("swish", [], ""),
    "gelu": lambda node: ("gelu", [], node.argument("approximate", "none")),
    "hardswish": lambda _: ("hardswish", [], ""),
    "leaky_relu": lambda node: ("leaky_relu", [node.argument("negative_slope", 0.01)], ""),
}

# torch's own operators of oneDNN for inference: they are not public, so they may be missing.
_HAS_FUSED = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
)


@dataclass(eq=False)
class _Convolution:
    """A convolution with everything that follows it and can be done in the same pass.

    Attributes:
        node: The traced convolution.
        output: Number of what comes out at the end.
        weight: (O, I, kh, kw), a batch norm's factors worked in.
        bias: (O,) likewise.
        other: Number of a map that is added.
        activation: A traced activation function; last of all.
    """

    node: _Node
    output: int
    weight: Tensor
    bias: Tensor
    other: int | None = None
    activation: _Node | None = None

    @classmethod
    def of(cls, node: _Node, graph: _Graph) -> _Convolution | None:
        """None where it is of another kind, or its kernel depends on the picture."""
        weight, bias = node.argument("weight"), node.argument("bias")
        is_plain = len(graph.shapes[weight.index]) == 4 and not node.argument("transposed") and not node.is_literal
        if not is_plain or weight.index not in graph.fixed or (bias and bias.index not in graph.fixed):
            return None
        kernel = graph.fixed[weight.index]
        offset = graph.fixed[bias.index] if bias else kernel.new_zeros(len(kernel))
        return cls(node, _some(node.outputs)[0], kernel, offset)

    def fold(self, norm: _Node, fixed: Mapping[int, Tensor]) -> None:
        """Works a batch norm in."""
        ones, zeros = torch.ones_like(self.bias, dtype=torch.float64), torch.zeros_like(self.bias, dtype=torch.float64)
        weight, bias, mean, var = (
            default if (ref := norm.argument(name)) is None else fixed[ref.index].double()
            for name, default in (("weight", ones), ("bias", zeros), ("running_mean", zeros), ("running_var", ones))
        )
        factor = weight / (var + norm.argument("eps")).sqrt()
        self.weight = (self.weight.double() * factor.view(-1, 1, 1, 1)).to(self.weight.dtype)
        self.bias = ((self.bias.double() - mean) * factor + bias).to(self.bias.dtype)

    def step(self) -> _Step:
        """To be replayed."""
        stride, dilation, padding = (_pair(self.node.argument(name)) for name in ("stride", "dilation", "padding"))
        inputs, reaches = [self.node.args[0].index], [_reaches(self.weight.shape[2:], stride, dilation, padding)]
        if self.other is not None:
            inputs, reaches = [*inputs, self.other], [*reaches, _HERE]
        compute = self._in_one_pass() if _HAS_FUSED and _is_plain_cpu(self.weight) else self._one_by_one()
        return _Step(tuple(inputs), (self.output,), compute, _Local(tuple(reaches)))

    def _one_by_one(self) -> _Compute:
        stride, padding, dilation, groups = (
            self.node.argument(name) for name in ("stride", "padding", "dilation", "groups")
        )

        def compute(tensors: Sequence[Tensor], _num_pictures: int, spans: Spans | None) -> Sequence[Tensor]:
            padded = padding if spans is None else 0
            y = F.conv2d(tensors[0], self.weight, self.bias, stride, padded, dilation, groups)
            for other in tensors[1:]:
                y += other
            if self.activation is not None:
                y = self.activation.func(y, *self.activation.args[1:], **self.activation.kwargs)
            return [y]

        return compute

    def _in_one_pass(self) -> _Compute:
        stride, padding, dilation = (
            list(_pair(self.node.argument(name))) for name in ("stride", "padding", "dilation")
        )
        groups = self.node.argument("groups")
        attribute, numbers, variant = (
            _FUSED[self.activation.name](self.activation) if self.activation else ("none", [], "")
        )
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        weight = pack(self.weight.to_mkldnn(), padding, stride, dilation, groups)
        op = torch.ops.mkldnn._convolution_pointwise

        def compute(tensors: Sequence[Tensor], _num_pictures: int, spans: Spans | None) -> Sequence[Tensor]:
            x, *others = (tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors)
            geometry = (padding if spans is None else [0, 0], stride, dilation, groups)
            if not others:
                return [op(x, weight, self.bias, *geometry, attribute, numbers, variant)]
            unary = (attribute, numbers, variant) if self.activation else (None, [], None)
            return [op.binary(x, others[0], weight, self.bias, *geometry, "add", 1.0, *unary)]

        return compute


def _is_plain_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype is torch.float32


# ---- the plan -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is replayed.

    Attributes:
        steps: In order.
        done: For each step the tensors that nobody needs after it.
        cells: (h, w) of each tensor whose changes may be windows.
        sizes: Numbers that each tensor holds for one picture.
        result: Number of what the network returns.
    """

    steps: Sequence[_Step]
    done: Sequence[Sequence[int]]
    cells: Mapping[int, tuple[int, int]]
    sizes: Mapping[int, int]
    result: int


def _plan(net: nn.Module, x: Tensor) -> _Plan:
    graph = _build(net, x)
    cells, steps = {0: (x.shape[2], x.shape[3])}, []
    for made in _joined(graph):
        step = made.step() if isinstance(made, _Convolution) else _step(made, graph, cells)
        if not all(index in cells for index in step.inputs) or not all(_is_map(graph, i) for i in _some(step.outputs)):
            step = replace(step, local=None)
        if step.local:
            cells |= {index: graph.shapes[index][-2:] for index in _some(step.outputs)}
        steps.append(step)
    last = {index: i for i, step in enumerate(steps) for index in (*_some(step.outputs), *step.inputs)}
    done = [[index for index in last if last[index] == i and index != graph.result] for i in range(len(steps))]
    sizes = {index: math.prod(n for n in shape if isinstance(n, int)) for index, shape in graph.shapes.items()}
    return _Plan(steps, done, cells, sizes, graph.result)


def _is_map(graph: _Graph, index: int) -> bool:
    first, *others = graph.shapes[index]
    return len(others) >= 2 and first == _PerPicture(1) and not _has_per_picture(others)


def _step(node: _Node, graph: _Graph, cells: Mapping[int, object]) -> _Step:
    inputs = tuple(dict.fromkeys(index for index in _refs([node.args, node.kwargs]) if index not in graph.fixed))
    traced = _traced(node, graph, inputs)
    rule = _cell_by_cell if torch.Tag.pointwise in node.func.tags else _RULES.get(node.name)
    if rule is None or node.is_literal or not inputs or any(index not in cells for index in inputs):
        return _Step(inputs, node.outputs, traced)
    local = rule(node, graph, inputs)
    return _Step(inputs, node.outputs, (local and local.compute) or traced, local)


def _joined(graph: _Graph) -> list[_Node | _Convolution]:
    """The operations, with what follows a convolution taken into it where nobody else reads what lies between."""
    uses, made = graph.num_uses(), list[_Node | _Convolution]()
    growing: dict[int, _Convolution] = {}
    for node in graph.nodes:
        convolution = _Convolution.of(node, graph) if node.name == "convolution" else None
        if convolution is None and node.name in _JOINS and not node.is_literal:
            grown = (growing[i] for i in _refs(node.args) if i in growing and uses[i] == 1)
            convolution = next((c for c in grown if _JOINS[node.name](c, node, graph)), None)
            if convolution is not None:
                made.remove(convolution)
        made.append(convolution or node)
        if convolution is not None:
            convolution.output = _some(node.outputs)[0]
            if convolution.activation is None:
                growing[convolution.output] = convolution
    return made


def _join_norm(convolution: _Convolution, node: _Node, graph: _Graph) -> bool:
    refs = [node.argument(name) for name in ("weight", "bias", "running_mean", "running_var")]
    is_fixed = all(ref is None or ref.index in graph.fixed for ref in refs) and None not in refs[2:]
    if node.argument("training", default=False) or convolution.other is not None or not is_fixed:
        return False
    convolution.fold(node, graph.fixed)
    return True


def _join_sum(convolution: _Convolution, node: _Node, graph: _Graph) -> bool:
    indices = list(_refs(node.args))
    if convolution.other is not None or len(indices) != 2 or node.argument("alpha", 1) != 1:
        return False
    (other,) = set(indices) - {convolution.output}
    if other in graph.fixed or graph.shapes[other] != graph.shapes[convolution.output]:
        return False
    convolution.other = other
    return True


def _join_activation(convolution: _Convolution, node: _Node, _graph: _Graph) -> bool:
    if convolution.other is not None and node.name != "relu":  # oneDNN's operator for sums knows no other
        return False
    convolution.activation = node
    return True


_JOINS: Mapping[str, Callable[[_Convolution, _Node, _Graph], bool]] = {
    "native_batch_norm": _join_norm,
    "_native_batch_norm_legit_no_training": _join_norm,
    "add": _join_sum,
    **dict.fromkeys(_FUSED, _join_activation),
}


def _layout(plan: _Plan, patches: Spans) -> list[Spans | None]:
    """For each step the windows of its outputs; None where it runs on whole maps."""
    known: dict[int, Spans] = {0: patches}
    found: list[Spans | None] = []
    for step in plan.steps:
        spans = None
        if step.local and all(index in known for index in step.inputs):
            cells = plan.cells[_some(step.outputs)[0]]
            spans = _spans([known[index] for index in step.inputs], step.local.reaches, cells)
            if spans[0].size * spans[1].size > _MAX_SHARE * math.prod(cells):
                spans = None
            else:
                known |= dict.fromkeys(_some(step.outputs), spans)
        found.append(spans)
    return found


def _spans(inputs: Sequence[Spans], reaches: Sequence[Reaches], cells: tuple[int, int]) -> Spans:
    """The windows of an operation's outputs."""
    if all(spans is inputs[0] for spans in inputs) and all(reach is _HERE for reach in reaches):
        return inputs[0]
    reached = list(zip(inputs, reaches, strict=True))
    rows, cols = (
        _meeting([reach[axis].image(spans[axis]) for spans, reach in reached], num) for axis, num in enumerate(cells)
    )
    return rows, cols


# ---- running ------------------------------------------------------------------------------------------------------

# Rows of a table of cells before those of the kept map: what lies outside the map.
_OUTSIDE = {0.0: 0, -math.inf: 1}


class _Kept:
    """The maps of the whole picture."""

    def __init__(self, plan: _Plan, x: Tensor) -> None:
        self.maps: dict[int, Tensor] = {}
        self._tables: dict[int, Tensor] = {}
        tensors = {0: x}
        for step, done in zip(plan.steps, plan.done, strict=True):
            outputs = step.compute([tensors[index] for index in step.inputs], 1, None)
            tensors |= {index: out for index, out in zip(step.outputs, outputs, strict=False) if index is not None}
            for index in done:
                tensor = tensors.pop(index)
                if index in plan.cells:
                    self.maps[index] = tensor
        self.result = tensors[plan.result]

    def table(self, index: int, windows: Tensor) -> Tensor:
        """(cells, C): outside, the kept map, then the windows (N, C, h, w)."""
        changed = _cells(windows)
        table, first = self._tables.get(index), 2 + math.prod(self.maps[index].shape[-2:])
        if table is None or len(table) < first + len(changed):
            table = changed.new_empty(first + len(changed), changed.shape[1])
            table[0], table[1] = 0, -math.inf
            table[2:first] = _cells(self.maps[index])
            self._tables[index] = table
        table[first : first + len(changed)] = changed
        return table


def _cells(maps: Tensor) -> Tensor:
    """(N, ..., h, w) as one row for each cell."""
    return maps.movedim((-2, -1), (1, 2)).reshape(len(maps) * math.prod(maps.shape[-2:]), -1)


class _Batch:
    """One forward of the pictures of a batch."""

    def __init__(self, plan: _Plan, kept: _Kept, patches: Spans, windows: Tensor) -> None:
        self._plan, self._kept = plan, kept
        self._spans = {0: patches}
        self._windows, self._whole = {0: windows}, dict[int, Tensor]()

    def run(self) -> Tensor:
        """What the network returns."""
        layout = _layout(self._plan, self._spans[0])
        num_pictures = len(self._windows[0])
        for step, spans, done in zip(self._plan.steps, layout, self._plan.done, strict=True):
            tensors = self._whole if spans is None else self._windows
            outputs = step.compute(self._inputs(step, spans), num_pictures, spans)
            for index, tensor in zip(step.outputs, outputs, strict=False):
                if index is not None:
                    tensors[index] = tensor
                    if spans is not None:
                        self._spans[index] = spans
            for index in done:
                self._whole.pop(index, None)
                self._windows.pop(index, None)
        return self._whole_map(self._plan.result)

    def _inputs(self, step: _Step, spans: Spans | None) -> list[Tensor]:
        if spans is None or step.local is None:
            return [self._whole_map(index) for index in step.inputs]
        gathered = []
        for index, reaches in zip(step.inputs, step.local.reaches, strict=True):
            if reaches is _HERE and spans is self._spans[index]:
                gathered.append(self._windows[index])
                continue
            rows, cols = (reach.source(span.start, span.size) for reach, span in zip(reaches, spans, strict=True))
            gathered.append(self._gathered(index, rows, cols, step.local.pad))
        return gathered

    def _whole_map(self, index: int) -> Tensor:
        if index not in self._whole:
            height, width = self._plan.cells[index]
            first = np.zeros(len(self._windows[index]), dtype=np.int64)
            self._whole[index] = self._gathered(index, (first, height), (first, width), pad=0.0)
        return self._whole[index]

    def _gathered(self, index: int, rows: tuple[Ints, int], cols: tuple[Ints, int], pad: float) -> Tensor:
        """(N, C, h, w) cells of the changed maps, from these first rows and columns on."""
        mine, windows = self._spans[index], self._windows[index]
        asked = zip(mine, (rows, cols), strict=True)
        if all(span.size == size and (span.start == start).all() for span, (start, size) in asked):
            return windows
        places = _places(mine, self._plan.cells[index], rows, cols, _OUTSIDE[pad])
        table = self._kept.table(index, windows)
        found = table.index_select(0, torch.from_numpy(places.reshape(-1)).to(table.device))
        return found.view(*places.shape, *windows.shape[1:-2]).movedim((1, 2), (-2, -1))


def _places(spans: Spans, cells: tuple[int, int], rows: tuple[Ints, int], cols: tuple[Ints, int], outside: int) -> Ints:
    """(N, h, w) rows of the table."""
    (row, row_kept, row_new), (col, col_kept, col_new) = (
        (at, (at >= 0) & (at < num), (at >= span.start[:, None]) & (at < span.start[:, None] + span.size))
        for span, num, (start, size) in zip(spans, cells, (rows, cols), strict=True)
        for at in (start[:, None] + np.arange(size),)
    )
    height, width = spans[0].size, spans[1].size
    first = 2 + math.prod(cells) + np.arange(len(row))[:, None] * height * width
    new = (first + (row - spans[0].start[:, None]) * width)[:, :, None] + (col - spans[1].start[:, None])[:, None, :]
    kept = (2 + row * cells[1])[:, :, None] + col[:, None, :]
    places = np.where(row_new[:, :, None] & col_new[:, None, :], new, kept)
    places[~(row_kept[:, :, None] & col_kept[:, None, :])] = outside
    return places


# ---- what others call ---------------------------------------------------------------------------------------------

# Numbers that one step of a batch may read and make, in bytes, and the most pictures at a time.
_BATCH_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}
_BATCH_PICTURES = {"cpu": 32, "cuda": 256}
_MIN_BATCH_PICTURES = 4

# Pictures of 224 x 224 pixels that go through the network whole at a time.
_WHOLE_PICTURES = {"cpu": 16, "cuda": 128}


@dataclass
class _Known:
    """What was found out about a network; the keys begin with the input's shape and device."""

    plans: dict[Any, _Plan | None] = field(default_factory=dict)
    agrees: dict[Any, bool] = field(default_factory=dict)
    mixes: dict[Any, bool] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()
_known_lock = threading.Lock()


class Patched:
    """The class scores of one picture with a patch on it, for any number of places.

    Not for several threads at once; make one for each. What is found out about the network is shared.

    Attributes:
        clean: Scores of the picture without a patch, (1, K).
        batch_size: How many places to ask for at a time.
    """

    def __init__(
        self,
        net: nn.Module,
        x: Tensor,
        fill: Tensor,
        *,
        patch_px: int,
        read: Callable[[Tensor], Tensor] = lambda result: result,
        incremental: bool = True,
        static: bool = True,
    ) -> None:
        """Runs the whole picture, and the first time some trial patches.

        Args:
            net: A network in eval mode; not touched.
            x: The picture as its input, (1, C, H, W).
            fill: What patches show at each place, (1, C, H, W).
            patch_px: Their side, at most H and W.
            read: From what the network returns to scores, (N, K).
            incremental: False always runs the network itself on whole pictures.
            static: False if the network chooses its way by the picture; then whole pictures run one at a time.
        """
        self._net, self._x, self._fill, self._patch_px, self._read = net, x, fill, patch_px, read
        with _known_lock:
            self._known = _known.setdefault(net, _Known())
        self._shape, self._static = (tuple(x.shape), str(x.device)), static
        self._kept: _Kept | None = None
        with torch.inference_mode(mode=False), torch.no_grad():
            self.clean = read(net(x.clone()))
            self._plan = self._trusted_plan() if incremental and static else None
            self.batch_size = self._batch_size()

    @property
    def is_incremental(self) -> bool:
        """Whether only what the patch changes is computed anew."""
        return self._plan is not None

    @property
    def share(self) -> float:
        """How much is computed anew for a patch in the middle, as a share of all numbers that the network makes."""
        return 1.0 if self._plan is None else self._share(self._plan)

    def scores(self, tops: Ints, lefts: Ints) -> Tensor:
        """Scores (N, K) with the patch at each of these first rows and columns, which must lie inside the picture."""
        with torch.inference_mode(mode=False), torch.no_grad():
            if self._plan is None or self._kept is None:
                return self._of_whole_pictures(tops, lefts, self._fill)
            return self._of_windows(self._plan, self._kept, tops, lefts, self._fill)

    def _of_whole_pictures(self, tops: Ints, lefts: Ints, fill: Tensor) -> Tensor:
        return self._read(self._net(pasted(self._x, fill, tops, lefts, self._patch_px)))

    def _of_windows(self, plan: _Plan, kept: _Kept, tops: Ints, lefts: Ints, fill: Tensor) -> Tensor:
        rows, cols = (_Span(first, first + self._patch_px, first, self._patch_px) for first in (tops, lefts))
        windows = torch.cat([_patch(fill, top, left, self._patch_px) for top, left in _pairs(tops, lefts)])
        return self._read(_Batch(plan, kept, (rows, cols), windows).run())

    def _trusted_plan(self) -> _Plan | None:
        """The plan, after its results agreed with the network's own on the whole picture and on trial patches."""
        known, key = self._known, (*self._shape, self._patch_px)
        with known.lock:
            if known.plans.get(self._shape) and not self._keep(known.plans[self._shape]):
                del known.plans[self._shape]  # weights were written to since
                known.agrees.clear()
            if self._shape not in known.plans:
                plan = _or_none(_plan, self._net, self._x)
                known.plans[self._shape] = plan if self._keep(plan) else None
            plan, kept = known.plans[self._shape], self._kept
            if plan is None or kept is None or self._share(plan) > _MAX_TOTAL_SHARE:
                return None
            if key not in known.agrees:
                known.agrees[key] = self._agrees_on_trials(plan, kept)
            return plan if known.agrees[key] else None

    def _keep(self, plan: _Plan | None) -> bool:
        """Keeps the maps of the whole picture. Returns whether the plan gives the network's scores for it."""
        self._kept = None if plan is None else _or_none(_Kept, plan, self._x)
        return self._kept is not None and _agree(self._read(self._kept.result), self.clean)

    def _agrees_on_trials(self, plan: _Plan, kept: _Kept) -> bool:
        tops, lefts, fill = self._trials()
        found = _or_none(self._of_windows, plan, kept, tops, lefts, fill)
        return found is not None and _agree(found, self._one_by_one(tops, lefts, fill))

    def _trials(self) -> tuple[Ints, Ints, Tensor]:
        """Places in two corners and in the middle, and noise, since the patch's own content may change nothing."""
        last_row, last_col = (side - self._patch_px for side in self._x.shape[2:])
        noise = torch.randn(self._x.shape, generator=torch.Generator().manual_seed(0)).to(self._x)
        return np.array([0, last_row // 2, last_row]), np.array([last_col, last_col // 2, 0]), noise

    def _one_by_one(self, tops: Ints, lefts: Ints, fill: Tensor) -> Tensor:
        return torch.cat([self._of_whole_pictures(tops[i : i + 1], lefts[i : i + 1], fill) for i in range(len(tops))])

    def _batch_size(self) -> int:
        kind = self._x.device.type if self._x.device.type in _BATCH_BYTES else "cpu"
        if self._plan is not None:
            numbers = max(self._numbers_in_the_middle(self._plan))
            fitting = _BATCH_BYTES[kind] // (numbers * self._x.element_size())
            return max(_MIN_BATCH_PICTURES, min(_BATCH_PICTURES[kind], fitting))
        if not self._static or self._mixes():
            return 1
        return max(1, int(_WHOLE_PICTURES[kind] * 224**2 / math.prod(self._x.shape[2:])))

    def _share(self, plan: _Plan) -> float:
        return sum(self._numbers_in_the_middle(plan)) / sum(_numbers(plan, step, None) for step in plan.steps)

    def _numbers_in_the_middle(self, plan: _Plan) -> list[int]:
        """How many numbers each step reads and makes for a patch in the middle."""
        middle = [np.array([(side - self._patch_px) // 2]) for side in self._x.shape[2:]]
        rows, cols = (_Span(first, first + self._patch_px, first, self._patch_px) for first in middle)
        return [_numbers(plan, *both) for both in zip(plan.steps, _layout(plan, (rows, cols)), strict=True)]

    def _mixes(self) -> bool:
        """Whether a picture's scores depend on the others of its batch, as by a batch norm without fixed statistics."""
        with self._known.lock:
            if self._shape not in self._known.mixes:
                pictures = torch.cat([self._x, -self._x, self._x + 1])
                together = self._read(self._net(pictures.clone()))
                alone = torch.cat([self._read(self._net(picture)) for picture in pictures.clone().split(1)])
                self._known.mixes[self._shape] = not _agree(together, alone, _MIXING)
            return self._known.mixes[self._shape]


def _numbers(plan: _Plan, step: _Step, spans: Spans | None) -> int:
    """How many numbers a step reads and makes for one picture, about."""
    numbers = sum(plan.sizes[index] for index in (*step.inputs, *_some(step.outputs)))
    if spans is None:
        return numbers
    return math.ceil(numbers * spans[0].size * spans[1].size / math.prod(plan.cells[_some(step.outputs)[0]]))


def _or_none(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
    """None where the work fails: a network may hold anything, and then runs whole."""
    try:
        return work(*args, **kwargs)
    except Exception:  # whatever its operations raise on a trace's tensors or on windows
        _log.debug("Runs as whole pictures", exc_info=True)
        return None


def _agree(found: Tensor, expected: Tensor, tolerance: float = _TOLERANCE) -> bool:
    if found.shape != expected.shape:
        return False
    bound = tolerance * (expected.max() - expected.min()) + _ROUNDING * expected.abs().max()
    return bool(((found - expected).abs() <= bound).all())


def pasted(x: Tensor, fill: Tensor, tops: Ints, lefts: Ints, patch_px: int) -> Tensor:
    """Copies of a picture (1, C, H, W), each with a patch of what another shows there."""
    pictures = x.repeat(len(tops), 1, 1, 1)
    for picture, (top, left) in zip(pictures, _pairs(tops, lefts), strict=True):
        picture[:, top : top + patch_px, left : left + patch_px] = _patch(fill, top, left, patch_px)[0]
    return pictures


def _patch(fill: Tensor, top: int, left: int, patch_px: int) -> Tensor:
    return fill[:, :, top : top + patch_px, left : left + patch_px]


def _pairs(tops: Ints, lefts: Ints) -> Iterator[tuple[int, int]]:
    return zip(tops.tolist(), lefts.tolist(), strict=True)
