"""Twenty people click through different pages at once: does anybody wait, and does anybody get another one's result?

``python tests/benchmarks/bench_load.py [SESSIONS] [CLICKS] [PICTURES]`` starts the app three times with an empty data
folder and speaks to it as browsers do. First one person visits every page with every picture; what those pages show,
but for durations, is what everybody must see later. Then as many people as asked for go their own ways through them,
with about a second between two clicks; then again while an occlusion map of a few minutes is computed. Printed are the
median and the 95th percentile of the time from a click to the end of its run, for each page, and every error and
difference. Results of jobs that pages start by themselves are compared in the data folders.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import statistics
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

import numpy as np
import websockets
from bench_sessions import REPOSITORY, server
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates

from cnnviz_core import photos, result_files

# Page, and part of the address that makes its state; what starts long work by itself comes last.
QUICK = ("", "feature_maps", "filters", "cam", "saliency", "occlusion", "similarity", "few_shot", "model", "networks")
WITH_JOBS = ("deep_dream", "class_image", "feature_visualization", "inversion")
PICTURES = ("chelsea", "coffee", "astronaut", "rocket")
LONG = {"patch": "40", "stride": "2"}  # about ten thousand forwards
_THINK_SECONDS = 1.0
_LONGEST_SECONDS = 120.0
_COMPARED = {"markdown", "imgs", "plotly_chart", "bidi_component", "metric", "dataframe", "heading", "alert", "button"}
_EXAMPLES = 4  # printed of a page that differs
_EXAMPLE_CHARACTERS = 240
# How long something took, or will: some pages say so only where it is long.
_DURATION = re.compile(r"(, about )?\d[\d.,]*\s?(ms|s|min|h|seconds|minutes|a second)\b")
_ERROR_ICONS = (":material/error:", ":material/bug_report:")


@dataclass
class Run:
    """What one click brought.

    Attributes:
        seconds: From the click to the end of the run.
        shown: Each part of the page that has a result, as text; a digest stands for bytes.
        errors: What the page said went wrong.
    """

    seconds: float
    shown: frozenset[str]
    errors: tuple[str, ...]


class Person:
    """One browser tab."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pages: dict[str, str] = {}
        self._page = ""
        self._widgets: dict[str, WidgetState] = {}
        self._elements: dict[str, Element] = {}
        self._again: dict[str, float] = {}
        self._sends: websockets.ClientConnection

    async def come(self) -> Run:
        """Opens the start page."""
        ask = urllib.request.Request(f"http://127.0.0.1:{self._port}/", headers={"Accept": "text/html"})
        page = await asyncio.to_thread(urllib.request.urlopen, ask)
        cookie = page.headers["set-cookie"].partition(";")[0]
        page.close()
        self._sends = await websockets.connect(
            f"ws://127.0.0.1:{self._port}/_stcore/stream",
            subprotocols=["streamlit"],
            additional_headers={"Cookie": cookie},
            max_size=None,
            open_timeout=60,
            ping_timeout=None,
        )
        return await self._run(BackMsg())

    async def open(self, page: str, picture: str, **params: str) -> Run:
        """Goes to a page with a picture chosen in the sidebar: a click on the wall of pictures and one on the menu."""
        message = BackMsg()
        message.rerun_script.page_script_hash = self._page = self._pages[page]
        message.rerun_script.query_string = urllib.parse.urlencode(params)
        self._choose("image", photos.PHOTOS[picture].title)
        return await self._run(message)

    async def press(self, key: str) -> Run:
        """Presses the button of that key."""
        button = next(one.button for one in self._elements.values() if one.button.id.endswith(f"-{key}"))
        message = BackMsg()
        message.rerun_script.page_script_hash = self._page
        message.rerun_script.widget_states.widgets.add(id=button.id, trigger_value=True)
        return await self._run(message)

    async def think(self, seconds: float) -> None:
        """Looks at the page, which asks for its progress meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self._again:
                await asyncio.sleep(left)
                continue
            fragment, interval = next(iter(self._again.items()))
            await asyncio.sleep(min(left, interval))
            message = BackMsg()
            message.rerun_script.fragment_id = fragment
            message.rerun_script.is_auto_rerun = True
            message.rerun_script.page_script_hash = self._page
            await self._run(message)

    async def leave(self) -> None:
        """Closes the tab."""
        await self._sends.close()

    def _choose(self, key: str, value: str) -> None:
        box = next(one.selectbox for one in self._elements.values() if one.selectbox.query_param_key == key)
        self._widgets[box.id] = WidgetState(id=box.id, string_value=value)

    async def _run(self, message: BackMsg) -> Run:
        start = time.perf_counter()
        states = message.rerun_script.widget_states
        states.MergeFrom(WidgetStates(widgets=self._widgets.values()))
        is_part = bool(message.rerun_script.fragment_id)
        if not is_part:
            self._again = {}
        await self._sends.send(message.SerializeToString())
        drawn: dict[str, Element] = {}
        while True:
            raw = await asyncio.wait_for(self._sends.recv(), _LONGEST_SECONDS)
            answer = ForwardMsg.FromString(raw)
            kind = answer.WhichOneof("type")
            if kind == "navigation":
                self._pages = {
                    "" if page.is_default else page.url_pathname: page.page_script_hash
                    for page in answer.navigation.app_pages
                }
            elif kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
                drawn[".".join(map(str, answer.metadata.delta_path))] = answer.delta.new_element
            elif kind == "auto_rerun":
                self._again[answer.auto_rerun.fragment_id] = answer.auto_rerun.interval
            elif kind == "stop_auto_rerun":
                self._again.clear()
            elif kind == "script_finished" and answer.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                break
            elif kind == "script_finished":  # the whole page comes anew: its job has ended
                self._again.clear()
                drawn.clear()
                is_part = False
        self._elements = {**self._elements, **drawn} if is_part else drawn
        return Run(time.perf_counter() - start, *_read(drawn))


def _read(drawn: Mapping[str, Element]) -> tuple[frozenset[str], tuple[str, ...]]:
    """What has a result, and what went wrong."""
    shown, errors = set(), []
    for element in drawn.values():
        kind = element.WhichOneof("type")
        if kind == "exception" or (kind == "alert" and element.alert.icon in _ERROR_ICONS):
            errors.append(str(getattr(element, kind))[:200])
        if kind in _COMPARED:
            part = getattr(element, kind)
            if kind == "bidi_component":  # its parts beside the data are the same on every page
                text = (
                    f"{part.component_name} {part.json} {hashlib.blake2b(part.mixed.SerializeToString()).hexdigest()}"
                )
                text += hashlib.blake2b(part.bytes + part.arrow_data.SerializeToString()).hexdigest()
            else:
                text = str(part)
            shown.add(f"{kind} {_DURATION.sub('', text)}")
    return frozenset(shown), tuple(errors)


@dataclass
class Phase:
    """What came of a part of the test.

    Attributes:
        seconds: For each page those of every click.
        shown: For each page and picture what every click showed.
        errors: Each with its page.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    shown: dict[tuple[str, str], list[frozenset[str]]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)

    def note(self, page: str, picture: str, run: Run) -> None:
        """Takes what a click brought."""
        self.seconds[page].append(run.seconds)
        self.shown[page, picture].append(run.shown)
        self.errors += [f"{page or 'home'}, {picture}: {error}" for error in run.errors]


