"""Scales, levels and colour maps, against torchvision's make_grid and numbers by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnnviz_core import render, torchvision_shim
from cnnviz_core.errors import BadSetting
from cnnviz_core.render import MISSING, Scale

torchvision_shim.install()

import torchvision.utils


def maps(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lightness(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L* of sRGB colours."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


@pytest.mark.parametrize(("mode", "scale_each"), [("channel", True), ("layer", False)])
@pytest.mark.parametrize("offset", [0, 1000])
def test_min_max_equals_make_grid(mode: str, scale_each: bool, offset: float) -> None:
    values = maps(6, 5, 7) * np.arange(1, 7, dtype=np.float32)[:, None, None] + np.float32(offset)
    grid = torchvision.utils.make_grid(
        torch.from_numpy(values)[:, None], nrow=3, padding=0, normalize=True, scale_each=scale_each
    )[0].numpy()
    scale = render.scale_of(values, mode=mode, signed=False)
    levels = render.to_indices(values, scale=scale)
    laid_out = levels.reshape(2, 3, 5, 7).swapaxes(1, 2).reshape(10, 21)
    np.testing.assert_array_less(np.abs(laid_out / 254 - grid), 0.5 / 254 + 1e-6)


def test_limits_by_hand() -> None:
    values = np.array([[[1, 2], [3, 5]], [[-4, 0], [0, 2]]], np.float32)
    assert render.scale_of(values) == Scale((-5.0,), (5.0,), signed=True)
    assert render.scale_of(values, signed=False) == Scale((-4.0,), (5.0,), signed=False)
    assert render.scale_of(values, mode="channel", signed=False) == Scale((1.0, -4.0), (5.0, 2.0), signed=False)
    assert render.scale_of(values, mode="channel") == Scale((-5.0, -4.0), (5.0, 4.0), signed=True)
    assert render.scale_of(values[0]) == Scale((1.0,), (5.0,), signed=False)


def test_pinned_limits() -> None:
    values = np.array([[[1, 2], [3, 5]], [[-4, 0], [0, 2]]], np.float32)
    assert render.scale_of(values, mode="channel", low=0) == Scale((0.0, 0.0), (5.0, 2.0), signed=False)
    assert render.scale_of(values, high=10) == Scale((-10.0,), (10.0,), signed=True)
    assert render.scale_of(values, signed=False, high=10) == Scale((-4.0,), (10.0,), signed=False)
    assert render.scale_of(values, mode="fixed", low=-1, high=1) == Scale((-1.0,), (1.0,), signed=True)
    assert render.scale_of(values, mode="fixed", low=0, high=1) == Scale((0.0,), (1.0,), signed=False)
    assert render.scale_of(values, low=0, high=3) == Scale((0.0,), (3.0,), signed=False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "fixed"},
        {"mode": "fixed", "low": 1},
        {"mode": "fixed", "low": 1, "high": 1},
        {"mode": "fixed", "low": 0, "high": float("nan")},
        {"low": 3, "high": 2},
        {"clip_percent": 50},
        {"clip_percent": -1},
    ],
)
def test_senseless_limits_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadSetting):
        render.scale_of(maps(2, 3, 3), **arguments)


def test_percentiles_by_hand() -> None:
    ramp = np.arange(101, dtype=np.float32).reshape(1, 101)
    assert render.scale_of(ramp, clip_percent=1) == Scale((1.0,), (99.0,), signed=False)
    assert render.scale_of(ramp, clip_percent=1, low=0) == Scale((0.0,), (99.0,), signed=False)
    # Absolute values of -100..0 are the same ramp: the 90th percentile is 90.
    assert render.scale_of(-ramp, clip_percent=10) == Scale((-90.0,), (90.0,), signed=True)
    both = np.stack([ramp, 2 * ramp])
    assert render.scale_of(both, mode="channel", clip_percent=5) == Scale((5.0, 10.0), (95.0, 190.0), signed=False)


def test_percentiles_of_a_sparse_map_fall_back_to_its_extremes() -> None:
    sparse = np.zeros((1, 20, 20), np.float32)
    sparse[0, 3, 3] = 7
    assert render.scale_of(sparse, clip_percent=1) == Scale((0.0,), (7.0,), signed=False)
    assert render.scale_of(-sparse, clip_percent=1) == Scale((-7.0,), (7.0,), signed=True)


@pytest.mark.parametrize("constant", [0, 5, -5, 1e-38, 3e38, 1e8])
@pytest.mark.parametrize("signed", [None, False])
@pytest.mark.parametrize("clip_percent", [0, 1])
def test_a_flat_map_gets_one_colour(constant: float, signed: bool | None, clip_percent: float) -> None:
    values = np.full((2, 4, 4), constant, np.float32)
    for mode in ("channel", "layer"):
        scale = render.scale_of(values, mode=mode, signed=signed, clip_percent=clip_percent)
        assert all(np.isfinite(scale.low + scale.high))
        assert all(low < high for low, high in zip(scale.low, scale.high, strict=True))
        expected = 0  # -5 signed: the lower limit, too
        assert np.unique(render.to_indices(values, scale=scale)).tolist() == [expected]


def test_rounding_noise_is_flat() -> None:
    values = np.full((1, 6, 6), 5, np.float32)
    values[0, ::2] = np.nextafter(np.float32(5), np.float32(6))
    assert np.unique(render.to_indices(values, scale=render.scale_of(values))).tolist() == [0]


def test_pinned_limits_beyond_the_values_stay_in_order() -> None:
    below_zero = np.full((2, 2), -5, np.float32)
    assert render.scale_of(below_zero, low=0).low == (0.0,)
    assert np.unique(render.to_indices(below_zero, scale=render.scale_of(below_zero, low=0))).tolist() == [0]
    above = np.full((2, 2), 5, np.float32)
    scale = render.scale_of(above, high=1)
    assert scale.high == (1.0,)
    assert np.unique(render.to_indices(above, scale=scale)).tolist() == [254]


def test_levels_by_hand() -> None:
    values = np.array([[-9, -1, -0.5, 0, 0.5, 1, 9]], np.float32)
    assert render.to_indices(values, scale=Scale.fixed(-1, 1)).tolist() == [[0, 0, 64, 127, 191, 254, 254]]


@pytest.mark.parametrize("reach", [1e-20, 0.3, 7.77, 1e20])
def test_zero_of_a_signed_scale_is_the_lightest_colour(reach: float) -> None:
    level = render.to_indices(np.zeros((1, 1), np.float32), scale=Scale.fixed(-reach, reach))[0, 0]
    assert level == 127
    for colour_map in render.COLOUR_MAPS.values():
        if colour_map.signed:
            assert lightness(colour_map.lut[:MISSING]).argmax() == level


def test_missing_values_do_not_count_and_have_their_own_colour() -> None:
    values = np.array([[[np.nan, 2], [np.inf, 6]], [[-np.inf, -1], [0, 1]], [[np.nan] * 2] * 2], np.float32)
    scale = render.scale_of(values, mode="channel", signed=False)
    assert scale.low == (2.0, -1.0, 0.0)
    assert scale.high == (6.0, 1.0, 1.0)
    levels = render.to_indices(values, scale=scale)
    assert levels[0].tolist() == [[MISSING, 0], [MISSING, 254]]
    assert levels[1].tolist() == [[MISSING, 0], [127, 254]]
    assert (levels[2] == MISSING).all()
    clipped = render.scale_of(values, mode="channel", signed=False, clip_percent=25)
    assert clipped.low == (3.0, -0.5, 0.0)
    assert clipped.high == (5.0, 0.5, 1.0)
    assert render.scale_of(values) == Scale((-6.0,), (6.0,), signed=True)


def test_colourise_takes_the_row_of_the_table() -> None:
    values = np.array([[0, 0.5], [1, np.nan]], np.float32)
    lut = render.COLOUR_MAPS["viridis"].lut
    pixels = render.colourise(values, scale=Scale.fixed(0, 1), colour_map="viridis")
    np.testing.assert_array_equal(pixels, lut[[[0, 127], [254, 255]]])
    by_default = render.colourise(values, scale=Scale.fixed(-1, 1))
    np.testing.assert_array_equal(
        by_default, render.COLOUR_MAPS[render.DEFAULT_DIVERGING].lut[[[127, 191], [254, 255]]]
    )


def test_one_channel_of_a_scale() -> None:
    scale = render.scale_of(maps(3, 4, 4), mode="channel")
    assert scale.of_channel(2) == Scale((scale.low[2],), (scale.high[2],), signed=True)
    assert Scale.fixed(0, 1).of_channel(2) == Scale.fixed(0, 1)


@pytest.mark.parametrize("name", render.COLOUR_MAPS)
def test_colour_maps_are_perceptual(name: str) -> None:
    colour_map = render.COLOUR_MAPS[name]
    assert colour_map.lut.shape == (256, 3)
    assert colour_map.lut.dtype == np.uint8
    assert not colour_map.lut.flags.writeable
    rise = np.diff(lightness(colour_map.lut[:MISSING]))
    if colour_map.signed:
        assert (rise[:127] > -0.4).all()
        assert (rise[127:] < 0.4).all()
        assert np.ptp(colour_map.lut[127].astype(int)) == 0
    else:
        assert (rise > -0.4).all()
        assert rise.sum() > 70
    assert np.abs(rise).max() < 2.5
    distance = np.abs(colour_map.lut[:MISSING].astype(int) - colour_map.lut[MISSING]).max(axis=1)
    assert distance.min() > 30


def test_plotly_stops_are_met() -> None:
    lut = render.COLOUR_MAPS["viridis"].lut
    assert lut[0].tolist() == [0x44, 0x01, 0x54]
    assert lut[254].tolist() == [0xFD, 0xE7, 0x25]
    assert render.COLOUR_MAPS["blue_red"].lut[127].tolist() == [247, 247, 247]
    assert render.COLOUR_MAPS["blue_red"].lut[0].tolist() == [5, 48, 97]
    assert render.COLOUR_MAPS["grey"].lut[[0, 127, 254], 0].tolist() == [0, 128, 255]


def test_unknown_colour_map_names_the_near_ones() -> None:
    with pytest.raises(BadSetting, match="viridis"):
        render.find_colour_map("virids")


def test_components_become_red_green_blue() -> None:
    ramp = np.arange(101, dtype=np.float32).reshape(1, 101)
    pixels = render.rgb_from_components(np.stack([ramp, -3 * ramp, np.zeros_like(ramp)]))
    assert pixels.shape == (1, 101, 3)
    assert pixels[0, [0, 1, 50, 99, 100], 0].tolist() == [0, 0, 128, 255, 255]
    assert pixels[0, [0, 1, 50, 99, 100], 1].tolist() == [255, 255, 128, 0, 0]
    assert (pixels[..., 2] == 0).all()


def test_a_missing_component_is_grey() -> None:
    components = maps(3, 2, 2)
    components[1, 0, 0] = np.nan
    assert render.rgb_from_components(components)[0, 0].tolist() == [128, 128, 128]


def test_a_difference_is_amplified_by_a_whole_factor_around_grey() -> None:
    difference = np.array([[[0, 2, -2]], [[1, 0, 0]]], np.int16)
    pixels, factor = render.amplified(difference)
    assert factor == 63
    assert pixels.tolist() == [[[128, 254, 2]], [[191, 128, 128]]]
    grey, factor = render.amplified(np.array([[[-200]]], np.int16))
    assert (grey.tolist(), factor) == ([[[0, 0, 0]]], 1)
    nothing, _ = render.amplified(np.zeros((1, 1, 1), np.int16))
    assert nothing.tolist() == [[[128, 128, 128]]]
