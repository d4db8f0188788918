"""Base against fine-tuned: what did training on change, in which layers, and for which pictures?

**The weights.** Per layer the length of the change over the length of the weights, and the cosine of the two weight
vectors. A layer that was frozen is equal bit for bit. If the weights point in unrelated directions, the two networks
were trained apart: then channel 7 of one has nothing to do with channel 7 of the other.

**The answers of the layers, on real pictures.** Linear CKA asks whether a layer finds the same pictures alike, whatever
its channels are called; 1 is yes, 0 is what chance gives (the estimate is unbiased, and needs some hundreds of
pictures). The correlation of each channel with itself asks whether channels kept their jobs. Both are taken on each
channel's mean over a coarse grid of places.

**What channels look for.** For each channel a picture is made that excites it, in both networks, from the same noise
with the same settings. The two pictures are compared by the cosine of their embeddings in the base network, and by the
distance of their Gram matrices. Pictures that stayed grey are failures of the method, not findings; they are counted
and left out.

When it misleads: CKA is ruled by the strongest directions, and by the pictures given. A visualisation is one glimpse of
a channel: it depends on settings, and another seed gives another picture. The cosine follows texture more than shape.
In the last layers many features are entangled in one channel, pictures of different channels look alike, and the
similarity can rise again. Gram distances have another scale at every layer and must not be pooled.

Source: the study of a ResNet-50 before and after fine-tuning (feature visualisation, cosine of embeddings, Gram
distance); CKA: Kornblith et al. 2019, unbiased as in Nguyen, Raghu and Kornblith 2021.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz_core import cka, collections, pairs, probe, visual_study
from cnnviz_core.collections import embedding, indexing
from cnnviz_core.collections.embedding import File
from cnnviz_core.collections.scan import Picture
from cnnviz_core.errors import BadImage, BadSetting, NotApplicable
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import (
    AnswerChanges,
    ChangedAnswer,
    ClassChange,
    Comparison,
    FloatArray,
    LayerChange,
    Screening,
    Step,
    Study,
    WeightChange,
)

OnStep = Callable[[Step], None]

DEFAULT_COLLECTION = "bundled/tiles"
NUM_PICTURES = 400
_BATCH = 8
_NUM_PARTIALS = 4
_TRIED = 4

KINDS = {
    "gained": "only the tuned network is right",
    "lost": "only the base network is right",
    "other wrong": "both are wrong, in different ways",
    "new word": "only one of the networks has a class for what the picture shows",
    "changed": "what the picture shows is not known",
}


# ---- the first screen: weights, CKA, correlations, answers -----------------------------------------------------------


@torch.no_grad()
def screen(
    base: LoadedModel,
    tuned: LoadedModel,
    *,
    collection: str | indexing.Pictures = DEFAULT_COLLECTION,
    num_pictures: int = NUM_PICTURES,
    on_step: OnStep | None = None,
) -> Screening:
    """What differs between two networks of one architecture, on real pictures.

    Args:
        base: The network as it was.
        tuned: The network as it became.
        collection: An id, or a collection; of a larger one so many pictures are taken, evenly spread over its listing.
        num_pictures: At most so many; some hundreds make CKA reliable.
        on_step: Called with the pictures done, and the result over those seen at the last quarter; at first it has the
            weights alone.

    Raises:
        NotApplicable: Different architectures.
        BadSetting: Fewer than four pictures.
        BadCollection: No such collection.
    """
    start = time.perf_counter()
    changes = pairs.weight_changes(base, tuned)
    kinship = pairs.kinship(base, changes)
    opened = collections.open_by_id(collection) if isinstance(collection, str) else collection
    pictures = _spread(opened.pictures(), num_pictures)
    seen = _Seen(base, tuned, [change.layer for change in changes])

    def result() -> Screening:
        return Screening(
            kinship=kinship,
            layers=tuple(seen.layer(change) for change in changes),
            paths=tuple(picture.path for picture in seen.pictures),
            labels=tuple(picture.label for picture in seen.pictures),
            base_scores=seen.scores[0],
            tuned_scores=seen.scores[1],
            cosines=seen.cosines,
            notices=tuple(_notices(base, tuned, len(seen.pictures), num_failed)),
            run=pairs.paired_run(
                base,
                tuned,
                "comparison.screen",
                time.perf_counter() - start,
                collection=opened.collection_id,
                num_pictures=num_pictures,
            ),
        )

    num_failed, next_partial = 0, 0.0
    partial: Screening | None = None
    for at in range(0, len(pictures) + _BATCH, _BATCH):
        if on_step is not None:
            done = min(at, len(pictures))
            if done >= next_partial:
                next_partial += len(pictures) / _NUM_PARTIALS
                partial = result()
            on_step(Step(done, len(pictures), partial))
        read = list(_read(pictures[at : at + _BATCH], opened, base, tuned))
        num_failed += len(pictures[at : at + _BATCH]) - len(read)
        if read:
            seen.take(read)
    if len(seen.pictures) < cka.FEWEST:
        raise BadSetting(
            f"The collection has {len(seen.pictures)} pictures that can be read; comparing layers needs {cka.FEWEST}, "
            f"and {cka.ENOUGH} to be reliable. Choose another one."
        )
    return result()


def _notices(base: LoadedModel, tuned: LoadedModel, num: int, num_failed: int) -> list[str]:
    notices = []
    if num < cka.ENOUGH:
        notices.append(
            f"CKA and correlations come from {num} pictures only; with fewer than {cka.ENOUGH} they are noisy."
        )
    if num_failed:
        notices.append(f"{num_failed} pictures could not be read and are left out.")
    if base.preprocessing != tuned.preprocessing:
        notices.append("The two networks fit pictures differently (size or normalisation); each sees its own crop.")
    return notices


def _spread(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most so many, at equal steps."""
    if most < cka.FEWEST:
        raise BadSetting(f"num_pictures is {most}; CKA needs {cka.FEWEST} or more.")
    places = np.unique(np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int))
    return [pictures[at] for at in places] if len(pictures) else []


