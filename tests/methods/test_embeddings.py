"""Projections, grids and class separation against scikit-learn, umap-learn's figures, and slow loops by hand."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.methods import embeddings
from cnnviz_core.results import Projection, Step

BENT = ["tsne", "umap"]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, list[str]]:
    """All 1,797 digits, (N, 64) float32 0..1, and their labels."""
    found = load_digits()
    return (found.data / 16).astype(np.float32), [str(label) for label in found.target]


@pytest.fixture(scope="module")
def some(digits: tuple[np.ndarray, list[str]]) -> np.ndarray:
    return digits[0][:300]


@pytest.fixture(scope="module")
def maps(digits: tuple[np.ndarray, list[str]]) -> dict[str, Projection]:
    """Maps of the first 700 digits by every method."""
    return {method: embeddings.project(digits[0][:700], method=method) for method in embeddings.METHODS}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer iterations, for tests that do not ask how good a map is."""
    monkeypatch.setattr(embeddings, "_EARLY_STEPS", 75)
    monkeypatch.setattr(embeddings, "_STEPS", 75)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def map_of(points: np.ndarray) -> Projection:
    """Any points as a projection."""
    settings = dict.fromkeys(("perplexity", "num_neighbors"))
    settings |= {"method": "pca", "seed": 0, "num_axes": 2, "standardize": False, "min_distance": 0.1}
    return Projection(np.asarray(points, dtype=np.float32), "pca", np.zeros(2, dtype=np.float32), None, settings)


def nearest(table: np.ndarray, k: int, metric: str = "euclidean") -> np.ndarray:
    """scikit-learn's neighbours of each row among the others."""
    return NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(table).kneighbors()[1]


