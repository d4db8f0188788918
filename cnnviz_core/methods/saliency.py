"""Saliency: which numbers of the input matter to a score, and in which direction.

The gradient of a class score S with respect to the input x says how S would change if a pixel changed a little. It is
the network's own answer, as fine as the picture, and noisy: its sign flips from pixel to pixel. The other methods make
it easier to read. Three of them differ only in what passes back through a ReLU: the gradient keeps what was active
going forward, deconvnet keeps what is positive going back, guided backprop keeps what is both. Gradient times input
asks what a pixel contributes rather than what changing it would do. SmoothGrad averages over noisy copies. Integrated
gradients add up the gradient on the way from an empty picture to this one, so that the values sum to what the score
gained on that way; the completeness error tells how nearly. Instead of a class, a single unit of a layer can be
explained: one channel at one place.

When it misleads: guided backprop, guided Grad-CAM and deconvnet draw the edges of the picture whatever the network has
learned. They hardly change when its weights are replaced by random ones or another class is asked for, so never read
them as evidence for the class. A gradient is local: where a score is saturated, what matters most may have a gradient
near zero. Values multiplied by the input hide what has the mean colour, and integrated gradients depend on the chosen
empty picture. At activations other than ReLUs, such as SiLU and GELU, the rules of deconvnet and guided backprop are
not defined; the plain gradient passes there.

Source: Simonyan et al., Deep Inside Convolutional Networks (2014), and the papers in the table; the warning is from
Adebayo et al., Sanity Checks for Saliency Maps (2018).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import doctor, folding, probe
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Attribution, FloatArray, Step

Unit = tuple[int, int, int]

# Spread of the blurred baseline's Gaussian, as a share of the input's shorter side.
_BLUR_SHARE = 0.05


@dataclass(frozen=True)
class Baseline:
    """One picture without content, where integrated gradients start from.

    Attributes:
        title: Name on screen.
        help: What it is, in a sentence.
        make: From the network and the picture's input (1, C, H, W) to the baseline's.
    """

    title: str
    help: str
    make: Callable[[LoadedModel, Tensor], Tensor]


def _black(model: LoadedModel, x: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, device=x.device) for v in (model.preprocessing.mean, model.preprocessing.std))
    return (-mean / std).to(x.dtype)[:, None, None].expand_as(x)


def _blurred(_model: LoadedModel, x: Tensor) -> Tensor:
    sigma = _BLUR_SHARE * min(x.shape[2:])
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    bell = torch.exp(-((places / sigma) ** 2) / 2)
    bell, rows = bell / bell.sum(), x.transpose(0, 1)  # each colour on its own
    rows = F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="replicate"), bell.view(1, 1, -1, 1))
    return F.conv2d(F.pad(rows, (reach, reach, 0, 0), mode="replicate"), bell.view(1, 1, 1, -1)).transpose(0, 1)


BASELINES: Mapping[str, Baseline] = {
    "mean": Baseline("Mean colour", "All pixels at the mean of the training set.", lambda _, x: torch.zeros_like(x)),
    "black": Baseline("Black", "All pixels black.", _black),
    "blur": Baseline("Blurred", "The picture itself, too blurred to recognise details.", _blurred),
}


@dataclass(frozen=True)
class Options:
    """Arguments of :func:`explain` that single methods use; see there."""

    num_samples: int = 25
    noise: float = 0.15
    num_steps: int = 50
    baseline: str = "mean"
    seed: int = 0
    batch_size: int = 10

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not 0 <= self.noise < math.inf:
            raise BadSetting(f"noise is {self.noise}; it must be a number from 0 up.")
        if self.baseline not in BASELINES:
            raise BadSetting(f"{self.baseline!r} is not a baseline; choose one of {', '.join(BASELINES)}.")
        if not 0 <= self.seed < 2**63:
            raise BadSetting(f"seed is {self.seed}; it must be a whole number from 0 up.")


@dataclass(frozen=True)
class Answer:
    """What a method found.

    Attributes:
        values: (C, H, W).
        score: What was explained.
        column: Its column in what was read.
        completeness_error: See :class:`Attribution`.
    """

    values: Tensor
    score: float
    column: int
    completeness_error: float | None = None


# From pictures (n, C, H, W) to what may be explained, (n, K): class scores, or a single unit's activation.
Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Question:
    """What a method is asked.

    Attributes:
        model: The network.
        x: The picture as its input, (1, C, H, W).
        read: Pictures to class scores or to a unit's activation.
        column: Which column of that is explained; None takes the highest.
        layer: Of the unit, or whose maps take part; None without.
        is_unit: Whether a unit is explained.
        title: The method's name.
        options: As given.
        report: To be told of the pictures done and in all, and how to have the answer so far.
    """

    model: LoadedModel
    x: Tensor
    read: Read
    column: int | None
    layer: LayerInfo | None
    is_unit: bool
    title: str
    options: Options
    report: Callable[[int, int, Callable[[], Answer]], None]

    @property
    def subject(self) -> str:
        """What is explained, in words."""
        return f"the unit of layer {self.layer.name}" if self.is_unit and self.layer else "the class score"

    def pick(self, outputs: Tensor) -> int:
        """The column of the outputs (K,) that is explained."""
        return int(outputs.argmax()) if self.column is None else self.column


def _to_input(q: Question, scores: Tensor, x: Tensor, seed: Tensor | None = None) -> Tensor:
    """Gradient of the scores' sum to the pictures (n, C, H, W), or of the sum weighed by the seed."""
    found = None
    if scores.requires_grad:
        weights = torch.ones_like(scores) if seed is None else seed
        (found,) = torch.autograd.grad(scores, x, weights, allow_unused=True)
    if found is None:
        raise NotApplicable(
            f"{q.title} does not apply to {q.model.spec.title}: no gradient leads from {q.subject} back to the "
            "picture, as where the network rounds, compares or detaches on the way. Occlusion needs no gradient."
        )
    return found


