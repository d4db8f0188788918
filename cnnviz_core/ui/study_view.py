"""What channels look for in both networks: the study as one button, filling in live, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from scipy import stats

from cnnviz_core import render, visual_study
from cnnviz_core.images import Pixels
from cnnviz_core.methods import comparison
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, LayerStudy, Study
from cnnviz_core.ui import charts, frame, pickers, show, work
from cnnviz_core.ui.comparison_view import Pair
from cnnviz_core.ui.pickers import Selection

_TILE_PX = 150
_MOST_LAYERS = 8
_LIVE_PAIRS = 12
_QUICK_CHANNELS, _QUICK_STEPS, _QUICK_PX = 2, 24, 96
_CHANNELS = (4, 8, 12, 16, 24, 32, 64, 0)  # 0 is all

CAVEATS = (
    "A visualisation is one glimpse of what a channel answers to: other settings or another seed give another picture. "
    "Compare only what was made alike.",
    "The cosine follows texture and colour more than shape: two pictures of one pattern in other places are alike, and "
    "so are two patterns of one texture.",
    "In the last layers many features are entangled in a channel; the pictures grow alike, and the median similarity "
    "can rise again although more was changed.",
    "Gram distances have another scale at every layer at which they are taken. They are shown one layer at a time and "
    "never pooled.",
)


@dataclass(frozen=True)
class Looks:
    """How a study is made.

    Attributes:
        layers: Dotted names.
        channels: So many of each; None for all.
        steps: Of ascent.
        size_px: Side of the pictures.
        seed: Of noise, views, and the draw of channels.
    """

    layers: tuple[str, ...]
    channels: int | None
    steps: int
    size_px: int
    seed: int

    def settings(self) -> dict[str, Any]:
        """Arguments of :func:`comparison.study`."""
        return {
            "layers": self.layers,
            "channels": self.channels,
            "steps": self.steps,
            "size_px": self.size_px,
            "seed": self.seed,
        }

    def made(self, found: Study) -> bool:
        """Whether a study is of these, and not the quick one."""
        return all(found.run.settings[name] == value for name, value in self.settings().items() if name != "layers")


def draw(_chosen: Selection, pair: Pair) -> None:
    """The settings, the button, and what came out of it; until then, a few small pictures of each layer."""
    looks = _looks(pair)
    quick = replace(
        looks,
        channels=min(looks.channels or _QUICK_CHANNELS, _QUICK_CHANNELS),
        steps=min(looks.steps, _QUICK_STEPS),
        size_px=min(looks.size_px, _QUICK_PX),
    )
    found: Study | None = work.asked_or_quick(
        partial(_find, pair),
        looks,
        quick,
        name="study",
        title="Make and compare the pictures",
        quick_title="Quick pictures",
        below=f"quick pictures of {quick.channels} channels of each layer, of {quick.steps} steps at {quick.size_px} "
        "pixels",
    )
    key = _key(pair, looks)
    if work.queue().find(key) is not None:  # for the report, also if it gets ready while another part is looked at
        st.session_state["comparison_study"] = key
    if found is None or not found.layers:
        _what_to_expect(pair)
    elif looks.made(found):
        _similarities(found)
        _failures(found)
        _measures(found)
        _pairs(found)
        _caveats()
    else:
        _glimpse(found)
        _what_to_expect(pair)


def _key(pair: Pair, looks: Looks) -> str:
    return repr(("study", pair.key, looks))


def _find(pair: Pair, looks: Looks, *, name: str, title: str, at_once: bool | None) -> Study | None:
    total, missing = visual_study.num_pictures(pair.base, pair.tuned, **looks.settings())
    each = _seconds_per_step(pair.base.spec.weights_hash, looks.layers[-1], looks.size_px, pair.base)
    seconds = missing * looks.steps * each
    kept = f" {total - missing:,} of {total:,} are there already." if missing < total else ""
    found: Study | None = work.until_done(
        lambda on_step: comparison.study(pair.base, pair.tuned, on_step=on_step, **looks.settings()),
        key=_key(pair, looks),
        name=name,
        title=title,
        cost=f"{missing:,} pictures of {looks.steps} steps: about {work.duration(seconds)}.{kept} What is made "
        "is kept, so a study that is broken off goes on where it was.",
        show=partial(_live, key=f"{name}_so_far"),
        at_once=at_once,
        hint="Lower the side of the pictures",
        about={"base": pair.base.spec.title, "tuned": pair.tuned.spec.title, **looks.settings()},
    )
    return found


def _looks(pair: Pair) -> Looks:
    offered = visual_study.offered_layers(pair.base, pair.tuned)
    with frame.row():
        layers = pickers.several(
            "Layers",
            offered,
            key="study_layers",
            default=visual_study.default_layers(pair.base, pair.tuned),
            of=pair.base.spec.model_id,
            most=_MOST_LAYERS,
            help="Whose channels are looked at.",
        )
        channels = pickers.choose(
            "Channels of each layer",
            list(_CHANNELS),
            key="study_channels",
            default=visual_study.NUM_CHANNELS,
            name=lambda number: str(number) if number else "all",
            help="Drawn at random with the seed. More give steadier medians and take longer.",
        )
        with st.popover("Settings", icon=":material/tune:", key="study_settings"):
            steps = st.slider("Steps", 16, 512, visual_study.STEPS, 16, key="study_steps", bind="query-params")
            size = st.slider("Side, pixels", 64, 256, visual_study.SIZE_PX, 16, key="study_size", bind="query-params")
            seed = st.number_input("Seed", 0, 9999, 0, key="study_seed", bind="query-params")
    names = tuple(name for name in offered if name in layers)
    return Looks(names, channels or None, steps, size, int(seed))


@st.cache_data(max_entries=64, show_spinner="Measuring how long it takes")
def _seconds_per_step(weights_hash: str, layer: str, size_px: int, _model: LoadedModel) -> float:  # noqa: ARG001
    return visual_study.seconds_per_step(_model, layer=layer, size_px=size_px)


def _what_to_expect(pair: Pair) -> None:
    st.caption(
        "For each channel a picture is made that excites it, in both networks, from the same noise with the same "
        "settings. What differs between the two comes from the weights."
    )
    if pair.kinship.kind == "unrelated":
        st.caption("These two networks were trained apart, so a channel of one has no counterpart in the other.")


def _live(found: Study, *, key: str) -> None:
    """The pairs that are there, the latest first."""
    latest = [(layer, at) for layer in found.layers for at in range(len(layer.channels))][::-1][:_LIVE_PAIRS]
    if latest:
        _wall([(layer, at) for layer, at in latest], key=key, what="Pairs so far")
        st.caption("Left the base network, right the tuned one; the latest first, with their cosine.")


def _glimpse(found: Study) -> None:
    """The pairs of the quick study, layer by layer; too few for any figure of a layer."""
    with st.container(horizontal=True, gap="medium"):
        for one in found.layers:
            with st.container(width=2 * _TILE_PX):
                st.markdown(f"**{frame.plain(one.layer)}**")
                _wall([(one, at) for at in range(len(one.channels))], key=f"quick_{one.layer}", what=one.layer)
    st.caption(
        "Left the base network’s picture, right the tuned one’s; below, channel and cosine. So early in their making, "
        "many pictures still look like the noise that they began from: too little to judge a channel by, and too few "
        "to judge a layer."
    )


# ---- figures, on the page and in the report --------------------------------------------------------------------------


def kept_similarities(found: Study) -> dict[str, Any]:
    """Cosines by layer, without failures."""
    return {one.layer: one.similarities[one.kept] for one in found.layers}


def similarity_figure(found: Study) -> go.Figure:
    """Box plot of the cosine per layer."""
    return render.box_figure(kept_similarities(found), unit="cosine of the two pictures’ embeddings")


def gram_figure(found: Study, at: str) -> go.Figure:
    """Box plot of the Gram distance per layer, taken at one layer."""
    place = found.gram_layers.index(at)
    return render.box_figure(
        {one.layer: one.gram_distances[one.kept, place] for one in found.layers}, unit=f"Gram distance at {at}"
    )


def measures_figure(found: Study, at: str) -> tuple[go.Figure, dict[str, float]]:
    """The two measures against each other, and their rank correlation in each layer."""
    place = found.gram_layers.index(at)
    groups, names, correlations = {}, {}, {}
    for one in found.layers:
        x, y = one.similarities[one.kept], one.gram_distances[one.kept, place]
        groups[one.layer] = (x, y)
        names[one.layer] = [f"{one.layer} channel {channel}" for channel in one.channels[one.kept].tolist()]
        varies = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
        correlations[one.layer] = float(stats.spearmanr(x, y).statistic) if varies else float("nan")
    chart = render.cloud_figure(
        groups, x_title="cosine of the embeddings", y_title=f"Gram distance at {at}", names=names
    )
    return chart, correlations


def failures_figure(found: Study) -> go.Figure:
    """Grey failures per layer and network."""
    return render.counts_figure(
        [one.layer for one in found.layers],
        {
            "base": [int(one.base_failed.sum()) for one in found.layers],
            "tuned": [int(one.tuned_failed.sum()) for one in found.layers],
        },
        unit="grey failures",
    )


def grey_figures(one: LayerStudy) -> Mapping[str, go.Figure]:
    """Histograms of the grey score of a layer's pictures with the cut, for each network."""
    sides = {"base": (one.base_grey, one.base_cut), "tuned": (one.tuned_grey, one.tuned_cut)}
    return {
        name: render.histogram(
            scores, unit=f"distance from grey, {name}", marks={"cut": cut} if cut else None, num_bins=24
        )
        for name, (scores, cut) in sides.items()
    }


