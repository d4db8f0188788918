"""Pixels to input and back, against timm's and torchvision's own transforms."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz_core import catalogue, images, photos, torchvision_shim
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.preprocessing import Preprocessing

torchvision_shim.install()

HALF = (0.5, 0.5, 0.5)
LITE0 = Preprocessing((224, 224), HALF, HALF, interpolation="bicubic", crop_pct=0.875)
MakeImage = Callable[..., InputImage]


def _square(input_px: int | tuple[int, int] = 32, **fields: object) -> Preprocessing:
    size = (input_px, input_px) if isinstance(input_px, int) else input_px
    return Preprocessing(size, HALF, HALF, **fields)  # type: ignore[arg-type]


def _seen_by_timm(fit: Preprocessing, image: InputImage) -> torch.Tensor:
    from timm.data import create_transform

    transform = create_transform(
        (3, *fit.input_px),
        interpolation=fit.interpolation,
        mean=fit.mean,
        std=fit.std,
        crop_pct=fit.crop_pct,
        crop_mode=fit.crop_mode,
    )
    tensor: torch.Tensor = transform(image.pil())
    return tensor


# ---- against timm and torchvision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("photo_id", ["chelsea", "astronaut", "coffee", "flower"])
def test_lite0_sees_what_timm_would_show_it(photo_id: str) -> None:
    image = photos.open_photo(photo_id)
    assert torch.allclose(LITE0.to_input(image)[0], _seen_by_timm(LITE0, image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b1", "regnet_x_400mf", "inception_v3"])
def test_torchvision_networks_see_what_torchvision_would_show_them(name: str) -> None:
    from torchvision.models import get_model_weights

    config = catalogue.preprocessing_config(f"torchvision/{name}")
    fit = Preprocessing(**{key: value for key, value in config.items() if key != "num_channels"})  # type: ignore[arg-type]
    transform = get_model_weights(name).DEFAULT.transforms()
    image = photos.open_photo("chelsea")
    assert torch.allclose(fit.to_input(image)[0], transform(image.pil()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("input_px", [(64, 64), (96, 40), (40, 96)])
def test_all_settings_agree_with_timm(
    interpolation: str, crop_mode: str, input_px: tuple[int, int], noise_image: MakeImage
) -> None:
    for height, width, crop_pct in [(101, 150, 0.9), (333, 77, 0.95), (50, 50, 1.0), (97, 211, 0.7)]:
        fit = _square(input_px, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
        image = noise_image(height, width)
        assert torch.allclose(fit.to_input(image)[0], _seen_by_timm(fit, image), atol=1e-6, rtol=0)


def test_a_long_picture_differs_from_timm_by_rounding_only() -> None:
    ramp = np.linspace(0, 255, 40 * 2000).reshape(2000, 40)
    image = images.from_pixels(np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8), name="ramp")
    for height, width in [(2000, 40), (40, 2000)]:
        picture = image if height == 2000 else images.from_pixels(image.pixels.transpose(1, 0, 2), name="ramp")
        fit = _square(64, crop_pct=0.9)
        apart = (fit.to_input(picture)[0] - _seen_by_timm(fit, picture)).abs()
        assert apart.max() <= 1.01 * 2 / 255, (height, width)


def test_a_whole_quotient_is_not_rounded_down() -> None:
    # 32 / (32 / 93) is 92.99999999999999 in floating point.
    fit = _square(32, crop_pct=32 / 93)
    left, _, right, _ = fit.crop_box(images.from_pixels(np.zeros((93, 93, 3), np.uint8), name="black"))
    assert right - left == pytest.approx(32)


# ---- geometry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_a_picture_of_the_input_size_passes_bit_for_bit(crop_pct: float, noise_image: MakeImage) -> None:
    fit, image = _square((24, 40), crop_pct=crop_pct), noise_image(24, 40)
    np.testing.assert_array_equal(fit.crop(image), image.pixels)
    expected = (torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    assert torch.equal(fit.to_input(image)[0], expected)
    assert fit.crop_box(image) == (0, 0, 40, 24)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(900, 1400), (1400, 900)])
def test_the_crop_box_says_where_the_crop_lies(crop_mode: str, size: tuple[int, int]) -> None:
    fit = _square((128, 96), crop_mode=crop_mode, crop_pct=0.8, interpolation="bilinear")
    height, width = size
    row, col, side = height // 2 + 57, width // 2 - 91, 40
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[row : row + side, col : col + side] = 255
    image = images.from_pixels(pixels, name="marker")
    left, top, right, bottom = fit.crop_box(image)

    found = fit.crop(image)[:, :, 0] / 255
    rows, cols = np.indices(found.shape) + 0.5
    centre_row = (rows * found).sum() / found.sum() * (bottom - top) / found.shape[0] + top
    centre_col = (cols * found).sum() / found.sum() * (right - left) / found.shape[1] + left
    assert centre_row == pytest.approx(row + side / 2, abs=0.2)
    assert centre_col == pytest.approx(col + side / 2, abs=0.2)
    covered = found.sum() * (bottom - top) / found.shape[0] * (right - left) / found.shape[1]
    assert covered == pytest.approx(side**2, rel=0.02)


def test_the_crop_is_central_and_keeps_proportions(noise_image: MakeImage) -> None:
    left, top, right, bottom = LITE0.crop_box(noise_image(600, 1000))
    # 1000 x 600 becomes 426 x 256: the width is rounded down, by as much as one of 256.
    assert (right - left) == pytest.approx(600 * 0.875, rel=1 / 256)
    assert (bottom - top) == pytest.approx(600 * 0.875, rel=1e-3)
    assert (left + right) / 2 == pytest.approx(500, abs=2)
    assert (top + bottom) / 2 == pytest.approx(300, abs=2)


def test_squash_shows_everything(noise_image: MakeImage) -> None:
    assert _square(crop_mode="squash").crop_box(noise_image(50, 300)) == pytest.approx((0, 0, 300, 50))


def test_any_size_fits_and_its_box_stays_inside(noise_image: MakeImage) -> None:
    sizes = [1, 2, 3, 31, 32, 33, 37, 101, 257]
    for height, width, crop_mode, crop_pct in itertools.product(sizes, sizes, ["center", "squash"], [1.0, 0.875]):
        fit, image = _square((32, 24), crop_mode=crop_mode, crop_pct=crop_pct), noise_image(height, width)
        assert fit.crop(image).shape == (32, 24, 3)
        left, top, right, bottom = fit.crop_box(image)
        assert -1e-9 <= left < right <= width + 1e-9
        assert -1e-9 <= top < bottom <= height + 1e-9


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_extreme_proportions(size: tuple[int, int], noise_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise_image(*size)
    made: list[tuple[int, int]] = []
    original = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *args, **kw: made.append(args[1]) or original(*args, **kw))
    left, top, right, bottom = LITE0.crop_box(image)
    x = LITE0.to_input(image)
    assert x.shape == (1, 3, 224, 224)
    assert max(right - left, bottom - top) <= 1
    assert x.isfinite().all()
    assert made == [(224, 224)]  # resized whole it would have 328 million pixels


def test_a_single_pixel_becomes_an_even_input() -> None:
    image = images.from_pixels(np.array([[[10, 100, 200]]], np.uint8), name="pixel")
    assert (LITE0.crop(image) == [10, 100, 200]).all()


def test_a_photo_of_20_megapixels(noise_image: MakeImage) -> None:
    image = noise_image(4000, 5000)
    start = time.perf_counter()
    x = LITE0.to_input(image)
    print(f"20 megapixels: {time.perf_counter() - start:.2f} s")
    assert x.shape == (1, 3, 224, 224)
    assert LITE0.crop(image).std() < 20  # noise averages out: the picture was smoothed before it was made smaller


# ---- values -------------------------------------------------------------------------------------------------------


def test_a_grey_network_sees_grey() -> None:
    fit = Preprocessing((16, 16), (0.25,), (0.5,))
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = (255, 0, 0), (0, 255, 0)
    image = images.from_pixels(pixels, name="red and green")
    x = fit.to_input(image)
    assert fit.num_channels == 1
    assert x.shape == (1, 1, 16, 16)
    # Luma of ITU-R BT.601: 0.299 of red, 0.587 of green.
    assert x[0, 0, 0, 0].item() == pytest.approx((0.299 - 0.25) / 0.5, abs=0.005)
    assert x[0, 0, 0, 15].item() == pytest.approx((0.587 - 0.25) / 0.5, abs=0.005)
    crop = fit.crop(image)
    assert crop.shape == (16, 16, 3)
    assert (crop == crop[:, :, :1]).all()
    np.testing.assert_array_equal(fit.to_pixels(x), crop)


@pytest.mark.parametrize(
    ("mean", "std"), [(HALF, HALF), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0,) * 3, (1 / 255,) * 3)]
)
def test_to_pixels_inverts_to_input(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    fit = Preprocessing((16, 16), mean, std)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = images.from_pixels(np.stack([levels, levels.T, levels[::-1]], axis=2), name="all levels")
    x = fit.to_input(image)
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(fit.to_pixels(x), image.pixels)
    for channel in range(3):
        value = image.pixels[3, 5, channel] / 255
        assert x[0, channel, 3, 5].item() == pytest.approx((value - mean[channel]) / std[channel], rel=1e-5)


def test_to_pixels_clips_and_takes_inputs_with_a_gradient() -> None:
    x = torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    pixels = Preprocessing((1, 1), HALF, HALF).to_pixels(x)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[[0, 255, 128]]]


def test_the_picture_is_left_alone(noise_image: MakeImage) -> None:
    image = noise_image(32, 32)
    before = image.pixels.copy()
    crop = _square(32).crop(image)
    _square(32).to_input(image).fill_(0)
    np.testing.assert_array_equal(image.pixels, before)
    assert not np.shares_memory(_square(32).to_pixels(torch.zeros(1, 3, 32, 32)), crop)


@pytest.mark.parametrize(
    ("mean", "std"), [(HALF, HALF), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.3,), (0.7,))]
)
def test_many_crops_are_normalised_as_by_plain_arithmetic_to_the_bit(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    fit = Preprocessing((8, 12), mean, std)
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    shown = torch.from_numpy(crops[..., : len(mean)].copy()).permute(0, 3, 1, 2)
    expected = (shown.float() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    cut = np.pad(crops, ((0, 0), (0, 0), (1, 1), (0, 0)))[:, :, 1:-1]
    for given in (crops, list(crops), cut, list(cut)):
        x = fit.normalise(given)
        assert torch.equal(x, expected)
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert fit.normalise([]).shape == (0, len(mean), 8, 12)
    for wrong in (crops[0][1:], crops[0][..., 0], crops[0].astype(np.int8)):
        with pytest.raises(ValueError, match="one size"):
            fit.normalise([crops[0], wrong])


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5, 0.5)}, "mean has 2 and std 3 values; give one each for a grey input or three each for colour"),
        ({"mean": (0.5,) * 4, "std": (0.5,) * 4}, "mean has 4 and std 4 values"),
        ({"mean": (), "std": ()}, "mean has 0"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean is .* finite"),
        ({"std": (0.5, 0.0, 0.5)}, "std is .*; every value must be above 0"),
        ({"std": (0.5, float("nan"), 0.5)}, "std is"),
        ({"std": (0.5, float("inf"), 0.5)}, "std is"),
        ({"input_px": (0, 32)}, r"input size is \(0, 32\) px"),
        ({"input_px": (32, 5000)}, "between 1 and 4096"),
        ({"input_px": (3, 32, 32)}, "give height and width"),
        ({"crop_pct": 0.0}, "crop_pct is 0.0; it must lie above 0 and at most at 1"),
        ({"crop_pct": 1.15}, "crop_pct is 1.15"),
        ({"crop_pct": float("nan")}, "crop_pct is nan"),
        ({"crop_mode": "border"}, "crop_mode is 'border', not one of center, squash"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic', not one of nearest, bilinear, bicubic, lanczos"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Preprocessing(**{"input_px": (32, 32), "mean": HALF, "std": HALF, **fields})  # type: ignore[arg-type]


def test_center_crop_of_torchvision_rounds_halves_alike() -> None:
    """The crop's corner is rounded as torchvision does, to even at one half."""
    from torchvision.transforms import CenterCrop

    for resized in range(33, 41):
        ramp = torch.arange(resized).expand(1, resized, resized)
        expected = CenterCrop(32)(ramp)[0, 0, 0].item()
        pixels = np.zeros((resized, resized, 3), np.uint8)
        left, _, _, _ = _square(32, crop_pct=32 / resized).crop_box(images.from_pixels(pixels, name="black"))
        assert left == expected


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_the_quick_crop_is_the_crop_but_for_rounding(interpolation: str, crop_mode: str) -> None:
    for name, size in itertools.product(("coffee", "chelsea"), [(500, 375), (240, 320), (64, 64), (900, 40)]):
        image = images.from_pixels(np.asarray(photos.open_photo(name).pil().resize(size)), name=name)
        fit = _square(64, interpolation=interpolation, crop_mode=crop_mode, crop_pct=0.875)
        exact, quick = (pixels.astype(int) for pixels in (fit.crop(image), fit.quick_crop(image.pixels)))
        assert quick.shape == exact.shape
        assert np.abs(quick - exact).max() <= 1
        assert (quick != exact).mean() < 1 / 200
