"""Tables in CSV that stages leave, read as what their readers need: the columns, and the kind of each."""

from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path

import numpy as np
import pandas as pd

_EXACT = 2**53  # below it a float holds each whole number


class Kind(Enum):
    """What a column holds."""

    TEXT = auto()
    WHOLE = auto()  # numbers
    NUMBER = auto()
    SCORE = auto()  # a number that may be undefined


def read_table(path: Path, columns: Mapping[str, Kind]) -> pd.DataFrame:
    """Read a CSV file.

    Args:
        path: the file.
        columns: that it must have, and the kind of each.

    Returns:
        These columns, in this order; a text may be NA, and a score that is undefined is NaN.

    Raises:
        ValueError: it is no such table, or has no row; the text is the reason.
        OSError: it can't be read.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if absent := [name for name in columns if name not in table]:
        raise ValueError(f"no column {', '.join(absent)}")
    if table.empty or not isinstance(table.index, pd.RangeIndex):
        raise ValueError("no row, or rows that are longer than its first line")
    return pd.DataFrame({name: _column(table[name], kind) for name, kind in columns.items()})


def _column(texts: "pd.Series[str]", kind: Kind) -> "pd.Series[str] | pd.Series[float] | pd.Series[int]":
    if kind is Kind.TEXT:
        return texts
    try:
        numbers = pd.to_numeric(texts).astype("float64")
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {texts.name}: {error}") from None
    if np.isinf(numbers).any():
        raise ValueError(f"column {texts.name}: infinity")
    if kind is Kind.SCORE:
        return numbers
    if numbers.isna().any():
        raise ValueError(f"column {texts.name}: a number is missing")
    if kind is Kind.NUMBER:
        return numbers
    if not ((numbers.abs() < _EXACT) & (numbers % 1 == 0)).all():
        raise ValueError(f"column {texts.name}: not all are whole numbers")
    return numbers.astype("int64")
