"""DeepDream: the photo changed so that a layer answers more strongly to whatever it already sees there.

At the chosen layer the gradient is set to the activation a itself, which climbs 1/2 |a|^2: what the layer sees a
little of, it comes to see a lot of. Steps go from small to large pictures. Each size, an octave, begins with what the
smaller ones added, enlarged, on the photo at that size; so large shapes come first and fine ones grow on them. At each
step the picture is shifted by chance and shifted back afterwards, so that neither the grid of cells nor the cutting of
a large photo into tiles leaves traces, and the step's size is measured in grey levels, whatever the gradient's scale.

One channel alone shows what that channel looks for. Several layers share each step by their weights. With a second
picture as a guide, every place grows towards the guide's feature that it resembles most already.

When it misleads: what appears is what the layer amplifies, not what the network believes is in the photo; eyes and
fur everywhere say that ImageNet is full of animals. The strength, the number of steps and the octaves decide as much
about the picture as the network does, and the step is scaled up until something shows: a network that learned nothing
dreams, too, so compare with an untrained one. The picture is larger than the network's own input, so that objects
appear at many sizes.

Source: Mordvintsev, Olah and Tyka, Inceptionism (2015), and the notebook they published with it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import features, picture_gradients
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.models import LoadedModel
from cnnviz_core.picture_gradients import Goal
from cnnviz_core.results import Dream, DreamZoom, FloatArray, PictureName, Run, Step

PRECISIONS: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_MEGAPIXELS = 2.0
MAX_ZOOM_FRAMES = 120
# Of all frames of a zoom together, which are all kept.
MAX_ZOOM_MEGAPIXELS = 60.0

# Frames are kept for looking at, not for measuring.
_MAX_FRAMES, _FRAME_PX = 48, 480

_MIN_PX = 16

# Pairs of a place and a feature of the guide that are compared at a time.
_PAIRS = 2**24

# Side of what is timed to say how long a dream will take.
_TRIAL_PX = 224

# The default layer lies so deep among the stages, 0 the first, 1 the last.
_DEPTH = 0.75


@dataclass(frozen=True)
class Objective:
    """What grows.

    Attributes:
        title: Its name on screen.
        help: What it is, in a sentence.
        direction: What the gradient at the layer is set to, from its activations (1, C, h, w) and the guide's
            features (C, n), which are empty without a guide.
        needs_guide: Whether there must be one.
    """

    title: str
    help: str
    direction: Callable[[Tensor, Tensor], Tensor]
    needs_guide: bool = False


def _best_matches(a: Tensor, guide: Tensor) -> Tensor:
    """For each place the guide's feature of the largest dot product, (1, C, h, w)."""
    places = a[0].flatten(1).T
    some = places.split(max(1, _PAIRS // guide.shape[1]))
    best = torch.cat([(part @ guide).argmax(dim=1) for part in some])
    return guide[:, best].view_as(a)


OBJECTIVES: Mapping[str, Objective] = {
    "activation": Objective(
        "what is there",
        "The gradient at the layer is the activation itself: strong answers grow stronger.",
        lambda a, _: a,
    ),
    "sum": Objective(
        "everything alike",
        "The gradient at the layer is 1 everywhere: the sum of all answers grows, weak ones included.",
        lambda a, _: torch.ones_like(a),
    ),
    "guide": Objective(
        "like the guide",
        "Every place grows towards the feature of the guide picture that it resembles most.",
        _best_matches,
        needs_guide=True,
    ),
}


@dataclass(frozen=True)
class _Settings:
    """What is asked, as :func:`dream` takes it."""

    layer: str | tuple[str, ...]
    weights: tuple[float, ...] | None
    channel: int | None
    objective: str
    guide: PictureName | None
    size_px: int | None
    octaves: int
    octave_scale: float
    steps: int
    strength: float
    jitter_px: int
    tile_px: int
    precision: str
    seed: int

    @property
    def layers(self) -> tuple[str, ...]:
        """Always several."""
        return (self.layer,) if isinstance(self.layer, str) else self.layer

    @property
    def shares(self) -> tuple[float, ...]:
        """Each layer's share of a step, 1 in all."""
        weights = self.weights or (1.0,) * len(self.layers)
        return tuple(weight / sum(weights) for weight in weights)

    def check(self) -> None:
        """Passes where every number is in its range.

        Raises:
            BadSetting: One is not.
        """
        if self.objective not in OBJECTIVES:
            raise BadSetting(f"{self.objective!r} is not an objective; choose one of {', '.join(OBJECTIVES)}.")
        if self.precision not in PRECISIONS:
            raise BadSetting(f"{self.precision!r} is not a precision; choose one of {', '.join(PRECISIONS)}.")
        if OBJECTIVES[self.objective].needs_guide != (self.guide is not None):
            raise BadSetting("A guide picture and the objective 'guide' belong together; give both or neither.")
        if self.channel is not None and (self.guide is not None or len(self.layers) > 1):
            raise BadSetting("One channel grows at one layer, without a guide; choose all channels for the rest.")
        if self.weights is not None and (
            len(self.weights) != len(self.layers)
            or not all(0 <= weight < math.inf for weight in self.weights)
            or not any(self.weights)
        ):
            raise BadSetting(
                f"The weights are {self.weights} for {len(self.layers)} layers; give one number from 0 up for each, "
                "not all 0."
            )
        for name, low, high in (
            ("octaves", 1, 12),
            ("octave_scale", 1.05, 4.0),
            ("steps", 0, 1000),
            ("strength", 0.0, 255.0),
            ("jitter_px", 0, 1024),
            ("tile_px", 64, 4096),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadSetting(f"{name} is {value}; choose one from {low} to {high}.")


class _Dreamer:
    """Makes the steps of one dream, or of several one after another.

    Attributes:
        model: The network.
        settings: What is asked, checked.
        moved: Whether any step so far changed anything.
    """

    def __init__(self, model: LoadedModel, settings: _Settings, guide: InputImage | None) -> None:
        settings.check()
        self.model, self.settings = model, settings
        self.goals = _goals(model, settings, guide)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.moved = False

    def dream(self, photo: Tensor) -> Iterator[tuple[Tensor, tuple[float, ...]]]:
        """After each step the picture so far at its full size, (1, C, H, W) 0..255, and the goals before the step."""
        full = (photo.shape[-2], photo.shape[-1])
        added: Tensor | None = None
        for shape in self.octave_px(*full):
            base = _resized(photo, shape)
            x = base if added is None else base + _resized(added, shape)
            scales = self._scales(x) if self.settings.steps else ()
            for _ in range(self.settings.steps):
                x, values = self._climb(x, scales)
                yield (photo + _resized(x - base, full)).clamp_(0, 255), values
            added = x - base

    def octave_px(self, height: int, width: int) -> list[tuple[int, int]]:
        """(H, W) of every octave, from the smallest to the picture's own."""
        return _octave_px(height, width, self.settings.octaves, self.settings.octave_scale)

    def _gradient(self, x: Tensor, goals: Sequence[Goal], scales: Sequence[float]) -> tuple[Tensor, tuple[float, ...]]:
        dtype = PRECISIONS[self.settings.precision]
        return picture_gradients.find(self.model, x, goals, scales, tile_px=self.settings.tile_px, dtype=dtype)

    def _scales(self, x: Tensor) -> tuple[float, ...]:
        """What each goal is multiplied by, so that its gradient at x has its share of the mean magnitude."""
        if len(self.goals) == 1:
            return (1.0,)
        sizes = [float(self._gradient(x, [goal], [1.0])[0].abs().mean()) for goal in self.goals]
        return tuple(share / size if size else 0.0 for share, size in zip(self.settings.shares, sizes, strict=True))

    def _climb(self, x: Tensor, scales: Sequence[float]) -> tuple[Tensor, tuple[float, ...]]:
        """The picture after one step, and the goals before it."""
        shift = self._shift(x.shape[-2], x.shape[-1])
        rolled = x.roll(shift, dims=(-2, -1))
        gradient, values = self._gradient(rolled, self.goals, scales)
        size = float(gradient.abs().mean())
        if not 0 < size < math.inf:
            return x, values
        self.moved = True
        rolled = (rolled + gradient * (self.settings.strength / size)).clamp_(0, 255)
        return rolled.roll((-shift[0], -shift[1]), dims=(-2, -1)), values

    def _shift(self, height: int, width: int) -> tuple[int, int]:
        """How far to roll the picture: up to the jitter, or anywhere where the picture is cut into tiles."""
        jitter = self.settings.jitter_px
        is_cut = height * width > self.settings.tile_px**2
        down, right = (
            int(torch.randint(-reach, reach + 1, (), generator=self.generator))
            for reach in (side // 2 if is_cut and jitter else min(jitter, side // 2) for side in (height, width))
        )
        return down, right


def dream(
    model: LoadedModel,
    image: InputImage,
    *,
    layer: str | Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    channel: int | None = None,
    objective: str = "activation",
    guide: InputImage | None = None,
    size_px: int | None = None,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 10,
    strength: float = 1.5,
    jitter_px: int = 32,
    tile_px: int = 512,
    precision: str = "float32",
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
) -> Dream:
    """The photo as a layer would have it.

    At each step x <- clip(x + strength / mean|g| * g) with g the gradient, all in grey levels of 0..255.

    Args:
        model: Any network with maps.
        image: Any photo; its whole, not the crop that the network sees.
        layer: Dotted names of one or several layers; None takes :func:`default_layer`.
        weights: For several layers each one's share of the step, from 0 up; None takes all alike. Shares are of the
            gradient's mean magnitude, measured when an octave begins.
        channel: The only channel to grow; None takes all. With one layer only.
        objective: What grows, a key of :data:`OBJECTIVES`.
        guide: The picture whose features are to grow, for the objective "guide".
        size_px: Longer side of the result; None takes the photo's own, reduced to 2 megapixels if it has more.
        octaves: Sizes to work at.
        octave_scale: From one size to the next.
        steps: Steps at each size; 0 leaves the picture as it is.
        strength: Mean change of a pixel in one step, in grey levels of 0..255.
        jitter_px: Largest random shift before a step, undone after it.
        tile_px: Largest side of what is differentiated in one piece, which bounds memory.
        precision: A key of :data:`PRECISIONS`; "bfloat16" takes half the time where the processor knows it, and
            dreams a little differently. Several layers together are always computed in float32.
        seed: Of the shifts.
        on_step: Called before the first step and after each one with the steps done, their number in all, and the
            result so far; what it raises ends the work.

    Returns:
        The picture, what the layers' objective was at each step, and frames of its growing.

    Raises:
        BadSetting: A number out of range, or no such objective, channel or guide.
        UnknownLayer: No layer of that name.
        NotApplicable: The layer puts out a vector, the network does not take such sizes, or the gradient is zero.

    Source: Mordvintsev, Olah and Tyka 2015. Their notebook enlarges with splines; here it is bilinear.
    """
    start = time.perf_counter()
    settings = _settings(
        model, layer, weights, channel, objective, guide, size_px, octaves, octave_scale, steps, strength, jitter_px,
        tile_px, precision, seed,
    )  # fmt: skip
    dreamer = _Dreamer(model, settings, guide)
    photo = at_size(image, settings.size_px)
    x = _to_tensor(model, photo)
    total = settings.octaves * settings.steps
    frames: list[Pixels] = [_frame(x)]
    objectives: list[tuple[float, ...]] = []

    def so_far(x: Tensor) -> Dream:
        return Dream(
            values=_to_values(x),
            photo=photo,
            layers=settings.layers,
            channel=settings.channel,
            objectives=np.array(objectives, dtype=np.float32).reshape(-1, len(settings.layers)),
            octave_px=tuple(dreamer.octave_px(*photo.shape[:2])),
            frames=tuple(frames),
            run=_run(model, image, "deep_dream.dream", start, settings),
        )

    if on_step:
        on_step(Step(0, total, so_far(x)))
    for done, (x, values) in enumerate(dreamer.dream(_to_tensor(model, photo)), start=1):
        objectives.append(values)
        if done % math.ceil(total / _MAX_FRAMES) == 0 or done == total:
            frames.append(_frame(x))
        if on_step:
            on_step(Step(done, total, so_far(x)))
    if total and not dreamer.moved:
        _raise_unmoved(settings)
    return so_far(x)


def zoom(
    model: LoadedModel,
    image: InputImage,
    *,
    num_frames: int = 24,
    zoom: float = 1.04,
    layer: str | Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    channel: int | None = None,
    objective: str = "activation",
    guide: InputImage | None = None,
    size_px: int | None = 480,
    octaves: int = 2,
    octave_scale: float = 1.4,
    steps: int = 4,
    strength: float = 1.5,
    jitter_px: int = 32,
    tile_px: int = 512,
    precision: str = "float32",
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
) -> DreamZoom:
    """A way into the picture: each frame is the one before, enlarged around its middle and dreamed on.

    Args:
        model: Any network with maps.
        image: Any photo.
        num_frames: Frames after the first, which is the dream of the photo itself.
        zoom: How much of it is enlarged from frame to frame, 1 or more.
        layer: This and the rest as in :func:`dream`, for each frame.
        weights: As there.
        channel: As there.
        objective: As there.
        guide: As there.
        size_px: As there.
        octaves: As there.
        octave_scale: As there.
        steps: As there.
        strength: As there.
        jitter_px: As there.
        tile_px: As there.
        precision: As there.
        seed: As there.
        on_step: Called before the first step and after each frame.

    Raises:
        BadSetting: As :func:`dream`, or more or larger frames than are kept.
        UnknownLayer: As there.
        NotApplicable: As there.
    """
    start = time.perf_counter()
    if not 0 <= num_frames <= MAX_ZOOM_FRAMES or not 1 <= zoom <= 2:
        raise BadSetting(
            f"{num_frames} frames, each enlarged {zoom} times: choose up to {MAX_ZOOM_FRAMES} frames and 1 to 2 times."
        )
    settings = _settings(
        model, layer, weights, channel, objective, guide, size_px, octaves, octave_scale, steps, strength, jitter_px,
        tile_px, precision, seed,
    )  # fmt: skip
    dreamer = _Dreamer(model, settings, guide)
    x = _to_tensor(model, at_size(image, settings.size_px))
    if (num_frames + 1) * x.shape[-2] * x.shape[-1] > MAX_ZOOM_MEGAPIXELS * 1e6:
        raise BadSetting(
            f"{num_frames + 1} frames of {x.shape[-1]} x {x.shape[-2]} px are more than {MAX_ZOOM_MEGAPIXELS:g} "
            "megapixels; choose fewer frames or a smaller size."
        )
    frames: list[Pixels] = []

    def so_far() -> DreamZoom:
        run = _run(model, image, "deep_dream.zoom", start, settings, num_frames=num_frames, zoom=zoom)
        return DreamZoom(tuple(frames), settings.layers, settings.channel, run)

    if on_step:
        on_step(Step(0, num_frames + 1, DreamZoom((_to_pixels(x),), settings.layers, settings.channel, so_far().run)))
    for done in range(num_frames + 1):
        x = _enlarged(x, zoom) if done else x
        for dreamt, _ in dreamer.dream(x):
            x = dreamt
        frames.append(_to_pixels(x))
        if on_step:
            on_step(Step(done + 1, num_frames + 1, so_far()))
    if settings.steps and not dreamer.moved:
        _raise_unmoved(settings)
    return so_far()


def default_layer(model: LoadedModel) -> str:
    """The end of a stage in the second half of the depth, where whole parts of objects appear.

    Raises:
        NotApplicable: No layer puts out a map.
    """
    names = features.stage_layers(model)
    return names[round(_DEPTH * (len(names) - 1))]


def default_precision(model: LoadedModel) -> str:
    """The precision in which a dream at one layer takes the least time here, a key of :data:`PRECISIONS`.

    That is bfloat16 where the processor multiplies whole matrices of it at once.
    """
    return "bfloat16" if model.device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "float32"


def at_size(image: InputImage, size_px: int | None) -> Pixels:
    """The photo as a dream of that size begins with it, (H, W, 3).

    Raises:
        BadSetting: More than 2 megapixels, or less than 16 px on the longer side.
    """
    longer, area = max(image.height, image.width), image.height * image.width
    scale = min(1.0, math.sqrt(MAX_MEGAPIXELS * 1e6 / area)) if size_px is None else size_px / longer
    fit = math.floor if size_px is None and scale < 1 else round
    width, height = (max(1, fit(side * scale)) for side in (image.width, image.height))
    if width * height > MAX_MEGAPIXELS * 1e6 or max(width, height) < _MIN_PX:
        raise BadSetting(
            f"{image.name} would be {width} x {height} px; choose a size from {_MIN_PX} px to {MAX_MEGAPIXELS:g} "
            "megapixels."
        )
    if (height, width) == (image.height, image.width):
        return image.pixels
    return np.asarray(image.pil().resize((width, height), Image.Resampling.LANCZOS))


def seconds_per_pixel(
    model: LoadedModel, *, layer: str | Sequence[str] | None = None, precision: str = "float32"
) -> float:
    """How long one step takes for each pixel, measured at a small size; arguments and errors as :func:`dream`."""
    settings = _settings(model, layer, None, None, "activation", None, None, 1, 1.4, 1, 1.0, 0, 512, precision, 0)
    dtype = PRECISIONS[settings.precision]
    goals = _goals(model, settings, None)
    x = torch.full((1, model.preprocessing.num_channels, _TRIAL_PX, _TRIAL_PX), 128.0, device=model.device)
    seconds = []
    for _ in range(3):  # the first warms up
        start = time.perf_counter()
        picture_gradients.find(model, x, goals, [1.0] * len(goals), tile_px=_TRIAL_PX, dtype=dtype)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / _TRIAL_PX**2


def num_pixels(image: InputImage, *, size_px: int | None, octaves: int, octave_scale: float, steps: int) -> int:
    """Pixels that all steps of a dream go through; arguments and errors as :func:`dream`."""
    height, width = at_size(image, size_px).shape[:2]
    return steps * sum(math.prod(shape) for shape in _octave_px(height, width, octaves, octave_scale))


def _octave_px(height: int, width: int, octaves: int, octave_scale: float) -> list[tuple[int, int]]:
    """(H, W) of every octave, from the smallest to the picture's own."""
    scales = [octave_scale**-i for i in reversed(range(octaves))]
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales]


def _settings(
    model: LoadedModel,
    layer: str | Sequence[str] | None,
    weights: Sequence[float] | None,
    channel: int | None,
    objective: str,
    guide: InputImage | None,
    *rest: Any,
) -> _Settings:
    """Settings in the order of :class:`_Settings`, defaults filled in."""
    layers = default_layer(model) if layer is None else layer if isinstance(layer, str) else tuple(dict.fromkeys(layer))
    if not layers:
        raise BadSetting("No layer was chosen; choose one or more.")
    given = None if guide is None else PictureName(guide.name, guide.digest)
    return _Settings(layers, None if weights is None else tuple(weights), channel, objective, given, *rest)


def _goals(model: LoadedModel, settings: _Settings, guide: InputImage | None) -> tuple[Goal, ...]:
    """What is to grow at each layer."""
    infos = [model.layers[name] for name in settings.layers]
    for info in infos:
        if info.cells is None:
            raise NotApplicable(
                f"Layer {info.name} puts out a vector of {info.num_channels} values, which has no places to dream at; "
                f"choose a layer before the pooling, such as {default_layer(model)}."
            )
    channel = settings.channel
    if channel is not None and not 0 <= channel < infos[0].num_channels:
        raise BadSetting(
            f"There is no channel {channel}; layer {infos[0].name} has channels 0 to {infos[0].num_channels - 1}."
        )
    seen = {info.name: torch.empty(info.num_channels, 0) for info in infos}
    if guide is not None:
        found = features.record(model, guide, layers=settings.layers, size_px=max(model.preprocessing.input_px))
        seen = {name: torch.from_numpy(values).flatten(1).to(model.device) for name, values in found.values.items()}
    direction = OBJECTIVES[settings.objective].direction

    def towards(a: Tensor, known: Tensor) -> Tensor:
        wanted = direction(a, known)
        if channel is None:
            return wanted
        only = torch.zeros_like(wanted)
        only[:, channel] = wanted[:, channel]
        return only

    return tuple(Goal(info, partial(towards, known=seen[info.name])) for info in infos)


def _raise_unmoved(settings: _Settings) -> NoReturn:
    what = "Nothing in" if settings.channel is None else f"Channel {settings.channel} of"
    raise NotApplicable(
        f"{what} {' and '.join(settings.layers)} can grow on this picture: the gradient is zero everywhere or not "
        "finite. Choose another layer or channel, or another picture."
    )


def _run(model: LoadedModel, image: InputImage, method: str, start: float, settings: _Settings, **more: object) -> Run:
    given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    run = model.provenance(method, time.perf_counter() - start, image=image)
    return dataclasses.replace(run, settings={**more, **given}, seed=settings.seed)


def _to_tensor(model: LoadedModel, pixels: Pixels) -> Tensor:
    """(H, W, 3) pixels as (1, C, H, W) numbers of 0..255 on the network's device; grey for a grey network."""
    if model.preprocessing.num_channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    planes = np.moveaxis(pixels, 2, 0).astype(np.float32, order="C")  # what is added to it lies in memory so, too
    return torch.from_numpy(planes)[None].to(model.device)


def _to_values(x: Tensor) -> FloatArray:
    """(H, W, 3) numbers of 0..255."""
    values: FloatArray = x[0].permute(1, 2, 0).expand(-1, -1, 3).cpu().numpy()
    return np.ascontiguousarray(values)


def _to_pixels(x: Tensor) -> Pixels:
    return _to_values(x).round().astype(np.uint8)


def _frame(x: Tensor) -> Pixels:
    """A picture small enough to keep many of it."""
    scale = min(1.0, _FRAME_PX / max(x.shape[-2:]))
    shape = (max(1, round(x.shape[-2] * scale)), max(1, round(x.shape[-1] * scale)))
    return _to_pixels(_resized(x, shape).clamp(0, 255))


def _resized(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """(1, C, H, W) at another size; the same where it has it."""
    if tuple(x.shape[-2:]) == shape:
        return x
    return F.interpolate(x, shape, mode="bilinear", align_corners=False, antialias=True)


def _enlarged(x: Tensor, zoom: float) -> Tensor:
    """The middle of a picture, enlarged to its size."""
    height, width = x.shape[-2:]
    scale = x.new_tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]])[None]
    grid = F.affine_grid(scale, [1, 1, height, width], align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp_(0, 255)
