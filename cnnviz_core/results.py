"""Frozen result types.

Results hold raw float32 numpy on the CPU and how they were made; they can be pickled, cached and downloaded, and
keep no accelerator memory alive. Normalising and colour belong to :mod:`cnnviz_core.render`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """How a result was made.

    Attributes:
        model_id: The network, as :func:`cnnviz_core.models.load` names it.
        weights: "default", "random:SEED" or a checkpoint's name.
        weights_hash: Digest of the network's weights.
        method: Dotted name of the function, without the package: ``feature_maps.compute``; without a dot for the
            network's own: ``predict``.
        settings: The keyword arguments, defaults filled in.
        seconds: Wall time; 0 where nobody measured it.
        image_digest: Digest of the picture, empty where none took part.
        seed: Seed of the random draw, None where nothing was drawn.
        preprocessing_changes: Fields of Preprocessing that were given in place of the published ones.
        other: Where two networks were compared the second one's account; its method and settings are the first one's.
    """

    model_id: str
    weights: str
    weights_hash: str
    method: str
    settings: Mapping[str, object]
    seconds: float
    image_digest: str = ""
    seed: int | None = None
    preprocessing_changes: Mapping[str, object] = field(default_factory=dict)
    other: Run | None = None


@dataclass(frozen=True)
class Predictions:
    """The k most probable classes, best first; the four fields have one entry per class.

    Attributes:
        indices: Class indices.
        labels: Class names.
        probabilities: Softmax over all classes, 0..1; the sigmoid of each score for a network with a single score or
            one that ends in a sigmoid.
        logits: Scores before the softmax.
    """

    indices: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True)
class FeatureMaps:
    """What one layer put out for one picture.

    Attributes:
        values: (C, h, w) raw activations, after whatever the layer itself does.
        layer: The layer's dotted name.
        run: How it was made.
    """

    values: FloatArray
    layer: str
    run: Run


@dataclass(frozen=True)
class Kernels:
    """The weights of one convolution.

    Attributes:
        values: (O, I, kh, kw) raw weights; I is 1 for a depth-wise convolution.
        layer: The layer's dotted name.
        groups: Groups of the convolution; equal to the input channels for a depth-wise one.
        input_std: (I,) the input normalisation's standard deviation where the convolution reads the picture itself,
            else empty. On pixels the kernel acts as ``values / input_std``.
        run: How it was made.
    """

    values: FloatArray
    layer: str
    groups: int
    input_std: FloatArray
    run: Run

    @property
    def reads_image(self) -> bool:
        """Whether the convolution's input is the picture itself."""
        return len(self.input_std) > 0


@dataclass(frozen=True)
class Heatmap:
    """One value for each cell of a layer.

    Attributes:
        values: (h, w) raw, in the unit of the method.
        layer: The layer's dotted name.
        target: Class index; None where no class took part.
        target_label: The class's name; empty without a class.
        method: Key in the method's table: ``grad_cam``.
        run: How it was made.
        so_far: On how much of the work it rests, in words; empty for all of it.
    """

    values: FloatArray
    layer: str
    target: int | None
    target_label: str
    method: str
    run: Run
    so_far: str = ""

    @property
    def map(self) -> FloatArray:
        """One value for each place of what the network saw, (h, w)."""
        return self.values


@dataclass(frozen=True)
class Attribution:
    """One value for each number of the network's input: how much it matters to a score.

    Attributes:
        values: (C, H, W) raw and signed, in the unit of the method.
        layer: Dotted name of the layer of the explained unit, or whose maps took part; empty without.
        unit: (channel, row, column) of the explained unit; None where a class is explained.
        target: Class index; None where a unit is explained.
        target_label: The class's name; empty without a class.
        score: What was explained: the class score, or the unit's activation.
        completeness_error: How far the values are from adding up to the score less the baseline's score, as a share
            of that difference; None where the method promises no sum.
        method: Key in the method's table: ``guided_backprop``.
        run: How it was made.
    """

    values: FloatArray
    layer: str
    unit: tuple[int, int, int] | None
    target: int | None
    target_label: str
    score: float
    completeness_error: float | None
    method: str
    run: Run

    @property
    def map(self) -> FloatArray:
        """Saliency, (H, W): the largest magnitude over the colour channels."""
        saliency: FloatArray = np.abs(self.values).max(axis=0)
        return saliency


@dataclass(frozen=True)
class Occlusion:
    """What a class score loses when a patch covers one place after another.

    Attributes:
        scores: (rows, cols) the class score with the patch at each position; not a number where it was not tried.
        probabilities: (rows, cols) the class's probability there.
        classes: (rows, cols) index of the class that wins there; -1 where it was not tried.
        heatmap: (H, W) mean drop of the score over the patches that cover a pixel; not a number where none did.
        clean_score: The class score of the whole picture.
        clean_probability: Its probability there.
        tops: (rows,) first pixel row of each position's patch.
        lefts: (cols,) first pixel column.
        patch_px: Side of the patch.
        stride_px: Distance from one position to the next; the last is moved back to the border.
        target: Class index.
        target_label: The class's name.
        num_forwards: Pictures that went through the network, each counted once, however little of it was recomputed.
        run: How it was made.
    """

    scores: FloatArray
    probabilities: FloatArray
    classes: NDArray[np.int64]
    heatmap: FloatArray
    clean_score: float
    clean_probability: float
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    patch_px: int
    stride_px: int
    target: int
    target_label: str
    num_forwards: int
    run: Run

    @property
    def map(self) -> FloatArray:
        """The drop per pixel, (H, W)."""
        return self.heatmap


