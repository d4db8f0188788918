"""Long work: turns, progress, pause, cancel, failures, sharing, and what outlives the server."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnviz_core import job_records, jobs, store
from cnnviz_core.errors import BadSetting
from cnnviz_core.job_records import Details, Records, State
from cnnviz_core.jobs import Job, OnStep, Queue, TooManyJobs
from cnnviz_core.results import Step
from cnnviz_core.turns import Turns


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in 120 s"
        time.sleep(0.002)


def ended(job: Job) -> Job:
    until(lambda: not job.is_live)
    return job


class Gate:
    """Work that reports a step, then waits until it may go on."""

    def __init__(self) -> None:
        self.began, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, on_step: OnStep) -> str:
        on_step(Step(1, 4, partial="a quarter"))
        self.began.set()
        assert self.may_go_on.wait(10)
        on_step(Step(2, 4, partial="a half"))
        return "whole"


class Silent(Gate):
    """As the gate, but it reports nothing, so that it is asked for nothing."""

    def __call__(self, on_step: OnStep) -> str:
        self.began.set()
        assert self.may_go_on.wait(10)
        return "whole"


def test_a_job_gives_its_result() -> None:
    job = ended(Queue().submit("a", "work", lambda on_step: 7, owner="me"))
    assert (job.state, job.result, job.error) == (State.DONE, 7, "")
    assert job.seconds >= 0


def test_steps_and_what_is_there_so_far_are_seen_while_it_runs() -> None:
    gate = Gate()
    job = Queue().submit("a", "work", gate, owner="me")
    assert gate.began.wait(10)
    assert job.state is State.RUNNING
    assert job.step == Step(1, 4, partial="a quarter")
    assert job.seconds_left == pytest.approx(3 * job.seconds, rel=0.5)
    gate.may_go_on.set()
    assert ended(job).result == "whole"


def test_work_may_say_itself_how_long_it_takes() -> None:
    gate = threading.Event()

    def work(on_step: OnStep) -> None:
        on_step(Step(1, 4, seconds_left=77.5))
        assert gate.wait(10)

    job = Queue().submit("a", "work", work, owner="me")
    while job.step is None:
        threading.Event().wait(0.01)
    assert job.seconds_left == 77.5
    gate.set()
    ended(job)


def test_a_cancelled_job_ends_at_its_next_step_and_keeps_what_is_there() -> None:
    queue, gate = Queue(), Gate()
    job = queue.submit("a", "work", gate, owner="me")
    assert gate.began.wait(10)
    queue.cancel(job, owner="me")
    gate.may_go_on.set()
    assert ended(job).state is State.CANCELLED
    assert job.result is None
    assert job.step == Step(2, 4, partial="a half")


def test_a_methods_own_handler_does_not_swallow_the_cancel() -> None:
    queue, gate = Queue(), Gate()

    def stubborn(on_step: OnStep) -> str:
        try:
            return gate(on_step)
        except Exception:
            return "went on"

    job = queue.submit("a", "work", stubborn, owner="me")
    assert gate.began.wait(10)
    queue.cancel(job, owner="me")
    gate.may_go_on.set()
    assert ended(job).state is State.CANCELLED


def test_equal_work_is_shared_and_goes_on_while_anybody_waits() -> None:
    queue, gate = Queue(), Gate()
    job = queue.submit("a", "work", gate, owner="me")
    assert queue.submit("a", "work", gate, owner="you") is job
    assert gate.began.wait(10)
    queue.cancel(job, owner="me")
    gate.may_go_on.set()
    assert ended(job).result == "whole"


def test_one_at_a_time_in_the_order_they_came() -> None:
    queue, gate, order = Queue(), Gate(), []
    first = queue.submit("first", "work", gate, owner="me")
    assert gate.began.wait(10)
    later = [queue.submit(key, "work", lambda _, key=key: order.append(key), owner="me") for key in "bca"]
    assert [queue.num_ahead(job) for job in (first, *later)] == [0, 1, 2, 3]
    assert [job.state for job in later] == [State.WAITING] * 3
    gate.may_go_on.set()
    for job in later:
        ended(job)
    assert order == ["b", "c", "a"]


class Steady:
    """Work that reports one step after another until it may end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, on_step: OnStep) -> str:
        while not self.may_end.wait(0.001):
            on_step(Step(1, 2, partial="so far"))
        return "whole"


