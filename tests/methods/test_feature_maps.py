"""Feature maps against ordinary hooks on a network of one's own, and what is made of them against sums by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import models, photos
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import feature_maps
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FeatureMaps, FloatArray, Run

Load = Callable[[str], LoadedModel]


@pytest.fixture(scope="session")
def photo() -> InputImage:
    return photos.open_photo("chelsea")


def hooked(net: nn.Module, x: Tensor, layer: str) -> list[FloatArray]:
    """What a layer put out, one array per call, by a plain hook that copies at once."""
    net, calls = copy.deepcopy(net), []
    net.get_submodule(layer).register_forward_hook(lambda _m, _args, out: calls.append(out.detach().clone().numpy()))
    with torch.no_grad():
        net(x)
    return calls


def of(values: object) -> FeatureMaps:
    """Maps of set values."""
    return FeatureMaps(np.array(values, dtype=np.float32), "x", Run("", "", "", "", {}, 0))


@pytest.mark.parametrize("layer", ["conv_stem", "bn1", "blocks.0.0.conv_dw", "blocks.3.1", "blocks", "bn2"])
def test_values_are_what_the_default_network_s_layer_put_out(layer: str, lite0: LoadedModel, photo: InputImage) -> None:
    maps = feature_maps.compute(lite0, photo, layer=layer)
    (expected,) = hooked(lite0.net, lite0.to_input(photo), layer)
    np.testing.assert_array_equal(maps.values, expected[0])
    assert maps.layer == layer


@pytest.mark.parametrize(
    ("model_id", "layer"),
    [
        ("torchvision/densenet121", "features.norm5"),
        ("torchvision/densenet121", "features"),
        ("torchvision/googlenet", "conv1.bn"),
        ("torchvision/googlenet", "inception4a"),
        ("torchvision/resnet18", "layer1.0.bn2"),
        ("torchvision/resnet18", "layer3.0.downsample"),
        ("torchvision/squeezenet1_1", "features.3.expand3x3"),
    ],
)
def test_values_are_kept_before_later_code_overwrites_them(
    model_id: str, layer: str, zoo: Load, photo: InputImage
) -> None:
    model = zoo(model_id)
    maps = feature_maps.compute(model, photo, layer=layer)
    (expected,) = hooked(model.net, model.to_input(photo), layer)
    np.testing.assert_array_equal(maps.values, expected[0])
    if "norm" in layer or "bn" in layer:
        assert maps.values.min() < 0  # the in-place ReLU or sum behind it has not acted


def test_channels_in_the_last_dimension_come_first(zoo: Load, photo: InputImage) -> None:
    model = zoo("timm/convnext_tiny")
    for layer in ("stages.1.blocks.0.mlp", "stages.1.blocks.0.mlp.fc1", "stages.1.blocks.0"):
        values = feature_maps.compute(model, photo, layer=layer).values
        (raw,) = hooked(model.net, model.to_input(photo), layer)
        expected = raw[0].transpose(2, 0, 1) if "mlp" in layer else raw[0]
        np.testing.assert_array_equal(values, expected)
        assert values.flags.c_contiguous
        assert values.shape == model.layers[layer].shape


def test_many_layers_from_one_forward_equal_one_by_one(lite0: LoadedModel, photo: InputImage) -> None:
    layers = ("blocks.5", "conv_stem", "blocks.2.0.bn3", "conv_stem")
    many = feature_maps.compute_many(lite0, photo, layers=layers)
    assert list(many) == ["blocks.5", "conv_stem", "blocks.2.0.bn3"]
    for layer, maps in many.items():
        single = feature_maps.compute(lite0, photo, layer=layer)
        np.testing.assert_array_equal(maps.values, single.values)
        assert maps.run.settings == single.run.settings
        assert maps.run.method == single.run.method == "feature_maps.compute"


def test_a_layer_used_several_times_has_a_map_for_each(small_model: Load, photo: InputImage) -> None:
    model = small_model("reused_relu")
    expected = hooked(model.net, model.to_input(photo), "relu")
    assert len(expected) == 3
    for call in (0, 1, 2, -1, -3):
        maps = feature_maps.compute(model, photo, layer="relu", call=call)
        np.testing.assert_array_equal(maps.values, expected[call][0])
        assert maps.run.settings == {"layer": "relu", "call": call}
    means = feature_maps.channel_means(model, [photo], layer="relu", call=0)
    np.testing.assert_allclose(means[0], expected[0][0].mean(axis=(1, 2)), rtol=1e-5)
    for call in (3, -4):
        with pytest.raises(BadSetting, match=f"relu is called 3 times; there is no call {call}"):
            feature_maps.compute(model, photo, layer="relu", call=call)


def test_a_layer_used_at_two_sizes(photo: InputImage) -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.max_pool2d(self.conv(x), 2)).mean((2, 3))

    half = (0.5, 0.5, 0.5)
    model = models.from_module(Pyramid(), input_px=16, mean=half, std=half, name="pyramid", device="cpu")
    shapes = [feature_maps.compute(model, photo, layer="conv", call=call).values.shape for call in (0, 1)]
    assert shapes == [(3, 16, 16), (3, 8, 8)]


def test_the_default_layer_lies_in_the_middle(lite0: LoadedModel, photo: InputImage) -> None:
    assert feature_maps.default_layer(lite0) == lite0.layers.landmarks[1]
    assert feature_maps.compute(lite0, photo).layer == lite0.layers.landmarks[1]


def test_a_grey_and_a_headless_network(small_model: Load, photo: InputImage) -> None:
    for name in ("one_channel", "headless"):
        model = small_model(name)
        maps = feature_maps.compute(model, photo, layer="conv2")
        np.testing.assert_array_equal(maps.values, hooked(model.net, model.to_input(photo), "conv2")[0][0])


def test_a_vector_is_no_map(lite0: LoadedModel, photo: InputImage) -> None:
    with pytest.raises(NotApplicable, match=r"classifier puts out a vector of 1000 values.*such as blocks"):
        feature_maps.compute(lite0, photo, layer="classifier")
    with pytest.raises(NotApplicable):
        feature_maps.channel_means(lite0, [photo], layer="classifier")


def test_an_unknown_layer_is_named(lite0: LoadedModel, photo: InputImage) -> None:
    with pytest.raises(UnknownLayer, match="blocks"):
        feature_maps.compute(lite0, photo, layer="block.3")


def test_a_network_without_maps_is_told(photo: InputImage) -> None:
    half = (0.5, 0.5, 0.5)
    flat = models.from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), input_px=16, mean=half, std=half, name="flat", device="cpu"
    )
    for ask in (lambda: feature_maps.compute(flat, photo), lambda: feature_maps.compute(flat, photo, layer="1")):
        with pytest.raises(NotApplicable, match="flat has no layer whose output is a map"):
            ask()


def test_results_are_frozen_float32_with_an_account(lite0: LoadedModel, photo: InputImage) -> None:
    maps = feature_maps.compute(lite0, photo, layer="conv_stem")
    assert maps.values.dtype == np.float32
    assert (maps.run.model_id, maps.run.image_digest) == (lite0.spec.model_id, photo.digest)
    assert maps.run.seconds > 0
    with pytest.raises(FrozenInstanceError):
        maps.layer = "other"  # type: ignore[misc]


class TestMeans:
    def test_of_several_pictures_are_those_of_each(self, lite0: LoadedModel) -> None:
        pictures = [photos.open_photo(name) for name in ("chelsea", "coffee", "rocket")]
        means = feature_maps.channel_means(lite0, pictures, layer="blocks.1")
        expected = [feature_maps.compute(lite0, image, layer="blocks.1").values.mean(axis=(1, 2)) for image in pictures]
        np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-4)
        assert means.dtype == np.float32

    def test_of_channels_in_the_last_dimension(self, zoo: Load, photo: InputImage) -> None:
        model, layer = zoo("timm/convnext_tiny"), "stages.3.blocks.0.mlp.fc1"
        means = feature_maps.channel_means(model, [photo], layer=layer)
        expected = feature_maps.compute(model, photo, layer=layer).values.mean(axis=(1, 2))
        np.testing.assert_allclose(means[0], expected, rtol=1e-4, atol=1e-5)

    def test_of_the_bundled_photos_have_a_row_for_each(self, tiny_model: LoadedModel) -> None:
        means = feature_maps.bundled_means(tiny_model, layer="conv1")
        assert means.shape == (len(photos.PHOTOS), 4)
        chelsea = feature_maps.compute(tiny_model, photos.open_photo("chelsea"), layer="conv1").values
        np.testing.assert_allclose(means[list(photos.PHOTOS).index("chelsea")], chelsea.mean(axis=(1, 2)), rtol=1e-5)


class TestFusions:
    VALUES = ([[1, -2], [0, 3]], [[4, 2], [0, -5]])

    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("mean", [[2.5, 0], [0, -1]]),
            ("max", [[4, 2], [0, 3]]),
            ("l2", [[17**0.5, 8**0.5], [0, 34**0.5]]),
        ],
    )
    def test_by_hand(self, method: str, expected: list[list[float]]) -> None:
        fused = feature_maps.fuse(of(self.VALUES), method=method)
        np.testing.assert_allclose(fused, expected, rtol=1e-6)
        assert fused.dtype == np.float32

    def test_every_one_gives_one_map(self) -> None:
        for method in feature_maps.FUSIONS:
            assert feature_maps.fuse(of(np.ones((5, 3, 4))), method=method).shape == (3, 4)

    def test_l2_of_large_values_stays_finite(self) -> None:
        assert np.isfinite(feature_maps.fuse(of(np.full((3, 2, 2), 1e30)), method="l2")).all()

    def test_another_name_is_refused(self) -> None:
        with pytest.raises(BadSetting, match="'median' is not a way to fuse channels; choose one of mean, max, l2"):
            feature_maps.fuse(of(self.VALUES), method="median")


class TestPrincipalComponents:
    def test_equal_sklearn_s_up_to_sign(self, lite0: LoadedModel, photo: InputImage) -> None:
        maps = feature_maps.compute(lite0, photo, layer="blocks.3")
        found = feature_maps.principal_components(maps)
        vectors = maps.values.reshape(len(maps.values), -1).T.astype(np.float64)
        expected = PCA(3, svd_solver="full").fit_transform(vectors).T.reshape(found.shape)
        for one, other in zip(found, expected, strict=True):
            sign = np.sign((one * other).sum())
            np.testing.assert_allclose(one, sign * other, rtol=1e-4, atol=1e-4)

    def test_the_larger_side_is_positive(self, lite0: LoadedModel, photo: InputImage) -> None:
        for layer in ("conv_stem", "blocks.2", "bn2"):
            for component in feature_maps.principal_components(feature_maps.compute(lite0, photo, layer=layer)):
                assert component.max() >= -component.min()

    def test_a_single_direction_leaves_the_others_at_zero(self) -> None:
        line = np.arange(12.0).reshape(3, 4)
        found = feature_maps.principal_components(of([line, 2 * line, -line]))
        np.testing.assert_allclose(np.abs(found[0]), np.abs(line - line.mean()) * 6**0.5, rtol=1e-5)
        np.testing.assert_allclose(found[1:], 0, atol=1e-5)

    def test_fewer_channels_or_cells_than_components(self) -> None:
        assert feature_maps.principal_components(of(np.eye(4)[None])).shape == (3, 4, 4)
        assert feature_maps.principal_components(of(np.eye(8)[:, None, :2]), num_components=5).shape == (5, 1, 2)

    def test_of_a_constant_layer_are_zero(self) -> None:
        assert not feature_maps.principal_components(of(np.ones((4, 3, 3)))).any()


class TestRanking:
    # One cell, even, varied, silent.
    VALUES = ([[4, 0], [0, 0]], [[2, 2], [2, 2]], [[-3, 5], [0, 0]], [[0, 0], [0, 0]])

    @pytest.mark.parametrize(
        ("by", "order", "scores"),
        [
            ("mean", [1, 0, 2, 3], [1, 2, 0.5, 0]),
            ("max", [2, 0, 1, 3], [4, 2, 5, 0]),
            ("variance", [2, 0, 1, 3], [3, 0, 8.25, 0]),
            ("sparsity", [0, 2, 1, 3], [1, 0, 2 - 8 / 34**0.5, 0]),
            ("index", [0, 1, 2, 3], [0, -1, -2, -3]),
        ],
    )
    def test_by_hand(self, by: str, order: list[int], scores: list[float]) -> None:
        found_order, found_scores = feature_maps.rank(of(self.VALUES), by=by)
        np.testing.assert_allclose(found_scores, scores, atol=1e-6)
        assert found_order.tolist() == order

    def test_specific_ones_answer_more_than_elsewhere_by_hand(self) -> None:
        reference = np.array([[0, 2, 0, 0], [2, 2, 4, 0], [1, 2, 2, 0]], dtype=np.float32)
        # means 1, 2, 2, 0; standard deviations with n - 1: 1, 0, 2, 0; their median 0.5, a tenth of it as the least
        order, scores = feature_maps.rank(of(self.VALUES), by="specificity", reference=reference)
        np.testing.assert_allclose(scores, [(1 - 1) / 1, (2 - 2) / 0.05, (0.5 - 2) / 2, 0 / 0.05], atol=1e-6)
        assert order.tolist() == [0, 1, 3, 2]

    def test_specific_ones_on_a_layer_that_never_varies_stay_finite(self) -> None:
        _, scores = feature_maps.rank(of(self.VALUES), by="specificity", reference=np.zeros((3, 4), np.float32))
        assert np.isfinite(scores).all()

    def test_what_is_specific_to_a_real_photo_answers_to_it(self, lite0: LoadedModel) -> None:
        """The channel that is most specific to the coffee answers to it more than to any other bundled photo."""
        maps = feature_maps.compute(lite0, photos.open_photo("coffee"), layer="bn2")
        others = [photos.open_photo(name) for name in photos.PHOTOS if name != "coffee"]
        reference = feature_maps.channel_means(lite0, others, layer="bn2")
        order, _ = feature_maps.rank(maps, by="specificity", reference=reference)
        assert maps.values[order[0]].mean() > reference[:, order[0]].max()

    def test_sparsity_lies_between_even_and_one_cell(self) -> None:
        random = np.random.default_rng(0).random((50, 7, 7))
        _, scores = feature_maps.rank(of(random), by="sparsity")
        assert ((scores > 0) & (scores < 1)).all()
        _, scores = feature_maps.rank(of(np.ones((2, 1, 1))), by="sparsity")  # a single cell is even and alone
        assert scores.tolist() == [0, 0]

    def test_every_ranking_is_a_permutation(self, lite0: LoadedModel, photo: InputImage) -> None:
        maps = feature_maps.compute(lite0, photo, layer="blocks.2")
        reference = feature_maps.bundled_means(lite0, layer="blocks.2")
        for by in feature_maps.RANKINGS:
            order, scores = feature_maps.rank(maps, by=by, reference=reference)
            assert sorted(order.tolist()) == list(range(len(maps.values)))
            assert (np.diff(scores[order]) <= 0).all()

    def test_another_name_is_refused(self) -> None:
        with pytest.raises(BadSetting, match="'beauty' is not a ranking; choose one of mean, max"):
            feature_maps.rank(of(self.VALUES), by="beauty")

    @pytest.mark.parametrize("reference", [None, np.zeros((1, 4), np.float32), np.zeros((3, 5), np.float32)])
    def test_a_comparison_needs_something_to_compare_with(self, reference: FloatArray | None) -> None:
        with pytest.raises(BadSetting, match="means of the 4 channels on at least two"):
            feature_maps.rank(of(self.VALUES), by="specificity", reference=reference)


def test_dead_channels_are_the_same_everywhere() -> None:
    values = np.zeros((4, 2, 2))
    values[1] = 3.5
    values[2, 0, 0] = 1e-9
    values[3] = [[1, 2], [3, 4]]
    assert feature_maps.dead_channels(of(values)).tolist() == [0, 1]


def test_dead_channels_of_the_default_network_come_from_its_dead_kernels(lite0: LoadedModel, photo: InputImage) -> None:
    """Kernels without weights answer with their bias; the activation behind makes the same value of it everywhere."""
    dead = feature_maps.dead_channels(feature_maps.compute(lite0, photo, layer="bn1"))
    assert {11, 16, 28, 31} <= set(dead.tolist())
