"""Pictures in a plane: their colours, the map of a projection or the grid made of it, and what is selected there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.collections import embedding
from cnnviz_core.images import InputImage
from cnnviz_core.methods import embeddings
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import FloatArray, Projection
from cnnviz_core.ui import (
    charts,
    collection_view,
    compute,
    frame,
    linked_rows,
    pickers,
    take_away,
)
from cnnviz_core.ui.collection_view import Indexed
from cnnviz_core.ui.components import picture_map
from cnnviz_core.ui.embedding_view import Wanted
from cnnviz_core.ui.pickers import Selection

_MAP_PX = 620
_MOST_SELECTED = 240
_TILE_PX = 84
_GRID_ASPECT = 1.6
_REPORT_PIXELS = 2**21
_MOST_ANSWERS = 12
_MODES: Mapping[picture_map.Mode, str] = {
    "auto": "thumbnails where there is room",
    "points": "points",
    "thumbnails": "thumbnails",
}


# ---- colours and words ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What is known of each picture.

    Attributes:
        answers: The network's first answer; empty without a classifier.
        confidences: Its probability, (N,).
        is_right: "right" or "wrong" for pictures whose label is a class of the network, else "".
    """

    answers: Sequence[str]
    confidences: FloatArray
    is_right: Sequence[str]


def facts(found: Indexed) -> Facts:
    """What the network answers, and whether that is the label."""
    if embedding.SCORES not in found.vectors:
        nothing = [""] * len(found.rows)
        return Facts(nothing, np.full(len(found.rows), np.nan, np.float32), nothing)
    return _facts(found.key(embedding.SCORES), found)


@st.cache_data(max_entries=8, show_spinner=False)
def _facts(found_by: str, _found: Indexed) -> Facts:  # noqa: ARG001 - the cache's key
    best, confidences = _found.model.first_answers(_found.vectors[embedding.SCORES])
    names = _found.model.class_names
    answers = [names[index] for index in best]
    by_name = {_plain_name(name): index for index, name in enumerate(names)}
    truths = [by_name.get(_plain_name(label), -1) for label in _found.labels]
    verdicts = zip(truths, best, strict=True)
    unknown = ["not one of the network’s classes" if label else "" for label in _found.labels]
    is_right = [
        unknown[at] if truth < 0 else "right" if truth == index else "wrong"
        for at, (truth, index) in enumerate(verdicts)
    ]
    return Facts(answers, confidences, is_right)


def _plain_name(name: str) -> str:
    """A class name without its synonyms, case and punctuation."""
    return "".join(c for c in name.partition(",")[0].casefold() if c.isalnum())


def colouring(found: Indexed, known: Facts) -> picture_map.Colouring | None:
    """Asks what the colours mean."""
    offered: dict[str, Callable[[], picture_map.Colouring | None]] = {}
    if any(found.labels):
        offered["label"] = lambda: picture_map.by_label(found.labels)
    if any(known.answers):
        offered["answer"] = lambda: picture_map.by_label(_most_common(known.answers), title="Answer")
        offered["confidence"] = lambda: picture_map.by_value(
            known.confidences, title="Confidence", unit="probability of the answer", low=0, high=1
        )
    if {"right", "wrong"} & set(known.is_right):
        offered["right or wrong"] = lambda: picture_map.by_label(
            known.is_right, title="Answer and label", order=("right", "wrong")
        )
    for column in dict.fromkeys(name for row in found.rows for name in row.columns):
        offered[f"column {column}"] = partial(_by_column, found, column)
    offered["nothing"] = lambda: None
    chosen = pickers.choose(
        "Colour by",
        list(offered),
        key="colour_by",
        help="Right or wrong is offered where the labels are names of the network’s classes; columns come from the "
        "collection’s CSV.",
    )
    return offered[chosen]()


def _most_common(names: Sequence[str]) -> list[str]:
    """The most frequent names; the others are one group."""
    kept = {name for name, _ in Counter(names).most_common(_MOST_ANSWERS)}
    return [name if name in kept else "other" for name in names]


