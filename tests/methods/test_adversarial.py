"""Fooling images against linear networks computed by hand, bounds, Captum, and real weights."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.robust import FGSM, PGD
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import images, models, render
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import adversarial, feature_maps
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import AdversarialExample, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]

NETS = ["plain", "residual", "functional", "depth_wise", "gelu", "one_channel", "binary"]


class Linear(nn.Module):
    """One linear layer on all pixels."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            self.fc.weight.copy_(weight)
            self.fc.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def linear(weight: Tensor, *, side: tuple[int, int] = (4, 4), std: float = 0.25, bias: Tensor | None = None) -> Any:
    channels = weight.shape[1] // math.prod(side)
    return models.from_module(
        Linear(weight, bias),
        input_px=side,
        mean=(0.5,) * channels,
        std=(std,) * channels,
        name="linear",
        device="cpu",
    )


def random_linear(num_classes: int = 2, *, seed: int = 0) -> LoadedModel:
    return linear(torch.randn((num_classes, 48), generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def grey() -> InputImage:
    """Far from black and white, so that nothing is clipped."""
    pixels = np.random.default_rng(0).integers(100, 150, (4, 4, 3), dtype=np.uint8)
    return images.from_pixels(pixels, name="grey")


@pytest.fixture(scope="module")
def image(noise_image: Noise) -> InputImage:
    return noise_image(16, 16)


def lead(model: LoadedModel, pixels: np.ndarray, index: int) -> float:
    """How far a class is ahead of the other of two."""
    scores = model.scores(model.net(model.to_input(images.from_pixels(pixels, name="x"))))[0]
    return float(scores[index] - scores[1 - index])


# ---- linear networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1, 3, 8])
def test_fgsm_moves_the_lead_of_a_linear_network_by_epsilon_times_the_weights_l1_norm(
    epsilon: int, grey: InputImage
) -> None:
    model = random_linear()
    found = adversarial.attack(model, grey, method="fgsm", epsilon=epsilon)
    weights = model.net.fc.weight
    l1 = float((weights[0] - weights[1]).abs().sum()) / 0.25  # per pixel value: the normalisation divides by 0.25
    change = lead(model, found.altered, found.source) - lead(model, found.original, found.source)
    assert change == pytest.approx(-epsilon / 255 * l1, rel=1e-4)
    assert np.abs(found.delta * 255).round().min() == found.linf == epsilon


def test_l2_moves_the_lead_by_the_length_times_the_weights_l2_norm(grey: InputImage) -> None:
    model = random_linear()
    found = adversarial.attack(model, grey, method="fgsm", epsilon=400, norm="l2")
    weights = model.net.fc.weight
    most = float((weights[0] - weights[1]).norm()) / 0.25 * 400 / 255
    change = lead(model, found.altered, found.source) - lead(model, found.original, found.source)
    assert -most <= change < -0.97 * most  # whole numbers lie a little off the straight way


def test_targeted_goes_towards_the_class_and_untargeted_away_from_the_answer(grey: InputImage) -> None:
    model = random_linear(5)
    for method in adversarial.METHODS:
        away = adversarial.attack(model, grey, method=method, epsilon=3, steps=4)
        assert away.probabilities[-1, away.source] < away.probabilities[0, away.source], method
        for target in range(5):
            found = adversarial.attack(model, grey, method=method, epsilon=3, steps=4, target=target)
            if target != found.source:
                assert found.probabilities[-1, target] > found.probabilities[0, target], method
                assert (found.target, found.target_label) == (target, f"class {target}")


def test_pgd_by_hand() -> None:
    """Towards class 1 along sign (+, -, 0, +) with steps of 3, back to within 4, and never beyond black and white."""
    model = linear(torch.tensor([[0.0, 0, 0, 0], [2.0, -1, 0, 0.5]]), side=(2, 2), bias=torch.tensor([9.0, 0]))
    pixels = np.array([[100, 2], [50, 254]], dtype=np.uint8)
    image = images.from_pixels(pixels, name="four pixels")
    asked = {"target": 1, "epsilon": 4, "step_size": 3, "random_start": False}
    one = adversarial.attack(model, image, steps=1, **asked)
    np.testing.assert_array_equal(one.altered[..., 0], [[103, 0], [50, 255]])
    two = adversarial.attack(model, image, steps=2, **asked)
    np.testing.assert_array_equal(two.altered[..., 0], [[104, 0], [50, 255]])
    np.testing.assert_array_equal(two.pictures[..., 0], [pixels, one.altered[..., 0], two.altered[..., 0]])


def test_pgd_in_l2_by_hand() -> None:
    """Steps of length 5 along (3, 4) / 5; after two of them (6, 8) is brought back to length 8, then rounded."""
    model = linear(torch.tensor([[0.0, 0], [3.0, 4.0]]), side=(1, 2), bias=torch.tensor([9.0, 0]))
    image = images.from_pixels(np.array([[100, 100]], dtype=np.uint8), name="two pixels")
    asked = {"target": 1, "norm": "l2", "epsilon": 8, "step_size": 5, "random_start": False}
    one = adversarial.attack(model, image, steps=1, **asked)
    np.testing.assert_array_equal(one.altered[..., 0], [[103, 104]])
    two = adversarial.attack(model, image, steps=2, **asked)  # (4.8, 6.4): rounded (5, 6), of length 7.81
    np.testing.assert_array_equal(two.altered[..., 0], [[105, 106]])
    assert two.l2 * 255 == pytest.approx(61**0.5)


def test_a_network_that_is_beyond_doubt_still_gives_a_direction(grey: InputImage) -> None:
    """In single precision the gradient of its cross-entropy is exactly zero."""
    weights = torch.randn((2, 48), generator=torch.Generator().manual_seed(0))
    sure, unsure = linear(1000 * weights), linear(weights)
    found, expected = (adversarial.attack(model, grey, method="fgsm", epsilon=2) for model in (sure, unsure))
    assert found.before.probabilities[0] == 1
    np.testing.assert_array_equal(found.altered, expected.altered)


# ---- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["residual", "gelu", "one_channel", "binary"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 2), ("linf", 2.5), ("linf", 0), ("l2", 20), ("l2", 3.7)])
@pytest.mark.parametrize("method", ["fgsm", "pgd", "fooling"])
def test_the_bound_holds_exactly_in_8_bits(
    method: str, norm: str, epsilon: float, net: str, small_model: Load, image: InputImage
) -> None:
    model = small_model(net)
    found = adversarial.attack(model, image, method=method, norm=norm, epsilon=epsilon, steps=3)
    channels = model.preprocessing.num_channels
    difference = (found.altered.astype(int) - found.original.astype(int))[..., :channels]
    size = np.abs(difference).max() if norm == "linf" else (difference.astype(float) ** 2).sum() ** 0.5
    assert size <= epsilon
    assert size > 0 or epsilon == 0
    np.testing.assert_array_equal(np.rint(found.delta * 255), difference.transpose(2, 0, 1))
    assert found.delta.dtype == np.float32
    assert (found.linf if norm == "linf" else found.l2 * 255) == pytest.approx(size)


def test_rounding_keeps_the_length_and_the_way() -> None:
    draw = np.random.default_rng(0)
    for epsilon in (5.0, 30.0, 200.0):
        values = torch.tensor(draw.standard_normal((1, 3, 8, 8)), dtype=torch.float32)
        difference = adversarial.NORMS["l2"].project(1000 * values, epsilon)
        whole = adversarial.NORMS["l2"].whole(difference, epsilon)
        assert float(whole.norm()) <= epsilon
        assert torch.equal(whole, whole.round())
        assert float((whole - difference).abs().max()) < 1
        assert float(whole.norm()) > 0.9 * epsilon
        cut = difference.trunc()
        assert float((whole * difference).sum()) > float((cut * difference).sum()), "more of the way is kept"
    whole = adversarial.NORMS["l2"].whole(torch.full((1, 1, 1, 4), 3.0), 5.9)  # of length 6 already
    assert float(whole.norm()) <= 5.9


@pytest.mark.parametrize("norm", adversarial.NORMS)
def test_random_starts_fill_the_ball(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = torch.Size((1, 1, 1, 2))
    drawn = torch.stack([adversarial.NORMS[norm].draw(shape, 4.0, generator) for _ in range(400)])
    sizes = drawn.abs().amax((1, 2, 3, 4)) if norm == "linf" else drawn.flatten(1).norm(dim=1)
    assert float(sizes.max()) <= 4
    # Uniform in two dimensions: a quarter lies within half the radius.
    assert float((sizes < 2).float().mean()) == pytest.approx(0.25, abs=0.07)
    assert float(drawn.mean().abs()) < 0.3


# ---- Captum -------------------------------------------------------------------------------------------------------


def loss(scores: Tensor, target: int) -> Tensor:
    """One number per picture; enlarged, since Captum takes small gradients for none."""
    return 1e6 * F.cross_entropy(scores, torch.tensor([target]), reduction="none")


def in_captum(model: LoadedModel) -> Callable[[Tensor], Tensor]:
    """From pixels 0..1 to class scores, in double precision: where two values nearly tie, no rounding decides."""
    net = copy.deepcopy(model.net).double()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    return lambda pixels: model.scores(net((pixels.double() - mean) / std))


def unit(model: LoadedModel, image: InputImage) -> Tensor:
    channels = model.preprocessing.crop(image)[..., : model.preprocessing.num_channels].copy()
    return (torch.from_numpy(channels).permute(2, 0, 1)[None].float() / 255).requires_grad_()


def in_8_bits(pixels: Tensor) -> np.ndarray:
    rounded = (pixels[0].detach() * 255).round().to(torch.uint8).permute(1, 2, 0)
    return rounded.expand(-1, -1, 3).numpy()


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for a few values, where a gradient that cancels has the sign of its rounding."""
    assert (found != expected).mean() < 0.005


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
@pytest.mark.parametrize("is_targeted", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_fgsm_and_pgd_in_linf_equal_captum(net: str, is_targeted: bool, small_model: Load, image: InputImage) -> None:
    model = small_model(net)
    answer = model.predict(image).indices[0]
    target = (answer + 1) % model.num_classes
    asked = {"target": target if is_targeted else None}
    theirs = {"target": target if is_targeted else answer, "targeted": is_targeted}
    forward = in_captum(model)
    expected = FGSM(forward, loss, 0.0, 1.0).perturb(unit(model, image), 3 / 255, **theirs)
    found = adversarial.attack(model, image, method="fgsm", epsilon=3, **asked)
    same(found.altered, in_8_bits(expected))
    pgd = PGD(forward, loss, 0.0, 1.0)
    expected = pgd.perturb(unit(model, image), 3 / 255, 1.3 / 255, 4, norm="Linf", **theirs)
    found = adversarial.attack(model, image, epsilon=3, step_size=1.3, steps=4, random_start=False, **asked)
    same(found.altered, in_8_bits(expected))


# ---- what comes out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_what_is_downloaded_is_what_was_answered(net: str, small_model: Load, noise_image: Noise) -> None:
    model, photo = small_model(net), noise_image(40, 30)
    found = adversarial.attack(model, photo, epsilon=8, steps=3)
    file = images.open_image(render.png(found.altered), name="altered.png")
    again = model.predict(file)
    assert again.indices == found.after.indices
    assert again.probabilities == found.after.probabilities
    np.testing.assert_array_equal(model.preprocessing.crop(file), found.altered)
    np.testing.assert_array_equal(model.preprocessing.crop(photo), found.original)
    assert found.before == model.predict(photo)
    np.testing.assert_allclose(found.probabilities[-1][list(again.indices)], again.probabilities, rtol=1e-6)
    assert adversarial.altered_image(found).digest == file.digest


def test_runs_of_one_seed_are_equal_and_those_of_two_are_not(tiny_model: LoadedModel, image: InputImage) -> None:
    for norm, epsilon in (("linf", 4), ("l2", 60)):
        one, same, other = (
            adversarial.attack(tiny_model, image, norm=norm, epsilon=epsilon, seed=seed) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one.altered, same.altered)
        assert not np.array_equal(one.altered, other.altered)
        assert one.run.seed == 0
    assert adversarial.attack(tiny_model, image, method="fgsm").run.seed is None


def test_the_settings_of_a_run_make_it_again(small_model: Load, image: InputImage) -> None:
    model = small_model("gelu")
    for method in adversarial.METHODS:
        found = adversarial.attack(model, image, method=method)
        again = adversarial.attack(model, image, **found.run.settings)
        np.testing.assert_array_equal(found.altered, again.altered)
        assert found.run.method == "adversarial.attack"
        assert found.run.image_digest == image.digest
        pickle.loads(pickle.dumps(found))


def test_the_ascent_stops_when_the_network_gives_in(grey: InputImage) -> None:
    model = random_linear(5)
    source = model.predict(grey).indices[0]
    target = (source + 1) % 5
    found = adversarial.attack(model, grey, method="fooling", target=target, step_size=5)
    assert found.fools
    assert found.after.indices[0] == target
    answers = found.probabilities.argmax(axis=1)
    assert (answers[:-1] != target).all()
    assert 1 <= found.num_steps < 100
    sure = adversarial.attack(model, grey, method="fooling", target=target, step_size=5, confidence=0.99)
    assert sure.after.probabilities[0] >= 0.99 > found.after.probabilities[0]
    already = adversarial.attack(model, grey, method="fooling", target=source)
    assert (already.num_steps, already.fools) == (0, True)


@pytest.mark.parametrize("method", adversarial.METHODS)
def test_no_steps_leave_the_picture_as_it_is(method: str, tiny_model: LoadedModel, image: InputImage) -> None:
    found = adversarial.attack(tiny_model, image, method=method, steps=0)
    np.testing.assert_array_equal(found.altered, found.original)
    assert (found.num_steps, found.linf, found.l2, found.fools) == (0, 0, 0, False)
    assert found.before == found.after


def test_cancelling_before_the_first_step_leaves_the_picture_as_it_is(
    tiny_model: LoadedModel, image: InputImage
) -> None:
    steps: list[Step] = []

    def cancel(step: Step) -> None:
        steps.append(step)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        adversarial.attack(tiny_model, image, on_step=cancel)
    (step,) = steps
    assert (step.done, step.total) == (0, 10)
    assert isinstance(step.partial, AdversarialExample)
    np.testing.assert_array_equal(step.partial.altered, step.partial.original)


def test_the_way_is_reported_and_its_pictures_are_kept_evenly(tiny_model: LoadedModel, image: InputImage) -> None:
    steps: list[Step] = []
    found = adversarial.attack(tiny_model, image, steps=60, on_step=steps.append)
    assert [step.done for step in steps] == list(range(61))
    assert found.probabilities.shape == (61, 3)
    assert len(found.pictures) == len(found.picture_steps) == 25
    assert (found.picture_steps[0], found.picture_steps[-1]) == (0, 60)
    assert set(np.diff(found.picture_steps)) <= {2, 3}
    np.testing.assert_array_equal(found.pictures[0], found.original)
    np.testing.assert_array_equal(found.pictures[-1], found.altered)
    for pixels, step in zip(found.pictures, found.picture_steps, strict=True):
        answer = tiny_model.predict(images.from_pixels(pixels, name="on the way"), k=3)
        np.testing.assert_allclose(answer.probabilities, found.probabilities[step, list(answer.indices)], rtol=1e-6)
    # A partial result is as it was when it was reported.
    half = steps[30].partial
    assert isinstance(half, AdversarialExample)
    assert half.num_steps == 30
    again = adversarial.attack(tiny_model, image, **half.run.settings)
    np.testing.assert_array_equal(again.altered, half.altered)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": 3}, "There is no class 3"),
        ({"target": -1}, "There is no class -1"),
        ({"method": "bim"}, "choose one of pgd, fgsm, fooling"),
        ({"norm": "l1"}, "choose one of linf, l2"),
        ({"epsilon": -1}, "choose 0 to 255"),
        ({"epsilon": math.nan}, "choose 0 to 255"),
        ({"epsilon": 256}, "choose 0 to 255"),
        ({"steps": -1}, "choose 0, for the picture as it is"),
        ({"step_size": math.inf}, "choose a number from 0 up"),
        ({"confidence": 1.5}, "choose a probability"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str, tiny_model: LoadedModel, image: Any) -> None:
    with pytest.raises(BadSetting, match=words):
        adversarial.attack(tiny_model, image, **settings)


class Deaf(nn.Module):
    """No gradient passes."""

    def __init__(self, *, is_cut: bool) -> None:
        super().__init__()
        self.is_cut = is_cut
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return self.fc(x.detach() if self.is_cut else x.sign())


@pytest.mark.parametrize("is_cut", [True, False])
@pytest.mark.parametrize("method", adversarial.METHODS)
def test_a_network_without_gradients_is_told_what_to_use(method: str, is_cut: bool, image: InputImage) -> None:
    net = Deaf(is_cut=is_cut)
    model = models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="deaf", device="cpu")
    with pytest.raises(NotApplicable, match="look at Occlusion"):
        adversarial.attack(model, image, method=method)


def test_a_network_without_classes_is_told_what_to_use(small_model: Load, image: InputImage) -> None:
    for function in (adversarial.attack, adversarial.smallest_epsilon):
        with pytest.raises(NotApplicable, match="no answer to change"):
            function(small_model("headless"), image)


def test_the_network_is_left_as_it_was(small_net: Callable[[str], nn.Module], image: InputImage) -> None:
    half = (0.5,) * 3
    model = models.from_module(small_net("residual"), input_px=16, mean=half, std=half, name="r", device="cpu")
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    found = adversarial.attack(model, image, steps=2)
    adversarial.drift(model, image, altered=adversarial.altered_image(found))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.net.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.net.parameters())
    assert not model.net.training


# ---- smallest epsilon ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_smallest_epsilon_of_a_linear_network_is_the_lead_by_the_weights_l1_norm(
    seed: int, grey: InputImage
) -> None:
    weights = torch.randn((2, 48), generator=torch.Generator().manual_seed(seed)) / 50
    model = linear(weights)
    before = model.predict(grey)
    ahead = before.logits[0] - before.logits[1]
    expected = math.ceil(ahead / float((weights[0] - weights[1]).abs().sum()) * 0.25 * 255)
    found = adversarial.smallest_epsilon(model, grey, method="fgsm", most=64)
    assert found.epsilon == expected
    assert found.best.fools
    assert found.best.epsilon == expected
    assert len(found.epsilons) == len(set(found.epsilons.tolist())) <= 13
    np.testing.assert_array_equal(found.fools, found.epsilons >= expected)
    if expected > 1:
        assert not adversarial.attack(model, grey, method="fgsm", epsilon=expected - 1).fools


def test_the_search_says_when_nothing_suffices_or_is_needed(tiny_model: LoadedModel, image: InputImage) -> None:
    weights = torch.stack([torch.ones(48), -torch.ones(48)]) * 1e-3
    model = linear(weights, bias=torch.tensor([1.0, 0.0]))  # a lead of 1, of which an epsilon of 5 takes 0.0075
    grey = images.from_pixels(np.full((4, 4, 3), 128, dtype=np.uint8), name="grey")
    steps: list[Step] = []
    found = adversarial.smallest_epsilon(model, grey, most=5, on_step=steps.append)
    assert found.epsilon is None
    assert not found.best.fools
    assert found.best.epsilon == 5
    assert found.epsilons.tolist() == [0, 1, 2, 4, 5]
    assert [step.done for step in steps] == [1, 2, 3, 4, 5]
    assert steps[-1].total >= 5
    answer = tiny_model.predict(image).indices[0]
    already = adversarial.smallest_epsilon(tiny_model, image, target=answer)
    assert (already.epsilon, already.epsilons.tolist()) == (0, [0])


def test_a_search_needs_a_bound(tiny_model: LoadedModel, image: InputImage) -> None:
    with pytest.raises(BadSetting, match="choose one of pgd, fgsm"):
        adversarial.smallest_epsilon(tiny_model, image, method="fooling")
    with pytest.raises(BadSetting, match="most is 0"):
        adversarial.smallest_epsilon(tiny_model, image, most=0)


# ---- from noise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "target"), [("plain", 0), ("one_channel", 1), ("binary", 1)])
def test_noise_becomes_a_class_with_certainty(net: str, target: int, small_model: Load) -> None:
    model = small_model(net)
    found = adversarial.from_noise(model, target=target, confidence=0.8)
    assert found.num_steps > 5
    assert found.fools
    assert found.after.probabilities[0] >= 0.8
    again = adversarial.from_noise(model, **found.run.settings)
    np.testing.assert_array_equal(found.altered, again.altered)
    assert found.original.std() > 40
    assert (found.run.method, found.run.image_digest) == ("adversarial.from_noise", "")
    other = adversarial.from_noise(model, target=target, steps=0, seed=1)
    assert not np.array_equal(found.original, other.original)


# ---- drift and transfer -------------------------------------------------------------------------------------------


def test_a_seed_below_zero_is_refused(tiny_model: LoadedModel, image: InputImage) -> None:
    with pytest.raises(BadSetting, match="seed is -1"):
        adversarial.from_noise(tiny_model, target=0, seed=-1)
    with pytest.raises(BadSetting, match="seed is -1"):
        adversarial.drift(tiny_model, image, altered=image, seed=-1)


def test_drift_is_the_cosine_of_whole_outputs(small_model: Load, noise_image: Noise) -> None:
    model, one, other = small_model("residual"), noise_image(16, 16), noise_image(16, 16, seed=1)
    found = adversarial.drift(model, one, altered=other, layers=["conv1", "bn2"])
    for layer, cosine in zip(found.layers, found.cosines, strict=True):
        a, b = (feature_maps.compute(model, picture, layer=layer).values.ravel() for picture in (one, other))
        assert cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    same = adversarial.drift(model, one, altered=one)
    np.testing.assert_allclose(same.cosines, 1, atol=1e-6)
    np.testing.assert_allclose(same.shuffled, 1, atol=1e-6)
    assert same.layers == ("stem", "conv1", "bn1", "relu", "conv2", "bn2", "fc")
    with pytest.raises(UnknownLayer, match="conv1"):
        adversarial.drift(model, one, altered=other, layers=["conv9"])


def test_the_parts_of_a_network_go_through_its_depth(lite0: LoadedModel, image: InputImage) -> None:
    layers = adversarial.drift(lite0, image, altered=image).layers
    assert (layers[0], layers[-1]) == ("conv_stem", "classifier")
    assert {"blocks.0.0", "blocks.6.0", "conv_head"} <= set(layers)
    assert "blocks.0" not in layers


def test_another_network_reads_the_altered_picture_by_itself(small_model: Load, noise_image: Noise) -> None:
    model, photo = small_model("plain"), noise_image(30, 20)
    found = adversarial.attack(model, photo, target=2, epsilon=20)
    clean, altered = images.from_pixels(found.original, name="clean"), adversarial.altered_image(found)
    other = small_model("residual")
    seen = adversarial.transfer(other, clean, altered=altered, target_label="bird")
    assert seen.before == other.predict(clean)
    assert seen.after == other.predict(altered)
    assert not seen.is_resized
    assert seen.is_fooled == (seen.before.indices[0] != seen.after.indices[0])
    place = seen.after.indices.index(2)
    assert seen.target_after == seen.after.probabilities[place]
    small = models.from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), input_px=8, mean=(0.5,) * 3, std=(0.5,) * 3, name="small"
    )
    unlike = adversarial.transfer(small, clean, altered=altered, target_label="bird")
    assert unlike.is_resized
    assert (unlike.target_before, unlike.target_after) == (None, None)
    itself = adversarial.transfer(model, clean, altered=altered, target_label="bird")
    assert itself.after == found.after


# ---- real weights -------------------------------------------------------------------------------------------------


def test_a_cat_becomes_a_goldfish_and_the_attack_takes_over_late(lite0: LoadedModel, chelsea: InputImage) -> None:
    found = adversarial.attack(lite0, chelsea, target=1, epsilon=2)
    assert (found.source_label, found.after.labels[0]) == ("Egyptian cat", "goldfish")
    assert found.after.probabilities[0] > 0.5
    assert found.linf == 2
    clean = images.from_pixels(found.original, name="clean")
    drift = adversarial.drift(lite0, clean, altered=adversarial.altered_image(found))
    assert drift.cosines[0] > 0.99
    assert drift.cosines[-1] < 0.6 < 0.9 < drift.shuffled[-1]
