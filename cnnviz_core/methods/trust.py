"""Trust: does a map show what the network really uses?

A map can look convincing and be wrong. Four questions find out:

- **Deletion and insertion.** Delete the places that the map calls important, most important first: the class's
  probability should fall at once. Insert them into a picture without content: it should rise at once. The areas under
  the two curves say how fast, and the same map laid elsewhere at random says how fast by chance.
- **Randomisation.** Destroy the network's weights, from the head down. A map that explains the network has to change
  with it. One that does not shows the picture's edges, not the network's reasons; guided backprop is the classic case.
- **Agreement.** Where methods that work in different ways rank the places of a picture alike, they support each other.
- **Context.** Replace the background, or the object, and ask again. A network that still says "soccer ball" when only
  the grass is left has learnt the grass.

When it misleads: an edited picture is one the network never saw, so a fall of the probability may come from the edges
of the fill and not from what it hides; try more than one fill. A map can pass the randomisation test and be wrong all
the same; that of a unit in an early layer passes easily, and where convolutions in steps draw a grid, an honest one
passes in part only. Maps can agree because they share a weakness. And an object painted over in grey keeps its
outline: where that alone is recognised, the background looks guiltier than it is.

Source: Petsiuk et al., RISE (2018), for deletion and insertion; Blücher et al., Decoupling Pixel Flipping and
Occlusion Strategy (2024), for the symmetric relevance gain; Adebayo et al., Sanity Checks for Saliency Maps (2018), for
randomisation; Ribeiro et al., "Why Should I Trust You?" (2016), for networks that look at the background.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from cnnviz_core import images, maps
from cnnviz_core.errors import BadSetting, NotApplicable, checked_seed
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.maps import FloatArray, MapLike
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_fixed, format_percent
from cnnviz_core.results import (
    Agreement,
    ContextEdit,
    ContextTest,
    Curves,
    Mask,
    Predictions,
    Randomization,
    Run,
    Step,
)

Bools = NDArray[np.bool_]
Explain = Callable[[LoadedModel, InputImage], MapLike]
OnStep = Callable[[Step], None]

# Pictures that go through the network together.
_BATCH = 16

# The blur's standard deviation, and the side of the tiles that decide between equals, as shares of the input's side.
_BLUR_SHARE = 1 / 12
_TILE_SHARE = 1 / 28

# A curve that ends within this of where it began has nothing to tell.
_MIN_FALL = 0.1

# How often a random order may be called better than random ones, and how often worse.
_ERROR_RATE = 0.05

# Random orders whose gains differ by less differ by nothing that matters.
_MIN_SPREAD = 0.005

# Median rank correlation over the upper half of a randomisation from which on, or up to which, the case is clear.
_UNMOVED = 0.8
_MOVED = 0.5

# How far around a place a unit's map is compared with it: the standard deviation of a Gaussian.
_AROUND_PX = 2.0
_TINY = float(np.finfo(np.float32).tiny)

# A part of the picture that keeps this share of the probability is enough for the network.
_ENOUGH = 0.5

# SSIM compares windows of 7 x 7.
_SSIM_PX = 7


@dataclass(frozen=True)
class Fill:
    """What can take the place of a part of a picture.

    Attributes:
        title: On the page.
        help: What it does, in a sentence.
        make: From the network, the crop's pixels and another photo's crop (the same where there is none) to the
            pixels that are put in place, all (H, W, 3).
        needs_other: Whether it needs another photo.
    """

    title: str
    help: str
    make: Callable[[LoadedModel, Pixels, Pixels], Pixels]
    needs_other: bool = False


def _blurred(_model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    sigma = min(pixels.shape[:2]) * _BLUR_SHARE
    blurred: Pixels = np.rint(ndimage.gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0))).astype(np.uint8)
    return blurred


def _mean_colour(_model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    return np.broadcast_to(np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8), pixels.shape)


def _network_grey(model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    return model.preprocessing.to_pixels(torch.zeros(1, model.preprocessing.num_channels, *pixels.shape[:2]))


def _black(_model: LoadedModel, pixels: Pixels, _other: Pixels) -> Pixels:
    return np.zeros_like(pixels)


def _other_photo(_model: LoadedModel, _pixels: Pixels, other: Pixels) -> Pixels:
    return other


FILLS: Mapping[str, Fill] = {
    "blur": Fill("Blur", "The same picture, so blurred that only large patches of colour are left.", _blurred),
    "mean": Fill("Mean colour", "The mean colour of what the network sees of this picture.", _mean_colour),
    "grey": Fill("Network’s grey", "The colour that the normalisation turns into zeros.", _network_grey),
    "black": Fill("Black", "Black pixels, which most networks read as a strong signal of their own.", _black),
    "photo": Fill("Another photo", "The same place in another photo.", _other_photo, needs_other=True),
}


# ---- deletion and insertion ---------------------------------------------------------------------------------------


def deletion_insertion(
    model: LoadedModel,
    image: InputImage,
    heatmap: MapLike,
    *,
    steps: int = 20,
    target: int | None = None,
    fill: str = "blur",
    seed: int = 0,
    num_random: int = 8,
    on_step: OnStep | None = None,
) -> Curves:
    """How fast a class's probability falls as a map's important places go, and rises as they come.

    Pixels are ranked by the map, brought bilinearly to the input's size; places without a number come last. Deleting
    the most and the least important first gives the curves; insertion is deletion read from the other end.

    Beside them stand random orders: the same map, mirrored or not and pushed along both sides by random distances, what
    leaves on one side coming in on the other. They take out pieces of the same shape and grain at other places. (How
    fast a probability falls depends on the grain: single pixels strewn over a picture disturb a network far more than
    a hole of the same area, so orders of another grain are no comparison.)

    Args:
        model: A network with a classifier.
        image: Any picture.
        heatmap: A result with a map of this picture, or an array (h, w) over the whole crop: high where it matters.
        steps: Steps from the whole to the filled picture.
        target: Class index; None takes the top prediction.
        fill: A key of :data:`FILLS` that needs no other photo.
        seed: Of the random orders, and of the order of tiles of a 28th of the input's side that decides between pixels
            of equal value.
        num_random: How many random orders, at least 2.
        on_step: Called after each batch, with the forwards done and the curves so far as ``partial``, in which what is
            yet to come is not a number; what it raises ends the work.

    Returns:
        Probabilities and, from them, areas; ``relevance_gain`` depends least on the fill.

    Raises:
        BadSetting: A number out of range, no such class or fill, or something that is not a map.
        NotApplicable: The network has no classifier.
    """
    start = time.perf_counter()
    values = maps.read(heatmap)
    height, width = model.preprocessing.input_px
    _check_curves(steps, height * width, num_random)
    target = _target(model, image, target)
    draw = np.random.default_rng(checked_seed(seed))
    fine = maps.resize(values, (height, width))
    first = [_order(fine, draw), *(_order(_elsewhere(fine, draw), draw) for _ in range(num_random))]
    counts = np.rint(np.linspace(0, height * width, steps + 1)).astype(int)

    pixels = model.preprocessing.crop(image)
    filled = images.from_pixels(_fill(fill).make(model, pixels, pixels), name=fill)
    x, other = model.to_input(image), model.to_input(filled)
    settings = {"steps": steps, "target": target, "fill": fill, "seed": seed, "num_random": num_random}

    def curves(found: FloatArray) -> Curves:
        most_first, least_first = found[: num_random + 1], found[num_random + 1 :]
        return Curves(
            fractions=(counts / counts[-1]).astype(np.float32),
            most_first=most_first[0],
            least_first=least_first[0],
            random_most_first=most_first[1:],
            random_least_first=least_first[1:],
            target=target,
            target_label=model.class_names[target],
            fill=fill,
            verdict="",
            run=_run(model, image, "trust.deletion_insertion", start, settings),
        )

    def tell(done: int, total: int, found: FloatArray) -> None:
        if on_step:
            on_step(Step(done, total, curves(found)))

    orders = [*first, *(order[::-1] for order in first)]
    whole = curves(_deletion_curves(model, x, other, orders, counts, target, tell))
    return replace(whole, verdict=_curves_verdict(whole))


def _check_curves(steps: int, num_pixels: int, num_random: int) -> None:
    if not 2 <= steps <= num_pixels:
        raise BadSetting(f"steps is {steps}; give 2 to {num_pixels}, one for each pixel.")
    if num_random < 2:
        raise BadSetting(f"num_random is {num_random}; give 2 or more, so that chance can be told from the map.")


def _fill(name: str, *, has_other: bool = False) -> Fill:
    usable = [key for key, fill in FILLS.items() if has_other or not fill.needs_other]
    if name not in usable:
        raise BadSetting(f"{name!r} is no fill that can be used here; choose one of {', '.join(usable)}.")
    return FILLS[name]


def _target(model: LoadedModel, image: InputImage, target: int | None) -> int:
    """The class given, or the top prediction."""
    top = model.predict(image, k=1).indices[0]
    model.check_class(target)
    return top if target is None else target


def _elsewhere(fine: FloatArray, draw: np.random.Generator) -> FloatArray:
    """The map (H, W) mirrored at random and pushed around the borders by random distances."""
    mirrored = fine[:: draw.choice([-1, 1]), :: draw.choice([-1, 1])]
    return np.roll(mirrored, draw.integers(fine.shape), axis=(0, 1))


def _order(fine: FloatArray, draw: np.random.Generator) -> NDArray[np.int64]:
    """(H * W,): positions of a map's pixels (H, W), the most important first, those without a number last."""
    height, width = fine.shape
    side = max(1, round(max(height, width) * _TILE_SHARE))
    rows, columns = np.arange(height) // side, np.arange(width) // side
    places = draw.permutation((rows[-1] + 1) * (columns[-1] + 1))
    tiles = places[rows[:, None] * (columns[-1] + 1) + columns]
    return np.lexsort((tiles.ravel(), -np.where(np.isnan(fine), -np.inf, fine).ravel()))


