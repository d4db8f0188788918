"""The search against measuring every row in higher precision, on benign data and on data made to break the bounds."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from cnnviz_core.collections import search
from cnnviz_core.collections.search import METRICS, Found, Searcher
from cnnviz_core.errors import BadSetting
from cnnviz_core.results import Step
from cnnviz_core.store import StorageFailed

Matrix = NDArray[np.float32]


def true_distances(vectors: Matrix, query: Matrix, metric: str) -> NDArray[np.longdouble]:
    """(N,) by the definition, in extended precision."""
    rows, one = vectors.astype(np.longdouble), query.astype(np.longdouble)
    if metric == "euclidean":
        return np.sqrt(((rows - one) ** 2).sum(axis=1))
    norms = np.sqrt((rows**2).sum(axis=1)) * np.sqrt((one**2).sum())
    cosines = np.divide(rows @ one, norms, out=np.zeros(len(rows), np.longdouble), where=norms > 0)
    return np.where(1 - cosines < 2.0**-48, 0, 1 - cosines)


def assert_nearest(found: Found, true: NDArray[np.longdouble], k: int) -> None:
    """The k smallest distances, each the one of its row; no row twice, and rows at one distance in order."""
    assert len(found.ids) == len(set(found.ids.tolist())) == min(k, np.isfinite(true).sum())
    tolerance = {"rtol": 1e-9, "atol": 1e-13}
    np.testing.assert_allclose(found.distances, np.sort(true)[: len(found.ids)].astype(float), **tolerance)
    np.testing.assert_allclose(found.distances, true[found.ids].astype(float), **tolerance)
    order = list(zip(found.distances.tolist(), found.ids.tolist(), strict=True))
    assert order == sorted(order)


def clustered(rng: np.random.Generator) -> Matrix:
    centres = rng.standard_normal((30, 96))
    return (centres[rng.integers(30, size=1500)] + 0.2 * rng.standard_normal((1500, 96))).astype(np.float32)


def with_norms(rng: np.random.Generator, low: float, high: float) -> Matrix:
    rows = clustered(rng)[:600]
    return (rows * np.exp(rng.uniform(np.log(low), np.log(high), (600, 1)))).astype(np.float32)


def spiked(rng: np.random.Generator) -> Matrix:
    """One number so large that 8 bits have nothing left for the others."""
    rows = clustered(rng)[:600]
    rows[:, 7] = 1e4
    return rows


def hidden_by_rounding(rng: np.random.Generator) -> Matrix:
    """Every row has the same codes; only what they lose tells the rows apart."""
    rows = np.ones((500, 64), np.float32)
    rows[:, 1:] += rng.uniform(-0.003, 0.003, (500, 63)).astype(np.float32)
    return rows


DATA: dict[str, Callable[[np.random.Generator], Matrix]] = {
    "noise": lambda rng: rng.standard_normal((800, 50), dtype=np.float32),
    "clustered": clustered,
    "rectified": lambda rng: np.maximum(clustered(rng), 0),
    "pixels": lambda rng: rng.uniform(0.4, 0.6, (150, 3072)).astype(np.float32),
    "all equal": lambda rng: np.tile(rng.standard_normal(40, dtype=np.float32), (700, 1)),
    "one direction": lambda rng: np.outer(rng.uniform(0.1, 9, 700), rng.standard_normal(40)).astype(np.float32),
    "opposites": lambda rng: np.repeat([[1], [-1]], 300, axis=0) * rng.standard_normal(40, dtype=np.float32),
    "norms 1e6 apart": lambda rng: with_norms(rng, 1e-3, 1e3),
    "norms 1e40 apart": lambda rng: with_norms(rng, 1e-20, 1e20),
    "tiny": lambda rng: with_norms(rng, 1e-42, 1e-38),
    "far from the origin": lambda rng: 1e4 + clustered(rng)[:600],
    "spiked": spiked,
    "hidden by rounding": hidden_by_rounding,
    "one-hot": lambda rng: np.eye(300, dtype=np.float32)[rng.integers(300, size=500)],
    "zeros among them": lambda rng: clustered(rng)[:400] * (rng.random((400, 1)) < 0.5).astype(np.float32),
    "all zeros": lambda _: np.zeros((200, 12), np.float32),
    "one number each": lambda rng: rng.standard_normal((300, 1), dtype=np.float32),
    "a single row": lambda rng: rng.standard_normal((1, 20), dtype=np.float32),
    "none": lambda _: np.zeros((0, 20), np.float32),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", DATA)
def test_the_nearest_are_those_of_measuring_every_row(name: str, metric: str) -> None:
    rng = np.random.default_rng(0)
    vectors = DATA[name](rng)
    dim = vectors.shape[1]
    strangers = rng.standard_normal((3, dim)).astype(np.float32), np.zeros((1, dim), np.float32)
    queries = np.concatenate([vectors[:: max(1, len(vectors) // 6)], *strangers, 1.001 * vectors[:2]])
    searcher = Searcher.build(vectors)
    for k in (1, 10, 2000):
        for query, found in zip(queries, searcher.nearest(queries, k=k, metric=metric), strict=True):
            true = true_distances(vectors, query, metric)
            assert_nearest(found, true, k)
            scanned = search.scan(vectors, query, k=k, metric=metric)
            np.testing.assert_array_equal(scanned.ids, found.ids)
            np.testing.assert_array_equal(scanned.distances, found.distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", DATA)
def test_no_bound_is_above_the_distance(name: str, metric: str) -> None:
    rng = np.random.default_rng(1)
    vectors = DATA[name](rng)
    queries = np.concatenate([vectors[:5], rng.standard_normal((2, vectors.shape[1])).astype(np.float32)])
    lowest = Searcher.build(vectors)._lowest(queries.astype(np.float64), metric)
    for bounds, query in zip(lowest, queries, strict=True):
        true = true_distances(vectors, query, metric)
        assert (bounds <= true + (2.0**-48 if metric == "cosine" else 0)).all()


@pytest.mark.parametrize("metric", METRICS)
def test_few_rows_are_measured(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the codes would be of no use."""
    vectors = np.random.default_rng(0).standard_normal((20_000, 64), dtype=np.float32).cumsum(axis=1)
    searcher, num_measured = Searcher.build(vectors), []
    measured = search._measured
    monkeypatch.setattr(
        search, "_measured", lambda v, rows, *rest: num_measured.append(len(rows)) or measured(v, rows, *rest)
    )
    list(searcher.nearest(vectors[:20], k=10, metric=metric))
    assert 20 * 10 <= sum(num_measured) < 20 * 400


