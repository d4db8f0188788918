"""A picture on which the person marks an object: brush, eraser, rectangle, lasso.

Strokes are painted in the browser at once. When the pointer has rested for a moment the whole mask goes to the server,
one bit per pixel, deflated: about a kilobyte, and never more than 50. It goes back the same way, so that a mask made
elsewhere, such as by GrabCut or from a file, can be painted on.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core.ui.components import packing, working_size

_painter = packing.register("mask_painter", "mask_layer", "controls")

Bools = NDArray[np.bool_]

_RAW_DEFLATE = -15  # window bits of a stream without header and checksum, as the browser's "deflate-raw"
_OVERHEAD = 256  # bytes that deflating adds at most to so few


def show(
    picture: bytes,
    *,
    key: str,
    aria: str,
    mask: Bools | None = None,
    max_px: int = 640,
    on_paint: Callable[[Bools], None] | None = None,
) -> Bools | None:
    """What is marked as the object: as painted, else ``mask``.

    Args:
        picture: PNG or JPEG.
        key: Unique on the page.
        aria: What is to be marked, for screen readers.
        mask: (H, W) of any size, covering the whole picture: what to begin with. Another one than in the last run
            takes the place of what was painted; "Undo" brings that back. Another picture begins anew, too.
        max_px: Displayed size of the picture's longer side; less where the page is narrower.
        on_paint: Called with the painted mask, nothing marked included, before the page runs again: the place to set
            session state. It may come back as ``mask``; after a change of page it has to.

    Returns:
        (H, W) of :func:`working_size.of`; None where nothing is marked.

    Raises:
        TypeError: An argument of another type.
        ValueError: An argument of another shape or out of range.
    """
    media_type, width, height = packing.picture_info(picture)
    if max_px < 1:
        raise ValueError("max_px is 1 or more.")
    shape = working_size.of(width, height)
    given = np.zeros(shape, np.bool_) if mask is None else working_size.coverage(mask, shape) > 127
    with st.container(gap=None):
        picture_token = packing.send(picture, key=f"{key}.picture")
        _note_given(key, f"{picture_token} {_token(given)}")
        painted = _painted(key, picture_token, shape)
        shown = given if painted is None else painted
        header = {
            "picture": picture_token,
            "type": media_type,
            "size": [width, height],
            "shape": shape,
            "mask": _token(shown),
            "maxPx": max_px,
            "aria": aria,
            "key": key,
            "answers": _stamp(key),
        }

        def report() -> None:
            fresh = _painted(key, picture_token, shape)
            if fresh is not None and on_paint is not None:
                on_paint(fresh)

        _painter(key=key, data=packing.pack(header, _deflated(shown)), on_mask_change=report)
    return shown if shown.any() else None


@dataclass(frozen=True)
class _Report:
    """What the browser sent last: the mask, the picture that it was painted on, and when."""

    mask: str
    picture: str
    stamp: int


def _reported(key: str) -> _Report | None:
    """The last report, None where there is none or it is malformed."""
    state = st.session_state.get(key)
    found = state.get("mask") if isinstance(state, Mapping) else None
    if not isinstance(found, list) or [type(part) for part in found] != [str, str, int]:
        return None
    return _Report(*found)


def _stamp(key: str) -> int:
    report = _reported(key)
    return report.stamp if report else 0


def _note_given(key: str, token: str) -> None:
    """Whatever was painted before the page gave another picture or mask does not count any more."""
    name = f"{key}.given"
    if st.session_state.get(name, ("", 0))[0] != token:
        st.session_state[name] = (token, _stamp(key))


def _painted(key: str, picture: str, shape: tuple[int, int]) -> Bools | None:
    """What was painted since the page gave this picture and mask. A browser is not to be trusted: it is checked."""
    report = _reported(key)
    if report is None or report.picture != picture or report.stamp <= st.session_state[f"{key}.given"][1]:
        return None
    return _inflated(report.mask, shape)


def _token(mask: Bools) -> str:
    return hashlib.blake2b(_bits(mask), digest_size=12).hexdigest()


def _bits(mask: Bools) -> bytes:
    return np.packbits(mask, bitorder="little").tobytes()


def _deflated(mask: Bools) -> bytes:
    deflater = zlib.compressobj(wbits=_RAW_DEFLATE)
    return deflater.compress(_bits(mask)) + deflater.flush()


def _inflated(text: str, shape: tuple[int, int]) -> Bools | None:
    """The mask in a report, None unless it is exactly one of that shape."""
    num_pixels = shape[0] * shape[1]
    num_bytes = -(-num_pixels // 8)
    if len(text) > 4 * (num_bytes + _OVERHEAD) // 3:
        return None
    inflater = zlib.decompressobj(_RAW_DEFLATE)
    try:
        bits = inflater.decompress(base64.b64decode(text, validate=True), num_bytes + 1)
    except (ValueError, zlib.error):
        return None
    if len(bits) != num_bytes or not inflater.eof or inflater.unused_data:
        return None
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    if flags[num_pixels:].any():
        return None
    return flags[:num_pixels].reshape(shape).astype(np.bool_)