class TestPca:
    @pytest.mark.parametrize("shape", [(200, 30), (30, 200), (50, 50), (12, 11), (600, 450), (450, 600)])
    @pytest.mark.parametrize("standardize", [False, True])
    def test_equals_scikit_learn(self, shape: tuple[int, int], standardize: bool) -> None:
        vectors = noise(*shape) * np.linspace(5, 0.1, shape[1]) + 3
        given = StandardScaler().fit_transform(vectors) if standardize else vectors
        peer = PCA(10, svd_solver="full").fit(given)
        found = embeddings.project(vectors, num_axes=10, standardize=standardize)
        # The peer's sign is that of the largest part of an axis, too.
        np.testing.assert_allclose(found.values, peer.transform(given), atol=2e-4)
        np.testing.assert_allclose(found.explained, peer.explained_variance_ratio_, rtol=1e-5)
        assert (found.values.dtype, found.explained.dtype, found.divergence) == (np.float32, np.float32, None)

    def test_large_matrices_are_decomposed_iteratively_with_the_same_result(
        self, some: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = embeddings.project(some, num_axes=4)
        monkeypatch.setattr(embeddings, "_MAX_SIDE", 20)
        found = embeddings.project(some, num_axes=4)
        np.testing.assert_allclose(found.values, whole.values, atol=1e-4)
        np.testing.assert_allclose(found.explained, whole.explained, rtol=1e-4)

    @pytest.mark.parametrize(
        "vectors",
        [noise(20, 1), noise(2, 30), np.outer(np.arange(9), np.ones(4)), np.outer(np.arange(500), np.ones(450))],
    )
    def test_axes_beyond_the_rank_are_zero(self, vectors: np.ndarray) -> None:
        found = embeddings.project(vectors, num_axes=3)
        assert found.values[:, 0].std() > 0
        np.testing.assert_array_equal(found.values[:, 1:], 0)
        np.testing.assert_allclose(found.explained, [1, 0, 0], atol=1e-6)

    def test_blocks_do_not_matter(self, some: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = embeddings.project(some, standardize=True).values
        monkeypatch.setattr(embeddings, "_BLOCK", 1000)
        np.testing.assert_allclose(embeddings.project(some, standardize=True).values, whole, atol=1e-5)

    @pytest.mark.parametrize("standardize", [False, True])
    def test_placing_is_exact(self, some: np.ndarray, standardize: bool) -> None:
        found = embeddings.project(some, num_axes=3, standardize=standardize)
        np.testing.assert_allclose(embeddings.place(found, some, some), found.values, atol=1e-6)
        new = noise(5, 64)
        scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(some)
        peer = PCA(3, svd_solver="full").fit(scaler.transform(some))
        np.testing.assert_allclose(
            embeddings.place(found, some, new), peer.transform(scaler.transform(new)), rtol=1e-4, atol=1e-4
        )


class TestTsne:
    def test_as_trustworthy_as_scikit_learns(self, digits: tuple[np.ndarray, list[str]], maps: dict) -> None:
        vectors = digits[0][:700]
        peer = TSNE(init="pca", learning_rate="auto", random_state=0).fit_transform(vectors)
        theirs = trustworthiness(vectors, peer, n_neighbors=10)
        assert trustworthiness(vectors, maps["tsne"].values, n_neighbors=10) >= theirs - 0.003
        theirs = embeddings.preservation(vectors, map_of(peer))
        assert embeddings.preservation(vectors, maps["tsne"]) >= theirs - 0.01

    def test_divergence_is_that_of_the_map(self, some: np.ndarray) -> None:
        found = embeddings.project(some, method="tsne", perplexity=10)
        assert found.divergence == pytest.approx(divergence_by_hand(some, found.values, 10), rel=0.02)
        assert found.divergence < divergence_by_hand(some, embeddings.project(some).values * 10, 10) / 2

    def test_perplexity_is_bounded_by_the_number_of_rows(self) -> None:
        vectors = noise(31, 5)
        assert embeddings.project(vectors, method="tsne").settings["perplexity"] == 10
        assert embeddings.project(vectors, method="tsne", perplexity=10).settings["perplexity"] == 10
        with pytest.raises(BadSetting, match=r"perplexity is 10\.1; for 31 vectors it must be from 1 to 10\.0"):
            embeddings.project(vectors, method="tsne", perplexity=10.1)

    def test_many_points_take_the_interpolated_repulsion(
        self, some: np.ndarray, quick: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree = embeddings.project(some, method="tsne")
        monkeypatch.setattr(embeddings, "_FFT_ROWS", 300)
        found = embeddings.project(some, method="tsne")
        assert not np.array_equal(tree.values, found.values)
        assert found.divergence == pytest.approx(tree.divergence, rel=0.1)
        again = embeddings.place(found, some, some[:30])
        assert farthest(again, found.values[:30], found) < 0.02


def divergence_by_hand(vectors: np.ndarray, points: np.ndarray, perplexity: int) -> float:
    """sum P log(P / Q) with P over the 3 x perplexity nearest neighbours of each point."""
    num = len(vectors)
    squared = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2, dtype=np.float64)
    near = nearest(vectors, 3 * perplexity)
    p = np.zeros((num, num))
    for i in range(num):
        low, high = 0.0, 1e6
        for _ in range(100):
            beta = (low + high) / 2
            row = np.exp(-beta * (squared[i, near[i]] - squared[i, near[i]].min()))
            row /= row.sum()
            if -(row * np.log(np.maximum(row, 1e-300))).sum() > np.log(perplexity):
                low = beta
            else:
                high = beta
        p[i, near[i]] = row
    p = (p + p.T) / (2 * num)
    q = 1 / (1 + ((points[:, None] - points[None]).astype(np.float64) ** 2).sum(axis=2))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


class TestUmap:
    def test_keeps_neighbours_as_umap_learn_does(self, digits: tuple[np.ndarray, list[str]]) -> None:
        """umap-learn 0.5.12 on the digits: trustworthiness 0.9892, preservation 0.495; from PCA 0.9886, 0.488."""
        vectors, labels = digits
        found = embeddings.project(vectors, method="umap")
        assert trustworthiness(vectors, found.values, n_neighbors=10) > 0.985
        assert embeddings.preservation(vectors, found) > 0.47
        near = nearest(found.values, 5)
        assert (np.array(labels)[near] == np.array(labels)[:, None]).mean() > 0.95

    def test_graph_by_hand(self) -> None:
        """A loop over points: the nearest is surely a neighbour, and all together count as log2 of their number."""
        vectors, k = noise(40, 3).astype(np.float32), 6
        near = embeddings._nearest(vectors, k - 1)
        expected = np.zeros((40, 40))
        for i in range(40):
            distances = np.sqrt(((vectors[i] - vectors) ** 2).sum(axis=1, dtype=np.float64))
            others = np.argsort(distances)[1:k]
            np.testing.assert_array_equal(near.rows[i], others)
            low, high = 0.0, 100.0
            for _ in range(200):
                width = (low + high) / 2
                row = np.exp(-(distances[others] - distances[others].min()) / width)
                low, high = (low, width) if row.sum() > np.log2(k) else (width, high)
            expected[i, others] = row
        expected = expected + expected.T - expected * expected.T
        np.testing.assert_allclose(embeddings._fuzzy_graph(near).toarray(), expected, atol=1e-6)

    def test_curve_is_the_published_one(self) -> None:
        curve = embeddings._curve(0.1)
        assert (curve.a, curve.b) == (pytest.approx(1.577, abs=1e-3), pytest.approx(0.895, abs=1e-3))

    def test_forces_are_the_slope_of_the_likeness(self) -> None:
        """Pull is d log(likeness) and push d log(1 - likeness), by finite differences."""
        curve = embeddings._curve(0.1)
        a, b = float(curve.a), float(curve.b)
        distances, step = np.linspace(0.3, 5, 30), 1e-6

        def likeness(d: np.ndarray) -> np.ndarray:
            return 1 / (1 + a * d ** (2 * b))

        pull = (np.log(likeness(distances + step)) - np.log(likeness(distances - step))) / (2 * step)
        np.testing.assert_allclose(-curve.pull(distances**2) * distances, pull, rtol=1e-5)
        push = (np.log1p(-likeness(distances + step)) - np.log1p(-likeness(distances - step))) / (2 * step)
        np.testing.assert_allclose(curve.push(distances**2) * distances, push, rtol=0.02)  # its 0.001 keeps it finite

    def test_groups_come_apart_in_three_axes(self) -> None:
        labels = np.repeat(np.arange(4), 40)
        vectors = noise(4, 20, seed=1)[labels] * 3 + noise(160, 20)
        found = embeddings.project(vectors, method="umap", num_axes=3, num_neighbors=8)
        assert found.values.shape == (160, 3)
        assert (labels[nearest(found.values, 5)] == labels[:, None]).all()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
    def test_against_umap_learn(self, digits: tuple[np.ndarray, list[str]]) -> None:
        umap = pytest.importorskip("umap")
        vectors = digits[0]
        near = embeddings._nearest(vectors, 14)
        with_self = np.column_stack([np.arange(len(vectors)), near.rows])
        distances = np.column_stack([np.zeros(len(vectors)), near.distances]).astype(np.float32)
        theirs = umap.umap_.fuzzy_simplicial_set(
            vectors, 15, np.random.RandomState(0), "euclidean", knn_indices=with_self, knn_dists=distances
        )[0]
        assert abs(theirs - embeddings._fuzzy_graph(near)).max() < 1e-4
        peer = umap.UMAP(random_state=0, n_jobs=1).fit_transform(vectors)
        mine = embeddings.project(vectors, method="umap").values
        assert trustworthiness(vectors, mine, n_neighbors=10) > trustworthiness(vectors, peer, n_neighbors=10) - 0.002
        kept = embeddings.preservation(vectors, map_of(peer))
        assert embeddings.preservation(vectors, map_of(mine)) > kept - 0.02


class TestEveryMethod:
    @pytest.mark.parametrize("method", embeddings.METHODS)
    def test_repeats_from_its_settings(self, some: np.ndarray, quick: None, method: str) -> None:
        found = embeddings.project(some[:80], method=method, seed=3)
        again = embeddings.project(some[:80], **found.settings)
        np.testing.assert_array_equal(found.values, again.values)
        assert found.settings == again.settings
        assert found.method == method
        thawed = pickle.loads(pickle.dumps(found))
        np.testing.assert_array_equal(thawed.values, found.values)

    @pytest.mark.parametrize("method", BENT)
    def test_the_seed_counts(self, some: np.ndarray, quick: None, method: str) -> None:
        one, other = (embeddings.project(some[:80], method=method, seed=seed).values for seed in (0, 1))
        assert not np.array_equal(one, other)

    @pytest.mark.parametrize("method", embeddings.METHODS)
    def test_a_seed_of_more_bits_than_scikit_learn_takes(self, some: np.ndarray, quick: None, method: str) -> None:
        found = embeddings.project(some[:80], method=method, seed=2**33 + 1)
        assert np.isfinite(found.values).all()
        assert found.settings["seed"] == 2**33 + 1

    @pytest.mark.parametrize("method", BENT)
    def test_threads_do_not_disturb_each_other(self, some: np.ndarray, quick: None, method: str) -> None:
        alone = [embeddings.project(some[i : i + 80], method=method).values for i in (0, 80)]
        together: dict[int, np.ndarray] = {}

        def work(i: int) -> None:
            together[i] = embeddings.project(some[80 * i : 80 * i + 80], method=method).values

        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in (0, 1):
            np.testing.assert_array_equal(together[i], alone[i])

    @pytest.mark.parametrize("method", BENT)
    def test_leaves_the_process_alone(self, some: np.ndarray, quick: None, method: str) -> None:
        before = np.random.get_state()[1].tolist()  # noqa: NPY002
        given = some[:60].copy()
        found = embeddings.project(given, method=method)
        values = found.values.copy()
        embeddings.place(found, given, given[:3] + 0.1)
        assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
        np.testing.assert_array_equal(given, some[:60])
        np.testing.assert_array_equal(found.values, values)

    @pytest.mark.parametrize(("method", "total"), [("tsne", 750), ("umap", 500)])
    def test_reports_the_map_so_far(self, some: np.ndarray, method: str, total: int) -> None:
        steps: list[Step] = []
        found = embeddings.project(some, method=method, on_step=steps.append)
        done = [step.done for step in steps]
        assert done[0] == 0
        assert done == sorted(set(done))
        assert done[-1] == total
        assert {step.total for step in steps} == {total}
        partials = [step.partial for step in steps]
        assert all(isinstance(p, Projection) and p.values.shape == (300, 2) for p in partials)
        assert all(dict(p.settings) == found.settings for p in partials)
        assert all(not np.shares_memory(a.values, b.values) for a, b in itertools.pairwise(partials))
        kept = [embeddings.preservation(some, p) for p in (partials[1], partials[-1])]
        assert kept[1] > kept[0]
        if method == "tsne":
            assert partials[-1].divergence == pytest.approx(found.divergence, rel=0.02)
        else:
            np.testing.assert_array_equal(partials[-1].values, found.values)

    @pytest.mark.parametrize("method", BENT)
    @pytest.mark.parametrize("when", [0, 3])
    def test_an_error_in_on_step_ends_the_work(self, some: np.ndarray, method: str, when: int) -> None:
        calls = []

        def cancel(step: Step) -> None:
            calls.append(step.done)
            if len(calls) > when:
                raise InterruptedError("enough")

        with pytest.raises(InterruptedError, match="enough"):
            embeddings.project(some, method=method, on_step=cancel)
        assert len(calls) == when + 1

    @pytest.mark.parametrize("method", embeddings.METHODS)
    @pytest.mark.parametrize("num_features", [1, 3, 80])
    def test_small_collections(self, quick: None, method: str, num_features: int) -> None:
        needed = embeddings.METHODS[method].min_rows
        for num_rows in (1, 2, 3, 4, 5, 6, 9):
            vectors = noise(num_rows, num_features)
            if num_rows < needed:
                with pytest.raises(NotApplicable, match=f"needs at least {needed} vectors, not {num_rows}"):
                    embeddings.project(vectors, method=method)
                continue
            found = embeddings.project(vectors, method=method)
            assert found.values.shape == (num_rows, 2)
            assert np.isfinite(found.values).all()
            assert np.isfinite(embeddings.place(found, vectors, vectors[:1] + 0.1)).all()

    @pytest.mark.parametrize("method", BENT)
    def test_copies_of_a_picture(self, quick: None, method: str) -> None:
        groups = np.repeat(np.arange(3), 40)
        found = embeddings.project(noise(3, 20)[groups], method=method)
        assert np.isfinite(found.values).all()
        assert (groups[nearest(found.values, 5)] == groups[:, None]).mean() > 0.95
        one_other = np.ones((60, 4))
        one_other[7] = 2
        assert np.isfinite(embeddings.project(one_other, method=method).values).all()

    @pytest.mark.parametrize("method", embeddings.METHODS)
    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_the_unit_does_not_matter(self, some: np.ndarray, quick: None, method: str, scale: float) -> None:
        vectors = some[:100].astype(np.float64)
        expected = embeddings.project(vectors, method=method)
        found = embeddings.project(vectors * scale, method=method)
        assert embeddings.preservation(vectors, found) == pytest.approx(
            embeddings.preservation(vectors, expected), abs=0.05
        )

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, bool])
    def test_takes_any_numbers(self, some: np.ndarray, dtype: type) -> None:
        vectors = (some * 16).astype(dtype)
        found = embeddings.project(vectors)
        np.testing.assert_allclose(found.values, embeddings.project(vectors.astype(np.float32)).values, atol=1e-4)

    @pytest.mark.parametrize("method", embeddings.METHODS)
    def test_vectors_that_are_all_the_same(self, method: str) -> None:
        with pytest.raises(NotApplicable, match="All 20 vectors are the same"):
            embeddings.project(np.full((20, 6), 0.3), method=method)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
    def test_rows_that_are_not_finite_are_named(self, bad: float) -> None:
        vectors = noise(30, 4)
        vectors[[2, 11, 12, 13, 20, 21, 29], 1] = bad
        with pytest.raises(BadSetting, match=r"Rows 2, 11, 12, 13, 20 and 2 more"):
            embeddings.project(vectors)
        with pytest.raises(BadSetting, match="Rows 2, 11, "):
            embeddings.separation(vectors, ["a", "b"] * 15)

    @pytest.mark.parametrize(
        "vectors", [np.zeros(5), np.zeros((2, 2, 2)), np.zeros((5, 0)), np.zeros((0, 5)), np.array([["a", "b"]])]
    )
    def test_what_is_no_table_of_numbers(self, vectors: np.ndarray) -> None:
        with pytest.raises(BadSetting, match="a table of numbers"):
            embeddings.project(vectors)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "lda"}, "'lda' is not a projection; choose one of pca, tsne, umap"),
            ({"num_axes": 1}, "PCA can have 2 to 10"),
            ({"num_axes": 11}, "PCA can have 2 to 10"),
            ({"method": "tsne", "num_axes": 3}, r"t-SNE can have 2\."),
            ({"method": "umap", "num_axes": 4}, "UMAP can have 2 to 3"),
            ({"method": "tsne", "perplexity": 0.5}, "perplexity is 0.5"),
            ({"method": "tsne", "perplexity": float("nan")}, "perplexity is nan"),
            ({"method": "umap", "num_neighbors": 1}, "num_neighbors is 1; for 30 vectors it must be from 2 to 30"),
            ({"method": "umap", "num_neighbors": 31}, "num_neighbors is 31"),
            ({"method": "umap", "min_distance": -0.1}, "min_distance is -0.1"),
            ({"seed": -1}, "seed is -1"),
            ({"seed": 2**62}, "seed is"),
        ],
    )
    def test_settings_out_of_range(self, settings: dict, message: str) -> None:
        with pytest.raises(BadSetting, match=message):
            embeddings.project(noise(30, 4), **settings)

    def test_the_table_is_complete(self) -> None:
        for method in embeddings.METHODS.values():
            texts = (method.title, method.promise, method.misleads, method.source, method.cost)
            assert all(texts)
            assert 0 < method.seconds(100, 64) < method.seconds(10_000, 64) < method.seconds(10_000, 1280)

    def test_slow_libraries_are_imported_late(self) -> None:
        code = (
            "import sys; from cnnviz_core.methods import embeddings; "
            "assert not {'openTSNE', 'umap', 'numba', 'sklearn', 'torch'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def farthest(some: np.ndarray, others: np.ndarray, projection: Projection) -> float:
    """Largest distance between points that belong together, as a share of the map's extent."""
    return float(np.linalg.norm(some - others, axis=1).max() / np.ptp(projection.values, axis=0).max())


class TestPlace:
    @pytest.mark.parametrize("method", embeddings.METHODS)
    def test_a_picture_of_the_map_lands_by_itself(self, digits: tuple, maps: dict, method: str) -> None:
        vectors = digits[0]
        again = embeddings.place(maps[method], vectors[:700], vectors[100:200])
        assert (again.shape, again.dtype) == ((100, 2), np.float32)
        assert farthest(again, maps[method].values[100:200], maps[method]) < 0.03

    @pytest.mark.parametrize("method", BENT)
    def test_new_pictures_land_among_their_class(self, digits: tuple, maps: dict, method: str) -> None:
        """Share of the 5 nearest points with the new picture's label; in the whole space it is 0.89."""
        vectors, labels = digits[0], np.array(digits[1])
        placed = embeddings.place(maps[method], vectors[:700], vectors[700:1000])
        index = NearestNeighbors(n_neighbors=5).fit(maps[method].values)
        share = (labels[:700][index.kneighbors(placed)[1]] == labels[700:1000, None]).mean()
        there = NearestNeighbors(n_neighbors=5).fit(vectors[:700]).kneighbors(vectors[700:1000])[1]
        assert share > (labels[:700][there] == labels[700:1000, None]).mean() - 0.05

    @pytest.mark.parametrize("method", embeddings.METHODS)
    def test_each_as_if_it_came_alone(self, digits: tuple, maps: dict, method: str) -> None:
        vectors = digits[0]
        together = embeddings.place(maps[method], vectors[:700], vectors[700:710])
        for i in (0, 9):
            alone = embeddings.place(maps[method], vectors[:700], vectors[700 + i : 701 + i])
            np.testing.assert_allclose(alone[0], together[i], atol=2e-3 * np.ptp(maps[method].values))

    def test_tables_must_fit(self, some: np.ndarray) -> None:
        found = embeddings.project(some)
        with pytest.raises(BadSetting, match="The map has 300 points, but there are 299 vectors"):
            embeddings.place(found, some[1:], some[:1])
        with pytest.raises(BadSetting, match="The new vectors have 63 numbers each and the map's 64"):
            embeddings.place(found, some, some[:1, 1:])


class TestGrid:
    @pytest.fixture(params=["even", "groups", "copies", "line"])
    def points(self, request: pytest.FixtureRequest) -> np.ndarray:
        return {
            "even": np.random.default_rng(0).random((390, 2)),
            "groups": noise(7, 2)[np.arange(390) % 7] * 5 + noise(390, 2, seed=1) * 0.2,
            "copies": np.repeat(noise(39, 2), 10, axis=0),
            "line": np.column_stack([np.arange(390), np.zeros(390)]),
        }[request.param]

    @pytest.mark.parametrize("method", ["assignment", "greedy"])
    @pytest.mark.parametrize("exact_cells", [10_000, 100])
    def test_each_point_has_a_cell_of_its_own(
        self, points: np.ndarray, method: str, exact_cells: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embeddings, "_EXACT_CELLS", exact_cells)
        cells = embeddings.grid(map_of(points), method=method)
        assert (cells.shape, cells.dtype) == ((390, 2), np.int32)
        assert len(np.unique(cells, axis=0)) == 390
        assert (cells >= 0).all()
        assert (cells < embeddings.grid_shape(390)).all()

    @pytest.mark.parametrize("exact_cells", [10_000, 100])
    def test_assignment_costs_no_more_than_greedy(
        self, points: np.ndarray, exact_cells: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        projection = map_of(points)
        best = embeddings.grid_cost(projection, embeddings.grid(projection))
        monkeypatch.setattr(embeddings, "_EXACT_CELLS", exact_cells)
        cost = embeddings.grid_cost(projection, embeddings.grid(projection))
        assert best <= cost <= 1.2 * best
        assert cost <= embeddings.grid_cost(projection, embeddings.grid(projection, method="greedy"))

    def test_small_grids_are_the_best_of_all(self) -> None:
        """Against every way to deal 6 points to 2 x 3 cells."""
        points = np.random.default_rng(4).random((6, 2))
        points[[0, 1]] = 0, 1  # so that the corners of the map are known
        points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
        cells = embeddings.grid(map_of(points))
        ways = [
            sum(
                (x - (c % 3 + 0.5) / 3) ** 2 + (1 - y - (c // 3 + 0.5) / 2) ** 2
                for (x, y), c in zip(points, order, strict=True)
            )
            for order in itertools.permutations(range(6))
        ]
        assert embeddings.grid_cost(map_of(points), cells) == pytest.approx(min(ways) / 6, rel=1e-5)
        best = list(itertools.permutations(range(6)))[int(np.argmin(ways))]
        assert cells.tolist() == [[c // 3, c % 3] for c in best]

    def test_up_is_up_and_right_is_right(self) -> None:
        lattice = [(x, y) for y in (3, 2, 1, 0) for x in range(5)]  # as one reads a plot
        for method in embeddings.GRIDS:
            cells = embeddings.grid(map_of(np.array(lattice)), method=method)
            np.testing.assert_array_equal(cells, [(row, col) for row in range(4) for col in range(5)])

    def test_greedy_goes_in_reading_order(self) -> None:
        """Four points in the lower right corner: each cell takes the nearest that is left."""
        points = np.array([(0, 1), (0.9, 0.1), (1, 0.2), (1, 0)])
        assert embeddings.grid(map_of(points), method="greedy").tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]

    def test_third_axis_is_left_aside(self) -> None:
        points = noise(30, 3)
        np.testing.assert_array_equal(embeddings.grid(map_of(points)), embeddings.grid(map_of(points[:, :2])))

    @pytest.mark.parametrize(
        ("num", "settings", "shape"),
        [
            (1, {}, (1, 1)),
            (2, {}, (1, 2)),
            (9, {}, (3, 3)),
            (10, {}, (3, 4)),
            (1797, {}, (42, 43)),
            (10, {"num_columns": 5}, (2, 5)),
            (10, {"num_columns": 10}, (1, 10)),
            (100, {"aspect": 4.0}, (5, 20)),
            (100, {"aspect": 1 / 4}, (20, 5)),
            (3, {"aspect": 100.0}, (1, 3)),
        ],
    )
    def test_shapes(self, num: int, settings: dict, shape: tuple[int, int]) -> None:
        assert embeddings.grid_shape(num, **settings) == shape
        cells = embeddings.grid(map_of(noise(num, 2)), **settings)
        assert (cells < shape).all()
        assert len(np.unique(cells, axis=0)) == num

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "spiral"}, "'spiral' is not a grid layout; choose one of assignment, greedy"),
            ({"num_columns": 0}, "num_columns is 0; for 9 points it must be from 1 to 9"),
            ({"num_columns": 10}, "num_columns is 10"),
            ({"aspect": 0.0}, "aspect is 0.0"),
            ({"aspect": float("inf")}, "aspect is inf"),
        ],
    )
    def test_settings_out_of_range(self, settings: dict, message: str) -> None:
        with pytest.raises(BadSetting, match=message):
            embeddings.grid(map_of(noise(9, 2)), **settings)

    def test_seams_by_hand(self) -> None:
        vectors = np.array([[0, 0], [3, 4], [0, 1], [6, 8]])
        cells = np.array([[0, 0], [0, 1], [1, 0], [0, 2]])
        beside, below = embeddings.seams(vectors, cells)
        np.testing.assert_array_equal(beside, [[5, 5], [np.nan, np.nan]])
        np.testing.assert_array_equal(below, [[1, np.nan, np.nan]])
        beside, below = embeddings.seams(vectors, cells, shape=(3, 4))
        assert (beside.shape, below.shape) == ((3, 3), (2, 4))
        with pytest.raises(BadSetting, match="4 vectors and 3 cells"):
            embeddings.seams(vectors, cells[:3])

    def test_seams_are_brighter_between_classes(self, digits: tuple, maps: dict) -> None:
        cells = embeddings.grid(maps["tsne"])
        beside, _ = embeddings.seams(digits[0][:700], cells)
        labels = np.full(embeddings.grid_shape(700), "", dtype="U1")
        labels[tuple(cells.T)] = digits[1][:700]
        is_same = labels[:, 1:] == labels[:, :-1]
        assert np.nanmedian(beside[~is_same]) > 1.2 * np.nanmedian(beside[is_same])


class TestSeparation:
    def test_equals_scikit_learn(self, digits: tuple) -> None:
        vectors, labels = digits[0][:500], np.array(digits[1][:500])
        near = nearest(vectors, 5, "cosine")
        found = embeddings.separation(vectors, list(labels))
        same = labels[near] == labels[:, None]
        assert found.purity == pytest.approx(same.mean())
        assert found.one_nn_accuracy == pytest.approx(same[:, 0].mean())
        assert found.silhouette == pytest.approx(silhouette_score(vectors, labels, metric="cosine"), abs=1e-6)
        assert set(found.purity_by_label) == set(labels)
        for label in set(labels):
            assert found.purity_by_label[label] == pytest.approx(same[labels == label].mean())
        assert (found.num_rows, found.num_unlabelled, found.num_labels, found.k) == (500, 0, 10, 5)
        assert embeddings.purity(vectors, list(labels)) == (found.purity, found.purity_by_label)
        assert embeddings.nearest_neighbor_accuracy(vectors, list(labels)) == found.one_nn_accuracy
        assert embeddings.silhouette(vectors, list(labels)) == found.silhouette

    def test_blocks_do_not_matter(self, digits: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors, labels = digits[0][:200], digits[1][:200]
        whole = embeddings.separation(vectors, labels)
        monkeypatch.setattr(embeddings, "_BLOCK", 1000)
        parts = embeddings.separation(vectors, labels)
        assert parts.purity == whole.purity
        assert parts.silhouette == pytest.approx(whole.silhouette, abs=1e-7)

    def test_rows_without_a_label_do_not_count(self, digits: tuple) -> None:
        vectors, labels = digits[0][:200], digits[1][:200]
        some = [label if i % 3 else "" for i, label in enumerate(labels)]
        found = embeddings.separation(vectors, some)
        kept = [i for i in range(200) if i % 3]
        alone = embeddings.separation(vectors[kept], [labels[i] for i in kept])
        assert (found.num_rows, found.num_unlabelled) == (133, 67)
        assert (found.purity, found.silhouette, found.chance_purity) == (
            alone.purity,
            alone.silhouette,
            alone.chance_purity,
        )

    def test_chance_is_what_shuffled_labels_give(self, digits: tuple) -> None:
        vectors = digits[0][:300]
        labels = ["a"] * 200 + ["b"] * 70 + ["c"] * 30
        shuffled = [
            embeddings.separation(vectors, list(np.random.default_rng(seed).permutation(labels))) for seed in range(20)
        ]
        chance = shuffled[0].chance_purity
        assert chance == pytest.approx((200 * 199 + 70 * 69 + 30 * 29) / (300 * 299))
        assert np.mean([one.purity for one in shuffled]) == pytest.approx(chance, abs=0.02)

    def test_the_only_one_of_a_label_and_rows_of_zeros(self) -> None:
        vectors = np.vstack([noise(20, 6), np.zeros((2, 6))])
        labels = np.array(["a"] * 10 + ["b"] * 9 + ["c", "a", "b"])
        found = embeddings.separation(vectors, list(labels), k=2)
        assert found.silhouette == pytest.approx(silhouette_score(vectors, labels, metric="cosine"), abs=1e-6)
        assert found.purity_by_label["c"] == 0

    def test_groups_that_are_apart(self) -> None:
        vectors = np.eye(3)[np.arange(30) % 3]
        found = embeddings.separation(vectors, [str(i % 3) for i in range(30)])
        assert (found.purity, found.one_nn_accuracy, found.silhouette) == (1, 1, 1)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([""] * 6, "of these 6 none has a label"),
            (["cat"] * 6, "of these 6 all have the label cat"),
            (["cat", "", "cat", "", "", "cat"], "all have the label cat"),
            (list("abcdef"), "each of these labels has one only"),
        ],
    )
    def test_nothing_to_separate(self, labels: list[str], message: str) -> None:
        with pytest.raises(NotApplicable, match=message):
            embeddings.separation(noise(6, 3), labels, k=2)

    @pytest.mark.parametrize("k", [0, 6])
    def test_k_out_of_range(self, k: int) -> None:
        with pytest.raises(BadSetting, match=f"k is {k}; for 6 labelled pictures it must be from 1 to 5"):
            embeddings.separation(noise(6, 3), list("aabbcc"), k=k)

    def test_a_label_for_each_row(self) -> None:
        with pytest.raises(BadSetting, match="6 vectors and 5 labels"):
            embeddings.separation(noise(6, 3), list("aabbc"))


