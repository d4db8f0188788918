"""Gradient ascent on a batch of pictures, in one graph that ends at the layer, on a folded copy with frozen weights.

Every picture has its own draws and its own objective, and Adam works number by number; so a picture is the same, up to
rounding, whether it is made alone or among others. Only pictures of one family, which are asked to differ, see each
other.

Source: Olah, Mordvintsev and Schubert, Feature Visualization (2017); the simple way is that of Simonyan, Vedaldi and
Zisserman (2014) with the blur and jitter of Yosinski et al. (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import folding, objectives, probe, robustness
from cnnviz_core.errors import BadSetting, CnnvizError, NotApplicable
from cnnviz_core.models import LoadedModel
from cnnviz_core.objectives import Objective
from cnnviz_core.parametrization import Parametrization
from cnnviz_core.results import FloatArray
from cnnviz_core.robustness import Views

# Steps in which a picture that excites nothing is helped, and for as long after as it was helped in every one.
REDIRECTED_STEPS = 16

_BETAS, _TINY = (0.9, 0.999), 1e-8
_SHARE_OF_FULL_ALPHA = 0.8
_MAX_SIDE_PX = 1024


@dataclass(frozen=True)
class Sight:
    """From pictures to what a layer puts out: the network's beginning, for pictures of one size.

    Attributes:
        model: The network.
        layer: Dotted name; empty for the class scores.
        input_px: (H, W) at which the network sees the pictures: their own size, or its usual one where it takes no
            other.
    """

    model: LoadedModel
    layer: str
    input_px: tuple[int, int]
    _beginning: folding.Beginning

    @classmethod
    def of(cls, model: LoadedModel, layer: str, size_px: int) -> Sight:
        """The layer as pictures of ``size_px`` lead to it.

        Args:
            model: Any network.
            layer: Dotted name; empty for the class scores.
            size_px: Side of the pictures.

        Raises:
            BadSetting: An impossible size.
            NotApplicable: The layer puts out neither maps nor vectors of the pictures, or not one for each.
            UnknownLayer: No such layer.
        """
        if not 16 <= size_px <= _MAX_SIDE_PX:
            raise BadSetting(f"size_px is {size_px}; give a side between 16 and {_MAX_SIDE_PX} pixels.")
        reason = ""
        for input_px in dict.fromkeys([(size_px, size_px), model.preprocessing.input_px]):
            two = torch.full((2, model.preprocessing.num_channels, *input_px), 0.5, device=model.device)
            try:
                sight = cls.at(model, layer, input_px)
                with torch.no_grad():
                    seen = sight(two)
            except (torch.OutOfMemoryError, CnnvizError):
                raise
            except Exception as error:  # a network that takes one size only can raise anything
                reason = f" ({(str(error).splitlines() or [type(error).__name__])[0]})"
                continue
            if len(seen) == len(two):
                return sight
        raise NotApplicable(
            f"{layer or 'The class score'} of {model.spec.title} cannot be computed for several pictures at once"
            f"{reason}; choose another layer."
        )

    @classmethod
    def at(cls, model: LoadedModel, layer: str, input_px: tuple[int, int]) -> Sight:
        """The layer as the network sees pictures at exactly that size, which it must take; arguments as for :meth:`of`.

        Raises:
            UnknownLayer: No such layer.
        """
        num_calls = model.layers[layer].num_calls if layer else 1
        if not model.is_static:  # a copy that was checked on some pictures may fail on others
            return cls(model, layer, input_px, folding.Beginning(model.net, layer, num_calls))
        x = torch.zeros((1, model.preprocessing.num_channels, *input_px), device=model.device)
        return cls(model, layer, input_px, folding.up_to(model.net, layer, x, num_calls=num_calls))

    def __call__(self, pixels: Tensor, maps: Tensor | None = None) -> Tensor:
        """What the layer puts out, (n, C, h, w) or (n, C), for pictures (n, C, H, W), values 0..1.

        Args:
            pixels: The pictures.
            maps: Affine maps of a view, (n, 2, 3); None to look straight at them.
        """
        mean, std = self.normalisation()
        found = self._beginning((robustness.view(pixels, maps, self.input_px) - mean) / std)
        if not self.layer:
            return self.model.scores(found)
        return found.movedim(self.model.layers[self.layer].channel_dim, 1)

    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the input, (C, 1, 1) each: x = (pixels - mean) / std."""
        fit, device = self.model.preprocessing, self.model.device
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (fit.mean, fit.std))
        return mean, std

    @torch.no_grad()
    def cells(self) -> tuple[int, int] | None:
        """(h, w) of the layer's map; None where it puts out a vector."""
        seen = self(torch.full((1, self.model.preprocessing.num_channels, *self.input_px), 0.5).to(self.model.device))
        return (seen.shape[2], seen.shape[3]) if seen.ndim == 4 else None


