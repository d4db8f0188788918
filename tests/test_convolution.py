"""A convolution with rearranged weights gives what PyTorch's own gives, forward and back, in every geometry."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from cnnviz_core import convolution, probe, torchvision_shim
from cnnviz_core.convolution import Convolution, Follower

torchvision_shim.install()
from timm.layers import Conv2dSame

pytestmark = pytest.mark.skipif(not convolution.IS_THERE, reason="this build of PyTorch lacks the private operators")

CHANNELS = ((3, 8, 1), (1, 4, 1), (8, 8, 8), (8, 8, 2), (6, 12, 6), (20, 8, 1))  # in, out, groups
KERNELS = ((1, 1), (3, 3), (7, 7), (5, 3), (2, 2))
STRIDES = ((1, 1), (2, 2), (4, 4), (2, 1), (1, 2))
SIZES = ((17, 18), (16, 16), (9, 23), (16, 3))
THEN: tuple[nn.Module | None, ...] = (None, nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish())


def both_ways(net: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient on x of its product with fixed noise."""
    leaf = x.clone().requires_grad_()
    y = net(leaf)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.detach(), torch.autograd.grad(y, leaf, noise)[0]


def check(conv: nn.Conv2d, then: nn.Module | None, size: tuple[int, int]) -> None:
    conv = conv.requires_grad_(requires_grad=False)
    x = 3 * torch.randn(2, conv.in_channels, *size, generator=torch.Generator().manual_seed(0))
    mine = Convolution(conv, then)
    expected = both_ways(nn.Sequential(conv, *([then] if then else [])), x)
    first = both_ways(mine, x)
    for found, right, again in zip(first, expected, both_ways(mine, x), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=2e-5 * float(right.abs().max()))
        assert torch.equal(found, again)
    with torch.inference_mode():
        torch.testing.assert_close(mine(x), expected[0], rtol=0, atol=2e-5 * float(expected[0].abs().max()))


def geometries() -> Iterator[tuple[nn.Conv2d, tuple[int, int]]]:
    torch_rng = torch.random.fork_rng()
    with torch_rng:
        torch.manual_seed(0)
        for (ins, outs, groups), kernel, stride, pad, step, size in itertools.product(
            CHANNELS, KERNELS, STRIDES, (0, 1, 3), (1, 2), SIZES
        ):
            conv = nn.Conv2d(ins, outs, kernel, stride, pad, dilation=step, groups=groups, bias=pad != 1)
            is_large_enough = all(step * (k - 1) < side + 2 * pad for k, side in zip(kernel, size, strict=True))
            if is_large_enough and convolution.fits(conv):
                yield conv, size


def test_geometries_both_ways() -> None:
    cases = list(geometries())[::7]
    assert len(cases) > 300
    for number, (conv, size) in enumerate(cases):
        check(conv, THEN[number % len(THEN)], size)


@pytest.mark.parametrize("then", THEN, ids=lambda then: type(then).__name__)
@pytest.mark.parametrize("groups", [1, 6])
def test_padding_that_depends_on_the_size(groups: int, then: nn.Module | None) -> None:
    for kernel, stride, size in itertools.product((3, 5), (1, 2), ((16, 16), (17, 17), (16, 17), (15, 8))):
        check(Conv2dSame(6, 6, kernel, stride, groups=groups), then, size)


