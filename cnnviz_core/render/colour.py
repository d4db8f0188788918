"""Numbers -> colour indices -> pixels.

A scale maps the numbers linearly onto 255 levels, and a colour map gives each level a colour. 255 rather than 256, for
two reasons: zero of a symmetric scale falls exactly on the middle level, and the 256th entry of an 8-bit palette stays
free for values that are missing (not-a-number, infinite).

All colour maps are perceptual: equal steps in value look about equally large, and sequential ones grow steadily in
lightness, so that they also read in grey. Rainbow maps such as jet are left out, because they draw edges where the
numbers have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import plotly.colors
from numpy.typing import NDArray

from cnnviz_core.errors import BadSetting, did_you_mean
from cnnviz_core.images import Pixels
from cnnviz_core.results import FloatArray

Mode = Literal["channel", "layer", "fixed"]
Rgb = tuple[int, int, int]

MISSING = 255  # the palette index of values that are missing; levels are 0..254

_TOP = MISSING - 1
_GREY: Rgb = (128, 128, 128)
_ROSE: Rgb = (186, 104, 124)  # for maps that hold greys themselves


@dataclass(frozen=True, eq=False)
class ColourMap:
    """Colours for the 255 levels and for missing values.

    Attributes:
        title: Its name on screen.
        signed: Whether it is made for values around zero: two hues, lightest in the middle.
        lut: (256, 3) uint8, read-only. Rows 0..254 are the levels, so a fraction t in 0..1 has row ``round(254 t)``;
            row 255 is the colour of missing values.
    """

    title: str
    signed: bool
    lut: Pixels


def _colour_map(title: str, stops: Sequence[str], *, signed: bool = False, missing: Rgb = _GREY) -> ColourMap:
    """The stops, equally spaced and linearly interpolated in sRGB, which is near enough between close colours."""
    rgb, _ = plotly.colors.convert_colors_to_same_type(list(stops), colortype="tuple")
    table = np.array(rgb) * 255
    places = np.linspace(0, len(table) - 1, MISSING)
    lut = np.empty((MISSING + 1, 3), np.uint8)
    for primary in range(3):
        lut[:MISSING, primary] = np.rint(np.interp(places, np.arange(len(table)), table[:, primary]))
    lut[MISSING] = missing
    lut.flags.writeable = False
    return ColourMap(title, signed, lut)


COLOUR_MAPS: dict[str, ColourMap] = {
    "inferno": _colour_map("Inferno", plotly.colors.sequential.Inferno),
    "magma": _colour_map("Magma", plotly.colors.sequential.Magma),
    "viridis": _colour_map("Viridis", plotly.colors.sequential.Viridis),
    "cividis": _colour_map("Cividis (safe for colour-blind eyes)", plotly.colors.sequential.Cividis, missing=_ROSE),
    "grey": _colour_map("Grey", ("#000000", "#ffffff"), missing=_ROSE),
    "blue_red": _colour_map("Blue, white, red", plotly.colors.diverging.RdBu_r, signed=True),
    "purple_orange": _colour_map(
        "Purple, white, orange (safe for colour-blind eyes)", plotly.colors.diverging.PuOr_r, signed=True
    ),
}
DEFAULT_SEQUENTIAL = "inferno"  # dark where little happens, so that a photo below fades there
DEFAULT_DIVERGING = "blue_red"


def find_colour_map(name: str | None = None, *, signed: bool = False) -> ColourMap:
    """The colour map of that name, or the default for signed or unsigned values.

    Raises:
        BadSetting: There is none of that name.
    """
    chosen = name or (DEFAULT_DIVERGING if signed else DEFAULT_SEQUENTIAL)
    if chosen not in COLOUR_MAPS:
        near = did_you_mean(chosen, COLOUR_MAPS)
        raise BadSetting(f"There is no colour map {chosen!r}.{near} The choices are {', '.join(COLOUR_MAPS)}.")
    return COLOUR_MAPS[chosen]


@dataclass(frozen=True)
class Scale:
    """Which values get the first and the last colour; what lies beyond gets the same colour as the limit.

    Attributes:
        low: Value of the first level; one entry, or one per channel.
        high: Value of the last level, always above ``low``.
        signed: Whether the limits are meant for values around zero.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    signed: bool

    @classmethod
    def fixed(cls, low: float, high: float, *, signed: bool | None = None) -> Scale:
        """The same limits for everything; signed, unless said otherwise, when zero lies between them.

        Raises:
            BadSetting: The limits are not finite or in the wrong order.
        """
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise BadSetting(f"The colour limits are {low} and {high}; the first must be below the second.")
        return cls((float(low),), (float(high),), low < 0 < high if signed is None else signed)

    def of_channels(self, channels: Sequence[int] | NDArray[np.intp]) -> Scale:
        """The limits of channels in another order."""
        if len(self.low) == 1:
            return self
        return Scale(tuple(self.low[c] for c in channels), tuple(self.high[c] for c in channels), self.signed)

    def of_channel(self, channel: int) -> Scale:
        """The limits that hold for one channel."""
        at = channel if len(self.low) > 1 else 0
        return Scale((self.low[at],), (self.high[at],), self.signed)


