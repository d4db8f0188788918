"""The parts of the neighbours page: the query and its trail, its neighbours beside the pixels', regions, lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.collections import embedding
from cnnviz_core.collections.search import Searcher
from cnnviz_core.errors import CnnvizError
from cnnviz_core.images import InputImage
from cnnviz_core.jobs import Work
from cnnviz_core.methods import neighbors
from cnnviz_core.methods.neighbors import RegionMatch
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import FloatArray, Mask, Neighbors, Step
from cnnviz_core.ui import (
    charts,
    closeup,
    collection_view,
    compute,
    embedding_view,
    frame,
    linked_rows,
    pickers,
    show,
    work,
)
from cnnviz_core.ui.collection_view import Indexed
from cnnviz_core.ui.pickers import Selection

_QUERY_PX = 300
_REGION_PX = 360
_TILE_PX = 96
_REGION_TILE_PX = 128
_BARS = 40
_LONGEST_TRAIL = 12
_REGION_CANDIDATES = 200
_PAIRS = 24
_LONG_LIST_ROWS = 20_000  # beyond, all pairs take minutes
_PAIR_SECONDS = 5e-8  # of two pictures
_MOST_COPIES = 8
_COPY_DISTANCE = 0.01  # by the pixels; an index reads large files at a smaller size
_OWN = "the chosen picture"
_OWN_ROW = -1
_START_PX, _PART_PX = 420, 240
_MOST_OFFERED = 20_000  # in one list, which is drawn anew after each click
_METRICS = {"cosine": "cosine", "euclidean": "Euclidean"}


@dataclass(frozen=True)
class Query:
    """What neighbours are searched for.

    Attributes:
        row: Of the collection; None for the picture of the sidebar.
        image: The picture.
        name: What to call it.
        label: Empty where none is known.
        itself: Rows that are the query itself, which is no neighbour of its own.
    """

    row: int | None
    image: InputImage
    name: str
    label: str
    itself: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """How neighbours are measured.

    Attributes:
        layer: By which layer.
        metric: "cosine" or "euclidean".
        k: How many.
    """

    layer: str
    metric: str
    k: int


def wanted(layer: str) -> Wanted:
    """Asks for the metric and the number."""
    metric = st.segmented_control(
        "Distance",
        list(_METRICS),
        default="cosine",
        key="metric",
        required=True,
        bind="query-params",
        format_func=lambda key: _METRICS[key],
        help="Cosine compares directions, whatever the strength. Euclidean is the length of the difference.",
    )
    k = st.slider("How many", 4, 60, 12, key="num_nearest", bind="query-params")
    return Wanted(layer, metric, k)


# ---- the query ------------------------------------------------------------------------------------------------------


def query(chosen: Selection, found: Indexed) -> Query:
    """What is searched for: the sidebar's picture, or one of the collection, picked or clicked; with the way back."""
    if "trail" not in st.session_state:
        st.session_state["trail"] = linked_rows.read(found, "trail")[-_LONGEST_TRAIL:]
    pickers.start_again("trail", f"{found.collection.collection_id} {found.revision}", [])
    trail: list[int] = st.session_state["trail"]
    linked_rows.keep(found, "trail", trail)
    _start_from(found, trail)
    if trail:
        _way_back(found, trail)
        row = trail[-1]
        return Query(row, found.open(row), found.name(row), found.rows[row].label, (row,))
    itself = _rows_of(f"{found.key(embedding.PIXELS)} {chosen.image.digest}", found, chosen.image)
    return Query(None, chosen.image, chosen.image.name, found.rows[itself[0]].label if itself else "", itself)


def _start_from(found: Indexed, trail: list[int]) -> None:
    """Any picture of the collection by its path; it is in the link as the end of the trail."""

    def go() -> None:
        row: int = st.session_state["start_from"]
        if row == _OWN_ROW:
            st.session_state["trail"] = []
        else:
            _go_to(row)

    st.session_state["start_from"] = trail[-1] if trail else _OWN_ROW  # a clicked picture is shown here, too
    with frame.row():
        st.selectbox(
            "Start from",
            [_OWN_ROW, *_offered(found, trail)],
            key="start_from",
            format_func=lambda row: f"{_OWN}, of the sidebar" if row == _OWN_ROW else found.name(row),
            filter_mode="contains",
            on_change=go,
            width=_START_PX,
            help="Any picture of the collection, by its path and label; type to search. A click on a picture below "
            "goes on from there.",
        )


def _offered(found: Indexed, trail: list[int]) -> Sequence[int]:
    """All pictures; of very many those with a part of the path that is asked for, and the one that is shown."""
    if len(found.rows) <= _MOST_OFFERED:
        return range(len(found.rows))
    part = st.text_input(
        "Part of the path", key="part_of_path", placeholder=f"of {len(found.rows):,} pictures", width=_PART_PX
    ).casefold()
    fitting = [row for row, picture in enumerate(found.rows) if part in picture.path.casefold()]
    return list(dict.fromkeys([*trail[-1:], *fitting[:_MOST_OFFERED]]))


