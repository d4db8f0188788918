"""The account of a result: valid JSON, and lines of Python that make the same numbers again when executed."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz_core import images, manifest, models, photos
from cnnviz_core.errors import BadLink
from cnnviz_core.links import Link
from cnnviz_core.methods import feature_maps, filters
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import PictureName, Run


def execute(lines: list[str], **names: object) -> dict[str, Any]:
    """The names that the lines leave behind, and the last line's value as ``shown``."""
    *lines, last = lines
    exec("\n".join([*lines, f"shown = {last}" if "=" not in last.split("(")[0] else last]), names)
    return names


def test_a_bundled_photo_and_the_default_network(lite0: LoadedModel) -> None:
    image = photos.open_photo("coffee")
    result = feature_maps.compute(lite0, image, layer="blocks.0.0.conv_dw", call=0)
    lines = manifest.python_lines(result.run, image=image, photo_id="coffee", selection="result.values[3]")
    made = execute(lines)
    np.testing.assert_array_equal(made["result"].values, result.values)
    np.testing.assert_array_equal(made["shown"], result.values[3])
    assert made["model"].spec == lite0.spec


def test_an_uploaded_picture_and_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "it's mine.png")
    monkeypatch.chdir(tmp_path)
    image = images.open_image(Path("it's mine.png"))
    model = models.load("timm/mobilenetv3_small_050", weights="random:7", preprocessing={"input_px": (64, 96)})
    result = feature_maps.compute(model, image, layer="conv_stem")
    lines = manifest.python_lines(result.run, image=image, photo_id=image.digest[:16])
    np.testing.assert_array_equal(execute(lines)["result"].values, result.values)


def test_a_checkpoint_with_preprocessing_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = models.load("torchvision/squeezenet1_1", weights="random:5").net
    monkeypatch.chdir(tmp_path)
    torch.save(net.state_dict(), "mine:v2.pth")
    changes = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "crop_pct": 0.5}
    model = models.load("torchvision/squeezenet1_1", weights=Path("mine:v2.pth"), preprocessing=changes)
    image = photos.open_photo("chelsea")
    for result in (
        filters.compute(model, layer="features.0"),
        feature_maps.compute(model, image, layer="features.3"),
    ):
        with_image = {"image": image, "photo_id": "chelsea"} if result.run.image_digest else {}
        lines = manifest.python_lines(result.run, **with_image)  # type: ignore[arg-type]
        made = execute(lines)
        np.testing.assert_array_equal(made["result"].values, result.values)
        assert made["model"].preprocessing == model.preprocessing


def test_a_call_that_takes_nothing_but_the_network() -> None:
    run = Run("module/plain", "default", "0", "filters.compute", {}, 0.1)
    assert manifest.python_lines(run)[-1] == "result = filters.compute(model)"
    assert manifest.python_lines(replace(run, method="predict"))[-1] == "result = model.predict()"


def test_a_module_of_ones_own(tiny_model: LoadedModel, small_net: Any) -> None:
    result = feature_maps.compute(tiny_model, photos.open_photo("camera"), layer="conv2")
    lines = manifest.python_lines(result.run, image=photos.open_photo("camera"), photo_id="camera")
    made = execute(lines, net=small_net("plain"))
    np.testing.assert_array_equal(made["result"].values, result.values)


