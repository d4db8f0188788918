"""The listing of a collection: which pictures a folder holds, what they are called, and what is wrong with some.

A folder of a hundred thousand files is walked in seconds, but reading all of them takes minutes. So what is known of
each file is kept in a small SQLite database, and only files whose size or time differ are read again. Reading means a
digest of the bytes, and the header. A file that is no picture, is cut short in its header or may not be read gets a
sentence instead, and the rest goes on. Every few hundred files are committed: a scan that is killed goes on from there.

- **Label**: the first folder below the collection's own, or what a CSV file in the collection's folder says, which
  counts more. The CSV needs a column called path, file, filename, image or image_path; its column label or class is the
  label; its other columns are kept. Where everything lies in one folder called images, the one below is the label.
- **Mask**: ``cat_mask.png`` or ``cat.mask.png`` beside ``cat.jpg``, or ``cat.png`` in a folder called masks:
  ``masks/pets/cat.png`` or ``pets/masks/cat.png`` for ``pets/cat.jpg`` or ``images/pets/cat.jpg``. A mask is not a
  picture of the collection. What fits no picture is a picture itself, so a class may be called mask.
- **Left out**: hidden files and folders, files that are no pictures by their names, links to folders and links that
  lead outside.

Any number of threads and processes may scan one folder and read its listing.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from cnnviz_core import images, settings, store
from cnnviz_core.errors import BadCollection, BadImage
from cnnviz_core.results import Step
from cnnviz_core.store import StorageFailed

OnStep = Callable[[Step], None]

_READ = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
# People bring these as pictures, too; being listed, they are told why they cannot be read.
_NOT_READ = {".heic", ".heif", ".avif", ".jp2", ".svg", ".psd"}
PICTURE_SUFFIXES = frozenset(_READ | _NOT_READ)

_IMAGE_FOLDERS = {"image", "images", "imgs", "img"}
_MASK_FOLDERS = {"mask", "masks"}
_MASK_ENDINGS = ("_mask", ".mask")

_PATH_COLUMNS = ("path", "file", "filename", "image", "image_path")
_LABEL_COLUMNS = ("label", "class")
_MAX_TABLE_MB = 200

_THREADS = 4
_BATCH = 256
_BUSY_SECONDS = 60
_RETRY = -1  # in place of a file's time: reading it failed for a reason outside the file, so the next scan tries again


@dataclass(frozen=True)
class Picture:
    """One readable file of a collection.

    Attributes:
        path: Relative to the collection's folder, with forward slashes.
        label: Empty where none is known.
        digest: Names the file's bytes; 32 hexadecimal digits.
        width: In pixels, upright.
        height: In pixels, upright.
        mask: Relative path of its mask; empty where there is none.
        columns: What the CSV says of it besides path and label.
    """

    path: str
    label: str
    digest: str
    width: int
    height: int
    mask: str = ""
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Problem:
    """One file that cannot be used.

    Attributes:
        path: Relative to the collection's folder, with forward slashes.
        reason: A sentence with the remedy.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Attributes:
        num_new: Picture files that were not in the listing.
        num_changed: Picture files that were read again, since their size or time differ.
        num_removed: Files that are gone.
        num_unchanged: Picture files that were not read again.
        num_broken: Files of the listing that cannot be used, whenever that was found.
        num_ignored: Files that are no pictures by their names.
        notes: Sentences on what was left out, and on a CSV that could not be used.
    """

    num_new: int
    num_changed: int
    num_removed: int
    num_unchanged: int
    num_broken: int
    num_ignored: int
    notes: tuple[str, ...] = ()


def scan(folder: Path, database: Path, *, on_step: OnStep | None = None) -> ScanReport:
    """Brings a listing up to date with its folder; only new and changed files are read.

    Args:
        folder: The collection's folder.
        database: The listing; made where there is none, made anew where it is damaged.
        on_step: Called with files read and files to read. What it raises ends the scan and reaches the caller; what
            was read until then is kept.

    Raises:
        BadCollection: The folder is not there.
        StorageFailed: The listing cannot be written.
    """
    try:
        root = folder.resolve(strict=True)
        entries = os.scandir(root)
    except (OSError, RuntimeError) as error:  # missing, not a folder, may not be read, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise BadCollection(f"The folder {folder.name} cannot be read ({reason}); check that it is there.") from error
    entries.close()
    found = _walk(root)
    try:
        return _scan(root, found, database, on_step)
    except DamagedListing:
        _move_aside(database)
        report = _scan(root, found, database, on_step)
        return replace(report, notes=(*report.notes, "The listing was damaged, so every file was read anew."))


def pictures(database: Path) -> tuple[Picture, ...]:
    """The readable files of a listing, by path.

    Raises:
        StorageFailed: The listing cannot be read.
    """
    with _listing(database) as listing:
        rows = listing.execute(
            "SELECT path, label, digest, width, height, mask, columns FROM files WHERE problem = '' ORDER BY path"
        )
        return tuple(
            Picture(path, sys.intern(label), digest, width, height, mask, json.loads(columns) if columns else {})
            for path, label, digest, width, height, mask, columns in rows
        )


def problems(database: Path) -> tuple[Problem, ...]:
    """The files of a listing that cannot be used, by path.

    Raises:
        StorageFailed: The listing cannot be read.
    """
    with _listing(database) as listing:
        rows = listing.execute("SELECT path, problem FROM files WHERE problem != '' ORDER BY path")
        return tuple(Problem(path, reason) for path, reason in rows)


def note_problem(database: Path, path: str, digest: str, reason: str) -> None:
    """Takes a file out of the pictures until it changes, if it still holds what it did.

    Raises:
        StorageFailed: The listing cannot be written.
    """
    with _listing(database) as listing:
        listing.execute("UPDATE files SET problem = ? WHERE path = ? AND digest = ?", (reason, path, digest))


def num_pictures(database: Path) -> int | None:
    """How many readable files a listing has; None where no scan has come to its end.

    Raises:
        StorageFailed: The listing cannot be read.
    """
    if not database.exists():
        return None
    with _listing(database) as listing:
        if _fact(listing, "scanned") is None:
            return None
        return int(listing.execute("SELECT count(*) FROM files WHERE problem = ''").fetchone()[0])


def path_inside(folder: Path, path: str) -> Path:
    """Where a file of a collection lies.

    Args:
        folder: The collection's folder.
        path: Relative to it.

    Raises:
        BadImage: The path, or a link on it, leads outside the folder.
    """
    try:
        resolved = (folder / path).resolve()
        inside = resolved.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a null character, links in a circle
        raise BadImage(f"{PurePosixPath(path).name} cannot be found; scan the collection again.") from error
    if not inside:
        raise BadImage(f"{PurePosixPath(path).name} lies outside the collection's folder; copy it into the folder.")
    return resolved


def digest_of(content: bytes) -> str:
    """The digest under which a file's bytes stand in the listing."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# ---- walking --------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What lies in a folder."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # path -> size, time; pictures and masks
    misnamed: set[str] = field(default_factory=set)
    tables: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    num_links: int = 0
    num_ignored: int = 0


