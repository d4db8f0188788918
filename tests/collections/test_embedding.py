"""Embeddings of files against the network run on each picture alone; the strongest answers against a plain search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz_core import images, models, photos, probe
from cnnviz_core.collections import embedding, scan
from cnnviz_core.collections.embedding import NUM_TOPS, File, Tops
from cnnviz_core.errors import BadImage, BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel

SMALL = ("plain", "residual", "functional", "reused_relu", "gelu", "depth_wise", "one_channel", "binary")
REAL = ("torchvision/vgg11", "torchvision/resnet18", "torchvision/densenet121", "timm/convnext_atto")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    """20 files of noise of several shapes, by name."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    made = []
    for number, (height, width) in enumerate([(16, 16), (20, 31), (40, 17), (16, 24)] * 5):
        path = folder / f"{number:02}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        made.append(File(path))
    return made


def seen(model: LoadedModel, file: File) -> InputImage:
    """The very pixels that the network is given of a file; test_preprocessing holds them against the exact crop."""
    return images.from_pixels(embedding.read_crop(file, model.preprocessing), name=file.path.name)


def answers(model: LoadedModel, image: InputImage, layer: str) -> np.ndarray:
    """(C, h, w) that a layer puts out at its last call, by a whole forward of the untouched network."""
    info = model.layers[layer]
    with torch.no_grad():
        raw = probe.record(model.net, model.to_input(image), [layer]).outputs[layer][-1][0]
    return (raw.movedim(info.channel_dim - 1, 0) if info.cells else raw.reshape(-1, 1, 1)).numpy()


@pytest.mark.parametrize("net", SMALL)
@pytest.mark.parametrize("pooling", ["mean", "max", "flat"])
def test_vectors_are_those_of_each_picture_alone(
    small_model: Callable[[str], LoadedModel], files: Sequence[File], net: str, pooling: str
) -> None:
    model = small_model(net)
    layers = [layer.name for layer in model.layers]
    found = embedding.embed(model, files, layers=layers, pooling=pooling)
    assert found.read == tuple(range(len(files)))
    assert not found.problems
    for place, file in enumerate(files):
        image = seen(model, file)
        for layer in layers:
            maps = answers(model, image, layer)
            expected = {"mean": maps.mean((1, 2)), "max": maps.max((1, 2)), "flat": maps.ravel()}[pooling]
            np.testing.assert_allclose(found.vectors[layer][place], expected, rtol=0, atol=1e-5 * np.abs(maps).max())


@pytest.mark.parametrize("model_id", REAL)
def test_large_networks(zoo: Callable[[str], LoadedModel], tmp_path: Path, model_id: str) -> None:
    model = zoo(model_id)
    layers = [model.layers.stages[0].representative, model.anatomy.head.feature_layer, embedding.default_layer(model)]
    made = []
    for name in ("chelsea", "coffee"):
        photos.open_photo(name).pil().resize((500, 375)).save(tmp_path / f"{name}.png")
        made.append(File(tmp_path / f"{name}.png"))
    found = embedding.embed(model, made, layers=[*layers, "scores"])
    for place, file in enumerate(made):
        image = seen(model, file)
        for layer in layers:
            expected = answers(model, image, layer).mean((1, 2))
            np.testing.assert_allclose(
                found.vectors[layer][place], expected, rtol=0, atol=2e-4 * np.abs(expected).max()
            )
        with torch.no_grad():
            scores = model.scores(model.net(model.to_input(image)))[0].numpy()
        np.testing.assert_allclose(found.vectors["scores"][place], scores, rtol=0, atol=2e-4 * np.abs(scores).max())


@pytest.mark.parametrize("net", ["plain", "residual", "reused_relu"])
def test_the_strongest_answers_are_those_of_a_plain_search(
    small_model: Callable[[str], LoadedModel], files: Sequence[File], net: str
) -> None:
    model = small_model(net)
    layer = model.layers.spatial[-1].name
    tops = embedding.embed(model, files, layers=[layer]).tops[layer]
    every = np.stack([answers(model, seen(model, file), layer) for file in files])
    strongest = every.max((2, 3))
    assert tops.values.shape == (every.shape[1], NUM_TOPS)
    for channel in range(every.shape[1]):
        expected = np.sort(strongest[:, channel])[::-1][:NUM_TOPS]
        np.testing.assert_allclose(tops.values[channel], expected, atol=1e-5 * np.abs(every).max())
        assert len(set(tops.rows[channel])) == NUM_TOPS
        for value, row, (down, across) in zip(
            tops.values[channel], tops.rows[channel], tops.cells[channel], strict=True
        ):
            assert every[row, channel, down, across] == pytest.approx(value, abs=1e-5 * float(np.abs(every).max()))


