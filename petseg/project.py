"""Where things are, and what state they are in: the repository's root, its commit, its files' hashes."""

import getpass
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def written_atomically(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file so that after any crash the old content or the new is there, and nothing else.

    The bytes go to a temporary file beside ``path``, are flushed to the disk, and are renamed
    into place; then the folder's entry is flushed too. On an error the temporary file is removed.

    Args:
        path: the file; its folder is made.
        durable: whether it must outlast a power cut; if not, nothing waits for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file's bytes so that after any crash the old content of ``target`` or the new is there."""
    with source.open("rb") as file, written_atomically(target) as copy:
        shutil.copyfileobj(file, copy)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
