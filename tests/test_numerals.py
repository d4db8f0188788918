"""Numbers as people read them."""

import pytest

from cnnviz_core.numerals import format_fixed, format_percent, format_value, true_minus


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
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (0.5, 2, False, "0.50"),
        (-0.02, 2, False, "\u22120.02"),
        (-0.004, 2, False, "0.00"),
        (-0.004, 2, True, "0.00"),
        (0.004, 2, True, "0.00"),
        (0.02, 2, True, "+0.02"),
        (-25.0, 1, True, "\u221225.0"),
        (1234.56, 0, False, "1,235"),
        (float("nan"), 2, True, "missing"),
        (float("-inf"), 2, False, "\u2212infinite"),
    ],
)
def test_so_many_decimals(value: float, decimals: int, *, signed: bool, text: str) -> None:
    assert format_fixed(value, decimals, signed=signed) == text


def test_per_cent() -> None:
    assert format_percent(0.381) == "38 %"
    assert format_percent(0.381, 1) == "38.1 %"
    assert format_percent(-0.5) == "\u221250 %"


def test_a_true_minus() -> None:
    assert [true_minus(text) for text in ("-3", "3", "1e-5", "-1e-5")] == ["\u22123", "3", "1e-5", "\u22121e-5"]
