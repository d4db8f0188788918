"""Occlusion against sums worked out by hand, slow loops and Captum."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnviz_core import images, models, photos
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.methods import occlusion
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Occlusion, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]

SIDE = 12


class Linear(nn.Module):
    """Three scores, each a weighed sum of all numbers of the picture."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randint(-4, 5, (3, 3 * SIDE * SIDE), generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(weights.float())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def linear() -> LoadedModel:
    return models.from_module(
        Linear(), input_px=SIDE, mean=(0.5, 0.25, 0.75), std=(0.5, 1.0, 0.25), name="linear", device="cpu"
    )


@pytest.fixture
def picture(noise_image: Noise) -> InputImage:
    return noise_image(SIDE, SIDE)


def weighed(model: LoadedModel) -> np.ndarray:
    """(K, C, H, W) weights of the linear network."""
    return model.net.weight.detach().numpy().reshape(3, 3, SIDE, SIDE).astype(np.float64)


def whole(model: LoadedModel, pixels: np.ndarray) -> Tensor:
    """Scores of pixels of the input's size, by the network alone."""
    with torch.no_grad():
        return model.scores(model.net(model.to_input(images.from_pixels(pixels, name="whole"))))[0]


class TestByHand:
    @pytest.mark.parametrize(("patch_px", "stride_px"), [(3, 2), (4, 4), (5, 3), (1, 1), (12, 5)])
    def test_linear_network_loses_what_the_patch_hides(
        self, linear: LoadedModel, picture: InputImage, patch_px: int, stride_px: int
    ) -> None:
        """The drop is the sum over the patch of w (x - 0)."""
        found = occlusion.explain(linear, picture, patch_px=patch_px, stride_px=stride_px, target=1)
        lost = (weighed(linear)[1] * linear.to_input(picture)[0].double().numpy()).sum(0)
        total, times = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
        for row, top in enumerate(found.tops):
            for col, left in enumerate(found.lefts):
                place = slice(top, top + patch_px), slice(left, left + patch_px)
                assert found.clean_score - found.scores[row, col] == pytest.approx(lost[place].sum(), abs=2e-3)
                total[place] += lost[place].sum()
                times[place] += 1
        assert (times > 0).all()
        np.testing.assert_allclose(found.heatmap, total / times, atol=2e-3)
        assert np.ptp(found.heatmap) > 1 or patch_px == SIDE

    @pytest.mark.parametrize(
        ("baseline", "pixel"), [("mean", (0.5, 0.25, 0.75)), ("black", (0, 0, 0)), ("white", (1, 1, 1))]
    )
    def test_levels_are_of_pixels(
        self, linear: LoadedModel, picture: InputImage, baseline: str, pixel: tuple[float, ...]
    ) -> None:
        found = occlusion.explain(linear, picture, patch_px=4, stride_px=4, target=0, baseline=baseline)
        mean, std = np.array([0.5, 0.25, 0.75]), np.array([0.5, 1.0, 0.25])
        fill = ((np.array(pixel) - mean) / std)[:, None, None]
        lost = (weighed(linear)[0] * (linear.to_input(picture)[0].double().numpy() - fill)).sum(0)
        assert found.clean_score - found.scores[1, 2] == pytest.approx(lost[4:8, 8:12].sum(), abs=2e-3)

    def test_blur_keeps_colours_and_takes_detail(self, linear: LoadedModel, noise_image: Noise) -> None:
        flat = images.from_pixels(np.full((SIDE, SIDE, 3), (40, 90, 200), dtype=np.uint8), name="flat")
        np.testing.assert_allclose(
            occlusion.explain(linear, flat, patch_px=4, baseline="blur", target=2).heatmap, 0, atol=2e-3
        )
        noisy = noise_image(SIDE, SIDE)
        covered = occlusion.occlude(linear, noisy, top=0, left=0, patch_px=SIDE, baseline="blur").pixels
        assert covered.std() < 0.5 * noisy.pixels.std()
        assert abs(covered.mean() - noisy.pixels.mean()) < 10

    def test_blur_is_gaussian(self, linear: LoadedModel) -> None:
        """A single bright line comes out as a bell of half the patch's width, by scipy's filter."""
        from scipy import ndimage

        pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        pixels[:, 6] = 255
        line = images.from_pixels(pixels, name="line")
        found = occlusion.occlude(linear, line, top=0, left=0, patch_px=SIDE, baseline="blur").pixels
        expected = ndimage.gaussian_filter(pixels.astype(float), (SIDE / 2, SIDE / 2, 0), mode="nearest", radius=19)
        np.testing.assert_allclose(found, expected, atol=1)

    def test_noise_is_drawn_from_the_seed(self, linear: LoadedModel, picture: InputImage) -> None:
        one, same, other = (
            occlusion.explain(linear, picture, patch_px=4, baseline="noise", target=0, seed=seed) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one.scores, same.scores)
        assert np.abs(one.scores - other.scores).min() > 0
        assert (one.run.seed, other.run.seed) == (1, 2)
        assert occlusion.explain(linear, picture, patch_px=4, target=0, seed=1).run.seed is None

    def test_probabilities_and_winners(self, linear: LoadedModel, picture: InputImage) -> None:
        found = occlusion.explain(linear, picture, patch_px=5, stride_px=3, baseline="white")
        for row, top in enumerate(found.tops):
            for col, left in enumerate(found.lefts):
                pixels = picture.pixels.copy()
                pixels[top : top + 5, left : left + 5] = 255
                scores = whole(linear, pixels)
                assert found.classes[row, col] == scores.argmax()
                probability = torch.softmax(scores, 0)[found.target].item()
                assert found.probabilities[row, col] == pytest.approx(probability, abs=1e-4)
        clean = linear.predict(picture)
        assert (found.target, found.target_label) == (clean.indices[0], clean.labels[0])
        assert found.clean_probability == pytest.approx(clean.probabilities[0])
        assert found.clean_score == pytest.approx(clean.logits[0])

    def test_an_ignored_place_is_zero(self, noise_image: Noise) -> None:
        net = Linear()
        with torch.no_grad():
            net.weight.view(3, 3, SIDE, SIDE)[..., :6] = 0
        model = models.from_module(net, input_px=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3, name="right half")
        heatmap = occlusion.explain(model, noise_image(SIDE, SIDE), patch_px=2, stride_px=1, target=0).heatmap
        assert np.abs(heatmap[:, :5]).max() < 1e-4
        assert np.abs(heatmap[:, 7:]).min() > 0


