"""Print to a terminal or a log: line by line, without characters that could move the cursor."""

import sys
from functools import cache

from petseg.core.textfiles import printable


def print_lines(*lines: object, err: bool = False) -> None:
    """Print lines as ``printable`` shows them, so that text from elsewhere can't set colours or forge a line.

    Args:
        lines: text, or objects that are converted to text.
        err: whether to print to stderr.
    """
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        print(printable(line), file=stream)
    stream.flush()


@cache
def warn_once(line: str) -> None:
    """Print a warning, unless this process has printed it before."""
    print_lines(f"warning: {line}", err=True)


def cell(value: object) -> str:
    """Return text for a table of rich, as ``printable`` shows it, with rich's markup escaped."""
    from rich.markup import escape  # imported here, because rich would slow down every command

    return escape(printable(value))
