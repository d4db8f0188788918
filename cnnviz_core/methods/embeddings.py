"""Embeddings: how a network organises a collection of pictures.

At any layer a picture is a list of numbers, its embedding: a point in a space with hundreds of axes. Pictures that the
network treats alike lie close together there. A projection lays these points out in a plane, so that a person can look:

- **PCA** turns the cloud of points and looks at it from the side where it is widest. It is a shadow: straight,
  repeatable, with axes that mean something, and the share of the variance says how much the shadow shows.
- **t-SNE** and **UMAP** bend and cut the cloud so that each point keeps its nearest neighbours. They show groups that
  no shadow can show.
- **The picture grid** gives each picture a cell of its own, so that none hides another.

Go through the layers: in pixels pictures group by colour and background; with depth the classes separate. Neighbour
purity puts a number to what the eye sees: of the nearest other pictures, how many have the same label, compared with
what chance would give.

When it misleads: in t-SNE and UMAP the distance between two groups, the size of a group and how dense it is mean next
to nothing; only who is next to whom does. Both find groups even in noise. Change the perplexity (or the number of
neighbours) and the seed: what stays is in the data. Under PCA points that lie on top of each other may be far apart on
the axes that are not shown. In the grid neighbours may be strangers that were pushed together to fill it: bright seams
mark them. And labels that separate in a map of the training pictures may mix in new ones.

Source: Pearson, On Lines and Planes of Closest Fit (1901); van der Maaten and Hinton, Visualizing Data using t-SNE
(2008); McInnes et al., UMAP (2018); Wattenberg et al., How to Use t-SNE Effectively (2016); Karpathy, t-SNE
visualization of CNN codes (2014), for the grid; Kobak and Linderman, Initialization is critical (2021), for starting
both from PCA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, optimize, sparse
from scipy.spatial import distance

from cnnviz_core.errors import BadSetting, NotApplicable, checked_seed
from cnnviz_core.results import FloatArray, Projection, Step

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Cells = NDArray[np.int32]
OnStep = Callable[[Step], None]

# Axes that PCA keeps at most, and that t-SNE starts from.
_MAX_AXES = 10
_TSNE_AXES = 50

# Up to so many rows or columns PCA makes the matrix of their products; from the smaller number on it looks for the
# first axes only.
_MAX_SIDE = 4096
_DIRECT_SIDE = 400

# Numbers in the blocks of big matrices that are in memory at a time.
_BLOCK = 2**23

# Larger numbers have squares that single precision cannot add up.
_LARGEST = 1e15

# From so many points on t-SNE takes the repulsion from an interpolated grid; below, from a tree.
_FFT_ROWS = 10_000
_EARLY_STEPS, _STEPS = 250, 500
_PLACING_PERPLEXITY, _MEDIAN_OF = 5.0, 5
_STEPS_PER_REPORT = 25

# UMAP moves the edges of an epoch in so many lots: all at once they overshoot.
_LOTS = 8
_PUSHES_PER_PULL = 5
_EPOCHS_PER_REPORT = 10
_PLACING_EPOCHS = 100
_PLACING_PUSHES = 64

# Up to this many cells the picture grid is the best there is; larger ones are split, solved in pieces and polished.
_EXACT_CELLS = 1500
_PIECE_CELLS = 64
_WINDOW_CELLS = 10
_POLISHES = 8


@dataclass(frozen=True)
class Options:
    """Arguments of :func:`project` with defaults filled in; see there."""

    method: str
    seed: int
    num_axes: int
    standardize: bool
    perplexity: float | None
    num_neighbors: int | None
    min_distance: float


@dataclass(frozen=True)
class Layout:
    """What a method makes: points (N, A), share of the variance per axis (A,) or (0,), divergence or None."""

    values: FloatArray
    explained: FloatArray
    divergence: float | None = None


Tell = Callable[[int, int, FloatArray, float | None], None]


@dataclass(frozen=True)
class Method:
    """One way to lay embeddings out.

    Attributes:
        title: On the page.
        promise: What the map keeps, in a sentence.
        misleads: How it is misread, in a sentence.
        source: Paper, and whose code.
        cost: In words.
        min_rows: Fewest embeddings it can lay out.
        axes: How many axes it can have.
        seconds: About how long it takes for N embeddings of D numbers on two cores.
        layout: From embeddings (N, D) to points; told about every report.
        place: From embeddings, their points, and new embeddings to the new points, (M, A).
    """

    title: str
    promise: str
    misleads: str
    source: str
    cost: str
    min_rows: int
    axes: range
    seconds: Callable[[int, int], float]
    layout: Callable[[FloatArray, Options, Tell], Layout]
    place: Callable[[FloatArray, FloatArray, FloatArray, Options], FloatArray]


# ---- PCA ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axes:
    """Principal axes: unit directions (A, D), the mean (D,) that they go out from, and their shares of the variance.

    Beyond the rank of the data they are zero.
    """

    mean: Doubles
    directions: Doubles
    shares: Doubles

    def scores(self, x: FloatArray) -> FloatArray:
        """Coordinates of embeddings (N, D) on the axes, (N, A)."""
        scores = np.empty((len(x), len(self.directions)), dtype=np.float32)
        for rows in _blocks(len(x), x.shape[1]):
            scores[rows] = (x[rows] - self.mean) @ self.directions.T
        return scores


def _principal(x: FloatArray, num_axes: int, seed: int) -> _Axes:
    """Principal axes of embeddings (N, D), the widest first; the largest part of each direction is positive."""
    mean = x.mean(axis=0, dtype=np.float64)
    kept = min(num_axes, *x.shape)
    if min(x.shape) > _MAX_SIDE:
        directions, variances, total = _iterative_axes(x, kept, seed)
    else:
        directions, variances, total = _product_axes(x, mean, kept)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    padding = ((0, num_axes - kept), (0, 0))
    shares = np.pad(variances / total if total > 0 else variances, padding[0])
    return _Axes(mean, np.pad(directions * np.where(largest < 0, -1, 1), padding), shares)


def _product_axes(x: FloatArray, mean: Doubles, num_axes: int) -> tuple[Doubles, Doubles, float]:
    """Directions, variances times N, and their sum over all axes, from the products of the shorter side's vectors."""
    is_tall = x.shape[0] >= x.shape[1]
    side = min(x.shape)
    products = np.zeros((side, side))
    for part in _blocks(max(x.shape), side):
        centred = x[part] - mean if is_tall else (x[:, part] - mean[part]).T
        products += centred.T @ centred
    values, vectors = _largest_eigenvalues(products, num_axes)
    is_real = values > values[0] * side * np.finfo(np.float32).eps ** 2
    if is_tall:
        directions = vectors.T
    else:
        directions = (
            np.concatenate([vectors.T @ (x[:, part] - mean[part]) for part in _blocks(x.shape[1], side)], axis=1)
            / np.sqrt(np.where(is_real, values, 1))[:, None]
        )
    return directions * is_real[:, None], values * is_real, float(np.trace(products))


