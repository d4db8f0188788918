"""The list of jobs: mine and others', the way back to a result, and running again; also after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cnnviz_core import settings
from cnnviz_core.errors import BadSetting
from cnnviz_core.job_records import Details, State
from cnnviz_core.jobs import OnStep
from cnnviz_core.results import Step
from cnnviz_core.ui import person, work
from tests.pages.reading import wait_until

Open = Callable[..., AppTest]
PAGE = "manage/activity"


@pytest.fixture(autouse=True)
def me(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(person, "me", lambda: "ada")
    return "ada"


def words(app: AppTest) -> str:
    return " ".join(element.value for element in [*app.markdown, *app.caption])


def press(app: AppTest, label: str) -> AppTest:
    (button,) = [button for button in app.button if button.label == label]
    button.click().run()
    assert not app.exception, app.exception
    return app


def fails(on_step: OnStep) -> None:
    raise BadSetting("The patch is larger than the picture.")


def test_a_result_is_found_again_from_the_list_also_after_a_restart(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page("explain/occlusion", patch="112", stride="112")
    press(app, "Run: Occlusion")
    wait_until(lambda: [record.state for record in work.records().all()] == [State.DONE])
    monkeypatch.setattr(work, "_records", {})  # the server ends; the next one knows only what is on disk
    monkeypatch.setattr(work, "_lines", {})
    st.cache_data.clear()
    app = open_page(PAGE)
    assert "**Occlusion**" in words(app)
    assert "patch 112 px · step 112 px" in words(app)
    press(app, "Open").run()
    assert app.slider(key="patch").value == app.slider(key="stride").value == 112
    assert "patch 112 px, step 112 px · 5 forwards" in words(app)
    assert "Run: Occlusion" not in [button.label for button in app.button]


def test_jobs_that_failed_say_why_and_can_be_run_again_or_removed(
    open_page: Open, me: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNVIZ_MAY_SEE_ALL_JOBS", "everyone")
    settings.current.cache_clear()
    details = Details("pages/manage/networks.py", {}, {"network": "tiny *net*"})
    for key, owner in (("mine", me), ("other", "bob")):
        work.queue().submit(key, f"Job of {owner}", fails, owner=owner, details=details)
    wait_until(lambda: [record.state for record in work.records().all()] == [State.FAILED] * 2)
    app = open_page(PAGE)
    assert "**Job of ada**" in words(app)
    assert "The patch is larger than the picture." in words(app)
    assert r"tiny \*net\*" in words(app)
    assert "Job of bob" not in words(app)
    app.toggle(key="everyones").set_value(True).run()
    assert "**Job of bob**" in words(app)
    assert "another person’s" in words(app)
    app.toggle(key="everyones").set_value(False).run()
    press(app, "Remove")
    assert "Job of ada" not in words(app)
    (left,) = work.records().all()
    assert left.people == ("bob",)


def test_a_job_at_work_is_told_paused_and_cancelled(open_page: Open, me: str) -> None:
    def slow(on_step: OnStep) -> None:
        for done in range(10_000):
            on_step(Step(done, 10_000))
            time.sleep(0.01)

    job = work.queue().submit("slow", "Slow *work*", slow, owner=me, details=Details("pages/nowhere.py"))
    work.queue().submit("bobs", "Secret", slow, owner="bob")
    wait_until(lambda: job.steps_per_second is not None)
    app = open_page(PAGE, everyones="true")
    assert "everyones" not in [toggle.key for toggle in app.toggle]  # unless whoever hosts the server says so
    assert [button.disabled for button in app.button if button.label == "Open"] == [True]  # no such page
    assert "Secret" not in words(app)
    press(app, "Pause")
    wait_until(lambda: job.state is State.PAUSED)
    press(app.run(), "Resume")
    press(app.run(), "Cancel")
    wait_until(lambda: job.state is State.CANCELLED)
    work.queue().cancel(work.queue().find("bobs"), owner="bob")
    assert "cancelled" in words(app.run())
