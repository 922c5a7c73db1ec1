"""Read CSV tables that the stages wrote, and check their columns and the kind of each."""

from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path

import numpy as np
import pandas as pd

_EXACT = 2**53  # a float can hold every whole number below it


class Kind(Enum):
    """The kind of values in a column."""

    TEXT = auto()
    WHOLE = auto()  # whole numbers
    NUMBER = auto()
    SCORE = auto()  # a number that may be undefined


def read_table(path: Path, columns: Mapping[str, Kind]) -> pd.DataFrame:
    """Read a CSV file.

    Args:
        path: the file.
        columns: the columns that it must have, and the kind of each.

    Returns:
        These columns, in this order. The text ``NA`` stays a text, and an undefined score is NaN.

    Raises:
        ValueError: it is not such a table, or has no row; the message is the reason.
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
