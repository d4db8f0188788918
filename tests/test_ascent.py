"""Gradient ascent on batches: it climbs, each picture for itself, and dead starts are helped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from cnnviz_core import ascent, models, objectives
from cnnviz_core.ascent import Adam, Batch, Recipe, Sight, SimpleRecipe
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.models import LoadedModel
from cnnviz_core.objectives import ClassScore, Objective
from cnnviz_core.parametrization import Parametrization

SmallModel = Callable[[str], LoadedModel]
SIDE = 24


def recipe(num_channels: int = 3, **changes: object) -> Recipe:
    return Recipe(Parametrization((SIDE, SIDE), num_channels), **changes)  # type: ignore[arg-type]


def climb(
    model: LoadedModel, layer: str, aims: Sequence[Objective], *, steps: int = 12, seeds: Sequence[int] = (), **changes
) -> Batch:
    sight = Sight.of(model, layer, SIDE)
    made = recipe(model.preprocessing.num_channels, **changes)
    return ascent.ascend(sight, aims, made, seeds=seeds or [0] * len(aims), steps=steps)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("plain", "relu2"),
        ("plain", "fc"),
        ("residual", "bn2"),
        ("functional", "norm"),
        ("in_place", "conv2"),
        ("reused_relu", "conv2"),
        ("gelu", "act"),
        ("depth_wise", "depthwise"),
        ("one_channel", "conv2"),
    ],
)
def test_the_objective_ends_above_its_start(name: str, layer: str, small_model: SmallModel) -> None:
    found = climb(small_model(name), layer, [objectives.channel(0), objectives.channel(0, sign=-1)], steps=30)
    assert (found.scores > found.start_scores).all()
    assert found.images.shape == (2, SIDE, SIDE, 3)
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()
    assert found.history.shape == (30, 2)


@pytest.mark.parametrize("name", ["plain", "binary", "depth_wise"])
def test_a_class_score_climbs(name: str, small_model: SmallModel) -> None:
    found = climb(small_model(name), "", [ClassScore(0), ClassScore(1)])
    assert (found.scores > found.start_scores).all()


def test_a_real_untrained_network_climbs_by_a_margin(zoo: Callable[[str], LoadedModel]) -> None:
    """Calibrated: 12 steps took channel 0 from 0.10 to at least 0.49 in each of three seeds."""
    model = zoo("torchvision/resnet18")
    sight = Sight.of(model, "layer2", 48)
    made = Recipe(Parametrization((48, 48)))
    found = ascent.ascend(sight, [objectives.channel(c) for c in (0, 1)], made, seeds=[0, 0], steps=12)
    assert (found.scores > 3 * found.start_scores).all()


@pytest.mark.parametrize("changes", [{}, {"views": None}])
def test_alone_and_in_a_batch_a_picture_is_the_same(changes: dict[str, object], small_model: SmallModel) -> None:
    model = small_model("residual")
    aims = [objectives.channel(c) for c in (0, 1, 2, 3)]
    together = climb(model, "bn2", aims, seeds=[5, 6, 5, 7], **changes)
    alone = climb(model, "bn2", aims[1:2], seeds=[6], **changes)
    np.testing.assert_allclose(together.images[1], alone.images[0], atol=1e-4)
    np.testing.assert_allclose(together.scores[1], alone.scores[0], rtol=1e-4)


def test_the_same_seed_gives_the_same_picture_and_another_another(small_model: SmallModel) -> None:
    model, aims = small_model("plain"), [objectives.channel(0)]
    one, again, other = (climb(model, "conv2", aims, seeds=[seed]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.images, again.images)
    assert np.abs(one.images - other.images).max() > 0.01


def dead_model(bias: float = -10.0) -> LoadedModel:
    """A channel whose bias keeps it shut for any faint picture."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(net[0].weight.shape, generator=generator))
        net[0].bias.fill_(bias)
    half = (0.5,) * 3
    return models.from_module(net, input_px=SIDE, mean=half, std=half, name="dead", device="cpu")


def test_a_dead_start_recovers_with_redirected_relus_and_stays_grey_without() -> None:
    model = dead_model()
    helped, left = (climb(model, "1", [objectives.channel(0)], steps=80, redirected_steps=steps) for steps in (16, 0))
    assert helped.start_scores[0] == left.start_scores[0] == 0
    assert helped.scores[0] > 0.1
    assert left.scores[0] == 0
    np.testing.assert_array_equal(left.images, climb(model, "1", [objectives.channel(0)], steps=0).images)


