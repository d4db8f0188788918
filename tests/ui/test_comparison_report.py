"""The report of two networks: everything in it, nothing that is fetched, names as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cnnviz_core import pairs, settings
from cnnviz_core.images import InputImage
from cnnviz_core.methods import comparison
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Screening, Study
from cnnviz_core.ui import comparison_report
from cnnviz_core.ui.comparison_view import Pair
from cnnviz_core.ui.pickers import Selection


@pytest.fixture
def pair(tiny_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(data_dir=tmp_path))
    tuned = pairs.redrawn(tiny_model, ["conv2"])
    tuned = replace(tuned, class_names=("<b>cat</b>", "dog", "bird"))
    changes = pairs.weight_changes(tiny_model, tuned)
    return Pair(tiny_model, tuned, changes, pairs.kinship(tiny_model, changes))


@pytest.fixture
def parts(pair: Pair) -> tuple[Screening, Study]:
    screening = comparison.screen(pair.base, pair.tuned, collection="bundled/photos")
    study = comparison.study(pair.base, pair.tuned, layers=["conv1", "relu2"], channels=3, steps=8, size_px=16)
    return screening, study


def test_the_whole_report(pair: Pair, parts: tuple[Screening, Study], noise_image: Callable[..., InputImage]) -> None:
    chosen = Selection(pair.base, replace(noise_image(20, 20), name="<i>mine</i>.png"), "", None)
    text = comparison_report.write(chosen, pair, *parts)
    for title in ("The two networks", "Through depth", "Pictures whose answer changed", "What channels look for"):
        assert f"<h2>{title}</h2>" in text
    assert "One picture: &lt;i&gt;mine&lt;/i&gt;.png" in text
    assert "<i>" not in text
    assert "<b>" not in text
    assert not re.search(r"<script|<link|src=\"(?!data:)|href=", text)
    assert text.count("data:image/svg+xml") >= 4
    assert "result = comparison.study(model, other, layers=[&#x27;conv1&#x27;, &#x27;relu2&#x27;]" in text
    assert "Gram distances have another scale at every layer" in text


def test_what_was_not_run_is_left_out(pair: Pair, noise_image: Callable[..., InputImage]) -> None:
    text = comparison_report.write(Selection(pair.base, noise_image(20, 20), "", None), pair, None, None)
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["The two networks", "One picture: noise 0"]
