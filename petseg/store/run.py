"""The store of runs, which only grows, to read: its runs are listed, proved and copied out of it.

petseg.store.layout says what lies in a run's folder, petseg.store.writer writes it. Nothing here needs torch.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from petseg.core.files import folder_bytes, sha256_file, why_not
from petseg.core.locks import Held, held
from petseg.errors import BrokenRecord, DamagedFile, RunLocked, StoreError
from petseg.store.additions import Addition, Evaluation, is_as_sealed
from petseg.store.layout import (
    ABOUT,
    EVALUATIONS,
    FIGURES,
    HISTORY,
    MANIFEST,
    RECORDS,
    WEIGHTS,
    manifests,
    records_in,
)
from petseg.store.records import damage_of, differing, export_files, read_lines, read_manifest
from petseg.store.typed import Row

AnyAddition = TypeVar("AnyAddition", bound=Addition)


@dataclass
class StoredRun:
    """One run of the store, to read."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a run's manifest.

        Raises:
            StoreError: there is none, it is not what it must be, or it is of a later format.
            OSError: it can't be read.
        """
        manifest = read_manifest(folder)
        if not manifest:
            raise StoreError(f"{folder}: is no run, it has no {MANIFEST}")
        return cls(folder, manifest)

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def record(self) -> Path:
        return self.folder / MANIFEST

    @property
    def uid(self) -> str:
        """What tells this training from another of the same key elsewhere."""
        return str(self.manifest.get("uid", self.key))  # runs of before had none

    @property
    def finished(self) -> bool:
        return bool(self.manifest["status"] == "finished")

    @property
    def usable(self) -> bool:
        """Whether it has weights, and says of which network they are."""
        return self.finished and {WEIGHTS, ABOUT} <= self.manifest["files"].keys()

    @property
    def adopted(self) -> bool:
        """Whether its weights were trained elsewhere."""
        return "adopted" in self.manifest

    @property
    def network(self) -> str:
        """The network's name and what is particular about it, as far as it is known."""
        params = self.params
        sizes = [
            f"{part} {params[f'model.{part}']}" for part in ("width", "depth") if f"model.{part}" in params
        ]
        return ", ".join([str(params.get("model.name", "unknown network")), *sizes])

    @property
    def params(self) -> dict[str, Any]:
        """Every param that is known and that its weights depend on, flat."""
        size = {k: v for k, v in self.manifest.get("data", {}).items() if k == "data.image_size"}
        return {**size, **self.manifest.get("split", {}), **self.manifest.get("params", {})}

    @property
    def val_dice(self) -> float | None:
        """The validation Dice of the best epoch, of an unfinished run too; None where none is known."""
        if self.finished:
            best: float | None = self.manifest.get("best", {}).get("val_dice")
            return best
        rows = self.rows()
        return max((row["val_dice"] for row in rows if row["val_dice"] is not None), default=None)

    def rows(self) -> list[dict[str, Any]]:
        """Return its history, one a finished epoch.

        Raises:
            BrokenRecord: it is not what it must be.
            OSError: it can't be read.
        """
        return cast("list[dict[str, Any]]", read_lines(self.folder / HISTORY, Row))

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """What infer found, the newest last; without those whose scores are not what they must be."""
        return [each for each in self._added[0] if _problem_of(each) is None]

    @property
    def figures(self) -> list[Addition]:
        """What plot drew, the newest last."""
        return self._added[1]

    @property
    def added(self) -> list[Addition]:
        """All evaluations and figures."""
        return [*self._added[0], *self._added[1]]

    @property
    def holders(self) -> "list[StoredRun | Addition]":
        """What has a record of files: the run itself, and all that was added to it."""
        return [self, *self.added]

    @property
    def broken(self) -> list[str]:
        """A line for each addition that is not what it must be; the others are used."""
        return [*self._added[2], *filter(None, map(_problem_of, self._added[0]))]

    @cached_property
    def _added(self) -> tuple[list[Evaluation], list[Addition], list[str]]:
        broken: list[str] = []
        evaluations = _opened(Evaluation, self.folder / EVALUATIONS, broken)
        return evaluations, _opened(Addition, self.folder / FIGURES, broken), broken

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest evaluation; None where infer has not run."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk, but for a few kB: when it was finished, and by what was added since."""
        if "size_bytes" not in self.manifest:  # not finished, adopted, or of an earlier petseg
            return folder_bytes(str(self.folder))
        added = [self.folder / kind for kind in RECORDS]
        added_bytes = sum(folder_bytes(str(folder)) for folder in added if folder.exists())
        return int(self.manifest["size_bytes"]) + added_bytes

    @property
    def recorded_files(self) -> int:
        """How many files the records have a hash of, the records included."""
        records = [self.manifest, *(addition.manifest for addition in self.added)]
        return sum(1 + len(record["files"]) for record in records)

    def damages(self) -> Iterator[str]:
        """Say of each file of a finished run that is absent or differs from its recorded hash."""
        for holder in self.holders:
            if not is_as_sealed(holder.manifest):
                yield f"{holder.record}: differs from the hash that it holds"
            for name, digest in holder.manifest["files"].items():
                try:
                    yield from differing(holder.folder, {name: digest})
                except OSError as error:  # the other files are looked at all the same
                    yield why_not(error)
        yield from self._added[2]

    def addition(self, kind: str, key: str) -> Addition | None:
        """Return an evaluation or a set of figures by its key; None where the run does not have it.

        Raises:
            BrokenRecord: its record is not what it must be.
        """
        record = self.folder / kind / key / RECORDS[kind]
        return (Evaluation if kind == EVALUATIONS else Addition).open(record) if record.exists() else None

    def export_added(self, kind: str, key: str, folder: Path, pattern: str = "*") -> bool:
        """Copy what a later stage added before into a folder, byte for byte.

        Args:
            kind: EVALUATIONS or FIGURES.
            key: hash of what determines it.
            folder: where to; it is made.
            pattern: which files.

        Returns:
            Whether it was there, and whole; a damaged one is named, so that it is computed again.
        """
        try:
            found = self.addition(kind, key)
            if found is None:
                return False
            found.export({name: folder / name for name in found.manifest["files"] if fnmatch(name, pattern)})
        except (DamagedFile, BrokenRecord) as damage:
            print(f"warning: {damage}; it is computed again", flush=True)
            return False
        return True

    def check_tensors(self, digest: str, weights: Path) -> None:
        """Check that weights which were used are this run's.

        Args:
            digest: of the tensors that were used.
            weights: the file that they were read from, for the message.

        Raises:
            DamagedFile: they are others.
        """
        if digest != self.manifest.get("tensors_sha256"):
            raise DamagedFile(f"{weights}: its tensors are not those of run {self.key}; nothing is recorded")

    def check_whole(self, *names: str) -> None:
        """Check that these stored files, as far as the run has them, are as recorded.

        Raises:
            DamagedFile: one of them is gone, or differs.
        """
        files = self.manifest.get("files", {})
        recorded = {name: digest for name, digest in files.items() if name in names}
        for damage in differing(self.folder, recorded):
            raise DamagedFile(f"{damage}; petseg runs verify --heal looks for a copy that is whole")

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy files of a finished run out of the store, byte for byte.

        Args:
            files: by their name in the store, where they go.

        Raises:
            StoreError: the run is not finished, or has no such file.
            DamagedFile: one of them is gone, or differs from its recorded hash; nothing is copied then.
        """
        if not self.finished:
            raise StoreError(
                f"run {self.key} is not finished; start the same training again to go on with it"
            )
        if absent := files.keys() - self.manifest["files"].keys():
            raise StoreError(f"run {self.key} has no {', '.join(sorted(absent))}: see {self.folder}")
        export_files(self.folder, self.manifest["files"], files)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for this process alone.

    Raises:
        RunLocked: another process holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".lock", wait=False))
        except Held as other:
            message = f"run {folder.name} is being trained by process {other.pid}; wait for it, or stop it"
            raise RunLocked(message) from None
        yield


def stored_runs(store: Path) -> tuple[list[StoredRun], list[str]]:
    """Read every run of the store, the oldest first, and say which can't be read."""
    runs, broken = [], []
    for path in manifests(store):
        try:
            runs.append(StoredRun.open(path.parent))
        except (StoreError, OSError) as error:
            if path.exists():  # else it was pruned meanwhile
                broken.append(_why(error))
    return sorted(runs, key=lambda run: (run.manifest["created"], run.key)), sorted(broken)


