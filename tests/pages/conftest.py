"""The whole app in Streamlit's own test runner, with a data folder of its own."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core import collections, manifest, photos, settings
from cnnviz_core.collections import embedding, indexing
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import take_away
from tests.pages.reading import WAIT_S

APP = str(Path(__file__).parents[2] / "app.py")


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CNNVIZ_DATA_DIR", str(tmp_path))
    settings.current.cache_clear()
    yield tmp_path
    settings.current.cache_clear()


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    def open_one(page: str = "", **link: str) -> AppTest:
        app = AppTest.from_file(APP, default_timeout=WAIT_S)
        for name, value in link.items():
            app.query_params[name] = value
        app.run()
        if page:
            app.switch_page(f"pages/{page}.py").run()
        assert not app.exception, app.exception
        return app

    return open_one


@pytest.fixture
def check_charts(monkeypatch: pytest.MonkeyPatch) -> Callable[[AppTest], set[str]]:
    """Checks that each chart on a page has its row, with files that hold what they should; gives the charts' names."""
    taken: dict[str, tuple[list[take_away.File], Callable[[], bytes]]] = {}
    draw = take_away.draw

    def noting(files: list[take_away.File], **about: Any) -> None:
        taken[about["key"]] = files, about["picture"]
        draw(files, **about)

    monkeypatch.setattr(take_away, "draw", noting)

    def check(app: AppTest) -> set[str]:
        shown = {chart.proto.id.split("-", 2)[2] for chart in app.get("plotly_chart")}
        buttons = {button.key for button in app.button}
        address = {name: [text] if isinstance(text, str) else text for name, text in app.query_params.items()}
        for name in shown:
            assert f"{name}_report" in buttons
            files, picture = taken[name]
            (_, _, _, svg), (_, csv_name, _, values), (_, _, _, account) = files
            assert svg().startswith(b"<svg")
            assert picture() == svg()
            header, *rows = csv.reader(io.StringIO(values().decode("utf-8-sig")))
            assert csv_name.endswith(".csv")
            assert all(header)
            assert len(set(header)) == len(header)
            assert rows
            assert any(map(_is_number, itertools.chain(*rows))), rows
            assert manifest.read(account()).link.params == address
            assert json.loads(account())["settings"]
        return shown

    return check


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@pytest.fixture
def rectangle_key(lite0: LoadedModel) -> str:
    """Where the session keeps the rectangle on the first picture and network."""
    return f"rectangle {photos.open_photo('chelsea').digest} {lite0.preprocessing!r}"


@pytest.fixture(scope="session")
def indexed_photos(lite0: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the bundled photos are indexed with the default network."""
    folder = tmp_path_factory.mktemp("indexed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "current", lambda: settings.Settings(data_dir=folder))
        collection = collections.open_collection("bundled/photos")
        indexing.build(collection, lite0, layers=embedding.standard_layers(lite0))
    return folder


@pytest.fixture
def open_explore(open_page: Callable[..., AppTest], indexed_photos: Path, data_dir: Path) -> Callable[..., AppTest]:
    """Opens a page that works on a collection, with the bundled photos indexed already."""
    shutil.copytree(indexed_photos, data_dir, dirs_exist_ok=True)

    def open_one(page: str, **link: str) -> AppTest:
        return open_page(page, collection="Photos of scikit-image and scikit-learn", **link)

    return open_one
