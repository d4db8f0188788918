"""Windows against published numbers, and against where the input gradient is not zero.

The gradient reaches every pixel of the window, and no other, if nothing cancels or closes: weights above 0, no ReLU, no
norm, average in place of maximum pooling, and double precision, since a far corner is reached by one path of many.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cnnviz_core import catalogue, layers, probe
from cnnviz_core.layers import LayerInfo
from cnnviz_core.receptive_field import IMAGE, ReceptiveField

Box = tuple[float, float, float, float]

# ---- the oracle ---------------------------------------------------------------------------------------------------

_CLOSING = {"relu", "relu_", "hardtanh", "hardtanh_", "relu6", "gelu", "silu", "hardswish", "batch_norm", "layer_norm"}


class _NothingCloses(TorchFunctionMode):
    """Activations and norms pass their input on; maximum pooling averages."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in _CLOSING:
            return args[0]
        if "max_pool2d" in name and "adaptive" not in name:
            given = dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)) | kwargs
            assert given.pop("dilation", 1) == 1
            given.pop("return_indices", None)
            return F.avg_pool2d(**given)
        return func(*args, **kwargs)


def _open(net: nn.Module) -> nn.Module:
    """A copy that only averages and adds."""
    net = copy.deepcopy(net).double()
    for name, weight in net.named_parameters():
        weight.data.fill_(0 if name.endswith("bias") else 1 / weight[0].numel() if weight.ndim > 1 else 1)
    return net


def _seen(score: Tensor, x: Tensor) -> Box | None:
    """(top, left, bottom, right) of the pixels that a score hangs on; None if it hangs on none."""
    (gradient,) = torch.autograd.grad(score, x, retain_graph=True)
    rows, cols = (gradient.abs().sum(dims)[0].nonzero().flatten() for dims in ((1, 3), (1, 2)))
    if len(rows) == 0:
        return None
    return rows[0].item(), cols[0].item(), rows[-1].item() + 1, cols[-1].item() + 1


def _clipped(box: Box, x: Tensor) -> Box:
    height, width = x.shape[-2:]
    return max(box[0], 0), max(box[1], 0), min(box[2], height), min(box[3], width)


# ---- published numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", {"features.15": 40, "features.22": 92, "features.29": 196, "features.30": 212}),
        ("resnet18", {"layer1": 43, "layer2": 99, "layer3": 211, "layer4": 435}),
        ("resnet50", {"layer1": 35, "layer2": 91, "layer3": 267, "layer4": 427}),
    ],
)
def test_published_sizes(name: str, expected: dict[str, int]) -> None:
    net = catalogue.create(f"torchvision/{name}").eval()
    if name == "vgg16":
        net.classifier = nn.Identity()
    tree = layers.describe(net, probe.dry_run(net, torch.rand(1, 3, 64, 64)))
    for layer, size in expected.items():
        field = tree[layer].receptive_field
        assert field is not None
        assert field.size_px == (size, size), layer


