"""Find the run that made a file of weights, by the hash of its tensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from petseg.models.pretrained import MAX_WEIGHTS_BYTES
from petseg.models.weights import is_sealed, load_foreign_tensors, load_tensors, sha256_tensors, validated
from petseg.store.run import StoredRun, is_edited
from petseg.store.runs import known_runs


@dataclass(frozen=True)
class Weights:
    """The content of a file of weights.

    Attributes:
        tensors: the tensors, by name; of a checkpoint, those that were validated.
        about: the description in the file; empty if petseg did not write it.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def sha256(self) -> str:
        """The hash that identifies the weights in any file."""
        return sha256_tensors(self.tensors)

    @property
    def epoch(self) -> int | None:
        """The epoch, if the file is a checkpoint or holds the weights of a last epoch."""
        epoch: int | None = self.about.get("record", self.about).get("epoch")
        return epoch

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file from petseg or elsewhere, written as safetensors or by torch.save.

        Raises:
            DamagedFile: it is neither, or differs from the hash that it holds. Nothing in it is executed.
        """
        if not is_sealed(path) or path.stat().st_size > MAX_WEIGHTS_BYTES:  # refused by the next line
            return cls(load_foreign_tensors(path), {})
        tensors, about = load_tensors(path)
        return cls(validated(tensors), about)


def runs_of(weights: Weights, store: Path) -> list[StoredRun]:
    """Return the runs of the store that ended with these weights, or to which a checkpoint belongs.

    Raises:
        OSError: a run can't be read.
    """
    runs = (run for run in known_runs(store) if not is_edited(run))
    if "record" in weights.about:  # a checkpoint, which the store may have deleted
        return [run for run in runs if run.key == weights.about.get("run_key")]
    ended, digest = ("tensors_sha256", "last_tensors_sha256"), weights.sha256
    return [run for run in runs if digest in map(run.manifest.get, ended)]
