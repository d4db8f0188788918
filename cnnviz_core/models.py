"""Networks by name, from a checkpoint, or from any module, loaded once and shared by everybody.

A :class:`LoadedModel` is set up in :func:`load` and never touched again: eval mode, frozen parameters, no in-place
activations. Methods look into it through :mod:`cnnviz_core.probe`, which works on private copies.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnviz_core import anatomy, catalogue, checkpoints, convolution, layers, probe, settings, store
from cnnviz_core.anatomy import Anatomy, Head
from cnnviz_core.checkpoints import Match
from cnnviz_core.errors import BadCheckpoint, BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerTree
from cnnviz_core.preprocessing import Preprocessing
from cnnviz_core.probe import DryRun
from cnnviz_core.results import FloatArray, Predictions, Run

DEFAULT_MODEL = catalogue.DEFAULT_MODEL
_MODULE = "module/"


@dataclass(frozen=True)
class ModelSpec:
    """Which network this is.

    Attributes:
        model_id: "timm/<name>", "torchvision/<name>" or "module/<name>".
        weights: "default", "random:SEED", or a checkpoint's file name.
        weights_hash: Digest of all parameters and buffers.
        preprocessing_changes: Fields of Preprocessing that were given in place of the published ones.
        checkpoint_id: "checkpoint/<name>-<digest>" of one kept in the data folder, else empty.
    """

    model_id: str
    weights: str
    weights_hash: str
    preprocessing_changes: Mapping[str, object] = field(default_factory=dict, compare=False)
    checkpoint_id: str = field(default="", compare=False)

    @property
    def is_trained(self) -> bool:
        """Whether the weights are anything but a random draw."""
        return not self.weights.startswith("random:")

    @property
    def title(self) -> str:
        """What to call the network on screen; an untrained one is always named so."""
        name = self.model_id.partition("/")[2]
        if not self.is_trained:
            return f"{name} (untrained, seed {self.weights.removeprefix('random:')})"
        return name if self.weights == "default" else f"{name} ({self.weights})"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network ready to be looked into.

    Attributes:
        spec: Which network this is.
        net: The module, shared by all threads; in eval mode, frozen, never to be changed.
        preprocessing: From pixels to its input.
        layers: Its layers, from one dry run.
        class_names: One per class; empty for a network without a classifier.
        device: Where it computes.
        anatomy: What it is made of: head, activations, pooling.
        num_outputs: Values that the network puts out for one picture.
    """

    spec: ModelSpec
    net: nn.Module
    preprocessing: Preprocessing
    layers: LayerTree
    class_names: tuple[str, ...]
    device: torch.device
    anatomy: Anatomy
    num_outputs: int

    @property
    def num_classes(self) -> int:
        """Number of classes; 2 for a single-logit head, 0 without a classifier."""
        return len(self.class_names)

    @cached_property
    def is_static(self) -> bool:
        """Whether a dark and a bright input ran through the same operations; a network that looks at its input to
        choose its way takes two.
        """
        noise = _noise(self.preprocessing).to(self.device)
        dark, bright = (probe.dry_run(self.net, noise + shift).operations for shift in (-1, 1))
        return dark == bright

    def check_class(self, index: int | None) -> None:
        """Passes where there is such a class, or None is asked for.

        Raises:
            BadSetting: There is not.
        """
        if index is not None and not 0 <= index < self.num_classes:
            raise BadSetting(f"There is no class {index}; {self.spec.title} has classes 0 to {self.num_classes - 1}.")

    def to_input(self, image: InputImage) -> Tensor:
        """The picture as the network's input on its device, (1, C, H, W)."""
        return self.preprocessing.to_input(image).to(self.device)

    def scores(self, result: Tensor) -> Tensor:
        """Class scores before the softmax, (N, K), from what the network returned.

        A single-logit head z gives the scores (-z, z) for its classes 0 and 1. Where the network ends in a
        softmax or sigmoid, the scores are the logarithms that lead to the same probabilities.

        Raises:
            NotApplicable: The network has no classifier.
        """
        output = self.anatomy.head.output
        if output == "features":
            raise NotApplicable(
                f"{self.spec.title} has no classifier, so there is no class score; look at its feature maps instead."
            )
        scores = result.reshape(len(result), -1)
        if output == "softmax":
            scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        elif output == "sigmoid":
            scores = torch.logit(scores, eps=1e-7)
        return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores

    def probabilities(self, scores: Tensor) -> Tensor:
        """Softmax of the scores (N, K); where every class is a yes or no of its own, their sigmoid.

        That is so for a single-logit head, where the two probabilities add up to 1, and for a network that ends in a
        sigmoid, where they need not.
        """
        independent = self.num_outputs == 1 or self.anatomy.head.output == "sigmoid"
        return torch.sigmoid(scores) if independent else torch.softmax(scores, dim=1)

    @torch.no_grad()
    def predict(self, image: InputImage, k: int = 5) -> Predictions:
        """The k most probable classes.

        Args:
            image: Any picture; the preprocessing fits it to the network.
            k: How many, at least 1; more than there are classes means all.

        Raises:
            NotApplicable: The network has no classifier.
        """
        return self.predictions(self.net(self.to_input(image)), k)

    def predictions(self, result: Tensor, k: int = 5) -> Predictions:
        """The k most probable classes, from what the network returned for one picture.

        Raises:
            NotApplicable: The network has no classifier.
        """
        scores = self.scores(result)
        probabilities = self.probabilities(scores)[0]
        best = torch.topk(scores[0], max(1, min(k, self.num_classes)))
        indices = best.indices.tolist()
        return Predictions(
            indices=tuple(indices),
            labels=tuple(self.class_names[i] for i in indices),
            probabilities=tuple(probabilities[best.indices].tolist()),
            logits=tuple(best.values.tolist()),
        )

    def first_answers(self, scores: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        """The most probable class and its probability for each row of scores (N, K): (N,) and (N,)."""
        known = torch.from_numpy(np.array(scores, dtype=np.float32))
        best = known.argmax(dim=1)
        return best.numpy(), self.probabilities(known).gather(1, best[:, None])[:, 0].numpy()

    def provenance(
        self,
        method: str,
        seconds: float,
        /,
        *,
        image: InputImage | None = None,
        seed: int | None = None,
        **settings: object,
    ) -> Run:
        """How a result was made with this network, for the result's ``run``."""
        return Run(
            model_id=self.spec.model_id,
            weights=self.spec.weights,
            weights_hash=self.spec.weights_hash,
            method=method,
            settings=settings,
            seconds=seconds,
            image_digest=image.digest if image else "",
            seed=seed,
            preprocessing_changes=self.spec.preprocessing_changes,
        )


_BUILD_LOCK = threading.Lock()
_MOST_CLASSES = 200_000  # of which a page can offer the choice


def load(
    model_id: str,
    *,
    device: str = "auto",
    weights: str | Path = "default",
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, object] | None = None,
    name: str = "",
) -> LoadedModel:
    """A network of the catalogue with published, random or one's own weights, or a checkpoint of the data folder.

    Args:
        model_id: "timm/<name>" or "torchvision/<name>"; "checkpoint/<name>-<digest>" brings its own weights, class
            names, preprocessing and name.
        device: "auto" takes CUDA, else Apple's MPS, else the CPU; or any torch device.
        weights: "default" for the published weights: from an installed package if there is one, else from this
            machine's download cache, else downloaded. "random:SEED" for an untrained network. A path for a checkpoint
            of one's own: .safetensors, or a state dict saved by torch; never unpickled. The number of classes, and
            whether it reads colour or grey, are read from it.
        class_names: One per class, where the published names do not fit.
        preprocessing: Fields of :class:`Preprocessing` that differ from the published ones: input_px, mean, std...
        name: What to call a checkpoint; its file name by default.

    Raises:
        UnknownModel: Not in the catalogue.
        WeightsUnavailable: The published weights could not be fetched.
        BadCheckpoint: The checkpoint cannot be read safely, or does not fit; or class_names has the wrong length.
        BadSetting: An unknown device or an impossible preprocessing.
    """
    if model_id.startswith("checkpoint/"):
        return _kept(store.checkpoint(model_id), device, preprocessing or {})
    changes = _as_tuples(preprocessing or {})
    fit = _preprocessing(model_id, changes)
    if isinstance(weights, Path):
        net = _from_checkpoint(model_id, weights)
        label = name or weights.name
    elif weights == "default":
        net = _published(model_id)
        label = weights
    else:
        net = _untrained(model_id, num_channels=fit.num_channels, seed=_seed(weights))
        label = weights
    return _set_up(net, model_id, label, _with_channels(fit, net), changes, class_names, pick_device(device))


