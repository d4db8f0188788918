"""How to make a result again: its settings as JSON, and the lines of Python that call the public contract.

A manifest that the app has written also names the screen it came from; :func:`read` finds the way back to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from cnnviz_core import links
from cnnviz_core.errors import BadLink
from cnnviz_core.images import InputImage
from cnnviz_core.links import Link
from cnnviz_core.photos import PHOTOS, open_photo
from cnnviz_core.results import PictureName, Run

# As cnnviz_core.pairs names the weights of a copy of the first network.
_LAST_STAGE_REDRAWN = "last stage redrawn"

_PACKAGES = ("cnnviz", "torch", "torchvision", "timm", "numpy", "pillow")
_LARGEST = 2**20  # bytes


@dataclass(frozen=True)
class Origin:
    """Where a manifest came from.

    Attributes:
        link: The screen.
        changed: Packages whose versions are others here: "torch 2.12, here 2.13".
    """

    link: Link
    changed: tuple[str, ...] = ()


def manifest(
    run: Run,
    *,
    image: InputImage | None = None,
    photo_id: str = "",
    selection: str = "",
    shown: Mapping[str, object] | None = None,
    inputs: Mapping[str, str] | None = None,
    link: Link | None = None,
) -> str:
    """Everything that led to a result, as JSON.

    Args:
        run: The result's own account.
        image: The picture, if one took part.
        photo_id: Its id if it is a bundled photo.
        selection: Python that picks what was shown out of ``result``, for instance ``result.values[3]``.
        shown: How the numbers were drawn: order, colours, limits.
        inputs: The function's arguments after the model by name, each with the Python that makes it; None for the
            picture alone.
        link: The screen that showed it; without the host, so that it says nothing of the server.
    """
    return _as_json(
        link,
        {
            "network": _network(run),
            **({"other_network": _network(run.other)} if run.other else {}),
            "image": _account(image, photo_id) if image else None,
            "method": run.method,
            "settings": {name: _written(value) for name, value in run.settings.items()},
            "shown": dict(shown or {}),
            "seed": run.seed,
            **({"seconds": round(run.seconds, 4)} if run.seconds else {}),
            "python": python_lines(run, image=image, photo_id=photo_id, selection=selection, inputs=inputs),
        },
    )


def of_screen(link: Link, *, settings: Mapping[str, object]) -> str:
    """The screen and the settings that led to a figure for which no function gave an account of its own, as JSON.

    Args:
        link: As in :func:`manifest`.
        settings: By name, as for people, but with numbers as numbers.
    """
    return _as_json(link, {"settings": {name: _written(value) for name, value in settings.items()}})


def _as_json(link: Link | None, account: Mapping[str, object]) -> str:
    return json.dumps(
        {
            **({"link": {"page": link.page, "parameters": dict(link.params)}} if link else {}),
            **account,
            "versions": {name: _version(name) for name in _PACKAGES},
        },
        indent=2,
        ensure_ascii=False,
    )


def python_lines(
    run: Run,
    *,
    image: InputImage | None = None,
    photo_id: str = "",
    selection: str = "",
    inputs: Mapping[str, str] | None = None,
) -> list[str]:
    """Lines of Python that make the result again; arguments as in :func:`manifest`."""
    module, _, function = run.method.rpartition(".")  # no module: the network's own
    if inputs is None:
        inputs = {"image": opening(image, photo_id)} if image else {}
    arguments = [*(["other"] if run.other else []), *inputs, *_keywords(run.settings)]
    packages = [
        "images",
        "models",
        "photos",
        *(["stereo"] if any("stereo." in made for made in inputs.values()) else []),
    ]
    return [
        "from pathlib import Path",
        f"from cnnviz_core import {', '.join(packages)}",
        *([f"from cnnviz_core.methods import {module}"] if module else []),
        f"model = {_loading(run)}",
        *(_other(run.other) if run.other else []),
        *(f"{name} = {made}" for name, made in inputs.items()),
        f"result = {module}.{function}({', '.join(['model', *arguments])})"
        if module
        else f"result = model.{function}({', '.join(arguments)})",
        *([selection] if selection else []),
    ]


def _other(run: Run) -> list[str]:
    """The lines that make the second network."""
    if run.weights == _LAST_STAGE_REDRAWN:
        return ["from cnnviz_core import pairs", "other = pairs.redrawn(model, pairs.last_stage(model))"]
    return [f"other = {_loading(run)}"]


def read(content: bytes) -> Origin:
    """The way back to the screen that a manifest came from.

    Raises:
        BadLink: Not a manifest, or one without a link.
    """
    if len(content) > _LARGEST:
        raise BadLink("A manifest has up to 1 MB; this file is larger, so it is none.")
    try:
        account = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadLink("The file is no manifest: it is not JSON. Take one from a figure’s Download menu.") from error
    link = account.get("link") if isinstance(account, dict) else None
    if not isinstance(link, dict):
        raise BadLink(
            "The file has no link to a screen: it is no manifest, or one that was written in Python. Its lines of "
            "Python, if it has any, make the result again."
        )
    written = account.get("versions")
    versions = written if isinstance(written, dict) else {}
    changed = [
        f"{name} {str(versions[name])[:20]}, here {_version(name)}"
        for name in _PACKAGES
        if name in versions and versions[name] != _version(name)
    ]
    return Origin(links.check(link.get("page"), link.get("parameters", {})), tuple(changed))


def _network(run: Run) -> dict[str, object]:
    return {
        "id": run.model_id,
        "weights": run.weights,
        "weights_hash": run.weights_hash,
        "preprocessing_changes": dict(run.preprocessing_changes),
    }


def _account(image: InputImage, photo_id: str) -> dict[str, str | None]:
    return {"name": image.name, "digest": image.digest, "bundled": photo_id if photo_id in PHOTOS else None}


def opening(image: InputImage | PictureName, photo_id: str) -> str:
    """The call that opens the picture; one of the user's own lies in the working folder."""
    return f"photos.open_photo({photo_id!r})" if photo_id in PHOTOS else f"images.open_image(Path({image.name!r}))"


def _written(value: object) -> object:
    """A setting as JSON has it."""
    return {"name": value.name, "digest": value.digest} if isinstance(value, PictureName) else value


def _called(value: object) -> str:
    """A setting as Python has it."""
    if not isinstance(value, PictureName):
        return repr(value)
    bundled = [photo_id for photo_id, photo in PHOTOS.items() if photo.title == value.name]
    is_bundled = bool(bundled) and open_photo(bundled[0]).digest == value.digest
    return opening(value, bundled[0] if is_bundled else "")


def _loading(run: Run) -> str:
    """The call that loads the network."""
    kind, _, name = run.model_id.partition("/")
    changes = run.preprocessing_changes
    if kind == "module":  # only who made it can make it again
        return f"models.from_module(net, {', '.join(_keywords({**changes, 'name': name}))})  # net is your own module"
    is_named = run.weights == "default" or run.weights.startswith("random:")
    weights = repr(run.weights) if is_named else f"Path({run.weights!r})"
    return f"models.load({run.model_id!r}, weights={weights}{f', preprocessing={dict(changes)!r}' if changes else ''})"


def _keywords(settings: Mapping[str, object]) -> list[str]:
    return [f"{name}={_called(value)}" for name, value in settings.items()]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
