"""The parts of the similarity page: the pictures, their features, the view that follows the pointer, depth, a score."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from cnnviz_core import features, images, manifest, photos, render, stereo
from cnnviz_core.errors import CnnvizError
from cnnviz_core.images import InputImage
from cnnviz_core.masks import MaskLike
from cnnviz_core.methods import similarity
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Features, FloatArray, Packed, PictureMaps, SelfSimilarity
from cnnviz_core.ui import charts, compute, frame, pickers, screen, show
from cnnviz_core.ui.components import similarity_view
from cnnviz_core.ui.components.similarity_view import Line, Origin, Pictured
from cnnviz_core.ui.pickers import Selection

_SAME = "the same picture"
_MOST_TARGETS = 4
_SIZES = (224, 320, 384, 512, 640, 768)
_DEPTH_PX = 200
_FIGURE_PX = 1024
_MASK_MB = 20
_BUNDLED_MASK = "stereo.motorcycle_pair()[0][1]"
_PINNED = re.compile(r"\d(~\d{1,4}\.\d{1,4})+")
_MOST_LINKED = 64  # cells


@dataclass(frozen=True)
class Options:
    """How vectors are made and compared.

    Attributes:
        layers: One or several, joined.
        size_px: Longer side of the pictures as the network sees them.
        centre: Whether the mean vector is taken off.
        dilate_last: Whether the last stage loses its stride.
        join: How several brushed cells count: "mean" or "max".
        num_matches: Lines to the most similar cells.
        mutual: Whether only mutual matches are drawn.
    """

    layers: tuple[str, ...]
    size_px: int
    centre: bool
    dilate_last: bool
    join: similarity_view.Join
    num_matches: int
    mutual: bool


def targets(chosen: Selection) -> list[InputImage]:
    """Asks for the pictures to compare with; at first the same picture."""
    mine: dict[str, str] = st.session_state.get("my_pictures", {})
    names = {"": _SAME} | {photo_id: photo.title for photo_id, photo in photos.PHOTOS.items()}
    names |= {digest: f"{name} ({digest})" for digest, name in mine.items()}
    picked = pickers.several(
        "Compare with",
        list(names),
        key="compare_with",
        default=[""],
        name=lambda image_id: names[image_id],
        most=_MOST_TARGETS,
        help="One or more pictures, to be searched for what is like the place you point at. Upload your own in the "
        "sidebar.",
        persist_state="session",
    )
    return [chosen.image if not image_id else compute.photo(image_id) for image_id in picked]


def options(model: LoadedModel) -> Options:
    """Asks how vectors are made."""
    default = features.default_layer(model)
    names = [info.name for info in model.layers.spatial if info.kind not in pickers.PASS_ON]
    layers = pickers.several(
        "Layers",
        names,
        key="similarity_layers",
        default=[default],
        of=model.spec.title,
        most=4,
        help="Early layers compare texture and colour, late ones meaning. Several are joined: each brought to length "
        "one and to the finest grid among them.",
        persist_state="session",
    )
    with st.popover("Settings", icon=":material/tune:", key="similarity_settings"):
        size = st.select_slider(
            "Working size, pixels",
            _SIZES,
            min(_SIZES, key=lambda size: abs(size - features.default_size_px(model))),
            key="working_size",
            bind="query-params",
            persist_state="session",
            help="Longer side of the pictures as the network sees them, whole and in their own proportions. A larger "
            "one gives a finer grid, and leaves what the network was trained on.",
        )
        centre = st.toggle(
            "Take off the mean vector",
            key="centre",
            bind="query-params",
            persist_state="session",
            help="After a ReLU all places are somewhat alike. Without what they have in common, differences show.",
        )
        dilate = st.toggle(
            "Finer last stage",
            key="dilate_last",
            bind="query-params",
            persist_state="session",
            help="Takes the stride out of the last stage and spreads its kernels, for twice as many cells each way.",
        )
        join = st.segmented_control(
            "Several brushed cells",
            ["mean", "max"],
            default="mean",
            key="join",
            required=True,
            bind="query-params",
            persist_state="session",
            help="The mean of the similarities to each cell, or the largest.",
        )
        num = st.slider(
            "Lines to the best matches", 0, 12, 3, key="num_matches", bind="query-params", persist_state="session"
        )
        mutual = st.toggle(
            "Only mutual matches",
            key="mutual",
            bind="query-params",
            persist_state="session",
            help="A match counts only if the way back leads to the cell that one came from.",
        )
    return Options(tuple(layers), size, centre, dilate, "max" if join == "max" else "mean", num, mutual)


def vectors(model: LoadedModel, pictures: Sequence[InputImage], options: Options) -> list[Features]:
    """The vectors of all pictures."""
    with st.spinner("Looking at the pictures"):
        recorded = [_recorded(model, image, options.layers, options) for image in pictures]
    found = features.combine(recorded, centre=options.centre)
    frame.few_cells(min((one.cells for one in found), key=min))
    for notice in dict.fromkeys(notice for one in found for notice in one.notices):
        st.info(frame.plain(notice), icon=":material/info:")
    return found


def _recorded(model: LoadedModel, image: InputImage, layers: Sequence[str], options: Options) -> PictureMaps:
    return compute.run(
        features.record,
        model,
        image,
        layers=tuple(layers),
        size_px=options.size_px,
        dilate_last=options.dilate_last,
    )


def draw(chosen: Selection, pictures: Sequence[InputImage], found: Sequence[Features], options: Options) -> Origin:
    """The pictures side by side; returns what is pinned."""
    of = repr([*(image.digest for image in pictures), *(one.cells for one in found)])
    rows, columns = found[0].cells
    first = Origin(0, ((rows // 2, columns // 2),))
    if "pin" not in st.session_state:
        st.session_state["pin"] = _linked_pin([one.cells for one in found])
    pickers.start_again("pin", of, None)
    pinned: Origin = st.session_state["pin"] or first
    _link_pin(None if pinned == first else pinned)

    def pin(origin: Origin | None) -> None:
        st.session_state["pin"] = origin

    exact = {
        at: similarity.similarity(found[pinned.picture], one, cell=pinned.cells, brush=options.join)
        for at, one in enumerate(found)
        if at != pinned.picture
    }
    packed = for_browser(chosen.model, [image.digest for image in pictures], options, found)
    low = -1.0 if min(float(values.min()) for values in exact.values()) < 0 else 0.0
    similarity_view.show(
        [Pictured(show.whole(image), cells, image.name) for image, cells in zip(pictures, packed, strict=True)],
        key="similarity",
        aria="Pictures whose places are compared",
        lut=render.find_colour_map(signed=low < 0).lut,
        low=low,
        high=1.0,
        pinned=pinned,
        join=options.join,
        exact=exact,
        lines=_lines(found, pinned, options),
        on_pin=pin,
    )
    _describe(pictures, packed, pinned, options)
    for at, values in exact.items():
        with frame.row():
            _best(pictures[at], found[pinned.picture], found[at], pinned)
            _downloads(chosen, pictures, at, values, pinned, options)
    return pinned


def _link_pin(pinned: Origin | None) -> None:
    """Writes the pinned cells into the link: picture, then row and column of each."""
    if pinned is not None and len(pinned.cells) <= _MOST_LINKED:
        places = [f"{row}.{column}" for row, column in pinned.cells]
        screen.remember("pin", "~".join([str(pinned.picture), *places]))
    else:
        screen.remember("pin", "")


def _linked_pin(grids: Sequence[tuple[int, int]]) -> Origin | None:
    """What the link says; None for nothing, and for what these pictures do not have."""
    text = st.query_params.get("pin", "")
    if not _PINNED.fullmatch(text):
        return None
    picture, *places = text.split("~")
    cells = [(int(row), int(column)) for row, column in (place.split(".") for place in places)][:_MOST_LINKED]
    if int(picture) >= len(grids) or any(
        not (r < grids[int(picture)][0] and c < grids[int(picture)][1]) for r, c in cells
    ):
        return None
    return Origin(int(picture), tuple(cells))


def for_browser(
    model: LoadedModel, digests: list[str], options: Options, found: Sequence[Features]
) -> tuple[Packed, ...]:
    """The vectors as the browser takes them."""
    key = repr((compute.key(features.record, model, None), digests, options.layers, options.size_px))
    return _pack(f"{key} {options.centre} {options.dilate_last}", found)


@st.cache_data(max_entries=16, show_spinner=False)
def _pack(found_by: str, _found: Sequence[Features]) -> tuple[Packed, ...]:  # noqa: ARG001 - the cache's key
    return similarity.pack(_found)


def _lines(found: Sequence[Features], pinned: Origin, options: Options) -> list[Line]:
    """From the pinned cell to the cells most like it."""
    if not options.num_matches or len(pinned.cells) > 1:
        return []
    start = (pinned.picture, *pinned.cells[0])
    lines = []
    for at, one in enumerate(found):
        if at == pinned.picture:
            continue
        near = similarity.best_matches(found[pinned.picture], one, cell=pinned.cells[0], k=options.num_matches)
        for cell, value, is_mutual in zip(near.cells.tolist(), near.similarities, near.is_mutual, strict=True):
            if is_mutual or not options.mutual:
                lines.append(Line(start, (at, *cell), float(value)))
    return sorted(lines, key=lambda line: -line.similarity)


def _describe(pictures: Sequence[InputImage], packed: Sequence[Packed], pinned: Origin, options: Options) -> None:
    (row, column), *more = pinned.cells
    where = f"{len(pinned.cells)} cells ({options.join})" if more else f"row {row}, column {column}"
    bits = 8 * packed[0].values.dtype.itemsize
    st.caption(
        f"Cosine to {where} of {frame.plain(pictures[pinned.picture].name)}, by "
        f"{frame.plain(' and '.join(options.layers))}. What follows the pointer is computed in the browser from "
        f"{bits}-bit vectors and is off by at most {packed[0].error:.4f}; what is pinned is exact."
    )


def _best(image: InputImage, origin: Features, found: Features, pinned: Origin) -> None:
    """Where a picture is most like the pinned cell."""
    if len(pinned.cells) > 1:
        st.caption(f"In {frame.plain(image.name)}:")
        return
    best = similarity.best_matches(origin, found, cell=pinned.cells[0], k=1)
    row, column = best.cells[0].tolist()
    back = "mutual" if best.is_mutual[0] else "not mutual: the way back leads elsewhere"
    st.caption(
        f"Best match in {frame.plain(image.name)}: row {row}, column {column}, "
        f"cosine {render.format_fixed(best.similarities[0], 3)}, {back}."
    )


def _downloads(
    chosen: Selection, pictures: Sequence[InputImage], at: int, values: FloatArray, pinned: Origin, options: Options
) -> None:
    """The exact map of one of the pictures to the pinned place of another."""
    origin, image = pictures[pinned.picture], pictures[at]
    run = chosen.model.provenance(
        "similarity.compare",
        0.0,
        image=origin,
        layer=options.layers,
        cell=pinned.cells,
        brush=options.join,
        size_px=options.size_px,
        centre=options.centre,
        dilate_last=options.dilate_last,
    )
    scale = render.scale_of(values, low=min(0.0, float(values.min())), high=1.0, mode="fixed")
    show.downloads(
        replace(chosen, image=origin, image_id=_photo_id(origin)),
        run,
        key=f"similar_{at}",
        title=f"Similarity in {image.name}",
        figure=lambda: render.figure_png(
            _overlay(image, values, px=_FIGURE_PX, scale=scale),
            title=f"{image.name}: like the pinned place of {origin.name}",
            caption=f"{chosen.model.spec.title}, {' + '.join(options.layers)}",
            scale=scale,
            unit="cosine",
        ),
        exact=lambda: render.png(render.colourise(values, scale=scale)),
        values=values,
        code="result.values",
        shown={"low": list(scale.low), "high": list(scale.high)},
        inputs={
            "image_a": manifest.opening(origin, _photo_id(origin)),
            "image_b": manifest.opening(image, _photo_id(image)),
        },
    )


def _photo_id(image: InputImage) -> str:
    """A bundled photo's id; empty for an uploaded picture."""
    named = [photo_id for photo_id, photo in photos.PHOTOS.items() if photo.title == image.name]
    return next((photo_id for photo_id in named if photos.open_photo(photo_id).digest == image.digest), "")