def test_other_sizes_than_the_first() -> None:
    conv = nn.Conv2d(3, 4, 7, 2, 3).requires_grad_(requires_grad=False)
    mine = Convolution(conv)
    for side in (16, 16, 33, 8, 8, 16, 33, 33, 8):
        x = torch.randn(1, 3, side, side + 1)
        for found, right in zip(both_ways(mine, x), both_ways(conv, x), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not know bfloat16")
@pytest.mark.parametrize(
    ("groups", "kernel", "stride", "padding", "dilation"),
    [
        (1, 3, 1, 1, 1),
        (1, 3, 2, 1, 1),
        (8, 3, 1, 1, 1),
        (8, 3, 2, 1, 1),
        (8, 5, (2, 1), 2, 1),
        (8, 3, 1, 3, 2),
        (8, 1, 2, 3, 1),
    ],
)
def test_in_bfloat16(groups: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    conv = nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups).requires_grad_(requires_grad=False).bfloat16()
    x = torch.randn(2, 8, 9, 10)
    y, gradient = both_ways(lambda x: Convolution(conv)(x.bfloat16()), x)
    expected = both_ways(copy.deepcopy(conv).float(), x)
    for found, right in zip((y.float(), gradient), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=0.02 * float(right.abs().max()))


def test_rules_for_relus_reach_the_activation() -> None:
    conv = nn.Conv2d(3, 4, 3).requires_grad_(requires_grad=False)
    x = torch.randn(1, 3, 8, 8)
    with probe.relu_rule("guided"):
        mine, right = both_ways(Convolution(conv, nn.ReLU()), x), both_ways(nn.Sequential(conv, nn.ReLU()), x)
    torch.testing.assert_close(mine[1], right[1])
    assert not torch.allclose(mine[1], both_ways(nn.Sequential(conv, nn.ReLU()), x)[1])


def test_a_shared_activation_passes_only_what_has_been_applied() -> None:
    relu = Follower(nn.ReLU())
    applied = Convolution(nn.Conv2d(1, 1, 1).requires_grad_(requires_grad=False), nn.ReLU())(torch.randn(1, 1, 4, 4))
    assert relu(applied) is applied
    other = torch.tensor([-1.0])
    assert relu(other) == 0
    assert Follower(nn.ReLU6())(9 * applied).max() <= 6
    assert Follower(nn.ReLU6())(applied) is not applied  # to which another one has been applied
    applied.sub_(5)  # no longer what the activation put out
    assert (relu(applied) == applied.clamp(min=0)).all()


@pytest.mark.parametrize("was_in_place", [True, False])
def test_an_activation_overwrites_what_its_author_let_it_overwrite(*, was_in_place: bool) -> None:
    activation = nn.ReLU()
    setattr(activation, convolution.WAS_IN_PLACE, was_in_place)
    relu, x = Follower(activation), torch.tensor([-1.0, 2.0])
    assert relu(x).tolist() == [0, 2]
    assert x.tolist() == [0 if was_in_place else -1, 2]
    leaf = torch.tensor([-1.0, 2.0], requires_grad=True)
    with probe.relu_rule("guided"):
        assert relu(x - 1).tolist() == [0, 1]
    (found,) = torch.autograd.grad(relu(leaf).sum(), leaf)
    assert found.tolist() == [0, 1]
    assert leaf.tolist() == [-1, 2]
    (found,) = torch.autograd.grad(relu(2 * leaf).sum(), leaf)
    assert found.tolist() == [0, 2]


def test_fewer_multiplications_only_where_a_gradient_is_wanted() -> None:
    conv = nn.Conv2d(128, 160, 3, padding=1).requires_grad_(requires_grad=False)
    for then in (None, nn.ReLU(), nn.ReLU6()):
        check(conv, then, (30, 27))
    mine, x = Convolution(conv, nn.ReLU()), torch.randn(4, 128, 30, 27)
    plain, with_gradient = mine(x), mine(x.clone().requires_grad_())
    kept = mine.kernels[0].kept_bytes
    assert kept > 36 * 128 * 160 * 4  # the kernels at the points
    assert not torch.equal(plain, with_gradient)
    torch.testing.assert_close(plain, with_gradient.detach(), rtol=0, atol=2e-5 * float(plain.max()))
    torch.testing.assert_close(plain, torch.relu(conv(x)), rtol=0, atol=3e-6 * float(plain.max()))


def test_copies_share_what_was_rearranged() -> None:
    mine = Convolution(nn.Conv2d(20, 4, 3, bias=False).requires_grad_(requires_grad=False), nn.ReLU())
    (kernel,) = mine.kernels
    assert kernel.kept_bytes == 0
    both_ways(mine, torch.randn(1, 20, 8, 8))
    assert kernel.kept_bytes >= 2 * mine.weight.numel() * 4
    assert copy.deepcopy(mine).kernels == (kernel,) == mine.without_activation().kernels
    both_signs = torch.ones(2, 20, 8, 8) * torch.tensor([-1.0, 1.0])[:, None, None, None]
    assert mine.without_activation()(both_signs).min() < 0 == mine(both_signs).min()


def test_few_orders_are_kept_and_go_with_their_module() -> None:
    mine = Convolution(nn.Conv2d(3, 4, 3).requires_grad_(requires_grad=False))
    sizes = []
    for side in (8, 9, 10, 11, 12, 13, 8):
        mine(torch.randn(1, 3, side, side))
        sizes.append(mine.kernels[0].kept_bytes)
    assert sizes[0] < sizes[1] < sizes[3] == sizes[-1]
    kernel = weakref.ref(mine.kernels[0])
    gc.disable()
    del mine
    gc.enable()
    assert kernel() is None


def test_too_small_an_input_is_said_in_the_usual_words() -> None:
    mine = Convolution(nn.Conv2d(3, 4, 5).requires_grad_(requires_grad=False))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        mine(torch.randn(1, 3, 4, 9))


class _Odd(nn.Conv2d):
    """Does what no Conv2d does."""


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3).double(),
        nn.Conv2d(1, 4, 3, (1, 2)),
        _Odd(3, 4, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        nn.Linear(3, 4),
    ],
)
def test_what_does_not_fit(conv: nn.Module) -> None:
    assert not convolution.fits(conv)
    assert convolution.fits(nn.Conv2d(3, 4, 3))
