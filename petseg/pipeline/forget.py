"""Remove a file again that DVC put into git's objects before petseg could refuse it."""

import os
import subprocess
from pathlib import Path

from petseg.core.git import Repository, neutral_git

# Where the user may refer to the file. DVC removes its refs of a running experiment when that ends.
_REFERRED = ("--exclude=refs/exps/exec/*", "--all", "--reflog", "--indexed-objects")


def forget(file: Path) -> bool:
    """Remove the copy of a file that ``dvc exp run`` has made among git's objects.

    DVC stashes params.yaml with the values of ``-S`` before a stage runs. After the run nothing refers to
    that copy, but git would keep it for two weeks. A copy to which a commit, the index or a reflog refers
    is kept.

    Returns:
        Whether git has no copy any more, as far as can be found out.
    """
    folder = file.absolute().parent
    try:
        objects = Repository.of(folder).objects
        blob = _git(folder, "hash-object", "--no-filters", "--", file.name)
        copy = objects / blob[:2] / blob[2:]
        if not copy.is_file():
            return True
        if blob in _git(folder, "rev-list", "--objects", "--no-object-names", *_REFERRED).split():
            return False
        copy.unlink()
    except (OSError, subprocess.CalledProcessError):  # there is no repository, or git can't read it
        return not (folder / ".git").exists()
    return True


def _git(folder: Path, *arguments: str) -> str:
    done = neutral_git(folder, *arguments)
    done.check_returncode()
    return os.fsdecode(done.stdout).strip()