def _gradient(q: Question) -> Answer:
    x = q.x.clone().requires_grad_()
    outputs = q.read(x)[0]
    column = q.pick(outputs)
    return Answer(_to_input(q, outputs[column], x)[0], outputs[column].item(), column)


def _input_x_gradient(q: Question) -> Answer:
    answer = _gradient(q)
    return dataclasses.replace(answer, values=q.x[0] * answer.values)


def _by_rule(q: Question, rule: str, *, starts_at_activation: bool = False) -> Answer:
    """The gradient with a rule at each ReLU on the way, from 1 or, for a unit, from its activation."""
    x = q.x.clone().requires_grad_()
    with probe.relu_rule(rule) as relus:
        outputs = q.read(x)[0]
    if relus.num_answered == 0:
        raise NotApplicable(
            f"No ReLU lies between the picture and {q.subject}, so {q.title} has nothing to change there; use the "
            "plain gradient, or a later layer."
        )
    column = q.pick(outputs)
    score = outputs[column]
    seed = score.detach() if starts_at_activation and q.is_unit else None
    return Answer(_to_input(q, score, x, seed)[0], score.item(), column)


def _deconvnet(q: Question) -> Answer:
    return _by_rule(q, "deconvnet", starts_at_activation=True)


def _guided_backprop(q: Question) -> Answer:
    return _by_rule(q, "guided")


def _guided_grad_cam(q: Question) -> Answer:
    heat, column = _grad_cam(q)
    guided = _guided_backprop(dataclasses.replace(q, column=column))
    heat = F.interpolate(heat[None, None], q.x.shape[2:], mode="bilinear", align_corners=False)[0]
    return dataclasses.replace(guided, values=heat * guided.values)


def _grad_cam(q: Question) -> tuple[Tensor, int]:
    """Grad-CAM (h, w) at the layer, by the plain gradient, and the class."""
    assert q.layer is not None, "guided Grad-CAM is given a layer"  # noqa: S101
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    result = probe.resume(q.model.net, q.x, q.layer.name, keep, call=q.layer.num_calls - 1)
    if not kept:
        raise _took_another_way(q.layer)
    scores = q.model.scores(result)[0]
    column = q.pick(scores)
    maps, gradient = (
        t[0].movedim(q.layer.channel_dim - 1, 0) for t in (kept[0].detach(), _to_input(q, scores[column], kept[0]))
    )
    return (gradient.mean((1, 2), keepdim=True) * maps).sum(0).relu(), column