@st.cache_data(max_entries=64, show_spinner=False)
def _rows_of(found_by: str, _found: Indexed, _image: InputImage) -> tuple[int, ...]:  # noqa: ARG001 - the cache's key
    """Where the collection has this very picture, in whatever file: the same pixels, not only nearly the same."""
    vector = compute.run(embedding.of_image, _found.model, _image, layers=[embedding.PIXELS])[embedding.PIXELS]
    near = neighbors.search(_searcher(_found, embedding.PIXELS), vector, k=_MOST_COPIES)
    rows = near.indices[near.distances < _COPY_DISTANCE].tolist()
    return tuple(row for row in rows if _digest(_found, row) == _image.digest)


def _digest(found: Indexed, row: int) -> str:
    try:
        return found.open(row).digest
    except CnnvizError:  # it is gone, or another one by now
        return ""


def _way_back(found: Indexed, trail: list[int]) -> None:
    def cut(length: int) -> None:
        st.session_state["trail"] = trail[:length]

    with st.container(horizontal=True, vertical_alignment="center", key="trail_of_queries"):
        st.button(_OWN, key="trail_start", icon=":material/undo:", on_click=cut, args=(0,), type="tertiary")
        for place, row in enumerate(trail[:-1]):
            name = frame.plain(found.rows[row].path)
            st.button(name, key=f"trail_{place}", on_click=cut, args=(place + 1,), type="tertiary")
        st.markdown(f"**{frame.plain(found.rows[trail[-1]].path)}**")


def _go_to(row: int) -> None:
    trail: list[int] = st.session_state.setdefault("trail", [])
    st.session_state["trail"] = [*trail, row][-_LONGEST_TRAIL:]


# ---- neighbours -----------------------------------------------------------------------------------------------------


def draw(query: Query, found: Indexed, wanted: Wanted) -> None:
    """The query, its neighbours, and beside them those in pixel space."""
    left, right = st.columns([1, 3], gap="medium")
    with left:
        st.image(render.jpeg(found.model.preprocessing.crop(query.image), quality=90), width=_QUERY_PX)
        st.caption(f"Query: {frame.plain(query.name)}, as the network sees it.{_left_out(query, found)}")
    with right:
        st.markdown(f"**Nearest by {frame.plain(_layer_name(wanted.layer, found))}**")
        near = _search(found, wanted.layer, query, wanted)
        _show(found, near, query, key="near")
    if wanted.layer != embedding.PIXELS:
        with right:
            st.markdown("**Nearest by the pixels themselves**")
            plain = _search(found, embedding.PIXELS, query, wanted)
            _show(found, plain, query, key="near_pixels")
            common = len(set(near.indices.tolist()) & set(plain.indices.tolist()))
            st.caption(f"{common} of {len(near.indices)} are the same in both. Click a picture to go on from there.")
    _bars(query, found, near, wanted)


def _left_out(query: Query, found: Indexed) -> str:
    if query.row is not None or not query.itself:
        return ""
    names = ", ".join(frame.plain(found.rows[row].path) for row in query.itself)
    return f" The collection has it, too ({names}), which is left out of its neighbours."


def _layer_name(layer: str, found: Indexed) -> str:
    names = {embedding.PIXELS: "the pixels", embedding.SCORES: "the class scores"}
    return names.get(layer, embedding_view.pooled(layer, found))


def _search(found: Indexed, layer: str, query: Query, wanted: Wanted) -> Neighbors:
    vector = _vector(found, layer, query)
    return neighbors.search(_searcher(found, layer), vector, k=wanted.k, metric=wanted.metric, exclude=query.itself)


def _vector(found: Indexed, layer: str, query: Query) -> FloatArray:
    if query.row is not None:
        vector: FloatArray = found.vectors[layer][query.row]
        return vector
    return compute.run(embedding.of_image, found.model, query.image, layers=[layer], pooling=found.pooling)[layer]


def _searcher(found: Indexed, layer: str) -> Searcher:
    return _prepared(found.key(layer), layer, found)


@st.cache_resource(max_entries=16, show_spinner="Preparing the search")
def _prepared(found_by: str, layer: str, _found: Indexed) -> Searcher:  # noqa: ARG001 - the cache's key
    index, vectors = _found.indexes[layer], _found.vectors[layer]
    return index.searcher if vectors is index.vectors else Searcher.build(vectors)


