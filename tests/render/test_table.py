"""The numbers of charts as CSV: as they are, under names that say what they are, safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import pytest

from cnnviz_core import render
from cnnviz_core.errors import BadSetting

THIRDS = np.array([1 / 3, 2 / 3, 1], np.float32)


def read(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))


def table(figure: go.Figure) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a figure's CSV."""
    header, *rows = read(render.table_csv(render.figure_columns(figure)))
    return header, rows


def numbers(rows: list[list[str]], column: int) -> list[float]:
    return [float(row[column]) for row in rows]


def test_lines_over_one_axis_stand_side_by_side_in_full_precision() -> None:
    loss = [1 / 3, 2 / 3]
    figure = render.epochs_figure([0, 1], {"training": loss, "validation": [1, 2]}, unit="loss", num_epochs=9, best=1)
    header, rows = table(figure)
    assert header == ["epoch", "training, loss", "validation, loss"]
    assert numbers(rows, 1) == loss
    assert numbers(rows, 2) == [1, 2]


def test_a_profile_has_whole_layer_names_and_leaves_gaps_empty() -> None:
    layers = [f"a_layer_with_a_long_name.{at}" for at in range(60)]  # of which the axis names some
    header, rows = table(render.depth_profile(layers, {"one": [math.nan, *range(59)]}, unit="cosine"))
    assert header == ["layer", "one, cosine"]
    assert [row[0] for row in rows] == layers
    assert rows[0][1] == ""
    assert numbers(rows[1:], 1) == list(range(59))


def test_lines_with_places_of_their_own_stand_below_each_other() -> None:
    figure = render.threshold_figure(THIRDS, THIRDS**2, marks={"honest": 0.5}, x_title="threshold", unit="IoU")
    header, rows = table(figure)
    assert header == ["series", "threshold", "IoU"]
    assert numbers(rows[:3], 1) == THIRDS.tolist()
    assert numbers(rows[:3], 2) == (THIRDS**2).tolist()
    assert rows[3][:2] == ["honest 0.5", "0.5"]


def test_the_name_of_a_single_line_is_whole() -> None:
    header, _ = table(render.steps_figure({"an " + "extremely " * 5 + "long name": THIRDS}, unit="probability"))
    assert header == ["step", "an " + "extremely " * 5 + "long name, probability"]


def test_bars_of_classes_have_their_whole_names() -> None:
    header, rows = table(render.probability_bars(["<unk>", "a" * 50, "crane", "crane"], [0.1 + 0.2, 0.2468, 0, 1]))
    assert header == ["class", "probability"]
    assert [row[0] for row in rows] == ["<unk>", "a" * 50, "crane", "crane"]
    assert numbers(rows, 1) == [0.1 + 0.2, 0.2468, 0, 1]


def test_a_histogram_tells_where_each_bar_begins_and_ends() -> None:
    values = np.array([0, 0, 0, 1, 3, np.nan], np.float32)
    header, rows = table(render.histogram(values, unit="activation", marks={"cut": 2.0}, num_bins=3))
    assert header == ["activation, from", "activation, to", "number of values"]
    assert [list(map(float, row)) for row in rows] == [[0, 1, 3], [1, 2, 1], [2, 3, 1]]


def test_boxes_tell_the_group_of_each_value() -> None:
    header, rows = table(render.box_figure({"a & b": THIRDS, "c": np.array([2], np.float32)}, unit="cosine"))
    assert header == ["group", "cosine"]
    assert [row[0] for row in rows] == ["a & b"] * 3 + ["c"]
    assert numbers(rows, 1) == [*THIRDS.tolist(), 2]
    assert table(go.Figure(go.Box(y=[1.5], name="alone")))[1] == [["alone", "alone", "1.5"]]


def test_a_grid_of_numbers_is_told_cell_by_cell() -> None:
    values = np.array([[1 / 3, np.nan], [-2, 3], [4, 5]], np.float32)
    figure = render.places_figure(values, np.array([0, 8, 12]), np.array([0, 4]), patch_px=8, unit="probability")
    header, rows = table(figure)
    assert header == ["px down", "px across", "probability"]
    assert [row[:2] for row in rows[:3]] == [["4.0", "4.0"], ["4.0", "8.0"], ["12.0", "4.0"]]
    assert float(rows[0][2]) == float(values[0, 0])  # not the rounded label
    assert rows[1][2] == ""
    assert numbers(rows[2:], 2) == [-2, 3, 4, 5]


