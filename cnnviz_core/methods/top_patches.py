"""Strongest patches: what a channel looks for, shown by the places in many pictures that excite it most.

A whole collection runs through the network. For each channel of a layer it is kept in which pictures it answered most,
and where. Cut out at the size of what a unit there can see, its receptive field, a handful of such patches side by side
often says at a glance what the channel responds to: stripes, eyes, wheels, lettering. Nothing is invented; these are
real pictures. Three views of a patch tell more than one: as it is; dimmed where the channel is quiet; and the picture
that deconvnet or guided backprop makes of the very unit, in which only what drives it is drawn. The labels of the
pictures may show a channel that serves one class.

When it misleads: these are the extremes. A channel whose nine strongest patches are all dogs may answer to much else at
half that strength, and what is not in the collection cannot be found. What the patches share is not always what counts:
eyes come with faces, boats with water. The cut shows what *can* reach the unit; what does is usually narrower and
strongest in the middle. Grey is padding, or a part of the photo outside the network's crop: the unit saw no picture
there, and some channels answer to just that edge. In deep layers a unit may see the whole picture; then the patch is no
more than the surroundings of the place where it answered. Where an activation has an upper limit, as ReLU6, many
pictures reach it and the order among them means nothing: look at a layer before it. A photo may hold more detail than
the network was given.

Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014), figure 2; Springenberg et al.,
Striving for Simplicity (2015); Yosinski et al., Understanding Neural Networks Through Deep Visualization (2015);
Araujo et al., Computing Receptive Fields (2019) for the cut; Luo et al., Understanding the Effective Receptive Field
(2016) for how little of it may count; Achtibat et al., From Attribution Maps to Human-Understandable Explanations
(2023) for the dimming.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnviz_core import maps, probe, receptive_field
from cnnviz_core.collections import Picture, embedding, indexing
from cnnviz_core.collections.embedding import Tops
from cnnviz_core.collections.indexing import Index
from cnnviz_core.errors import BadImage, BadSetting, NotApplicable
from cnnviz_core.images import InputImage, Pixels
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.preprocessing import Box
from cnnviz_core.results import FloatArray, Step, TopPatches

OnStep = Callable[[Step], None]

# What no picture is shown in: padding, and what lies outside the network's crop.
GREY = 128

# A place is active where the channel reaches this share of the unit's own activation; elsewhere a pixel keeps this
# share of its brightness. As in zennit-crp.
ACTIVE_SHARE = 0.2
DIMMED_TO = 0.3

# Sides of a box, as a share of the input's, where it cannot be the receptive field.
BOX_SHARE = 1 / 3

_READERS = 4  # threads that decode pictures

# An index comes from a faster copy of the network; what it holds of a picture may differ by this share.
_ROUNDING = 1e-3


class Collection(indexing.Pictures, Protocol):
    """What a wall needs of a collection."""

    def open(self, picture: Picture) -> InputImage:
        """A picture, decoded whole."""
        ...


# ---- finding them --------------------------------------------------------------------------------------------------


def search(
    model: LoadedModel,
    collection: indexing.Pictures,
    *,
    layer: str | None = None,
    channels: Sequence[int] | None = None,
    k: int = 9,
    on_step: OnStep | None = None,
) -> TopPatches:
    """For each channel the k pictures of a collection in which it answers most, with the place in each.

    What the collection's index lacks is done first: one forward per picture, kept for the next time and for all
    channels. A unit's box is its receptive field, brought from the network's input to the picture by undoing crop and
    resize; the resizing filter mixes in a pixel or two beyond.

    Args:
        model: Any network with maps.
        collection: Any collection; taken as it was last looked through.
        layer: Dotted name; None takes :func:`default_layer`. Of a layer that is called several times it is the last
            call.
        channels: Which; None takes all.
        k: How many, 1 to 16.
        on_step: Called while the index is built, with the pictures done; what it raises ends the work.

    Returns:
        The patches, strongest first, one per picture at most; raw activations.

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer puts out no map, or the network has none at all.
        BadSetting: No such channel, or k out of range.
        StorageFailed: The data folder cannot be written.
    """
    info = _layer(model, layer)
    _check(info, channels, k)
    index = indexing.read(collection, model, layer=info.name)
    if not index.is_complete:
        indexing.build(collection, model, layers=[info.name], on_step=on_step)
        index = indexing.read(collection, model, layer=info.name)
    return from_index(model, index, channels=channels, k=k)


def from_index(model: LoadedModel, index: Index, *, channels: Sequence[int] | None = None, k: int = 9) -> TopPatches:
    """As :func:`search`, from what is there of an index, be it complete or not.

    Raises:
        NotApplicable: The index is of something that is no map.
        BadSetting: The index is of another network; no such channel, or k out of range.
    """
    info = _of_index(model, index)
    chosen = _check(info, channels, k)
    tops = index.tops or Tops.empty(info.num_channels)
    values, rows, cells = (_padded(found[chosen, :k], k) for found in (tops.values, tops.rows, tops.cells))
    is_missing = np.isnan(values)
    windows = _windows(model, info, cells[..., 0], cells[..., 1])
    windows[is_missing] = np.nan
    crops = _crop_boxes(model, index.rows, rows, is_missing)
    return TopPatches(
        layer=info.name,
        channels=chosen,
        paths=tuple(picture.path for picture in index.rows),
        image=np.where(is_missing, -1, rows).astype(np.int64),
        row=cells[..., 0].astype(np.int64),
        col=cells[..., 1].astype(np.int64),
        value=values.astype(np.float32),
        box=_onto_picture(model, windows, crops).astype(np.float32),
        is_exact=not why_not_exact(model, layer=info.name),
    )


def default_layer(model: LoadedModel) -> str:
    """The last layer with maps; where a ReLU6 cuts those off, the last block before it.

    Most pictures reach the limit of a ReLU6 somewhere, so that behind it the strongest cannot be told apart.

    Raises:
        NotApplicable: The network has no layer with maps.
    """
    if not model.layers.spatial:
        raise NotApplicable(
            f"{model.spec.title} has no layer whose output is a map, so its channels answer at no place; this needs a "
            "network with convolutions."
        )
    pooled = model.anatomy.head.feature_layer
    last = model.layers[pooled] if pooled and model.layers[pooled].is_spatial else model.layers.spatial[-1]
    if last.is_rectified and any(activation.name == "ReLU6" for activation in model.anatomy.activations):
        free = [layer for layer in model.layers.spatial if layer.is_block and not layer.is_rectified]
        last = next((layer for layer in reversed(free) if _has_one_size(model, layer)), last)
    return last.name


def _has_one_size(model: LoadedModel, block: LayerInfo) -> bool:
    """Whether all maps within a block are of its size, so that it is not most of the network."""
    inside = (layer for layer in model.layers.spatial if layer.name.startswith(f"{block.name}."))
    return all(layer.cells == block.cells for layer in inside)


def why_not_exact(model: LoadedModel, *, layer: str) -> str:
    """Why a layer's boxes are not its units' receptive fields, in a sentence; empty where they are.

    Raises:
        UnknownLayer: No layer of that name.
    """
    field, (height, width) = model.layers[layer].receptive_field, model.preprocessing.input_px
    instead = "The box is a third of the picture’s sides, around the place where the channel answered."
    if field is None:
        return f"What a unit of {layer} sees is not known, as after attention. {instead}"
    if field.is_global:
        return (
            f"Each unit of {layer} sees the whole picture, as after global pooling, squeeze-and-excite or a group norm."
            f" {instead}"
        )
    rows, cols = field.size_px
    if rows >= height and cols >= width:
        seen = f"{rows:.0f} x {cols:.0f} px, no less than the input’s {height} x {width}"
        return f"Each unit of {layer} sees {seen}. {instead}"
    return ""


def unit_box(model: LoadedModel, image: InputImage, *, layer: str, row: int, col: int) -> Box:
    """(left, top, right, bottom) of a unit's box in pixels of any picture, as :func:`search` gives it.

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer puts out no map.
        BadSetting: The layer has no such cell.
    """
    info = _layer(model, layer)
    _check_unit(info, 0, row, col)
    window = _windows(model, info, np.array(row), np.array(col))
    left, top, right, bottom = _onto_picture(model, window, np.array(model.preprocessing.crop_box(image))).tolist()
    return left, top, right, bottom


def _layer(model: LoadedModel, name: str | None) -> LayerInfo:
    default = default_layer(model)
    info = model.layers[default if name is None else name]
    if not info.is_spatial:
        raise NotApplicable(
            f"Layer {name} puts out one value per channel for the whole picture, so there is no place to cut out; "
            f"choose a layer before the pooling, such as {default}."
        )
    return info


def _of_index(model: LoadedModel, index: Index) -> LayerInfo:
    if index.weights_hash != model.spec.weights_hash:
        raise BadSetting(
            f"The index was made with {index.model_id} and other weights than those of {model.spec.title}; build it "
            "anew with this network."
        )
    if index.layer in embedding.PSEUDO_LAYERS:
        raise NotApplicable(f"The index of {index.layer} has no channels with places; build one of a layer with maps.")
    return _layer(model, index.layer)


def _check(info: LayerInfo, channels: Sequence[int] | None, k: int) -> NDArray[np.int64]:
    """The channels as an array."""
    if not 1 <= k <= embedding.NUM_TOPS:
        raise BadSetting(f"k is {k}; an index keeps the strongest {embedding.NUM_TOPS}, so give 1 to that.")
    chosen = np.asarray(range(info.num_channels) if channels is None else channels, dtype=np.int64)
    if wrong := [int(channel) for channel in chosen if not 0 <= channel < info.num_channels]:
        raise BadSetting(f"Layer {info.name} has no channel {wrong[0]}; it has 0 to {info.num_channels - 1}.")
    return chosen


def _check_unit(info: LayerInfo, channel: int, row: int, col: int) -> None:
    if not all(0 <= at < size for at, size in zip((channel, row, col), info.shape, strict=True)):
        last = tuple(size - 1 for size in info.shape)
        raise BadSetting(
            f"Layer {info.name} has no unit {(channel, row, col)}; give channel, row and column between (0, 0, 0) and "
            f"{last}."
        )


def _padded(found: NDArray[Any], k: int) -> NDArray[Any]:
    """(n, k, ...): where there are fewer, not a number, or 0 for whole ones."""
    missing = [(0, 0), (0, k - found.shape[1])] + [(0, 0)] * (found.ndim - 2)
    fill = np.nan if np.issubdtype(found.dtype, np.floating) else 0
    return np.pad(found, missing, constant_values=fill)


# ---- where they lie ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """Where a layer's cells and their boxes lie along one side of the input, in its pixels.

    Attributes:
        centre: Of the first cell.
        step: To the next.
        length: Of a box.
        limit: End of what the boxes are kept within; infinite where they lie as they fall.
    """

    centre: float
    step: float
    length: float
    limit: float

    def centres(self, num_cells: int) -> NDArray[np.float64]:
        """(num_cells,)."""
        places: NDArray[np.float64] = self.centre + np.arange(num_cells, dtype=np.float64) * self.step
        return places

    def intervals(self, cells: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start and end of the box of each cell."""
        start: NDArray[np.float64] = self.centre + cells * self.step - self.length / 2
        if math.isfinite(self.limit):
            start = np.clip(start, 0, self.limit - self.length)
        return start, start + self.length

    def cells_at(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places in cells: 0 is the first cell's centre."""
        return (places - self.centre) / self.step


def _sides(model: LoadedModel, info: LayerInfo) -> tuple[_Side, _Side]:
    """Rows and columns."""
    axes = info.receptive_field.axes() if info.receptive_field else (None, None)
    is_exact = not why_not_exact(model, layer=info.name)
    rows, cols = (
        _side(axis, num_cells, size, is_exact=is_exact)
        for axis, num_cells, size in zip(axes, info.cells or (1, 1), model.preprocessing.input_px, strict=True)
    )
    return rows, cols


def _side(axis: receptive_field.Axis | None, num_cells: int, size: int, *, is_exact: bool) -> _Side:
    centre = step = size / num_cells  # evenly over the input, where nothing better is known
    centre /= 2
    if axis is not None and math.isfinite(axis.size):
        centre = (axis.low + axis.high) / 2
        step = axis.jump if 0 < axis.jump < math.inf else step
    if is_exact and axis is not None:
        return _Side(centre, step, axis.size, math.inf)
    return _Side(centre, step, size * BOX_SHARE, size)


def _windows(model: LoadedModel, info: LayerInfo, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 4) left, top, right, bottom of units' boxes in pixels of the input."""
    down, across = _sides(model, info)
    (top, bottom), (left, right) = down.intervals(rows), across.intervals(cols)
    return np.stack([left, top, right, bottom], axis=-1)


def _crop_boxes(
    model: LoadedModel, pictures: Sequence[Picture], rows: NDArray[Any], is_missing: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n, k, 4) what the network saw of each patch's picture."""
    used, which = np.unique(rows[~is_missing], return_inverse=True)
    seen = np.array([model.preprocessing.crop_box(pictures[row]) for row in used]).reshape(-1, 4)
    crops = np.full((*rows.shape, 4), np.nan)
    crops[~is_missing] = seen[which]
    return crops


def _onto_picture(model: LoadedModel, windows: NDArray[np.float64], crops: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 4) boxes in pixels of the picture, from boxes in pixels of the input and the crop's box in the picture."""
    start, scale = _start_and_scale(model, crops)
    boxes: NDArray[np.float64] = start + windows * scale
    return boxes


def _onto_input(model: LoadedModel, image: InputImage, box: Sequence[float]) -> Box:
    """The other way round."""
    start, scale = _start_and_scale(model, np.array(model.preprocessing.crop_box(image)))
    left, top, right, bottom = ((np.asarray(box, np.float64) - start) / scale).tolist()
    if not (right > left and bottom > top):
        raise BadSetting(
            f"The box {tuple(np.asarray(box).tolist())} is empty; give left, top, right and bottom in pixels of the "
            "picture."
        )
    return left, top, right, bottom


def _start_and_scale(model: LoadedModel, crops: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the input's first pixel lies in the picture, and how large its pixels are there: (x, y, x, y)."""
    height, width = model.preprocessing.input_px
    start = crops[..., [0, 1, 0, 1]]
    scale = (crops[..., [2, 3, 2, 3]] - start) / (width, height, width, height)
    return start, scale


# ---- pictures of them ----------------------------------------------------------------------------------------------


def patch(model: LoadedModel, image: InputImage, box: Sequence[float], *, size_px: int = 128) -> Pixels:
    """What lies in a box of a picture, (h, w, 3); mid grey where the network saw no picture.

    Args:
        model: The network; a grey network's patch is grey.
        image: The picture, at its full resolution.
        box: (left, top, right, bottom) in its pixels.
        size_px: Length of the longer side; the proportions are those in the network's input.

    Raises:
        BadSetting: The box is empty, or size_px below 1.
    """
    return _patch(model, image, box, _shape_of(_onto_input(model, image, box), size_px))


def dimmed(
    model: LoadedModel,
    image: InputImage,
    *,
    layer: str,
    channel: int,
    row: int,
    col: int,
    box: Sequence[float] | None = None,
    size_px: int = 128,
) -> Pixels:
    """A unit's patch with everything dark outside the region where its channel is active, (h, w, 3).

    The channel's map is enlarged bilinearly between the middles of what its cells see. A pixel where it does not reach
    a fifth of the unit's own activation (:data:`ACTIVE_SHARE`) keeps 30 % of its brightness (:data:`DIMMED_TO`). For a
    unit that is not above zero the map's lowest value counts as zero.

    Args:
        model: Any network with maps.
        image: The picture.
        layer: Dotted name; of a layer that is called several times it is the last call.
        channel: The unit's channel.
        row: Its row.
        col: Its column.
        box: What to cut out; None takes the unit's own box.
        size_px: As in :func:`patch`.

    Raises:
        UnknownLayer: No layer of that name.
        NotApplicable: The layer puts out no map.
        BadSetting: No such unit, or as :func:`patch`.
    """
    info = _layer(model, layer)
    _check_unit(info, channel, row, col)
    box = unit_box(model, image, layer=layer, row=row, col=col) if box is None else box
    window = left, top, right, bottom = _onto_input(model, image, box)
    height, width = shape = _shape_of(window, size_px)
    values = _maps(model, image, info)[channel]
    zero = 0.0 if values[row, col] > 0 else float(values.min())
    rows = top + (np.arange(height) + 0.5) * (bottom - top) / height
    columns = left + (np.arange(width) + 0.5) * (right - left) / width
    down, across = _sides(model, info)
    enlarged = maps.sample(values - zero, down.cells_at(rows), across.cells_at(columns))
    is_quiet = enlarged < ACTIVE_SHARE * (values[row, col] - zero)
    # Padding stays mid grey, lest it be taken for a dark picture.
    is_seen = np.outer(
        _is_within(rows, model.preprocessing.input_px[0]), _is_within(columns, model.preprocessing.input_px[1])
    )
    pixels = _patch(model, image, box, shape)
    dark = is_quiet & is_seen
    pixels[dark] = np.rint(pixels[dark] * DIMMED_TO)
    return pixels


def crop_attribution(
    model: LoadedModel, image: InputImage, values: FloatArray, box: Sequence[float], *, size_px: int = 128
) -> Pixels:
    """An attribution cut at a box, to stand beside the patch: (h, w, 3) around mid grey, which is zero.

    The 99th percentile of the magnitude within the box is black or full. Padding is mid grey.

    Args:
        model: The network.
        image: The explained picture.
        values: (C, H, W) signed, as :func:`cnnviz_core.methods.saliency.explain` gives them for the unit.
        box: (left, top, right, bottom) in the picture's pixels.
        size_px: As in :func:`patch`.

    Raises:
        BadSetting: The values are not of the input's size, or as :func:`patch`.
    """
    height, width = model.preprocessing.input_px
    if values.ndim != 3 or values.shape[0] not in (1, 3) or values.shape[1:] != (height, width):
        raise BadSetting(
            f"The attribution has shape {values.shape}; give one of this network, (channels, {height}, {width})."
        )
    window = _onto_input(model, image, box)
    shape = _shape_of(window, size_px)
    seen = (0.0, 0.0, float(width), float(height))
    planes = [_cut(np.asarray(plane, np.float32), window, seen, shape, fill=0) for plane in values]
    inside = np.abs(_covered(values.transpose(1, 2, 0), window, seen))
    limit = float(np.percentile(inside, 99)) if inside.size else 0.0
    limit = limit or float(inside.max(initial=0)) or 1.0
    shares = np.clip(0.5 + np.stack(planes, axis=2) / (2 * limit), 0, 1)
    pixels: Pixels = np.rint(2 * GREY * shares).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*shape, 3)))