def _show(found: Indexed, near: Neighbors, query: Query, *, key: str) -> None:
    rows = near.indices.tolist()
    collection_view.wall(
        found,
        rows,
        key=f"{key}_wall",
        selected=None,
        what="Nearest pictures",
        labels=[render.format_fixed(distance, 3) for distance in near.distances],
        tile_px=_TILE_PX,
        on_select=lambda place: _go_to(rows[place]),
    )
    if query.label:
        purity = neighbors.label_purity(near, found.labels, query.label)
        if np.isfinite(purity):
            st.caption(f"{format_percent(purity)} of them have the query’s label, {frame.plain(query.label)}.")


def _bars(query: Query, found: Indexed, near: Neighbors, wanted: Wanted) -> None:
    rows = near.indices[:_BARS]
    figure = render.distance_bars(
        [found.rows[row].path for row in rows],
        near.distances[:_BARS],
        kinds=[found.rows[row].label for row in rows],
        unit=f"{_METRICS[wanted.metric]} distance",
    )
    made = {
        "network": found.model.spec.title,
        "collection": found.collection.title,
        "query": query.name,
        "layer": wanted.layer,
        "pooling": found.pooling,
        "distance": _METRICS[wanted.metric],
    }
    charts.draw(
        figure,
        key="distances",
        title="Distances of the nearest pictures",
        made=made,
        table=lambda: {
            "picture": [found.rows[row].path for row in near.indices],
            "label": [found.rows[row].label for row in near.indices],
            f"{_METRICS[wanted.metric]} distance": near.distances.tolist(),
        },
    )
    st.caption(
        "Look for a step: before it are pictures of the query’s kind, after it whatever comes next. A flat row of bars "
        "says that none is really near."
    )


# ---- regions --------------------------------------------------------------------------------------------------------


def region(query: Query, found: Indexed, wanted: Wanted) -> None:
    """A rectangle on the query, and the places in other pictures that are most like it."""
    st.subheader("Only a part of it", anchor=False)
    if not found.model.layers.stages:
        st.caption("This network has no layer with maps, so there are no places to compare.")
        return
    if found.pooling != "mean":
        st.caption("A part is compared by the averages over its places; choose the pooling “mean” for that.")
        return
    spatial = [info.name for info in found.model.layers.spatial]
    layer = wanted.layer if wanted.layer in spatial else found.model.layers.stages[-1].representative
    of_query = Selection(found.model, query.image, query.image.digest, None)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        box = closeup.draw_rectangle(of_query, key="region_view", px=_REGION_PX)
    if box is None:
        return
    with right:
        _regions(query, found, replace(wanted, layer=layer), closeup.as_mask(found.model, box))


def _regions(query: Query, found: Indexed, wanted: Wanted, part: Mask) -> None:
    model, layer, mask = found.model, wanted.layer, part.values
    vector = neighbors.region_vector(model, query.image, layer=layer, mask=mask)
    cells = neighbors.region_cells(model, query.image, layer=layer, mask=mask)
    near = neighbors.search(
        _searcher(found, layer), vector, k=_REGION_CANDIDATES, metric="cosine", exclude=query.itself
    )
    rows = near.indices.tolist()
    seconds = compute.run(embedding.seconds_per_picture, model) * len(rows)

    def search(on_step: Callable[[Step], None]) -> list[RegionMatch]:
        opened = [partial(found.open, row) for row in rows]
        return neighbors.search_regions(
            model, opened, vector, layer=layer, k=wanted.k, box_cells=cells, on_step=on_step
        )

    def draw(matches: Sequence[RegionMatch]) -> None:
        _matches(found, rows, matches)

    matches = work.until_done(
        search,
        key=repr(("regions", found.key(layer), query.image.digest, rows, mask.tobytes(), wanted)),
        name="regions",
        title="Search this part",
        cost=f"The {len(rows)} pictures whose mean is nearest are searched place by place: about "
        f"{work.duration(seconds)}.",
        show=draw,
        at_once=True,
    )
    if matches is not None:
        draw(matches)
        st.caption(
            f"The best place of {cells[0]} × {cells[1]} cells of {frame.plain(layer)} in each picture, with its cosine "
            "distance: 0 is the same direction, smaller is nearer. Only "
            f"the {len(rows)} pictures whose average is nearest to the part were looked at closely."
        )


def _matches(found: Indexed, rows: Sequence[int], matches: Sequence[RegionMatch]) -> None:
    if not matches:
        return
    pictures = [_with_box(found, rows[match.image], match) for match in matches]
    mosaic = render.rgb_mosaic(np.stack(pictures), tile_px=max(pictures[0].shape))
    show.mosaic_wall(
        mosaic,
        key="regions_wall",
        labels=[render.format_fixed(1 - match.similarity, 3) for match in matches],
        hints=[found.name(rows[match.image]) for match in matches],
        tile_px=_REGION_TILE_PX,
        smooth=True,
        aria="Most similar places",
        on_select=lambda place: _go_to(rows[matches[place].image]),
    )


