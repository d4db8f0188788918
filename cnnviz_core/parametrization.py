"""Pictures as numbers to be optimised: a spectrum with decorrelated colours, or plain pixels.

Gradient ascent on pixels favours high frequencies and drifts in colours that photos never show. The same ascent on
another description of the picture takes other steps: in the Fourier basis, each frequency scaled by its usual strength
in photos (amplitude falls as 1 / frequency), a step changes coarse and fine structure alike; and with colours described
by axes along which photos vary independently, brightness moves before hue.

Each picture is drawn from a generator of its own, so what it becomes does not depend on which others are in its batch.

Source: Olah, Mordvintsev and Schubert, Feature Visualization (2017); the colour matrix is Lucid's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Standard deviation of the numbers that a picture starts from.
_NOISE = 0.01
# What the inverse transform is divided by, so that such noise gives a faint picture.
_CALM = 4.0
# A square root of the covariance of colours in ImageNet's photos: columns are brightness, and two axes of hue.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
# Pixels at the ends of the range would need infinite numbers.
_MARGIN = 1e-3


@dataclass(frozen=True)
class Parametrization:
    """A way of writing pictures down.

    Attributes:
        size_px: (H, W) of the pictures.
        num_channels: Their channels; decorrelated colours need three.
        fourier: Numbers are a spectrum, scaled as in photos; else pixels.
        decorrelated: Numbers are along the axes of photos' colours; passed over unless there are three channels.
    """

    size_px: tuple[int, int]
    num_channels: int = 3
    fourier: bool = True
    decorrelated: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers for one picture: (C, H, W // 2 + 1, 2) for a spectrum, (C, H, W) for pixels."""
        height, width = self.size_px
        return (self.num_channels, height, width // 2 + 1, 2) if self.fourier else (self.num_channels, height, width)

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """Numbers of one faint noise picture for each seed, (n, *shape)."""
        return torch.stack(
            [_NOISE * torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    def pixels(self, numbers: Tensor) -> Tensor:
        """The pictures (n, C, H, W), values 0..1, of numbers (n, *shape)."""
        raw = self._from_spectrum(numbers) if self.fourier else numbers
        unit: Tensor = torch.sigmoid(self._mixed(raw, _colour_matrix(raw)))
        return unit

    def numbers(self, pixels: Tensor) -> Tensor:
        """The numbers (n, *shape) whose pictures are the given ones (n, C, H, W), values 0..1, up to rounding.

        Black and white become the darkest and brightest values that numbers can say, 0.001 and 0.999.
        """
        raw = self._mixed(torch.logit(pixels, eps=_MARGIN), torch.linalg.inv(_colour_matrix(pixels)))
        if not self.fourier:
            return raw
        spectrum = torch.fft.rfft2(_CALM * raw, norm="ortho") / self._scale(raw)
        return torch.view_as_real(spectrum).contiguous()

    def _from_spectrum(self, numbers: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(numbers) * self._scale(numbers)
        raw: Tensor = torch.fft.irfft2(spectrum, s=self.size_px, norm="ortho") / _CALM
        return raw

    def _scale(self, like: Tensor) -> Tensor:
        """Usual strength of each frequency, (H, W // 2 + 1): 1 / frequency, that of the lowest for a constant."""
        height, width = self.size_px
        rows = torch.fft.fftfreq(height, device=like.device)[:, None]
        columns = torch.fft.rfftfreq(width, device=like.device)[None]
        frequency = (rows**2 + columns**2).sqrt()
        scale: Tensor = 1 / frequency.clamp_min(1 / max(height, width))
        return scale

    def _mixed(self, raw: Tensor, matrix: Tensor) -> Tensor:
        if not self.decorrelated or self.num_channels != 3:
            return raw
        mixed: Tensor = torch.einsum("ij,njhw->nihw", matrix, raw)
        return mixed


def _colour_matrix(like: Tensor) -> Tensor:
    """(3, 3) from decorrelated to red, green and blue; the largest column has length 1."""
    colours = torch.tensor(_COLOURS, device=like.device, dtype=like.dtype)
    normalised: Tensor = colours / colours.norm(dim=0).max()
    return normalised
