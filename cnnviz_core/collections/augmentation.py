"""Pictures varied for a training, so that what stays the same is learned: mirrored, cut closer, lighter or darker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALLEST_AREA = 0.5  # of the crop, that a closer cut keeps
_LIGHT = 0.2


@dataclass(frozen=True)
class Augmentation:
    """One way of varying pictures.

    Attributes:
        title: For menus.
        about: What it does and what it is good for.
        num_versions: How many fixed versions each picture has, itself the first, so that what the frozen layers make
            of them can be kept; None: another one every time, and nothing can be kept.
        vary: Makes that version, 1 or above, of normalised crops (N, C, H, W).
    """

    title: str
    about: str
    num_versions: int | None
    vary: Callable[[Tensor, int, torch.Generator], Tensor]


def _mirrored(x: Tensor, _version: int, _generator: torch.Generator) -> Tensor:
    return x.flip(3)


def _freely(x: Tensor, _version: int, generator: torch.Generator) -> Tensor:
    """Each picture cut closer at a place of its own, mirrored or not, lighter or darker."""
    is_turned = torch.rand((len(x), 1, 1, 1), generator=generator) < 0.5
    x = _upright(x, _version, generator)
    return torch.where(is_turned.to(x.device), x.flip(3), x)


def _upright(x: Tensor, _version: int, generator: torch.Generator) -> Tensor:
    """Each picture cut closer at a place of its own, lighter or darker."""
    draws = torch.rand((len(x), 5), generator=generator).tolist()
    return torch.cat([_one_upright(one, *draw) for one, draw in zip(x.split(1), draws, strict=True)])


def _one_upright(x: Tensor, area: float, down: float, across: float, gain: float, shift: float) -> Tensor:
    height, width = x.shape[2:]
    side = (_SMALLEST_AREA + (1 - _SMALLEST_AREA) * area) ** 0.5
    rows, columns = max(1, round(side * height)), max(1, round(side * width))
    top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
    cut = x[:, :, top : top + rows, left : left + columns]
    cut = F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)
    mean = cut.mean()
    return (cut - mean) * (1 + _LIGHT * (2 * gain - 1)) + mean + _LIGHT * (2 * shift - 1)


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": Augmentation("none", "Every picture as it is, which is the quickest.", 1, _mirrored),
    "mirror": Augmentation(
        "mirror",
        "Half of the time the mirror image: good for photos of things that may face either way. Costs one more pass "
        "before the first epoch.",
        2,
        _mirrored,
    ),
    "variants": Augmentation(
        "six variants",
        "Each picture and five fixed variants: cut closer, mirrored or not, lighter or darker. Costs five more passes "
        "before the first epoch.",
        6,
        _freely,
    ),
    "upright": Augmentation(
        "six variants, upright",
        "As the six variants, but never mirrored: for writing, digits, road signs, whatever a mirror would spoil.",
        6,
        _upright,
    ),
    "fresh": Augmentation(
        "fresh every time",
        "A new variant in every epoch: the strongest, for many epochs. Nothing can be kept from one epoch to the "
        "next, so each costs a pass through the whole network.",
        None,
        _freely,
    ),
}