@torch.no_grad()
def _deletion_curves(
    model: LoadedModel,
    x: Tensor,
    filled: Tensor,
    orders: Sequence[NDArray[np.int64]],
    counts: NDArray[np.int64],
    target: int,
    tell: Callable[[int, int, FloatArray], None],
) -> FloatArray:
    """(orders, counts): the target's probability with so many pixels of that order deleted."""
    ranks = np.empty((len(orders), counts[-1]), dtype=np.int64)
    np.put_along_axis(ranks, np.stack(orders), np.arange(counts[-1])[None], axis=1)
    on_device = torch.from_numpy(ranks).to(x.device).reshape(len(orders), 1, *x.shape[2:])
    # Whole and filled picture are the same in every order. The map's own two orders come first, to be seen first.
    own = (0, len(orders) // 2)
    rows = [*own, *(row for row in range(len(orders)) if row not in own)]
    jobs = [(0, 0), (0, len(counts) - 1), *((row, at) for row in rows for at in range(1, len(counts) - 1))]
    found = np.full((len(orders), len(counts)), np.nan, dtype=np.float32)
    for begin in range(0, len(jobs), _BATCH):
        order, step = np.array(jobs[begin : begin + _BATCH]).T
        num_deleted = torch.from_numpy(counts[step]).to(x.device)[:, None, None, None]
        batch = torch.where(on_device[order] < num_deleted, filled, x)
        found[order, step] = model.probabilities(model.scores(model.net(batch)))[:, target].float().cpu().numpy()
        found[:, 0], found[:, -1] = found[0, 0], found[0, -1]
        tell(begin + len(order), len(jobs), found.copy())
    return found


_CURVE_VERDICTS = {
    1: "The map finds what the network uses: it does better than the same map laid elsewhere.",
    0: "The map does no better than the same map laid elsewhere at random.",
    -1: "The map ranks what matters last: it does worse than the same map laid elsewhere.",
}


def _curves_verdict(curves: Curves) -> str:
    whole, filled = float(curves.most_first[0]), float(curves.most_first[-1])
    if whole - filled < _MIN_FALL:
        return (
            f"The probability of {curves.target_label} is {whole:.2f} for the whole picture and {filled:.2f} for the "
            "filled one, too close for the curves to tell anything; choose another class or fill."
        )
    by_chance = curves.random_relevance_gains
    spread = max(float(by_chance.std(ddof=1)), _MIN_SPREAD)
    deviations = (curves.relevance_gain - float(by_chance.mean())) / spread
    num_draws = len(by_chance)
    sure = stats.t.ppf(1 - _ERROR_RATE, num_draws - 1) * (1 + 1 / num_draws) ** 0.5
    verdict = _CURVE_VERDICTS[int(np.sign(deviations)) if abs(deviations) > sure else 0]
    return (
        f"{verdict} Area deleting {curves.deletion_area:.2f} (at random {curves.random_deletion_areas.mean():.2f}), "
        f"inserting {curves.insertion_area:.2f} (at random {curves.random_insertion_areas.mean():.2f}); their "
        f"difference is {format_fixed(deviations, 1, signed=True)} standard deviations from the random ones."
    )


# ---- randomisation ------------------------------------------------------------------------------------------------


def randomization(
    model: LoadedModel,
    image: InputImage,
    *,
    explain: Explain,
    layers: Sequence[str] | None = None,
    up_to: str | None = None,
    num_steps: int = 8,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Randomization:
    """Whether a map changes when the network's weights are destroyed, from the head down.

    At each step the weights of further layers are shuffled within each tensor, on a copy of the network. So they keep
    their distribution, and the layers the scale of what they put out, but all that was learnt is gone. Layers that
    have no weights but one number per channel, such as normalisations, stay as they are.

    Maps are compared by the magnitude of their values, by rank and by structure. A map that is the same everywhere has
    no likeness to another, and its step does not count: a unit that shuffled weights have silenced has an empty map
    whatever the method, which is no evidence that the map follows the weights.

    Args:
        model: Any network with weights.
        image: Any picture.
        explain: From a network and a picture to a result with a map, or an array. Let it explain a fixed class: the
            top prediction of a destroyed network is another one.
        layers: Dotted names, one for each step, in the order of the steps; what they contain goes with them. None goes
            from the last layer with weights to the first: the last one alone, then groups of equal number.
        up_to: The last layer on which the map can depend, where no layers are given: that of a unit that is explained.
            What answers after it stays as it is, since no map of the unit could show that it was destroyed. Ranks are
            then compared only where either map is not 0, and of magnitudes as shares of those around them: what the
            unit cannot see, and that it sees its middle best, would make all maps alike.
        num_steps: How many steps at most, where no layers are given.
        seed: Of the shuffling.
        on_step: Called after each step, with the result so far as ``partial``; what it raises ends the work.

    Returns:
        The map, how like the first it is, and what became of the prediction, after each step.

    Raises:
        BadSetting: A number out of range, or a layer without weights.
        UnknownLayer: No layer of that name.
        NotApplicable: The network has no weights, or none up to that layer; or what ``explain`` raises.
    """
    start = time.perf_counter()
    steps = _steps(model, layers, up_to, num_steps)
    settings = {
        "layers": None if layers is None else list(layers),
        "up_to": up_to,
        "num_steps": num_steps,
        "seed": seed,
    }
    top = model.predict(image, k=1).indices[0] if model.num_classes else None
    draw = torch.Generator().manual_seed(seed)

    first = maps.read(explain(model, image))
    found, ranks, ssims, probabilities = [first], [], [], [_probability(model, image, top)]
    net = model.net
    for done, names in enumerate(steps, 1):
        net = copy.deepcopy(net)  # what was handed out stays as it was
        _shuffle(net, names, draw)
        broken = _renamed(model, net, [name for step in steps[:done] for name in step], seed)
        found.append(maps.read(explain(broken, image)))
        before, after = np.abs(first), np.abs(found[-1])
        ranks.append(_rank_correlation_of_units(before, after) if up_to else _rank_correlation(before, after))
        if up_to and not np.isnan(ranks[-1]):
            before, after = _cropped((before, after))
        ssims.append(float("nan") if np.isnan(ranks[-1]) else _ssim(before, after))
        probabilities.append(_probability(broken, image, top))
        result = Randomization(
            steps=tuple(steps[:done]),
            maps=np.stack(found),
            rank_correlations=np.array(ranks, dtype=np.float32),
            ssims=np.array(ssims, dtype=np.float32),
            probabilities=np.array(probabilities, dtype=np.float32),
            top_label="" if top is None else model.class_names[top],
            verdict="",
            run=_run(model, image, "trust.randomization", start, settings),
        )
        result = replace(result, verdict=_randomization_verdict(result))
        if on_step:
            on_step(Step(done, len(steps), result))
    return result


def _steps(
    model: LoadedModel, layers: Sequence[str] | None, up_to: str | None, num_steps: int
) -> list[tuple[str, ...]]:
    """Names of the modules to be shuffled at each step."""
    if num_steps < 1:
        raise BadSetting(f"num_steps is {num_steps}; give 1 or more.")
    names = _with_weights(model, None if layers is not None else up_to)
    if layers is None:
        if len(names) <= num_steps:
            return [(name,) for name in names]
        parts = np.array_split(np.arange(1, len(names)), num_steps - 1) if num_steps > 1 else []
        return [tuple(names[: 1 if parts else None]), *(tuple(names[i] for i in part) for part in parts)]
    steps = []
    for layer in layers:
        inside = [name for name in names if f"{name}.".startswith(f"{model.layers[layer].name}.")]
        if not inside:
            raise BadSetting(f"Layer {layer} has no weights to shuffle; choose one such as {', '.join(names[:3])}.")
        steps.append(tuple(inside))
    if not steps:
        raise BadSetting("layers is empty; name at least one, or leave it out.")
    return steps


def _with_weights(model: LoadedModel, up_to: str | None) -> list[str]:
    """Modules with weights of their own that answer no later than a layer, the one that answers last first."""
    place = {layer.name: i for i, layer in enumerate(model.layers)}
    last = len(place) if up_to is None else place[model.layers[up_to].name]

    def depth(name: str) -> int:
        """A part that never answers by itself goes with what it is a part of."""
        while name and name not in place:
            name = name.rpartition(".")[0]
        return place.get(name, len(place))

    names = [
        name
        for name, module in model.net.named_modules()
        if any(weight.ndim > 1 for weight in module.parameters(recurse=False))
    ]
    if not names:
        raise NotApplicable(
            f"{model.spec.title} has no layer with weights to shuffle; use a network with convolutions."
        )
    names = [name for name in names if depth(name) <= last]
    if not names:
        raise NotApplicable(f"Up to {up_to} there are no weights to shuffle; choose a later layer.")
    return sorted(names, key=depth, reverse=True)


@torch.no_grad()
def _shuffle(net: nn.Module, names: Sequence[str], draw: torch.Generator) -> None:
    """Puts the weights of these modules, which nobody else may hold, in random order."""
    for name in names:
        for weight in net.get_submodule(name).parameters(recurse=False):
            order = torch.randperm(weight.numel(), generator=draw).to(weight.device)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))


