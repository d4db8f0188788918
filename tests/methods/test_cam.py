"""The CAM family against hand-computed maps, slow loops, each other and pytorch-grad-cam where that is right."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import models, probe
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam, feature_maps
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]

ONE_BACKWARD = ["grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam"]
SLOW = ["score_cam", "ablation_cam"]
EVERYWHERE = [name for name in cam.METHODS if name != "cam"]


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


def taken_apart(model: LoadedModel, image: InputImage, layer: str, target: int) -> tuple[np.ndarray, np.ndarray]:
    """(A, g) in float64 by plain hooks on a deep copy whose in-place code cannot reach what was kept."""
    net = probe.private_copy(model.net)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    net.get_submodule(layer).register_forward_hook(keep)
    x = model.to_input(image).requires_grad_()
    score = model.scores(net(x))[0, target]
    (gradient,) = torch.autograd.grad(score, kept[-1])
    return kept[-1][0].detach().double().numpy(), gradient[0].double().numpy()


def by_hand(method: str, maps: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The papers' formulas, one channel at a time, before clipping."""
    total = np.zeros(maps.shape[1:])
    for a, d in zip(maps, g, strict=True):
        if method == "grad_cam":
            total += d.mean() * a
        elif method == "grad_cam_pp":
            bottom = 2 * d**2 + d**3 * a.sum()
            alpha = np.divide(d**2, bottom, out=np.zeros_like(d), where=d != 0)
            total += (alpha * np.maximum(d, 0)).sum() * a
        elif method == "xgrad_cam":
            total += (d * a).sum() / a.sum() * a if a.any() else 0
        elif method == "hires_cam":
            total += d * a
        else:
            total += np.maximum(d, 0) * a
    return total


