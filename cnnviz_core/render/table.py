"""The numbers of a plotly figure as columns, and columns as CSV.

A row is what one point, bar or cell shows, with the numbers as they are, not as they are written beside it. Columns
are called as the axes are. Where an axis has no title, or a longer one than its numbers need, the figure says so in
``layout.meta``: the name of the column for "x", "y", "z", "name" (the text of a point) or "series".
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cnnviz_core.errors import BadSetting

Columns = dict[str, list[object]]

# What a spreadsheet takes for a formula, also behind spaces and in full width.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def table_csv(columns: Mapping[str, Sequence[object]]) -> bytes:
    """Columns as a CSV file with their names above.

    Numbers are written in full. A text that a spreadsheet would run as a formula gets an apostrophe before it. The file
    begins with the mark by which spreadsheets know UTF-8.

    Args:
        columns: By name, all of one length; None and not-a-number leave a cell empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    return file.getvalue().encode("utf-8-sig")


def _cell(value: object) -> object:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or (isinstance(plain, float) and math.isnan(plain)):
        return ""
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        text = str(plain)
        return f"'{text}" if _FORMULA.match(text) else text
    return plain


def figure_columns(figure: go.Figure) -> Columns:
    """What a figure shows, as columns of one length.

    Series over the same places stand side by side, a column for each; others stand one below the other, with the
    series in the first column.

    Raises:
        BadSetting: A kind of trace that is not read here.
    """
    words = _Words(figure.layout)
    series: list[tuple[str, Columns]] = []
    are_measured = "series" not in words.meta
    for trace in figure.data:
        if trace.type not in _READ:
            raise BadSetting(f"A chart of kind {trace.type} cannot be written as a table.")
        columns = _without_empty_rows(_READ[trace.type](trace, words))
        if trace.visible is not False and any(columns.values()):
            name = trace.meta if isinstance(trace.meta, str) else trace.name
            series.append((_plain(name or ""), columns))
            are_measured &= trace.type == "bar" or (trace.type == "scatter" and "lines" in (trace.mode or "lines"))
    if not series:
        return {}
    if are_measured and _have_the_same_places([columns for _, columns in series]):
        return _side_by_side(series)
    is_named = any(name for name, _ in series)
    return _below_each_other(series, words.of("series", "series") if is_named else "")


class _Words:
    """What the columns are called, and the texts that stand for numbers on an axis."""

    def __init__(self, layout: Any) -> None:
        self.meta: Mapping[str, str] = layout.meta or {}
        self.layout = layout

    def of(self, name: str, title: str | None) -> str:
        return self.meta.get(name) or _plain(title or "") or name

    def axis(self, name: str, *, is_space: bool = False) -> str:
        return self.of(name, (self.layout.scene if is_space else self.layout)[f"{name}axis"].title.text)

    def ticks(self, name: str) -> Mapping[float, str]:
        axis = self.layout[f"{name}axis"]
        if axis.tickvals is None or axis.ticktext is None:
            return {}
        return dict(zip(map(float, axis.tickvals), map(_plain, axis.ticktext), strict=True))


def _points(trace: Any, words: _Words) -> Columns:
    """Points, lines and bars: the text of each, then its numbers, that which is measured last."""
    is_space, is_lying = trace.type == "scatter3d", trace.type == "bar" and trace.orientation == "h"
    texts = trace.customdata if trace.customdata is not None else trace.text if is_space else None
    width = trace.width if trace.type == "bar" else None
    columns: Columns = {}
    is_binned = isinstance(width, np.ndarray | tuple | list)
    if texts is not None and not is_binned:
        columns[words.of("name", "name")] = [_plain(text) for text in texts]
    for axis in "yx" if is_lying else "xyz" if is_space else "xy":
        values, title = _values(trace[axis]), words.axis(axis, is_space=is_space)
        ticks = {} if is_space else words.ticks(axis)
        if is_binned and axis == "x":
            halves = np.asarray(width, np.float64) / 2
            centres = np.asarray(trace.x, np.float64)
            columns[f"{title}, from"] = (centres - halves).tolist()
            columns[f"{title}, to"] = (centres + halves).tolist()
        elif not ticks:
            columns[_free(title, columns)] = values
        elif texts is None:
            columns[_free(title, columns)] = [_ticked(value, ticks) for value in values]
    return columns


