"""The stops of the guided tour: slides on bundled photos for people who know nothing of networks.

Whatever a slide says is put together from what the network really answers, so that it stays true with another one. The
table ``STOPS``, after the slides, is the tour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from cnnviz_core import features, photos, render
from cnnviz_core.methods import adversarial, cam, feature_maps, feature_visualization, occlusion, similarity
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import AdversarialExample, FloatArray, Occlusion, Predictions, Synthesis
from cnnviz_core.ui import compute, pair_view, show, synthesis_view, work
from cnnviz_core.ui.components import similarity_view
from cnnviz_core.ui.components.similarity_view import Origin, Pictured
from cnnviz_core.ui.components.slide import Picture
from cnnviz_core.ui.pickers import Selection

_VIEW_PX = 720
_PAIR_PX = 520
_DIM = 0.3
_DEPTHS = ("Early", "Middle", "Late")
_NUM_DETECTORS = 3
_SYNTHESIS = {
    "objective": "channel",
    "classes": [],
    "sign": 1,
    "cell": None,
    "direction": None,
    "steps": 48,
    "size_px": 128,
    "seed": 0,
    "variants": 1,
    "fourier": True,
    "decorrelated": True,
    "robust": True,
    "redirected": True,
}
_ATTACK: Mapping[str, Any] = {"method": "pgd", "norm": "linf", "epsilon": 2, "steps": 10, "seed": 0}
_AIM = "goldfish"
_NAMELESS = ("astronaut", "flower", "gravel")
# The rear wheel, as shares of the left photo's height and width.
_WHEEL = (0.72, 0.27)


def with_photo(model: LoadedModel, photo_id: str) -> Selection:
    """A network with a bundled photo."""
    return Selection(model=model, image=compute.photo(photo_id), image_id=photo_id, target=None)


@dataclass(frozen=True)
class Slide:
    """What is on screen at a stop.

    Attributes:
        large: The sentence for all.
        small: What it means, and how it misleads.
        pictures: Side by side.
        bars: Names with shares, 0..1.
        below: Draws what is under it, to be tried.
        link: Settings of the page that shows the same, beside the picture.
    """

    large: str
    small: str
    pictures: Sequence[Picture] = ()
    bars: Sequence[tuple[str, float]] = ()
    below: Callable[[], None] | None = None
    link: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Long:
    """Work that a stop needs and that takes seconds.

    Attributes:
        function: Takes network, picture, settings and ``on_step``.
        settings: Its keyword arguments.
        has_image: Whether it takes the picture.
        title: What is computed, for people.
    """

    function: Callable[..., Any]
    settings: Mapping[str, Any]
    has_image: bool
    title: str

    def job(self, chosen: Selection) -> dict[str, Any]:
        """Arguments of :func:`work.begin`; the pages that do the same find its result."""
        model, image = chosen.model, chosen.image if self.has_image else None
        function, settings = self.function, dict(self.settings)
        given = (model, image) if image else (model,)
        return {
            "work": lambda on_step: function(*given, on_step=on_step, **settings),
            "key": work.key_of(function, model, image, settings),
            "title": self.title,
            "about": {"network": model.spec.title, "picture": image.name if image else None},
        }


@dataclass(frozen=True)
class Stop:
    """One stop of the tour.

    Attributes:
        title: In a few words.
        photo: Id of a bundled photo.
        page: The page that shows the same and more.
        tell: The slide, from the network with the photo, and for a stop with long work its result.
        long: That work.
        waiting: The large sentence until it is done.
        so_far: Draws what is there until then.
    """

    title: str
    photo: str
    page: str
    tell: Callable[..., Slide]
    long: Callable[[Selection], Long] | None = None
    waiting: str = ""
    so_far: Callable[[Any], None] | None = None


# ---- the stops ------------------------------------------------------------------------------------------------------


def _answer(chosen: Selection) -> Slide:
    answer = _said(chosen)
    height, width = chosen.model.preprocessing.input_px
    left, top, right, bottom = chosen.model.preprocessing.crop_box(chosen.image)
    share = (right - left) * (bottom - top) / (chosen.image.width * chosen.image.height)
    part = "all of it" if share > 0.99 else f"only the bright {_percent(share)} of it"
    return Slide(
        f"Shown this photo, the network answers: {_named(answer)}.",
        f"It is {_percent(answer.probabilities[0])} sure. It saw {part}, at {width} × {height} pixels, and could "
        f"choose among {chosen.model.num_classes:,} names that it was taught. How does it come to its answer?",
        [Picture(_jpeg(_lit(chosen)), chosen.image.name)],
        list(zip(answer.labels[:4], answer.probabilities[:4], strict=False)),
    )


def _depth(chosen: Selection) -> Slide:
    model = chosen.model
    names = model.layers.landmarks
    found = compute.run(feature_maps.compute_many, model, chosen.image, layers=names)
    best = {name: int(feature_maps.rank(found[name], by="variance")[0][0]) for name in names}
    grids = [f"{height} × {width}" for height, width in (found[name].values.shape[1:] for name in names)]
    pictures = [
        Picture(_over(chosen, found[name].values[best[name]]), f"{depth}: {grid} places")
        for depth, grid, name in zip(_DEPTHS, grids, names, strict=False)
    ]
    counts = ", ".join(f"{len(found[name].values):,}" for name in names)
    middle = feature_maps.default_layer(model)
    return Slide(
        "It looks in steps: early detectors find lines and colours, late ones find parts of things.",
        f"Yellow is where a detector answers. Each step has many ({counts}); shown is the one whose answers differ "
        "most from place to place. Late detectors know more of what is there, and less of where.",
        pictures,
        link={"layer": [middle], "channel": [str(best[middle])]},
    )


def _wishes(chosen: Selection) -> Long:
    model = chosen.model
    layer = feature_visualization.default_layer(model)
    maps = compute.run(feature_maps.compute, model, chosen.image, layer=layer)
    channels = [int(channel) for channel in feature_maps.rank(maps, by="variance")[0][:_NUM_DETECTORS]]
    settings = {"layer": layer, "channels": channels, **_SYNTHESIS}
    title = "What detectors look for"
    return Long(feature_visualization.synthesize, settings, has_image=False, title=title)


def _look_for(chosen: Selection, found: Synthesis) -> Slide:
    count = chosen.model.layers[found.layer].num_channels
    channels: list[int] = list(found.run.settings["channels"])  # type: ignore[call-overload]
    pictures = [
        Picture(_jpeg(pixels), f"Detector {channel}")
        for channel, pixels in zip(channels, synthesis_view.pixels(found), strict=True)
    ]
    return Slide(
        "Asked what would excite it most, each detector draws its own pattern.",
        f"{len(channels)} of the {count:,} detectors half-way: those whose answers differ most over the cat. "
        "The pictures grew from noise, nobody drew them. Each is one extreme, not all that its detector answers to.",
        pictures,
        link={
            "layer": [found.layer],
            "channels": [str(channel) for channel in channels],
            "visualization_steps": [str(_SYNTHESIS["steps"])],
            "visualization_size": [str(_SYNTHESIS["size_px"])],
        },
    )


def _evidence(chosen: Selection) -> Slide:
    heatmap = compute.run(cam.explain, chosen.model, chosen.image, method="grad_cam")
    share = _half(heatmap.values)
    where = "Nothing spoke for it." if share is None else f"Half of it lies in {_percent(share)} of the picture."
    return Slide(
        f"These places spoke for “{heatmap.target_label}”.",
        f"Yellow is evidence, dark is none. {where} The map shows where the network looked, not whether it had a good "
        "reason to.",
        [Picture(_jpeg(_seen(chosen)), "What it saw"), Picture(_over(chosen, heatmap.values), "The evidence")],
        link={"map": [cam.METHODS["grad_cam"].title]},
    )


def _covering(chosen: Selection) -> Long:
    patch = max(4, min(chosen.model.preprocessing.input_px) // 4)
    target = _said(chosen).indices[0]
    settings = {"patch_px": patch, "stride_px": patch // 2, "baseline": "mean", "target": target}
    return Long(occlusion.explain, settings, has_image=True, title="Occlusion")


def _cover(chosen: Selection, found: Occlusion) -> Slide:
    row, column = np.unravel_index(int(np.argmin(found.probabilities)), found.probabilities.shape)
    covered = compute.run(
        occlusion.occlude,
        chosen.model,
        chosen.image,
        top=int(found.tops[row]),
        left=int(found.lefts[column]),
        patch_px=found.patch_px,
    )
    name, left = found.target_label, float(found.probabilities[row, column])
    other = chosen.model.class_names[int(found.classes[row, column])]
    large = (
        f"Cover this one place, and “{name}” becomes “{other}”."
        if other != name
        else f"Wherever it is covered, it still answers “{name}”."
    )
    places = found.probabilities.size
    return Slide(
        large,
        f"A grey square was tried at {places} places; here it did most harm: {_percent(found.clean_probability)} for "
        f"“{name}” fell to {_percent(left)}. Does the answer hang on the thing itself, or on what is around it?",
        [
            Picture(_jpeg(covered.pixels), f"“{name}”: {_percent(left)}"),
            Picture(_over(chosen, found.heatmap, signed=True), "Red: covering it hurts the answer"),
        ],
        link={"patch": [str(found.patch_px)], "stride": [str(found.stride_px)]},
    )


def _point(chosen: Selection) -> Slide:
    model, pictures = chosen.model, [chosen.image, compute.photo("motorcycle_right")]
    options = pair_view.Options(
        layers=(features.default_layer(model),),
        size_px=features.default_size_px(model),
        centre=False,
        dilate_last=False,
        join="mean",
        num_matches=0,
        mutual=False,
    )
    asked = {"layers": options.layers, "size_px": options.size_px, "dilate_last": options.dilate_last}
    found = features.combine([compute.run(features.record, model, image, **asked) for image in pictures])
    rows, columns = found[0].cells
    wheel = Origin(0, ((int(_WHEEL[0] * rows), int(_WHEEL[1] * columns)),))
    pinned: Origin = st.session_state.get("tour_pin") or wheel
    best = similarity.similarity(found[0], found[1], cell=pinned.cells).max()

    def pin(origin: Origin | None) -> None:
        st.session_state["tour_pin"] = origin if origin and origin.picture == 0 else None

    def view() -> None:
        packed = pair_view.for_browser(model, [image.digest for image in pictures], options, found)
        similarity_view.show(
            [Pictured(show.whole(image), cells, image.name) for image, cells in zip(pictures, packed, strict=True)],
            key="tour_pair",
            aria="Two photos of one motorcycle",
            lut=render.find_colour_map().lut,
            low=0.0,
            pinned=pinned,
            smooth=True,
            max_px=_PAIR_PX,
            on_pin=pin,
        )

    return Slide(
        "Point at a place on the left: the network finds it again on the right.",
        "No word is needed: yellow places are alike to it, 1 being the same. What is marked now it finds with "
        f"{render.format_fixed(best, 2)}. A best place is always found, even where nothing fits.",
        below=view,
        link={
            "compare_with": [pictures[1].name],
            "pin": ["~".join(["0", *(f"{row}.{column}" for row, column in pinned.cells)])],
        },
    )


def _always(chosen: Selection) -> Slide:
    model = chosen.model
    pictures = []
    for photo_id in _NAMELESS:
        shown = with_photo(model, photo_id)
        answer = _said(shown)
        label = f"{photos.PHOTOS[photo_id].title}: {_named(answer)}, {_percent(answer.probabilities[0])}"
        pictures.append(Picture(_jpeg(_seen(shown)), label))
    return Slide(
        "It always answers, also where it has no name for what is there.",
        f"It knows {model.num_classes:,} names and no “I do not know”, so it takes the nearest. A low number is a hint "
        "that it guesses, but it can be wrong and sure at the same time.",
        pictures,
    )


def _fooled(chosen: Selection) -> Slide:
    model = chosen.model
    aim = model.class_names.index(_AIM) if _AIM in model.class_names else None
    found: AdversarialExample = compute.run(adversarial.attack, model, chosen.image, target=aim, **_ATTACK)
    difference, factor = render.amplified(found.altered.astype(np.int16) - found.original)
    large = (
        f"A change that nobody sees, and it answers: {_named(found.after)}."
        if found.fools
        else f"A change that nobody sees did not fool it: still {_named(found.after)}."
    )
    before = f"{_named(found.before)}, {_percent(found.before.probabilities[0])}"
    after = f"{_named(found.after)}, {_percent(found.after.probabilities[0])}"
    return Slide(
        large,
        f"No colour value of 0 to 255 was changed by more than {found.linf:.0f}. The change was computed for this very "
        "network; photos do not come like that by chance. Yet what it sees is not what we see.",
        [
            Picture(render.png(found.original), before),
            Picture(render.png(found.altered), after),
            Picture(render.png(difference), f"The change, {factor} times stronger"),
        ],
        link={
            "seen_as": ["anything else" if aim is None else f"{aim} {_AIM}"],
            "epsilon_linf": [str(_ATTACK["epsilon"])],
        },
    )


STOPS = (
    Stop("The answer", "chelsea", "pages/look/home.py", _answer),
    Stop("Step by step", "chelsea", "pages/look/feature_maps.py", _depth),
    Stop(
        "What it looks for", "chelsea", "pages/create/feature_visualization.py", _look_for,
        long=_wishes, waiting="Its detectors are drawing what would excite them most.",
        so_far=synthesis_view.so_far,
    ),
    Stop("The evidence", "chelsea", "pages/explain/cam.py", _evidence),
    Stop(
        "Cover it", "camera", "pages/explain/occlusion.py", _cover,
        long=_covering, waiting="One place after another is being covered.",
    ),
    Stop("Point and find", "motorcycle_left", "pages/compare/similarity.py", _point),
    Stop("No name for it", "astronaut", "pages/look/home.py", _always),
    Stop("Fooled", "chelsea", "pages/create/adversarial.py", _fooled),
)  # fmt: skip


# ---- pictures and words ---------------------------------------------------------------------------------------------


def _said(chosen: Selection) -> Predictions:
    return compute.run(LoadedModel.predict, chosen.model, chosen.image, k=5)


def _named(answer: Predictions) -> str:
    return f"“{answer.labels[0]}”"


def _percent(share: float) -> str:
    """In whole per cent, though never all or nothing."""
    return f"{min(99, max(1, round(100 * share)))} %"


def _half(values: FloatArray) -> float | None:
    """The smallest share of the places that holds half of what is above zero; None where nothing is."""
    falling = np.sort(values.clip(min=0), axis=None)[::-1].cumsum(dtype=np.float64)
    if not falling[-1] > 0:
        return None
    return (int(np.searchsorted(falling, falling[-1] / 2)) + 1) / falling.size


def _lit(chosen: Selection) -> show.Pixels:
    """The whole photo, dark where the network did not see it."""
    pixels = np.asarray(chosen.image.pil().convert("RGB"))
    left, top, right, bottom = (round(edge) for edge in chosen.model.preprocessing.crop_box(chosen.image))
    lit: show.Pixels = (_DIM * pixels).astype(np.uint8)
    lit[top:bottom, left:right] = pixels[top:bottom, left:right]
    return lit


def _seen(chosen: Selection) -> show.Pixels:
    """The part of the photo that the network saw, finer than it saw it."""
    height, width = chosen.model.preprocessing.input_px
    scale = _VIEW_PX / max(height, width)
    size = (round(width * scale), round(height * scale))
    box = chosen.model.preprocessing.crop_box(chosen.image)
    return np.asarray(chosen.image.pil().convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box))


def _over(chosen: Selection, values: FloatArray, *, signed: bool = False) -> bytes:
    """A map over that part."""
    scale = render.scale_of(values, signed=signed)
    return _jpeg(render.overlay(_seen(chosen), values, scale=scale, opacity=0.45 if signed else 0.6))


def _jpeg(pixels: show.Pixels) -> bytes:
    return render.jpeg(pixels, quality=90)