@dataclass(frozen=True)
class Wall:
    """Patches of many channels.

    Attributes:
        tiles: (n, k, h, w, 3), as :func:`patch`; mid grey where there is none.
        problems: For each picture that could not be read the reason, by path.
    """

    tiles: Pixels
    problems: Mapping[str, str]


def wall(
    model: LoadedModel,
    collection: Collection,
    found: TopPatches,
    *,
    size_px: int = 96,
    on_step: OnStep | None = None,
) -> Wall:
    """All patches at once; each picture is opened one time.

    Args:
        model: The network that they were found with.
        collection: Where they were found.
        found: Patches.
        size_px: Longer side of a tile.
        on_step: Called with the pictures done; what it raises ends the work.

    Raises:
        BadSetting: size_px is below 1.
    """
    shape = _shape_of(_windows(model, _layer(model, found.layer), np.array(0), np.array(0)).tolist(), size_px)
    tiles = np.full((*found.image.shape, *shape, 3), GREY, np.uint8)
    pictures = {picture.path: picture for picture in collection.pictures()}
    problems: dict[str, str] = {}

    def fill(row: int) -> None:
        path = found.paths[row]
        if path not in pictures:
            problems[path] = f"{path} is not in the collection any more."
            return
        try:
            image = collection.open(pictures[path])
        except BadImage as error:
            problems[path] = str(error)
            return
        for place in zip(*np.nonzero(found.image == row), strict=True):
            tiles[place] = _patch(model, image, found.box[place], shape)

    used = np.unique(found.image[found.image >= 0]).tolist()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="cnnviz-wall") as pool:
        try:
            for done, _ in enumerate(pool.map(fill, used), start=1):
                if on_step is not None:
                    on_step(Step(done, len(used)))
        finally:
            pool.shutdown(cancel_futures=True)
    return Wall(tiles, problems)


