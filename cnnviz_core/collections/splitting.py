"""Pictures with labels, drawn into three parts: to learn from, to choose by, to be judged on.

What a network is trained on, and what decided when to stop, it knows too well to be judged by. So each label's pictures
are drawn into **training**, **validation** and **test**, in the same shares for every label, by a seed. One label's
draw does not hang on which others there are. Files with equal bytes count once, so that no picture is in two parts.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz_core.collections.scan import Picture
from cnnviz_core.errors import BadCollection, BadSetting, checked_seed

FEWEST = 3  # pictures of a label: one in each part
_MOST_NAMED = 5


@dataclass(frozen=True)
class Split:
    """Who is in which part; pictures are meant by their positions in the list that was split.

    Attributes:
        class_names: The labels, sorted.
        targets: (N,) class index of each picture; -1 where it is in no part.
        training: Positions, ascending.
        validation: Likewise.
        test: Likewise.
        notices: What was left out and why, in sentences.
    """

    class_names: tuple[str, ...]
    targets: NDArray[np.int64]
    training: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    notices: tuple[str, ...]

    def counts(self, part: NDArray[np.intp]) -> NDArray[np.int64]:
        """(K,) how many pictures of each class a part has."""
        return np.bincount(self.targets[part], minlength=len(self.class_names)).astype(np.int64)


def split(pictures: Sequence[Picture], *, validation: float = 0.15, test: float = 0.2, seed: int = 0) -> Split:
    """Draws the pictures of each label into three parts.

    Args:
        pictures: In any order; the draw goes by their paths.
        validation: Share of a label's pictures, rounded, at least one.
        test: Likewise.
        seed: Of the draw.

    Raises:
        BadSetting: Shares that leave nothing to learn from.
        BadCollection: Fewer than two labels with three pictures.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise BadSetting(
            f"The shares are {validation} for validation and {test} for test; both must be above 0, and together "
            "below 1."
        )
    used, notices = _usable(pictures)
    by_label: dict[str, list[int]] = {}
    for at in sorted(used, key=lambda at: pictures[at].path):
        by_label.setdefault(pictures[at].label, []).append(at)
    small = {label: len(rows) for label, rows in by_label.items() if len(rows) < FEWEST}
    if small:
        named = ", ".join(f"{label} ({count})" for label, count in sorted(small.items())[:_MOST_NAMED])
        more = f" and {len(small) - _MOST_NAMED} more" if len(small) > _MOST_NAMED else ""
        notices.append(
            f"Left out, since a class needs {FEWEST} pictures to be in all three parts: {named}{more}. Add pictures "
            "of them."
        )
    class_names = tuple(sorted(set(by_label) - set(small)))
    if len(class_names) < 2:
        found = f"The only one is {class_names[0]}." if class_names else "There is none."
        raise BadCollection(
            f"Training needs two classes with {FEWEST} pictures or more each. {found} Put the pictures of each class "
            "into a folder of its own, or bring a CSV with labels." + "".join(f" {notice}" for notice in notices)
        )
    parts: list[list[int]] = [[], [], []]
    targets = np.full(len(pictures), -1, np.int64)
    for index, label in enumerate(class_names):
        rows = np.array(by_label[label], np.intp)
        targets[rows] = index
        drawn = rows[np.random.default_rng((checked_seed(seed), zlib.crc32(label.encode()))).permutation(len(rows))]
        num_test = max(1, min(round(test * len(rows)), len(rows) - 2))
        num_validation = max(1, min(round(validation * len(rows)), len(rows) - num_test - 1))
        for part, some in zip(parts, np.split(drawn, [num_test, num_test + num_validation]), strict=True):
            part.extend(some.tolist())
    for_test, for_validation, for_training = (np.array(sorted(part), np.intp) for part in parts)
    return Split(class_names, targets, for_training, for_validation, for_test, tuple(notices))


def _usable(pictures: Sequence[Picture]) -> tuple[list[int], list[str]]:
    """Positions of labelled pictures, each content once, and sentences on the others."""
    labels: dict[str, set[str]] = {}
    for picture in pictures:
        if picture.label:
            labels.setdefault(picture.digest, set()).add(picture.label)
    used: list[int] = []
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    for at, picture in enumerate(pictures):
        if not picture.label:
            left_out["without a label"] += 1
        elif len(labels[picture.digest]) > 1:
            left_out["in files that are equal and have different labels"] += 1
        elif picture.digest in seen:
            left_out["in files that are equal to another one"] += 1
        else:
            seen.add(picture.digest)
            used.append(at)
    return used, [f"Left out: {count:,} pictures {reason}." for reason, count in left_out.items()]
