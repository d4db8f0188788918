"""Random views of a picture: what is to excite a network whichever way it is held up.

A picture optimised for one exact position fills with patterns that only the network sees. Shown a little shifted,
scaled and turned at each step, it keeps what survives that. The views of the literature, padding, a random crop, a
scale, a rotation and another crop, are one affine map of the plane; so a batch is resampled once, each picture by the
draws of its own generator.

Source: Olah, Mordvintsev and Schubert, Feature Visualization (2017), with Lucid's ranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_NUM_DRAWS = 6
# What lies beyond the picture's border.
_GREY = 0.5


@dataclass(frozen=True)
class Views:
    """How far views differ; lengths are shares of the picture's side.

    Attributes:
        first_shift: Largest shift before scaling and turning, to either side.
        last_shift: Largest shift after them.
        scale: Largest change of size: 0.1 is from 0.9 to 1.1 times.
        degrees: Largest rotation, to either side.
        still: Share of the views that are not turned.
    """

    first_shift: float = 1 / 32
    last_shift: float = 1 / 64
    scale: float = 0.1
    degrees: float = 10.0
    still: float = 0.2

    def draw(self, seeds: Sequence[int], steps: int) -> Tensor:
        """(steps, n, 2, 3) affine maps from places of the view to places of the picture, both in -1..1.

        A picture's first maps are the same however many follow, and whichever others are drawn.
        """
        # Beside the picture's own noise, which comes from the same seed.
        generators = [torch.Generator().manual_seed(seed + 2**62) for seed in seeds]
        draws = [torch.rand((steps, _NUM_DRAWS), generator=generator) for generator in generators]
        return self._maps(torch.stack(draws, dim=1)) if draws else torch.empty((steps, 0, 2, 3))

    def _maps(self, draws: Tensor) -> Tensor:
        """Affine maps for numbers 0..1, (..., 6)."""
        across, down, size, turn, late_across, late_down = (2 * draws - 1).unbind(-1)
        factor = 1 / (1 + self.scale * size)
        # The outermost draws stand for no turn at all; the rest is stretched over the whole range.
        angle = math.radians(self.degrees) * torch.where(turn.abs() > 1 - self.still, 0.0, turn / (1 - self.still))
        cosine, sine = factor * angle.cos(), factor * angle.sin()
        # Shares of the side, in units of half a side; backwards from the view: late shift, turn, scale, first shift.
        late_x, late_y = 2 * self.last_shift * late_across, 2 * self.last_shift * late_down
        x = 2 * self.first_shift * across + cosine * late_x - sine * late_y
        y = 2 * self.first_shift * down + sine * late_x + cosine * late_y
        rows = (torch.stack((cosine, -sine, x), dim=-1), torch.stack((sine, cosine, y), dim=-1))
        return torch.stack(rows, dim=-2)


def view(pixels: Tensor, maps: Tensor | None, size_px: tuple[int, int]) -> Tensor:
    """The pictures (n, C, H, W), values 0..1, seen through affine maps, at the size of the view.

    Args:
        pixels: Pictures; beyond their border lies mid grey.
        maps: (n, 2, 3) as :meth:`Views.draw` gives them for one step; None looks straight at the pictures.
        size_px: (H, W) of what comes out.
    """
    if maps is None:
        if tuple(pixels.shape[-2:]) == size_px:
            return pixels
        return F.interpolate(pixels, size_px, mode="bilinear", align_corners=False, antialias=True)
    grid = F.affine_grid(maps.to(pixels), [len(pixels), pixels.shape[1], *size_px], align_corners=False)
    return F.grid_sample(pixels - _GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + _GREY
