"""Which pixels a unit can see: how each tensor operation widens its window.

Each spatial axis of a tensor carries three numbers in input pixels: cell ``i`` sees the half-open interval
``[low + i * jump, high + i * jump)``. A convolution or pooling of kernel k, dilation d, padding p and stride s makes of it

    low  <- low - p * jump
    high <- high + ((k - 1) * d - p) * jump
    jump <- jump * s

branches that meet take the union of their intervals, and whatever mixes a whole axis (global pooling, squeeze and
excite, group norm) sees everything from there on. The window is what *can* reach the unit; what in fact
reaches it is usually much narrower and roughly Gaussian (Luo et al. 2016).

Source: Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks (Distill 2019); intervals in
place of their size and start, so that uneven padding and branches of different offset come out right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Axis:
    """The window along one spatial axis.

    Attributes:
        dim: The tensor's dimension, counted from the end (-1 is the last); None where the axis was reduced away.
        jump: Input pixels from one cell to the next.
        low: First pixel that cell 0 sees; negative inside the padding.
        high: One past the last pixel that cell 0 sees; infinite where a cell sees everything.
    """

    dim: int | None
    jump: float
    low: float
    high: float

    @property
    def size(self) -> float:
        """Width of the window in pixels."""
        return self.high - self.low


@dataclass(frozen=True)
class ReceptiveField:
    """The window of input pixels of each cell of a feature map."""

    rows: Axis
    cols: Axis

    @property
    def size_px(self) -> tuple[float, float]:
        """Height and width of the window in input pixels; ``math.inf`` where it is the whole picture."""
        return self.rows.size, self.cols.size

    @property
    def is_global(self) -> bool:
        """Whether each cell sees the whole picture."""
        return math.isinf(self.rows.size) or math.isinf(self.cols.size)

    def box(self, row: int, col: int) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) in input pixels of the window of one cell; may reach into the padding."""
        return (
            self.rows.low + row * self.rows.jump if math.isfinite(self.rows.low) else -math.inf,
            self.cols.low + col * self.cols.jump if math.isfinite(self.cols.low) else -math.inf,
            self.rows.high + row * self.rows.jump if math.isfinite(self.rows.high) else math.inf,
            self.cols.high + col * self.cols.jump if math.isfinite(self.cols.high) else math.inf,
        )

    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns."""
        return self.rows, self.cols


IMAGE = ReceptiveField(Axis(-2, 1, 0, 1), Axis(-1, 1, 0, 1))

Fields = Callable[[object], ReceptiveField | None]


def propagate(func: Any, args: Sequence[Any], field_of: Fields, out: Tensor) -> ReceptiveField | None:
    """The window of an operation's output.

    Args:
        func: The aten operator that was called.
        args: Its positional arguments.
        field_of: Gives the window of a tensor that derives from the picture, None for any other object.
        out: The operator's output.

    Returns:
        The output's window; None where the operator's effect on it is not known.
    """
    packet = func.overloadpacket
    sources = [field for tensor in _tensors(args) if (field := field_of(tensor)) is not None]
    if not sources:
        return None
    if rule := _RULES.get(packet):
        return rule(sources[0], args, out)
    if packet in _POINTWISE or torch.Tag.pointwise in func.tags:
        return union(sources)
    return None


def union(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The window of a value computed position by position from several."""
    return ReceptiveField(_union([f.rows for f in fields]), _union([f.cols for f in fields]))


def _union(axes: Sequence[Axis]) -> Axis:
    # The finest grid is the output's: the others are broadcast to it.
    finest = min(axes, key=lambda axis: (axis.dim is None, axis.jump))
    return replace(finest, low=min(a.low for a in axes), high=max(a.high for a in axes))


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    flat: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            flat.append(arg)
        elif isinstance(arg, (list, tuple)):
            flat += [item for item in arg if isinstance(item, Tensor)]
    return flat


def _everything(axis: Axis) -> Axis:
    return replace(axis, jump=math.inf, low=-math.inf, high=math.inf)


