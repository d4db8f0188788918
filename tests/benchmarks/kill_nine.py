"""A server that is killed at random moments while it writes everything it ever writes: nothing may be lost or half.

``python tests/benchmarks/kill_nine.py [ROUNDS] [SEED]`` forks a process that keeps pictures, weights, collections,
indexes, maps, studies, jobs and reports as fast as it can in several threads, and ends it with SIGKILL within a second
and a half. What it said it had kept must be there, byte by byte; what else is there must be whole; jobs must be done or
interrupted; the index must come out the same as one that nobody disturbed; and upkeep must find and remove all that was
half written. Linux and macOS only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as safetensors_bytes
from torch import nn

from cnnviz_core import (
    images,
    job_records,
    jobs,
    models,
    reports,
    result_files,
    settings,
    store,
    upkeep,
    visual_study,
)
from cnnviz_core.collections import indexing, projections, scan, sources
from cnnviz_core.collections.scan import Picture
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Projection, Step

_LONGEST_SECONDS = 1.5
_NUM_FILES = 23
_LAYERS = ("0", "2")
_OLD_SECONDS = 3 * 24 * 3600


class Lost(AssertionError):
    """Something is missing, half or different."""


@dataclass
class Listed:
    """A folder of pictures as the index sees it."""

    folder: Path
    collection_id: str
    problems: dict[str, str] = field(default_factory=dict)

    def pictures(self) -> tuple[Picture, ...]:
        """The pictures, by name."""
        paths = sorted(self.folder.glob("*.png"))
        return tuple(Picture(path.name, "", scan.digest_of(path.read_bytes()), 16, 16, "", {}) for path in paths)

    def note_problem(self, picture: Picture, reason: str) -> None:
        """None of them has any."""
        self.problems[picture.path] = reason


def small_model() -> LoadedModel:
    """A network that answers at once."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    half = (0.5,) * 3
    return models.from_module(net, input_px=16, mean=half, std=half, name="small", device="cpu")


