"""Charts: the numbers in the figures, and what is written beside them."""

import math
import subprocess
import sys

import numpy as np
import pytest

from cnnviz_core import render
from cnnviz_core.errors import BadSetting


def test_histogram_counts_every_present_value() -> None:
    values = np.array([[0, 0, 0, 1], [1.5, 2, 4, np.nan]], np.float32)
    figure = render.histogram(values, unit="activation", marks={"limit": 3.0}, num_bins=4)
    bars = figure.data[0]
    assert list(bars.y) == [3, 2, 1, 1]
    assert list(bars.x) == [0.5, 1.5, 2.5, 3.5]
    assert bars.customdata[0] == "0 to 1"
    assert figure.layout.xaxis.title.text == "activation · 42.9 % exactly 0 · 1 missing"
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 3.0
    assert figure.layout.annotations[0].text == "limit"
    assert figure.layout.yaxis.type == "linear"
    assert render.histogram(values, unit="", log_counts=True).layout.yaxis.type == "log"


@pytest.mark.parametrize(
    "values", [[], [np.nan], [5, 5], [5, np.nextafter(np.float32(5), np.float32(6))], [1e-38, 3e38]]
)
def test_histogram_of_odd_values(values: list[float]) -> None:
    array = np.array(values, np.float32)
    figure = render.histogram(array, unit="x")
    assert sum(figure.data[0].y) == np.isfinite(array).sum()


@pytest.mark.parametrize(("values", "last"), [([0.25], 0.25), ([0.0, 0.5], 0.5), ([], 0.0)])
def test_histogram_begins_where_it_is_told(values: list[float], last: float) -> None:
    bars = render.histogram(np.array(values, np.float32), unit="x", num_bins=4, low=0.0).data[0]
    if values:
        assert list(bars.x) == pytest.approx([last * share for share in (0.125, 0.375, 0.625, 0.875)])
    assert sum(bars.y) == len(values)


def test_probability_bars_keep_equal_names_apart() -> None:
    figure = render.probability_bars(["crane", "crane", "<unk>", "a" * 50], [0.5, 0.2468, 0.0002, 0.9999])
    bars = figure.data[0]
    assert list(bars.x) == [0.5, 0.2468, 0.0002, 0.9999]
    assert list(bars.y) == [0, 1, 2, 3]
    assert list(bars.text) == ["50.0 %", "24.7 %", "< 0.1 %", "> 99.9 %"]
    ticks = figure.layout.yaxis.ticktext
    assert ticks[:3] == ("crane", "crane", "&lt;unk&gt;")
    assert len(ticks[3]) == 32
    assert bars.customdata[3] == "a" * 50
    assert tuple(figure.layout.xaxis.range) == (0, 1)
    assert figure.layout.yaxis.autorange == "reversed"


def test_depth_profile_has_a_point_per_layer_and_gaps() -> None:
    figure = render.depth_profile(["a", "b", "c"], {"base": [1, math.nan, 3], "tuned": [0, 1, 2]}, unit="cosine")
    base, tuned = figure.data
    assert list(base.y) == [1, None, 3]
    assert list(base.text) == ["1", "missing", "3"]
    assert "text" in base.mode
    assert base.line.color != tuned.line.color
    assert base.marker.symbol != tuned.marker.symbol
    assert figure.layout.showlegend
    assert figure.layout.xaxis.ticktext == ("a", "b", "c")
    assert figure.layout.yaxis.rangemode == "tozero"


def test_depth_profile_of_many_layers_labels_some() -> None:
    figure = render.depth_profile([f"layer{at}" for at in range(100)], {"x": [-1.0] * 100}, unit="")
    assert "text" not in figure.data[0].mode
    assert len(figure.data[0].x) == 100
    assert figure.layout.xaxis.ticktext[:2] == ("layer0", "layer5")
    assert figure.layout.yaxis.rangemode is None
    assert not figure.layout.showlegend
    assert render.depth_profile([], {}, unit="").data == ()


def test_curves_stand_over_their_band() -> None:
    x = np.array([0, 0.5, 1], np.float32)
    band = x * 0, x * 0 + 1
    figure = render.curves_figure(x, {"a<b": x, "c": 1 - x}, x_title="deleted", unit="probability", band=band)
    low, high, first, second = figure.data
    assert (low.fill, high.fill) == (None, "tonexty")
    assert list(high.y) == [1, 1, 1]
    assert first.name == "a&lt;b"
    assert list(second.y) == [1, 0.5, 0]
    assert figure.layout.yaxis.range == (0, 1)
    assert list(first.text) == ["0 %", "50 %", "100 %"]  # for the pointer
    assert len(render.curves_figure(x, {"a": x}, x_title="", unit="").data) == 1


