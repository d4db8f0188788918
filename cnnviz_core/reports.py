"""A person's report: figures that they set aside, in their order, with what they say about each.

One folder per person in the data folder: ``report.json`` with everything but the pictures, and one file for each
picture. Files are written aside and renamed, pictures before the list that names them, so that a process killed at any
moment leaves a whole report. The folder's name is the person's id, which is checked; nothing else here becomes a path.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import secrets
import shutil
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image

from cnnviz_core import html_report, links, settings, store
from cnnviz_core.errors import BadImage, BadLink, BadSetting
from cnnviz_core.html_report import Block, Heading, Paragraph, Picture, Settings
from cnnviz_core.links import Link
from cnnviz_core.result_files import fits

MOST_ENTRIES = 100
MOST_MB = 50
TITLE = "What the network sees"

_PERSON = re.compile(r"[a-z]{1,16}-[0-9a-f][0-9a-f-]{7,63}")
_ENTRY_ID = re.compile(r"[0-9a-f]{16}")
_MOST_CHARACTERS = 20_000
_INDEX = "report.json"
_DAMAGED = "damaged.json"
_MB = 2**20
_UNDO_SECONDS = 600  # a picture that was taken out can be put back for so long
_LOCK_SECONDS = 10
_STARTS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<svg"}


@dataclass(frozen=True)
class Entry:
    """One figure of a report.

    Attributes:
        entry_id: 16 hexadecimal digits.
        title: What is to be seen.
        caption: How it was made, in one line.
        comment: What the person says about it.
        settings: Everything that led to it, by name.
        page: The page that showed it, as in :class:`~cnnviz_core.links.Link`.
        params: What that page was set to, likewise.
        added: When it came, seconds since 1970.
        ending: Kind of the picture: ".png" or ".svg".
    """

    entry_id: str
    title: str
    caption: str = ""
    comment: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    page: str = ""
    params: Mapping[str, list[str]] = field(default_factory=dict)
    added: float = 0.0
    ending: str = ".png"

    @property
    def link(self) -> Link:
        """The way back to the screen."""
        return Link(self.page, self.params)


@dataclass(frozen=True)
class Report:
    """A person's report.

    Attributes:
        title: Above everything.
        entries: In their order.
        problem: What of it could not be read, as a sentence; empty where all is well.
    """

    title: str = TITLE
    entries: tuple[Entry, ...] = ()
    problem: str = ""

    def find(self, entry_id: str) -> int:
        """The place of an entry.

        Raises:
            BadSetting: It is not there any more.
        """
        for place, entry in enumerate(self.entries):
            if entry.entry_id == entry_id:
                return place
        raise BadSetting("This figure is not in your report any more; it was taken out in another window.")


def load(person: str) -> Report:
    """A person's report; an empty one where there is none.

    Raises:
        BadSetting: Not a person's id.
    """
    folder = _folder(person)
    if not folder.is_dir():
        return Report()
    store.note_use(folder)
    return _read(folder)


def picture(person: str, entry: Entry) -> bytes:
    """An entry's picture.

    Raises:
        BadImage: It is missing or damaged.
    """
    try:
        content = _picture_path(_folder(person), entry).read_bytes()
        if entry.ending == ".png":
            with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
                opened.verify()
        elif not content.startswith(_STARTS[entry.ending]) or not content.rstrip().endswith(b"</svg>"):
            raise ValueError("not a whole SVG")
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImage(
            f"The picture of “{entry.title}” is missing or damaged on the server; open its screen and add it again."
        ) from error
    return content


def add(
    person: str,
    content: bytes,
    *,
    title: str,
    caption: str = "",
    settings: Mapping[str, str] | None = None,
    link: Link | None = None,
) -> Report:
    """Puts a figure at the report's end.

    Args:
        person: Whose report.
        content: The picture, a PNG or SVG.
        title: What is to be seen.
        caption: How it was made, in one line.
        settings: Everything that led to it, by name.
        link: The screen that shows it.

    Returns:
        The report as it is now.

    Raises:
        BadSetting: The report is full, or the picture is none.
        StorageFailed: The data folder cannot be written, or has no room left for reports.
    """
    ending = next((ending for ending, start in _STARTS.items() if content.startswith(start)), None)
    if ending is None:
        raise BadSetting(f"The picture of {title!r} is neither PNG nor SVG.")
    entry = Entry(
        entry_id=secrets.token_hex(8),
        title=title,
        caption=caption,
        settings=dict(settings or {}),
        page=link.page if link else "",
        params=dict(link.params) if link else {},
        added=time.time(),
        ending=ending,
    )
    with _locked(person) as folder:
        report = _read(folder)
        _check_room(folder, report, len(content))
        with store.written_aside(_picture_path(folder, entry)) as aside:
            aside.write_bytes(content)
        return _write(folder, replace(report, entries=(*report.entries, entry)))


def set_title(person: str, title: str) -> Report:
    """Names the report; errors as in :func:`add`."""
    return _changed(person, lambda report: replace(report, title=title.strip()[:200] or TITLE))


def set_comment(person: str, entry_id: str, comment: str) -> Report:
    """Keeps what a person says about a figure; errors as in :func:`add`."""

    def change(report: Report) -> Report:
        entries, place = list(report.entries), report.find(entry_id)
        entries[place] = replace(entries[place], comment=comment[:_MOST_CHARACTERS])
        return replace(report, entries=tuple(entries))

    return _changed(person, change)


def move(person: str, entry_id: str, by: int) -> Report:
    """Moves a figure up (negative) or down, at most to the end; errors as in :func:`add`."""

    def change(report: Report) -> Report:
        entries, place = list(report.entries), report.find(entry_id)
        entries.insert(max(0, place + by), entries.pop(place))
        return replace(report, entries=tuple(entries))

    return _changed(person, change)


def remove(person: str, entry_id: str) -> tuple[Entry, int]:
    """Takes a figure out; errors as in :func:`add`.

    Returns:
        The entry and its place, with which :func:`put_back` works for ten minutes.
    """
    taken: list[tuple[Entry, int]] = []

    def change(report: Report) -> Report:
        place = report.find(entry_id)
        taken.append((report.entries[place], place))
        return replace(report, entries=(*report.entries[:place], *report.entries[place + 1 :]))

    _changed(person, change)
    return taken[0]


def put_back(person: str, entry: Entry, place: int) -> Report:
    """Undoes :func:`remove`.

    Raises:
        BadImage: The picture is gone.
        StorageFailed: The data folder cannot be written.
    """
    picture(person, entry)

    def change(report: Report) -> Report:
        others = [other for other in report.entries if other.entry_id != entry.entry_id]
        return replace(report, entries=(*others[:place], entry, *others[place:]))

    return _changed(person, change)


def clear(person: str) -> None:
    """Removes everything from a person's report; errors as in :func:`add`."""
    with _locked(person) as folder:
        try:
            for path in [folder / _INDEX, folder / _DAMAGED, *_pictures(folder)]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise store.storage_failed("The report could not be removed from", error) from error


