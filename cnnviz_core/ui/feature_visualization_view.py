"""The parts of the feature visualisation page: what is to be excited, the pictures made live, one of them closely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import collections, render
from cnnviz_core.collections import indexing
from cnnviz_core.errors import BadCollection
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.methods import feature_maps, feature_visualization, top_patches
from cnnviz_core.results import Step, Synthesis
from cnnviz_core.ui import compute, frame, pickers, show, synthesis_view, work
from cnnviz_core.ui.pickers import Selection

_NUM_AT_FIRST, _MOST_CHANNELS = 4, 32
_QUICK = {"steps": 24, "size_px": 96}
_HINT = "Choose a smaller size or an earlier layer"
_SIZES = (64, 96, 128, 160, 224, 320, 448)
_PATCH_PX, _NUM_PATCHES = 112, 6
_PHOTO_PX = 280
_GOAL_PX = 320
_MADE_PX, _REAL_PX = 520, 400
_SIGNS = {"excite": 1, "inhibit": -1}
_SOURCES = ("noise", "the picture")


@dataclass(frozen=True)
class Asked:
    """What is to be made.

    Attributes:
        image: The picture to start from; None for noise.
        settings: Arguments of :func:`feature_visualization.synthesize`.
    """

    image: InputImage | None
    settings: dict[str, Any]

    def with_settings(self, **changes: object) -> Asked:
        """The same with other settings."""
        return replace(self, settings={**self.settings, **changes})

    @property
    def num_pictures(self) -> int:
        """Pictures that it makes."""
        goal = feature_visualization.GOALS[self.settings["objective"]]
        return int(self.settings["variants"]) * (len(self.settings[goal.needs]) if goal.is_each else 1)

    def seconds(self, chosen: Selection) -> float:
        """How long it takes."""
        where = {name: self.settings[name] for name in ("layer", "size_px")}
        one = compute.run(feature_visualization.seconds_per_step, chosen.model, **where)
        return one * self.num_pictures * int(self.settings["steps"])


# ---- what is asked --------------------------------------------------------------------------------------------------


def question(chosen: Selection) -> Asked:
    """Asks what is to be excited, and how."""
    model = chosen.model
    goals = feature_visualization.GOALS
    objective = pickers.choose(
        "Excite",
        list(goals),
        key="objective",
        name=lambda key: goals[key].title,
        help="  \n".join(f"**{one.title}**: {one.help}" for one in goals.values()),
        width=_GOAL_PX,
    )
    needs = goals[objective].needs
    if needs == "classes":
        feature_visualization.check_has_classes(model)
        with frame.row():
            classes = pickers.several_classes(chosen, most=_MOST_CHANNELS)
            sign = _sign("Inhibit makes what speaks most against the class.")
        return _how(chosen, _settings(objective, classes=classes, sign=sign))
    layer = pickers.layer_by_depth(model, default=feature_visualization.default_layer(model))
    info = model.layers[layer]
    with frame.row():
        channels = [0]
        if needs == "channels":
            channels = pickers.several(
                "Channels",
                list(range(info.num_channels)),
                key="channels",
                default=list(range(min(_NUM_AT_FIRST, info.num_channels))),
                of=layer,
                most=_MOST_CHANNELS,
                help="Type a number. The whole layer at once is further below.",
            )
        sign = _sign(
            "Inhibit makes what the channel likes least; after a ReLU there is nothing below zero, so choose a layer "
            "before it."
        )
        cell = _cell(info) if objective == "unit" else None
    direction = _direction(chosen, layer) if needs == "direction" else None
    return _how(chosen, _settings(objective, layer=layer, channels=channels, sign=sign, cell=cell, direction=direction))


def _sign(inhibit: str) -> int:
    return _SIGNS[pickers.choose("Direction", list(_SIGNS), key="sign", help=inhibit)]


def _settings(objective: str, **of_objective: object) -> dict[str, Any]:
    """What is to be excited, as :func:`feature_visualization.synthesize` takes it."""
    nothing: dict[str, object] = {"layer": "", "channels": [], "classes": [], "cell": None, "direction": None}
    return {"objective": objective, **nothing, **of_objective}


def _cell(info: LayerInfo) -> tuple[int, int] | None:
    """The unit's place; the middle until another is typed."""
    if info.cells is None:
        return None
    if st.checkbox("The unit in the middle", value=True, key="middle", bind="query-params"):
        return None
    row = st.number_input("Row", 0, value=0, key="unit_row", bind="query-params", help="Counted from 0, at the top.")
    column = st.number_input("Column", 0, value=0, key="unit_column", bind="query-params", help="From 0, at the left.")
    return int(row), int(column)


