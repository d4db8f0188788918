"""What happens on a server, one line per event; and bugs, each with an id by which the person who met it can ask.

Events carry names, sizes and digests, never what is in a file, what it is called, or who somebody is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
import threading
import traceback
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_NAME = "cnnviz"
_KEPT = 50

_log = logging.getLogger(_NAME)
_bugs: deque[Bug] = deque(maxlen=_KEPT)
_lock = threading.Lock()


@dataclass(frozen=True)
class Bug:
    """An error that nobody had foreseen.

    Attributes:
        bug_id: By which it is found in the log.
        when: UTC.
        where: The page or job.
        kind: The exception's class.
        place: File and line that raised it, without the folders.
    """

    bug_id: str
    when: datetime
    where: str
    kind: str
    place: str


def configure(form: str) -> None:
    """Writes events to standard error, also those of other libraries' loggers that reach the root.

    Args:
        form: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    handler.set_name(_NAME)
    root = logging.getLogger()
    for old in [one for one in root.handlers if one.get_name() == _NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    _log.setLevel(logging.INFO)


def event(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Writes a line.

    Args:
        name: What happened: "model loaded".
        level: Of the standard library's.
        **fields: Numbers and short texts; no contents, no names of files.
    """
    _log.log(level, name, extra={"fields": fields})


def bug(error: BaseException, *, where: str) -> str:
    """Writes an unforeseen error with its traceback, and keeps it among the last ones. Returns its id.

    Args:
        error: As caught.
        where: The page or job.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    found = Bug(secrets.token_hex(4), datetime.now(UTC), where, type(error).__name__, place)
    with _lock:
        _bugs.append(found)
    fields = {"id": found.bug_id, "where": where, "error": found.kind, "place": place}
    _log.error("bug", exc_info=error, extra={"fields": fields})
    return found.bug_id


def bugs() -> tuple[Bug, ...]:
    """The last ones, newest first."""
    with _lock:
        return tuple(reversed(_bugs))


def pseudonym(text: str) -> str:
    """Stands for a person: the same for the same text, and no way back to it but guessing."""
    return hashlib.blake2b(text.lower().encode(), digest_size=6, key=_KEY).hexdigest()


_KEY = secrets.token_bytes(16)  # another one after each start, so that a log cannot be searched for an address


class _Text(logging.Formatter):
    """For a person: time, level where it matters, what happened, its fields."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        source = "" if record.name == _NAME else f"{record.name}: "
        fields = ", ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        line = f"{time} {level}{source}{record.getMessage()}{': ' if fields else ''}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """For a program: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _NAME:
            content["logger"] = record.name
        content |= {key: value for key, value in getattr(record, "fields", {}).items() if key not in content}
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str, ensure_ascii=False)
