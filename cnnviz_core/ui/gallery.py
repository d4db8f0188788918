"""Maps side by side, one of them to be looked at closely: methods, layers, classes or networks against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from cnnviz_core import render
from cnnviz_core.render import Scale
from cnnviz_core.results import FloatArray, Run
from cnnviz_core.ui import frame, pickers, show
from cnnviz_core.ui.pickers import Selection

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_TILE_PX = 128
_FIFTH_PX = 144  # the enlarged map stands beside the others where two fifths of the page are 320 px or more


@dataclass(frozen=True)
class MapPicture:
    """One map with what is needed to draw it, name it and take it away.

    Attributes:
        name: Under the tile, and in the link; :func:`told_apart` where several have the same.
        values: (h, w) raw, over the crop that the network saw.
        run: The result's own account.
        code: Python that picks the values out of ``result``.
        chosen: Network and picture.
        title: What is to be seen, for file names and readers.
        unit: What the values are; those of maps with the same one can be compared.
        pixels: (H, W, 3) what to draw where that is not the values' colours over the crop; None where it is.
        note: A number that tells how good the map is; empty for none.
        evidence: (h, w) what checks and cuts go by, where that is not the values.
    """

    name: str
    values: FloatArray
    run: Run
    code: str
    chosen: Selection
    title: str
    unit: str
    pixels: show.Pixels | None = None
    note: str = ""
    evidence: FloatArray | None = None

    @property
    def checked(self) -> FloatArray:
        """The map that checks and cuts go by, (h, w): high where it matters."""
        return self.values if self.evidence is None else self.evidence


@dataclass(frozen=True)
class Look:
    """How maps become colours on this page.

    Attributes:
        shared: Whether maps of the same unit side by side have one scale.
        smooth: Whether values between the cells are interpolated.
        colour_map: Name for values from 0 up.
        clip_percent: Share of the values beyond the last colour.
        opacity: How much of a map is seen over the photo at first, 0..1.
    """

    shared: bool
    smooth: bool
    colour_map: str
    clip_percent: float
    opacity: float

    def scales(self, maps: Sequence[MapPicture]) -> list[Scale]:
        """Colour limits of each map; from 0 up unless any value is below."""
        if not self.shared:
            return [_from_zero(one.values, self.clip_percent) for one in maps]
        by_unit = {
            unit: _from_zero(
                np.concatenate([m.values.ravel() for m in maps if m.unit == unit])[None], self.clip_percent
            )
            for unit in {one.unit for one in maps}
        }
        return [by_unit[one.unit] for one in maps]

    def map_for(self, scale: Scale) -> str | None:
        """The chosen colour map; None, for the two-sided default, where values have a sign."""
        return None if scale.signed else self.colour_map


def _from_zero(values: FloatArray, clip_percent: float) -> Scale:
    finite = values[np.isfinite(values)]
    has_negative = bool(finite.size and finite.min() < 0)
    if not has_negative and not (finite.size and finite.max() > 0):
        return Scale.fixed(0.0, 1.0, signed=False)
    return render.scale_of(values, low=None if has_negative else 0.0, clip_percent=clip_percent)


def look(
    of: str,
    *,
    shared: bool,
    clip_percent: int = 0,
    smooth: bool = True,
    opacity: float = 0.6,
    own_colours: bool = False,
) -> Look:
    """Colour settings, in a popover.

    Args:
        of: The page, or the comparison on it; each begins with its own defaults.
        shared: Whether maps share one scale at first.
        clip_percent: Share of the values beyond the last colour at first: 0, 1, 2 or 5.
        smooth: Whether values are interpolated at first.
        opacity: Of maps over the photo.
        own_colours: Whether the maps are drawn in colours of their own (:attr:`MapPicture.pixels`), so that only the
            settings of their strength have an effect; the others are greyed out.
    """
    with st.popover("Colours", icon=":material/palette:"):
        by = pickers.choose(
            "Brightness by",
            ["all maps alike", "each map by itself"],
            key="brightness_of_maps",
            default="all maps alike" if shared else "each map by itself",
            of=of,
            help="Alike, maps of one unit share one scale and can be compared: a dark one is weak. By itself, each "
            "uses all colours, so that shapes are seen best; methods and layers have units of their own and need that.",
        )
        pickers.start_again("clip_maps", of, clip_percent)
        pickers.start_again("smooth", of, smooth)
        clip = st.select_slider(
            "Clip the strongest values",
            [0, 1, 2, 5],
            clip_percent,
            key="clip_maps",
            bind="query-params",
            format_func=lambda percent: f"{percent} %",
            help="Per cent of the values that share the last colour, so that a few do not darken the rest.",
        )
        is_smooth = st.toggle(
            "Smooth",
            value=smooth,
            key="smooth",
            bind="query-params",
            disabled=own_colours,
            help="On: values between the cells are interpolated, as papers print them. Off: the cells as they are.",
        )
        sequential = [name for name, found in render.COLOUR_MAPS.items() if not found.signed]
        colour_map = pickers.choose(
            "Colour map",
            sequential,
            key="colours",
            default=render.DEFAULT_SEQUENTIAL,
            name=lambda name: render.COLOUR_MAPS[name].title,
            disabled=own_colours,
            help="All are even steps for the eye and safe for colour-blind readers. Maps with negative values always "
            "take a two-sided one with zero in the middle.",
        )
    return Look(by == "all maps alike", is_smooth, colour_map, clip, opacity)


def sides() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Where the maps and the enlarged one go: beside each other, or one below the other where the page is narrow."""
    fifths = st.grid(5, min_column_width=_FIFTH_PX, gap="medium")
    return fifths.cell(column_span=3), fifths.cell(column_span=2)


