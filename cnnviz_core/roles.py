"""Who may do what on a server that several people use.

A right is given to everyone, to who has signed in, to the admins, to nobody, or to a list of e-mail addresses and
@domains. Where no sign-in is set up, nobody is known: then a right holds for all or for none, and all are admins unless
the settings name some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FORM = "everyone, signed-in, admins, nobody, an e-mail address or an @domain"
WORDS = frozenset({"everyone", "signed-in", "admins", "nobody"})

# Each right, as the end of the sentence "You may not ...". The setting is called CNNVIZ_MAY_<RIGHT>.
RIGHTS: Mapping[str, str] = {
    "upload": "bring files to this server",
    "download": "have this server fetch anything from the internet",
    "train": "start a training on this server",
    "delete": "remove anything from this server",
    "see_all_jobs": "see other people’s jobs",
    "see_host": "see how this server is doing",
}

_ADDRESS = re.compile(r"[^@\s,]+@[^@\s,]+")
_DOMAIN = re.compile(r"@[^@\s,]+")


@dataclass(frozen=True)
class Person:
    """Who is at the screen.

    Attributes:
        email: Lower case; empty where it is unknown or the provider has not verified it.
        is_signed_in: Whether a provider has vouched for them.
        subject: What the provider calls them; stays when the address changes.
    """

    email: str = ""
    is_signed_in: bool = False
    subject: str = ""


def is_address(text: str) -> bool:
    """Whether it has the form of an e-mail address."""
    return bool(_ADDRESS.fullmatch(text))


def is_rule(text: str) -> bool:
    """Whether it is one of the words, an address, or a domain with its @."""
    return text in WORDS or is_address(text) or bool(_DOMAIN.fullmatch(text))


def holds(rule: Sequence[str], person: Person, *, admins: Sequence[str], has_sign_in: bool) -> bool:
    """Whether a right is given to a person.

    Args:
        rule: Words, addresses and domains; one that fits is enough.
        person: Who asks.
        admins: Addresses of the admins.
        has_sign_in: Whether this server lets people sign in at all.
    """
    return any(_fits(one, person, admins, has_sign_in=has_sign_in) for one in rule)


def _fits(one: str, person: Person, admins: Sequence[str], *, has_sign_in: bool) -> bool:
    if one == "everyone":
        return True
    if one == "admins":
        return _is_listed(person, admins) if has_sign_in or admins else True
    if one == "signed-in":
        return person.is_signed_in
    return _is_listed(person, (one,))


def _is_listed(person: Person, listed: Sequence[str]) -> bool:
    if not (person.is_signed_in and person.email):
        return False
    domain = f"@{person.email.rpartition('@')[2]}"
    return person.email in listed or domain in listed
