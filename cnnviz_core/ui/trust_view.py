"""How far to trust a map: four checks, the same on every page that explains a decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from cnnviz_core import photos, render
from cnnviz_core.images import InputImage
from cnnviz_core.jobs import OnStep
from cnnviz_core.methods import cam, occlusion, saliency, segmentation, trust
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import Agreement, ContextEdit, ContextTest, Curves, FloatArray, Mask, Randomization, Run, Step
from cnnviz_core.ui import charts, closeup, cut_view, frame, pickers, show, work
from cnnviz_core.ui.components.heat_view import Box
from cnnviz_core.ui.gallery import MapPicture, told_apart

_METHODS = {"cam": cam, "saliency": saliency, "occlusion": occlusion}
_TILE_PX = 150
_RECTANGLE, _GRABCUT = "my rectangle", "GrabCut from the map"
_OTHER_PHOTOS = ("chelsea", "rocket")

Settings = tuple[tuple[str, object], ...]


def draw(one: MapPicture, all_maps: Sequence[MapPicture]) -> None:
    """The section: which check, and its answer for the enlarged map.

    Args:
        one: The map to check.
        all_maps: It, and the maps to compare it with.
    """
    st.subheader("How far to trust it", anchor=False)
    offered = [name for name, check in _CHECKS.items() if check.fits(one, all_maps)]
    if st.session_state.get("check") not in (None, *offered):
        st.session_state["check"] = offered[0]
    check = st.segmented_control(
        "Check",
        offered,
        default=offered[0],
        key="check",
        required=True,
        bind="query-params",
        help="**Agreement**: do methods that work in different ways point to the same places? **Deletion and "
        "insertion**: does the answer fall when what the map marks is taken away? **Random weights**: does the map "
        "change when the network is destroyed? **Is it cheating?**: does the network look at the object, or at what "
        "surrounds it?",
    )
    _CHECKS[str(check)].draw(one, all_maps)


def _chart(figure: go.Figure, one: MapPicture | None, *, key: str, title: str, **made: str) -> None:
    """A chart of a check of one map; without its row while the check goes on, for which there is no map here."""
    if one is None:
        charts.so_far(figure, key=key)
    else:
        charts.draw(figure, key=key, title=title, run=one.run, chosen=one.chosen, made=made)


def _agreement(one: MapPicture, all_maps: Sequence[MapPicture]) -> None:
    found: Agreement = trust.agreement(
        dict(zip(told_apart(all_maps), (other.checked for other in all_maps), strict=True)),
        only_seen=bool(one.run.settings.get("unit")),
    )
    _chart(
        render.matrix_figure(found.names, found.correlations, unit="rank correlation"),
        one,
        key="agreement",
        title="Agreement of maps",
        maps=", ".join(found.names),
    )
    st.caption(
        "Spearman’s rank correlation of the maps’ positive values: 1 where two maps rank all places alike, 0 where "
        "they have nothing in common. Methods that share a weakness agree, too."
    )


def _deletion(one: MapPicture, _all_maps: Sequence[MapPicture]) -> None:
    if _explains_no_class(one):
        return
    fills = [name for name, fill in trust.FILLS.items() if not fill.needs_other]
    fill = pickers.choose(
        "What is deleted becomes",
        fills,
        key="fill",
        name=lambda name: trust.FILLS[name].title,
        help="  \n".join(f"**{trust.FILLS[name].title}**: {trust.FILLS[name].help}" for name in fills),
    )
    found: Curves | None = work.run(
        _curves,
        one.chosen,
        name="deletion",
        title="Deletion and insertion",
        cost=_cost(one, "350 forwards: 20 steps for the map, its reverse, and eight random places of both.", 1),
        show=_draw_deletion,
        method=one.run.method,
        settings=_frozen(one.run),
        fill=fill,
    )
    if found is None:
        return
    if found.verdict:
        st.markdown(f"**{frame.plain(found.verdict)}**")
    _draw_deletion(found, one, trust.FILLS[fill].title)


def _draw_deletion(found: Curves, one: MapPicture | None = None, fill: str = "") -> None:
    draw = partial(_curve, one=one, fill=fill)
    deletion, insertion = st.columns(2)
    with deletion:
        draw(found.fractions, "deleted", found.most_first, found.random_most_first, found.least_first)
        _area("Deletion", found.deletion_area, found.random_deletion_areas, "low")
    with insertion:
        draw(
            found.inserted_fractions,
            "inserted",
            found.insertion,
            found.random_least_first[:, ::-1],
            found.most_first[::-1],
        )
        _area("Insertion", found.insertion_area, found.random_insertion_areas, "high")
    st.caption(
        f"Probability of {frame.plain(found.target_label)}. Random: the same map laid elsewhere; the grey area is the "
        "range of the draws. Edited pictures are pictures that the network never saw: try more than one fill."
    )


def _curve(
    x: FloatArray,
    edit: str,
    most: FloatArray,
    random: FloatArray,
    least: FloatArray,
    *,
    one: MapPicture | None,
    fill: str,
) -> None:
    """The map's order, the random draws and the reverse order, as far as they are there."""
    drawn = random[~np.isnan(random).any(axis=1)]
    if not len(drawn):
        drawn = np.full_like(random[:1], np.nan)
    lines = {"most important first": most, "random": drawn.mean(axis=0), "least important first": least}
    band = drawn.min(axis=0), drawn.max(axis=0)
    figure = render.curves_figure(x, lines, x_title=edit, unit="probability", band=band)
    _chart(figure, one, key=f"{edit}_curve", title=f"Probability with places {edit}", fill=fill)


