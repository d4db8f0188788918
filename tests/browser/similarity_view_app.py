"""Mounts the similarity view for the tests; ``?scene=`` says which."""

import numpy as np
import streamlit as st

from cnnviz_core import render
from cnnviz_core.results import Packed
from cnnviz_core.ui.components import similarity_view
from cnnviz_core.ui.components.similarity_view import Line, Origin, Pictured

GRIDS = ((4, 6), (7, 5), (3, 3))
SIZES = ((200, 300), (280, 200), (160, 160))


def pictured(at: int, cells: tuple[int, int], *, dims: int = 10, bits: int = 8, size: tuple[int, int]) -> Pictured:
    """A grey picture, and vectors at random that test_similarity_view.py draws once more."""
    values = np.random.default_rng(at).normal(size=(cells[0] * cells[1], dims))
    steps = 2 ** (bits - 1) - 1
    whole = np.round(values / np.abs(values).max(1, keepdims=True) * steps).astype(f"int{bits}")
    scales = (1 / np.linalg.norm(whole.astype(float), axis=1)).astype(np.float32)
    grey = np.full((*size, 3), 90 + 40 * (at % 3), np.uint8)
    return Pictured(render.png(grey), Packed(whole, scales, cells, 0.0034, 100), f"<b>{at}</b>")


def show(pictures: list[Pictured], **more: object) -> None:
    state = st.session_state
    state.setdefault("pinned", None)

    def remember(origin: Origin | None) -> None:
        state.pinned = origin
        state.calls = state.get("calls", 0) + 1

    returned = similarity_view.show(
        pictures,
        key="view",
        aria="Similar places",
        pinned=state.pinned,
        lut=render.find_colour_map(signed=True).lut,
        on_pin=remember,
        **more,
    )
    st.caption(f"returned {told(returned)}, session {told(state.pinned)}, calls {state.get('calls', 0)}")


def told(origin: Origin | None) -> str:
    return "nothing" if origin is None else f"{origin.picture}:{list(origin.cells)}"


def pair() -> None:
    """Two pictures of different grids; the exact values differ from the packed ones visibly."""
    st.button("Run again", key="again")
    if st.button("Pin 1:(6, 4) on the server", key="pin"):
        st.session_state.pinned = Origin(1, ((6, 4),))
    first = st.selectbox("First picture", [0, 10], key="first")
    pinned = st.session_state.get("pinned")
    exact = {}
    if st.toggle("Exact", key="exact") and pinned is not None:
        other = 1 - pinned.picture
        num = np.prod(GRIDS[other])
        exact = {other: np.linspace(-0.5, 0.5, num, dtype=np.float32).reshape(GRIDS[other])}
    show(
        [pictured(at, GRIDS[i], bits=8 * (i + 1), size=SIZES[i]) for i, at in enumerate((first, 1))],
        exact=exact,
        join=st.query_params.get("join", "mean"),
        smooth=st.toggle("Smooth", key="smooth"),
        max_px=300,
    )


def lines() -> None:
    """Three pictures; the third is no neighbour of the first."""
    matches = [
        Line((0, 1, 1), (1, 6, 4), 0.9),
        Line((0, 1, 1), (1, 0, 0), 0.5),
        Line((0, 1, 1), (2, 2, 2), 0.8),
        Line((0, 1, 1), (2, 0, 1), 0.7),
    ]
    st.session_state.setdefault("pinned", Origin(0, ((1, 1),)))
    show([pictured(i, GRIDS[i], size=SIZES[i]) for i in range(3)], lines=matches, max_px=280)


def bench() -> None:
    """As large as one likes, to measure."""
    cells, dims, num = (int(st.query_params[name]) for name in ("cells", "dims", "num"))
    pictures = [pictured(i, (cells, cells), dims=dims, size=(420, 420)) for i in range(num)]
    show(pictures, smooth=st.query_params.get("smooth") == "1")


SCENES = {f.__name__: f for f in (pair, lines, bench)}
st.set_page_config(layout="wide")
SCENES[st.query_params.get("scene", "pair")]()
