"""Few-shot segmentation: scores by hand, masks transferred to their own pictures, the stereo pair, real aeroplanes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnviz_core import features, images, mask_transfer, masks, stereo
from cnnviz_core.errors import BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import similarity
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import PictureMaps

EVALDATA = Path(__file__).parents[2] / "shared" / "evaldata"

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


def drawn(*cells: int, seed: int, num: int = 6) -> PictureMaps:
    values = np.random.default_rng(seed).normal(size=(num, *cells)).astype(np.float32)
    return PictureMaps({"a": values}, (10 * cells[0], 10 * cells[1]), (60, 60), 60, False, f"{seed}", ())


def block_mask(on_object: np.ndarray) -> np.ndarray:
    return on_object.repeat(10, axis=0).repeat(10, axis=1)


def by_hand(score: str, support: PictureMaps, on_object: np.ndarray, query: PictureMaps) -> np.ndarray:
    """(cells of the query,) score against the cells of one side."""
    (a, b) = (maps.values["a"].reshape(6, -1).T.astype(np.float64) for maps in (support, query))
    a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (a, b))
    side = a[on_object.ravel()]
    cosines = b @ side.T
    if score == "prototype":
        prototype = side.mean(axis=0)
        return b @ prototype / np.linalg.norm(prototype)
    return {
        "max": cosines.max(axis=1),
        "mean": cosines.mean(axis=1),
        "nearest": np.sort(cosines, axis=1)[:, -5:].mean(axis=1),
    }[score]


class TestScores:
    @pytest.mark.parametrize("score", list(mask_transfer.SCORES))
    @pytest.mark.parametrize("background", [True, False])
    @pytest.mark.parametrize("shots", ["mean", "max"])
    def test_by_hand(self, score: str, background: bool, shots: str, tiny_model: LoadedModel) -> None:
        supports = [drawn(4, 5, seed=1), drawn(6, 3, seed=2)]
        on_object = [np.random.default_rng(seed).random(cells) > 0.5 for seed, cells in ((3, (4, 5)), (4, (6, 3)))]
        query = drawn(3, 7, seed=5)
        pairs = [(maps, block_mask(cells)) for maps, cells in zip(supports, on_object, strict=True)]
        fitted = mask_transfer.fit(pairs, score=score, background=background, shots=shots, threshold=0.1, centre=False)
        found = mask_transfer.apply(tiny_model, fitted, query)
        combine = {"mean": np.mean, "max": np.max}[shots]
        expected = combine([by_hand(score, s, o, query) for s, o in zip(supports, on_object, strict=True)], axis=0)
        if background:
            beside = [by_hand(score, s, ~o, query) for s, o in zip(supports, on_object, strict=True)]
            expected = expected - combine(beside, axis=0)
        np.testing.assert_allclose(found.scores.ravel(), expected, atol=1e-5)
        assert found.scores.shape == (3, 7)
        assert found.score_map.shape == (30, 70)
        np.testing.assert_array_equal(found.mask.values, found.score_map >= 0.1)
        assert (found.threshold, found.layers) == (0.1, ("a",))
        assert np.isnan(found.support_iou)

    def test_a_prototype_counts_cells_by_their_area(self, tiny_model: LoadedModel) -> None:
        support, query = drawn(2, 2, seed=1), drawn(2, 3, seed=2)
        mask = np.zeros((20, 20), dtype=bool)
        mask[:10, :16] = True  # all of the first cell, six tenths of the second
        fitted = mask_transfer.fit([(support, mask)], score="prototype", background=False, threshold=0, centre=False)
        found = mask_transfer.apply(tiny_model, fitted, query)
        a, b = (maps.values["a"].reshape(6, -1).T for maps in (support, query))
        a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (a, b))
        prototype = a[0] + 0.6 * a[1]
        np.testing.assert_allclose(found.scores.ravel(), b @ prototype / np.linalg.norm(prototype), atol=1e-5)

    def test_an_object_smaller_than_a_cell_takes_that_cell(self, tiny_model: LoadedModel) -> None:
        support = drawn(4, 5, seed=1)
        mask = np.zeros((40, 50), dtype=bool)
        mask[22:26, 31:34] = True
        fitted = mask_transfer.fit([(support, mask)], score="max", background=False, threshold=0.99)
        found = mask_transfer.apply(tiny_model, fitted, support)
        assert np.argwhere(found.scores > 0.999).tolist() == [[2, 3]]

    def test_many_cells_at_a_time_or_few(self, tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs, query = [(drawn(4, 5, seed=1), block_mask(np.eye(4, 5) > 0))], drawn(9, 9, seed=2)
        whole = mask_transfer.apply(tiny_model, mask_transfer.fit(pairs), query)
        monkeypatch.setattr(mask_transfer, "_PAIRS", 50)
        parts = mask_transfer.apply(tiny_model, mask_transfer.fit(pairs), query)
        np.testing.assert_allclose(whole.scores, parts.scores, atol=1e-6)
        assert whole.threshold == pytest.approx(parts.threshold, abs=1e-6)


class TestThreshold:
    def test_the_best_for_the_supports_each_from_the_others(self, tiny_model: LoadedModel) -> None:
        """Found again by trying every threshold on three supports."""
        on_object = [np.random.default_rng(seed).random((4, 5)) > 0.6 for seed in (1, 2, 3)]
        pairs = [(drawn(4, 5, seed=seed), block_mask(cells)) for seed, cells in zip((4, 5, 6), on_object, strict=True)]
        fitted = mask_transfer.fit(pairs)
        score_maps = []
        for left_out in range(3):
            others = [pair for index, pair in enumerate(pairs) if index != left_out]
            found = mask_transfer.apply(tiny_model, mask_transfer.fit(others, threshold=0), pairs[left_out][0])
            score_maps.append(found.score_map)
        thresholds = np.linspace(min(m.min() for m in score_maps), max(m.max() for m in score_maps), 2000)
        ious = [
            np.mean([masks.iou(m >= t, mask) for m, (_, mask) in zip(score_maps, pairs, strict=True)])
            for t in thresholds
        ]
        # It is looked for at the size that the network saw, 60 x 60 in place of 40 x 50.
        assert fitted.support_iou == pytest.approx(max(ious), abs=0.03)
        at = np.argmin(np.abs(thresholds - fitted.threshold))
        assert ious[at] == pytest.approx(max(ious), abs=0.03)

    def test_a_single_support_is_not_found_from_itself(self) -> None:
        """Noise has nothing to tell object from rest, though each cell knows its own twin."""
        on_object = np.random.default_rng(0).random((12, 12)) > 0.5
        fitted = mask_transfer.fit([(drawn(12, 12, seed=1, num=60), block_mask(on_object))], score="max")
        assert fitted.support_iou < 0.6
        structured = np.where(on_object, 1.0, -1.0) * np.ones((6, 1, 1)) + 0.1 * drawn(12, 12, seed=2).values["a"]
        maps = replace(drawn(12, 12, seed=1), values={"a": structured.astype(np.float32)}, seen_px=(120, 120))
        assert mask_transfer.fit([(maps, block_mask(on_object))]).support_iou > 0.75

    def test_a_given_one_is_taken(self, tiny_model: LoadedModel, noise_image: Noise) -> None:
        image, mask = noise_image(16, 16), np.arange(256).reshape(16, 16) < 100
        found = similarity.few_shot(tiny_model, [(image, mask)], image, layer="relu2", threshold=0.25, size_px=16)
        assert found.threshold == 0.25
        with pytest.raises(BadSetting, match="threshold is nan"):
            similarity.few_shot(tiny_model, [(image, mask)], image, threshold=np.nan)


class TestOwnPicture:
    def test_the_finer_the_grid_the_better_the_overlap(self, lite0: LoadedModel) -> None:
        (image, mask), _ = stereo.motorcycle_pair()
        recorded = features.record(lite0, image, layers=features.stage_layers(lite0), size_px=256)
        ious = []
        for layer in reversed(features.stage_layers(lite0)):
            fitted = mask_transfer.fit([(recorded, mask)], layers=[layer], score="max", threshold=0)
            ious.append(masks.iou(mask_transfer.apply(lite0, fitted, recorded).mask.values, mask.values))
        assert np.all(np.diff(ious) > 0), ious
        assert ious[-1] > 0.94
        assert ious[0] > 0.55

    @pytest.mark.parametrize(
        "model_id", ["torchvision/resnet18", "torchvision/densenet121", "timm/convnext_atto", "timm/mobilenetv2_050"]
    )
    def test_any_network_finds_its_own_cells(self, model_id: str, zoo: Load, noise_image: Noise) -> None:
        """A mask of whole cells; each cell of the object is nearest to itself."""
        model, image = zoo(model_id), noise_image(128, 160)
        on_object = np.zeros((8, 10), dtype=bool)
        on_object[2:5, 3:8] = True
        mask = on_object.repeat(16, axis=0).repeat(16, axis=1)
        layer = features.stage_layers(model)[-2]
        found = similarity.few_shot(model, [(image, mask)], image, layer=layer, score="max", threshold=0, size_px=160)
        np.testing.assert_array_equal(found.scores > 0, on_object)
        assert masks.iou(found.mask.values, mask) > 0.8


class TestMotorcycle:
    def test_left_to_right(self, lite0: LoadedModel) -> None:
        """The bundled example, at once: honest and near what is possible."""
        support, (query, truth) = stereo.motorcycle_pair()
        found = similarity.few_shot(lite0, [support], query)
        honest = masks.iou(found.mask.values, truth.values)
        assert found.score_map.shape == truth.values.shape
        assert honest > 0.82
        assert found.support_iou == pytest.approx(honest, abs=0.1)
        assert masks.iou_curve(found.score_map, truth.values).best_iou >= honest
        assert found.layers == ("blocks.5.0.bn1", "bn2") == mask_transfer.default_layers(lite0)
        again = similarity.few_shot(lite0, [support], query, **found.run.settings)
        np.testing.assert_array_equal(found.score_map, again.score_map)
        assert found.run.settings == again.run.settings
        assert (found.run.method, found.run.image_digest) == ("similarity.few_shot", query.digest)

    def test_masks_of_other_kinds(self, lite0: LoadedModel) -> None:
        (left, mask), (query, _) = stereo.motorcycle_pair()
        small = mask.values[::2, ::2].astype(np.uint8) * 200
        found = similarity.few_shot(lite0, [(left, small)], query, size_px=256)
        assert [notice.partition(" ")[0] for notice in found.notices] == ["29.3", "Mask"]
        whole = similarity.few_shot(lite0, [(left, mask)], query, size_px=256)
        assert whole.notices == ()
        assert masks.iou(found.mask.values, whole.mask.values) > 0.95

    def test_finer_and_not_centred_and_weighed(self, lite0: LoadedModel) -> None:
        support, (query, truth) = stereo.motorcycle_pair()
        for settings in (
            {"layer": "bn2", "dilate_last": True},
            {"centre": False},
            {"weights": [2, 1], "score": "prototype"},
        ):
            found = similarity.few_shot(lite0, [support], query, size_px=320, **settings)
            assert masks.iou(found.mask.values, truth.values) > 0.6, settings
            again = similarity.few_shot(lite0, [support], query, **found.run.settings)
            np.testing.assert_array_equal(found.score_map, again.score_map)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"supports": []}, BadSetting, "0 support pictures"),
        ({"mask": np.zeros((16, 16))}, BadSetting, "Mask 1 is empty"),
        ({"mask": np.ones((16, 16))}, BadSetting, "Mask 1 covers the whole"),
        ({"mask": np.eye(16, 20)}, BadSetting, "Mask 1 has 20 x 16 pixels, its picture 16 x 16"),
        ({"score": "best"}, BadSetting, "choose one of nearest, max"),
        ({"shots": "sum"}, BadSetting, "by mean or max"),
        ({"layer": "fc"}, NotApplicable, "no places"),
        ({"layer": "x"}, UnknownLayer, "no layer"),
        ({"weights": [1]}, BadSetting, "2 layers"),
    ],
)
def test_refusals(
    change: dict[str, object], error: type[Exception], words: str, tiny_model: LoadedModel, noise_image: Noise
) -> None:
    image = noise_image(16, 16)
    settings = {"mask": np.eye(16) > 0, **change}
    supports = settings.pop("supports", [(image, settings.pop("mask"))])
    with pytest.raises(error, match=words):
        similarity.few_shot(tiny_model, supports, image, **{k: v for k, v in settings.items() if k != "mask"})


def test_too_many_cells_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_transfer, "_MOST_CELLS", 19)
    with pytest.raises(BadSetting, match="4 x 5 cells at this working size; at most 19"):
        mask_transfer.fit([(drawn(4, 5, seed=1), block_mask(np.eye(4, 5) > 0))])


def test_an_object_of_one_cell_in_one_block(tiny_model: LoadedModel) -> None:
    """No other block has any of it; the threshold is a number all the same."""
    on_object = np.zeros((8, 8), dtype=bool)
    on_object[3, 3] = True
    fitted = mask_transfer.fit([(drawn(8, 8, seed=1), block_mask(on_object))])
    assert np.isfinite(fitted.threshold)
    assert mask_transfer.apply(tiny_model, fitted, drawn(8, 8, seed=1)).mask.values[35, 35]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 300), (300, 30)])
def test_small_and_long_pictures(height: int, width: int, lite0: LoadedModel, noise_image: Noise) -> None:
    image, mask = noise_image(height, width), np.zeros((height, width), dtype=bool)
    mask[: height // 2, : width // 2] = True
    found = similarity.few_shot(lite0, [(image, mask)], image, layer="blocks.4", score="max", threshold=0, size_px=320)
    assert found.score_map.shape == (height, width)
    assert masks.iou(found.mask.values, mask) > 0.7


@pytest.mark.evaldata
@pytest.mark.skipif(not EVALDATA.is_dir(), reason=f"no photos with masks in {EVALDATA}")
def test_aeroplanes_from_five(lite0: LoadedModel) -> None:
    """One draw of what ``tests/benchmarks/eval_few_shot.py`` measures over many."""
    paths = sorted((EVALDATA / "images" / "caltech101" / "airplanes").glob("*.jpg"))[::3][:10]
    examples = []
    for path in paths:
        (mask_path,) = (EVALDATA / "masks" / "caltech101_airplanes_pseudo").glob(f"{path.stem}.*")
        image = images.open_image(path)
        recorded = features.record(lite0, image, layers=mask_transfer.default_layers(lite0))
        examples.append((recorded, masks.check(images.open_image(mask_path), recorded.picture_px)[0]))
    fitted = mask_transfer.fit(examples[:5])
    found = [masks.iou(mask_transfer.apply(lite0, fitted, query).mask.values, truth) for query, truth in examples[5:]]
    assert np.mean(found) > 0.7