def _with_box(found: Indexed, row: int, match: RegionMatch) -> show.Pixels:
    """What the network saw of a picture, with the place framed."""
    image, preprocessing = found.open(row), found.model.preprocessing
    left, top, right, bottom = preprocessing.crop_box(image)
    height, width = preprocessing.input_px
    across, down = width / (right - left), height / (bottom - top)
    x0, y0, x1, y1 = match.box
    place = ((x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down)
    return render.framed(preprocessing.crop(image), place)


# ---- lists ----------------------------------------------------------------------------------------------------------


def lists(found: Indexed, wanted: Wanted) -> None:
    """What stands out in the whole collection: near-duplicates, outliers, confusing pairs."""
    st.subheader("What stands out in the collection", anchor=False)
    chosen = st.segmented_control(
        "List",
        list(_LISTS),
        key="list",
        bind="query-params",
        label_visibility="collapsed",
    )
    if chosen is None:
        st.caption("Pictures that are nearly the same, those far from all others, near pairs with different labels.")
        return
    _LISTS[chosen](found, wanted)


def _made(found: Indexed, wanted: Wanted, name: str, title: str, make: Work) -> object:
    return work.until_done(
        make,
        key=repr((name, found.key(wanted.layer), wanted.metric)),
        name=name,
        title=title,
        cost=f"All pairs of {len(found.rows):,} pictures are looked at: "
        f"about {work.duration(_PAIR_SECONDS * len(found.rows) ** 2)}.",
        at_once=len(found.rows) <= _LONG_LIST_ROWS,
    )


def _duplicates(found: Indexed, wanted: Wanted) -> None:
    searcher = _searcher(found, wanted.layer)
    pairs = _made(
        found, wanted, "duplicates", "Find near-duplicates",
        lambda on_step: neighbors.near_duplicates(searcher, max_pairs=_PAIRS, metric=wanted.metric, on_step=on_step),
    )  # fmt: skip
    if isinstance(pairs, neighbors.Pairs):
        _show_pairs(found, pairs, "The nearest pairs, side by side. A distance near 0 is the same picture twice.")


def _confusing(found: Indexed, wanted: Wanted) -> None:
    if len(set(found.labels) - {""}) < 2:
        st.caption("This needs pictures of at least two labels.")
        return
    searcher = _searcher(found, wanted.layer)
    pairs = _made(
        found, wanted, "confusing", "Find confusing pairs",
        lambda on_step: neighbors.confusing_pairs(
            searcher, found.labels, max_pairs=_PAIRS, metric=wanted.metric, on_step=on_step
        ),
    )  # fmt: skip
    if isinstance(pairs, neighbors.Pairs):
        _show_pairs(found, pairs, "The nearest with different labels: what will be mixed up, or is labelled wrong.")


def _show_pairs(found: Indexed, pairs: neighbors.Pairs, words: str) -> None:
    if not len(pairs.rows):
        st.caption("There is no such pair.")
        return
    collection_view.wall_of_pairs(
        found,
        pairs.rows,
        key="pairs_wall",
        what=words,
        labels=[_pair_name(found, pair, distance) for pair, distance in zip(pairs.rows, pairs.distances, strict=True)],
        tile_px=_TILE_PX,
        on_select=lambda place: _go_to(int(pairs.rows[place][0])),
    )
    st.caption(f"{words} Each tile is a pair; click it to see the neighbours of its left picture.")


def _pair_name(found: Indexed, pair: NDArray[np.int64], distance: float) -> str:
    labels = dict.fromkeys(found.rows[row].label for row in pair if found.rows[row].label)
    return f"{render.format_fixed(distance, 3)} {' / '.join(labels)}"


def _outliers(found: Indexed, wanted: Wanted) -> None:
    searcher = _searcher(found, wanted.layer)
    lonely = _made(
        found, wanted, "outliers", "Find outliers",
        lambda on_step: neighbors.outliers(searcher, metric=wanted.metric, on_step=on_step),
    )  # fmt: skip
    if not isinstance(lonely, neighbors.Outliers):
        return
    rows = lonely.order[:_PAIRS].tolist()
    collection_view.wall(
        found, rows, key="outliers_wall", selected=None, what="Outliers", tile_px=_TILE_PX,
        labels=[render.format_fixed(lonely.scores[row], 3) for row in rows],
        on_select=lambda place: _go_to(rows[place]),
    )  # fmt: skip
    st.caption("Farthest from their 5 nearest pictures, on average: odd ones, broken ones, or the only ones of a kind.")


_LISTS: Mapping[str, Callable[[Indexed, Wanted], None]] = {
    "near-duplicates": _duplicates,
    "outliers": _outliers,
    "confusing pairs": _confusing,
}
