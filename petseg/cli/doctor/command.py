"""``petseg doctor``."""

from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from petseg.core.project import main_root
from petseg.core.textfiles import to_json
from petseg.errors import UsageError

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "problem": typer.colors.RED}


def doctor(
    data: Annotated[bool, typer.Option("--data", help="Look at a data set instead.")] = False,
    source: Annotated[
        str | None, typer.Option(help="Of --data: a folder or CSV of pairs, as data.source; else that.")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Of --data: how masks are encoded, as data.masks; else that.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Of --data: where some pairs are drawn; else plots/data_sheet.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Check that all is there and whole, and say what to do.

    The exit code is 1 if something is a problem, and with --data if something is suspicious.
    """
    if data:
        from petseg.cli.doctor.data import show_data  # not above: it imports much

        sheet = sheet or main_root() / "plots/data_sheet.png"
        raise typer.Exit(not show_data(source, masks, sheet, as_json))
    for option, given in (("--source", source), ("--masks", masks), ("--sheet", sheet)):
        if given is not None:
            raise UsageError(f"{option}: is of --data")
    from petseg.cli.doctor.checks import check_up

    root = main_root()
    with chdir(root):
        findings = check_up(root)
    if as_json:
        print(to_json({"findings": [asdict(finding) for finding in findings]}), end="")
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            state = typer.style(f"{finding.state:8}", _COLOURS[finding.state])
            typer.echo(f"{state} {finding.name:{width}}  {finding.words}")
    raise typer.Exit(any(finding.state == "problem" for finding in findings))
