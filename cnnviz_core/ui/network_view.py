"""The parts of the page of networks: the catalogue, adding a checkpoint of one's own, and those kept here."""

from __future__ import annotations

from typing import Any

import streamlit as st

from cnnviz_core import catalogue, checkpoints, journal, settings, store
from cnnviz_core.catalogue import Entry, WeightsPlace
from cnnviz_core.errors import CnnvizError
from cnnviz_core.ui import access, compute, frame

_PLACES = {
    WeightsPlace.BUNDLED: "ready (package)",
    WeightsPlace.LOCAL: "ready (downloaded)",
    WeightsPlace.REMOTE: "to be downloaded",
    WeightsPlace.NONE: "none published",
}
_MOST_ROWS = 200
_LARGEST_LIST_MB = 5
_MOST_COUNTED = 12  # networks are built, without weights, to count their parameters


def search() -> None:
    """The catalogue as a table; choosing a row chooses the network."""
    text = st.text_input(
        "Search", key="search", bind="query-params", placeholder="resnet, densenet121, mobilenet, convnext tiny ..."
    )
    found = catalogue.search(text, _MOST_ROWS) if text else catalogue.entries()[:_MOST_ROWS]
    total = len(catalogue.entries())
    st.caption(
        f"{len(found)} of {total:,} networks. Choose a row to use the network on all pages; nothing is fetched yet."
    )

    if not found:
        st.info("No network has all of these words in its name; try fewer or shorter ones.")
        return

    def use() -> None:
        rows = st.session_state["catalogue"]["selection"]["rows"]
        if rows:
            st.session_state["model"] = found[rows[0]].model_id

    st.dataframe(
        _table(found),
        key="catalogue",
        on_select=use,
        selection_mode="single-row",
        hide_index=True,
        height="auto",
        placeholder="",  # what is not known is left empty
        column_config={
            "Top-1 (%)": st.column_config.NumberColumn(
                help="Published ImageNet accuracy, where its library states it."
            ),
            "Input (px)": st.column_config.TextColumn(help="Size of the pictures that it was made for."),
        },
    )


def _table(found: list[Entry]) -> dict[str, list[Any]]:
    counts = [
        entry.num_params or (catalogue.num_params(entry.model_id) if len(found) <= _MOST_COUNTED else None)
        for entry in found
    ]
    return {
        "Network": [entry.title for entry in found],
        "Id": [entry.model_id for entry in found],
        "Family": [entry.family for entry in found],
        "Weights": [_PLACES[entry.weights] for entry in found],
        "Parameters (M)": [count and round(count / 1e6, 1) for count in counts],
        "Input (px)": [f"{entry.input_px[0]} × {entry.input_px[1]}" for entry in found],
        "Top-1 (%)": [entry.top1 for entry in found],
        "Download (MB)": [entry.download_mb and round(entry.download_mb, 1) for entry in found],
    }


def add_checkpoint() -> None:
    """The form for a checkpoint of one's own; what was filled in stays when something is wrong with it."""
    st.subheader("Add a network of your own", anchor=False)
    st.caption(
        "A weights file and the name of its architecture; no code. Files are never unpickled: .safetensors, or a "
        "state dict "
        "saved with torch.save(model.state_dict(), ...). The number of classes is read from the last layer."
    )
    if not access.may("upload"):
        st.caption(access.refusal("upload"))
        return
    with st.form("checkpoint", border=True):
        left, right = st.columns(2)
        ids = [entry.model_id for entry in catalogue.entries()]
        architecture = left.selectbox("Architecture", ids, index=None, placeholder="Type to search, e.g. resnet50")
        weights = right.file_uploader(
            "Weights file",
            type=["safetensors", "pth", "pt", "bin", "ckpt", "tar"],
            max_upload_size=settings.current().max_checkpoint_mb,
        )
        names = left.file_uploader(
            "Class names (optional)",
            type=["txt", "json"],
            max_upload_size=_LARGEST_LIST_MB,
            help="One name per line, or a JSON list; as many as the network has classes, in its order.",
        )
        with right.expander("Preprocessing, if it differs from the published one"):
            size = st.number_input("Input size (px); 0 keeps the published one", 0, 2048, 0)
            mean = st.text_input("Mean per channel, 0..1", placeholder="0.485, 0.456, 0.406")
            std = st.text_input("Standard deviation per channel", placeholder="0.229, 0.224, 0.225")
        if st.form_submit_button("Check and add", type="primary", icon=":material/add:"):
            _add(architecture, weights, names, int(size), mean, std)


def _add(architecture: str | None, weights: Any, names: Any, size: int, mean: str, std: str) -> None:
    if architecture is None or weights is None:
        frame.problem("Choose an architecture and a weights file.")
        return
    card = None
    fits = False
    try:
        access.require("upload")
        card = store.save_checkpoint(
            weights.getvalue(),
            name=weights.name,
            architecture=architecture,
            class_names=checkpoints.read_class_names(names.getvalue()) if names else (),
            preprocessing=_preprocessing(size, mean, std),
        )
        with st.spinner("Checking that it fits"):
            model = compute.model(card.checkpoint_id)
        fits = True
        journal.event("upload", kind="weights", mb=round(weights.size / 2**20, 2), digest=card.checkpoint_id[-16:])
    except CnnvizError as error:
        frame.problem(error)
        return
    finally:
        if card is not None and not fits:
            store.delete_checkpoint(card.checkpoint_id)
    st.success(f"{frame.plain(card.name)} fits {architecture} and has {model.num_classes:,} classes.")


def _preprocessing(size: int, mean: str, std: str) -> dict[str, object]:
    changes: dict[str, object] = {"input_px": (size, size)} if size else {}
    for name, text in (("mean", mean), ("std", std)):
        if text.strip():
            changes[name] = _numbers(text, name)
    return changes


def _numbers(text: str, name: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(";", ",").split(","))
    except ValueError as error:
        raise CnnvizError(f"{name} is “{text[:40]}”; write one or three numbers with commas between them.") from error


def _use(checkpoint_id: str) -> None:
    st.session_state["model"] = checkpoint_id


def kept() -> None:
    """The checkpoints on this server, with a button to remove each."""
    cards = store.checkpoints()
    if not cards:
        return
    st.subheader("Kept on this server", anchor=False)
    for card in cards:
        name, use, remove = st.columns([6, 1, 1], vertical_alignment="center")
        classes = f", {len(card.class_names)} named classes" if card.class_names else ""
        name.markdown(
            f"**{frame.plain(card.name)}**, {frame.plain(card.architecture)}{classes}  \n`{card.checkpoint_id}`"
        )
        use.button("Use it", key=f"use_{card.checkpoint_id}", on_click=_use, args=(card.checkpoint_id,))
        if not access.may("delete"):
            continue
        with remove.popover("Remove", key=f"ask_{card.checkpoint_id}"):
            st.write("It is gone for everyone on this server.")
            st.button(
                "Remove it",
                key=f"remove_{card.checkpoint_id}",
                on_click=frame.guarded(_remove),
                args=(card.checkpoint_id,),
            )


def _remove(checkpoint_id: str) -> None:
    access.require("delete")
    store.delete_checkpoint(checkpoint_id)
    compute.forget(checkpoint_id)
    journal.event("removed", kind="weights", digest=checkpoint_id[-16:])