def _renamed(model: LoadedModel, net: nn.Module, names: Sequence[str], seed: int) -> LoadedModel:
    """The network with these weights shuffled, under a name and hash of its own, by which results may be kept."""
    account = f"{model.spec.weights_hash} {seed} {list(names)}"
    weights_hash = hashlib.blake2b(account.encode(), digest_size=16).hexdigest()
    label = f"{model.spec.weights}, shuffled down to {names[-1]}"
    return replace(model, net=net, spec=replace(model.spec, weights=label, weights_hash=weights_hash))


def _probability(model: LoadedModel, image: InputImage, target: int | None) -> float:
    """Of the target; not a number without one."""
    if target is None:
        return float("nan")
    found = model.predict(image, k=model.num_classes)
    return found.probabilities[found.indices.index(target)]


def _randomization_verdict(result: Randomization) -> str:
    half = (len(result.steps) + 1) // 2
    upper, lower = (ranks[~np.isnan(ranks)] for ranks in np.split(result.rank_correlations, [half]))
    # With the upper half gone there is no prediction left to explain. In the lower half every map changes at last, so
    # that only one which does not tells anything.
    if 2 * upper.size > half:
        part, similarity = "upper", float(np.median(upper))
    elif lower.size and np.median(lower) >= _UNMOVED:
        part, similarity = "lower", float(np.median(lower))
    else:
        return _undecided(result)
    last = result.rank_correlations[-1]
    at_the_end = "none" if np.isnan(last) else format_fixed(last, 2)
    numbers = (
        f"Rank correlation with the first map: {format_fixed(similarity, 2)} in the median while the {part} half of "
        f"the network was shuffled, {at_the_end} at the end.{_left_out(result)}"
    )
    if similarity >= _UNMOVED:
        return (
            f"The map barely changes although the network is destroyed{_fall(result)}: it shows the picture more than "
            f"the network; do not trust it to find out what the network does. {numbers}"
        )
    if similarity > _MOVED:
        return f"The map follows the weights in part only; read it with care. {numbers}"
    return f"The map follows the weights, as an explanation must. {numbers}"


