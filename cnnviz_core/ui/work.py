"""Slow methods on a page: the cost first, one Run button, then progress with what is there so far, pause and cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from cnnviz_core import job_records, jobs, settings
from cnnviz_core.images import InputImage
from cnnviz_core.job_records import Details, Records, State
from cnnviz_core.jobs import Job, Queue
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import access, compute, frame, person, screen, setting_words
from cnnviz_core.ui.pickers import Selection

Asked = TypeVar("Asked")

_POLL_SECONDS = 0.5
_QUICK = "quick_"  # begins the name of the quick version of what is made in a place
_IN_MEMORY = 24  # finished results of a line; the others are read from disk


# By data folder. Not in Streamlit's caches, which any browser can have emptied, also while jobs run.
_records: dict[Path, Records] = {}
_lines: dict[Path, dict[str, Queue]] = {}
_lock = threading.Lock()


def records() -> Records:
    """What is known of every job, also of those before the last start."""
    chosen = settings.current()
    with _lock:
        if chosen.data_dir not in _records:
            _records[chosen.data_dir] = Records(chosen.data_dir / "jobs", results_mb=chosen.results_mb)
        return _records[chosen.data_dir]


def queue(line: str = "methods") -> Queue:
    """The jobs of one line; a line of its own keeps hours of indexing from holding up everybody’s seconds."""
    kept = records()
    with _lock:
        lines = _lines.setdefault(settings.current().data_dir, {})
        if line not in lines:
            lines[line] = Queue(
                max_finished=_IN_MEMORY,
                max_mb=settings.current().cache_mb,
                records=kept,
                turns=compute.turns,
            )
        return lines[line]


def live() -> list[tuple[Queue, Job]]:
    """Every job that waits, runs or is paused, each with its line."""
    with _lock:
        lines = list(_lines.get(settings.current().data_dir, {}).values())
    return [(line, job) for line in lines for job in line.live()]


def run(
    function: Callable[..., Any],
    chosen: Selection,
    *,
    name: str,
    title: str,
    cost: str,
    show: Callable[[Any], None],
    at_once: bool | None = False,
    hint: str = "",
    **settings: Any,
) -> Any | None:
    """Draws a slow method until it is done; as :func:`until_done`.

    Args:
        function: Takes model, image, the settings, and ``on_step``.
        chosen: Network and picture.
        name: Unique on the page.
        title: What is computed, for people.
        cost: What it takes, said before it is started.
        show: Draws what is there so far, while it runs.
        at_once: As in :func:`until_done`, like the next one.
        hint: See there.
        **settings: Keyword arguments of the function: numbers, strings, or sequences of them.
    """
    model, image = chosen.model, chosen.image
    return until_done(
        lambda on_step: function(model, image, on_step=on_step, **settings),
        key=key_of(function, model, image, settings),
        name=name,
        title=title,
        cost=cost,
        show=show,
        at_once=at_once,
        hint=hint,
        about=described(model, image, settings),
    )


def asked_or_quick(
    draw: Callable[..., Any | None], asked: Asked, quick: Asked, *, name: str, title: str, quick_title: str, below: str
) -> Any | None:
    """What was asked for, on demand; until it is there, a quick version of it, which starts by itself.

    A quick version that is still being made is let go when the other one is asked for; one that is there stays.

    Args:
        draw: Takes either of the two with ``name``, ``title`` and ``at_once``, which it gives to :func:`until_done`.
        asked: What was asked for.
        quick: The same, small and quick; equal to it where it is quick enough itself.
        name: Unique on the page.
        title: Of the asked one, for people.
        quick_title: Of the quick one.
        below: What the quick one is, in words that follow "Below:".

    Returns:
        The result of either; None until one is there.
    """
    is_quick = quick == asked
    found = draw(asked, name=name, title=title, at_once=is_quick)
    if found is not None or is_quick:
        return found
    is_under_way = name in _under_way()
    found = draw(quick, name=f"{_QUICK}{name}", title=quick_title, at_once=None if is_under_way else True)
    if found is not None:
        st.caption(f"Below: {below}." + ("" if is_under_way else " Run it for what you asked for."))
    return found


def described(model: LoadedModel, image: InputImage | None, settings: Mapping[str, object]) -> dict[str, str]:
    """What the list of jobs says of work on a network, and maybe a picture, with these settings."""
    words = setting_words.of(settings, class_names=model.class_names)
    return {"network": model.spec.title, **({"picture": image.name} if image else {}), **words}


def key_of(
    function: Callable[..., Any], model: LoadedModel, image: InputImage | None, settings: Mapping[str, Any]
) -> str:
    """What a job computes that runs a function on a network, and maybe a picture, with these settings."""
    return repr((compute.key(function, model, image), sorted(settings.items())))


def begin(work: jobs.Work, *, key: str, title: str, about: Mapping[str, object]) -> None:
    """Starts long work that the person will soon ask for, unless somebody did; :func:`until_done` then joins it.

    Args:
        work: Takes ``on_step``.
        key: As in :func:`until_done`, like the others.
        title: See there.
        about: See there.
    """
    job = queue().find(key)
    if job is None or job.was_let_go:
        _begun()[f"ahead {key}"] = frame.page().path, "methods", key
        queue().submit(key, title, _keeping(work), owner=person.me(), details=_details(about), by_itself=True)


def finished(key: str) -> Any | None:
    """The result of long work, where it is there already; takes the key of :func:`until_done`."""
    job = queue().find(key)
    return job.result if job is not None and job.state is State.DONE else None


def until_done(
    work: jobs.Work,
    *,
    key: str,
    name: str,
    title: str,
    cost: str,
    show: Callable[[Any], None] | None = None,
    at_once: bool | None = False,
    line: str = "methods",
    group: str = "",
    hint: str = "",
    about: Mapping[str, object] | None = None,
    right: str = "",
) -> Any | None:
    """Draws long work until it is done: a button to start it, then its progress.

    Args:
        work: Takes ``on_step``.
        key: What is computed; whoever asks for the same key shares the work, and its result is found again by it, also
            after a restart.
        name: Unique on the page.
        title: What is computed, for people.
        cost: What it takes, said before it is started.
        show: Draws what is there so far, while it runs; None for nothing to show.
        at_once: Whether it starts by itself when it was never asked for; for what takes seconds and the page needs.
            It is let go when the settings change meanwhile, or when another page has long work to do. None: neither
            by itself nor on demand; it gives only what is there already.
        line: Jobs of one line wait for each other.
        group: Of one group none begins before another has ended; see :meth:`Queue.submit`.
        hint: Sentence without its full stop that says which setting to lower where memory runs out.
        about: Settings for the list of jobs; None takes those in the address of the page.
        right: A key of :data:`roles.RIGHTS` that starting it takes; what is done already is there for all.

    Returns:
        The result; after a cancel what was there by then, if anything; None until it is there.
    """
    jobs_of_line, me = queue(line), person.me()
    _under_way().discard(name)
    job = jobs_of_line.find(key)
    if job is not None and job.state is State.DONE:
        if job.notice:
            st.warning(frame.plain(job.notice), icon=":material/disc_full:")
        return job.result
    if at_once is None:
        return None

    given_up: set[str] = st.session_state.setdefault("given_up", set())

    def start(*, by_itself: bool = False) -> None:
        if right:
            access.require(right)
        given_up.discard(key)
        _let_others_go(name, key, line, by_itself=by_itself)
        options: dict[str, Any] = {"hint": hint} if hint else {}
        jobs_of_line.submit(
            key, title, _keeping(work), owner=me, details=_details(about), group=group, by_itself=by_itself, **options
        )

    mine = job if job is not None and me in job.asked_by else None
    is_live = job is not None and job.is_live and job.can_be_joined
    is_asked_again = _asked_again(key)
    begins = at_once and key not in given_up and (mine is None or mine.state is State.INTERRUPTED or mine.was_let_go)
    if (is_live and key not in given_up) or begins or is_asked_again:
        # Who waits already and asks again would end a pause.
        if begins or is_asked_again or job is None or me not in job.owners:
            start(by_itself=not is_asked_again)
        _under_way().add(name)
        _live(key, name, show, line)
        return None
    found = None if mine is None else _broken_off(mine)
    is_allowed = not right or access.may(right)
    if st.button(
        f"Run: {title}",
        key=f"{name}_run",
        type="primary",
        icon=":material/play_arrow:",
        help=cost,
        disabled=not is_allowed,
    ):
        start()
        st.rerun()
    st.caption(cost if is_allowed else access.refusal(right))
    return found


def _keeping(work: jobs.Work) -> jobs.Work:
    """The work, during which its networks stay in memory."""

    def do(on_step: jobs.OnStep) -> object:
        with compute.shelf().keeping():
            return work(on_step)

    return do


def run_again(key: str) -> None:
    """Starts a job anew as soon as its page asks for it; takes what :func:`job_records.key_of` gives."""
    st.session_state["run_again"] = key


def _asked_again(key: str) -> bool:
    if st.session_state.get("run_again") != job_records.key_of(key):
        return False
    del st.session_state["run_again"]
    return True


def _let_others_go(name: str, key: str, line: str, *, by_itself: bool) -> None:
    """Ends what began by itself in this session and is not looked at any more, now that other long work is wanted.

    That is what another page began, and what stood in this place: with other settings, or the one of the quick version
    and what was asked for that is not wanted now.
    """
    begun, here, wanted = _begun(), frame.page().path, name.removeprefix(_QUICK)
    for place, (its_page, its_line, its_key) in list(begun.items()):
        if its_key == key or (its_page == here and place != wanted):
            continue
        del begun[place]
        old = queue(its_line).find_live(its_key)
        if old is not None and old.by_itself and old.state is not State.PAUSED:
            queue(its_line).cancel(old, owner=person.me(), may_return=person.may_return, lets_go=True)
    if by_itself:
        begun[wanted] = here, line, key


def _begun() -> dict[str, tuple[str, str, str]]:
    """What began by itself in this session, by its place: page, line and key."""
    begun: dict[str, tuple[str, str, str]] = st.session_state.setdefault("begun", {})
    return begun


def _under_way() -> set[str]:
    """The places whose work waits, runs or is paused, as far as this run has drawn them."""
    under_way: set[str] = st.session_state.setdefault("under_way", set())
    return under_way


def _details(about: Mapping[str, object] | None) -> Details:
    """What the list of jobs says of one that is asked for on this page, now."""
    link = screen.here().params
    if about is None:
        about = {"network": st.session_state.get("model", ""), **{name: ", ".join(link[name]) for name in link}}
    return Details(page=frame.page().path, link=link, about=setting_words.of(about))


@st.fragment(run_every=_POLL_SECONDS)
def _live(key: str, name: str, show: Callable[[Any], None] | None, line: str) -> None:
    """Progress of a job, told twice a second; the page runs again when it has ended."""
    jobs_of_line = queue(line)
    job = jobs_of_line.find_live(key)
    if job is None:
        st.rerun()
        return
    controls(jobs_of_line, job, name=name)
    if show is not None and job.step is not None and job.step.partial is not None:
        show(job.step.partial)


def controls(jobs_of_line: Queue, job: Job, *, name: str) -> None:
    """Progress of a job that lives, with its pause and cancel, for one of those who wait for it.

    Args:
        jobs_of_line: Where it is.
        job: Which.
        name: Unique on the page.
    """
    me = person.me()
    line = st.container(horizontal=True, vertical_alignment="center")
    share, words = progress(jobs_of_line, job)
    line.progress(share, text=frame.plain(words))
    is_awaited = jobs_of_line.is_awaited(job, owner=me)
    if job.state is State.PAUSED:
        line.button(
            "Resume",
            key=f"{name}_resume",
            icon=":material/play_arrow:",
            on_click=_press,
            args=(jobs_of_line.resume, job),
        )
    else:
        line.button(
            "Pause",
            key=f"{name}_pause",
            icon=":material/pause:",
            disabled=is_awaited or job.is_stopping,
            help="Somebody else or another job waits for it, too."
            if is_awaited
            else "It stops after its present step, keeps what it has, and makes room for the next job.",
            on_click=_press,
            args=(jobs_of_line.pause, job),
            kwargs={"owner": me},
        )
    line.button(
        "Cancel", key=f"{name}_cancel", icon=":material/stop:", on_click=_press, args=(_give_up, jobs_of_line, job)
    )


def _press(action: Callable[..., object], *args: object, **settings: object) -> None:
    """What a button of a job does, after which the whole page runs again.

    Streamlit calls it before anything of the run. A run that asks its buttons loses the click where it ends before it
    comes to them: because another job of the page has ended at that moment, say.
    """
    frame.guarded(action)(*args, **settings)
    st.rerun()


def _give_up(jobs_of_line: Queue, job: Job) -> None:
    st.session_state.setdefault("given_up", set()).add(job.key)
    jobs_of_line.cancel(job, owner=person.me(), may_return=person.may_return)


def progress(jobs_of_line: Queue, job: Job) -> tuple[float, str]:
    """How far a job is: share done, and in words with its pace and the time left."""
    ahead, step = jobs_of_line.num_ahead(job), job.step
    share = min(1.0, step.done / max(1, step.total)) if step else 0.0
    done = f"{step.done:,} of {step.total:,}" if step else "not begun"
    if job.state is State.PAUSED:
        return share, f"{job.title}: paused, {done}"
    if job.is_stopping:
        return share, f"{job.title}: stopping after this step, {done}"
    if job.state is State.WAITING:
        return share, f"{job.title}: waiting, {ahead} before it" + (f", {done}" if step else "")
    pace, left = job.steps_per_second, job.seconds_left
    if step is None or pace is None or left is None:
        return share, f"{job.title}: starting"
    return share, f"{job.title}: {done}, {_pace(pace)}, about {duration(left)} left"


def _pace(steps_per_second: float) -> str:
    if steps_per_second >= 1:
        return f"{steps_per_second:,.0f} a second"
    return f"{duration(1 / steps_per_second)} a step"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _broken_off(job: Job) -> Any | None:
    """Says how a job ended that did not succeed; gives what was there by then."""
    partial = job.step.partial if job.step else None
    after = f" after {job.step.done:,} of {job.step.total:,} steps" if job.step else ""
    kept = " What is shown was computed until then." if partial is not None else ""
    if job.state is State.FAILED:
        frame.problem(f"{job.error}{kept}")
    elif job.state is State.INTERRUPTED:
        st.info("The server was restarted while this ran. Run it again.", icon=":material/restart_alt:")
    else:  # also while it goes on for others
        why = f" {job.error}" if job.error else ""
        st.warning(f"Cancelled{after}.{why}{kept}", icon=":material/stop_circle:")
    return partial
