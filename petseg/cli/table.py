"""A table of plain text: rich takes a second to lay out a thousand rows."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

from petseg.core.textfiles import printable

_GAP = "  "
_LEAST = 16  # letters of the column that is wrapped


def screen_width() -> int:
    """Return how many letters a line has on the terminal; 200 where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def lines(
    head: Sequence[str], rows: Sequence[Sequence[str]], wrapped: int, right: Sequence[int], width: int
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        head: the columns' names.
        rows: as many cells each.
        wrapped: the column that takes what the others leave of the width, on several lines if need be.
        right: the columns whose cells stand at the right.
        width: of the screen, in letters; exceeded where the other columns alone do.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    others = sum(widths) - widths[wrapped] + len(_GAP) * (len(head) - 1)
    widths[wrapped] = min(widths[wrapped], max(_LEAST, width - others))
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
