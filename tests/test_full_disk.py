"""A disk that takes no more, at every door through which the app writes: said in a sentence, and nothing half remains.

The system itself refuses to let a file grow, in the middle of whatever writes it: Pillow, numpy, SQLite or Python.
"""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import reports, settings, store, visual_study
from cnnviz_core.collections import projections, scan, sources
from cnnviz_core.images import InputImage
from cnnviz_core.job_records import Details, Records
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Projection
from cnnviz_core.store import StorageFailed

ROOM_BYTES = 3000
PERSON = "guest-0123456789abcdef"


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may have more than a few thousand bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=folder))
    return folder


def png(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def zipped() -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/b.png", png())
    return file


def listed(folder: Path) -> None:
    pictures = folder.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    (pictures / "a.png").write_bytes(png(8))
    scan.scan(pictures, folder / "listing.sqlite")


def keep_map(_folder: Path) -> None:
    made = Projection(np.zeros((500, 2)), "pca", np.ones(2), 0.0, {})
    projections.save("bundled/photos", "vectors", {}, made, name="map", layer="a", network="n")


DOORS: dict[str, Callable[[Path, InputImage, LoadedModel], object]] = {
    "picture": lambda _folder, image, _model: store.save_picture(image),
    "weights": lambda _folder, _image, _model: store.save_checkpoint(bytes(9000), name="a.pth", architecture="b"),
    "collection": lambda _folder, _image, _model: sources.unpack_zip(zipped(), name="a.zip"),
    "bundled collection": lambda _folder, _image, _model: sources.locate("bundled/photos"),
    "listing": lambda folder, _image, _model: listed(folder),
    "map": lambda folder, _image, _model: keep_map(folder),
    "result": lambda folder, _image, _model: Records(folder / "jobs", results_mb=1).results.save("0" * 32, bytes(9000)),
    "record": lambda folder, _image, _model: (records := Records(folder / "jobs", results_mb=1)).save(
        records.begin("key", "x" * 9000, Details(), person="ada")
    ),
    "study": lambda _folder, image, model: visual_study._Shelf(model, "conv2")._keep(0, image.pixels),
    "report": lambda _folder, _image, _model: reports.add(PERSON, png(), title="figure"),
}


def visible(folder: Path) -> list[str]:
    """Files that count: not locks, nor notes of the last use."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".used")]


@pytest.mark.parametrize("door", list(DOORS))
def test_a_full_disk_is_said_and_leaves_nothing_half(
    door: str, data: Path, noise_image: Callable[..., InputImage], tiny_model: LoadedModel
) -> None:
    image = noise_image(64, 64)
    data.mkdir()
    with full_disk(), pytest.raises(StorageFailed, match=r"File too large.*CNNVIZ_DATA_DIR|disk.*CNNVIZ_DATA_DIR"):
        DOORS[door](data, image, tiny_model)
    assert [name for name in visible(data) if not name.startswith((".", "listing"))] == []
    DOORS[door](data, image, tiny_model)  # with room again it goes through
    assert visible(data)
