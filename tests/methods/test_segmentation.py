"""Cutting objects out: drawn scenes, OpenCV called directly, numbers by hand, and real photos with masks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cnnviz_core import images, photos
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam, segmentation
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Heatmap, Mask, Run

EVALDATA = Path(__file__).parents[3] / "shared" / "evaldata"


def disc(height: int, width: int, *, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def scene(mask: np.ndarray, *, seed: int = 0) -> InputImage:
    """Two colours with a little noise."""
    pixels = np.where(mask[..., None], (200, 60, 40), (40, 90, 180))
    noisy = pixels + np.random.default_rng(seed).normal(0, 8, pixels.shape)
    return images.from_pixels(np.clip(noisy, 0, 255).astype(np.uint8), name="scene")


def bump(mask_row: float, mask_column: float, *, cells: int = 7) -> np.ndarray:
    """A coarse map that is highest at a place, given as shares of the sides."""
    rows, columns = np.ogrid[:cells, :cells]
    away = ((rows + 0.5) / cells - mask_row) ** 2 + ((columns + 0.5) / cells - mask_column) ** 2
    return np.exp(-away / 0.05).astype(np.float32)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return disc(120, 160, row=60, column=70, radius=35)


class TestGrabCut:
    def test_a_disc_of_another_colour(self, truth: np.ndarray) -> None:
        found = segmentation.grabcut(scene(truth), bump(0.5, 70 / 160))
        assert (found.values.shape, found.values.dtype, found.method) == ((120, 160), np.bool_, "grabcut")
        assert segmentation.iou(found, truth) > 0.99

    def test_a_large_picture_is_cut_small_and_enlarged(self) -> None:
        truth = disc(900, 1300, row=450, column=600, radius=300)
        found = segmentation.grabcut(scene(truth), bump(0.5, 600 / 1300))
        assert found.values.shape == (900, 1300)
        assert segmentation.iou(found, truth) > 0.98

    def test_a_result_serves_as_well_as_its_array(self, truth: np.ndarray) -> None:
        heatmap = Heatmap(bump(0.5, 0.4), "conv", 0, "", "cam", Run("module/x", "default", "", "cam.explain", {}, 0.0))
        found = segmentation.grabcut(scene(truth), heatmap)
        np.testing.assert_array_equal(found.values, segmentation.grabcut(scene(truth), heatmap.values).values)

    def test_equals_opencv_from_the_same_seeds(self) -> None:
        image = photos.open_photo("chelsea")
        heatmap = bump(0.4, 0.5)
        settings: dict[str, Any] = {"foreground_quantile": 0.9, "background_quantile": 0.4}
        seeds = segmentation.seeds(image, heatmap, **settings)
        found = segmentation.grabcut(image, heatmap, **settings, keep_largest=False, num_iterations=3)

        finer = cv2.GaussianBlur(cv2.resize(heatmap, (image.width, image.height)), (0, 0), 3)
        labels = np.where(finer > np.quantile(finer, 0.65), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[seeds.background.values] = cv2.GC_BGD
        labels[seeds.foreground.values] = cv2.GC_FGD
        assert segmentation.iou(finer >= np.quantile(finer, 0.9), seeds.foreground) > 0.97
        assert segmentation.iou(finer <= np.quantile(finer, 0.4), seeds.background) > 0.97
        cv2.setRNGSeed(0)
        models = np.zeros((2, 1, 65))
        cv2.grabCut(image.pixels, labels, None, models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
        assert segmentation.iou(found, (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)) > 0.99

    def test_seeds_are_in_the_mask_or_out_of_it(self) -> None:
        image = photos.open_photo("coffee")
        seeds = segmentation.seeds(image, bump(0.5, 0.5))
        found = segmentation.grabcut(image, bump(0.5, 0.5), keep_largest=False).values
        small = 0.98  # the borders of enlarged masks may differ by a pixel
        assert found[seeds.foreground.values].mean() > small
        assert found[seeds.background.values].mean() < 1 - small
        assert seeds.foreground.values.mean() == pytest.approx(0.05, abs=0.01)
        assert seeds.background.values.mean() == pytest.approx(0.30, abs=0.01)

    def test_the_same_again_in_any_thread(self) -> None:
        image, heatmap = photos.open_photo("chelsea"), bump(0.4, 0.5)
        first = segmentation.grabcut(image, heatmap).values
        found: list[np.ndarray] = []

        def work() -> None:
            cv2.setRNGSeed(threading.get_ident() % 1000)
            found.append(segmentation.grabcut(image, heatmap).values)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 3
        assert all(np.array_equal(first, other) for other in found)

    def test_a_map_of_the_crop_lies_where_the_crop_lies(self) -> None:
        """The network sees the right square of a wide picture; the same map on the whole picture points left."""
        truth = disc(100, 240, row=50, column=190, radius=25)
        heatmap, crop_box = bump(0.5, 0.5), (140.0, 0.0, 240.0, 100.0)
        seeds = segmentation.seeds(scene(truth), heatmap, crop_box=crop_box)
        assert not (seeds.foreground.values | seeds.background.values)[:, :140].any(), "no map, no seed"
        rows, columns = np.nonzero(seeds.foreground.values)
        assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((50, 190), abs=0.5)
        assert segmentation.iou(segmentation.grabcut(scene(truth), heatmap, crop_box=crop_box), truth) > 0.98

    def test_a_crop_may_reach_outside(self, truth: np.ndarray) -> None:
        heatmap, crop_box = bump(0.5, 0.5), (-20.5, -30.5, 160.5, 150.5)  # around the disc's centre
        seeds = segmentation.seeds(scene(truth), heatmap, crop_box=crop_box)
        rows, columns = np.nonzero(seeds.foreground.values)
        assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((60, 70), abs=0.5)
        assert segmentation.iou(segmentation.grabcut(scene(truth), heatmap, crop_box=crop_box), truth) > 0.99

    def test_unknown_places_are_no_seeds(self, truth: np.ndarray) -> None:
        heatmap = bump(0.5, 70 / 160)
        heatmap[0] = heatmap[:, 6] = np.nan
        seeds = segmentation.seeds(scene(truth), heatmap)
        assert not (seeds.foreground.values | seeds.background.values)[:17].any()
        assert segmentation.iou(segmentation.grabcut(scene(truth), heatmap), truth) > 0.98

    def test_equal_values_stand_together(self, truth: np.ndarray) -> None:
        """A clipped map is zero nearly everywhere: all of it is background, and the rest the object."""
        heatmap = np.zeros((12, 16), dtype=np.float32)
        heatmap[5:7, 6:8] = 1
        seeds = segmentation.seeds(scene(truth), heatmap, smooth_px=0)
        assert seeds.background.values.mean() > 0.9
        assert 0 < seeds.foreground.values.mean() <= 0.05
        cells_and_slopes = segmentation.rectangle((55, 45, 85, 75), shape=(120, 160))
        assert segmentation.iou(seeds.foreground, cells_and_slopes) > 0.99

    def test_smoothing_takes_speckle_away(self, truth: np.ndarray) -> None:
        speckle = np.random.default_rng(0).random((120, 160)) * (0.2 + truth)
        raw, smooth = (segmentation.seeds(scene(truth), speckle, smooth_px=sigma).background for sigma in (0, 4))
        assert truth[smooth.values].mean() < 0.01 < truth[raw.values].mean()

    def test_nothing_outside_the_box(self) -> None:
        two = disc(100, 200, row=50, column=50, radius=25) | disc(100, 200, row=50, column=150, radius=30)
        both = bump(0.5, 0.25) + bump(0.5, 0.75)
        whole = segmentation.grabcut(scene(two), both, keep_largest=False)
        boxed = segmentation.grabcut(scene(two), both, keep_largest=False, box=(10, 10, 90, 90))
        left = disc(100, 200, row=50, column=50, radius=25)
        assert segmentation.iou(whole, two) > 0.95
        assert segmentation.iou(boxed, left) > 0.97

    def test_keep_largest(self) -> None:
        large = disc(100, 200, row=50, column=50, radius=30)
        two = large | disc(100, 200, row=50, column=150, radius=20)
        both = bump(0.5, 0.25) + bump(0.5, 0.75)
        assert segmentation.iou(segmentation.grabcut(scene(two), both), large) > 0.97
        assert segmentation.iou(segmentation.grabcut(scene(two), both, keep_largest=False), two) > 0.97

    def test_a_picture_of_few_pixels(self) -> None:
        truth = disc(16, 16, row=8, column=8, radius=4)
        assert segmentation.iou(segmentation.grabcut(scene(truth), bump(0.5, 0.5), smooth_px=1), truth) > 0.9

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"foreground_quantile": 0.3}, BadSetting, "quantiles"),
            ({"background_quantile": -0.1}, BadSetting, "quantiles"),
            ({"smooth_px": -1.0}, BadSetting, "smooth_px"),
            ({"smooth_px": float("nan")}, BadSetting, "smooth_px"),
            ({"num_iterations": 0}, BadSetting, "num_iterations"),
            ({"crop_box": (5, 5, 5, 50)}, BadSetting, "crop_box"),
            ({"crop_box": (500, 500, 600, 600)}, BadSetting, "outside the picture"),
            ({"box": (300, 0, 400, 50)}, BadSetting, "no pixel"),
            ({"box": (140, 100, 160, 120)}, NotApplicable, "outside the rectangle"),
        ],
    )
    def test_what_cannot_be(
        self, settings: dict[str, Any], error: type[Exception], words: str, truth: np.ndarray
    ) -> None:
        with pytest.raises(error, match=words):
            segmentation.grabcut(scene(truth), bump(0.5, 0.4), **settings)

    @pytest.mark.parametrize("value", [0.0, 3.7, -1e-20])
    def test_a_flat_map_says_nothing(self, value: float, truth: np.ndarray) -> None:
        with pytest.raises(NotApplicable, match="same value everywhere"):
            segmentation.grabcut(scene(truth), np.full((7, 7), value, dtype=np.float32))


class TestRectangles:
    def test_the_object_inside(self, truth: np.ndarray) -> None:
        found = segmentation.grabcut_box(scene(truth), (25, 15, 115, 105))
        assert found.method == "grabcut_box"
        assert segmentation.iou(found, truth) > 0.99

    def test_what_cannot_be(self, truth: np.ndarray) -> None:
        with pytest.raises(BadSetting, match="whole picture"):
            segmentation.grabcut_box(scene(truth), (0, 0, 160, 120))
        grey = images.from_pixels(np.full((40, 40, 3), 90, dtype=np.uint8), name="grey")
        with pytest.raises(NotApplicable, match="differs in colour"):
            segmentation.grabcut_box(grey, (10, 10, 30, 30))

    def test_a_rectangle_holds_the_pixels_whose_centres_are_inside(self) -> None:
        found = segmentation.rectangle((1.0, 0.6, 3.5, 2.4), shape=(3, 5)).values
        np.testing.assert_array_equal(found, [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])


class TestBoxOf:
    MAP = np.array(
        [
            [0, 0, 0, 0, 0, 9],
            [2, 10, 3, 0, 0, 0],
            [0, 0, 0, 3, 0, 0],
            [0, 0, 0, 0, 0, 8],
        ],
        dtype=np.float32,
    )

    def test_by_hand(self) -> None:
        """Above 2 are 9, 8 and three that touch at corners; exactly 2 is not."""
        part, box = segmentation.box_of(self.MAP)
        assert box == (1, 1, 4, 3)
        assert part.values.sum() == 3
        assert segmentation.box_of(self.MAP, share=0.85)[1] in {(1, 1, 2, 2), (5, 0, 6, 1)}
        assert segmentation.box_of(self.MAP, share=0.95)[1] == (1, 1, 2, 2)

    def test_what_cannot_be(self) -> None:
        with pytest.raises(BadSetting, match="share"):
            segmentation.box_of(self.MAP, share=1.0)
        with pytest.raises(NotApplicable, match="above 0"):
            segmentation.box_of(-self.MAP)


class TestMasks:
    def test_iou_by_hand(self) -> None:
        a = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
        b = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
        assert segmentation.iou(a, b) == 2 / 4
        assert segmentation.iou(Mask(a, "drawn"), a) == 1
        assert segmentation.iou(a, ~a) == 0
        assert segmentation.iou(a & ~a, a & ~a) == 1
        with pytest.raises(BadSetting, match="one picture"):
            segmentation.iou(a, b.T)

    def test_a_drawn_mask_is_read(self) -> None:
        drawn = np.zeros((4, 6), dtype=np.uint8)
        drawn[1:3, 2:5] = 255
        drawn[0, 0] = 127
        image = images.from_pixels(drawn, name="mask.png")
        np.testing.assert_array_equal(segmentation.read_mask(image, (4, 6)).values, drawn == 255)
        large = segmentation.read_mask(image, (8, 12)).values
        np.testing.assert_array_equal(large, np.kron(drawn == 255, np.ones((2, 2), dtype=bool)))
        np.testing.assert_array_equal(
            segmentation.read_mask(
                images.from_pixels(drawn[::-1].repeat(3, 0).repeat(3, 1), name="large"), (4, 6)
            ).values,
            drawn[::-1] == 255,
        )

    def test_a_mask_of_other_proportions_is_refused(self) -> None:
        image = images.from_pixels(np.full((100, 100), 255, dtype=np.uint8), name="mask.png")
        assert segmentation.read_mask(image, (1000, 1015)).values.all()
        for shape in [(100, 103), (103, 100)]:
            with pytest.raises(BadSetting, match="proportions"):
                segmentation.read_mask(image, shape)

    def test_a_mask_without_light_pixels_is_refused(self) -> None:
        """Such as one of labels 0 and 1."""
        image = images.from_pixels(np.ones((4, 4), dtype=np.uint8), name="labels.png")
        with pytest.raises(BadSetting, match=r"labels\.png.*white on black"):
            segmentation.read_mask(image, (4, 4))

    def test_cut_out(self, truth: np.ndarray) -> None:
        image = scene(truth)
        rgba = segmentation.cut_out(image, Mask(truth, "drawn"))
        assert (rgba.shape, rgba.dtype) == ((120, 160, 4), np.uint8)
        np.testing.assert_array_equal(rgba[..., :3], image.pixels)
        np.testing.assert_array_equal(rgba[..., 3], np.where(truth, 255, 0))
        with pytest.raises(BadSetting, match="size"):
            segmentation.cut_out(image, truth.T)


@pytest.mark.evaldata
@pytest.mark.skipif(not EVALDATA.is_dir(), reason=f"no photos with masks in {EVALDATA}")
def test_objects_in_photos_are_found_from_grad_cam(lite0: LoadedModel) -> None:
    """On what the network sees: every fourth airplane and the bird. A GrabCut without a map would have no seeds."""
    pairs = sorted((EVALDATA / "masks" / "caltech101_airplanes_pseudo").glob("*.png"))[::4]
    pairs += sorted((EVALDATA / "masks" / "open_images_bird").glob("*.png"))
    folders = {"caltech101_airplanes_pseudo": "caltech101/airplanes", "open_images_bird": "open_images/bird"}
    found, whole = [], []
    for path in pairs:
        photo = next((EVALDATA / "images" / folders[path.parent.name]).glob(f"{path.stem}.*"))
        image, drawn = images.open_image(photo), images.open_image(path)
        assert drawn.pixels.shape == image.pixels.shape
        crop, crop_of_mask = (
            images.from_pixels(lite0.preprocessing.crop(picture), name="crop") for picture in (image, drawn)
        )
        truth = segmentation.read_mask(crop_of_mask, crop.pixels.shape[:2])
        heatmap = cam.explain(lite0, crop, method="grad_cam")
        found.append(segmentation.iou(segmentation.grabcut(crop, heatmap), truth))
        whole.append(float(truth.values.mean()))
    assert len(found) >= 9
    assert np.mean(found) > 0.6 > 2 * np.mean(whole)
    assert found[-1] > 0.8, "the bird"
