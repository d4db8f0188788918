"""Networks and pictures that the tests of several methods use."""

from __future__ import annotations

import pytest

from cnnviz_core import photos
from cnnviz_core.images import InputImage


@pytest.fixture(scope="session")
def chelsea() -> InputImage:
    return photos.open_photo("chelsea")
