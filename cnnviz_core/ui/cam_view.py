"""The parts of the CAM page: what is compared with what, and the maps of each comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import streamlit as st

from cnnviz_core import doctor, render
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import Heatmap
from cnnviz_core.ui import closeup, compute, frame, gallery, pickers, show, work
from cnnviz_core.ui.gallery import Look, MapPicture
from cnnviz_core.ui.pickers import Selection

_UNIT = "evidence"
_CLIPPED = "result.values.clip(min=0)"
_NUM_CLASSES = 5


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
    found = _quick(chosen, tuple(n for n in wanted if n in quick), (target,), layer, signed=signed)
    for name in wanted:
        if _is_slow(name) and (slow := _slow(chosen, name, target, layer, signed=signed)):
            found |= slow
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
    return [
        _picture(chosen, _quick(chosen, (method,), (target,), name, signed=signed)[method, target], name)
        for name in wanted
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
    found = _quick(chosen, (method,), tuple(wanted), layer, signed=signed)
    return [_picture(chosen, found[method, target], model.class_names[target]) for target in wanted]


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
    found = _quick(chosen, (method,), (first, other), layer, signed=signed)
    finer = compute.run(cam.explain, model, chosen.image, method="finer_cam", layer=layer, target=first, signed=signed)
    difference = compute.run(cam.contrast, model, chosen.image, method=method, layer=layer, target=first, against=other)
    named = model.class_names
    return [
        _picture(chosen, found[method, first], named[first]),
        _picture(chosen, found[method, other], named[other]),
        _picture(chosen, difference, f"{named[first]}, not {named[other]}"),
        _picture(chosen, finer, f"Finer-CAM: {named[first]}, not its likes"),
    ]


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
    pictures = []
    for network in wanted:
        other = chosen if network == here else replace(chosen, model=compute.model(network))
        if (picture := _in_network(other, chosen, layer, method, signed=signed)) is not None:
            pictures.append(picture)
    return pictures


def _in_network(other: Selection, chosen: Selection, layer: str, method: str, *, signed: bool) -> MapPicture | None:
    model, title = other.model, other.model.spec.title
    verdict = doctor.verdict(model, cam.METHODS[method].needs)
    if not verdict.usable:
        st.caption(f"{frame.plain(title)}: {frame.plain(verdict.reason)}")
        return None
    wanted = chosen.model.class_names[_target(chosen)]
    target = model.class_names.index(wanted) if wanted in model.class_names else _first(other)
    place = layer if model is chosen.model else cam.default_layer(model)
    heatmap = _quick(other, (method,), (target,), place, signed=signed)[method, target]
    return _picture(other, heatmap, title)


def side_by_side(pictures: Sequence[MapPicture], look: Look, comparison: str) -> MapPicture | None:
    """The maps side by side, and one of them enlarged; returns that one."""
    if not pictures:
        st.info("Nothing to show yet: choose at least one method above.")
        return None
    wall, one = st.columns([3, 2], gap="medium")
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
    return cam.METHODS[name].num_forwards(2) > 1


def _method(
    model: LoadedModel, *, layer: str | None = None, needs_any_layer: bool = False, needs_class: bool = False
) -> str:
    """The picker of one quick method, which says where the slow ones are."""
    fitting, _ = _fitting(model, layer or cam.default_layer(model))
    slow = " and ".join(cam.METHODS[name].title for name in fitting if _is_slow(name))
    offered = [
        name
        for name in fitting
        if not _is_slow(name)
        and not (needs_any_layer and cam.METHODS[name].is_fixed)
        and not (needs_class and not cam.METHODS[name].needs_class)
    ]
    return pickers.choose(
        "Method",
        offered,
        key="method",
        default="grad_cam" if "grad_cam" in offered else None,
        name=lambda name: cam.METHODS[name].title,
        help="  \n".join(f"**{cam.METHODS[name].title}**: {cam.METHODS[name].help}" for name in offered)
        + (f"\n\n{slow} take a forward for each channel and each map; they are under **methods**." if slow else ""),
    )


def _quick(
    chosen: Selection, names: tuple[str, ...], targets: tuple[int, ...], layer: str, *, signed: bool
) -> dict[tuple[str, int], Heatmap]:
    return compute.run(
        cam.explain_many, chosen.model, chosen.image, methods=names, targets=targets, layer=layer, signed=signed
    )


def _slow(
    chosen: Selection, name: str, target: int, layer: str, *, signed: bool
) -> dict[tuple[str, int], Heatmap] | None:
    method = cam.METHODS[name]
    num_forwards = method.num_forwards(chosen.model.layers[layer].num_channels)
    seconds = num_forwards * compute.run(_forward_seconds, chosen.model, chosen.image)

    def so_far(found: Mapping[tuple[str, int], Heatmap]) -> None:
        values = found[name, target].values
        scale = render.scale_of(values, signed=True) if signed else render.scale_of(values, low=0.0)
        show.so_far(chosen, values, key=name, scale=scale, unit=_UNIT)

    return work.run(
        cam.explain_many,
        chosen,
        name=name,
        title=method.title,
        cost=f"{method.title}: {method.cost}, {num_forwards:,} here, at most about {work.duration(seconds)}.",
        show=so_far,
        methods=(name,),
        targets=(target,),
        layer=layer,
        signed=signed,
    )


def _forward_seconds(model: LoadedModel, image: InputImage) -> float:
    """Time of one forward, the better of two."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        model.predict(image)
        times.append(time.perf_counter() - start)
    return min(times)


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