def _undecided(result: Randomization) -> str:
    """What to say where no step counts."""
    what, cause, instead = (
        ("unit", ", as that of a unit which no longer answers", "explain a class, or another unit")
        if result.run.settings["up_to"]
        else ("map", "", "take another method or class")
    )
    if maps.is_flat(result.maps[0]):
        return (
            f"The check cannot tell for this {what}: the map is the same everywhere before any weight is shuffled, so "
            f"that there is nothing to compare; {instead}."
        )
    return (
        f"The check cannot tell for this {what}: while the upper half of the network was shuffled, its map was mostly "
        f"the same everywhere{cause}. That a map vanishes is no evidence that it follows the weights; {instead}."
    )


def _left_out(result: Randomization) -> str:
    num_flat = int(np.isnan(result.rank_correlations).sum())
    if not num_flat:
        return ""
    return f" Not counted: {num_flat} of {len(result.steps)} steps that left the map the same everywhere."


def _fall(result: Randomization) -> str:
    if not result.top_label or result.run.settings["up_to"]:
        return ""
    before, after = result.probabilities[[0, -1]]
    return f" (probability of {result.top_label}: {before:.2f} before, {after:.2f} after)"


def _rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Spearman's, over the places that both know; not a number where one is the same everywhere."""
    known = np.isfinite(a) & np.isfinite(b)
    if maps.is_flat(a[known]) or maps.is_flat(b[known]):
        return float("nan")
    return float(stats.spearmanr(a[known], b[known]).statistic)


