"""Mounts the picture map for the tests; ``?scene=`` says which."""

import numpy as np
import streamlit as st

from cnnviz_core import render
from cnnviz_core.ui.components import picture_map

NUM = 60
LABELS = ["<i>cat</i>", "dog", "ant"]


@st.cache_data
def flat_atlas(num: int) -> bytes:
    """Thumbnail i is of one colour, (4 i, 255 - 4 i, 128), so that a test can tell which one it sees."""
    levels = np.arange(num) * 4 % 256
    colours = np.stack([levels, 255 - levels, np.full(num, 128)], 1).astype(np.uint8)
    return render.thumbnail_atlas(np.broadcast_to(colours[:, None, None], (num, 16, 16, 3)).copy(), px=16)


def remember(name: str, value: object) -> None:
    st.session_state[name] = value
    st.session_state.calls = st.session_state.get("calls", 0) + 1


def show(points: np.ndarray, **more: object) -> None:
    state = st.session_state
    state.setdefault("picked", None)
    state.setdefault("selected", ())
    returned = picture_map.show(
        points,
        key="map",
        aria="Map of pictures",
        selected=state.selected,
        on_pick=lambda index: remember("picked", index),
        on_select=lambda indices: remember("selected", indices),
        **{"lit": () if state.picked is None else (state.picked,), **more},
    )
    chosen = ",".join(map(str, state.selected))
    st.caption(f"returned {returned.picked}, picked {state.picked}, selected {chosen}, calls {state.get('calls', 0)}")


def scatter() -> None:
    """Points at random; other projections and colours by widgets."""
    st.button("Run again", key="again")
    if st.button("Light 7 on the server", key="seven"):
        st.session_state.picked = 7
    if st.button("Select 1 and 2 on the server", key="two"):
        st.session_state.selected = (1, 2)
    seed = st.selectbox("Projection", [0, 1], key="seed")
    colour = st.selectbox("Colour", ["label", "number"], key="colour")
    points = np.random.default_rng(seed).uniform((-3, 10), (3, 14), (NUM, 2))
    colourings = {
        "label": lambda: picture_map.by_label([LABELS[i % 3] for i in range(NUM)], title="Animal"),
        "number": lambda: picture_map.by_value(np.arange(NUM) / NUM, title="Confidence"),
    }
    own = picture_map.Extra(0, 12, "mine.jpg", render.png(np.full((8, 8, 3), (10, 200, 30), np.uint8)))
    show(
        points,
        colouring=colourings[colour](),
        captions=[f"<b>{i}</b>.jpg\nlabel {LABELS[i % 3]}" for i in range(NUM)],
        thumbnails=flat_atlas(NUM),
        mode=st.query_params.get("mode", "points"),
        axes=("PC 1 (40 % of variance)", "PC 2 (20 % of variance)"),
        ticks=True,
        extra=[own] if "extra" in st.query_params else [],
        height=420,
    )


def grid() -> None:
    """Pictures on a grid of 8 x 8, the last four cells empty, with seams from 0 to 1."""
    at = np.arange(NUM)
    seams = None
    if "seams" in st.query_params:
        seams = (np.linspace(0, 1, 56).reshape(8, 7), np.full((7, 8), np.nan))
    show(
        np.stack([at % 8 + 0.5, at // 8 + 0.5], 1) * 3,
        cell=3.0,
        mode="thumbnails",
        thumbnails=flat_atlas(NUM),
        seams=seams,
        height=400,
    )
    st.markdown("\n\n".join(["A paragraph."] * 40))


def tabs() -> None:
    first, second = st.tabs(["First", "Second"])
    first.write("Nothing here.")
    with second:
        grid()


SCENES = {f.__name__: f for f in (scatter, grid, tabs)}
st.set_page_config(layout="wide")
SCENES[st.query_params.get("scene", "scatter")]()