def test_a_click_goes_before_what_its_owners_page_began_by_itself() -> None:
    queue, preview, click = Queue(), Steady(), Steady()
    begun = queue.submit("preview", "work", preview, owner="me", by_itself=True)
    waiting = queue.submit("another", "work", lambda _: None, owner="me", by_itself=True)
    until(lambda: begun.step is not None)
    clicked = queue.submit("click", "work", click, owner="me")
    until(lambda: clicked.step is not None)
    assert queue.live() == [clicked, waiting, begun]
    assert begun.state is State.WAITING
    preview.may_end.set()
    click.may_end.set()
    assert [ended(job).state for job in (clicked, waiting, begun)] == [State.DONE] * 3
    assert begun.result == "whole"


def test_a_click_of_another_person_waits_for_what_began_by_itself() -> None:
    queue, preview = Queue(), Steady()
    begun = queue.submit("preview", "work", preview, owner="me", by_itself=True)
    until(lambda: begun.step is not None)
    others = queue.submit("click", "work", lambda _: None, owner="you")
    time.sleep(0.05)
    assert (begun.state, others.state) == (State.RUNNING, State.WAITING)
    preview.may_end.set()
    ended(others)


def test_what_began_by_itself_counts_as_asked_for_once_somebody_asks() -> None:
    queue, preview = Queue(), Steady()
    begun = queue.submit("preview", "work", preview, owner="me", by_itself=True)
    assert queue.submit("preview", "work", preview, owner="me", by_itself=False) is begun
    assert queue.submit("preview", "work", preview, owner="you", by_itself=True) is begun
    assert not begun.by_itself
    preview.may_end.set()
    ended(begun)


def test_what_is_let_go_leaves_no_record(tmp_path: Path) -> None:
    records = Records(tmp_path, results_mb=10)
    queue, preview = Queue(records=records), Steady()
    begun = queue.submit("preview", "work", preview, owner="me", by_itself=True)
    until(lambda: begun.step is not None)
    queue.cancel(begun, owner="me", lets_go=True)
    assert ended(begun).state is State.CANCELLED
    assert begun.was_let_go
    assert records.all() == []


def test_a_waiting_job_is_cancelled_at_once_and_never_runs() -> None:
    queue, gate, ran = Queue(), Gate(), []
    queue.submit("first", "work", gate, owner="me")
    assert gate.began.wait(10)
    waiting = queue.submit("second", "work", lambda _: ran.append(1), owner="me")
    queue.cancel(waiting, owner="me")
    assert waiting.state is State.CANCELLED
    gate.may_go_on.set()
    ended(queue.submit("third", "work", lambda _: None, owner="me"))
    assert not ran


def test_a_clear_error_is_kept_word_by_word_and_the_next_job_runs() -> None:
    def bad(on_step: OnStep) -> None:
        raise BadSetting("The patch is larger than the picture.")

    queue = Queue()
    job = ended(queue.submit("a", "work", bad, owner="me"))
    assert (job.state, job.error) == (State.FAILED, "The patch is larger than the picture.")
    assert ended(queue.submit("b", "work", lambda _: 1, owner="me")).result == 1


def test_a_bug_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    def broken(on_step: OnStep) -> None:
        raise ZeroDivisionError("secret detail")

    job = ended(Queue().submit("a", "Occlusion", broken, owner="me"))
    assert job.state is State.FAILED
    assert "Occlusion failed" in job.error
    assert "secret detail" not in job.error
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("outcome", [State.CANCELLED, State.FAILED])
def test_what_did_not_succeed_can_be_asked_for_again(outcome: State) -> None:
    queue = Queue()

    def fails(on_step: OnStep) -> None:
        raise BadSetting("no") if outcome is State.FAILED else jobs._Cancelled

    assert ended(queue.submit("a", "work", fails, owner="me")).state is outcome
    assert ended(queue.submit("a", "work", lambda _: 2, owner="me")).result == 2


def test_a_finished_job_is_found_and_not_run_again() -> None:
    queue, runs = Queue(), []
    for _ in range(2):
        ended(queue.submit("a", "work", lambda _: runs.append(1), owner="me"))
    assert len(runs) == 1


def test_only_the_last_finished_jobs_are_kept() -> None:
    queue = Queue(max_finished=2)
    for key in "abcd":
        ended(queue.submit(key, "work", lambda _: None, owner="me"))
    assert [key for key in "abcd" if queue.find(key)] == ["c", "d"]


