"""What the machine has left: memory of the process and of the whole, of the accelerator, and room on the disk."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_MB = 2**20


@dataclass(frozen=True)
class Machine:
    """A moment's measurements; memory and disk in MB.

    Attributes:
        system: Operating system and processor.
        python: Its version.
        torch: Its version.
        num_cores: That this process may use, as far as the system tells.
        process_mb: Held by this process.
        memory_mb: Of the machine.
        memory_left_mb: Free or quickly freed.
        disk_left_mb: Beside the data folder.
        accelerator: Its name; empty for none.
        accelerator_mb: Of it, 0 where that is not known.
        accelerator_left_mb: Free, likewise.
        up_seconds: Since this process began.
    """

    system: str
    python: str
    torch: str
    num_cores: int
    process_mb: float
    memory_mb: float
    memory_left_mb: float
    disk_left_mb: float
    accelerator: str
    accelerator_mb: float
    accelerator_left_mb: float
    up_seconds: float


def measure(data_dir: Path) -> Machine:
    """Measures now; takes milliseconds.

    Args:
        data_dir: Folder on the disk in question; need not be there yet.
    """
    memory, process = psutil.virtual_memory(), psutil.Process()
    there = next(folder for folder in (data_dir, *data_dir.resolve().parents) if folder.exists())
    name, total, left = _accelerator()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        num_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        process_mb=process.memory_info().rss / _MB,
        memory_mb=memory.total / _MB,
        memory_left_mb=memory.available / _MB,
        disk_left_mb=shutil.disk_usage(there).free / _MB,
        accelerator=name,
        accelerator_mb=total / _MB,
        accelerator_left_mb=left / _MB,
        up_seconds=time.time() - process.create_time(),
    )


def _accelerator() -> tuple[str, int, int]:
    if torch.cuda.is_available():
        left, total = torch.cuda.mem_get_info()
        return torch.cuda.get_device_name(), total, left
    return ("Apple GPU", 0, 0) if torch.backends.mps.is_available() else ("", 0, 0)
