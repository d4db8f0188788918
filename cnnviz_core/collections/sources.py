"""Where collections come from: sets that installed packages carry, folders of the server, ZIPs, published data sets.

Whatever the source, a collection is a folder of picture files in the end. What does not lie in one yet is written out
once below the data folder: aside first, and renamed when it is whole, so that a killed process leaves nothing half made
and of two that write the same set one wins. A folder of the server stays where it is; only its listing is kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import struct
import time
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cnnviz_core import photos, settings, store
from cnnviz_core.collections import scan
from cnnviz_core.errors import BadCollection, checked_seed, did_you_mean
from cnnviz_core.results import Step

OnStep = Callable[[Step], None]

_ID = re.compile(r"(bundled|folder|torchvision|zip)/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FILES = "files"
_CARD = "card.json"
_LEFT_OVER_SECONDS = 24 * 3600


def home(collection_id: str) -> Path:
    """The folder that keeps a collection's listing, and its files where they were written out.

    Raises:
        BadCollection: Not the id of a collection.
    """
    if not _ID.fullmatch(collection_id):
        raise BadCollection(f"There is no collection {collection_id!r}; choose one from the list.")
    return settings.current().data_dir / "collections" / collection_id.replace("/", "-")


def locate(collection_id: str) -> tuple[str, Path]:
    """Title and folder of a collection; a bundled one is written out first where it is not yet.

    Raises:
        BadCollection: No such collection on this server, or a folder that this server does not offer.
        StorageFailed: The data folder cannot be written.
    """
    kept = home(collection_id)
    return _LOCATE[collection_id.partition("/")[0]](collection_id, kept)


# ---- bundled sets ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundled:
    """A set that installed packages carry.

    Attributes:
        title: What to call it on screen.
        caption: One line: what it holds and what it is good for.
        write: Writes it into a folder.
    """

    title: str
    caption: str
    write: Callable[[Path], None]


# Label -> photos; those without an entry in photos.PHOTOS lie inside scikit-image under that name.
_PHOTO_LABELS = {
    "everyday": (
        "chelsea coffee astronaut flower motorcycle_left motorcycle_right china rocket camera "
        "clock_motion.png coins.png"
    ),
    "science": "cell.png hubble_deep_field.jpg ihc.png moon.png retina.jpg",
    "texture": "brick grass gravel",
    "writing": "page.png text.png",
}
_TILED = ("chelsea", "coffee", "astronaut", "flower", "motorcycle_left", "china", "rocket")
_TILE_PX = 80
_TILE_STRIDE_PX = 64
_DIGIT_SCALE = 4


def _photo_file(name: str) -> Path:
    """The file of a photo, by its id or by its file name inside scikit-image."""
    return photos.path_of(photos.PHOTOS.get(name) or photos.Photo(name, "", "scikit-image", name))


def _write_photos(folder: Path) -> None:
    for label, names in _PHOTO_LABELS.items():
        (folder / label).mkdir()
        for name in names.split():
            file = _photo_file(name)
            if not file.is_file():  # another release of scikit-image
                continue
            shutil.copyfile(file, folder / label / (name if "." in name else f"{name}{file.suffix}"))


def _write_tiles(folder: Path) -> None:
    for photo_id in _TILED:
        (folder / photo_id).mkdir()
        photo = photos.open_photo(photo_id)
        for top in range(0, photo.height - _TILE_PX + 1, _TILE_STRIDE_PX):
            for left in range(0, photo.width - _TILE_PX + 1, _TILE_STRIDE_PX):
                tile = photo.pixels[top : top + _TILE_PX, left : left + _TILE_PX]
                Image.fromarray(tile).save(folder / photo_id / f"{top:04d}_{left:04d}.png", compress_level=1)


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(10):
        (folder / str(digit)).mkdir()
    for i, (values, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        grey = np.rint(values * (255 / 16)).astype(np.uint8).repeat(_DIGIT_SCALE, axis=0).repeat(_DIGIT_SCALE, axis=1)
        Image.fromarray(grey).save(folder / str(digit) / f"{i:04d}.png", compress_level=1)


BUNDLED: dict[str, Bundled] = {
    "bundled/photos": Bundled(
        "Photos of scikit-image and scikit-learn",
        "21 photos, textures and pictures from science: few enough to know each of them.",
        _write_photos,
    ),
    "bundled/tiles": Bundled(
        "Tiles of seven photos",
        "366 square cuts labelled by their photo: which layers know the photo, and which the texture?",
        _write_tiles,
    ),
    "bundled/digits": Bundled(
        "Handwritten digits",
        "1,797 small grey digits with their labels: a set on which pixels alone separate much.",
        _write_digits,
    ),
}


def _locate_bundled(collection_id: str, kept: Path) -> tuple[str, Path]:
    if collection_id not in BUNDLED:
        near = did_you_mean(collection_id, BUNDLED)
        raise BadCollection(f"There is no bundled collection {collection_id!r}.{near}")
    bundled, files = BUNDLED[collection_id], kept / _FILES
    if not files.is_dir():
        with _made_aside(files) as aside:
            bundled.write(aside)
    return bundled.title, files


# ---- what is written out --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Added:
    """A collection that was brought to this server.

    Attributes:
        collection_id: Its id.
        title: What to call it on screen.
        num_pictures: Picture files that were written out; whether they can be read, the scan says.
        notes: Sentences on what was left out.
    """

    collection_id: str
    title: str
    num_pictures: int
    notes: tuple[str, ...] = ()


def added() -> list[Added]:
    """The unpacked ZIPs and downloaded data sets of this server, by id."""
    folder = settings.current().data_dir / "collections"
    ids = (path.name.replace("-", "/", 1) for kind in ("torchvision", "zip") for path in folder.glob(f"{kind}-*"))
    cards = (_added(collection_id) for collection_id in sorted(ids) if _ID.fullmatch(collection_id))
    return [card for card in cards if card is not None]


def delete(collection_id: str) -> None:
    """Removes an unpacked ZIP or a downloaded data set, with what was computed of it.

    Raises:
        BadCollection: No such collection, or one that is not the server's own to remove.
        StorageFailed: The data folder cannot be written.
    """
    from cnnviz_core.collections import indexing  # brings torch

    if _added(collection_id) is None:
        raise BadCollection(f"This server keeps no uploaded or downloaded collection {collection_id!r}.")
    kept = home(collection_id)
    try:
        kept.rename(kept.with_name(f".gone-{uuid.uuid4().hex}"))  # at once, so that nobody meets half of it
    except OSError as error:
        raise store.storage_failed(f"{collection_id} could not be removed from", error) from error
    for gone in kept.parent.glob(".gone-*"):  # also what an interrupted removal left
        shutil.rmtree(gone, ignore_errors=True)
    indexing.forget(collection_id)


def _locate_added(collection_id: str, kept: Path) -> tuple[str, Path]:
    card = _added(collection_id)
    if card is None:
        raise BadCollection(f"This server does not keep the collection {collection_id} any more; bring it again.")
    return card.title, kept / _FILES


def _added(collection_id: str) -> Added | None:
    """The card of what was unpacked or downloaded; None where it is not there whole."""
    kept = home(collection_id)
    try:
        card = json.loads((kept / _CARD).read_text(encoding="utf-8"))
        found = Added(collection_id, str(card["title"]), int(card["num_pictures"]), tuple(card["notes"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return found if (kept / _FILES).is_dir() else None


def _keep_card(collection_id: str, card: Mapping[str, object]) -> None:
    with store.written_aside(home(collection_id) / _CARD) as aside:
        aside.write_text(json.dumps(card), encoding="utf-8")


@contextlib.contextmanager
def _made_aside(files: Path) -> Iterator[Path]:
    """A folder beside the wanted one, renamed to it once it is whole; where another process was quicker, its stands."""
    aside = files.with_name(f".part-{uuid.uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        _sweep(files.parent)
        yield aside
        _flush()
        with contextlib.suppress(FileExistsError):
            _put_in_place(aside, files)
    except OSError as error:
        raise store.storage_failed("The collection could not be kept in", error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # empty after a failure
            files.parent.rmdir()


def _put_in_place(aside: Path, files: Path) -> None:
    try:
        aside.rename(files)
    except OSError as error:
        if files.is_dir():  # systems name this differently
            raise FileExistsError from error
        raise


def _flush() -> None:
    """Has the system write out what it holds back; once, since asking for each of many small files takes minutes."""
    if hasattr(os, "sync"):
        os.sync()


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half made long ago."""
    for left in folder.glob(".part-*"):
        with contextlib.suppress(OSError):
            if left.is_dir() and time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                shutil.rmtree(left)


