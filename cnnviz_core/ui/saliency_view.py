"""The parts of the saliency page: what is explained, by which methods, and how attributions are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import doctor, render
from cnnviz_core.methods import feature_maps, saliency
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_fixed, format_percent
from cnnviz_core.results import Attribution, FloatArray
from cnnviz_core.ui import closeup, compute, frame, gallery, pickers, show, work
from cnnviz_core.ui.gallery import Look, MapPicture
from cnnviz_core.ui.pickers import Selection

_CLASS, _UNIT = "a class", "a unit"
_MAP_PX = 300
_FIRST = ("gradient", "deconvnet", "guided_backprop", "input_x_gradient", "guided_grad_cam")
_SLOW_FORWARDS = 8  # more than these wait for a button


@dataclass(frozen=True)
class Question:
    """What is explained.

    Attributes:
        settings: Arguments of :func:`saliency.explain`: target, or layer and unit.
        words: The same for people.
        is_unit: Whether it is a unit.
    """

    settings: dict[str, Any]
    words: str
    is_unit: bool


@dataclass(frozen=True)
class View:
    """One way to make a picture of an attribution.

    Attributes:
        help: What it shows.
        values: From (C, H, W) to (H, W).
        code: Python that does the same with ``result``.
        in_colours: Whether the three colour channels are drawn as colours.
    """

    help: str
    values: Callable[[Attribution], FloatArray]
    code: str
    in_colours: bool = False


VIEWS: dict[str, View] = {
    "strength": View("the largest magnitude over the colour channels.", lambda a: a.map, "result.map"),
    "sign": View(
        "the sum over the colour channels. For integrated gradients and input × gradient: above zero speaks for, below "
        "zero against. For the others: whether a brighter pixel would raise or lower the score.",
        lambda a: a.values.sum(axis=0),
        "result.values.sum(axis=0)",
    ),
    "colours": View(
        "red, green and blue as they are, around mid grey.", lambda a: a.map, "result.values", in_colours=True
    ),
}


def question(chosen: Selection) -> Question:
    """Asks what is to be explained: the class of the sidebar, or any unit."""
    kinds = [_CLASS, _UNIT] if chosen.model.num_classes else [_UNIT]
    kind = st.segmented_control(
        "Explain",
        kinds,
        default=kinds[0],
        key="explain",
        required=True,
        bind="query-params",
        help="The score of the class chosen in the sidebar, or a single unit: one channel of a layer at one place.",
    )
    if kind == _UNIT:
        return _unit(chosen)
    answer = compute.run(LoadedModel.predict, chosen.model, chosen.image, k=1).indices[0]
    target = answer if chosen.target is None else chosen.target
    return Question({"target": target}, f"class {chosen.model.class_names[target]}", is_unit=False)


def _unit(chosen: Selection) -> Question:
    """A unit: layer, channel, and a cell clicked on the channel's map; at first its strongest."""
    layer = pickers.layer_by_depth(chosen.model, default=feature_maps.default_layer(chosen.model))
    maps = compute.run(feature_maps.compute, chosen.model, chosen.image, layer=layer)
    num, height, width = maps.values.shape
    below_limit = _below_limit(maps.values)
    first = int(below_limit.reshape(num, -1).max(axis=1).argmax())
    picture, numbers = st.columns([2, 3], gap="medium")
    with numbers:
        st.caption("The unit to explain: a channel, and one of its cells. Click the map, or type.")
        channel = pickers.number(f"Channel, 0 to {num - 1}", num, key="channel", default=first, of=layer)
        row, column = divmod(int(below_limit[channel].argmax()), width)
        of = f"{layer} {channel} {chosen.image.digest}"
        row = pickers.number(f"Row, 0 to {height - 1}", height, key="row", default=row, of=of)
        column = pickers.number(f"Column, 0 to {width - 1}", width, key="column", default=column, of=of)
        value = float(maps.values[channel, row, column])
        hint = "At first it is the channel’s strongest cell that is below any upper limit."
        if value == 0 or below_limit[channel, row, column] < value:
            where = "silent" if value == 0 else "at the upper limit of its activation"
            hint = f"It is {where}, where small changes do nothing: most maps are empty. Choose another cell."
        st.caption(f"Its activation on this picture is {format_fixed(value, 3)}. {hint}")

    def pin(cell: tuple[int, int]) -> None:
        st.session_state["row"], st.session_state["column"] = cell

    with picture:
        show.map_over_photo(
            chosen,
            maps.values[channel],
            run=maps.run,
            code=f"result.values[{channel}]",
            title=f"{layer} channel {channel}",
            key="unit_map",
            scale=render.scale_of(maps.values[channel]),
            max_px=_MAP_PX,
            clickable=True,
            cell=(row, column),
            on_cell=pin,
        )
    words = f"unit ({channel}, {row}, {column}) of {layer}"
    return Question({"layer": layer, "unit": (channel, row, column)}, words, is_unit=True)


