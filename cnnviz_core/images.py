"""Pictures as a network meets them: 8-bit red, green and blue, upright, decoded whole or refused.

A picture file leaves choices to its decoder, and a network's answer can hang on them. These are ours:

- **Upright.** The EXIF turn is applied, so that a phone's portrait stands as it does on the phone. Most training
  pipelines skip this turn; a network run there may be less sure of the very same file.
- **Colour as stored.** Embedded colour profiles are not applied, as torchvision and timm do not apply them either: a
  wide-gamut photo gives the numbers that a network would have been trained on, and looks a little paler here than in
  a colour-managed viewer. CMYK is converted by the plain formula; in a JPEG its inks count as inverted, as Adobe
  writes them.
- **Transparency over white**, whether it comes as an alpha channel, a palette entry or a colour key.
- **Deep grey keeps its scale.** Unsigned numbers of up to 16 bits keep their 8 highest bits, as 16-bit colour does:
  white is the largest number of that many bits, so a camera's 12 bits in a 16-bit file stay dark rather than being
  stretched. Signed, 32-bit and floating-point grey has no agreed white, so white is the smallest of 1, 255 and 65535
  that no value exceeds; where values are negative or larger still, the darkest becomes black and the brightest white.
  Infinities count as the nearest end of that range, and what is not a number becomes black.
- **First frame only** of animations, of multi-page TIFFs and of a camera's multi-picture JPEGs.

Safety: a file's first bytes choose one of six decoders, so nothing exotic is ever parsed, and its name plays no part.
The header's size is held against the bound before a pixel is decoded. Pillow's own bound is a process-wide variable;
here it neither warns nor stops a PNG, JPEG, BMP or TIFF, and nothing changes it. A file that ends early is refused.
One kind of damage cannot be told: compressed data altered in place, or a JPEG cut short and given a proper end, may
decode to wrong pixels.

Everything here is a pure function of the file and may run in any number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cnnviz_core import settings
from cnnviz_core.errors import BadImage

Pixels = NDArray[np.uint8]

_NAME_LENGTH = 80
_UNNAMED = "picture"


@dataclass(frozen=True)
class InputImage:
    """A decoded picture; made by :func:`open_image` or :func:`from_pixels`. Equal when the pixels are equal.

    Attributes:
        pixels: (H, W, 3) uint8, red green blue, 0..255, read-only.
        name: What to call it on screen: one line of at most 80 characters.
        digest: Names the pixels and their shape, whatever file they came from; 40 hexadecimal digits.
    """

    pixels: Pixels = field(compare=False, repr=False)
    name: str = field(compare=False)
    digest: str

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return int(self.pixels.shape[1])

    def pil(self) -> Image.Image:
        """A copy as a Pillow image, mode RGB."""
        return Image.fromarray(self.pixels)


def open_image(
    source: bytes | str | os.PathLike[str] | BinaryIO, *, name: str = "", max_megapixels: float | None = None
) -> InputImage:
    """A picture file as 8-bit RGB, by the rules at the top of this module.

    Args:
        source: The file's bytes, its path, or a binary stream, which is read from its start. How many bytes a stream
            may hold is for the caller to bound.
        name: What to call it on screen. Default: the path's or stream's file name, else "picture".
        max_megapixels: Largest width times height, in millions of pixels. Default: the setting
            ``max_image_megapixels``.

    Returns:
        The picture, decoded whole.

    Raises:
        BadImage: No such file, a folder, not a picture of a known format, too many pixels, cut short or damaged.
    """
    bound = settings.current().max_image_megapixels if max_megapixels is None else max_megapixels
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        shown = _shown_name(name or path.name)
        with _open_file(path, shown) as stream:
            return _input_image(_decode(stream, shown, bound), shown)
    if isinstance(source, bytes | bytearray | memoryview):
        shown = _shown_name(name)
        return _input_image(_decode(io.BytesIO(source), shown, bound), shown)
    shown = _shown_name(name or _stream_name(source))
    return _input_image(_decode(io.BytesIO(_read_all(source, shown)), shown, bound), shown)


def open_reduced(
    source: bytes, *, name: str, size: Callable[[int, int], tuple[int, int]], max_megapixels: float | None = None
) -> Pixels:
    """(H, W, 3) pixels of a picture file, perhaps fewer than the file's, for looking at many files quickly.

    A JPEG that is at least twice as large as wanted is decoded at a half, a quarter or an eighth of its size, at least
    twice as large as wanted. Reduced to the wanted size, photos of 3 megapixels differ by up to 5 of 255 and on average
    by 0.2 from what :func:`open_image` leads to. All else is as there, but nothing names the pixels.

    Args:
        source: The file's bytes.
        name: As in :func:`open_image`.
        size: From height and width of the file's picture to those wanted.
        max_megapixels: As in :func:`open_image`.

    Raises:
        BadImage: As :func:`open_image`.
    """
    bound = settings.current().max_image_megapixels if max_megapixels is None else max_megapixels
    with _opened(io.BytesIO(source), _shown_name(name), bound) as picture:
        full = picture.size
        height, width = size(picture.height, picture.width)
        picture.draft(picture.mode, (2 * width, 2 * height))
        quick = _jpeg_pixels(source, picture) if picture.size == full else None
        return quick if quick is not None else np.asarray(_loaded(picture))


def measure(stream: BinaryIO, *, name: str, max_megapixels: float | None = None) -> tuple[int, int]:
    """Width and height that :func:`open_image` would give, from the header alone: no pixel is decoded.

    Args:
        stream: The file, at its start.
        name: What to call it on screen.
        max_megapixels: As in :func:`open_image`.

    Raises:
        BadImage: As :func:`open_image`, except for damage that only decoding shows.
    """
    bound = settings.current().max_image_megapixels if max_megapixels is None else max_megapixels
    with _opened(stream, _shown_name(name), bound) as picture:
        width, height = picture.size
        # A TIFF's size is the turned one already, and a PNG's turn may lie behind the pixels, which is not worth them.
        turned = isinstance(picture, TiffImageFile) or (
            isinstance(picture, PngImageFile) and "exif" not in picture.info
        )
        return (height, width) if not turned and _turn(picture) in _QUARTER_TURNS else (width, height)


def from_pixels(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], *, name: str) -> InputImage:
    """An array as a picture; the array is copied.

    Args:
        pixels: (H, W, 3) or, for grey, (H, W) uint8, 0..255.
        name: What to call it on screen.

    Raises:
        BadImage: Another shape or kind of number, or no pixels at all.
    """
    shown = _shown_name(name)
    if pixels.dtype != np.uint8:
        raise BadImage(f"{shown} holds {pixels.dtype} numbers; scale them to 0..255 and convert to uint8.")
    if pixels.ndim not in {2, 3} or pixels.shape[2:] not in {(), (3,)} or pixels.size == 0:
        raise BadImage(f"{shown} has shape {pixels.shape}; give (height, width, 3), or (height, width) for grey.")
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    return _input_image(Image.fromarray(rgb), shown)


def _input_image(rgb: Image.Image, shown: str) -> InputImage:
    # Pillow hands out a view of an immutable buffer, so nobody can switch writing on again.
    pixels: Pixels = np.asarray(rgb)
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=20)
    digest.update(pixels.data)
    return InputImage(pixels=pixels, name=shown, digest=digest.hexdigest())


# ---- names --------------------------------------------------------------------------------------------------------

# Marks that reverse the reading order of everything after them, also on the page around the name.
_DIRECTION_MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _shown_name(name: str) -> str:
    """The name on one line, without characters that act rather than print; a long one keeps start and ending."""
    printable = "".join(
        character
        for character in name
        if unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} and character not in _DIRECTION_MARKS
    ).strip()
    if len(printable) > _NAME_LENGTH:
        half = (_NAME_LENGTH - 3) // 2
        return f"{printable[:half]}...{printable[-half:]}"
    return printable or _UNNAMED


def _stream_name(stream: BinaryIO) -> str:
    """A stream's file name; a stream over a bare file descriptor has a number there, or nothing."""
    name = getattr(stream, "name", "")
    return Path(name).name if isinstance(name, str) else ""


