"""Every verdict of the doctor, tried: what it calls possible is done, and what it denies is seen to fail."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnviz_core import doctor, models, photos, probe
from cnnviz_core.doctor import CAPABILITIES, Status, Verdict
from cnnviz_core.errors import NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.methods import feature_maps, filters
from cnnviz_core.models import LoadedModel

HALF = (0.5, 0.5, 0.5)
W, A, N = Status.WORKS, Status.APPROXIMATE, Status.NOT

# What differs between networks; all else works in a network with convolutions and a classifier.
TABLE: dict[str, dict[str, Status]] = {
    "lite0": {},
    "torchvision/vgg11": {"cam": N},
    "torchvision/resnet18": {},
    "torchvision/densenet121": {},
    "torchvision/googlenet": {},
    "timm/convnext_tiny": {"cam": A, "guided_backprop": N, "guided_grad_cam": N},
    "timm/mobilenetv3_small_100": {"cam": N, "guided_backprop": A, "guided_grad_cam": A},
    "torchvision/squeezenet1_1": {},
    "one_channel": {},
    "two_class": {},
    "binary": {},
    "functional": {},
    "in_place": {},
    "depth_wise": {},
    "gelu": {"guided_backprop": N, "guided_grad_cam": N},
    "headless": {
        "predictions": N,
        "cam": N,
        "grad_cam": N,
        "score_cam": N,
        "gradient": A,
        "guided_grad_cam": N,
        "occlusion": N,
        "adversarial": N,
    },
    "no_maps": {
        "feature_maps": N,
        "filters": N,
        "cam": N,
        "grad_cam": N,
        "score_cam": N,
        "eigen_cam": N,
        "guided_grad_cam": N,
    },
}


@pytest.fixture(scope="session")
def network(
    lite0: LoadedModel,
    zoo: Callable[[str], LoadedModel],
    small_net: Callable[[str], nn.Module],
    small_model: Callable[[str], LoadedModel],
) -> Callable[[str], LoadedModel]:
    """The networks of ``TABLE`` by name."""
    two = small_net("plain")
    two.fc = nn.Linear(6, 2)
    made = {
        "lite0": lite0,
        "two_class": from_module(two, name="two_class"),
        "no_maps": from_module(
            nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.ReLU(), nn.Linear(20, 3)), name="no_maps"
        ),
    }

    def find(name: str) -> LoadedModel:
        return made.get(name) or (zoo(name) if "/" in name else small_model(name))

    return find


def from_module(net: nn.Module, *, name: str) -> LoadedModel:
    return models.from_module(net, input_px=16, mean=HALF, std=HALF, name=name, device="cpu")


@pytest.fixture(scope="session")
def photo() -> InputImage:
    return photos.open_photo("coffee")


def verdicts(model: LoadedModel) -> dict[str, Verdict]:
    return {name: doctor.verdict(model, name) for name in CAPABILITIES}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str, network: Callable[[str], LoadedModel]) -> None:
    found = verdicts(network(name))
    assert {key: verdict.status for key, verdict in found.items()} == dict.fromkeys(CAPABILITIES, W) | TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_every_verdict_says_why_and_what_instead(name: str, network: Callable[[str], LoadedModel]) -> None:
    for verdict in verdicts(network(name)).values():
        assert verdict.reason.endswith(".")
        if verdict.status is Status.NOT:
            assert verdict.instead.endswith(".")


@pytest.mark.parametrize("name", TABLE)
def test_predictions_and_what_rests_on_them(
    name: str, network: Callable[[str], LoadedModel], photo: InputImage
) -> None:
    model = network(name)
    usable = {doctor.verdict(model, key).usable for key in ("predictions", "occlusion")}
    try:
        found = model.predict(photo, k=2)
    except NotApplicable:
        assert usable == {False}
    else:
        assert usable == {True}
        assert np.isfinite(found.logits).all()
        assert sum(found.probabilities) <= 1 + 1e-5


@pytest.mark.parametrize("name", TABLE)
def test_feature_maps(name: str, network: Callable[[str], LoadedModel], photo: InputImage) -> None:
    model = network(name)
    usable = doctor.verdict(model, "feature_maps").usable
    assert usable == doctor.verdict(model, "eigen_cam").usable
    try:
        maps = feature_maps.compute(model, photo)
    except NotApplicable:
        assert not usable
    else:
        assert usable
        assert min(maps.values.shape[1:]) > 1
        assert maps.values.std() > 0


@pytest.mark.parametrize("name", TABLE)
def test_filters(name: str, network: Callable[[str], LoadedModel]) -> None:
    model = network(name)
    try:
        kernels = filters.compute(model)
    except NotApplicable:
        assert not doctor.verdict(model, "filters").usable
    else:
        assert doctor.verdict(model, "filters").usable
        assert kernels.values.ndim == 4


@pytest.mark.parametrize("name", TABLE)
def test_cam_works_where_the_weighed_maps_add_up_to_the_score(
    name: str, network: Callable[[str], LoadedModel], photo: InputImage
) -> None:
    """All maps of the network are tried with the weights of its last layer, recorded by ordinary hooks."""
    model = network(name)
    status = doctor.verdict(model, "cam").status
    x = model.to_input(photo)
    assert (status is Status.WORKS) == any(adds_up for adds_up in try_cam(model, x))


def try_cam(model: LoadedModel, x: Tensor) -> list[bool]:
    """For every layer, with and without a ReLU behind it, whether its weighed maps add up to the scores."""
    if not model.num_classes:
        return []
    net = copy.deepcopy(model.net)
    recorded: dict[str, Tensor] = {}
    for info in model.layers.spatial:
        net.get_submodule(info.name).register_forward_hook(
            lambda _module, _args, out, name=info.name: recorded.update({name: out.detach().clone()})
        )
    with torch.no_grad():
        logits = net(x).flatten(1)
    weighted = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    last = weighted[-1]
    found = []
    for name, output in recorded.items():
        maps = output.movedim(model.layers[name].channel_dim, 1)
        for rectified in (maps, maps.relu()):
            if isinstance(last, nn.Linear) and last.in_features == maps.shape[1]:
                cam = torch.einsum("kc,ncij->nkij", last.weight, rectified)
                sums = cam.sum((2, 3)) / (maps.shape[2] * maps.shape[3]) + last.bias
            elif isinstance(last, nn.Conv2d) and maps.shape[1] == logits.shape[1]:
                sums = rectified.sum((2, 3)) / (maps.shape[2] * maps.shape[3])
            else:
                continue
            found.append(bool((sums - logits).abs().max() <= 1e-3 * logits.abs().max()))
    return found


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.get("cam", W) is W])
def test_cam_is_right_with_the_layers_that_the_doctor_names(
    name: str, network: Callable[[str], LoadedModel], photo: InputImage
) -> None:
    model = network(name)
    head = model.anatomy.head
    maps = torch.from_numpy(feature_maps.compute(model, photo, layer=head.feature_layer).values)[None]
    maps = maps.relu() if head.relu_before_pooling else maps
    with torch.no_grad():
        logits = model.net(model.to_input(photo)).flatten(1)
    last = model.net.get_submodule(head.classifier)
    if head.kind == "gap_linear":
        assert isinstance(last, nn.Linear)
        sums = torch.einsum("kc,ncij->nkij", last.weight, maps).mean((2, 3)) + last.bias
    else:
        sums = maps.mean((2, 3))
    torch.testing.assert_close(sums, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    assert head.feature_layer in doctor.verdict(model, "cam").reason or head.kind == "conv_gap"


@pytest.mark.parametrize("name", TABLE)
def test_gradients_reach_the_picture_and_the_maps(
    name: str, network: Callable[[str], LoadedModel], photo: InputImage
) -> None:
    model = network(name)
    x = model.to_input(photo).requires_grad_()
    layer = model.anatomy.head.feature_layer
    recording = probe.record(model.net, x, [layer] if layer else [])
    status = {key: doctor.verdict(model, key).status for key in ("gradient", "grad_cam")}
    if model.num_classes:
        assert status["gradient"] is Status.WORKS
        score = model.scores(recording.result).max()
    else:  # a unit in place of a class
        assert status["gradient"] is Status.APPROXIMATE
        score = recording.outputs[layer][0].max()
    (gradient,) = torch.autograd.grad(score, x, retain_graph=True)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    if status["grad_cam"] is Status.WORKS:
        (gradient,) = torch.autograd.grad(score, recording.outputs[layer][-1])
        assert gradient.abs().max() > 0
    else:
        assert not (model.num_classes and layer)


@pytest.mark.parametrize("name", TABLE)
def test_the_relu_rule_answers_as_the_doctor_says(
    name: str, network: Callable[[str], LoadedModel], photo: InputImage
) -> None:
    model = network(name)
    with probe.relu_rule("guided") as rule:
        probe.record(model.net, model.to_input(photo), [])
    total = sum(activation.num_calls for activation in model.anatomy.activations)
    expected = {W: rule.num_answered == total > 0, A: 0 < rule.num_answered < total, N: rule.num_answered == 0}
    found = doctor.verdict(model, "guided_backprop")
    assert expected[found.status]
    if found.status is Status.APPROXIMATE:
        assert f"{rule.num_answered} of {total} activations" in found.reason


def test_an_activation_that_the_rule_does_not_reach_is_not_promised() -> None:
    """An operator called by its inner name is a ReLU to the dry run, but not a call that the rule knows."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.ops.aten.relu(self.relu(self.conv(x)) - 1).mean((2, 3)))

    model = from_module(Hidden(), name="hidden")
    found = doctor.verdict(model, "guided_backprop")
    assert found.status is Status.APPROXIMATE
    assert "1 of 2 activations" in found.reason


