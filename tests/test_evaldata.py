"""Real networks and photos beside the repository: what a person brings, through a module and through a checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from cnnviz_core import collections, doctor, images, models, pairs, photos, probe, settings, torchvision_shim
from cnnviz_core.doctor import Status
from cnnviz_core.errors import BadCheckpoint, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.methods import comparison, feature_maps, filters
from cnnviz_core.models import LoadedModel

FOLDER = Path(__file__).parent.parent.parent / "shared" / "evaldata"

pytestmark = [
    pytest.mark.evaldata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real networks and photos in {FOLDER}"),
]

Load = Callable[[str], LoadedModel]

NAMES = (
    "squeezenet1_1",
    "squeezenet1_0_deepcompressed",
    "bvlc_googlenet",
    "vgg16_to_conv3_3",
    "mobilenetv1_025_vww",
    "mobilenetv2_100_imagenet",
    "mobilenetv2_100_inat_bird",
    "mobilenetv2_100_inat_insect",
    "cifar10_resnet20",
)
ON_IMAGENET = ("squeezenet1_1", "squeezenet1_0_deepcompressed", "bvlc_googlenet", "mobilenetv2_100_imagenet")
CLASSES = ("dalmatian", "strawberry", "grand piano", "soccer ball", "pizza")


@pytest.fixture(scope="session")
def loader() -> Iterator[ModuleType]:
    """The module that builds the networks."""
    torchvision_shim.install()
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("evaldata_loader", FOLDER / "loaders" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture(scope="session")
def network(loader: ModuleType) -> Load:
    """A network by name through ``models.from_module``, kept for the session."""

    @cache
    def load(name: str) -> LoadedModel:
        with warnings.catch_warnings():  # it leaves a file to be closed by the interpreter
            warnings.simplefilter("ignore", ResourceWarning)
            net, config = loader.load(name)
        return models.from_module(
            net,
            input_px=config["size"],
            mean=config["mean"],
            std=config["std"],
            class_names=config["classes"],
            name=name,
            device="cpu",
        )

    return load


def pictures(kind: str, *, num: int, source: str = "caltech101") -> list[InputImage]:
    folder = FOLDER / "images" / source / kind.replace(" ", "_")
    return [images.open_image(path) for path in sorted(folder.iterdir())[:num]]


@pytest.mark.parametrize("name", ON_IMAGENET)
def test_photos_are_recognised(name: str, network: Load) -> None:
    model = network(name)
    hits = [model.predict(image, k=1).labels[0].startswith(kind) for kind in CLASSES for image in pictures(kind, num=4)]
    assert np.mean(hits) >= 0.7


def test_pictures_of_32_px_are_recognised(network: Load) -> None:
    model = network("cifar10_resnet20")
    hits = [
        model.predict(image).labels[0] == kind
        for kind in model.class_names
        for image in pictures(kind, num=6, source="cifar10")
    ]
    assert np.mean(hits) >= 0.8


def test_a_person_is_told_from_none(network: Load) -> None:
    model = network("mobilenetv1_025_vww")
    assert model.class_names == ("no person", "person")
    assert model.predict(photos.open_photo("astronaut")).labels[0] == "person"
    assert model.predict(photos.open_photo("coffee")).labels[0] == "no person"


def test_a_fine_tuned_network_names_a_bird(network: Load) -> None:
    image = images.open_image(FOLDER / "images" / "open_images" / "bird" / "bird.jpg")
    found = network("mobilenetv2_100_inat_bird").predict(image)
    assert found.labels[0] == "Poecile atricapillus (Black-capped Chickadee)"
    assert found.probabilities[0] > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_are_true(name: str, network: Load) -> None:
    model = network(name)
    image = pictures("dalmatian", num=1)[0]
    head = model.anatomy.head
    with probe.relu_rule("guided") as rule, torch.no_grad():
        recording = probe.record(model.net, model.to_input(image), [head.feature_layer])
    assert rule.num_answered == sum(activation.num_calls for activation in model.anatomy.activations) > 0
    assert doctor.verdict(model, "guided_backprop").status is Status.WORKS
    assert model.is_static
    if name == "vgg16_to_conv3_3":
        assert doctor.verdict(model, "cam").status is Status.NOT
        assert doctor.verdict(model, "predictions").status is Status.NOT
        with pytest.raises(NotApplicable):
            model.predict(image)
        return
    assert doctor.verdict(model, "cam").status is Status.WORKS
    averages = recording.outputs[head.feature_layer][-1].mean((2, 3))
    last = model.net.get_submodule(head.classifier)
    expected = F.linear(averages, last.weight, last.bias) if head.kind == "gap_linear" else averages
    torch.testing.assert_close(recording.result.flatten(1), expected, rtol=1e-3, atol=1e-3)


def test_what_they_are_made_of(network: Load) -> None:
    googlenet = network("bvlc_googlenet").anatomy
    assert [(a.name, a.num_modules, a.num_functional) for a in googlenet.activations] == [("ReLU", 0, 57)]
    assert network("squeezenet1_1").anatomy.head.kind == "conv_gap"
    assert network("mobilenetv1_025_vww").num_outputs == 2
    assert network("cifar10_resnet20").preprocessing.input_px == (32, 32)
    assert network("cifar10_resnet20").anatomy.num_frozen == 16 * 32 + 32 * 64  # the fixed shortcuts
    assert network("vgg16_to_conv3_3").class_names == ()


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_maps_and_every_convolution_kernels(name: str, network: Load) -> None:
    model = network(name)
    image = pictures("strawberry", num=1)[0]
    layers = [info.name for info in model.layers.spatial]
    for layer, maps in feature_maps.compute_many(model, image, layers=layers).items():
        assert maps.values.shape == model.layers[layer].shape
        assert np.isfinite(maps.values).all()
        for fusion in feature_maps.FUSIONS:
            assert np.isfinite(feature_maps.fuse(maps, method=fusion)).all()
    for info in model.layers.convolutions:
        kernels = filters.compute(model, layer=info.name)
        assert len(kernels.values) == info.num_channels
        assert sorted(filters.order(kernels, by="norm").tolist()) == list(range(info.num_channels))
        filters.duplicate_pairs(kernels)
    assert filters.compute(model).reads_image


def test_a_trained_first_layer_has_edges_and_colours(network: Load) -> None:
    """By hue, the kernels with little colour stand behind those with much: two groups, as AlexNet's first layer has."""
    kernels = filters.compute(network("squeezenet1_0_deepcompressed"))
    assert kernels.values.shape == (96, 3, 7, 7)
    grey = kernels.values.mean(axis=1, keepdims=True)
    share = np.sqrt(((kernels.values - grey) ** 2).sum(axis=(1, 2, 3)) / (kernels.values**2).sum(axis=(1, 2, 3)))
    coloured = share > 0.5
    assert 30 < coloured.sum() < 50
    assert coloured[filters.order(kernels, by="hue")].tolist() == sorted(coloured, reverse=True)