def pair_picture(one: LayerStudy, at: int) -> Pixels:
    """The two pictures of a channel on one tile, (H, 2 W + 4, 3)."""
    gap = np.full((one.base_pictures.shape[1], 4, 3), 255, np.uint8)
    return np.concatenate([one.base_pictures[at], gap, one.tuned_pictures[at]], axis=1)


def pair_label(one: LayerStudy, at: int) -> str:
    """What a pair is."""
    return f"{one.layer} channel {one.channels[at]}: {render.format_fixed(one.similarities[at], 3)}"


# ---- on the page -----------------------------------------------------------------------------------------------------


def _similarities(found: Study) -> None:
    st.subheader("Similarity by layer", anchor=False)
    rows = [(one, at) for one in found.layers for at in range(len(one.channels))]
    charts.draw(
        similarity_figure(found),
        key="study_boxes",
        title=f"{found.run.model_id} similarity of visualisations",
        run=found.run,
        table=lambda: {
            **_channels(rows),
            "cosine": [float(one.similarities[at]) for one, at in rows],
            **{
                f"gram distance at {name}": [float(one.gram_distances[at, place]) for one, at in rows]
                for place, name in enumerate(found.gram_layers)
            },
        },
        code="[(one.layer, one.channels, one.similarities, one.gram_distances) for one in result.layers]",
    )
    medians = {name: float(np.median(values)) for name, values in kept_similarities(found).items() if len(values)}
    st.caption(
        "Each point is a channel: the cosine of its two pictures’ embeddings, which are what the base network’s "
        f"classifier reads ({frame.plain(found.embedding_layer)})."
        + "".join(
            f" Median of {frame.plain(name)}: {render.format_fixed(value, 3)}." for name, value in medians.items()
        )
    )