def _largest_eigenvalues(products: Doubles, count: int) -> tuple[Doubles, Doubles]:
    """The largest eigenvalues, largest first, and their unit vectors as columns."""
    side = len(products)
    if side > max(_DIRECT_SIDE, 4 * count):  # as exact, several times as fast
        start = np.random.default_rng(0).normal(size=side)
        values, vectors = sparse.linalg.eigsh(products, k=count, v0=start)
    else:
        values, vectors = linalg.eigh(products, subset_by_index=(side - count, side - 1))
    return values[::-1], vectors[:, ::-1]


def _narrow(seed: int) -> int:
    """A seed as scikit-learn takes it, which has 32 bits for it."""
    return seed % 2**32


def _iterative_axes(x: FloatArray, num_axes: int, seed: int) -> tuple[Doubles, Doubles, float]:
    from sklearn.decomposition import PCA

    found = PCA(num_axes, svd_solver="arpack", random_state=_narrow(seed)).fit(x)
    variances = found.explained_variance_.astype(np.float64)
    return found.components_.astype(np.float64), variances, float(variances[0] / found.explained_variance_ratio_[0])


def _pca(x: FloatArray, options: Options, _tell: Tell) -> Layout:
    axes = _principal(x, options.num_axes, options.seed)
    return Layout(axes.scores(x), axes.shares.astype(np.float32))


def _place_by_pca(x: FloatArray, _points: FloatArray, new: FloatArray, options: Options) -> FloatArray:
    return _principal(x, options.num_axes, options.seed).scores(new)


# ---- t-SNE --------------------------------------------------------------------------------------------------------


def _tsne(x: FloatArray, options: Options, tell: Tell) -> Layout:
    from openTSNE import TSNE, affinity, nearest_neighbors

    x = _principal(x, _TSNE_AXES, options.seed).scores(x)
    total = _EARLY_STEPS + _STEPS
    start = _start(x, 2, options.seed, spread=1e-4)
    done = 0

    def report(_step: int, divergence: float, points: Doubles) -> None:
        nonlocal done
        done += _STEPS_PER_REPORT
        tell(done, total, np.array(points, dtype=np.float32), float(divergence))

    perplexity = float(options.perplexity or 0)
    near = _nearest(x, int(3 * perplexity), lambda: tell(0, total, x[:, :2].copy(), None))
    known = nearest_neighbors.PrecomputedNeighbors(near.rows, near.distances)
    found = TSNE(
        early_exaggeration_iter=_EARLY_STEPS,
        n_iter=_STEPS,
        negative_gradient_method=_repulsion(len(x)),
        callbacks=report,
        callbacks_every_iters=_STEPS_PER_REPORT,
        random_state=_narrow(options.seed),
        n_jobs=1,
    ).fit(affinities=affinity.PerplexityBasedNN(knn_index=known, perplexity=perplexity, n_jobs=1), initialization=start)
    return Layout(np.array(found, dtype=np.float32), np.zeros(0, dtype=np.float32), float(found.kl_divergence))


def _repulsion(num_rows: int) -> str:
    """Which of openTSNE's approximations of the repulsion is the faster."""
    return "fft" if num_rows >= _FFT_ROWS else "bh"


def _place_by_tsne(x: FloatArray, points: FloatArray, new: FloatArray, options: Options) -> FloatArray:
    from openTSNE import TSNEEmbedding, affinity

    axes = _principal(x, _TSNE_AXES, options.seed)
    old, new = axes.scores(x), axes.scores(new)
    perplexity = min(_PLACING_PERPLEXITY, len(x) / 3)
    near = _nearest_to(old, new, min(len(x), math.ceil(3 * perplexity)))
    likeness = affinity.joint_probabilities_nn(
        near.rows,
        near.distances,
        [perplexity],
        symmetrize=False,
        normalization="point-wise",
        n_reference_samples=len(x),
        n_jobs=1,
    )

    def to_new(_new: FloatArray, *, perplexity: float, return_distances: bool) -> tuple[object, Ints, Doubles]:  # noqa: ARG001
        return likeness, near.rows, near.distances

    # Of the affinities openTSNE reads only how many there are: the existing points do not move.
    affinities = SimpleNamespace(P=sparse.csr_matrix((len(x), len(x))), to_new=to_new)
    fixed = TSNEEmbedding(points, affinities, negative_gradient_method=_repulsion(len(x)), n_jobs=1)
    middle = (fixed.max(axis=0) + fixed.min(axis=0)) / 2  # where transform moves the origin to
    start = np.median(points[near.rows[:, :_MEDIAN_OF]], axis=1)
    start = np.where(near.distances[:, :1] > 0, start, points[near.rows[:, 0]]) - middle
    return np.array(fixed.transform(new, perplexity=perplexity, initialization=start) + middle, dtype=np.float32)


