"""Projections kept on disk beside the index that they were made of, so that an earlier map opens again at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnviz_core import store
from cnnviz_core.collections import indexing
from cnnviz_core.results import Projection

_MOST_KEPT = 200


@dataclass(frozen=True)
class Kept:
    """A map that was made earlier.

    Attributes:
        name: What it is called on screen.
        layer: Of which layer.
        settings: With which it was asked for, of :func:`cnnviz_core.methods.embeddings.project`.
    """

    name: str
    layer: str
    settings: Mapping[str, object]


def save(
    collection_id: str,
    vectors_key: str,
    settings: Mapping[str, object],
    projection: Projection,
    *,
    name: str,
    layer: str,
    network: str,
) -> None:
    """Keeps a projection; the oldest go where there are many.

    Args:
        collection_id: Of which collection.
        vectors_key: Names the vectors that it was made of.
        settings: With which it was asked for.
        projection: As it was made.
        name: What to call it on screen.
        layer: Of which layer.
        network: Of which network.

    Raises:
        StorageFailed: The data folder cannot be written.
    """
    folder = _folder(collection_id)
    about = {
        "name": name,
        "layer": layer,
        "network": network,
        "method": projection.method,
        "divergence": projection.divergence,
        "asked": dict(settings),
        "settings": dict(projection.settings),
    }
    path = folder / f"{_key(vectors_key, settings)}.npz"
    with store.written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), values=projection.values, explained=projection.explained)
    for old in _newest_first(folder)[_MOST_KEPT:]:
        old.unlink(missing_ok=True)


def find(collection_id: str, vectors_key: str, settings: Mapping[str, object]) -> Projection | None:
    """The projection of these vectors with these settings, if it was kept."""
    path = _folder(collection_id) / f"{_key(vectors_key, settings)}.npz"
    try:
        with path.open("rb") as file, np.load(file) as stored:
            about = json.loads(str(stored["about"]))
            return Projection(
                stored["values"], about["method"], stored["explained"], about["divergence"], about["settings"]
            )
    except store.DAMAGED_ARRAYS:  # never made, or damaged: it is made anew
        return None


def kept(collection_id: str, *, network: str) -> list[Kept]:
    """The maps of a collection that were made with a network, the latest first."""
    found: dict[str, Kept] = {}
    for path in _newest_first(_folder(collection_id)):
        try:
            with path.open("rb") as file, np.load(file) as stored:
                about = json.loads(str(stored["about"]))
            if about.get("network") == network:
                found.setdefault(about["name"], Kept(about["name"], about["layer"], about["asked"]))
        except store.DAMAGED_ARRAYS:
            continue
    return list(found.values())


def _folder(collection_id: str) -> Path:
    return indexing.folder_of(collection_id) / "projections"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"), key=lambda path: -path.stat().st_mtime_ns)


def _key(vectors_key: str, settings: Mapping[str, object]) -> str:
    described = json.dumps([vectors_key, dict(settings)], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=12).hexdigest()
