"""Restore damaged or missing files of the store from copies that have the recorded hash."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from petseg.core.files import copy_atomically, sha256_file
from petseg.core.terminal import print_lines
from petseg.store.additions import Addition
from petseg.store.chain import HEALED
from petseg.store.ledger import Changes, changing
from petseg.store.records import damage_in, differing, link_to
from petseg.store.run import StoredRun
from petseg.store.runs import run_of


@dataclass(frozen=True)
class Copy:
    """A copy of a run's weights that is kept elsewhere.

    Attributes:
        run: the run.
        uri: where the copy is.
        fetch: puts the copy into a folder, and returns the file there; None if the copy is lost.
        put: replaces the copy by a file, and returns whether that worked.
    """

    run: StoredRun
    uri: str
    fetch: Callable[[Path], Path | None]
    put: Callable[[Path], bool]


def heal(
    changes: Changes, run: StoredRun, holder: StoredRun | Addition, copies: Mapping[str, Path]
) -> list[str]:
    """Restore the damaged or missing files of a record, unless the record was edited.

    Args:
        changes: the right to change the store.
        run: the run.
        holder: the run, or an addition to it, whose files are restored.
        copies: files to restore from, by their sha256.

    Returns:
        A line for each file that was restored.
    """
    wanted = {name: digest for name, digest in holder.manifest["files"].items() if digest in copies}
    damaged = [name for name, digest in wanted.items() if is_damaged(holder.folder, name, digest)]
    healed: list[str] = []
    for name in damaged if damaged and not holder.edit() else ():
        path, digest = holder.folder / name, wanted[name]
        if link_to(holder.folder, name) not in (None, path):  # a linked folder: the file would go elsewhere
            continue
        within = path.relative_to(run.folder).as_posix()
        with changes.noting(HEALED, run.key, file=within, sha256=digest):
            copy_atomically(copies[digest], path, digest)
            path.chmod(0o444)
        healed.append(f"{path}: was damaged or gone; put back from {copies[digest]}")
    return healed


def is_damaged(folder: Path, name: str, digest: str) -> bool:
    """Return whether a stored file is gone or differs; False if it can't be read."""
    try:
        return damage_in(folder, name, digest) is not None
    except OSError:
        return False


def heal_runs(runs: Iterable[StoredRun], copies: Mapping[str, Path]) -> list[str]:
    """Restore the damaged or missing files of finished runs and of their additions.

    Args:
        runs: runs of one store.
        copies: files to restore from, by their sha256.

    Returns:
        A line for each file that was restored.
    """
    healed = []
    for found in runs:
        with changing(found.folder.parent) as changes:
            run = run_of(found.folder.parent, found.key)
            if run is not None and run.finished:  # else it has been pruned meanwhile
                for holder in run.holders:
                    healed += heal(changes, run, holder, copies)
    return healed


def heal_from(run: StoredRun, files: Iterable[Path]) -> None:
    """Restore the damaged or missing files of a finished run from these files, where their hashes agree."""
    if any(differing(run.folder, run.manifest["files"])):
        print_lines(*heal_runs([run], {sha256_file(file): file for file in files if file.is_file()}))
