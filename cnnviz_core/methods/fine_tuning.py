"""Fine-tuning: a network that was trained on one set of pictures learns the classes of another, from few of them.

The early layers of a trained network look for edges, textures and parts that are of use everywhere; only the last ones
speak of the classes it was trained on. So the early layers stay **frozen** and the last few are trained further with a
new **head**, the layer that turns features into class scores. With the head alone this is a *linear probe*, which is
reported beside every training: what the frozen features give away by themselves. The head starts as that probe, since
layers below a random head are first pulled about by its random errors; so training starts at the probe's accuracy and
keeps the epoch that did best on the validation pictures: that with the most right answers, of equals the one with the
lowest loss. That may be the start. The probe's scores are as sharp as suits the validation pictures; else every epoch
would seem better for growing surer alone, and the layers below would be bent to that end.

Three parts are drawn for every class: **training** pictures change the weights, **validation** pictures decide which
epoch is kept and when to stop, **test** pictures do neither, and the accuracy, the table and the confusion matrix come
from them.

Batch norms in trained layers may go by the mean and variance of each batch while it trains; a running mean of these is
what they go by afterwards. That lets a whole network learn pictures unlike those of its first training, such as digits,
in a few epochs. Else, and in all frozen layers, they keep what they came with. Dropout stays off. Whatever
is reported of validation and test pictures is what the network answers afterwards, where a picture's score never hangs
on others; and nothing is drawn but the split, the order and the variations of the pictures, all by the seed.

When it misleads: an accuracy from 50 test pictures is uncertain by some 5 to 10 points; look at the counts. Pictures
of one scene in two parts make any network look good. A network that was never trained learns little from few
pictures. Where the probe is nearly always right, training deeper gains little: with the last layer below the head, as
by default, 7 or 13 pictures of each of 24 classes gave lite0 0.2 points more (standard error 0.1, seventeen draws) and
a loss lower by a fifth to a third; with four blocks it was no better than the probe. And the classes are all it knows:
a picture of anything else gets one of them.

Source: Yosinski et al., How transferable are features in deep neural networks? (2014); Kumar et al., Fine-tuning can
distort pretrained features (2022), for the start from the probe; Lee et al., Surgical fine-tuning improves adaptation
to distribution shifts (2023), for training few layers; Kingma and Ba (2015) and Loshchilov and Hutter (2019)
for Adam and AdamW; Ioffe and Szegedy (2015) for the norms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnnviz_core import collections, store, tail, training, training_settings
from cnnviz_core import trainable as layers
from cnnviz_core.collections import Collection, indexing, splitting
from cnnviz_core.collections.augmentation import AUGMENTATIONS
from cnnviz_core.collections.splitting import Split
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FineTuned, Step, Stored
from cnnviz_core.store import StorageFailed
from cnnviz_core.trainable import NUM_BLOCKS, blocks, everything, from_stage, last_blocks
from cnnviz_core.training_settings import NORMS, OPTIMISERS, SCHEDULES, Settings

__all__ = [
    "AUGMENTATIONS",
    "ENDINGS",
    "NORMS",
    "NUM_BLOCKS",
    "OPTIMISERS",
    "SCHEDULES",
    "Plan",
    "blocks",
    "default_learning_rate",
    "everything",
    "from_stage",
    "keep",
    "last_blocks",
    "plan",
    "train",
]

OnStep = Callable[[Step], None]

_DECODING_SECONDS = 3e-3

ENDINGS: Mapping[str, str] = {
    "all epochs": "All epochs were run.",
    "early": "It ended early, since the validation pictures had not been answered better for some epochs.",
    "cancelled": "It was cancelled; the best epoch until then is kept.",
    "diverged": "The loss was no longer a finite number; the best epoch before that is kept.",
    "pictures changed": "A picture was gone or had changed; the best epoch until then is kept.",
}


def default_learning_rate(
    model: LoadedModel,
    trainable: Sequence[str],
    optimiser: str = "adamw",
    *,
    norms: str = "auto",
    batch_size: int = 32,
) -> float:
    """What suits most networks: lower for more layers, unless norms of the batch keep all of them in range."""
    training_settings.check_key("optimiser", optimiser, OPTIMISERS)
    kind = OPTIMISERS[optimiser]
    num_layers = layers.num_layers(model, trainable)
    if not num_layers or training_settings.norms_go_by_batch(model, trainable, norms, batch_size):
        return kind.learning_rate
    return kind.layer_learning_rate if num_layers == 1 else kind.deeper_learning_rate


@dataclass(frozen=True)
class Plan:
    """What a training takes.

    Attributes:
        kept_at: Where the network is cut.
        num_trained: Parameters that are trained, those of the head included.
        num_parameters: Of the whole network with its new head.
        seconds_first: For one picture through the frozen part, reading included.
        seconds_trained: For one picture through the trained part, forwards and back.
    """

    kept_at: str
    num_trained: int
    num_parameters: int
    seconds_first: float
    seconds_trained: float

    def seconds(self, split: Split, *, epochs: int, augmentation: str) -> float:
        """About how long a training takes if it does not end early."""
        num_versions = AUGMENTATIONS[augmentation].num_versions
        num_all = sum(len(part) for part in (split.training, split.validation, split.test))
        passes = num_all + len(split.training) * ((num_versions or 1) - 1)
        again = len(split.training) * epochs if num_versions is None else 0
        evaluated = (len(split.training) + len(split.validation)) / 3
        return self.seconds_first * (passes + again) + self.seconds_trained * epochs * (
            len(split.training) + evaluated / 2
        )


def plan(model: LoadedModel, *, trainable: Sequence[str], num_classes: int = 2) -> Plan:
    """What a training of these layers takes, tried on noise.

    Raises:
        NotApplicable, UnknownLayer, BadSetting: As :func:`train`.
    """
    trained = layers.check_layers(model, trainable)
    net, weights = layers.trained_copy(model, trained, num_classes)
    halves = tail.cut(net, trained, training.noise(model), is_static=model.is_static)
    first, second = training.seconds_each(model, halves, weights)
    return Plan(
        kept_at=str(halves.place),
        num_trained=sum(weight.numel() for weight in weights),
        num_parameters=sum(weight.numel() for weight in net.parameters()),
        seconds_first=first + _DECODING_SECONDS / indexing.num_workers(model),
        seconds_trained=second,
    )


def train(
    model: LoadedModel,
    collection: Collection | str | Path,
    *,
    trainable: Sequence[str],
    epochs: int = 15,
    optimiser: str = "adamw",
    learning_rate: float | None = None,
    schedule: str = "cosine",
    weight_decay: float = 0.01,
    batch_size: int = 32,
    augmentation: str = "none",
    validation: float = 0.15,
    test: float = 0.2,
    patience: int = 5,
    seed: int = 0,
    norms: str = "auto",
    name: str = "",
    on_step: OnStep | None = None,
) -> FineTuned:
    """Trains some layers of a network and a new head on a labelled collection; the best epoch becomes a checkpoint.

    The model itself is not touched. Minimised is the mean cross-entropy of the labels. What does not change is worked
    out once for each picture; unless norms go by the batch, it is shared out among the cores, which changes nothing but
    rounding.

    Args:
        model: Any network with a classifier.
        collection: A collection, its id, or a folder; its labels are the classes. Taken as it was last looked through.
        trainable: Dotted names of layers; what is inside them is trained, too. The head always is, since it is new.
            :func:`last_blocks`, :func:`from_stage` and :func:`everything` give such lists.
        epochs: Passes over the training pictures at most, 1 or more.
        optimiser: A key of :data:`OPTIMISERS`.
        learning_rate: None takes :func:`default_learning_rate`.
        schedule: A key of :data:`SCHEDULES`: how the learning rate goes down.
        weight_decay: Pull of the weights towards 0.
        batch_size: Pictures for one step.
        augmentation: A key of :data:`~cnnviz_core.collections.augmentation.AUGMENTATIONS`.
        validation: Share of each class's pictures that decides which epoch is kept.
        test: Share that judges the result.
        patience: Epochs without a better one after which it ends.
        seed: Of the split, the order and the variations.
        norms: A key of :data:`NORMS`: what batch norms in trained layers go by.
        name: What to call the checkpoint; by default after network and collection.
        on_step: Called with pictures done and pictures to do and a :class:`TrainingProgress`. What it raises ends the
            training: once there is anything to keep it is saved, and the last step before the end has the
            :class:`FineTuned`.

    Raises:
        NotApplicable: The network has no head that could be replaced.
        UnknownLayer: No layer of that name.
        BadSetting: All layers frozen, or an argument out of range.
        BadCollection: Fewer than two classes with three pictures.
    """
    trained = layers.check_layers(model, trainable)
    if (rate := learning_rate) is None:
        rate = default_learning_rate(model, trained, optimiser, norms=norms, batch_size=batch_size)
    settings = Settings(
        epochs,
        optimiser,
        rate,
        schedule,
        weight_decay,
        batch_size,
        augmentation,
        validation,
        test,
        patience,
        seed,
        norms,
    )
    training_settings.check(settings)
    if isinstance(collection, str | Path):
        collection = collections.open_collection(collection)
    pictures = collection.pictures()
    split = splitting.split(pictures, validation=validation, test=test, seed=seed)
    one = training.Training(
        model, collection, pictures, split, trained, settings, name, on_step or (lambda _: None), keep
    )
    return one.done()


def keep(result: FineTuned) -> FineTuned:
    """Keeps the weights of a training in the data folder; where that fails they stay in the result, with the reason."""
    if not result.unsaved:
        return result
    header_length = int.from_bytes(result.unsaved[:8], "little")
    account = json.loads(json.loads(result.unsaved[8 : 8 + header_length])["__metadata__"][training.ACCOUNT])
    try:
        card = store.save_checkpoint(result.unsaved, **account)
    except StorageFailed as error:
        return replace(result, notices=(*result.notices, str(error)))
    return replace(result, checkpoint=Stored(card.checkpoint_id, str(card.path)), unsaved=b"")
