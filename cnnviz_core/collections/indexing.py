"""The index of a collection: its embeddings on disk, made shard by shard, resumed where they broke off.

An index belongs to one collection, one network with its weights and preprocessing, one layer and one pooling. In its
folder, ``vectors.f32`` holds the vectors one after another, and a record for each shard, written last, says which files
they belong to: vectors without a record do not count, and the next run writes over them. A shard is a fixed number of
files in the order of their names, so an interrupted run and its resumption leave the very bytes that an uninterrupted
one would have left.

When a file changes or goes, the record of its shard is dropped, and what is left of that shard is done anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout

from cnnviz_core import settings, store
from cnnviz_core.collections import embedding
from cnnviz_core.collections.embedding import File, Shard, Tops
from cnnviz_core.collections.scan import Picture
from cnnviz_core.collections.search import Searcher
from cnnviz_core.errors import CnnvizError
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Step

SHARD = 128

_FORMAT = 3  # of what is written; another number makes older indexes unknown
_VECTORS = "vectors.f32"
_ABOUT = "index.json"
_BYTES = 4
_COPIED_BYTES = 2**24
_TEXTS = ("paths", "digests", "bad_paths", "bad_digests", "bad_reasons")
_MAX_WORKERS_PER_ACCELERATOR = 4
_POLL_SECONDS = 0.2

OnStep = Callable[[Step], None]


class Busy(CnnvizError):
    """Somebody else writes to an index."""


class Pictures(Protocol):
    """What an index needs of a collection."""

    @property
    def collection_id(self) -> str:
        """Its id."""
        ...

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        ...

    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures, sorted by path."""
        ...

    def note_problem(self, picture: Picture, reason: str) -> None:
        """Takes note of a file that holds no whole picture."""
        ...


