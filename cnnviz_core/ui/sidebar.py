"""The sidebar: network, picture, the network's answer, and the device that works."""

from __future__ import annotations

import streamlit as st

from cnnviz_core import catalogue, render, settings
from cnnviz_core.catalogue import WeightsPlace
from cnnviz_core.errors import CnnvizError
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import access, compute, frame, person, pickers, screen, work
from cnnviz_core.ui.pickers import Selection


def draw() -> Selection | None:
    """Draws the sidebar. Returns what is chosen; None while the network's weights are not on this machine."""
    with st.sidebar:
        network, weights = pickers.network()
        pickers.image()
        screen.opener()
        answer = st.container(gap="xsmall")
        about = st.container()
        _activity()  # these two also while there is no network
        access.draw_sign_out()
    if weights == "default" and not network.startswith("checkpoint/") and not catalogue.find(network).ready:
        _offer_download(network)
        return None
    selection = current()
    with answer:
        if selection.model.num_classes:
            pickers.target(selection.model, compute.run(LoadedModel.predict, selection.model, selection.image, k=5))
        else:
            st.info("This network has no classifier, so it gives no answer and no class can be explained.")
    with about:
        _about(selection.model)
    return selection


def leave_out() -> None:
    """Keeps what was chosen in the sidebar for the pages that have one."""
    for key in ("model", "weights", "image", "target"):
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]  # else Streamlit forgets what is not drawn


def current() -> Selection:
    """What is chosen in the sidebar, in this run or, within a fragment, the last one."""
    network, weights = st.session_state["model"], st.session_state.get("weights", "published")
    image_id, target = st.session_state["image"], st.session_state.get("target", pickers.FIRST_ANSWER)
    is_default = weights == "published" or network.startswith("checkpoint/")
    with st.spinner("Loading the network", show_time=True):
        model = compute.model(network, "default" if is_default else "random:0")
    return Selection(
        model=model,
        image=compute.photo(image_id),
        image_id=image_id,
        target=target if 0 <= target < model.num_classes else None,
    )


def _about(model: LoadedModel) -> None:
    device = {"cpu": "the CPU", "cuda": "the GPU (CUDA)", "mps": "the GPU (Apple)"}.get(model.device.type, "a GPU")
    if not model.spec.is_trained:
        st.warning("Untrained: random weights. Nothing it answers was learned.", icon=":material/warning:")
    millions = render.format_value(model.anatomy.num_params / 1e6)
    st.caption(f"{millions} million parameters · computing on {device}")


def _activity() -> None:
    """The way to one's jobs, with how many there were before this run; always there, so that nothing moves."""
    num = sum(person.me() in job.owners for _, job in work.live())
    words = f"Activity · {num} at work" if num else "Activity"
    st.page_link("pages/manage/activity.py", label=words, icon=":material/pending_actions:")


def _offer_download(network: str) -> None:
    entry = catalogue.find(network)
    if entry.weights is WeightsPlace.NONE:
        st.info(
            f"No weights were ever published for {entry.title}. Set Weights to “untrained” in the sidebar, or choose "
            "another network.",
            icon=":material/cloud_off:",
        )
        return
    size = f"{entry.download_mb:.0f} MB" if entry.download_mb else "size not published"
    st.info(
        f"The published weights of {entry.title} are not on this machine. Nothing is fetched unless you ask. You "
        "can also "
        "set Weights to “untrained” in the sidebar, or choose a network that is ready.",
        icon=":material/cloud_download:",
    )
    if not settings.current().allow_downloads:
        st.caption("Downloads are switched off on this server (CNNVIZ_ALLOW_DOWNLOADS).")
    elif not access.may("download"):
        st.caption(access.refusal("download"))
    elif st.button(f"Download the weights ({size})", key="download_weights", type="primary"):
        _download(network)


def _download(network: str) -> None:
    bar = st.progress(0.0, text="Connecting")
    cancel = st.empty()
    cancel.button("Cancel", key="cancel_download")  # any click ends this run at its next step

    def on_step(done: int, total: int | None) -> None:
        share = min(1.0, done / total) if total else 0.0
        bar.progress(share, text=f"{done / 2**20:.0f} MB" + (f" of {total / 2**20:.0f} MB" if total else ""))

    try:
        access.require("download")
        catalogue.download(network, on_step=on_step)
    except CnnvizError as error:
        bar.empty()
        cancel.empty()
        frame.problem(error)
        return
    st.rerun()
