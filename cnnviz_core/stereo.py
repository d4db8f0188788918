"""The bundled pair of photos with true masks: a motorcycle seen by a left and a right eye.

The left photo comes with its disparity: by how many pixels each place moves to the left from the left photo to the
right one, the more the nearer it is. The motorcycle stands out from the wall by its disparity alone. The floor in front
is as near as the motorcycle; but a flat floor has a disparity that changes evenly across the photo, so it is fitted
along the lower edge, and what is nearer than the floor under it is the motorcycle. Its mask in the right photo is the
same, each pixel moved by its disparity.

Source: Scharstein et al., High-Resolution Stereo Datasets with Subpixel-Accurate Ground Truth (2014), as carried by
scikit-image.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnnviz_core import photos
from cnnviz_core.errors import BadImage
from cnnviz_core.images import InputImage
from cnnviz_core.results import FloatArray, Mask

_FILE = "motorcycle_disp.npz"

# In pixels of disparity: what stands before the wall, and what stands clear of the floor.
_NEARER_THAN_WALL = 30.0
_CLEAR_OF_FLOOR = 1.2

# Below this row of the photo there is nothing but floor.
_FLOOR_ROW = 460

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)

Bools = NDArray[np.bool_]
Pictured = tuple[InputImage, Mask]

PHOTO_IDS = ("motorcycle_left", "motorcycle_right")


def true_mask(photo_id: str) -> Mask | None:
    """The true mask of a bundled photo; None where none is known."""
    return motorcycle_pair()[PHOTO_IDS.index(photo_id)][1] if photo_id in PHOTO_IDS else None


@lru_cache(maxsize=1)
def motorcycle_pair() -> tuple[Pictured, Pictured]:
    """The left photo with its mask, and the right one with its.

    Raises:
        BadImage: scikit-image is missing or came without its data.
    """
    disparity = _disparity()
    left, nearest = _left_mask(disparity)
    right = _moved(left, nearest)
    image_left, image_right = photos.open_photo("motorcycle_left"), photos.open_photo("motorcycle_right")
    return (image_left, Mask(left, "stereo")), (image_right, Mask(right, "stereo"))


def _disparity() -> FloatArray:
    """(H, W) in pixels; infinite where it was not measured."""
    path = photos.path_of(replace(photos.PHOTOS["motorcycle_left"], file=_FILE))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            disparity: FloatArray = arrays["arr_0"]
    except (OSError, ValueError, KeyError) as error:
        raise BadImage(f"{_FILE} lies inside scikit-image and cannot be read; install that package anew.") from error
    return disparity


def _left_mask(disparity: FloatArray) -> tuple[Bools, FloatArray]:
    """The motorcycle, and for every pixel the disparity of the nearest pixel that is surely on it."""
    known = np.isfinite(disparity)
    near = known & (disparity > np.maximum(_NEARER_THAN_WALL, _floor(disparity) + _CLEAR_OF_FLOOR))
    # What was not measured goes with most of what was measured around it.
    around = np.ones((7, 7))
    share = ndimage.convolve(near.astype(float), around) / np.maximum(ndimage.convolve(known.astype(float), around), 1)
    parts, _ = ndimage.label(np.where(known, near, share > 0.5), _EIGHT_NEIGHBOURS)
    largest: Bools = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    nearest = ndimage.distance_transform_edt(~near, return_distances=False, return_indices=True)
    return largest, disparity[tuple(nearest)]


def _floor(disparity: FloatArray) -> NDArray[np.float64]:
    """(H, W) disparity that the floor has, or would have behind the motorcycle."""
    rows, columns = np.indices(disparity.shape)
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(np.float64)
    bare = np.isfinite(disparity) & (rows >= _FLOOR_ROW)
    plane, *_ = np.linalg.lstsq(places[bare], disparity[bare].astype(np.float64))
    floor: NDArray[np.float64] = places @ plane
    return floor


def _moved(mask: Bools, disparity: FloatArray) -> Bools:
    """The mask as the right eye sees it."""
    rows, columns = np.nonzero(mask)
    moved = np.round(columns - disparity[mask]).astype(int)
    seen = np.zeros_like(mask)
    seen[rows[moved >= 0], moved[moved >= 0]] = True
    # Surfaces that turn away from the right eye less than from the left leave gaps of a column.
    closed = seen | ndimage.binary_closing(seen, np.ones((1, 3)))
    smooth: Bools = ndimage.median_filter(closed.astype(np.uint8), 3) > 0
    return smooth
