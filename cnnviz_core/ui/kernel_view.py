"""The parts of the filter page: the wall of kernels, one enlarged, its frequencies, and its answer to the photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.methods import feature_maps, filters
from cnnviz_core.results import Kernels
from cnnviz_core.ui import compute, frame, pickers, show
from cnnviz_core.ui.pickers import Selection

_MOST_NAMED = 12
_KERNEL_PX = 200
_FREQUENCIES_PX = 300


@dataclass(frozen=True)
class Drawing:
    """How kernels are drawn: each by itself or by the layer's largest weight, and on which scale of pixels."""

    scale: str
    undo_normalisation: bool


def is_coloured(kernels: Kernels) -> bool:
    """Whether the kernels read red, green and blue."""
    return kernels.reads_image and kernels.values.shape[1] == 3


def order(kernels: Kernels) -> NDArray[np.intp]:
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
    return filters.order(kernels, by=by)


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
    return Drawing("kernel" if each else "layer", undo)


def wall(chosen: Selection, kernels: Kernels, order: NDArray[np.intp], kernel: int, drawing: Drawing) -> None:
    """All kernels of the layer; where each reads many channels, the slices of the chosen one."""
    num, reads, height, width = kernels.values.shape
    by: Literal["channel", "layer"] = "channel" if drawing.scale == "kernel" else "layer"
    if is_coloured(kernels):
        pixels = render.kernels_rgb(kernels, scale=drawing.scale, undo_normalisation=drawing.undo_normalisation)
        mosaic = render.rgb_mosaic(pixels[order])
        show.wall(mosaic, order, key="kernel", selected=kernel, what=f"{num} kernels", hints=_hints(kernels, order))
        st.caption("Zero is mid grey; a kernel answers most to a patch that looks like it.")
    elif reads == 1:
        values = kernels.values[order][:, 0]
        scale = render.scale_of(values, mode=by, signed=True)
        mosaic = render.mosaic(values, scale=scale)
        show.wall(mosaic, order, key="kernel", selected=kernel, what=f"{num} kernels", hints=_hints(kernels, order))
        show.colour_bar(scale, None, "weight")
        st.caption("Each kernel reads one channel. Zero is the middle of the colour scale.")
    else:
        values = kernels.values[kernel]
        scale = render.scale_of(values, mode=by, signed=True)
        mosaic = render.mosaic(values, scale=scale)
        hints = [
            f"input channel {i}: norm {render.format_value(float(np.linalg.norm(v)))}" for i, v in enumerate(values)
        ]
        show.wall(
            mosaic, range(reads), key="kernel_input", selected=-1, what=f"{reads} slices", hints=hints, tile_px=48
        )
        show.colour_bar(scale, None, "weight")
        st.caption(
            f"The {reads} slices of kernel {kernel}, one per input channel, {height} × {width} weights each. These "
            "channels have no colour of their own. Choose another kernel by its number."
        )
    title = f"Kernels of {kernels.layer}"
    show.wall_downloads(
        chosen, mosaic, kernels.run, key="kernels", title=title, values=kernels.values, code="result.values"
    )


def _hints(kernels: Kernels, order: NDArray[np.intp]) -> list[str]:
    lengths = filters.norms(kernels)
    return [f"kernel {k}: norm {render.format_value(float(lengths[k]))}" for k in order]


def enlarged(chosen: Selection, kernels: Kernels, kernel: int, drawing: Drawing) -> None:
    """One kernel, its numbers, its frequencies and its downloads."""
    values = kernels.values[kernel]
    pixels = _picture(kernels, kernel, drawing)
    factor = max(1, _KERNEL_PX // max(pixels.shape[:2]))
    reads = values.shape[0]
    row = st.container(horizontal=True)
    with row.container(width=_KERNEL_PX):
        st.image(render.png(pixels.repeat(factor, axis=0).repeat(factor, axis=1)), width=_KERNEL_PX)
        st.caption(
            f"Kernel {kernel}: {values.shape[1]} × {values.shape[2]}, reads {reads} channel{'s' * (reads > 1)}, norm "
            f"{render.format_value(float(filters.norms(kernels)[kernel]))}."
        )
    if values.shape[-1] > 1:
        with row.container(width=_FREQUENCIES_PX):
            response = filters.frequency_response(kernels, kernel=kernel)
            st.plotly_chart(render.frequency_figure(response), key="frequencies", height=_KERNEL_PX + 60)
            st.caption(
                "What gratings it answers to: the middle is even areas, the edge the finest stripes; two bright "
                "spots mean "
                "stripes across the line between them."
            )
    show.downloads(
        chosen,
        kernels.run,
        key="kernel",
        title=f"Kernel {kernel} of {kernels.layer}",
        figure=lambda: render.figure_png(
            pixels, title=f"Kernel {kernel} of {kernels.layer}", caption=chosen.model.spec.title
        ),
        exact=lambda: render.png(pixels),
        values=values,
        code=f"result.values[{kernel}]",
    )


def _picture(kernels: Kernels, kernel: int, drawing: Drawing) -> show.Pixels:
    if is_coloured(kernels):
        every = render.kernels_rgb(kernels, scale=drawing.scale, undo_normalisation=drawing.undo_normalisation)
        one: show.Pixels = every[kernel]
        return one
    mean = kernels.values[kernel].mean(axis=0)
    return render.colourise(mean, scale=render.scale_of(mean, signed=True))


def findings(kernels: Kernels) -> None:
    """Kernels that do nothing, and pairs that do the same."""
    dead = filters.dead_kernels(kernels)
    if len(dead):
        named = ", ".join(str(k) for k in dead[:_MOST_NAMED]) + (", …" if len(dead) > _MOST_NAMED else "")
        st.caption(f"**{len(dead)} dead**, with a norm below 1 % of the layer’s median: {named}.")
    pairs = filters.duplicate_pairs(kernels)
    if pairs:
        named = ", ".join(f"{p.first} and {p.second} ({p.cosine:+.2f})" for p in pairs[:_MOST_NAMED])
        st.caption(f"**{len(pairs)} pairs nearly the same or opposite**, cosine beyond ±0.95: {named}.")
    if not len(dead) and not pairs:
        st.caption("No dead kernels, and no two that are nearly the same or opposite.")


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
