"""All maps or kernels of a layer on one picture.

One picture of a thousand tiles travels and draws faster than a thousand pictures. Every tile is enlarged by a whole
factor, so that each cell covers equally many pixels, or shrunk by one, so that each pixel is the mean of equally many
cells. The mean hides thin peaks: ``shrink`` above 1 should be said beside the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import Pixels
from cnnviz_core.render.colour import MISSING, Scale, find_colour_map, to_indices
from cnnviz_core.render.encoding import jpeg, palette_png, png
from cnnviz_core.results import FloatArray, Kernels

_TILE_PX = 56
_EMPTY_GREY = 128
_THUMBNAIL_SIDES = (96, 64, 48, 32, 16)  # multiples of 8: then no block of a JPEG lies on two thumbnails
_MOST_THUMBNAIL_PIXELS = 10_500_000  # of all together: about 3 MB to send, 40 MB to hold


@dataclass(frozen=True)
class Mosaic:
    """Tiles in reading order on one PNG, without gaps.

    Attributes:
        png: The file. Places after the last tile have the colour of missing values.
        tile_size: (height, width) of a tile in pixels.
        columns: Tiles per row.
        num: Number of tiles.
        enlarge: Pixels per cell along each side.
        shrink: Cells per pixel along each side; above 1 a pixel is their mean.
    """

    png: bytes
    tile_size: tuple[int, int]
    columns: int
    num: int
    enlarge: int
    shrink: int


def mosaic(
    values: FloatArray,
    *,
    scale: Scale,
    colour_map: str | None = None,
    tile_px: int | None = None,
    columns: int | None = None,
) -> Mosaic:
    """All maps of a layer as one 8-bit palette PNG.

    Args:
        values: (C, h, w).
        scale: One pair of limits, or one per channel.
        colour_map: A name from :data:`~cnnviz_core.render.COLOUR_MAPS`; None: the default for the scale.
        tile_px: Wanted length of a tile's longer side; the nearest whole factor is taken. None: 56.
        columns: Tiles per row; None: about a square picture.
    """
    enlarge, shrink = _factors(values.shape[1:3], tile_px)
    tiles = to_indices(_block_means(values, shrink), scale=scale)
    columns = columns or _square_columns(tiles)
    canvas = _lay_out(tiles, columns, enlarge, fill=MISSING)
    lut = find_colour_map(colour_map, signed=scale.signed).lut
    file = palette_png(canvas, lut, repeats=enlarge > 1)
    return _mosaic(file, tiles, columns, enlarge, shrink)


def rgb_mosaic(tiles: Pixels, *, tile_px: int | None = None, columns: int | None = None) -> Mosaic:
    """Colour tiles as one RGB PNG: first-layer kernels, thumbnails.

    Args:
        tiles: (N, h, w, 3).
        tile_px: Wanted length of a tile's longer side; the nearest whole factor is taken. None: 56.
        columns: Tiles per row; None: about a square picture.
    """
    enlarge, shrink = _factors(tiles.shape[1:3], tile_px)
    if shrink > 1:
        tiles = np.rint(_block_means(tiles, shrink)).astype(np.uint8)
    columns = columns or _square_columns(tiles)
    file = png(_lay_out(tiles, columns, enlarge, fill=_EMPTY_GREY))
    return _mosaic(file, tiles, columns, enlarge, shrink)


def thumbnail_px(num: int) -> int:
    """The side of a thumbnail in px that suits this many pictures: 96 for some hundreds, 32 for 10,000."""
    fitting = (side for side in _THUMBNAIL_SIDES if num * side**2 <= _MOST_THUMBNAIL_PIXELS)
    return next(fitting, _THUMBNAIL_SIDES[-1])


def atlas_columns(num: int) -> int:
    """Thumbnails in a row of the atlas of this many pictures."""
    return max(1, math.ceil(math.sqrt(num)))


def thumbnail_atlas(pictures: Iterable[Pixels], *, px: int) -> bytes:
    """The middle squares of pictures, made small, in reading order on one JPEG, :func:`atlas_columns` in a row.

    Args:
        pictures: (h, w, 3) each, of any size; read one by one, so they need not be in memory together. Those of less
            than half the side are enlarged to hard-edged pixels.
        px: Side of a thumbnail, a multiple of 8, for instance from :func:`thumbnail_px`.

    Raises:
        BadSetting: No pictures, or another side.
    """
    if px < 8 or px % 8:
        raise BadSetting(f"Thumbnails of {px} px were asked for; choose a multiple of 8.")
    tiles = [thumbnail(picture, px) for picture in pictures]
    if not tiles:
        raise BadSetting("There is no picture to make a thumbnail of; give one or more.")
    return jpeg(_lay_out(np.stack(tiles), atlas_columns(len(tiles)), 1, fill=_EMPTY_GREY), quality=85)


def thumbnail(picture: Pixels, px: int) -> Pixels:
    """The middle square of a picture, (px, px, 3); where it has less than half of that, in hard-edged pixels."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    if 2 * side <= px:
        return np.asarray(square.resize((px, px), Image.Resampling.NEAREST))
    return np.asarray(square.resize((px, px), Image.Resampling.LANCZOS, reducing_gap=3))


