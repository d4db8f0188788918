"""The parts of the embeddings page around the map: which layer, which layout, and layers compared by their labels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.collections import embedding, projections
from cnnviz_core.errors import CnnvizError
from cnnviz_core.methods import embeddings
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Projection, Step
from cnnviz_core.store import StorageFailed
from cnnviz_core.ui import charts, frame, pickers, work
from cnnviz_core.ui.collection_view import Indexed
from cnnviz_core.ui.components import picture_map

_PCA_AXES = 10
_POOLING_PX = 150
_AT_ONCE_SECONDS = 30
_SHORT_SECONDS = 2
_SO_FAR_PX = 360
_MOST_COMPARED = 2000
_POOLINGS = {"mean": "mean", "max": "max", "flat": "flattened"}


@dataclass(frozen=True)
class Wanted:
    """Which map is asked for.

    Attributes:
        layer: Of which layer.
        method: Key of :data:`embeddings.METHODS`.
        settings: Arguments of :func:`embeddings.project`.
        name: What to call it.
    """

    layer: str
    method: str
    settings: Mapping[str, Any]
    name: str


def layer(model: LoadedModel) -> str:
    """Asks for the layer: any, or the pixels, or the scores."""
    default = embedding.default_layer(model)  # may be one of those that pass on what came in
    layers = (info.name for info in model.layers if info.kind not in pickers.PASS_ON or info.name == default)
    names = [embedding.PIXELS, *layers]
    if model.num_classes:
        names.append(embedding.SCORES)
    linked = st.query_params.get("layer")  # as pages that show one picture name it
    pickers.check_link("Layer", names, "layer")
    return pickers.choose(
        "Layer",
        names,
        key="layer_of_vectors",
        default=linked if linked in names else default,
        of=model.spec.title,
        name=lambda name: {embedding.PIXELS: "pixels, the baseline", embedding.SCORES: "class scores"}.get(name, name),
        help="What describes each picture: a layer’s maps, pooled over all places; by default what the classifier "
        "reads. Pixels are the crop itself at 32 × 32, to compare with.",
    )


def pooling(model: LoadedModel, layer: str) -> str:
    """Asks how a layer's map becomes one vector; flattened, where that is short enough to be kept."""
    offered = [pooling for pooling in _POOLINGS if pooling != "flat" or embedding.fits(model, layer, pooling)]
    why_not = ""
    if "flat" not in offered:
        length = embedding.dimension(model, layer, "flat")
        why_not = (
            f"It is not on offer for {layer}, which has {length:,} values per picture; {embedding.MAX_FLAT:,} at most "
            "are kept."
        )
        if st.session_state.get("pooling") == "flat":
            frame.notice(f"Flattened: {why_not[0].lower()}{why_not[1:]} The mean is shown instead.")
            st.session_state["pooling"] = "mean"
    return pickers.choose(
        "Pooling",
        offered,
        key="pooling",
        name=lambda pooling: _POOLINGS[pooling],
        width=_POOLING_PX,
        help="How a map becomes one vector. **Mean**: how much of each channel there is on average. **Max**: its "
        "strongest place, however small. **Flattened**: all values, so that places count, too. Each pooling has an "
        f"index of its own. {frame.plain(why_not)}",
    )


def pooled(layer: str, found: Indexed) -> str:
    """What to call the vectors of a layer: with the pooling, where it is another than the mean of maps."""
    of_maps = layer not in embedding.PSEUDO_LAYERS and found.pooling != "mean"
    return f"{layer}, {_POOLINGS[found.pooling]}" if of_maps else layer