def _walk(root: Path) -> _Found:
    """Everything below a resolved folder, by name and state alone."""
    found = _Found()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # it went while the folder was read
                        waiting += filter(None, [_note(root, prefix, entry, found)])
        except OSError:
            found.unreadable.append(prefix)
    return found


def _note(root: Path, prefix: str, entry: os.DirEntry[str], found: _Found) -> str:
    """Notes what an entry is; returns the path of a folder to look into."""
    path = prefix + entry.name
    _, dot, ending = entry.name.rpartition(".")
    suffix = dot + ending.lower()
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return ""
    if entry.is_symlink() and not _is_file_inside(root, entry):
        found.num_links += 1
    elif entry.is_dir():
        return f"{path}/"
    elif suffix in PICTURE_SUFFIXES and entry.is_file():
        state = entry.stat()
        shown = path.encode(errors="backslashreplace").decode()
        found.files[shown] = (state.st_size, state.st_mtime_ns)
        if shown != path:
            found.misnamed.add(shown)
    elif suffix == ".csv" and not prefix:
        found.tables.append(path)
    else:
        found.num_ignored += 1
    return ""


def _is_file_inside(root: Path, link: os.DirEntry[str]) -> bool:
    try:
        target = Path(link.path).resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and target.is_relative_to(root)


# ---- masks and labels -----------------------------------------------------------------------------------------------


