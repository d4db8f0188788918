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
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image, PngImagePlugin

from cnnviz_core import settings
from cnnviz_core.errors import BadCheckpoint, BadImage, CnnvizError
from cnnviz_core.images import InputImage, open_image

_DIGEST = re.compile(r"[0-9a-f]{16}")
_CARD = "card.json"


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
    if not path.exists():
        name = PngImagePlugin.PngInfo()
        name.add_itxt("name", image.name)
        with _written_aside(path) as aside:
            image.pil().save(aside, "PNG", pnginfo=name, compress_level=1)
    _drop_oldest(keep=path)
    return digest


def open_picture(digest: str) -> InputImage:
    """A stored picture.

    Raises:
        BadImage: No such picture, or no longer.
    """
    path = _pictures() / f"{digest}.png"
    if not _DIGEST.fullmatch(digest) or not path.is_file():
        raise BadImage("The link names an uploaded picture that this server does not keep any more; upload it again.")
    with contextlib.suppress(OSError):
        os.utime(path)  # its last use, for dropping the oldest
    with Image.open(path, formats=["PNG"]) as header:
        name = str(getattr(header, "text", {}).get("name", "")) or path.name
    return open_image(path, name=name)


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
    """

    checkpoint_id: str
    name: str
    architecture: str
    file: str
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, object] = field(default_factory=dict)

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
) -> Card:
    """Keeps a weights file and what is known of it. The card is written last: without it the folder does not count.

    Raises:
        BadCheckpoint: Larger than the setting ``max_checkpoint_mb``.
        StorageFailed: The data folder cannot be written.
    """
    bound = settings.current().max_checkpoint_mb
    if len(content) > bound * 2**20:
        raise BadCheckpoint(f"{name} has {len(content) / 2**20:.0f} MB; this server takes up to {bound} MB.")
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).stem).strip("-.")[:40] or "network"
    described = json.dumps([architecture, list(class_names), preprocessing or {}], sort_keys=True).encode()
    digest = hashlib.blake2b(content + described, digest_size=8).hexdigest()
    suffix = ".safetensors" if name.endswith(".safetensors") else ".pth"
    card = Card(
        checkpoint_id=f"checkpoint/{stem}-{digest}",
        name=name,
        architecture=architecture,
        file=f"weights{suffix}",
        class_names=tuple(class_names),
        preprocessing=dict(preprocessing or {}),
    )
    with _written_aside(card.path) as aside:
        aside.write_bytes(content)
    with _written_aside(card.path.parent / _CARD) as aside:
        aside.write_text(json.dumps(asdict(card)), encoding="utf-8")
    return card


def checkpoints() -> list[Card]:
    """The stored checkpoints, by id."""
    return [_read_card(path) for path in sorted(_checkpoints().glob(f"*/{_CARD}"))]


def checkpoint(checkpoint_id: str) -> Card:
    """The card of a stored checkpoint.

    Raises:
        BadCheckpoint: No such checkpoint.
    """
    path = _folder(checkpoint_id) / _CARD
    if path not in set(_checkpoints().glob(f"*/{_CARD}")):
        raise BadCheckpoint(f"This server keeps no checkpoint {checkpoint_id!r}; upload it on the page Networks.")
    return _read_card(path)


def delete_checkpoint(checkpoint_id: str) -> None:
    """Removes a stored checkpoint; the card goes first, so that what is left no longer counts."""
    card = checkpoint(checkpoint_id)
    for path in (card.path.parent / _CARD, card.path):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        card.path.parent.rmdir()


def _read_card(path: Path) -> Card:
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Card(**{**fields, "class_names": tuple(fields["class_names"])})


def _pictures() -> Path:
    return settings.current().data_dir / "pictures"


def _checkpoints() -> Path:
    return settings.current().data_dir / "checkpoints"


def _folder(checkpoint_id: str) -> Path:
    return _checkpoints() / checkpoint_id.removeprefix("checkpoint/").replace("/", "-")


@contextlib.contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A temporary file beside the wanted one, renamed to it once it is whole and on disk."""
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, raw = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        os.close(handle)
        aside = Path(raw)
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageFailed(
            f"{path.name} could not be kept in the data folder ({reason}); free some space or set CNNVIZ_DATA_DIR to a "
            "folder that can be written."
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def _drop_oldest(keep: Path) -> None:
    newest_first = sorted(_pictures().glob("*.png"), key=lambda path: -path.stat().st_mtime)
    room = settings.current().uploads_mb * 2**20
    for path in newest_first:
        room -= path.stat().st_size
        if room < 0 and path != keep:
            path.unlink(missing_ok=True)
