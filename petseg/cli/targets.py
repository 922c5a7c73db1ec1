"""Which files a command may write: one guard for every path that a user gives.

Nothing is written into what petseg, DVC, MLflow or git keep for themselves, or over a file that git tracks,
through links or not. No file is replaced without --force. Whoever then writes puts a new file into place,
which replaces a link and leaves alone what it leads to.
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
    """Check that a command may write these files, and remove what killed commands left of writing them.

    Args:
        option: that named the first of them.
        paths: what the command would write.
        force: whether files that are there may be replaced.

    Raises:
        UsageError: one is kept for something else, is tracked by git, is there already and is not to be
            replaced, or is there and no file, or a link to what is none.
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
    """Check that a command would write none of the files that it is to read.

    Raises:
        UsageError: it would, by this name or through links.
    """
    read = {place for path in given for place in (place_of(path), Path(os.path.realpath(path)))}
    for path in paths:
        if place_of(path) in read:
            raise UsageError(f"{named(option, path)}: is read too; choose another place")


def _is_of_a_process(path: Path) -> bool:
    """Tell whether links lead through the open files of a process, as /dev/stdout does."""
    for _ in range(_MOST_LINKS):
        place = place_of(path)
        if place.is_relative_to("/proc"):
            return True
        if not is_link(path):
            return False
        path = place.parent / path.readlink()
    return False


def regular_file(path: Path) -> Path:
    """Return the path of a file that is to be read.

    Raises:
        UsageError: there is none, or it is a folder, a device or a pipe, whose reading might not end.
    """
    if not path.exists():
        raise UsageError(f"{printable(path)}: no such file")
    if not path.is_file():
        raise UsageError(f"{printable(path)}: is no regular file")
    return path
