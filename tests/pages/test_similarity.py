"""The similarity page: a pinned place at once, its best match, depth, several pictures, and the score with a mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from cnnviz_core import features, images, store
from cnnviz_core.ui.components.similarity_view import Origin
from tests.pages.reading import captions

Open = Callable[..., AppTest]
PAGE = "compare/similarity"
PAIR = {"image": "Motorcycle, left eye", "compare_with": "Motorcycle, right eye"}


def test_the_same_picture_twice_is_its_own_best_match(open_page: Open) -> None:
    app = open_page(PAGE)
    assert "Cosine to row 5, column 8 of Chelsea the cat, by bn2." in captions(app)
    assert "Best match in Chelsea the cat: row 5, column 8, cosine 1.000, mutual." in captions(app)
    assert "Motorcycle, left eye: mean cosine between two places on the object" in captions(app)


def test_what_does_not_fit_into_memory_is_said_with_what_to_lower(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(features, "_forward", too_much)
    app = open_page(PAGE, image="A cup of espresso", working_size="224")
    assert any("ran out of memory here" in e.value and "smaller working size" in e.value for e in app.error)


def test_a_place_of_one_motorcycle_is_found_on_the_other(open_page: Open) -> None:
    app = open_page(PAGE, **PAIR)
    app.session_state["pin"] = Origin(0, ((5, 8),))  # what a click does; tests/browser clicks
    app.run()
    assert "Best match in Motorcycle, right eye: row 5, column 7, cosine 0.901, mutual." in captions(app)
    app.session_state["pin"] = Origin(1, ((5, 7), (5, 8)))
    app.run()
    assert "Cosine to 2 cells (mean) of Motorcycle, right eye" in captions(app)
    assert "Best match" not in captions(app)


def test_layers_size_and_centring(open_page: Open) -> None:
    app = open_page(PAGE, **PAIR)
    app.multiselect(key="similarity_layers").set_value(["blocks.5.0.bn1", "bn2"]).run()
    assert "by blocks.5.0.bn1 and bn2." in captions(app)
    app.select_slider(key="working_size").set_value(320).run()
    app.toggle(key="centre").set_value(True).run()
    app.toggle(key="mutual").set_value(True).run()
    assert not app.exception


def test_several_pictures_are_searched(open_page: Open) -> None:
    app = open_page(PAGE)
    app.multiselect(key="compare_with").set_value(["coffee", "rocket"]).run()
    assert "Best match in A cup of espresso" in captions(app)
    assert "Best match in A rocket at dusk" in captions(app)


def test_the_pin_is_in_the_link(open_page: Open) -> None:
    app = open_page(PAGE, **PAIR, pin="1~5.7~5.8")
    assert "Cosine to 2 cells (mean) of Motorcycle, right eye" in captions(app)
    app.session_state["pin"] = Origin(0, ((2, 3),))
    app.run()
    assert app.query_params["pin"] == "0~2.3"
    for nonsense in ("9~1.1", "0~99.1", "x"):
        assert "Cosine to row 5, column 8 of Motorcycle, left eye" in captions(open_page(PAGE, **PAIR, pin=nonsense))


def test_few_cells_are_said_to_be(open_page: Open) -> None:
    app = open_page(PAGE, working_size="224", dilate_last="false")
    assert not app.info
    panorama = images.from_pixels(np.random.default_rng(0).integers(0, 256, (40, 800, 3), dtype=np.uint8), name="wide")
    app = open_page(PAGE, image=f"wide ({store.save_picture(panorama)})")
    assert "only 1 × 16 cells" in app.info[0].value
    assert not app.exception
