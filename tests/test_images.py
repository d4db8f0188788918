"""Decoding of pictures: every format and mode against pixels known beforehand, and every way a file can be bad."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms

from cnnviz_core import images, settings
from cnnviz_core.errors import BadImage

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


# ---- files made by hand -------------------------------------------------------------------------------------------


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its header fields, its filter-free rows and any chunks that go before the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    row_bytes = len(rows) // height
    data = b"".join(b"\0" + rows[y * row_bytes : (y + 1) * row_bytes] for y in range(height))
    middle = b"".join(chunk(kind, body) for kind, body in chunks)
    pixels = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + pixels + chunk(b"IEND", b"")


def tiff(row: bytes, width: int, bits: int, *, white_is_zero: bool = False, sample_format: int = 1, order="<") -> bytes:
    """An uncompressed grey TIFF of one row, its directory of tags last."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: 1}
    tags |= {279: len(row), 339: sample_format}
    padded = row + bytes(len(row) % 2)
    entries = b"".join(
        struct.pack(order + "HHI", tag, 3, 1) + struct.pack(order + "HH", value, 0) for tag, value in tags.items()
    )
    magic = {"<": b"II", ">": b"MM"}[order]
    head = magic + struct.pack(order + "HI", 42, 8 + len(padded))
    return head + padded + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


def saved(picture: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def grey(source: bytes) -> list[int]:
    """The first row of a picture that must have come out grey."""
    pixels = images.open_image(source).pixels
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].tolist()


@contextmanager
def python_warnings(action: str) -> Iterator[None]:
    """What the operator's filter does with warnings: ignore them, or turn them into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        yield


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """(23, 31, 3) noise of at most 64 colours, so that a GIF can hold it too."""
    return np.random.default_rng(1).integers(0, 4, (23, 31, 3), dtype=np.uint8) * 85


@pytest.fixture(scope="module")
def gradient() -> np.ndarray:
    """(48, 64, 3) smooth colours, which survive lossy compression."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([2 * x + 60, 3 * y + 50, 200 - x - y], axis=2).astype(np.uint8)


# ---- formats ------------------------------------------------------------------------------------------------------

LOSSLESS = {
    "png": ("PNG", {}),
    "interlaced-free bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "tiff packbits": ("TIFF", {"compression": "packbits"}),
    "big tiff": ("TIFF", {"big_tiff": True}),
}


@pytest.mark.parametrize("case", LOSSLESS)
def test_lossless_formats_give_the_exact_pixels_and_one_digest(case: str, colours: np.ndarray, tmp_path: Path) -> None:
    file_format, options = LOSSLESS[case]
    data = saved(Image.fromarray(colours), file_format, **options)
    path = tmp_path / "any name.jpg"  # what the file is called must not matter
    path.write_bytes(data)
    for source in (data, path):
        image = images.open_image(source)
        np.testing.assert_array_equal(image.pixels, colours)
        assert image.digest == images.from_pixels(colours, name="array").digest
        assert (image.height, image.width) == (23, 31)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (64, 48))]}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_formats_come_close(file_format: str, options: dict, gradient: np.ndarray) -> None:
    pixels = images.open_image(saved(Image.fromarray(gradient), file_format, **options)).pixels
    assert pixels.shape == gradient.shape
    assert np.abs(pixels.astype(int) - gradient).mean() < 3


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP", "TIFF"])
def test_only_the_first_frame_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as check:
        assert check.n_frames == 3
    assert (images.open_image(data).pixels == RED).all()


def test_a_gif_with_a_broken_second_frame_opens() -> None:
    first, second = Image.new("P", (20, 10), 1), Image.effect_noise((20, 10), 90)
    data = saved(first, "GIF", save_all=True, append_images=[second])
    assert images.open_image(data[: len(data) - 40]) == images.open_image(data)


@pytest.mark.parametrize("file_format", ["PPM", "TGA", "ICO", "EPS", "PCX", "JPEG2000", "AVIF", "DDS", "ICNS"])
def test_other_formats_are_never_parsed(file_format: str) -> None:
    data = saved(Image.new("RGB", (32, 32)), file_format)
    with pytest.raises(BadImage, match=r"picture\.png is not a picture that cnnviz reads.*Save it as PNG, JPEG, "):
        images.open_image(data, name="picture.png")


# ---- modes --------------------------------------------------------------------------------------------------------


