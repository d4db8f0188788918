"""A convolution's weights in the order that oneDNN computes in, kept for the sizes that it meets."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


def arranged(weight: Tensor, size: Sequence[int], *geometry: object) -> Tensor:
    """Weights (C, C', h, w) in the order that the processor wants for inputs of a size (N, C', H, W).

    Args:
        weight: In PyTorch's order.
        size: Of the inputs.
        geometry: Padding, stride, dilation and groups.
    """
    arrange: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
    return arrange(weight.contiguous().to_mkldnn(), *geometry, list(size))


class Ordered:
    """Weights in the order that the processor wants.

    The best order depends on the size of what is read, and another one can be many times as slow; so there is one for
    each of the sizes that were met last. Equal inputs always meet equal orders, so that equal runs give equal numbers.

    Args:
        max_sizes: For how many sizes.
    """

    def __init__(self, max_sizes: int) -> None:
        self._max_sizes = max_sizes
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, size: Hashable, arrange: Callable[[], Tensor]) -> Tensor:
        """The weights for a size, arranged now if they are not there."""
        with self._lock:
            if size in self._kept:
                self._kept.move_to_end(size)
                return self._kept[size]
        found = arrange()  # threads that need it at once arrange it each, rather than wait
        with self._lock:
            self._kept[size] = found
            while len(self._kept) > self._max_sizes:
                self._kept.popitem(last=False)
        return found

    @property
    def kept_bytes(self) -> int:
        """Memory of the rearranged weights."""
        with self._lock:
            return sum(tensor.numel() * tensor.element_size() for tensor in self._kept.values())