def _rank_correlation_of_units(a: FloatArray, b: FloatArray) -> float:
    """The same of the fine structure of two maps of magnitudes, where either is not 0."""
    if maps.is_flat(a) or maps.is_flat(b):
        return float("nan")
    seen = (a > 0) | (b > 0)
    fine = (values / np.maximum(ndimage.gaussian_filter(values, _AROUND_PX), _TINY) for values in (a, b))
    return _rank_correlation(*(values[seen] for values in fine))


def _cropped(found: Sequence[FloatArray]) -> tuple[FloatArray, ...]:
    """Maps of one size, cropped to the rectangle in which any of them is not 0."""
    places = np.argwhere(np.any([values != 0 for values in found], axis=0))
    rows, columns = (slice(first, last + 1) for first, last in zip(places.min(0), places.max(0), strict=True))
    return tuple(values[rows, columns] for values in found)


def _ssim(a: FloatArray, b: FloatArray) -> float:
    """Structural similarity of two maps of magnitudes, each scaled to a maximum of 1."""
    height, width = (max(side, _SSIM_PX) for side in a.shape)
    one, other = (np.nan_to_num(maps.resize(values, (height, width))) for values in (a, b))
    scaled = (values / (values.max() or 1) for values in (one, other))
    return float(structural_similarity(*scaled, win_size=_SSIM_PX, data_range=1.0))


