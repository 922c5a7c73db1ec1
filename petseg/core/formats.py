"""How numbers are written for people: one function for each kind."""

import math


def score(value: float | None) -> str:
    """Return a Dice or another score, ``0.8612``; nothing for what is not known or undefined."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """Return a score with its 95 % interval, ``0.8612 (0.847 to 0.874)``; nothing for what is not known.

    Args:
        value: the score.
        low: end of the interval.
        high: its other end.
        sign: ``+`` to write the sign of differences, positive ones included.
    """
    if value is None or low is None or high is None or math.isnan(value):
        return ""
    return f"{value:{sign}.4f} ({low:{sign}.3f} to {high:{sign}.3f})"


def size(count: int) -> str:
    """Return a number of bytes as people read it, ``31.2 MB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, ``1 run`` or ``3 runs``; the noun's plural must end in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Return seconds as people read them: ``4:05``, ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
