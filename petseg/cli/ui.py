"""``petseg ui``: MLflow's pages."""

from typing import Annotated

import typer


def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 5000) -> None:
    """Look at the trainings in MLflow, on this machine alone."""
    from petseg.tracking.ui import serve

    serve(port)
