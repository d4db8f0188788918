"""Both networks on one picture: answers, the evidence and its difference, feature maps, nearest pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from cnnviz_core import doctor, render
from cnnviz_core.collections import embedding
from cnnviz_core.methods import cam, comparison, feature_maps, neighbors, trust
from cnnviz_core.models import LoadedModel
from cnnviz_core.render import Scale
from cnnviz_core.results import FeatureMaps, FloatArray, Heatmap
from cnnviz_core.ui import charts, collection_view, compute, frame, pickers, show
from cnnviz_core.ui.comparison_view import Pair
from cnnviz_core.ui.pickers import Selection

_MAP_PX = 300
_MOST_CHANNELS = 64
_NUM_NEAREST = 8


@dataclass(frozen=True)
class Evidence:
    """Grad-CAM of both networks on one picture, each divided by its largest value.

    Attributes:
        base: (h, w) 0..1.
        tuned: (h, w) 0..1.
        difference: (h, w) tuned less base, -1..1.
        agreement: Rank correlation of the two maps.
        base_map: The map as the method gives it.
        tuned_map: Likewise.
    """

    base: FloatArray
    tuned: FloatArray
    difference: FloatArray
    agreement: float
    base_map: Heatmap
    tuned_map: Heatmap


def draw(chosen: Selection, pair: Pair) -> None:
    """Everything about the sidebar's picture."""
    sides = [replace(chosen, model=model, target=None) for model in (pair.base, pair.tuned)]
    st.subheader("Answers", anchor=False)
    for column, side, name in zip(st.columns(2, gap="medium"), sides, ("base", "tuned"), strict=True):
        with column:
            _answer(side, name)
    _evidence(chosen, pair, sides)
    _feature_maps(sides)
    _nearest(chosen, pair)


def _answer(side: Selection, name: str) -> None:
    st.markdown(f"**{name.capitalize()}**: {frame.plain(side.model.spec.title)}")
    if not side.model.num_classes:
        st.caption("This network has no classifier, so it gives no answer.")
        return
    found = compute.run(LoadedModel.predict, side.model, side.image, k=5)
    charts.draw(
        render.probability_bars(found.labels, found.probabilities),
        key=f"answer_{name}",
        title=f"What {side.model.spec.title} says of {side.image.name}",
        run=side.model.provenance("predict", 0.0, image=side.image, k=5),
        chosen=side,
        code="result.probabilities",
        is_small=True,
    )


# ---- the evidence ----------------------------------------------------------------------------------------------------


def evidence(chosen: Selection, pair: Pair) -> Evidence | None:
    """The maps of both networks; None where one of them has none."""
    if not all(doctor.verdict(model, "grad_cam").usable and model.num_classes for model in (pair.base, pair.tuned)):
        return None
    targets = _targets(chosen, pair)
    maps = [
        compute.run(cam.explain, model, chosen.image, method="grad_cam", target=target)
        for model, target in zip((pair.base, pair.tuned), targets, strict=True)
    ]
    base, tuned = (found.values / max(float(found.values.max()), 1e-12) for found in maps)
    if tuned.shape != base.shape:
        tuned = render.resize_map(tuned, base.shape)
    agreement = trust.agreement({"base": base, "tuned": tuned}).correlations[0, 1]
    return Evidence(base, tuned, tuned - base, float(agreement), *maps)


def _targets(chosen: Selection, pair: Pair) -> tuple[int, int]:
    """The class chosen in the sidebar, else the base network's answer, in both; else each network's own answer."""
    first = [compute.run(LoadedModel.predict, m, chosen.image, k=1).indices[0] for m in (pair.base, pair.tuned)]
    wanted = pair.base.class_names[first[0]]
    if chosen.target is not None:
        wanted = chosen.model.class_names[chosen.target]
    found = [m.class_names.index(wanted) if wanted in m.class_names else None for m in (pair.base, pair.tuned)]
    if found[0] is None or found[1] is None:
        return first[0], first[1]
    return found[0], found[1]


def _evidence(chosen: Selection, pair: Pair, sides: list[Selection]) -> None:
    st.subheader("Where the evidence lies", anchor=False)
    found = evidence(chosen, pair)
    if found is None:
        st.caption("Grad-CAM needs a classifier and a layer with maps in both networks.")
        return
    signed = Scale.fixed(-1, 1, signed=True)
    plain = Scale.fixed(0, 1, signed=False)
    maps = (
        ("Base", found.base, found.base_map, sides[0], plain, "result.values / result.values.max()"),
        ("Tuned", found.tuned, found.tuned_map, sides[1], plain, "result.values / result.values.max()"),
        ("Difference", found.difference, found.tuned_map, sides[1], signed, "# less the same of the base network"),
    )
    for column, (name, values, heatmap, side, scale, code) in zip(st.columns(3, gap="small"), maps, strict=True):
        with column:
            is_difference = scale.signed
            st.markdown(f"**{name}**" + ("" if is_difference else f": {frame.plain(heatmap.target_label)}"))
            show.map_over_photo(
                side,
                values,
                run=heatmap.run,
                code=code,
                title=f"Grad-CAM {name.lower()}",
                key=f"evidence_{name}",
                scale=scale,
                unit="share of the largest value",
                max_px=_MAP_PX,
                smooth=True,
            )
    st.caption(
        "Grad-CAM at the last layer with maps, each divided by its largest value, since the scores of two networks "
        "have no common unit. Difference: red is where the tuned network has more of its evidence, blue where the base "
        f"has. Rank correlation of the two maps: {render.format_fixed(found.agreement, 2)}."
    )
    if found.base_map.target_label != found.tuned_map.target_label:
        st.caption("The networks have no class of the same name here, so each explains its own first answer.")