@dataclass(frozen=True)
class Mask:
    """The pixels of a picture that belong to an object.

    Attributes:
        values: (H, W) bool.
        method: How it was found: ``grabcut``.
    """

    values: NDArray[np.bool_]
    method: str


@dataclass(frozen=True)
class Step:
    """How far long work has come.

    Attributes:
        done: Units of work done.
        total: Units of work in all.
        partial: The result so far, of the result's own type; None where there is none to show.
        seconds_left: As the work itself expects, where its units are of unlike cost; None where the pace so far tells.
    """

    done: int
    total: int
    partial: object = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Curves:
    """What a class's probability does while a map's places are deleted from the picture, or inserted into a filled one.

    Inserting the most important places first shows the same pictures as deleting the least important first, in
    reverse; so two curves, read from either end, are four.

    Attributes:
        fractions: (S + 1,) share of the pixels that is deleted, 0 to 1.
        most_first: (S + 1,) probability with the most important pixels deleted first.
        least_first: (S + 1,) probability with the least important pixels deleted first.
        random_most_first: (R, S + 1) the same for the map laid elsewhere at random, one row per draw.
        random_least_first: (R, S + 1) likewise.
        target: Class index.
        target_label: The class's name.
        fill: Key of :data:`cnnviz_core.methods.trust.FILLS`: what took the place of deleted pixels.
        verdict: What the numbers say, in a sentence.
        run: How it was made.
    """

    fractions: FloatArray
    most_first: FloatArray
    least_first: FloatArray
    random_most_first: FloatArray
    random_least_first: FloatArray
    target: int
    target_label: str
    fill: str
    verdict: str
    run: Run

    @property
    def inserted_fractions(self) -> FloatArray:
        """Share of the pixels that is inserted, (S + 1,), for :attr:`insertion`."""
        return (1 - self.fractions)[::-1]

    @property
    def insertion(self) -> FloatArray:
        """Probability with the most important pixels inserted first, (S + 1,)."""
        return self.least_first[::-1]

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, 0..1; small where the map found what matters."""
        return self._area(self.most_first)

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, 0..1; large where the map found what suffices."""
        return self._area(self.least_first)

    @property
    def relevance_gain(self) -> float:
        """Symmetric relevance gain: area of deleting the least first less that of the most first; 0 by chance."""
        return self.insertion_area - self.deletion_area

    @property
    def random_deletion_areas(self) -> FloatArray:
        """Area under each random deletion curve, (R,)."""
        return np.array([self._area(row) for row in self.random_most_first], dtype=np.float32)

    @property
    def random_insertion_areas(self) -> FloatArray:
        """Area under each random insertion curve, (R,)."""
        return np.array([self._area(row) for row in self.random_least_first], dtype=np.float32)

    @property
    def random_relevance_gains(self) -> FloatArray:
        """Symmetric relevance gain of each random draw, (R,)."""
        return self.random_insertion_areas - self.random_deletion_areas

    def _area(self, probabilities: FloatArray) -> float:
        return float(np.trapezoid(probabilities.astype(np.float64), self.fractions.astype(np.float64)))


@dataclass(frozen=True)
class Randomization:
    """How a map changes while a network's weights are destroyed step by step, from the head down.

    Attributes:
        steps: For each step the dotted names of the layers whose weights were drawn anew; earlier ones stay so.
        maps: (S + 1, h, w) the map of the whole network, then that after each step.
        rank_correlations: (S,) Spearman's, of the magnitudes with the first map's, -1..1; of a unit's, of magnitudes as
            shares of those around them, where either map is not 0. Not a number where either map is the same
            everywhere, as that of a unit which the shuffled weights have silenced.
        ssims: (S,) structural similarity of the magnitudes, each scaled to its maximum, with the first map's, up to 1;
            of a unit's, within the rectangle that it sees. Not a number in the same places.
        probabilities: (S + 1,) of the class that won at first; not a number without a classifier.
        top_label: That class's name.
        verdict: What the numbers say, in a sentence.
        run: How it was made.
    """

    steps: tuple[tuple[str, ...], ...]
    maps: FloatArray
    rank_correlations: FloatArray
    ssims: FloatArray
    probabilities: FloatArray
    top_label: str
    verdict: str
    run: Run


@dataclass(frozen=True)
class Agreement:
    """How alike maps rank the places of one picture.

    Attributes:
        names: Of the maps.
        correlations: (M, M) Spearman's rank correlation, -1..1.
    """

    names: tuple[str, ...]
    correlations: FloatArray


