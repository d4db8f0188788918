"""The parts of the DeepDream page: what is to grow, the dream made live, its growing, and the way into it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import images, photos, render
from cnnviz_core.errors import BadSetting
from cnnviz_core.images import InputImage
from cnnviz_core.methods import deep_dream
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Dream, DreamZoom
from cnnviz_core.ui import charts, compute, frame, pickers, screen, show, work
from cnnviz_core.ui.components import before_after
from cnnviz_core.ui.pickers import Selection

_ALL = -1  # channels
_SIZES = (160, 224, 320, 480, 640, 800, 1024, 1280, 1600)
_USUAL_PX, _SMALLEST_PX = 640, 320
_PREVIEW = {"size_px": 256, "octaves": 4, "steps": 8}
_LIVE_PX = 480
_QUALITY = 95
_COMPARED_PX, _WORDS_PX = 600, 330
_MOST_LAYERS = 4
_HINT = "Choose a smaller size or an earlier layer"


@dataclass(frozen=True)
class Asked:
    """What is to grow, and how.

    Attributes:
        layers: One or several.
        weights: Each one's share; None for one.
        channel: The only one to grow; None for all.
        objective: Key of :data:`deep_dream.OBJECTIVES`.
        guide: The second picture; None without.
        size_px: Longer side of the result.
        octaves: Sizes to work at.
        octave_scale: From one to the next.
        steps: At each size.
        strength: Mean change of a pixel in a step.
        jitter_px: Largest shift.
        precision: Key of :data:`deep_dream.PRECISIONS`.
        seed: Of the shifts.
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...] | None
    channel: int | None
    objective: str
    guide: InputImage | None
    size_px: int
    octaves: int
    octave_scale: float
    steps: int
    strength: float
    jitter_px: int
    precision: str
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of :func:`deep_dream.dream`."""
        layer = self.layers[0] if len(self.layers) == 1 else self.layers
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "layers"}
        return {"layer": layer, **named}

    @property
    def preview(self) -> Asked:
        """The same, small and quick."""
        return replace(self, **{name: min(getattr(self, name), most) for name, most in _PREVIEW.items()})

    def seconds(self, chosen: Selection) -> float:
        """How long it will take."""
        how = {"layer": self.settings["layer"], "precision": self.precision}
        pace = compute.run(deep_dream.seconds_per_pixel, chosen.model, **how)
        sizes = {name: self.settings[name] for name in ("size_px", "octaves", "octave_scale", "steps")}
        return pace * deep_dream.num_pixels(chosen.image, **sizes)


def question(chosen: Selection) -> Asked:
    """Asks what is to grow, and how."""
    model = chosen.model
    offered = [info.name for info in model.layers.spatial if info.kind not in pickers.PASS_ON]
    default = deep_dream.default_layer(model)
    if default not in offered:
        offered.append(default)
    with frame.row():
        layers = pickers.several(
            "Layers",
            offered,
            key="dream_layers",
            default=[default],
            of=model.spec.title,
            most=_MOST_LAYERS,
            help="Early layers dream in lines and waves, middle ones in patterns and eyes, late ones in parts of "
            "animals and things. Several share each step.",
        )
        objective = pickers.choose(
            "What grows",
            list(deep_dream.OBJECTIVES),
            key="grows",
            name=lambda key: deep_dream.OBJECTIVES[key].title,
            help="  \n".join(f"**{one.title}**: {one.help}" for one in deep_dream.OBJECTIVES.values()),
        )
        needs_guide = deep_dream.OBJECTIVES[objective].needs_guide
        guide = _guide() if needs_guide else None
        channel = None
        if not needs_guide and len(layers) == 1:
            channel = _channel(layers[0], model.layers[layers[0]].num_channels)
    return _how(chosen, tuple(layers), channel, objective, guide)


def _channel(layer: str, count: int) -> int | None:
    chosen = pickers.choose(
        "Channel",
        [_ALL, *range(count)],
        key="dream_channel",
        name=lambda channel: "all channels" if channel == _ALL else str(channel),
        of=layer,
        help="All channels grow what each of them sees; one alone shows what that channel looks for. Type to search.",
    )
    return None if chosen == _ALL else chosen


def _guide() -> InputImage:
    mine: dict[str, str] = st.session_state.get("my_pictures", {})
    names = {photo_id: photo.title for photo_id, photo in photos.PHOTOS.items()}
    names |= {digest: f"{name} ({digest})" for digest, name in mine.items()}
    picked = pickers.choose(
        "Guide",
        list(names),
        key="guide",
        default="flower",
        name=lambda image_id: names[image_id],
        help="The picture whose features are to appear. Upload your own in the sidebar.",
    )
    return compute.photo(picked)


def _how(
    chosen: Selection, layers: tuple[str, ...], channel: int | None, objective: str, guide: InputImage | None
) -> Asked:
    sizes, usual = _sizes(chosen.image)
    with frame.row():
        size = pickers.choose(
            "Size, pixels",
            sizes,
            key="dream_size",
            default=usual,
            of=chosen.image.digest,
            help="Longer side of the result, up to 2 megapixels in all. Time grows with the area. On a larger picture "
            "what appears is smaller and there is more of it.",
        )
        steps = st.slider(
            "Steps at each size",
            0,
            40,
            10,
            key="dream_steps",
            bind="query-params",
            help="More steps, stronger dreams. With none, the photo stays as it is.",
        )
        strength = st.slider(
            "Strength",
            0.5,
            6.0,
            2.0,
            0.5,
            key="strength",
            bind="query-params",
            help="How much a pixel changes in one step, on average, in grey levels of 0 to 255.",
        )
        with st.popover("Settings", icon=":material/tune:", key="dream_settings"):
            octaves = st.slider(
                "Octaves",
                1,
                8,
                4,
                key="octaves",
                bind="query-params",
                help="Sizes that the picture is dreamed at, from small to large. More of them make larger shapes.",
            )
            octave_scale = st.slider(
                "Scale from octave to octave",
                1.1,
                2.0,
                1.4,
                0.1,
                key="octave_scale",
                bind="query-params",
                help="How many times larger each octave is than the one before.",
            )
            jitter = st.slider(
                "Jitter, pixels",
                0,
                64,
                32,
                key="jitter",
                bind="query-params",
                help="Largest random shift before a step, undone after it. Without it the grid of the layer’s cells "
                "shows.",
            )
            quickest = deep_dream.default_precision(chosen.model)
            pickers.start_again("half_precision", chosen.model.spec.model_id, quickest == "bfloat16")
            st.session_state.setdefault("half_precision", st.query_params.get("precision", quickest) == "bfloat16")
            is_quick = st.toggle(
                "Half precision",
                key="half_precision",
                help="Computes in bfloat16, and dreams slightly differently; for one layer. On where this computer "
                "takes half to two thirds of the time so, because its processor has matrix units for such numbers.",
            )
            seed = st.number_input(
                "Seed", 0, 9999, 0, key="dream_seed", bind="query-params", help="Of the random shifts."
            )
            weights = _weights(layers) if len(layers) > 1 else None
    precision = "bfloat16" if is_quick and len(layers) == 1 else "float32"
    screen.remember("precision", precision)  # always: the default is another on other computers
    return Asked(
        layers,
        weights,
        channel,
        objective,
        guide,
        size,
        octaves,
        octave_scale,
        steps,
        strength,
        jitter,
        precision,
        int(seed),
    )


def _weights(layers: tuple[str, ...]) -> tuple[float, ...]:
    weights = tuple(
        st.slider(
            f"Weight of {frame.plain(layer)}",
            0.0,
            1.0,
            1.0,
            0.05,
            key=f"weight_{at}",
            bind="query-params",
            help="Its share of each step, compared with the other layers.",
        )
        for at, layer in enumerate(layers)
    )
    return weights if any(weights) else (1.0,) * len(layers)


def _sizes(image: InputImage) -> tuple[list[int], int]:
    """Longer sides on offer, and the one at first: near the photo's own, since nothing is gained by enlarging it."""
    own, largest = max(image.height, image.width), max(deep_dream.at_size(image, None).shape)
    known = {size for size in _SIZES if size <= max(own, _SMALLEST_PX)} | {largest}
    sizes = sorted(size for size in known if size >= _SIZES[0] and _fits(image, size))
    return sizes, max(size for size in sizes if size <= _USUAL_PX or size == sizes[0])


