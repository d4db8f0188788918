"""The pictures that a page works on: which collection, by which layers it is indexed, its thumbnails."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import collections, journal, render, settings, upkeep
from cnnviz_core.collections import Available, Collection, Picture, embedding, indexing, sources
from cnnviz_core.collections.indexing import Index
from cnnviz_core.errors import BadImage
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Step
from cnnviz_core.ui import access, compute, frame, glimpse, pickers, show, work
from cnnviz_core.ui.components import tiles

# An index that takes no longer is made without being asked for.
_AT_ONCE_SECONDS = 30
_LARGEST_DECODED = 1500  # thumbnails of more pictures come out of the index
_FEWEST = 3
# Widgets of the pages that need an index.
_DRAWN_LATER = (
    *("layout", "standardize", "perplexity", "num_neighbors", "min_distance", "layout_seed", "show_as"),
    *("colour_by", "pictures_as", "place_own", "axis_x", "axis_y", "axis_z", "three", "cells_by", "seams", "list"),
    *("order_of_channels", "channel", "below_patches"),
)
_LARGEST_CELL_PX = 256
_LARGEST_GRID_PIXELS = 64 * 10**6


@dataclass(frozen=True, eq=False)
class Indexed:
    """A collection with its vectors, in the same order at every layer.

    Attributes:
        collection: Which.
        model: The network.
        rows: The pictures that are indexed at all the layers.
        vectors: (N, D) for each layer.
        indexes: Where they come from.
        orders: For each layer the place of each of ``rows`` in its index.
        pooling: How a map became a vector.
        revision: Another one for other rows, labels, columns, or another order.
    """

    collection: Collection
    model: LoadedModel
    rows: tuple[Picture, ...]
    vectors: Mapping[str, FloatArray]
    indexes: Mapping[str, Index]
    orders: Mapping[str, NDArray[np.intp]]
    pooling: str
    revision: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each picture; empty where none is known."""
        return tuple(row.label for row in self.rows)

    def key(self, layer: str) -> str:
        """Names the vectors of a layer, with what is known of their pictures."""
        return f"{self.indexes[layer].digest} {self.revision} {self.model.class_names[:1]}{len(self.model.class_names)}"

    def name(self, row: int) -> str:
        """What to call a picture: its path and label."""
        picture = self.rows[row]
        return f"{picture.path} · {picture.label}" if picture.label else picture.path

    def open(self, row: int) -> InputImage:
        """A picture, decoded whole.

        Raises:
            BadImage: It is gone or has changed.
        """
        return self.collection.open(self.rows[row])


def choose(*, default: str = "bundled/tiles") -> Collection | None:
    """Asks for the collection. Returns None where there is none to show, with the reason on the page."""
    if wanted := st.session_state.pop("next_collection", None):
        st.session_state["collection"] = wanted
    home = settings.current().data_dir / "collections"
    offered = _available(str(home), home.stat().st_mtime_ns if home.exists() else 0)
    names = {one.collection_id: _name(one) for one in offered}
    if st.session_state.get("collection", default) not in names:
        frame.notice(f"The collection {st.session_state['collection']} is no longer on this server.")
        st.session_state["collection"] = default
    with frame.row():
        chosen = pickers.choose(
            "Collection",
            list(names),
            key="collection",
            default=default,
            name=lambda collection_id: names[collection_id],
            help="A folder of pictures. Those that come with the app:  \n"
            + "  \n".join(f"**{one.title}**: {one.caption}" for one in sources.BUNDLED.values()),
        )
        with st.popover("Your own", icon=":material/create_new_folder:", key="own_collection"):
            _bring()
        if st.button("Look for new files", key="rescan", icon=":material/refresh:"):
            _rescan(collections.open_by_id(chosen))
    if notes := st.session_state.pop("collection_notes", []):
        st.info("  \n".join(map(frame.plain, notes)), icon=":material/info:")
    st.session_state["last_collection"] = chosen  # a widget's own value goes when its page is left
    with st.spinner("Looking through the collection"):
        collection = collections.open_by_id(chosen)
    _left_out(collection)
    if reason := collection.why_empty():
        st.info(frame.plain(reason), icon=":material/folder_off:")
        return None
    return collection


