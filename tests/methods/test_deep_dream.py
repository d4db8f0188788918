"""DeepDream against steps made by hand, and its promises: nothing from nothing, shifts undone, the objective grows."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cnnviz_core import images, models
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import deep_dream, feature_maps
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Dream, DreamZoom, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]
Array = np.ndarray[Any, Any]

ONE = {"octaves": 1, "jitter_px": 0}


def gradient(model: LoadedModel, x: Array, layer: str, channel: int | None = None) -> Array:
    """(H, W, 3) gradient of 1/2 |a|^2 on the plain small network, written out."""
    net = model.net
    pixels = torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None].requires_grad_()
    a = net.relu1(net.conv1((pixels / 255 - 0.5) / 0.5))
    if layer == "conv2":
        a = net.conv2(net.pool(a))
    a = a if channel is None else a[:, [channel]]
    (found,) = torch.autograd.grad(a.square().sum() / 2, pixels)
    return found[0].permute(1, 2, 0).numpy().astype(np.float64)


def step(x: Array, g: Array, strength: float) -> Array:
    return np.clip(x + strength * g / np.abs(g).mean(), 0, 255)


@pytest.mark.parametrize("size", [(40, 30), (17, 16)])
@pytest.mark.parametrize("octaves", [1, 3])
def test_no_steps_return_the_photo_exactly(
    octaves: int, size: tuple[int, int], tiny_model: LoadedModel, noise_image: Noise
) -> None:
    image = noise_image(*size)
    found = deep_dream.dream(tiny_model, image, layer="conv2", octaves=octaves, steps=0)
    np.testing.assert_array_equal(found.pixels, image.pixels)
    assert found.objectives.shape == (0, 1)
    assert len(found.frames) == 1


def test_shifts_are_undone(tiny_model: LoadedModel, noise_image: Noise) -> None:
    """With steps of length 0 nothing but the shifts happens."""
    image = noise_image(33, 25)
    for tile_px in (512, 64):
        found = deep_dream.dream(tiny_model, image, layer="conv2", octaves=1, steps=4, strength=0, tile_px=tile_px)
        np.testing.assert_array_equal(found.pixels, image.pixels)


@pytest.mark.parametrize("channel", [None, 2])
def test_two_steps_by_hand(channel: int | None, untied_model: Load, noise_image: Noise) -> None:
    model = untied_model("plain")
    image = noise_image(20, 24)
    found = deep_dream.dream(model, image, layer="conv2", channel=channel, steps=2, strength=3.0, **ONE)
    x = image.pixels.astype(np.float64)
    for _ in range(2):
        x = step(x, gradient(model, x, "conv2", channel), 3.0)
    np.testing.assert_allclose(found.values, x, atol=1e-2)
    assert np.abs(found.values - image.pixels).mean() > 1


def test_octaves_add_their_detail_to_the_larger_photo(untied_model: Load, noise_image: Noise) -> None:
    model = untied_model("plain")

    def resized(x: Array, shape: tuple[int, int]) -> Array:
        tensor = torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None]
        out = F.interpolate(tensor, shape, mode="bilinear", antialias=True)[0]
        return out.permute(1, 2, 0).numpy().astype(np.float64)

    image = noise_image(32, 48)
    found = deep_dream.dream(
        model, image, layer="conv2", octaves=2, octave_scale=2.0, jitter_px=0, steps=1, strength=4.0
    )
    photo = image.pixels.astype(np.float64)
    small = resized(photo, (16, 24))
    detail = step(small, gradient(model, small, "conv2"), 4.0) - small
    x = photo + resized(detail, (32, 48))
    expected = step(x, gradient(model, x, "conv2"), 4.0)
    np.testing.assert_allclose(found.values, expected, atol=2e-2)
    assert found.octave_px == ((16, 24), (32, 48))


def test_several_layers_share_the_step_by_their_weights(untied_model: Load, noise_image: Noise) -> None:
    model = untied_model("plain")
    image = noise_image(24, 24)
    layers = ("relu1", "conv2")
    found = deep_dream.dream(model, image, layer=layers, weights=(1, 3), steps=1, strength=0.5, **ONE)
    gradients = [gradient(model, image.pixels, layer) for layer in layers]
    mixed = sum(share * g / np.abs(g).mean() for share, g in zip((0.25, 0.75), gradients, strict=True))
    np.testing.assert_allclose(found.values, step(image.pixels.astype(float), mixed, 0.5), atol=1e-2)
    assert found.objectives.shape == (1, 2)
    only = deep_dream.dream(model, image, layer=layers, weights=(0, 2), steps=1, **ONE)
    alone = deep_dream.dream(model, image, layer="conv2", steps=1, **ONE)
    np.testing.assert_allclose(only.values, alone.values, atol=1e-3)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/densenet121", "timm/convnext_atto"])
def test_the_objective_grows(name: str, zoo_64: Load, noise_image: Noise) -> None:
    model = zoo_64(name)
    for objective in ("activation", "sum"):
        found = deep_dream.dream(model, noise_image(64, 64), objective=objective, octaves=1, steps=5, jitter_px=2)
        assert found.objectives[-1, 0] > found.objectives[0, 0]
        assert found.values.min() >= 0
        assert found.values.max() <= 255


def test_the_objective_is_what_the_feature_maps_say(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image = noise_image(16, 16)
    maps = feature_maps.compute(tiny_model, image, layer="relu2").values
    by_square = deep_dream.dream(tiny_model, image, layer="relu2", steps=1, **ONE)
    by_sum = deep_dream.dream(tiny_model, image, layer="relu2", objective="sum", steps=1, **ONE)
    assert by_square.objectives[0, 0] == pytest.approx((maps**2).mean(), rel=1e-5)
    assert by_sum.objectives[0, 0] == pytest.approx(maps.mean(), rel=1e-5)


def test_a_guide_pulls_each_place_to_its_best_match(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image, guide = noise_image(16, 16), noise_image(16, 16, seed=3)
    found = deep_dream.dream(tiny_model, image, layer="relu2", objective="guide", guide=guide, steps=1, **ONE)
    mine, theirs = (
        feature_maps.compute(tiny_model, one, layer="relu2").values.reshape(6, -1) for one in (image, guide)
    )
    assert found.objectives[0, 0] == pytest.approx((mine.T @ theirs).max(axis=1).sum() / mine.size, rel=1e-5)
    assert found.run.settings["guide"].digest == guide.digest  # type: ignore[attr-defined]


class _Largest(TorchDispatchMode):
    """Notes how large the largest tensor is."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.num = max(self.num, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_a_guide_takes_little_memory(
    tiny_model: LoadedModel, noise_image: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pairs of places of an early layer would fill any memory: here 48 x 48 of the photo, 16 x 16 of the guide."""
    asked: dict[str, Any] = {"layer": "relu1", "objective": "guide", "guide": noise_image(16, 16, seed=3), "steps": 2}
    whole = deep_dream.dream(tiny_model, noise_image(48, 48), **asked, **ONE)
    monkeypatch.setattr(deep_dream, "_PAIRS", 10_000)
    with _Largest() as largest:
        parts = deep_dream.dream(tiny_model, noise_image(48, 48), **asked, **ONE)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-3)
    assert largest.num < 16**2 * 48**2 / 10


def test_a_grey_network_dreams_in_grey(small_model: Load, noise_image: Noise) -> None:
    model = small_model("one_channel")
    found = deep_dream.dream(model, noise_image(20, 20), layer="conv2", steps=2, **ONE)
    assert (found.values == found.values[..., :1]).all()
    assert (found.values != found.photo).any()


def test_equal_seeds_give_equal_dreams(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image = noise_image(64, 80)
    settings: dict[str, Any] = {"layer": "conv2", "octaves": 2, "steps": 3, "jitter_px": 5, "tile_px": 64}
    one, same, other = (deep_dream.dream(tiny_model, image, seed=seed, **settings).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_steps_are_reported_from_the_photo_on(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image, steps = noise_image(24, 24), list[Step]()
    found = deep_dream.dream(tiny_model, image, layer="conv2", octaves=2, steps=3, on_step=steps.append)
    assert [(s.done, s.total) for s in steps] == [(done, 6) for done in range(7)]
    first, last = steps[0].partial, steps[-1].partial
    assert isinstance(first, Dream)
    assert isinstance(last, Dream)
    np.testing.assert_array_equal(first.pixels, image.pixels)
    np.testing.assert_array_equal(last.values, found.values)
    assert len(found.frames) == 7


def test_cancelled_before_the_first_step(tiny_model: LoadedModel, noise_image: Noise) -> None:
    def cancel(_step: Step) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        deep_dream.dream(tiny_model, noise_image(16, 16), layer="conv2", on_step=cancel)


def test_bfloat16_dreams_nearly_the_same(zoo_64: Load, noise_image: Noise) -> None:
    model, image = zoo_64("torchvision/resnet18"), noise_image(64, 64)
    exact, quick = (
        deep_dream.dream(model, image, steps=1, precision=precision, **ONE) for precision in ("float32", "bfloat16")
    )
    moved, moved_quickly = ((found.values - image.pixels).ravel() for found in (exact, quick))
    assert 0.9 < np.corrcoef(moved, moved_quickly)[0, 1] < 1
    assert quick.objectives[0, 0] == pytest.approx(exact.objectives[0, 0], rel=0.05)
    assert model.net.get_parameter("conv1.weight").dtype == torch.float32


@pytest.mark.parametrize(("has_matrix_units", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_the_precision_that_takes_the_least_time(
    has_matrix_units: bool, expected: str, tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_matrix_units)
    assert deep_dream.default_precision(tiny_model) == expected


def test_frames_are_few_and_small(tiny_model: LoadedModel, noise_image: Noise) -> None:
    found = deep_dream.dream(tiny_model, noise_image(16, 600), layer="relu1", octaves=1, steps=100)
    assert 30 < len(found.frames) <= 49
    assert found.frames[-1].shape == (13, 480, 3)
    assert pickle.loads(pickle.dumps(found)).run == found.run


def test_a_photo_keeps_its_size_up_to_2_megapixels(noise_image: Noise) -> None:
    assert deep_dream.at_size(noise_image(30, 41), None).shape == (30, 41, 3)
    assert deep_dream.at_size(noise_image(30, 41), 82).shape == (60, 82, 3)
    large = images.from_pixels(np.zeros((3000, 4000, 3), np.uint8), name="12 megapixels")
    height, width, _ = deep_dream.at_size(large, None).shape
    assert 1.99e6 < height * width <= 2e6
    assert height / width == pytest.approx(0.75, abs=1e-3)
    with pytest.raises(BadSetting, match="12 megapixels would be 2000 x 1500 px"):
        deep_dream.at_size(large, 2000)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"octaves": 0}, "octaves is 0"),
        ({"octave_scale": 1.0}, "octave_scale is 1.0"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"objective": "beauty"}, "'beauty' is not an objective"),
        ({"precision": "float8"}, "'float8' is not a precision"),
        ({"objective": "guide"}, "belong together"),
        ({"channel": 6}, "channels 0 to 5"),
        ({"layer": ("conv1", "conv2"), "channel": 1}, "at one layer"),
        ({"layer": ("conv1", "conv2"), "weights": (0, 0)}, "not all 0"),
        ({"layer": ()}, "No layer was chosen"),
    ],
)
def test_bad_settings_are_named(
    settings: dict[str, Any], words: str, tiny_model: LoadedModel, noise_image: Noise
) -> None:
    with pytest.raises(BadSetting, match=words):
        deep_dream.dream(tiny_model, noise_image(16, 16), **{"layer": "conv2", **settings})


def test_what_has_no_places_or_no_gradient_is_said(
    tiny_model: LoadedModel, small_net: Callable[[str], torch.nn.Module], noise_image: Noise
) -> None:
    image = noise_image(16, 16)
    with pytest.raises(NotApplicable, match="vector of 3 values"):
        deep_dream.dream(tiny_model, image, layer="fc")
    with pytest.raises(UnknownLayer, match="conv2"):
        deep_dream.dream(tiny_model, image, layer="conv3")
    net = small_net("plain")
    with torch.no_grad():
        net.conv2.bias.fill_(-1000.0)  # type: ignore[union-attr]
    dead = models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="dead", device="cpu")
    with pytest.raises(NotApplicable, match="Channel 1 of relu2 can grow on this picture"):
        deep_dream.dream(dead, image, layer="relu2", channel=1, steps=1)


def test_a_zoom_goes_on_from_the_frame_before(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image, steps = noise_image(24, 32), list[Step]()
    settings: dict[str, Any] = {"layer": "conv2", "size_px": None, "steps": 1, **ONE}
    still = deep_dream.zoom(tiny_model, image, num_frames=2, zoom=1.0, **settings, on_step=steps.append)
    twice = deep_dream.dream(tiny_model, image, **{**settings, "steps": 3})
    np.testing.assert_array_equal(still.frames[2], twice.pixels)
    assert [s.done for s in steps] == [0, 1, 2, 3]
    assert isinstance(steps[0].partial, DreamZoom)
    ramp = np.tile(np.arange(0, 200, 4, dtype=np.uint8)[None, :, None], (50, 1, 3))
    moved = deep_dream.zoom(
        tiny_model, images.from_pixels(ramp, name="ramp"), num_frames=1, zoom=2.0, **{**settings, "steps": 0}
    )
    inner = moved.frames[1][25, 5:-5, 0].astype(float)
    assert np.diff(inner).mean() == pytest.approx(2.0, abs=0.05)  # half the slope, around the middle
    assert inner.mean() == pytest.approx(ramp.mean(), abs=1)
    with pytest.raises(BadSetting, match="121 frames of 1000 x 750 px are more than 60 megapixels"):
        deep_dream.zoom(tiny_model, image, num_frames=120, layer="conv2", size_px=1000)
    with pytest.raises(BadSetting, match="500 frames"):
        deep_dream.zoom(tiny_model, image, num_frames=500)


def test_the_cost_is_pace_times_pixels(zoo_64: Load, noise_image: Noise) -> None:
    image = noise_image(70, 98)
    sizes: dict[str, Any] = {"size_px": None, "octave_scale": 1.4, "steps": 3}
    assert deep_dream.num_pixels(image, octaves=2, **sizes) == 3 * (70 * 98 + 50 * 70)
    assert 0 < deep_dream.seconds_per_pixel(zoo_64("torchvision/resnet18")) < 1e-3
