"""Charts of a training: numbers at their places, names as they are."""

from __future__ import annotations

import numpy as np

from cnnviz_core import render

NAMES = ("cat", "<b>dog</b>", "bird")
COUNTS = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])


def test_parts_are_stacked() -> None:
    figure = render.parts_figure(NAMES, {"training": np.array([5, 6, 7]), "test": np.array([1, 2, 3])})
    assert [list(bar.y) for bar in figure.data] == [[5, 6, 7], [1, 2, 3]]
    assert figure.layout.barmode == "stack"
    assert figure.layout.xaxis.ticktext[1] == "&lt;b&gt;dog&lt;/b&gt;"


def test_epochs_leave_room_for_those_to_come() -> None:
    figure = render.epochs_figure(
        [0, 1], {"training": [1.0, 0.5], "validation": [1.0, 0.8]}, unit="loss", num_epochs=10, best=1,
        level=("probe", 0.7),
    )  # fmt: skip
    assert tuple(figure.layout.xaxis.range) == (-0.3, 10.3)
    assert [list(line.y) for line in figure.data] == [[1, 0.5], [1, 0.8]]
    assert {shape.x0 for shape in figure.layout.shapes} >= {1}
    assert {shape.y0 for shape in figure.layout.shapes} >= {0.7}
    shares = render.epochs_figure([0], {"training": [0.123]}, unit="accuracy", num_epochs=1, best=0, is_share=True)
    assert shares.data[0].text == ("12.3 %",)  # for the pointer


def test_the_confusion_matrix_has_a_point_for_each_cell() -> None:
    figure = render.confusion_figure(NAMES, COUNTS, selected=(0, 1))
    heat, points = figure.data
    np.testing.assert_allclose(heat.z, [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert (points.x[5], points.y[5]) == (2, 1)
    assert points.text[1] == "cat answered as &lt;b&gt;dog&lt;/b&gt;: 1 of 4"
    (outline,) = figure.layout.shapes
    assert (outline.x0, outline.y0) == (0.5, -0.5)
    assert render.confusion_figure([str(at) for at in range(40)], np.eye(40, dtype=int)).data[0].texttemplate is None
