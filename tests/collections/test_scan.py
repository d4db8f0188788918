"""The listing: what is read and what is not, what is wrong with bad files, and what survives a kill or a full disk."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import images, settings
from cnnviz_core.collections import scan
from cnnviz_core.collections.scan import Picture, ScanReport
from cnnviz_core.errors import BadCollection, BadImage
from cnnviz_core.results import Step
from cnnviz_core.settings import Settings
from cnnviz_core.store import StorageFailed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "listing.sqlite"


def png(number: int = 0, *, width: int = 5, height: int = 4) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def put(folder: Path, path: str, content: bytes | None = None) -> Path:
    """A file below the folder; a picture of its own unless the content is given."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(len(path) * 1000 + sum(path.encode(errors="surrogateescape"))) if content is None else content)
    return file


def age(file: Path) -> None:
    """Another time, as after a copy."""
    os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from here on."""
    names: list[str] = []
    measure = images.measure

    def noted(stream: Any, *, name: str) -> tuple[int, int]:
        names.append(name)
        return measure(stream, name=name)

    monkeypatch.setattr(images, "measure", noted)
    return names


def paths(database: Path) -> list[str]:
    return [picture.path for picture in scan.pictures(database)]


def counts(report: ScanReport) -> tuple[int, int, int, int, int, int]:
    return (
        report.num_new,
        report.num_changed,
        report.num_removed,
        report.num_unchanged,
        report.num_broken,
        report.num_ignored,
    )


class TestListing:
    def test_says_what_the_files_hold(self, folder: Path, database: Path) -> None:
        put(folder, "dog/b.png", png(1, width=7, height=3))
        put(folder, "cat/deep/er/a.PNG", png(2))
        put(folder, "top.png", png(3))
        assert counts(scan.scan(folder, database)) == (3, 0, 0, 0, 0, 0)
        cat, dog, top = scan.pictures(database)
        assert dog == Picture(
            "dog/b.png", "dog", hashlib.blake2b(png(1, width=7, height=3), digest_size=16).hexdigest(), 7, 3
        )
        assert (cat.path, cat.label, cat.width, cat.height) == ("cat/deep/er/a.PNG", "cat", 5, 4)
        assert (top.path, top.label) == ("top.png", "")
        assert {cat, dog, top} == set(scan.pictures(database))  # they can be keys

    def test_sizes_are_those_of_the_opened_picture(self, folder: Path, database: Path) -> None:
        picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
        for suffix in ("jpg", "png", "webp", "tiff", "gif", "bmp"):
            for turn in (1, 3, 6):
                exif = Image.Exif()
                exif[0x0112] = turn
                turned = {} if suffix in {"gif", "bmp"} else {"exif": exif}
                picture.save(folder / f"{turn}.{suffix}", **turned)
        assert scan.scan(folder, database).num_new == 18
        found = scan.pictures(database)
        assert {picture.width for picture in found} == {20, 30}
        for listed in found:
            opened = images.open_image(folder / listed.path)
            assert (listed.width, listed.height) == (opened.width, opened.height), listed.path

    def test_only_new_and_changed_files_are_read(self, folder: Path, database: Path, read: list[str]) -> None:
        files = [put(folder, f"{i}.png") for i in range(4)]
        scan.scan(folder, database)
        assert sorted(read) == ["0.png", "1.png", "2.png", "3.png"]
        read.clear()
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 4, 0, 0)
        assert read == []
        age(files[0])
        files[1].write_bytes(png(99, width=50))
        files[2].unlink()
        put(folder, "new.png")
        assert counts(scan.scan(folder, database)) == (1, 2, 1, 1, 0, 0)
        assert sorted(read) == ["0.png", "1.png", "new.png"]
        assert paths(database) == ["0.png", "1.png", "3.png", "new.png"]
        assert scan.pictures(database)[1].width == 50

    def test_what_is_no_picture_is_left_out(self, folder: Path, database: Path) -> None:
        for path in (".hidden.png", ".cache/a.png", "__MACOSX/a.png", "cat/._a.png"):
            put(folder, path)
        put(folder, "cat/a.png")
        put(folder, "cat/notes.txt", b"text")
        put(folder, "png", b"no ending")
        assert counts(scan.scan(folder, database)) == (1, 0, 0, 0, 0, 2)
        assert paths(database) == ["cat/a.png"]

    def test_an_empty_folder_and_one_of_text_files_have_none(self, folder: Path, database: Path) -> None:
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 0, 0, 0)
        put(folder, "a/readme.txt", b"text")
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 0, 0, 1)
        assert scan.pictures(database) == ()
        assert scan.num_pictures(database) == 0

    def test_a_missing_folder_is_said_and_the_listing_stays(self, folder: Path, database: Path) -> None:
        file = put(folder, "a.png")
        scan.scan(folder, database)
        with pytest.raises(BadCollection, match=r"The folder gone cannot be read \(No such file"):
            scan.scan(folder / "gone", database)
        with pytest.raises(BadCollection, match=r"a\.png cannot be read \(Not a directory"):
            scan.scan(file, database)
        assert paths(database) == ["a.png"]

    @pytest.mark.parametrize(
        "name",
        [
            "it's.png",
            'quo"te.png',
            "new\nline.png",
            "'); DROP TABLE files; --.png",
            "100%_.png",
            "Ünïcödé 雪 🐈.png",
            "e\u0301.png",
            " space .png",
            "back\\slash.png",
            "a" * 200 + ".png",
        ],
    )
    def test_odd_names(self, name: str, folder: Path, database: Path) -> None:
        put(folder, f"{name[:20]}/{name}")
        put(folder, "plain.png")
        for _ in range(2):
            scan.scan(folder, database)
            (odd,) = (picture for picture in scan.pictures(database) if picture.path != "plain.png")
            assert (odd.path, odd.label) == (f"{name[:20]}/{name}", name[:20])
        scan.note_problem(database, odd.path, odd.digest, "broken")
        assert paths(database) == ["plain.png"]

    def test_a_name_that_is_not_utf8_is_a_problem(self, folder: Path, database: Path) -> None:
        try:
            put(folder, os.fsdecode(b"caf\xe9.png"))
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        put(folder, "good.png")
        assert counts(scan.scan(folder, database)) == (2, 0, 0, 0, 1, 0)
        (problem,) = scan.problems(database)
        assert problem.path == "caf\\udce9.png"
        assert "rename" in problem.reason
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 2, 1, 0)


class TestLinks:
    def test_only_those_to_files_inside_are_followed(self, folder: Path, database: Path, tmp_path: Path) -> None:
        put(folder, "cat/a.png")
        put(tmp_path, "outside/secret.png")
        links = {
            "inside.png": folder / "cat" / "a.png",
            "outside.png": tmp_path / "outside" / "secret.png",
            "folder": tmp_path / "outside",
            "self": folder,
            "dangling.png": folder / "nothing.png",
            "circle.png": folder / "circle.png",
        }
        for name, target in links.items():
            (folder / name).symlink_to(target)
        report = scan.scan(folder, database)
        assert paths(database) == ["cat/a.png", "inside.png"]
        assert report.notes == ("5 links to folders or to places outside were not followed.",)

    def test_a_folder_behind_a_link_is_itself(self, folder: Path, database: Path, tmp_path: Path) -> None:
        put(folder, "a.png")
        (tmp_path / "link").symlink_to(folder)
        assert scan.scan(tmp_path / "link", database).num_new == 1

    @pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "link/secret.png", "{outside}/secret.png"])
    def test_no_path_leads_outside(self, path: str, folder: Path, tmp_path: Path) -> None:
        put(tmp_path, "secret.png")
        (folder / "link").symlink_to(tmp_path)
        with pytest.raises(BadImage, match=r"secret\.png lies outside the collection's folder"):
            scan.path_inside(folder, path.format(outside=tmp_path))
        assert scan.path_inside(folder, "a/../b.png") == folder.resolve() / "b.png"

    def test_a_path_that_is_none_is_refused(self, folder: Path) -> None:
        with pytest.raises(BadImage, match="scan the collection again"):
            scan.path_inside(folder, "a\0.png")


class TestProblems:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is empty, as after a copy that failed"),
            (b"just text", "is not a picture that cnnviz reads"),
            (b"<svg/>", "looks like an SVG"),
            (png()[:20], "cut short"),
            (b"\xff\xd8\xff\xe0\0", "cut short"),
            (b"GIF89a", "cut short"),
            (png()[:16] + (30_000).to_bytes(4, "big") * 2 + png()[24:], "cut short|900.0 megapixels; at most 100"),
        ],
    )
    def test_are_told_from_the_first_bytes(self, content: bytes, reason: str, folder: Path, database: Path) -> None:
        put(folder, "cat/bad.png", content)
        put(folder, "cat/good.png")
        assert counts(scan.scan(folder, database)) == (2, 0, 0, 0, 1, 0)
        assert paths(database) == ["cat/good.png"]
        (problem,) = scan.problems(database)
        assert problem.path == "cat/bad.png"
        assert re.search(reason, problem.reason), problem.reason

    def test_a_picture_of_a_kind_that_is_not_read_is_listed(self, folder: Path, database: Path) -> None:
        put(folder, "phone.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0")
        assert scan.scan(folder, database).num_ignored == 0
        assert "looks like a HEIC photo" in scan.problems(database)[0].reason

    def test_fifty_broken_among_five_hundred(self, folder: Path, database: Path, read: list[str]) -> None:
        for i in range(500):
            put(folder, f"{i % 7}/{i:03d}.png", (b"", b"text", png()[:25])[i % 3] if i % 10 == 0 else png(i))
        assert counts(scan.scan(folder, database)) == (500, 0, 0, 0, 50, 0)
        assert len(scan.pictures(database)) == 450
        assert {problem.path[-5] for problem in scan.problems(database)} == {"0"}
        read.clear()
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 500, 50, 0)
        assert read == []

    def test_noted_later_it_stays_until_the_file_changes(self, folder: Path, database: Path) -> None:
        file = put(folder, "a.png")
        scan.scan(folder, database)
        scan.note_problem(database, "a.png", scan.pictures(database)[0].digest, "It cannot be decoded whole.")
        scan.note_problem(database, "unknown.png", "", "not listed")
        assert scan.scan(folder, database).num_broken == 1
        assert [tuple(vars(problem).values()) for problem in scan.problems(database)] == [
            ("a.png", "It cannot be decoded whole.")
        ]
        assert scan.num_pictures(database) == 0
        age(file)
        assert scan.scan(folder, database).num_broken == 0

    def test_refused_for_its_size_it_is_read_again_under_another_bound(
        self, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
    ) -> None:
        put(folder, "large.png", png(width=1200, height=1000))
        put(folder, "small.png")
        monkeypatch.setattr(settings, "current", lambda: Settings(max_image_megapixels=1))
        scan.scan(folder, database)
        assert "CNNVIZ_MAX_IMAGE_MEGAPIXELS" in scan.problems(database)[0].reason
        monkeypatch.setattr(settings, "current", lambda: Settings(max_image_megapixels=2))
        read.clear()
        scan.scan(folder, database)
        assert (read, paths(database)) == (["large.png"], ["large.png", "small.png"])

    def test_one_that_may_not_be_read_is_tried_again(
        self, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(folder, "locked.png")
        put(folder, "open.png")
        with monkeypatch.context() as patch:
            whole = Path.open

            def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
                if path.name == "locked.png":
                    raise PermissionError(errno.EACCES, "Permission denied")
                return whole(path, *args, **kwargs)

            patch.setattr(Path, "open", refuse)
            assert scan.scan(folder, database).num_broken == 1
            assert scan.problems(database)[0].reason.startswith("locked.png cannot be read (Permission denied)")
        assert counts(scan.scan(folder, database)) == (0, 1, 0, 1, 0, 0)

    def test_a_folder_that_may_not_be_read_is_noted(
        self, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(folder, "a/1.png")
        put(folder, "b/1.png")
        whole = os.scandir

        def refuse(path: Path) -> Any:
            if Path(path).name == "b":
                raise PermissionError(errno.EACCES, "Permission denied")
            return whole(path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert scan.scan(folder, database).notes == ("1 folders may not be read, the first is b/",)
        assert paths(database) == ["a/1.png"]

    def test_gone_while_the_scan_runs(self, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scan, "_BATCH", 1)
        files = [put(folder, f"{i}.png") for i in range(3)]
        report = scan.scan(folder, database, on_step=lambda _: files[2].unlink(missing_ok=True))
        assert counts(report) == (2, 0, 0, 0, 0, 0)
        assert paths(database) == ["0.png", "1.png"]


class TestInterruption:
    def test_progress_and_what_it_raises(
        self, folder: Path, database: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "_BATCH", 3)
        for i in range(8):
            put(folder, f"{i}.png")

        class Cancelled(Exception):
            pass

        def cancel(step: Step) -> None:
            if step.done == 6:
                raise Cancelled

        with pytest.raises(Cancelled):
            scan.scan(folder, database, on_step=cancel)
        assert scan.num_pictures(database) is None
        read.clear()
        steps: list[Step] = []
        scan.scan(folder, database, on_step=steps.append)
        assert sorted(read) == ["6.png", "7.png"]
        assert steps == [Step(2, 2)]
        assert scan.num_pictures(database) == 8

    def test_killed_it_goes_on_where_it_was(
        self, folder: Path, database: Path, tmp_path: Path, read: list[str]
    ) -> None:
        for i in range(400):
            put(folder, f"{i % 3}/{i:04d}.png", png(i) if i % 50 else b"broken")
        script = """
