"""Fast copies give the network's own scores and gradients, and leave the network alone."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from cnnviz_core import convolution, folding, probe
from cnnviz_core.convolution import Convolution, Follower
from cnnviz_core.errors import UnknownLayer
from cnnviz_core.models import LoadedModel

SmallNet = Callable[[str], nn.Module]


def pictures(num: int = 3, *, side: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(num, channels, side, side, generator=torch.Generator().manual_seed(5))


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def frozen(net: nn.Module, *, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
    for name, tensor in net.named_buffers():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.eval().requires_grad_(requires_grad=False)


def gradients(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(run(x)[:, 1].sum(), x)[0]


def check(net: nn.Module, x: Tensor, *, tolerance: float = 1e-5) -> folding.FastCopy:
    """The copy, after its scores and gradients were compared with the network's."""
    fast = folding.fast_copy(net, x)

    def two_steps(pictures: Tensor) -> Tensor:
        return fast.go_on(fast.enter(pictures))

    for run in (fast.net, two_steps):
        scores, slopes = net(x), gradients(net, x)
        torch.testing.assert_close(run(x), scores, rtol=0, atol=tolerance * float(scores.abs().max()))
        torch.testing.assert_close(gradients(run, x), slopes, rtol=0, atol=tolerance * float(slopes.abs().max()))
    return fast


@pytest.mark.parametrize(
    ("name", "num_norms", "entrance"),
    [
        ("plain", 0, "conv1"),
        ("residual", 0, "stem"),
        ("functional", 1, "conv1"),  # the norm reads two convolutions
        ("in_place", 0, "conv1"),
        ("reused_relu", 0, "conv1"),
        ("gelu", 0, "conv1"),
        ("depth_wise", 0, "expand"),
        ("binary", 0, "conv1"),
    ],
)
def test_small_networks(name: str, num_norms: int, entrance: str, small_net: SmallNet) -> None:
    net = small_net(name).requires_grad_(requires_grad=False)
    if name == "binary":
        net = nn.Sequential(net, nn.Linear(1, 2)).requires_grad_(requires_grad=False)
        entrance = "0.conv1"
    fast = check(net, pictures())
    assert (norms(fast.net), fast.entrance) == (num_norms, entrance)


@pytest.mark.parametrize(
    ("model_id", "num_norms", "entrance"),
    [
        ("torchvision/resnet18", 0, "conv1"),
        ("torchvision/densenet121", 62, "features.conv0"),  # most of its norms stand before the convolutions
        ("timm/mobilenetv2_100", 0, "conv_stem"),  # norms that hold the activation
        ("timm/efficientnet_b0", 0, "conv_stem"),
        ("timm/convnext_atto", 0, "stem.0"),
    ],
)
def test_real_architectures(model_id: str, num_norms: int, entrance: str, zoo: Callable[[str], LoadedModel]) -> None:
    net, x = zoo(model_id).net, pictures(2, side=64)
    fast = folding.fast_copy(net, x)
    with torch.no_grad():
        expected = net(x)
        for found in (fast.net(x), fast.go_on(fast.enter(x))):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert (norms(fast.net), fast.entrance) == (num_norms, entrance)


def test_real_weights(lite0: LoadedModel) -> None:
    """Padding that depends on the size, and 49 norms with trained statistics."""
    x = pictures(2, side=224)
    fast = folding.fast_copy(lite0.net, x)
    assert norms(lite0.net) == 49
    assert (norms(fast.net), fast.entrance) == (0, "conv_stem")
    with torch.no_grad():
        torch.testing.assert_close(fast.go_on(fast.enter(x)), lite0.net(x), rtol=0, atol=1e-4)
    one, other = gradients(fast.net, x).flatten(), gradients(lite0.net, x).flatten()
    assert F.cosine_similarity(one, other, dim=0) > 0.999


