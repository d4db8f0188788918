"""Charts: every one is drawn here, with the row below it: its files, the way into the report, the link.

The files are the chart as SVG, its numbers as CSV, and the manifest that brings the screen back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from cnnviz_core import manifest, render
from cnnviz_core.results import Run
from cnnviz_core.ui import screen, setting_words, take_away
from cnnviz_core.ui.pickers import Selection
from cnnviz_core.ui.take_away import File

# The numbers of a chart where the figure has others: by column, all of one length.
Table = Mapping[str, Sequence[object]]
# What the row below does better, or the wheel and a double click do, too; the fewer, the less of the legend is covered.
_PLOTLY = {"modeBarButtonsToRemove": ["toImage", "zoomIn2d", "zoomOut2d", "autoScale2d"]}


def draw(
    figure: go.Figure,
    *,
    key: str,
    title: str,
    height: int | None = None,
    on_select: Callable[[], None] | None = None,
    **about: Any,
) -> None:
    """A chart with its row.

    Args:
        figure: What :func:`render.svg` can draw.
        key: Unique on the page.
        title: What is to be seen.
        height: In pixels; None for the figure's own.
        on_select: Called when points are selected; they are in the session state under ``key``.
        **about: Further arguments of :func:`row`.
    """
    st.plotly_chart(
        figure,
        key=key,
        width="stretch",
        height=height or "content",
        on_select=on_select or "ignore",
        alt=title,
        config=_PLOTLY,
    )
    row(lambda: figure, key=key, title=title, **about)


def so_far(figure: go.Figure, *, key: str) -> None:
    """A chart of work that goes on; it has its row when it is done."""
    st.plotly_chart(figure, key=key, width="stretch", config=_PLOTLY)


def row(
    figure: Callable[[], go.Figure],
    *,
    key: str,
    title: str,
    run: Run | None = None,
    chosen: Selection | None = None,
    made: Mapping[str, object] | None = None,
    table: Callable[[], Table] | None = None,
    code: str = "",
    inputs: Mapping[str, str] | None = None,
    is_small: bool = False,
) -> None:
    """The row of a chart that is on screen already.

    Args:
        figure: Makes what :func:`render.svg` can draw.
        key: Unique on the page.
        title: What is to be seen; the file names are made of it.
        run: The account of the result that is shown; None where there is none.
        chosen: Network and picture, where those of a selection led to it.
        made: What led to it beside that, by name.
        table: Makes the columns of the CSV; None takes the figure's.
        code: Python that picks what is shown out of ``result``.
        inputs: As in :func:`manifest.manifest`.
        is_small: As in :func:`take_away.draw`.
    """
    link = screen.here()
    network = chosen.model.spec.title if chosen else ""
    image = chosen.image if chosen and (run is None or run.image_digest) else None
    picture = image.name if image else ""
    more = dict(made or {})

    def svg() -> bytes:
        return render.svg(figure())

    def values() -> bytes:
        return render.table_csv(table() if table else render.figure_columns(figure()))

    stem = take_away.stem(title)
    files: list[File] = [
        ("Chart (SVG)", f"{stem}.svg", "For a slide or a paper, sharp at any size.", svg),
        ("Values (CSV)", f"{stem}.csv", "The numbers that the chart shows, in full, for a spreadsheet.", values),
    ]
    caption = ", ".join(filter(None, [network, picture]))
    if run is None:
        of_chosen = {name: words for name, words in (("network", network), ("picture", picture)) if words}
        take_away.draw_of_screen(
            files, key=key, title=title, picture=svg, made={**of_chosen, **more}, caption=caption, is_small=is_small
        )
        return

    def account() -> str:
        photo_id, shown = chosen.image_id if chosen else "", {"chart": title, **more}
        return manifest.manifest(
            run, image=image, photo_id=photo_id, selection=code, shown=shown, inputs=inputs, link=link
        )

    take_away.draw(
        [*files, take_away.manifest_file(title, account)],
        key=key,
        title=title,
        picture=svg,
        settings=take_away.settings_of(run, network=network, picture=picture) | setting_words.of(more),
        caption=caption,
        is_small=is_small,
    )