_Crop = NDArray[np.uint8]


def _read(
    pictures: Iterable[Picture], collection: indexing.Pictures, base: LoadedModel, tuned: LoadedModel
) -> Iterator[tuple[Picture, _Crop, _Crop]]:
    """Each picture as the two networks see it; those that cannot be read are left out."""
    one, other = base.preprocessing, tuned.preprocessing
    is_alike = replace(one, mean=other.mean, std=other.std) == other
    for picture in pictures:
        file = File(collection.folder / picture.path, picture.digest)
        try:
            crop = embedding.read_crop(file, one)
            yield picture, crop, crop if is_alike else embedding.read_crop(file, other)
        except BadImage:
            continue


class _Seen:
    """What both networks made of the pictures so far."""

    def __init__(self, base: LoadedModel, tuned: LoadedModel, layers: Sequence[str]) -> None:
        self._models = (base, tuned)
        self._layers = [name for name in layers if all(name in model.layers.names for model in self._models)]
        self._read_by_head = [embedding.default_layer(model) for model in self._models]
        self._nets = [embedding.quick_net(model, self._recorded(side)) for side, model in enumerate(self._models)]
        self._features: tuple[dict[str, list[FloatArray]], ...] = tuple({n: [] for n in self._layers} for _ in range(2))
        self._scores: tuple[list[FloatArray], list[FloatArray]] = ([], [])
        self._cosines: list[FloatArray] = []
        self.pictures: list[Picture] = []

    def _recorded(self, side: int) -> list[str]:
        return list(dict.fromkeys([*self._layers, self._read_by_head[side]]))

    def take(self, read: Sequence[tuple[Picture, _Crop, _Crop]]) -> None:
        """Takes a batch of pictures."""
        vectors = []
        for side, model in enumerate(self._models):
            crops = [crops[side] for _, *crops in read]
            x = model.preprocessing.normalise(crops).to(model.device)
            recording = probe.record(self._nets[side], x, self._recorded(side))
            for name in self._layers:
                maps = _maps(model, name, recording.outputs[name][-1])
                self._features[side][name].append(cka.pooled(maps))
            vectors.append(_maps(model, self._read_by_head[side], recording.outputs[self._read_by_head[side]][-1]))
            if model.num_classes and recording.result is not None:
                self._scores[side].append(model.scores(recording.result).cpu().numpy())
        self._cosines.append(_cosines(*(maps.mean((2, 3)) for maps in vectors)))
        self.pictures += [picture for picture, *_ in read]

    @property
    def scores(self) -> tuple[FloatArray, FloatArray]:
        """(N, K) of each network."""
        none = np.empty((len(self.pictures), 0), np.float32)
        one, other = (np.concatenate(parts) if parts else none for parts in self._scores)
        return one, other

    @property
    def cosines(self) -> FloatArray:
        """(N,) of what the two classifiers read."""
        return np.concatenate(self._cosines) if self._cosines else np.empty(0, np.float32)

    def layer(self, change: WeightChange) -> LayerChange:
        """The numbers of one layer."""
        if change.layer not in self._layers or len(self.pictures) < cka.FEWEST:
            return LayerChange(change, float("nan"), np.empty(0, np.float32))
        x, y = (np.concatenate(features[change.layer]) for features in self._features)
        is_alike = x.shape == y.shape
        return LayerChange(
            change,
            cka.unbiased(x.reshape(len(x), -1), y.reshape(len(y), -1)),
            cka.channel_correlations(x, y) if is_alike else np.empty(0, np.float32),
        )


