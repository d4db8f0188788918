"""Which pixels a unit can see: how each tensor operation widens its window.

Each spatial axis of a tensor carries three numbers in input pixels: cell ``i`` sees the half-open interval
``[low + i * jump, high + i * jump)``. A convolution or pooling of kernel k, dilation d, padding p and stride s makes
of it

    low  <- low - p * jump
    high <- high + ((k - 1) * d - p) * jump
    jump <- jump * s

branches that meet take the union of their intervals, and whatever mixes a whole axis (global pooling, squeeze and
excite, group norm) sees everything from there on. Where the cells of a map see windows of uneven size, as after
upsampling, the interval is the smallest that holds for all of them. The window is what *can* reach the unit; what in
fact reaches it is usually much narrower and roughly Gaussian (Luo et al. 2016).

A window is given only where every operation on the way is known. After attention, and where code shifts or rearranges
places, there is none.

Source: Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks (Distill 2019); intervals in
place of their size and start, so that uneven padding and branches of different offset come out right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class Axis:
    """The window along one spatial axis.

    Attributes:
        dim: The tensor's dimension, counted from the end (-1 is the last); None where no place along it is left.
        jump: Input pixels from one cell to the next; infinite where one cell is left, not a number where not known.
        low: First pixel that cell 0 sees; negative inside the padding, minus infinity where a cell sees everything,
            not a number where it is not known.
        high: One past the last pixel that cell 0 sees; likewise.
    """

    dim: int | None
    jump: float
    low: float
    high: float

    @property
    def size(self) -> float:
        """Width of the window in pixels."""
        return self.high - self.low

    def interval(self, cell: int) -> tuple[float, float]:
        """(low, high) of one cell."""
        if self.dim is None or not math.isfinite(self.low):
            return self.low, self.high
        return self.low + cell * self.jump, self.high + cell * self.jump


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
    def is_known(self) -> bool:
        """Whether the window is known, not only where the cells lie."""
        return not (math.isnan(self.rows.size) or math.isnan(self.cols.size))

    @property
    def is_global(self) -> bool:
        """Whether each cell sees the whole picture."""
        return math.isinf(self.rows.size) or math.isinf(self.cols.size)

    def box(self, row: int, col: int) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) in input pixels of the window of one cell; may reach into the padding."""
        (top, bottom), (left, right) = self.rows.interval(row), self.cols.interval(col)
        return top, left, bottom, right

    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns."""
        return self.rows, self.cols


IMAGE = ReceptiveField(Axis(-2, 1, 0, 1), Axis(-1, 1, 0, 1))


class Tracker:
    """Carries windows from tensor to tensor while a network runs."""

    def __init__(self, image: Tensor) -> None:
        # What derives from the picture, with its window; None where not even the places are known.
        self._windows = WeakTensorKeyDictionary()
        self._windows[image] = IMAGE
        # Memory that was written through one of several tensors; kept, so that no other takes its address.
        self._rewritten: dict[int, UntypedStorage] = {}

    def window(self, tensor: Tensor) -> ReceptiveField | None:
        """The window of a tensor; None where it is not known, or where the picture has no part in it."""
        if _address(tensor) in self._rewritten:
            return None
        window: ReceptiveField | None = self._windows.get(tensor)
        return window

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Iterable[Tensor]) -> None:
        """Takes in that an aten operator was called and what it put out."""
        inputs = [(x, self.window(x)) for x in _tensors([*args, *kwargs.values()]) if self._derives(x)]
        if not inputs or func.overloadpacket.__name__ in _READS_SHAPE_ONLY:
            return
        call = _by_name(func, args, kwargs)
        for out in outputs:
            window = propagate(func, call, inputs, out)
            if func._schema.is_mutable and (window is None or window != self._windows.get(out)):
                self._note_rewriting(out)
            self._windows[out] = window

    def note_linear(self, x: Tensor, out: Tensor) -> None:
        """Takes in that a linear layer acted on the last dimension of a tensor, at each place alone."""
        window = self.window(x)
        if window is not None:
            self._windows[out] = _each(window, lambda axis, dim: _REDUCED if dim == -1 else axis)

    def _derives(self, tensor: Tensor) -> bool:
        return tensor in self._windows or _address(tensor) in self._rewritten

    def _note_rewriting(self, out: Tensor) -> None:
        """Other tensors over the same memory changed with it: none of them has a window any more."""
        storage = out.untyped_storage()
        is_whole = storage.nbytes() == out.numel() * out.element_size() and not out._is_view()
        if not is_whole or any(x is not out and _address(x) == _address(out) for x in self._windows):
            self._rewritten[_address(out)] = storage


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


_Inputs = Sequence[tuple[Tensor, ReceptiveField | None]]
_Call = Mapping[str, Any]
_Rule = Callable[[ReceptiveField, Tensor, _Call, Tensor], ReceptiveField | None]


def propagate(func: Any, call: Mapping[str, Any], inputs: _Inputs, out: Tensor) -> ReceptiveField | None:
    """The window of an operation's output.

    Args:
        func: The aten operator that was called.
        call: Its arguments by name.
        inputs: The arguments that derive from the picture, with their windows, at least one.
        out: The operator's output.

    Returns:
        The output's window; None where the operator's effect on it is not known.
    """
    name = func.overloadpacket.__name__
    if torch.Tag.pointwise in func.tags or name in _POINTWISE or name.removesuffix("_") in _POINTWISE:
        return _meeting([(x.shape, window) for x, window in inputs], out.shape)
    if name in _JOINING:
        return _JOINING[name](call, inputs, out)
    x, window = inputs[0]
    # Rules are for the operator's main tensor alone: a kernel, too, can be made from the picture.
    is_main = len(inputs) == 1 and (x is _tensors(call.values())[0] or name in _LINEAR)
    if window is None and name in _MAKES_MAPS and out.ndim == 4:
        return _SOMEWHERE
    if window is None or not is_main or name not in _RULES:
        return None
    return _RULES[name](window, x, call, out)


def _by_name(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    parameters = func._schema.arguments
    given = {parameter.name: value for parameter, value in zip(parameters, args, strict=False)}
    return {parameter.name: parameter.default_value for parameter in parameters} | given | dict(kwargs)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    flat: list[Tensor] = []
    for value in values:
        items = value if isinstance(value, (list, tuple)) else [value]
        flat += [item for item in items if isinstance(item, Tensor)]
    return flat


def _everything(axis: Axis) -> Axis:
    return replace(axis, low=-math.inf, high=math.inf)


# A map whose place in the picture is lost.
_SOMEWHERE = ReceptiveField(Axis(-2, math.nan, math.nan, math.nan), Axis(-1, math.nan, math.nan, math.nan))

# One cell that sees everything.
_REDUCED = Axis(None, math.inf, -math.inf, math.inf)


def _single(axis: Axis) -> Axis | None:
    """The only cell of an axis that goes."""
    return None if math.isnan(axis.low) else replace(axis, dim=None, jump=math.inf)


def _each(window: ReceptiveField, change: Callable[[Axis, int], Axis | None]) -> ReceptiveField | None:
    """Changes the axes that still have places; None where one of them becomes so."""
    rows, cols = (axis if axis.dim is None else change(axis, axis.dim) for axis in window.axes())
    return None if rows is None or cols is None else ReceptiveField(rows, cols)


# ---- values that meet position by position ------------------------------------------------------------------------


def _meeting(
    inputs: Sequence[tuple[Sequence[int], ReceptiveField | None]], out: Sequence[int]
) -> ReceptiveField | None:
    """The window of a value computed position by position from tensors of these shapes."""
    known = [(shape, window) for shape, window in inputs if window is not None]
    is_complete = len(known) == len(inputs)
    rows = _union([(shape, window.rows) for shape, window in known], out, is_complete=is_complete)
    cols = _union([(shape, window.cols) for shape, window in known], out, is_complete=is_complete)
    return None if rows is None or cols is None else ReceptiveField(rows, cols)


def _union(axes: Sequence[tuple[Sequence[int], Axis]], out: Sequence[int], *, is_complete: bool) -> Axis | None:
    """The interval around several; None where their cells do not lie in the same places."""
    dims = {axis.dim for _, axis in axes if axis.dim is not None}
    if len(dims) > 1 or not axes:
        return None
    dim = dims.pop() if dims else None
    num_cells = 1 if dim is None else out[dim]
    # What has a single cell is broadcast to all: its window stays where it is.
    jumps = [axis.jump if axis.dim is not None and shape[axis.dim] == num_cells else 0.0 for shape, axis in axes]
    jump = math.inf if dim is None else min((j for j in jumps if j > 0), default=math.nan if any(jumps) else 0.0)
    if not is_complete or any(math.isnan(axis.low) for _, axis in axes):
        return Axis(dim, jump, math.nan, math.nan)
    if any(math.isinf(axis.low) for _, axis in axes):
        return Axis(dim, jump, -math.inf, math.inf)
    # Where one interval moves faster than the grid, the last cell decides.
    drifts = [(num_cells - 1) * (j - jump) if num_cells > 1 else 0.0 for j in jumps]
    return Axis(
        dim,
        jump,
        low=min(axis.low + min(0.0, drift) for (_, axis), drift in zip(axes, drifts, strict=True)),
        high=max(axis.high + max(0.0, drift) for (_, axis), drift in zip(axes, drifts, strict=True)),
    )


def _concatenation(call: _Call, inputs: _Inputs, out: Tensor) -> ReceptiveField | None:
    window = _meeting([(x.shape, window) for x, window in inputs], out.shape)
    return window and _each(window, lambda axis, dim: None if dim == call["dim"] % out.ndim - out.ndim else axis)


def _stacking(call: _Call, inputs: _Inputs, out: Tensor) -> ReceptiveField | None:
    window = _meeting([(x.shape, window) for x, window in inputs], inputs[0][0].shape)
    return window and _inserted(window, call["dim"] % out.ndim - out.ndim)


# ---- windows that slide -------------------------------------------------------------------------------------------


def _convolution(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    kernel = call["weight"].shape[2:]

    def along(axis: Axis, dim: int) -> Axis | None:
        if -dim > len(kernel):  # the places lie where the convolution has its channels
            return None
        step = kernel[dim], call["stride"][dim], call["padding"][dim], call["dilation"][dim]
        return _spread(axis, x.shape[dim], out.shape[dim], *step) if call["transposed"] else _slide(axis, *step)

    return _each(window, along)


def _pooling(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    kernel, padding = _pair(call["kernel_size"]), _pair(call["padding"])
    stride, dilation = _pair(call["stride"] or kernel), _pair(call.get("dilation", 1))

    def along(axis: Axis, dim: int) -> Axis:
        return axis if dim < -2 else _slide(axis, kernel[dim], stride[dim], padding[dim], dilation[dim])

    return _each(window, along)


def _pair(value: int | Sequence[int]) -> Sequence[int]:
    if isinstance(value, int):
        return value, value
    return value if len(value) == 2 else (value[0], value[0])


def _slide(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    return replace(
        axis,
        jump=axis.jump * stride,
        low=axis.low - padding * axis.jump,
        high=axis.high + ((kernel - 1) * dilation - padding) * axis.jump,
    )


def _padding(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    """``pad`` lists (before, after) pairs from the last dimension on; mirrored pixels count as padding, too."""

    def along(axis: Axis, dim: int) -> Axis:
        before = call["pad" if "pad" in call else "padding"][2 * (-dim - 1) :][:1] or [0]
        return replace(axis, low=axis.low - before[0] * axis.jump, high=axis.high - before[0] * axis.jump)

    return _each(window, along)


# ---- other grids: the smallest interval that holds for all cells --------------------------------------------------


def _resampled(axis: Axis, num_cells: int, ratio: float, reads: Callable[[int], tuple[int, int]]) -> Axis:
    """Cell ``i`` of the new grid reads the old cells ``reads(i)``, first and last."""
    cells = [(i, *reads(i)) for i in range(num_cells)]
    used = [(first - i * ratio, last - i * ratio) for i, first, last in cells if first <= last]
    return replace(
        axis,
        jump=axis.jump * ratio,
        low=axis.low + min((first for first, _ in used), default=0) * axis.jump,
        high=axis.high + max((last for _, last in used), default=0) * axis.jump,
    )


def _spread(axis: Axis, before: int, after: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """Transposed convolution: cell i reads the cells j with i = j * stride - padding + tap * dilation."""

    def reads(i: int) -> tuple[int, int]:
        taps = [i + padding - tap * dilation for tap in range(kernel)]
        cells = [at // stride for at in taps if at % stride == 0 and 0 <= at // stride < before]
        return min(cells, default=1), max(cells, default=0)

    return _resampled(axis, after, 1 / stride, reads)


def _adaptive_pooling(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    def along(axis: Axis, dim: int) -> Axis:
        before, after = x.shape[dim], out.shape[dim]
        if dim < -2 or before == after:
            return axis
        if after == 1:
            return _REDUCED
        return _resampled(
            axis, after, before / after, lambda i: (i * before // after, -(-(i + 1) * before // after) - 1)
        )

    return _each(window, along)


def _nearest(source: float) -> tuple[int, int]:
    return math.floor(source), math.floor(source)


def _bilinear(source: float) -> tuple[int, int]:
    return math.floor(source), math.ceil(source)


def _bicubic(source: float) -> tuple[int, int]:
    return math.floor(source) - 1, math.floor(source) + 2


def _upsampling(reads: Callable[[float], tuple[int, int]], *, half_pixel: bool = True) -> _Rule:
    def rule(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
        def along(axis: Axis, dim: int) -> Axis | None:
            before, after = x.shape[dim], out.shape[dim]
            scale = call["scales_h" if dim == -2 else "scales_w"]
            if dim < -2 or (scale is not None and before * scale != after):
                return None
            is_aligned = call.get("align_corners", False)
            ratio = (before - 1) / max(after - 1, 1) if is_aligned else before / after
            offset = (ratio - 1) / 2 if half_pixel and not is_aligned else 0.0

            def clipped(i: int) -> tuple[int, int]:
                first, last = reads(min(max(i * ratio + offset, 0.0), before - 1.0))
                return max(first, 0), min(last, before - 1)

            return _resampled(axis, after, ratio, clipped)

        return _each(window, along)

    return rule


def _pixel_shuffle(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    factor = call["upscale_factor"]
    return _each(window, lambda axis, dim: _resampled(axis, out.shape[dim], 1 / factor, lambda i: _nearest(i / factor)))


def _pixel_unshuffle(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    factor = call["downscale_factor"]
    return _each(window, lambda axis, _: _slide(axis, factor, factor, 0, 1))


# ---- values that mix a whole dimension ----------------------------------------------------------------------------


def _reduction(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    dim = call.get("dim")
    dims = [dim] if isinstance(dim, int) else dim or range(x.ndim)
    gone = {d % x.ndim - x.ndim for d in dims}
    mixed = _each(
        window,
        lambda axis, dim: axis if dim not in gone else _single(axis) if x.shape[dim] == 1 else _REDUCED,
    )
    return mixed if out.ndim == x.ndim else mixed and _removed(mixed, gone)


def _mixing(dims: Callable[[_Call, Tensor], Iterable[int]]) -> _Rule:
    """A norm or softmax over these dimensions: each of their cells sees everything."""

    def rule(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
        mixed = {d % x.ndim - x.ndim for d in dims(call, x)}
        return _each(window, lambda axis, dim: _everything(axis) if dim in mixed else axis)

    return rule


def _linear(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    if any(axis.dim is not None for axis in window.axes()):
        return None
    return ReceptiveField(*(_REDUCED if math.isnan(axis.low) else axis for axis in window.axes()))


# ---- places that move ---------------------------------------------------------------------------------------------


def _same(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField:
    return window


def _unsure(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    return _each(window, lambda axis, _: replace(axis, low=math.nan, high=math.nan))


def _apart(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    """The dimension ``dim`` is taken apart, which must not be one of places."""
    gone = call["dim"] % x.ndim - x.ndim
    kept = _each(window, lambda axis, dim: None if dim == gone else axis)
    return kept if out.ndim == x.ndim else kept and _removed(kept, {gone})


def _selection(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    gone = call["dim"] % x.ndim - x.ndim

    def along(axis: Axis, dim: int) -> Axis | None:
        low, high = axis.interval(call["index"] % x.shape[dim])
        return _single(replace(axis, low=low, high=high)) if dim == gone else axis

    kept = _each(window, along)
    return kept and _removed(kept, {gone})


def _slice(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    sliced = call["dim"] % x.ndim - x.ndim

    def along(axis: Axis, dim: int) -> Axis:
        if dim != sliced:
            return axis
        start = range(x.shape[dim])[call["start"] :].start
        low, high = axis.interval(start)
        return replace(axis, jump=axis.jump * call["step"], low=low, high=high)

    return _each(window, along)


def _permute(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    order = [d % x.ndim for d in call["dims"]]
    return _each(window, lambda axis, dim: replace(axis, dim=order.index(dim % x.ndim) - x.ndim))


def _transpose(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    first, second = (call.get(name, default) % x.ndim - x.ndim for name, default in (("dim0", -2), ("dim1", -1)))
    return _each(window, lambda axis, dim: replace(axis, dim={first: second, second: first}.get(dim, dim)))


def _unsqueeze(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    return _inserted(window, call["dim"] % out.ndim - out.ndim)


def _squeeze(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    dim = call.get("dim", range(x.ndim))
    dims = {d % x.ndim - x.ndim for d in ([dim] if isinstance(dim, int) else dim)}
    gone = {d for d in dims if x.shape[d] == 1}
    kept = _each(window, lambda axis, dim: _single(axis) if dim in gone else axis)
    return kept and _removed(kept, gone)


def _inserted(window: ReceptiveField, new: int) -> ReceptiveField | None:
    return _each(window, lambda axis, dim: replace(axis, dim=dim if dim > new else dim - 1))


def _removed(window: ReceptiveField, gone: set[int]) -> ReceptiveField | None:
    return _each(window, lambda axis, dim: replace(axis, dim=dim + sum(d > dim for d in gone)))


def _view(window: ReceptiveField, x: Tensor, call: _Call, out: Tensor) -> ReceptiveField | None:
    rows, cols = (_reshaped(axis, x.shape, out.shape) for axis in window.axes())
    return None if rows is None or cols is None else ReceptiveField(rows, cols)


_FLATTENED = Axis(None, math.inf, math.nan, math.nan)


def _reshaped(axis: Axis, old: Sequence[int], new: Sequence[int]) -> Axis | None:
    """An axis survives a reshape where a dimension of its size stands behind as many elements as before."""
    if axis.dim is None:
        return None if math.isnan(axis.low) and len(new) > 2 else axis
    before, size = math.prod(old[: axis.dim]), old[axis.dim]
    if size == 1:
        return _single(axis)
    for dim in range(-len(new), 0):
        if math.prod(new[:dim]) == before and 1 < new[dim] <= size and size % new[dim] == 0:
            # A dimension that is split keeps its places in the first part; the second one becomes channels.
            return replace(_slide(axis, size // new[dim], size // new[dim], 0, 1), dim=dim)
    # Flattened for a linear layer, which then sees everything.
    return _FLATTENED if len(new) == 2 and before >= new[0] else None


_READS_SHAPE_ONLY = {
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "new_zeros", "new_ones", "new_full", "new_empty",
}  # fmt: skip

# Position by position, but not tagged so by torch.
_POINTWISE = {
    "clone", "detach", "alias", "_to_copy", "copy_", "expand", "hardswish", "_prelu_kernel", "native_dropout",
    "as_strided_",  # restates the strides of the same values
}  # fmt: skip

_JOINING: Mapping[str, Callable[[_Call, _Inputs, Tensor], ReceptiveField | None]] = {
    "cat": _concatenation,
    "stack": _stacking,
}

_LINEAR = {"addmm", "mm"}

# What these put out has its places in the last two dimensions, whatever they were given.
_MAKES_MAPS = {"convolution", "col2im", "grid_sampler_2d", "deform_conv2d"}

_RULES: Mapping[str, _Rule] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pooling,
    "avg_pool2d": _pooling,
    "_adaptive_avg_pool2d": _adaptive_pooling,
    "adaptive_max_pool2d": _adaptive_pooling,
    "constant_pad_nd": _padding,
    "reflection_pad2d": _padding,
    "replication_pad2d": _padding,
    "upsample_nearest2d": _upsampling(_nearest, half_pixel=False),
    "_upsample_nearest_exact2d": _upsampling(lambda source: _nearest(source + 0.5)),
    "upsample_bilinear2d": _upsampling(_bilinear),
    "upsample_bicubic2d": _upsampling(_bicubic),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "mean": _reduction,
    "sum": _reduction,
    "amax": _reduction,
    "amin": _reduction,
    "max": _reduction,
    "min": _reduction,
    "std": _reduction,
    "var": _reduction,
    "var_mean": _reduction,
    "linalg_vector_norm": _reduction,
    "native_layer_norm": _mixing(lambda call, _: range(-len(call["normalized_shape"]), 0)),
    "_softmax": _mixing(lambda call, _: [call["dim"]]),
    "native_group_norm": _mixing(lambda _, x: range(x.ndim)),
    # With the batch's own statistics, as instance norm has them, a batch norm mixes all places.
    "native_batch_norm": _mixing(lambda call, x: range(x.ndim) if call["training"] else []),
    "cudnn_batch_norm": _mixing(lambda call, x: range(x.ndim) if call["training"] else []),
    "addmm": _linear,
    "mm": _linear,
    "channel_shuffle": _same,
    "roll": _unsure,
    "flip": _unsure,
    "split": _apart,
    "split_with_sizes": _apart,
    "unbind": _apart,
    "index_select": _apart,
    "glu": _apart,
    "select": _selection,
    "slice": _slice,
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "view": _view,
    "_unsafe_view": _view,
}
