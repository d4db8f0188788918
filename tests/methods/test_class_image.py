"""Class images: both ways climb, several classes at once, probabilities, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.methods import class_image
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import ClassImages, Step

SmallModel = Callable[[str], LoadedModel]


def make(model: LoadedModel, **settings: object) -> ClassImages:
    return class_image.synthesize(model, **{"classes": [0, 1], "steps": 16, "size_px": 20, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", class_image.METHODS)
@pytest.mark.parametrize("name", ["plain", "residual", "functional", "gelu", "depth_wise", "binary", "one_channel"])
def test_the_scores_climb(name: str, method: str, small_model: SmallModel) -> None:
    found = make(small_model(name), method=method, steps=30, learning_rate=0.1)
    gains = found.pictures.scores - found.pictures.start_scores
    # Steps of one length go to and fro where a score is at its end from the start, as one of each pair here is.
    assert (gains > 0).all() if method == "modern" else gains.max() > 0.3
    assert found.pictures.images.shape == (2, 20, 20, 3)
    assert found.pictures.names == ("cat", "dog")
    assert found.classes.tolist() == [0, 1]


@pytest.mark.parametrize("method", class_image.METHODS)
def test_several_classes_at_once_are_the_same_as_each_alone(method: str, tiny_model: LoadedModel) -> None:
    together, alone = make(tiny_model, method=method), make(tiny_model, method=method, classes=[1])
    np.testing.assert_allclose(together.pictures.images[1], alone.pictures.images[0], atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "binary"])
def test_probabilities_are_the_networks(name: str, small_model: SmallModel) -> None:
    model = small_model(name)
    found = make(model, size_px=16, classes=[1])
    x = (torch.from_numpy(found.pictures.images).permute(0, 3, 1, 2) - 0.5) / 0.5
    with torch.no_grad():
        expected = model.probabilities(model.scores(model.net(x)))[0, 1]
    assert found.probabilities[0] == pytest.approx(float(expected), rel=1e-4)


def test_ways_differ_and_settings_of_the_simple_one_count(tiny_model: LoadedModel) -> None:
    simple = make(tiny_model, method="simple").pictures.images
    assert np.abs(make(tiny_model).pictures.images - simple).max() > 0.01
    for changed in ({"l2": 0.05}, {"blur_every": 0}, {"jitter_px": 0}, {"learning_rate": 0.2}, {"seed": 1}):
        assert np.abs(make(tiny_model, method="simple", **changed).pictures.images - simple).max() > 1e-4, changed


def test_the_run_repeats_it(tiny_model: LoadedModel) -> None:
    found = make(tiny_model, method="simple", jitter_px=2)
    assert found.run.method == "class_image.synthesize"
    again = class_image.synthesize(tiny_model, **found.run.settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.pictures.images, found.pictures.images)


def test_progress_has_the_results_type_and_no_steps_give_the_start(tiny_model: LoadedModel) -> None:
    steps: list[Step] = []
    make(tiny_model, steps=2, on_step=steps.append)
    assert [step.done for step in steps] == [0, 2, 4]
    assert all(isinstance(step.partial, ClassImages) for step in steps)
    nothing = make(tiny_model, steps=0)
    np.testing.assert_array_equal(nothing.pictures.scores, nothing.pictures.start_scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": [3]}, "There is no class 3"),
        ({"classes": [-1]}, "There is no class -1"),
        ({"classes": []}, "at least one"),
        ({"method": "nonsense"}, "not one of modern, simple"),
        ({"method": "simple", "learning_rate": -1.0}, "learning_rate is -1"),
        ({"steps": -1}, "steps is -1"),
        ({"size_px": 2}, "size_px is 2"),
    ],
)
def test_what_is_not_there_is_refused(settings: dict[str, object], message: str, tiny_model: LoadedModel) -> None:
    with pytest.raises(BadSetting, match=message):
        make(tiny_model, **settings)


def test_a_network_without_classes_is_refused(small_model: SmallModel) -> None:
    with pytest.raises(NotApplicable, match="no classifier"):
        make(small_model("headless"))


def test_real_weights_are_convinced(lite0: LoadedModel) -> None:
    """Flamingo, small and short: from next to nothing to more than a half, calibrated at 64 px and 40 steps."""
    found = class_image.synthesize(lite0, classes=[130], steps=40, size_px=64)
    assert found.pictures.names == ("flamingo",)
    assert found.probabilities[0] > 0.5
