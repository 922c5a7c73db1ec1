"""Checks which files a command may write: one guard for every path that a user gives.

A command writes neither into the folders of petseg, DVC, MLflow and git, nor over a file that git tracks,
whether directly or through a link. It replaces a file only with --force. It writes by putting a new file into
place, so a link is replaced, and the file that it leads to is left alone.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from petseg.core.files import remove_leftovers_of
from petseg.core.textfiles import printable
from petseg.core.tracked import first_tracked, is_link, place_of
from petseg.errors import UsageError
from petseg.pipeline.guard import check_kept_out, named

_MOST_LINKS = 40


def check_targets(option: str, *paths: Path, force: bool) -> None:
    """Check that a command may write these files, and remove unfinished files that killed commands left.

    Args:
        option: the option that named the files, for messages.
        paths: the files that the command would write.
        force: whether existing files may be replaced.

    Raises:
        UsageError: a path is reserved, is tracked by git, exists already and may not be replaced, or is
            something else than a regular file or a link to one.
    """
    for path in paths:
        if path.name in ("", ".."):
            raise UsageError(f"{named(option, path)}: names no file")
    check_kept_out(option, *paths)
    if tracked := first_tracked(paths):
        raise UsageError(f"{named(option, tracked)}: is tracked by git; choose another place")
    there = [path for path in paths if os.path.lexists(path)]
    for path in there:
        if (path.exists() and not path.is_file()) or _is_of_a_process(path):
            raise UsageError(f"{named(option, path)}: is there, and is no regular file")
    if there and not force:
        raise UsageError(f"{named(option, there[0])}: is there already; --force replaces it")
    remove_leftovers_of(paths)


def check_not_read(option: str, paths: Iterable[Path], given: Iterable[Path]) -> None:
    """Check that a command would not write over a file that it reads.

    Args:
        option: the option that named the files to write, for messages.
        paths: the files that the command would write.
        given: the files that it reads.

    Raises:
        UsageError: a file is in both, by the same name or through links.
    """
    read = {place for path in given for place in (place_of(path), Path(os.path.realpath(path)))}
    for path in paths:
        if place_of(path) in read:
            raise UsageError(f"{named(option, path)}: is read too; choose another place")


def _is_of_a_process(path: Path) -> bool:
    """Return whether a path leads to an open file of a process through links, as /dev/stdout does."""
    for _ in range(_MOST_LINKS):
        place = place_of(path)
        if place.is_relative_to("/proc"):
            return True
        if not is_link(path):
            return False
        path = place.parent / path.readlink()
    return False


def regular_file(path: Path) -> Path:
    """Check that a path is a regular file that can be read, and return it.

    Raises:
        UsageError: there is no such file, or it is a folder, a device or a pipe. Reading a device or a pipe
            might never end.
    """
    if not path.exists():
        raise UsageError(f"{printable(path)}: no such file")
    if not path.is_file():
        raise UsageError(f"{printable(path)}: is no regular file")
    return path
