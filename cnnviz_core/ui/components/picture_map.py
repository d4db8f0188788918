"""Many pictures in one plane: a projection of embeddings, or pictures snapped to the cells of a grid.

Points, thumbnails and texts go to the browser once. Moving, zooming, hovering and drawing around pictures happen there
without a word to the server; only a picked point or a finished selection makes the page run. The view stays where it
is as long as the points stay the same.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.images import Pixels
from cnnviz_core.results import FloatArray
from cnnviz_core.ui.components import clicks, packing

_SCRIPTS = ("plane", "pixels", *(f"picture_map_{part}" for part in ("view", "scene", "marks", "legend")))
_map = packing.register("picture_map", "numerals", *_SCRIPTS, "colour_bar")

Mode = Literal["points", "thumbnails", "auto"]
Seams = tuple[FloatArray, FloatArray]

MOST_POINTS = 100_000
MOST_LABELS = 200
_LONGEST_CAPTION = 400
_NO_SEAM = render.MISSING

# The colours of Okabe and Ito that show on light and on dark pages, as in the charts; they stay apart for colour-blind
# eyes. More labels than colours differ in shape, too.
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0))
_NUM_SHAPES = 5
_GREY = (128, 128, 128)
_NO_LABEL = "no label"
_OTHERS = "other labels"


@dataclass(frozen=True)
class Picked:
    """What the person did.

    Attributes:
        picked: The point that was clicked just now, None if none was.
        selected: The points that were encircled just now, else those that the page asked to show as selected.
    """

    picked: int | None
    selected: tuple[int, ...]


@dataclass(frozen=True)
class Extra:
    """Something placed into the map that is not one of its points, such as an own photo.

    Attributes:
        x: Where, in the points' unit.
        y: Likewise.
        name: Written beside its star.
        picture: A small square PNG or JPEG.
    """

    x: float
    y: float
    name: str
    picture: bytes | None = None


@dataclass(frozen=True, eq=False)
class Colouring:
    """The colour of each point and what it means.

    Attributes:
        title: Above the legend.
        palette: (K, 3) uint8.
        index: (N,) uint16, row of the palette for each point.
        labels: One name per row of the palette; empty where colours stand for numbers.
        values: (N,) the numbers, NaN where missing; None where colours stand for labels.
        low: Number of the first colour.
        high: Number of the last but one; the last is for what is missing.
        unit: Of the numbers.
    """

    title: str
    palette: Pixels
    index: NDArray[np.uint16]
    labels: tuple[str, ...] = ()
    values: FloatArray | None = None
    low: float = 0.0
    high: float = 1.0
    unit: str = ""


def by_label(labels: Sequence[str], *, title: str = "Label", order: Sequence[str] | None = None) -> Colouring:
    """One colour and shape per label; from the 31st label on they come again.

    Args:
        labels: One per point; an empty one counts as no label. Of more than :data:`MOST_LABELS` different ones, the
            rarer share one grey entry.
        title: Above the legend.
        order: Labels in the order of the colours, for instance ("right", "wrong"); the others follow by name, "9"
            before "10".
    """
    counts = Counter(label for label in labels if label)
    frequent = dict(counts.most_common(MOST_LABELS))
    first = [name for name in dict.fromkeys(order or ()) if name in frequent]
    names = first + sorted(frequent.keys() - set(first), key=_natural)
    greys = [_OTHERS] * (len(counts) > len(names)) + [_NO_LABEL] * ("" in labels)
    place = {name: at for at, name in enumerate(names)}
    palette = [_COLOURS[at % len(_COLOURS)] for at in range(len(names))] + [_GREY] * len(greys)
    rest, none = len(names), len(palette) - 1
    return Colouring(
        title=title,
        palette=np.array(palette, np.uint8).reshape(-1, 3),
        index=np.array([place.get(label, rest if label else none) for label in labels], np.uint16),
        labels=(*names, *greys),
    )


def by_value(
    values: FloatArray,
    *,
    title: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    colour_map: str = "viridis",
) -> Colouring:
    """Colours of a perceptual map for numbers.

    Args:
        values: (N,), one per point. Missing ones are grey.
        title: Above the colour bar.
        unit: What the numbers are.
        low: Number of the first colour; None: the least.
        high: Number of the last colour; None: the largest.
        colour_map: A name from :data:`cnnviz_core.render.COLOUR_MAPS`.
    """
    values = np.asarray(values, np.float32)
    scale = render.scale_of(values[None], low=low, high=high, signed=False)
    return Colouring(
        title=title,
        palette=render.find_colour_map(colour_map).lut,
        index=render.to_indices(values[None], scale=scale)[0].astype(np.uint16),
        values=values,
        low=scale.low[0],
        high=scale.high[0],
        unit=unit,
    )


def show(
    points: NDArray[np.floating],
    *,
    key: str,
    aria: str,
    colouring: Colouring | None = None,
    captions: Sequence[str] | None = None,
    thumbnails: bytes | None = None,
    mode: Mode = "points",
    cell: float | None = None,
    seams: Seams | None = None,
    axes: tuple[str, str] | None = None,
    ticks: bool = False,
    equal: bool = True,
    selected: Sequence[int] = (),
    lit: Sequence[int] = (),
    extra: Sequence[Extra] = (),
    height: int = 560,
    on_pick: Callable[[int], None] | None = None,
    on_select: Callable[[tuple[int, ...]], None] | None = None,
) -> Picked:
    """Shows the map, and says what was picked or selected just now.

    Args:
        points: (N, 2) x to the right and y upwards; with ``cell`` y downwards, so that row 0 is on top.
        key: Unique on the page.
        aria: What the map shows, for screen readers.
        colouring: From :func:`by_label` or :func:`by_value`; None: all points alike and no legend.
        captions: A text for each point, shown when it is pointed at. Its first line is the point's name.
        thumbnails: From :func:`cnnviz_core.render.thumbnail_atlas`, one per point in the same order.
        mode: "points"; "thumbnails", of all points, one over the other where they crowd; "auto", thumbnails where
            there is room, more of them as one zooms in, and points for the others.
        cell: Side of a grid's cell in the points' unit, for points on a grid: thumbnails fill their cells. The cell
            in row r and column c has its centre at ((c + 1/2) cell, (r + 1/2) cell).
        seams: Brightness, 0..1, of the lines between neighbouring cells, NaN for none: (rows, columns - 1) between
            left and right, (rows - 1, columns) between upper and lower. Needs ``cell``.
        axes: Titles of x and y; None: a map whose axes mean nothing.
        ticks: Whether the numbers along the axes mean something and are written; needs ``axes``.
        equal: Whether one unit is as long in x as in y; with ``cell`` always.
        selected: The points to show as selected, the others dimmed. It wins over an older selection in the browser.
        lit: Points to mark with a ring and their names; arrows at the border point to those out of sight. The map
            moves to the first one when it changes.
        extra: Marked with a star.
        height: Of the map without its buttons and legend, px.
        on_pick: Called with the clicked point before the page runs again, the place to set session state.
        on_select: Likewise with the encircled points, ascending; empty when the selection was cleared.

    Raises:
        TypeError: Thumbnails that are not bytes.
        ValueError: Arguments that do not fit together or are out of range.
    """
    num = _num_points(points)
    index = None if colouring is None else colouring.index
    if any(each is not None and len(each) != num for each in (index, captions)):
        raise ValueError(f"colouring and captions have one entry for each of the {num} points.")
    if mode not in ("points", "thumbnails", "auto"):
        raise ValueError(f"The mode is {mode!r}; choose points, thumbnails or auto.")
    if mode != "points" and thumbnails is None:
        raise ValueError(f"Mode {mode!r} needs thumbnails.")
    _check_grid(cell, seams)
    if ticks and axes is None:
        raise ValueError("Ticks need axes with titles.")
    if height < 100:
        raise ValueError("A map is at least 100 px high.")
    if any(not 0 <= index < num for index in (*selected, *lit)):
        raise ValueError(f"selected and lit name points from 0 to {num - 1}.")
    if any(not (math.isfinite(it.x) and math.isfinite(it.y)) for it in extra):
        raise ValueError("What is placed into the map has finite coordinates.")

    def report_pick() -> None:
        picked = clicks.unanswered(key, (num,))
        if picked is not None and on_pick is not None:
            on_pick(picked[0])

    def report_selection() -> None:
        chosen = clicks.unanswered_set(key, num, name="lasso")
        if chosen is not None and on_select is not None:
            on_select(chosen)

    with st.container(gap=None):
        header = {
            "num": num,
            "points": packing.send(np.asarray(points, "<f4").tobytes(), key=f"{key}.points"),
            "colouring": colouring and packing.send(_packed_colouring(colouring), key=f"{key}.colouring"),
            "captions": captions and packing.send(_packed_captions(captions), key=f"{key}.captions"),
            **_sent_thumbnails(thumbnails, num, key),
            "seams": seams and packing.send(_packed_seams(seams), key=f"{key}.seams"),
            "mode": mode,
            "cell": cell,
            "axes": axes,
            "ticks": ticks,
            "equal": equal or cell is not None,
            "lit": [int(index) for index in lit],
            "extra": [_sent_extra(it, key=f"{key}.extra{at}") for at, it in enumerate(extra)],
            "height": height,
            "aria": aria,
            "key": key,
            "answers": [clicks.stamp(key), clicks.stamp(key, "lasso")],
        }
        flags = np.zeros(num, np.bool_)
        flags[list(selected)] = True
        data = packing.pack(header, np.packbits(flags, bitorder="little").tobytes())
        _map(key=key, data=data, on_click_change=report_pick, on_lasso_change=report_selection)
    picked = clicks.unanswered(key, (num,))
    chosen = clicks.unanswered_set(key, num, name="lasso")
    clicks.answer(key)
    clicks.answer(key, "lasso")
    return Picked(picked[0] if picked else None, tuple(sorted(set(selected))) if chosen is None else chosen)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "9" before "10" and letters without regard to case."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name.casefold())]


def _num_points(points: NDArray[np.floating]) -> int:
    if points.ndim != 2 or points.shape[1] != 2 or not 1 <= len(points) <= MOST_POINTS:
        raise ValueError(f"points has shape (N, 2) with N from 1 to {MOST_POINTS:,}, not {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError("Points have finite coordinates; leave out those that have none.")
    return len(points)


def _check_grid(cell: float | None, seams: Seams | None) -> None:
    if cell is not None and not (math.isfinite(cell) and cell > 0):
        raise ValueError("The cell's side is above 0.")
    if seams is None:
        return
    rows, columns = len(seams[0]), seams[1].shape[-1]
    if cell is None or seams[0].shape != (rows, columns - 1) or seams[1].shape != (rows - 1, columns):
        raise ValueError("seams has shapes (rows, columns - 1) and (rows - 1, columns) and needs a cell.")


def _packed_colouring(colouring: Colouring) -> bytes:
    """What the browser needs to know of it: about it, palette, values, indices."""
    num_labels = len(colouring.labels)
    about = {
        "title": colouring.title,
        "labels": list(colouring.labels),
        "shapes": [_shape(at, colour) for at, colour in enumerate(colouring.palette[:num_labels].tolist())],
        "colours": len(colouring.palette),
        "values": colouring.values is not None,
        "low": colouring.low,
        "high": colouring.high,
        "unit": colouring.unit,
    }
    values = b"" if colouring.values is None else colouring.values.astype("<f4").tobytes()
    return packing.pack(about, colouring.palette.tobytes(), values, colouring.index.astype("<u2").tobytes())


def _shape(at: int, colour: Sequence[int]) -> int:
    """Which shape the browser draws for a label: circles first, and for what is grey."""
    return 0 if tuple(colour) == _GREY else at // len(_COLOURS) % _NUM_SHAPES


def _packed_captions(captions: Sequence[str]) -> bytes:
    return json.dumps([caption[:_LONGEST_CAPTION] for caption in captions], ensure_ascii=False).encode()


def _packed_seams(seams: Seams) -> bytes:
    """Rows and columns, colours of the levels, and one level for each seam: first left and right, then up and down."""
    rows, columns = len(seams[0]), seams[1].shape[-1]
    scale = render.Scale.fixed(0, 1, signed=False)
    levels = [render.to_indices(np.asarray(part, np.float32)[None], scale=scale).tobytes() for part in seams]
    lut = render.find_colour_map("inferno").lut
    return packing.pack({"shape": [rows, columns], "none": _NO_SEAM}, lut.tobytes(), *levels)


def _sent_thumbnails(thumbnails: bytes | None, num: int, key: str) -> Mapping[str, object]:
    """The header's lines about thumbnails."""
    if thumbnails is None:
        return {"atlas": None}
    media_type, width, height = packing.picture_info(thumbnails)
    columns = render.atlas_columns(num)
    side = width // columns
    if width != columns * side or height < -(-num // columns) * side:
        raise ValueError(f"{width} x {height} px is no atlas of {num} square thumbnails, {columns} in a row.")
    return {
        "atlas": packing.send(thumbnails, key=f"{key}.atlas"),
        "atlasType": media_type,
        "columns": columns,
        "thumb": side,
    }


def _sent_extra(it: Extra, *, key: str) -> Mapping[str, object]:
    """The header's line about something placed into the map."""
    about = {"x": it.x, "y": it.y, "name": it.name, "picture": None}
    if it.picture is None:
        return about
    media_type, _, _ = packing.picture_info(it.picture)
    return {**about, "picture": packing.send(it.picture, key=key), "type": media_type}
