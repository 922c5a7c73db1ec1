"""Tables in plain text. They are not made with rich, which needs a second to lay out a thousand rows."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

from petseg.core.textfiles import printable

_GAP = "  "
_MIN_WRAPPED = 16  # characters, the least width of the column that is wrapped


def screen_width() -> int:
    """Return the width of the terminal in characters, or 200 if there is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def lines(
    head: Sequence[str], rows: Sequence[Sequence[str]], wrapped: int, right: Sequence[int], width: int
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        head: the names of the columns.
        rows: the cells of each row, one for each column.
        wrapped: index of the column that gets the width that the others leave; its text is wrapped.
        right: indices of the columns that are aligned to the right.
        width: the width of the screen in characters. The table is wider if the other columns need more.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    others = sum(widths) - widths[wrapped] + len(_GAP) * (len(head) - 1)
    widths[wrapped] = min(widths[wrapped], max(_MIN_WRAPPED, width - others))
    yield from _row(head, widths, wrapped, right)
    yield "─" * (others + widths[wrapped])
    for row in rows:
        yield from _row(row, widths, wrapped, right)


def _row(cells: Sequence[str], widths: Sequence[int], wrapped: int, right: Sequence[int]) -> Iterator[str]:
    parts: list[Sequence[str]] = [(cell,) for cell in cells]
    if len(cells[wrapped]) > widths[wrapped]:
        parts[wrapped] = wrap(cells[wrapped], widths[wrapped])
    for line in zip_longest(*parts, fillvalue=""):
        placed = zip(line, widths, strict=True)
        texts = (t.rjust(w) if n in right else t.ljust(w) for n, (t, w) in enumerate(placed))
        yield _GAP.join(texts).rstrip()
