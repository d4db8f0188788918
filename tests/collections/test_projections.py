"""Maps kept on disk: found again exactly, named, bounded, and made anew when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnviz_core import settings
from cnnviz_core.collections import indexing, projections
from cnnviz_core.methods import embeddings
from cnnviz_core.results import Projection

HOME = "folder/pictures"
VECTORS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path))
    return indexing.folder_of(HOME) / "projections"


def keep(name: str, **asked: object) -> Projection:
    made = embeddings.project(VECTORS, **asked)
    projections.save(HOME, "vectors", asked, made, name=name, layer="conv2", network="net")
    return made


def test_what_was_kept_is_found_as_it_was() -> None:
    made = keep("PCA of conv2", method="pca", num_axes=3)
    found = projections.find(HOME, "vectors", {"method": "pca", "num_axes": 3})
    assert found is not None
    np.testing.assert_array_equal(found.values, made.values)
    np.testing.assert_array_equal(found.explained, made.explained)
    assert (found.method, found.divergence, dict(found.settings)) == ("pca", None, dict(made.settings))


def test_a_found_map_takes_new_points() -> None:
    keep("t-SNE of conv2", method="tsne", seed=1)
    found = projections.find(HOME, "vectors", {"method": "tsne", "seed": 1})
    assert found is not None
    assert found.divergence is not None
    assert np.isfinite(embeddings.place(found, VECTORS, VECTORS[:1])).all()


def test_other_vectors_and_settings_are_other_maps() -> None:
    keep("PCA of conv2", method="pca")
    assert projections.find(HOME, "others", {"method": "pca"}) is None
    assert projections.find(HOME, "vectors", {"method": "pca", "num_axes": 3}) is None
    assert projections.find("folder/else", "vectors", {"method": "pca"}) is None


def test_maps_are_listed_by_name_the_latest_first() -> None:
    keep("one", method="pca")
    keep("two", method="pca", num_axes=3)
    assert [(one.name, one.layer, dict(one.settings)) for one in projections.kept(HOME, network="net")] == [
        ("two", "conv2", {"method": "pca", "num_axes": 3}),
        ("one", "conv2", {"method": "pca"}),
    ]
    assert projections.kept("folder/else", network="net") == []


def test_maps_of_other_networks_are_not_listed() -> None:
    keep("one", method="pca")
    assert projections.kept(HOME, network="another") == []


def test_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "_MOST_KEPT", 2)
    for seed in range(4):
        keep(f"map {seed}", method="pca", seed=seed)
    assert [one.name for one in projections.kept(HOME, network="net")] == ["map 3", "map 2"]


def test_a_damaged_file_counts_as_none(data_folder: Path) -> None:
    keep("one", method="pca")
    (path,) = data_folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:50])
    assert projections.find(HOME, "vectors", {"method": "pca"}) is None
    assert projections.kept(HOME, network="net") == []
    keep("one", method="pca")
    assert projections.find(HOME, "vectors", {"method": "pca"}) is not None


def test_forgetting_the_indexes_forgets_the_maps() -> None:
    keep("one", method="pca")
    indexing.forget(HOME)
    assert projections.kept(HOME, network="net") == []
