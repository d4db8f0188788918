"""Events and bugs: what a line says in both forms, and what is kept for the host."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from cnnviz_core import journal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    root, log = logging.getLogger(), logging.getLogger("cnnviz")
    before, level = list(root.handlers), log.level
    yield
    root.handlers[:] = before
    log.setLevel(level)


def test_an_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    journal.configure("json")
    journal.event("upload", kind="picture", mb=1.5, level=logging.WARNING)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "warning", "event": "upload", "kind": "picture", "mb": 1.5}


def test_an_event_is_a_line_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    journal.configure("text")
    journal.event("model loaded", network="timm/resnet18", seconds=0.3)
    assert capsys.readouterr().err.endswith(" model loaded: network=timm/resnet18, seconds=0.3\n")


def test_configuring_again_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    journal.configure("text")
    journal.configure("json")
    journal.event("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_lines_of_other_libraries_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    journal.configure("json")
    logging.getLogger("some.library").warning("of %d\nlines", 2)
    told = json.loads(capsys.readouterr().err)
    assert (told["logger"], told["event"]) == ("some.library", "of 2\nlines")


def _fail() -> None:
    raise LookupError("secret holiday.png")


def test_a_bug_has_its_traceback_in_the_log_under_its_id_and_no_message_in_the_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal.configure("json")
    try:
        _fail()
    except LookupError as error:
        bug_id = journal.bug(error, where="cam")
    told = json.loads(capsys.readouterr().err)
    assert (told["id"], told["where"], told["level"]) == (bug_id, "cam", "error")
    assert "in _fail" in told["traceback"]
    newest = journal.bugs()[0]
    assert (newest.bug_id, newest.where, newest.kind) == (bug_id, "cam", "LookupError")
    assert newest.place.startswith("test_journal.py:")
    assert "holiday" not in repr(newest)


def test_the_last_fifty_bugs_are_kept() -> None:
    ids = [journal.bug(ValueError(), where="home") for _ in range(51)]
    assert [bug.bug_id for bug in journal.bugs()] == ids[:0:-1]


def test_a_pseudonym_is_stable_and_tells_nothing() -> None:
    first = journal.pseudonym("ann@lab.org")
    assert first == journal.pseudonym("Ann@lab.org") != journal.pseudonym("ben@lab.org")
    assert "ann" not in first
