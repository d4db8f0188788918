"""What is known of each job after the server that ran it has gone: one small file a job, and the result beside it.

A record is written aside and renamed at every change of state, so that a killed server leaves whole records. Whichever
says that its job lives, while its server does not, is that of an interrupted job.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
import time
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from cnnviz_core import store
from cnnviz_core.result_files import ResultFiles, fits, is_name

_MOST_RECORDS = 300
_STALE_SECONDS = 3600  # nobody is still about to write, or to lock, what is older
_PACKAGE = Path(__file__).parent


class State(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_live(self) -> bool:
        """Whether a job in this state may still come to a result."""
        return self in (State.WAITING, State.RUNNING, State.PAUSED)


@dataclass(frozen=True)
class Details:
    """What people see of a job, and how they come back to it.

    Attributes:
        page: Script of the page where it was asked for, below the app's folder; empty for none.
        link: That page's part of the address: each name with its values.
        about: What it was asked with: network, picture, settings.
    """

    page: str = ""
    link: Mapping[str, list[str]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One job, as far as it is known.

    Attributes:
        name: 32 hexadecimal digits: what was computed, by which version of the code.
        key: 32 hexadecimal digits: what was computed.
        title: For people.
        state: What has become of it.
        people: Who asked for it.
        page: As in :class:`Details`, like the next two.
        link: See there.
        about: See there.
        server: The process that runs it, or ran it.
        asked: When it was asked for, seconds since 1970.
        ended: When it ended; 0 while it lives.
        seconds: How long it ran.
        error: Why it failed, as a sentence.
    """

    name: str
    key: str
    title: str
    state: State
    people: tuple[str, ...]
    page: str
    link: Mapping[str, list[str]]
    about: Mapping[str, str]
    server: str
    asked: float
    ended: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def is_of_this_version(self) -> bool:
        """Whether the code that runs now made it; the result of other code may be another one."""
        return self.name == _digest(self.key, _code())


def key_of(key: str) -> str:
    """The digits that stand for a job's key."""
    return _digest(key)


def name_of(key: str) -> str:
    """The digits that stand for a job's key and the code that runs now."""
    return _digest(key_of(key), _code())


class Records:
    """The records and results of one data folder; several servers may share it.

    Args:
        folder: Created when first needed.
        results_mb: Room for results; the oldest go first.
    """

    def __init__(self, folder: Path, *, results_mb: int) -> None:
        self.results = ResultFiles(folder, max_mb=results_mb)
        self._folder = folder
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int], Record | None]] = {}
        self._server = secrets.token_hex(8)
        self._alive: FileLock | None = None
        self._drop_parts()

    def begin(self, key: str, title: str, details: Details, *, person: str) -> Record:
        """The record of a job that was just asked for; an earlier one of the same name is replaced."""
        return Record(
            name=name_of(key),
            key=key_of(key),
            title=title,
            state=State.WAITING,
            people=(person,),
            page=details.page,
            link=dict(details.link),
            about=dict(details.about),
            server=self._server,
            asked=time.time(),
        )

    def save(self, record: Record) -> None:
        """Writes a record; the oldest of ended jobs go where there are many.

        Raises:
            StorageFailed: The data folder cannot be written.
        """
        with self._lock:
            self._prove_alive()
            with store.written_aside(self._path(record.name)) as aside:
                aside.write_text(json.dumps(asdict(record)), encoding="utf-8")
        self._drop_oldest()

    def find(self, name: str) -> Record | None:
        """The record of that name."""
        path = self._path(name)
        with self._lock:
            record = self._read_if_changed(path)
        return record and self._as_it_is(record)

    def all(self) -> list[Record]:
        """Every record, the latest first; one that cannot be read does not count."""
        with self._lock:
            paths = list(self._folder.glob("*.json")) if self._folder.is_dir() else []
            for gone in self._read.keys() - set(paths):
                del self._read[gone]
            found = [record for path in paths if (record := self._read_if_changed(path))]
        return sorted(map(self._as_it_is, found), key=lambda record: -record.asked)

    def remove(self, name: str, *, person: str) -> None:
        """Takes a person off an ended job; one that is nobody’s any more is forgotten with its result.

        Raises:
            StorageFailed: The data folder cannot be written.
        """
        record = self.find(name)
        if record is None or person not in record.people:
            return
        left = tuple(other for other in record.people if other != person)
        if left:
            self.save(replace(record, people=left))
        else:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Removes a job’s record and its result."""
        self.results.remove(name)
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def _as_it_is(self, record: Record) -> Record:
        """A job whose server has gone is interrupted, unless its result was kept just before."""
        if not record.state.is_live or record.server == self._server or self._is_alive(record.server):
            return record
        if self.results.has(record.name):
            return replace(record, state=State.DONE, ended=record.ended or record.asked)
        return replace(record, state=State.INTERRUPTED, ended=record.ended or record.asked)

    def _read_if_changed(self, path: Path) -> Record | None:
        try:
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_ino
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = stamp, _parsed(path.read_bytes(), path.stem)
        except OSError:
            self._read.pop(path, None)
            return None
        return self._read[path][1]

    def _drop_oldest(self) -> None:
        ended = [record for record in self.all() if not record.state.is_live]
        for record in ended[_MOST_RECORDS:]:
            self.forget(record.name)

    def _drop_parts(self) -> None:
        """Removes what a killed server has not finished writing."""
        for part in self._folder.glob(".part-*"):
            with contextlib.suppress(OSError):
                if _is_stale(part):
                    part.unlink()

    def _prove_alive(self) -> None:
        """Holds a lock that the system lets go of when this process ends, however it ends."""
        if self._alive is not None:
            return
        servers = self._folder / "servers"
        try:
            servers.mkdir(parents=True, exist_ok=True)
            for path in servers.glob("*.lock"):
                if _is_stale(path) and not self._is_alive(path.stem):
                    path.unlink(missing_ok=True)
            alive = FileLock(servers / f"{self._server}.lock", thread_local=False)
            alive.acquire(timeout=0)
        except (OSError, Timeout) as error:
            raise store.storage_failed("The list of jobs could not be kept in", error) from error
        self._alive = alive

    def _is_alive(self, server: str) -> bool:
        path = self._folder / "servers" / f"{server}.lock"
        if server == self._server:
            return True
        if len(server) != 16 or not server.isalnum() or not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _is_stale(path: Path) -> bool:
    return path.stat().st_mtime < time.time() - _STALE_SECONDS


def _parsed(content: bytes, name: str) -> Record | None:
    """The record in a file; None for anything else."""
    try:
        raw = json.loads(content)
        people = tuple(raw["people"]) if isinstance(raw["people"], list) else ()
        record = Record(**{**raw, "state": State(raw["state"]), "people": people})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    hints = typing.get_type_hints(Record)
    is_whole = all(fits(getattr(record, one.name), hints[one.name]) for one in fields(Record))
    return record if is_whole and record.people and record.name == name and is_name(name) else None


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


@cache
def _code() -> str:
    """Names the code that computes: a result of other code is not shown as if it were of this one."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_PACKAGE.rglob("*.py")):
        place = path.relative_to(_PACKAGE)
        if place.parts[0] not in ("ui", "render"):
            digest.update(f"{place.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
