"""Segmentation: cutting an object out with no more than a map of where the evidence lies.

A saliency map or class activation map says roughly where a class is seen. GrabCut makes an outline of it: the places
with the highest values are taken as object, those with the lowest as background, and of both it learns which colours
they have (five Gaussians each). Then every pixel in between goes to the side whose colours it fits, at the least cost
of cutting between neighbours of like colour (a minimum cut), and colours and cut are improved in turn. So a network
that was only ever told *what* is in a photo shows *where* it is.

When it misleads: the outline follows colours, not the network. It looks just as crisp where the map was wrong, and it
loses parts that no seed lies on and whose colour is that of the background. A map that marks only the telling part of
an object (a head, a wheel) gives that part. Look at the seeds, and compare with a drawn mask by IoU before trusting it.

Source: Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks (2014), section 3.2, for the seeds (above
the 95 % quantile of the saliency, below the 30 % quantile); Rother, Kolmogorov and Blake, GrabCut (2004), in OpenCV's
implementation; Zhou et al., Learning Deep Features for Discriminative Localization (2016), for the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnnviz_core import maps
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.maps import FloatArray, MapLike
from cnnviz_core.numerals import format_percent
from cnnviz_core.preprocessing import Box
from cnnviz_core.results import Mask

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
MaskLike = Mask | Bools

# Longer side of the picture that is cut; the minimum cut of a large one takes many seconds.
_WORK_PX = 512

# An uploaded mask may differ so much from the picture's proportions, as after rounding of a resized copy.
_ASPECT_TOLERANCE = 0.02

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)

# Of the picture, that a mask may cover for its surroundings to show the background's colours.
_LARGEST_SHARE = 0.8


@dataclass(frozen=True)
class Seeds:
    """Where GrabCut starts; what is in neither mask it decides by itself.

    Attributes:
        foreground: (H, W) surely object.
        background: (H, W) surely background.
    """

    foreground: Mask
    background: Mask


def grabcut(
    image: InputImage,
    heatmap: MapLike,
    *,
    foreground_quantile: float = 0.95,
    background_quantile: float = 0.30,
    smooth_px: float = 3.0,
    num_iterations: int = 5,
    crop_box: Box | None = None,
    box: Box | None = None,
    keep_largest: bool = True,
) -> Mask:
    """The object's pixels, from a map of the evidence and the picture's colours.

    Between the seeds the upper half of the map is taken for probable object at first, the lower for probable
    background. Of places with equal values all are seeds or none. Pictures with a side of more than 512 px are cut at
    that size and the mask is enlarged.

    Args:
        image: Any picture.
        heatmap: A result with a map, or an array (h, w): high where the object is.
        foreground_quantile: Where the smoothed map reaches this quantile of itself, 0..1, the object is sure.
        background_quantile: Where it is not above this one, the background is sure.
        smooth_px: Standard deviation of the Gaussian that smooths the map first, in pixels of the picture as it is
            cut; gradients are speckle without it. 0 for none.
        num_iterations: How often colours and cut are improved.
        crop_box: (left, top, right, bottom) of the map in the picture's pixels, as
            :meth:`Preprocessing.crop_box` gives it; it may reach outside. None: it covers the whole picture. What no
            map covers is probably background.
        box: (left, top, right, bottom) in the picture's pixels outside of which all is background.
        keep_largest: Keep the largest connected part only.

    Returns:
        (H, W) at the picture's size.

    Raises:
        BadSetting: A number out of range, or something that is not a map.
        NotApplicable: The map is too flat to tell object and background apart.
    """
    labels = _seeded(image, heatmap, foreground_quantile, background_quantile, smooth_px, crop_box, box)
    return _cut(image, labels, num_iterations, "grabcut", keep_largest=keep_largest)


def refine(image: InputImage, heatmap: MapLike, *, threshold: float, num_iterations: int = 5) -> Mask:
    """The mask of a score map above a threshold, with its outline moved to where the colours change.

    The better half of what is in the mask is surely object. What lies farther outside than another fifth of the mask's
    area is surely background. In between, :func:`grabcut` decides by colour. On photos of aeroplanes it raised the mean
    overlap of masks from three supports from 0.73 to 0.79; half and a fifth were chosen on these same photos, so expect
    less elsewhere: on the bundled motorcycle, whose frame one sees the wall through, it lowers it.

    Args:
        image: Any picture.
        heatmap: A result with a map, or an array (h, w), covering the whole picture: scores of its places.
        threshold: What reaches it is the mask to begin with.
        num_iterations: As in :func:`grabcut`.

    Returns:
        (H, W) at the picture's size.

    Raises:
        NotApplicable: The mask to begin with is empty or nearly the whole picture.
    """
    values = maps.read(heatmap)
    share = float((maps.resize(values, _work_shape(image)) >= threshold).mean())
    if not 0 < share < _LARGEST_SHARE:
        raise NotApplicable(
            f"At this threshold the mask covers {format_percent(share)} of the picture, so colours of object and "
            "background cannot be learned from it; move the threshold."
        )
    return grabcut(
        image,
        values,
        foreground_quantile=1 - share / 2,
        background_quantile=1 - 1.2 * share,
        smooth_px=0,
        num_iterations=num_iterations,
        keep_largest=False,
    )


def seeds(
    image: InputImage,
    heatmap: MapLike,
    *,
    foreground_quantile: float = 0.95,
    background_quantile: float = 0.30,
    smooth_px: float = 3.0,
    crop_box: Box | None = None,
    box: Box | None = None,
) -> Seeds:
    """The places that :func:`grabcut` starts from, with the same arguments, to be shown beside its mask.

    Raises:
        BadSetting: As in :func:`grabcut`.
        NotApplicable: As in :func:`grabcut`.
    """
    labels = _seeded(image, heatmap, foreground_quantile, background_quantile, smooth_px, crop_box, box)
    found = (_enlarged(labels == label, image) for label in (cv2.GC_FGD, cv2.GC_BGD))
    return Seeds(*(Mask(values, "seeds") for values in found))


def grabcut_box(image: InputImage, box: Box, *, num_iterations: int = 5, keep_largest: bool = True) -> Mask:
    """The object inside a rectangle, from colours alone: what is outside shows what the background looks like.

    Args:
        image: Any picture.
        box: (left, top, right, bottom) in the picture's pixels; the object lies inside, background all around.
        num_iterations: As in :func:`grabcut`.
        keep_largest: As in :func:`grabcut`.

    Returns:
        (H, W) at the picture's size.

    Raises:
        BadSetting: The rectangle leaves no background, or lies outside the picture.
        NotApplicable: Nothing inside differs from what is outside.
    """
    inside = _rectangle(*_places(image, _work_shape(image)), box)
    if inside.all():
        raise BadSetting("The rectangle covers the whole picture; leave some background outside it.")
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    return _cut(image, labels, num_iterations, "grabcut_box", keep_largest=keep_largest)


def box_of(heatmap: MapLike, *, share: float = 0.2) -> tuple[Mask, tuple[int, int, int, int]]:
    """The box around the largest connected part of a map that is above a share of its maximum.

    Args:
        heatmap: A result with a map, or an array (h, w). For a box in pixels, a map of that size.
        share: Of the map's maximum, 0 to below 1.

    Returns:
        The part, (h, w), and its (left, top, right, bottom) in the map's own cells, right and bottom excluded.

    Raises:
        BadSetting: The share is out of range, or this is not a map.
        NotApplicable: The map has no value above 0.

    Source: Zhou et al. 2016, section 3.2.
    """
    if not 0 <= share < 1:
        raise BadSetting(f"share is {share}; it must be from 0 to below 1.")
    values = maps.read(heatmap)
    highest = float(np.nanmax(values))
    if highest <= 0:
        raise NotApplicable("The map has no value above 0, so there is no box around its evidence; try another class.")
    part = _largest_part(values > share * highest)
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    return Mask(part, "box_of"), (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def rectangle(box: Box, *, shape: tuple[int, int]) -> Mask:
    """A rectangle as a mask: the pixels whose centres lie inside.

    Args:
        box: (left, top, right, bottom) in pixels.
        shape: (H, W) of the mask.

    Raises:
        BadSetting: No pixel lies inside.
    """
    return Mask(_rectangle(np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5, box), "rectangle")


def read_mask(image: InputImage, shape: tuple[int, int]) -> Mask:
    """A drawn mask from a picture: what is lighter than mid-grey is the object.

    Args:
        image: The mask as a picture, grey or colour, of any size with the right proportions.
        shape: (H, W) of the picture that it belongs to.

    Raises:
        BadSetting: Other proportions than the picture's, or nothing light in it.
    """
    height, width = shape
    ratio = image.width * height / (image.height * width)
    if abs(ratio - 1) > _ASPECT_TOLERANCE:
        raise BadSetting(
            f"The mask {image.name} has {image.width} x {image.height} pixels, the picture {width} x {height}; give a "
            "mask of the whole picture, with its proportions."
        )
    is_light = image.pixels.mean(axis=2) > 127.5
    if not is_light.any():
        raise BadSetting(f"The mask {image.name} has nothing lighter than mid-grey; draw the object in white on black.")
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, is_light.shape, strict=True)
    )
    return Mask(is_light[np.ix_(rows, columns)], "read_mask")


def iou(a: MaskLike, b: MaskLike) -> float:
    """How well two masks agree: pixels in both over pixels in either, 0..1; 1 where both are empty.

    Raises:
        BadSetting: Masks of different sizes.
    """
    one, other = _values(a), _values(b)
    if one.shape != other.shape:
        raise BadSetting(f"The masks have {one.shape} and {other.shape} pixels; compare masks of one picture.")
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def cut_out(image: InputImage, mask: MaskLike) -> NDArray[np.uint8]:
    """The picture with everything but the object made transparent, (H, W, 4) red green blue alpha.

    Raises:
        BadSetting: The mask is not of the picture's size.
    """
    values = _values(mask)
    if values.shape != image.pixels.shape[:2]:
        raise BadSetting(
            f"The mask has {values.shape} pixels, the picture {image.pixels.shape[:2]}; give a mask of its size."
        )
    return np.dstack([image.pixels, values.astype(np.uint8) * 255])


def _values(mask: MaskLike) -> Bools:
    return mask.values if isinstance(mask, Mask) else np.asarray(mask, dtype=bool)


def _work_shape(image: InputImage) -> tuple[int, int]:
    """(H, W) at which the picture is cut."""
    scale = min(1.0, _WORK_PX / max(image.height, image.width))
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))


def _places(image: InputImage, work: tuple[int, int]) -> tuple[Floats, Floats]:
    """Rows and columns of the pixel centres at work, in the picture's pixels."""
    height, width = work
    return (np.arange(height) + 0.5) * image.height / height, (np.arange(width) + 0.5) * image.width / width


