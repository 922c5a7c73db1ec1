"""The record in MLflow. Nothing else in petseg imports mlflow.

The store of runs comes first and MLflow second: once a call fails or takes too long, the rest of
that run's calls are dropped with one warning, and the work goes on.

One row of the experiment ``petseg`` is one trained model. infer and plot log to child runs of their
own, because the params of a run can't change, and mirror their scores and figures to the row.
download and preprocess make no model; their runs are in the experiment ``petseg-data``.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from filelock import FileLock
from pydantic import BaseModel

from petseg.params import flatten
from petseg.project import git_state, main_root, user
from petseg.tracking.leftovers import alive, close_left_overs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

EXPERIMENT, DATA_EXPERIMENT = "petseg", "petseg-data"
_LOCKED_FOR_S = 120  # how long a locked database is waited for; MLflow itself gives up after 20 s
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_DATA_STAGES = ("download", "preprocess")

# Of mlflow's own, so that a server that is away costs seconds and not minutes, nothing is sent to
# anybody, and weights are never unpickled.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass
class RunLog:
    """One MLflow run that is being written; without an id, or once broken, every call does nothing."""

    client: "MlflowClient | None"
    run_id: str | None
    parent_id: str | None = None
    _there: set[int] | None = None  # the epochs that MLflow has, once it was asked

    def metrics(self, values: Mapping[str, float | int], step: int = 0) -> None:
        """Log numbers, of an epoch where ``step`` is one; NaN is left out, since MLflow can't say it."""

        def log(client: "MlflowClient", run_id: str) -> None:
            client.log_batch(run_id, metrics=_metrics(values, step))

        if step:
            self.catch_up({step: values})
        else:
            self._try(log)

    def catch_up(self, rows: Mapping[int, Mapping[str, float | int]]) -> None:
        """Log the numbers of those epochs, ``{step: numbers}``, that MLflow does not have yet.

        A killed process may not have come to log one, and its successor may train one again.
        """

        def log(client: "MlflowClient", run_id: str) -> None:
            if self._there is None:
                names = {name for values in rows.values() for name in values}
                histories = [client.get_metric_history(run_id, name) for name in names]
                self._there = {metric.step for history in histories for metric in history}
            for step in sorted(rows.keys() - self._there):
                client.log_batch(run_id, metrics=_metrics(rows[step], step))
                self._there.add(step)

        self._try(log)

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags of this run and of its parent."""

        def log(client: "MlflowClient", run_id: str) -> None:
            for key, value in values.items():
                client.set_tag(run_id, key, value)

        self._try(log)
        self._try(log, self.parent_id)

    def mirrored_metrics(self, values: Mapping[str, float | int]) -> None:
        """Log numbers to this run and to its parent, the row of the model."""

        def log(client: "MlflowClient", run_id: str) -> None:
            client.log_batch(run_id, metrics=_metrics(values, 0))

        self._try(log)
        self._try(log, self.parent_id)

    def artifact(self, path: Path, folder: str) -> None:
        """Copy a file, or a folder's files, below ``folder`` of the run's artifacts and its parent's."""

        def log(client: "MlflowClient", run_id: str) -> None:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), folder)
            else:
                client.log_artifact(run_id, str(path), folder)

        self._try(log)
        self._try(log, self.parent_id)

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Note which data the run read, by our own hash."""

        def log(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name,
                digest=digest[:36],
                source_type="local",
                source=json.dumps({"uri": source}),
                profile=json.dumps({"sha256": digest}),
            )
            tag = InputTag("mlflow.data.context", context)
            client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

        self._try(log)

    def on_model_row(self, log: "Callable[[MlflowClient, str], object]") -> None:
        """Call ``log(client, run_id)`` for the row of the model: the parent's, or this run's own."""
        self._try(log, self.parent_id or self.run_id)

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._try(lambda client, run_id: client.set_terminated(run_id, status))

    def _try(self, log: "Callable[[MlflowClient, str], object]", run_id: str | None = "") -> None:
        run_id = self.run_id if run_id == "" else run_id
        if self.client is None or run_id is None:
            return
        with _forgiving(self):
            _patiently(log, self.client, run_id)


@contextmanager
def stage_run(
    stage: str,
    params: Mapping[str, object],
    tags: Mapping[str, object],
    run_id: str | None = None,
    parent_id: str | None = None,
) -> Iterator[RunLog]:
    """Open a run for a stage, and close it whatever happens.

    A training has one row, known by its id or by the tag ``run_key``. It is gone on with until it is
    FINISHED; from then on nothing more is logged to it here.

    Args:
        stage: name of the stage.
        params: what the stage read of params.yaml, flat.
        tags: what else is to be known.
        run_id: a run to go on with, where there is one already.
        parent_id: the run of the model that this stage adds to.

    Yields:
        The run's log.
    """
    log, held = RunLog(None, None), ExitStack()
    with _forgiving(log):
        _patiently(_open, log, stage, params, tags, run_id, parent_id)
        if log.client is not None and log.run_id is not None:
            held.enter_context(alive(log.run_id))
    with held:
        try:
            yield log
        except (KeyboardInterrupt, SystemExit):
            log.end("KILLED")
            raise
        except BaseException:
            log.end("FAILED")
            raise
        log.end("FINISHED")


def flat(**sections: BaseModel | object) -> dict[str, object]:
    """Return sections of the params, or single values under ``section__key``, as MLflow params."""
    result: dict[str, object] = {}
    for name, value in sections.items():
        if isinstance(value, BaseModel):
            result |= flatten(value, f"{name}.")
        else:
            result[name.replace("__", ".")] = value
    return result


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or mlflow.db; a database's path counts from the main repository."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{main_root() / file}" if file != uri else uri


def connect() -> "MlflowClient":
    """Return a client of the tracking store; MLflow's errors go through.

    Both experiments are made, and the runs that killed processes left open are closed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import logging

    for name in ("alembic", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it tells, it raises too
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    # Several processes that create the database at once break it.
    with FileLock(main_root() / ".dvc" / "tmp" / "petseg-mlflow.lock"):
        client = mlflow.MlflowClient()
        for name in (EXPERIMENT, DATA_EXPERIMENT):
            experiment_id(client, name)
        close_left_overs(client)
    return client


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Return an experiment's id; made where there is none, with its artifacts in the main repository.

    Left to itself MLflow would put them below the folder of whoever comes first, which may be a
    temporary one.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = tracking_uri().startswith("sqlite:")
    location = (main_root() / "mlartifacts" / name).as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=location))


