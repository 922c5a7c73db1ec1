"""Records brought to MLflow: what is there already is not told again."""

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
_BY_EPOCH = {"loss/train", "dice/train"}  # of which an epoch has one at least
_DATA_STAGES = ("download", "preprocess")
_SLOW_S = 20  # for an epoch, after which a training does without MLflow


@dataclass
class Row:
    """One run of MLflow's.

    Attributes:
        client: of the tracking store.
        run_id: MLflow's.
        status: MLflow's, when it was found; what is FINISHED was told everything, and is not opened again.
    """

    client: "MlflowClient"
    run_id: str
    status: str = "RUNNING"

    @classmethod
    def open(cls, client: "MlflowClient", record: Record, parent_id: str | None = None) -> Self:
        """Find the row of a record, or make it; whoever calls holds its entry."""
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

    def knows(self, run: StoredRun) -> bool:
        """Tell whether nothing of a training is new to it."""
        unchanged = self.status != "RUNNING" and not run.finished
        return self.finished or (unchanged and self.epochs.issuperset(row["epoch"] for row in run.rows()))

    def begin(self, record: Record) -> None:
        """Tell what is known before the work is done: params, tags, data."""
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

    def tell_epochs(self, run: StoredRun) -> None:
        """Tell the epochs that the store has and MLflow does not."""
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
        """The epochs that MLflow has numbers of."""
        names = self.client.get_run(self.run_id).data.metrics.keys() & _BY_EPOCH
        points = (self.client.get_metric_history(self.run_id, name) for name in names)
        return {point.step for history in points for point in history}

    @cached_property
    def pictures(self) -> set[int]:
        """The epochs that MLflow has both files of a picture of, the full one and then the small one."""
        names = [Path(file.path).name for file in self.client.list_artifacts(self.run_id, "images")]
        return {int(name.split("+")[2]) for name in names if name.endswith(".webp")}

    def tell_metrics(self, values: Mapping[str, float], model_id: str | None = None) -> None:
        """Tell single numbers, those that are not what MLflow has of the run, or of the model, already."""
        if model_id is None:
            there = self.client.get_run(self.run_id).data.metrics
        else:
            known = self.client.get_logged_model(model_id).metrics or []
            there = {metric.key: metric.value for metric in known}
        new = {key: value for key, value in values.items() if there.get(key) != value}
        self.client.log_batch(self.run_id, metrics=as_metrics(new, model_id=model_id, run_id=self.run_id))

    def tell_files(self, record: Record) -> None:
        """Copy files to the run's artifacts."""
        for folder, paths in record.files.items():
            for path in paths:
                with naming(path):  # as what copies it for MLflow does not
                    self.client.log_artifact(self.run_id, str(path), folder)
        for name, text in record.texts.items():
            self.client.log_text(self.run_id, text, name)

    def end(self, status: str, at: str = "") -> None:
        """Close it as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status, milliseconds(at) if at else None)


@dataclass
class LiveRow:
    """The row of a training that is going on.

    Attributes:
        run: of the store.
        row: once it is opened.
        broken: whether MLflow has failed; then nothing more is told.
        slow: whether it took too long for an epoch; then the rest is left to ``flush_outbox``.
    """

    run: StoredRun
    row: Row | None = None
    broken: bool = False
    slow: bool = False

    def tell_epochs(self) -> None:
        """Tell the epochs that MLflow does not know yet."""
        began = time.monotonic()
        told = self.try_to(lambda row: row.tell_epochs(self.run))
        took_s = time.monotonic() - began
        if told and took_s > _SLOW_S:
            self.slow = True
            warn(f"took {took_s:.0f} s for an epoch")

    def try_to(self, tell: Callable[[Row], object]) -> bool:
        """Call with the row, opened first where it is not; return whether it succeeded, else warn."""
        if self.broken or self.slow:
            return False
        try:
            if self.row is None:
                self.row = patiently(Row.open, connect(), of_training(self.run))
            patiently(tell, self.row)
        except Exception as error:  # noqa: BLE001  (no failure, of whatever kind, is worth a training)
            self.broken = True
            warn(why(error))
        return not self.broken


@contextmanager
def live_row(run: StoredRun) -> Iterator[LiveRow]:
    """Show a training in MLflow while it goes on, and close its row however it ends.

    Of a run that was finished before nothing is told here: it is noted for ``flush_outbox``, which knows of
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
        entry.logged = live.try_to(lambda row: tell_training(row, run, of_training(run)))


def tell_training(row: Row, run: StoredRun, record: Record) -> None:
    """Tell of a training what MLflow does not know yet, and close its row."""
    row.begin(record)
    row.tell_epochs(run)
    row.tell_metrics(record.metrics)
    row.tell_files(record)
    row.end(record.status, record.ended)


def close_rows(client: "MlflowClient", uid: str) -> bool:
    """Close what a killed process left open of a run that is no longer in the store."""
    found = []
    for tag in ("run_uid", "parent_uid"):
        query = f"tags.{tag} = '{uid}' and attributes.status = 'RUNNING'"
        found += client.search_runs([experiment_id(client, EXPERIMENT)], query)
    for row in found:
        client.set_terminated(row.info.run_id, "KILLED")
    return bool(found)


def as_metrics(values: Mapping[str, float | None], step: int = 0, **of_model: str | None) -> "list[Metric]":
    """Return numbers as MLflow's; None, NaN and infinity are left out, since it can't say them."""
    from mlflow.entities import Metric

    at = int(time.time() * 1000)
    finite = {key: float(v) for key, v in values.items() if v is not None and math.isfinite(v)}
    return [Metric(key, value, at, step, **of_model) for key, value in finite.items()]


def milliseconds(moment: str) -> int:
    """Return a time of the store's as MLflow writes it."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
