"""Splits: shares of every class, no picture twice, the same by the same seed."""

from __future__ import annotations

import pytest

from cnnviz_core.collections.scan import Picture
from cnnviz_core.collections.splitting import split
from cnnviz_core.errors import BadCollection, BadSetting


def pictures(**counts: int) -> list[Picture]:
    return [
        Picture(f"{label}/{number:03d}.png", label, f"{label}{number}", 8, 8)
        for label, count in counts.items()
        for number in range(count)
    ]


def test_every_class_is_drawn_in_the_same_shares() -> None:
    found = split(pictures(b=100, a=20), validation=0.15, test=0.2)
    assert found.class_names == ("a", "b")
    assert found.counts(found.test).tolist() == [4, 20]
    assert found.counts(found.validation).tolist() == [3, 15]
    assert found.counts(found.training).tolist() == [13, 65]
    together = [*found.training, *found.validation, *found.test]
    assert sorted(together) == list(range(120))


def test_three_pictures_are_one_each() -> None:
    found = split(pictures(a=3, b=4))
    assert [found.counts(part).tolist() for part in (found.training, found.validation, found.test)] == [
        [1, 2], [1, 1], [1, 1],
    ]  # fmt: skip


def test_the_seed_decides_and_other_classes_do_not() -> None:
    def names(found: object, listed: list[Picture]) -> set[str]:
        return {listed[at].path for at in found.test if listed[at].label == "a"}  # type: ignore[attr-defined]

    one, more = pictures(a=30, b=30), pictures(a=30, b=30, c=9)
    assert names(split(one), one) == names(split(more), more)
    assert names(split(one), one) == names(split(one[::-1]), one[::-1]), "nor does the order"
    assert names(split(one), one) != names(split(one, seed=1), one)


def test_small_classes_and_pictures_without_a_label_are_left_out_and_said() -> None:
    listed = [*pictures(a=5, b=5, c=1, d=2), Picture("loose.png", "", "loose", 8, 8)]
    found = split(listed)
    assert found.class_names == ("a", "b")
    assert (found.targets[10:] == -1).all()
    assert any("c (1), d (2)" in notice for notice in found.notices)
    assert any("1 pictures without a label" in notice for notice in found.notices)


def test_equal_files_are_never_in_two_parts() -> None:
    listed = pictures(a=6, b=6)
    listed += [Picture("a/copy.png", "a", "a0", 8, 8), Picture("b/other.png", "b", "a1", 8, 8)]
    found = split(listed)
    used = [listed[at].digest for at in (*found.training, *found.validation, *found.test)]
    assert len(used) == len(set(used)) == 11
    assert "a1" not in used, "it has two labels"
    assert len(found.notices) == 2


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(BadCollection, match=r"The only one is a\."):
        split(pictures(a=9, b=2))
    with pytest.raises(BadSetting, match="together below 1"):
        split(pictures(a=9, b=9), validation=0.5, test=0.5)
