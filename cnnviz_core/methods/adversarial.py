"""Fooling images: pictures altered a little, or made from nothing, so that a network gives a wrong answer.

The gradient of a network's answer says how each pixel would have to change to change it most. Follow it, and a change
too small to be seen makes a cat a goldfish. FGSM takes one step; projected gradient descent (PGD) takes many, and after
each goes back to the allowed surroundings of the picture; gradient ascent on a class score ("fooling") stops as soon as
the network gives in. Started from noise, it finds pictures that are nothing to us and a class beyond doubt to it.

With x the crop that the network sees, its values scaled to 0..1, m_c(x) = log sum_(j != c) exp S_j(x) - S_c(x) says how
far class c is behind the others. The cross-entropy of c is softplus(m_c), so its gradient points the same way, but that
of m_c does not vanish where the network is sure. An untargeted attack climbs m_y of the answer y, a targeted one
descends m_t. A step goes along the gradient's sign for the largest change of any value (Linf), along the gradient
itself for the length of the whole change (L2).

What counts is the picture in 8 bits. After every step it is rounded so that the bound still holds exactly, decoded by
the network's own preprocessing, and answered: what is downloaded is what fools. A picture of exactly the network's
input size reaches it unchanged.

When it misleads: a picture that fools was made for this one network and this one preprocessing; resize it, save it as
a JPEG, or show it to another network, and it may fool no longer. That an attack fails is no proof of robustness:
another method, more steps or another start may succeed. That one succeeds tells little about how often the network
errs on natural pictures. The smallest bound is the smallest that was found.

Source: Szegedy et al. 2014; Goodfellow et al. 2015 for FGSM; Madry et al. 2018 for PGD, and its random start; Nguyen et
al. 2015 for pictures from noise; the ascent with steps of one length is the exercise of Stanford's course CS231n.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cnnviz_core import doctor, folding, images, probe
from cnnviz_core.errors import BadSetting, NotApplicable, checked_seed
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.layers import LayerInfo, LayerTree
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import AdversarialExample, Drift, EpsilonSearch, FloatArray, Predictions, Step, Transfer

OnStep = Callable[[Step], None]

# A PGD step is so many times the bound, shared among the steps: enough to reach the border and walk along it.
_REACH = 2.5

# The ascent's step has this length in the normalised input.
_ASCENT = 1.0

_MOST_STEPS = 10_000

# What a whole number may be off by after some steps in single precision.
_ALMOST_WHOLE = 1e-3

# Pictures of the way that are kept, evenly over the steps.
_MOST_PICTURES = 25

_TOP = 5

# Layers of a drift: fewer than that are opened into what they are made of, of more every other is left out.
_FEW_PARTS, _MOST_PARTS = 6, 48
_PASS_ON = ("Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth")


# ---- norms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Norm:
    """How the size of a difference is measured. Differences are (1, C, H, W), in 255ths.

    Attributes:
        title: On the page.
        help: What it measures, in a sentence.
        default: Bound, in 255ths.
        most: From the number of values to the largest bound that means anything.
        direction: From a gradient to a step of size 1.
        project: The nearest difference within a bound.
        draw: A random difference within a bound, uniformly: from a difference's shape, bound and generator.
        whole: A difference rounded to whole numbers within a bound.
    """

    title: str
    help: str
    default: float
    most: Callable[[int], float]
    direction: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]
    draw: Callable[[torch.Size, float, torch.Generator], Tensor]
    whole: Callable[[Tensor, float], Tensor]


def _unit_length(gradient: Tensor) -> Tensor:
    largest = gradient.abs().max()
    scaled = gradient / largest if largest > 0 else gradient  # so that squares of tiny values do not vanish
    unit: Tensor = scaled / scaled.norm().clamp_min(1e-12)
    return unit


def _shortened(difference: Tensor, epsilon: float) -> Tensor:
    length = float(difference.norm())
    return difference * (epsilon / length) if length > epsilon else difference


def _draw_in_box(shape: torch.Size, epsilon: float, generator: torch.Generator) -> Tensor:
    drawn: Tensor = 2 * torch.rand(shape, generator=generator) - 1
    return drawn * epsilon


def _draw_in_sphere(shape: torch.Size, epsilon: float, generator: torch.Generator) -> Tensor:
    direction = _unit_length(torch.randn(shape, generator=generator))
    radius: float = torch.rand((), generator=generator).item() ** (1 / shape.numel())
    return direction * (radius * epsilon)


def _whole_in_box(difference: Tensor, epsilon: float) -> Tensor:
    return difference.round().clamp(-math.floor(epsilon), math.floor(epsilon))


def _whole_in_sphere(difference: Tensor, epsilon: float) -> Tensor:
    """Each value towards zero, then away from it those with most beyond a whole number, as many as the length allows.

    The result is no longer than the difference was. Rounding each value to the nearest would lose a short difference
    altogether, and lengthen a long one.
    """
    exact = difference.detach().cpu().double()
    snapped = torch.where((exact - exact.round()).abs() < _ALMOST_WHOLE, exact.round(), exact)
    if snapped.norm() > epsilon:
        snapped = exact * min(1.0, epsilon / float(exact.norm())) * (1 - 1e-9)
    flat = snapped.flatten()
    down = flat.abs().floor()
    fraction = flat.abs() - down
    order = torch.argsort(fraction, descending=True, stable=True)
    lengthening = torch.where(fraction > 0, 2 * down + 1, torch.inf)[order]
    allowed = (down**2).sum() + lengthening.cumsum(0) <= min(epsilon**2, float((flat**2).sum()) + 1e-6)
    up = torch.zeros_like(down)
    up[order] = allowed.double()
    return ((down + up) * flat.sign()).view(difference.shape).to(difference)


NORMS: Mapping[str, Norm] = {
    "linf": Norm(
        "L∞, largest change",
        "No red, green or blue value changes by more than ε. Every pixel may change that much.",
        default=2.0,
        most=lambda _num: 255.0,
        direction=torch.sign,
        project=lambda difference, epsilon: difference.clamp(-epsilon, epsilon),
        draw=_draw_in_box,
        whole=_whole_in_box,
    ),
    "l2": Norm(
        "L2, whole length",
        "The root of the sum of all squared changes is at most ε: a few pixels change much, or all a little.",
        default=510.0,
        most=lambda num: 255.0 * math.sqrt(num),
        direction=_unit_length,
        project=_shortened,
        draw=_draw_in_sphere,
        whole=_whole_in_sphere,
    ),
}


# ---- methods ------------------------------------------------------------------------------------------------------

# What is climbed: from class scores (K,), the answer before, and the class to reach or None.
Objective = Callable[[Tensor, int, int | None], Tensor]


def _cross_entropy(scores: Tensor, source: int, target: int | None) -> Tensor:
    """Climbs as the cross-entropy of the source does, or falls as that of the target does."""
    return _behind(scores, source) if target is None else -_behind(scores, target)


def _behind(scores: Tensor, index: int) -> Tensor:
    """m_c: how far a class is behind the others."""
    others = torch.cat([scores[:index], scores[index + 1 :]])
    return torch.logsumexp(others, dim=0) - scores[index]


def _class_score(scores: Tensor, source: int, target: int | None) -> Tensor:
    return -scores[source] if target is None else scores[target]


@dataclass(frozen=True)
class Method:
    """One member of the family.

    Attributes:
        title: The paper's name.
        help: What it does, in a sentence.
        source: Paper.
        cost: In words.
        steps: Steps by default.
        most_steps: The most that it ever takes.
        objective: What is climbed.
        step_size: From the bound, the number of steps and the network to the size of a step, in 255ths.
        is_bounded: Whether it has a bound by default, and steps as its norm does; else its steps have a length.
        starts_at_random: Whether it starts anywhere within the bound by default.
        stops: Whether it stops as soon as the answer is the wanted one.
        uses: Settings that change its result, beside target and epsilon.
    """

    title: str
    help: str
    source: str
    cost: str
    steps: int
    most_steps: int
    objective: Objective
    step_size: Callable[[float, int, LoadedModel], float]
    is_bounded: bool = True
    starts_at_random: bool = False
    stops: bool = False
    uses: tuple[str, ...] = ()


def _ascent_size(_epsilon: float, _steps: int, model: LoadedModel) -> float:
    return 255 * _ASCENT * float(np.mean(model.preprocessing.std))


METHODS: Mapping[str, Method] = {
    "pgd": Method(
        "PGD",
        "Many small steps from a random start, each followed by a return to within ε. The standard measure.",
        "Madry et al. 2018",
        "a forward and a backward per step, and a forward to check",
        steps=10,
        most_steps=_MOST_STEPS,
        objective=_cross_entropy,
        step_size=lambda epsilon, steps, _model: _REACH * epsilon / max(1, steps),
        starts_at_random=True,
        uses=("norm", "steps", "seed"),
    ),
    "fgsm": Method(
        "FGSM",
        "One step of size ε along the gradient: the quickest, and the weakest.",
        "Goodfellow et al. 2015",
        "one forward and one backward, and a forward to check",
        steps=1,
        most_steps=1,
        objective=_cross_entropy,
        step_size=lambda epsilon, _steps, _model: epsilon,
        uses=("norm",),
    ),
    "fooling": Method(
        "Gradient ascent",
        "Steps of one length along the gradient of the class score until the network gives in; no bound.",
        "CS231n, after Szegedy et al. 2014",
        "a forward and a backward per step, and a forward to check",
        steps=100,
        most_steps=_MOST_STEPS,
        objective=_class_score,
        step_size=_ascent_size,
        is_bounded=False,
        stops=True,
        uses=("steps",),
    ),
}


def attack(
    model: LoadedModel,
    image: InputImage,
    *,
    method: str = "pgd",
    target: int | None = None,
    epsilon: float | None = None,
    norm: str = "linf",
    steps: int | None = None,
    step_size: float | None = None,
    random_start: bool | None = None,
    confidence: float = 0.0,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> AdversarialExample:
    """Alters a picture so that the network answers something else.

    Each step is x <- clip(project(x + a d)), with a the step's size and d the direction in which the method's objective
    grows most; ``project`` goes back to within the bound around the crop, ``clip`` to 0..1.

    Args:
        model: A network with class scores and gradients.
        image: Any picture; what is altered is the crop that the network sees.
        method: A key of :data:`METHODS`.
        target: Class to reach; None for any other than the answer before.
        epsilon: Bound on the difference, in 255ths of the way from black to white (for ``l2``, of the difference's
            length over all values). None takes the norm's default, and for gradient ascent no bound.
        norm: A key of :data:`NORMS`: what the bound is on.
        steps: How many at most; None takes the method's default. FGSM takes one. None are taken for 0: the picture
            stays as it is.
        step_size: Size of a step, in 255ths; None takes the method's own: 2.5 epsilon / steps for PGD, epsilon for
            FGSM, for gradient ascent a length of 1 in the normalised input.
        random_start: Whether to start anywhere within the bound; None: PGD does.
        confidence: Gradient ascent goes on until the target's probability is that high, too.
        seed: Of the random start.
        on_step: Called before the first and after each step, with the result so far; what it raises ends the work.

    Returns:
        The altered picture in 8 bits, within the bound exactly, with the network's answers to it and on the way.

    Raises:
        BadSetting: No such class, method or norm, or a number out of range.
        NotApplicable: The network has no class scores, or no gradient of them reaches the picture.
    """
    start = time.perf_counter()
    settings = _Settings(method, target, epsilon, norm, steps, step_size, random_start, confidence, seed).filled(model)
    trail = _Trail(model, image, settings, start)
    trail.walk(on_step)
    return trail.result()


def smallest_epsilon(
    model: LoadedModel,
    image: InputImage,
    *,
    method: str = "pgd",
    target: int | None = None,
    norm: str = "linf",
    steps: int | None = None,
    most: int = 32,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> EpsilonSearch:
    """The smallest bound, in whole 255ths, at which an attack is found to succeed.

    The bound is doubled from 1 until the attack succeeds, then halved towards the largest that failed. That would find
    the smallest if every larger bound succeeded, too, which holds only approximately: steps are longer with a larger
    bound, and starts differ.

    Args:
        model: As in :func:`attack`.
        image: As in :func:`attack`.
        method: A key of :data:`METHODS` that is bounded.
        target: As in :func:`attack`.
        norm: As in :func:`attack`.
        steps: As in :func:`attack`, for each bound.
        most: The largest bound to try.
        seed: As in :func:`attack`.
        on_step: Called after each bound with the search so far; what it raises ends the work.

    Raises:
        BadSetting: As in :func:`attack`, or a method without a bound.
        NotApplicable: As in :func:`attack`.
    """
    start = time.perf_counter()
    if method in METHODS and not METHODS[method].is_bounded:
        bounded = [name for name, one in METHODS.items() if one.is_bounded]
        raise BadSetting(f"{METHODS[method].title} has no bound to search for; choose one of {', '.join(bounded)}.")
    if most < 1:
        raise BadSetting(f"most is {most}; choose 1 or more, in 255ths.")
    settings = _Settings(method, target, float(most), norm, steps, seed=seed).filled(model)
    asked: dict[str, object] = {"method": method, "target": target, "norm": norm, "steps": settings.steps, "most": most}
    tried: dict[int, bool] = {}
    best: AdversarialExample | None = None

    def attempt(epsilon: int) -> bool:
        nonlocal best
        num_steps = settings.steps if epsilon else 0
        found = attack(
            model, image, method=method, target=target, epsilon=epsilon, norm=norm, steps=num_steps, seed=seed
        )
        tried[epsilon] = found.fools
        if best is None or found.fools or not best.fools:
            best = found
        if on_step:
            on_step(Step(len(tried), _most_trials(most), so_far(best)))
        return found.fools

    def so_far(best: AdversarialExample) -> EpsilonSearch:
        worked = [epsilon for epsilon, fooled in tried.items() if fooled]
        run = model.provenance("adversarial.smallest_epsilon", time.perf_counter() - start, image=image)
        return EpsilonSearch(
            epsilon=min(worked) if worked else None,
            epsilons=np.array(list(tried), dtype=np.int64),
            fools=np.array(list(tried.values()), dtype=np.bool_),
            best=best,
            run=replace(run, settings={**asked, "seed": seed}, seed=seed if settings.random_start else None),
        )

    low = -1
    for epsilon in _doubling(most):
        if attempt(epsilon):
            high = epsilon
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if attempt(middle) else (middle, high)
            break
        low = epsilon
    assert best is not None  # noqa: S101 - at least one bound was tried
    return so_far(best)


def _doubling(most: int) -> list[int]:
    """0, 1, 2, 4... and the largest."""
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [0, *powers, most]


def _most_trials(most: int) -> int:
    bounds = _doubling(most)
    return len(bounds) + max(math.ceil(math.log2(max(1, high - low))) for low, high in itertools.pairwise(bounds))


def from_noise(
    model: LoadedModel,
    *,
    target: int,
    steps: int = 200,
    confidence: float = 0.99,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> AdversarialExample:
    """A picture that is nothing to us and a class beyond doubt to the network: gradient ascent from random pixels.

    Args:
        model: A network with class scores and gradients.
        target: Class to reach.
        steps: How many at most.
        confidence: The ascent stops when the class is the answer with that probability.
        seed: Of the pixels.
        on_step: As in :func:`attack`.

    Raises:
        BadSetting: As in :func:`attack`.
        NotApplicable: As in :func:`attack`.
    """
    start = time.perf_counter()
    pixels = np.random.default_rng(checked_seed(seed)).integers(
        0, 256, (*model.preprocessing.input_px, 3), dtype=np.uint8
    )
    noise = images.from_pixels(pixels, name="noise")
    settings = _Settings("fooling", target, None, "linf", steps, confidence=confidence, seed=seed).filled(model)
    trail = _Trail(model, noise, settings, start, "adversarial.from_noise")
    trail.walk(on_step)
    return trail.result()


def altered_image(example: AdversarialExample) -> InputImage:
    """The altered picture, to be given to any method or network."""
    return images.from_pixels(example.altered, name=example.name)


def drift(
    model: LoadedModel,
    image: InputImage,
    *,
    altered: InputImage,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> Drift:
    """How alike all that a layer puts out is for a picture and for its altered copy, layer by layer.

    The cosine is that of the two whole outputs, every channel and place taken together: 1 where they differ by a
    factor at most. Beside it, for the same difference with its pixels strewn over the picture.

    Args:
        model: Any network; usually the one that was attacked.
        image: The picture before.
        altered: The picture afterwards.
        layers: Dotted names; None takes the network's parts, from its first layer to its last.
        seed: Of the strewing.

    Raises:
        UnknownLayer: No layer of that name.
    """
    start = time.perf_counter()
    names = _parts(model.layers) if layers is None else [model.layers[name].name for name in layers]
    one, other = (model.preprocessing.crop(picture) for picture in (image, altered))
    shuffled = _strewn(one, other, np.random.default_rng(checked_seed(seed)))
    three = model.preprocessing.normalise([one, other, shuffled]).to(model.device)
    with torch.no_grad():
        outputs = probe.record(model.net, three, names).outputs
    cosines = np.array([_cosines(outputs[name][-1]) for name in names], dtype=np.float32).reshape(-1, 2)
    run = model.provenance("adversarial.drift", time.perf_counter() - start, image=image)
    return Drift(
        layers=tuple(names),
        cosines=cosines[:, 0],
        shuffled=cosines[:, 1],
        run=replace(run, settings={"altered": altered.name, "layers": names, "seed": seed}, seed=seed),
    )


def _strewn(one: Pixels, other: Pixels, draw: np.random.Generator) -> Pixels:
    """The first picture with the difference to the other laid over it pixel by pixel in random order."""
    difference = (other.astype(np.int16) - one).reshape(-1, one.shape[2])
    shuffled = draw.permutation(difference).reshape(one.shape)
    pixels: Pixels = np.clip(one + shuffled, 0, 255).astype(np.uint8)
    return pixels


def _cosines(outputs: Tensor) -> list[float]:
    """Of the first picture's output with each of the others'."""
    flat = outputs.flatten(1).cpu().double()
    return torch.nn.functional.cosine_similarity(flat[:1], flat[1:], dim=1).tolist()


def _parts(layers: LayerTree) -> list[str]:
    """Names of what a network consists of, in order: its children, sequences opened; more where that is little."""
    known = [info for info in layers if info.kind not in _PASS_ON]
    names = {info.name for info in known}
    inside: dict[str, list[LayerInfo]] = {}
    for info in known:
        above = info.name.rpartition(".")[0]
        while above and above not in names:
            above = above.rpartition(".")[0]
        inside.setdefault(above, []).append(info)

    def opened(parts: Sequence[LayerInfo], *, only_sequences: bool) -> list[LayerInfo]:
        found: list[LayerInfo] = []
        for info in parts:
            is_opened = info.name in inside and (info.kind == "Sequential" or not only_sequences)
            found.extend(opened(inside[info.name], only_sequences=True) if is_opened else [info])
        return found

    parts = opened(inside.get("", []), only_sequences=True)
    while len(parts) < _FEW_PARTS and any(info.name in inside for info in parts):
        parts = opened(parts, only_sequences=False)
    return [parts[at].name for at in _spread(len(parts), _MOST_PARTS)]


def transfer(
    model: LoadedModel, image: InputImage, *, altered: InputImage, target_label: str = "", k: int = _TOP
) -> Transfer:
    """What another network makes of a picture and of its altered copy.

    Both go through that network's own preprocessing, as any picture file does.

    Args:
        model: Another network with class scores.
        image: What the attacked network saw before.
        altered: What it saw afterwards.
        target_label: Name of the class that the attack wanted; the other network may number it differently.
        k: How many answers.

    Raises:
        NotApplicable: The network has no class scores.
    """
    start = time.perf_counter()
    doctor.require(model, "predictions")
    before, after = (model.predict(picture, k=model.num_classes) for picture in (image, altered))
    target = model.class_names.index(target_label) if target_label in model.class_names else None
    run = model.provenance("adversarial.transfer", time.perf_counter() - start, image=image)
    settings = {"altered": altered.name, "target_label": target_label, "k": k}
    return Transfer(
        model_title=model.spec.title,
        before=_first(before, k),
        after=_first(after, k),
        target_before=None if target is None else before.probabilities[before.indices.index(target)],
        target_after=None if target is None else after.probabilities[after.indices.index(target)],
        is_resized=(image.height, image.width) != model.preprocessing.input_px,
        run=replace(run, settings=settings),
    )


def estimate_seconds(model: LoadedModel, image: InputImage) -> float:
    """How long one step of an attack takes, from the time of one.

    Raises:
        NotApplicable: As in :func:`attack`.
    """
    attack(model, image, method="fgsm")  # the first of its size prepares
    start = time.perf_counter()
    attack(model, image, method="fgsm")
    return time.perf_counter() - start


# ---- the way ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    """What is asked."""

    method: str
    target: int | None
    epsilon: float | None
    norm: str
    steps: int | None = None
    step_size: float | None = None
    random_start: bool | None = None
    confidence: float = 0.0
    seed: int = 0

    def filled(self, model: LoadedModel) -> _Filled:
        """Checked, with defaults filled in."""
        doctor.require(model, "adversarial")
        model.check_class(self.target)
        method, norm = _entry("method", METHODS, self.method), _entry("norm", NORMS, self.norm)
        epsilon = norm.default if self.epsilon is None and method.is_bounded else self.epsilon
        most = norm.most(model.preprocessing.num_channels * math.prod(model.preprocessing.input_px))
        if epsilon is not None and not 0 <= epsilon <= most:
            raise BadSetting(f"epsilon is {epsilon}, in 255ths; choose 0 to {most:.0f}.")
        if self.steps is not None and not 0 <= self.steps <= _MOST_STEPS:
            raise BadSetting(f"steps is {self.steps}; choose 0, for the picture as it is, to {_MOST_STEPS:,}.")
        steps = min(method.steps if self.steps is None else self.steps, method.most_steps)
        size = method.step_size(epsilon or 0.0, steps, model) if self.step_size is None else self.step_size
        if not 0 <= size < math.inf:
            raise BadSetting(f"step_size is {self.step_size}, in 255ths; choose a number from 0 up.")
        if not 0 <= self.confidence <= 1:
            raise BadSetting(f"confidence is {self.confidence}; choose a probability, 0 to 1.")
        at_random = method.starts_at_random if self.random_start is None else self.random_start
        return _Filled(self.method, self.target, epsilon, self.norm, steps, size, at_random, self.confidence, self.seed)


@dataclass(frozen=True)
class _Filled:
    """Arguments of :func:`attack` that make the same result, whatever the defaults become."""

    method: str
    target: int | None
    epsilon: float | None
    norm: str
    steps: int
    step_size: float
    random_start: bool
    confidence: float
    seed: int


Entry = TypeVar("Entry")


def _entry(what: str, table: Mapping[str, Entry], name: str) -> Entry:
    if name not in table:
        raise BadSetting(f"{what} is {name!r}; choose one of {', '.join(table)}.")
    return table[name]


@dataclass
class _Trail:
    """The way from the picture to the altered one; differences are (1, C, H, W), in 255ths."""

    model: LoadedModel
    image: InputImage
    settings: _Filled
    start: float
    called: str = "adversarial.attack"

    def __post_init__(self) -> None:
        self.name = f"{PurePath(self.image.name).stem}-altered.png"
        self.method, self.norm = METHODS[self.settings.method], NORMS[self.settings.norm]
        self.original = self.model.preprocessing.crop(self.image)
        channels = self.original[..., : self.model.preprocessing.num_channels].copy()
        self.x = torch.from_numpy(channels).movedim(-1, 0)[None].to(self.model.device, torch.float32)
        self.difference = torch.zeros_like(self.x)
        self.kept = set(_spread(self.settings.steps + 1, _MOST_PICTURES))
        self.probabilities: list[FloatArray] = []
        self.pictures: dict[int, Pixels] = {}
        self.before = self.after = self._note()
        self.source = self.before.indices[0]

    def walk(self, on_step: OnStep | None) -> None:
        """Takes the steps."""
        total, epsilon = self.settings.steps, self.settings.epsilon
        self._report(on_step)
        if self._is_done():
            return
        if total and self.settings.random_start and epsilon is not None:
            drawn = self.norm.draw(self.x.shape, epsilon, torch.Generator().manual_seed(self.settings.seed))
            self._move(drawn.to(self.x))
        direction = self.norm.direction if self.method.is_bounded else _unit_length
        for _ in range(total):
            self._move(self.difference + self.settings.step_size * direction(self._gradient()))
            self.after = self._note()
            self._report(on_step)
            if self._is_done():
                return

    def result(self) -> AdversarialExample:
        """What is there so far; it does not change as the way goes on."""
        last = self.pictures[max(self.pictures)]
        channels = self.model.preprocessing.num_channels
        delta = (last.astype(np.float32) - self.original)[..., :channels].transpose(2, 0, 1) / np.float32(255)
        target = self.settings.target
        # As many steps as were taken: they make this result again, also where the way was broken off.
        asked = {**asdict(self.settings), "steps": len(self.probabilities) - 1}
        is_drawn = self.called == "adversarial.from_noise"
        if is_drawn:
            asked = {name: asked[name] for name in ("target", "steps", "confidence", "seed")}
        seconds = time.perf_counter() - self.start
        run = self.model.provenance(self.called, seconds, image=None if is_drawn else self.image)
        seed = self.settings.seed if is_drawn or self.settings.random_start else None
        return AdversarialExample(
            original=self.original,
            altered=last,
            delta=np.ascontiguousarray(delta),
            source=self.source,
            source_label=self.model.class_names[self.source],
            target=target,
            target_label="" if target is None else self.model.class_names[target],
            before=self.before,
            after=self.after,
            probabilities=np.stack(self.probabilities),
            pictures=np.stack([self.pictures[step] for step in sorted(self.pictures)]),
            picture_steps=np.array(sorted(self.pictures), dtype=np.int64),
            method=self.settings.method,
            norm=self.settings.norm,
            epsilon=self.settings.epsilon,
            name=self.name,
            run=replace(run, settings=asked, seed=seed),
        )

    def _move(self, difference: Tensor) -> None:
        """To a difference, or the nearest that is within the bound and leaves a picture."""
        if self.settings.epsilon is not None:
            difference = self.norm.project(difference, self.settings.epsilon)
        self.difference = (self.x + difference).clamp(0, 255) - self.x

    @torch.no_grad()
    def _note(self) -> Predictions:
        """Rounds the picture to 8 bits, keeps it, and has the network answer it."""
        step = len(self.probabilities)
        if step - 1 not in self.kept:
            self.pictures.pop(step - 1, None)
        self.pictures[step] = self._rounded()
        result = self.model.net(self.model.to_input(images.from_pixels(self.pictures[step], name=self.name)))
        self.probabilities.append(self.model.probabilities(self.model.scores(result))[0].float().cpu().numpy())
        return self.model.predictions(result, _TOP)

    def _rounded(self) -> Pixels:
        """(H, W, 3), within the bound."""
        epsilon = self.settings.epsilon
        whole = self.difference.round() if epsilon is None else self.norm.whole(self.difference, epsilon)
        values = (self.x + whole)[0].movedim(0, -1).round().to(torch.uint8).cpu().numpy()
        return np.ascontiguousarray(np.broadcast_to(values, self.original.shape))

    def _gradient(self) -> Tensor:
        """Of what is climbed, by the picture as it is before it is rounded.

        Raises:
            NotApplicable: There is none.
        """
        mean, std = (
            self.x.new_tensor(values).view(-1, 1, 1)
            for values in (self.model.preprocessing.mean, self.model.preprocessing.std)
        )
        with torch.inference_mode(mode=False), torch.enable_grad():
            x = (self.x + self.difference).requires_grad_()
            scores = self.model.scores(self._net((x / 255 - mean) / std))[0]
            climbed = self.method.objective(scores, self.source, self.settings.target)
            (gradient,) = torch.autograd.grad(climbed, x, allow_unused=True) if climbed.requires_grad else (None,)
        is_first = len(self.probabilities) == 1
        if gradient is None or not gradient.isfinite().all() or (is_first and not gradient.any()):
            raise NotApplicable(
                f"No gradient of {self.model.spec.title}’s class scores reaches this picture, so nothing says how to "
                "alter it. Try another picture, or look at Occlusion, which needs no gradient."
            )
        return gradient

    @cached_property
    def _net(self) -> nn.Module:
        """What gives the scores in the least time."""
        return folding.fast_copy(self.model.net, self.x).net if self.model.is_static else self.model.net

    def _is_done(self) -> bool:
        if not self.method.stops:
            return False
        answer, target = self.after.indices[0], self.settings.target
        if target is None:
            return answer != self.source
        return answer == target and self.after.probabilities[0] >= self.settings.confidence

    def _report(self, on_step: OnStep | None) -> None:
        if on_step:
            on_step(Step(len(self.probabilities) - 1, self.settings.steps, self.result()))


def _spread(num: int, most: int) -> list[int]:
    """At most so many of the numbers below ``num``, evenly, the first and the last among them."""
    return list(dict.fromkeys(np.linspace(0, num - 1, min(num, most)).round().astype(int).tolist()))


def _first(answers: Predictions, k: int) -> Predictions:
    return Predictions(*(values[:k] for values in astuple(answers)))
