"""What comes from outside and means harm, on the pages themselves: names that are markup, links that are nonsense."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest
from torch import nn

from cnnviz_core import models
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import compute

MARKUP = "<img src=x onerror=alert(1)> [go](https://a.example) **b** `c` $x$ :red[r] \ud800"
LAYER = "a b<i>*_`[x](y)$:é"
LINKS = ("../../etc/passwd", "9" * 400, "<script>alert(1)</script>", "nan", "-1", "~".join("1" * 500), "\x00\u202e")
PARAMS = (
    *("model", "weights", "image", "target", "layer", "channel", "call", "method", "methods", "patch", "stride"),
    *("baseline", "brightness", "clip", "colours", "from", "to", "pin", "supports", "threshold", "attack_steps"),
    *("attack_seed", "layout_seed", "class_image_steps", "class_image_size", "class_image_seed"),
    *("visualization_steps", "visualization_size", "visualization_seed", "few_shot_threshold", "cam_classes"),
    *("collection", "pooling", "k", "order", "kernel", "depth", "filter", "search"),
)
# One of each way in which pages read the address; all of them in the slow test.
SOME = ("look/feature_maps", "explain/cam", "compare/similarity", "compare/few_shot")
PAGES = sorted(f"{path.parent.name}/{path.stem}" for path in (Path(__file__).parents[2] / "pages").glob("*/*.py"))


def named_for_harm(num_classes: int = 3) -> LoadedModel:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 4, 3, padding=1))
    net.add_module(LAYER.replace(".", ""), nn.ReLU())
    net.add_module("more <b>", nn.Conv2d(4, 8, 3, padding=1))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Linear(8, num_classes))
    torch.manual_seed(0)
    names = [MARKUP.replace("\ud800", ""), "dog", "bird"] if num_classes == 3 else None
    half = (0.5,) * 3
    return models.from_module(net, input_px=32, mean=half, std=half, name="<b>net", class_names=names, device="cpu")


def written(app: AppTest) -> str:
    """All text that a browser would read as markup."""
    found = [part.value for kind in (app.markdown, app.caption, app.error, app.warning, app.info) for part in kind]
    return "\n".join([*found, *(button.label for button in app.button)])


@pytest.mark.parametrize("page", ["look/feature_maps", "explain/cam", "manage/model"])
def test_names_of_classes_and_layers_are_text(
    page: str, open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = named_for_harm()
    monkeypatch.setattr(compute, "model", lambda *_: model)
    app = open_page(page)
    text = written(app)
    assert "onerror" in text or page == "manage/model"  # it is there
    for live in (r"(?<!\\)<img", r"(?<!\\)\[go", r"(?<![\\:])\[x\]\(y", r"(?<!\\)<b>net", r"(?<!\\)\*\*b\*\*"):
        assert not re.search(live, text), live


def test_a_hundred_thousand_classes_can_be_looked_at(
    open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = named_for_harm(100_000)
    monkeypatch.setattr(compute, "model", lambda *_: model)
    app = open_page()
    assert app.selectbox(key="target").options[-1].startswith("99999")


@pytest.mark.parametrize("page", SOME)
def test_a_link_of_nonsense_shows_the_page(page: str, open_page: Callable[..., AppTest]) -> None:
    open_page(page, **{name: LINKS[number % len(LINKS)] for number, name in enumerate(PARAMS)})


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_links_of_nonsense_show_every_page(page: str, open_page: Callable[..., AppTest]) -> None:
    for turn in range(len(LINKS)):
        link = {name: LINKS[(number + turn) % len(LINKS)] for number, name in enumerate(PARAMS)}
        open_page("" if page == "look/home" else page, **link)


def test_a_number_without_end_is_left_out_of_the_link(open_page: Callable[..., AppTest]) -> None:
    app = open_page(attack_seed="9" * 400, attack_steps="1e999", image="A cup of espresso")
    assert any(r"no usable number for attack\_seed, attack\_steps" in w.value for w in app.warning)
    assert dict(app.query_params) == {"image": "A cup of espresso"}
    assert open_page("create/adversarial", attack_seed="9" * 400).number_input(key="attack_seed").value == 0