def test_a_live_picture_is_not_touched_by_the_help(small_model: SmallModel) -> None:
    model, aims = small_model("plain"), [objectives.channel(0)]
    np.testing.assert_array_equal(
        climb(model, "conv1", aims, redirected_steps=0).images, climb(model, "conv1", aims).images
    )


def test_no_steps_give_the_start(small_model: SmallModel) -> None:
    found = climb(small_model("plain"), "conv2", [objectives.channel(0)], steps=0)
    noise = Parametrization((SIDE, SIDE))
    expected = noise.pixels(noise.draw([0]))[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found.images[0], expected)
    np.testing.assert_array_equal(found.scores, found.start_scores)
    assert not found.alphas.any()
    with pytest.raises(BadSetting, match="steps is -1"):
        climb(small_model("plain"), "conv2", [objectives.channel(0)], steps=-1)


def test_a_picture_to_start_from(small_model: SmallModel) -> None:
    start = torch.rand((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    sight = Sight.of(small_model("plain"), "conv2", SIDE)
    found = ascent.ascend(sight, [objectives.channel(0)], recipe(), seeds=[0], steps=0, start=start)
    np.testing.assert_allclose(found.images[0], start[0].permute(1, 2, 0).numpy(), atol=1e-4)


def test_a_family_differs_more_than_chance(small_model: SmallModel) -> None:
    sight = Sight.of(small_model("plain"), "conv2", SIDE)
    aims = [objectives.channel(0)] * 2

    def likeness(diversity: float) -> float:
        made = recipe(diversity=diversity, views=None)
        batch = ascent.ascend(sight, aims, made, seeds=[0, 1], steps=20, families=[0, 0])
        with torch.no_grad():
            return float(objectives.likeness(sight(torch.from_numpy(batch.images).permute(0, 3, 1, 2))))

    assert likeness(1e3) < likeness(0.0) - 0.01


def test_progress_is_told_before_the_first_step_and_can_end_the_work(small_model: SmallModel) -> None:
    told: list[tuple[int, Batch]] = []
    sight = Sight.of(small_model("plain"), "conv2", SIDE)
    aims = [objectives.channel(0)]
    done = ascent.ascend(sight, aims, recipe(), seeds=[0], steps=3, on_step=lambda n, now: told.append((n, now())))
    assert [n for n, _ in told] == [0, 1, 2, 3]
    np.testing.assert_array_equal(told[-1][1].images, done.images)
    assert [len(batch.history) for _, batch in told] == [0, 1, 2, 3]

    def stop(_step: int, _now: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ascent.ascend(sight, aims, recipe(), seeds=[0], steps=3, on_step=stop)


def test_alpha_is_where_the_objective_looks() -> None:
    """A unit of a 3 x 3 convolution depends on 9 pixels: those are opaque, all others clear."""
    net = nn.Conv2d(3, 1, 3, padding=1)
    with torch.no_grad():
        net.weight.fill_(0.1)
    model = models.from_module(
        nn.Sequential(net), input_px=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3, name="one", device="cpu"
    )
    found = climb(model, "0", [objectives.Unit(0, (4, 7))], views=None)
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[3:6, 6:9] = True
    np.testing.assert_array_equal(found.alphas[0] > 0.5, expected)
    assert found.alphas[0][~expected].max() == 0


def test_adam_against_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn((20, 5), generator=generator)
    mine, theirs = torch.zeros(5), torch.zeros(5, requires_grad=True)
    adam, peer = Adam(0.05), torch.optim.Adam([theirs], lr=0.05, maximize=True)
    for gradient in gradients:
        adam.step(mine, gradient)
        theirs.grad = gradient.clone()
        peer.step()
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-6)


# ---- the simple way -------------------------------------------------------------------------------------------------


def linear_model() -> LoadedModel:
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.0]])[:, :, None, None])
    half = (0.5,) * 3
    return models.from_module(
        net, input_px=16, mean=half, std=half, name="linear", device="cpu", class_names=("a", "b")
    )


