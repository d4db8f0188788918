"""Occlusion: which places the network needs, found by covering them.

A square patch slides over the picture, and at each place the network answers anew. Where the class score S_c drops,
the patch hid something that spoke for the class; where it rises, something that spoke against it. The picture of
scores shows one cell per place of the patch; the map of drops gives each pixel the mean drop of all patches that
covered it. Nothing but the network's answers enters: no gradient, no layer.

When it misleads: the patch is itself something to see, and a network that was never shown a grey square may answer to
its edges; compare several fillings. Evidence that is there twice never shows, since one copy is enough. A patch
smaller than the object hides parts only, one far larger hides everything at once, so try several sizes. And the top
class may change although the score hardly drops, because another class rises: look at the winners, too.

Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014), section 4.2. The map per pixel
is weighed as in Captum.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import doctor, images
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.incremental import Patched, pasted
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Occlusion, Predictions, Step

# By default the patch is so many times smaller than the picture, and not below so many pixels.
_PATCHES_PER_SIDE, _MIN_PATCH_PX = 14, 4

# The blurred picture's standard deviation, as a share of the patch.
_BLUR = 0.5


@dataclass(frozen=True)
class Baseline:
    """What the patch shows.

    Attributes:
        title: Its name on screen.
        help: What it is, in a sentence.
        fill: From the network, the picture as its input (1, C, H, W), the patch's side and a seed to what the patch
            shows at each place, (1, C, H, W).
    """

    title: str
    help: str
    fill: Callable[[LoadedModel, Tensor, int, int], Tensor]


def _level(pixel: float) -> Callable[[LoadedModel, Tensor, int, int], Tensor]:
    """One value, 0..1, for all pixels."""
    return lambda model, x, _patch_px, _seed: _normalised(model, torch.full_like(x, pixel))


def _normalised(model: LoadedModel, unit: Tensor) -> Tensor:
    """Pixels (1, C, H, W) scaled to 0..1 as the network's input."""
    mean, std = (unit.new_tensor(v).view(-1, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    return (unit - mean) / std


def _mean(_model: LoadedModel, x: Tensor, _patch_px: int, _seed: int) -> Tensor:
    return torch.zeros_like(x)


def _blurred(_model: LoadedModel, x: Tensor, patch_px: int, _seed: int) -> Tensor:
    sigma = _BLUR * patch_px
    reach = int(3 * sigma) + 1
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    weights = weights / weights.sum()
    channels_as_pictures = F.pad(x.movedim(1, 0), (reach,) * 4, mode="replicate")
    across = F.conv2d(channels_as_pictures, weights.view(1, 1, 1, -1))
    return F.conv2d(across, weights.view(1, 1, -1, 1)).movedim(0, 1)


def _noise(model: LoadedModel, x: Tensor, _patch_px: int, seed: int) -> Tensor:
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return _normalised(model, drawn.to(x))


BASELINES: Mapping[str, Baseline] = {
    "mean": Baseline("mean colour", "The mean colour of the pictures the network was trained on.", _mean),
    "black": Baseline("black", "Black, which draws a sharp edge around itself in bright places.", _level(0.0)),
    "white": Baseline("white", "White, which draws a sharp edge around itself in dark places.", _level(1.0)),
    "blur": Baseline("blurred", "The picture itself without detail: colours stay, no edges are put in.", _blurred),
    "noise": Baseline("noise", "Every pixel a random colour, drawn from the seed.", _noise),
}


@dataclass(frozen=True)
class _Grid:
    """Where the patch goes."""

    patch_px: int
    stride_px: int
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]

    @property
    def num_positions(self) -> int:
        return len(self.tops) * len(self.lefts)


@dataclass
class _Found:
    """What is known so far."""

    scores: FloatArray
    probabilities: FloatArray
    classes: NDArray[np.int64]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    done: int = 0

    @classmethod
    def nothing(cls, grid: _Grid, input_px: tuple[int, int]) -> _Found:
        shape = (len(grid.tops), len(grid.lefts))
        unknown = np.full(shape, np.nan, dtype=np.float32)
        classes = np.full(shape, -1, dtype=np.int64)
        return cls(unknown, unknown.copy(), classes, np.zeros(input_px), np.zeros(input_px, dtype=np.int64))

    def heatmap(self) -> FloatArray:
        """(H, W) mean drop; not a number where no patch was."""
        drops = np.full(self.sums.shape, np.nan, dtype=np.float32)
        covered = self.counts > 0
        drops[covered] = self.sums[covered] / self.counts[covered]
        return drops


@dataclass(frozen=True)
class _Search:
    """What is asked."""

    model: LoadedModel
    image: InputImage
    grid: _Grid
    patched: Patched
    target: int
    settings: Mapping[str, object]
    start: float = field(default_factory=time.perf_counter)

    @property
    def clean(self) -> tuple[float, float]:
        """Score and probability of the class on the whole picture."""
        scores = self.patched.clean
        return scores[0, self.target].item(), self.model.probabilities(scores)[0, self.target].item()

    def advance(self, found: _Found, places: NDArray[np.int64]) -> None:
        """Tries the patch at these places, counted row by row."""
        rows, cols = np.divmod(places, len(self.grid.lefts))
        tops, lefts, size = self.grid.tops[rows], self.grid.lefts[cols], self.grid.patch_px
        scores = self.patched.scores(tops, lefts)
        probabilities = self.model.probabilities(scores)
        found.scores[rows, cols] = scores[:, self.target].cpu().numpy()
        found.probabilities[rows, cols] = probabilities[:, self.target].cpu().numpy()
        found.classes[rows, cols] = scores.argmax(dim=1).cpu().numpy()
        drops = self.clean[0] - found.scores[rows, cols].astype(np.float64)
        for top, left, drop in zip(tops, lefts, drops, strict=True):
            found.sums[top : top + size, left : left + size] += drop
            found.counts[top : top + size, left : left + size] += 1
        found.done += len(places)

    def result(self, found: _Found) -> Occlusion:
        """A result that does not change as more is found."""
        score, probability = self.clean
        seconds = time.perf_counter() - self.start
        run = self.model.provenance("occlusion.explain", seconds, image=self.image)
        seed = self.settings["seed"] if self.settings["baseline"] == "noise" else None
        return Occlusion(
            scores=found.scores.copy(),
            probabilities=found.probabilities.copy(),
            classes=found.classes.copy(),
            heatmap=found.heatmap(),
            clean_score=score,
            clean_probability=probability,
            tops=self.grid.tops,
            lefts=self.grid.lefts,
            patch_px=self.grid.patch_px,
            stride_px=self.grid.stride_px,
            target=self.target,
            target_label=self.model.class_names[self.target],
            num_forwards=1 + found.done,
            run=dataclasses.replace(run, settings=self.settings, seed=seed if isinstance(seed, int) else None),
        )


def explain(
    model: LoadedModel,
    image: InputImage,
    *,
    patch_px: int | None = None,
    stride_px: int | None = None,
    baseline: str = "mean",
    target: int | None = None,
    seed: int = 0,
    incremental: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Occlusion:
    """What a class score loses when a patch covers one place after another.

    With S_c(p) the score with the patch at place p and S_c that of the whole picture, the map at a pixel is the mean
    of S_c - S_c(p) over all p that cover it.

    Args:
        model: A network with class scores.
        image: Any picture; what is covered is the crop that the network sees.
        patch_px: Side of the patch in pixels of the input; None takes a 14th of its shorter side, or 4.
        stride_px: From one place to the next, at most ``patch_px``, so that every pixel is covered; None takes half.
            The last place is moved back to the border, so that all patches have full size.
        baseline: What the patch shows, a key of :data:`BASELINES`.
        target: Class index; None takes the top prediction of the whole picture.
        seed: Of the noise that the patch shows, if it does.
        incremental: Compute anew only what the patch changes, where the network allows it; the scores agree up to
            rounding. False runs whole pictures.
        on_step: Called after each batch with the places done, their number in all, and the result so far; what it
            raises ends the work.

    Returns:
        Scores, probabilities and winners for each place, and the map.

    Raises:
        NotApplicable: The network has no class scores.
        BadSetting: No such class or baseline, or a number out of range.

    Source: Zeiler and Fergus 2014, section 4.2; they show the probability for each place.
    """
    start = time.perf_counter()
    grid = _grid(model, patch_px, stride_px)
    patched = _patched(model, image, grid.patch_px, baseline, seed, incremental=incremental)
    target = _target(model, patched.clean, target)
    settings = {
        "patch_px": grid.patch_px,
        "stride_px": grid.stride_px,
        "baseline": baseline,
        "target": target,
        "seed": seed,
        "incremental": incremental,
    }
    search = _Search(model, image, grid, patched, target, settings, start)
    found = _Found.nothing(grid, model.preprocessing.input_px)
    for places in _batches(grid.num_positions, patched.batch_size):
        search.advance(found, places)
        if on_step:
            on_step(Step(found.done, grid.num_positions, search.result(found)))
    return search.result(found)


def positions(*, size_px: int, patch_px: int, stride_px: int) -> NDArray[np.int64]:
    """First pixels of the patch along one side; the last is moved back so that the patch ends at the border.

    Args:
        size_px: Length of the side.
        patch_px: Side of the patch.
        stride_px: From one place to the next.

    Raises:
        BadSetting: The patch does not fit, or places leave gaps between them.
    """
    if not 1 <= patch_px <= size_px:
        raise BadSetting(f"patch_px is {patch_px}; the patch must fit into the input, so choose 1 to {size_px}.")
    if not 1 <= stride_px <= patch_px:
        raise BadSetting(
            f"stride_px is {stride_px}; choose 1 to {patch_px}, the patch's side, so that every pixel is covered."
        )
    return np.append(np.arange(0, size_px - patch_px, stride_px, dtype=np.int64), size_px - patch_px)


def num_positions(model: LoadedModel, *, patch_px: int | None = None, stride_px: int | None = None) -> int:
    """How many places :func:`explain` tries: what it costs, in forwards.

    Raises:
        BadSetting: As in :func:`explain`.
    """
    return _grid(model, patch_px, stride_px).num_positions


def estimate_seconds(
    model: LoadedModel,
    image: InputImage,
    *,
    patch_px: int | None = None,
    stride_px: int | None = None,
    baseline: str = "mean",
    incremental: bool = True,
) -> float:
    """How long :func:`explain` will take, from the time of one batch in the middle of the picture.

    The first call for a network and a patch's size takes longer: it works out how to run it.

    Raises:
        NotApplicable: As in :func:`explain`.
        BadSetting: As in :func:`explain`.
    """
    grid = _grid(model, patch_px, stride_px)
    patched = _patched(model, image, grid.patch_px, baseline, 0, incremental=incremental)
    middle = grid.num_positions // 2 + np.arange(min(patched.batch_size, grid.num_positions))
    rows, cols = np.divmod(middle - len(middle) // 2, len(grid.lefts))
    patched.scores(grid.tops[rows], grid.lefts[cols])  # the first of its size prepares
    start = time.perf_counter()
    patched.scores(grid.tops[rows], grid.lefts[cols])
    return (time.perf_counter() - start) * grid.num_positions / len(middle)


def occlude(
    model: LoadedModel,
    image: InputImage,
    *,
    top: int,
    left: int,
    patch_px: int,
    baseline: str = "mean",
    seed: int = 0,
) -> InputImage:
    """What the network sees with the patch at one place.

    Args:
        model: The network whose crop it is.
        image: Any picture.
        top: First pixel row of the patch, in the network's input.
        left: First pixel column.
        patch_px: Its side.
        baseline: What it shows, a key of :data:`BASELINES`.
        seed: Of the noise.

    Raises:
        BadSetting: The patch does not lie inside the input, or there is no such baseline.
    """
    _check_place(model, top, left, patch_px)
    fill = _baseline(baseline).fill(model, model.to_input(image), patch_px, seed)
    pixels = model.preprocessing.crop(image).copy()
    place = slice(top, top + patch_px), slice(left, left + patch_px)
    pixels[place] = model.preprocessing.to_pixels(fill)[place]
    return images.from_pixels(pixels, name=f"{image.name}, covered")


def predict_occluded(
    model: LoadedModel,
    image: InputImage,
    *,
    top: int,
    left: int,
    patch_px: int,
    baseline: str = "mean",
    k: int = 5,
    seed: int = 0,
) -> Predictions:
    """The k most probable classes with the patch at one place.

    Args:
        model: A network with class scores.
        image: Any picture.
        top: As in :func:`occlude`.
        left: As in :func:`occlude`.
        patch_px: As in :func:`occlude`.
        baseline: As in :func:`occlude`.
        k: How many.
        seed: As in :func:`occlude`.

    Raises:
        NotApplicable: The network has no class scores.
        BadSetting: As in :func:`occlude`.
    """
    doctor.require(model, "occlusion")
    _check_place(model, top, left, patch_px)
    x = model.to_input(image)
    fill = _baseline(baseline).fill(model, x, patch_px, seed)
    with torch.no_grad():
        return model.predictions(model.net(pasted(x, fill, np.array([top]), np.array([left]), patch_px)), k)


def _grid(model: LoadedModel, patch_px: int | None, stride_px: int | None) -> _Grid:
    input_px = model.preprocessing.input_px
    size = max(min(input_px) // _PATCHES_PER_SIDE, min(_MIN_PATCH_PX, *input_px)) if patch_px is None else patch_px
    if not 1 <= size <= min(input_px):
        raise BadSetting(
            f"patch_px is {size}; the patch must fit into the network's input of {input_px[0]} x {input_px[1]} px, so "
            f"choose 1 to {min(input_px)}."
        )
    stride = max(1, size // 2) if stride_px is None else stride_px
    tops, lefts = (positions(size_px=side, patch_px=size, stride_px=stride) for side in input_px)
    return _Grid(size, stride, tops, lefts)


def _patched(
    model: LoadedModel, image: InputImage, patch_px: int, baseline: str, seed: int, *, incremental: bool
) -> Patched:
    doctor.require(model, "occlusion")
    fill = _baseline(baseline).fill
    x = model.to_input(image)
    return Patched(
        model.net,
        x,
        fill(model, x, patch_px, seed),
        patch_px=patch_px,
        read=model.scores,
        incremental=incremental,
        static=model.is_static,
    )


def _baseline(name: str) -> Baseline:
    if name not in BASELINES:
        raise BadSetting(f"baseline is {name!r}; choose one of {', '.join(BASELINES)}.")
    return BASELINES[name]


def _target(model: LoadedModel, clean: Tensor, target: int | None) -> int:
    model.check_class(target)
    return int(clean[0].argmax()) if target is None else target


def _check_place(model: LoadedModel, top: int, left: int, patch_px: int) -> None:
    height, width = model.preprocessing.input_px
    if patch_px < 1 or not (0 <= top <= height - patch_px and 0 <= left <= width - patch_px):
        raise BadSetting(
            f"A patch of {patch_px} px with its corner at row {top}, column {left} does not lie inside the network's "
            f"input of {height} x {width} px; move it or make it smaller."
        )


def _batches(num_positions: int, batch_size: int) -> list[NDArray[np.int64]]:
    """All places, in batches of nearly the same size: a batch of a size that was not seen before takes longer."""
    return np.array_split(np.arange(num_positions), -(-num_positions // batch_size))
