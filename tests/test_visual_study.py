"""The study: the same network twice, a redrawn layer, one altered channel, grey failures, breaking off and going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnviz_core import models, pairs, settings, synthesis, visual_study
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import LayerStudy, Step, Study

from .conftest import SMALL_NETS, set_weights

LOOKS = {"steps": 4, "size_px": 16}


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path))
    return tmp_path


def loaded(net: torch.nn.Module, *, input_px: int = 16) -> LoadedModel:
    half = (0.5,) * 3
    return models.from_module(net, input_px=input_px, mean=half, std=half, name="net", device="cpu")


def altered(change: Callable[[torch.nn.Module], object], kind: str = "plain") -> LoadedModel:
    net = set_weights(SMALL_NETS[kind]())
    with torch.no_grad():
        change(net)
    return loaded(net)


BASE = "plain"


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return loaded(set_weights(SMALL_NETS[BASE]()))


def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Which pictures are made from now on: weights and channels of each call."""
    calls: list[tuple[str, list[int]]] = []
    real = synthesis.synthesize

    def counted(model: LoadedModel, **asked: object) -> object:
        calls.append((model.spec.weights_hash, list(asked["channels"])))  # type: ignore[call-overload]
        return real(model, **asked)  # type: ignore[arg-type]

    monkeypatch.setattr(synthesis, "synthesize", counted)
    return calls


