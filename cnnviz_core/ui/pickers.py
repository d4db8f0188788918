"""What the person chose, the same on all pages and in the link: network, picture, target class, layer, channel."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import streamlit as st
from PIL import ImageOps

from cnnviz_core import catalogue, journal, photos, render, settings, store
from cnnviz_core.errors import CnnvizError, NotApplicable, did_you_mean
from cnnviz_core.images import InputImage, Pixels, open_image
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Predictions
from cnnviz_core.ui import access, compute, frame
from cnnviz_core.ui.components import tiles

T = TypeVar("T")

_STORED = re.compile(r"\(([0-9a-f]{16})\)$")
_THUMBNAIL_PX = 56
_DIGEST_LETTERS, _TELLING_LETTERS = 16, 4
# Layers that put out what came in: many, and nothing new to see.
PASS_ON = ("Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth")
FIRST_ANSWER = -1  # the target that is whatever the network answers first
_LARGEST_UPLOAD_MB = 100


@dataclass(frozen=True)
class Selection:
    """What the sidebar says.

    Attributes:
        model: The network.
        image: The picture.
        image_id: Bundled photo's id or uploaded picture's short digest.
        target: Class to explain; None is the most probable one.
    """

    model: LoadedModel
    image: InputImage
    image_id: str
    target: int | None


def choose(
    label: str,
    options: Sequence[T],
    *,
    key: str,
    default: T | None = None,
    name: Callable[[T], str] = str,
    help: str | None = None,  # noqa: A002 - Streamlit's word
    of: str = "",
    **widget: object,
) -> T:
    """A select box whose value is part of the link.

    A link that names something which is not on offer gets a sentence saying so, and the default is shown.

    Args:
        label: What is chosen.
        options: What is on offer, at least one.
        key: Name in the link.
        default: What is chosen at first; None takes the first option.
        name: How an option is called on screen and in the link.
        help: Tooltip.
        of: What the default depends on; when that changes, the default is chosen again.
        **widget: Further arguments of ``st.selectbox``.
    """
    check_link(label, [name(option) for option in options], key)
    first = default if default in options else options[0]
    start_again(key, of, first)
    _leave_other_page(key, first)
    index = options.index(first)
    chosen: T = st.selectbox(  # type: ignore[call-overload]
        label, options, index=index, format_func=name, key=key, help=help, bind="query-params", **widget
    )
    return chosen


def start_again(key: str, of: str, default: object) -> None:
    """Sets a widget back to its default where what that depends on is another than in the run before."""
    if st.session_state.get(f"{key}_of", of) != of:
        st.session_state[key] = default
    st.session_state[f"{key}_of"] = of


def _leave_other_page(key: str, default: object) -> None:
    """Sets a widget that two pages share to the default of this one where nobody chose another value on the last."""
    before = st.session_state.get(f"{key}_default", ("", default))
    here = frame.page().path
    if before[0] != here and before[1] != default and st.session_state.get(key) == before[1]:
        st.session_state[key] = default
    st.session_state[f"{key}_default"] = here, default


def check_link(label: str, names: Sequence[str], key: str) -> None:
    """Says once per session if the link names something that is not on offer."""
    checked = st.session_state.setdefault("checked_links", set())
    wanted = st.query_params.get_all(key)
    missing = [one for one in wanted if one not in names]
    if key not in checked and missing:
        instead = "the default is shown instead" if missing == wanted else "the others are shown"
        frame.notice(
            f"The link asks for {label.lower()} “{missing[0][:80]}”, which is not on offer here; {instead}."
            f"{did_you_mean(missing[0], names)}"
        )
    checked.add(key)


def network() -> tuple[str, str]:
    """Draws the network picker. Returns the catalogue or checkpoint id, and the weights."""
    names = checkpoint_names()
    options = [*names, *(entry.model_id for entry in catalogue.entries())]
    linked = st.query_params.get("model", "")
    network = linked.rpartition(" · ")[2]
    if network in names and _told_apart(network, names[network]).endswith(linked):
        names[network] = linked  # by its id alone, or as it was called before: a link's widget is called as there
    if st.session_state.get("model", catalogue.DEFAULT_MODEL) not in options:
        frame.notice(f"{st.session_state['model']} is no longer on this server; the default network is shown.")
        del st.session_state["model"]
    chosen = choose(
        "Network",
        options,
        key="model",
        default=catalogue.DEFAULT_MODEL,
        name=lambda network: names.get(network, network),
        filter_mode="contains",
        help="Type to search all networks of timm and torchvision, and the checkpoints uploaded here. Those that are "
        "ready on this machine come first.",
    )
    weights = st.segmented_control(
        "Weights",
        ["published", "untrained"],
        default="published",
        key="weights",
        required=True,
        bind="query-params",
        width="stretch",
        disabled=chosen in names,
        help="Published weights come from training. Untrained ones are a random draw, to see what training has "
        "changed: a network that looks the same without training shows its architecture, not what it learned.",
    )
    return chosen, "default" if weights == "published" or chosen in names else "random:0"


def several(
    label: str,
    options: Sequence[T],
    *,
    key: str,
    default: Sequence[T],
    name: Callable[[T], str] = str,
    help: str | None = None,  # noqa: A002 - Streamlit's word
    of: str = "",
    most: int = 12,
    **widget: object,
) -> list[T]:
    """A choice of some, part of the link; what a link names and is not on offer is left out.

    Args:
        label: What is chosen.
        options: What is on offer.
        key: Name in the link.
        default: What is chosen at first, and again where nothing is.
        name: How an option is called on screen and in the link.
        help: Tooltip.
        of: As in :func:`choose`.
        most: How many at a time.
        **widget: Further arguments of ``st.multiselect``.
    """
    check_link(label, [name(option) for option in options], key)
    start_again(key, of, list(default))
    _leave_other_page(key, list(default))
    kept = [option for option in st.session_state.get(key, default) if option in options][:most]
    if key in st.session_state and kept != st.session_state[key]:
        st.session_state[key] = kept
    chosen: list[T] = st.multiselect(  # type: ignore[call-overload]
        label,
        options,
        default=list(default)[:most],
        format_func=name,
        key=key,
        help=help,
        bind="query-params",
        max_selections=most,
        wrap=True,  # else a row of controls hides what is chosen
        **widget,
    )
    return chosen or list(default)


def several_classes(chosen: Selection, *, most: int) -> list[int]:
    """Some of a network's classes by name; at first its two best answers to the picture, or the class to explain."""
    model = chosen.model
    best = compute.run(LoadedModel.predict, model, chosen.image, k=2).indices
    first = list(best) if chosen.target is None else [chosen.target]
    return several(
        "Classes",
        list(range(model.num_classes)),
        key="classes",
        default=first,
        name=lambda index: f"{index} {model.class_names[index]}",
        of=f"{model.spec.title} {first}",
        most=most,
        help="Type to search. At first: what the network takes the picture for.",
    )


