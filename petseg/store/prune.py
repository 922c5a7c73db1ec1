"""Delete runs for ever, but not the champion or the best by validation; delete unneeded checkpoints."""

import shutil
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from petseg.core.files import fsync_folder, listed
from petseg.core.terminal import print_lines
from petseg.errors import StoreError, UsageError
from petseg.store.chain import PRUNED, read_ledger
from petseg.store.champion import champion
from petseg.store.layout import CHECKPOINTS, LAST_WEIGHTS, MANIFEST, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.records import differing
from petseg.store.run import StoredRun, locked
from petseg.store.runs import known_runs, run_of


def best_runs(store: Path) -> list[StoredRun]:
    """Return the finished run with the highest validation Dice for each set of photos and boundary rule."""
    best: dict[tuple[str, str], StoredRun] = {}
    for run in known_runs(store):
        if run.finished and run.val_dice is not None:
            alike = run.manifest.get("data_sha256", ""), run.validated_by
            if alike not in best or run.val_dice > (best[alike].val_dice or 0):
                best[alike] = run
    return list(best.values())


def why_kept(store: Path) -> dict[str, str]:
    """Return the runs that must be kept, by key, and why."""
    kept = {best.key: "is the best by validation Dice" for best in best_runs(store)}
    today = champion(store)
    return kept | ({today: "is the champion"} if today else {})


def check_prunable(store: Path, keys: Iterable[str]) -> None:
    """Check that none of these runs must be kept.

    Raises:
        UsageError: one must be kept.
    """
    kept = why_kept(store)
    for key in keys:
        if key in kept:
            raise UsageError(f"run {key} {kept[key]}, and is not pruned")


def prune(store: Path, keys: list[str], force: bool = False) -> None:
    """Delete runs from the store for ever; a crash leaves each run whole, or in a hidden folder.

    Args:
        store: folder of the runs.
        keys: keys of the runs.
        force: whether to delete a run even if its record is damaged, so that its quality is unknown.

    Raises:
        UsageError: one of the runs must be kept; then none is deleted.
        StoreError: the ledger, the record of a run, or a run that is kept is damaged; then none is deleted.
        RunLocked: one of the runs is being trained; then none is deleted.
    """
    with changing(store) as changes, ExitStack() as held:
        check_prunable(store, keys)
        ledger = read_ledger(store)
        if ledger.damages:  # then it is unknown which run is the champion
            raise StoreError(ledger.damages[0])
        known = ledger.seals
        for key in why_kept(store):
            if (kept := run_of(store, key)) is not None and (damages := list(kept.damages())):
                raise StoreError(
                    f"run {key}, which is kept, can't be verified: {damages[0]}; nothing is deleted"
                )
        there = [key for key in keys if (store / key).is_dir()]
        for key in there:
            if not force and (doubt := _doubt(store, key)):
                raise StoreError(f"run {key} can't be verified: {doubt}; --force deletes it all the same")
            held.enter_context(locked(store / key))
        for key in keys:
            if key not in there:
                if (key,) in known:  # the run was lost; from now on it is not expected
                    changes.append(PRUNED, run=key)
                continue  # else another process has pruned it
            gone = store / f".{key}.pruned.tmp"
            with changes.noting(PRUNED, key, partial(gone.replace, store / key)):
                (store / key).replace(gone)
                try:
                    fsync_folder(store)
                except OSError:
                    gone.replace(store / key)
                    raise
            try:
                shutil.rmtree(gone)
            except OSError as error:  # it does not name the folder
                left = f"{gone}: {error.strerror}; what is left of the run goes with the next change"
                print_lines(f"warning: {left}", err=True)


def _doubt(store: Path, key: str) -> str | None:
    """Return why it is unknown what a run is; None if it is known."""
    try:
        run = run_of(store, key)
        return run.edit() if run else f"{store / key / MANIFEST}: is gone"
    except StoreError as error:
        return str(error)


def drop_checkpoints(run: StoredRun) -> None:
    """Delete the checkpoints of a finished run, if the weights that were made from them are whole.

    Checkpoints that its record names (by an earlier petseg) and damaged ones that were moved aside stay.
    """
    folder, recorded = run.folder / CHECKPOINTS, run.manifest["files"]
    found = listed(folder, "epoch-*.safetensors")
    unneeded = [path for path in found if f"{CHECKPOINTS}/{path.name}" not in recorded]
    weights = {name: recorded[name] for name in (WEIGHTS, LAST_WEIGHTS) if name in recorded}
    if unneeded and any(differing(run.folder, weights)):
        return
    for path in unneeded:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or something is left in it
        folder.rmdir()