@dataclass(frozen=True, eq=False)
class Index:
    """The embeddings of a collection at one layer.

    Attributes:
        collection_id: Of which collection.
        layer: Dotted name, "pixels" or "scores".
        pooling: How a map became a vector.
        model_id: By which network.
        weights_hash: With which weights.
        digest: Names the index with its present rows; equal for equal content.
        vectors: (N, D) float32, mapped from disk.
        rows: (N,) the pictures.
        num_pictures: Pictures in the collection, indexed or not.
        records: Where the strongest answers of each shard are kept.
    """

    collection_id: str
    layer: str
    pooling: str
    model_id: str
    weights_hash: str
    digest: str
    vectors: FloatArray
    rows: tuple[Picture, ...]
    num_pictures: int
    records: tuple[Path, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every picture of the collection has its row."""
        return len(self.rows) == self.num_pictures

    @cached_property
    def tops(self) -> Tops | None:
        """The strongest answers of each channel, ``rows`` pointing into :attr:`rows`; None for pixels and scores."""
        if self.layer in embedding.PSEUDO_LAYERS or not self.records:
            return None
        best: Tops | None = None
        first_row = 0
        for path in self.records:
            with path.open("rb") as file, np.load(file) as stored:
                rows = stored["top_rows"] + first_row
                found = Tops(stored["top_values"], rows, stored["top_cells"], stored["top_around"])
                first_row += len(stored["paths"])
            best = found if best is None else best.merged(found)
        return best

    @cached_property
    def searcher(self) -> Searcher:
        """The vectors made ready for many searches; what that takes is kept beside them, mapped from disk, too."""
        if not self.records or not self.records[0].exists():  # nothing there, or removed meanwhile
            return Searcher.build(self.vectors)
        home, mine = self.records[0].parent, f"search-{self.digest}"
        try:
            found = Searcher.build(self.vectors, folder=home / mine)
        except store.StorageFailed:  # a full disk takes nothing from a search
            return Searcher.build(self.vectors)
        for other in home.glob("search-*"):  # of other rows
            if other.name != mine:
                shutil.rmtree(other, ignore_errors=True)
        return found


def build(
    collection: Pictures,
    model: LoadedModel,
    *,
    layers: Sequence[str],
    pooling: str = "mean",
    waits: bool = True,
    on_step: OnStep | None = None,
) -> tuple[str, ...]:
    """Brings the indexes of some layers up to date, in one pass over the pictures that they lack.

    Of two that ask at the same time, in this process or another, the second waits and finds it done.

    Args:
        collection: What to index; its listing is taken as it is, not looked through again.
        model: Any network.
        layers: As in :func:`embedding.embed`.
        pooling: Likewise.
        waits: Whether to wait where somebody else writes to one of these indexes.
        on_step: Called several times a second with the pictures done; what it raises ends the work, and what is
            committed by then stays.

    Returns:
        For files that could not be read just now the reasons; they are tried again the next time.

    Raises:
        Busy: Somebody else writes, and it is not to wait.
        StorageFailed: The data folder cannot be written.
        UnknownLayer, BadSetting, NotApplicable: As :func:`embedding.check`.
    """
    embedding.check(model, layers, pooling)
    folders = [_Folder(collection.collection_id, model, layer, pooling) for layer in dict.fromkeys(layers)]
    report = on_step or (lambda _: None)
    missed: list[str] = []
    with _locked(folders, report, waits=waits):
        pictures = collection.pictures()
        for folder in folders:
            folder.settle(pictures)
            for picture in pictures:
                if reason := folder.bad.get((picture.path, picture.digest)):
                    collection.note_problem(picture, reason)
        tasks = _tasks(folders, pictures)
        watch = _Watch(sum(len(task.pictures) for task in tasks), report)

        def work(task: _Task) -> Shard:
            files = [File(collection.folder / picture.path, picture.digest) for picture in task.pictures]
            names = [folder.layer for folder in task.folders]
            return embedding.embed(model, files, layers=names, pooling=pooling, on_batch=watch.count)

        for task, shard in _in_order(tasks, work, watch, num_workers(model)):
            for folder in task.folders:
                folder.commit(task.pictures, shard)
            for place, reason in shard.problems.items():
                collection.note_problem(task.pictures[place], reason)
            missed += shard.missed.values()
    return tuple(missed)


def read(collection: Pictures, model: LoadedModel, *, layer: str, pooling: str = "mean") -> Index:
    """What is there of an index: all of it after :func:`build`, else the shards that are committed and up to date.

    Raises:
        UnknownLayer: No such layer.
    """
    folder = _Folder(collection.collection_id, model, layer, pooling)
    pictures = collection.pictures()
    records = folder.valid_records(pictures)
    by_path = {picture.path: picture for picture in pictures}
    return Index(
        collection_id=collection.collection_id,
        layer=layer,
        pooling=pooling,
        model_id=model.spec.model_id,
        weights_hash=model.spec.weights_hash,
        digest=_digest(folder.key, records),
        vectors=folder.vectors(records),
        rows=tuple(by_path[path] for record in records for path in record.paths),
        num_pictures=len(pictures),
        records=tuple(record.path for record in records),
    )


def stamp(collection: Pictures, model: LoadedModel, *, layer: str, pooling: str = "mean") -> tuple[int, int]:
    """Another one after every change of an index: how many shards are committed, and when the last one was.

    Asking counts as use, by which those that nobody uses are found.
    """
    folder = _Folder(collection.collection_id, model, layer, pooling)
    store.note_use(folder.path)
    times = [path.stat().st_mtime_ns for path in folder.path.glob("shard-*.npz")]
    return len(times), max(times, default=0)


def estimate_seconds(model: LoadedModel, num_pictures: int, seconds_per_picture: float) -> float:
    """About how long :func:`build` takes for pictures of usual size on a machine that has nothing else to do."""
    return num_pictures * seconds_per_picture / num_workers(model)


def forget(collection_id: str) -> None:
    """Removes all indexes of a collection, and the maps made of them."""
    shutil.rmtree(folder_of(collection_id), ignore_errors=True)


def folders(within: Path | None = None) -> list[Path]:
    """Where the indexes lie.

    Args:
        within: The folder of one collection; None for all.
    """
    above = [within] if within is not None else (settings.current().data_dir / "indexes").glob("*")
    return sorted(path for collection in above for path in collection.glob("[!.]*") if (path / _ABOUT).exists())


def is_being_written(folder: Path) -> bool:
    """Whether somebody is at work on one index of :func:`folders`, which may take hours without anybody looking on."""
    lock = FileLock(folder / ".lock")
    try:
        return not _acquired(lock)
    except store.StorageFailed:
        return False
    finally:
        lock.release()


def remove(folder: Path) -> bool:
    """Removes one index of :func:`folders`. Returns whether it is gone; one that is being written stays."""
    lock = FileLock(folder / ".lock")
    try:
        if not _acquired(lock):
            return False
        gone = folder.with_name(f".gone-{uuid.uuid4().hex}")
        folder.rename(gone)  # at once, so that nobody meets half of it
    except (OSError, store.StorageFailed):
        return False
    finally:
        lock.release()
    shutil.rmtree(gone, ignore_errors=True)
    return True


def folder_of(collection_id: str) -> Path:
    """Where the indexes of a collection lie."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", collection_id)[:60]
    digest = hashlib.blake2b(collection_id.encode(), digest_size=4).hexdigest()
    return settings.current().data_dir / "indexes" / f"{name}-{digest}"


