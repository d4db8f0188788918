"""A convolution with fixed weights on a CPU, in less time: forward, and back to what it read.

PyTorch's own takes the weights in one order and rearranges them at every call, forward and back, into the one that
oneDNN computes in. Here that one is kept, for each way and for the last sizes of what is read. The activation that
follows is applied as the convolution writes. Going back is a transposed convolution, but for two kinds: a kernel that
reads the few channels of a picture goes back as several convolutions side by side, one for each place within a step,
and in half precision one for single channels as a convolution with the kernel turned round. Where a gradient is wanted,
3x3 kernels of many channels take fewer multiplications (:mod:`cnnviz_core.winograd`); scores by themselves do not, as
they would be rounded more coarsely.

The operators are private ones of PyTorch; where they are missing, :data:`IS_THERE` is false and nothing here is used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode

from cnnviz_core.weight_order import Ordered, arranged
from cnnviz_core.winograd import Winograd

_OPERATORS = (
    (torch.ops.mkldnn, "_convolution_pointwise"),
    (torch.ops.mkldnn, "_convolution_transpose_pointwise"),
    (torch.ops.mkldnn, "_reorder_convolution_transpose_weight"),
    (torch._C._nn, "mkldnn_reorder_conv2d_weight"),
)
IS_THERE = all(hasattr(place, name) for place, name in _OPERATORS)

# Sizes of what is read for which weights are kept in order, each way: tiles of a picture have up to four.
_MAX_SIZES = 4

# Of a tensor to which an activation has been applied: of which type, and the tensor's version then, before anything was
# added in place.
_MARK = "_cnnviz_is_activated"

# Of an activation which its author had overwrite what it reads.
WAS_IN_PLACE = "_cnnviz_was_in_place"

# Going back side by side: up to so many outputs of a kernel longer than two steps; else a transposed one is faster.
_FEW_CHANNELS = 16


@dataclass(frozen=True)
class _Activation:
    """An activation that a convolution can apply.

    Attributes:
        name: What oneDNN calls it.
        numbers: Its parameters there.
        bounds: Where it cuts off, if that is all it does. Then what it put out tells the way back, and applying it
            twice changes nothing.
    """

    name: str
    numbers: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None

    def back(self, gradient: Tensor, y: Tensor | None) -> Tensor:
        """From the gradient and what the activation put out to the gradient before it."""
        if y is None or self.bounds is None:
            return gradient
        result: Tensor = torch.ops.aten.hardtanh_backward.default(gradient, y, *self.bounds)
        return result


_EVERYTHING = (-math.inf, math.inf)

_NONE = _Activation("none", bounds=_EVERYTHING)
ACTIVATIONS: Mapping[type[nn.Module], _Activation] = {
    nn.ReLU: _Activation("relu", bounds=(0.0, math.inf)),
    nn.ReLU6: _Activation("hardtanh", (0.0, 6.0), (0.0, 6.0)),
    nn.SiLU: _Activation("swish"),
    nn.Hardswish: _Activation("hardswish"),
}


def fits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a :class:`Convolution` can take a module's place."""
    if not IS_THERE or not isinstance(conv, nn.Conv2d) or "weight" not in conv._parameters:
        return False
    if conv.padding_mode != "zeros" or not _can_compute_in(conv.weight.dtype):
        return False
    if conv.in_channels == 1 and conv.stride[0] == 1 < conv.stride[1]:
        return False  # with weights in order the operator reads astray where it puts out one column
    if type(conv) is nn.Conv2d:
        return not isinstance(conv.padding, str)
    return type(conv).__name__ == "Conv2dSame" and conv.dilation == (1, 1)  # timm's


def _can_compute_in(dtype: torch.dtype) -> bool:
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def may_overwrite(module: nn.Module) -> bool:
    """Whether a module is a ReLU that the author of the network had overwrite what it reads."""
    return type(module) is nn.ReLU and getattr(module, WAS_IN_PLACE, False)


