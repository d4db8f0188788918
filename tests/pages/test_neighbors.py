"""The neighbours page: neighbours beside the pixels', the trail, regions, and what stands out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core import collections, images, photos, store
from cnnviz_core.ui import neighbor_view
from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "explore/neighbors"


def markdown(app: AppTest) -> str:
    return " ".join(m.value for m in app.markdown)


def row_of(name: str) -> int:
    paths = [picture.path for picture in collections.open_collection("bundled/photos").pictures()]
    (row,) = [row for row, path in enumerate(paths) if name in path]
    return row


def test_neighbours_by_the_layer_and_by_the_pixels(open_explore: Open) -> None:
    app = open_explore(PAGE)
    assert "Query: Chelsea the cat, as the network sees it." in captions(app)
    assert "Nearest by global" in markdown(app)
    assert "Nearest by the pixels themselves" in markdown(app)
    assert "of 12 are the same in both" in captions(app)


def test_the_picture_itself_is_no_neighbour_of_its_own(open_explore: Open) -> None:
    app = open_explore(PAGE)
    assert "The collection has it, too (everyday/chelsea.png), which is left out of its neighbours." in captions(app)
    assert "have the query’s label, everyday" in captions(app)
    (spec,) = [chart.proto.spec for chart in app.get("plotly_chart") if chart.proto.id.endswith("distances")]
    assert spec.count(".png") + spec.count(".jpg") >= 12
    assert "chelsea" not in spec
    app.session_state["trail"] = [row_of("coffee")]
    app.run()
    assert "The collection has it, too" not in captions(app)
    mirrored = images.from_pixels(photos.open_photo("chelsea").pixels[:, ::-1].copy(), name="mirrored")
    app = open_explore(PAGE, image=f"mirrored ({store.save_picture(mirrored)})")
    assert "Query: mirrored" in captions(app)
    assert "The collection has it, too" not in captions(app)


def test_a_clicked_neighbour_is_the_next_query_and_the_way_leads_back(open_explore: Open) -> None:
    app = open_explore(PAGE)
    coffee, rocket = row_of("coffee"), row_of("rocket")
    app.session_state["trail"] = [coffee, rocket]  # what clicks do; tests/browser clicks
    app.run()
    assert "rocket" in captions(app)
    assert "have the query’s label, everyday" in captions(app)
    app.button(key="trail_0").click().run()
    assert app.session_state["trail"] == [coffee]
    assert "Query: everyday/coffee" in captions(app)
    app.button(key="trail_start").click().run()
    assert "Query: Chelsea the cat" in captions(app)


def test_any_picture_of_the_collection_can_be_picked_to_start_from(open_explore: Open) -> None:
    app = open_explore(PAGE)
    picker = app.selectbox(key="start_from")
    coffee, rocket = row_of("coffee"), row_of("rocket")
    assert picker.value == -1
    assert len(picker.options) == 1 + len(collections.open_collection("bundled/photos").pictures())
    assert picker.options[1 + coffee] == "everyday/coffee.png · everyday"
    picker.set_value(coffee).run()
    app.selectbox(key="start_from").set_value(rocket).run()
    assert app.session_state["trail"] == [coffee, rocket]
    assert "Query: everyday/rocket" in captions(app)
    again = open_explore(PAGE, trail=app.query_params["trail"])
    assert again.selectbox(key="start_from").value == rocket
    again.button(key="trail_0").click().run()
    assert again.selectbox(key="start_from").value == coffee
    again.selectbox(key="start_from").set_value(-1).run()
    assert "Query: Chelsea the cat" in captions(again)
    assert "trail" not in again.query_params


def test_of_very_many_pictures_those_with_a_part_of_the_path_are_on_offer(
    open_explore: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbor_view, "_MOST_OFFERED", 5)
    app = open_explore(PAGE)
    assert len(app.selectbox(key="start_from").options) == 1 + 5
    app.text_input(key="part_of_path").set_value("Coff").run()
    assert app.selectbox(key="start_from").options[1:] == ["everyday/coffee.png · everyday"]
    app.selectbox(key="start_from").set_value(row_of("coffee")).run()
    app.text_input(key="part_of_path").set_value("nothing of the kind").run()
    assert "Query: everyday/coffee" in captions(app)


def test_the_way_through_the_collection_is_in_the_link(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.session_state["trail"] = [row_of("coffee"), row_of("rocket")]
    app.run()
    link = app.query_params["trail"]
    assert "Query: everyday/coffee" not in captions(open_explore(PAGE))
    again = open_explore(PAGE, trail=link)
    assert again.session_state["trail"] == [row_of("coffee"), row_of("rocket")]
    assert not again.warning
    for wrong in ("00000000~1~2", "nonsense", link.rpartition("~")[0] + "~999999", link + "~<b>"):
        app = open_explore(PAGE, trail=wrong)
        assert app.session_state["trail"] == []
        assert any("has changed since" in w.value for w in app.warning)


def test_a_layer_named_as_on_other_pages_is_taken_or_said(open_explore: Open) -> None:
    assert open_explore(PAGE, layer="pixels").selectbox(key="layer_of_vectors").value == "pixels"
    app = open_explore(PAGE, layer="foo")
    assert any("layer “foo”, which is not on offer" in w.value for w in app.warning)


def test_metric_number_and_layer(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.segmented_control(key="metric").set_value("euclidean").run()
    app.slider(key="num_nearest").set_value(5).run()
    assert "of 5 are the same in both" in captions(app)
    app.selectbox(key="layer_of_vectors").set_value("pixels").run()
    assert "same in both" not in captions(app)


def test_a_pooling_of_ones_own(open_explore: Open) -> None:
    app = open_explore(PAGE, layer_of_vectors="bn2", pooling="max")
    run_until(app, lambda: "Nearest by bn2, max" in markdown(app))
    assert "choose the pooling “mean” for that" in captions(app), "a part has no maximum to compare with"
    assert "Nearest by the pixels themselves" in markdown(app)


def test_a_region_is_searched_place_by_place(open_explore: Open, rectangle_key: str) -> None:
    app = open_explore(PAGE)
    app.session_state[rectangle_key] = (0.1, 0.1, 0.5, 0.5)
    app.run()
    run_until(app, "The best place of 3 × 3 cells of bn2 in each picture")


def test_lists_of_what_stands_out(open_explore: Open) -> None:
    app = open_explore(PAGE)
    for name, words in (
        ("near-duplicates", "Each tile is a pair"),
        ("outliers", "Farthest from their 5 nearest"),
        ("confusing pairs", "The nearest with different labels"),
    ):
        app.segmented_control(key="list").set_value(name).run()
        run_until(app, words)
