"""Numbers as people read them."""

import pytest

from cnnviz_core import render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (-0.5, "\u22120.5"),
        (1.0, "1"),
        (0.012345, "0.0123"),
        (0.000123456, "0.000123"),
        (0.00001, "1e-5"),
        (0.0000123456, "1.23e-5"),
        (12.3456, "12.3"),
        (99.96, "100"),
        (0.9999, "1"),
        (100.0, "100"),
        (999.6, "1,000"),
        (1234.5, "1,234"),
        (999_999.4, "1e6"),
        (123_456.0, "123,456"),
        (-1_234_567.0, "\u22121.23e6"),
        (float("nan"), "missing"),
        (float("-inf"), "\u2212infinite"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert render.format_value(value) == text