@dataclass(frozen=True)
class ContextEdit:
    """A picture with its object or its background replaced, and what the network makes of it.

    Attributes:
        replaced: "background" or "object".
        fill: Key of :data:`cnnviz_core.methods.trust.FILLS`.
        pixels: (H, W, 3) uint8, the edited crop.
        predictions: The most probable classes.
        probability: The target's.
        score: The target's.
        map: (h, w) what the explanation shows there.
    """

    replaced: str
    fill: str
    pixels: NDArray[np.uint8]
    predictions: Predictions
    probability: float
    score: float
    map: FloatArray


@dataclass(frozen=True)
class ContextTest:
    """Whether a network looks at the object or at what surrounds it.

    Attributes:
        whole: The untouched crop, as an edit that replaced nothing.
        edits: One for each replaced part and fill; while it is made, as many as are there.
        mask: The object, over the crop.
        evidence_outside: Share of the map's positive values outside the object, 0..1; not a number without any.
        area_outside: Share of the crop's area outside the object, to compare with.
        target: Class index.
        target_label: The class's name.
        verdict: What the numbers say, in a sentence or two; empty until both parts have been replaced.
        run: How it was made.
    """

    whole: ContextEdit
    edits: tuple[ContextEdit, ...]
    mask: Mask
    evidence_outside: float
    area_outside: float
    target: int
    target_label: str
    verdict: str
    run: Run


@dataclass(frozen=True)
class Projection:
    """Embeddings laid out in a plane, or in space, so that a person can look at them.

    Attributes:
        values: (N, 2) or (N, 3), one point per embedding, in the method's own unit.
        method: Key of :data:`cnnviz_core.methods.embeddings.METHODS`: "pca", "tsne", "umap".
        explained: Share of the variance that each axis shows, 0..1; empty where the method promises none.
        divergence: Kullback-Leibler divergence that t-SNE ended with, in nats; None elsewhere.
        settings: The keyword arguments, defaults filled in.
    """

    values: FloatArray
    method: str
    explained: FloatArray
    divergence: float | None
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Neighbors:
    """The rows of an index nearest to one vector, nearest first.

    Attributes:
        indices: (k,) rows of the index.
        distances: (k,) Euclidean distance; for cosine 1 less the cosine, 0..2.
        metric: "cosine" or "euclidean".
    """

    indices: NDArray[np.int64]
    distances: FloatArray
    metric: str


@dataclass(frozen=True)
class TopPatches:
    """For each channel the places in a collection where it answers most, strongest first, one per picture.

    Attributes:
        layer: The layer's dotted name.
        channels: (n,) channel indices.
        paths: Of the collection's pictures, relative to its folder.
        image: (n, k) index into ``paths``; -1 where there are fewer than k.
        row: (n, k) row of the activation in the layer's grid.
        col: (n, k) its column.
        value: (n, k) the activation, raw; not a number where there are fewer than k.
        box: (n, k, 4) left, top, right, bottom of the unit's receptive field in pixels of the picture; it may reach
            beyond the picture, where the unit saw padding. Not a number where there are fewer than k.
        is_exact: Whether the boxes are receptive fields. Where these are not known or cover the whole input, a box is
            a third of the input's sides instead, around the place of the activation and inside what the network saw.
    """

    layer: str
    channels: NDArray[np.int64]
    paths: tuple[str, ...]
    image: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    value: FloatArray
    box: FloatArray
    is_exact: bool


@dataclass(frozen=True)
class PictureMaps:
    """What layers put out for a whole picture at a working size.

    Attributes:
        values: For each layer's dotted name its raw maps, (C, h, w).
        picture_px: (H, W) of the picture; the maps cover all of it.
        seen_px: (H, W) of the picture as the network saw it.
        size_px: The working size that was asked for.
        dilate_last: Whether the last stage lost its stride.
        digest: Of the picture.
        notices: What is not as was asked for, in sentences.
    """

    values: Mapping[str, FloatArray]
    picture_px: tuple[int, int]
    seen_px: tuple[int, int]
    size_px: int
    dilate_last: bool
    digest: str
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """A vector of length one for each cell of a picture; where a network is silent, a vector of zeros.

    Attributes:
        values: (D, h, w).
        layers: Dotted names of the layers that were joined.
        picture_px: (H, W) of the picture; the cells cover all of it.
        seen_px: (H, W) of the picture as the network saw it.
        notices: What is not as was asked for, in sentences.
    """

    values: FloatArray
    layers: tuple[str, ...]
    picture_px: tuple[int, int]
    seen_px: tuple[int, int]
    notices: tuple[str, ...]

    @property
    def cells(self) -> tuple[int, int]:
        """(h, w) of the grid."""
        return (self.values.shape[1], self.values.shape[2])

    @property
    def vectors(self) -> FloatArray:
        """(h w, D), row by row."""
        return self.values.reshape(len(self.values), -1).T

    def cell_at(self, row_px: float, column_px: float) -> tuple[int, int]:
        """(row, col) of the cell at a place of the picture, in its pixels; places outside count as the nearest edge."""
        places = zip((row_px, column_px), self.cells, self.picture_px, strict=True)
        row, col = (min(max(int(at * num / side), 0), num - 1) for at, num, side in places)
        return row, col


@dataclass(frozen=True)
class Matches:
    """The cells of a picture most like a cell of another, most alike first.

    Attributes:
        cells: (k, 2) row and column in the other picture's grid.
        similarities: (k,) cosine, -1..1.
        is_mutual: (k,) whether among all cells of the first picture the given one is the most alike to that cell, too.
    """

    cells: NDArray[np.int64]
    similarities: FloatArray
    is_mutual: NDArray[np.bool_]


