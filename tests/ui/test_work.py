"""Long work on a page: what starts by itself, what is let go when settings change, and what a cancel means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cnnviz_core import job_records, settings
from cnnviz_core.job_records import State
from cnnviz_core.ui import person, work


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CNNVIZ_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(person, "me", lambda: "ada")
    settings.current.cache_clear()
    yield tmp_path
    settings.current.cache_clear()


def page() -> None:
    import time

    import streamlit as st

    from cnnviz_core.results import Step
    from cnnviz_core.ui import work
    from cnnviz_core.ui.frame import PageLink

    here = PageLink("look", st.session_state.get("path", "pages/look/home.py"), "Home", "What?", "home")
    st.session_state["page"], st.session_state["pages"] = here, (here,)
    if st.session_state.pop("ends_early", False):
        st.rerun()
    number = st.number_input("Number", 0, 9, key="number")
    seconds = st.session_state.get("seconds", 20.0)

    def slow(on_step) -> str:
        for done in range(1, 101):
            on_step(Step(done, 100, partial=done))
            time.sleep(seconds / 100)
        return f"result {number}"

    found = work.until_done(
        slow, key=f"key {number}", name="slow", title="Slow work", cost="Some seconds.", at_once=True
    )
    st.write(f"found {found}")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception
    return app


def test_a_job_outlives_streamlits_caches_which_any_browser_can_have_emptied() -> None:
    run(AppTest.from_function(page))
    ((line, job),) = work.live()
    st.cache_resource.clear()
    assert work.queue().find("key 0") is job
    assert work.live() == [(line, job)]
    line.cancel(job, owner="ada")


def test_what_started_by_itself_is_let_go_with_its_settings_and_starts_again_with_them() -> None:
    app = run(AppTest.from_function(page))
    first = work.queue().find("key 0")
    until(lambda: first.state is State.RUNNING)
    app.number_input(key="number").set_value(1)
    run(app)
    until(lambda: first.state is State.CANCELLED)
    second = work.queue().find("key 1")
    assert second.is_live
    app.number_input(key="number").set_value(0)
    app.session_state["seconds"] = 0.0
    run(app)
    again = work.queue().find("key 0")
    assert again is not first
    until(lambda: again.state is State.DONE)
    assert second.state is State.CANCELLED
    assert "found result 0" in run(app).markdown[-1].value


def test_what_was_cancelled_stays_so_until_it_is_asked_for() -> None:
    app = run(AppTest.from_function(page))
    job = work.queue().find("key 0")
    until(lambda: job.step is not None)
    app.button(key="slow_cancel").click()
    run(app)
    until(lambda: job.state is State.CANCELLED)
    run(app)
    assert work.queue().find("key 0") is job
    assert "Cancelled after" in app.warning[0].value
    app.session_state["seconds"] = 0.0
    app.button(key="slow_run").click()
    run(app)
    until(lambda: work.queue().find("key 0").state is State.DONE)
    assert "found result 0" in run(app).markdown[-1].value


def test_a_click_counts_although_its_run_ends_before_it_comes_to_the_button() -> None:
    app = run(AppTest.from_function(page))
    job = work.queue().find("key 0")
    until(lambda: job.step is not None)
    for button, state in (
        ("slow_pause", State.PAUSED),
        ("slow_resume", State.RUNNING),
        ("slow_cancel", State.CANCELLED),
    ):
        app.session_state["ends_early"] = True
        app.button(key=button).click()
        run(app)
        until(lambda state=state: job.state is state)
        run(app)


def test_a_pause_lasts_while_the_page_runs_again_until_it_is_resumed() -> None:
    app = run(AppTest.from_function(page))
    job = work.queue().find("key 0")
    until(lambda: job.step is not None)
    app.button(key="slow_pause").click()
    run(app)
    until(lambda: job.state is State.PAUSED)
    done = job.step.done
    for _ in range(3):
        run(app)
    assert job.state is State.PAUSED
    assert job.step.done == done
    app.session_state["seconds"] = 0.0
    app.button(key="slow_resume").click()
    run(app)
    until(lambda: job.step.done > done)
    app.button(key="slow_cancel").click()
    run(app)
    until(lambda: job.state is State.CANCELLED)


def test_what_another_page_began_by_itself_is_let_go_once_this_one_needs_long_work() -> None:
    app = run(AppTest.from_function(page))
    first = work.queue().find("key 0")
    until(lambda: first.step is not None)
    app.session_state["path"] = "pages/look/filters.py"
    app.number_input(key="number").set_value(1)
    app.session_state["seconds"] = 0.0
    run(app)
    until(lambda: first.state is State.CANCELLED)
    until(lambda: work.queue().find("key 1").state is State.DONE)
    assert [record.key for record in work.records().all()] == [work.queue().find("key 1").record.key]
    app.session_state["path"] = "pages/look/home.py"  # and back again
    app.number_input(key="number").set_value(0)
    run(app)
    until(lambda: work.queue().find("key 0").state is State.DONE)


def test_no_finished_result_is_read_to_let_it_go(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = AppTest.from_function(page)
    app.session_state["seconds"] = 0.0
    run(app)
    until(lambda: work.queue().find("key 0").state is State.DONE)
    work._lines.clear()  # as if it had left memory
    read = []
    results = work.records().results
    monkeypatch.setattr(results, "load", lambda name: read.append(name))
    app.number_input(key="number").set_value(1)
    run(app)
    until(lambda: work.queue().find("key 1").state is State.DONE)
    assert job_records.name_of("key 1") in read
    assert job_records.name_of("key 0") not in read


def test_what_was_asked_for_by_a_click_goes_on_when_its_page_is_left() -> None:
    app = run(AppTest.from_function(page))
    first = work.queue().find("key 0")
    until(lambda: first.step is not None)
    app.button(key="slow_cancel").click()
    run(app)
    until(lambda: first.state is State.CANCELLED)
    app.button(key="slow_run").click()
    run(app)
    clicked = work.queue().find("key 0")
    until(lambda: clicked.step is not None)
    app.session_state["path"] = "pages/look/filters.py"
    app.number_input(key="number").set_value(1)
    run(app)
    waiting = work.queue().find("key 1")
    assert [job for _, job in work.live()] == [clicked, waiting]
    assert not clicked.is_stopping
    for job in (clicked, waiting):
        work.queue().cancel(job, owner="ada")


def quick_page() -> None:
    import threading

    import streamlit as st

    from cnnviz_core.results import Step
    from cnnviz_core.ui import work
    from cnnviz_core.ui.frame import PageLink

    here = PageLink("look", "pages/look/home.py", "Home", "What?", "home")
    st.session_state["page"], st.session_state["pages"] = here, (here,)
    may_end = st.session_state.setdefault("may_end", threading.Event())
    longest_quick = st.session_state.get("longest_quick", 8)
    asked = st.number_input("Steps", 0, 99, 50, key="steps")

    def draw(steps: int, *, name: str, title: str, at_once: bool) -> str | None:
        def make(on_step) -> str:
            on_step(Step(1, 2))
            while steps > longest_quick and not may_end.wait(0.01):
                on_step(Step(1, 2))
            return f"{steps} steps"

        return work.until_done(make, key=f"{steps}", name=name, title=title, cost="Long.", at_once=at_once)

    quick = min(asked, 8)
    found = work.asked_or_quick(
        draw, asked, quick, name="made", title="Make", quick_title="Quick", below=f"a quick one of {quick} steps"
    )
    st.write(f"found {found}")


def test_a_quick_version_is_there_at_once_and_the_asked_one_on_demand() -> None:
    app = run(AppTest.from_function(quick_page))
    until(lambda: work.queue().find("8").state is State.DONE)
    run(app)
    assert app.markdown[-1].value == "found 8 steps"
    assert app.caption[-1].value == "Below: a quick one of 8 steps. Run it for what you asked for."
    assert work.queue().find("50") is None
    app.button(key="made_run").click()
    run(app)
    until(lambda: work.queue().find("50").state is State.RUNNING)
    assert run(app).markdown[-1].value == "found 8 steps"  # still there while the asked one is made
    app.session_state["may_end"].set()
    until(lambda: work.queue().find("50").state is State.DONE)
    assert run(app).markdown[-1].value == "found 50 steps"


def test_a_quick_version_that_is_not_there_yet_is_let_go_for_the_asked_one_and_comes_back_without_it() -> None:
    app = AppTest.from_function(quick_page)
    app.session_state["longest_quick"] = 7
    run(app)
    quick = work.queue().find("8")
    until(lambda: quick.step is not None)
    app.button(key="made_run").click()
    run(app)
    until(lambda: quick.state is State.CANCELLED)
    asked = work.queue().find("50")
    run(app)
    assert [job for _, job in work.live()] == [asked]
    assert {button.key for button in app.button} == {"made_pause", "made_cancel"}
    assert not app.warning
    app.button(key="made_cancel").click()
    run(app)
    until(lambda: asked.state is State.CANCELLED)
    run(app)
    again = work.queue().find("8")
    assert again.is_live
    app.session_state["may_end"].set()
    until(lambda: again.state is State.DONE)
    assert run(app).markdown[-1].value == "found 8 steps"


def test_what_is_quick_enough_itself_is_not_made_twice() -> None:
    app = AppTest.from_function(quick_page)
    app.session_state["steps"] = 4
    run(app)
    until(lambda: work.queue().find("4").state is State.DONE)
    assert run(app).markdown[-1].value == "found 4 steps"
    assert len(work.records().all()) == 1
    assert not app.caption


def test_what_is_no_longer_quick_is_let_go_for_the_quick_version_of_what_is_asked_for_now() -> None:
    app = AppTest.from_function(quick_page)
    app.session_state["steps"], app.session_state["longest_quick"] = 4, 3
    run(app)
    earlier = work.queue().find("4")
    until(lambda: earlier.step is not None)
    app.number_input(key="steps").set_value(50)
    run(app)
    quick = work.queue().find("8")
    until(lambda: earlier.state is State.CANCELLED and quick.step is not None)
    app.number_input(key="steps").set_value(4)  # and back again
    run(app)
    until(lambda: quick.state is State.CANCELLED)
    again = work.queue().find("4")
    assert [job for _, job in work.live()] == [again]
    app.session_state["may_end"].set()
    until(lambda: again.state is State.DONE)
    assert run(app).markdown[-1].value == "found 4 steps"


def test_a_time_is_told_in_the_unit_that_suits_it() -> None:
    told = {0: "0 s", 0.042: "42 ms", 3.82: "3.8 s", 30.7: "31 s", 389: "6 min", 7200: "2.0 h"}
    assert {seconds: work.duration(seconds) for seconds in told} == told
