"""Trust: does a map show what the network really uses?

A map can look convincing and be wrong. Four questions find out:

- **Deletion and insertion.** Delete the places that the map calls important, most important first: the class's
  probability should fall at once. Insert them into a picture without content: it should rise at once. The areas under
  the two curves say how fast, and random orders beside them say how fast by chance.
- **Randomisation.** Destroy the network's weights, from the head down. A map that explains the network has to change
  with it. One that does not shows the picture's edges, not the network's reasons; guided backprop is the classic case.
- **Agreement.** Where methods that work in different ways rank the places of a picture alike, they support each other.
- **Context.** Replace the background, or the object, and ask again. A network that still says "soccer ball" when only
  the grass is left has learnt the grass.

When it misleads: an edited picture is one the network never saw, so a fall of the probability may come from the edges
of the fill and not from what it hides; try more than one fill. A map can pass the randomisation test and be wrong all
the same. Maps can agree because they share a weakness. And an object painted over in grey keeps its outline: where
that alone is recognised, the background looks guiltier than it is.

Source: Petsiuk et al., RISE (2018), for deletion and insertion; Blücher et al., Decoupling Pixel Flipping and
Occlusion Strategy (2024), for the symmetric relevance gain; Adebayo et al., Sanity Checks for Saliency Maps (2018), for
randomisation; Ribeiro et al., "Why Should I Trust You?" (2016), for networks that look at the background.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from cnnviz_core import images, maps
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.maps import FloatArray, MapLike
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import (
    Agreement,
    ContextEdit,
    ContextTest,
    Curves,
    Mask,
    Predictions,
    Randomization,
    Step,
)

Bools = NDArray[np.bool_]
Explain = Callable[[LoadedModel, InputImage], MapLike]
OnStep = Callable[[Step], None]

# Pictures that go through the network together.
_BATCH = 16

# The blur's standard deviation, and the least side of a random tile, as shares of the input's side.
_BLUR_SHARE = 1 / 12
_TILE_SHARE = 1 / 28

# A curve that ends within this of where it began has nothing to tell.
_MIN_FALL = 0.1

# How many standard deviations of the random orders' areas a map has to be away from their mean.
_SURE_DEVIATIONS = 2.0

# Median rank correlation over the steps of a randomisation from which on, or up to which, the case is clear.
_UNMOVED = 0.7
_MOVED = 0.4

# A part of the picture that keeps this share of the probability is enough for the network.
_ENOUGH = 0.5

# SSIM compares windows of 7 x 7.
_SSIM_PX = 7


@dataclass(frozen=True)
class Fill:
    """What can take the place of a part of a picture.

    Attributes:
        title: On the page.
        help: What it does, in a sentence.
        make: From the network, the crop's pixels and another photo's crop (the same where there is none) to the
            pixels that are put in place, all (H, W, 3).
        needs_other: Whether it needs another photo.
    """

    title: str
    help: str
    make: Callable[[LoadedModel, Pixels, Pixels], Pixels]
    needs_other: bool = False


def _blurred(_model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    sigma = min(pixels.shape[:2]) * _BLUR_SHARE
    return np.rint(ndimage.gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0))).astype(np.uint8)


def _mean_colour(_model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    return np.broadcast_to(np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8), pixels.shape)


def _network_grey(model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    return model.preprocessing.to_pixels(torch.zeros(1, model.preprocessing.num_channels, *pixels.shape[:2]))


def _black(_model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    return np.zeros_like(pixels)


def _other_photo(_model: LoadedModel, _pixels: Pixels, other: Pixels) -> Pixels:
    return other


FILLS: Mapping[str, Fill] = {
    "blur": Fill("Blur", "The same picture, so blurred that only large patches of colour are left.", _blurred),
    "mean": Fill("Mean colour", "The mean colour of what the network sees of this picture.", _mean_colour),
    "grey": Fill("Network’s grey", "The colour that the normalisation turns into zeros.", _network_grey),
    "black": Fill("Black", "Black pixels, which most networks read as a strong signal of their own.", _black),
    "photo": Fill("Another photo", "The same place in another photo.", _other_photo, needs_other=True),
}


# ---- deletion and insertion ---------------------------------------------------------------------------------------


def deletion_insertion(
    model: LoadedModel,
    image: InputImage,
    heatmap: MapLike,
    *,
    steps: int = 20,
    target: int | None = None,
    fill: str = "blur",
    seed: int = 0,
    num_random: int = 8,
    tile_px: int | None = None,
    on_step: OnStep | None = None,
) -> Curves:
    """How fast a class's probability falls as a map's important places go, and rises as they come.

    Pixels are ranked by the map, brought bilinearly to the input's size; places without a number come last. Deleting
    the most, the least, and tiles in random order gives the curves; insertion is deletion read from the other end.
    Tiles, since single pixels strewn over a picture disturb a network far more than a hole of the same area. They
    also decide between pixels of equal value.

    Args:
        model: A network with a classifier.
        image: Any picture.
        heatmap: A result with a map of this picture, or an array (h, w) over the whole crop: high where it matters.
        steps: Steps from the whole to the filled picture.
        target: Class index; None takes the top prediction.
        fill: A key of :data:`FILLS` that needs no other photo.
        seed: Of the random orders.
        num_random: How many random orders, at least 2.
        tile_px: Side of their tiles; None takes that of the map's cells, and at least a 28th of the input's side.
        on_step: Called after each batch, with the forwards done; what it raises ends the work.

    Returns:
        Probabilities and, from them, areas; ``relevance_gain`` depends least on the fill.

    Raises:
        BadSetting: A number out of range, no such class or fill, or something that is not a map.
        NotApplicable: The network has no classifier.
    """
    start = time.perf_counter()
    values = maps.read(heatmap)
    height, width = model.preprocessing.input_px
    _check_curves(steps, height * width, num_random, tile_px)
    target = _target(model, image, target)
    side = tile_px or round(max(height / values.shape[0], width / values.shape[1], max(height, width) * _TILE_SHARE, 1))
    draw = np.random.default_rng(seed)
    first = _order(values, (height, width), _tiles((height, width), side, draw))
    random = [np.argsort(_tiles((height, width), side, draw), kind="stable") for _ in range(num_random)]
    counts = np.rint(np.linspace(0, height * width, steps + 1)).astype(int)

    pixels = model.preprocessing.crop(image)
    filled = images.from_pixels(_fill(fill).make(model, pixels, pixels), name=fill)
    x, other = model.to_input(image), model.to_input(filled)
    found = _deletion_curves(model, x, other, [first, first[::-1], *random], counts, target, on_step)

    label = model.class_names[target]
    settings = {
        "steps": steps,
        "target": target,
        "fill": fill,
        "seed": seed,
        "num_random": num_random,
        "tile_px": side,
    }
    run = model.provenance(
        "trust.deletion_insertion", time.perf_counter() - start, image=image, **settings
    )
    fractions = (counts / counts[-1]).astype(np.float32)
    curves = Curves(fractions, found[0], found[1], found[2:], target, label, fill, "", replace(run, seed=seed))
    return replace(curves, verdict=_curves_verdict(curves))
