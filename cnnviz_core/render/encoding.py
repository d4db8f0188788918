"""Pixels -> PNG or JPEG, numbers -> .npy."""

from __future__ import annotations

import io
import zlib

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from cnnviz_core.images import Pixels


def png(pixels: Pixels) -> bytes:
    """A PNG with exactly these pixels.

    Args:
        pixels: (H, W, 3), or (H, W) for grey.
    """
    return _saved(Image.fromarray(np.ascontiguousarray(pixels)), "PNG", compress_level=1)


def palette_png(indices: Pixels, lut: Pixels, *, repeats: bool = False) -> bytes:
    """An 8-bit palette PNG that decodes to ``lut[indices]``.

    Args:
        indices: (H, W) rows of the table.
        lut: (256, 3) colours.
        repeats: Whether rows of pixels are repeated, as after enlargement; otherwise searching for repeats is left
            out, which takes half the time at the same size.
    """
    picture = Image.fromarray(np.ascontiguousarray(indices))
    picture.putpalette(lut.tobytes())
    strategy = zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_RLE
    return _saved(picture, "PNG", compress_level=1, compress_type=strategy)


def jpeg(pixels: Pixels, *, quality: int = 90) -> bytes:
    """A JPEG without colour subsampling, so that thin coloured lines stay sharp.

    Args:
        pixels: (H, W, 3), or (H, W) for grey.
        quality: 1..95.
    """
    return _saved(Image.fromarray(np.ascontiguousarray(pixels)), "JPEG", quality=quality, subsampling=0)


def npy(values: ArrayLike) -> bytes:
    """The numbers as a .npy file, read back by ``numpy.load``."""
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=False)
    return file.getvalue()


def _saved(picture: Image.Image, file_format: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()
