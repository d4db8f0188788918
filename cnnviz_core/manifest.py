"""How to make a result again: its settings as JSON, and the lines of Python that call the public contract."""

from __future__ import annotations

import json
from importlib import metadata

from cnnviz_core.images import InputImage
from cnnviz_core.photos import PHOTOS
from cnnviz_core.results import Run

_PACKAGES = ("cnnviz", "torch", "torchvision", "timm", "numpy", "pillow")


def manifest(run: Run, *, image: InputImage | None = None, photo_id: str = "", selection: str = "") -> str:
    """Everything that led to a result, as JSON.

    Args:
        run: The result's own account.
        image: The picture, if one took part.
        photo_id: Its id if it is a bundled photo.
        selection: Python that picks what was shown out of ``result``, for instance ``result.values[3]``.
    """
    return json.dumps(
        {
            "network": {"id": run.model_id, "weights": run.weights, "weights_hash": run.weights_hash},
            "image": {"name": image.name, "digest": image.digest, "bundled": photo_id or None} if image else None,
            "method": run.method,
            "settings": dict(run.settings),
            "seed": run.seed,
            "seconds": round(run.seconds, 4),
            "versions": {name: _version(name) for name in _PACKAGES},
            "python": python_lines(run, image=image, photo_id=photo_id, selection=selection),
        },
        indent=2,
        ensure_ascii=False,
    )


def python_lines(run: Run, *, image: InputImage | None = None, photo_id: str = "", selection: str = "") -> list[str]:
    """Lines of Python that make the result again; arguments as in :func:`manifest`."""
    module, _, function = run.method.rpartition(".")
    weights = repr(run.weights) if run.weights == "default" or ":" in run.weights else f"Path({run.weights!r})"
    settings = ", ".join(f"{name}={value!r}" for name, value in run.settings.items())
    arguments = ", ".join(filter(None, ["model", "image" if image else "", settings]))
    lines = [
        "from pathlib import Path",
        "from cnnviz_core import images, models, photos",
        f"from cnnviz_core.methods import {module}",
        f"model = models.load({run.model_id!r}, weights={weights})",
        f"result = {module}.{function}({arguments})",
    ]
    if image:
        opened = (
            f"photos.open_photo({photo_id!r})" if photo_id in PHOTOS else f"images.open_image(Path({image.name!r}))"
        )
        lines.insert(4, f"image = {opened}")
    return [*lines, selection] if selection else lines


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
