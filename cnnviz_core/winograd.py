"""A 3x3 convolution with a quarter of the multiplications.

A square of 6 x 6 inputs gives 4 x 4 outputs. Inputs and kernel are taken apart into their values at 36 points, where a
convolution is one product a point; so all squares meet all kernels in 36 products of matrices, which are one 1x1
convolution of 36 groups. From these values the outputs are put together. The ways to the points and back cost memory
rather than multiplications, so it pays for many channels only.

It is for where :mod:`cnnviz_core.convolution` has the operators of PyTorch that it needs.

When it misleads: numbers are rounded six to ten times as coarsely as by a plain convolution, to 1e-5 of the largest; so
is the bias, which goes by the points, too.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), F(4 x 4, 3 x 3); on the points,
Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution (2020).
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core.weight_order import Ordered, arranged

# Outputs and inputs along a square's side.
_OUTPUTS, _INPUTS = 4, 6

# Squares taken at once, at least, where there are so many: enough for the products to be quick, and few enough for the
# processor's caches.
_NUM_SQUARES = 256

# Numbers of 4 bytes that a thread keeps room for, twice; a large picture of many channels takes more, for the moment.
_MAX_KEPT = 1 << 23

# Below so many channels, or so many values at a point, a plain convolution is as fast.
_MIN_CHANNELS = 128
_MIN_VALUES = 8192

# Fewer pictures than these come in many sizes, as those of a dream do. For each new one the kernels are arranged anew.
_MIN_PICTURES = 4
_MAX_SIZES = 2

_local = threading.local()

# Where polynomials with inputs and kernel as coefficients are multiplied, beside infinity. The usual 0, 1, -1, 2 and -2
# round twice as coarsely.
_POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)


def _both_ways(matrix: Tensor) -> Tensor:
    """What a matrix does along rows and along columns, as one matrix for squares read row by row."""
    return torch.kron(matrix, matrix)


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """From inputs to points, (36, 36), from the kernel to points, (36, 9), and from points to outputs, (16, 36).

    With powers of the points, infinity as the last, in the columns of A and the rows of G, output i of a row is the sum
    over points p of A[i, p] (G k)[p] (B x)[p]; B is what makes of it the sum over j of k[j] x[i + j].
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    a, g = (F.pad(points[None] ** torch.arange(n)[:, None], (0, 1)) for n in (_OUTPUTS, 3))
    a[-1, -1] = g[-1, -1] = 1.0
    products = (a[:, None] * g).flatten(0, 1)  # (12, 6): output i, kernel j
    wanted = torch.stack([torch.eye(_INPUTS, dtype=torch.float64)[i + j] for i in range(_OUTPUTS) for j in range(3)])
    b = torch.linalg.lstsq(products, wanted).solution
    return _both_ways(b).float(), _both_ways(g.T.contiguous()).float(), _both_ways(a).float()


_INPUTS_TO_POINTS, _KERNEL_TO_POINTS, _POINTS_TO_OUTPUTS = _matrices()
_ONE_AT_POINTS = torch.linalg.pinv(_POINTS_TO_OUTPUTS.double()).sum(1).float()  # what gives 1 at all outputs
_GEOMETRY = [0, 0], [1, 1], [1, 1], _INPUTS**2  # no padding, steps of one, groups


