"""The store of runs, which only grows.

``runs/<key>/``
    ``manifest.json``     what the run is: params, data, code, commit, versions; in the end, hashes
    ``history.jsonl``     a row an epoch
    ``checkpoints/``      the whole state after the last two epochs and after the best
    ``evolution/``        a PNG an epoch: the masks predicted for the fixed validation photos
    ``model.safetensors`` weights of the best epoch, once the run is finished
    ``model.json``        what is needed to use them
    ``validation.csv``    the Dice of each validation photo, by these weights

The key is the hash of what determines the weights: params, data and code. A finished run is
read-only, and is used instead of being trained again; an unfinished one is gone on with.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from petseg.checkpoint import load_tensors, save_tensors
from petseg.data.masks import save_masks
from petseg.errors import DamagedFile, RunLocked, StoreError, TrainingError
from petseg.project import sha256_file, written_atomically
from petseg.records import without_nan, write_json
from petseg.training import EpochRecord, TrainingState

WEIGHTS, ABOUT, MANIFEST, HISTORY = "model.safetensors", "model.json", "manifest.json", "history.jsonl"
VALIDATION = "validation.csv"
_FORMAT = 1
_KEY_LENGTH = 16


def run_key(params: dict[str, Any], data_sha256: str, code_sha256: str) -> str:
    """Return the name of the run that these determine."""
    text = json.dumps([_FORMAT, params, data_sha256, code_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


@dataclass
class Run:
    """One run of the store, held by this process alone. Made by ``open_run``."""

    folder: Path
    manifest: dict[str, Any]
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return bool(self.manifest["status"] == "finished")

    @property
    def best(self) -> EpochRecord:
        """The first epoch of the highest validation Dice; NaN is never best.

        Raises:
            TrainingError: no epoch has a validation Dice.
        """
        best = _best(self.history)
        if best is None:
            raise TrainingError(f"run {self.key}: no epoch has a validation Dice")
        return best

    def is_stale(self, patience: int | None) -> bool:
        """Tell whether ``patience`` epochs have gone by without a better validation Dice."""
        if patience is None or len(self.history) <= patience:
            return False
        return self.history[-1].epoch - self.best.epoch >= patience

    def note(self, **values: Any) -> None:
        """Add to the manifest."""
        self.manifest |= values
        write_json(self.folder / MANIFEST, self.manifest)

    def resume(self, state: TrainingState) -> None:
        """Bring ``state`` to the last finished epoch whose checkpoint, and whose best one, are whole.

        A damaged checkpoint is named, moved aside, and the one before it is used.
        """
        self.history = []
        whole = self._whole_checkpoints()
        for path in sorted(whole, reverse=True):
            tensors, about = load_tensors(path)
            history = [_record(row) for row in [*about["history"], about["record"]]]
            best = _best(history)
            if best is None or self._checkpoint(best.epoch) in whole:
                state.load(tensors, history[-1].epoch)
                self.history = history
                break
        self._write_history()

    def _whole_checkpoints(self) -> set[Path]:
        """Return the checkpoints that are whole; the others are named and moved aside."""
        whole = set()
        for path in (self.folder / "checkpoints").glob("epoch-*.safetensors"):
            try:
                load_tensors(path)
                whole.add(path)
            except DamagedFile as error:
                aside = path.with_suffix(".damaged")
                path.replace(aside)
                print(f"warning: {error}; moved to {aside.name}", flush=True)
        return whole

    def add(self, record: EpochRecord, state: TrainingState, masks: NDArray[np.bool_]) -> None:
        """Keep a finished epoch: its masks, its whole state, its row, in this order.

        Args:
            record: what the epoch gave.
            state: the state after it.
            masks: (K, S, S) predictions for the fixed photos.
        """
        with written_atomically(self.folder / "evolution" / f"{record.epoch:05}.png") as file:
            Image.fromarray(np.hstack(list(masks))).save(file, "PNG")
        rows = [asdict(earlier) for earlier in self.history]
        about = {"run_key": self.key, "record": asdict(record), "history": rows}
        save_tensors(self._checkpoint(record.epoch), state.tensors(), about)
        self.history.append(record)
        self._write_history()
        self._drop_old_checkpoints()

    def finish(self, about: dict[str, Any]) -> None:
        """Write the best epoch's weights and their description, seal the manifest, make all read-only.

        Args:
            about: what is needed to use the weights.
        """
        weights = self.best_weights()
        digest = save_tensors(self.folder / WEIGHTS, weights, {})
        best = self.best
        described = about | {
            "epoch": best.epoch,
            "val_dice": best.val_dice,
            "run_key": self.key,
            "tensors_sha256": digest,
        }
        write_json(self.folder / ABOUT, described)
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
        self.note(
            status="finished",
            finished=now(),
            best=asdict(best),
            tensors_sha256=digest,
            files={
                str(path.relative_to(self.folder)): sha256_file(path)
                for path in files
                if path.name != ".lock"
            },
        )
        for path in (*files, self.folder / MANIFEST):
            if path.name != ".lock":
                path.chmod(0o444)

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights that were validated in the best epoch."""
        tensors, _ = load_tensors(self._checkpoint(self.best.epoch))
        part = "average/" if any(name.startswith("average/") for name in tensors) else "network/"
        return {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}

    def publish(self, weights: Path, about: Path, evolution: Path) -> None:
        """Copy a finished run's weights, their description and the epochs' masks out of the store.

        Raises:
            DamagedFile: a file of the store differs from its recorded hash.
        """
        for name, recorded in self.manifest["files"].items():
            path = self.folder / name
            if name in (WEIGHTS, ABOUT) and (not path.is_file() or sha256_file(path) != recorded):
                raise DamagedFile(f"{path}: differs from the hash in {self.folder / MANIFEST}")
        for source, target in ((WEIGHTS, weights), (ABOUT, about)):
            with (self.folder / source).open("rb") as file, written_atomically(target) as copy:
                shutil.copyfileobj(file, copy)
        pages = sorted((self.folder / "evolution").glob("*.png"))
        epochs = np.array([int(page.stem) for page in pages])
        masks = np.stack([_unstack(np.asarray(Image.open(page))) for page in pages])
        save_masks(evolution, masks, epochs=epochs, rows=np.array(self.manifest["shown_rows"]))

    def _checkpoint(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / f"epoch-{epoch:05}.safetensors"

    def _write_history(self) -> None:
        rows = "".join(json.dumps(without_nan(asdict(r)), allow_nan=False) + "\n" for r in self.history)
        with written_atomically(self.folder / HISTORY) as file:
            file.write(rows.encode())

    def _drop_old_checkpoints(self) -> None:
        keep = {self._checkpoint(record.epoch) for record in self.history[-2:]}
        if (best := _best(self.history)) is not None:
            keep.add(self._checkpoint(best.epoch))
        for path in (self.folder / "checkpoints").glob("epoch-*.safetensors"):
            if path not in keep:
                path.unlink()


@contextmanager
def open_run(store: Path, key: str, description: dict[str, Any]) -> Iterator[Run]:
    """Open a run of the store for this process alone, or make it.

    Args:
        store: folder of the runs.
        key: of ``run_key``.
        description: what the manifest of a new run says, besides its status.

    Raises:
        RunLocked: another process holds it.
        StoreError: it can't be read, or is of a later format.
    """
    folder = store / key
    manifest = _read_manifest(folder)
    if manifest.get("status") == "finished":  # nobody writes to it any more: many may read
        yield Run(folder, manifest, read_history(folder))
        return
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for left_over in folder.rglob(".*.tmp"):  # of a process that was killed while writing
            left_over.unlink()
        run = Run(folder, _read_manifest(folder))
        if run.manifest:
            run.history = read_history(folder) if (folder / HISTORY).exists() else []
        else:
            run.note(format=_FORMAT, status="running", created=now(), **description)
        yield run


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunLocked(
                f"run {folder.name} is being trained by process {file.read().strip() or '?'}; "
                "wait for it, or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: can't be read ({error})") from None
    if found != _FORMAT:
        raise StoreError(f"{path}: has format {found}, this petseg knows {_FORMAT}")
    return manifest


def read_history(folder: Path) -> list[EpochRecord]:
    """Read a run's rows."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    return [_record(json.loads(line)) for line in lines]


def _best(history: list[EpochRecord]) -> EpochRecord | None:
    defined = [record for record in history if not math.isnan(record.val_dice)]
    return max(defined, key=lambda record: record.val_dice, default=None)


def _record(row: dict[str, Any]) -> EpochRecord:
    values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    return EpochRecord(**values)


def now() -> str:
    """Return the time, in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unstack(strip: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.stack(np.hsplit(strip, strip.shape[1] // strip.shape[0]))
