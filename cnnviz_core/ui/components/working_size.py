"""The size at which browser and server agree on a mask: every pixel of a small picture, fewer of a large one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LONGEST_PX = 512

# Rounding to whole pixels may change the proportions by so much.
_MOST_DISTORTION = 0.01


def of(width: int, height: int) -> tuple[int, int]:
    """Height and width of the masks of a picture: in its proportions, the longer side at most LONGEST_PX."""
    longer, shorter = max(width, height), min(width, height)
    if longer <= LONGEST_PX:
        return height, width

    def distortion(px: int) -> float:
        exact = shorter * px / longer
        return abs(max(1, round(exact)) / exact - 1)

    sides = range(LONGEST_PX, LONGEST_PX // 4, -1)
    side = next((px for px in sides if distortion(px) < _MOST_DISTORTION), min(sides, key=distortion))
    return max(1, round(height * side / longer)), max(1, round(width * side / longer))


def coverage(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """How much of each pixel of another size a mask covers, by area, 0..255.

    Args:
        mask: (H, W).
        shape: Height and width of the result.

    Raises:
        TypeError: Not an array of true and false.
        ValueError: Not two axes, or empty.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError("A mask is an array of true and false.")
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"A mask has two axes and at least one pixel, not shape {mask.shape}.")
    if mask.shape == shape:
        return mask.astype(np.uint8) * np.uint8(255)
    shares = _means(_means(mask.astype(np.float32), shape[0]).T, shape[1]).T
    return np.rint(255 * shares).astype(np.uint8)


def _means(rows: NDArray[np.float32], num: int) -> NDArray[np.float32]:
    """As many rows as asked for, each the mean over its part of the old ones."""
    edges = np.arange(num + 1) * len(rows) / num
    whole = np.minimum(edges.astype(np.intp), len(rows) - 1)
    above = np.concatenate([np.zeros_like(rows[:1]), np.cumsum(rows, axis=0)])
    up_to_edges = above[whole] + (edges - whole)[:, None].astype(np.float32) * rows[whole]
    means: NDArray[np.float32] = np.diff(up_to_edges, axis=0) * np.float32(num / len(rows))
    return means