def _fits(image: InputImage, size_px: int) -> bool:
    try:
        deep_dream.at_size(image, size_px)
    except BadSetting:
        return False
    return True


def find(chosen: Selection, asked: Asked) -> Dream | None:
    """The dream: a small one at once, the asked one on demand, both live."""
    quick = asked.preview

    def draw_one(one: Asked, *, name: str, title: str, at_once: bool | None) -> Dream | None:
        found: Dream | None = work.run(
            deep_dream.dream,
            chosen,
            name=name,
            title=title,
            cost=f"{one.octaves * one.steps} steps, the last at {one.size_px} pixels: about "
            f"{work.duration(one.seconds(chosen))}.",
            show=partial(_so_far, key=f"{name}_so_far"),
            hint=_HINT,
            at_once=at_once,
            **one.settings,
        )
        return found

    return work.asked_or_quick(
        draw_one,
        asked,
        quick,
        name="dream",
        title="Dream",
        quick_title="Quick dream",
        below=f"a quick, small dream of {quick.octaves * quick.steps} steps at {quick.size_px} pixels",
    )


def _so_far(found: Dream | DreamZoom, *, key: str) -> None:
    """What is there so far. Not a picture file: those go when the next one comes."""
    pixels = found.pixels if isinstance(found, Dream) else found.frames[-1]
    show.mosaic_wall(
        render.rgb_mosaic(pixels[None], tile_px=_LIVE_PX),
        key=key,
        aria="The dream so far",
        tile_px=_LIVE_PX,
        smooth=True,
        max_height=None,
    )