def _area(title: str, area: float, by_chance: FloatArray, good: str) -> None:
    if not np.isfinite(by_chance).all():  # while it is made
        st.caption(f"{title}: its area is known once all curves are there.")
        return
    st.caption(f"{title}: area {area:.3f}, by chance {by_chance.mean():.3f}; {good} is good.")


def _random_weights(one: MapPicture, _all_maps: Sequence[MapPicture]) -> None:
    last = "the unit’s layer" if one.run.settings.get("unit") else "the last layer"
    found: Randomization | None = work.run(
        _randomized,
        one.chosen,
        name="randomization",
        title="Random weights",
        cost=_cost(one, f"Up to eight steps that destroy the network from {last} to the first.", 9),
        show=_draw_randomization,
        method=one.run.method,
        settings=_frozen(one.run),
    )
    if found is None:
        return
    st.markdown(f"**{frame.plain(found.verdict)}**")
    if not one.chosen.model.spec.is_trained:
        st.caption("This network is untrained, so that there was nothing learned to destroy.")
    _draw_randomization(found, one)


def _draw_randomization(found: Randomization, one: MapPicture | None = None) -> None:
    names = [f"{steps[-1]}" if len(steps) == 1 else f"… {steps[-1]}" for steps in found.steps]
    flat = np.isnan(found.rank_correlations)
    magnitudes = np.abs(found.maps)
    mosaic = render.mosaic(
        magnitudes, scale=render.scale_of(magnitudes, mode="channel", low=0.0, clip_percent=1), tile_px=_TILE_PX
    )
    show.mosaic_wall(
        mosaic,
        key="randomized_maps",
        labels=["before", *(f"flat: {name}" if gone else name for name, gone in zip(names, flat, strict=True))],
        hints=["With all weights as they are.", *map(_step_hint, found.steps, found.rank_correlations)],
        tile_px=_TILE_PX,
        aria="The map as the network is destroyed",
    )
    if not flat.all():
        series = {"rank correlation": found.rank_correlations.tolist(), "structural similarity": found.ssims.tolist()}
        figure = render.depth_profile(names, series, unit="likeness to the first map")
        _chart(figure, one, key="randomization", title="The map as the network is destroyed")
    if flat.any():
        st.caption(
            "Flat: a map is the same everywhere there, so that it has no likeness to compare, and the step does not "
            "count. A unit that shuffled weights silence looks like that, whatever the method."
        )
    is_unit = found.run.settings.get("up_to") is not None
    if is_unit:
        st.caption(
            "A unit sees the middle of its field best whatever the weights. So ranks are of values as shares of those "
            "around them, a few pixels wide, where either map is not 0: they tell whether the fine structure stays. "
            "Steps of the convolutions can draw a fine grid whatever the weights; then honest maps stay alike in part."
        )
    first = "the unit’s layer" if is_unit else "the head"
    st.caption(
        f"From left to right more and more layers have random weights, from {first} down; each tile has colours of its "
        "own. A map that explains the network has to change."
    )


def _step_hint(names: Sequence[str], likeness: float) -> str:
    flat = "\nNothing to compare: a map is the same everywhere." if np.isnan(likeness) else ""
    return f"Shuffled last: {', '.join(names)}.{flat}"


