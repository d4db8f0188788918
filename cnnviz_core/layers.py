"""The layers of a network, as one dry run shows them.

A layer is a module that puts out a map or a vector for each picture, named by its dotted name in ``named_modules()``;
one that is called several times is described by its last answer. Layers whose maps have the same number of cells form a
stage; going through the stages is going through depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import overload

from torch import nn

from cnnviz_core.errors import UnknownLayer, did_you_mean
from cnnviz_core.probe import DryRun, ModuleCall
from cnnviz_core.receptive_field import ReceptiveField


@dataclass(frozen=True)
class LayerInfo:
    """One layer.

    Attributes:
        name: Dotted name.
        kind: The module's type: "Conv2d", "BasicBlock".
        shape: Shape of its output for one picture: (C, h, w), or (D,) for a vector.
        channel_dim: The channel dimension of the raw output with its batch dimension: 1, or 3 for (N, h, w, C).
        stride_px: Input pixels from one cell to the next, vertically; None for vectors and where it is not known.
        receptive_field: Window of input pixels that each cell sees; None where it is not known.
        num_params: Parameters in the module, its children included.
        num_calls: How often one forward calls it.
        is_convolution: Whether it is a Conv2d.
        is_block: Whether it holds convolutions or linear layers.
        is_rectified: Whether it put out no negative value in the dry run, as after a ReLU.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    channel_dim: int
    stride_px: float | None
    receptive_field: ReceptiveField | None
    num_params: int
    num_calls: int
    is_convolution: bool
    is_block: bool
    is_rectified: bool

    @property
    def num_channels(self) -> int:
        """Channels of a map, or length of a vector."""
        return self.shape[0]

    @property
    def cells(self) -> tuple[int, int] | None:
        """(h, w) of the map; None for a vector."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else None

    @property
    def is_spatial(self) -> bool:
        """Whether the output is a map with more than one cell."""
        return self.cells is not None and self.cells != (1, 1)


@dataclass(frozen=True)
class Stage:
    """All layers whose maps have the same number of cells.

    Attributes:
        cells: (h, w).
        layers: In order of their first answer.
        representative: Name of the layer that sums the stage up: its last block, or its end where only that is
            rectified.
    """

    cells: tuple[int, int]
    layers: tuple[LayerInfo, ...]
    representative: str


class LayerTree(Sequence[LayerInfo]):
    """The layers of a network in the order in which they answer; find one by position or by name."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        self._layers = tuple(layers)
        self._by_name = {layer.name: layer for layer in layers}

    @overload
    def __getitem__(self, key: int | str) -> LayerInfo: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[LayerInfo]: ...
    def __getitem__(self, key: int | str | slice) -> LayerInfo | Sequence[LayerInfo]:
        """The layer of that name or position.

        Raises:
            UnknownLayer: No layer of that name; the message names near matches.
        """
        if not isinstance(key, str):
            return self._layers[key]
        if key not in self._by_name:
            raise UnknownLayer(f"The network has no layer {key!r}.{did_you_mean(key, self._by_name)}")
        return self._by_name[key]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerInfo]:
        return iter(self._layers)

    def __contains__(self, key: object) -> bool:
        return key in self._by_name or key in self._layers

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(self._by_name)

    @cached_property
    def spatial(self) -> tuple[LayerInfo, ...]:
        """The layers whose output is a map with more than one cell."""
        return tuple(layer for layer in self if layer.is_spatial)

    @cached_property
    def convolutions(self) -> tuple[LayerInfo, ...]:
        """The two-dimensional convolutions."""
        return tuple(layer for layer in self if layer.is_convolution)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The spatial layers by map size, from the finest to the coarsest map."""
        by_size = sorted(self.spatial, key=lambda layer: (-_num_cells(layer), layer.cells))
        stages: list[Stage] = []
        for cells, group in groupby(by_size, key=lambda layer: layer.cells):
            layers = tuple(group)
            finer = [stage.representative for stage in stages]
            stages.append(Stage(cells or (1, 1), layers, _representative(layers, finer)))
        return tuple(stages)

    @cached_property
    def landmarks(self) -> tuple[str, ...]:
        """Names of an early, a middle and a late layer; fewer where the network has fewer, empty without maps."""
        if len(self.stages) == 1:  # never reduced: by order alone
            layers = self.stages[0].layers
            names = [layers[i].name for i in (0, len(layers) // 2, len(layers) - 1)]
        else:
            picks = (0, len(self.stages) // 2, len(self.stages) - 1) if self.stages else ()
            names = [self.stages[i].representative for i in picks]
        return tuple(dict.fromkeys(names))


def describe(net: nn.Module, run: DryRun) -> LayerTree:
    """The layers that answered in a dry run of the network."""
    modules = dict(net.named_modules())
    calls: dict[str, list[ModuleCall]] = {}
    for call in run.module_calls:
        calls.setdefault(call.name, []).append(call)
    channel_dims = _channel_dims({name: made[-1] for name, made in calls.items() if name})
    return LayerTree([_layer(name, modules[name], calls[name], dim) for name, dim in channel_dims.items()])


def _channel_dims(calls: Mapping[str, ModuleCall]) -> dict[str, int]:
    """For each output that is a map or a vector of the one picture its channel dimension: 1, or 3 for (N, h, w, C)."""
    fitting = {name: call for name, call in calls.items() if len(call.shape) in (2, 4) and call.shape[0] == 1}
    placed = {name: _placed_channel_dim(call) for name, call in fitting.items()}
    sizes = {(1, 1)} | {_cells(fitting[name].shape, dim) for name, dim in placed.items() if dim} - {()}
    # Where attention has mixed the places, a map still has the size of another map; its tables and windows have not.
    dims = {
        name: dim or next((d for d in (1, 3) if _cells(fitting[name].shape, d) in sizes), None)
        for name, dim in placed.items()
    }
    return {name: dim for name, dim in dims.items() if dim}


def _placed_channel_dim(call: ModuleCall) -> int | None:
    """The channel dimension, from where the picture's rows and columns ended up."""
    if len(call.shape) == 2:
        return 1
    if call.window is None:
        return None
    for channel_dim, places in ((1, (-2, -1)), (3, (-3, -2))):
        if all(
            axis.dim == place or (axis.dim is None and call.shape[place] == 1)
            for axis, place in zip(call.window.axes(), places, strict=True)
        ):
            return channel_dim
    return None


