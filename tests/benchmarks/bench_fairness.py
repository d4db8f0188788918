"""A quick answer while a dream runs: another session's Grad-CAM within twice its idle time plus one step.

Run it on a quiet machine: ``python tests/benchmarks/bench_fairness.py``. Real weights, the app's own queue and turns.
The two situations take turns, so that other load falls on both alike; the dream is paused for the idle ones.
"""

from __future__ import annotations

import statistics
import time

from cnnviz_core import models, photos, settings, startup
from cnnviz_core.job_records import State
from cnnviz_core.jobs import Job, OnStep, Queue
from cnnviz_core.methods import cam, deep_dream
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Step
from cnnviz_core.turns import Turns

ROUNDS = 12
THINK_SECONDS = 0.3


def quick_seconds(turns: Turns, model: LoadedModel) -> float:
    """Grad-CAM as the app computes it for a click."""
    start = time.perf_counter()
    with turns.take():
        cam.explain(model, photos.open_photo("coffee"), method="grad_cam")
    return time.perf_counter() - start


def wait_for(job: Job, state: State) -> None:
    deadline = time.monotonic() + 60
    while job.state is not state:
        if not job.is_live or time.monotonic() > deadline:
            raise SystemExit(f"The dream is {job.state} and not {state}: {job.error}")
        time.sleep(0.005)


def main() -> None:
    startup.prepare(settings.current().threads_per_run)
    model, turns = models.load(models.DEFAULT_MODEL, device="cpu"), Turns(2)
    queue, times = Queue(turns=turns), [time.perf_counter()]

    def work(on_step: OnStep) -> object:
        def timed(step: Step) -> None:
            steps.append(time.perf_counter() - times[-1])
            on_step(step)
            times.append(time.perf_counter())

        return deep_dream.dream(model, photos.open_photo("chelsea"), layer="blocks.4", steps=1000, on_step=timed)

    steps: list[float] = []
    quick_seconds(turns, model)  # warms up
    job = queue.submit("dream", "DeepDream", work, owner="ada")
    idle, busy = [], []
    for _ in range(ROUNDS):
        queue.pause(job, owner="ada")
        wait_for(job, State.PAUSED)
        idle.append(quick_seconds(turns, model))
        queue.resume(job)
        wait_for(job, State.RUNNING)
        time.sleep(THINK_SECONDS)
        busy.append(quick_seconds(turns, model))
    queue.cancel(job, owner="ada")
    a_step, alone, beside = map(statistics.median, (steps, idle, busy))
    bound = 2 * alone + a_step
    print(f"  a step of the dream                {1e3 * a_step:8.1f} ms")
    print(f"  Grad-CAM, idle                     {1e3 * alone:8.1f} ms")
    print(f"  Grad-CAM, a dream beside it        {1e3 * beside:8.1f} ms (slowest {1e3 * max(busy):.1f})")
    print(f"  share of what it may take          {beside / bound:8.2f} of 2 idle times and one step")


if __name__ == "__main__":
    main()
