"""One slide of a tour, as large as the screen: what it says, its pictures, and the way to the other slides.

Onward by buttons, by dots, or by the keys that a presenter's remote sends: arrows, Page Up and Page Down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from cnnviz_core.ui.components import clicks, packing

_slide = packing.register("slide", isolated=False)


@dataclass(frozen=True)
class Picture:
    """A picture on a slide.

    Attributes:
        data: PNG or JPEG.
        label: What is written below it.
    """

    data: bytes
    label: str


def show(
    *,
    key: str,
    titles: Sequence[str],
    stop: int,
    large: str,
    small: str,
    pictures: Sequence[Picture] = (),
    bars: Sequence[tuple[str, float]] = (),
    on_go: Callable[[int], None],
) -> None:
    """Draws the slide.

    Args:
        key: Unique on the page.
        titles: What each slide is called, for tooltips and screen readers.
        stop: Which one this is, 0-based.
        large: The sentence that all shall read.
        small: What else is to be said.
        pictures: Side by side, equally high, as large as the screen lets them be.
        bars: Names with shares, 0..1, beside the pictures.
        on_go: Called with the slide to go to, before the page runs again.

    Raises:
        TypeError: A picture is not bytes.
        ValueError: There is no such slide, or a picture is neither PNG nor JPEG.
    """
    if not 0 <= stop < len(titles):
        raise ValueError(f"There is no slide {stop} among {len(titles)}.")
    media = [packing.picture_info(one.data) for one in pictures]

    def report() -> None:
        clicked = clicks.unanswered(key, (len(titles),))
        if clicked is not None:
            on_go(clicked[0])

    with st.container(gap=None):
        header = {
            "titles": list(titles),
            "stop": stop,
            "large": large,
            "small": small,
            "pictures": [
                {
                    "token": packing.send(one.data, key=f"{key}.picture{at}"),
                    "type": media_type,
                    "size": [width, height],
                    "label": one.label,
                }
                for at, (one, (media_type, width, height)) in enumerate(zip(pictures, media, strict=True))
            ],
            "bars": [[label, share] for label, share in bars],
            "answers": clicks.stamp(key),
        }
        _slide(key=key, data=packing.pack(header), on_click_change=report)
    clicks.answer(key)
