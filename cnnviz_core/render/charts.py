"""Plotly figures.

Backgrounds are transparent and text colours are left to the page, so that a chart fits a light and a dark theme. Lines
and bars use the Okabe-Ito colours, which stay apart for colour-blind eyes, and series differ in marker shape, too.
"""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from cnnviz_core.images import Pixels
from cnnviz_core.numerals import format_fixed, format_percent, format_value
from cnnviz_core.render.colour import MISSING, find_colour_map
from cnnviz_core.results import FloatArray

_BLUE = "#0072B2"
SERIES_COLOURS = (_BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
SERIES_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
# An axis of shares, 0..1. Plotly writes 20%, so each of its texts is replaced by ours.
SHARES = {"tickformat": ".0%", "labelalias": {f"{number}%": format_percent(number / 100) for number in range(101)}}
_SPACE_SHAPES = ("circle", "square", "diamond", "cross", "x")
_MARK_COLOUR = "#D55E00"
_MID_GREY = "rgba(128, 128, 128, 0.35)"
_MOST_TICKS = 24
_MOST_TEXTS = 12


def histogram(
    values: FloatArray,
    *,
    unit: str,
    marks: Mapping[str, float] | None = None,
    log_counts: bool = False,
    num_bins: int = 80,
    low: float | None = None,
) -> go.Figure:
    """How often which value occurs, with the share of exact zeros written below.

    Args:
        values: Any shape. Missing values are left out and counted in the note.
        unit: What the values are, for the axis.
        marks: Name and place of vertical lines, for instance the colour limits.
        log_counts: Whether the counts' axis is logarithmic, to see a thin tail beside a tall peak.
        num_bins: Bars of equal width.
        low: Where the first bar begins, with no value below it; None begins at the least value.
    """
    present = values[np.isfinite(values)].astype(np.float64)
    limits = None if low is None else (low, max(low, present.max(initial=low)))
    counts, edges = np.histogram(present, bins=num_bins, range=limits)
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": _BLUE, "line": {"width": 0}},
        customdata=[f"{format_value(low)} to {format_value(high)}" for low, high in itertools.pairwise(edges)],
        hovertemplate="%{customdata}: %{y:,} values<extra></extra>",
    )
    figure = figure_of(bars, height=260)
    figure.update_layout(bargap=0, showlegend=False, meta={"x": unit})
    figure.update_yaxes(title="number of values", type="log" if log_counts else "linear")
    notes = [_literal(unit)]
    if len(present):
        notes.append(f"{_percent(np.count_nonzero(present == 0) / len(present))} exactly 0")
    if len(present) < values.size:
        notes.append(f"{values.size - len(present):,} missing")
    figure.update_xaxes(title=" · ".join(notes))
    for name, place in (marks or {}).items():
        figure.add_vline(
            place,
            line={"color": _MARK_COLOUR, "width": 2, "dash": "dash"},
            annotation={"text": _literal(name), "yanchor": "bottom"},
        )
    return figure


def probability_bars(labels: Sequence[str], probabilities: Sequence[float]) -> go.Figure:
    """Classes and their probabilities as horizontal bars, first on top, all on the same axis from 0 to 100 %.

    Args:
        labels: Class names; equal names stay separate bars.
        probabilities: 0..1, in the same order.
    """
    places = list(range(len(labels)))
    bars = go.Bar(
        x=list(probabilities),
        y=places,
        orientation="h",
        text=[_percent(probability) for probability in probabilities],
        textposition="outside",
        cliponaxis=False,
        marker={"color": _BLUE},
        customdata=[_literal(label) for label in labels],
        hovertemplate="%{customdata}: %{text}<extra></extra>",
    )
    figure = figure_of(bars, height=40 + 30 * len(labels))
    figure.update_layout(bargap=0.3, showlegend=False, margin={"r": 60}, meta={"name": "class"})
    figure.update_xaxes(range=[0, 1], **SHARES, title="probability")
    figure.update_yaxes(
        autorange="reversed",
        tickvals=places,
        ticktext=[_literal(_shortened(label)) for label in labels],
        showgrid=False,
    )
    return figure


