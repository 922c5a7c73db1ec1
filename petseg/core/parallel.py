"""Work on all cores, a few items at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from petseg.core.project import usable_cores

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # items per core that are waiting or being processed


def in_order(
    function: Callable[[T], R], items: Iterable[T], at_once: int | None = None
) -> Iterator[tuple[T, Future[R]]]:
    """Call a function for each item in threads, and yield each item with its finished future, in order.

    Threads are enough if most of the work releases Python's lock, as in Pillow, numpy and torch. Only a few
    items are taken ahead, so that the memory does not grow with their number.

    Args:
        function: called with each item.
        items: taken one by one.
        at_once: how many items may be waiting or being processed; by default a few per core.
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
    finally:  # after an error or an interruption too: calls that have not begun are cancelled
        pool.shutdown(cancel_futures=True)


def _finished(running: "deque[tuple[T, Future[R]]]") -> tuple[T, Future[R]]:
    item, future = running.popleft()
    future.exception()  # waits for the end of the call
    return item, future