def _smooth_grad(q: Question) -> Answer:
    clean = _read_clean(q, q.x)
    column = q.pick(clean[0])
    generator = torch.Generator().manual_seed(q.options.seed)
    sigma = q.options.noise * float(q.x.max() - q.x.min())
    total = q.options.num_samples

    def batches(enter: Read) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, total, q.options.batch_size):
            num = min(q.options.batch_size, total - first)
            # One at a time, so that the noise does not depend on the batches.
            noise = torch.cat([torch.randn(q.x.shape, generator=generator) for _ in range(num)])
            yield enter(q.x + sigma * noise.to(q.x.device)), torch.ones(num)

    return _mean_gradient(q, column, batches, total, lambda mean: Answer(mean[0], float(clean[0, column]), column))


def _integrated_gradients(q: Question) -> Answer:
    baseline = BASELINES[q.options.baseline].make(q.model, q.x)
    way = q.x - baseline
    clean, empty = _read_clean(q, torch.cat([q.x, baseline]))
    column = q.pick(clean)
    score, gain = float(clean[column]), float(clean[column] - empty[column])
    places, shares = np.polynomial.legendre.leggauss(q.options.num_steps)
    alphas, weights = (torch.tensor(v / 2, dtype=torch.float32) for v in (places + 1, shares))
    num_batches = math.ceil(q.options.num_steps / q.options.batch_size)

    def batches(enter: Read) -> Iterator[tuple[Tensor, Tensor]]:
        start, end = enter(torch.cat([baseline, q.x]))  # what lies between them needs no convolution
        for first in range(num_batches):  # each batch goes all the way, so that partial answers do, too
            some = slice(first, None, num_batches)
            yield torch.lerp(start, end, alphas[some, None, None, None].to(q.x.device)), weights[some]

    def finish(mean: Tensor) -> Answer:
        values = (way * mean)[0]
        return Answer(values, score, column, _completeness_error(values, gain))

    return _mean_gradient(q, column, batches, q.options.num_steps, finish)


def _completeness_error(values: Tensor, gain: float) -> float:
    missing = abs(float(values.cpu().double().sum()) - gain)
    return missing / abs(gain) if gain else math.inf if missing else 0.0


@torch.no_grad()
def _read_clean(q: Question, x: Tensor) -> Tensor:
    enter, go_on = _steps(q)
    return go_on(enter(x))


def _mean_gradient(
    q: Question,
    column: int,
    batches: Callable[[Read], Iterator[tuple[Tensor, Tensor]]],
    num_pictures: int,
    finish: Callable[[Tensor], Answer],
) -> Answer:
    """The answer made of the weighted mean gradient (1, C, H, W) over many pictures.

    ``batches`` makes, by the first of two steps through the network, batches of what it puts out, with their weights.
    """
    enter, go_on = _steps(q)
    total, weight, done = torch.zeros((), device=q.x.device), 0.0, 0

    def so_far() -> Answer:
        # The first step is affine, so the mean goes back through it as well as each gradient would.
        x = q.x.clone().requires_grad_()
        return finish(torch.autograd.grad(enter(x), x, (total / weight)[None])[0])

    for batch, weights in batches(enter):
        entered = batch.detach().requires_grad_()
        scores = go_on(entered)[:, column]
        for gradient in _to_input(q, scores, entered, weights.to(scores)):  # a sum over all would turn their memory
            total = total + gradient
        weight += float(weights.double().sum())
        done += len(entered)
        q.report(done, num_pictures, so_far)
    return so_far()


def _steps(q: Question) -> tuple[Read, Read]:
    """What is read of many pictures, in two steps, of which the first is affine."""
    if q.is_unit or not q.model.is_static:
        return lambda x: x, q.read
    fast = folding.fast_copy(q.model.net, q.x)
    return fast.enter, lambda entered: q.model.scores(fast.go_on(entered))


