"""The parts of the filter page: the wall of kernels, one enlarged, its frequencies, and its answer to the photo."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.methods import feature_maps, filters
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray, Kernels
from cnnviz_core.ui import charts, compute, frame, pickers, show
from cnnviz_core.ui.pickers import Selection

_MOST_NAMED = 12
_KERNEL_PX = 200
_FREQUENCIES_PX = 300


@dataclass(frozen=True)
class Drawing:
    """How kernels are drawn: each by itself or by the layer's largest weight, and on which scale of pixels."""

    by: Literal["channel", "layer"]
    undo_normalisation: bool

    def colours(self, kernels: Kernels) -> show.Pixels:
        """Kernels over red, green and blue as colour pictures, (O, kh, kw, 3)."""
        scale = "kernel" if self.by == "channel" else "layer"
        return render.kernels_rgb(kernels, scale=scale, undo_normalisation=self.undo_normalisation)

    def scale(self, values: FloatArray) -> render.Scale:
        """Colour limits of slices, around zero."""
        return render.scale_of(values, mode=self.by, signed=True)


def is_coloured(kernels: Kernels) -> bool:
    """Whether the kernels read red, green and blue."""
    return kernels.reads_image and kernels.values.shape[1] == 3


def order(model: LoadedModel, kernels: Kernels) -> NDArray[np.intp]:
    """The order picker, and the kernels' order."""
    offered = {n: o for n, o in filters.ORDERS.items() if is_coloured(kernels) or not o.needs_colour}
    by = pickers.choose(
        "Order kernels by",
        list(offered),
        key="kernel_order",
        default="norm",
        name=lambda name: filters.ORDERS[name].title,
        help="  \n".join(f"**{o.title}**: {o.help}" for o in offered.values()),
    )
    return compute.run(_order, model, layer=kernels.layer, by=by)


def _order(model: LoadedModel, *, layer: str, by: str) -> NDArray[np.intp]:
    return filters.order(filters.compute(model, layer=layer), by=by)


def drawing(kernels: Kernels) -> Drawing:
    """The drawing settings, in a popover."""
    with st.popover("Drawing", icon=":material/palette:"):
        each = st.toggle(
            "Each kernel by itself",
            key="kernel_scale",
            bind="query-params",
            help="Off: all share one scale, so that weak kernels look weak. On: each uses its full range.",
        )
        undo = is_coloured(kernels) and st.toggle(
            "Undo the input normalisation",
            key="undo",
            bind="query-params",
            help="The network sees pixels divided by their spread. On: the kernel as it acts on the pixels themselves.",
        )
    return Drawing("channel" if each else "layer", undo)


def wall(chosen: Selection, kernels: Kernels, order: NDArray[np.intp], kernel: int, drawing: Drawing) -> None:
    """All kernels of the layer; where each reads many channels, the slices of the chosen one."""
    num, reads, height, width = kernels.values.shape
    title = f"Kernels of {kernels.layer}"
    if is_coloured(kernels):
        pixels = drawing.colours(kernels)[order]
        hints = _hints(kernels, order)
        show.wall(render.rgb_mosaic(pixels), order, key="kernel", selected=kernel, what=title, hints=hints)
        st.caption("Zero is mid grey; a kernel answers most to a patch that looks like it.")
        show.wall_downloads(
            chosen,
            kernels.run,
            key="kernels",
            title=title,
            draw=lambda tile_px: render.rgb_mosaic(pixels, tile_px=tile_px),
            order=order,
            values=kernels.values,
            code="result.values",
        )
    elif reads == 1:
        hints = _hints(kernels, order)
        _slices(chosen, kernels, kernels.values[:, 0], order, drawing, key="kernel", selected=kernel, hints=hints)
        st.caption(f"{num} kernels that each read one channel. Zero is the middle of the colour scale.")
    else:
        _strongest_slices(kernels, order, kernel, drawing)
        values = kernels.values[kernel]
        channels = np.arange(reads)
        hints = [
            f"input channel {_input_channel(kernels, kernel, c)}: norm {render.format_value(float(np.linalg.norm(v)))}"
            for c, v in enumerate(values)
        ]
        _slices(
            chosen, kernels, values, channels, drawing, key="slice", selected=_slice(kernels, kernel), hints=hints,
            kernel=kernel,
        )  # fmt: skip
        st.caption(
            f"The {reads} slices of kernel {kernel}, one per input channel, {height} × {width} weights each. "
            "These channels have no colour of their own."
        )


def _strongest_slices(kernels: Kernels, order: NDArray[np.intp], kernel: int, drawing: Drawing) -> None:
    """A wall to choose a kernel that reads many channels from: each by its slice with the largest norm."""
    lengths = np.linalg.norm(kernels.values, axis=(2, 3))
    strongest = lengths.argmax(axis=1)
    values = kernels.values[np.arange(len(lengths)), strongest][order]
    hints = [
        f"{hint}, strongest in input channel {_input_channel(kernels, int(k), int(strongest[k]))}"
        for hint, k in zip(_hints(kernels, order), order, strict=True)
    ]
    scale = drawing.scale(values)
    show.wall(
        render.mosaic(values, scale=scale),
        order,
        key="kernel",
        selected=kernel,
        what=f"Kernels of {kernels.layer}, each by its strongest slice",
        hints=hints,
        tile_px=32,
        max_height=260,
    )
    st.caption(
        f"All {len(order)} kernels, each by the slice with the largest norm. Click one to see all of its slices."
    )


