"""The parts of the CAM page: what is compared with what, and the maps of each comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from cnnviz_core import doctor, render
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Heatmap, Step
from cnnviz_core.ui import closeup, compute, frame, gallery, pickers, show, work
from cnnviz_core.ui.gallery import Look, MapPicture
from cnnviz_core.ui.pickers import Selection

_UNIT = "evidence"
_CLIPPED = "result.values.clip(min=0)"
_NUM_CLASSES = 5

Maps = Mapping[tuple[str, int], Heatmap]


@dataclass(frozen=True)
class _Place:
    """Where maps are made.

    Attributes:
        chosen: Network and picture.
        layer: Of that network.
        targets: Its classes, whose maps are made together.
        name: What tells it from the other places.
    """

    chosen: Selection
    layer: str
    targets: tuple[int, ...]
    name: str = ""

    @property
    def num_channels(self) -> int:
        """Of the layer."""
        return self.chosen.model.layers[self.layer].num_channels


def compare(model: LoadedModel) -> str:
    """What is held against what: a key of ``COMPARISONS``."""
    return str(
        st.segmented_control(
            "Compare",
            list(COMPARISONS) if model.num_classes else ["methods", "layers"],
            default="methods",
            key="compare",
            required=True,
            bind="query-params",
            help="**Methods** of one class and layer, **layers** of one method, **classes** of one method, **two "
            "classes** against each other, or **networks** on the same picture.",
        )
    )


def options(comparison: str) -> tuple[Look, bool]:
    """Colours, and whether evidence against the class is kept."""
    with st.container(horizontal=True, vertical_alignment="center"):
        look = gallery.look(f"cam {comparison}", shared=comparison in ("classes", "two classes"))
        signed = st.toggle(
            "Evidence against, too",
            key="signed",
            bind="query-params",
            help="Most papers cut the map at zero. On: places that speak against the class are shown, as negative "
            "values.",
        )
    return look, signed


def methods(chosen: Selection, layer: str, *, signed: bool) -> list[MapPicture]:
    """All methods that fit, at one layer and class; slow ones on demand."""
    fitting, reasons = _fitting(chosen.model, layer)
    quick = [name for name in fitting if not _is_slow(name)]
    wanted = pickers.several(
        "Methods",
        fitting,
        key="methods",
        default=quick,
        name=lambda name: cam.METHODS[name].title,
        help="  \n".join(f"**{m.title}** ({m.source}; {m.cost}): {m.help}" for m in cam.METHODS.values()),
    )
    if reasons:
        st.caption("  \n".join(reasons))
    target = _target(chosen)
    (found,) = _maps([_Place(chosen, layer, (target,))], wanted, signed=signed)
    return [
        _picture(chosen, found[name, target], cam.METHODS[name].title) for name in wanted if (name, target) in found
    ]


def layers(chosen: Selection, layer: str, *, signed: bool) -> list[MapPicture]:
    """One method at several layers."""
    names = [info.name for info in chosen.model.layers.spatial]
    depths = [stage.representative for stage in chosen.model.layers.stages]
    method = _method(chosen.model, needs_any_layer=True)
    wanted = pickers.several(
        "Layers",
        names,
        key="layers",
        default=list(dict.fromkeys([*depths[-4:], layer])),
        help="Early layers have many small cells that know little of the class; late ones know the class, but not "
        "exactly where. Type to search all layers.",
    )
    target = _target(chosen)
    places = [_Place(chosen, name, (target,), name) for name in wanted]
    return [
        _picture(chosen, found[method, target], place.name)
        for place, found in zip(places, _maps(places, [method], signed=signed), strict=True)
        if found
    ]


def classes(chosen: Selection, layer: str, *, signed: bool) -> list[MapPicture]:
    """One method for several classes, on one scale: at first those that the network answers."""
    model = chosen.model
    method = _method(model, layer=layer, needs_class=True)
    wanted = pickers.several(
        "Classes",
        range(model.num_classes),
        key="cam_classes",
        default=list(compute.run(LoadedModel.predict, model, chosen.image, k=_NUM_CLASSES).indices),
        name=lambda index: f"{index} {model.class_names[index]}",
        of=f"{chosen.image.digest} {model.spec.weights_hash}",
        help="At first the five most probable ones. Type to search all classes.",
    )
    (found,) = _maps([_Place(chosen, layer, tuple(wanted))], [method], signed=signed)
    return [_picture(chosen, found[method, target], model.class_names[target]) for target in wanted if found]


def two_classes(chosen: Selection, layer: str, *, signed: bool) -> list[MapPicture]:
    """One class against another: both maps, their difference, and Finer-CAM."""
    model = chosen.model
    method = _method(model, layer=layer, needs_class=True)
    answer = compute.run(LoadedModel.predict, model, chosen.image, k=2).indices
    columns = st.columns(2)
    options = range(model.num_classes)

    def class_name(index: int) -> str:
        return f"{index} {model.class_names[index]}"

    with columns[0]:
        target = _target(chosen)
        of = f"{chosen.image.digest} {model.spec.weights_hash} {target}"
        first = pickers.choose("This class", options, key="class", default=target, name=class_name, of=of)
    with columns[1]:
        likely = next(i for i in (*answer, 0) if i != first)
        others = [i for i in options if i != first]
        other = pickers.choose("but not this", others, key="not", default=likely, name=class_name, of=f"{of} {first}")
    # Unclipped, also where what is drawn is not, so that the difference needs no maps of its own.
    (found,) = _maps([_Place(chosen, layer, (first, other))], [method], signed=True)
    finer = compute.run(cam.explain, model, chosen.image, method="finer_cam", layer=layer, target=first, signed=signed)
    named = model.class_names
    pictures = []
    if found:
        one, another = found[method, first], found[method, other]
        pictures = [
            _picture(chosen, one if signed else _clipped(one), named[first]),
            _picture(chosen, another if signed else _clipped(another), named[other]),
            _picture(chosen, cam.difference(one, against=another), f"{named[first]}, not {named[other]}"),
        ]
    pictures.append(_picture(chosen, finer, f"Finer-CAM: {named[first]}, not its likes"))
    # Two methods meet here in shared colours, which say something only within one unit.
    return [replace(picture, unit=_unit_of(str(picture.run.settings["method"]))) for picture in pictures]


def networks(chosen: Selection, layer: str, *, signed: bool) -> list[MapPicture]:
    """The same picture in several networks, each at its own default layer and for the class of the same name."""
    trained = chosen.model.spec.is_trained
    here = str(st.session_state["model"]) if trained else chosen.model.spec.title
    names = pickers.ready_networks()
    ready = list(dict.fromkeys([here, *names]))
    wanted = pickers.several(
        "Networks",
        ready,
        key="networks",
        default=ready[:2],
        name=lambda network: names.get(network, network),
        most=4,
        help="Networks whose weights are on this machine. Each is loaded when it is chosen.",
    )
    method = _method(chosen.model, needs_any_layer=True, needs_class=True)
    if len(ready) == 1:
        st.caption("No other network is ready on this machine; the page Networks says how to add one.")
    places = []
    for network in wanted:
        other = chosen if network == here else replace(chosen, model=compute.model(network))
        if (place := _in_network(other, chosen, layer, method)) is not None:
            places.append(place)
    return [
        _picture(place.chosen, found[method, place.targets[0]], place.name)
        for place, found in zip(places, _maps(places, [method], signed=signed), strict=True)
        if found
    ]


def _in_network(other: Selection, chosen: Selection, layer: str, method: str) -> _Place | None:
    model, title = other.model, other.model.spec.title
    verdict = doctor.verdict(model, cam.METHODS[method].needs)
    if not verdict.usable:
        st.caption(f"{frame.plain(title)}: {frame.plain(verdict.reason)}")
        return None
    wanted = chosen.model.class_names[_target(chosen)]
    target = model.class_names.index(wanted) if wanted in model.class_names else _first(other)
    return _Place(other, layer if model is chosen.model else cam.default_layer(model), (target,), title)


def side_by_side(pictures: Sequence[MapPicture], look: Look, comparison: str) -> MapPicture | None:
    """The maps side by side, and one of them enlarged; returns that one."""
    if not pictures:
        st.info("Nothing to show yet: choose what to compare above, or run it.")
        return None
    wall, one = gallery.sides()
    with wall:
        chosen, scale = gallery.grid(pictures, look, what=f"{comparison} side by side")
    with one:
        closeup.draw(chosen, scale, look)
        frame.caption(chosen.chosen, chosen.title, f"{chosen.run.seconds:.2f} s")
    return chosen


def _target(chosen: Selection) -> int:
    """The class chosen in the sidebar, else the network's first answer."""
    return _first(chosen) if chosen.target is None else chosen.target


