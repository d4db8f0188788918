"""The rows of a large matrix nearest to a vector, exactly, at the cost of reading one byte per number.

An index holds a vector per picture: a million of 1,280 numbers are 5 GB. So a copy in 8 bits is kept beside it, a
quarter of the size, and for each row the length of what the rounding took away. From these follows how near a row can
be at best, and only rows that may be among the nearest are then measured by their own numbers. What comes out is what
measuring every row would have given: rounding decides nothing, and of rows at the same distance the earlier comes
first.

Distances are sums in double precision. The cosine distance is 1 less the cosine, 0 to 2; what lies below the
resolution of single precision counts as 0; a vector of zeros has no direction, and its distance to everything is 1.

Source: Weber, Schek and Blott, A Quantitative Analysis and Performance Study for Similarity-Search Methods in
High-Dimensional Spaces (1998), the VA-file; here with one bound for each row that serves every metric made of norms and
angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import ArrayLike, NDArray

from cnnviz_core import store
from cnnviz_core.errors import BadSetting
from cnnviz_core.results import Step

Ids = NDArray[np.int64]
Distances = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
OnStep = Callable[[Step], None]

METRICS: Mapping[str, str] = {"cosine": "Cosine", "euclidean": "Euclidean"}

_CODES, _BOUNDS = "codes.npy", "bounds.npy"

# Rows are rounded to whole numbers up to the first, queries up to the second; sums of products must fit into 32 bits.
_LEVELS = 127
_QUERY_LEVELS = 32767
_LARGEST_SUM = 2.0**31 - 1

# Single precision keeps 24 bits of each number, so a cosine is known to 48.
_RESOLUTION = 2.0**-48

# For what sums in double precision round off; far below what the bounds are about.
_SLACK = 1e-10

_MAX_DISTANCE = float(np.finfo(np.float64).max)

_ROWS_AT_A_TIME = 4096
_QUERIES_AT_A_TIME = 16
_BOUNDS_AT_A_TIME = 2**22
_CHECKED_ROWS = 16

# Rows that are measured first; if more are left in doubt, four times as many follow, and so on.
_FIRST_PORTION = 64


# ---- inner loops, compiled when first needed ------------------------------------------------------------------------


class _Kernels(NamedTuple):
    """The loops below as machine code."""

    encode: Callable[..., None]
    bound: Callable[..., None]
    measure: Callable[..., None]


@cache
def _kernels() -> _Kernels:
    import numba  # takes half a second

    def compiled(*, cache: bool) -> _Kernels:
        # Sums may be taken in any order, so that vector instructions can; what is not a number stays so. Other threads
        # go on meanwhile.
        compiler = numba.njit(cache=cache, nogil=True, fastmath={"reassoc", "contract"})
        return _Kernels(*(compiler(loop) for loop in (_encode, _bound, _measure)))

    try:
        return compiled(cache=True)  # a second or two, once per machine
    except RuntimeError:  # no folder can be written where the next process would find the machine code
        return compiled(cache=False)


def _encode(vectors: Floats, codes: NDArray[np.int8], bounds: Distances) -> None:
    """Of each row: its norm; what a code of 1 stands for if the norm were 1; the norm of what is lost then; codes."""
    for i in range(vectors.shape[0]):
        largest, square = 0.0, 0.0
        for j in range(vectors.shape[1]):
            value = np.float64(vectors[i, j])
            largest = max(largest, abs(value))
            square += value * value
        norm, level, lost = math.sqrt(square), largest / _LEVELS, 0.0
        for j in range(vectors.shape[1]):
            value = np.float64(vectors[i, j])
            code = np.rint(value / level) if level > 0 else 0.0
            codes[i, j] = np.int8(code)
            lost += (value - code * level) ** 2
        bounds[i, 0] = norm
        bounds[i, 1] = level / norm if norm > 0 else 0.0
        bounds[i, 2] = math.sqrt(lost) / norm if norm > 0 else 0.0


def _bound(
    codes: NDArray[np.int8],
    bounds: Distances,
    queries: NDArray[np.int16],
    query_bounds: Distances,
    first: int,
    by_angle: bool,  # noqa: FBT001
    lowest: Distances,
) -> None:
    """How near each row from the first on is to each query at best, (Q, N)."""
    for i in range(first, codes.shape[0]):
        norm, scale, loss = bounds[i, 0], bounds[i, 1], bounds[i, 2]
        for q in range(queries.shape[0]):
            query_norm, query_scale, query_loss = query_bounds[q, 0], query_bounds[q, 1], query_bounds[q, 2]
            total = np.int32(0)
            for j in range(codes.shape[1]):
                total = np.int32(total + np.int32(codes[i, j]) * np.int32(queries[q, j]))
            # With unit vectors x + e and q + f, of which x and q are known: <q, x> + <f, x> + <q + f, e>.
            cosine = total * scale * query_scale + query_loss * (1 + loss) + loss + _SLACK
            apart = max(1 - cosine, 0.0)
            if by_angle:
                lowest[q, i] = apart
            else:  # |x - q|^2 = (|x| - |q|)^2 + 2 |x| |q| (1 - cosine)
                along = max(abs(norm - query_norm) - _SLACK * (norm + query_norm), 0.0)
                lowest[q, i] = math.sqrt(along * along + 2 * norm * query_norm * apart) * (1 - _SLACK)


def _measure(
    vectors: Floats,
    rows: Ids,
    queries: Distances,
    query_of: Ids,
    by_angle: bool,  # noqa: FBT001
    distances: Distances,
) -> None:
    """Distance of each of the rows to the query beside it, (n,)."""
    for n in range(rows.shape[0]):
        i, q = rows[n], query_of[n]
        if by_angle:
            product, square, query_square = 0.0, 0.0, 0.0
            for j in range(vectors.shape[1]):
                value, other = np.float64(vectors[i, j]), queries[q, j]
                product += value * other
                square += value * value
                query_square += other * other
            norms = math.sqrt(square) * math.sqrt(query_square)
            distance = 1.0 if norms == 0 else 1 - product / norms
            distances[n] = 0.0 if distance < _RESOLUTION else min(distance, 2.0)
        else:
            square = 0.0
            for j in range(vectors.shape[1]):
                difference = np.float64(vectors[i, j]) - queries[q, j]
                square += difference * difference
            distances[n] = math.sqrt(square)


# ---- what to measure ------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What is nearest so far, nearest first.

    Attributes:
        ids: (n,) of rows, or of pairs of rows.
        distances: (n,).
    """

    ids: Ids
    distances: Distances

    def with_more(self, ids: Ids, distances: Distances, k: int) -> Found:
        """The k nearest of these and others; of those at the same distance the ones with the lower ids."""
        ids, distances = np.concatenate([self.ids, ids]), np.concatenate([self.distances, distances])
        order = np.lexsort((ids, distances))[:k]
        return Found(ids[order], distances[order])