def close(found: np.ndarray, expected: np.ndarray, *, share: float = 1e-5) -> None:
    """Equal up to a share of the largest absolute value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * float(np.abs(expected).max()) + 1e-30)
    assert np.abs(expected).max() > 0, "a test on an empty map shows nothing"


class TestByHand:
    @pytest.fixture
    def two_channels(self) -> LoadedModel:
        """The picture's channels 0 and 1 pass a ReLU and are averaged: A = ReLU(x), g = w / 4."""
        net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net.append(nn.Linear(2, 2))
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).reshape(2, 3, 1, 1))
            net[4].weight.copy_(torch.tensor([[2.0, -1.0], [0.5, 4.0]]))
            net[4].bias.copy_(torch.tensor([0.5, -3.0]))
        zero, one = (0.0,) * 3, (1 / 255,) * 3
        return models.from_module(net, input_px=2, mean=zero, std=one, name="two channels", device="cpu")

    @pytest.fixture
    def picture(self) -> InputImage:
        """Values of the first channel 1 2 / 0 1, of the second 0 4 / 0 0."""
        from cnnviz_core import images

        pixels = np.zeros((2, 2, 3), dtype=np.uint8)
        pixels[..., 0] = [[1, 2], [0, 1]]
        pixels[..., 1] = [[0, 4], [0, 0]]
        return images.from_pixels(pixels, name="by hand")

    # Class 0: w = (2, -1), g = w / 4 at every cell, sum A = (4, 4).
    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("cam", [[2, 0], [0, 2]]),
            ("grad_cam", [[0.5, 0], [0, 0.5]]),
            ("hires_cam", [[0.5, 0], [0, 0.5]]),
            ("xgrad_cam", [[0.5, 0], [0, 0.5]]),
            ("layer_cam", [[0.5, 1], [0, 0.5]]),
            ("grad_cam_pp", [[0.5, 1], [0, 0.5]]),  # 4 cells x 0.5 / (2 + 0.5 x 4) = 0.5
            # Score 0.5 + 2 - 1 = 1.5; without channel 0 it loses 2, without channel 1 it wins 1.
            ("ablation_cam", [[2 / 1.5, 0], [0, 2 / 1.5]]),
            # Two classes: the closest to class 0 is class 1, so w becomes (2, -1) - 0.6 (0.5, 4).
            ("finer_cam", [[1.7 / 4, 0], [0, 1.7 / 4]]),
        ],
    )
    def test_small_network(
        self, method: str, expected: list[list[float]], two_channels: LoadedModel, picture: InputImage
    ) -> None:
        heatmap = cam.explain(two_channels, picture, method=method, target=0)
        np.testing.assert_allclose(heatmap.values, expected, rtol=1e-5, atol=1e-6)
        assert heatmap.values.dtype == np.float32
        assert (heatmap.layer, heatmap.target, heatmap.target_label, heatmap.method) == ("1", 0, "class 0", method)

    def test_signed_keeps_the_evidence_against(self, two_channels: LoadedModel, picture: InputImage) -> None:
        heatmap = cam.explain(two_channels, picture, method="grad_cam", target=1, signed=True)
        np.testing.assert_allclose(heatmap.values, [[0.125, 4.25], [0, 0.125]], rtol=1e-6)
        heatmap = cam.explain(two_channels, picture, method="finer_cam", target=0, signed=True)
        np.testing.assert_allclose(heatmap.values, [[0.425, 0.85 - 3.4], [0, 0.425]], rtol=1e-5)

    def test_finer_cam_without_subtraction_is_grad_cam(self, tiny_model: LoadedModel, image: InputImage) -> None:
        finer = cam.explain(tiny_model, image, method="finer_cam", target=1, gamma=0)
        close(finer.values, cam.explain(tiny_model, image, method="grad_cam", target=1).values)
        assert {name: m.variant_of for name, m in cam.METHODS.items() if m.variant_of} == {"finer_cam": "grad_cam"}

    def test_finer_cam_takes_the_closest_classes(self, tiny_model: LoadedModel, image: InputImage) -> None:
        """With one class to subtract it is that with the closest score, and the map is linear in the score."""
        logits = dict(zip(*[getattr(tiny_model.predict(image), k) for k in ("indices", "logits")], strict=True))
        closest = min((1, 2), key=lambda c: abs(logits[c] - logits[0]))
        single = {c: cam.explain(tiny_model, image, method="grad_cam", target=c, signed=True).values for c in range(3)}
        found = cam.explain(tiny_model, image, method="finer_cam", target=0, gamma=0.5, num_closest=1, signed=True)
        close(found.values, single[0] - 0.5 * single[closest])
        found = cam.explain(tiny_model, image, method="finer_cam", target=0, gamma=0.5, num_closest=99, signed=True)
        close(found.values, single[0] - 0.25 * (single[1] + single[2]))

    @pytest.mark.parametrize("method", ONE_BACKWARD)
    @pytest.mark.parametrize(
        ("name", "layer"),
        [
            ("plain", "conv1"),
            ("residual", "bn2"),  # overwritten by the addition
            ("functional", "norm"),  # overwritten by a ReLU
            ("functional", "conv2"),
            ("reused_relu", "relu"),  # its last call
            ("in_place", "conv1"),
            ("gelu", "conv1"),
            ("depth_wise", "act"),
        ],
    )
    def test_papers_formulas(self, method: str, name: str, layer: str, small_model: Load, image: InputImage) -> None:
        model = small_model(name)
        found = cam.explain_many(model, image, methods=[method], layer=layer, targets=range(3), signed=True)
        expected = [by_hand(method, *taken_apart(model, image, layer, target)) for target in range(3)]
        close(np.stack([heatmap.values for heatmap in found.values()]), np.stack(expected), share=1e-4)
        clipped = cam.explain(model, image, method=method, layer=layer, target=1)
        np.testing.assert_allclose(clipped.values, np.maximum(found[method, 1].values, 0), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("method", ["grad_cam_pp", "xgrad_cam"])
    def test_tiny_gradients_count_in_full(self, method: str, image: InputImage) -> None:
        """An epsilon of a fixed size would swallow a score a millionth as large."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        model = from_module(net)
        with torch.no_grad():
            model.net[4].weight.mul_(1e-6)
        found = cam.explain(model, image, method=method, target=2, signed=True)
        close(found.values, by_hand(method, *taken_apart(model, image, "1", 2)))


class TestIdentities:
    @pytest.mark.parametrize("model_id", ["torchvision/resnet18", "torchvision/googlenet"])
    def test_cam_is_grad_cam_is_hires_cam(self, model_id: str, zoo_64: Load, noise_image: Noise) -> None:
        self.check(zoo_64(model_id), noise_image(64, 64), ["grad_cam", "hires_cam", "xgrad_cam"])

    def test_with_real_weights(self, lite0: LoadedModel, chelsea: InputImage) -> None:
        self.check(lite0, chelsea, ["grad_cam", "hires_cam", "xgrad_cam"])

    def test_functional_relu_before_the_pooling(self, zoo_64: Load, noise_image: Noise) -> None:
        """DenseNet's last layer is not rectified yet: CAM and HiResCAM see what is, Grad-CAM the layer itself."""
        model = zoo_64("torchvision/densenet121")
        assert model.anatomy.head.relu_before_pooling
        self.check(model, noise_image(64, 64), ["hires_cam"])
        grad_cam = cam.explain(model, noise_image(64, 64), method="grad_cam", target=7, signed=True)
        maps, g = taken_apart(model, noise_image(64, 64), grad_cam.layer, 7)
        assert maps.min() < 0
        close(grad_cam.values, by_hand("grad_cam", maps, g), share=1e-4)

    def check(self, model: LoadedModel, image: InputImage, same: list[str]) -> None:
        target = model.predict(image).indices[0]
        found = cam.explain_many(model, image, methods=["cam", *same], targets=[target], signed=True)
        values = found["cam", target].values
        for method in same:
            close(values.size * found[method, target].values, values, share=1e-4)
        bias = model.net.get_submodule(model.anatomy.head.classifier).bias
        assert values.mean() + float(bias[target]) == pytest.approx(model.predict(image).logits[0], rel=1e-4)

    def test_conv_head_shows_the_class_s_own_map(self, image: InputImage) -> None:
        """As in SqueezeNet: a 1x1 convolution, a ReLU, the average."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        model = from_module(net.append(nn.Flatten()))
        assert model.anatomy.head.kind == "conv_gap"
        with torch.no_grad():
            maps = model.net[:4](model.to_input(image))[0]
        target = int(maps.mean((1, 2)).argmax())
        for method in ("cam", "hires_cam"):
            values = cam.explain(model, image, method=method, target=target).values
            close(values * (maps[0].numel() if method == "hires_cam" else 1), maps[target].numpy())
        assert cam.explain(model, image, method="cam").values.mean() == pytest.approx(
            model.predict(image).logits[0], rel=1e-5
        )

    def test_norm_in_the_head_is_left_out(self, image: InputImage) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4))
        model = from_module(net.append(nn.Linear(4, 3)))
        assert model.anatomy.head.kind == "gap_norm_linear"
        with torch.no_grad():
            maps = model.net[:2](model.to_input(image))[0]
            expected = torch.einsum("c,chw->hw", model.net[5].weight[1], maps)
        close(cam.explain(model, image, method="cam", target=1).values, expected.numpy())

    def test_binary_head(self, small_model: Load, image: InputImage) -> None:
        """A single score z speaks for class 1, its negative for class 0."""
        model = small_model("binary")
        found = cam.explain_many(model, image, methods=["cam", "grad_cam"], targets=[0, 1], signed=True)
        for method in ("cam", "grad_cam"):
            close(found[method, 0].values, -found[method, 1].values)
        with torch.no_grad():
            z = float(model.net(model.to_input(image)))
        assert found["cam", 1].values.mean() + float(model.net.fc.bias) == pytest.approx(z, rel=1e-4)
        assert cam.explain(model, image, method="cam").target == int(z > 0)
        finer = cam.explain(model, image, method="finer_cam", target=1, signed=True)
        close(finer.values, 1.6 * found["grad_cam", 1].values)  # S - 0.6 (-S)
        for method in SLOW:
            assert np.isfinite(cam.explain(model, image, method=method, target=0).values).all()

    def test_channels_last(self, image: InputImage) -> None:
        class ChannelsLast(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 5, 3, stride=2)
                self.norm = nn.LayerNorm(5)
                self.fc = nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

        model = from_module(ChannelsLast())
        layer = model.layers["norm"]
        assert layer.channel_dim == 3
        self.check(model, image, ["grad_cam", "hires_cam"])
        found = cam.explain_many(model, image, methods=EVERYWHERE, targets=range(3), layer="norm")
        assert {heatmap.values.shape for heatmap in found.values()} == {layer.cells}
        for method, slow in (("ablation_cam", slow_ablation_cam), ("score_cam", slow_score_cam)):
            expected = [slow(model, image, "norm", target) for target in range(3)]
            close(np.stack([found[method, target].values for target in range(3)]), np.stack(expected))


class PeerMethods:
    """pytorch-grad-cam's maps before it clips, resizes and scales them."""

    CLASSES = {  # noqa: RUF012
        "grad_cam": "GradCAM",
        "grad_cam_pp": "GradCAMPlusPlus",
        "xgrad_cam": "XGradCAM",
        "hires_cam": "HiResCAM",
        "layer_cam": "LayerCAM",
        "eigen_cam": "EigenCAM",
    }

    def map(self, method: str, model: LoadedModel, image: InputImage, layer: str, target: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pytorch_grad_cam
            from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        net = probe.private_copy(model.net)
        modules, targets = [net.get_submodule(layer)], [ClassifierOutputTarget(target)]
        x = model.to_input(image)
        with getattr(pytorch_grad_cam, self.CLASSES[method])(net, modules) as peer:
            peer.compute_input_gradient = peer.uses_gradients = True  # its parameters are frozen
            # It keeps the maps where they lie, and DenseNet's ReLU in place would overwrite them there.
            modules[0].register_forward_hook(lambda _module, _args, output: output.clone())
            peer(x, targets)
            kept = peer.activations_and_grads
            maps, g = kept.activations[0].detach().numpy(), kept.gradients[0].detach().numpy()
            return peer.get_cam_image(x, modules[0], targets, maps, g, False)[0]


class TestAgainstPytorchGradCam:
    METHODS = ("grad_cam", "xgrad_cam", "hires_cam", "layer_cam", "eigen_cam")

    def check(self, model: LoadedModel, image: InputImage, layer: str, target: int) -> None:
        found = cam.explain_many(model, image, methods=self.METHODS, targets=[target], layer=layer, signed=True)
        for method in self.METHODS:
            expected = PeerMethods().map(method, model, image, layer, target)
            if method == "eigen_cam" and -expected.min() > expected.max():  # it leaves the sign to chance
                expected = -expected
            close(found[method, target].values, expected, share=1e-3)

    @pytest.mark.parametrize(
        ("model_id", "layer"),
        [
            ("torchvision/resnet18", "layer4"),
            ("torchvision/resnet18", "layer3"),
            ("torchvision/resnet18", "layer4.1.conv2"),
            ("torchvision/vgg11", "features.19"),
            ("torchvision/vgg11", "features.14"),
            ("torchvision/densenet121", "features"),  # followed by a ReLU that is a plain function
        ],
    )
    def test_random_weights(self, model_id: str, layer: str, zoo_64: Load, noise_image: Noise) -> None:
        self.check(zoo_64(model_id), noise_image(64, 64), layer, 7)

    @pytest.mark.parametrize("layer", ["bn2", "blocks.5"])
    def test_real_weights(self, layer: str, lite0: LoadedModel, chelsea: InputImage) -> None:
        self.check(lite0, chelsea, layer, 282)

    def test_grad_cam_pp_where_its_epsilon_is_small(self, image: InputImage) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        model = from_module(net)
        with torch.no_grad():
            model.net[4].weight.mul_(100)
        expected = PeerMethods().map("grad_cam_pp", model, image, "1", 1)
        close(cam.explain(model, image, method="grad_cam_pp", target=1, signed=True).values, expected, share=1e-3)

    def test_grad_cam_pp_with_real_weights(self, lite0: LoadedModel, chelsea: InputImage) -> None:
        """The peer's epsilon of 1e-6 is as large as the squared gradients here, so by hand."""
        found = cam.explain(lite0, chelsea, method="grad_cam_pp", target=282, signed=True)
        close(found.values, by_hand("grad_cam_pp", *taken_apart(lite0, chelsea, "bn2", 282)), share=1e-4)


def slow_score_cam(model: LoadedModel, image: InputImage, layer: str, target: int) -> np.ndarray:
    """One mask at a time."""
    maps, _ = taken_apart(model, image, layer, target)
    if model.layers[layer].channel_dim == 3:
        maps = maps.transpose(2, 0, 1)
    x, total = model.to_input(image), np.zeros(maps.shape[1:])
    for a in maps:
        if a.max() == a.min():
            continue
        mask = F.interpolate(torch.tensor(a, dtype=torch.float32)[None, None], x.shape[2:], mode="bilinear")
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        with torch.no_grad():
            scores = model.net(x * mask)[0]
        probability = torch.sigmoid(scores)[0] if len(scores) == 1 else scores.softmax(0)[target]
        total += float(1 - probability if len(scores) == 1 and target == 0 else probability) * a
    return np.maximum(total, 0)


def slow_ablation_cam(model: LoadedModel, image: InputImage, layer: str, target: int) -> np.ndarray:
    """One whole forward for each channel, with a hook that sets it to zero."""
    maps, _ = taken_apart(model, image, layer, target)
    last = model.layers[layer].channel_dim == 3
    maps = maps.transpose(2, 0, 1) if last else maps
    x, total = model.to_input(image), np.zeros(maps.shape[1:])
    with torch.no_grad():
        clean = float(model.scores(model.net(x))[0, target])
        for k, a in enumerate(maps):
            net, calls = probe.private_copy(model.net), []

            def silence(_module: nn.Module, _args: object, output: Tensor, k: int = k, calls: list[int] = calls) -> Any:
                calls.append(k)
                changed = output.clone()
                if len(calls) == model.layers[layer].num_calls:
                    changed[(0, ..., k) if last else (0, k)] = 0
                return changed

            net.get_submodule(layer).register_forward_hook(silence)
            total += (clean - float(model.scores(net(x))[0, target])) / abs(clean) * a
    return np.maximum(total, 0)


class TestSlowMethods:
    CASES = (
        ("plain", "relu2"),  # the head alone remains
        ("plain", "conv1"),
        ("residual", "conv1"),
        ("residual", "stem"),
        ("functional", "conv2"),  # joined with maps made before
        ("functional", "norm"),
        ("reused_relu", "conv2"),
        ("binary", "relu1"),
        ("one_channel", "conv2"),
    )

    @pytest.mark.parametrize(("name", "layer"), CASES)
    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    def test_score_cam(
        self, name: str, layer: str, batch_size: int | None, small_model: Load, image: InputImage
    ) -> None:
        model = small_model(name)
        found = cam.explain(model, image, method="score_cam", layer=layer, target=0, batch_size=batch_size)
        close(found.values, slow_score_cam(model, image, layer, 0))

    @pytest.mark.parametrize(("name", "layer"), CASES)
    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    def test_ablation_cam(
        self, name: str, layer: str, batch_size: int | None, small_model: Load, image: InputImage
    ) -> None:
        model = small_model(name)
        targets = range(model.num_classes)
        found = cam.explain_many(
            model, image, methods=["ablation_cam"], layer=layer, targets=targets, batch_size=batch_size
        )
        expected = {t: slow_ablation_cam(model, image, layer, t) for t in targets}
        assert any(values.any() for values in expected.values())
        for target in targets:
            np.testing.assert_allclose(found["ablation_cam", target].values, expected[target], rtol=1e-4, atol=1e-5)

    def test_flatten_head(self, image: InputImage) -> None:
        """One linear layer on all cells: the rest of the network is run."""
        model = from_module(nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 144, 3)))
        assert model.anatomy.head.kind == "flatten_linear"
        close(
            cam.explain(model, image, method="ablation_cam", target=0).values, slow_ablation_cam(model, image, "1", 0)
        )

    def test_off_the_path(self, image: InputImage) -> None:
        """A branch that no score depends on: nothing is lost without it, and there is no gradient to speak of."""

        class DeadEnd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.other, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                self.other(x)
                return self.fc(self.conv(x).relu().mean((2, 3)))

        model = from_module(DeadEnd())
        for method in SLOW:
            values = cam.explain(model, image, method=method, layer="other").values
            assert values.any() == (method == "score_cam")
        with pytest.raises(NotApplicable, match=r"do not depend on layer other.*conv"):
            cam.explain(model, image, method="grad_cam", layer="other")

    def test_on_step(self, small_model: Load, image: InputImage) -> None:
        steps: list[Step] = []
        cam.explain_many(
            small_model("plain"), image, methods=["grad_cam", *SLOW], layer="conv1", targets=[0, 1], batch_size=3,
            on_step=steps.append,
        )  # fmt: skip
        assert [step.done for step in steps] == [3, 4, 7, 8]
        assert {step.total for step in steps} == {8}
        assert {name for name, method in cam.METHODS.items() if method.per_channel} == set(SLOW)

    @pytest.mark.parametrize("method", SLOW)
    def test_the_map_so_far_is_that_of_the_channels_tried(
        self, method: str, small_model: Load, image: InputImage
    ) -> None:
        model, steps = small_model("plain"), []
        asked = {"method": method, "layer": "conv1", "target": 1, "signed": True, "batch_size": 1}
        whole = cam.explain(model, image, **asked, on_step=steps.append)  # type: ignore[arg-type]
        maps = [step.partial.values for step in steps]
        np.testing.assert_array_equal(maps[-1], whole.values)
        assert [step.partial.method for step in steps] == [method] * 4
        activations = feature_maps.compute(model, image, layer="conv1").values
        for before, after, activation in zip([np.zeros_like(maps[0]), *maps], maps, activations, strict=False):
            added = after - before
            weight = (added * activation).sum() / np.square(activation).sum()
            np.testing.assert_allclose(added, weight * activation, atol=1e-6)
        steps.clear()
        against = cam.contrast(model, image, method=method, layer="conv1", target=1, against=0, on_step=steps.append)
        np.testing.assert_array_equal(steps[-1].partial.values, against.values)

    @pytest.mark.parametrize("method", SLOW)
    def test_an_exception_of_on_step_ends_the_work(self, method: str, small_model: Load, image: InputImage) -> None:
        model, calls = small_model("residual"), []

        def stop(step: Step) -> None:
            calls.append(step)
            raise RuntimeError("enough")

        before = fingerprint(model)
        with pytest.raises(RuntimeError, match="enough"):
            cam.explain(model, image, method=method, layer="conv1", batch_size=1, on_step=stop)
        assert [(step.done, step.total) for step in calls] == [(1, 4)]
        assert fingerprint(model) == before
        assert torch.is_grad_enabled()


