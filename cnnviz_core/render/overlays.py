"""A map over the photo, or back on the original from which the crop was cut.

A layer's map is coarse: a cell of a 7 x 7 map stands for a 32 x 32 patch of a 224-pixel input, and draws on a wider
field still. Smooth enlargement looks sharper than the network is; without it, the cells themselves show.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz_core.errors import BadSetting
from cnnviz_core.images import Pixels
from cnnviz_core.render.colour import Scale, colourise
from cnnviz_core.results import FloatArray

_FRAME_SHARE = 400  # the frame around a crop is one pixel thick for this many of the photo's


def resize_map(values: FloatArray, shape: tuple[int, int], *, smooth: bool = True) -> FloatArray:
    """The map at another size, (H, W) float32.

    Args:
        values: (h, w).
        shape: (H, W).
        smooth: Bilinear between the centres of the cells, as PyTorch's ``interpolate(mode="bilinear",
            align_corners=False)``; otherwise each pixel has the value of the cell in which its centre lies. A missing
            value spreads to its neighbours when smooth.
    """
    rows, columns = ((np.arange(new) + 0.5) * (old / new) for old, new in zip(values.shape, shape, strict=True))
    return _sample(values, rows, columns, smooth=smooth)


def overlay(
    pixels: Pixels,
    values: FloatArray,
    *,
    scale: Scale,
    colour_map: str | None = None,
    opacity: float = 0.5,
    smooth: bool = True,
) -> Pixels:
    """The map in colour over the picture it belongs to, (H, W, 3).

    Args:
        pixels: (H, W, 3).
        values: (h, w), covering the whole picture.
        scale: One pair of limits.
        colour_map: A name from :data:`~cnnviz_core.render.COLOUR_MAPS`; None: the default for the scale.
        opacity: 0 shows the picture alone, 1 the map alone.
        smooth: As in :func:`resize_map`.
    """
    height, width = pixels.shape[:2]
    colours = colourise(resize_map(values, (height, width), smooth=smooth), scale=scale, colour_map=colour_map)
    return _blend(pixels, colours, opacity)


def framed(pixels: Pixels, box: tuple[float, float, float, float]) -> Pixels:
    """A picture with a rectangle outlined, white between dark lines, so that it shows on anything.

    Args:
        pixels: (H, W, 3).
        box: (left, top, right, bottom) in its pixels; what lies outside is not drawn.
    """
    picture = Image.fromarray(pixels)
    line = max(1, max(pixels.shape) // 100)
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = box
    for grow, colour in ((line, "black"), (0, "white"), (-line, "black")):
        pen.rectangle((left - grow, top - grow, right - 1 + grow, bottom - 1 + grow), outline=colour, width=line)
    return np.asarray(picture)


def paste_onto(
    pixels: Pixels,
    crop_box: tuple[float, float, float, float],
    values: FloatArray,
    *,
    scale: Scale,
    colour_map: str | None = None,
    opacity: float = 0.5,
    smooth: bool = True,
    dim: float = 0.6,
) -> Pixels:
    """The map on the original photo, where the network's crop was cut; the rest, which it never saw, is dimmed.

    A thin white frame outside the crop tells a dark map from the dimmed rest.

    Args:
        pixels: (H, W, 3), the original.
        crop_box: (left, top, right, bottom) in the original's pixels; may have fractions and reach outside.
        values: (h, w), covering the crop.
        scale: One pair of limits.
        colour_map: A name from :data:`~cnnviz_core.render.COLOUR_MAPS`; None: the default for the scale.
        opacity: 0 shows the picture alone, 1 the map alone.
        smooth: As in :func:`resize_map`.
        dim: How much darker the rest is, 0..1.

    Raises:
        BadSetting: No pixel of the photo lies in the crop.
    """
    left, top, right, bottom = crop_box
    rows = _pixels_within(top, bottom, pixels.shape[0])
    columns = _pixels_within(left, right, pixels.shape[1])
    if not (len(rows) and len(columns)):
        raise BadSetting(
            f"The crop {crop_box} misses the photo of {pixels.shape[1]} by {pixels.shape[0]} pixels; "
            "give left, top, right and bottom in the photo's own pixels."
        )
    seen = _sample(
        values,
        (rows + 0.5 - top) * (values.shape[0] / (bottom - top)),
        (columns + 0.5 - left) * (values.shape[1] / (right - left)),
        smooth=smooth,
    )
    result = _blend(pixels, np.zeros_like(pixels), dim)
    line = max(1, round(max(pixels.shape) / _FRAME_SHARE))
    result[max(0, rows[0] - line) : rows[-1] + 1 + line, max(0, columns[0] - line) : columns[-1] + 1 + line] = 255
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    result[window] = _blend(pixels[window], colourise(seen, scale=scale, colour_map=colour_map), opacity)
    return result


def _pixels_within(start: float, end: float, size: int) -> NDArray[np.int64]:
    """Indices of the pixels whose centres lie in [start, end)."""
    return np.arange(max(0, math.ceil(start - 0.5)), min(size, math.ceil(end - 0.5)))


def _sample(values: FloatArray, rows: NDArray[np.float64], columns: NDArray[np.float64], *, smooth: bool) -> FloatArray:
    """Values at the crossings of rows and columns, given in cells: 0 is the map's edge, 0.5 the first cell's centre."""
    height, width = values.shape
    if not smooth:
        nearest_rows = np.clip(rows.astype(np.int64), 0, height - 1)
        nearest_columns = np.clip(columns.astype(np.int64), 0, width - 1)
        return values[nearest_rows[:, None], nearest_columns].astype(np.float32, copy=False)
    upper, lower, down = _neighbours(rows, height)
    before, after, across = _neighbours(columns, width)
    bands = values[upper] * (1 - down)[:, None] + values[lower] * down[:, None]
    return (bands[:, before] * (1 - across) + bands[:, after] * across).astype(np.float32, copy=False)


def _neighbours(
    places: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The cells before and after each place, and the weight of the second."""
    from_centre = np.clip(places - 0.5, 0, size - 1)
    before = from_centre.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), (from_centre - before).astype(np.float32)


def _blend(below: Pixels, above: Pixels, opacity: float) -> Pixels:
    mixed = below * np.float32(1 - opacity) + above * np.float32(opacity)
    return np.rint(mixed).astype(np.uint8)
