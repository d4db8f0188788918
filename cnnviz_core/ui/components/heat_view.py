"""One picture with one map over it: what a layer, a class or a method says about each place.

The browser gets the raw float32 values and colours them itself, so that the value under the pointer is the true one,
not one read back from a colour, and opacity, interpolation and hover need no answer from the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core.results import FloatArray
from cnnviz_core.ui.components import clicks, packing

_view = packing.register("heat_view", "numerals", "controls", "colour_bar")

Box = tuple[float, float, float, float]
_THOUSANDTHS = 1000
_WHOLE: Box = (0, 0, 1, 1)


def show(
    picture: bytes,
    values: FloatArray | None,
    *,
    key: str,
    aria: str,
    low: float = 0.0,
    high: float = 1.0,
    lut: NDArray[np.uint8] | None = None,
    unit: str = "",
    opacity: float = 0.6,
    smooth: bool = False,
    cell: tuple[int, int] | None = None,
    clickable: bool = False,
    follow: bool = False,
    drawable: bool = False,
    boxes: Mapping[str, Box] | None = None,
    window: Box = _WHOLE,
    max_px: int = 512,
    on_cell: Callable[[tuple[int, int]], None] | None = None,
    on_box: Callable[[Box], None] | None = None,
) -> tuple[int, int] | None:
    """The cell (row, column) that was clicked just now, else ``cell``.

    Colours are those of :func:`cnnviz_core.render.colourise`: a value takes level ``floor(254 t + 0.5)`` with
    ``t = (value - low) / (high - low)`` clamped to 0..1. Only what is not a finite number stays transparent, so that
    the picture shows through. A map without any finite value has no colours, yet its cells can be pointed at.

    Args:
        picture: PNG or JPEG of what the map covers, or of more; see ``window``.
        values: (h, w) float32, raw; None for the picture alone.
        key: Unique on the page.
        aria: What is to be seen, for screen readers.
        low: Value of the first colour.
        high: Value of the last colour; not below ``low``.
        lut: (256, 3) uint8 as in :class:`cnnviz_core.render.ColourMap`: rows 0..254 are the levels; row 255, the
            colour of missing values, is not used. Needed with values.
        unit: What the values are, such as "activation".
        opacity: How much of the map is seen at first, 0..1; what the user sets with the slider stays.
        smooth: Bilinear interpolation of the values (cell centres at half steps), coloured afterwards; else flat cells.
        cell: The pinned cell. It wins over an older click in the browser.
        clickable: Whether a click pins a cell and makes the page run.
        follow: Whether the pinned cell also follows a pressed pointer; needs ``clickable``.
        drawable: Whether a rectangle can be drawn: dragged, or stretched with Shift and the arrow keys, then Enter.
        boxes: Rectangles to outline, by name: (top, left, bottom, right) as shares of what the map covers, 0..1. Those
            whose name begins with "above" are dashed.
        window: What the map covers: (top, left, bottom, right) as shares of the picture. It may reach outside, which
            is not seen. The rest of the picture is dimmed, and has no cells.
        max_px: Displayed size of the picture's longer side; less where the page is narrower.
        on_cell: Called with the clicked cell before the page runs again, the place to set session state.
        on_box: Likewise with the drawn rectangle, as in ``boxes``.

    Returns:
        Row and column of a cell, 0-based.

    Raises:
        TypeError: An argument of another type.
        ValueError: An argument of another shape or out of range, or a window that holds nothing of the picture.
    """
    media_type, width, height = packing.picture_info(picture)
    rows, columns = _checked_map(values, lut, low, high)
    if not 0 <= opacity <= 1 or max_px < 1:
        raise ValueError("opacity lies between 0 and 1, max_px is 1 or more.")
    if cell is not None and not (0 <= cell[0] < rows and 0 <= cell[1] < columns):
        raise ValueError(f"A map of {rows} x {columns} has no cell {cell}.")
    if drawable and (clickable or follow):
        raise ValueError("A press either draws a rectangle or picks a cell, not both.")
    if clickable and values is None:
        raise ValueError("A picture without values has no cells to click.")
    _check_window(window)

    def report() -> None:
        clicked = clicks.unanswered(key, (rows, columns))
        if clicked is not None and on_cell is not None:
            on_cell((clicked[0], clicked[1]))
        drawn = clicks.unanswered(key, (_THOUSANDTHS + 1,) * 4)
        if drawn is not None and on_box is not None:
            top, left, bottom, right = (edge / _THOUSANDTHS for edge in drawn)
            on_box((top, left, bottom, right))

    with st.container(gap=None):
        header = {
            "picture": packing.send(picture, key=f"{key}.picture"),
            "type": media_type,
            "size": [width, height],
            "values": None if values is None else packing.send(values.astype("<f4").tobytes(), key=f"{key}.values"),
            "shape": [rows, columns],
            "low": low,
            "high": high,
            "unit": unit,
            "opacity": opacity,
            "smooth": smooth,
            "cell": cell,
            "clickable": clickable,
            "follow": follow,
            "drawable": drawable,
            "boxes": [[name, [_THOUSANDTHS * edge for edge in box]] for name, box in (boxes or {}).items()],
            "window": window,
            "maxPx": max_px,
            "aria": aria,
            "key": key,
            "answers": clicks.stamp(key),
        }
        _view(key=key, data=packing.pack(header, b"" if lut is None else lut.tobytes()), on_click_change=report)
    clicked = clicks.unanswered(key, (rows, columns))
    clicks.answer(key)
    return cell if clicked is None else (clicked[0], clicked[1])


def _checked_map(values: FloatArray | None, lut: NDArray[np.uint8] | None, low: float, high: float) -> tuple[int, int]:
    """Rows and columns of the map, 0 and 0 without one."""
    if values is None:
        return 0, 0
    if not isinstance(values, np.ndarray) or values.dtype != np.float32:
        raise TypeError("values is a float32 array.")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"values has two axes and at least one cell, not shape {values.shape}.")
    if not isinstance(lut, np.ndarray) or lut.dtype != np.uint8:
        raise TypeError("lut is a uint8 array.")
    if lut.shape != (256, 3):
        raise ValueError(f"lut has shape (256, 3), not {lut.shape}.")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"low and high are finite and in order, not {low} and {high}.")
    rows, columns = values.shape
    return rows, columns


def _check_window(window: Box) -> None:
    if len(window) != len(_WHOLE) or not all(map(math.isfinite, window)):
        raise ValueError(f"window is four finite numbers, not {window}.")
    top, left, bottom, right = window
    if not (top < bottom and left < right):
        raise ValueError(f"window is top, left, bottom, right, each pair in order, not {window}.")
    if bottom <= 0 or right <= 0 or top >= 1 or left >= 1:
        raise ValueError(f"The window {window} misses the picture, which reaches from 0 to 1.")