def _slices(
    chosen: Selection,
    kernels: Kernels,
    values: FloatArray,
    order: NDArray[np.intp],
    drawing: Drawing,
    *,
    key: str,
    selected: int,
    hints: list[str],
    kernel: int | None = None,
) -> None:
    """A wall of slices (n, kh, kw) of the layer's kernels, or of one kernel."""
    scale = drawing.scale(values[order])
    title = f"Kernels of {kernels.layer}" if kernel is None else f"Kernel {kernel} of {kernels.layer}"
    show.wall(render.mosaic(values[order], scale=scale), order, key=key, selected=selected, what=title, hints=hints)
    show.colour_bar(scale, None, "weight")
    show.wall_downloads(
        chosen,
        kernels.run,
        key="kernels",
        title=title,
        draw=lambda tile_px: render.mosaic(values[order], scale=scale, tile_px=tile_px),
        order=order,
        values=values,
        code="result.values[:, 0]" if kernel is None else f"result.values[{kernel}]",
        scale=scale,
        unit="weight",
    )


def _hints(kernels: Kernels, order: NDArray[np.intp]) -> list[str]:
    lengths = filters.norms(kernels)
    return [f"kernel {k}: norm {render.format_value(float(lengths[k]))}" for k in order]


def _slice(kernels: Kernels, kernel: int) -> int:
    """The chosen slice of a kernel; at first its strongest."""
    clicked = st.session_state.get("slice")
    if isinstance(clicked, int) and clicked < kernels.values.shape[1]:
        return clicked
    return int(np.linalg.norm(kernels.values[kernel], axis=(1, 2)).argmax())


def _input_channel(kernels: Kernels, kernel: int, place: int) -> int:
    """Number of the layer's input channel that a kernel's slice reads; groups read channels of their own."""
    num, reads = kernels.values.shape[:2]
    return int(kernel // (num // kernels.groups) * reads + place)


def enlarged(chosen: Selection, kernels: Kernels, kernel: int, drawing: Drawing) -> None:
    """One kernel or one of its slices, its numbers, its downloads and its frequencies."""
    scale = None
    if is_coloured(kernels):
        pixels, values, code = drawing.colours(kernels)[kernel], kernels.values[kernel], f"result.values[{kernel}]"
        title = f"Kernel {kernel} of {kernels.layer}"
    else:
        place = _slice(kernels, kernel) if kernels.values.shape[1] > 1 else 0
        values, code = kernels.values[kernel, place], f"result.values[{kernel}, {place}]"
        scale = drawing.scale(values)
        pixels = render.colourise(values, scale=scale)
        title = f"Kernel {kernel} of {kernels.layer}, input channel {_input_channel(kernels, kernel, place)}"
    st.image(render.png(show.enlarged_pixels(pixels, _KERNEL_PX)), width=_KERNEL_PX)
    norm = render.format_value(float(filters.norms(kernels)[kernel]))
    st.caption(frame.plain(f"{title}. Norm of the whole kernel: {norm}."))
    show.downloads(
        chosen,
        kernels.run,
        key="kernel",
        title=title,
        figure=lambda: render.figure_png(
            pixels, title=title, caption=chosen.model.spec.title, scale=scale, unit="weight"
        ),
        exact=lambda: render.png(pixels),
        values=values,
        code=code,
    )
    if kernels.values.shape[-1] > 1:
        with st.container(width=_FREQUENCIES_PX):
            response = filters.frequency_response(kernels, kernel=kernel)
            charts.draw(
                render.frequency_figure(response),
                key="frequencies",
                title=f"Frequencies that kernel {kernel} of {kernels.layer} answers to",
                run=kernels.run,
                chosen=chosen,
                code=f"filters.frequency_response(result, kernel={kernel})",
                height=_KERNEL_PX + 60,
                is_small=True,
            )
            st.caption(
                "What gratings the kernel answers to: the middle is even areas, the edge the finest stripes; two "
                "bright spots mean stripes across the line between them."
            )


def findings(model: LoadedModel, kernels: Kernels) -> None:
    """Kernels that do nothing, and pairs that do the same."""
    dead, pairs = compute.run(_findings, model, layer=kernels.layer)
    if len(dead):
        st.caption(
            f"**{len(dead)} dead**, with a norm below 1 % of the layer’s upper quartile: "
            f"{_named(map(str, dead), len(dead))}."
        )
    if pairs:
        texts = (f"{p.first} and {p.second} ({render.format_fixed(p.cosine, 2, signed=True)})" for p in pairs)
        st.caption(
            f"**{len(pairs)} pairs nearly the same or opposite**, cosine beyond ±0.95: {_named(texts, len(pairs))}."
        )
    if not len(dead) and not pairs:
        st.caption("No dead kernels, and no two that are nearly the same or opposite.")


def _findings(model: LoadedModel, *, layer: str) -> tuple[NDArray[np.intp], filters.Pairs]:
    kernels = filters.compute(model, layer=layer)
    return filters.dead_kernels(kernels), filters.duplicate_pairs(kernels)


def _named(texts: Iterable[str], count: int) -> str:
    """The first few, and how many more there are."""
    first = ", ".join(itertools.islice(texts, _MOST_NAMED))
    return first + (f" and {count - _MOST_NAMED} more" if count > _MOST_NAMED else "")


def answer(chosen: Selection, kernels: Kernels, kernel: int) -> None:
    """The chosen kernel's feature map on the current photo."""
    st.subheader("Its answer to this picture", anchor=False)
    maps = compute.run(feature_maps.compute, chosen.model, chosen.image, layer=kernels.layer)
    values = maps.values[kernel]
    show.map_over_photo(
        chosen,
        values,
        run=maps.run,
        code=f"result.values[{kernel}]",
        title=f"{kernels.layer} answer of kernel {kernel}",
        key="kernel_answer",
        scale=render.scale_of(values),
    )
    frame.caption(chosen, kernels.layer, f"channel {kernel}, before normalisation and activation")
