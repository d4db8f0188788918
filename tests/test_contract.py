"""The names that programs outside this repository call: signatures, and what every result promises."""

from __future__ import annotations

import dataclasses
import inspect
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz_core import collections, errors, images, models, results
from cnnviz_core.images import InputImage
from cnnviz_core.methods import (
    adversarial,
    cam,
    class_image,
    comparison,
    deep_dream,
    embeddings,
    feature_maps,
    feature_visualization,
    filters,
    fine_tuning,
    inversion,
    neighbors,
    occlusion,
    saliency,
    segmentation,
    similarity,
    top_patches,
    trust,
)
from cnnviz_core.models import LoadedModel

NONE = inspect.Parameter.empty

# Function -> positional arguments, then the keyword-only ones with their defaults.
CONTRACT: dict[Callable[..., Any], tuple[list[str], dict[str, object]]] = {
    images.open_image: (["source"], {"name": ""}),
    models.load: (["model_id"], {"device": "auto", "weights": "default"}),
    models.from_module: (["module"], {"input_px": NONE, "mean": NONE, "std": NONE, "class_names": None, "name": NONE}),
    feature_maps.compute: (["model", "image"], {"layer": None}),
    filters.compute: (["model"], {"layer": None}),
    cam.explain: (["model", "image"], {"method": NONE, "layer": None, "target": None}),
    saliency.explain: (["model", "image"], {"method": NONE, "target": None, "layer": None, "unit": None}),
    occlusion.explain: (["model", "image"], {"baseline": "mean", "target": None, "on_step": None}),
    trust.deletion_insertion: (["model", "image", "heatmap"], {"steps": 20, "target": None}),
    trust.randomization: (["model", "image"], {"explain": NONE}),
    segmentation.grabcut: (["image", "heatmap"], {}),
    top_patches.search: (["model", "collection"], {"layer": None, "channels": None, "k": 9}),
    embeddings.project: (["vectors"], {"method": "pca", "seed": 0}),
    neighbors.search: (["index", "vector"], {"k": 10, "metric": "cosine"}),
    similarity.compare: (["model", "image_a", "image_b"], {"layer": None, "cell": NONE}),
    similarity.few_shot: (["model", "supports", "query"], {"layer": None, "threshold": None}),
    deep_dream.dream: (
        ["model", "image"],
        {"layer": None, "channel": None, "octaves": 4, "steps": 10, "on_step": None},
    ),
    inversion.invert: (["model", "image"], {"layers": None, "steps": 256, "on_step": None}),
    class_image.synthesize: (["model"], {"classes": NONE, "seed": 0, "on_step": None}),
    feature_visualization.synthesize: (
        ["model", "image"],
        {"layer": NONE, "channels": NONE, "seed": 0, "on_step": None},
    ),
    adversarial.attack: (
        ["model", "image"],
        {"method": "pgd", "target": None, "epsilon": None, "norm": "linf", "steps": None, "seed": 0, "on_step": None},
    ),
    comparison.compare: (["base", "tuned"], {"seed": 0, "on_step": None}),
    fine_tuning.train: (["model", "collection"], {"trainable": NONE, "on_step": None}),
    collections.Collection.index: (["self", "model"], {"layer": None, "on_step": None}),
}


