"""Masks: sizes, greys, areas and overlaps, by hand and against pixel loops."""

from __future__ import annotations

import numpy as np
import pytest

from cnnviz_core import images, masks
from cnnviz_core.errors import BadSetting
from cnnviz_core.results import Mask


def half(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 2] = True
    return mask


class TestCheck:
    @pytest.mark.parametrize(
        "mask",
        [
            half(4, 6),
            Mask(half(4, 6), "drawn"),
            half(4, 6).astype(np.uint8),
            half(4, 6).astype(np.uint8) * 255,
            half(4, 6).astype(np.float32),
            half(4, 6).astype(np.uint16) * 65535,
            images.from_pixels(half(4, 6).astype(np.uint8) * 255, name="drawn"),
        ],
        ids=["bool", "Mask", "0 and 1", "0 and 255", "float", "16 bits", "picture"],
    )
    def test_all_kinds(self, mask: masks.MaskLike) -> None:
        found, notices = masks.check(mask, (4, 6))
        np.testing.assert_array_equal(found, half(4, 6))
        assert found.dtype == np.bool_
        assert notices == ()

    def test_grey_is_cut_at_half_with_a_notice(self) -> None:
        found, notices = masks.check(np.array([[0, 127, 128, 255]], dtype=np.uint8), (1, 4), name="mask 2")
        assert found.tolist() == [[False, False, True, True]]
        assert notices == (
            "50.0 % of the pixels of mask 2 are grey; those lighter than half of white count as object.",
        )
        assert masks.check(np.array([[0.4, 0.6]]), (1, 2))[0].tolist() == [[False, True]]
        colours = images.from_pixels(np.array([[[255, 255, 0], [255, 0, 0]]], dtype=np.uint8), name="colours")
        assert masks.check(colours, (1, 2))[0].tolist() == [[True, False]]

    def test_another_size_is_resized_with_a_notice(self) -> None:
        found, notices = masks.check(half(50, 100), (101, 200))
        np.testing.assert_array_equal(found, half(101, 200))
        assert notices == ("The mask was brought from 100 x 50 to the picture's 200 x 101 pixels.",)

    @pytest.mark.parametrize(
        ("mask", "words"),
        [
            (half(50, 103), "103 x 50 pixels, its picture 200 x 100"),
            (half(200, 100), "proportions"),
            (np.zeros((100, 200), dtype=bool), "is empty"),
            (np.full((100, 200), 100, dtype=np.uint8), "is empty"),
            (np.ones((100, 200), dtype=bool), "whole picture"),
            (np.zeros((100, 200, 3)), "one value per pixel"),
            (np.zeros((0, 5)), "one value per pixel"),
            (np.full((100, 200), np.nan), "no brightness"),
            (np.full((100, 200), -1), "no brightness"),
            (np.full((100, 200), "x"), "no brightness"),
        ],
    )
    def test_refusals(self, mask: np.ndarray, words: str) -> None:
        with pytest.raises(BadSetting, match=f"^Mask 1 .*{words}"):
            masks.check(mask, (100, 200), name="mask 1")


class TestGrid:
    @pytest.mark.parametrize(("shape", "cells"), [((12, 20), (3, 4)), ((7, 11), (3, 4)), ((3, 2), (5, 7))])
    def test_exact_area(self, shape: tuple[int, int], cells: tuple[int, int]) -> None:
        """Against both cut into pieces that fit both."""
        mask = np.random.default_rng(0).random(shape) > 0.5
        pieces = mask.repeat(cells[0], axis=0).repeat(cells[1], axis=1)
        expected = pieces.reshape(cells[0], shape[0], cells[1], shape[1]).mean(axis=(1, 3))
        np.testing.assert_allclose(masks.to_grid(mask, cells), expected, atol=1e-6)

    def test_foreground(self) -> None:
        assert masks.foreground(np.array([[0.5, 0.51, 0.9]], dtype=np.float32)).tolist() == [[False, True, True]]
        assert masks.foreground(np.array([[0.1, 0.3, 0.2]], dtype=np.float32)).tolist() == [[False, True, False]]
        with pytest.raises(BadSetting, match="no background"):
            masks.foreground(np.array([[0.7]], dtype=np.float32))


class TestIou:
    def test_by_hand(self) -> None:
        a, b = np.array([True, True, False]), np.array([True, False, False])
        assert masks.iou(a, b) == 0.5
        assert masks.iou(~a & a, b & ~b) == 1

    def test_curve_against_single_thresholds(self) -> None:
        generator = np.random.default_rng(0)
        scores, truth = generator.normal(size=(20, 30)).astype(np.float32), generator.random((20, 30)) > 0.7
        scores[truth] += 1
        curve = masks.iou_curve(scores, truth)
        assert len(curve.ious) == 256
        expected = [masks.iou(scores >= threshold, truth) for threshold in curve.thresholds]
        np.testing.assert_allclose(curve.ious, expected, atol=1e-6)
        assert curve.best_iou == pytest.approx(max(expected))
        assert masks.iou(scores >= np.float32(curve.best_threshold), truth) == pytest.approx(curve.best_iou)
        assert curve.ious[0] == pytest.approx(truth.mean())

    def test_a_perfect_and_an_empty_truth(self) -> None:
        truth = half(4, 6)
        assert masks.iou_curve(truth.astype(np.float32), truth).best_iou == 1
        none = masks.iou_curve(truth.astype(np.float32), truth & ~truth, thresholds=np.array([0.5, 2], np.float32))
        assert none.ious.tolist() == [0, 1]

    def test_two_sizes(self) -> None:
        with pytest.raises(BadSetting, match="the same"):
            masks.iou_curve(np.zeros((2, 3), dtype=np.float32), half(4, 6))
