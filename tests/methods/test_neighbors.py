"""Neighbours against scikit-learn and sums by hand; regions against plain hooks, and planted where they must be found.

The exact search itself is tested in tests/collections/test_search.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import images, models, photos
from cnnviz_core.collections.search import Searcher
from cnnviz_core.errors import BadImage, BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import neighbors
from cnnviz_core.models import LoadedModel
from cnnviz_core.preprocessing import Box
from cnnviz_core.results import FloatArray, Neighbors, Step

Load = Callable[[str], LoadedModel]
Noise = Callable[..., InputImage]


@pytest.fixture(scope="session")
def digits() -> FloatArray:
    """Handwritten digits as vectors; a little noise sees to it that no two distances are equal."""
    noise = np.random.default_rng(0).uniform(0, 0.1, (1797, 64))
    return (load_digits().data + noise).astype(np.float32)


@pytest.fixture(scope="session")
def names() -> tuple[str, ...]:
    return tuple(str(digit) for digit in load_digits().target)


# ---- whole pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", neighbors.METRICS)
def test_neighbours_are_those_of_scikit_learn(metric: str, digits: FloatArray) -> None:
    theirs = NearestNeighbors(algorithm="brute", metric=metric).fit(digits.astype(np.float64))
    searcher = Searcher.build(digits)
    kinds = [digits, digits.tolist(), SimpleNamespace(vectors=digits), searcher]
    kinds.append(SimpleNamespace(vectors=digits * np.nan, searcher=searcher))  # made ready: the vectors are not read
    for row in (0, 400, 1796):
        distances, indices = theirs.kneighbors(digits[row : row + 1].astype(np.float64), 15)
        for index in kinds:
            found = neighbors.search(index, digits[row], k=15, metric=metric)
            np.testing.assert_array_equal(found.indices, indices[0])
            np.testing.assert_allclose(found.distances, distances[0], rtol=1e-5, atol=1e-5)
            assert found.metric == metric
            assert found.distances.dtype == np.float32
            assert found.distances[0] == 0


def test_on_real_embeddings(lite0: LoadedModel) -> None:
    """Tiles of one photo are each other's neighbours; in pixel space less so."""
    tiles, labels = [], []
    for photo_id in ("chelsea", "coffee", "flower", "brick", "rocket", "grass"):
        pixels = photos.open_photo(photo_id).pixels
        for top in range(0, 240, 80):
            for left in range(0, 240, 80):
                tiles.append(images.from_pixels(pixels[top : top + 80, left : left + 80].copy(), name="tile"))
                labels.append(photo_id)
    x = torch.cat([lite0.to_input(tile) for tile in tiles])[:, :, ::2, ::2]
    with torch.no_grad():
        embeddings = lite0.net.forward_features(x).mean((2, 3)).numpy()
    purities = {}
    for name, vectors in (("embeddings", embeddings), ("pixels", x.flatten(1).numpy())):
        true = pairwise_distances(vectors.astype(np.float64), metric="cosine")
        np.fill_diagonal(true, np.inf)
        found = neighbors.search_many(vectors, vectors, k=5, exclude=[[row] for row in range(len(tiles))])
        for row, one in enumerate(found):
            np.testing.assert_array_equal(one.indices, np.argsort(true[row])[:5])
        purities[name] = np.mean([neighbors.label_purity(one, labels, labels[i]) for i, one in enumerate(found)])
    assert purities["embeddings"] > 0.9 > purities["pixels"]


def test_many_at_once_and_one_by_one(digits: FloatArray) -> None:
    exclude = [[row, 3] for row in range(40)]
    for index in (digits, Searcher.build(digits)):
        many = neighbors.search_many(index, digits[:40], k=7, metric="euclidean", exclude=exclude)
        assert len(many) == 40
        for row, found in enumerate(many):
            one = neighbors.search(index, digits[row], k=7, metric="euclidean", exclude=exclude[row])
            np.testing.assert_array_equal(one.indices, found.indices)
            np.testing.assert_array_equal(one.distances, found.distances)
            assert not set(found.indices) & {row, 3}
    assert neighbors.search_many(digits, digits[:0]) == ()


