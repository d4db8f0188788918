"""A button that copies the address of the screen, as the browser has it at that moment."""

from __future__ import annotations

from cnnviz_core.ui.components import packing

_button = packing.register("copy_link")


def show(*, key: str, of: str) -> None:
    """Draws the button; where the browser lets no script copy, it shows the address to copy by hand.

    Args:
        key: Unique on the page.
        of: What the link leads to, for screen readers.
    """
    _button(key=key, data=packing.pack({"of": of}), width="content")
