"""Strongest patches against brute force, the support of gradients, painting outside of boxes, and numbers by hand."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import images, models, photos, settings
from cnnviz_core.collections import embedding, indexing, scan
from cnnviz_core.collections.scan import Picture
from cnnviz_core.errors import BadImage, BadSetting, NotApplicable, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.methods import saliency, top_patches
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Step, TopPatches

Pixels = NDArray[np.uint8]

SIDE = 16
NUM_PICTURES = 18


@dataclass
class Listed:
    """A folder of pictures, listed as it is at the moment."""

    folder: Path
    collection_id: str = "folder/some pictures"
    labels: Mapping[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def pictures(self) -> tuple[Picture, ...]:
        names = sorted(path.name for path in self.folder.glob("*.png"))
        return tuple(self._picture(name) for name in names if name not in self.problems)

    def _picture(self, name: str) -> Picture:
        content = (self.folder / name).read_bytes()
        width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
        return Picture(name, self.labels.get(name, ""), scan.digest_of(content), width, height)

    def open(self, picture: Picture) -> InputImage:
        return images.open_image(self.folder / picture.path)

    def note_problem(self, picture: Picture, reason: str) -> None:
        self.problems[picture.path] = reason

    def add(self, name: str, pixels: Pixels) -> None:
        self.folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.folder / name)


Draw = Callable[..., Listed]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(indexing, "SHARD", 7)
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def noise(tmp_path: Path) -> Draw:
    """A collection of noise: ``noise(height, width)``, or pictures of the given sizes."""

    def draw(*sizes: tuple[int, int], num: int = NUM_PICTURES) -> Listed:
        listed = Listed(tmp_path / "pictures")
        for number in range(num):
            height, width = sizes[number % len(sizes)] if sizes else (SIDE, SIDE)
            listed.add(f"{number:02}.png", noise_pixels(height, width, number))
        return listed

    return draw


def noise_pixels(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Valid(nn.Module):
    """Convolutions without padding, of uneven kernels, strides and dilations."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, (3, 5), stride=(1, 2))
        self.two = nn.Conv2d(4, 4, 3, dilation=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


class UnevenlyPadded(nn.Module):
    """As TensorFlow pads for strides: more after than before."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, stride=2)
        self.two = nn.Conv2d(4, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.pad(self.one(F.pad(x, (0, 1, 0, 1))).relu(), (0, 1, 0, 1)))


class ChannelsLast(nn.Module):
    """A layer whose maps are (N, h, w, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.mixed = nn.Linear(4, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mixed(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Attention(nn.Module):
    """Every place is mixed with every other; the network puts them in order again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.mixed = nn.MultiheadAttention(4, 1, batch_first=True)
        self.after = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(2).transpose(1, 2)
        return self.after(self.mixed(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape))


class SqueezeAndExcite(nn.Module):
    """Each place is scaled by what the whole map holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.scaled = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.scaled(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


OWN_NETS: dict[str, Callable[[], nn.Module]] = {
    "valid": Valid,
    "unevenly padded": UnevenlyPadded,
    "channels last": ChannelsLast,
    "attention": Attention,
    "squeeze and excite": SqueezeAndExcite,
    "deep": lambda: nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(9))),
}


def from_module(net: nn.Module, *, input_px: int | tuple[int, int] = SIDE) -> LoadedModel:
    """With positive inputs 0..1."""
    return models.from_module(net, input_px=input_px, mean=(0.0,) * 3, std=(1.0,) * 3, name="test", device="cpu")


def with_random_weights(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return net.eval()


def only_adding(net: nn.Module) -> nn.Module:
    """Positive weights, nothing subtracted, small enough for no activation to saturate: all that is seen counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.dtype.is_floating_point:
                drawn = (0.5 + torch.rand(tensor.shape, generator=generator)) / 16
                zero = name.endswith(("bias", "running_mean"))
                tensor.copy_(torch.zeros_like(tensor) if zero else drawn)
    return net.eval()


def outputs_of(net: nn.Module, layer: str, x: Tensor) -> list[Tensor]:
    """What a layer puts out in each of its calls, by a plain hook on a copy."""
    net, kept = copy.deepcopy(net), []
    handle = dict(net.named_modules())[layer].register_forward_hook(lambda _m, _i, out: kept.append(out.clone()))
    net(x)
    handle.remove()
    return kept


def maps_of(model: LoadedModel, layer: str, x: Tensor) -> Tensor:
    """(N, C, h, w) of the last call."""
    last = outputs_of(model.net, layer, x)[-1]
    return last.movedim(model.layers[layer].channel_dim, 1)


def every_patch(found: TopPatches) -> list[tuple[int, int]]:
    return [(int(n), int(k)) for n, k in zip(*np.nonzero(found.image >= 0), strict=True)]


# ---- the boxes -----------------------------------------------------------------------------------------------------

ADDING = {
    "plain": "conv2",
    "residual": "bn2",
    "functional": "norm",
    "in_place": "conv2",
    "reused_relu": "conv2",
    "gelu": "conv2",
    "depth_wise": "project",
    "valid": "two",
    "unevenly padded": "two",
    "channels last": "mixed",
}


@pytest.mark.parametrize("name", ADDING)
def test_the_box_is_the_support_of_the_gradient(
    name: str, small_net: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    """One bright blob per picture, in each corner, at each side and in the middle, so that padding is seen, too."""
    net = OWN_NETS[name]() if name in OWN_NETS else small_net(name)
    model, layer = from_module(only_adding(net), input_px=(16, 20)), ADDING[name]
    listed = Listed(tmp_path / "pictures")
    for number, (top, left) in enumerate((top, left) for top in (0, 7, 14) for left in (0, 9, 18)):
        pixels = np.zeros((16, 20, 3), np.uint8)
        pixels[top : top + 2, left : left + 2] = 255
        listed.add(f"{number}.png", pixels)
    found = top_patches.search(model, listed, layer=layer, channels=[0, 1], k=9)
    assert found.is_exact
    places = {(found.row[at], found.col[at]): found.box[at] for at in every_patch(found)}
    assert len(places) >= 9
    x = torch.rand(12, 3, 16, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = maps_of(model, layer, x)
    reaching_out = 0
    for (row, col), box in places.items():
        (gradient,) = torch.autograd.grad(maps[:, :, row, col].sum(), x, retain_graph=True)
        rows, cols = (gradient.abs().sum(dims).nonzero().flatten().tolist() for dims in ((0, 1, 3), (0, 1, 2)))
        clipped = np.clip(box, 0, [20, 16, 20, 16])
        assert clipped.tolist() == [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], (row, col)
        reaching_out += not np.array_equal(clipped, box)
    assert bool(reaching_out) == (name != "valid")


SIGNED = {
    "plain": "conv2",
    "residual": "conv2",
    "functional": "norm",
    "reused_relu": "conv2",
    "depth_wise": "project",
    "channels last": "mixed",
    "valid": "two",
}


@pytest.mark.parametrize("name", SIGNED)
def test_what_lies_outside_of_the_box_changes_nothing(
    name: str, small_net: Callable[[str], nn.Module], noise: Draw
) -> None:
    net = with_random_weights(OWN_NETS[name]()) if name in OWN_NETS else small_net(name)
    model, layer, listed = from_module(net), SIGNED[name], noise()
    found = top_patches.search(model, listed, layer=layer, k=3)
    other = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    changed_inside = 0
    for at in every_patch(found):
        unit = found.channels[at[0]], found.row[at], found.col[at]
        x = model.to_input(images.open_image(listed.folder / found.paths[found.image[at]]))
        left, top, right, bottom = np.clip(found.box[at], 0, SIDE).astype(int)
        inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert not inside.all()
        value, outside_changed, inside_changed = (
            maps_of(model, layer, given)[0][unit].item()
            for given in (x, torch.where(inside, x, other), torch.where(inside, other, x))
        )
        assert outside_changed == value
        changed_inside += inside_changed != value
    assert changed_inside > 0.5 * found.image.size  # some channels are the same everywhere


def cropping(net: nn.Module, input_px: tuple[int, int], **changes: Any) -> LoadedModel:
    model = from_module(net, input_px=input_px)
    return dataclasses.replace(model, preprocessing=dataclasses.replace(model.preprocessing, **changes))


def test_crop_and_resize_are_undone_by_hand(noise: Draw) -> None:
    """16 x 24 is 0.8 of 20 x 30, half of 40 x 60: a pixel of the input is 2 of the picture, from (4, 6) on."""
    net = with_random_weights(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)))
    found = top_patches.search(cropping(net, (16, 24), crop_pct=0.8), noise((40, 60)), layer="1", k=9)
    # Along one side a unit at i sees 5 pixels from 2 i - 2 on.
    for at in every_patch(found):
        top, left = 4 + 2 * (2 * found.row[at] - 2), 6 + 2 * (2 * found.col[at] - 2)
        assert found.box[at].tolist() == [left, top, left + 10, top + 10]


def test_pictures_of_many_shapes_have_boxes_of_their_own(noise: Draw) -> None:
    net = with_random_weights(nn.Sequential(nn.Conv2d(3, 4, 3)))
    model = cropping(net, (16, 16), crop_pct=0.5)
    found = top_patches.search(model, noise((64, 64), (64, 96), (128, 64)), k=9)
    corners = {(64, 64): (16, 16, 2), (96, 64): (32, 16, 2), (64, 128): (16, 48, 2)}
    sizes = {
        picture.path: (picture.width, picture.height) for picture in noise((64, 64), (64, 96), (128, 64)).pictures()
    }
    seen = set()
    for at in every_patch(found):
        size = sizes[found.paths[found.image[at]]]
        left, top, scale = corners[size]
        left, top = left + scale * found.col[at], top + scale * found.row[at]
        assert found.box[at].tolist() == [left, top, left + 3 * scale, top + 3 * scale]
        seen.add(size)
    assert seen == set(corners)


def test_squashed_pictures_have_squashed_boxes(noise: Draw) -> None:
    model = cropping(with_random_weights(nn.Sequential(nn.Conv2d(3, 4, 3))), (16, 16), crop_mode="squash")
    found = top_patches.search(model, noise((32, 64)), k=2)
    for at in every_patch(found):
        left, top = 4 * found.col[at], 2 * found.row[at]
        assert found.box[at].tolist() == [left, top, left + 12, top + 6]
    box = found.box[0, 0]
    image = images.open_image(noise((32, 64)).folder / found.paths[found.image[0, 0]])
    assert top_patches.patch(model, image, box, size_px=30).shape == (30, 30, 3)


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("attention", "after", "not known"),
        ("squeeze and excite", "scaled", "sees the whole picture"),
        ("deep", "8", "sees 19 x 19 px"),
    ],
)
def test_without_a_telling_window_a_third_around_the_place(name: str, layer: str, reason: str, noise: Draw) -> None:
    model = from_module(with_random_weights(OWN_NETS[name]()))
    assert reason in top_patches.why_not_exact(model, layer=layer)
    found = top_patches.search(model, noise((32, 32)), layer=layer, k=9)
    assert not found.is_exact
    cells = model.layers[layer].cells
    assert cells is not None
    for at in every_patch(found):
        left, top, right, bottom = found.box[at]
        assert (right - left, bottom - top) == pytest.approx((32 / 3, 32 / 3), abs=1e-4)
        for start, end, cell, num in ((left, right, found.col[at], cells[1]), (top, bottom, found.row[at], cells[0])):
            middle = (cell + 0.5) * 32 / num
            expected = min(max(middle - 32 / 6, 0), 32 * 2 / 3)
            assert start == pytest.approx(expected, abs=1e-4)
            assert start <= middle <= end


def test_a_window_larger_along_one_side_only_is_a_window(noise: Draw) -> None:
    net = with_random_weights(nn.Sequential(nn.Conv2d(3, 4, 9, padding=4)))
    model = from_module(net, input_px=(8, 20))
    found = top_patches.search(model, noise((8, 20)), k=1)
    assert found.is_exact
    assert found.box[0, 0].tolist() == [
        found.col[0, 0] - 4,
        found.row[0, 0] - 4,
        found.col[0, 0] + 5,
        found.row[0, 0] + 5,
    ]


def test_large_windows_are_kept_inside_and_around_the_middle_of_what_a_cell_sees(lite0: LoadedModel) -> None:
    """TensorFlow's padding shifts the last layer's cells by half a cell; the last one's middle is the crop's corner."""
    layer = top_patches.default_layer(lite0)
    image = images.from_pixels(noise_pixels(224, 224, 0), name="noise")
    first, last = (top_patches.unit_box(lite0, image, layer=layer, row=i, col=i) for i in (0, 6))
    window = lite0.layers[layer].receptive_field
    assert window is not None
    middle = (window.rows.low + window.rows.high) / 2
    assert 16 < middle < 40
    assert first == pytest.approx([max(0, middle - 224 / 6)] * 2 + [max(0, middle - 224 / 6) + 224 / 3] * 2)
    assert last == pytest.approx((224 * 2 / 3, 224 * 2 / 3, 224, 224))


def test_a_unit_box_is_that_of_the_search(small_model: Callable[[str], LoadedModel], noise: Draw) -> None:
    model, listed = small_model("residual"), noise((40, 33))
    found = top_patches.search(model, listed, layer="conv2", k=2)
    for at in every_patch(found):
        image = images.open_image(listed.folder / found.paths[found.image[at]])
        box = top_patches.unit_box(model, image, layer="conv2", row=found.row[at], col=found.col[at])
        np.testing.assert_allclose(box, found.box[at], atol=1e-4)
    with pytest.raises(BadSetting, match="no unit"):
        top_patches.unit_box(model, image, layer="conv2", row=8, col=0)


# ---- the search ----------------------------------------------------------------------------------------------------

SEARCHED = {
    "plain": "relu2",
    "residual": "bn2",
    "functional": "conv2",
    "in_place": "conv1",
    "reused_relu": "conv2",
    "gelu": "act",
    "depth_wise": "depthwise",
    "one_channel": "conv1",
    "binary": "conv2",
    "headless": "relu2",
}


@pytest.mark.parametrize("name", SEARCHED)
def test_ranks_and_values_are_those_of_brute_force(
    name: str, small_model: Callable[[str], LoadedModel], noise: Draw
) -> None:
    """One picture after the other through the untouched network; an in-place ReLU later on changes nothing."""
    model, layer, listed = small_model(name), SEARCHED[name], noise((20, 28), (16, 16))
    found = top_patches.search(model, listed, layer=layer, k=5)
    pictures = [images.open_image(listed.folder / picture.path) for picture in listed.pictures()]
    maps = torch.cat([maps_of(model, layer, model.to_input(picture)) for picture in pictures]).numpy()
    strongest = maps.max(axis=(2, 3))
    close = 1e-3 * np.abs(maps).max()
    num_ranked = 0
    for n, channel in enumerate(found.channels):
        order = np.argsort(-strongest[:, channel], kind="stable")[:5]
        np.testing.assert_allclose(found.value[n], strongest[order, channel], atol=close)
        for rank in range(5):
            at = found.image[n, rank], channel, found.row[n, rank], found.col[n, rank]
            np.testing.assert_allclose(maps[at], found.value[n, rank], atol=close)
        gaps = np.diff(np.sort(-strongest[:, channel])[:6])
        if gaps.min() > 2 * close:  # no two that rounding could exchange
            assert [found.paths[i] for i in found.image[n]] == [listed.pictures()[i].path for i in order]
            num_ranked += 1
    assert num_ranked > 0


def test_channels_in_the_order_asked_for(tiny_model: LoadedModel, noise: Draw) -> None:
    listed = noise()
    everything = top_patches.search(tiny_model, listed, layer="conv2", k=4)
    some = top_patches.search(tiny_model, listed, layer="conv2", channels=[4, 1], k=2)
    assert everything.channels.tolist() == list(range(6))
    assert some.channels.tolist() == [4, 1]
    for name in ("image", "row", "col", "value", "box"):
        np.testing.assert_array_equal(getattr(some, name), getattr(everything, name)[[4, 1], :2])
    assert some.value.dtype == some.box.dtype == np.float32
    assert pickle.loads(pickle.dumps(some)).paths == everything.paths


def test_by_default_the_last_layer_with_maps(small_model: Callable[[str], LoadedModel], noise: Draw) -> None:
    listed = noise()
    for name, layer in (("plain", "relu2"), ("residual", "relu"), ("headless", "relu2")):
        found = top_patches.search(small_model(name), listed)
        assert found.layer == layer
        assert found.image.shape[1] == 9


def test_an_index_that_is_there_is_not_built_again(
    tiny_model: LoadedModel, noise: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = noise()
    steps: list[Step] = []
    before = top_patches.search(tiny_model, listed, layer="conv2", on_step=steps.append)
    assert steps[-1].total == NUM_PICTURES

    def forbid(*_: object, **__: object) -> None:
        raise AssertionError("should not run")

    monkeypatch.setattr(embedding, "embed", forbid)
    after = top_patches.search(tiny_model, listed, layer="conv2")
    np.testing.assert_array_equal(before.value, after.value)


def test_a_cancel_ends_it(tiny_model: LoadedModel, noise: Draw) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(_: Step) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        top_patches.search(tiny_model, noise(), layer="conv2", on_step=cancel)


def test_fewer_pictures_than_asked_for(tiny_model: LoadedModel, noise: Draw) -> None:
    found = top_patches.search(tiny_model, noise(num=3), layer="conv2", k=5)
    assert (found.image[:, :3] >= 0).all()
    assert (found.image[:, 3:] == -1).all()
    assert np.isfinite(found.value[:, :3]).all()
    assert np.isnan(found.value[:, 3:]).all()
    assert np.isnan(found.box[:, 3:]).all()


def test_no_pictures_no_patches(tiny_model: LoadedModel, tmp_path: Path) -> None:
    found = top_patches.search(tiny_model, Listed(tmp_path / "nothing here"), layer="conv2", k=2)
    assert found.paths == ()
    assert (found.image == -1).all()
    assert np.isnan(found.box).all()
    assert top_patches.never_fires(tiny_model, found).tolist() == []


def test_a_shard_of_broken_files_alone_does_no_harm(tiny_model: LoadedModel, noise: Draw) -> None:
    """A file that came later, and proves to be broken, has a shard to itself."""
    listed = noise()
    before = top_patches.search(tiny_model, listed, layer="conv2")
    whole = (listed.folder / "00.png").read_bytes()
    (listed.folder / "zz.png").write_bytes(whole[: len(whole) // 2])
    after = top_patches.search(tiny_model, listed, layer="conv2")
    assert list(listed.problems) == ["zz.png"]
    np.testing.assert_array_equal(before.value, after.value)


def test_part_of_an_index_is_read_as_it_is(tiny_model: LoadedModel, noise: Draw) -> None:
    listed = noise()
    indexing.build(listed, tiny_model, layers=["conv2"])
    listed.add("zz.png", noise_pixels(SIDE, SIDE, 99))
    index = indexing.read(listed, tiny_model, layer="conv2")
    found = top_patches.from_index(tiny_model, index, channels=[2], k=1)
    assert "zz.png" not in found.paths
    assert len(found.paths) == NUM_PICTURES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 17}, "strongest 16"),
        ({"channels": [0, 6]}, "no channel 6"),
        ({"channels": [-1]}, "no channel -1"),
    ],
)
def test_bad_settings_are_named_before_anything_is_built(
    tiny_model: LoadedModel, noise: Draw, arguments: dict[str, Any], message: str
) -> None:
    listed = noise(num=1)
    with pytest.raises(BadSetting, match=message):
        top_patches.search(tiny_model, listed, layer="conv2", **arguments)
    assert not indexing.folder_of(listed.collection_id).exists()


def test_layers_without_places_are_refused(tiny_model: LoadedModel, noise: Draw) -> None:
    listed = noise(num=2)
    for layer in ("fc", "gap"):
        with pytest.raises(NotApplicable, match="before the pooling, such as relu2"):
            top_patches.search(tiny_model, listed, layer=layer)
    with pytest.raises(UnknownLayer, match="conv2"):
        top_patches.search(tiny_model, listed, layer="convv2")
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4))
    with pytest.raises(NotApplicable, match="no layer whose output is a map"):
        top_patches.search(from_module(net), listed)


def test_an_index_of_something_else_is_refused(
    tiny_model: LoadedModel, small_model: Callable[[str], LoadedModel], noise: Draw
) -> None:
    listed = noise(num=2)
    indexing.build(listed, tiny_model, layers=["conv2", "scores", "fc"])
    with pytest.raises(BadSetting, match="other weights"):
        top_patches.from_index(small_model("gelu"), indexing.read(listed, tiny_model, layer="conv2"))
    with pytest.raises(NotApplicable, match="no channels with places"):
        top_patches.from_index(tiny_model, indexing.read(listed, tiny_model, layer="scores"))
    with pytest.raises(NotApplicable, match="no place to cut out"):
        top_patches.from_index(tiny_model, indexing.read(listed, tiny_model, layer="fc"))


# ---- pictures of patches -------------------------------------------------------------------------------------------


def same_size(net: nn.Module | None = None) -> LoadedModel:
    """Sees a 16 x 16 picture as it is."""
    return from_module(with_random_weights(net or nn.Sequential(nn.Conv2d(3, 4, 5, padding=2))))


@pytest.fixture
def image() -> InputImage:
    return images.from_pixels(noise_pixels(SIDE, SIDE, 3), name="noise")


def test_a_patch_is_the_pixels_with_padding_in_grey(image: InputImage) -> None:
    found = top_patches.patch(same_size(), image, (-2, 13, 3, 18), size_px=5)
    expected = np.full((5, 5, 3), top_patches.GREY, np.uint8)
    expected[:3, 2:] = image.pixels[13:, :3]
    np.testing.assert_array_equal(found, expected)


def test_a_patch_is_enlarged_with_its_padding(image: InputImage) -> None:
    found = top_patches.patch(same_size(), image, (-2, 13, 3, 18), size_px=50)
    is_grey = (found == top_patches.GREY).all(axis=2)
    assert is_grey[:, :20].all()
    assert is_grey[30:].all()
    assert not is_grey[:30, 20:].all()
    shrunk = found[:30, 20:].reshape(3, 10, 3, 10, 3).mean((1, 3))
    assert np.abs(shrunk - image.pixels[13:, :3]).mean() < 25


def test_outside_of_the_crop_is_grey() -> None:
    """The network sees the middle 16 x 16 of 32 x 32, at the same scale."""
    model = cropping(nn.Sequential(nn.Conv2d(3, 4, 3)), (16, 16), crop_pct=0.5)
    image = images.from_pixels(noise_pixels(32, 32, 0), name="noise")
    found = top_patches.patch(model, image, (6, 20, 12, 26), size_px=6)
    expected = np.full((6, 6, 3), top_patches.GREY, np.uint8)
    expected[:4, 2:] = image.pixels[20:24, 8:12]
    np.testing.assert_array_equal(found, expected)
    far = top_patches.patch(model, image, (0, 0, 6, 6), size_px=6)
    assert (far == top_patches.GREY).all()


def test_proportions_are_those_of_the_input(image: InputImage) -> None:
    assert top_patches.patch(same_size(), image, (2, 2, 10, 6), size_px=32).shape == (16, 32, 3)
    tall = images.from_pixels(noise_pixels(64, 16, 0), name="tall")
    squashing = cropping(nn.Sequential(nn.Conv2d(3, 4, 3)), (16, 16), crop_mode="squash")
    assert top_patches.patch(squashing, tall, (0, 0, 4, 16), size_px=20).shape == (20, 20, 3)


def test_a_grey_network_has_grey_patches(small_model: Callable[[str], LoadedModel], image: InputImage) -> None:
    found = top_patches.patch(small_model("one_channel"), image, (2, 3, 6, 7), size_px=4)
    grey = np.asarray(image.pil().convert("L"))[3:7, 2:6]
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("box", [(3, 3, 3, 5), (3, 3, 2, 5), (np.nan,) * 4])
def test_an_empty_box_is_refused(box: Sequence[float], image: InputImage) -> None:
    with pytest.raises(BadSetting, match="is empty"):
        top_patches.patch(same_size(), image, box)


def test_a_patch_without_size_is_refused(image: InputImage) -> None:
    with pytest.raises(BadSetting, match="size_px is 0"):
        top_patches.patch(same_size(), image, (0, 0, 4, 4), size_px=0)


class Red(nn.Module):
    """Its only channel is the red of each pixel, or of each 4 x 4 block."""

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.red = nn.Conv2d(3, 1, block, stride=block, bias=False)
        nn.init.zeros_(self.red.weight)
        nn.init.constant_(self.red.weight[:, :1], 1 / block**2)

    def forward(self, x: Tensor) -> Tensor:
        return self.red(x)


def test_dimming_by_hand() -> None:
    """Pixels of at least 0.2 times the unit's red stay."""
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels[:, :8, 0], pixels[:, 8:, 0], pixels[4, 4, 0] = 30, 50, 200
    model, image = from_module(Red()), images.from_pixels(pixels, name="red")
    found = top_patches.dimmed(model, image, layer="red", channel=0, row=4, col=4, box=(0, 0, SIDE, SIDE), size_px=SIDE)
    stays = pixels[..., 0] >= 40
    assert stays.sum() == 8 * 16 + 1
    np.testing.assert_array_equal(found[stays], pixels[stays])
    np.testing.assert_array_equal(found[~stays], np.rint(pixels[~stays] * 0.3))


def test_dimming_follows_where_cells_lie() -> None:
    """One bright cell of 4 x 4: its slope to the dark neighbours crosses 0.2 at 0.8 of a cell from its middle."""
    pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
    pixels[..., 0] = 0
    pixels[4:8, 8:12, 0] = 200
    model, image = from_module(Red(4)), images.from_pixels(pixels, name="block")
    found = top_patches.dimmed(model, image, layer="red", channel=0, row=1, col=2, box=(0, 0, 16, 16), size_px=160)
    kept = found[..., 1] > 60
    rows, cols = np.flatnonzero(kept[:, 100]), np.flatnonzero(kept[60])
    assert (rows[0], rows[-1] + 1) == pytest.approx((60 - 32, 60 + 32), abs=1)
    assert (cols[0], cols[-1] + 1) == pytest.approx((100 - 32, 100 + 32), abs=1)


def test_dimming_knows_what_cells_of_unpadded_maps_see() -> None:
    """A kernel of 5 that reads its middle: cell 4 stands for pixel 6, though its map has 12 cells for 16 pixels."""
    net = nn.Conv2d(3, 1, 5, bias=False)
    nn.init.zeros_(net.weight)
    net.weight.data[0, 0, 2, 2] = 1
    pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
    pixels[..., 0] = 0
    pixels[6, 9, 0] = 250
    model, image = from_module(nn.Sequential(net)), images.from_pixels(pixels, name="dot")
    found = top_patches.dimmed(model, image, layer="0", channel=0, row=4, col=7, box=(0, 0, 16, 16), size_px=16)
    assert np.argwhere(found[..., 1] == 100).tolist() == [[6, 9]]


def test_dimming_leaves_padding_grey_and_takes_the_units_box(image: InputImage) -> None:
    model = same_size()
    found = top_patches.dimmed(model, image, layer="0", channel=1, row=0, col=15, size_px=5)
    patch = top_patches.patch(model, image, (13, -2, 18, 3), size_px=5)
    assert (found[:2] == top_patches.GREY).all()
    assert (found[:, 3:] == top_patches.GREY).all()
    is_kept = (found == patch).all(axis=2)
    assert not is_kept.all()
    np.testing.assert_array_equal(found[~is_kept], np.rint(patch[~is_kept] * 0.3))


def test_dimming_where_nothing_is_above_zero() -> None:
    """Red shifted down by 1: the lowest value counts as none."""
    net = nn.Sequential(Red())
    net[0].red.bias = nn.Parameter(torch.tensor([-1.0]))
    pixels = np.full((SIDE, SIDE, 3), 50, np.uint8)
    pixels[2:6, 2:6] = 250
    model, image = from_module(net), images.from_pixels(pixels, name="dark")
    found = top_patches.dimmed(model, image, layer="0.red", channel=0, row=3, col=3, box=(0, 0, 16, 16), size_px=16)
    assert (found[2:6, 2:6] == 250).all()
    assert (found[8:] == 15).all()


def test_dimming_takes_the_last_call(small_model: Callable[[str], LoadedModel], image: InputImage) -> None:
    model = small_model("reused_relu")
    x = model.to_input(image)
    first, last = (out[0, 1] for out in outputs_of(model.net, "conv2", x))
    place = int(last.argmax())
    assert place != int(first.argmax())
    row, col = divmod(place, SIDE)
    found = top_patches.dimmed(
        model, image, layer="conv2", channel=1, row=row, col=col, box=(0, 0, SIDE, SIDE), size_px=SIDE
    )
    is_active = (last >= 0.2 * last.max()).numpy()
    np.testing.assert_array_equal(found[is_active], image.pixels[is_active])
    np.testing.assert_array_equal(found[~is_active], np.rint(image.pixels[~is_active] * 0.3))


def test_no_such_unit(image: InputImage) -> None:
    with pytest.raises(BadSetting, match=r"no unit \(4, 0, 0\)"):
        top_patches.dimmed(same_size(), image, layer="0", channel=4, row=0, col=0)


def test_an_attribution_stands_beside_its_patch(image: InputImage) -> None:
    model = same_size()
    values = np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE)).astype(np.float32)
    values[:, 1, 1] = 5
    found = top_patches.crop_attribution(model, image, values, (-1, -1, 4, 4), size_px=5)
    assert (found[0] == 128).all()
    assert (found[:, 0] == 128).all()
    limit = np.percentile(np.abs(values[:, :4, :4]), 99)
    expected = np.clip(np.rint(256 * (0.5 + values[:, :4, :4] / (2 * limit))), 0, 255).transpose(1, 2, 0)
    np.testing.assert_allclose(found[1:, 1:], expected, atol=1)
    assert (found[2, 2] == 255).all()


def test_an_attribution_of_zeros_is_grey_and_a_grey_one_has_no_colours(image: InputImage) -> None:
    zeros = np.zeros((3, SIDE, SIDE), np.float32)
    assert (top_patches.crop_attribution(same_size(), image, zeros, (0, 0, 5, 5)) == 128).all()
    grey = np.random.default_rng(0).normal(size=(1, SIDE, SIDE)).astype(np.float32)
    found = top_patches.crop_attribution(same_size(), image, grey, (0, 0, 5, 5), size_px=20)
    assert found.shape == (20, 20, 3)
    assert (found == found[..., :1]).all()
    assert len(np.unique(found)) > 20
    with pytest.raises(BadSetting, match="of this network"):
        top_patches.crop_attribution(same_size(), image, zeros[:, :8], (0, 0, 5, 5))


def test_a_units_attribution_fills_its_box_and_no_more(
    small_model: Callable[[str], LoadedModel], image: InputImage
) -> None:
    """Zeiler's pairs: what guided backprop draws of a unit lies inside the box that is cut."""
    model = small_model("plain")
    unit = saliency.strongest_unit(model, image, layer="relu2", channel=2)
    values = saliency.explain(model, image, method="gradient", layer="relu2", unit=unit).values
    left, top, right, bottom = (
        int(edge) for edge in top_patches.unit_box(model, image, layer="relu2", row=unit[1], col=unit[2])
    )
    assert values.any()
    outside = values.copy()
    outside[:, max(0, top) : bottom, max(0, left) : right] = 0
    assert not outside.any()
    found = top_patches.crop_attribution(model, image, values, (left, top, right, bottom), size_px=right - left)
    assert (found != 128).any()


def test_a_wall_is_its_patches(small_model: Callable[[str], LoadedModel], noise: Draw) -> None:
    model, listed = small_model("plain"), noise((20, 30), (33, 21))
    found = top_patches.search(model, listed, layer="conv2", channels=[3, 0], k=4)
    steps: list[Step] = []
    wall = top_patches.wall(model, listed, found, size_px=24, on_step=steps.append)
    assert wall.tiles.shape == (2, 4, 24, 24, 3)
    assert wall.problems == {}
    assert steps[-1].done == steps[-1].total == len(np.unique(found.image))
    for at in every_patch(found):
        image = images.open_image(listed.folder / found.paths[found.image[at]])
        np.testing.assert_array_equal(wall.tiles[at], top_patches.patch(model, image, found.box[at], size_px=24))


def test_a_wall_without_some_pictures(tiny_model: LoadedModel, noise: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = noise(num=4)
    found = top_patches.search(tiny_model, listed, layer="conv2", channels=[1], k=6)
    (listed.folder / "01.png").unlink()

    def fail_once(self: Listed, picture: Picture) -> InputImage:
        if picture.path == "02.png":
            raise BadImage("02.png has changed.")
        return images.open_image(self.folder / picture.path)

    monkeypatch.setattr(Listed, "open", fail_once)
    wall = top_patches.wall(tiny_model, listed, found, size_px=8)
    assert sorted(wall.problems) == ["01.png", "02.png"]
    is_grey = (wall.tiles[0] == top_patches.GREY).all(axis=(1, 2, 3))
    gone = [image < 0 or found.paths[image] in wall.problems for image in found.image[0]]
    assert is_grey.tolist() == gone
    assert sum(gone) == 4


def test_a_cancelled_wall_ends(tiny_model: LoadedModel, noise: Draw) -> None:
    listed = noise()
    found = top_patches.search(tiny_model, listed, layer="conv2")

    def cancel(_: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        top_patches.wall(tiny_model, listed, found, on_step=cancel)


# ---- reading them --------------------------------------------------------------------------------------------------


def test_channels_that_never_fire(small_net: Callable[[str], nn.Module], noise: Draw) -> None:
    net = small_net("plain")
    with torch.no_grad():
        net.conv2.weight[[1, 4]] = 0
        net.conv2.bias[1], net.conv2.bias[4] = -1, 0
    model, listed = from_module(net), noise()
    found = top_patches.search(model, listed, layer="relu2", channels=[5, 4, 2, 1], k=1)
    truth = [c for c in (5, 4, 2, 1) if found.value[found.channels == c].item() <= 0]
    assert top_patches.never_fires(model, found).tolist() == truth
    assert {1, 4} <= set(truth) != {5, 4, 2, 1}
    before = top_patches.search(model, listed, layer="conv2", k=1)
    assert before.value[1] <= 0
    assert top_patches.never_fires(model, before).tolist() == []


def test_channels_at_their_upper_limit(tmp_path: Path) -> None:
    """Red times 100 and red divided by 100, cut off at 6; one that is always above it, and one that never fires."""
    listed = Listed(tmp_path / "pictures")
    for number in range(1, 7):
        listed.add(f"{number}.png", np.full((SIDE, SIDE, 3), 40 * number, np.uint8))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6())
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[:2, 0, 0, 0] = torch.tensor([100, 0.01])
        net[0].bias.copy_(torch.tensor([0.0, 0, 9, -9]))
    model = from_module(net)
    assert top_patches.at_limit(top_patches.search(model, listed, layer="1", k=4)).tolist() == [0, 2]
    assert top_patches.at_limit(top_patches.search(model, listed, layer="0", k=4)).tolist() == [2]
    assert top_patches.at_limit(top_patches.search(model, listed, layer="1", k=1)).tolist() == []


def test_the_default_layer_lies_before_a_limit(lite0: LoadedModel, zoo: Callable[[str], LoadedModel]) -> None:
    assert top_patches.default_layer(lite0) == "blocks.6"
    assert top_patches.default_layer(zoo("torchvision/resnet18")) == "layer4"


def test_labels_that_drive_a_channel(tmp_path: Path) -> None:
    """Reds of 200 to 250 are strongest: four apples and a brick among four apples, two bricks and four leaves."""
    listed = Listed(tmp_path / "pictures")
    reds = {"apple": (200, 210, 220, 230), "brick": (250, 20), "leaf": (10, 11, 12, 13)}
    labels = {}
    for label, values in reds.items():
        for red in values:
            listed.add(f"{label} {red}.png", np.full((SIDE, SIDE, 3), (red, 0, 0), np.uint8))
            labels[f"{label} {red}.png"] = label
    listed.labels = labels
    found = top_patches.search(from_module(Red(4)), listed, layer="red", k=5)
    assert [found.paths[i] for i in found.image[0]][:2] == ["brick 250.png", "apple 230.png"]
    shares = top_patches.labels_of(found, listed.pictures(), channel=0)
    assert shares == (
        top_patches.LabelShare("apple", 4, 0.8, 0.4),
        top_patches.LabelShare("brick", 1, 0.2, 0.2),
    )
    with pytest.raises(BadSetting, match="Channel 1"):
        top_patches.labels_of(found, listed.pictures(), channel=1)
    # Of equally frequent ones the rarer in the collection first.
    two = top_patches.search(from_module(Red(4)), listed, layer="red", k=2)
    assert [share.label for share in top_patches.labels_of(two, listed.pictures(), channel=0)] == ["brick", "apple"]
    listed.labels = {}
    assert top_patches.labels_of(found, listed.pictures(), channel=0) == ()


def test_answers_are_maxima_beside_the_collections(tiny_model: LoadedModel, noise: Draw, image: InputImage) -> None:
    listed = noise()
    indexing.build(listed, tiny_model, layers=["conv2"])
    index = indexing.read(listed, tiny_model, layer="conv2")
    found = top_patches.activation_on(tiny_model, image, index=index, channels=[5, 0, 3])
    maps = maps_of(tiny_model, "conv2", tiny_model.to_input(image))[0].numpy()
    everything = torch.cat(
        [
            maps_of(tiny_model, "conv2", tiny_model.to_input(images.open_image(listed.folder / picture.path)))
            for picture in listed.pictures()
        ]
    ).numpy()
    for n, channel in enumerate((5, 0, 3)):
        value, reached = maps[channel].max(), everything[:, channel].max(axis=(1, 2))
        assert found.value[n] == pytest.approx(value, rel=1e-5)
        assert maps[channel, found.row[n], found.col[n]] == found.value[n]
        assert found.share[n] == pytest.approx(value / reached.max(), rel=1e-3)
        assert found.num_stronger[n] == min(16, (reached > value + 1e-3).sum())


def test_a_patch_of_the_collection_finds_its_channel(tiny_model: LoadedModel, noise: Draw) -> None:
    """In its own strongest patch a channel reaches all that it ever reaches."""
    listed = noise()
    found = top_patches.search(tiny_model, listed, layer="conv2", k=1)
    index = indexing.read(listed, tiny_model, layer="conv2")
    for n, channel in enumerate(found.channels):
        image = images.open_image(listed.folder / found.paths[found.image[n, 0]])
        row, col = int(found.row[n, 0]), int(found.col[n, 0])
        box = (2 * col, 2 * row, 2 * col + 2, 2 * row + 2)  # the cell alone: one of 8 x 8
        like = top_patches.channels_like(tiny_model, image, index=index, box=box, k=3)
        maps = maps_of(tiny_model, "conv2", tiny_model.to_input(image))[0, :, row, col].numpy()
        shares = maps / found.value[:, 0]
        np.testing.assert_allclose(like.share, np.sort(shares)[::-1][:3], rtol=1e-3)
        np.testing.assert_allclose(like.share, shares[like.channels], rtol=1e-3)
        mine = like.channels.tolist().index(channel)
        assert like.share[mine] == pytest.approx(1, rel=1e-3)
        assert (like.row == row).all()
        assert (like.col == col).all()
        assert like.num_stronger[mine] == 0


def test_at_the_limit_the_mean_tells_channels_apart(noise: Draw) -> None:
    """Three channels that all reach six somewhere: first comes the one that is there most of the time."""

    class Capped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Conv2d(3, 3, 1)
            self.relu = nn.ReLU6()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.gain(x))

    net = Capped()
    with torch.no_grad():
        net.gain.weight.copy_(torch.tensor([20.0, 80.0, 40.0])[:, None, None, None].expand(3, 3, 1, 1))
        net.gain.bias.zero_()
    listed, model = noise(), from_module(net)
    indexing.build(listed, model, layers=["relu"])
    index = indexing.read(listed, model, layer="relu")
    like = top_patches.channels_like(model, images.open_image(next(listed.folder.glob("*"))), index=index)
    assert like.share.tolist() == [1, 1, 1]
    assert like.channels.tolist() == [1, 2, 0]
    assert (np.diff(like.mean_share) < 0).all()


def test_only_cells_inside_the_box_count(noise: Draw) -> None:
    """A bright block in the middle of its cell counts when the box holds that middle, or no middle at all is nearer."""
    listed = noise()
    model = from_module(Red(4))
    indexing.build(listed, model, layers=["red"])
    index = indexing.read(listed, model, layer="red")
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[4:8, 8:12] = 255
    image = images.from_pixels(pixels, name="block")
    for box, is_bright in (
        ((0, 0, 16, 16), True),
        ((9, 5, 11, 7), True),
        ((8, 4, 9, 5), True),  # holds no middle; that of the bright cell is nearest
        ((0, 0, 9, 16), False),
        ((8, 8, 12, 12), False),
        ((-5, -5, 2, 2), False),
    ):
        found = top_patches.activation_on(model, image, index=index, box=box)
        assert found.value[0] == pytest.approx(float(is_bright), abs=1e-6), box
    assert (found.row[0], found.col[0]) == (0, 0)
    with pytest.raises(BadSetting, match="outside"):
        top_patches.activation_on(model, image, index=index, box=(20, 0, 30, 10))


def test_channels_that_never_fire_are_like_nothing(
    small_net: Callable[[str], nn.Module], noise: Draw, image: InputImage
) -> None:
    net = small_net("plain")
    with torch.no_grad():
        net.conv2.weight[[1, 4]] = 0
        net.conv2.bias[[1, 4]] = -1
    model, listed = from_module(net), noise()
    indexing.build(listed, model, layers=["conv2"])
    index = indexing.read(listed, model, layer="conv2")
    answers = top_patches.activation_on(model, image, index=index)
    assert np.isnan(answers.share[[1, 4]]).all()
    like = top_patches.channels_like(model, image, index=index)
    assert not {1, 4} & set(like.channels.tolist())
    assert np.isfinite(like.share).all()
    assert (np.diff(like.share) <= 0).all()
    with pytest.raises(BadSetting, match="k is 0"):
        top_patches.channels_like(model, image, index=index, k=0)


def test_nothing_to_compare_with(tiny_model: LoadedModel, tmp_path: Path, image: InputImage) -> None:
    index = indexing.read(Listed(tmp_path / "nothing here"), tiny_model, layer="conv2")
    with pytest.raises(BadSetting, match="no pictures in the index"):
        top_patches.activation_on(tiny_model, image, index=index)


# ---- the default network on photos ---------------------------------------------------------------------------------


def test_on_real_photos(lite0: LoadedModel, tmp_path: Path) -> None:
    """An early layer's box is exact, a late one's a third; both values are the untouched network's own."""
    listed = Listed(tmp_path / "photos")
    for photo_id in ("chelsea", "coffee", "flower", "astronaut"):
        listed.add(f"{photo_id}.png", photos.open_photo(photo_id).pixels)
    for layer, is_exact in (("blocks.1", True), (top_patches.default_layer(lite0), False)):
        found = top_patches.search(lite0, listed, layer=layer, k=2, channels=range(3))
        assert found.is_exact is is_exact
        for at in every_patch(found):
            image = images.open_image(listed.folder / found.paths[found.image[at]])
            maps = maps_of(lite0, layer, lite0.to_input(image))[0]
            value = maps[found.channels[at[0]], found.row[at], found.col[at]]
            assert value.item() == pytest.approx(found.value[at], abs=2e-3 * float(maps.abs().max()))
            assert top_patches.patch(lite0, image, found.box[at], size_px=48).shape == (48, 48, 3)
