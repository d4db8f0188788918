"""Made pictures on a page: a wall that fills in while they are made, one of them enlarged, and their downloads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from cnnviz_core import render
from cnnviz_core.results import ClassImages, FloatArray, Synthesis
from cnnviz_core.ui import charts, frame, show
from cnnviz_core.ui.pickers import Selection

TILE_PX = 128
_ENLARGED_PX = 448
_CHECKER_PX = 8
_MAX_WALL_PX = 640


def pixels(found: Synthesis) -> show.Pixels:
    """The pictures as bytes, (n, H, W, 3)."""
    return np.asarray((found.images * 255).round(), dtype=np.uint8)


def so_far(found: Synthesis | ClassImages, *, key: str = "pictures_so_far") -> None:
    """What is there while pictures are made."""
    pictures = found.pictures if isinstance(found, ClassImages) else found
    show.mosaic_wall(
        render.rgb_mosaic(pixels(pictures), tile_px=TILE_PX),
        key=key,
        aria="The pictures so far",
        labels=_labels(pictures),
        tile_px=TILE_PX,
        smooth=True,
        max_height=_MAX_WALL_PX,
    )


def _labels(found: Synthesis, notes: Sequence[str] = ()) -> list[str]:
    """Name and score below each picture; failures are marked."""
    notes = notes or [render.format_value(float(score)) for score in found.scores]
    return [
        f"{name}: {note}" + (" · grey" if failed else "")
        for name, note, failed in zip(found.names, notes, found.has_failed, strict=True)
    ]


def wall(found: Synthesis, *, key: str, what: str, notes: Sequence[str] = ()) -> int:
    """The pictures to click; returns the place of the chosen one."""
    num = len(found.images)
    selected = min(int(st.session_state.get(key, 0)), num - 1)

    def choose(place: int) -> None:
        st.session_state[key] = place

    show.mosaic_wall(
        render.rgb_mosaic(pixels(found), tile_px=TILE_PX),
        selected=selected,
        key=f"{key}_wall",
        aria=what,
        labels=_labels(found, notes),
        tile_px=TILE_PX,
        smooth=True,
        max_height=_MAX_WALL_PX,
        on_select=choose,
    )
    return selected


def enlarged(chosen: Selection, found: Synthesis, place: int, *, title: str, code: str, key: str = "picture") -> None:
    """One picture, with its alpha mask if wanted, and its downloads.

    Args:
        chosen: Network and picture of the sidebar.
        found: The pictures.
        place: Which of them.
        title: What is to be seen.
        code: Python that picks the pictures out of ``result``, with ``{}`` for the place.
        key: Unique on the page.
    """
    with_alpha = st.toggle(
        "Fade what did not matter",
        key=f"{key}_alpha",
        bind="query-params",
        help="Pixels on which the objective hardly ever depended are transparent: an alpha mask, made of the gradients "
        "of all steps.",
    )
    one = pixels(found)[place]
    alpha = found.alphas[place] if with_alpha else None
    large = show.fitted(one, (_ENLARGED_PX, _ENLARGED_PX))
    if alpha is not None:
        large = _over_checker(large, show.fitted(_as_bytes(alpha), large.shape[:2])[..., None])
    st.image(render.png(large), width=_ENLARGED_PX)
    values = found.images[place] if alpha is None else np.concatenate([found.images[place], alpha[..., None]], axis=-1)

    def figure() -> bytes:
        return render.figure_png(large, title=title, caption=chosen.model.spec.title)

    show.downloads(
        chosen,
        found.run,
        key=key,
        title=title,
        figure=figure,
        exact=lambda: render.png(one),
        values=values,
        code=code.format(place),
    )


def _as_bytes(alpha: FloatArray) -> show.Pixels:
    return np.asarray((alpha * 255).round(), dtype=np.uint8)


def _over_checker(picture: show.Pixels, alpha: show.Pixels) -> show.Pixels:
    """The picture over a chequered ground, which shows what is transparent."""
    rows, columns = (np.arange(side) // _CHECKER_PX for side in picture.shape[:2])
    ground = np.where((rows[:, None] + columns[None]) % 2, 200.0, 235.0)[..., None]
    share = alpha.astype(np.float64) / 255
    return np.asarray((share * picture + (1 - share) * ground).round(), dtype=np.uint8)


def caption(chosen: Selection, found: Synthesis) -> None:
    """Network, layer, how many, how long; and the picture it began with, if it did."""
    run = found.run
    parts = [chosen.model.spec.title, found.layer, f"{len(found.images)} pictures", f"{found.histories.shape[1]} steps"]
    start = "from the picture" if run.image_digest else f"from noise, seed {run.seed}"
    st.caption(frame.plain(" · ".join(filter(None, [*parts, start, f"{run.seconds:.1f} s"]))))


def grey_scores(chosen: Selection, found: Synthesis) -> None:
    """Which pictures failed, with the histogram and the cut."""
    num_failed = int(found.has_failed.sum())
    words = f"{num_failed} of {len(found.images)} stayed grey" if num_failed else "None stayed grey"
    with st.expander(f"Grey failures: {words.lower()}"):
        marks = {"cut": found.grey_cut} if found.grey_cut else {}
        charts.draw(
            render.histogram(found.grey_scores, unit="distance from grey, of 0..1", marks=marks, num_bins=40, low=0.0),
            key="grey_scores",
            title="Distances of pictures from grey",
            run=found.run,
            chosen=chosen,
            table=lambda: {
                "picture": list(found.names),
                "distance from grey, of 0..1": found.grey_scores.tolist(),
                "stayed grey": ["yes" if failed else "no" for failed in found.has_failed],
            },
        )
        st.caption(
            f"{words}. The score is how far a picture’s colours are from its greys (root mean square). A picture that "
            "excited nothing from the start stays as grey as it began; sorted by score, the first gap of more than a "
            "tenth of the largest score separates such failures, if those below it have next to no colour. A pattern "
            "in black and white can score low, too: look before you drop it."
        )


def climb(chosen: Selection, found: Synthesis, place: int, *, unit: str) -> None:
    """How one picture's objective grew."""
    if not found.histories.shape[1]:
        return
    first, last = float(found.start_scores[place]), float(found.scores[place])
    charts.draw(
        render.steps_figure({found.names[place]: found.histories[place]}, unit=unit, is_share=False),
        key="climb",
        title=f"How {found.names[place]} grew",
        run=found.run,
        chosen=chosen,
        is_small=True,
    )
    st.caption(
        f"From {render.format_value(first)} to {render.format_value(last)}, the picture seen straight. The curve is of "
        "the views that each step saw, so it trembles."
    )
