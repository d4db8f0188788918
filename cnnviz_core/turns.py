"""Quick computations of many people, a few at a time, between the steps of long work."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_GIVES_WAY_SECONDS = 2.0
_KEEPS_PLACE_SECONDS = 0.5  # from one thing of a page to its next


class Turns:
    """Quick computations, a few at a time, who came first before the others; long work lets them go first.

    A page that computes several things one after another keeps its place before those who came later: what takes five
    turns does not stand five times at the end of the line.

    Args:
        num: How many run at the same time.
    """

    def __init__(self, num: int) -> None:
        self._num_free = max(1, num)
        self._num_here = 0
        self._line: list[tuple[float, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._mine = threading.local()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Waits for a turn and holds it."""
        with self._changed:
            self._num_here += 1
        try:
            self._wait()
            try:
                yield
            finally:
                with self._changed:
                    self._num_free += 1
                    self._mine.left = time.monotonic()
        finally:
            with self._changed:
                self._num_here -= 1
                self._changed.notify_all()

    def _wait(self) -> None:
        now = time.monotonic()
        if now - getattr(self._mine, "left", -math.inf) > _KEEPS_PLACE_SECONDS:
            self._mine.came = now
        place = self._mine.came, next(self._numbers)
        with self._changed:
            self._line.append(place)
            try:
                self._changed.wait_for(lambda: self._num_free and place == min(self._line))
                self._num_free -= 1
            finally:
                self._line.remove(place)
                self._changed.notify_all()

    def let_go_first(self) -> None:
        """Waits until nobody computes or waits for a turn, but not for ever: long work must come to its end, too."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_here == 0, timeout=_GIVES_WAY_SECONDS)
