"""t-SNE and UMAP against scikit-learn and umap-learn, and picture grids against the exact optimum, in one run.

Run it on a quiet machine: ``python tests/benchmarks/bench_embeddings.py``; the processor's time, in brackets, is less
disturbed by other load. It takes minutes; ``--small`` leaves the 10,000 points out. Vectors are synthetic: 40 groups of
their own shapes in 1,280 numbers, clipped at zero as after a ReLU.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from cnnviz_core.methods import embeddings
from cnnviz_core.results import Projection

NUM_FEATURES = 1280


def vectors_of(num: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    groups = draw.integers(40, size=num)
    hidden = 1.5 * draw.normal(size=(40, 24))[groups] + draw.normal(size=(num, 24)) * draw.random((40, 24))[groups]
    mixed = hidden @ draw.normal(size=(24, NUM_FEATURES)) + 0.7 * draw.normal(size=(num, NUM_FEATURES))
    return np.maximum(mixed, 0).astype(np.float32)


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:7.2f} s ({self.cpu:7.2f} s)"


def timed(work: Callable[[], Any]) -> tuple[Any, Cost]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, Cost(time.perf_counter() - wall, time.process_time() - cpu)


def as_map(values: np.ndarray, like: Projection) -> Projection:
    return Projection(values.astype(np.float32), like.method, like.explained, None, like.settings)


def report(title: str, vectors: np.ndarray, projection: Projection, cost: Cost, peer: Cost) -> None:
    sample = slice(0, 3000)
    trust = trustworthiness(vectors[sample], projection.values[sample], n_neighbors=10)
    kept = embeddings.preservation(vectors, projection)
    print(
        f"  {title:14} {cost}, {peer.wall / cost.wall:5.2f} ({peer.cpu / cost.cpu:5.2f}) times as fast as the peer, "
        f"preservation {kept:.3f}, trustworthiness {trust:.4f}",
        flush=True,
    )


def bench_map(num: int, method: str, peer: Callable[[np.ndarray], np.ndarray], name: str) -> None:
    vectors = vectors_of(num)
    mine, seconds = timed(lambda: embeddings.project(vectors, method=method))
    theirs, their_seconds = timed(lambda: peer(vectors))
    print(f"{embeddings.METHODS[method].title}, {num:,} x {NUM_FEATURES}")
    report("cnnviz", vectors, mine, seconds, their_seconds)
    report(name, vectors, as_map(theirs, mine), their_seconds, their_seconds)
    _, placing = timed(lambda: embeddings.place(mine, vectors, vectors[:1]))
    print(
        f"  one photo of one's own placed in {placing}; estimate for the page was "
        f"{embeddings.METHODS[method].seconds(num, NUM_FEATURES):.1f} s",
        flush=True,
    )


def scikit_learn(vectors: np.ndarray) -> np.ndarray:
    return TSNE(init="pca", learning_rate="auto", random_state=0).fit_transform(vectors)


def umap_learn(vectors: np.ndarray) -> np.ndarray:
    import umap

    return umap.UMAP(random_state=0, n_jobs=1).fit_transform(vectors)


def bench_grids(num: int) -> None:
    draw = np.random.default_rng(0)
    groups = draw.normal(size=(12, 2))[draw.integers(12, size=num)]
    for name, points in (("even", draw.random((num, 2))), ("groups", 4 * groups + 0.3 * draw.normal(size=(num, 2)))):
        empty = np.zeros(0, dtype=np.float32)
        projection = Projection(points.astype(np.float32), "pca", empty, None, {})
        mine, seconds = timed(lambda p=projection: embeddings.grid(p))
        greedy, greedy_seconds = timed(lambda p=projection: embeddings.grid(p, method="greedy"))
        cost = embeddings.grid_cost(projection, mine)
        text = f"{num:6,} cells, {name:6}: {seconds}; greedy {greedy_seconds} at "
        text += f"{embeddings.grid_cost(projection, greedy) / cost:5.2f} times the cost"
        if num <= 2500:
            bound, embeddings._EXACT_CELLS = embeddings._EXACT_CELLS, num + 100
            exact, exact_seconds = timed(lambda p=projection: embeddings.grid(p))
            embeddings._EXACT_CELLS = bound
            best = embeddings.grid_cost(projection, exact)
            text += f"; exact {exact_seconds}, cost {100 * (cost / best - 1):.1f} % above it"
        print(text, flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    sizes = [2000] if "--small" in sys.argv else [2000, 10_000]
    for num in (1024, 2500, 10_000):
        bench_grids(num)
    for num in sizes:
        bench_map(num, "pca", PCA(2).fit_transform, "scikit-learn")
    for num in sizes:
        bench_map(num, "tsne", scikit_learn, "scikit-learn")
    _, compiling = timed(lambda: umap_learn(vectors_of(300)))
    _, compiling_more = timed(lambda: umap_learn(vectors_of(5000)))
    print(f"umap-learn's first maps, with compiling: {compiling}, {compiling_more}")
    for num in sizes:
        bench_map(num, "umap", umap_learn, "umap-learn")


if __name__ == "__main__":
    main()