def _boxes(trace: Any, words: _Words) -> Columns:
    values = _values(trace.y)
    of_one: list[object] = [_plain(trace.name or "")] * len(values)
    groups = of_one if trace.x is None else _values(trace.x)
    return {words.axis("x"): groups, words.axis("y"): values}


def _cells(trace: Any, words: _Words) -> Columns:
    """The cells of a grid, row by row: where each is, and its number or what is said of it."""
    z = [_values(row) for row in trace.z]
    num_rows, num_columns = len(z), max(map(len, z), default=0)
    places = {}
    for axis, num in (("y", num_rows), ("x", num_columns)):
        ticks = words.ticks(axis)
        given = _values(trace[axis]) if trace[axis] is not None else list(range(num))
        places[axis] = [_ticked(value, ticks) for value in given]
    columns: Columns = {}
    columns[words.axis("y")] = [value for value in places["y"] for _ in range(num_columns)]
    columns[_free(words.axis("x"), columns)] = places["x"] * num_rows
    if trace.customdata is not None:
        columns[_free(words.of("name", "name"), columns)] = [_plain(text) for row in trace.customdata for text in row]
    else:
        columns[_free(words.of("z", trace.colorbar.title.text), columns)] = [value for row in z for value in row]
    return columns


_READ: Mapping[str, Callable[[Any, _Words], Columns]] = {
    "scatter": _points,
    "scatter3d": _points,
    "bar": _points,
    "box": _boxes,
    "heatmap": _cells,
}


def _values(given: Any) -> list[object]:
    """Numbers as Python has them, texts as people read them."""
    values = given.tolist() if isinstance(given, np.ndarray) else [] if given is None else list(given)
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    return [_plain(value) if isinstance(value, str) else value for value in plain]


def _plain(text: object) -> str:
    return html.unescape(str(text).replace("<br>", ", "))


def _ticked(value: object, ticks: Mapping[float, str]) -> object:
    return ticks.get(float(value), value) if isinstance(value, int | float) else value


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number behind it where a column has it already."""
    names = set(taken)
    numbered = (f"{name} {number}" for number in range(2, len(names) + 3))
    return next(one for one in (name, *numbered) if one not in names)


def _without_empty_rows(columns: Columns) -> Columns:
    """What only stands in the legend has a row without any value."""
    kept = [row for row in zip(*columns.values(), strict=True) if any(value is not None for value in row)]
    return {name: [row[at] for row in kept] for at, name in enumerate(columns)}


def _have_the_same_places(series: Sequence[Columns]) -> bool:
    first, *others = [list(columns.items()) for columns in series]
    places = list(zip(*[values for _, values in first[:-1]], strict=True))
    is_one_each = bool(places) and len(set(places)) == len(places)
    return is_one_each and all(one[:-1] == first[:-1] and one[-1][0] == first[-1][0] for one in others)


def _side_by_side(series: Sequence[tuple[str, Columns]]) -> Columns:
    *places, measured = series[0][1]
    together: Columns = {name: series[0][1][name] for name in places}
    for name, columns in series:
        title = f"{name}, {measured}" if name else measured
        together[_free(title, together)] = columns[measured]
    return together


def _below_each_other(series: Sequence[tuple[str, Columns]], of: str) -> Columns:
    """One below the other; the column of names is left out where it is to be called nothing."""
    titles = list(dict.fromkeys(title for _, columns in series for title in columns))
    names: list[object] = []
    rows: Columns = {title: [] for title in titles}
    for name, columns in series:
        num = len(next(iter(columns.values())))
        names += [name] * num
        for title in titles:
            rows[title] += columns.get(title, [None] * num)
    return {_free(of, rows): names, **rows} if of else rows
