"""Files that come back as they were."""

import io

import numpy as np
from PIL import Image

from cnnviz_core import render


def test_png_is_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    for wanted in (pixels, pixels[..., 0], pixels[:, ::-1]):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(render.png(wanted)))), wanted)


def test_jpeg_keeps_thin_coloured_lines() -> None:
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[:, 15] = (220, 30, 30)
    back = np.asarray(Image.open(io.BytesIO(render.jpeg(pixels, quality=95)))).astype(int)
    assert np.abs(back - pixels).max() < 30
    assert len(render.jpeg(pixels, quality=30)) < len(render.jpeg(pixels, quality=95))


def test_npy_comes_back_with_type_and_shape() -> None:
    values = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    values[0, 0, 0] = np.nan
    back = np.load(io.BytesIO(render.npy(values)), allow_pickle=False)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values)
