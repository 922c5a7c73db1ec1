"""Verify the store: compare the ledger with the runs, and each file with its recorded hash.

Each copy that DVC and MLflow keep is hashed too; a copy that is whole can heal a stored file that is not.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from petseg.core.files import copy_atomically, listed, naming, remove_leftovers, sha256_file, why_not
from petseg.core.progress import watched
from petseg.errors import StoreError
from petseg.pipeline.dvcfiles import dvc_settings
from petseg.store.additions import EDITED, is_as_sealed
from petseg.store.chain import MARKER, PROMOTED, read_ledger
from petseg.store.heal import Copy, heal_runs, is_as_in_ledger, is_damaged
from petseg.store.layout import MANIFEST, RECORDS, WEIGHTS
from petseg.store.ledger import begin_anew, changing
from petseg.store.prune import drop_checkpoints
from petseg.store.records import damage_of, seal_of
from petseg.store.run import StoredRun
from petseg.store.runs import run_of, stored_runs

STORE, DVC, MLFLOW = "the store", "DVC's cache", "MLflow"
_NO_COPY = "; no copy that is whole was found"


@dataclass
class Report:
    """What was looked at, and what of it differs from the record.

    Attributes:
        runs: how many were looked at.
        files: how many files were looked for, by where they lie.
        damages: a line for each run, record or file that is gone or differs.
        healed: a line for each that was put back.
    """

    runs: int = 0
    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys((STORE, DVC, MLFLOW), 0))
    damages: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)


def verify(
    root: Path,
    chosen: Sequence[StoredRun] | None,
    copies: Callable[[Sequence[StoredRun]], Iterable[Copy]],
    heals: bool = False,
) -> Report:
    """Hash every file again, and hold what is there against the ledger.

    Args:
        root: of the main repository.
        chosen: the runs; None for all of them, for the ledger, and for all that DVC's cache holds.
        copies: gives the copies of these runs' weights that are kept elsewhere.
        heals: whether what differs is put back from a copy that does not, and a broken ledger begun anew.
    """
    report, store = Report(), root / "runs"
    known: dict[str, Path] = {}
    bad_copies: list[tuple[Copy, str]] = []
    bad_objects: list[tuple[Path, str]] = []
    runs = list(chosen or ())
    if chosen is None:
        with _settled(store):
            pass  # a torn last line is dropped, so that it is no reason to begin anew
        if heals and (line := begin_anew(store)):
            report.healed.append(line)
        with _settled(store):
            runs, broken = stored_runs(store)
            report.damages = list(dict.fromkeys([*broken, *against_ledger(store, runs)]))
    else:
        known_damages = against_ledger(store, stored_runs(store)[0])
        report.damages += [line for line in known_damages if any(str(run.folder) in line for run in chosen)]
    if chosen is None or heals:
        bad_objects = _verify_dvc(root, report, known)
    finished = [run for run in runs if run.finished]
    if heals:
        report.healed += heal_runs(finished, known)
    for copy in copies(finished):
        report.files[MLFLOW] += 1
        with TemporaryDirectory(prefix="petseg-") as folder:
            if (said := _verify_copy(copy, Path(folder), report, heals)) is not None:
                bad_copies.append((copy, said))
    report.runs = len(runs)
    for run in watched(finished, "verify runs", len(finished)):
        report.files[STORE] += run.recorded_files
        if list(run.damages()):
            with _settled(store):  # a change may have been made meanwhile: what differs is looked at again
                now = run_of(store, run.key)
                found = now.damages() if now is not None and now.finished else ()
                report.damages += (
                    f"{line}{_NO_COPY if heals and EDITED not in line else ''}" for line in found
                )
    for copy, said in bad_copies:
        _name_or_heal(report, said, heals and _given_back(copy))
    for path, said in bad_objects:
        _name_or_heal(report, said, heals and _put_object(path, finished))
    return report


def _verify_copy(copy: Copy, folder: Path, report: Report, heals: bool) -> str | None:
    """Hash a copy of a run's weights, from which the stored ones may be healed; say what is wrong with it."""
    key, recorded = copy.run.key, copy.run.manifest["files"].get(WEIGHTS)
    file = copy.fetch(folder)
    if file is None or not file.is_file():
        return f"{copy.uri}: is gone; it was a copy of run {key}'s weights"
    digest = _digest(file, report)
    if digest is not None and digest != recorded:
        return f"{copy.uri}: differs from run {key}'s weights, whose copy it is"
    if digest is not None and heals and is_damaged(copy.run.folder / WEIGHTS, digest):
        report.healed += heal_runs([copy.run], {digest: file})
    return None


def _name_or_heal(report: Report, said: str, healed: bool) -> None:
    if healed:
        report.healed.append(f"{said}; put back from the store")
    else:
        report.damages.append(said)


