"""Quick computations: so many at a time, in which order."""

from __future__ import annotations

import threading
import time

import pytest

from cnnviz_core.turns import Turns


def test_only_so_many_quick_computations_run_at_a_time() -> None:
    turns, running, most = Turns(2), [], []

    def compute() -> None:
        with turns.take():
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()

    threads = [threading.Thread(target=compute) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 2
    turns.let_go_first()  # returns at once: nobody is left


def order_of_turns() -> str:
    """Who had the only turn when a wants two, and b and c, who come after a, want one each."""
    turns, order = Turns(1), []
    a_has_one, others_wait = threading.Event(), threading.Event()

    def want(name: str, num: int) -> None:
        for _ in range(num):
            with turns.take():
                order.append(name)
                if name == "a":
                    a_has_one.set()
                    assert others_wait.wait(120)
                time.sleep(0.05)  # long enough for a to be back in the line

    def start(name: str, num: int) -> threading.Thread:
        thread = threading.Thread(target=want, args=(name, num))
        thread.start()
        return thread

    threads = [start("a", 2)]
    assert a_has_one.wait(120)
    for name in "bc":
        threads.append(start(name, 1))
        deadline = time.monotonic() + 120
        while len(turns._line) < len(threads) - 1:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    others_wait.set()
    for thread in threads:
        thread.join(5)
    return "".join(order)


def test_what_takes_several_turns_keeps_its_place_in_the_line() -> None:
    assert order_of_turns() in {"aabc", "abac"}  # b may have the one that has just come free


def test_who_comes_back_later_stands_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnviz_core.turns._KEEPS_PLACE_SECONDS", 0)
    assert order_of_turns() == "abca"
