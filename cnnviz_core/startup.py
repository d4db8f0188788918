"""Process-wide switches, set once before the first computation.

Large activations are allocated and freed for every layer. glibc hands every block above its mmap threshold (at most
32 MiB) back to the kernel at each free, so that the next layer's memory is page-faulted in anew; threads other than the
main one, which is where an app computes, fall back to that sooner. Keeping freed memory and sharing one arena makes a
batch through a small network several times faster (tests/benchmarks/bench_startup.py measures it).
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading

import torch

from cnnviz_core import torchvision_shim

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_KEEP_BELOW = 1 << 30
_OUT_OF_MEMORY = re.compile("out of memory|not enough memory|allocate memory", re.IGNORECASE)

_lock = threading.Lock()
_prepared = threading.Event()


def prepare(threads: int = 0) -> None:
    """Tunes the allocator, sets the number of threads, and lets torchvision be imported. Only the first call acts.

    Args:
        threads: CPU threads of one computation; 0 leaves torch's own choice, one per core.
    """
    with _lock:
        if _prepared.is_set():
            return
        tune_allocator()
        if threads:
            torch.set_num_threads(threads)
        torchvision_shim.install()
        _prepared.set()


def tune_allocator() -> bool:
    """Makes the C library keep freed memory for the next layer. Returns whether it could: only glibc can."""
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: _KEEP_BELOW, _M_TRIM_THRESHOLD: _KEEP_BELOW, _M_ARENA_MAX: 1}
    accepted = [mallopt(parameter, value) == 1 for parameter, value in settings.items()]
    return all(accepted)


def release_memory() -> None:
    """Gives memory that no result needs any more back to the system and the accelerator; a few milliseconds."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    trim = _glibc_function("malloc_trim")
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the system or the accelerator, did not suffice; torch on a CPU says so in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def _glibc_function(name: str) -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
