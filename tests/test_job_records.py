"""Records of jobs: whole whatever happens to the server, several servers at once, bounded, and nothing but records."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cnnviz_core import job_records
from cnnviz_core.job_records import Details, Record, Records, State, key_of, name_of
from cnnviz_core.store import StorageFailed

DETAILS = Details("pages/explain/occlusion.py", {"patch": ["8"], "layers": ["a", "b"]}, {"network": "tiny"})

# Writes records and results as fast as it can, until it is killed.
BUSY = """
import sys
from dataclasses import replace
from pathlib import Path
from cnnviz_core.job_records import Details, Records, State

records = Records(Path(sys.argv[1]), results_mb=10)
print("begun", flush=True)
number = 0
while True:
    number += 1
    record = records.begin(f"{number % 7}", "Occlusion", Details(), person="ada")
    records.save(record)
    records.save(replace(record, state=State.RUNNING))
    records.results.save(record.name, list(range(number % 5 * 1000)))
    records.save(replace(record, state=State.DONE, ended=record.asked + 1))
"""


@contextmanager
def busy(folder: Path) -> Iterator[None]:
    """A server at work, which is killed at the end."""
    command = [sys.executable, "-c", BUSY, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        yield
        process.kill()


def test_a_server_that_is_killed_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    moments = random.Random(0)
    states = set()
    for _ in range(4):
        with busy(tmp_path):
            time.sleep(moments.uniform(0.0, 0.3))
        records = Records(tmp_path, results_mb=10)
        found = records.all()
        assert len(found) == len(list(tmp_path.glob("*.json")))
        states |= {record.state for record in found}
        for record in found:
            kept = records.results.load(record.name)
            assert (kept is not None) or not records.results.has(record.name)
            assert kept is not None or record.state is not State.DONE
    assert states <= {State.DONE, State.INTERRUPTED}


def test_jobs_of_another_server_live_as_long_as_it_does(tmp_path: Path) -> None:
    mine = Records(tmp_path, results_mb=10)
    with busy(tmp_path):
        deadline = time.monotonic() + 120
        while not any(record.state.is_live for record in mine.all()):
            assert time.monotonic() < deadline
        assert State.INTERRUPTED not in {record.state for record in mine.all()}
    assert not any(record.state.is_live for record in mine.all())


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    records = Records(tmp_path, results_mb=1)
    record = records.begin("key", "Occlusion", DETAILS, person="ada")
    records.save(record)
    assert records.find(name_of("key")) == record == records.all()[0]
    assert record.key == key_of("key")
    later = replace(record, state=State.FAILED, error="no", ended=record.asked + 2)
    records.save(later)
    assert records.all() == [later]
    assert records.find(name_of("another")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"state": "dreaming"}, {"people": "ada"}, {"people": [1]}, {"link": {"a": "b"}}, {"link": {"a": [1]}},
        {"asked": "1"}, {"people": []}, {"name": "0" * 32}, {"title": None}, {"more": 1}, {"about": []}, {"page": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_says_something_else_does_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    records = Records(tmp_path, results_mb=1)
    good, bad = (records.begin(key, "Occlusion", DETAILS, person="ada") for key in ("good", "bad"))
    records.save(good)
    records.save(bad)
    path = tmp_path / f"{bad.name}.json"
    path.write_text(json.dumps({**asdict(bad), **change}))
    assert records.all() == [good]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_file_that_is_no_record_does_not_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{'a' * 32}.json").write_bytes(content)
    assert Records(tmp_path, results_mb=1).all() == []


def test_a_record_under_a_name_of_ones_own_does_not_count(tmp_path: Path) -> None:
    records = Records(tmp_path, results_mb=1)
    record = replace(records.begin("key", "Occlusion", DETAILS, person="ada"), name="notes")
    (tmp_path / "notes.json").write_text(json.dumps(asdict(record)))
    assert records.all() == []  # no result can be called so, and asking for it would be a bug


def test_the_oldest_of_ended_jobs_go_where_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_records, "_MOST_RECORDS", 2)
    records = Records(tmp_path, results_mb=1)
    for number in range(4):
        record = records.begin(f"{number}", f"{number}", Details(), person="ada")
        records.results.save(record.name, number)
        state = State.DONE if number else State.WAITING
        records.save(replace(record, state=state, asked=1000.0 + number))
    assert [record.title for record in records.all()] == ["3", "2", "0"]
    assert len(list(tmp_path.glob("*.result"))) == 3


def test_what_a_killed_server_had_half_written_goes_after_a_while(tmp_path: Path) -> None:
    old, new = tmp_path / ".part-old", tmp_path / ".part-new"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    Records(tmp_path, results_mb=1)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    records = Records(tmp_path / "file" / "jobs", results_mb=1)
    assert records.all() == []
    with pytest.raises(StorageFailed, match="CNNVIZ_DATA_DIR"):
        records.save(records.begin("key", "Occlusion", DETAILS, person="ada"))


def test_a_result_whose_record_was_not_brought_up_to_date_is_done(tmp_path: Path) -> None:
    before = Records(tmp_path, results_mb=1)
    record: Record = before.begin("key", "Occlusion", DETAILS, person="ada")
    before.save(record)
    before.results.save(record.name, 1)
    before._alive.release()  # killed between the two
    assert Records(tmp_path, results_mb=1).all()[0].state is State.DONE
