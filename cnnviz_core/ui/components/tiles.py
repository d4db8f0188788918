"""A wall of small pictures to choose from: feature maps, kernels, thumbnails, patches.

All tiles travel as one picture (the atlas) and are painted on one canvas, which stays quick with a thousand tiles
where one widget per tile takes seconds. Hover, tooltip, keyboard and the outline of the choice happen in the browser;
only a choice makes the page run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from cnnviz_core.ui.components import clicks, packing

_wall = packing.register("tiles")


def show(
    atlas: bytes,
    *,
    num: int,
    tile_size: tuple[int, int],
    atlas_columns: int,
    key: str,
    selected: int | None,
    aria: str,
    labels: Sequence[str] | None = None,
    hints: Sequence[str] | None = None,
    tile_px: int = 64,
    smooth: bool = False,
    max_height: int | None = 560,
    on_select: Callable[[int], None] | None = None,
) -> int | None:
    """The tile that was clicked just now, else ``selected``.

    Args:
        atlas: PNG or JPEG with the tiles row by row, without gaps.
        num: Number of tiles; the atlas may have room for more.
        tile_size: Height and width of one tile in the atlas, px.
        atlas_columns: Tiles per row of the atlas.
        key: Unique on the page.
        selected: The tile to outline, None for none. It wins over an older click in the browser.
        aria: What the wall shows, for screen readers.
        labels: A short text under each tile.
        hints: A tooltip for each tile.
        tile_px: Displayed width of a tile; tiles grow a little so that full rows end flush with the page.
        smooth: Interpolate when tiles are enlarged; tiles that are made smaller always are.
        max_height: Above this height, px, the wall scrolls within itself; None for a wall as high as it gets.
        on_select: Called with the clicked tile before the page runs again, the place to set session state.

    Returns:
        Index of a tile, 0-based.

    Raises:
        TypeError: The atlas is not bytes.
        ValueError: An argument out of range, an atlas too small, or texts that are not one per tile.
    """
    media_type, width, height = packing.picture_info(atlas)
    tile_height, tile_width = tile_size
    if min(num, tile_height, tile_width, atlas_columns, tile_px) < 1 or (max_height is not None and max_height < 1):
        raise ValueError("num, tile_size, atlas_columns, tile_px and max_height are 1 or more.")
    rows = -(-num // atlas_columns)
    if min(num, atlas_columns) * tile_width > width or rows * tile_height > height:
        raise ValueError(f"An atlas of {width} x {height} px has no room for {num} tiles in {rows} rows.")
    if selected is not None and not 0 <= selected < num:
        raise ValueError(f"Tile {selected} of {num} cannot be selected.")
    if any(texts is not None and len(texts) != num for texts in (labels, hints)):
        raise ValueError("labels and hints have one text per tile.")

    def report() -> None:
        clicked = clicks.unanswered(key, (num,))
        if clicked is not None and on_select is not None:
            on_select(clicked[0])

    with st.container(gap=None):
        header = {
            "atlas": packing.send(atlas, key=f"{key}.atlas"),
            "type": media_type,
            "num": num,
            "tile": [tile_height, tile_width],
            "columns": atlas_columns,
            "selected": selected,
            "labels": labels and list(labels),
            "hints": hints and list(hints),
            "px": tile_px,
            "smooth": smooth,
            "maxHeight": max_height,
            "aria": aria,
            "answers": clicks.stamp(key),
        }
        _wall(key=key, data=packing.pack(header), on_click_change=report)
    clicked = clicks.unanswered(key, (num,))
    clicks.answer(key)
    return selected if clicked is None else clicked[0]