class TestEigenCam:
    def test_first_component_of_the_cells(self, tiny_model: LoadedModel, image: InputImage) -> None:
        from sklearn.decomposition import PCA

        maps, _ = taken_apart(tiny_model, image, "conv2", 0)
        expected = PCA(1, svd_solver="full").fit_transform(maps.reshape(len(maps), -1).T).reshape(maps.shape[1:])
        found = cam.explain(tiny_model, image, method="eigen_cam", layer="conv2")
        largest = np.unravel_index(np.abs(expected).argmax(), expected.shape)
        close(found.values, expected * np.sign(expected[largest]), share=1e-4)
        assert found.values.max() == np.abs(found.values).max()
        assert (found.target, found.target_label) == (None, "")

    def test_needs_no_class(self, small_model: Load, image: InputImage) -> None:
        model = small_model("headless")
        assert cam.explain(model, image, method="eigen_cam").values.any()
        assert cam.explain(model, image, method="eigen_cam").run.settings["target"] is None

    def test_stops_after_the_layer(self, image: InputImage) -> None:
        ran = []

        class Late(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                ran.append(True)
                return x

        model = from_module(nn.Sequential(nn.Conv2d(3, 4, 3), Late(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        ran.clear()
        cam.explain(model, image, method="eigen_cam", layer="0")
        assert not ran


class TestExplainMany:
    METHODS = ("cam", *EVERYWHERE)

    @pytest.mark.parametrize("name", ["plain", "binary", "functional", "one_channel"])
    def test_equals_singles(self, name: str, small_model: Load, image: InputImage) -> None:
        model = small_model(name)
        targets = range(model.num_classes)
        many = cam.explain_many(model, image, methods=self.METHODS, targets=targets)
        assert list(many) == [(method, target) for method in self.METHODS for target in targets]
        for (method, target), heatmap in many.items():
            single = cam.explain(model, image, method=method, target=target)
            np.testing.assert_allclose(heatmap.values, single.values, rtol=1e-4, atol=1e-6)
            assert (heatmap.target, heatmap.layer) == (single.target, single.layer)
            assert heatmap.run.settings == single.run.settings

    @pytest.mark.parametrize("layer", ["features.denseblock4.denselayer16.conv2", "features.denseblock4"])
    def test_real_architecture_within(self, layer: str, zoo_64: Load, noise_image: Noise) -> None:
        model, picture = zoo_64("torchvision/densenet121"), noise_image(64, 64)
        methods, targets = ["grad_cam", "layer_cam", "finer_cam"], [3, 700]
        many = cam.explain_many(model, picture, methods=methods, targets=targets, layer=layer, signed=True)
        for (method, target), heatmap in many.items():
            single = cam.explain(model, picture, method=method, target=target, layer=layer, signed=True)
            close(heatmap.values, single.values, share=1e-4)

    def test_one_forward(self, image: InputImage) -> None:
        forwards = []

        class Counted(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                forwards.append(len(x))
                return super().forward(x)

        net = nn.Sequential(Counted(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 40))
        model = from_module(net)
        forwards.clear()
        methods = [*ONE_BACKWARD, "finer_cam", "cam", "eigen_cam", "ablation_cam"]
        assert len(cam.explain_many(model, image, methods=methods, targets=range(40))) == 40 * len(methods)
        assert forwards == [1]

    def test_operation_without_a_batched_gradient(self, image: InputImage) -> None:
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return 2 * x

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return torch.from_numpy(2 * gradient.numpy())

        class Custom(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(Double.apply(self.conv(x)).relu().mean((2, 3)))

        model = from_module(Custom())
        many = cam.explain_many(model, image, methods=["layer_cam"], targets=[0, 1, 2], layer="conv", signed=True)
        for target in range(3):
            expected = by_hand("layer_cam", *taken_apart(model, image, "conv", target))
            close(many["layer_cam", target].values, expected)

    def test_nothing_asked_for(self, tiny_model: LoadedModel, image: InputImage) -> None:
        assert cam.explain_many(tiny_model, image, methods=["grad_cam"], targets=[]) == {}
        assert cam.explain_many(tiny_model, image, methods=[], targets=[0]) == {}


class TestApplicability:
    def test_vgg_has_no_cam(self, zoo_64: Load, noise_image: Noise) -> None:
        with pytest.raises(NotApplicable, match="Grad-CAM"):
            cam.explain(zoo_64("torchvision/vgg11"), noise_image(64, 64), method="cam")

    @pytest.mark.parametrize("method", [name for name in cam.METHODS if name != "eigen_cam"])
    def test_headless_is_sent_to_eigen_cam(self, method: str, small_model: Load, image: InputImage) -> None:
        with pytest.raises(NotApplicable, match="Eigen-CAM"):
            cam.explain(small_model("headless"), image, method=method)

    def test_cam_is_fixed_to_its_layer(self, tiny_model: LoadedModel, image: InputImage) -> None:
        assert cam.explain(tiny_model, image, method="cam", layer="relu2").layer == "relu2"
        with pytest.raises(NotApplicable, match=r"at relu2 only.*conv1 use Grad-CAM"):
            cam.explain(tiny_model, image, method="cam", layer="conv1")
        with pytest.raises(NotApplicable, match="at relu2 only"):
            cam.explain_many(tiny_model, image, methods=["grad_cam", "cam"], targets=[0], layer="conv1")

    def test_head_without_a_weight_of_its_own(self, image: InputImage) -> None:
        class Loose(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.LayerNorm(4)
                self.table = nn.Parameter(torch.zeros(3, 4))

            def forward(self, x: Tensor) -> Tensor:
                return F.linear(self.norm(self.conv(x).mean((2, 3))), self.table)

        model = from_module(Loose())
        with pytest.raises(NotApplicable, match="Grad-CAM"):
            cam.explain(model, image, method="cam")
        assert cam.explain(model, image, method="grad_cam").values.shape == (14, 14)

    def test_wrong_arguments(self, tiny_model: LoadedModel, image: InputImage) -> None:
        with pytest.raises(BadSetting, match=r"gradcam.*grad_cam"):
            cam.explain(tiny_model, image, method="gradcam")
        with pytest.raises(UnknownLayer, match="conv2"):
            cam.explain(tiny_model, image, method="grad_cam", layer="conv3")
        with pytest.raises(NotApplicable, match="relu2"):
            cam.explain(tiny_model, image, method="grad_cam", layer="fc")
        for target in (-1, 3):
            with pytest.raises(BadSetting, match="classes 0 to 2"):
                cam.explain(tiny_model, image, method="grad_cam", target=target)
        for options in ({"gamma": -1.0}, {"gamma": float("nan")}, {"num_closest": 0}, {"batch_size": 0}):
            with pytest.raises(BadSetting, match=next(iter(options))):
                cam.explain(tiny_model, image, method="finer_cam", **options)

    def test_network_that_takes_another_way(self, noise_image: Noise) -> None:
        from cnnviz_core import images

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
            cam.explain(model, white, method="grad_cam", layer="dark")

    @pytest.mark.parametrize("method", cam.METHODS)
    def test_every_method_names_a_capability_and_explains_itself(self, method: str, tiny_model: LoadedModel) -> None:
        from cnnviz_core import doctor

        entry = cam.METHODS[method]
        assert doctor.verdict(tiny_model, entry.needs).usable
        assert all((entry.title, entry.help, entry.source, entry.cost))


class TestEveryKindOfNetwork:
    @pytest.mark.parametrize("method", EVERYWHERE)
    @pytest.mark.parametrize("name", ["residual", "functional", "in_place", "gelu", "depth_wise", "one_channel"])
    def test_small_networks(self, method: str, name: str, small_model: Load, image: InputImage) -> None:
        model = small_model(name)
        heatmap = cam.explain(model, image, method=method)
        assert heatmap.values.shape == model.layers[heatmap.layer].cells
        assert np.isfinite(heatmap.values).all()
        assert not cam.METHODS[method].clips or heatmap.values.min() >= 0

    @pytest.mark.parametrize("method", EVERYWHERE)
    def test_constant_maps_never_give_nan(self, method: str, image: InputImage) -> None:
        """A layer that is silent, or the same everywhere."""
        net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        model = from_module(net)
        with torch.no_grad():
            model.net[0].weight.zero_()
            model.net[0].bias.copy_(torch.tensor([-1.0, 2.0]))
        for layer in ("0", "1"):
            values = cam.explain(model, image, method=method, layer=layer, target=0).values
            assert np.isfinite(values).all()
            assert np.ptp(values) == 0
            if method in ("score_cam", "eigen_cam"):
                assert not values.any()

    def test_scores_of_zero(self, image: InputImage) -> None:
        net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        model = from_module(net)
        with torch.no_grad():
            for weight in model.net[4].parameters():
                weight.zero_()
        for method in ("cam", *EVERYWHERE):
            assert np.isfinite(cam.explain(model, image, method=method).values).all()

    def test_32_px(self, noise_image: Noise) -> None:
        """ResNet-18 has a single cell left in its last block, so the one before is the last with a map."""
        model = models.load("torchvision/resnet18", weights="random:0", device="cpu", preprocessing={"input_px": 32})
        picture = noise_image(32, 32)
        heatmap = cam.explain(model, picture, method="grad_cam", target=5, signed=True)
        assert heatmap.values.shape == (2, 2)
        assert heatmap.layer.startswith("layer3")
        close(heatmap.values, by_hand("grad_cam", *taken_apart(model, picture, heatmap.layer, 5)), share=1e-4)
        assert cam.explain(model, picture, method="hires_cam", layer="layer4").values.shape == (1, 1)
        with pytest.raises(NotApplicable, match="Grad-CAM"):
            cam.explain(model, picture, method="cam")

    def test_under_no_grad_and_inference_mode(self, tiny_model: LoadedModel, image: InputImage) -> None:
        expected = cam.explain(tiny_model, image, method="grad_cam").values
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                np.testing.assert_array_equal(cam.explain(tiny_model, image, method="grad_cam").values, expected)

    def test_real_cat(self, lite0: LoadedModel, chelsea: InputImage) -> None:
        """The face, in the middle, speaks for the cat more than the corners do."""
        found = cam.explain_many(lite0, chelsea, methods=["cam", *ONE_BACKWARD, "ablation_cam"], targets=[285])
        for heatmap in found.values():
            corners = heatmap.values[[0, 0, -1, -1], [0, -1, 0, -1]]
            assert heatmap.values[2:5, 2:5].mean() > corners.mean()
            assert heatmap.target_label == "Egyptian cat"


def fingerprint(model: LoadedModel) -> list[object]:
    """Everything of a network that a method could leave changed."""
    modules = [
        (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for name, module in model.net.named_modules()
    ]
    weights = [
        (name, p.requires_grad, p.grad is None, p.double().sum().item()) for name, p in model.net.named_parameters()
    ]
    return [modules, weights]


class TestSharedNetwork:
    @pytest.mark.parametrize("name", ["residual", "functional"])
    def test_left_as_it_was(self, name: str, small_model: Load, image: InputImage) -> None:
        model = small_model(name)
        before = fingerprint(model)
        cam.explain_many(model, image, methods=EVERYWHERE, targets=[0, 1])
        assert fingerprint(model) == before

    def test_threads_with_mixed_methods_equal_the_serial_results(self, small_model: Load, noise_image: Noise) -> None:
        model = small_model("residual")
        jobs = [
            (method, layer, noise_image(16, 16, seed=seed))
            for seed in range(3)
            for method in EVERYWHERE
            for layer in ("conv1", "bn2", "relu")
        ]
        run = lambda job: cam.explain(model, job[2], method=job[0], layer=job[1]).values  # noqa: E731
        serial = [run(job) for job in jobs]
        found: dict[int, np.ndarray] = {}

        def work(first: int) -> None:
            for i in range(first, len(jobs), 4):
                found[i] = run(jobs[i])

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, expected in enumerate(serial):
            np.testing.assert_array_equal(found[i], expected)

    def test_results_travel_and_can_be_made_again(self, tiny_model: LoadedModel, image: InputImage) -> None:
        heatmap = cam.explain(tiny_model, image, method="finer_cam", gamma=0.3, signed=True)
        back = pickle.loads(pickle.dumps(heatmap))
        np.testing.assert_array_equal(back.values, heatmap.values)
        again = cam.explain(tiny_model, image, **back.run.settings)
        np.testing.assert_array_equal(again.values, heatmap.values)
        assert heatmap.run.method == "cam.explain"
        assert heatmap.run.image_digest == image.digest
        assert heatmap.target == tiny_model.predict(image).indices[0]


class TestResume:
    def test_unknown_layer(self, tiny_model: LoadedModel, image: InputImage) -> None:
        with pytest.raises(UnknownLayer, match="conv1"):
            probe.resume(tiny_model.net, tiny_model.to_input(image), "conv9", lambda output: output)

    def test_changes_the_chosen_call_only(self, small_model: Load, image: InputImage) -> None:
        model = small_model("reused_relu")
        x = model.to_input(image)
        with torch.no_grad():
            clean = model.net(x)
            h = F.relu(model.net.conv1(x))
            h = F.relu(model.net.conv2(2 * h))
            expected = model.net.fc(F.relu(model.net.conv2(h)).mean((2, 3)))
            found = probe.resume(model.net, x, "relu", lambda output: 2 * output)
            assert torch.equal(probe.resume(model.net, x, "relu", lambda output: output), clean)
        torch.testing.assert_close(found, expected)


class TestContrast:
    @pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
    def test_it_is_the_map_of_the_difference_of_the_scores(
        self, small_model: Load, image: InputImage, method: str
    ) -> None:
        """For methods linear in the gradient; the gradient of S_a - S_b by an independent route."""
        model = small_model("plain")
        found = cam.contrast(model, image, method=method, target=0, against=2, layer="relu2")
        x, kept = model.to_input(image), []
        hook = model.net.relu2.register_forward_hook(lambda _m, _i, o: kept.append(o.requires_grad_()) or None)
        try:
            scores = model.net(x)[0]
        finally:
            hook.remove()
        (gradient,) = torch.autograd.grad(scores[0] - scores[2], kept[0])
        weights = gradient.mean((2, 3), keepdim=True) if method == "grad_cam" else gradient
        expected = (weights * kept[0]).sum(1)[0].detach().numpy()
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)
        assert found.target_label == "cat, not bird"

    def test_it_turns_round_with_the_classes(self, small_model: Load, image: InputImage) -> None:
        model = small_model("plain")
        one, other = (
            cam.contrast(model, image, method="layer_cam", target=a, against=b).values for a, b in ((0, 1), (1, 0))
        )
        np.testing.assert_array_equal(one, -other)
        assert one.any()

    def test_its_settings_repeat_it(self, small_model: Load, image: InputImage) -> None:
        model = small_model("plain")
        found = cam.contrast(model, image, method="cam", target=0, against=1)
        again = cam.contrast(model, image, **found.run.settings)
        np.testing.assert_array_equal(found.values, again.values)

    @pytest.mark.parametrize("method", ["grad_cam", "score_cam"])
    def test_it_is_the_difference_of_two_maps(self, method: str, small_model: Load, image: InputImage) -> None:
        model = small_model("plain")
        one, other = (cam.explain(model, image, method=method, target=target, signed=True) for target in (0, 2))
        found = cam.difference(one, against=other)
        expected = cam.contrast(model, image, method=method, target=0, against=2)
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-7)
        assert (found.run.method, found.run.settings) == ("cam.contrast", expected.run.settings)
        assert found.target_label == expected.target_label

    def test_maps_that_do_not_compare_have_no_difference(self, small_model: Load, image: InputImage) -> None:
        model = small_model("plain")
        one = cam.explain(model, image, method="grad_cam", target=0, signed=True)
        with pytest.raises(BadSetting, match="more than their class"):
            cam.difference(one, against=cam.explain(model, image, method="hires_cam", target=1, signed=True))
        clipped = [cam.explain(model, image, method="grad_cam", target=target) for target in (0, 1)]
        with pytest.raises(BadSetting, match="signed=True"):
            cam.difference(clipped[0], against=clipped[1])

    def test_a_method_without_classes_has_nothing_to_hold_against_another(
        self, small_model: Load, image: InputImage
    ) -> None:
        with pytest.raises(BadSetting, match="one map for all classes"):
            cam.contrast(small_model("plain"), image, method="eigen_cam", target=0, against=1)