def forwards(net: nn.Module, x: Tensor, *, tolerance: float = 1e-5) -> int:
    """How many activations the fast copy applies on the way, after its scores and gradients were compared."""
    copied = folding.fast_copy(net, x).net
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(copied(x), expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    mine, right = gradients(copied, x).flatten(), gradients(net, x).flatten()
    assert F.cosine_similarity(mine, right, dim=0) > 0.999
    return sum(isinstance(module, Convolution) and module._then is not None for module in copied.modules())


@pytest.mark.parametrize(
    ("name", "num_applied"),
    [
        ("plain", 2),
        ("residual", 1),  # not the one after the sum
        ("functional", 0),  # a function, not a module, like the next
        ("in_place", 0),
        ("reused_relu", 1),  # a convolution that is called twice is left
        ("gelu", 0),
        ("depth_wise", 1),  # the other is a function
    ],
)
def test_forwards_of_small_networks(name: str, num_applied: int, small_net: SmallNet) -> None:
    assert forwards(small_net(name).requires_grad_(requires_grad=False), pictures()) == num_applied


@pytest.mark.parametrize(
    ("model_id", "num_applied", "side"),
    [
        ("torchvision/vgg11", 8, 64),
        ("torchvision/resnet18", 9, 64),
        ("timm/mobilenetv2_100", 35, 64),
        ("timm/tf_efficientnet_lite0", 33, 65),  # sizes that are padded on both sides alike
        ("timm/tf_efficientnet_lite0", 33, 64),  # and on one side more
        ("timm/efficientnet_b0", 49, 64),
        ("timm/mobilenetv3_small_050", 33, 64),
        ("timm/convnext_atto", 0, 64),
    ],
)
def test_forwards_of_real_architectures(
    model_id: str, num_applied: int, side: int, zoo: Callable[[str], LoadedModel]
) -> None:
    assert forwards(zoo(model_id).net, pictures(2, side=side)) == num_applied


def test_forwards_of_a_picture_that_is_higher_than_wide(zoo: Callable[[str], LoadedModel]) -> None:
    net = zoo("timm/tf_efficientnet_lite0").net
    assert forwards(net, pictures(2, side=64)[..., :63]) == 33  # more on one side along one axis only


class _ReadTwice(nn.Module):
    """A convolution whose output is read before its activation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.end = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv(x)
        return self.end((self.act(found) + found).mean((2, 3)))


def test_what_is_read_before_its_activation_stays() -> None:
    assert forwards(frozen(_ReadTwice()), pictures()) == 0


def test_the_copy_is_kept_and_made_again_for_new_weights(small_net: SmallNet) -> None:
    net = small_net("plain").requires_grad_(requires_grad=False)
    first = folding.fast_copy(net, pictures())
    assert folding.fast_copy(net, pictures(5)) is first
    assert forwards(net, pictures()) == 2
    before = folding.kept_bytes(net)
    net.get_parameter("conv2.weight").mul_(2)
    assert folding.fast_copy(net, pictures()) is not first
    assert forwards(net, pictures()) == 2
    assert folding.kept_bytes(net) == before


def test_the_network_is_left_alone(small_net: SmallNet) -> None:
    net = small_net("residual").requires_grad_(requires_grad=False)
    before = [(id(t), t.data_ptr(), t.stride(), t._version) for t in (*net.parameters(), *net.buffers())]
    state = copy.deepcopy(net.state_dict())
    modules = [(name, id(module), len(module._forward_hooks)) for name, module in net.named_modules()]
    folding.fast_copy(net, pictures())
    assert [(id(t), t.data_ptr(), t.stride(), t._version) for t in (*net.parameters(), *net.buffers())] == before
    assert [(name, id(module), len(module._forward_hooks)) for name, module in net.named_modules()] == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_made_once_and_again_for_new_weights_or_sizes(small_net: SmallNet) -> None:
    net = small_net("residual").requires_grad_(requires_grad=False)
    first = folding.fast_copy(net, pictures())
    assert folding.fast_copy(net, pictures(5)) is first
    with torch.no_grad():
        net.get_parameter("conv2.weight").mul_(2)
    second = check(net, pictures())
    assert second is not first
    assert check(net, pictures(side=24)) is not second


def test_a_network_that_is_gone_keeps_no_copy(small_net: SmallNet) -> None:
    net = small_net("plain").requires_grad_(requires_grad=False)
    copied = weakref.ref(folding.fast_copy(net, pictures()).net)
    assert copied() is not None
    del net
    gc.collect()
    assert copied() is None


class _Body(nn.Module):
    """Two convolutions, a norm after the first, and what a subclass makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 3)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(x.relu()).relu().mean((2, 3)))