def _kept(card: store.Card, device: str, preprocessing: Mapping[str, object]) -> LoadedModel:
    """A checkpoint of the data folder."""
    loaded = load(
        card.architecture,
        device=device,
        weights=card.path,
        class_names=card.class_names or None,
        preprocessing={**card.preprocessing, **preprocessing},
        name=card.name,
    )
    return replace(loaded, spec=replace(loaded.spec, checkpoint_id=card.checkpoint_id))


def from_module(
    module: nn.Module,
    *,
    input_px: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] | None = None,
    name: str,
    device: str = "auto",
) -> LoadedModel:
    """Any module that takes (N, C, H, W) and returns class scores or features. The module given is copied, not changed.

    Args:
        module: The network.
        input_px: Side, or (H, W), of its input.
        mean: Per channel, for pixels scaled to 0..1; one value for a grey network.
        std: Likewise.
        class_names: One per class; two for a single-logit head.
        name: What to call it.
        device: As in :func:`load`.

    Raises:
        BadSetting: The network cannot be copied, does not take such an input, or does not return one tensor with a row
            per picture.
        BadCheckpoint: class_names has the wrong length.
    """
    size = (input_px, input_px) if isinstance(input_px, int) else input_px
    fit = Preprocessing(size, tuple(mean), tuple(std))
    changes = {"input_px": fit.input_px, "mean": fit.mean, "std": fit.std}
    try:
        net = copy.deepcopy(module)
    except Exception as error:  # a module may hold anything
        raise BadSetting(
            f"{name} cannot be copied ({error}). Take off what cannot, such as a weight norm, or give a fresh network."
        ) from error
    return _set_up(net, f"{_MODULE}{name}", "default", fit, changes, class_names, pick_device(device))


