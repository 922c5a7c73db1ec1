"""The one way to a terminal or a log: line by line, with nothing in a line that could move a cursor."""

import sys
from functools import cache

from petseg.core.textfiles import printable


def print_lines(*lines: object, err: bool = False) -> None:
    """Print lines, each as ``printable`` shows it: what others wrote can neither colour nor forge one.

    Args:
        lines: of text, or what becomes text.
        err: whether they go to stderr.
    """
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        print(printable(line), file=stream)
    stream.flush()


@cache
def warn_once(line: str) -> None:
    """Print a warning that this process has not printed yet."""
    print_lines(f"warning: {line}", err=True)


def cell(value: object) -> str:
    """Return text for a table of rich, as ``printable`` shows it, and without rich's own markup."""
    from rich.markup import escape  # not above: rich would slow down every command

    return escape(printable(value))