_NOTHING = Found(np.empty(0, np.int64), np.empty(0))


def _settle(
    lowest: Distances,
    measure: Callable[[Ids], Distances],
    k: int,
    *,
    most: float = _MAX_DISTANCE,
    found: Found = _NOTHING,
    first_id: int = 0,
) -> Found:
    """Measures whatever its bound allows to be among the k nearest and not farther than ``most``.

    Args:
        lowest: (M,) bounds; used up. Infinity leaves one out.
        measure: From positions among the bounds to distances.
        k: How many are wanted.
        most: The largest distance wanted.
        found: What is known already, of lower ids.
        first_id: Id of the first position.
    """
    portion = max(_FIRST_PORTION, 2 * k)
    while True:
        limit = most
        if len(found.ids) == k:
            limit = min(limit, float(found.distances[-1]))
        pending = np.flatnonzero(lowest <= limit)
        if limit == 0 and len(found.ids) == k:  # at best another one at the same distance, which a lower id must win
            pending = pending[pending + first_id < found.ids[-1]]
        if not len(pending):
            return found
        if len(pending) > portion:
            pending = pending[np.argpartition(lowest[pending], portion)[:portion]]
        lowest[pending] = np.inf
        distances = measure(pending)
        wanted = distances <= most
        found = found.with_more(pending[wanted] + first_id, distances[wanted], k)
        portion *= 4


