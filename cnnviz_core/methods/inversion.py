"""Feature inversion: the photo rebuilt from what a layer knows of it, so that one sees what each depth still holds.

The network looks at the photo once; what a layer Phi puts out is kept as Phi_0. Then, from faint noise, a picture x is
changed until the layer puts out the same for it: the relative loss |Phi(x) - Phi_0|^2 / |Phi_0|^2 goes down. What comes
back is what the layer cannot do without; what it ignores, the rebuilding is free to fill in. Early layers give the
photo back; later ones keep shapes and parts while colours and exact places go; the last say only what is there.

The picture is described by its spectrum, scaled as in photos, and along the axes of photos' colours, so that free
choices fall on smooth and greyish pictures rather than on noise. That is the only assumption made, unless the total
variation is held down, too. Brightness comes first and strong colours last, so pale pictures may only need more steps.

When it misleads: the picture is one of many that the layer cannot tell apart, found by one way of searching; another
seed gives another. Detail that is missing may be lost to the network, or to too few steps: look whether the loss still
falls. A small loss does not mean that the picture looks like the photo to anybody else, and the network's answer to it
may differ, since later layers may mind what this one's loss passes over.

Source: Mahendran and Vedaldi, Understanding Deep Image Representations by Inverting Them (2015). They step on pixels
with momentum and hold down the norm of the picture, which the spectrum makes unnecessary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cnnviz_core import features, images, probe
from cnnviz_core.ascent import Adam, Sight
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.models import LoadedModel
from cnnviz_core.parametrization import Parametrization
from cnnviz_core.results import FloatArray, Inversion, Predictions, Run, Step

MAX_STEPS, MAX_LAYERS = 4096, 12

# Steps of Adam grow shorter over this share of them at the end, to come to rest.
_SETTLING = 0.5

_PARTIAL_SECONDS = 0.5
_MIN_PX, _MAX_PX = 16, 1024


@dataclass(frozen=True)
class _Rebuilt:
    """One layer's picture on its way.

    Attributes:
        layer: Dotted name.
        picture: (H, W, 3) values 0..1.
        error: The relative loss of that picture.
        losses: The loss before each step.
        answer: What the network answers to it; None while it is on its way, and without a classifier.
    """

    layer: str
    picture: FloatArray
    error: float
    losses: tuple[float, ...]
    answer: Predictions | None = None


def invert(
    model: LoadedModel,
    image: InputImage,
    *,
    layers: str | Sequence[str] | None = None,
    steps: int = 256,
    size_px: int | None = None,
    variation: float = 0.0,
    fourier: bool = True,
    learning_rate: float = 0.08,
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
) -> Inversion:
    """The photo as each of several layers knows it.

    Goes down |Phi(x) - Phi_0|^2 / |Phi_0|^2 + variation * V(x), with V the mean over pixels of the squared differences
    to the neighbours below and on the right.

    Args:
        model: Any network.
        image: Any picture; what is rebuilt is the crop that the network sees.
        layers: Dotted names of layers that put out maps or vectors; None takes the end of each stage.
        steps: Steps of Adam for each layer.
        size_px: Longer side at which the network sees the crop; None takes its own size. A network that takes no other
            size gets its own.
        variation: Weight of the total variation, in the loss's own unit; 0 leaves it out.
        fourier: Step in the spectrum rather than in pixels.
        learning_rate: Of Adam, shrinking over the second half of the steps.
        seed: Of the noise to start from, the same for every layer.
        on_step: Called before the first step and after each one with the steps of all layers done, their number in
            all, and the result so far: the layers begun; what it raises ends the work.

    Returns:
        One picture for each layer, how far its features are from the photo's, and what the network answers to it.

    Raises:
        BadSetting: A number out of range, or too many layers.
        UnknownLayer: No layer of that name.
        NotApplicable: A layer is zero for this picture, or puts out neither maps nor vectors.

    Source: Mahendran and Vedaldi 2015, equation 1, and section 3.1 with beta = 2.
    """
    start = time.perf_counter()
    names = features.stage_layers(model) if layers is None else features.layer_names(model, layers)
    settings = {
        "layers": names,
        "steps": steps,
        "size_px": size_px,
        "variation": variation,
        "fourier": fourier,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    _check(names, steps, size_px, variation, learning_rate)
    targets, shape = _targets(model, image, names, size_px)
    original = _crop(model, image, shape)
    original_answer = _answer(model, original)
    done: list[_Rebuilt] = []
    shown_at, shown = -math.inf, None

    def result(begun: Sequence[_Rebuilt]) -> Inversion:
        run = model.provenance("inversion.invert", time.perf_counter() - start, image=image, seed=seed)
        return _result(original, original_answer, begun, steps, replace(run, settings=settings))

    def tell(losses: Sequence[float], as_is: Callable[[], _Rebuilt]) -> None:
        nonlocal shown_at, shown
        if on_step is None:
            return
        if time.perf_counter() - shown_at > _PARTIAL_SECONDS:
            shown = result([*done, as_is()])
            shown_at = time.perf_counter()
        on_step(Step(len(done) * steps + len(losses), len(names) * steps, shown))

    for name in names:
        search = _Search(
            Sight.at(model, name, shape),
            targets[name],
            Parametrization(shape, model.preprocessing.num_channels, fourier, decorrelated=fourier),
            variation,
        )
        rebuilt = search.run(steps, learning_rate, seed, tell)
        done.append(replace(rebuilt, answer=_answer(model, np.rint(rebuilt.picture * 255).astype(np.uint8))))
    return result(done)


@dataclass(frozen=True)
class _Search:
    """What one layer's picture is to be."""

    sight: Sight
    target: Tensor
    parametrization: Parametrization
    variation: float

    def run(
        self, steps: int, learning_rate: float, seed: int, tell: Callable[[list[float], Callable[[], _Rebuilt]], None]
    ) -> _Rebuilt:
        """The picture after so many steps, telling of each."""
        numbers = self.parametrization.draw([seed]).to(self.target.device)
        adam, losses = Adam(learning_rate), list[float]()

        @torch.no_grad()
        def as_is() -> _Rebuilt:
            pixels = self.parametrization.pixels(numbers)
            picture = pixels[0].permute(1, 2, 0).expand(-1, -1, 3).cpu().numpy()
            return _Rebuilt(self.sight.layer, np.ascontiguousarray(picture), float(self.error(pixels)), tuple(losses))

        for step in range(steps):
            tell(losses, as_is)
            left = (steps - step) / (_SETTLING * steps)
            adam.learning_rate = learning_rate * min(1.0, left)
            with torch.enable_grad():
                leaf = numbers.detach().requires_grad_()
                pixels = self.parametrization.pixels(leaf)
                loss = self.error(pixels) + self.variation * _total_variation(pixels)
            (gradient,) = torch.autograd.grad(loss, [leaf])
            adam.step(numbers, -gradient)
            losses.append(float(loss.detach()))
        tell(losses, as_is)
        return as_is()

    def error(self, pixels: Tensor) -> Tensor:
        """|Phi(x) - Phi_0|^2 / |Phi_0|^2."""
        return (self.sight(pixels) - self.target).square().sum() / self.target.square().sum()


