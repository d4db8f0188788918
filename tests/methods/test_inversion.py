"""Feature inversion: what an identity gives back, losses against forwards made by hand, and that they fall."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnviz_core import models
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage, from_pixels
from cnnviz_core.methods import inversion
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Inversion, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


class FirstAll(nn.Module):
    """Layer 0 passes everything on; then one convolution, and one that only sees brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.conv = nn.Identity(), nn.Conv2d(3, 1, 1, bias=False)
        self.act = nn.ReLU()
        self.fc = nn.Linear(1, 2)
        nn.init.constant_(self.conv.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(self.all(x)) + 3).mean((2, 3)))


@pytest.fixture(scope="module")
def first_all() -> LoadedModel:
    return models.from_module(FirstAll().eval(), input_px=24, mean=(0.5,) * 3, std=(0.5,) * 3, name="f", device="cpu")


@pytest.fixture(scope="module")
def smooth() -> InputImage:
    """A picture of slow waves, each colour its own."""
    y, x = np.mgrid[0:24, 0:24] / 24
    waves = [np.sin(2 * np.pi * (x + y)), np.cos(2 * np.pi * x), np.sin(4 * np.pi * y)]
    return from_pixels((127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8), name="waves")


@pytest.mark.parametrize(("fourier", "colour"), [(True, 0.15), (False, 1.0)])
def test_the_identity_gives_the_photo_back(
    fourier: bool, colour: float, first_all: LoadedModel, smooth: InputImage
) -> None:
    """In the spectrum, along the axes of photos' colours, strong colours take longer."""
    grey = smooth.pixels.mean(axis=2, keepdims=True)
    picture = from_pixels((grey + colour * (smooth.pixels - grey)).astype(np.uint8), name="waves")
    found = inversion.invert(first_all, picture, layers="all", steps=300, fourier=fourier)
    assert found.errors[0] < 3e-3
    assert found.pixel_errors[0] < 3
    np.testing.assert_allclose(found.pictures[0] * 255, picture.pixels, atol=15)


def test_what_a_layer_ignores_is_not_given_back(first_all: LoadedModel, smooth: InputImage) -> None:
    """The convolution sees the sum of the colours: that comes back, the colours do not."""
    found = inversion.invert(first_all, smooth, layers="conv", steps=200)
    assert found.errors[0] < 1e-3
    np.testing.assert_allclose(found.pictures[0].sum(-1) * 255, smooth.pixels.sum(-1, dtype=int), atol=15)
    assert found.pixel_errors[0] > 10


def test_errors_are_those_of_the_pictures(zoo_64: Load, noise_image: Noise) -> None:
    model, image = zoo_64("torchvision/resnet18"), noise_image(64, 64)
    found = inversion.invert(model, image, layers=("layer1", "avgpool", "fc"), steps=3)
    for picture, layer, error in zip(found.pictures, found.layers, found.errors, strict=True):
        kept: list[Tensor] = []
        handle = model.net.get_submodule(layer).register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        try:
            with torch.no_grad():
                for pixels in (picture * 255.0, image.pixels.astype(np.float32)):
                    unit = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255
                    fit = model.preprocessing
                    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (fit.mean, fit.std))
                    model.net((unit - mean) / std)
        finally:
            handle.remove()
        mine, theirs = (out.double() for out in kept)
        assert error == pytest.approx(float((mine - theirs).square().sum() / theirs.square().sum()), rel=1e-3)
    assert found.losses.shape == (3, 3)
    assert found.answers[0] is not None
    assert found.answers[0].labels == model.predict(from_pixels(_rounded(found, 0), name="x")).labels


def _rounded(found: Inversion, at: int) -> np.ndarray[Any, Any]:
    return np.rint(found.pictures[at] * 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["torchvision/densenet121", "timm/convnext_atto", "timm/mobilenetv2_050"])
def test_the_loss_falls(name: str, zoo_64: Load, noise_image: Noise) -> None:
    model = zoo_64(name)
    found = inversion.invert(model, noise_image(64, 64), layers=model.layers.stages[1].representative, steps=16)
    halves = found.losses[0, :8].mean(), found.losses[0, 8:].mean()
    assert halves[1] < halves[0]
    assert found.errors[0] < found.losses[0, 0]


def test_variation_makes_smoother_pictures(tiny_model: LoadedModel, noise_image: Noise) -> None:
    def roughness(variation: float) -> float:
        found = inversion.invert(tiny_model, noise_image(16, 16), layers="conv2", steps=40, variation=variation)
        return float(np.square(np.diff(found.pictures[0], axis=0)).mean())

    assert roughness(10.0) < 0.5 * roughness(0.0)


