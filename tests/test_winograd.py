"""A 3x3 convolution with fewer multiplications gives what PyTorch's own gives, forward and back, nearly."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import winograd
from cnnviz_core.winograd import Winograd

EVERYTHING = (-math.inf, math.inf)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_double(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    padded = F.pad(x.double(), (padding[1], padding[1], padding[0], padding[0]))  # fewer than none, too
    return F.conv2d(padded, weight.double(), None if bias is None else bias.double())


def check_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 0), (-1, 1)])
@pytest.mark.parametrize("size", [(6, 6), (8, 12), (7, 7), (9, 23), (14, 5)])
@pytest.mark.parametrize("channels", [(1, 1), (3, 20), (130, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_forward(
    padding: tuple[int, int], size: tuple[int, int], channels: tuple[int, int], memory_format: torch.memory_format
) -> None:
    ins, outs = channels
    x, weight, bias = noise(3, ins, *size).to(memory_format=memory_format), noise(outs, ins, 3, 3), noise(outs)
    mine = Winograd(weight, bias)(x, list(padding), EVERYTHING)
    check_near(mine, in_double(x, weight, bias, padding))
    found = Winograd(weight, bias)(x, list(padding), (0.0, 6.0))
    torch.testing.assert_close(found, mine.clamp(0, 6), rtol=0, atol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1), (3, 3)])
def test_back(padding: tuple[int, int]) -> None:
    x, weight = noise(2, 6, 9, 10).double().requires_grad_(), noise(4, 6, 3, 3)
    y = F.conv2d(x, weight.double(), padding=padding)
    gradient = noise(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, x, gradient.double())
    found = Winograd(weight, is_back=True)(gradient, [2 - pad for pad in padding], EVERYTHING)
    check_near(found, expected)


def test_many_squares_are_taken_in_parts_and_give_the_same() -> None:
    weight, x = noise(8, 8, 3, 3), noise(11, 8, 30, 30)
    whole = Winograd(weight)(x, [1, 1], EVERYTHING)
    check_near(whole, in_double(x, weight, None, [1, 1]))
    assert torch.equal(whole, Winograd(weight)(x, [1, 1], EVERYTHING))


def test_rounding_is_that_of_the_better_points() -> None:
    """Seven times that of a plain convolution; the usual points would give fifteen times."""
    x, weight = noise(32, 256, 6, 6).relu(), noise(64, 256, 3, 3, seed=1) / 48
    expected = in_double(x, weight, None, [0, 0])
    plain, mine = (
        (found - expected).square().mean().sqrt()
        for found in (F.conv2d(x, weight), Winograd(weight)(x, [0, 0], EVERYTHING))
    )
    assert mine < 10 * plain


def test_where_it_pays() -> None:
    many, few = Winograd(noise(256, 256, 3, 3)), Winograd(noise(64, 256, 3, 3))
    assert many.pays(noise(10, 256, 14, 14), [1, 1])
    assert not many.pays(noise(1, 256, 14, 14), [1, 1])  # too few squares for the products to be quick
    assert not few.pays(noise(10, 256, 56, 56), [1, 1])


def test_kernels_at_the_points_count_once_they_are_there() -> None:
    mine = Winograd(noise(5, 7, 3, 3))
    assert mine.kept_bytes == 0
    mine(noise(1, 7, 6, 6), [1, 1], EVERYTHING)
    assert mine.kept_bytes == 36 * 5 * 7 * 4


def test_threads_do_not_share_their_memory() -> None:
    mine, pictures = Winograd(noise(32, 32, 3, 3)), [noise(4, 32, 20, 20, seed=seed) for seed in range(4)]
    expected = [mine(x, [1, 1], EVERYTHING) for x in pictures]

    def is_right(i: int) -> bool:
        return all(torch.equal(mine(pictures[i], [1, 1], EVERYTHING), expected[i]) for _ in range(30))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, range(4)))


def test_memory_for_a_large_picture_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_local", threading.local())
    monkeypatch.setattr(winograd, "_MAX_KEPT", 10_000)
    weight = noise(8, 8, 3, 3)
    for side, is_kept in ((40, False), (8, True)):
        x = noise(1, 8, side, side)
        check_near(Winograd(weight)(x, [1, 1], EVERYTHING), in_double(x, weight, None, [1, 1]))
        assert hasattr(winograd._local, "scratch") == is_kept