@dataclass(frozen=True)
class Correspondences:
    """Pairs of cells of two pictures, most alike first.

    Attributes:
        cells_a: (n, 2) row and column in the first picture's grid.
        cells_b: (n, 2) row and column of the cell of the second that is most alike.
        similarities: (n,) cosine, -1..1.
    """

    cells_a: NDArray[np.int64]
    cells_b: NDArray[np.int64]
    similarities: FloatArray


@dataclass(frozen=True)
class Packed:
    """The vectors of a picture's cells in whole numbers, for a program that takes many dot products.

    The cosine of cells i and j is ``scales[i] * scales[j] * sum(values[i] * values[j])``.

    Attributes:
        values: (h w, D) int8 or int16, row by row.
        scales: (h w,) float32.
        cells: (h, w) of the grid.
        error: Largest difference from the exact cosine over the pairs of cells that were tried, of all pictures that
            were packed together.
        num_pairs: How many were tried.
    """

    values: NDArray[np.int8] | NDArray[np.int16]
    scales: FloatArray
    cells: tuple[int, int]
    error: float
    num_pairs: int


@dataclass(frozen=True)
class SelfSimilarity:
    """How much more alike the places of an object are to each other than to what surrounds it, layer by layer.

    Attributes:
        layers: Dotted names, L of them.
        cells: (h, w) of each layer's grid.
        within: (L,) mean cosine of two different places on the object.
        across: (L,) mean cosine of a place on the object and one beside it.
        aucs: (L,) how often a pair within is more alike than a pair across, 0..1; 0.5 says nothing.
        notices: What is not as was asked for, in sentences.
        run: How it was made.
    """

    layers: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]
    within: FloatArray
    across: FloatArray
    aucs: FloatArray
    notices: tuple[str, ...]
    run: Run

    @property
    def contrasts(self) -> FloatArray:
        """Within less across, (L,); 0 where the layer does not tell the object from the rest."""
        return self.within - self.across


@dataclass(frozen=True)
class IouCurve:
    """How well a score map agrees with a true mask, threshold by threshold.

    Attributes:
        thresholds: (T,) ascending; the mask is where the score reaches the threshold.
        ious: (T,) intersection over union, 0..1.
    """

    thresholds: FloatArray
    ious: FloatArray

    @property
    def best_threshold(self) -> float:
        """Where the agreement is best; found with the truth in hand, so an oracle and no result."""
        return float(self.thresholds[self.ious.argmax()])

    @property
    def best_iou(self) -> float:
        """The agreement there."""
        return float(self.ious.max())


@dataclass(frozen=True)
class FewShot:
    """What of a picture is alike to the objects in a few others.

    Attributes:
        scores: (h, w) one for each cell.
        score_map: (H, W) the same for each pixel of the picture, bilinearly.
        mask: Where the score reaches the threshold.
        threshold: As given, or the one that serves the supports best.
        support_iou: Mean IoU of the supports' masks at that threshold, each found from the others (a single support's
            from its own other cells); not a number where the threshold was given.
        layers: Dotted names of the layers that were joined.
        notices: What is not as was asked for, in sentences.
        run: How it was made.
    """

    scores: FloatArray
    score_map: FloatArray
    mask: Mask
    threshold: float
    support_iou: float
    layers: tuple[str, ...]
    notices: tuple[str, ...]
    run: Run

    @property
    def map(self) -> FloatArray:
        """The scores of the cells, (h, w)."""
        return self.scores


@dataclass(frozen=True)
class LayerTrial:
    """How well one choice of layers finds an object from a few masks.

    Attributes:
        layers: Dotted names of the layers that were joined.
        cells: (h, w) of the query's grid.
        threshold: The one that serves the supports best.
        support_iou: Mean IoU of the supports' masks at it, each found from the others.
        iou: Of the query's mask at it with the true one; None where there is none.
        oracle_iou: At the best threshold for the query, chosen with its truth in hand.
        problem: Why these layers cannot be used, as a sentence; empty otherwise.
    """

    layers: tuple[str, ...]
    cells: tuple[int, int]
    threshold: float
    support_iou: float
    iou: float | None
    oracle_iou: float | None
    problem: str


@dataclass(frozen=True)
class Segmented:
    """One picture of a collection that was segmented, in a line.

    Attributes:
        path: Of the picture in its collection.
        digest: Of the picture.
        file: Of the mask in the archive.
        threshold: That was used.
        area: Share of the picture inside the mask, 0..1.
        iou: With the true mask; None where there is none.
        oracle_iou: At the best threshold for this picture, chosen with its truth in hand; None likewise.
        is_support: Whether it is one of the pictures that the masks were learned from, so that its IoU says nothing.
    """

    path: str
    digest: str
    file: str
    threshold: float
    area: float
    iou: float | None
    oracle_iou: float | None
    is_support: bool