@pytest.mark.parametrize("metric", METRICS)
def test_the_nearest_are_those_of_scikit_learn(metric: str) -> None:
    vectors = load_digits().data + np.random.default_rng(0).uniform(0, 1e-3, (1797, 64))  # no ties
    theirs = NearestNeighbors(algorithm="brute", metric=metric).fit(vectors)
    distances, ids = theirs.kneighbors(vectors[::9], 12)
    for found, d, i in zip(
        Searcher.build(vectors).nearest(vectors[::9], k=12, metric=metric), distances, ids, strict=True
    ):
        np.testing.assert_array_equal(found.ids, i)
        np.testing.assert_allclose(found.distances, d, atol=1e-5 if metric == "euclidean" else 1e-12)


def test_of_rows_at_the_same_distance_the_earlier_comes_first() -> None:
    """Digits are whole numbers, so that squared distances are exact and often equal."""
    vectors = load_digits().data
    whole = vectors.astype(np.int64)
    num_ties = 0
    for row, found in zip(
        range(0, 1797, 7), Searcher.build(vectors).nearest(vectors[::7], k=30, metric="euclidean"), strict=True
    ):
        squares = ((whole - whole[row]) ** 2).sum(axis=1)
        np.testing.assert_array_equal(found.ids, np.lexsort((np.arange(1797), squares))[:30])
        num_ties += 30 - len(set(squares[found.ids]))
    assert num_ties > 100


