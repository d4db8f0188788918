"""The bundled photos, against the packages' own readers, and that nothing is imported or fetched for them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from cnnviz_core import photos
from cnnviz_core.errors import BadImage


def test_the_table() -> None:
    assert next(iter(photos.PHOTOS)) == "chelsea"
    assert len(photos.PHOTOS) >= 12
    for photo in photos.PHOTOS.values():
        assert len(photo.title) <= 30
        assert 40 <= len(photo.caption) <= 120
        assert photo.caption.endswith((".", "?"))
        assert "\n" not in photo.caption
    assert len({photo.title for photo in photos.PHOTOS.values()}) == len(photos.PHOTOS)


@pytest.mark.parametrize("photo_id", photos.PHOTOS)
def test_pixels_are_those_of_the_package(photo_id: str) -> None:
    from skimage import data
    from sklearn.datasets import load_sample_image

    image = photos.open_photo(photo_id)
    if photos.PHOTOS[photo_id].package == "scikit-learn":
        expected = load_sample_image(f"{photo_id}.jpg")
    elif photo_id.startswith("motorcycle"):
        expected = data.stereo_motorcycle()[photo_id == "motorcycle_right"]
    else:
        expected = getattr(data, photo_id)()
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=2)
    np.testing.assert_array_equal(image.pixels, expected[:, :, :3])
    assert image.name == photos.PHOTOS[photo_id].title


def test_all_photos_open_without_the_network_and_without_importing_their_packages() -> None:
    script = """
import sys

def refuse(event, arguments):
    if event.startswith(("socket.", "urllib.", "subprocess.")):
        raise RuntimeError(event)

sys.addaudithook(refuse)
from cnnviz_core import photos
assert all(photos.open_photo(photo_id).width > 300 for photo_id in photos.PHOTOS)
assert not {"skimage", "sklearn", "scipy", "pooch", "torch"} & set(sys.modules), sorted(sys.modules)
print("done")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_a_photo_is_decoded_once() -> None:
    assert photos.open_photo("coffee") is photos.open_photo("coffee")
    assert photos.open_photo.cache_info().maxsize is not None


def test_an_unknown_photo_is_refused_with_near_names() -> None:
    with pytest.raises(BadImage, match=r"There is no bundled photo 'chelsae'\. Did you mean chelsea"):
        photos.open_photo("chelsae")
    with pytest.raises(BadImage, match=r"'0/1/2'\.$"):
        photos.open_photo("0/1/2")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadImage, match="A dahlia lies inside scikit-learn; install that package"):
        photos.open_photo.__wrapped__("flower")
