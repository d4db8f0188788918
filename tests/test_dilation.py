"""The last stage without its stride: against the network itself, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import dilation, features, models, photos
from cnnviz_core.errors import NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


def offset(fine: np.ndarray, coarse: np.ndarray) -> tuple[int, int] | None:
    """Where the coarse maps begin in the fine ones; None where they are not in them."""
    height, width = coarse.shape[1:]
    for top, left in product((0, 1), repeat=2):
        taken = fine[:, top::2, left::2][:, :height, :width]
        if taken.shape == coarse.shape and np.abs(taken - coarse).max() <= 1e-4 * np.abs(coarse).max():
            return top, left
    return None


class TestAgainstTheNetwork:
    @pytest.mark.parametrize(
        ("model_id", "cells"),
        [
            ("torchvision/resnet18", (8, 12)),
            ("torchvision/mobilenet_v2", (8, 12)),
            ("torchvision/vgg11", (7, 11)),  # a pooling of 2 x 2 without stride leaves one place less
            ("torchvision/densenet121", (7, 11)),
            ("timm/convnext_atto", (7, 11)),
        ],
    )
    def test_every_second_place_is_the_network_s(
        self, model_id: str, cells: tuple[int, int], zoo: Load, noise_image: Noise
    ) -> None:
        model, image = zoo(model_id), noise_image(128, 192)
        (layer,) = features.layer_names(model, None)
        coarse, fine = (features.record(model, image, size_px=192, dilate_last=flag) for flag in (False, True))
        assert coarse.values[layer].shape[1:] == (4, 6)
        assert fine.values[layer].shape[1:] == cells
        assert offset(fine.values[layer], coarse.values[layer]) == (0, 0)
        assert offset(fine.values[layer] + 0.01, coarse.values[layer]) is None

    def test_real_weights_with_uneven_padding(self, lite0: LoadedModel) -> None:
        image = photos.open_photo("motorcycle_left")
        coarse, fine = (features.record(lite0, image, layers=["blocks.4", "bn2"], dilate_last=f) for f in (False, True))
        assert (coarse.values["bn2"].shape, fine.values["bn2"].shape) == ((1280, 11, 16), (1280, 22, 32))
        assert offset(fine.values["bn2"], coarse.values["bn2"]) == (1, 1)
        np.testing.assert_array_equal(coarse.values["blocks.4"], fine.values["blocks.4"])

    def test_the_network_itself_is_untouched(self, zoo: Load, noise_image: Noise) -> None:
        model, image = zoo("torchvision/resnet18"), noise_image(64, 64)
        before = features.record(model, image, size_px=64).values["layer4"]
        features.record(model, image, size_px=64, dilate_last=True)
        assert model.net.layer4[0].conv1.stride == (2, 2)
        np.testing.assert_array_equal(features.record(model, image, size_px=64).values["layer4"], before)

    def test_the_copy_is_kept(self, zoo: Load) -> None:
        model, x = zoo("torchvision/resnet18"), torch.zeros(1, 3, 224, 224)
        one, other = (dilation.without_last_stride(model.net, x, model.layers, [model.layers["layer4"]]) for _ in "ab")
        assert one is other is not model.net
        assert one.layer4[1].conv1.weight is model.net.layer4[1].conv1.weight


def from_module(net: nn.Module) -> LoadedModel:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return models.from_module(net, input_px=16, mean=[0.5] * 3, std=[0.5] * 3, name="small", device="cpu")


class Tail(nn.Module):
    """A last stage that begins with a stride, and what follows."""

    def __init__(self, *tail: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.tail = nn.Sequential(*tail)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tail(self.down(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class SqueezeExcite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


class SpaceToDepth(nn.Module):
    """A stage that begins with no convolution and no pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(16, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(F.pixel_unshuffle(self.stem(x), 2)).mean((2, 3)))


class TestSmall:
    @pytest.mark.parametrize(
        "tail",
        [
            (nn.Conv2d(4, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)),
            (nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 4, (1, 3), padding=(0, 1))),
            (nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)),
            (nn.Conv2d(4, 4, 3, padding="same"),),
        ],
        ids=["two", "dilated and flat", "depth-wise", "same"],
    )
    def test_convolutions(self, tail: tuple[nn.Module, ...], noise_image: Noise) -> None:
        model, image = from_module(Tail(*tail)), noise_image(16, 24)
        coarse, fine = (features.record(model, image, layers="tail", size_px=24, dilate_last=f) for f in (False, True))
        assert fine.values["tail"].shape == (4, 16, 24)
        assert offset(fine.values["tail"], coarse.values["tail"]) == (0, 0)

    @pytest.mark.parametrize(
        ("net", "layer", "words"),
        [
            (Tail(nn.Conv2d(4, 4, 3, padding=1), SqueezeExcite()), "tail", "tail would put out other values"),
            (Tail(nn.AvgPool2d(3, stride=1, padding=1)), "tail", "cannot be given holes"),
            (Tail(nn.MaxPool2d(3, stride=1, padding=1)), "tail", "does not take the finer maps"),
            (SpaceToDepth(), "last", "no convolution or pooling"),
            (Tail(nn.Identity()), "stem", "stem lies before it; choose tail"),
        ],
        ids=["squeeze-excite", "average", "maximum", "rearranged", "before"],
    )
    def test_what_cannot_be_done_is_said(self, net: nn.Module, layer: str, words: str, noise_image: Noise) -> None:
        model = from_module(net)
        with pytest.raises(NotApplicable, match=words):
            features.record(model, noise_image(16, 24), layers=layer, dilate_last=True)
        assert features.record(model, noise_image(16, 24), layers=layer).values[layer].size

    def test_before_the_head_the_net_may_do_anything(self, noise_image: Noise) -> None:
        """Only what is looked at must agree: a layer before the squeeze-excite may lose its stride."""
        model = from_module(Tail(nn.Conv2d(4, 4, 3, padding=1), SqueezeExcite()))
        fine = features.record(model, noise_image(16, 24), layers="tail.0", size_px=24, dilate_last=True)
        assert fine.values["tail.0"].shape == (4, 16, 24)
