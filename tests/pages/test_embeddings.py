"""The embeddings page: a map at once, its layouts and colours, what a lasso selects, collections of one's own."""

from __future__ import annotations

import base64
import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from cnnviz_core import collections, settings
from cnnviz_core.collections import embedding, indexing, sources
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import collection_view, work
from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "explore/embeddings"


def test_a_map_with_its_numbers_is_there_before_the_first_click(open_explore: Open) -> None:
    app = open_explore(PAGE)
    assert "PCA of global\\_pool · 21 pictures" in captions(app)
    assert "10 nearest in the layer are among its 10 nearest in the map" in captions(app)
    assert "% of the variance" in captions(app)
    assert "Purity: of each picture’s 5 nearest" in captions(app)


def test_a_collection_that_was_never_indexed_is_indexed_by_itself(open_page: Open) -> None:
    app = open_page(PAGE, collection="Photos of scikit-image and scikit-learn")
    run_until(app, "PCA of global\\_pool · 21 pictures")
    # A run that reads the index while it is written may ask once more for what is done already.
    told = {record.about["collection"] for record in work.records().all()}
    assert told == {"Photos of scikit-image and scikit-learn"}, "the list of jobs tells which"


def test_two_people_index_one_collection_one_after_the_other_whatever_their_layers(
    open_page: Open, request: pytest.FixtureRequest
) -> None:
    began, may_end = threading.Event(), threading.Event()
    request.addfinalizer(may_end.set)

    def before(_: object) -> None:
        began.set()
        may_end.wait(120)

    work.queue("indexing").submit("before", "Before", before, owner="cleo")
    assert began.wait(10)
    for layer in ("global_pool", "blocks.1"):
        open_page(PAGE, collection="Photos of scikit-image and scikit-learn", layer=layer)
    first, second = work.queue("indexing").live()[1:]
    for job in (first, second):
        work.queue("indexing").cancel(job, owner=next(iter(job.owners)))
    assert first.key != second.key
    assert first._group == second._group


def test_a_costly_collection_is_to_be_seen_before_it_is_indexed(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection_view, "_AT_ONCE_SECONDS", 0)
    app = open_page(PAGE, collection="Photos of scikit-image and scikit-learn")
    assert "Run: Index the collection" in [button.label for button in app.button]
    assert "21 of the 21 pictures, as they lie in the collection" in captions(app)
    assert len(app.get("image")) == 1


def test_at_first_the_layer_is_what_the_classifier_reads_also_where_a_dropout_is_before_it(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection_view, "_AT_ONCE_SECONDS", 0)
    app = open_page(PAGE, model="torchvision/mobilenet_v2", weights="untrained")
    assert app.selectbox(key="layer_of_vectors").value == "classifier.0"