@st.cache_data(ttl=10, show_spinner=False)
def _available(folder: str, changed: int) -> list[Available]:  # noqa: ARG001 - the cache's key
    return collections.available()


def _name(one: Available) -> str:
    """In the link, too, so without anything that changes."""
    return one.title if one.collection_id.startswith("bundled/") else f"{one.title} · {one.collection_id}"


def _left_out(collection: Collection) -> None:
    """The files that cannot be used."""
    problems = collection.problems()
    if not problems:
        return
    count = f"{len(problems):,} files are" if len(problems) > 1 else "1 file is"
    with st.expander(f"{count} left out", icon=":material/broken_image:"):
        st.dataframe({"file": [one.path for one in problems], "why": [one.reason for one in problems]}, hide_index=True)


def _rescan(collection: Collection) -> None:
    bar = st.progress(0.0, text="Looking through the folder")

    def tell(step: Step) -> None:
        bar.progress(min(1.0, step.done / max(1, step.total)), text=f"{step.done:,} of {step.total:,} files")

    report = collection.scan(on_step=tell)
    bar.empty()
    words = f"{report.num_new:,} new, {report.num_changed:,} changed, {report.num_removed:,} gone"
    st.session_state["collection_notes"] = [f"Looked through: {words}.", *report.notes]
    st.rerun()


# ---- bringing one ---------------------------------------------------------------------------------------------------


def _bring() -> None:
    by = st.segmented_control(
        "From", ["ZIP", "folder", "data set"], default="ZIP", key="bring_from", required=True, width="stretch"
    )
    {"ZIP": _bring_zip, "folder": _bring_folder, "data set": _bring_data_set}[by]()
    mine = sources.added()
    if mine and access.may("delete"):
        st.divider()
        removed = st.selectbox(
            "Remove from this server", mine, index=None, format_func=lambda one: one.title, key="collection_to_remove"
        )
        is_sure = st.checkbox("It is gone for everyone on this server", key="sure_to_remove")
        st.button(
            "Remove it",
            key="remove_collection",
            disabled=removed is None or not is_sure,
            on_click=frame.guarded(_remove),
            args=(removed.collection_id if removed else "",),
        )


def _remove(collection_id: str) -> None:
    access.require("delete")
    sources.delete(collection_id)
    journal.event("removed", kind="collection", digest=collection_id[-16:])


def _bring_zip() -> None:
    if not access.may("upload"):
        st.caption(access.refusal("upload"))
        return
    file = st.file_uploader(
        "ZIP of pictures",
        type=["zip"],
        key="collection_zip",
        max_upload_size=settings.current().max_zip_mb,
        help="Folders inside give the labels, or a CSV with the columns path and label. Masks lie beside pictures as "
        "name_mask.png, or in a folder masks.",
    )
    if st.button("Unpack", key="unpack", disabled=file is None, type="primary") and file is not None:
        access.require("upload")
        upkeep.make_room(file.size)
        if added := _take(lambda tell: sources.unpack_zip(file, name=file.name, on_step=tell)):
            mb = round(file.size / 2**20, 1)
            journal.event("upload", kind="collection", mb=mb, digest=added.collection_id[-16:])
            _go_to(added.collection_id)


def _bring_folder() -> None:
    roots = settings.current().collection_roots
    if not roots:
        st.caption(
            "This server offers no folders. Whoever hosts it may set CNNVIZ_COLLECTION_ROOTS to the folders below "
            "which people may open collections."
        )
        return
    path = st.text_input("Folder on the server", key="collection_folder", placeholder=str(roots[0]))
    if st.button("Open", key="open_folder", disabled=not path, type="primary"):
        with frame.errors():
            collection_id, _ = sources.keep_folder(sources.folder_below_roots(path))
            _go_to(collection_id)


