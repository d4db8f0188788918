"""Pixels to the network's normalised input and back, with the geometry of resize and crop.

A network sees a resized, cropped and normalised picture, not the photo. Every map it makes lies on that crop, so the
crop's place in the photo is kept in original pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.results import FloatArray

Box = tuple[float, float, float, float]


class Sized(Protocol):
    """A picture, or what is known of one: its size in pixels."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...


_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Filters that torch applies to bytes as Pillow does, several times as fast.
_QUICK = ("bilinear", "bicubic")

_CROP_MODES = ("center", "squash")

# A picture whose resized form has more than this many times the crop's pixels is not resized whole.
_MAX_SURPLUS = 16


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input.

    The picture is resized so that the input covers the share ``crop_pct`` of it, and the middle is cut out. A picture
    of exactly the input size passes unchanged.

    Attributes:
        input_px: (H, W) of the input.
        mean: Per channel, subtracted from pixels scaled to 0..1.
        std: Per channel, divided by afterwards.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", with anti-aliasing.
        crop_pct: Share of the resized picture that the crop keeps along the shorter side, above 0 to 1.
        crop_mode: "center" keeps the picture's proportions; "squash" resizes both sides to the input's.
    """

    input_px: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise BadSetting(
                f"mean has {len(self.mean)} and std {len(self.std)} values; give one each for a grey input or three "
                "each for colour."
            )
        if not all(0 < value < math.inf for value in self.std):
            raise BadSetting(f"std is {self.std}; every value must be above 0.")
        if not all(map(math.isfinite, self.mean)):
            raise BadSetting(f"mean is {self.mean}; every value must be a finite number.")
        if len(self.input_px) != 2 or min(self.input_px) < 1 or max(self.input_px) > 4096:
            raise BadSetting(f"The input size is {self.input_px} px; give height and width, both between 1 and 4096.")
        if not 0 < self.crop_pct <= 1:
            raise BadSetting(f"crop_pct is {self.crop_pct}; it must lie above 0 and at most at 1.")
        if self.crop_mode not in _CROP_MODES:
            raise BadSetting(f"crop_mode is {self.crop_mode!r}, not one of {', '.join(_CROP_MODES)}.")
        if self.interpolation not in _FILTERS:
            raise BadSetting(f"interpolation is {self.interpolation!r}, not one of {', '.join(_FILTERS)}.")

    @property
    def num_channels(self) -> int:
        """Channels of the input: 3 for colour, 1 for grey."""
        return len(self.mean)

    def crop_box(self, image: Sized) -> Box:
        """(left, top, right, bottom) of what the network sees, in pixels of the original picture."""
        resized_h, resized_w = self.resized(image.height, image.width)
        left, top, right, bottom = self._corners(resized_h, resized_w)
        y, x = image.height / resized_h, image.width / resized_w
        return left * x, top * y, right * x, bottom * y

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the whole picture after resizing, before the crop."""
        if (height, width) == self.input_px:
            return height, width
        # A quotient that should be whole may come out just below.
        target_h, target_w = (int(side / self.crop_pct + 1e-6) for side in self.input_px)
        if self.crop_mode == "squash":
            return target_h, target_w
        if target_h != target_w:
            ratio = min(height / target_h, width / target_w)
            return round(height / ratio), round(width / ratio)
        # Rounded down as torchvision does it, so that the crop is the same to the pixel.
        if height <= width:
            return target_h, int(width * target_h / height)
        return int(height * target_w / width), target_w

    def _corners(self, resized_h: int, resized_w: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the crop in the resized picture."""
        height, width = self.input_px
        top, left = round((resized_h - height) / 2), round((resized_w - width) / 2)
        return left, top, left + width, top + height

    def crop(self, image: InputImage) -> NDArray[np.uint8]:
        """(H, W, 3) pixels that the network sees, before normalisation; a grey network's are grey.

        The pixels are those of torchvision's and timm's transforms. Pictures a great deal longer than wide are resized
        only where the crop lies, which rounds differently.
        """
        return self._crop(image.pil())

    def _crop(self, picture: Image.Image) -> NDArray[np.uint8]:
        picture = picture if self.num_channels == 3 else picture.convert("L")
        height, width = self.input_px
        resized_h, resized_w = self.resized(picture.height, picture.width)
        resampling = _FILTERS[self.interpolation]
        if self._is_wasteful(resized_h, resized_w):
            picture = picture.resize((width, height), resampling, box=self.crop_box(picture))
        else:
            picture = picture.resize((resized_w, resized_h), resampling).crop(self._corners(resized_h, resized_w))
        return np.asarray(picture.convert("RGB"))

    def _is_wasteful(self, resized_h: int, resized_w: int) -> bool:
        """Whether so little of the resized picture is kept that only that part is made."""
        height, width = self.input_px
        return resized_h * resized_w > _MAX_SURPLUS * height * width

    def quick_crop(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) as :meth:`crop` of a picture with these pixels (H, W, 3), in less time.

        One value in 200 is rounded the other way, by 1 of 255.
        """
        size = self.resized(*pixels.shape[:2])
        if self.interpolation not in _QUICK or size == pixels.shape[:2] or self._is_wasteful(*size):
            return self._crop(Image.fromarray(pixels))
        if self.num_channels == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
        # Told to be one picture with its channels side by side, torch need not sort them into planes first.
        planes = torch.from_numpy(np.require(pixels, requirements="W").reshape(1, *pixels.shape).transpose(0, 3, 1, 2))
        whole = F.interpolate(planes, size, mode=self.interpolation, antialias=True).numpy()
        left, top, right, bottom = self._corners(*size)
        crop: NDArray[np.uint8] = whole[0, :, top:bottom, left:right].transpose(1, 2, 0)
        return crop.copy()  # so that the rest is not kept

    def to_input(self, image: InputImage) -> Tensor:
        """Normalised input, (1, 3, H, W) float32; (1, 1, H, W) for a grey network."""
        return self.normalise(self.crop(image)[None]).contiguous()

    def normalise(self, crops: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Tensor:
        """Normalised input (N, C, H, W) float32 of N crops (H, W, 3), a place's channels side by side in memory.

        Raises:
            ValueError: The crops differ in size, or are not of bytes.
        """
        height, width = crops[0].shape[:2] if len(crops) else self.input_px
        # Else the table's results would lie elsewhere.
        if any(crop.shape != (height, width, 3) or crop.dtype != np.uint8 for crop in crops):
            raise ValueError("crops of one size and of bytes (H, W, 3) make one input, others do not")
        x = np.empty((len(crops), height, width, self.num_channels), np.float32)
        for mine, crop in zip(x, crops, strict=True):
            cv2.LUT(crop[..., : self.num_channels], self._normalised, dst=mine)
        return torch.from_numpy(x).permute(0, 3, 1, 2)

    def to_pixels(self, x: Tensor) -> NDArray[np.uint8]:
        """(H, W, 3) pixels of a normalised input (1, C, H, W); values outside 0..255 are clipped."""
        unit = x[0].detach().cpu() * self._per_channel(self.std) + self._per_channel(self.mean)
        pixels = (unit.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
        return pixels.expand(-1, -1, 3).numpy().copy()

    @cached_property
    def _normalised(self) -> FloatArray:
        """What the network gets for each value of a pixel, (1, 256, C)."""
        unit = torch.arange(256, dtype=torch.float32)[:, None] / 255
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (self.mean, self.std))
        table: FloatArray = unit.sub(mean).div(std)[None].numpy()
        return table

    @staticmethod
    def _per_channel(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