def _below_limit(values: FloatArray) -> FloatArray:
    """The values without those at an upper limit that several cells have reached, as after a ReLU6.

    A unit at its limit has no gradient, and so nothing to show.
    """
    at_limit = values == values.max()
    return np.where(at_limit, values.min(), values) if at_limit.sum() > 1 else values


def maps(chosen: Selection, asked: Question, look: Look, view: str) -> list[MapPicture]:
    """The attributions of the chosen methods; slow ones on demand."""
    model = chosen.model
    fitting = [n for n in saliency.METHODS if not (asked.is_unit and not saliency.METHODS[n].takes_unit)]
    verdicts = {name: doctor.verdict(model, saliency.METHODS[name].needs) for name in fitting}
    offered = [name for name in fitting if verdicts[name].usable]
    wanted = pickers.several(
        "Methods",
        offered,
        key="saliency_methods",
        default=[name for name in _FIRST if name in offered],
        name=lambda name: saliency.METHODS[name].title,
        help="  \n".join(f"**{m.title}** ({m.source}; {m.cost}): {m.help}" for m in saliency.METHODS.values()),
    )
    _say_what_does_not_fit(verdicts)
    options = _options()
    found = [made for name in wanted if (made := _attribution(chosen, name, asked, options)) is not None]
    in_colours = _in_colours(found, look) if VIEWS[view].in_colours else [None] * len(found)
    return [_picture(chosen, one, asked, VIEWS[view], pixels) for one, pixels in zip(found, in_colours, strict=True)]


def _say_what_does_not_fit(verdicts: dict[str, doctor.Verdict]) -> None:
    reasons: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        if verdict.status is not doctor.Status.WORKS and saliency.METHODS[name].needs != "gradient":
            said = "Not defined here" if not verdict.usable else "Only approximate here"
            reasons.setdefault(f"{said}: {{}}: {verdict.reason} {verdict.instead}", []).append(
                saliency.METHODS[name].title
            )
    for text, titles in reasons.items():
        st.caption(frame.plain(text.format(", ".join(titles))))


def _options() -> dict[str, Any]:
    """Settings of the slow methods, in a popover."""
    first = saliency.Options()
    with st.popover("SmoothGrad, integrated gradients", icon=":material/tune:"):
        samples = st.slider("SmoothGrad: noisy copies", 5, 100, first.num_samples, 5, key="num_samples")
        noise = st.slider(
            "SmoothGrad: noise, % of the input’s range", 1, 50, round(100 * first.noise), key="noise_percent"
        )
        steps = st.slider("Integrated gradients: steps", 10, 200, first.num_steps, 10, key="num_steps")
        baseline = pickers.choose(
            "Integrated gradients: start from",
            list(saliency.BASELINES),
            key="ig_baseline",
            name=lambda name: saliency.BASELINES[name].title,
            help="  \n".join(f"**{b.title}**: {b.help}" for b in saliency.BASELINES.values()),
        )
    return {"num_samples": samples, "noise": noise / 100, "num_steps": steps, "baseline": baseline}


def _attribution(chosen: Selection, name: str, asked: Question, options: dict[str, Any]) -> Attribution | None:
    method = saliency.METHODS[name]
    num_forwards = method.num_forwards(saliency.Options(**options))
    if num_forwards <= _SLOW_FORWARDS:
        return compute.run(saliency.explain, chosen.model, chosen.image, method=name, **asked.settings)
    return work.run(
        saliency.explain,
        chosen,
        name=name,
        title=method.title,
        cost=f"{method.title}: {method.cost}, {num_forwards} here.",
        show=lambda found: show.so_far(
            chosen, found.map, key=name, scale=render.scale_of(found.map, low=0.0, clip_percent=1), unit=method.unit
        ),
        method=name,
        **asked.settings,
        **{option: value for option, value in options.items() if option in method.uses},
    )


