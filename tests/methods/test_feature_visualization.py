"""Pictures of channels: one result for many, progress, failures, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cnnviz_core import errors, synthesis
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.methods import class_image, feature_visualization
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Step, Synthesis

SMALL = {"steps": 6, "size_px": 20}


def make(model: LoadedModel, image: InputImage | None = None, **settings: object) -> Synthesis:
    return feature_visualization.synthesize(model, image, **{"layer": "conv2", "channels": [0], **SMALL, **settings})  # type: ignore[arg-type]


def test_many_channels_in_batches_are_the_same_as_each_alone(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "BATCH_SIZE", 4)
    together = make(tiny_model, channels=[0, 1, 2, 3, 4, 5])
    assert together.images.shape == (6, 20, 20, 3)
    assert together.names == tuple(f"channel {c}" for c in range(6))
    assert together.histories.shape == (6, 6)
    for channel in (0, 5):
        alone = make(tiny_model, channels=[channel])
        np.testing.assert_allclose(together.images[channel], alone.images[0], atol=1e-4)
        np.testing.assert_allclose(together.scores[channel], alone.scores[0], rtol=1e-4)


def test_progress_grows_and_ends_with_everything(tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "BATCH_SIZE", 2)
    monkeypatch.setattr(synthesis, "_PARTIAL_SECONDS", 0.0)
    steps: list[Step] = []
    done = make(tiny_model, channels=[0, 1, 2], on_step=steps.append)
    assert [step.done for step in steps] == [0, 2, 4, 6, 8, 10, 12, 12, 13, 14, 15, 16, 17, 18]
    assert {step.total for step in steps} == {18}
    partials = [step.partial for step in steps]
    assert all(isinstance(partial, Synthesis) for partial in partials)
    assert [len(partial.images) for partial in partials] == [2] * 7 + [3] * 7  # type: ignore[attr-defined]
    np.testing.assert_array_equal(partials[-1].images, done.images)  # type: ignore[attr-defined]
    assert np.isnan(partials[8].histories[2, 1:]).all()  # type: ignore[attr-defined]


def test_a_cancel_before_the_first_step_ends_it(tiny_model: LoadedModel) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(step: Step) -> None:
        assert step.done == 0
        raise Cancelled

    with pytest.raises(Cancelled):
        make(tiny_model, on_step=cancel)


@pytest.mark.parametrize(
    ("settings", "num", "name"),
    [
        ({"objective": "unit", "cell": (1, 2)}, 1, "unit of channel 0"),
        ({"objective": "unit"}, 1, "unit of channel 0"),
        ({"objective": "sum", "channels": [0, 3]}, 1, "0 + 3"),
        ({"objective": "difference", "channels": [0, 3]}, 1, "0 - 3"),
        ({"objective": "direction", "channels": [], "direction": [1.0, 0, 0, 0, 0, -1.0]}, 1, "direction"),
        ({"objective": "energy", "channels": []}, 1, "energy"),
        ({"objective": "class", "layer": "", "channels": [], "classes": [1, 2]}, 2, "dog"),
        ({"objective": "class", "layer": "", "channels": [], "classes": [1], "sign": -1}, 1, "dog"),
        ({"sign": -1}, 1, "channel 0"),
        ({"layer": "fc", "channels": [2]}, 1, "channel 2"),
        ({"variants": 3}, 3, "channel 0"),
    ],
)
def test_every_objective_climbs(settings: dict[str, object], num: int, name: str, tiny_model: LoadedModel) -> None:
    found = make(tiny_model, **{**settings, "steps": 16})
    assert len(found.images) == num
    assert found.names[0] == name
    assert (found.scores > found.start_scores).all()
    assert (found.peaks >= found.scores - 1e-6).all()


def test_a_class_is_the_class_image_of_the_same_seed(tiny_model: LoadedModel) -> None:
    found = make(tiny_model, objective="class", classes=[2, 0])
    others = class_image.synthesize(tiny_model, classes=[2, 0], **SMALL)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.images, others.pictures.images)
    assert (found.names, found.layer) == (("bird", "cat"), "")
    mean, std = (
        np.array(values, np.float32) for values in (tiny_model.preprocessing.mean, tiny_model.preprocessing.std)
    )
    x = torch.from_numpy((found.images - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = tiny_model.net(x).numpy()
    np.testing.assert_allclose(found.scores, logits[[0, 1], [2, 0]], rtol=1e-4)


def test_a_class_of_a_network_without_classifier_is_refused(small_model: Callable[[str], LoadedModel]) -> None:
    with pytest.raises(NotApplicable, match="no classifier, so there are no class scores"):
        make(small_model("headless"), objective="class", classes=[0])


def test_each_ingredient_changes_the_picture(tiny_model: LoadedModel) -> None:
    usual = make(tiny_model)
    for name in ("fourier", "decorrelated", "robust"):
        assert np.abs(make(tiny_model, **{name: False}).images - usual.images).max() > 1e-3, name


def test_variants_begin_at_seeds_that_follow(tiny_model: LoadedModel) -> None:
    variants = make(tiny_model, variants=2, diversity=0.0, seed=4)
    np.testing.assert_allclose(variants.images[1], make(tiny_model, seed=5).images[0], atol=1e-5)


def test_a_picture_to_start_from(tiny_model: LoadedModel, noise_image: Callable[..., InputImage]) -> None:
    image = noise_image(20, 20)
    found = make(tiny_model, image, steps=0)
    np.testing.assert_allclose(found.images[0], image.pixels / 255, atol=2e-3)
    assert found.run.image_digest == image.digest


def test_a_grey_networks_pictures_are_grey(small_model: Callable[[str], LoadedModel]) -> None:
    found = make(small_model("one_channel"))
    np.testing.assert_array_equal(found.images[..., 0], found.images[..., 2])
    assert found.grey_scores[0] > 0  # contrast in place of colour


def test_no_steps_give_the_noise_and_say_so(tiny_model: LoadedModel) -> None:
    found = make(tiny_model, steps=0)
    np.testing.assert_array_equal(found.scores, found.start_scores)
    assert found.histories.shape == (1, 0)
    assert found.has_failed.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": [6]}, "no channel 6 in conv2; it has channels 0 to 5"),
        ({"channels": []}, "name at least one"),
        ({"objective": "unit", "cell": (99, 0)}, "no unit at row 99, column 0: .* 10 x 10 cells"),
        ({"objective": "unit", "layer": "fc"}, "vector"),
        ({"objective": "direction", "direction": [1.0]}, "has 1 numbers; conv2 has 6 channels"),
        ({"objective": "direction", "direction": [0.0] * 6}, "zero everywhere"),
        ({"objective": "nonsense"}, "not one of channel, unit"),
        ({"steps": -1}, "steps is -1"),
        ({"size_px": 4}, "size_px is 4"),
        ({"objective": "direction", "direction": [float("nan")] * 6}, "not finite"),
        ({"variants": 0}, "variants is 0; choose one from 1 to 16"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"diversity": -1.0}, "diversity is -1.0"),
        ({"sign": 0}, "sign is 0"),
        ({"objective": "class"}, "No class is asked for"),
        ({"objective": "class", "classes": [99]}, "99"),
    ],
)
def test_what_is_not_there_is_refused(settings: dict[str, object], message: str, tiny_model: LoadedModel) -> None:
    with pytest.raises(BadSetting, match=message):
        make(tiny_model, **settings)
    with pytest.raises(errors.UnknownLayer):
        make(tiny_model, layer="conv9")


def test_the_run_repeats_it(tiny_model: LoadedModel) -> None:
    found = make(tiny_model, channels=[1, 2])
    assert found.run.method == "feature_visualization.synthesize"
    assert found.run.seed == 0
    again = feature_visualization.synthesize(tiny_model, **found.run.settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.images, found.images)


# ---- grey failures --------------------------------------------------------------------------------------------------


def test_the_grey_score_by_hand() -> None:
    """Pure red: luma 0.299, so the distances are 0.701, 0.299, 0.299; in bytes they would wrap."""
    red, grey = np.zeros((2, 2, 3), dtype=np.float32), np.full((2, 2, 3), 0.4, dtype=np.float32)
    red[..., 0] = 1
    expected = np.sqrt((0.701**2 + 2 * 0.299**2) / 3)
    np.testing.assert_allclose(synthesis.grey_scores(np.stack([red, grey])), [expected, 0], atol=1e-6)


def test_luma_is_that_of_pil() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)
    expected = np.sqrt(np.square(pixels - luma[..., None]).mean()) / 255
    assert synthesis.grey_scores(pixels[None].astype(np.float32) / 255)[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("scores", "num_failed"),
    [
        ([0.12, 0.011, 0.14, 0.013, 0.17], 2),
        ([0.12, 0.13, 0.14, 0.17], 0),
        ([0.08, 0.2, 0.21], 0),  # a gap, but below it there is colour
        ([0.002, 0.003], 2),  # nothing but failures
        ([0.2], 0),
        ([], 0),
    ],
)
def test_the_cut(scores: list[float], num_failed: int) -> None:
    found = np.array(scores, dtype=np.float32)
    assert int((found < synthesis.grey_cut(found)).sum()) == num_failed
