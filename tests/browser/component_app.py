"""Mounts the browser-side parts for the tests; ``?scene=`` says which."""

import io
import time

import numpy as np
import plotly.colors
import streamlit as st
from PIL import Image
from scipy import ndimage
from skimage import data

from cnnviz_core.ui.components import before_after, cleared, heat_view, tiles


@st.cache_data
def lut() -> np.ndarray:
    """255 levels, and the colour of missing values, which heat_view must not use."""
    colours = plotly.colors.sample_colorscale("Viridis", 255, colortype="tuple")
    return np.round(255 * np.array([*colours, (1, 0, 1)])).astype(np.uint8)


@st.cache_data
def photo(width: int = 224, height: int = 224) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(data.chelsea()[:300, 80:380]).resize((width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@st.cache_data
def feature_maps(num: int, size: int) -> np.ndarray:
    """(num, size, size) filtered photos, 0..1, so that a wall looks like one."""
    grey = np.asarray(Image.open(io.BytesIO(photo())).convert("L").resize((size, size)), dtype=np.float32)
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(num, 3, 3))
    kernels -= kernels.mean((1, 2), keepdims=True) * rng.choice([1, 0.8], size=(num, 1, 1))
    maps = np.stack([np.maximum(ndimage.convolve(grey, kernel), 0) for kernel in kernels])
    return maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-6)