def _patch(model: LoadedModel, image: InputImage, box: Sequence[float], shape: tuple[int, int]) -> Pixels:
    pixels = _cut(image.pixels, box, model.preprocessing.crop_box(image), shape, fill=GREY).astype(np.uint8)
    if model.preprocessing.num_channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    return np.array(pixels)


def _shape_of(window: Sequence[float], size_px: int) -> tuple[int, int]:
    """(h, w) of a picture of a box in the input."""
    if size_px < 1:
        raise BadSetting(f"size_px is {size_px}; it must be 1 or more.")
    left, top, right, bottom = window
    longer = max(right - left, bottom - top)
    height, width = (max(1, round(size_px * side / longer)) for side in (bottom - top, right - left))
    return height, width


def _cut(values: NDArray[Any], box: Sequence[float], seen: Box, shape: tuple[int, int], *, fill: int) -> NDArray[Any]:
    """What lies in a box of an array (H, W) or (H, W, 3), smoothly resized; filled where nothing was seen."""
    height, width = shape
    canvas = np.full((*shape, *values.shape[2:]), fill, values.dtype)
    left, top, right, bottom = (float(edge) for edge in box)
    inside = _inside(values, box, seen)
    first, last = (round((edge - left) * width / (right - left)) for edge in inside[::2])
    upper, lower = (round((edge - top) * height / (bottom - top)) for edge in inside[1::2])
    covered = _covered(values, box, seen)
    if last > first and lower > upper and covered.size:
        x, y = math.floor(inside[0]), math.floor(inside[1])
        within = inside[0] - x, inside[1] - y, inside[2] - x, inside[3] - y
        resized = Image.fromarray(covered).resize((last - first, lower - upper), Image.Resampling.BICUBIC, box=within)
        canvas[upper:lower, first:last] = np.asarray(resized)
    return canvas