def _picture(
    chosen: Selection, attribution: Attribution, asked: Question, view: View, pixels: show.Pixels | None
) -> MapPicture:
    method = saliency.METHODS[attribution.method]
    error = attribution.completeness_error
    note = "" if error is None else f"completeness error {format_percent(error, 1)}"
    return MapPicture(
        method.title,
        view.values(attribution),
        attribution.run,
        view.code,
        chosen,
        f"{method.title} of {asked.words}",
        method.unit,
        pixels,
        note,
        attribution.map,
    )


def _in_colours(found: Sequence[Attribution], look: Look) -> list[show.Pixels]:
    """(H, W, 3) of each around mid grey; the strongest values, of all of its unit or of each, are at either end."""

    def limit(one: Attribution) -> float:
        unit = saliency.METHODS[one.method].unit
        alike = [other for other in found if saliency.METHODS[other.method].unit == unit] if look.shared else [one]
        strengths = np.concatenate([np.abs(other.values).ravel() for other in alike])
        return float(np.percentile(strengths, 100 - look.clip_percent)) or 1.0

    return [_around_grey(one.values, limit(one)) for one in found]


def _around_grey(values: FloatArray, limit: float) -> show.Pixels:
    """(H, W, 3): mid grey for 0, the ends of each colour for this limit and its negative."""
    shares = np.clip(0.5 + values / (2 * limit), 0, 1)
    pixels = np.broadcast_to(shares, (3, *values.shape[1:])).transpose(1, 2, 0)
    rounded: show.Pixels = np.rint(255 * pixels).astype(np.uint8)
    return rounded


def view() -> tuple[Look, str]:
    """Colours, and which picture is made of an attribution."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.segmented_control(
            "Show",
            list(VIEWS),
            default="strength",
            key="attribution_view",
            required=True,
            bind="query-params",
            help="  \n".join(f"**{name}**: {found.help}" for name, found in VIEWS.items()),
        )
        look = gallery.look(
            "saliency",
            shared=False,
            clip_percent=1,
            smooth=False,
            opacity=1.0,
            own_colours=VIEWS[str(name)].in_colours,
        )
    return look, str(name)


def _at_relus(picture: MapPicture) -> bool:
    """Whether the map was made by a rule of its own at the ReLUs."""
    return saliency.METHODS[str(picture.run.settings["method"])].needs != "gradient"


def side_by_side(pictures: Sequence[MapPicture], look: Look) -> MapPicture | None:
    """The attributions side by side, and one of them enlarged; returns that one."""
    if not pictures:
        st.info("Nothing to show yet: choose a method above, or run one.")
        return None
    wall, one = gallery.sides()
    with wall:
        picked, scale = gallery.grid(pictures, look, what="methods side by side")
        if pictures[0].pixels is not None:
            percent, of = look.clip_percent, "each unit’s" if look.shared else "each map’s"
            ends = f"the strongest {percent} % of {of} values are" if percent else f"{of} strongest value is"
            weak = ""
            if look.shared:
                weak = " A map that is grey all over is weak beside the others of its unit: gradients, or scores."
            st.caption(f"Mid grey is zero, {ends} at an end of the colours; “Colours” above sets that share.{weak}")
        edges = ""
        if any(_at_relus(picture) for picture in pictures):
            edges = (
                "Guided backprop, guided Grad-CAM and deconvnet draw edges whatever the network has learned; the check "
                "below shows it. "
            )
        st.caption(f"{edges}A gradient says what a change would do, not what is there.")
    with one:
        closeup.draw(picked, scale, look)
        if not picked.values.any():
            st.info(
                "Every value is zero: the unit is silent here, or at the upper limit of its activation, where small "
                "changes of the picture do not reach it. Choose another cell or layer."
            )
        frame.caption(picked.chosen, picked.title, f"{picked.run.seconds:.2f} s", *filter(None, [picked.note]))
    return picked
