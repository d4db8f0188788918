"""What the few-shot page computes, and by what it is found again: supports made ready, the object in a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from cnnviz_core import features
from cnnviz_core.images import InputImage
from cnnviz_core.mask_transfer import Fitted
from cnnviz_core.masks import Bools
from cnnviz_core.methods import few_shot
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FewShot, PictureMaps, Step
from cnnviz_core.ui import compute
from cnnviz_core.ui.pickers import Selection
from cnnviz_core.ui.support_view import Support

# Layers whose comparison takes no longer, on one core, are compared at once.
_AT_ONCE_SECONDS = 0.3

# What takes longer becomes a job, with its cost said first.
LONGEST_WAIT_SECONDS = 4.0


@dataclass(frozen=True)
class Options:
    """How masks are carried over.

    Attributes:
        layers: One or several, joined.
        score: A key of :data:`few_shot.SCORES`.
        background: Whether the background's score is taken off.
        shots: A key of :data:`few_shot.SHOTS`.
        centre: Whether the mean vector is taken off.
        size_px: Longer side of the pictures as the network sees them.
        dilate_last: Whether the last stage loses its stride.
        refine: Whether GrabCut sharpens the outline.
    """

    layers: tuple[str, ...]
    score: str
    background: bool
    shots: str
    centre: bool
    size_px: int
    dilate_last: bool
    refine: bool

    @property
    def scoring(self) -> dict[str, object]:
        """Arguments of :func:`few_shot.fit` that need no new forward."""
        return {"score": self.score, "shots": self.shots, "background": self.background, "centre": self.centre}


@dataclass(frozen=True, eq=False)
class Query:
    """The picture to find the object in.

    Attributes:
        chosen: Network and picture.
        truth: (H, W) where the object is, where that is known.
    """

    chosen: Selection
    truth: Bools | None


def found_by(model: LoadedModel, supports: Sequence[Support], options: Options) -> str:
    """Names supports and settings."""
    marked = [(support.image.digest, digest(support.mask)) for support in supports]
    return repr((compute.key(few_shot.few_shot, model, None), marked, replace(options, refine=False)))


def digest(mask: Bools | None) -> str:
    """Names a mask."""
    made_of = b"" if mask is None else repr(mask.shape).encode() + np.packbits(mask).tobytes()
    return hashlib.blake2b(made_of, digest_size=12).hexdigest()


def seconds(model: LoadedModel, supports: Sequence[Support], options: Options) -> float:
    """About how long :func:`find` takes on one core, the forwards left out."""
    return few_shot.estimate_seconds(model, [options.layers], num_supports=len(supports), size_px=options.size_px)


def find(
    model: LoadedModel,
    supports: Sequence[Support],
    query: InputImage,
    options: Options,
    on_step: few_shot.OnStep = lambda _step: None,
) -> FewShot:
    """The object in a picture."""
    key = f"{found_by(model, supports, options)} {query.digest}"
    return _found(key, model, supports, query, options, on_step)


@st.cache_data(max_entries=12, show_spinner=False)
def _found(
    key: str,  # noqa: ARG001 - the cache's key
    _model: LoadedModel,
    _supports: Sequence[Support],
    _query: InputImage,
    _options: Options,
    _on_step: few_shot.OnStep,
) -> FewShot:
    maps = recorded(_model, _query, _options)
    _on_step(Step(1, 3))
    fitted = fit(_model, _supports, _options)
    _on_step(Step(2, 3))
    found = few_shot.apply(_model, fitted, maps)
    _on_step(Step(3, 3))
    return found


def fit(model: LoadedModel, supports: Sequence[Support], options: Options) -> Fitted:
    """The supports made ready for any number of pictures."""
    pairs = [(recorded(model, support.image, options), support.at_full_size()) for support in supports]
    return few_shot.fit(pairs, layers=options.layers, **options.scoring)  # type: ignore[arg-type]


def recorded(model: LoadedModel, image: InputImage, options: Options, layers: Sequence[str] = ()) -> PictureMaps:
    """What the chosen layers put out, and with them, from the same forward, those that are compared at once."""
    compared = [layer for group in compared_at_once(model, 1, options.size_px) for layer in group]
    return compute.run(
        features.record,
        model,
        image,
        layers=tuple(dict.fromkeys([*options.layers, *compared, *layers])),
        size_px=options.size_px,
        dilate_last=options.dilate_last,
    )


def compared_at_once(model: LoadedModel, num_supports: int, size_px: int) -> list[tuple[str, ...]]:
    """The choices of layers that are quickly compared."""

    def seconds(group: tuple[str, ...]) -> float:
        return few_shot.estimate_seconds(model, [group], num_supports=num_supports, size_px=size_px)

    return [group for group in few_shot.layer_groups(model) if seconds(group) <= _AT_ONCE_SECONDS]
