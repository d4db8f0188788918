"""Fixtures that every test may use: small networks with set weights, networks of the zoo, and pictures.

``small_net("residual")`` builds one of ``SMALL_NETS``; ``tiny_model`` is the plain one behind the public contract.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import images, models
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel

# As the app computes: threads that wait for each other on busy cores cost more than they gain.
torch.set_num_threads(1)

BROWSER = "tests/browser/"

SIDE = 16
CLASS_NAMES = ("cat", "dog", "bird")
NUM_CLASSES = len(CLASS_NAMES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where processes share the tests (``-n``), a file stays in one of them, and all that need Chromium do."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return BROWSER if path.startswith(BROWSER) else path

    return ByFile(config, log)


class Plain(nn.Module):
    """Two convolutions with ReLU modules, global average pooling, one linear layer: every CAM applies."""

    def __init__(self, *, in_channels: int = 3, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.relu2(self.conv2(x))
        return self.fc(self.gap(x).flatten(1))


class Residual(nn.Module):
    """ResNet's basic block: the branch's norm is overwritten by ``+=``, and one ReLU module serves twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.fc(self.relu(out).mean((2, 3)))


class Functional(nn.Module):
    """DenseNet's tail: ReLUs without a module, the last one overwriting the norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = self.norm(torch.cat([x, self.conv2(x)], 1))
        x = F.relu(x, inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class InPlaceMethod(nn.Module):
    """``x.relu_()`` as a statement: its return value is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x.relu_()
        x = self.conv2(x)
        x.relu_()
        return self.fc(x.mean((2, 3)))


class ReusedRelu(nn.Module):
    """One ReLU module called three times, and one convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


class Gelu(nn.Module):
    """A smooth activation: the gradient rules of guided backprop and deconvnet are not defined."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv2(self.act(self.conv1(x)))).mean((2, 3)))


class DepthWise(nn.Module):
    """MobileNetV2's block: expand, depth-wise convolution, project, with ReLU6 as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 6, 1)
        self.act = nn.ReLU6()
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
        self.project = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.expand(x))
        x = F.relu6(self.depthwise(x))
        return self.fc(self.project(x).mean((2, 3)))


SMALL_NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "functional": Functional,
    "in_place": InPlaceMethod,
    "reused_relu": ReusedRelu,
    "gelu": Gelu,
    "depth_wise": DepthWise,
    "one_channel": lambda: Plain(in_channels=1),
    "binary": lambda: Plain(num_classes=1),
    "headless": lambda: Plain(num_classes=0),
}


def set_weights(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """Weights in steps of 1/8, so that small sums of them are exact; the norms get statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.dtype.is_floating_point:
                steps = torch.randint(-8, 9, tensor.shape, generator=generator) / 8
                tensor.copy_(steps.abs() + 0.5 if name.endswith("running_var") else steps)
    return net.eval()


@pytest.fixture(scope="session")
def small_net() -> Callable[[str], nn.Module]:
    """Builds a fresh network of ``SMALL_NETS`` by name: eval mode, set weights, input (N, 3, 16, 16)."""
    return lambda name: set_weights(SMALL_NETS[name]())


@pytest.fixture(scope="session")
def small_model(small_net: Callable[[str], nn.Module]) -> Callable[[str], LoadedModel]:
    """The same through :func:`models.from_module`, kept for the session."""

    @cache
    def load(name: str) -> LoadedModel:
        num_channels = 1 if name == "one_channel" else 3
        half = (0.5,) * num_channels
        class_names = CLASS_NAMES[:2] if name == "binary" else CLASS_NAMES
        return models.from_module(
            small_net(name), input_px=SIDE, mean=half, std=half, class_names=class_names, name=name, device="cpu"
        )

    return load


@pytest.fixture(scope="session")
def untied_model(small_net: Callable[[str], nn.Module]) -> Callable[[str], LoadedModel]:
    """As ``small_model`` with weights off their steps: no ReLU meets a zero, which rounding could turn either way."""

    @cache
    def load(name: str) -> LoadedModel:
        net, num_channels = small_net(name), 1 if name == "one_channel" else 3
        for number, weights in enumerate(net.parameters()):
            weights.data += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(number))
        half = (0.5,) * num_channels
        return models.from_module(net, input_px=SIDE, mean=half, std=half, name=name, device="cpu")

    return load


@pytest.fixture(scope="session")
def tiny_model(small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    """Two convolutions and a linear layer with set weights; 16 x 16 px, 3 classes."""
    return small_model("plain")


@pytest.fixture(scope="session")
def zoo() -> Callable[[str], LoadedModel]:
    """An untrained network of the catalogue, kept for the session."""
    return cache(lambda model_id: models.load(model_id, weights="random:0", device="cpu"))


@pytest.fixture(scope="session")
def zoo_64() -> Callable[[str], LoadedModel]:
    """Untrained networks on small pictures, kept for the session."""
    return cache(
        lambda model_id: models.load(model_id, weights="random:0", device="cpu", preprocessing={"input_px": 64})
    )


@pytest.fixture(scope="session")
def noise_image() -> Callable[..., InputImage]:
    """A picture of seeded noise: ``noise_image(height, width, seed=0)``."""

    def make(height: int, width: int, *, seed: int = 0) -> InputImage:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return images.from_pixels(pixels, name=f"noise {seed}")

    return make


@pytest.fixture(scope="session")
def lite0() -> LoadedModel:
    """The default network with its real ImageNet weights."""
    return models.load(models.DEFAULT_MODEL, device="cpu")
