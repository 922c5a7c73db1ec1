"""The formats of numbers that people read."""

import math

import pytest

from petseg.core.formats import duration, interval, score, size


@pytest.mark.parametrize(("value", "text"), [(0.86124, "0.8612"), (1, "1.0000"), (None, ""), (math.nan, "")])
def test_scores_have_four_decimals(value: float | None, text: str) -> None:
    assert score(value) == text


@pytest.mark.parametrize(
    ("values", "sign", "text"),
    [
        ((0.86124, 0.8471, 0.8742), "", "0.8612 (0.847 to 0.874)"),
        ((0.01, -0.002, 0.022), "+", "+0.0100 (-0.002 to +0.022)"),
        ((math.nan, math.nan, math.nan), "", ""),
        ((0.5, None, None), "", ""),
        ((None, 0.1, 0.2), "", ""),
    ],
)
def test_intervals_have_three_decimals(
    values: tuple[float | None, float | None, float | None], sign: str, text: str
) -> None:
    assert interval(*values, sign) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (31_249_999, "31.2 MB"), (2 * 10**9, "2.0 GB")],
)
def test_sizes_have_units(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3599.4, "59:59"), (3723, "1:02:03")]
)
def test_durations_have_minutes_and_hours(seconds: float, text: str) -> None:
    assert duration(seconds) == text