class TestPositions:
    @pytest.mark.parametrize(
        ("size_px", "patch_px", "stride_px", "expected"),
        [
            (10, 4, 2, [0, 2, 4, 6]),
            (10, 4, 3, [0, 3, 6]),
            (11, 4, 3, [0, 3, 6, 7]),
            (10, 4, 4, [0, 4, 6]),
            (5, 5, 1, [0]),
            (5, 1, 1, [0, 1, 2, 3, 4]),
        ],
    )
    def test_last_is_moved_back_to_the_border(
        self, size_px: int, patch_px: int, stride_px: int, expected: list[int]
    ) -> None:
        assert occlusion.positions(size_px=size_px, patch_px=patch_px, stride_px=stride_px).tolist() == expected

    @pytest.mark.parametrize(("patch_px", "stride_px"), [(0, 1), (-1, 1), (11, 1), (4, 0), (4, 5)])
    def test_out_of_range(self, patch_px: int, stride_px: int) -> None:
        with pytest.raises(BadSetting, match=r"patch_px|stride_px"):
            occlusion.positions(size_px=10, patch_px=patch_px, stride_px=stride_px)

    def test_number_before_the_run(self, linear: LoadedModel, zoo_64: Load, picture: InputImage) -> None:
        assert occlusion.num_positions(linear, patch_px=5, stride_px=3) == 4 * 4
        assert occlusion.num_positions(zoo_64("torchvision/vgg11"), patch_px=16, stride_px=8) == 49
        assert occlusion.num_positions(linear) == occlusion.explain(linear, picture).scores.size

    def test_oblong_input(self, noise_image: Noise) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        model = models.from_module(net, input_px=(20, 33), mean=(0.5,) * 3, std=(0.5,) * 3, name="oblong")
        found = occlusion.explain(model, noise_image(50, 60), patch_px=6, stride_px=5)
        assert found.tops.tolist() == [0, 5, 10, 14]
        assert found.lefts.tolist() == [0, 5, 10, 15, 20, 25, 27]
        assert found.scores.shape == (4, 7)
        assert found.heatmap.shape == (20, 33)