def test_of_equal_answers_those_with_the_strongest_surroundings_count_and_then_the_first() -> None:
    def tops(values: list[float], rows: list[int], around: list[float]) -> Tops:
        cells = np.array(rows, np.int16)[None, :, None].repeat(2, axis=2)
        return Tops(np.array([values], np.float32), np.array([rows]), cells, np.array([around], np.float32))

    merged = tops([3, 1, 3], [0, 1, 2], [0, 0, 1]).merged(tops([3, 2, 3], [7, 8, 9], [1, 1, 2]))
    assert merged.values.tolist() == [[3, 3, 3, 3, 2, 1]]
    assert merged.rows.tolist() == [[9, 2, 7, 0, 8, 1]]
    assert merged.cells[0, :, 0].tolist() == [9, 2, 7, 0, 8, 1]
    assert merged.around.tolist() == [[2, 1, 1, 0, 1, 0]]


def test_of_equal_places_the_one_with_the_strongest_surroundings_counts(tmp_path: Path) -> None:
    """A limited activation: a lone bright pixel in the corner, and a bright square elsewhere."""

    class Limited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU6()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(20 * x).mean((2, 3))

    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[0, 0] = pixels[8:12, 5:9] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.where(np.arange(16)[:, None, None] == 3, np.uint8(255), np.zeros_like(pixels))).save(
        tmp_path / "b.png"
    )
    model = models.from_module(Limited(), input_px=16, mean=(0,) * 3, std=(1,) * 3, name="limited", device="cpu")
    files = [File(tmp_path / "b.png"), File(tmp_path / "a.png")]
    tops = embedding.embed(model, files, layers=["act"]).tops["act"]
    assert tops.values.tolist() == [[6, 6]] * 3
    assert tops.rows.tolist() == [[1, 0]] * 3
    assert tops.cells[:, 0].tolist() == [[9, 6]] * 3
    np.testing.assert_allclose(tops.around, [[6, 2]] * 3)