def pick_device(device: str) -> torch.device:
    """The torch device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        BadSetting: No such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.ones(1, device=chosen).item()
    except (RuntimeError, AssertionError) as error:
        raise BadSetting(f"Device {device!r} does not work on this machine; choose auto or cpu.") from error
    return chosen


def _seed(weights: str) -> int:
    kind, _, seed = weights.partition(":")
    if kind != "random" or not seed.isdecimal() or int(seed) >= 2**63:
        raise BadSetting(
            f"weights is {weights!r}; write 'default', 'random:SEED' with a whole number, or the Path of a file."
        )
    return int(seed)


def _as_tuples(changes: Mapping[str, object]) -> dict[str, object]:
    """Lists, as JSON has them, as tuples; a single input size as a square."""
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    side = tuples.get("input_px")
    return {**tuples, "input_px": (side, side)} if isinstance(side, int) else tuples


def _preprocessing(model_id: str, changes: Mapping[str, object]) -> Preprocessing:
    published = catalogue.preprocessing_config(model_id)
    known = {field.name: published[field.name] for field in fields(Preprocessing)}  # type: ignore[literal-required]
    if unknown := set(changes) - set(known):
        raise BadSetting(f"preprocessing has no {', '.join(sorted(unknown))}; it has {', '.join(known)}.")
    return Preprocessing(**{**known, **changes})


def _with_channels(fit: Preprocessing, net: nn.Module) -> Preprocessing:
    """Mean and standard deviation for as many channels as the network reads: averaged for grey, repeated for colour."""
    first = _first_convolution(net)
    num_channels = first[1].in_channels if first else fit.num_channels
    if num_channels == fit.num_channels or num_channels not in (1, 3):
        return fit
    mean, std = (
        values * 3 if num_channels == 3 else (round(sum(values) / len(values), 6),) for values in (fit.mean, fit.std)
    )
    return replace(fit, mean=mean, std=std)


def _first_convolution(net: nn.Module) -> tuple[str, nn.Conv2d] | None:
    return next(((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), None)


def _published(model_id: str) -> nn.Module:
    if not catalogue.find(model_id).ready:
        catalogue.download(model_id)
    with _BUILD_LOCK, torch.random.fork_rng(devices=[]):  # the weights drawn before the published ones replace them
        return catalogue.create_pretrained(model_id)


def _from_checkpoint(model_id: str, path: Path) -> nn.Module:
    state = checkpoints.read_state_dict(path, max_mb=settings.current().max_checkpoint_mb)
    net, match = fitted(model_id, state, path.name)
    for tensor_name, tensor in match.state.items():
        if count := checkpoints.count_non_finite({tensor_name: tensor}):
            raise BadCheckpoint(
                f"{path.name} has {count:,} of {tensor.numel():,} values in {tensor_name} that are not finite numbers, "
                "as after a training that diverged. Use weights saved before that."
            )
    net.load_state_dict(match.state, strict=False)
    return net


def fitted(model_id: str, state: Mapping[str, Tensor], file_name: str) -> tuple[nn.Module, Match]:
    """An untrained network of as many channels and classes as a state dict has, and how the two match.

    Args:
        model_id: As in :func:`load`.
        state: Tensors by name.
        file_name: What to call them.

    Raises:
        BadCheckpoint: They do not fit.
    """
    net = _untrained(model_id)
    match = checkpoints.match(state, net.state_dict())
    num_channels = _channels_in(match, net, file_name)
    if num_channels != 3:
        net = _untrained(model_id, num_channels=num_channels)
        match = checkpoints.match(state, net.state_dict())
    if match.head_classes:
        if match.head_classes[0] > _MOST_CLASSES:
            raise BadCheckpoint(
                f"{file_name} has {match.head_classes[0]:,} classes; cnnviz shows up to {_MOST_CLASSES:,}. Use a "
                "network with fewer, or save its last layer for the classes that you want to look at."
            )
        net = _untrained(model_id, num_channels=num_channels, num_classes=match.head_classes[0])
        match = checkpoints.match(state, net.state_dict())
    if not match.fits:
        raise BadCheckpoint(
            f"{file_name} does not fit {model_id}. {match.report()} Choose the architecture it was saved from."
        )
    return net, match


def _channels_in(match: Match, net: nn.Module, file_name: str) -> int:
    """Channels of the picture that a checkpoint's first convolution reads; 3 where it tells nothing else."""
    first = _first_convolution(net)
    for wrong in match.wrong_shape:
        same_otherwise = wrong.found[:1] + wrong.found[2:] == wrong.expected[:1] + wrong.expected[2:]
        if first and wrong.name == f"{first[0]}.weight" and same_otherwise:
            if wrong.found[1] != 1:
                raise BadCheckpoint(
                    f"{file_name} reads pictures of {wrong.found[1]} channels; cnnviz has pictures of 3 (colour) or 1 "
                    "(grey) to show it. Use a network trained on those."
                )
            return 1
    return 3


