"""Long work: a line of people waiting, one job at a time, progress with what is there so far, pause and cancel.

A job is a function that reports its steps. It runs in a thread of its own, not of a session, so that it goes on when
its owner leaves the page, reloads or closes the tab, and is found again by its key: what it computes, from what, with
which settings. Whoever asks for the same thing meanwhile shares the job.

Everything that people may ask of a job happens between two of its steps: it stops for a pause or a cancel, and lets the
quick computations of other people go first (:class:`~cnnviz_core.turns.Turns`). With
:class:`~cnnviz_core.job_records.Records`, jobs and their results outlive the server.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401
import gc
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cnnviz_core import journal, startup
from cnnviz_core.errors import CnnvizError
from cnnviz_core.job_records import Details, Record, Records, State, name_of
from cnnviz_core.result_files import num_bytes
from cnnviz_core.results import Step
from cnnviz_core.store import StorageFailed
from cnnviz_core.turns import Turns

OnStep = Callable[[Step], None]
Work = Callable[[OnStep], object]

_MOST_LIVE = 30  # of one person
_MOST_ASIDE = 3  # paused or set aside; each keeps the memory that it works with
_TURN_SECONDS = 60.0  # after which a job lets somebody else's go on, if one waits
_LONGEST_PAUSE_SECONDS = 6 * 3600.0
_HALT_SECONDS = 8.0  # less than what a container is given to stop
_HINT = "Try a smaller picture, fewer channels or pictures at once, or a smaller network"


_queues: weakref.WeakSet[Queue] = weakref.WeakSet()
_halting = threading.Event()


def _halt() -> None:
    """Stops every job between two of its steps before Python ends; the next server lists it as interrupted.

    A thread that is still in native code when Python takes its threads away would end the process with an abort.
    """
    _halting.set()
    deadline = time.monotonic() + _HALT_SECONDS
    while any(queue.is_at_work for queue in _queues) and time.monotonic() < deadline:
        time.sleep(0.01)


# Like atexit, but before the thread pools close, which a job at work would take for an error of its own: what was
# registered last comes first, and the pools' module has been imported above.
threading._register_atexit(_halt)  # type: ignore[attr-defined]


class TooManyJobs(CnnvizError):
    """More waiting or paused jobs than are kept."""


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
        error: Why it failed or was ended, as a sentence; empty otherwise.
        notice: What else is to be said of its result, as a sentence: that it could not be kept on disk.
        owners: People who wait for it.
        asked_by: People who ever did; how it ended without a result concerns only them.
        by_itself: Whether a page began it and nobody pressed a button for it; its owners' clicks go before it.
        was_let_go: Whether it ended because what it was for has gone, not because somebody did not want it.
        is_stopping: Whether it was asked to pause or end and has not come to its next step.
        seconds: How long it has run, pauses left out; once it has ended, how long it took.
    """

    key: str
    title: str
    state: State = State.WAITING
    step: Step | None = None
    result: object = None
    error: str = ""
    notice: str = ""
    owners: set[str] = field(default_factory=set)
    asked_by: set[str] = field(default_factory=set)
    by_itself: bool = False
    was_let_go: bool = False
    _record: Record | None = None
    _group: str = ""
    _hint: str = _HINT
    _has_begun: bool = False
    _is_on_disk: bool = False
    _bytes: int = 0  # of its result, or of what was there of it
    _cancel: bool = False
    _pause: bool = False
    _ran: float = 0.0
    _since: float = 0.0

    @property
    def record(self) -> Record | None:
        """What is kept of it on disk."""
        return self._record

    @property
    def is_live(self) -> bool:
        """Whether it waits, runs or is paused."""
        return self.state.is_live

    @property
    def is_stopping(self) -> bool:
        """See the class."""
        return self.is_live and (self._cancel or (self._pause and self.state is not State.PAUSED))

    @property
    def can_be_joined(self) -> bool:
        """Whether who asks for the same work may share it: it lives and was not cancelled, or has succeeded."""
        return self.state is State.DONE or (self.is_live and not self._cancel)

    @property
    def seconds(self) -> float:
        """See the class."""
        return self._ran + (time.monotonic() - self._since if self._since else 0.0)

    @property
    def steps_per_second(self) -> float | None:
        """Its pace so far; None before the first step."""
        if self.step is None or not self.step.done or not self.seconds:
            return None
        return self.step.done / self.seconds

    @property
    def seconds_left(self) -> float | None:
        """Time still needed, as the work itself says or at the present pace; None before the first step."""
        if self.step is not None and self.step.seconds_left is not None:
            return self.step.seconds_left
        pace = self.steps_per_second
        return None if pace is None or self.step is None else max(0, self.step.total - self.step.done) / pace

    def _start_clock(self) -> None:
        self._since = time.monotonic()

    def _stop_clock(self) -> None:
        self._ran, self._since = self.seconds, 0.0