def draw(chosen: Selection, found: Dream) -> None:
    """Before and after, the downloads, and what the network makes of it."""
    title = f"DeepDream, {_what(found)}"
    row = st.container(horizontal=True, gap="medium")  # on a narrow screen the words go below
    with row.container(width=_COMPARED_PX):
        _compared(found)
    with row.container(width=_WORDS_PX):
        height, width = found.photo.shape[:2]
        frame.caption(
            chosen,
            title,
            f"{len(found.objectives)} steps up to {width} × {height} px",
            f"{found.run.seconds:.1f} s",
        )
        _downloads(chosen, found, title)
        if len(found.objectives) and chosen.model.num_classes:
            _answer(chosen, found)
    if len(found.objectives):
        _curve(chosen, found)


def _what(found: Dream) -> str:
    """What has grown."""
    weights = found.run.settings.get("weights")
    if isinstance(weights, list | tuple):
        return " + ".join(
            f"{render.format_value(weight)} × {layer}" for weight, layer in zip(weights, found.layers, strict=True)
        )
    return found.layers[0] + ("" if found.channel is None else f", channel {found.channel}")


@st.fragment
def _compared(found: Dream) -> None:
    """The photo, or a frame of its growing, against the dream, both at the dream's size."""
    last = len(found.frames) - 1
    if "dream_frame" not in st.session_state:
        st.session_state["dream_frame"] = _linked_frame(last)
    place = min(st.session_state["dream_frame"], last)
    screen.remember("frame", str(place) if place else "")
    pixels = show.fitted(found.frames[place], found.photo.shape[:2]) if place else found.photo
    at_left = f"frame {place} of {last}" if place else "the photo"
    before_after.show(
        key="dream_compared",
        before=render.jpeg(pixels, quality=_QUALITY),
        after=render.jpeg(found.pixels, quality=_QUALITY),
        names=(at_left, "the dream"),
        aria=f"Share of the picture that shows {at_left}, from the left",
    )
    st.caption(
        f"Left of the edge: {at_left} at the same size; right of it: the dream. Drag the edge, or move it with the "
        "arrow keys."
    )
    if last:
        st.session_state["dream_frame"] = place
        st.slider(
            "How it grew",
            0,
            last,
            key="dream_frame",
            help="What stands at the left: 0 is the photo at the dream’s size, then come the frames on the way. Each "
            "octave begins with coarse shapes, on which finer ones grow.",
        )


def _linked_frame(last: int) -> int:
    """The frame that the link names, or the last of a shorter dream; 0, the photo, for none and for nonsense."""
    text = st.query_params.get("frame", "0")
    if text.isdecimal() and len(text) < 6:
        return min(int(text), last)
    frame.notice(f"The link asks for frame “{text[:40]}”, which is no number of one; the photo is shown.")
    return 0


def _downloads(chosen: Selection, found: Dream, title: str) -> None:
    caption = f"{chosen.model.spec.title}, {chosen.image.name}"
    animations = [
        ("Its growing (WebP)", ".webp", "All frames, in full colour.", lambda: render.animated_webp(found.frames)),
        ("Its growing (GIF)", ".gif", "All frames, in 256 colours.", lambda: render.gif(found.frames)),
    ]
    show.downloads(
        chosen,
        found.run,
        key="dream",
        title=title,
        figure=lambda: render.figure_png(found.pixels, title=title, caption=caption),
        exact=lambda: render.png(found.pixels),
        values=found.values,
        code="result.pixels",
        more=animations,
    )