@dataclass(frozen=True)
class Recipe:
    """How pictures go up.

    Attributes:
        parametrization: What is stepped in.
        views: Random views at each step; None looks straight at the pictures.
        learning_rate: Of Adam, in the parametrization's own numbers.
        redirected_steps: First steps in which a picture that gets no gradient is let past the ReLUs; one that needed it
            in all of them goes on to be helped until it does not. 0 helps none.
        diversity: Weight of the likeness within a family, to be lowered.
    """

    parametrization: Parametrization
    views: Views | None = field(default_factory=Views)
    learning_rate: float = 0.1
    redirected_steps: int = REDIRECTED_STEPS
    diversity: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Pictures on their way, or at its end; all arrays raw, one entry per picture.

    Attributes:
        images: (n, H, W, 3) float32, 0..1; a grey network's are grey.
        alphas: (n, H, W) 0..1, how much the objective ever depended on each pixel: the sum over the steps of the
            gradient's magnitude, as a share of its 80th percentile.
        scores: (n,) the objective of the picture itself, seen straight; in the objective's unit.
        start_scores: (n,) that of the picture it began as.
        peaks: (n,) largest value over places of what grew: the objective at its strongest place, in the layer's unit.
        history: (steps done, n) the objective of the view that each step went up from.
    """

    images: FloatArray
    alphas: FloatArray
    scores: FloatArray
    start_scores: FloatArray
    peaks: FloatArray
    history: FloatArray


# Called with the steps done and a function that gives the pictures as they are; what it raises ends the work.
OnProgress = Callable[[int, Callable[[], Batch]], None]


class Adam:
    """Adam, going up; every number by itself.

    Args:
        learning_rate: Length of a step in a steady gradient.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0
        self._steps = 0

    @torch.no_grad()
    def step(self, numbers: Tensor, gradient: Tensor) -> None:
        """Moves the numbers along the gradient, in place."""
        first, second = _BETAS
        self._steps += 1
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient.square()
        size = (self._square / (1 - second**self._steps)).sqrt() + _TINY
        numbers += self.learning_rate * (self._mean / (1 - first**self._steps)) / size


def ascend(
    sight: Sight,
    aims: Sequence[Objective],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    steps: int,
    families: Sequence[int] | None = None,
    start: Tensor | None = None,
    on_step: OnProgress | None = None,
) -> Batch:
    """Raises each picture's objective by Adam.

    Args:
        sight: The network's beginning.
        aims: One objective per picture.
        recipe: How.
        seeds: One per picture: of the noise it starts from and of its views.
        steps: How many; 0 gives the pictures as they start.
        families: For each picture the number of its family, within which ``recipe.diversity`` counts; None for
            pictures of their own.
        start: Pictures to start from, (n, C, H, W), values 0..1; None starts from noise.
        on_step: Called before the first step and after each.

    Returns:
        The pictures.

    Raises:
        BadSetting: A negative number of steps.
    """
    _check(steps)
    numbers = recipe.parametrization.draw(seeds) if start is None else recipe.parametrization.numbers(start)
    numbers = numbers.to(sight.model.device)
    maps = recipe.views.draw(seeds, steps).to(numbers.device) if recipe.views else None
    adam = Adam(recipe.learning_rate)
    climb = _Climb(sight, aims, steps, lambda: recipe.parametrization.pixels(numbers), on_step)
    slope = _Slope(sight, recipe, families)
    needs_help = torch.full((len(aims),), fill_value=bool(recipe.redirected_steps), device=numbers.device)
    for step in climb.steps_to_do():
        view = None if maps is None else maps[step]
        values, gradient, on_pixels = slope(numbers, aims, view)
        # Most pictures never need help, so the dearer way is gone only with those that do.
        is_dead = ~gradient.flatten(1).any(dim=1)
        needs_help &= is_dead
        to_help = torch.nonzero(is_dead if step < recipe.redirected_steps else needs_help).flatten().tolist()
        if to_help:
            some = None if view is None else view[to_help]
            with probe.redirected_relu():
                _, gradient[to_help], on_pixels[to_help] = slope(numbers[to_help], [aims[i] for i in to_help], some)
        adam.step(numbers, gradient)
        climb.note(values, on_pixels)
    return climb.as_is()