def _safe_name(name: str, otherwise: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40].strip("-.") or otherwise


# ---- folders of the server ------------------------------------------------------------------------------------------

_MAX_OFFERED = 200
_MAX_ENTRIES = 300
_PICTURES_WITHIN = 2
_MAX_LOOKED_INTO = 5


def folder_below_roots(path: str | Path) -> Path:
    """A folder that people may open, resolved.

    Args:
        path: Absolute, or relative to one of the roots.

    Raises:
        BadCollection: This server offers no folders, or the path, or a link on it, leads outside of them, or there is
            no such folder.
    """
    roots = _roots()
    shown = str(path)
    if not roots:
        raise BadCollection(
            "This server offers no folders. Set CNNVIZ_COLLECTION_ROOTS to the folders below which people may open "
            "collections, and start it again; or upload a ZIP."
        )
    inside = [found for root in roots if (found := _resolved(root / path)) and _is_below(found, roots)]
    folder = next((found for found in inside if _is_folder(found)), None)
    if folder is not None:
        return folder
    if inside:
        raise BadCollection(f"There is no folder {shown}; check its name.")
    raise BadCollection(
        f"{shown} lies outside the folders that this server offers, which CNNVIZ_COLLECTION_ROOTS names. "
        "Move it there, or upload it as a ZIP."
    )