# ---- UMAP ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curve:
    """How alike two points of the map are at a squared distance: 1 / (1 + a d^2b)."""

    a: np.float32
    b: np.float32

    def pull(self, squared: NDArray[Any]) -> NDArray[Any]:
        """What multiplies the way from one point to another that it should be near."""
        power = squared**self.b
        force: NDArray[Any] = 2 * self.a * self.b * power / (np.maximum(squared, 1e-12) * (self.a * power + 1))
        return force

    def push(self, squared: NDArray[Any]) -> NDArray[Any]:
        """What multiplies the way from a point that it should not be near."""
        force: NDArray[Any] = 2 * self.b / ((np.float32(0.001) + squared) * (self.a * squared**self.b + 1))
        return force


def _curve(min_distance: float) -> _Curve:
    """The curve nearest to 1 up to ``min_distance`` and exp(min_distance - d) beyond."""
    distances = np.linspace(0, 3, 300)
    wanted = np.exp(-np.maximum(distances - min_distance, 0))
    (a, b), _ = optimize.curve_fit(lambda d, a, b: 1 / (1 + a * d ** (2 * b)), distances, wanted)
    return _Curve(np.float32(a), np.float32(b))


def _umap(x: FloatArray, options: Options, tell: Tell) -> Layout:
    total = 500 if len(x) <= 10_000 else 200
    start = _start(_principal(x, options.num_axes, options.seed).scores(x), options.num_axes, options.seed, spread=1)
    points = (10 * (start - start.min(axis=0)) / np.ptp(start, axis=0)).astype(np.float32)
    near = _nearest(x, int(options.num_neighbors or 0) - 1, lambda: tell(0, total, points.copy(), None))
    edges = _fuzzy_graph(near).tocoo()
    kept = edges.data >= edges.data.max() / total
    draw = np.random.default_rng(options.seed)
    order = draw.permutation(np.flatnonzero(kept))
    heads, tails = edges.row[order], edges.col[order]
    frequency = (edges.data[order] / edges.data.max()).astype(np.float32)
    curve, waiting = _curve(options.min_distance), np.zeros(len(order), dtype=np.float32)
    for epoch in range(total):
        waiting += frequency
        due = np.flatnonzero(waiting >= 1)
        waiting[due] -= 1
        for lot in np.array_split(due, _LOTS):
            points += np.float32(1 - epoch / total) * _forces(points, heads[lot], tails[lot], curve, draw)
        if (epoch + 1) % _EPOCHS_PER_REPORT == 0:
            tell(epoch + 1, total, points.copy(), None)
    return Layout(points, np.zeros(0, dtype=np.float32))


def _forces(points: FloatArray, heads: Ints, tails: Ints, curve: _Curve, draw: np.random.Generator) -> FloatArray:
    """(N, A): edges pull both their ends together, and push their heads away from points drawn at random."""
    way = points[tails] - points[heads]
    pulls = _clip(curve.pull(_squares(way))[:, None] * way)
    pushed = np.repeat(heads, _PUSHES_PER_PULL)
    way = points[pushed] - points[draw.integers(len(points), size=len(pushed), dtype=np.int32)]
    pushes = _clip(curve.push(_squares(way))[:, None] * way)
    ends = np.concatenate([heads, tails, pushed])
    forces = np.concatenate([pulls, -pulls, pushes])
    sums = [np.bincount(ends, forces[:, axis], len(points)) for axis in range(points.shape[1])]
    return np.stack(sums, axis=1).astype(np.float32)


def _squares(way: NDArray[Any]) -> NDArray[Any]:
    """Squared lengths along the last axis."""
    squares: NDArray[Any] = np.einsum("...a,...a->...", way, way)
    return squares


def _clip(forces: FloatArray) -> FloatArray:
    return np.clip(forces, -4, 4)


def _fuzzy_graph(near: _Near) -> sparse.csr_matrix:
    """(N, N) symmetric: how sure two points are to be neighbours, 0..1, if one of them says so (probabilistic or)."""
    num_rows, num_neighbors = near.rows.shape
    nearest = np.where(near.distances > 0, near.distances, np.inf).min(axis=1)
    nearest[np.isinf(nearest)] = 0
    says = _memberships(near.distances, nearest, num_neighbors + 1)
    heads = np.repeat(np.arange(num_rows), num_neighbors)
    graph = sparse.csr_matrix((says.ravel(), (heads, near.rows.ravel())), shape=(num_rows, num_rows))
    return (graph + graph.T - graph.multiply(graph.T)).tocsr()


def _memberships(distances: Doubles, free: Doubles, num_neighbors: int) -> Doubles:
    """(N, k) exp(-(d - free) / width), with each row's width such that it sums to log2 of the number of neighbours."""
    gaps = np.maximum(distances - free[:, None], 0)
    low, high, width = np.zeros(len(gaps)), np.full(len(gaps), np.inf), np.ones(len(gaps))
    for _ in range(64):
        is_wide = np.exp(-gaps / width[:, None]).sum(axis=1) > math.log2(num_neighbors)
        low, high = np.where(is_wide, low, width), np.where(is_wide, width, high)
        width = np.where(np.isinf(high), 2 * width, (low + high) / 2)
    # A point counts itself as a neighbour at no distance in these means.
    means = distances.sum(axis=1) / num_neighbors
    means = np.where(means > 0, means, means.mean())
    width = np.maximum(width, np.maximum(1e-3 * means, np.finfo(np.float32).tiny))
    memberships: Doubles = np.exp(-gaps / width[:, None])
    return memberships


def _place_by_umap(x: FloatArray, points: FloatArray, new: FloatArray, options: Options) -> FloatArray:
    num_neighbors = int(options.num_neighbors or 0)
    near = _nearest_to(x, new, num_neighbors)
    weights = _memberships(near.distances, np.zeros(len(new)), num_neighbors)
    shares = np.where(near.distances.min(axis=1, keepdims=True) > 0, weights, near.distances == 0)
    around = points[near.rows]
    placed: FloatArray = np.einsum("mk,mka->ma", shares / shares.sum(axis=1, keepdims=True), around).astype(np.float32)
    weights = (weights / weights.max(axis=1, keepdims=True)).astype(np.float32)
    curve, draw = _curve(options.min_distance), np.random.default_rng(options.seed)
    for epoch in range(_PLACING_EPOCHS):
        way = around - placed[:, None]
        pulls = np.einsum("mk,mka->ma", weights, _clip(curve.pull(_squares(way))[..., None] * way))
        way = placed[:, None] - points[draw.integers(len(points), size=_PLACING_PUSHES)]
        pushes = _clip(curve.push(_squares(way))[..., None] * way).mean(axis=1)
        pushes *= _PUSHES_PER_PULL * weights.sum(axis=1, keepdims=True)
        placed += np.float32(0.25 * (1 - epoch / _PLACING_EPOCHS)) * (pulls + pushes)
    return placed


