"""Uploaded pictures and checkpoints in the data folder, found again by digest.

Every file is written aside, flushed and renamed, so that a killed process leaves either the whole file or none. Nothing
here takes a path from a user: entries are named by digests, and a digest that is not one is not found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import PngImagePlugin

from cnnviz_core import settings
from cnnviz_core.errors import BadCheckpoint, BadImage, CnnvizError
from cnnviz_core.images import InputImage, open_image

_DIGEST = re.compile(r"[0-9a-f]{16}")
_CHECKPOINT_ID = re.compile(r"checkpoint/[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9a-f]{16}")
_CARD = "card.json"
USED = ".used"  # its time of change is when a collection or index was last used
_NOTED_EVERY_SECONDS = 60
# What numpy raises where a file of arrays that this package wrote is damaged; it is a ZIP.
DAMAGED_ARRAYS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,  # bytes in place of an array
    EOFError,
    SyntaxError,  # the head of an array is read as Python
    RuntimeError,  # as if it were encrypted, or compressed in a way that is not known
    MemoryError,  # a size out of nowhere
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class StorageFailed(CnnvizError):
    """The data folder cannot be written: full disk, missing rights."""


def short_digest(image: InputImage) -> str:
    """The 16 hexadecimal digits under which a picture is stored."""
    return image.digest[:16]


def save_picture(image: InputImage) -> str:
    """Keeps a picture for links, and drops the oldest ones beyond the setting ``uploads_mb``.

    Returns:
        Its short digest.

    Raises:
        StorageFailed: The data folder cannot be written.
    """
    digest = short_digest(image)
    path = _pictures() / f"{digest}.png"
    if path.exists():
        touch(path)
    else:
        name = PngImagePlugin.PngInfo()
        name.add_itxt("name", image.name)
        with written_aside(path, called=image.name) as aside:
            image.pil().save(aside, "PNG", pnginfo=name, compress_level=1)
    drop_oldest(_pictures(), "*.png", max_mb=settings.current().uploads_mb, keep=path)
    return digest


def open_picture(digest: str) -> InputImage:
    """A stored picture.

    Raises:
        BadImage: No such picture, or no longer.
    """
    path = _pictures() / f"{digest}.png"
    gone = BadImage("The link names an uploaded picture that this server does not keep any more; upload it again.")
    if not _DIGEST.fullmatch(digest):
        raise gone
    note_picture_use(digest)
    try:
        with PngImagePlugin.PngImageFile(path) as header:
            name = str(header.text.get("name", ""))
    except (OSError, SyntaxError, ValueError) as error:  # dropped, or damaged on the disk
        raise gone from error
    return open_image(path, name=name)


def note_picture_use(digest: str) -> None:
    """Takes note that a stored picture is in use, for dropping the longest unused."""
    if _DIGEST.fullmatch(digest):
        touch(_pictures() / f"{digest}.png")


def note_use(folder: Path) -> None:
    """Takes note that a collection or index is in use; to the minute, so that it may be asked of in every run."""
    path = folder / USED
    with contextlib.suppress(OSError):
        if not path.exists() or time.time() - path.stat().st_mtime > _NOTED_EVERY_SECONDS:
            path.touch()


@dataclass(frozen=True)
class Card:
    """What a stored checkpoint is.

    Attributes:
        checkpoint_id: "checkpoint/<name>-<digest>".
        name: The file's name as uploaded.
        architecture: Catalogue id of the network that it fits.
        file: File name inside the checkpoint's folder.
        class_names: One per class; empty for the published ones.
        preprocessing: Fields of Preprocessing that differ from the published ones.
        training: How it was trained here: base, collection, settings, scores; empty for an uploaded one.
    """

    checkpoint_id: str
    name: str
    architecture: str
    file: str
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, object] = field(default_factory=dict)
    training: dict[str, object] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The weights file."""
        return _folder(self.checkpoint_id) / self.file


def save_checkpoint(
    content: bytes,
    *,
    name: str,
    architecture: str,
    class_names: Sequence[str] = (),
    preprocessing: dict[str, object] | None = None,
    training: dict[str, object] | None = None,
) -> Card:
    """Keeps a weights file and what is known of it. The card is written last: without it the folder does not count.

    Raises:
        BadCheckpoint: Larger than the setting ``max_checkpoint_mb``.
        StorageFailed: The data folder cannot be written, or the setting ``checkpoints_mb`` leaves no room.
    """
    bound = settings.current().max_checkpoint_mb
    if len(content) > bound * 2**20:
        raise BadCheckpoint(f"{name} has {len(content) / 2**20:.0f} MB; this server takes up to {bound} MB.")
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).stem).strip("-.")[:40]
    described = json.dumps([architecture, list(class_names), preprocessing or {}], sort_keys=True).encode()
    digest = hashlib.blake2b(content, digest_size=8)
    digest.update(described)
    suffix = ".safetensors" if name.lower().endswith(".safetensors") else ".pth"
    card = Card(
        checkpoint_id=f"checkpoint/{stem or 'network'}-{digest.hexdigest()}",
        name=name,
        architecture=architecture,
        file=f"{stem or 'network'}{suffix}",
        class_names=tuple(class_names),
        preprocessing=dict(preprocessing or {}),
        training=dict(training or {}),
    )
    if _read_card(card.path.parent / _CARD) is not None and card.path.exists():
        return card
    _check_room(len(content), name)
    try:
        with written_aside(card.path, called=name) as aside:
            aside.write_bytes(content)
        with written_aside(card.path.parent / _CARD) as aside:
            aside.write_text(json.dumps(asdict(card)), encoding="utf-8")
    except StorageFailed:
        with contextlib.suppress(OSError):  # a full disk has no room for weights without a card
            card.path.unlink(missing_ok=True)
            card.path.parent.rmdir()
        raise
    return card