def _channels(rows: Sequence[tuple[LayerStudy, int]]) -> dict[str, list[object]]:
    """The columns that say which channel a row is of, and whether a picture of it stayed grey."""
    return {
        "layer": [one.layer for one, _ in rows],
        "channel": [int(one.channels[at]) for one, at in rows],
        "failed": [int(not one.kept[at]) for one, at in rows],
    }


def _failures(found: Study) -> None:
    st.subheader("Grey failures", anchor=False)
    num = sum(int((~one.kept).sum()) for one in found.layers)
    total = sum(len(one.channels) for one in found.layers)
    left, right = st.columns(2, gap="medium")
    with left:
        charts.draw(
            failures_figure(found), key="study_failures", title="Grey failures by layer", run=found.run, is_small=True
        )
    with right:
        name = pickers.choose("Scores of layer", [one.layer for one in found.layers], key="grey_layer")
        (one,) = [one for one in found.layers if one.layer == name]
        for side, chart in grey_figures(one).items():
            scores = one.base_grey if side == "base" else one.tuned_grey
            charts.draw(
                chart,
                key=f"study_grey_{side}",
                title=f"Distances from grey at {name}, {side}",
                run=found.run,
                table=partial(_grey_columns, one, scores),
                is_small=True,
            )
    st.caption(
        f"{num} of {total} channels have a picture that stayed grey in one of the networks and are left out. A picture "
        "has failed if it lies below the first wide gap in the sorted distances from grey, and has next to no colour."
    )