def test_rows_may_be_left_out() -> None:
    vectors = DATA["clustered"](np.random.default_rng(0))
    queries, exclude = vectors[:40], [[row, 700, 1499] for row in range(40)]
    for metric in METRICS:
        found = list(Searcher.build(vectors).nearest(queries, k=1500, metric=metric, exclude=exclude))
        for query, left_out, one in zip(queries, exclude, found, strict=True):
            true = true_distances(vectors, query, metric)
            true[left_out] = np.inf
            assert_nearest(one, true, 1500)
            np.testing.assert_array_equal(
                search.scan(vectors, query, k=1500, metric=metric, exclude=left_out).ids, one.ids
            )


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int32, bool])
def test_numbers_of_any_kind(dtype: type) -> None:
    vectors = np.random.default_rng(0).uniform(0, 9, (300, 20)).astype(dtype)
    for given in (vectors, np.asfortranarray(vectors), np.repeat(vectors, 2, axis=1)[:, ::2]):
        for query, found in zip(vectors[:5], Searcher.build(given).nearest(given[:5], k=9), strict=True):
            assert_nearest(found, true_distances(vectors, query, "cosine"), 9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(value: float) -> None:
    vectors = np.ones((9000, 4), np.float32)
    vectors[8123, 2] = value
    with pytest.raises(BadSetting, match="Row 8123 of the vectors"):
        Searcher.build(vectors)
    for metric in METRICS:
        with pytest.raises(BadSetting, match="Row 8123 of the vectors"):
            search.scan(vectors, np.ones(4), k=3, metric=metric)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.full((2, 8), np.nan)}, "not finite"),
        ({"queries": np.full((2, 8), np.inf)}, "not finite"),
        ({"queries": np.ones((2, 7))}, "has 7 numbers and the vectors have 8"),
        ({"queries": np.ones(8)}, r"shape \(8,\)"),
        ({"queries": [["a"] * 8]}, "of <U1"),
        ({"k": 0}, "k is 0"),
        ({"metric": "manhattan"}, "'manhattan'; choose one of cosine, euclidean"),
        ({"exclude": [[30], []]}, "rows 0 to 29"),
        ({"exclude": [[-1], []]}, "rows 0 to 29"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    searcher = Searcher.build(np.ones((30, 8), np.float32))
    with pytest.raises(BadSetting, match=message):
        list(searcher.nearest(**{"queries": np.ones((2, 8)), "k": 3, **arguments}))
    with pytest.raises(BadSetting, match="The vectors have shape"):
        Searcher.build(np.ones(8))


# ---- pairs ----------------------------------------------------------------------------------------------------------


def true_pairs(vectors: Matrix, metric: str, allowed: Callable[[int, int], bool]) -> list[tuple[float, int, int]]:
    """All of them, nearest first."""
    rows = range(len(vectors))
    true = [true_distances(vectors, row, metric).astype(float) for row in vectors]
    return sorted((true[i][j], i, j) for i in rows for j in rows if i < j and allowed(i, j))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["clustered", "zeros among them", "one-hot", "norms 1e6 apart", "all equal"])
def test_the_closest_pairs_are_those_of_measuring_all(name: str, metric: str) -> None:
    vectors = DATA[name](np.random.default_rng(2))[:150]
    groups = np.random.default_rng(0).integers(-1, 4, len(vectors))
    searcher = Searcher.build(vectors)
    for given, allowed in (
        (None, lambda i, j: True),
        (groups, lambda i, j: groups[i] != groups[j] and min(groups[i], groups[j]) >= 0),
    ):
        pairs = true_pairs(vectors, metric, allowed)
        for k in (1, 40, len(pairs), 20_000):
            found = searcher.closest_pairs(k=k, metric=metric, groups=given)
            i, j = np.divmod(found.ids, len(vectors))
            assert len(found.ids) == min(k, len(pairs))
            np.testing.assert_allclose(found.distances, [d for d, _, _ in pairs[:k]], rtol=1e-9, atol=1e-13)
            if name == "all equal":
                assert list(zip(i, j, strict=True)) == [(i, j) for _, i, j in pairs[:k]]
            assert all(allowed(a, b) and a < b for a, b in zip(i, j, strict=True))


def test_pairs_up_to_a_distance() -> None:
    vectors = DATA["clustered"](np.random.default_rng(3))[:200]
    pairs = true_pairs(vectors, "cosine", lambda i, j: True)
    most = (pairs[29][0] + pairs[30][0]) / 2
    found = Searcher.build(vectors).closest_pairs(k=1000, most=most)
    assert [divmod(pair, 200) for pair in found.ids.tolist()] == [(i, j) for _, i, j in pairs[:30]]
    none = Searcher.build(vectors).closest_pairs(k=1000, most=0.0)
    assert len(none.ids) == 0
    for wrong in (-1.0, np.nan):
        with pytest.raises(BadSetting, match="give 0 or more"):
            Searcher.build(vectors).closest_pairs(k=3, most=wrong)