def network_name(network: str, title: str) -> str:
    """What a network is called in pickers and in links: its title for people, its id against those of equal title."""
    return f"{title} · {network}"


def checkpoint_names() -> dict[str, str]:
    """Ids of the checkpoints that this server keeps, and what they are called in pickers."""
    cards = store.checkpoints()
    names = {card.checkpoint_id: network_name(card.checkpoint_id, card.name) for card in cards}
    num = Counter(card.name for card in cards)
    shared = {card.checkpoint_id for card in cards if num[card.name] > 1}
    return {network: _told_apart(network, name) if network in shared else name for network, name in names.items()}


def _told_apart(network: str, name: str) -> str:
    """The name after a part of the digest, at which the id ends: a narrow sidebar cuts the end of a name off."""
    part = network[-_DIGEST_LETTERS:][:_TELLING_LETTERS]
    return name if name.startswith(f"{part} · ") else f"{part} · {name}"


def ready_networks() -> dict[str, str]:
    """Catalogue and checkpoint ids whose weights are on this machine, and what they are called in pickers."""
    return checkpoint_names() | {entry.model_id: entry.model_id for entry in catalogue.entries() if entry.ready}


def image() -> str:
    """Draws the picture picker. Returns the id: a bundled photo's, or an uploaded picture's short digest."""
    mine: dict[str, str] = st.session_state.setdefault("my_pictures", {})
    linked = _STORED.search(st.query_params.get("image", ""))
    if linked:
        mine.setdefault(linked[1], st.query_params["image"][: linked.start()].strip()[:80])
    names = {photo_id: photo.title for photo_id, photo in photos.PHOTOS.items()}
    names |= {digest: f"{name} ({digest})" for digest, name in mine.items()}
    thumbnails = _thumbnails_of(names)
    names = {image_id: names[image_id] for image_id in thumbnails}
    if st.session_state.get("image") not in thumbnails:
        st.session_state.pop("image", None)
    chosen = choose("Picture", list(names), key="image", name=lambda image_id: names[image_id])
    _thumbnail_wall(names, list(thumbnails.values()), chosen)
    with st.popover("Your own picture", icon=":material/add_photo_alternate:", width="stretch", key="own_picture"):
        _upload()
    if problem := st.session_state.get("upload_problem"):
        frame.notice(problem)
    return chosen


