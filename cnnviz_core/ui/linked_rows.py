"""Pictures of a collection in the link, by their rows; a collection that has changed since has other rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import streamlit as st

from cnnviz_core.ui import frame, screen
from cnnviz_core.ui.collection_view import Indexed

MOST = 500  # beyond, the address would grow too long for some programs


def read(found: Indexed, name: str) -> list[int]:
    """The rows that the link names; none, with a sentence, where they belong to something else.

    Args:
        found: The collection.
        name: Name in the link.
    """
    text = st.query_params.get(name, "")
    if not text:
        return []
    state, *rows = text.split("~")[: MOST + 1]
    if state == _state(found) and all(row.isdecimal() and len(row) < 10 and int(row) < len(found.rows) for row in rows):
        return list(map(int, rows))
    frame.notice(
        "The link names pictures of a collection that has changed since, or of another one; choose them again."
    )
    return []


def keep(found: Indexed, name: str, rows: Sequence[int]) -> None:
    """Writes rows into the link; more than :data:`MOST` are left out of it, with a sentence that says so."""
    is_short = 0 < len(rows) <= MOST
    if len(rows) > MOST:
        st.caption(f"{len(rows):,} pictures are too many for a link, which holds {MOST}: it opens without them.")
    screen.remember(name, "~".join([_state(found), *map(str, rows)]) if is_short else "")


def _state(found: Indexed) -> str:
    """Names the collection with its rows as they are."""
    text = f"{found.collection.collection_id} {found.revision}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
