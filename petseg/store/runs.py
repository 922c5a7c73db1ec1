"""The runs of a store: all of them, one by its key, and those that have certain bytes."""

from collections.abc import Iterator
from pathlib import Path

from petseg.core.files import listed, sha256_file, why_not
from petseg.core.terminal import warn_once
from petseg.errors import BrokenRecord, StoreError
from petseg.store.layout import CHECKPOINTS, MANIFEST, ORIGINAL, WEIGHTS, manifests
from petseg.store.records import damage_in
from petseg.store.run import StoredRun, is_edited


def stored_runs(store: Path) -> tuple[list[StoredRun], list[str]]:
    """Read every run of the store, the oldest first, and say which can't be read."""
    runs, errors = _all_runs(store)
    return runs, sorted(map(why_not, errors))


def readable_runs(store: Path) -> list[StoredRun]:
    """Read every run of the store that can be read, the oldest first; the others are named on stderr."""
    runs, broken = stored_runs(store)
    for line in broken:
        warn_once(line)
    return runs


def known_runs(store: Path) -> Iterator[StoredRun]:
    """Yield every run of the store, the oldest first; one whose record is broken is named on stderr.

    Raises:
        OSError: once all others are yielded: one can't be read, so that nobody knows what the store has.
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
            if path.exists():  # else it was pruned meanwhile
                errors.append(error)
    for folder in listed(store, "[!.]*"):
        weights = [*listed(folder, WEIGHTS), *listed(folder, f"{ORIGINAL}*"), *listed(folder / CHECKPOINTS)]
        if weights and not (folder / MANIFEST).exists() and folder.exists():  # else it was pruned meanwhile
            errors.append(BrokenRecord(f"{folder / MANIFEST}: is gone, and was not pruned"))
    return sorted(runs, key=lambda run: (run.manifest["created"], run.key)), errors


def run_of(store: Path, key: str) -> StoredRun | None:
    """Return a run by its whole key; None where the store does not have it, as in a clone that pulled it."""
    folder = store / key
    if not key.isalnum():  # a name from a file, which might lead elsewhere
        return None
    return StoredRun.open(folder) if (folder / MANIFEST).exists() else None


def places_of(store: Path, digest: str) -> Iterator[tuple[StoredRun, str]]:
    """Yield each finished run, and its file, whose record has this hash, be the file whole or not.

    Raises:
        OSError: as of ``known_runs``.
    """
    for run in known_runs(store):
        for name, recorded in run.manifest.get("files", {}).items():
            if recorded == digest and run.finished and not is_edited(run):
                yield run, name


def holder_of(store: Path, file: Path) -> StoredRun | None:
    """Return a finished run that has this file, byte for byte, as its stored copy proves."""
    digest = sha256_file(file)
    for run, name in places_of(store, digest):
        if damage_in(run.folder, name, digest) is None:
            return run
    return None


def run_of_weights(store: Path, weights: Path) -> StoredRun | None:
    """Return the run whose weights a file is, byte for byte; None where the store has no such run."""
    found = places_of(store, sha256_file(weights))
    return next((run for run, name in found if name == WEIGHTS), None)
