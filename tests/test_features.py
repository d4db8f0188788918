"""Features of whole pictures: sizes, layers, joining; the values themselves are tested with similarity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import features, models
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Features, PictureMaps

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


def recorded(**values: np.ndarray) -> PictureMaps:
    maps = {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
    return PictureMaps(maps, (100, 100), (64, 64), 64, False, "", ())


class TestSizes:
    @pytest.mark.parametrize(
        ("picture", "size_px", "expected"),
        [
            ((500, 741), None, (352, 512)),
            ((741, 500), None, (512, 352)),
            ((100, 100), 1024, (1024, 1024)),
            ((3000, 300), None, (512, 64)),
            ((300, 3000), None, (64, 512)),
            ((32, 32), 250, (256, 256)),
            ((2000, 2), None, (512, 32)),
        ],
    )
    def test_whole_strides(
        self, picture: tuple[int, int], size_px: int | None, expected: tuple[int, int], zoo: Load, noise_image: Noise
    ) -> None:
        assert features.working_px(zoo("torchvision/resnet18"), noise_image(*picture), size_px) == expected

    def test_networks_of_small_pictures_get_smaller_ones(self, zoo: Load, tiny_model: LoadedModel) -> None:
        assert features.default_size_px(zoo("torchvision/resnet18")) == 512
        assert features.default_size_px(tiny_model) == 37

    @pytest.mark.parametrize("size_px", [15, 2049, -1])
    def test_out_of_range(self, size_px: int, zoo: Load, noise_image: Noise) -> None:
        with pytest.raises(BadSetting, match="from 16 to 2048"):
            features.working_px(zoo("torchvision/resnet18"), noise_image(9, 9), size_px)


class Fixed(nn.Module):
    """Adds a map of fixed size early, and flattens late."""

    def __init__(self, *, early: bool) -> None:
        super().__init__()
        self.early = early
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.ones(4, 16, 16))
        self.fc = nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        if self.early:
            x = x + self.position
        return self.fc(self.conv2(x).flatten(1))


class TestRecord:
    def make(self, net: nn.Module) -> LoadedModel:
        return models.from_module(net, input_px=16, mean=[0.5] * 3, std=[0.5] * 3, name="fixed", device="cpu")

    def test_a_head_of_fixed_size_is_not_reached(self, noise_image: Noise) -> None:
        found = features.record(self.make(Fixed(early=False)), noise_image(20, 40), layers="conv2", size_px=64)
        assert (found.values["conv2"].shape, found.seen_px, found.picture_px) == ((4, 16, 32), (32, 64), (20, 40))
        assert (found.notices, found.size_px, found.dilate_last) == ((), 64, False)

    def test_what_takes_one_size_only_gets_it(self, noise_image: Noise) -> None:
        model, image = self.make(Fixed(early=True)), noise_image(20, 40)
        found = features.record(model, image, layers="conv2", size_px=64)
        assert (found.values["conv2"].shape, found.seen_px) == ((4, 8, 8), (16, 16))
        (notice,) = found.notices
        assert notice.startswith("fixed does not take pictures of 64 x 32 px (The size of tensor a")
        assert "own 16 x 16 px" in notice
        squashed = np.array(image.pil().resize((16, 16), Image.Resampling.BICUBIC))
        x = torch.from_numpy(squashed).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            expected = model.net.conv2(F.relu(model.net.conv1(x)) + 1)[0]
        np.testing.assert_allclose(found.values["conv2"], expected.numpy(), atol=1e-5)
        before = features.record(model, image, layers="conv1", size_px=64)
        assert (before.seen_px, before.notices) == ((32, 64), ())

    @pytest.mark.parametrize(
        ("model_id", "layer", "cells"),
        [("timm/vit_tiny_patch16_224", "patch_embed.proj", (14, 14)), ("torchvision/swin_t", "features.5", (4, 8))],
    )
    def test_transformers(
        self, model_id: str, layer: str, cells: tuple[int, int], zoo: Load, noise_image: Noise
    ) -> None:
        found = features.record(zoo(model_id), noise_image(50, 100), layers=layer, size_px=128)
        assert found.values[layer].shape[1:] == cells

    def test_the_last_call_counts(self, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("reused_relu"), noise_image(16, 16)
        with torch.no_grad():
            expected = model.to_input(image)
            for name in ("conv1", "conv2", "conv2"):
                expected = model.net.get_submodule(name)(expected).relu()
        found = features.record(model, image, layers="relu", size_px=16)
        np.testing.assert_allclose(found.values["relu"], expected[0].numpy(), rtol=1e-5)

    def test_pooling_to_a_fixed_grid_is_no_default(self, zoo: Load, noise_image: Noise) -> None:
        model = zoo("torchvision/vgg11")
        assert model.layers.stages[-1].representative == "avgpool"
        assert features.default_layer(model) == "features"
        assert features.record(model, noise_image(64, 128), size_px=256).values["features"].shape[1:] == (4, 8)

    def test_running_out_of_memory_is_no_size_that_does_not_fit(self, noise_image: Noise) -> None:
        class Hungry(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                if x.shape[-1] > 32:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return torch.relu(x[..., ::4, ::4])

        net = nn.Sequential(Hungry(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = models.from_module(net, input_px=32, mean=(0.5,) * 3, std=(0.5,) * 3, name="hungry", device="cpu")
        with pytest.raises(torch.OutOfMemoryError):
            features.record(model, noise_image(64, 64), size_px=64)

    def test_infinite_maps_are_refused(self, noise_image: Noise) -> None:
        net = Fixed(early=False)
        model = self.make(net)
        with torch.no_grad():
            model.net.conv1.weight.mul_(torch.inf)
        with pytest.raises(NotApplicable, match="conv1 puts out values that are not finite"):
            features.record(model, noise_image(16, 16), layers="conv1", size_px=16)


class TestCombine:
    def test_unit_vectors_and_silent_cells(self) -> None:
        (found,) = features.combine([recorded(a=[[[3, 0]], [[4, 0]]])])
        np.testing.assert_allclose(found.values, [[[0.6, 0]], [[0.8, 0]]], rtol=1e-6)
        assert found.cells == (1, 2)
        np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0, 0]], rtol=1e-6)

    def test_huge_and_tiny_values(self) -> None:
        (found,) = features.combine([recorded(a=[[[3e30, 3e-30]], [[4e30, 4e-30]]])])
        np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)

    def test_the_finest_grid_and_the_weights(self) -> None:
        """The coarse layer's vectors at the ends of a row of four, bilinear in between."""
        coarse, fine = [[[2, 0]], [[0, 5]]], [[[1, 1, -1, 1]]]
        (found,) = features.combine([recorded(coarse=coarse, fine=fine)], weights=[1, 3])
        expected = np.array(
            [[1, 0, 3**0.5], [0.75, 0.25, 3**0.5], [0.25, 0.75, -(3**0.5)], [0, 1, 3**0.5]], dtype=np.float32
        )
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found.vectors, expected, rtol=1e-5)
        assert found.layers == ("coarse", "fine")
        (one,) = features.combine([recorded(coarse=coarse, fine=fine)], layers=["coarse"])
        assert one.cells == (1, 2)

    def test_centring_counts_every_picture_alike(self) -> None:
        wide, small = recorded(a=[[[1, 1, 1, 5]], [[0, 0, 0, 4]]]), recorded(a=[[[4]], [[3]]])
        one, other = features.combine([wide, small], centre=True)
        mean = np.array([3, 2])  # of (2, 1) and (4, 3)
        for found, raw in ((one, [[1, 0], [1, 0], [1, 0], [5, 4]]), (other, [[4, 3]])):
            expected = np.array(raw) - mean
            np.testing.assert_allclose(found.vectors, expected / np.linalg.norm(expected, axis=1)[:, None], rtol=1e-5)
        (again,) = features.combine([small], means=features.mean_vectors([wide, small]))
        np.testing.assert_array_equal(again.values, other.values)


def test_cell_at() -> None:
    found = Features(np.zeros((1, 4, 8), dtype=np.float32), ("a",), (100, 80), (64, 64), ())
    assert found.cell_at(0, 0) == (0, 0)
    assert found.cell_at(24.9, 10) == (0, 1)
    assert found.cell_at(25, 9.9) == (1, 0)
    assert found.cell_at(100, 80) == (3, 7)
    assert found.cell_at(-5, 500) == (0, 7)