@pytest.mark.parametrize(
    ("name", "architecture", "num_classes"),
    [
        ("squeezenet1_1", "torchvision/squeezenet1_1", 1000),
        ("squeezenet1_0_deepcompressed", "torchvision/squeezenet1_0", 1000),
        ("mobilenetv2_100_imagenet", "timm/mobilenetv2_100", 1000),
        ("mobilenetv2_100_inat_bird", "timm/mobilenetv2_100", 965),
        ("mobilenetv2_100_inat_insect", "timm/mobilenetv2_100", 1022),
    ],
)
def test_the_file_alone_and_its_architecture_suffice(
    name: str, architecture: str, num_classes: int, network: Load
) -> None:
    by_hand = network(name)
    model = models.load(
        architecture,
        weights=FOLDER / "weights" / f"{name}.safetensors",
        preprocessing=dataclasses.asdict(by_hand.preprocessing),
        device="cpu",
    )
    assert model.num_classes == num_classes
    for one, other in zip(model.net.state_dict().values(), by_hand.net.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    image = pictures("dalmatian", num=1)[0]
    found, expected = model.predict(image), by_hand.predict(image)
    assert found.indices[0] == expected.indices[0]
    if name.startswith("squeezenet"):  # the mobilenets pad differently in the catalogue
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-3)
    if num_classes == 1000:
        assert found.labels[0] == "dalmatian"


@pytest.mark.parametrize(
    ("name", "architecture", "words"),
    [
        ("bvlc_googlenet", "torchvision/googlenet", "Other shape.*branch3"),
        ("cifar10_resnet20", "torchvision/resnet18", "Unknown to the network"),
        ("vgg16_to_conv3_3", "torchvision/vgg16", "Missing in the file"),
        ("mobilenetv2_100_imagenet", "torchvision/mobilenet_v2", "another architecture"),
    ],
)
def test_a_file_of_another_architecture_is_refused_in_words(name: str, architecture: str, words: str) -> None:
    with pytest.raises(BadCheckpoint, match=words):
        models.load(architecture, weights=FOLDER / "weights" / f"{name}.safetensors")


def test_siblings_are_told_from_strangers_and_differ_more_in_depth(
    network: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bird and insect networks came from one ancestor; what ImageNet's has learned came from another start."""
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path))
    base, tuned, stranger = (network(f"mobilenetv2_100_{name}") for name in ("inat_bird", "inat_insect", "imagenet"))
    assert pairs.kinship(base, pairs.weight_changes(base, stranger)).kind == "unrelated"
    photos_folder = collections.open_collection(FOLDER / "images" / "caltech101")
    found = comparison.screen(base, tuned, collection=photos_folder, num_pictures=20)
    assert found.kinship.kind == "related"
    correlations = [one.correlation for one in found.layers[:-1]]
    assert stats.spearmanr(range(len(correlations)), correlations).statistic < -0.8
    ckas = [one.cka for one in found.layers]
    assert min(ckas[1:12]) > 0.75 > 0.55 > max(ckas[-3:])
    assert comparison.changed_answers(base, tuned, found).unit == "cosine distance"
