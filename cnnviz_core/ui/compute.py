"""The one door for computing: pages hold no caching code.

Networks are loaded once per server and shared by all sessions; results are looked up by what they depend on: function,
network and weights hash, picture digest, settings. A few computations run at a time, the rest wait their turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from cnnviz_core import models, photos, settings, startup, store
from cnnviz_core.errors import OutOfMemory
from cnnviz_core.images import InputImage
from cnnviz_core.model_shelf import Shelf
from cnnviz_core.models import LoadedModel
from cnnviz_core.turns import Turns

T = TypeVar("T")

_SETTINGS = settings.current()
turns = Turns(_SETTINGS.parallel_runs)  # long work lets whoever waits here go first
# Not in Streamlit's caches, which any browser can have emptied: networks in use would be loaded a second time.
_shelf = Shelf(max_models=_SETTINGS.max_models, max_mb=_SETTINGS.models_mb)


def shelf() -> Shelf:
    """The networks in memory, one shelf for the whole server."""
    return _shelf


def model(network: str, weights: str = "default", *, input_px: int = 0) -> LoadedModel:
    """The network of that catalogue or checkpoint id, shared by all sessions; errors as in :func:`models.load`.

    Args:
        network: Its id.
        weights: As in :func:`models.load`.
        input_px: Side of its input where that is not the usual one; such a copy has weights of its own.
    """
    changes = {"input_px": (input_px, input_px)} if input_px else None

    def load() -> LoadedModel:
        return models.load(network, device=_SETTINGS.device, weights=weights, preprocessing=changes)

    return shelf().get((network, weights, input_px), load)


def forget(network: str) -> None:
    """Drops a checkpoint that was removed from memory."""
    shelf().forget((network, "default", 0))


def photo(image_id: str) -> InputImage:
    """A bundled photo by its id, or an uploaded picture by its short digest.

    Raises:
        BadImage: An uploaded picture that is not kept any more.
    """
    if image_id in photos.PHOTOS:
        return photos.open_photo(image_id)
    store.note_picture_use(image_id)
    return _stored(image_id)


@st.cache_resource(max_entries=4, show_spinner=False)  # a large photo takes hundreds of MB
def _stored(digest: str) -> InputImage:
    return store.open_picture(digest)


def run(function: Callable[..., T], model: LoadedModel, image: InputImage | None = None, **settings: Any) -> T:
    """``function(model, image, **settings)``, from the cache if it was computed before.

    Args:
        function: A function of :mod:`cnnviz_core.methods`.
        model: The network.
        image: The picture, or None for functions that take none.
        **settings: Its keyword arguments: numbers, strings, or sequences of them.
    """
    return _run(key(function, model, image), settings, function, model, image)  # type: ignore[no-any-return]


def key(function: Callable[..., Any], model: LoadedModel, image: InputImage | None) -> tuple[str, ...]:
    """What a result depends on, beside the settings."""
    name = f"{function.__module__}.{function.__qualname__}"
    spec = model.spec
    network = (spec.model_id, spec.weights, spec.weights_hash, repr(model.preprocessing), repr(model.class_names))
    return (name, *network, image.digest if image else "")


@st.cache_data(max_size=f"{_SETTINGS.cache_mb}mb", show_spinner=False)
def _run(
    found_by: tuple[str, ...],  # noqa: ARG001
    settings: dict[str, Any],
    _function: Callable[..., Any],
    _model: LoadedModel,
    _image: InputImage | None,
) -> Any:
    try:
        with turns.take(), shelf().keeping():
            return _function(_model, _image, **settings) if _image else _function(_model, **settings)
    except (MemoryError, RuntimeError) as error:
        if not startup.is_out_of_memory(error):
            raise
    startup.release_memory()  # only here, where no exception holds on to the frames of the work
    raise OutOfMemory(
        f"{_model.spec.title} ran out of memory here, and what it held is free again. Choose a smaller working size or "
        "picture, or a smaller network."
    )