# ---- what lies on disk ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """A committed shard.

    Attributes:
        path: The record.
        first_row: Of its vectors, in the file of all.
        paths: The pictures, one for each vector.
        digests: Of their files.
        bad: For path and digest of files that hold no whole picture the reason.
    """

    path: Path
    first_row: int
    paths: tuple[str, ...]
    digests: tuple[str, ...]
    bad: Mapping[tuple[str, str], str]

    @staticmethod
    def read(path: Path) -> _Record | None:
        """The shard of a record; None where the file is damaged."""
        try:
            with path.open("rb") as file, np.load(file) as stored:
                texts = {name: tuple(stored[name].tolist()) for name in _TEXTS}
                bad_files = zip(texts["bad_paths"], texts["bad_digests"], strict=True)
                bad = dict(zip(bad_files, texts["bad_reasons"], strict=True))
                return _Record(path, int(stored["first_row"]), texts["paths"], texts["digests"], bad)
        except store.DAMAGED_ARRAYS:
            return None

    @property
    def end(self) -> int:
        return self.first_row + len(self.paths)

    @property
    def files(self) -> frozenset[tuple[str, str]]:
        return frozenset(zip(self.paths, self.digests, strict=True))


class _Folder:
    """One index on disk."""

    def __init__(self, collection_id: str, model: LoadedModel, layer: str, pooling: str) -> None:
        self.layer = layer
        self.about = {
            "format": _FORMAT,
            "collection": collection_id,
            "model": model.spec.model_id,
            "weights_hash": model.spec.weights_hash,
            "preprocessing": asdict(model.preprocessing),
            "layer": layer,
            "pooling": "" if layer in embedding.PSEUDO_LAYERS else pooling,
        }
        described = json.dumps(self.about, sort_keys=True)
        self.key = hashlib.blake2b(described.encode(), digest_size=10).hexdigest()
        self.path = folder_of(collection_id) / self.key
        self.dimension = embedding.dimension(model, layer, pooling)
        self.done: set[tuple[str, str]] = set()
        self.bad: dict[tuple[str, str], str] = {}
        self.end = self.next_number = 0

    def valid_records(self, pictures: Iterable[Picture]) -> list[_Record]:
        """The whole records all of whose files are still what they were, in order."""
        present = {(picture.path, picture.digest) for picture in pictures}
        records = [_Record.read(path) for path in sorted(self.path.glob("shard-*.npz"))]
        end = self._num_stored()
        return [one for one in records if one is not None and one.files <= present and one.end <= end]

    def _num_stored(self) -> int:
        path = self.path / _VECTORS
        return path.stat().st_size // (self.dimension * _BYTES) if path.exists() else 0

    def settle(self, pictures: Iterable[Picture]) -> None:
        """Drops what is out of date, and finds out where to go on."""
        records = self.valid_records(pictures)
        kept = {record.path for record in records}
        try:
            for path in set(self.path.glob("shard-*.npz")) - kept:
                path.unlink()
        except OSError as error:
            raise store.storage_failed("An outdated part of an index could not be removed from", error) from error
        self.done = {file for record in records for file in record.files | record.bad.keys()}
        self.bad = {file: reason for record in records for file, reason in record.bad.items()}
        self.end = max((record.end for record in records), default=0)
        if self._num_stored() > self.end:
            self._cut()
        self.next_number = max((_number(path) for path in kept), default=-1) + 1

    def commit(self, pictures: Sequence[Picture], shard: Shard) -> None:
        """Appends a shard's vectors, then writes its record.

        Raises:
            StorageFailed: The data folder cannot be written.
        """
        read = [pictures[place] for place in shard.read]
        bad = [pictures[place] for place in shard.problems]
        tops = shard.tops.get(self.layer, Tops.empty(0))
        self._describe()
        self._append(shard.vectors[self.layer])
        with store.written_aside(self.path / f"shard-{self.next_number:06}.npz") as aside, aside.open("wb") as stream:
            np.savez(
                stream,
                first_row=np.array(self.end),
                paths=_texts(picture.path for picture in read),
                digests=_texts(picture.digest for picture in read),
                bad_paths=_texts(picture.path for picture in bad),
                bad_digests=_texts(picture.digest for picture in bad),
                bad_reasons=_texts(shard.problems.values()),
                top_values=tops.values,
                top_rows=tops.rows,
                top_cells=tops.cells,
                top_around=tops.around,
            )
        self.end += len(read)
        self.next_number += 1

    def _cut(self) -> None:
        """Drops vectors that do not count. Others may have the file mapped, so theirs stays and a new one follows."""
        left = self.end * self.dimension * _BYTES
        path = self.path / _VECTORS
        with store.written_aside(path) as aside, aside.open("wb") as new, path.open("rb") as old:
            while left and (block := old.read(min(left, _COPIED_BYTES))):
                left -= new.write(block)

    def _describe(self) -> None:
        if not (self.path / _ABOUT).exists():
            with store.written_aside(self.path / _ABOUT) as aside:
                aside.write_text(json.dumps(self.about, indent=2), encoding="utf-8")

    def _append(self, vectors: FloatArray) -> None:
        path = self.path / _VECTORS
        try:
            with path.open("ab") as stream:
                stream.truncate(self.end * self.dimension * _BYTES)  # what a write that failed half-way left
                stream.write(np.ascontiguousarray(vectors, dtype="<f4").data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise store.storage_failed("The vectors of an index could not be kept in", error) from error

    def vectors(self, records: Sequence[_Record]) -> FloatArray:
        """(N, D) of these shards: mapped from disk where they lie side by side, else brought together."""
        num_rows = max((record.end for record in records), default=0)
        if not num_rows:
            return np.empty((0, self.dimension), np.float32)
        stored = np.memmap(self.path / _VECTORS, dtype="<f4", mode="r", shape=(num_rows, self.dimension))
        if sum(len(record.paths) for record in records) == num_rows:
            return stored
        return np.concatenate([stored[record.first_row : record.end] for record in records])


def _texts(values: Iterable[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.str_]]:
    return np.array(list(values), dtype=np.str_)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("shard-"))


def _digest(key: str, records: Iterable[_Record]) -> str:
    content = hashlib.blake2b(key.encode(), digest_size=16)
    for record in records:
        content.update(json.dumps([record.paths, record.digests]).encode())
    return content.hexdigest()


@contextmanager
def _locked(folders: Iterable[_Folder], report: OnStep, *, waits: bool) -> Iterator[None]:
    """Keeps others from writing to these indexes."""
    with ExitStack() as locks:
        for folder in sorted(folders, key=lambda folder: folder.path):
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise store.storage_failed("An index could not be started in", error) from error
            lock = FileLock(folder.path / ".lock")
            while not _acquired(lock):
                if not waits:
                    raise Busy(
                        "This collection is being indexed elsewhere already, perhaps by a command in a terminal. What "
                        "is done so far is used; come back later for the rest."
                    )
                report(Step(0, 0))
                time.sleep(_POLL_SECONDS)
            locks.callback(lock.release)
        yield


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise store.storage_failed("An index could not be locked in", error) from error
    return True


# ---- the pass over the pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """Pictures that some indexes lack."""

    pictures: tuple[Picture, ...]
    folders: tuple[_Folder, ...]


def _tasks(folders: Sequence[_Folder], pictures: Sequence[Picture]) -> list[_Task]:
    """Shards to make; those of several indexes over the same pictures are made together."""
    shards = {folder: _missing(folder, pictures) for folder in folders}
    tasks: list[_Task] = []
    while any(shards.values()):
        # Who lacks most goes first, so that an index that was interrupted one shard earlier catches up.
        first = max(shards.values(), key=lambda missing: sum(map(len, missing)))[0]
        together = tuple(folder for folder, missing in shards.items() if missing and missing[0] == first)
        tasks.append(_Task(first, together))
        for folder in together:
            shards[folder].pop(0)
    return tasks


def _missing(folder: _Folder, pictures: Sequence[Picture]) -> list[tuple[Picture, ...]]:
    pending = [picture for picture in pictures if (picture.path, picture.digest) not in folder.done]
    return [tuple(pending[start : start + SHARD]) for start in range(0, len(pending), SHARD)]


class _Stopped(BaseException):
    """Ends a worker's shard. Not an Exception, so that no handler on the way takes it."""