def _grey_columns(one: LayerStudy, scores: FloatArray) -> charts.Table:
    return {"channel": one.channels.tolist(), "distance from grey": scores.tolist()}


def _measures(found: Study) -> None:
    st.subheader("A second measure: Gram matrices", anchor=False)
    at = pickers.choose(
        "Taken at",
        list(found.gram_layers),
        key="gram_layer",
        default=found.gram_layers[len(found.gram_layers) // 2],
        of=found.run.model_id,
        help="The layer of the base network whose Gram matrices are compared. Their scales differ from layer to layer.",
    )
    left, right = st.columns(2, gap="medium")
    with left:
        charts.draw(
            gram_figure(found, at),
            key="study_gram",
            title=f"Gram distances at {at} by layer",
            run=found.run,
            is_small=True,
        )
    chart, correlations = measures_figure(found, at)
    with right:
        charts.draw(
            chart, key="study_measures", title=f"Cosine and Gram distance at {at}", run=found.run, is_small=True
        )
    told = ", ".join(
        f"{frame.plain(name)} {render.format_fixed(value, 2)}"
        if np.isfinite(value)
        else f"{frame.plain(name)} not defined"
        for name, value in correlations.items()
    )
    st.caption(
        "A large distance means other textures. Where both measures agree, the cosine is high where the distance is "
        f"low, and the rank correlation is near \u22121: {told}."
    )


def _pairs(found: Study) -> None:
    st.subheader("The most different and the most similar channels", anchor=False)
    num = st.slider("How many of each", 1, 12, 3, key="study_top", bind="query-params")
    for one in found.layers:
        order = one.order.tolist()
        st.markdown(f"**{frame.plain(one.layer)}**")
        if not order:
            st.caption("Every picture of this layer has failed.")
            continue
        columns = st.columns(2, gap="medium")
        for column, name, places in (
            (columns[0], "most different", order[:num]),
            (columns[1], "most similar", order[::-1][:num]),
        ):
            with column:
                st.caption(name)
                _wall([(one, at) for at in places], key=f"study_{name}_{one.layer}", what=f"{name}, {one.layer}")
    st.caption("Left the base network’s picture, right the tuned one’s; below, channel and cosine.")


def _wall(items: Sequence[tuple[LayerStudy, int]], *, key: str, what: str) -> None:
    tiles = np.stack([pair_picture(one, at) for one, at in items])
    show.mosaic_wall(
        render.rgb_mosaic(tiles, tile_px=tiles.shape[2]),
        key=key,
        labels=[f"{one.channels[at]}: {render.format_fixed(one.similarities[at], 3)}" for one, at in items],
        hints=[pair_label(one, at) for one, at in items],
        tile_px=2 * _TILE_PX,
        smooth=True,
        aria=what,
        max_height=None,
    )


def _caveats() -> None:
    st.subheader("Read with care", anchor=False)
    for words in CAVEATS:
        st.markdown(f"- {words}")