@dataclass(frozen=True)
class SegmentedCollection:
    """The pictures of a collection that were segmented.

    Attributes:
        pictures: In the collection's order.
        failed: Path and reason of those that were left out.
        run: How it was made.
    """

    pictures: tuple[Segmented, ...]
    failed: tuple[tuple[str, str], ...]
    run: Run

    @property
    def measured(self) -> tuple[Segmented, ...]:
        """Those with a true mask, supports left out, the worst first."""
        known = [picture for picture in self.pictures if picture.iou is not None and not picture.is_support]
        return tuple(sorted(known, key=lambda picture: picture.iou or 0.0))

    @property
    def mean_iou(self) -> float | None:
        """Over the measured ones; None where there is none."""
        ious = [picture.iou or 0.0 for picture in self.measured]
        return sum(ious) / len(ious) if ious else None

    @property
    def mean_oracle_iou(self) -> float | None:
        """What the best threshold for each picture would give; an oracle and no result."""
        ious = [picture.oracle_iou or 0.0 for picture in self.measured]
        return sum(ious) / len(ious) if ious else None


@dataclass(frozen=True)
class PictureName:
    """A second picture that took part in a result, for its settings.

    Attributes:
        name: What it is called on screen.
        digest: Names its pixels.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class Dream:
    """A photo changed so that layers answer more strongly to it.

    Attributes:
        values: (H, W, 3) grey levels, 0..255, not rounded.
        photo: (H, W, 3) uint8, the photo at the same size, which it began with.
        layers: Dotted names of the layers.
        channel: The only channel that grew; None for all.
        objectives: (S, L) for each step and layer the mean over the layer's numbers of the activation times what its
            gradient was set to, before the step.
        octave_px: (H, W) of each size worked at, from small to large.
        frames: Its growing, each (h, w, 3) uint8, the photo first; fewer than the steps, and reduced, where those would
            be too many or too large.
        run: How it was made.
    """

    values: FloatArray
    photo: NDArray[np.uint8]
    layers: tuple[str, ...]
    channel: int | None
    objectives: FloatArray
    octave_px: tuple[tuple[int, int], ...]
    frames: tuple[NDArray[np.uint8], ...]
    run: Run

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture, (H, W, 3)."""
        return self.values.round().astype(np.uint8)


@dataclass(frozen=True)
class DreamZoom:
    """A way into a dream: each frame is the one before, enlarged and dreamed on.

    Attributes:
        frames: Each (H, W, 3) uint8.
        layers: Dotted names of the layers.
        channel: The only channel that grew; None for all.
        run: How it was made.
    """

    frames: tuple[NDArray[np.uint8], ...]
    layers: tuple[str, ...]
    channel: int | None
    run: Run


@dataclass(frozen=True)
class Synthesis:
    """Pictures made to excite something in a network; one entry per picture in every field but the last three.

    Attributes:
        images: (n, H, W, 3) raw, 0..1; a grey network's are grey.
        names: What each is of: "channel 12".
        scores: (n,) the objective of the picture, seen straight: for a channel its mean activation.
        start_scores: (n,) that of the picture it began as.
        peaks: (n,) the largest activation of the channel at any place of the picture; the score where the objective
            is no channel's.
        alphas: (n, H, W) 0..1, how much the objective ever depended on each pixel.
        histories: (n, S) the objective of the view that each step went up from; not a number for steps to come.
        grey_scores: (n,) how far each picture is from grey: root mean square, pixels 0..1.
        grey_cut: Below it a picture has failed; 0 where none has.
        layer: The layer's dotted name; empty for class scores.
        run: How it was made.
    """

    images: FloatArray
    names: tuple[str, ...]
    scores: FloatArray
    start_scores: FloatArray
    peaks: FloatArray
    alphas: FloatArray
    histories: FloatArray
    grey_scores: FloatArray
    grey_cut: float
    layer: str
    run: Run

    @property
    def has_failed(self) -> NDArray[np.bool_]:
        """Which pictures stayed grey, (n,)."""
        return self.grey_scores < self.grey_cut


@dataclass(frozen=True)
class AdversarialExample:
    """A picture altered so that a network answers something else, and the way there.

    Every number is of the picture in 8 bits, read by the network as any other picture file.

    Attributes:
        original: (H, W, 3) uint8, what the network saw before.
        altered: (H, W, 3) uint8, what it sees afterwards; a file of exactly these pixels reaches it unchanged.
        delta: (C, H, W) altered less original over the network's own channels, white being 1.
        source: The answer before.
        source_label: Its name.
        target: The class to reach; None where any other than the answer before would do.
        target_label: Its name; empty where there is none.
        before: The first answers before.
        after: The first answers afterwards.
        probabilities: (S + 1, K) of every class, at the start and after each step.
        pictures: (F, H, W, 3) uint8 pictures on the way, the last of them ``altered``.
        picture_steps: (F,) after how many steps each was.
        method: Key in the method's table: ``pgd``.
        norm: How the difference is measured: ``linf`` or ``l2``.
        epsilon: Bound on that norm, in 255ths; None where there was none.
        name: What to call the altered picture.
        run: How it was made.
    """

    original: NDArray[np.uint8]
    altered: NDArray[np.uint8]
    delta: FloatArray
    source: int
    source_label: str
    target: int | None
    target_label: str
    before: Predictions
    after: Predictions
    probabilities: FloatArray
    pictures: NDArray[np.uint8]
    picture_steps: NDArray[np.int64]
    method: str
    norm: str
    epsilon: float | None
    name: str
    run: Run

    @property
    def fools(self) -> bool:
        """Whether the target is the first answer; without one, whether the answer is another than before."""
        answer = self.after.indices[0]
        return answer != self.source if self.target is None else answer == self.target

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return len(self.probabilities) - 1

    @property
    def linf(self) -> float:
        """Largest change of a value, in 255ths: a whole number."""
        return float(np.rint(np.abs(self.delta).max() * 255))

    @property
    def l2(self) -> float:
        """Length of the whole difference, white being 1."""
        return float(np.linalg.norm(self.delta.astype(np.float64)))