def folders() -> list[Path]:
    """The folder of each report."""
    return sorted(path for path in _reports().glob("*") if _PERSON.fullmatch(path.name) and path.is_dir())


def remove_folder(folder: Path) -> bool:
    """Removes a report with all that belongs to it; gives whether it is gone, which it is not while it is in use."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            shutil.rmtree(folder)
    except (OSError, Timeout):
        return False
    return True


def export(person: str, *, base: str = "") -> str:
    """The report as one HTML file, pictures inside.

    Args:
        person: Whose report.
        base: Where the app is: "https://cnnviz.example.org"; empty where that is not known. Links are complete with it.
    """
    report = load(person)
    blocks: list[Block] = [Paragraph(report.problem, "note")] if report.problem else []
    for entry in report.entries:
        blocks += _blocks(person, entry, base)
    if report.entries and not base:
        blocks.append(Paragraph("The addresses of the screens begin where cnnviz runs.", "quiet"))
    count = len(report.entries)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return html_report.write(
        report.title, blocks, subtitle=f"{count} figure{'s' * (count != 1)}, made with cnnviz, {now}"
    )


def _blocks(person: str, entry: Entry, base: str) -> Iterator[Block]:
    yield Heading(entry.title)
    if entry.comment.strip():
        yield Paragraph(entry.comment.strip())
    try:
        yield Picture(picture(person, entry), entry.caption)
    except BadImage as error:
        yield Paragraph(str(error), "note")
    yield Settings({"made": datetime.fromtimestamp(entry.added, UTC).strftime("%Y-%m-%d %H:%M UTC"), **entry.settings})
    address = entry.link.address(base)
    if base:
        yield html_report.Link("Open this screen in cnnviz", address)
    else:
        yield Paragraph(f"Screen: {address}", "quiet")


def _changed(person: str, change: Callable[[Report], Report]) -> Report:
    with _locked(person) as folder:
        return _write(folder, change(_read(folder)))


@contextlib.contextmanager
def _locked(person: str) -> Iterator[Path]:
    """The person's folder, which no other window and no other process changes meanwhile."""
    folder = _folder(person)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=_LOCK_SECONDS)
        lock.acquire()
    except (OSError, Timeout) as error:
        raise store.storage_failed("Your report could not be kept in", error) from error
    try:
        yield folder
    finally:
        lock.release()


