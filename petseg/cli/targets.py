"""Which files a command may write: one guard for every path that a user gives.

Nothing is written into what petseg, DVC, MLflow or git keep for themselves, or over a file that git tracks,
through links or not. No file is replaced without --force. Whoever then writes puts a new file into place,
which replaces a link and leaves alone what it leads to.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from petseg.core.files import remove_leftovers_of
from petseg.core.git import neutral_git
from petseg.core.textfiles import printable
from petseg.errors import UsageError
from petseg.pipeline.guard import check_kept_out, is_link, named

_FEW = 100  # files that git is asked about by their names
_MOST_LINKS = 40
_RESOLVED = ("rev-parse", "--resolve-git-dir", ".git")


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
    check_kept_out(option, *paths)
    if tracked := _first_tracked(paths):
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
    read = {place for path in given for place in (_place(path), Path(os.path.realpath(path)))}
    for path in paths:
        if _place(path) in read:
            raise UsageError(f"{named(option, path)}: is read too; choose another place")


def check_apart(targets: Iterable[tuple[str, Path]]) -> None:
    """Check that a command would write no file twice.

    Args:
        targets: what it would write, each with its option.

    Raises:
        UsageError: two are one file, through links or in another case of letters.
    """
    written: dict[tuple[Path, str], Path] = {}
    for option, path in targets:
        place = _place(path)
        if (other := written.setdefault((place.parent, place.name.casefold()), path)) is not path:
            what = f"is written as {printable(other)} too"
            raise UsageError(f"{named(option, path)}: {what}; choose another place")


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def _is_of_a_process(path: Path) -> bool:
    """Tell whether links lead through the open files of a process, as /dev/stdout does."""
    for _ in range(_MOST_LINKS):
        place = _place(path)
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


def _first_tracked(paths: Iterable[Path]) -> Path | None:
    """Return a file that git tracks, in whatever repository, whether it is there or not; None for none."""
    asked: dict[Path, dict[str, Path]] = defaultdict(dict)
    folders: dict[Path, tuple[Path, Path | None]] = {}
    for path in paths:
        for each in {path, path.resolve()} if is_link(path) else {path}:
            if each.parent not in folders:
                folder = each.parent.resolve()
                folders[each.parent] = folder, _repository(folder)
            folder, top = folders[each.parent]
            if top:
                asked[top][str((folder / each.name).relative_to(top))] = path
    for top, names in asked.items():
        folded = {name.casefold(): name for name in names}
        for listed in _listed(top, names):
            name = listed if listed in names else folded.get(listed.casefold())
            if name and (name == listed or _are_one(top / name, top / listed)):
                return names[name]
    return None


def _repository(folder: Path) -> Path | None:
    """Return the working folder of the repository around a folder; None for none, or where there is no git.

    A ``.git`` that is no repository, such as an empty folder, is passed over.
    """
    for each in (folder, *folder.parents):
        try:
            if (each / ".git").exists() and not neutral_git(each, *_RESOLVED).returncode:
                return each
        except FileNotFoundError:  # where there is no git, nobody works with the repository
            return None
    return None


def _listed(top: Path, names: Collection[str]) -> list[str]:
    """Return the files that git tracks below a folder: at least those of these names, in whatever case."""
    asked = [f":(icase,literal){name}" for name in names] if len(names) <= _FEW else []
    # Named so, the folder is what counts, whatever core.bare, core.worktree and safe.directory say.
    done = neutral_git(top, "--git-dir=.git", "--work-tree=.", "ls-files", "-z", "--", *asked)
    if done.returncode:
        reason = " ".join(os.fsdecode(done.stderr).split())
        raise UsageError(f"{printable(top)}: git can't say what it tracks there ({printable(reason)})")
    return os.fsdecode(done.stdout).split("\0")


def _are_one(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
