"""Whose weights are these: from a file alone, whatever it is called and wherever it lies, to its run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from petseg.models.weights import is_sealed, load_foreign_tensors, load_tensors, sha256_tensors, validated
from petseg.store.run import StoredRun, stored_runs


@dataclass(frozen=True)
class Weights:
    """A file of weights, read.

    Attributes:
        tensors: by name; of a checkpoint, those that were validated.
        about: what the file says of itself; empty where petseg did not write it.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def sha256(self) -> str:
        """What they are known by, whatever the file."""
        return sha256_tensors(self.tensors)

    @property
    def epoch(self) -> int | None:
        """Of which epoch, where the file is a checkpoint."""
        return self.about["record"]["epoch"] if "record" in self.about else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that petseg or anybody else has written, as safetensors or by torch.save.

        Raises:
            DamagedFile: it is neither, or differs from the hash that it holds. Nothing in it is executed.
        """
        if not is_sealed(path):
            return cls(load_foreign_tensors(path), {})
        tensors, about = load_tensors(path)
        return cls(validated(tensors), about)


def runs_of(weights: Weights, store: Path) -> list[StoredRun]:
    """Return the runs of the store that ended with these weights, or, for a checkpoint, that it is of."""
    runs, _ = stored_runs(store)
    if weights.epoch is not None:
        return [run for run in runs if run.key == weights.about["run_key"]]
    digest = weights.sha256
    return [run for run in runs if run.manifest.get("tensors_sha256") == digest]
