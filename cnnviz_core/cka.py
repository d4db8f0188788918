"""How alike two networks' answers to the same pictures are, layer by layer.

Linear CKA (centred kernel alignment) asks whether two layers find the same pictures alike, whatever their channels are
called: with the Gram matrices K = X Xᵀ and L = Y Yᵀ of the pictures' features,

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

HSIC is taken without bias (U-centred: zero diagonal, sums over n - 2 and (n - 1)(n - 2)), so that unrelated features
give 0 and not, as the usual estimate does, the nearer to 1 the fewer the pictures are. It can be a little below 0.

The correlation of channels asks more: whether channel c of one still does what channel c of the other did, over all
pictures and places.

When they mislead: CKA is ruled by the few directions of largest variance, and a handful of odd pictures can make it;
few pictures make it noisy. Both see only the pictures given.

Source: Kornblith et al., Similarity of Neural Network Representations Revisited (2019); the unbiased estimate: Song et
al., Feature Selection via Dependence Maximization (2012), equation 4, and Nguyen, Raghu and Kornblith (2021).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core.errors import BadSetting
from cnnviz_core.results import FloatArray

FEWEST = 4
# With fewer pictures the estimate is noisy, which is to be said.
ENOUGH = 300
# Cells of a layer's map that count apart: at most so many each way, and so many numbers per picture in all.
_MOST_CELLS = 4
_MOST_NUMBERS = 2048
# What varies by less than this share of its size does not vary.
_ROUNDING = 1e-6


def pooled(maps: Tensor) -> FloatArray:
    """(N, C, P) features of maps (N, C, h, w): each channel averaged over a coarse grid of P places.

    The grid has 4 x 4 places, fewer for layers of many channels, so that a picture has about 2,048 numbers at most;
    whole maps of all pictures would not fit into memory.
    """
    side = max(1, min(_MOST_CELLS, math.isqrt(_MOST_NUMBERS // maps.shape[1])))
    grid = (min(side, maps.shape[2]), min(side, maps.shape[3]))
    found: FloatArray = F.adaptive_avg_pool2d(maps.float(), grid).flatten(2).cpu().numpy()
    return found


def unbiased(x: FloatArray, y: FloatArray) -> float:
    """Linear CKA of two sets of features, at most 1; not a number where one of them is the same for all pictures.

    Args:
        x: (N, D), one row for each picture.
        y: (N, E), the same pictures.

    Raises:
        BadSetting: Fewer than four pictures, for which it is not defined.
    """
    if len(x) < FEWEST:
        raise BadSetting(f"CKA needs {FEWEST} pictures, and there are {len(x)}; choose a larger collection.")
    k, m = _centred_gram(x), _centred_gram(y)
    scale = math.sqrt(float((k * k).sum()) * float((m * m).sum()))
    return float((k * m).sum()) / scale if scale else float("nan")


def _centred_gram(features: FloatArray) -> NDArray[np.float64]:
    """The U-centred Gram matrix (N, N). The sum of products of two of them is HSIC times N (N - 3)."""
    n = len(features)
    rows = features.reshape(n, -1).astype(np.float64)
    rows -= rows.mean(axis=0)  # changes nothing but the rounding
    if np.abs(rows).max(initial=0) <= _ROUNDING * np.abs(features).max(initial=0):
        return np.zeros((n, n))
    gram: NDArray[np.float64] = rows @ rows.T
    np.fill_diagonal(gram, 0)
    sums = gram.sum(axis=0)
    centred: NDArray[np.float64] = gram + (sums.sum() / (n - 1) - sums[:, None] - sums[None, :]) / (n - 2)
    np.fill_diagonal(centred, 0)
    return centred


def channel_correlations(x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson's correlation of each channel with itself in the other network, (C,), -1..1.

    Not a number where a channel answers alike everywhere in one of them.

    Args:
        x: (N, C, P), as :func:`pooled` gives it.
        y: Likewise.
    """
    a, b = (values.astype(np.float64).swapaxes(0, 1).reshape(values.shape[1], -1) for values in (x, y))
    a, b = _varying(a), _varying(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlations: FloatArray = found.astype(np.float32)
    return correlations


def _varying(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows without their means; zeros where that leaves nothing but rounding."""
    centred: NDArray[np.float64] = rows - rows.mean(axis=1, keepdims=True)
    is_constant = np.abs(centred).max(axis=1) <= _ROUNDING * np.abs(rows).max(axis=1)
    centred[is_constant] = 0
    return centred