def _by_column(found: Indexed, column: str) -> picture_map.Colouring:
    texts = [row.columns.get(column, "") for row in found.rows]
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts], np.float32)
    except ValueError:
        return picture_map.by_label(_most_common(texts), title=column)
    return picture_map.by_value(numbers, title=column)


def captions(found: Indexed, known: Facts) -> list[str]:
    """What is said of each picture when it is pointed at."""
    return [
        "\n".join(
            [
                row.path,
                *([f"label {row.label}"] if row.label else []),
                *([f"answer {answer}, {100 * confidence:.0f} %"] if answer else []),
            ]
        )
        for row, answer, confidence in zip(found.rows, known.answers, known.confidences, strict=True)
    ]


# ---- the map --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """How a projection is shown.

    Attributes:
        kind: Key of ``_VIEWS``.
        colours: Of the points.
        captions: Of each picture.
    """

    kind: str
    colours: picture_map.Colouring | None
    captions: Sequence[str]


def view(found: Indexed) -> View:
    """Asks for map or grid, and for the colours."""
    known = facts(found)
    kind = st.segmented_control(
        "Show as",
        list(_VIEWS),
        default="map",
        key="show_as",
        required=True,
        bind="query-params",
        help="The grid gives every picture a cell of its own, close to where it lies in the map.",
    )
    return View(kind, colouring(found, known), captions(found, known))


def draw(chosen: Selection, found: Indexed, wanted: Wanted, projection: Projection, view: View) -> None:
    """The map or the grid, and the pictures that are selected in it."""
    _marked_pictures(found)
    _VIEWS[view.kind](chosen, found, wanted, projection, view)
    _describe(found, wanted, projection)
    _selection(found)


def _marked_pictures(found: Indexed) -> None:
    """What is lit and selected, at first as the link has it; rows have another meaning in another collection."""
    of = f"{found.collection.collection_id} {found.revision}"
    if "selected_rows" not in st.session_state:
        st.session_state["selected_rows"] = tuple(linked_rows.read(found, "selected"))
        st.session_state["lit_row"] = next(iter(linked_rows.read(found, "lit")), None)
    pickers.start_again("selected_rows", of, ())
    pickers.start_again("lit_row", of, None)
    lit: int | None = st.session_state.get("lit_row")
    linked_rows.keep(found, "selected", st.session_state["selected_rows"])
    linked_rows.keep(found, "lit", [] if lit is None else [lit])


def _marks() -> dict[str, Any]:
    """What is lit and selected, and how it gets so."""
    lit = st.session_state.get("lit_row")

    def pick(row: int) -> None:
        st.session_state["lit_row"] = row

    def select(rows: tuple[int, ...]) -> None:
        st.session_state["selected_rows"] = rows

    return {
        "selected": st.session_state.get("selected_rows", ()),
        "lit": [] if lit is None else [lit],
        "on_pick": pick,
        "on_select": select,
    }


def _map(chosen: Selection, found: Indexed, wanted: Wanted, projection: Projection, view: View) -> None:
    with frame.row():
        axes = _axes(projection)
        mode = pickers.choose("Pictures as", list(_MODES), key="pictures_as", name=lambda mode: _MODES[mode], width=260)
        own = st.toggle(
            "Place the chosen picture",
            key="place_own",
            bind="query-params",
            help="Puts the picture of the sidebar into the map, whose points stay where they are. A picture unlike all "
            "others is still put somewhere.",
        )
    if len(axes) == 3:
        own_place = _own_place(chosen, found, wanted, projection) if own else None
        _space(found, wanted, projection, axes, view, own=None if own_place is None else (chosen.image, own_place))
        return
    if len(found.rows) > picture_map.MOST_POINTS:
        st.info(f"A map shows up to {picture_map.MOST_POINTS:,} pictures; choose a smaller collection.")
        return
    means_something = len(projection.explained) > 0
    picture_map.show(
        projection.values[:, axes],
        key="map",
        aria=f"Map of {len(found.rows)} pictures, {wanted.name}",
        colouring=view.colours,
        captions=view.captions,
        thumbnails=collection_view.thumbnails(found),
        mode=mode,
        axes=(_axis_title(projection, axes[0]), _axis_title(projection, axes[1])) if means_something else None,
        ticks=means_something,
        extra=[_own(chosen, found, wanted, projection, axes)] if own else (),
        height=_MAP_PX,
        **_marks(),
    )
    _take_away(found, wanted, projection, axes, view)


def _take_away(found: Indexed, wanted: Wanted, projection: Projection, axes: list[int], view: View) -> None:
    """The points of the map as a chart, into the report, the link."""
    colours = view.colours

    def figure() -> go.Figure:
        return render.plane_figure(
            projection.values[:, axes],
            colours=None if colours is None else colours.palette[colours.index],
            axes=[_axis_title(projection, axis) for axis in axes] if len(projection.explained) else ("", ""),
            groups=() if colours is None or not colours.labels else [colours.labels[at] for at in colours.index],
        )

    charts.row(
        figure,
        key="map_of_pictures",
        title=f"Map of {found.collection.title}",
        made=_made(found, wanted, projection, view),
        table=partial(_columns, found, projection, axes, view),
    )


def _made(found: Indexed, wanted: Wanted, projection: Projection, view: View) -> dict[str, object]:
    """What led to the map."""
    return {
        "network": found.model.spec.title,
        "collection": found.collection.title,
        "vectors": wanted.name,
        "pooling": found.pooling,
        **projection.settings,
        "colours": None if view.colours is None else view.colours.title,
    }


def _columns(found: Indexed, projection: Projection, axes: Sequence[int], view: View) -> charts.Table:
    """The points with what is known of their pictures."""
    columns: dict[str, Sequence[object]] = {"picture": [row.path for row in found.rows], "label": found.labels}
    for axis in axes:
        name = _axis_title(projection, axis) if len(projection.explained) else f"axis {axis + 1}"
        columns[name] = projection.values[:, axis].tolist()
    if (colours := view.colours) is not None and colours.title != "Label":
        of = f"colour: {colours.title}"
        labels, values = colours.labels, colours.values
        columns[of] = [labels[at] for at in colours.index] if labels or values is None else values.tolist()
    return columns


def _space(
    found: Indexed,
    wanted: Wanted,
    projection: Projection,
    axes: Sequence[int],
    view: View,
    *,
    own: tuple[InputImage, FloatArray] | None,
) -> None:
    """The points of three axes, and the picture of the sidebar with its place on all axes, if it is asked for."""
    colours = view.colours
    figure = render.space_figure(
        projection.values[:, list(axes)],
        colours=None if colours is None else colours.palette[colours.index],
        groups=() if colours is None or not colours.labels else [colours.labels[at] for at in colours.index],
        captions=view.captions,
        axes=[_axis_title(projection, axis) for axis in axes],
        height=_MAP_PX,
        marked=None if own is None else (own[0].name, own[1][list(axes)]),
    )
    charts.draw(
        figure,
        key="space",
        title=f"Map of {found.collection.title} in space",
        made=_made(found, wanted, projection, view) | ({} if own is None else {"placed picture": own[0].name}),
        table=partial(_columns, found, projection, axes, view),
    )
    key = "A click on a label hides its points. " if colours is not None and colours.labels else ""
    if colours is not None and colours.values is not None:
        low, high = (render.format_value(value) for value in (colours.low, colours.high))
        key = f"{frame.plain(colours.title)}: dark is {low}, bright is {high} {frame.plain(colours.unit)}. "
    mark = (
        "" if own is None else f"The large orange diamond is {frame.plain(own[0].name)}, the picture of the sidebar. "
    )
    st.caption(f"Drag to turn. {key}{mark}Lasso and thumbnails are there in two dimensions.")


def _axes(projection: Projection) -> list[int]:
    """Which axes to show: two, or three of PCA."""
    if not len(projection.explained):
        return [0, 1]
    num = projection.values.shape[1]
    with st.popover("Axes", icon=":material/3d_rotation:", key="axes_of_map"):
        names = [_axis_title(projection, axis) for axis in range(num)]
        picked = [
            pickers.choose(
                title, list(range(num)), key=key, default=min(place, num - 1), name=lambda axis: str(axis + 1)
            )
            for place, (title, key) in enumerate([("Across", "axis_x"), ("Up", "axis_y")])
        ]
        is_space = num >= 3 and st.toggle("Three dimensions", key="three", bind="query-params")
        if is_space:
            picked.append(
                pickers.choose("Depth", list(range(num)), key="axis_z", default=2, name=lambda axis: str(axis + 1))
            )
        st.caption("  \n".join(names))
    return picked


def _axis_title(projection: Projection, axis: int) -> str:
    return f"PC {axis + 1} ({100 * projection.explained[axis]:.1f} % of the variance)"


def _own(
    chosen: Selection, found: Indexed, wanted: Wanted, projection: Projection, axes: Sequence[int]
) -> picture_map.Extra:
    place = _own_place(chosen, found, wanted, projection)
    small = render.thumbnail_atlas([chosen.image.pixels], px=96)
    return picture_map.Extra(float(place[axes[0]]), float(place[axes[1]]), chosen.image.name, small)


def _own_place(chosen: Selection, found: Indexed, wanted: Wanted, projection: Projection) -> FloatArray:
    """Where the picture of the sidebar lies, on all axes of the projection."""
    vector = compute.run(_vector_of, chosen.model, chosen.image, layer=wanted.layer, pooling=found.pooling)
    found_by = repr((found.key(wanted.layer), sorted(wanted.settings.items()), chosen.image.digest))
    return _place(found_by, projection, found.vectors[wanted.layer], vector)


@st.cache_data(max_entries=64, show_spinner="Placing the picture")
def _place(found_by: str, _projection: Projection, _vectors: FloatArray, _vector: FloatArray) -> FloatArray:  # noqa: ARG001
    place: FloatArray = embeddings.place(_projection, _vectors, _vector[None])[0]
    return place


def _vector_of(model: LoadedModel, image: InputImage, *, layer: str, pooling: str) -> FloatArray:
    return embedding.of_image(model, image, layers=[layer], pooling=pooling)[layer]


def _grid(_chosen: Selection, found: Indexed, wanted: Wanted, projection: Projection, view: View) -> None:
    with frame.row():
        how = pickers.choose(
            "Cells by",
            list(_GRIDS),
            key="cells_by",
            name=lambda name: _GRIDS[name],
            help="Least movement gives every picture a cell so that all together move the least. In reading order is "
            "the original recipe: each cell takes the nearest picture that is left, so the last rows get the rest.",
        )
        with_seams = st.toggle(
            "Seams",
            key="seams",
            bind="query-params",
            help="A bright line between two neighbours says that the layer holds them for unlike, however near the map "
            "puts them.",
        )
    cells = _cells(found.key(wanted.layer), repr(sorted(wanted.settings.items())), how, projection)
    picture_map.show(
        (cells[:, ::-1] + 0.5).astype(np.float32),
        key="grid",
        aria=f"Grid of {len(cells)} pictures, {wanted.name}",
        colouring=view.colours,
        captions=view.captions,
        thumbnails=collection_view.thumbnails(found),
        mode="thumbnails",
        cell=1.0,
        seams=_scaled_seams(found.vectors[wanted.layer], cells) if with_seams else None,
        height=_MAP_PX,
        **_marks(),
    )
    moved = embeddings.grid_cost(projection, cells) ** 0.5
    st.caption(f"For its cell a picture moves by {format_percent(moved)} of the map’s side (root mean square).")
    _take_grid_away(found, _made(found, wanted, projection, view), cells)


def _take_grid_away(found: Indexed, made: Mapping[str, object], cells: NDArray[np.int32]) -> None:
    title = f"Grid of {found.collection.title}"
    files: list[take_away.File] = [
        (
            "The grid as one picture",
            "grid.jpg",
            "All pictures in their cells, as large as fits into 64 megapixels.",
            lambda: render.jpeg(collection_view.large_grid(found, cells), quality=90),
        ),
        (
            "Values (CSV)",
            f"{take_away.stem(title)}.csv",
            "The cell of each picture.",
            lambda: render.table_csv(
                {
                    "picture": [row.path for row in found.rows],
                    "label": found.labels,
                    "row": cells[:, 0].tolist(),
                    "column": cells[:, 1].tolist(),
                }
            ),
        ),
    ]
    small = partial(collection_view.large_grid, found, cells, most_pixels=_REPORT_PIXELS)
    take_away.draw_of_screen(files, key="grid", title=title, picture=lambda: render.png(small()), made=made)


_GRIDS = {"assignment": "least movement", "greedy": "in reading order"}
_VIEWS: Mapping[str, Callable[..., None]] = {"map": _map, "picture grid": _grid}


@st.cache_data(max_entries=16, show_spinner="Giving each picture a cell")
def _cells(
    found_by: str,  # noqa: ARG001 - the cache's key
    settings: str,  # noqa: ARG001
    how: str,
    _projection: Projection,
) -> NDArray[np.int32]:
    return embeddings.grid(_projection, method=how, aspect=_GRID_ASPECT)


def _scaled_seams(vectors: FloatArray, cells: NDArray[np.int32]) -> picture_map.Seams:
    """Distances between neighbours as brightness; the few largest share the brightest."""
    across, down = embeddings.seams(vectors, cells)
    largest = float(np.nanpercentile(np.concatenate([across.ravel(), down.ravel()]), 98)) or 1.0
    return np.minimum(across / largest, 1), np.minimum(down / largest, 1)


def _describe(found: Indexed, wanted: Wanted, projection: Projection) -> None:
    """What the map promises and how it misleads, with its numbers."""
    method = embeddings.METHODS[projection.method]
    kept = _kept_neighbors(found.key(wanted.layer), repr(sorted(wanted.settings.items())), found, wanted, projection)
    numbers = [f"{100 * kept:.0f} % of each picture’s 10 nearest in the layer are among its 10 nearest in the map"]
    if len(projection.explained):
        numbers.append(f"the first two axes show {100 * projection.explained[:2].sum():.0f} % of the variance")
    if projection.divergence is not None:
        numbers.append(f"Kullback-Leibler divergence {projection.divergence:.2f}")
    st.caption(f"{frame.plain(wanted.name)} · {len(found.rows):,} pictures · {'; '.join(numbers)}.")
    st.caption(f"{method.promise} {method.misleads}")


@st.cache_data(max_entries=64, show_spinner=False)
def _kept_neighbors(
    found_by: str,  # noqa: ARG001 - the cache's key
    settings: str,  # noqa: ARG001
    _found: Indexed,
    _wanted: Wanted,
    _projection: Projection,
) -> float:
    k = min(10, len(_found.rows) - 1)
    flat = _projection if _projection.values.shape[1] == 2 else _first_two(_projection)
    return embeddings.preservation(_found.vectors[_wanted.layer], flat, k=k)


def _first_two(projection: Projection) -> Projection:
    return replace(projection, values=projection.values[:, :2])


def _selection(found: Indexed) -> None:
    """The pictures inside the lasso as a wall; a click on one lights up its point."""
    selected: tuple[int, ...] = st.session_state.get("selected_rows", ())
    lit: int | None = st.session_state.get("lit_row")
    if not selected:
        st.caption("Draw around points with the lasso or the box to see their pictures here.")
        if lit is not None:
            selected = (lit,)
        else:
            return
    shown = selected[:_MOST_SELECTED]
    st.subheader(f"{len(selected):,} selected", anchor=False)
    if len(shown) < len(selected):
        st.caption(f"The first {len(shown)} of them.")
    collection_view.wall(
        found,
        shown,
        key="selected_wall",
        selected=shown.index(lit) if lit in shown else None,
        what="Selected pictures",
        tile_px=_TILE_PX,
        on_select=lambda place: st.session_state.update(lit_row=shown[place]),
    )
    counts = Counter(found.rows[row].label for row in selected)
    if any(counts):
        words = [f"{frame.plain(label) or 'no label'} {count}" for label, count in counts.most_common(_MOST_ANSWERS)]
        st.caption(f"Labels: {', '.join(words)}{', …' if len(counts) > len(words) else ''}.")
