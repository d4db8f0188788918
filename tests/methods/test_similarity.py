"""Similarity of places: plain numpy cosines of independently recorded features, identical and made-up pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz_core import features, images, mask_transfer, models, photos, stereo
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import similarity
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Features

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


def made_up(*vectors: Sequence[float], cells: tuple[int, int]) -> Features:
    """Cells with given vectors, row by row."""
    values = np.array(vectors, dtype=np.float32)
    values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
    return Features(values.T.reshape(-1, *cells), ("made up",), (10 * cells[0], 10 * cells[1]), (100, 100), ())


def random_cells(*cells: int, num: int = 12, seed: int = 0) -> Features:
    drawn = np.random.default_rng(seed).normal(size=(cells[0] * cells[1], num))
    return made_up(*drawn, cells=(cells[0], cells[1]))


def by_hand(model: LoadedModel, image: InputImage, layer: str, size: tuple[int, int]) -> np.ndarray:
    """(h, w, C) of a plain module's own forward on a picture resized by Pillow."""
    fit = model.preprocessing
    kinds = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    pixels = np.asarray(image.pil().resize((size[1], size[0]), kinds[fit.interpolation]), dtype=np.float32) / 255
    x = torch.from_numpy((pixels - np.float32(fit.mean)) / np.float32(fit.std)).permute(2, 0, 1)[None]
    kept = []
    handle = model.net.get_submodule(layer).register_forward_hook(lambda _m, _a, output: kept.append(output))
    with torch.no_grad():
        model.net(x)
    handle.remove()
    return kept[0][0].permute(1, 2, 0).numpy()