# ---- the search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Searcher:
    """Vectors made ready for many exact searches; see the top of this module.

    Attributes:
        vectors: (N, D), in memory or mapped from a file; must not change.
        codes: (N, D) in 8 bits.
        bounds: (N, 3): norms, what a code of 1 stands for in a row of norm 1, and the norm of what is lost there.
    """

    vectors: Floats
    codes: NDArray[np.int8]
    bounds: Distances

    @classmethod
    def build(cls, vectors: ArrayLike, *, folder: Path | None = None, on_step: OnStep | None = None) -> Searcher:
        """Reads all vectors once.

        Args:
            vectors: (N, D); a memory-mapped file is never held in memory whole.
            folder: Where to keep the codes, memory-mapped, too; they are found there the next time. Best beside the
                vectors, since it serves for these alone. None keeps them in memory.
            on_step: Called every few thousand rows; what it raises ends the work.

        Raises:
            BadSetting: Not a matrix of finite numbers.
            StorageFailed: The folder cannot be written.
        """
        matrix = as_matrix(vectors)
        if folder is None:
            codes = np.empty(matrix.shape, np.int8)
            return cls(matrix, _fixed(codes), _fixed(_encode_into(codes, matrix, on_step)))
        stored = _stored(folder, matrix)
        if stored is None:
            with store.written_aside(folder / _CODES) as aside:
                codes = open_memmap(aside, mode="w+", dtype=np.int8, shape=matrix.shape)
                bounds = _encode_into(codes, matrix, on_step)
                codes.flush()
            with store.written_aside(folder / _BOUNDS) as aside, aside.open("wb") as file:
                np.save(file, bounds)
            stored = np.load(folder / _CODES, mmap_mode="r"), bounds
        return cls(matrix, _fixed(stored[0]), _fixed(stored[1]))

    def nearest(
        self,
        queries: ArrayLike,
        *,
        k: int,
        metric: str = "cosine",
        exclude: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Found]:
        """For each of the queries (Q, D) the k nearest rows; fewer where there are fewer.

        Args:
            queries: (Q, D).
            k: How many.
            metric: A key of :data:`METRICS`.
            exclude: For each query the rows to leave out.

        Raises:
            BadSetting: Queries that are not finite or do not fit, or another argument out of range.
        """
        asked = as_matrix(queries, width=self.vectors.shape[1])
        check(k=k, metric=metric)
        size = max(1, min(_QUERIES_AT_A_TIME, _BOUNDS_AT_A_TIME // max(1, len(self.vectors))))
        return (
            found
            for start in range(0, len(asked), size)
            for found in self._nearest(as_queries(asked[start : start + size]), k, metric, exclude and exclude[start:])
        )

    def _nearest(
        self, queries: Distances, k: int, metric: str, exclude: Sequence[Sequence[int]] | None
    ) -> Iterator[Found]:
        lowest = self._lowest(queries, metric)
        for q in range(len(queries)):
            if exclude is not None:
                lowest[q, as_rows(exclude[q], len(self.vectors))] = np.inf

            def measure(rows: Ids, q: int = q) -> Distances:
                return _measured(self.vectors, rows, queries, np.full_like(rows, q), metric)

            yield _settle(lowest[q], measure, k)

    def closest_pairs(
        self,
        *,
        k: int,
        metric: str = "cosine",
        most: float | None = None,
        groups: NDArray[np.int64] | None = None,
        on_step: OnStep | None = None,
    ) -> Found:
        """The k pairs of rows that are nearest to each other; the pair (i, j), i < j, has the id i * N + j.

        The time grows with the square of the number of rows: seconds for 10,000, minutes for 100,000.

        Args:
            k: How many.
            metric: A key of :data:`METRICS`.
            most: The largest distance wanted.
            groups: (N,) pairs within a group are left out, and all rows of a group below 0.
            on_step: Called every few rows with the rows done; what it raises ends the work.

        Raises:
            BadSetting: An argument out of range.
        """
        check(k=k, metric=metric)
        if most is not None and not most >= 0:
            raise BadSetting(f"The largest distance wanted is {most}; give 0 or more.")
        found, num_rows = _NOTHING, len(self.vectors)
        for start in range(0, num_rows, _QUERIES_AT_A_TIME):
            rows = np.arange(start, min(start + _QUERIES_AT_A_TIME, num_rows))
            queries = as_queries(self.vectors[rows])
            lowest = self._lowest(queries, metric, first=start)
            lowest[np.arange(num_rows) <= rows[:, None]] = np.inf
            if groups is not None:
                lowest[(groups == groups[rows, None]) | (groups < 0) | (groups[rows, None] < 0)] = np.inf

            def measure(ids: Ids, queries: Distances = queries) -> Distances:
                return _measured(self.vectors, ids % num_rows, queries, ids // num_rows, metric)

            first_id = start * num_rows
            found = _settle(
                lowest.ravel(), measure, k, most=_MAX_DISTANCE if most is None else most, found=found, first_id=first_id
            )
            if on_step:
                on_step(Step(int(rows[-1]) + 1, num_rows))
        return found

    def _lowest(self, queries: Distances, metric: str, *, first: int = 0) -> Distances:
        """(Q, N) bounds, infinite before the first row."""
        lowest = np.empty((len(queries), len(self.vectors)))
        lowest[:, :first] = np.inf
        codes, bounds = _encode_queries(queries)
        _kernels().bound(self.codes, self.bounds, codes, bounds, first, metric == "cosine", lowest)
        return lowest


def scan(vectors: ArrayLike, query: ArrayLike, *, k: int, metric: str = "cosine", exclude: Sequence[int] = ()) -> Found:
    """The k rows nearest to one query, by measuring every row: for a single search, without preparation.

    Args:
        vectors: (N, D).
        query: (D,).
        k: How many; fewer where there are fewer.
        metric: A key of :data:`METRICS`.
        exclude: Rows to leave out.

    Raises:
        BadSetting: Numbers that are not finite, shapes that do not fit, or another argument out of range.
    """
    matrix = as_matrix(vectors)
    asked = as_queries(as_matrix(np.asarray(query)[None], width=matrix.shape[1]))
    check(k=k, metric=metric)
    rows = np.arange(len(matrix))
    distances = _measured(matrix, rows, asked, np.zeros_like(rows), metric)
    _check_finite(distances)
    distances[as_rows(exclude, len(matrix))] = np.inf
    return _settle(distances.copy(), lambda ids: distances[ids], k)


def check(*, k: int, metric: str) -> None:
    """Passes where so many may be asked for by this metric.

    Raises:
        BadSetting: Not.
    """
    if k < 1:
        raise BadSetting(f"k is {k}; ask for 1 or more.")
    if metric not in METRICS:
        raise BadSetting(f"metric is {metric!r}; choose one of {', '.join(METRICS)}.")


def as_matrix(values: ArrayLike, *, width: int | None = None) -> Floats:
    """(N, D) in single or double precision, read-only; the same memory where that is possible.

    Args:
        values: One row per vector.
        width: The D of the vectors that are searched, for queries.

    Raises:
        BadSetting: Something else.
    """
    matrix = np.asarray(values)
    what = "vectors" if width is None else "query vectors"
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise BadSetting(f"The {what} have shape {matrix.shape} of {matrix.dtype}; give a row of numbers for each.")
    if width is not None and matrix.shape[1] != width:
        raise BadSetting(
            f"The query has {matrix.shape[1]} numbers and the vectors have {width}; take both from the same layer and "
            "with the same pooling."
        )
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32 if matrix.dtype.itemsize <= 2 else np.float64)
    return _fixed(np.ascontiguousarray(matrix))


def as_queries(vectors: Floats) -> Distances:
    """Vectors (Q, D) in double precision.

    Raises:
        BadSetting: Numbers that are not finite.
    """
    if not np.isfinite(vectors).all():
        raise BadSetting("The query holds values that are not finite numbers; take another picture or layer.")
    return vectors.astype(np.float64)


def as_rows(rows: Sequence[int], num_rows: int) -> Ids:
    """(n,) row numbers.

    Raises:
        BadSetting: There is no such row.
    """
    numbers = np.asarray(rows, dtype=np.int64).ravel()
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < num_rows:
        raise BadSetting(f"exclude names rows {numbers.min()} to {numbers.max()}; there are rows 0 to {num_rows - 1}.")
    return numbers


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    """A plain read-only view: one kind of array, for which the loops are compiled once."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _encode_into(codes: NDArray[np.int8], vectors: Floats, on_step: OnStep | None = None) -> Distances:
    """Fills the codes and returns the bounds."""
    bounds = np.empty((len(vectors), 3))
    for start in range(0, len(vectors), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        _kernels().encode(vectors[part], codes[part], bounds[part])
        _check_finite(bounds[part, 0], first=start)
        if on_step:
            on_step(Step(min(start + _ROWS_AT_A_TIME, len(vectors)), len(vectors)))
    return bounds


def _check_finite(values: Distances, *, first: int = 0) -> None:
    """Of values that are finite where a row is."""
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise BadSetting(
            f"Row {first + broken[0]} of the vectors holds values that are not finite numbers; leave that picture out, "
            "or take another layer."
        )


def _stored(folder: Path, vectors: Floats) -> tuple[NDArray[np.int8], Distances] | None:
    """Codes and bounds in a folder; None where there are none, or others."""
    try:
        codes, bounds = np.load(folder / _CODES, mmap_mode="r"), np.load(folder / _BOUNDS)
    except (OSError, ValueError, EOFError):
        return None
    if codes.shape != vectors.shape or codes.dtype != np.int8 or bounds.shape != (len(vectors), 3):
        return None
    rows = np.arange(0, len(vectors), max(1, len(vectors) // _CHECKED_ROWS))
    some = np.empty((len(rows), vectors.shape[1]), np.int8)
    is_same = np.array_equal(_encode_into(some, vectors[rows]), bounds[rows]) and np.array_equal(some, codes[rows])
    return (codes, bounds) if is_same else None


def _encode_queries(queries: Distances) -> tuple[NDArray[np.int16], Distances]:
    """Queries in 16 bits or a little less, so that no sum of products overflows, and their bounds as for rows."""
    norms = np.sqrt((queries**2).sum(axis=1, keepdims=True))
    units = np.divide(queries, norms, out=np.zeros_like(queries), where=norms > 0)
    # A sum of products is at most the product of the norms, and rounding adds at most half a level to each number.
    root = math.sqrt(queries.shape[1])
    largest_norm = _LARGEST_SUM / (_LEVELS * root) - root / 2
    largest = np.abs(units).max(axis=1, keepdims=True, initial=0)
    scales = np.maximum(largest / _QUERY_LEVELS, 1 / largest_norm)
    codes = np.rint(units / scales)
    losses = np.sqrt(((units - codes * scales) ** 2).sum(axis=1, keepdims=True))
    return _fixed(codes.astype(np.int16)), _fixed(np.hstack([norms, scales, losses]))


def _measured(vectors: Floats, rows: Ids, queries: Distances, query_of: Ids, metric: str) -> Distances:
    distances = np.empty(len(rows))
    _kernels().measure(vectors, rows, _fixed(queries), query_of, metric == "cosine", distances)
    return distances
