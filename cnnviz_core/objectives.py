"""What a picture is to excite: a number to be raised, read off what a layer put out.

Each objective belongs to one picture, so a batch may hold pictures with different ones. For the layer's output z of one
picture, (C, h, w) or, where the layer puts out a vector, (C,):

    channel        sign * mean over places of z[k]
    unit           sign * z[k, row, column]
    combination    sum over k of weight_k * mean of z[k]: sums and differences of channels
    direction      mean over places of cos(z[:, place], v)
    energy         mean of z squared, as deep dreams raise it

and for the class scores of one picture, (K,), the score of one class.

Source: Olah, Mordvintsev and Schubert, Feature Visualization (2017); Mordvintsev et al., Inceptionism (2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core.errors import BadSetting
from cnnviz_core.layers import LayerInfo


class Objective(Protocol):
    """What one picture is to excite."""

    def __call__(self, z: Tensor) -> Tensor:
        """The number that is to grow, from what the layer put out for the picture, (C, h, w) or (C,)."""
        ...

    def peak(self, z: Tensor) -> Tensor:
        """The same at its strongest place, where it is a mean over places."""
        ...


@dataclass(frozen=True)
class Combination:
    """Channels weighed and added: one channel, its opposite, sums, differences.

    Attributes:
        channels: Their numbers.
        weights: One for each.
    """

    channels: tuple[int, ...]
    weights: tuple[float, ...]

    def __call__(self, z: Tensor) -> Tensor:
        """Sum of weight times mean of the channel."""
        return self._map(z).mean()

    def peak(self, z: Tensor) -> Tensor:
        """Largest sum over the places."""
        return self._map(z).max()

    def _map(self, z: Tensor) -> Tensor:
        weighed: Tensor = torch.tensordot(z.new_tensor(self.weights), z[list(self.channels)], dims=1)
        return weighed


@dataclass(frozen=True)
class Unit:
    """One channel at one place.

    Attributes:
        channel: Its number.
        cell: (row, column) of the map; None for the middle of whatever map comes.
        sign: 1 to excite, -1 to inhibit.
    """

    channel: int
    cell: tuple[int, int] | None = None
    sign: int = 1

    def __call__(self, z: Tensor) -> Tensor:
        """The unit's activation times the sign."""
        row, column = self.cell or (z.shape[1] // 2, z.shape[2] // 2)
        activation: Tensor = self.sign * z[self.channel, row, column]
        return activation

    peak = __call__


@dataclass(frozen=True)
class Direction:
    """A direction in the space of a layer's channels.

    Attributes:
        vector: (C,) of any length.
    """

    vector: tuple[float, ...]

    def __call__(self, z: Tensor) -> Tensor:
        """Mean cosine with the direction, -1..1."""
        return self._map(z).mean()

    def peak(self, z: Tensor) -> Tensor:
        """Largest cosine over the places."""
        return self._map(z).max()

    def _map(self, z: Tensor) -> Tensor:
        return F.cosine_similarity(
            z.flatten(1) if z.ndim > 1 else z[:, None], z.new_tensor(self.vector)[:, None], dim=0
        )


@dataclass(frozen=True)
class Energy:
    """Whatever the layer answers, more of it.

    Attributes:
        channel: Of one channel only; None for all.
    """

    channel: int | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Mean square of the activations."""
        return (z if self.channel is None else z[self.channel]).square().mean()

    peak = __call__


@dataclass(frozen=True)
class ClassScore:
    """The score of one class.

    Attributes:
        index: The class.
        sign: 1 to excite, -1 to inhibit.
    """

    index: int
    sign: int = 1

    def __call__(self, z: Tensor) -> Tensor:
        """The class's entry of the scores (K,) times the sign."""
        score: Tensor = self.sign * z[self.index]
        return score

    peak = __call__


def channel(number: int, *, sign: int = 1) -> Combination:
    """The mean of one channel, or with sign -1 its opposite."""
    return Combination((number,), (float(sign),))


def check_channels(info: LayerInfo, channels: tuple[int, ...]) -> None:
    """Passes where the layer has all of these channels.

    Raises:
        BadSetting: It has not, or none is asked for.
    """
    if not channels:
        raise BadSetting("No channel is asked for; name at least one.")
    for number in channels:
        if not 0 <= number < info.num_channels:
            raise BadSetting(
                f"There is no channel {number} in {info.name}; it has channels 0 to {info.num_channels - 1}."
            )


def check_cell(info: LayerInfo, cell: tuple[int, int] | None, cells: tuple[int, int] | None) -> None:
    """Passes where there is such a unit; None asks for the middle.

    Args:
        info: The layer.
        cell: (row, column).
        cells: (h, w) of the map that the pictures lead to; None where the layer puts out a vector.

    Raises:
        BadSetting: The layer puts out a vector, or the cell lies outside the map.
    """
    if cells is None:
        raise BadSetting(
            f"{info.name} puts out a vector, which has no places; choose the objective channel, or a layer with maps."
        )
    if cell is not None and not (0 <= cell[0] < cells[0] and 0 <= cell[1] < cells[1]):
        raise BadSetting(
            f"There is no unit at row {cell[0]}, column {cell[1]}: for pictures of this size {info.name} puts out "
            f"{cells[0]} x {cells[1]} cells, counted from 0."
        )


def gram(z: Tensor) -> Tensor:
    """Which channels answer together, (n, C, C), for maps (n, C, h, w); each of length 1."""
    flat = z.flatten(2)
    products = flat @ flat.transpose(1, 2)
    return F.normalize(products.flatten(1), dim=1, eps=torch.finfo(z.dtype).tiny).view_as(products)


def likeness(z: Tensor) -> Tensor:
    """How alike the textures of pictures of one thing are: the sum of <G_i, G_j> over pairs i != j, per picture.

    Lowering it makes the pictures show different sides of what excites the same channel.

    Args:
        z: Maps of these pictures, (n, C, h, w).
    """
    flat = gram(z).flatten(1)
    alike = flat @ flat.T
    return (alike.sum() - alike.diagonal().sum()) / len(z)