def _split_masks(paths: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Pictures with their masks ("" where there is none), and files in folders of masks that belong to no picture."""
    masks: dict[str, str] = {}
    by_key: dict[tuple[str, str], list[str]] = {}
    candidates: list[str] = []
    for path in sorted(paths):
        if _may_be_mask(path):
            candidates.append(path)
        else:
            masks[path] = ""
            by_key.setdefault(_key(path), []).append(path)
    fitting = {path: _fitting(path, by_key) for path in candidates}
    mask_folders = {top for path, found in fitting.items() if found and (top := _mask_folder(path))}
    orphans = []
    for path, found in fitting.items():
        if found:
            masks |= {picture: masks[picture] or path for picture in found}
        elif _mask_folder(path) in mask_folders:
            orphans.append(path)
        else:
            masks[path] = ""
    return masks, orphans


def _may_be_mask(path: str) -> bool:
    file = PurePosixPath(path)
    return file.suffix.lower() == ".png" and (file.stem.endswith(_MASK_ENDINGS) or bool(_mask_folder(path)))


def _mask_folder(path: str) -> str:
    """The path up to its first folder of masks; empty where there is none."""
    folders = path.split("/")[:-1]
    first = next((i for i, name in enumerate(folders) if name.lower() in _MASK_FOLDERS), None)
    return "" if first is None else "/".join(folders[: first + 1])


def _key(path: str) -> tuple[str, str]:
    """What a picture and its mask have in common: the folders that say something, and the stem."""
    *folders, name = path.split("/")
    kept = [folder for folder in folders if folder.lower() not in _IMAGE_FOLDERS | _MASK_FOLDERS]
    return "/".join(kept), PurePosixPath(name).stem


def _fitting(mask: str, by_key: Mapping[tuple[str, str], list[str]]) -> list[str]:
    """The pictures that a mask's name and folder fit."""
    folder, stem = _key(mask)
    stems = [stem.removesuffix(ending) for ending in _MASK_ENDINGS if stem.endswith(ending)]
    stems += [stem] if _mask_folder(mask) else []
    return next((by_key[folder, each] for each in stems if (folder, each) in by_key), [])


def _folder_label(paths: Iterable[str]) -> Callable[[str], str]:
    """The rule that finds a path's label."""
    tops = {path.partition("/")[0] if "/" in path else "" for path in paths}
    skipped = 1 if len(tops) == 1 and next(iter(tops)).lower() in _IMAGE_FOLDERS else 0

    def label(path: str) -> str:
        folders = path.split("/")[skipped:-1]
        return folders[0] if folders else ""

    return label


class _UnusableTable(Exception):
    """Why a CSV file gives no labels."""


_Table = dict[str, tuple[str, str]]  # path -> label, other columns as JSON


def _read_tables(root: Path, names: Sequence[str], paths: Iterable[str]) -> tuple[_Table, list[str]]:
    """What the one CSV file among ``names`` that lists pictures says, with notes."""
    notes = []
    tables = {}
    find = _finder(paths) if names else None
    for name in sorted(names):
        try:
            if find is not None:
                tables[name] = _read_table(root, name, find)
        except _UnusableTable as error:
            notes.append(f"Labels were not taken from {name}: {error}")
    if len(tables) > 1:
        notes.append(f"{' and '.join(tables)} both list pictures, so neither was used; keep one of them.")
    if len(tables) != 1:
        return {}, notes
    ((name, (table, strangers)),) = tables.items()
    if strangers:
        shown = ", ".join(strangers[:3]) + (" and others" if len(strangers) > 3 else "")
        notes.append(f"{name} has lines that fit no picture of the folder, or several: {shown}.")
    return table, notes


def _read_table(root: Path, name: str, find: Callable[[str], str | None]) -> tuple[_Table, list[str]]:
    """Label and columns by path, and up to four entries that name no picture."""
    table: _Table = {}
    strangers: list[str] = []
    try:
        file = path_inside(root, name)
        if file.stat().st_size > _MAX_TABLE_MB * 2**20:
            raise _UnusableTable(f"it has more than {_MAX_TABLE_MB} MB.")
        with file.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = max(",;\t", key=stream.readline().count)
            stream.seek(0)
            rows = csv.reader(stream, delimiter=delimiter)
            header = [cell.strip() for cell in next(rows, [])]
            path_column = _column(header, _PATH_COLUMNS)
            label_column = _column(header, _LABEL_COLUMNS)
            if path_column is None:
                raise _UnusableTable(f"its first line names no column {', '.join(_PATH_COLUMNS)}.")
            others = [i for i, cell in enumerate(header) if cell and i not in (path_column, label_column)]
            for row in rows:
                cells = [cell.strip() for cell in row] + [""] * (len(header) - len(row))
                path = find(cells[path_column]) if cells[path_column] else ""
                if path:
                    columns = {header[i]: cells[i] for i in others}
                    label = "" if label_column is None else cells[label_column]
                    table[path] = (label, json.dumps(columns, ensure_ascii=False) if columns else "")
                elif path is None and len(strangers) < 4:
                    strangers.append(cells[path_column])
    except UnicodeDecodeError as error:
        raise _UnusableTable("it is not UTF-8 text; save it anew as CSV UTF-8.") from error
    except (csv.Error, OSError, BadImage) as error:
        raise _UnusableTable(f"it cannot be read ({error}).") from error
    return table, strangers


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    lower = [cell.lower() for cell in header]
    return next((lower.index(name) for name in names if name in lower), None)


def _finder(paths: Iterable[str]) -> Callable[[str], str | None]:
    """The rule that finds the file an entry means: by path, by name alone, or either without its suffix."""
    exact = set(paths)
    by_name: dict[str, str | None] = {}
    for path in exact:
        name = path.rpartition("/")[2]
        for short in {name, path.rpartition(".")[0], name.rpartition(".")[0]} - {path}:
            by_name[short] = path if short not in by_name else None  # None: two files are called so

    def find(entry: str) -> str | None:
        name = entry.replace("\\", "/").removeprefix("./")
        return entry if entry in exact else name if name in exact else by_name.get(name)

    return find


# ---- reading --------------------------------------------------------------------------------------------------------

_About = tuple[str, str, str]  # label, mask, columns as JSON: what can change without the file


@dataclass(frozen=True)
class _Content:
    """What was read from a file."""

    digest: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    may_pass: bool = False  # the reason lies outside the file


def _scan(root: Path, found: _Found, database: Path, on_step: OnStep | None) -> ScanReport:
    masks, orphans = _split_masks(found.files)
    table, notes = _read_tables(root, found.tables, masks)
    folder_label = _folder_label(masks)

    def about(path: str) -> _About:
        label, columns = table.get(path, ("", ""))
        return label or folder_label(path), masks[path], columns

    with _listing(database) as listing:
        known = _known(listing)
        fresh = {path for path in masks if path in known and known[path][0] == found.files[path]}
        # What lies in a folder that cannot be read just now need not be gone.
        gone = [path for path in known if path not in masks and not path.startswith(tuple(found.unreadable))]
        with _transaction(listing):
            listing.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in gone))
            listing.executemany(
                "UPDATE files SET label = ?, mask = ?, columns = ? WHERE path = ?",
                ((*about(path), path) for path in fresh if about(path) != known[path][1]),
            )
            _note_fact(listing, "max_image_megapixels", _bound())
        to_read = sorted(path for path in masks if path not in fresh)
        num_new = 0
        for batch, contents in _read_all(root, found, to_read):
            with _transaction(listing):
                listing.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (_row(path, found.files[path], about(path), content) for path, content in contents),
                )
            num_new += sum(path not in known for path, _ in contents)
            if on_step is not None:
                on_step(Step(batch.stop, len(to_read)))
        _note_fact(listing, "scanned", "yes")
        num_broken = listing.execute("SELECT count(*) FROM files WHERE problem != ''").fetchone()[0]
    return ScanReport(
        num_new=num_new,
        num_changed=sum(path in known for path in to_read),
        num_removed=len(gone),
        num_unchanged=len(fresh),
        num_broken=num_broken,
        num_ignored=found.num_ignored,
        notes=(*notes, *_left_out(found, orphans)),
    )


