"""The parts of the inversion page: which layers, the photo rebuilt from each live, one of them closely, the losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import features, render
from cnnviz_core.methods import deep_dream, inversion
from cnnviz_core.results import Inversion, Predictions
from cnnviz_core.ui import charts, compute, frame, pickers, show, work
from cnnviz_core.ui.pickers import Selection

_MOST_LAYERS = 8
_PREVIEW = {"steps": 48, "size_px": 96}
_TILE_PX = 192
_SIDE_PX = 420
_HINT = "Choose fewer layers or a smaller size"


@dataclass(frozen=True)
class Asked:
    """What is to be rebuilt, and how.

    Attributes:
        layers: From what.
        steps: Steps for each.
        size_px: Longer side at which the network sees the photo.
        variation: Weight of the total variation.
        seed: Of the noise to start from.
    """

    layers: tuple[str, ...]
    steps: int
    size_px: int
    variation: float
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of :func:`inversion.invert`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def preview(self) -> Asked:
        """The same, small and quick."""
        return replace(self, **{name: min(getattr(self, name), most) for name, most in _PREVIEW.items()})


def question(chosen: Selection) -> Asked:
    """Asks from which layers, and how."""
    model = chosen.model
    offered = [info.name for info in model.layers if info.kind not in pickers.PASS_ON]
    default = features.stage_layers(model)
    own = max(model.preprocessing.input_px)
    sizes = sorted({size for size in (64, 96, 128, 160, 224) if size < own} | {own})
    layers = pickers.several(
        "Layers",
        offered,
        key="inversion_layers",
        default=[name for name in default if name in offered][-_MOST_LAYERS:],
        of=model.spec.title,
        most=_MOST_LAYERS,
        help="Each gives a picture. At first the end of every stage, from early to late.",
    )
    with frame.row():
        steps = st.slider(
            "Steps",
            16,
            1024,
            256,
            16,
            key="inversion_steps",
            bind="query-params",
            help="For each layer. Late layers need more until the loss falls no further.",
        )
        size = pickers.choose(
            "Size, pixels",
            sizes,
            key="inversion_size",
            default=own,
            of=model.spec.title,
            help="Side of the picture that the network sees. Smaller is quicker, but not what it was trained on.",
        )
        with st.popover("Settings", icon=":material/tune:", key="inversion_settings"):
            variation = st.slider(
                "Smoothness",
                0.0,
                5.0,
                0.0,
                0.25,
                key="variation",
                bind="query-params",
                help="Weight of the total variation: differences between neighbouring pixels are held down. It makes "
                "pictures calmer, which is then not the layer’s doing.",
            )
            seed = st.number_input(
                "Seed",
                0,
                9999,
                0,
                key="inversion_seed",
                bind="query-params",
                help="Of the noise to start from. What changes with the seed, the layer does not hold.",
            )
    return Asked(tuple(layers), steps, size, variation, int(seed))


def _seconds(chosen: Selection, asked: Asked) -> float:
    """How long it will take."""
    spatial = [name for name in asked.layers if chosen.model.layers[name].cells is not None]
    deepest = features.default_layer(chosen.model)
    paces = [compute.run(deep_dream.seconds_per_pixel, chosen.model, layer=name) for name in spatial]
    paces += [compute.run(deep_dream.seconds_per_pixel, chosen.model, layer=deepest)] * (len(asked.layers) - len(paces))
    return sum(paces) * asked.steps * asked.size_px**2


def find(chosen: Selection, asked: Asked) -> Inversion | None:
    """The pictures: small ones at once, the asked ones on demand, both live."""
    num, quick = len(asked.layers), asked.preview

    def draw_one(one: Asked, *, name: str, title: str, at_once: bool | None) -> Inversion | None:
        found: Inversion | None = work.run(
            inversion.invert,
            chosen,
            name=name,
            title=title,
            cost=f"{num} {'layer' if num == 1 else 'layers'}, {one.steps} steps each at {one.size_px} pixels: about "
            f"{work.duration(_seconds(chosen, one))}.",
            show=partial(_wall, key=f"{name}_so_far"),
            hint=_HINT,
            at_once=at_once,
            **one.settings,
        )
        return found

    return work.asked_or_quick(
        draw_one,
        asked,
        quick,
        name="inversion",
        title="Rebuild",
        quick_title="Quick rebuilding",
        below=f"a quick, rough rebuilding in {quick.steps} steps at {quick.size_px} pixels",
    )


def _pixels(found: Inversion) -> show.Pixels:
    """(L + 1, H, W, 3): the photo, then what each layer gave."""
    rebuilt = np.rint(found.pictures * 255).astype(np.uint8)
    return np.concatenate([found.original[None], rebuilt])


def _wall(found: Inversion, *, key: str) -> None:
    pictures = _pixels(found)
    show.mosaic_wall(
        render.rgb_mosaic(pictures, tile_px=_TILE_PX),
        key=key,
        labels=["the photo", *found.layers],
        hints=["What the network sees", *(f"{name}: relative error {e:.2g}" for name, e in _errors(found))],
        aria="The photo, and what each layer gave back",
        tile_px=_TILE_PX,
        smooth=True,
        max_height=None,
    )


def _errors(found: Inversion) -> list[tuple[str, float]]:
    return [(name, float(error)) for name, error in zip(found.layers, found.errors, strict=True)]


def draw(chosen: Selection, found: Inversion) -> None:
    """All pictures side by side with their numbers, one closely, and how the losses fell."""
    title = "Feature inversion"
    _wall(found, key="inversion_wall")
    frame.caption(chosen, title, f"{found.losses.shape[1]} steps for each layer", f"{found.run.seconds:.1f} s")
    st.caption(
        "Each picture was made from noise until the layer answered to it as to the photo. Where pictures differ from "
        "the photo, the layer does not mind; a large error means that the search did not get there yet, and then "
        "nothing can be said."
    )
    _table(found)
    _download(chosen, found, title)
    _curves(chosen, found)


def _table(found: Inversion) -> None:
    """Numbers beside the pictures."""
    rows = {
        "Layer": list(found.layers),
        "Relative error": [f"{error:.2g}" for error in found.errors],
        "Away from the photo": [f"{error:.0f} of 255" for error in found.pixel_errors],
    }
    if any(found.answers):
        rows["The network’s answer"] = [_words(answer) if answer else "" for answer in found.answers]
    st.dataframe(rows, hide_index=True, width="stretch", key="inversion_table")
    photo = f" Its answer to the photo: {frame.plain(_words(found.original_answer))}." if found.original_answer else ""
    st.caption(
        "The relative error is what is left of the loss, 0 for a picture that the layer cannot tell from the photo and "
        f"about 1 for one that has nothing of it. Away from the photo: root mean square over all pixels.{photo}"
    )


def _words(answer: Predictions) -> str:
    return f"{answer.labels[0]}, {100 * answer.probabilities[0]:.1f} %"


def _download(chosen: Selection, found: Inversion, title: str) -> None:
    caption = f"{chosen.model.spec.title}, {chosen.image.name}: the photo, {', '.join(found.layers)}"
    side_by_side = np.concatenate(list(_pixels(found)), axis=1)
    show.downloads(
        chosen,
        found.run,
        key="inversion",
        title=title,
        figure=lambda: render.figure_png(side_by_side, title=title, caption=caption),
        exact=lambda: render.png(side_by_side),
        values=found.pictures,
        code="result.pictures",
        shown={"order": ["the photo", *found.layers]},
    )


def _curves(chosen: Selection, found: Inversion) -> None:
    """How far the losses fell."""
    if not found.losses.shape[1]:
        return
    steps = np.linspace(0, 1, found.losses.shape[1], dtype=np.float32)
    series = dict(zip(found.layers, np.minimum(found.losses, 1.0), strict=True))
    charts.draw(
        render.curves_figure(steps, series, x_title="steps done", unit="loss, cut off at 1"),
        key="inversion_curves",
        title="Losses of a feature inversion",
        run=found.run,
        chosen=chosen,
        table=lambda: {
            "step": list(range(1, found.losses.shape[1] + 1)),
            **{f"loss, {name}": losses.tolist() for name, losses in zip(found.layers, found.losses, strict=True)},
        },
        code="result.losses",
    )
    st.caption("A curve that still falls at its end says that more steps would bring the picture closer.")