METHODS: Mapping[str, Method] = {
    "pca": Method(
        "PCA",
        "Straight axes along which the embeddings vary most; distances shrink but never grow.",
        "What varies on the axes that are not shown is invisible: points on top of each other may be far apart.",
        "Pearson 1901",
        cost="about a second for 10,000 pictures",
        min_rows=2,
        axes=range(2, _MAX_AXES + 1),
        seconds=lambda n, d: 0.1 + 3e-11 * n * d * min(n, d),
        layout=_pca,
        place=_place_by_pca,
    ),
    "tsne": Method(
        "t-SNE",
        "Each point keeps its nearest neighbours, so that groups come apart.",
        "Distances between groups, their sizes and their density mean little, and noise falls into groups, too.",
        "van der Maaten and Hinton 2008; openTSNE, Poličar et al. 2019, on the first 50 principal components",
        cost="some seconds for 2,000 pictures, half a minute for 10,000",
        min_rows=5,
        axes=range(2, 3),
        seconds=lambda n, d: 0.5 + 2.5e-3 * n + 1e-8 * n * n + 3e-11 * n * d * min(n, d),
        layout=_tsne,
        place=_place_by_tsne,
    ),
    "umap": Method(
        "UMAP",
        "Each point keeps its nearest neighbours; groups are drawn tighter than by t-SNE and further apart.",
        "The wide gaps between groups mean as little as in t-SNE, and few neighbours tear one group into several.",
        "McInnes et al. 2018, started from PCA, with exact neighbours",
        cost="two or three seconds for 2,000 pictures, a quarter of a minute for 10,000",
        min_rows=5,
        axes=range(2, 4),
        seconds=lambda n, d: 0.3 + 1.1e-3 * n + 1e-8 * n * n + 4e-12 * n * n * d,
        layout=_umap,
        place=_place_by_umap,
    ),
}


# ---- projections --------------------------------------------------------------------------------------------------


def project(
    vectors: ArrayLike,
    *,
    method: str = "pca",
    seed: int = 0,
    num_axes: int = 2,
    standardize: bool = False,
    perplexity: float | None = None,
    num_neighbors: int | None = None,
    min_distance: float = 0.1,
    on_step: OnStep | None = None,
) -> Projection:
    """Lays embeddings out in a plane, or along more axes.

    The same vectors, settings and machine give the same points. t-SNE and UMAP start from PCA, so that the seed decides
    little. t-SNE works on the first 50 principal components. UMAP is computed as in umap-learn, but with exact
    neighbours and with the edges of an epoch moved in a few lots in place of one by one, which needs no compiler and
    holds no other thread up; the maps are as good by every measure here.

    Args:
        vectors: (N, D) embeddings, finite.
        method: A key of :data:`METHODS`.
        seed: Of t-SNE's and UMAP's random draws.
        num_axes: Axes of the result: PCA 2 to 10, UMAP 2 or 3, t-SNE 2. Axes of PCA beyond the rank are zero.
        standardize: Bring every feature to a variance of 1 first, so that those with large numbers do not decide alone.
        perplexity: About how many neighbours t-SNE cares for, from 1 to (N - 1) / 3; None takes 30, or as many as the
            bound allows.
        num_neighbors: How many neighbours UMAP cares for, the point itself included, from 2 to N; None takes 15, or N.
        min_distance: How tightly UMAP may pack points, 0 to 1.
        on_step: Called with t-SNE's iterations or UMAP's epochs done and the map so far, and before that, with nothing
            done, while neighbours are searched; what it raises ends the work. PCA has no steps.

    Returns:
        ``values`` (N, num_axes); ``explained`` with PCA, ``divergence`` with t-SNE. ``project(vectors,
        **projection.settings)`` repeats it.

    Raises:
        BadSetting: A setting out of range, or vectors that are no finite table of numbers.
        NotApplicable: Too few vectors for the method, or all the same.

    Source: the papers and programs in :data:`METHODS`.
    """
    x = _finite(vectors)
    options = _options(len(x), method, seed, num_axes, standardize, perplexity, num_neighbors, min_distance)
    if (x == x[0]).all():
        raise NotApplicable(
            f"All {len(x)} vectors are the same, so there is nothing to lay out; choose another layer or more pictures."
        )
    settings = asdict(options)

    def tell(done: int, total: int, values: FloatArray, divergence: float | None) -> None:
        if on_step:
            partial = Projection(values, method, np.zeros(0, dtype=np.float32), divergence, settings)
            on_step(Step(done, total, partial))

    scaled, _ = _scaled(x, x[:0], options)
    made = METHODS[method].layout(scaled, options, tell)
    return Projection(made.values, method, made.explained, made.divergence, settings)