def _cheating(one: MapPicture, _all_maps: Sequence[MapPicture]) -> None:
    if _explains_no_class(one):
        return
    rectangle = closeup.rectangle_box(one.chosen)
    by = pickers.choose(
        "The object is",
        [_GRABCUT, _RECTANGLE],
        key="object",
        help="A rectangle is drawn with the mouse on the enlarged map above. GrabCut finds the object by itself, from "
        "the map, with the thresholds set under “Cut the object out”, and can be wrong: look at the mask.",
    )
    if by == _RECTANGLE and rectangle is None:
        st.info("Draw a rectangle around the object: drag over the enlarged map above.")
        return
    other = next(name for name in _OTHER_PHOTOS if name != one.chosen.image_id)
    found: ContextTest | None = work.run(
        _context,
        one.chosen,
        name="context",
        title="Is it cheating?",
        cost=_cost(one, "Six edited pictures: background, then object, replaced by blur, grey, another photo.", 8),
        show=_draw_context,
        method=one.run.method,
        settings=_frozen(one.run),
        **({"box": rectangle} if by == _RECTANGLE else _as_cut_out(one)),
        other=other,
    )
    if found is None:
        return
    if found.verdict:
        st.markdown(f"**{frame.plain(found.verdict)}**")
    if by == _GRABCUT:
        st.caption(
            "The object was found from the very map that is checked. A rectangle that you draw is the stricter test."
        )
    _draw_context(found)


def _as_cut_out(one: MapPicture) -> dict[str, Any]:
    """What makes GrabCut's mask of the map made anew that of the map on the page."""
    foreground, background = cut_view.quantiles()
    return {
        "foreground_quantile": foreground,
        "background_quantile": background,
        "from_zero": bool(one.checked.min() >= 0),
    }


def _draw_context(found: ContextTest) -> None:
    """What was taken as the object, the edited pictures and their maps, as far as they are there."""
    show.mosaic_wall(
        render.rgb_mosaic(cut_view.dimmed(found.whole.pixels, found.mask)[None]), key="tested_object",
        labels=["taken as the object"], hints=["What is not dimmed was taken as the object."],
        tile_px=_TILE_PX, smooth=True, aria="What was taken as the object",
        max_height=None,
    )  # fmt: skip
    edits = (found.whole, *found.edits)
    pixels = render.rgb_mosaic(np.stack([edit.pixels for edit in edits]))
    labels, hints = [_edit_label(edit) for edit in edits], [_edit_hint(edit) for edit in edits]
    show.mosaic_wall(
        pixels, key="edits",
        labels=labels, hints=hints, tile_px=_TILE_PX, smooth=True,
        aria="Edited pictures", max_height=None,
    )  # fmt: skip
    maps = np.stack([edit.map for edit in edits])
    mosaic = render.mosaic(maps, scale=render.scale_of(maps, mode="channel", clip_percent=1), tile_px=_TILE_PX)
    show.mosaic_wall(
        mosaic, key="edited_maps",
        labels=labels, hints=hints, tile_px=_TILE_PX, smooth=True, aria="Maps of the edited pictures",
        max_height=None,
    )  # fmt: skip
    evidence = (
        f"{format_percent(found.evidence_outside)} of the map’s positive values lie outside the object, which leaves "
        f"{format_percent(found.area_outside)} of the area."
    )
    st.caption(
        f"Probability of {frame.plain(found.target_label)} in each picture, and below each picture’s map with colours "
        f"of its own. {'The map has no positive values.' if np.isnan(found.evidence_outside) else evidence}"
    )


def _edit_label(edit: ContextEdit) -> str:
    """So short that the narrowest tile has room for it; the hint says it in full."""
    what = f"{edit.replaced}: {edit.fill}" if edit.fill else "whole"
    return f"{format_percent(edit.probability)}, {what}"


def _edit_hint(edit: ContextEdit) -> str:
    found = zip(edit.predictions.labels, edit.predictions.probabilities, strict=True)
    answers = "; ".join(f"{label} {format_percent(probability)}" for label, probability in found)
    if not edit.fill:
        return f"The whole picture.\n{answers}"
    return f"The {edit.replaced} replaced by: {trust.FILLS[edit.fill].title.lower()}.\n{answers}"


