"""Work on all cores, a few items at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from petseg.core.project import usable_cores

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # items a core that wait or are worked on


def in_order(
    function: Callable[[T], R], items: Iterable[T], at_once: int | None = None
) -> Iterator[tuple[T, Future[R]]]:
    """Call a function for each item in threads, and yield the items, in their order, with what became of it.

    Threads serve where most of the work lets go of Python's lock, as Pillow's, numpy's and torch's does.
    Only a few items are taken ahead, so that memory does not grow with their number.

    Args:
        function: what to do with an item.
        items: taken one by one.
        at_once: how many wait or are worked on at the most; if not given, a few a core.
    """
    workers = usable_cores()
    ahead = at_once or _AHEAD * workers
    running: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(min(workers, ahead))
    try:
        for item in items:
            running.append((item, pool.submit(function, item)))
            if len(running) >= ahead:
                yield _finished(running)
        while running:
            yield _finished(running)
    finally:  # by an error or an interruption too: what has not begun is not begun
        pool.shutdown(cancel_futures=True)


def _finished(running: "deque[tuple[T, Future[R]]]") -> tuple[T, Future[R]]:
    item, future = running.popleft()
    future.exception()  # waits
    return item, future
