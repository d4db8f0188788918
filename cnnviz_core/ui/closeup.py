"""One map over the photo, to measure in: a rectangle drawn by hand, a threshold with its box, the whole photo."""

from __future__ import annotations

import re
from functools import partial
from math import ceil, floor

import numpy as np
import streamlit as st

from cnnviz_core import maps, render
from cnnviz_core.errors import CnnvizError
from cnnviz_core.methods import segmentation, trust
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.render import Scale
from cnnviz_core.results import Mask
from cnnviz_core.ui import frame, pickers, screen, show
from cnnviz_core.ui.components import heat_view
from cnnviz_core.ui.components.heat_view import Box
from cnnviz_core.ui.gallery import Look, MapPicture
from cnnviz_core.ui.pickers import Selection

_CROP, _PHOTO = "what the network saw", "the whole photo"
_PHOTO_PX = 768
_SIDE_PX = 512
_RECTANGLE = re.compile(r"[01]\.\d{3}(~[01]\.\d{3}){3}")


def draw(one: MapPicture, scale: Scale, look: Look) -> None:
    """The map with its numbers, marks and downloads."""
    if one.pixels is not None:
        _in_own_colours(one, one.pixels)
        return
    place = pickers.choose(
        "Shown on",
        [_CROP, _PHOTO],
        key="shown_on",
        help="The network sees a resized crop; the rest of the photo plays no part in its answer.",
    )
    whole = place == _PHOTO
    share, hides = _threshold(one)
    found = _box_above(one, share)
    limit = share * float(np.nanmax(one.values, initial=0.0))
    values = np.where(one.values >= limit, one.values, np.float32(np.nan)) if hides else one.values
    drawn = rectangle_box(one.chosen)
    boxes = ({"your rectangle": drawn} if drawn else {}) | ({f"above {format_percent(share)}": found} if found else {})

    show.map_over_photo(
        one.chosen,
        one.values,
        shown=values,
        run=one.run,
        code=one.code,
        title=one.title,
        key="closeup",
        scale=scale,
        colour_map=look.map_for(scale),
        unit=one.unit,
        max_px=_photo_px(one.chosen) if whole else _SIDE_PX,
        in_photo=whole,
        smooth=look.smooth,
        opacity=look.opacity,
        drawable=True,
        boxes=boxes,
        on_box=partial(keep_rectangle, one.chosen),
    )
    if whole:
        all_seen = show.window(one.chosen) == (0, 0, 1, 1)
        st.caption(f"The network saw {'all of it' if all_seen else 'only what is inside the white frame'}.")
    if drawn:
        _inside(one, drawn)


def _photo_px(chosen: Selection) -> int:
    """The whole photo's longer side on screen: the shorter one is as long as that of a crop, where there is room."""
    sides = chosen.image.height, chosen.image.width
    return min(_PHOTO_PX, round(_SIDE_PX * max(sides) / min(sides)))


def _in_own_colours(one: MapPicture, pixels: show.Pixels) -> None:
    """A picture whose colours are not a scale's, with the map's numbers as downloads."""
    st.image(render.png(show.enlarged_pixels(pixels, _SIDE_PX)), width=_SIDE_PX)
    caption = f"{one.chosen.model.spec.title}, {one.chosen.image.name}"
    show.downloads(
        one.chosen,
        one.run,
        key="closeup",
        title=one.title,
        figure=lambda: render.figure_png(pixels, title=one.title, caption=caption),
        exact=lambda: render.png(pixels),
        values=one.values,
        code=one.code,
    )


def _threshold(one: MapPicture) -> tuple[float, bool]:
    """Share of the maximum, and whether what is below is hidden."""
    row = st.container(horizontal=True, vertical_alignment="bottom")
    percent = row.slider(
        "Threshold, %",
        0,
        95,
        20,
        5,
        key="threshold",
        bind="query-params",
        help="In per cent of the map’s maximum. The dashed box holds the largest connected part above it. 20 % is the "
        "convention of the CAM paper for finding objects.",
    )
    hides = row.toggle("Hide what is below", key="hide_below", bind="query-params")
    row.download_button(
        "Mask",
        lambda: _mask_png(one, percent / 100),
        "mask.png",
        icon=":material/download:",
        help="White where the map is above the threshold, at the size of what the network saw.",
        key="threshold_mask",
        on_click="ignore",
    )
    return percent / 100, hides