def test_pixels_are_the_crop_in_small(tiny_model: LoadedModel, tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = (255, 51, 0)
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    found = embedding.embed(tiny_model, [File(tmp_path / "halves.png")], layers=["pixels"]).vectors["pixels"]
    colours = found.reshape(3, 32, 32)
    assert not colours[:, :, :16].any()
    np.testing.assert_allclose(colours[:, :, 16:], np.broadcast_to(np.array([1, 0.2, 0])[:, None, None], (3, 32, 16)))


def test_scores_make_the_same_predictions(tiny_model: LoadedModel, files: Sequence[File]) -> None:
    scores = embedding.embed(tiny_model, files, layers=["scores"]).vectors["scores"]
    exact = [place for place, file in enumerate(files) if images.open_image(file.path).pixels.shape == (16, 16, 3)]
    assert len(exact) == 5
    for place in exact:
        expected = tiny_model.predict(images.open_image(files[place].path), k=1)
        assert scores[place].argmax() == expected.indices[0]
        assert scores[place].max() == pytest.approx(expected.logits[0], rel=1e-5)


def test_what_cannot_be_read_is_left_out_with_the_reason(
    tiny_model: LoadedModel, files: Sequence[File], tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(files[0].path.read_bytes()[:100])
    (tmp_path / "text.png").write_text("not a picture")
    changed = File(files[1].path, scan.digest_of(b"something else"))
    mixed = [
        files[0],
        File(tmp_path / "cut.png"),
        File(tmp_path / "text.png"),
        File(tmp_path / "gone.png"),
        changed,
        files[2],
    ]
    found = embedding.embed(tiny_model, mixed, layers=["conv2"])
    assert found.read == (0, 5)
    assert sorted(found.problems) == [1, 2]
    assert sorted(found.missed) == [3, 4]
    assert "cut.png cannot be decoded whole" in found.problems[1]
    assert "text.png is not a picture" in found.problems[2]
    assert "gone.png cannot be read" in found.missed[3]
    assert "01.png has changed" in found.missed[4]
    alone = embedding.embed(tiny_model, [files[0], files[2]], layers=["conv2"])
    np.testing.assert_array_equal(found.vectors["conv2"], alone.vectors["conv2"])


def test_nothing_readable_gives_no_rows(tiny_model: LoadedModel, tmp_path: Path) -> None:
    found = embedding.embed(tiny_model, [File(tmp_path / "gone.png")], layers=["conv2", "scores"])
    assert found.vectors["conv2"].shape == (0, 6)
    assert found.vectors["scores"].shape == (0, 3)
    assert found.tops["conv2"].values.shape == (6, 0)  # to be merged with others
    assert "scores" not in found.tops


def test_the_right_digest_is_taken(tiny_model: LoadedModel, files: Sequence[File]) -> None:
    file = File(files[0].path, scan.digest_of(files[0].path.read_bytes()))
    assert embedding.embed(tiny_model, [file], layers=["conv1"]).read == (0,)


def test_large_jpegs_are_reduced_within_the_stated_tolerance(tmp_path: Path, lite0: LoadedModel) -> None:
    """Five of 255 at most, 0.2 on average, for photos of 3 megapixels and more."""
    for name in ("chelsea", "coffee", "china"):
        path = tmp_path / f"{name}.jpg"
        photos.open_photo(name).pil().resize((2000, 1500)).save(path, quality=92)
        exact = lite0.preprocessing.crop(images.open_image(path)).astype(int)
        quick = embedding.read_crop(File(path), lite0.preprocessing).astype(int)
        assert np.abs(exact - quick).max() <= 5
        assert 0 < np.abs(exact - quick).mean() <= 0.25


def test_turned_photos_stand_upright(tmp_path: Path, lite0: LoadedModel) -> None:
    photo = photos.open_photo("chelsea").pil()
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    photo.save(tmp_path / "upright.png")
    one, other = (
        embedding.read_crop(File(tmp_path / name), lite0.preprocessing) for name in ("turned.png", "upright.png")
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("layers", "pooling", "error", "says"),
    [
        ([], "mean", BadSetting, "at least one layer"),
        (["conv3"], "mean", UnknownLayer, "conv2"),
        (["conv1"], "median", BadSetting, "mean, max, flat"),
    ],
)
def test_bad_settings(
    tiny_model: LoadedModel, files: Sequence[File], layers: list[str], pooling: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        embedding.embed(tiny_model, files, layers=layers, pooling=pooling)


def test_a_flat_vector_may_not_be_huge(lite0: LoadedModel, files: Sequence[File]) -> None:
    with pytest.raises(BadSetting, match="Pool by mean or max"):
        embedding.embed(lite0, files, layers=["conv_stem"], pooling="flat")


def test_a_network_without_a_classifier_has_no_scores(
    small_model: Callable[[str], LoadedModel], files: Sequence[File]
) -> None:
    with pytest.raises(NotApplicable, match="no classifier"):
        embedding.embed(small_model("headless"), files, layers=["scores"])


@pytest.mark.parametrize(
    ("model_id", "layer"),
    [
        ("torchvision/resnet18", "avgpool"),
        ("torchvision/vgg11", "classifier.5"),
        ("timm/convnext_atto", "head.drop"),
        ("torchvision/squeezenet1_1", "classifier.0"),
    ],
)
def test_the_default_layer_is_what_the_classifier_reads(
    zoo: Callable[[str], LoadedModel], model_id: str, layer: str
) -> None:
    assert embedding.default_layer(zoo(model_id)) == layer


def test_without_a_classifier_the_default_is_the_last_layer(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("headless")
    assert embedding.default_layer(model) == model.layers.names[-1]


def test_progress_and_a_way_to_end_it(tiny_model: LoadedModel, files: Sequence[File]) -> None:
    counted: list[int] = []
    embedding.embed(tiny_model, files, layers=["conv1"], on_batch=counted.append)
    assert sum(counted) == len(files)

    def end(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedding.embed(tiny_model, files, layers=["conv1"], on_batch=end)


def test_read_crop_names_what_is_wrong(tmp_path: Path, tiny_model: LoadedModel) -> None:
    with pytest.raises(BadImage, match=r"gone\.png cannot be read"):
        embedding.read_crop(File(tmp_path / "gone.png"), tiny_model.preprocessing)
