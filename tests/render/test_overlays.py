"""Maps over photos, against PyTorch's interpolation and numbers by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.errors import BadSetting

UNIT = render.Scale.fixed(0, 1)


def values_of(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("old", [(7, 7), (1, 1), (5, 9), (14, 3), (224, 224)])
@pytest.mark.parametrize("new", [(224, 224), (7, 7), (31, 64), (1, 50)])
def test_bilinear_equals_interpolate(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = values_of(*old)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(values).double()[None, None], size=new, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    resized = render.resize_map(values, new)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("new", [(224, 224), (7, 5), (31, 64), (3, 2)])
def test_cells_equal_interpolate_nearest_exact(new: tuple[int, int]) -> None:
    values = values_of(7, 5)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size=new, mode="nearest-exact")
    np.testing.assert_array_equal(render.resize_map(values, new, smooth=False), expected[0, 0].numpy())


def test_every_pixel_of_a_cell_shows_that_cell() -> None:
    values = values_of(7, 7)
    np.testing.assert_array_equal(
        render.resize_map(values, (224, 224), smooth=False),
        values[np.ix_(np.arange(224) * 7 // 224, np.arange(224) * 7 // 224)],
    )


def test_overlay_mixes_photo_and_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    values = np.array([[0, 1], [0.5, np.nan]], np.float32)
    lut = render.COLOUR_MAPS["inferno"].lut.astype(float)
    mixed = render.overlay(pixels, values, scale=UNIT, opacity=0.25, smooth=False)
    colours = lut[np.kron(np.array([[0, 254], [127, 255]]), np.ones((3, 4), int))]
    expected = 0.75 * pixels + 0.25 * colours
    np.testing.assert_array_less(np.abs(mixed - expected), 0.501)


def test_opacity_runs_from_photo_to_map() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    values = values_of(4, 4)
    scale = render.scale_of(values)
    np.testing.assert_array_equal(render.overlay(pixels, values, scale=scale, opacity=0), pixels)
    alone = render.colourise(render.resize_map(values, (16, 16)), scale=scale)
    np.testing.assert_array_equal(render.overlay(pixels, values, scale=scale, opacity=1), alone)


def test_pasted_crop_equals_an_overlay_on_the_cut_out_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    values = values_of(7, 5)
    scale = render.scale_of(values)
    for smooth in (True, False):
        pasted = render.paste_onto(pixels, (10.0, 5.0, 45.0, 33.0), values, scale=scale, smooth=smooth, dim=0.5)
        inside = render.overlay(pixels[5:33, 10:45], values, scale=scale, smooth=smooth)
        np.testing.assert_array_equal(pasted[5:33, 10:45], inside)
        np.testing.assert_array_equal(pasted[34:], np.rint(pixels[34:] * 0.5))
        np.testing.assert_array_equal(pasted[:, :9], np.rint(pixels[:, :9] * 0.5))
        assert (pasted[4, 9:46] == 255).all()
        assert (pasted[4:34, 45] == 255).all()


def test_a_crop_may_have_fractions_and_reach_outside() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    values = np.array([[0, 1, 0.5]], np.float32)
    # Cells are 3 pixels wide and start at -2.4: pixel centres 0.5, 1.5 ... lie in cells 0, 1, 1, 1, 2, 2.
    pasted = render.paste_onto(pixels, (-2.4, 0, 6.6, 4), values, scale=UNIT, opacity=1, smooth=False)
    expected = render.COLOUR_MAPS["inferno"].lut[[0, 254, 254, 254, 127, 127]]
    np.testing.assert_array_equal(pasted[2], expected)
    # Only pixels whose centre lies inside belong to the crop; the frame is one pixel thick.
    inside = render.paste_onto(pixels, (1.6, 0, 4.5, 4), np.ones((1, 1), np.float32), scale=UNIT, opacity=1)
    white, map_colour = [255] * 3, render.COLOUR_MAPS["inferno"].lut[254].tolist()
    assert inside[2].tolist() == [[0] * 3, white, map_colour, map_colour, white, [0] * 3]


@pytest.mark.parametrize("box", [(60, 0, 90, 40), (10, 10, 10, 20), (20, 0, 10, 40), (0, -9, 60, 0.4)])
def test_a_crop_beside_the_photo_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(BadSetting, match="60 by 40"):
        render.paste_onto(np.zeros((40, 60, 3), np.uint8), box, values_of(3, 3), scale=UNIT)