@pytest.mark.parametrize("kind", ["plain", "residual", "depth_wise", "gelu", "headless"])
def test_a_network_and_itself_look_for_the_same(kind: str, small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model(kind)
    found = visual_study.study(model, model, channels=None, **LOOKS)
    for layer in found.layers:
        assert len(layer.channels) == model.layers[layer.layer].num_channels
        np.testing.assert_array_equal(layer.base_pictures, layer.tuned_pictures)
        np.testing.assert_allclose(layer.similarities, 1, atol=1e-6)
        np.testing.assert_array_equal(layer.gram_distances, 0)


def test_only_the_altered_channel_differs_and_it_ranks_first(base: LoadedModel) -> None:
    tuned = altered(lambda net: net.conv1.weight[2].copy_(-net.conv1.weight[2].flip(0)))
    (layer,) = visual_study.study(base, tuned, layers=["conv1"], channels=None, steps=12, size_px=16).layers
    others = [0, 1, 3]
    np.testing.assert_array_equal(layer.base_pictures[others], layer.tuned_pictures[others])
    np.testing.assert_allclose(layer.similarities[others], 1, atol=1e-6)
    assert layer.similarities[2] < 1 - 1e-4
    assert layer.gram_distances[2].min() > 0
    assert int(layer.similarities.argmin()) == 2


def test_a_redrawn_layer_shows_from_there_on_and_not_before(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = pairs.redrawn(base, ["conv2"])
    calls = made(monkeypatch)
    before, after = visual_study.study(base, tuned, layers=["conv1", "conv2"], channels=None, **LOOKS).layers
    np.testing.assert_allclose(before.similarities, 1, atol=1e-6)
    assert (after.similarities < 1 - 1e-6).any()
    # Up to conv1 nothing differs, so its four pictures were made once; those of conv2 in each network.
    assert [weights for weights, _ in calls] == [base.spec.weights_hash] * 2 + [tuned.spec.weights_hash]
    assert [len(channels) for _, channels in calls] == [4, 6, 6]


def test_another_seed_or_setting_gives_another_picture(base: LoadedModel) -> None:
    def pictures(**changes: int) -> np.ndarray:
        (layer,) = visual_study.study(base, base, layers=["conv1"], channels=[0], **{**LOOKS, **changes}).layers
        return layer.base_pictures

    np.testing.assert_array_equal(pictures(), pictures())
    assert not np.array_equal(pictures(), pictures(seed=1))
    assert not np.array_equal(pictures(), pictures(steps=5))
    assert pictures(size_px=24).shape == (1, 24, 24, 3)


class Enough(Exception):
    """Breaks a study off."""


def test_a_study_that_was_broken_off_goes_on_where_it_was(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = pairs.redrawn(base, ["conv1"])
    monkeypatch.setattr(synthesis, "BATCH_SIZE", 2)
    steps: list[Step] = []

    def stop(step: Step) -> None:
        steps.append(step)
        if step.done > 20:  # in the third batch, two pictures of four steps each
            raise Enough

    with pytest.raises(Enough):
        visual_study.study(base, tuned, layers=["conv2"], channels=None, on_step=stop, **LOOKS)
    partial = steps[-1].partial
    assert isinstance(partial, Study)
    assert partial.layers[0].channels.tolist() == [0, 1]
    looks = {**LOOKS, "layers": ["conv2"], "channels": None}
    assert visual_study.num_pictures(base, tuned, **looks) == (12, 8)
    calls = made(monkeypatch)
    (resumed,) = visual_study.study(base, tuned, **looks).layers
    assert sum(len(channels) for _, channels in calls) == 8
    for path in settings.current().data_dir.glob("visualisations/*/*.npz"):
        path.unlink()
    (whole,) = visual_study.study(base, tuned, **looks).layers
    for name in LayerStudy.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert visual_study.num_pictures(base, tuned, **looks) == (12, 0)


def test_a_damaged_picture_is_made_anew(base: LoadedModel, data_dir: Path) -> None:
    looks = {**LOOKS, "layers": ["conv1"], "channels": 2}
    first = visual_study.study(base, base, **looks).layers[0]
    paths = list(data_dir.glob("visualisations/*/*.npz"))
    kept = paths[0].read_bytes()
    middle = kept.index(b"picture.npy") + 60  # among what is compressed
    for damaged in (b"no archive", kept[:middle] + bytes(255 - byte for byte in kept[middle:]), kept[:200]):
        paths[0].write_bytes(damaged)
        again = visual_study.study(base, base, **looks).layers[0]
        np.testing.assert_array_equal(first.base_pictures, again.base_pictures)
        assert paths[0].read_bytes() == kept


def test_no_damage_goes_unseen(base: LoadedModel, data_dir: Path) -> None:
    """Any byte of the file turned over: the picture as it was, or none."""
    shelf = visual_study._Shelf(base, "conv1", **LOOKS)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    shelf._keep(0, picture)
    whole = shelf._file(0).read_bytes()
    num_lost = 0
    for at in range(0, len(whole), 3):
        shelf._file(0).write_bytes(whole[:at] + bytes([255 - whole[at]]) + whole[at + 1 :])
        found = shelf._read(0)
        num_lost += found is None
        assert found is None or np.array_equal(found, picture)
    assert num_lost > len(whole) / 6


def test_a_channel_asked_for_twice_is_there_once(base: LoadedModel) -> None:
    (layer,) = visual_study.study(base, base, layers=["conv1"], channels=[2, 2, 0], **LOOKS).layers
    (alone,) = visual_study.study(base, base, layers=["conv1"], channels=[0], **LOOKS).layers
    assert layer.channels.tolist() == [2, 0]
    np.testing.assert_array_equal(layer.base_pictures[1], alone.base_pictures[0])


def test_progress_reaches_its_end_also_for_what_was_there(base: LoadedModel) -> None:
    tuned = pairs.redrawn(base, ["conv1"])
    for _ in range(2):
        steps: list[Step] = []
        visual_study.study(base, tuned, layers=["conv1", "conv2"], channels=3, on_step=steps.append, **LOOKS)
        assert [step.done for step in steps] == sorted(step.done for step in steps)
        assert (steps[-1].done, steps[-1].total) == (48, 48)


def test_grey_pictures_are_failures_and_are_left_out(base: LoadedModel) -> None:
    grey, colour = np.full((16, 16, 3), 90, np.uint8), np.zeros((16, 16, 3), np.uint8)
    colour[..., 0] = 200
    part = (
        np.stack([colour, grey, colour, colour]),
        np.stack([colour, colour, colour, grey]),
        np.array([0.9, 0.1, 0.8, 0.0], np.float32),
        np.zeros((4, 1), np.float32),
    )
    layer = visual_study._layer("conv1", [3, 5, 7, 9], [part])
    assert layer.base_failed.tolist() == [False, True, False, False]
    assert layer.tuned_failed.tolist() == [False, False, False, True]
    assert layer.channels[layer.order].tolist() == [7, 3]


def test_a_network_that_answers_nothing_gives_failures_only() -> None:
    dead = altered(lambda net: [net.conv1.weight.zero_(), net.conv1.bias.fill_(-1)])
    (layer,) = visual_study.study(dead, dead, layers=["relu1"], channels=None, **LOOKS).layers
    assert layer.base_failed.all()
    assert layer.tuned_failed.all()
    assert not len(layer.order)


def test_the_gram_distance_by_hand() -> None:
    """F = [[1, 2]] and [[3, 0]], C = 1, h w = 2: G = 5 and 9, D = 16 / (4 x 1 x 4)."""
    one, other = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 0.0]]]])
    assert visual_study.gram_distance(one, other) == pytest.approx([1.0])
    big = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    expected = [
        ((a.reshape(3, 20) @ a.reshape(3, 20).T - b.reshape(3, 20) @ b.reshape(3, 20).T) ** 2).sum() / (4 * 9 * 400)
        for a, b in zip(big, big.flip(0), strict=True)
    ]
    np.testing.assert_allclose(visual_study.gram_distance(big, big.flip(0)), expected, rtol=1e-5)