def place(projection: Projection, vectors: ArrayLike, new_vectors: ArrayLike) -> FloatArray:
    """Where new embeddings belong in an existing map, whose points stay where they are.

    - PCA: exact, the coordinates on the same axes.
    - t-SNE: openTSNE's transform. Each new point starts at the median of its 5 nearest neighbours (at its twin, if it
      has one) and is then moved to where its likeness to its neighbours is kept best, with a perplexity of 5.
    - UMAP: as in umap-learn's transform, each new point starts at the mean of its nearest neighbours, weighted by how
      sure they are, and 100 epochs of the layout move it alone. All edges pull with their expected force in place of
      being drawn.

    New points do not see each other: each is placed as if it came alone. A new picture unlike all others is still put
    somewhere; how far its nearest neighbour is says whether to believe it.

    Args:
        projection: Of :func:`project`.
        vectors: (N, D) the embeddings that it was made of.
        new_vectors: (M, D) embeddings of the same layer.

    Returns:
        (M, A) points in the map's unit.

    Raises:
        BadSetting: Tables that do not fit each other or the map, or numbers that are not finite.
    """
    x, new = _finite(vectors), _finite(new_vectors)
    if len(x) != len(projection.values):
        raise BadSetting(f"The map has {len(projection.values)} points, but there are {len(x)} vectors; give its own.")
    if x.shape[1] != new.shape[1]:
        raise BadSetting(
            f"The new vectors have {new.shape[1]} numbers each and the map's {x.shape[1]}; take the same layer."
        )
    options = Options(**dict(projection.settings))  # type: ignore[arg-type]
    old, placed = _scaled(x, new, options)
    return METHODS[projection.method].place(old, projection.values, placed, options)


def _options(
    num_rows: int,
    method: str,
    seed: int,
    num_axes: int,
    standardize: bool,  # noqa: FBT001
    perplexity: float | None,
    num_neighbors: int | None,
    min_distance: float,
) -> Options:
    """Settings with defaults filled in for so many embeddings; those of other methods stay None."""
    if method not in METHODS:
        raise BadSetting(f"{method!r} is not a projection; choose one of {', '.join(METHODS)}.")
    chosen = METHODS[method]
    if num_axes not in chosen.axes:
        bounds = f"{chosen.axes[0]} to {chosen.axes[-1]}" if len(chosen.axes) > 1 else f"{chosen.axes[0]}"
        raise BadSetting(f"num_axes is {num_axes}; {chosen.title} can have {bounds}.")
    if num_rows < chosen.min_rows:
        instead = "Use PCA." if num_rows >= METHODS["pca"].min_rows else "Add pictures."
        raise NotApplicable(f"{chosen.title} needs at least {chosen.min_rows} vectors, not {num_rows}. {instead}")
    if not 0 <= min_distance <= 1:
        raise BadSetting(f"min_distance is {min_distance}; it must be from 0 to 1.")
    largest = (num_rows - 1) / 3
    if perplexity is not None and not 1 <= perplexity <= largest:
        raise BadSetting(
            f"perplexity is {perplexity}; for {num_rows} vectors it must be from 1 to {largest:.1f}, a third of the "
            "others."
        )
    if num_neighbors is not None and not 2 <= num_neighbors <= num_rows:
        raise BadSetting(f"num_neighbors is {num_neighbors}; for {num_rows} vectors it must be from 2 to {num_rows}.")
    return Options(
        method=method,
        seed=checked_seed(seed),
        num_axes=num_axes,
        standardize=standardize,
        perplexity=perplexity or (min(30, largest) if method == "tsne" else None),
        num_neighbors=num_neighbors or (min(15, num_rows) if method == "umap" else None),
        min_distance=min_distance,
    )


def _finite(vectors: ArrayLike) -> FloatArray:
    """Embeddings as (N, D) float32."""
    given = np.asarray(vectors)
    if given.ndim != 2 or 0 in given.shape or given.dtype.kind not in "fiub":
        raise BadSetting(
            f"The vectors are an array of shape {given.shape} and type {given.dtype}; they must be a table of numbers, "
            "one row for each picture."
        )
    bad = np.concatenate(
        [~(np.abs(given[rows].astype(np.float64)) <= _LARGEST).all(axis=1) for rows in _blocks(*given.shape)]
    )
    if bad.any():
        rows = np.flatnonzero(bad)
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise BadSetting(
            f"Rows {', '.join(map(str, rows[:5]))}{more} of the vectors hold numbers that are infinite, missing or "
            f"beyond {_LARGEST:g}; leave these pictures out or choose another layer."
        )
    return np.ascontiguousarray(given, dtype=np.float32)


def _scaled(x: FloatArray, new: FloatArray, options: Options) -> tuple[FloatArray, FloatArray]:
    """Old and new embeddings, standardised by the old ones where asked for.

    Methods that look at distances only get them about the origin and of about unit length, where single precision is
    at its best; their maps do not depend on that.
    """
    if options.method == "pca" and not options.standardize:
        return x, new
    mean: Doubles = x.mean(axis=0, dtype=np.float64)
    variances = sum(np.square(x[rows] - mean).sum(axis=0) for rows in _blocks(*x.shape)) / len(x)
    if options.standardize:
        scale = np.where(variances > 0, np.sqrt(variances), 1)
    else:
        scale = np.full(len(mean), math.sqrt(variances.sum()))
    return _moved(x, mean, scale), _moved(new, mean, scale)


def _moved(x: FloatArray, mean: Doubles, scale: Doubles) -> FloatArray:
    moved = np.empty_like(x)
    for rows in _blocks(*x.shape):
        moved[rows] = (x[rows] - mean) / scale
    return moved


def _start(scores: FloatArray, num_axes: int, seed: int, *, spread: float) -> Doubles:
    """(N, A) the first principal components, the first with the given standard deviation, no two points the same."""
    start = scores[:, :num_axes].astype(np.float64)
    start *= spread / start[:, 0].std()
    start += np.random.default_rng(seed).normal(0, spread / 100, start.shape)
    return start


# ---- neighbours ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Near:
    """Nearest rows, (N, k), nearest first, and their Euclidean distances."""

    rows: Ints
    distances: Doubles


def _nearest(x: FloatArray, num_neighbors: int, on_block: Callable[[], None] | None = None) -> _Near:
    """Each row's nearest other rows."""
    return _search(x, x, num_neighbors, on_block, others=np.arange(len(x)))


def _nearest_to(x: FloatArray, queries: FloatArray, num_neighbors: int) -> _Near:
    """Each query's nearest rows."""
    return _search(x, queries, num_neighbors, None)


