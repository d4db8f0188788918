"""Reports on disk: whole at any moment, within their bounds, and never outside of their folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnviz_core import render, reports, settings, store, upkeep
from cnnviz_core.errors import BadImage, BadSetting
from cnnviz_core.links import Link
from cnnviz_core.settings import Settings

ADA = f"browser-{'a' * 32}"
BOB = f"user-{'0' * 32}"
PNG = render.png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"></svg>'
LINK = Link("cam", {"layer": ["blocks.2"], "maps": ["a & b", "c"]})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "current", lambda: Settings(data_dir=tmp_path))
    return tmp_path / "reports"


def titles(person: str = ADA) -> list[str]:
    return [entry.title for entry in reports.load(person).entries]


def fill(*names: str, person: str = ADA) -> list[str]:
    """Adds figures; gives their ids."""
    for name in names:
        made = reports.add(person, PNG, title=name, caption=f"about {name}", settings={"layer": "a"}, link=LINK)
    return [entry.entry_id for entry in made.entries]


def test_what_was_added_is_there_again_and_only_for_that_person() -> None:
    assert reports.load(ADA) == reports.Report()
    fill("one")
    made = reports.add(ADA, SVG, title="a chart")
    assert reports.load(ADA) == made
    one, chart = made.entries
    assert (one.title, one.caption, one.settings, one.link) == ("one", "about one", {"layer": "a"}, LINK)
    assert abs(one.added - time.time()) < 60
    assert reports.picture(ADA, one) == PNG
    assert reports.picture(ADA, chart) == SVG
    assert titles(BOB) == []
    with pytest.raises(BadImage):
        reports.picture(BOB, one)


def test_figures_are_moved_named_and_commented() -> None:
    a, b, c = fill("a", "b", "c")
    reports.move(ADA, c, -1)
    reports.move(ADA, a, -1)  # at the top already
    assert titles() == ["a", "c", "b"]
    reports.move(ADA, a, 1)
    reports.move(ADA, b, 1)  # at the end already
    assert titles() == ["c", "a", "b"]
    reports.set_comment(ADA, b, "Two\n\nparagraphs")
    reports.set_title(ADA, "  Cats  ")
    report = reports.load(ADA)
    assert (report.title, report.entries[2].comment) == ("Cats", "Two\n\nparagraphs")
    reports.set_title(ADA, " ")
    assert reports.load(ADA).title == reports.TITLE


def test_what_was_taken_out_can_be_put_back_for_a_while(folder: Path) -> None:
    a, b, c = fill("a", "b", "c")
    entry, place = reports.remove(ADA, b)
    assert titles() == ["a", "c"]
    with pytest.raises(BadSetting, match="another window"):
        reports.remove(ADA, b)
    reports.put_back(ADA, entry, place)
    reports.put_back(ADA, entry, place)  # as in a second window
    assert titles() == ["a", "b", "c"]
    reports.remove(ADA, b)
    old = time.time() - 3600
    os.utime(folder / ADA / f"{b}.png", (old, old))
    reports.move(ADA, a, 1)  # any change tidies up
    assert not (folder / ADA / f"{b}.png").exists()
    with pytest.raises(BadImage, match="“b” is missing"):
        reports.put_back(ADA, entry, place)
    assert (folder / ADA / f"{c}.png").exists()
    reports.clear(ADA)
    assert reports.load(ADA) == reports.Report()
    assert not list((folder / ADA).glob("*.png"))


@pytest.mark.parametrize(
    "person",
    ["", "..", "../../etc", "user-", "browser-0/..", "browser-" + "g" * 32, "browser-" + "0" * 99, "user-0000000\n"],
)
def test_a_name_that_is_no_person_becomes_no_path(person: str, folder: Path) -> None:
    for call in (
        lambda: reports.load(person),
        lambda: reports.add(person, PNG, title="x"),
        lambda: reports.clear(person),
        lambda: reports.export(person),
    ):
        with pytest.raises(BadSetting, match="Nobody is known"):
            call()
    assert not folder.exists()


def test_an_entry_from_elsewhere_becomes_no_path() -> None:
    fill("a")
    for entry_id, ending in (("../../secret", ".png"), ("0" * 16, "/../x"), ("0" * 16, ".exe")):
        with pytest.raises(BadSetting, match="no such figure"):
            reports.picture(ADA, reports.Entry(entry_id, "x", ending=ending))


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(BadSetting, match="neither PNG nor SVG"):
        reports.add(ADA, b"GIF89a", title="x")
    assert titles() == []


def test_bounds_of_number_and_space_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reports, "MOST_ENTRIES", 2)
    fill("a", "b")
    with pytest.raises(BadSetting, match="up to 2 figures"):
        fill("c")
    monkeypatch.setattr(reports, "MOST_ENTRIES", 100)
    monkeypatch.setattr(reports, "MOST_MB", 1)
    with pytest.raises(BadSetting, match="up to 1 MB"):
        reports.add(ADA, PNG + bytes(2**20), title="large")
    monkeypatch.setattr(settings, "current", lambda: Settings(data_dir=tmp_path, reports_mb=0))
    with pytest.raises(store.StorageFailed, match="CNNVIZ_REPORTS_MB"):
        fill("c", person=BOB)
    assert titles() == ["a", "b"]


def test_a_full_disk_is_said_and_leaves_the_report_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fill("a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(store.StorageFailed, match="No space left on device"):
        fill("b")
    assert titles() == ["a"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"title": 3, "entries": []}', b'{"title": "x", "entries": {}}', b"\xff"]
)
def test_a_damaged_list_keeps_its_pictures(content: bytes, folder: Path) -> None:
    fill("a", "b")
    (folder / ADA / "report.json").write_bytes(content)
    report = reports.load(ADA)
    assert "damaged" in report.problem
    assert [reports.picture(ADA, entry) for entry in report.entries] == [PNG, PNG]
    fill("c")
    assert titles() == ["A figure", "A figure", "c"]
    assert not reports.load(ADA).problem
    assert (folder / ADA / "damaged.json").read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"entry_id": "../../../x"},
        {"title": 3},
        {"params": {"a": [1]}},
        {"params": "x"},
        {"page": "../x"},
        {"added": 1e300},
        {"ending": ".html"},
        {"settings": {"a": {}}},
        {"title": "\ud800"},
        {"unknown": 1},
    ],
)
def test_a_damaged_entry_is_left_out_and_said(change: dict[str, object], folder: Path) -> None:
    fill("a", "b")
    path = folder / ADA / "report.json"
    raw = json.loads(path.read_text())
    raw["entries"][0].update(change)
    path.write_text(json.dumps(raw))
    report = reports.load(ADA)
    assert [entry.title for entry in report.entries] == ["b"]
    assert "1 of its figures could not be read" in report.problem
    assert "1 of its figures" in reports.export(ADA)


def test_a_damaged_or_missing_picture_is_said_in_its_place(folder: Path) -> None:
    a, b, _ = fill("a", "b", "c")
    (folder / ADA / f"{a}.png").write_bytes(PNG[:40])
    (folder / ADA / f"{b}.png").unlink()
    for entry in reports.load(ADA).entries[:2]:
        with pytest.raises(BadImage, match="add it again"):
            reports.picture(ADA, entry)
    text = reports.export(ADA)
    assert text.count("is missing or damaged") == 2
    assert text.count("data:image/png") == 1


def test_the_export_holds_everything_with_links() -> None:
    (a,) = fill("<script>a</script>")
    reports.set_comment(ADA, a, "see <b>\nhere")
    text = reports.export(ADA, base="https://x.org/app")
    assert 'href="https://x.org/app/cam?layer=blocks.2&amp;maps=a+%26+b&amp;maps=c"' in text
    assert "see &lt;b&gt;\nhere" in text
    assert "&lt;script&gt;a&lt;/script&gt;" in text
    assert "<script>" not in text
    assert "about &lt;script" in text
    without = reports.export(ADA)
    assert "Screen: /cam?layer=blocks.2&amp;maps" in without
    assert "begin where cnnviz runs" in without


def test_reports_go_by_the_retention_only(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fill("a")
    fill("b", person=BOB)
    reports.load(BOB)
    reports.load(ADA)
    old = time.time() - 10 * 24 * 3600
    os.utime(folder / ADA / store.USED, (old, old))
    upkeep.sweep()
    assert titles() == ["a"]
    os.utime(folder / ADA / store.USED, (old, old))
    monkeypatch.setattr(settings, "current", lambda: Settings(data_dir=tmp_path, retention_days=7))
    upkeep.sweep()
    assert [path.name for path in reports.folders()] == [BOB]


CHANGES = """
import sys
from pathlib import Path
from cnnviz_core import reports, settings
from cnnviz_core.settings import Settings