def kernels_rgb(kernels: Kernels, *, scale: str = "layer", undo_normalisation: bool = False) -> Pixels:
    """Kernels over three input channels as little colour pictures, (O, kh, kw, 3).

    ``0.5 + 0.5 w / max|w|``: zero is mid grey, and a kernel and its negative are each other's negative.

    Args:
        kernels: Weights with I = 3.
        scale: "layer": one maximum for all, so that weak kernels look weak; "kernel": each by itself.
        undo_normalisation: Divides by the input normalisation's standard deviation, so that the kernel is shown as it
            acts on pixels.

    Raises:
        NotApplicable: Not three input channels, or no normalisation is known to undo.
        BadSetting: Another scale.
    """
    weights = kernels.values
    if weights.shape[1] != 3:
        raise NotApplicable(
            f"A kernel of {kernels.layer} reads {weights.shape[1]} channels, and a colour picture needs exactly 3. "
            "Look at its slices one by one."
        )
    if scale not in ("layer", "kernel"):
        raise BadSetting(f"The kernel scale is {scale!r}; choose layer or kernel.")
    if undo_normalisation:
        if not kernels.reads_image:
            raise NotApplicable(
                f"{kernels.layer} does not read the picture itself, so there is no normalisation to undo. "
                "Switch it off, or choose the network's first convolution."
            )
        weights = weights / kernels.input_std[:, None, None]
    weights = np.nan_to_num(weights, posinf=0, neginf=0)
    largest = np.abs(weights).max(axis=None if scale == "layer" else (1, 2, 3), keepdims=True)
    fractions = 0.5 + 0.5 * weights / np.where(largest > 0, largest, 1)
    return np.ascontiguousarray(np.rint(255 * fractions).astype(np.uint8).transpose(0, 2, 3, 1))


def kernel_slices(kernels: Kernels, *, kernel: int | None = None) -> FloatArray:
    """The signed slices of one kernel, one per input channel, for :func:`mosaic`.

    Args:
        kernels: Weights of one convolution.
        kernel: Its index. May be None for a depth-wise convolution, whose kernels have one slice each.

    Returns:
        (I, kh, kw); for a depth-wise convolution and None the slices of all kernels, (O, kh, kw).

    Raises:
        BadSetting: No such kernel, or none given where kernels have several slices.
    """
    num, num_slices = kernels.values.shape[:2]
    if kernel is None and num_slices == 1:
        return kernels.values[:, 0]
    if kernel is None or not 0 <= kernel < num:
        raise BadSetting(f"{kernels.layer} has kernels 0 to {num - 1}, and {kernel} was asked for; choose one of them.")
    slices: FloatArray = kernels.values[kernel]
    return slices


def _factors(size: tuple[int, ...], tile_px: int | None) -> tuple[int, int]:
    """How much to enlarge and to shrink; one of the two is 1."""
    ratio = (tile_px or _TILE_PX) / max(size)
    return max(1, round(ratio)), max(1, round(1 / ratio))


def _square_columns(tiles: Pixels) -> int:
    num, height, width = map(int, tiles.shape[:3])
    return min(num, math.ceil(math.sqrt(num * height / width)))


def _block_means(tiles: FloatArray | Pixels, factor: int) -> FloatArray:
    """Means over factor x factor cells; blocks at the lower and right edge may be smaller."""
    if factor == 1:
        return tiles.astype(np.float32, copy=False)
    sums = tiles.astype(np.float32, copy=False)
    for axis in (1, 2):
        starts = np.arange(0, tiles.shape[axis], factor)
        counts = np.diff(starts, append=tiles.shape[axis])
        shape = [1] * tiles.ndim
        shape[axis] = -1
        sums = np.add.reduceat(sums, starts, axis=axis)
        sums /= counts.reshape(shape).astype(np.float32)
    return sums


def _lay_out(tiles: Pixels, columns: int, enlarge: int, *, fill: int) -> Pixels:
    """(N, h, w, ...) tiles side by side in reading order, each cell repeated."""
    num, height, width = tiles.shape[:3]
    rows = -(-num // columns)
    places = np.full((rows * columns, *tiles.shape[1:]), fill, np.uint8)
    places[:num] = tiles
    grid = places.reshape(rows, columns, height, width, *tiles.shape[3:]).swapaxes(1, 2)
    canvas = grid.reshape(rows * height, columns * width, *tiles.shape[3:])
    return canvas.repeat(enlarge, axis=1).repeat(enlarge, axis=0) if enlarge > 1 else canvas


def _mosaic(file: bytes, tiles: Pixels, columns: int, enlarge: int, shrink: int) -> Mosaic:
    num, height, width = tiles.shape[:3]
    return Mosaic(file, (height * enlarge, width * enlarge), columns, num, enlarge, shrink)
