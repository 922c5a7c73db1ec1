"""``petseg report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.showing import Force, page_target, show
from petseg.core.project import main_root
from petseg.core.terminal import print_lines

if TYPE_CHECKING:
    from petseg.report.results import Results
    from petseg.store.run import StoredRun


def report(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A run, named as for petseg runs. Default: the last training."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: plots/report.html.")] = None,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    force: Force = False,
) -> None:
    """Make the report page of a run from the store, and open it: scores, curves, test photos, provenance."""
    # Imported here because torch would slow down every other command.
    from petseg.core.files import written_atomically
    from petseg.report.latest import latest
    from petseg.report.page import report as page_of

    target = page_target("--out", out, main_root() / "plots/report.html", force)
    results: Results | None
    if run is None:
        last = latest(main_root())
        print_lines(last.why, err=True)
        results, stored = last.results, last.run
    else:
        from petseg.cli.runs import found_run

        stored = found_run(run)
        results = _results(stored, target)
    if results:
        page = page_of(results, stored)
        with written_atomically(target) as file:
            file.write(page)
    show(target, opens)


def _results(run: "StoredRun", target: Path) -> "Results | None":
    """Return a run's results.

    If the run's photos are not packed here, the page that plot stored for the run is written to ``target``,
    and None is returned.
    """
    from petseg.errors import DataError
    from petseg.pipeline.dvcfiles import stage_paths
    from petseg.report.results import Results
    from petseg.store.layout import PAGE

    try:
        return Results.of_run(run, stage_paths(main_root(), "plot")["arrays"])
    except DataError as error:  # a file that differs from its record raises another error
        stored = [figures for figures in run.figures if PAGE in figures.manifest["files"]]
        if not stored:
            raise
        print_lines(
            f"note: {error}; this is the page that was stored on {stored[-1].manifest['created']}", err=True
        )
        stored[-1].export({PAGE: target})
        return None
