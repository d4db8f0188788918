"""The time left of work of several kinds, by a clock set by hand."""

from __future__ import annotations

import math

from cnnviz_core.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_kind_counts_by_what_its_units_took() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.expect("read", 10)
    pace.expect("train", 6, seconds_each=3.0)
    assert math.isnan(pace.seconds_left), "nothing is known of reading"
    clock.now += 2
    pace.count("read", 4)
    assert (pace.done, pace.total) == (4, 16)
    assert pace.seconds_left == 6 * 0.5 + 6 * 3.0
    clock.now += 3
    pace.count("read", 6)
    assert pace.seconds_left == 6 * 3.0
    clock.now += 8
    pace.count("train", 2)
    assert pace.seconds_left == 4 * 4.0, "measured, it is no longer what was expected"
    clock.now += 2
    pace.count("train", 0)
    assert pace.seconds_left == 4 * 5.0, "what comes between units is part of what they take"
    assert pace.seconds_each("read") == 0.5


def test_pauses_are_of_no_kind() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.expect("read", 4)
    clock.now += 1
    pace.count("read", 1)
    clock.now += 1000
    pace.skip()
    clock.now += 1
    pace.count("read", 1)
    assert pace.seconds_left == 2


def test_what_is_expected_may_change() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.expect("read", 4)
    clock.now += 2
    pace.count("read", 2)
    pace.expect("read", 3)
    assert (pace.total, pace.seconds_left) == (3, 1)
    pace.expect("read", 1)
    assert pace.seconds_left == 0
