"""A whole collection segmented with the same supports: progress, best and worst, masks to take away."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import streamlit as st
from PIL import Image, ImageOps

from cnnviz_core import masks, render, settings
from cnnviz_core.collections import Collection, embedding
from cnnviz_core.errors import BadImage
from cnnviz_core.mask_transfer import Fitted
from cnnviz_core.masks import Bools
from cnnviz_core.methods import few_shot
from cnnviz_core.methods.few_shot import OnStep
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import Segmented, SegmentedCollection
from cnnviz_core.ui import collection_view, compute, show, tables, work
from cnnviz_core.ui.components import working_size
from cnnviz_core.ui.pickers import Selection

_NUM_SHOWN = 6
_TILE_PX = 120
_EMPTY = (128, 128, 128)  # around pictures that are not square
_OUTLINE = (255, 176, 0)


@dataclass(eq=False)
class _Archive:
    """The masks of a finished collection, in a file without a name that goes when nobody holds it any more."""

    file: BinaryIO
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def content(self) -> bytes:
        """The whole ZIP."""
        with self._turn:
            self.file.seek(0)
            return self.file.read()

    def mask(self, picture: Segmented) -> Bools:
        """(H, W) of one picture."""
        with self._turn:
            return few_shot.read_mask(self.file, picture)


@dataclass(frozen=True, eq=False)
class _Done:
    """What the job leaves behind."""

    found: SegmentedCollection
    archive: _Archive


def draw(
    chosen: Selection, *, key: str, fit: Callable[[], Fitted], size_px: int, refine: few_shot.Refine | None
) -> None:
    """Asks for a collection and finds the object in all its pictures.

    Args:
        chosen: The network.
        key: Names supports and settings.
        fit: Makes the supports ready.
        size_px: Longer side of the pictures as the network sees them.
        refine: As in :func:`few_shot.over_collection`.
    """
    collection = collection_view.choose(default="bundled/photos")
    if collection is None:
        return
    pictures = collection.pictures()
    with_mask = sum(bool(picture.mask) for picture in pictures)
    scale = size_px / max(chosen.model.preprocessing.input_px)
    seconds = len(pictures) * scale**2 * compute.run(embedding.seconds_per_picture, chosen.model)
    masked = f"{with_mask:,} have a true mask." if with_mask else "None has a true mask beside it to measure with."
    st.caption(f"{len(pictures):,} pictures. {masked}")
    done: _Done | SegmentedCollection | None = work.until_done(
        lambda on_step: _segment(chosen, fit, collection, refine, on_step),
        key=repr((key, refine is not None, collection.collection_id, collection_view.listing_stamp(collection))),
        name="segment_collection",
        title="Find it in all pictures",
        cost=f"{len(pictures):,} pictures go through the network: about {work.duration(seconds)}.",
        show=_so_far,
        about={"network": chosen.model.spec.title, "collection": collection.title},
    )
    if isinstance(done, _Done):
        _draw(collection, done.found, done.archive)
    elif done is not None:
        _draw(collection, done, None)


def _segment(
    chosen: Selection,
    fit: Callable[[], Fitted],
    collection: Collection,
    refine: few_shot.Refine | None,
    on_step: OnStep,
) -> _Done:
    folder = settings.current().data_dir
    folder.mkdir(parents=True, exist_ok=True)
    archive = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the job's result
    found = few_shot.over_collection(chosen.model, fit(), collection, refine=refine, archive=archive, on_step=on_step)
    return _Done(found, _Archive(archive))


def _so_far(found: SegmentedCollection) -> None:
    if found.mean_iou is not None:
        st.caption(f"Mean IoU so far: {found.mean_iou:.3f}, over {len(found.measured):,} pictures.")


def _draw(collection: Collection, found: SegmentedCollection, archive: _Archive | None) -> None:
    with st.container(horizontal=True):
        st.metric("Pictures", f"{len(found.pictures):,}", width="content")
        if found.mean_iou is not None and found.mean_oracle_iou is not None:
            st.metric(
                "Mean IoU, honest", f"{found.mean_iou:.3f}", width="content",
                help=f"Over {len(found.measured):,} pictures with a true mask; those that were learned from are left "
                "out.",
            )  # fmt: skip
            st.metric(
                "Mean IoU, oracle", f"{found.mean_oracle_iou:.3f}", width="content",
                help="With the best threshold for each picture, chosen with its truth in hand.",
            )  # fmt: skip
    if archive is not None:
        st.download_button(
            "Masks (ZIP)",
            archive.content,
            "masks.zip",
            icon=":material/download:",
            key="collection_masks",
            on_click="ignore",
            help="A PNG for each picture, white where the object is, and manifest.json with all numbers.",
        )
        _extremes(collection, found, archive)
    _table(found)


def _extremes(collection: Collection, found: SegmentedCollection, archive: _Archive) -> None:
    """The worst and the best; without true masks, those with most and least in the mask."""
    ends: dict[str, Sequence[Segmented]]
    if measured := found.measured:
        ends = {"Worst": measured[:_NUM_SHOWN], "Best": measured[-_NUM_SHOWN:][::-1]}
        label = {picture.path: f"IoU {picture.iou:.2f}" for picture in measured}
    else:
        by_area = sorted((one for one in found.pictures if not one.is_support), key=lambda one: -one.area)
        ends = {"Most in the mask": by_area[:_NUM_SHOWN], "Least in the mask": by_area[-_NUM_SHOWN:]}
        label = {picture.path: format_percent(picture.area) for picture in by_area}
    for title, pictures in ends.items():
        if not pictures:
            continue
        st.markdown(f"**{title}**")
        run = found.run
        mosaic = _tiles(repr((run, title, [one.digest for one in pictures])), collection, pictures, archive)
        show.mosaic_wall(
            mosaic,
            key=f"{title.split()[0].lower()}_wall",
            labels=[label[picture.path] for picture in pictures],
            hints=[picture.path for picture in pictures],
            tile_px=_TILE_PX,
            smooth=True,
            max_height=None,
            aria=f"{title}, with what was found in them",
        )


@st.cache_data(max_entries=16, show_spinner="Cutting out")
def _tiles(
    found_by: str,  # noqa: ARG001 - the cache's key
    _collection: Collection,
    _pictures: Sequence[Segmented],
    _archive: _Archive,
) -> render.Mosaic:
    rows = {row.path: row for row in _collection.pictures()}
    pixels = []
    for picture in _pictures:
        try:
            small = _collection.open(rows[picture.path]).pil()
        except (BadImage, KeyError):  # gone meanwhile
            pixels.append(np.full((2 * _TILE_PX, 2 * _TILE_PX, 3), 128, np.uint8))
            continue
        small.thumbnail((2 * _TILE_PX, 2 * _TILE_PX))
        drawn = Image.fromarray(_outlined(np.asarray(small), _archive.mask(picture)))
        pixels.append(np.asarray(ImageOps.pad(drawn, (2 * _TILE_PX, 2 * _TILE_PX), color=_EMPTY)))
    return render.rgb_mosaic(np.stack(pixels), tile_px=2 * _TILE_PX)


def _outlined(pixels: show.Pixels, mask: Bools) -> show.Pixels:
    """What lies outside the mask dimmed, and the outline."""
    inside = working_size.coverage(mask, pixels.shape[:2]) > 127
    drawn = np.where(inside[..., None], pixels, pixels // 3)
    drawn[masks.outline(inside)] = _OUTLINE
    return drawn


def _table(found: SegmentedCollection) -> None:
    pictures = [*found.measured, *(one for one in found.pictures if one.iou is None or one.is_support)]
    columns: dict[str, list[object]] = {"picture": [one.path for one in pictures]}
    if found.measured:
        columns["IoU"] = [one.iou for one in pictures]
        columns["oracle"] = [one.oracle_iou for one in pictures]
    columns["in the mask"] = [one.area for one in pictures]
    columns["threshold"] = [one.threshold for one in pictures]
    columns["learned from"] = [one.is_support for one in pictures]
    tables.draw(columns, decimals=dict.fromkeys(("IoU", "oracle", "threshold"), 3), percent=["in the mask"])
    if found.failed:
        with st.expander(f"{len(found.failed):,} left out", icon=":material/broken_image:"):
            st.dataframe(
                {"picture": [path for path, _ in found.failed], "why": [why for _, why in found.failed]},
                hide_index=True,
            )


def zip_of(pictures: Mapping[str, Bools]) -> bytes:
    """Masks as PNG files in a ZIP, by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, mask in pictures.items():
            archive.writestr(name, render.png(mask.astype(np.uint8) * 255))
    return buffer.getvalue()