def _thumbnails_of(names: Mapping[str, str]) -> dict[str, Pixels]:
    """A thumbnail for each picture that is still here; uploads that were dropped leave the session with a notice."""
    found = {}
    for image_id in names:
        try:
            found[image_id] = _thumbnail(image_id)
        except CnnvizError as error:
            st.session_state["my_pictures"].pop(image_id)
            st.session_state.setdefault("checked_links", set()).add("image")
            frame.notice(str(error))
    return found


@st.cache_data(max_entries=500, show_spinner=False)
def _thumbnail(image_id: str) -> Pixels:
    side = 2 * _THUMBNAIL_PX
    return np.asarray(ImageOps.fit(compute.photo(image_id).pil(), (side, side)))


def _thumbnail_wall(names: dict[str, str], thumbnails: list[Pixels], chosen: str) -> None:
    image_ids = list(names)
    atlas = render.rgb_mosaic(np.stack(thumbnails), tile_px=2 * _THUMBNAIL_PX)

    def select(index: int) -> None:
        st.session_state["image"] = image_ids[index]
        st.session_state["upload_problem"] = ""

    tiles.show(
        atlas.png,
        num=atlas.num,
        tile_size=atlas.tile_size,
        atlas_columns=atlas.columns,
        key="thumbnails",
        selected=image_ids.index(chosen),
        hints=list(names.values()),
        tile_px=_THUMBNAIL_PX,
        smooth=True,
        aria="Pictures",
        on_select=select,
    )


def _upload() -> None:
    if not access.may("upload"):
        st.caption(access.refusal("upload"))
        return
    st.file_uploader(
        "Picture file",
        type=["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"],
        key="upload",
        max_upload_size=_LARGEST_UPLOAD_MB,
        on_change=_take,
        args=("upload", ""),
        help=f"Up to {settings.current().max_image_megapixels} megapixels. It is kept on this server for your links.",
    )
    if st.toggle("Use the camera", key="use_camera"):
        st.camera_input(
            "Camera", key="camera", on_change=_take, args=("camera", "camera picture"), label_visibility="collapsed"
        )


def _take(key: str, name: str) -> None:
    """Decodes, keeps and shows an uploaded file; a bad one changes nothing that was chosen."""
    st.session_state["upload_problem"] = ""
    file = st.session_state[key]
    if file is None:
        return
    try:
        access.require("upload")
        picture = open_image(file.getvalue(), name=name or file.name)
        digest = store.save_picture(picture)
    except CnnvizError as error:
        st.session_state["upload_problem"] = str(error)
        return
    journal.event("upload", kind="picture", mb=round(file.size / 2**20, 2), digest=digest)
    st.session_state["my_pictures"][digest] = picture.name
    st.session_state["image"] = digest