chosen = Settings(data_dir=Path(sys.argv[1]))
settings.current = lambda: chosen
me, png = sys.argv[2], bytes.fromhex(sys.argv[3])
print("ready", flush=True)
for turn in range(100_000):
    report = reports.add(me, png, title=f"figure {turn}")
    for entry in report.entries[-2:]:
        reports.set_comment(me, entry.entry_id, f"comment {turn} " * 200)
        reports.move(me, entry.entry_id, -1)
    if len(report.entries) > 5:
        reports.remove(me, report.entries[0].entry_id)
"""


def test_a_report_is_whole_whenever_its_server_is_killed(tmp_path: Path, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for turn in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", CHANGES, str(tmp_path), ADA, PNG.hex()], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(float(rng.uniform(0.001, 0.08)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        report = reports.load(ADA)
        assert not report.problem, turn
        for entry in report.entries:
            assert reports.picture(ADA, entry) == PNG
    assert reports.load(ADA).entries, "the moments were all before the first change"
    fill("and it goes on")
    assert titles()[-1] == "and it goes on"


def test_windows_of_one_person_do_not_lose_each_others_changes() -> None:
    from concurrent.futures import ThreadPoolExecutor

    add: Callable[[int], object] = lambda at: reports.add(ADA, PNG, title=str(at))  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert sorted(map(int, titles())) == list(range(12))
