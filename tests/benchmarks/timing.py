"""Time in benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians_ms(*works: Callable[[], object], rounds: int) -> list[float]:
    """Median time of each, taken in turns so that other load falls on all alike."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for times, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            work()
            if turn:  # the first warms up
                times.append(time.perf_counter() - start)
    return [1e3 * statistics.median(times) for times in seconds]