# ---- feature maps ----------------------------------------------------------------------------------------------------


def _feature_maps(sides: list[Selection]) -> None:
    st.subheader("Feature maps", anchor=False)
    base, tuned = (side.model for side in sides)
    fitting = [
        info for info in base.layers.spatial
        if info.name in tuned.layers.names and tuned.layers[info.name].shape == info.shape
    ]  # fmt: skip
    if not fitting:
        st.caption("The two networks have no layer with maps of the same shape.")
        return
    names = [info.name for info in fitting]
    default = cam.default_layer(base)
    layer = pickers.layer(base, default=default if default in names else names[-1], key="both_layer", layers=fitting)
    one, other = (compute.run(feature_maps.compute, side.model, side.image, layer=layer) for side in sides)
    alike = comparison.map_correlations(one.values, other.values)
    order = np.argsort(np.where(np.isfinite(alike), alike, np.inf), kind="stable")[:_MOST_CHANNELS]
    channel = pickers.number(
        "Channel", len(one.values), key="both_channel", default=int(order[0]), of=f"{layer} {base.spec.weights_hash}"
    )
    scale = render.scale_of(np.concatenate([one.values, other.values]), mode="layer")
    for column, name, found in zip(st.columns(2, gap="medium"), ("Base", "Tuned"), (one, other), strict=True):
        with column:
            _wall(name, found, order, channel, scale)
    show.colour_bar(scale, None, "activation")
    st.caption(
        f"The {len(order)} channels of {frame.plain(layer)} whose maps of this picture are least alike, the same ones "
        "on both sides, in the same colours. Click one."
    )
    maps = (("base", one.values[channel], one), ("tuned", other.values[channel], other))
    for column, side, (name, values, result) in zip(st.columns(2, gap="medium"), sides, maps, strict=True):
        with column:
            show.map_over_photo(
                side,
                values,
                run=result.run,
                code=f"result.values[{channel}]",
                title=f"{layer} channel {channel} {name}",
                key=f"both_{name}",
                scale=scale,
                unit="activation",
                max_px=_MAP_PX,
            )
    told = (
        render.format_fixed(alike[channel], 2)
        if np.isfinite(alike[channel])
        else "not defined: one of them is the same everywhere"
    )
    st.caption(f"Channel {channel} of {frame.plain(layer)}. Correlation of the two maps over the places: {told}.")


def _wall(name: str, maps: FeatureMaps, order: np.ndarray, channel: int, scale: Scale) -> None:
    def choose(index: int) -> None:
        st.session_state["both_channel"] = int(order[index])

    places = np.flatnonzero(order == channel)
    st.markdown(f"**{name}**")
    show.mosaic_wall(
        render.mosaic(maps.values[order], scale=scale),
        key=f"both_wall_{name}",
        selected=int(places[0]) if len(places) else None,
        hints=[f"channel {c}" for c in order.tolist()],
        aria=f"Feature maps of the {name.lower()} network",
        tile_px=56,
        max_height=330,
        on_select=choose,
    )


# ---- nearest pictures ------------------------------------------------------------------------------------------------


def _nearest(chosen: Selection, pair: Pair) -> None:
    st.subheader("Nearest pictures of a collection", anchor=False)
    if not st.toggle(
        "Search with both networks",
        key="both_nearest",
        bind="query-params",
        help="Indexes the collection with each of them first, where that was not done yet.",
    ):
        return
    collection = collection_view.choose()
    if collection is None:
        return
    found = []
    for model in (pair.base, pair.tuned):
        layer = embedding.default_layer(model)
        indexed = collection_view.indexed(model, collection)
        if indexed is None or not indexed.indexes[layer].is_complete:
            return
        vector = compute.run(embedding.of_image, model, chosen.image, layers=[layer])[layer]
        found.append((indexed, neighbors.search(indexed.vectors[layer], vector, k=_NUM_NEAREST)))
    for column, name, (indexed, near) in zip(st.columns(2, gap="medium"), ("Base", "Tuned"), found, strict=True):
        with column:
            st.markdown(f"**{name}**")
            collection_view.wall(
                indexed,
                near.indices.tolist(),
                key=f"both_near_{name}",
                selected=None,
                what=f"Nearest pictures by the {name.lower()} network",
                labels=[render.format_fixed(distance, 3) for distance in near.distances],
            )
    paths = [{indexed.rows[row].path for row in near.indices} for indexed, near in found]
    st.caption(f"Cosine distance of what the classifiers read. {len(paths[0] & paths[1])} of {_NUM_NEAREST} in both.")