def distance_bars(names: Sequence[str], distances: FloatArray, *, kinds: Sequence[str], unit: str) -> go.Figure:
    """Distances as vertical bars, nearest first, coloured by the kind of thing.

    Args:
        names: Of the things.
        distances: (k,), in the same order.
        kinds: Their kinds, the same colour for equal ones; those beyond the sixth kind share grey.
        unit: What the distances are.
    """
    order = list(dict.fromkeys(kinds))
    colours = [*SERIES_COLOURS, *["#999999"] * len(order)]
    bars = [
        go.Bar(
            x=[place for place, kind in enumerate(kinds) if kind == name],
            y=[float(value) for value, kind in zip(distances, kinds, strict=True) if kind == name],
            name=_literal(name or "no label"),
            marker={"color": colours[at]},
            customdata=[_literal(text) for text, kind in zip(names, kinds, strict=True) if kind == name],
            hovertemplate="%{customdata}: %{y:.4f}<extra></extra>",
        )
        for at, name in enumerate(order)
    ]
    figure = figure_of(*bars, height=220)
    figure.update_layout(bargap=0.25, showlegend=len(order) > 1, meta={"x": "place, 0 is nearest", "series": "label"})
    figure.update_xaxes(title="nearest first", showticklabels=False, showgrid=False)
    figure.update_yaxes(title=_literal(unit), rangemode="tozero")
    return figure


