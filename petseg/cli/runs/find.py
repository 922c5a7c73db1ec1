"""The one run that a person names."""

from typing import Annotated

import typer

from petseg.core.project import main_root
from petseg.errors import UsageError
from petseg.store.run import StoredRun

Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="The beginning of a run's key, an MLflow run id, or an MLflow filter."),
]


def found_run(text: str) -> StoredRun:
    """Find the one run that a person names.

    Raises:
        UsageError: none is called so, or several are.
    """
    from petseg.tracking.queries import found_runs  # not above: the command's help would wait for it

    found = found_runs(main_root() / "runs", [text])
    if len(found) != 1:
        raise UsageError(f"{text}: fits {len(found)} runs, one is wanted")
    return found[0]
