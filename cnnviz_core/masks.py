"""Masks of objects: checked, brought to the cells of a grid, compared with score maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import FloatArray, IouCurve, Mask

Bools = NDArray[np.bool_]
MaskLike = Mask | InputImage | NDArray[Any]

# A mask may differ so much from the picture's proportions, as after rounding of a resized copy.
_ASPECT_TOLERANCE = 0.02

_NUM_THRESHOLDS = 256


def check(mask: MaskLike, shape: tuple[int, int], *, name: str = "the mask") -> tuple[Bools, tuple[str, ...]]:
    """A mask as true and false at a picture's size, with what was done to it in sentences.

    What is lighter than half of white counts as object. White is 1 in numbers up to 1, 255 in numbers up to that, and
    65535 beyond.

    Args:
        mask: (H, W) true and false or numbers, or a picture, dark and light.
        shape: (H, W) of the picture that it belongs to.
        name: What to call it in messages.

    Returns:
        (H, W), and notices: resized, or grey.

    Raises:
        BadSetting: Not a mask, other proportions than the picture's, empty, or full.
    """
    values = mask.values if isinstance(mask, Mask) else mask.pixels if isinstance(mask, InputImage) else mask
    values = values.mean(axis=2) if isinstance(mask, InputImage) else np.asarray(values)
    if values.ndim != 2 or not values.size:
        raise BadSetting(f"{_capital(name)} has shape {values.shape}; give one value per pixel, (height, width).")
    is_object, grey = _threshold(values, name)
    resized = _resize(is_object, shape, name)
    if not resized.any():
        raise BadSetting(f"{_capital(name)} is empty; mark the object in it.")
    if resized.all():
        raise BadSetting(f"{_capital(name)} covers the whole picture; leave the background out of it.")
    return resized, (*grey, *_resize_notice(values.shape, shape, name))


def to_grid(mask: Bools | FloatArray, cells: tuple[int, int]) -> FloatArray:
    """(h, w) share of each cell that the mask covers, 0..1, by exact area."""
    down, across = (_overlaps(old, new) for old, new in zip(mask.shape, cells, strict=True))
    shares: FloatArray = (down @ mask.astype(np.float64) @ across.T).astype(np.float32)
    return shares


def foreground(shares: FloatArray) -> Bools:
    """The cells that count as object: covered by more than half, or where none is, the one covered most.

    Raises:
        BadSetting: There is no cell left for the background.
    """
    is_object = shares > 0.5
    if not is_object.any():
        is_object = shares == shares.max()
    if is_object.all():
        raise BadSetting(
            f"At {shares.shape[0]} x {shares.shape[1]} cells the mask leaves no background; choose a finer layer or a "
            "larger working size."
        )
    return is_object


def iou(a: Bools, b: Bools) -> float:
    """Pixels in both over pixels in either, 0..1; 1 where both are empty."""
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def iou_curve(scores: FloatArray, truth: Bools, *, thresholds: FloatArray | None = None) -> IouCurve:
    """Intersection over union of the true mask and of where the score reaches a threshold.

    Args:
        scores: (H, W).
        truth: (H, W).
        thresholds: Ascending; None takes 256 from the lowest score to the highest.

    Raises:
        BadSetting: Two sizes.
    """
    if scores.shape != truth.shape:
        raise BadSetting(f"The scores have {scores.shape} places and the true mask {truth.shape}; give the same.")
    if thresholds is None:
        thresholds = np.linspace(scores.min(), scores.max(), _NUM_THRESHOLDS, dtype=np.float32)
    everywhere, inside = np.sort(scores, axis=None), np.sort(scores[truth])
    found = everywhere.size - np.searchsorted(everywhere, thresholds)
    both = inside.size - np.searchsorted(inside, thresholds)
    either = found + inside.size - both
    ious = np.divide(both, either, out=np.ones(len(thresholds)), where=either > 0)
    return IouCurve(thresholds, ious.astype(np.float32))


def outline(mask: Bools) -> Bools:
    """The pixels of a mask that touch one outside it; the picture's border is none. (H, W)."""
    inner = np.ones_like(mask)
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _threshold(values: NDArray[Any], name: str) -> tuple[Bools, tuple[str, ...]]:
    if values.dtype == np.bool_:
        return values, ()
    if values.dtype.kind not in "uif" or not np.isfinite(values).all() or values.min() < 0:
        raise BadSetting(f"{_capital(name)} holds values that are no brightness; give true and false, or 0 to 255.")
    high = float(values.max())
    white = next((white for white in (1.0, 255.0, 65535.0) if high <= white), high)
    grey = float(((values > 0) & (values < white)).mean())
    notice = (
        f"{format_percent(grey, 1)} of the pixels of {name} are grey; those lighter than half of white count as object."
    )
    return values > white / 2, (notice,) if grey else ()


def _resize(values: Bools, shape: tuple[int, int], name: str) -> Bools:
    (height, width), (old_height, old_width) = shape, values.shape
    if abs(old_width * height / (old_height * width) - 1) > _ASPECT_TOLERANCE and values.shape != shape:
        raise BadSetting(
            f"{_capital(name)} has {old_width} x {old_height} pixels, its picture {width} x {height}; give a mask of "
            "the whole picture, with its proportions."
        )
    if values.shape == shape:
        return values
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, values.shape, strict=True))
    resized: Bools = values[np.ix_(rows, columns)]
    return resized


def _resize_notice(old: tuple[int, ...], new: tuple[int, int], name: str) -> tuple[str, ...]:
    if old == new:
        return ()
    return (f"{_capital(name)} was brought from {old[1]} x {old[0]} to the picture's {new[1]} x {new[0]} pixels.",)


def _overlaps(old: int, new: int) -> NDArray[np.float64]:
    """(new, old) share of each new interval that each old one fills."""
    edges = np.arange(new + 1) * old / new
    starts = np.arange(old)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    overlaps: NDArray[np.float64] = np.clip(shared, 0, None) * new / old
    return overlaps
