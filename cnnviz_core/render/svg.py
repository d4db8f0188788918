"""A plotly figure as a plain SVG picture, for reports: no script, no browser, a few KB.

Draws lines, points, bars, boxes and grids of colours as the charts of :mod:`cnnviz_core.render.charts` use them, on
white, with axes, titles and a legend; points in space as they are first seen. What only a browser needs is left out:
hover texts and texts beside points.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from cnnviz_core.errors import BadSetting
from cnnviz_core.numerals import true_minus
from cnnviz_core.render.space import flattened

Floats = NDArray[np.float64]

_LEFT, _RIGHT, _TOP, _LINE = 64, 16, 12, 18
_TICK_PX = 12
_LONGEST = 32  # characters of a tick beside the plot
_SCALE_PX, _SHADES = 64, 48
_INK, _QUIET, _GRID = "#1c212c", "#5c6370", "#dfe2e7"
_MARKS: dict[str, str] = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "M-4-4h8v8h-8z",
    "diamond": "M0-5L5 0L0 5L-5 0z",
    "triangle-up": "M0-5L5 4H-5z",
    "cross": "M-2-5h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "x": "M-4-5L0-1L4-5L5-4L1 0L5 4L4 5L0 1L-4 5L-5 4L-1 0L-5-4z",
}


@dataclass(frozen=True)
class _Axis:
    """One axis: values to pixels, and where its ticks are."""

    low: float
    high: float
    start_px: float
    end_px: float
    is_log: bool
    ticks: Sequence[tuple[float, str]]

    def px(self, value: float) -> float:
        place = math.log10(max(value, 1e-300)) if self.is_log else value
        share = (place - self.low) / ((self.high - self.low) or 1)
        return self.start_px + min(max(share, -0.02), 1.02) * (self.end_px - self.start_px)


def svg(figure: go.Figure, *, width_px: int = 960) -> bytes:
    """The figure as an SVG file.

    Args:
        figure: Of scatter, bar, box and heat map traces, or of points in space.
        width_px: Its width; the height is the figure's own, plus what long tick texts need.

    Raises:
        BadSetting: A kind of trace that is not drawn here.
    """
    if any(trace.type == "scatter3d" for trace in figure.data):
        figure = flattened(figure)
    traces = [trace for trace in figure.data if trace.visible is not False]
    if unknown := {trace.type for trace in traces} - _DRAW.keys():
        raise BadSetting(
            f"A chart of kind {', '.join(sorted(unknown))} cannot be written as SVG; show it as a picture."
        )
    layout = figure.layout
    groups = _groups(traces)
    in_order = [(float(at), html.unescape(name)) for at, name in enumerate(groups)]
    x_ticks = _given_ticks(layout.xaxis) or in_order
    y_ticks = _given_ticks(layout.yaxis) or (in_order if any(_has_texts(trace.y) for trace in traces) else [])
    left = max(_LEFT, math.ceil(6.5 * max((min(len(text), _LONGEST) for _, text in y_ticks), default=0)) + _LINE)
    right = _RIGHT + max((_SCALE_PX for trace in traces if _has_scale(trace)), default=0)
    longest = max((len(text) for _, text in x_ticks), default=0)
    is_slanted = len(x_ticks) * longest * 6.5 > width_px - left - right
    names = [trace for trace in traces if trace.name and trace.showlegend is not False]
    has_legend = len(names) > 1 and layout.showlegend is not False
    top = _TOP + (_LINE + 6 if has_legend else 0)
    below = (min(longest, 24) * 4.6 + 14 if is_slanted else 20) + (_LINE if _title(layout.xaxis) else 0)
    plot_height = int(layout.height or 320) - 60
    height = math.ceil(top + plot_height + below + 8)
    across, down = _spans(traces, "x", groups), _spans(traces, "y", groups)
    if layout.yaxis.scaleanchor == "x" and len(across) and len(down) and np.ptp(down) > 0:  # as wide as its cells are
        cells_px = left + right + math.ceil(plot_height * float(np.ptp(across) / np.ptp(down)))
        width_px = min(width_px, max(cells_px, math.ceil(_legend_end(names)) if has_legend else 0))
    x = _axis(layout.xaxis, across, (left, width_px - right), x_ticks)
    y = _axis(layout.yaxis, down, (top + plot_height, top), y_ticks)
    parts = [*_frame(x, y, layout, is_slanted=is_slanted, height=height)]
    for at, trace in enumerate(traces):
        if getattr(trace, "fill", None) == "tonexty" and at:
            parts.append(_area(traces[at - 1], trace, x, y, groups))
        parts += _DRAW[trace.type](trace, x, y, groups, _colour(trace, at))
    parts += _lines_across(layout, x, y)
    if has_legend:
        parts += _legend(names, traces)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width_px}" height="{height}" '
        f'viewBox="0 0 {width_px} {height}" font-family="system-ui, sans-serif" font-size="{_TICK_PX}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    ).encode()


# ---- axes -----------------------------------------------------------------------------------------------------------


def _groups(traces: Sequence[Any]) -> list[str]:
    """Names on an axis of texts, in the order of their first use."""
    names: dict[str, None] = {}
    for trace in traces:
        values = list(trace.x) if trace.x is not None else []
        if trace.type == "box" and not values:
            names.setdefault(str(trace.name or ""), None)
        for value in values:
            if isinstance(value, str):
                names.setdefault(value, None)
    return list(names)


def _has_texts(values: Any) -> bool:
    return values is not None and any(isinstance(value, str) for value in values)


def _numbers(values: Any, groups: Sequence[str]) -> Floats:
    """Values of an axis as numbers: texts by their place among the groups, missing ones as not-a-number."""
    found = [] if values is None else list(values)
    return np.array(
        [groups.index(v) if isinstance(v, str) else math.nan if v is None else float(v) for v in found], np.float64
    )


def _box_places(trace: Any, groups: Sequence[str]) -> Floats:
    """Where on the x axis each value of a box trace belongs."""
    values = _numbers(trace.y, groups)
    if trace.x is None:
        return np.full(len(values), float(groups.index(str(trace.name or ""))))
    return _numbers(trace.x, groups)


def _spans(traces: Sequence[Any], axis: str, groups: Sequence[str]) -> Floats:
    """All values that the axis must hold."""
    parts = [np.empty(0)]
    for trace in traces:
        if trace.type == "heatmap":
            parts.append(_cell_edges(trace, axis, groups))
            continue
        values = _box_places(trace, groups) if trace.type == "box" and axis == "x" else _numbers(trace[axis], groups)
        parts.append(values)
        if trace.type == "bar":
            along = "x" if trace.orientation == "h" else "y"
            parts.append(np.zeros(1) if axis == along else np.concatenate([values - 0.5, values + 0.5]))
        if trace.type == "box" and axis == "x":
            parts.append(np.concatenate([values - 0.5, values + 0.5]))
    together = np.concatenate(parts)
    return together[np.isfinite(together)]


def _given_ticks(axis: Any) -> list[tuple[float, str]]:
    if axis.tickvals is None:
        return []
    texts = axis.ticktext if axis.ticktext is not None else [true_minus(f"{value:g}") for value in axis.tickvals]
    return [(float(value), html.unescape(str(text))) for value, text in zip(axis.tickvals, texts, strict=True)]


def _axis(axis: Any, values: Floats, px: tuple[float, float], ticks: Sequence[tuple[float, str]]) -> _Axis:
    is_log = axis.type == "log"
    if is_log:
        values = np.log10(values[values > 0]) if (values > 0).any() else np.zeros(1)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if axis.range is not None:
        low, high = (float(limit) for limit in axis.range)
    elif axis.rangemode == "tozero":
        low, high = min(low, 0.0), max(high, 0.0)
    if axis.range is None and high > low:
        margin = 0.04 * (high - low)
        low, high = low - (margin if low != 0 else 0), high + margin
    if high == low:
        low, high = (low, low + 1) if axis.rangemode == "tozero" else (low - 0.5, high + 0.5)
    start, end = px[::-1] if axis.autorange == "reversed" else px
    drawn = (
        []
        if axis.showticklabels is False
        else ticks
        or [(value, _tick_text(value, axis)) for value in (10**at if is_log else at for at in _round_steps(low, high))]
    )
    return _Axis(low, high, start, end, is_log, drawn)


def _round_steps(low: float, high: float, num: int = 6) -> list[float]:
    """Round numbers between two limits, about so many."""
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda step: abs(step - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float, axis: Any) -> str:
    if (axis.tickformat or "").endswith("%"):
        return f"{_number_text(100 * value)} %"
    return _number_text(value)


def _number_text(value: float) -> str:
    return true_minus(f"{value:.4g}")


def _title(axis: Any) -> str:
    return html.unescape(str(axis.title.text or ""))


def _frame(x: _Axis, y: _Axis, layout: Any, *, is_slanted: bool, height: int) -> Iterable[str]:
    for value, text in y.ticks:
        at = y.px(value)
        yield f'<path d="M{x.start_px:.1f} {at:.1f}H{x.end_px:.1f}" stroke="{_GRID}"/>'
        yield _write(
            text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…", x.start_px - 6, at + 4, anchor="end"
        )
    for value, text in x.ticks:
        at, foot = x.px(value), max(y.start_px, y.end_px)
        yield f'<path d="M{at:.1f} {foot:.1f}v4" stroke="{_QUIET}"/>'
        short = text if len(text) <= 24 else f"{text[:23]}…"
        yield _write(short, at, foot + 16, anchor="end" if is_slanted else "middle", turn=-40 if is_slanted else 0)
    if title := _title(layout.xaxis):
        yield _write(title, (x.start_px + x.end_px) / 2, height - 8, anchor="middle", ink=_INK)
    if title := _title(layout.yaxis):
        yield _write(title, 14, (y.start_px + y.end_px) / 2, anchor="middle", turn=-90, ink=_INK)


def _lines_across(layout: Any, x: _Axis, y: _Axis) -> Iterable[str]:
    """Vertical and horizontal marks, such as a cut in a histogram, and what is written beside them."""
    for shape in layout.shapes or ():
        stroke = f'stroke="{shape.line.color or _INK}" stroke-width="2" stroke-dasharray="6 4"'
        if shape.x0 == shape.x1 and shape.x0 is not None:
            yield f'<path d="M{x.px(shape.x0):.1f} {y.start_px:.1f}V{y.end_px:.1f}" {stroke}/>'
        elif shape.y0 == shape.y1 and shape.y0 is not None:
            yield f'<path d="M{x.start_px:.1f} {y.px(shape.y0):.1f}H{x.end_px:.1f}" {stroke}/>'
    for note in layout.annotations or ():
        if isinstance(note.x, int | float) and note.text:
            top = y.px(note.y) if note.yref == "y" else y.end_px + 12
            yield _write(html.unescape(note.text), x.px(note.x) + 4, top, ink=_INK)


def _write(text: str, left: float, top: float, *, anchor: str = "start", turn: int = 0, ink: str = _QUIET) -> str:
    turned = f' transform="rotate({turn} {left:.1f} {top:.1f})"' if turn else ""
    place = f'x="{left:.1f}" y="{top:.1f}"'
    return f'<text {place} text-anchor="{anchor}" fill="{ink}"{turned}>{html.escape(text)}</text>'


def _legend(names: Sequence[Any], traces: Sequence[Any]) -> Iterable[str]:
    left = float(_LEFT)
    for trace in names:
        colour = _colour(trace, traces.index(trace))
        symbol = _MARKS.get(_symbol(trace), _MARKS["square"])
        yield f'<path d="{symbol}" transform="translate({left + 6:.1f} {_TOP + 8})" fill="{colour}"/>'
        text = html.unescape(str(trace.name))
        yield _write(text, left + 16, _TOP + 12, ink=_INK)
        left += _legend_px(text)


def _legend_px(text: str) -> float:
    return 34 + 6.6 * len(text)


def _legend_end(names: Sequence[Any]) -> float:
    """Where it ends, from the left."""
    return _LEFT + sum(_legend_px(html.unescape(str(trace.name))) for trace in names)


# ---- traces ---------------------------------------------------------------------------------------------------------


def _colour(trace: Any, at: int) -> str:
    fallback = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")[at % 6]
    for holder in (getattr(trace, "line", None), getattr(trace, "marker", None)):
        colour = getattr(holder, "color", None)
        if isinstance(colour, list | tuple) and colour:  # one for each point; the legend takes the first
            colour = colour[0]
        if isinstance(colour, str):
            return html.escape(colour)
    return fallback


def _symbol(trace: Any) -> str:
    marker = getattr(trace, "marker", None)
    symbol = getattr(marker, "symbol", None) if trace.type == "scatter" else None
    return symbol if isinstance(symbol, str) else "square" if trace.type != "scatter" else "circle"


def _scatter(trace: Any, x: _Axis, y: _Axis, groups: Sequence[str], colour: str) -> Iterable[str]:
    mode = trace.mode or "lines+markers"
    if trace.line.width == 0:  # the edge of an area
        return
    across, down = _numbers(trace.x, groups), _numbers(trace.y, groups)
    places = [
        (x.px(a), y.px(b)) if math.isfinite(a) and math.isfinite(b) else None
        for a, b in zip(across.tolist(), down.tolist(), strict=True)
    ]
    if "lines" in mode:
        path, is_down = "", False
        for place in places:
            path += "" if place is None else f"{'L' if is_down else 'M'}{place[0]:.1f} {place[1]:.1f}"
            is_down = place is not None
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    if "markers" in mode:
        mark = _MARKS.get(_symbol(trace), _MARKS["circle"])
        given = trace.marker.color
        each = [colour] * len(places) if given is None or isinstance(given, str) else [html.escape(c) for c in given]
        for place, fill in zip(places, each, strict=True):
            if place is not None:
                yield f'<path d="{mark}" transform="translate({place[0]:.1f} {place[1]:.1f})" fill="{fill}"/>'


def _bar(trace: Any, x: _Axis, y: _Axis, groups: Sequence[str], colour: str) -> Iterable[str]:
    across, down = _numbers(trace.x, groups), _numbers(trace.y, groups)
    is_lying = trace.orientation == "h"
    given = np.atleast_1d(np.asarray(trace.width if trace.width is not None else 0.7, np.float64))
    widths = np.broadcast_to(given, across.shape)
    offset_of = -widths / 2 if trace.offset is None else np.atleast_1d(np.asarray(trace.offset, np.float64))
    offsets = np.broadcast_to(offset_of, across.shape)
    for a, b, width, offset in zip(across.tolist(), down.tolist(), widths.tolist(), offsets.tolist(), strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            continue
        sides = (0.0, a, b + offset, b + offset + width) if is_lying else (a + offset, a + offset + width, 0.0, b)
        left, right = sorted((x.px(sides[0]), x.px(sides[1])))
        top, foot = sorted((y.px(sides[2] if not y.is_log else max(sides[2], 10**y.low)), y.px(sides[3])))
        size = f'width="{right - left:.1f}" height="{foot - top:.1f}"'
        yield f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}"/>'


def _box(trace: Any, x: _Axis, y: _Axis, groups: Sequence[str], colour: str) -> Iterable[str]:
    """Quartiles, whiskers to the last value within 1.5 times their distance, and every point of its own."""
    values, places = _numbers(trace.y, groups), _box_places(trace, groups)
    half = 0.3 * abs(x.px(1) - x.px(0))
    for place in sorted(set(places.tolist())):
        mine = values[(places == place) & np.isfinite(values)]
        if not len(mine):
            continue
        low, middle, high = (y.px(q) for q in np.percentile(mine, [25, 50, 75]).tolist())
        lower, upper = np.percentile(mine, [25, 75])
        inside = mine[(mine >= lower - 1.5 * (upper - lower)) & (mine <= upper + 1.5 * (upper - lower))]
        centre, stroke = x.px(place), f'stroke="{colour}" stroke-width="1.5"'
        ends = y.px(float(inside.min())), y.px(float(inside.max()))
        yield f'<path d="M{centre:.1f} {low:.1f}V{ends[0]:.1f}M{centre:.1f} {high:.1f}V{ends[1]:.1f}" {stroke}/>'
        yield (
            f'<rect x="{centre - half:.1f}" y="{min(low, high):.1f}" width="{2 * half:.1f}" '
            f'height="{abs(low - high):.1f}" fill="{colour}" fill-opacity="0.25" {stroke}/>'
        )
        yield f'<path d="M{centre - half:.1f} {middle:.1f}h{2 * half:.1f}" stroke="{colour}" stroke-width="3"/>'
        for value in mine.tolist():
            yield f'<circle cx="{centre:.1f}" cy="{y.px(value):.1f}" r="2.5" fill="{colour}" fill-opacity="0.6"/>'


def _area(edge: Any, other: Any, x: _Axis, y: _Axis, groups: Sequence[str]) -> str:
    """What lies between two lines."""
    places = [
        (x.px(a), y.px(b))
        for trace, step in ((edge, 1), (other, -1))
        for a, b in zip(_numbers(trace.x, groups)[::step], _numbers(trace.y, groups)[::step], strict=True)
        if math.isfinite(a) and math.isfinite(b)
    ]
    outline = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    return f'<polygon points="{outline}" fill="{html.escape(str(other.fillcolor or _GRID))}"/>'


def _cell_edges(trace: Any, axis: str, groups: Sequence[str]) -> Floats:
    """Where the cells of a heat map begin and end along an axis: one more than there are cells."""
    z = np.asarray(trace.z, dtype=object)
    centres = _numbers(trace[axis], groups) if trace[axis] is not None else np.arange(z.shape[axis == "x"], dtype=float)
    if len(centres) < 2:
        return np.concatenate([centres - 0.5, centres + 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def _has_scale(trace: Any) -> bool:
    return trace.type == "heatmap" and trace.showscale is not False


def _heat(trace: Any, x: _Axis, y: _Axis, groups: Sequence[str], _colour: str) -> Iterable[str]:
    z = np.array(trace.z, dtype=np.float64)
    known = z[np.isfinite(z)]
    low = float(trace.zmin) if trace.zmin is not None else float(known.min()) if len(known) else 0.0
    high = float(trace.zmax) if trace.zmax is not None else float(known.max()) if len(known) else 1.0
    colours = [(float(share), str(colour)) for share, colour in trace.colorscale]
    across = [x.px(edge) for edge in _cell_edges(trace, "x", groups).tolist()]
    down = [y.px(edge) for edge in _cell_edges(trace, "y", groups).tolist()]
    for row, values in enumerate(z.tolist()):
        top, foot = sorted(down[row : row + 2])
        for column, value in enumerate(values):
            if not math.isfinite(value):
                continue
            left, right = sorted(across[column : column + 2])
            share = (value - low) / ((high - low) or 1)
            place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left + 0.3:.1f}" height="{foot - top + 0.3:.1f}"'
            yield f'<rect {place} fill="{html.escape(_nearest_colour(colours, share))}"/>'
            if trace.texttemplate and trace.text is not None:
                ink = _INK if 0.2 < share < 0.8 else "#fff"  # two-sided maps are dark at both ends
                text = html.unescape(str(trace.text[row][column]))
                yield _write(text, (left + right) / 2, (top + foot) / 2 + 4, anchor="middle", ink=ink)
    if _has_scale(trace):
        yield from _scale(colours, low, high, trace.colorbar, x, y)


def _nearest_colour(colours: Sequence[tuple[float, str]], share: float) -> str:
    """Of steps as of shades: the last colour that begins at or before the share."""
    begun = [colour for at, colour in colours if at <= share + 1e-9]
    return begun[-1] if begun else colours[0][1]


def _scale(
    colours: Sequence[tuple[float, str]], low: float, high: float, bar: Any, x: _Axis, y: _Axis
) -> Iterable[str]:
    """What the colours mean, beside the plot."""
    left, top, foot = x.end_px + 12, min(y.start_px, y.end_px), max(y.start_px, y.end_px)
    each = (foot - top) / _SHADES
    for at in range(_SHADES):
        colour = html.escape(_nearest_colour(colours, (at + 0.5) / _SHADES))
        place = f'x="{left:.1f}" y="{foot - (at + 1) * each:.2f}" width="12" height="{each + 0.3:.2f}"'
        yield f'<rect {place} fill="{colour}"/>'
    yield _write(_tick_text(high, bar), left + 16, top + 10)
    yield _write(_tick_text(low, bar), left + 16, foot)
    yield _write(html.unescape(str(bar.title.text or "")), left + 30, (top + foot) / 2, anchor="middle", turn=-90)


_DRAW: dict[str, Callable[[Any, _Axis, _Axis, Sequence[str], str], Iterable[str]]] = {
    "scatter": _scatter,
    "bar": _bar,
    "box": _box,
    "heatmap": _heat,
}