# ---- files --------------------------------------------------------------------------------------------------------


def _open_file(path: Path, shown: str) -> BinaryIO:
    try:
        if path.is_dir():
            raise BadImage(f"{shown} is a folder; choose a picture inside it.")
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
            raise BadImage(f"{shown} is not an ordinary file; save the picture to a file first.")
        return path.open("rb")
    except FileNotFoundError as error:
        raise BadImage(f"There is no file {shown}; check the path.") from error
    except PermissionError as error:
        raise BadImage(f"{shown} may not be read; give the program that runs cnnviz permission to read it.") from error
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a null character
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"{shown} cannot be opened ({reason}); check the path.") from error


def _read_all(stream: BinaryIO, shown: str) -> bytes:
    try:
        if stream.seekable():
            stream.seek(0)
        return stream.read()
    except OSError as error:
        raise BadImage(f"{shown} cannot be read ({error}); copy it again.") from error


# ---- formats ------------------------------------------------------------------------------------------------------


class _TiffFile(TiffImageFile):
    """Pillow's TIFF, stricter with a directory cut short and without a second look at the process-wide bound."""

    def _open(self) -> None:
        super()._open()
        # Pillow warns, goes on with the tags it got, and loses the turn. It then never learns where the next is.
        if self.tag_v2.next == self.tag_v2.offset:
            raise SyntaxError("the directory of tags is cut short")

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


