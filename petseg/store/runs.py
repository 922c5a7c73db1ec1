"""Find the runs of a store: all of them, one by its key, or those that hold a certain file."""

from collections.abc import Iterator
from pathlib import Path

from petseg.core.files import listed, sha256_file, why_not
from petseg.core.terminal import warn_once
from petseg.errors import BrokenRecord, StoreError
from petseg.store.layout import CHECKPOINTS, MANIFEST, ORIGINAL, WEIGHTS, manifests
from petseg.store.records import damage_in
from petseg.store.run import StoredRun, is_edited


def stored_runs(store: Path) -> tuple[list[StoredRun], list[str]]:
    """Return all readable runs of the store, the oldest first, and a line for each that can't be read."""
    runs, errors = _all_runs(store)
    return runs, sorted(map(why_not, errors))


def readable_runs(store: Path) -> list[StoredRun]:
    """Return all readable runs of the store, the oldest first; the others are named on stderr."""
    runs, broken = stored_runs(store)
    for line in broken:
        warn_once(line)
    return runs


def known_runs(store: Path) -> Iterator[StoredRun]:
    """Yield all runs of the store, the oldest first; one whose record is broken is named on stderr.

    Raises:
        OSError: a run can't be read, so the content of the store is unknown; all others are yielded first.
    """
    runs, errors = _all_runs(store)
    yield from runs
    for error in errors:
        if isinstance(error, OSError):
            raise error
        warn_once(str(error))


def _all_runs(store: Path) -> tuple[list[StoredRun], list[StoreError | OSError]]:
    runs: list[StoredRun] = []
    errors: list[StoreError | OSError] = []
    for path in manifests(store):
        try:
            runs.append(StoredRun.open(path.parent))
        except (StoreError, OSError) as error:
            if path.exists():  # else it has been pruned meanwhile
                errors.append(error)
    for folder in listed(store, "[!.]*"):
        weights = [*listed(folder, WEIGHTS), *listed(folder, f"{ORIGINAL}*"), *listed(folder / CHECKPOINTS)]
        if weights and not (folder / MANIFEST).exists() and folder.exists():  # else it was pruned meanwhile
            errors.append(BrokenRecord(f"{folder / MANIFEST}: is gone, and was not pruned"))
    return sorted(runs, key=lambda run: (run.manifest["created"], run.key)), errors


def run_of(store: Path, key: str) -> StoredRun | None:
    """Return a run by its whole key; None if the store does not have it, as in a clone that pulled it."""
    folder = store / key
    if not key.isalnum():  # the key may come from a file, and lead elsewhere
        return None
    return StoredRun.open(folder) if (folder / MANIFEST).exists() else None


def places_of(store: Path, digest: str) -> Iterator[tuple[StoredRun, str]]:
    """Yield each finished run whose record has this hash, and the file's name, even if it is damaged.

    Raises:
        OSError: as in ``known_runs``.
    """
    for run in known_runs(store):
        for name, recorded in run.manifest.get("files", {}).items():
            if recorded == digest and run.finished and not is_edited(run):
                yield run, name


def holder_of(store: Path, file: Path) -> StoredRun | None:
    """Return a finished run whose stored copy equals this file, byte for byte; None if there is none."""
    digest = sha256_file(file)
    for run, name in places_of(store, digest):
        if damage_in(run.folder, name, digest) is None:
            return run
    return None


def run_of_weights(store: Path, weights: Path) -> StoredRun | None:
    """Return the run whose weights equal a file, byte for byte; None if the store has no such run."""
    found = places_of(store, sha256_file(weights))
    return next((run for run, name in found if name == WEIGHTS), None)
