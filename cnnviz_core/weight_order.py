"""A convolution's weights in the order that oneDNN computes in, kept for the sizes that it meets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

# Sizes of what is read for which weights are kept in order: tiles of a picture have up to four.
_MAX_SIZES = 4


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
    each of the last sizes. Equal inputs always meet equal orders, so that equal runs give equal numbers.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}
        self._lock = threading.Lock()

    def find(self, size: Hashable, arrange: Callable[[], Tensor]) -> Tensor:
        """The weights for a size, arranged now if they are not there."""
        found = self._kept.get(size)
        if found is None:
            found = arrange()
            with self._lock:
                self._kept[size] = found
                for old in list(self._kept)[:-_MAX_SIZES]:
                    del self._kept[old]
        return found

    @property
    def kept_bytes(self) -> int:
        """Memory of the rearranged weights."""
        with self._lock:
            return sum(tensor.numel() * tensor.element_size() for tensor in self._kept.values())
