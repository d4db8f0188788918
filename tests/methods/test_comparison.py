"""Base against tuned: a network against itself, one altered channel, a redrawn layer, answers that changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz_core import collections, manifest, models, pairs, settings
from cnnviz_core.collections import Collection
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.methods import comparison
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Comparison, Screening, Step

NUM = 30


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path / "data"))
    return tmp_path


@pytest.fixture
def noise(tmp_path: Path, noise_image: Callable[..., InputImage]) -> Collection:
    """Pictures of noise of different brightness, 10 of each label."""
    for at in range(NUM):
        folder = tmp_path / "noise" / ("cat", "dog", "bird")[at % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (noise_image(16, 16, seed=at).pixels * (0.2 + 0.8 * at / NUM)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{at:03}.png")
    return collections.open_collection(tmp_path / "noise")


def altered(model: LoadedModel, change: Callable[[torch.nn.Module], object]) -> LoadedModel:
    """A copy of a network after a change."""
    copy = pairs.redrawn(model, [pairs.stops(model)[0].parts[0]])
    copy.net.load_state_dict(model.net.state_dict())
    with torch.no_grad():
        change(copy.net)
    return copy


@pytest.fixture(scope="session")
def small_lite0() -> LoadedModel:
    """The default network with its real weights on small pictures."""
    return models.load(models.DEFAULT_MODEL, preprocessing={"input_px": 96}, device="cpu")


# ---- the first screen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "residual", "functional", "depth_wise", "gelu", "one_channel", "binary"])
def test_a_network_against_itself(kind: str, small_model: Callable[[str], LoadedModel], noise: Collection) -> None:
    model = small_model(kind)
    found = comparison.screen(model, model, collection=noise)
    assert found.kinship.kind == "same"
    for change in found.layers:
        assert change.cka == pytest.approx(1)
        np.testing.assert_allclose(change.correlations[np.isfinite(change.correlations)], 1, atol=1e-5)
    np.testing.assert_allclose(found.cosines, 1, atol=1e-6)
    answers = comparison.changed_answers(model, model, found)
    assert answers.answers == ()
    assert answers.num_pictures == NUM
    assert [row.changed for row in answers.classes] == [0] * len(answers.classes)


def test_one_altered_channel_ranks_first(small_lite0: LoadedModel) -> None:
    def change(net: torch.nn.Module) -> None:
        weight = net.get_parameter("blocks.2.0.conv_pwl.weight")
        weight[7] = weight[8].flip(0)

    found = comparison.screen(small_lite0, altered(small_lite0, change), num_pictures=24)
    before = [one for one in found.layers if one.layer < "blocks.2.0"]
    (there,) = [one for one in found.layers if one.layer == "blocks.2.0"]
    assert all(one.cka == pytest.approx(1) for one in before)
    assert int(np.nanargmin(there.correlations)) == 7
    others = np.delete(there.correlations, 7)
    np.testing.assert_allclose(others, 1, atol=1e-4)
    assert there.cka < 1 - 1e-6


def test_a_redrawn_layer_shows_from_there_on_and_not_before(small_lite0: LoadedModel) -> None:
    tuned = pairs.redrawn(small_lite0, ["blocks.3.1"])
    found = comparison.screen(small_lite0, tuned, num_pictures=32)
    names = [one.layer for one in found.layers]
    at = names.index("blocks.3.1")
    assert [one.weights.same_parameters for one in found.layers] == [name != "blocks.3.1" for name in names]
    assert all(one.cka == pytest.approx(1) for one in found.layers[:at])
    assert all(one.correlation == pytest.approx(1) for one in found.layers[:at])
    assert all(one.cka < 0.99 for one in found.layers[at:])
    assert found.run.other is not None
    assert found.run.other.weights_hash == tuned.spec.weights_hash
    assert "CKA and correlations come from 32 pictures only" in found.notices[0]


def test_activations_agree_with_those_of_the_networks_themselves(tiny_model: LoadedModel, noise: Collection) -> None:
    """The pass folds norms and reads crops on its own way; numpy has the last word."""
    tuned = pairs.redrawn(tiny_model, ["conv1"])
    found = comparison.screen(tiny_model, tuned, collection=noise)
    pictures = [noise.open(picture) for picture in noise.pictures()]
    assert found.paths == tuple(picture.path for picture in noise.pictures())
    for side, scores in ((tiny_model, found.base_scores), (tuned, found.tuned_scores)):
        expected = [side.predict(image, k=3) for image in pictures]
        best = [side.class_names[at] for at in scores.argmax(axis=1)]
        assert best == [one.labels[0] for one in expected]


def test_steps_and_a_result_so_far(tiny_model: LoadedModel, noise: Collection) -> None:
    steps: list[Step] = []
    whole = comparison.screen(tiny_model, pairs.redrawn(tiny_model, ["conv2"]), collection=noise, on_step=steps.append)
    assert [step.done for step in steps] == [0, 8, 16, 24, NUM]
    assert np.isnan([one.cka for one in steps[0].partial.layers]).all()  # type: ignore[attr-defined]
    last = steps[-1].partial
    assert isinstance(last, Screening)
    assert last.layers[1].cka == whole.layers[1].cka
    assert len(steps[1].partial.paths) == 8  # type: ignore[attr-defined]


def test_a_collection_without_enough_pictures_is_refused(tiny_model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "few" / "a.png")
    with pytest.raises(BadSetting, match="1 pictures that can be read"):
        comparison.screen(tiny_model, tiny_model, collection=collections.open_collection(tmp_path / "few"))
    with pytest.raises(BadSetting, match="num_pictures is 3"):
        comparison.screen(tiny_model, tiny_model, num_pictures=3)


def test_a_file_that_went_bad_is_left_out(tiny_model: LoadedModel, noise: Collection) -> None:
    (noise.folder / "cat" / "000.png").write_bytes(b"gone")
    found = comparison.screen(tiny_model, tiny_model, collection=noise)
    assert len(found.paths) == NUM - 1
    assert any("1 pictures could not be read" in notice for notice in found.notices)


# ---- answers that changed --------------------------------------------------------------------------------------------


def screening(base: LoadedModel, tuned: LoadedModel, collection: Collection, *scores: object) -> Screening:
    """A screening with scores set by hand."""
    found = comparison.screen(base, tuned, collection=collection)
    one, two = (np.array(values, np.float32) for values in scores)
    num = len(one)
    return replace(found, base_scores=one, tuned_scores=two, labels=found.labels[:num], paths=found.paths[:num])


def test_gained_lost_and_other_wrong(tiny_model: LoadedModel, noise: Collection) -> None:
    """Labels in order of the paths: 10 birds, then cats. Classes: cat, dog, bird."""
    base = [[3, 0, 1], [0, 1, 3], [2, 0, 0], [0, 0, 5], [0, 1, 2]]
    tuned = [[0, 0, 4], [9, 1, 3], [0, 8, 0], [0, 0, 6], [0, 2, 1]]
    other = pairs.redrawn(tiny_model, ["conv1"])
    found = comparison.changed_answers(tiny_model, other, screening(tiny_model, other, noise, base, tuned))
    assert found.unit == "logits"
    assert [(a.picture, a.kind, a.base, a.tuned, a.moved) for a in found.answers] == [
        (2, "other wrong", "cat", "dog", 10),
        (1, "lost", "bird", "cat", 9),
        (0, "gained", "cat", "bird", 6),
        (4, "lost", "bird", "dog", 2),
    ]
    assert [(c.name, c.num, c.base_right, c.tuned_right, c.changed) for c in found.classes] == [("bird", 5, 3, 2, 4)]
    assert found.num_known == 5


def test_other_heads_are_compared_by_the_names_of_their_classes(tiny_model: LoadedModel, noise: Collection) -> None:
    other = replace(pairs.redrawn(tiny_model, ["conv1"]), class_names=("Parus major (Bird, great tit)", "x", "y"))
    base = [[0, 0, 9], [9, 0, 0]]
    tuned = [[9, 0, 0], [9, 0, 0]]
    found = comparison.changed_answers(tiny_model, other, screening(tiny_model, other, noise, base, tuned))
    assert found.unit == "probability"
    (gained,) = found.answers
    assert (gained.picture, gained.kind, gained.tuned) == (1, "gained", "Parus major (Bird, great tit)")
    assert gained.moved == pytest.approx(1, abs=1e-3)
    assert found.num_known == 2
    without = replace(other, class_names=("x", "y", "z"))
    found = comparison.changed_answers(tiny_model, without, screening(tiny_model, without, noise, base, tuned))
    assert [answer.kind for answer in found.answers] == ["new word", "new word"]
    assert (found.num_known, found.unit) == (0, "probability")


def test_without_labels_or_common_names_vectors_tell_how_far_the_evidence_moved(
    tiny_model: LoadedModel, noise: Collection
) -> None:
    other = replace(pairs.redrawn(tiny_model, ["conv1"]), class_names=("x", "y", "z"))
    seen = screening(tiny_model, other, noise, [[1, 0, 0]] * 3, [[1, 0, 0]] * 3)
    seen = replace(seen, labels=("",) * 3, cosines=np.array([0.5, 0.9, 0.1], np.float32))
    found = comparison.changed_answers(tiny_model, other, seen)
    assert found.unit == "cosine distance"
    assert [(a.picture, a.kind) for a in found.answers] == [(2, "changed"), (0, "changed"), (1, "changed")]
    assert found.num_known == 0
    assert found.classes[0].name == "cat"


def test_a_network_without_classes_has_no_answers(
    tiny_model: LoadedModel, small_model: Callable[[str], LoadedModel], noise: Collection
) -> None:
    headless = small_model("headless")
    found = comparison.screen(tiny_model, headless, collection=noise)
    assert all(change.cka == pytest.approx(1) for change in found.layers if change.layer != "fc")
    with pytest.raises(NotApplicable, match="has no classifier"):
        comparison.changed_answers(tiny_model, headless, found)


def test_networks_of_other_input_sizes_each_see_their_own_crop(tiny_model: LoadedModel, noise: Collection) -> None:
    larger = models.from_module(
        tiny_model.net, input_px=24, mean=(0.5,) * 3, std=(0.5,) * 3, name="larger", device="cpu"
    )
    found = comparison.screen(tiny_model, larger, collection=noise)
    assert any("fit pictures differently" in notice for notice in found.notices)
    assert all(change.cka > 0.5 for change in found.layers)


# ---- both together ---------------------------------------------------------------------------------------------------


def test_everything_by_layer(tiny_model: LoadedModel, noise: Collection) -> None:
    tuned = pairs.redrawn(tiny_model, ["conv2"])
    steps: list[Step] = []
    looks = {"layers": ["conv1", "relu2"], "channels": 2, "steps": 2, "size_px": 16}
    found = comparison.compare(tiny_model, tuned, collection=noise, on_step=steps.append, **looks)
    assert [(one.layer, one.change is not None, one.study is not None) for one in found.layers] == [
        ("conv1", True, True),
        ("conv2", True, False),
        ("fc", True, False),
        ("relu2", False, True),
    ]
    assert isinstance(steps[-1].partial, Comparison)
    assert found.study is not None
    assert found.study.run.method == "comparison.study"
    assert comparison.compare(tiny_model, tuned, collection=noise, channels=0).study is None


def test_a_manifest_repeats_it_with_both_networks(lite0: LoadedModel) -> None:
    tuned = models.load(models.DEFAULT_MODEL, weights="random:0", device="cpu")
    run = pairs.paired_run(lite0, tuned, "comparison.study", 1.0, layers=["bn2"], channels=4)
    lines = manifest.python_lines(run)
    assert lines[-3:] == [
        "model = models.load('timm/tf_efficientnet_lite0', weights='default')",
        "other = models.load('timm/tf_efficientnet_lite0', weights='random:0')",
        "result = comparison.study(model, other, layers=['bn2'], channels=4)",
    ]
    redrawn = pairs.redrawn(lite0, pairs.last_stage(lite0))
    lines = manifest.python_lines(pairs.paired_run(lite0, redrawn, "comparison.screen", 1.0))
    made: dict[str, object] = {}
    exec("\n".join(lines[:-1]), made)
    assert made["other"].spec == redrawn.spec  # type: ignore[attr-defined]