def _search(
    x: FloatArray,
    queries: FloatArray,
    num_neighbors: int,
    on_block: Callable[[], None] | None,
    others: Ints | None = None,
) -> _Near:
    """Nearest rows of x for each query, without the row in ``others`` that is the query itself.

    They are found by the products of all pairs; the distances of those found are then taken from the differences, so
    that equal rows have a distance of zero.
    """
    norms = _squares(x)
    found = np.empty((len(queries), num_neighbors), dtype=np.int64)
    distances = np.empty((len(queries), num_neighbors))
    for rows in _blocks(len(queries), max(len(x), num_neighbors * x.shape[1])):
        if on_block:
            on_block()
        squared = norms - 2 * (queries[rows] @ x.T)
        if others is not None:
            squared[np.arange(len(squared)), others[rows]] = np.inf
        nearest = np.argpartition(squared, num_neighbors - 1, axis=1)[:, :num_neighbors]
        exact = np.sqrt(_squares(x[nearest] - queries[rows, None]).astype(np.float64))
        order = np.lexsort((nearest, exact))
        found[rows] = np.take_along_axis(nearest, order, axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
    return _Near(found, distances)


def _blocks(num_rows: int, row_size: int) -> Iterator[slice]:
    """Slices of rows that fit in memory together."""
    step = max(1, _BLOCK // max(1, row_size))
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))


def preservation(
    vectors: ArrayLike, projection: Projection, *, k: int = 10, max_rows: int = 2000, seed: int = 0
) -> float:
    """How much of the neighbourhoods a map keeps: of the k nearest embeddings, the share that is among the k nearest
    points.

    Chance gives k / (N - 1). Maps of real embeddings keep a third to a half in a plane; what they lose, they must.

    Args:
        vectors: (N, D) the embeddings that the map was made of.
        projection: Of :func:`project`; all its axes count.
        k: Neighbours.
        max_rows: Of more pictures than this a random sample is asked, among all.
        seed: Of that sample.

    Returns:
        0..1.

    Raises:
        BadSetting: Tables that do not fit each other, or k out of range.
    """
    x = _finite(vectors)
    if len(x) != len(projection.values):
        raise BadSetting(f"The map has {len(projection.values)} points, but there are {len(x)} vectors; give its own.")
    if not 1 <= k < len(x):
        raise BadSetting(f"k is {k}; for {len(x)} vectors it must be from 1 to {len(x) - 1}.")
    if max_rows < 1:
        raise BadSetting(f"max_rows is {max_rows}; it must be 1 or more.")
    x, _ = _scaled(x, x[:0], Options(**dict(projection.settings)))  # type: ignore[arg-type]
    rows = np.sort(np.random.default_rng(checked_seed(seed)).permutation(len(x))[:max_rows])
    points = projection.values - projection.values.mean(axis=0)
    near = _search(x, x[rows], k, None, others=rows).rows
    shown = _search(points, points[rows], k, None, others=rows).rows
    return float((near[:, :, None] == shown[:, None]).any(axis=2).mean())


# ---- picture grid -------------------------------------------------------------------------------------------------


def grid_shape(num_points: int, *, num_columns: int | None = None, aspect: float = 1.0) -> tuple[int, int]:
    """Rows and columns of the smallest grid with a cell for each point.

    Args:
        num_points: How many.
        num_columns: None chooses by the aspect.
        aspect: Width of the whole over its height, with square cells.

    Raises:
        BadSetting: A number out of range.
    """
    if num_columns is not None and not 1 <= num_columns <= num_points:
        raise BadSetting(f"num_columns is {num_columns}; for {num_points} points it must be from 1 to {num_points}.")
    if not 0 < aspect < math.inf:
        raise BadSetting(f"aspect is {aspect}; it must be a number above 0.")
    columns = num_columns or min(num_points, max(1, math.ceil(math.sqrt(num_points * aspect))))
    return math.ceil(num_points / columns), columns


def grid(
    projection: Projection, *, num_columns: int | None = None, aspect: float = 1.0, method: str = "assignment"
) -> Cells:
    """Gives every point of a map a cell of a grid, so that every picture is seen whole and once.

    The first two axes are scaled to 0..1 each; the top row is where the second axis is largest, as in a plot. Each
    point is then moved to a cell:

    - ``assignment``: so that the squared ways add up to the least. Up to 1,500 cells this is the optimum (linear
      assignment). Larger grids are split into pieces, each solved by itself, and polished in overlapping windows: at
      2,500 cells 0 to 16 % above the optimum, fifty times as fast.
    - ``greedy``: cell by cell in reading order, each takes the nearest picture that is left. The last rows get what
      nobody wanted. (Karpathy's second layout.)

    Args:
        projection: Of :func:`project`.
        num_columns: None takes a grid of the given aspect; see :func:`grid_shape`.
        aspect: Width over height.
        method: A key of :data:`GRIDS`.

    Returns:
        (N, 2) row and column of each point.

    Raises:
        BadSetting: No such method, or a number out of range.
    """
    if method not in GRIDS:
        raise BadSetting(f"{method!r} is not a grid layout; choose one of {', '.join(GRIDS)}.")
    shape = grid_shape(len(projection.values), num_columns=num_columns, aspect=aspect)
    indices = GRIDS[method](_unit_square(projection), shape)
    return np.stack(np.divmod(indices, shape[1]), axis=1).astype(np.int32)


def grid_cost(projection: Projection, cells: NDArray[np.integer], *, shape: tuple[int, int] | None = None) -> float:
    """How far a grid moves its points: the mean squared way, where the whole map is 1 wide and 1 high.

    Args:
        projection: Of :func:`project`.
        cells: Of :func:`grid`.
        shape: Rows and columns; None takes the smallest grid that holds the cells.
    """
    rows, columns = shape or _shape_of(cells)
    ways = _unit_square(projection) - _centres((rows, columns))[cells @ (columns, 1)]
    return float(_squares(ways).mean())


