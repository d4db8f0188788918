"""The networks of a server, loaded once, shared by everybody, and few enough in memory at a time.

Who asks for a network gets a :class:`~cnnviz_core.models.LoadedModel` whose weights stay on the shelf: it fetches them
at the moment of use. So an open browser tab holds no weights, and those that were longest unused can go; when somebody
uses them again they are loaded again. Weights that a computation holds are never dropped: whether anybody holds them is
asked of Python itself, which counts references.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from cnnviz_core import folding, journal, startup
from cnnviz_core.errors import BadCheckpoint
from cnnviz_core.models import LoadedModel

_MB = 2**20
_LOADS_AT_A_TIME = 2  # each needs its weights twice for a moment

_touched: ContextVar[list[nn.Module] | None] = ContextVar("touched", default=None)


@dataclass(frozen=True)
class Held:
    """A network in memory.

    Attributes:
        title: What to call it.
        num_bytes: Of its weights, with those of the faster copy that is kept beside them.
        seconds_unused: Since its last use.
    """

    title: str
    num_bytes: int
    seconds_unused: float


@dataclass
class _Place:
    """What the shelf holds of a network that is in memory."""

    model: LoadedModel
    net: nn.Module
    last_used: float

    def num_bytes(self) -> int:
        """Of the weights now; the faster copy is made at some use."""
        return _num_bytes(self.net) + folding.kept_bytes(self.net)

    def is_held(self, *, collect: bool) -> bool:
        """Whether anybody but the shelf holds the weights: lets go of them, and looks whether they are still there.

        Args:
            collect: Whether to find networks, too, whose own parts refer to each other; takes tenths of a second.
        """
        watch = weakref.ref(self.net)
        del self.net
        if collect:
            gc.collect()
        net = watch()
        if net is None:
            return False
        self.net = net
        return True


class _FromShelf(LoadedModel):
    """A network whose weights lie on a shelf. ``dataclasses.replace`` makes a copy that holds its weights itself."""

    def __getattr__(self, name: str) -> Any:
        # Python comes here only where there is no such attribute: for net, since nothing was ever put there.
        place = vars(self).get("_place")
        if name != "net" or place is None:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        shelf, key, load = place
        return shelf._fetch(key, self, load)


class Shelf:
    """Networks by key; for any number of threads.

    Args:
        max_models: How many stay in memory, least recently used out first.
        max_mb: How much memory their weights take, likewise. The one used last stays, however large.
    """

    def __init__(self, *, max_models: int, max_mb: int) -> None:
        self._max_models, self._max_bytes = max_models, max_mb * _MB
        self._models: weakref.WeakValueDictionary[Hashable, LoadedModel] = weakref.WeakValueDictionary()
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()
        self._lock = threading.RLock()
        self._loading: weakref.WeakValueDictionary[Hashable, _Turn] = weakref.WeakValueDictionary()
        self._loads = threading.BoundedSemaphore(_LOADS_AT_A_TIME)
        self._is_too_full = False

    def get(self, key: Hashable, load: Callable[[], LoadedModel]) -> LoadedModel:
        """The network of that key; of several who ask at the same time, one loads it.

        Args:
            key: Names it.
            load: Loads it, now and whenever its weights are needed again after they were dropped. Its errors go to
                who asked, and nothing is kept.
        """
        with self._lock:
            known = self._models.get(key)
            turn = self._loading.setdefault(key, _Turn())
        if known is not None:
            return known
        with turn.lock:
            with self._lock:
                known = self._models.get(key)
            return known or self._first(key, load)

    def forget(self, key: Hashable) -> None:
        """Drops a network whose file has gone; who works on it finishes."""
        with self._lock:
            self._models.pop(key, None)
            self._places.pop(key, None)
        startup.release_memory()

    def held(self) -> tuple[Held, ...]:
        """What is in memory, the most recently used first."""
        now = time.monotonic()
        with self._lock:
            return tuple(
                Held(place.model.spec.title, place.num_bytes(), now - place.last_used)
                for place in reversed(self._places.values())
            )

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Every network that is used within stays in memory until the end: for a job, or a page of several steps."""
        mark = _touched.set([])
        try:
            yield
        finally:
            _touched.reset(mark)
            if self._is_too_full:
                self.trim()

    def trim(self, *, thoroughly: bool = False) -> None:
        """Drops what is beyond the bounds and nobody holds, the longest unused first.

        Args:
            thoroughly: Also networks whose own parts refer to each other, which takes tenths of a second.
        """
        dropped = self._drop(collect=False)
        if self._is_too_full and thoroughly:
            dropped += self._drop(collect=True)
        if dropped:
            startup.release_memory()
        for model in dropped:
            _note("model dropped", model)

    def _drop(self, *, collect: bool) -> list[LoadedModel]:
        dropped = []
        with self._lock:
            sizes = {key: place.num_bytes() for key, place in self._places.items()}
            for key in list(sizes)[:-1]:
                if not self._is_beyond(sizes):
                    break
                if not self._places[key].is_held(collect=collect):
                    dropped.append(self._places.pop(key).model)
                    del sizes[key]
            self._is_too_full = len(sizes) > 1 and self._is_beyond(sizes)
        return dropped

    def _is_beyond(self, sizes: Mapping[Hashable, int]) -> bool:
        return len(sizes) > self._max_models or sum(sizes.values()) > self._max_bytes

    def _first(self, key: Hashable, load: Callable[[], LoadedModel]) -> LoadedModel:
        loaded = self._timed(load)
        model = object.__new__(_FromShelf)
        parts = {field.name: getattr(loaded, field.name) for field in fields(loaded) if field.name != "net"}
        vars(model).update(parts, _place=(self, key, load))
        with self._lock:
            self._models[key] = model
        self._put(key, model, loaded.net)
        return model

    def _fetch(self, key: Hashable, model: LoadedModel, load: Callable[[], LoadedModel]) -> nn.Module:
        net = self._find(key, model)
        if net is None:
            with self._lock:
                turn = self._loading.setdefault((key, model.spec.weights_hash), _Turn())
            with turn.lock:
                net = self._find(key, model) or self._again(key, model, load)
        kept = _touched.get()
        if kept is not None and all(net is not one for one in kept):
            kept.append(net)
        return net

    def _find(self, key: Hashable, model: LoadedModel) -> nn.Module | None:
        with self._lock:
            place = self._places.get(key)
            if place is None or place.model is not model:
                return None
            place.last_used = time.monotonic()
            self._places.move_to_end(key)
            return place.net

    def _again(self, key: Hashable, model: LoadedModel, load: Callable[[], LoadedModel]) -> nn.Module:
        loaded = self._timed(load)
        if loaded.spec.weights_hash != model.spec.weights_hash:
            with self._lock:
                self._models.pop(key, None)
            raise BadCheckpoint(f"The weights of {model.spec.title} have changed on this server; load the page again.")
        with self._lock:
            if self._models.get(key) is not model:  # it was forgotten: who still works on it finishes
                return loaded.net
        self._put(key, model, loaded.net)
        return loaded.net

    def _put(self, key: Hashable, model: LoadedModel, net: nn.Module) -> None:
        with self._lock:
            self._places[key] = _Place(model, net, time.monotonic())
            self._places.move_to_end(key)
        self.trim(thoroughly=True)

    def _timed(self, load: Callable[[], LoadedModel]) -> LoadedModel:
        with self._loads:
            began = time.monotonic()
            loaded = load()
        seconds = round(time.monotonic() - began, 2)
        _note("model loaded", loaded, seconds=seconds, mb=round(_num_bytes(loaded.net) / _MB, 1))
        return loaded


def _note(what: str, model: LoadedModel, **fields: object) -> None:
    """Without the name of a file: weights of one's own are told by their digest."""
    journal.event(what, network=model.spec.model_id, weights=model.spec.weights_hash[:8], **fields)  # type: ignore[arg-type]


class _Turn:
    """Who loads a network."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _num_bytes(net: nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
