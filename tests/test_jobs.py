"""Long work: order, progress, cancel, failures, and that equal work is shared."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from cnnviz_core import jobs
from cnnviz_core.errors import BadSetting
from cnnviz_core.job_records import State
from cnnviz_core.jobs import Job, OnStep, Queue
from cnnviz_core.results import Step


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in 10 s"
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
    assert [key for key in "abcd" if queue.find(key)] == ["b", "c", "d"]


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
