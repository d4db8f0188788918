"""CAM family: where the maps of a layer hold the evidence for a class.

A layer's maps A_k each mark some pattern in the picture. A class activation map adds them up with a weight for each
channel (or each cell) that says how much the class score S_c depends on it: read off the head (CAM), taken from the
gradient g = dS_c/dA (Grad-CAM and relatives), or found out by trying (Score-CAM, Ablation-CAM). Eigen-CAM asks for no
class and shows what the maps vary in most. The result has one value per cell of the layer.

When it misleads: at the last layer the map is coarse, a cell stands for a region far larger than it looks when drawn
over the photo. At early layers a single weight per channel mixes places that speak for and against the class;
HiResCAM and LayerCAM weigh each cell instead. Clipping at zero hides the evidence against. And a map scaled to its own
maximum looks sure of itself even where the score is low: compare the raw values.

Source: Zhou et al., Learning Deep Features for Discriminative Localization (2016), and the papers in the table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnviz_core import doctor, probe
from cnnviz_core.errors import BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Heatmap, Step

# Whole pictures, or gradients of classes, that go through the network together on a CPU.
_BATCH = 16

# Copies of a layer's output that go through the rest of the network together.
_ABLATION_BYTES = 64 * 2**20

# Below this share of its terms' size a float32 sum is rounding, and dividing by it means nothing.
_ROUNDING = 1e-6


@dataclass
class _Progress:
    """Counts forwards for ``on_step``, and passes on the maps so far as a result of the caller's own type."""

    on_step: Callable[[Step], None] | None
    total: int
    result: Callable[[Tensor], object]
    done: int = 0

    def advance(self, num_forwards: int, maps: Callable[[], Tensor]) -> None:
        """After so many more forwards; ``maps`` gives (T, h, w), channels that were not tried yet left out."""
        self.done += num_forwards
        if self.on_step and num_forwards:
            self.on_step(Step(self.done, self.total, self.result(maps())))


@dataclass(frozen=True)
class Options:
    """Arguments of :func:`explain` that the maps are made by; see there."""

    gamma: float
    num_closest: int
    batch_size: int | None
    signed: bool

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise BadSetting(f"gamma is {self.gamma}; it must be a number from 0 up.")
        if self.num_closest < 1:
            raise BadSetting(f"num_closest is {self.num_closest}; it must be 1 or more.")
        if self.batch_size is not None and self.batch_size < 1:
            raise BadSetting(f"batch_size is {self.batch_size}; it must be 1 or more.")


Cotangents = Callable[[Tensor, Tensor, Options], Tensor]


@dataclass(frozen=True)
class Evidence:
    """What maps are made of: one forward, cut at the layer, and gradients from the scores back to the cut.

    Attributes:
        model: The network.
        x: The picture as its input, (1, C, H, W).
        layer: The layer.
        raw: What the layer put out, as it put it out; the scores' graph begins here.
        scores: Class scores, (K,); empty where no class takes part.
        targets: Class indices, (T,); empty where no class takes part.
        options: As given.
        progress: To be told of every forward beyond the first.
    """

    model: LoadedModel
    x: Tensor
    layer: LayerInfo
    raw: Tensor
    scores: Tensor
    targets: Tensor
    options: Options
    progress: _Progress
    _gradients: dict[Cotangents, Tensor] = field(default_factory=dict)

    @property
    def activations(self) -> Tensor:
        """A, (C, h, w)."""
        return self.raw.detach()[0].movedim(self.layer.channel_dim - 1, 0)

    def gradients(self, cotangents: Cotangents) -> Tensor:
        """Of each target's score to A, (T, C, h, w); the same ones are computed once."""
        if cotangents not in self._gradients:
            rows = cotangents(self.scores.detach(), self.targets, self.options)
            found = [_vector_jacobian(self.scores, self.raw, some) for some in rows.split(_BATCH)]
            if any(g is None for g in found):
                raise NotApplicable(
                    f"The class scores do not depend on layer {self.layer.name}, so there is nothing to explain there; "
                    f"choose another, such as {default_layer(self.model)}."
                )
            self._gradients[cotangents] = torch.cat([g for g in found if g is not None])[:, 0].movedim(
                self.layer.channel_dim, 1
            )
        return self._gradients[cotangents]