def target(model: LoadedModel, predictions: Predictions) -> int:
    """Draws the network's answer as buttons that set the target, and a search over all classes."""

    def aim(index: int) -> None:
        st.session_state["target"] = index

    st.caption("The network’s answer. Click one to make it the class to explain.")
    for place, index in enumerate(predictions.indices):
        probability = predictions.probabilities[place]
        with st.container(key=f"answer_{place}", gap=None):
            st.button(
                f"{frame.plain(predictions.labels[place])}\u2002**{100 * probability:.1f} %**",
                key=f"aim_{place}",
                on_click=aim,
                args=(index,),
                width="stretch",
                type="primary" if st.session_state.get("target") == index else "tertiary",
            )
            st.progress(probability)

    def class_name(index: int) -> str:
        return "the network’s first answer" if index == FIRST_ANSWER else f"{index} {model.class_names[index]}"

    _forget_other_target(class_name, model.num_classes)
    chosen: int = choose(
        "Class to explain",
        [FIRST_ANSWER, *range(model.num_classes)],
        key="target",
        name=class_name,
        help="The class that pages explaining a decision start from. Type to search all classes.",
    )
    st.session_state["target_name"] = class_name(chosen)
    return chosen


def _forget_other_target(class_name: Callable[[int], str], num_classes: int) -> None:
    """Drops a target that is another class, or none, in the network that was chosen since."""
    target, name = st.session_state.get("target", FIRST_ANSWER), st.session_state.get("target_name")
    known = (None, class_name(FIRST_ANSWER))
    if target != FIRST_ANSWER and (target >= num_classes or name not in (class_name(target), *known)):
        st.session_state["target"] = FIRST_ANSWER


def layer(model: LoadedModel, *, default: str, key: str = "layer", layers: Sequence[LayerInfo] | None = None) -> str:
    """A layer, by depth or by search over all names."""
    offered = model.layers.spatial if layers is None else layers
    if not offered:
        raise NotApplicable(f"{model.spec.title} has no layer to choose here.")
    wanted = (default, st.query_params.get(key), st.session_state.get(key))
    names = [info.name for info in offered if info.kind not in PASS_ON or info.name in wanted]
    return choose(
        "Layer",
        names,
        key=key,
        default=default,
        help=f"Any of {len(names)} layers; type to search. Names are the network’s own.",
    )


def layer_by_depth(model: LoadedModel, *, default: str) -> str:
    """A layer: its depth by one click, or any by search."""
    stages = {f"{stage.cells[0]} × {stage.cells[1]}": stage for stage in model.layers.stages}
    row = st.container(horizontal=True, vertical_alignment="bottom")
    depth, names = row.container(width="content"), row.container(width=320)
    with names:
        name = layer(model, default=default)
    cells = model.layers[name].cells or (1, 1)
    st.session_state["depth"] = f"{cells[0]} × {cells[1]}"

    def go() -> None:
        if st.session_state["depth"]:
            st.session_state["layer"] = stages[st.session_state["depth"]].representative

    with depth:
        st.segmented_control(
            "Depth",
            list(stages),
            key="depth",
            on_change=go,
            required=True,
            help="Cells of the map, from early (fine) to late (coarse) layers.",
        )
    return name


def call(info: LayerInfo) -> int:
    """Which call of a layer that the network uses several times."""
    if info.num_calls == 1:
        return 0
    return int(
        st.number_input(
            f"Use of the layer, 0 to {info.num_calls - 1}",
            0,
            info.num_calls - 1,
            info.num_calls - 1,
            key="call",
            bind="query-params",
            help="The network uses this layer several times in one forward; each use has maps of its own.",
        )
    )


