"""Two pictures of one size, the first left of an edge and the second right of it; the edge is dragged over them.

Also by the arrow keys, Page Up and Page Down, Home and End, since the edge is a slider.
"""

from __future__ import annotations

import streamlit as st

from cnnviz_core.ui.components import packing

_view = packing.register("before_after")


def show(*, key: str, before: bytes, after: bytes, names: tuple[str, str], aria: str) -> None:
    """Draws the two; where the edge is stays in the browser.

    Args:
        key: Unique on the page.
        before: PNG or JPEG, at the left.
        after: The same, at the right; of any size, since both are drawn at the size of the screen.
        names: What each of them is, written into its corner.
        aria: What the slider does, for screen readers.

    Raises:
        TypeError: A picture is not bytes.
        ValueError: A picture is neither PNG nor JPEG.
    """
    media = [packing.picture_info(picture) for picture in (before, after)]
    with st.container(gap=None):  # no gaps for the parts, which nobody sees
        tokens = [packing.send(one, key=f"{key}.{side}") for side, one in (("before", before), ("after", after))]
        header = {
            "pictures": [
                {"token": token, "type": media_type, "name": name}
                for token, (media_type, _, _), name in zip(tokens, media, names, strict=True)
            ],
            "aspect": media[1][1] / media[1][2],
            "aria": aria,
        }
        _view(key=key, data=packing.pack(header))
