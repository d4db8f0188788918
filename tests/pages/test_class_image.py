"""The class image page: both ways before the first click, probabilities, and classes from the link."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]


def test_both_ways_are_there_before_the_first_click(open_page: Open) -> None:
    app = open_page("create/class_image", classes="130 flamingo", class_image_size="64", class_image_steps="32")
    assert app.multiselect(key="classes").value == [130]
    run_until(app, lambda: captions(app).count("1 pictures · 24 steps") >= 2)
    assert "1 × 32 steps at 64 pixels: about" in captions(app)
    app.slider(key="class_image_steps").set_value(8).run()
    assert not app.exception


def test_a_class_that_is_not_there_is_said_and_the_others_are_shown(open_page: Open) -> None:
    app = open_page(
        "create/class_image", classes=["99999", "130 flamingo"], class_image_size="64", class_image_steps="0"
    )
    assert app.multiselect(key="classes").value == [130]
    assert "The link asks for classes “99999”, which is not on offer here; the others are shown" in app.warning[0].value