def test_grey_and_one_bit() -> None:
    assert grey(png(4, 1, 8, 0, bytes([0, 1, 128, 255]))) == [0, 1, 128, 255]
    assert grey(png(8, 1, 1, 0, bytes([0b10110001]))) == [255, 0, 255, 255, 0, 0, 0, 255]
    assert grey(png(4, 1, 2, 0, bytes([0b00011011]))) == [0, 85, 170, 255]
    assert grey(saved(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "BMP")) == [0, 255]
    assert grey(saved(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "TIFF")) == [0, 255]
    assert grey(tiff(bytes([0, 10, 255]), 3, 8, white_is_zero=True)) == [255, 245, 0]


def test_palette() -> None:
    palette = (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 10, 20, 30]))
    opened = images.open_image(png(3, 1, 8, 3, bytes([2, 0, 1]), palette))
    assert opened.pixels.tolist() == [[[10, 20, 30], list(RED), list(GREEN)]]


def test_transparency_is_laid_over_white() -> None:
    rgba = images.open_image(png(3, 1, 8, 6, bytes([255, 0, 0, 255, 255, 0, 0, 0, 0, 0, 200, 51])))
    assert rgba.pixels.tolist() == [[list(RED), list(WHITE), [204, 204, 244]]]  # 255 * 0.8 + (0, 0, 200) * 0.2
    assert grey(png(3, 1, 8, 4, bytes([7, 255, 7, 0, 0, 51]))) == [7, 255, 204]
    palette = (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 200]))
    some = images.open_image(png(3, 1, 8, 3, bytes([0, 1, 2]), palette, (b"tRNS", bytes([255, 0, 51]))))
    assert some.pixels.tolist() == [[list(RED), list(WHITE), [204, 204, 244]]]
    webp = saved(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True)
    tif = saved(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "TIFF")
    gif = saved(Image.new("P", (9, 9), 5), "GIF", transparency=5)
    for data in (webp, tif, gif):
        assert (images.open_image(data).pixels == 255).all()


def test_a_colour_key_is_transparent() -> None:
    assert grey(png(3, 1, 8, 0, bytes([7, 8, 9]), (b"tRNS", struct.pack(">H", 8)))) == [7, 255, 9]
    assert grey(png(8, 1, 1, 0, bytes([0b00001111]), (b"tRNS", struct.pack(">H", 0)))) == [255] * 8
    deep = struct.pack(">3H", 0x0700, 0x0800, 0x0801)
    assert grey(png(3, 1, 16, 0, deep, (b"tRNS", struct.pack(">H", 0x0800)))) == [7, 255, 8]
    rgb = images.open_image(png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), (b"tRNS", struct.pack(">3H", 1, 2, 3))))
    assert rgb.pixels.tolist() == [[list(WHITE), [4, 5, 6]]]


def test_16_bit_colour_keeps_its_high_bytes() -> None:
    row = struct.pack(">6H", 0, 65535, 32768, 256, 511, 4660)
    assert images.open_image(png(2, 1, 16, 2, row)).pixels.tolist() == [[[0, 255, 128], [1, 1, 18]]]


DEEP, DEEP_GREY = [0, 255, 256, 511, 32768, 65279, 65280, 65535], [0, 0, 1, 1, 128, 254, 255, 255]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_keeps_its_high_byte(order: str) -> None:
    row = np.array(DEEP, np.uint16).astype(f"{order}u2").tobytes()
    assert grey(tiff(row, 8, 16, order=order)) == DEEP_GREY
    assert grey(saved(Image.fromarray(np.array([DEEP], np.uint16)), "TIFF", compression="tiff_lzw")) == DEEP_GREY
    assert grey(png(8, 1, 16, 0, np.array(DEEP, ">u2").tobytes())) == DEEP_GREY


def test_a_dark_16_bit_picture_is_not_stretched() -> None:
    assert grey(png(2, 1, 16, 0, struct.pack(">2H", 0, 4095))) == [0, 15]