def scale_of(
    values: FloatArray,
    *,
    mode: Mode = "layer",
    low: float | None = None,
    high: float | None = None,
    clip_percent: float = 0,
    signed: bool | None = None,
) -> Scale:
    """Limits that fit the values.

    Unsigned limits are the minimum and the maximum, signed ones the largest absolute value on both sides of zero.
    Missing values do not count. Where all values are the same, the limits are set apart, so that a flat map gets one
    flat colour, unsigned that of the lower limit.

    Args:
        values: (C, h, w) or (h, w).
        mode: "channel": each channel by itself, as torchvision's ``make_grid(normalize=True, scale_each=True)``;
            "layer": all channels together, as ``scale_each=False``; "fixed": exactly ``low`` and ``high``.
        low: Pins the lower limit: 0 where a map's zero must stay the first colour. Signed: pins ``-low``, too.
        high: Pins the upper limit. Signed: pins ``-high``, too.
        clip_percent: Share of the values, 0 to below 50, that may lie beyond each limit: 1 means from the 1st to the
            99th percentile, or to the 99th of the absolute values where signed.
        signed: None: signed if any value is below zero and ``low`` does not exclude it.

    Raises:
        BadSetting: Limits in the wrong order or missing for "fixed", or a percentage outside its range.
    """
    if mode == "fixed":
        if low is None or high is None:
            raise BadSetting("A fixed colour scale needs both limits; give low and high.")
        return Scale.fixed(low, high, signed=signed)
    if not 0 <= clip_percent < 50:
        raise BadSetting(f"clip_percent is {clip_percent}; it must be at least 0 and below 50.")
    rows = values.reshape(len(values) if mode == "channel" and values.ndim == 3 else 1, -1)
    bottom, top = _extremes(rows)
    if signed is None:
        signed = bool(bottom.min() < 0) and (low is None or low < 0)
    if signed:
        return _symmetric(rows, bottom, top, pin=high if high is not None else low, clip_percent=clip_percent)
    if low is not None and high is not None:
        return Scale.fixed(low, high, signed=False)
    if clip_percent:
        bottom, top = _percentiles(rows, bottom, top, clip_percent)
    return _from_low_to_high(bottom, top, low=low, high=high)


def to_indices(values: FloatArray, *, scale: Scale) -> Pixels:
    """The row of the colour table for each value.

    Args:
        values: (C, h, w), or (h, w) for a scale with one pair of limits.
        scale: One pair of limits, or one per channel.

    Returns:
        uint8 of the same shape: 0..254, or :data:`MISSING`.
    """
    levels, missing = _levels(values, scale, _TOP)
    if missing is not None:
        levels[missing] = MISSING
    return levels


def colourise(values: FloatArray, *, scale: Scale, colour_map: str | None = None) -> Pixels:
    """The map in colour, (h, w, 3) uint8.

    Args:
        values: (h, w).
        scale: One pair of limits.
        colour_map: A name from :data:`COLOUR_MAPS`; None: the default for the scale.
    """
    return find_colour_map(colour_map, signed=scale.signed).lut[to_indices(values, scale=scale)]


