"""What can be chosen of a training: optimisers, schedules, what norms go by; and whether a choice will do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cnnviz_core import trainable
from cnnviz_core.collections.augmentation import AUGMENTATIONS
from cnnviz_core.errors import BadSetting
from cnnviz_core.models import LoadedModel


@dataclass(frozen=True)
class Optimiser:
    """One rule for changing the weights.

    Attributes:
        title: For menus.
        about: What it does.
        learning_rate: Where the head alone is trained, or everything with norms that go by the batch.
        layer_learning_rate: Where one more layer is, with trained weights.
        deeper_learning_rate: Where several are: what each of them changes adds up.
        make: Builds it.
    """

    title: str
    about: str
    learning_rate: float
    layer_learning_rate: float
    deeper_learning_rate: float
    make: Callable[[list[nn.Parameter], float, float], torch.optim.Optimizer]


OPTIMISERS: Mapping[str, Optimiser] = {
    "adamw": Optimiser(
        "AdamW",
        "Steps of even size for every weight, with the weights pulled towards 0 apart from that.",
        1e-3,
        3e-4,
        1e-5,
        lambda weights, rate, decay: torch.optim.AdamW(weights, lr=rate, weight_decay=decay),
    ),
    "adam": Optimiser(
        "Adam",
        "As AdamW, with the pull as a part of the gradient.",
        1e-3,
        3e-4,
        1e-5,
        lambda weights, rate, decay: torch.optim.Adam(weights, lr=rate, weight_decay=decay),
    ),
    "sgd": Optimiser(
        "SGD",
        "Along the gradient with momentum 0.9: slower, and the learning rate matters more.",
        1e-2,
        2e-3,
        2e-3,
        lambda weights, rate, decay: torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=decay),
    ),
}

# Share of the training that is over, 0..1, to the share of the learning rate.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda _: 1.0,
}


# Where the norms of trained layers take their means and variances from, while training.
NORMS: Mapping[str, str] = {
    "auto": "Of each batch where all norms are trained and a batch is 8 pictures or more, else as they came: with some "
    "trained and some not, it was worse in trials.",
    "batch": "Of each batch, and a running mean of these for use.",
    "kept": "As they came with the network; only scale and shift are trained.",
}
_FEWEST_FOR_NORMS = 8


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the keyword arguments of :func:`cnnviz_core.methods.fine_tuning.train`."""

    epochs: int
    optimiser: str
    learning_rate: float
    schedule: str
    weight_decay: float
    batch_size: int
    augmentation: str
    validation: float
    test: float
    patience: int
    seed: int
    norms: str


def check_key(what: str, key: str, table: Mapping[str, object]) -> None:
    """Passes where a table has such a key.

    Raises:
        BadSetting: It has not.
    """
    if key not in table:
        raise BadSetting(f"{what} is {key!r}, not one of {', '.join(table)}.")


def check(settings: Settings) -> None:
    """Passes where every setting is in its range.

    Raises:
        BadSetting: One is not.
    """
    check_key("optimiser", settings.optimiser, OPTIMISERS)
    check_key("schedule", settings.schedule, SCHEDULES)
    check_key("augmentation", settings.augmentation, AUGMENTATIONS)
    check_key("norms", settings.norms, NORMS)
    for number, what in (
        (settings.epochs, "epochs"),
        (settings.batch_size, "batch_size"),
        (settings.patience, "patience"),
    ):
        if number < 1:
            raise BadSetting(f"{what} is {number}; it must be 1 or more.")
    if settings.norms == "batch" and settings.batch_size < 2:
        raise BadSetting(
            "A batch of one picture has no variance of its own; with norms of each batch, batch_size must be 2 or "
            f"more, better {_FEWEST_FOR_NORMS}."
        )
    if not 0 < settings.learning_rate < math.inf:
        raise BadSetting(f"The learning rate is {settings.learning_rate}; it must be a number above 0, such as 0.0002.")
    if not 0 <= settings.weight_decay < math.inf:
        raise BadSetting(f"weight_decay is {settings.weight_decay}; it must be 0 or more.")


def norms_go_by_batch(model: LoadedModel, trained: Sequence[str], norms: str, batch_size: int) -> bool:
    """Whether batch norms of the trained layers go by the batch while it trains; False where there is none."""
    here, all_there_are = (len(trainable.batch_norms(model.net, names)) for names in (trained, ("",)))
    if norms == "auto":
        return 0 < here == all_there_are and batch_size >= _FEWEST_FOR_NORMS
    return norms == "batch" and here > 0
