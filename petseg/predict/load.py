"""Finds and loads the model to predict with, with the thresholds that make masks of its probabilities."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from petseg.core.project import expanded
from petseg.errors import DamagedFile, DataError, StoreError, UsageError
from petseg.models.description import read_decision
from petseg.models.masking import UNDECIDED, Thresholds
from petseg.models.predictor import Predictor
from petseg.params import OUTPUTS, Edge, load_params
from petseg.pipeline.dvcfiles import check_project, is_project, stage_paths
from petseg.store.champion import champion
from petseg.store.identify import Weights, runs_of
from petseg.store.layout import ABOUT, DECISION, WEIGHTS
from petseg.store.run import BOTH_RULES, StoredRun, is_edited
from petseg.store.runs import readable_runs, run_of
from petseg.tracking.queries import found_runs

CHAMPION = "champion"
_CARRIED = Path(__file__).parent / "carried"  # only the wheel has it: make wheel

# Why a run was chosen, as it is printed.
IS_CHAMPION = "the champion"
BEST_HERE = "the best on these photos by validation Dice"
BEST_OF_NEWEST = "the best on the newest run's photos by validation Dice"


@dataclass(frozen=True)
class Model:
    """A network, ready to predict.

    Attributes:
        name: the name that is printed.
        predictor: the network.
        thresholds: for each output, the probability from which a pixel is in its mask.
        run: the run that trained the network; None if the store does not have it.
        decided: whether infer chose the thresholds, on validation photos.
        edge: the one of the network's two masks that is shown and written: whole or tight.
    """

    name: str
    predictor: Predictor
    thresholds: Thresholds
    run: StoredRun | None
    decided: bool
    edge: Edge = "tight"

    @property
    def threshold(self) -> float:
        """The probability from which a pixel is in the mask that is shown."""
        return self.thresholds[self.edge]

    def shown_as(self, edge: Edge, threshold: float | None = None) -> "Model":
        """Return the same network with another mask shown, or with another threshold for that mask.

        A network with one output has one threshold for both masks.
        """
        thresholds = dict(self.thresholds)
        if threshold is not None:
            moved = (edge,) if self.predictor.has_two_outputs else OUTPUTS
            thresholds |= dict.fromkeys(moved, threshold)
        return replace(self, edge=edge, thresholds=thresholds)

    @classmethod
    def load(cls, weights: Path, run: StoredRun | None, name: str, device: torch.device) -> Self:
        """Load weights; if the run has an evaluation, its newest one decides how they are used.

        Raises:
            DamagedFile: the weights or their description can't be read, or they do not belong together.
            OSError: an evaluation can't be read.
        """
        about = weights.with_suffix(".json")
        if not about.is_file():
            raise DamagedFile(
                f"{weights}: {about.name}, which describes the network, is not beside it; "
                f"petseg runs which {weights} may find the run that made them"
            )
        evaluation = run.proved_evaluation() if run else None
        flip_average = bool(evaluation and evaluation.flip_average)
        thresholds = evaluation.thresholds if evaluation else UNDECIDED
        predictor = Predictor.load(weights, about, device, flip_average)
        return cls(name, predictor, thresholds, run, evaluation is not None)

    @classmethod
    def of_folder(cls, folder: Path, name: str, device: torch.device) -> Self:
        """Load a folder of an exported model: weights, their description, and infer's decision.

        Raises:
            DamagedFile: a file can't be read, or they do not belong together.
        """
        decision = read_decision(folder / DECISION)
        predictor = Predictor.load(folder / WEIGHTS, folder / ABOUT, device, decision["flip_average"])
        thresholds: Thresholds = {edge: decision["thresholds"][edge] for edge in OUTPUTS}
        return cls(name, predictor, thresholds, None, True)

    @classmethod
    def of_run(cls, run: StoredRun, device: torch.device, why: str = "") -> Self:
        """Load a run of the store.

        Args:
            run: the run.
            device: the device to compute on.
            why: why the run was chosen, if the user did not name it.

        Raises:
            StoreError: the run is not finished, or does not say what its network is.
            DamagedFile: the run's weights or their description differ from the record.
        """
        if not run.usable:
            raise StoreError(f"run {run.key} is not finished, or nothing says what its network is")
        if not why and champion(run.folder.parent) == run.key:
            why = IS_CHAMPION
        name = f"run {run.key}, {why}" if why else f"run {run.key}"
        run.check_whole(WEIGHTS, ABOUT)
        return cls.load(run.folder / WEIGHTS, run, name, device)

    @classmethod
    def of_file(cls, weights: Path, store: Path, device: torch.device) -> Self:
        """Load a file of weights from any place; its run is found in the store by the weights' hash.

        Raises:
            DamagedFile: the file or its description can't be read, or they do not belong together.
        """
        read = Weights.read(weights)
        made_by = runs_of(read, store)  # several, if a change of the code did not change the weights
        claimed = [run for run in made_by if run.key == read.about.get("run_key")]
        run = next(iter(claimed + made_by[::-1]), None)
        name = f"{weights}, of run {run.key}" if run else f"{weights}, of no run of this store"
        return cls.load(weights, run, name, device)


def choose(root: Path, wanted: str | None, device: torch.device, *, carried_first: bool = False) -> Model:
    """Load the named model.

    Without a name: the champion, or else the best run on the project's photos, or else the model that the
    installed package carries.

    Args:
        root: the project's root.
        wanted: ``champion``; a file of weights with its description beside it; the folder of an exported
            model; or a run, named as for ``petseg runs``. None: no model is named.
        device: the device to compute on.
        carried_first: whether the package's model comes before those of the project.

    Raises:
        UsageError: there is no such model.
        StoreError: the model can't be read.
        ParamsError: no model is named, and params.yaml, which has the boundary rule, is invalid.
    """
    if wanted is None:
        model = _carried(device) if carried_first else None
        model = model or _champion(root, device)
        if is_project(root):
            model = model or _best_here(root, device) or _pulled(root, device)
        model = model or _carried(device)
        if model is not None:
            return model
        check_project(root)
        raise UsageError("there is no model yet: dvc repro trains one, and --model FILE takes another")
    if wanted == CHAMPION:
        model = _champion(root, device)
        if model is None:
            raise UsageError("there is no champion yet; petseg runs promote ID makes one")
        return model
    return _named_file(root, wanted, device) or _named_run(root, wanted, device)


def _carried(device: torch.device) -> Model | None:
    """Load the model that the installed package carries; None if it carries none, as a clone does."""
    if not (_CARRIED / WEIGHTS).is_file():
        return None
    return Model.of_folder(_CARRIED, "the model of this package", device)


def _champion(root: Path, device: torch.device) -> Model | None:
    """Load the champion; None if no run was ever promoted."""
    store = root / "runs"
    key = champion(store)
    if key is None:
        return None
    run = run_of(store, key)
    if run is None:
        raise UsageError(f"the champion {key} is not in {store.name}/; name another model")
    return Model.of_run(run, device, IS_CHAMPION)


def _best_here(root: Path, device: torch.device) -> Model | None:
    """Load the best run by validation Dice of those that can be compared; None if there is no such run.

    Only runs on the same photos can be compared: on the photos that are packed here, or else on those of the
    newest run. Networks with one output are compared only if there is none with two, and only by the boundary
    rule of params.yaml. A run that can't be read, or was edited, is named on stderr and left out.
    """
    unedited = (run for run in readable_runs(root / "runs") if not is_edited(run))
    runs = [run for run in unedited if run.usable and "data_sha256" in run.manifest and not _is_fold(run)]
    if not runs:
        return None
    data, why = _photos_digest(root), BEST_HERE
    if data is None:
        data, why = runs[-1].manifest["data_sha256"], BEST_OF_NEWEST
    boundary = load_params(root / "params.yaml").data.boundary
    scored = [
        run for run in reversed(runs) if run.manifest["data_sha256"] == data and run.val_dice is not None
    ]
    for rule in (BOTH_RULES, boundary):
        if alike := [run for run in scored if run.validated_by == rule]:
            best = max(alike, key=lambda run: run.val_dice or 0.0)  # of equals the newest, which comes first
            return Model.of_run(best, device, why)
    return None


def _pulled(root: Path, device: torch.device) -> Model | None:
    """Load the pipeline's weights in models/, as after ``dvc pull``; None if a file of them is absent."""
    weights = stage_paths(root, "train")["weights"]
    if not (weights.is_file() and weights.with_suffix(".json").is_file()):
        return None
    model = Model.of_file(weights, root / "runs", device)
    return replace(model, name=f"{model.name}, because runs/ has none to choose from")