def _vector_jacobian(scores: Tensor, raw: Tensor, rows: Tensor) -> Tensor | None:
    """(T, 1, ...) gradients of T weighted sums of the scores; None if these do not depend on the layer's output."""
    if not scores.requires_grad:
        return None
    if len(rows) > 1:
        with suppress(RuntimeError):  # where an operation has no rule for several gradients at once, or memory is short
            found: Sequence[Tensor | None] = torch.autograd.grad(
                scores, raw, rows, retain_graph=True, is_grads_batched=True, allow_unused=True
            )
            return found[0]
    each = [torch.autograd.grad(scores, raw, row, retain_graph=True, allow_unused=True)[0] for row in rows]
    return torch.stack(each) if isinstance(each[0], Tensor) else None


def _weigh(weights: Tensor, maps: Tensor) -> Tensor:
    """(T, h, w): for each target the sum of the maps (C, h, w), each times its weight (T, C)."""
    return (weights @ maps.flatten(1)).reshape(len(weights), *maps.shape[1:])


def _cam(e: Evidence) -> Tensor:
    return _weigh(*_head_sum(e))


def _head_sum(e: Evidence) -> tuple[Tensor, Tensor]:
    """Weights (T, C) and maps (C, h, w), whose weighed means are the scores less their biases."""
    maps = e.activations.relu() if e.model.anatomy.head.relu_before_pooling else e.activations
    weights = _head_weights(e.model, len(maps)).to(maps.device)
    if e.model.num_outputs == 1:  # as in LoadedModel.scores
        weights = torch.cat([-weights, weights])
    return weights[e.targets], maps


def _head_weights(model: LoadedModel, num_channels: int) -> Tensor:
    """(K, C) from maps to scores."""
    head = model.anatomy.head
    if head.kind == "conv_gap":  # one map per class
        return torch.eye(num_channels)
    weight = getattr(model.net.get_submodule(head.classifier), "weight", None)
    if not isinstance(weight, Tensor) or weight[0].numel() != num_channels:
        raise NotApplicable(
            f"CAM does not apply to {model.spec.title}: its head does not read the {num_channels} maps of "
            f"{head.feature_layer} with one weight each. Use Grad-CAM, which needs no special head."
        )
    return weight.detach().flatten(1)


def _grad_cam(maps: Tensor, g: Tensor) -> Tensor:
    return _weigh(g.mean((2, 3)), maps)


def _grad_cam_pp(maps: Tensor, g: Tensor) -> Tensor:
    # The paper's g^2 / (2 g^2 + g^3 sum(A)), with g^2 cancelled: no gradient is too small for it.
    denominator = 2 + g * maps.sum((1, 2), keepdim=True)
    alpha = torch.where(denominator.abs() > _ROUNDING, 1 / denominator, 0)
    return _weigh((alpha * g.relu()).sum((2, 3)), maps)


def _xgrad_cam(maps: Tensor, g: Tensor) -> Tensor:
    sums = maps.sum((1, 2))
    is_sound = sums.abs() > _ROUNDING * maps.abs().sum((1, 2))
    return _weigh(torch.where(is_sound, (g * maps).sum((2, 3)) / sums, 0), maps)


def _hires_cam(maps: Tensor, g: Tensor) -> Tensor:
    return (g * maps).sum(1)


def _layer_cam(maps: Tensor, g: Tensor) -> Tensor:
    return (g.relu() * maps).sum(1)


def _eigen_cam(e: Evidence) -> Tensor:
    maps = e.activations.flatten(1).cpu().numpy().astype(np.float64)
    maps -= maps.mean(axis=1, keepdims=True)
    _, singular, right = np.linalg.svd(maps, full_matrices=False)
    largest = np.argmax(np.abs(right[0]))
    projected = right[0] * singular[0] * np.sign(right[0, largest])
    return torch.from_numpy(projected.reshape(1, *e.activations.shape[1:]))


