"""Lets torchvision be imported beside a CPU build of torch.

torchvision's wheel from the package index is built for a CUDA torch. Beside a CPU torch its compiled part does not
load, and the import fails because two operators that it decorates are missing. Declaring their signatures is enough:
networks, weights tables and transforms work; calling ``nms`` itself does not, and nothing here calls it.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import cache
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_lock = threading.Lock()


def install() -> torch.library.Library | None:
    """Declares the missing operators, once per process, whichever thread comes first.

    Returns:
        The declarations, or None where torchvision is absent or its compiled part loads.
    """
    with _lock:
        return _install()


@cache
def _install() -> torch.library.Library | None:
    """The cached return value keeps the operators declared."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _compiled_part_loads(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _compiled_part_loads(folder: Path) -> bool:
    for extension in folder.glob("_C*"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
        return True
    return False