def test_tsne_and_umap(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.segmented_control(key="layout").set_value("tsne").run()
    run_until(app, "Kullback-Leibler divergence")
    assert "t-SNE (perplexity 6, seed 0) of global\\_pool" in captions(app)
    app.segmented_control(key="layout").set_value("umap").run()
    run_until(app, "UMAP (neighbours 15, least distance 0.1, seed 0) of global")


def test_an_earlier_map_opens_again(open_explore: Open) -> None:
    app = open_explore(PAGE, layer_of_vectors="blocks.3.0.bn1")
    assert "PCA of blocks.3.0.bn1" in captions(app)
    app.selectbox(key="layer_of_vectors").set_value("pixels").run()
    assert "PCA of pixels" in captions(app)
    earlier = app.selectbox(key="earlier_map")
    assert earlier.options == ["PCA of blocks.3.0.bn1"]
    earlier.select_index(0).run()
    assert "PCA of blocks.3.0.bn1" in captions(app)


def test_an_earlier_map_opens_with_its_seed(open_explore: Open) -> None:
    app = open_explore(PAGE, layout="t-SNE", seed="3")  # as the address called it once
    run_until(app, "Kullback-Leibler divergence")
    assert app.number_input(key="layout_seed").value == 3
    app.segmented_control(key="layout").set_value("pca").run()
    assert "PCA of global" in captions(app)
    earlier = app.selectbox(key="earlier_map")
    (wanted,) = [name for name in earlier.options if name.startswith("t-SNE (perplexity 6, seed 3)")]
    earlier.select(wanted).run()
    assert "t-SNE (perplexity 6, seed 3) of global\\_pool" in captions(app)  # at once: it is not made anew
    assert app.number_input(key="layout_seed").value == 3


def test_what_is_selected_is_shown_with_its_labels(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.session_state["selected_rows"] = (0, 1, 2)  # what a lasso does; tests/browser draws one
    app.run()
    assert "3 selected" in [h.value for h in app.subheader]
    assert "Labels: everyday 3." in captions(app)


def test_a_selection_is_forgotten_in_another_collection(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.session_state["selected_rows"] = (20,)
    app.run()
    app.selectbox(key="collection").select_index(1).run()
    assert not [h.value for h in app.subheader if "selected" in h.value]


def test_the_picture_grid(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.segmented_control(key="show_as").set_value("picture grid").run()
    app.toggle(key="seams").set_value(True).run()
    assert not app.exception
    app.selectbox(key="cells_by").select_index(1).run()
    assert not app.exception


def test_three_dimensions(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.toggle(key="three").set_value(True).run()
    assert "scatter3d" in app.get("plotly_chart")[0].proto.spec


def test_every_colour_on_offer_works(open_explore: Open) -> None:
    app = open_explore(PAGE)
    offered = app.selectbox(key="colour_by").options
    assert offered == ["label", "answer", "confidence", "nothing"]
    for name in offered:
        app.selectbox(key="colour_by").set_value(name).run()
        assert not app.exception


def test_the_chosen_picture_is_placed(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.toggle(key="place_own").set_value(True).run()
    assert not app.exception


def test_the_chosen_picture_is_placed_in_three_dimensions_too(open_explore: Open) -> None:
    app = open_explore(PAGE, three="true", place_own="true")
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    *pictures, own = figure["data"]
    assert own["name"] == "Chelsea the cat"
    assert "The large orange diamond is Chelsea the cat" in captions(app)
    at = [(trace, text.startswith("everyday/chelsea.png")) for trace in pictures for text in trace["text"]]
    assert sum(is_same for _, is_same in at) == 1
    (trace,) = [trace for trace, is_same in at if is_same]
    row = [text.startswith("everyday/chelsea.png") for text in trace["text"]].index(True)
    spread = max(abs(value) for one in pictures for value in values(one["x"]))
    for axis in "xyz":  # the collection has the same picture, read a little differently
        assert own[axis][0] == pytest.approx(values(trace[axis])[row], abs=0.1 * spread)
    app.toggle(key="place_own").set_value(False).run()
    assert "orange diamond" not in captions(app)
    assert "Chelsea the cat" not in app.get("plotly_chart")[0].proto.spec


def test_an_index_of_another_pooling_is_picked_up(open_explore: Open, lite0: LoadedModel) -> None:
    layer = "blocks.3.0.bn1"
    collection = collections.open_collection("bundled/photos")
    layers = (*embedding.standard_layers(lite0), layer)
    indexing.build(collection, lite0, layers=layers, pooling="max")  # as the terminal does
    app = open_explore(PAGE, layer_of_vectors=layer, pooling="max")
    assert "PCA of blocks.3.0.bn1, max · 21 pictures" in captions(app)
    assert not work.records().all(), "it was there already"
    of_max = app.get("plotly_chart")[-1].proto.spec
    app.toggle(key="place_own").set_value(True).run()
    assert not app.exception
    app.selectbox(key="pooling").set_value("mean").run()
    assert "PCA of blocks.3.0.bn1 · 21 pictures" in captions(app)
    assert app.get("plotly_chart")[-1].proto.spec != of_max, "the layers compared are those of the pooling"


def test_flattened_is_on_offer_where_the_layer_is_small_enough(open_explore: Open) -> None:
    app = open_explore(PAGE, pooling="flattened")
    run_until(app, "PCA of global\\_pool, flattened · 21 pictures")
    app.selectbox(key="layer_of_vectors").set_value("bn2").run()
    pooling = app.selectbox(key="pooling")
    assert pooling.options == ["mean", "max"]
    assert "not on offer for bn2, which has 62,720 values per picture; 16,384 at most are kept" in pooling.help
    assert pooling.value == "mean"
    assert "The mean is shown instead." in " ".join(w.value for w in app.warning)


def values(written: dict[str, str] | list[float]) -> list[float]:
    """Coordinates as plotly writes them, as numbers or as bytes."""
    if isinstance(written, list):
        return written
    return np.frombuffer(base64.b64decode(written["bdata"]), written["dtype"]).tolist()


def zipped(**pictures: bytes) -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name.replace("__", "/") + ".png", content)
    packed.seek(0)
    return packed


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_zip_becomes_a_collection_with_its_broken_files_listed(open_page: Open) -> None:
    pictures = {f"{label}__{number}": noise(number) for number, label in enumerate("ababab")}
    sources.unpack_zip(zipped(**pictures, a__broken=b"nothing"), name="mine.zip")
    (mine,) = [one for one in collections.available() if one.collection_id.startswith("zip/")]
    collections.open_by_id(mine.collection_id)
    app = open_page(PAGE, collection=f"{mine.title} · {mine.collection_id}")
    run_until(app, "PCA of global\\_pool · 6 pictures")
    assert "1 file is left out" in [e.label for e in app.expander]


def test_a_collection_without_pictures_says_so(
    open_page: Open, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "roots" / "empty").mkdir(parents=True)
    monkeypatch.setenv("CNNVIZ_COLLECTION_ROOTS", str(data_dir / "roots"))
    settings.current.cache_clear()
    empty = collections.open_collection(data_dir / "roots" / "empty")
    app = open_page(PAGE)
    app.session_state["next_collection"] = empty.collection_id
    app.run()
    assert "holds no picture files" in " ".join(i.value for i in app.info)


def test_two_pictures_are_too_few(open_page: Open) -> None:
    sources.unpack_zip(zipped(one=noise(1), two=noise(2)), name="two.zip")
    (mine,) = [one for one in collections.available() if one.collection_id.startswith("zip/")]
    collections.open_by_id(mine.collection_id)
    app = open_page(PAGE, collection=f"{mine.title} · {mine.collection_id}")
    run_until(app, lambda: any("bring 3 or more" in i.value for i in app.info))


def test_choices_outlast_the_indexing_of_another_collection(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.segmented_control(key="layout").set_value("tsne").run()
    sources.unpack_zip(zipped(**{f"a__{number}": noise(number) for number in range(7)}), name="mine.zip")
    (mine,) = [one for one in collections.available() if one.collection_id.startswith("zip/")]
    app.session_state["next_collection"] = mine.collection_id  # what unpacking on the page does
    app.run()
    run_until(app, "t-SNE (perplexity 2, seed 0) of global\\_pool · 7 pictures")


def test_what_is_selected_and_lit_is_in_the_link(open_explore: Open) -> None:
    app = open_explore(PAGE)
    app.session_state["selected_rows"], app.session_state["lit_row"] = (3, 5), 5
    app.run()
    link = {name: app.query_params[name] for name in ("selected", "lit")}
    again = open_explore(PAGE, **link)
    assert (again.session_state["selected_rows"], again.session_state["lit_row"]) == ((3, 5), 5)
    assert "2 selected" in [h.value for h in again.subheader]
