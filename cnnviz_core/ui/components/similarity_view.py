"""Pictures side by side, and how alike their places are to the one under the pointer.

The feature vectors of all cells go to the browser once, in whole numbers. The dot products are taken there, so that
the heat maps follow the pointer without a word to the server; only a pinned origin makes the page run. The page may
then send the exact values, which replace the browser's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core.results import FloatArray, Packed
from cnnviz_core.ui.components import clicks, packing

_SCRIPTS = tuple(f"similarity_view_{part}" for part in ("vectors", "pane", "lines"))
_view = packing.register("similarity_view", "numerals", *_SCRIPTS, "controls", "colour_bar")

Join = Literal["mean", "max"]
Place = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Pictured:
    """A picture and the vectors of its cells, which cover all of it.

    Attributes:
        picture: PNG or JPEG.
        packed: One vector for each cell.
        name: Written above the picture.
    """

    picture: bytes
    packed: Packed
    name: str


@dataclass(frozen=True)
class Origin:
    """What the similarity of all other cells is measured to.

    Attributes:
        picture: Which picture, 0-based.
        cells: Row and column of one cell, or of several that were brushed.
    """

    picture: int
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Line:
    """Two cells of different pictures that belong together.

    Attributes:
        start: Picture, row and column.
        end: Likewise.
        similarity: Lines of greater similarity are drawn stronger.
    """

    start: Place
    end: Place
    similarity: float


def show(
    pictures: Sequence[Pictured],
    *,
    key: str,
    aria: str,
    lut: NDArray[np.uint8],
    low: float = -1.0,
    high: float = 1.0,
    pinned: Origin | None = None,
    join: Join = "mean",
    exact: Mapping[int, FloatArray] | None = None,
    lines: Sequence[Line] = (),
    smooth: bool = False,
    opacity: float = 0.6,
    max_px: int = 420,
    on_pin: Callable[[Origin | None], None] | None = None,
) -> Origin | None:
    """The origin that was pinned just now, or None where the pin was taken away just now; else ``pinned``.

    Every picture but the origin's own shows how alike its cells are. While one points elsewhere in the pinned picture,
    the maps preview that cell; while one points at another picture, its value is read, and the pinned picture shows in
    turn what is alike to the cell under the pointer.

    Args:
        pictures: The query first, then what it is compared with; all vectors of equal length. For self-similarity the
            same picture twice.
        key: Unique on the page.
        aria: What is to be seen, for screen readers.
        lut: (256, 3) uint8 as in :class:`cnnviz_core.render.ColourMap`: rows 0..254 are the levels.
        low: Similarity of the first colour. In the browser the colours can be stretched to what is shown instead.
        high: Similarity of the last colour; not below ``low``.
        pinned: The origin that stays when nothing is pointed at. It wins over an older pin in the browser.
        join: The similarity to several cells: "mean" of, or "max" over, the similarities to each.
        exact: For pictures by their number the exact similarity to ``pinned``, (h, w) float32, in place of what the
            browser finds.
        lines: Strongest first. Drawn between neighbouring pictures; where the two are apart, both ends are numbered.
        smooth: Bilinear interpolation of the values, coloured afterwards; else flat cells.
        opacity: How much of the maps is seen at first, 0..1; what the user sets with the slider stays.
        max_px: Displayed size of a picture's longer side; less where there is no room.
        on_pin: Called with what was pinned before the page runs again, the place to set session state.

    Raises:
        TypeError: An argument of another type.
        ValueError: An argument of another shape or out of range.
    """
    media = [packing.picture_info(each.picture) for each in pictures]
    grids = [each.packed.cells for each in pictures]
    _check_pictures(pictures)
    _check_colours(lut, low, high)
    if not 0 <= opacity <= 1 or max_px < 1:
        raise ValueError("opacity lies between 0 and 1, max_px is 1 or more.")
    if join not in ("mean", "max"):
        raise ValueError(f"Several cells are joined by mean or max, not by {join!r}.")
    _check_places(pinned, lines, grids)
    _check_exact(exact or {}, pinned, grids)

    def report() -> None:
        told = _told(key, grids)
        if told is not None and on_pin is not None:
            on_pin(*told)

    with st.container(gap=None):
        header = {
            "pictures": [
                {
                    "picture": packing.send(each.picture, key=f"{key}.picture{at}"),
                    "type": media_type,
                    "size": [width, height],
                    "vectors": packing.send(_packed_vectors(each.packed), key=f"{key}.vectors{at}"),
                    "cells": list(each.packed.cells),
                    "bits": 8 * each.packed.values.itemsize,
                    "name": each.name,
                }
                for at, (each, (media_type, width, height)) in enumerate(zip(pictures, media, strict=True))
            ],
            "exact": {
                str(at): packing.send(values.astype("<f4").tobytes(), key=f"{key}.exact{at}")
                for at, values in (exact or {}).items()
            },
            "error": max(each.packed.error for each in pictures),
            "pinned": pinned and {"picture": pinned.picture, "cells": _indices(pinned, grids)},
            "lines": [[*line.start, *line.end, line.similarity] for line in lines],
            "join": join,
            "low": low,
            "high": high,
            "smooth": smooth,
            "opacity": opacity,
            "maxPx": max_px,
            "aria": aria,
            "key": key,
            "answers": clicks.stamp(key, "pin"),
        }
        _view(key=key, data=packing.pack(header, lut.tobytes()), on_pin_change=report)
    told = _told(key, grids)
    clicks.answer(key, "pin")
    return pinned if told is None else told[0]


def _told(key: str, grids: Sequence[tuple[int, int]]) -> tuple[Origin | None] | None:
    """What was pinned just now, None inside where the pin was taken away; None for nothing new."""
    sizes = [rows * columns for rows, columns in grids]
    chosen = clicks.unanswered_set(key, sum(sizes), name="pin")
    if not chosen:
        return None if chosen is None else (None,)
    starts = np.cumsum([0, *sizes])
    first, last = (int(at) for at in np.searchsorted(starts, (chosen[0], chosen[-1]), side="right") - 1)
    if first != last:
        return None
    columns = grids[first][1]
    return (Origin(first, tuple(divmod(index - int(starts[first]), columns) for index in chosen)),)


def _indices(origin: Origin, grids: Sequence[tuple[int, int]]) -> list[int]:
    """The cells counted row by row."""
    columns = grids[origin.picture][1]
    return [int(row * columns + column) for row, column in origin.cells]


def _packed_vectors(packed: Packed) -> bytes:
    little = packed.values.dtype.newbyteorder("<")
    return packed.scales.astype("<f4").tobytes() + packed.values.astype(little).tobytes()


def _check_pictures(pictures: Sequence[Pictured]) -> None:
    if len(pictures) < 2:
        raise ValueError("Two pictures or more are compared; for self-similarity give the same one twice.")
    for each in pictures:
        rows, columns = each.packed.cells
        if each.packed.values.dtype not in (np.int8, np.int16):
            raise TypeError(f"Packed vectors are int8 or int16, not {each.packed.values.dtype}.")
        shapes = (each.packed.values.shape[:-1], each.packed.scales.shape)
        if min(rows, columns) < 1 or shapes != 2 * ((rows * columns,),):
            raise ValueError(f"{each.name}: a grid of {rows} x {columns} needs one vector and one scale per cell.")
    lengths = {each.packed.values.shape[-1] for each in pictures}
    if len(lengths) > 1:
        raise ValueError(f"Vectors of {' and '.join(map(str, sorted(lengths)))} numbers cannot be compared.")


def _check_colours(lut: NDArray[np.uint8], low: float, high: float) -> None:
    if not isinstance(lut, np.ndarray) or lut.dtype != np.uint8:
        raise TypeError("lut is a uint8 array.")
    if lut.shape != (256, 3):
        raise ValueError(f"lut has shape (256, 3), not {lut.shape}.")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"low and high are finite and in order, not {low} and {high}.")


def _check_places(pinned: Origin | None, lines: Sequence[Line], grids: Sequence[tuple[int, int]]) -> None:
    places = [place for line in lines for place in (line.start, line.end)]
    if pinned is not None:
        if not pinned.cells:
            raise ValueError("An origin has one cell or more.")
        places += [(pinned.picture, row, column) for row, column in pinned.cells]
    for picture, row, column in places:
        if not 0 <= picture < len(grids):
            raise ValueError(f"There is no picture {picture} among {len(grids)}.")
        rows, columns = grids[picture]
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"A grid of {rows} x {columns} has no cell {(row, column)}.")
    if any(line.start[0] == line.end[0] or not math.isfinite(line.similarity) for line in lines):
        raise ValueError("A line goes from one picture to another and has a finite similarity.")


def _check_exact(exact: Mapping[int, FloatArray], pinned: Origin | None, grids: Sequence[tuple[int, int]]) -> None:
    if exact and pinned is None:
        raise ValueError("Exact values belong to a pinned origin.")
    for picture, values in exact.items():
        if not 0 <= picture < len(grids) or (pinned is not None and picture == pinned.picture):
            raise ValueError(f"Picture {picture} is none that the origin is compared with.")
        if values.dtype != np.float32:
            raise TypeError(f"Exact values are float32, not {values.dtype}.")
        if values.shape != grids[picture]:
            raise ValueError(f"Exact values of shape {values.shape} do not fit a grid of {grids[picture]}.")