class TestCompare:
    @pytest.mark.parametrize(
        ("model_id", "layer"),
        [
            ("torchvision/resnet18", "layer4"),
            ("torchvision/resnet18", "layer3"),
            ("torchvision/densenet121", "features.denseblock3"),
            ("timm/convnext_atto", "stages.3"),
        ],
    )
    def test_plain_cosine_of_recorded_features(self, model_id: str, layer: str, zoo: Load, noise_image: Noise) -> None:
        model = zoo(model_id)
        a, b = noise_image(60, 120, seed=1), noise_image(90, 60, seed=2)
        found = similarity.compare(model, a, b, layer=layer, cell=(1, 2), size_px=128)
        first, second = (by_hand(model, image, layer, size) for image, size in ((a, (64, 128)), (b, (128, 96))))
        vector = first[1, 2]
        expected = second @ vector / np.linalg.norm(second, axis=2) / np.linalg.norm(vector)
        np.testing.assert_allclose(found.values, expected, atol=2e-5)
        assert (found.layer, found.target, found.method) == (layer, None, "cosine")

    def test_real_weights_by_default_at_512_px(self, lite0: LoadedModel) -> None:
        left, right = photos.open_photo("motorcycle_left"), photos.open_photo("motorcycle_right")
        found = similarity.compare(lite0, left, right, cell=(6, 4))
        first, second = (by_hand(lite0, image, "bn2", (352, 512)) for image in (left, right))
        expected = second @ first[6, 4] / np.linalg.norm(second, axis=2) / np.linalg.norm(first[6, 4])
        np.testing.assert_allclose(found.values, expected, atol=2e-5)
        assert found.values.shape == (11, 16)
        # The rear wheel lies about 45 px farther left in the right photo of 741 px: one cell of 46 px.
        assert np.unravel_index(found.values.argmax(), found.values.shape) == (6, 3)

    @pytest.mark.parametrize(
        "model_id", ["torchvision/resnet18", "torchvision/densenet121", "timm/convnext_atto", "timm/mobilenetv2_050"]
    )
    def test_the_same_picture_is_1_at_the_cell(self, model_id: str, zoo: Load, noise_image: Noise) -> None:
        image = noise_image(70, 100)
        for cell in ((0, 0), (2, 1)):
            found = similarity.compare(zoo(model_id), image, image, cell=cell, size_px=160)
            assert found.values[cell] == pytest.approx(1, abs=1e-6)
            assert found.values.argmax() == np.ravel_multi_index(cell, found.values.shape)
            assert np.abs(found.values).max() <= 1

    def test_rows_and_columns(self, lite0: LoadedModel) -> None:
        """A unique patch high up on the right of a wide picture, low on the left of a tall one."""
        grass, cat = photos.open_photo("grass"), photos.open_photo("chelsea").pixels[90:190, 130:230]

        def with_cat(height: int, width: int, top: int, left: int) -> InputImage:
            pixels = np.array(grass.pixels[:height, :width])
            pixels[top : top + 100, left : left + 100] = cat
            return images.from_pixels(pixels, name="cat on grass")

        wide, tall = with_cat(256, 512, 20, 380), with_cat(512, 256, 380, 20)
        (a, b) = features.compute(lite0, [wide, tall], layers="blocks.5.0.bn1", size_px=512)
        assert (a.cells, b.cells) == ((16, 32), (32, 16))
        cell = a.cell_at(70, 430)
        assert cell == (4, 26)
        found = similarity.compare(lite0, wide, tall, layer="blocks.5.0.bn1", cell=cell, size_px=512)
        assert found.values.shape == (32, 16)
        row, col = np.unravel_index(found.values.argmax(), found.values.shape)
        assert (row, col) == pytest.approx(b.cell_at(430, 70), abs=1)
        np.testing.assert_array_equal(found.values, similarity.similarity(a, b, cell=cell))

    @pytest.mark.parametrize("brush", ["mean", "max"])
    def test_a_brush_of_several_cells(self, brush: str, zoo: Load, noise_image: Noise) -> None:
        model, a, b = zoo("torchvision/resnet18"), noise_image(64, 96, seed=1), noise_image(64, 64, seed=2)
        cells = [(0, 0), (1, 2), (1, 1)]
        each = [similarity.compare(model, a, b, cell=cell, size_px=96).values for cell in cells]
        found = similarity.compare(model, a, b, cell=cells, brush=brush, size_px=96)
        np.testing.assert_allclose(found.values, getattr(np, brush)(each, axis=0), atol=1e-6)

    def test_joined_layers_average_their_cosines(self, zoo: Load, noise_image: Noise) -> None:
        """Where no grid is changed, the cosine of joined vectors is the weighted mean."""
        model, a, b = zoo("torchvision/resnet18"), noise_image(64, 96, seed=1), noise_image(64, 64, seed=2)
        layers = ["layer3.0", "layer3"]
        one, other = (similarity.compare(model, a, b, layer=name, cell=(1, 2), size_px=96).values for name in layers)
        found = similarity.compare(model, a, b, layer=layers, weights=[1, 3], cell=(1, 2), size_px=96)
        np.testing.assert_allclose(found.values, (one + 3 * other) / 4, atol=1e-5)
        assert found.layer == "layer3.0 + layer3"

    def test_centred_cosines_are_those_of_what_differs(self, lite0: LoadedModel) -> None:
        a, b = photos.open_photo("chelsea"), photos.open_photo("coffee")
        plain = similarity.compare(lite0, a, b, cell=(4, 4))
        found = similarity.compare(lite0, a, b, cell=(4, 4), centre=True)
        first, second = (by_hand(lite0, image, "bn2", features.working_px(lite0, image)) for image in (a, b))
        mean = (first.mean((0, 1)) + second.mean((0, 1))) / 2
        vector, others = first[4, 4] - mean, second - mean
        expected = others @ vector / np.linalg.norm(others, axis=2) / np.linalg.norm(vector)
        np.testing.assert_allclose(found.values, expected, atol=2e-5)
        assert found.values.min() < 0 <= plain.values.min()

    def test_a_run_can_be_repeated(self, lite0: LoadedModel, noise_image: Noise) -> None:
        a, b = noise_image(60, 120, seed=1), noise_image(90, 60, seed=2)
        for settings in ({"cell": (1, 2)}, {"cell": [(0, 1), (1, 0)], "layer": ["bn2", "blocks.4"], "weights": [1, 2]}):
            found = similarity.compare(lite0, a, b, size_px=128, **settings)
            again = similarity.compare(lite0, a, b, **found.run.settings)
            np.testing.assert_array_equal(found.values, again.values)
            assert found.run.settings == again.run.settings
        assert found.run.method == "similarity.compare"
        assert found.run.image_digest == a.digest

    @pytest.mark.parametrize(
        "name", ["plain", "residual", "functional", "reused_relu", "gelu", "depth_wise", "binary", "headless"]
    )
    def test_small_networks_and_small_pictures(self, name: str, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model(name), noise_image(32, 32)
        found = similarity.compare(model, image, image, cell=(3, 5), centre=True)
        assert features.default_size_px(model) == 37  # 512 / 224 of 16 px, rounded to strides after
        assert found.values[3, 5] == pytest.approx(1, abs=1e-6)
        assert found.values.min() < 0.9

    def test_a_grey_network(self, small_model: Load, noise_image: Noise) -> None:
        image = noise_image(20, 40)
        grey = images.from_pixels(np.asarray(image.pil().convert("L")), name="grey")
        model = small_model("one_channel")
        found, same = (similarity.compare(model, one, image, cell=(2, 3)) for one in (image, grey))
        assert found.values.shape[1] == 2 * found.values.shape[0]
        np.testing.assert_allclose(found.values, same.values, atol=1e-6)

    @pytest.mark.parametrize(("height", "width", "cells"), [(40, 400, (2, 16)), (400, 40, (16, 2))])
    def test_ten_to_one(self, height: int, width: int, cells: tuple[int, int], zoo: Load, noise_image: Noise) -> None:
        image = noise_image(height, width)
        found = similarity.compare(zoo("torchvision/resnet18"), image, image, cell=(1, 1), size_px=512)
        assert found.values.shape == cells
        assert found.values.argmax() == np.ravel_multi_index((1, 1), cells)

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"cell": (8, 0)}, BadSetting, "no cell .8, 0.: the grid has rows 0 to 7"),
            ({"cell": (0, -1)}, BadSetting, "no cell"),
            ({"cell": (0.5, 0)}, BadSetting, "whole numbers"),
            ({"cell": []}, BadSetting, "row, col"),
            ({"cell": (1, 2, 3)}, BadSetting, "row, col"),
            ({"brush": "median"}, BadSetting, "mean or max"),
            ({"layer": "conv9"}, UnknownLayer, "conv"),
            ({"layer": "fc"}, NotApplicable, "no places.*relu2"),
            ({"layer": []}, BadSetting, "No layer"),
            ({"size_px": 8}, BadSetting, "16 to 2048"),
            ({"weights": [1, 2]}, BadSetting, "one number"),
            ({"weights": [0]}, BadSetting, "not all 0"),
            ({"weights": [-1]}, BadSetting, "from 0 up"),
            ({"layer": "conv1", "dilate_last": True}, NotApplicable, "lies before it"),
        ],
    )
    def test_refusals(
        self,
        settings: dict[str, object],
        error: type[Exception],
        words: str,
        tiny_model: LoadedModel,
        noise_image: Noise,
    ) -> None:
        image = noise_image(16, 16)
        with pytest.raises(error, match=words):
            similarity.compare(tiny_model, image, image, **{"cell": (0, 0), "size_px": 16, **settings})

    def test_a_network_without_maps(self, noise_image: Noise) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
        model = models.from_module(net, input_px=4, mean=[0.5] * 3, std=[0.5] * 3, name="flat", device="cpu")
        with pytest.raises(NotApplicable, match="no layer puts out a map"):
            similarity.compare(model, noise_image(4, 4), noise_image(4, 4), cell=(0, 0))