class _NormInAList(_Body):
    """The norm is called from a list, so that putting another module in its place changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.also = [self.bn]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.also[0](self.conv1(x)))


class _ReadTwice(_Body):
    """What the convolution puts out is read beside the norm, too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(self.bn(x) + x)


class _NormTwice(_Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.bn(self.conv1(x))))


class _Overwritten(_Body):
    """What the convolution put out is changed before the norm reads it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv1(x).relu_()))


class _Statistics(_Body):
    """A norm of the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv1(x)))


class _WeightNorm(_Body):
    """Weights made anew at each use from tensors that the copy shares with the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.weight_norm(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv1(x)))


@pytest.mark.parametrize("kind", [_NormInAList, _ReadTwice, _NormTwice, _Overwritten, _WeightNorm])
def test_what_cannot_be_folded_is_left(kind: type[_Body]) -> None:
    net = frozen(kind())
    fast = check(net, pictures())
    assert norms(fast.net) == 1
    assert fast.entrance == "conv1"


def test_a_norm_of_the_batch_at_hand_is_left() -> None:
    assert norms(folding.fast_copy(frozen(_Statistics()), pictures()).net) == 1


def test_norms_without_weights() -> None:
    net = frozen(
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Flatten())
    )
    assert norms(check(net, pictures()).net) == 0


class _Clamped(_Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv1(x.clamp(-1, 1))))


class _Bypassed(_Body):
    """The picture enters beside the first convolution, too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv1(x))) + x.mean((2, 3))


class _Backwards(_Body):
    """The first convolution to be registered is the second to be called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv1(self.conv2(x).relu()).relu().mean((2, 3)))


class _Unused(_Body):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.late = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(x))


@pytest.mark.parametrize("kind", [_Clamped, _Bypassed, _Backwards, _Unused])
def test_one_step_where_the_first_is_not_affine_or_not_the_only_way(kind: type[_Body]) -> None:
    fast = check(frozen(kind()), pictures())
    assert fast.entrance == ""


class _Scaled(_Body):
    """Normalisation and padding inside the network are affine."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv1(F.pad((x - 0.4) / 0.2, (1, 2, 0, 1)))))


def test_an_affine_beginning_is_part_of_the_first_step() -> None:
    assert check(frozen(_Scaled()), pictures()).entrance == "conv1"


def test_direct_pairs() -> None:
    for kind, expected in ((_ReadTwice, [("conv1", "bn")]), (_NormTwice, []), (_Backwards, [])):
        assert probe.direct_pairs(frozen(kind()), pictures(), nn.Conv2d, nn.BatchNorm2d) == expected