def _covered(values: NDArray[Any], box: Sequence[float], seen: Box) -> NDArray[Any]:
    """The part of an array (H, W, ...) that a box touches."""
    left, top, right, bottom = _inside(values, box, seen)
    return np.ascontiguousarray(values[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)])


def _inside(values: NDArray[Any], box: Sequence[float], seen: Box) -> Box:
    """What a box, what was seen, and an array (H, W, ...) have in common."""
    height, width = values.shape[:2]
    limits = [(box[0], seen[0], 0, box[2], seen[2], width), (box[1], seen[1], 0, box[3], seen[3], height)]
    (left, right), (top, bottom) = ((max(map(float, six[:3])), min(map(float, six[3:]))) for six in limits)
    return left, top, max(left, right), max(top, bottom)


def _is_within(places: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    return (places >= 0) & (places < size)


# ---- reading them --------------------------------------------------------------------------------------------------


def never_fires(model: LoadedModel, found: TopPatches) -> NDArray[np.int64]:
    """Channels that were never above zero in the whole collection, though their layer is rectified: (m,).

    Where a layer puts out negative values, zero means nothing special, and there are none.
    """
    if not model.layers[found.layer].is_rectified:
        return np.empty(0, np.int64)
    return found.channels[found.value[:, 0] <= 0]


def at_limit(found: TopPatches) -> NDArray[np.int64]:
    """Channels all of whose patches are equally strong and above zero, as at the upper limit of a ReLU6: (m,).

    Their order means nothing, and neither a gradient nor guided backprop leads back from such a unit.
    """
    num_found = (found.image >= 0).sum(axis=1)
    weakest = np.where(found.image >= 0, found.value, np.inf).min(axis=1)
    is_tied: NDArray[np.bool_] = (num_found > 1) & (weakest == found.value[:, 0]) & (weakest > 0)
    return found.channels[is_tied]


@dataclass(frozen=True)
class LabelShare:
    """How often a label stands on the pictures that drive a channel.

    Attributes:
        label: Empty for pictures without one.
        count: Among the channel's strongest pictures.
        share: Of these, 0..1.
        usual_share: Of all pictures of the collection, to compare with.
    """

    label: str
    count: int
    share: float
    usual_share: float


def labels_of(found: TopPatches, pictures: Iterable[Picture], *, channel: int) -> tuple[LabelShare, ...]:
    """The labels of a channel's strongest pictures, the most frequent first; of equal ones the rarer in the collection.

    Args:
        found: Patches.
        pictures: All pictures of the collection: its own, or the index's rows.
        channel: One of the found channels.

    Returns:
        Nothing where no picture has a label.

    Raises:
        BadSetting: Patches of that channel were not searched.
    """
    labels = {picture.path: picture.label for picture in pictures}
    places = np.flatnonzero(found.channels == channel)
    if not len(places):
        raise BadSetting(f"Channel {channel} is not among those whose patches were searched; search it, too.")
    if not any(labels.values()):
        return ()
    images = found.image[places[0]]
    counts = Counter(labels.get(found.paths[image], "") for image in images[images >= 0])
    usual = Counter(labels.values())
    shares = [
        LabelShare(label, count, count / counts.total(), usual[label] / usual.total())
        for label, count in counts.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.count, share.usual_share, share.label)))


