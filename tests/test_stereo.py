"""The motorcycle's masks: what a person sees in the photos, and what both eyes must agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cnnviz_core import photos, stereo
from cnnviz_core.errors import BadImage


def test_the_pair() -> None:
    (left, left_mask), (right, right_mask) = stereo.motorcycle_pair()
    assert left == photos.open_photo("motorcycle_left")
    assert right == photos.open_photo("motorcycle_right")
    for mask in (left_mask.values, right_mask.values):
        assert mask.shape == (500, 741)
        assert 0.25 < mask.mean() < 0.33
        parts, _ = ndimage.label(mask)
        assert np.bincount(parts.ravel())[1:].max() > 0.97 * mask.sum()


# (row, column) read off the photos by eye.
ON_IT = {"left": [(215, 400), (170, 540), (210, 200), (330, 360), (420, 680)], "right": [(215, 350), (330, 310)]}
BESIDE_IT = {"left": [(480, 300), (420, 300), (100, 100), (200, 80), (250, 600), (440, 480)], "right": [(480, 600)]}


@pytest.mark.parametrize(("side", "eye"), [("left", 0), ("right", 1)])
def test_what_a_person_sees(side: str, eye: int) -> None:
    _, mask = stereo.motorcycle_pair()[eye]
    assert all(mask.values[place] for place in ON_IT[side])
    assert not any(mask.values[place] for place in BESIDE_IT[side])


def test_the_right_mask_fits_the_right_photo() -> None:
    """The red of the tank and fenders, told by colour alone, is covered as in the left photo."""
    shares = []
    for image, mask in stereo.motorcycle_pair():
        red, green, blue = image.pixels.astype(int).transpose(2, 0, 1)
        is_red = (red > 120) & (green < 40) & (blue < 50)
        # Without the red box on the shelf behind.
        is_red[:, 470:] = False
        shares.append((is_red & mask.values).sum() / is_red.sum())
    assert min(shares) > 0.9
    assert shares[0] == pytest.approx(shares[1], abs=0.03)


def test_a_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photos, "path_of", lambda photo: tmp_path / photo.file)
    with pytest.raises(BadImage, match="scikit-image"):
        stereo.motorcycle_pair.__wrapped__()