class TestMatches:
    def test_by_hand(self) -> None:
        a = made_up((1, 0, 0), (0.6, 0.8, 0), (0, 0, 1), (0, 1, 0.1), (1, 1, 1), (0, 0, -1), cells=(2, 3))
        b = made_up((1, 0.1, 0), (0, 0, 1), (0.5, 1, 0), (0, 1, 0), cells=(2, 2))
        found = similarity.best_matches(a, b, cell=(0, 1), k=3)
        assert found.cells.tolist() == [[1, 0], [1, 1], [0, 0]]
        np.testing.assert_allclose(found.similarities, [1.1 / np.sqrt(1.25), 0.8, 0.68 / np.sqrt(1.01)], rtol=1e-5)
        assert found.is_mutual.tolist() == [True, False, False]
        assert len(similarity.best_matches(a, b, cell=(0, 1), k=99).cells) == 4

    def test_against_all_pairs(self) -> None:
        a, b = random_cells(3, 5, seed=1), random_cells(4, 2, seed=2)
        cosines = a.vectors @ b.vectors.T
        forth, back = cosines.argmax(1), cosines.argmax(0)
        mutual = [(i, j) for i, j in enumerate(forth) if back[j] == i]
        assert 0 < len(mutual) < 15
        found = similarity.correspondences(a, b)
        pairs = [(5 * ra + ca, 2 * rb + cb) for (ra, ca), (rb, cb) in zip(found.cells_a, found.cells_b, strict=True)]
        assert sorted(pairs) == mutual
        assert np.all(np.diff(found.similarities) <= 0)
        np.testing.assert_allclose(found.similarities, [cosines[pair] for pair in pairs], atol=1e-6)
        everything = similarity.correspondences(a, b, mutual=False)
        assert len(everything.similarities) == 15
        np.testing.assert_allclose(everything.similarities, np.sort(cosines.max(1))[::-1], atol=1e-6)
        np.testing.assert_array_equal(similarity.correspondences(a, b, k=2).cells_a, found.cells_a[:2])
        for index in range(15):
            best = similarity.best_matches(a, b, cell=divmod(index, 5), k=1)
            assert tuple(best.cells[0]) == divmod(forth[index], 2)
            assert best.is_mutual[0] == ((index, forth[index]) in mutual)

    @pytest.mark.parametrize("layer", ["bn2", "blocks.5.0.bn1"])
    def test_identical_pictures_match_on_the_diagonal(self, layer: str, lite0: LoadedModel) -> None:
        (found,) = features.compute(lite0, [photos.open_photo("chelsea")], layers=layer, size_px=320)
        pairs = similarity.correspondences(found, found)
        assert len(pairs.similarities) == np.prod(found.cells)
        np.testing.assert_array_equal(pairs.cells_a, pairs.cells_b)
        np.testing.assert_allclose(pairs.similarities, 1, atol=1e-5)

    def test_a_flat_picture_matches_on_the_diagonal_too(self) -> None:
        """All cells are alike; the nearest place wins."""
        flat = made_up(*[(1, 2, 3)] * 12, cells=(3, 4))
        pairs = similarity.correspondences(flat, flat)
        np.testing.assert_array_equal(pairs.cells_a, pairs.cells_b)
        assert len(pairs.cells_a) == 12
        best = similarity.best_matches(flat, flat, cell=(2, 1), k=1)
        assert best.cells.tolist() == [[2, 1]]
        assert best.is_mutual.all()

    def test_the_two_eyes_see_the_same(self, lite0: LoadedModel) -> None:
        """Mutual matches of the stereo pair lie in the same row, and not farther right in the right photo."""
        pair = [photos.open_photo("motorcycle_left"), photos.open_photo("motorcycle_right")]
        a, b = features.compute(lite0, pair, layers="blocks.5.0.bn1")
        found = similarity.correspondences(a, b)
        same_row = np.abs(found.cells_a[:, 0] - found.cells_b[:, 0]) <= 1
        moved = found.cells_a[:, 1] - found.cells_b[:, 1]
        assert len(moved) > 200
        assert same_row.mean() > 0.9
        assert ((moved >= 0) & (moved <= 4))[same_row].mean() > 0.9

    @pytest.mark.parametrize("k", [0, -3])
    def test_refusals(self, k: int) -> None:
        cells = random_cells(2, 2)
        with pytest.raises(BadSetting, match="1 or more"):
            similarity.best_matches(cells, cells, cell=(0, 0), k=k)
        with pytest.raises(BadSetting, match="1 or more"):
            similarity.correspondences(cells, cells, k=k)