def depth_profile(layers: Sequence[str], series: Mapping[str, Sequence[float]], *, unit: str) -> go.Figure:
    """One or more quantities through the layers, first layer at the left, as lines with a marker per layer.

    Args:
        layers: Layer names, in the order in which they run.
        series: Name and one value per layer; not-a-number leaves a gap.
        unit: What the values are, for the axis.
    """
    places = list(range(len(layers)))
    few = len(layers) * len(series) <= _MOST_TEXTS
    lines = [
        go.Scatter(
            x=places,
            y=[None if np.isnan(value) else value for value in values],
            name=_literal(name),
            mode="lines+markers+text" if few else "lines+markers",
            text=[format_value(value) for value in values],
            textposition="top center",
            cliponaxis=False,
            customdata=list(layers),
            hovertemplate="%{customdata}: %{text}",
            line={"color": SERIES_COLOURS[at % len(SERIES_COLOURS)], "width": 2},
            marker={"size": 8, "symbol": SERIES_MARKERS[at % len(SERIES_MARKERS)]},
        )
        for at, (name, values) in enumerate(series.items())
    ]
    figure = figure_of(*lines, height=340)
    figure.update_layout(
        showlegend=len(series) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        meta={"name": "layer"},
    )
    shown = places[:: -(-len(layers) // _MOST_TICKS) or 1]
    figure.update_xaxes(tickvals=shown, ticktext=[layers[at] for at in shown], tickangle=-40, showgrid=False)
    figure.update_yaxes(title=_literal(unit))
    if all(value >= 0 for values in series.values() for value in values if not np.isnan(value)):
        figure.update_yaxes(rangemode="tozero")
    return figure


def box_figure(groups: Mapping[str, FloatArray], *, unit: str) -> go.Figure:
    """The spread of a quantity in each of several groups as box plots with every value beside, first group at the left.

    Args:
        groups: Name and values; missing values are left out.
        unit: What the values are.
    """
    boxes = [
        go.Box(
            x=[_literal(name)] * len(values),
            y=[float(value) if np.isfinite(value) else None for value in values],
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            marker={"color": _BLUE, "size": 4, "opacity": 0.6},
            line={"color": _BLUE, "width": 1.5},
            yhoverformat=".4g",  # unlike "%{y:.4g}", it gives negative numbers a true minus sign
            hovertemplate="%{x}: %{y}<extra></extra>",
        )
        for name, values in groups.items()
    ]
    figure = figure_of(*boxes, height=340)
    figure.update_layout(showlegend=False, meta={"x": "group"})
    figure.update_xaxes(type="category", showgrid=False, tickangle=-30)
    figure.update_yaxes(title=_literal(unit))
    return figure


def cloud_figure(
    groups: Mapping[str, tuple[FloatArray, FloatArray]],
    *,
    x_title: str,
    y_title: str,
    names: Mapping[str, Sequence[str]],
) -> go.Figure:
    """One measure against another, a point for each thing, groups told apart by colour and shape.

    Args:
        groups: Name, and the two measures, (n,) each.
        x_title: What the first measure is.
        y_title: What the second is.
        names: For each group the names of its points.
    """
    clouds = [
        go.Scatter(
            x=x,
            y=y,
            name=_literal(name),
            mode="markers",
            marker={
                "size": 8,
                "color": SERIES_COLOURS[at % len(SERIES_COLOURS)],
                "symbol": SERIES_MARKERS[at % len(SERIES_MARKERS)],
            },
            customdata=[_literal(text) for text in names[name]],
            xhoverformat=".4g",
            yhoverformat=".4g",
            hovertemplate="%{customdata}: %{x}, %{y}<extra></extra>",
        )
        for at, (name, (x, y)) in enumerate(groups.items())
    ]
    figure = figure_of(*clouds, height=340)
    figure.update_layout(
        showlegend=len(groups) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        meta={"series": "group"},
    )
    figure.update_xaxes(title=_literal(x_title))
    figure.update_yaxes(title=_literal(y_title))
    return figure


def counts_figure(names: Sequence[str], counts: Mapping[str, Sequence[int]], *, unit: str) -> go.Figure:
    """Counts as bars side by side, a group of bars for each name.

    Args:
        names: Of the groups, first at the left.
        counts: Name of a series and its count in each group.
        unit: What is counted.
    """
    figure = _bars_side_by_side(names, counts)
    figure.update_traces(hovertemplate="%{customdata}: %{y}")
    figure.update_yaxes(title=_literal(unit), rangemode="tozero")
    return figure


def shares_figure(names: Sequence[str], shares: Mapping[str, Sequence[float]], *, unit: str) -> go.Figure:
    """Shares as bars side by side, all on the same axis from 0 to 100 %; the height is the same for any number.

    Args:
        names: Of the groups, first at the left.
        shares: Name of a series and its share, 0..1, in each group.
        unit: Of what.
    """
    figure = _bars_side_by_side(names, shares)
    for trace, values in zip(figure.data, shares.values(), strict=True):
        trace.text = [_percent(value) for value in values]
    figure.update_traces(hovertemplate="%{customdata}: %{text}", textposition="none")
    figure.update_xaxes(ticktext=[_literal(_shortened(name, 18)) for name in names])
    figure.update_yaxes(title=_literal(unit), range=[0, 1], **SHARES)
    return figure


def _bars_side_by_side(names: Sequence[str], series: Mapping[str, Sequence[float]]) -> go.Figure:
    width = 0.8 / max(1, len(series))
    bars = [
        go.Bar(
            x=list(range(len(names))),
            y=list(values),
            width=width,
            offset=at * width - 0.4,
            name=_literal(name),
            marker={"color": SERIES_COLOURS[at % len(SERIES_COLOURS)]},
            customdata=[_literal(group) for group in names],
        )
        for at, (name, values) in enumerate(series.items())
    ]
    figure = figure_of(*bars, height=240)
    figure.update_layout(
        showlegend=len(series) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        meta={"name": "group"},
    )
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=[_literal(name) for name in names], showgrid=False)
    return figure


def curves_figure(
    x: FloatArray,
    series: Mapping[str, FloatArray],
    *,
    x_title: str,
    unit: str,
    band: tuple[FloatArray, FloatArray] | None = None,
) -> go.Figure:
    """Lines over one axis of shares, 0 to 100 %, with values from 0 to 1.

    Args:
        x: (S,) shares, 0..1.
        series: Name and (S,) values.
        x_title: What the shares are of.
        unit: What the values are.
        band: (S,) lower and upper edge of a grey area behind the lines, such as the range of random draws.
    """
    shares = [format_percent(at) for at in x]
    lines = [
        go.Scatter(
            x=x,
            y=values,
            name=_literal(name),
            mode="lines+markers",
            line={"color": SERIES_COLOURS[at % len(SERIES_COLOURS)], "width": 2},
            marker={"size": 6, "symbol": SERIES_MARKERS[at % len(SERIES_MARKERS)]},
            text=shares,
            hovertemplate="%{text}: %{y:.3f}",
        )
        for at, (name, values) in enumerate(series.items())
    ]
    edges = []
    if band is not None:
        plain = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        edges = [go.Scatter(x=x, y=band[0], name="grey area, lower edge", **plain)]
        edges.append(
            go.Scatter(x=x, y=band[1], name="grey area, upper edge", fill="tonexty", fillcolor=_MID_GREY, **plain)
        )
    figure = figure_of(*edges, *lines, height=300)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    figure.update_xaxes(title=_literal(x_title), **SHARES)
    figure.update_yaxes(title=_literal(unit), range=[0, 1])
    return figure


def threshold_figure(
    thresholds: FloatArray, values: FloatArray, *, marks: Mapping[str, float], x_title: str, unit: str
) -> go.Figure:
    """A quantity from 0 to 1 over all thresholds, with some of them marked by name.

    Args:
        thresholds: (T,) ascending.
        values: (T,).
        marks: Thresholds by name; the value of each is read off the curve.
        x_title: What the thresholds are of.
        unit: What the values are.
    """
    line = go.Scatter(
        x=thresholds,
        y=values,
        mode="lines",
        name=_literal(unit),
        line={"color": _BLUE, "width": 2},
        hovertemplate="%{x:.3f}: %{y:.3f}<extra></extra>",
        showlegend=False,
    )
    points = [
        go.Scatter(
            x=[at],
            y=[float(np.interp(at, thresholds, values))],
            name=f"{_literal(name)} {format_value(at)}",
            mode="markers",
            marker={
                "size": 11,
                "symbol": SERIES_MARKERS[number % len(SERIES_MARKERS)],
                "color": SERIES_COLOURS[number % len(SERIES_COLOURS)],
            },
            hovertemplate="%{x:.3f}: %{y:.3f}",
        )
        for number, (name, at) in enumerate(marks.items(), start=1)
    ]
    figure = figure_of(line, *points, height=280)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    figure.update_xaxes(title=_literal(x_title))
    figure.update_yaxes(title=_literal(unit), range=[0, 1])
    return figure


def steps_figure(
    series: Mapping[str, FloatArray], *, unit: str, mark: int | None = None, is_share: bool = True
) -> go.Figure:
    """Values at the start and after each step.

    Args:
        series: Name and (S + 1,) values.
        unit: What the values are.
        mark: A step to point out.
        is_share: Whether they are from 0 to 1, all of which is shown then.
    """
    lines = [
        go.Scatter(
            x=list(range(len(values))),
            y=values,
            name=_literal(_shortened(name)),
            meta=_literal(name),
            mode="lines+markers",
            line={"color": SERIES_COLOURS[at % len(SERIES_COLOURS)], "width": 2},
            marker={"size": 6, "symbol": SERIES_MARKERS[at % len(SERIES_MARKERS)]},
            hovertemplate="step %{x}: %{y:.3f}",
        )
        for at, (name, values) in enumerate(series.items())
    ]
    figure = figure_of(*lines, height=240)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    num_steps = max((len(values) for values in series.values()), default=1) - 1
    figure.update_xaxes(title="step", tickformat="d", dtick=max(1, num_steps // 5))
    figure.update_yaxes(title=_literal(unit), range=[-0.02, 1.02] if is_share else None)
    if mark is not None:
        figure.add_vline(mark, line={"color": _MARK_COLOUR, "width": 2, "dash": "dash"})
    return figure


def matrix_figure(names: Sequence[str], values: FloatArray, *, unit: str) -> go.Figure:
    """A square table of numbers from -1 to 1 as colours, each with its number.

    Args:
        names: Of rows and columns.
        values: (M, M).
        unit: What the numbers are.
    """
    lut = find_colour_map(signed=True).lut[:MISSING]
    labels = [_literal(name) for name in names]
    heat = go.Heatmap(
        x=labels,
        y=labels,
        z=values,
        zmin=-1,
        zmax=1,
        colorscale=[(at / (MISSING - 1), f"rgb({r},{g},{b})") for at, (r, g, b) in enumerate(lut.tolist())],
        colorbar={"title": _literal(unit), "thickness": 14, "tickvals": [-1, 0, 1]},  # room beside two rows, too
        text=[[format_fixed(value, 2) for value in row] for row in values.tolist()],
        texttemplate="%{text}",
        hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
    )
    figure = figure_of(heat, height=120 + 34 * len(names))
    figure.update_layout(meta={"y": "of", "x": "and"})
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False, tickangle=-30)
    return figure


def places_figure(
    values: FloatArray, tops: NDArray[np.int64], lefts: NDArray[np.int64], *, patch_px: int, unit: str
) -> go.Figure:
    """One value for each place of a patch, drawn where the patch's centre was.

    Args:
        values: (rows, cols); not a number is left empty.
        tops: (rows,) first pixel row of the patch.
        lefts: (cols,) first pixel column.
        patch_px: Side of the patch.
        unit: What the values are.
    """
    lut = find_colour_map("viridis").lut[:MISSING]
    heat = go.Heatmap(
        x=lefts + patch_px / 2,
        y=tops + patch_px / 2,
        z=values,
        colorscale=[(at / (MISSING - 1), f"rgb({r},{g},{b})") for at, (r, g, b) in enumerate(lut.tolist())],
        # Below, since a bar beside a square leaves little of it in a narrow column.
        colorbar={
            "title": {"text": _literal(unit), "side": "top"},
            "thickness": 14,
            "orientation": "h",
            "y": -0.22,
            "yanchor": "top",
        },
        zhoverformat=".3g",
        hovertemplate="centre %{x:.0f} px across, %{y:.0f} px down: %{z}<extra></extra>",
    )
    figure = figure_of(heat, height=400)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain", showgrid=False, title="px down")
    figure.update_xaxes(constrain="domain", showgrid=False, title="px across")
    return figure


def categories_figure(values: NDArray[np.int64], names: Mapping[int, str]) -> go.Figure:
    """Which of several kinds each cell of a grid is, as colours with a legend.

    Args:
        values: (rows, cols) numbers of kinds; numbers without a name are left empty.
        names: Number and name of each kind, the most important first; those beyond the sixth share grey.
    """
    colours = [*SERIES_COLOURS, "#999999"]
    places = {number: min(at, len(colours) - 1) for at, number in enumerate(names)}
    used = sorted(set(places.values()))
    grid = np.array([[places.get(int(number), np.nan) for number in row] for row in values])
    heat = go.Heatmap(
        z=grid,
        zmin=-0.5,
        zmax=len(colours) - 0.5,
        colorscale=[((at + edge) / len(colours), colour) for at, colour in enumerate(colours) for edge in (0, 1)],
        showscale=False,
        customdata=[[_literal(names.get(int(number), "not tried")) for number in row] for row in values],
        hovertemplate="row %{y}, column %{x}: %{customdata}<extra></extra>",
    )
    titles = [list(names.values())[at] if at < len(SERIES_COLOURS) else "others" for at in used]
    legend = [
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=_literal(_shortened(title)),
            marker={"color": colours[at], "size": 10, "symbol": "square"},
        )
        for at, title in zip(used, titles, strict=True)
    ]
    figure = figure_of(heat, *legend, height=360)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.02, "yanchor": "top"}, meta={"y": "row", "x": "column", "name": "kind"}
    )
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain", showgrid=False, showticklabels=False)
    figure.update_xaxes(constrain="domain", showgrid=False, showticklabels=False)
    return figure


