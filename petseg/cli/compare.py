"""``petseg compare``."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.showing import check_picture
from petseg.core.project import main_root

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="The beginning of a run's key, an MLflow run id, or an MLflow filter such as "
            "\"params.train.loss = 'dice'\".",
        ),
    ],
    figure: Annotated[
        Path | None, typer.Option(help="Where to draw the figure; else plots/compare.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare runs: what differs, and is it more than chance.

    Runs that differ in nothing but their seed or fold are folded into one line. Differences are taken photo
    by photo from the best setting by validation; an interval that leaves zero out is marked *. Intervals are
    of the choice of photos: what another training would give, only several seeds tell.
    """
    # Not above: pandas, matplotlib, mlflow and rich would slow down every other command.
    from rich.console import Console

    from petseg.core.textfiles import to_json
    from petseg.report import figures
    from petseg.store import compare as comparing
    from petseg.tracking.queries import found_runs

    figure = figure or main_root() / "plots/compare.png"
    check_picture("--figure", figure)
    found = found_runs(main_root() / "runs", runs)
    settings = comparing.group([comparing.Record.of_run(run) for run in found])
    table = comparing.table(settings)
    if as_json:
        print(to_json({"settings": table.to_dict("records"), "figure": str(figure)}), end="")
    else:
        Console(width=None if sys.stdout.isatty() else 240).print(_comparison(table))
        if "data.image_size" in comparing.differing(settings):
            print("note: photos of different data.image_size; each Dice is at its own size")
    figure.parent.mkdir(parents=True, exist_ok=True)
    figures.comparison(table).savefig(figure, dpi=110, metadata={"Software": None})
    if not as_json:
        print(f"figure: {figure}")


def _comparison(table: "pd.DataFrame") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from petseg.core.formats import duration

    parts = [part for part in ("val", "test") if table[f"{part}_photos"].any()]
    shown = Table(box=SIMPLE_HEAD)
    shown.add_column("setting", min_width=min(32, max(len(name) for name in table["setting"])))
    shown.add_column("runs", justify="right")
    for part in parts:
        counts = sorted({int(count) for count in table[f"{part}_photos"]})
        photos = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        shown.add_column(f"{part} Dice, {photos} photos", no_wrap=True)
        shown.add_column("± seeds", justify="right")
        shown.add_column("less the best", no_wrap=True)
    shown.add_column("a run", justify="right")
    shown.add_column("weights", no_wrap=True)
    for _, row in table.iterrows():
        cells = [str(row["setting"]), str(row["runs"])]
        for part in parts:
            low, high = row[f"{part}_less_best_low"], row[f"{part}_less_best_high"]
            cells += [
                _interval(row[f"{part}_dice"], row[f"{part}_low"], row[f"{part}_high"]),
                _number(row[f"{part}_spread"], ".4f"),
                _interval(row[f"{part}_less_best"], low, high, "+.4f") + " *" * row[f"{part}_clear"],
            ]
        keys = row["keys"]
        others = f" +{len(keys) - 1}" if len(keys) > 1 else ""
        shown.add_row(*cells, duration(row["seconds"]), f"runs/{keys[0]}{others}")
    return shown


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _interval(value: float, low: float, high: float, form: str = ".4f") -> str:
    """Return ``0.8588 [0.846, 0.871]``; nothing for what is not known."""
    if math.isnan(value):
        return ""
    short = form.replace("4", "3")
    return f"{value:{form}} [{low:{short}}, {high:{short}}]".replace("[", r"\[")
