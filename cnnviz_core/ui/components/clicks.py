"""Clicks that the browser reports, each told to the page once.

A component's state is ``{"click": [position..., stamp]}``. It stays in Streamlit's session state until the next
click, so the stamp (the browser's clock, ever growing) tells a new click from one that was already answered. The
header that goes back names the last stamp seen: only then may the browser trust the server's selection over its own.

A component that tells two kinds of things, such as a point that was picked and points that were encircled, gives each
a name of its own in that state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st


def stamp(key: str, name: str = "click") -> int:
    """The stamp of the last click on the component, 0 before the first."""
    numbers = _reported(key, name)
    return numbers[-1] if numbers else 0


def unanswered(key: str, bounds: Sequence[int]) -> tuple[int, ...] | None:
    """Where the component was clicked, if that click is new and lies within the bounds.

    Args:
        key: The component's key.
        bounds: One size per axis: number of tiles, or rows and columns. What a browser sends is not to be trusted.
    """
    numbers = _reported(key, "click")
    if len(numbers) != len(bounds) + 1 or numbers[-1] == st.session_state.get(_answered(key, "click")):
        return None
    position = numbers[:-1]
    inside = all(0 <= number < size for number, size in zip(position, bounds, strict=True))
    return position if inside else None


def unanswered_set(key: str, size: int, *, name: str) -> tuple[int, ...] | None:
    """What was chosen together, in ascending order and each once, if that choice is new and lies within the bounds.

    Args:
        key: The component's key.
        size: How many there are to choose from.
        name: Which of the component's states holds the choice.
    """
    numbers = _reported(key, name)
    if not numbers or numbers[-1] == st.session_state.get(_answered(key, name)):
        return None
    chosen = sorted(set(numbers[:-1]))
    inside = not chosen or (chosen[0] >= 0 and chosen[-1] < size)
    return tuple(chosen) if inside else None


def answer(key: str, name: str = "click") -> None:
    """Marks the last click as told."""
    st.session_state[_answered(key, name)] = stamp(key, name)


def _answered(key: str, name: str) -> str:
    return f"{key}.{name}.answered"


def _reported(key: str, name: str) -> tuple[int, ...]:
    """The numbers of the last click, empty where there is none or it is malformed."""
    state = st.session_state.get(key)
    numbers = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        return ()
    return tuple(numbers)
