"""What channels look for, in a network before and after fine-tuning: the study, channel by channel.

For each channel a picture is made that excites it, in both networks from the same noise with the same views and
settings, so that what differs comes from the weights. Two measures compare the pictures, both in the base network: the
cosine of their embeddings, which are what its classifier reads; and at each of several layers the distance of their
Gram matrices

    D = sum((G1 - G2)²) / (4 C² (h w)²),  G = F Fᵀ,  F the layer's maps, C x (h w).

Every picture is kept on disk as soon as its batch is done, under the weights that lead to it and its settings. A study
that was broken off goes on where it was, one with more channels makes only those, and where nothing differs up to a
layer, both networks share one picture.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnnviz_core import pairs, probe, settings, store, synthesis
from cnnviz_core.collections import embedding
from cnnviz_core.errors import BadSetting, NotApplicable, checked_seed
from cnnviz_core.images import Pixels
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, LayerStudy, Step, Study

OnStep = Callable[[Step], None]

NUM_LAYERS = 3
NUM_CHANNELS = 8
STEPS = 96
SIZE_PX = 96

_FORMAT = 1  # of what is kept; another number makes older pictures unknown
_MOST_GRAM_LAYERS = 20
_MOST_KEPT_MB = 500
_EMBEDDED_AT_ONCE = 8


def offered_layers(base: LoadedModel, tuned: LoadedModel) -> tuple[str, ...]:
    """The layers whose channels can be compared: those of :func:`pairs.layers` that put out equally many in both."""
    return tuple(
        name
        for name in pairs.layers(base)
        if all(name in model.layers.names for model in (base, tuned))
        and base.layers[name].num_channels == tuned.layers[name].num_channels
    )


def default_layers(base: LoadedModel, tuned: LoadedModel) -> tuple[str, ...]:
    """A few layers with maps, from a third of the depth on; the first ones see only edges and colours.

    Raises:
        NotApplicable: There is none.
    """
    names = [name for name in offered_layers(base, tuned) if base.layers[name].is_spatial]
    if not names:
        raise NotApplicable(f"{base.spec.title} has no layer with maps whose channels could be looked at.")
    places = np.linspace(len(names) // 3, len(names) - 1, NUM_LAYERS).round().astype(int)
    return tuple(dict.fromkeys(names[at] for at in places))


def sampled(model: LoadedModel, layer: str, channels: int | Sequence[int] | None, *, seed: int = 0) -> tuple[int, ...]:
    """Channel numbers: all for None, so many drawn at random for a number, else those given, each once.

    Raises:
        BadSetting: A channel that the layer has not, or none at all.
    """
    count = model.layers[layer].num_channels
    if channels is None:
        return tuple(range(count))
    if isinstance(channels, int):
        if channels < 1:
            raise BadSetting(f"channels is {channels}; give 1 or more, or None for all.")
        drawn = np.random.default_rng(checked_seed(seed)).permutation(count)[:channels]
        return tuple(sorted(drawn.tolist()))
    if not channels or not all(0 <= channel < count for channel in channels):
        raise BadSetting(f"Layer {layer} has channels 0 to {count - 1}; {list(channels)} was asked for.")
    return tuple(dict.fromkeys(channels))


def num_pictures(
    base: LoadedModel, tuned: LoadedModel, *, layers: Sequence[str], channels: int | None, **looks: int
) -> tuple[int, int]:
    """How many pictures a study is made of, and how many of them are still to be made; shared ones count once."""
    total = missing = 0
    for layer in layers:
        wanted = sampled(base, layer, channels, seed=looks.get("seed", 0))
        shelves = {shelf.path: shelf for shelf in (_Shelf(model, layer, **looks) for model in (base, tuned))}
        total += len(shelves) * len(wanted)
        missing += sum(not shelf.has(channel) for shelf in shelves.values() for channel in wanted)
    return total, missing


def seconds_per_step(model: LoadedModel, *, layer: str, size_px: int) -> float:
    """What one step of one picture takes, measured between the steps of a batch, since the way to the first differs."""
    batch = list(range(min(synthesis.BATCH_SIZE, model.layers[layer].num_channels)))
    times: list[float] = []
    synthesis.synthesize(
        model,
        layer=layer,
        channels=batch,
        steps=4,
        size_px=size_px,
        on_step=lambda _: times.append(time.perf_counter()),
    )
    return float(np.median(np.diff(times))) / len(batch)


def study(
    base: LoadedModel,
    tuned: LoadedModel,
    *,
    layers: Sequence[str] | None = None,
    channels: int | Sequence[int] | None = NUM_CHANNELS,
    steps: int = STEPS,
    size_px: int = SIZE_PX,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Study:
    """Makes and compares the pictures; what was made before is taken up.

    Args:
        base: The network as it was; both measures are taken in it.
        tuned: The network as it became.
        layers: Dotted names; None takes :func:`default_layers`.
        channels: So many of each layer, drawn at random; or their numbers; None for all.
        steps: Of gradient ascent.
        size_px: Side of the pictures.
        seed: Of the noise and views, the same for every picture, and of the draw of channels.
        on_step: Called after every step of ascent with the steps of all pictures done, their number in all, and the
            study so far: whole pairs only. What it raises ends the work; what is finished by then stays.

    Raises:
        NotApplicable: Different architectures, or layers of different numbers of channels.
        BadSetting: No such channel, no steps, an impossible size.
        UnknownLayer: No such layer.
        StorageFailed: The data folder cannot be written.
    """
    start = time.perf_counter()
    pairs.check(base, tuned)
    names = default_layers(base, tuned) if layers is None else tuple(layers)
    offered = offered_layers(base, tuned)
    for name in names:
        if base.layers[name].num_channels != tuned.layers[name].num_channels:
            raise NotApplicable(
                f"Layer {name} has another number of channels in the two networks; choose one below the head, such as "
                f"{offered[0]}."
            )
    wanted = {name: sampled(base, name, channels, seed=seed) for name in names}
    gauge = _Gauge(base)
    report = _Report(on_step, steps, sum(2 * len(found) for found in wanted.values()))
    done: dict[str, LayerStudy] = {}

    def so_far() -> Study:
        return Study(
            layers=tuple(done.values()),
            gram_layers=gauge.gram_layers,
            embedding_layer=gauge.embedding_layer,
            run=pairs.paired_run(
                base,
                tuned,
                "comparison.study",
                time.perf_counter() - start,
                layers=list(names),
                channels=channels if channels is None or isinstance(channels, int) else list(channels),
                steps=steps,
                size_px=size_px,
                seed=seed,
            ),
        )

    store.drop_oldest(_folder(), "*/*.npz", max_mb=_MOST_KEPT_MB)
    for name, numbers in wanted.items():
        shelves = [_Shelf(model, name, steps=steps, size_px=size_px, seed=seed) for model in (base, tuned)]
        parts: list[_Part] = []
        for at in range(0, len(numbers), synthesis.BATCH_SIZE):
            batch = numbers[at : at + synthesis.BATCH_SIZE]
            one, other = (shelf.pictures(batch, report) for shelf in shelves)
            parts.append((one, other, *gauge.compare(one, other)))
            done[name] = _layer(name, numbers, parts)
            report.show(so_far())
    return so_far()


_Part = tuple[Pixels, Pixels, FloatArray, FloatArray]


def _layer(name: str, numbers: Sequence[int], parts: Sequence[_Part]) -> LayerStudy:
    one, other, similarities, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
    grey = [synthesis.grey_scores(_as_floats(pictures)) for pictures in (one, other)]
    return LayerStudy(
        layer=name,
        channels=np.array(numbers[: len(one)], np.int64),
        base_pictures=one,
        tuned_pictures=other,
        similarities=similarities,
        gram_distances=distances,
        base_grey=grey[0],
        tuned_grey=grey[1],
        base_cut=synthesis.grey_cut(grey[0]),
        tuned_cut=synthesis.grey_cut(grey[1]),
    )


def _as_floats(pictures: Pixels) -> FloatArray:
    return pictures.astype(np.float32) / np.float32(255)


class _Report:
    """Tells how far a study has come, over the parts of which it is made."""

    def __init__(self, on_step: OnStep | None, steps: int, num: int) -> None:
        self._on_step, self._steps, self._total = on_step, steps, steps * num
        self._finished = 0
        self._partial: Study | None = None

    def step(self, part: Step) -> None:
        """Takes a step of the part under way."""
        if self._on_step is not None:
            self._on_step(Step(self._finished + part.done, self._total, self._partial))

    def finish(self, num: int) -> None:
        """So many pictures are there."""
        self._finished += num * self._steps

    def show(self, partial: Study) -> None:
        """Takes the study so far."""
        self._partial = partial
        self.step(Step(0, 0))


# ---- the two measures ------------------------------------------------------------------------------------------------


class _Gauge:
    """How alike two pictures are to the base network."""

    def __init__(self, base: LoadedModel) -> None:
        spatial = [name for name in pairs.layers(base) if name in base.layers.names and base.layers[name].is_spatial]
        places = np.unique(np.linspace(0, len(spatial) - 1, min(_MOST_GRAM_LAYERS, len(spatial))).round().astype(int))
        self.gram_layers = tuple(spatial[at] for at in places)
        self.embedding_layer = embedding.default_layer(base)
        self._base = base
        # The whole picture, without the crop of the network's own preprocessing, at the size that its head knows.
        self._fit = replace(base.preprocessing, crop_pct=1.0, crop_mode="squash")

    @torch.no_grad()
    def compare(self, one: Pixels, other: Pixels) -> tuple[FloatArray, FloatArray]:
        """(n,) cosines of embeddings and (n, M) Gram distances of pictures (n, H, W, 3) and (n, H, W, 3)."""
        cosines, distances = [], []
        for at in range(0, len(one), _EMBEDDED_AT_ONCE):
            a, b = (self._record(pictures[at : at + _EMBEDDED_AT_ONCE]) for pictures in (one, other))
            v, w = (found[self.embedding_layer].flatten(2).mean(2).cpu().double() for found in (a, b))
            cosines.append(torch.cosine_similarity(v, w).float().numpy())
            distances.append(np.stack([gram_distance(a[name], b[name]) for name in self.gram_layers], axis=1))
        return np.concatenate(cosines), np.concatenate(distances)

    def _record(self, pictures: Pixels) -> dict[str, Tensor]:
        crops = [self._fit.quick_crop(picture) for picture in pictures]
        x = self._fit.normalise(crops).to(self._base.device)
        recording = probe.record(self._base.net, x, [*self.gram_layers, self.embedding_layer])
        return {
            name: outputs[-1]
            .reshape(*outputs[-1].shape, *(1,) * (4 - outputs[-1].ndim))
            .movedim(self._base.layers[name].channel_dim, 1)
            for name, outputs in recording.outputs.items()
        }


def gram_distance(one: Tensor, other: Tensor) -> FloatArray:
    """Distance of the Gram matrices of maps (N, C, h, w), one for each picture: (N,)."""
    _, num_channels, height, width = one.shape
    found = []
    for a, b in zip(one.flatten(2), other.flatten(2), strict=True):
        squares = (a @ a.T - b @ b.T).square().sum(1)
        found.append(float(squares.cpu().double().sum()) / (4 * num_channels**2 * (height * width) ** 2))
    return np.array(found, np.float32)


# ---- pictures on disk ------------------------------------------------------------------------------------------------


class _Shelf:
    """The pictures of one layer of one network, made with one set of settings."""

    def __init__(
        self, model: LoadedModel, layer: str, *, steps: int = STEPS, size_px: int = SIZE_PX, seed: int = 0
    ) -> None:
        self._model, self._layer = model, layer
        self._looks = {"steps": steps, "size_px": size_px, "seed": seed}
        about = {
            "format": _FORMAT,
            "weights": _weights_up_to(model, layer),
            "network": model.spec.model_id,
            "preprocessing": asdict(model.preprocessing),
            "layer": layer,
            **self._looks,
        }
        key = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=12).hexdigest()
        self.path = _folder() / key

    def has(self, channel: int) -> bool:
        """Whether a channel's picture is there."""
        return self._file(channel).is_file()

    def pictures(self, channels: Sequence[int], report: _Report) -> Pixels:
        """(n, H, W, 3) pictures of channels; those that are missing are made and kept."""
        found = {channel: self._read(channel) for channel in channels}
        missing = [channel for channel, picture in found.items() if picture is None]
        report.finish(len(channels) - len(missing))
        if missing:
            made = synthesis.synthesize(
                self._model,
                layer=self._layer,
                channels=missing,
                steps=self._looks["steps"],
                size_px=self._looks["size_px"],
                seed=self._looks["seed"],
                on_step=report.step,
            )
            for channel, image in zip(missing, made.images, strict=True):
                found[channel] = picture = np.rint(255 * image).astype(np.uint8)
                self._keep(channel, picture)
            report.finish(len(missing))
        return np.stack([picture for picture in found.values() if picture is not None])

    def _file(self, channel: int) -> Path:
        return self.path / f"{channel}.npz"

    def _read(self, channel: int) -> Pixels | None:
        """A kept picture; None where there is none, or a damaged one."""
        size = self._looks["size_px"]
        try:
            with self._file(channel).open("rb") as file, np.load(file) as stored:
                picture: Pixels = stored["picture"]
        except store.DAMAGED_ARRAYS:
            return None
        store.touch(self._file(channel))
        return picture if picture.shape == (size, size, 3) and picture.dtype == np.uint8 else None

    def _keep(self, channel: int, picture: Pixels) -> None:
        with store.written_aside(self._file(channel)) as aside, aside.open("wb") as stream:
            np.savez_compressed(stream, picture=picture)


def _weights_up_to(model: LoadedModel, layer: str) -> str:
    """Names all that may take part in what a layer puts out: architecture, and weights but those of later layers.

    A module counts as later if it answers once, after the layer's last answer, and has no parts that answer before.
    """
    places = {name: at for at, name in enumerate(model.layers.names)}
    shape = pairs.structure(model.net)
    later = {
        name
        for name, module in model.net.named_modules()
        if places.get(name, -1) > places[model.layers[layer].name]
        and model.layers[name].num_calls == 1
        and not any(True for _ in module.children())
    }
    kept = sorted(item for item in shape.items() if item[0] not in later)
    digest = hashlib.blake2b(repr(kept).encode(), digest_size=16)
    for name, tensor in model.net.state_dict().items():
        if name.rpartition(".")[0] not in later:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _folder() -> Path:
    """Where the pictures are kept: a folder for each layer of each network with its settings."""
    return settings.current().data_dir / "visualisations"