def _existing(client: "MlflowClient", run_id: str | None) -> str | None:
    """Return the id if there is such a run: a database may have been lost or exchanged."""
    if run_id is None:
        return None
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id


def _open(
    log: RunLog,
    stage: str,
    params: Mapping[str, object],
    tags: Mapping[str, object],
    run_id: str | None,
    parent_id: str | None,
) -> None:
    """Find or make the run of ``stage_run``; called again after a failure, it goes on from there."""
    client = log.client = connect()
    from mlflow.entities import Param

    experiment = experiment_id(client, DATA_EXPERIMENT if stage in _DATA_STAGES else EXPERIMENT)
    log.parent_id = _existing(client, parent_id)
    log.run_id = log.run_id or _existing(client, run_id)
    if log.run_id is None and stage == "train":
        log.run_id = _row_of(client, experiment, tags.get("run_key"))
    if log.run_id is None:
        log.run_id = _create(client, experiment, stage, tags, log.parent_id)
    if client.get_run(log.run_id).info.status == "FINISHED":
        log.client = None
        return
    client.update_run(log.run_id, "RUNNING")
    client.log_batch(log.run_id, params=[Param(key, str(value)) for key, value in params.items()])


def _row_of(client: "MlflowClient", experiment: str, run_key: object) -> str | None:
    """Return the id of the newest row of a training; the store may not have come to note it."""
    query = f"tags.stage = 'train' and tags.run_key = '{run_key}'"
    found = client.search_runs([experiment], query, max_results=1)
    return str(found[0].info.run_id) if found else None


def _create(
    client: "MlflowClient",
    experiment: str,
    stage: str,
    tags: Mapping[str, object],
    parent_id: str | None,
) -> str:
    git, dvc_name = git_state(), os.environ.get("DVC_EXP_NAME")
    known = {
        "stage": stage,
        "dvc_experiment": dvc_name,
        "uncommitted_changes": git.dirty,
        "mlflow.source.git.commit": git.commit,
        "mlflow.source.name": f"stages/{stage}.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user(),
        "mlflow.parentRunId": parent_id,
        "git_commit": git.commit,
    } | dict(tags)
    run = client.create_run(
        experiment,
        tags={key: str(value) for key, value in known.items() if value is not None},
        run_name=dvc_name or tags.get("run_key") if stage == "train" else stage,
    )
    return str(run.info.run_id)


def _metrics(values: Mapping[str, float | int], step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    at = int(time.time() * 1000)
    return [Metric(key, float(v), at, step) for key, v in values.items() if math.isfinite(v)]


def _patiently(
    call: "Callable[Arguments, Result]", *given: "Arguments.args", **named: "Arguments.kwargs"
) -> "Result":
    """Call, and again for as long as another process locks the database."""
    until = time.monotonic() + _LOCKED_FOR_S
    while True:
        try:
            return call(*given, **named)
        except Exception as error:
            if "database is locked" not in str(error) or time.monotonic() > until:
                raise


@contextmanager
def _forgiving(log: RunLog) -> Iterator[None]:
    """Let MLflow fail: warn once, and be silent from then on."""
    try:
        yield
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        log.client = None
        print(
            f"warning: MLflow does not answer ({type(error).__name__}: {reason(error):.200}); "
            "the run goes on, and its record is in runs/",
            file=sys.stderr,
            flush=True,
        )


def reason(error: Exception) -> str:
    """Return an error in one line, without the user and password that a URL in it may carry."""
    return re.sub(r"//\S*@", "//***@", " ".join(str(error).split()))


def is_mlflow_trouble(error: Exception) -> bool:
    """Tell a store that fails from a mistake in our own code."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # ImportError: a database whose driver is not installed.
    return isinstance(error, MlflowException | SQLAlchemyError | OSError | ImportError)
