"""Tests of explanations, tested: networks whose curves are known by hand, slow loops, scipy, and real photos."""

from __future__ import annotations

import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn import functional as F

from cnnviz_core import images, models, photos, probe
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam, saliency, trust
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import ContextTest, Curves, Heatmap, Mask, Randomization, Run, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]

SIDE = 6


def linear(weights: np.ndarray, *, bias: float = 0.0) -> LoadedModel:
    """One score: a weighted sum of the red values 0..255 of a picture of this size; class 1 is its sigmoid."""
    net = nn.Sequential(nn.Conv2d(3, 1, weights.shape), nn.Flatten())
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[0, 0] = torch.from_numpy(weights)
        net[0].bias.fill_(bias)
    zero, one = (0.0,) * 3, (1 / 255,) * 3
    return models.from_module(net, input_px=weights.shape, mean=zero, std=one, name="linear", device="cpu")


def red(values: np.ndarray) -> InputImage:
    return images.from_pixels(np.dstack([values, 0 * values, 0 * values]).astype(np.uint8), name="red")


@pytest.fixture(scope="module")
def by_hand() -> tuple[LoadedModel, InputImage, np.ndarray]:
    """A linear network, a picture, and what each pixel adds to the score."""
    draw = np.random.default_rng(0)
    weights, values = draw.normal(0, 0.01, (SIDE, SIDE)).astype(np.float32), draw.integers(0, 256, (SIDE, SIDE))
    return linear(weights, bias=0.5), red(values), weights * values


def gated() -> LoadedModel:
    """Two units of one layer: 0 fires on every picture, 1 never, and their biases alone make the difference."""
    parts = {"stem": nn.Conv2d(3, 4, 3, padding=1), "gate": nn.Conv2d(4, 2, 3, padding=1), "relu": nn.ReLU()}
    net = nn.Sequential(OrderedDict(parts, gap=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(2, 3)))
    with torch.no_grad():
        net.gate.bias.copy_(torch.tensor([50.0, -50.0]))
    return models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="gated", device="cpu")


def six_convolutions() -> LoadedModel:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), *(nn.Conv2d(2, 2, 1) for _ in range(5)))
    return models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="six", device="cpu")


@pytest.fixture(scope="module")
def coffee() -> InputImage:
    return photos.open_photo("coffee")


def gradient(rule: str, target: int) -> trust.Explain:
    """Gradient or guided backprop of a fixed class."""

    def explain(model: LoadedModel, image: InputImage) -> np.ndarray:
        x = model.to_input(image).requires_grad_()
        with torch.enable_grad(), probe.relu_rule(rule):
            score = model.scores(model.net(x))[0, target]
            (found,) = torch.autograd.grad(score, x)
        return found[0].abs().amax(0).numpy()

    return explain


def of_maps(made: list[np.ndarray], image: InputImage, **settings: Any) -> Randomization:
    """What randomisation says of these maps, the first one of the trained network."""
    left = iter(made)
    return trust.randomization(six_convolutions(), image, explain=lambda _model, _image: next(left), **settings)


def grad_cam(target: int) -> trust.Explain:
    return lambda model, image: cam.explain(model, image, method="grad_cam", target=target)


