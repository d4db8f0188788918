"""How long work still takes that is of several kinds, where a unit of one costs more than a unit of another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Kind:
    total: int
    seconds_each: float
    done: int = 0
    seconds: float = 0.0

    @property
    def left(self) -> float:
        """Seconds; by what a unit took, else by what it was expected to take."""
        num_left = max(0, self.total - self.done)
        return num_left * (self.seconds / self.done if self.done else self.seconds_each) if num_left else 0.0


class Pace:
    """Counts units of work by kind, with the time that each kind took.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since = clock()
        self._kinds: dict[str, _Kind] = {}

    @property
    def done(self) -> int:
        """Units of all kinds."""
        return sum(kind.done for kind in self._kinds.values())

    @property
    def total(self) -> int:
        """Units of all kinds, as far as they are expected."""
        return sum(kind.total for kind in self._kinds.values())

    @property
    def seconds_left(self) -> float:
        """Time for what is still expected; not a number where nothing is known of a kind."""
        return sum((kind.left for kind in self._kinds.values()), 0.0)

    def expect(self, kind: str, total: int, seconds_each: float = math.nan) -> None:
        """There will be so many units of a kind in all, each of so many seconds until they have been timed."""
        known = self._kinds.get(kind)
        if known is None:
            self._kinds[kind] = _Kind(total, seconds_each)
        else:
            known.total = total

    def seconds_each(self, kind: str) -> float:
        """What a unit of a kind took so far; not a number before the first."""
        found = self._kinds[kind]
        return found.seconds / found.done if found.done else math.nan

    def count(self, kind: str, num: int) -> None:
        """So many more units are done, in the time since the last call of this or of :meth:`skip`."""
        now = self._clock()
        self._kinds[kind].done += num
        self._kinds[kind].seconds += now - self._since
        self._since = now

    def skip(self) -> None:
        """The time since the last call is of no kind: a pause, or something that comes only once."""
        self._since = self._clock()
