"""``petseg doctor``."""

from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.output import Answer
from petseg.cli.showing import Force, picture_target
from petseg.core.project import main_root
from petseg.core.textfiles import printable
from petseg.errors import UsageError

if TYPE_CHECKING:
    from petseg.cli.doctor.findings import Finding

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "problem": typer.colors.RED}


def doctor(
    data: Annotated[bool, typer.Option("--data", help="Check a data set instead.")] = False,
    source: Annotated[
        str | None, typer.Option(help="With --data: a folder, or a CSV of pairs. Default: data.source.")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="With --data: how masks are encoded. Default: data.masks.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="With --data: the picture of some pairs to write. Default: plots/data_sheet.png."),
    ] = None,
    force: Force = False,
) -> Answer:
    """Check that everything is present and undamaged, and say what to do if it is not.

    The exit code is 1 if there is a problem; with --data, if something is suspicious.
    """
    if data:
        from petseg.cli.doctor.data import look_at_data  # imported here: it imports much

        target = picture_target("--sheet", sheet, main_root() / "plots/data_sheet.png", force)
        return look_at_data(source, masks, target)
    for option, given in (("--source", source), ("--masks", masks), ("--sheet", sheet), ("--force", force)):
        if given not in (None, False):
            raise UsageError(f"{option}: goes with --data")
    from petseg.cli.doctor.checks import check_up

    root = main_root()
    with chdir(root):
        findings = check_up(root)
    facts = {"findings": [asdict(finding) for finding in findings]}
    broken = any(finding.state == "problem" for finding in findings)
    return Answer(facts, lambda: _print(findings), 1 if broken else 0)


def _print(findings: "list[Finding]") -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        state = typer.style(f"{finding.state:8}", _COLOURS[finding.state])
        typer.echo(f"{state} {printable(f'{finding.name:{width}}  {finding.words}')}")
