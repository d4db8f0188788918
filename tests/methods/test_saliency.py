"""Saliency against hand-computed maps, slow loops and Captum."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    Saliency,
)
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import doctor, images, models
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import saliency
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Attribution, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]

RULES = ["deconvnet", "guided_backprop"]
OF_RELUS = [*RULES, "guided_grad_cam"]
SLOW = ["smooth_grad", "integrated_gradients"]
EVERYWHERE = [name for name in saliency.METHODS if name not in OF_RELUS]
OF_UNITS = [name for name, method in saliency.METHODS.items() if method.takes_unit]
FEW = {"num_samples": 3, "num_steps": 3}


@pytest.fixture(scope="module")
def image(noise_image: Noise) -> InputImage:
    return noise_image(16, 16)


def from_module(net: nn.Module, *, input_px: int = 16, channels: int = 3) -> LoadedModel:
    half = (0.5,) * channels
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return models.from_module(net, input_px=input_px, mean=half, std=half, name="test", device="cpu")


def close(found: Any, expected: Any, *, share: float = 1e-5) -> None:
    """Equal up to a share of the largest absolute value."""
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * float(np.abs(expected).max()) + 1e-30)
    assert np.abs(expected).max() > 0, "a test on an empty map shows nothing"


def plain_gradient(model: LoadedModel, x: Tensor, target: int) -> np.ndarray:
    """One picture, one backward, on a deep copy."""
    x = x.clone().requires_grad_()
    model.scores(copy.deepcopy(model.net)(x))[0, target].backward()
    assert x.grad is not None
    return x.grad[0].numpy()


def unit_by_hooks(model: LoadedModel, image: InputImage, layer: str, unit: tuple[int, ...]) -> tuple[float, np.ndarray]:
    """A unit's activation and gradient, by a plain hook on a deep copy whose later code cannot reach what was kept."""
    net, kept = copy.deepcopy(model.net), []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    net.get_submodule(layer).register_forward_hook(keep)
    x = model.to_input(image).requires_grad_()
    net(x)
    channel, row, col = unit
    value = kept[-1][0]
    if value.ndim == 1:
        value = value[channel]
    else:
        value = value[row, col, channel] if model.layers[layer].channel_dim == 3 else value[channel, row, col]
    value.backward()
    assert x.grad is not None
    return float(value.detach()), x.grad[0].numpy()


class TwoRelus(nn.Module):
    """Pixel by pixel: a = ReLU(x0 - 2), b = ReLU(5 - x1), c = ReLU(a - b); score = sum of w c + v a."""

    W = ((1.0, -1.0), (2.0, -3.0))
    V = ((-4.0, 1.0), (0.5, 1.0))

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu
        self.conv1, self.conv2 = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1, bias=False)
        self.fc = nn.Linear(8, 1, bias=False)
        with torch.no_grad():
            self.conv1.weight.copy_(torch.tensor([[1.0, 0, 0], [0, -1.0, 0]]).reshape(2, 3, 1, 1))
            self.conv1.bias.copy_(torch.tensor([-2.0, 5.0]))
            self.conv2.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 0]]).reshape(2, 2, 1, 1))
            self.fc.weight.copy_(torch.tensor([self.W, self.V]).reshape(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv2(self.relu(self.conv1(x)))).flatten(1))