def _one(_options: Options) -> int:
    return 1


@dataclass(frozen=True)
class Method:
    """One member of the family.

    Attributes:
        title: The paper's name.
        help: What it does, in a sentence.
        source: Paper.
        cost: In words.
        needs: Key in :data:`doctor.CAPABILITIES`.
        attribute: From the question to the answer.
        num_forwards: Pictures that go through the network and back.
        uses: The :class:`Options` that change its answer.
        takes_unit: Whether it can explain a unit; where not, ``layer`` names the maps that take part.
        unit: What its values are.
    """

    title: str
    help: str
    source: str
    cost: str
    needs: str
    attribute: Callable[[Question], Answer]
    num_forwards: Callable[[Options], int] = _one
    uses: tuple[str, ...] = ()
    takes_unit: bool = True
    unit: str = "gradient"


_ONE_PASS = "one forward and one backward"  # noqa: S105

METHODS: Mapping[str, Method] = {
    "gradient": Method(
        "Gradient",
        "How the score would change if a pixel changed a little.",
        "Simonyan et al. 2014",
        _ONE_PASS,
        needs="gradient",
        attribute=_gradient,
    ),
    "input_x_gradient": Method(
        "Input × gradient",
        "The gradient times the normalised input: what each pixel contributes, if the score were linear.",
        "Shrikumar et al. 2016",
        _ONE_PASS,
        needs="gradient",
        attribute=_input_x_gradient,
        unit="score",
    ),
    "deconvnet": Method(
        "Deconvnet",
        "Sends a unit’s activation back and keeps, at each ReLU, what is positive going back.",
        "Zeiler and Fergus 2014",
        _ONE_PASS,
        needs="guided_backprop",
        attribute=_deconvnet,
    ),
    "guided_backprop": Method(
        "Guided backprop",
        "The gradient that keeps, at each ReLU, what was active going forward and is positive going back.",
        "Springenberg et al. 2015",
        _ONE_PASS,
        needs="guided_backprop",
        attribute=_guided_backprop,
    ),
    "guided_grad_cam": Method(
        "Guided Grad-CAM",
        "Guided backprop where Grad-CAM finds evidence for the class: fine edges in a coarse region.",
        "Selvaraju et al. 2017",
        "two forwards and two backwards",
        needs="guided_grad_cam",
        attribute=_guided_grad_cam,
        num_forwards=lambda _: 2,
        takes_unit=False,
    ),
    "smooth_grad": Method(
        "SmoothGrad",
        "The mean of the gradients of many noisy copies of the picture, less speckled than one.",
        "Smilkov et al. 2017",
        "one forward and one backward per sample",
        needs="gradient",
        attribute=_smooth_grad,
        num_forwards=lambda options: options.num_samples + 1,
        uses=("num_samples", "noise", "seed", "batch_size"),
    ),
    "integrated_gradients": Method(
        "Integrated gradients",
        "Adds up the gradient from an empty picture to this one; the values sum to what the score gains on the way.",
        "Sundararajan et al. 2017, by Gauss-Legendre quadrature",
        "one forward and one backward per step",
        needs="gradient",
        attribute=_integrated_gradients,
        num_forwards=lambda options: options.num_steps + 2,
        uses=("num_steps", "baseline", "batch_size"),
        unit="score",
    ),
}


