"""The data folder's bounds: what goes, in which order, and what stays."""

from __future__ import annotations

import io
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from cnnviz_core import collections, settings, store, upkeep
from cnnviz_core.collections import indexing, sources
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel
from cnnviz_core.settings import Settings

DAY = 24 * 3600
MB = 2**20


@pytest.fixture
def bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the settings: ``bounds(retention_days=3)``."""

    def change(**changed: int) -> None:
        chosen = Settings(data_dir=tmp_path, **changed)  # type: ignore[arg-type]
        monkeypatch.setattr(settings, "current", lambda: chosen)

    change()
    return change


def bring(name: str, *, mb: float = 0.1, days_ago: float = 0) -> str:
    """A collection of one picture of noise that was last used some days ago."""
    side = max(8, int((mb * MB / 3) ** 0.5))
    noise = np.random.default_rng(len(name)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file, packed = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}.png", file.getvalue())
    packed.seek(0)
    collection_id = sources.unpack_zip(packed, name=f"{name}.zip").collection_id
    collections.open_by_id(collection_id)
    used(sources.home(collection_id), days_ago)
    return collection_id


def used(folder: Path, days_ago: float) -> None:
    when = time.time() - days_ago * DAY
    (folder / store.USED).touch()
    os.utime(folder / store.USED, (when, when))


def kept() -> set[str]:
    return {card.title.removesuffix(".zip") for card in sources.added()}


def test_without_a_retention_nothing_gets_too_old(bounds: Callable[..., None]) -> None:
    bring("old", days_ago=4000)
    upkeep.sweep()
    assert kept() == {"old"}


def test_what_was_unused_for_longer_goes(bounds: Callable[..., None], noise_image: Callable[..., InputImage]) -> None:
    bounds(retention_days=7)
    bring("old", days_ago=8)
    bring("fresh", days_ago=6)
    digests = [store.save_picture(noise_image(8, 8, seed=seed)) for seed in range(2)]
    ago = time.time() - 8 * DAY
    os.utime(settings.current().data_dir / "pictures" / f"{digests[0]}.png", (ago, ago))
    upkeep.sweep()
    assert kept() == {"fresh"}
    assert store.open_picture(digests[1])
    with pytest.raises(store.BadImage, match="does not keep any more"):
        store.open_picture(digests[0])


def test_pictures_of_studies_go_too(bounds: Callable[..., None], tmp_path: Path) -> None:
    bounds(retention_days=7)
    paths = [tmp_path / "visualisations" / "layer" / name for name in ("1.npz", "2.npz", ".part-2.npz")]
    paths[0].parent.mkdir(parents=True)
    for path, days_ago in zip(paths, (8, 6, 2), strict=True):
        path.touch()
        os.utime(path, (time.time() - days_ago * DAY,) * 2)
    upkeep.sweep()
    assert [path.exists() for path in paths] == [False, True, False]


def test_looking_at_it_counts_as_use(bounds: Callable[..., None], noise_image: Callable[..., InputImage]) -> None:
    bounds(retention_days=7)
    collection_id = bring("old", days_ago=8)
    digest = store.save_picture(noise_image(8, 8))
    ago = time.time() - 8 * DAY
    os.utime(settings.current().data_dir / "pictures" / f"{digest}.png", (ago, ago))
    collections.open_by_id(collection_id)
    store.note_picture_use(digest)
    upkeep.sweep()
    assert kept() == {"old"}
    assert store.open_picture(digest)


def test_beyond_the_space_the_longest_unused_goes_first(bounds: Callable[..., None]) -> None:
    bounds(collections_mb=3)
    for days_ago, name in enumerate(["one", "three", "seven", "eleven"]):
        bring(name, mb=1.2, days_ago=days_ago + 1)
    upkeep.sweep()
    assert kept() == {"one", "three"}


def test_what_is_in_use_stays_and_nothing_more_is_taken(bounds: Callable[..., None]) -> None:
    bounds(collections_mb=2)
    bring("one", mb=1.2)
    bring("three", mb=1.2)
    upkeep.sweep()
    assert kept() == {"one", "three"}
    with pytest.raises(store.StorageFailed, match="CNNVIZ_COLLECTIONS_MB"):
        upkeep.make_room()


def test_room_is_made_for_what_comes(bounds: Callable[..., None]) -> None:
    bounds(collections_mb=3)
    bring("one", mb=1.2, days_ago=1)
    bring("three", mb=1.2, days_ago=2)
    upkeep.make_room(0)
    assert kept() == {"one", "three"}
    upkeep.make_room(1 * MB)
    assert kept() == {"one"}


def test_indexes_go_one_by_one_and_are_made_again(bounds: Callable[..., None], tiny_model: LoadedModel) -> None:
    bounds(retention_days=7)
    collection = collections.open_by_id(bring("some"))
    for layer in ("conv1", "conv2"):
        collection.index(tiny_model, layer=layer)
    old, new = indexing.folders()
    used(old, 8)
    used(new, 1)
    upkeep.sweep()
    assert indexing.folders() == [new]
    assert collection.index(tiny_model, layer="conv1").is_complete
    assert collection.index(tiny_model, layer="conv2").is_complete


def test_an_index_that_is_being_written_stays_with_its_collection(
    bounds: Callable[..., None], tiny_model: LoadedModel
) -> None:
    bounds(retention_days=7)
    collection_id = bring("some")
    collections.open_by_id(collection_id).index(tiny_model, layer="conv1")
    (folder,) = indexing.folders()
    for unused in (folder, sources.home(collection_id)):
        used(unused, 8)
    with FileLock(folder / ".lock"):
        upkeep.sweep()
        assert indexing.folders() == [folder]
        assert kept() == {"some"}
    upkeep.sweep()
    assert not indexing.folders()
    assert not kept()


def test_a_collection_whose_index_is_in_use_stays(bounds: Callable[..., None], tiny_model: LoadedModel) -> None:
    bounds(retention_days=7)
    collection = collections.open_by_id(bring("some"))
    collection.index(tiny_model, layer="conv1")
    used(sources.home(collection.collection_id), 8)
    indexing.stamp(collection, tiny_model, layer="conv1")
    upkeep.sweep()
    assert kept() == {"some"}


def test_bundled_sets_and_weights_stay(bounds: Callable[..., None], tmp_path: Path) -> None:
    bounds(retention_days=1, collections_mb=1)
    home = tmp_path / "collections" / "bundled-photos"
    (home / "files").mkdir(parents=True)
    used(home, 100)
    weights = tmp_path / "checkpoints" / "net-0123456789abcdef" / "net.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"0" * MB)
    os.utime(weights, (0, 0))
    upkeep.sweep()
    assert home.exists()
    assert weights.exists()


def test_left_overs_go_after_a_day(bounds: Callable[..., None], tmp_path: Path) -> None:
    places = ("pictures/.part-a", 2), ("pictures/.part-b", 0), ("indexes/x/.gone-c", 2), ("visualisations/x/.part-d", 2)
    for place, days_ago in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if "gone" in place else path.write_text("half")
        when = time.time() - days_ago * DAY
        os.utime(path, (when, when))
    upkeep.sweep()
    assert [path.name for path in tmp_path.glob("**/.*") if path.exists()] == [".part-b"]


def test_the_space_for_weights_is_bounded(bounds: Callable[..., None]) -> None:
    bounds(checkpoints_mb=1)
    card = store.save_checkpoint(b"1" * (MB // 2), name="a.pth", architecture="timm/resnet18")
    with pytest.raises(store.StorageFailed, match=r"b\.pth does not fit into the 1 MB .*CNNVIZ_CHECKPOINTS_MB"):
        store.save_checkpoint(b"2" * MB, name="b.pth", architecture="timm/resnet18")
    assert [one.checkpoint_id for one in store.checkpoints()] == [card.checkpoint_id]
    store.delete_checkpoint(card.checkpoint_id)
    assert store.save_checkpoint(b"2" * (MB - 4096), name="b.pth", architecture="timm/resnet18")


def test_disk_use_is_told_by_kind(bounds: Callable[..., None], noise_image: Callable[..., InputImage]) -> None:
    store.save_picture(noise_image(64, 64))
    bring("some", mb=0.5)
    told = upkeep.disk_use()
    assert set(told) == {"collections", "pictures"}
    assert told["collections"] > 0.5 * MB > told["pictures"] > 1000
    shutil.rmtree(settings.current().data_dir)
    assert upkeep.disk_use() == {}
