"""The parts of the feature-map page: one channel enlarged, all channels fused, several layers through depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.methods import feature_maps
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FeatureMaps, FloatArray
from cnnviz_core.ui import charts, compute, frame, pickers, show
from cnnviz_core.ui.pickers import Colours, Selection

_ONE, _PCA = "one channel", "principal components as colours"
_DEPTH_PX = 176
_MOST_NAMED = 24


def wall(
    chosen: Selection, maps: FeatureMaps, order: NDArray[np.intp], scores: FloatArray, channel: int, colours: Colours
) -> None:
    """All channels in order, what their colours mean, and what the layer is."""
    values = maps.values[order]
    scale = colours.scale(maps.values).of_channels(order)
    title = f"Feature maps of {maps.layer}"
    show.wall(
        render.mosaic(values, scale=scale, colour_map=colours.map_for(scale)),
        order,
        key="channel",
        selected=channel,
        what=title,
        hints=[f"channel {c}: {render.format_value(float(scores[c]))}" for c in order],
    )
    show.colour_bar(scale, colours.map_for(scale), "activation")
    _about_layer(chosen.model.layers[maps.layer], maps)
    show.wall_downloads(
        chosen,
        maps.run,
        key="maps",
        title=title,
        draw=lambda tile_px: render.mosaic(values, scale=scale, colour_map=colours.map_for(scale), tile_px=tile_px),
        order=order,
        values=maps.values,
        code="result.values",
        scale=scale,
        colour_map=colours.map_for(scale),
        unit="activation",
    )


def enlarged(
    chosen: Selection, maps: FeatureMaps, channel: int, colours: Colours, ranking: str, scores: FloatArray
) -> None:
    """One channel, or all channels fused, over the photo, with numbers and downloads."""
    fusions = {fusion.title.lower() + " of all channels": name for name, fusion in feature_maps.FUSIONS.items()}
    view = pickers.choose(
        "Show",
        [_ONE, *fusions, _PCA],
        key="view",
        help="  \n".join(f"**{f.title}**: {f.help}" for f in feature_maps.FUSIONS.values())
        + "  \n**Principal components**: the three directions in which the places differ most, as red, green and blue; "
        "like colours mean like features. The colours themselves mean nothing.",
    )
    if view == _PCA:
        _components(chosen, maps)
        return
    is_one = view == _ONE
    stack = maps.values if is_one else feature_maps.fuse(maps, method=fusions[view])[None]
    shown = channel if is_one else 0
    values, scale = stack[shown], colours.scale(stack).of_channel(shown)
    title = f"{maps.layer} {'channel ' + str(channel) if is_one else view}"
    show.map_over_photo(
        chosen,
        values,
        run=maps.run,
        code=f"result.values[{channel}]" if is_one else f"feature_maps.fuse(result, method={fusions[view]!r})",
        title=title,
        key="enlarged",
        scale=scale,
        colour_map=colours.map_for(scale),
    )
    frame.caption(chosen, title, f"{maps.run.seconds:.2f} s")
    numbers = _numbers(values)
    if is_one:
        numbers += f" {feature_maps.RANKINGS[ranking].title}: {render.format_value(float(scores[channel]))}."
    st.caption(numbers)
    with st.expander("Histogram of the values", icon=":material/bar_chart:"):
        histogram = render.histogram(values, unit="activation", log_counts=True)
        charts.draw(
            histogram,
            key="histogram",
            title=f"Values of {title}",
            run=maps.run,
            chosen=chosen,
            code=f"result.values[{channel}]" if is_one else f"feature_maps.fuse(result, method={fusions[view]!r})",
        )


def _components(chosen: Selection, maps: FeatureMaps) -> None:
    components = compute.run(_principal, chosen.model, chosen.image, **maps.run.settings)
    pixels = render.rgb_from_components(components)
    st.image(render.png(show.enlarged_pixels(pixels, 512)), width=512)
    frame.caption(chosen, maps.layer, "first three principal components as red, green, blue")
    show.downloads(
        chosen,
        maps.run,
        key="enlarged",
        title=f"Principal components of {maps.layer}",
        figure=lambda: render.figure_png(
            pixels,
            title=f"Principal components of {maps.layer}",
            caption=f"{chosen.model.spec.title}, {chosen.image.name}; like colours mean like features",
        ),
        exact=lambda: render.png(pixels),
        values=components,
        code="feature_maps.principal_components(result)",
    )


def _principal(model: LoadedModel, image: InputImage, **settings: Any) -> FloatArray:
    return feature_maps.principal_components(feature_maps.compute(model, image, **settings))


def _numbers(values: FloatArray) -> str:
    present = values[np.isfinite(values)]
    if not present.size:
        return "No value is a finite number."
    active = float((present != 0).mean())
    low, mean, high = (render.format_value(v) for v in (present.min(), present.mean(), present.max()))
    return f"Lowest {low}, mean {mean}, highest {high}; {100 * active:.0f} % of the places are not zero."


def _about_layer(info: LayerInfo, maps: FeatureMaps) -> None:
    """What the layer is, how much of the picture a cell sees, and its silent channels."""
    height, width = maps.values.shape[1:]
    parts = [f"{len(maps.values)} channels of {height} × {width} cells ({info.kind})."]
    if info.receptive_field:
        rows, cols = info.receptive_field.size_px
        seen = "the whole picture" if info.receptive_field.is_global else f"{rows:.0f} × {cols:.0f} px of the input"
        parts.append(f"Each cell can see {seen}.")
    dead = feature_maps.dead_channels(maps)
    if len(dead):
        named = ", ".join(str(c) for c in dead[:_MOST_NAMED]) + (" and others" if len(dead) > _MOST_NAMED else "")
        parts.append(
            f"The same value everywhere on this picture, so that they say nothing about it: {len(dead)} ({named})."
        )
    st.caption(" ".join(parts))


def through_depth(chosen: Selection, colours: Colours) -> None:
    """All channels in one, at several layers side by side."""
    tree = chosen.model.layers
    st.subheader("Through depth", anchor=False)
    row = st.columns([1, 3], vertical_alignment="bottom")
    with row[0]:
        fusion = pickers.choose(
            "All channels in one by",
            list(feature_maps.FUSIONS),
            key="fusion",
            name=lambda name: feature_maps.FUSIONS[name].title,
            help="  \n".join(f"**{f.title}**: {f.help}" for f in feature_maps.FUSIONS.values()),
        )
    with row[1]:
        names = pickers.several(
            "Layers side by side",
            [info.name for info in tree.spatial],
            key="side_by_side",
            default=[stage.representative for stage in tree.stages],
            help="At first one of every map size. Type to search all layers; they stand in the order chosen.",
        )
    st.caption(
        "Each map has colours of its own: from where things are, in early layers, to what they are, in late ones."
    )
    found = compute.run(feature_maps.compute_many, chosen.model, chosen.image, layers=tuple(names))
    with st.container(horizontal=True):
        for name in names:
            with st.container(width=_DEPTH_PX):
                _fused(chosen, found[name], fusion, colours)


def _fused(chosen: Selection, maps: FeatureMaps, fusion: str, colours: Colours) -> None:
    values = feature_maps.fuse(maps, method=fusion)
    scale = render.scale_of(values, clip_percent=colours.clip_percent)
    show.map_over_photo(
        chosen,
        values,
        run=maps.run,
        code=f"feature_maps.fuse(result, method={fusion!r})",
        title=f"{maps.layer} {feature_maps.FUSIONS[fusion].title.lower()} of all channels",
        key=f"depth_{maps.layer}",
        scale=scale,
        colour_map=colours.map_for(scale),
        max_px=_DEPTH_PX,
    )
    st.caption(f"{frame.plain(maps.layer)}: {len(maps.values)} maps of {maps.values.shape[1]} × {maps.values.shape[2]}")
