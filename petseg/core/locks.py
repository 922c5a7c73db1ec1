"""Locks between processes. The system releases one however its process ends, a kill included."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class Held(Exception):
    """Another process holds the lock.

    Attributes:
        pid: of that process, as far as the lock's file says; else ``?``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is held by another process")
        try:
            self.pid = path.read_text(encoding="utf-8", errors="replace").strip() or "?"
        except OSError:  # whoever held it has just removed it
            self.pid = "?"


@contextmanager
def held(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock for this process alone.

    Args:
        path: the lock's file, which names the process that holds it; its folder is made.
        wait: for another process that holds the lock.

    Raises:
        Held: another process holds it, and was not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise Held(path) from None
    try:
        with suppress(OSError):  # a full disk: nobody is told who holds it, and a prune can make room
            path.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()
