"""Tables whose numbers are written as everywhere else: with a true minus sign, and per cent as 39 %."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from cnnviz_core.numerals import format_fixed, format_percent

_MOST_CELLS = 20_000  # more take half a second and longer, each time that the page runs


def draw(
    columns: Mapping[str, Sequence[object]],
    *,
    decimals: Mapping[str, int] | None = None,
    percent: Collection[str] = (),
    **table: Any,
) -> None:
    """A table without row numbers; its columns sort by what the numbers are, not by how they are written.

    In a very large one Streamlit writes the numbers, in its own way.

    Args:
        columns: By name, all of one length; None and not-a-number are shown as missing.
        decimals: How many, by column.
        percent: Columns of shares, 0..1, which are written with one decimal.
        **table: Further arguments of :func:`streamlit.dataframe`.
    """
    frame = pd.DataFrame(columns)
    if frame.size > _MOST_CELLS:
        number = st.column_config.NumberColumn
        config = {name: number(format=f"%.{num}f") for name, num in (decimals or {}).items()}
        config |= {name: number(format="percent") for name in percent}
        st.dataframe(frame, hide_index=True, column_config=config, **table)
        return
    written = {name: partial(format_fixed, decimals=num) for name, num in (decimals or {}).items()}
    written |= {name: partial(format_percent, decimals=1) for name in percent}
    kept = {name: write for name, write in written.items() if name in columns}
    st.dataframe(frame.style.format(kept, na_rep=""), hide_index=True, **table)