def wanted(found: Indexed, layer: str) -> Wanted:
    """Asks for the method and its settings."""
    method = st.segmented_control(
        "Layout",
        list(embeddings.METHODS),
        default="pca",
        key="layout",
        required=True,
        bind="query-params",
        format_func=lambda key: embeddings.METHODS[key].title,
        help="  \n".join(f"**{one.title}**: {one.promise}" for one in embeddings.METHODS.values()),
    )
    with st.popover("Settings", icon=":material/tune:", key="layout_settings"):
        settings = _SETTINGS[method](len(found.rows))
        settings["standardize"] = st.toggle(
            "Standardise features",
            key="standardize",
            bind="query-params",
            help="Bring every feature to the same spread first; else those with large numbers decide alone.",
        )
        _reopen(found)
    words = ", ".join(f"{word} {settings[name]}" for name, word in _SETTING_WORDS.items() if name in settings)
    extra = ", standardised" if settings["standardize"] else ""
    name = f"{embeddings.METHODS[method].title}{f' ({words})' if words else ''}{extra} of {pooled(layer, found)}"
    return Wanted(layer, method, {"method": method, **settings}, name)


def _reopen(found: Indexed) -> None:
    earlier = projections.kept(found.collection.collection_id, network=_network(found))
    if not earlier:
        return

    def take() -> None:
        one = st.session_state["earlier_map"]
        if one is None:
            return
        st.session_state["layer_of_vectors"], st.session_state["layout"] = one.layer, one.settings["method"]
        for name in ("seed", "perplexity", "num_neighbors", "min_distance", "standardize"):
            if one.settings.get(name) is not None:
                st.session_state["layout_seed" if name == "seed" else name] = one.settings[name]

    st.selectbox(
        "Open an earlier map",
        earlier,
        index=None,
        format_func=lambda one: one.name,
        key="earlier_map",
        on_change=take,
        help="Maps of this collection made on this server. They open at once while its pictures are the same.",
    )


def _pca_settings(_num: int) -> dict[str, Any]:
    st.caption("PCA has nothing to set: its axes are the directions in which the pictures differ most.")
    return {"num_axes": _PCA_AXES}


def _tsne_settings(num: int) -> dict[str, Any]:
    most = max(1, (num - 1) // 3)
    _at_most("perplexity", most)
    perplexity = st.slider(
        "Perplexity",
        1,
        max(2, min(100, most)),
        min(30, most),
        key="perplexity",
        bind="query-params",
        help="About how many neighbours each picture cares for. Small values show small groups, large ones the whole.",
    )
    return {"perplexity": perplexity, "seed": _seed()}


def _at_most(key: str, most: int) -> None:
    """Brings down what was chosen for a larger collection."""
    if st.session_state.get(key, 0) > most:
        st.session_state[key] = most


def _umap_settings(num: int) -> dict[str, Any]:
    _at_most("num_neighbors", num)
    near = st.slider(
        "Neighbours",
        2,
        max(3, min(100, num)),
        min(15, num),
        key="num_neighbors",
        bind="query-params",
        help="How many nearest pictures, itself included, each one is tied to.",
    )
    apart = st.slider(
        "Least distance",
        0.0,
        1.0,
        0.1,
        key="min_distance",
        bind="query-params",
        help="How tightly pictures may be packed.",
    )
    return {"num_neighbors": near, "min_distance": apart, "seed": _seed()}


def _seed() -> int:
    return int(
        st.number_input(
            "Seed",
            0,
            9999,
            0,
            key="layout_seed",
            bind="query-params",
            help="Of the random draws. What changes with the seed is not in the data.",
        )
    )


_SETTING_WORDS = {
    "perplexity": "perplexity",
    "num_neighbors": "neighbours",
    "min_distance": "least distance",
    "seed": "seed",
}
_SETTINGS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "pca": _pca_settings,
    "tsne": _tsne_settings,
    "umap": _umap_settings,
}


