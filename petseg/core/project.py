"""Where things are, and what state they are in: the repository's root, its commit, its files' hashes."""

import getpass
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TEMPORARY = "/.dvc/tmp/exps/"


def main_root(folder: Path | None = None) -> Path:
    """Return the root of the main repository, where the store of runs and MLflow's database live.

    ``dvc exp run --temp`` and ``--queue`` run a stage in a copy below ``.dvc/tmp/exps/`` that is
    deleted at the end, so what must outlast it goes to the repository around that copy. The
    variable DVC_ROOT is of no use here: a plain ``dvc repro`` keeps a stale inherited one.
    """
    folder = (folder or Path.cwd()).resolve()
    before, found, _ = f"{folder}/".partition(_TEMPORARY)
    if found:
        return Path(before)
    for parent in (folder, *folder.parents):
        if (parent / ".dvc").is_dir():
            return parent
    return folder


def expanded(path: str | Path) -> Path:
    """Return a path that a user gave, with a leading ``~`` as the home folder.

    A shell does it too, but not in ``--out=~/cut``. A ``~name`` that is nobody's stays a file's name.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises for ~name)


@dataclass(frozen=True)
class GitState:
    """The commit that is checked out, and how tracked files differ from it.

    Attributes:
        commit: None outside a repository.
        changes: what ``git apply`` would make of the commit what lies there; empty where nothing differs.
    """

    commit: str | None
    changes: str

    @property
    def dirty(self) -> bool:
        return bool(self.changes)


def git_state() -> GitState:
    """Describe the working folder's git state.

    What the pipeline itself writes, dvc.lock and metrics, does not count as a difference, and neither does
    params.yaml, whose values every record holds in full: ``-S`` alone makes no run that can't be traced.
    """
    apart = (f":(top,exclude){path}" for path in ("dvc.lock", "metrics", "params.yaml"))
    changes = _git("diff", "--binary", "HEAD", "--", ":/", *apart)
    return GitState((_git("rev-parse", "HEAD") or "").strip() or None, changes or "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, errors="surrogateescape", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def provenance(git: GitState) -> dict[str, Any]:
    """Say for a record which commit made it, and in which experiment of DVC's."""
    return {
        "git": {"commit": git.commit, "dirty": git.dirty},
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
    }


def user() -> str:
    """Return who is at work."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def now() -> str:
    """Return the time, in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