def _named_file(root: Path, wanted: str, device: torch.device) -> Model | None:
    """Load a file of weights; None if ``wanted`` is not the name of a file."""
    file = expanded(wanted)
    if (file / DECISION).is_file():
        return Model.of_folder(file, str(file), device)
    if file.is_file():
        return Model.of_file(file, root / "runs", device)
    if wanted.endswith(Path(WEIGHTS).suffix):
        raise UsageError(f"{wanted}: no such file")
    return None


def _named_run(root: Path, wanted: str, device: torch.device) -> Model:
    """Load a run by the beginning of its key, an MLflow run id, or an MLflow filter that matches one run."""
    found = found_runs(root / "runs", [wanted])
    if len(found) != 1:
        raise UsageError(f"{wanted}: matches {len(found)} runs; name one of them")
    return Model.of_run(found[0], device)


def arrays_folder(root: Path) -> Path:
    """Return the folder of the pipeline's packed photos.

    Raises:
        UsageError: there is no project.
    """
    return stage_paths(root, "train")["arrays"]


def _photos_digest(root: Path) -> str | None:
    """Return the hash of the packed photos; None if they are absent or incomplete."""
    from petseg.data.arrays import PetArrays  # imported here: prediction needs no pandas

    try:
        return PetArrays.open(arrays_folder(root)).digest
    except (DataError, FileNotFoundError):  # while preprocess runs, a file may be empty or disappear
        return None


def _is_fold(run: StoredRun) -> bool:
    """Return whether a run is a fold of a cross-validation; its validation Dice is on other photos."""
    return run.params.get("split.fold") is not None
