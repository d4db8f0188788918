"""Maps: what counts as one, and bilinear resizing against torch and with holes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnnviz_core import maps
from cnnviz_core.errors import BadSetting
from cnnviz_core.results import Heatmap, Run

VALUES = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def test_a_result_and_its_array_are_the_same_map() -> None:
    run = Run("module/x", "default", "", "cam.explain", {}, 0.0)
    np.testing.assert_array_equal(maps.read(Heatmap(VALUES, "conv", 0, "cat", "cam", run)), VALUES)
    assert maps.read(VALUES.astype(np.float64)).dtype == np.float32


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 4, 5)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.full((2, 2), np.nan), "no number"),
        (np.array([[0, np.inf]]), "infinite"),
    ],
)
def test_what_is_no_map_is_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        maps.read(array)


@pytest.mark.parametrize("shape", [(5, 7), (20, 7), (16, 16), (3, 30)])
def test_resizing_equals_torch(shape: tuple[int, int]) -> None:
    expected = F.interpolate(torch.from_numpy(VALUES)[None, None], shape, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(maps.resize(VALUES, shape), expected[0, 0].numpy(), atol=1e-6)


def test_holes_do_not_spread() -> None:
    """Four times as fine, cells' centres lie at 1.5, 5.5, 9.5: what is nearer to the hole's is not known."""
    row = maps.resize(np.array([[1, np.nan, 3]], dtype=np.float32), (1, 12))[0]
    np.testing.assert_array_equal(row[:4], 1)
    np.testing.assert_array_equal(np.isnan(row), [False] * 4 + [True] * 4 + [False] * 4)
    np.testing.assert_array_equal(row[8:], 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0], True), ([3, 3 + 1e-6], True), ([np.nan, 2], True), ([1e-20, 2e-20], False), ([0, np.nan, 1], False)],
)
def test_flat(values: list[float], expected: bool) -> None:
    assert maps.is_flat(np.array([values])) is expected