def _bring_data_set() -> None:
    if not access.may("download"):
        st.caption(access.refusal("download"))
        return
    name = st.selectbox(
        "Published data set", list(sources.DATASETS), format_func=lambda name: sources.DATASETS[name].title,
        key="data_set", help="Fetched by torchvision when you ask for it; of a large one a sample of 10,000 is kept.",
    )  # fmt: skip
    if st.button("Download", key="download_data_set", type="primary"):
        access.require("download")
        upkeep.make_room()
        if added := _take(lambda tell: sources.download(name, on_step=tell)):
            _go_to(added.collection_id)


def _take(make: Callable[[Callable[[Step], None]], sources.Added]) -> sources.Added | None:
    """Brings a collection with a progress bar; any other click ends it at its next step."""
    bar = st.progress(0.0, text="Starting")
    cancel = st.empty()
    cancel.button("Cancel", key="cancel_bringing")

    def tell(step: Step) -> None:
        bar.progress(min(1.0, step.done / max(1, step.total)), text=f"{step.done:,} of {step.total:,} files")

    added = None
    with frame.errors():
        added = make(tell)
        st.session_state["collection_notes"] = list(added.notes)
    bar.empty()
    cancel.empty()
    return added


def _go_to(collection_id: str) -> None:
    st.session_state["next_collection"] = collection_id
    st.rerun()


# ---- indexing -------------------------------------------------------------------------------------------------------


def indexed(
    model: LoadedModel, collection: Collection, *, layers: Sequence[str] = (), pooling: str = "mean"
) -> Indexed | None:
    """The collection's vectors; where they are missing, a way to make them, with its cost and progress.

    Args:
        model: The network.
        collection: As chosen.
        layers: Beside the standard ones, of which those are left out whose vectors are too long when flattened.
        pooling: Of maps.

    Returns:
        What is there, which after a cancel may be a part; None while there is next to nothing.
    """
    standard = embedding.standard_layers(model)
    if pooling == "flat":
        standard = tuple(layer for layer in standard if embedding.fits(model, layer, pooling))
    wanted = tuple(dict.fromkeys([*standard, *layers]))
    found = {layer: _index(collection, model, layer, pooling) for layer in wanted}
    num_missing = max(index.num_pictures - len(index.rows) for index in found.values())
    if num_missing:
        _keep_choices()
        one = compute.run(embedding.seconds_per_picture, model)
        seconds = indexing.estimate_seconds(model, num_missing, one)
        state = [index.digest for index in found.values()], listing_stamp(collection)

        def build(on_step: Callable[[Step], None]) -> tuple[str, ...]:
            upkeep.make_room()
            return indexing.build(collection, model, layers=wanted, pooling=pooling, waits=False, on_step=on_step)

        missed = work.until_done(
            build,
            key=repr(
                ("index", collection.collection_id, compute.key(indexing.build, model, None), wanted, pooling, state)
            ),
            name="index",
            title="Index the collection",
            cost=f"{num_missing:,} pictures go through the network once: about {work.duration(seconds)}. "
            "What is indexed is kept for everybody and need not be done again.",
            at_once=seconds <= _AT_ONCE_SECONDS,
            line="indexing",
            # Whoever writes to an index keeps others from it to the end, also while set aside.
            group=repr((collection.collection_id, model.spec.model_id, model.spec.weights_hash)),
            about={"network": model.spec.title, "collection": collection.title, "layers": list(wanted)},
        )
        if missed:
            st.warning(frame.plain(f"{len(missed)} files could not be read just now. The first: {missed[0]}"))
    digests = {layer: index.digest for layer, index in found.items()}
    stamp = listing_stamp(collection)
    rows, orders, revision = _together(repr((collection.collection_id, stamp, digests)), found)
    vectors = {layer: _in_order(index, orders[layer]) for layer, index in found.items()}
    together = Indexed(collection, model, rows, vectors, found, orders, pooling, revision)
    if len(together.rows) < _FEWEST:
        if not num_missing:
            st.info(f"{frame.plain(collection.title)} has {len(together.rows)} pictures; bring {_FEWEST} or more.")
        else:
            glimpse.draw(collection)
        return None
    if num_missing:
        st.caption(f"Below: the {len(together.rows):,} pictures that are indexed so far.")
    return together


