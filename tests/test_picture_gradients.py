"""Gradients of layers with respect to pictures, against whole forwards with hooks, and tiles against the whole."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnviz_core import models, picture_gradients
from cnnviz_core.errors import NotApplicable
from cnnviz_core.models import LoadedModel
from cnnviz_core.picture_gradients import Goal

Load = Callable[[str], LoadedModel]


def noise(height: int, width: int, *, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(1)) * 255


def by_hook(model: LoadedModel, layer: str, x: Tensor) -> Tensor:
    """Gradient of 1/2 |a|^2 through the whole network."""
    net, kept = copy.deepcopy(model.net), []
    net.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out.clone()) or kept[-1].clone())
    x = x.clone().requires_grad_()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    net((x / 255 - mean) / std)
    return torch.autograd.grad(kept[-1].square().sum() / 2, x)[0]


def activation(model: LoadedModel, layer: str) -> Goal:
    return Goal(model.layers[layer], lambda a: a)


@pytest.mark.parametrize(
    "name", ["plain", "residual", "functional", "in_place", "reused_relu", "gelu", "depth_wise", "one_channel"]
)
def test_a_truncated_forward_has_the_gradient_of_the_whole_network(name: str, untied_model: Load) -> None:
    model = untied_model(name)
    x = noise(20, 16, channels=model.preprocessing.num_channels)
    for info in model.layers.spatial:
        found, _ = picture_gradients.find(model, x, [activation(model, info.name)], [1.0], tile_px=64)
        torch.testing.assert_close(found, by_hook(model, info.name, x), rtol=1e-4, atol=1e-6)
        assert found.any()


def test_goals_add_up_by_their_scales_and_say_how_far_they_are(untied_model: Load) -> None:
    model = untied_model("residual")
    x, names = noise(16, 16), ("conv1", "bn2")
    goals = [activation(model, name) for name in names]
    found, values = picture_gradients.find(model, x, goals, [2.0, 0.5], tile_px=64)
    torch.testing.assert_close(found, 2 * by_hook(model, "conv1", x) + 0.5 * by_hook(model, "bn2", x))
    alone = [picture_gradients.find(model, x, [goal], [1.0], tile_px=64)[1][0] for goal in goals]
    assert values == pytest.approx(alone)


class Strided(nn.Module):
    """Cells 4 px apart that see 7 px each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        for number, weights in enumerate(self.parameters()):
            nn.init.normal_(weights, generator=torch.Generator().manual_seed(number))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).mean((2, 3))


def test_tiles_have_the_gradient_of_the_whole_away_from_their_borders() -> None:
    model = models.from_module(Strided().eval(), input_px=64, mean=(0.5,) * 3, std=(0.5,) * 3, name="s", device="cpu")
    x, goal = noise(150, 200), activation(model, "b")
    whole, value = picture_gradients.find(model, x, [goal], [1.0], tile_px=512)
    cut, value_cut = picture_gradients.find(model, x, [goal], [1.0], tile_px=80)
    near = np.zeros((150, 200), dtype=bool)
    for at in (76,):  # 150 in two pieces that begin at whole strides
        near[at - 8 : at + 8] = True
    for at in (68, 132):  # 200 in three
        near[:, at - 8 : at + 8] = True
    cut, whole = cut[0].numpy(), whole[0].numpy()
    np.testing.assert_allclose(cut[:, ~near], whole[:, ~near], rtol=1e-4, atol=1e-5)
    assert not np.allclose(cut[:, near], whole[:, near])
    assert value_cut[0] == pytest.approx(value[0], rel=0.1)


class OneSizeOnly(nn.Module):
    """A table for each place, as attention has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.places = nn.Parameter(torch.ones(1, 4, 16, 16))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) + self.places).mean((2, 3))


def test_a_network_of_one_size_says_so() -> None:
    model = models.from_module(OneSizeOnly().eval(), input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="n")
    goals = [activation(model, "act")]
    picture_gradients.find(model, noise(16, 16), goals, [1.0], tile_px=64)
    with pytest.raises(NotApplicable, match="does not take a picture, or a tile of one, of 24 x 20 px"):
        picture_gradients.find(model, noise(20, 24), goals, [1.0], tile_px=64)