@pytest.mark.parametrize("function", CONTRACT, ids=lambda f: f"{f.__module__.rpartition('.')[2]}.{f.__name__}")
def test_signatures(function: Callable[..., Any]) -> None:
    positional, keyword = CONTRACT[function]
    found = inspect.signature(function).parameters
    assert [name for name, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    assert {p.kind for p in list(found.values())[len(positional) :]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert {name: found[name].default for name in keyword} == keyword
    added = set(found) - set(keyword) - set(positional)
    assert all(found[name].default is not NONE for name in added), "what was added must be optional"


@pytest.mark.parametrize("module", [adversarial, cam, feature_maps, filters, occlusion, saliency, segmentation, trust])
def test_all_arguments_of_methods_after_model_and_image_are_keyword_only(module: Any) -> None:
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("_") or function.__module__ != module.__name__:
            continue
        first = {
            "model",
            "image",
            "images",
            "maps",
            "kernels",
            "heatmap",
            "heatmaps",
            "mask",
            "box",
            "shape",
            "a",
            "b",
            "example",
        }
        positional = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert set(positional) <= first, name


def test_a_loaded_model_has_what_the_contract_names(tiny_model: LoadedModel, noise_image: Callable[..., Any]) -> None:
    assert list(inspect.signature(LoadedModel.predict).parameters) == ["self", "image", "k"]
    assert inspect.signature(LoadedModel.predict).parameters["k"].default == 5
    assert {field.name for field in dataclasses.fields(LoadedModel)} >= {
        "spec",
        "net",
        "preprocessing",
        "layers",
        "class_names",
        "device",
    }
    x = tiny_model.preprocessing.to_input(noise_image(50, 40))
    assert (x.shape, x.dtype) == ((1, 3, 16, 16), torch.float32)
    assert len(tiny_model.layers) > 0
    assert tiny_model.class_names == ("cat", "dog", "bird")


def make_results(model: LoadedModel, image: InputImage) -> list[Any]:
    return [
        model.predict(image),
        feature_maps.compute(model, image, layer="conv1"),
        filters.compute(model, layer="conv1"),
        saliency.explain(model, image, method="gradient"),
    ]


def test_results_have_the_named_fields(tiny_model: LoadedModel, noise_image: Callable[..., InputImage]) -> None:
    predictions, maps, kernels, attribution = make_results(tiny_model, noise_image(16, 16))
    assert [len(getattr(predictions, name)) for name in ("indices", "labels", "probabilities", "logits")] == [3] * 4
    assert maps.values.shape == (4, 16, 16)
    assert kernels.values.shape == (4, 3, 3, 3)
    assert (attribution.values.shape, attribution.map.shape) == ((3, 16, 16), (16, 16))


def test_results_are_frozen_raw_float32_and_can_be_pickled(
    tiny_model: LoadedModel, noise_image: Callable[..., InputImage]
) -> None:
    for result in make_results(tiny_model, noise_image(16, 16)):
        assert type(result).__dataclass_params__.frozen
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, dataclasses.fields(result)[0].name, None)
        again = pickle.loads(pickle.dumps(result))
        for field in dataclasses.fields(result):
            one, other = getattr(result, field.name), getattr(again, field.name)
            assert not isinstance(one, torch.Tensor)
            if isinstance(one, np.ndarray):
                assert one.dtype == np.float32
                np.testing.assert_array_equal(one, other)
            else:
                assert one == other


def test_every_result_type_is_frozen() -> None:
    kinds = [kind for _, kind in inspect.getmembers(results, inspect.isclass) if kind.__module__ == results.__name__]
    assert {kind.__name__ for kind in kinds} >= {"Run", "Predictions", "FeatureMaps", "Kernels"}
    assert all(kind.__dataclass_params__.frozen for kind in kinds)


def test_a_run_tells_how_a_result_was_made(tiny_model: LoadedModel, noise_image: Callable[..., InputImage]) -> None:
    image = noise_image(16, 16)
    _, maps, kernels, _ = make_results(tiny_model, image)
    for result, method in ((maps, "feature_maps.compute"), (kernels, "filters.compute")):
        run = result.run
        assert (run.model_id, run.weights) == ("module/plain", "default")
        assert re.fullmatch(r"[0-9a-f]{32}", run.weights_hash)
        assert run.method == method
        assert run.settings["layer"] == "conv1"
        assert run.seconds >= 0
        assert run.seed is None
    assert (maps.run.image_digest, kernels.run.image_digest) == (image.digest, "")


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_a_photo_of_the_input_size_reaches_the_network_unchanged(
    size: tuple[int, int], lite0: LoadedModel, noise_image: Callable[..., InputImage], tmp_path: Path
) -> None:
    model = lite0 if size == (224, 224) else models.load(models.DEFAULT_MODEL, preprocessing={"input_px": size})
    pixels = noise_image(*size).pixels
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    x = model.to_input(images.open_image(tmp_path / "photo.png"))
    expected = (pixels.astype(np.float64) / 255 - 0.5) / 0.5  # lite0's mean and standard deviation
    np.testing.assert_allclose(x[0].numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_pictures_come_from_bytes_paths_and_streams(noise_image: Callable[..., InputImage], tmp_path: Path) -> None:
    pixels = noise_image(5, 7).pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    for source in (buffer.getvalue(), tmp_path / "a.png", buffer):
        image = images.open_image(source)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert (image.pixels.shape, image.pixels.dtype) == ((5, 7, 3), np.uint8)
    assert images.open_image(buffer.getvalue(), name="mine").name == "mine"


def test_errors_are_one_family_and_in_the_tree_that_is_drawn() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert all(issubclass(kind, errors.CnnvizError) for kind in kinds)
    assert {"BadImage", "UnknownLayer", "NotApplicable"} <= {kind.__name__ for kind in kinds}
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_the_prediction_of_the_contract_on_real_weights(lite0: LoadedModel) -> None:
    """Logits are scores before the softmax, probabilities are named so, and both are of the classes listed."""
    from cnnviz_core import photos

    found = lite0.predict(photos.open_photo("coffee"), k=1000)
    logits = np.array(found.logits)
    np.testing.assert_allclose(found.probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)
    assert sorted(found.indices) == list(range(1000))
