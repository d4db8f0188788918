"""The parts of the few-shot page: settings, the query with its live threshold, how good it is, layers compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from cnnviz_core import features, manifest, masks, photos, render, stereo
from cnnviz_core.errors import CnnvizError
from cnnviz_core.images import InputImage
from cnnviz_core.mask_transfer import Fitted
from cnnviz_core.masks import Bools
from cnnviz_core.methods import few_shot, segmentation
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FewShot, IouCurve, LayerTrial, Mask, PictureMaps
from cnnviz_core.ui import compute, frame, pickers, segmented_view, show, support_view, work
from cnnviz_core.ui.components import threshold_view, working_size
from cnnviz_core.ui.pickers import Selection
from cnnviz_core.ui.support_view import Support

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_SIZES = (224, 320, 384, 512, 640, 768)
_QUERY_PX = 520
_MASK_MB = 20
_DIMMED = 0.25
_OUTLINE = (255, 176, 0)

# Layers whose comparison takes no longer, on one core, are compared at once.
_AT_ONCE_SECONDS = 0.3


@dataclass(frozen=True)
class Options:
    """How masks are carried over.

    Attributes:
        layers: One or several, joined.
        score: A key of :data:`few_shot.SCORES`.
        background: Whether the background's score is taken off.
        shots: A key of :data:`few_shot.SHOTS`.
        centre: Whether the mean vector is taken off.
        size_px: Longer side of the pictures as the network sees them.
        dilate_last: Whether the last stage loses its stride.
        refine: Whether GrabCut sharpens the outline.
    """

    layers: tuple[str, ...]
    score: str
    background: bool
    shots: str
    centre: bool
    size_px: int
    dilate_last: bool
    refine: bool

    @property
    def scoring(self) -> dict[str, object]:
        """Arguments of :func:`few_shot.fit` that need no new forward."""
        return {"score": self.score, "shots": self.shots, "background": self.background, "centre": self.centre}


@dataclass(frozen=True, eq=False)
class Query:
    """The picture to find the object in.

    Attributes:
        chosen: Network and picture.
        truth: (H, W) where the object is, where that is known.
    """

    chosen: Selection
    truth: Bools | None


def options(model: LoadedModel) -> Options:
    """Asks how masks are carried over; at first in the way that did best on aeroplanes."""
    names = [info.name for info in model.layers.spatial if info.kind not in pickers.PASS_ON]
    layers = pickers.several(
        "Layers",
        names,
        key="few_shot_layers",
        default=few_shot.default_layers(model),
        of=model.spec.title,
        most=4,
        help="The last stage knows best what a thing is, the one before it is finer. Several are joined on the finest "
        "grid among them.",
        persist_state="session",
    )
    score = pickers.choose(
        "Score of a cell",
        list(few_shot.SCORES),
        key="few_shot_score",
        name=lambda name: few_shot.SCORES[name].title,
        help="  \n".join(f"**{s.title}**: {s.help}" for s in few_shot.SCORES.values()),
        persist_state="session",
    )
    background = _toggle(
        "Less the background",
        "less_background",
        "Takes off how alike a cell is to the supports’ cells beside the object. What object and background have in "
        "common then cancels out.",
        first=True,
    )
    refine = _toggle(
        "GrabCut outline",
        "refine",
        "Moves the outline to where the colours change. It helps where the object has colours of its own, and harms "
        "where one sees through it.",
    )
    with st.popover("Settings", icon=":material/tune:", key="few_shot_settings"):
        size = st.select_slider(
            "Working size, pixels",
            _SIZES,
            min(_SIZES, key=lambda size: abs(size - features.default_size_px(model))),
            key="few_shot_size",
            bind="query-params",
            persist_state="session",
            help="Longer side of the pictures as the network sees them, whole and in their own proportions. A larger "
            "one gives a finer grid, and leaves what the network was trained on.",
        )
        centre = _toggle(
            "Take off the mean vector",
            "less_mean",
            "The mean of the supports’ cells is subtracted first, from the query’s, too. It helps most where there is "
            "only one picture to learn from.",
            first=True,
        )
        dilate = _toggle(
            "Finer last stage",
            "finer_last",
            "Takes the stride out of the last stage and spreads its kernels, for twice as many cells each way.",
        )
        shots = pickers.choose(
            "Several supports count",
            list(few_shot.SHOTS),
            key="shots",
            name={"mean": "all alike (mean)", "max": "the most similar one (maximum)"}.__getitem__,
            persist_state="session",
        )
    return Options(tuple(layers), score, background, shots, centre, size, dilate, refine)


def _toggle(label: str, key: str, tooltip: str, *, first: bool = False) -> bool:
    return st.toggle(label, first, key=key, help=tooltip, bind="query-params", persist_state="session")


def columns() -> Sequence[DeltaGenerator]:
    """Room for the pictures to learn from, and for those to search."""
    return st.columns(2, gap="large")


def search(chosen: Selection, supports: Sequence[Support], options: Options) -> Query | None:
    """One picture or a whole collection, and the object in it. Returns the picture, if it is one that was searched."""
    st.subheader("Find it in", anchor=False)
    where = st.segmented_control(
        "Find it in",
        ["one picture", "a collection"],
        default="one picture",
        key="find_in",
        required=True,
        bind="query-params",
        persist_state="session",
        label_visibility="collapsed",
    )
    if not supports:
        st.info("Mark the object in a picture on the left: brush, rectangle or lasso.", icon=":material/brush:")
        return None
    if where == "a collection":
        segmented_view.draw(
            chosen,
            key=_found_by(chosen.model, supports, options),
            fit=lambda: _fit(chosen.model, supports, options),
            size_px=options.size_px,
            refine=_refine if options.refine else None,
        )
        return None
    with frame.errors():
        query = _query(chosen)
        _one(query, supports, options)
        return query
    return None


# ---- one picture ----------------------------------------------------------------------------------------------------


def _query(chosen: Selection) -> Query:
    mine: dict[str, str] = st.session_state.get("my_pictures", {})
    names = {"": "the picture in the sidebar"} | {photo_id: photo.title for photo_id, photo in photos.PHOTOS.items()}
    names |= {digest: f"{name} ({digest})" for digest, name in mine.items()}
    with frame.row():
        image_id = pickers.choose(
            "Picture to search",
            list(names),
            key="query",
            default="motorcycle_right",
            name=lambda image_id: names[image_id],
            help="Upload your own in the sidebar.",
            persist_state="session",
        )
        image_id = image_id or chosen.image_id
        image = compute.photo(image_id)
        truth = _truth(image_id, image)
    return Query(replace(chosen, image=image, image_id=image_id), truth)


def _truth(image_id: str, image: InputImage) -> Bools | None:
    """The query's true mask: bundled, or the person's own."""
    kept: dict[str, str] = st.session_state.setdefault("true_masks", {})

    def take() -> None:
        read = support_view.read_mask("query_mask", image)
        if read is not None:
            kept[image.digest] = support_view.kept_mask(read[0])
            st.session_state["query_said"] = read[1]

    true = stereo.true_mask(image_id)
    if true is None:
        with st.popover("True mask", icon=":material/rule:", key="query_truth"):
            st.file_uploader(
                "Where the object really is",
                type=support_view.PICTURE_TYPES,
                key="query_mask",
                max_upload_size=_MASK_MB,
                on_change=frame.guarded(take),
                help="Only for measuring how good the mask is; it is not learned from. White is the object.",
            )
    for sentence in st.session_state.pop("query_said", ()):
        st.info(frame.plain(sentence), icon=":material/info:")
    return true.values if true is not None else support_view.opened_mask(image_id, kept.get(image.digest, ""))


def _one(query: Query, supports: Sequence[Support], options: Options) -> None:
    model, image = query.chosen.model, query.chosen.image
    found_by = f"{_found_by(model, supports, options)} {image.digest}"
    with st.spinner("Looking at the pictures"):
        found = _found(found_by, model, supports, image, options)
    curve = None if query.truth is None else masks.iou_curve(found.score_map, query.truth)
    threshold = _threshold(found_by, found, curve, query)
    mask = _mask(found_by, threshold, found, image, options)
    _facts(found, curve, threshold, mask, query, options)
    _downloads(query, supports, found, threshold, mask)
    for sentence in found.notices:
        st.caption(frame.plain(sentence))


def _found_by(model: LoadedModel, supports: Sequence[Support], options: Options) -> str:
    """Names supports and settings."""
    marked = [(support.image.digest, _digest(support.mask)) for support in supports]
    return repr((compute.key(few_shot.few_shot, model, None), marked, replace(options, refine=False)))


def _digest(mask: Bools | None) -> str:
    made_of = b"" if mask is None else repr(mask.shape).encode() + np.packbits(mask).tobytes()
    return hashlib.blake2b(made_of, digest_size=12).hexdigest()


@st.cache_data(max_entries=12, show_spinner=False)
def _found(
    found_by: str,  # noqa: ARG001 - the cache's key
    _model: LoadedModel,
    _supports: Sequence[Support],
    _query: InputImage,
    _options: Options,
) -> FewShot:
    return few_shot.apply(_model, _fit(_model, _supports, _options), _recorded(_model, _query, _options))


def _fit(model: LoadedModel, supports: Sequence[Support], options: Options) -> Fitted:
    pairs = [(_recorded(model, support.image, options), support.at_full_size()) for support in supports]
    return few_shot.fit(pairs, layers=options.layers, **options.scoring)  # type: ignore[arg-type]


def _recorded(model: LoadedModel, image: InputImage, options: Options, layers: Sequence[str] = ()) -> PictureMaps:
    """What the chosen layers put out, and with them, from the same forward, those that are compared at once."""
    compared = [layer for group in _at_once(model, 1, options.size_px) for layer in group]
    return compute.run(
        features.record,
        model,
        image,
        layers=tuple(dict.fromkeys([*options.layers, *compared, *layers])),
        size_px=options.size_px,
        dilate_last=options.dilate_last,
    )


def _threshold(found_by: str, found: FewShot, curve: IouCurve | None, query: Query) -> float:
    """The query with its mask, which follows the slider in the browser; returns the chosen threshold."""
    if "few_shot_threshold" not in st.session_state:
        st.session_state["few_shot_threshold"] = _linked_threshold()
    pickers.start_again("few_shot_threshold", found_by, None)
    low, high = float(found.scores.min()), float(found.scores.max())
    marks = {"honest": found.threshold}
    if curve is not None:
        marks["oracle"] = curve.best_threshold

    def set_threshold(value: float) -> None:
        st.session_state["few_shot_threshold"] = value

    chosen = st.session_state["few_shot_threshold"]
    threshold = threshold_view.show(
        show.whole(query.chosen.image),
        np.ascontiguousarray(found.scores),
        key="few_shot_query",
        aria=f"{query.chosen.image.name} with what was found in it",
        threshold=found.threshold if chosen is None else chosen,
        low=low,
        high=max(high, low + 1e-6),
        lut=render.find_colour_map().lut,
        marks=marks,
        truth=query.truth,
        unit="score",
        max_px=_QUERY_PX,
        on_threshold=set_threshold,
    )
    if threshold != found.threshold:
        st.query_params["threshold"] = f"{threshold:.6g}"
    elif "threshold" in st.query_params:
        del st.query_params["threshold"]
    return threshold


def _linked_threshold() -> float | None:
    """What the link says; None for the honest one, and for what is no number."""
    try:
        threshold = float(st.query_params.get("threshold", "nan"))
    except ValueError:
        return None
    return threshold if np.isfinite(threshold) else None


def _mask(found_by: str, threshold: float, found: FewShot, image: InputImage, options: Options) -> Bools:
    """(H, W) of the picture at the chosen threshold, refined where that was asked for."""
    plain: Bools = found.score_map >= threshold
    if not options.refine:
        return plain
    try:
        mask = _refined(found_by, threshold, found, image)
    except CnnvizError as error:
        frame.problem(error)
        return plain
    st.image(_cut_picture(image, mask), width=_QUERY_PX)
    st.caption("With the outline that GrabCut finds at this threshold.")
    return mask


@st.cache_data(max_entries=12, show_spinner="Moving the outline")
def _refined(found_by: str, threshold: float, _found: FewShot, _image: InputImage) -> Bools:  # noqa: ARG001
    return segmentation.refine(_image, _found, threshold=threshold).values


def _refine(image: InputImage, found: FewShot) -> Mask:
    return segmentation.refine(image, found, threshold=found.threshold)


def _cut_picture(image: InputImage, mask: Bools) -> bytes:
    """What lies in the mask; the rest is dimmed."""
    picture = image.pil()
    picture.thumbnail((2 * _QUERY_PX, 2 * _QUERY_PX))
    pixels = np.asarray(picture)
    inside = working_size.coverage(mask, pixels.shape[:2]) > 127
    return render.jpeg(np.where(inside[..., None], pixels, (pixels * _DIMMED).astype(np.uint8)), quality=90)


def _facts(
    found: FewShot, curve: IouCurve | None, threshold: float, mask: Bools, query: Query, options: Options
) -> None:
    """How good the mask is, as far as that can be known."""
    with st.container(horizontal=True):
        if curve is not None and query.truth is not None:
            honest = masks.iou(found.mask.values, query.truth)
            st.metric(
                "IoU, honest", f"{honest:.3f}", width="content",
                help="Pixels in both masks over pixels in either, at the threshold that was found without the query: "
                "each support’s mask from the other supports (a single one in sixteen blocks).",
            )  # fmt: skip
            st.metric(
                "IoU, oracle", f"{curve.best_iou:.3f}", width="content",
                help="At the best threshold for this very picture, chosen with its true mask in hand: what could be, "
                "not what one gets.",
            )  # fmt: skip
            if options.refine or threshold != found.threshold:
                st.metric("IoU of what is shown", f"{masks.iou(mask, query.truth):.3f}", width="content")
        st.metric(
            "IoU among the supports", f"{found.support_iou:.3f}", width="content",
            help="Of the supports’ own masks at the honest threshold, each found from the others: what to expect of a "
            "new picture like them.",
        )  # fmt: skip
    rows, columns = found.scores.shape
    how = few_shot.SCORES[options.score].title.lower() + (", less the background" if options.background else "")
    frame.caption(query.chosen, " + ".join(found.layers), f"{rows} × {columns} cells", how)
    if curve is None:
        st.caption(
            "Without a true mask of this picture, nobody can tell how good this one is. Bring one to measure it."
        )
        return
    marks = {"honest": found.threshold, "oracle": curve.best_threshold}
    if threshold != found.threshold:
        marks["shown"] = threshold
    figure = render.threshold_figure(curve.thresholds, curve.ious, marks=marks, x_title="threshold", unit="IoU")
    st.plotly_chart(figure, key="iou_curve", width="stretch")


def _downloads(query: Query, supports: Sequence[Support], found: FewShot, threshold: float, mask: Bools) -> None:
    image = query.chosen.image
    with frame.row():
        show.downloads(
            query.chosen,
            found.run,
            key="few_shot",
            title=f"Mask of {image.name}",
            figure=lambda: render.figure_png(
                _outlined(image, mask),
                title=f"Found in {image.name}",
                caption=f"{query.chosen.model.spec.title}, {' + '.join(found.layers)}, from {len(supports)} pictures, "
                f"threshold {threshold:.4g}",
            ),
            exact=lambda: render.png(mask.astype(np.uint8) * 255),
            values=found.scores,
            code="result.scores",
            shown={"threshold": threshold},
            inputs={"supports": _supports_code(supports), "query": manifest.opening(image, query.chosen.image_id)},
        )
        st.download_button(
            "Support masks (ZIP)",
            lambda: segmented_view.zip_of({_mask_file(s): s.at_full_size() for s in supports}),
            "support-masks.zip",
            key="support_masks",
            on_click="ignore",
            help="What the manifest’s lines of Python read: each support’s mask as a PNG.",
        )


def _outlined(image: InputImage, mask: Bools) -> show.Pixels:
    """The picture with what lies outside the mask dimmed, and the outline."""
    pixels = np.where(mask[..., None], image.pixels, image.pixels // 2)
    pixels[masks.outline(mask)] = _OUTLINE
    return pixels


def _supports_code(supports: Sequence[Support]) -> str:
    """Python that opens the supports; painted masks lie in the working folder, as the ZIP has them."""
    parts = []
    for support in supports:
        image_id, mask_id = support.choice.image_id, support.choice.mask_id
        if mask_id == support_view.TRUE:
            parts.append(f"stereo.motorcycle_pair()[{stereo.PHOTO_IDS.index(image_id)}]")
        else:
            mask = f"images.open_image(Path({_mask_file(support)!r}))"
            parts.append(f"({manifest.opening(support.image, image_id)}, {mask})")
    return f"[{', '.join(parts)}]"


def _mask_file(support: Support) -> str:
    return f"mask-{support.image.digest[:8]}-{_digest(support.mask)[:8]}.png"


# ---- layers compared ------------------------------------------------------------------------------------------------


def _at_once(model: LoadedModel, num_supports: int, size_px: int) -> list[tuple[str, ...]]:
    def seconds(group: tuple[str, ...]) -> float:
        return few_shot.estimate_seconds(model, [group], num_supports=num_supports, size_px=size_px)

    return [group for group in few_shot.layer_groups(model) if seconds(group) <= _AT_ONCE_SECONDS]


def layers(query: Query, supports: Sequence[Support], options: Options) -> None:
    """The same supports and query by each stage alone, and by several joined."""
    st.subheader("Which layer finds it best?", anchor=False)
    model = query.chosen.model
    groups = few_shot.layer_groups(model)
    quick = tuple(_at_once(model, len(supports), options.size_px))
    key = (
        f"{_found_by(model, supports, replace(options, layers=()))} {query.chosen.image.digest} {_digest(query.truth)}"
    )
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
            cost=f"About {render.format_value(seconds)} s: every cell is compared with all of the supports’ cells.",
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
            return _recorded(model, image, options, layers)
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
    number = st.column_config.NumberColumn
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
    st.dataframe(
        columns,
        hide_index=True,
        column_config={name: number(format="%.3f") for name in ("IoU", "oracle", "among supports", "threshold")},
    )