def _score_cam(e: Evidence) -> Tensor:
    flat = e.activations.flatten(1)
    is_flat = flat.amax(1) == flat.amin(1)
    weights = torch.zeros(len(e.targets), len(flat), device=flat.device)

    def maps() -> Tensor:
        return _weigh(weights, e.activations)

    e.progress.advance(int(is_flat.sum()), maps)
    varied, size = torch.nonzero(~is_flat).flatten(), e.options.batch_size or _BATCH
    for first in range(0, len(varied), size):
        channels = varied[first : first + size]
        masks = F.interpolate(e.activations[channels, None], e.x.shape[2:], mode="bilinear", align_corners=False)
        masks = masks - masks.amin((2, 3), keepdim=True)
        masks = masks / masks.amax((2, 3), keepdim=True).clamp_min(torch.finfo(masks.dtype).tiny)
        probabilities = e.model.probabilities(e.model.scores(e.model.net(e.x * masks)))
        weights[:, channels] = probabilities[:, e.targets].T
        e.progress.advance(len(channels), maps)
    return maps()


def _ablation_cam(e: Evidence) -> Tensor:
    head = e.model.anatomy.head
    is_sum = head.kind in ("gap_linear", "conv_gap") and head.output == "logits"
    drops = _head_drops(e) if is_sum and e.layer.name == head.feature_layer else _measured_drops(e)
    return _weigh_by_drops(e, drops)


def _weigh_by_drops(e: Evidence, drops: Tensor) -> Tensor:
    """(T, h, w) from what each score loses without each channel, (T, C)."""
    scores = e.scores[e.targets, None]
    return _weigh(drops / torch.where(scores == 0, 1, scores.abs()), e.activations)


def _head_drops(e: Evidence) -> Tensor:
    """(T, C) what each score loses without each channel, where the scores are a sum over the channels."""
    weights, maps = _head_sum(e)
    drops = weights * maps.mean((1, 2))
    e.progress.advance(len(maps), lambda: _weigh_by_drops(e, drops))
    return drops