def test_12_bit_and_inverted_grey() -> None:
    assert grey(tiff(bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10]), 4, 12)) == [0, 128, 255, 1]
    row = np.array(DEEP, "<u2").tobytes()
    assert grey(tiff(row, 8, 16, white_is_zero=True)) == [255 - value for value in DEEP_GREY]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 1], [0, 255, 255]),
        ([0, 2, 255], [0, 2, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 51_000, 255_000], [0, 51, 255]),
        ([-100, 2, 155], [0, 102, 255]),
        ([-7, -7, -7], [0, 0, 0]),
    ],
)
def test_32_bit_grey_finds_its_white(values: list[int], expected: list[int]) -> None:
    assert grey(saved(Image.fromarray(np.array([values], np.int32)), "TIFF")) == expected
    assert grey(saved(Image.fromarray(np.array([values], np.float32)), "TIFF")) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.5, 0.5, 0.5], [128, 128, 128]),
        ([np.nan, 0.2, np.inf], [0, 51, 255]),
        ([-np.inf, 0.0, 51.0], [0, 0, 51]),
        ([np.nan, -1.0, 1.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floating_point_grey(values: list[float], expected: list[int]) -> None:
    assert grey(tiff(np.array(values, "<f4").tobytes(), 3, 32, sample_format=3)) == expected


def test_unsigned_32_bits_do_not_turn_negative() -> None:
    assert grey(tiff(np.array([0, 600_000_000, 3_000_000_000], "<u4").tobytes(), 3, 32)) == [0, 51, 255]
    signed = np.array([-1000, 1000, 0], "<i2").tobytes()
    assert grey(tiff(signed, 3, 16, sample_format=2)) == [0, 255, 128]


@pytest.mark.parametrize(
    ("inks", "expected"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((51, 102, 0, 127), (102, 77, 128)),  # (255 - ink) * (255 - black) / 255
    ],
)
def test_cmyk(inks: tuple[int, ...], expected: tuple[int, ...]) -> None:
    picture = Image.new("CMYK", (16, 16), inks)
    jpeg = saved(picture, "JPEG", quality=100)
    assert b"Adobe" in jpeg
    for data in (jpeg, saved(picture, "JPEG", quality=100, progressive=True), saved(picture, "TIFF")):
        assert np.abs(images.open_image(data).pixels.astype(int) - expected).max() <= 4


def test_ycck() -> None:
    # Stored Y'CbCrK' = 55, 128, 128, 255: inks of 55 without black. Pillow writes no YCCK, but Adobe's flag for it
    # is the last byte of the marker.
    jpeg = bytearray(saved(Image.new("CMYK", (16, 16), (200, 127, 127, 0)), "JPEG", quality=100))
    jpeg[jpeg.index(b"Adobe") + 11] = 2
    assert np.abs(images.open_image(bytes(jpeg)).pixels.astype(int) - 200).max() <= 4


def test_lab(gradient: np.ndarray) -> None:
    data = saved(Image.fromarray(gradient).convert("LAB"), "TIFF")
    with Image.open(io.BytesIO(data)) as check:
        assert check.mode == "LAB"
    assert np.abs(images.open_image(data).pixels.astype(int) - gradient).max() <= 12


def test_colour_profiles_are_left_alone(gradient: np.ndarray) -> None:
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for file_format in ("PNG", "JPEG"):
        plain, tagged = (
            saved(Image.fromarray(gradient), file_format, icc_profile=profile) for profile in (None, swapped)
        )
        assert plain != tagged
        assert images.open_image(plain) == images.open_image(tagged)


# ---- orientation --------------------------------------------------------------------------------------------------

# How the stored "abc/def" stands upright, by the value of the EXIF tag.
UPRIGHT = {
    1: "abc/def",
    2: "cba/fed",
    3: "fed/cba",
    4: "def/abc",
    5: "ad/be/cf",
    6: "da/eb/fc",
    7: "fc/eb/da",
    8: "cf/be/ad",
}


def blocks(layout: str) -> np.ndarray:
    """Letters a to f as flat blocks of 16 by 16 pixels in six greys."""
    values = np.array([[40 * (ord(letter) - ord("a")) for letter in row] for row in layout.split("/")], np.uint8)
    return np.repeat(np.kron(values, np.ones((16, 16), np.uint8))[:, :, None], 3, axis=2)


@pytest.mark.parametrize("turn", UPRIGHT)
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 100}),
        ("MPO", {"quality": 100, "save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_the_exif_turn_is_applied(turn: int, file_format: str, options: dict, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(Image.fromarray(blocks("abc/def")), file_format, exif=exif, **options)
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (data, path):
        pixels = images.open_image(source).pixels
        expected = blocks(UPRIGHT[turn])
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_an_exif_turn_and_deep_grey_and_alpha_go_together() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.array([[0, 65535], [256, 512]], np.uint16))
    assert images.open_image(saved(deep, "PNG", exif=exif)).pixels[:, :, 0].tolist() == [[1, 0], [2, 255]]
    alpha = Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8), "LA")
    assert images.open_image(saved(alpha, "PNG", exif=exif)).pixels[:, :, 0].tolist() == [[0], [255]]


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12", b"Exif\0\0"])
def test_a_broken_exif_block_beside_whole_pixels_is_ignored(action: str, exif: bytes) -> None:
    picture = Image.fromarray(blocks("abc/def"))
    with python_warnings(action):
        opened = images.open_image(saved(picture, "WEBP", lossless=True, exif=exif))
    assert (opened.pixels == blocks("abc/def")).all()


