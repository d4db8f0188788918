"""What the row of a chart hands on: words for people, and the same as numbers for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core.ui import take_away

MADE = {"least_distance": -0.25, "vectors": "a" * 100, "seed": 3, "standardize": True, "colours": None}


def page() -> None:
    import plotly.graph_objects as go
    import streamlit as st

    from cnnviz_core.results import Run
    from cnnviz_core.ui import charts
    from cnnviz_core.ui.frame import PageLink

    here = PageLink("look", "pages/look/home.py", "Home", "What?", "home")
    st.session_state["page"], st.session_state["pages"] = here, (here,)
    run = Run("timm/x", "default", "0", "cam.explain", {}, 0.1)
    for key, account in (("with", run), ("without", None)):
        charts.draw(go.Figure(go.Bar(x=[1], y=[2])), key=key, title=key, run=account, made=st.session_state["made"])


def test_the_manifest_has_what_led_to_a_chart_as_it_is_and_people_read_words(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, tuple[dict[str, Any], Mapping[str, str]]] = {}

    def note(files: Sequence[take_away.File], *, key: str, settings: Mapping[str, str], **_: object) -> None:
        *_, (label, _, _, account) = files
        assert label == "Manifest (JSON)"
        drawn[key] = json.loads(account()), settings

    monkeypatch.setattr(take_away, "draw", note)
    app = AppTest.from_function(page)
    app.session_state["made"] = MADE
    assert not app.run().exception
    (with_run, words), (without, same_words) = drawn["with"], drawn["without"]
    assert without["settings"] == MADE
    assert with_run["shown"] == {"chart": "with", **MADE}
    assert same_words["least distance"] == words["least distance"] == "\u22120.25"
    assert same_words["vectors"] == words["vectors"] == "a" * 80 + "…"
    assert "colours" not in same_words
