"""Few-shot segmentation: an object found in a picture from a few pictures in which it is marked.

Nobody trains anything. In each support picture the mask says which cells of a layer's grid lie on the object. A cell of
the query is scored by how alike its feature vector is to those (by the cosine), less how alike it is to the cells
beside the object. Where the score reaches a threshold is the new mask. That this works at all is a sign that the
network has learned something meaningful: it puts the same part of the same kind of thing, in another photo and light,
into the same direction. How much of it was learned, the same network untrained shows: on photos of aeroplanes it comes
to an overlap of 0.52 by colour and texture alone, and to 0.78 with what it learned.

The layer decides. The last stage knows best what a thing is, but is too coarse for an outline: a cell of 32 pixels is
wider than a wing. The stage before it is twice as fine and leans on texture and colour: a white aeroplane looks to it
like a white cloud. Joined they do better than either, and the background's score taken off helps most: what is common
to all cells of such photos, object or not, cancels out. To subtract the mean vector first helps where there is only one
support.

The threshold is honest when it was found without the query: each support's mask is found from the other supports, and
the threshold that serves them best on average is taken. (A single support is cut into sixteen blocks, each of which is
found from the others.) The best point of the curve over all thresholds is an *oracle*: it was chosen with the truth in
hand and says what is possible, not what one gets.

When it misleads: a mask is drawn for any picture, also for one without the object; look at the scores themselves. Parts
that no support shows are missed, and parts that objects share with the background (wheels and the road, a wing and
the sky) are torn. A good overlap with the truth speaks for the features, not for any saliency map of the same network:
some of those hardly depend on the weights at all (Adebayo et al. 2018).

Source: Tian et al., Prior Guided Feature Enrichment Network (2020), for the maximum over cells; Wang et al., PANet
(2019), for the masked average; Adebayo et al., Sanity Checks for Saliency Maps (2018).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import Image

from cnnviz_core import features, mask_transfer, masks
from cnnviz_core.collections import Collection, Picture
from cnnviz_core.errors import BadSetting, CnnvizError, NotApplicable
from cnnviz_core.images import InputImage
from cnnviz_core.mask_transfer import Fitted
from cnnviz_core.masks import Bools, MaskLike
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FewShot, LayerTrial, Mask, PictureMaps, Run, Segmented, SegmentedCollection, Step

OnStep = Callable[[Step], None]
Refine = Callable[[InputImage, FewShot], Mask]

few_shot = mask_transfer.few_shot
fit = mask_transfer.fit
apply = mask_transfer.apply
default_layers = mask_transfer.default_layers
SCORES, SHOTS = mask_transfer.SCORES, mask_transfer.SHOTS

# Seconds for a pair of cells on one core, and for each of their numbers.
_PAIR_SECONDS, _NUMBER_SECONDS = 4e-9, 4e-12

_UNSAFE = re.compile(r"[^\w.\- ]+")
_LONGEST_PART = 60
# Windows opens devices under these names, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


# ---- layers compared ------------------------------------------------------------------------------------------------


def layer_groups(model: LoadedModel) -> tuple[tuple[str, ...], ...]:
    """What is worth comparing: each stage alone, the coarsest first, then the last two and the last three joined.

    Raises:
        NotApplicable: The network has no layer with a map.
    """
    stages = features.stage_layers(model)
    joined = [stages[-num:] for num in (2, 3) if num <= len(stages)]
    return (*((stage,) for stage in reversed(stages)), *joined)


def estimate_seconds(model: LoadedModel, groups: Sequence[Sequence[str]], *, num_supports: int, size_px: int) -> float:
    """About how long :func:`compare_layers` takes on one core, for square pictures of that size."""
    scale = (size_px / max(model.preprocessing.input_px)) ** 2
    passes = 1 + num_supports + num_supports * (num_supports - 1)
    seconds = 0.0
    for group in groups:
        cells = max(scale * np.prod(model.layers[layer].cells or (1, 1)) for layer in group)
        numbers = sum(model.layers[layer].num_channels for layer in group)
        seconds += passes * float(cells) ** 2 * (_PAIR_SECONDS + _NUMBER_SECONDS * numbers)
    return seconds


def compare_layers(
    model: LoadedModel,
    supports: Sequence[tuple[PictureMaps, MaskLike]],
    query: PictureMaps,
    *,
    groups: Sequence[Sequence[str]],
    truth: MaskLike | None = None,
    score: str = "nearest",
    shots: str = "mean",
    background: bool = True,
    centre: bool = True,
    on_step: OnStep | None = None,
) -> tuple[LayerTrial, ...]:
    """The same supports and query by several choices of layers.

    Args:
        model: The network.
        supports: What :func:`features.record` gave for each support, with its mask.
        query: What it gave for the query.
        groups: Choices of layers, each of one or several to join; all of them recorded.
        truth: The query's true mask; None where there is none.
        score: As in :func:`few_shot`, like the others.
        shots: As there.
        background: As there.
        centre: As there.
        on_step: Called after each choice, with those so far as the partial result.

    Returns:
        One line for each choice. Where it cannot be used, the line says why.

    Raises:
        BadSetting: A setting out of range, or a true mask of another size than the query.
    """
    checked = None if truth is None else masks.check(truth, query.picture_px, name="the true mask")[0]
    trials: list[LayerTrial] = []
    for done, group in enumerate(groups, start=1):
        layers = tuple(group)
        try:
            fitted = mask_transfer.fit(
                supports, layers=layers, score=score, shots=shots, background=background, centre=centre
            )
            trials.append(_trial(model, fitted, query, checked))
        except BadSetting as error:  # too many cells, or no cell left for the background
            trials.append(LayerTrial(layers, (0, 0), np.nan, np.nan, None, None, str(error)))
        if on_step:
            on_step(Step(done, len(groups), tuple(trials)))
    return tuple(trials)


def _trial(model: LoadedModel, fitted: Fitted, query: PictureMaps, truth: Bools | None) -> LayerTrial:
    found = mask_transfer.apply(model, fitted, query)
    iou = oracle = None
    if truth is not None:
        iou, oracle = masks.iou(found.mask.values, truth), masks.iou_curve(found.score_map, truth).best_iou
    cells = (found.scores.shape[0], found.scores.shape[1])
    return LayerTrial(found.layers, cells, found.threshold, found.support_iou, iou, oracle, "")


# ---- a whole collection ---------------------------------------------------------------------------------------------


def over_collection(
    model: LoadedModel,
    fitted: Fitted,
    collection: Collection,
    *,
    refine: Refine | None = None,
    archive: BinaryIO | None = None,
    on_step: OnStep | None = None,
) -> SegmentedCollection:
    """The object in every picture of a collection, from the same supports.

    Pictures are opened one at a time, and each mask is written to the archive as soon as it is found, so that memory
    does not grow with the collection. A picture that cannot be read is left out with the reason.

    Args:
        model: The network that the supports were recorded with.
        fitted: From :func:`fit`.
        collection: Its pictures' true masks are compared with where there are any. A picture without the object may
            have an empty one.
        refine: Makes another mask of what was found in a picture, such as one with a sharper outline; where it raises
            :class:`NotApplicable` the mask stays as it is.
        archive: An open, empty file; gets a ZIP of the masks as PNG, white where the object is, each at its picture's
            size and under its path, and ``manifest.json``.
        on_step: Called after each picture with the result so far; what it raises ends the work.

    Raises:
        NotApplicable: As in :func:`few_shot`.
    """
    start = time.perf_counter()
    pictures = collection.pictures()
    names = _file_names(picture.path for picture in pictures)
    found: list[Segmented] = []
    failed: list[tuple[str, str]] = []

    def so_far() -> SegmentedCollection:
        run = model.provenance(
            "few_shot.over_collection",
            time.perf_counter() - start,
            collection=collection.collection_id,
            **fitted.settings,
        )
        return SegmentedCollection(tuple(found), tuple(failed), run)

    with contextlib.nullcontext() if archive is None else zipfile.ZipFile(archive, "w") as writer:
        for done, (picture, name) in enumerate(zip(pictures, names, strict=True), start=1):
            try:
                line, mask = _segmented(model, fitted, collection, picture, name, refine)
            except CnnvizError as error:
                failed.append((picture.path, str(error)))
            else:
                found.append(line)
                if writer is not None:
                    writer.writestr(name, _png(mask))
            if on_step:
                on_step(Step(done, len(pictures), so_far()))
        result = so_far()
        if writer is not None:
            writer.writestr("manifest.json", _account(result, fitted))
    return result


def read_mask(archive: BinaryIO, picture: Segmented) -> Bools:
    """(H, W) of a picture from the archive that :func:`over_collection` wrote."""
    with zipfile.ZipFile(archive) as files, Image.open(io.BytesIO(files.read(picture.file))) as opened:
        return np.asarray(opened, dtype=np.bool_)


def _segmented(
    model: LoadedModel, fitted: Fitted, collection: Collection, picture: Picture, name: str, refine: Refine | None
) -> tuple[Segmented, Bools]:
    image, truth = collection.open(picture), collection.mask(picture)
    result = mask_transfer.apply(model, fitted, mask_transfer.record_alike(model, fitted, image))
    mask = result.mask.values
    if refine is not None:
        with contextlib.suppress(NotApplicable):
            mask = refine(image, result).values
    iou = oracle = None
    if truth is not None:
        if truth.shape != mask.shape:
            truth, _ = masks.check(truth, mask.shape, name=f"the mask of {image.name}")
        iou, oracle = masks.iou(mask, truth), masks.iou_curve(result.score_map, truth).best_iou
    line = Segmented(
        path=picture.path,
        digest=image.digest,
        file=name,
        threshold=result.threshold,
        area=float(mask.mean()),
        iou=iou,
        oracle_iou=oracle,
        is_support=image.digest in fitted.digests,
    )
    return line, mask


def _png(mask: Bools) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def _file_names(paths: Iterable[str]) -> list[str]:
    """For each picture the name of its mask in the archive: safe on any system, and no two alike."""
    taken: set[str] = set()
    names = []
    for path in paths:
        *folders, file = PurePosixPath(path).with_suffix("").parts
        stem = "/".join(("masks", *map(_safe, folders), _safe(file)))
        tries = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        free = next(name for name in tries if name.casefold() not in taken)
        taken.add(free.casefold())
        names.append(f"{free}.png")
    return names


def _safe(part: str) -> str:
    """A folder's or file's name without what any system takes for something else."""
    plain = _UNSAFE.sub("_", part)[:_LONGEST_PART].strip(". ")
    return f"_{plain}" if not plain or plain.split(".")[0].lower() in _DEVICES else plain


def _account(result: SegmentedCollection, fitted: Fitted) -> str:
    return json.dumps(
        {
            **_described(result.run),
            "threshold": fitted.threshold,
            "support_digests": fitted.digests,
            "mean_iou": result.mean_iou,
            "pictures": [asdict(picture) for picture in result.pictures],
            "left_out": [{"path": path, "why": why} for path, why in result.failed],
        },
        indent=1,
        ensure_ascii=False,
    )


def _described(run: Run) -> dict[str, object]:
    return {
        "network": {"id": run.model_id, "weights": run.weights, "weights_hash": run.weights_hash},
        "method": run.method,
        "settings": dict(run.settings),
        "seconds": round(run.seconds, 2),
    }
