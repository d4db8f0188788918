"""Exact search among vectors of 1,280 numbers: against scikit-learn's brute force, and a million in a file.

``python tests/benchmarks/bench_search.py [rows...]``; 10000 100000 1000000 by default. A million takes 5 GB of a
temporary folder, of which the search itself reads little. Ours runs on one thread, scikit-learn on all cores.

The vectors are clustered, rectified and of slowly falling variance, as the embeddings of photos are. Each result is
compared with scikit-learn's, and for a million with measuring every row.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from timing import medians_ms

from cnnviz_core.collections import search
from cnnviz_core.collections.search import METRICS, Searcher
from cnnviz_core.methods import neighbors

DIM, K, NUM_QUERIES, BLOCK = 1280, 10, 20, 10_000
BARS_MS = {10_000: 2, 100_000: 30, 1_000_000: 200}

Matrix = NDArray[np.float32]


def write_vectors(path: Path, num_rows: int) -> Matrix:
    """(N, D) mapped from a file, written block by block."""
    rng = np.random.default_rng(0)
    spread = rng.lognormal(sigma=0.5, size=DIM)
    centres = rng.standard_normal((1000, DIM)) * spread
    basis = rng.standard_normal((DIM, DIM)) / np.sqrt(np.arange(1, DIM + 1))[:, None]
    with path.open("wb") as file:
        for start in range(0, num_rows, BLOCK):
            size = min(BLOCK, num_rows - start)
            within = rng.standard_normal((size, DIM), dtype=np.float32) @ basis.astype(np.float32)
            rows = centres[rng.integers(1000, size=size)] + 0.5 * within * spread
            np.maximum(rows, 0).astype(np.float32).tofile(file)
    return np.memmap(path, np.float32, mode="r").reshape(num_rows, DIM)


def same(mine: search.Found, ids: NDArray[np.int64], distances: NDArray[np.float64]) -> bool:
    """Whether two results agree, but for rows whose distances differ by less than single precision tells."""
    return bool(np.allclose(mine.distances, distances, rtol=1e-5, atol=1e-6)) and (
        list(mine.ids) == list(ids) or np.diff(distances).min() < 1e-6
    )


def bench(vectors: Matrix, folder: Path) -> None:
    print(f"{len(vectors):,} x {DIM}", flush=True)
    start = time.perf_counter()
    searcher = Searcher.build(vectors, folder=folder)
    print(f"  made ready in {time.perf_counter() - start:.2f} s; codes {searcher.codes.nbytes / 1e6:,.0f} MB")
    rows = np.random.default_rng(1).integers(len(vectors), size=NUM_QUERIES)
    queries = vectors[rows] * np.random.default_rng(2).uniform(0.8, 1.2, (NUM_QUERIES, DIM)).astype(np.float32)
    for metric in METRICS:
        turn = iter(range(10**6))

        def query(turn=turn) -> Matrix:
            return queries[next(turn) % NUM_QUERIES]

        def ours(metric=metric, query=query) -> object:
            return neighbors.search(searcher, query(), k=K, metric=metric)

        def every_row(metric=metric, query=query) -> object:
            return neighbors.search(vectors, query(), k=K, metric=metric)

        is_small = len(vectors) <= 100_000
        works = [ours, every_row]
        if is_small:
            peer = NearestNeighbors(algorithm="brute", metric=metric).fit(np.asarray(vectors))
            works.append(lambda peer=peer, query=query: peer.kneighbors(query()[None], K))
        found = list(searcher.nearest(queries, k=K, metric=metric))
        if is_small:
            distances, ids = peer.kneighbors(queries, K)
            num_same = sum(same(*each) for each in zip(found, ids, distances, strict=True))
        else:
            every = [search.scan(vectors, one, k=K, metric=metric) for one in queries]
            num_same = sum(list(a.ids) == list(b.ids) for a, b in zip(found, every, strict=True))
        mine, measured, *theirs = medians_ms(*works, rounds=3 * NUM_QUERIES if is_small else NUM_QUERIES)
        print(f"  {metric:9}  ours {mine:7.2f} ms (bar {BARS_MS.get(len(vectors), '-')})", end="")
        print(f"   every row measured {measured:7.2f} ms", end="")
        print(f"   scikit-learn {theirs[0]:7.1f} ms, {theirs[0] / mine:.0f}x" if theirs else "", end="")
        print(f"   same results {num_same} of {NUM_QUERIES}", flush=True)
    if len(vectors) <= BLOCK:
        for name, work in (("near duplicates", neighbors.near_duplicates), ("outliers", neighbors.outliers)):
            start = time.perf_counter()
            work(searcher)
            print(f"  {name} {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    for num_rows in map(int, sys.argv[1:] or BARS_MS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bench(write_vectors(folder / "vectors.f32", num_rows), folder / "search")


if __name__ == "__main__":
    main()