def test_an_owner_who_has_gone_does_not_keep_a_job_alive() -> None:
    queue, gate = Queue(), Gate()
    job = queue.submit("a", "work", gate, owner="before the reload")
    queue.submit("a", "work", gate, owner="after the reload")
    assert gate.began.wait(10)
    queue.cancel(job, owner="after the reload", may_return=lambda owner: owner == "after the reload")
    gate.may_go_on.set()
    assert ended(job).state is State.CANCELLED
    assert job.asked_by == {"before the reload", "after the reload"}


def test_who_asks_for_work_that_is_being_cancelled_gets_a_job_of_its_own() -> None:
    queue, gate = Queue(), Gate()
    job = queue.submit("a", "work", gate, owner="me")
    assert gate.began.wait(10)
    queue.cancel(job, owner="me")
    mine = queue.submit("a", "work", lambda _: "again", owner="you")
    gate.may_go_on.set()
    assert ended(mine).result == "again"
    assert ended(job).state is State.CANCELLED


def test_the_worker_outlives_work_that_ends_its_thread() -> None:
    def leaves(on_step: OnStep) -> None:
        raise SystemExit

    queue = Queue()
    assert ended(queue.submit("a", "work", leaves, owner="me")).state is State.FAILED
    assert ended(queue.submit("b", "work", lambda _: 1, owner="me")).result == 1


# ---- turns ----------------------------------------------------------------------------------------------------------


def test_people_take_turns_however_many_jobs_one_of_them_has() -> None:
    queue, gate, order = Queue(), Gate(), []
    queue.submit("first", "work", gate, owner="ada")
    assert gate.began.wait(10)
    asked = [("a1", "ada"), ("a2", "ada"), ("a3", "ada"), ("b1", "bob"), ("b2", "bob"), ("c1", "cy")]
    waiting = [queue.submit(key, "work", lambda _, key=key: order.append(key), owner=owner) for key, owner in asked]
    foreseen = sorted(waiting, key=queue.num_ahead)
    assert [job.key for job in foreseen] == ["b1", "c1", "a1", "b2", "a2", "a3"]
    gate.may_go_on.set()
    for job in waiting:
        ended(job)
    assert order == [job.key for job in foreseen]


def test_a_shared_job_comes_when_the_first_of_its_people_is_due() -> None:
    queue, gate, order = Queue(), Gate(), []
    queue.submit("first", "work", gate, owner="ada")
    assert gate.began.wait(10)
    waiting = [
        queue.submit("b", "work", lambda _: order.append("b"), owner="bob"),
        queue.submit("b2", "work", lambda _: order.append("b2"), owner="bob"),
        queue.submit("shared", "work", lambda _: order.append("shared"), owner="ada"),
    ]
    queue.submit("shared", "work", lambda _: None, owner="cy")
    gate.may_go_on.set()
    for job in waiting:
        ended(job)
    assert order == ["b", "shared", "b2"]


def test_one_person_cannot_fill_the_line() -> None:
    queue, gate = Queue(), Gate()
    queue.submit("first", "work", gate, owner="ada")
    for number in range(jobs._MOST_LIVE - 1):
        queue.submit(f"{number}", "work", lambda _: None, owner="ada")
    with pytest.raises(TooManyJobs, match="You have 30 jobs"):
        queue.submit("one more", "work", lambda _: None, owner="ada")
    other = queue.submit("other", "work", lambda _: 1, owner="bob")
    gate.may_go_on.set()
    assert ended(other).result == 1


# ---- pause ----------------------------------------------------------------------------------------------------------


