"""Pictures as numbers: draws, spectra, colours, and the way back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cnnviz_core.parametrization import Parametrization

KINDS = [
    Parametrization((32, 32)),
    Parametrization((32, 32), decorrelated=False),
    Parametrization((32, 32), fourier=False),
    Parametrization((24, 33)),
    Parametrization((24, 33), num_channels=1),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_its_own_seed_alone(kind: Parametrization) -> None:
    together, alone = kind.draw([3, 1, 3]), kind.draw([1])
    assert together.shape == (3, *kind.shape)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_faint_and_pictures_lie_within_the_range(kind: Parametrization) -> None:
    pixels = kind.pixels(kind.draw([0, 1]))
    assert pixels.shape == (2, kind.num_channels, *kind.size_px)
    assert float((pixels - 0.5).abs().mean()) < 0.05
    extreme = kind.pixels(1000 * kind.draw([0]))
    assert 0 <= float(extreme.min()) < 0.1 < 0.9 < float(extreme.max()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_back(kind: Parametrization) -> None:
    pixels = 0.1 + 0.8 * torch.rand((2, kind.num_channels, *kind.size_px), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kind.pixels(kind.numbers(pixels)), pixels, rtol=0, atol=1e-4)


def test_black_and_white_come_back_nearly() -> None:
    kind = Parametrization((8, 8), fourier=False, decorrelated=False)
    pixels = torch.tensor([0.0, 1.0]).repeat(3, 8, 4)[None]
    found = kind.pixels(kind.numbers(pixels))
    torch.testing.assert_close(found, pixels, rtol=0, atol=2e-3)
    assert torch.isfinite(kind.numbers(pixels)).all()


def test_a_white_spectrum_gives_the_amplitudes_of_photos() -> None:
    """White numbers come out with amplitude 1 / frequency: a slope of -1 in double logarithms, by numpy's transform."""
    side = 128
    kind = Parametrization((side, side), num_channels=1)
    numbers = (
        torch.randn((1, *kind.shape), generator=torch.Generator().manual_seed(0)) * 1e-3
    )  # sigmoid is straight here
    raw = (kind.pixels(numbers)[0, 0].double().numpy() - 0.5) * 4
    amplitude = np.abs(np.fft.fft2(raw))
    rows, columns = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    frequency = np.hypot(rows, columns)
    edges = np.geomspace(2 / side, 0.45, 9)
    rings = [(frequency >= low) & (frequency < high) for low, high in itertools.pairwise(edges)]
    means = [np.log(amplitude[ring].mean()) for ring in rings]
    middles = [np.log(frequency[ring].mean()) for ring in rings]
    slope = np.polyfit(middles, means, 1)[0]
    assert slope == pytest.approx(-1, abs=0.06)


def test_a_single_number_of_the_spectrum_is_a_wave_by_hand() -> None:
    """Row frequency 2 of 16 becomes cos(2 pi 2 y / 16), times 2 / 16 of the orthonormal transform, times 8, / 4."""
    kind = Parametrization((16, 16), num_channels=1)
    numbers = torch.zeros((1, *kind.shape))
    numbers[0, 0, 0, 2, 0] = 0.1
    raw = torch.logit(kind.pixels(numbers))[0, 0]
    expected = 0.1 * 8 * (2 / 16) * torch.cos(2 * torch.pi * 2 * torch.arange(16) / 16) / 4
    torch.testing.assert_close(raw, expected.expand(16, 16), rtol=0, atol=1e-6)


def test_the_first_colour_axis_is_brightness() -> None:
    """By hand: the largest column of the matrix is the first, of length sqrt(.26^2 + .27^2 + .27^2)."""
    kind = Parametrization((4, 4), fourier=False)
    numbers = torch.zeros((1, 3, 4, 4))
    numbers[:, 0] = 1.0
    length = (0.26**2 + 2 * 0.27**2) ** 0.5
    expected = torch.sigmoid(torch.tensor([0.26, 0.27, 0.27]) / length)
    torch.testing.assert_close(kind.pixels(numbers)[0, :, 0, 0], expected)
