"""Mosaics and kernels, read back from the PNG."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnviz_core import render, results, torchvision_shim
from cnnviz_core.errors import BadSetting, NotApplicable

torchvision_shim.install()

import torchvision.utils

RUN = results.Run(
    model_id="tiny", weights="random:0", weights_hash="", method="filters.compute", settings={}, seconds=0.0
)


def maps(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def kernels(values: NDArray[np.float32], *, std: tuple[float, ...] = (), groups: int = 1) -> results.Kernels:
    return results.Kernels(values.astype(np.float32), "conv", groups, np.array(std, np.float32), RUN)


def decoded(file: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(file))
    picture.load()
    return picture


def test_palette_png_decodes_to_the_colour_table() -> None:
    values = maps(6, 30, 20)
    values[4, 2, 3] = np.nan
    scale = render.scale_of(values, mode="channel")
    made = render.mosaic(values, scale=scale, colour_map="purple_orange", columns=3)
    picture = decoded(made.png)
    assert picture.mode == "P"
    assert (made.tile_size, made.columns, made.num, made.enlarge, made.shrink) == ((60, 40), 3, 6, 2, 1)
    lut = render.COLOUR_MAPS["purple_orange"].lut
    indices = render.to_indices(values, scale=scale)
    pixels = np.asarray(picture.convert("RGB"))
    for tile in range(6):
        top, left = 60 * (tile // 3), 40 * (tile % 3)
        expected = np.kron(indices[tile], np.ones((2, 2), np.uint8))
        np.testing.assert_array_equal(pixels[top : top + 60, left : left + 40], lut[expected])


def test_layout_equals_make_grid() -> None:
    values = maps(7, 56, 56)
    made = render.mosaic(values, scale=render.scale_of(values, signed=False), columns=4)
    grid = torchvision.utils.make_grid(torch.from_numpy(values)[:, None], nrow=4, padding=0, normalize=True)[0].numpy()
    indices = np.asarray(decoded(made.png))
    assert indices.shape == grid.shape == (112, 224)
    filled = np.ones_like(grid, bool)
    filled[56:, 168:] = False
    np.testing.assert_array_less(np.abs(indices / 254 - grid)[filled], 0.5 / 254 + 1e-6)
    assert (indices[~filled] == render.MISSING).all()


@pytest.mark.parametrize(
    ("side", "tile_px", "enlarge", "shrink"),
    [
        (7, None, 8, 1),
        (14, None, 4, 1),
        (56, None, 1, 1),
        (60, None, 1, 1),
        (112, None, 1, 2),
        (224, None, 1, 4),
        (1, None, 56, 1),
        (14, 100, 7, 1),
        (14, 3, 1, 5),
    ],
)
def test_tiles_change_size_by_whole_factors(side: int, tile_px: int | None, enlarge: int, shrink: int) -> None:
    values = maps(3, side, side)
    made = render.mosaic(values, scale=render.scale_of(values), tile_px=tile_px)
    assert (made.enlarge, made.shrink) == (enlarge, shrink)
    tile = -(-side // shrink) * enlarge
    assert made.tile_size == (tile, tile)
    assert decoded(made.png).size == (tile * made.columns, tile * -(-3 // made.columns))


def test_large_maps_are_shrunk_by_the_mean() -> None:
    values = np.zeros((1, 5, 4), np.float32)
    values[0, :2, :2] = [[1, 2], [3, 6]]
    values[0, 4, 2:] = [4, 8]
    made = render.mosaic(values, scale=render.Scale.fixed(0, 254), tile_px=2)
    assert (made.tile_size, made.shrink) == ((3, 2), 2)
    assert np.asarray(decoded(made.png)).tolist() == [[3, 0], [0, 0], [0, 6]]


def test_columns_make_about_a_square() -> None:
    values = maps(64, 10, 40)
    scale = render.scale_of(values)
    assert render.mosaic(values, scale=scale).columns == 4
    assert render.mosaic(values[:2].swapaxes(1, 2), scale=scale).columns == 2
    assert render.mosaic(maps(1, 8, 8), scale=scale).columns == 1


def test_rgb_tiles_come_back() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (5, 28, 14, 3), dtype=np.uint8)
    made = render.rgb_mosaic(tiles, columns=2)
    pixels = np.asarray(decoded(made.png))
    assert pixels.shape == (3 * 56, 2 * 28, 3)
    np.testing.assert_array_equal(pixels[56:112:2, 28::2], tiles[3])
    np.testing.assert_array_equal(pixels[57:112:2, 29::2], tiles[3])
    assert (pixels[112:, 28:] == 128).all()
    halved = np.asarray(decoded(render.rgb_mosaic(tiles, tile_px=14, columns=5).png))
    means = tiles.reshape(5, 14, 2, 7, 2, 3).mean(axis=(2, 4))
    np.testing.assert_array_less(np.abs(halved[:, :7] - means[0]), 0.5 + 1e-3)


def test_kernels_are_symmetric_around_mid_grey() -> None:
    weights = np.zeros((2, 3, 1, 2))
    weights[0, :, 0, 0] = [1, -1, 0.5]
    weights[1, :, 0, 1] = [-0.5, 0.25, 0]
    layer = render.kernels_rgb(kernels(weights))
    assert layer.shape == (2, 1, 2, 3)
    assert layer[0, 0].tolist() == [[255, 0, 191], [128, 128, 128]]
    assert layer[1, 0].tolist() == [[128, 128, 128], [64, 159, 128]]
    each = render.kernels_rgb(kernels(weights), scale="kernel")
    assert each[0].tolist() == layer[0].tolist()
    assert each[1, 0, 1].tolist() == [0, 191, 128]


def test_kernels_can_be_shown_as_they_act_on_pixels() -> None:
    weights = np.ones((1, 3, 1, 1))
    shown = render.kernels_rgb(kernels(weights, std=(0.25, 0.5, 1)), undo_normalisation=True)
    assert shown[0, 0, 0].tolist() == [255, 191, 159]


def test_dead_and_broken_kernels_are_grey() -> None:
    weights = np.zeros((2, 3, 1, 1))
    weights[1, 0] = np.nan
    for scale in ("layer", "kernel"):
        assert np.unique(render.kernels_rgb(kernels(weights), scale=scale)).tolist() == [128]


def test_kernels_that_have_no_colour_picture_say_so() -> None:
    with pytest.raises(NotApplicable, match="slices"):
        render.kernels_rgb(kernels(maps(4, 8, 3, 3)))
    with pytest.raises(NotApplicable, match="first convolution"):
        render.kernels_rgb(kernels(maps(4, 3, 3, 3)), undo_normalisation=True)
    with pytest.raises(BadSetting, match="layer or kernel"):
        render.kernels_rgb(kernels(maps(4, 3, 3, 3)), scale="model")


def test_slices_of_a_kernel() -> None:
    weights = maps(4, 8, 3, 3)
    np.testing.assert_array_equal(render.kernel_slices(kernels(weights), kernel=2), weights[2])
    depth_wise = maps(6, 1, 3, 3)
    np.testing.assert_array_equal(render.kernel_slices(kernels(depth_wise, groups=6)), depth_wise[:, 0])
    np.testing.assert_array_equal(render.kernel_slices(kernels(depth_wise, groups=6), kernel=5), depth_wise[5])
    for wrong in (None, 4, -1):
        with pytest.raises(BadSetting, match="0 to 3"):
            render.kernel_slices(kernels(weights), kernel=wrong)


# ---- thumbnails


def test_thumbnails_are_middle_squares_in_reading_order() -> None:
    wide = np.zeros((40, 90, 3), np.uint8)
    wide[:, 25:65] = (200, 60, 20)
    tall = np.zeros((90, 40, 3), np.uint8)
    tall[25:65] = (20, 60, 200)
    small = np.full((3, 3, 3), 250, np.uint8)
    atlas = decoded(render.thumbnail_atlas(iter([wide, tall, small, wide, tall]), px=24))
    assert render.atlas_columns(5) == 3
    assert (atlas.format, atlas.size) == ("JPEG", (72, 48))
    pixels = np.asarray(atlas).astype(int)
    for at, colour in enumerate([(200, 60, 20), (20, 60, 200), (250, 250, 250), (200, 60, 20), (20, 60, 200)]):
        row, column = divmod(at, 3)
        tile = pixels[24 * row : 24 * row + 24, 24 * column : 24 * column + 24]
        assert np.abs(tile - colour).max() <= 3, "no neighbour bleeds in, not even by the JPEG's blocks"


def test_thumbnails_of_a_few_pixels_keep_hard_edges() -> None:
    checks = np.zeros((8, 8, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    atlas = np.asarray(decoded(render.thumbnail_atlas([checks], px=48))).astype(int)
    assert np.abs(atlas - checks.repeat(6, 0).repeat(6, 1)).max() < 40


@pytest.mark.parametrize(("num", "px"), [(1, 96), (1000, 96), (2500, 64), (4000, 48), (10_000, 32), (50_000, 16)])
def test_thumbnails_shrink_as_they_become_many(num: int, px: int) -> None:
    assert render.thumbnail_px(num) == px


def test_thumbnails_refuse_nothing_and_odd_sides() -> None:
    with pytest.raises(BadSetting, match="no picture"):
        render.thumbnail_atlas([], px=32)
    with pytest.raises(BadSetting, match="multiple of 8"):
        render.thumbnail_atlas([np.zeros((8, 8, 3), np.uint8)], px=30)