def readable_runs(store: Path) -> list[StoredRun]:
    """Read every run of the store that can be read, the oldest first; the others are named on stderr."""
    runs, broken = stored_runs(store)
    for line in broken:
        _warn_once(line)
    return runs


@cache
def _warn_once(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _opened(form: type[AnyAddition], folder: Path, broken: list[str]) -> list[AnyAddition]:
    """Read what a stage added, the oldest first, and say which can't be read."""
    found = []
    for record in records_in(folder, RECORDS[folder.name]):
        try:
            found.append(form.open(record))
        except (BrokenRecord, OSError) as error:
            if record.exists():  # else it was set aside meanwhile
                broken.append(_why(error))
    return sorted(found, key=lambda each: (each.manifest["created"], each.key))


def _problem_of(evaluation: Evaluation) -> str | None:
    """Say why the scores of an evaluation can't be used; None where they can."""
    try:
        _ = evaluation.headlines
    except (BrokenRecord, OSError) as error:
        return _why(error)
    return None


def _why(error: StoreError | OSError) -> str:
    return why_not(error) if isinstance(error, OSError) else str(error)


def run_of(store: Path, key: str) -> StoredRun | None:
    """Return a run by its whole key; None where the store does not have it, as in a clone that pulled it."""
    folder = store / key
    if not key.isalnum():  # a name from a file, which might lead elsewhere
        return None
    return StoredRun.open(folder) if (folder / MANIFEST).exists() else None


def places_of(store: Path, digest: str) -> Iterator[tuple[StoredRun, str]]:
    """Yield each finished run, and its file, whose record has this hash, be the file whole or not."""
    for run in readable_runs(store):
        for name, recorded in run.manifest.get("files", {}).items():
            if recorded == digest:
                yield run, name


def holder_of(store: Path, file: Path) -> StoredRun | None:
    """Return a finished run that has this file, byte for byte, as its stored copy proves."""
    digest = sha256_file(file)
    for run, name in places_of(store, digest):
        if damage_of(run.folder / name, digest) is None:
            return run
    return None


def run_of_weights(store: Path, weights: Path) -> StoredRun | None:
    """Return the run whose weights a file is, byte for byte; None where the store has no such run."""
    found = places_of(store, sha256_file(weights))
    return next((run for run, name in found if name == WEIGHTS), None)
