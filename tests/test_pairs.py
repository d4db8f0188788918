"""Two networks of one architecture: what is refused, what is frozen, who is related to whom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cnnviz_core import models, pairs
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.models import LoadedModel

from .conftest import SIDE, Plain, set_weights

Zoo = Callable[[str], LoadedModel]


def loaded(net: nn.Module, name: str = "net") -> LoadedModel:
    return models.from_module(net, input_px=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3, name=name, device="cpu")


def changed(change: Callable[[Plain], object], *, num_classes: int = 3, seed: int = 0) -> LoadedModel:
    """The plain network after a change."""
    net = set_weights(Plain(num_classes=num_classes), seed=seed)
    with torch.no_grad():
        change(net)
    return loaded(net, "changed")


@pytest.mark.parametrize(
    ("model_id", "num", "some"),
    [
        ("timm/resnet18", 10, ("bn1", "layer1.0", "layer4.1", "fc")),
        ("torchvision/mobilenet_v2", 20, ("features.0.1", "features.17", "features.18.1", "classifier.1")),
        ("torchvision/googlenet", 13, ("conv1", "inception3a", "inception5b", "fc")),
        ("torchvision/densenet121", 67, ("features.denseblock4.denselayer16", "features.norm5", "classifier")),
        ("timm/convnext_atto", 20, ("stages.0.blocks.0", "stages.3.blocks.1", "head")),
    ],
)
def test_stops_are_blocks_in_order_and_hold_every_weight_once(
    model_id: str, num: int, some: tuple[str, ...], zoo: Zoo
) -> None:
    model = zoo(model_id)
    found = pairs.stops(model)
    names = [stop.layer for stop in found]
    assert len(found) == num
    assert [name for name in names if name in some] == list(some)
    places = [model.layers.names.index(name) for name in names]
    assert places == sorted(places)
    held = [p for stop in found for part in stop.parts for p in model.net.get_submodule(part).parameters()]
    assert len({id(p) for p in held}) == len(held)
    assert sum(p.numel() for p in held) == sum(p.numel() for p in model.net.parameters())


def test_the_change_of_weights_by_hand(tiny_model: LoadedModel) -> None:
    def change(net: Plain) -> None:
        net.conv1.weight *= 1.5
        net.conv2.weight *= -1
        net.fc.bias += 1

    conv1, conv2, fc = pairs.weight_changes(tiny_model, changed(change))
    assert (conv1.layer, conv2.layer, fc.layer) == ("conv1", "conv2", "fc")
    assert (conv1.relative, conv1.cosine) == (pytest.approx(0.5), pytest.approx(1))
    assert (conv2.relative, conv2.cosine) == (pytest.approx(2), pytest.approx(-1))
    assert (fc.relative, fc.cosine, fc.same_parameters) == (0, pytest.approx(1), False)  # a bias is no kernel
    assert conv1.num_params == 4 * 27 + 4


def test_a_network_and_itself(tiny_model: LoadedModel) -> None:
    changes = pairs.weight_changes(tiny_model, tiny_model)
    assert all(c.same_parameters and c.same_statistics and c.relative == 0 for c in changes)
    assert pairs.kinship(tiny_model, changes).kind == "same"


def test_frozen_layers_are_told_also_where_statistics_went_on(zoo: Zoo) -> None:
    base = zoo("timm/resnet18")
    tuned = pairs.redrawn(base, ["layer4.1"])
    tuned.net.get_buffer("layer1.0.bn1.running_mean").add_(0.1)
    changes = {change.layer: change for change in pairs.weight_changes(base, tuned)}
    assert not changes["layer4.1"].same_parameters
    assert changes["layer1.0"].same_parameters
    assert not changes["layer1.0"].same_statistics
    kinship = pairs.kinship(base, list(changes.values()))
    assert kinship.kind == "related"
    assert "8 of 9 layers below the head are unchanged" in kinship.words
    assert "In 1 of these the weights were frozen" in kinship.words


def test_all_layers_frozen_under_another_head(tiny_model: LoadedModel) -> None:
    tuned = changed(lambda net: None, num_classes=5)
    changes = pairs.weight_changes(tiny_model, tuned)
    assert [change.same_shape for change in changes] == [True, True, False]
    assert np.isnan(changes[-1].relative)
    kinship = pairs.kinship(tiny_model, changes)
    assert kinship.kind == "same body"
    assert "Only the head differs" in kinship.words


def test_two_trainings_and_a_fine_tuning_are_told_apart(lite0: LoadedModel) -> None:
    other = models.load(models.DEFAULT_MODEL, weights="random:0", device="cpu")
    kinship = pairs.kinship(lite0, pairs.weight_changes(lite0, other))
    assert kinship.kind == "unrelated"
    assert "Two unrelated trainings" in kinship.words
    draw = torch.Generator().manual_seed(0)
    near = pairs.redrawn(lite0, ["blocks.6.0"])
    for weight in near.net.parameters():
        weight += 0.5 * weight.std() * torch.randn(weight.shape, generator=draw) if weight.numel() > 1 else 0
    assert pairs.kinship(lite0, pairs.weight_changes(lite0, near)).kind == "related"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("residual", "layer conv1 has weight 4x3x3x3 in one and weight 4x4x3x3 in the other"),
        ("depth_wise", "plain has a layer conv1, the other has not"),
        ("one_channel", "layer conv1 has weight 4x3x3x3 in one and weight 4x1x3x3 in the other"),
    ],
)
def test_other_architectures_are_refused(
    other: str, words: str, tiny_model: LoadedModel, small_model: Callable[[str], LoadedModel]
) -> None:
    with pytest.raises(NotApplicable, match=words):
        pairs.check(tiny_model, small_model(other))


def test_another_stride_is_another_architecture(tiny_model: LoadedModel) -> None:
    with pytest.raises(NotApplicable, match=r"stride \(1, 1\) in one and stride \(2, 2\)"):
        pairs.check(tiny_model, changed(lambda net: setattr(net.conv2, "stride", (2, 2))))


@pytest.mark.parametrize("other", ["headless", "binary"])
def test_the_head_may_differ(other: str, tiny_model: LoadedModel, small_model: Callable[[str], LoadedModel]) -> None:
    for one, two in ((tiny_model, small_model(other)), (small_model(other), tiny_model)):
        changes = pairs.weight_changes(one, two)
        assert all(change.same_parameters for change in changes if change.layer != "fc")


def test_redrawn_layers_hold_the_same_numbers_in_another_order(tiny_model: LoadedModel) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.net.state_dict().items()}
    tuned = pairs.redrawn(tiny_model, ["conv2"], seed=3)
    one, two = tiny_model.net.get_parameter("conv2.weight"), tuned.net.get_parameter("conv2.weight")
    assert not torch.equal(one, two)
    torch.testing.assert_close(one.flatten().sort().values, two.flatten().sort().values)
    assert torch.equal(tiny_model.net.get_parameter("conv1.weight"), tuned.net.get_parameter("conv1.weight"))
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.net.state_dict().items())
    assert tuned.spec.weights_hash not in (tiny_model.spec.weights_hash, pairs.redrawn(tiny_model, ["conv1"]).spec)
    assert tuned.spec.title == "plain (conv2 redrawn)"  # seed 3
    with pytest.raises(BadSetting, match="no weights"):
        pairs.redrawn(tiny_model, ["relu1"])


def test_the_last_stage(lite0: LoadedModel, tiny_model: LoadedModel, zoo: Zoo) -> None:
    convnext = pairs.last_stage(zoo("timm/convnext_atto"))  # its head is a module with a norm and the classifier
    assert convnext[-2:] == ("stages.3.blocks.0", "stages.3.blocks.1")
    assert pairs.last_stage(lite0) == (*(f"blocks.5.{at}" for at in range(4)), "blocks.6.0", "conv_head", "bn2")
    assert pairs.last_stage(tiny_model) == ("conv2",)
    assert pairs.redrawn(tiny_model, ["conv2"]).spec.weights == pairs.LAST_STAGE_REDRAWN
