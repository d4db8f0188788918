"""The DeepDream page: a quick dream before the first click, the cost of the asked one, the run, what is refused."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "create/deep_dream"


def test_a_quick_dream_is_there_before_the_first_click_and_the_cost_of_the_asked_one(open_page: Open) -> None:
    app = open_page(PAGE)
    run_until(app, "32 steps up to 256 × 170 px")
    assert "DeepDream, blocks.5.0.bn1" in captions(app)
    assert "40 steps, the last at 451 pixels: about" in captions(app)
    assert "To the photo at this size: Egyptian cat" in captions(app)
    assert "Left of the edge: the photo at the same size; right of it: the dream." in captions(app)
    app.slider(key="dream_frame").set_value(3).run()
    assert "Left of the edge: frame 3 of 32 at the same size;" in captions(app)
    again = open_page(PAGE, frame="3")
    run_until(again, "Left of the edge: frame 3 of 32 at the same size;")


def test_the_run_gives_the_dream_that_was_asked_for(
    open_page: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    app = open_page(
        PAGE, dream_size="320", dream_steps="1", octaves="2", dream_layers="blocks.2", dream_channel="3", jitter="0"
    )
    app.button(key="dream_run").click().run()
    run_until(app, "2 steps up to 320 × 213 px")
    assert "DeepDream, blocks.2, channel 3" in captions(app)
    assert check_charts(app) == {"dream_answer", "dream_curve"}


def test_a_guide_takes_the_place_of_a_channel(open_page: Open) -> None:
    app = open_page(PAGE, grows="like the guide", dream_steps="1")
    assert app.selectbox(key="guide").value == "flower"
    assert not [box for box in app.selectbox if box.key == "dream_channel"]
    run_until(app, "4 steps up to")


def test_nothing_to_do_is_the_photo(open_page: Open) -> None:
    app = open_page(PAGE, dream_steps="0")
    run_until(app, "0 steps up to 256 × 170 px")
    assert "about 0 s" in captions(app)


def test_the_link_tells_the_precision_also_where_it_is_the_usual_one(open_page: Open) -> None:
    app = open_page(PAGE, dream_steps="0")
    assert app.query_params["precision"] in ("float32", "bfloat16")  # as the computer is
    for is_half, precision in ((True, "bfloat16"), (False, "float32")):
        app.toggle(key="half_precision").set_value(is_half).run()
        assert app.query_params["precision"] == precision
        again = open_page(PAGE, dream_steps="0", precision=precision)
        assert again.toggle(key="half_precision").value is is_half
        assert again.query_params["precision"] == precision