class TestAgainstCaptum:
    @pytest.mark.parametrize("model_id", ["torchvision/resnet18", "torchvision/vgg11", "timm/tf_efficientnet_lite0"])
    def test_map(self, model_id: str, zoo_64: Load, noise_image: Noise) -> None:
        """Where windows fit without a rest, so that its last ones are of full size, too."""
        from captum.attr import Occlusion as Peer

        model, image = zoo_64(model_id), noise_image(64, 64)
        with torch.no_grad():
            expected = Peer(model.net).attribute(
                model.to_input(image),
                target=7,
                sliding_window_shapes=(3, 16, 16),
                strides=(3, 12, 12),
                perturbations_per_eval=5,
            )
        found = occlusion.explain(model, image, patch_px=16, stride_px=12, target=7)
        spread = np.ptp(found.scores)
        assert spread > 0
        np.testing.assert_allclose(found.heatmap, expected[0, 0].numpy(), atol=1e-4 * spread + 1e-6)

    @pytest.mark.parametrize("name", ["plain", "residual", "functional", "in_place", "gelu", "depth_wise"])
    def test_small_networks(self, name: str, small_model: Load, noise_image: Noise) -> None:
        from captum.attr import Occlusion as Peer

        model, image = small_model(name), noise_image(16, 16)
        with torch.no_grad():
            expected = Peer(model.net).attribute(
                model.to_input(image), target=2, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2)
            )
        found = occlusion.explain(model, image, patch_px=4, stride_px=2, target=2)
        np.testing.assert_allclose(found.heatmap, expected[0, 0].numpy(), atol=1e-5)


