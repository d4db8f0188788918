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


def test_animations_keep_every_frame_and_its_time() -> None:
    frames = [np.full((20, 30, 3), level, np.uint8) for level in (0, 100, 200)]
    for encode, tolerance in ((render.animated_webp, 3), (render.gif, 0)):
        with Image.open(io.BytesIO(encode(frames, frame_ms=70))) as moving:
            assert (moving.n_frames, moving.size, moving.info["loop"]) == (3, (30, 20), 0)
            for at, frame in enumerate(frames):
                moving.seek(at)
                assert np.abs(np.asarray(moving.convert("RGB")).astype(int) - frame).max() <= tolerance
                assert moving.info.get("duration", moving.info.get("timestamp")) is not None
    one = Image.open(io.BytesIO(render.animated_webp(frames[:1])))
    assert one.size == (30, 20)