class TestDeletion:
    def test_a_linear_network_by_hand(self, by_hand: tuple[LoadedModel, InputImage, np.ndarray]) -> None:
        """With black in place of a pixel, the score loses exactly what that pixel added."""
        model, image, adds = by_hand
        found = trust.deletion_insertion(model, image, adds, steps=SIDE**2, target=1, fill="black")
        falling = np.sort(adds.ravel())[::-1]
        for curve, order in ((found.most_first, falling), (found.least_first, falling[::-1])):
            scores = 0.5 + adds.sum() - np.r_[0, np.cumsum(order)]
            np.testing.assert_allclose(curve, 1 / (1 + np.exp(-scores)), atol=1e-5)
        heights = 1 / (1 + np.exp(-(0.5 + adds.sum() - np.r_[0, np.cumsum(falling)])))
        area = (heights[1:] + heights[:-1]).sum() / 2 / SIDE**2
        assert found.deletion_area == pytest.approx(area, abs=1e-5)
        np.testing.assert_allclose(found.fractions, np.arange(SIDE**2 + 1) / SIDE**2, atol=1e-7)
        assert found.relevance_gain == found.insertion_area - found.deletion_area > 0.1

    def test_the_other_class_of_a_single_score_is_the_complement(
        self, by_hand: tuple[LoadedModel, InputImage, np.ndarray]
    ) -> None:
        model, image, adds = by_hand
        one, other = (trust.deletion_insertion(model, image, adds, target=t, steps=4) for t in (1, 0))
        np.testing.assert_allclose(one.most_first + other.most_first, 1, atol=1e-6)

    def test_insertion_is_deletion_from_the_other_end(
        self, by_hand: tuple[LoadedModel, InputImage, np.ndarray]
    ) -> None:
        """Putting the most important pixels into a black picture, one by one."""
        model, image, adds = by_hand
        found = trust.deletion_insertion(model, image, adds, steps=SIDE**2, target=1, fill="black")
        scores = 0.5 + np.r_[0, np.cumsum(np.sort(adds.ravel())[::-1])]
        np.testing.assert_allclose(found.insertion, 1 / (1 + np.exp(-scores)), atol=1e-5)
        np.testing.assert_allclose(found.inserted_fractions, found.fractions, atol=1e-6)

    @pytest.mark.parametrize("fill", ["blur", "mean", "grey", "black"])
    @pytest.mark.parametrize("name", ["plain", "functional", "gelu", "depth_wise", "one_channel", "binary"])
    def test_edited_pictures_are_what_predict_sees(
        self, fill: str, name: str, small_model: Load, noise_image: Noise
    ) -> None:
        model, image = small_model(name), noise_image(30, 40)
        pixels = model.preprocessing.crop(image)
        order = np.random.default_rng(3).permutation(256)
        heatmap = np.empty(256)
        heatmap[order] = np.arange(256, 0, -1)
        found = trust.deletion_insertion(model, image, heatmap.reshape(16, 16), steps=4, target=1, fill=fill)
        filled = trust.FILLS[fill].make(model, pixels, pixels)
        for step, count in enumerate([0, 64, 128, 192, 256]):
            edited = pixels.copy().reshape(-1, 3)
            edited[order[:count]] = filled.reshape(-1, 3)[order[:count]]
            seen = model.predict(images.from_pixels(edited.reshape(16, 16, 3), name="edited"), k=3)
            assert found.most_first[step] == pytest.approx(seen.probabilities[seen.indices.index(1)], abs=1e-4)

    def test_fills(self, lite0: LoadedModel, coffee: InputImage) -> None:
        pixels = lite0.preprocessing.crop(coffee)
        made = {name: fill.make(lite0, pixels, pixels[::-1]) for name, fill in trust.FILLS.items()}
        assert {array.shape for array in made.values()} == {(224, 224, 3)}
        assert {array.dtype for array in made.values()} == {np.dtype(np.uint8)}
        np.testing.assert_allclose(made["mean"][5, 7], pixels.mean((0, 1)), atol=0.5)
        x = lite0.to_input(images.from_pixels(made["grey"], name="grey"))
        assert x.abs().max() < 0.01
        assert made["blur"].std() < pixels.std()
        largest_step = {name: np.abs(np.diff(made[name].astype(int), axis=0)).max() for name in ("blur", "photo")}
        assert largest_step["blur"] <= 8 < 80 < largest_step["photo"]
        np.testing.assert_array_equal(made["photo"], pixels[::-1])

    def test_a_coarse_map_is_brought_to_the_input_bilinearly(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        coarse = np.random.default_rng(0).random((4, 5)).astype(np.float32)
        fine = F.interpolate(torch.from_numpy(coarse)[None, None], (16, 16), mode="bilinear")[0, 0].numpy()
        one, other = (trust.deletion_insertion(tiny_model, noise_image(16, 16), each) for each in (coarse, fine))
        np.testing.assert_allclose(one.most_first, other.most_first, atol=1e-6)

    def test_places_without_a_number_come_last(self, by_hand: tuple[LoadedModel, InputImage, np.ndarray]) -> None:
        model, image, adds = by_hand
        holes = adds.copy()
        holes[adds > np.quantile(adds, 0.5)] = np.nan
        found = trust.deletion_insertion(model, image, holes, steps=2, target=1, fill="black")
        half = 0.5 + adds[adds > np.quantile(adds, 0.5)].sum()  # what was known is gone, what was not is left
        assert found.most_first[1] == pytest.approx(1 / (1 + np.exp(-half)), abs=1e-5)

    def test_equal_values_go_in_tiles_by_chance(self, lite0: LoadedModel, noise_image: Noise) -> None:
        """All of a flat map; a 28th of the side is 8 px, so some 8 x 8 tiles are gone whole and others are whole."""
        fine = np.zeros((224, 224), dtype=np.float32)
        orders = [trust._order(fine, np.random.default_rng(seed)) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(orders[0], orders[1])
        assert (orders[0] != orders[2]).any()
        gone = np.zeros(224**2)
        gone[orders[0][: 224**2 // 2]] = 1
        tiles = gone.reshape(28, 8, 28, 8).mean((1, 3))
        assert set(np.unique(tiles)) == {0.0, 1.0}

    def test_random_orders_are_the_same_map_elsewhere(self) -> None:
        """Every place comes up equally often, in pieces of the same shape."""
        fine = np.zeros((8, 10), dtype=np.float32)
        fine[1:3, 2:5] = [[1, 2, 3], [4, 5, 6]]
        draw = np.random.default_rng(0)
        laid = [trust._elsewhere(fine, draw) for _ in range(2000)]
        np.testing.assert_allclose(np.mean(laid, axis=0), fine.mean(), rtol=0.35)
        assert len({int(each.argmax()) for each in laid}) == 80
        for each in laid[:20]:
            row, column = np.unravel_index(each.argmax(), each.shape)
            around = [each[(row + dr) % 8, (column + dc) % 10] for dr, dc in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            assert sorted(around) == [0, 0, 3, 5]

    def test_random_curves_lie_beside(self, by_hand: tuple[LoadedModel, InputImage, np.ndarray]) -> None:
        model, image, adds = by_hand
        found = trust.deletion_insertion(model, image, adds, target=1, fill="black", num_random=5, steps=9)
        assert found.random_most_first.shape == found.random_least_first.shape == (5, 10)
        np.testing.assert_array_equal(found.random_most_first[:, 0], found.most_first[0])
        np.testing.assert_array_equal(found.random_least_first[:, -1], found.most_first[-1])
        assert len(set(found.random_deletion_areas.tolist())) > 1
        np.testing.assert_allclose(
            found.random_relevance_gains, found.random_insertion_areas - found.random_deletion_areas
        )
        again, other = (
            trust.deletion_insertion(model, image, adds, **{**found.run.settings, "seed": seed}) for seed in (0, 1)
        )
        np.testing.assert_array_equal(again.random_most_first, found.random_most_first)
        assert (other.random_most_first != found.random_most_first).any()
        np.testing.assert_array_equal(other.most_first, found.most_first)

    def test_verdicts_on_a_real_photo(self, lite0: LoadedModel, coffee: InputImage) -> None:
        heatmap = cam.explain(lite0, coffee, method="grad_cam")
        noise = np.random.default_rng(0).random((7, 7))
        cases = {"finds what": heatmap, "last": -heatmap.values, "no better": noise}
        for words, each in cases.items():
            found = trust.deletion_insertion(lite0, coffee, each, steps=8, num_random=6)
            assert words in found.verdict, found.verdict
            areas = (found.random_deletion_areas.mean(), found.random_insertion_areas.mean())
            assert [f"(at random {area:.2f})" in found.verdict for area in areas] == [True, True]
        unsure = trust.deletion_insertion(lite0, coffee, heatmap, steps=2, target=0, num_random=2)
        assert "too close" in unsure.verdict

    def test_progress(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        seen: list[Step] = []
        trust.deletion_insertion(tiny_model, noise_image(16, 16), np.eye(4), steps=5, num_random=3, on_step=seen.append)
        assert [step.done for step in seen] == [16, 32, 34]  # 2 + 2 x 4 orders x 4 steps in between
        assert {step.total for step in seen} == {34}

    def test_the_curves_so_far_begin_with_the_maps_own(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        seen: list[Step] = []
        whole = trust.deletion_insertion(
            tiny_model, noise_image(16, 16), np.eye(4), steps=5, num_random=3, on_step=seen.append
        )
        first, *_, last = [step.partial for step in seen]
        assert isinstance(first, Curves)
        assert isinstance(last, Curves)
        np.testing.assert_array_equal(first.most_first, whole.most_first)
        np.testing.assert_array_equal(first.least_first, whole.least_first)
        assert np.isnan(first.random_least_first[-1, 1:-1]).all()
        assert np.isnan(first.random_deletion_areas).any()
        np.testing.assert_array_equal(last.random_least_first, whole.random_least_first)
        assert (first.verdict, last.verdict) == ("", "")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"steps": 1}, "steps"),
            ({"steps": 257}, "256"),
            ({"num_random": 1}, "num_random"),
            ({"target": 3}, "classes 0 to 2"),
            ({"fill": "photo"}, "blur, mean, grey, black"),
            ({"fill": "snow"}, "no fill"),
        ],
    )
    def test_what_cannot_be(
        self, settings: dict[str, Any], words: str, tiny_model: LoadedModel, noise_image: Noise
    ) -> None:
        with pytest.raises(BadSetting, match=words):
            trust.deletion_insertion(tiny_model, noise_image(16, 16), np.eye(4), **settings)

    def test_without_a_classifier(self, small_model: Load, noise_image: Noise) -> None:
        with pytest.raises(NotApplicable, match="no classifier"):
            trust.deletion_insertion(small_model("headless"), noise_image(16, 16), np.eye(4))


class TestRandomization:
    def test_steps_go_from_the_head_down(self, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("residual"), noise_image(16, 16)
        found = trust.randomization(model, image, explain=grad_cam(0))
        assert found.steps == (("fc",), ("conv2",), ("conv1",), ("stem",))  # norms have no weights of two dimensions
        assert found.maps.shape[0] == len(found.probabilities) == 5
        assert found.rank_correlations.shape == found.ssims.shape == (4,)
        two = trust.randomization(model, image, explain=grad_cam(0), num_steps=2)
        assert two.steps == (("fc",), ("conv2", "conv1", "stem"))
        np.testing.assert_array_equal(two.maps[[0, 1]], found.maps[[0, 1]])
        assert trust.randomization(model, image, explain=grad_cam(0), num_steps=1).steps == (
            ("fc", "conv2", "conv1", "stem"),
        )

    @pytest.mark.parametrize("name", ["plain", "functional", "in_place", "reused_relu", "gelu", "depth_wise", "binary"])
    def test_small_networks_of_every_kind(self, name: str, small_model: Load, noise_image: Noise) -> None:
        model = small_model(name)
        found = trust.randomization(model, noise_image(16, 16), explain=grad_cam(1))
        with_weights = {n for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        assert found.steps[0] == ("fc",)
        assert {n for step in found.steps for n in step} == with_weights
        assert np.isfinite(found.maps).all()
        first, *later = np.ptp(found.maps, axis=(1, 2)) == 0  # as Grad-CAM's where nothing speaks for the class
        assert first == (name == "reused_relu")
        flat = first | np.array(later)
        np.testing.assert_array_equal(np.isnan(found.rank_correlations), flat)
        assert (np.abs(found.rank_correlations[~flat]) <= 1 + 1e-6).all()

    def test_a_unit_is_checked_by_the_layers_that_it_depends_on(self, small_model: Load, noise_image: Noise) -> None:
        """Destroying later ones changes no map of it, which is no fault of the map."""
        model, image = small_model("residual"), noise_image(16, 16)

        def of_unit(network: LoadedModel, picture: InputImage) -> Any:
            return saliency.explain(network, picture, method="gradient", layer="conv1", unit=(0, 3, 3))

        found = trust.randomization(model, image, explain=of_unit, up_to="conv1")
        assert found.steps == (("conv1",), ("stem",))
        whole = trust.randomization(model, image, explain=of_unit)
        assert whole.rank_correlations[:2] == pytest.approx(1)  # head and conv2
        assert found.rank_correlations.max() < 0.99
        with pytest.raises(UnknownLayer):
            trust.randomization(model, image, explain=of_unit, up_to="conv9")

    @pytest.mark.parametrize(
        ("model_id", "head", "stem"),
        [
            ("torchvision/googlenet", "fc", "conv1.conv"),
            ("torchvision/squeezenet1_1", "classifier.1", "features.0"),
            ("timm/convnext_atto", "head.fc", "stem.0"),
            ("timm/efficientnet_b0", "classifier", "conv_stem"),
        ],
    )
    def test_large_networks_go_in_groups(self, model_id: str, head: str, stem: str, noise_image: Noise) -> None:
        model = models.load(model_id, weights="random:0", device="cpu", preprocessing={"input_px": 64})
        found = trust.randomization(model, noise_image(64, 64), explain=gradient("backprop", 7))
        assert found.steps[0] == (head,)
        assert found.steps[-1][-1] == stem
        sizes = [len(step) for step in found.steps[1:]]
        assert len(sizes) == 7
        assert max(sizes) - min(sizes) <= 1
        assert np.isfinite(found.maps).all()
        assert np.isfinite(found.rank_correlations).all()

    def test_weights_inside_a_part_that_never_answers(self, noise_image: Noise) -> None:
        """A weight norm keeps them in a module that is not called; they go with the convolution that it belongs to."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        nn.utils.parametrizations.weight_norm(net[0])
        model = models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="normed", device="cpu")
        found = trust.randomization(model, noise_image(16, 16), explain=gradient("backprop", 0))
        assert found.steps == (("4",), ("0.parametrizations.weight",))
        assert (found.maps[1] != found.maps[2]).any()

    def test_layers_of_ones_own(self, lite0: LoadedModel, coffee: InputImage) -> None:
        found = trust.randomization(lite0, coffee, explain=grad_cam(0), layers=["conv_head", "blocks.1"])
        assert found.steps[0] == ("conv_head",)
        assert len(found.steps[1]) == 6
        assert all(name.startswith("blocks.1.") for name in found.steps[1])
        assert trust.randomization(lite0, coffee, explain=grad_cam(0), **found.run.settings).steps == found.steps

    def test_only_the_named_weights_are_shuffled(self, small_model: Load, noise_image: Noise) -> None:
        model, seen = small_model("residual"), []

        def explain(each: LoadedModel, _image: InputImage) -> np.ndarray:
            seen.append(each)
            return np.eye(4)

        before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
        found = trust.randomization(model, noise_image(16, 16), explain=explain)
        assert seen[0] is model
        for done, each in enumerate(seen):
            shuffled = {name for step in found.steps[:done] for name in step}
            for name, tensor in each.net.state_dict().items():
                layer = name.rpartition(".")[0]
                if layer not in shuffled:
                    assert torch.equal(tensor, before[name])
                    continue
                assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values)
                assert name.endswith("bias") or not torch.equal(tensor, before[name])
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.net.state_dict().items())
        assert len({each.spec.weights_hash for each in seen}) == 5, "results must not be mixed up in a cache"
        assert len({id(tensor) for each in seen for tensor in each.net.parameters()}) == 5 * len(
            list(model.net.parameters())
        )
        assert not any(tensor.requires_grad for each in seen for tensor in each.net.parameters())
        assert seen[-1].spec.weights == "default, shuffled down to stem"

    def test_the_seed_and_nothing_else_decides(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        runs = [
            trust.randomization(tiny_model, noise_image(16, 16), explain=grad_cam(1), seed=seed) for seed in (0, 0, 1)
        ]
        np.testing.assert_array_equal(runs[0].maps, runs[1].maps)
        assert (runs[0].maps[1:] != runs[2].maps[1:]).any()
        assert torch.equal(torch.get_rng_state(), torch_state)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
        assert runs[2].run.seed == runs[2].run.settings["seed"] == 1

    def test_similarities_against_scipy_and_skimage(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        draw = np.random.default_rng(0)
        made = iter([first := draw.normal(size=(9, 12)), *(first + draw.normal(size=(9, 12)) for _ in range(3))])
        found = trust.randomization(tiny_model, noise_image(16, 16), explain=lambda _model, _image: next(made))
        reference, *others = np.abs(found.maps)
        for other, rank, ssim in zip(others, found.rank_correlations, found.ssims, strict=True):
            ranks = [stats.rankdata(values) for values in (reference, other)]
            assert rank == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
            expected = structural_similarity(reference / reference.max(), other / other.max(), data_range=1.0)
            assert ssim == pytest.approx(expected, abs=1e-5)

    def test_a_map_that_never_changes(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        image = noise_image(16, 16)
        edges = np.random.default_rng(0).random((2, 3))
        same = trust.randomization(tiny_model, image, explain=lambda _model, _image: -edges)
        np.testing.assert_allclose([same.rank_correlations, same.ssims], 1, atol=1e-6)
        assert "do not trust it" in same.verdict
        assert f"{same.probabilities[0]:.2f} before" in same.verdict

    @pytest.mark.parametrize("rule", ["gradient", "guided_backprop"])
    def test_a_step_that_silences_the_unit_does_not_count(self, rule: str, noise_image: Noise) -> None:
        """Shuffling may hand the bias that shuts the other unit to this one; how it fares is read off the network."""
        answers: list[float] = []

        def of_unit(network: LoadedModel, picture: InputImage) -> Any:
            answers.append(float(network.net[:3](network.to_input(picture))[0, 0, 3, 3].detach()))
            return saliency.explain(network, picture, method=rule, layer="relu", unit=(0, 3, 3))

        verdicts: dict[bool, set[str]] = {True: set(), False: set()}
        for seed in range(6):
            answers.clear()
            found = trust.randomization(gated(), noise_image(16, 16), explain=of_unit, up_to="relu", seed=seed)
            assert found.steps == (("gate",), ("stem",))
            assert answers[0] > 0
            silent = np.equal(answers[1:], 0)
            np.testing.assert_array_equal(np.isnan(found.rank_correlations), silent)
            np.testing.assert_array_equal(np.isnan(found.ssims), silent)
            verdicts[silent.all()].add(found.verdict)
        assert all(verdicts.values()), "else this test shows nothing"
        assert all("cannot tell for this unit" in verdict for verdict in verdicts[True])
        assert all("explain a class, or another unit" in verdict for verdict in verdicts[True])
        assert all("Rank correlation with the first map" in verdict for verdict in verdicts[False])

    def test_a_unit_with_one_pixel_in_sight_has_nothing_to_rank(self, noise_image: Noise) -> None:
        def of_unit(network: LoadedModel, picture: InputImage) -> Any:
            return saliency.explain(network, picture, method="gradient", layer="5", unit=(0, 3, 3))

        found = trust.randomization(six_convolutions(), noise_image(16, 16), explain=of_unit, up_to="5")
        assert (found.maps != 0).sum() == len(found.maps)
        assert np.isnan(found.rank_correlations).all()
        assert "cannot tell for this unit" in found.verdict

    @pytest.mark.parametrize(
        ("steps", "words"),
        [
            # what is left of the upper half decides, whatever vanished
            ("-ss---", "barely changes"),
            ("-pp---", "in part only"),
            ("oo----", "follows the weights, as"),
            ("s-sooo", "barely changes"),
            # of one step in three nothing can be said
            ("-p----", "cannot tell"),
            ("o-----", "cannot tell"),
            ("--soo-", "cannot tell"),
            # where nothing is: in the lower half every map changes at last, and one that does not tells enough
            ("---oo-", "cannot tell"),
            ("---sos", "barely changes"),
            ("------", "cannot tell"),
        ],
    )
    def test_what_is_left_of_the_steps_decides(self, steps: str, words: str, noise_image: Noise) -> None:
        """After each step the map is the same as at first (s), the same in part (p), another (o), or gone (-)."""
        first, other = np.random.default_rng(0).random((2, 8, 8))
        made = {"s": first, "p": first + other, "o": other, "-": np.zeros((8, 8))}
        found = of_maps([first, *(made[step] for step in steps)], noise_image(16, 16))
        np.testing.assert_array_equal(np.isnan(found.rank_correlations), [step == "-" for step in steps])
        assert words in found.verdict
        assert "missing" not in found.verdict
        if words != "cannot tell":
            num_flat = steps.count("-")
            assert f"Not counted: {num_flat} of 6 steps" in found.verdict
            assert ("none at the end" in found.verdict) == steps.endswith("-")

    @pytest.mark.parametrize(
        ("up_to", "instead"), [("5", "explain a class, or another unit"), (None, "another method")]
    )
    def test_where_nothing_is_left_it_says_what_to_do(
        self, up_to: str | None, instead: str, noise_image: Noise
    ) -> None:
        some, image = np.random.default_rng(0).random((8, 8)), noise_image(16, 16)
        vanishing = of_maps([some, *[np.full((8, 8), 0.1)] * 6], image, up_to=up_to)
        assert "That a map vanishes is no evidence" in vanishing.verdict
        assert instead in vanishing.verdict
        empty = of_maps([np.zeros((8, 8)), *[some] * 6], image, up_to=up_to)
        assert "before any weight is shuffled" in empty.verdict
        assert instead in empty.verdict

    def test_the_prediction_is_watched(self, tiny_model: LoadedModel, noise_image: Noise, small_model: Load) -> None:
        image = noise_image(16, 16)
        seen: list[LoadedModel] = []

        def explain(model: LoadedModel, _image: InputImage) -> np.ndarray:
            seen.append(model)
            return np.eye(3)

        found = trust.randomization(tiny_model, image, explain=explain)
        top = tiny_model.predict(image).indices[0]
        expected = [dict(zip(p.indices, p.probabilities, strict=True))[top] for p in (m.predict(image) for m in seen)]
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)
        headless = trust.randomization(small_model("headless"), image, explain=lambda _model, _image: np.eye(3))
        assert np.isnan(headless.probabilities).all()
        assert headless.top_label == ""
        assert "probability" not in headless.verdict

    def test_guided_backprop_fails_where_gradient_and_grad_cam_pass(
        self, lite0: LoadedModel, coffee: InputImage
    ) -> None:
        """Adebayo et al. 2018, on a real network and photo."""
        target = lite0.predict(coffee).indices[0]
        found = {
            name: trust.randomization(lite0, coffee, explain=explain)
            for name, explain in {
                "guided": gradient("guided", target),
                "gradient": gradient("backprop", target),
                "grad_cam": grad_cam(target),
            }.items()
        }
        assert found["guided"].rank_correlations[:4].min() > 0.8
        assert found["gradient"].rank_correlations[:4].max() < 0.6
        assert found["grad_cam"].rank_correlations[1:].max() < 0.4
        assert found["guided"].probabilities[0] > 0.9
        assert found["guided"].probabilities[1:].max() < 0.1, "there is nothing left to explain"
        assert "do not trust it" in found["guided"].verdict
        assert all("follows the weights, as" in found[name].verdict for name in ("gradient", "grad_cam"))

    @pytest.mark.parametrize(("layer", "unit"), [("blocks.4", (7, 7, 7)), ("blocks.6", (20, 3, 3))])
    def test_so_it_does_for_a_unit(
        self, layer: str, unit: tuple[int, int, int], lite0: LoadedModel, coffee: InputImage
    ) -> None:
        """Ranks of whole maps would be alike for both: the unit sees the middle of its field best, whatever it is."""
        verdicts = {}
        for method in ("guided_backprop", "gradient"):
            explain = functools.partial(saliency.explain, method=method, layer=layer, unit=unit)
            verdicts[method] = trust.randomization(lite0, coffee, explain=explain, up_to=layer).verdict
        assert not any("probability of" in verdict for verdict in verdicts.values()), "a unit is no class"
        assert "barely changes" in verdicts["guided_backprop"]
        assert "follows the weights, as" in verdicts["gradient"]

    def test_progress_has_the_result_so_far(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        seen: list[Step] = []
        found = trust.randomization(tiny_model, noise_image(16, 16), explain=grad_cam(0), on_step=seen.append)
        assert [(step.done, step.total) for step in seen] == [(1, 3), (2, 3), (3, 3)]
        for step in seen:
            np.testing.assert_array_equal(step.partial.maps, found.maps[: step.done + 1])
        assert seen[-1].partial is found

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"num_steps": 0}, BadSetting, "num_steps"),
            ({"layers": []}, BadSetting, "layers is empty"),
            ({"layers": ["relu1"]}, BadSetting, "relu1 has no weights"),
            ({"layers": ["conv3"]}, UnknownLayer, "conv3"),
        ],
    )
    def test_what_cannot_be(
        self,
        settings: dict[str, Any],
        error: type[Exception],
        words: str,
        tiny_model: LoadedModel,
        noise_image: Noise,
    ) -> None:
        with pytest.raises(error, match=words):
            trust.randomization(tiny_model, noise_image(16, 16), explain=grad_cam(0), **settings)

    def test_a_network_without_weights(self, noise_image: Noise) -> None:
        net = nn.Sequential(nn.AvgPool2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = models.from_module(net, input_px=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="pools", device="cpu")
        with pytest.raises(NotApplicable, match="no layer with weights"):
            trust.randomization(model, noise_image(16, 16), explain=lambda _model, _image: np.eye(3))


class TestAgreement:
    def test_against_scipy(self) -> None:
        draw = np.random.default_rng(0)
        maps = {name: draw.normal(size=(6, 8)) + 0.5 for name in "abc"}
        found = trust.agreement(maps)
        assert found.names == ("a", "b", "c")
        positive = [np.maximum(values, 0).astype(np.float32).ravel() for values in maps.values()]
        np.testing.assert_allclose(found.correlations, stats.spearmanr(positive, axis=1).statistic, atol=1e-6)
        beside_a_flat_one = trust.agreement({"flat": np.ones((6, 8)), **maps}).correlations
        np.testing.assert_array_equal(beside_a_flat_one[0], 0)
        np.testing.assert_array_equal(beside_a_flat_one[1:, 1:], found.correlations)

    def test_sizes_signs_and_holes(self) -> None:
        coarse = np.random.default_rng(0).random((4, 4)).astype(np.float32)
        fine = F.interpolate(torch.from_numpy(coarse)[None, None], (16, 20), mode="bilinear")[0, 0].numpy()
        against = np.where(fine < 0.4, -fine, fine)  # what speaks against counts as nothing
        nothing = np.where(fine < 0.4, 0, fine)
        holes = fine.copy()
        holes[3:7, 2:9] = np.nan
        run = Run("module/x", "default", "", "cam.explain", {}, 0.0)
        heatmap = Heatmap(coarse, "conv", 0, "", "cam", run)
        maps = {"coarse": heatmap, "fine": fine, "against": against, "nothing": nothing, "holes": holes}
        found = trust.agreement({**maps, "flat": np.full((3, 3), 0.1)})
        assert found.correlations.shape == (6, 6)
        np.testing.assert_allclose(found.correlations[0, [0, 1, 4]], 1, atol=1e-5)
        assert found.correlations[2, 3] == pytest.approx(1)
        assert found.correlations[0, 2] < 1
        np.testing.assert_array_equal(found.correlations[5], 0)
        np.testing.assert_array_equal(found.correlations, found.correlations.T)

    def test_one_map_agrees_with_nobody(self) -> None:
        with pytest.raises(BadSetting, match="two or more"):
            trust.agreement({"one": np.eye(3)})


class TestEvidence:
    def test_shares_by_hand(self) -> None:
        heatmap = np.array([[1, 2], [3, -4]], dtype=np.float32)
        mask = np.zeros((4, 4), dtype=bool)
        mask[:2] = True
        assert trust.evidence_inside(heatmap, mask) == pytest.approx(3 / 6)
        mask[:] = False
        mask[1:3, 1:3] = True  # a quarter of each cell
        assert trust.evidence_inside(heatmap, mask) == pytest.approx(1 / 4)
        mask[:] = False
        mask[:3, :1] = True  # half of the first cell, a quarter of the third
        assert trust.evidence_inside(heatmap, Mask(mask, "drawn")) == pytest.approx((0.5 * 1 + 0.25 * 3) / 6)

    def test_cells_that_no_pixel_border_meets(self) -> None:
        """Two cells over three pixels: the middle one belongs to both by halves."""
        mask = np.array([[False, True, False]])
        assert trust.evidence_inside(np.array([[6.0, 1.0]]), mask) == pytest.approx(1 / 3)
        mask = np.array([[True, True, False]])
        assert trust.evidence_inside(np.array([[6.0, 1.0]]), mask) == pytest.approx((6 + 1 / 3) / 7)
        assert trust.evidence_inside(np.array([[1.0, 2, 4]]), np.array([[True, False]])) == pytest.approx((1 + 1) / 7)

    def test_everything_nothing_and_no_evidence(self) -> None:
        heatmap = np.random.default_rng(0).random((7, 7))
        heatmap[2, 3] = np.nan
        everywhere = np.ones((224, 224), dtype=bool)
        assert trust.evidence_inside(heatmap, everywhere) == pytest.approx(1)
        assert trust.evidence_inside(heatmap, ~everywhere) == 0
        assert np.isnan(trust.evidence_inside(-heatmap, everywhere))


def test_what_a_unit_cannot_see_makes_no_maps_agree() -> None:
    field = np.zeros((40, 40), dtype=bool)
    field[10:16, 10:16] = True
    draw = np.random.default_rng(0)
    two = {name: np.where(field, draw.random(field.shape), 0) for name in ("one", "other")}
    assert trust.agreement(two).correlations[0, 1] > 0.9
    expected = stats.spearmanr(*(values[field] for values in two.values())).statistic
    assert trust.agreement(two, only_seen=True).correlations[0, 1] == pytest.approx(expected, abs=1e-6)


class TestContext:
    @staticmethod
    def left_half() -> np.ndarray:
        mask = np.zeros((8, 8), dtype=bool)
        mask[:, :4] = True
        return mask

    def context(self, weights: np.ndarray, **settings: Any) -> ContextTest:
        """A network that adds up red where the weights are, on a red picture; the object is the left half."""
        model = linear(weights.astype(np.float32), bias=-4.0)
        image = red(np.full((8, 8), 200))
        return trust.context_test(
            model,
            image,
            self.left_half(),
            explain=lambda _model, _image: weights,
            target=1,
            fills=["black"],
            **settings,
        )

    @pytest.mark.parametrize(
        ("left", "right", "words", "outside"),
        [
            (8.0, 0.0, "looks at the object", 0.0),
            (0.0, 8.0, "looks at the background", 1.0),
            (8.0, 8.0, "each enough", 0.5),
            (3.0, 3.0, "together", 0.5),
        ],
    )
    def test_networks_that_look_at_one_half(self, left: float, right: float, words: str, outside: float) -> None:
        weights = np.where(self.left_half(), left, right) / 32 / 200  # each half adds its number to the score
        found = self.context(weights)
        assert words in found.verdict
        assert found.evidence_outside == pytest.approx(outside)
        assert found.area_outside == 0.5
        background, thing = found.edits
        assert (background.replaced, thing.replaced) == ("background", "object")
        assert found.whole.score == pytest.approx(left + right - 4, abs=1e-3)
        assert (background.score, thing.score) == pytest.approx((left - 4, right - 4), abs=1e-3)
        assert background.probability == pytest.approx(1 / (1 + np.exp(4 - left)), abs=1e-4)
        np.testing.assert_array_equal(background.pixels[..., 0], np.where(self.left_half(), 200, 0))
        np.testing.assert_array_equal(thing.pixels[..., 0], np.where(self.left_half(), 0, 200))
        assert len(found.whole.predictions.indices) == 2

    def test_maps_and_predictions_are_those_of_the_edited_pictures(
        self, lite0: LoadedModel, coffee: InputImage
    ) -> None:
        mask = np.zeros((224, 224), dtype=bool)
        mask[40:180, 30:190] = True
        target = lite0.predict(coffee).indices[0]
        other = photos.open_photo("astronaut")
        seen: list[Step] = []
        found = trust.context_test(
            lite0, coffee, Mask(mask, "drawn"), explain=grad_cam(target), other=other, on_step=seen.append
        )
        assert [(step.done, step.total) for step in seen] == [(done, 7) for done in range(1, 8)]
        for step in seen:
            assert step.partial.edits == found.edits[: step.done - 1]
            assert step.partial.evidence_outside == found.evidence_outside
        assert [bool(step.partial.verdict) for step in seen] == [False, False, True, True, True, True, True]
        assert [(edit.fill, edit.replaced) for edit in found.edits] == [
            (fill, part) for fill in ("blur", "grey", "photo") for part in ("background", "object")
        ]
        photo = found.edits[4]
        np.testing.assert_array_equal(photo.pixels[~mask], lite0.preprocessing.crop(other)[~mask])
        for edit in (found.whole, *found.edits[3:5]):
            edited = images.from_pixels(edit.pixels, name="edited")
            assert edit.predictions == lite0.predict(edited, k=5)
            np.testing.assert_array_equal(edit.map, grad_cam(target)(lite0, edited).map)
        assert found.mask.method == "drawn"
        assert found.target_label == "espresso"
        assert pickle.loads(pickle.dumps(found)).verdict == found.verdict
        assert found.run.settings == {"target": target, "fills": ["blur", "grey", "photo"]}

    def test_without_another_photo_that_fill_is_left_out(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        mask = np.zeros((16, 16), dtype=bool)
        mask[4:9] = True
        found = trust.context_test(tiny_model, noise_image(16, 16), mask, explain=grad_cam(0))
        assert [edit.fill for edit in found.edits] == ["blur", "blur", "grey", "grey"]
        with pytest.raises(BadSetting, match="another photo"):
            trust.context_test(tiny_model, noise_image(16, 16), mask, explain=grad_cam(0), fills=["photo"])
        with pytest.raises(BadSetting, match="no fill"):
            trust.context_test(tiny_model, noise_image(16, 16), mask, explain=grad_cam(0), fills=["snow"])

    def test_masks_that_cannot_be(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        for mask, words in [(np.eye(8), "crop_mask"), (np.zeros((16, 16)), "both"), (np.ones((16, 16)), "both")]:
            with pytest.raises(BadSetting, match=words):
                trust.context_test(tiny_model, noise_image(16, 16), mask.astype(bool), explain=grad_cam(0))

    def test_a_mask_of_the_picture_is_cut_like_the_picture(self, lite0: LoadedModel, noise_image: Noise) -> None:
        image = noise_image(300, 500)
        left, top, right, bottom = lite0.preprocessing.crop_box(image)
        mask = np.zeros((300, 500), dtype=bool)
        mask[: round((top + bottom) / 2), round((left + right) / 2) :] = True
        found = trust.crop_mask(lite0, image, mask).values
        expected = np.zeros((224, 224), dtype=bool)
        expected[:112, 112:] = True
        assert (found != expected).mean() < 0.01
        with pytest.raises(BadSetting, match="size"):
            trust.crop_mask(lite0, image, mask.T)


def test_results_are_raw_float32_and_can_be_pickled(tiny_model: LoadedModel, noise_image: Noise) -> None:
    image = noise_image(16, 16)
    heatmap = cam.explain(tiny_model, image, method="grad_cam", target=1)
    made = [
        trust.deletion_insertion(tiny_model, image, heatmap, steps=4),
        trust.randomization(tiny_model, image, explain=grad_cam(1)),
        trust.agreement({"one": heatmap, "other": np.eye(5)}),
    ]
    for result in made:
        again = pickle.loads(pickle.dumps(result))
        for name, value in vars(result).items():
            if isinstance(value, np.ndarray):
                assert value.dtype == np.float32
                np.testing.assert_array_equal(value, getattr(again, name))
            else:
                assert value == getattr(again, name)
    for result, method in zip(made[:2], ("trust.deletion_insertion", "trust.randomization"), strict=True):
        assert result.run.method == method
        assert result.run.image_digest == image.digest
        assert result.run.settings["seed"] == result.run.seed == 0
