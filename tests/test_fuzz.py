"""A small share of ``tests/benchmarks/fuzz.py``, always the same, and that it would notice what it looks for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cnnviz_core import checkpoints

# libtiff tells the terminal about damage; Pillow and zipfile warn of it.
pytestmark = pytest.mark.filterwarnings("ignore")
NUM_CASES = 720


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    path = Path(__file__).parent / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz"]


def test_no_case_does_harm(fuzz: ModuleType) -> None:
    with fuzz.playground() as place:
        report = fuzz.run(NUM_CASES, 7, place)
    assert report.harms == []
    for door in fuzz.DOORS:
        assert report.counts[door, "taken"] + report.counts[door, "refused"] == NUM_CASES // len(fuzz.DOORS)
        assert door in ("data_files", "arrays_file", "report_file") or report.counts[door, "refused"]
        assert report.counts[door, "taken"], door  # a mutation that always breaks the first byte tests little


def test_harm_is_noticed(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(checkpoints, "read_state_dict", crash)
    with fuzz.playground() as place:
        assert "ZeroDivisionError" in fuzz.run(24, 0, place).harms[0]
    monkeypatch.setattr(fuzz, "DOORS", {"link": lambda _rng, place: (place.folder / "escaped").write_text("x")})
    with pytest.raises(fuzz.Harm, match="escaped"), fuzz.playground() as place:
        fuzz.run(1, 0, place)
