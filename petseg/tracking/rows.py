"""Logs records in MLflow; what is logged already is not logged again."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from petseg.core.files import naming
from petseg.core.project import now, user
from petseg.core.textfiles import printable
from petseg.store.run import StoredRun
from petseg.tracking.client import DATA_EXPERIMENT, EXPERIMENT, connect, experiment_id, patiently, warn, why
from petseg.tracking.entries import Record, of_epoch, of_training, picture_of_epoch
from petseg.tracking.outbox import flush_outbox, lock_entry, status_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_IMAGES = "evolution"  # the key of an epoch's picture in MLflow's image grid
_BY_EPOCH = {"loss/train", "dice/train"}  # each epoch has at least one of these metrics
_DATA_STAGES = ("download", "preprocess")
_SLOW_S = 20  # if logging an epoch takes longer, the training goes on without MLflow


@dataclass
class Row:
    """A run of MLflow.

    Attributes:
        client: a client of the tracking store.
        run_id: MLflow's id of the run.
        status: MLflow's status when the run was found. A FINISHED run is complete, and is not opened again.
    """

    client: "MlflowClient"
    run_id: str
    status: str = "RUNNING"

    @classmethod
    def open(cls, client: "MlflowClient", record: Record, parent_id: str | None = None) -> Self:
        """Find the row of a record, or create it. The caller must hold the record's entry."""
        experiment = experiment_id(client, DATA_EXPERIMENT if record.stage in _DATA_STAGES else EXPERIMENT)
        known_by = {"stage": record.stage, **record.known_by}
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in known_by.items())
        found = client.search_runs([experiment], query, max_results=1)
        if found:
            return cls(client, found[0].info.run_id, found[0].info.status)
        tags = known_by | {
            "mlflow.user": printable(user()),
            "mlflow.source.name": f"stages/{record.stage}.py",
            "mlflow.source.type": "LOCAL",
        }
        if parent_id is not None:
            tags["mlflow.parentRunId"] = parent_id
        made = client.create_run(experiment, milliseconds(record.started), tags, printable(record.title))
        return cls(client, made.info.run_id)

    @property
    def finished(self) -> bool:
        return self.status == "FINISHED"

    def is_complete(self, run: StoredRun) -> bool:
        """Return whether the row has everything of a training that the store has."""
        unchanged = self.status != "RUNNING" and not run.finished
        return self.finished or (unchanged and self.epochs.issuperset(row["epoch"] for row in run.rows()))

    def begin(self, record: Record) -> None:
        """Open the row, and log what is known before the work is done: params, tags, data sets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        self.client.update_run(self.run_id, "RUNNING")
        params = [Param(printable(key), printable(value)) for key, value in record.params.items()]
        tags = [
            RunTag(printable(key), printable(value))
            for key, value in record.tags.items()
            if value is not None
        ]
        self.client.log_batch(self.run_id, params=params, tags=tags)
        inputs = [
            DatasetInput(
                Dataset(
                    printable(data.name),
                    data.sha256[:36],
                    "local",
                    json.dumps({"uri": printable(data.origin)}),
                    profile=json.dumps({"sha256": data.sha256}),
                ),
                [InputTag("mlflow.data.context", data.context)],
            )
            for data in record.datasets
        ]
        if inputs:
            self.client.log_inputs(self.run_id, inputs)

    def log_epochs(self, run: StoredRun) -> None:
        """Log the epochs that the store has and MLflow does not."""
        for values in run.rows():
            epoch = values["epoch"]
            if epoch not in self.epochs:
                self.client.log_batch(self.run_id, metrics=as_metrics(of_epoch(values), epoch))
                self.epochs.add(epoch)
            if epoch not in self.pictures:
                if (picture := picture_of_epoch(run, epoch)) is not None:
                    self.client.log_image(self.run_id, picture, key=_IMAGES, step=epoch, synchronous=True)
                self.pictures.add(epoch)

    @cached_property
    def epochs(self) -> set[int]:
        """The epochs whose numbers MLflow has."""
        names = self.client.get_run(self.run_id).data.metrics.keys() & _BY_EPOCH
        points = (self.client.get_metric_history(self.run_id, name) for name in names)
        return {point.step for history in points for point in history}

    @cached_property
    def pictures(self) -> set[int]:
        """The epochs whose picture MLflow has. The small file (.webp) is logged after the full one."""
        names = [Path(file.path).name for file in self.client.list_artifacts(self.run_id, "images")]
        return {int(name.split("+")[2]) for name in names if name.endswith(".webp")}

    def log_metrics(self, values: Mapping[str, float], model_id: str | None = None) -> None:
        """Log those numbers that MLflow does not have, or has with other values, for the run or a model."""
        if model_id is None:
            there = self.client.get_run(self.run_id).data.metrics
        else:
            known = self.client.get_logged_model(model_id).metrics or []
            there = {metric.key: metric.value for metric in known}
        new = {key: value for key, value in values.items() if there.get(key) != value}
        self.client.log_batch(self.run_id, metrics=as_metrics(new, model_id=model_id, run_id=self.run_id))

    def log_files(self, record: Record) -> None:
        """Copy a record's files and texts to the run's artifacts."""
        for folder, paths in record.files.items():
            for path in paths:
                with naming(path):  # because MLflow's errors do not name the file
                    self.client.log_artifact(self.run_id, str(path), folder)
        for name, text in record.texts.items():
            self.client.log_text(self.run_id, text, name)

    def end(self, status: str, at: str = "") -> None:
        """Close the row as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status, milliseconds(at) if at else None)


