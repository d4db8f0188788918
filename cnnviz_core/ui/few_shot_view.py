"""The parts of the few-shot page: settings, the query with its live threshold, how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from cnnviz_core import features, manifest, masks, photos, render, stereo
from cnnviz_core.errors import CnnvizError
from cnnviz_core.images import InputImage
from cnnviz_core.masks import Bools
from cnnviz_core.methods import few_shot, segmentation
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FewShot, IouCurve, Mask
from cnnviz_core.ui import charts, compute, frame, pickers, screen, segmented_view, show, support_view, transfer, work
from cnnviz_core.ui.components import threshold_view, working_size
from cnnviz_core.ui.pickers import Selection
from cnnviz_core.ui.support_view import Support
from cnnviz_core.ui.transfer import Options, Query

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_SIZES = (224, 320, 384, 512, 640, 768)
_QUERY_PX = 520
_SIDE_PX = 400  # both fit beside the open sidebar from 1280 pixels on
_MASK_MB = 20
_DIMMED = 0.25
_ROUNDING = 1e-9  # the browser tells thresholds with twelve digits
_OUTLINE = (255, 176, 0)


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
    """Room for the pictures to learn from, and for those to search: side by side, or stacked where it is narrow."""
    with st.container(horizontal=True, gap="medium"):
        return [st.container(width=_SIDE_PX, key=key) for key in ("learn_from", "find_in_side")]


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
            key=transfer.found_by(chosen.model, supports, options),
            fit=lambda: transfer.fit(chosen.model, supports, options),
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
    found_by = f"{transfer.found_by(model, supports, options)} {image.digest}"
    found = _found(found_by, query, supports, options)
    if found is None:
        return
    curve = None if query.truth is None else masks.iou_curve(found.score_map, query.truth)
    threshold = _threshold(found_by, found, curve, query)
    mask = _mask(found_by, threshold, found, image, options)
    _downloads(query, supports, found, threshold, mask)
    _facts(found, curve, threshold, mask, query, supports, options)
    for sentence in found.notices:
        st.caption(frame.plain(sentence))


def _found(found_by: str, query: Query, supports: Sequence[Support], options: Options) -> FewShot | None:
    """The object; None while it is looked for in the many cells of an early layer."""
    model, image = query.chosen.model, query.chosen.image
    seconds = transfer.seconds(model, supports, options)
    if seconds <= transfer.LONGEST_WAIT_SECONDS:
        with st.spinner("Looking at the pictures"):
            return transfer.find(model, supports, image, options)
    found: FewShot | None = work.until_done(
        lambda on_step: transfer.find(model, supports, image, options, on_step),
        key=found_by,
        name="find",
        title="Find the object",
        cost=f"Early layers have many cells, and each is compared with all of the supports’: about "
        f"{work.duration(seconds)}. A smaller working size or a later layer takes less.",
    )
    return found


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
    if abs(threshold - found.threshold) < _ROUNDING:
        threshold = found.threshold
    screen.remember("few_shot_threshold", "" if threshold == found.threshold else f"{threshold:.6g}")
    return threshold


def _linked_threshold() -> float | None:
    """What the link says; None for the honest one, and for what is no number."""
    try:
        threshold = float(st.query_params.get("few_shot_threshold", "nan"))
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
    found: FewShot,
    curve: IouCurve | None,
    threshold: float,
    mask: Bools,
    query: Query,
    supports: Sequence[Support],
    options: Options,
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
            if options.refine:
                st.metric("IoU, GrabCut outline", f"{masks.iou(mask, query.truth):.3f}", width="content")
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
    charts.draw(
        figure,
        key="iou_curve",
        title="IoU by threshold",
        run=found.run,
        chosen=query.chosen,
        inputs=_inputs(query, supports),
        is_small=True,
    )


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
                f"threshold {render.format_value(threshold)}",
            ),
            exact=lambda: render.png(mask.astype(np.uint8) * 255),
            values=found.scores,
            code="result.scores",
            shown={"threshold": threshold},
            inputs=_inputs(query, supports),
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


def _inputs(query: Query, supports: Sequence[Support]) -> dict[str, str]:
    """What the manifest's lines of Python begin with."""
    opened = manifest.opening(query.chosen.image, query.chosen.image_id)
    return {"supports": _supports_code(supports), "query": opened}


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
    return f"mask-{support.image.digest[:8]}-{transfer.digest(support.mask)[:8]}.png"