@st.cache_data
def atlas(num: int, size: int = 56, columns: int = 16) -> bytes:
    rows = -(-num // columns)
    sheet = np.zeros((rows * size, columns * size), np.uint8)
    for index, plane in enumerate(feature_maps(num, size)):
        row, column = divmod(index, columns)
        sheet[row * size : (row + 1) * size, column * size : (column + 1) * size] = np.round(255 * plane)
    picture = Image.fromarray(sheet, "P")
    picture.putpalette(lut().ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@st.cache_data
def flat_atlas(num: int, columns: int, size: int = 8) -> bytes:
    """Tile i has the colour (i, 255 - i, 128), so that a test can tell which tile it sees."""
    rows = -(-num // columns)
    index = np.arange(rows * columns).reshape(rows, columns) % 256
    colours = np.stack([index, 255 - index, np.full_like(index, 128)], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours.repeat(size, 0).repeat(size, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def wall() -> None:
    st.session_state.setdefault("channel", 3)
    if st.button("Select 7 on the server", key="seven"):
        st.session_state.channel = 7

    def remember(index: int) -> None:
        st.session_state.channel = index
        st.session_state.calls = st.session_state.get("calls", 0) + 1

    st.button("Run again", key="again")
    num = st.selectbox("Tiles", [64, 8, 200], key="num")
    clicked = tiles.show(
        atlas(num),
        num=num,
        tile_size=(56, 56),
        atlas_columns=16,
        key="wall",
        selected=min(st.session_state.channel, num - 1),
        hints=[f"Channel {i}\nmean {i / 7:.3f}, peak {i * 1.5:.1f}" for i in range(num)],
        labels=[str(i) for i in range(num)] if st.toggle("Labels", key="labelled") else None,
        max_height=400,
        aria="Feature maps",
        on_select=remember,
    )
    calls = st.session_state.get("calls", 0)
    st.caption(f"returned {clicked}, session {st.session_state.channel}, calls {calls}")
    with st.sidebar:
        names = ["chelsea", "coffee", "a very long name of a photo", "<b>rocket</b>"] * 3
        picked = tiles.show(
            flat_atlas(12, 4),
            num=12,
            tile_size=(8, 8),
            atlas_columns=4,
            key="picker",
            selected=st.session_state.get("picker_choice", 0),
            labels=names,
            hints=names,
            tile_px=72,
            max_height=320,
            aria="Photos",
            on_select=lambda index: st.session_state.update(picker_choice=index),
        )
        st.caption(f"picked {picked}")


def refusing() -> None:
    """A page that stays with tile 3 whatever is clicked."""
    clicked = tiles.show(
        flat_atlas(40, 10), num=40, tile_size=(8, 8), atlas_columns=10, key="wall", selected=3, aria="Tiles"
    )
    st.caption(f"returned {clicked}")


def flat() -> None:
    """A wall whose tiles a test can tell by colour, below a long text."""
    st.markdown("\n\n".join(["A paragraph."] * int(st.query_params.get("lines", "0"))))
    clicked = tiles.show(
        flat_atlas(200, 20),
        num=200,
        tile_size=(8, 8),
        atlas_columns=20,
        key="wall",
        selected=st.session_state.get("tile"),
        hints=[f"tile {i}" for i in range(200)],
        tile_px=40,
        max_height=300,
        aria="Tiles",
        on_select=lambda index: st.session_state.update(tile=index),
    )
    st.caption(f"returned {clicked}")


def shrunk() -> None:
    """Tiles shown at a fraction of their size, and one far down that is selected from the start."""
    tiles.show(
        flat_atlas(200, 20, size=64),
        num=200,
        tile_size=(64, 64),
        atlas_columns=20,
        key="wall",
        selected=190,
        tile_px=24,
        max_height=90,
        aria="Tiles",
    )


def tabs() -> None:
    first, second = st.tabs(["First", "Second"])
    first.write("Nothing here.")
    with second:
        flat()


def thousand() -> None:
    tiles.show(
        atlas(1024, columns=32),
        num=1024,
        tile_size=(56, 56),
        atlas_columns=32,
        key="wall",
        selected=None,
        max_height=None,
        aria="Feature maps",
    )


def heat() -> None:
    st.session_state.setdefault("cell", None)
    st.button("Run again", key="again")
    if st.button("Pin 1, 2 on the server", key="pin"):
        st.session_state.cell = (1, 2)
    seed = st.selectbox("Map", [0, 1, 2], key="seed")
    smooth = st.toggle("Smooth", key="smooth")
    values = np.random.default_rng(seed).normal(size=(7, 9)).astype(np.float32)
    values[6, 8] = values[1, 3] = np.nan
    left, right = st.columns([3, 2])
    with left:
        cell = heat_view.show(
            photo(288, 224),
            values,
            key="heat",
            low=-1.0,
            high=2.0,
            lut=lut(),
            unit="activation",
            smooth=smooth,
            cell=st.session_state.cell,
            clickable=True,
            aria="Activation of one channel",
            on_cell=lambda cell: st.session_state.update(cell=cell),
        )
    st.caption(f"returned {cell}, session {st.session_state.cell}")
    with right:
        heat_view.show(photo(), None, key="plain", max_px=300, aria="The photo")
        heat_view.show(
            photo(120, 240),
            np.full((8, 4), np.nan, np.float32),
            key="cells",
            lut=lut(),
            clickable=True,
            max_px=240,
            aria="Pick a place",
        )


def windows() -> None:
    """A map of 2 x 4 cells on a grey picture of 400 x 200 px, once in its middle, once beyond its upper left corner."""
    buffer = io.BytesIO()
    Image.new("RGB", (400, 200), (200, 200, 200)).save(buffer, "PNG")
    for key, window in {"middle": (0.25, 0.25, 0.75, 0.75), "corner": (-0.5, -0.25, 0.5, 0.75)}.items():
        heat_view.show(
            buffer.getvalue(),
            np.arange(8, dtype=np.float32).reshape(2, 4),
            key=key,
            high=7.0,
            lut=lut(),
            opacity=1.0,
            drawable=True,
            boxes={"yours": st.session_state[f"{key}_box"]} if f"{key}_box" in st.session_state else {},
            window=window,
            max_px=400,
            aria=key,
            on_box=lambda box, key=key: st.session_state.update({f"{key}_box": box}),
        )
        st.caption(f"{key}: {st.session_state.get(f'{key}_box')}")


def gallery() -> None:
    """For looking at."""
    names = ["astronaut", "chelsea", "coffee", "rocket", "a rather long file name.jpg"]
    photos = [Image.fromarray(getattr(data, name if len(name) < 12 else "retina")()).resize((96, 96)) for name in names]
    sheet = Image.new("RGB", (96 * len(photos), 96))
    for index, picture in enumerate(photos):
        sheet.paste(picture, (96 * index, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    with st.sidebar:
        st.markdown("**Photo**")
        tiles.show(
            buffer.getvalue(),
            num=5,
            tile_size=(96, 96),
            atlas_columns=5,
            key="photos",
            selected=1,
            labels=names,
            hints=names,
            aria="Photos",
        )
    left, right = st.columns(2)
    maps = feature_maps(3, 14).astype(np.float32)
    with left:
        heat_view.show(
            photo(), maps[0], key="nearest", low=0.0, high=0.8, lut=lut(), unit="activation", clickable=True, aria="Map"
        )
    with right:
        heat_view.show(
            photo(), maps[0], key="bilinear", high=1.0, lut=lut(), unit="cosine similarity", smooth=True, aria="Map"
        )


def compared() -> None:
    """Black against red or, after a click, against green."""
    colours = (0, 0, 0), (0, 255, 0) if st.button("Other", key="other") else (255, 0, 0)
    before, after = (io.BytesIO() for _ in colours)
    for buffer, colour in zip((before, after), colours, strict=True):
        Image.new("RGB", (320, 200), colour).save(buffer, "PNG")
    names = "the photo", "the dream"
    before_after.show(key="pair", before=before.getvalue(), after=after.getvalue(), names=names, aria="Edge")


def emptied() -> None:
    """Runs again by itself; tells how often it ran, and for how many of these runs the one before had ended."""
    st.session_state.runs = runs = st.session_state.get("runs", 0) + 1
    st.session_state.ended = ended = st.session_state.get("ended", 0) + ("is_running" not in st.session_state)
    st.session_state.is_running = True
    cleared.then_run(key="cleared")
    time.sleep(0.5)
    st.caption(f"runs {runs}, {ended} after the end of the one before")
    del st.session_state.is_running


SCENES = {
    f.__name__: f for f in (wall, refusing, flat, shrunk, tabs, thousand, heat, windows, gallery, compared, emptied)
}
st.set_page_config(layout="wide")
SCENES[st.query_params.get("scene", "wall")]()
