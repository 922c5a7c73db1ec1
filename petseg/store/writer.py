"""Write one run of the store.

petseg.store.layout lists the files in its folder, and petseg.store.run reads a finished run.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from petseg.core.checked import checked
from petseg.core.files import below, listed, remove_leftovers, sha256_file, written_atomically
from petseg.core.project import now
from petseg.core.terminal import print_lines
from petseg.core.textfiles import without_nan, write_csv, write_json
from petseg.data.masks import save_masks
from petseg.errors import BrokenRecord, DamagedFile, TrainingError
from petseg.models.weights import load_tensors, save_tensors, validated
from petseg.params import OUTPUTS
from petseg.store.additions import check_unedited
from petseg.store.chain import FINISHED
from petseg.store.layout import (
    ABOUT,
    CARD,
    CHANGES,
    CHECKPOINTS,
    CODE,
    CURVES,
    EVALUATIONS,
    EVOLUTION,
    EVOLUTION_MASKS,
    FIGURES,
    FORMAT,
    HISTORY,
    KEY_LENGTH,
    LAST_WEIGHTS,
    MANIFEST,
    SHOWN,
    WEIGHTS,
    free,
    weights_about,
)
from petseg.store.ledger import changing
from petseg.store.prune import drop_checkpoints
from petseg.store.records import read_lines, read_manifest, sealed
from petseg.store.run import StoredRun, locked
from petseg.store.typed import Recorded, Row
from petseg.training.history import EpochRecord, best_epoch
from petseg.training.loop import TrainingState

_LEVELS = np.array([0, 128, 255], np.uint8)  # grey levels in pictures of masks: background, border, pet


@dataclass
class Run(StoredRun):
    """One run of the store that only this process writes to; ``open_run`` returns it."""

    history: list[EpochRecord] = field(default_factory=list)

    def note(self, **values: Any) -> None:
        """Add entries to the manifest."""
        self.manifest |= values
        write_json(self.folder / MANIFEST, self.manifest)

    def show(self, photos: NDArray[np.uint8]) -> None:
        """Store the fixed photos, (K, S, S, 3), whose masks are stored for every epoch."""
        with written_atomically(self.folder / SHOWN) as file:
            Image.fromarray(np.hstack(list(photos))).save(file, "PNG")

    def resume(self, state: TrainingState) -> None:
        """Restore ``state`` to the last epoch for which its own and the best epoch's checkpoint are whole.

        A damaged checkpoint is named and moved aside, and the one before it is used.

        Raises:
            OSError: a checkpoint can't be read; nothing is moved.
        """
        self.history = []
        whole = self._whole_checkpoints()
        for path in sorted(whole, reverse=True):
            tensors, about = load_tensors(path)
            history = _epochs(about, path)
            if self._best_checkpoint(history) in (None, *whole):
                state.load(tensors, history[-1].epoch)
                self.history = history
                break
        self._write_history()

    def _whole_checkpoints(self) -> set[Path]:
        """Return the checkpoints that are whole; the others are named and moved aside."""
        whole = set()
        for path in listed(self._checkpoints, "epoch-*.safetensors"):
            try:
                _, about = load_tensors(path)
                if about.get("run_key") != self.key:
                    raise DamagedFile(f"{path}: is a checkpoint of run {about.get('run_key')}")
                _epochs(about, path)
                whole.add(path)
            except (DamagedFile, BrokenRecord) as error:
                aside = free(path.with_suffix(".damaged"))
                path.replace(aside)
                print_lines(f"warning: {error}; moved to {aside.name}")
        return whole

    def add(self, record: EpochRecord, state: TrainingState, masks: NDArray[np.bool_]) -> None:
        """Store a finished epoch: its masks, its whole state and its row, in this order.

        Args:
            record: the results of the epoch.
            state: the state after it.
            masks: (K, 2, S, S), predictions for the fixed photos, as OUTPUTS.
        """
        with written_atomically(self.folder / EVOLUTION / f"{record.epoch:05}.png") as file:
            Image.fromarray(np.hstack(list(_LEVELS[masks.sum(axis=1)]))).save(file, "PNG")
        rows = [asdict(earlier) for earlier in self.history]
        about = {"run_key": self.key, "record": asdict(record), "history": rows}
        save_tensors(self._checkpoint(record.epoch), state.tensors(), about)
        self.history.append(record)
        self._write_history()
        self._drop_old_checkpoints()

    def finish(self, about: dict[str, Any]) -> None:
        """Write the weights of the best and of the last epoch, seal the manifest, make all files read-only.

        Then the checkpoints are deleted: a finished run does not need the state of the optimizer.

        Args:
            about: the description that is needed to use the weights.
        """
        best = best_epoch(self.history)
        digest = save_tensors(self.folder / WEIGHTS, self.best_weights(), weights_about(self.key))
        ended = {"best": asdict(best), "tensors_sha256": digest}
        if (last := self.history[-1].epoch) != best.epoch:
            tensors, about_last = self._weights_of(last), weights_about(self.key, last)
            ended["last_tensors_sha256"] = save_tensors(self.folder / LAST_WEIGHTS, tensors, about_last)
        # Without times and speeds, which differ between runs, so that DVC's copy of it is reproducible.
        write_csv(self.folder / CURVES, [record.reproducible() for record in self.history])
        self._write_evolution_masks()
        described = about | {
            "epoch": best.epoch,
            "val_dice": best.val_dice,
            "run_key": self.key,
            "tensors_sha256": digest,
        }
        write_json(self.folder / ABOUT, described)
        self._seal(ended)
        drop_checkpoints(self)

    def _seal(self, ended: Mapping[str, Any]) -> None:
        """Write the manifest with the hashes of all files, and log the run in the ledger."""
        store, apart = self.folder.parent, (MANIFEST, CARD, CHECKPOINTS, EVALUATIONS, FIGURES)
        parts = [part for part in listed(self.folder, "[!.]*") if part.name not in apart]
        found = (path for part in parts for path in (below(part) if part.is_dir() else [part]))
        files = [path for path in found if path.is_file()]
        with changing(store) as changes, changes.noting(FINISHED, self.key):
            manifest = self.manifest | {"status": "finished", "finished": now(), **ended}
            manifest["size_bytes"] = sum(path.stat().st_size for path in files)
            manifest["files"] = {str(path.relative_to(self.folder)): sha256_file(path) for path in files}
            for path in files:
                path.chmod(0o444)
            write_json(self.folder / MANIFEST, sealed(manifest))
            (self.folder / MANIFEST).chmod(0o444)
        self.manifest = read_manifest(self.folder)

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights that were validated in the best epoch."""
        return self._weights_of(best_epoch(self.history).epoch)

    def _weights_of(self, epoch: int) -> dict[str, Tensor]:
        tensors, _ = load_tensors(self._checkpoint(epoch))
        return validated(tensors)

    def environment_changes(self, present: Mapping[str, str | int]) -> list[str]:
        """Return what differs from the environment in which the run began: its bits depend on that."""
        began: dict[str, str | int] = self.manifest["environment"]
        return [
            f"{key} {began.get(key)} then, {value} now"
            for key, value in present.items()
            if began.get(key) != value
        ]

    def _write_evolution_masks(self) -> None:
        """Write the masks of all epochs into one file."""
        pages = listed(self.folder / EVOLUTION, "*.png")
        epochs = np.array([int(page.stem) for page in pages])
        masks = np.stack([_unstack(np.asarray(Image.open(page))) for page in pages])
        rows, outputs = np.array(self.manifest["shown_rows"]), np.arange(len(OUTPUTS))
        save_masks(self.folder / EVOLUTION_MASKS, masks, epochs=epochs, rows=rows, outputs=outputs)

    def _checkpoint(self, epoch: int) -> Path:
        return self._checkpoints / f"epoch-{epoch:05}.safetensors"

    @property
    def _checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def _best_checkpoint(self, history: Sequence[EpochRecord]) -> Path | None:
        """Return the checkpoint of the best epoch; None if no epoch has a validation Dice yet."""
        try:
            return self._checkpoint(best_epoch(history).epoch)
        except TrainingError:
            return None

    def _write_history(self) -> None:
        rows = "".join(json.dumps(without_nan(asdict(r)), allow_nan=False) + "\n" for r in self.history)
        with written_atomically(self.folder / HISTORY) as file:
            file.write(rows.encode())

    def _drop_old_checkpoints(self) -> None:
        keep: set[Path | None] = {self._checkpoint(record.epoch) for record in self.history[-2:]}
        keep.add(self._best_checkpoint(self.history))
        for path in listed(self._checkpoints, "epoch-*.safetensors"):
            if path not in keep:
                path.unlink()