class TestIncremental:
    @pytest.mark.parametrize("baseline", occlusion.BASELINES)
    def test_equals_whole_pictures(self, baseline: str, zoo_64: Load, noise_image: Noise) -> None:
        model, image = zoo_64("torchvision/resnet18"), noise_image(64, 64)
        settings = {"patch_px": 9, "stride_px": 9, "baseline": baseline, "target": 3}
        quick = occlusion.explain(model, image, **settings)
        slow = occlusion.explain(model, image, incremental=False, **settings)
        bound = 1e-4 * np.ptp(slow.scores)
        np.testing.assert_allclose(quick.scores, slow.scores, rtol=0, atol=bound)
        np.testing.assert_allclose(quick.heatmap, slow.heatmap, rtol=0, atol=bound)
        np.testing.assert_allclose(quick.probabilities, slow.probabilities, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(quick.classes, slow.classes)

    def test_real_weights(self, lite0: LoadedModel) -> None:
        """The place that the network needs most is the cat's, in the middle."""
        chelsea = photos.open_photo("chelsea")
        quick = occlusion.explain(lite0, chelsea, patch_px=48, stride_px=44, target=285)
        slow = occlusion.explain(lite0, chelsea, patch_px=48, stride_px=44, target=285, incremental=False)
        np.testing.assert_allclose(quick.scores, slow.scores, rtol=0, atol=1e-4 * np.ptp(slow.scores))
        assert quick.target_label == "Egyptian cat"
        row, col = np.unravel_index(quick.scores.argmin(), quick.scores.shape)
        assert 1 <= row <= 3
        assert 1 <= col <= 3


class TestKinds:
    def test_one_channel(self, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("one_channel"), noise_image(16, 16)
        found = occlusion.explain(model, image, patch_px=4, stride_px=4, baseline="white", target=0)
        pixels = model.preprocessing.crop(image).copy()
        pixels[4:8, 8:12] = 255
        assert found.scores[1, 2] == pytest.approx(whole(model, pixels)[0].item(), abs=1e-4)

    def test_binary(self, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("binary"), noise_image(16, 16)
        no, yes = (occlusion.explain(model, image, patch_px=4, target=target) for target in (0, 1))
        np.testing.assert_allclose(no.scores, -yes.scores, rtol=1e-6)
        np.testing.assert_allclose(no.probabilities + yes.probabilities, 1, rtol=1e-5)
        np.testing.assert_array_equal(yes.classes, (yes.scores > 0).astype(int))

    @pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.Sigmoid(), nn.LogSoftmax(dim=1)])
    def test_scores_before_the_end(self, end: nn.Module, noise_image: Noise) -> None:
        torch_net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        with torch.no_grad():
            for i, weight in enumerate(torch_net.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)) / 3)
        options = {"input_px": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3, "name": "ended", "device": "cpu"}
        image = noise_image(16, 16)
        plain = occlusion.explain(models.from_module(torch_net, **options), image, patch_px=5, target=1)
        ended = occlusion.explain(
            models.from_module(nn.Sequential(torch_net, end), **options), image, patch_px=5, target=1
        )
        shift = plain.scores - ended.scores  # a softmax forgets a number that is added to all
        if isinstance(end, nn.Sigmoid):
            np.testing.assert_allclose(shift, 0, atol=1e-4)
        else:
            np.testing.assert_allclose(ended.probabilities, plain.probabilities, atol=1e-5)
            np.testing.assert_allclose(ended.probabilities, np.exp(ended.scores), rtol=1e-4)

    def test_headless(self, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("headless"), noise_image(16, 16)
        for call in (
            lambda: occlusion.explain(model, image),
            lambda: occlusion.estimate_seconds(model, image),
            lambda: occlusion.predict_occluded(model, image, top=0, left=0, patch_px=4),
        ):
            with pytest.raises(NotApplicable, match="no classifier"):
                call()

    def test_32_px(self, noise_image: Noise) -> None:
        model = models.load("torchvision/resnet18", weights="random:0", device="cpu", preprocessing={"input_px": 32})
        found = occlusion.explain(model, noise_image(40, 50), stride_px=4)
        assert found.patch_px == 4
        assert found.scores.shape == (8, 8)
        assert np.isfinite(found.heatmap).all()
        assert np.ptp(found.heatmap) > 0

    def test_wrong_arguments(self, linear: LoadedModel, picture: InputImage) -> None:
        for settings in ({"patch_px": 13}, {"patch_px": 0}, {"patch_px": 4, "stride_px": 5}, {"stride_px": 0}):
            with pytest.raises(BadSetting, match=r"patch_px|stride_px"):
                occlusion.explain(linear, picture, **settings)
        with pytest.raises(BadSetting, match=r"grey.*mean, black, white, blur, noise"):
            occlusion.explain(linear, picture, baseline="grey")
        for target in (-1, 3):
            with pytest.raises(BadSetting, match="classes 0 to 2"):
                occlusion.explain(linear, picture, target=target)
        for place in ((-1, 0), (0, -1), (9, 0), (0, 9)):
            with pytest.raises(BadSetting, match="does not lie inside"):
                occlusion.occlude(linear, picture, top=place[0], left=place[1], patch_px=4)


class TestByHandPlaced:
    """The patch that a person moves."""

    @pytest.mark.parametrize("baseline", occlusion.BASELINES)
    def test_agrees_with_the_run(self, baseline: str, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("residual"), noise_image(40, 30)
        found = occlusion.explain(model, image, patch_px=5, stride_px=4, baseline=baseline, seed=3)
        place = {"top": int(found.tops[1]), "left": int(found.lefts[2]), "patch_px": 5, "baseline": baseline, "seed": 3}
        best = occlusion.predict_occluded(model, image, k=3, **place)
        assert best.indices[0] == found.classes[1, 2]
        assert dict(zip(best.indices, best.logits, strict=True))[found.target] == pytest.approx(
            found.scores[1, 2], abs=1e-4
        )
        shown = model.predict(occlusion.occlude(model, image, **place))
        np.testing.assert_allclose(shown.probabilities, best.probabilities, atol=0.02)

    def test_shows_the_crop_with_the_patch(self, linear: LoadedModel, noise_image: Noise) -> None:
        image = noise_image(30, 50)
        crop = linear.preprocessing.crop(image)
        shown = occlusion.occlude(linear, image, top=2, left=7, patch_px=5, baseline="black").pixels
        inside = np.zeros((SIDE, SIDE), dtype=bool)
        inside[2:7, 7:12] = True
        assert not shown[inside].any()
        np.testing.assert_array_equal(shown[~inside], crop[~inside])

    def test_mean_colour(self, linear: LoadedModel, picture: InputImage) -> None:
        shown = occlusion.occlude(linear, picture, top=0, left=0, patch_px=3).pixels
        np.testing.assert_allclose(shown[:3, :3], np.broadcast_to([127.5, 63.75, 191.25], (3, 3, 3)), atol=0.6)


class TestSteps:
    def test_partial_results(self, zoo_64: Load, noise_image: Noise) -> None:
        model, image = zoo_64("torchvision/resnet18"), noise_image(64, 64)
        steps: list[Step] = []
        final = occlusion.explain(model, image, patch_px=8, stride_px=7, on_step=steps.append)
        assert len(steps) >= 2
        assert [step.total for step in steps] == [final.scores.size] * len(steps)
        for step in steps:
            partial = step.partial
            assert isinstance(partial, Occlusion)
            tried = np.isfinite(partial.scores)
            assert tried.sum() == step.done == partial.num_forwards - 1
            np.testing.assert_array_equal(partial.classes == -1, ~tried)
            np.testing.assert_array_equal(np.isfinite(partial.probabilities), tried)
            np.testing.assert_array_equal(partial.scores[tried], final.scores[tried])
            covered = np.zeros((64, 64), dtype=bool)
            for row, col in np.argwhere(tried):
                covered[final.tops[row] : final.tops[row] + 8, final.lefts[col] : final.lefts[col] + 8] = True
            np.testing.assert_array_equal(np.isfinite(partial.heatmap), covered)
        assert not np.isfinite(steps[0].partial.heatmap).all()
        np.testing.assert_array_equal(steps[-1].partial.heatmap, final.heatmap)
        assert steps[-1].done == steps[-1].total

    def test_raising_ends_the_work(self, zoo_64: Load, noise_image: Noise) -> None:
        class Cancelled(BaseException):
            pass

        model, image = zoo_64("torchvision/resnet18"), noise_image(64, 64)
        done = []

        def cancel(step: Step) -> None:
            done.append(step.done)
            raise Cancelled

        with pytest.raises(Cancelled):
            occlusion.explain(model, image, patch_px=8, stride_px=4, on_step=cancel)
        assert len(done) == 1
        occlusion.explain(model, image, patch_px=32, stride_px=32)

    def test_estimate(self, zoo_64: Load, noise_image: Noise) -> None:
        seconds = occlusion.estimate_seconds(zoo_64("torchvision/resnet18"), noise_image(64, 64), patch_px=8)
        assert 0 < seconds < 600


class TestSharedNetwork:
    def test_threads_equal_the_serial_results(self, small_model: Load, noise_image: Noise) -> None:
        model = small_model("residual")
        jobs = [(noise_image(16, 16, seed=seed), size) for seed in range(6) for size in (3, 5)]
        run = lambda job: occlusion.explain(model, job[0], patch_px=job[1], stride_px=2)  # noqa: E731
        serial = [run(job) for job in jobs]
        found: dict[int, Occlusion] = {}

        def work(first: int) -> None:
            for i in range(first, len(jobs), 4):
                found[i] = run(jobs[i])

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, expected in enumerate(serial):
            np.testing.assert_array_equal(found[i].scores, expected.scores)

    def test_left_as_it_was(self, small_model: Load, noise_image: Noise) -> None:
        model = small_model("in_place")
        before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
        occlusion.explain(model, noise_image(16, 16))
        assert all(torch.equal(before[name], tensor) for name, tensor in model.net.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.net.modules())
        assert not any(p.requires_grad or p.grad is not None for p in model.net.parameters())

    def test_under_gradients_and_inference_mode(self, small_model: Load, noise_image: Noise) -> None:
        model, image = small_model("gelu"), noise_image(16, 16)
        expected = occlusion.explain(model, image).scores
        for mode in (torch.enable_grad(), torch.inference_mode()):
            with mode:
                np.testing.assert_array_equal(occlusion.explain(model, image).scores, expected)

    def test_results_travel_and_can_be_made_again(self, linear: LoadedModel, picture: InputImage) -> None:
        found = occlusion.explain(linear, picture, baseline="noise", seed=5)
        back = pickle.loads(pickle.dumps(found))
        again = occlusion.explain(linear, picture, **back.run.settings)
        np.testing.assert_array_equal(again.scores, found.scores)
        np.testing.assert_array_equal(back.heatmap, found.heatmap)
        assert found.run.method == "occlusion.explain"
        assert found.run.image_digest == picture.digest
        assert found.run.settings["patch_px"] == found.patch_px
        assert found.num_forwards == found.scores.size + 1
        for array in (found.scores, found.probabilities, found.heatmap):
            assert array.dtype == np.float32

    def test_a_network_that_chooses_its_way(self, noise_image: Noise) -> None:
        class Choosy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dark, self.bright, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                convolution = self.bright if float(x.numpy()[0].mean()) > 0 else self.dark
                return self.fc(convolution(x).relu().mean((2, 3)))

        half = (0.5,) * 3
        model = models.from_module(Choosy(), input_px=16, mean=half, std=half, name="choosy", device="cpu")
        image = images.from_pixels(np.full((16, 16, 3), 129, dtype=np.uint8), name="just bright")
        found = occlusion.explain(model, image, patch_px=4, stride_px=4, baseline="noise", target=0, seed=1)
        for row in range(4):
            for col in range(4):
                place = {"top": 4 * row, "left": 4 * col, "patch_px": 4, "baseline": "noise", "seed": 1}
                alone = occlusion.predict_occluded(model, image, k=3, **place)
                expected = dict(zip(alone.indices, alone.logits, strict=True))[0]
                assert found.scores[row, col] == pytest.approx(expected, abs=1e-6)


def test_every_baseline_explains_itself() -> None:
    assert all(baseline.title and baseline.help.endswith(".") for baseline in occlusion.BASELINES.values())