def _known(listing: sqlite3.Connection) -> dict[str, tuple[tuple[int, int], _About]]:
    """Path -> (size, time) and what else is known; files refused under another bound on size count as changed."""
    same_bound = _fact(listing, "max_image_megapixels") in (None, _bound())
    rows = listing.execute("SELECT path, size, mtime_ns, problem != '', label, mask, columns FROM files")
    return {
        path: ((size, mtime_ns if same_bound or not broken else _RETRY), (label, mask, columns))
        for path, size, mtime_ns, broken, label, mask, columns in rows
    }


def _bound() -> str:
    return str(settings.current().max_image_megapixels)


def _read_all(root: Path, found: _Found, paths: Sequence[str]) -> Iterator[tuple[slice, list[tuple[str, _Content]]]]:
    """Reads files batch by batch; one that is gone by now is left out."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _BATCH):
            batch = slice(start, min(start + _BATCH, len(paths)))
            contents = pool.map(partial(_read, root, found.misnamed), paths[batch])
            read = zip(paths[batch], contents, strict=True)
            yield batch, [(path, content) for path, content in read if content is not None]


def _read(root: Path, misnamed: Collection[str], path: str) -> _Content | None:
    """Digest and size of a file, or what is wrong with it; None where it is gone."""
    name = PurePosixPath(path).name
    if path in misnamed:
        return _Content(problem=f"The name {name} is not UTF-8 text; rename the file.")
    digest = ""
    try:
        with path_inside(root, path).open("rb") as stream:
            digest = hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=16)).hexdigest()
            stream.seek(0)
            width, height = images.measure(stream, name=name)
            return _Content(digest, width, height)
    except BadImage as error:
        return _Content(digest, problem=str(error))
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = f"{name} cannot be read ({error.strerror}); give the program that runs cnnviz permission to read it."
        return _Content(problem=reason, may_pass=True)


def _row(path: str, state: tuple[int, int], about: _About, content: _Content) -> tuple[object, ...]:
    """The values of a file, in the order of the table's columns."""
    size, mtime_ns = state
    time = _RETRY if content.may_pass else mtime_ns
    return (path, size, time, *about, content.digest, content.width, content.height, content.problem)