class TestPack:
    @pytest.mark.parametrize(
        ("layers", "size_px"), [("bn2", 512), ("blocks.5.0.bn1", 512), ("blocks.2", 256), (("blocks.4", "bn2"), 320)]
    )
    def test_dot_products_agree_within_the_stated_error(
        self, layers: str | tuple[str, ...], size_px: int, lite0: LoadedModel
    ) -> None:
        pair = [photos.open_photo("motorcycle_left"), photos.open_photo("chelsea")]
        pictures = features.compute(lite0, pair, layers=layers, size_px=size_px)
        one, other = similarity.pack(pictures)
        assert one.values.dtype == np.int8
        assert 0 < one.error == other.error <= 0.01
        assert one.num_pairs == (len(one.values) + len(other.values)) ** 2
        worst = 0.0
        for row, col in ((0, 0), (3, 7), (one.cells[0] - 1, 2)):
            index = row * one.cells[1] + col
            sums = (one.values[index].astype(int) * other.values.astype(int)).sum(axis=1)
            found = (sums * one.scales[index] * other.scales).reshape(other.cells)
            exact = similarity.similarity(*pictures, cell=(row, col))
            worst = max(worst, float(np.abs(found - exact).max()))
        assert 0 < worst <= one.error + 1e-6

    def test_where_8_bits_miss_16_are_taken(self) -> None:
        """One large entry leaves steps of 1/127 for many small ones, which add up."""
        generator = np.random.default_rng(0)
        small = np.abs(generator.normal(0.0039, 0.0001, size=(50, 4000)))
        cells = made_up(*np.column_stack([np.ones(50), small]), cells=(5, 10))
        (packed,) = similarity.pack([cells])
        assert packed.values.dtype == np.int16
        assert packed.error < 1e-3
        (coarse,) = similarity.pack([cells], max_error=1)
        assert coarse.values.dtype == np.int8
        assert coarse.error > 0.01

    def test_silent_cells_and_large_grids(self) -> None:
        cells = random_cells(80, 70, num=5)
        values = cells.values.copy()
        values[:, 3, 4] = 0
        (packed,) = similarity.pack([replace(cells, values=values)])
        assert not packed.values[3 * 70 + 4].any()
        assert np.isfinite(packed.scales).all()
        assert packed.num_pairs == 2**24 // 5600 * 5600

    def test_nothing_to_pack(self) -> None:
        with pytest.raises(BadSetting, match="no picture"):
            similarity.pack([])