def seams(
    vectors: ArrayLike, cells: NDArray[np.integer], *, shape: tuple[int, int] | None = None
) -> tuple[FloatArray, FloatArray]:
    """How unlike neighbours in a grid are: the Euclidean distance between their whole embeddings.

    Args:
        vectors: (N, D) embeddings.
        cells: Of :func:`grid`.
        shape: Rows and columns; None takes the smallest grid that holds the cells.

    Returns:
        Between neighbours side by side, (rows, columns - 1), and one above the other, (rows - 1, columns); not a number
        where a cell is empty.

    Raises:
        BadSetting: As many vectors as cells are needed, and they must be finite.
    """
    x = _finite(vectors)
    if len(x) != len(cells):
        raise BadSetting(f"There are {len(x)} vectors and {len(cells)} cells; each vector needs its own.")
    pictures = np.full(shape or _shape_of(cells), -1, dtype=np.int64)
    pictures[tuple(cells.T)] = np.arange(len(cells))
    return _seam(x, pictures[:, :-1], pictures[:, 1:]), _seam(x, pictures[:-1], pictures[1:])


def _seam(x: FloatArray, one: Ints, other: Ints) -> FloatArray:
    """Distances between pairs of pictures; -1 is none."""
    found = np.full(one.size, np.nan, dtype=np.float32)
    pairs = np.flatnonzero((one.ravel() >= 0) & (other.ravel() >= 0))
    for part in _blocks(len(pairs), x.shape[1]):
        which = pairs[part]
        found[which] = np.sqrt(_squares(x[one.ravel()[which]] - x[other.ravel()[which]]))
    return found.reshape(one.shape)


def _shape_of(cells: NDArray[np.integer]) -> tuple[int, int]:
    rows, columns = cells.max(axis=0) + 1
    return int(rows), int(columns)


def _unit_square(projection: Projection) -> Doubles:
    """(N, 2) across and down, 0..1; an axis without extent is in the middle."""
    points = projection.values[:, :2].astype(np.float64)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    unit = np.where(extent > 0, (points - low) / np.where(extent > 0, extent, 1), 0.5)
    return np.stack([unit[:, 0], 1 - unit[:, 1]], axis=1)


def _centres(shape: tuple[int, int]) -> Doubles:
    """(cells, 2) across and down, in reading order."""
    down, across = np.indices(shape).reshape(2, -1) + 0.5
    return np.stack([across / shape[1], down / shape[0]], axis=1)