class TestPreservation:
    def test_by_scikit_learns_neighbours(self, digits: tuple, maps: dict) -> None:
        vectors = digits[0][:700]
        for projection in maps.values():
            near, shown = nearest(vectors, 10), nearest(projection.values, 10)
            kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, shown, strict=True)])
            assert embeddings.preservation(vectors, projection) == pytest.approx(kept, abs=2e-3)
        kept_by = {name: embeddings.preservation(vectors, projection) for name, projection in maps.items()}
        assert kept_by["tsne"] > kept_by["umap"] > 2 * kept_by["pca"]

    def test_the_same_points_keep_all(self) -> None:
        vectors = noise(50, 2)
        assert embeddings.preservation(vectors, map_of(vectors)) == 1

    def test_a_sample_says_about_the_same(self, digits: tuple, maps: dict) -> None:
        vectors = digits[0][:700]
        whole = embeddings.preservation(vectors, maps["tsne"])
        part = embeddings.preservation(vectors, maps["tsne"], max_rows=200)
        assert part != whole
        assert part == pytest.approx(whole, abs=0.05)

    def test_a_standardised_map_is_compared_with_standardised_vectors(self) -> None:
        vectors = noise(80, 2) * [1, 1000]
        found = embeddings.project(vectors, standardize=True)
        assert embeddings.preservation(vectors, found) == 1

    def test_arguments_out_of_range(self, some: np.ndarray) -> None:
        found = embeddings.project(some)
        for k in (0, 300):
            with pytest.raises(BadSetting, match=f"k is {k}; for 300 vectors it must be from 1 to 299"):
                embeddings.preservation(some, found, k=k)
        with pytest.raises(BadSetting, match="max_rows is 0"):
            embeddings.preservation(some, found, max_rows=0)
        with pytest.raises(BadSetting, match="The map has 300 points, but there are 20 vectors"):
            embeddings.preservation(some[:20], found)


def test_copies_are_nearest_at_no_distance() -> None:
    vectors = (noise(50, 30) * 100 + 1000).astype(np.float32)
    vectors[17] = vectors[3]
    near = embeddings._nearest(vectors, 2)
    assert (near.rows[3, 0], near.distances[3, 0]) == (17, 0)
    assert (near.rows[17, 0], near.distances[17, 0]) == (3, 0)
    assert not (near.rows == np.arange(50)[:, None]).any()