@dataclass(frozen=True)
class Answers:
    """What channels make of one picture, or of a part of it, beside what they reach on a collection.

    Attributes:
        channels: (n,).
        value: (n,) the largest activation there.
        row: (n,) its row in the layer's grid.
        col: (n,) its column.
        share: (n,) the activation as a share of the strongest on the collection; above 1 where it is stronger than
            any; not a number where none was above zero.
        mean_share: (n,) likewise of the mean activation over all that counts, which tells channels apart whose
            activations have an upper limit.
        num_stronger: (n,) how many pictures of the collection answer more strongly, by more than rounding; 16 means
            that many or more.
    """

    channels: NDArray[np.int64]
    value: FloatArray
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    share: FloatArray
    mean_share: FloatArray
    num_stronger: NDArray[np.int64]


def activation_on(
    model: LoadedModel,
    image: InputImage,
    *,
    index: Index,
    channels: Sequence[int] | None = None,
    box: Sequence[float] | None = None,
) -> Answers:
    """How strongly channels answer to a picture, compared with the collection.

    Args:
        model: The network.
        image: Any picture.
        index: Of the layer, with the collection's strongest answers.
        channels: Which; None takes all.
        box: (left, top, right, bottom) in the picture's pixels. Cells whose middle lies inside count, or the nearest
            one where there are none; they may see beyond it. None takes the whole picture.

    Raises:
        BadSetting: The index is empty or of another network, no such channel, or the box lies outside the crop.
        NotApplicable: The index is of something that is no map.
    """
    info = _of_index(model, index)
    chosen = _check(info, channels, 1)
    tops = index.tops
    if tops is None or not tops.values.size:
        raise BadSetting(f"There are no pictures in the index of {index.layer} to compare with; build it first.")
    rows, columns = _cells_within(model, image, info, box)
    values = _maps(model, image, info)[chosen][:, rows, columns]
    flat = values.reshape(len(chosen), -1)
    down, across = np.unravel_index(flat.argmax(axis=1), values.shape[1:])
    value = flat.max(axis=1)
    strongest = tops.values[chosen]
    reached = np.where(strongest[:, 0] > 0, strongest[:, 0], np.nan)
    return Answers(
        channels=chosen,
        value=value,
        row=down + (rows.start or 0),
        col=across + (columns.start or 0),
        share=(value / reached).astype(np.float32),
        mean_share=(flat.mean(axis=1) / reached).astype(np.float32),
        num_stronger=(strongest > (value + _ROUNDING * np.abs(value))[:, None]).sum(axis=1),
    )