def project(found: Indexed, wanted: Wanted) -> Projection | None:
    """The map: from disk, at once, or as long work; None while it is not there."""
    vectors, key, home = found.vectors[wanted.layer], found.key(wanted.layer), found.collection.collection_id
    most_axes = min(vectors.shape)
    settings = {**wanted.settings, "num_axes": max(2, min(wanted.settings.get("num_axes", 2), most_axes))}
    if (known := projections.find(home, key, settings)) is not None:
        return known

    def make(on_step: Callable[[Step], None]) -> Projection:
        made = embeddings.project(vectors, **settings, on_step=on_step)
        with contextlib.suppress(StorageFailed):  # a full disk takes no map away
            projections.save(home, key, settings, made, name=wanted.name, layer=wanted.layer, network=_network(found))
        return made

    seconds = embeddings.METHODS[wanted.method].seconds(*vectors.shape)
    if seconds < _SHORT_SECONDS:
        with st.spinner("Laying the pictures out"):
            return make(lambda _: None)
    made: Projection | None = work.until_done(
        make,
        key=repr(("project", key, sorted(settings.items()))),
        name="projection",
        title=wanted.name,
        cost=f"{len(vectors):,} pictures: about {work.duration(seconds)}. The map is kept.",
        show=_so_far,
        at_once=seconds <= _AT_ONCE_SECONDS,
        about={"network": found.model.spec.title, "collection": found.collection.title, **settings},
    )
    return made


def _network(found: Indexed) -> str:
    """Whose maps can be opened again: those of this network, and of the pooling that is chosen."""
    of_pooling = "" if found.pooling == "mean" else f" {found.pooling}"
    return f"{found.model.spec.model_id} {found.model.spec.weights_hash}{of_pooling}"


def _so_far(partial: Projection) -> None:
    picture_map.show(partial.values, key="map_so_far", aria="The map so far", height=_SO_FAR_PX)


# ---- layers compared ------------------------------------------------------------------------------------------------


def separation(found: Indexed) -> None:
    """How well the labels separate at each layer, with the pixels as the baseline."""
    st.subheader("Do the labels separate with depth?", anchor=False)
    if len(set(found.labels) - {""}) < 2:
        st.caption("This needs pictures of at least two labels: put them into a folder for each, or bring a CSV.")
        return
    layers = [layer for layer in found.vectors if layer != embedding.SCORES]
    chosen = _sample(found)
    labels = tuple(found.labels[row] for row in chosen)
    try:
        made = [_separation(found.key(layer), found.vectors[layer], chosen, labels) for layer in layers]
    except CnnvizError as error:
        st.caption(frame.plain(str(error)))
        return
    k = made[0].k
    charts.draw(
        render.depth_profile(
            layers,
            {
                f"purity of the {k} nearest": [one.purity for one in made],
                "nearest has the same label": [one.one_nn_accuracy for one in made],
                "silhouette": [one.silhouette for one in made],
                "by chance": [one.chance_purity for one in made],
            },
            unit="share",
        ),
        key="separation",
        title="Do the labels separate with depth?",
        made={"network": found.model.spec.title, "collection": found.collection.title, "pooling": found.pooling},
    )
    sampled = "a sample of " if len(chosen) < len(found.rows) else ""
    st.caption(
        f"By cosine, over {sampled}{made[0].num_rows:,} pictures with {made[0].num_labels:,} labels. Purity: of each "
        f"picture’s {k} nearest, the share with its label. Silhouette, \u22121 to 1: how much closer a picture is to "
        "its own label than to the nearest other one. The first place is the pixels themselves; what a layer adds lies "
        "above it, and a layer below it does worse than the pixels."
    )
    worst = sorted(made[-1].purity_by_label.items(), key=lambda item: item[1])
    with st.expander("By label, at the last layer"):
        st.dataframe(
            {"label": [name for name, _ in worst], f"purity of the {k} nearest": [value for _, value in worst]},
            hide_index=True,
        )


def _sample(found: Indexed) -> NDArray[np.intp]:
    """Pictures that are compared with each other; the time grows with the square of their number."""
    num = len(found.rows)
    draw = np.random.default_rng(0)
    return np.arange(num) if num <= _MOST_COMPARED else np.sort(draw.choice(num, _MOST_COMPARED, replace=False))


@st.cache_data(max_entries=64, show_spinner="Comparing the layers")
def _separation(
    found_by: str,  # noqa: ARG001 - the cache's key
    _vectors: FloatArray,
    _chosen: NDArray[np.intp],
    _labels: Sequence[str],
) -> embeddings.Separation:
    fewest = sum(map(bool, _labels)) - 1
    return embeddings.separation(_vectors[_chosen], _labels, k=min(5, fewest))
