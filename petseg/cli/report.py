"""``petseg report``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.showing import Force, page_target, show
from petseg.core.project import main_root

if TYPE_CHECKING:
    from petseg.store.run import StoredRun


def report(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A run, as petseg runs names it; else what was trained last."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the page goes; else plots/report.html.")] = None,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
    force: Force = False,
) -> None:
    """Make the report page of a run from the store, and open it: scores, curves, test photos, provenance."""
    from petseg.core.files import written_atomically  # not above: torch would slow down every other command
    from petseg.report.latest import latest
    from petseg.report.page import report as page_of

    target = page_target("--out", out, main_root() / "plots/report.html", force)
    if run is None:
        last = latest(main_root())
        print(last.why, file=sys.stderr)
        page = page_of(last.results, last.run)
    else:
        from petseg.cli.runs import found_run

        page = _page_of(found_run(run))
    with written_atomically(target) as file:
        file.write(page)
    show(target, opens)


def _page_of(run: "StoredRun") -> bytes:
    """Return a run's page: made anew, or, where its photos are not packed here, as plot made it then."""
    from petseg.errors import DataError, StoreError
    from petseg.pipeline.dvcfiles import stage_paths
    from petseg.report.page import report as page_of
    from petseg.report.results import Results
    from petseg.store.layout import PAGE

    try:
        return page_of(Results.of_run(run, stage_paths(main_root(), "plot")["arrays"]), run)
    except (DataError, StoreError):
        kept = [made.folder / PAGE for made in run.figures if PAGE in made.manifest["files"]]
        if not kept:
            raise
        return kept[-1].read_bytes()
