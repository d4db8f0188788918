"""A picture cut in two by a threshold on a score map: what scores at least so much is the object.

The browser gets the raw scores and, where there is one, the true mask. The mask follows the slider there and so does
its overlap with the true one; the server hears of a threshold once it is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import maps
from cnnviz_core.results import FloatArray
from cnnviz_core.ui.components import packing, working_size

_view = packing.register("threshold_view", "numerals", "mask_layer")

Bools = NDArray[np.bool_]

_NUM_STEPS = 200


def show(
    picture: bytes,
    scores: FloatArray,
    *,
    key: str,
    aria: str,
    threshold: float,
    low: float,
    high: float,
    lut: NDArray[np.uint8],
    marks: Mapping[str, float] | None = None,
    truth: Bools | None = None,
    step: float | None = None,
    unit: str = "score",
    max_px: int = 640,
    on_threshold: Callable[[float], None] | None = None,
) -> float:
    """The threshold that was chosen just now, else ``threshold``.

    The mask is where the scores, interpolated bilinearly with cell centres at half steps, reach the threshold. Its
    share of the picture and its intersection over union with the true mask are counted at
    :func:`working_size.of` the picture; pixels there that the true mask covers in part count in part.

    Args:
        picture: PNG or JPEG of exactly what the scores cover.
        scores: (h, w) float32, finite, of any size.
        key: Unique on the page.
        aria: What is to be seen, for screen readers.
        threshold: Where the slider stands; brought between ``low`` and ``high``. It wins over an older choice in the
            browser.
        low: Lower end of the slider, and the score of the first colour.
        high: Upper end and last colour; above ``low``.
        lut: (256, 3) uint8 as in :class:`cnnviz_core.render.ColourMap`; row 255 is not used.
        marks: Thresholds worth knowing, by name; a click takes them.
        truth: (H, W) true mask of any size, covering the whole picture.
        step: By how much an arrow key moves the threshold; None: 1/200 of the range.
        unit: What the scores are, such as "cosine".
        max_px: Displayed size of the picture's longer side; less where the page is narrower.
        on_threshold: Called with the chosen threshold before the page runs again, the place to set session state.

    Raises:
        TypeError: An argument of another type.
        ValueError: An argument of another shape or out of range.
    """
    media_type, width, height = packing.picture_info(picture)
    step = (high - low) / _NUM_STEPS if step is None else step
    _check(scores, lut, numbers=(threshold, low, high, step, *(marks or {}).values()))
    if not (low < high and step > 0 and max_px >= 1):
        raise ValueError("low lies below high, step is above 0, and max_px is 1 or more.")
    shape = working_size.of(width, height)
    threshold = min(high, max(low, threshold))

    def report() -> None:
        chosen = _unanswered(key, low, high)
        if chosen is not None and on_threshold is not None:
            on_threshold(chosen)

    with st.container(gap=None):
        sent = _no_finer(scores, shape)
        header = {
            "picture": packing.send(picture, key=f"{key}.picture"),
            "type": media_type,
            "size": [width, height],
            "scores": packing.send(sent.astype("<f4").tobytes(), key=f"{key}.scores"),
            "cells": sent.shape,
            "truth": None if truth is None else _sent_truth(truth, shape, key=f"{key}.truth"),
            "shape": shape,
            "threshold": threshold,
            "low": low,
            "high": high,
            "step": step,
            "marks": list((marks or {}).items()),
            "unit": unit,
            "maxPx": max_px,
            "aria": aria,
            "key": key,
            "answers": _reported(key)[1],
        }
        _view(key=key, data=packing.pack(header, lut.tobytes()), on_threshold_change=report)
    chosen = _unanswered(key, low, high)
    st.session_state[_answered(key)] = _reported(key)[1]
    return threshold if chosen is None else chosen


def _reported(key: str) -> tuple[float, int]:
    """The threshold that the browser sent last and when; not a number, and 0, where there is none."""
    state = st.session_state.get(key)
    found = state.get("threshold") if isinstance(state, Mapping) else None
    # The browser writes 1.0 as 1.
    if not isinstance(found, list) or [type(part) for part in found] not in ([float, int], [int, int]):
        return math.nan, 0
    return float(found[0]), found[1]


def _unanswered(key: str, low: float, high: float) -> float | None:
    """The last threshold, if it is new and on the slider."""
    threshold, stamp = _reported(key)
    is_new = stamp != st.session_state.get(_answered(key), 0)
    return threshold if is_new and low <= threshold <= high else None


def _answered(key: str) -> str:
    return f"{key}.threshold.answered"


def _check(scores: FloatArray, lut: NDArray[np.uint8], *, numbers: tuple[float, ...]) -> None:
    if not isinstance(scores, np.ndarray) or scores.dtype != np.float32:
        raise TypeError("scores is a float32 array.")
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"scores has two axes and finite values only; its shape is {scores.shape}.")
    if not isinstance(lut, np.ndarray) or lut.dtype != np.uint8:
        raise TypeError("lut is a uint8 array.")
    if lut.shape != (256, 3):
        raise ValueError(f"lut has shape (256, 3), not {lut.shape}.")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("threshold, low, high, step and marks are finite.")


def _no_finer(scores: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Scores at the working size where they are larger: nobody sees more, and the browser counts there."""
    smaller = min(scores.shape[0], shape[0]), min(scores.shape[1], shape[1])
    return scores if smaller == scores.shape else maps.resize(scores, smaller)


def _sent_truth(truth: Bools, shape: tuple[int, int], *, key: str) -> str:
    return packing.send(working_size.coverage(truth, shape).tobytes(), key=key)
