"""Long work: one line of people waiting, one worker, progress with what is there so far, and a cancel.

A job is a function that reports its steps. It runs in a thread of the queue, not of a session, so that it goes on when
its owner leaves the page, reloads or closes the tab, and is found again by its key: what it computes, from what, with
which settings. Whoever asks for the same thing meanwhile shares the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from cnnviz_core.errors import CnnvizError
from cnnviz_core.results import Step

_log = logging.getLogger("cnnviz")

OnStep = Callable[[Step], None]
Work = Callable[[OnStep], object]


class State(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class _Cancelled(BaseException):
    """Ends a job's work at its next step. Not an Exception, so that no method's own handler takes it."""


@dataclass(eq=False)
class Job:
    """One piece of long work; read it from any thread, change it through :class:`Queue` only.

    Attributes:
        key: What is computed; equal for equal work.
        title: For people.
        state: What has become of it.
        step: The last step reported; its ``partial`` is the result so far, also after a cancel.
        result: What the work returned.
        error: Why it failed, as a sentence; empty otherwise.
        owners: Sessions that wait for it.
        asked_by: Sessions that ever did; how it ended without a result concerns only them.
        seconds: How long it has run; once it has ended, how long it took.
    """

    key: str
    title: str
    state: State = State.WAITING
    step: Step | None = None
    result: object = None
    error: str = ""
    owners: set[str] = field(default_factory=set)
    asked_by: set[str] = field(default_factory=set)
    _cancel: threading.Event = field(default_factory=threading.Event)
    _started: float = 0.0
    _ended: float = 0.0

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (State.WAITING, State.RUNNING)

    @property
    def can_be_joined(self) -> bool:
        """Whether who asks for the same work may share it: it lives and was not cancelled, or has succeeded."""
        return self.state is State.DONE or (self.is_live and not self._cancel.is_set())

    @property
    def seconds(self) -> float:
        """Time it has run."""
        return ((self._ended or time.monotonic()) - self._started) if self._started else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time still needed at the present pace; None before the first step."""
        if self.step is None or not self.step.done:
            return None
        return self.seconds * (self.step.total - self.step.done) / self.step.done

    def report(self, step: Step) -> None:
        """Takes a step from the work, and ends the work here if it was cancelled."""
        self.step = step
        if self._cancel.is_set():
            raise _Cancelled


class Queue:
    """Jobs in the order in which they came, one at a time; the last finished ones are kept.

    Args:
        max_finished: Finished jobs to keep; the oldest go first.
    """

    def __init__(self, *, max_finished: int = 64) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self._max_finished = max_finished
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    def submit(self, key: str, title: str, work: Work, *, owner: str) -> Job:
        """The job of that key: the one that lives or has succeeded, else a new one at the end of the line."""
        with self._changed:
            job = self._jobs.get(key)
            if job is None or not job.can_be_joined:
                job = self._jobs[key] = Job(key, title)
                self._jobs.move_to_end(key)
                self._waiting[key] = work
                self._drop_oldest()
            job.owners.add(owner)
            job.asked_by.add(owner)
            self._ensure_worker()
            self._changed.notify()
        return job

    def find(self, key: str) -> Job | None:
        """The job of that key, if there is one."""
        with self._changed:
            return self._jobs.get(key)

    def num_ahead(self, job: Job) -> int:
        """Jobs that come before this one."""
        with self._changed:
            line = [other for other in self._jobs.values() if other.is_live]
            return line.index(job) if job in line else 0

    def cancel(self, job: Job, *, owner: str, is_here: Callable[[str], bool] = lambda _owner: True) -> None:
        """Takes an owner off a job; one that nobody waits for any more ends at its next step.

        Args:
            job: Any job.
            owner: Who does not want it any more.
            is_here: Whether another owner is still connected; one that has gone waits for nothing.
        """
        with self._changed:
            job.owners.discard(owner)
            if any(is_here(other) for other in job.owners) or not job.is_live:
                return
            job._cancel.set()
            if self._waiting.pop(job.key, None):
                self._end(job, State.CANCELLED)

    def _drop_oldest(self) -> None:
        finished = [key for key, job in self._jobs.items() if not job.is_live]
        for key in finished[: max(0, len(finished) - self._max_finished)]:
            del self._jobs[key]

    def _ensure_worker(self) -> None:
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._serve, name="cnnviz-jobs", daemon=True)
            self._worker.start()

    def _serve(self) -> None:
        while True:
            self._do(*self._next())

    def _do(self, job: Job, work: Work) -> None:
        try:
            result = work(job.report)
        except _Cancelled:
            self._end(job, State.CANCELLED)
        except CnnvizError as error:
            self._end(job, State.FAILED, error=str(error))
        except BaseException:  # the worker must outlive any job
            _log.exception("Job %s failed", job.title)
            self._end(job, State.FAILED, error=f"{job.title} failed; the server’s log says why.")
        else:
            self._end(job, State.DONE, result=result)

    def _next(self) -> tuple[Job, Work]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            key, work = self._waiting.popitem(last=False)
            job = self._jobs[key]
            job.state, job._started = State.RUNNING, time.monotonic()
            return job, work

    def _end(self, job: Job, state: State, *, result: object = None, error: str = "") -> None:
        with self._changed:
            job.result, job.error, job._ended = result, error, time.monotonic()
            job.state = state