def _cells(shape: tuple[int, ...], channel_dim: int) -> tuple[int, ...]:
    return shape[2:] if channel_dim == 1 else shape[1:3]


def _layer(name: str, module: nn.Module, calls: Sequence[ModuleCall], channel_dim: int) -> LayerInfo:
    last = calls[-1]
    shape = last.shape[1:]
    window = last.window
    return LayerInfo(
        name=name,
        kind=type(module).__name__,
        shape=shape if channel_dim == 1 else (shape[-1], *shape[:-1]),
        channel_dim=channel_dim,
        stride_px=window.rows.jump if window and 0 < window.rows.jump < math.inf else None,
        receptive_field=window if window and window.is_known else None,
        num_params=sum(p.numel() for p in module.parameters()),
        num_calls=len(calls),
        is_convolution=isinstance(module, nn.Conv2d),
        is_block=any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in module.modules() if m is not module),
        is_rectified=all(call.is_rectified for call in calls),
    )


def _num_cells(layer: LayerInfo) -> int:
    return layer.shape[1] * layer.shape[2]


def _representative(layers: Sequence[LayerInfo], finer: Sequence[str]) -> str:
    """The last of the outermost blocks within the stage, unless only the end of the stage is rectified."""
    blocks = [
        layer for layer in layers if layer.is_block and not any(name.startswith(f"{layer.name}.") for name in finer)
    ]
    depth = min((layer.name.count(".") for layer in blocks), default=0)
    outermost = [layer for layer in blocks if layer.name.count(".") == depth]
    best = (outermost or layers)[-1]
    rectified = [layer for layer in layers[-3:] if layer.is_rectified]
    return rectified[-1].name if rectified and not best.is_rectified else best.name