def test_a_matrix_keeps_digits_as_names_and_its_scale_fixed() -> None:
    values = np.array([[1, -0.25], [-0.25, 1]], np.float32)
    figure = render.matrix_figure(["7", "3"], values, unit="rank correlation")
    heat = figure.data[0]
    assert (heat.zmin, heat.zmax) == (-1, 1)
    assert heat.colorbar.tickvals == (-1, 0, 1), "more would lie over each other beside two rows"
    assert heat.text[0][1] == "\u22120.25"
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "category"
    assert figure.layout.yaxis.autorange == "reversed"


def test_places_are_drawn_where_the_patch_had_its_centre() -> None:
    tops, lefts = np.array([0, 8, 12]), np.array([0, 4])
    heat = render.places_figure(np.ones((3, 2), np.float32), tops, lefts, patch_px=8, unit="probability").data[0]
    assert list(heat.y) == [4, 12, 16]
    assert list(heat.x) == [4, 8]


def test_categories_have_a_legend_and_what_was_not_tried_is_empty() -> None:
    names = {5: "cat", 9: "dog"}
    heat, cat, dog = render.categories_figure(np.array([[5, 9], [-1, 5]]), names).data
    assert heat.z[0][0] == 0
    assert heat.z[0][1] == 1
    assert math.isnan(heat.z[1][0])
    assert heat.customdata[1][0] == "not tried"
    assert (cat.name, dog.name) == ("cat", "dog")
    assert cat.marker.color != dog.marker.color


def test_more_than_six_categories_share_grey() -> None:
    figure = render.categories_figure(np.arange(9).reshape(3, 3), {at: f"class {at}" for at in range(9)})
    assert [entry.name for entry in figure.data[1:]] == [*(f"class {at}" for at in range(6)), "others"]
    assert figure.data[0].z[2][2] == 6


def test_frequency_axes_are_cycles_per_pixel() -> None:
    # Vertical stripes with a period of 4 pixels: 0.25 cycles per pixel across, none down.
    stripes = np.tile(np.cos(2 * np.pi * np.arange(16) / 4), (16, 1))
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(stripes))).astype(np.float32)
    heat = render.frequency_figure(magnitude).data[0]
    row, column = np.unravel_index(np.argmax(heat.z), (16, 16))
    assert abs(heat.x[column]) == 0.25
    assert heat.y[row] == 0
    assert heat.x[0] == -0.5
    assert len(heat.colorscale) == 255
    assert heat.colorscale[-1] == (1.0, "rgb(253,231,37)")
    with pytest.raises(BadSetting):
        render.frequency_figure(magnitude, colour_map="jet")


def test_backgrounds_are_transparent() -> None:
    for figure in (
        render.histogram(np.ones(3, np.float32), unit="x"),
        render.probability_bars(["a"], [1.0]),
        render.depth_profile(["a"], {"x": [1.0]}, unit="x"),
        render.frequency_figure(np.ones((4, 4), np.float32)),
    ):
        clear = (figure.layout.paper_bgcolor, figure.layout.plot_bgcolor, figure.layout.modebar.bgcolor)
        assert set(clear) == {"rgba(0, 0, 0, 0)"}
        assert figure.layout.font.color is None


def test_steps_are_whole_numbers_and_one_is_pointed_out() -> None:
    values = np.array([0.9, 0.5, 0.1], np.float32)
    figure = render.steps_figure({"a<b": values, "c": 1 - values}, unit="probability", mark=1)
    first, second = figure.data
    assert (first.name, list(first.x)) == ("a&lt;b", [0, 1, 2])
    assert list(second.y) == pytest.approx([0.1, 0.5, 0.9])
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 1
    assert figure.layout.xaxis.dtick == 1
    assert not render.steps_figure({"a": values}, unit="").layout.shapes


def test_pandas_is_whole_before_anything_is_drawn() -> None:
    """Of two sessions that come first, one would draw while the other imports it, and plotly then fails."""
    code = "import sys, cnnviz_core.render; assert hasattr(sys.modules['pandas'], 'Series')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shares_stand_side_by_side_at_one_height_on_one_axis() -> None:
    names = ["a label too long for the axis", "b & c"]
    figure = render.shares_figure(names, {"here": [0.75, 0.25], "usual": [1 / 3, 2 / 3]}, unit="of pictures")
    few = render.shares_figure(["a"], {"here": [1.0], "usual": [0.5]}, unit="of pictures")
    here, usual = figure.data
    assert (list(here.y), list(usual.y)) == ([0.75, 0.25], [1 / 3, 2 / 3])
    assert list(usual.text) == ["33.3 %", "66.7 %"]
    assert here.offset + here.width == pytest.approx(usual.offset), "side by side, not one over the other"
    assert figure.layout.yaxis.range == (0, 1) == few.layout.yaxis.range
    assert figure.layout.height == few.layout.height
    assert list(figure.layout.xaxis.ticktext) == ["a label too long …", "b &amp; c"]
    assert render.svg(figure).startswith(b"<svg")