async def visit(person: Person, phase: Phase, page: str, picture: str) -> None:
    """One click, noted."""
    try:
        phase.note(page, picture, await person.open(page, picture))
    except (OSError, TimeoutError, websockets.WebSocketException, StopIteration) as error:
        phase.errors.append(f"{page or 'home'}, {picture}: {type(error).__name__} {error}")


async def alone(port: int, pictures: Sequence[str]) -> Phase:
    """One person, every state once."""
    phase, person = Phase(), Person(port)
    await person.come()
    for picture in pictures:
        for page in QUICK:
            await visit(person, phase, page, picture)
    for page in WITH_JOBS:
        await visit(person, phase, page, pictures[0])
        while person._again:
            await person.think(1)
    await person.leave()
    return phase


async def together(port: int, num: int, clicks: int, pictures: Sequence[str], *, beside: bool) -> Phase:
    """Many people, each on a way of their own; if so wanted, beside a long job."""
    phase = Phase()
    started = None
    if beside:
        started = Person(port)
        await started.come()
        await started.open("occlusion", "chelsea", **LONG)
        await started.press("occlusion_run")

    async def one(number: int) -> None:
        way = random.Random(number)
        person = Person(port)
        await asyncio.sleep(way.uniform(0, 2 * _THINK_SECONDS))
        await person.come()
        for click in range(clicks):
            if number % 5 == 4 and click % 3 == 2:
                await visit(person, phase, way.choice(WITH_JOBS), pictures[0])
            else:
                await visit(person, phase, way.choice(QUICK), way.choice(pictures))
            await person.think(way.uniform(0.5, 1.5) * _THINK_SECONDS)
        await person.leave()

    await asyncio.gather(*(one(number) for number in range(num)))
    if started is not None:
        state = "still ran when all others had left" if started._again else "ended before the others left"
        print(f"The long job {state}.")
        await started.leave()
    return phase