def test_the_json_tells_everything(tiny_model: LoadedModel) -> None:
    image = images.from_pixels(np.zeros((5, 5, 3), np.uint8), name="Füße.png")
    result = feature_maps.compute(tiny_model, image, layer="conv1")
    account = json.loads(
        manifest.manifest(
            result.run,
            image=image,
            photo_id=image.digest[:16],
            selection="result.values",
            shown={"colour_map": "viridis", "order": [2, 0, 1]},
        )
    )
    assert account["network"] == {
        "id": "module/plain",
        "weights": "default",
        "weights_hash": tiny_model.spec.weights_hash,
        "preprocessing_changes": {"input_px": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    assert account["image"] == {"name": "Füße.png", "digest": image.digest, "bundled": None}
    assert (account["method"], account["settings"]) == ("feature_maps.compute", {"layer": "conv1", "call": -1})
    assert account["shown"] == {"colour_map": "viridis", "order": [2, 0, 1]}
    assert account["seconds"] >= 0
    assert account["versions"]["torch"] == metadata.version("torch")
    assert account["versions"]["numpy"] == np.__version__
    assert account["python"][-1] == "result.values"


def test_the_json_without_a_picture_and_of_a_bundled_one(tiny_model: LoadedModel) -> None:
    run = filters.compute(tiny_model, layer="conv1").run
    assert json.loads(manifest.manifest(run))["image"] is None
    chelsea = photos.open_photo("chelsea")
    assert json.loads(manifest.manifest(run, image=chelsea, photo_id="chelsea"))["image"]["bundled"] == "chelsea"


def test_a_second_picture_is_opened_again(tiny_model: LoadedModel) -> None:
    image, guide = photos.open_photo("camera"), photos.open_photo("coffee")
    names = (PictureName(guide.name, guide.digest), PictureName("mine.png", "0"), PictureName(guide.name, "0"))
    of_names = [
        tiny_model.provenance("deep_dream.dream", 0.1, image=image, layer="conv2", guide=name) for name in names
    ]
    calls = [manifest.python_lines(run, image=image, photo_id="camera")[-1] for run in of_names]
    assert calls[0] == "result = deep_dream.dream(model, image, layer='conv2', guide=photos.open_photo('coffee'))"
    assert "guide=images.open_image(Path('mine.png'))" in calls[1]
    assert "guide=images.open_image(Path('A cup of espresso'))" in calls[2]  # of that name, but another
    account = json.loads(manifest.manifest(of_names[0], image=image, photo_id="camera"))
    assert account["settings"]["guide"] == {"name": guide.name, "digest": guide.digest}


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PACKAGES", ("torch", "no-such-package"))
    run = Run("timm/x", "default", "0", "filters.compute", {}, 0.1)
    versions = json.loads(manifest.manifest(run))["versions"]
    assert versions == {"torch": metadata.version("torch"), "no-such-package": None}


LINK = Link("cam", {"layer": ["a & b"], "image": ["Füße (0123456789abcdef)"]})
RUN = Run("timm/x", "default", "0", "cam.explain", {}, 0.1)


def test_the_link_of_a_manifest_is_found_again_and_names_no_host() -> None:
    text = manifest.manifest(RUN, link=LINK)
    assert json.loads(text)["link"] == {"page": "cam", "parameters": dict(LINK.params)}
    assert manifest.read(text.encode()) == manifest.Origin(LINK)
    assert "link" not in json.loads(manifest.manifest(RUN))


def test_other_versions_are_said() -> None:
    account = json.loads(manifest.manifest(RUN, link=LINK))
    account["versions"].update(torch="1.0", nonsense="3")
    here = metadata.version("torch")
    assert manifest.read(json.dumps(account).encode()).changed == (f"torch 1.0, here {here}",)
    account["versions"] = "x"
    assert manifest.read(json.dumps(account).encode()).changed == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b" " * (2**20 + 1), "up to 1 MB"),
        (b"", "not JSON"),
        (b"\x89PNG", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no link"),
        (b"{}", "no link"),
        (b'{"link": "https://x.org/cam"}', "no link"),
        (b'{"link": {}}', "names no page"),
        (b'{"link": {"page": "../../etc"}}', "names no page"),
        (b'{"link": {"page": "cam", "parameters": {"layer": {"a": 1}}}}', "layer of the link is not a text"),
        (b'{"link": {"page": "cam", "parameters": {"<b>": "x"}}}', "no name"),
        (b'{"link": {"page": "cam", "parameters": {"a": "\\ud800"}}}', "not a text"),
    ],
)
def test_a_file_that_leads_nowhere_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(BadLink, match=why):
        manifest.read(content)


def test_the_networks_own_answer_is_repeated_and_has_no_time_that_nobody_took(lite0: LoadedModel) -> None:
    image = photos.open_photo("coffee")
    run = lite0.provenance("predict", 0.0, image=image, k=3)
    lines = manifest.python_lines(run, image=image, photo_id="coffee", selection="result.probabilities")
    assert execute(lines)["shown"] == lite0.predict(image, 3).probabilities
    assert "seconds" not in json.loads(manifest.manifest(run, image=image))


def test_a_screen_without_an_account_comes_back_too() -> None:
    link = Link("embeddings", {"three": ["true"]})
    settings = {"collection": "=1 “photos”", "seed": 3, "query": PictureName("a.png", "0"), "least": -0.25, "no": None}
    written = manifest.of_screen(link, settings=settings)
    origin = manifest.read(written.encode())
    assert origin.link == link
    assert not origin.changed
    assert json.loads(written)["settings"] == {**settings, "query": {"name": "a.png", "digest": "0"}}
