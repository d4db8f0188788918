"""Who is at the screen, and what they may do; asked at every door that changes the server."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cnnviz_core import journal, roles, settings
from cnnviz_core.errors import NotAllowed
from cnnviz_core.roles import Person


def has_sign_in() -> bool:
    """Whether this server is set up for signing in: secrets.toml has a section [auth]."""
    return get_script_run_ctx() is not None and "is_logged_in" in st.user.to_dict()


def person() -> Person:
    """Who is at the screen; nobody in particular where no sign-in is set up."""
    claims = st.user.to_dict() if has_sign_in() else {}
    if claims.get("is_logged_in") is not True:
        return Person()
    # A provider that lets people type in any address says that it is not verified.
    is_verified = claims.get("email_verified", True) in (True, "true")
    email = str(claims.get("email") or "").strip().lower() if is_verified else ""
    subject = f"{claims.get('iss', '')} {claims.get('sub') or email}"
    return Person(email=email, is_signed_in=True, subject=subject)


def may(right: str) -> bool:
    """Whether they may.

    Args:
        right: A key of :data:`roles.RIGHTS`.
    """
    chosen = settings.current()
    rule = getattr(chosen, f"may_{right}")
    return roles.holds(rule, person(), admins=chosen.admins, has_sign_in=has_sign_in())


def require(right: str) -> None:
    """Passes where they may.

    Args:
        right: A key of :data:`roles.RIGHTS`.

    Raises:
        NotAllowed: They may not.
    """
    if not may(right):
        raise NotAllowed(refusal(right))


def refusal(right: str) -> str:
    """The sentence for who may not."""
    return f"You may not {roles.RIGHTS[right]}; whoever hosts it can change that (CNNVIZ_MAY_{right.upper()})."


def gate() -> bool:
    """Whether the person may enter; draws the page to sign in where they have not, or were not invited."""
    if not has_sign_in():
        return True
    who = person()
    _note(who)
    if not who.is_signed_in:
        _ask_to_sign_in()
        return False
    chosen = settings.current()
    if not roles.holds(chosen.allowed_people, who, admins=chosen.admins, has_sign_in=True):
        st.title("cnnviz", anchor=False)
        st.warning(
            "This server is not open to your account. Ask whoever hosts it, or sign in with another account.",
            icon=":material/block:",
        )
        st.button("Sign out", key="sign_out", on_click=_sign_out)
        return False
    return True


def draw_sign_out() -> None:
    """Who is signed in, and the way out; for the sidebar. Nothing where no sign-in is set up."""
    if has_sign_in():
        who = person()
        st.button(
            "Sign out", key="sign_out", on_click=_sign_out, icon=":material/logout:", width="stretch",
            type="tertiary", help=f"Signed in as {who.email}" if who.email else None,
        )  # fmt: skip


def _sign_out() -> None:
    journal.event("signed out", person=journal.pseudonym(person().subject))
    st.logout()


def _ask_to_sign_in() -> None:
    st.title("cnnviz", anchor=False)
    st.markdown("See inside a convolutional network. This server asks who you are first.")
    sections = {name: part for name, part in st.secrets["auth"].items() if isinstance(part, Mapping)}
    providers = [name for name, part in sections.items() if "server_metadata_url" in part]
    if not providers:
        st.button("Sign in", key="sign_in", type="primary", on_click=st.login, icon=":material/login:")
    for name in providers:
        st.button(f"Sign in with {name}", key=f"sign_in_{name}", type="primary", on_click=st.login, args=(name,))


def _note(who: Person) -> None:
    """Writes down once per session that somebody has come in."""
    if who.is_signed_in and not st.session_state.get("noted_sign_in"):
        st.session_state["noted_sign_in"] = True
        journal.event("signed in", person=journal.pseudonym(who.subject))
