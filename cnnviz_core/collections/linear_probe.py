"""A linear probe: what features that do not change give away by themselves, the yardstick of every training.

Its scores are as sharp as suits the validation pictures. A strong pull towards 0 leaves a probe that is right but
unsure of everything; a training that starts from it would lower the loss by growing surer alone, bending the features
to that end, and each epoch would look better than the probe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression

from cnnviz_core.collections.splitting import Split
from cnnviz_core.results import FloatArray

_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
_MOST_ITERATIONS = 1000
_TOLERANCE = 1e-3
_SHARPNESS = (-7.0, 7.0)  # powers of e

_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on features that do not change.

    Attributes:
        weight: (K, D).
        bias: (K,).
        strength: Inverse strength of the pull towards 0, chosen on the validation pictures.
        validation_accuracy: There, 0..1.
    """

    weight: FloatArray
    bias: FloatArray
    strength: float
    validation_accuracy: float

    def answers(self, vectors: FloatArray) -> NDArray[np.int64]:
        """(N,) the class of each vector (N, D)."""
        answers: NDArray[np.int64] = (vectors @ self.weight.T + self.bias).argmax(axis=1)
        return answers


def fit(vectors: FloatArray, split: Split) -> LinearProbe:
    """Logistic regression on features of the training pictures, as strongly regularised as suits the validation ones.

    Args:
        vectors: (N, D), of the pictures that were split.
        split: Who is in which part.
    """
    # One scale for all features: with one for each, those that hardly vary would get weights that a small change of
    # the layers below blows up.
    mean = vectors[split.training].mean(axis=0, dtype=np.float64)
    centred = vectors[split.training] - mean
    scale = float(centred.std()) or 1.0
    fits = [_fit(vectors, split, centred / scale, mean, scale, strength=strength) for strength in _STRENGTHS]
    best = max(fits, key=lambda probe: probe.validation_accuracy)  # of equals the most strongly regularised
    factor = np.float32(_sharpness(vectors[split.validation], split.targets[split.validation], best))
    return replace(best, weight=factor * best.weight, bias=factor * best.bias)


def _sharpness(vectors: FloatArray, targets: NDArray[np.int64], probe: LinearProbe) -> float:
    """The factor on the scores with which their probabilities fit best; it changes no answer.

    Each label counts as wrong with a probability of one in the pictures and two (Platt 1999), since scores that are all
    right would fit the better the larger the factor.
    """
    scores = (vectors @ probe.weight.T + probe.bias).astype(np.float64)
    wrong = 1 / (len(targets) + 2)
    shares = np.full(scores.shape, wrong / (scores.shape[1] - 1))
    shares[np.arange(len(targets)), targets] = 1 - wrong

    def loss(power: float) -> float:
        return -float((shares * special.log_softmax(np.exp(power) * scores, axis=1)).sum())

    return float(np.exp(optimize.minimize_scalar(loss, bounds=_SHARPNESS, method="bounded").x))


def _fit(
    vectors: FloatArray, split: Split, fitted: _Numbers, mean: _Numbers, scale: float, *, strength: float
) -> LinearProbe:
    regression = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS, tol=_TOLERANCE)
    regression.fit(fitted, split.targets[split.training])
    weight, bias = regression.coef_ / scale, regression.intercept_
    if len(weight) == 1:  # two classes: one score, for the second
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    probe = LinearProbe(weight.astype(np.float32), (bias - weight @ mean).astype(np.float32), strength, 0.0)
    right = probe.answers(vectors[split.validation]) == split.targets[split.validation]
    return replace(probe, validation_accuracy=float(right.mean()))
