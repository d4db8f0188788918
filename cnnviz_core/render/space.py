"""Points in space as points in the plane: the view that a plotly scene begins with, for a picture of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EYE = np.array([1.25, 1.25, 1.25])  # plotly's, which looks at the middle of a box of side 1, with z upwards
_LONGEST = 4.0  # times another axis; beyond it plotly draws all axes of one length
_TITLE = 0.3  # as much of the width
_AXIS_COLOUR = "#9aa0a6"


def flattened(figure: go.Figure) -> go.Figure:
    """The figure's scene as plotly first shows it, with its three axes, in the plane.

    Args:
        figure: Of three-dimensional points.
    """
    scene = figure.layout.scene
    points = [np.stack([np.asarray(trace[axis], np.float64) for axis in "xyz"], axis=1) for trace in figure.data]
    low, spans = _extent(np.concatenate([np.zeros((0, 3)), *points]))
    sides = spans / np.prod(spans) ** (1 / 3) if spans.max() <= _LONGEST * spans.min() else np.ones(3)
    flat: list[Any] = []
    notes = []
    for axis, name in enumerate(("xaxis", "yaxis", "zaxis")):
        corners = np.stack([-sides / 2, -sides / 2])
        corners[1, axis] *= -1
        ends = _seen(corners)
        flat.append(
            go.Scatter(
                x=ends[:, 0], y=ends[:, 1], mode="lines", line={"color": _AXIS_COLOUR, "width": 1}, showlegend=False
            )
        )
        notes.append({"x": ends[1, 0], "y": ends[1, 1], "xref": "x", "yref": "y", "text": scene[name].title.text or ""})
    for trace, places in zip(figure.data, points, strict=True):
        seen = _seen(((places - low) / spans - 0.5) * sides)
        marker = {"color": trace.marker.color, "symbol": trace.marker.symbol}
        flat.append(go.Scatter(x=seen[:, 0], y=seen[:, 1], mode="markers", name=trace.name, marker=marker))
        if "text" in trace.mode:
            x, y = seen[0].tolist()
            notes.append({"x": x, "y": y, "xref": "x", "yref": "y", "text": trace.text[0]})
    across = np.concatenate([np.asarray(trace.x) for trace in flat])
    room = [float(np.nanmax(across) + _TITLE * (np.nanmax(across) - np.nanmin(across)))]
    flat.append(go.Scatter(x=room, y=[0.0], mode="none", showlegend=False))  # where the right axis has its title
    drawn = go.Figure(flat)
    drawn.update_layout(height=figure.layout.height, showlegend=figure.layout.showlegend, annotations=notes)
    drawn.update_xaxes(showticklabels=False)
    drawn.update_yaxes(showticklabels=False, scaleanchor="x")
    return drawn


def _extent(points: Floats) -> tuple[Floats, Floats]:
    """The least of each coordinate, and how far the points reach from there."""
    known = points[np.isfinite(points).all(axis=1)]
    if not len(known):
        return np.zeros(3), np.ones(3)
    spans = np.ptp(known, axis=0)
    return known.min(axis=0), np.where(spans > 0, spans, 1.0)


def _seen(points: Floats) -> Floats:
    """(N, 3) around the middle of the box, as seen from the eye, nearer ones larger: (N, 2)."""
    ahead = -_EYE / np.linalg.norm(_EYE)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    depth = (points - _EYE) @ ahead
    seen: Floats = np.stack([points @ right, points @ up], axis=1) / depth[:, None]
    return seen
