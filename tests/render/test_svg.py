"""Charts as SVG: every point at its place, and nothing that runs."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest

from cnnviz_core import render
from cnnviz_core.errors import BadSetting

SVG = "{http://www.w3.org/2000/svg}"


def drawn(figure: go.Figure) -> ElementTree.Element:
    return ElementTree.fromstring(render.svg(figure))


def texts(root: ElementTree.Element) -> list[str]:
    return [str(node.text) for node in root.iter(f"{SVG}text")]


def points(root: ElementTree.Element) -> list[tuple[float, float]]:
    moves = [node.get("transform") or "" for node in root.iter(f"{SVG}path")]
    found = [re.fullmatch(r"translate\(([\d.]+) ([\d.]+)\)", move) for move in moves]
    return [(float(match[1]), float(match[2])) for match in found if match]


def test_a_profile_has_its_points_in_proportion_and_a_gap() -> None:
    root = drawn(render.depth_profile(["a", "b", "c", "d"], {"x": [0.0, 1.0, float("nan"), 2.0]}, unit="cosine"))
    (x0, y0), (x1, y1), (x3, y3) = points(root)
    assert x3 - x0 == pytest.approx(3 * (x1 - x0), abs=0.3)
    assert y0 - y3 == pytest.approx(2 * (y0 - y1), abs=0.3)
    assert y0 > y1 > y3
    assert {"a", "b", "c", "d", "cosine"} <= set(texts(root))
    (line,) = [node.get("d") or "" for node in root.iter(f"{SVG}path") if node.get("stroke-width") == "2"]
    assert (line.count("M"), line.count("L")) == (2, 1)  # the pen is lifted over the gap


def test_a_histogram_has_bars_in_proportion_and_its_mark() -> None:
    values = np.array([0, 0, 0, 1, 3], np.float32)
    root = drawn(render.histogram(values, unit="grey score", marks={"the cut": 2.0}, num_bins=3))
    bars = [float(node.get("height") or 0) for node in list(root.iter(f"{SVG}rect"))[1:]]
    assert bars[0] == pytest.approx(3 * bars[1], abs=0.3)
    assert bars[1] == pytest.approx(bars[2], abs=0.11)
    assert "the cut" in texts(root)


def test_boxes_hold_the_quartiles_and_whiskers_end_inside_the_fences() -> None:
    figure = go.Figure([go.Box(y=[0, 1, 2, 3, 4, 100], x=["a"] * 6), go.Box(y=[5.0, None], x=["b", "b"])])
    root = drawn(figure)
    circles = [float(node.get("cy") or 0) for node in root.iter(f"{SVG}circle")]
    assert len(circles) == 7
    one = (circles[0] - circles[5]) / 100  # pixels of one unit
    box = list(root.iter(f"{SVG}rect"))[1]
    assert float(box.get("height") or 0) == pytest.approx(2.5 * one, abs=0.3)  # quartiles 1.25 and 3.75
    assert {"a", "b"} <= set(texts(root))


def test_names_are_text_and_long_ones_are_cut() -> None:
    name = "<b>layer</b> & more than twenty-four letters"
    root = drawn(render.depth_profile([name, "x"], {"one <i>": [1, 2], "two": [2, 1]}, unit="<u>"))
    assert any(text.startswith("<b>layer</b> &") and text.endswith("…") for text in texts(root))
    assert {"one <i>", "two", "<u>"} <= set(texts(root))


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [float("nan")]])
def test_odd_data_are_drawn(values: list[float]) -> None:
    root = drawn(render.depth_profile([str(at) for at in range(len(values))], {"x": values}, unit="u"))
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


def cells(root: ElementTree.Element) -> list[tuple[float, ...]]:
    """Left, top, width and height of every rectangle but the background, and its red, green and blue."""
    found = []
    for node in list(root.iter(f"{SVG}rect"))[1:]:
        place = [float(node.get(name) or 0) for name in ("x", "y", "width", "height")]
        found.append((*place, *map(float, re.findall(r"\d+", node.get("fill") or ""))))
    return found


def test_a_matrix_has_its_colours_numbers_and_names_in_reading_order() -> None:
    values = np.array([[1, -0.5], [-0.5, 1]], np.float32)
    root = drawn(render.matrix_figure(["one <b>", "another with a long name"], values, unit="likeness"))
    (a, b, c, d), scale = cells(root)[:4], cells(root)[4:]
    assert a[0] == c[0] < b[0] == d[0]
    assert a[1] == b[1] < c[1] == d[1]  # the first row is on top
    assert a[4:] == d[4:] == pytest.approx(scale[-1][4:], abs=12)  # the scale ends with the colour of 1
    assert b[4:] == c[4:] != a[4:]
    assert texts(root).count("\u22120.50") == texts(root).count("1.00") == 2
    assert {"one <b>", "another with a long name", "likeness", "\u22121", "1"} <= set(texts(root))
    assert a[0] >= 6 * len("another with a long name")  # there is room for it


def test_places_keep_their_proportions_and_unknown_ones_are_empty() -> None:
    values = np.array([[0.0, 1.0, 2.0], [np.nan, 1.0, 2.0]], np.float32)
    root = drawn(render.places_figure(values, np.array([0, 20]), np.array([0, 20, 40]), patch_px=10, unit="u"))
    known = cells(root)[:5]
    assert known[0][2] == pytest.approx(known[0][3], rel=0.1)  # as wide as high
    assert known[3][0] == known[1][0]  # below the second; below the first is nothing
    kinds = drawn(render.categories_figure(np.array([[0, 1], [1, 7]]), {1: "cat", 0: "dog"}))
    assert len(cells(kinds)) == 3
    assert {"cat", "dog"} <= set(texts(kinds))


def test_the_range_of_the_draws_is_an_area_without_edges() -> None:
    x = np.linspace(0, 1, 3)
    band = np.zeros(3), np.ones(3)
    root = drawn(render.curves_figure(x, {"line": np.full(3, 0.5)}, x_title="deleted", unit="p", band=band))
    (area,) = root.iter(f"{SVG}polygon")
    assert len((area.get("points") or "").split()) == 6
    assert len([n for n in root.iter(f"{SVG}path") if n.get("stroke-width") == "2"]) == 1


def test_a_map_of_points_has_their_colours_and_no_numbers_where_axes_mean_nothing() -> None:
    colours = np.array([[255, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint8)
    figure = render.plane_figure(
        np.array([[0, 0], [1, 2], [2, 4]], np.float32), colours=colours, axes=("", ""), groups=["cat", "dog", "cat"]
    )
    root = drawn(figure)
    marks = [node.get("fill") for node in root.iter(f"{SVG}path") if "translate" in (node.get("transform") or "")]
    assert sorted(marks) == ["rgb(0, 0, 255)"] * 2 + ["rgb(255, 0, 0)"] * 3  # with one each in the legend
    assert sorted(texts(root)) == ["cat", "dog"]
    (x0, y0), (x1, y1) = sorted(points(root)[:3])[::2]
    assert 2 * (x1 - x0) == pytest.approx(y0 - y1, rel=0.05)  # as wide as it is


def test_a_chart_that_it_cannot_draw_is_refused() -> None:
    with pytest.raises(BadSetting, match="pie"):
        render.svg(go.Figure(go.Pie(values=[1])))


def test_points_in_space_are_drawn_as_they_are_first_seen() -> None:
    # Along each axis, from the near corner of a cube: plotly looks from where all three are positive, z upwards.
    corner = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    figure = render.space_figure(corner, colours=None, captions=[""] * 5, axes=("one", "two", "three"), height=500)
    root = drawn(figure)
    origin, x, y, z, near = points(root)
    assert x[0] < origin[0] < y[0]
    assert x[1] == pytest.approx(y[1], abs=0.2)
    assert x[1] > origin[1] > z[1]
    assert z[0] == pytest.approx(origin[0], abs=0.2)
    assert near == pytest.approx(origin, abs=0.2)  # one behind the other
    assert {"one", "two", "three"} <= set(texts(root))


def test_a_marked_point_in_space_is_one_more_with_its_name_written() -> None:
    corners = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 3]], np.float32)
    figure = render.space_figure(
        corners, colours=None, captions=["a", "b", "c"], axes=("1", "2", "3"), height=500, marked=("<mine>", corners[1])
    )
    assert figure.data[-1].marker.size > figure.data[0].marker.size
    _, second, third, mine = points(drawn(figure))
    assert mine == second != third
    assert "<mine>" in texts(drawn(figure))


def test_odd_points_in_space_are_drawn() -> None:
    for values in (np.zeros((0, 3)), np.zeros((1, 3)), np.full((2, 3), 5.0)):
        figure = render.space_figure(
            values.astype(np.float32), colours=None, captions=["a"] * len(values), axes=("a", "b", "c"), height=300
        )
        assert b"nan" not in render.svg(figure)


def test_shares_are_in_per_cent_at_their_axis_and_beside_their_colours() -> None:
    assert {"0 %", "20 %", "100 %"} <= set(texts(drawn(render.probability_bars(["a"], [0.5]))))
    written = texts(drawn(render.confusion_figure(["a", "b"], np.eye(2, dtype=np.int64))))
    assert {"0 %", "100 %"} <= set(written)
    assert not any(text.endswith(" %") for text in texts(drawn(render.depth_profile(["a"], {"x": [0.2]}, unit="p"))))