def test_many_threads_get_the_same_answer(small_net: SmallNet) -> None:
    net = small_net("residual").requires_grad_(requires_grad=False)
    x = pictures()
    expected = gradients(folding.fast_copy(small_net("residual").requires_grad_(requires_grad=False), x).net, x)
    found: list[Tensor] = []

    def work() -> None:
        fast = folding.fast_copy(net, x)
        found.extend(gradients(lambda x: fast.go_on(fast.enter(x)), x) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(torch.equal(one, found[0]) for one in found)
    torch.testing.assert_close(found[0], expected)


# ---- the network up to a layer --------------------------------------------------------------------------------------


def check_beginning(net: nn.Module, layer: str, x: Tensor, *, num_calls: int = 1) -> folding.Beginning:
    """The beginning, after what it puts out and its gradient were compared with the network's."""

    def plainly(pictures: Tensor) -> Tensor:
        return probe.record(net, pictures, [layer]).outputs[layer][-1]

    found = folding.up_to(net, layer, x, num_calls=num_calls)
    with torch.no_grad():
        expected = plainly(x)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    slopes = gradients(plainly, x)
    torch.testing.assert_close(gradients(found, x), slopes, rtol=0, atol=1e-4 * float(slopes.abs().max()))
    return found


@pytest.mark.parametrize(
    ("name", "layer", "num_folded"),
    [
        ("plain", "conv2", 0),
        ("residual", "conv1", 0),  # its own norm stays outside
        ("residual", "bn1", 1),
        ("residual", "bn2", 2),  # overwritten further on
        ("functional", "norm", 0),
        ("in_place", "conv1", 0),
        ("gelu", "act", 0),
        ("depth_wise", "project", 0),
        ("plain", "fc", 0),
    ],
)
def test_a_layers_output_stays(name: str, layer: str, num_folded: int, small_net: SmallNet) -> None:
    net = small_net(name).requires_grad_(requires_grad=False)
    calls = 2 if (name, layer) == ("gelu", "act") else 1
    assert norms(net) - norms(check_beginning(net, layer, pictures(), num_calls=calls).net) == num_folded


@pytest.mark.parametrize(
    ("model_id", "layer", "num_folded"),
    [
        ("torchvision/resnet18", "layer2.0.conv2", 6),  # of the stem, of four in layer1, of conv1
        ("torchvision/resnet18", "layer2.1", 10),  # and of conv2, the shortcut, and two more
        ("timm/mobilenetv2_100", "blocks.1.0.conv_dw", 4),
        ("timm/mobilenetv2_100", "blocks.1.0.bn1", 4),
        ("timm/mobilenetv2_100", "blocks.1.0.bn1.act", 3),  # inside the norm: that one stays
    ],
)
def test_layers_of_real_architectures(
    model_id: str, layer: str, num_folded: int, zoo: Callable[[str], LoadedModel]
) -> None:
    net = zoo(model_id).net
    assert norms(net) - norms(check_beginning(net, layer, pictures(2, side=64)).net) == num_folded


def test_nothing_after_the_layer_runs(small_net: SmallNet) -> None:
    net = small_net("plain").requires_grad_(requires_grad=False)
    net.fc = nn.Linear(5, 5)  # would fail
    assert folding.Beginning(net, "relu2", 1)(pictures()).shape == (3, 6, 8, 8)


def test_a_beginning_is_made_once_and_again_for_new_weights(small_net: SmallNet) -> None:
    net, x = small_net("residual").requires_grad_(requires_grad=False), pictures()
    first = folding.up_to(net, "bn2", x)
    assert folding.up_to(net, "bn2", x) is first
    with torch.no_grad():
        net.stem.weight.mul_(2)
    check_beginning(net, "bn2", x)
    assert folding.up_to(net, "bn2", x) is not first


def test_an_unknown_layer_has_no_beginning(small_net: SmallNet) -> None:
    with pytest.raises(UnknownLayer, match="conv2"):
        folding.up_to(small_net("plain"), "conv3", pictures())


def test_few_beginnings_are_kept_and_go_with_the_network(small_net: SmallNet) -> None:
    net, x = small_net("plain").requires_grad_(requires_grad=False), pictures()
    for layer in ("conv1", "relu1", "pool", "conv2", "relu2"):
        folding.up_to(net, layer, x)
    assert len(folding._beginnings[net]) == folding._MAX_BEGINNINGS
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_what_entered_is_copied_only_where_the_network_writes_into_it() -> None:
    class Body(nn.Module):
        def __init__(self, *, writes: bool) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=writes), nn.Linear(4, 2)
            self.writes = writes

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x.relu_() if self.writes else self.relu(x)
            return self.fc(x.mean((2, 3)))

    for writes in (False, True):
        fast = folding.fast_copy(frozen(Body(writes=writes)), pictures())
        assert (fast.entrance, fast.writes) == ("conv", writes)
        entered = fast.enter(pictures())
        before = entered.clone()
        fast.go_on(entered)
        assert torch.equal(entered, before)


