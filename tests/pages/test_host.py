"""The page of the host: what it tells, and to whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core import journal, settings
from cnnviz_core.ui import access
from tests.pages.reading import WAIT_S

APP = __file__.replace("tests/pages/test_host.py", "app.py")


def table(app: AppTest, column: str) -> dict[str, list[object]]:
    (found,) = [frame.value for frame in app.dataframe if column in frame.value.columns]
    return {name: list(found[name]) for name in found.columns}


def test_it_tells_machine_networks_errors_and_settings(
    open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNVIZ_RETENTION_DAYS", "30")
    settings.current.cache_clear()
    try:
        raise LookupError("holiday.png")
    except LookupError as error:
        bug_id = journal.bug(error, where="cam")
    app = open_page("manage/host")
    assert [metric.label for metric in app.metric] == ["This process", "Memory left", "Disk left", "Open sessions"]
    assert app.metric[0].value.endswith(("GB", "MB"))
    assert "tf_efficientnet_lite0" in table(app, "Last used")["Network"]
    errors = table(app, "Number")
    assert (errors["Number"][0], errors["Error"][0]) == (bug_id, "LookupError")
    assert "holiday" not in str(errors)
    in_force = table(app, "Variable")
    told = dict(zip(in_force["Variable"], zip(in_force["Value"], in_force["From"], strict=True), strict=True))
    assert told["CNNVIZ_RETENTION_DAYS"] == ("30", "environment")
    assert told["CNNVIZ_MAY_UPLOAD"] == ("everyone", "default")
    assert len(told) == len(vars(settings.Settings()))


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens the app as somebody, on a server with sign-in and one admin."""
    monkeypatch.setenv("CNNVIZ_ADMINS", "ann@lab.org")
    monkeypatch.setenv("CNNVIZ_ALLOWED_PEOPLE", "@lab.org")
    for right in ("UPLOAD", "DELETE", "DOWNLOAD"):
        monkeypatch.setenv(f"CNNVIZ_MAY_{right}", "admins")
    settings.current.cache_clear()

    def open_as(**claims: object) -> AppTest:
        app = AppTest.from_file(APP, default_timeout=WAIT_S)
        app.user = {"is_logged_in": bool(claims), **claims}
        app.secrets["auth"] = {"redirect_uri": "http://localhost/oauth2callback", "cookie_secret": "x" * 32}
        app.run()
        assert not app.exception, app.exception
        return app

    return open_as


def test_who_has_not_signed_in_sees_nothing_but_the_way_in(signed_in: Callable[..., AppTest]) -> None:
    app = signed_in()
    assert [button.label for button in app.button] == ["Sign in"]
    assert not app.sidebar.children


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "ben@firm.com", "sub": "2"},
        {"email": "ann@lab.org", "email_verified": False, "sub": "3"},
        {"sub": "4"},
    ],
)
def test_who_was_not_invited_is_told_so(signed_in: Callable[..., AppTest], claims: dict[str, object]) -> None:
    app = signed_in(**claims)
    assert any("not open to your account" in warning.value for warning in app.warning)
    assert [button.label for button in app.button] == ["Sign out"]


def test_rights_differ_between_people(signed_in: Callable[..., AppTest]) -> None:
    member = signed_in(email="Ben@lab.org", sub="2")
    assert any("You may not bring files to this server" in caption.value for caption in member.caption)
    with pytest.raises(ValueError, match="host"):
        member.switch_page("pages/manage/host.py").run()
    member.switch_page("pages/manage/networks.py").run()
    assert not [button for button in member.button if button.label == "Check and add"]
    admin = signed_in(email="ann@lab.org", sub="1")
    assert not any("You may not" in caption.value for caption in admin.caption)
    admin.switch_page("pages/manage/networks.py").run()
    assert [button for button in admin.button if button.label == "Check and add"]
    admin.switch_page("pages/manage/host.py").run()
    assert admin.metric


def test_a_door_is_shut_behind_the_hidden_button(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is asked again when something is done, not only when its button is drawn."""

    def script() -> None:
        import streamlit as st

        from cnnviz_core.errors import NotAllowed
        from cnnviz_core.ui import collection_view, network_view

        for remove in (network_view._remove, collection_view._remove):
            try:
                remove("anything-0123456789abcdef")
            except NotAllowed as error:
                st.text(str(error))

    monkeypatch.setenv("CNNVIZ_MAY_DELETE", "nobody")
    settings.current.cache_clear()
    app = AppTest.from_function(script).run()
    assert [text.value for text in app.text] == [access.refusal("delete")] * 2
