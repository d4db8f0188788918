"""The comparison page: which two networks, what the weights say, and the layers on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import streamlit as st

from cnnviz_core import catalogue, pairs, render, store
from cnnviz_core.collections import Collection
from cnnviz_core.methods import comparison
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Kinship, LayerChange, Screening, WeightChange
from cnnviz_core.ui import charts, collection_view, compute, frame, pickers, tables, work
from cnnviz_core.ui.pickers import Selection

REDRAWN, UNTRAINED, PUBLISHED, ITSELF = "redrawn", "untrained", "published", "itself"
_MADE = {
    REDRAWN: "the same, its last stage redrawn",
    UNTRAINED: "the same architecture, untrained",
    PUBLISHED: "the published weights",
    ITSELF: "the very same network",
}
_AT_ONCE_SECONDS = 180
_MOST_NAMED = 8


@dataclass(frozen=True)
class Pair:
    """Two networks of one architecture.

    Attributes:
        base: As it was.
        tuned: As it became.
        changes: What became of the weights.
        kinship: How they are related.
    """

    base: LoadedModel
    tuned: LoadedModel
    changes: tuple[WeightChange, ...]
    kinship: Kinship

    @property
    def key(self) -> str:
        """Names the pair with its weights, preprocessing and classes."""
        return repr([compute.key(comparison.screen, model, None)[1:] for model in (self.base, self.tuned)])


def pair(chosen: Selection) -> Pair:
    """Asks for the other network, and says how the two are related.

    Raises:
        NotApplicable: They are of different architectures.
    """
    with frame.row():
        role = st.segmented_control(
            "The sidebar’s network is",
            ["base", "tuned"],
            default="base",
            key="role",
            required=True,
            bind="query-params",
            help="**Base** is a network as it was, **tuned** is what became of it. Both measures of the study are "
            "taken in the base network.",
        )
        names = _partners(chosen.model)
        other = pickers.choose(
            "Compare with",
            list(names),
            key="other",
            name=lambda partner: names[partner],
            of=chosen.model.spec.model_id,
            help="Networks of the same architecture that are ready on this machine; a checkpoint of your own is added "
            "on the page Networks. **Last stage redrawn** is a copy whose last stage has its weights in random order: "
            "a known change, to see what one looks like. **Untrained** is a random draw.",
        )
    with st.spinner("Loading the other network"):
        partner = _load(chosen.model, other)
    base, tuned = (chosen.model, partner) if role == "base" else (partner, chosen.model)
    pairs.check(base, tuned)
    changes, kinship = _weights(repr((base.spec.weights_hash, tuned.spec.weights_hash)), base, tuned)
    _say(base, tuned, kinship)
    return Pair(base, tuned, changes, kinship)


def _partners(model: LoadedModel) -> dict[str, str]:
    """Ids of the networks that can be compared with this one, and what to call them: real ones first."""
    mine = str(st.session_state.get("model", ""))
    stem = _stem(model.spec.model_id)
    cards = {card.checkpoint_id: card.name for card in store.checkpoints() if _stem(card.architecture) == stem}
    entries = {entry.model_id: entry.title for entry in catalogue.entries() if entry.ready}
    real = {name: title for name, title in entries.items() if _stem(name) == stem}
    found = {name: pickers.network_name(name, title) for name, title in {**cards, **real}.items() if name != mine}
    is_published = not mine.startswith("checkpoint/") and model.spec.is_trained
    if mine in real and not is_published:
        found[PUBLISHED] = _MADE[PUBLISHED]
    return {**found, **{made: _MADE[made] for made in (REDRAWN, UNTRAINED, ITSELF)}}


def _stem(model_id: str) -> str:
    """The architecture, without the name of published weights."""
    return model_id.partition(".")[0]


def _load(model: LoadedModel, other: str) -> LoadedModel:
    made: dict[str, Callable[[], LoadedModel]] = {
        ITSELF: lambda: model,
        REDRAWN: lambda: compute.shelf().get(
            ("last stage redrawn", model.spec.weights_hash), lambda: pairs.redrawn(model, pairs.last_stage(model))
        ),
        UNTRAINED: lambda: compute.model(model.spec.model_id, "random:1"),
        PUBLISHED: lambda: compute.model(model.spec.model_id),
    }
    return made[other]() if other in made else compute.model(other)


@st.cache_data(max_entries=32, show_spinner=False)
def _weights(
    found_by: str,  # noqa: ARG001 - the cache's key
    _base: LoadedModel,
    _tuned: LoadedModel,
) -> tuple[tuple[WeightChange, ...], Kinship]:
    changes = pairs.weight_changes(_base, _tuned)
    return changes, pairs.kinship(_base, changes)


def _say(base: LoadedModel, tuned: LoadedModel, kinship: Kinship) -> None:
    names = f"Base: {base.spec.title}, {base.num_classes:,} classes. Tuned: {tuned.spec.title}, {tuned.num_classes:,}."
    words = frame.plain(f"{names} {kinship.words}")
    if kinship.kind == "unrelated":
        st.warning(words, icon=":material/call_split:")
    else:
        st.info(words, icon=":material/account_tree:")


def part(parts: Iterable[str]) -> str:
    """Asks what is to be seen; one of ``parts``."""
    names = list(parts)
    return str(
        st.segmented_control(
            "Show",
            names,
            default=names[0],
            key="part",
            required=True,
            bind="query-params",
            help="**Through depth**: weights and layers. **This picture**: both networks on the sidebar’s picture. "
            "**Changed answers**: pictures of a collection. **What channels look for**: the study. **Report**: all of "
            "it in one file.",
        )
    )


# ---- through depth ---------------------------------------------------------------------------------------------------


def depth(_chosen: Selection, pair: Pair) -> None:
    """Weights and answers of the layers, through depth."""
    found = screening(pair, show_partial=lambda so_far: _profile(so_far, live=True))
    if found is not None:
        _profile(found)
        _channels(found)


def screening(pair: Pair, *, show_partial: Callable[[Screening], None] | None = None) -> Screening | None:
    """Both networks on the pictures of a collection; None while that is being made."""
    collection = collection_view.choose(default=comparison.DEFAULT_COLLECTION)
    if collection is None:
        return None
    key, num = _key(pair, collection), min(comparison.NUM_PICTURES, len(collection.pictures()))
    seconds = num * _seconds_per_picture(pair.key, pair.base, pair.tuned)
    found: Screening | None = work.until_done(
        lambda on_step: comparison.screen(pair.base, pair.tuned, collection=collection.collection_id, on_step=on_step),
        key=key,
        name="screening",
        title="Compare the layers",
        cost=f"{num:,} pictures go through both networks: about {work.duration(seconds)}.",
        show=show_partial,
        at_once=seconds <= _AT_ONCE_SECONDS,
        about={"base": pair.base.spec.title, "tuned": pair.tuned.spec.title, "collection": collection.title},
    )
    job = work.queue().find(key)
    if job is not None:  # for the report, also if it gets ready while another part is looked at
        st.session_state["comparison_screening"] = key
    if found is None and (job is None or not job.is_live):
        _weights_only(pair)
    return found


def _weights_only(pair: Pair) -> None:
    """What the weights say alone, while nothing is known of pictures."""
    layers = tuple(LayerChange(change, float("nan"), np.empty(0, np.float32)) for change in pair.changes)
    series = {name: values for name, values in profile_series(layers).items() if name.startswith("weights")}
    names = [change.layer for change in pair.changes]
    charts.draw(
        render.depth_profile(names, series, unit="1 or 0 is unchanged"),
        key="weights_only",
        title=f"{pair.base.spec.model_id} weights of base and tuned through depth",
        made={"base": pair.base.spec.title, "tuned": pair.tuned.spec.title},
    )
    st.caption("The weights alone, so far. Run it for what they do to real pictures.")


def _key(pair: Pair, collection: Collection) -> str:
    listing = [(picture.path, picture.digest, picture.label) for picture in collection.pictures()]
    return repr(("screen", pair.key, collection.collection_id, hash(tuple(listing))))


@st.cache_data(max_entries=32, show_spinner="Measuring how long it takes")
def _seconds_per_picture(found_by: str, _base: LoadedModel, _tuned: LoadedModel) -> float:  # noqa: ARG001
    return comparison.seconds_per_picture(_base, _tuned)


def profile_series(layers: tuple[LayerChange, ...]) -> dict[str, list[float]]:
    """What the chart through depth shows: names and one value per layer."""
    return {
        "CKA of the answers": [one.cka for one in layers],
        "channels, median correlation": [one.correlation for one in layers],
        "weights, cosine": [one.weights.cosine for one in layers],
        "weights, relative change": [one.weights.relative for one in layers],
    }


def _profile(found: Screening, *, live: bool = False) -> None:
    names = [one.layer for one in found.layers]
    series = {name: values for name, values in profile_series(found.layers).items() if np.isfinite(values).any()}
    chart = render.depth_profile(names, series, unit="1 is unchanged (relative change: 0)")
    if live:
        charts.so_far(chart, key="depth_so_far")
        num = len(found.paths)
        st.caption(
            f"The first {num:,} pictures." if num else "The weights alone, so far; the pictures are on their way."
        )
        return
    columns: dict[str, list[object]] = {
        "layer": list(names),
        "parameters": [one.weights.num_params for one in found.layers],
        **{name: list(values) for name, values in series.items()},
        "unchanged": ["yes" if one.weights.same_parameters else "" for one in found.layers],
    }
    charts.draw(
        chart,
        key="depth",
        title=f"{found.run.model_id} base and tuned through depth",
        run=found.run,
        table=lambda: columns,
        code="[(one.layer, one.cka, one.correlation, one.weights) for one in result.layers]",
    )
    st.caption(
        f"{len(found.paths):,} pictures. CKA is unbiased: 1 means the layer finds the same pictures alike, 0 is "
        "chance. The correlation is each channel’s with itself, on means over a coarse grid of places. A layer is a "
        "block, or a convolution with its normalisation; the first is at the left."
    )
    st.caption(frame.plain(unchanged_words(found)))
    for notice in found.notices:
        st.caption(f":material/info: {frame.plain(notice)}")
    with st.expander("All numbers", icon=":material/table:"):
        tables.draw(columns, decimals=dict.fromkeys(series, 4))


def unchanged_words(found: Screening) -> str:
    """Which layers are unchanged, in a sentence or two."""
    frozen = [one.layer for one in found.layers if one.weights.same_parameters]
    drifted = [one.layer for one in found.layers if one.weights.same_parameters and not one.weights.same_statistics]
    if not frozen:
        return "No layer is unchanged: every one of them was trained."
    words = "All layers" if len(frozen) == len(found.layers) else f"{len(frozen)} of {len(found.layers)} layers"
    sentence = f"{words} are unchanged to the last bit, as frozen ones are: {_named(frozen)}."
    if drifted:
        sentence += f" Running statistics changed all the same in {_named(drifted)}."
    return sentence


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _channels(found: Screening) -> None:
    """The channels of one layer, those that changed most first."""
    layers = {one.layer: one for one in found.layers if np.isfinite(one.correlations).any()}
    if not layers:
        return
    st.subheader("Channel by channel", anchor=False)
    lowest = min(layers.values(), key=lambda one: one.correlation)
    name = pickers.choose(
        "Layer", list(layers), key="changed_layer", default=lowest.layer, of=found.run.weights_hash,
        help="At first the layer whose channels changed most.",
    )  # fmt: skip
    values = layers[name].correlations
    charts.draw(
        render.histogram(values, unit="correlation of a channel with itself", num_bins=40),
        key="channel_correlations",
        title=f"Correlations of the channels of {name}",
        run=found.run,
        table=lambda: {
            "channel": list(range(len(values))),
            "correlation of the channel with itself": values.tolist(),
        },
        code=f"next(one for one in result.layers if one.layer == {name!r}).correlations",
    )
    order = np.argsort(np.where(np.isfinite(values), values, np.inf))[:_MOST_NAMED]
    named = ", ".join(f"{c} ({render.format_fixed(values[c], 2)})" for c in order.tolist() if np.isfinite(values[c]))
    st.caption(f"Least alike: channels {named}. Missing are channels that answer alike everywhere in one network.")