def test_an_unknown_turn_is_ignored() -> None:
    for turn in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = turn
        data = saved(Image.fromarray(blocks("abc/def")), "PNG", exif=exif)
        assert (images.open_image(data).pixels == blocks("abc/def")).all()


# ---- InputImage and from_pixels -----------------------------------------------------------------------------------


def test_pixels_cannot_be_written(colours: np.ndarray) -> None:
    for image in (images.from_pixels(colours, name="a"), images.open_image(saved(Image.fromarray(colours), "PNG"))):
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            image.pixels[0, 0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            image.pixels.setflags(write=True)
        with pytest.raises(dataclasses.FrozenInstanceError):
            image.name = "b"
        image.pil().putpixel((0, 0), (9, 9, 9))
        np.testing.assert_array_equal(image.pixels, colours)
        np.testing.assert_array_equal(np.asarray(image.pil()), colours)


def test_from_pixels_copies() -> None:
    array = np.zeros((2, 3, 3), np.uint8)
    image = images.from_pixels(array, name="mine")
    array[:] = 9
    assert (image.pixels == 0).all()
    turned = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)[::-1, ::-1]
    np.testing.assert_array_equal(images.from_pixels(turned, name="view").pixels, turned)


def test_from_pixels_takes_grey() -> None:
    image = images.from_pixels(np.array([[1, 2, 3], [4, 5, 6]], np.uint8), name="grey")
    assert image.pixels.tolist() == [[[1] * 3, [2] * 3, [3] * 3], [[4] * 3, [5] * 3, [6] * 3]]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2, 3), np.float32), "holds float32 numbers; scale them"),
        (np.zeros((2, 2, 3), bool), "holds bool numbers"),
        (np.zeros((2, 2, 4), np.uint8), r"has shape \(2, 2, 4\); give"),
        (np.zeros((2, 2, 1), np.uint8), r"has shape"),
        (np.zeros((3,), np.uint8), r"has shape"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"has shape"),
        (np.zeros((0, 2, 3), np.uint8), r"has shape"),
        (np.zeros((2, 0), np.uint8), r"has shape"),
    ],
)
def test_from_pixels_refuses_the_rest(array: np.ndarray, words: str) -> None:
    with pytest.raises(BadImage, match=f"my array {words}"):
        images.from_pixels(array, name="my array")


def test_equality_is_equality_of_pixels() -> None:
    pixels = np.arange(18, dtype=np.uint8)
    wide, tall = (images.from_pixels(pixels.reshape(shape), name="x") for shape in ((2, 3, 3), (3, 2, 3)))
    again = images.from_pixels(pixels.reshape(2, 3, 3), name="another name")
    assert wide == again
    assert hash(wide) == hash(again)
    assert wide != tall
    assert wide.digest != tall.digest
    assert re.fullmatch("[0-9a-f]{40}", wide.digest)
    changed = pixels.reshape(2, 3, 3).copy()
    changed[1, 2, 2] ^= 1
    assert images.from_pixels(changed, name="x") != wide
    assert pickle.loads(pickle.dumps(wide)) == wide


# ---- sources and names --------------------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """A binary stream that can only be read onwards, as from a network."""

    def __init__(self, data: bytes) -> None:
        self.rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        return self.rest.readinto(buffer)


def test_every_kind_of_source_gives_the_same_picture(colours: np.ndarray, tmp_path: Path) -> None:
    for options in ({}, {"compression": "tiff_lzw"}):
        data = saved(Image.fromarray(colours), "TIFF", **options)
        path = tmp_path / "Füchse im Schnee.tif"
        path.write_bytes(data)
        read = io.BytesIO(data)
        read.read()
        sources = [data, bytearray(data), memoryview(data), path, str(path), read, Pipe(data), io.BytesIO(data)]
        with path.open("rb") as stream, os.fdopen(os.open(path, os.O_RDONLY), "rb") as numbered:
            opened = [images.open_image(source) for source in [*sources, stream, numbered]]
        assert {image.digest for image in opened} == {images.from_pixels(colours, name="").digest}
        assert [image.name for image in opened[:8]] == ["picture"] * 3 + [path.name] * 2 + ["picture"] * 3
        assert [image.name for image in opened[8:]] == [path.name, "picture"]
        assert {images.open_image(source, name="fox").name for source in (data, path, io.BytesIO(data))} == {"fox"}