def differences(phase: Phase, serial: Phase) -> list[str]:
    """Which clicks on pages without jobs showed something else than one person alone saw, and what."""
    return [
        f"{page or 'home'}, {picture}: {len(shown ^ expected)} of {len(shown)} parts differ{_examples(shown, expected)}"
        for (page, picture), runs in phase.shown.items()
        for expected in serial.shown[page, picture][:1]
        for shown in runs
        if page in QUICK and shown != expected
    ]


def _examples(shown: frozenset[str], expected: frozenset[str]) -> str:
    """The shortest parts that only one of them has, which say most."""
    return "".join(
        f"\n        only {where}: {text[:_EXAMPLE_CHARACTERS]!r}"
        for where, texts in (("now", shown - expected), ("alone", expected - shown))
        for text in sorted(texts, key=len)[:_EXAMPLES]
    )


def job_results(data: Path) -> dict[str, object]:
    """The kept results of jobs, by name."""
    return {path.stem: result_files.decode(path.read_bytes()) for path in (data / "jobs").glob("*.result")}


def equal(one: object, other: object) -> bool:
    """Whether two results are the same but for how long they took."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if is_dataclass(one):
        names = [part.name for part in fields(one) if "seconds" not in part.name]
        return type(one) is type(other) and all(equal(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


def main() -> None:
    """Prints a table, then what went wrong."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    clicks = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    pictures = PICTURES[: int(sys.argv[3]) if len(sys.argv) > 3 else None]
    # The classes of results, which a kept one names.
    from cnnviz_core.ui import compute, sidebar, work  # noqa: F401

    phases: dict[str, Phase] = {}
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, way in (
            ("1 person", lambda port: alone(port, pictures)),
            (f"{num} people", lambda port: together(port, num, clicks, pictures, beside=False)),
            (f"{num} and a job", lambda port: together(port, num, clicks, pictures, beside=True)),
        ):
            data = Path(folder) / name.replace(" ", "-")
            with server(REPOSITORY / "app.py", data) as (port, process):
                began = time.monotonic()
                phases[name] = asyncio.run(way(port))
                took, memory = time.monotonic() - began, process.memory_info().rss / 2**20
            results[name] = job_results(data)
            every = [seconds for times in phases[name].seconds.values() for seconds in times]
            print(
                f"{name}: {len(every)} clicks in {took:.0f} s, p50 {_p(every, 50):.2f} s, p95 {_p(every, 95):.2f} s, "
                f"server {memory:.0f} MB, {len(phases[name].errors)} errors, {len(results[name])} results of jobs",
                flush=True,
            )
    print("\np50 / p95 in seconds".ljust(25) + "".join(f"{name:>18}" for name in phases))
    for page in (*QUICK, *WITH_JOBS):
        cells = (phase.seconds.get(page, []) for phase in phases.values())
        words = (f"{_p(times, 50):.2f} / {_p(times, 95):.2f}" if times else "" for times in cells)
        print(f"{page or 'home':24}" + "".join(f"{text:>18}" for text in words))
    serial = phases["1 person"]
    for name, phase in phases.items():
        wrong = differences(phase, serial)
        shared = results[name].keys() & results["1 person"].keys()
        odd = [key for key in shared if not equal(results[name][key], results["1 person"][key])]
        num_compared = sum(len(runs) for (page, _), runs in phase.shown.items() if page in QUICK)
        print(
            f"{name}: {len(wrong)} of {num_compared} pages and {len(odd)} of {len(shared)} results of jobs differ from "
            f"one person's, {len(phase.errors)} errors"
        )
        for line in (*wrong[:10], *phase.errors[:10]):
            print("   ", line)


def _p(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1] if len(times) > 1 else times[0]


if __name__ == "__main__":
    main()
