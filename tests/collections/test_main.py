"""The command: indexes a folder so that the app finds it, goes on where it was, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import collections, models, settings
from cnnviz_core.collections import __main__ as command
from cnnviz_core.collections import embedding, indexing
from cnnviz_core.models import LoadedModel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path / "data"))
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    for number in range(3):
        draw(tmp_path / "photos" / "cats" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch, tiny_model: LoadedModel) -> None:
    def load(model_id: str, **settings: object) -> LoadedModel:
        assert (model_id, settings["weights"]) == ("timm/small", "random:3")
        return tiny_model

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr("cnnviz_core.startup.prepare", lambda **_: None)


def draw(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def run(*arguments: object) -> int:
    return command.main(["index", *map(str, arguments), "--model", "timm/small", "--weights", "random:3"])


def test_the_app_picks_the_index_up(folder: Path, tiny_model: LoadedModel, capsys: pytest.CaptureFixture) -> None:
    (folder / "broken.png").write_text("nothing")
    assert run(folder) == 0
    said = capsys.readouterr().out
    assert "photos: 3 pictures; 1 files cannot be used." in said
    assert "relu1: 3 vectors of 4 values." in said
    assert "broken.png: " in said
    collection = collections.open_collection(folder)
    for layer in embedding.standard_layers(tiny_model):
        assert indexing.read(collection, tiny_model, layer=layer).is_complete


def test_a_second_run_takes_what_is_new(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(folder, "--layer", "conv2", "--pooling", "max") == 0
    draw(folder / "cats" / "new.png", 9)
    capsys.readouterr()
    assert run(folder, "--layer", "conv2", "--pooling", "max") == 0
    assert "conv2: 4 vectors" in capsys.readouterr().out


def test_bundled_collections_go_by_their_id(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("bundled/photos", "--layer", "pixels") == 0
    assert "pixels: 21 vectors of 3,072 values." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["bundled/nothing"], "no bundled collection"),
        (["FOLDER", "--layer", "conv9"], "no layer 'conv9'"),
        (["FOLDER", "--pooling", "median"], "mean, max, flat"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], says: str
) -> None:
    assert run(*(str(folder) if part == "FOLDER" else part for part in arguments)) == 1
    assert says in capsys.readouterr().err


def test_an_interrupt_says_that_nothing_is_lost(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(indexing, "build", interrupted)
    assert run(folder) == 130
    assert "goes on from there" in capsys.readouterr().err


def test_help_is_quick_and_names_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cnnviz_core.collections", "index", "--help"], capture_output=True, text=True, check=True
    )
    assert "--layer" in done.stdout


def test_an_empty_folder_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 1
    assert "empty holds no picture files" in capsys.readouterr().err