def _direction(chosen: Selection, layer: str) -> list[float]:
    """The mixture of channels with which the layer answers to the picture of the sidebar."""
    maps = compute.run(feature_maps.compute, chosen.model, chosen.image, layer=layer)
    st.caption(
        f"The direction is the layer’s mean answer to {frame.plain(chosen.image.name)}: what is the same to this layer?"
    )
    return [float(value) for value in maps.values.mean(axis=(1, 2))]


def _how(chosen: Selection, settings: dict[str, Any]) -> Asked:
    with frame.row():
        steps = st.slider(
            "Steps",
            0,
            512,
            96,
            8,
            key="visualization_steps",
            bind="query-params",
            help="More steps give clearer pictures.",
        )
        size = pickers.choose(
            "Size, pixels",
            _SIZES,
            key="visualization_size",
            default=128,
            help="Side of the pictures. The network sees them at this size if it takes it; small ones show less of a "
            "large pattern, and take less time.",
        )
        variants = st.slider(
            "Variants",
            1,
            6,
            1,
            key="variants",
            bind="query-params",
            help="Several pictures of each, asked to differ: a channel may answer to more than one thing.",
        )
        with st.popover("How they are made", icon=":material/tune:"):
            seed = st.number_input(
                "Seed",
                0,
                9999,
                0,
                key="visualization_seed",
                bind="query-params",
                help="Of the noise and the views; one for all.",
            )
            start = pickers.choose(
                "Start from",
                _SOURCES,
                key="start",
                help="From the picture of the sidebar, whatever in it resembles the pattern grows.",
            )
            switches = {
                "fourier": st.toggle(
                    "Fourier",
                    value=True,
                    key="fourier",
                    bind="query-params",
                    help="Steps in the spectrum, not in pixels.",
                ),
                "decorrelated": st.toggle(
                    "Decorrelated colours",
                    value=True,
                    key="decorrelated",
                    bind="query-params",
                    help="Steps along the axes by which colours vary in photos.",
                ),
                "robust": st.toggle(
                    "Changing views",
                    value=True,
                    key="robust",
                    bind="query-params",
                    help="The network sees the picture shifted, scaled and turned at each step.",
                ),
                "redirected": st.toggle(
                    "Rescue of dead starts",
                    value=True,
                    key="redirected",
                    bind="query-params",
                    help="Where a ReLU lets nothing back, the gradient passes as if it were open (redirected ReLU).",
                ),
            }
    image = chosen.image if start == _SOURCES[1] else None
    return Asked(
        image, {**settings, "steps": steps, "size_px": size, "seed": int(seed), "variants": variants, **switches}
    )


# ---- making ---------------------------------------------------------------------------------------------------------


def find(chosen: Selection, asked: Asked) -> Synthesis | None:
    """The pictures: small ones at once, the asked ones on demand, both live."""
    quick = asked.with_settings(
        variants=1,
        channels=asked.settings["channels"][:_NUM_AT_FIRST],
        classes=asked.settings["classes"][:_NUM_AT_FIRST],
        **{name: min(asked.settings[name], most) for name, most in _QUICK.items()},
    )
    return work.asked_or_quick(
        partial(_make, chosen),
        asked,
        quick,
        name="synthesis",
        title="Make the pictures",
        quick_title="Quick pictures",
        below=f"quick, small pictures of {quick.settings['steps']} steps at {quick.settings['size_px']} pixels",
    )


