"""Figures: a wall of maps, a map over the photo, and the downloads that every figure has."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from cnnviz_core import manifest, render
from cnnviz_core.images import InputImage
from cnnviz_core.render import Scale
from cnnviz_core.results import FloatArray, Run
from cnnviz_core.ui import screen, take_away
from cnnviz_core.ui.components import heat_view, tiles
from cnnviz_core.ui.components.heat_view import Box
from cnnviz_core.ui.pickers import Selection
from cnnviz_core.ui.take_away import File

Pixels = NDArray[np.uint8]

_SO_FAR_PX = 420
_BAR_ROWS = 4  # beside 255 columns, and as wide as the wall that it explains
_WHOLE_PX = 1024


def wall(
    mosaic: render.Mosaic,
    ids: Sequence[int] | NDArray[np.intp],
    *,
    key: str,
    selected: int,
    what: str,
    hints: Sequence[str] | None = None,
    tile_px: int = 64,
    max_height: int = 560,
) -> None:
    """A wall of tiles to click; the click puts the tile's id into ``st.session_state[key]``.

    Args:
        mosaic: The tiles, in the order of ``ids``.
        ids: What each tile is: the channel or kernel number.
        key: Name of the session state that holds the chosen id; a number input of the same key may show it.
        selected: The chosen id.
        what: What the wall shows, for screen readers.
        hints: A tooltip for each tile.
        tile_px: Displayed width of a tile.
        max_height: Above this height the wall scrolls within itself.
    """

    def choose(index: int) -> None:
        st.session_state[key] = int(ids[index])

    places = np.flatnonzero(np.asarray(ids) == selected)
    if mosaic.shrink > 1:
        st.caption(f"A pixel of a tile is the mean of {mosaic.shrink} × {mosaic.shrink} cells.")
    mosaic_wall(
        mosaic,
        key=f"{key}_wall",
        selected=int(places[0]) if len(places) else None,
        aria=what,
        hints=hints,
        tile_px=tile_px,
        max_height=max_height,
        on_select=choose,
    )


def mosaic_wall(mosaic: render.Mosaic, *, selected: int | None = None, **wall: Any) -> None:
    """Tiles to click; further arguments are those of :func:`tiles.show`."""
    tiles.show(
        mosaic.png,
        num=mosaic.num,
        tile_size=mosaic.tile_size,
        atlas_columns=mosaic.columns,
        selected=selected,
        **wall,
    )


def map_over_photo(
    selection: Selection,
    values: FloatArray,
    *,
    run: Run,
    code: str,
    title: str,
    key: str,
    scale: Scale,
    colour_map: str | None = None,
    unit: str = "activation",
    max_px: int = 512,
    shown: FloatArray | None = None,
    in_photo: bool = False,
    **view: Any,
) -> None:
    """A map over what the network saw, with colour bar, opacity, values on hover, and its downloads.

    Args:
        selection: Network and picture.
        values: (h, w), raw.
        run: The result's own account.
        code: Python that picks the map out of ``result``.
        title: What is to be seen.
        key: Unique on the page.
        scale: One pair of limits.
        colour_map: A name from :data:`render.COLOUR_MAPS`; None for the scale's default.
        unit: What the values are.
        max_px: Displayed size.
        shown: The values on screen where they differ from those taken away: parts of them hidden.
        in_photo: Whether on the whole photo, where it lies in it; else on the very crop that the network saw.
        **view: Further arguments of :func:`heat_view.show`: clicks, boxes, interpolation.
    """
    if in_photo:
        view["window"] = window(selection)
    heat_view.show(
        whole(selection.image) if in_photo else crop(selection),
        np.ascontiguousarray(values if shown is None else shown, dtype=np.float32),
        key=key,
        low=scale.low[0],
        high=scale.high[0],
        lut=render.find_colour_map(colour_map, signed=scale.signed).lut,
        unit=unit,
        max_px=max_px,
        aria=title,
        **view,
    )

    def figure() -> bytes:
        over = {"scale": scale, "colour_map": colour_map, "smooth": view.get("smooth", False), "opacity": 0.6}
        return render.figure_png(
            _over(selection, values, in_photo=in_photo, **over),
            title=title,
            caption=_caption(selection),
            scale=scale,
            colour_map=colour_map,
            unit=unit,
        )

    downloads(
        selection,
        run,
        key=key,
        title=title,
        figure=figure,
        exact=lambda: render.png(render.colourise(values, scale=scale, colour_map=colour_map)),
        values=values,
        code=code,
        shown=_shown(scale, colour_map),
    )


def _over(selection: Selection, values: FloatArray, *, in_photo: bool, **over: Any) -> Pixels:
    """The map on the crop or in the photo; further arguments are those of :func:`render.overlay`."""
    if not in_photo:
        return render.overlay(crop_pixels(selection), values, **over)
    pixels = _whole_pixels(selection.image)
    height, width = pixels.shape[:2]
    top, left, bottom, right = window(selection)
    return render.paste_onto(pixels, (left * width, top * height, right * width, bottom * height), values, **over)


def so_far(selection: Selection, values: FloatArray, *, key: str, scale: Scale, unit: str) -> None:
    """A map that is still being made, over the crop. Not a picture file: those go when the next one comes."""
    heat_view.show(
        crop(selection),
        np.ascontiguousarray(values, dtype=np.float32),
        key=f"{key}_so_far",
        low=scale.low[0],
        high=scale.high[0],
        lut=render.find_colour_map(signed=scale.signed).lut,
        unit=unit,
        max_px=_SO_FAR_PX,
        aria="the map so far",
    )


def _caption(selection: Selection) -> str:
    return f"{selection.model.spec.title}, {selection.image.name}"


def crop(selection: Selection) -> bytes:
    """What the network saw, as a JPEG."""
    return _crop(selection.image.digest, repr(selection.model.preprocessing), selection)


@st.cache_data(max_entries=64, show_spinner=False)
def _crop(digest: str, preprocessing: str, _selection: Selection) -> bytes:  # noqa: ARG001 - the cache's key
    return render.jpeg(crop_pixels(_selection), quality=92)


def crop_pixels(selection: Selection) -> Pixels:
    """What the network saw, (H, W, 3)."""
    return selection.model.preprocessing.crop(selection.image)


def whole(image: InputImage) -> bytes:
    """All of a picture as a JPEG, a large one reduced."""
    return _whole(image.digest, image)


@st.cache_data(max_entries=64, show_spinner=False)
def _whole(digest: str, _image: InputImage) -> bytes:  # noqa: ARG001 - the cache's key
    return render.jpeg(_whole_pixels(_image), quality=90)


def _whole_pixels(image: InputImage) -> Pixels:
    """All of a picture, (H, W, 3), a large one reduced."""
    picture = image.pil()
    picture.thumbnail((_WHOLE_PX, _WHOLE_PX))
    return np.asarray(picture)


def window(selection: Selection) -> Box:
    """Where the crop lies in the photo: (top, left, bottom, right) as shares of it; may reach outside."""
    height, width = selection.image.height, selection.image.width
    left, top, right, bottom = selection.model.preprocessing.crop_box(selection.image)
    # Rounded, so that all of a photo is all of it.
    return round(top / height, 6), round(left / width, 6), round(bottom / height, 6), round(right / width, 6)


def fitted(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """A picture stretched to (H, W)."""
    if pixels.shape[:2] == shape:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR))


def wall_downloads(
    selection: Selection,
    run: Run,
    *,
    key: str,
    title: str,
    draw: Callable[[int | None], render.Mosaic],
    order: NDArray[np.intp],
    values: FloatArray,
    code: str,
    scale: Scale | None = None,
    colour_map: str | None = None,
    unit: str = "",
) -> None:
    """The downloads of a whole wall of tiles.

    Args:
        selection: Network and picture.
        run: The result's own account.
        key: Unique on the page.
        title: What is to be seen.
        draw: Makes the wall with tiles of that many pixels; None for the size on screen.
        order: The tiles' numbers in reading order.
        values: Raw numbers, (n, h, w) or more, in the layer's own order.
        code: Python that picks them out of ``result``.
        scale: What the colours mean; None draws no colour bar.
        colour_map: A name from :data:`render.COLOUR_MAPS`; None for the scale's default.
        unit: What the values are.
    """

    def figure() -> bytes:
        with Image.open(io.BytesIO(draw(None).png)) as tiles_picture:
            pixels = np.asarray(tiles_picture.convert("RGB"))
        return render.figure_png(
            pixels, title=title, caption=_caption(selection), scale=scale, colour_map=colour_map, unit=unit
        )

    downloads(
        selection,
        run,
        key=key,
        title=title,
        figure=figure,
        exact=lambda: draw(max(values.shape[-2:])).png,
        values=values,
        code=code,
        shown={"tiles_in_reading_order": [int(i) for i in order], **_shown(scale, colour_map)},
    )


def _shown(scale: Scale | None, colour_map: str | None) -> dict[str, object]:
    """How numbers became colours, for the manifest."""
    if scale is None:
        return {}
    return {"colour_map": colour_map or "default", "low": list(scale.low), "high": list(scale.high)}


def downloads(
    selection: Selection,
    run: Run,
    *,
    key: str,
    title: str,
    figure: Callable[[], bytes],
    exact: Callable[[], bytes],
    values: NDArray[np.generic],
    code: str,
    shown: Mapping[str, object] | None = None,
    inputs: Mapping[str, str] | None = None,
    more: Sequence[File] = (),
) -> None:
    """Below a figure: its four files (as shown, pixel by pixel, raw, how to make it again), report and link.

    Args:
        selection: Network and picture.
        run: The result's own account.
        key: Unique on the page.
        title: What is to be seen; the file names are made of it.
        figure: Makes the PNG with title, colour bar and caption.
        exact: Makes the PNG with one pixel per cell.
        values: Raw numbers, saved as .npy.
        code: Python that picks what is shown out of ``result``.
        shown: How it is shown: order, colours, limits.
        inputs: As in :func:`manifest.manifest`.
        more: Further files, before the last; in place of a file's name its ending.
    """
    image = selection.image if run.image_digest else None
    stem, link = take_away.stem(title), screen.here()

    def account() -> str:
        return manifest.manifest(
            run, image=image, photo_id=selection.image_id, selection=code, shown=shown, inputs=inputs, link=link
        )

    files: list[File] = [
        ("Picture (PNG)", f"{stem}.png", "With title, colour bar and caption, for a slide.", figure),
        ("Exact pixels (PNG)", f"{stem}-exact.png", "Pixel by pixel, nothing interpolated.", exact),
        ("Raw values (.npy)", f"{stem}.npy", "The numbers themselves, for numpy.load.", lambda: render.npy(values)),
        *((label, f"{stem}{ending}", tooltip, data) for label, ending, tooltip, data in more),
        take_away.manifest_file(title, account),
    ]
    take_away.draw(
        files,
        key=key,
        title=title,
        picture=figure,
        caption=_caption(selection),
        settings=take_away.settings_of(
            run, network=selection.model.spec.title, picture=selection.image.name if image else ""
        ),
    )


def colour_bar(scale: Scale, colour_map: str | None, unit: str, *, of: str = "") -> None:
    """What the colours of a wall mean; ``of`` says of which tiles, where that is not plain."""
    lut = render.find_colour_map(colour_map, signed=scale.signed).lut
    if len(scale.low) > 1:
        around = "Each tile has colours of its own" + (", with zero in the middle" if scale.signed else "")
        st.caption(f"{around}; compare shapes, not brightness.")
        return
    st.image(np.repeat(lut[None, : render.MISSING], _BAR_ROWS, axis=0), width="stretch")
    low, high = render.format_value(scale.low[0]), render.format_value(scale.high[0])
    middle = ", 0 in the middle," if scale.signed else ""
    start = f"{of}: from" if of else "From"
    st.caption(f"{start} {low} on the left{middle} to {high} on the right ({unit}).")


def enlarged_pixels(pixels: Pixels, side: int) -> Pixels:
    """Pixels as squares, by the largest whole factor that keeps the longer side within ``side``."""
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
