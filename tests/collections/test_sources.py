"""What becomes a collection: bundled sets, folders below the roots, ZIPs of every bad kind, published data sets."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import threading
import urllib.error
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import images, photos, settings
from cnnviz_core.collections import scan, sources
from cnnviz_core.errors import BadCollection
from cnnviz_core.results import Step
from cnnviz_core.settings import Settings
from cnnviz_core.store import StorageFailed


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    configure(monkeypatch, data_dir=tmp_path / "data")
    monkeypatch.setattr(sources, "_flush", lambda: None)  # waits for whatever else this machine writes
    return tmp_path / "data"


def configure(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    changed = Settings(**values)
    monkeypatch.setattr(settings, "current", lambda: changed)


def png(number: int = 0) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_in(data: Path) -> list[str]:
    """Everything in the data folder, hidden or not."""
    return sorted(path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled sets, written out once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_flush", lambda: None)
        configure(patch, data_dir=tmp_path_factory.mktemp("data"))
        return {collection_id: sources.locate(collection_id)[1] for collection_id in sources.BUNDLED}


class TestBundled:
    def test_photos_are_the_packages_files(self, written: dict[str, Path], tmp_path: Path) -> None:
        scan.scan(written["bundled/photos"], tmp_path / "l.sqlite")
        found = scan.pictures(tmp_path / "l.sqlite")
        assert len(found) == 21
        assert {picture.label for picture in found} == {"everyday", "science", "texture", "writing"}
        by_name = {Path(picture.path).stem: picture for picture in found}
        assert set(photos.PHOTOS) < set(by_name)
        for name, photo in photos.PHOTOS.items():
            assert (written["bundled/photos"] / by_name[name].path).read_bytes() == photos.path_of(photo).read_bytes()

    def test_tiles_are_cuts_of_the_photo_in_their_label(self, written: dict[str, Path]) -> None:
        tiles = sorted(written["bundled/tiles"].rglob("*.png"))
        assert str(len(tiles)) in sources.BUNDLED["bundled/tiles"].caption
        for path in tiles[::25]:
            top, left = map(int, path.stem.split("_"))
            expected = photos.open_photo(path.parent.name).pixels[top : top + 80, left : left + 80]
            np.testing.assert_array_equal(images.open_image(path).pixels, expected)

    def test_digits_are_those_of_scikit_learn(self, written: dict[str, Path]) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        paths = sorted(written["bundled/digits"].rglob("*.png"), key=lambda path: path.stem)
        assert [int(path.parent.name) for path in paths] == digits.target.tolist()
        for i in range(0, len(paths), 100):
            pixels = images.open_image(paths[i]).pixels
            assert pixels.shape == (32, 32, 3)
            np.testing.assert_array_equal(pixels, pixels[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))
            np.testing.assert_allclose(pixels[::4, ::4, 0] * (16 / 255), digits.images[i], atol=0.04)

    def test_are_the_same_every_time_and_written_once(
        self, written: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        title, folder = sources.locate("bundled/photos")
        assert title == "Photos of scikit-image and scikit-learn"
        assert folder == data / "collections" / "bundled-photos" / "files"
        assert files(folder) == files(written["bundled/photos"])
        again = sources.Bundled(title, "", lambda _: pytest.fail("again"))
        monkeypatch.setitem(sources.BUNDLED, "bundled/photos", again)
        assert sources.locate("bundled/photos") == (title, folder)

    def test_makers_at_the_same_time_agree(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        together = threading.Barrier(4)
        found: list[object] = []

        def write(folder: Path) -> None:
            together.wait(timeout=120)
            for i in range(5):
                (folder / f"{i}.png").write_bytes(png(i))

        def work() -> None:
            try:
                found.append(sources.locate("bundled/tiles"))
            except BaseException as error:
                found.append(error)

        monkeypatch.setitem(sources.BUNDLED, "bundled/tiles", sources.Bundled("Small", "", write))
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [("Small", data / "collections" / "bundled-tiles" / "files")] * 4
        assert left_in(data) == [f"collections/bundled-tiles/files/{i}.png" for i in range(5)]

    def test_killed_in_the_middle_it_counts_as_not_made(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = """
import os, signal, sys
from cnnviz_core.collections import sources
def write(folder):
    (folder / "half.png").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
