"""Runs that a killed process left open in MLflow, closed by whoever comes next.

A process holds a lock, a file named by the run's id, for as long as it writes to a run. The kernel lets go of
it whatever ends the process, so a file that nobody holds names a run that nobody will close.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from petseg.project import main_root

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def alive(run_id: str) -> Iterator[None]:
    """Show that this process writes to a run."""
    path = _folder() / run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def close_left_overs(client: "MlflowClient") -> None:
    """Close the runs whose process was killed, as KILLED; MLflow's errors go through."""
    from mlflow.exceptions import MlflowException

    for path in sorted(_folder().glob("*")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            try:
                if client.get_run(path.name).info.status == "RUNNING":
                    client.set_terminated(path.name, "KILLED")
            except MlflowException as error:  # its database may have been lost or exchanged
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            path.unlink(missing_ok=True)


def _folder() -> Path:
    return main_root() / ".dvc" / "tmp" / "petseg-alive"
