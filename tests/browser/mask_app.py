"""Mounts the mask painter and the threshold view for the tests; ``?scene=`` says which."""

import base64
import time

import numpy as np
import streamlit as st

from cnnviz_core import render
from cnnviz_core.ui.components import mask_painter, threshold_view


@st.cache_data
def photo(width: int, height: int, seed: int = 0) -> bytes:
    """Few and smooth colours."""
    across, down = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    return render.png(np.stack([across, down, np.full_like(across, 40 * seed)], -1).astype(np.uint8))


@st.cache_data
def disc(width: int, height: int) -> np.ndarray:
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.hypot(across - 0.4 * width, down - 0.55 * height) < 0.3 * height


@st.cache_data
def score_map(seed: int, rows: int = 14, columns: int = 20) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(scale=0.08, size=(rows, columns))
    coarse = disc(20 * columns, 20 * rows).reshape(rows, 20, columns, 20).mean((1, 3))
    return (0.2 + 0.5 * coarse + noise).astype(np.float32)


def size() -> tuple[int, int]:
    width, height = st.query_params.get("size", "120x80").split("x")
    return int(width), int(height)


def counted() -> int:
    st.session_state.calls = st.session_state.get("calls", 0) + 1
    return st.session_state.calls


def painter() -> None:
    """With ``mode=back``, the page passes back what was painted; with ``slow``, runs take a while."""
    state = st.session_state
    st.button("Run again", key="again")
    if st.button("Give a mask", key="give"):
        state.given = disc(*size())
    seed = st.selectbox("Picture", [0, 1], key="seed")

    def remember(mask: np.ndarray) -> None:
        counted()
        if "back" in st.query_params:
            state.given = mask

    mask = mask_painter.show(
        photo(*size(), seed),
        key="painter",
        aria="Mark the disc",
        mask=state.get("given"),
        max_px=480,
        on_paint=remember,
    )
    covered = 0 if mask is None else int(mask.sum())
    st.caption(f"covered {covered}, calls {state.get('calls', 0)}")
    with st.container(key="told"):
        st.text(f"{covered} " + ("" if mask is None else base64.b64encode(np.packbits(mask).tobytes()).decode()))


def threshold() -> None:
    state = st.session_state
    state.setdefault("threshold", 0.5)
    st.button("Run again", key="again")
    if st.button("Set 0.3 on the server", key="set"):
        state.threshold = 0.3
    seed = st.selectbox("Scores", [0, 1], key="seed")

    def remember(value: float) -> None:
        counted()
        state.threshold = value

    width, height = size()
    returned = threshold_view.show(
        photo(width, height),
        score_map(seed),
        key="view",
        aria="The disc",
        threshold=state.threshold,
        low=-0.2,
        high=1.0,
        step=0.01,
        lut=render.find_colour_map("viridis").lut,
        marks={"honest": 0.41234567, "<b>best</b>": 0.47, "far": 3.0},
        truth=None if "blind" in st.query_params else disc(width, height),
        unit="cosine",
        max_px=500,
        on_threshold=remember,
    )
    st.caption(f"returned {returned:.6f}, session {state.threshold:.6f}, calls {state.get('calls', 0)}")


SCENES = {f.__name__: f for f in (painter, threshold)}
st.set_page_config(layout="wide")
if "slow" in st.query_params:
    time.sleep(0.4)
SCENES[st.query_params.get("scene", "painter")]()
