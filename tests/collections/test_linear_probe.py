"""The linear probe against scikit-learn’s own answers, and against noise."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from cnnviz_core.collections import linear_probe
from cnnviz_core.collections.splitting import Split


def made(num_classes: int, *, separation: float) -> tuple[np.ndarray, Split]:
    draw = np.random.default_rng(0)
    targets = np.arange(90) % num_classes
    vectors = draw.normal(0, 1, (90, 5)) + separation * np.eye(num_classes, 5)[targets] + 7
    order = draw.permutation(90)
    parts = np.split(order, [50, 70])
    split = Split(tuple("abc"[:num_classes]), targets, *(np.sort(part) for part in parts), notices=())
    return vectors.astype(np.float32), split


def test_it_answers_as_scikit_learn_does() -> None:
    for num_classes in (2, 3):
        vectors, split = made(num_classes, separation=2)
        found = linear_probe.fit(vectors, split)
        trained = vectors[split.training].astype(np.float64)
        scale = (trained - trained.mean(axis=0)).std()
        peer = LogisticRegression(C=found.strength, max_iter=5000, tol=1e-6)
        peer.fit((trained - trained.mean(axis=0)) / scale, split.targets[split.training])
        expected = peer.predict((vectors - trained.mean(axis=0)) / scale)
        assert (found.answers(vectors) == expected).mean() > 0.98
        assert found.weight.shape == (num_classes, 5)
        right = found.answers(vectors[split.validation]) == split.targets[split.validation]
        assert found.validation_accuracy == right.mean()


def test_probabilities_are_as_sure_as_the_answers_are_right() -> None:
    """Two classes on a line: by hand, the best factor turns scores into log odds of what was right that often."""
    targets = np.array([0, 0, 0, 1] * 10)
    vectors = np.ones((40, 1), np.float32)
    probe = linear_probe.LinearProbe(np.array([[5], [-5]], np.float32), np.zeros(2, np.float32), 1.0, 0.75)
    right = 30 * 41 / 42 + 10 / 42
    expected = np.log(right / (40 - right)) / 10
    assert np.isclose(linear_probe._sharpness(vectors, targets, probe), expected, rtol=1e-3)


def test_sharpness_has_a_bound_where_all_is_right() -> None:
    vectors, split = made(2, separation=50)
    found = linear_probe.fit(vectors, split)
    assert found.validation_accuracy == 1
    scores = vectors @ found.weight.T + found.bias
    margins = np.abs(scores[:, 0] - scores[:, 1])[split.validation]
    assert 1 < margins.mean() < 10, "some 95 % sure after 20 pictures, not 100"


def test_constant_features_do_no_harm() -> None:
    vectors, split = made(3, separation=0)
    vectors[:] = 1
    assert np.isfinite(linear_probe.fit(vectors, split).weight).all()