# ---- through depth --------------------------------------------------------------------------------------------------


def depth(
    chosen: Selection, pictures: Sequence[InputImage], found: Sequence[Features], pinned: Origin, options: Options
) -> None:
    """The same place at every stage: texture gives way to meaning."""
    st.subheader("The same place through depth", anchor=False)
    rows, columns = found[pinned.picture].cells
    middle = [((row + 0.5) / rows, (column + 0.5) / columns) for row, column in pinned.cells]
    stages = _stages(_stages_key(chosen.model, pictures, options), chosen.model, pictures, options)
    other = next(at for at in range(len(pictures)) if at != pinned.picture)
    tiles, labels = [], []
    for layer, at_layer in stages.items():
        origin = at_layer[pinned.picture]
        cells = tuple({_cell(origin, down, across) for down, across in middle})
        values = similarity.similarity(origin, at_layer[other], cell=cells, brush=options.join)
        tiles.append(_overlay(pictures[other], values))
        labels.append(f"{layer}, {values.shape[0]} × {values.shape[1]}")
    mosaic = render.rgb_mosaic(np.stack(tiles), tile_px=max(tiles[0].shape))
    show.mosaic_wall(
        mosaic,
        key="depth_wall",
        labels=labels,
        tile_px=_DEPTH_PX,
        smooth=True,
        max_height=None,
        aria="Similarity by layer",
    )
    st.caption(
        f"Cosine in {frame.plain(pictures[other].name)} to the pinned place, each with its own colours from its lowest "
        "to its highest value. Early layers find like texture and colour; late ones like things, on a coarser grid."
    )