def test_the_formulas_by_hand() -> None:
    """Two strided convolutions: r = 3 + (5 - 1) * 2 = 11, jump 2 * 3, start -1 - 1 * 2."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 5, stride=3, padding=1)).eval()
    field = probe.dry_run(net, torch.rand(1, 3, 32, 32)).module_calls[-1].window
    assert field is not None
    assert (field.rows.jump, field.rows.low, field.rows.high) == (6, -3, 8)
    assert field.size_px == (11, 11)
    assert field.box(2, 1) == (9, 3, 20, 14)
    assert field.is_known
    assert not field.is_global


# ---- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "side"),
    [
        ("timm/tf_efficientnet_lite0", 224),  # pads unevenly, "SAME"
        ("torchvision/googlenet", 192),  # branches, rounding up
        ("torchvision/mobilenet_v2", 192),
        ("torchvision/shufflenet_v2_x0_5", 192),  # channels split and shuffled
        ("torchvision/densenet121", 128),
        ("torchvision/resnet18", 224),
        ("timm/convnext_atto", 160),  # channels last, linear layers
        ("timm/res2net50_26w_4s", 128),
        ("timm/dla34", 160),
        ("timm/cs3darknet_s", 128),
    ],
)
def test_windows_of_networks(model_id: str, side: int) -> None:
    net = catalogue.create(model_id).eval().requires_grad_(False)
    tree = layers.describe(net, probe.dry_run(net, torch.rand(1, 3, side, side)))
    assert all(layer.receptive_field for layer in tree.spatial)
    # Layers that see everything say little: take those before.
    telling = [layer for layer in tree.spatial if layer.receptive_field and max(layer.receptive_field.size_px) < side]
    assert len(telling) > 20
    chosen = [telling[round(i * (len(telling) - 1) / 4)] for i in range(5)]

    x = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    num_calls = {layer.name: layer.num_calls for layer in chosen}
    with _NothingCloses():
        outputs = probe.record(_open(net), x, num_calls, stop_after=num_calls).outputs
    for layer in chosen:
        assert layer.cells is not None
        row, col = (cells // 2 for cells in layer.cells)
        maps = outputs[layer.name][-1].movedim(layer.channel_dim, 1)
        assert _box(layer, row, col, x) == _seen(maps[0, :, row, col].sum(), x), layer.name


def _box(layer: LayerInfo, row: int, col: int, x: Tensor) -> Box:
    assert layer.receptive_field is not None
    return _clipped(layer.receptive_field.box(row, col), x)


@pytest.mark.parametrize("model_id", ["timm/hrnet_w18_small", "timm/ghostnet_100", "timm/mobilenetv3_small_100"])
def test_other_networks_get_through(model_id: str) -> None:
    net = catalogue.create(model_id).eval()
    tree = layers.describe(net, probe.dry_run(net, torch.rand(1, 3, 96, 96)))
    assert all(layer.receptive_field for layer in tree.spatial)
    assert all(layer.stride_px for layer in tree.spatial)
    if "hrnet" not in model_id:  # squeeze and excite looks at everything
        global_from = [layer.receptive_field.is_global for layer in tree.spatial if layer.receptive_field]
        assert not global_from[0]
        assert global_from[-1]


# ---- single operations --------------------------------------------------------------------------------------------

C, H, W = 4, 20, 26


class _Apply(nn.Module):
    """A function as a network, after a convolution that tells rows from columns."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, C, (3, 2), stride=(1, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def _window(function: Callable[[Tensor], Tensor]) -> ReceptiveField | None:
    return probe.dry_run(_Apply(function).eval(), torch.rand(1, 3, H, W)).module_calls[-1].window


def _kernel(*shape: int) -> Tensor:
    return torch.full(shape, 0.1, dtype=torch.float64)


def _conv(kernel: tuple[int, int], **options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.conv2d(x, _kernel(2, x.shape[1], *kernel).to(x), **options)


def _shuffled(x: Tensor) -> Tensor:
    return x.view(1, 2, C // 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def _channels_last(x: Tensor) -> Tensor:
    x = F.linear(x.permute(0, 2, 3, 1), _kernel(5, C).to(x), _kernel(5).to(x))
    return F.linear(weight=_kernel(2, 5).to(x), input=F.layer_norm(x, (5,))).permute(0, 3, 1, 2)


def _in_place(x: Tensor) -> Tensor:
    y = _conv((3, 3), padding=1)(x)
    y += x[:, :2]
    return y.mul_(2)


def _focus(x: Tensor) -> Tensor:
    x = x[:, :, :, : x.shape[3] // 2 * 2]
    return torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]], 1)


