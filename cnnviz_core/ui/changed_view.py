"""The pictures of a collection that two networks answer differently: by kind, by class, one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import streamlit as st
import torch

from cnnviz_core import render
from cnnviz_core.methods import comparison
from cnnviz_core.results import AnswerChanges, ChangedAnswer, Screening
from cnnviz_core.ui import charts, comparison_view, frame, glimpse, pickers, show
from cnnviz_core.ui.comparison_view import Pair
from cnnviz_core.ui.pickers import Selection

_MOST_SHOWN = 60
_TILE_PX = 112
_ALL = "all"


def draw(_chosen: Selection, pair: Pair) -> None:
    """The pictures whose answer changed."""
    screening = comparison_view.screening(pair)
    if screening is None:
        return
    found = comparison.changed_answers(pair.base, pair.tuned, screening)
    st.markdown(f"**{len(found.answers):,} of {found.num_pictures:,} pictures are answered differently.**")
    if found.num_known < found.num_pictures:
        st.caption(
            f"For {found.num_known:,} pictures both networks have a class for what they show. For the others nothing "
            "is gained or lost: their answers only differ, or only one network has a word for them."
        )
    if not found.answers:
        st.caption("There is nothing to show: both networks give the same answers.")
        return
    wanted = _filter(found, screening)
    if not wanted:
        st.caption("None of this kind and class.")
        return
    _wall(wanted[:_MOST_SHOWN], screening, found)
    _one(wanted, screening, pair, found)
    _classes(found)


def _filter(found: AnswerChanges, screening: Screening) -> list[ChangedAnswer]:
    counts = Counter(answer.kind for answer in found.answers)
    with frame.row():
        kind = pickers.choose(
            "Kind",
            [_ALL, *(kind for kind in comparison.KINDS if counts[kind])],
            key="changed_kind",
            help="  \n".join(f"**{kind}**: {words}" for kind, words in comparison.KINDS.items()),
            of=screening.run.weights_hash,
        )
        classes = [row.name for row in found.classes if row.changed]
        name = pickers.choose("Class of the picture", [_ALL, *classes], key="changed_class", of=repr(classes[:3]))
    labels = [screening.labels[answer.picture] or answer.base for answer in found.answers]
    return [
        answer
        for answer, label in zip(found.answers, labels, strict=True)
        if kind in (_ALL, answer.kind) and name in (_ALL, label)
    ]


def _wall(answers: list[ChangedAnswer], screening: Screening, found: AnswerChanges) -> None:
    paths = tuple(screening.paths[answer.picture] for answer in answers)
    atlas = glimpse.thumbnails(str(screening.run.settings["collection"]), paths, 2 * _TILE_PX)

    def select(index: int) -> None:
        st.session_state["changed_picture"] = answers[index].picture

    pictures = [answer.picture for answer in answers]
    if st.session_state.get("changed_picture") not in pictures:
        st.session_state["changed_picture"] = pictures[0]
    show.mosaic_wall(
        render.rgb_mosaic(atlas, tile_px=2 * _TILE_PX),
        key="changed_wall",
        selected=pictures.index(st.session_state["changed_picture"]),
        labels=[f"{_short(answer.base)} → {_short(answer.tuned)}" for answer in answers],
        hints=[
            f"{path}: {a.base} → {a.tuned}, {render.format_fixed(a.moved, 2, signed=True)}"
            for path, a in zip(paths, answers, strict=True)
        ],
        tile_px=_TILE_PX,
        smooth=True,
        aria="Pictures whose answer changed",
        on_select=select,
    )
    more = f" The first {_MOST_SHOWN} are shown." if len(answers) == _MOST_SHOWN else ""
    st.caption(
        f"Base → tuned. Those whose evidence moved farthest come first ({found.unit}).{more} Click one for both "
        "answers."
    )


def _short(label: str) -> str:
    first = label.partition(",")[0]
    return first if len(first) <= 18 else f"{first[:17]}…"


def _one(answers: list[ChangedAnswer], screening: Screening, pair: Pair, found: AnswerChanges) -> None:
    """The chosen picture, and what both networks make of it."""
    at = st.session_state["changed_picture"]
    answer = next((one for one in answers if one.picture == at), answers[0])
    picture, *sides = st.columns([1, 2, 2], gap="medium")
    with picture:
        collection_id = str(screening.run.settings["collection"])
        st.image(
            glimpse.thumbnails(collection_id, (screening.paths[answer.picture],), 2 * _TILE_PX)[0], width="stretch"
        )
        label = screening.labels[answer.picture]
        st.caption(
            f"{frame.plain(screening.paths[answer.picture])}" + (f" · shows {frame.plain(label)}" if label else "")
        )
        st.caption(
            f"{answer.kind}: {comparison.KINDS[answer.kind]}. Moved by "
            f"{render.format_fixed(answer.moved, 2, signed=True)} ({found.unit})."
        )
    both = ((pair.base, screening.base_scores, "Base"), (pair.tuned, screening.tuned_scores, "Tuned"))
    for column, (model, scores, name) in zip(sides, both, strict=True):
        with column:
            st.markdown(f"**{name}**")
            probabilities = model.probabilities(torch.from_numpy(scores[answer.picture][None].copy()))[0].numpy()
            best = np.argsort(-probabilities, kind="stable")[:5]
            charts.draw(
                render.probability_bars([model.class_names[i] for i in best], probabilities[best].tolist()),
                key=f"changed_bars_{name}",
                title=f"{name}: what {model.spec.title} says of {screening.paths[answer.picture]}",
                run=screening.run,
                made={"picture": screening.paths[answer.picture]},
                code=f"result.{name.lower()}_scores[{answer.picture}]",
                is_small=True,
            )


def _classes(found: AnswerChanges) -> None:
    st.subheader("By class", anchor=False)
    known = found.num_known > 0
    columns = {
        "label, or else the base network’s answer": [row.name for row in found.classes],
        "pictures": [row.num for row in found.classes],
        "answered differently": [row.changed for row in found.classes],
    }
    if known:
        columns["right in base"] = [row.base_right for row in found.classes]
        columns["right in tuned"] = [row.tuned_right for row in found.classes]
    st.dataframe(columns, hide_index=True, key="changed_classes")
