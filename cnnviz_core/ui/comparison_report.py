"""The comparison as one HTML file for people who were not there: what is on the page, with numbers and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
import streamlit as st

from cnnviz_core import html_report, manifest, render
from cnnviz_core.html_report import Block, Code, Heading, Paragraph, Picture, Pictures, Settings, Table
from cnnviz_core.methods import comparison
from cnnviz_core.models import LoadedModel
from cnnviz_core.render import Scale
from cnnviz_core.results import FloatArray, Run, Screening, Study
from cnnviz_core.ui import both_view, comparison_view, compute, glimpse, show, study_view, work
from cnnviz_core.ui.comparison_view import Pair
from cnnviz_core.ui.pickers import Selection

T = TypeVar("T")

_NUM_CHANGED, _CHANGED_PX = 24, 224
_NUM_PAIRS = 3
_NUM_CLASSES = 30


def draw(chosen: Selection, pair: Pair) -> None:
    """Says what goes into the report, and gives it."""
    screening = _found("comparison_screening", pair, Screening)
    study = _found("comparison_study", pair, Study)
    st.markdown("One file that opens in any browser, also without a network: nothing in it is fetched from elsewhere.")
    for there, name, where in (
        (True, "Both networks, their weights and how they are related", ""),
        (True, "The sidebar’s picture: answers and evidence", ""),
        (screening is not None, "Layers on real pictures, and changed answers", "Through depth"),
        (study is not None, "What channels look for", "What channels look for"),
    ):
        icon = ":material/check_circle:" if there else ":material/radio_button_unchecked:"
        missing = "" if there else f" — not yet: run it under “{where}” and come back"
        st.markdown(f"{icon} {name}{missing}")
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{pair.base.spec.title} and {pair.tuned.spec.title}")
    st.download_button(
        "Download the report (HTML)",
        lambda: write(chosen, pair, screening, study).encode(),
        f"{stem}.html",
        key="comparison_report",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
    )


def _found(name: str, pair: Pair, kind: type[T]) -> T | None:
    """A finished result of this pair, by the name under which its part noted the key; None where there is none."""
    key = st.session_state.get(name, "")
    job = work.queue().find(key) if repr(pair.key) in key else None
    return job.result if job is not None and isinstance(job.result, kind) else None


def write(chosen: Selection, pair: Pair, screening: Screening | None, study: Study | None) -> str:
    """The report as HTML.

    Args:
        chosen: The picture.
        pair: The networks.
        screening: What they make of real pictures, if that is there.
        study: What channels look for, if that is there.
    """
    blocks: list[Block] = [*_networks(pair), *_picture(chosen, pair)]
    if screening is not None:
        blocks += [*_depth(screening), *_changed(pair, screening)]
    if study is not None:
        blocks += _study(study)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return html_report.write(
        f"{pair.base.spec.title} and {pair.tuned.spec.title}",
        blocks,
        subtitle=f"Two networks compared with cnnviz, {now}",
    )


def _networks(pair: Pair) -> Iterator[Block]:
    yield Heading("The two networks")
    yield Table(
        ["", "base", "tuned"],
        [
            ["network", pair.base.spec.title, pair.tuned.spec.title],
            ["architecture", pair.base.spec.model_id, pair.tuned.spec.model_id],
            ["classes", pair.base.num_classes, pair.tuned.num_classes],
            ["digest of the weights", pair.base.spec.weights_hash, pair.tuned.spec.weights_hash],
            ["input", _size(pair.base), _size(pair.tuned)],
        ],
    )
    yield Paragraph(pair.kinship.words, "note" if pair.kinship.kind == "unrelated" else "")


def _size(model: LoadedModel) -> str:
    height, width = model.preprocessing.input_px
    return f"{width} x {height} pixels"


def _picture(chosen: Selection, pair: Pair) -> Iterator[Block]:
    yield Heading(f"One picture: {chosen.image.name}")
    for name, model in (("Base", pair.base), ("Tuned", pair.tuned)):
        if model.num_classes:
            found = compute.run(LoadedModel.predict, model, chosen.image, k=5)
            rows = [[label, 100 * p] for label, p in zip(found.labels, found.probabilities, strict=True)]
            yield Table([f"{name} answers", "%"], rows)
    evidence = both_view.evidence(chosen, pair)
    if evidence is None:
        return
    pixels = pair.base.preprocessing.crop(chosen.image)
    signed, plain = Scale.fixed(-1, 1, signed=True), Scale.fixed(0, 1, signed=False)

    def over(values: FloatArray, scale: Scale, caption: str) -> Picture:
        drawn = render.overlay(pixels, values, scale=scale, opacity=0.6)
        return Picture(render.png(show.fitted(drawn, (240, 240))), caption, 240)

    yield Pictures(
        [
            Picture(render.png(show.fitted(pixels, (240, 240))), "What the network sees", 240),
            over(evidence.base, plain, f"Base: {evidence.base_map.target_label}"),
            over(evidence.tuned, plain, f"Tuned: {evidence.tuned_map.target_label}"),
            over(evidence.difference, signed, "Difference: red more in the tuned network, blue in the base"),
        ]
    )
    yield Paragraph(
        f"Grad-CAM, each map divided by its largest value. Rank correlation of the two: "
        f"{render.format_fixed(evidence.agreement, 2)}.",
        "quiet",
    )


def _depth(found: Screening) -> Iterator[Block]:
    yield Heading("Through depth")
    names = [one.layer for one in found.layers]
    series = comparison_view.profile_series(found.layers)
    yield _chart(render.depth_profile(names, series, unit="1 is unchanged (relative change: 0)"))
    yield Paragraph(comparison_view.unchanged_words(found))
    for notice in found.notices:
        yield Paragraph(notice, "note")
    yield Table(
        ["layer", "parameters", *series, "unchanged"],
        [
            [
                one.layer,
                one.weights.num_params,
                *(values[at] for values in series.values()),
                _yes(one.weights.same_parameters),
            ]
            for at, one in enumerate(found.layers)
        ],
    )
    yield from _how(found.run, {"pictures": len(found.paths)})


def _yes(value: bool) -> str:  # noqa: FBT001
    return "yes" if value else ""


def _changed(pair: Pair, screening: Screening) -> Iterator[Block]:
    if not (pair.base.num_classes and pair.tuned.num_classes):
        return
    found = comparison.changed_answers(pair.base, pair.tuned, screening)
    yield Heading("Pictures whose answer changed")
    yield Paragraph(
        f"{len(found.answers):,} of {found.num_pictures:,} pictures are answered differently. For {found.num_known:,} "
        f"both networks have a class for what they show. Those whose evidence moved farthest come first ({found.unit})."
    )
    shown = found.answers[:_NUM_CHANGED]
    if shown:
        paths = tuple(screening.paths[answer.picture] for answer in shown)
        small = glimpse.thumbnails(str(screening.run.settings["collection"]), paths, _CHANGED_PX)
        yield Pictures(
            [
                Picture(
                    render.jpeg(pixels, quality=85),
                    f"{a.kind}: {a.base} → {a.tuned} ({render.format_fixed(a.moved, 2, signed=True)})",
                    150,
                )
                for pixels, a in zip(small, shown, strict=True)
            ]
        )
    yield Table(
        ["class", "pictures", "answered differently", "right in base", "right in tuned"],
        [[row.name, row.num, row.changed, row.base_right, row.tuned_right] for row in found.classes[:_NUM_CLASSES]],
    )


def _study(found: Study) -> Iterator[Block]:
    yield Heading("What channels look for")
    yield Paragraph(
        "For each channel a picture was made that excites it, in both networks, from the same noise with the same "
        "settings. Compared are their embeddings in the base network "
        f"({found.embedding_layer}), by cosine, and their Gram matrices."
    )
    yield _chart(study_view.similarity_figure(found))
    yield Table(
        ["layer", "channels", "failed in base", "failed in tuned", "median cosine", "lowest", "highest"],
        [
            [one.layer, len(one.channels), int(one.base_failed.sum()), int(one.tuned_failed.sum()), *_spread(values)]
            for one, values in zip(found.layers, study_view.kept_similarities(found).values(), strict=True)
        ],
    )
    for one in found.layers:
        order = one.order.tolist()
        for name, places in (("most different", order[:_NUM_PAIRS]), ("most similar", order[::-1][:_NUM_PAIRS])):
            if places:
                yield Heading(f"{one.layer}: {name}", 3)
                yield Pictures(
                    [
                        Picture(render.png(study_view.pair_picture(one, at)), study_view.pair_label(one, at), 300)
                        for at in places
                    ]
                )
    yield Paragraph("Left the base network’s picture, right the tuned one’s; the number is their cosine.", "quiet")
    yield Heading("Grey failures", 3)
    yield _chart(study_view.failures_figure(found))
    for one in found.layers:
        if not one.kept.all():
            for side, chart in study_view.grey_figures(one).items():
                yield Paragraph(f"{one.layer}, {side}", "quiet")
                yield _chart(chart)
    at = found.gram_layers[len(found.gram_layers) // 2]
    yield Heading(f"Gram distances, taken at {at}", 3)
    yield _chart(study_view.gram_figure(found, at))
    chart, correlations = study_view.measures_figure(found, at)
    yield _chart(chart)
    yield Table(["layer", "rank correlation of the two measures"], [[n, value] for n, value in correlations.items()])
    yield Heading("Read with care", 3)
    for words in study_view.CAVEATS:
        yield Paragraph(words)
    yield from _how(found.run, {})


def _spread(values: FloatArray) -> tuple[float | None, float | None, float | None]:
    if not len(values):
        return None, None, None
    return float(np.median(values)), float(values.min()), float(values.max())


def _chart(figure: object) -> Picture:
    return Picture(render.svg(figure))


def _how(run: Run, more: dict[str, object]) -> Iterator[Block]:
    yield Settings({**run.settings, **more, "seconds": round(run.seconds, 1)})
    yield Code(manifest.python_lines(run))