def explain(
    model: LoadedModel,
    image: InputImage,
    *,
    method: str,
    target: int | None = None,
    layer: str | None = None,
    unit: Sequence[int] | None = None,
    num_samples: int = 25,
    noise: float = 0.15,
    num_steps: int = 50,
    baseline: str = "mean",
    seed: int = 0,
    batch_size: int = 10,
    on_step: Callable[[Step], None] | None = None,
) -> Attribution:
    """One signed value for each number of the input: how it bears on a class score, or on a single unit.

    With R the gradient from above at a ReLU of z, what passes is (z > 0) R for the gradient, (R > 0) R for deconvnet
    and (z > 0)(R > 0) R for guided backprop. A max pooling passes it to where the maximum was. For a class and with
    the other methods R starts as 1; deconvnet of a unit starts as its activation, so that a silent unit gives an
    empty map. Guided Grad-CAM is the guided gradient times Grad-CAM, clipped at zero and enlarged bilinearly.

    Args:
        model: Any network that the method fits; see :func:`doctor.verdict` with the method's ``needs``.
        image: Any picture.
        method: A key of :data:`METHODS`.
        target: Class index; None takes the top prediction. A single-logit head z has the scores -z and z for its
            classes 0 and 1.
        layer: The unit's layer. For guided Grad-CAM, the layer of Grad-CAM; None takes the last with maps.
        unit: (channel, row, column) of a unit of the layer to explain in place of a class; (channel, 0, 0) for a
            layer that puts out a vector. Of a layer that is called several times it is the last call. Not for guided
            Grad-CAM.
        num_samples: Noisy copies in SmoothGrad.
        noise: Standard deviation of that noise, as a share of the input's range from lowest to highest.
        num_steps: Pictures on the way of integrated gradients.
        baseline: Where the way begins: a key of :data:`BASELINES`.
        seed: Of SmoothGrad's noise.
        batch_size: Pictures that SmoothGrad and integrated gradients run at a time.
        on_step: Called after each of their batches, with the pictures done and the result so far; what it raises ends
            the work.

    Returns:
        Raw values, (C, H, W) of the network's input: score per unit of normalised input for the gradient and
        SmoothGrad, score for input × gradient and integrated gradients; the others compare within one map only.

    Raises:
        BadSetting: No such method, class or unit, a unit without a layer or the other way round, or a number out of
            range.
        UnknownLayer: No layer of that name.
        NotApplicable: The network or the layer does not fit the method; the message says what does.

    Source: see the module. Springenberg et al. 2015, figure 1, for the rules; Zeiler and Fergus 2014, section 2.1, for
        deconvnet's start.
    """
    start = time.perf_counter()
    options = Options(num_samples, noise, num_steps, baseline, seed, batch_size)
    entry = _method(model, method)
    info = _layer(model, entry, layer, unit)
    place = None if unit is None or info is None else _place(info, unit)
    _check_target(model, entry, target, place)
    layer = info.name if info else None
    used = {name: getattr(options, name) for name in entry.uses}

    def result(answer: Answer) -> Attribution:
        found = answer.column if place is None else None
        seconds = time.perf_counter() - start
        run = model.provenance(
            "saliency.explain", seconds, image=image, method=method, target=found, layer=layer, unit=place
        )
        return Attribution(
            values=_array(answer.values),
            layer=layer or "",
            unit=place,
            target=found,
            target_label="" if found is None else model.class_names[found],
            score=answer.score,
            completeness_error=answer.completeness_error,
            method=method,
            run=dataclasses.replace(run, settings={**run.settings, **used}, seed=used.get("seed")),
        )

    def report(done: int, total: int, so_far: Callable[[], Answer]) -> None:
        if on_step:
            on_step(Step(done, total, result(so_far())))

    with torch.inference_mode(mode=False), torch.enable_grad():
        question = Question(
            model,
            model.to_input(image),
            _reader(model, info, place),
            target if place is None else 0,
            info,
            place is not None,
            entry.title,
            options,
            report,
        )
        return result(entry.attribute(question))