def test_a_compressed_stream_is_read_as_what_it_holds(colours: np.ndarray, tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "picture.tif.gz"
    path.write_bytes(gzip.compress(saved(Image.fromarray(colours), "TIFF", compression="tiff_lzw")))
    with gzip.open(path) as stream:  # its file descriptor leads to other bytes than read() gives
        assert (images.open_image(stream).pixels == colours).all()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Füchse, 日本 & <b>.png", "Füchse, 日本 & <b>.png"),
        (
            "family \U0001f468\u200d\U0001f469\u200d\U0001f467.jpg",
            "family \U0001f468\u200d\U0001f469\u200d\U0001f467.jpg",
        ),
        ("Screenshot 1.02\u202fPM.png", "Screenshot 1.02\u202fPM.png"),
        ("two\nlines\r\t\x00\x1b[31m\x7f\x85.png", "twolines[31m.png"),
        ("line\u2028and\u2029paragraph", "lineandparagraph"),
        ("photo\u202egnp.exe", "photognp.exe"),
        ("bad byte \udcff.png", "bad byte .png"),
        ("  padded  ", "padded"),
        ("\n\t", "picture"),
        ("", "picture"),
        ("x" * 80, "x" * 80),
    ],
)
def test_names_are_safe_to_show(given: str, shown: str) -> None:
    name = images.from_pixels(np.zeros((1, 1), np.uint8), name=given).name
    assert name == shown
    name.encode()


def test_a_long_name_keeps_its_ending() -> None:
    name = images.from_pixels(np.zeros((1, 1), np.uint8), name="a" * 200 + "b" * 200 + ".jpeg").name
    assert len(name) <= 80
    assert re.fullmatch(r"a+\.\.\.b+\.jpeg", name)


def test_errors_bear_the_clean_name() -> None:
    with pytest.raises(BadImage) as caught:
        images.open_image(b"nothing", name="ev\u202eil\n" + "z" * 500)
    message = str(caught.value)
    assert message.startswith("evilzzz")
    assert len(message) < 250
    assert "\n" not in message


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\0" * 100, r"is not a picture that cnnviz reads\. Save it as PNG, JPEG, WebP, GIF, BMP or TIFF\."),
        (b"hello", "is not a picture"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "looks like an SVG drawing or a web page"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "looks like an SVG drawing or a web page"),
        (b"%PDF-1.7 ...", "looks like a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "looks like a HEIC photo"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "looks like a video"),
        (b"PK\x03\x04....", "looks like a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n", "the PNG file is cut short, damaged"),
        (b"\xff\xd8\xff\xe0", "the JPEG file is cut short, damaged"),
        (b"II*\0\x08\0\0\0", "the TIFF file is cut short, damaged"),
        (b"BM", "the BMP file is cut short, damaged"),
        (tiff(bytes(24), 3, 64, sample_format=3), "of a rare kind. Copy it again, or save it anew as PNG or JPEG"),
    ],
)
def test_what_is_not_a_whole_picture_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=rf"^cat\.png .*{words}"):
        images.open_image(data, name="cat.png")


def test_a_tag_with_the_wrong_kind_of_number_is_damage() -> None:
    data = tiff(bytes([1, 2, 3]), 3, 8)
    offset_as_float = data.replace(struct.pack("<HHI", 273, 3, 1), struct.pack("<HHI", 273, 11, 1))
    assert offset_as_float != data
    with pytest.raises(BadImage, match="damaged") as caught:
        images.open_image(offset_as_float)
    assert isinstance(caught.value.__cause__, TypeError)