def _mask_png(one: MapPicture, share: float) -> bytes:
    values = maps.resize(one.values, one.chosen.model.preprocessing.input_px)
    highest = np.nanmax(values, initial=0.0)
    return render.png(((values >= share * highest) & (highest > 0)).astype(np.uint8) * 255)


def _box_above(one: MapPicture, share: float) -> Box | None:
    """The box as shares of the crop (top, left, bottom, right); None where no value is above zero."""
    shape = one.chosen.model.preprocessing.input_px
    try:
        _, (left, top, right, bottom) = segmentation.box_of(maps.resize(one.values, shape), share=share)
    except CnnvizError:  # nothing above zero, or no number at all
        return None
    return top / shape[0], left / shape[1], bottom / shape[0], right / shape[1]


def _inside(one: MapPicture, box: Box) -> None:
    """How much of the map lies in the rectangle."""
    top, left, bottom, right = box
    share, area = trust.evidence_inside(one.values, as_mask(one.chosen.model, box)), (bottom - top) * (right - left)
    row = st.container(horizontal=True, vertical_alignment="center")
    much = f"**{format_percent(share)}** of the map’s positive values lie"
    words = much if np.isfinite(share) else "No positive value lies"
    row.markdown(f"{words} in your rectangle, which covers {format_percent(area)} of what the network saw.")
    row.button(
        "Remove the rectangle",
        key="remove_rectangle",
        on_click=st.session_state.pop,
        args=(_rectangle_of(one.chosen), None),
    )


def draw_rectangle(chosen: Selection, *, key: str, px: int) -> Box | None:
    """What the network saw, to draw a rectangle on; returns it as shares of the crop, None while there is none."""
    box = rectangle_box(chosen)
    heat_view.show(
        show.crop(chosen),
        None,
        key=key,
        aria="What the network saw; draw a rectangle",
        drawable=True,
        boxes={"your rectangle": box} if box else {},
        max_px=px,
        on_box=partial(keep_rectangle, chosen),
    )
    st.caption("Draw a rectangle: drag, or Shift and the arrow keys, then Enter.")
    return box


def rectangle_box(chosen: Selection) -> Box | None:
    """The rectangle drawn on this picture, as shares of the crop; None where there is none."""
    if "rectangle_linked" not in st.session_state:  # it is of the picture with which the link opens
        st.session_state["rectangle_linked"] = True
        st.session_state.setdefault(_rectangle_of(chosen), _linked_rectangle())
    box: Box | None = st.session_state.get(_rectangle_of(chosen))
    screen.remember("rectangle", "~".join(f"{edge:.3f}" for edge in box) if box else "")
    return box


def _linked_rectangle() -> Box | None:
    """What the link says; None for nothing, and for what is no rectangle."""
    text = st.query_params.get("rectangle", "")
    if not _RECTANGLE.fullmatch(text):
        if text:
            frame.notice("The link has a rectangle that is none; draw it again.")
        return None
    top, left, bottom, right = map(float, text.split("~"))
    return (top, left, bottom, right) if top < bottom <= 1 and left < right <= 1 else None


def keep_rectangle(chosen: Selection, box: Box) -> None:
    """Takes note of the rectangle drawn on this picture."""
    st.session_state[_rectangle_of(chosen)] = box


def _rectangle_of(chosen: Selection) -> str:
    """Where the session keeps the picture's rectangle."""
    return f"rectangle {chosen.image.digest} {chosen.model.preprocessing!r}"


def as_mask(model: LoadedModel, box: Box) -> Mask:
    """A rectangle as a mask over the crop, (H, W) of the network's input."""
    top, left, bottom, right = box
    height, width = shape = model.preprocessing.input_px
    # Every pixel that it touches, so that a thin one has some, too.
    edges = (floor(left * width), floor(top * height), ceil(right * width), ceil(bottom * height))
    return segmentation.rectangle(edges, shape=shape)