def _make(chosen: Selection, asked: Asked, *, name: str, title: str, at_once: bool | None = False) -> Synthesis | None:
    model, image, settings = chosen.model, asked.image, asked.settings

    def make(on_step: Callable[[Step], None]) -> Synthesis:
        return feature_visualization.synthesize(model, image, on_step=on_step, **settings)

    found: Synthesis | None = work.until_done(
        make,
        key=work.key_of(feature_visualization.synthesize, model, image, settings),
        name=name,
        title=title,
        cost=f"{asked.num_pictures:,} × {settings['steps']} steps at {settings['size_px']} pixels: about "
        f"{work.duration(asked.seconds(chosen))}.",
        show=partial(synthesis_view.so_far, key=f"{name}_so_far"),
        at_once=at_once,
        hint=_HINT,
        about=work.described(model, image, settings),
    )
    return found


# ---- the pictures ---------------------------------------------------------------------------------------------------


def draw(chosen: Selection, found: Synthesis) -> None:
    """The wall, one picture enlarged, and what real pictures say of the same channel."""
    is_of_classes = not found.layer
    place = synthesis_view.wall(found, key="made", what=f"Pictures for {found.layer or 'classes'}")
    synthesis_view.caption(chosen, found)
    if is_of_classes:
        reached, misleads = (
            "That is the score of the class, before the softmax.",
            "what a thing of the class looks like",
        )
    else:
        reached = (
            f"For a channel that is its mean activation in {frame.plain(found.layer)}, for a unit its activation, for "
            "a direction the cosine."
        )
        misleads = "all that the channel answers to"
    st.caption(
        f"Below each picture: what it reached, seen straight. {reached} A picture shows one way to get there, to an "
        f"extreme that no photo reaches: not {misleads}."
    )
    synthesis_view.grey_scores(chosen, found)
    name = found.names[place]
    st.subheader(frame.plain(name[:1].upper() + name[1:]), anchor=False)
    row = st.container(horizontal=True, gap="medium")  # on a narrow screen the real pictures go below
    with row.container(width=_MADE_PX):
        synthesis_view.enlarged(
            chosen,
            found,
            place,
            title=", ".join(filter(None, [found.layer, found.names[place]])),
            code="result.images[{}]",
        )
    with row.container(width=_REAL_PX):
        if found.run.settings["objective"] in ("channel", "unit"):  # of one channel each
            channels = found.run.settings["channels"]
            variants = found.run.settings["variants"]
            _real(chosen, found, place, channels[place // variants])  # type: ignore[index, operator]
        synthesis_view.climb(chosen, found, place, unit="objective")


def _real(chosen: Selection, found: Synthesis, place: int, channel: int) -> None:
    """Top patches of the channel, its map on the photo, and how far the made picture goes beyond."""
    maps = compute.run(feature_maps.compute, chosen.model, chosen.image, layer=found.layer)
    sign = int(found.run.settings["sign"])  # type: ignore[call-overload]
    reached = f"{render.format_value(sign * float(found.peaks[place]))} at its strongest place"
    index = _index(chosen, found.layer)
    if index is None:
        st.caption(
            f"The picture reaches {reached}. Index a collection on the page Strongest patches to see the real pictures "
            "that excite this channel most."
        )
    elif index.tops is not None and sign > 0:
        strongest = float(index.tops.values[channel, 0])
        times = f", {float(found.peaks[place]) / strongest:.1f} times that" if strongest > 0 else ""
        st.caption(
            f"Strongest real patches. The highest of {len(index.rows):,} pictures is "
            f"{render.format_value(strongest)}; the made picture reaches {reached}{times}."
        )
        _patches(chosen, index, channel)
    if maps.values.ndim == 3:
        values = maps.values[channel]
        st.caption(f"The channel’s map on {frame.plain(chosen.image.name)}:")
        show.map_over_photo(
            chosen,
            values,
            run=maps.run,
            code=f"result.values[{channel}]",
            title=f"{found.layer} channel {channel}",
            key="channel_map",
            scale=render.scale_of(values),
            max_px=_PHOTO_PX,
        )


def _index(chosen: Selection, layer: str) -> indexing.Index | None:
    """The index of the collection last looked at, if it has any rows of this layer."""
    collection_id = st.session_state.get("last_collection", "bundled/photos")
    try:
        found = indexing.read(collections.open_by_id(collection_id), chosen.model, layer=layer)
    except BadCollection:
        return None
    return found if len(found.rows) and found.tops is not None else None


def _patches(chosen: Selection, index: indexing.Index, channel: int) -> None:
    best = top_patches.from_index(chosen.model, index, channels=[channel], k=_NUM_PATCHES)
    places = np.flatnonzero(best.image[0] >= 0)
    if not len(places):
        return
    collection = collections.open_by_id(index.collection_id)
    tiles = top_patches.wall(chosen.model, collection, best, size_px=_PATCH_PX).tiles[0, places]
    show.mosaic_wall(
        render.rgb_mosaic(tiles, tile_px=_PATCH_PX),
        key="real_patches",
        aria=f"Strongest patches of channel {channel}",
        labels=[render.format_value(float(value)) for value in best.value[0, places]],
        tile_px=84,
        smooth=True,
        max_height=None,
    )


# ---- what each ingredient does --------------------------------------------------------------------------------------


def ingredients(chosen: Selection, asked: Asked) -> None:
    """The first picture with everything, and with each ingredient left out, from the same seed."""
    with st.expander("What does each ingredient do?"):
        first = {name: asked.settings[name][:1] for name in ("channels", "classes")}
        one = asked.with_settings(**first, variants=1)
        kinds = feature_visualization.INGREDIENTS
        model, image = chosen.model, asked.image

        def make(on_step: Callable[[Step], None]) -> tuple[Synthesis, ...]:
            found: list[Synthesis] = []
            steps = int(one.settings["steps"])
            for at, kind in enumerate(kinds.values()):

                def tell(step: Step, at: int = at) -> None:
                    on_step(Step(at * steps + step.done, len(kinds) * steps))

                settings = {**one.settings, **kind.settings}
                found.append(feature_visualization.synthesize(model, image, on_step=tell, **settings))
            return tuple(found)

        made = work.until_done(
            make,
            key=repr(
                (
                    "ingredients",
                    compute.key(feature_visualization.synthesize, model, image),
                    sorted(one.settings.items()),
                )
            ),
            name="ingredients",
            title="Leave out one after another",
            cost=f"{len(kinds)} pictures of {one.settings['steps']} steps: about "
            f"{work.duration(len(kinds) * one.seconds(chosen))}.",
            hint=_HINT,
            about=work.described(model, image, one.settings),
        )
        if not made:
            return
        tiles = np.concatenate([synthesis_view.pixels(found) for found in made])
        labels = [
            f"{kind.title}: {render.format_value(float(found.scores[0]))}"
            for kind, found in zip(kinds.values(), made, strict=True)
        ]
        show.mosaic_wall(
            render.rgb_mosaic(tiles, tile_px=synthesis_view.TILE_PX),
            key="ingredients_wall",
            aria="The same picture with ingredients left out",
            labels=labels,
            tile_px=synthesis_view.TILE_PX,
            smooth=True,
            max_height=None,
        )
        st.caption(
            "The same objective, seed and number of steps. The number is what the picture reached, seen straight: "
            "noise can reach more than a picture that says something."
        )


# ---- the whole layer ------------------------------------------------------------------------------------------------


def atlas(chosen: Selection, asked: Asked) -> None:
    """All channels of the layer, live, kept by the network’s weights."""
    if not asked.settings["layer"]:  # of classes
        return
    info = chosen.model.layers[asked.settings["layer"]]
    with st.expander(f"Atlas: all {info.num_channels:,} channels of {frame.plain(info.name)}"):
        whole = asked.with_settings(
            channels=list(range(info.num_channels)),
            objective="channel",
            cell=None,
            direction=None,
            variants=1,
            **_QUICK,
        )
        found = _make(chosen, whole, name="atlas", title="Atlas of the layer")
        if found is None:
            return
        synthesis_view.wall(found, key="atlas_place", what=f"All channels of {info.name}")
        st.caption(
            "Small and quick, to find channels worth a closer look; it is kept, so nobody makes it twice. A picture "
            "marked grey found no start."
        )
