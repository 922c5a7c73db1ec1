"""Verify the store: compare the ledger with the runs, and each file with its recorded hash.

The copies that DVC and MLflow keep are hashed too; a whole copy can replace a damaged file of the store.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from petseg.core.files import copy_atomically, listed, naming, remove_leftovers, sha256_file, why_not
from petseg.core.progress import watched
from petseg.errors import DamagedFile, StoreError
from petseg.pipeline.dvcfiles import dvc_settings
from petseg.store.beginning import begin_anew
from petseg.store.chain import MARKER, PROMOTED, read_ledger
from petseg.store.heal import Copy, heal_runs, is_damaged
from petseg.store.layout import CARD, CHECKPOINTS, MANIFEST, RECORDS, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.prune import drop_checkpoints
from petseg.store.records import damage_of
from petseg.store.run import StoredRun
from petseg.store.runs import run_of, stored_runs

STORE, DVC, MLFLOW = "the store", "DVC's cache", "MLflow"
_NO_COPY = "; no copy that is whole was found"


@dataclass
class Report:
    """What was checked, and what differs from the records.

    Attributes:
        runs: number of runs that were checked.
        files: number of files that were checked, by where they lie.
        damages: a line for each run, record or file that is gone or differs.
        healed: a line for each of them that was restored.
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
    """Hash every file again, and compare the store with the ledger.

    Args:
        root: root of the main repository.
        chosen: the runs; None for all runs, the ledger, and the whole of DVC's cache.
        copies: returns the copies of these runs' weights that are kept elsewhere.
        heals: whether damaged files are restored from whole copies, and a broken ledger is begun anew.
    """
    report, store = Report(), root / "runs"
    known: dict[str, Path] = {}
    if chosen is None:
        runs = _verify_ledger(store, report, heals)
    else:
        runs, lines = list(chosen), against_ledger(store, stored_runs(store)[0])
        report.damages += [line for line in lines if any(str(run.folder) in line for run in runs)]
    report.runs = len(runs)
    finished = [run for run in runs if run.finished]
    bad_objects = _verify_dvc(root, report, known) if chosen is None or heals else []
    if heals:
        report.healed += [*heal_runs(finished, known), *_healed_from_checkpoints(finished)]
    bad_copies = _verify_copies(copies(finished), report, heals)
    for run in watched(runs, "verify runs", len(runs)):
        report.damages += _damages_of(run, report, heals)
    for copy, line in bad_copies:
        _name_or_heal(report, line, heals and _given_back(copy))
    stored = _by_md5(finished) if heals and bad_objects else {}
    for path, line in bad_objects:
        _name_or_heal(report, line, heals and _put_object(path, stored))
    return report


def _verify_ledger(store: Path, report: Report, heals: bool) -> list[StoredRun]:
    """Compare the store with the ledger, after beginning a broken one anew if asked; return all runs."""
    with _settled(store):
        pass  # this removes an incomplete last line, which alone is no reason to begin anew
    if heals:
        healed, unproved = begin_anew(store)
        report.healed += healed
        report.damages += unproved
    with _settled(store):
        runs, broken = stored_runs(store)
        report.damages += dict.fromkeys([*broken, *against_ledger(store, runs)])
    return runs


def _healed_from_checkpoints(runs: Iterable[StoredRun]) -> Iterator[str]:
    for run in runs:
        if (run.folder / CHECKPOINTS).exists():
            from petseg.store.rebuild import heal_from_checkpoints  # rarely needed: torch takes seconds

            yield from heal_from_checkpoints(run)


def _damages_of(run: StoredRun, report: Report, heals: bool) -> Iterator[str]:
    """Yield what is wrong with a run's records and files."""
    if not run.finished and not run.edit():
        yield from _damaged_checkpoints(run, report)
        return
    store = run.folder.parent
    report.files[STORE] += run.recorded_files
    if not any(run.damages()) and not any(_unrecorded(run)):
        return
    with _settled(store):  # what differs is checked again: it may have changed meanwhile
        now = run_of(store, run.key)
        if now is not None and (now.finished or now.edit()):
            edits = {holder.edit() for holder in now.holders}
            for line in now.damages():
                yield f"{line}{_NO_COPY if heals and line not in edits else ''}"
            yield from _unrecorded(now)


def _unrecorded(run: StoredRun) -> Iterator[str]:
    """Yield a line for each file in a finished run's folder that no record names."""
    recorded = {holder.folder / name for holder in run.holders for name in holder.manifest.get("files", {})}
    recorded |= {run.folder / CARD, *(holder.record for holder in run.holders)}
    for folder, folders, names in os.walk(run.folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != CHECKPOINTS]
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path not in recorded:
                yield f"{path}: no record names it"