@dataclass(frozen=True)
class EpsilonSearch:
    """The smallest bound at which an attack was found to succeed.

    Attributes:
        epsilon: In 255ths; 0 where the answer already is what was wanted, None where no bound that was tried sufficed.
        epsilons: (T,) the bounds that were tried, in that order.
        fools: (T,) whether the attack succeeded.
        best: The altered picture at that bound; where none sufficed, at the largest.
        run: How it was made.
    """

    epsilon: int | None
    epsilons: NDArray[np.int64]
    fools: NDArray[np.bool_]
    best: AdversarialExample
    run: Run


@dataclass(frozen=True)
class Drift:
    """How far a network's view of two pictures grows apart from layer to layer.

    Attributes:
        layers: Dotted names, L of them, in the order in which they answer.
        cosines: (L,) cosine between all that the layer puts out for the one and for the other picture.
        shuffled: (L,) the same where the difference's pixels are strewn over the picture at random: what a difference
            of that size does without the attack's aim.
        run: How it was made.
    """

    layers: tuple[str, ...]
    cosines: FloatArray
    shuffled: FloatArray
    run: Run


@dataclass(frozen=True)
class Transfer:
    """What another network makes of a picture and of its altered copy.

    Attributes:
        model_title: The network.
        before: Its first answers for the picture.
        after: Its first answers for the altered one.
        target_before: Probability of the class of the target's name before; None without a target or such a class.
        target_after: The same afterwards.
        is_resized: Whether the pictures had to be resized or cropped for it, which takes part of the difference away.
        run: How it was made.
    """

    model_title: str
    before: Predictions
    after: Predictions
    target_before: float | None
    target_after: float | None
    is_resized: bool
    run: Run

    @property
    def is_fooled(self) -> bool:
        """Whether its first answer changed."""
        return self.before.indices[0] != self.after.indices[0]


@dataclass(frozen=True)
class Kinship:
    """How two networks of one architecture are related.

    Attributes:
        kind: "same", "same body" (only the head differs), "related" or "unrelated".
        words: The same in a sentence or two, with the numbers.
        near: Share of the layers whose weights point in about the same direction, 0..1.
    """

    kind: str
    words: str
    near: float


@dataclass(frozen=True)
class WeightChange:
    """What became of one layer's weights.

    Attributes:
        layer: Dotted name.
        num_params: Parameters in it.
        relative: Length of the change over length of the base's weights; not a number where shapes differ.
        cosine: Of the two weight vectors, -1..1; likewise.
        same_parameters: Whether every parameter is equal, as in a frozen layer.
        same_statistics: Whether the running statistics of its normalisations are, too.
        same_shape: Whether the shapes agree.
    """

    layer: str
    num_params: int
    relative: float
    cosine: float
    same_parameters: bool
    same_statistics: bool
    same_shape: bool


@dataclass(frozen=True)
class LayerChange:
    """What became of one layer.

    Attributes:
        weights: What became of its weights.
        cka: Unbiased linear CKA of what it puts out, at most 1; not a number where it puts out no map or vector, or the
            same for all pictures.
        correlations: (C,) of each channel with itself, -1..1; not a number for a channel that is constant; empty where
            the numbers of channels differ.
    """

    weights: WeightChange
    cka: float
    correlations: FloatArray

    @property
    def layer(self) -> str:
        """The layer's dotted name."""
        return self.weights.layer

    @property
    def correlation(self) -> float:
        """Median over the channels; not a number without any."""
        known = self.correlations[np.isfinite(self.correlations)]
        return float(np.median(known)) if len(known) else float("nan")