def test_defaults_and_more_than_there_are() -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 3], [0, 0], [-1, 0]], np.float32)
    found = neighbors.search(vectors, [5, 0])
    assert found.indices.tolist() == [0, 2, 1, 3, 4]
    np.testing.assert_allclose(found.distances, [0, 1 - math.sqrt(0.5), 1, 1, 2], rtol=1e-6)
    assert found.metric == "cosine"
    found = neighbors.search(vectors, [0, 0], metric="euclidean", exclude=[3], k=100)
    assert found.indices.tolist() == [0, 4, 1, 2]
    np.testing.assert_allclose(found.distances, [1, 1, 2, math.sqrt(18)], rtol=1e-6)
    assert neighbors.search(vectors, [0, 0]).distances.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("vector", "arguments", "message"),
    [
        (np.ones(3), {}, "has 3 numbers and the vectors have 64"),
        (np.ones((1, 64)), {}, "give one vector, or use search_many"),
        (np.full(64, np.nan), {}, "not finite"),
        (np.ones(64), {"k": 0}, "k is 0"),
        (np.ones(64), {"metric": "dot"}, "'dot'; choose one of"),
        (np.ones(64), {"exclude": [1797]}, "rows 0 to 1796"),
    ],
)
def test_bad_queries(vector: object, arguments: dict[str, object], message: str, digits: FloatArray) -> None:
    for index in (digits, Searcher.build(digits)):
        with pytest.raises(BadSetting, match=message):
            neighbors.search(index, vector, **arguments)


def test_label_purity_counts_known_labels_only() -> None:
    found = Neighbors(np.array([4, 0, 2, 1]), np.zeros(4, np.float32), "cosine")
    labels = ["cat", "dog", "cat", "cat", ""]
    assert neighbors.label_purity(found, labels, "cat") == 2 / 3
    assert neighbors.label_purity(found, labels, "fish") == 0
    assert math.isnan(neighbors.label_purity(found, [""] * 5, "cat"))


# ---- lists of a collection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", neighbors.METRICS)
def test_near_duplicates_are_the_smallest_of_all_distances(metric: str, digits: FloatArray) -> None:
    true = pairwise_distances(digits[:400].astype(np.float64), metric=metric)
    i, j = np.triu_indices(400, 1)
    order = np.argsort(true[i, j])[:60]
    found = neighbors.near_duplicates(digits[:400], max_pairs=60, metric=metric)
    np.testing.assert_array_equal(found.rows, np.stack([i[order], j[order]], axis=1))
    np.testing.assert_allclose(found.distances, true[i, j][order], rtol=1e-4)
    assert found.metric == metric
    threshold = float(true[i, j][order][19:21].mean())
    some = neighbors.near_duplicates(Searcher.build(digits[:400]), threshold=threshold, metric=metric)
    np.testing.assert_array_equal(some.rows, found.rows[:20])


def test_planted_copies_come_first(digits: FloatArray) -> None:
    vectors = digits[:300].copy()
    vectors[250], vectors[17] = vectors[3], 1.5 * vectors[90]
    found = neighbors.near_duplicates(vectors, max_pairs=3)
    assert found.rows[:2].tolist() == [[3, 250], [17, 90]]
    assert found.distances[0] == 0
    assert found.distances[1] < 1e-12 < found.distances[2]


def test_confusing_pairs_have_different_labels(digits: FloatArray, names: tuple[str, ...]) -> None:
    labels = [name if row % 5 else "" for row, name in enumerate(names[:400])]
    true = pairwise_distances(digits[:400].astype(np.float64), metric="cosine")
    pairs = sorted(
        (true[i, j], i, j)
        for i in range(400)
        for j in range(i + 1, 400)
        if labels[i] and labels[j] and labels[i] != labels[j]
    )
    steps: list[Step] = []
    found = neighbors.confusing_pairs(digits[:400], labels, max_pairs=30, on_step=steps.append)
    assert found.rows.tolist() == [[i, j] for _, i, j in pairs[:30]]
    assert steps[-1].done == steps[-1].total == 400
    assert len(neighbors.confusing_pairs(digits[:400], ["a"] * 400).rows) == 0
    assert neighbors.confusing_pairs(digits[:400], [""] * 400).rows.shape == (0, 2)
    with pytest.raises(BadSetting, match="3 labels for 400 vectors"):
        neighbors.confusing_pairs(digits[:400], ["a"] * 3)


@pytest.mark.parametrize("metric", neighbors.METRICS)
def test_outliers_are_far_from_their_neighbours(metric: str, digits: FloatArray) -> None:
    vectors = digits[:500].copy()
    vectors[123] = np.where(np.arange(64) % 2, 90, 0)  # stripes
    true = pairwise_distances(vectors.astype(np.float64), metric=metric)
    np.fill_diagonal(true, np.inf)
    means = np.sort(true, axis=1)[:, :4].mean(axis=1)
    steps: list[Step] = []
    found = neighbors.outliers(vectors, k=4, metric=metric, on_step=steps.append)
    np.testing.assert_allclose(found.scores, means, rtol=1e-5)
    np.testing.assert_array_equal(found.order, np.argsort(-means))
    assert found.order[0] == 123
    assert found.metric == metric
    assert steps[-1] == Step(500, 500)


