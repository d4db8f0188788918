"""Frozen result types.

Results hold raw float32 numpy on the CPU and how they were made; they can be pickled, cached and downloaded, and
keep no accelerator memory alive. Normalising and colour belong to :mod:`cnnviz_core.render`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """How a result was made.

    Attributes:
        model_id: The network, as :func:`cnnviz_core.models.load` names it.
        weights: "default", "random:SEED" or a checkpoint's name.
        weights_hash: Digest of the network's weights.
        method: Dotted name of the function, without the package: ``feature_maps.compute``.
        settings: The keyword arguments, defaults filled in.
        seconds: Wall time.
        image_digest: Digest of the picture, empty where none took part.
        seed: Seed of the random draw, None where nothing was drawn.
        preprocessing_changes: Fields of Preprocessing that were given in place of the published ones.
    """

    model_id: str
    weights: str
    weights_hash: str
    method: str
    settings: Mapping[str, object]
    seconds: float
    image_digest: str = ""
    seed: int | None = None
    preprocessing_changes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """The k most probable classes, best first; the four fields have one entry per class.

    Attributes:
        indices: Class indices.
        labels: Class names.
        probabilities: Softmax over all classes, 0..1; the sigmoid of each score for a network with a single score or
            one that ends in a sigmoid.
        logits: Scores before the softmax.
    """

    indices: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True)
class FeatureMaps:
    """What one layer put out for one picture.

    Attributes:
        values: (C, h, w) raw activations, after whatever the layer itself does.
        layer: The layer's dotted name.
        run: How it was made.
    """

    values: FloatArray
    layer: str
    run: Run


@dataclass(frozen=True)
class Kernels:
    """The weights of one convolution.

    Attributes:
        values: (O, I, kh, kw) raw weights; I is 1 for a depth-wise convolution.
        layer: The layer's dotted name.
        groups: Groups of the convolution; equal to the input channels for a depth-wise one.
        input_std: (I,) the input normalisation's standard deviation where the convolution reads the picture itself,
            else empty. On pixels the kernel acts as ``values / input_std``.
        run: How it was made.
    """

    values: FloatArray
    layer: str
    groups: int
    input_std: FloatArray
    run: Run

    @property
    def reads_image(self) -> bool:
        """Whether the convolution's input is the picture itself."""
        return len(self.input_std) > 0


@dataclass(frozen=True)
class Heatmap:
    """One value for each cell of a layer.

    Attributes:
        values: (h, w) raw, in the unit of the method.
        layer: The layer's dotted name.
        target: Class index; None where no class took part.
        target_label: The class's name; empty without a class.
        method: Key in the method's table: ``grad_cam``.
        run: How it was made.
    """

    values: FloatArray
    layer: str
    target: int | None
    target_label: str
    method: str
    run: Run


@dataclass(frozen=True)
class Step:
    """How far long work has come.

    Attributes:
        done: Units of work done.
        total: Units of work in all.
    """

    done: int
    total: int