def test_defaults_are_the_stages_ends_and_one_picture_each(small_model: Load, noise_image: Noise) -> None:
    for name in ("residual", "one_channel", "headless", "binary"):
        model = small_model(name)
        found = inversion.invert(model, noise_image(16, 20), steps=2)
        assert found.layers == tuple(stage.representative for stage in model.layers.stages)
        assert found.pictures.shape == (len(found.layers), 16, 16, 3)
        assert [answer is None for answer in found.answers] == [model.num_classes == 0] * len(found.layers)
        assert (found.original_answer is None) == (model.num_classes == 0)
        assert pickle.loads(pickle.dumps(found)).layers == found.layers


def test_another_size_where_the_network_takes_it(small_model: Load, noise_image: Noise) -> None:
    found = inversion.invert(small_model("residual"), noise_image(40, 40), layers="bn2", steps=1, size_px=32)
    assert found.pictures.shape == (1, 32, 32, 3)


def test_answers_are_to_the_whole_crop_also_at_another_size(noise_image: Noise, small_net: Any) -> None:
    """A network that crops the middle out of pictures does not do so twice."""
    half = (0.5,) * 3
    made = models.from_module(small_net("plain"), input_px=16, mean=half, std=half, name="plain", device="cpu")
    model = replace(made, preprocessing=replace(made.preprocessing, crop_pct=0.5))
    for size_px in (16, 32):
        found = inversion.invert(model, noise_image(80, 80), layers="conv2", steps=0, size_px=size_px)
        resized = from_pixels(found.original, name="crop").pil().resize((16, 16), Image.Resampling.BICUBIC)
        expected = made.predict(from_pixels(np.asarray(resized), name="crop"))
        assert found.original_answer is not None
        assert found.original_answer.logits == pytest.approx(expected.logits, abs=1e-5)


def test_equal_seeds_give_equal_pictures_whatever_other_layers(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image = noise_image(16, 16)
    both = inversion.invert(tiny_model, image, layers=("conv1", "conv2"), steps=5)
    one = inversion.invert(tiny_model, image, layers="conv2", steps=5)
    other = inversion.invert(tiny_model, image, layers="conv2", steps=5, seed=1)
    np.testing.assert_array_equal(both.pictures[1], one.pictures[0])
    assert (one.pictures != other.pictures).any()


def test_steps_are_reported_with_the_layers_begun(tiny_model: LoadedModel, noise_image: Noise) -> None:
    steps: list[Step] = []
    inversion.invert(tiny_model, noise_image(16, 16), layers=("conv1", "conv2"), steps=3, on_step=steps.append)
    assert [s.done for s in steps] == [0, 1, 2, 3, 3, 4, 5, 6]
    assert {s.total for s in steps} == {6}
    first = steps[0].partial
    assert isinstance(first, Inversion)
    assert first.layers == ("conv1",)
    assert np.isnan(first.losses).all()
    assert first.answers == (None,)

    def cancel(_step: Step) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        inversion.invert(tiny_model, noise_image(16, 16), on_step=cancel)


def test_no_steps_leave_the_noise(tiny_model: LoadedModel, noise_image: Noise) -> None:
    found = inversion.invert(tiny_model, noise_image(16, 16), layers="conv1", steps=0)
    assert found.losses.shape == (1, 0)
    assert 0.4 < found.pictures.mean() < 0.6


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"steps": -1}, BadSetting, "steps is -1"),
        ({"size_px": 8}, BadSetting, "size_px is 8"),
        ({"variation": -1}, BadSetting, "variation is -1"),
        ({"learning_rate": 0}, BadSetting, "learning_rate is 0"),
        ({"layers": ()}, BadSetting, "No layer was chosen"),
        ({"layers": "conv9"}, UnknownLayer, "conv"),
    ],
)
def test_bad_settings_are_named(
    settings: dict[str, Any], error: type[Exception], words: str, tiny_model: LoadedModel, noise_image: Noise
) -> None:
    with pytest.raises(error, match=words):
        inversion.invert(tiny_model, noise_image(16, 16), **settings)


def test_a_silent_layer_is_named(small_net: Callable[[str], nn.Module], noise_image: Noise) -> None:
    net = small_net("plain")
    with torch.no_grad():
        net.conv2.bias.fill_(-1000.0)  # type: ignore[union-attr]
    model = models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="dead", device="cpu")
    with pytest.raises(NotApplicable, match="relu2 is zero for noise 0"):
        inversion.invert(model, noise_image(16, 16), layers="relu2", steps=1)