def test_the_cosine_is_that_of_what_the_base_networks_classifier_reads(base: LoadedModel) -> None:
    tuned = pairs.redrawn(base, ["conv1"])
    found = visual_study.study(base, tuned, layers=["conv2"], channels=[1], **LOOKS)
    assert found.embedding_layer == "gap"
    (layer,) = found.layers
    vectors = []
    for picture in (layer.base_pictures[0], layer.tuned_pictures[0]):
        x = torch.tensor(picture).permute(2, 0, 1)[None] / 255 * 2 - 1
        vectors.append(base.net.relu2(base.net.conv2(base.net.pool(base.net.relu1(base.net.conv1(x))))).mean((2, 3)))
    assert layer.similarities[0] == pytest.approx(float(torch.cosine_similarity(*vectors)), abs=1e-5)


def test_what_cannot_be_asked_for(base: LoadedModel, small_model: Callable[[str], LoadedModel]) -> None:
    with pytest.raises(BadSetting, match="channels 0 to 3"):
        visual_study.study(base, base, layers=["conv1"], channels=[4], **LOOKS)
    with pytest.raises(BadSetting, match="give 1 or more"):
        visual_study.study(base, base, channels=0, **LOOKS)
    with pytest.raises(NotApplicable, match="different architectures"):
        visual_study.study(base, small_model("residual"), **LOOKS)
    other = loaded(set_weights(SMALL_NETS["binary"]()))
    with pytest.raises(NotApplicable, match="choose one below the head, such as conv1"):
        visual_study.study(base, other, layers=["fc"], **LOOKS)


def test_channels_are_drawn_with_the_seed(lite0: LoadedModel) -> None:
    assert visual_study.sampled(lite0, "blocks.0.0", None) == tuple(range(16))
    one, other = (visual_study.sampled(lite0, "bn2", 12, seed=seed) for seed in (0, 1))
    assert len(set(one)) == 12
    assert one == visual_study.sampled(lite0, "bn2", 12)
    with pytest.raises(BadSetting, match="seed is -1; choose a whole number from 0"):
        visual_study.sampled(lite0, "bn2", 12, seed=-1)
    assert one != other
    assert list(one) == sorted(one)
    assert visual_study.default_layers(lite0, lite0)[-1] == "bn2"


def test_the_oldest_pictures_go_beyond_the_room(
    base: LoadedModel, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visual_study.study(base, base, layers=["conv1"], channels=None, **LOOKS)
    monkeypatch.setattr(visual_study, "_MOST_KEPT_MB", 0)
    visual_study.study(base, base, layers=["conv1"], channels=[0], **LOOKS)
    assert [path.name for path in data_dir.glob("visualisations/*/*.npz")] == ["0.npz"]


def test_the_cost_is_that_of_a_step_however_long_the_first_one_takes(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still but for a slow beginning, at the first time only, and the steps."""
    clock = {"now": 0.0, "beginning": 30.0}

    def synthesize(*_: object, steps: int, on_step: Callable[[object], None] = lambda _: None, **__: object) -> None:
        clock["now"] += clock.pop("beginning", 0.0)
        for _ in range(steps):
            clock["now"] += 0.5
            on_step(None)

    monkeypatch.setattr(synthesis, "synthesize", synthesize)
    monkeypatch.setattr(visual_study.time, "perf_counter", lambda: clock["now"])
    num = min(synthesis.BATCH_SIZE, base.layers["conv1"].num_channels)
    assert visual_study.seconds_per_step(base, layer="conv1", size_px=16) == pytest.approx(0.5 / num)