def plane_figure(
    points: FloatArray, *, colours: Pixels | None, axes: Sequence[str], groups: Sequence[str] = ()
) -> go.Figure:
    """Points in the plane, as wide as high.

    Args:
        points: (N, 2).
        colours: (N, 3) of each point; None: all alike.
        axes: Titles; empty where the axes mean nothing.
        groups: The name of each point's group, for the legend; left out where there are many.
    """
    names = list(dict.fromkeys(groups))
    if not 1 < len(names) <= len(SERIES_COLOURS):
        groups, names = [""] * len(points), [""]
    each = [np.array([at for at, group in enumerate(groups) if group == name], np.intp) for name in names]
    traces = [
        go.Scatter(
            x=points[rows, 0],
            y=points[rows, 1],
            mode="markers",
            name=_literal(name) or "no label",
            marker={
                "color": SERIES_COLOURS[0] if colours is None else [f"rgb({r}, {g}, {b})" for r, g, b in colours[rows]]
            },
        )
        for name, rows in zip(names, each, strict=True)
    ]
    figure = figure_of(*traces, height=640)
    figure.update_layout(meta={"series": "label"})
    means_something = any(axes)
    figure.update_xaxes(title=_literal(axes[0]), showticklabels=means_something)
    figure.update_yaxes(title=_literal(axes[1]), showticklabels=means_something, scaleanchor="x")
    return figure