def _keep_choices() -> None:
    """Streamlit forgets what was chosen in widgets that a run leaves out; while an index is made, many are."""
    for key in _DRAWN_LATER:
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


def listing_stamp(collection: Collection) -> tuple[tuple[int, int], ...]:
    """Another one after every change of the listing."""
    files = (collection.database, collection.database.with_name(f"{collection.database.name}-wal"))
    found = []
    for path in files:
        with suppress(FileNotFoundError):  # the second one comes and goes while others write
            found.append(path.stat())
    return tuple((status.st_mtime_ns, status.st_size) for status in found if status.st_size)


def _index(collection: Collection, model: LoadedModel, layer: str, pooling: str) -> Index:
    stamp = listing_stamp(collection), indexing.stamp(collection, model, layer=layer, pooling=pooling)
    found_by = repr((compute.key(indexing.read, model, None), collection.collection_id, stamp))
    return _read(found_by, layer, pooling, collection, model)


@st.cache_resource(max_entries=48, show_spinner=False)
def _read(
    found_by: str,  # noqa: ARG001 - the cache's key
    layer: str,
    pooling: str,
    _collection: Collection,
    _model: LoadedModel,
) -> Index:
    return indexing.read(_collection, _model, layer=layer, pooling=pooling)


Orders = Mapping[str, NDArray[np.intp]]


@st.cache_resource(max_entries=8, show_spinner=False)
def _together(
    found_by: str,  # noqa: ARG001 - the cache's key
    _found: Mapping[str, Index],
) -> tuple[tuple[Picture, ...], Orders, str]:
    """The pictures that have their row at all layers, where in each, and a name for just these in this order."""
    places = {layer: {row.path: place for place, row in enumerate(index.rows)} for layer, index in _found.items()}
    common = set.intersection(*(set(found) for found in places.values()))
    first = next(iter(_found.values()))
    rows = tuple(row for row in first.rows if row.path in common)
    orders = {layer: np.array([found[row.path] for row in rows], np.intp) for layer, found in places.items()}
    known = repr([(row.path, row.digest, row.label, sorted(row.columns.items())) for row in rows])
    return rows, orders, hashlib.blake2b(known.encode(), digest_size=8).hexdigest()


def _in_order(index: Index, order: NDArray[np.intp]) -> FloatArray:
    is_whole = len(order) == len(index.rows) and bool((order == np.arange(len(order))).all())
    return index.vectors if is_whole else index.vectors[order]


# ---- pictures of pictures -------------------------------------------------------------------------------------------


def thumbnails(found: Indexed) -> bytes:
    """All its pictures as one JPEG, for the map and the walls; 32 px wide where there are many."""
    return _atlas(found.key(embedding.PIXELS), found)


@st.cache_data(max_entries=8, show_spinner="Making thumbnails")
def _atlas(found_by: str, _found: Indexed) -> bytes:  # noqa: ARG001 - the cache's key
    num = len(_found.rows)
    px = render.thumbnail_px(num)
    if num > _LARGEST_DECODED:
        pixels = _found.vectors[embedding.PIXELS].reshape(num, 3, embedding.PIXELS_SIDE, embedding.PIXELS_SIDE)
        return render.thumbnail_atlas(
            ((255 * one).round().astype(np.uint8).transpose(1, 2, 0) for one in pixels), px=px
        )
    with ThreadPoolExecutor() as pool:
        return render.thumbnail_atlas(pool.map(lambda row: _small(_found, row, px), range(num)), px=px)


