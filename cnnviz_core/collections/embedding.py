"""One pass over picture files: what a network's layers make of each, and where each channel answers most.

The work on a list of files is a pure function of network and list, :func:`embed`, so that any number of threads,
processes or machines may each take a part. Pictures are fitted to the network as on the pages but for rounding; JPEGs
of several megapixels are decoded at a lower resolution (see :func:`cnnviz_core.images.open_reduced`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import folding, images, probe
from cnnviz_core.collections.scan import digest_of
from cnnviz_core.errors import BadImage, BadSetting, UnknownLayer
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.preprocessing import Preprocessing
from cnnviz_core.results import FloatArray

# Not layers, but indexed like them: the crop itself, as the baseline, and the class scores.
PIXELS = "pixels"
SCORES = "scores"
PSEUDO_LAYERS = (PIXELS, SCORES)

NUM_TOPS = 16

PIXELS_SIDE = 32
MAX_FLAT = 16_384
_TRIED = 4
_DECODING_SECONDS = 3e-3
_BATCH = {"cpu": 16}
_BATCH_ON_DEVICES = 64
# The copy with folded norms must put out what the network does, to this share of the largest value.
_ROUNDING = 1e-4

T = TypeVar("T")

Pool = Callable[[Tensor], Tensor]
POOLINGS: Mapping[str, Pool] = {
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "flat": lambda maps: maps.flatten(1),
}


@dataclass(frozen=True)
class File:
    """A picture file.

    Attributes:
        path: Where it lies.
        digest: :func:`scan.digest_of` the bytes that it should hold; empty takes whatever it holds.
    """

    path: Path
    digest: str = ""


class NotThere(BadImage):
    """A file that cannot be read just now, or does not hold what it should any more; that may pass."""


@dataclass(frozen=True)
class Tops:
    """For each channel of a layer the pictures in which it answers most, strongest first, one place per picture.

    k is :data:`NUM_TOPS`, or the number of pictures where there are fewer.

    Attributes:
        values: (C, k) activations.
        rows: (C, k) which picture.
        cells: (C, k, 2) row and column of the place in the layer's grid.
        around: (C, k) mean activation of the 3 x 3 cells there, which decides between equal values: where an
            activation has an upper limit, many places and pictures reach it.
    """

    values: FloatArray
    rows: NDArray[np.int64]
    cells: NDArray[np.int16]
    around: FloatArray

    @staticmethod
    def empty(num_channels: int) -> Tops:
        """No pictures yet."""
        none = np.empty((num_channels, 0), np.float32)
        return Tops(none, none.astype(np.int64), np.empty((num_channels, 0, 2), np.int16), none)

    def merged(self, other: Tops) -> Tops:
        """The strongest of both; of those that are alike to the last those of the first come first."""
        values = np.concatenate([self.values, other.values], axis=1)
        rows = np.concatenate([self.rows, other.rows], axis=1)
        cells = np.concatenate([self.cells, other.cells], axis=1)
        around = np.concatenate([self.around, other.around], axis=1)
        order = np.lexsort((-around, -values), axis=1)[:, :NUM_TOPS]
        chosen = order + values.shape[1] * np.arange(len(values))[:, None]  # counted through, which is found faster
        return Tops(
            values.take(chosen), rows.take(chosen), cells.reshape(-1, 2).take(chosen, axis=0), around.take(chosen)
        )


@dataclass(frozen=True)
class Shard:
    """What became of a list of files.

    Attributes:
        read: (n,) positions in the list of the files that could be read.
        problems: For files that hold no whole picture the reason, by position.
        missed: For files that could not be read just now, or hold something else by now, the reason, by position.
        vectors: For each layer (n, D) float32.
        tops: For each layer with channels the strongest answers; ``rows`` counts the n pictures.
    """

    read: tuple[int, ...]
    problems: Mapping[int, str]
    missed: Mapping[int, str]
    vectors: Mapping[str, FloatArray]
    tops: Mapping[str, Tops]


@torch.no_grad()
def embed(
    model: LoadedModel,
    files: Sequence[File],
    *,
    layers: Sequence[str],
    pooling: str = "mean",
    on_batch: Callable[[int], None] | None = None,
) -> Shard:
    """Embeddings of files at the chosen layers, from one forward per picture.

    Args:
        model: Any network.
        files: Files to read; one that is no whole picture, or not what it should be, is left out with the reason.
        layers: Dotted names; "pixels" for the crop itself at 32 x 32, "scores" for the class scores. Of a layer that
            is called several times the last answer.
        pooling: How a map (C, h, w) becomes a vector: "mean" or "max" over the places, or all values, "flat".
        on_batch: Called with the number of files done since the last call; what it raises ends the work.

    Raises:
        UnknownLayer, BadSetting, NotApplicable: As :func:`check`.
    """
    check(model, layers, pooling)
    sources = _sources(model, tuple(layers))
    vectors: dict[str, list[FloatArray]] = {name: [] for name in layers}
    tops = {name: Tops.empty(model.layers[name].num_channels) for name in layers if name not in PSEUDO_LAYERS}
    read: list[int] = []
    problems: dict[int, str] = {}
    missed: dict[int, str] = {}
    batch_size = _BATCH.get(model.device.type, _BATCH_ON_DEVICES)
    for batch in _in_batches(_crops(files, model.preprocessing, problems, missed), batch_size):
        pixels = [crop for _, crop in batch]
        x = model.preprocessing.normalise(pixels).to(model.device)
        for name, raw in sources(x, pixels).items():
            maps = _maps(raw, model, name)
            vectors[name].append(POOLINGS[pooling](maps).float().cpu().numpy())
            if name in tops:
                tops[name] = tops[name].merged(_strongest(maps, len(read)))
        read += [place for place, _ in batch]
        if on_batch is not None:
            on_batch(len(batch))
    return Shard(
        read=tuple(read),
        problems=problems,
        missed=missed,
        vectors={
            name: np.concatenate(parts) if parts else np.empty((0, dimension(model, name, pooling)), np.float32)
            for name, parts in vectors.items()
        },
        tops=tops,
    )


@torch.no_grad()
def of_image(
    model: LoadedModel, image: InputImage, *, layers: Sequence[str], pooling: str = "mean"
) -> dict[str, FloatArray]:
    """Vectors (D,) of one picture at the chosen layers, to be compared with those of files; as :func:`embed`."""
    check(model, layers, pooling)
    crops = [model.preprocessing.crop(image)]
    found = _sources(model, tuple(layers))(model.preprocessing.normalise(crops).to(model.device), crops)
    return {name: POOLINGS[pooling](_maps(raw, model, name))[0].float().cpu().numpy() for name, raw in found.items()}


@torch.no_grad()
def seconds_per_picture(model: LoadedModel) -> float:
    """What one picture costs one thread, measured on a few of noise."""
    height, width = model.preprocessing.input_px
    crops = list(np.random.default_rng(0).integers(0, 256, (_TRIED, height, width, 3), dtype=np.uint8))
    answer = _sources(model, (default_layer(model),))
    times = []
    for _ in range(3):  # the first warms up, and another one may meet other work
        start = time.perf_counter()
        answer(model.preprocessing.normalise(crops).to(model.device), crops)
        times.append((time.perf_counter() - start) / _TRIED)
    return min(times) + _DECODING_SECONDS


def check(model: LoadedModel, layers: Sequence[str], pooling: str) -> None:
    """Passes where these layers can be indexed so.

    Raises:
        UnknownLayer: No such layer.
        BadSetting: No layer at all, no such pooling, or a vector too long to keep for every picture.
        NotApplicable: Scores of a network without a classifier.
    """
    if not layers:
        raise BadSetting("Choose at least one layer to index.")
    if pooling not in POOLINGS:
        raise BadSetting(f"pooling is {pooling!r}, not one of {', '.join(POOLINGS)}.")
    for name in layers:
        if name == SCORES:
            model.scores(torch.zeros(1, max(1, model.num_outputs)))
        elif not fits(model, name, pooling):
            length = dimension(model, name, pooling)
            raise BadSetting(
                f"Layer {name} has {length:,} values per picture; at most {MAX_FLAT:,} are kept. Pool by mean or max."
            )


def fits(model: LoadedModel, layer: str, pooling: str) -> bool:
    """Whether a picture's vector at a layer is short enough to be kept.

    Raises:
        UnknownLayer: No layer of that name.
    """
    return layer in PSEUDO_LAYERS or dimension(model, layer, pooling) <= MAX_FLAT


def dimension(model: LoadedModel, layer: str, pooling: str) -> int:
    """Length of a picture's vector at a layer.

    Raises:
        UnknownLayer: No layer of that name.
    """
    if layer in PSEUDO_LAYERS:
        return {PIXELS: PIXELS_SIDE**2 * 3, SCORES: model.num_classes}[layer]
    shape = model.layers[layer].shape
    return int(np.prod(shape)) if pooling == "flat" else shape[0]


def default_layer(model: LoadedModel) -> str:
    """What the classifier reads: the last layer that answers before it, or the last of all without a classifier."""
    names = model.layers.names
    classifier = model.anatomy.head.classifier
    return names[max(0, names.index(classifier) - 1)] if classifier in names else names[-1]


def standard_layers(model: LoadedModel) -> tuple[str, ...]:
    """What the pages use and one pass gives: pixels, the end of each stage, what the classifier reads, scores."""
    stages = [stage.representative for stage in model.layers.stages]
    scores = [SCORES] if model.num_classes else []
    return tuple(dict.fromkeys([PIXELS, *stages, default_layer(model), *scores]))


def read_crop(file: File, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(H, W, 3) pixels of what the network sees of a file.

    Raises:
        NotThere: It is gone, or does not hold what it should.
        BadImage: It is no whole picture.
    """
    return preprocessing.quick_crop(read_reduced(file, preprocessing.resized))