class Steps:
    """Work of many steps, each of which it takes when it is told to."""

    def __init__(self, total: int = 6) -> None:
        self.total, self.may_step = total, threading.Semaphore(0)

    def __call__(self, on_step: OnStep) -> str:
        for done in range(1, self.total + 1):
            assert self.may_step.acquire(timeout=120)
            on_step(Step(done, self.total, partial=done))
        return "whole"

    def go(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.may_step.release()


def at_step(job: Job, done: int) -> None:
    until(lambda: job.step is not None and job.step.done == done)


def test_a_pause_acts_at_the_next_step_and_the_next_job_runs_meanwhile() -> None:
    queue, steps = Queue(), Steps()
    job = queue.submit("long", "work", steps, owner="ada")
    steps.go()
    at_step(job, 1)
    assert queue.pause(job, owner="ada")
    assert job.is_stopping
    assert job.state is State.RUNNING
    steps.go(5)
    until(lambda: job.state is State.PAUSED)
    assert job.step == Step(2, 6, partial=2)
    assert not job.is_stopping
    assert ended(queue.submit("short", "work", lambda _: 1, owner="bob")).result == 1
    spent = job.seconds
    time.sleep(0.05)
    assert job.seconds == spent  # a pause does not count
    queue.resume(job)
    assert ended(job).result == "whole"
    assert job.seconds >= spent


def test_a_resumed_job_waits_for_its_turn() -> None:
    queue, steps, gate = Queue(), Steps(2), Gate()
    job = queue.submit("long", "work", steps, owner="ada")
    queue.pause(job, owner="ada")
    steps.go(2)
    until(lambda: job.state is State.PAUSED)
    other = queue.submit("other", "work", gate, owner="bob")
    assert gate.began.wait(10)
    queue.resume(job)
    assert job.state is State.WAITING
    assert queue.num_ahead(job) == 1
    gate.may_go_on.set()
    assert ended(other).result == ended(job).result == "whole"


def test_a_job_that_waits_can_be_paused_and_resumed() -> None:
    queue, gate = Queue(), Gate()
    queue.submit("first", "work", gate, owner="ada")
    assert gate.began.wait(10)
    job = queue.submit("second", "work", lambda _: 2, owner="ada")
    assert queue.pause(job, owner="ada")
    assert job.state is State.PAUSED
    gate.may_go_on.set()
    assert ended(queue.submit("third", "work", lambda _: 3, owner="ada")).result == 3
    assert job.state is State.PAUSED
    queue.resume(job)
    assert ended(job).result == 2


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_paused_job_can_be_cancelled_at_once(has_begun: bool) -> None:
    queue, gate, steps = Queue(), Gate(), Steps()
    if not has_begun:
        queue.submit("first", "work", gate, owner="ada")
        assert gate.began.wait(10)
    job = queue.submit("long", "work", steps, owner="ada")
    queue.pause(job, owner="ada")
    steps.go(6)
    until(lambda: job.state is State.PAUSED)
    queue.cancel(job, owner="ada")
    assert ended(job).state is State.CANCELLED
    gate.may_go_on.set()
    assert ended(queue.submit("next", "work", lambda _: 1, owner="ada")).result == 1


def test_a_job_is_not_paused_for_others_who_wait_for_it_and_goes_on_for_who_joins() -> None:
    queue, steps = Queue(), Steps()
    job = queue.submit("long", "work", steps, owner="ada")
    queue.submit("long", "work", steps, owner="bob")
    assert not queue.pause(job, owner="ada")
    queue.cancel(job, owner="bob")
    assert queue.pause(job, owner="ada")
    steps.go(6)
    until(lambda: job.state is State.PAUSED)
    queue.submit("long", "work", steps, owner="cy")
    assert ended(job).result == "whole"


def test_only_so_many_jobs_keep_memory_while_they_are_paused() -> None:
    queue, gate = Queue(), Gate()
    queue.submit("first", "work", gate, owner="ada")
    waiting = [queue.submit(f"{number}", "work", lambda _: None, owner="ada") for number in range(4)]
    for job in waiting[:3]:
        queue.pause(job, owner="ada")
    with pytest.raises(TooManyJobs, match="3 jobs are paused"):
        queue.pause(waiting[3], owner="ada")
    gate.may_go_on.set()


def test_a_pause_without_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_LONGEST_PAUSE_SECONDS", 0.02)
    queue, steps = Queue(), Steps()
    job = queue.submit("long", "work", steps, owner="ada")
    queue.pause(job, owner="ada")
    steps.go(6)
    assert ended(job).state is State.CANCELLED
    assert "six hours" in job.error


# ---- long jobs let others go on -------------------------------------------------------------------------------------


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TURN_SECONDS", 0.0)


@pytest.mark.usefixtures("short_turns")
def test_a_long_job_is_set_aside_for_somebody_else_and_goes_on_after() -> None:
    queue, steps = Queue(), Steps()
    long = queue.submit("long", "work", steps, owner="ada")
    steps.go()
    at_step(long, 1)
    gate = Silent()
    short = queue.submit("short", "work", gate, owner="bob")
    steps.go()
    assert gate.began.wait(10)
    until(lambda: (long.state, short.state) == (State.WAITING, State.RUNNING))
    assert long.step == Step(2, 6, partial=2)
    assert queue.num_ahead(long) == 1
    gate.may_go_on.set()
    steps.go(4)
    assert ended(short).result == ended(long).result == "whole"


@pytest.mark.usefixtures("short_turns")
def test_long_jobs_take_turns_and_who_comes_later_stands_behind_them() -> None:
    queue, order = Queue(), []

    def noting(name: str) -> Callable[[OnStep], str]:
        def work(on_step: OnStep) -> str:
            for done in range(1, 4):
                order.append(f"{name}{done}")
                on_step(Step(done, 3))
            return name

        return work

    gate = Silent()
    queue.submit("first", "work", gate, owner="eve")
    assert gate.began.wait(10)
    waiting = [queue.submit(name, "work", noting(name), owner=name) for name in "abc"]
    gate.may_go_on.set()
    assert [ended(job).result for job in waiting] == ["a", "b", "c"]
    assert order == ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]


