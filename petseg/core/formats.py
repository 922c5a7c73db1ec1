"""Format numbers for people: one function for each kind."""

import math


def score(value: float | None) -> str:
    """Format a Dice or another score, ``0.8612``; empty if it is unknown or undefined."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """Format a score with its 95 % interval, ``0.8612 (0.847 to 0.874)``; empty if one of them is unknown.

    Args:
        value: the score.
        low: lower end of the interval.
        high: upper end of the interval.
        sign: ``+`` to write the sign of positive differences too.
    """
    if value is None or low is None or high is None or math.isnan(value):
        return ""
    return f"{value:{sign}.4f} ({low:{sign}.3f} to {high:{sign}.3f})"


def size(count: int) -> str:
    """Format a number of bytes, ``31.2 MB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, ``1 run`` or ``3 runs``; the noun's plural must end in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Format a number of seconds, ``4:05`` or ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