def _assign(points: Doubles, shape: tuple[int, int]) -> Ints:
    centres = _centres(shape)
    if len(centres) <= _EXACT_CELLS:
        return _best_cells(points, centres)
    cells = np.empty(len(points), dtype=np.int64)
    for members, piece in _pieces(points, np.arange(len(points)), np.arange(len(centres)).reshape(shape)):
        cells[members] = piece[_best_cells(points[members], centres[piece])]
    for turn in range(_POLISHES):
        _polish(points, cells, centres, shape, offset=(turn % 2) * _WINDOW_CELLS // 2)
    return cells


def _best_cells(points: Doubles, centres: Doubles) -> Ints:
    """The centre of each point, none twice, with the least sum of squared ways."""
    cells: Ints = optimize.linear_sum_assignment(distance.cdist(points, centres, "sqeuclidean"))[1]
    return cells


def _pieces(points: Doubles, members: Ints, cells: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Splits points and cells (rows, columns) along the longer side, again and again, until the pieces are small."""
    if cells.size <= _PIECE_CELLS:
        yield members, cells.ravel()
        return
    axis = int(cells.shape[0] > cells.shape[1])  # 0 splits across, 1 down
    first, second = np.array_split(cells, 2, axis=1 - axis)
    share = round(len(members) * first.size / cells.size)
    share = max(min(share, first.size), len(members) - second.size)
    order = members[np.lexsort((points[members, 1 - axis], points[members, axis]))]
    yield from _pieces(points, order[:share], first)
    yield from _pieces(points, order[share:], second)


def _polish(points: Doubles, cells: Ints, centres: Doubles, shape: tuple[int, int], *, offset: int) -> None:
    """Solves every window of the grid anew, which can only shorten the ways; writes to ``cells``."""
    members = np.full(len(centres), -1, dtype=np.int64)
    members[cells] = np.arange(len(cells))
    layout = np.arange(len(centres)).reshape(shape)
    for top in range(-offset, shape[0], _WINDOW_CELLS):
        for left in range(-offset, shape[1], _WINDOW_CELLS):
            window = layout[max(top, 0) : top + _WINDOW_CELLS, max(left, 0) : left + _WINDOW_CELLS].ravel()
            inside = members[window]
            inside = inside[inside >= 0]
            if len(inside):
                cells[inside] = window[_best_cells(points[inside], centres[window])]


def _greedy(points: Doubles, shape: tuple[int, int]) -> Ints:
    across, down = points.T.copy()
    cells = np.full(len(points), -1, dtype=np.int64)
    for cell, (x, y) in enumerate(_centres(shape)[: len(points)]):
        nearest = int(((across - x) ** 2 + (down - y) ** 2).argmin())
        cells[nearest] = cell
        across[nearest] = np.inf
    return cells


GRIDS: Mapping[str, Callable[[Doubles, tuple[int, int]], Ints]] = {
    "assignment": _assign,
    "greedy": _greedy,
}


# ---- how well classes separate ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """How well labelled pictures group by label in a layer, all by cosine.

    Attributes:
        purity: Of the k nearest other pictures, the share with the same label, 0..1; mean over the pictures.
        purity_by_label: The same for the pictures of each label.
        one_nn_accuracy: Share of the pictures whose nearest other has the same label, 0..1.
        silhouette: How much closer pictures are to their own label than to the nearest other one, -1..1.
        chance_purity: What purity and accuracy would be if labels were dealt at random.
        num_rows: Pictures with a label, which is all that counts.
        num_unlabelled: Pictures without.
        num_labels: Different labels.
        k: Neighbours of the purity.
    """

    purity: float
    purity_by_label: Mapping[str, float]
    one_nn_accuracy: float
    silhouette: float
    chance_purity: float
    num_rows: int
    num_unlabelled: int
    num_labels: int
    k: int


def separation(vectors: ArrayLike, labels: Sequence[str], *, k: int = 5) -> Separation:
    """How well classes separate in a layer; compare layers by it, and with the pixels.

    Args:
        vectors: (N, D) embeddings; a row of zeros is as far from everything as unrelated rows are.
        labels: (N,) one for each row; rows with "" do not count.
        k: Neighbours of the purity, fewer than there are labelled rows.

    Raises:
        BadSetting: Tables that do not fit each other, or k out of range.
        NotApplicable: Fewer than two labels, or no label with two pictures.
    """
    units, classes, names = _labelled(vectors, labels, k)
    same = classes[_most_alike(units, k)] == classes[:, None]
    counts = np.bincount(classes)
    return Separation(
        purity=float(same.mean()),
        purity_by_label=_by_label(same, classes, names),
        one_nn_accuracy=float(same[:, 0].mean()),
        silhouette=_silhouette(units, classes),
        chance_purity=float((counts * (counts - 1)).sum() / (len(classes) * (len(classes) - 1))),
        num_rows=len(classes),
        num_unlabelled=len(labels) - len(classes),
        num_labels=len(names),
        k=k,
    )


def purity(vectors: ArrayLike, labels: Sequence[str], *, k: int = 5) -> tuple[float, dict[str, float]]:
    """Of the k nearest other rows by cosine, the share with the same label: overall, and for each label.

    Args:
        vectors: As in :func:`separation`.
        labels: As in :func:`separation`.
        k: As in :func:`separation`.

    Raises:
        BadSetting: As in :func:`separation`.
        NotApplicable: As in :func:`separation`.
    """
    units, classes, names = _labelled(vectors, labels, k)
    same = classes[_most_alike(units, k)] == classes[:, None]
    return float(same.mean()), _by_label(same, classes, names)


def nearest_neighbor_accuracy(vectors: ArrayLike, labels: Sequence[str]) -> float:
    """Share of the rows whose nearest other row by cosine has the same label.

    Args:
        vectors: As in :func:`separation`.
        labels: As in :func:`separation`.

    Raises:
        BadSetting: As in :func:`separation`.
        NotApplicable: As in :func:`separation`.
    """
    return purity(vectors, labels, k=1)[0]


def silhouette(vectors: ArrayLike, labels: Sequence[str]) -> float:
    """How much closer rows are to their own label than to the nearest other one, by cosine, -1..1.

    (b - a) / max(a, b), with a the mean distance to the others of the label and b that to the rows of the nearest other
    label; the mean over all rows, where a label's only row counts as 0. Exact for any number of rows: a mean cosine is
    the cosine's product with a mean, so that no pair has to be looked at.

    Args:
        vectors: As in :func:`separation`.
        labels: As in :func:`separation`.

    Raises:
        BadSetting: As in :func:`separation`.
        NotApplicable: As in :func:`separation`.

    Source: Rousseeuw, Silhouettes (1987).
    """
    units, classes, _ = _labelled(vectors, labels, 1)
    return _silhouette(units, classes)


def _labelled(vectors: ArrayLike, labels: Sequence[str], k: int) -> tuple[FloatArray, Ints, list[str]]:
    """Labelled rows at unit length, the index of each one's label, and the labels."""
    x = _finite(vectors)
    if len(x) != len(labels):
        raise BadSetting(f"There are {len(x)} vectors and {len(labels)} labels; each vector needs one, if empty.")
    given = np.asarray(labels, dtype=np.str_)
    is_labelled = given != ""
    names, classes, counts = np.unique(given[is_labelled], return_inverse=True, return_counts=True)
    if len(names) < 2:
        found = f"all have the label {names[0]}" if len(names) else "none has a label"
        raise NotApplicable(f"Separation needs pictures of two labels or more, and of these {len(x)} {found}.")
    if counts.max() < 2:
        raise NotApplicable("Separation needs labels with two pictures or more, and each of these labels has one only.")
    if not 1 <= k < len(classes):
        raise BadSetting(f"k is {k}; for {len(classes)} labelled pictures it must be from 1 to {len(classes) - 1}.")
    x = x[is_labelled]
    lengths = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    units = (x / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return units, classes.astype(np.int64), [str(name) for name in names]


def _most_alike(units: FloatArray, k: int) -> Ints:
    """(N, k) each row's other rows with the largest cosine, largest first; the first of equals."""
    found = np.empty((len(units), k), dtype=np.int64)
    for rows in _blocks(len(units), len(units)):
        cosines = units[rows] @ units.T
        cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        nearest = np.sort(np.argpartition(-cosines, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(cosines, nearest, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(nearest, order, axis=1)
    return found


def _by_label(same: NDArray[np.bool_], classes: Ints, names: list[str]) -> dict[str, float]:
    """Mean of the rows of each label."""
    means = np.bincount(classes, same.mean(axis=1)) / np.bincount(classes)
    return {name: float(mean) for name, mean in zip(names, means, strict=True)}


def _silhouette(units: FloatArray, classes: Ints) -> float:
    counts = np.bincount(classes)
    membership: Any = sparse.csr_matrix(
        (np.ones(len(classes)), (classes, np.arange(len(classes)))), shape=(len(counts), len(classes))
    )
    sums = membership @ units.astype(np.float64)
    total = 0.0
    for rows in _blocks(len(units), max(units.shape[1], len(counts))):
        own, here = classes[rows], np.arange(rows.stop - rows.start)
        x = units[rows].astype(np.float64)
        distances = counts - x @ sums.T  # to the rows of each label, added up
        within = (distances[here, own] - (1 - _squares(x))) / np.maximum(counts[own] - 1, 1)  # not to itself
        distances /= counts
        distances[here, own] = np.inf
        between = distances.min(axis=1)
        larger = np.maximum(within, between)
        scores = np.divide(between - within, larger, out=np.zeros_like(larger), where=larger > 0)
        total += float(scores[counts[own] > 1].sum())
    return total / len(units)
