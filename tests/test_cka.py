"""CKA against the defining sums and against chance; correlations against numpy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cnnviz_core import cka
from cnnviz_core.errors import BadSetting


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def hsic_by_definition(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012: means over all pairs, triples and quadruples of different pictures."""
    n = len(k)
    pairs = np.mean([k[i, j] * m[i, j] for i, j in itertools.permutations(range(n), 2)])
    triples = np.mean([k[i, j] * m[i, q] for i, j, q in itertools.permutations(range(n), 3)])
    quads = np.mean([k[i, j] * m[q, r] for i, j, q, r in itertools.permutations(range(n), 4)])
    return float(pairs + quads - 2 * triples)


def test_it_is_the_ratio_of_unbiased_estimates() -> None:
    x, y = noise(7, 3), noise(7, 5, seed=1) + 4
    k, m = (v.astype(np.float64) @ v.T.astype(np.float64) for v in (x, y))
    expected = hsic_by_definition(k, m) / np.sqrt(hsic_by_definition(k, k) * hsic_by_definition(m, m))
    assert cka.unbiased(x, y) == pytest.approx(expected, rel=1e-5)


def test_turned_scaled_and_shifted_features_are_the_same() -> None:
    x = noise(40, 6)
    turn, _ = np.linalg.qr(noise(6, 6, seed=2))
    assert cka.unbiased(x, x) == pytest.approx(1)
    assert cka.unbiased(x, 3 * x @ turn.astype(np.float32) + 100) == pytest.approx(1, abs=1e-5)
    assert cka.unbiased(x, x[::-1].copy()) < 0.5


def test_unrelated_features_give_about_zero_however_few_the_pictures() -> None:
    """The usual, biased estimate gives 0.9 here."""
    found = [cka.unbiased(noise(20, 500, seed=at), noise(20, 500, seed=at + 100)) for at in range(20)]
    assert abs(np.mean(found)) < 0.05
    centre = np.eye(20) - 1 / 20
    k, m = (centre @ (v @ v.T) @ centre for v in (noise(20, 500), noise(20, 500, seed=100)))
    assert (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()) > 0.9


def test_constant_features_have_no_answer_and_few_pictures_are_refused() -> None:
    assert np.isnan(cka.unbiased(np.full((9, 4), 0.3, np.float32), noise(9, 4)))
    with pytest.raises(BadSetting, match="4 pictures, and there are 3"):
        cka.unbiased(noise(3, 4), noise(3, 4))


def test_channels_are_correlated_with_themselves_over_pictures_and_places() -> None:
    x = noise(10, 4, 6)
    y = x.copy()
    y[:, 1] = -2 * x[:, 1] + 5
    y[:, 2] = noise(10, 6, seed=3)
    y[:, 3] = 0.1
    found = cka.channel_correlations(x, y)
    assert found[:2] == pytest.approx([1, -1])
    assert found[2] == pytest.approx(np.corrcoef(x[:, 2].ravel(), y[:, 2].ravel())[0, 1], abs=1e-5)
    assert np.isnan(found[3])


@pytest.mark.parametrize(
    ("shape", "places"),
    [((2, 8, 7, 5), 16), ((2, 300, 8, 8), 4), ((1, 1280, 7, 7), 1), ((1, 4, 1, 1), 1), ((1, 8, 2, 9), 8)],
)
def test_maps_are_averaged_over_a_coarse_grid(shape: tuple[int, ...], places: int) -> None:
    maps = torch.from_numpy(noise(*shape))
    found = cka.pooled(maps)
    assert found.shape == (*shape[:2], places)
    if places == 1:
        np.testing.assert_allclose(found[..., 0], maps.mean((2, 3)), rtol=1e-4, atol=1e-6)
