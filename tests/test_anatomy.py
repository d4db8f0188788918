"""What a network is made of, against counts and sums made by another route."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cnnviz_core import models
from cnnviz_core.anatomy import Anatomy
from cnnviz_core.models import LoadedModel

Load = Callable[[str], LoadedModel]

NAMES = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "silu": "SiLU",
    "gelu": "GELU",
    "hardswish": "Hardswish",
    "mish": "Mish",
    "leaky_relu": "Leaky ReLU",
    "prelu": "PReLU",
    "elu": "ELU",
    "selu": "ELU",
    "celu": "CELU",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "Hardsigmoid",
}


class Counting(TorchFunctionMode):
    """Counts the calls of activation functions as Python makes them, above what the dry run watches."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.rstrip("_")
        if name == "hardtanh":
            low = kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
            self.found["ReLU6" if low == 0 else "Hard tanh"] += 1
        elif name in NAMES:
            self.found[NAMES[name]] += 1
        return func(*args, **kwargs)


def load(net: nn.Module, *, side: int = 16, channels: int = 3) -> LoadedModel:
    half = (0.5,) * channels
    return models.from_module(net, input_px=side, mean=half, std=half, name="test", device="cpu")


def anatomy_of(net: nn.Module, *, side: int = 16, channels: int = 3) -> Anatomy:
    return load(net, side=side, channels=channels).anatomy


