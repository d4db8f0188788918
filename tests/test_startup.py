"""Process-wide switches: applied once, whichever thread asks first, and torchvision importable because of them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from cnnviz_core import startup, torchvision_shim

IMPORT = "import torchvision.models; print(torchvision.models.resnet18.__name__)"


@pytest.fixture
def unprepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process that was not prepared yet; returns the switches that are thrown."""
    thrown: list[str] = []
    monkeypatch.setattr(startup, "_prepared", threading.Event())
    monkeypatch.setattr(startup, "tune_allocator", lambda: thrown.append("allocator"))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: thrown.append(f"threads {n}"))
    monkeypatch.setattr(torchvision_shim, "install", lambda: thrown.append("shim"))
    return thrown


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent.parent,
        check=False,
    )


def test_only_the_first_call_acts(unprepared: list[str]) -> None:
    startup.prepare(3)
    startup.prepare(3)
    startup.prepare(5)
    assert unprepared == ["allocator", "threads 3", "shim"]


def test_zero_threads_leaves_the_number_to_torch(unprepared: list[str]) -> None:
    startup.prepare(0)
    assert unprepared == ["allocator", "shim"]


def test_many_threads_prepare_once(unprepared: list[str]) -> None:
    threads = [threading.Thread(target=startup.prepare) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unprepared == ["allocator", "shim"]


def test_the_allocator_takes_every_switch_on_glibc() -> None:
    is_glibc = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    assert startup.tune_allocator() == is_glibc
    startup.release_memory()


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert startup.tune_allocator() is False
    startup.release_memory()


def test_torchvision_fails_without_install_where_its_compiled_part_does() -> None:
    done = run(IMPORT)
    if torchvision_shim.install() is None:
        pytest.skip("torchvision's compiled part loads here, so there is nothing to mend")
    assert done.returncode != 0
    assert "torchvision::nms" in done.stderr


def test_torchvision_imports_after_sixteen_threads_installed_in_a_fresh_process() -> None:
    done = run(
        "import threading\n"
        "from cnnviz_core import torchvision_shim\n"
        "failed = []\n"
        "threading.excepthook = lambda args: failed.append(args.exc_value)\n"
        "barrier = threading.Barrier(16)\n"
        "threads = [threading.Thread(target=lambda: (barrier.wait(), torchvision_shim.install())) for _ in range(16)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "assert not failed, failed\n" + IMPORT
    )
    assert done.stdout.strip() == "resnet18", done.stderr


def test_nothing_is_declared_where_there_is_no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_shim.importlib.util, "find_spec", lambda name: None)
    assert torchvision_shim._install.__wrapped__() is None


def test_nothing_is_declared_where_the_compiled_part_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(path: str) -> None:
        loaded.append(Path(path).name)
        if "broken" in path:
            raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", load)
    (tmp_path / "_C_broken.so").touch()
    assert not torchvision_shim._compiled_part_loads(tmp_path)
    (tmp_path / "_C.so").touch()
    assert torchvision_shim._compiled_part_loads(tmp_path)
    assert set(loaded) == {"_C_broken.so", "_C.so"}