def space_figure(
    points: FloatArray,
    *,
    colours: Pixels | None,
    captions: Sequence[str],
    axes: Sequence[str],
    height: int,
    groups: Sequence[str] = (),
    marked: tuple[str, FloatArray] | None = None,
) -> go.Figure:
    """Points in space, to be turned with the mouse.

    Args:
        points: (N, 3).
        colours: (N, 3) of each point; None: all alike.
        captions: A text for each point, shown when it is pointed at.
        axes: Titles.
        height: In pixels.
        groups: The name of each point's group, for the legend; empty without one.
        marked: Name and place (3,) of one more point, larger than the others and with its name beside it.
    """
    members: dict[str, list[int]] = {}
    for at in range(len(points)):
        members.setdefault(groups[at] if groups else "", []).append(at)
    alike: Counter[tuple[int, ...]] = Counter()  # groups of one colour have each a shape
    traces = [
        go.Scatter3d(
            x=points[rows, 0],
            y=points[rows, 1],
            z=points[rows, 2],
            mode="markers",
            marker={
                "size": 3,
                "symbol": _shape_of_group(None if colours is None else colours[rows[0]], alike),
                "color": SERIES_COLOURS[0] if colours is None else [f"rgb({r}, {g}, {b})" for r, g, b in colours[rows]],
            },
            name=_literal(name) or "no label",
            text=[_literal(captions[row]).replace("\n", "<br>") for row in rows],
            hoverinfo="text",
        )
        for name, rows in sorted(members.items())
    ]
    if marked is not None:
        traces.append(_marked_in_space(*marked))
    figure = figure_of(*traces, height=height)
    figure.update_layout(
        showlegend=bool(groups),
        legend={"itemsizing": "constant"},
        meta={"name": "picture", "series": "label"},
    )
    titles = zip(("xaxis", "yaxis", "zaxis"), axes, strict=True)
    background = "rgba(0, 0, 0, 0)"
    figure.update_scenes({axis: {"title": {"text": title}, "backgroundcolor": background} for axis, title in titles})
    return figure


