"""Windows against the network's own answer to whole pictures, one at a time and at every place."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import incremental, models
from cnnviz_core.incremental import Patched

SIDE = 24


def alive(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """Weights that keep signals at their size through any depth, and norms with statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spread = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * spread)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) / 8)
            elif isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                for tensor in (module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.copy_(torch.randn(tensor.shape, generator=generator) / 8)
    return net.eval().requires_grad_(requires_grad=False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def one_by_one(net: nn.Module, x: Tensor, fill: Tensor, tops: np.ndarray, lefts: np.ndarray, size: int) -> Tensor:
    """The slow way."""
    rows = []
    for top, left in zip(tops, lefts, strict=True):
        picture = x.clone()
        picture[:, :, top : top + size, left : left + size] = fill[:, :, top : top + size, left : left + size]
        with torch.no_grad():
            rows.append(net(picture))
    return torch.cat(rows)


def all_places(x: Tensor, size: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    tops, lefts = (np.arange(0, side - size + 1, stride) for side in x.shape[2:])
    rows, cols = np.meshgrid(tops, lefts, indexing="ij")
    return rows.ravel(), cols.ravel()


def check(
    net: nn.Module,
    x: Tensor,
    *,
    size: int,
    stride: int,
    tolerance: float = 1e-5,
    fill: Tensor | None = None,
    static: bool = True,
) -> Patched:
    """Compares at all places, in batches of several sizes."""
    fill = noise(*x.shape, seed=9) if fill is None else fill
    patched = Patched(net, x, fill, patch_px=size, static=static)
    tops, lefts = all_places(x, size, stride)
    expected = one_by_one(net, x, fill, tops, lefts, size)
    with torch.no_grad():
        torch.testing.assert_close(patched.clean, net(x.clone()), rtol=0, atol=0)
    parts = np.array_split(np.arange(len(tops)), -(-len(tops) // patched.batch_size))
    found = torch.cat([patched.scores(tops[part], lefts[part]) for part in parts])
    spread = (expected.max() - expected.min()).item()
    assert (expected - patched.clean).abs().max() >= 0.001 * spread, "patches without effect show nothing"
    assert (found - expected).abs().max() <= tolerance * spread
    return patched


class Tail(nn.Module):
    """Whatever maps come are averaged in a way that tells places apart, and read by a linear layer."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.last, self.fc = body, nn.Conv2d(channels, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.body(x))
        return self.fc(F.relu(y).amax((2, 3)) + y.mean((2, 3)))


class Lambda(nn.Module):
    """A function of modules and the input as a module."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.parts)


def conv(channels: int, out: int, kernel: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, **options)  # type: ignore[arg-type]


def shuffled(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    left, right = y.chunk(2, dim=1)
    y = torch.cat([F.relu(left), right], 1)
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def branches(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """Branches of different reach, one pooled, one the picture itself, and a channel taken out and put in again."""
    pooled = F.max_pool2d(F.pad(x, (1, 2, 0, 1)), (2, 4), 1)
    return torch.cat([a(x).clamp(-1, 1), b(x), x[:, 1].unsqueeze(1), F.avg_pool2d(x, 3, 1, 1), pooled], 1)


def overwriting(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """The sum overwrites what came before; the picture itself is overwritten, too."""
    x -= 0.25
    y = a(x)
    y += x[:, 1:2]
    z = b(y)
    y.mul_(2).relu_()
    z += y
    return F.relu(z, inplace=True)


def reversed_order(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """What a convolution reads is overwritten before its result is used."""
    y = F.relu(a(x))
    z = b(y)
    y.neg_()
    z += y
    return z


# Operations that act on windows: name -> body, channels, largest share of the numbers that is computed anew.
LOCAL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain": (lambda: nn.Sequential(conv(3, 4, padding=1), nn.ReLU(), conv(4, 4)), 4),
    "strides": (lambda: nn.Sequential(conv(3, 4, 5, stride=2, padding=2), nn.ReLU6(), conv(4, 6, 2, stride=1)), 6),
    "stride beyond the kernel": (lambda: nn.Sequential(conv(3, 4, 1, stride=2), nn.SiLU(), conv(4, 4)), 4),
    "uneven": (lambda: nn.Sequential(conv(3, 4, (1, 5), padding=(0, 2)), conv(4, 4, (3, 2), padding=(2, 1))), 4),
    "dilation": (lambda: nn.Sequential(conv(3, 4, dilation=2, padding=2), nn.GELU(), conv(4, 4, dilation=3)), 4),
    "groups": (lambda: nn.Sequential(conv(3, 6), nn.Hardswish(), conv(6, 6, groups=6, padding=1), conv(6, 4, 1)), 4),
    "norms": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(3), conv(3, 4, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.BatchNorm2d(4)
        ),
        4,
    ),
    "norm without weights": (lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, affine=False), nn.Tanh()), 4),
    "PReLU": (lambda: nn.Sequential(conv(3, 4), nn.PReLU(4), conv(4, 4)), 4),
    "max pooling of negatives": (
        lambda: nn.Sequential(conv(3, 4, 1), nn.Softplus(), Minus(), nn.MaxPool2d(3, 2, 1)),
        4,
    ),
    "max pooling past the end": (lambda: nn.Sequential(conv(3, 4, 2), nn.MaxPool2d(3, 2, ceil_mode=True)), 4),
    "max pooling, dilated": (lambda: nn.Sequential(conv(3, 4), nn.MaxPool2d(2, 1, dilation=3, padding=1)), 4),
    "average pooling": (lambda: nn.Sequential(conv(3, 4), nn.AvgPool2d(3, 2, padding=1)), 4),
    "average pooling, border left out": (
        lambda: nn.Sequential(conv(3, 4), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True)),
        4,
    ),
    "average pooling past the end": (lambda: nn.Sequential(conv(3, 4, 2), nn.AvgPool2d(4, 3, 1, ceil_mode=True)), 4),
    "same padding": (lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 1)), conv(3, 4, stride=2), conv(4, 4)), 4),
    "string padding": (lambda: nn.Sequential(conv(3, 4, 5, padding="same"), conv(4, 4, padding="valid")), 4),
    "residual": (lambda: nn.Sequential(conv(3, 4), Lambda(lambda x, a: F.relu(a(x) + x), a=conv(4, 4, padding=1))), 4),
    "residual of two convolutions": (
        lambda: Lambda(lambda x, a, b: F.relu(a(x) + b(x)), a=conv(3, 4, padding=1), b=conv(3, 4, 1)),
        4,
    ),
    "difference": (lambda: Lambda(lambda x, a: torch.sub(a(x), x, alpha=2), a=conv(3, 3, padding=1)), 3),
    "scaled sum": (lambda: Lambda(lambda x, a: torch.add(a(x), x, alpha=2), a=conv(3, 3, padding=1)), 3),
    "sum with itself": (lambda: Lambda(lambda x, a: (y := a(x)) + y, a=conv(3, 4)), 4),
    "used twice": (lambda: Lambda(lambda x, a: torch.cat([(y := a(x)), F.relu(y)], 1), a=conv(3, 4)), 8),
    "reused module": (lambda: Lambda(lambda x, a: a(F.relu(a(F.relu(a(x))))), a=conv(3, 3, padding=1)), 3),
    "swish by hand": (lambda: Lambda(lambda x, a: (y := a(x)) * torch.sigmoid(y), a=conv(3, 4)), 4),
    "branches": (lambda: Lambda(branches, a=conv(3, 4, 5, padding=2), b=conv(3, 4, 1)), 15),
    "shuffled": (lambda: Lambda(shuffled, a=conv(3, 8)), 8),
    "overwriting": (lambda: Lambda(overwriting, a=conv(3, 4, padding=1), b=conv(4, 4, padding=1)), 4),
    "overwritten behind its back": (lambda: Lambda(reversed_order, a=conv(3, 4), b=conv(4, 4, padding=1)), 4),
    "dropout": (lambda: nn.Sequential(conv(3, 4), nn.Dropout(0.5), nn.Dropout2d(0.5), conv(4, 4)), 4),
    "literal batch": (
        lambda: Lambda(lambda x, a: a(x).reshape(x.size(0), 4, 22, 22).view(-1, 4, 22, 22), a=conv(3, 4)),
        4,
    ),
    "made kernel": (lambda: Standardised(), 4),
    "channels last": (lambda: Lambda(lambda x, a: a(x.contiguous(memory_format=torch.channels_last)), a=conv(3, 4)), 4),
}


class Minus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


class Standardised(nn.Module):
    """The kernel is computed anew in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / 5, self.conv.bias, padding=1)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("name", LOCAL)
def test_windows_at_every_place(name: str, size: int) -> None:
    body, channels = LOCAL[name]
    net = alive(Tail(body(), channels))
    patched = check(net, noise(1, 3, SIDE, SIDE), size=size, stride=1)
    assert patched.is_incremental
    assert patched.share < 0.75 or size > 4


def gated(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    return y * torch.sigmoid(b(y.mean((2, 3), keepdim=True)))


def attention(x: Tensor, a: nn.Module) -> Tensor:
    tokens = a(x).flatten(2).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
    return mixed.transpose(1, 2).reshape(len(x), 4, 11, 11)


def through_a_view(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y[:, :2].relu_()
    y[:, :, 3:5] *= 2
    return y


def into_an_empty_one(x: Tensor, a: nn.Module) -> Tensor:
    y = torch.zeros(len(x), 8, x.shape[2], x.shape[3])
    y[:, :4] = a(x)
    y[:, 4:] = x[:, :1]
    return y


# Operations that mix places or that windows are not known for: they run on whole maps, and come out right.
WHOLE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "squeeze and excite": (lambda: Lambda(gated, a=conv(3, 4), b=conv(4, 4, 1)), 4),
    "group norm": (lambda: nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), conv(4, 4)), 4),
    "instance norm": (lambda: nn.Sequential(conv(3, 4), nn.InstanceNorm2d(4), conv(4, 4)), 4),
    "attention": (lambda: Lambda(attention, a=conv(3, 4, 4, stride=2)), 4),
    "upsampling": (lambda: nn.Sequential(conv(3, 4), nn.Upsample(scale_factor=2, mode="bilinear"), conv(4, 4)), 4),
    "transposed": (lambda: nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 4, 3, stride=2), conv(4, 4)), 4),
    "reflection": (lambda: nn.Sequential(conv(3, 4), nn.ReflectionPad2d(2), conv(4, 4)), 4),
    "circular": (lambda: conv(3, 4, padding=1, padding_mode="circular"), 4),
    "ones around": (lambda: nn.Sequential(conv(3, 4), nn.ConstantPad2d(1, 1.0), conv(4, 4)), 4),
    "cropping": (lambda: nn.Sequential(conv(3, 4), nn.ZeroPad2d(-2), conv(4, 4)), 4),
    "flipped": (lambda: Lambda(lambda x, a: a(x).flip(3), a=conv(3, 4)), 4),
    "rolled": (lambda: Lambda(lambda x, a: a(x).roll(3, 2), a=conv(3, 4)), 4),
    "transposed places": (lambda: Lambda(lambda x, a: a(x).transpose(2, 3), a=conv(3, 4)), 4),
    "channels at the end": (
        lambda: Lambda(
            lambda x, a, b: b(a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), a=conv(3, 4), b=nn.Linear(4, 4)
        ),
        4,
    ),
    "layer norm": (lambda: nn.Sequential(conv(3, 4), nn.LayerNorm([22, 22]), conv(4, 4)), 4),
    "a map of weights": (lambda: Lambda(lambda x, a: a(x) * torch.linspace(0, 1, 22), a=conv(3, 4)), 4),
    "joined along a side": (
        lambda: Lambda(lambda x, a: torch.cat([a(x), x[:, :1].repeat(1, 4, 1, 1)], 2), a=conv(3, 4, 1)),
        4,
    ),
    "through a view": (lambda: Lambda(through_a_view, a=conv(3, 4)), 4),
    "into an empty one": (lambda: Lambda(into_an_empty_one, a=conv(3, 4, padding=1)), 8),
    "kernel from the picture": (
        lambda: Lambda(
            lambda x, a: F.conv2d(
                x.reshape(1, -1, SIDE, SIDE), a(x).mean((2, 3)).repeat(1, 3).view(-1, 1, 3, 1), groups=3 * len(x)
            ).view(len(x), 3, 22, SIDE),
            a=conv(3, 3),
        ),
        3,
    ),
    "maximum with places": (
        lambda: Lambda(lambda x, a: F.max_pool2d(a(x), 2, return_indices=True)[1] / 10, a=conv(3, 4)),
        4,
    ),
    "sorted": (lambda: Lambda(lambda x, a: a(x).sort(dim=3)[0], a=conv(3, 4)), 4),
    "counts pictures": (lambda: Lambda(lambda x, a: a(x) + torch.full((), 1.0 * len(x)) / len(x), a=conv(3, 4)), 4),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_maps_at_every_place(name: str) -> None:
    body, channels = WHOLE[name]
    check(alive(Tail(body(), channels)), noise(1, 3, SIDE, SIDE), size=5, stride=3)


def by_brightness(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    return a(x) if x[0].mean().item() > 0.05 else b(x)


def by_numpy(x: Tensor, a: nn.Module) -> Tensor:
    return torch.from_numpy(np.tanh(a(x).numpy()))


# Networks whose operations are not the same for every picture, or cannot be seen.
UNTRACEABLE: dict[str, Callable[[], nn.Module]] = {
    "chooses its way": lambda: Lambda(by_brightness, a=conv(3, 4), b=conv(3, 4)),
    "leaves torch": lambda: Lambda(by_numpy, a=conv(3, 4)),
    "chooses by the number of pictures": lambda: Lambda(
        lambda x, a, b: a(x) if len(x) != 1 else b(x), a=conv(3, 4), b=conv(3, 4)
    ),
    "mixes pictures": lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, track_running_stats=False)),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_whole_pictures_where_a_trace_would_be_wrong(name: str) -> None:
    x = noise(1, 3, SIDE, SIDE) + 0.07
    patched = check(alive(Tail(UNTRACEABLE[name](), 4)), x, size=9, stride=3, fill=torch.full_like(x, -2.0))
    assert not patched.is_incremental
    assert patched.share == 1


def test_pictures_that_take_different_ways_run_alone() -> None:
    """Code outside torch cannot be seen to choose by the first picture of a batch."""

    def by_numpy_branch(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        return a(x) if float(x.numpy()[0].mean()) > 0.05 else b(x)

    net = alive(Tail(Lambda(by_numpy_branch, a=conv(3, 4), b=conv(3, 4)), 4))
    x = noise(1, 3, SIDE, SIDE) + 0.07
    patched = check(net, x, size=9, stride=3, fill=torch.full_like(x, -2.0), static=False)
    assert not patched.is_incremental
    assert patched.batch_size == 1


def test_noise_in_the_network_is_not_traced() -> None:
    net = alive(Tail(Lambda(lambda x, a: F.dropout(a(x), 0.5, training=True), a=conv(3, 4)), 4))
    assert not Patched(net, noise(1, 3, SIDE, SIDE), noise(1, 3, SIDE, SIDE), patch_px=4).is_incremental


@pytest.fixture(scope="module")
def zoo_64() -> Callable[[str], nn.Module]:
    """Networks of the catalogue at 64 px with weights that let signals through."""

    @cache
    def load(model_id: str) -> nn.Module:
        options = {"input_px": 64}
        return alive(models.load(model_id, weights="random:0", device="cpu", preprocessing=options).net)

    return load


@pytest.mark.parametrize(
    ("model_id", "share"),
    [
        ("torchvision/vgg11", 0.5),
        ("torchvision/resnet18", 0.8),
        ("torchvision/resnext50_32x4d", 0.8),
        ("torchvision/densenet121", 0.9),
        ("torchvision/googlenet", 0.8),
        ("torchvision/mobilenet_v2", 0.8),
        ("torchvision/shufflenet_v2_x0_5", 0.8),
        ("torchvision/squeezenet1_1", 0.8),
        ("timm/tf_efficientnet_lite0", 0.8),
        ("torchvision/mobilenet_v3_small", 0.95),
    ],
)
def test_architectures(model_id: str, share: float, zoo_64: Callable[[str], nn.Module]) -> None:
    patched = check(zoo_64(model_id), noise(1, 3, 64, 64), size=5, stride=15)
    assert patched.is_incremental
    assert patched.share <= share


def test_an_architecture_that_gains_nothing_runs_whole(zoo_64: Callable[[str], nn.Module]) -> None:
    """ConvNeXt soon works on channels at the end, which no rule here knows."""
    patched = check(zoo_64("torchvision/convnext_tiny"), noise(1, 3, 64, 64), size=5, stride=15)
    assert not patched.is_incremental


@pytest.mark.parametrize("shape", [(24, 17), (9, 31)])
def test_oblong_pictures(shape: tuple[int, int]) -> None:
    net = alive(Tail(nn.Sequential(conv(3, 4, padding=1), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4, padding=1)), 4))
    assert check(net, noise(1, 3, *shape), size=4, stride=1).is_incremental


def test_a_patch_as_large_as_the_picture() -> None:
    net = alive(Tail(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4)), 4))
    assert not check(net, noise(1, 3, SIDE, SIDE), size=SIDE, stride=1).is_incremental


def test_sums_that_no_fused_operator_knows() -> None:
    """An activation other than a ReLU after a sum."""
    body = nn.Sequential(conv(3, 4), Lambda(lambda x, a: F.silu(a(x) + x), a=conv(4, 4, padding=1)))
    assert check(alive(Tail(body, 4)), noise(1, 3, SIDE, SIDE), size=4, stride=2).is_incremental


def test_without_fused_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "_HAS_FUSED", False)
    body = nn.Sequential(
        conv(3, 4),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        Lambda(lambda x, a: F.gelu(a(x) + x, approximate="tanh"), a=conv(4, 4, padding=1)),
    )
    assert check(alive(Tail(body, 4)), noise(1, 3, SIDE, SIDE), size=4, stride=2).is_incremental


def test_double_precision() -> None:
    net = alive(Tail(nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2)), 4)).double()
    x, fill = noise(1, 3, SIDE, SIDE).double(), noise(1, 3, SIDE, SIDE, seed=1).double()
    assert check(net, x, size=4, stride=2, fill=fill, tolerance=1e-12).is_incremental


def test_only_when_asked() -> None:
    net = alive(Tail(conv(3, 4), 4))
    x = noise(1, 3, SIDE, SIDE)
    assert not Patched(net, x, torch.zeros_like(x), patch_px=3, incremental=False).is_incremental
    assert Patched(net, x, torch.zeros_like(x), patch_px=3).is_incremental


def test_weights_written_to_afterwards_are_noticed() -> None:
    net = alive(Tail(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()), 4))
    x = noise(1, 3, SIDE, SIDE)
    check(net, x, size=4, stride=5)
    with torch.no_grad():
        net.body[0].weight.mul_(2)
    assert check(net, x, size=4, stride=5).is_incremental


def test_pictures_and_networks_are_not_mixed_up() -> None:
    """What is kept about a network serves other pictures, and dies with the network."""
    nets = [alive(Tail(nn.Sequential(conv(3, 4), nn.ReLU()), 4), seed=seed) for seed in range(2)]
    for seed in range(3):
        for net in nets:
            check(net, noise(1, 3, SIDE, SIDE, seed=seed), size=4, stride=5)
            check(net, noise(1, 3, SIDE, SIDE + 2, seed=seed), size=4, stride=5)
    gone = weakref.ref(nets.pop())
    del net
    gc.collect()
    assert gone() is None


def test_threads_share_what_is_known() -> None:
    net = alive(Tail(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.MaxPool2d(2)), 4))
    pictures = [noise(1, 3, SIDE, SIDE, seed=seed) for seed in range(8)]
    found: dict[int, Tensor] = {}

    def work(i: int) -> None:
        patched = Patched(net, pictures[i], torch.zeros_like(pictures[i]), patch_px=4)
        assert patched.is_incremental
        found[i] = patched.scores(*all_places(pictures[i], 4, 4))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(found)
    for i in range(8):
        work(i)
        assert torch.equal(found[i], together[i])


def test_nothing_is_left_on_the_network() -> None:
    net = alive(Tail(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), 4))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = noise(1, 3, SIDE, SIDE)
    kept = x.clone()
    with torch.inference_mode():
        Patched(net, x, torch.zeros_like(x), patch_px=4).scores(np.array([0, 3]), np.array([1, 2]))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert torch.equal(x, kept)