def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadImage, match=r"^There is no file cat\.png; check the path"):
        images.open_image(tmp_path / "cat.png")
    with pytest.raises(BadImage, match=r"no file cat\.png"):
        images.open_image(str(tmp_path / "missing" / "cat.png"))
    (tmp_path / "cats").mkdir()
    with pytest.raises(BadImage, match=r"^cats is a folder; choose a picture inside it"):
        images.open_image(tmp_path / "cats")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadImage, match="pipe is not an ordinary file"):
        images.open_image(tmp_path / "pipe")
    with pytest.raises(BadImage, match=r"cannot be opened \(File name too long\)"):
        images.open_image(tmp_path / ("x" * 5000))
    with pytest.raises(BadImage, match=r"cannot be opened \(embedded null"):
        images.open_image("nul\0l.png")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # the tests may run as an administrator, whom no file refuses
    (tmp_path / "secret.png").touch()
    with pytest.raises(BadImage, match=r"^secret\.png may not be read"):
        images.open_image(tmp_path / "secret.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.touch(0o000)
    with pytest.raises(BadImage, match="may not be read"):
        images.open_image(path)


def test_sources_that_fail_while_read(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError("connection reset")

    with pytest.raises(BadImage, match=r"picture cannot be read \(connection reset\)"):
        images.open_image(Broken())
    memory = Path("/proc/self/mem")  # an ordinary file to the eye, whose first bytes cannot be read
    if memory.is_file():
        with pytest.raises(BadImage, match="mem cannot be decoded whole"):
            images.open_image(memory)


# ---- bounds -------------------------------------------------------------------------------------------------------


def test_the_bound_is_exact_and_named() -> None:
    data = png(1000, 2, 8, 0, bytes(2000))
    assert images.open_image(data, max_megapixels=0.002).width == 1000
    with pytest.raises(
        BadImage, match=r"^wall\.png has 1,000 by 2 pixels, 0\.0 megapixels; at most 0\.0019 are"
    ) as caught:
        images.open_image(data, name="wall.png", max_megapixels=0.0019)
    assert "Scale it down, or raise CNNVIZ_MAX_IMAGE_MEGAPIXELS" in str(caught.value)


def test_the_bound_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(1001, 1000, 1, 0, bytes(126 * 1000))
    assert images.open_image(data).width == 1001
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(max_image_megapixels=1))
    with pytest.raises(BadImage, match=r"1,001 by 1,000 pixels, 1\.0 megapixels; at most 1 are decoded"):
        images.open_image(data)


def huge(file_format: str) -> bytes:
    """A small file whose header promises 30,000 by 30,000 pixels (16,383 by 16,383 for WebP, its largest)."""
    if file_format == "PNG":
        return png(30000, 30000, 8, 2, bytes(30000))
    small = bytearray(
        saved(Image.new("L", (16, 16)), file_format, **{"lossless": True} if file_format == "WEBP" else {})
    )
    if file_format == "JPEG":
        at = small.index(b"\xff\xc0") + 5
        small[at : at + 4] = struct.pack(">HH", 30000, 30000)
    if file_format == "GIF":
        small[6:10] = struct.pack("<HH", 30000, 30000)
    if file_format == "BMP":
        small[18:26] = struct.pack("<ii", 30000, 30000)
    if file_format == "TIFF":
        for tag in (256, 257):
            at = small.index(struct.pack("<HHI", tag, 4, 1)) + 8
            small[at : at + 4] = struct.pack("<I", 30000)
    if file_format == "WEBP":
        small[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    return bytes(small)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_bomb_is_refused_at_once_and_without_memory(file_format: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(huge(file_format))
    assert path.stat().st_size < 50_000
    script = """
import resource, sys, time
from cnnviz_core import images
from cnnviz_core.errors import BadImage
images.from_pixels(images.np.zeros((8, 8), "uint8"), name="")
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    images.open_image(sys.argv[1])
except BadImage as error:
    print(round((time.process_time() - start) * 1e3), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, path], capture_output=True, text=True, check=True
    )
    numbers, message = done.stdout.splitlines()
    milliseconds, kilobytes = map(int, numbers.split())
    assert milliseconds < 100  # of the processor; decoding would take seconds
    assert kilobytes < 8_000
    assert re.match(r"bomb\.png has (30,000 by 30,000 pixels|16,383 by 16,383 pixels|too many pixels)", message)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_pillows_own_bound_neither_warns_nor_stops(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its process-wide bound and raises above twice that, below our bound of 100 megapixels."""
    data = {size: saved(Image.new("RGB", (size, 10), RED), file_format, quality=100) for size in (150, 250)}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with python_warnings("error"):
        assert np.abs(images.open_image(data[150]).pixels.astype(int) - RED).max() <= 4
        if file_format == "WEBP" and int(PIL.__version__.split(".")[0]) >= 13:  # Pillow 12 looks at no bound there
            with pytest.raises(
                BadImage, match=r"wide has too many pixels for a WebP file, of which at most 0 megapixels"
            ):
                images.open_image(data[250], name="wide")
        else:
            assert images.open_image(data[250]).width == 250
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits"])
def test_a_compressed_tiff_may_exceed_pillows_bound_too(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.effect_noise((250, 10), 50), "TIFF", compression=compression)
    expected = images.open_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert images.open_image(data) == expected


def test_a_jpeg_of_many_passes_is_refused() -> None:
    jpeg = saved(Image.new("L", (512, 512), 128), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    one_pass = jpeg[last:-2]

    def with_passes(count: int) -> bytes:
        return jpeg[:-2] + one_pass * count + jpeg[-2:]

    assert images.open_image(with_passes(50)) == images.open_image(jpeg)
    with pytest.raises(BadImage, match="JPEG of more than 100 passes; save it anew"):
        images.open_image(with_passes(101))


def test_not_enough_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", exhausted)
    with pytest.raises(BadImage, match=r"big\.png needs more memory than there is; scale it down"):
        images.open_image(png(1, 1, 8, 0, b"\0"), name="big.png")


# ---- damage -------------------------------------------------------------------------------------------------------


def samples(size: tuple[int, int]) -> dict[str, bytes]:
    """Small files of every format, mode and compression, with EXIF turns, profiles and further frames."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    rgba, rgb = Image.fromarray(noise), Image.fromarray(noise[:, :, :3].copy())
    modes = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "LA", "CMYK")} | {"RGB": rgb, "RGBA": rgba}
    modes["I;16"] = Image.fromarray(noise.view(np.uint16)[:, :, 0].copy())
    modes["F"] = Image.fromarray(noise[:, :, 0].astype(np.float32) / 255)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    more = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]}
    files = {}
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"):
        files[f"png {mode}"] = saved(modes[mode], "PNG", exif=exif, icc_profile=profile)
    files["png animated"] = saved(rgb, "PNG", **more)
    files["png palette alpha"] = saved(modes["P"], "PNG", transparency=3)
    for mode in ("L", "RGB", "CMYK"):
        files[f"jpeg {mode}"] = saved(modes[mode], "JPEG", exif=exif)
        files[f"jpeg progressive {mode}"] = saved(modes[mode], "JPEG", progressive=True)
    files["mpo"] = saved(rgb, "MPO", **more)
    for mode in ("RGB", "RGBA"):
        files[f"webp {mode}"] = saved(modes[mode], "WEBP", exif=exif)
        files[f"webp lossless {mode}"] = saved(modes[mode], "WEBP", lossless=True)
    files["webp animated"] = saved(rgb, "WEBP", **more)
    files["gif"] = saved(modes["P"], "GIF", transparency=3)
    files["gif animated"] = saved(rgb, "GIF", **more)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        files[f"bmp {mode}"] = saved(modes[mode], "BMP")
    for mode in ("1", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "F"):
        for compression in ("raw", "tiff_lzw", "tiff_deflate"):
            files[f"tiff {compression} {mode}"] = saved(modes[mode], "TIFF", compression=compression, exif=exif)
    files["tiff group4"] = saved(modes["1"], "TIFF", compression="group4")
    files["tiff jpeg"] = saved(rgb, "TIFF", compression="jpeg")
    return files


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("size", [(7, 5), (90, 70)])
def test_a_file_that_ends_early_is_refused_or_whole(size: tuple[int, int], action: str, tmp_path: Path) -> None:
    """At many lengths and each of the last, where tags and notes stand; a path takes another way through libtiff."""
    path = tmp_path / "short"
    refused = 0
    with python_warnings(action):
        for case, data in samples(size).items():
            whole = images.open_image(data)
            lengths = {*range(0, len(data), max(1, len(data) // 50)), *range(len(data) - 20, len(data))}
            for length in sorted(lengths):
                if "lzw" in case:
                    path.write_bytes(data[:length])
                for source in (data[:length], path) if "lzw" in case else (data[:length],):
                    try:
                        assert images.open_image(source) == whole, f"{case}, {length} of {len(data)} bytes"
                    except BadImage:
                        refused += 1
    assert refused > 2000


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The file with some bytes changed, zeroed, set, cut out or doubled, mostly near its start."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = min(rng.randrange(len(changed)), rng.randrange(len(changed)))
        how = rng.randrange(6)
        if how == 0:
            changed[at] = rng.randrange(256)
        elif how == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            changed[at] = rng.choice((0, 1, 127, 128, 255))
        elif how == 3:
            changed[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        elif how == 4 and len(changed) > 40:
            del changed[at : at + rng.randrange(1, 20)]
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 20)]
    return bytes(changed)


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("file_format", ["png", "jpeg", "mpo", "webp", "gif", "bmp", "tiff"])
def test_damaged_files_open_or_raise_badimage_and_nothing_else(file_format: str, action: str) -> None:
    rng = random.Random(f"{file_format} {action}")
    chosen = [data for case, data in samples((9, 7)).items() if case.startswith(file_format)]
    opened = refused = 0
    messages = set()
    with python_warnings(action):
        for number in range(400):
            data = mutated(chosen[number % len(chosen)], rng)
            try:
                image = images.open_image(data, max_megapixels=1)
            except BadImage as error:
                messages.add(str(error))
                refused += 1
            else:
                assert image.pixels.shape == (image.height, image.width, 3)
                opened += 1
    assert opened > 3
    assert refused > 3
    assert all(re.match(r"picture (is|has|cannot|needs) .*[.]$", message) for message in messages)


# ---- threads ------------------------------------------------------------------------------------------------------


def test_threads_give_what_one_thread_gives(tmp_path: Path) -> None:
    files = samples((90, 70))
    broken = saved(Image.new("RGB", (90, 70)), "TIFF")[:-6]  # makes Pillow warn, which must disturb nobody
    paths = {case: tmp_path / str(number) for number, case in enumerate(files)}
    for case, path in paths.items():
        path.write_bytes(files[case])
    expected = {case: images.open_image(data).digest for case, data in files.items()}
    filters, bound = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    start = threading.Barrier(8)

    def work(seed: int) -> list[str]:
        start.wait()
        wrong = []
        for case in random.Random(seed).sample(sorted(files), len(files)):
            for source in (files[case], paths[case]):
                wrong += [case] * (images.open_image(source).digest != expected[case])
            with pytest.raises(BadImage):
                images.open_image(broken)
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[]] * 8
    assert warnings.filters == filters
    assert bound == Image.MAX_IMAGE_PIXELS


def _jpeg(size: tuple[int, int] = (75, 50), mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


_AS_IT_IS = {"size": lambda height, width: (height, width), "name": "a.jpg"}


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_read_for_a_collection_has_the_very_pixels(subsampling: int, quality: int, progressive: bool) -> None:
    content = _jpeg(subsampling=subsampling, quality=quality, progressive=progressive)
    found = images.open_reduced(content, **_AS_IT_IS)
    np.testing.assert_array_equal(found, images.open_image(content, name="a.jpg").pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs_have_the_very_pixels_too(mode: str) -> None:
    content = _jpeg(mode=mode)
    found = images.open_reduced(content, **_AS_IT_IS)
    np.testing.assert_array_equal(found, images.open_image(content, name="a.jpg").pixels)


def test_a_turned_jpeg_is_turned_for_a_collection() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = _jpeg(exif=exif.tobytes())
    found = images.open_reduced(content, **_AS_IT_IS)
    assert found.shape == (75, 50, 3)
    np.testing.assert_array_equal(found, images.open_image(content, name="a.jpg").pixels)


def test_a_jpeg_cut_short_is_refused_for_a_collection() -> None:
    content = _jpeg()
    with pytest.raises(BadImage, match=r"a\.jpg cannot be decoded whole"):
        images.open_reduced(content[: len(content) // 2], **_AS_IT_IS)


def test_a_damaged_jpeg_is_what_pillow_makes_of_it() -> None:
    """Many places of the file overwritten: the same pixels, or refused by both."""
    content = _jpeg((160, 120), quality=90)
    for place in range(200, len(content), 97):
        damaged = content[:place] + b"\xff\x00\xd9\x17" + content[place + 4 :]
        try:
            expected = images.open_image(damaged, name="a.jpg").pixels
        except BadImage:
            with pytest.raises(BadImage):
                images.open_reduced(damaged, **_AS_IT_IS)
        else:
            np.testing.assert_array_equal(images.open_reduced(damaged, **_AS_IT_IS), expected)


def test_two_sizes_in_one_jpeg_take_no_more_memory_than_the_checked_one() -> None:
    """A second header that says 65,000 by 65,000 between the first and the pixels."""
    content = _jpeg()
    start = content.index(b"\xff\xc0")
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    frame = bytearray(content[start : start + 2 + length])
    frame[5:9] = (65_000).to_bytes(2, "big") * 2
    for hostile in (
        content[:start] + bytes(frame) + content[start:],
        content[: start + 2 + length] + bytes(frame) + content[start + 2 + length :],
    ):
        with pytest.raises(BadImage):
            images.open_reduced(hostile, **_AS_IT_IS)