@dataclass
class LiveRow:
    """The row of a training while it runs.

    Attributes:
        run: the run in the store.
        row: the row in MLflow, once it is open.
        broken: whether MLflow has failed; then nothing more is logged.
        slow: whether an epoch took too long to log; then the rest is left to ``flush_outbox``.
    """

    run: StoredRun
    row: Row | None = None
    broken: bool = False
    slow: bool = False

    def log_epochs(self) -> None:
        """Log the epochs that MLflow does not have yet."""
        began = time.monotonic()
        logged = self.try_to(lambda row: row.log_epochs(self.run))
        took_s = time.monotonic() - began
        if logged and took_s > _SLOW_S:
            self.slow = True
            warn(f"took {took_s:.0f} s for an epoch")

    def try_to(self, log: Callable[[Row], object]) -> bool:
        """Call a function with the row, which is opened if needed; return whether that worked, or warn."""
        if self.broken or self.slow:
            return False
        try:
            if self.row is None:
                self.row = patiently(Row.open, connect(), of_training(self.run))
            patiently(log, self.row)
        except Exception as error:  # noqa: BLE001  (no failure of MLflow may stop a training)
            self.broken = True
            warn(why(error))
        return not self.broken


@contextmanager
def live_row(run: StoredRun) -> Iterator[LiveRow]:
    """Log a training in MLflow while it runs, and close its row however it ends.

    A run that was finished before is not logged here. Its entry stays for ``flush_outbox``, which logs
    evaluations and figures too.
    """
    if run.finished:
        with lock_entry(run.key):
            yield LiveRow(run)
        return
    live = LiveRow(run, broken=not flush_outbox(besides=run.key))
    with lock_entry(run.key) as entry:
        entry.write({"uid": run.uid})
        live.try_to(lambda row: row.begin(of_training(run)))
        try:
            yield live
        except BaseException as error:
            ending = {"status": status_of(error), "ended": now()}
            entry.write({"uid": run.uid, **ending})
            entry.logged = live.try_to(lambda row: row.end(ending["status"], ending["ended"]))
            raise
        entry.logged = live.try_to(lambda row: log_training(row, run, of_training(run)))


def log_training(row: Row, run: StoredRun, record: Record) -> None:
    """Log what MLflow does not have of a training yet, and close its row."""
    row.begin(record)
    row.log_epochs(run)
    row.log_metrics(record.metrics)
    row.log_files(record)
    row.end(record.status, record.ended)


def close_rows(client: "MlflowClient", uid: str) -> bool:
    """Close the rows that a killed process left open, of a run that is no longer in the store.

    Returns:
        Whether there were any.
    """
    found = []
    for tag in ("run_uid", "parent_uid"):
        query = f"tags.{tag} = '{uid}' and attributes.status = 'RUNNING'"
        found += client.search_runs([experiment_id(client, EXPERIMENT)], query)
    for row in found:
        client.set_terminated(row.info.run_id, "KILLED")
    return bool(found)


def as_metrics(values: Mapping[str, float | None], step: int = 0, **of_model: str | None) -> "list[Metric]":
    """Return numbers as MLflow's metrics, without None, NaN and infinity."""
    from mlflow.entities import Metric

    at = int(time.time() * 1000)
    finite = {key: float(v) for key, v in values.items() if v is not None and math.isfinite(v)}
    return [Metric(key, value, at, step, **of_model) for key, value in finite.items()]


def milliseconds(moment: str) -> int:
    """Return a time from the store in milliseconds since 1970, as MLflow has it."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
