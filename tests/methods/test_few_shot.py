"""Few-shot segmentation: layers compared, and whole collections with their archive of masks."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz_core import collections, features, images, maps, mask_transfer, masks, settings, stereo
from cnnviz_core.collections import Collection
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.mask_transfer import Fitted
from cnnviz_core.methods import few_shot, segmentation, similarity
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FewShot, Mask, SegmentedCollection, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


def test_the_contract_names_one_function() -> None:
    assert few_shot.few_shot is similarity.few_shot is mask_transfer.few_shot


class TestLayers:
    def test_stages_alone_then_joined(self, lite0: LoadedModel, tiny_model: LoadedModel) -> None:
        groups = few_shot.layer_groups(lite0)
        stages = features.stage_layers(lite0)
        assert groups == (*((stage,) for stage in stages[::-1]), stages[-2:], stages[-3:])
        assert mask_transfer.default_layers(lite0) in groups
        assert len(features.stage_layers(tiny_model)) == 2
        assert few_shot.layer_groups(tiny_model)[-1] == features.stage_layers(tiny_model)

    def test_each_is_what_few_shot_gives(self, lite0: LoadedModel) -> None:
        (left, mask), (right, truth) = stereo.motorcycle_pair()
        groups = [("bn2",), ("blocks.5.0.bn1", "bn2")]
        layers = groups[1]
        support, query = (features.record(lite0, image, layers=layers, size_px=256) for image in (left, right))
        steps: list[Step] = []
        found = few_shot.compare_layers(
            lite0, [(support, mask)], query, groups=groups, truth=truth, score="max", on_step=steps.append
        )
        assert [(step.done, step.total) for step in steps] == [(1, 2), (2, 2)]
        assert steps[0].partial == found[:1]
        for trial, group in zip(found, groups, strict=True):
            alone = few_shot.few_shot(lite0, [(left, mask)], right, layer=group, score="max", size_px=256)
            assert (trial.layers, trial.cells, trial.threshold) == (group, alone.scores.shape, alone.threshold)
            assert trial.support_iou == alone.support_iou
            assert trial.iou == masks.iou(alone.mask.values, truth.values)
            assert trial.oracle_iou == masks.iou_curve(alone.score_map, truth.values).best_iou >= trial.iou

    def test_a_line_says_why_a_layer_cannot_be_used(self, lite0: LoadedModel, noise_image: Noise) -> None:
        """At two cells the mask leaves none for the background, or one; without a true mask there is no IoU."""
        image, mask = noise_image(64, 64), np.ones((64, 64), dtype=bool)
        mask[:8, :8] = False
        recorded = features.record(lite0, image, layers=("blocks.3.0.bn1", "bn2"), size_px=64)
        coarse, fine = few_shot.compare_layers(
            lite0, [(recorded, mask)], recorded, groups=[("bn2",), ("blocks.3.0.bn1",)]
        )
        assert "no background" in coarse.problem
        assert (fine.problem, fine.iou, fine.oracle_iou) == ("", None, None)
        with pytest.raises(BadSetting, match="true mask is empty"):
            few_shot.compare_layers(lite0, [(recorded, mask)], recorded, groups=[("bn2",)], truth=0 * mask)

    def test_the_estimate_grows_with_what_is_compared(self, lite0: LoadedModel) -> None:
        *_, middle, last = few_shot.layer_groups(lite0)[:3][::-1]
        one = few_shot.estimate_seconds(lite0, [last], num_supports=1, size_px=512)
        assert one < few_shot.estimate_seconds(lite0, [middle], num_supports=1, size_px=512)
        assert few_shot.estimate_seconds(lite0, [last], num_supports=1, size_px=256) == pytest.approx(one / 16)
        assert few_shot.estimate_seconds(lite0, [last], num_supports=3, size_px=512) == pytest.approx(5 * one)


@pytest.fixture
def motorcycles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """The pair at half size with masks, a picture without one, one without the object, and a damaged file."""
    folder = tmp_path / "pictures"
    (folder / "pair").mkdir(parents=True)
    (folder / "masks" / "pair").mkdir(parents=True)
    for (image, mask), name in zip(stereo.motorcycle_pair(), ("left", "right"), strict=True):
        Image.fromarray(image.pixels[::2, ::2]).save(folder / "pair" / f"{name}.png")
        Image.fromarray(mask.values[::2, ::2]).save(folder / "masks" / "pair" / f"{name}.png")
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "con.png")
    Image.fromarray(noise[::-1]).save(folder / "empty.png")
    Image.fromarray(np.zeros((120, 160), dtype=bool)).save(folder / "empty_mask.png")
    Image.fromarray(noise[:, ::-1]).save(folder / "gone.png")
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path / "data"))
    collection = collections.open_collection(folder)
    (folder / "gone.png").unlink()
    return collection


class TestCollection:
    def fitted(self, model: LoadedModel, collection: Collection) -> Fitted:
        left = next(row for row in collection.pictures() if row.path == "pair/left.png")
        mask = collection.mask(left)
        assert mask is not None
        layers = mask_transfer.default_layers(model)
        return few_shot.fit([(features.record(model, collection.open(left), layers=layers, size_px=256), mask)])

    def test_every_picture_gets_a_mask_and_a_line(self, lite0: LoadedModel, motorcycles: Collection) -> None:
        fitted, archive, steps = self.fitted(lite0, motorcycles), io.BytesIO(), []
        found = few_shot.over_collection(lite0, fitted, motorcycles, archive=archive, on_step=steps.append)
        assert [picture.path for picture in found.pictures] == [
            "con.png",
            "empty.png",
            "pair/left.png",
            "pair/right.png",
        ]
        assert [path for path, _ in found.failed] == ["gone.png"]
        assert "not in" in found.failed[0][1]
        assert [step.done for step in steps] == [1, 2, 3, 4, 5]
        assert isinstance(steps[1].partial, SegmentedCollection)
        assert steps[1].partial.pictures == found.pictures[:2]
        plain, empty, left, right = found.pictures
        assert (plain.iou, plain.oracle_iou) == (None, None)
        assert (empty.area, empty.iou, empty.is_support) == (0.0, 1.0, False), "nothing to find, and nothing found"
        assert left.is_support
        assert found.measured == (right, empty)
        assert found.mean_iou == pytest.approx((right.iou + 1) / 2)
        # As one at a time.
        rows = {row.path: row for row in motorcycles.pictures()}
        query, truth = motorcycles.open(rows["pair/right.png"]), motorcycles.mask(rows["pair/right.png"])
        support = motorcycles.open(rows["pair/left.png"]), motorcycles.mask(rows["pair/left.png"])
        alone = few_shot.few_shot(lite0, [support], query, size_px=256)
        assert right.iou == masks.iou(alone.mask.values, truth) > 0.7
        assert right.oracle_iou >= right.iou
        np.testing.assert_array_equal(few_shot.read_mask(archive, right), alone.mask.values)
        with zipfile.ZipFile(archive) as files:
            assert files.namelist() == [
                "masks/_con.png", "masks/empty.png", "masks/pair/left.png", "masks/pair/right.png", "manifest.json",
            ]  # fmt: skip
            account = json.loads(files.read("manifest.json"))
        assert account["settings"] == json.loads(json.dumps(found.run.settings))
        assert account["pictures"][3]["iou"] == right.iou
        assert account["left_out"][0]["path"] == "gone.png"
        assert account["support_digests"] == [support[0].digest]

    def test_masks_that_are_refined(self, lite0: LoadedModel, motorcycles: Collection) -> None:
        def refine(image: InputImage, found: FewShot) -> Mask:
            return segmentation.refine(image, found, threshold=found.threshold)

        fitted, archive = self.fitted(lite0, motorcycles), io.BytesIO()
        found = few_shot.over_collection(lite0, fitted, motorcycles, refine=refine, archive=archive)
        right = found.pictures[-1]
        rows = {row.path: row for row in motorcycles.pictures()}
        image = motorcycles.open(rows["pair/right.png"])
        expected = refine(image, mask_transfer.apply(lite0, fitted, mask_transfer.record_alike(lite0, fitted, image)))
        np.testing.assert_array_equal(few_shot.read_mask(archive, right), expected.values)

    def test_what_on_step_raises_ends_it(self, lite0: LoadedModel, motorcycles: Collection) -> None:
        def stop(step: Step) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            few_shot.over_collection(lite0, self.fitted(lite0, motorcycles), motorcycles, on_step=stop)

    def test_an_archive_that_was_broken_off_is_closed(self, lite0: LoadedModel, motorcycles: Collection) -> None:
        def stop(step: Step) -> None:
            raise InterruptedError

        archive = io.BytesIO()
        with pytest.raises(InterruptedError):
            few_shot.over_collection(lite0, self.fitted(lite0, motorcycles), motorcycles, archive=archive, on_step=stop)
        with zipfile.ZipFile(archive) as files:
            assert files.namelist() == ["masks/_con.png"]


def test_names_in_the_archive_are_safe_and_differ() -> None:
    paths = [
        "a.jpg",
        "a.png",
        "A.webp",
        "b/../c.png",
        "..",
        "x:y*?.png",
        ".hidden.png",
        "aux.tar.png",
        "ä é.png",
        "n" * 300,
    ]
    names = few_shot._file_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[:3] == ["masks/a.png", "masks/a-2.png", "masks/A-3.png"]
    assert all(".." not in name.split("/") and not set(name) & set(':*?<>|"\\') for name in names)
    assert names[7] == "masks/_aux.tar.png"
    assert names[8] == "masks/ä é.png"
    assert len(names[9]) < 80


def test_refined_masks_follow_colours() -> None:
    """A red disc on green: a coarse score map gives steps, the refined mask the disc."""
    across, down = np.meshgrid(np.arange(160), np.arange(120))
    disc = np.hypot(across - 80, down - 60) < 35
    noise = np.random.default_rng(0).integers(0, 20, (120, 160, 3))
    pixels = np.where(disc[..., None], [200, 40, 40], [40, 180, 60]) + noise
    image = images.from_pixels(pixels.astype(np.uint8), name="disc")
    scores = masks.to_grid(disc, (6, 8))
    plain = masks.iou(maps.resize(scores, (120, 160)) >= 0.5, disc)
    refined = masks.iou(segmentation.refine(image, scores, threshold=0.5).values, disc)
    assert refined > 0.97 > plain
    for threshold in (2.0, -1.0):
        with pytest.raises(NotApplicable, match="move the threshold"):
            segmentation.refine(image, scores, threshold=threshold)