def _slide(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    if math.isinf(axis.jump):  # reduced to one cell: nothing left to slide over
        return axis
    return replace(
        axis,
        jump=axis.jump * stride,
        low=axis.low - padding * axis.jump,
        high=axis.high + ((kernel - 1) * dilation - padding) * axis.jump,
    )


def _pair(value: Sequence[int] | int) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _convolution(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField | None:
    _, weight, _, stride, padding, dilation, transposed = args[:7]
    if transposed or weight.ndim != 4:
        return None
    return _windowed(field, weight.shape[2:], stride, padding, dilation)


def _pooling(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    padding = args[3] if len(args) > 3 else 0
    return _windowed(field, kernel, stride, padding, 1)


def _max_pooling(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    padding = args[3] if len(args) > 3 else 0
    return _windowed(field, kernel, stride, padding, args[4] if len(args) > 4 else 1)


def _windowed(
    field: ReceptiveField,
    kernel: Sequence[int] | int,
    stride: Sequence[int] | int,
    padding: Sequence[int] | int,
    dilation: Sequence[int] | int,
) -> ReceptiveField:
    steps = zip(_pair(kernel), _pair(stride), _pair(padding), _pair(dilation), strict=True)
    return ReceptiveField(*(_slide(axis, *step) for axis, step in zip(field.axes(), steps, strict=True)))


def _adaptive_pooling(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    axes = []
    for axis, before, after in zip(field.axes(), args[0].shape[-2:], out.shape[-2:], strict=True):
        if after == 1 and before > 1:
            axes.append(_everything(axis))
        else:
            kernel = math.ceil(before / after) + (before % after > 0)
            axes.append(replace(_slide(axis, kernel, 1, 0, 1), jump=axis.jump * before / after))
    return ReceptiveField(*axes)


def _reduction(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    ndim = args[0].ndim
    dims = args[1] if len(args) > 1 and args[1] is not None else list(range(ndim))
    reduced = {d if d < 0 else d - ndim for d in ([dims] if isinstance(dims, int) else dims)}
    keeps_dims = out.ndim == ndim
    axes = []
    for axis in field.axes():
        if axis.dim in reduced:
            axes.append(replace(_everything(axis), dim=axis.dim if keeps_dims else None))
        elif axis.dim is not None and not keeps_dims:
            axes.append(replace(axis, dim=axis.dim + sum(d > axis.dim for d in reduced)))
        else:
            axes.append(axis)
    return ReceptiveField(*axes)


def _permute(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    order = [d % out.ndim for d in args[1]]
    return _moved(field, lambda dim: order.index(dim % out.ndim) - out.ndim)


def _transpose(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    first, second = (d % out.ndim - out.ndim for d in args[1:3])
    return _moved(field, lambda dim: {first: second, second: first}.get(dim, dim))


def _moved(field: ReceptiveField, move: Callable[[int], int]) -> ReceptiveField:
    return ReceptiveField(*(replace(a, dim=None if a.dim is None else move(a.dim)) for a in field.axes()))


def _view(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField | None:
    """An axis survives a reshape where a dimension of its size stands behind as many elements as before."""
    shape, axes = args[0].shape, []
    for axis in field.axes():
        if axis.dim is None:
            axes.append(axis)
            continue
        before, size = math.prod(shape[: axis.dim]), shape[axis.dim]
        places = [d for d in range(out.ndim) if math.prod(out.shape[:d]) == before and out.shape[d] == size]
        if places:
            axes.append(replace(axis, dim=places[-1 if size == 1 else 0] - out.ndim))
        elif out.ndim == 2:  # flattened for a linear layer
            axes.append(replace(_everything(axis), dim=None))
        else:
            return None
    return ReceptiveField(*axes)


def _slice(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    size = args[0].shape[args[1]] if len(args) > 1 else args[0].shape[0]
    dim = (args[1] if len(args) > 1 else 0) % out.ndim - out.ndim
    start = (args[2] if len(args) > 2 and args[2] is not None else 0) % (size + 1)
    step = args[4] if len(args) > 4 else 1
    return ReceptiveField(
        *(
            replace(a, jump=a.jump * step, low=a.low + start * a.jump, high=a.high + start * a.jump)
            if a.dim == dim and math.isfinite(a.jump)
            else a
            for a in field.axes()
        )
    )


def _padding(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    """``args[1]`` lists (before, after) pairs from the last dimension on."""
    axes = []
    for axis in field.axes():
        place = None if axis.dim is None else -axis.dim - 1
        before = args[1][2 * place] if place is not None and 2 * place < len(args[1]) else 0
        shift = before * axis.jump if before else 0
        axes.append(replace(axis, low=axis.low - shift, high=axis.high - shift))
    return ReceptiveField(*axes)


def _upsampling(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    axes = []
    for axis, before, after in zip(field.axes(), args[0].shape[-2:], out.shape[-2:], strict=True):
        wider = replace(axis, low=axis.low - axis.jump, high=axis.high + axis.jump)
        axes.append(axis if math.isinf(axis.jump) else replace(wider, jump=axis.jump * before / after))
    return ReceptiveField(*axes)


def _layer_norm(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    mixed = {-1 - i for i in range(len(args[1]))}
    return ReceptiveField(*(_everything(a) if a.dim in mixed else a for a in field.axes()))


def _softmax(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    dim = args[1] % out.ndim - out.ndim
    return ReceptiveField(*(_everything(a) if a.dim == dim else a for a in field.axes()))


def _group_norm(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    return ReceptiveField(*(_everything(a) for a in field.axes()))


def _batch_norm(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    uses_batch_statistics = len(args) > 5 and args[5] is True
    return _group_norm(field, args, out) if uses_batch_statistics else field


def _linear(field: ReceptiveField, args: Sequence[Any], out: Tensor) -> ReceptiveField:
    return ReceptiveField(*(replace(_everything(a), dim=None) for a in field.axes()))


_Rule = Callable[[ReceptiveField, Sequence[Any], Tensor], ReceptiveField | None]

_RULES: dict[Any, _Rule] = {
    _aten.convolution: _convolution,
    _aten.max_pool2d_with_indices: _max_pooling,
    _aten.avg_pool2d: _pooling,
    _aten._adaptive_avg_pool2d: _adaptive_pooling,
    _aten.adaptive_max_pool2d: _adaptive_pooling,
    _aten.mean: _reduction,
    _aten.sum: _reduction,
    _aten.amax: _reduction,
    _aten.amin: _reduction,
    _aten.linalg_vector_norm: lambda field, args, out: _reduction(field, [args[0], *args[2:3]], out),
    _aten.permute: _permute,
    _aten.transpose: _transpose,
    _aten.view: _view,
    _aten._unsafe_view: _view,
    _aten.reshape: _view,
    _aten.unsqueeze: _view,
    _aten.squeeze: _view,
    _aten.slice: _slice,
    _aten.constant_pad_nd: _padding,
    _aten.reflection_pad2d: _padding,
    _aten.replication_pad2d: _padding,
    _aten.upsample_nearest2d: _upsampling,
    _aten.upsample_bilinear2d: _upsampling,
    _aten.native_layer_norm: _layer_norm,
    _aten._softmax: _softmax,
    _aten.native_group_norm: _group_norm,
    _aten.native_batch_norm: _batch_norm,
    _aten._native_batch_norm_legit: _batch_norm,
    _aten.addmm: _linear,
    _aten.mm: _linear,
}

# Position by position, but not tagged so by torch.
_POINTWISE = {
    _aten.cat,
    _aten.clone,
    _aten.detach,
    _aten.alias,
    _aten._to_copy,
    _aten.as_strided_,  # restates the strides of the same values
    _aten.native_dropout,
    _aten.split,
    _aten.split_with_sizes,
    _aten.expand,
    _aten._native_batch_norm_legit_no_training,
    _aten.cudnn_batch_norm,
    _aten.miopen_batch_norm,
}