def _maps(model: LoadedModel, name: str, raw: Tensor) -> Tensor:
    """(N, C, h, w); a vector has one cell."""
    info = model.layers[name]
    return raw.reshape(len(raw), -1, 1, 1) if info.cells is None else raw.movedim(info.channel_dim, 1)


def _cosines(one: Tensor, other: Tensor) -> FloatArray:
    if one.shape != other.shape:
        return np.full(len(one), np.nan, np.float32)
    found: FloatArray = torch.cosine_similarity(one.cpu().double(), other.cpu().double()).float().numpy()
    return found


@torch.no_grad()
def seconds_per_picture(base: LoadedModel, tuned: LoadedModel) -> float:
    """What one picture of :func:`screen` costs, measured on a few of noise."""
    seen = _Seen(base, tuned, pairs.layers(base))
    draw = np.random.default_rng(0)
    one, other = (draw.integers(0, 256, (*m.preprocessing.input_px, 3), np.uint8) for m in (base, tuned))
    read = [(Picture("", "", "", 0, 0), one, other)] * _TRIED
    times = []
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        seen.take(read)
        times.append((time.perf_counter() - start) / _TRIED)
    return times[-1]


# ---- answers that changed --------------------------------------------------------------------------------------------


def changed_answers(base: LoadedModel, tuned: LoadedModel, screening: Screening) -> AnswerChanges:
    """The pictures that two networks answer differently, those whose evidence moved farthest first.

    A label is right for a class if it is one of the class's names, whatever their case and underscores. The evidence:
    where both networks have the same classes, how far the difference of the two answers' scores moved,
    (t' - b') - (t - b) with b and t the scores of the base's and the tuned one's answer and ' for the tuned network;
    where they have not, how far the probability of what the picture shows moved; where that is not known, one less the
    cosine of what the two classifiers read.

    Raises:
        NotApplicable: One of the networks has no classifier.
    """
    for model in (base, tuned):
        if not model.num_classes:
            raise NotApplicable(f"{model.spec.title} has no classifier, so it gives no answers to compare.")
    names = (base.class_names, tuned.class_names)
    scores = (screening.base_scores, screening.tuned_scores)
    answers = [found.argmax(axis=1) for found in scores]
    aliases = tuple([_aliases(name) for name in known] for known in names)
    said = [_aliases(label) for label in screening.labels]
    rightly = [_right_classes(known, said) for known in aliases]
    num_knowing = [sum(bool(right[at]) for right in rightly) for at in range(len(said))]
    moved, unit = _moved(base, tuned, screening, answers, rightly, is_known=any(num_knowing))
    found, rows = [], []
    for at, label in enumerate(screening.labels):
        one, other = (int(answers[side][at]) for side in (0, 1))
        was_right, is_right = one in rightly[0][at], other in rightly[1][at]
        is_same = one == other if names[0] == names[1] else bool(aliases[0][one] & aliases[1][other])
        is_changed = not (is_same or (was_right and is_right))
        if is_changed:
            kind = ("changed", "new word", _kind(was_right, is_right))[num_knowing[at]]
            found.append(ChangedAnswer(at, kind, names[0][one], names[1][other], float(moved[at])))
        rows.append((label or names[0][one], was_right, is_right, is_changed))
    return AnswerChanges(
        answers=tuple(sorted(found, key=lambda answer: -abs(answer.moved) if np.isfinite(answer.moved) else np.inf)),
        unit=unit,
        classes=_by_class(rows),
        num_pictures=len(rows),
        num_known=num_knowing.count(2),
    )


def _kind(base_right: bool, tuned_right: bool) -> str:  # noqa: FBT001
    return "gained" if tuned_right else "lost" if base_right else "other wrong"


def _aliases(name: str) -> frozenset[str]:
    """The names of a class: ImageNet lists several with commas, others a common one in brackets."""
    parts = name.replace("_", " ").replace("(", ",").replace(")", ",").lower().split(",")
    return frozenset(" ".join(part.split()) for part in parts if part.strip())


