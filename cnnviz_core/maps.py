"""Maps: one value for each place of what a network sees, however coarse.

A map of h x w values covers the whole crop; each value stands for a cell, and the value belongs to the cell's centre.
Values that are not a number are places that were not looked at.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnviz_core.errors import BadSetting

FloatArray = NDArray[np.float32]

# A map that varies by less than this share of its largest magnitude varies by rounding.
_ROUNDING = 1e-5


class HasMap(Protocol):
    """A result with one value for each place: Heatmap, Attribution, Occlusion."""

    @property
    def map(self) -> FloatArray:
        """(h, w)."""
        ...


MapLike = HasMap | NDArray[np.floating[Any]]


def read(source: MapLike) -> FloatArray:
    """The map of a result, or the array itself, (h, w).

    Raises:
        BadSetting: Not two-dimensional, infinite somewhere, or without any number.
    """
    values = np.asarray(source if isinstance(source, np.ndarray) else source.map, dtype=np.float32)
    if values.ndim != 2 or not values.size:
        raise BadSetting(f"The map has shape {values.shape}; give one value per place, (height, width).")
    if np.isinf(values).any():
        raise BadSetting("The map holds infinite values, as after an overflow; choose another method or layer.")
    if np.isnan(values).all():
        raise BadSetting("The map holds no number at all; compute it anew, or choose another method.")
    return values


def sample(values: FloatArray, rows: NDArray[Any], columns: NDArray[Any]) -> FloatArray:
    """Bilinear interpolation of a map on a grid of places.

    Args:
        values: (h, w); what is not a number takes no part.
        rows: (P,) vertical places in cells; 0 is the first cell's centre. Beyond the last centres the map goes on flat.
        columns: (Q,) horizontal places.

    Returns:
        (P, Q); not a number where less than half of what would count is known.
    """
    known = np.isfinite(values)
    down, across = _shares(rows, values.shape[0]), _shares(columns, values.shape[1])
    total = down @ np.where(known, values, 0) @ across.T
    if not known.all():
        weight = down @ known @ across.T
        total = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight >= 0.5)
    return total.astype(np.float32)


def resize(values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """A map at another size, (h, w) to (H, W), bilinearly; corners of cells stay where they are."""
    rows, columns = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(shape, values.shape, strict=True))
    return values if values.shape == shape else sample(values, rows, columns)


def is_flat(values: NDArray[Any]) -> bool:
    """Whether the known values differ by rounding only."""
    known = values[np.isfinite(values)]
    return not known.size or bool(np.ptp(known) <= _ROUNDING * np.abs(known).max())


def _shares(places: NDArray[Any], num_cells: int) -> NDArray[np.float64]:
    """(P, num_cells): how much each cell counts at each place."""
    inside = np.clip(places, 0, num_cells - 1)
    shares: NDArray[np.float64] = np.maximum(0, 1 - np.abs(inside[:, None] - np.arange(num_cells)))
    return shares
