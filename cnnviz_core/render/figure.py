"""A picture with title, colour bar and caption, for a slide.

The picture is enlarged only by whole factors, so each of its pixels stays a crisp square: nothing is smoothed that
was not smooth before. Text is set in the font that comes with Pillow, hence looks the same on every machine.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnnviz_core.images import Pixels
from cnnviz_core.numerals import format_value
from cnnviz_core.render.colour import MISSING, Scale, find_colour_map
from cnnviz_core.render.encoding import png

# Lengths in pixels of the file, which is meant to be shown at half its size.
_PICTURE_PX = 1120
_LARGEST_PX = 2000
_TEXT_PX = 720
_MARGIN = 48
_GAP = 32
_BAR_WIDTH = 40
_BAR_HEIGHT = 440
_TICK = 10
_PAPER = (255, 255, 255)
_INK = (28, 33, 44)
_QUIET_INK = (92, 99, 112)
_FRAME = (205, 209, 216)

# The bundled font has ASCII and little more.
_REPLACED = str.maketrans({"\u00d7": "x", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2192": "->", "\u00df": "ss"})
_BEYOND_ASCII = "\u00b0\u00b1\u00b7\u2018\u2019\u201c\u201d\u2026"  # degree, plus-minus, middle dot, quotes, ellipsis

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def figure_png(
    pixels: Pixels,
    *,
    title: str,
    caption: str = "",
    scale: Scale | None = None,
    colour_map: str | None = None,
    unit: str = "",
) -> bytes:
    """The picture on white paper with a title above, a colour bar at the right and a caption below, as a PNG.

    Args:
        pixels: (H, W, 3). Small pictures are enlarged by a whole factor, very large ones reduced to 2,000 pixels.
        title: What is to be seen.
        caption: How it was made: network, layer, class, settings.
        scale: What the colours mean; None draws no colour bar. A scale per channel gets a bar without numbers.
        colour_map: A name from :data:`~cnnviz_core.render.COLOUR_MAPS`; None: the default for the scale.
        unit: Name of the quantity beside the colour bar.
    """
    body = _at_display_size(pixels)
    if scale is not None:
        body = _beside(body, _colour_bar(scale, colour_map, unit, height=max(body.height, _BAR_HEIGHT)))
    width = max(body.width, _TEXT_PX)
    parts = [body]
    if title:
        parts.insert(0, _paragraph(title, _font(42), _INK, width))
    if caption:
        parts.append(_paragraph(caption, _font(28), _QUIET_INK, width))
    return png(np.asarray(_stacked(parts, width)))


def _at_display_size(pixels: Pixels) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(picture.size)
    if longest > _LARGEST_PX:
        picture.thumbnail((_LARGEST_PX, _LARGEST_PX), Image.Resampling.LANCZOS)
        return picture
    factor = max(1, round(_PICTURE_PX / longest))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    body = Image.new("RGB", (left.width + _GAP + right.width, max(left.height, right.height)), _PAPER)
    body.paste(left, (0, 0))
    body.paste(right, (left.width + _GAP, 0))
    return body


def _stacked(parts: list[Image.Image], width: int) -> Image.Image:
    height = sum(part.height for part in parts) + _GAP * (len(parts) - 1)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height + 2 * _MARGIN), _PAPER)
    top = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, top))
        top += part.height + _GAP
    return sheet


def _colour_bar(scale: Scale, colour_map: str | None, unit: str, *, height: int) -> Image.Image:
    """The colours from the upper limit down to the lower one, with five values and the unit."""
    font = _font(28)
    labels = _tick_labels(scale)
    left = _BAR_WIDTH + 2 * _TICK
    name = _paragraph(unit, font, _INK, height).rotate(90, expand=True) if unit else Image.new("RGB", (0, 0))
    labels_width = round(max(font.getlength(label) for label in labels))
    bar = Image.new("RGB", (left + labels_width + (_TICK + name.width if unit else 0), height), _PAPER)
    levels = np.rint(np.linspace(MISSING - 1, 0, height)).astype(np.uint8)
    colours = find_colour_map(colour_map, signed=scale.signed).lut[levels]
    bar.paste(Image.fromarray(np.repeat(colours[:, None], _BAR_WIDTH, axis=1)), (0, 0))
    draw = ImageDraw.Draw(bar)
    draw.rectangle((0, 0, _BAR_WIDTH - 1, height - 1), outline=_FRAME)
    half_line = 16
    for label, place in zip(labels, np.linspace(height - 1, 0, len(labels)), strict=True):
        draw.line((_BAR_WIDTH, place, _BAR_WIDTH + _TICK, place), fill=_QUIET_INK, width=2)
        draw.text((left, np.clip(place, half_line, height - half_line)), label, _INK, font, anchor="lm")
    bar.paste(name, (left + labels_width + _TICK, (height - name.height) // 2))
    return bar


def _tick_labels(scale: Scale) -> list[str]:
    """Texts from the lower limit to the upper one, at equal steps."""
    if len(scale.low) > 1:
        return ["-max", "0", "max"] if scale.signed else ["min", "max"]
    return [_drawable(format_value(value)) for value in np.linspace(scale.low[0], scale.high[0], 5).tolist()]


def _paragraph(text: str, font: _Font, ink: tuple[int, int, int], width: int) -> Image.Image:
    """The text in lines no longer than ``width``, on an image as wide as the longest."""
    lines = _lines(_drawable(text), font, width)
    line_height = round(1.3 * font.getbbox("Ag")[3])
    longest = max(font.getlength(line) for line in lines)
    block = Image.new("RGB", (min(width, round(longest) + 2), line_height * len(lines)), _PAPER)
    draw = ImageDraw.Draw(block)
    for at, line in enumerate(lines):
        draw.text((0, at * line_height), line, ink, font)
    return block


def _lines(text: str, font: _Font, width: int) -> list[str]:
    """The text broken at spaces, and inside a word only where it is longer than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for character in word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line] or [""]


def _drawable(text: str) -> str:
    """The text in characters that the bundled font has: accents are dropped, unknown letters become "?"."""
    plain = unicodedata.normalize("NFKD", text.translate(_REPLACED))
    kept = (character for character in plain if not unicodedata.combining(character))
    return "".join(c if c.isascii() or c in _BEYOND_ASCII else "?" for c in kept)


def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)