def _right_classes(aliases: Sequence[frozenset[str]], said: Sequence[frozenset[str]]) -> list[set[int]]:
    """For each label's names a network's classes of such a name."""
    named: dict[str, set[int]] = {}
    for index, names in enumerate(aliases):
        for name in names:
            named.setdefault(name, set()).add(index)
    return [set().union(*(named.get(name, ()) for name in names)) for names in said]


def _moved(
    base: LoadedModel,
    tuned: LoadedModel,
    screening: Screening,
    answers: Sequence[NDArray[np.intp]],
    rightly: Sequence[Sequence[set[int]]],
    *,
    is_known: bool,
) -> tuple[FloatArray, str]:
    """How far the evidence moved for each picture, and in which unit."""
    one, other = screening.base_scores, screening.tuned_scores
    rows = np.arange(len(one))
    if base.class_names == tuned.class_names:
        margins = [scores[rows, answers[1]] - scores[rows, answers[0]] for scores in (one, other)]
        return margins[1] - margins[0], "logits"
    if is_known:
        shares = []
        for model, scores, right in ((base, one, rightly[0]), (tuned, other, rightly[1])):
            probabilities = model.probabilities(torch.from_numpy(scores)).numpy()
            shares.append(
                np.array([row[list(mine)].sum() for row, mine in zip(probabilities, right, strict=True)], np.float32)
            )
        return shares[1] - shares[0], "probability"
    return 1 - screening.cosines, "cosine distance"


def _by_class(rows: Sequence[tuple[str, bool, bool, bool]]) -> tuple[ClassChange, ...]:
    num, base_right, tuned_right, changed = Counter(), Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for name, was_right, is_right, is_other in rows:
        num[name] += 1
        base_right[name] += was_right
        tuned_right[name] += is_right
        changed[name] += is_other
    names = sorted(num, key=lambda name: (-changed[name], name))
    return tuple(ClassChange(name, num[name], base_right[name], tuned_right[name], changed[name]) for name in names)


# ---- what channels look for, and both together -----------------------------------------------------------------------


def study(
    base: LoadedModel,
    tuned: LoadedModel,
    *,
    layers: Sequence[str] | None = None,
    channels: int | Sequence[int] | None = visual_study.NUM_CHANNELS,
    steps: int = visual_study.STEPS,
    size_px: int = visual_study.SIZE_PX,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Study:
    """What channels look for in both networks; :func:`cnnviz_core.visual_study.study` with its arguments and errors."""
    return visual_study.study(
        base, tuned, layers=layers, channels=channels, steps=steps, size_px=size_px, seed=seed, on_step=on_step
    )


def compare(
    base: LoadedModel,
    tuned: LoadedModel,
    *,
    collection: str | indexing.Pictures = DEFAULT_COLLECTION,
    num_pictures: int = NUM_PICTURES,
    layers: Sequence[str] | None = None,
    channels: int | Sequence[int] | None = visual_study.NUM_CHANNELS,
    steps: int = visual_study.STEPS,
    size_px: int = visual_study.SIZE_PX,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Comparison:
    """Everything about two networks, by layer: change of weights, CKA, similarity of visualisations, failures.

    Args:
        base: The network as it was.
        tuned: The network as it became.
        collection: As in :func:`screen`.
        num_pictures: Likewise.
        layers: Whose channels are looked at; as in :func:`study`.
        channels: Likewise; 0 leaves the study out.
        steps: Likewise.
        size_px: Likewise.
        seed: Likewise.
        on_step: Called with the steps of one after the other, and the result so far.

    Raises:
        CnnvizError: As :func:`screen` and :func:`study`.
    """
    tell = on_step or (lambda _step: None)

    def tell_screen(step: Step) -> None:
        partial = Comparison(step.partial, None) if isinstance(step.partial, Screening) else None
        tell(replace(step, partial=partial))

    screening = screen(base, tuned, collection=collection, num_pictures=num_pictures, on_step=tell_screen)
    if channels == 0:
        return Comparison(screening, None)

    def tell_study(step: Step) -> None:
        tell(replace(step, partial=Comparison(screening, step.partial if isinstance(step.partial, Study) else None)))

    found = study(
        base, tuned, layers=layers, channels=channels, steps=steps, size_px=size_px, seed=seed, on_step=tell_study
    )
    return Comparison(screening, found)


def map_correlations(one: FloatArray, other: FloatArray) -> FloatArray:
    """Pearson's correlation of each channel's two maps of one picture, over the places: (C,).

    Not a number where one of the two is the same everywhere.

    Args:
        one: (C, h, w) maps of the base network.
        other: (C, h, w) maps of the tuned one.
    """
    return cka.channel_correlations(one.reshape(1, len(one), -1), other.reshape(1, len(other), -1))
