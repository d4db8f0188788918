"""Kernels against the modules' own weights, and what is found in them against weights made for the purpose."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from torch import nn

from cnnviz_core import models
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.methods import filters
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Kernels, Run

Load = Callable[[str], LoadedModel]


def of(values: object, *, reads_image: bool = False) -> Kernels:
    """Kernels of set values."""
    array = np.array(values, dtype=np.float32)
    std = np.ones(array.shape[1] if reads_image else 0, dtype=np.float32)
    return Kernels(array, "x", 1, std, Run("", "", "", "", {}, 0))


def from_module(net: nn.Module, *, channels: int = 3) -> LoadedModel:
    half = (0.5,) * channels
    return models.from_module(net, input_px=16, mean=half, std=half, name="test", device="cpu")


class TestCompute:
    @pytest.mark.parametrize("layer", ["conv_stem", "blocks.0.0.conv_dw", "blocks.3.1.conv_pw", "conv_head"])
    def test_values_are_the_module_s_weights(self, layer: str, lite0: LoadedModel) -> None:
        kernels = filters.compute(lite0, layer=layer)
        module = lite0.net.get_submodule(layer)
        assert isinstance(module, nn.Conv2d)
        np.testing.assert_array_equal(kernels.values, module.weight.numpy())
        assert kernels.values.dtype == np.float32
        assert (kernels.layer, kernels.groups) == (layer, module.groups)
        assert kernels.run.settings == {"layer": layer}

    @pytest.mark.parametrize(
        ("model_id", "layer"),
        [
            ("torchvision/resnet18", "conv1"),
            ("torchvision/vgg11", "features.0"),
            ("torchvision/densenet121", "features.conv0"),
            ("torchvision/googlenet", "conv1.conv"),
            ("timm/convnext_tiny", "stem.0"),
        ],
    )
    def test_the_default_is_the_first_convolution(self, model_id: str, layer: str, zoo: Load) -> None:
        kernels = filters.compute(zoo(model_id))
        assert kernels.layer == layer
        assert kernels.reads_image
        assert kernels.input_std == pytest.approx(zoo(model_id).preprocessing.std)

    def test_only_the_first_convolution_reads_the_image(self, lite0: LoadedModel) -> None:
        assert filters.compute(lite0, layer="conv_stem").reads_image
        deeper = filters.compute(lite0, layer="blocks.0.0.conv_dw")
        assert not deeper.reads_image
        assert deeper.input_std.shape == (0,)

    def test_a_depth_wise_kernel_reads_one_channel(self, lite0: LoadedModel, small_model: Load) -> None:
        kernels = filters.compute(lite0, layer="blocks.2.1.conv_dw")
        assert kernels.values.shape == (240, 1, 5, 5)
        assert kernels.groups == 240
        assert filters.compute(small_model("depth_wise"), layer="depthwise").values.shape == (6, 1, 3, 3)

    def test_a_1x1_kernel(self, lite0: LoadedModel) -> None:
        assert filters.compute(lite0, layer="blocks.1.0.conv_pw").values.shape == (96, 16, 1, 1)

    def test_a_grey_network(self, small_model: Load) -> None:
        kernels = filters.compute(small_model("one_channel"))
        assert kernels.values.shape == (4, 1, 3, 3)
        assert kernels.input_std.tolist() == [0.5]

    def test_pixels_rearranged_before_the_first_convolution(self) -> None:
        model = from_module(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)))
        assert filters.first_convolution(model) == ""
        assert not filters.compute(model).reads_image

    def test_results_do_not_change_with_the_network(self, small_net: Callable[[str], nn.Module]) -> None:
        model = from_module(small_net("plain"))
        kernels = filters.compute(model)
        with pytest.raises(FrozenInstanceError):
            kernels.groups = 2  # type: ignore[misc]

    @pytest.mark.parametrize("layer", ["bn1", "classifier", "blocks.1", "blocks"])
    def test_another_layer_has_no_kernels(self, layer: str, lite0: LoadedModel) -> None:
        with pytest.raises(NotApplicable, match=rf"Layer {layer} is a \w+ and has no kernels.*such as conv_stem"):
            filters.compute(lite0, layer=layer)

    def test_an_unknown_layer_is_named(self, lite0: LoadedModel) -> None:
        with pytest.raises(UnknownLayer, match="conv_stem"):
            filters.compute(lite0, layer="conv_stm")

    def test_a_network_without_convolutions(self) -> None:
        model = from_module(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
        assert filters.first_convolution(model) == ""
        for layer in (None, "1"):
            with pytest.raises(NotApplicable, match="has no convolution"):
                filters.compute(model, layer=layer)


class TestOrders:
    def test_each_is_a_permutation(self, lite0: LoadedModel) -> None:
        for layer in ("conv_stem", "blocks.0.0.conv_dw", "blocks.1.0.conv_pw"):
            kernels = filters.compute(lite0, layer=layer)
            for by, kind in filters.ORDERS.items():
                if kernels.reads_image or not kind.needs_colour:
                    assert sorted(filters.order(kernels, by=by).tolist()) == list(range(len(kernels.values)))

    def test_by_number_and_norm(self, lite0: LoadedModel) -> None:
        kernels = filters.compute(lite0)
        assert filters.order(kernels, by="index").tolist() == list(range(32))
        norms = [float(np.sqrt((kernel.astype(np.float64) ** 2).sum())) for kernel in kernels.values]
        np.testing.assert_allclose(filters.norms(kernels), norms, rtol=1e-5)
        assert (np.diff(np.array(norms)[filters.order(kernels, by="norm")]) <= 1e-6).all()

    def test_like_kernels_stand_together(self) -> None:
        generator = np.random.default_rng(0)
        kinds = generator.normal(size=(4, 2, 3, 3))
        which = generator.permutation(np.repeat(np.arange(4), 5))
        sizes = generator.uniform(0.5, 3, (20, 1, 1, 1))
        kernels = of(sizes * (kinds[which] + 0.05 * generator.normal(size=(20, 2, 3, 3))))
        in_order = which[filters.order(kernels, by="similarity")]
        assert (np.diff(in_order) != 0).sum() == 3  # four runs

    def test_neighbours_are_closer_than_by_number(self, lite0: LoadedModel) -> None:
        kernels = filters.compute(lite0, layer="blocks.1.0.conv_pw")
        far = distance.squareform(distance.pdist(kernels.values.reshape(96, -1), "cosine"))
        order = filters.order(kernels, by="similarity")
        assert far[order[:-1], order[1:]].mean() < 0.8 * far[np.arange(95), np.arange(1, 96)].mean()

    def test_one_and_two_kernels_and_one_of_zeros(self) -> None:
        assert filters.order(of(np.ones((1, 2, 3, 3))), by="similarity").tolist() == [0]
        assert filters.order(of(np.ones((2, 2, 3, 3))), by="similarity").tolist() == [0, 1]
        values = np.random.default_rng(0).normal(size=(4, 2, 3, 3))
        values[2] = 0
        assert sorted(filters.order(of(values), by="similarity").tolist()) == [0, 1, 2, 3]

    def test_hues_go_round_the_colour_circle_and_grey_comes_last(self) -> None:
        hues = np.random.default_rng(1).permutation(np.arange(12)) / 12
        coloured = np.zeros((15, 3, 3, 3))
        for kernel, hue in zip(coloured, hues, strict=False):
            kernel[:, 1, 1] = np.array(colorsys.hsv_to_rgb(hue, 1, 1)) - 0.5
        coloured[12] = 0.5
        coloured[13] = [[[1.0]], [[1.2]], [[0.9]]]  # a tint
        order = filters.order(of(coloured, reads_image=True), by="hue")
        assert order[-3:].tolist() == [13, 12, 14]  # the larger first, and one of zeros last
        np.testing.assert_allclose(hues[order[:-3]], np.arange(12) / 12)

    def test_only_kernels_on_colours_have_a_hue(self, lite0: LoadedModel, small_model: Load) -> None:
        for kernels in (
            filters.compute(lite0, layer="blocks.0.0.conv_dw"),
            filters.compute(small_model("one_channel")),
            of(np.ones((4, 3, 3, 3))),
        ):
            with pytest.raises(NotApplicable, match="red, green and blue"):
                filters.order(kernels, by="hue")

    def test_another_name_is_refused(self, lite0: LoadedModel) -> None:
        with pytest.raises(BadSetting, match="'age' is not an order of kernels; choose one of index, norm"):
            filters.order(filters.compute(lite0), by="age")


class TestDead:
    def test_of_the_default_network(self, lite0: LoadedModel) -> None:
        assert filters.dead_kernels(filters.compute(lite0)).tolist() == [11, 16, 28, 31]

    def test_are_small_against_the_layer(self) -> None:
        values = np.ones((10, 2, 3, 3))
        values[3] *= 1e-6
        values[7] = 0
        values[8] *= 0.05
        assert filters.dead_kernels(of(values)).tolist() == [3, 7]
        assert filters.dead_kernels(of(1e-8 * values)).tolist() == [
            3,
            7,
        ]  # a layer before a norm may be small as a whole
        assert filters.dead_kernels(of(values), threshold=0.1).tolist() == [3, 7, 8]

    def test_may_be_most_of_the_layer(self) -> None:
        values = np.random.default_rng(0).normal(size=(10, 2, 3, 3))
        values[:7] *= 1e-5
        assert filters.dead_kernels(of(values)).tolist() == list(range(7))

    def test_is_all_of_a_layer_of_zeros(self) -> None:
        assert filters.dead_kernels(of(np.zeros((3, 2, 1, 1)))).tolist() == [0, 1, 2]


class TestDuplicates:
    def test_are_found_whatever_their_size_and_sign(self) -> None:
        values = np.random.default_rng(0).normal(size=(9, 3, 3, 3))
        values[5] = 3 * values[1]
        values[7] = -0.5 * values[2]
        values[8] = values[0] + 0.1 * values[4]
        pairs = filters.duplicate_pairs(of(values))
        assert [(pair.first, pair.second) for pair in pairs] == [(1, 5), (2, 7), (0, 8)]
        flat = values.reshape(9, -1)
        expected = [1.0, -1.0, 1 - distance.cosine(flat[0], flat[8])]
        np.testing.assert_allclose([pair.cosine for pair in pairs], expected, rtol=1e-5)

    def test_need_more_than_the_threshold(self) -> None:
        values = np.array([[1, 0], [0.9, np.sqrt(1 - 0.81)]]).reshape(2, 2, 1, 1)
        assert len(filters.duplicate_pairs(of(values))) == 0
        assert len(filters.duplicate_pairs(of(values), threshold=0.89)) == 1

    def test_leave_dead_kernels_out_and_keep_the_numbers(self) -> None:
        values = np.random.default_rng(0).normal(size=(6, 3, 3, 3))
        values[0] = values[2] = 0
        values[1] = 1e-9
        values[5] = values[3]
        assert [pair[:2] for pair in filters.duplicate_pairs(of(values))] == [(3, 5)]

    def test_kernels_of_one_weight_have_none(self) -> None:
        assert list(filters.duplicate_pairs(of([[[[1]]], [[[2]]], [[[-1]]]]))) == []
        assert not filters.duplicate_pairs(of(np.zeros((3, 2, 3, 3))))

    def test_are_a_sequence(self, lite0: LoadedModel) -> None:
        pairs = filters.duplicate_pairs(filters.compute(lite0, layer="blocks.1.0.conv_dw"))
        listed = list(pairs)
        assert len(listed) == len(pairs) > 10
        assert pairs[:3] == listed[:3]
        assert pairs[-1] == listed[-1]
        assert isinstance(pairs[0].first, int)
        assert isinstance(pairs[0].cosine, float)
        assert all(pair.first < pair.second and abs(pair.cosine) > 0.95 for pair in listed)
        assert sorted(listed, key=lambda pair: -abs(pair.cosine)) == listed


class TestFrequencyResponse:
    def test_against_the_sum_of_waves(self) -> None:
        values = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
        size = 9
        response = filters.frequency_response(of(values), kernel=1, size=size)
        rows, cols = np.mgrid[:5, :4]
        for row in range(size):
            for col in range(size):
                wave = np.exp(-2j * np.pi * ((row - 4) / size * rows + (col - 4) / size * cols))
                expected = np.sqrt(sum(abs((channel * wave).sum()) ** 2 for channel in values[1]))
                assert response[row, col] == pytest.approx(expected, rel=1e-4)
        assert response.dtype == np.float32

    def test_a_grating_peaks_at_its_frequency(self) -> None:
        cells = np.arange(11)
        stripes = np.cos(2 * np.pi * 0.25 * cells)[None, :].repeat(11, axis=0)  # a cycle in four cells, across columns
        response = filters.frequency_response(of(stripes[None, None]), kernel=0, size=65)
        row, col = np.unravel_index(response.argmax(), response.shape)
        assert row == 32
        assert abs(abs(col - 32) / 65 - 0.25) < 0.02

    def test_an_average_answers_to_even_areas_only(self) -> None:
        response = filters.frequency_response(of(np.ones((1, 2, 7, 7))), kernel=0, size=7)
        expected = np.zeros((7, 7))
        expected[3, 3] = 49 * np.sqrt(2)
        np.testing.assert_allclose(response, expected, atol=1e-4)

    def test_one_cell_answers_to_all_alike(self) -> None:
        response = filters.frequency_response(of([[[[2.0]], [[1.0]]]]), kernel=0)
        assert response.shape == (65, 65)
        np.testing.assert_allclose(response, 5**0.5, rtol=1e-6)

    @pytest.mark.parametrize("kernel", [-1, 32, 1000])
    def test_another_kernel_is_refused(self, kernel: int, lite0: LoadedModel) -> None:
        with pytest.raises(BadSetting, match=f"conv_stem has kernels 0 to 31; there is no {kernel}"):
            filters.frequency_response(filters.compute(lite0), kernel=kernel)

    def test_too_few_frequencies_are_refused(self) -> None:
        with pytest.raises(BadSetting, match="need at least 7"):
            filters.frequency_response(of(np.ones((1, 1, 3, 7))), kernel=0, size=5)


def test_the_network_s_own_weights_stay_as_they_are(small_net: Callable[[str], nn.Module]) -> None:
    model = from_module(small_net("plain"))
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    kernels = filters.compute(model)
    for by in ("norm", "similarity", "hue"):
        filters.order(kernels, by=by)
    filters.dead_kernels(kernels)
    filters.duplicate_pairs(kernels)
    filters.frequency_response(kernels, kernel=0)
    kernels.values[:] = 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.net.state_dict().items())