def _first(chosen: Selection) -> int:
    if not chosen.model.num_classes:
        return 0
    return compute.run(LoadedModel.predict, chosen.model, chosen.image, k=1).indices[0]


def _fitting(model: LoadedModel, layer: str) -> tuple[list[str], list[str]]:
    """Methods that are right for the network at the layer, and a sentence for each group that is not."""
    fitting: list[str] = []
    reasons: dict[str, list[str]] = {}
    for name, method in cam.METHODS.items():
        verdict = doctor.verdict(model, method.needs)
        if verdict.status is not doctor.Status.WORKS:
            said = "Only approximate" if verdict.usable else "Not here"
            reasons.setdefault(f"{said}: {{}}: {verdict.reason} {verdict.instead}", []).append(method.title)
        if not verdict.usable:
            continue
        if method.is_fixed and layer != cam.default_layer(model):
            reason = (
                f"Not here: {{}}: it is defined at {cam.default_layer(model)} only, the maps that the head averages."
            )
            reasons.setdefault(reason, []).append(method.title)
        else:
            fitting.append(name)
    return fitting, [frame.plain(reason.format(", ".join(titles))) for reason, titles in reasons.items()]


def _is_slow(name: str) -> bool:
    return cam.METHODS[name].per_channel


def _method(
    model: LoadedModel, *, layer: str | None = None, needs_any_layer: bool = False, needs_class: bool = False
) -> str:
    """The picker of one method; at first a quick one."""
    fitting, _ = _fitting(model, layer or cam.default_layer(model))
    offered = [
        name
        for name in fitting
        if not (needs_any_layer and cam.METHODS[name].is_fixed)
        and not (needs_class and not cam.METHODS[name].needs_class)
    ]
    return pickers.choose(
        "Method",
        offered,
        key="method",
        default="grad_cam" if "grad_cam" in offered else next((n for n in offered if not _is_slow(n)), None),
        name=lambda name: cam.METHODS[name].title,
        help="  \n".join(
            f"**{cam.METHODS[name].title}** ({cam.METHODS[name].cost}): {cam.METHODS[name].help}" for name in offered
        ),
    )


