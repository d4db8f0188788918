"""Tables: how numbers are written, that they stay numbers, and that a very large one is shown, too."""

from __future__ import annotations

import json

from streamlit import dataframe_util
from streamlit.testing.v1 import AppTest


def page() -> None:
    import streamlit as st

    from cnnviz_core.ui import tables

    columns = {"layer": ["a", "b", "c"], "cosine": [-0.51239, 0.3, None], "share": [0.1, 0.956, float("nan")]}
    times = st.session_state["times"]
    tables.draw(
        {name: values * times for name, values in columns.items()},
        decimals={"cosine": 3, "not here": 3},
        percent=["share"],
    )


def shown(times: int) -> AppTest:
    app = AppTest.from_function(page)
    app.session_state["times"] = times
    app.run()
    assert not app.exception
    return app


def test_numbers_have_a_true_minus_and_a_space_before_per_cent_and_stay_numbers() -> None:
    (table,) = shown(1).dataframe
    written = dataframe_util.convert_arrow_bytes_to_pandas_df(table.proto.arrow_data.styler.display_values)
    assert written.to_numpy().tolist() == [["a", "\u22120.512", "10.0 %"], ["b", "0.300", "95.6 %"], ["c", "", ""]]
    assert table.value["cosine"].dtype == table.value["share"].dtype == float
    assert table.value["cosine"].tolist()[:2] == [-0.51239, 0.3]


def test_a_very_large_table_is_written_by_streamlit() -> None:
    (table,) = shown(10_000).dataframe
    assert not table.proto.arrow_data.styler.display_values
    assert len(table.value) == 30_000
    formats = {
        name: one["type_config"]["format"]
        for name, one in json.loads(table.proto.columns).items()
        if name in ("cosine", "share")
    }
    assert formats == {"cosine": "%.3f", "share": "percent"}
