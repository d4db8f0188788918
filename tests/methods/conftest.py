"""Networks and pictures that the tests of several methods use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from cnnviz_core import models, photos
from cnnviz_core.images import InputImage
from cnnviz_core.models import LoadedModel


@pytest.fixture(scope="session")
def zoo_64() -> Callable[[str], LoadedModel]:
    """Untrained networks on small pictures, kept for the session."""
    return cache(
        lambda model_id: models.load(model_id, weights="random:0", device="cpu", preprocessing={"input_px": 64})
    )


@pytest.fixture(scope="session")
def chelsea() -> InputImage:
    return photos.open_photo("chelsea")