def _read(folder: Path) -> Report:
    path = folder / _INDEX
    try:
        raw = json.loads(path.read_bytes())
        title, written = raw["title"], raw["entries"]
        if not isinstance(title, str) or not isinstance(written, list):
            raise TypeError("another form")
    except FileNotFoundError:
        return Report()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return _recovered(folder)
    entries = [entry for one in written if (entry := _parsed(one))]
    lost = len(written) - len(entries)
    problem = f"{lost} of its figures could not be read from the disk and are left out." if lost else ""
    return Report(title, tuple(entries), problem)


def _recovered(folder: Path) -> Report:
    """What is left of a report whose list is damaged: its pictures, in the order in which they came."""
    found = []
    for path in _pictures(folder):
        with contextlib.suppress(OSError):
            found.append(Entry(path.stem, "A figure", added=path.stat().st_mtime, ending=path.suffix))
    found.sort(key=lambda entry: entry.added)
    return Report(
        entries=tuple(found[:MOST_ENTRIES]),
        problem="The list of your report was damaged on the disk; its pictures are here, but their titles, comments "
        "and links are lost.",
    )


def _parsed(raw: object) -> Entry | None:
    """An entry as the list has it; None for anything else."""
    try:
        entry = Entry(**raw)  # type: ignore[arg-type]
        links.check(entry.page, entry.params)
        datetime.fromtimestamp(entry.added, UTC)
        json.dumps(raw, ensure_ascii=False).encode()  # fails on half characters, which no file can hold
    except (TypeError, ValueError, OverflowError, OSError, BadLink):
        return None
    hints = typing.get_type_hints(Entry)
    is_whole = all(fits(getattr(entry, one.name), hints[one.name]) for one in fields(Entry))
    return entry if is_whole and _ENTRY_ID.fullmatch(entry.entry_id) and entry.ending in _STARTS else None


def _write(folder: Path, report: Report) -> Report:
    """Keeps a report; a damaged list stays beside it under another name, since it may be mended by hand."""
    if report.problem:
        with contextlib.suppress(OSError):
            shutil.copyfile(folder / _INDEX, folder / _DAMAGED)
    kept = replace(report, problem="")
    with store.written_aside(folder / _INDEX) as aside:
        aside.write_text(json.dumps({"title": kept.title, "entries": [asdict(one) for one in kept.entries]}), "utf-8")
    _drop_unlisted(folder, kept)
    return kept


def _drop_unlisted(folder: Path, report: Report) -> None:
    """Removes pictures that were taken out, once that cannot be undone any more."""
    listed = {f"{entry.entry_id}{entry.ending}" for entry in report.entries}
    before = time.time() - _UNDO_SECONDS
    for path in _pictures(folder):
        with contextlib.suppress(OSError):
            if path.name not in listed and path.stat().st_mtime < before:
                path.unlink()


def _pictures(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.*") if _ENTRY_ID.fullmatch(path.stem) and path.suffix in _STARTS]


def _check_room(folder: Path, report: Report, num_bytes: int) -> None:
    if len(report.entries) >= MOST_ENTRIES:
        raise BadSetting(f"A report holds up to {MOST_ENTRIES} figures; export it, then start a new one.")
    if _size(folder) + num_bytes > MOST_MB * _MB:
        raise BadSetting(f"A report holds up to {MOST_MB} MB; export it, then start a new one.")
    bound = settings.current().reports_mb
    if sum(map(_size, folders())) + num_bytes > bound * _MB:
        raise store.StorageFailed(
            f"The {bound:,} MB that this server has for reports (CNNVIZ_REPORTS_MB) are full. Take figures out of "
            "yours, or ask whoever hosts it for more room."
        )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _reports() -> Path:
    return settings.current().data_dir / "reports"


def _folder(person: str) -> Path:
    if not _PERSON.fullmatch(person):
        raise BadSetting("Nobody is known at this screen, so there is no report to keep; reload the page.")
    return _reports() / person


def _picture_path(folder: Path, entry: Entry) -> Path:
    if not _ENTRY_ID.fullmatch(entry.entry_id) or entry.ending not in _STARTS:
        raise BadSetting("There is no such figure in the report.")
    return folder / f"{entry.entry_id}{entry.ending}"
