"""What is to be excited: numbers by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cnnviz_core import objectives
from cnnviz_core.errors import BadSetting
from cnnviz_core.models import LoadedModel
from cnnviz_core.objectives import ClassScore, Combination, Direction, Energy, Unit

Z = torch.tensor([[[1.0, 3.0]], [[0.0, 4.0]], [[-2.0, 0.0]]])  # three channels, one row of two places
VECTOR = torch.tensor([1.0, 2.0, -2.0])


@pytest.mark.parametrize(
    ("aim", "value", "peak"),
    [
        (objectives.channel(0), 2.0, 3.0),
        (objectives.channel(0, sign=-1), -2.0, -1.0),
        (Combination((0, 1), (1.0, 1.0)), 4.0, 7.0),
        (Combination((1, 2), (1.0, -1.0)), 3.0, 4.0),
        (Unit(0, (0, 0)), 1.0, 1.0),
        (Unit(1), 4.0, 4.0),  # the middle: 1 // 2, 2 // 2
        (Unit(1, sign=-1), -4.0, -4.0),
        (Direction((3.0, 0.0, 0.0)), (1 / 5**0.5 + 3 / 5) / 2, 3 / 5),
        (Energy(), (1 + 9 + 0 + 16 + 4 + 0) / 6, (1 + 9 + 0 + 16 + 4 + 0) / 6),
        (Energy(0), 5.0, 5.0),
    ],
)
def test_maps(aim: objectives.Objective, value: float, peak: float) -> None:
    assert float(aim(Z)) == pytest.approx(value)
    assert float(aim.peak(Z)) == pytest.approx(peak)


@pytest.mark.parametrize(
    ("aim", "value"),
    [
        (objectives.channel(1), 2.0),
        (Combination((0, 2), (1.0, -1.0)), 3.0),
        (Direction((1.0, 2.0, -2.0)), 1.0),
        (Energy(), 3.0),
        (ClassScore(2), -2.0),
    ],
)
def test_vectors(aim: objectives.Objective, value: float) -> None:
    assert float(aim(VECTOR)) == pytest.approx(value)


def test_likeness_by_hand() -> None:
    """Two pictures with one active channel each, first the same, then another: Gram matrices e1 e1 or e2 e2."""
    one, other = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    one[0], other[1] = 3.0, 5.0
    assert float(objectives.likeness(torch.stack([one, one]))) == pytest.approx(1.0)  # two pairs of 1, by two pictures
    assert float(objectives.likeness(torch.stack([one, other]))) == 0.0
    assert float(objectives.likeness(torch.stack([one]))) == 0.0
    assert float(objectives.likeness(torch.zeros(2, 2, 2, 2))) == 0.0


def test_what_is_not_there_is_refused(tiny_model: LoadedModel, small_model: Callable[[str], LoadedModel]) -> None:
    info = tiny_model.layers["conv1"]
    with pytest.raises(BadSetting, match="no channel 4 in conv1; it has channels 0 to 3"):
        objectives.check_channels(info, (0, 4))
    with pytest.raises(BadSetting, match="at least one"):
        objectives.check_channels(info, ())
    with pytest.raises(BadSetting, match="row 16, column 2"):
        objectives.check_cell(info, (16, 2), (16, 16))
    with pytest.raises(BadSetting, match="vector"):
        objectives.check_cell(tiny_model.layers["fc"], None, None)
    objectives.check_cell(info, None, (16, 16))
    objectives.check_channels(info, (3,))