def test_collections_of_none_and_one() -> None:
    for num in (0, 1):
        vectors = np.ones((num, 4), np.float32)
        assert neighbors.near_duplicates(vectors).rows.shape == (0, 2)
        lonely = neighbors.outliers(vectors)
        assert lonely.order.tolist() == list(range(num))
        assert np.isnan(lonely.scores).all()
        assert len(neighbors.search(vectors, np.ones(4)).indices) == num


# ---- regions --------------------------------------------------------------------------------------------------------


class Colours(nn.Module):
    """Maps that can be told from the picture: the mean colour of each square of 4 x 4 px."""

    def __init__(self) -> None:
        super().__init__()
        self.squares = nn.AvgPool2d(4)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.squares(x).mean((2, 3)))


@pytest.fixture(scope="module")
def colours() -> LoadedModel:
    """32 x 24 px in, 8 x 6 cells; pixels are their own input but for the scale."""
    return models.from_module(
        Colours().eval(), input_px=(32, 24), mean=(0, 0, 0), std=(1 / 255,) * 3, name="colours", device="cpu"
    )


def squares(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return pixels.reshape(8, 4, 6, 4, 3).astype(np.float64).mean(axis=(1, 3))


def test_a_region_of_whole_cells_is_their_mean(colours: LoadedModel, noise_image: Noise) -> None:
    image = noise_image(32, 24)
    cells = squares(image.pixels)
    for box, part, size in (
        ((0, 0, 24, 32), cells, (8, 6)),
        ((4, 8, 12, 20), cells[2:5, 1:3], (3, 2)),
        ((20, 28, 24, 32), cells[7:, 5:], (1, 1)),
        ((20, 28, 99, 99), cells[7:, 5:], (1, 1)),  # what lies outside does not count
        ((5, 9, 5, 9), cells[2:3, 1:2], (1, 1)),  # a point
        ((5, 9, 5.5, 9.5), cells[2:3, 1:2], (1, 1)),
        ((24, 32, 24, 32), cells[7:, 5:], (1, 1)),
        ((0, 0, 0, 32), cells[:, :1], (8, 1)),  # a line
    ):
        vector = neighbors.region_vector(colours, image, layer="squares", box=box)
        np.testing.assert_allclose(vector, part.mean(axis=(0, 1)), rtol=1e-5)
        assert vector.dtype == np.float32
        assert neighbors.region_cells(colours, image, layer="squares", box=box) == size


def test_a_cell_counts_by_how_much_of_it_is_covered(colours: LoadedModel, noise_image: Noise) -> None:
    image = noise_image(32, 24)
    cells = squares(image.pixels)
    # A quarter of one column of cells and three quarters of the next; one row.
    expected = (1 * cells[0, 0] + 3 * cells[0, 1]) / 4
    vector = neighbors.region_vector(colours, image, layer="squares", box=(3, 0, 7, 4))
    np.testing.assert_allclose(vector, expected, rtol=1e-5)
    assert neighbors.region_cells(colours, image, layer="squares", box=(3, 0, 7, 4)) == (1, 1)
    mask = np.zeros((32, 24), bool)
    mask[0:4, 3:7] = True
    vector = neighbors.region_vector(colours, image, layer="squares", mask=mask)
    np.testing.assert_allclose(vector, expected, rtol=1e-5)
    mask[8:12, 20:24] = True  # a second piece of the region
    vector = neighbors.region_vector(colours, image, layer="squares", mask=mask)
    np.testing.assert_allclose(vector, (4 * expected + 4 * cells[2, 5]) / 8, rtol=1e-5)
    assert neighbors.region_cells(colours, image, layer="squares", mask=mask) == (3, 5)


def test_a_box_is_in_pixels_of_the_photo(colours: LoadedModel, noise_image: Noise) -> None:
    """A wide photo is cut at the sides, and reduced to a half."""
    pixels = np.repeat(np.repeat(noise_image(32, 44).pixels, 2, axis=0), 2, axis=1)
    image = images.from_pixels(pixels, name="wide")
    cells = squares(colours.preprocessing.crop(image))
    assert colours.preprocessing.crop_box(image) == (20, 0, 68, 64)
    vector = neighbors.region_vector(colours, image, layer="squares", box=(28, 16, 44, 32))
    np.testing.assert_allclose(vector, cells[2:4, 1:3].mean(axis=(0, 1)), rtol=1e-5)
    for box in ((0, 0, 19, 64), (69, 0, 88, 64), (28, -9, 44, -1)):
        with pytest.raises(BadSetting, match=r"lies outside what the network sees .*\(20, 0, 68, 64\)"):
            neighbors.region_vector(colours, image, layer="squares", box=box)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({}, "either a box or a mask"),
        ({"box": (0, 0, 9, 9), "mask": np.ones((32, 24), bool)}, "either a box or a mask"),
        ({"box": (9, 0, 3, 9)}, "each side in its order"),
        ({"box": (0, 0, math.nan, 9)}, "each side in its order"),
        ({"mask": np.ones((24, 32), bool)}, r"\(24, 32\) px"),
        ({"mask": np.zeros((32, 24), bool)}, "mask is empty"),
    ],
)
def test_bad_regions(region: dict[str, object], message: str, colours: LoadedModel, noise_image: Noise) -> None:
    for function in (neighbors.region_vector, neighbors.region_cells):
        with pytest.raises(BadSetting, match=message):
            function(colours, noise_image(32, 24), layer="squares", **region)