def _pixels(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


# ---- what the process does until it is killed -----------------------------------------------------------------------

Say = Callable[..., None]


def keep_pictures(number: int, say: Say, _model: LoadedModel, _listed: Listed) -> None:
    """An upload."""
    picture = images.from_pixels(_pixels(number, side=200), name=f"picture {number}")
    say("picture", store.save_picture(picture), picture.digest)


def keep_weights(number: int, say: Say, _model: LoadedModel, _listed: Listed) -> None:
    """An upload or what fine-tuning keeps; some are removed again."""
    weights = {"w": torch.full((300, 300), float(number))}
    content = safetensors_bytes(weights, metadata={"cnnviz": json.dumps({"number": number})})
    card = store.save_checkpoint(content, name=f"{number}.safetensors", architecture="timm/resnet18")
    if number % 3:
        say("weights", card.checkpoint_id, _digest(content))
    else:
        store.delete_checkpoint(card.checkpoint_id)
        say("no weights", card.checkpoint_id)


def keep_collection(number: int, say: Say, _model: LoadedModel, _listed: Listed) -> None:
    """A ZIP that is unpacked and looked through; some are removed again."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for at in range(6):
            png = io.BytesIO()
            Image.fromarray(_pixels(100 * number + at)).save(png, "PNG")
            archive.writestr(f"label/{at}.png", png.getvalue())
    added = sources.unpack_zip(file, name=f"{number}.zip")
    home = sources.home(added.collection_id)
    scan.scan(home / "files", home / "listing.sqlite")
    if number % 3:
        say("collection", added.collection_id, added.num_pictures)
    else:
        sources.delete(added.collection_id)
        say("no collection", added.collection_id)


def keep_index(number: int, say: Say, model: LoadedModel, listed: Listed) -> None:
    """An index, shard by shard."""
    collection_id = f"{listed.collection_id}-{number}"
    say("begun", collection_id)
    mine = Listed(listed.folder, collection_id)
    indexing.build(mine, model, layers=_LAYERS, on_step=lambda _: time.sleep(0.01))
    say("index", collection_id)


def keep_maps(number: int, say: Say, _model: LoadedModel, listed: Listed) -> None:
    """A projection of an index."""
    values = np.random.default_rng(number).random((500, 2))
    made = Projection(values, "pca", np.ones(2), 0.0, {"seed": number})
    about = {"name": f"map {number}", "layer": "2", "network": "small"}
    projections.save(listed.collection_id, "vectors", {"seed": number}, made, **about)
    say("map", listed.collection_id, number)


def keep_study(number: int, say: Say, model: LoadedModel, _listed: Listed) -> None:
    """A picture of a study."""
    shelf = visual_study._Shelf(model, "2", size_px=64, seed=number)
    shelf._keep(0, _pixels(number, side=64))
    say("study", number)


def keep_report(number: int, say: Say, _model: LoadedModel, _listed: Listed) -> None:
    """A figure in a report, with a comment; some are taken out again."""
    person = f"guest-{number // 20:016x}"
    png = io.BytesIO()
    Image.fromarray(_pixels(number, side=64)).save(png, "PNG")
    entry = reports.add(person, png.getvalue(), title=f"figure {number}").entries[-1]
    if number % 3:
        reports.set_comment(person, entry.entry_id, f"comment {number}")
        say("figure", person, entry.entry_id, number)
    else:
        reports.remove(person, entry.entry_id)
        say("no figure", person, entry.entry_id)


def keep_jobs(number: int, say: Say, queue: jobs.Queue) -> None:
    """A job with some steps and a result."""

    def work(on_step: jobs.OnStep) -> object:
        for done in range(5):
            time.sleep(0.002)
            on_step(Step(done, 5, None))
        return {"values": np.arange(5000) + number}

    key = f"job {os.getpid()} {number}"
    job = queue.submit(key, "Occlusion", work, owner="ada")
    while job.is_live:
        time.sleep(0.002)
    say("job", key, number)


def busy(data: Path, listed: Listed, model: LoadedModel, pipe: int, start: int) -> None:
    """Everything at once, for ever."""
    lock = threading.Lock()

    def say(*words: object) -> None:
        with lock:
            os.write(pipe, (json.dumps(words) + "\n").encode())

    queue = jobs.Queue(records=job_records.Records(data / "jobs", results_mb=50))
    works = [keep_pictures, keep_weights, keep_collection, keep_index, keep_maps, keep_study, keep_report]
    loops: list[Callable[[int], None]] = [lambda number, work=work: work(number, say, model, listed) for work in works]
    loops.append(lambda number: keep_jobs(number, say, queue))

    def forever(loop: Callable[[int], None]) -> None:
        for number in count(start):
            loop(number)

    for loop in loops:
        threading.Thread(target=forever, args=(loop,), daemon=True).start()
    threading.Event().wait()


# ---- what must be there afterwards -----------------------------------------------------------------------------------


def _check(is_so: bool, what: str) -> None:
    if not is_so:
        raise Lost(what)


def check_kept(said: list[list[object]], data: Path, listed: Listed, model: LoadedModel) -> None:
    """What the process said it had kept is there, and what it said it had removed is gone."""
    queue = jobs.Queue(records=job_records.Records(data / "jobs", results_mb=50))
    for kind, *words in said:
        match kind, words:
            case "picture", [str(digest), whole]:
                _check(store.open_picture(digest).digest == whole, f"picture {digest}")
            case "weights", [str(checkpoint_id), digest]:
                content = store.checkpoint(checkpoint_id).path.read_bytes()
                _check(_digest(content) == digest, checkpoint_id)
            case "no weights", [checkpoint_id]:
                _check(checkpoint_id not in {card.checkpoint_id for card in store.checkpoints()}, f"{checkpoint_id}")
            case "collection", [str(collection_id), count]:
                home = sources.home(collection_id)
                _check(len(scan.pictures(home / "listing.sqlite")) == count == 6, collection_id)
            case "no collection", [collection_id]:
                _check(collection_id not in {card.collection_id for card in sources.added()}, f"{collection_id}")
            case "figure", [str(person), entry_id, number]:
                report = reports.load(person)
                _check(not report.problem, f"report of {person}")
                entry = next((one for one in report.entries if one.entry_id == entry_id), None)
                _check(entry is not None and entry.comment == f"comment {number}", f"figure {number}")
                assert entry is not None
                _check(bool(reports.picture(person, entry)), f"picture of figure {number}")
            case "no figure", [str(person), entry_id]:
                _check(entry_id not in {one.entry_id for one in reports.load(person).entries}, f"{entry_id} is back")
            case "begun", _:
                pass
            case "index", [str(collection_id)]:
                for layer in _LAYERS:
                    index = indexing.read(Listed(listed.folder, collection_id), model, layer=layer)
                    _check(index.is_complete, f"index of {collection_id}")
            case "map", [str(collection_id), number]:
                found = projections.find(collection_id, "vectors", {"seed": number})
                _check(found is not None and found.settings["seed"] == number, f"map {number}")
            case "study", [int(number)]:
                picture = visual_study._Shelf(model, "2", size_px=64, seed=number)._read(0)
                _check(picture is not None and np.array_equal(picture, _pixels(number, side=64)), f"study {number}")
            case "job", [str(key), int(number)]:
                job = queue.find(key)
                _check(job is not None and job.state is job_records.State.DONE, f"{key} is not done")
                assert job is not None
                assert isinstance(job.result, dict)
                _check(np.array_equal(job.result["values"], np.arange(5000) + number), key)
            case _:
                raise Lost(f"nobody looks for {kind}")


def check_whole(data: Path) -> None:
    """Whatever is there under its proper name can be read."""
    readers: dict[str, Callable[[Path], object]] = {
        "pictures/*.png": lambda path: images.open_image(path),
        "checkpoints/*/card.json": lambda path: json.loads(path.read_bytes()),
        "collections/*/card.json": lambda path: json.loads(path.read_bytes()),
        "collections/*/files/*/*.png": lambda path: images.open_image(path),
        "collections/*/listing.sqlite": _check_listing,
        "indexes/*/*/shard-*.npz": _check_arrays,
        "indexes/*/*/*.json": lambda path: json.loads(path.read_bytes()),
        "indexes/*/projections/*.npz": _check_arrays,
        "visualisations/*/*.npz": _check_arrays,
        "reports/*/report.json": lambda path: json.loads(path.read_bytes()),
        "reports/*/*.png": lambda path: images.open_image(path),
        "jobs/*.result": lambda path: result_files.decode(path.read_bytes()),
        "jobs/*.json": lambda path: json.loads(path.read_bytes()),
    }
    for pattern, read in readers.items():
        for path in data.glob(pattern):
            if any(part.startswith(".") for part in path.relative_to(data).parts):
                continue  # written aside, or on its way out
            try:
                read(path)
            except Exception as error:
                raise Lost(f"{path.relative_to(data)} is half: {type(error).__name__}: {error}") from error
    for card in store.checkpoints():
        _check(card.path.is_file(), f"{card.checkpoint_id} has no weights")


def _check_arrays(path: Path) -> None:
    with np.load(path) as stored:
        for name in stored.files:
            stored[name]


def _check_listing(path: Path) -> None:
    listing = sqlite3.connect(path)
    try:
        _check(listing.execute("PRAGMA integrity_check").fetchone() == ("ok",), "a listing is damaged")
    finally:
        listing.close()


def check_jobs(data: Path) -> Counter[str]:
    """No job of a killed server lives. Returns how many ended how."""
    found = job_records.Records(data / "jobs", results_mb=50).all()
    for record in found:
        _check(not record.state.is_live, f"{record.title} lives")
    return Counter(record.state.value for record in found)


def check_index(said: list[list[object]], folder: Path, model: LoadedModel, whole: list[str]) -> bool:
    """Goes on with the index that was cut short, if one was. Returns whether some of its shards were there."""
    begun = [str(words[0]) for kind, *words in said if kind == "begun"]
    if not begun:
        return False
    cut = Listed(folder, begun[-1])
    before = len(list(indexing.folder_of(cut.collection_id).glob("*/shard-*.npz")))
    indexing.build(cut, model, layers=_LAYERS)
    _check(contents(cut) == whole, f"index of {cut.collection_id} differs from an undisturbed one")
    return 0 < before < len(whole) - len(_LAYERS)


def contents(listed: Listed) -> list[str]:
    """Digests of the shards and vectors of an index."""
    folder = indexing.folder_of(listed.collection_id)
    paths = [path for path in folder.glob("*/*") if path.parent.name != "projections" and path.suffix != ".json"]
    return sorted(_digest(path.read_bytes()) for path in paths if not path.name.startswith("."))


def left_overs(data: Path) -> list[Path]:
    """What was being written, or removed, when the process ended."""
    return [path for pattern in (".part-*", ".gone-*") for path in data.rglob(pattern)]


def check_upkeep(data: Path) -> int:
    """Some days later all of that is gone. Returns how much there was."""
    found = left_overs(data)
    for path in found:
        for inner in [*path.rglob("*"), path]:
            os.utime(inner, (time.time() - _OLD_SECONDS,) * 2)
    upkeep.sweep()
    job_records.Records(data / "jobs", results_mb=50)  # as the next server does
    _check(not left_overs(data), f"upkeep leaves {[str(path.relative_to(data)) for path in left_overs(data)][:5]}")
    return len(found)


# ---- rounds ----------------------------------------------------------------------------------------------------------


def killed(data: Path, listed: Listed, model: LoadedModel, seconds: float, start: int) -> list[list[object]]:
    """Runs the process for a while and kills it. Returns what it said by then."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.close(reading)
            busy(data, listed, model, writing, start)
        finally:
            os._exit(1)
    os.close(writing)
    said = io.BytesIO()
    reader = threading.Thread(target=lambda: said.write(_drained(reading)))
    reader.start()
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    reader.join()
    _check(os.WIFSIGNALED(status), "the process ended by itself; run it alone to see why")
    lines = said.getvalue().split(b"\n")[:-1]  # a line cut short was not said
    return [json.loads(line) for line in lines]


def _drained(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def rounds(num: int, seed: int, folder: Path) -> Iterator[str]:
    """So many kills; a line on each."""
    moments = random.Random(seed)
    data, pictures = folder / "data", folder / "pictures"
    pictures.mkdir()
    for number in range(_NUM_FILES):
        Image.fromarray(_pixels(number)).save(pictures / f"{number:02}.png")
    chosen = settings.Settings(data_dir=data, checkpoints_mb=50_000)
    settings.current = lambda: chosen  # type: ignore[assignment]
    indexing.SHARD = 4
    model = small_model()
    undisturbed = Listed(pictures, "folder/undisturbed")
    indexing.build(undisturbed, model, layers=_LAYERS)
    whole = contents(undisturbed)
    kept: list[list[object]] = []
    totals: Counter[str] = Counter()
    for number in range(num):
        listed = Listed(pictures, f"folder/round-{number}")
        seconds = moments.uniform(0.02, _LONGEST_SECONDS)
        said = killed(data, listed, model, seconds, start=1000 * number)
        kept += said
        check_whole(data)
        check_kept(kept if number % 10 == 9 or number == num - 1 else said, data, listed, model)
        ended = check_jobs(data)
        resumed = check_index(said, pictures, model, whole)
        half = check_upkeep(data)
        num_kept = sum(kind != "begun" for kind, *_ in said)
        totals.update({"kept": num_kept, "half written": half, "indexes taken up": resumed})
        totals["jobs interrupted"] = ended["interrupted"]
        yield f"{number + 1:3} killed after {seconds:.2f} s: {num_kept:4} things kept, {half:2} half written, gone"
    yield f"{num} kills: " + ", ".join(f"{value} {name}" for name, value in totals.items())
    yield "of each kind: " + ", ".join(
        f"{count} {kind}" for kind, count in Counter(str(one[0]) for one in kept).items()
    )


def main() -> None:
    """Prints a line for each kill."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for line in rounds(num, seed, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