def _measured_drops(e: Evidence) -> Tensor:
    """(T, C) what each score loses without each channel, by running the rest of the network without it."""
    num_channels = len(e.activations)
    size = e.options.batch_size or max(1, _ABLATION_BYTES // (e.activations.numel() * e.activations.element_size()))
    x, done = e.x, 0
    whole = e.scores.detach()[e.targets, None]
    drops = torch.zeros(len(e.targets), num_channels, dtype=whole.dtype, device=whole.device)
    while done < num_channels:
        channels = torch.arange(done, min(done + size, num_channels), device=e.x.device)
        scores = _ablated_scores(e, x[: len(channels)], channels)
        if scores is None:
            size = e.options.batch_size or _BATCH
            x = e.x.repeat(size, 1, 1, 1)
            continue
        drops[:, channels] = whole - scores.detach()[:, e.targets].T
        done += len(channels)
        e.progress.advance(len(channels), lambda: _weigh_by_drops(e, drops))
    return drops


def _ablated_scores(e: Evidence, x: Tensor, channels: Tensor) -> Tensor | None:
    """Scores (n, K) with one channel at a time set to zero; None where that needs a picture for each in x.

    With a single picture in x only the rest of the network runs n times, unless it joins the layer's output with maps
    that were made before, as by concatenation.
    """

    def ablate(output: Tensor) -> Tensor:
        batch = output[:1].repeat(len(channels), 1, 1, 1)
        batch.movedim(e.layer.channel_dim, 1)[torch.arange(len(channels)), channels] = 0
        return batch

    try:
        result = probe.resume(e.model.net, x, e.layer.name, ablate, call=e.layer.num_calls - 1)
    except RuntimeError:
        if len(x) == len(channels):
            raise
        return None
    return e.model.scores(result) if len(result) == len(channels) else None


def _class_score(scores: Tensor, targets: Tensor, _options: Options) -> Tensor:
    """(T, K): S_c alone."""
    return F.one_hot(targets, len(scores)).to(scores.dtype)


def _class_against_closest(scores: Tensor, targets: Tensor, options: Options) -> Tensor:
    """(T, K): S_c less gamma times the mean of the classes whose scores are closest to it."""
    distances = (scores - scores[targets, None]).abs().scatter(1, targets[:, None], torch.inf)
    closest = distances.topk(min(options.num_closest, len(scores) - 1), largest=False).indices
    return _class_score(scores, targets, options).scatter(1, closest, -options.gamma / closest.shape[1])


@dataclass(frozen=True)
class Method:
    """One member of the family.

    Attributes:
        title: The paper's name.
        help: What it does, in a sentence.
        source: Paper.
        cost: In words.
        needs: Key in :data:`doctor.CAPABILITIES`.
        maps: From the evidence to one map per target, (T, h, w), or one for all, (1, h, w); before clipping.
        clips: Whether the paper sets negative values to zero.
        per_channel: Whether it tries each channel, at a forward or the part of one after the layer; beyond the forward
            that every method begins with, which is not counted.
        needs_class: Whether it explains a class.
        is_fixed: Whether it is defined only at the layer that the head averages.
        variant_of: Key of the method that makes its maps, of another sum of scores, and so in the same unit; empty for
            a method of its own.
    """

    title: str
    help: str
    source: str
    cost: str
    needs: str
    maps: Callable[[Evidence], Tensor]
    clips: bool = True
    per_channel: bool = False
    needs_class: bool = True
    is_fixed: bool = False
    variant_of: str = ""


def _gradient_method(
    title: str,
    explanation: str,
    source: str,
    combine: Callable[[Tensor, Tensor], Tensor],
    cotangents: Cotangents = _class_score,
    variant_of: str = "",
) -> Method:
    """A method that makes its maps (T, h, w) of activations (C, h, w) and gradients (T, C, h, w)."""
    return Method(
        title,
        explanation,
        source,
        cost="one forward, and one backward as far as the layer",
        needs="grad_cam",
        maps=lambda e: combine(e.activations, e.gradients(cotangents)),
        variant_of=variant_of,
    )


METHODS: Mapping[str, Method] = {
    "cam": Method(
        "CAM",
        "Weighs each map as the last linear layer does; the map’s mean, plus a bias, is the class score.",
        "Zhou et al. 2016",
        cost="one forward",
        needs="cam",
        maps=_cam,
        clips=False,
        is_fixed=True,
    ),
    "grad_cam": _gradient_method(
        "Grad-CAM",
        "Weighs each map by the mean of the class score’s gradient over its cells.",
        "Selvaraju et al. 2017",
        _grad_cam,
    ),
    "grad_cam_pp": _gradient_method(
        "Grad-CAM++",
        "Counts positive gradients only, and more for maps with little activity, to find every object of the class.",
        "Chattopadhay et al. 2018, equation 19",
        _grad_cam_pp,
    ),
    "xgrad_cam": _gradient_method(
        "XGrad-CAM",
        "Weighs each map by the mean of its gradient, where a cell counts as much as it is active.",
        "Fu et al. 2020",
        _xgrad_cam,
    ),
    "hires_cam": _gradient_method(
        "HiResCAM",
        "Multiplies gradient and activation cell by cell, so that no place is credited for another.",
        "Draelos and Carin 2020",
        _hires_cam,
    ),
    "layer_cam": _gradient_method(
        "LayerCAM",
        "Like HiResCAM with positive gradients only; made for early, fine layers too.",
        "Jiang et al. 2021",
        _layer_cam,
    ),
    "score_cam": Method(
        "Score-CAM",
        "Masks the picture with each map and weighs the map by the probability that the class then has.",
        "Wang et al. 2020, weighed as in the authors’ code",
        cost="one forward per channel",
        needs="score_cam",
        maps=_score_cam,
        per_channel=True,
    ),
    "ablation_cam": Method(
        "Ablation-CAM",
        "Weighs each map by the share of the class score that is lost without it.",
        "Desai and Ramaswamy 2020",
        cost="the part of the network after the layer, once per channel",
        needs="score_cam",
        maps=_ablation_cam,
        per_channel=True,
    ),
    "eigen_cam": Method(
        "Eigen-CAM",
        "The direction in which the feature vectors of this picture differ most; it knows of no class.",
        "Muhammad and Yeasin 2020, with centred maps",
        cost="one forward",
        needs="eigen_cam",
        maps=_eigen_cam,
        clips=False,
        needs_class=False,
    ),
    "finer_cam": _gradient_method(
        "Finer-CAM",
        "Grad-CAM of what sets the class apart from the classes with the closest scores.",
        "Zhang et al. 2025",
        _grad_cam,
        _class_against_closest,
        variant_of="grad_cam",
    ),
}


def explain(
    model: LoadedModel,
    image: InputImage,
    *,
    method: str,
    layer: str | None = None,
    target: int | None = None,
    signed: bool = False,
    gamma: float = 0.6,
    num_closest: int = 3,
    batch_size: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Heatmap:
    """One map of the evidence for a class.

    An activation is what the layer itself put out, also where the network's code overwrites it later; of a layer that
    is called several times it is the last.

    Args:
        model: Any network that the method fits; see :func:`doctor.verdict` with the method's ``needs``.
        image: Any picture.
        method: A key of :data:`METHODS`.
        layer: Dotted name of a layer with maps; None takes :func:`default_layer`. CAM is defined there only.
        target: Class index; None takes the top prediction. Eigen-CAM has none. A single-logit head z has the scores
            -z and z for its classes 0 and 1.
        signed: Keep the evidence against, below zero, which most papers clip.
        gamma: How much Finer-CAM subtracts of the closest classes; 0 makes it Grad-CAM.
        num_closest: How many classes Finer-CAM subtracts the mean of.
        batch_size: Pictures that Score-CAM and Ablation-CAM run at a time; None chooses by the layer's size.
        on_step: Called after each of their batches, with the forwards done and as ``partial`` the map of the channels
            tried so far; what it raises ends the work.

    Returns:
        Raw values, (h, w) cells of the layer, 0 or above where the paper clips. CAM's average to the class score less
        its bias; HiResCAM's, signed, add up to the change of the score that the gradient promises if the layer were
        silent; the others compare within one map and one method only.

    Raises:
        BadSetting: No such method or class, or a number out of range.
        UnknownLayer: No layer of that name.
        NotApplicable: The network or the layer does not fit the method; the message says what does.
    """
    options = Options(gamma, num_closest, batch_size, signed=signed)

    def tell(step: Step) -> None:
        if on_step and isinstance(step.partial, dict):
            on_step(replace(step, partial=step.partial[method, target]))

    (heatmap,) = _explain(model, image, [method], layer, [target], options, on_step and tell).values()
    return heatmap


def explain_many(
    model: LoadedModel,
    image: InputImage,
    *,
    methods: Sequence[str],
    targets: Sequence[int],
    layer: str | None = None,
    signed: bool = False,
    gamma: float = 0.6,
    num_closest: int = 3,
    batch_size: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> dict[tuple[str, int], Heatmap]:
    """The maps of several methods and classes at one layer, from one forward and few backwards.

    A backward goes to the layer only, and is shared by all methods that explain the class scores: one for each 16
    classes. Finer-CAM explains other sums of scores and takes as many again. Networks with an operation that cannot
    take several gradients at once need one for each class.

    Score-CAM and Ablation-CAM need the same forwards for any number of classes. Eigen-CAM has the same map for all.

    Args:
        model: As in :func:`explain`, like everything that is not said here.
        image: Any picture.
        methods: Keys of :data:`METHODS`.
        targets: Class indices.
        layer: As in :func:`explain`.
        signed: As in :func:`explain`.
        gamma: As in :func:`explain`.
        num_closest: As in :func:`explain`.
        batch_size: As in :func:`explain`.
        on_step: As in :func:`explain`; counts the forwards of all methods together, and has a map of each method that
            was begun.

    Returns:
        For each method and target what :func:`explain` gives; ``run.seconds`` is the time of all together.

    Raises:
        BadSetting: As in :func:`explain`.
        UnknownLayer: No layer of that name.
        NotApplicable: As in :func:`explain`, if one of the methods does not fit.
    """
    options = Options(gamma, num_closest, batch_size, signed=signed)
    found = _explain(model, image, methods, layer, targets, options, on_step)
    return {(method, target): found[method, target] for method in methods for target in targets}


def contrast(
    model: LoadedModel,
    image: InputImage,
    *,
    method: str,
    target: int,
    against: int,
    layer: str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Heatmap:
    """Where the evidence is stronger for one class than for another: the difference of their unclipped maps.

    For methods that are linear in the gradient, such as Grad-CAM and HiResCAM, this is the map of the difference of
    the two scores, which Finer-CAM explains, too.

    Args:
        model: As in :func:`explain`.
        image: Any picture.
        method: A key of :data:`METHODS` that explains a class.
        target: Class index.
        against: Another class's index.
        layer: As in :func:`explain`.
        on_step: As in :func:`explain`.

    Returns:
        (h, w) signed: above zero for the first class, below for the other.

    Raises:
        BadSetting: As in :func:`explain`, or a method that explains no class.
        UnknownLayer: No layer of that name.
        NotApplicable: As in :func:`explain`.
    """
    if method in METHODS and not METHODS[method].needs_class:
        raise BadSetting(f"{METHODS[method].title} has one map for all classes; choose a method that explains a class.")

    def tell(step: Step) -> None:
        if on_step and isinstance(step.partial, dict):
            one, other = step.partial[method, target], step.partial[method, against]
            on_step(replace(step, partial=difference(one, against=other)))

    found = explain_many(
        model,
        image,
        methods=[method],
        targets=[target, against],
        layer=layer,
        signed=True,
        on_step=on_step and tell,
    )
    return difference(found[method, target], against=found[method, against])


def difference(heatmap: Heatmap, *, against: Heatmap) -> Heatmap:
    """What :func:`contrast` gives, from the two maps where they are there already.

    Args:
        heatmap: Unclipped map of the first class, of :func:`explain` or :func:`explain_many` with ``signed``.
        against: The same of the other class.

    Returns:
        As :func:`contrast`.

    Raises:
        BadSetting: The maps are clipped, or differ in more than their class.
    """
    settings = [{**each.run.settings, "target": None} for each in (heatmap, against)]
    places = [(each.run.weights_hash, each.run.image_digest) for each in (heatmap, against)]
    if settings[0] != settings[1] or places[0] != places[1]:
        raise BadSetting(
            "The two maps differ in more than their class; make both with the same network, picture, method, layer and "
            "settings."
        )
    if not settings[0].get("signed"):
        raise BadSetting("The maps are clipped at zero, so their difference says little; make both with signed=True.")
    made = {"method": heatmap.method, "target": heatmap.target, "against": against.target, "layer": heatmap.layer}
    run = replace(heatmap.run, method="cam.contrast", settings=made)
    label = f"{heatmap.target_label}, not {against.target_label}"
    return replace(heatmap, values=heatmap.values - against.values, target_label=label, run=run)


def default_layer(model: LoadedModel) -> str:
    """The last layer with maps, where each cell has seen most and the classes are best told apart.

    A ReLU that follows it as a plain function, as in DenseNet, is not part of it: the maps there may be negative. CAM,
    which explains the head, applies that ReLU; the other methods weigh what the layer put out.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    doctor.require(model, "eigen_cam")
    return model.anatomy.head.feature_layer or model.layers.spatial[-1].name


def _explain(
    model: LoadedModel,
    image: InputImage,
    methods: Sequence[str],
    layer_name: str | None,
    targets: Sequence[int | None],
    options: Options,
    on_step: Callable[[Step], None] | None,
) -> dict[tuple[str, int | None], Heatmap]:
    """Heatmaps by method and target as they were asked for."""
    start = time.perf_counter()
    chosen = {name: _method(model, name) for name in methods}
    layer = _layer(model, layer_name, chosen)
    needs_class = any(method.needs_class for method in chosen.values())
    if needs_class:
        for target in targets:
            model.check_class(target)
    if not targets:
        return {}
    shared: dict[str, Any] = {
        "layer": layer.name,
        "signed": options.signed,
        "gamma": options.gamma,
        "num_closest": options.num_closest,
    }

    def heatmaps(maps: Mapping[str, Tensor], so_far: str = "") -> dict[tuple[str, int | None], Heatmap]:
        seconds = time.perf_counter() - start
        found = {}
        for name, raw in maps.items():
            values = _values(chosen[name], raw, options)
            classes = evidence.targets.tolist() if chosen[name].needs_class else [None] * len(targets)
            for at, (asked, target) in enumerate(zip(targets, classes, strict=True)):
                label = "" if target is None else model.class_names[target]
                made = model.provenance("cam.explain", seconds, image=image, method=name, target=target, **shared)
                one = values[at if len(values) == len(targets) else 0]
                found[name, asked] = Heatmap(one, layer.name, target, label, name, made, so_far)
        return found

    maps: dict[str, Tensor] = {}
    num_forwards = layer.num_channels * sum(method.per_channel for method in chosen.values())
    progress = _Progress(
        on_step,
        num_forwards,
        lambda tried: heatmaps({**maps, working: tried}, f"{progress.done:,} of {num_forwards:,} forwards"),
    )
    with torch.inference_mode(mode=False), torch.enable_grad():
        look = _look if needs_class else _look_at_maps
        evidence = look(model, model.to_input(image), layer, targets, options, progress)
        for working, method in chosen.items():
            maps[working] = method.maps(evidence)
    return heatmaps(maps)


def _method(model: LoadedModel, name: str) -> Method:
    if name not in METHODS:
        raise BadSetting(f"{name!r} is not a CAM method; choose one of {', '.join(METHODS)}.")
    doctor.require(model, METHODS[name].needs)
    return METHODS[name]


def _layer(model: LoadedModel, name: str | None, methods: Mapping[str, Method]) -> LayerInfo:
    default = default_layer(model)
    layer = model.layers[name or default]
    if layer.cells is None:
        raise NotApplicable(
            f"Layer {name} puts out a vector of {layer.num_channels} values, not maps; choose a layer before the "
            f"pooling, such as {default}."
        )
    for method in methods.values():
        if method.is_fixed and layer.name != default:
            raise NotApplicable(
                f"{method.title} is defined at {default} only, whose maps the head averages; for layer {layer.name} "
                "use Grad-CAM."
            )
    return layer


def _look(
    model: LoadedModel,
    x: Tensor,
    layer: LayerInfo,
    targets: Sequence[int | None],
    options: Options,
    progress: _Progress,
) -> Evidence:
    """One forward, whose graph begins at the layer."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    result = probe.resume(model.net, x, layer.name, keep, call=layer.num_calls - 1)
    if not kept:
        raise NotApplicable(
            f"This network chooses its way by the picture, and here it did not come through layer {layer.name} as "
            "often as usual; choose another layer."
        )
    scores = model.scores(result)[0]
    classes = [int(scores.argmax()) if target is None else target for target in targets]
    return Evidence(model, x, layer, kept[0], scores, torch.tensor(classes, device=x.device), options, progress)


def _look_at_maps(
    model: LoadedModel,
    x: Tensor,
    layer: LayerInfo,
    _targets: Sequence[int | None],
    options: Options,
    progress: _Progress,
) -> Evidence:
    """A forward as far as the layer, for methods that ask for no class."""
    recording = probe.record(model.net, x, [layer.name], stop_after={layer.name: layer.num_calls})
    raw = recording.outputs[layer.name][-1]
    return Evidence(model, x, layer, raw, x.new_empty(0), torch.empty(0, dtype=torch.long), options, progress)


def _values(method: Method, maps: Tensor, options: Options) -> FloatArray:
    """(T, h, w), or (1, h, w) where all classes have the same map."""
    kept = maps.relu() if method.clips and not options.signed else maps
    values: FloatArray = kept.detach().float().cpu().numpy()
    return values