def _space_to_depth(x: Tensor) -> Tensor:
    x = x[..., :24].reshape(1, C, 10, 2, 12, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(1, 4 * C, 10, 12)


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "convolution": _conv((3, 5), padding=(1, 2)),
    "dilation": _conv((3, 3), dilation=(2, 3)),
    "stride": _conv((4, 3), stride=(3, 2), padding=(1, 0)),
    "even kernel, same": _conv((4, 2), padding="same"),
    "groups": lambda x: F.conv2d(x, _kernel(C, 1, 3, 3).to(x), groups=C),
    "uneven padding": lambda x: _conv((3, 3), stride=2)(F.pad(x, (0, 2, 1, 3))),
    "negative padding": lambda x: F.pad(x, (-2, 1, -1, -3)),
    "mirrored padding": lambda x: _conv((3, 3))(F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "repeated padding": lambda x: _conv((3, 3))(F.pad(x, (1, 1, 1, 1), mode="replicate")),
    "maximum pooling": lambda x: F.max_pool2d(x, 2),
    "rounded up": lambda x: F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
    "average pooling": lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1)),
    "norm pooling": lambda x: F.lp_pool2d(x.abs() + 1, 2, 3, stride=2),
    "even adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (10, 5)),
    "adaptive pooling to the same": lambda x: F.adaptive_max_pool2d(x, x.shape[-2:]),
    "nearest, smaller": lambda x: F.interpolate(x, size=(10, 5)),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x[..., :24], 2),
    "slice from the end": lambda x: x[:, :, -7:, -4:],
    "slice with a step": lambda x: x[:, :, 1:-2:3, -20::2],
    "slice beyond the end": lambda x: x[:, :, -99:99],
    "focus": _focus,
    "space to depth": _space_to_depth,
    "channels shuffled": _shuffled,
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "channels split": lambda x: torch.cat([x.chunk(2, 1)[1], _conv((3, 3), padding=1)(x.split([1, 3], 1)[1])], 1),
    "channels taken apart": lambda x: torch.stack(x.unbind(1), 2).sum(2).unsqueeze(1),
    "channels chosen": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "one picture": lambda x: x[0],
    "one channel": lambda x: x[:, -1].unsqueeze(1),
    "squeezed": lambda x: x[:, :1].squeeze(),
    "squeezed nothing": lambda x: x.squeeze(1),
    "gated linear unit": lambda x: F.glu(x, 1),
    "channels last": _channels_last,
    "channels last in memory": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed and back": lambda x: _conv((5, 1), padding=(2, 0))(x.transpose(2, 3)).mT,
    "transposed": lambda x: _conv((1, 3))(F.max_pool2d(x.transpose(-1, -2), 2)),
    "in place": _in_place,
    "branches of different offset": lambda x: _conv((3, 3))(x)[..., :-2, :] + x[:, :2, 4:, 2:],
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "maximum of channels": lambda x: x.max(1).values,
    "channel norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "spread of channels": lambda x: x.std(1) + torch.var_mean(x, 1)[0],
    "softmax over channels": lambda x: x.softmax(1),
    "hard swish": lambda x: F.hardswish(x + 9),
    "PReLU": lambda x: F.prelu(x, _kernel(C).to(x)),
    "dropout that stays on": lambda x: x * F.dropout(x, 1e-9, training=True),
    "another type": lambda x: x.float().double(),
    "chosen values": lambda x: torch.where(x > 0, x, -x),
    "a mask of the same shape": lambda x: x * torch.ones_like(x) + x.new_zeros(x.shape),
    "repeated along a new dimension": lambda x: x.unsqueeze(1).expand(1, 3, *x.shape[1:]).sum(1),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", EXACT)
def test_exact_windows(name: str) -> None:
    net = _Apply(EXACT[name])
    window = probe.dry_run(net.eval(), torch.rand(1, 3, H, W)).module_calls[-1].window
    assert window is not None
    assert window.is_known
    for axis in _intervals(net, window):
        for said, seen in axis:
            assert said == seen


Interval = tuple[float, ...]


