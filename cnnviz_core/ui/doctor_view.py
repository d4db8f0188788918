"""The parts of the doctor's page: what the network is made of, what fits it, and its layers."""

from __future__ import annotations

import math

import streamlit as st

from cnnviz_core import doctor
from cnnviz_core.doctor import Status
from cnnviz_core.layers import LayerInfo
from cnnviz_core.models import LoadedModel
from cnnviz_core.ui import frame

_SIGNS = {
    Status.WORKS: "✓\u00a0works",
    Status.APPROXIMATE: "≈\u00a0approximate",
    Status.NOT: "✕\u00a0does not apply",
}


def facts(model: LoadedModel) -> None:
    """What the network is made of."""
    st.subheader("What it is made of", anchor=False)
    found = doctor.facts(model)
    st.table(
        {
            "Property": [fact.name for fact in found],
            "This network": [frame.plain(fact.value) for fact in found],
            "What it means": [fact.meaning for fact in found],
        },
        hide_index=True,
    )


def capabilities(model: LoadedModel) -> None:
    """Every page and method: whether it fits, why, and what to use instead."""
    st.subheader("What fits it", anchor=False)
    rows = [(capability, doctor.verdict(model, name)) for name, capability in doctor.CAPABILITIES.items()]
    st.table(
        {
            "Page": [capability.page for capability, _ in rows],
            "Method": [capability.title for capability, _ in rows],
            "Verdict": [_SIGNS[verdict.status] for _, verdict in rows],
            "Why": [frame.plain(_sentence(verdict.reason)) for _, verdict in rows],
            "Use instead": [frame.plain(verdict.instead) for _, verdict in rows],
        },
        hide_index=True,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def layers(model: LoadedModel) -> None:
    """Every layer with its shape and what it can see."""
    st.subheader(f"Its {len(model.layers)} layers", anchor=False)
    st.dataframe(
        {
            "Layer": [info.name for info in model.layers],
            "Type": [info.kind for info in model.layers],
            "Output": [" × ".join(map(str, info.shape)) for info in model.layers],
            "Stride (px)": [info.stride_px for info in model.layers],
            "Receptive field": [_window(info) for info in model.layers],
            "Parameters": [info.num_params for info in model.layers],
            "Calls": [info.num_calls for info in model.layers],
        },
        hide_index=True,
        height=420,
        key="layers",
        column_config={
            "Receptive field": st.column_config.TextColumn(
                help="The window of input pixels that can reach one cell. What in fact reaches it is mostly the middle."
            ),
            "Stride (px)": st.column_config.NumberColumn(help="Input pixels from one cell to the next."),
            "Calls": st.column_config.NumberColumn(help="How often one forward uses the layer."),
        },
    )


def _window(info: LayerInfo) -> str:
    if info.receptive_field is None:
        return "not known"
    rows, cols = info.receptive_field.size_px
    return "whole picture" if math.isinf(rows) or math.isinf(cols) else f"{rows:.0f} × {cols:.0f} px"
