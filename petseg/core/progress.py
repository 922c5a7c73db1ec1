"""Show the progress of long work: a live bar on a terminal, and now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from petseg.core.formats import duration
from petseg.core.terminal import print_lines

_PLAIN_LINE_EVERY_S = 10.0

Advance = Callable[[int], None]
T = TypeVar("T")


class RateColumn(ProgressColumn):
    """How many items are done per second."""

    def render(self, task: Task) -> Text:
        """Return the rate; an empty text until it is known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def progress(
    what: str, total: int | None, *, start: int = 0, in_bytes: bool = False, transient: bool = False
) -> Iterator[Advance]:
    """Show the progress of a task; yields a function that is called with each amount that was done.

    Args:
        what: the name of the task.
        total: the whole amount, or None if it is unknown.
        start: the amount that was done before.
        in_bytes: whether amounts are bytes, and are shown as such.
        transient: whether the bar vanishes at the end; then no plain lines are printed.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _plain(what, total, start, in_bytes) if not transient else lambda _: None
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    columns += [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn(), RateColumn()]
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task(what, total=total, completed=start)
        yield lambda amount: bar.advance(task, amount)


def watched(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items, and show in a bar how many have been taken."""
    with progress(what, total, transient=True) as advance:
        for item in items:
            yield item
            advance(1)


def _plain(what: str, total: int | None, done: int, in_bytes: bool) -> Advance:
    started = last = time.monotonic()
    before = done

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if done == total or now - last >= _PLAIN_LINE_EVERY_S:
            last, rate = now, max(done - before, 1) / max(now - started, 1e-9)
            show = decimal if in_bytes else "{:,}".format
            of = "" if total is None else f" of {show(total)}"
            speed = f"{show(round(rate))}/s" if in_bytes else f"{rate:.1f}/s"
            left = "" if total is None or done == total else f", {duration((total - done) / rate)} left"
            print_lines(f"{what}: {show(done)}{of}, {speed}{left}", err=True)

    return advance
