"""Keeps the data folder within its bounds of space and time: what nobody used for longest goes first.

Uploaded and downloaded collections and all indexes share one bound of space. Uploaded pictures have their own, which
:mod:`~cnnviz_core.store` holds whenever one comes, and so have the pictures of studies, which
:mod:`~cnnviz_core.visual_study` holds whenever a study begins. What somebody used within the last hour, or is being
written, stays. Weights files are never removed here: an index can be made again and a ZIP uploaded again, but nobody
may count on having the only copy of a network elsewhere. Reports go only by the retention, since nobody can make a
comment again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cnnviz_core import journal, reports, settings, store
from cnnviz_core.collections import indexing, sources
from cnnviz_core.errors import CnnvizError

_MB = 2**20
_IN_USE_SECONDS = 3600
_LEFT_OVER_SECONDS = 24 * 3600
_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True)
class _Unit:
    """What goes as a whole.

    Attributes:
        kind: For the journal.
        num_bytes: On disk.
        last_used: Seconds since the epoch.
        remove: Does it; gives whether it is gone.
    """

    kind: str
    num_bytes: int
    last_used: float
    remove: Callable[[], bool]


def sweep() -> None:
    """Removes what was unused for longer than the retention, what is beyond the bounds, and what killed processes left.

    Safe beside any number of running sessions and other processes.
    """
    chosen = settings.current()
    if chosen.retention_days:
        before = time.time() - chosen.retention_days * _DAY_SECONDS
        _remove([*_files(), *_units(), *_reports()], lambda unit: unit.last_used < before)
    _bound(chosen.collections_mb * _MB)
    for folder in chosen.data_dir.glob("[!.]*"):
        _remove_left_overs(folder)


def make_room(num_bytes: int = 0) -> None:
    """Sees to it that a collection or index can come.

    Args:
        num_bytes: How much it brings, as far as is known.

    Raises:
        StorageFailed: All that is kept is in use, and there is no room beside it.
    """
    bound = settings.current().collections_mb
    if _bound(bound * _MB - num_bytes) > bound * _MB - num_bytes:
        raise store.StorageFailed(
            f"The {bound:,} MB that this server has for collections and indexes (CNNVIZ_COLLECTIONS_MB) are full, and "
            "all of it was used within the last hour. Remove a collection, or come back later."
        )


def disk_use() -> dict[str, int]:
    """Bytes in the data folder by kind."""
    folder = settings.current().data_dir
    return {entry.name: _size(entry) for entry in sorted(folder.iterdir())} if folder.is_dir() else {}


def _bound(num_bytes: int) -> int:
    """Removes the longest unused collections and indexes beyond a size; returns what is left."""
    units = sorted(_units(), key=lambda unit: unit.last_used)
    total = sum(unit.num_bytes for unit in units)
    for unit in units:
        if total > num_bytes and _remove([unit], lambda _: True):
            total -= unit.num_bytes
    return total


def _remove(units: list[_Unit], wanted: Callable[[_Unit], bool]) -> int:
    count = 0
    for unit in units:
        if wanted(unit) and time.time() - unit.last_used > _IN_USE_SECONDS and unit.remove():
            count += 1
            days = (time.time() - unit.last_used) / _DAY_SECONDS
            mb = round(unit.num_bytes / _MB, 1)
            journal.event("removed unused", kind=unit.kind, mb=mb, days_unused=round(days, 1))
    return count


def _units() -> Iterator[_Unit]:
    """Collections that were brought, without their indexes, which are units of their own."""
    for card in sources.added():
        home = sources.home(card.collection_id)
        yield _Unit("collection", _size(home), _last_used(home), _deletes(card.collection_id))
    for folder in indexing.folders():
        yield _Unit("index", _size(folder), _last_used(folder), lambda folder=folder: indexing.remove(folder))  # type: ignore[misc]


def _deletes(collection_id: str) -> Callable[[], bool]:
    def delete() -> bool:
        for index in indexing.folders(indexing.folder_of(collection_id)):
            if time.time() - _last_used(index) < _IN_USE_SECONDS or indexing.is_being_written(index):
                return False
        try:
            sources.delete(collection_id)
        except CnnvizError:  # another process was quicker, or it cannot be removed: the next sweep tries again
            return False
        return True

    return delete


def _files() -> Iterator[_Unit]:
    """Pictures, results of long work, and what is known of it."""
    patterns = {
        "picture": "pictures/*.png",
        "picture of a study": "visualisations/*/*.npz",
        "result": "jobs/*.result",
        "job": "jobs/*.json",
    }
    for kind, pattern in patterns.items():
        for path in settings.current().data_dir.glob(pattern):
            with contextlib.suppress(OSError):
                status = path.stat()
                yield _Unit(kind, status.st_size, status.st_mtime, lambda path=path: _unlinked(path))  # type: ignore[misc]


def _reports() -> Iterator[_Unit]:
    for folder in reports.folders():
        yield _Unit("report", _size(folder), _last_used(folder), lambda folder=folder: reports.remove_folder(folder))  # type: ignore[misc]


def _unlinked(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _last_used(folder: Path) -> float:
    """When somebody last used it; where that was never noted, when it last changed."""
    times = []
    for path in (folder / store.USED, folder):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return times[0] if times else time.time()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; without following links."""
    total = 0
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(folder) / name).st_size
    return total


def _remove_left_overs(folder: Path) -> None:
    """What was being written or removed when a process was killed, long ago."""
    for pattern in (".part-*", ".gone-*"):
        for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}"), *folder.glob(f"*/*/{pattern}")]:
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime < _LEFT_OVER_SECONDS:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