# ---- agreement ----------------------------------------------------------------------------------------------------


def agreement(heatmaps: Mapping[str, MapLike], *, only_seen: bool = False) -> Agreement:
    """How alike several maps of one picture rank its places.

    They are compared where they speak for the class: values below zero count as zero. All are brought to the size of
    the largest; a map that is the same everywhere ranks nothing, and its correlations are 0.

    Args:
        heatmaps: For each name a result with a map, or an array (h, w), all over the same crop.
        only_seen: Whether only places count where any map is not 0: what a unit cannot see would make all maps alike.

    Raises:
        BadSetting: Fewer than two maps, or something that is not a map.
    """
    if len(heatmaps) < 2:
        raise BadSetting("Agreement needs two or more maps of one picture; add another method.")
    positive = [np.maximum(maps.read(heatmap), 0) for heatmap in heatmaps.values()]
    shape = (max(len(values) for values in positive), max(values.shape[1] for values in positive))
    same_size = [maps.resize(values, shape) for values in positive]
    if only_seen:
        seen = np.any([values != 0 for values in same_size], axis=0)
        same_size = [values[seen] for values in same_size]
    return Agreement(tuple(heatmaps), _rank_correlations(same_size))


def _rank_correlations(found: Sequence[FloatArray]) -> FloatArray:
    """Spearman's of each with each, (n, n), over the places that both know; 0 where one is the same everywhere."""
    if not all(np.isfinite(values).all() for values in found):
        return np.nan_to_num(np.array([[_rank_correlation(a, b) for b in found] for a in found], dtype=np.float32))
    # Ranking is nearly all of the work: once for each map, not for each pair.
    varying = [place for place, values in enumerate(found) if not maps.is_flat(values)]
    correlations = np.zeros((len(found), len(found)), dtype=np.float32)
    if varying:
        ranks = [stats.rankdata(found[place]).ravel() for place in varying]
        correlations[np.ix_(varying, varying)] = np.corrcoef(ranks)
    return correlations


