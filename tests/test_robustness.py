"""Random views: affine maps by each picture's own draws, and what they show."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from cnnviz_core import robustness
from cnnviz_core.robustness import Views

STILL = {"first_shift": 0.0, "last_shift": 0.0, "scale": 0.0, "degrees": 0.0}


def picture(side: int = 16) -> torch.Tensor:
    return torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))


def test_draws_depend_on_their_own_seed_and_go_on_where_they_were() -> None:
    views = Views()
    together, alone, longer = views.draw([4, 7], 5), views.draw([7], 5), views.draw([7], 9)
    assert together.shape == (5, 2, 2, 3)
    assert torch.equal(together[:, 1:], alone)
    assert torch.equal(longer[:5], alone)
    assert not torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(alone[0], alone[1])


def test_no_view_at_all_leaves_the_picture() -> None:
    x = picture()
    maps = Views(**STILL).draw([0], 1)[0]
    torch.testing.assert_close(robustness.view(x, maps, (16, 16)), x, rtol=0, atol=1e-6)
    assert robustness.view(x, None, (16, 16)) is x


def test_ranges_are_kept_and_used() -> None:
    views = Views(first_shift=0.1, last_shift=0.0, scale=0.2, degrees=15.0, still=0.25)
    maps = views.draw([0], 4000)[:, 0]
    factor = 1 / maps[:, :, :2].square().sum(2).sqrt()[:, 0]
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    shift = maps[:, :, 2] / 2  # shares of the side
    assert 0.8 <= float(factor.min()) < 0.81 < 1.19 < float(factor.max()) <= 1.2001
    assert -15.001 <= float(angle.min()) < -14.5 < 14.5 < float(angle.max()) <= 15.001
    assert 0.099 < float(shift.abs().max()) <= 0.1001
    assert float((angle == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(maps[:, 0, 0], maps[:, 1, 1])  # nothing is sheared
    torch.testing.assert_close(maps[:, 0, 1], -maps[:, 1, 0])


def test_a_shift_by_whole_pixels_by_hand() -> None:
    """A quarter of 16 pixels to the right in the picture: the view's column c shows the picture's c + 4, then grey."""
    x = picture()
    maps = torch.tensor([[[1.0, 0.0, 2 * 4 / 16], [0.0, 1.0, 0.0]]])
    expected = F.pad(x[..., 4:], (0, 4), value=0.5)
    torch.testing.assert_close(robustness.view(x, maps, (16, 16)), expected, rtol=0, atol=1e-5)


def test_a_turn_by_a_right_angle_is_exact() -> None:
    x = picture()
    turn = math.pi / 2
    rows = [[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0]]
    seen = robustness.view(x, torch.tensor([rows]), (16, 16))
    torch.testing.assert_close(seen, torch.rot90(x, 1, (2, 3)), rtol=0, atol=1e-5)


def test_a_late_shift_is_along_the_views_own_axes() -> None:
    """After scaling by s, a shift of the view by d pixels is one of d / s in the picture."""
    draws = torch.full((1, 1, 6), 0.5)
    draws[..., 2], draws[..., 4] = 1.0, 1.0  # largest size, late shift across
    maps = Views(first_shift=0.0, last_shift=0.05, scale=0.25, degrees=0.0)._maps(draws)[0, 0]
    assert float(maps[0, 2]) == pytest.approx(2 * 0.05 / 1.25)
    assert float(maps[0, 0]) == pytest.approx(1 / 1.25)


def test_a_view_has_the_size_asked_for() -> None:
    x = picture()
    assert robustness.view(x, None, (24, 20)).shape == (1, 3, 24, 20)
    assert robustness.view(x, Views().draw([0], 1)[0], (24, 20)).shape == (1, 3, 24, 20)