def _stages_key(model: LoadedModel, pictures: Sequence[InputImage], options: Options) -> str:
    digests = [image.digest for image in pictures]
    return repr(
        (compute.key(features.record, model, None), digests, options.size_px, options.centre, options.dilate_last)
    )


@st.cache_resource(max_entries=3, show_spinner=False)  # not copied at every click: tens of MB, and only read
def _stages(
    key: str,  # noqa: ARG001 - the cache's key
    _model: LoadedModel,
    _pictures: Sequence[InputImage],
    _options: Options,
) -> dict[str, list[Features]]:
    """The vectors of all pictures at each stage."""
    layers = features.stage_layers(_model)
    recorded = [_recorded(_model, image, layers, _options) for image in _pictures]
    return {
        layer: features.combine(
            [replace(one, values={layer: one.values[layer]}) for one in recorded], centre=_options.centre
        )
        for layer in layers
    }


def _cell(found: Features, down: float, across: float) -> tuple[int, int]:
    return found.cell_at(down * found.picture_px[0], across * found.picture_px[1])


def _overlay(
    image: InputImage, values: FloatArray, *, px: int = 2 * _DEPTH_PX, scale: render.Scale | None = None
) -> show.Pixels:
    """A map over a picture, by default in colours of its own."""
    picture = image.pil()
    picture.thumbnail((px, px))
    scale = scale or render.scale_of(values, signed=False)
    return render.overlay(np.asarray(picture), values, scale=scale, opacity=0.65)