def test_require_passes_or_names_reason_and_alternative(network: Callable[[str], LoadedModel]) -> None:
    doctor.require(network("lite0"), "cam")
    doctor.require(network("timm/convnext_tiny"), "cam")  # approximately
    with pytest.raises(NotApplicable) as caught:
        doctor.require(network("torchvision/vgg11"), "cam")
    assert str(caught.value) == (
        "CAM does not apply to vgg11 (untrained, seed 0): CAM needs global average pooling and one linear layer; its "
        "head does more than that. Use Grad-CAM, which needs no special head."
    )
    with pytest.raises(NotApplicable, match=r"Predictions does not apply to headless: it has no classifier"):
        doctor.require(network("headless"), "predictions")


def test_a_linear_layer_on_every_place_is_told_from_one_on_the_average() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    found = doctor.verdict(from_module(net, name="flat"), "cam")
    assert found.status is Status.NOT
    assert "reads every place with weights of its own" in found.reason


def test_facts_in_words(network: Callable[[str], LoadedModel]) -> None:
    def facts(name: str) -> dict[str, str]:
        return {fact.name: fact.value for fact in doctor.facts(network(name))}

    lite0 = facts("lite0")
    assert lite0["Input"] == "224 × 224 px, colour (3 channels)"
    assert lite0["Classes"] == "1,000"
    assert lite0["Head"] == "global average pooling and one linear layer"
    assert lite0["Activations"] == "ReLU6 33×"
    assert lite0["Pooling"] == "none"
    assert lite0["In-place code"] == "33 modules, switched off on loading; 0 operations"
    assert lite0["Computation"] == "the same for every picture"
    assert facts("torchvision/googlenet")["Activations"] == "ReLU 57× (57 without a module)"
    assert facts("binary")["Classes"] == "2 from a single score"
    assert facts("one_channel")["Input"] == "16 × 16 px, grey (1 channel)"
    headless = facts("headless")
    assert (headless["Classes"], headless["Head"]) == ("none", "none")
    assert headless["Output"] == "features, no class scores"


def test_facts_of_a_network_that_looks_before_it_computes() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.mean() > 0 else self.conv(x.flip(3))

    found = {fact.name: fact.value for fact in doctor.facts(from_module(Branching(), name="branching"))}
    assert found["Computation"] == "depends on the picture"
    assert found["Activations"] == "none"