def _marked_in_space(name: str, place: FloatArray) -> go.Scatter3d:
    across, up, depth = ([float(value)] for value in place)
    return go.Scatter3d(
        x=across,
        y=up,
        z=depth,
        mode="markers+text",
        marker={"size": 9, "symbol": "diamond", "color": _MARK_COLOUR, "line": {"color": "#ffffff", "width": 2}},
        name=_literal(name),
        text=[_literal(name)],
        textposition="top center",
        hoverinfo="text",
    )


def _shape_of_group(colour: Pixels | None, alike: Counter[tuple[int, ...]]) -> str:
    key = () if colour is None else tuple(colour.tolist())
    alike[key] += 1
    return _SPACE_SHAPES[(alike[key] - 1) % len(_SPACE_SHAPES)]


def frequency_figure(magnitude: FloatArray, *, unit: str = "gain", colour_map: str = "viridis") -> go.Figure:
    """How strongly a kernel answers to each spatial frequency, as a heat map.

    The middle is the mean brightness, the border the finest stripes that pixels can show (0.5 cycles per pixel);
    the direction from the middle is the direction in which the stripes alternate.

    Args:
        magnitude: (n, n) absolute values of the Fourier transform with zero frequency in the middle, as
            ``numpy.fft.fftshift`` leaves it; rows are vertical frequencies.
        unit: What the values are, for the colour bar.
        colour_map: A name from :data:`~cnnviz_core.render.COLOUR_MAPS`.
    """
    vertical, horizontal = (np.fft.fftshift(np.fft.fftfreq(size)) for size in magnitude.shape)
    lut = find_colour_map(colour_map).lut[:MISSING]
    ticks = [-0.5, 0, 0.5]
    heat = go.Heatmap(
        x=horizontal,
        y=vertical,
        z=magnitude,
        zmin=0,
        colorscale=[(at / (MISSING - 1), f"rgb({r},{g},{b})") for at, (r, g, b) in enumerate(lut.tolist())],
        colorbar={"title": _literal(unit), "thickness": 14},
        xhoverformat=".2f",
        yhoverformat=".2f",
        hovertemplate="%{x} across, %{y} down: %{z:.3g}<extra></extra>",
    )
    figure = figure_of(heat, height=360)
    figure.update_xaxes(title="cycles per pixel across", tickvals=ticks, tickangle=0, constrain="domain")
    figure.update_yaxes(title="down", tickvals=ticks, autorange="reversed", scaleanchor="x")
    figure.update_layout(meta={"y": "cycles per pixel down"})
    return figure


def figure_of(*traces: go.Bar | go.Scatter | go.Heatmap | go.Box, height: int) -> go.Figure:
    """A figure of some traces in the style of all charts."""
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        hoverlabel={"align": "left"},
        # Made of the paper’s colour otherwise, which is taken for black: a dark bar over the legend.
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": _MID_GREY, "activecolor": "rgb(128, 128, 128)"},
    )
    figure.update_xaxes(automargin=True, gridcolor=_MID_GREY, zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor=_MID_GREY, zeroline=False)
    return figure


def _percent(fraction: float) -> str:
    """A share as people read it: 39.2 %, and never 0 or 100 where it only nearly is."""
    if 0 < fraction < 0.001:
        return "< 0.1 %"
    if 0.999 < fraction < 1:
        return "> 99.9 %"
    return f"{100 * fraction:.1f} %"


def _shortened(label: str, longest: int = 32) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def _literal(text: str) -> str:
    """The text as it is: plotly would take <...> in a class or file name for markup."""
    return html.escape(text, quote=False)