def grid(maps: Sequence[MapPicture], look: Look, *, what: str) -> tuple[MapPicture, Scale]:
    """Draws the maps side by side, and the picker of the one to enlarge; a click on a tile picks it, too.

    Args:
        maps: At least one.
        look: How they are coloured.
        what: What is compared, for screen readers.

    Returns:
        The chosen one and its colour limits.
    """
    scales = look.scales(maps)
    names = told_apart(maps)
    if st.session_state.get("map") not in (None, *names):
        st.session_state["map"] = names[0]
    chosen = pickers.choose("Enlarged", names, key="map", help="Or click a tile.")

    def select(index: int) -> None:
        st.session_state["map"] = names[index]

    mosaic = render.rgb_mosaic(_tiles(maps, scales, look))
    show.mosaic_wall(
        mosaic,
        key="maps_wall",
        selected=names.index(chosen),
        labels=names,
        hints=[f"{one.name}: {_extremes(one)}" for one in maps],
        tile_px=_TILE_PX,
        smooth=True,
        max_height=None,
        aria=what,
        on_select=select,
    )
    if maps[0].pixels is None:  # else the page explains the colours
        _explain_colours(maps, scales, look)
    place = names.index(chosen)
    return maps[place], scales[place]


def _explain_colours(maps: Sequence[MapPicture], scales: Sequence[Scale], look: Look) -> None:
    if len(maps) == 1:
        show.colour_bar(scales[0], look.map_for(scales[0]), maps[0].unit)
        return
    if not look.shared:
        st.caption(
            "Each map has colours of its own; compare shapes, not brightness. Point at a tile for its lowest and "
            "highest value."
        )
        return
    names, units = told_apart(maps), [one.unit for one in maps]
    for unit in dict.fromkeys(units):
        scale = scales[units.index(unit)]
        of = [name for name, its_unit in zip(names, units, strict=True) if its_unit == unit]
        show.colour_bar(scale, look.map_for(scale), unit, of=_listed(of) if of != names else "All maps")
    if len(set(units)) > 1:
        st.caption("Between maps of different units compare shapes, not brightness.")


def _listed(names: Sequence[str]) -> str:
    """The names in a sentence."""
    *firsts, last = (f"“{frame.plain(name)}”" for name in names)
    return f"{', '.join(firsts)} and {last}" if firsts else last


def _tiles(maps: Sequence[MapPicture], scales: Sequence[Scale], look: Look) -> show.Pixels:
    """(n, H, W, 3) pictures, all of the first one's size."""
    height, width = show.crop_pixels(maps[0].chosen).shape[:2]
    return np.stack(
        [show.fitted(drawn(one, scale, look), (height, width)) for one, scale in zip(maps, scales, strict=True)]
    )


def told_apart(maps: Sequence[MapPicture]) -> list[str]:
    """Their names, with a number where one comes again."""
    names = [one.name for one in maps]
    return [
        name if name not in names[:at] else f"{name} ({names[:at].count(name) + 1})" for at, name in enumerate(names)
    ]


def drawn(one: MapPicture, scale: Scale, look: Look) -> show.Pixels:
    """A map in colours over its crop, (H, W, 3)."""
    if one.pixels is not None:
        return one.pixels
    return render.overlay(
        show.crop_pixels(one.chosen),
        one.values,
        scale=scale,
        colour_map=look.map_for(scale),
        opacity=look.opacity,
        smooth=look.smooth,
    )


def _extremes(one: MapPicture) -> str:
    finite = one.values[np.isfinite(one.values)]
    if not finite.size:
        return "no value is a finite number"
    low, high = render.format_value(float(finite.min())), render.format_value(float(finite.max()))
    return f"from {low} to {high} {one.unit}"
