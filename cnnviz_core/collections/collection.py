"""A collection: one folder of pictures and its listing, wherever the pictures came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnviz_core import images, store
from cnnviz_core.collections import scan, sources
from cnnviz_core.collections.scan import OnStep, Picture, Problem, ScanReport
from cnnviz_core.errors import BadImage
from cnnviz_core.images import InputImage

if TYPE_CHECKING:
    from cnnviz_core.collections.indexing import Index
    from cnnviz_core.models import LoadedModel

T = TypeVar("T")

_LISTING = "listing.sqlite"
_IS_ID = re.compile(r"(bundled|folder|torchvision|zip)/[^/\\]+")


@dataclass(frozen=True)
class Collection:
    """One folder of pictures; made by :func:`open_collection`.

    Attributes:
        collection_id: "bundled/photos", "folder/<name>-<digest of its path>", "zip/<name>-<digest>",
            "torchvision/<name>".
        title: What to call it on screen.
        folder: Where the files lie.
        database: Its listing, in the data folder.
    """

    collection_id: str
    title: str
    folder: Path
    database: Path

    def scan(self, *, on_step: OnStep | None = None) -> ScanReport:
        """Looks for files that are new, changed or gone; see :func:`cnnviz_core.collections.scan.scan`.

        Raises:
            BadCollection: The folder is not there any more.
            StorageFailed: The listing cannot be written.
        """
        return scan.scan(self.folder, self.database, on_step=on_step)

    def pictures(self) -> tuple[Picture, ...]:
        """The readable pictures as of the last scan, by path."""
        return self._read(scan.pictures)

    def problems(self) -> tuple[Problem, ...]:
        """The files that cannot be used, by path, each with the reason."""
        return self._read(scan.problems)

    def why_empty(self) -> str:
        """A sentence where there is no picture to show, else nothing."""
        if scan.num_pictures(self.database):
            return ""
        if problems := self.problems():
            return (
                f"None of the {len(problems):,} picture files in {self.title} can be read. The first, "
                f"{problems[0].path}: {problems[0].reason}"
            )
        return f"{self.title} holds no picture files; put PNG, JPEG, WebP, GIF, BMP or TIFF files into it."

    def open(self, picture: Picture) -> InputImage:
        """A picture, decoded whole.

        Raises:
            BadImage: The file is gone, differs from what was scanned, or is damaged.
        """
        name = PurePosixPath(picture.path).name
        path = scan.path_inside(self.folder, picture.path)
        try:
            content = path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise BadImage(f"{name} cannot be read any more ({error.strerror}); scan the collection again.") from error
        if content is None:
            raise BadImage(f"{name} is not in {self.title} any more; scan the collection again.")
        if scan.digest_of(content) != picture.digest:
            raise BadImage(f"{name} has changed since {self.title} was scanned; scan the collection again.")
        return images.open_image(content, name=name)

    def mask(self, picture: Picture) -> NDArray[np.bool_] | None:
        """The picture's object, (H, W) as the picture stands upright: where its mask is not black; None without one.

        Raises:
            BadImage: The mask is gone or cannot be decoded.
        """
        if not picture.mask:
            return None
        mask = images.open_image(scan.path_inside(self.folder, picture.mask))
        painted = Image.fromarray(mask.pixels.any(axis=2))
        if painted.size != (picture.width, picture.height):
            painted = painted.resize((picture.width, picture.height), Image.Resampling.NEAREST)
        return np.asarray(painted, dtype=np.bool_)

    def index(
        self,
        model: LoadedModel,
        *,
        layer: str | None = None,
        pooling: str = "mean",
        on_step: OnStep | None = None,
    ) -> Index:
        """The embeddings of all pictures at one layer; what is missing is computed first.

        Args:
            model: Any network.
            layer: Dotted name, "pixels" or "scores"; None takes what the classifier reads.
            pooling: How a map becomes a vector: "mean", "max" or "flat".
            on_step: As in :func:`cnnviz_core.collections.indexing.build`.

        Raises:
            StorageFailed: The data folder cannot be written.
            UnknownLayer, BadSetting, NotApplicable: As :func:`cnnviz_core.collections.embedding.check`.
        """
        from cnnviz_core.collections import embedding, indexing  # bring torch

        name = embedding.default_layer(model) if layer is None else layer
        indexing.build(self, model, layers=[name], pooling=pooling, on_step=on_step)
        return indexing.read(self, model, layer=name, pooling=pooling)

    def note_problem(self, picture: Picture, reason: str) -> None:
        """Takes a file out of the pictures until it changes: its header was right, but it does not decode whole."""
        scan.note_problem(self.database, picture.path, picture.digest, reason)

    def _read(self, read: Callable[[Path], T]) -> T:
        """Reads the listing; a damaged one is made anew from the folder first."""
        try:
            return read(self.database)
        except scan.DamagedListing:
            self.scan()
            return read(self.database)


class Available(NamedTuple):
    """One collection to choose."""

    collection_id: str
    title: str


def open_collection(source: str | Path, *, on_step: OnStep | None = None) -> Collection:
    """A collection, written out and scanned where that was not done yet.

    Args:
        source: The id of a collection, or any folder on this machine; give a relative path that looks like an id as a
            ``Path``. What comes from a browser is an id for :func:`open_by_id`, or goes through
            :func:`cnnviz_core.collections.sources.folder_below_roots` first.
        on_step: Told of a first scan's progress.

    Raises:
        BadCollection: No such collection or folder.
        StorageFailed: The data folder cannot be written.
    """
    if isinstance(source, str) and _IS_ID.fullmatch(source):
        return open_by_id(source, on_step=on_step)
    collection_id, folder = sources.keep_folder(Path(source))
    return _opened(collection_id, folder.name or str(folder), folder, on_step)


def open_by_id(collection_id: str, *, on_step: OnStep | None = None) -> Collection:
    """A collection of this server; a folder only where it lies below the roots that the server offers.

    Args:
        collection_id: As in :func:`available`.
        on_step: Told of a first scan's progress.

    Raises:
        BadCollection: No such collection, or not one that this server offers.
        StorageFailed: The data folder cannot be written.
    """
    title, folder = sources.locate(collection_id)
    return _opened(collection_id, title, folder, on_step)


def available() -> list[Available]:
    """The collections of this server: the bundled ones, what was uploaded or downloaded, and folders below the roots.

    Raises:
        StorageFailed: A listing cannot be read.
    """
    titles = {collection_id: bundled.title for collection_id, bundled in sources.BUNDLED.items()}
    titles |= {card.collection_id: card.title for card in sources.added()}
    folders = [*sources.offered_folders(), *sources.opened_folders()]
    titles |= {sources.folder_id(folder): folder.name for folder in folders}
    return [Available(*one) for one in titles.items()]


def _opened(collection_id: str, title: str, folder: Path, on_step: OnStep | None) -> Collection:
    collection = Collection(collection_id, title, folder, sources.home(collection_id) / _LISTING)
    if _num_pictures(collection_id) is None:
        collection.scan(on_step=on_step)
    store.note_use(sources.home(collection_id))
    return collection


def _num_pictures(collection_id: str) -> int | None:
    try:
        return scan.num_pictures(sources.home(collection_id) / _LISTING)
    except scan.DamagedListing:
        return None
