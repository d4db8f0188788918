"""Networks by name, from a checkpoint, or from any module, loaded once and shared by everybody.

A :class:`LoadedModel` is set up in :func:`load` and never touched again: eval mode, frozen parameters, no in-place
activations. Methods look into it through :mod:`cnnviz_core.probe`, which works on private copies.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnviz_core import anatomy, catalogue, checkpoints, layers, probe, settings
from cnnviz_core.anatomy import Anatomy, Head
from cnnviz_core.errors import BadCheckpoint, BadSetting, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerTree
from cnnviz_core.preprocessing import Preprocessing
from cnnviz_core.probe import DryRun
from cnnviz_core.results import Predictions, Run

DEFAULT_MODEL = catalogue.DEFAULT_MODEL


@dataclass(frozen=True)
class ModelSpec:
    """Which network this is.

    Attributes:
        model_id: "timm/<name>", "torchvision/<name>" or "module/<name>".
        weights: "default", "random:SEED", or a checkpoint's file name.
        weights_hash: Digest of all parameters and buffers.
    """

    model_id: str
    weights: str
    weights_hash: str

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
        scores = result.flatten(1)
        if output == "softmax":
            scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        elif output == "sigmoid":
            scores = torch.logit(scores, eps=1e-7)
        return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores

    def probabilities(self, scores: Tensor) -> Tensor:
        """Softmax of the scores (N, K); for a single-logit head the sigmoid of its logit."""
        return torch.softmax(scores / 2 if self.num_outputs == 1 else scores, dim=1)

    @torch.no_grad()
    def predict(self, image: InputImage, k: int = 5) -> Predictions:
        """The k most probable classes.

        Args:
            image: Any picture; the preprocessing fits it to the network.
            k: How many, at least 1; more than there are classes means all.

        Raises:
            NotApplicable: The network has no classifier.
        """
        scores = self.scores(self.net(self.to_input(image)))
        probabilities = self.probabilities(scores)[0]
        best = torch.topk(scores[0], max(1, min(k, self.num_classes)))
        indices = best.indices.tolist()
        return Predictions(
            indices=tuple(indices),
            labels=tuple(self.class_names[i] for i in indices),
            probabilities=tuple(probabilities[best.indices].tolist()),
            logits=tuple(best.values.tolist()),
        )

    def provenance(
        self,
        method: str,
        seconds: float,
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
        )


_BUILD_LOCK = threading.Lock()


def load(
    model_id: str,
    *,
    device: str = "auto",
    weights: str | Path = "default",
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, object] | None = None,
    name: str = "",
) -> LoadedModel:
    """A network of the catalogue with published, random or one's own weights.

    Args:
        model_id: "timm/<name>" or "torchvision/<name>".
        device: "auto" takes CUDA, else Apple's MPS, else the CPU; or any torch device.
        weights: "default" for the published weights: from an installed package if there is one, else from this machine's
            download cache, else downloaded. "random:SEED" for an untrained network. A path for a checkpoint of one's own:
            .safetensors, or a state dict saved by torch; never unpickled.
        class_names: One per class, where the published names do not fit.
        preprocessing: Fields of :class:`Preprocessing` that differ from the published ones: input_px, mean, std...
        name: What to call a checkpoint; its file name by default.

    Raises:
        UnknownModel: Not in the catalogue.
        WeightsUnavailable: The published weights could not be fetched.
        BadCheckpoint: The checkpoint cannot be read safely, or does not fit; or class_names has the wrong length.
        BadSetting: An unknown device or an impossible preprocessing.
    """
    fit = _preprocessing(model_id, preprocessing or {})
    if isinstance(weights, Path):
        net = _from_checkpoint(model_id, weights, fit.num_channels)
        label = name or weights.name
    elif weights == "default":
        net = _published(model_id)
        label = weights
    else:
        net = _untrained(model_id, num_channels=fit.num_channels, seed=_seed(weights))
        label = weights
    return _set_up(net, model_id, label, fit, class_names, pick_device(device))


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
        BadSetting: The network does not take such an input.
        BadCheckpoint: class_names has the wrong length.
    """
    size = (input_px, input_px) if isinstance(input_px, int) else tuple(input_px)
    preprocessing = Preprocessing(size, tuple(mean), tuple(std))  # type: ignore[arg-type]
    return _set_up(copy.deepcopy(module), f"module/{name}", "default", preprocessing, class_names, pick_device(device))