@dataclass(frozen=True)
class Screening:
    """What differs between two networks, on real pictures.

    Attributes:
        kinship: How they are related.
        layers: In order of depth.
        paths: (N,) of the pictures, in their collection.
        labels: (N,) what they show; empty where that is not known.
        base_scores: (N, K) class scores of the base network; (N, 0) without a classifier.
        tuned_scores: (N, K') likewise of the other.
        cosines: (N,) between what the two classifiers read; not a number where that differs in length.
        notices: What to bear in mind, in sentences.
        run: How it was made; ``run.other`` tells of the tuned network.
    """

    kinship: Kinship
    layers: tuple[LayerChange, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    base_scores: FloatArray
    tuned_scores: FloatArray
    cosines: FloatArray
    notices: tuple[str, ...]
    run: Run


@dataclass(frozen=True)
class ChangedAnswer:
    """A picture that two networks answer differently.

    Attributes:
        picture: Index into the screening's pictures.
        kind: "gained" (only the tuned network is right), "lost" (only the base is), "other wrong"; "new word" where
            only one of the networks has a class for what the picture shows, "changed" where that is not known.
        base: The base network's answer.
        tuned: The tuned network's.
        moved: How far the evidence moved, in the unit of :class:`AnswerChanges`.
    """

    picture: int
    kind: str
    base: str
    tuned: str
    moved: float


@dataclass(frozen=True)
class ClassChange:
    """What became of the answers to the pictures of one class.

    Attributes:
        name: What the pictures show; where that is not known, the base network's answer.
        num: Pictures.
        base_right: Of these answered rightly by the base network.
        tuned_right: By the tuned one.
        changed: Answered differently.
    """

    name: str
    num: int
    base_right: int
    tuned_right: int
    changed: int


@dataclass(frozen=True)
class AnswerChanges:
    """The pictures whose answer changed.

    Attributes:
        answers: Those whose evidence moved farthest first.
        unit: What ``moved`` is: "logits" between the two answers, "probability" of what the picture shows, or "cosine
            distance" of what the classifiers read.
        classes: By the class of the pictures, those with most changes first.
        num_pictures: How many there are.
        num_known: For how many both networks have a class for what they show.
    """

    answers: tuple[ChangedAnswer, ...]
    unit: str
    classes: tuple[ClassChange, ...]
    num_pictures: int
    num_known: int


@dataclass(frozen=True)
class LayerStudy:
    """What channels of one layer look for, in two networks.

    Attributes:
        layer: Dotted name.
        channels: (n,) channel numbers.
        base_pictures: (n, H, W, 3) uint8, what excites each channel of the base network.
        tuned_pictures: (n, H, W, 3) uint8, of the tuned one, from the same start with the same settings.
        similarities: (n,) cosine of the two pictures' embeddings in the base network, -1..1.
        gram_distances: (n, M) distance of the two pictures' Gram matrices at M layers of the base network.
        base_grey: (n,) distance from grey of each picture: root mean square, 0..1.
        tuned_grey: (n,) likewise.
        base_cut: Below it a picture is a grey failure; 0 where none is.
        tuned_cut: Likewise.
    """

    layer: str
    channels: NDArray[np.int64]
    base_pictures: NDArray[np.uint8]
    tuned_pictures: NDArray[np.uint8]
    similarities: FloatArray
    gram_distances: FloatArray
    base_grey: FloatArray
    tuned_grey: FloatArray
    base_cut: float
    tuned_cut: float

    @property
    def base_failed(self) -> NDArray[np.bool_]:
        """Which channels' pictures stayed grey in the base network, (n,)."""
        return self.base_grey < self.base_cut

    @property
    def tuned_failed(self) -> NDArray[np.bool_]:
        """Which stayed grey in the tuned one, (n,)."""
        return self.tuned_grey < self.tuned_cut

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which channels have a picture in both networks, (n,)."""
        return ~(self.base_failed | self.tuned_failed)

    @property
    def order(self) -> NDArray[np.intp]:
        """Places of the kept channels, the most different first."""
        places = np.flatnonzero(self.kept)
        return places[np.argsort(self.similarities[places], kind="stable")]


@dataclass(frozen=True)
class Study:
    """What channels look for before and after fine-tuning, layer by layer.

    Attributes:
        layers: In order of depth; while it is being made, those begun.
        gram_layers: The M layers at which Gram matrices are compared; their scales differ, so never pool them.
        embedding_layer: Where pictures are embedded: what the base network's classifier reads.
        run: How it was made; ``run.other`` tells of the tuned network.
    """

    layers: tuple[LayerStudy, ...]
    gram_layers: tuple[str, ...]
    embedding_layer: str
    run: Run


@dataclass(frozen=True)
class Comparison:
    """Two networks compared: numbers on real pictures and, for some layers, what their channels look for.

    Attributes:
        screening: Weights, CKA, correlations, answers.
        study: Similarity of visualisations, failures; None where none was asked for.
    """

    screening: Screening
    study: Study | None

    @property
    def layers(self) -> tuple[LayerComparison, ...]:
        """Both by layer, in order of depth."""
        changes = {change.layer: change for change in self.screening.layers}
        studied = {one.layer: one for one in self.study.layers} if self.study else {}
        return tuple(
            LayerComparison(name, changes.get(name), studied.get(name)) for name in dict.fromkeys([*changes, *studied])
        )


@dataclass(frozen=True)
class LayerComparison:
    """One layer of two networks.

    Attributes:
        layer: Dotted name.
        change: Weights, CKA, correlations; None for a layer that only the study looked at.
        study: Per-channel similarity of visualisations, failures; None for a layer it did not look at.
    """

    layer: str
    change: LayerChange | None
    study: LayerStudy | None


@dataclass(frozen=True)
class Epoch:
    """One pass of a training over its pictures.

    Attributes:
        number: 0 before the first pass.
        training_loss: Mean cross-entropy, in nats, while the weights changed; before the first pass, as they are.
        training_accuracy: Share of right answers, likewise.
        validation_loss: Mean cross-entropy after the pass, on pictures that are not trained on.
        validation_accuracy: Share of right answers there.
        seconds: It took.
    """

    number: int
    training_loss: float
    training_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class TrainingProgress:
    """A training under way.

    Attributes:
        doing: What is being done, in words.
        history: The epochs so far.
        num_epochs: How many there are at most.
        best_epoch: The one whose weights would be kept now.
        probe_accuracy: Of the linear probe on the validation pictures; not a number before it is there.
    """

    doing: str
    history: tuple[Epoch, ...]
    num_epochs: int
    best_epoch: int
    probe_accuracy: float


@dataclass(frozen=True)
class Stored:
    """A checkpoint in the data folder.

    Attributes:
        checkpoint_id: What :func:`cnnviz_core.models.load` takes.
        file: Where the weights file lies.
    """

    checkpoint_id: str
    file: str

    @property
    def path(self) -> Path:
        """The weights file."""
        return Path(self.file)


@dataclass(frozen=True)
class FineTuned:
    """A network trained further on a collection, and how well it does on pictures that it was not trained on.

    Attributes:
        checkpoint: Where it is kept; None where it could not be saved.
        class_names: One per class, K of them.
        history: The epochs, the state before the first one included.
        best_epoch: The one whose weights are kept.
        ended: Why it ended: "all epochs", "early", "cancelled", "diverged", "pictures changed".
        confusion: (K, K) test pictures of the class of the row that were answered with the class of the column.
        probe_confusion: The same for the linear probe.
        training: Paths of the pictures trained on, relative to the collection's folder.
        validation: Paths of those that decided which epoch is kept.
        test: (T) paths of those it is judged on.
        truths: (T,) class of each.
        answers: (T,) class answered.
        probabilities: (T,) of the answer.
        trained: Dotted names of the layers that were trained.
        kept_at: Where the network was cut: what is before it ran once for each picture.
        notices: What is not as was asked for, in sentences.
        unsaved: The weights file where it could not be saved, else empty.
        run: How it was made.
    """

    checkpoint: Stored | None
    class_names: tuple[str, ...]
    history: tuple[Epoch, ...]
    best_epoch: int
    ended: str
    confusion: NDArray[np.int64]
    probe_confusion: NDArray[np.int64]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    truths: NDArray[np.int64]
    answers: NDArray[np.int64]
    probabilities: FloatArray
    trained: tuple[str, ...]
    kept_at: str
    notices: tuple[str, ...]
    unsaved: bytes
    run: Run

    @property
    def accuracy(self) -> float:
        """Share of the test pictures answered rightly, 0..1."""
        return _share_right(self.confusion)

    @property
    def probe_accuracy(self) -> float:
        """The linear probe's."""
        return _share_right(self.probe_confusion)

    @property
    def chance_accuracy(self) -> float:
        """Of always answering the most frequent class."""
        return float(self.confusion.sum(axis=1).max() / self.confusion.sum())

    @property
    def recalls(self) -> FloatArray:
        """(K,) share of each class's pictures that were answered with it."""
        return _shares(np.diagonal(self.confusion), self.confusion.sum(axis=1))

    @property
    def precisions(self) -> FloatArray:
        """(K,) share of the answers with each class that were right; not a number for one never answered."""
        return _shares(np.diagonal(self.confusion), self.confusion.sum(axis=0))


def _share_right(confusion: NDArray[np.int64]) -> float:
    return float(np.trace(confusion) / confusion.sum())


def _shares(right: NDArray[np.int64], of: NDArray[np.int64]) -> FloatArray:
    shares: FloatArray = np.divide(right, of, out=np.full(len(of), np.nan), where=of > 0).astype(np.float32)
    return shares


@dataclass(frozen=True)
class Inversion:
    """A photo rebuilt from what each of several layers knows of it; arrays have one entry per layer.

    Attributes:
        pictures: (L, H, W, 3) values 0..1.
        original: (H, W, 3) uint8, the crop of the photo that the network saw.
        layers: Their dotted names.
        errors: (L,) |Phi(x) - Phi_0|^2 / |Phi_0|^2 of each picture; 0 where the layer cannot tell it from the photo.
        losses: (L, S) what went down, before each step; not a number for steps to come.
        pixel_errors: (L,) root mean square difference from the crop, in grey levels of 0..255.
        answers: What the network answers to each picture; None without a classifier, and for one that is unfinished.
        original_answer: What it answers to the crop; None without a classifier.
        run: How it was made.
    """

    pictures: FloatArray
    original: NDArray[np.uint8]
    layers: tuple[str, ...]
    errors: FloatArray
    losses: FloatArray
    pixel_errors: FloatArray
    answers: tuple[Predictions | None, ...]
    original_answer: Predictions | None
    run: Run


@dataclass(frozen=True)
class ClassImages:
    """Pictures made to be taken for classes; one entry per class.

    Attributes:
        pictures: The pictures with their class scores; named after the classes.
        classes: (n,) class indices.
        probabilities: (n,) what the network gives the class for the picture, 0..1.
        method: Key in the method's table: ``modern``.
        run: How they were made.
    """

    pictures: Synthesis
    classes: NDArray[np.int64]
    probabilities: FloatArray
    method: str
    run: Run