def _untrained(model_id: str, *, num_channels: int = 3, num_classes: int | None = None, seed: int = 0) -> nn.Module:
    """Fresh weights. They are drawn from torch's global generator, so one at a time, and it is put back after."""
    options = {} if num_channels == 3 else {"in_chans": num_channels}
    if options and not model_id.startswith("timm/"):
        raise BadSetting(f"{model_id} takes colour pictures only; a grey network needs an architecture of timm.")
    with _BUILD_LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return catalogue.create(model_id, num_classes=num_classes, **options)


def _set_up(
    net: nn.Module,
    model_id: str,
    weights: str,
    preprocessing: Preprocessing,
    changes: Mapping[str, object],
    class_names: Sequence[str] | None,
    device: torch.device,
) -> LoadedModel:
    num_frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    net = net.float().eval().requires_grad_(requires_grad=False).to(device)
    num_in_place_modules = _switch_in_place_off(net)
    noise = _noise(preprocessing).to(device)
    run = _run_dry(net, model_id, noise - 1)
    tree = layers.describe(net, run)
    found = anatomy.describe(
        net, noise - 1, run, tree, num_in_place_modules=num_in_place_modules, num_frozen=num_frozen
    )
    if class_names is None and catalogue.gives_embeddings(model_id):
        found = replace(found, head=replace(found.head, kind="none", classifier="", output="features"))
    return LoadedModel(
        spec=ModelSpec(model_id, weights, _weights_hash(net), changes),
        net=net,
        preprocessing=preprocessing,
        layers=tree,
        class_names=_class_names(model_id, class_names, found.head, run),
        device=device,
        anatomy=found,
        num_outputs=run.result[0].numel(),
    )


def _switch_in_place_off(net: nn.Module) -> int:
    """An activation that overwrites its input would rewrite what the layer before it put out."""
    in_place = [module for module in net.modules() if getattr(module, "inplace", False) is True]
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
        setattr(module, convolution.WAS_IN_PLACE, True)
    return len(in_place)


def _noise(preprocessing: Preprocessing) -> Tensor:
    shape = (1, preprocessing.num_channels, *preprocessing.input_px)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _run_dry(net: nn.Module, model_id: str, x: Tensor) -> DryRun:
    """A dry run that gave one tensor for one picture."""
    try:
        run = probe.dry_run(net, x)
    except Exception as error:  # a network of one's own can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadSetting(
            f"{model_id} does not take an input of {tuple(x.shape)}: {reason} Check the input size and the number of "
            "channels."
        ) from error
    if not isinstance(run.result, Tensor):
        raise BadSetting(
            f"{model_id} returned a {type(run.result).__name__}, not a tensor; wrap it in a module that returns its "
            "class scores."
        )
    if run.result.shape[:1] != (1,):
        raise BadSetting(
            f"{model_id} returned a tensor of shape {tuple(run.result.shape)} for one picture; its first dimension "
            "must be the number of pictures."
        )
    return run


def _class_names(model_id: str, given: Sequence[str] | None, head: Head, run: DryRun) -> tuple[str, ...]:
    if head.output == "features":
        return ()
    num_classes = max(2, run.result[0].numel())
    if given is not None:
        checkpoints.check_class_names(tuple(given), num_classes)
        return tuple(given)
    published = () if model_id.startswith(_MODULE) else catalogue.class_names(model_id, num_classes)
    return published or tuple(f"class {i}" for i in range(num_classes))


def _weights_hash(net: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
