"""The data folder: round trips, names that cannot lead outside it, and what a full disk or a killed process leaves."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import images, settings, store
from cnnviz_core.errors import BadCheckpoint, BadImage
from cnnviz_core.images import InputImage
from cnnviz_core.settings import Settings
from cnnviz_core.store import StorageFailed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    configure(monkeypatch, data_dir=tmp_path / "data")
    return tmp_path / "data"


def configure(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    changed = Settings(**values)  # type: ignore[arg-type]
    monkeypatch.setattr(settings, "current", lambda: changed)


def picture(seed: int, *, side: int = 20, name: str = "") -> InputImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    return images.from_pixels(pixels, name=name or f"picture {seed}")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
    """From the given number of successful writes on, the disk is full: half of the content, then an error."""
    whole, left = os.fsync, [after]

    def fsync(handle: int) -> None:
        if left[0] == 0:
            os.truncate(handle, os.fstat(handle).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)


class TestPictures:
    def test_come_back_with_pixels_name_and_digest(self) -> None:
        image = picture(1, name="Ferien – à la mer.jpg")
        digest = store.save_picture(image)
        again = store.open_picture(digest)
        np.testing.assert_array_equal(again.pixels, image.pixels)
        assert (again.name, again.digest) == (image.name, image.digest)
        assert image.digest.startswith(digest)
        assert len(digest) == 16

    def test_are_kept_once(self, folder: Path) -> None:
        digests = {store.save_picture(picture(1)), store.save_picture(picture(1, name="again"))}
        assert files(folder) == [f"pictures/{digests.pop()}.png"]
        assert not digests

    @pytest.mark.parametrize(
        "digest", ["", "0" * 16, "0" * 15, "../../etc/passwd", "..", "0123456789abcde/", "0123456789ABCDEF", "%2e%2e"]
    )
    def test_others_are_not_found(self, digest: str) -> None:
        with pytest.raises(BadImage, match="upload it again"):
            store.open_picture(digest)

    def test_a_name_outside_the_folder_is_refused_even_if_it_exists(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "secret.png").write_bytes(Path(store.__file__).read_bytes())
        (folder / "pictures").mkdir()
        with pytest.raises(BadImage, match="upload it again"):
            store.open_picture("../secret")

    def test_one_damaged_on_the_disk_is_not_found(self, folder: Path) -> None:
        digest = store.save_picture(picture(1))
        (folder / "pictures" / f"{digest}.png").write_bytes(b"no picture")
        with pytest.raises(BadImage, match="upload it again"):
            store.open_picture(digest)

    def test_larger_than_pillow_likes_still_opens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        digest = store.save_picture(picture(1, side=60))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert store.open_picture(digest).height == 60

    def test_the_oldest_go_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved = [store.save_picture(picture(seed, side=420)) for seed in range(3)]  # about 0.5 MB each
        for age, digest in zip((30, 20, 10), saved, strict=True):
            path = folder / "pictures" / f"{digest}.png"
            os.utime(path, (path.stat().st_mtime - age,) * 2)
        store.open_picture(saved[0])  # used now, so the second is the oldest
        configure(monkeypatch, data_dir=folder, uploads_mb=2)
        newest = store.save_picture(picture(9, side=420))
        assert {Path(name).stem for name in files(folder)} == {saved[0], saved[2], newest}

    def test_saving_again_counts_as_use(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved = [store.save_picture(picture(seed, side=400)) for seed in range(3)]
        for digest in saved:
            path = folder / "pictures" / f"{digest}.png"
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
        store.save_picture(picture(0, side=400))
        configure(monkeypatch, data_dir=folder, uploads_mb=1)
        newest = store.save_picture(picture(9, side=400))
        assert {Path(name).stem for name in files(folder)} == {saved[0], newest}

    def test_without_any_room_the_last_one_stays(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=folder, uploads_mb=0)
        store.save_picture(picture(1))
        last = store.save_picture(picture(2))
        assert files(folder) == [f"pictures/{last}.png"]

    def test_a_full_disk_leaves_nothing_behind(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill_the_disk(monkeypatch)
        with pytest.raises(StorageFailed, match=r"No space left.*CNNVIZ_DATA_DIR"):
            store.save_picture(picture(1))
        assert files(folder) == []

    def test_a_data_folder_that_is_a_file_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        configure(monkeypatch, data_dir=tmp_path / "file")
        with pytest.raises(StorageFailed, match="CNNVIZ_DATA_DIR"):
            store.save_picture(picture(1))

    def test_many_sessions_at_once(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=folder, uploads_mb=1)
        failed: list[BaseException] = []

        def session(number: int) -> None:
            try:
                for seed in range(6):
                    store.save_picture(picture(seed + number % 2, side=250))
                    with_luck = picture(seed, side=250).digest[:16]
                    try:
                        store.open_picture(with_luck)
                    except BadImage:  # dropped by another session meanwhile
                        continue
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=session, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert all(name.endswith(".png") for name in files(folder))


def test_the_file_that_was_flushed_is_the_one_put_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed whole, not copied: a reader or a killed process never meets half of it."""
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    digest = store.save_picture(picture(1))
    card = store.save_checkpoint(b"w", name="a.pth", architecture="timm/a")
    put = [folder / "pictures" / f"{digest}.png", card.path, card.path.parent / "card.json"]
    assert [path.stat().st_ino for path in put] == flushed