def _total_variation(pixels: Tensor) -> Tensor:
    """Mean over pixels of the squared differences to the neighbours below and on the right."""
    down, across = pixels.diff(dim=-2).square().sum(), pixels.diff(dim=-1).square().sum()
    return (down + across) / (pixels.shape[-2] * pixels.shape[-1])


@torch.no_grad()
def _targets(
    model: LoadedModel, image: InputImage, names: Sequence[str], size_px: int | None
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """What each layer puts out for the photo, and the (H, W) at which the network saw it."""
    infos = [model.layers[name] for name in names]
    stop_after = {info.name: info.num_calls for info in infos}
    own = model.preprocessing.input_px
    for shape in dict.fromkeys([_wanted_px(model, size_px), own]):
        x = model.preprocessing.normalise(_crop(model, image, shape)[None]).to(model.device)
        try:
            outputs = probe.record(model.net, x, stop_after, stop_after=stop_after).outputs
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a network that takes one size only can raise anything
            if shape == own:
                raise
            continue
        break
    found = {info.name: outputs[info.name][-1].movedim(info.channel_dim, 1) for info in infos}
    for name, target in found.items():
        if not 0 < float(target.square().sum()) < math.inf:
            raise NotApplicable(
                f"Layer {name} is zero for {image.name}, or not finite, so there is nothing to rebuild from; choose "
                "another layer."
            )
    return found, shape


def _wanted_px(model: LoadedModel, size_px: int | None) -> tuple[int, int]:
    height, width = model.preprocessing.input_px
    scale = 1.0 if size_px is None else size_px / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _crop(model: LoadedModel, image: InputImage, shape: tuple[int, int]) -> Pixels:
    """What the network sees, (H, W, 3), at that size."""
    return replace(model.preprocessing, input_px=shape).crop(image)


def _check(names: Sequence[str], steps: int, size_px: int | None, variation: float, learning_rate: float) -> None:
    if len(names) > MAX_LAYERS:
        raise BadSetting(f"{len(names)} layers were chosen; choose up to {MAX_LAYERS}.")
    size = _MIN_PX if size_px is None else size_px
    for name, value, low, high in (
        ("steps", steps, 0, MAX_STEPS),
        ("size_px", size, _MIN_PX, _MAX_PX),
        ("variation", variation, 0, 1e6),
        ("learning_rate", learning_rate, 1e-6, 10),
    ):
        if not low <= value <= high:
            raise BadSetting(f"{name} is {value}; choose one from {low:g} to {high:g}.")


def _result(
    original: Pixels, original_answer: Predictions | None, begun: Sequence[_Rebuilt], steps: int, run: Run
) -> Inversion:
    losses = np.full((len(begun), steps), np.nan, dtype=np.float32)
    for row, one in zip(losses, begun, strict=True):
        row[: len(one.losses)] = one.losses
    pictures = np.stack([one.picture for one in begun])
    away = pictures * 255 - original
    return Inversion(
        pictures=pictures,
        original=original,
        layers=tuple(one.layer for one in begun),
        errors=np.array([one.error for one in begun], dtype=np.float32),
        losses=losses,
        pixel_errors=np.sqrt(np.square(away).mean(axis=(1, 2, 3))).astype(np.float32),
        answers=tuple(one.answer for one in begun),
        original_answer=original_answer,
        run=run,
    )


@torch.no_grad()
def _answer(model: LoadedModel, pixels: Pixels) -> Predictions | None:
    """What the network answers to a whole picture, brought to its own input size; None without classes."""
    if not model.num_classes:
        return None
    whole = replace(model.preprocessing, crop_pct=1.0, crop_mode="squash")  # it is a crop already
    x = whole.to_input(images.from_pixels(pixels, name="rebuilt")).to(model.device)
    return model.predictions(model.net(x))
