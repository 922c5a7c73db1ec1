"""Find the project's folders, and the facts that a record gives about its origin: commit, user, time."""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from petseg.core.git import GitState
from petseg.errors import UsageError

_TEMPORARY = "/.dvc/tmp/exps/"


def main_root(folder: Path | None = None) -> Path:
    """Return the root of the main repository, where the store of runs and MLflow's database live.

    ``dvc exp run --temp`` and ``--queue`` run a stage in a copy below ``.dvc/tmp/exps/`` that is
    deleted at the end. Files that must outlast it go to the repository around that copy. The variable
    DVC_ROOT can't be used here, because a plain ``dvc repro`` keeps an old value that it inherited.
    """
    folder = (folder or Path.cwd()).resolve()
    before, found, _ = f"{folder}/".partition(_TEMPORARY)
    if found:
        return Path(before)
    for parent in (folder, *folder.parents):
        if (parent / ".dvc").is_dir():
            return parent
    return folder


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or mlflow.db; a relative database path is taken from the main repository.

    Raises:
        UsageError: this variable or MLFLOW_REGISTRY_URI is a URL with secrets, which MLflow would show. But
            MLFLOW_TRACKING_URI may hold a user and a password: ``petseg.tracking.client`` passes them apart.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        given = os.environ.get(name, "")
        shown = given.rpartition("@")[2] if name == "MLFLOW_TRACKING_URI" else given
        if given.lower().startswith("http") and set(shown) & set("@?#"):
            raise UsageError(
                f"{name}: is a URL with a user, a password or a query; give the URL alone, and "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{main_root() / file}" if file != uri else uri.rstrip("/")


def expanded(path: str | Path) -> Path:
    """Return a path that a user gave, with a leading ``~`` replaced by the home folder.

    A shell does this too, but not in ``--out=~/cut``. ``~name`` stays as it is if there is no such user.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises for ~name)


def provenance(git: GitState) -> dict[str, Any]:
    """Return the commit and the DVC experiment that a record names as its origin."""
    return {
        "git": {"commit": git.commit, "dirty": git.dirty},
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
    }


def user() -> str:
    """Return the name of the user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def now() -> str:
    """Return the current time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