class TestSelfSimilarityScore:
    def test_by_hand(self) -> None:
        cells = made_up((1, 0), (0.8, 0.6), (0, 1), (0.6, 0.8), cells=(2, 2))
        within, across, auc = similarity._contrast(cells, np.array([[1, 1], [0, 0.4]], dtype=np.float32))
        assert within == pytest.approx(0.8)
        pairs = [0, 0.6, 0.6, 0.96]
        assert across == pytest.approx(np.mean(pairs))
        assert auc == pytest.approx(0.75)  # 0.8 against each of the four

    def test_trained_layers_tell_the_motorcycle_from_the_garage(self, lite0: LoadedModel) -> None:
        (image, mask), _ = stereo.motorcycle_pair()
        layers = ["blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1", "bn2"]
        found = similarity.self_similarity_score(lite0, image, mask, layers=layers, size_px=320)
        untrained = models.load(models.DEFAULT_MODEL, weights="random:0", device="cpu")
        random = similarity.self_similarity_score(untrained, image, mask, layers=layers, size_px=320)
        assert found.layers == tuple(layers)
        assert found.cells == ((56, 80), (28, 40), (14, 20), (7, 10))
        np.testing.assert_allclose(found.contrasts, found.within - found.across)
        assert np.all(np.diff(found.contrasts) > 0), "the deeper, the clearer"
        assert found.contrasts[-1] > 0.2 > random.contrasts[-1]
        assert found.aucs[-1] > 0.75
        again = similarity.self_similarity_score(lite0, image, mask, **found.run.settings)
        np.testing.assert_array_equal(again.aucs, found.aucs)

    def test_a_layer_too_coarse_says_nothing(self, zoo: Load, noise_image: Noise) -> None:
        mask = np.zeros((64, 64), dtype=bool)
        mask[:9, :9] = True
        found = similarity.self_similarity_score(
            zoo("torchvision/resnet18"), noise_image(64, 64), mask, layers=["layer1", "layer4"], size_px=64
        )
        assert np.isfinite(found.contrasts).tolist() == [True, False]

    def test_default_layers_and_bad_masks(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        image, mask = noise_image(16, 16), np.zeros((16, 16), dtype=bool)
        with pytest.raises(BadSetting, match="empty"):
            similarity.self_similarity_score(tiny_model, image, mask)
        mask[3:9, 2:12] = True
        found = similarity.self_similarity_score(tiny_model, image, mask.astype(np.uint8) * 200)
        assert found.layers == features.stage_layers(tiny_model)
        assert "grey" in found.notices[0]


def test_few_shot_is_where_the_contract_says() -> None:
    assert similarity.few_shot is mask_transfer.few_shot
