"""``petseg report``."""

from pathlib import Path
from typing import Annotated

import typer

from petseg.cli.showing import show
from petseg.core.files import copy_atomically
from petseg.core.project import main_root
from petseg.errors import UsageError
from petseg.pipeline.dvcfiles import stage_paths


def report(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A run, as petseg runs names it; else the newest."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Copy the page to this file.")] = None,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Open the report page: scores, curves, test photos, provenance."""
    page = stage_paths(main_root(), "plot")["page"]
    if run is not None:
        from petseg.cli.runs import found_run

        found = found_run(run)
        kept = [made.folder / page.name for made in found.figures if page.name in made.manifest["files"]]
        if not kept:
            raise UsageError(f"run {found.key} has no report page; dvc repro with its params makes one")
        page = kept[-1]
    elif not page.is_file():
        raise UsageError("there is no report page yet; dvc repro makes it")
    if out is not None:
        if out.resolve() != page.resolve():
            copy_atomically(page, out)
        page = out
    show(page, opens)
