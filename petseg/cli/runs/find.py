"""Finds the run that a user names."""

import re
from pathlib import Path
from typing import Annotated

import typer

from petseg.core.files import listed
from petseg.core.project import main_root
from petseg.errors import UsageError
from petseg.pipeline.dvcfiles import check_project
from petseg.store.run import StoredRun

Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="The beginning of a run's key, an MLflow run id, or an MLflow filter."),
]


def store_folder() -> Path:
    """Return the folder of the project's runs.

    Raises:
        UsageError: there is no project.
    """
    root = main_root()
    check_project(root)
    return root / "runs"


def found_key(text: str) -> str:
    """Return the key of the run that a user names; the run may be broken, or be only in the ledger.

    Raises:
        UsageError: the text names no run, or several.
    """
    from petseg.store.chain import read_ledger

    store = store_folder()
    lost = [
        place[0] for place in read_ledger(store).seals if len(place) == 1 and not (store / place[0]).exists()
    ]
    there = [path.name for path in listed(store, "[!.]*") if path.is_dir()]
    found = [key for key in (*there, *lost) if re.fullmatch("[0-9a-f]+", text) and key.startswith(text)]
    return found[0] if len(found) == 1 else found_run(text).key


def found_run(text: str) -> StoredRun:
    """Return the run that a user names.

    Raises:
        UsageError: the text names no run, or several.
    """
    from petseg.tracking.queries import found_runs  # imported here: --help would wait for it

    found = found_runs(store_folder(), [text])
    if len(found) != 1:
        raise UsageError(f"{text}: matches {len(found)} runs; name one of them")
    return found[0]