class Winograd:
    """Gives what a 3x3 convolution in steps of one gives, nearly, or what goes back through it.

    Args:
        weight: (C, C', 3, 3), on a CPU, in single precision.
        bias: (C,), or None.
        is_back: Whether it takes gradients on the outputs to those on the inputs, with C and C' in each other's place.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, is_back: bool = False) -> None:
        self._weight, self._is_back = weight, is_back
        self._num_outputs, self._num_inputs = reversed(weight.shape[:2]) if is_back else weight.shape[:2]
        self._bias = None if bias is None else torch.outer(_ONE_AT_POINTS, bias).flatten()
        self._kernels = Ordered(_MAX_SIZES)

    def _kernels_at_points(self, num_squares: int) -> Tensor:
        """Those of a convolution that reads the points as groups of channels, in the order for so many squares."""

        def arrange() -> Tensor:
            weight = self._weight.flip(2, 3).transpose(0, 1) if self._is_back else self._weight
            kernels = _KERNEL_TO_POINTS @ weight.permute(2, 3, 0, 1).reshape(9, -1)
            kernels = kernels.view(-1, self._num_inputs, 1, 1)
            return arranged(kernels, (1, _INPUTS**2 * self._num_inputs, 1, num_squares), *_GEOMETRY)

        return self._kernels.find(num_squares, arrange)

    @property
    def kept_bytes(self) -> int:
        """Memory of the kernels at the points, once they are there."""
        return self._kernels.kept_bytes

    def pays(self, x: Tensor, padding: list[int]) -> bool:
        """Whether it is faster than a plain convolution for inputs (N, C', H, W), once its kernels are arranged."""
        rows, columns = _num_squares(x, padding)
        num_channels = min(self._num_inputs, self._num_outputs)
        are_many = len(x) >= _MIN_PICTURES and len(x) * rows * columns * num_channels >= _MIN_VALUES
        return are_many and num_channels >= _MIN_CHANNELS

    def __call__(self, x: Tensor, padding: list[int], bounds: tuple[float, float]) -> Tensor:
        """(N, C, h, w) of inputs (N, C', H, W), cut off at the bounds."""
        height, width = (side + 2 * pad - 2 for side, pad in zip(x.shape[2:], padding, strict=True))
        y = torch.empty((len(x), self._num_outputs, height, width), memory_format=torch.channels_last)
        num_parts = max(len(x) * math.prod(_num_squares(x, padding)) // _NUM_SQUARES, 1)
        for some, found in zip(x.chunk(num_parts), y.chunk(num_parts), strict=True):
            self._write(some, padding, bounds, found)
        return y

    def _write(self, x: Tensor, padding: list[int], bounds: tuple[float, float], y: Tensor) -> None:
        rows, columns = _num_squares(x, padding)
        num_squares = len(x) * rows * columns
        one, other = _scratch(_INPUTS**2 * num_squares * max(self._num_inputs, self._num_outputs))
        squares = _first(one, len(x), rows, columns, _INPUTS, _INPUTS, self._num_inputs)
        squares.copy_(_squares(x, padding, rows, columns))
        values = _first(other, num_squares, _INPUTS**2, self._num_inputs)
        torch.bmm(_INPUTS_TO_POINTS.expand(num_squares, -1, -1), squares.view(values.shape), out=values)
        products = torch.ops.mkldnn._convolution_pointwise.default(
            values.view(1, 1, num_squares, -1).permute(0, 3, 1, 2),
            self._kernels_at_points(num_squares),
            self._bias,
            *_GEOMETRY,
            "none",
            [],
            "",
        )
        products = products.permute(0, 2, 3, 1).view(num_squares, _INPUTS**2, self._num_outputs)
        outputs = _first(one, num_squares, _OUTPUTS**2, self._num_outputs)
        torch.bmm(_POINTS_TO_OUTPUTS.expand(num_squares, -1, -1), products, out=outputs)
        outputs = outputs.view(len(x), rows, columns, _OUTPUTS, _OUTPUTS, -1).transpose(2, 3)
        y = y.permute(0, 2, 3, 1)
        if y.shape[1] % _OUTPUTS or y.shape[2] % _OUTPUTS:
            outputs = outputs.flatten(3, 4).flatten(1, 2)[:, : y.shape[1], : y.shape[2]]
        else:
            y = y.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))
        torch.clamp(outputs, *bounds, out=y)


def _num_squares(x: Tensor, padding: list[int]) -> tuple[int, int]:
    """Of one picture, down and across."""
    rows, columns = (math.ceil((side + 2 * pad - 2) / _OUTPUTS) for side, pad in zip(x.shape[2:], padding, strict=True))
    return rows, columns


def _squares(x: Tensor, padding: list[int], rows: int, columns: int) -> Tensor:
    """The inputs of every square, (N, rows, columns, 6, 6, C'), as a view of padded ones."""
    height, width = (_OUTPUTS * num + 2 for num in (rows, columns))
    (top, left), (_, num_channels, *sides) = padding, x.shape
    around = (0, 0, left, width - left - sides[1], top, height - top - sides[0])
    padded = F.pad(x.permute(0, 2, 3, 1), around)
    of_picture, down, across, of_channel = padded.stride()
    strides = of_picture, _OUTPUTS * down, _OUTPUTS * across, down, across, of_channel
    return padded.as_strided((len(x), rows, columns, _INPUTS, _INPUTS, num_channels), strides)


def _scratch(num: int) -> tuple[Tensor, Tensor]:
    """Memory for two times so many numbers, the same at every call of a thread: what the caches hold is quicker."""
    found = getattr(_local, "scratch", None)
    if found is None or len(found[0]) < num:
        with torch.inference_mode(mode=False):  # else it could be written to in that mode only
            found = torch.empty(num), torch.empty(num)
        if num <= _MAX_KEPT:
            _local.scratch = found
    return found


def _first(memory: Tensor, *shape: int) -> Tensor:
    return memory[: math.prod(shape)].view(shape)