def _intervals(net: nn.Module, window: ReceptiveField) -> list[list[tuple[Interval, Interval]]]:
    """By rows and by columns: what each sees by the window, and in truth; without those that see nothing."""
    x = torch.rand(1, 3, H, W, dtype=torch.float64, requires_grad=True)
    with _NothingCloses():
        y = _open(net)(x)
    assert window.rows.dim is not None
    assert window.cols.dim is not None
    maps = y.movedim((window.rows.dim, window.cols.dim), (0, 1))
    maps = maps.reshape(*maps.shape[:2], -1)
    # A different factor per channel, lest their sum be constant, as that of a softmax.
    maps = (maps * torch.arange(1, maps.shape[2] + 1)).sum(2)
    rows = [(_clipped(window.box(i, 0), x)[::2], _seen(maps[i].sum(), x)) for i in range(maps.shape[0])]
    cols = [(_clipped(window.box(0, i), x)[1::2], _seen(maps[:, i].sum(), x)) for i in range(maps.shape[1])]
    return [
        [(interval, seen[axis::2]) for interval, seen in found if seen is not None]
        for axis, found in enumerate((rows, cols))
    ]


UNEVEN: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest, odd size": lambda x: F.interpolate(x, size=(33, 17)),
    "nearest by centres": lambda x: F.interpolate(x, size=(33, 17), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners aligned": lambda x: F.interpolate(x, size=(31, 40), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (7, 9)),
    "transposed convolution": lambda x: F.conv_transpose2d(x, _kernel(C, 2, 3, 4).to(x), stride=(2, 3), padding=1),
    "transposed, dilated": lambda x: F.conv_transpose2d(x, _kernel(C, 2, 3, 3).to(x), stride=2, dilation=2),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "up and added": lambda x: x[..., :24] + F.interpolate(F.avg_pool2d(x[..., :24], 2), scale_factor=2),
    "grids of different step": lambda x: F.adaptive_avg_pool2d(x, (7, 9)) + x[:, :, :7, :9],
    "one row for all": lambda x: x + _conv((H, 1))(x).mean(1, keepdim=True),
    "first row for all": lambda x: x[:, :, :, 1:] + x[:, :, :1, :-1].expand(1, C, H, W - 2),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_windows_hold_for_all_cells_and_no_more(name: str) -> None:
    net = _Apply(UNEVEN[name])
    window = probe.dry_run(net.eval(), torch.rand(1, 3, H, W)).module_calls[-1].window
    assert window is not None
    assert window.is_known
    for axis in _intervals(net, window):
        lows = [seen[0] - said[0] for said, seen in axis]
        highs = [said[1] - seen[1] for said, seen in axis]
        # None sees more, and on either side the interval touches what some cell sees.
        assert min(lows) == pytest.approx(0, abs=1e-6)
        assert min(highs) == pytest.approx(0, abs=1e-6)


GLOBAL: dict[str, Callable[[Tensor], Tensor]] = {
    "global pooling": lambda x: x.mean((2, 3)),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 1),
    "maximum": lambda x: x.amax((2, 3), keepdim=True),
    "mean of all": lambda x: x.mean(),
    "sum of all": lambda x: x.sum((1, 2, 3)),
    "squeeze and excite": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "squeeze by linear layers": lambda x: x * F.linear(x.mean((2, 3)), _kernel(C, C).to(x)).view(1, C, 1, 1),
    "squeeze by a convolution over channels": lambda x: (
        x * F.conv1d(x.mean((2, 3)).view(1, 1, C), _kernel(1, 1, 3).to(x), padding=1).view(1, C, 1, 1)
    ),
    "pooled and spread again": lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 1), size=x.shape[2:]),
    "pooled and padded": lambda x: F.conv2d(F.adaptive_avg_pool2d(x, 1), _kernel(2, C, 3, 3).to(x), padding=1),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": F.instance_norm,
    "layer norm over places": lambda x: F.layer_norm(x, x.shape[1:]),
    "softmax over columns and rows": lambda x: x.softmax(3).softmax(2),
    "flattened for a linear layer": lambda x: F.linear(x.flatten(1), _kernel(2, x[0].numel()).to(x), _kernel(2).to(x)),
    "response norm": lambda x: x / x.norm(dim=(2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_global_windows(name: str) -> None:
    window = _window(GLOBAL[name])
    assert window is not None
    assert window.size_px == (math.inf, math.inf)
    assert window.box(3, 4) == (-math.inf, -math.inf, math.inf, math.inf)
    assert window.is_global
    assert window.is_known


def test_a_map_keeps_its_step_when_it_sees_everything() -> None:
    window = _window(lambda x: F.group_norm(F.max_pool2d(x, 2), 2))
    assert window is not None
    assert (window.rows.jump, window.rows.dim, window.cols.dim) == (2, -2, -1)


def test_one_axis_can_be_global_alone() -> None:
    window = _window(lambda x: x * x.mean(2, keepdim=True))
    assert window is not None
    assert window.size_px == (math.inf, 2)
    assert window.is_global
    assert window.box(5, 7) == (-math.inf, 7, math.inf, 9)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, 4],
        lambda x: x.select(2, -16),
        lambda x: x[:, :, 4:5].squeeze(2),
        lambda x: x[:, :, 4:5].mean(2),
        lambda x: x[:, :, 4:5].reshape(C, W - 1),
    ],
)
def test_a_single_row_keeps_its_window(function: Callable[[Tensor], Tensor]) -> None:
    window = _window(function)
    assert window is not None
    assert window.rows.dim is None
    assert window.box(0, 2) == (3, 2, 6, 4)


