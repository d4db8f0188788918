"""What a fooling image does to the network that it was made for, layer by layer and by Grad-CAM, and to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from cnnviz_core import doctor, render
from cnnviz_core.images import InputImage
from cnnviz_core.methods import adversarial, cam
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import AdversarialExample, Drift, Transfer
from cnnviz_core.ui import charts, closeup, compute, frame, gallery, pickers
from cnnviz_core.ui.adversarial_view import clean_image
from cnnviz_core.ui.gallery import MapPicture
from cnnviz_core.ui.pickers import Selection

# Cosine below which two outputs count as different.
_ALIKE = 0.9


def draw(chosen: Selection, found: AdversarialExample) -> None:
    """One of several ways to see what the change does."""
    st.subheader("What the change does", anchor=False)
    look = st.segmented_control(
        "Look at",
        list(_LOOKS),
        default=next(iter(_LOOKS)),
        key="look_at",
        required=True,
        bind="query-params",
        help="**Layers**: where in the network does the attack take over? **Grad-CAM**: where does it find the "
        "evidence, before and after? **Other networks**: are they fooled, too?",
    )
    _LOOKS[str(look)](chosen, found)


def _layers(chosen: Selection, found: AdversarialExample) -> None:
    drift: Drift = _of_both(adversarial.drift, chosen.model, found)
    names = {"this change": drift.cosines, "its pixels strewn at random": drift.shuffled}
    series = {name: values.tolist() for name, values in names.items()}
    figure = render.depth_profile(drift.layers, series, unit="cosine")
    charts.draw(figure, key="drift", title="Likeness before and after, layer by layer", run=found.run, chosen=chosen)
    parted = [layer for layer, cosine in zip(drift.layers, drift.cosines, strict=True) if cosine < _ALIKE]
    place = (
        f"It first falls below {_ALIKE} at **{frame.plain(parted[0])}**."
        if parted
        else f"It never falls below {_ALIKE}."
    )
    st.markdown(f"Cosine between what each layer puts out before and after. {place}")
    st.caption(
        "1: the layer sees the same. Early layers hardly notice the change; where the line leaves that of the same "
        "change strewn at random, its aim and not its size is at work. The cosine takes all channels and places "
        "together, so layers whose outputs are mostly alike for any picture stay near 1."
    )


def _grad_cams(chosen: Selection, found: AdversarialExample) -> None:
    model = chosen.model
    verdict = doctor.verdict(model, "grad_cam")
    if not verdict.usable:
        st.info(f"Grad-CAM does not fit here: {frame.plain(verdict.reason)}")
        return
    look = gallery.look("adversarial", shared=True)
    layer = cam.default_layer(model)
    targets = tuple(dict.fromkeys((found.source, found.after.indices[0] if found.target is None else found.target)))
    pictures = []
    for target in targets:
        for when, image, selection in (
            ("before", clean_image(found), _before(chosen, found)),
            ("after", adversarial.altered_image(found), _after(chosen, found)),
        ):
            heatmap = compute.run(cam.explain, model, image, method="grad_cam", layer=layer, target=target)
            name = f"{model.class_names[target]}, {when}"
            title = f"Grad-CAM at {layer} for {name}"
            pictures.append(
                MapPicture(name, heatmap.values, heatmap.run, "result.values", selection, title, "evidence")
            )
    wall, one = gallery.sides()
    with wall:
        picked, scale = gallery.grid(pictures, look, what="Grad-CAM before and after")
        st.caption(
            "Where the evidence for a class is found in the picture as it was and as it is now, all on one scale. The "
            "change is spread over the whole picture; a map that looks sensible is no sign of a sound answer."
        )
    with one:
        closeup.draw(picked, scale, look)
        frame.caption(picked.chosen, picked.title)


def _others(chosen: Selection, found: AdversarialExample) -> None:
    here = str(st.session_state["model"]) if chosen.model.spec.is_trained else ""
    names = pickers.ready_networks()
    ready = [network for network in names if network != here]
    if not ready:
        st.info("No other network is ready on this machine; the page Networks says how to add one.")
        return
    wanted = pickers.several(
        "Networks",
        ready,
        key="others",
        default=ready[:2],
        name=lambda network: names[network],
        most=4,
        of=here,
        help="Networks whose weights are on this machine. Each is loaded when it is chosen.",
    )
    rows = [_seen_by(chosen.model, found)]
    for network in wanted:
        other = compute.model(network)
        if not other.num_classes:
            st.caption(f"{frame.plain(other.spec.title)} has no classifier, so it gives no answer.")
            continue
        rows.append(_seen_by(other, found))
    st.dataframe(rows, hide_index=True, width="stretch")
    st.caption(
        "What each network answers to the picture as it was and as it is now. Networks of one family, trained alike, "
        "are fooled together more often. One with another input size resizes the pictures, which takes part of the "
        "change away."
    )


def _seen_by(model: LoadedModel, found: AdversarialExample) -> dict[str, str]:
    seen: Transfer = _of_both(adversarial.transfer, model, found, target_label=found.target_label)
    row = {
        "Network": seen.model_title,
        "Before": f"{seen.before.labels[0]} {format_percent(seen.before.probabilities[0], 1)}",
        "After": f"{seen.after.labels[0]} {format_percent(seen.after.probabilities[0], 1)}",
        "Answer changed": "yes" if seen.is_fooled else "no",
        "Pictures resized": "yes" if seen.is_resized else "no",
    }
    if found.target_label:
        row[f"Probability of {found.target_label}"] = (
            "has no such class"
            if seen.target_before is None or seen.target_after is None
            else f"{format_percent(seen.target_before, 2)} → {format_percent(seen.target_after, 2)}"
        )
    return row


_LOOKS: Mapping[str, Callable[[Selection, AdversarialExample], None]] = {
    "layers": _layers,
    "Grad-CAM": _grad_cams,
    "other networks": _others,
}


def _before(chosen: Selection, found: AdversarialExample) -> Selection:
    return replace(chosen, image=clean_image(found), image_id="")


def _after(chosen: Selection, found: AdversarialExample) -> Selection:
    return replace(chosen, image=adversarial.altered_image(found), image_id="")


def _of_both(function: Callable[..., Any], model: LoadedModel, found: AdversarialExample, **settings: Any) -> Any:
    """A method's answer for the picture before and after, from the cache if it was computed before."""
    before, after = clean_image(found), adversarial.altered_image(found)
    return _kept((*compute.key(function, model, before), after.digest), settings, function, model, before, after)


@st.cache_data(max_entries=64, show_spinner=False)
def _kept(
    found_by: tuple[str, ...],  # noqa: ARG001 - the cache's key
    settings: dict[str, Any],
    _function: Callable[..., Any],
    _model: LoadedModel,
    _before: InputImage,
    _after: InputImage,
) -> Any:
    return _function(_model, _before, altered=_after, **settings)
