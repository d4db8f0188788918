"""Some pictures of a collection made small: all that can be shown of it before a network has seen it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import streamlit as st

from cnnviz_core import collections, render
from cnnviz_core.collections import Collection, embedding
from cnnviz_core.errors import BadImage
from cnnviz_core.images import Pixels

_SIDE_PX, _MOST, _COLUMNS = 96, 24, 12


def draw(collection: Collection) -> None:
    """Pictures from all over the collection, in its order."""
    paths = [picture.path for picture in collection.pictures()]
    places = np.linspace(0, len(paths) - 1, min(_MOST, len(paths))).round().astype(int)
    if not paths:
        return
    small = thumbnails(collection.collection_id, tuple(paths[place] for place in places), _SIDE_PX)
    st.image(render.rgb_mosaic(small, tile_px=_SIDE_PX, columns=_COLUMNS).png)
    st.caption(f"{len(places)} of the {len(paths):,} pictures, as they lie in the collection.")


@st.cache_data(max_entries=16, show_spinner="Opening pictures")
def thumbnails(collection_id: str, paths: tuple[str, ...], side_px: int) -> Pixels:
    """(n, side_px, side_px, 3) pictures of a collection made small; grey where a file has gone."""
    collection = collections.open_by_id(collection_id)

    def at_least(height: int, width: int) -> tuple[int, int]:
        shorter = min(height, width)
        return side_px * height // shorter, side_px * width // shorter

    def small(path: str) -> Pixels:
        try:
            file = embedding.File(collection.folder / path)
            return render.thumbnail(embedding.read_reduced(file, at_least), side_px)
        except BadImage:
            return np.full((side_px, side_px, 3), 128, np.uint8)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(small, paths)))