def read_reduced(file: File, size: Callable[[int, int], tuple[int, int]]) -> NDArray[np.uint8]:
    """(H, W, 3) pixels of a file, perhaps reduced, for thumbnails; as :func:`images.open_reduced`.

    Raises:
        BadImage: As :func:`read_crop`.
    """
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise NotThere(f"{file.path.name} cannot be read ({error.strerror or error}).") from error
    if file.digest and digest_of(content) != file.digest:
        raise NotThere(f"{file.path.name} has changed since the collection was looked through; look through it again.")
    return images.open_reduced(content, name=file.path.name, size=size)


def _crops(
    files: Sequence[File], preprocessing: Preprocessing, problems: dict[int, str], missed: dict[int, str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for place, file in enumerate(files):
        try:
            yield place, read_crop(file, preprocessing)
        except NotThere as error:
            missed[place] = str(error)
        except BadImage as error:
            problems[place] = str(error)


def _in_batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


# ---- from pictures to layers ---------------------------------------------------------------------------------------


def _sources(
    model: LoadedModel, layers: tuple[str, ...]
) -> Callable[[Tensor, Sequence[NDArray[np.uint8]]], dict[str, Tensor]]:
    """A function from a batch, normalised and as pixels, to what each of the layers puts out."""
    real = [name for name in layers if name not in PSEUDO_LAYERS]
    net = quick_net(model, real)
    num_calls = None if SCORES in layers else {name: model.layers[name].num_calls for name in real}

    def answer(x: Tensor, crops: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if real or SCORES in layers:
            recording = probe.record(net, x, real, stop_after=num_calls)
            found = {name: recording.outputs[name][-1] for name in real}
            if recording.result is not None:
                found[SCORES] = model.scores(recording.result)
        if PIXELS in layers:
            colours = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
            found[PIXELS] = F.interpolate(colours, size=PIXELS_SIDE, mode="area").flatten(1)
        return {name: found[name] for name in layers}

    return answer


_quick: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], bool]] = WeakKeyDictionary()
_lock = threading.Lock()


