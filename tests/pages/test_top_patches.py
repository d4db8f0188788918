"""The strongest patches page: the wall of channels, one channel, and channels that like a drawn part."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core import collections
from tests.pages.reading import captions

Open = Callable[..., AppTest]
PAGE = "explore/top_patches"


def test_a_wall_and_a_channel_are_there_before_the_first_click(open_explore: Open) -> None:
    app = open_explore(PAGE)
    assert "Cut at what a unit of blocks.3.0.bn1 can see: 67 × 67 pixels of the input." in captions(app)
    assert f"Channel {app.number_input(key='channel').value}" in [h.value for h in app.subheader]
    assert "of the strongest in the collection" in captions(app)
    assert "The channels that answer most anywhere in the picture" in captions(app)


def test_labels_that_drive_a_channel_stand_beside_their_usual_share(
    open_explore: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    app = open_explore(PAGE, channel="7", num_patches="8")
    assert "These shares rest on 8 pictures only, so each of them counts for 12 %" in captions(app)
    assert "labels_of_channel" in check_charts(app)
    (chart,) = [one for one in app.get("plotly_chart") if one.proto.id.endswith("labels_of_channel")]
    here, usual = json.loads(chart.proto.spec)["data"]
    names = here["customdata"]
    rows = collections.open_collection("bundled/photos").pictures()
    expected = [sum(row.label == name for row in rows) / len(rows) for name in names]
    assert usual["y"] == pytest.approx(expected)
    assert sum(here["y"]) == pytest.approx(1)
    assert all(share * 8 == round(share * 8) > 0 for share in here["y"])


def test_what_counts_in_each_patch(open_explore: Open) -> None:
    app = open_explore(PAGE, layer="blocks.2.0.bn1")
    for name in app.selectbox(key="below_patches").options:
        app.selectbox(key="below_patches").set_value(name).run()
        assert not app.exception


def test_channel_page_and_order(open_explore: Open) -> None:
    app = open_explore(PAGE, channel="7")
    assert "Channel 7" in [h.value for h in app.subheader]
    app.number_input(key="page_of_channels").set_value(2).run()
    assert not app.exception
    app.selectbox(key="order_of_channels").set_value("by number").run()
    assert not app.exception
    app.selectbox(key="layer").set_value("blocks.1.0.bn1").run()
    assert app.number_input(key="page_of_channels").value == 1


def test_a_rectangle_says_which_channels_like_it(open_explore: Open, rectangle_key: str) -> None:
    app = open_explore(PAGE)
    app.session_state[rectangle_key] = (0.1, 0.1, 0.4, 0.4)
    app.run()
    assert "The channels that answer most in the rectangle" in captions(app)


def test_where_units_see_everything_the_cut_is_explained(open_explore: Open) -> None:
    app = open_explore(PAGE, layer="bn2")
    assert "The box is a third of the picture’s sides" in captions(app)
