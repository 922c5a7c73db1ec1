"""The store of runs, which only grows, to read: its runs are listed, proved and copied out of it.

petseg.store.layout says what lies in a run's folder, petseg.store.writer writes it. Nothing here needs torch.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from petseg.core.files import copy_atomically, fsync_folder, published_folder, sha256_file
from petseg.core.locks import Held, held
from petseg.core.project import now
from petseg.core.textfiles import write_json
from petseg.errors import DamagedFile, RunLocked, StoreError
from petseg.evaluation.outputs import HEADLINES
from petseg.store.layout import (
    ABOUT,
    EVALUATIONS,
    FIGURES,
    HISTORY,
    MANIFEST,
    RECORDS,
    WEIGHTS,
)
from petseg.store.records import differing, export_files, read_json, read_manifest, seal_of, sealed


@dataclass(frozen=True)
class Addition:
    """What a later stage added to a finished run."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        return self.folder.name

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy files of it out of the store, byte for byte.

        Args:
            files: by their name in the store, where they go.

        Raises:
            DamagedFile: one of them is gone, or differs from its recorded hash; nothing is copied then.
        """
        export_files(self.folder, self.manifest["files"], files)


class Evaluation(Addition):
    """What one way of inferring found on the test photos."""

    @cached_property
    def headlines(self) -> dict[str, Any]:
        """The scores that matter, as metrics/test.json has them."""
        scores: dict[str, Any] = read_json(self.folder / HEADLINES)
        return scores


@dataclass
class StoredRun:
    """One run of the store, to read."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a run's manifest.

        Raises:
            StoreError: there is none, it can't be read, or it is of a later format.
        """
        manifest = read_manifest(folder)
        if not manifest:
            raise StoreError(f"{folder}: is no run, it has no {MANIFEST}")
        return cls(folder, manifest)

    @property
    def key(self) -> str:
        return self.folder.name

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
        return ", ".join([params.get("model.name", "unknown network"), *sizes])

    @property
    def params(self) -> dict[str, Any]:
        """Every param that is known and that its weights depend on, flat."""
        size = {k: v for k, v in self.manifest.get("data", {}).items() if k == "data.image_size"}
        return {**size, **self.manifest.get("split", {}), **self.manifest.get("params", {})}

    @property
    def val_dice(self) -> float | None:
        """The validation Dice of the best epoch, of an unfinished run too; None where none is known."""
        if "best" in self.manifest:
            best: float | None = self.manifest["best"]["val_dice"]
            return best
        rows = self.rows()
        return max((row["val_dice"] for row in rows if row["val_dice"] is not None), default=None)

    def rows(self) -> list[dict[str, Any]]:
        """Return its history, one a finished epoch.

        Raises:
            StoreError: it can't be read.
        """
        path = self.folder / HISTORY
        try:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: can't be read ({error})") from None

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """What infer found, the newest last."""
        return [Evaluation(folder, record) for folder, record in self._added(EVALUATIONS)]

    @cached_property
    def figures(self) -> list[Addition]:
        """What plot drew, the newest last."""
        return [Addition(folder, record) for folder, record in self._added(FIGURES)]

    def _added(self, kind: str) -> list[tuple[Path, dict[str, Any]]]:
        paths = (self.folder / kind).glob(f"[!.]*/{RECORDS[kind]}")
        return sorted(((path.parent, read_json(path)) for path in paths), key=lambda it: it[1]["created"])

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest evaluation; None where infer has not run."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk, but for a few kB: when it was finished, and by what was added since."""
        if "size_bytes" not in self.manifest:  # not finished, adopted, or of an earlier petseg
            return _size_bytes(str(self.folder))
        added = [self.folder / kind for kind in RECORDS]
        added_bytes = sum(_size_bytes(str(folder)) for folder in added if folder.exists())
        return int(self.manifest["size_bytes"]) + added_bytes

    @property
    def recorded_files(self) -> int:
        """How many files the records have a hash of, the records included."""
        return sum(1 + len(record["files"]) for _, _, record in self._records())

    def damages(self) -> Iterator[str]:
        """Say of each file of a finished run that is absent or differs from its recorded hash."""
        for folder, name, record in self._records():
            if record.get("sha256", seal_of(record)) != seal_of(record):  # runs of before had none
                yield f"{folder / name}: differs from the hash that it holds"
            yield from differing(folder, record["files"])

    def _records(self) -> Iterator[tuple[Path, str, dict[str, Any]]]:
        yield self.folder, MANIFEST, self.manifest
        for kind, name in RECORDS.items():
            for folder, record in self._added(kind):
                yield folder, name, record

    def added(self, kind: str, key: str) -> Addition | None:
        """Return an evaluation or a set of figures by its key; None where the run does not have it."""
        record = self.folder / kind / key / RECORDS[kind]
        return Addition(record.parent, read_json(record)) if record.exists() else None

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
        found = self.added(kind, key)
        if found is None:
            return False
        try:
            found.export({name: folder / name for name in found.manifest["files"] if fnmatch(name, pattern)})
        except DamagedFile as damage:
            print(f"warning: {damage}; it is computed again", flush=True)
            return False
        return True

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

    def delete(self) -> None:
        """Take the run out of the store for ever; a crash leaves it whole, or out of everybody's sight.

        Raises:
            RunLocked: it is being trained.
        """
        gone = self.folder.with_name(f".{self.key}.{os.getpid()}.tmp")
        with locked(self.folder):
            self.folder.replace(gone)
        fsync_folder(gone.parent)
        shutil.rmtree(gone)

    def keep(self, kind: str, key: str, about: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Add what a later stage made of a finished run; the same again adds nothing.

        Args:
            kind: EVALUATIONS or FIGURES.
            key: hash of what determines it.
            about: what it was made with.
            files: what it left, by the name that it is to have in the store.
        """
        folder = self.folder / kind / key
        if (folder / RECORDS[kind]).exists():
            return
        with published_folder(folder) as draft:
            for name, path in files.items():
                copy_atomically(path, draft / name)
            hashes = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
            write_json(draft / RECORDS[kind], sealed({"created": now(), **about, "files": hashes}))


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
    for path in store.glob(f"[!.]*/{MANIFEST}"):
        try:
            runs.append(StoredRun.open(path.parent))
        except StoreError as error:
            broken.append(str(error))
    return sorted(runs, key=lambda run: (run.manifest["created"], run.key)), sorted(broken)


def best_runs(store: Path) -> list[StoredRun]:
    """Return the finished run of the highest validation Dice, one for each set of photos."""
    best: dict[str, StoredRun] = {}
    for run in stored_runs(store)[0]:
        if run.finished and run.val_dice is not None:
            data = run.manifest["data_sha256"]
            if data not in best or run.val_dice > (best[data].val_dice or 0):
                best[data] = run
    return list(best.values())


def run_of(store: Path, key: str) -> StoredRun | None:
    """Return a run by its whole key; None where the store does not have it, as in a clone that pulled it."""
    folder = store / key
    return StoredRun.open(folder) if (folder / MANIFEST).exists() else None


def holder_of(store: Path, file: Path) -> StoredRun | None:
    """Return a finished run that has this file, byte for byte."""
    digest = sha256_file(file)
    runs, _ = stored_runs(store)
    return next((run for run in runs if digest in run.manifest.get("files", {}).values()), None)


def run_of_weights(store: Path, weights: Path) -> StoredRun | None:
    """Return the run whose weights a file is, byte for byte; None where the store has no such run."""
    digest = sha256_file(weights)
    runs, _ = stored_runs(store)
    return next((run for run in runs if run.manifest.get("files", {}).get(WEIGHTS) == digest), None)


def _size_bytes(folder: str) -> int:
    with os.scandir(folder) as entries:
        return sum(
            _size_bytes(entry.path) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
            for entry in entries
        )