class _Watch:
    """Counts pictures as threads do them, tells how many there are, and passes a cancel on to the threads."""

    def __init__(self, total: int, report: OnStep) -> None:
        self._total, self._report = total, report
        self._done = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def count(self, number: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            self._done += number

    def tell(self) -> None:
        self._report(Step(self._done, self._total))

    def stop(self) -> None:
        self._stop.set()


def _in_order(
    tasks: Iterable[_Task], work: Callable[[_Task], Shard], watch: _Watch, num_workers: int
) -> Iterator[tuple[_Task, Shard]]:
    """Tasks with their shards, in order, made by several threads, few ahead of the one that is due."""
    waiting = iter(tasks)
    under_way: deque[tuple[_Task, Future[Shard]]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="cnnviz-index") as pool:
        try:
            while True:
                while len(under_way) <= num_workers and (task := next(waiting, None)) is not None:
                    under_way.append((task, pool.submit(work, task)))
                if not under_way:
                    break
                task, due = under_way[0]
                wait([due], timeout=_POLL_SECONDS)
                watch.tell()
                if due.done():
                    under_way.popleft()
                    yield task, due.result()
        finally:  # also when a cancel, a full disk or an error in a worker ends it
            watch.stop()
            for _, future in under_way:
                future.cancel()


def num_workers(model: LoadedModel) -> int:
    """Threads, each with its own pictures: as many as there are cores to compute, a few to feed an accelerator."""
    num_cores = os.cpu_count() or 1
    if model.device.type != "cpu":
        return min(num_cores, _MAX_WORKERS_PER_ACCELERATOR)
    return max(1, num_cores // torch.get_num_threads())
