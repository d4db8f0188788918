from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest


def _headline(app: AppTest) -> str:
    return next(s.value for s in app.subheader if s.value.startswith("It says"))


def test_first_screen_is_a_real_answer_on_a_real_photo(open_page: Callable[..., AppTest]) -> None:
    app = open_page()
    assert "Egyptian cat" in _headline(app)
    assert [b.label.split("\u2002")[0] for b in app.button if b.key and b.key.startswith("aim_")][0] == "Egyptian cat"
    assert any("224 × 224 px" in c.value for c in app.caption)


def test_another_picture_gets_another_answer(open_page: Callable[..., AppTest]) -> None:
    app = open_page()
    app.selectbox(key="image").select("coffee").run()
    assert "espresso" in _headline(app)


def test_a_click_on_an_answer_sets_the_target_on_all_pages(open_page: Callable[..., AppTest]) -> None:
    app = open_page()
    app.button(key="aim_2").click().run()
    assert app.selectbox(key="target").value == 281  # tabby
    app.switch_page("pages/look/filters.py").run()
    assert app.selectbox(key="target").value == 281


def test_untrained_weights_are_named_so(open_page: Callable[..., AppTest]) -> None:
    app = open_page()
    app.segmented_control(key="weights").set_value("untrained").run()
    assert not app.exception
    assert any("Untrained" in w.value for w in app.warning)


def test_weights_that_are_not_here_are_offered_not_fetched(open_page: Callable[..., AppTest]) -> None:
    app = open_page()
    app.selectbox(key="model").select("torchvision/alexnet").run()
    assert any("not on this machine" in i.value for i in app.info)
    assert app.button(key="download_weights").label.startswith("Download the weights (233 MB)")
    app.segmented_control(key="weights").set_value("untrained").run()
    assert not app.info
    assert any(s.value.startswith("It says") for s in app.subheader)


def test_a_link_to_nothing_says_so_and_shows_the_default(open_page: Callable[..., AppTest]) -> None:
    app = open_page(model="timm/resnet5O", image="chelsae")
    words = " ".join(w.value for w in app.warning)
    assert "timm/resnet5O" in words
    assert "timm/resnet50" in words  # the near match
    assert "Egyptian cat" in _headline(app)


def test_a_link_to_an_expired_upload_says_so(open_page: Callable[..., AppTest]) -> None:
    app = open_page(image="mine.png (0123456789abcdef)")
    assert any("upload it again" in w.value for w in app.warning)
    assert "Egyptian cat" in _headline(app)
