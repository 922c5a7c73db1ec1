"""One run of the store, while it is written.

What lies in its folder, and how it is read once it is finished: petseg.store.run.
"""

import itertools
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from petseg.core.files import sha256_file, written_atomically
from petseg.core.project import now
from petseg.core.textfiles import without_nan, write_json
from petseg.data.masks import save_masks
from petseg.errors import DamagedFile, TrainingError
from petseg.models.weights import load_tensors, save_tensors, validated
from petseg.store.layout import (
    ABOUT,
    CHANGES,
    EVOLUTION,
    FORMAT,
    HISTORY,
    KEY_LENGTH,
    MANIFEST,
    SHOWN,
    WEIGHTS,
)
from petseg.store.run import StoredRun, locked, read_manifest, sealed
from petseg.training.history import EpochRecord, best_epoch, record_of
from petseg.training.loop import TrainingState


@dataclass
class Run(StoredRun):
    """One run of the store, held by this process alone. Made by ``open_run``."""

    history: list[EpochRecord] = field(default_factory=list)

    @property
    def best(self) -> EpochRecord:
        """The first epoch of the highest validation Dice; NaN is never best.

        Raises:
            TrainingError: no epoch has a validation Dice.
        """
        best = best_epoch(self.history)
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

    def show(self, photos: NDArray[np.uint8]) -> None:
        """Keep the fixed photos, (K, S, S, 3), whose masks are kept for every epoch."""
        with written_atomically(self.folder / SHOWN) as file:
            Image.fromarray(np.hstack(list(photos))).save(file, "PNG")

    def resume(self, state: TrainingState) -> None:
        """Bring ``state`` to the last finished epoch whose checkpoint, and whose best one, are whole.

        A damaged checkpoint is named, moved aside, and the one before it is used.
        """
        self.history = []
        whole = self._whole_checkpoints()
        for path in sorted(whole, reverse=True):
            tensors, about = load_tensors(path)
            history = [record_of(row) for row in [*about["history"], about["record"]]]
            best = best_epoch(history)
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
                aside = _free(path.with_suffix(".damaged"))
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
        with written_atomically(self.folder / EVOLUTION / f"{record.epoch:05}.png") as file:
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
        digest = save_tensors(self.folder / WEIGHTS, weights, {"run_key": self.key})
        best = self.best
        described = about | {
            "epoch": best.epoch,
            "val_dice": best.val_dice,
            "run_key": self.key,
            "tensors_sha256": digest,
        }
        write_json(self.folder / ABOUT, described)
        apart = (MANIFEST, ".lock")
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name not in apart]
        self.manifest |= {
            "status": "finished",
            "finished": now(),
            "best": asdict(best),
            "tensors_sha256": digest,
            "size_bytes": sum(path.stat().st_size for path in files),
        }
        self.manifest["files"] = {str(path.relative_to(self.folder)): sha256_file(path) for path in files}
        self.manifest = sealed(self.manifest)
        write_json(self.folder / MANIFEST, self.manifest)
        for path in (*files, self.folder / MANIFEST):
            path.chmod(0o444)

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights that were validated in the best epoch."""
        tensors, _ = load_tensors(self._checkpoint(self.best.epoch))
        return validated(tensors)

    def publish(self, weights: Path, about: Path, evolution: Path) -> None:
        """Copy a finished run's weights, their description and the epochs' masks out of the store.

        Raises:
            DamagedFile: a file of the store differs from its recorded hash.
        """
        self.hand_out({WEIGHTS: weights, ABOUT: about})
        pages = sorted((self.folder / EVOLUTION).glob("*.png"))
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
        if (best := best_epoch(self.history)) is not None:
            keep.add(self._checkpoint(best.epoch))
        for path in (self.folder / "checkpoints").glob("epoch-*.safetensors"):
            if path not in keep:
                path.unlink()


@contextmanager
def open_run(store: Path, key: str, description: dict[str, Any], changes: str = "") -> Iterator[Run]:
    """Open a run of the store for this process alone, or make it.

    Args:
        store: folder of the runs.
        key: of ``run_key``.
        description: what the manifest of a new run says, besides its status.
        changes: how the code differed from its commit, for a new run.

    Raises:
        RunLocked: another process holds it.
        StoreError: it can't be read, or is of a later format.
    """
    folder = store / key
    manifest = read_manifest(folder)
    if manifest.get("status") == "finished":  # nobody writes to it any more: many may read
        yield Run(folder, manifest, read_history(folder))
        return
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for left_over in folder.rglob(".*.tmp"):  # of a process that was killed while writing
            left_over.unlink()
        run = Run(folder, read_manifest(folder))
        if run.manifest:
            run.history = read_history(folder) if (folder / HISTORY).exists() else []
        else:
            if changes:
                with written_atomically(folder / CHANGES) as file:
                    file.write(changes.encode(errors="surrogateescape"))
            run.note(
                format=FORMAT,
                status="running",
                uid=uuid.uuid4().hex[:KEY_LENGTH],
                created=now(),
                **description,
            )
        yield run


def read_history(folder: Path) -> list[EpochRecord]:
    """Read a run's rows."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    return [record_of(json.loads(line)) for line in lines]


def _free(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3 and so on that nothing lies at."""
    names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    return next(free for free in map(path.with_name, names) if not free.exists())


def _unstack(strip: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.stack(np.hsplit(strip, strip.shape[1] // strip.shape[0]))
