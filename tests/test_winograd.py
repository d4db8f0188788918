"""A 3x3 convolution with fewer multiplications gives what PyTorch's own gives, forward and back, nearly."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


def test_many_squares_are_taken_in_parts_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = noise(8, 8, 3, 3), noise(11, 8, 30, 30)
    parts: list[int] = []
    write = Winograd._write

    def noting(mine: Winograd, some: Tensor, *others: Any) -> None:
        parts.append(len(some))
        write(mine, some, *others)

    monkeypatch.setattr(Winograd, "_write", noting)
    in_parts = Winograd(weight)(x, [1, 1], EVERYTHING)
    assert parts == [6, 5]  # of 64 squares each
    monkeypatch.setattr(winograd, "_NUM_SQUARES", 10_000)
    in_one = Winograd(weight)(x, [1, 1], EVERYTHING)
    assert parts[2:] == [11]
    check_near(in_parts, in_double(x, weight, None, [1, 1]))
    torch.testing.assert_close(in_parts, in_one, rtol=0, atol=1e-5)


def test_of_many_sizes_the_last_ones_are_kept_and_all_are_right() -> None:
    mine, weight = Winograd(noise(20, 20, 3, 3)), noise(20, 20, 3, 3)
    for side in (5, 9, 13, 17, 21, 5, 21):
        x = noise(2, 20, side, side, seed=side)
        check_near(mine(x, [1, 1], EVERYTHING), in_double(x, weight, None, [1, 1]))
    assert mine.kept_bytes == 2 * 36 * 20 * 20 * 4


def test_rounding_is_that_of_the_better_points(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = noise(32, 256, 6, 6).relu(), noise(64, 256, 3, 3, seed=1) / 48
    expected = in_double(x, weight, None, [0, 0])

    def error() -> float:
        return float((Winograd(weight)(x, [0, 0], EVERYTHING) - expected).square().mean().sqrt())

    mine = error()
    monkeypatch.setattr(winograd, "_POINTS", (0, 1, -1, 2, -2))
    for name, matrix in zip(
        ("_INPUTS_TO_POINTS", "_KERNEL_TO_POINTS", "_POINTS_TO_OUTPUTS"), winograd._matrices(), strict=True
    ):
        monkeypatch.setattr(winograd, name, matrix)
    assert mine < 0.7 * error()


def test_where_it_pays() -> None:
    many, few = Winograd(noise(256, 256, 3, 3)), Winograd(noise(64, 256, 3, 3))
    assert many.pays(noise(10, 256, 14, 14), [1, 1])
    assert not many.pays(noise(4, 256, 6, 6), [1, 1])  # too few squares for the products to be quick
    assert not many.pays(noise(3, 256, 56, 56), [1, 1])  # of a size that may not come again
    assert not few.pays(noise(10, 256, 56, 56), [1, 1])


def test_kernels_at_the_points_count_once_they_are_there() -> None:
    mine = Winograd(noise(5, 7, 3, 3))
    assert mine.kept_bytes == 0
    mine(noise(1, 7, 6, 6), [1, 1], EVERYTHING)
    assert mine.kept_bytes == 36 * 5 * 7 * 4


def test_what_was_begun_in_inference_mode_goes_on_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_local", threading.local())
    mine, x = Winograd(noise(8, 8, 3, 3)), noise(2, 8, 9, 9)
    with torch.inference_mode():
        inside = mine(x, [1, 1], EVERYTHING)
    assert torch.equal(mine(x, [1, 1], EVERYTHING), inside)


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