# First bytes -> decoder. A camera's multi-picture JPEG (MPO) is a JPEG whose first picture is whole in itself.
_DECODERS: dict[str, tuple[re.Pattern[bytes], type[ImageFile.ImageFile]]] = {
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    "JPEG": (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    "WebP": (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    "GIF": (re.compile(rb"GIF8[79]a"), GifImageFile),
    "BMP": (re.compile(rb"BM"), BmpImageFile),
    "TIFF": (re.compile(rb"II[*+]\0|MM\0[*+]"), _TiffFile),
}
# What people most often bring instead, to name it in the refusal.
_NOT_READ: dict[str, re.Pattern[bytes]] = {
    "an SVG drawing or a web page": re.compile(rb"(\xef\xbb\xbf)?\s*<"),
    "a HEIC photo": re.compile(rb"....ftyp(hei|hev|mif|msf)", re.DOTALL),
    "an AVIF picture": re.compile(rb"....ftypavi", re.DOTALL),
    "a video": re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL),
    "a JPEG 2000 picture": re.compile(rb"....jP  |\xff\x4f\xff\x51", re.DOTALL),
    "a PDF document": re.compile(rb"%PDF"),
    "a Photoshop document": re.compile(rb"8BPS"),
    "a PostScript drawing": re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"),
    "a ZIP archive": re.compile(rb"PK\x03\x04"),
}
_SIGNATURE_BYTES = 64

# The seams between the passes of a progressive JPEG; the length that each states follows from its components.
_PASS = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_MAX_PASSES = 100

# What Pillow's decoders raise on damaged files; mutating half a million files brought up nothing else.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,  # a TIFF tag with the wrong kind of number
    Warning,  # a remark on broken tags, where the operator turns warnings into errors
)


def _decode(stream: BinaryIO, shown: str, max_megapixels: float) -> Image.Image:
    """The stream's first picture, checked, decoded, turned upright and brought to 8-bit RGB."""
    with _opened(stream, shown, max_megapixels) as picture:
        return _loaded(picture)


def _loaded(picture: ImageFile.ImageFile) -> Image.Image:
    picture.load()
    return _upright(_to_rgb(picture), picture)


def _jpeg_pixels(source: bytes, picture: ImageFile.ImageFile) -> Pixels | None:
    """A JPEG's pixels, those of Pillow in half of its time; None for all else, and where something is amiss."""
    if picture.format != "JPEG" or picture.mode != "RGB" or _turn(picture) is not None:
        return None
    pixels: Pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    try:  # into memory of the size that was checked, whatever the file says to another reader
        found: Pixels = simplejpeg.decode_jpeg(source, "RGB", buffer=pixels)
    except ValueError:  # also of remarks; what is wrong and whether it can be passed over is for Pillow to say
        return None
    return found if found.shape == pixels.shape else None


