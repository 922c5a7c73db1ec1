"""Find the paths that git tracks, in any repository."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from petseg.core.git import neutral_git
from petseg.core.textfiles import printable
from petseg.errors import UsageError

_FEW = 100  # up to so many files are passed to git by name
_RESOLVED = ("rev-parse", "--resolve-git-dir", ".git")


def place_of(path: Path) -> Path:
    """Return the real path of a file; if the file itself is a link, that link is not followed."""
    return Path(os.path.realpath(path.parent), path.name)


def is_link(path: Path) -> bool:
    """Return whether a path is a symbolic link; False if that can't be found out."""
    try:
        return path.is_symlink()
    except OSError:  # the folder can't be read, or the name is too long
        return False


def first_tracked(paths: Iterable[Path]) -> Path | None:
    """Return one of these paths that git tracks, in any repository, even if the file is gone; else None."""
    by_repository: dict[Path, dict[str, Path]] = defaultdict(dict)
    folders: dict[Path, tuple[Path, Path | None]] = {}
    for path in paths:
        for each in {path, path.resolve()} if is_link(path) else {path}:
            if each.parent not in folders:
                folder = each.parent.resolve()
                folders[each.parent] = folder, _repository(folder)
            folder, top = folders[each.parent]
            if top:
                by_repository[top][str((folder / each.name).relative_to(top))] = path
    for top, names in by_repository.items():
        folded = {name.casefold(): name for name in names}
        for listed in _listed(top, names):
            name = listed if listed in names else folded.get(listed.casefold())
            if name and (name == listed or _are_one(top / name, top / listed)):
                return names[name]
    return None


def _repository(folder: Path) -> Path | None:
    """Return the working folder of the repository around a folder; None without a repository or without git.

    A ``.git`` that is not a repository, such as an empty folder, is skipped.
    """
    for each in (folder, *folder.parents):
        try:
            if (each / ".git").exists() and not neutral_git(each, *_RESOLVED).returncode:
                return each
        except FileNotFoundError:  # git is not installed, so nobody works with the repository
            return None
    return None


def _listed(top: Path, names: Collection[str]) -> list[str]:
    """Return the files that git tracks below a folder: at least those with these names, in any case."""
    patterns = [f":(icase,literal){name}" for name in names] if len(names) <= _FEW else []
    # With these two options git reads this folder, whatever core.bare, core.worktree and safe.directory say.
    done = neutral_git(top, "--git-dir=.git", "--work-tree=.", "ls-files", "-z", "--", *patterns)
    if done.returncode:
        reason = " ".join(os.fsdecode(done.stderr).split())
        raise UsageError(f"{printable(top)}: git can't say what it tracks there ({printable(reason)})")
    return os.fsdecode(done.stdout).split("\0")


def _are_one(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