def _damaged_checkpoints(run: StoredRun, report: Report) -> Iterator[str]:
    """Yield a line for each damaged checkpoint of a training that is running or was stopped."""
    for path in listed(run.folder / CHECKPOINTS, "epoch-*.safetensors"):
        from petseg.models.weights import load_tensors  # rarely needed: torch takes seconds

        report.files[STORE] += 1
        try:
            _, about = load_tensors(path)
            if about.get("run_key") != run.key:
                yield f"{path}: is a checkpoint of run {about.get('run_key')}"
        except (DamagedFile, OSError) as error:
            if path.exists():  # else the training has deleted it meanwhile
                yield why_not(error)


def _verify_copies(copies: Iterable[Copy], report: Report, heals: bool) -> list[tuple[Copy, str]]:
    """Hash copies of runs' weights, and heal the stored ones with them; return the bad copies, and why."""
    bad: list[tuple[Copy, str]] = []
    for copy in copies:
        report.files[MLFLOW] += 1
        key, recorded = copy.run.key, copy.run.manifest["files"].get(WEIGHTS)
        with TemporaryDirectory(prefix="petseg-") as folder:
            file = copy.fetch(Path(folder))
            if file is None or not file.is_file():
                bad.append((copy, f"{copy.uri}: is gone; it was a copy of run {key}'s weights"))
                continue
            digest = _digest(file, report)
            if digest is not None and digest != recorded:
                bad.append((copy, f"{copy.uri}: differs from run {key}'s weights, whose copy it is"))
            elif digest is not None and heals and is_damaged(copy.run.folder, WEIGHTS, digest):
                report.healed += heal_runs([copy.run], {digest: file})
    return bad


def _name_or_heal(report: Report, line: str, healed: bool) -> None:
    if healed:
        report.healed.append(f"{line}; put back from the store")
    else:
        report.damages.append(line)


def _given_back(copy: Copy) -> bool:
    """Replace a copy of a run's weights by the stored ones, if these are whole; return whether it worked."""
    stored, digest = copy.run.folder / WEIGHTS, copy.run.manifest["files"].get(WEIGHTS, "")
    try:
        if copy.run.edit() or is_damaged(copy.run.folder, WEIGHTS, digest) or not copy.put(stored):
            return False
        with TemporaryDirectory(prefix="petseg-") as folder:
            file = copy.fetch(Path(folder))
            return file is not None and damage_of(file, digest) is None
    except OSError:
        return False


def _by_md5(runs: Iterable[StoredRun]) -> dict[str, tuple[Path, str]]:
    """Return the stored files that can be read, with the sha256 of each, by their md5."""
    found: dict[str, tuple[Path, str]] = {}
    holders = (holder for run in runs for holder in run.holders)
    for file in (holder.folder / name for holder in holders for name in holder.manifest["files"]):
        with suppress(OSError):
            md5, sha256 = _hashes(file)
            found[md5] = file, sha256
    return found


def _put_object(path: Path, stored: Mapping[str, tuple[Path, str]]) -> bool:
    """Replace an object of DVC's cache by a stored file with its md5; return whether that worked."""
    if (found := stored.get(path.parent.name + path.name)) is None:
        return False
    file, sha256 = found
    try:
        copy_atomically(file, path, sha256)
        path.chmod(0o444)  # as DVC does
    except OSError:
        return False
    return True


@contextmanager
def _settled(store: Path) -> Iterator[None]:
    """Lock the store, and complete what a killed process had begun; if that fails, go on without."""
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
    """Return the damages of the ledger, and a line for each record that it names and the store lacks."""
    ledger = read_ledger(store)
    damages = ledger.damages
    if not ledger.lines:  # the store has none yet, or it is lost, which ``damages`` says
        return damages
    there = {run.key for run in runs}
    for place in ledger.seals:
        key, *added = place
        record = store.joinpath(*place, RECORDS[added[0]] if added else MANIFEST)
        if not record.exists() and (key in there or not added):
            damages.append(f"{record}: is gone, and was not pruned")
    promoted = [line for line in ledger.lines if line["event"] == PROMOTED]
    if promoted and (today := promoted[-1].get("run", "")) not in there:
        damages.append(f"{store / today}: is the champion by the ledger, and can't be read or is gone")
    return damages


def _verify_dvc(root: Path, report: Report, known: dict[str, Path]) -> list[tuple[Path, str]]:
    """Hash the objects of DVC's cache, which are named by their md5; DVC itself does not check them again.

    Returns:
        The objects that differ, with a line for each.
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