def rgb_from_components(components: FloatArray, *, clip_percent: float = 1) -> Pixels:
    """Three maps as the red, green and blue of one picture, (h, w, 3) uint8.

    Each is stretched by itself, so the colours show where things are alike, not how strong a component is.

    Args:
        components: (3, h, w), for instance the first three principal components of a layer.
        clip_percent: Share of the values that may lie beyond each end of the stretch.
    """
    scale = scale_of(components, mode="channel", clip_percent=clip_percent, signed=False)
    levels, missing = _levels(components, scale, 255)
    pixels = np.ascontiguousarray(levels.transpose(1, 2, 0))
    if missing is not None:
        pixels[missing.any(axis=0)] = _GREY
    return pixels


def _levels(values: FloatArray, scale: Scale, top: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Values as whole levels 0..top, and which of them are missing (None: none)."""
    per_channel = (-1,) + (1,) * (values.ndim - 1) if values.ndim == 3 else ()
    low, high = (np.array(limit).reshape(per_channel) for limit in (scale.low, scale.high))
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.subtract(values, low.astype(np.float32), dtype=np.float32)
        steps *= (top / (high - low)).astype(np.float32)
    missing = ~np.isfinite(values)
    any_missing = bool(missing.any())
    if any_missing:
        steps[missing] = 0
    steps += 0.5  # truncation below then rounds
    np.clip(steps, 0, top, out=steps)
    return steps.astype(np.uint8), missing if any_missing else None


def _extremes(rows: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimum and maximum of each row's finite values; 0 and 0 where there are none."""
    bottom, top = rows.min(axis=1), rows.max(axis=1)
    if not (np.isfinite(bottom).all() and np.isfinite(top).all()):
        present = np.isfinite(rows)
        bottom = rows.min(axis=1, where=present, initial=np.inf)
        top = rows.max(axis=1, where=present, initial=-np.inf)
        empty = ~present.any(axis=1)
        bottom[empty] = top[empty] = 0
    return bottom.astype(np.float64), top.astype(np.float64)


def amplified(difference: NDArray[np.int16]) -> tuple[Pixels, int]:
    """A difference of two pictures, made visible around mid grey, 128.

    Args:
        difference: (H, W, C) whole numbers, -255..255, C being 1 or 3.

    Returns:
        Pixels (H, W, 3), and the whole factor by which the difference is enlarged: the largest that keeps it within
        0..255.
    """
    largest = int(np.abs(difference).max(initial=0))
    factor = max(1, 127 // max(1, largest))
    pixels = np.clip(128 + factor * difference.astype(np.int64), 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*difference.shape[:2], 3)).copy(), factor


def _percentiles(
    rows: FloatArray, bottom: NDArray[np.float64], top: NDArray[np.float64], clip_percent: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentiles of each row's finite values; the given extremes where the percentiles coincide, as on sparse maps."""
    lower, upper = bottom.copy(), top.copy()
    for at, row in enumerate(rows):
        present = row[np.isfinite(row)]
        if len(present):
            lower[at], upper[at] = np.percentile(present, (clip_percent, 100 - clip_percent))
    sparse = lower >= upper
    return np.where(sparse, bottom, lower), np.where(sparse, top, upper)


def _from_low_to_high(
    bottom: NDArray[np.float64], top: NDArray[np.float64], *, low: float | None, high: float | None
) -> Scale:
    """The limits given or pinned, set apart where they coincide."""
    bottom = bottom if low is None else np.full_like(bottom, low)
    top = top if high is None else np.full_like(top, high)
    size = np.maximum(np.abs(bottom), np.abs(top))
    # Differences finer than float32 resolves are rounding noise, not structure.
    flat = top - bottom <= np.maximum(1e-6 * size, 1e-30)
    apart = np.maximum(size, 1)
    if high is None:
        top = np.where(flat, bottom + apart, top)
    else:
        bottom = np.where(flat, top - apart, bottom)
    return Scale(tuple(bottom.tolist()), tuple(top.tolist()), signed=False)


def _symmetric(
    rows: FloatArray,
    bottom: NDArray[np.float64],
    top: NDArray[np.float64],
    *,
    pin: float | None,
    clip_percent: float,
) -> Scale:
    """Limits at equal distance from zero."""
    if pin is not None:
        return Scale.fixed(-abs(pin), abs(pin), signed=True)
    reach = np.maximum(-bottom, top)
    if clip_percent:
        _, reach = _percentiles(np.abs(rows), np.zeros_like(reach), reach, clip_percent)
    reach = np.where(reach <= 1e-30, 1, reach)
    return Scale(tuple((-reach).tolist()), tuple(reach.tolist()), signed=True)