class Convolution(nn.Module):
    """Gives what a convolution gives, or what that and an activation give.

    Where the convolution pads its input itself so that sizes stay, with one row and column more at the far side if need
    be, as TensorFlow does, a kernel with a first row and column of zeros does the same without a padded copy.

    Args:
        conv: One that :func:`fits`; its weights are read here and shared.
        then: An activation of a type in :data:`ACTIVATIONS`, or None.
    """

    def __init__(self, conv: nn.Conv2d, then: nn.Module | None = None) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias  # to be counted, and for whoever looks
        self._then = then
        self._padding = [int(rows) for rows in conv.padding]
        self._kernel = _Kernel.of(conv, conv.weight)
        self._wider = _Kernel.of(conv, F.pad(conv.weight, (1, 0, 1, 0))) if type(conv) is not nn.Conv2d else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) of inputs (N, C', H, W)."""
        x, kernel, padding = self._fitted(x)
        kernel.check(x, padding)
        is_graph = torch.is_grad_enabled() and x.requires_grad
        activation = ACTIVATIONS[type(self._then)] if self._then is not None else _NONE
        # A mode changes what activations do.
        if (is_graph and activation.bounds is None) or _get_current_function_mode() is not None:
            activation = _NONE
        if is_graph:
            result: Tensor = _ThereAndBack.apply(x, kernel, padding, activation)  # type: ignore[no-untyped-call]
        else:
            result = kernel.ahead(x, padding, activation)
        if self._then is not None:
            result = self._then(result) if activation is _NONE else result
            if not result.is_inference():
                setattr(result, _MARK, (type(self._then), result._version))
        return result

    def _fitted(self, x: Tensor) -> tuple[Tensor, _Kernel, list[int]]:
        """Input, kernel and padding that give what the convolution gives."""
        if self._wider is None:
            return x, self._kernel, self._padding
        missing = [
            max((-(-side // stride) - 1) * stride + length - side, 0)
            for side, stride, length in zip(x.shape[2:], self._kernel.stride, self.weight.shape[2:], strict=True)
        ]
        kernel = self._kernel
        if all(rows % 2 for rows in missing):
            kernel = self._wider
        elif any(rows % 2 for rows in missing):
            x, missing = F.pad(x, (0, missing[1] % 2, 0, missing[0] % 2)), [rows - rows % 2 for rows in missing]
        return x, kernel, [(rows + 1) // 2 for rows in missing]

    def without_activation(self) -> Convolution:
        """The same convolution alone."""
        alone = copy.deepcopy(self, {id(self.weight): self.weight, id(self.bias): self.bias})
        alone._then = None
        return alone

    @property
    def kernels(self) -> tuple[_Kernel, ...]:
        """What it computes with, which copies of it share."""
        return tuple(kernel for kernel in (self._kernel, self._wider) if kernel is not None)


class Follower(nn.Module):
    """An activation of several places, which lets pass what a convolution has applied it to.

    Where it :func:`may_overwrite` what it reads it does, but under a mode or at the start of a graph.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self._activation = activation
        self._overwrites = may_overwrite(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of its input."""
        if not x.is_inference() and getattr(x, _MARK, None) == (type(self._activation), x._version):
            return x
        is_start = x.is_leaf and x.requires_grad
        if self._overwrites and not is_start and _get_current_function_mode() is None:
            return torch.relu_(x)
        result: Tensor = self._activation(x)
        return result


class _ThereAndBack(torch.autograd.Function):
    """A kernel's two ways as one step of a graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: _Kernel, padding: list[int], activation: _Activation) -> Tensor:
        y = kernel.nearly_ahead(x, padding, activation)
        ctx.settings = kernel, padding, activation
        ctx.save_for_backward(x, None if activation is _NONE else y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel, padding, activation = ctx.settings
        x, y = ctx.saved_tensors
        return kernel.back(activation.back(gradient, y), x, padding), None, None, None


class _Kernel:
    """Weights for both ways. Shared by all copies of a module."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
    ) -> None:
        self.weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.detach()
        self.stride, self.dilation, self.groups = list(stride), list(dilation), groups
        self._sides = weight.shape[2], weight.shape[3]
        step = self.stride[0]
        self._is_woven = (
            self.stride == [step, step]
            and self.dilation == [1, 1]
            and groups == 1
            and weight.shape[1] * step * step <= _FEW_CHANNELS
            and min(self._sides) > 2 * step
        )
        # In half precision a transposed convolution is several times as slow for single channels.
        self._is_turned = weight.dtype is torch.bfloat16 and weight.shape[0] == groups and weight.shape[1] == 1
        self._ahead, self._back, self._side_by_side = (Ordered(_MAX_SIZES) for _ in range(3))
        self._winograd_ahead = self._winograd_back = None
        is_three_by_three = (*self._sides, *self.stride, *self.dilation, groups) == (3, 3, 1, 1, 1, 1, 1)
        if is_three_by_three and weight.dtype is torch.float32:
            self._winograd_ahead = Winograd(self.weight, self.bias)
            self._winograd_back = Winograd(self.weight, is_back=True)

    @classmethod
    def of(cls, conv: nn.Conv2d, weight: Tensor) -> _Kernel:
        """That of a convolution, with a weight in place of its own."""
        return cls(weight, conv.bias, conv.stride, conv.dilation, conv.groups)

    def __deepcopy__(self, _memo: object) -> _Kernel:
        return self

    @property
    def kept_bytes(self) -> int:
        """Memory of the rearranged weights."""
        kept = self._ahead, self._back, self._side_by_side, self._winograd_ahead, self._winograd_back
        return sum(weights.kept_bytes for weights in kept if weights is not None)

    def check(self, x: Tensor, padding: list[int]) -> None:
        """Passes where the kernel fits into the input; else PyTorch says in its words that it does not.

        Raises:
            RuntimeError: It does not.
        """
        for side, pad, step, length in zip(x.shape[2:], padding, self.dilation, self._sides, strict=True):
            if side + 2 * pad < step * (length - 1) + 1:
                F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def ahead(self, x: Tensor, padding: list[int], activation: _Activation) -> Tensor:
        """(N, C, h, w) of inputs (N, C', H, W)."""
        geometry = padding, self.stride, self.dilation, self.groups
        weight = self._ahead.find(x.shape, lambda: arranged(self.weight, x.shape, *geometry))
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
            x, weight, self.bias, *geometry, activation.name, activation.numbers, ""
        )
        return result

    def nearly_ahead(self, x: Tensor, padding: list[int], activation: _Activation) -> Tensor:
        """The same, rounded more coarsely where that is faster."""
        if self._winograd_ahead is not None and activation.bounds is not None and self._winograd_ahead.pays(x, padding):
            return self._winograd_ahead(x, padding, activation.bounds)
        return self.ahead(x, padding, activation)

    def back(self, gradient: Tensor, x: Tensor, padding: list[int]) -> Tensor:
        """The gradient on the inputs x, (N, C', H, W), from that on the outputs, (N, C, h, w)."""
        if self._is_woven:
            return self._woven(gradient, x, padding)
        inside = [2 - pad for pad in padding]
        if self._winograd_back is not None and self._winograd_back.pays(gradient, inside):
            return self._winograd_back(gradient, inside, _EVERYTHING)
        by_ones = [  # rows and columns that steps of one would have put out
            side + 2 * pad - dilation * (length - 1)
            for side, pad, dilation, length in zip(x.shape[2:], padding, self.dilation, self._sides, strict=True)
        ]
        around = [step * (side - 1) - pad for step, side, pad in zip(self.dilation, self._sides, padding, strict=True)]
        if self._is_turned and min(around) >= 0:
            return self._turned(gradient, by_ones, around)
        unread = [(side - 1) % step for side, step in zip(by_ones, self.stride, strict=True)]  # after the last step
        geometry = padding, unread, self.stride, self.dilation, self.groups
        arrange = torch.ops.mkldnn._reorder_convolution_transpose_weight.default
        size = gradient.shape, *unread
        weight = self._back.find(size, lambda: arrange(self.weight, *geometry, list(gradient.shape)))
        result: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise.default(
            gradient, weight, None, *geometry, "none", [], ""
        )
        return result

    def _turned(self, gradient: Tensor, by_ones: list[int], around: list[int]) -> Tensor:
        """Back through single channels: forward with the kernel turned round, and zeros between for larger steps."""
        if self.stride != [1, 1]:
            spread = torch.empty(
                (*gradient.shape[:2], *by_ones), dtype=gradient.dtype, memory_format=torch.channels_last
            )
            spread.zero_()[..., :: self.stride[0], :: self.stride[1]] = gradient
            gradient = spread
        geometry = around, [1, 1], self.dilation, self.groups
        weight = self._back.find(gradient.shape, lambda: arranged(self.weight.flip(2, 3), gradient.shape, *geometry))
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
            gradient, weight, None, *geometry, "none", [], ""
        )
        return result

    def _part(self) -> Tensor:
        """Weights for going back to few channels, (C' * step * step, C, h, w).

        Input y lies at place a of step q: y + padding = step * q + a. What reaches it is the sum over j of
        w[a + step * j] g[q - j], for each a a convolution of its own.
        """
        step = self.stride[0]
        rows, columns = (-(-side // step) * step for side in self._sides)
        whole = F.pad(self.weight, (0, columns - self._sides[1], 0, rows - self._sides[0]))
        parts: Tensor = whole.unflatten(3, (-1, step)).unflatten(2, (-1, step)).flip(2, 4)
        return parts.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C', a, b, C, j, i) with C', a, b as one

    def _woven(self, gradient: Tensor, x: Tensor, padding: list[int]) -> Tensor:
        """Back to few channels: the places within a step side by side, then woven together."""
        step = self.stride[0]
        around = [-(-side // step) - 1 for side in self._sides]
        geometry = around, [1, 1], [1, 1], 1
        weight = self._side_by_side.find(gradient.shape, lambda: arranged(self._part(), gradient.shape, *geometry))
        found = torch.ops.mkldnn._convolution_pointwise.default(gradient, weight, None, *geometry, "none", [], "")
        (top, left), (height, width) = padding, x.shape[2:]
        woven = F.pixel_shuffle(found, step)[..., top : top + height, left : left + width]
        rows, columns = height - woven.shape[2], width - woven.shape[3]
        return F.pad(woven, (0, columns, 0, rows)) if rows or columns else woven
