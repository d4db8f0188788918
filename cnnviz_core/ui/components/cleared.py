"""Runs the page again, once, when nothing of the run before is on screen any more."""

from __future__ import annotations

from cnnviz_core.ui.components import packing

_cleared = packing.register("cleared")


def then_run(*, key: str) -> None:
    """Mounts the watch, which is invisible.

    Args:
        key: Unique on the page.
    """
    _cleared(key=key, data=packing.pack({}), on_click_change=lambda: None)
