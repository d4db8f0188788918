"""Fine-tuning on pictures of three colours: what is frozen stays, what is kept is right, what goes wrong is said."""

from __future__ import annotations

import copy
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from cnnviz_core import checkpoints, collections, jobs, models, result_files, settings, store, tail, training
from cnnviz_core.collections import Collection, embedding, picture_features, sources
from cnnviz_core.collections.embedding import File
from cnnviz_core.errors import BadCollection, BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.methods import fine_tuning
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FineTuned, Step, TrainingProgress

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
NUM_EACH = 10

Net = Callable[[str], LoadedModel]
Zoo = Callable[[str], LoadedModel]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    changed = settings.Settings(data_dir=tmp_path / "data")
    monkeypatch.setattr(settings, "current", lambda: changed)
    monkeypatch.setattr(sources, "_flush", lambda: None)
    return tmp_path / "data"


def paint(folder: Path, *, num: int = NUM_EACH, contrast: float = 1.0) -> None:
    """Noisy pictures of one colour each; with little contrast the colours are hard to tell apart."""
    draw = np.random.default_rng(0)
    grey = np.array([100.0, 100.0, 100.0])
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        mean = grey + contrast * (np.array(colour) - grey)
        for number in range(num):
            pixels = np.clip(draw.normal(mean, 40, (18, 18, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


@pytest.fixture
def colours(tmp_path: Path) -> Collection:
    paint(tmp_path / "colours")
    return collections.open_collection(tmp_path / "colours")


@pytest.fixture
def hard(tmp_path: Path) -> Collection:
    paint(tmp_path / "hard", num=20, contrast=0.25)
    return collections.open_collection(tmp_path / "hard")


def weights_of(result: FineTuned) -> dict[str, Tensor]:
    assert result.checkpoint is not None
    return checkpoints.read_state_dict(result.checkpoint.path, max_mb=100)


def loaded(model: LoadedModel, result: FineTuned) -> nn.Module:
    """The kept network of one with three classes."""
    net = copy.deepcopy(model.net)
    net.load_state_dict(weights_of(result))
    return net


# ---- what changes and what does not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trainable", "norms", "are_by_batch"),
    [
        ("residual", ["bn2", "fc"], "kept", False),
        ("residual", ["bn2", "fc"], "auto", False),  # another norm stays as it is
        ("residual", ["bn2", "fc"], "batch", True),
        ("residual", ["stem", "conv1", "bn1", "bn2"], "auto", True),
        ("residual", ["conv2"], "batch", False),
        ("depth_wise", ["project"], "auto", False),
    ],
)
def test_frozen_layers_keep_every_bit(
    name: str,
    trainable: list[str],
    norms: str,
    are_by_batch: bool,
    small_model: Net,
    hard: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training.Training, "_start_head", lambda *_: None)  # so that the first epochs better it
    model = small_model(name)
    before = {key: tensor.clone() for key, tensor in model.net.state_dict().items()}
    result = fine_tuning.train(model, hard, trainable=trainable, epochs=3, learning_rate=0.003, norms=norms)
    after = weights_of(result)
    assert result.best_epoch > 0
    assert set(result.trained) == {*trainable, "fc"}
    for key, tensor in before.items():
        layer = key.rpartition(".")[0]
        is_statistic = "running" in key or "tracked" in key
        if layer in result.trained and (are_by_batch or not is_statistic):
            assert not torch.equal(after[key], tensor), key
        else:
            assert torch.equal(after[key], tensor), key
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.net.state_dict().items()), "the shared net"
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.net.parameters())