def test_one_simple_step_by_hand() -> None:
    """The score is the mean of w x over 256 places: its gradient is w / 256 at each, whatever the shift."""
    sight = Sight.of(linear_model(), "", 16)
    way = SimpleRecipe(learning_rate=0.1, l2=1e-2, blur_every=0, jitter_px=3)
    start = torch.full((1, 3, 16, 16), 0.6)  # 0.2 when normalised
    found = ascent.ascend_simply(sight, [ClassScore(0)], way, seeds=[0], steps=1, size_px=16, start=start)
    w = np.array([1.0, -2.0, 0.5])
    d = w / 256 - 2e-2 * 0.2
    x = 0.2 + 0.1 * d / np.sqrt(np.mean(d**2))
    np.testing.assert_allclose(found.images[0], np.broadcast_to(0.5 + 0.5 * x, (16, 16, 3)), atol=1e-6)


def test_the_simple_way_climbs_and_stays_within_the_range(small_model: SmallModel) -> None:
    sight = Sight.of(small_model("plain"), "", SIDE)
    aims = [ClassScore(0), ClassScore(1)]
    found = ascent.ascend_simply(sight, aims, SimpleRecipe(), seeds=[0, 0], steps=20, size_px=SIDE)
    alone = ascent.ascend_simply(sight, aims[1:], SimpleRecipe(), seeds=[0], steps=20, size_px=SIDE)
    assert found.scores[1] > found.start_scores[1] + 1  # class 0 has nowhere to climb
    assert found.images.min() >= -1e-6
    assert found.images.max() <= 1 + 1e-6
    np.testing.assert_allclose(found.images[1], alone.images[0], atol=1e-4)


def test_the_blur_against_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    x = torch.rand((1, 2, 12, 10), generator=torch.Generator().manual_seed(0))
    expected = [gaussian_filter(plane.numpy(), 0.5, mode="mirror") for plane in x[0]]
    np.testing.assert_allclose(ascent._blurred(x, 0.5)[0].numpy(), expected, atol=1e-5)


# ---- what the network sees ------------------------------------------------------------------------------------------


def test_a_network_of_one_size_sees_pictures_at_its_own(small_model: SmallModel) -> None:
    fixed = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 16 * 16, 3))
    model = models.from_module(fixed, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="fixed", device="cpu")
    assert Sight.of(model, "", SIDE).input_px == (16, 16)
    assert Sight.of(model, "0", SIDE).input_px == (SIDE, SIDE)
    assert (climb(model, "", [ClassScore(0)]).scores > 0).all()


class TwoWays(nn.Module):
    """A norm follows the convolution for dark pictures only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        nn.init.constant_(self.norm.weight, 3.0)
        nn.init.constant_(self.norm.bias, 1.0)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv(x)
        return self.fc(self.relu(self.norm(z) if x.mean() < 0.3 else z).mean((2, 3)))


def test_a_network_that_chooses_its_way_is_taken_as_it_is() -> None:
    """Noise around 0, on which copies are checked, goes the dark way; a bright picture goes the other."""
    model = models.from_module(TwoWays(), input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="two", device="cpu")
    bright = torch.full((1, 3, 16, 16), 0.9)
    with torch.no_grad():
        expected = model.net.relu(model.net.conv((bright - 0.5) / 0.5))
        torch.testing.assert_close(Sight.of(model, "relu", 16)(bright), expected)
        torch.testing.assert_close(Sight.of(model, "", 16)(bright), model.net.fc(expected.mean((2, 3))))


class Picky(nn.Module):
    """Raises what nobody expects for all but its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[-2:]) != (16, 16):
            raise KeyError(x.shape[-1])
        return self.conv(x).mean((2, 3))


def test_whatever_a_network_raises_for_other_sizes_it_sees_its_own() -> None:
    model = models.from_module(Picky(), input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="picky", device="cpu")
    assert Sight.of(model, "conv", SIDE).input_px == (16, 16)


def test_what_cannot_be_seen_is_said(tiny_model: LoadedModel) -> None:
    with pytest.raises(BadSetting, match="size_px is 8"):
        Sight.of(tiny_model, "conv1", 8)
    with pytest.raises(UnknownLayer, match="conv"):
        Sight.of(tiny_model, "convv", 32)


class Mixed(nn.Module):
    """Puts all pictures of a batch into one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv(x)
        return z.mean((2, 3)) + 0 * self.mix(z.mean(0, keepdim=True)).mean()


def test_a_layer_that_mixes_pictures_is_refused() -> None:
    model = models.from_module(Mixed(), input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="mixed", device="cpu")
    with pytest.raises(NotApplicable, match="mix of mixed cannot"):
        Sight.of(model, "mix", 16)
