"""Logs everything that the store has of a run in MLflow; what is logged already is not logged again."""

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
from petseg.tracking.rows import Row, close_rows, log_training

if TYPE_CHECKING:
    from mlflow import MlflowClient

_INFER = Path(petseg.__file__).parent.parent / "stages" / "infer.py"
_SHOWING = {"infer": "evaluation", "plot": "figures"}  # the row's tag that says which child it shows


@dataclass
class Delivery:
    """What a sync did, by the names of runs and of stages before training.

    Attributes:
        logged: those of which something was logged.
        already_logged: those of which MLflow had everything.
        busy: those that another process is logging.
        broken: for each record that can't be logged, why; the others are logged.
    """

    logged: list[str] = field(default_factory=list)
    already_logged: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def sync(store: Path, runs: Sequence[StoredRun] = ()) -> Delivery:
    """Log the given runs in MLflow, and everything that is still to be logged.

    Args:
        store: the folder of the runs.
        runs: runs of the store, whether MLflow has them or not.

    Raises:
        StoreError: MLflow does not answer. The next call logs the rest.
    """
    done = Delivery()
    wanted = dict.fromkeys([run.key for run in runs] + left_over())
    if not wanted:
        return done
    client = _reached(connect)
    for name in watched(wanted, "sync MLflow", len(wanted)):
        try:
            with lock_entry(name, wait=False) as entry:
                _log_entry(client, store, entry, done)
        except Held:
            done.busy.append(name)
    return done


def _log_entry(client: "MlflowClient", store: Path, entry: Entry, done: Delivery) -> None:
    """Log the run or stage of an entry, and add the outcome to ``done``."""
    name = entry.path.name
    try:
        is_new = patiently(_log, client, store, name, entry.read())
    except StoreError as error:
        done.broken.append(str(error))
    except Exception as error:  # noqa: BLE001  (what one record raises must not stop the others)
        _reached(lambda: experiment_id(client, EXPERIMENT))
        done.broken.append(f"{name}: MLflow {why(error)}")
    else:
        entry.logged = True
        (done.logged if is_new else done.already_logged).append(name)


def _reached(call: Callable[[], Result]) -> Result:
    """Call a function; raise StoreError if MLflow does not answer."""
    try:
        return call()
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        message = f"MLflow does not answer ({reason(error)}); petseg runs sync updates it later"
        raise StoreError(message) from None


def _log(client: "MlflowClient", store: Path, name: str, entry: Mapping[str, Any]) -> bool:
    """Log a run, or a stage before training; return whether anything was new."""
    if is_data_stage(name):
        if not entry:  # its process was killed while it wrote
            return False
        record = of_data_stage(name, DataRecord(**entry))
        return _log_data_stage(Row.open(client, record), record)
    if (run := run_of(store, name)) is not None:
        return log_run(client, run, entry)
    return close_rows(client, entry["uid"]) if entry else False  # the run was pruned


def _log_data_stage(row: Row, record: Record) -> bool:
    if row.finished:
        return False
    row.begin(record)
    row.log_metrics(record.metrics)
    row.log_files(record)
    row.end(record.status, record.ended)
    return True


def log_run(client: "MlflowClient", run: StoredRun, entry: Mapping[str, Any]) -> bool:
    """Log a training, its evaluations and its figures; return whether anything was new.

    Args:
        client: a client of the tracking store.
        run: the run in the store.
        entry: the content of its entry in the outbox.
    """
    record = of_training(run)
    if not run.finished and "status" in entry:
        record = replace(record, status=entry["status"], ended=entry.get("ended", ""))
    row = Row.open(client, record)
    is_new = not row.is_complete(run)
    if is_new:
        run.check_whole(WEIGHTS, ABOUT, HISTORY)
        log_training(row, run, record)
    for evaluation in run.evaluations:
        is_new |= _log_addition(row, run, evaluation, of_evaluation(run, evaluation))
    for figures in run.figures:
        is_new |= _log_addition(row, run, figures, of_figures(run, figures))
    return is_new


def _log_addition(row: Row, run: StoredRun, addition: Addition, record: Record) -> bool:
    """Log an evaluation or figures, both as a child and on the row of the model, which shows the newest.

    A finished run of MLflow is not opened again: it still takes files and metrics, and its params are fixed.
    """
    child = Row.open(row.client, record, row.run_id)
    if child.finished:
        return False
    if damages := addition.damages():
        raise DamagedFile(damages[0])
    model_id = _log_model(row, run, addition) if isinstance(addition, Evaluation) else None
    child.begin(record)
    for target in (child, row):
        target.log_files(record)
        target.log_metrics(record.metrics, model_id if target is row else None)
    row.client.set_tag(row.run_id, _SHOWING[record.stage], addition.key)
    child.end(record.status, record.ended)
    return True


def _log_model(row: Row, run: StoredRun, evaluation: Evaluation) -> str | None:
    """Log the network and its chosen thresholds as a model of the row, and register the model once."""
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
    """Return a photo as an example of the model's input, (S, S, 3); None if the run has none."""
    if not (run.folder / SHOWN).exists():
        return None
    strip = np.asarray(Image.open(run.folder / SHOWN))
    return strip[:, : strip.shape[0]]