def quick_net(model: LoadedModel, layers: Sequence[str]) -> nn.Module:
    """For forwards without gradients: the fastest copy in which these layers put out the same, else the network."""
    two = torch.randn((2, model.preprocessing.num_channels, *model.preprocessing.input_px), generator=_generator())
    if model.device.type != "cpu" or not model.is_static:
        return model.net
    fast, key = folding.fast_copy(model.net, two), tuple(layers)
    for copy in (fast.net, fast.folded):
        with _lock:
            known = _quick.setdefault(copy, {})
        if key not in known:
            known[key] = _puts_out_the_same(copy, model, two, layers)
        if known[key]:
            return copy
    return model.net


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _puts_out_the_same(copy: nn.Module, model: LoadedModel, x: Tensor, layers: Sequence[str]) -> bool:
    try:
        mine, theirs = (probe.record(net, x, layers).outputs for net in (copy, model.net))
    except UnknownLayer:  # a part of what was folded away
        return False
    return all(
        torch.allclose(a, b, rtol=0, atol=_ROUNDING * float(b.abs().max()))
        for name in layers
        for a, b in zip(mine[name][-1:], theirs[name][-1:], strict=True)
    )


def _maps(raw: Tensor, model: LoadedModel, name: str) -> Tensor:
    """(N, C, h, w); a vector has one cell."""
    info: LayerInfo | None = None if name in PSEUDO_LAYERS else model.layers[name]
    if info is None or info.cells is None:
        return raw.reshape(len(raw), -1, 1, 1)
    return raw.movedim(info.channel_dim, 1)


def _strongest(maps: Tensor, first_row: int) -> Tops:
    """The strongest place of each channel in each picture, in the order of the pictures, to be merged."""
    num_pictures, num_channels, height, width = maps.shape
    if height == width == 1:
        values, around = maps[:, :, 0, 0], maps[:, :, 0, 0] / 9
        cells = torch.zeros((num_channels, num_pictures, 2), dtype=torch.int16)
    else:
        values, places = maps.flatten(2).max(dim=2)
        is_best = maps == values[..., None, None]
        is_tied = is_best.sum((2, 3)) > 1
        if width > 1 and is_tied.any():
            middles = torch.where(is_best[is_tied], _means_around(maps[is_tied]), -torch.inf)
            places[is_tied] = middles.flatten(1).argmax(dim=1)
        around = _means_around(maps, places)
        cells = torch.stack([places // width, places % width], dim=2).transpose(0, 1).to(torch.int16)
    rows = np.broadcast_to(np.arange(first_row, first_row + num_pictures), (num_channels, num_pictures))
    return Tops(values.T.float().cpu().numpy(), rows, cells.cpu().numpy(), around.T.float().cpu().numpy())


def _means_around(maps: Tensor, places: Tensor | None = None) -> Tensor:
    """Mean of 3 x 3 cells around every place of maps (T, h, w), or around one place of each of (N, C, h, w)."""
    if places is None:
        return F.avg_pool2d(maps[:, None], 3, stride=1, padding=1)[:, 0]
    height, width = maps.shape[2:]
    flat, total = maps.flatten(2), torch.zeros_like(maps[:, :, 0, 0])
    for down, across in itertools.product((-1, 0, 1), repeat=2):
        row, column = places // width + down, places % width + across
        is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        neighbour = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        total += flat.gather(2, neighbour[..., None])[..., 0] * is_inside
    return total / 9
