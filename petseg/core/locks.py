"""Locks between processes. The system releases a lock when its process ends, even if it was killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class Held(Exception):
    """Another process holds the lock.

    Attributes:
        pid: id of that process, from the lock's file; ``?`` if the file does not say.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is held by another process")
        try:
            self.pid = path.read_text(encoding="utf-8", errors="replace").strip() or "?"
        except OSError:  # the holder has just removed the file
            self.pid = "?"


@contextmanager
def held(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that only one process can hold at a time.

    Args:
        path: the lock's file, which names the process that holds it; its folder is created.
        wait: whether to wait while another process holds the lock.

    Raises:
        Held: another process holds the lock, and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise Held(path) from None
    try:
        with suppress(OSError):  # on a full disk the file names no process, but a prune can still make room
            path.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()
