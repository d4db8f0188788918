import streamlit as st

from cnnviz_core.methods import filters
from cnnviz_core.ui import compute, frame, kernel_view, pickers, sidebar

chosen = sidebar.current()
model = chosen.model

with st.container(horizontal=True, vertical_alignment="bottom"):
    layer = pickers.layer(
        model, key="convolution", default=filters.default_layer(model), layers=model.layers.convolutions
    )
    kernels = compute.run(filters.compute, model, layer=layer)
    order = kernel_view.order(model, kernels)
    drawing = kernel_view.drawing(kernels)

wall, one = st.columns([3, 2], gap="medium")
with one:
    last = len(order) - 1
    kernel = pickers.number(f"Kernel, 0 to {last}", last + 1, key="kernel", default=int(order[0]), of=layer)
    kernel_view.enlarged(chosen, kernels, kernel, drawing)
with wall:
    kernel_view.wall(chosen, kernels, order, kernel, drawing)
    kernel_view.findings(model, kernels)
kernel_view.answer(chosen, kernels, kernel)
frame.about(filters.__doc__)
