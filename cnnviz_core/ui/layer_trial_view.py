"""The same object found by other layers: each stage alone, and several joined, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from cnnviz_core import features
from cnnviz_core.images import InputImage
from cnnviz_core.methods import few_shot
from cnnviz_core.results import LayerTrial, PictureMaps
from cnnviz_core.ui import tables, transfer, work
from cnnviz_core.ui.support_view import Support
from cnnviz_core.ui.transfer import Options, Query


def draw(query: Query, supports: Sequence[Support], options: Options) -> None:
    """The same supports and query by each stage alone, and by several joined."""
    st.subheader("Which layer finds it best?", anchor=False)
    model = query.chosen.model
    groups = few_shot.layer_groups(model)
    quick = tuple(transfer.compared_at_once(model, len(supports), options.size_px))
    by = transfer.found_by(model, supports, replace(options, layers=()))
    key = f"{by} {query.chosen.image.digest} {transfer.digest(query.truth)}"
    with st.spinner("Comparing layers"):
        trials = _trials(key, quick, query, supports, options)
    slow = tuple(group for group in groups if group not in quick)
    if slow and st.toggle(
        "All stages", key="all_stages", bind="query-params", persist_state="session",
        help="The early stages, too, which have many cells.",
    ):  # fmt: skip
        seconds = few_shot.estimate_seconds(model, slow, num_supports=len(supports), size_px=options.size_px)
        more: tuple[LayerTrial, ...] | None = work.until_done(
            lambda on_step: _compare(slow, query, supports, options, on_step=on_step),
            key=repr(("few_shot.compare_layers", key, slow)),
            name="all_stages_job",
            title="Compare the early stages",
            cost=f"About {work.duration(seconds)}: every cell is compared with all of the supports’ cells.",
            show=_table,
        )
        trials = (*trials, *(more or ()))
    _table(sorted(trials, key=lambda trial: groups.index(trial.layers)))
    st.caption(
        "Late stages know what a thing is, on a coarse grid; early ones see fine texture and colour. IoU is at the "
        "threshold found without the query; oracle is at the best one for it."
    )


def _compare(
    groups: Sequence[tuple[str, ...]],
    query: Query,
    supports: Sequence[Support],
    options: Options,
    on_step: few_shot.OnStep | None = None,
) -> tuple[LayerTrial, ...]:
    model = query.chosen.model
    layers = tuple(dict.fromkeys(layer for group in groups for layer in group))
    settings = {"layers": layers, "size_px": options.size_px, "dilate_last": options.dilate_last}

    def record(image: InputImage) -> PictureMaps:
        """Not through the cache: the maps of early stages are large."""
        if on_step is None:
            return transfer.recorded(model, image, options, layers)
        return features.record(model, image, **settings)  # type: ignore[arg-type]

    pairs = [(record(support.image), support.at_full_size()) for support in supports]
    return few_shot.compare_layers(
        model,
        pairs,
        record(query.chosen.image),
        groups=groups,
        truth=query.truth,
        on_step=on_step,
        **options.scoring,  # type: ignore[arg-type]
    )


@st.cache_data(max_entries=12, show_spinner=False)
def _trials(
    key: str,  # noqa: ARG001 - the cache's key
    groups: tuple[tuple[str, ...], ...],
    _query: Query,
    _supports: Sequence[Support],
    _options: Options,
) -> tuple[LayerTrial, ...]:
    return _compare(groups, _query, _supports, _options)


def _table(trials: Sequence[LayerTrial]) -> None:
    is_measured = any(trial.iou is not None for trial in trials)
    columns: dict[str, list[object]] = {
        "layers": [" + ".join(trial.layers) for trial in trials],
        "cells": [f"{trial.cells[0]} × {trial.cells[1]}" if not trial.problem else trial.problem for trial in trials],
    }
    if is_measured:
        columns["IoU"] = [trial.iou for trial in trials]
        columns["oracle"] = [trial.oracle_iou for trial in trials]
    columns["among supports"] = [trial.support_iou for trial in trials]
    columns["threshold"] = [trial.threshold for trial in trials]
    tables.draw(columns, decimals=dict.fromkeys(("IoU", "oracle", "among supports", "threshold"), 3))