def offered_folders() -> list[Path]:
    """The roots and the folders right below them that hold pictures; not more than 200, and not looked into deeply."""
    folders = (path for root in _roots() for path in (root, *_subfolders(root)))
    return list(
        islice((path for path in dict.fromkeys(folders) if _holds_pictures(path, _PICTURES_WITHIN)), _MAX_OFFERED)
    )


def opened_folders() -> list[Path]:
    """Folders that were opened by their path on this server and lie below the roots, however deep."""
    cards = (settings.current().data_dir / "collections").glob(f"folder-*/{_CARD}")
    ids = [path.parent.name.replace("-", "/", 1) for path in cards]
    kept = [folder for collection_id in sorted(ids) if (folder := _kept_folder(collection_id)) is not None]
    roots = _roots()
    return [folder for folder in kept if _is_below(folder, roots) and folder.is_dir()]


def keep_folder(folder: Path) -> tuple[str, Path]:
    """Takes note of a folder of the server, wherever it lies.

    Returns:
        Its id, which names the resolved path and so is the same for everybody, and that path.

    Raises:
        BadCollection: No such folder.
        StorageFailed: The data folder cannot be written.
    """
    resolved = _resolved(folder)
    if resolved is None or not _is_folder(resolved):
        raise BadCollection(f"There is no folder {folder}; check its name.")
    collection_id = folder_id(resolved)
    if _kept_folder(collection_id) != resolved:
        _keep_card(collection_id, {"title": resolved.name, "folder": str(resolved)})
    return collection_id, resolved


def folder_id(resolved: Path) -> str:
    """The id of the collection that a folder is."""
    digest = hashlib.blake2b(os.fsencode(resolved), digest_size=8).hexdigest()
    return f"folder/{_safe_name(resolved.name, 'folder')}-{digest}"


