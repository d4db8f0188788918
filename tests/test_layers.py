"""Layers as a dry run shows them: names, shapes, steps and calls, against plain hooks and known architectures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnviz_core import catalogue, layers, probe
from cnnviz_core.errors import UnknownLayer
from cnnviz_core.layers import LayerTree
from cnnviz_core.models import LoadedModel

SmallNet = Callable[[str], nn.Module]
SmallModel = Callable[[str], LoadedModel]
Zoo = Callable[[str], LoadedModel]


def _tree(net: nn.Module, side: int | tuple[int, int] = 16, *, num_channels: int = 3) -> LayerTree:
    size = (side, side) if isinstance(side, int) else side
    x = torch.randn(1, num_channels, *size, generator=torch.Generator().manual_seed(0))
    return layers.describe(net, probe.dry_run(net.eval(), x))


# ---- networks of the zoo ------------------------------------------------------------------------------------------

# Name: a layer, its shape for the side given, its step; cells of the stages; the three landmarks.
ZOO: dict[str, tuple[int, str, tuple[int, ...], float, list[int], tuple[str, ...]]] = {
    "torchvision/resnet18": (
        128, "layer3.0.downsample.0", (256, 8, 8), 16, [64, 32, 16, 8, 4], ("relu", "layer2", "layer4"),
    ),
    "torchvision/alexnet": (
        224, "features.5", (192, 13, 13), 16, [55, 27, 13, 6], ("features.1", "features.11", "avgpool"),
    ),
    "torchvision/squeezenet1_1": (
        224, "features.7.expand3x3", (128, 27, 27), 8, [111, 55, 27, 13], ("features.1", "features.7", "features.12"),
    ),
    "torchvision/densenet121": (
        128, "features.transition2.pool", (256, 8, 8), 16, [64, 32, 16, 8, 4],
        ("features.relu0", "features.transition2.relu", "features.denseblock4"),
    ),
    "torchvision/googlenet": (
        128, "inception4a", (512, 8, 8), 16, [64, 32, 16, 8, 4], ("conv1", "inception3b", "inception5b"),
    ),
    "torchvision/mobilenet_v2": (
        128, "features.4", (32, 16, 16), 8, [64, 32, 16, 8, 4],
        ("features.2.conv.0", "features.7.conv.0", "features.18"),
    ),
    "torchvision/shufflenet_v2_x0_5": (
        128, "stage3", (96, 8, 8), 16, [64, 32, 16, 8, 4], ("conv1", "stage2.3", "conv5"),
    ),
    "torchvision/regnet_x_400mf": (
        128, "trunk_output.block3", (160, 8, 8), 16, [64, 32, 16, 8, 4],
        ("stem", "trunk_output.block2", "trunk_output.block4"),
    ),
    "timm/tf_efficientnet_lite0": (
        128, "blocks.3", (80, 8, 8), 16, [64, 32, 16, 8, 4], ("blocks.1.0.bn1", "blocks.3.0.bn1", "bn2"),
    ),
    "timm/mobilenetv3_small_100": (
        128, "blocks.1.0.conv_dw", (72, 16, 16), 8, [64, 32, 16, 8, 4], ("bn1", "blocks.1.1", "blocks.5"),
    ),
    "timm/edgenext_x_small": (
        128, "stages.1.blocks.0", (64, 16, 16), 8, [32, 16, 8, 4], ("stem", "stages.2", "stages.3"),
    ),
    "timm/dla34": (
        128, "level3", (128, 16, 16), 8, [128, 64, 32, 16, 8, 4], ("level0", "level3", "level5"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_id", ZOO)
def test_networks_of_the_zoo(model_id: str) -> None:
    side, name, shape, stride, cells, landmarks = ZOO[model_id]
    net = catalogue.create(model_id).eval()
    for module in net.modules():
        if getattr(module, "inplace", False):  # as on loading; else the layer before shows its output
            module.inplace = False
    tree = _tree(net, side)
    assert tree[name].shape == shape
    assert tree[name].stride_px == stride
    assert [stage.cells for stage in tree.stages] == [(n, n) for n in cells]
    assert tree.landmarks == landmarks

    convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    assert sorted(layer.name for layer in tree.convolutions) == sorted(convolutions)
    assert {layer.name for stage in tree.stages for layer in stage.layers} == {layer.name for layer in tree.spatial}
    assert sum(len(stage.layers) for stage in tree.stages) == len(tree.spatial)
    _check_against_hooks(net, tree, torch.rand(1, 3, side, side))


def _check_against_hooks(net: nn.Module, tree: LayerTree, x: Tensor) -> None:
    """Every shape and number of calls, from hooks on an isolated copy."""
    own, shapes = copy.deepcopy(net), dict[str, list[tuple[int, ...]]]()
    for name, module in own.named_modules():
        module.register_forward_hook(lambda _, __, y, name=name: shapes.setdefault(name, []).append(tuple(y.shape)))
    with torch.no_grad():
        own(x)
    del shapes[""]
    maps = {name: found for name, found in shapes.items() if len(found[-1]) in (2, 4) and found[-1][0] == 1}
    # In the order of the first answer.
    assert [name for name in maps if name in tree] == list(tree.names)
    if "edgenext" not in type(net).__name__.lower():  # whose attention tables are no maps
        assert len(tree) == len(maps)
    for layer in tree:
        shape = maps[layer.name][-1][1:]
        assert layer.shape == (shape if layer.channel_dim == 1 else (shape[-1], *shape[:-1]))
        assert layer.num_calls == len(shapes[layer.name])
        module = net.get_submodule(layer.name)
        assert layer.kind == type(module).__name__
        assert layer.num_params == sum(p.numel() for p in module.parameters())
        assert layer.is_convolution == isinstance(module, nn.Conv2d)
        assert layer.num_channels == layer.shape[0]


def test_a_loaded_model_has_its_layers(zoo: Zoo) -> None:
    tree = zoo("torchvision/resnet18").layers
    assert tree["layer4"].shape == (512, 7, 7)
    assert tree["fc"].shape == (1000,)
    assert tree["layer1.0.relu"].num_calls == 2
    assert tree["relu"].num_calls == 1
    assert tree["layer4"].is_block
    assert tree["layer4"].is_rectified
    assert not tree["layer4.0.bn2"].is_rectified
    assert not tree["conv1"].is_block
    field = tree["layer4"].receptive_field
    assert field is not None
    assert field.size_px == (435, 435)


# ---- channels last ------------------------------------------------------------------------------------------------


def test_channels_last_are_told_and_turned() -> None:
    net = catalogue.create("timm/edgenext_x_small").eval()
    tree = _tree(net, 96)
    layer = tree["stages.0.blocks.0.mlp.fc1"]
    assert layer.channel_dim == 3
    assert layer.shape == (128, 24, 24)
    assert layer.stride_px == 4
    assert tree["stages.0.blocks.0.conv_dw"].channel_dim == 1
    output = probe.record(net, torch.rand(1, 3, 96, 96), [layer.name]).outputs[layer.name][0]
    assert output.shape == (1, 24, 24, 128)
    assert output.movedim(layer.channel_dim, 1).shape[1:] == layer.shape


class _Attention(nn.Module):
    """Attention over windows of 4 x 4 places of a channels-last map, as Swin has it."""

    def __init__(self) -> None:
        super().__init__()
        self.split = nn.Identity()
        self.table = nn.Softmax(-1)
        self.merge = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, c = x.shape
        windows = x.view(1, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(1, -1, 16, c)
        windows = self.split(windows)
        windows = self.table(windows @ windows.mT) @ windows
        return self.merge(windows.view(1, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(x.shape))


class _WithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, stride=2)
        self.attention = _Attention()
        self.norm = nn.LayerNorm(6)
        self.conv = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        x = self.norm(x + self.attention(x))
        return self.pool(self.conv(x.permute(0, 3, 1, 2))).flatten(1)


def test_maps_are_told_from_the_tables_of_attention() -> None:
    tree = _tree(_WithAttention(), (16, 24))
    assert tree.names == ("embed", "attention.merge", "attention", "norm", "conv", "pool")
    known = {layer.name: (layer.shape, layer.channel_dim, layer.stride_px) for layer in tree}
    assert known == {
        "embed": ((6, 8, 12), 1, 2),
        "attention.merge": ((6, 8, 12), 3, None),  # a map by its size; where its cells lie is not known
        "attention": ((6, 8, 12), 3, None),
        "norm": ((6, 8, 12), 3, 2),  # the shortcut tells where the cells lie, but not what they see
        "conv": ((5, 4, 6), 1, 4),
        "pool": ((5, 1, 1), 1, None),
    }
    assert [layer.name for layer in tree if layer.receptive_field] == ["embed", "pool"]


def test_channels_last_are_told_where_no_other_map_has_the_size() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 6, 2, stride=2)
            self.norm = nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).permute(0, 2, 3, 1)
            return self.norm(x[:, ::2, ::2] + x[:, 1::2, 1::2]).mean((1, 2))

    layer = _tree(Merged())["norm"]
    assert (layer.shape, layer.channel_dim, layer.stride_px) == ((6, 4, 4), 3, 4)
    assert layer.receptive_field is not None
    assert layer.receptive_field.size_px == (4, 4)


def test_a_map_with_rows_and_columns_exchanged_is_no_layer() -> None:
    class Exchanged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 6, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x).mT).mean((2, 3))

    assert _tree(Exchanged(), (16, 24)).names == ("conv",)


class _PooledLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.pooled = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.embed(x).permute(0, 2, 3, 1).mean((1, 2), keepdim=True))


def test_a_pooled_map_with_channels_last_is_no_map_of_channels() -> None:
    layer = _tree(_PooledLast())["pooled"]
    assert layer.shape == (6, 1, 1)
    assert layer.channel_dim == 3
    assert not layer.is_spatial


# ---- small networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "residual", "functional", "in_place", "reused_relu", "gelu", "depth_wise"])
def test_small_networks(name: str, small_net: SmallNet) -> None:
    net = small_net(name)
    _check_against_hooks(net, _tree(net), torch.rand(1, 3, 16, 16))


def test_the_tiny_model(tiny_model: LoadedModel) -> None:
    tree = tiny_model.layers
    assert tree.names == ("conv1", "relu1", "pool", "conv2", "relu2", "gap", "fc")
    assert [layer.shape for layer in tree] == [(4, 16, 16)] * 2 + [(4, 8, 8)] + [(6, 8, 8)] * 2 + [(6, 1, 1), (3,)]
    assert [layer.stride_px for layer in tree] == [1, 1, 2, 2, 2, None, None]
    assert [layer.is_spatial for layer in tree] == [True] * 5 + [False] * 2
    assert [layer.cells for layer in tree][4:] == [(8, 8), (1, 1), None]
    assert [layer.is_rectified for layer in tree] == [False, True, True, False, True, True, False]
    assert [layer.name for layer in tree.convolutions] == ["conv1", "conv2"]
    assert [(s.cells, [layer.name for layer in s.layers], s.representative) for s in tree.stages] == [
        ((16, 16), ["conv1", "relu1"], "relu1"),
        ((8, 8), ["pool", "conv2", "relu2"], "relu2"),
    ]
    assert tree.landmarks == ("relu1", "relu2")
    assert tree["conv2"].num_params == 4 * 6 * 9 + 6
    fields = {layer.name: layer.receptive_field for layer in tree}
    assert fields["relu2"] is not None
    assert fields["relu2"].size_px == (8, 8)
    assert fields["fc"] is not None
    assert fields["fc"].is_global


def test_a_reused_layer_is_described_by_its_last_call(small_net: SmallNet) -> None:
    tree = _tree(small_net("reused_relu"))
    assert {layer.name: layer.num_calls for layer in tree} == {"conv1": 1, "relu": 3, "conv2": 2, "fc": 1}
    field = tree["relu"].receptive_field
    assert field is not None
    assert field.size_px == (7, 7)


def test_a_layer_is_rectified_if_all_its_calls_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.same(x - self.same(x.relu())).sum((2, 3))

    layer = _tree(Net())["same"]
    assert layer.num_calls == 2
    assert not layer.is_rectified


class _SharedNorm(nn.Module):
    """One activation for a map, a list of tokens, and a map again or a vector."""

    def __init__(self, *, ends_in_tokens: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.act = nn.ReLU()
        self.ends_in_tokens = ends_in_tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        tokens = self.act(x.flatten(2))
        return tokens.mean(2) if self.ends_in_tokens else self.act(-x).mean((2, 3))


def test_calls_of_all_kinds_are_counted() -> None:
    """``record`` keeps every call, so the number must fit, and the last one the description."""
    net = _SharedNorm(ends_in_tokens=False).eval()
    layer = _tree(net)["act"]
    assert layer.num_calls == 3
    assert layer.shape == (4, 7, 7)
    kept = probe.record(net, torch.rand(1, 3, 16, 16), ["act"], stop_after={"act": layer.num_calls}).outputs["act"]
    assert kept[-1].shape[1:] == layer.shape
    assert "act" not in _tree(_SharedNorm(ends_in_tokens=True))


def test_an_output_for_parts_of_the_picture_is_no_layer() -> None:
    class Tiles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tile = nn.Conv2d(3, 2, 3)
            self.score = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            tiles = torch.cat(x.split(8, 3))
            return self.score(self.tile(tiles).mean((2, 3))).mean(0, keepdim=True)

    assert _tree(Tiles()).names == ()


def test_a_module_with_two_names_is_listed_by_its_first() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    net.append(net[0])
    assert _tree(net).names == ("0", "1")
    assert _tree(net)["0"].num_calls == 2


# ---- stages and landmarks -----------------------------------------------------------------------------------------


def test_a_network_that_never_reduces_has_landmarks_by_order() -> None:
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(7)))
    tree = _tree(net)
    assert [stage.cells for stage in tree.stages] == [(16, 16)]
    assert tree.landmarks == ("0", "3", "6")
    assert _tree(net[:1]).landmarks == ("0",)


def test_a_network_without_maps_has_no_landmarks() -> None:
    tree = _tree(nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert tree.names == ("0", "1", "2", "3")
    assert tree.stages == ()
    assert tree.landmarks == ()
    assert tree.spatial == ()
    assert tree["0"].receptive_field is None  # each value sees a place, but which is lost


def test_a_headless_network(small_model: SmallModel) -> None:
    tree = small_model("headless").layers
    assert "fc" not in tree.names or tree["fc"].kind == "Identity"
    assert tree.landmarks == ("relu1", "relu2")


@pytest.mark.parametrize("name", ["one_channel", "binary"])
def test_other_inputs_and_heads(name: str, small_model: SmallModel) -> None:
    tree = small_model(name).layers
    assert tree["fc"].shape == ((1,) if name == "binary" else (3,))
    assert tree.landmarks == ("relu1", "relu2")


def test_maps_of_other_proportions_and_as_many_cells_are_two_stages() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tall, self.wide = nn.AvgPool2d((4, 1)), nn.AvgPool2d((1, 4))
            self.tall_again, self.wide_again = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            wide, tall = self.wide(x), self.tall(x)
            return self.wide_again(wide).sum() + self.tall_again(tall).sum()

    stages = _tree(Wide()).stages
    assert [stage.cells for stage in stages] == [(4, 16), (16, 4)]
    assert [[layer.name for layer in stage.layers] for stage in stages] == [
        ["tall", "tall_again"],
        ["wide", "wide_again"],
    ]


def test_a_block_sums_its_stage_up_unless_only_the_end_is_rectified() -> None:
    def block(*, rectified: bool) -> nn.Module:
        parts = [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)]
        return nn.Sequential(*parts, nn.ReLU()) if rectified else nn.Sequential(*parts)

    reduce = nn.MaxPool2d(2)
    expand = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1, stride=2))
    assert _tree(nn.Sequential(block(rectified=True), reduce)).stages[0].representative == "0"
    assert _tree(nn.Sequential(block(rectified=False), reduce)).stages[0].representative == "0"
    # The next block widens before it reduces: its ReLU is the first place where the maps are rectified.
    assert _tree(nn.Sequential(block(rectified=False), expand)).stages[0].representative == "1.1"
    assert _tree(nn.Sequential(block(rectified=True), expand)).stages[0].representative == "0"
    nested = nn.Sequential(nn.Sequential(block(rectified=True), reduce, block(rectified=True)))
    # The outermost block ends in the next stage, and is that stage's.
    assert [stage.representative for stage in _tree(nested).stages] == ["0.0", "0.2"]


# ---- the tree as a sequence ---------------------------------------------------------------------------------------


def test_layers_by_position_slice_and_name(tiny_model: LoadedModel) -> None:
    tree = tiny_model.layers
    assert tree[0] is tree["conv1"]
    assert tree[-1] is tree["fc"]
    assert [layer.name for layer in tree[1:4]] == ["relu1", "pool", "conv2"]
    assert len(tree) == len(list(tree)) == 7
    assert next(reversed(tree)).name == "fc"
    assert tree.index(tree["pool"]) == 2
    assert "pool" in tree
    assert tree[2] in tree
    assert "" not in tree
    assert "nothing" not in tree
    assert 3 not in tree
    with pytest.raises(IndexError):
        tree[7]


def test_an_unknown_name_comes_with_near_ones(tiny_model: LoadedModel) -> None:
    with pytest.raises(UnknownLayer, match=r"^The network has no layer 'relu'\. Did you mean relu2 or relu1\?$"):
        tiny_model.layers["relu"]
    with pytest.raises(UnknownLayer, match=r"^The network has no layer 'xyz'\.$"):
        tiny_model.layers["xyz"]


def test_layers_do_not_change(tiny_model: LoadedModel) -> None:
    with pytest.raises(AttributeError):
        tiny_model.layers[0].name = "other"  # type: ignore[misc]
    assert math.prod(tiny_model.layers["conv1"].cells or ()) == 256
