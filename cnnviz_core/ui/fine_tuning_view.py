"""The parts of the fine-tuning page before there is a result: split and probe, what is trained and how, its course."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import render, training
from cnnviz_core.collections import Collection, Picture, embedding, linear_probe, splitting
from cnnviz_core.collections.splitting import Split
from cnnviz_core.methods import fine_tuning
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import FineTuned, Run, TrainingProgress
from cnnviz_core.ui import charts, compute, frame, pickers, work
from cnnviz_core.ui.collection_view import Indexed
from cnnviz_core.ui.pickers import Selection

_VALIDATION, _TEST = 0.15, 0.2
_SMALLER_PX = (64, 96, 128, 160, 192)
# Of the input, for each of a picture: smaller pictures gain nothing from a larger input.
_PX_PER_PIXEL = 4
_RATES = tuple(float(f"{digit}e{power}") for power in range(-6, 0) for digit in (1, 2, 5))
_BATCHES = (8, 16, 32, 64, 128)
_LINE = "training"  # hours of training hold up nobody’s seconds
_SCOPES: Mapping[str, str] = {
    "head": "the head",
    "blocks": "last blocks",
    "stage": "from a depth on",
    "all": "everything",
    "layers": "layers by name",
}


_NORMS: Mapping[str, str] = {"auto": "as suits", "batch": "of each batch", "kept": "as they came"}


@dataclass(frozen=True)
class Wanted:
    """What is to be trained, and how.

    Attributes:
        trainable: Dotted names of layers.
        settings: Further keyword arguments of :func:`fine_tuning.train`.
    """

    trainable: tuple[str, ...]
    settings: Mapping[str, Any]


def parts(chosen: Selection, collection: Collection) -> tuple[Selection, Split]:
    """Asks for the seed and the size of the input; draws the classes and the split.

    Returns:
        The selection, with a network that takes inputs of that size, and the split.

    Raises:
        BadCollection: Too few labelled pictures.
    """
    pictures = collection.pictures()
    with frame.row():
        seed = int(
            st.number_input(
                "Seed",
                0,
                9999,
                0,
                key="split_seed",
                bind="query-params",
                help="Of the draw into training, validation and test pictures, and of the order of training. An "
                "accuracy that changes much with the seed rests on few pictures.",
                width=140,
            )
        )
        chosen = _sized(chosen, collection, pictures)
    split = _split(pictures, seed)
    drawn = {"training": split.training, "validation": split.validation, "test": split.test}
    charts.draw(
        render.parts_figure(split.class_names, {name: split.counts(part) for name, part in drawn.items()}),
        key="parts",
        title=f"Parts of {collection.title}",
        made={"collection": collection.title, "validation": _VALIDATION, "test": _TEST, "seed": seed},
        is_small=True,
    )
    st.caption(
        f"{len(split.class_names)} classes. {len(split.training):,} training pictures change the weights, "
        f"{len(split.validation):,} validation pictures decide which epoch is kept, {len(split.test):,} test pictures "
        "judge."
    )
    for notice in split.notices:
        st.caption(frame.plain(notice))
    return chosen, split


def _sized(chosen: Selection, collection: Collection, pictures: Sequence[Picture]) -> Selection:
    """The selection with a network whose input has the size that is asked for."""
    spec = chosen.model.spec
    usual = min(chosen.model.preprocessing.input_px)
    smaller = [side for side in _SMALLER_PX if side < usual]
    side = float(np.median([min(one.width, one.height) for one in pictures])) if pictures else math.inf
    px = pickers.choose(
        "Size of the input (px)",
        [*smaller, usual],
        key="input_px",
        default=next((one for one in smaller if one >= _PX_PER_PIXEL * side), usual),
        of=f"{spec.checkpoint_id or spec.model_id} {collection.collection_id}",
        help="The pictures are brought to this size. Small pictures hold no more at the network’s usual size, so for "
        "them it starts smaller: much quicker, and often better. The new network keeps the size.",
        width=190,
    )
    if px == usual:
        return chosen
    return replace(chosen, model=compute.model(spec.checkpoint_id or spec.model_id, spec.weights, input_px=px))


def _split(pictures: Sequence[Picture], seed: int) -> Split:
    return splitting.split(pictures, validation=_VALIDATION, test=_TEST, seed=seed)


def say_why_index() -> None:
    """What the page has the index for; below the offer to make it."""
    st.caption(
        "The index is for what the linear probe gives away beforehand, and for the pictures of the confusion matrix; "
        "a training does not wait for it."
    )


def probe(found: Indexed) -> None:
    """What the network’s features give away without any training."""
    seed = int(st.session_state["split_seed"])
    split = _split(found.rows, seed)
    accuracy = _probe(found.key(embedding.default_layer(found.model)), seed, found, split)
    chance = float(split.counts(split.test).max() / len(split.test))
    with frame.row():
        st.metric(
            "Linear probe, on the test pictures",
            format_percent(accuracy, 1),
            help="A linear classifier on what the network’s head reads, nothing else trained: what training deeper has "
            "to beat.",
            width=260,
        )
        st.metric("By chance", format_percent(chance, 1), help="Always answering the most frequent class.", width=160)


@st.cache_data(max_entries=32, show_spinner="Fitting the linear probe")
def _probe(found_by: str, seed: int, _found: Indexed, _split: Split) -> float:  # noqa: ARG001 - the cache's key
    vectors = np.asarray(_found.vectors[embedding.default_layer(_found.model)])
    answers = linear_probe.fit(vectors, _split).answers(vectors[_split.test])
    return float((answers == _split.targets[_split.test]).mean())


# ---- what and how ---------------------------------------------------------------------------------------------------


def wanted(model: LoadedModel) -> Wanted:
    """Asks for the layers and the settings; small pictures are trained on with everything, which they make quick."""
    default = "all" if "input_px" in model.spec.preprocessing_changes else "blocks"
    pickers.start_again("scope", default, default)
    scope = st.segmented_control(
        "Train",
        list(_SCOPES),
        default=default,
        key="scope",
        required=True,
        bind="query-params",
        format_func=lambda key: _SCOPES[key],
        help="The head is new and always trained. Alone, it takes seconds. The more of the network is trained with "
        "it, the more pictures it takes, and the longer.",
    )
    with frame.row():
        trainable = _SCOPE_LAYERS[scope](model)
        epochs = int(
            st.number_input(
                "Epochs",
                1,
                1000,
                15,
                key="epochs",
                bind="query-params",
                help="Passes over the training pictures at most; it ends early when nothing gets better.",
                width=110,
            )
        )
        rate = _rate(model, trainable)
        with st.popover("Settings", icon=":material/tune:", key="training_settings"):
            settings = _settings()
    return Wanted(trainable, {"epochs": epochs, "learning_rate": rate, **settings})


def _blocks(model: LoadedModel) -> tuple[str, ...]:
    most = max(1, len(fine_tuning.blocks(model)))
    num = st.number_input(
        "Blocks",
        1,
        most,
        min(fine_tuning.NUM_BLOCKS, most),
        key="num_blocks",
        bind="query-params",
        help="Counted from the head: residual blocks and the like, else layers with weights.",
        width=110,
    )
    return fine_tuning.last_blocks(model, int(num))


def _stage(model: LoadedModel) -> tuple[str, ...]:
    stages = {f"{stage.cells[0]} × {stage.cells[1]}": stage.cells for stage in model.layers.stages}
    if not stages:
        return fine_tuning.last_blocks(model, 0)
    chosen = pickers.choose(
        "From maps of",
        list(stages),
        key="trained_depth",
        default=list(stages)[-1],
        of=model.spec.title,
        help="Cells of the map: all blocks whose maps are no larger are trained.",
        width=140,
    )
    return fine_tuning.from_stage(model, stages[chosen])


def _by_name(model: LoadedModel) -> tuple[str, ...]:
    names = [info.name for info in model.layers if info.num_params]
    default = list(fine_tuning.last_blocks(model, 1))
    return tuple(
        pickers.several(
            "Layers",
            names,
            key="trained_layers",
            default=[name for name in default if name in names],
            of=model.spec.title,
            most=40,
            help="What is inside a layer is trained with it.",
        )
    )


_SCOPE_LAYERS = {
    "head": lambda model: fine_tuning.last_blocks(model, 0),
    "blocks": _blocks,
    "stage": _stage,
    "all": fine_tuning.everything,
    "layers": _by_name,
}


def _rate(model: LoadedModel, trainable: Sequence[str]) -> float:
    optimiser = st.session_state.get("optimiser", "adamw")
    default = fine_tuning.default_learning_rate(
        model,
        trainable,
        optimiser,
        norms=st.session_state.get("norms", "auto"),
        batch_size=st.session_state.get("batch_size", 32),
    )
    options = sorted({*_RATES, default})
    return pickers.choose(
        "Learning rate",
        options,
        key="learning_rate",
        default=default,
        of=f"{model.spec.title} {default}",
        name=lambda rate: f"{rate:g}",
        help="How far each step goes. Too high, and what the layers knew is lost before anything is learned; too low, "
        "and nothing changes. It starts at what suits most networks for the layers chosen, and few pictures of things "
        "that the network knows already; for others try a higher one.",
        width=140,
    )


def _settings() -> dict[str, Any]:
    augmentation = pickers.choose(
        "Variations of the pictures",
        list(fine_tuning.AUGMENTATIONS),
        key="augmentation",
        name=lambda key: fine_tuning.AUGMENTATIONS[key].title,
        help="  \n".join(f"**{one.title}**: {one.about}" for one in fine_tuning.AUGMENTATIONS.values()),
    )
    norms = pickers.choose(
        "Norms of trained layers",
        list(fine_tuning.NORMS),
        key="norms",
        name=lambda key: _NORMS[key],
        help="Where batch norms take their means and variances from.  \n"
        + "  \n".join(f"**{_NORMS[key]}**: {about}" for key, about in fine_tuning.NORMS.items()),
    )
    optimiser = pickers.choose(
        "Optimiser",
        list(fine_tuning.OPTIMISERS),
        key="optimiser",
        name=lambda key: fine_tuning.OPTIMISERS[key].title,
        help="  \n".join(f"**{one.title}**: {one.about}" for one in fine_tuning.OPTIMISERS.values()),
    )
    schedule = pickers.choose(
        "Learning rate over time",
        list(fine_tuning.SCHEDULES),
        key="schedule",
        help="Cosine: goes down smoothly to nothing, so that the last epochs settle.",
    )
    batch_size = pickers.choose(
        "Pictures a step", list(_BATCHES), key="batch_size", default=32, help="Pictures whose errors make one step."
    )
    decay = pickers.choose(
        "Weight decay",
        [0.0, 1e-4, 1e-3, 1e-2, 1e-1],
        key="weight_decay",
        default=1e-2,
        name=lambda value: f"{value:g}",
        help="Pull of the weights towards 0.",
    )
    patience = st.number_input(
        "Patience", 1, 1000, 5, key="patience", bind="query-params",
        help="Epochs without a better one on the validation pictures after which it ends.",
    )  # fmt: skip
    return {
        "augmentation": augmentation,
        "norms": norms,
        "optimiser": optimiser,
        "schedule": schedule,
        "batch_size": batch_size,
        "weight_decay": decay,
        "patience": int(patience),
    }


# ---- the course of it -----------------------------------------------------------------------------------------------


def train(model: LoadedModel, collection: Collection, split: Split, wanted: Wanted) -> FineTuned | None:
    """The training as long work: its cost first, curves while it runs; None until there is something to keep."""
    settings = {**wanted.settings, "seed": int(st.session_state["split_seed"])}
    with st.spinner("Trying what a step takes"):
        plan = compute.run(fine_tuning.plan, model, trainable=wanted.trainable, num_classes=len(split.class_names))
    seconds = plan.seconds(split, epochs=settings["epochs"], augmentation=settings["augmentation"])
    share = plan.num_trained / plan.num_parameters
    key = repr(
        (
            *("fine_tuning", compute.key(fine_tuning.train, model, None), collection.collection_id),
            *(training.revision(collection.pictures()), wanted.trainable, sorted(settings.items())),
        )
    )
    result: FineTuned | TrainingProgress | None = work.until_done(
        lambda on_step: fine_tuning.train(
            model,
            collection,
            trainable=wanted.trainable,
            validation=_VALIDATION,
            test=_TEST,
            on_step=on_step,
            **settings,
        ),
        key=key,
        name="fine_tuning",
        title="Train",
        cost=f"About {work.duration(seconds)} on this machine. {_count(plan.num_trained)} of "
        f"{_count(plan.num_parameters)} weights are trained ({format_percent(share)}); the rest stays as it is, and "
        f"{plan.kept_at} is worked out once for each picture.",
        show=_so_far,
        line=_LINE,
        right="train",
        about={
            "network": model.spec.title,
            "collection": collection.title,
            "trained": ", ".join(wanted.trainable),
            **settings,
        },
    )
    if isinstance(result, TrainingProgress):
        _being_kept(key, result)
        return None
    return result


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"


def _so_far(partial: object) -> None:
    if isinstance(partial, TrainingProgress):
        st.caption(partial.doing)
        curves(partial.history, partial.num_epochs, partial.best_epoch, partial.probe_accuracy, key="so_far")


@st.fragment(run_every=1.0)
def _being_kept(key: str, progress: TrainingProgress) -> None:
    """After a cancel: what was there, until the best of it is saved."""
    job = work.queue(_LINE).find(key)
    is_ending = job is not None and job.is_live
    if not is_ending and job is not None and job.step is not None and isinstance(job.step.partial, FineTuned):
        st.rerun()
    if is_ending:
        st.caption("The best epoch so far is being judged and kept …")
    elif not progress.history:
        st.caption("It was cancelled before there was anything to keep.")
    if progress.history:
        curves(progress.history, progress.num_epochs, progress.best_epoch, progress.probe_accuracy, key="cancelled")


def curves(
    history: Sequence[Any], num_epochs: int, best: int, probe_accuracy: float, *, key: str, run: Run | None = None
) -> None:
    """Loss and accuracy over the epochs; of a training that goes on where there is no ``run`` yet."""
    if not history:
        return
    level = None if math.isnan(probe_accuracy) else ("linear probe, validation", probe_accuracy)
    drawn: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "loss": ("loss (cross-entropy, nats)", {}),
        "accuracy": ("accuracy", {"level": level, "is_share": True}),
    }
    for column, (what, (unit, more)) in zip(st.columns(2, gap="medium"), drawn.items(), strict=True):
        series = {part: [getattr(one, f"{part}_{what}") for one in history] for part in ("training", "validation")}
        numbers = [epoch.number for epoch in history]
        chart = render.epochs_figure(numbers, series, unit=unit, num_epochs=num_epochs, best=best, **more)
        with column:
            if run is None:
                charts.so_far(chart, key=f"{key}_{what}")
            else:
                title = f"{what.capitalize()} by epoch"
                charts.draw(chart, key=f"{key}_{what}", title=title, run=run, code="result.history", is_small=True)
    st.caption(
        f"Epoch 0 is the start, with the linear probe as the head. The dotted line is the epoch that is kept: {best}."
    )
