"""Which of some paths git tracks, in whatever repository they lie."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from petseg.core.git import neutral_git
from petseg.core.textfiles import printable
from petseg.errors import UsageError

_FEW = 100  # files that git is asked about by their names
_RESOLVED = ("rev-parse", "--resolve-git-dir", ".git")


def place_of(path: Path) -> Path:
    """Return where a file lies, without following a link that it is itself."""
    return Path(os.path.realpath(path.parent), path.name)


def is_link(path: Path) -> bool:
    """Tell whether a path is a symbolic link, as far as that can be seen."""
    try:
        return path.is_symlink()
    except OSError:  # no folder that can be looked into, or a name that is too long
        return False


def first_tracked(paths: Iterable[Path]) -> Path | None:
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