@dataclass(frozen=True)
class _Slope:
    """Objectives and where they grow."""

    sight: Sight
    recipe: Recipe
    families: Sequence[int] | None

    @torch.enable_grad()
    def __call__(
        self, numbers: Tensor, aims: Sequence[Objective], view: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Objectives (n,) of a view, their gradient on the numbers and on the pictures."""
        leaf = numbers.detach().requires_grad_()
        pixels = self.recipe.parametrization.pixels(leaf)
        seen = self.sight(pixels, view)
        values = _values(aims, seen)
        goal = values.sum()
        if self.recipe.diversity and self.families is not None and len(aims) == len(self.families):
            goal = goal - self.recipe.diversity * _likeness(seen, self.families)
        gradient, on_pixels = torch.autograd.grad(goal, [leaf, pixels])
        return values.detach(), gradient, on_pixels


@dataclass(frozen=True)
class SimpleRecipe:
    """The textbook's way: plain pixels of the normalised input, with what keeps them smooth and small.

    Attributes:
        learning_rate: A step's length: the root mean square of what is added, in units of the normalised input.
        l2: Weight of the sum of squares of the normalised input, which is to stay small.
        blur_every: Steps from one blur to the next; 0 never blurs.
        blur_px: Standard deviation of the blur.
        jitter_px: Largest shift of the picture before a step, undone after it; what leaves on one side enters on the
            other.
    """

    learning_rate: float = 0.03
    l2: float = 1e-3
    blur_every: int = 10
    blur_px: float = 0.5
    jitter_px: int = 16


def ascend_simply(
    sight: Sight,
    aims: Sequence[Objective],
    recipe: SimpleRecipe,
    *,
    seeds: Sequence[int],
    steps: int,
    size_px: int,
    start: Tensor | None = None,
    on_step: OnProgress | None = None,
) -> Batch:
    """Raises each picture's objective f less ``l2`` times its sum of squares, by plain gradient steps on its pixels.

    x <- x + learning_rate * d / rms(d) with d = df/dx - 2 l2 x, on the normalised input x, which is clamped to the
    range of pictures. The exercise adds a fixed multiple of d, 25; but which multiple climbs differs by a hundred from
    network to network, so here the length of the step is fixed.

    Args:
        sight: As in :func:`ascend`; so are the other arguments.
        aims: One objective per picture.
        recipe: How.
        seeds: One per picture: of the noise it starts from and of its shifts.
        steps: How many.
        size_px: Side of the pictures.
        start: Pictures to start from; None starts from faint noise around mid grey.
        on_step: As in :func:`ascend`.

    Source: Simonyan, Vedaldi and Zisserman 2014, section 2; jitter, blur and clamping as in CS231n's exercise.
    """
    _check(steps)
    if start is None:
        num_channels = sight.model.preprocessing.num_channels
        noise = Parametrization((size_px, size_px), num_channels, fourier=False, decorrelated=False)
        start = noise.pixels(noise.draw(seeds))
    mean, std = sight.normalisation()
    x = (start.to(sight.model.device) - mean) / std
    generators = [torch.Generator().manual_seed(seed + 2**62) for seed in seeds]
    climb = _Climb(sight, aims, steps, lambda: x * std + mean, on_step)
    for step in climb.steps_to_do():
        shifts = [_shift(generator, recipe.jitter_px) for generator in generators]
        with torch.enable_grad():
            leaf = _rolled(x, shifts).requires_grad_()
            values = _values(aims, sight(leaf * std + mean))
        (gradient,) = torch.autograd.grad(values.sum(), [leaf])
        gradient = _rolled(gradient, [(-down, -across) for down, across in shifts])
        way = gradient - 2 * recipe.l2 * x
        length = way.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(way.dtype).tiny)
        x = x + recipe.learning_rate * way / length
        x = torch.minimum(torch.maximum(x, -mean / std), (1 - mean) / std)
        if recipe.blur_every and (step + 1) % recipe.blur_every == 0:
            x = _blurred(x, recipe.blur_px)
        climb.note(values, gradient)
    return climb.as_is()


def _check(steps: int) -> None:
    if steps < 0:
        raise BadSetting(f"steps is {steps}; give 0 or more.")


def _shift(generator: torch.Generator, most: int) -> tuple[int, int]:
    down, across = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    return down, across


def _rolled(x: Tensor, shifts: Sequence[tuple[int, int]]) -> Tensor:
    return torch.stack([torch.roll(one, shift, dims=(1, 2)) for one, shift in zip(x.detach(), shifts, strict=True)])


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = int(4 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = weights / weights.sum()
    planes = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    across = F.conv2d(planes, weights.view(1, 1, 1, -1))
    return F.conv2d(across, weights.view(1, 1, -1, 1)).view_as(x)


@dataclass
class _Climb:
    """What is noted on the way up."""

    sight: Sight
    aims: Sequence[Objective]
    steps: int
    pixels: Callable[[], Tensor]
    on_step: OnProgress | None
    history: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        pixels = self.pixels()
        self.influence = torch.zeros_like(pixels[:, 0])
        self.start_scores = self._reached(pixels)[0]

    def steps_to_do(self) -> Iterator[int]:
        """Tells of the start, then of each step that was done."""
        for step in range(self.steps):
            self._tell()
            yield step
        self._tell()

    def note(self, values: Tensor, on_pixels: Tensor) -> None:
        """Takes what a step went up from, (n,), and its gradient on the pictures, (n, C, H, W)."""
        self.history.append(values.detach())
        self.influence += on_pixels.abs().mean(dim=1)

    def _tell(self) -> None:
        if self.on_step:
            self.on_step(len(self.history), self.as_is)

    @torch.no_grad()
    def _reached(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.sight(pixels)
        return _values(self.aims, seen), torch.stack([aim.peak(z) for aim, z in zip(self.aims, seen, strict=True)])

    def as_is(self) -> Batch:
        """The pictures as they are now."""
        pixels = self.pixels()
        scores, peaks = self._reached(pixels)
        past = torch.stack(self.history) if self.history else scores.new_empty((0, len(self.aims)))
        return Batch(
            images=_images(pixels),
            alphas=_alphas(self.influence),
            scores=_raw(scores),
            start_scores=_raw(self.start_scores),
            peaks=_raw(peaks),
            history=_raw(past),
        )


def _values(aims: Sequence[Objective], seen: Tensor) -> Tensor:
    return torch.stack([aim(z) for aim, z in zip(aims, seen, strict=True)])


def _likeness(seen: Tensor, families: Sequence[int]) -> Tensor:
    """Over all families of maps; vectors have no texture."""
    if seen.ndim != 4:
        return seen.new_zeros(())
    of = torch.tensor(list(families), device=seen.device)
    return torch.stack([objectives.likeness(seen[of == family]) for family in of.unique()]).sum()


def _images(pixels: Tensor) -> FloatArray:
    colour = pixels.detach().expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels.detach()
    return _raw(colour.permute(0, 2, 3, 1))


def _alphas(influence: Tensor) -> FloatArray:
    full = torch.quantile(influence.flatten(1), _SHARE_OF_FULL_ALPHA, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return _raw((influence / full[:, None, None]).clamp(0, 1))


def _raw(values: Tensor) -> FloatArray:
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)
