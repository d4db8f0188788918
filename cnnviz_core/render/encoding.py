"""Pixels -> PNG or JPEG, frames -> animated WebP or GIF, numbers -> .npy."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import Any

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


def animated_webp(frames: Sequence[Pixels], *, frame_ms: int = 100) -> bytes:
    """Frames as an animation that starts again at its end, in full colour.

    Args:
        frames: At least one, each (H, W, 3), all of one size.
        frame_ms: How long each is seen, in milliseconds; the last five times as long.
    """
    return _animated(frames, "WEBP", frame_ms, quality=85, method=2)


def gif(frames: Sequence[Pixels], *, frame_ms: int = 100) -> bytes:
    """As :func:`animated_webp`, for programs that know no WebP: at most 256 colours a frame."""
    return _animated(frames, "GIF", frame_ms, disposal=1)


def npy(values: ArrayLike) -> bytes:
    """The numbers as a .npy file, read back by ``numpy.load``."""
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=False)
    return file.getvalue()


def _animated(frames: Sequence[Pixels], file_format: str, frame_ms: int, **options: int) -> bytes:
    first, *rest = (Image.fromarray(np.ascontiguousarray(frame)) for frame in frames)
    # A GIF counts in hundredths of a second.
    durations = [max(20, round(frame_ms, -1))] * len(rest) + [5 * max(20, round(frame_ms, -1))]
    return _saved(first, file_format, save_all=True, append_images=rest, duration=durations, loop=0, **options)


def _saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()