def test_one_cell_keeps_its_window_through_the_head() -> None:
    """A small picture leaves one cell: pooling it widens nothing, and a linear layer neither."""
    window = _window(lambda x: F.linear(F.adaptive_avg_pool2d(x[:, :, 8:9, 5:6], 1).flatten(1), _kernel(2, C).to(x)))
    assert window is not None
    assert window.box(0, 0) == (7, 5, 10, 7)


# ---- what is not known --------------------------------------------------------------------------------------------


def _attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).reshape(x.shape)


def _attention_by_hand(x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    return (tokens @ (tokens.transpose(1, 2) @ tokens).softmax(-1)).view(x.shape)


def _shifted(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    return y


def _shifted_in_place(x: Tensor) -> Tensor:
    x[:, :, :, 1:] += x[:, :, :, :-1].clone()
    return x


def _written_through_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1).copy_(x.mT.reshape(-1))
    return y


def _seen_through_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    view = y.view(1, C, H, -1)
    y += _conv((3, 3), padding=1)(x).sum(1, keepdim=True)
    return view


def _windows_of_places(x: Tensor) -> Tensor:
    parts = x[..., :20].reshape(1, C, 4, 5, 4, 5).permute(0, 2, 4, 1, 3, 5)
    return parts.softmax(-1).permute(0, 3, 1, 4, 2, 5).reshape(1, C, 20, 20)


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "attention": _attention,
    "attention by hand": _attention_by_hand,
    "one place after attention": lambda x: F.linear((x + _attention(x))[:, :, 4, 4], _kernel(2, C).to(x)),
    "overwritten after attention": lambda x: (_attention(x) * 2).relu_(),
    "rolled": lambda x: x.roll(3, 2),
    "flipped": lambda x: x.flip(3),
    "joined rows": lambda x: torch.cat([x, x], 2),
    "joined columns": lambda x: torch.cat([x[..., 5:], x[..., :5]], -1),
    "rows split": lambda x: x.chunk(2, 2)[1],
    "columns split": lambda x: x.split([3, W - 4], 3)[1],
    "rows taken apart": lambda x: x.unbind(2)[3],
    "rows by index": lambda x: x[:, :, torch.tensor([3, 1])],
    "rows by index select": lambda x: x.index_select(2, torch.tensor([3, 1])),
    "gated rows": lambda x: F.glu(x, 2),
    "rows summed up": lambda x: x.cumsum(2),
    "slice assignment": _shifted,
    "slice assignment in place": _shifted_in_place,
    "written through a view": _written_through_a_view,
    "seen through a view": _seen_through_a_view,
    "wrapped padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "patches": lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
    "windows of places": _windows_of_places,
    "rows meet columns": lambda x: x[..., :20] + x[..., :20].mT,
    "reshaped": lambda x: x.reshape(1, C, x.shape[3], x.shape[2]),
    "flattened": lambda x: x.flatten(1),
    "flattened and back": lambda x: x.flatten(1).view(x.shape),
    "one place after that": lambda x: F.linear(x.flatten(1).relu().view(x.shape)[:, :, 4, 4], _kernel(2, C).to(x)),
    "rows as channels": lambda x: F.conv2d(x.transpose(1, 2), _kernel(2, H, 1, 1).to(x)),
    "a kernel made from the picture": lambda x: F.conv2d(x, x[:, :, :3, :3]),
    "a norm's factor made from the picture": lambda x: F.batch_norm(x, None, None, x[0, :, 0, 0], training=True),
    "sampled along a grid": lambda x: F.grid_sample(x, torch.zeros(1, 5, 5, 2).to(x), align_corners=False),
    "smoothed and smaller": lambda x: F.interpolate(x, size=(9, 9), mode="bilinear", antialias=True),
    "a scale that is not the sizes'": lambda x: F.interpolate(
        x, scale_factor=1.33, mode="bilinear", recompute_scale_factor=False
    ),
    "a matrix product over places": lambda x: x @ _kernel(W - 1, 3).to(x),
    "a matrix product over channels": lambda x: x.permute(0, 2, 3, 1).contiguous() @ _kernel(C, 3).to(x),
    "a linear layer on a map without channels": lambda x: F.linear(x[0, 0], _kernel(3, W - 1).to(x), _kernel(3).to(x)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_windows_are_not_guessed(name: str) -> None:
    window = _window(UNKNOWN[name])
    assert window is None or not window.is_known


@pytest.mark.parametrize("name", ["attention", "rolled", "slice assignment", "patches", "windows of places"])
def test_a_shortcut_does_not_hide_what_is_unknown(name: str) -> None:
    def with_shortcut(x: Tensor) -> Tensor:
        x = x[..., :20]
        return _conv((3, 3), stride=2)(x + UNKNOWN[name](x).view(x.shape))

    window = _window(with_shortcut)
    assert window is not None
    assert not window.is_known
    assert not window.is_global
    # Where the cells lie is known all the same.
    assert (window.rows.dim, window.cols.dim, window.rows.jump) == (-2, -1, 2)


def test_after_attention_global_pooling_sees_everything() -> None:
    window = _window(lambda x: (x + _attention(x)).mean((2, 3)))
    assert window is not None
    assert window.is_global


def test_a_convolution_puts_lost_places_back_in_order() -> None:
    window = _window(lambda x: _conv((1, 1))(_attention(x)))
    assert window is not None
    assert (window.rows.dim, window.cols.dim) == (-2, -1)
    assert math.isnan(window.rows.jump)
    assert math.isnan(window.box(1, 1)[0])


def test_a_linear_layer_over_columns_sees_whole_rows() -> None:
    window = _window(lambda x: F.linear(x, _kernel(3, W - 1).to(x)))
    assert window is not None
    assert window.size_px == (3, math.inf)


def test_what_does_not_come_from_the_picture_has_no_window() -> None:
    class Table(nn.Module):
        def forward(self) -> Tensor:
            return torch.arange(4.0).view(1, 1, 2, 2) * 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = Table()

        def forward(self, x: Tensor) -> Tensor:
            return x[..., :2, :2] * self.table()

    table, whole = probe.dry_run(Net(), torch.rand(1, 3, 4, 4)).module_calls
    assert table.window is None
    assert whole.window == IMAGE