def _small(found: Indexed, row: int, px: int) -> Pixels:
    """A picture at little more than a thumbnail's size; grey where the file has gone since."""
    file = embedding.File(found.collection.folder / found.rows[row].path)
    try:
        return embedding.read_reduced(file, lambda height, width: _covering(height, width, px))
    except BadImage:
        return np.full((px, px, 3), 128, np.uint8)


def _covering(height: int, width: int, px: int) -> tuple[int, int]:
    shorter = min(height, width)
    return px * height // shorter, px * width // shorter


def wall(
    found: Indexed,
    rows: Sequence[int],
    *,
    key: str,
    selected: int | None,
    what: str,
    labels: Sequence[str] | None = None,
    tile_px: int = 84,
    on_select: Callable[[int], None] | None = None,
) -> None:
    """Pictures of a collection side by side.

    Args:
        found: The collection.
        rows: Which pictures, in order.
        key: Unique on the page.
        selected: Place among them of the one to outline.
        what: What they are, for screen readers.
        labels: A short text under each.
        tile_px: Displayed width.
        on_select: Called with the place of the clicked one.
    """
    px = _wall_px(tile_px)
    atlas = _wall_atlas(found.key(embedding.PIXELS), tuple(rows), px, found)
    tiles.show(
        atlas,
        num=len(rows),
        tile_size=(px, px),
        atlas_columns=render.atlas_columns(len(rows)),
        key=key,
        selected=selected,
        labels=labels,
        hints=[found.name(row) for row in rows],
        tile_px=tile_px,
        smooth=True,
        aria=what,
        on_select=on_select,
    )


def wall_of_pairs(
    found: Indexed,
    pairs: NDArray[np.int64],
    *,
    key: str,
    what: str,
    labels: Sequence[str],
    tile_px: int,
    on_select: Callable[[int], None],
) -> None:
    """Pairs of pictures, (n, 2), each on one tile; arguments as in :func:`wall`."""
    px = _wall_px(tile_px)
    small = [render.thumbnail(_small(found, row, px), px) for row in pairs.ravel().tolist()]
    tall = np.stack(small).reshape(len(pairs), 2, px, px, 3)
    mosaic = render.rgb_mosaic(np.concatenate([tall[:, 0], tall[:, 1]], axis=2), tile_px=2 * px)
    show.mosaic_wall(
        mosaic,
        key=key,
        labels=labels,
        hints=[" and ".join(found.name(row) for row in pair) for pair in pairs.tolist()],
        tile_px=2 * tile_px,
        smooth=True,
        aria=what,
        on_select=on_select,
    )


def _wall_px(tile_px: int) -> int:
    """Sharp on fine screens, and a multiple of 8."""
    return -(-2 * tile_px // 8) * 8


@st.cache_data(max_entries=64, show_spinner=False)
def _wall_atlas(found_by: str, rows: tuple[int, ...], px: int, _found: Indexed) -> bytes:  # noqa: ARG001 - the cache's key
    with ThreadPoolExecutor() as pool:
        return render.thumbnail_atlas(pool.map(lambda row: _small(_found, row, px), rows), px=px)


def large_grid(found: Indexed, cells: NDArray[np.int32], *, most_pixels: int = _LARGEST_GRID_PIXELS) -> Pixels:
    """All pictures in their cells, (H, W, 3), the larger the fewer they are."""
    height, width = (int(side) + 1 for side in cells.max(axis=0))
    px = max(16, min(_LARGEST_CELL_PX, int((most_pixels / (height * width)) ** 0.5) // 8 * 8))
    canvas = np.full((height * px, width * px, 3), 128, np.uint8)
    with ThreadPoolExecutor() as pool:
        pictures = pool.map(lambda row: render.thumbnail(_small(found, row, px), px), range(len(cells)))
        for (row, column), picture in zip(cells, pictures, strict=True):
            if row >= 0:
                canvas[row * px : (row + 1) * px, column * px : (column + 1) * px] = picture
    return canvas