def default_layer(model: LoadedModel) -> str:
    """The layer of Grad-CAM in guided Grad-CAM: the last with maps.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    doctor.require(model, "eigen_cam")
    return model.anatomy.head.feature_layer or model.layers.spatial[-1].name


@torch.no_grad()
def strongest_unit(model: LoadedModel, image: InputImage, *, layer: str, channel: int) -> Unit:
    """Where a channel answers most strongly to the picture: (channel, row, column), the usual unit to explain.

    Args:
        model: Any network.
        image: Any picture.
        layer: Dotted name; of a layer that is called several times it is the last call. For a layer that puts out a
            vector, row and column are 0.
        channel: Which channel.

    Raises:
        UnknownLayer: No layer of that name.
        BadSetting: The layer has no such channel.
        NotApplicable: The network took a way around the layer.
    """
    info = model.layers[layer]
    _place(info, (channel, 0, 0))
    values = _maps(model, info, model.to_input(image))[0, channel]
    row, column = divmod(int(values.argmax()), values.shape[1])
    return channel, row, column


def _method(model: LoadedModel, name: str) -> Method:
    if name not in METHODS:
        raise BadSetting(f"{name!r} is not a saliency method; choose one of {', '.join(METHODS)}.")
    doctor.require(model, METHODS[name].needs)
    return METHODS[name]


def _layer(model: LoadedModel, method: Method, name: str | None, unit: Sequence[int] | None) -> LayerInfo | None:
    """The layer of the unit, or of Grad-CAM; None where none takes part."""
    if not method.takes_unit:
        return _cam_layer(model, method, name, unit)
    if (name is None) != (unit is None):
        given = f"Unit {tuple(unit)} is given without its layer" if unit is not None else f"Layer {name} is given alone"
        raise BadSetting(
            f"{given}; to explain a unit give both, layer and unit=(channel, row, column), to explain a class neither."
        )
    return None if name is None else model.layers[name]


def _cam_layer(model: LoadedModel, method: Method, name: str | None, unit: Sequence[int] | None) -> LayerInfo:
    if unit is not None:
        raise NotApplicable(f"{method.title} explains a class only; for a unit use guided backprop.")
    default = default_layer(model)
    layer = model.layers[name or default]
    if layer.cells is None:
        raise NotApplicable(
            f"Layer {name} puts out a vector of {layer.num_channels} values, not maps; choose a layer before the "
            f"pooling, such as {default}."
        )
    return layer


def _place(layer: LayerInfo, unit: Sequence[int]) -> Unit:
    shape = (layer.num_channels, *(layer.cells or (1, 1)))
    whole = all(isinstance(number, int | np.integer) for number in unit)
    if len(unit) != 3 or not whole or not all(0 <= i < size for i, size in zip(unit, shape, strict=True)):
        last = tuple(size - 1 for size in shape)
        raise BadSetting(
            f"Layer {layer.name} has no unit {tuple(unit)}; give (channel, row, column) between (0, 0, 0) and {last}."
        )
    channel, row, column = (int(number) for number in unit)
    return channel, row, column


def _check_target(model: LoadedModel, method: Method, target: int | None, place: Unit | None) -> None:
    if place is not None:
        if target is not None:
            raise BadSetting(f"Class {target} and unit {place} are both given; one thing is explained at a time.")
    elif not model.num_classes:
        raise NotApplicable(
            f"{method.title} of a class does not apply to {model.spec.title}: it has no classifier. Give a layer and "
            "unit=(channel, row, column) of it to explain."
        )
    model.check_class(target)


def _reader(model: LoadedModel, layer: LayerInfo | None, place: Unit | None) -> Read:
    if place is None or layer is None:
        return lambda x: model.scores(model.net(x))
    channel, row, column = place
    return lambda x: _maps(model, layer, x)[:, channel, row, column, None]


def _maps(model: LoadedModel, layer: LayerInfo, x: Tensor) -> Tensor:
    """What the layer puts out, (n, C, h, w), by a forward that ends there; a vector has a single cell."""
    recording = probe.record(model.net, x, [layer.name], stop_after={layer.name: layer.num_calls})
    outputs = recording.outputs[layer.name]
    if len(outputs) < layer.num_calls:
        raise _took_another_way(layer)
    return outputs[-1].movedim(layer.channel_dim, 1) if layer.cells else outputs[-1][..., None, None]


def _took_another_way(layer: LayerInfo) -> NotApplicable:
    return NotApplicable(
        f"This network chooses its way by the picture, and here it did not come through layer {layer.name} as often as "
        "usual; choose another layer."
    )


def _array(values: Tensor) -> FloatArray:
    array: FloatArray = values.detach().float().cpu().contiguous().numpy()
    return array
