"""The model doctor: what a network is made of, and which pages and methods are right for it.

One table of capabilities decides everywhere: pages take their enabled or disabled state from it, and methods raise
:class:`NotApplicable` with the same reason and alternative that the doctor's page shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cnnviz_core.errors import NotApplicable
from cnnviz_core.models import LoadedModel


class Status(StrEnum):
    """How well a capability fits a network."""

    WORKS = "works"
    APPROXIMATE = "approximate"
    NOT = "not"


@dataclass(frozen=True)
class Verdict:
    """Whether a capability fits a network, why, and what to use instead where it does not."""

    status: Status
    reason: str
    instead: str = ""

    @property
    def usable(self) -> bool:
        """Whether a result may be shown at all."""
        return self.status is not Status.NOT


@dataclass(frozen=True)
class Capability:
    """A page or a method that a network may or may not allow."""

    title: str
    page: str
    judge: Callable[[LoadedModel], Verdict]


@dataclass(frozen=True)
class Fact:
    """One line of what a network is made of, in words, with what it means."""

    name: str
    value: str
    meaning: str


def verdict(model: LoadedModel, capability: str) -> Verdict:
    """Whether a capability fits the network.

    Args:
        model: Any network.
        capability: A key of :data:`CAPABILITIES`.
    """
    return CAPABILITIES[capability].judge(model)


def require(model: LoadedModel, capability: str) -> None:
    """Passes where a capability fits, if only approximately.

    Raises:
        NotApplicable: It does not; the message gives the reason and the alternative.
    """
    found = verdict(model, capability)
    if not found.usable:
        title = CAPABILITIES[capability].title
        raise NotApplicable(f"{title} does not apply to {model.spec.title}: {found.reason} {found.instead}".rstrip())


def _maps(model: LoadedModel) -> Verdict:
    if model.layers.spatial:
        return Verdict(Status.WORKS, f"{len(model.layers.spatial)} layers put out maps.")
    return Verdict(Status.NOT, "no layer puts out a map with more than one cell.", "Use a network with convolutions.")


def _kernels(model: LoadedModel) -> Verdict:
    if model.layers.convolutions:
        return Verdict(Status.WORKS, f"{len(model.layers.convolutions)} convolutions have kernels to show.")
    return Verdict(Status.NOT, "it has no convolution.", "Look at its feature maps instead.")


def _class_scores(model: LoadedModel) -> Verdict:
    if model.num_classes:
        return Verdict(Status.WORKS, f"the head gives scores for {model.num_classes:,} classes.")
    return Verdict(Status.NOT, "it has no classifier, so there is no class to explain.", "Explain a unit of a layer.")


def _answer_to_change(model: LoadedModel) -> Verdict:
    if model.num_classes:
        return Verdict(Status.WORKS, f"its answer is one of {model.num_classes:,} classes.")
    return Verdict(
        Status.NOT, "it has no classifier, so there is no answer to change.", "Use a network with class scores."
    )


def _class_and_maps(model: LoadedModel) -> Verdict:
    scores, maps = _class_scores(model), _maps(model)
    if not maps.usable:
        return maps
    if not scores.usable:
        return Verdict(Status.NOT, scores.reason, "Use Eigen-CAM, which needs no class.")
    return Verdict(Status.WORKS, "it has class scores and maps.")


def _class_or_unit(model: LoadedModel) -> Verdict:
    if model.num_classes:
        return Verdict(Status.WORKS, "gradients of any class score, or of any unit, reach the picture.")
    return Verdict(Status.APPROXIMATE, "there is no class score; it explains a unit of a layer.")


def _cam(model: LoadedModel) -> Verdict:
    head = model.anatomy.head
    use_grad_cam = "Use Grad-CAM, which needs no special head."
    if head.kind == "gap_linear":
        return Verdict(
            Status.WORKS, f"the maps of {head.feature_layer} are averaged over all places and read by one linear layer."
        )
    if head.kind == "conv_gap":
        return Verdict(Status.WORKS, "a 1x1 convolution gives one map per class, and their averages are the scores.")
    if head.kind == "gap_norm_linear":
        return Verdict(
            Status.APPROXIMATE,
            "a normalisation stands between the global average pooling and the linear layer; CAM leaves it out.",
            use_grad_cam,
        )
    if head.kind == "none":
        return Verdict(Status.NOT, "it has no classifier.", "Use Eigen-CAM, which needs no class.")
    found = {
        "several": "its head does more than that",
        "flatten_linear": "its linear layer reads every place with weights of its own",
    }[head.kind]
    return Verdict(Status.NOT, f"CAM needs global average pooling and one linear layer; {found}.", use_grad_cam)


def _relu_rule(model: LoadedModel) -> Verdict:
    activations = model.anatomy.activations
    instead = "Use the plain gradient, SmoothGrad or integrated gradients."
    ruled = model.anatomy.num_ruled
    total = sum(a.num_calls for a in activations)
    if ruled == 0:
        names = ", ".join(a.name for a in activations) or "no activation function at all"
        return Verdict(Status.NOT, f"its rule is defined at ReLUs only, and this network has {names}.", instead)
    if ruled < total:
        return Verdict(
            Status.APPROXIMATE,
            f"its rule is defined at ReLUs only: it acts at {ruled} of {total} activations, the others pass the plain "
            "gradient.",
            instead,
        )
    return Verdict(Status.WORKS, f"all {total} activations are ReLUs.")


def _guided_grad_cam(model: LoadedModel) -> Verdict:
    rule, scores = _relu_rule(model), _class_and_maps(model)
    return rule if scores.usable else scores


CAPABILITIES: Mapping[str, Capability] = {
    "predictions": Capability("Predictions", "Home", _class_scores),
    "feature_maps": Capability("Feature maps", "Feature maps", _maps),
    "filters": Capability("Filters", "Filters", _kernels),
    "cam": Capability("CAM", "CAM", _cam),
    "grad_cam": Capability("Grad-CAM and its gradient relatives", "CAM", _class_and_maps),
    "score_cam": Capability("Score-CAM, Ablation-CAM", "CAM", _class_and_maps),
    "eigen_cam": Capability("Eigen-CAM", "CAM", _maps),
    "gradient": Capability("Gradient, SmoothGrad, integrated gradients", "Saliency", _class_or_unit),
    "guided_backprop": Capability("Guided backprop, deconvnet", "Saliency", _relu_rule),
    "guided_grad_cam": Capability("Guided Grad-CAM", "Saliency", _guided_grad_cam),
    "occlusion": Capability("Occlusion", "Occlusion", _class_scores),
    "adversarial": Capability("Fooling images", "Fooling images", _answer_to_change),
}

_HEADS = {
    "gap_linear": "global average pooling and one linear layer",
    "gap_norm_linear": "global average pooling, a normalisation and one linear layer",
    "conv_gap": "1x1 convolution and global average pooling",
    "flatten_linear": "one linear layer on all places",
    "several": "more than average pooling and one linear layer",
    "none": "none",
}
_OUTPUTS = {
    "logits": "class scores",
    "log_softmax": "logarithms of probabilities, which serve as class scores",
    "softmax": "probabilities from a softmax; cnnviz takes their logarithms as scores",
    "sigmoid": "probabilities from a sigmoid; cnnviz takes the scores before it",
    "features": "features, no class scores",
}


def facts(model: LoadedModel) -> list[Fact]:
    """What the network is made of, in words."""
    anatomy, preprocessing = model.anatomy, model.preprocessing
    height, width = preprocessing.input_px
    colours = "colour (3 channels)" if preprocessing.num_channels == 3 else "grey (1 channel)"
    classes = f"{model.num_classes:,}" + (" from a single score" if model.num_outputs == 1 else "")
    return [
        Fact("Input", f"{height} × {width} px, {colours}", "What every picture is resized, cropped and normalised to."),
        Fact(
            "Parameters",
            f"{anatomy.num_params:,}",
            "Numbers that training has set, normalisation statistics not counted.",
        ),
        Fact("Classes", classes if model.num_classes else "none", "Read from the head."),
        Fact("Head", _HEADS[anatomy.head.kind], "How the last maps become class scores; CAM depends on it."),
        Fact("Output", _OUTPUTS[anatomy.head.output], "Methods work on class scores before any softmax."),
        Fact("Activations", _activations(model), "Guided backprop and deconvnet are defined at ReLUs only."),
        Fact(
            "Pooling", ", ".join(anatomy.poolings) or "none", "Pooling between maps; strided convolutions not counted."
        ),
        Fact(
            "In-place code",
            f"{anatomy.num_in_place_modules} modules, switched off on loading; {anatomy.num_in_place} operations",
            "Code that overwrites its input; what a layer put out is kept before that happens.",
        ),
        Fact(
            "Frozen parameters",
            f"{anatomy.num_frozen:,} when it came; all in here",
            "No page of cnnviz changes a network, except fine-tuning, which works on a copy.",
        ),
        Fact(
            "Computation",
            "the same for every picture" if model.is_static else "depends on the picture",
            "Whether two different inputs ran through the same operations, so that the network can be traced.",
        ),
    ]


def _activations(model: LoadedModel) -> str:
    parts = [
        f"{a.name} {a.num_calls}×" + (f" ({a.num_functional} without a module)" if a.num_functional else "")
        for a in model.anatomy.activations
    ]
    return ", ".join(parts) or "none"