def _explains_no_class(one: MapPicture) -> bool:
    """Says so where the map explains a unit, so that no probability can be watched."""
    if not one.run.settings.get("unit"):
        return False
    st.info("This check watches the probability of a class; the map explains a unit. Choose a class above.")
    return True


def _frozen(run: Run) -> Settings:
    return tuple(sorted(run.settings.items()))


def _again(method: str, settings: Settings, progress: _Progress) -> Callable[[LoadedModel, InputImage], Any]:
    """The explanation of that name with those settings, for another network or picture."""
    module, _, function = method.rpartition(".")
    explain = getattr(_METHODS[module], function)
    return lambda model, image: explain(model, image, on_step=progress.within, **dict(settings))


class _Progress:
    """Steps of a check whose own steps are long work: these only ask whether to go on."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step, self.last = on_step, Step(0, 1)

    def __call__(self, step: Step) -> None:
        self.last = step
        self.on_step(step)

    def within(self, _step: Step) -> None:
        self.on_step(self.last)


def _cost(one: MapPicture, forwards: str, num_maps: int) -> str:
    """What a check takes, with the maps that it makes anew."""
    seconds = num_maps * one.run.seconds
    times = "once" if num_maps == 1 else f"{num_maps} times"
    return f"{forwards} The map is made anew {times}" + (f", about {seconds:.0f} s." if seconds > 2 else ".")


def _target(settings: Settings) -> int | None:
    target = dict(settings).get("target")
    return target if isinstance(target, int) else None


def _curves(
    model: LoadedModel, image: InputImage, *, method: str, settings: Settings, fill: str, on_step: OnStep
) -> Curves:
    progress = _Progress(on_step)
    heatmap = _again(method, settings, progress)(model, image)
    return trust.deletion_insertion(model, image, heatmap, target=_target(settings), fill=fill, on_step=progress)


def _randomized(
    model: LoadedModel, image: InputImage, *, method: str, settings: Settings, on_step: OnStep
) -> Randomization:
    progress = _Progress(on_step)
    asked = dict(settings)
    up_to = str(asked["layer"]) if asked.get("unit") else None  # a unit depends on no later layer
    return trust.randomization(model, image, explain=_again(method, settings, progress), up_to=up_to, on_step=progress)


def _context(
    model: LoadedModel,
    image: InputImage,
    *,
    method: str,
    settings: Settings,
    other: str,
    on_step: OnStep,
    **object_is: Any,
) -> ContextTest:
    progress = _Progress(on_step)
    explain = _again(method, settings, progress)
    return trust.context_test(
        model,
        image,
        _object(model, image, explain, **object_is),
        explain=explain,
        target=_target(settings),
        other=photos.open_photo(other),
        on_step=progress,
    )


def _object(
    model: LoadedModel,
    image: InputImage,
    explain: Callable[..., Any],
    *,
    box: Box | None = None,
    foreground_quantile: float = 0,
    background_quantile: float = 0,
    from_zero: bool = False,
) -> Mask:
    """Where the object is, over the crop: in the rectangle, or where GrabCut finds it from the map and two quantiles.

    The page may show a map cut at zero that its method gives with values below: ``from_zero`` cuts it here, too.
    """
    if box is not None:
        return closeup.as_mask(model, box)
    values = explain(model, image).map
    found = segmentation.grabcut(
        image,
        values.clip(min=0) if from_zero else values,
        foreground_quantile=foreground_quantile,
        background_quantile=background_quantile,
        crop_box=model.preprocessing.crop_box(image),
    )
    return trust.crop_mask(model, image, found)


def _has_classes(one: MapPicture, _all_maps: Sequence[MapPicture]) -> bool:
    return bool(one.chosen.model.num_classes)


def _is_of_one_network(_one: MapPicture, all_maps: Sequence[MapPicture]) -> bool:
    return len(all_maps) > 1 and all(other.chosen.model is all_maps[0].chosen.model for other in all_maps)


@dataclass(frozen=True)
class Check:
    """One check: what draws it, and whether it makes sense for a map and those compared with it."""

    draw: Callable[[MapPicture, Sequence[MapPicture]], None]
    fits: Callable[[MapPicture, Sequence[MapPicture]], bool]


_CHECKS: Mapping[str, Check] = {
    "agreement": Check(_agreement, _is_of_one_network),
    "deletion and insertion": Check(_deletion, _has_classes),
    "random weights": Check(_random_weights, lambda _one, _all_maps: True),
    "is it cheating?": Check(_cheating, _has_classes),
}