# ---- object and context -------------------------------------------------------------------------------------------


def context_test(
    model: LoadedModel,
    image: InputImage,
    mask: Mask | Bools,
    *,
    explain: Explain,
    target: int | None = None,
    fills: Sequence[str] = ("blur", "grey", "photo"),
    other: InputImage | None = None,
    on_step: OnStep | None = None,
) -> ContextTest:
    """Whether the network recognises the object, or what it stands in front of.

    Args:
        model: A network with a classifier.
        image: Any picture.
        mask: (H, W) over the crop that the network sees, true on the object; :func:`crop_mask` makes it from one over
            the whole picture.
        explain: From a network and a picture to a result with a map, or an array. Let it explain the same target.
        target: Class index; None takes the top prediction of the whole picture.
        fills: Keys of :data:`FILLS`: what takes the place of the background, and then of the object.
        other: The photo that "photo" takes; without it that fill is left out.
        on_step: Called after the whole picture and each edit, with the result so far as ``partial``; what it raises
            ends the work.

    Returns:
        For each edit its pixels, predictions and map; and how much of the evidence lay outside the object at first.

    Raises:
        BadSetting: The mask is not of the crop's size, or has no object or no background; no such class or fill.
        NotApplicable: The network has no classifier; or what ``explain`` raises.
    """
    start = time.perf_counter()
    inside = _over_crop(model, mask)
    target = _target(model, image, target)
    usable = [name for name in fills if other is not None or not _fill(name, has_other=True).needs_other]
    if not usable:
        raise BadSetting(f"fills is {tuple(fills)}; name at least one, and give another photo for 'photo'.")
    pixels = model.preprocessing.crop(image)
    other_pixels = pixels if other is None else model.preprocessing.crop(other)

    def look(replaced: str, fill: str, shown: Pixels) -> ContextEdit:
        edited = images.from_pixels(shown, name=f"{image.name}, {replaced} replaced" if replaced else image.name)
        found = model.predict(edited, k=model.num_classes)
        at = found.indices.index(target)
        best = Predictions(found.indices[:5], found.labels[:5], found.probabilities[:5], found.logits[:5])
        values = maps.read(explain(model, edited))
        return ContextEdit(replaced, fill, shown, best, found.probabilities[at], found.logits[at], values)

    run_settings = {"target": target, "fills": usable}
    whole = look("", "", pixels)
    edits: list[ContextEdit] = []

    def reported() -> ContextTest:
        result = ContextTest(
            whole=whole,
            edits=tuple(edits),
            mask=Mask(inside, mask.method if isinstance(mask, Mask) else "given"),
            evidence_outside=1 - evidence_inside(whole.map, inside),
            area_outside=float((~inside).mean()),
            target=target,
            target_label=model.class_names[target],
            verdict="",
            run=_run(model, image, "trust.context_test", start, run_settings),
        )
        result = replace(result, verdict=_context_verdict(result))
        if on_step:
            on_step(Step(1 + len(edits), 1 + 2 * len(usable), result))
        return result

    result = reported()
    for fill in usable:
        filled = _fill(fill, has_other=True).make(model, pixels, other_pixels)
        for replaced, keep in (("background", inside), ("object", ~inside)):
            edits.append(look(replaced, fill, np.where(keep[..., None], pixels, filled)))
            result = reported()
    return result