def _maps(places: Sequence[_Place], names: Sequence[str], *, signed: bool) -> list[Maps]:
    """For each place the maps of the methods that are there: quick ones at once, slow ones on demand."""
    quick = tuple(name for name in names if not _is_slow(name))
    found: list[dict[tuple[str, int], Heatmap]] = [
        compute.run(cam.explain_many, place.chosen.model, place.chosen.image, **_settings(place, quick, signed))
        if quick
        else {}
        for place in places
    ]
    for name in names:
        if places and _is_slow(name):
            # After a cancel there may be maps of the first places only.
            for maps, more in zip(found, _slow(places, name, signed=signed), strict=False):
                maps.update(more)
    return list(found)


def _settings(place: _Place, names: tuple[str, ...], signed: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"methods": names, "targets": place.targets, "layer": place.layer, "signed": signed}


def _slow(places: Sequence[_Place], name: str, *, signed: bool) -> Sequence[Maps]:
    """The maps of a slow method, one place after the other in one job; of as many places as are there."""
    method = cam.METHODS[name]
    total = sum(place.num_channels for place in places)

    def make(on_step: Callable[[Step], None]) -> tuple[Maps, ...]:
        made: list[Maps] = []
        done = 0
        for place in places:

            def tell(step: Step, before: int = done) -> None:
                on_step(Step(before + step.done, total, (*made, step.partial)))

            model, image = place.chosen.model, place.chosen.image
            made.append(cam.explain_many(model, image, on_step=tell, **_settings(place, (name,), signed)))
            done += place.num_channels
        return tuple(made)

    def so_far(maps: Sequence[Maps]) -> None:
        place = places[len(maps) - 1]
        heatmap = maps[-1][name, place.targets[0]]
        values = heatmap.values
        scale = render.scale_of(values, signed=True) if signed else render.scale_of(values, low=0.0)
        named = [place.name or heatmap.layer, heatmap.target_label]
        st.caption(f"In the making: {frame.plain(', '.join(filter(None, named)))}, {heatmap.so_far}.")
        show.so_far(place.chosen, values, key=name, scale=scale, unit=_UNIT)

    seconds = sum(
        place.num_channels * compute.run(_forward_seconds, place.chosen.model, place.chosen.image) for place in places
    )
    keys = [
        work.key_of(cam.explain_many, place.chosen.model, place.chosen.image, _settings(place, (name,), signed))
        for place in places
    ]
    first = places[0]
    about = work.described(first.chosen.model, first.chosen.image, _settings(first, (name,), signed))
    about |= {
        "network": ", ".join(dict.fromkeys(place.chosen.model.spec.title for place in places)),
        "layer": ", ".join(dict.fromkeys(place.layer for place in places)),
    }
    found: Sequence[Maps] | None = work.until_done(
        make,
        key=repr(keys),
        name=name,
        title=method.title,
        cost=f"{method.title}: {method.cost}, {total:,} here, at most about {work.duration(seconds)}.",
        show=so_far,
        about=about,
    )
    return found or ()


