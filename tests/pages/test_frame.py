"""The frame around the pages: what does not fit, what fails, and what stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from streamlit.testing.v1 import AppTest
from torch import nn

from cnnviz_core import models, store
from cnnviz_core.errors import BadCheckpoint
from cnnviz_core.ui import compute


@pytest.fixture
def vectors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network without any map stands in for whatever is chosen."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU(), nn.Linear(5, 4))
    torch.manual_seed(0)
    model = models.from_module(net, input_px=8, mean=(0.5,) * 3, std=(0.5,) * 3, name="perceptron")
    monkeypatch.setattr(compute, "model", lambda *_: model)


@pytest.mark.usefixtures("vectors_only")
@pytest.mark.parametrize(
    ("path", "reason"),
    [("look/feature_maps", "no layer puts out a map"), ("look/filters", "it has no convolution")],
)
def test_a_page_that_does_not_fit_says_why(open_page: Callable[..., AppTest], path: str, reason: str) -> None:
    app = open_page(path)
    assert any(reason in i.value for i in app.info)


@pytest.mark.usefixtures("vectors_only")
def test_home_and_doctor_do_with_a_network_without_maps(open_page: Callable[..., AppTest]) -> None:
    assert any("nothing to show of its inside" in i.value for i in open_page().info)
    assert "✕\u00a0does not apply" in set(open_page("manage/model").table[1].value["Verdict"])


def test_a_network_that_fails_to_load_is_said_and_the_rest_works(
    open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BadCheckpoint("mine.pth is cut short; copy it again.")

    monkeypatch.setattr(compute, "model", fail)
    app = open_page("manage/networks")
    assert any("mine.pth is cut short" in e.value for e in app.error)
    assert app.selectbox(key="model").options  # another one can be chosen
    assert app.text_input(key="search") is not None  # and the page is there


def test_a_linked_checkpoint_that_is_gone_shows_the_default(open_page: Callable[..., AppTest]) -> None:
    app = open_page(model="checkpoint/gone-0123456789abcdef")
    assert any("checkpoint/gone" in w.value for w in app.warning)
    assert app.selectbox(key="model").value == models.DEFAULT_MODEL
    assert not store.checkpoints()


def test_the_steps_of_one_page_are_not_those_of_another(open_page: Callable[..., AppTest]) -> None:
    app = open_page("create/adversarial")
    app.slider(key="attack_steps").set_value(0).run()
    app.run()
    app.switch_page("pages/create/class_image.py").run()
    assert not app.exception
    assert app.slider(key="class_image_steps").value == 128


@pytest.mark.parametrize("is_chosen", [False, True])
def test_a_layer_follows_to_another_page_only_where_it_was_chosen(
    open_page: Callable[..., AppTest], *, is_chosen: bool
) -> None:
    app = open_page("look/feature_maps")
    own, other = app.selectbox("layer").value, app.selectbox("layer").options[3]
    if is_chosen:
        app.selectbox("layer").select(other).run()
    app.run()  # only what a second run has seen is carried along
    app.switch_page("pages/explain/cam.py").run()
    assert not app.exception
    default = open_page("explain/cam").selectbox("layer").value
    assert own != default != other
    assert app.selectbox("layer").value == (other if is_chosen else default)
