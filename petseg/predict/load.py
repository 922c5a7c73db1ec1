"""Which model, by the names that people give it, and how its probability becomes a mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from petseg.errors import DamagedFile, StoreError, UsageError
from petseg.models.predictor import Predictor
from petseg.pipeline.dvcfiles import stage_paths
from petseg.store.champion import champion
from petseg.store.identify import Weights, runs_of
from petseg.store.layout import WEIGHTS
from petseg.store.run import StoredRun, run_of
from petseg.tracking.queries import found_runs

CHAMPION = "champion"
UNDECIDED = 0.5  # the threshold where infer has not chosen one


@dataclass(frozen=True)
class Model:
    """A network, ready to use.

    Attributes:
        name: as people are told.
        predictor: the network.
        threshold: from which probability a pixel is pet.
        run: that made it; None where the store does not have it.
        decided: whether infer chose the threshold, on validation photos.
    """

    name: str
    predictor: Predictor
    threshold: float
    run: StoredRun | None
    decided: bool

    @classmethod
    def load(cls, weights: Path, run: StoredRun | None, name: str, device: torch.device) -> Self:
        """Load weights, to be used as the run's newest evaluation was made, if it has one.

        Raises:
            DamagedFile: they or their description can't be read, or do not belong together.
        """
        about = weights.with_suffix(".json")
        if not about.is_file():
            raise DamagedFile(
                f"{weights}: {about.name}, which says of which network they are, is not beside it; "
                f"petseg runs which {weights} may find the run that made them"
            )
        evaluation = run.evaluation if run else None
        flip_average = bool(evaluation and evaluation.manifest["settings"]["infer.flip_average"])
        threshold = evaluation.headlines["threshold"] if evaluation else UNDECIDED
        predictor = Predictor.load(weights, about, device, flip_average)
        return cls(name, predictor, threshold, run, evaluation is not None)

    @classmethod
    def of_run(cls, run: StoredRun, device: torch.device) -> Self:
        """Load a run of the store.

        Raises:
            StoreError: it is not finished, or does not say what its network is.
            DamagedFile: its weights or their description differ from the record.
        """
        if not run.usable:
            raise StoreError(f"run {run.key} is not finished, or nothing says what its network is")
        is_champion = champion(run.folder.parent) == run.key
        name = f"run {run.key}" + ", the champion" * is_champion
        return cls.load(run.folder / WEIGHTS, run, name, device)


def choose(root: Path, wanted: str | None, device: torch.device) -> Model:
    """Load the model that a person asks for.

    Args:
        root: of the project.
        wanted: ``champion``; a file of weights with its description beside it; or a run, as ``petseg
            runs`` takes it. If nothing is wanted, the champion, or what the pipeline trained last.
        device: where it is to compute.

    Raises:
        UsageError: there is no such model.
        StoreError: it can't be read.
    """
    store = root / "runs"
    key = champion(store) if wanted in (None, CHAMPION) else None
    if key is not None:
        run = run_of(store, key)
        if run is None:
            raise UsageError(f"the champion {key} is not in {store.name}/; name another model")
        return Model.of_run(run, device)
    if wanted == CHAMPION:
        raise UsageError("there is no champion yet; petseg runs promote ID makes one")
    if wanted is None:
        weights = stage_paths(root, "train")["weights"]
        if not weights.is_file():
            raise UsageError("there is no model yet: dvc repro trains one, and --model FILE takes another")
        return _of_file(weights, store, device)
    if wanted.endswith(Path(WEIGHTS).suffix) or Path(wanted).is_file():
        if not Path(wanted).is_file():
            raise UsageError(f"{wanted}: no such file")
        return _of_file(Path(wanted), store, device)
    found = found_runs(store, [wanted])
    if len(found) != 1:
        raise UsageError(f"{wanted}: fits {len(found)} runs, one is wanted")
    return Model.of_run(found[0], device)


def _of_file(weights: Path, store: Path, device: torch.device) -> Model:
    read = Weights.read(weights)
    made_by = runs_of(read, store)  # several, where code was changed that changed no bit
    claimed = [run for run in made_by if run.key == read.about.get("run_key")]
    run = next(iter(claimed + made_by[::-1]), None)
    name = f"{weights}, of run {run.key}" if run else f"{weights}, of no run of this store"
    return Model.load(weights, run, name, device)
