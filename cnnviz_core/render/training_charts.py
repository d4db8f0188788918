"""Plotly figures of a training: the parts of a collection, curves over the epochs, the confusion matrix."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from cnnviz_core.numerals import format_percent
from cnnviz_core.render.charts import SERIES_COLOURS, SERIES_MARKERS, SHARES, figure_of
from cnnviz_core.render.colour import MISSING, find_colour_map

_MOST_WRITTEN = 30  # classes, up to which every cell of a matrix has its number
_MARK = "#D55E00"
_GREY = "rgba(128, 128, 128, 0.8)"


def parts_figure(class_names: Sequence[str], counts: Mapping[str, NDArray[np.int64]]) -> go.Figure:
    """How many pictures of each class are in each part, as stacked bars.

    Args:
        class_names: K of them.
        counts: Name of the part and (K,) numbers.
    """
    places = list(range(len(class_names)))
    names = [_literal(name) for name in class_names]
    short = [_literal(_shortened(name)) for name in class_names]
    bars = [
        go.Bar(
            x=places,
            y=values,
            name=_literal(part),
            marker={"color": SERIES_COLOURS[at % len(SERIES_COLOURS)]},
            customdata=names,
            hovertemplate="%{customdata}: %{y:,}",
        )
        for at, (part, values) in enumerate(counts.items())
    ]
    figure = figure_of(*bars, height=240)
    figure.update_layout(
        barmode="stack",
        bargap=0.2,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        meta={"name": "class"},
    )
    shown = places[:: -(-len(places) // _MOST_WRITTEN) or 1]
    figure.update_xaxes(tickvals=shown, ticktext=[short[at] for at in shown], tickangle=-40, showgrid=False)
    figure.update_yaxes(title="pictures")
    return figure


def epochs_figure(
    numbers: Sequence[int],
    series: Mapping[str, Sequence[float]],
    *,
    unit: str,
    num_epochs: int,
    best: int,
    level: tuple[str, float] | None = None,
    is_share: bool = False,
) -> go.Figure:
    """Lines over the epochs of a training; the axis has room for those to come, so that nothing moves meanwhile.

    Args:
        numbers: Of the epochs.
        series: Name and one value for each epoch.
        unit: What the values are.
        num_epochs: How many there are at most.
        best: The epoch that is kept, marked by a line.
        level: Name and height of a line to compare with.
        is_share: Whether the values are shares, 0..1.
    """
    lines = [
        go.Scatter(
            x=list(numbers),
            y=list(values),
            name=_literal(name),
            mode="lines+markers",
            line={"color": SERIES_COLOURS[at % len(SERIES_COLOURS)], "width": 2},
            marker={"size": 7, "symbol": SERIES_MARKERS[at % len(SERIES_MARKERS)]},
            text=[format_percent(value, 1) for value in values] if is_share else None,
            hovertemplate="epoch %{x}: %{text}" if is_share else "epoch %{x}: %{y:.4g}",
        )
        for at, (name, values) in enumerate(series.items())
    ]
    figure = figure_of(*lines, height=300)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    figure.update_xaxes(title="epoch", range=[-0.3, num_epochs + 0.3], dtick=max(1, num_epochs // 10))
    figure.update_yaxes(title=_literal(unit), rangemode="tozero")
    if is_share:
        figure.update_yaxes(**SHARES)
    figure.add_vline(best, line={"color": _MARK, "width": 1, "dash": "dot"})
    if level is not None and np.isfinite(level[1]):
        figure.add_hline(
            level[1],
            line={"color": _GREY, "width": 1.5, "dash": "dash"},
            annotation={"text": _literal(level[0]), "yanchor": "top" if level[1] > 0.5 else "bottom"},
        )
    return figure


def confusion_figure(
    class_names: Sequence[str], counts: NDArray[np.int64], *, selected: tuple[int, int] | None = None
) -> go.Figure:
    """How often pictures of the class of the row were answered with the class of the column.

    A cell's colour is its share of the row, so that classes of few pictures are seen as well; the number is the count.
    Every cell has an invisible point, numbered row by row, which a click selects.

    Args:
        class_names: K of them.
        counts: (K, K).
        selected: Row and column of the cell to outline.
    """
    num = len(class_names)
    names = [_literal(_shortened(name)) for name in class_names]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    lut = find_colour_map("viridis").lut[:MISSING]
    rows, columns = np.divmod(np.arange(num * num), num)
    words = [
        f"{names[row]} answered as {names[column]}: {counts[row, column]:,} of {totals[row, 0]:,}"
        for row, column in zip(rows, columns, strict=True)
    ]
    heat = go.Heatmap(
        z=shares,
        zmin=0,
        zmax=1,
        colorscale=[(at / (MISSING - 1), f"rgb({r},{g},{b})") for at, (r, g, b) in enumerate(lut.tolist())],
        colorbar={"title": "share of row", "thickness": 14, **SHARES},
        text=[[str(count) if count else "" for count in row] for row in counts.tolist()],
        texttemplate="%{text}" if num <= _MOST_WRITTEN else None,
        hoverinfo="skip",
    )
    points = go.Scatter(
        x=columns,
        y=rows,
        mode="markers",
        marker={"size": max(6, 420 // num), "opacity": 0, "symbol": "square"},
        text=words,
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
    )
    figure = figure_of(heat, points, height=max(320, min(900, 160 + 26 * num)))
    figure.update_layout(dragmode="pan")
    shown = list(range(0, num, -(-num // _MOST_WRITTEN) or 1))
    ticks = {"tickvals": shown, "ticktext": [names[at] for at in shown], "showgrid": False, "fixedrange": True}
    figure.update_xaxes(title="answer", tickangle=-40, range=[-0.5, num - 0.5], **ticks)
    figure.update_yaxes(title="class", range=[num - 0.5, -0.5], **ticks)
    if selected is not None:
        row, column = selected
        figure.add_shape(
            type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": _MARK, "width": 3},
        )  # fmt: skip
    return figure


def _shortened(name: str, longest: int = 18) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _literal(text: str) -> str:
    """The text as it is: plotly would take <...> in a class name for markup."""
    return html.escape(text, quote=False)