def crop_mask(model: LoadedModel, image: InputImage, mask: Mask | Bools) -> Mask:
    """The part of a mask over the whole picture that the network sees, (H, W) of its input.

    Raises:
        BadSetting: The mask is not of the picture's size.
    """
    values = _bools(mask)
    if values.shape != image.pixels.shape[:2]:
        raise BadSetting(
            f"The mask has {values.shape} pixels, the picture {image.pixels.shape[:2]}; give one of its size."
        )
    white = images.from_pixels(values.astype(np.uint8) * 255, name="mask")
    return Mask(model.preprocessing.crop(white)[..., 0] > 127, mask.method if isinstance(mask, Mask) else "given")


def evidence_inside(heatmap: MapLike, mask: Mask | Bools) -> float:
    """Share of a map's positive values that lies inside a mask, 0..1.

    A cell that the mask covers in part counts with the share of its area that is covered, so that the result is exact
    however coarse the map is.

    Args:
        heatmap: A result with a map, or an array (h, w); places without a number do not count.
        mask: (H, W) over the same crop.

    Returns:
        The share; not a number where the map has no positive value.

    Raises:
        BadSetting: Something that is not a map.
    """
    evidence = np.nan_to_num(np.maximum(maps.read(heatmap), 0)).astype(np.float64)
    inside = _bools(mask)
    down, across = (_overlaps(cells, px) for cells, px in zip(evidence.shape, inside.shape, strict=True))
    covered = down @ inside @ across.T
    total = evidence.sum()
    return float((evidence * covered).sum() / total) if total else float("nan")


def _overlaps(num_cells: int, num_px: int) -> NDArray[np.float64]:
    """(cells, pixels): which share of each cell's extent each pixel covers."""
    cells, px = np.arange(num_cells)[:, None] / num_cells, np.arange(num_px) / num_px
    ends = np.minimum(cells + 1 / num_cells, px + 1 / num_px)
    overlaps: NDArray[np.float64] = np.maximum(0, ends - np.maximum(cells, px)) * num_cells
    return overlaps


def _bools(mask: Mask | Bools) -> Bools:
    return mask.values if isinstance(mask, Mask) else np.asarray(mask, dtype=bool)


def _over_crop(model: LoadedModel, mask: Mask | Bools) -> Bools:
    values = _bools(mask)
    if values.shape != model.preprocessing.input_px:
        raise BadSetting(
            f"The mask has {values.shape} pixels, what the network sees {model.preprocessing.input_px}; give a mask "
            "over the crop, as crop_mask cuts it out."
        )
    if values.all() or not values.any():
        raise BadSetting("The mask needs both an object and a background within what the network sees; draw it anew.")
    return values


_CONTEXT_VERDICTS = {
    # (the object alone is enough, the background alone is enough)
    (True, False): "The network looks at the object.",
    (False, True): "The network looks at the background, not at the object.",
    (True, True): "Object and background are each enough for the network.",
    (False, False): "The network needs object and background together, or the edits disturb it.",
}


def _context_verdict(result: ContextTest) -> str:
    """Empty as long as either part has not been replaced yet."""
    found = {
        part: [edit.probability for edit in result.edits if edit.replaced == part] for part in ("background", "object")
    }
    if not all(found.values()):
        return ""
    without = {part: float(np.median(probabilities)) for part, probabilities in found.items()}
    whole = result.whole.probability
    enough = (without["background"] >= _ENOUGH * whole, without["object"] >= _ENOUGH * whole)
    evidence = (
        f" {format_percent(result.evidence_outside)} of the map’s evidence lies outside the object, which leaves "
        f"{format_percent(result.area_outside)} of the area."
    )
    return (
        f"{_CONTEXT_VERDICTS[enough]} Probability of {result.target_label}: {whole:.2f} in the whole picture, "
        f"{without['background']:.2f} with the object alone, {without['object']:.2f} with the background alone."
        f"{'' if np.isnan(result.evidence_outside) else evidence}"
    )


def _run(model: LoadedModel, image: InputImage, method: str, start: float, settings: Mapping[str, object]) -> Run:
    run = model.provenance(method, time.perf_counter() - start, image=image)
    seed = settings.get("seed")
    return replace(run, settings=settings, seed=seed if isinstance(seed, int) else None)