def _given_back(copy: Copy) -> bool:
    """Replace a copy of a run's weights by the stored ones, if these are whole; return whether it is now."""
    stored, digest = copy.run.folder / WEIGHTS, copy.run.manifest["files"].get(WEIGHTS, "")
    try:
        if not is_as_in_ledger(copy.run, copy.run) or damage_of(stored, digest) or not copy.put(stored):
            return False
        with TemporaryDirectory(prefix="petseg-") as folder:
            file = copy.fetch(Path(folder))
            return file is not None and damage_of(file, digest) is None
    except OSError:
        return False


def _put_object(path: Path, runs: Iterable[StoredRun]) -> bool:
    """Replace an object of DVC's cache by a stored file that has its md5; return whether there is one."""
    wanted = path.parent.name + path.name
    holders = (holder for run in runs for holder in run.holders)
    for file in (holder.folder / name for holder in holders for name in holder.manifest["files"]):
        with suppress(OSError):
            md5, sha256 = _hashes(file)
            if md5 == wanted:
                copy_atomically(file, path, sha256)
                path.chmod(0o444)  # as DVC has it
                return True
    return False


@contextmanager
def _settled(store: Path) -> Iterator[None]:
    """Hold the store, once what a killed process had begun is ended; if it refuses, it is taken as it is."""
    with ExitStack() as stack:
        if (store / MARKER).exists():
            with suppress(StoreError, OSError):
                stack.enter_context(changing(store))
                for run in stored_runs(store)[0]:
                    if run.finished:
                        remove_leftovers(run.folder, deep=True)
                        drop_checkpoints(run)
        yield


def _digest(path: Path, report: Report) -> str | None:
    try:
        return sha256_file(path)
    except OSError as error:
        report.damages.append(why_not(error))
        return None


def against_ledger(store: Path, runs: Sequence[StoredRun]) -> list[str]:
    """Say what the ledger knows and the store has not, or has in another form, and the other way round."""
    ledger = read_ledger(store)
    expected, damages = ledger.expected, ledger.damages
    if not ledger.lines:  # the store has none yet, or it is lost, which is named
        return damages
    there = {run.key: run for run in runs}
    for key, seal in expected.runs.items():
        manifest = store / key / MANIFEST
        if key not in there:
            if not manifest.exists():
                damages.append(f"{manifest}: is gone, and was not pruned")
        elif _was_edited(there[key].manifest, seal):
            damages.append(f"{manifest}: is not what the ledger says; it was edited")
    for (key, kind, name), seal in expected.added.items():
        record = store / key / kind / name / RECORDS[kind]
        if key in there and not record.exists():
            damages.append(f"{record}: is gone; the ledger knows it")
        added = [each for each in (there[key].added if key in there else ()) if each.record == record]
        if added and _was_edited(added[0].manifest, seal):
            damages.append(f"{record}: is not what the ledger says; it was edited")
    for run in runs:
        if run.finished and run.key not in expected.runs:
            damages.append(f"{run.folder}: is finished, and the ledger does not know it")
        for each in run.added:
            if (run.key, each.kind, each.key) not in expected.added:
                damages.append(f"{each.folder}: the ledger does not know it")
    promoted = [line for line in ledger.lines if line["event"] == PROMOTED]
    if promoted and (today := promoted[-1].get("run", "")) not in there:
        damages.append(f"{store / today}: is the champion by the ledger, and can't be read or is gone")
    return damages


def _was_edited(record: Mapping[str, Any], seal: str | None) -> bool:
    """Tell whether a record says else than the ledger; one that its own seal gives away is named for that."""
    return seal is not None and is_as_sealed(record) and seal_of(record) != seal


def _verify_dvc(root: Path, report: Report, known: dict[str, Path]) -> list[tuple[Path, str]]:
    """Hash the objects of DVC's cache, which are named by their own md5; DVC itself does not look again.

    Returns:
        Those that differ, and what is said of each.
    """
    bad: list[tuple[Path, str]] = []
    folder = _dvc_cache(root) / "files/md5"
    objects = [path for prefix in listed(folder, "??") for path in listed(prefix) if path.is_file()]
    report.files[DVC] = len(objects)
    for path in watched(objects, "verify DVC's cache", len(objects)):
        try:
            with naming(path):
                md5, sha256 = _hashes(path)
        except OSError as error:
            report.damages.append(why_not(error))
            continue
        if md5 != path.parent.name + path.name.removesuffix(".dir"):
            bad.append((path, f"{path}: differs from the md5 that is its name"))
        else:
            known[sha256] = path
    return bad


def _dvc_cache(root: Path) -> Path:
    """Return DVC's cache, which its settings may put elsewhere."""
    cache = (dvc_settings(root) or {}).get("cache", {})
    return Path(root, ".dvc", str(cache.get("dir") or "cache"))


def _hashes(path: Path) -> tuple[str, str]:
    """Return a file's md5 and sha256, in hex."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            md5.update(block)
            sha256.update(block)
    return md5.hexdigest(), sha256.hexdigest()