def hooked(net: nn.Module, x: Tensor, layer: str) -> Tensor:
    """What a layer's last call put out, by a plain hook."""
    net, calls = copy.deepcopy(net), []
    net.get_submodule(layer).register_forward_hook(lambda _m, _args, out: calls.append(out.detach().clone()))
    with torch.no_grad():
        net(x)
    return calls[-1]


def check_against_hooks(model: LoadedModel, layer: str, pictures: list[InputImage], box: Box) -> None:
    """The query's vector and every picture's best window, one window at a time."""
    channels_last = model.layers[layer].channel_dim == 3
    raw = [hooked(model.net, model.to_input(picture), layer)[0] for picture in pictures]
    maps = [(m.permute(2, 0, 1) if channels_last else m).double().numpy() for m in raw]
    height, width = maps[0].shape[1:]
    left, top, right, bottom = box
    query = maps[0][:, top:bottom, left:right].mean(axis=(1, 2))
    crop = model.preprocessing.crop_box(pictures[0])
    x, y = (crop[2] - crop[0]) / width, (crop[3] - crop[1]) / height
    drawn = crop[0] + left * x, crop[1] + top * y, crop[0] + right * x, crop[1] + bottom * y
    vector = neighbors.region_vector(model, pictures[0], layer=layer, box=drawn)
    np.testing.assert_allclose(vector, query, rtol=1e-4, atol=1e-5 * np.abs(query).max())
    size = neighbors.region_cells(model, pictures[0], layer=layer, box=drawn)
    assert size == (bottom - top, right - left)

    found = neighbors.search_regions(model, pictures, vector, layer=layer, k=99, box_cells=size)
    assert sorted(match.image for match in found) == list(range(len(pictures)))
    assert [match.similarity for match in found] == sorted((match.similarity for match in found), reverse=True)
    for match in found:
        cosines = {
            (row, col): F.cosine_similarity(torch.from_numpy(window), torch.from_numpy(query), dim=0).item()
            for row in range(height - size[0] + 1)
            for col in range(width - size[1] + 1)
            for window in [maps[match.image][:, row : row + size[0], col : col + size[1]].mean(axis=(1, 2))]
        }
        assert match.similarity == pytest.approx(max(cosines.values()), abs=1e-4)
        assert cosines[match.row, match.col] == pytest.approx(max(cosines.values()), abs=1e-4)
    assert found[0].image == 0
    assert found[0].similarity == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("plain", "conv2"),
        ("residual", "bn2"),
        ("functional", "norm"),
        ("reused_relu", "conv2"),
        ("depth_wise", "project"),
        ("gelu", "act"),
        ("one_channel", "relu2"),
        ("binary", "conv1"),
        ("headless", "relu2"),
    ],
)
def test_regions_are_those_of_plain_hooks(name: str, layer: str, small_model: Load, noise_image: Noise) -> None:
    pictures = [noise_image(16, 16 + 4 * seed, seed=seed) for seed in range(11)]  # more than go together
    check_against_hooks(small_model(name), layer, pictures, (1, 2, 4, 4))


@pytest.mark.parametrize(
    ("model_id", "layer"),
    [("timm/convnext_tiny", "stages.1.blocks.0.mlp"), ("torchvision/densenet121", "features.norm5")],
)
def test_regions_of_large_networks(model_id: str, layer: str, zoo_64: Load, noise_image: Noise) -> None:
    check_against_hooks(zoo_64(model_id), layer, [noise_image(64, 80, seed=seed) for seed in range(3)], (0, 1, 2, 2))


