"""Everything that the store knows of a run, brought to MLflow; what is there already is not told again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import petseg
from petseg.core.locks import Held
from petseg.core.progress import watched
from petseg.errors import DamagedFile, StoreError
from petseg.pipeline.codehash import code_sha256
from petseg.store.additions import Addition, Evaluation
from petseg.store.layout import ABOUT, HISTORY, SHOWN, WEIGHTS
from petseg.store.run import StoredRun
from petseg.store.runs import run_of
from petseg.tracking.client import (
    EXPERIMENT,
    Result,
    connect,
    experiment_id,
    is_mlflow_trouble,
    patiently,
    reason,
    why,
)
from petseg.tracking.entries import Record, of_data_stage, of_evaluation, of_figures, of_training
from petseg.tracking.outbox import DataRecord, Entry, is_data_stage, left_over, lock_entry
from petseg.tracking.rows import Row, close_rows, tell_training

if TYPE_CHECKING:
    from mlflow import MlflowClient

_INFER = Path(petseg.__file__).parent.parent / "stages" / "infer.py"
_SHOWING = {"infer": "evaluation", "plot": "figures"}  # the row's tag that says which of them it shows


@dataclass
class Delivery:
    """What was told, by the names of runs and stages.

    Attributes:
        told: it is known now.
        known: it was known before.
        busy: another process is telling it.
        broken: why a record can't be told; the others are.
    """

    told: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def sync(store: Path, runs: Sequence[StoredRun] = ()) -> Delivery:
    """Tell MLflow of the given runs, and of everything that it was not told in time.

    Args:
        store: folder of the runs.
        runs: of the store, whether MLflow knows them or not.

    Raises:
        StoreError: MLflow does not answer. What was not told is told at the next call.
    """
    done = Delivery()
    wanted = dict.fromkeys([run.key for run in runs] + left_over())
    if not wanted:
        return done
    client = _reached(connect)
    for name in watched(wanted, "tell MLflow", len(wanted)):
        try:
            with lock_entry(name, wait=False) as entry:
                _log_entry(client, store, entry, done)
        except Held:
            done.busy.append(name)
    return done


def _log_entry(client: "MlflowClient", store: Path, entry: Entry, done: Delivery) -> None:
    """Log what an entry is of, and note in ``done`` what came of it."""
    name = entry.path.name
    try:
        news = patiently(_tell, client, store, name, entry.read())
    except StoreError as error:
        done.broken.append(str(error))
    except Exception as error:  # noqa: BLE001  (what one record raises must not stop the others)
        _reached(lambda: experiment_id(client, EXPERIMENT))
        done.broken.append(f"{name}: MLflow {why(error)}")
    else:
        entry.logged = True
        (done.told if news else done.known).append(name)


def _reached(call: Callable[[], Result]) -> Result:
    """Call; raise StoreError where MLflow is not there."""
    try:
        return call()
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        told = f"MLflow does not answer ({reason(error)}); petseg runs sync tells it later"
        raise StoreError(told) from None


def _tell(client: "MlflowClient", store: Path, name: str, said: Mapping[str, Any]) -> bool:
    """Tell of a run, or of a stage before training; return whether anything was new."""
    if is_data_stage(name):
        if not said:  # its process was killed while it wrote
            return False
        record = of_data_stage(name, DataRecord(**said))
        return _tell_alone(Row.open(client, record), record)
    if (run := run_of(store, name)) is not None:
        return tell_run(client, run, said)
    return close_rows(client, said["uid"]) if said else False  # it was pruned


def _tell_alone(row: Row, record: Record) -> bool:
    if row.finished:
        return False
    row.begin(record)
    row.tell_metrics(record.metrics)
    row.tell_files(record)
    row.end(record.status, record.ended)
    return True


def tell_run(client: "MlflowClient", run: StoredRun, said: Mapping[str, Any]) -> bool:
    """Tell of a training, its evaluations and its figures; return whether anything was new.

    Args:
        client: of the tracking store.
        run: of the store.
        said: what its file in the outbox says.
    """
    record = of_training(run)
    if not run.finished and "status" in said:
        record = replace(record, status=said["status"], ended=said.get("ended", ""))
    row = Row.open(client, record)
    news = not row.knows(run)
    if news:
        run.check_whole(WEIGHTS, ABOUT, HISTORY)
        tell_training(row, run, record)
    for evaluation in run.evaluations:
        news |= _tell_addition(row, run, evaluation, of_evaluation(run, evaluation))
    for figures in run.figures:
        news |= _tell_addition(row, run, figures, of_figures(run, figures))
    return news


def _tell_addition(row: Row, run: StoredRun, addition: Addition, record: Record) -> bool:
    """Tell of an evaluation or of figures, as a child and on the row of the model, which shows the newest.

    Neither is opened again: what MLflow has of a run may grow, and its params never change.
    """
    child = Row.open(row.client, record, row.run_id)
    if child.finished:
        return False
    if damages := addition.damages():
        raise DamagedFile(damages[0])
    model_id = _tell_model(row, run, addition) if isinstance(addition, Evaluation) else None
    child.begin(record)
    for shown_by in (child, row):
        shown_by.tell_files(record)
        shown_by.tell_metrics(record.metrics, model_id if shown_by is row else None)
    row.client.set_tag(row.run_id, _SHOWING[record.stage], addition.key)
    child.end(record.status, record.ended)
    return True


def _tell_model(row: Row, run: StoredRun, evaluation: Evaluation) -> str | None:
    """Log the network, with the thresholds that were chosen, as a model of the row, and register it once."""
    weights, about = run.folder / WEIGHTS, run.folder / ABOUT
    if not run.usable:
        return None
    run.check_whole(WEIGHTS, ABOUT, SHOWN)
    from petseg.tracking.logged_model import EVALUATION_TAG, log_model
    from petseg.tracking.registry import version_of

    tags = {EVALUATION_TAG: evaluation.key}
    infer, now = evaluation.manifest.get("code_sha256", "unknown"), code_sha256(_INFER)
    if now != infer:
        tags["packaged_later"] = f"with code {now[:12]}; infer ran with {infer[:12]}"

    decision = {
        "thresholds": evaluation.thresholds,
        "flip_average": evaluation.flip_average,
    }
    model_id = log_model(row.client, row.run_id, weights, about, decision, tags, _example(run))
    version_of(row.client, run)
    return model_id


def _example(run: StoredRun) -> NDArray[np.uint8] | None:
    """Return a photo as the model takes it, (S, S, 3)."""
    if not (run.folder / SHOWN).exists():
        return None
    strip = np.asarray(Image.open(run.folder / SHOWN))
    return strip[:, : strip.shape[0]]