@pytest.mark.usefixtures("short_turns")
def test_no_job_is_set_aside_for_its_own_people_or_where_many_are() -> None:
    queue, gate, order = Queue(), Gate(), []
    queue.submit("first", "work", gate, owner="ada")
    assert gate.began.wait(10)
    own = queue.submit("own", "work", lambda _: order.append("own"), owner="ada")
    paused = [queue.submit(f"{number}", "work", Steps(0), owner="bob") for number in range(3)]
    for job in paused:
        job._has_begun = job._pause = True  # as if each had been paused at work
        queue._leave(job)
        job.state = State.PAUSED
    other = queue.submit("other", "work", lambda _: order.append("other"), owner="cy")
    gate.may_go_on.set()
    for job in (own, other):
        ended(job)
    assert order == ["other", "own"]
    assert queue.find("first").result == "whole"


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("after", ["pause", "cancel"])
def test_a_job_that_was_set_aside_can_be_paused_and_cancelled(after: str) -> None:
    queue, steps, gate = Queue(), Steps(), Silent()
    long = queue.submit("long", "work", steps, owner="ada")
    short = queue.submit("short", "work", gate, owner="bob")
    steps.go()
    assert gate.began.wait(10)
    assert long.state is State.WAITING
    if after == "pause":
        assert queue.pause(long, owner="ada")
        assert long.state is State.PAUSED
        gate.may_go_on.set()
        assert ended(short).result == "whole"
        assert long.state is State.PAUSED
        queue.resume(long)
        steps.go(5)
        assert ended(long).result == "whole"
    else:
        queue.cancel(long, owner="ada")
        assert ended(long).state is State.CANCELLED
        gate.may_go_on.set()
        assert ended(short).result == "whole"
        assert long.state is State.CANCELLED
    assert queue.live() == []


@pytest.mark.usefixtures("short_turns")
def test_of_one_group_none_begins_before_another_has_ended() -> None:
    queue, steps, order = Queue(), Steps(), []
    first = queue.submit("first", "work", steps, owner="ada", group="index")
    second = queue.submit("second", "work", lambda _: order.append("second"), owner="bob", group="index")
    other = queue.submit("other", "work", lambda _: order.append("other"), owner="cy")
    assert queue.live() == [first, other, second]
    steps.go()
    assert ended(other).state is State.DONE
    at_step(first, 1)
    assert (first.step.done, second.state) == (1, State.WAITING)
    steps.go(5)
    assert ended(first).result == "whole"
    ended(second)
    assert order == ["other", "second"]


def test_what_another_of_its_group_waits_for_goes_on() -> None:
    queue, steps = Queue(), Steps()
    first = queue.submit("first", "work", steps, owner="ada", group="index")
    queue.pause(first, owner="ada")
    steps.go()
    until(lambda: first.state is State.PAUSED)
    second = queue.submit("second", "work", lambda _: 2, owner="bob", group="index")
    until(lambda: first.state is State.RUNNING)
    assert second.state is State.WAITING
    assert queue.is_awaited(first, owner="ada")
    assert not queue.pause(first, owner="ada")
    assert queue.pause(second, owner="bob")
    assert not queue.is_awaited(first, owner="ada")
    assert queue.pause(first, owner="ada")
    steps.go()
    until(lambda: first.state is State.PAUSED)
    queue.resume(second)
    steps.go(4)
    assert ended(first).result == "whole"
    assert ended(second).result == 2