def _check_room(num_bytes: int, name: str) -> None:
    bound = settings.current().checkpoints_mb
    taken = 0
    for path in _checkpoints().glob("*/*"):
        with contextlib.suppress(OSError):  # another session may be writing it
            taken += path.stat().st_size
    if taken + num_bytes > bound * 2**20:
        raise StorageFailed(
            f"{name} does not fit into the {bound:,} MB that this server has for weights files "
            "(CNNVIZ_CHECKPOINTS_MB). Remove one on the page Networks first."
        )


def checkpoints() -> list[Card]:
    """The stored checkpoints, by id; one whose card cannot be read does not count."""
    cards = [_read_card(path) for path in sorted(_checkpoints().glob(f"*/{_CARD}"))]
    return [card for card in cards if card is not None]


def checkpoint(checkpoint_id: str) -> Card:
    """The card of a stored checkpoint.

    Raises:
        BadCheckpoint: No such checkpoint.
    """
    card = _read_card(_folder(checkpoint_id) / _CARD) if _CHECKPOINT_ID.fullmatch(checkpoint_id) else None
    if card is None:
        raise BadCheckpoint(f"This server keeps no checkpoint {checkpoint_id!r}; upload it on the page Networks.")
    return card


def delete_checkpoint(checkpoint_id: str) -> None:
    """Removes a stored checkpoint; the card goes first, so that what is left no longer counts.

    Raises:
        BadCheckpoint: No such checkpoint.
        StorageFailed: The data folder cannot be written.
    """
    card = checkpoint(checkpoint_id)
    try:
        for path in (card.path.parent / _CARD, card.path):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_failed(f"{card.name} could not be removed from", error) from error
    with contextlib.suppress(OSError):
        card.path.parent.rmdir()


def _read_card(path: Path) -> Card | None:
    """The card in a file; None where there is none, or something else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        card = Card(**{**fields, "class_names": tuple(fields["class_names"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    is_whole = all(isinstance(text, str) for text in (card.name, card.architecture, card.file, *card.class_names))
    return card if is_whole and card.checkpoint_id == f"checkpoint/{path.parent.name}" else None


def _pictures() -> Path:
    return settings.current().data_dir / "pictures"


def _checkpoints() -> Path:
    return settings.current().data_dir / "checkpoints"


def _folder(checkpoint_id: str) -> Path:
    return _checkpoints() / checkpoint_id.removeprefix("checkpoint/")


@contextlib.contextmanager
def written_aside(path: Path, *, called: str = "") -> Iterator[Path]:
    """A temporary file beside the wanted one, renamed to it once it is whole and on disk.

    Args:
        path: The wanted one.
        called: What to call it where it cannot be written; empty takes its name.

    Raises:
        StorageFailed: It cannot be written there.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, raw = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        os.close(handle)
        aside = Path(raw)
        yield aside
        with aside.open("r+b") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except OSError as error:
        raise storage_failed(f"{called or path.name} could not be kept in", error) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def storage_failed(what: str, error: Exception) -> StorageFailed:
    """The error to raise where the data folder cannot be written.

    Args:
        what: Start of the sentence: "cats.zip could not be kept in".
        error: What the system, or SQLite, said.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageFailed(
        f"{what} the data folder ({reason}); free some space or set CNNVIZ_DATA_DIR to a folder that can be written."
    )


def drop_oldest(folder: Path, pattern: str, *, max_mb: int, keep: Path | None = None) -> None:
    """Removes files until the rest needs no more room than given; those not used for longest go first.

    Args:
        folder: Where they are.
        pattern: Which of its files count.
        max_mb: Room for all of them.
        keep: One that stays.
    """
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another session may drop it at the same time
            found.append((path.stat(), path))
    room = max_mb * 2**20
    for status, path in sorted(found, key=lambda item: -item[0].st_mtime):
        room -= status.st_size
        if room < 0 and path != keep:
            with contextlib.suppress(OSError):
                path.unlink()


def touch(path: Path) -> None:
    """Notes a file's last use, for dropping the oldest."""
    with contextlib.suppress(OSError):
        os.utime(path)