import os, signal, sys
from pathlib import Path
from cnnviz_core.collections import scan
kill = lambda step: step.done >= 256 and os.kill(os.getpid(), signal.SIGKILL)
scan.scan(Path(sys.argv[1]), Path(sys.argv[2]), on_step=kill)
"""
        done = subprocess.run([sys.executable, "-c", script, str(folder), str(database)], check=False, timeout=300)
        assert done.returncode == -9
        assert scan.num_pictures(database) is None
        report = scan.scan(folder, database)
        assert counts(report) == (400 - 256, 0, 0, 256, 8, 0)
        whole = tmp_path / "whole.sqlite"
        read.clear()
        scan.scan(folder, whole)
        assert scan.pictures(database) == scan.pictures(whole)
        assert scan.problems(database) == scan.problems(whole)

    def test_two_processes_and_readers_at_once(self, folder: Path, database: Path) -> None:
        for i in range(350):
            put(folder, f"{i % 3}/{i:04d}.png", png(i))
        script = (
            "import sys; from pathlib import Path; from cnnviz_core.collections import scan; "
            "print(scan.scan(Path(sys.argv[1]), Path(sys.argv[2])).num_broken)"
        )
        command = [sys.executable, "-W", "error", "-c", script, str(folder), str(database)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
        while any(process.poll() is None for process in processes):
            assert len(scan.pictures(database)) <= 350
        assert [process.communicate() for process in processes] == [("0\n", "")] * 2
        assert len(scan.pictures(database)) == 350
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 350, 0, 0)

    def test_many_threads_at_once(self, folder: Path, database: Path) -> None:
        for i in range(40):
            put(folder, f"{i:04d}.png", png(i))
        failed: list[BaseException] = []

        def work() -> None:
            try:
                scan.scan(folder, database)
                assert len(scan.pictures(database)) == 40
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []


def full_after(pages: int) -> Callable[..., sqlite3.Connection]:
    """SQLite on a disk that has room for so many pages of 4 kB."""
    connect = sqlite3.connect

    def limited(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    return limited


class TestDatabase:
    def damage(self, database: Path, how: str) -> None:
        whole = database.read_bytes()
        if how == "other file":
            database.write_bytes(b"this is no database " * 100)
        elif how == "pages overwritten":
            database.write_bytes(whole[:4096] + b"\x55" * (len(whole) - 4096))
        elif how == "cut short":
            database.write_bytes(whole[: len(whole) // 2])
        else:
            with sqlite3.connect(database) as connection:
                connection.execute("PRAGMA user_version = 99")
            connection.close()

    @pytest.mark.parametrize("how", ["other file", "pages overwritten", "cut short", "other version"])
    def test_damaged_it_is_made_anew(self, how: str, folder: Path, database: Path) -> None:
        for i in range(100):
            put(folder, f"{i}.png", png(i))
        scan.scan(folder, database)
        before = scan.pictures(database)
        self.damage(database, how)
        with pytest.raises(StorageFailed, match="scan the collection again"):
            scan.pictures(database)
        report = scan.scan(folder, database)
        assert report.num_new == 100
        assert "was damaged" in report.notes[-1]
        assert scan.pictures(database) == before
        assert [path.name for path in database.parent.glob("*.damaged")] == ["listing.sqlite.damaged"]
        assert counts(scan.scan(folder, database)) == (0, 0, 0, 100, 0, 0)

    def test_an_empty_file_becomes_one(self, folder: Path, database: Path) -> None:
        put(folder, "a.png")
        database.parent.mkdir()
        database.touch()
        assert scan.pictures(database) == ()
        assert scan.scan(folder, database).notes == ()
        assert paths(database) == ["a.png"]

    def test_a_full_disk_is_said_and_the_rest_goes_on_later(
        self, folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "_BATCH", 20)
        for i in range(300):
            put(folder, f"{i:050d}.png", png(i))
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", full_after(8))
            with pytest.raises(StorageFailed, match=r"listing.*\(database or disk is full\); free some space"):
                scan.scan(folder, database)
            kept = len(scan.pictures(database))
            assert 0 < kept < 300
            assert kept % 20 == 0
        assert counts(scan.scan(folder, database)) == (300 - kept, 0, 0, kept, 0, 0)

    def test_a_place_that_cannot_be_written_is_said(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageFailed, match="CNNVIZ_DATA_DIR"):
            scan.scan(folder, tmp_path / "file" / "listing.sqlite")
        (tmp_path / "taken.sqlite").mkdir()
        with pytest.raises(StorageFailed, match="CNNVIZ_DATA_DIR"):
            scan.scan(folder, tmp_path / "taken.sqlite")

    def test_nothing_is_known_without_a_scan(self, database: Path) -> None:
        assert scan.num_pictures(database) is None
        assert not database.exists()
        assert scan.pictures(database) == ()
        assert scan.num_pictures(database) is None


class TestLabels:
    def labels(self, folder: Path, database: Path) -> dict[str, str]:
        scan.scan(folder, database)
        return {picture.path: picture.label for picture in scan.pictures(database)}

    def test_below_one_folder_of_images_the_next_one_counts(self, folder: Path, database: Path) -> None:
        put(folder, "images/cat/1.png")
        put(folder, "images/2.png")
        assert self.labels(folder, database) == {"images/2.png": "", "images/cat/1.png": "cat"}
        put(folder, "paintings/1.png")
        assert self.labels(folder, database)["images/cat/1.png"] == "images"

    @pytest.mark.parametrize(
        "text",
        [
            "path,label,site\ncat/a.png,tiger,north\nb.png,wolf,\n",
            "\ufeffFilename;Class;site\r\ncat/a.png;tiger;north\r\nb.png;wolf;\r\n",
            'site\timage_path\tLABEL\n"north"\t"cat/a.png"\ttiger\n\t./b.png\twolf\n',
            "image , label,site\ncat\\a.png, tiger , north\n\nb.png,wolf\n",
            "file,label,site\na,tiger,north\nb,wolf,\n",
            "file,label,site\ncat/a,tiger,north\nb,wolf,\n",
            "id,path,class,site\nx,a.png,tiger,north\ny,b.png,wolf,\n",
        ],
    )
    def test_come_from_a_csv_of_several_forms(self, text: str, folder: Path, database: Path) -> None:
        put(folder, "cat/a.png")
        put(folder, "b.png")
        put(folder, "cat/c.png")
        put(folder, "any.csv", text.encode())
        report = scan.scan(folder, database)
        assert (report.notes, report.num_ignored) == ((), 0)
        b, a, c = scan.pictures(database)
        assert (a.label, b.label, c.label) == ("tiger", "wolf", "cat")
        assert (a.columns["site"], b.columns["site"], c.columns) == ("north", "", {})
        assert not {"path", "label", "class", "file"} & {name.lower() for name in a.columns}

    def test_change_without_reading_a_picture(self, folder: Path, database: Path, read: list[str]) -> None:
        put(folder, "cat/a.png")
        assert self.labels(folder, database) == {"cat/a.png": "cat"}
        read.clear()
        put(folder, "labels.csv", b"path,label\ncat/a.png,tiger")
        assert self.labels(folder, database) == {"cat/a.png": "tiger"}
        put(folder, "labels.csv", b"path,kind\ncat/a.png,big")
        assert self.labels(folder, database) == {"cat/a.png": "cat"}
        assert scan.pictures(database)[0].columns == {"kind": "big"}
        (folder / "labels.csv").unlink()
        assert self.labels(folder, database) == {"cat/a.png": "cat"}
        assert scan.pictures(database)[0].columns == {}
        assert read == []

    @pytest.mark.parametrize(
        ("content", "note"),
        [
            (b"name,label\na.png,x\n", "its first line names no column path, file"),
            (b"", "its first line names no column"),
            ("path,label\na.png,café\n".encode("latin-1"), "not UTF-8 text; save it anew as CSV UTF-8"),
            ("path,label\na.png,x\n".encode("utf-16"), "not UTF-8 text"),
            (b"path,label\na.png," + b"x" * 200_000, "cannot be read .*field"),
            (bytes(range(256)) * 10, "Labels were not taken"),
        ],
    )
    def test_a_csv_of_the_wrong_form_is_noted(self, content: bytes, note: str, folder: Path, database: Path) -> None:
        put(folder, "cat/a.png")
        put(folder, "labels.csv", content)
        (found,) = scan.scan(folder, database).notes
        assert re.search(note, found), found
        assert self.labels(folder, database) == {"cat/a.png": "cat"}

    def test_lines_that_fit_no_picture_are_noted(self, folder: Path, database: Path) -> None:
        for path in ("cat/a.png", "dog/a.png", "b.png"):
            put(folder, path)
        lines = [
            "path,label",
            "../../etc/passwd,x",
            "/etc/passwd,x",
            "a.png,both",
            "wolf/b.png,x",
            "gone,x",
            "b.png,wolf",
        ]
        put(folder, "labels.csv", "\n".join(lines).encode())
        (note,) = scan.scan(folder, database).notes
        assert note == (
            "labels.csv has lines that fit no picture of the folder, or several: "
            "../../etc/passwd, /etc/passwd, a.png and others."
        )
        assert self.labels(folder, database) == {"b.png": "wolf", "cat/a.png": "cat", "dog/a.png": "dog"}

    def test_of_two_tables_neither_counts(self, folder: Path, database: Path) -> None:
        put(folder, "cat/a.png")
        put(folder, "1.csv", b"path,label\ncat/a.png,x")
        put(folder, "2.csv", b"path,label\ncat/a.png,y")
        put(folder, "3.csv", b"unrelated")
        notes = scan.scan(folder, database).notes
        assert "1.csv and 2.csv both list pictures" in notes[1]
        assert self.labels(folder, database) == {"cat/a.png": "cat"}
        (folder / "2.csv").unlink()
        assert self.labels(folder, database) == {"cat/a.png": "x"}

    def test_a_csv_outside_or_behind_a_link_is_not_read(self, folder: Path, database: Path, tmp_path: Path) -> None:
        put(folder, "cat/a.png")
        put(folder, "cat/labels.csv", b"path,label\na.png,inner")
        put(tmp_path, "secret.csv", b"path,label\ncat/a.png,secret")
        (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
        assert self.labels(folder, database) == {"cat/a.png": "cat"}


class TestMasks:
    @pytest.mark.parametrize(
        ("picture", "mask"),
        [
            ("cat/1.jpg", "cat/1_mask.png"),
            ("cat/1.jpg", "cat/1.mask.png"),
            ("cat/1.jpg", "cat/masks/1.png"),
            ("cat/1.jpg", "masks/cat/1.png"),
            ("cat/1.jpg", "Mask/cat/1.PNG"),
            ("1.jpg", "masks/1.png"),
            ("images/cat/1.jpg", "masks/cat/1.png"),
            ("images/1.jpg", "masks/1_mask.png"),
            ("cat/a.b.png", "cat/a.b_mask.png"),
        ],
    )
    def test_are_found(self, picture: str, mask: str, folder: Path, database: Path) -> None:
        put(folder, picture)
        put(folder, mask)
        put(folder, "cat/other.png")
        report = scan.scan(folder, database)
        assert (report.num_new, report.num_ignored, report.notes) == (2, 0, ())
        assert {each.path: each.mask for each in scan.pictures(database)} == {picture: mask, "cat/other.png": ""}

    @pytest.mark.parametrize(
        "files",
        [
            ("cat/1.jpg", "dog/1_mask.png"),
            ("mask/1.png", "no_mask/1.png"),
            ("masks/1.png", "faces/2.png"),
            ("1.jpg", "1_mask.jpg"),
            ("party_mask.png", "party_hat.png"),
        ],
    )
    def test_what_fits_no_picture_is_one(self, files: tuple[str, ...], folder: Path, database: Path) -> None:
        for path in files:
            put(folder, path)
        scan.scan(folder, database)
        assert [(each.path, each.mask) for each in scan.pictures(database)] == [(path, "") for path in sorted(files)]

    def test_left_over_in_a_folder_of_masks_they_are_noted(self, folder: Path, database: Path) -> None:
        for path in ("cat/1.jpg", "masks/cat/1.png", "masks/cat/2.png", "masks/dog/1.png"):
            put(folder, path)
        assert scan.scan(folder, database).notes == ("2 masks fit no picture, the first is masks/cat/2.png.",)
        assert paths(database) == ["cat/1.jpg"]

    def test_may_come_and_go_without_reading_the_picture(self, folder: Path, database: Path, read: list[str]) -> None:
        put(folder, "1.jpg")
        scan.scan(folder, database)
        mask = put(folder, "1_mask.png")
        scan.scan(folder, database)
        assert scan.pictures(database)[0].mask == "1_mask.png"
        mask.unlink()
        scan.scan(folder, database)
        assert scan.pictures(database)[0].mask == ""
        assert read == ["1.jpg"]


def test_a_file_that_goes_during_the_scan_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, database = tmp_path / "pictures", tmp_path / "listing.sqlite"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    scan.scan(folder, database)
    note = scan._note

    def vanish(root: Path, prefix: str, entry: os.DirEntry[str], found: scan._Found) -> str:
        if entry.name == "2.png":
            raise FileNotFoundError(entry.name)
        return note(root, prefix, entry, found)

    monkeypatch.setattr(scan, "_note", vanish)
    scan.scan(folder, database)
    assert [picture.path for picture in scan.pictures(database)] == [f"{number}.png" for number in (0, 1, 3, 4, 5)]


def test_a_folder_that_cannot_be_read_for_a_moment_keeps_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, database = tmp_path / "pictures", tmp_path / "listing.sqlite"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / name / "1.png")
    scan.scan(folder, database)
    scandir = os.scandir

    def hiccup(path: Path) -> object:
        if Path(path).name == "b":
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", hiccup)
    scan.scan(folder, database)
    assert [picture.path for picture in scan.pictures(database)] == ["a/1.png", "b/1.png"]