@pytest.mark.parametrize(
    ("norms", "batch_size", "optimiser", "rate"),
    # A bias before a norm of the batch has no gradient but rounding, of which AdamW would make steps of full size.
    [("kept", 7, "adamw", 0.01), ("batch", 9, "sgd", 0.05)],
)
def test_kept_features_train_as_the_whole_network_does(
    norms: str,
    batch_size: int,
    optimiser: str,
    rate: float,
    small_model: Net,
    hard: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Step for step: the curves of a training on kept features are those of one that runs everything every time."""
    monkeypatch.setattr(training.Training, "_start_head", lambda *_: None)  # so that the epochs better it
    model = small_model("residual")
    arguments: dict[str, Any] = {
        "trainable": ["conv2", "bn2", "fc"], "epochs": 4, "batch_size": batch_size, "norms": norms,
        "optimiser": optimiser, "learning_rate": rate,
    }  # fmt: skip
    kept = fine_tuning.train(model, hard, **arguments)
    assert kept.kept_at == "what stem puts out"
    uncut = tail.cut
    monkeypatch.setattr(tail, "cut", lambda net, trained, x, **_: uncut(net, trained, x, is_static=False))
    whole = fine_tuning.train(model, hard, **arguments)
    assert whole.kept_at == "the picture"
    assert kept.best_epoch == whole.best_epoch > 0
    for one, other in zip(kept.history, whole.history, strict=True):
        assert one.training_loss == pytest.approx(other.training_loss, rel=1e-5)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-5)
    assert [e.validation_accuracy for e in kept.history] == [e.validation_accuracy for e in whole.history]
    ours, theirs = weights_of(kept), weights_of(whole)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-5, atol=1e-6)


def test_one_step_of_sgd_by_another_road(small_model: Net, colours: Collection) -> None:
    """The head after one full-batch step is the start less the learning rate times the gradient of the mean loss."""
    model = small_model("plain")
    rate = 1e-3
    result = fine_tuning.train(
        model, colours, trainable=["conv2"], epochs=1, optimiser="sgd", learning_rate=rate, schedule="constant",
        weight_decay=0, batch_size=1000,
    )  # fmt: skip
    by_path = {picture.path: picture for picture in colours.pictures()}
    x = torch.cat([model.to_input(colours.open(by_path[path])) for path in result.training])
    targets = torch.tensor([result.class_names.index(by_path[path].label) for path in result.training])
    started = fine_tuning.train(
        model, colours, trainable=["fc"], epochs=1, learning_rate=1e-30, weight_decay=0, batch_size=1000
    )
    net: Any = loaded(model, started)
    weights = [net.conv2.weight, net.conv2.bias, net.fc.weight, net.fc.bias]
    for weight in weights:
        weight.requires_grad_(True)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(net(x), targets), weights)
    assert result.best_epoch == 1
    after = weights_of(result)
    names = ("conv2.weight", "conv2.bias", "fc.weight", "fc.bias")
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        torch.testing.assert_close((weight.detach() - after[name]) / rate, gradient, rtol=1e-2, atol=2e-3)


def test_norms_of_trained_layers_go_by_the_batch(
    small_model: Net, hard: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one full batch a norm has its mean and variance, whatever it had before; answers go by what it has."""
    model = small_model("residual")
    states: list[list[Tensor]] = []
    evaluate = training.Training._evaluate

    def noted(self: Any, *args: Any) -> tuple[float, float]:
        states.append([tensor.clone() for tensor in self.state if not tensor.requires_grad])
        assert not any(norm.training for norm in self.norms), "answers do not hang on the batch"
        return evaluate(self, *args)

    monkeypatch.setattr(training.Training, "_evaluate", noted)
    result = fine_tuning.train(
        model, hard, trainable=["bn2"], epochs=2, learning_rate=1e-30, weight_decay=0, batch_size=1000, norms="batch"
    )
    by_path = {picture.path: picture for picture in hard.pictures()}
    x = torch.cat([model.to_input(hard.open(by_path[path])) for path in result.training])
    seen: list[Tensor] = []
    net: Any = copy.deepcopy(model.net)
    net.bn2.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    net(x)
    values = seen[0].transpose(0, 1).flatten(1)
    before, first, second = states[0], states[2], states[3]
    assert torch.equal(before[0], net.bn2.running_mean)
    for state in (first, second):
        torch.testing.assert_close(state[0], values.mean(dim=1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(state[1], values.var(dim=1), rtol=1e-3, atol=1e-3)
    assert [int(state[2]) for state in (first, second)] == [1, 2]
    kept: Any = weights_of(result)
    expected = {0: before, 1: first, 2: second}[result.best_epoch]
    torch.testing.assert_close([kept["bn2.running_mean"], kept["bn2.running_var"]], expected[:2])


def test_no_norm_sees_a_batch_of_one(small_model: Net, hard: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    gradients = training.gradients

    def noted(model: Any, halves: Any, weights: Any, features: Tensor, targets: Tensor) -> Any:
        sizes.append(len(features))
        return gradients(model, halves, weights, features, targets)

    monkeypatch.setattr(training, "gradients", noted)
    result = fine_tuning.train(
        small_model("residual"), hard, trainable=["bn2"], epochs=1, batch_size=len(hard.pictures()) - 23, norms="batch"
    )
    assert sizes[-1:] == [len(result.training)]
    assert 1 not in sizes
    with pytest.raises(BadSetting, match="batch of one picture"):
        fine_tuning.train(small_model("residual"), hard, trainable=["bn2"], batch_size=1, norms="batch")


def test_the_same_seed_gives_the_same_network_and_another_one_another(small_model: Net, hard: Collection) -> None:
    model, state = small_model("gelu"), torch.random.get_rng_state()

    def once(seed: int) -> FineTuned:
        return fine_tuning.train(model, hard, trainable=["conv2"], epochs=2, seed=seed, augmentation="variants")

    first, again, other = once(0), once(0), once(1)
    assert first.checkpoint == again.checkpoint
    assert [e.validation_loss for e in first.history] == [e.validation_loss for e in again.history]
    assert set(first.test) != set(other.test)
    assert torch.equal(state, torch.random.get_rng_state()), "nothing was drawn from the process’s generator"


@pytest.mark.parametrize("augmentation", list(fine_tuning.AUGMENTATIONS))
def test_every_augmentation_trains(augmentation: str, small_model: Net, colours: Collection) -> None:
    result = fine_tuning.train(small_model("plain"), colours, trainable=["conv2"], epochs=2, augmentation=augmentation)
    assert result.accuracy == 1
    assert len(result.history) == 3


@pytest.mark.parametrize("optimiser", list(fine_tuning.OPTIMISERS))
def test_every_optimiser_lowers_the_loss(optimiser: str, small_model: Net, hard: Collection) -> None:
    result = fine_tuning.train(small_model("plain"), hard, trainable=["conv2"], epochs=3, optimiser=optimiser)
    assert result.history[-1].training_loss < result.history[0].training_loss


# ---- what is reported ----------------------------------------------------------------------------------------------


def test_the_confusion_matrix_counts_what_the_kept_network_answers(small_model: Net, hard: Collection) -> None:
    model = small_model("plain")
    result = fine_tuning.train(model, hard, trainable=["fc"], epochs=2)
    net = loaded(model, result)
    by_path = {picture.path: picture for picture in hard.pictures()}
    expected = np.zeros((3, 3), int)
    for path, truth, answer, probability in zip(
        result.test, result.truths, result.answers, result.probabilities, strict=True
    ):
        # Of the very pixels that a training reads; a page may fit a picture to the network with other rounding.
        crop = embedding.read_crop(File(hard.folder / path), model.preprocessing)
        with torch.no_grad():
            probabilities = torch.softmax(net(model.preprocessing.normalise(crop[np.newaxis]))[0], dim=0)
        assert (int(probabilities.argmax()), result.class_names[truth]) == (answer, by_path[path].label)
        assert float(probabilities.max()) == pytest.approx(float(probability), abs=1e-5)
        expected[truth, answer] += 1
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.accuracy == pytest.approx(np.trace(expected) / expected.sum())
    assert result.recalls[0] == pytest.approx(expected[0, 0] / expected[0].sum())
    np.testing.assert_array_equal(result.probe_confusion.sum(axis=1), expected.sum(axis=1))


def test_a_result_can_be_kept_as_a_file(small_model: Net, colours: Collection) -> None:
    result = fine_tuning.train(small_model("plain"), colours, trainable=["fc"], epochs=1)
    again = result_files.decode(result_files.encode(result))
    assert isinstance(again, FineTuned)
    assert (again.checkpoint, again.history, again.test) == (result.checkpoint, result.history, result.test)
    np.testing.assert_array_equal(again.confusion, result.confusion)


def test_numbers_of_a_result_by_hand() -> None:
    confusion = np.array([[3, 1, 0], [0, 2, 0], [2, 2, 0]])
    made: Any = object.__new__(FineTuned)
    object.__setattr__(made, "confusion", confusion)
    assert made.accuracy == 0.5
    assert made.chance_accuracy == 0.4
    np.testing.assert_allclose(made.recalls, [0.75, 1, 0])
    np.testing.assert_allclose(made.precisions, [0.6, 0.4, np.nan])


def test_training_starts_at_the_linear_probe(small_model: Net, hard: Collection) -> None:
    told: list[TrainingProgress] = []
    result = fine_tuning.train(
        small_model("plain"), hard, trainable=["conv2"], epochs=1, on_step=lambda step: told.append(step.partial)
    )
    assert result.history[0].validation_accuracy == pytest.approx(told[-1].probe_accuracy)


def test_steps_tell_how_far_it_is(small_model: Net, colours: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_TELL_SECONDS", 0)
    steps: list[Step] = []
    result = fine_tuning.train(
        small_model("plain"), colours, trainable=["fc"], epochs=2, augmentation="mirror", on_step=steps.append
    )
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    num_training = len(result.training)
    assert (steps[-1].done, steps[-1].total) == (30 + 3 * num_training,) * 2
    last: Any = steps[-1].partial
    assert (last.history, last.best_epoch, last.num_epochs) == (result.history, result.best_epoch, 2)


def test_the_time_left_weighs_passes_and_epochs_by_what_they_cost(
    small_model: Net, colours: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a pass costs next to nothing and a step a lot, half of the pictures done is not half of the time."""
    monkeypatch.setattr(training, "_TELL_SECONDS", 0)
    monkeypatch.setattr(training, "seconds_each", lambda *_: (0.0, 5.0))
    gradients = training.gradients

    def slow(*args: Any) -> Any:
        threading.Event().wait(0.1)
        return gradients(*args)

    monkeypatch.setattr(training, "gradients", slow)
    steps: list[Step] = []
    result = fine_tuning.train(
        small_model("plain"), colours, trainable=["conv2"], epochs=2, augmentation="variants", on_step=steps.append
    )
    num = len(result.training)
    varied = [step for step in steps if step.done == 30 + 5 * num]
    assert varied[0].seconds_left == pytest.approx(5.0 * 2 * num, rel=0.05), "as expected, before it is timed"
    (half,) = [step for step in steps if step.done == 30 + 6 * num and "is done" not in step.partial.doing]
    assert 0.1 <= half.seconds_left < 0.5, "one more epoch of one step"
    assert steps[-1].seconds_left == 0


def test_it_ends_early_and_keeps_the_best(small_model: Net, hard: Collection) -> None:
    result = fine_tuning.train(small_model("plain"), hard, trainable=["fc"], epochs=40, patience=2, learning_rate=1e-30)
    assert (result.ended, result.best_epoch) == ("early", 0)
    assert len(result.history) == 3


# ---- the checkpoint ------------------------------------------------------------------------------------------------


def test_a_kept_network_loads_by_id_answers_exactly_alike_and_is_trained_on(
    zoo_64: Zoo, colours: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo_64("timm/resnet18")
    nets: list[nn.Module] = []
    finished = training.Training._finished

    def noted(self: Any, *args: Any) -> FineTuned:
        nets.append(self.net)
        return finished(self, *args)

    monkeypatch.setattr(training.Training, "_finished", noted)
    trainable = fine_tuning.last_blocks(model, 1)
    assert trainable == ("layer4.1", "fc")
    result = fine_tuning.train(model, colours, trainable=trainable, epochs=1, name="my colours", seed=3)
    assert result.checkpoint is not None
    assert result.kept_at == "what layer4.1 reads"
    loaded = models.load(result.checkpoint.checkpoint_id, device="cpu")
    assert (loaded.class_names, loaded.spec.model_id) == (tuple(COLOURS), "timm/resnet18")
    assert loaded.spec.checkpoint_id == result.checkpoint.checkpoint_id
    assert loaded.preprocessing == model.preprocessing
    x = model.to_input(colours.open(colours.pictures()[0]))
    assert torch.equal(loaded.net(x), nets[0](x))

    card = store.checkpoint(result.checkpoint.checkpoint_id)
    assert card in store.checkpoints()
    account: Any = card.training
    assert account["base"] == {
        "network": "timm/resnet18", "model_id": "timm/resnet18", "weights": "random:0",
        "weights_hash": model.spec.weights_hash,
    }  # fmt: skip
    assert account["collection"]["id"] == colours.collection_id
    assert account["collection"]["revision"] == training.revision(colours.pictures())
    assert account["settings"]["seed"] == 3
    assert account["scores"]["test_accuracy"] == pytest.approx(result.accuracy, abs=1e-4)
    assert card.preprocessing == {"input_px": [64, 64]}
    with safe_open(result.checkpoint.path, "pt") as file:
        header = json.loads(file.metadata()["cnnviz"])
    assert (header["training"], header["class_names"]) == (account, list(COLOURS))

    second = fine_tuning.train(loaded, colours, trainable=["fc"], epochs=1)
    assert second.checkpoint is not None
    again: Any = store.checkpoint(second.checkpoint.checkpoint_id).training
    assert again["base"]["network"] == result.checkpoint.checkpoint_id


@pytest.mark.parametrize("model_id", ["torchvision/squeezenet1_1", "timm/mobilenetv3_small_050"])
def test_heads_of_other_kinds(model_id: str, zoo_64: Zoo, colours: Collection) -> None:
    """A convolution as the head, and one behind further layers."""
    result = fine_tuning.train(
        zoo_64(model_id), colours, trainable=[fine_tuning.last_blocks(zoo_64(model_id), 0)[0]], epochs=1
    )
    assert result.checkpoint is not None
    assert models.load(result.checkpoint.checkpoint_id, device="cpu").class_names == tuple(COLOURS)


def test_two_classes_and_a_grey_network(small_model: Net, tmp_path: Path) -> None:
    paint(tmp_path / "two")
    for path in (tmp_path / "two" / "green").iterdir():
        path.unlink()
    two = collections.open_collection(tmp_path / "two")
    result = fine_tuning.train(small_model("one_channel"), two, trainable=["fc"], epochs=2)
    assert result.class_names == ("blue", "red")
    assert result.confusion.shape == (2, 2)
    binary = fine_tuning.train(small_model("binary"), two, trainable=["fc"], epochs=2)
    assert binary.accuracy == 1


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_class_with_one_picture_is_left_out_and_named(small_model: Net, colours: Collection) -> None:
    (colours.folder / "white").mkdir()
    Image.new("RGB", (18, 18), "white").save(colours.folder / "white" / "only.png")
    colours.scan()
    result = fine_tuning.train(small_model("plain"), colours, trainable=["fc"], epochs=1)
    assert result.class_names == tuple(COLOURS)
    assert any("white (1)" in notice for notice in result.notices)


def test_all_layers_frozen(small_model: Net, colours: Collection) -> None:
    for trainable in ([], ["relu1", "gap"]):
        with pytest.raises(BadSetting, match=r"All layers are frozen.*at least the head, fc"):
            fine_tuning.train(small_model("plain"), colours, trainable=trainable)


def test_bad_arguments_are_named(small_model: Net, colours: Collection) -> None:
    model = small_model("plain")
    with pytest.raises(UnknownLayer, match=r"conv7.*Did you mean conv"):
        fine_tuning.train(model, colours, trainable=["conv7"])
    with pytest.raises(NotApplicable, match="no new head"):
        fine_tuning.train(small_model("headless"), colours, trainable=["conv2"])
    for name, value in (
        ("epochs", 0), ("learning_rate", math.nan), ("optimiser", "rprop"), ("augmentation", "cutmix"),
        ("schedule", "steps"), ("batch_size", 0), ("patience", 0), ("weight_decay", -1), ("test", 0.9),
    ):  # fmt: skip
        changed: dict[str, Any] = {name: value}
        with pytest.raises(BadSetting):
            fine_tuning.train(model, colours, trainable=["fc"], **changed)


def test_pictures_without_labels_are_no_classes(small_model: Net, tmp_path: Path) -> None:
    paint(tmp_path / "flat")
    for label in COLOURS:
        for path in (tmp_path / "flat" / label).iterdir():
            path.rename(tmp_path / "flat" / f"{label}{path.name}")
    with pytest.raises(BadCollection, match=r"two classes.*There is none.*30 pictures without a label"):
        fine_tuning.train(small_model("plain"), tmp_path / "flat", trainable=["fc"])


def test_a_loss_that_is_no_number_ends_it_and_names_the_learning_rate(small_model: Net, hard: Collection) -> None:
    result = fine_tuning.train(
        small_model("plain"), hard, trainable=["conv2"], epochs=5, learning_rate=1e30, optimiser="sgd"
    )
    assert result.ended == "diverged"
    assert any("learning rate of 1e+30" in notice and "1e+29" in notice for notice in result.notices)
    assert result.checkpoint is not None
    state = weights_of(result)
    assert checkpoints.count_non_finite(state) == 0
    assert result.best_epoch < len(result.history)


def test_a_cancel_keeps_the_best_so_far(small_model: Net, hard: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_TELL_SECONDS", 0)
    queue, third = jobs.Queue(), threading.Event()
    model = small_model("plain")

    def work(on_step: jobs.OnStep) -> object:
        def told(step: Step) -> None:
            if isinstance(step.partial, TrainingProgress) and len(step.partial.history) == 4:
                queue.cancel(job, owner="me")
                third.set()
            on_step(step)

        return fine_tuning.train(model, hard, trainable=["conv2"], epochs=1000, patience=1000, on_step=told)

    job = queue.submit("key", "training", work, owner="me")
    assert third.wait(60)
    while job.is_live:
        threading.Event().wait(0.01)
    assert job.state is jobs.State.CANCELLED
    assert job.step is not None
    kept = job.step.partial
    assert isinstance(kept, FineTuned)
    assert (kept.ended, len(kept.history)) == ("cancelled", 4)
    assert kept.checkpoint is not None
    assert kept.checkpoint.path.exists()


def test_a_cancel_before_anything_is_there_keeps_nothing(
    small_model: Net, colours: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_TELL_SECONDS", 0)

    def stop(_: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tuning.train(small_model("plain"), colours, trainable=["fc"], on_step=stop)
    assert not store.checkpoints()


def test_pictures_that_are_gone_before_it_starts_are_left_out(small_model: Net, colours: Collection) -> None:
    (colours.folder / "red" / "0.png").unlink()
    Image.new("RGB", (18, 18), "red").save(colours.folder / "red" / "1.png")
    result = fine_tuning.train(small_model("plain"), colours, trainable=["fc"], epochs=1)
    used = {*result.training, *result.validation, *result.test}
    assert len(used) == 28
    assert not used & {"red/0.png", "red/1.png"}
    assert any("2 pictures could not be read" in notice for notice in result.notices)
    for number in range(2, 9):
        (colours.folder / "red" / f"{number}.png").unlink()
    with pytest.raises(BadCollection, match="Look through the collection again"):
        fine_tuning.train(small_model("plain"), colours, trainable=["fc"], epochs=1)


def test_pictures_that_go_while_it_runs_end_it(
    small_model: Net, colours: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be kept, pictures are read again in every epoch."""
    monkeypatch.setattr(training, "_TELL_SECONDS", 0)
    monkeypatch.setattr(picture_features, "_MEMORY_BYTES", 0)
    monkeypatch.setattr(picture_features, "_DISK_BYTES", 0)

    def told(step: Step) -> None:
        if isinstance(step.partial, TrainingProgress) and len(step.partial.history) == 2:
            for path in (colours.folder / "red").iterdir():
                path.unlink()

    result = fine_tuning.train(small_model("plain"), colours, trainable=["conv1"], epochs=5, on_step=told)
    assert result.ended == "pictures changed"
    assert result.checkpoint is not None
    assert any(" of 6 test pictures" in notice for notice in result.notices)


def test_a_full_disk_loses_nothing(small_model: Net, colours: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = fine_tuning.train(small_model("plain"), colours, trainable=["fc"], epochs=1)
    assert result.checkpoint is None
    assert any("No space left on device" in notice for notice in result.notices)
    assert not store.checkpoints()
    assert not list(settings.current().data_dir.rglob("*.safetensors"))
    monkeypatch.setattr(os, "fsync", fsync)
    saved = fine_tuning.keep(result)
    assert saved.checkpoint is not None
    assert saved.checkpoint.path.read_bytes() == result.unsaved
    assert not saved.unsaved


@pytest.mark.parametrize(("memory", "disk"), [(0, 1 << 30), (0, 0)])
def test_features_go_to_the_disk_or_are_made_anew(
    memory: int, disk: int, small_model: Net, hard: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"trainable": ["conv2"], "epochs": 2}
    expected = fine_tuning.train(small_model("plain"), hard, **arguments)
    monkeypatch.setattr(picture_features, "_MEMORY_BYTES", memory)
    monkeypatch.setattr(picture_features, "_DISK_BYTES", disk)
    result = fine_tuning.train(small_model("plain"), hard, **arguments)
    for one, other in zip(result.history, expected.history, strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)


# ---- choosing layers ------------------------------------------------------------------------------------------------


def test_which_blocks_come_last(zoo_64: Zoo, lite0: LoadedModel, small_model: Net) -> None:
    resnet = zoo_64("timm/resnet18")
    assert fine_tuning.last_blocks(resnet) == ("layer4.1", "fc")
    assert fine_tuning.last_blocks(resnet, 4) == ("layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc")
    assert fine_tuning.last_blocks(resnet, 0) == ("fc",)
    assert fine_tuning.from_stage(resnet, (4, 4)) == ("layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc")
    assert set(fine_tuning.everything(resnet)) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    assert fine_tuning.last_blocks(lite0, 3) == ("blocks.5.3", "blocks.6.0", "conv_head", "classifier")
    assert fine_tuning.last_blocks(small_model("plain"), 9) == ("conv1", "conv2", "fc")


@pytest.mark.parametrize("optimiser", fine_tuning.OPTIMISERS)
def test_the_more_layers_the_smaller_the_steps(optimiser: str, small_model: Net) -> None:
    model, kind = small_model("residual"), fine_tuning.OPTIMISERS[optimiser]

    def rate(*trainable: str, norms: str = "kept") -> float:
        return fine_tuning.default_learning_rate(model, trainable, optimiser, norms=norms)

    assert rate("fc") == kind.learning_rate
    assert rate("conv2", "bn2", "fc") == kind.layer_learning_rate
    assert rate("conv1", "conv2", "fc") == rate(*fine_tuning.everything(model)) == kind.deeper_learning_rate
    assert kind.learning_rate > kind.layer_learning_rate >= kind.deeper_learning_rate
    assert rate(*fine_tuning.everything(model), norms="batch") == kind.learning_rate


def test_the_plan_counts_what_is_trained(small_model: Net) -> None:
    found = fine_tuning.plan(small_model("plain"), trainable=["fc"], num_classes=5)
    assert found.num_trained == 6 * 5 + 5
    assert found.num_parameters == (3 * 4 * 9 + 4) + (4 * 6 * 9 + 6) + 35
    assert found.kept_at == "what fc reads"
    assert found.seconds_first > 0


@pytest.mark.parametrize("name", ["plain", "residual", "depth_wise"])
def test_threads_that_use_the_network_meanwhile_see_nothing(name: str, small_model: Net, colours: Collection) -> None:
    model = small_model(name)
    x = model.to_input(colours.open(colours.pictures()[0]))
    expected, ended, wrong = model.net(x), threading.Event(), []

    def watch() -> None:
        while not ended.is_set():
            if not torch.equal(model.net(x), expected):
                wrong.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        fine_tuning.train(model, colours, trainable=["conv1" if name != "depth_wise" else "expand"], epochs=2)
    finally:
        ended.set()
        watcher.join()
    assert not wrong