sources.BUNDLED["bundled/tiles"] = sources.Bundled("Half", "", write)
sources.locate("bundled/tiles")
"""
        environment = {**os.environ, "CNNVIZ_DATA_DIR": str(data)}
        done = subprocess.run([sys.executable, "-c", script], check=False, timeout=300, env=environment)
        assert done.returncode == -9
        (half,) = data.rglob("half.png")
        assert half.parent.name.startswith(".part-")
        small = sources.Bundled("Small", "", lambda folder: (folder / "1.png").touch())
        monkeypatch.setitem(sources.BUNDLED, "bundled/tiles", small)
        folder = sources.locate("bundled/tiles")[1]
        assert list(files(folder)) == ["1.png"]
        os.utime(half.parent, (0, 0))  # long ago: whoever writes there next removes it
        shutil.rmtree(folder)
        sources.locate("bundled/tiles")
        assert not half.exists()

    def test_a_full_disk_leaves_nothing(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def write(folder: Path) -> None:
            (folder / "half.png").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setitem(sources.BUNDLED, "bundled/tiles", sources.Bundled("", "", write))
        with pytest.raises(StorageFailed, match=r"No space left.*CNNVIZ_DATA_DIR"):
            sources.locate("bundled/tiles")
        assert list((data / "collections").iterdir()) == []

    @pytest.mark.parametrize(
        "collection_id",
        [
            "",
            "bundled",
            "bundled/",
            "bundled/..",
            "bundled/../x",
            "/etc",
            "zip/../../etc",
            "zip/.x",
            "torchvision/a/b",
            "x/y",
        ],
    )
    def test_no_other_id_names_a_place(self, collection_id: str, data: Path) -> None:
        with pytest.raises(BadCollection, match=r"[Tt]here is no"):
            sources.locate(collection_id)
        assert not data.exists()

    def test_an_unknown_one_is_refused_with_near_names(self) -> None:
        with pytest.raises(BadCollection, match=r"no bundled collection 'bundled/tile'\. Did you mean bundled/tiles"):
            sources.locate("bundled/tile")
        for collection_id in ("zip/pets-0123456789abcdef", "torchvision/CIFAR10"):
            with pytest.raises(BadCollection, match=r"does not keep the collection .* any more; bring it again"):
                sources.locate(collection_id)


class TestFolders:
    @pytest.fixture
    def root(self, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        root = tmp_path / "root"
        for path in ("pets/cat/1.png", "pets/dog/1.png", "flat/1.JPG", "text/a.txt", "a/b/c/d/1.png", ".hidden/1.png"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(png())
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "1.png").write_bytes(png())
        (root / "link").symlink_to(tmp_path / "secret")
        (root / "inner").symlink_to(root / "pets")
        configure(monkeypatch, data_dir=data, collection_roots=(root, tmp_path / "missing"))
        return root

    def test_below_the_roots_are_opened(self, root: Path) -> None:
        for path in ("pets", root / "pets", str(root / "flat" / ".." / "pets"), "inner"):
            assert sources.folder_below_roots(path) == root / "pets"
        assert sources.folder_below_roots(root) == root

    @pytest.mark.parametrize(
        "path",
        ["/", "/etc", "..", "../secret", "pets/../../secret", "link", "link/deeper", "../root2", "~", "\0", "a" * 300],
    )
    def test_nothing_else_is(self, path: str, root: Path) -> None:
        (root.parent / "root2").mkdir()
        with pytest.raises(BadCollection, match=r"CNNVIZ_COLLECTION_ROOTS|There is no folder"):
            sources.folder_below_roots(path)

    def test_outside_it_makes_no_difference_whether_it_exists(self, root: Path) -> None:
        said = []
        for name in ("secret", "nowhere"):
            with pytest.raises(BadCollection) as error:
                sources.folder_below_roots(f"../{name}")
            said.append(str(error.value).replace(name, ""))
        assert said[0] == said[1]

    @pytest.mark.parametrize("path", ["nowhere", "pets/cat/1.png"])
    def test_a_missing_one_and_a_file_are_said(self, path: str, root: Path) -> None:
        with pytest.raises(BadCollection, match=f"There is no folder {path}"):
            sources.folder_below_roots(path)

    def test_without_roots_the_setting_is_named(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=data)
        with pytest.raises(BadCollection, match="Set CNNVIZ_COLLECTION_ROOTS"):
            sources.folder_below_roots("/")
        assert sources.offered_folders() == []

    def test_those_with_pictures_are_offered(self, root: Path) -> None:
        assert sources.offered_folders() == [root, root / "flat", root / "pets"]

    def test_the_offer_is_bounded(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for i in range(30):
            (root / f"x{i}").mkdir()
            (root / f"x{i}" / "1.png").touch()
        monkeypatch.setattr(sources, "_MAX_OFFERED", 7)
        assert len(sources.offered_folders()) == 7
        monkeypatch.setattr(sources, "_MAX_ENTRIES", 3)
        assert len(sources.offered_folders()) <= 4

    def test_kept_they_are_found_by_id_while_below_the_roots(
        self, root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collection_id, folder = sources.keep_folder(root / "inner")
        assert (collection_id, folder) == (sources.folder_id(root / "pets"), root / "pets")
        assert collection_id.startswith("folder/pets-")
        assert sources.locate(collection_id) == ("pets", root / "pets")
        assert len({sources.folder_id(path) for path in (root, root / "pets", Path("/else/pets"), Path("/"))}) == 4
        outside, _ = sources.keep_folder(root.parent / "secret")
        with pytest.raises(BadCollection, match=r"outside .* CNNVIZ_COLLECTION_ROOTS"):
            sources.locate(outside)
        configure(monkeypatch, data_dir=data)
        with pytest.raises(BadCollection, match="CNNVIZ_COLLECTION_ROOTS"):
            sources.locate(collection_id)

    def test_offered_they_are_found_by_the_id_of_a_link(self, root: Path) -> None:
        assert sources.locate(sources.folder_id(root / "flat")) == ("flat", root / "flat")
        with pytest.raises(BadCollection, match="knows no folder 'gone-0123456789abcdef'"):
            sources.locate("folder/gone-0123456789abcdef")

    def test_a_missing_folder_is_not_kept(self, tmp_path: Path, data: Path) -> None:
        with pytest.raises(BadCollection, match="There is no folder"):
            sources.keep_folder(tmp_path / "nowhere")
        assert not data.exists()


Entry = tuple[str | zipfile.ZipInfo, bytes]


def packed(entries: Iterable[Entry], *, compression: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream


def special(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


def unpacked(added: sources.Added) -> dict[str, bytes]:
    return files(sources.locate(added.collection_id)[1])


class TestZip:
    def test_pictures_and_csv_are_unpacked(self, data: Path) -> None:
        steps: list[Step] = []
        stream = packed([("cat/1.png", png(1)), ("dog/", b""), ("dog/1.JPG", png(2)), ("labels.csv", b"path,label\n")])
        added = sources.unpack_zip(stream, name="My pets!.zip", on_step=steps.append)
        assert added.collection_id.startswith("zip/My-pets-")
        assert (added.title, added.num_pictures, added.notes) == ("My pets!.zip", 2, ())
        assert unpacked(added) == {"cat/1.png": png(1), "dog/1.JPG": png(2), "labels.csv": b"path,label\n"}
        assert steps == [Step(0, 3), Step(1, 3), Step(2, 3)]
        assert sources.added() == [added]

    def test_the_same_twice_is_one(self, tmp_path: Path) -> None:
        content = packed([("1.png", png())]).getvalue()
        (tmp_path / "disk.zip").write_bytes(content)
        found = {
            sources.unpack_zip(io.BytesIO(content), name="a.zip"),
            sources.unpack_zip(io.BytesIO(content), name="b.zip"),
            sources.unpack_zip(tmp_path / "disk.zip", name="disk.zip"),
        }
        assert len(found) == 1
        other = sources.unpack_zip(packed([("1.png", png(1))]), name="a.zip")
        assert {card.collection_id for card in sources.added()} == {found.pop().collection_id, other.collection_id}

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["pets/cat/1.png", "pets/dog/1.png"], ["cat/1.png", "dog/1.png"]),
            (["a/b/cat/1.png", "a/b/cat/2.png"], ["1.png", "2.png"]),
            (["a/1.png", "2.png"], ["2.png", "a/1.png"]),
            (["pets/1.png", "pets/labels.csv", "readme.txt", "__MACOSX/pets/._1.png"], ["1.png", "labels.csv"]),
        ],
    )
    def test_one_folder_around_everything_is_left_away(self, names: list[str], expected: list[str]) -> None:
        added = sources.unpack_zip(packed([(name, png()) for name in names]), name="a.zip")
        assert sorted(unpacked(added)) == expected

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            ("../evil.png", "leads outside"),
            ("a/../../evil.png", "leads outside"),
            ("..\\evil.png", "leads outside"),
            ("/evil.png", "leads outside"),
            ("\\evil.png", "leads outside"),
            ("C:/evil.png", "leads outside"),
            ("c:evil.png", "leads outside"),
            (special("evil.png", stat.S_IFLNK | 0o777), "link or device"),
            (special("evil.png", stat.S_IFIFO | 0o644), "link or device"),
            ("inner.zip", "packed a second time"),
            ("pictures.tar.gz", "packed a second time"),
            ("evil.exe", "no pictures by their names"),
            ("evil", "no pictures by their names"),
            ("/".join("a" * 40) + "/evil.png", "in folders too deep"),
            ("x" * 300 + ".png", "name that this disk does not take"),
        ],
    )
    def test_what_is_not_for_unpacking_is_counted(self, entry: Any, reason: str, tmp_path: Path, data: Path) -> None:
        added = sources.unpack_zip(packed([("good.png", png(1)), (entry, png(2))]), name="a.zip")
        assert unpacked(added) == {"good.png": png(1)}
        assert len(added.notes) == 1
        assert added.notes[0].startswith("Left out of a.zip: 1 file ")
        assert reason in added.notes[0]
        assert added.num_pictures == 1
        assert sources.added() == [added]
        assert not list(tmp_path.rglob("evil*"))
        assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]

    def test_under_a_password_it_is_counted(self) -> None:
        content = bytearray(packed([("good.png", png(1)), ("locked.png", png(2))]).getvalue())
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.rindex(signature) + offset] |= 1
        added = sources.unpack_zip(io.BytesIO(content), name="a.zip")
        assert unpacked(added) == {"good.png": png(1)}
        assert "1 file under a password" in added.notes[0]

    def test_a_damaged_entry_is_counted_and_leaves_nothing(self) -> None:
        content = packed([("good.png", png(1)), ("bad.png", png(2))], compression=zipfile.ZIP_STORED).getvalue()
        content = content.replace(png(2), png(2)[:-20] + bytes(20))
        added = sources.unpack_zip(io.BytesIO(content), name="a.zip")
        assert unpacked(added) == {"good.png": png(1)}
        assert "1 file damaged in the archive" in added.notes[0]

    def test_of_entries_with_one_name_the_first_counts(self) -> None:
        with pytest.warns(UserWarning, match="Duplicate name"):
            stream = packed([("a.png", png(1)), ("a.png", png(2)), ("a.png/b.png", png(3)), ("./a.png", png(4))])
        added = sources.unpack_zip(stream, name="a.zip")
        assert unpacked(added) == {"a.png": png(1)}
        assert added.notes == ("Left out of a.zip: 3 files with the name of another file.",)

    def test_odd_names_stay_as_they_are_but_for_control_characters(self) -> None:
        names = ['it\'s "q".png', "雪/🐈.png", "a\nb.png", " x .png", "%2e%2e.png", "b\\c.png", "~.png"]
        added = sources.unpack_zip(packed([(name, png()) for name in names]), name="\u202e../é.zip")
        assert sorted(unpacked(added)) == sorted(
            ['it\'s "q".png', "雪/🐈.png", "a_b.png", " x .png", "%2e%2e.png", "b/c.png", "~.png"]
        )
        assert added.notes == ()

    @pytest.mark.parametrize(
        "name", ["../../x.zip", "", ".zip", "....", "-", "雪.zip", "a" * 300 + ".zip", "a/b\\c.zip"]
    )
    def test_no_name_of_the_upload_leads_outside(self, name: str, data: Path) -> None:
        added = sources.unpack_zip(packed([("1.png", png())]), name=name)
        folder = sources.locate(added.collection_id)[1]
        assert folder.resolve().parent.parent == (data / "collections").resolve()
        assert sources.added() == [added]

    def refused(self, stream: Any, match: str, data: Path, *, name: str = "a.zip") -> None:
        with pytest.raises(BadCollection, match=match):
            sources.unpack_zip(stream, name=name)
        assert left_in(data) == []
        assert sources.added() == []

    def test_without_a_picture_it_is_refused_with_the_reasons(self, data: Path) -> None:
        self.refused(packed([]), r"a\.zip holds no picture", data)
        self.refused(packed([("a.csv", b"path")]), r"a\.zip holds no picture", data)
        entries: list[Entry] = [("a.txt", b"text"), ("b.txt", b"text"), ("../c.png", png())]
        self.refused(packed(entries), "holds no picture .* 2 files that are no pictures .* 1 file with a name", data)

    @pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x05\x06", png()])
    def test_what_is_no_zip_is_refused(self, content: bytes, data: Path) -> None:
        self.refused(io.BytesIO(content), "is not a whole ZIP archive", data)
        self.refused(io.BytesIO(packed([("a.png", png())]).getvalue()[:-30]), "is not a whole ZIP archive", data)

    def test_a_missing_file_is_said(self, tmp_path: Path, data: Path) -> None:
        self.refused(tmp_path / "gone.zip", r"a\.zip cannot be read \(No such file", data)

    def test_too_large_packed(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=data, max_zip_mb=1)
        stream = packed([("a.png", os.urandom(2**20 + 1))], compression=zipfile.ZIP_STORED)
        self.refused(stream, r"a\.zip has 1 MB; this server takes up to 1 MB \(CNNVIZ_MAX_ZIP_MB\)", data)

    def test_too_large_unpacked_by_its_own_account(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=data, max_collection_mb=1)
        monkeypatch.setattr(sources, "_extract", lambda *_: pytest.fail("it was unpacked"))
        entries = [(f"{i}.bmp", bytes(2**19)) for i in range(3)]
        self.refused(packed(entries), r"more than 1 MB, .*CNNVIZ_MAX_COLLECTION_MB", data)

    def test_too_large_unpacked_whatever_it_claims(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Python's reader stops at the claimed size; should it ever not, what is written counts."""
        configure(monkeypatch, data_dir=data, max_collection_mb=1)
        stream = packed([(f"{i}.bmp", bytes(2**19)) for i in range(3)])
        whole = zipfile.ZipFile.infolist

        def wanted(archive: zipfile.ZipFile, _: Counter[str]) -> Any:
            return [(SimpleNamespace(file_size=1, original=entry), (entry.filename,)) for entry in whole(archive)]

        opened = zipfile.ZipFile.open
        monkeypatch.setattr(sources, "_wanted", wanted)
        monkeypatch.setattr(zipfile.ZipFile, "open", lambda archive, entry: opened(archive, entry.original))
        self.refused(stream, "more than 1 MB", data)

    def test_an_entry_that_claims_less_than_it_has_is_damaged(self, data: Path) -> None:
        content = bytearray(packed([("good.png", png(1)), ("bomb.bmp", bytes(10**6))]).getvalue())
        for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = content.rindex(signature) + offset
            content[at : at + 4] = (1000).to_bytes(4, "little")
        added = sources.unpack_zip(io.BytesIO(content), name="a.zip")
        assert unpacked(added) == {"good.png": png(1)}
        assert "1 file damaged" in added.notes[0]

    def test_one_that_grows_without_measure_is_refused(self, data: Path) -> None:
        zeros = bytes(2**20)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb.bmp", "w") as entry:
            for _ in range(110):
                entry.write(zeros)
        self.refused(stream, r"would grow to 1,0\d\d times its size", data)

    def test_an_entry_too_large_for_a_picture_is_left_out(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configure(monkeypatch, data_dir=data, max_image_megapixels=1)
        added = sources.unpack_zip(packed([("a.png", png()), ("b.bmp", bytes(10 * 2**20))]), name="a.zip")
        assert list(unpacked(added)) == ["a.png"]
        assert "1 file too large for a picture" in added.notes[0]

    def test_too_many_entries_are_refused(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = packed([(f"{i}.png", b"") for i in range(50)])
        monkeypatch.setattr(sources, "_MAX_ENTRIES_OF_ZIP", 49)
        self.refused(stream, "too many entries", data)
        monkeypatch.setattr(sources, "_MAX_ENTRIES_OF_ZIP", 50)
        assert sources.unpack_zip(stream, name="b.zip").num_pictures == 50

    def test_a_list_of_contents_too_long_for_memory_is_not_read(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = packed([(f"{i}.png", b"") for i in range(50)])
        monkeypatch.setattr(sources, "_MAX_LIST_BYTES", 1000)
        self.refused(stream, "list of contents is too long", data)

    def test_a_disk_that_fills_up_leaves_nothing(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = packed([(f"{i}.png", png(i)) for i in range(5)])
        extract, left = sources._extract, [3]

        def full(*args: Any) -> int:
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            return extract(*args)

        with monkeypatch.context() as patch:
            patch.setattr(sources, "_extract", full)
            with pytest.raises(StorageFailed, match=r"No space left on device.*CNNVIZ_DATA_DIR"):
                sources.unpack_zip(stream, name="a.zip")
            assert left_in(data) == []
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
            with pytest.raises(StorageFailed, match="No space left"):
                sources.unpack_zip(stream, name="a.zip")
        assert left_in(data) == []
        assert sources.unpack_zip(stream, name="a.zip").num_pictures == 5

    def test_cancelled_it_leaves_nothing(self, data: Path) -> None:
        class Cancelled(Exception):
            pass

        def cancel(step: Step) -> None:
            if step.done == 2:
                raise Cancelled

        with pytest.raises(Cancelled):
            sources.unpack_zip(packed([(f"{i}.png", png(i)) for i in range(5)]), name="a.zip", on_step=cancel)
        assert left_in(data) == []

    def test_deleted_it_is_gone(self, data: Path) -> None:
        added = sources.unpack_zip(packed([("1.png", png())]), name="a.zip")
        kept = sources.unpack_zip(packed([("2.png", png(1))]), name="a.zip")
        sources.delete(added.collection_id)
        assert sources.added() == [kept]
        assert [path.name for path in (data / "collections").iterdir()] == [kept.collection_id.replace("/", "-")]
        with pytest.raises(BadCollection, match="does not keep"):
            sources.locate(added.collection_id)
        for collection_id in (added.collection_id, "bundled/photos", "zip/none-0123456789abcdef"):
            with pytest.raises(BadCollection, match="keeps no uploaded or downloaded"):
                sources.delete(collection_id)

    def test_is_on_disk_before_it_counts(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        put_in_place = sources._put_in_place
        monkeypatch.setattr(sources, "_flush", lambda: order.append("flushed"))
        monkeypatch.setattr(sources, "_put_in_place", lambda *paths: (order.append("put"), put_in_place(*paths)))
        sources.unpack_zip(packed([("1.png", png())]), name="a.zip")
        assert order == ["flushed", "put"]

    def test_an_interrupted_removal_is_done_by_the_next(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = (sources.unpack_zip(packed([("1.png", png(i))]), name="a.zip") for i in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            sources.delete(first.collection_id)
        assert sources.added() == [second]
        sources.delete(second.collection_id)
        assert list((data / "collections").iterdir()) == []

    def test_the_title_is_a_line_that_acts_on_nothing(self) -> None:
        added = sources.unpack_zip(packed([("1.png", png())]), name="x/\u202egnp.zip\n.zip")
        assert added.title == "gnp.zip.zip"

    def test_a_card_that_cannot_be_read_does_not_count(self, data: Path) -> None:
        (data / "collections" / "zip-").mkdir(parents=True)
        (data / "collections" / "zip-.x").mkdir()
        added = sources.unpack_zip(packed([("1.png", png())]), name="a.zip")
        (sources.home(added.collection_id) / "card.json").write_text("{}")
        assert sources.added() == []


class Fake:
    """A data set as torchvision hands it out: arrays, or files where a folder is given."""

    classes = ("air/plane", ("tench", "Tinca tinca"), "..")

    def __init__(self, counts: tuple[int, ...], folder: Path | None = None) -> None:
        self.targets = [target for target, count in enumerate(counts) for _ in range(count)]
        self._samples = []
        for i, target in enumerate(self.targets if folder else []):
            (folder / f"{i}.JPEG").write_bytes(png(i))  # type: ignore[operator]
            self._samples.append((str(folder / f"{i}.JPEG"), target))  # type: ignore[operator]

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(png(i))), self.targets[i]


class TestPublished:
    def fetch(self, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...]) -> list[Path]:
        folders: list[Path] = []

        def fetch(name: str, folder: Path) -> Fake:
            assert folder.is_dir()
            folders.append(folder)
            return Fake(counts, folder if sources.DATASETS[name].files else None)

        monkeypatch.setattr(sources, "_fetch", fetch)
        return folders

    def test_arrays_become_files_by_class(self, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
        folders = self.fetch(monkeypatch, (2, 1, 1))
        steps: list[Step] = []
        added = sources.download("CIFAR10", on_step=steps.append)
        assert added == sources.Added("torchvision/CIFAR10", "CIFAR-10, test part", 4)
        assert steps == [Step(i, 4) for i in range(4)]
        folder = sources.locate("torchvision/CIFAR10")[1]
        found = files(folder)
        assert sorted(found) == ["2/000003.png", "air-plane/000000.png", "air-plane/000001.png", "tench/000002.png"]
        np.testing.assert_array_equal(
            images.open_image(found["tench/000002.png"]).pixels, images.open_image(png(2)).pixels
        )
        assert not folders[0].exists()
        assert sources.download("CIFAR10") == added
        assert len(folders) == 1
        assert sources.added() == [added]
        sources.delete("torchvision/CIFAR10")
        assert sources.added() == []

    def test_files_are_taken_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetch(monkeypatch, (1, 2))
        sources.download("Imagenette")
        found = files(sources.locate("torchvision/Imagenette")[1])
        assert found == {f"{c}/{i:06d}.jpeg": png(i) for i, c in enumerate(("air-plane", "tench", "tench"))}

    def test_of_a_large_set_a_seeded_sample_in_proportion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def sample(seed: int) -> tuple[str, ...]:
            added = sources.download("MNIST", max_pictures=20, seed=seed)
            found = files(sources.locate(added.collection_id)[1])
            assert Counter(path.split("/")[0] for path in found) == {"air-plane": 10, "tench": 8, "2": 2}
            assert added.notes == (f"A sample of 20 of 100 pictures, in proportion to the classes; seed {seed}.",)
            sources.delete(added.collection_id)
            return tuple(sorted(found))

        self.fetch(monkeypatch, (50, 40, 10))
        assert sample(0) == sample(0) != sample(1)

    def test_too_large_written_out(self, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
        self.fetch(monkeypatch, (20, 0, 0))
        configure(monkeypatch, data_dir=data, max_collection_mb=1)
        monkeypatch.setattr(sources, "_MB", 500)
        with pytest.raises(BadCollection, match="more than 1 MB"):
            sources.download("MNIST")
        assert sources.added() == []
        assert not (sources.home("torchvision/MNIST") / "files").exists()

    def test_offline_it_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str, folder: Path) -> None:
            raise urllib.error.URLError(OSError(-2, "Name or service not known"))

        monkeypatch.setattr(sources, "_fetch", fail)
        with pytest.raises(
            BadCollection, match=r"STL-10, test part, could not be downloaded .*not known.*Connect .*folder or ZIP"
        ):
            sources.download("STL10")
        assert sources.added() == []

    def test_switched_off_it_is_said(self, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
        configure(monkeypatch, data_dir=data, allow_downloads=False)
        monkeypatch.setattr(sources, "_fetch", lambda *_: pytest.fail("fetched"))
        with pytest.raises(BadCollection, match="CNNVIZ_ALLOW_DOWNLOADS"):
            sources.download("MNIST")

    def test_an_unknown_one_is_refused_with_near_names(self) -> None:
        with pytest.raises(BadCollection, match=r"no data set 'CIFAR-10'\. Did you mean CIFAR10"):
            sources.download("CIFAR-10")

    @pytest.mark.parametrize("name", sources.DATASETS)
    def test_torchvision_takes_the_arguments(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Up to the first question to the internet."""
        asked: list[str] = []

        def refuse(request: Any, *_: Any, **__: Any) -> None:
            asked.append(getattr(request, "full_url", request))
            raise urllib.error.URLError("offline")

        monkeypatch.setattr("urllib.request.urlopen", refuse)
        with pytest.raises((urllib.error.URLError, RuntimeError)):
            sources._fetch(name, tmp_path)
        assert asked
        assert all(url.startswith("http") for url in asked)

    def test_torch_is_not_imported_for_the_rest(self) -> None:
        script = (
            "import sys; from cnnviz_core.collections import sources, scan; "
            "assert not {'torch', 'torchvision', 'sklearn'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_kinds_of_packing_that_cannot_be_bounded_are_left_out(data: Path) -> None:
    """bzip2 and LZMA are unpacked all at once, whatever size the entry claims."""
    stream = packed([("a.png", png())])
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("b.png", png(1), compress_type=zipfile.ZIP_BZIP2)
        archive.writestr("c.png", png(2), compress_type=zipfile.ZIP_LZMA)
    added = sources.unpack_zip(stream, name="a.zip")
    assert added.num_pictures == 1
    assert any("packed in a rare way" in note and "2 files" in note for note in added.notes)