def _rectangle(rows: Floats, columns: Floats, box: Box) -> Bools:
    """Which places lie in the box."""
    left, top, right, bottom = box
    inside: Bools = np.outer((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
    if not inside.any():
        raise BadSetting(
            f"The rectangle {box} holds no pixel of the picture; give (left, top, right, bottom) in its pixels."
        )
    return inside


def _seeded(
    image: InputImage,
    heatmap: MapLike,
    foreground_quantile: float,
    background_quantile: float,
    smooth_px: float,
    crop_box: Box | None,
    box: Box | None,
) -> NDArray[np.uint8]:
    """What OpenCV starts from, at work size: GC_FGD, GC_BGD, GC_PR_FGD or GC_PR_BGD."""
    if not 0 <= background_quantile < foreground_quantile <= 1:
        raise BadSetting(
            f"The quantiles are {background_quantile} for the background and {foreground_quantile} for the object; "
            "give two numbers from 0 to 1, the background's below the object's."
        )
    if not 0 <= smooth_px < np.inf:
        raise BadSetting(f"smooth_px is {smooth_px}; it must be a number from 0 up.")
    places = _places(image, _work_shape(image))
    values = _smoothed(
        _on_picture(maps.read(heatmap), places, crop_box or (0, 0, image.width, image.height)), smooth_px
    )
    known = np.isfinite(values)
    _check_varies(values[known])
    middle = (background_quantile + foreground_quantile) / 2
    low, half, high = np.quantile(values[known], [background_quantile, middle, foreground_quantile])
    labels = np.full(values.shape, cv2.GC_PR_BGD, dtype=np.uint8)
    labels[values > half] = cv2.GC_PR_FGD
    labels[values <= low] = cv2.GC_BGD
    labels[(values >= high) & (values > low)] = cv2.GC_FGD
    if box is not None:
        labels[~_rectangle(*places, box)] = cv2.GC_BGD
    if not (labels == cv2.GC_FGD).any():
        raise NotApplicable("The map is highest outside the rectangle; move it, or leave it out.")
    return labels


def _check_varies(values: NDArray[np.floating]) -> None:
    if not values.size:
        raise BadSetting("The map lies outside the picture; check crop_box.")
    if maps.is_flat(values):
        raise NotApplicable(
            "The map has the same value everywhere, so it does not say where the object is; choose another class, "
            "layer or method, or draw a rectangle."
        )


def _on_picture(values: FloatArray, places: tuple[Floats, Floats], crop_box: Box) -> FloatArray:
    """The map at places of the picture; not a number where it does not reach."""
    left, top, right, bottom = crop_box
    if not (left < right and top < bottom):
        raise BadSetting(f"crop_box is {crop_box}; give (left, top, right, bottom) with room in between.")
    rows, columns = places
    height, width = values.shape
    found = maps.sample(
        values, (rows - top) / (bottom - top) * height - 0.5, (columns - left) / (right - left) * width - 0.5
    )
    covered = np.outer((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
    return np.where(covered, found, np.float32(np.nan))


def _smoothed(values: FloatArray, sigma: float) -> FloatArray:
    """Each known place as the mean of the known ones around it."""
    known = np.isfinite(values)
    total, weight = (
        ndimage.gaussian_filter(part.astype(np.float64), sigma, mode="constant")
        for part in (np.where(known, values, 0), known)
    )
    smooth: FloatArray = np.divide(total, weight, out=np.full_like(total, np.nan), where=known).astype(np.float32)
    return smooth


def _cut(image: InputImage, labels: NDArray[np.uint8], num_iterations: int, method: str, *, keep_largest: bool) -> Mask:
    if num_iterations < 1:
        raise BadSetting(f"num_iterations is {num_iterations}; it must be 1 or more.")
    height, width = labels.shape
    pixels = cv2.resize(image.pixels, (width, height), interpolation=cv2.INTER_AREA)
    models = np.zeros((2, 1, 65))
    # The colours are first grouped by k-means, which draws from a generator that OpenCV keeps for each thread.
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels, labels, None, models[0], models[1], num_iterations, cv2.GC_INIT_WITH_MASK)
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not found.any():
        raise NotApplicable(
            "Nothing inside the rectangle differs in colour from what is outside; draw it tighter, or start from a map."
        )
    return Mask(_enlarged(_largest_part(found) if keep_largest else found, image), method)


def _largest_part(mask: Bools) -> Bools:
    """The largest of the parts of a mask that hang together, corners included."""
    parts, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    largest: Bools = parts == 1 + np.bincount(parts[mask])[1:].argmax()
    return largest


def _enlarged(mask: Bools, image: InputImage) -> Bools:
    """The mask at the picture's size, with smooth edges in place of steps."""
    size = (image.width, image.height)
    large: Bools = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    return large