class Queue:
    """Jobs of many people, one at a time; the last results are kept.

    Whose last turn is longest ago has the next one; who has just come stands behind those who wait already. Of one
    person's jobs, those that they asked for go before those that a page began by itself. A turn ends with the job, with
    a pause, and at the first step after a minute when somebody else waits, or at once when what began by itself stands
    before a click of its owner: then the job is set aside, keeps what it has, and goes on when it is its turn again.
    Jobs of one group do not take turns, since each would hold what the other needs: who comes later begins when the
    one that has begun ends, and until then that one is not paused.

    Args:
        max_finished: Finished jobs to keep in memory; the oldest go first.
        max_mb: Memory for them, likewise; what is not on disk stays, and so does the last one.
        records: Where jobs and results are kept beyond that; None for nowhere.
        turns: Quick computations that go between the steps.
    """

    def __init__(
        self,
        *,
        max_finished: int = 64,
        max_mb: int = 512,
        records: Records | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._work: dict[Job, Work] = {}  # not begun
        self._line: list[Job] = []  # waiting for their turn, in the order in which they came
        self._begun: list[Job] = []  # and not ended: at work, set aside or paused
        self._at_work: Job | None = None
        self._waits_since: dict[str, float] = {}  # each person in the line: since they came, or since their last turn
        self._max_finished, self._max_bytes = max_finished, max_mb * 2**20
        self._records = records
        self._turns = turns
        self._changed = threading.Condition()
        _queues.add(self)

    @property
    def is_at_work(self) -> bool:
        """Whether a job is being computed."""
        return self._at_work is not None

    def submit(
        self,
        key: str,
        title: str,
        work: Work,
        *,
        owner: str,
        details: Details | None = None,
        group: str = "",
        hint: str = _HINT,
        by_itself: bool = False,
    ) -> Job:
        """The job of that key: the one that lives or has succeeded, else a new one in the line.

        Args:
            key: What is computed; the same words for the same thing, also after a restart.
            title: For people.
            work: Takes ``on_step``.
            owner: Who wants it.
            details: What people see of it.
            group: Equal for jobs of which one must end before another begins; empty for nothing but the key.
            hint: Sentence without its full stop that says which setting to lower where memory runs out.
            by_itself: Whether the owner did not ask for it, but opened a page that needs it.

        Raises:
            TooManyJobs: The owner has many already.
        """
        with self._changed:
            job = self._jobs.get(key)
            if job is None or not job.can_be_joined:
                self._check_number(owner)
                job = self._jobs[key] = Job(key, title, by_itself=by_itself, _group=group or key, _hint=hint)
                self._jobs.move_to_end(key)
                if self._records:
                    job._record = self._records.begin(key, title, details or Details(), person=owner)
                self._work[job] = work
                self._line.append(job)
                self._drop_oldest()
            elif job._record is not None and owner not in job._record.people:
                job._record = replace(job._record, people=(*job._record.people, owner))
            job.by_itself &= by_itself
            if job.is_live:
                self._arrive(owner)
                job.owners.add(owner)
                self._resume(job)
            job.asked_by.add(owner)
            self._write(job, job.state)
            self._advance()
        return job

    def find(self, key: str) -> Job | None:
        """The job of that key, if there is one: in memory, else finished or interrupted on disk."""
        with self._changed:
            job = self._jobs.get(key)
        if job is None and self._records is not None:
            job = self._read(key, self._records)
        return job

    def find_live(self, key: str) -> Job | None:
        """The job of that key, if it waits, runs or is paused; no finished result is read from disk for it."""
        with self._changed:
            job = self._jobs.get(key)
        return job if job is not None and job.is_live else None

    def live(self) -> list[Job]:
        """The jobs that wait, run or are paused, in the order in which they will have their turn; paused ones last."""
        with self._changed:
            paused = [job for job in self._jobs.values() if job.state is State.PAUSED]
            at_work = [self._at_work] if self._at_work is not None and self._at_work.is_live else []
            return [*at_work, *self._order(), *paused]

    def num_ahead(self, job: Job) -> int:
        """Jobs that come before this one, as things are now."""
        line = self.live()
        return line.index(job) if job in line else 0

    def cancel(
        self,
        job: Job,
        *,
        owner: str,
        may_return: Callable[[str], bool] = lambda _owner: True,
        lets_go: bool = False,
    ) -> None:
        """Takes an owner off a job; one that nobody waits for any more ends at its next step.

        Args:
            job: Any job.
            owner: Who does not want it any more.
            may_return: Whether another owner is here or may come back; one that cannot waits for nothing.
            lets_go: Whether the owner would have it still, but what it was for has gone from the screen.
        """
        with self._changed:
            job.owners.discard(owner)
            if any(may_return(other) for other in job.owners) or not job.is_live:
                return
            job._cancel, job.was_let_go = True, lets_go
            if not job._has_begun:
                self._leave(job)
                self._end(job, State.CANCELLED)
            self._changed.notify_all()

    def is_awaited(self, job: Job, *, owner: str) -> bool:
        """Whether a job is wanted by other people than this one, or must end for another job to begin."""
        with self._changed:
            return job.owners != {owner} or any(job in self._before(other) for other in self._line)

    def pause(self, job: Job, *, owner: str) -> bool:
        """Stops a job at its next step until it is resumed. Returns whether it does: not while it is awaited.

        Raises:
            TooManyJobs: As many are paused as may be.
        """
        with self._changed:
            if not job.is_live or self.is_awaited(job, owner=owner):
                return False
            if sum(other._pause and other.is_live and other is not job for other in self._jobs.values()) >= _MOST_ASIDE:
                raise TooManyJobs(f"{_MOST_ASIDE} jobs are paused already; resume or cancel one of them first.")
            job._pause = True
            if job in self._line:
                self._leave(job)
                job.state = State.PAUSED
                self._changed.notify_all()
            return True

    def resume(self, job: Job) -> None:
        """Lets a paused job go on when it is its turn."""
        with self._changed:
            self._resume(job)
            self._advance()

    # ---- the line; all of these hold the condition ------------------------------------------------------------------

    def _check_number(self, owner: str) -> None:
        if sum(owner in job.owners and job.is_live for job in self._jobs.values()) >= _MOST_LIVE:
            raise TooManyJobs(f"You have {_MOST_LIVE} jobs waiting; cancel some of them on the page Activity.")

    def _arrive(self, owner: str) -> None:
        """Whoever has nothing in the line stands behind those who do."""
        if not any(owner in job.owners for job in (*self._line, self._at_work) if job is not None):
            self._waits_since[owner] = time.monotonic()

    def _before(self, job: Job) -> list[Job]:
        """What must end for a job to begin."""
        return [other for other in self._begun if other is not job and other._group == job._group]

    def _order(self) -> list[Job]:
        """The line as it will be served: whoever waits longest first, then whoever came first.

        Those that have another one of their group before them come last.
        """
        now, left, served = time.monotonic(), list(self._line), []
        since = dict(self._waits_since)
        if self._at_work is not None:
            since |= dict.fromkeys(self._at_work.owners, now)
        while left:
            job = min(
                left,
                key=lambda job: (
                    bool(self._before(job)),
                    min((since.get(owner, now) for owner in job.owners), default=now),
                    job.by_itself,
                ),
            )
            left.remove(job)
            served.append(job)
            since |= dict.fromkeys(job.owners, now + len(served))
        return served

    def _advance(self) -> None:
        """Gives the free turn to the first of the line."""
        if self._at_work is not None or not self._line or _halting.is_set():
            return
        job = self._order()[0]
        if self._before(job):
            return
        if not job._has_begun:
            # First, so that where no thread can be had the job is still in the line for the next who comes here.
            threading.Thread(target=self._do, args=(job, self._work[job]), name="cnnviz-job", daemon=True).start()
            del self._work[job]
            job._has_begun = True
            self._begun.append(job)
            journal.event("job started", title=job.title)
        self._line.remove(job)
        self._at_work, job.state = job, State.RUNNING
        job._start_clock()
        self._changed.notify_all()

    def _leave(self, job: Job) -> None:
        """Takes a job out of the line, or off its turn."""
        if job in self._line:
            self._line.remove(job)
        if self._at_work is job:
            self._end_turn(job)

    def _end_turn(self, job: Job) -> None:
        """Takes a job off its turn, which is the next one's then."""
        job._stop_clock()
        self._at_work = None
        now, in_line = time.monotonic(), {owner for other in self._line for owner in other.owners}
        since = self._waits_since
        self._waits_since = {owner: now if owner in job.owners else since.get(owner, now) for owner in in_line}
        self._advance()

    def _gives_way(self, job: Job) -> bool:
        """Whether another job is to go on in place of the one at work, and there is memory for it."""
        if self._at_work is not job or not self._line:
            return False
        ready = [other for other in self._order() if not self._before(other)]
        if not ready:
            return False
        following = ready[0]
        is_click = job.by_itself and any(not other.by_itself and other.owners & job.owners for other in ready)
        has_had_its_time = time.monotonic() - job._since >= _TURN_SECONDS and not following.owners <= job.owners
        num_aside = sum(other._has_begun and other.is_live for other in self._jobs.values()) - 1
        return (is_click or has_had_its_time) and (following._has_begun or num_aside < _MOST_ASIDE)

    def _resume(self, job: Job) -> None:
        """Ends the pause of a job, and of what must end before it."""
        for one in (*self._before(job), job):
            one._pause = False
            if one.state is State.PAUSED:
                for owner in one.owners:
                    self._arrive(owner)
                one.state = State.WAITING
                self._line.append(one)
                self._changed.notify_all()

    def _drop_oldest(self) -> None:
        finished = [job for job in self._jobs.values() if not job.is_live]
        num_bytes, num_left = sum(job._bytes for job in finished), len(finished)
        for job in finished[:-1]:
            if num_left > self._max_finished or (num_bytes > self._max_bytes and job._is_on_disk):
                del self._jobs[job.key]
                num_bytes, num_left = num_bytes - job._bytes, num_left - 1

    # ---- the work, in the thread of the job -------------------------------------------------------------------------

    def _do(self, job: Job, work: Work) -> None:
        try:
            state, result, error = self._outcome(job, work)
            job._stop_clock()
            if state is State.FAILED:  # only here, where no exception holds on to the frames of the work
                gc.collect()
                _release_memory(job)
            if state is State.DONE:
                self._keep(job, result)
            with self._changed:
                self._end(job, state, result=result, error=error)
            _release_memory(job)  # long work leaves hundreds of MB behind
        finally:
            with self._changed:
                self._begun.remove(job)
                self._leave(job)
                self._advance()  # also where it was not its turn: others may have waited for its end

    def _outcome(self, job: Job, work: Work) -> tuple[State, object, str]:
        """Does the work: what has become of it, its result, its error."""
        try:
            return State.DONE, work(lambda step: self._report(job, step)), ""
        except _Cancelled as why:
            return State.CANCELLED, None, str(why)
        except CnnvizError as problem:
            return State.FAILED, None, str(problem)
        except BaseException as problem:  # the line must outlive any job
            return State.FAILED, None, _what_failed(job, problem)

    def _report(self, job: Job, step: Step) -> None:
        """Takes a step from the work; waits here while it is not its turn, and ends the work if it was cancelled."""
        job.step = step
        if _halting.is_set():
            self._at_work = None
            threading.Event().wait()  # until the process ends
        with self._changed:
            if job._pause and not job._cancel:
                self._leave(job)
                job.state = State.PAUSED
                self._write(job, State.PAUSED)
            elif self._gives_way(job):
                self._line.append(job)
                job.state = State.WAITING
                self._end_turn(job)
            self._wait_for_turn(job)
        if self._turns is not None:
            self._turns.let_go_first()
        if job._cancel:
            raise _Cancelled

    def _wait_for_turn(self, job: Job) -> None:
        """Returns when a job is at work; a pause ends with a resume, and then there may be a line before it."""
        while self._at_work is not job and not job._cancel:
            waited = job.state
            is_over = self._changed.wait_for(
                lambda waited=waited: job._cancel or job.state is not waited,  # type: ignore[misc]
                timeout=_LONGEST_PAUSE_SECONDS if waited is State.PAUSED else None,
            )
            if not is_over:
                job._cancel = True
                raise _Cancelled("A pause ends after six hours, since it keeps memory from others.")
        if job._cancel:
            raise _Cancelled

    def _end(self, job: Job, state: State, *, result: object = None, error: str = "") -> None:
        self._work.pop(job, None)
        if job in self._line:  # cancelled while it waited to go on
            self._line.remove(job)
        if (state is State.DONE or job.was_let_go) and job.step is not None:
            job.step = replace(job.step, partial=None)  # a second copy of the result, or what nobody sees again
        job.result, job.error = result, error
        job._bytes = num_bytes((result, job.step and job.step.partial))
        job._stop_clock()
        try:
            self._write(job, state)
        finally:
            job.state = state  # last, since whoever reads it may look for all the others
            if self._jobs.get(job.key) is job:
                self._jobs.move_to_end(job.key)  # the last to end is the last to go, however long it took
            self._drop_oldest()
        journal.event("job ended", title=job.title, state=state.value, seconds=round(job.seconds, 2))

    # ---- on disk ----------------------------------------------------------------------------------------------------

    def _keep(self, job: Job, result: object) -> None:
        if self._records is None or job._record is None:
            return
        try:
            self._records.results.save(job._record.name, result)
            job._is_on_disk = True
        except StorageFailed as error:
            journal.event("result not kept", title=job.title, level=logging.WARNING)
            job.notice = f"This result is kept in memory only, until the server ends. {error}"
        except Exception as error:  # memory for a copy of it, above all: the result itself is there
            journal.bug(error, where=job.title)
            job.notice = "This result is kept in memory only, until the server ends."

    def _write(self, job: Job, state: State) -> None:
        """Brings the record up to date; a disk that is full costs the record, never the job."""
        if self._records is None or job._record is None or self._jobs.get(job.key) is not job:
            return
        if state is State.CANCELLED and job.was_let_go:
            self._records.forget(job._record.name)  # nobody asked for it, so nobody looks for it
            return
        ended = 0.0 if state.is_live else (job._record.ended or time.time())
        job._record = replace(job._record, state=state, ended=ended, seconds=job.seconds, error=job.error)
        try:
            self._records.save(job._record)
        except StorageFailed:
            journal.event("job not recorded", title=job.title, level=logging.WARNING)

    def _read(self, key: str, records: Records) -> Job | None:
        """A job that this queue does not hold any more, or never held."""
        name = name_of(key)
        record, kept = records.find(name), records.results.load(name)
        if kept is None and (record is None or record.state is not State.INTERRUPTED):
            return None
        job = Job(key, record.title if record else "", State.INTERRUPTED if kept is None else State.DONE)
        job._record = record
        if record is not None:
            job._ran, job.asked_by = record.seconds, set(record.people)
        if kept is not None:
            job.result, job._is_on_disk, job._bytes = kept.value, True, num_bytes(kept.value)
        with self._changed:
            job = self._jobs.setdefault(key, job)
            self._drop_oldest()
        return job


def _release_memory(job: Job) -> None:
    """An accelerator that has failed says so again at every call, also at this one."""
    try:
        startup.release_memory()
    except RuntimeError as error:
        journal.bug(error, where=job.title)


def _what_failed(job: Job, problem: BaseException) -> str:
    """A sentence for the person; the log has the rest."""
    if startup.is_out_of_memory(problem):
        journal.event("job out of memory", title=job.title, kind=type(problem).__name__)
        return f"{job.title} ran out of memory, and what it held is free again. {job._hint}."
    bug_id = journal.bug(problem, where=job.title)
    return (
        f"{job.title} failed, which it should not have. Please tell whoever hosts this server the number {bug_id}; its "
        "log says more."
    )
