"""Collections as the app opens them: by id or folder, their pictures and masks, and what changed under the app."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import collections, images, settings
from cnnviz_core.collections import Available, Collection, scan, sources
from cnnviz_core.errors import BadCollection, BadImage
from cnnviz_core.results import Step
from cnnviz_core.settings import Settings
from cnnviz_core.store import StorageFailed


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own, and a root to open folders below."""
    changed = Settings(data_dir=tmp_path / "data", collection_roots=(tmp_path / "root",))
    monkeypatch.setattr(settings, "current", lambda: changed)
    monkeypatch.setattr(sources, "_flush", lambda: None)  # waits for whatever else this machine writes
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of pets, one of them broken."""
    folder = tmp_path / "root" / "pets"
    put(folder, "cat/a.png", pixels(1))
    put(folder, "dog/b.png", pixels(2))
    (folder / "dog" / "broken.png").write_bytes(b"text")
    return folder


def pixels(seed: int, *, height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def put(folder: Path, path: str, array: np.ndarray) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return file


def packed(*names: str) -> io.BytesIO:
    stream, picture = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels(3)).save(picture, "PNG")
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, picture.getvalue())
    return stream


class TestOpening:
    def test_a_folder_is_scanned_once_and_nothing_is_written_into_it(
        self, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = sorted(folder.rglob("*"))
        steps: list[Step] = []
        collection = collections.open_collection(folder, on_step=steps.append)
        assert steps == [Step(3, 3)]
        assert (collection.title, collection.folder) == ("pets", folder)
        assert collection.collection_id == sources.folder_id(folder)
        assert collection.database.is_relative_to(data)
        assert [(picture.path, picture.label) for picture in collection.pictures()] == [
            ("cat/a.png", "cat"),
            ("dog/b.png", "dog"),
        ]
        assert [problem.path for problem in collection.problems()] == ["dog/broken.png"]
        assert sorted(folder.rglob("*")) == before
        monkeypatch.setattr(scan, "scan", lambda *_, **__: pytest.fail("scanned again"))
        assert collections.open_collection(str(folder)) == collection

    def test_one_folder_is_one_collection_whatever_the_way(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(folder)
        monkeypatch.chdir(tmp_path)
        ways: list[str | Path] = [folder, str(folder), tmp_path / "link", Path("root/pets"), "root/../root/pets"]
        opened = {collections.open_collection(way) for way in ways}
        assert len(opened) == 1
        assert collections.open_by_id(opened.pop().collection_id).folder == folder

    def test_one_that_looks_like_an_id_is_opened_as_a_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, "zip/pets/a.png", pixels(1))
        monkeypatch.chdir(tmp_path)
        assert len(collections.open_collection(Path("zip/pets")).pictures()) == 1
        with pytest.raises(BadCollection, match="bring it again"):
            collections.open_collection("zip/pets")

    def test_folders_outside_the_roots_are_for_python_alone(self, tmp_path: Path) -> None:
        put(tmp_path, "outside/a.png", pixels(1))
        collection = collections.open_collection(tmp_path / "outside")
        assert len(collection.pictures()) == 1
        for way in (collections.open_by_id, collections.open_collection):
            with pytest.raises(BadCollection, match="CNNVIZ_COLLECTION_ROOTS"):
                way(collection.collection_id)

    @pytest.mark.parametrize("given", ["/etc", "..", "bundled/../..", "", "nowhere"])
    def test_by_id_no_path_is_opened(self, given: str) -> None:
        with pytest.raises(BadCollection, match="There is no collection"):
            collections.open_by_id(given)

    def test_a_bundled_set_is_written_out_and_scanned(self) -> None:
        collection = collections.open_collection("bundled/tiles")
        assert len(collection.pictures()) == 366
        assert len({picture.digest for picture in collection.pictures()}) > 350
        assert len({picture.label for picture in collection.pictures()}) == 7
        assert collection.problems() == ()
        assert collection.open(collection.pictures()[0]).height == 80

    def test_a_scan_that_did_not_end_goes_on(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scan, "_BATCH", 1)

        class Cancelled(Exception):
            pass

        def cancel(step: Step) -> None:
            raise Cancelled

        with pytest.raises(Cancelled):
            collections.open_collection(folder, on_step=cancel)
        assert len(collections.open_collection(folder).pictures()) == 2

    def test_a_missing_folder_is_said(self, tmp_path: Path) -> None:
        for way in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
            with pytest.raises(BadCollection, match="There is no folder"):
                collections.open_collection(way)

    def test_a_folder_that_went_away_is_said(self, folder: Path) -> None:
        collection = collections.open_collection(folder)
        folder.rename(folder.with_name("moved"))
        with pytest.raises(BadCollection, match="pets cannot be read"):
            collection.scan()
        with pytest.raises(BadCollection, match="There is no folder"):
            collections.open_by_id(collection.collection_id)
        assert len(collection.pictures()) == 2

    def test_a_collection_can_be_pickled(self, folder: Path) -> None:
        collection = collections.open_collection(folder)
        again = pickle.loads(pickle.dumps((collection, collection.pictures())))
        assert again == (collection, collection.pictures())


class TestEmpty:
    @pytest.mark.parametrize(
        ("files", "sentence"),
        [
            ({}, "root holds no picture files; put PNG"),
            ({"a.txt": b"text", "b/c.md": b"text"}, "root holds no picture files; put PNG"),
            (
                {"a.png": b"text", "b.png": b""},
                "None of the 2 picture files in root can be read. The first, a.png: a.png is",
            ),
        ],
    )
    def test_opens_and_says_why(self, files: dict[str, bytes], sentence: str, tmp_path: Path) -> None:
        for path, content in files.items():
            (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / path).write_bytes(content)
        (tmp_path / "root").mkdir(exist_ok=True)
        collection = collections.open_collection(tmp_path / "root")
        assert collection.pictures() == ()
        assert collection.why_empty().startswith(sentence)

    def test_says_nothing_where_there_are_pictures(self, folder: Path) -> None:
        assert collections.open_collection(folder).why_empty() == ""


class TestPictures:
    def test_are_opened_whole(self, folder: Path) -> None:
        collection = collections.open_collection(folder)
        cat, dog = collection.pictures()
        np.testing.assert_array_equal(collection.open(cat).pixels, pixels(1))
        np.testing.assert_array_equal(collection.open(dog).pixels, pixels(2))
        assert collection.open(dog).name == "b.png"

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda file: put(file.parent, file.name, pixels(9)), r"a\.png has changed since pets was scanned; scan"),
            (lambda file: file.write_bytes(b"text"), "has changed since"),
            (lambda file: file.unlink(), r"a\.png is not in pets any more; scan"),
            (lambda file: (file.unlink(), file.mkdir()), "is not in pets any more"),
        ],
    )
    def test_changed_since_the_scan_they_are_refused(
        self, change: Callable[[Path], Any], sentence: str, folder: Path
    ) -> None:
        collection = collections.open_collection(folder)
        cat, dog = collection.pictures()
        change(folder / "cat" / "a.png")
        with pytest.raises(BadImage, match=sentence):
            collection.open(cat)
        assert collection.open(dog).name == "b.png"

    def test_rescanned_they_open_again(self, folder: Path) -> None:
        collection = collections.open_collection(folder)
        put(folder, "cat/a.png", pixels(9, width=20))
        report = collection.scan()
        assert (report.num_changed, report.num_unchanged, report.num_broken) == (1, 2, 1)
        cat = collection.pictures()[0]
        np.testing.assert_array_equal(collection.open(cat).pixels, pixels(9, width=20))

    def test_replaced_by_a_link_to_the_outside_they_are_refused(self, folder: Path, tmp_path: Path) -> None:
        collection = collections.open_collection(folder)
        cat = collection.pictures()[0]
        (folder / "cat" / "a.png").rename(tmp_path / "a.png")
        (folder / "cat" / "a.png").symlink_to(tmp_path / "a.png")
        with pytest.raises(BadImage, match="outside the collection's folder"):
            collection.open(cat)

    @pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "cat/../../secret.png", "a\0"])
    def test_made_up_paths_are_refused(self, path: str, folder: Path) -> None:
        put(folder.parent, "secret.png", pixels(1))
        collection = collections.open_collection(folder)
        with pytest.raises(BadImage):
            collection.open(scan.Picture(path, "", "", 1, 1))
        with pytest.raises(BadImage):
            collection.mask(scan.Picture("cat/a.png", "", "", 1, 1, mask=path))

    def test_one_that_does_not_decode_is_noted_and_left_out(self, folder: Path) -> None:
        whole = (folder / "cat" / "a.png").read_bytes()
        (folder / "cat" / "a.png").write_bytes(whole[:-30])  # the header is right
        collection = collections.open_collection(folder)
        cat = collection.pictures()[0]
        with pytest.raises(BadImage, match="cut short") as error:
            collection.open(cat)
        collection.note_problem(cat, str(error.value))
        assert [picture.path for picture in collection.pictures()] == ["dog/b.png"]
        assert collection.scan().num_broken == 2


class TestMasks:
    def test_are_where_the_file_is_not_black(self, folder: Path) -> None:
        expected = np.zeros((6, 9), np.bool_)
        expected[2:4, 3:] = True
        put(folder, "masks/cat/a.png", np.where(expected, 1, 0).astype(np.uint8))  # dark grey counts, too
        put(folder, "masks/dog/b.png", np.stack([expected, 0 * expected, 0 * expected], axis=2).astype(np.uint8) * 90)
        collection = collections.open_collection(folder)
        for picture in collection.pictures():
            np.testing.assert_array_equal(collection.mask(picture), expected)

    def test_of_another_size_are_scaled_to_the_picture(self, folder: Path) -> None:
        mask = np.zeros((12, 18), np.uint8)
        mask[4:8, 6:] = 255
        put(folder, "cat/a_mask.png", mask)
        collection = collections.open_collection(folder)
        found = collection.mask(collection.pictures()[0])
        np.testing.assert_array_equal(found, mask[::2, ::2] > 0)

    def test_stand_upright_like_the_picture(self, folder: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        for name in ("photo.jpg", "photo_mask.png"):
            Image.fromarray(pixels(1, height=10, width=20)).save(folder / "cat" / name, exif=exif)
        collection = collections.open_collection(folder)
        photo = next(picture for picture in collection.pictures() if picture.mask)
        mask = collection.mask(photo)
        assert mask is not None
        assert mask.shape == collection.open(photo).pixels.shape[:2] == (20, 10)

    def test_missing_ones_are_none_and_broken_ones_are_said(self, folder: Path) -> None:
        collection = collections.open_collection(folder)
        assert collection.mask(collection.pictures()[0]) is None
        (folder / "cat" / "a_mask.png").write_bytes(b"text")
        collection.scan()
        assert len(collection.pictures()) == 2
        with pytest.raises(BadImage, match=r"a_mask\.png is not a picture"):
            collection.mask(collection.pictures()[0])


class TestAvailable:
    def test_lists_everything(self, folder: Path, tmp_path: Path) -> None:
        put(tmp_path, "outside/a.png", pixels(1))
        collections.open_collection(tmp_path / "outside")  # not for others to choose
        pets = Available(sources.folder_id(folder), "pets")
        bundled = [Available(one, kept.title) for one, kept in sources.BUNDLED.items()]
        assert collections.available() == [*bundled, pets]
        added = sources.unpack_zip(packed("a.png", "b.png"), name="up.zip")
        assert collections.available() == [*bundled, Available(added.collection_id, "up.zip"), pets]
        assert len(collections.open_by_id(added.collection_id).pictures()) == 2

    def test_each_can_be_opened(self, folder: Path) -> None:
        sources.unpack_zip(packed("a.png"), name="up.zip")
        for each in collections.available():
            if each.collection_id not in {"bundled/digits", "bundled/tiles"}:  # many files
                opened = collections.open_by_id(each.collection_id)
                assert opened.title == each.title
                assert opened.pictures()

    def test_a_damaged_listing_counts_as_not_scanned_and_is_made_anew(self, folder: Path) -> None:
        collection = collections.open_collection(folder)
        expected = collection.pictures()
        for use in (collection.pictures, collections.open_collection(folder).pictures):
            collection.database.write_bytes(b"no database " * 1000)
            assert Available(collection.collection_id, "pets") in collections.available()
            assert use() == expected
        collection.database.write_bytes(b"no database " * 1000)
        assert collections.open_collection(folder).pictures() == expected


def test_a_data_folder_that_cannot_be_written_is_said(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(settings, "current", lambda: Settings(data_dir=tmp_path / "file"))
    for source in (folder, "bundled/tiles"):
        with pytest.raises(StorageFailed, match="CNNVIZ_DATA_DIR"):
            collections.open_collection(source)


def test_fifty_broken_among_five_hundred(folder: Path) -> None:
    for i in range(500):
        file = put(folder, f"many/{i:03d}.png", pixels(i))
        if i % 10 == 0:
            file.write_bytes((b"", b"text", file.read_bytes()[:20])[i % 3])
    collection = collections.open_collection(folder / "many")
    assert (len(collection.pictures()), len(collection.problems())) == (450, 50)
    assert all(problem.reason.endswith(".") for problem in collection.problems())
    for picture in collection.pictures():
        assert (
            collection.open(picture).digest == images.from_pixels(pixels(int(Path(picture.path).stem)), name="").digest
        )


def test_a_collection_is_made_of_plain_values(folder: Path) -> None:
    assert isinstance(collections.open_collection(folder), Collection)
    assert collections.__all__ == sorted(collections.__all__)


def test_a_folder_opened_deep_below_a_root_is_on_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "root" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    settings_now = Settings(data_dir=tmp_path / "data", collection_roots=(tmp_path / "root",))
    monkeypatch.setattr(settings, "current", lambda: settings_now)
    opened = [collections.open_collection(folder).collection_id for folder in (deep, tmp_path / "elsewhere")]
    offered = [one.collection_id for one in collections.available()]
    assert opened[0] in offered
    assert opened[1] not in offered