# ---- is it learning something meaningful ----------------------------------------------------------------------------


def score(chosen: Selection, options: Options) -> None:
    """How much more alike an object's places are to each other than to the rest, layer by layer."""
    st.subheader("Is this network learning something meaningful?", anchor=False)
    file = st.file_uploader(
        "Mask of the object in the sidebar’s picture",
        type=["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"],
        key="score_mask",
        max_upload_size=_MASK_MB,
        help="White is the object. Without one, the bundled motorcycle is measured, whose true mask is known.",
    )
    try:
        content = file.getvalue() if file else None
        image, mask = _masked(chosen, content)
        with st.spinner("Comparing places"):
            found = _score(_score_key(chosen, image, content, options), image, mask, chosen, options)
    except CnnvizError as error:
        frame.problem(error)
        return
    series = {
        "object to object": found.within.tolist(),
        "object to the rest": found.across.tolist(),
        "told apart (AUC)": found.aucs.tolist(),
    }
    charts.draw(
        render.depth_profile(found.layers, series, unit="mean cosine, or share of pairs"),
        key="self_similarity",
        title="Likeness of an object’s places to each other",
        run=found.run,
        chosen=replace(chosen, image=image, image_id=_photo_id(image)),
        inputs={
            "image": manifest.opening(image, _photo_id(image)),
            "mask": f"images.open_image(Path({file.name!r})).pixels.max(axis=2)" if file else _BUNDLED_MASK,
        },
    )
    st.caption(
        f"{frame.plain(image.name)}: mean cosine between two places on the object, and between one on it and one "
        "beside it. "
        "AUC is how often a pair on the object is the more alike one; 0.5 is chance. Switch the sidebar’s weights to "
        "untrained: what is left is colour and texture, and only what rises above that was learned."
    )
    for notice in found.notices:
        st.caption(frame.plain(notice))


def _masked(chosen: Selection, file: bytes | None) -> tuple[InputImage, MaskLike]:
    """The picture that is measured, and its object."""
    if file is None:
        (left, truth), _ = stereo.motorcycle_pair()
        return left, truth
    return chosen.image, images.open_image(file, name="the mask").pixels.max(axis=2)


def _score_key(chosen: Selection, image: InputImage, file: bytes | None, options: Options) -> str:
    digest = hashlib.blake2b(file or b"", digest_size=8).hexdigest()
    found_by = compute.key(similarity.self_similarity_score, chosen.model, image)
    return repr((found_by, digest, options.size_px, options.centre))


@st.cache_data(max_entries=32, show_spinner=False)
def _score(
    found_by: str,  # noqa: ARG001 - the cache's key
    _image: InputImage,
    _mask: MaskLike,
    _chosen: Selection,
    _options: Options,
) -> SelfSimilarity:
    return similarity.self_similarity_score(
        _chosen.model, _image, _mask, size_px=_options.size_px, centre=_options.centre
    )