def test_a_matrix_names_rows_and_columns() -> None:
    header, rows = table(render.matrix_figure(["7", "<b>"], np.array([[1, 0.125], [0.25, 1]]), unit="likeness"))
    assert header == ["of", "and", "likeness"]
    assert rows[1] == ["7", "<b>", "0.125"]
    assert rows[2] == ["<b>", "7", "0.25"]


def test_a_grid_of_kinds_names_them_and_leaves_the_legend_out() -> None:
    header, rows = table(render.categories_figure(np.array([[5, 9], [-1, 5]]), {5: "cat", 9: "dog"}))
    assert header == ["row", "column", "kind"]
    assert rows == [["0", "0", "cat"], ["0", "1", "dog"], ["1", "0", "not tried"], ["1", "1", "cat"]]


def test_ticks_of_a_grid_without_places_are_read() -> None:
    figure = go.Figure(go.Heatmap(z=[[1, 2]]))
    figure.update_xaxes(tickvals=[0, 1], ticktext=["yes", "no"], title="answer")
    header, rows = table(figure)
    assert header == ["y", "answer", "z"]
    assert rows == [["0", "yes", "1"], ["0", "no", "2"]]


def test_points_keep_their_group_and_name() -> None:
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]] = {"a": (THIRDS, -THIRDS), "b": (THIRDS[:1], THIRDS[:1])}
    names = {"a": ["x", "y", "z"], "b": ["w"]}
    header, rows = table(render.cloud_figure(groups, x_title="cosine", y_title="distance", names=names))
    assert header == ["group", "name", "cosine", "distance"]
    assert [row[:2] for row in rows] == [["a", "x"], ["a", "y"], ["a", "z"], ["b", "w"]]
    assert numbers(rows, 3) == [*(-THIRDS).tolist(), THIRDS[0]]


def test_points_in_space_have_three_coordinates() -> None:
    points = np.arange(6, dtype=np.float32).reshape(2, 3) / 3
    figure = render.space_figure(
        points, colours=None, captions=["a.png\nlabel x", "b.png"], axes=("PC 1", "PC 2", "PC 3"), height=300
    )
    header, rows = table(figure)
    assert header == ["label", "picture", "PC 1", "PC 2", "PC 3"]
    assert rows[0][1] == "a.png, label x"
    assert [numbers(rows, at) for at in (2, 3, 4)] == points.T.tolist()


def test_columns_of_one_name_are_told_apart() -> None:
    figure = go.Figure([go.Scatter(x=[0], y=[1], name="a"), go.Scatter(x=[0], y=[2], name="a")])
    assert table(figure) == (["x", "a, y", "a, y 2"], [["0", "1", "2"]])


@pytest.mark.parametrize(
    "text", ["=1+1", "+cat", "-cat", "@cat", "\tcat", "\rcat", "  =cmd|' /C calc'!A0", "\uff1d1", '=HYPERLINK("x")']
)
def test_no_text_is_a_formula(text: str) -> None:
    ((header, number), (cell, kept)) = read(render.table_csv({text: [text], "of": [-0.5]}))
    assert cell == header == f"'{text}"
    assert (number, kept) == ("of", "-0.5")  # a number below zero is none


def test_texts_cannot_break_out_of_their_cell() -> None:
    name = 'a, "b"\n=1;=2'
    assert read(render.table_csv({"name": [name]}))[1] == [name]
    assert b'"a;=1"' in render.table_csv({"name": ["a;=1"]})  # also where ; parts the cells


def test_numbers_of_every_kind_come_back_as_they_were() -> None:
    values = [1e-45, 0.1, 2**60 + 1, np.float32(0.1), np.int64(7), np.float64(1 / 3), -1e308]
    cells = read(render.table_csv({"n": [*values, None, math.nan]}))[1:]
    assert [type(value)(cell) for (cell,), value in zip(cells, [*values], strict=False)] == values
    assert cells[-2:] == [[""], [""]]


def test_columns_of_other_lengths_and_other_kinds_of_charts_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        render.table_csv({"a": [1, 2], "b": [1]})
    with pytest.raises(BadSetting, match="pie"):
        render.figure_columns(go.Figure(go.Pie(values=[1])))
    assert render.figure_columns(go.Figure()) == {}


def test_a_spreadsheet_is_told_that_the_text_is_utf_8() -> None:
    content = render.table_csv({"weight, µ": ["\N{MINUS SIGN}1"]})
    assert content == b'\xef\xbb\xbf"weight, \xc2\xb5"\r\n"\xe2\x88\x921"\r\n'