def channels_like(
    model: LoadedModel, image: InputImage, *, index: Index, box: Sequence[float] | None = None, k: int = 12
) -> Answers:
    """The channels that a part of a picture excites most, measured by what each reaches on the collection.

    Args:
        model: The network.
        image: Any picture.
        index: As in :func:`activation_on`.
        box: Likewise.
        k: How many channels at most, at least 1; those that never fire on the collection are left out.

    Returns:
        The largest share first, and among equals the largest mean share.

    Raises:
        BadSetting: k is below 1, or as :func:`activation_on`.
        NotApplicable: As :func:`activation_on`.
    """
    if k < 1:
        raise BadSetting(f"k is {k}; it must be 1 or more.")
    answers = activation_on(model, image, index=index, box=box)
    by_share = np.lexsort((-answers.mean_share, -answers.share))
    order = by_share[: min(k, int(np.isfinite(answers.share).sum()))]
    return Answers(*(getattr(answers, field.name)[order] for field in fields(Answers)))


def _cells_within(
    model: LoadedModel, image: InputImage, info: LayerInfo, box: Sequence[float] | None
) -> tuple[slice, slice]:
    """The rows and columns of cells whose middle lies in a box of the picture."""
    if box is None or info.cells is None:
        return slice(None), slice(None)
    left, top, right, bottom = _onto_input(model, image, box)
    height, width = model.preprocessing.input_px
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise BadSetting("The box lies outside what the network sees of the picture; draw it inside the crop.")
    down, across = _sides(model, info)
    return (
        _run_within(down.centres(info.cells[0]), top, bottom),
        _run_within(across.centres(info.cells[1]), left, right),
    )


def _run_within(centres: NDArray[np.float64], start: float, end: float) -> slice:
    inside = np.flatnonzero((centres >= start) & (centres < end))
    if not len(inside):
        inside = np.array([np.abs(centres - (start + end) / 2).argmin()])
    return slice(int(inside[0]), int(inside[-1]) + 1)


@torch.no_grad()
def _maps(model: LoadedModel, image: InputImage, info: LayerInfo) -> FloatArray:
    """(C, h, w) of the layer's last call."""
    recording = probe.record(model.net, model.to_input(image), [info.name], stop_after={info.name: info.num_calls})
    outputs = recording.outputs[info.name]
    if not outputs:
        raise NotApplicable(
            f"This network chooses its way by the picture, and here it did not come through layer {info.name}; choose "
            "another layer."
        )
    values: FloatArray = outputs[-1][0].movedim(info.channel_dim - 1, 0).float().cpu().numpy()
    return values
