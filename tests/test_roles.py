"""Who may do what, as a table: person and rule in, yes or no out."""

from __future__ import annotations

import pytest

from cnnviz_core import roles
from cnnviz_core.roles import Person
from cnnviz_core.settings import Settings

NOBODY = Person()
ANN = Person(email="ann@lab.org", is_signed_in=True)
BEN = Person(email="ben@firm.com", is_signed_in=True)
UNVERIFIED = Person(is_signed_in=True)


@pytest.mark.parametrize(
    ("rule", "who_may"),
    [
        (("everyone",), {NOBODY, ANN, BEN, UNVERIFIED}),
        (("signed-in",), {ANN, BEN, UNVERIFIED}),
        (("admins",), {ANN}),
        (("nobody",), set()),
        (("ben@firm.com",), {BEN}),
        (("@lab.org",), {ANN}),
        (("@org",), set()),
        (("admins", "@firm.com"), {ANN, BEN}),
        ((), set()),
    ],
)
def test_a_rule_with_sign_in(rule: tuple[str, ...], who_may: set[Person]) -> None:
    people = (NOBODY, ANN, BEN, UNVERIFIED)
    assert {p for p in people if roles.holds(rule, p, admins=("ann@lab.org",), has_sign_in=True)} == who_may


@pytest.mark.parametrize(
    ("rule", "admins", "may"),
    [
        (("everyone",), (), True),
        (("admins",), (), True),  # nobody is known: nobody is more of an admin than others
        (("admins",), ("ann@lab.org",), False),
        (("signed-in",), (), False),
        (("nobody",), (), False),
        (("ann@lab.org",), (), False),
    ],
)
def test_a_rule_without_sign_in(rule: tuple[str, ...], admins: tuple[str, ...], *, may: bool) -> None:
    assert roles.holds(rule, NOBODY, admins=admins, has_sign_in=False) is may


def test_a_name_that_ends_like_a_listed_one_is_another() -> None:
    other = Person(email="joann@lab.org", is_signed_in=True)
    assert not roles.holds(("ann@lab.org",), other, admins=(), has_sign_in=True)
    subdomain = Person(email="ann@evil.lab.org", is_signed_in=True)
    assert not roles.holds(("@lab.org",), subdomain, admins=(), has_sign_in=True)


def test_every_right_has_its_setting() -> None:
    assert {f"may_{right}" for right in roles.RIGHTS} == {name for name in vars(Settings()) if name.startswith("may_")}