def pick_device(device: str) -> torch.device:
    """The torch device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        BadSetting: No such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BadSetting(f"Device {device!r} does not work on this machine; choose auto or cpu.") from error
    return chosen


def _seed(weights: str) -> int:
    kind, _, seed = weights.partition(":")
    if kind != "random" or not seed.isdecimal():
        raise BadSetting(f"weights is {weights!r}; write 'default', 'random:SEED' with a whole number, or a path.")
    return int(seed)


def _preprocessing(model_id: str, changes: Mapping[str, object]) -> Preprocessing:
    published = catalogue.preprocessing_config(model_id)
    known = {field.name: published[field.name] for field in fields(Preprocessing)}  # type: ignore[literal-required]
    if unknown := set(changes) - set(known):
        raise BadSetting(f"preprocessing has no {', '.join(sorted(unknown))}; it has {', '.join(known)}.")
    return Preprocessing(**{**known, **changes})


def _published(model_id: str) -> nn.Module:
    if not catalogue.find(model_id).ready:
        catalogue.download(model_id)
    with _BUILD_LOCK:
        return catalogue.create_pretrained(model_id)


def _from_checkpoint(model_id: str, path: Path, num_channels: int) -> nn.Module:
    state = checkpoints.read_state_dict(path, max_mb=settings.current().max_checkpoint_mb)
    net = _untrained(model_id, num_channels=num_channels)
    match = checkpoints.match(state, net.state_dict())
    if match.head_classes:
        net = _untrained(model_id, num_channels=num_channels, num_classes=match.head_classes[0])
        match = checkpoints.match(state, net.state_dict())
    if not match.fits:
        raise BadCheckpoint(
            f"{path.name} does not fit {model_id}. {match.report()} Choose the architecture it was saved from."
        )
    net.load_state_dict(match.state, strict=False)
    return net


def _untrained(model_id: str, *, num_channels: int, num_classes: int | None = None, seed: int = 0) -> nn.Module:
    """Fresh weights. They are drawn from torch's global generator, so one at a time, and it is put back after."""
    options = {} if num_channels == 3 else {"in_chans": num_channels}
    if options and not model_id.startswith("timm/"):
        raise BadSetting(f"{model_id} takes colour pictures only; a grey network needs an architecture of timm.")
    with _BUILD_LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return catalogue.create(model_id, num_classes=num_classes, **options)


def _set_up(
    net: nn.Module,
    model_id: str,
    weights: str,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    device: torch.device,
) -> LoadedModel:
    num_frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    net = net.float().eval().requires_grad_(False).to(device)
    num_in_place_modules = _switch_in_place_off(net)
    run, is_static = _run_dry(net, model_id, preprocessing, device)
    head = anatomy.head_of(net, run)
    return LoadedModel(
        spec=ModelSpec(model_id, weights, _weights_hash(net)),
        net=net,
        preprocessing=preprocessing,
        layers=layers.describe(net, run),
        class_names=_class_names(model_id, class_names, head, run),
        device=device,
        anatomy=Anatomy(
            head=head,
            activations=anatomy.activations_of(net, run.operations),
            poolings=anatomy.poolings_of(run.operations),
            num_in_place=anatomy.num_in_place(run.operations),
            num_in_place_modules=num_in_place_modules,
            num_frozen=num_frozen,
            num_params=sum(p.numel() for p in net.parameters()),
            is_static=is_static,
        ),
        num_outputs=run.result[0].numel(),
    )


def _switch_in_place_off(net: nn.Module) -> int:
    """An activation that overwrites its input would rewrite what the layer before it put out."""
    in_place = [module for module in net.modules() if getattr(module, "inplace", False) is True]
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
    return len(in_place)


def _run_dry(net: nn.Module, model_id: str, preprocessing: Preprocessing, device: torch.device) -> tuple[DryRun, bool]:
    """A dry run, and whether another input takes the same way through the network."""
    shape = (1, preprocessing.num_channels, *preprocessing.input_px)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        run, other = probe.dry_run(net, noise), probe.dry_run(net, torch.zeros(shape, device=device))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise BadSetting(
            f"{model_id} does not take an input of {shape}: {str(error).splitlines()[0]} "
            "Check the input size and the number of channels."
        ) from error
    if not isinstance(run.result, Tensor):
        raise BadSetting(
            f"{model_id} returned a {type(run.result).__name__}, not a tensor; wrap it in a module that returns its "
            "class scores."
        )
    return run, run.operations == other.operations


def _class_names(model_id: str, given: Sequence[str] | None, head: Head, run: DryRun) -> tuple[str, ...]:
    if head.output == "features":
        return ()
    num_classes = max(2, run.result[0].numel())
    if given is not None:
        checkpoints.check_class_names(tuple(given), num_classes)
        return tuple(given)
    published = catalogue.class_names(model_id, num_classes)
    return published or tuple(f"class {i}" for i in range(num_classes))


def _weights_hash(net: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
