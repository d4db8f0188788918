from __future__ import annotations

from collections.abc import Callable

import numpy as np
from streamlit.testing.v1 import AppTest

from cnnviz_core import catalogue, images, settings, store
from cnnviz_core.ui import compute, pickers


def _headline(app: AppTest) -> str:
    return next(s.value for s in app.subheader if s.value.startswith("It says"))


def test_first_screen_is_a_real_answer_on_a_real_photo(open_page: Callable[..., AppTest]) -> None:
    app = open_page()
    assert "Egyptian cat" in _headline(app)
    assert app.button(key="aim_0").label.startswith("Egyptian cat")
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
    assert sum("upload it again" in w.value for w in app.warning) == 1
    assert "Egyptian cat" in _headline(app)


def _upload(name: str) -> str:
    pixels = np.random.default_rng(5).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return store.save_picture(images.from_pixels(pixels, name=name))


def test_a_link_to_an_upload_works_whatever_the_file_was_called_first(open_page: Callable[..., AppTest]) -> None:
    digest = _upload("old.png")
    app = open_page(image=f"new.png ({digest})")
    assert not app.warning
    assert app.selectbox(key="image").value == digest


def test_an_upload_that_was_dropped_meanwhile_does_not_stop_the_session(open_page: Callable[..., AppTest]) -> None:
    compute._stored.clear()
    pickers._thumbnail.clear()
    digest = _upload("mine.png")
    app = open_page(image=f"mine.png ({digest})")
    for file in (settings.current().data_dir / "pictures").iterdir():
        file.unlink()
    compute._stored.clear()
    pickers._thumbnail.clear()
    app.run()
    assert not app.exception
    assert sum("upload it again" in w.value for w in app.warning) == 1
    assert "Egyptian cat" in _headline(app)
    app.run()
    assert not app.warning


def test_a_network_without_published_weights_offers_no_download(open_page: Callable[..., AppTest]) -> None:
    entry = next(e for e in catalogue.entries() if e.weights is catalogue.WeightsPlace.NONE)
    app = open_page(model=entry.model_id)
    assert any("No weights were ever published" in i.value for i in app.info)
    assert not [b for b in app.button if b.key == "download_weights"]


def test_a_target_that_the_next_network_does_not_know_is_dropped(open_page: Callable[..., AppTest]) -> None:
    from safetensors.torch import save

    net = catalogue.create("torchvision/squeezenet1_1", num_classes=3)
    card = store.save_checkpoint(
        save(net.state_dict()), name="mine.safetensors", architecture="torchvision/squeezenet1_1"
    )
    app = open_page()
    app.selectbox(key="target").select(1).run()
    app.selectbox(key="model").select(card.checkpoint_id).run()
    assert not app.exception
    assert app.selectbox(key="target").value == pickers.FIRST_ANSWER
