"""Reads from MLflow: the runs that match a filter, and the copies of weights."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from petseg.core.formats import counted
from petseg.core.terminal import print_lines
from petseg.errors import StoreError, UsageError
from petseg.store.heal import Copy
from petseg.store.layout import MANIFEST, WEIGHTS, manifests
from petseg.store.run import StoredRun
from petseg.tracking.client import EXPERIMENT, connect, every, experiment_id, is_mlflow_trouble, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def found_runs(store: Path, wanted: Sequence[str]) -> list[StoredRun]:
    """Find the runs that a user names.

    Args:
        store: the folder of the runs.
        wanted: for each, the beginning of a run's key; an MLflow run id; or, if it has =, < or >, or the word
            LIKE, an MLflow filter.

    Returns:
        Each run once, in the order of ``wanted``.

    Raises:
        UsageError: a name matches no run or several, or a filter is invalid or matches no run.
        StoreError: MLflow is needed to find a run, and does not answer; or a manifest can't be read.
    """
    folders = dict.fromkeys(folder for text in wanted for folder in _named_runs(store, text))
    return [StoredRun.open(folder) for folder in folders]


def _named_runs(store: Path, text: str) -> list[Path]:
    if re.search(r"[=<>]|\blike\b", text, re.IGNORECASE):
        keys = _keys_of_rows(text)
        folders = [store / key for key in keys if (store / key / MANIFEST).is_file()]
        if lost := len(keys) - len(folders):
            print_lines(f"warning: MLflow lists {counted(lost, 'run')} without {store.name}/KEY", err=True)
        if not folders:
            raise UsageError(f"no finished run matches the filter {text!r}")
        return folders
    named = manifests(store) if re.fullmatch("[0-9a-f]+", text) else []
    folders = [path for path in named if path.parent.name.startswith(text)]
    if not folders and re.fullmatch("[0-9a-f]{32}", text):
        return _named_runs(store, f"attributes.run_id = '{text}'")
    if len(folders) != 1:
        problem = (
            f"matches {len(folders)} runs; write more of it" if folders else f"no such run in {store.name}/"
        )
        raise UsageError(
            f"{text}: {problem}; a run is named by the beginning of its key, an MLflow run id, or a filter "
            "such as \"params.`train.loss` = 'dice'\""
        )
    return [folders[0].parent]


def _keys_of_rows(text: str) -> list[str]:
    """Return the keys of all finished trainings that match an MLflow filter, the newest first."""
    query = f"tags.stage = 'train' and attributes.status = 'FINISHED' and {text}"
    try:
        client = connect()
        from mlflow.exceptions import MlflowException

        experiment = experiment_id(client, EXPERIMENT)
        try:
            rows = every(lambda token: client.search_runs([experiment], query, page_token=token))
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise UsageError(f"{text}: is no MLflow filter ({reason(error)})") from None
            raise
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        raise StoreError(f"MLflow does not answer ({reason(error)}); name runs by their keys") from None
    return [row.data.tags["run_key"] for row in rows]


def row_of(client: "MlflowClient", run: StoredRun) -> "Run | None":
    """Return the row of a run; None if MLflow has none."""
    query = f"tags.stage = 'train' and tags.run_uid = '{run.uid}'"
    found = client.search_runs([experiment_id(client, EXPERIMENT)], query, max_results=1)
    return found[0] if found else None


def weights_in_mlflow(runs: Sequence[StoredRun]) -> Iterator[Copy]:
    """Yield each copy of the runs' weights that MLflow keeps; if it does not answer, warn and yield none."""
    try:
        copies = list(_copies({run.uid: run for run in runs}))
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        line = f"warning: MLflow does not answer ({reason(error)}); its copies are not checked"
        print_lines(line, err=True)
        return
    yield from copies


def _copies(run_by_uid: Mapping[str, StoredRun]) -> Iterator[Copy]:
    client = connect()
    from mlflow.entities import LoggedModelStatus

    experiment, query = experiment_id(client, EXPERIMENT), "tags.stage = 'train'"
    found = every(lambda token: client.search_runs([experiment], query, page_token=token))
    uids = {row.info.run_id: row.data.tags.get("run_uid") for row in found}
    runs = {row: run_by_uid[uid] for row, uid in uids.items() if uid in run_by_uid}
    for row in found:
        key = row.info.run_id
        # The files of an unfinished row may still be on their way.
        if key in runs and row.info.status == "FINISHED" and "weights" in row.data.tags:
            uri, log = f"runs:/{key}/weights/{WEIGHTS}", partial(client.log_artifact, key)
            put = partial(_answered, partial(log, artifact_path="weights"))
            yield Copy(runs[key], uri, partial(_fetched, uri), put)
    for model in every(lambda token: client.search_logged_models([experiment], page_token=token)):
        if model.source_run_id in runs and model.status == LoggedModelStatus.READY:
            uri = f"{model.artifact_location}/artifacts/{WEIGHTS}"
            put = partial(_answered, partial(_log_into_model, client, model.model_id))
            yield Copy(runs[model.source_run_id], uri, partial(_fetched, uri), put)


def _fetched(uri: str, folder: Path) -> Path | None:
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        return None


def _log_into_model(client: "MlflowClient", model_id: str, file: Path) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, "artifacts").mkdir()
        shutil.copy(file, Path(folder, "artifacts"))
        client.log_model_artifacts(model_id, folder)


def _answered(call: Callable[[Path], object], file: Path) -> bool:
    """Call a function of MLflow with a file, and return whether MLflow succeeded."""
    try:
        call(file)
    except Exception as error:
        if not is_mlflow_trouble(error):
            raise
        return False
    return True
