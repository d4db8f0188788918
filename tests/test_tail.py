"""A network cut in two: the second half gives what the whole does, and no shortcut past the cut goes unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnviz_core import tail
from cnnviz_core.models import LoadedModel
from cnnviz_core.tail import Place

SmallNet = Callable[[str], nn.Module]


@pytest.fixture
def x() -> Tensor:
    return torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))


# Network, what is trained, where it must be cut: found by reading the network's code.
PLACES = (
    ("plain", ["fc"], "what fc reads"),
    ("plain", ["conv2", "fc"], "what conv2 reads"),
    ("plain", ["fc", "conv2"], "what conv2 reads"),
    ("plain", ["conv1", "fc"], "what conv1 reads"),
    ("residual", ["fc"], "what fc reads"),
    ("residual", ["conv2", "fc"], "what stem puts out"),  # a shortcut goes around conv2
    ("residual", ["stem"], "what stem reads"),
    ("functional", ["conv2", "fc"], "what conv1 puts out"),  # a shortcut through a functional ReLU
    ("reused_relu", ["conv2", "fc"], "what conv1 puts out"),  # conv2 reads twice
    ("depth_wise", ["project", "fc"], "what project reads"),
    ("gelu", ["conv2"], "what conv2 reads"),
    ("in_place", ["conv2"], "what conv2 reads"),
)


@pytest.mark.parametrize(("name", "trained", "place"), PLACES)
def test_the_cut_is_as_late_as_can_be_and_changes_nothing(
    name: str, trained: list[str], place: str, small_net: SmallNet, x: Tensor
) -> None:
    net = small_net(name)
    found = tail.cut(net, trained, x)
    assert str(found.place) == place
    other = torch.randn((3, 3, 16, 16), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found.result(found.features(other)), net(other))


ZOO = (
    ("timm/resnet18", ["layer4.1", "fc"], "what layer4.1 reads"),
    ("timm/resnet18", ["layer4.0.conv2", "fc"], "what layer4.0 reads"),  # the block has a shortcut
    ("timm/mobilenetv3_small_050", ["blocks.5", "classifier"], "what blocks.5 reads"),
    ("torchvision/squeezenet1_1", ["classifier.1"], "what classifier.1 reads"),
)


@pytest.mark.parametrize(("model_id", "trained", "place"), ZOO)
def test_networks_of_the_zoo(
    model_id: str, trained: list[str], place: str, zoo_64: Callable[[str], LoadedModel]
) -> None:
    net = zoo_64(model_id).net
    x = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    found = tail.cut(net, trained, x)
    assert str(found.place) == place
    assert found.features(x).shape[1:] == found.shape
    torch.testing.assert_close(
        found.result(found.features(x)), net(x), rtol=1e-4, atol=1e-4 * float(net(x).abs().max())
    )


def test_a_network_that_chooses_its_way_is_not_cut(small_net: SmallNet, x: Tensor) -> None:
    net = small_net("plain")
    found = tail.cut(net, ["fc"], x, is_static=False)
    assert found.place == Place()
    assert torch.equal(found.features(x), x)
    assert torch.equal(found.result(x), net(x))


def test_what_the_classifier_reads_comes_from_what_was_kept(small_net: SmallNet, x: Tensor) -> None:
    net = small_net("plain")
    seen: list[Tensor] = []
    net.get_submodule("fc").register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    net(x)
    net.get_submodule("fc")._forward_pre_hooks.clear()
    for trained in (["fc"], ["conv2", "fc"], ["conv1", "fc"]):
        found = tail.cut(net, trained, x)
        torch.testing.assert_close(found.reader("fc").features(found.features(x)), seen[0])


def test_gradients_reach_the_network_s_own_weights(small_net: SmallNet, x: Tensor) -> None:
    net = small_net("residual")
    found = tail.cut(net, ["conv2", "fc"], x)
    weights = [*net.get_submodule("conv2").parameters(), *net.get_submodule("fc").parameters()]
    expected = torch.autograd.grad(net(x).square().sum(), weights)
    for one, other in zip(
        torch.autograd.grad(found.result(found.features(x)).square().sum(), weights), expected, strict=True
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        weights[0].add_(1)
    torch.testing.assert_close(found.result(found.features(x)), net(x))


def test_threads_share_the_halves(small_net: SmallNet) -> None:
    net = small_net("plain")
    pictures = [torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    found = tail.cut(net, ["conv2", "fc"], pictures[0])
    expected = [net(x) for x in pictures]
    wrong: list[int] = []

    def work(place: int) -> None:
        results = [found.result(found.features(pictures[place])) for _ in range(20)]
        wrong.extend(place for result in results if not torch.allclose(result, expected[place], atol=1e-5))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_network_is_left_as_it_was(small_net: SmallNet, x: Tensor) -> None:
    net = small_net("residual")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modules = dict(net.named_modules())
    tail.cut(net, ["conv2", "fc"], x).features(x)
    assert dict(net.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