def test_thousands_of_equal_rows_are_not_all_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, num_measured, measured = np.ones((3000, 8), np.float32), [], search._measured
    monkeypatch.setattr(
        search, "_measured", lambda v, rows, *rest: num_measured.append(len(rows)) or measured(v, rows, *rest)
    )
    found = Searcher.build(vectors).closest_pairs(k=50)
    assert [divmod(pair, 3000) for pair in found.ids.tolist()] == [(0, j) for j in range(1, 51)]
    assert sum(num_measured) < 100_000  # of 4.5 million


def test_pairs_tell_how_far_they_are_and_can_be_stopped() -> None:
    steps: list[Step] = []
    searcher = Searcher.build(np.random.default_rng(0).standard_normal((50, 4)))
    searcher.closest_pairs(k=3, on_step=steps.append)
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    assert (steps[-1].done, steps[-1].total) == (50, 50)

    def stop(_step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searcher.closest_pairs(k=3, on_step=stop)


# ---- on disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path: Path) -> Matrix:
    """Vectors in a file, as an index has them."""
    path = tmp_path / "vectors.f32"
    DATA["clustered"](np.random.default_rng(0)).tofile(path)
    return np.memmap(path, np.float32, mode="r").reshape(-1, 96)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_size) for path in folder.iterdir()}


def test_codes_are_kept_in_a_folder(mapped: Matrix, tmp_path: Path) -> None:
    folder, steps = tmp_path / "search", []
    first = Searcher.build(mapped, folder=folder, on_step=steps.append)
    assert steps[-1] == Step(1500, 1500)
    before = files(folder)
    assert set(before) == {"codes.npy", "bounds.npy"}
    assert before["codes.npy"][1] < mapped.nbytes / 3
    again = Searcher.build(mapped, folder=folder, on_step=steps.append)
    assert files(folder) == before
    assert len(steps) == 1  # nothing was read anew
    for searcher in (first, again):
        assert isinstance(searcher.codes.base, np.memmap)
        for query, found in zip(mapped[:5], searcher.nearest(mapped[:5], k=10), strict=True):
            assert_nearest(found, true_distances(mapped, query, "cosine"), 10)


def test_codes_of_other_vectors_are_made_anew(mapped: Matrix, tmp_path: Path) -> None:
    others = [mapped * -1, mapped[::-1], mapped[:100], mapped[:, :50], np.zeros((0, 96), np.float32)]
    for other in others:
        Searcher.build(mapped, folder=tmp_path / "search")
        searcher = Searcher.build(other, folder=tmp_path / "search")
        np.testing.assert_array_equal(searcher.codes, Searcher.build(other).codes)
        np.testing.assert_array_equal(searcher.bounds, Searcher.build(other).bounds)


@pytest.mark.parametrize("name", ["codes.npy", "bounds.npy"])
@pytest.mark.parametrize("content", [None, b"", b"no array", "cut"])
def test_damaged_codes_are_made_anew(name: str, content: bytes | str | None, mapped: Matrix, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    Searcher.build(mapped, folder=folder)
    path = folder / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        os.truncate(path, path.stat().st_size // 2)
    searcher = Searcher.build(mapped, folder=folder)
    np.testing.assert_array_equal(searcher.codes, Searcher.build(mapped).codes)
    np.testing.assert_array_equal(searcher.bounds, Searcher.build(mapped).bounds)


def test_nothing_is_left_of_a_build_that_was_stopped(mapped: Matrix, tmp_path: Path) -> None:
    def stop(_step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Searcher.build(mapped, folder=tmp_path / "search", on_step=stop)
    assert not files(tmp_path / "search")


def test_a_folder_that_cannot_be_written(mapped: Matrix, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match=r"codes\.npy could not be kept"):
        Searcher.build(mapped, folder=tmp_path / "file" / "search")


def test_many_threads_search_at_the_same_time(mapped: Matrix) -> None:
    searcher = Searcher.build(mapped)
    (expected,) = searcher.nearest(mapped[:1], k=20)
    with ThreadPoolExecutor(8) as pool:
        for (found,) in pool.map(lambda _: tuple(searcher.nearest(mapped[:1], k=20)), range(64)):
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.distances, expected.distances)


def test_machine_code_that_cannot_be_kept_is_made_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = numba.njit

    def without_a_folder(*, cache: bool, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiler(cache=False, **options)

    monkeypatch.setattr(numba, "njit", without_a_folder)
    search._kernels.cache_clear()
    try:
        found = search.scan(np.eye(3), np.array([0, 1.0, 0]), k=1)
    finally:
        search._kernels.cache_clear()
    assert found.ids.tolist() == [1]
