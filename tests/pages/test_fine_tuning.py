"""The fine-tuning page: split and probe before the first click, a training with its outcome, and the network after."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from cnnviz_core import collections, settings, store
from cnnviz_core.collections import sources
from tests.pages.reading import run_until

Open = Callable[..., AppTest]
PAGE = "compare/fine_tuning"
# Small and untrained, so that a training takes a second.
NETWORK = "timm/mobilenetv3_small_050"


def shapes() -> str:
    """A collection of light and dark pictures. Returns what it is called in the picker."""
    packed = io.BytesIO()
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(packed, "w") as archive:
        for label, mean in (("dark", 40), ("light", 210)):
            for number in range(8):
                file = io.BytesIO()
                pixels = np.clip(draw.normal(mean, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(file, "PNG")
                archive.writestr(f"{label}/{number}.png", file.getvalue())
    packed.seek(0)
    added = sources.unpack_zip(packed, name="shades.zip")
    collections.open_by_id(added.collection_id)
    return f"{added.title} · {added.collection_id}"


def labels(app: AppTest) -> list[str]:
    return [metric.label for metric in app.metric]


@pytest.fixture
def trained(open_page: Open) -> AppTest:
    """The page after a training of the head."""
    app = open_page(PAGE, collection=shapes(), model=NETWORK, weights="untrained", scope="the head", epochs="2")
    run_until(app, lambda: any(button.key == "fine_tuning_run" for button in app.button))
    app.button(key="fine_tuning_run").click().run()
    run_until(app, lambda: "Test accuracy" in labels(app))
    return app


def test_what_is_there_before_and_after_a_training(
    check_charts: Callable[[AppTest], set[str]], trained: AppTest
) -> None:
    app = trained
    assert check_charts(app) == {"parts", "final_loss", "final_accuracy", "confusion"}
    words = " ".join(caption.value for caption in app.caption)
    assert "2 classes. 10 training pictures change the weights, 2 validation" in words
    assert "Epoch 0 is the start" in words
    assert labels(app)[:2] == ["Linear probe, on the test pictures", "By chance"]
    assert {"Test accuracy", "Linear probe", "Took"} <= set(labels(app))
    app.selectbox(key="cell").select_index(1).run()
    assert not app.exception
    assert "Under each its answer" in " ".join(caption.value for caption in app.caption)


def test_the_new_network_is_used_on_all_pages(trained: AppTest) -> None:
    app = trained
    (card,) = store.checkpoints()
    assert f"{card.name} · {card.checkpoint_id}" in app.selectbox(key="model").options
    assert any("before: 1" in expander.label for expander in app.expander)
    app.button(key="use_tuned").click().run()
    assert app.selectbox(key="model").value == card.checkpoint_id
    app.switch_page("pages/look/home.py").run()
    assert not app.exception
    assert {"dark", "light"} & {button.label.partition("\u2002")[0] for button in app.button}


def test_the_new_network_is_compared_with_its_base(trained: AppTest) -> None:
    app = trained
    (card,) = store.checkpoints()
    app.button(key="compare_tuned").click().run()
    assert not app.exception
    path, link, _ = app.session_state["wanted_screen"]
    assert path == "pages/compare/comparison.py"
    assert (link["model"], link["role"]) == ([f"{card.name} · {card.checkpoint_id}"], ["tuned"])


def test_who_may_not_train_is_told(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNVIZ_MAY_TRAIN", "nobody")
    settings.current.cache_clear()
    app = open_page(PAGE, collection=shapes(), model=NETWORK, weights="untrained", scope="the head")
    assert app.button(key="fine_tuning_run").disabled
    assert any("CNNVIZ_MAY_TRAIN" in caption.value for caption in app.caption)


def test_settings_change_what_is_trained_and_what_it_costs(open_page: Open) -> None:
    app = open_page(PAGE, collection=shapes(), model=NETWORK, weights="untrained", scope="the head")
    run_until(app, lambda: any(button.key == "fine_tuning_run" for button in app.button))

    def cost() -> str:
        return next(caption.value for caption in app.caption if "weights are trained" in caption.value)

    head = cost()
    assert "what classifier reads is worked out once for each picture" in head
    rate = app.selectbox(key="learning_rate").value
    # One layer bears smaller steps than the head, several still smaller ones.
    for scope, steps in (("blocks", 0.3), ("stage", 0.01), ("all", 1), ("layers", 0.3)):
        app.segmented_control(key="scope").set_value(scope).run()
        assert not app.exception
        assert cost() != head
        # With all norms going by the batch, the whole network bears the rate of the head.
        assert app.selectbox(key="learning_rate").value == pytest.approx(rate * steps)


def test_too_few_pictures_are_said(open_page: Open) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(4):
            file = io.BytesIO()
            Image.new("RGB", (20, 20), (50 * number,) * 3).save(file, "PNG")
            archive.writestr(f"one/{number}.png", file.getvalue())
    packed.seek(0)
    added = sources.unpack_zip(packed, name="one.zip")
    collections.open_by_id(added.collection_id)
    app = open_page(PAGE, collection=f"{added.title} · {added.collection_id}")
    assert "Training needs two classes with 3 pictures" in " ".join(error.value for error in app.error)