@pytest.mark.parametrize("has_norm", [True, False])
def test_a_relu_that_overwrites_what_is_read_again_is_left(*, has_norm: bool) -> None:
    """Without the norm that the author's network had between the two, the sum would be another."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if has_norm else nn.Identity()
            self.relu, self.conv, self.fc = nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
            setattr(self.relu, convolution.WAS_IN_PLACE, True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.start(x).tanh()
            return self.fc((x + self.conv(self.relu(self.norm(x)))).mean((2, 3)))

    net, x = frozen(Body()), 9 * pictures()
    fast = folding.fast_copy(net, x)
    assert isinstance(fast.net.get_submodule("relu"), Follower) == has_norm
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, right = fast.go_on(fast.enter(one)), net(other)
    torch.testing.assert_close(mine, right)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y, x in ((mine, one), (right, other))))


@pytest.mark.parametrize(
    ("activation", "pool", "is_read_twice", "is_swapped"),
    [
        (nn.ReLU(), nn.MaxPool2d(3, 2, 1), False, True),
        (nn.ReLU6(), nn.MaxPool2d(2), False, True),
        (nn.ReLU(), nn.MaxPool2d(2), True, False),
        (nn.ReLU(), nn.AvgPool2d(2), False, False),
        (nn.SiLU(), nn.MaxPool2d(2), False, False),  # not the larger for the larger input
    ],
)
def test_the_first_activation_comes_after_a_pool(
    activation: nn.Module, pool: nn.Module, *, is_read_twice: bool, is_swapped: bool
) -> None:
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.then, self.pool, self.fc = nn.Conv2d(3, 4, 3), activation, pool, nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.then(self.conv(x))
            found: Tensor = self.pool(x).mean((2, 3))
            return self.fc(found + x.mean((2, 3)) if is_read_twice else found)

    net, x = frozen(Body()), 9 * pictures()
    fast = folding.fast_copy(net, x)
    assert isinstance(fast.net.get_submodule("conv"), Convolution)
    assert isinstance(fast.halves.get_submodule("pool"), nn.Sequential) == is_swapped
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, right = fast.go_on(fast.enter(one)), net(other)
    torch.testing.assert_close(mine, right)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y, x in ((mine, one), (right, other))))


class _WritesLater(nn.Module):
    """Writes into what its first activation put out, which that activation does not need for going back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x *= 0.5
        return self.fc(x.mean((2, 3)))


class _LooksAtItsParts(nn.Module):
    """Runs only while its convolution is one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.conv, nn.Conv2d)
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


class _Pair(nn.Conv2d):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = super().forward(x)
        return found, -found


class _PutsOutTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = _Pair(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        positive, negative = self.conv(x)
        return self.fc((self.relu(positive) + negative).mean((2, 3)))


@pytest.mark.parametrize("kind", [_WritesLater, _LooksAtItsParts, _PutsOutTwo])
def test_networks_that_need_their_own_parts_keep_them(kind: type[nn.Module]) -> None:
    assert forwards(frozen(kind()), pictures()) == 0


def test_half_precision_where_the_processor_does_not_know_it(
    zoo: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations that no convolution applies stay where they are."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    net, x = zoo("timm/efficientnet_b0").net, pictures(1, side=64)
    exact, half = (folding.up_to(net, "blocks.2.0", x, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    found = [net(x.to(dtype)).float().flatten() for net, dtype in ((exact, torch.float32), (half, torch.bfloat16))]
    assert F.cosine_similarity(*found, dim=0) > 0.99