def number(label: str, count: int, *, key: str, default: int, of: str) -> int:
    """A channel or kernel by number, 0 to count - 1; a click on a wall of the same key sets it, too.

    Args:
        label: What is chosen.
        count: How many there are.
        key: Name in the link.
        default: The number until another is chosen, and again whenever ``of`` changes.
        of: The layer that the number belongs to; in another layer it would mean something else.
    """
    is_other_layer = st.session_state.get(f"{key}_of", of) != of
    if key in st.session_state:
        current = st.session_state[key]
        is_chosen = current is not None and current < count and current != st.session_state.get(f"{key}_default")
    else:
        is_chosen = _link_has_number(label, key, count)
    if is_other_layer or not is_chosen:
        st.session_state[key] = st.session_state[f"{key}_default"] = default
    st.session_state[f"{key}_of"] = of
    chosen = st.number_input(
        label,
        0,
        count - 1,
        None,  # so that the link always names the number, also one that nobody chose
        key=key,
        bind=None if key in st.session_state.get("unbound", ()) else "query-params",
        help="Click a tile, move on the wall with the arrow keys, or type a number.",
    )
    return default if chosen is None else int(chosen)


def _link_has_number(label: str, key: str, count: int) -> bool:
    """Whether the link gives a number that is on offer; nonsense is dropped with a notice."""
    text = st.query_params.get(key)
    if text is None or (text.isdecimal() and len(text) < 9 and int(text) < count):
        return text is not None
    # Streamlit fails on an infinite number that it binds, so the nonsense of this link stays unbound in this session.
    st.session_state["unbound"] = {*st.session_state.get("unbound", ()), key}
    frame.notice(f"The link asks for {key} “{text[:40]}”; {label} is on offer. The default is shown instead.")
    return False


@dataclass(frozen=True)
class Colours:
    """How values become colours on a page.

    Attributes:
        mode: "channel", "layer" or "fixed".
        clip_percent: Share of the values beyond each limit.
        colour_map: Name for values from 0 up; signed values take a diverging map.
        limits: (low, high), if fixed.
    """

    mode: Literal["channel", "layer", "fixed"]
    clip_percent: float
    colour_map: str
    limits: tuple[float, float] | None

    def scale(self, values: FloatArray) -> render.Scale:
        """Colour limits for maps (C, h, w) or one map (h, w)."""
        low, high = self.limits or (None, None)
        return render.scale_of(values, mode=self.mode, clip_percent=self.clip_percent, low=low, high=high)

    def map_for(self, scale: render.Scale) -> str | None:
        """The chosen map; None, for the diverging default, where values have a sign."""
        return None if scale.signed else self.colour_map


_MODES: dict[Literal["channel", "layer", "fixed"], str] = {
    "channel": "each channel by itself",
    "layer": "the whole layer",
    "fixed": "a fixed range",
}


def colours() -> Colours:
    """Colour settings, in a popover."""
    with st.popover("Colours", icon=":material/palette:"):
        mode = choose(
            "Brightness by",
            list(_MODES),
            key="brightness",
            name=lambda mode: _MODES[mode],
            help="By itself, each map uses all colours, so shapes are seen best. By the whole layer or a fixed "
            "range, maps "
            "can be compared: a dark one is weak.",
        )
        clip = st.select_slider(
            "Clip the strongest values",
            [0, 1, 2, 5],
            key="clip",
            bind="query-params",
            format_func=lambda percent: f"{percent} %",
            help="Per cent of the values at each end that share the last colour, so that a few do not darken the rest.",
        )
        sequential = [name for name, found in render.COLOUR_MAPS.items() if not found.signed]
        colour_map = choose(
            "Colour map",
            sequential,
            key="colours",
            default=render.DEFAULT_SEQUENTIAL,
            name=lambda name: render.COLOUR_MAPS[name].title,
            help="All are even steps for the eye and safe for colour-blind readers. Maps with negative values "
            "always take "
            "a two-sided one with zero in the middle.",
        )
        limits = None
        if mode == "fixed":
            low = st.number_input("From", value=0.0, key="from", bind="query-params")
            high = st.number_input("To", value=6.0, key="to", bind="query-params")
            limits = (min(low, high), max(high, low + 1e-6))
    return Colours(mode, clip, colour_map, limits)