class TestByHand:
    """x0 = 9 4 / 1 3, x1 = 0 4 / 1 9: a = 7 2 / 0 1, b = 5 1 / 4 0, c = 2 1 / 0 1."""

    @pytest.fixture
    def picture(self) -> InputImage:
        pixels = np.zeros((2, 2, 3), dtype=np.uint8)
        pixels[..., 0] = [[9, 4], [1, 3]]
        pixels[..., 1] = [[0, 4], [1, 9]]
        return images.from_pixels(pixels, name="by hand")

    def load(self, relu: Callable[[Tensor], Tensor]) -> LoadedModel:
        zero, one = (0.0,) * 3, (1 / 255,) * 3
        return models.from_module(TwoRelus(relu), input_px=2, mean=zero, std=one, name="by hand", device="cpu")

    # The score of class 1 is w c + v a'; going back, w + v arrives at a, -w at b. Each cell in turn:
    EXPECTED = {  # noqa: RUF012
        # c open: 1 1 0 1, a' = ReLU(a) open: 1 1 0 1; a open: 1 1 0 1, b open: 1 1 1 0; dx1 = -db
        "gradient": ([[1 - 4, -1 + 1], [0, -3 + 1]], [[1, -1], [0, 0]]),
        # max(w, 0) + max(v, 0) at a; -max(w, 0) at b, which is never positive
        "deconvnet": ([[1 + 0, 0 + 1], [2 + 0.5, 0 + 1]], [[0, 0], [0, 0]]),
        # as deconvnet, where everything was open
        "guided_backprop": ([[1, 1], [0, 1]], [[0, 0], [0, 0]]),
    }

    @pytest.mark.parametrize(
        "relu", [nn.ReLU(), F.relu, torch.relu, Tensor.relu], ids=["module", "F", "torch", "method"]
    )
    @pytest.mark.parametrize("method", EXPECTED)
    def test_three_rules(self, method: str, relu: Callable[[Tensor], Tensor], picture: InputImage) -> None:
        found = saliency.explain(self.load(relu), picture, method=method, target=1)
        first, second = self.EXPECTED[method]
        np.testing.assert_allclose(found.values, [first, second, np.zeros((2, 2))], atol=1e-5)
        assert found.values.dtype == np.float32
        assert (found.layer, found.unit, found.target, found.method) == ("", None, 1, method)
        assert found.score == pytest.approx(2 - 1 - 3 + (-28 + 2 + 1), rel=1e-5)

    @pytest.mark.parametrize("relu", [nn.ReLU6(), F.relu6], ids=["module", "F"])
    def test_relu6_is_shut_above_6(self, relu: Callable[[Tensor], Tensor], picture: InputImage) -> None:
        """a = 7 is shut: guided and gradient lose the first cell of x0, deconvnet does not look."""
        model = self.load(relu)
        for method, first in (("gradient", 0), ("guided_backprop", 0), ("deconvnet", 1)):
            assert saliency.explain(model, picture, method=method, target=1).values[0, 0, 0] == pytest.approx(first)

    def test_input_x_gradient(self, picture: InputImage) -> None:
        found = saliency.explain(self.load(F.relu), picture, method="input_x_gradient", target=1)
        np.testing.assert_allclose(found.values[0], [[9 * -3, 0], [0, 3 * -2]], atol=1e-5)
        np.testing.assert_allclose(found.values[1], [[0, 4 * -1], [0, 0]], atol=1e-5)

    def test_deconvnet_of_a_unit_starts_at_its_activation(self, picture: InputImage) -> None:
        """Unit c at the first cell is 2; what goes to a is 2, what goes to b is -2, which its ReLU stops."""
        model = self.load(nn.ReLU())
        layer = {"layer": "relu", "unit": (0, 0, 0)}
        found = {name: saliency.explain(model, picture, method=name, **layer) for name in ["gradient", *RULES]}
        assert {name: a.values[:2, 0, 0].tolist() for name, a in found.items()} == {
            "gradient": [1, 1],
            "deconvnet": [2, 0],
            "guided_backprop": [1, 0],
        }
        assert {(a.score, a.target, a.target_label, a.unit, a.layer) for a in found.values()} == {
            (2.0, None, "", (0, 0, 0), "relu")
        }
        silent = saliency.explain(model, picture, method="deconvnet", layer="relu", unit=(0, 1, 0))
        assert silent.score == 0
        assert not silent.values.any()

    def test_max_pooling_goes_back_to_where_the_maximum_was(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 2))
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1))
            net[4].weight.copy_(torch.tensor([[3.0], [0]]))
        model = models.from_module(net, input_px=2, mean=(0.0,) * 3, std=(1.0,) * 3, name="pool", device="cpu")
        pixels = np.zeros((2, 2, 3), dtype=np.uint8)
        pixels[..., 0] = [[10, 30], [255, 20]]
        picture = images.from_pixels(pixels, name="pool")
        for method in ("gradient", *RULES):
            found = saliency.explain(model, picture, method=method, target=0)
            assert found.values[0].tolist() == [[0, 0], [3, 0]]

    def test_integrated_gradients_of_a_square(self) -> None:
        """S = sum x^2 from 0: the value of each pixel is x^2."""

        class Square(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(12, 2, bias=False)
                nn.init.ones_(self.fc.weight)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc((x * x).flatten(1))

        model = models.from_module(Square(), input_px=2, mean=(0.5,) * 3, std=(0.5,) * 3, name="square", device="cpu")
        picture = images.from_pixels(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20, name="ramp")
        x = model.to_input(picture)[0].numpy()
        found = saliency.explain(model, picture, method="integrated_gradients", target=0, num_steps=2)
        np.testing.assert_allclose(found.values, x**2, rtol=1e-5, atol=1e-7)
        assert found.completeness_error == pytest.approx(0, abs=1e-5)
        found = saliency.explain(model, picture, method="integrated_gradients", target=0, baseline="black")
        np.testing.assert_allclose(found.values, x**2 - 1, rtol=1e-4, atol=1e-5)
        assert found.values.sum() == pytest.approx((x**2).sum() - 12, rel=1e-4)

    def test_completeness_error(self) -> None:
        """S = |x|, one step in the middle: from -1 to 1.5 the slope at 0.25 says 2.5, the score gained 0.5."""

        class Bend(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(3, 2, bias=False)
                nn.init.constant_(self.fc.weight, 1 / 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(x.abs().mean((2, 3)))

        model = models.from_module(Bend(), input_px=1, mean=(0.4,) * 3, std=(0.4,) * 3, name="bend", device="cpu")
        white = images.from_pixels(np.full((1, 1, 3), 255, dtype=np.uint8), name="white")
        options = {"method": "integrated_gradients", "target": 0, "baseline": "black"}
        found = saliency.explain(model, white, num_steps=1, **options)
        np.testing.assert_allclose(found.values.ravel(), [2.5 / 3] * 3, rtol=1e-5)
        assert found.completeness_error == pytest.approx(4, rel=1e-5)
        assert saliency.explain(model, white, num_steps=100, **options).completeness_error < 0.1

    def test_nothing_gained(self, small_model: Load) -> None:
        """A black picture from a black baseline."""
        black = images.from_pixels(np.zeros((16, 16, 3), dtype=np.uint8), name="black")
        found = saliency.explain(small_model("gelu"), black, method="integrated_gradients", baseline="black")
        assert not found.values.any()
        assert found.completeness_error == 0


class TestBaselines:
    def test_black_is_what_a_black_picture_gives(self, zoo_64: Load) -> None:
        model = zoo_64("torchvision/resnet18")
        black = model.to_input(images.from_pixels(np.zeros((64, 64, 3), dtype=np.uint8), name="black"))
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(saliency.BASELINES["black"].make(model, x), black)
        assert not saliency.BASELINES["mean"].make(model, x).any()

    @pytest.mark.parametrize("shape", [(1, 3, 40, 64), (1, 1, 16, 16), (1, 3, 1, 1), (1, 3, 2, 9)])
    def test_blur(self, shape: tuple[int, ...], tiny_model: LoadedModel) -> None:
        from scipy.ndimage import gaussian_filter

        blur = saliency.BASELINES["blur"].make
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        sigma = 0.05 * min(shape[2:])
        radius = math.ceil(3 * sigma)
        expected = [gaussian_filter(c.double().numpy(), sigma, mode="nearest", radius=radius) for c in x[0]]
        np.testing.assert_allclose(blur(tiny_model, x)[0].numpy(), expected, atol=1e-5)
        constant = torch.full(shape, 1.5)
        torch.testing.assert_close(blur(tiny_model, constant), constant)

    @pytest.mark.parametrize("baseline", saliency.BASELINES)
    def test_values_add_up_to_what_the_score_gained(self, baseline: str, small_model: Load, noise_image: Noise) -> None:
        model, picture = small_model("gelu"), noise_image(16, 16)
        found = saliency.explain(model, picture, method="integrated_gradients", target=2, baseline=baseline)
        x = model.to_input(picture)
        with torch.no_grad():
            scores = model.net(torch.cat([x, saliency.BASELINES[baseline].make(model, x)]))[:, 2]
        assert found.values.sum() == pytest.approx(float(scores[0] - scores[1]), rel=1e-3, abs=1e-5)
        assert found.completeness_error < 1e-3
        assert found.score == pytest.approx(float(scores[0]), rel=1e-5)


def basic_block_with_own_relus(block: Any, x: Tensor) -> Tensor:
    out = block.bn2(block.conv2(block.relu_a(block.bn1(block.conv1(x)))))
    return block.relu_b(out + (x if block.downsample is None else block.downsample(x)))


def for_captum(net: nn.Module) -> nn.Module:
    """Captum swaps the gradient of ReLU modules, each of which may be called only once."""
    own = copy.deepcopy(net)
    for block in list(own.modules()):
        if type(block).__name__ == "BasicBlock":
            block.relu_a, block.relu_b = nn.ReLU(), nn.ReLU()
            block.forward = MethodType(basic_block_with_own_relus, block)
    return own


class FunctionalByModules(nn.Module):
    """``conftest.Functional`` with a module for each ReLU."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        own = copy.deepcopy(net)
        self.conv1, self.conv2, self.norm, self.fc = own.conv1, own.conv2, own.norm, own.fc
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.norm(torch.cat([x, self.conv2(x)], 1)))
        return self.fc(x.mean((2, 3)))


class ReusedByModules(nn.Module):
    """``conftest.ReusedRelu`` with a module for each call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        own = copy.deepcopy(net)
        self.conv1, self.conv2, self.fc = own.conv1, own.conv2, own.fc
        self.relus = nn.ModuleList([nn.ReLU() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.relus[0](self.conv1(x))
        x = self.relus[1](self.conv2(x))
        return self.fc(self.relus[2](self.conv2(x)).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
class TestAgainstCaptum:
    PEERS = {"deconvnet": Deconvolution, "guided_backprop": GuidedBackprop}  # noqa: RUF012

    @pytest.mark.parametrize(
        "model_id", ["torchvision/resnet18", "torchvision/vgg11", "torchvision/densenet121", "timm/mobilenetv2_100"]
    )
    def test_gradients(self, model_id: str, zoo_64: Load, noise_image: Noise) -> None:
        model, picture = zoo_64(model_id), noise_image(64, 64)
        x = model.to_input(picture).requires_grad_()
        found = saliency.explain(model, picture, method="gradient", target=7)
        close(found.values, Saliency(model.net).attribute(x, target=7, abs=False)[0].detach())
        found = saliency.explain(model, picture, method="input_x_gradient", target=7)
        close(found.values, InputXGradient(model.net).attribute(x, target=7)[0].detach())

    @pytest.mark.parametrize("model_id", ["torchvision/resnet18", "torchvision/vgg11", "timm/resnet10t"])
    @pytest.mark.parametrize("baseline", ["blur", "black"])  # from "mean" these networks are linear
    def test_integrated_gradients(self, model_id: str, baseline: str, zoo_64: Load, noise_image: Noise) -> None:
        """Captum in double precision: in single, rounding shuts some ReLUs, and others on other processors."""
        model, picture = zoo_64(model_id), noise_image(64, 64)
        x = model.to_input(picture)
        start = saliency.BASELINES[baseline].make(model, x)
        expected, delta = IntegratedGradients(copy.deepcopy(model.net).double()).attribute(
            x.double(), start.double(), target=7, n_steps=11, return_convergence_delta=True
        )
        found = saliency.explain(
            model, picture, method="integrated_gradients", target=7, num_steps=11, batch_size=4, baseline=baseline
        )
        differences = np.abs(found.values - expected[0].detach().numpy()) / float(expected.abs().max())
        assert np.median(differences) < 1e-4
        assert np.linalg.norm(differences) < 0.01 * np.linalg.norm(expected.numpy()) / float(expected.abs().max())
        gain = float(expected.sum() - delta)
        assert found.completeness_error == pytest.approx(abs(float(delta) / gain), rel=0.05, abs=1e-3)

    @pytest.mark.parametrize("model_id", ["timm/efficientnet_b0", "timm/convnext_atto"])
    def test_integrated_gradients_without_kinks(self, model_id: str, zoo_64: Load, noise_image: Noise) -> None:
        """Where no rounding can shut a unit, every value is near."""
        model, picture = zoo_64(model_id), noise_image(64, 64)
        x = model.to_input(picture)
        start = saliency.BASELINES["black"].make(model, x)
        expected = IntegratedGradients(copy.deepcopy(model.net).double()).attribute(
            x.double(), start.double(), target=7, n_steps=11
        )
        found = saliency.explain(
            model, picture, method="integrated_gradients", target=7, num_steps=11, batch_size=4, baseline="black"
        )
        close(found.values, expected[0].detach())

    @pytest.mark.parametrize("method", PEERS)
    @pytest.mark.parametrize("model_id", ["torchvision/resnet18", "torchvision/vgg11"])
    def test_rules(self, method: str, model_id: str, zoo_64: Load, noise_image: Noise) -> None:
        model, picture = zoo_64(model_id), noise_image(64, 64)
        x = model.to_input(picture).requires_grad_()
        expected = self.PEERS[method](for_captum(model.net)).attribute(x, target=7)
        close(saliency.explain(model, picture, method=method, target=7).values, expected[0].detach(), share=1e-4)

    @pytest.mark.parametrize("method", PEERS)
    @pytest.mark.parametrize(("name", "twin"), [("functional", FunctionalByModules), ("reused_relu", ReusedByModules)])
    def test_rules_where_captum_needs_a_twin(
        self, method: str, name: str, twin: type[nn.Module], small_model: Load, image: InputImage
    ) -> None:
        model = small_model(name)
        x = model.to_input(image).requires_grad_()
        expected = self.PEERS[method](twin(model.net)).attribute(x, target=0)
        close(saliency.explain(model, image, method=method, target=0).values, expected[0].detach())

    @pytest.mark.parametrize("layer", ["layer4", "layer3", "layer2.1"])
    def test_guided_grad_cam(self, layer: str, zoo_64: Load, noise_image: Noise) -> None:
        model, picture = zoo_64("torchvision/resnet18"), noise_image(64, 64)
        own, x = for_captum(model.net), model.to_input(picture).requires_grad_()
        expected = GuidedGradCam(own, own.get_submodule(layer)).attribute(x, target=7, interpolate_mode="bilinear")
        found = saliency.explain(model, picture, method="guided_grad_cam", target=7, layer=layer)
        close(found.values, expected[0].detach(), share=1e-4)
        assert found.layer == layer

    @pytest.mark.parametrize("method", ["gradient", "guided_backprop"])
    def test_real_weights(self, method: str, lite0: LoadedModel, chelsea: InputImage) -> None:
        x = lite0.to_input(chelsea).requires_grad_()
        found = saliency.explain(lite0, chelsea, method=method)
        assert found.target_label == "Egyptian cat"
        if method == "gradient":
            close(found.values, Saliency(lite0.net).attribute(x, target=285, abs=False)[0].detach(), share=1e-4)
        middle = found.map[60:160, 60:160].mean()
        assert middle > 2 * found.map[:40, :40].mean(), "the face, not the corner"


class TestUnits:
    CASES = (
        ("plain", "conv2", (5, 3, 4)),
        ("residual", "bn2", (1, 2, 7)),  # overwritten by the addition
        ("functional", "norm", (6, 15, 0)),  # overwritten by a ReLU
        ("reused_relu", "conv2", (2, 8, 8)),  # its last call
        ("in_place", "conv1", (3, 0, 15)),
        ("gelu", "conv2", (0, 7, 1)),
        ("depth_wise", "act", (5, 9, 9)),
        ("one_channel", "pool", (1, 4, 4)),
        ("headless", "relu2", (4, 2, 2)),
        ("plain", "fc", (2, 0, 0)),  # a vector
        ("headless", "gap", (3, 0, 0)),
    )

    @pytest.mark.parametrize(("name", "layer", "unit"), CASES)
    def test_gradient(
        self, name: str, layer: str, unit: tuple[int, int, int], small_model: Load, image: InputImage
    ) -> None:
        model = small_model(name)
        value, expected = unit_by_hooks(model, image, layer, unit)
        found = saliency.explain(model, image, method="gradient", layer=layer, unit=unit)
        np.testing.assert_allclose(found.values, expected, atol=1e-6)
        assert found.score == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert (found.layer, found.unit, found.target) == (layer, unit, None)

    def test_channels_last(self, image: InputImage) -> None:
        class ChannelsLast(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm, self.fc = nn.Conv2d(3, 5, 3, stride=2), nn.LayerNorm(5), nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))

        model = from_module(ChannelsLast())
        assert model.layers["norm"].channel_dim == 3
        unit = saliency.strongest_unit(model, image, layer="norm", channel=4)
        value, expected = unit_by_hooks(model, image, "norm", unit)
        with torch.no_grad():
            maps = model.net.norm(model.net.conv(model.to_input(image)).permute(0, 2, 3, 1))[0, ..., 4]
        assert value == pytest.approx(float(maps.max()))
        close(saliency.explain(model, image, method="gradient", layer="norm", unit=unit).values, expected)
        guided = saliency.explain(model, image, method="guided_grad_cam", layer="norm", target=1)
        assert guided.values.shape == (3, 16, 16)

    @pytest.mark.parametrize("method", OF_UNITS)
    def test_every_method_stays_within_the_receptive_field(
        self, method: str, tiny_model: LoadedModel, image: InputImage
    ) -> None:
        unit = saliency.strongest_unit(tiny_model, image, layer="conv2", channel=2)
        field = tiny_model.layers["conv2"].receptive_field
        assert field is not None
        found = saliency.explain(tiny_model, image, method=method, layer="conv2", unit=unit, **FEW)
        rows, cols = np.nonzero(found.map)
        assert len(rows) > 0
        assert np.ptp(rows) < 8
        assert np.ptp(cols) < 8

    def test_real_network(self, lite0: LoadedModel, chelsea: InputImage) -> None:
        unit = saliency.strongest_unit(lite0, chelsea, layer="blocks.3", channel=7)
        value, expected = unit_by_hooks(lite0, chelsea, "blocks.3", unit)
        close(
            saliency.explain(lite0, chelsea, method="gradient", layer="blocks.3", unit=unit).values,
            expected,
            share=1e-4,
        )
        deconvnet = saliency.explain(lite0, chelsea, method="deconvnet", layer="blocks.3", unit=unit)
        assert deconvnet.score == pytest.approx(value, rel=1e-4)

    def test_integrated_gradients_add_up(self, small_model: Load, image: InputImage) -> None:
        model = small_model("gelu")
        found = saliency.explain(model, image, method="integrated_gradients", layer="conv2", unit=(1, 3, 3))
        base = images.from_pixels(np.full((16, 16, 3), 0, dtype=np.uint8), name="black")
        black = saliency.explain(
            model, image, method="integrated_gradients", layer="conv2", unit=(1, 3, 3), baseline="black"
        )
        assert found.completeness_error < 1e-3
        empty = unit_by_hooks(model, base, "conv2", (1, 3, 3))[0]
        assert black.values.sum() == pytest.approx(black.score - empty, rel=1e-3)

    def test_stops_after_the_layer(self, image: InputImage) -> None:
        ran = []

        class Late(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                ran.append(True)
                return x

        model = from_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Late(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        ran.clear()
        unit = saliency.strongest_unit(model, image, layer="1", channel=0)
        for method in OF_UNITS:
            saliency.explain(model, image, method=method, layer="1", unit=unit, **FEW)
        assert not ran

    def test_strongest_unit(self, small_model: Load, image: InputImage) -> None:
        model = small_model("reused_relu")
        with torch.no_grad():
            x = F.relu(model.net.conv2(F.relu(model.net.conv1(model.to_input(image)))))
            last = model.net.conv2(x)[0, 1]
        _, row, col = saliency.strongest_unit(model, image, layer="conv2", channel=1)
        assert float(last[row, col]) == float(last.max())
        assert saliency.strongest_unit(model, image, layer="fc", channel=2) == (2, 0, 0)
        for channel in (-1, 4):
            with pytest.raises(BadSetting, match=r"conv2 has no unit.*between \(0, 0, 0\) and \(3, 15, 15\)"):
                saliency.strongest_unit(model, image, layer="conv2", channel=channel)
        with pytest.raises(UnknownLayer, match="conv2"):
            saliency.strongest_unit(model, image, layer="conv3", channel=0)

    def test_no_relu_on_the_way(self, tiny_model: LoadedModel, image: InputImage) -> None:
        for method in RULES:
            with pytest.raises(NotApplicable, match="No ReLU lies between the picture and the unit of layer conv1"):
                saliency.explain(tiny_model, image, method=method, layer="conv1", unit=(0, 0, 0))


class TestSmoothGrad:
    @pytest.mark.parametrize("name", ["plain", "functional", "binary", "one_channel", "gelu"])
    @pytest.mark.parametrize("batch_size", [1, 2, 8])
    def test_mean_of_gradients(self, name: str, batch_size: int, small_model: Load, image: InputImage) -> None:
        model, x = small_model(name), small_model(name).to_input(image)
        generator = torch.Generator().manual_seed(4)
        sigma = 0.3 * float(x.max() - x.min())
        noisy = [x + sigma * torch.randn(x.shape, generator=generator) for _ in range(5)]
        expected = np.mean([plain_gradient(model, one, 1) for one in noisy], axis=0)
        found = saliency.explain(
            model, image, method="smooth_grad", target=1, num_samples=5, noise=0.3, seed=4, batch_size=batch_size
        )
        close(found.values, expected, share=1e-4)
        with torch.no_grad():
            assert found.score == pytest.approx(float(model.scores(model.net(x))[0, 1]), rel=1e-5)
        assert found.run.seed == 4

    def test_seeds(self, tiny_model: LoadedModel, image: InputImage) -> None:
        one, same, other = (
            saliency.explain(tiny_model, image, method="smooth_grad", seed=seed, num_samples=3).values
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)
        assert saliency.explain(tiny_model, image, method="gradient").run.seed is None

    def test_without_noise_it_is_the_gradient(self, lite0: LoadedModel, chelsea: InputImage) -> None:
        smooth = saliency.explain(lite0, chelsea, method="smooth_grad", num_samples=2, noise=0).values
        gradient = saliency.explain(lite0, chelsea, method="gradient").values
        assert np.corrcoef(smooth.ravel(), gradient.ravel())[0, 1] > 0.999


class TestProgress:
    @pytest.mark.parametrize("method", SLOW)
    def test_steps_and_partial_results(self, method: str, small_model: Load, image: InputImage) -> None:
        steps: list[Step] = []
        found = saliency.explain(
            small_model("gelu"), image, method=method, num_samples=7, num_steps=7, batch_size=3, on_step=steps.append
        )
        assert [(step.done, step.total) for step in steps] == [(3, 7), (6 if method == "smooth_grad" else 5, 7), (7, 7)]
        partials = [step.partial for step in steps]
        assert all(isinstance(partial, Attribution) for partial in partials)
        np.testing.assert_array_equal(partials[-1].values, found.values)
        for partial in partials[:-1]:  # of the same size as the whole
            assert 0.5 < np.linalg.norm(partial.values) / np.linalg.norm(found.values) < 2
            assert not np.array_equal(partial.values, found.values)
            assert (partial.completeness_error is None) == (method == "smooth_grad")

    @pytest.mark.parametrize("method", SLOW)
    def test_an_exception_of_on_step_ends_the_work(self, method: str, small_model: Load, image: InputImage) -> None:
        model, calls = small_model("residual"), []

        def stop(step: Step) -> None:
            calls.append(step.done)
            raise RuntimeError("enough")

        before = fingerprint(model)
        with pytest.raises(RuntimeError, match="enough"):
            saliency.explain(model, image, method=method, batch_size=2, on_step=stop)
        assert len(calls) == 1
        assert fingerprint(model) == before
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("method", saliency.METHODS)
    def test_num_forwards(self, method: str, image: InputImage) -> None:
        pictures = []

        class Counted(nn.ReLU):
            def forward(self, x: Tensor) -> Tensor:
                pictures.append(len(x))
                return super().forward(x)

        net = nn.Sequential(nn.Conv2d(3, 4, 3), Counted(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 40))
        model = from_module(net)
        options = saliency.Options(num_samples=5, num_steps=9)
        saliency.explain(model, image, method=method, num_samples=5, num_steps=9)  # a first time, to settle
        pictures.clear()
        saliency.explain(model, image, method=method, num_samples=5, num_steps=9)
        assert sum(pictures) == saliency.METHODS[method].num_forwards(options)


class TestApplicability:
    @pytest.mark.parametrize("method", EVERYWHERE)
    def test_headless_needs_a_unit(self, method: str, small_model: Load, image: InputImage) -> None:
        with pytest.raises(NotApplicable, match=r"no classifier.*unit="):
            saliency.explain(small_model("headless"), image, method=method)

    @pytest.mark.parametrize("method", OF_RELUS)
    def test_rules_need_relus(self, method: str, small_model: Load, image: InputImage) -> None:
        with pytest.raises(NotApplicable, match=r"GELU.*plain gradient"):
            saliency.explain(small_model("gelu"), image, method=method)

    def test_some_relus_are_enough(self, image: InputImage) -> None:
        """A ReLU and a SiLU: the rule acts at the one, the other passes its gradient."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1))
        model = from_module(net.append(nn.Flatten()).append(nn.Linear(4, 3)))
        assert doctor.verdict(model, "guided_backprop").status is doctor.Status.APPROXIMATE
        x = model.to_input(image).requires_grad_()
        z = model.net[0](x)
        a = z.detach().relu().requires_grad_()
        (g,) = torch.autograd.grad(model.net[2:](a)[0, 1], a)
        (expected,) = torch.autograd.grad(z, x, g.clamp(min=0) * (z > 0))
        close(saliency.explain(model, image, method="guided_backprop", target=1).values, expected[0])

    def test_guided_grad_cam_explains_classes(self, small_model: Load, image: InputImage) -> None:
        model = small_model("plain")
        with pytest.raises(NotApplicable, match="class only; for a unit use guided backprop"):
            saliency.explain(model, image, method="guided_grad_cam", layer="conv1", unit=(0, 0, 0))
        with pytest.raises(NotApplicable, match=r"vector of 3 values.*relu2"):
            saliency.explain(model, image, method="guided_grad_cam", layer="fc")
        with pytest.raises(NotApplicable, match="no classifier"):
            saliency.explain(small_model("headless"), image, method="guided_grad_cam")
        assert saliency.explain(model, image, method="guided_grad_cam").layer == "relu2"

    def test_no_gradient_to_the_picture(self, image: InputImage) -> None:
        class CutOff(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(self.relu(self.conv(x)).detach().mean((2, 3)))

        model = from_module(CutOff())
        for method in saliency.METHODS:
            if method == "guided_grad_cam":
                continue
            with pytest.raises(NotApplicable, match=r"no gradient leads from the class score.*Occlusion"):
                saliency.explain(model, image, method=method)
            found = saliency.explain(model, image, method=method, layer="relu", unit=(1, 2, 2))
            assert found.values.shape == (3, 16, 16)
        with pytest.raises(NotApplicable, match="no gradient leads"):
            saliency.explain(model, image, method="guided_grad_cam", layer="relu")

    def test_wrong_arguments(self, tiny_model: LoadedModel, image: InputImage) -> None:
        def explain(**settings: Any) -> Attribution:
            return saliency.explain(tiny_model, image, **{"method": "gradient", **settings})

        with pytest.raises(BadSetting, match=r"grad'.*gradient"):
            explain(method="grad")
        for target in (-1, 3):
            with pytest.raises(BadSetting, match="classes 0 to 2"):
                explain(target=target)
        with pytest.raises(BadSetting, match=r"Unit .* is given without its layer"):
            explain(unit=(0, 0, 0))
        with pytest.raises(BadSetting, match="Layer conv1 is given alone"):
            explain(layer="conv1")
        with pytest.raises(BadSetting, match="one thing"):
            explain(layer="conv1", unit=(0, 0, 0), target=1)
        with pytest.raises(UnknownLayer, match="conv2"):
            explain(layer="conv3", unit=(0, 0, 0))
        for unit in ((4, 0, 0), (-1, 0, 0), (0, 16, 0), (0, 0, 16), (0, 0), (0, 0, 0, 0), (0, 0.5, 0), ("a", 0, 0)):
            with pytest.raises(BadSetting, match=r"conv1 has no unit.*\(3, 15, 15\)"):
                explain(layer="conv1", unit=unit)
        with pytest.raises(BadSetting, match=r"fc has no unit.*\(2, 0, 0\)"):
            explain(layer="fc", unit=(0, 1, 0))
        wrong: dict[str, list[Any]] = {
            "num_samples": [0],
            "num_steps": [0, -3],
            "batch_size": [0],
            "noise": [-0.1, math.nan, math.inf],
            "baseline": ["grey"],
            "seed": [-1, 2**63],
        }
        for name, values in wrong.items():
            for value in values:
                with pytest.raises(BadSetting, match=name):
                    explain(**{name: value})

    def test_network_that_takes_another_way(self) -> None:
        class Choosy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dark, self.bright, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                conv = self.bright if x.mean() > 0 else self.dark
                return self.fc(conv(x).relu().mean((2, 3)))

        model = from_module(Choosy())
        white = images.from_pixels(np.full((16, 16, 3), 255, dtype=np.uint8), name="white")
        with pytest.raises(NotApplicable, match="did not come through layer dark"):
            saliency.explain(model, white, method="gradient", layer="dark", unit=(0, 0, 0))
        with pytest.raises(NotApplicable, match="did not come through layer dark"):
            saliency.explain(model, white, method="guided_grad_cam", layer="dark")
        with pytest.raises(NotApplicable, match="did not come through layer dark"):
            saliency.strongest_unit(model, white, layer="dark", channel=0)
        found = saliency.explain(model, white, method="integrated_gradients", target=0, num_steps=4)
        assert found.values.any()

    @pytest.mark.parametrize("method", saliency.METHODS)
    def test_every_method_names_a_capability_and_explains_itself(self, method: str, tiny_model: LoadedModel) -> None:
        entry = saliency.METHODS[method]
        assert doctor.verdict(tiny_model, entry.needs).usable
        assert all((entry.title, entry.help, entry.source, entry.cost))
        assert entry.help.endswith(".")

    def test_defaults_are_those_of_the_options(self) -> None:
        parameters = inspect.signature(saliency.explain).parameters
        defaults = {name: getattr(saliency.Options(), name) for name in saliency.Options.__dataclass_fields__}
        assert {name: parameters[name].default for name in defaults} == defaults
        assert {name for method in saliency.METHODS.values() for name in method.uses} == set(defaults)


class TestEveryKindOfNetwork:
    @pytest.mark.parametrize("method", saliency.METHODS)
    @pytest.mark.parametrize(
        "name", ["residual", "functional", "in_place", "reused_relu", "gelu", "depth_wise", "one_channel", "binary"]
    )
    def test_small_networks(self, method: str, name: str, small_model: Load, image: InputImage) -> None:
        if method in OF_RELUS and name == "gelu":
            return
        model = small_model(name)
        found = saliency.explain(model, image, method=method, **FEW)
        assert found.values.shape == (1 if name == "one_channel" else 3, 16, 16)
        assert np.isfinite(found.values).all()
        assert found.map.shape == (16, 16)
        prediction = model.predict(image)
        assert (found.target, found.target_label) == (prediction.indices[0], prediction.labels[0])
        assert found.score == pytest.approx(prediction.logits[0], rel=1e-4, abs=1e-6)
        assert (found.completeness_error is not None) == (method == "integrated_gradients")

    @pytest.mark.parametrize("name", ["residual", "functional", "in_place", "reused_relu", "depth_wise", "one_channel"])
    def test_gradient(self, name: str, small_model: Load, image: InputImage) -> None:
        model = small_model(name)
        found = saliency.explain(model, image, method="gradient", target=2)
        np.testing.assert_allclose(found.values, plain_gradient(model, model.to_input(image), 2), atol=1e-6)

    def test_binary_head(self, small_model: Load, image: InputImage) -> None:
        """A single score z speaks for class 1, its negative for class 0."""
        model = small_model("binary")
        for method in ("gradient", *SLOW):
            zero, one = (saliency.explain(model, image, method=method, target=t) for t in (0, 1))
            close(zero.values, -one.values)
            assert zero.score == -one.score

    @pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid(), nn.LogSoftmax(1)], ids=lambda m: type(m).__name__)
    def test_networks_that_put_out_probabilities(self, end: nn.Module, image: InputImage) -> None:
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        model = from_module(nn.Sequential(body, end))
        x = model.to_input(image).requires_grad_()
        logits = model.net[0](x)
        score = logits[0, 1] if isinstance(end, nn.Sigmoid) else logits.log_softmax(1)[0, 1]
        (expected,) = torch.autograd.grad(score, x)
        found = saliency.explain(model, image, method="gradient", target=1)
        close(found.values, expected[0], share=1e-4)
        assert found.score == pytest.approx(float(score.detach()), rel=1e-4)
        many = saliency.explain(model, image, method="smooth_grad", target=1, noise=0, num_samples=2)
        close(many.values, expected[0], share=1e-4)

    def test_32_px(self, noise_image: Noise) -> None:
        model = models.load("torchvision/resnet18", weights="random:0", device="cpu", preprocessing={"input_px": 32})
        for method in saliency.METHODS:
            found = saliency.explain(model, noise_image(32, 32), method=method, target=5, **FEW)
            assert found.values.shape == (3, 32, 32)
            assert found.values.any()

    def test_densenet_and_squeeze_excite(self, zoo_64: Load, noise_image: Noise) -> None:
        """Functional ReLUs and norms before the convolutions; sigmoid gates and SiLU."""
        for model_id in ("torchvision/densenet121", "timm/efficientnet_b0"):
            model, picture = zoo_64(model_id), noise_image(64, 64)
            found = saliency.explain(model, picture, method="integrated_gradients", target=3, num_steps=4)
            expected = IntegratedGradients(model.net).attribute(model.to_input(picture), target=3, n_steps=4)
            close(found.values, expected[0].detach(), share=1e-2)

    def test_under_no_grad_and_inference_mode(self, tiny_model: LoadedModel, image: InputImage) -> None:
        for method in saliency.METHODS:
            expected = saliency.explain(tiny_model, image, method=method, **FEW).values
            for mode in (torch.no_grad(), torch.inference_mode()):
                with mode:
                    found = saliency.explain(tiny_model, image, method=method, **FEW).values
                np.testing.assert_array_equal(found, expected)


def fingerprint(model: LoadedModel) -> list[object]:
    """Everything of a network that a method could leave changed."""
    modules = [
        (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for name, module in model.net.named_modules()
    ]
    weights = [
        (name, p.requires_grad, p.grad is None, p.stride(), p.detach().numpy().tobytes())
        for name, p in model.net.named_parameters()
    ]
    return [modules, weights]


class TestSharedNetwork:
    @pytest.mark.parametrize("name", ["residual", "functional"])
    def test_left_as_it_was(self, name: str, small_model: Load, image: InputImage) -> None:
        model = small_model(name)
        before = fingerprint(model)
        for method in saliency.METHODS:
            saliency.explain(model, image, method=method, **FEW)
        for method in OF_UNITS:
            saliency.explain(model, image, method=method, layer="fc", unit=(0, 0, 0), **FEW)
        assert fingerprint(model) == before
        assert torch._C._len_torch_function_stack() == 0

    def test_threads_with_mixed_methods_equal_the_serial_results(self, small_net: Any, noise_image: Noise) -> None:
        half = (0.5,) * 3
        load = lambda: models.from_module(small_net("residual"), input_px=16, mean=half, std=half, name="r")  # noqa: E731
        units: list[dict[str, Any]] = [{}, {"layer": "bn2", "unit": (1, 3, 3)}]
        jobs = [
            (method, unit, noise_image(16, 16, seed=seed))
            for seed in range(2)
            for method in saliency.METHODS
            for unit in units
            if not unit or method in OF_UNITS
        ]

        def run(model: LoadedModel, i: int) -> np.ndarray:
            method, unit, picture = jobs[i]
            return saliency.explain(model, picture, method=method, **unit, **FEW).values

        serial_model, shared = load(), load()
        serial = [run(serial_model, i) for i in range(len(jobs))]
        found: dict[int, np.ndarray] = {}

        def work(first: int) -> None:
            for i in range(first, len(jobs), 4):
                found[i] = run(shared, i)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, expected in enumerate(serial):
            np.testing.assert_array_equal(found[i], expected)

    @pytest.mark.parametrize("method", saliency.METHODS)
    def test_results_travel_and_can_be_made_again(
        self, method: str, tiny_model: LoadedModel, image: InputImage
    ) -> None:
        given = {"num_samples": 4, "noise": 0.4, "num_steps": 6, "baseline": "blur", "seed": 9, "batch_size": 2}
        found = saliency.explain(tiny_model, image, method=method, **given)
        back = pickle.loads(pickle.dumps(found))
        np.testing.assert_array_equal(back.values, found.values)
        np.testing.assert_array_equal(saliency.explain(tiny_model, image, **back.run.settings).values, found.values)
        assert found.run.method == "saliency.explain"
        assert found.run.image_digest == image.digest
        assert set(found.run.settings) == {"method", "target", "layer", "unit", *saliency.METHODS[method].uses}
        assert found.run.settings["target"] == tiny_model.predict(image).indices[0]

    def test_a_unit_can_be_made_again(self, tiny_model: LoadedModel, image: InputImage) -> None:
        found = saliency.explain(tiny_model, image, method="deconvnet", layer="relu2", unit=[np.int64(1), 2, 3])
        assert found.unit == (1, 2, 3)
        assert {type(i) for i in found.unit} == {int}
        again = saliency.explain(tiny_model, image, **found.run.settings)
        np.testing.assert_array_equal(again.values, found.values)
