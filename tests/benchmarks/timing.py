"""Time in benchmarks."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


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


class PlainScript:
    """A peer in a process of its own, as somebody without cnnviz runs it: torch and the allocator as they come.

    Args:
        code: Python that loops over the lines of its input and answers each with one line. Modules of this folder can
            be imported.
        arguments: What it finds in ``sys.argv`` from 1 on.
    """

    def __init__(self, code: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}",
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, line: str = "") -> str:
        """Its answer to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The plain script ended with {self._process.wait()}.")
        return answer

    def end(self) -> None:
        """Waits for it to see the end of its input."""
        self._process.communicate()