@contextmanager
def open_run(
    store: Path, key: str, description: dict[str, Any], changes: str = "", code: Callable[[], bytes] = bytes
) -> Iterator[Run]:
    """Open or create a run of the store, so that only this process can write to it.

    Args:
        store: folder of the runs.
        key: key of the run.
        description: entries of a new run's manifest, besides its status.
        changes: the difference of the code from its commit, for a new run.
        code: returns the files that the key hashes, as a ZIP archive, for a new run.

    Raises:
        RunLocked: another process holds the run.
        StoreError: the run or the store's ledger was edited, or does not have the required form.
        OSError: it can't be read or written.
    """
    folder = store / key
    manifest = read_manifest(folder)
    if manifest:
        check_unedited(StoredRun(folder, manifest).edit())
    if manifest.get("status") == "finished":  # nothing is written any more, so several processes may read it
        run = Run(folder, manifest, read_history(folder))
        drop_checkpoints(run)
        yield run
        return
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    with locked(folder):
        remove_leftovers(folder)
        for part in (CHECKPOINTS, EVOLUTION):
            remove_leftovers(folder / part)
        run = Run(folder, read_manifest(folder))
        if run.manifest:
            run.history = read_history(folder)
        else:
            with changing(store) as held:  # an error of the ledger must come before the training
                clone = held.clone
            for name, content in ((CHANGES, changes.encode(errors="surrogateescape")), (CODE, code())):
                if content:
                    with written_atomically(folder / name) as file:
                        file.write(content)
            begun = {"format": FORMAT, "status": "running", "uid": uuid.uuid4().hex[:KEY_LENGTH]}
            run.note(**begun, created=now(), clone=clone, **description)
        yield run


def read_history(folder: Path) -> list[EpochRecord]:
    """Read the history of a run.

    Raises:
        BrokenRecord: it does not have the required form.
    """
    try:
        return [EpochRecord.of(dict(row)) for row in read_lines(folder / HISTORY, Row)]
    except TypeError as error:
        raise BrokenRecord(f"{folder / HISTORY}: is no history of a training ({error})") from None


def _epochs(about: dict[str, Any], checkpoint: Path) -> list[EpochRecord]:
    """Return the epochs in the description of a checkpoint, its own epoch last.

    Raises:
        BrokenRecord: the description does not have the required form.
    """
    checked(about, Recorded, checkpoint)
    try:
        return [EpochRecord.of(row) for row in [*about["history"], about["record"]]]
    except TypeError as error:
        raise BrokenRecord(f"{checkpoint}: is no history of a training ({error})") from None


def _unstack(strip: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the masks, (K, 2, S, S), that ``Run.add`` has put side by side in a picture."""
    levels = np.stack(np.hsplit(strip, strip.shape[1] // strip.shape[0]))
    return np.stack([levels >= level for level in _LEVELS[1:]], axis=1)
