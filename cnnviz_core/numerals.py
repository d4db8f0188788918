"""Numbers as people read them."""

from __future__ import annotations

import math


def format_value(value: float) -> str:
    """The number to three significant digits, with a true minus sign: 0.0123, 12.3, 1,234.

    Whole digits are never rounded away below a million. Only from a million on and below a ten-thousandth does a power
    of ten appear: 1.23e6, 4.5e-7.

    Args:
        value: Any number.

    Returns:
        The text; "missing" for not-a-number.
    """
    if math.isnan(value):
        return "missing"
    sign = "\u2212" if value < 0 else ""
    size = abs(value)
    if math.isinf(size):
        return f"{sign}infinite"
    if size == 0:
        return "0"
    exponent = int(f"{size:.2e}".partition("e")[2])  # after rounding: 999.96 counts as 1000
    if exponent >= 6 or exponent < -4:
        digits = f"{size:.2e}".partition("e")[0].rstrip("0").rstrip(".")
        return f"{sign}{digits}e{exponent}"
    text = f"{size:,.{max(0, 2 - exponent)}f}"
    return sign + (text.rstrip("0").rstrip(".") if "." in text else text)


def format_fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    """The number with so many decimals, for numbers that stand side by side: 0.50. Zero has no sign, a negative
    number a true minus sign.

    Args:
        value: Any number.
        decimals: How many.
        signed: Whether a positive one has its sign, too, as a change should.

    Returns:
        The text; "missing" for not-a-number.
    """
    if math.isnan(value):
        return "missing"
    if math.isinf(value):
        return format_value(value)
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return f"\u2212{text}" if value < 0 else f"+{text}" if signed else text


def format_percent(share: float, decimals: int = 0) -> str:
    """A share of a whole, in per cent: 39 %.

    Args:
        share: 0..1, or beyond where it is a share of something smaller.
        decimals: How many.
    """
    return f"{format_fixed(100 * share, decimals)} %"


def true_minus(text: str) -> str:
    """A number's text with a true minus sign where it begins with a hyphen."""
    return f"\u2212{text[1:]}" if text.startswith("-") else text