def _left_out(found: _Found, orphans: Sequence[str]) -> list[str]:
    """Sentences on what a person may miss."""
    notes = []
    if found.num_links:
        notes.append(f"{found.num_links} links to folders or to places outside were not followed.")
    if found.unreadable:
        notes.append(f"{len(found.unreadable)} folders may not be read, the first is {found.unreadable[0]}")
    if orphans:
        notes.append(f"{len(orphans)} masks fit no picture, the first is {orphans[0]}.")
    return notes


# ---- the database ---------------------------------------------------------------------------------------------------


class DamagedListing(StorageFailed):
    """The database of a listing cannot be understood; :func:`scan` makes it anew."""


_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, label TEXT, mask TEXT, columns TEXT,
    digest TEXT, width INTEGER, height INTEGER, problem TEXT
) WITHOUT ROWID
"""
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


@contextlib.contextmanager
def _listing(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one call; what SQLite raises meanwhile becomes a sentence."""
    failed = "The listing of the collection could not be kept in"
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store.storage_failed(failed, error) from error
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as listing:
            _prepare(listing)
            yield listing
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "").startswith(_DAMAGED):
            raise DamagedListing("The listing of the collection is damaged; scan the collection again.") from error
        raise store.storage_failed(failed, error) from error


def _prepare(listing: sqlite3.Connection) -> None:
    """Makes the tables of a new database."""
    listing.execute("PRAGMA synchronous = NORMAL")
    version = listing.execute("PRAGMA user_version").fetchone()[0]
    if version == _VERSION:
        return
    if version:
        raise DamagedListing("The listing of the collection is of another version; scan the collection again.")
    with contextlib.suppress(sqlite3.OperationalError):  # another process does the same now
        listing.execute("PRAGMA journal_mode = WAL")
    with _transaction(listing):
        listing.execute(_SCHEMA)
        listing.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
        listing.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def _transaction(listing: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: after an exception the connection is closed, which takes back what was not committed."""
    listing.execute("BEGIN IMMEDIATE")
    yield
    listing.execute("COMMIT")


def _fact(listing: sqlite3.Connection, name: str) -> str | None:
    row = listing.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _note_fact(listing: sqlite3.Connection, name: str, value: str) -> None:
    listing.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _move_aside(database: Path) -> None:
    """Makes room for a new database, unless another process has done so."""
    with contextlib.suppress(DamagedListing), _listing(database) as listing:
        if listing.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
            return
    try:
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        database.replace(database.with_name(f"{database.name}.damaged"))
    except OSError as error:
        raise store.storage_failed("A new listing of the collection could not be kept in", error) from error
