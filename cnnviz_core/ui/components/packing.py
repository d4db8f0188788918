"""How bytes reach the browser.

A component gets ``length | JSON header | parts`` as one run of bytes, which arrives there without being copied or
turned into text. Large parts (pictures, maps) are mounted on their own, as invisible elements named by a digest of
their content: Streamlit re-sends an element only when it changes, so a click that moves a selection costs the header
alone, never the picture.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st
from PIL import Image
from streamlit.components.v2.types import ComponentRenderer

_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}


def register(name: str, *shared: str, isolated: bool = True) -> ComponentRenderer:
    """The mounting command of the component whose ``name.js`` (and ``.html``, ``.css``) lie beside this file.

    Args:
        name: The component.
        shared: Scripts and style sheets that go before its own, without endings.
        isolated: Whether its styles end at its own border; else they hold for the page while it is there.
    """
    styles = _joined(("component", *shared, name), ".css") if _text(f"{name}.css") else None
    return st.components.v2.component(
        f"cnnviz.{name}",
        html=_text(f"{name}.html") or None,
        css=styles,
        js=_joined(("packing", *shared, name), ".js"),
        isolate_styles=isolated,
    )


def _joined(names: Sequence[str], ending: str) -> str:
    return "".join(_text(f"{name}{ending}") for name in names)


def _text(file: str) -> str:
    """A file beside this one; empty where there is none."""
    path = Path(__file__).parent / file
    return path.read_text("utf-8") if path.exists() else ""


_part = register("part")


def pack(header: Mapping[str, object], *parts: bytes) -> bytes:
    """One run of bytes: u32 length of the header (little-endian), the header as JSON, the parts one after the other."""
    text = json.dumps(header, allow_nan=False).encode()
    return b"".join((struct.pack("<I", len(text)), text, *parts))


def send(part: bytes, *, key: str) -> str:
    """Sends one part to the browser unless it is there, and gives the token under which it can be asked for.

    Args:
        part: Any bytes.
        key: Unique on the page.
    """
    token = hashlib.blake2b(part, digest_size=12).hexdigest()
    _part(key=key, data=pack({"token": token}, part))
    return token


def picture_info(picture: bytes) -> tuple[str, int, int]:
    """Media type, width and height (px) of an encoded picture, read from its first bytes only.

    Raises:
        TypeError: Not bytes.
        ValueError: Neither PNG nor JPEG.
    """
    if not isinstance(picture, bytes):
        raise TypeError(f"A picture is PNG or JPEG bytes, not {type(picture).__name__}.")
    try:
        with Image.open(io.BytesIO(picture), formats=tuple(_MEDIA_TYPES)) as opened:
            return _MEDIA_TYPES[str(opened.format)], opened.width, opened.height
    except OSError as error:
        raise ValueError("The picture is neither PNG nor JPEG.") from error