def _forward_seconds(model: LoadedModel, image: InputImage) -> float:
    """Time of one forward, the better of two."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        model.predict(image)
        times.append(time.perf_counter() - start)
    return min(times)


def _unit_of(method: str) -> str:
    """What the values of its maps are, told from those of other methods that they cannot be compared with."""
    return f"{_UNIT} by {cam.METHODS[cam.METHODS[method].variant_of or method].title}"


def _clipped(heatmap: Heatmap) -> Heatmap:
    """What ``cam.explain`` gives without ``signed``, from what it gives with it."""
    values = heatmap.values.clip(min=0) if cam.METHODS[heatmap.method].clips else heatmap.values
    run = replace(heatmap.run, settings={**heatmap.run.settings, "signed": False})
    return replace(heatmap, values=values, run=run)


def _picture(chosen: Selection, heatmap: Heatmap, name: str) -> MapPicture:
    title = f"{cam.METHODS[heatmap.method].title} at {heatmap.layer}"
    if heatmap.target_label:
        title += f" for {heatmap.target_label}"
    if heatmap.so_far:
        title += f", cancelled after {heatmap.so_far}"
    # The paper's CAM keeps what speaks against; beside maps that do not, it is cut at zero, too, unless asked for.
    keeps = heatmap.run.settings.get("signed", True) or heatmap.method != "cam"
    values, code = (heatmap.values, "result.values") if keeps else (heatmap.values.clip(min=0), _CLIPPED)
    return MapPicture(name, values, heatmap.run, code, chosen, title, _UNIT)


COMPARISONS: dict[str, Callable[..., Sequence[MapPicture]]] = {
    "methods": methods,
    "layers": layers,
    "classes": classes,
    "two classes": two_classes,
    "networks": networks,
}