@contextlib.contextmanager
def _opened(stream: BinaryIO, shown: str, max_megapixels: float) -> Iterator[ImageFile.ImageFile]:
    """The stream's first picture, its header checked; what its decoder raises meanwhile becomes a sentence."""
    kind = "picture"
    try:
        kind = _kind(stream.read(_SIGNATURE_BYTES), shown)
        stream.seek(0)
        with _DECODERS[kind][1](stream) as picture:
            _check_work(picture, stream, shown, max_megapixels)
            yield picture
    except _DECODER_ERRORS as error:
        raise BadImage(
            f"{shown} cannot be decoded whole: the {kind} file is cut short, damaged or of a rare kind. "
            "Copy it again, or save it anew as PNG or JPEG."
        ) from error
    except Image.DecompressionBombError as error:  # WebP and GIF look at Pillow's own bound as they read the header
        raise BadImage(
            f"{shown} has too many pixels for a {kind} file, of which at most "
            f"{min(max_megapixels, 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6):.0f} megapixels are decoded. Scale it down."
        ) from error
    except MemoryError as error:
        raise BadImage(f"{shown} needs more memory than there is; scale it down.") from error


def _kind(head: bytes, shown: str) -> str:
    """The format by its first bytes, a key of ``_DECODERS``."""
    if not head:
        raise BadImage(f"{shown} is empty, as after a copy that failed; copy it again.")
    for kind, (signature, _) in _DECODERS.items():
        if signature.match(head):
            return kind
    looks = next((f": it looks like {what}" for what, signature in _NOT_READ.items() if signature.match(head)), "")
    *others, last = _DECODERS
    raise BadImage(f"{shown} is not a picture that cnnviz reads{looks}. Save it as {', '.join(others)} or {last}.")


def _check_work(picture: ImageFile.ImageFile, stream: BinaryIO, shown: str, max_megapixels: float) -> None:
    """Refuses, from the header alone, what would take too much memory or time to decode."""
    width, height = picture.size
    if width * height > max_megapixels * 1e6:
        raise BadImage(
            f"{shown} has {width:,} by {height:,} pixels, {width * height / 1e6:,.1f} megapixels; at most "
            f"{max_megapixels:g} are decoded. Scale it down, or raise CNNVIZ_MAX_IMAGE_MEGAPIXELS."
        )
    # Each pass over a progressive JPEG costs as much as a picture and may take 60 bytes of file.
    if "progressive" in picture.info and _num_passes(stream) > _MAX_PASSES:
        raise BadImage(f"{shown} is a JPEG of more than {_MAX_PASSES} passes; save it anew as PNG or JPEG.")


def _num_passes(stream: BinaryIO) -> int:
    stream.seek(0)
    return sum(len(_PASS.findall(block)) for block in iter(lambda: stream.read(1 << 20), b""))


# ---- pixels -------------------------------------------------------------------------------------------------------

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_QUARTER_TURNS = {turn for orientation, turn in _TURNS.items() if orientation >= 5}


def _upright(rgb: Image.Image, picture: Image.Image) -> Image.Image:
    """``rgb`` turned as the EXIF block of the loaded ``picture`` says; Pillow has turned a TIFF by then."""
    turn = _turn(picture)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODER_ERRORS:  # the pixels are whole; a broken note beside them is no reason to refuse
        return None


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in {"I", "F"} or picture.mode.startswith("I;16"):
        return Image.fromarray(_deep_grey(picture)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _deep_grey(picture: Image.Image) -> Pixels:
    """(H, W) grey of more than 8 bits brought to 0..255, by the rules at the top of this module."""
    values = np.asarray(picture)
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    grey: Pixels
    if picture.mode.startswith("I;16"):
        bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
        grey = (values >> (bits - 8)).astype(np.uint8)
    elif picture.mode == "I" and tags.get(ExifTags.Base.SampleFormat, (1,)) == (1,):
        grey = _by_range(values.view(np.uint32))  # Pillow hands out unsigned numbers as signed
    else:
        grey = _by_range(values)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # 0 is white; Pillow sees to that in 8 bits only
        grey = 255 - grey
    if "transparency" in picture.info:  # a PNG's one transparent grey
        grey[values == picture.info["transparency"]] = 255
    return grey


def _by_range(values: NDArray[Any]) -> Pixels:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= 0 and high <= 65535:
        low, high = 0.0, next(white for white in (1.0, 255.0, 65535.0) if high <= white)
    scaled: NDArray[np.float64] = values.astype(np.float64)
    np.nan_to_num(scaled, copy=False, nan=low, posinf=high, neginf=low)
    scaled -= low
    scaled *= 255 / ((high - low) or 1)  # a picture of one value is black
    return np.rint(scaled, out=scaled).astype(np.uint8)