def test_a_planted_region_is_found_where_it_is(colours: LoadedModel, noise_image: Noise) -> None:
    patch = np.random.default_rng(9).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    patch[..., 0] = 0  # unlike noise
    first = noise_image(32, 24, seed=0).pixels.copy()
    first[4:12, 8:16] = patch
    query = neighbors.region_vector(colours, images.from_pixels(first, name=""), layer="squares", box=(8, 4, 16, 12))
    second = noise_image(32, 44, seed=1).pixels.copy()  # cut at the sides by 10 px
    second[20:28, 14:22] = patch
    others = [noise_image(32, 24, seed=seed) for seed in (2, 3)]
    pictures = [others[0], images.from_pixels(second, name=""), others[1]]
    found = neighbors.search_regions(colours, pictures, query, layer="squares", box_cells=(2, 2), k=2)
    assert len(found) == 2
    assert (found[0].image, found[0].row, found[0].col) == (1, 5, 1)
    assert found[0].box == (14, 20, 22, 28)
    assert found[0].similarity == pytest.approx(1, abs=1e-6)
    assert found[1].similarity < 0.99


def test_pictures_are_opened_in_their_turn_and_those_gone_left_out(colours: LoadedModel, noise_image: Noise) -> None:
    opened: list[int] = []

    def opener(number: int) -> Callable[[], InputImage]:
        def open_it() -> InputImage:
            opened.append(number)
            if number % 3 == 1:
                raise BadImage("gone")
            return noise_image(32, 24, seed=number)

        return open_it

    steps: list[tuple[Step, int]] = []
    query = neighbors.region_vector(colours, noise_image(32, 24, seed=11), layer="squares", box=(0, 0, 4, 4))
    found = neighbors.search_regions(
        colours,
        [opener(number) for number in range(20)],
        query,
        layer="squares",
        k=20,
        on_step=lambda step: steps.append((step, len(opened))),
    )
    assert sorted(match.image for match in found) == [number for number in range(20) if number % 3 != 1]
    assert found[0].image == 11
    assert [(step.done, num_opened) for step, num_opened in steps] == [(8, 8), (16, 16), (20, 20)]
    assert steps[-1][0].partial == found
    assert steps[0][0].total == 20
    assert neighbors.search_regions(colours, [opener(1), opener(4)], query, layer="squares") == []


def test_a_window_larger_than_the_grid_is_the_grid(colours: LoadedModel, noise_image: Noise) -> None:
    (match,) = neighbors.search_regions(colours, [noise_image(32, 24)], np.ones(3), layer="squares", box_cells=(99, 99))
    assert (match.row, match.col, match.box) == (0, 0, (0, 0, 24, 32))


def test_a_silent_place_is_like_nothing(colours: LoadedModel) -> None:
    black = images.from_pixels(np.zeros((32, 24, 3), np.uint8), name="black")
    (match,) = neighbors.search_regions(colours, [black], np.ones(3), layer="squares")
    assert match.similarity == 0


def test_layers_without_places(small_model: Load, colours: LoadedModel, noise_image: Noise) -> None:
    image, model = noise_image(16, 16), small_model("plain")
    for layer, error, message in (
        ("fc", NotApplicable, "one vector for the whole picture.*such as relu2"),
        ("gap", NotApplicable, "one vector for the whole picture.*such as relu2"),
        ("conv9", UnknownLayer, "conv2"),
    ):
        with pytest.raises(error, match=message):
            neighbors.region_vector(model, image, layer=layer, box=(0, 0, 9, 9))
        with pytest.raises(error, match=message):
            neighbors.search_regions(model, [image], np.ones(6), layer=layer)
    flat = models.from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), input_px=4, mean=(0, 0, 0), std=(1, 1, 1), name="flat"
    )
    with pytest.raises(NotApplicable, match="Feature maps does not apply"):
        neighbors.region_vector(flat, image, layer="1", box=(0, 0, 4, 4))


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        (np.ones(4), {}, "has 4 numbers and the vectors have 3"),
        (np.full(3, np.inf), {}, "not finite"),
        (np.ones(3), {"k": 0}, "k is 0"),
        (np.ones(3), {"box_cells": (0, 2)}, r"box_cells is \(0, 2\)"),
    ],
)
def test_bad_region_searches(
    query: NDArray[np.float64], arguments: dict[str, object], message: str, colours: LoadedModel, noise_image: Noise
) -> None:
    with pytest.raises(BadSetting, match=message):
        neighbors.search_regions(colours, [noise_image(32, 24)], query, layer="squares", **arguments)
