"""The parts of the occlusion page: the patch, its way over the picture with a live map, and the patch moved by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import doctor, render
from cnnviz_core.methods import cam, occlusion, saliency
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import Occlusion
from cnnviz_core.ui import charts, closeup, compute, frame, gallery, pickers, screen, show, work
from cnnviz_core.ui.components import heat_view
from cnnviz_core.ui.gallery import Look, MapPicture
from cnnviz_core.ui.pickers import Selection

_PREVIEW_PER_SIDE = 7
_SIDE_PX = 360  # the map and the charts of the places stand side by side where each has as much room
_HAND_CELLS = 32
_HAND_PX = 420
_CELL = re.compile(r"(\d{1,4})~(\d{1,4})")


@dataclass(frozen=True)
class Patch:
    """What covers the picture.

    Attributes:
        patch_px: Its side, in pixels of the input.
        stride_px: From one place to the next.
        baseline: What it shows.
    """

    patch_px: int
    stride_px: int
    baseline: str

    def settings(self, target: int | None) -> dict[str, Any]:
        """Arguments of :func:`occlusion.explain`."""
        return {
            "patch_px": self.patch_px,
            "stride_px": self.stride_px,
            "baseline": self.baseline,
            "target": target,
        }


def patch(model: LoadedModel) -> Patch:
    """Asks for the patch; at first a 14th of the picture's side, moved by half of that."""
    side = min(model.preprocessing.input_px)
    first = max(4, side // 14)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        patch_px = st.slider(
            "Patch, pixels",
            2,
            max(3, side // 2),
            min(first, max(3, side // 2)),
            key="patch",
            bind="query-params",
            help="Side of the covering square, in pixels of what the network sees. Smaller than the object it finds "
            "parts, larger it hides all at once.",
        )
        stride_px = st.slider(
            "Step, pixels",
            1,
            patch_px,
            max(1, patch_px // 2),
            key="stride",
            bind="query-params",
            help="How far the patch moves each time. Small steps give fine maps and take longer.",
        )
        baseline = pickers.choose(
            "The patch shows",
            list(occlusion.BASELINES),
            key="baseline",
            name=lambda name: occlusion.BASELINES[name].title,
            help="  \n".join(f"**{b.title}**: {b.help}" for b in occlusion.BASELINES.values()),
        )
    return Patch(patch_px, stride_px, baseline)


def find(chosen: Selection, patch: Patch) -> Occlusion:
    """The map: a coarse one at once, the asked one on demand and live."""
    settings = patch.settings(_target(chosen))
    num = occlusion.num_positions(chosen.model, patch_px=patch.patch_px, stride_px=patch.stride_px)
    seconds = compute.run(
        occlusion.estimate_seconds,
        chosen.model,
        chosen.image,
        patch_px=patch.patch_px,
        stride_px=patch.stride_px,
        baseline=patch.baseline,
    )
    found: Occlusion | None = work.run(
        occlusion.explain,
        chosen,
        name="occlusion",
        title="Occlusion",
        cost=f"{num:,} places, as many forwards: about {work.duration(seconds)}.",
        show=lambda found: show.so_far(
            chosen, found.heatmap, key="occlusion", scale=render.scale_of(found.heatmap, signed=True), unit="score"
        ),
        **settings,
    )
    if found is not None:
        return found
    side = max(1, min(chosen.model.preprocessing.input_px) // _PREVIEW_PER_SIDE)
    st.caption(
        f"Below: a coarse preview with a patch of {side} pixels in steps of {side}. Run it for the map you asked for."
    )
    return compute.run(
        occlusion.explain, chosen.model, chosen.image, **Patch(side, side, patch.baseline).settings(_target(chosen))
    )


def _target(chosen: Selection) -> int:
    if chosen.target is not None:
        return chosen.target
    return compute.run(LoadedModel.predict, chosen.model, chosen.image, k=1).indices[0]


def look() -> Look:
    """Colours of the map."""
    return gallery.look("occlusion", shared=False, smooth=False)


def draw(chosen: Selection, found: Occlusion, look: Look) -> MapPicture:
    """The map of drops enlarged, and what happened at each place; returns the map."""
    about = f"patch {found.patch_px} px, step {found.stride_px} px"
    title = f"Occlusion, drop of the score of {found.target_label}, {about}"
    drops = MapPicture("Occlusion", found.heatmap, found.run, "result.heatmap", chosen, title, "score")
    sides = st.grid(2, min_column_width=_SIDE_PX, gap="medium")
    with sides.cell():
        closeup.draw(drops, look.scales([drops])[0], look)
        frame.caption(chosen, title, f"{found.num_forwards:,} forwards", f"{found.run.seconds:.1f} s")
        st.caption(
            "Mean loss of the score over all patches that cover a pixel. Above 0 they hid something that speaks for "
            "the class, below 0 something against it."
        )
    with sides.cell():
        _probabilities(chosen, found)
        _winners(chosen, found)
    return drops


def others(chosen: Selection, found: Occlusion) -> list[MapPicture]:
    """Maps of the same class by methods that work in other ways, to compare with, where they fit the network."""
    pictures = []
    if doctor.verdict(chosen.model, cam.METHODS["grad_cam"].needs).usable:
        heatmap = compute.run(cam.explain, chosen.model, chosen.image, method="grad_cam", target=found.target)
        title = f"Grad-CAM at {heatmap.layer} for {found.target_label}"
        pictures.append(MapPicture("Grad-CAM", heatmap.values, heatmap.run, "result.values", chosen, title, "evidence"))
    method = saliency.METHODS["gradient"]
    if doctor.verdict(chosen.model, method.needs).usable:
        gradient = compute.run(saliency.explain, chosen.model, chosen.image, method="gradient", target=found.target)
        title = f"Gradient of class {found.target_label}"
        pictures.append(MapPicture("Gradient", gradient.map, gradient.run, "result.map", chosen, title, method.unit))
    return pictures


def _probabilities(chosen: Selection, found: Occlusion) -> None:
    """The paper's picture: the class's probability with the patch at each place."""
    figure = render.places_figure(
        found.probabilities, found.tops, found.lefts, patch_px=found.patch_px, unit="probability"
    )
    charts.draw(
        figure,
        key="probabilities",
        title=f"Probability of {found.target_label} by place",
        run=found.run,
        chosen=chosen,
        code="result.probabilities",
    )
    st.caption(
        f"Probability of {frame.plain(found.target_label)} with the patch’s centre at each place; dark is where it "
        f"hurts. Without it: {format_percent(found.clean_probability, 1)}."
    )


def _winners(chosen: Selection, found: Occlusion) -> None:
    """The class that wins with the patch at each place."""
    tried = found.classes[found.classes >= 0]
    classes, counts = np.unique(tried, return_counts=True)
    names = chosen.model.class_names
    named = {int(c): names[c] for c in classes[np.argsort(-counts)]}
    if len(named) == 1:
        st.caption(f"Wherever the patch is, the network answers {frame.plain(next(iter(named.values())))}.")
        return
    figure = render.categories_figure(found.classes, named)

    def by_place() -> charts.Table:
        rows, columns = np.indices(found.classes.shape).reshape(2, -1)
        return {
            "patch's top, px": found.tops[rows].tolist(),
            "patch's left, px": found.lefts[columns].tolist(),
            "class": [names[one] if one >= 0 else "" for one in found.classes.ravel()],
        }

    charts.draw(
        figure,
        key="winners",
        title="The class that wins by place",
        run=found.run,
        chosen=chosen,
        table=by_place,
        code="result.classes",
    )
    st.caption("The class that wins with the patch at each place.")


@st.fragment
def by_hand(chosen: Selection, patch: Patch) -> None:
    """The patch where the person puts it, and the network's answer there."""
    st.subheader("Move the patch by hand", anchor=False)
    height, width = chosen.model.preprocessing.input_px
    rows, columns = min(_HAND_CELLS, height), min(_HAND_CELLS, width)
    row, column = _hand(rows, columns)
    top = round((row + 0.5) * height / rows - patch.patch_px / 2)
    left = round((column + 0.5) * width / columns - patch.patch_px / 2)
    place: dict[str, Any] = {
        "top": max(0, min(height - patch.patch_px, top)),
        "left": max(0, min(width - patch.patch_px, left)),
        "patch_px": patch.patch_px,
        "baseline": patch.baseline,
    }
    covered = compute.run(occlusion.occlude, chosen.model, chosen.image, **place)
    answer = compute.run(occlusion.predict_occluded, chosen.model, chosen.image, k=5, **place)

    def move(cell: tuple[int, int]) -> None:
        st.session_state["hand"] = cell

    picture, bars = st.columns([2, 3], gap="medium")
    with picture:
        heat_view.show(
            render.jpeg(covered.pixels, quality=92),
            np.full((rows, columns), np.nan, dtype=np.float32),
            key="hand_view",
            aria="What the network sees, with the patch",
            lut=render.find_colour_map().lut,
            max_px=_HAND_PX,
            clickable=True,
            follow=True,
            cell=(row, column),
            on_cell=move,
        )
    with bars:
        charts.draw(
            render.probability_bars(answer.labels, answer.probabilities),
            key="hand_bars",
            title="The answer with the patch put by hand",
            run=chosen.model.provenance("occlusion.predict_occluded", 0.0, image=chosen.image, k=5, **place),
            chosen=chosen,
            code="result.probabilities",
            is_small=True,
        )
        clean = compute.run(LoadedModel.predict, chosen.model, chosen.image, k=1)
        st.caption(
            f"The answer with the patch there. Without it: {frame.plain(clean.labels[0])}, "
            f"{100 * clean.probabilities[0]:.1f} %. Click, drag, or move with the arrow keys and Enter."
        )


def _hand(rows: int, columns: int) -> tuple[int, int]:
    """The cell where the person has put the patch, at first that of the link, else the middle."""
    middle = rows // 2, columns // 2
    if "hand" not in st.session_state:
        st.session_state["hand"] = _linked_hand()
    row, column = st.session_state["hand"] or middle
    cell = min(row, rows - 1), min(column, columns - 1)
    screen.remember("hand", "" if cell == middle else f"{cell[0]}~{cell[1]}")
    return cell


def _linked_hand() -> tuple[int, int] | None:
    text = st.query_params.get("hand", "")
    numbers = _CELL.fullmatch(text)
    if text and not numbers:
        frame.notice(f"The link puts the patch at “{text[:40]}”, which is no place here; it is in the middle.")
    return (int(numbers[1]), int(numbers[2])) if numbers else None
