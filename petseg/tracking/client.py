"""The connection to MLflow's tracking store, and what happens if MLflow fails.

The store of runs comes first and MLflow second: a call that fails causes a warning, and stops no training.
"""

import logging
import os
import sqlite3
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import unquote

from filelock import FileLock

from petseg.core.project import main_root, tracking_uri
from petseg.core.terminal import print_lines
from petseg.core.urls import without_secrets
from petseg.tracking.relocate import ARTIFACTS, relocate
from petseg.tracking.view import save_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.entities import PagedList

EXPERIMENT, DATA_EXPERIMENT = "petseg", "petseg-data"
_LOCKED_FOR_S = 120  # how long to wait for a locked database; MLflow itself gives up after 20 s
_ANSWER_S = 3  # within this time a server must answer
_MLFLOWS = {"mlflow", "requests", "filelock"}  # every call of MLflow goes through one of these packages
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# MLflow's own settings. With them, a server that goes away costs seconds and not minutes, no telemetry is
# sent, and weights are never unpickled.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def connect() -> "MlflowClient":
    """Return a client of the tracking store, in which both experiments exist; MLflow's errors are raised."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs
    uri = _without_credentials(tracking_uri())
    if uri.startswith(("http://", "https://")):
        import requests

        # Any answer is enough. A bad certificate is ignored here, because MLflow has its own settings for it.
        with suppress(requests.exceptions.SSLError):
            requests.get(f"{uri}/health", timeout=_ANSWER_S)
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and database.exists() and not database.is_file():
        raise sqlite3.OperationalError(f"{database} is no regular file")  # SQLite would retry for minutes
    import mlflow

    mlflow.set_tracking_uri(uri)
    return patiently(_prepared, mlflow.MlflowClient)


def _without_credentials(uri: str) -> str:
    """Return a URI without user and password. Both go into the environment, because MLflow prints URIs."""
    scheme, separator, rest = uri.partition("://")
    credentials, found, host = rest.rpartition("@")
    if scheme not in ("http", "https") or not found:
        return uri
    user, _, password = credentials.partition(":")
    os.environ |= {
        "MLFLOW_TRACKING_USERNAME": unquote(user),
        "MLFLOW_TRACKING_PASSWORD": unquote(password),
    }
    return f"{scheme}{separator}{host}"


def _prepared(new_client: "Callable[[], MlflowClient]") -> "MlflowClient":
    # The database breaks if several processes create it at once.
    with FileLock(main_root() / ".dvc" / "tmp" / "petseg-mlflow.lock"):
        if (file := tracking_uri().removeprefix("sqlite:///")) != tracking_uri():
            relocate(Path(file), main_root(), EXPERIMENT)
        client = new_client()
        for name in (EXPERIMENT, DATA_EXPERIMENT):
            experiment_id(client, name)
    return client


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Return an experiment's id; the experiment is created if needed, with artifacts in the main repository.

    By default, MLflow puts the artifacts below the current folder of the process that creates the experiment,
    which may be a temporary folder.
    """
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    local = tracking_uri().startswith("sqlite:")
    location = (main_root() / ARTIFACTS / name).as_uri() if local else None
    try:
        made = str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and client.get_experiment_by_name(name) is not None:
            return experiment_id(client, name)  # another process was faster
        raise
    if name == EXPERIMENT:
        save_view(client, made)
    return made


def every(page: "Callable[[str | None], PagedList[Any]]") -> "list[Any]":
    """Return the results of all pages of a search."""
    found: list[Any] = []
    token: str | None = None
    while token != "":
        some = page(token)
        found += some
        token = some.token or ""
    return found


def patiently(
    call: "Callable[Arguments, Result]", *given: "Arguments.args", **named: "Arguments.kwargs"
) -> "Result":
    """Call a function, and call it again for as long as another process locks the database."""
    until = time.monotonic() + _LOCKED_FOR_S
    while True:
        try:
            return call(*given, **named)
        except Exception as error:
            if "database is locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.1)


def is_mlflow_trouble(error: Exception) -> bool:
    """Return whether an error comes from MLflow, or from a library below it, and not from petseg.

    The traceback decides, because the errors of databases, artifact stores and servers have no common base.
    """
    if isinstance(error, sqlite3.Error):  # raised in C, so the traceback has no frame of a package
        return True
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(str(frame.f_globals.get("__name__")).split(".")[0] in _MLFLOWS for frame in frames)


def why(error: Exception) -> str:
    """Say in one line how MLflow failed, without the password that a URL in the error may have."""
    if is_mlflow_trouble(error):
        return f"does not answer ({reason(error)})"
    return f"could not be updated ({type(error).__name__}: {reason(error)})"


def reason(error: Exception) -> str:
    """Return an error as one line, without the user and password that a URL in it may have."""
    return f"{without_secrets(' '.join(str(error).split())):.200}"


def warn(failure: str) -> None:
    """Warn that MLflow failed, and say where the record is and what logs it later.

    Args:
        failure: what comes after "MLflow", such as "does not answer".
    """
    print_lines(
        f"warning: MLflow {failure}; runs/ has the record, and `petseg runs sync` updates MLflow later",
        err=True,
    )
