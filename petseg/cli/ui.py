"""``petseg ui``: serve MLflow's pages."""

from typing import Annotated

import typer


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of 127.0.0.1 to use.")] = 5000,
) -> None:
    """Look at the trainings in MLflow; its pages are served to this machine only."""
    from petseg.tracking.ui import serve

    serve(port)