class TestCheckpoints:
    def test_come_back_with_everything_known_of_them(self) -> None:
        card = store.save_checkpoint(
            b"weights",
            name="my net (final).SafeTensors",
            architecture="timm/resnet18",
            class_names=("cat", "dog"),
            preprocessing={"input_px": (64, 64), "mean": (0.5,)},
        )
        assert card.path.read_bytes() == b"weights"
        assert card.path.suffix == ".safetensors"
        assert card.checkpoint_id.startswith("checkpoint/my-net-final-")
        (listed,) = store.checkpoints()
        assert (listed.name, listed.architecture, listed.class_names) == (card.name, card.architecture, ("cat", "dog"))
        assert store.checkpoint(card.checkpoint_id) == listed
        assert {key: tuple(value) for key, value in listed.preprocessing.items()} == card.preprocessing  # type: ignore[call-overload]

    def test_the_same_file_described_otherwise_is_another(self) -> None:
        ids = {
            store.save_checkpoint(b"w", name="a.pth", architecture=architecture, class_names=names).checkpoint_id
            for architecture, names in (("timm/a", ()), ("timm/b", ()), ("timm/a", ("x",)))
        }
        assert len(ids) == 3
        assert [card.checkpoint_id for card in store.checkpoints()] == sorted(ids)

    def test_saved_twice_is_kept_once(self, folder: Path) -> None:
        cards = [store.save_checkpoint(b"w", name="a.pth", architecture="timm/a") for _ in range(2)]
        assert cards[0] == cards[1]
        assert len(files(folder)) == 2

    @pytest.mark.parametrize("name", ["../../../etc/passwd", "..", ".hidden", "---", "a/b\\c:d.pth", "", "雪.pth"])
    def test_no_name_leads_outside_the_folder(self, name: str, folder: Path) -> None:
        card = store.save_checkpoint(b"w", name=name, architecture="timm/a")
        assert card.path.resolve().parent.parent == (folder / "checkpoints").resolve()
        assert store.checkpoint(card.checkpoint_id).path == card.path

    @pytest.mark.parametrize(
        "checkpoint_id",
        [
            "",
            "checkpoint/",
            "checkpoint/none-0123456789abcdef",
            "checkpoint/..",
            "checkpoint/../escape-0123456789abcdef",
            "checkpoint/x/../escape-0123456789abcdef",
            "escape-0123456789abcdef",
            "/etc",
        ],
    )
    def test_others_are_not_found(self, checkpoint_id: str, folder: Path) -> None:
        card = store.save_checkpoint(b"w", name="escape", architecture="timm/a")
        escaped = folder / "escape-0123456789abcdef"
        card.path.parent.rename(escaped)  # one level above the checkpoints
        with pytest.raises(BadCheckpoint, match="Networks"):
            store.checkpoint(checkpoint_id)

    def test_too_large_is_refused_with_both_sizes(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=folder, max_checkpoint_mb=1)
        with pytest.raises(BadCheckpoint, match=r"big\.pth has 2 MB; this server takes up to 1 MB"):
            store.save_checkpoint(bytes(2**21), name="big.pth", architecture="timm/a")
        assert not folder.exists()

    def test_removed_it_is_gone_with_its_folder(self, folder: Path) -> None:
        card = store.save_checkpoint(b"w", name="a.pth", architecture="timm/a")
        store.delete_checkpoint(card.checkpoint_id)
        assert store.checkpoints() == []
        assert not list((folder / "checkpoints").iterdir())
        with pytest.raises(BadCheckpoint, match="keeps no checkpoint"):
            store.delete_checkpoint(card.checkpoint_id)

    def test_one_that_cannot_be_removed_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = store.save_checkpoint(b"w", name="a.pth", architecture="timm/a")

        def refuse(path: Path, *, missing_ok: bool) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(StorageFailed, match=r"a\.pth could not be removed .*Permission denied"):
            store.delete_checkpoint(card.checkpoint_id)

    def test_killed_between_weights_and_card_it_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Killed(BaseException):
            pass

        def killed(*_args: object, **_kwargs: object) -> str:
            raise Killed

        monkeypatch.setattr(store.json, "dumps", lambda *a, **k: "{}" if k.get("sort_keys") else killed())
        with pytest.raises(Killed):
            store.save_checkpoint(b"w", name="a.pth", architecture="timm/a")
        monkeypatch.undo()
        assert store.checkpoints() == []

    @pytest.mark.parametrize("writes", [0, 1], ids=["at the weights", "at the card"])
    def test_a_full_disk_leaves_nothing_behind(
        self, writes: int, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill_the_disk(monkeypatch, after=writes)
        with pytest.raises(StorageFailed, match="No space left"):
            store.save_checkpoint(b"weights" * 100, name="a.pth", architecture="timm/a")
        assert store.checkpoints() == []
        assert files(folder) == []
        assert not list((folder / "checkpoints").iterdir())

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"{}",
            b"\xff\xfe",
            b'{"class_names": []}',
            b'{"class_names": null, "checkpoint_id": "x"}',
            json.dumps(
                {"checkpoint_id": "checkpoint/b", "name": "b", "architecture": "x", "file": "f", "class_names": []}
            ).encode(),
            json.dumps({"checkpoint_id": "x", "name": "b", "of": "a later version", "class_names": []}).encode(),
        ],
    )
    def test_a_broken_card_does_not_hide_the_others(self, content: bytes) -> None:
        whole = store.save_checkpoint(b"w", name="whole.pth", architecture="timm/a")
        broken = store.save_checkpoint(b"w", name="broken.pth", architecture="timm/a")
        (broken.path.parent / "card.json").write_bytes(content)
        assert store.checkpoints() == [whole]
        with pytest.raises(BadCheckpoint, match="keeps no checkpoint"):
            store.checkpoint(broken.checkpoint_id)
        again = store.save_checkpoint(b"w", name="broken.pth", architecture="timm/a")
        assert store.checkpoint(again.checkpoint_id) == broken

    def test_many_sessions_save_the_same_one(self) -> None:
        cards: list[store.Card] = []
        content = bytes(range(256)) * 2000

        def session() -> None:
            cards.append(store.save_checkpoint(content, name="a.pth", architecture="timm/a"))

        threads = [threading.Thread(target=session) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cards) == 8
        assert store.checkpoints() == [cards[0]]
        assert cards[0].path.read_bytes() == content
        assert sorted(path.name for path in cards[0].path.parent.iterdir()) == ["a.pth", "card.json"]
