"""Cutting the object out with GrabCut, started from any map: mask, cut-out, and how well it fits a true mask."""

from __future__ import annotations

import hashlib

import numpy as np
import streamlit as st

from cnnviz_core import render
from cnnviz_core.errors import CnnvizError
from cnnviz_core.images import open_image
from cnnviz_core.methods import segmentation
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import Mask
from cnnviz_core.ui import frame, show
from cnnviz_core.ui.gallery import MapPicture

_SHOWN_PX = 640
_DIMMED = 0.25
_OBJECT_PERCENT, _BACKGROUND_PERCENT = 5, 30
_LARGEST_MASK_MB = 20


def draw(one: MapPicture) -> None:
    """The section: switched on by hand, since it takes a moment."""
    st.subheader("Cut the object out", anchor=False)
    wanted = st.toggle(
        "GrabCut from this map",
        key="cut",
        bind="query-params",
        help="Where the map is strongest is surely object, where it is weakest surely background; the rest is decided "
        "by colour. It finds what looks alike, not what belongs together.",
    )
    if not wanted:
        return
    _thresholds()
    try:
        mask = _from_map(_digest(one), *quantiles(), one)
    except CnnvizError as error:
        frame.problem(error)
        return
    pixels = one.chosen.image.pixels
    picture, numbers = st.columns([3, 2], gap="medium")
    with picture:
        st.image(render.jpeg(_smaller(dimmed(pixels, mask)), quality=90), width="stretch")
        st.caption(f"What was found: {format_percent(mask.values.mean())} of the whole photo. The rest is dimmed.")
    with numbers:
        _take_away(one, mask)
        _compare(mask)


def _thresholds() -> None:
    """Asks where the object and the background begin; :func:`quantiles` has the answer."""
    row = st.container(horizontal=True)
    row.slider(
        "Surely object: strongest, %", 1, 50, _OBJECT_PERCENT, key="surely_object", bind="query-params",
        help="Share of the map’s places that are taken as object to begin with. Simonyan et al. take 5 %.",
    )  # fmt: skip
    row.slider(
        "Surely background: weakest, %", 1, 60, _BACKGROUND_PERCENT, key="surely_background", bind="query-params",
        help="Share of the map’s places that are taken as background to begin with. Simonyan et al. take 30 %.",
    )  # fmt: skip


def quantiles() -> tuple[float, float]:
    """Quantiles of a map at which object and background begin on this page; as in the paper while nothing is cut."""
    is_cut = st.session_state.get("cut", False)
    surely_object = st.session_state["surely_object"] if is_cut else _OBJECT_PERCENT
    surely_background = st.session_state["surely_background"] if is_cut else _BACKGROUND_PERCENT
    return 1 - surely_object / 100, surely_background / 100


def dimmed(pixels: show.Pixels, mask: Mask) -> show.Pixels:
    """A picture, (H, W, 3), dark where its mask (H, W) is not."""
    return np.where(mask.values[..., None], pixels, (pixels * _DIMMED).astype(np.uint8))


def _digest(one: MapPicture) -> str:
    """What a mask depends on beside its settings: map, picture and crop."""
    made_of = f"{one.chosen.image.digest} {one.chosen.model.preprocessing!r} {one.checked.shape}".encode()
    return hashlib.blake2b(made_of + one.checked.tobytes(), digest_size=16).hexdigest()


@st.cache_data(max_entries=16, show_spinner="Cutting the object out")
def _from_map(digest: str, foreground: float, background: float, _one: MapPicture) -> Mask:  # noqa: ARG001
    """The object's mask over the whole photo, (H, W) of the original; kept by picture, map and settings."""
    chosen = _one.chosen
    return segmentation.grabcut(
        chosen.image,
        _one.checked,
        foreground_quantile=foreground,
        background_quantile=background,
        crop_box=chosen.model.preprocessing.crop_box(chosen.image),
    )


def _smaller(pixels: show.Pixels) -> show.Pixels:
    step = max(1, -(-max(pixels.shape[:2]) // (2 * _SHOWN_PX)))
    return pixels[::step, ::step]


def _take_away(one: MapPicture, mask: Mask) -> None:
    row = st.container(horizontal=True)
    row.download_button(
        "Object (PNG)",
        lambda: render.png(segmentation.cut_out(one.chosen.image, mask)),
        "object.png",
        help="The photo with everything but the object transparent.",
        key="cut_object",
        on_click="ignore",
    )
    row.download_button(
        "Mask (PNG)",
        lambda: render.png(mask.values.astype(np.uint8) * 255),
        "mask.png",
        help="White where the object is, at the photo’s own size.",
        key="cut_mask",
        on_click="ignore",
    )


def _compare(mask: Mask) -> None:
    """How well the mask fits a true one, if there is one."""
    file = st.file_uploader(
        "A true mask, to compare with",
        type=["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"],
        key="true_mask",
        max_upload_size=_LARGEST_MASK_MB,
        help="A picture with the photo’s proportions: light where the object is, dark elsewhere.",
    )
    if file is None:
        return
    try:
        true = segmentation.read_mask(open_image(file.getvalue(), name=file.name), mask.values.shape)
    except CnnvizError as error:
        frame.problem(error)
        return
    st.metric(
        "Intersection over union",
        f"{segmentation.iou(mask, true):.2f}",
        help="Pixels in both masks over pixels in either: 1 is a perfect fit, 0 none at all.",
    )
