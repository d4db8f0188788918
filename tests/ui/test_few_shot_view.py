"""The few-shot page's lines of Python, executed: with the support masks beside them they find the same object."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnviz_core import manifest, photos, stereo
from cnnviz_core.methods import few_shot
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import few_shot_view, segmented_view
from cnnviz_core.ui.support_view import TRUE, Choice, Support


@pytest.mark.parametrize("threshold", [None, 0.1])
def test_the_manifests_lines_find_the_same_object(
    threshold: float | None, lite0: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (left, mask), (right, _) = stereo.motorcycle_pair()
    coffee = photos.open_photo("coffee")
    painted = np.zeros((coffee.height, coffee.width), dtype=np.bool_)
    painted[90:300, 170:420] = True
    supports = [
        Support(Choice("motorcycle_left", TRUE), left, mask.values),
        Support(Choice("coffee", "0123456789abcdef"), coffee, painted),
    ]
    pairs = [(support.image, support.at_full_size()) for support in supports]
    found = few_shot.few_shot(lite0, pairs, right, threshold=threshold, size_px=192, score="max")
    lines = manifest.python_lines(
        found.run,
        image=right,
        photo_id="motorcycle_right",
        selection="shown = result.scores",
        inputs={
            "supports": few_shot_view._supports_code(supports),
            "query": manifest.opening(right, "motorcycle_right"),
        },
    )
    masks = {few_shot_view._mask_file(support): support.at_full_size() for support in supports}
    with zipfile.ZipFile(io.BytesIO(segmented_view.zip_of(masks))) as files:
        files.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    np.testing.assert_array_equal(made["shown"], found.scores)
    np.testing.assert_array_equal(made["result"].mask.values, found.mask.values)
    assert made["result"].threshold == found.threshold