def _curve(chosen: Selection, found: Dream) -> None:
    """How the objective grew."""
    most = np.maximum(found.objectives.max(axis=0), np.finfo(np.float32).tiny)
    steps = np.linspace(0, 1, len(found.objectives), dtype=np.float32)
    series = dict(zip(found.layers, (found.objectives / most).T, strict=True))
    charts.draw(
        render.curves_figure(steps, series, x_title="steps done", unit="share of the largest"),
        key="dream_curve",
        title="The objective as a dream grows",
        run=found.run,
        chosen=chosen,
        table=lambda: {
            "step": list(range(len(found.objectives))),
            **{f"objective, {name}": found.objectives[:, at].tolist() for at, name in enumerate(found.layers)},
            **{f"share of the largest, {name}": values.tolist() for name, values in series.items()},
        },
        code="result.objectives",
        is_small=True,
    )
    st.caption(
        "What is to grow, as a share of its largest value. It falls back where a larger octave begins, whose fine "
        "detail has not been dreamed yet."
    )


def _answer(chosen: Selection, found: Dream) -> None:
    name = f"{chosen.image.name}, dreamed"
    dreamt, photo = (images.from_pixels(pixels, name=name) for pixels in (found.pixels, found.photo))
    after, before = (compute.run(LoadedModel.predict, chosen.model, one, k=5) for one in (dreamt, photo))
    charts.draw(
        render.probability_bars(after.labels, after.probabilities),
        key="dream_answer",
        title=f"What {chosen.model.spec.title} says of the dream",
        run=found.run,
        chosen=chosen,
        code="result.pixels",
        is_small=True,
    )
    st.caption(
        f"The network’s answer to the dream. To the photo at this size: {frame.plain(before.labels[0])}, "
        f"{100 * before.probabilities[0]:.1f} %. The dream follows the layer, not a class, so the answer may change or "
        "not."
    )


def zoom(chosen: Selection, asked: Asked) -> None:
    """The way into the dream, as an animation."""
    st.subheader("Zoom into the dream", anchor=False)
    with frame.row():
        num = st.slider(
            "Frames",
            4,
            deep_dream.MAX_ZOOM_FRAMES,
            24,
            4,
            key="zoom_frames",
            bind="query-params",
            help="After the first.",
        )
        percent = st.slider(
            "Zoom, % a frame",
            0,
            12,
            5,
            key="zoom_percent",
            bind="query-params",
            help="How much the middle of each frame is enlarged for the next. With 0 the dream goes on in place.",
        )
    each = replace(asked, size_px=min(asked.size_px, 480), octaves=min(asked.octaves, 2), steps=min(asked.steps, 5))
    found: DreamZoom | None = work.run(
        deep_dream.zoom,
        chosen,
        name="zoom",
        title="Zoom",
        cost=f"{num + 1} frames of {each.octaves * each.steps} steps at {each.size_px} pixels: about "
        f"{work.duration((num + 1) * each.seconds(chosen))}. Layer, strength and the rest as above.",
        show=partial(_so_far, key="zoom_so_far"),
        hint=_HINT,
        num_frames=num,
        zoom=1 + percent / 100,
        **each.settings,
    )
    if found is not None and found.frames:
        _draw_zoom(chosen, found)


def _draw_zoom(chosen: Selection, found: DreamZoom) -> None:
    title = f"Zoom into a dream, {' + '.join(found.layers)}"
    picture, words = st.columns(2, gap="medium")
    with picture:
        st.image(_moving(repr(found.run), found), width="stretch")
    with words:
        frame.caption(chosen, title, f"{len(found.frames)} frames", f"{found.run.seconds:.1f} s")
        st.caption(
            "Each frame is the one before, enlarged around its middle and dreamed on. What the photo showed is soon "
            "gone; what is left comes from the network alone. On screen it has 256 colours; the WebP has all."
        )
        show.downloads(
            chosen,
            found.run,
            key="zoom",
            title=title,
            figure=lambda: render.figure_png(found.frames[-1], title=title),
            exact=lambda: render.png(found.frames[-1]),
            values=np.stack(found.frames),
            code="result.frames",
            more=[
                ("Animation (WebP)", ".webp", "In full colour.", lambda: render.animated_webp(found.frames)),
                ("Animation (GIF)", ".gif", "In 256 colours.", lambda: render.gif(found.frames)),
            ],
        )


@st.cache_data(max_entries=4, show_spinner=False)
def _moving(made_by: str, _found: DreamZoom) -> bytes:  # noqa: ARG001 - the cache's key
    return render.gif(_found.frames)