def test_the_end_of_a_job_that_is_aside_lets_the_next_of_its_group_begin() -> None:
    queue, steps = Queue(), Steps()
    first = queue.submit("first", "work", steps, owner="ada", group="index")
    queue.pause(first, owner="ada")
    steps.go()
    until(lambda: first.state is State.PAUSED)
    queue.cancel(first, owner="ada")
    assert ended(queue.submit("second", "work", lambda _: 2, owner="bob", group="index")).result == 2
    assert ended(first).state is State.CANCELLED


def test_who_comes_while_others_wait_stands_behind_them_also_for_the_first_time() -> None:
    queue, gate, order = Queue(), Gate(), []
    ended(queue.submit("before", "work", lambda _: None, owner="ada"))
    queue.submit("first", "work", gate, owner="eve")
    assert gate.began.wait(10)
    asked = ["ada", "new"]
    waiting = [queue.submit(name, "work", lambda _, name=name: order.append(name), owner=name) for name in asked]
    gate.may_go_on.set()
    for job in waiting:
        ended(job)
    assert order == asked


# ---- the line outlives what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["compute()", "pool.submit(compute).result()"])
def test_a_job_at_work_when_python_ends_neither_aborts_the_process_nor_fails(call: str) -> None:
    script = f"""
import torch
from concurrent.futures import ThreadPoolExecutor
from cnnviz_core import journal
from cnnviz_core.jobs import Queue
from cnnviz_core.results import Step

net, pool = torch.nn.Conv2d(3, 64, 3), ThreadPoolExecutor(1)
journal.bug = lambda error, **_: print(repr(error), flush=True)
def compute():
    return net(torch.rand(1, 3, 96, 96, requires_grad=True)).sum().backward()

def work(on_step):
    while True:
        for _ in range(20):
            {call}
        on_step(Step(1, 2))

queue = Queue()
job = queue.submit("key", "work", work, owner="ada")
queue.submit("next", "waits", work, owner="ben")
while job.step is None:
    pass
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_an_accelerator_that_has_failed_does_not_stop_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(jobs.startup, "release_memory", fails)
    queue = Queue()

    def broken(on_step: OnStep) -> None:
        raise RuntimeError("device-side assert triggered")

    assert ended(queue.submit("a", "work", broken, owner="me")).state is State.FAILED
    assert ended(queue.submit("b", "work", lambda _: 1, owner="me")).result == 1


def test_no_memory_for_a_copy_on_disk_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    queue, records = server(tmp_path)
    monkeypatch.setattr(records.results, "save", fails)
    job = ended(queue.submit("a", "work", lambda _: 1, owner="me"))
    assert (job.state, job.result) == (State.DONE, 1)
    assert "kept in memory only" in job.notice
    assert ended(queue.submit("b", "work", lambda _: 2, owner="me")).result == 2


def test_where_no_thread_can_be_had_the_job_stays_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = Queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(RuntimeError):
            queue.submit("a", "work", lambda _: 1, owner="me")
    assert ended(queue.submit("b", "work", lambda _: 2, owner="me")).result == 2
    assert ended(queue.find("a")).result == 1


def test_a_job_cancelled_on_its_way_back_from_a_pause_stays_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, steps, gate = Queue(), Steps(), Gate()
    job = queue.submit("long", "work", steps, owner="ada")
    queue.pause(job, owner="ada")
    steps.go()
    until(lambda: job.state is State.PAUSED)
    other = queue.submit("other", "work", gate, owner="bob")
    assert gate.began.wait(10)
    queue.resume(job)
    is_tidying, may_leave = threading.Event(), threading.Event()

    def slow() -> None:
        if threading.current_thread().name == "cnnviz-job" and not is_tidying.is_set():
            is_tidying.set()
            assert may_leave.wait(10)

    monkeypatch.setattr(jobs.startup, "release_memory", slow)
    queue.cancel(job, owner="ada")
    assert is_tidying.wait(10)
    gate.may_go_on.set()
    ended(other)
    until(lambda: queue._at_work is None)
    assert job.state is State.CANCELLED
    may_leave.set()
    assert ended(queue.submit("next", "work", lambda _: 3, owner="bob")).result == 3
    assert job.state is State.CANCELLED


# ---- other people's quick computations ------------------------------------------------------------------------------


def test_between_two_steps_quick_computations_go_first() -> None:
    turns, order = Turns(1), []
    queue, steps = Queue(turns=turns), Steps(2)
    job = queue.submit("long", "work", steps, owner="ada")
    steps.go()
    at_step(job, 1)
    with turns.take():
        steps.go()
        at_step(job, 2)
        time.sleep(0.05)
        order.append("quick")
        assert job.is_live  # it waits after its step
    ended(job)
    assert job.result == "whole"


def test_long_work_comes_to_its_end_however_many_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnviz_core.turns._GIVES_WAY_SECONDS", 0.02)
    turns = Turns(1)
    queue = Queue(turns=turns)
    with turns.take():
        assert ended(queue.submit("long", "work", Steps(0), owner="ada")).result == "whole"
        steps = Steps(3)
        steps.go(3)
        assert ended(queue.submit("longer", "work", steps, owner="ada")).result == "whole"


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_frees_what_was_held_and_says_what_to_lower(error: Exception) -> None:
    watched = []

    def hungry(on_step: OnStep) -> None:
        held = torch.zeros(1000)
        watched.append(weakref.ref(held))
        held.mine = held  # only the collector finds it
        raise error

    hint = "Lower the picture size"
    job = ended(Queue().submit("a", "DeepDream", hungry, owner="ada", hint=hint))
    assert job.state is State.FAILED
    assert job.error.startswith("DeepDream ran out of memory")
    assert job.error.endswith("Lower the picture size.")
    error.__traceback__ = None  # the test itself holds on to the error
    gc.collect()
    assert watched[0]() is None


# ---- after the server has gone --------------------------------------------------------------------------------------

DETAILS = Details("pages/explain/occlusion.py", {"patch": ["8"]}, {"network": "tiny", "patch px": "8"})


def server(folder: Path, **options: int) -> tuple[Queue, Records]:
    """A server that starts now on this folder; the one before, if any, is told by its lock."""
    records = Records(folder, results_mb=options.get("results_mb", 10))
    return Queue(records=records, max_finished=options.get("max_finished", 64)), records


def killed(records: Records) -> None:
    """What the system does with the lock of a process that ends."""
    records._alive.release()


def test_a_result_is_found_by_the_next_server(tmp_path: Path) -> None:
    queue, before = server(tmp_path)
    value = np.arange(4, dtype=np.float32)
    done = ended(queue.submit("key", "Occlusion", lambda _: {"a": value}, owner="ada", details=DETAILS))
    killed(before)
    again, records = server(tmp_path)
    job = again.find("key")
    assert job.state is State.DONE
    assert (job.result["a"] == value).all()
    assert job.asked_by == {"ada"}
    (record,) = records.all()
    assert (record.title, record.state, record.people) == ("Occlusion", State.DONE, ("ada",))
    assert (record.page, record.link, record.about) == (DETAILS.page, DETAILS.link, DETAILS.about)
    assert record.seconds == pytest.approx(done.seconds)
    ran = []
    assert again.submit("key", "Occlusion", lambda _: ran.append(1), owner="bob").result is job.result
    assert not ran
    assert again.find("another key") is None


def test_a_job_that_the_server_took_with_it_is_interrupted_and_can_be_run_again(tmp_path: Path) -> None:
    queue, before = server(tmp_path)
    gate = Gate()
    queue.submit("running", "work", gate, owner="ada", details=DETAILS)
    assert gate.began.wait(10)
    queue.submit("waiting", "work", lambda _: 1, owner="ada")
    assert {record.state for record in Records(tmp_path, results_mb=1).all()} <= {State.WAITING, State.RUNNING}
    killed(before)
    again, records = server(tmp_path)
    assert [record.state for record in records.all()] == [State.INTERRUPTED] * 2
    job = again.find("running")
    assert (job.state, job.asked_by) == (State.INTERRUPTED, {"ada"})
    assert not job.can_be_joined
    assert ended(again.submit("running", "work", lambda _: 2, owner="ada")).result == 2
    assert sorted(record.state for record in records.all()) == [State.DONE, State.INTERRUPTED]
    gate.may_go_on.set()


def test_how_jobs_ended_is_kept(tmp_path: Path) -> None:
    queue, records = server(tmp_path)

    def bad(on_step: OnStep) -> None:
        raise BadSetting("The patch is larger than the picture.")

    gate = Gate()
    gone = queue.submit("gone", "work", gate, owner="ada")
    assert gate.began.wait(10)
    queue.cancel(gone, owner="ada")
    gate.may_go_on.set()
    ended(gone)
    ended(queue.submit("bad", "work", bad, owner="ada"))
    found = {record.state: record for record in records.all()}
    assert set(found) == {State.CANCELLED, State.FAILED}
    assert found[State.FAILED].error == "The patch is larger than the picture."
    assert all(record.ended >= record.asked > 0 for record in found.values())


def test_what_memory_does_not_hold_any_more_is_read_from_disk(tmp_path: Path) -> None:
    queue, _ = server(tmp_path, max_finished=1)
    for key in "abc":
        ended(queue.submit(key, "work", lambda _, key=key: key.upper(), owner="ada"))
    assert [queue.find(key).result for key in "abc"] == ["A", "B", "C"]


def test_whether_a_job_lives_is_told_without_reading_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, gate = Queue(max_finished=1, records=Records(tmp_path, results_mb=10)), Gate()
    waiting = queue.submit("waits", "Waits", gate, owner="ada")
    gone = queue.submit("gone", "Gone", lambda _: "there", owner="ada")
    assert queue.find_live("waits") is waiting
    assert queue.find_live("gone") is gone  # in the line
    gate.may_go_on.set()
    ended(gone)
    ended(queue.submit("last", "Last", lambda _: "there", owner="ada"))  # only it stays in memory
    monkeypatch.setattr(queue._records.results, "load", lambda _: pytest.fail("a result was read"))
    assert [queue.find_live(key) for key in ("waits", "gone", "last", "unheard of")] == [None] * 4


def test_finished_results_are_bounded_by_memory_and_come_back_from_disk(tmp_path: Path) -> None:
    queue = Queue(max_mb=2, records=Records(tmp_path, results_mb=10))
    jobs_done = [ended(queue.submit(key, key, lambda _: np.ones(150_000), owner="ada")) for key in "abc"]  # 1.1 MB
    watched = [weakref.ref(job) for job in jobs_done]
    del jobs_done
    gc.collect()
    assert [there() is not None for there in watched] == [False, False, True]
    found = queue.find("a")
    assert found is not None
    np.testing.assert_array_equal(found.result, np.ones(150_000))
    unkept = Queue(max_mb=2)
    for key in "abc":
        ended(unkept.submit(key, key, lambda _: np.ones(150_000), owner="ada"))
    assert all(unkept.find(key) for key in "abc")  # nothing that would be lost


def test_a_result_of_other_code_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, records = server(tmp_path)
    ended(queue.submit("a", "work", lambda _: 1, owner="ada"))
    assert records.all()[0].is_of_this_version
    monkeypatch.setattr(job_records, "_code", lambda: "newer")
    again, records = server(tmp_path)
    assert again.find("a") is None
    assert not records.all()[0].is_of_this_version


def test_a_result_that_is_no_plain_data_is_kept_in_memory(tmp_path: Path) -> None:
    queue, records = server(tmp_path)
    job = ended(queue.submit("a", "work", lambda _: object(), owner="ada"))
    assert queue.find("a") is job
    assert not job.notice
    assert not records.results.has(records.all()[0].name)


def test_a_full_disk_is_said_and_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    queue, _ = server(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        job = ended(queue.submit("a", "work", lambda _: 1, owner="ada"))
        assert (job.state, job.result) == (State.DONE, 1)
        assert "kept in memory only" in job.notice
        assert "No space left on device" in job.notice
    assert ended(queue.submit("b", "work", lambda _: 2, owner="ada")).notice == ""
    assert not list(tmp_path.glob(".part-*"))


def test_two_people_and_one_job_in_the_list(tmp_path: Path) -> None:
    queue, records = server(tmp_path)
    gate = Gate()
    job = queue.submit("a", "work", gate, owner="ada")
    queue.submit("a", "work", gate, owner="bob")
    gate.may_go_on.set()
    ended(job)
    (record,) = records.all()
    assert record.people == ("ada", "bob")
    records.remove(record.name, person="cy")
    records.remove(record.name, person="ada")
    assert records.all()[0].people == ("bob",)
    assert records.results.has(record.name)
    records.remove(record.name, person="bob")
    assert records.all() == []
    assert not records.results.has(record.name)
