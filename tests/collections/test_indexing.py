"""The index on disk: resumed after a kill to the very bytes, up to date after changes, shared, whole after failures."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import jobs, models, settings, store
from cnnviz_core.collections import embedding, indexing, scan
from cnnviz_core.collections.scan import Picture
from cnnviz_core.errors import BadSetting
from cnnviz_core.job_records import State
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Step

NUM_FILES = 22


@dataclass
class Listed:
    """A folder of pictures, listed as it is at the moment."""

    folder: Path
    collection_id: str = "folder/some pictures"
    problems: dict[str, str] = field(default_factory=dict)

    def pictures(self) -> tuple[Picture, ...]:
        names = sorted(path.name for path in self.folder.glob("*.png"))
        return tuple(self.picture(name) for name in names if name not in self.problems)

    def picture(self, name: str) -> Picture:
        digest = scan.digest_of((self.folder / name).read_bytes())
        return Picture(path=name, label="", digest=digest, width=16, height=16, mask="", columns={})

    def note_problem(self, picture: Picture, reason: str) -> None:
        self.problems[picture.path] = reason


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(indexing, "SHARD", 4)
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(NUM_FILES):
        draw(folder / f"{number:02}.png", number)
    return Listed(folder)


def alone(model: LoadedModel, listed: Listed, layer: str) -> np.ndarray:
    files = [embedding.File(listed.folder / picture.path) for picture in listed.pictures()]
    return embedding.embed(model, files, layers=[layer]).vectors[layer]


def content(collection_id: str) -> dict[str, bytes]:
    """Every file of a collection's indexes, by path."""
    folder = indexing.folder_of(collection_id)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_rows_are_the_pictures_and_vectors_theirs(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2", "scores", "pixels"])
    for layer in ("conv2", "scores", "pixels"):
        index = indexing.read(listed, tiny_model, layer=layer)
        assert [row.path for row in index.rows] == [f"{number:02}.png" for number in range(NUM_FILES)]
        assert index.is_complete
        assert isinstance(index.vectors, np.memmap)
        np.testing.assert_allclose(index.vectors, alone(tiny_model, listed, layer), rtol=1e-5, atol=1e-5)


def test_the_strongest_answers_over_all_shards(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2", "scores"])
    files = [embedding.File(listed.folder / picture.path) for picture in listed.pictures()]
    expected = embedding.embed(tiny_model, files, layers=["conv2"]).tops["conv2"]
    tops = indexing.read(listed, tiny_model, layer="conv2").tops
    assert tops is not None
    np.testing.assert_allclose(tops.values, expected.values, rtol=1e-5)
    np.testing.assert_array_equal(tops.rows, expected.rows)
    np.testing.assert_array_equal(tops.cells, expected.cells)
    assert indexing.read(listed, tiny_model, layer="scores").tops is None


def test_the_search_is_made_ready_once_for_the_same_rows(tiny_model: LoadedModel, listed: Listed) -> None:
    def kept() -> list[tuple[str, int]]:
        """What is kept for searches, after one that was right."""
        index = indexing.read(listed, tiny_model, layer="conv2")
        (found,) = index.searcher.nearest(index.vectors[:1], k=4)
        cosines = index.vectors @ index.vectors[0] / np.linalg.norm(index.vectors, axis=1)
        assert set(found.ids.tolist()) == set(np.argsort(-cosines)[:4].tolist())
        return [(path.parent.name, path.stat().st_ino) for path in indexing.folders()[0].glob("search-*/codes.npy")]

    indexing.build(listed, tiny_model, layers=["conv2"])
    first = kept()
    assert len(first) == 1
    assert kept() == first
    draw(listed.folder / "00.png", 77)
    indexing.build(listed, tiny_model, layers=["conv2"])
    second = kept()
    assert len(second) == 1
    assert second[0][0] != first[0][0]


def test_a_full_disk_takes_nothing_from_a_search(
    tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise store.StorageFailed(f"There is no room for {path.name}.")

    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    monkeypatch.setattr(store, "written_aside", full)
    assert index.searcher.codes.shape == index.vectors.shape
    assert not list(indexing.folders()[0].glob("search-*/codes.npy"))


def test_before_it_is_built_it_is_empty(tiny_model: LoadedModel, listed: Listed) -> None:
    index = indexing.read(listed, tiny_model, layer="conv2")
    assert index.vectors.shape == (0, 6)
    assert index.rows == ()
    assert index.tops is None
    assert not index.is_complete


def test_an_empty_collection_is_complete(tiny_model: LoadedModel, tmp_path: Path) -> None:
    empty = Listed(tmp_path / "nothing here")
    indexing.build(empty, tiny_model, layers=["conv2"])
    assert indexing.read(empty, tiny_model, layer="conv2").is_complete


class Cancelled(BaseException):
    """As a job's cancel."""


def cancel_after(number: int) -> Callable[[Step], None]:
    def report(step: Step) -> None:
        if step.done >= number:
            raise Cancelled

    return report


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("should not run")


def test_a_cancelled_run_is_taken_up_to_the_very_bytes(tiny_model: LoadedModel, listed: Listed) -> None:
    layers = ["conv1", "conv2"]
    with pytest.raises(Cancelled):
        indexing.build(listed, tiny_model, layers=layers, on_step=cancel_after(12))
    assert not indexing.read(listed, tiny_model, layer="conv2").is_complete
    indexing.build(listed, tiny_model, layers=layers)
    resumed = content(listed.collection_id)
    other = Listed(listed.folder, "folder/the same")
    indexing.build(other, tiny_model, layers=layers)
    whole = content(other.collection_id)
    mine, theirs = (sorted(data for path, data in made.items() if "json" not in path) for made in (resumed, whole))
    assert len(mine) == 2 * (1 + 6)
    assert mine == theirs
    for layer in layers:
        mine, theirs = (indexing.read(which, tiny_model, layer=layer) for which in (listed, other))
        np.testing.assert_array_equal(mine.vectors, theirs.vectors)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_indexing import Listed
from cnnviz_core import models
from cnnviz_core.collections import indexing

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
model = models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="small", device="cpu")
indexing.SHARD = 4
listed = Listed(Path(sys.argv[2]))
after = int(sys.argv[3])
commit = indexing._Folder.commit
num_commits = 0

def kill_in_the_middle(folder, pictures, shard):
    global num_commits
    num_commits += 1
    if num_commits == after:
        folder._describe()
        folder._append(shard.vectors[folder.layer][:2])
        os.kill(os.getpid(), signal.SIGKILL)
    commit(folder, pictures, shard)

indexing._Folder.commit = kill_in_the_middle
indexing.build(listed, model, layers=["0", "2"])
"""


def run_apart(listed: Listed, data: Path, *, killed_at: int) -> int:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(listed.folder), str(killed_at)]
    return subprocess.run(command, env={"CNNVIZ_DATA_DIR": str(data), "PATH": ""}, check=False).returncode


def test_a_killed_run_is_taken_up_to_the_very_bytes(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a shard's vectors and its record, in the first and in the second of two layers."""
    everything = []
    for name, kills in (("whole", []), ("killed", [5, 2])):
        data = tmp_path / name
        for killed_at in kills:
            assert run_apart(listed, data, killed_at=killed_at) == -9
        assert run_apart(listed, data, killed_at=0) == 0
        monkeypatch.setattr(settings, "current", lambda data=data: settings.Settings(data_dir=data))
        everything.append(content(listed.collection_id))
    whole, killed = everything
    assert len([path for path in whole if path.endswith(".npz")]) == 2 * 6
    assert whole.keys() == killed.keys()
    assert [path for path in whole if whole[path] != killed[path]] == []


def test_a_second_build_runs_nothing(tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    monkeypatch.setattr(embedding, "embed", forbid)
    indexing.build(listed, tiny_model, layers=["conv2"])


def test_one_pass_serves_all_layers(tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    embed = embedding.embed

    def noted(*args: object, **settings: object) -> embedding.Shard:
        asked.append(settings["layers"])
        return embed(*args, **settings)

    monkeypatch.setattr(embedding, "embed", noted)
    indexing.build(listed, tiny_model, layers=["conv1"])
    assert asked == [["conv1"]] * 6
    asked.clear()
    indexing.build(listed, tiny_model, layers=["conv1", "conv2", "scores"])
    assert asked == [["conv2", "scores"]] * 6


def test_new_files_are_added(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    before = indexing.read(listed, tiny_model, layer="conv2")
    draw(listed.folder / "05b.png", 100)
    partial = indexing.read(listed, tiny_model, layer="conv2")
    assert len(partial.rows) == NUM_FILES
    assert not partial.is_complete
    assert partial.digest == before.digest
    steps: list[Step] = []
    indexing.build(listed, tiny_model, layers=["conv2"], on_step=steps.append)
    assert steps[-1].total == 1
    after = indexing.read(listed, tiny_model, layer="conv2")
    assert after.rows[-1].path == "05b.png"
    assert after.is_complete
    assert after.digest != before.digest


def test_changed_and_removed_files_are_done_anew(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    draw(listed.folder / "01.png", 200)
    (listed.folder / "10.png").unlink()
    stale = indexing.read(listed, tiny_model, layer="conv2")
    assert len(stale.rows) == NUM_FILES - 8
    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    assert sorted(row.path for row in index.rows) == [picture.path for picture in listed.pictures()]
    expected = {
        picture.path: vector
        for picture, vector in zip(listed.pictures(), alone(tiny_model, listed, "conv2"), strict=True)
    }
    for row, vector in zip(index.rows, index.vectors, strict=True):
        np.testing.assert_allclose(vector, expected[row.path], rtol=1e-5, atol=1e-5)
    tops = index.tops
    assert tops is not None
    assert {index.rows[row].path for row in tops.rows.ravel()} <= set(expected)


def test_the_last_shard_gone_leaves_no_gap(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    (listed.folder / "21.png").unlink()
    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    assert isinstance(index.vectors, np.memmap)
    np.testing.assert_allclose(index.vectors, alone(tiny_model, listed, "conv2"), rtol=1e-5, atol=1e-5)


def test_broken_files_are_noted_and_never_stop_it(tiny_model: LoadedModel, listed: Listed) -> None:
    for number in (0, 5, 21):
        (listed.folder / f"{number:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    indexing.build(listed, tiny_model, layers=["conv1", "conv2"])
    assert sorted(listed.problems) == ["00.png", "05.png", "21.png"]
    assert all("cannot be decoded whole" in reason for reason in listed.problems.values())
    for layer in ("conv1", "conv2"):
        index = indexing.read(listed, tiny_model, layer=layer)
        assert len(index.rows) == NUM_FILES - 3
        assert index.is_complete


def test_each_network_layer_and_pooling_has_its_own(
    small_model: Callable[[str], LoadedModel], tiny_model: LoadedModel, listed: Listed
) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    for model, layer, pooling in (
        (tiny_model, "conv2", "max"),
        (tiny_model, "conv1", "mean"),
        (small_model("gelu"), "conv2", "mean"),
    ):
        assert indexing.read(listed, model, layer=layer, pooling=pooling).rows == ()


def test_other_preprocessing_is_another_index(
    small_net: Callable[[str], object], tiny_model: LoadedModel, listed: Listed
) -> None:
    other = models.from_module(
        small_net("plain"), input_px=16, mean=(0.4,) * 3, std=(0.5,) * 3, class_names=("a", "b", "c"), name="plain"
    )
    assert other.spec.weights_hash == tiny_model.spec.weights_hash
    indexing.build(listed, tiny_model, layers=["conv2"])
    assert indexing.read(listed, other, layer="conv2").rows == ()


def test_two_at_once_share_the_work(tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    embed = embedding.embed

    def noted(model: LoadedModel, files: Sequence[embedding.File], **settings: object) -> embedding.Shard:
        done.append(len(files))
        return embed(model, files, **settings)

    monkeypatch.setattr(embedding, "embed", noted)
    threads = [
        threading.Thread(target=indexing.build, args=(listed, tiny_model), kwargs={"layers": ["conv2"]})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == NUM_FILES
    assert indexing.read(listed, tiny_model, layer="conv2").is_complete


def test_a_full_disk_is_said_and_leaves_a_whole_index(
    tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = indexing._Folder._append
    left = [2]

    def full(folder: indexing._Folder, vectors: np.ndarray) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise store.storage_failed("The vectors of an index could not be kept in", OSError(28, "No space left"))
        append(folder, vectors)

    monkeypatch.setattr(indexing._Folder, "_append", full)
    with pytest.raises(store.StorageFailed, match="No space left"):
        indexing.build(listed, tiny_model, layers=["conv2"])
    monkeypatch.setattr(indexing._Folder, "_append", append)
    assert len(indexing.read(listed, tiny_model, layer="conv2").rows) == 8
    indexing.build(listed, tiny_model, layers=["conv2"])
    assert indexing.read(listed, tiny_model, layer="conv2").is_complete


def test_a_damaged_shard_is_done_anew(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    damaged = sorted(indexing.folder_of(listed.collection_id).rglob("shard-*.npz"))[2]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert len(indexing.read(listed, tiny_model, layer="conv2").rows) == NUM_FILES - 4
    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    assert sorted(row.path for row in index.rows) == [picture.path for picture in listed.pictures()]


def test_who_reads_an_index_keeps_what_it_read(tiny_model: LoadedModel, listed: Listed) -> None:
    """The vectors are mapped from disk: a file that gets shorter would end the process that reads it."""
    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    before = np.array(index.vectors)
    draw(listed.folder / "21.png", 300)
    indexing.build(listed, tiny_model, layers=["conv2"])
    (listed.folder / "20.png").unlink()
    (listed.folder / "21.png").unlink()
    indexing.build(listed, tiny_model, layers=["conv2"])
    np.testing.assert_array_equal(index.vectors, before)
    assert len(indexing.read(listed, tiny_model, layer="conv2").vectors) == NUM_FILES - 2


def test_a_file_that_cannot_be_read_just_now_is_tried_again(
    tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = listed.pictures()
    (listed.folder / "03.png").rename(listed.folder / "away")
    draw(listed.folder / "07.png", 400)
    monkeypatch.setattr(Listed, "pictures", lambda _: pictures)
    missed = indexing.build(listed, tiny_model, layers=["conv2"])
    assert [reason.split()[0] for reason in missed] == ["03.png", "07.png"]
    assert not listed.problems
    assert len(indexing.read(listed, tiny_model, layer="conv2").rows) == NUM_FILES - 2
    (listed.folder / "away").rename(listed.folder / "03.png")
    now = tuple(listed.picture(picture.path) for picture in pictures)
    monkeypatch.setattr(Listed, "pictures", lambda _: now)
    assert indexing.build(listed, tiny_model, layers=["conv2"]) == ()
    assert indexing.read(listed, tiny_model, layer="conv2").is_complete


def test_a_problem_that_was_forgotten_is_noted_again(tiny_model: LoadedModel, listed: Listed) -> None:
    (listed.folder / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    indexing.build(listed, tiny_model, layers=["conv2"])
    reason = listed.problems.pop("05.png")
    assert not indexing.read(listed, tiny_model, layer="conv2").is_complete
    indexing.build(listed, tiny_model, layers=["conv2"])
    assert listed.problems == {"05.png": reason}
    assert indexing.read(listed, tiny_model, layer="conv2").is_complete


def test_vectors_that_were_lost_are_made_anew(tiny_model: LoadedModel, listed: Listed) -> None:
    indexing.build(listed, tiny_model, layers=["conv2"])
    (path,) = indexing.folder_of(listed.collection_id).rglob("vectors.f32")
    path.write_bytes(path.read_bytes()[: 10 * 6 * 4])
    assert len(indexing.read(listed, tiny_model, layer="conv2").rows) == 8
    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    assert index.is_complete
    np.testing.assert_allclose(index.vectors, alone(tiny_model, listed, "conv2"), rtol=1e-5, atol=1e-5)


def test_who_does_not_wait_is_told(tiny_model: LoadedModel, listed: Listed) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold(_: Step) -> None:
        inside.set()
        go_on.wait(20)

    slow = threading.Thread(
        target=indexing.build, args=(listed, tiny_model), kwargs={"layers": ["conv2"], "on_step": hold}
    )
    slow.start()
    inside.wait(20)
    try:
        with pytest.raises(indexing.Busy, match="indexed elsewhere"):
            indexing.build(listed, tiny_model, layers=["conv2"], waits=False)
    finally:
        go_on.set()
        slow.join()


class Slow:
    """As :func:`embedding.embed`, but it takes its time, and counts the pictures."""

    def __init__(self) -> None:
        self.embed, self.num = embedding.embed, 0

    def __call__(self, model: LoadedModel, files: Sequence[embedding.File], **settings: object) -> embedding.Shard:
        time.sleep(0.1)
        self.num += len(files)
        return self.embed(model, files, **settings)


@pytest.mark.parametrize("aside", ["turn", "pause", "cancel"])
def test_two_jobs_on_one_collection_take_over_from_each_other(
    tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch, aside: str
) -> None:
    monkeypatch.setattr(jobs, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(indexing, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(embedding, "embed", slow := Slow())
    queue = jobs.Queue()

    def index(owner: str, layers: list[str]) -> jobs.Job:
        def work(on_step: jobs.OnStep) -> tuple[str, ...]:
            return indexing.build(listed, tiny_model, layers=layers, waits=False, on_step=on_step)

        return queue.submit(owner, "Index", work, owner=owner, group="the collection")

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, [(job.state, job.error) for job in (first, *others)]
            time.sleep(0.005)

    others: list[jobs.Job] = []
    first = index("anna", ["conv1", "conv2"])
    until(lambda: first.step is not None)
    if aside == "pause":
        assert queue.pause(first, owner="anna")
        until(lambda: first.state is State.PAUSED)
    elif aside == "cancel":
        gate = threading.Event()
        others.append(queue.submit("else", "Something else", lambda _: gate.wait(20), owner="cleo"))
        until(lambda: others[0].state is State.RUNNING)
    others.append(index("bert", ["conv2", "scores"]))
    if aside == "cancel":
        queue.cancel(first, owner="anna")
        gate.set()
    until(lambda: not any(job.is_live for job in (first, *others)))
    assert [job.error for job in (first, *others)] == [""] * (1 + len(others))
    assert first.state is (State.CANCELLED if aside == "cancel" else State.DONE)
    assert {job.state for job in others} == {State.DONE}
    assert indexing.read(listed, tiny_model, layer="scores").is_complete
    if aside != "cancel":
        assert slow.num == 2 * NUM_FILES  # once for each: the second has only its scores to make
        together = content(listed.collection_id)
        other = Listed(listed.folder, "folder/the same")
        indexing.build(other, tiny_model, layers=["conv1", "conv2"])
        indexing.build(other, tiny_model, layers=["scores"])
        mine, theirs = (
            sorted(data for path, data in made.items() if "json" not in path)
            for made in (together, content(other.collection_id))
        )
        assert mine == theirs


def test_a_folder_that_cannot_be_written_is_named(tiny_model: LoadedModel, listed: Listed, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(store.StorageFailed, match="CNNVIZ_DATA_DIR"):
        indexing.build(listed, tiny_model, layers=["conv2"])


def test_an_error_in_a_worker_arrives(tiny_model: LoadedModel, listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BadSetting("no such thing")

    monkeypatch.setattr(embedding, "embed", broken)
    with pytest.raises(BadSetting, match="no such thing"):
        indexing.build(listed, tiny_model, layers=["conv2"])


def test_settings_are_checked_before_anything_is_written(tiny_model: LoadedModel, listed: Listed) -> None:
    with pytest.raises(BadSetting, match="median"):
        indexing.build(listed, tiny_model, layers=["conv2"], pooling="median")
    assert not indexing.folder_of(listed.collection_id).exists()


def test_ids_that_look_alike_have_their_own_folders() -> None:
    assert indexing.folder_of("folder/a b") != indexing.folder_of("folder/a-b")
    assert indexing.folder_of("../../x").parent == settings.current().data_dir / "indexes"
