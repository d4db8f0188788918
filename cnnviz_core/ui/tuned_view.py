"""What a training came to: accuracy, the classes, who was taken for whom, and the new network to use or take away."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import catalogue, render, store, training
from cnnviz_core.collections import Collection
from cnnviz_core.errors import CnnvizError
from cnnviz_core.methods import fine_tuning
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import FineTuned
from cnnviz_core.store import Card
from cnnviz_core.ui import charts, collection_view, fine_tuning_view, frame, pickers, screen, tables, work
from cnnviz_core.ui.collection_view import Indexed

_COMPARISON = "pages/compare/comparison.py"
_TILE_PX = 96
_MOST_PICTURES = 120
_ALL_MISTAKES = "all mistakes"


def draw(found: Indexed | None, result: FineTuned) -> None:
    """All of it; the pictures once they are indexed."""
    st.subheader("On pictures it was not trained on", anchor=False)
    _numbers(result)
    st.caption(f"{fine_tuning.ENDINGS[result.ended]} Epoch {result.best_epoch} is kept.")
    for notice in result.notices:
        st.warning(frame.plain(notice), icon=":material/info:")
    _network(result)
    fine_tuning_view.curves(
        result.history,
        len(result.history) - 1,
        result.best_epoch,
        result.history[0].validation_accuracy,
        key="final",
        run=result.run,
    )
    _confusion(found, result)
    _table(result)


def _numbers(result: FineTuned) -> None:
    accuracy, probe, chance, time = st.columns(4)
    difference = result.accuracy - result.probe_accuracy
    accuracy.metric(
        "Test accuracy",
        format_percent(result.accuracy, 1),
        f"{render.format_fixed(100 * difference, 1, signed=True)} points",
        delta_color="off" if not difference else "green" if difference > 0 else "red",
        delta_arrow="off" if not difference else "up" if difference > 0 else "down",
        help=f"Of {len(result.test):,} pictures; one picture is {format_percent(1 / len(result.test), 1)}. Below: the "
        "difference to the linear probe.",
    )
    probe.metric("Linear probe", format_percent(result.probe_accuracy, 1), help="The head alone on frozen features.")
    chance.metric(
        "By chance", format_percent(result.chance_accuracy, 1), help="Always answering the most frequent class."
    )
    time.metric("Took", work.duration(result.run.seconds))


def _network(result: FineTuned) -> None:
    """What can be done with the new network."""
    if result.checkpoint is None:
        _not_saved(result)
        return
    try:
        card = store.checkpoint(result.checkpoint.checkpoint_id)
    except CnnvizError:
        st.info("The new network was removed from this server. Change a setting and train again.")
        return

    seen = st.session_state.setdefault("tuned_networks", set())
    if card.checkpoint_id not in seen:  # the sidebar of this run may be older than the network
        seen.add(card.checkpoint_id)
        st.rerun()

    def use() -> None:
        st.session_state["model"] = card.checkpoint_id

    with frame.row():
        st.button("Use this network", key="use_tuned", icon=":material/check:", type="primary", on_click=use)
        # Not a plain link: what the sidebar has in this session would win over the network in it.
        if st.button("Compare with its base", key="compare_tuned", icon=":material/compare_arrows:"):
            name = pickers.checkpoint_names()[card.checkpoint_id]
            screen.go(_COMPARISON, {"model": [name], "role": ["tuned"], **_base(card)})
        st.download_button(
            "Weights (.safetensors)",
            card.path.read_bytes,
            card.path.name,
            key="download_tuned",
            icon=":material/download:",
            on_click="ignore",
            help="With class names, preprocessing, base, data, settings and scores in its header.",
        )
    st.caption(
        f"Kept as {frame.plain(card.name)}; it is in the list of networks in the sidebar, and used on all pages once "
        "it is chosen there."
    )


def _base(card: Card) -> dict[str, list[str]]:
    """What the page of comparison calls the network that a training started from; empty where it does not offer it."""
    base = _part(card.training, "base")
    network = str(base.get("network", ""))
    if network.startswith("checkpoint/"):
        title = next((one.name for one in store.checkpoints() if one.checkpoint_id == network), "")
    else:
        title = catalogue.find(network).title if base.get("weights") == "default" else ""
    return {"other": [pickers.network_name(network, title)]} if title else {}


def _not_saved(result: FineTuned) -> None:
    with frame.row():
        if st.button("Save again", key="save_tuned", icon=":material/save:"):
            saved = fine_tuning.keep(result)
            if saved.checkpoint is None:
                frame.problem(saved.notices[-1])
            else:
                st.session_state["model"] = saved.checkpoint.checkpoint_id
                st.success("It is kept, and in the list of networks in the sidebar.")
        st.download_button(
            "Weights (.safetensors)", result.unsaved, "network.safetensors", key="download_unsaved", on_click="ignore"
        )


# ---- who was taken for whom -----------------------------------------------------------------------------------------


def _confusion(found: Indexed | None, result: FineTuned) -> None:
    st.subheader("Who is taken for whom", anchor=False)
    cells = _cells(result)
    names = list(cells)

    def pick() -> None:
        points = st.session_state["confusion"]["selection"]["points"]
        if points:
            row, column = divmod(int(points[0]["point_index"]), len(result.class_names))
            by_place = {place: name for name, place in cells.items()}
            if (row, column) in by_place:
                st.session_state["cell"] = by_place[row, column]

    if st.session_state.get("cell") not in (None, *names):
        st.session_state["cell"] = names[0]
    left, right = st.columns([3, 2], gap="medium")
    with right:
        name = pickers.choose(
            "Pictures of", names, key="cell", help="Or click a cell of the matrix. The most frequent mix-ups first."
        )
        if found is None:
            st.caption("The pictures are shown here once the collection is indexed.")
        else:
            _pictures(found, result, cells[name])
    with left:
        charts.draw(
            render.confusion_figure(result.class_names, result.confusion, selected=cells[name]),
            key="confusion",
            title="Confusion matrix",
            on_select=pick,
            run=result.run,
            table=partial(_confusion_columns, result),
            code="result.confusion",
        )
        st.caption("Rows are the classes, columns the answers; the diagonal is right. Colours are shares of the row.")


def _confusion_columns(result: FineTuned) -> charts.Table:
    rows, columns = np.indices(result.confusion.shape).reshape(2, -1)
    return {
        "class": [result.class_names[row] for row in rows],
        "answer": [result.class_names[column] for column in columns],
        "test pictures": result.confusion.ravel().tolist(),
        "by the linear probe": result.probe_confusion.ravel().tolist(),
    }


def _cells(result: FineTuned) -> dict[str, tuple[int, int] | None]:
    """What can be looked at: all mistakes, the cells off the diagonal by frequency, then those on it."""
    counts = result.confusion
    places = [(int(row), int(column)) for row, column in np.argwhere(counts)]
    places.sort(key=lambda place: (place[0] == place[1], -counts[place]))
    named: dict[str, tuple[int, int] | None] = {_ALL_MISTAKES: None}
    for row, column in places:
        truth, answer = result.class_names[row], result.class_names[column]
        words = f"{truth}, answered rightly" if row == column else f"{truth}, answered {answer}"
        named[f"{words} ({counts[row, column]})"] = (row, column)
    return named


def _pictures(found: Indexed, result: FineTuned, cell: tuple[int, int] | None) -> None:
    is_here = (
        result.truths != result.answers if cell is None else (result.truths == cell[0]) & (result.answers == cell[1])
    )
    places = np.flatnonzero(is_here)
    places = places[np.argsort(-result.probabilities[places], kind="stable")]
    rows = {picture.path: row for row, picture in enumerate(found.rows)}
    here = [int(place) for place in places if result.test[place] in rows]
    if len(here) < len(places):
        st.caption(f"{len(places) - len(here):,} of these pictures are no longer in the collection.")
    if not here:
        st.caption("There is none." if not len(places) else "")
        return
    shown = here[:_MOST_PICTURES]
    names = result.class_names
    collection_view.wall(
        found,
        [rows[result.test[place]] for place in shown],
        key="confused",
        selected=None,
        what="Test pictures of the chosen cell",
        labels=[f"{names[result.answers[place]]}: {100 * result.probabilities[place]:.0f} %" for place in shown],
        tile_px=_TILE_PX,
    )
    more = f"The first {len(shown):,} of {len(here):,}. " if len(shown) < len(here) else ""
    st.caption(f"{more}Under each its answer and how probable that was; the surest first.")


def _table(result: FineTuned) -> None:
    with st.expander("Class by class", icon=":material/table:"):
        totals, probe = result.confusion.sum(axis=1), np.diagonal(result.probe_confusion)
        tables.draw(
            {
                "class": list(result.class_names),
                "test pictures": totals.tolist(),
                "answered rightly": np.diagonal(result.confusion).tolist(),
                "found (recall)": result.recalls.tolist(),
                "right when answered (precision)": result.precisions.tolist(),
                "by the linear probe": probe.tolist(),
            },
            percent=["found (recall)", "right when answered (precision)"],
        )


# ---- earlier ones ---------------------------------------------------------------------------------------------------


def earlier(collection: Collection) -> None:
    """The networks that were trained on this collection before."""
    cards = [
        card for card in store.checkpoints() if _part(card.training, "collection").get("id") == collection.collection_id
    ]
    if not cards:
        return
    with st.expander(f"Trained on {frame.plain(collection.title)} before: {len(cards)}", icon=":material/history:"):
        revision = training.revision(collection.pictures())
        tables.draw(
            {
                "network": [card.name for card in cards],
                "base": [_part(card.training, "base").get("network", "") for card in cards],
                "trained": [_trained(card.training) for card in cards],
                "test accuracy": [_part(card.training, "scores").get("test_accuracy") for card in cards],
                "linear probe": [_part(card.training, "scores").get("linear_probe_test_accuracy") for card in cards],
                "pictures since": [
                    "the same" if _part(card.training, "collection").get("revision") == revision else "changed"
                    for card in cards
                ],
            },
            key="earlier_trainings",
            on_select=lambda: _use_row([card.checkpoint_id for card in cards]),
            selection_mode="single-row",
            percent=["test accuracy", "linear probe"],
        )
        st.caption("Choose a row to use the network on all pages.")


def _use_row(checkpoint_ids: list[str]) -> None:
    rows = st.session_state["earlier_trainings"]["selection"]["rows"]
    if rows:
        st.session_state["model"] = checkpoint_ids[rows[0]]


def _trained(account: Mapping[str, object]) -> str:
    names = account.get("trained")
    return ", ".join(map(str, names)) if isinstance(names, list) else ""


def _part(account: Mapping[str, object], name: str) -> Mapping[str, Any]:
    """A part of a card’s account; a card may be of any age."""
    part = account.get(name)
    return part if isinstance(part, dict) else {}