def _locate_folder(collection_id: str, kept: Path) -> tuple[str, Path]:
    """By what was noted here, or among what is offered: a link may come from another server with the same folders."""
    offered = (path for path in offered_folders() if folder_id(path) == collection_id)
    folder = _kept_folder(collection_id) or next(offered, None)
    if folder is None:
        raise BadCollection(f"This server knows no folder {kept.name.removeprefix('folder-')!r}; open it by its path.")
    return folder.name, folder_below_roots(folder)


def _kept_folder(collection_id: str) -> Path | None:
    try:
        card = json.loads((home(collection_id) / _CARD).read_text(encoding="utf-8"))
        return Path(str(card["folder"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _roots() -> list[Path]:
    found = [_resolved(root) for root in settings.current().collection_roots]
    return [root for root in found if root is not None]


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # a null character, links in a circle
        return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def _is_below(resolved: Path, roots: Iterable[Path]) -> bool:
    return any(resolved.is_relative_to(root) for root in roots)


def _holds_pictures(folder: Path, depth: int) -> bool:
    """Whether a picture lies in a folder or a few levels below, among its first entries."""
    entries = _entries(folder)
    if any(Path(entry.name).suffix.lower() in scan.PICTURE_SUFFIXES for entry in entries if entry.is_file()):
        return True
    return depth > 1 and any(_holds_pictures(path, depth - 1) for path in _subfolders(folder)[:_MAX_LOOKED_INTO])


def _subfolders(folder: Path) -> list[Path]:
    """Without links to folders, which may lead anywhere."""
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The first entries of a folder that are not hidden; none where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            return list(islice(shown, _MAX_ENTRIES))
    except OSError:
        return []


# ---- ZIPs -----------------------------------------------------------------------------------------------------------

_MB = 2**20
_MAX_ENTRIES_OF_ZIP = 200_000
_MAX_LIST_BYTES = 32 * _MB
_MAX_DEPTH = 30
_CHUNK = 1 << 20
# Pictures are compressed already; a ZIP that grows this much holds nothing of use.
_MAX_GROWTH = 100
_GROWTH_CHECKED_ABOVE = 100 * _MB
_BYTES_PER_PIXEL = 8

_ARCHIVES = {".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst"}
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]+")

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,  # a way of compression that Python does not know
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
)

_Parts = tuple[str, ...]


class _Leave(Exception):
    """Why an entry is left out, as the end of a sentence."""


def unpack_zip(source: Path | BinaryIO, *, name: str, on_step: OnStep | None = None) -> Added:
    """Unpacks the pictures and CSV files of a ZIP; the same ZIP twice is one collection.

    One folder that holds everything is left away, so that the folders in it become labels. Entries that would land
    elsewhere, links, encrypted ones, archives and what is no picture by its name are counted and left out. No more is
    written than the settings allow, whatever the entries claim.

    Args:
        source: The ZIP's path, or a binary stream that can be read from its start.
        name: Its file name.
        on_step: Called with entries done and entries in all. What it raises ends the work, and nothing remains.

    Raises:
        BadCollection: Not a ZIP, too large packed or unpacked, or without any picture.
        StorageFailed: The data folder cannot be written; nothing remains.
    """
    name = _title(name)
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            num_bytes = stream.seek(0, io.SEEK_END)
            _check_packed_size(num_bytes, name)
            stream.seek(0)
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise BadCollection(f"{name} cannot be read ({error.strerror}); check that it is there.") from error
        earlier = [card for card in added() if card.collection_id.endswith(f"-{digest}")]
        if earlier:
            return earlier[0]
        archive = stack.enter_context(_open_archive(stream, name))
        return _unpack(archive, num_bytes, name, f"zip/{_safe_name(Path(name).stem, 'pictures')}-{digest}", on_step)


def _title(name: str) -> str:
    """A file's name on one line, without marks that turn the reading order."""
    return "".join(character for character in Path(name).name if character.isprintable())[-80:] or "The upload"


def _check_packed_size(num_bytes: int, name: str) -> None:
    bound = settings.current().max_zip_mb
    if num_bytes > bound * _MB:
        raise BadCollection(
            f"{name} has {num_bytes / _MB:,.0f} MB; this server takes up to {bound} MB (CNNVIZ_MAX_ZIP_MB)."
        )


class _Bounded(io.BufferedIOBase):
    """A ZIP's stream that gives nothing longer than a list of contents may be: it is held in memory as a whole."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_LIST_BYTES:
            raise _Leave("its list of contents is too long")
        return self._stream.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True


def _open_archive(stream: BinaryIO, name: str) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(_Bounded(stream))
        if len(archive.infolist()) > _MAX_ENTRIES_OF_ZIP:
            raise _Leave("it has too many entries")
    except _Leave as error:
        raise BadCollection(f"{name} is refused: {error}. Up to {_MAX_ENTRIES_OF_ZIP:,} files are unpacked.") from error
    except _DAMAGE as error:
        raise BadCollection(
            f"{name} is not a whole ZIP archive ({error}). Pack the folder of pictures as ZIP and upload it again."
        ) from error
    return archive


def _unpack(archive: zipfile.ZipFile, num_bytes: int, name: str, collection_id: str, on_step: OnStep | None) -> Added:
    left_out: Counter[str] = Counter()
    entries = _wanted(archive, left_out)
    total = sum(entry.file_size for entry, _ in entries)
    _check_unpacked_size(total, num_bytes, name)
    files = home(collection_id) / _FILES
    with _made_aside(files) as aside:
        if shutil.disk_usage(aside).free < total:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num_pictures = 0
        room = settings.current().max_collection_mb * _MB
        for done, (entry, parts) in enumerate(entries):
            if on_step is not None:
                on_step(Step(done, len(entries)))
            try:
                room -= _extract(archive, entry, aside.joinpath(*parts), room)
                num_pictures += _suffix(parts) in scan.PICTURE_SUFFIXES
            except _Leave as reason:
                left_out[str(reason)] += 1
            if room < 0:
                raise _too_large(name)
        notes = tuple(f"Left out of {name}: {_count(number)} {reason}." for reason, number in left_out.items())
        if not num_pictures:
            raise BadCollection(" ".join((f"{name} holds no picture that can be unpacked.", *notes)))
        card = Added(collection_id, name, num_pictures, notes)
        _keep_card(collection_id, asdict(card))
    return card


def _count(number: int) -> str:
    return f"{number:,} file{'s' if number > 1 else ''}"


def _wanted(archive: zipfile.ZipFile, left_out: Counter[str]) -> list[tuple[zipfile.ZipInfo, _Parts]]:
    """The entries to unpack with their places; a folder that holds all of them is left away."""
    wanted = []
    for entry in archive.infolist():
        name = entry.filename.replace("\\", "/")
        parts = tuple(_CONTROL.sub("_", part) for part in name.split("/") if part not in {"", "."})
        if name.endswith("/") or _is_hidden(parts):
            continue
        reason = next((reason for refuses, reason in _REFUSED if refuses(entry, name, parts)), "")
        if reason:
            left_out[reason] += 1
        else:
            wanted.append((entry, parts))
    while wanted and all(len(parts) > 1 and parts[0] == wanted[0][1][0] for _, parts in wanted):
        wanted = [(entry, parts[1:]) for entry, parts in wanted]
    return wanted


def _is_hidden(parts: _Parts) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)


def _leads_outside(name: str, parts: _Parts) -> bool:
    return name.startswith("/") or bool(_DRIVE.match(name)) or ".." in parts


def _is_special(entry: zipfile.ZipInfo) -> bool:
    """Whether it was a link or a device where it was packed."""
    return stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG)


def _suffix(parts: _Parts) -> str:
    return PurePosixPath(parts[-1]).suffix.lower() if parts else ""


def _max_picture_bytes() -> int:
    return settings.current().max_image_megapixels * 1_000_000 * _BYTES_PER_PIXEL + _MB


_REFUSED: tuple[tuple[Callable[[zipfile.ZipInfo, str, _Parts], bool], str], ...] = (
    (lambda _, name, parts: _leads_outside(name, parts), "with a name that leads outside the folder"),
    (lambda entry, *_: _is_special(entry), "of the kind link or device"),
    (lambda entry, *_: bool(entry.flag_bits & 1), "under a password; pack them without one"),
    (lambda _, __, parts: _suffix(parts) in _ARCHIVES, "packed a second time; upload each archive by itself"),
    (
        lambda _, __, parts: _suffix(parts) not in scan.PICTURE_SUFFIXES | {".csv"},
        "that are no pictures by their names",
    ),
    (lambda _, __, parts: len(parts) > _MAX_DEPTH, "in folders too deep"),
    # Python unpacks other kinds all at once, however large they get.
    (lambda entry, *_: entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), "packed in a rare way"),
    (lambda entry, *_: entry.file_size > _max_picture_bytes(), "too large for a picture that can be opened"),
)


def _check_unpacked_size(total: int, num_bytes: int, name: str) -> None:
    if total > settings.current().max_collection_mb * _MB:
        raise _too_large(name)
    if total > max(_GROWTH_CHECKED_ABOVE, _MAX_GROWTH * num_bytes):
        raise BadCollection(
            f"{name} would grow to {total / num_bytes:,.0f} times its size; pictures never do, so it is not unpacked."
        )


def _too_large(name: str) -> BadCollection:
    bound = settings.current().max_collection_mb
    return BadCollection(
        f"{name} unpacks to more than {bound:,} MB, which is what one collection may take here "
        "(CNNVIZ_MAX_COLLECTION_MB). Upload a part of it."
    )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, room: int) -> int:
    """Writes an entry to its place, up to a bound on its size; returns how many bytes it has."""
    num_bytes = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in _chunks(archive, entry):
                num_bytes += len(chunk)
                if num_bytes > room:
                    break
                file.write(chunk)
    except (FileExistsError, NotADirectoryError) as error:
        raise _Leave("with the name of another file") from error
    except _Leave:
        target.unlink()
        raise
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise _Leave("with a name that this disk does not take") from error
        raise
    return num_bytes


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(entry) as content:
            yield from iter(lambda: content.read(_CHUNK), b"")
    except _DAMAGE as error:
        raise _Leave("damaged in the archive") from error


# ---- published data sets --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """A published set that torchvision fetches.

    Attributes:
        title: What to call it on screen, with the part that is taken: the one that networks were not trained on.
        arguments: That part, for torchvision's class of the set's name.
        targets: Name of the list of class indices in torchvision's object.
        files: Name of the list of picture files there; empty where it holds arrays.
    """

    title: str
    arguments: Mapping[str, object]
    targets: str
    files: str = ""


DATASETS: dict[str, DataSet] = {
    "MNIST": DataSet("MNIST digits, test part", {"train": False}, "targets"),
    "CIFAR10": DataSet("CIFAR-10, test part", {"train": False}, "targets"),
    "STL10": DataSet("STL-10, test part", {"split": "test"}, "labels"),
    "Flowers102": DataSet("Oxford flowers, test part", {"split": "test"}, "_labels", "_image_files"),
    "OxfordIIITPet": DataSet("Oxford pets, test part", {"split": "test"}, "_labels", "_images"),
    "Imagenette": DataSet("Imagenette, validation part", {"split": "val", "size": "320px"}, "_samples", "_samples"),
}


def download(name: str, *, max_pictures: int = 10_000, seed: int = 0, on_step: OnStep | None = None) -> Added:
    """Fetches a published data set through torchvision and writes it out, a folder for each class.

    Args:
        name: A key of :data:`DATASETS`.
        max_pictures: Of a larger set a sample is taken, as many of each class as its share.
        seed: Of the sample.
        on_step: Called with pictures written and pictures in all; while the set is fetched nothing is known. What it
            raises ends the work, and what was fetched stays for the next time.

    Raises:
        BadCollection: No such set, downloads are switched off, no connection, or too large when written out.
        StorageFailed: The data folder cannot be written.
    """
    if name not in DATASETS:
        raise BadCollection(f"There is no data set {name!r}.{did_you_mean(name, DATASETS)}")
    collection_id = f"torchvision/{name}"
    if (here := _added(collection_id)) is not None:
        return here
    data_set = DATASETS[name]
    if not settings.current().allow_downloads:
        raise BadCollection(
            f"{data_set.title}, is not on this machine, and downloads are switched off here "
            "(CNNVIZ_ALLOW_DOWNLOADS). Bring the pictures as a folder or ZIP."
        )
    fetched = home(collection_id) / "fetched"
    try:
        fetched.mkdir(parents=True, exist_ok=True)
        items = _fetch(name, fetched)
    except Exception as error:  # torchvision passes on whatever its parts raise
        raise BadCollection(
            f"{data_set.title}, could not be downloaded ({str(error).partition(chr(10))[0]}). Connect this machine to "
            "the internet, or bring the pictures as a folder or ZIP."
        ) from error
    # Imagenette lists pairs of file and class.
    targets = [int(each[1] if isinstance(each, tuple) else each) for each in getattr(items, data_set.targets)]
    chosen, notes = _choose(targets, max_pictures, seed)
    with _made_aside(home(collection_id) / _FILES) as aside:
        room = settings.current().max_collection_mb * _MB
        for done, i in enumerate(chosen):
            if on_step is not None:
                on_step(Step(done, len(chosen)))
            room -= _write_item(items, i, targets[i], data_set.files, aside)
            if room < 0:
                raise _too_large(data_set.title)
        card = Added(collection_id, data_set.title, len(chosen), notes)
        _keep_card(collection_id, asdict(card))
    shutil.rmtree(fetched, ignore_errors=True)
    return card


def _fetch(name: str, folder: Path) -> Any:
    """The object by which torchvision hands out a set whose files it puts into a folder."""
    from cnnviz_core import torchvision_shim

    torchvision_shim.install()
    from torchvision import datasets

    return getattr(datasets, name)(folder, download=True, **DATASETS[name].arguments)


def _choose(targets: Sequence[int], max_pictures: int, seed: int) -> tuple[list[int], tuple[str, ...]]:
    """Indices to write out, with a note where they are a sample."""
    if len(targets) <= max_pictures:
        return list(range(len(targets))), ()
    generator = np.random.default_rng(checked_seed(seed))
    classes = np.asarray(targets)
    place = np.empty(len(targets))  # within its class, 0..1: the first of all classes together are in proportion
    for target in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == target))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = sorted(np.argsort(place, kind="stable")[:max_pictures].tolist())
    note = f"A sample of {max_pictures:,} of {len(targets):,} pictures, in proportion to the classes; seed {seed}."
    return chosen, (note,)


def _write_item(items: Any, i: int, target: int, files: str, folder: Path) -> int:
    """Writes a picture into the folder of its class, as the file it came in where there is one; returns its size."""
    named = items.classes[target]
    label = _UNSAFE.sub("-", named if isinstance(named, str) else named[0]).strip(". ") or str(target)
    (folder / label).mkdir(exist_ok=True)
    written = folder / label / f"{i:06d}.png"
    if files:
        listed = getattr(items, files)[i]
        original = Path(listed[0] if isinstance(listed, tuple) else listed)
        written = written.with_suffix(original.suffix.lower())
        shutil.copyfile(original, written)
    else:
        items[i][0].save(written, compress_level=1)
    return written.stat().st_size


_LOCATE: dict[str, Callable[[str, Path], tuple[str, Path]]] = {
    "bundled": _locate_bundled,
    "folder": _locate_folder,
    "torchvision": _locate_added,
    "zip": _locate_added,
}
