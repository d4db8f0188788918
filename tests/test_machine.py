"""What the machine has left, against what the system itself says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cnnviz_core import machine


def test_measurements_are_those_of_this_process_and_disk(tmp_path: Path) -> None:
    told = machine.measure(tmp_path / "not" / "there yet")
    status = Path("/proc/self/status")
    if status.exists():
        (held,) = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        assert abs(told.process_mb - held / 1024) < 50
    assert 0 < told.process_mb < told.memory_mb
    assert 0 < told.memory_left_mb <= told.memory_mb
    assert abs(told.disk_left_mb - shutil.disk_usage(tmp_path).free / 2**20) < 500
    assert 1 <= told.num_cores <= (os.cpu_count() or 1)
    assert 0 < told.up_seconds < 24 * 3600