class Net(nn.Module):
    """A convolution to five channels, then whatever a test does with its maps; more modules by keyword."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3)
        for name, module in modules.items():
            self.add_module(name, module)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        self.rest = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self, self.conv(x))


@pytest.mark.parametrize(
    "model_id",
    [
        "torchvision/vgg11",
        "torchvision/resnet18",
        "torchvision/densenet121",
        "torchvision/googlenet",
        "torchvision/squeezenet1_1",
        "timm/convnext_tiny",
        "timm/mobilenetv3_small_100",
    ],
)
def test_activations_are_as_many_as_calls_in_the_zoo(model_id: str, zoo: Load) -> None:
    check_activations(zoo(model_id))


def test_activations_are_as_many_as_calls_in_the_default_network(lite0: LoadedModel) -> None:
    check_activations(lite0)
    (relu6,) = lite0.anatomy.activations
    assert (relu6.name, relu6.num_modules, relu6.num_functional) == ("ReLU6", 33, 0)


@pytest.mark.parametrize("name", ["plain", "residual", "functional", "in_place", "reused_relu", "gelu", "depth_wise"])
def test_activations_are_as_many_as_calls_in_small_networks(name: str, small_model: Load) -> None:
    check_activations(small_model(name))


def check_activations(model: LoadedModel) -> None:
    shape = (1, model.preprocessing.num_channels, *model.preprocessing.input_px)
    with Counting() as counting, torch.no_grad():
        model.net(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    activations = model.anatomy.activations
    assert {a.name: a.num_calls for a in activations} == counting.found
    assert [a.num_calls for a in activations] == sorted((a.num_calls for a in activations), reverse=True)
    assert model.anatomy.num_ruled == counting.found["ReLU"] + counting.found["ReLU6"]


def test_modules_and_plain_functions_are_told_apart(zoo: Load, small_model: Load) -> None:
    def split(model: LoadedModel) -> list[tuple[str, int, int]]:
        return [(a.name, a.num_modules, a.num_functional) for a in model.anatomy.activations]

    assert split(zoo("torchvision/googlenet")) == [("ReLU", 0, 57)]
    assert split(zoo("torchvision/densenet121")) == [("ReLU", 120, 1)]
    assert split(small_model("depth_wise")) == [("ReLU6", 1, 1)]
    assert split(small_model("reused_relu")) == [("ReLU", 3, 0)]


@pytest.mark.parametrize(
    ("module", "name", "has_rule"),
    [
        (nn.ReLU(), "ReLU", True),
        (nn.ReLU(inplace=True), "ReLU", True),
        (nn.ReLU6(), "ReLU6", True),
        (nn.Hardtanh(0, 1), "ReLU6", True),
        (nn.Hardtanh(), "Hard tanh", False),
        (nn.SiLU(), "SiLU", False),
        (nn.GELU("tanh"), "GELU", False),
        (nn.Hardswish(), "Hardswish", False),
        (nn.Mish(), "Mish", False),
        (nn.LeakyReLU(), "Leaky ReLU", False),
        (nn.PReLU(), "PReLU", False),
        (nn.ELU(), "ELU", False),
        (nn.SELU(), "ELU", False),
        (nn.CELU(), "CELU", False),
        (nn.Tanh(), "Tanh", False),
        (nn.Softplus(), "Softplus", False),
        (nn.Sigmoid(), "Sigmoid", False),
        (nn.Hardsigmoid(), "Hardsigmoid", False),
    ],
)
def test_every_kind_of_activation_is_named(module: nn.Module, name: str, has_rule: bool) -> None:
    found = anatomy_of(Net(lambda net, x: net.act(x).mean((2, 3)), act=module))
    (activation,) = found.activations
    assert (activation.name, activation.num_modules, activation.num_functional) == (name, 1, 0)
    assert activation.has_relu_rule == has_rule
    assert found.num_ruled == has_rule


HEADS = {
    "torchvision/vgg11": ("several", "classifier.6", "avgpool", False),
    "torchvision/resnet18": ("gap_linear", "fc", "layer4", False),
    "torchvision/densenet121": ("gap_linear", "classifier", "features", True),
    "torchvision/googlenet": ("gap_linear", "fc", "inception5b", False),
    "torchvision/squeezenet1_1": ("conv_gap", "classifier.1", "classifier.2", False),
    "timm/convnext_tiny": ("gap_norm_linear", "head.fc", "norm_pre", False),
    "timm/mobilenetv3_small_100": ("several", "classifier", "blocks", False),
}


@pytest.mark.parametrize(("model_id", "expected"), HEADS.items())
def test_heads_of_the_zoo(model_id: str, expected: tuple[str, str, str, bool], zoo: Load) -> None:
    head = zoo(model_id).anatomy.head
    assert (head.kind, head.classifier, head.feature_layer, head.relu_before_pooling) == expected
    assert head.output == "logits"


def gap(x: Tensor) -> Tensor:
    return x.mean((2, 3))


LINEAR = {"fc": nn.Linear(5, 4)}
SMALL_HEADS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, nn.Module], str]] = {
    "average and linear": (lambda net, x: net.fc(gap(x)), LINEAR, "gap_linear"),
    "no bias": (lambda net, x: net.fc(gap(x)), {"fc": nn.Linear(5, 4, bias=False)}, "gap_linear"),
    "dropout between": (lambda net, x: net.fc(F.dropout(gap(x), training=False)), LINEAR, "gap_linear"),
    "1x1 convolution on the average": (
        lambda net, x: net.fc(F.adaptive_avg_pool2d(x, 1)).flatten(1),
        {"fc": nn.Conv2d(5, 4, 1)},
        "gap_linear",
    ),
    "functional ReLU": (lambda net, x: net.fc(gap(F.relu(x))), LINEAR, "gap_linear"),
    "softmax at the end": (lambda net, x: net.fc(gap(x)).softmax(1), LINEAR, "gap_linear"),
    "log softmax at the end": (lambda net, x: F.log_softmax(net.fc(gap(x)), dim=1), LINEAR, "gap_linear"),
    "sigmoid at the end": (lambda net, x: torch.sigmoid(net.fc(gap(x))), LINEAR, "gap_linear"),
    "one number": (lambda net, x: net.fc(gap(x)).squeeze(1), {"fc": nn.Linear(5, 1)}, "gap_linear"),
    "temperature": (lambda net, x: 3 * net.fc(gap(x)), LINEAR, "several"),
    "functional SiLU": (lambda net, x: net.fc(gap(F.silu(x))), LINEAR, "several"),
    "sum outside a layer": (lambda net, x: net.fc(gap(x + x.roll(1, 1))), LINEAR, "several"),
    "border left out": (lambda net, x: net.fc(F.avg_pool2d(x, 9).flatten(1)), LINEAR, "several"),
    "maximum": (lambda net, x: net.fc(x.amax((2, 3))), LINEAR, "several"),
    "average and maximum": (
        lambda net, x: net.fc(torch.cat([gap(x), x.amax((2, 3))], 1)),
        {"fc": nn.Linear(10, 4)},
        "several",
    ),
    "two layers": (
        lambda net, x: net.fc(F.relu(net.hidden(gap(x)))),
        {"hidden": nn.Linear(5, 5), **LINEAR},
        "several",
    ),
    "cosine": (lambda net, x: net.fc(F.normalize(gap(x))), LINEAR, "several"),
    "weights outside a layer": (
        lambda net, x: gap(x) @ net.fc.weight.T,
        LINEAR,
        "several",
    ),
    "norm between": (lambda net, x: net.fc(net.norm(gap(x))), {"norm": nn.LayerNorm(5), **LINEAR}, "gap_norm_linear"),
    "every place": (lambda net, x: net.fc(x.flatten(1)), {"fc": nn.Linear(5 * 14 * 14, 4)}, "flatten_linear"),
    "map per class": (lambda net, x: gap(net.top(x)), {"top": nn.Conv2d(5, 4, 1)}, "conv_gap"),
    "map per class, ReLU": (lambda net, x: gap(F.relu(net.top(x))), {"top": nn.Conv2d(5, 4, 1)}, "conv_gap"),
    "map per class, softmax": (lambda net, x: gap(net.top(x)).softmax(1), {"top": nn.Conv2d(5, 4, 1)}, "conv_gap"),
    "map per class, border left out": (
        lambda net, x: F.avg_pool2d(net.top(x), 9).flatten(1),
        {"top": nn.Conv2d(5, 4, 1)},
        "several",
    ),
    "average of 3x3 convolutions": (lambda net, x: gap(net.top(x)), {"top": nn.Conv2d(5, 4, 3)}, "none"),
    "maps": (lambda net, x: x, {}, "none"),
    "average": (lambda net, x: gap(F.relu(x)), {}, "none"),
}


def test_an_average_without_any_convolution_is_no_head() -> None:
    assert anatomy_of(nn.AvgPool2d(16)).head.kind == "none"


@pytest.mark.parametrize("name", SMALL_HEADS)
def test_small_heads(name: str) -> None:
    forward, modules, expected = SMALL_HEADS[name]
    head = anatomy_of(Net(forward, **modules)).head
    assert head.kind == expected
    assert (head.output == "features") == (expected == "none")
    assert bool(head.classifier) == (expected != "none") or name == "weights outside a layer"


@pytest.mark.parametrize(
    ("tail", "output"),
    [
        ("softmax at the end", "softmax"),
        ("log softmax at the end", "log_softmax"),
        ("sigmoid at the end", "sigmoid"),
        ("average and linear", "logits"),
        ("maps", "features"),
    ],
)
def test_outputs(tail: str, output: str) -> None:
    forward, modules, _ = SMALL_HEADS[tail]
    found = anatomy_of(Net(forward, **modules))
    assert found.head.output == output
    assert found.activations == ()  # what only makes probabilities of scores is no activation


def test_a_sigmoid_inside_counts_beside_one_at_the_end() -> None:
    found = anatomy_of(Net(lambda net, x: torch.sigmoid(net.fc(gap(torch.sigmoid(x)))), **LINEAR))
    assert [(a.name, a.num_calls) for a in found.activations] == [("Sigmoid", 1)]


def test_a_network_without_any_layer_of_maps() -> None:
    found = anatomy_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)))
    assert (found.head.kind, found.head.feature_layer) == ("flatten_linear", "")


def test_a_network_without_modules() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernels = nn.Parameter(torch.randn(5, 3, 3, 3))
            self.weights = nn.Parameter(torch.randn(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.conv2d(x, self.kernels).mean((2, 3)), self.weights)

    head = anatomy_of(Functional()).head
    assert (head.kind, head.feature_layer, head.classifier) == ("several", "", "")


def test_one_without_any_operation() -> None:
    head = anatomy_of(nn.Identity()).head
    assert (head.kind, head.output, head.feature_layer) == ("none", "features", "")


def test_channels_in_the_last_dimension_are_averaged_over_the_right_ones() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.norm = nn.LayerNorm(5)
            self.fc = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    head = anatomy_of(Last()).head
    assert (head.kind, head.feature_layer) == ("gap_linear", "norm")


def test_pooling_and_in_place_code(zoo: Load, small_net: Callable[[str], nn.Module]) -> None:
    assert zoo("torchvision/densenet121").anatomy.poolings == ("max", "average")
    assert zoo("torchvision/resnet18").anatomy.poolings == ("max",)
    assert zoo("torchvision/resnet18").anatomy.num_in_place == 8  # one += in each block
    assert zoo("torchvision/resnet18").anatomy.num_in_place_modules == 9
    assert zoo("torchvision/densenet121").anatomy.num_in_place == 1
    assert anatomy_of(small_net("in_place")).num_in_place == 2
    assert anatomy_of(small_net("plain")).poolings == ("max",)


def test_parameters_and_frozen_ones_are_counted(zoo: Load) -> None:
    assert zoo("torchvision/resnet18").anatomy.num_params == 11_689_512  # torchvision's own table
    net = Net(lambda net, x: net.fc(gap(x)), **LINEAR)
    net.conv.weight.requires_grad_(requires_grad=False)
    found = anatomy_of(net)
    assert (found.num_frozen, found.num_params) == (5 * 3 * 9, 5 * 3 * 9 + 5 + 5 * 4 + 4)


@pytest.mark.parametrize("threshold", [-0.8, -0.3, 0.0, 0.3, 0.8])
def test_a_branch_on_the_brightness_is_found(threshold: float) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        brightness = x[:, 4].mean()  # the convolution's last channel is set to the mean of the input
        return net.fc(gap(x if brightness > threshold else F.relu(x)))

    net = Net(forward, fc=nn.Linear(5, 4))
    with torch.no_grad():
        net.conv.weight[4] = 1 / 27
        net.conv.bias[4] = 0
    assert not load(net).is_static


def test_a_cache_filled_by_the_first_call_is_no_branch() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.cache: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "offsets" not in self.cache:
                self.cache["offsets"] = torch.arange(5).float().view(1, 5, 1, 1).exp()
            return self.conv(x) + self.cache["offsets"]

    assert load(Caching()).is_static


def test_networks_of_the_zoo_take_one_way(zoo: Load, lite0: LoadedModel) -> None:
    assert lite0.is_static
    assert all(zoo(model_id).is_static for model_id in HEADS)
