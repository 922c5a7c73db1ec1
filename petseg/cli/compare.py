"""``petseg compare``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.output import Answer
from petseg.cli.runs.find import store_folder
from petseg.cli.showing import Force, picture_target, save_figure
from petseg.core.formats import duration, interval, score
from petseg.core.project import main_root
from petseg.core.terminal import cell, print_lines

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
        Path | None, typer.Option(help="The figure to write. Default: plots/compare.png.")
    ] = None,
    force: Force = False,
) -> Answer:
    """Compare runs: what differs, and whether the difference is more than chance.

    Runs that differ only in their seed or fold share one line. Each setting is compared, photo by photo, with
    the setting that has the best validation Dice; an interval that excludes zero is marked *. The intervals
    describe the choice of photos only: several seeds show how much another training would differ.
    """
    # Imported here because pandas, matplotlib and mlflow would slow down every other command.
    from petseg.report import figures
    from petseg.store import compare as comparing
    from petseg.tracking.queries import found_runs

    target = picture_target("--figure", figure, main_root() / "plots/compare.png", force)
    found = found_runs(store_folder(), runs)
    settings = comparing.group([comparing.Record.of_run(run) for run in found])
    table = comparing.table(settings)
    save_figure(figures.comparison(table), target)
    notes = [f"figure: {target}"]
    if "data.image_size" in comparing.differing(settings):
        notes.insert(0, "note: photos of different data.image_size; each Dice is at its own size")
    facts = {"settings": table.to_dict("records"), "figure": str(target)}
    return Answer(facts, lambda: _print(table, notes))


def _print(table: "pd.DataFrame", notes: list[str]) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 240, highlight=False).print(_comparison(table))
    print_lines(*notes)


def _comparison(table: "pd.DataFrame") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    parts = [part for part in ("val", "test") if table[f"{part}_photos"].any()]
    printed = Table(box=SIMPLE_HEAD)
    printed.add_column("setting", min_width=min(32, max(len(name) for name in table["setting"])))
    printed.add_column("runs", justify="right")
    for part in parts:
        counts = sorted({int(count) for count in table[f"{part}_photos"]})
        photos = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        printed.add_column(f"{part} Dice, {photos} photos", no_wrap=True)
        printed.add_column("± seeds", justify="right")
        printed.add_column("less the best", no_wrap=True)
    printed.add_column("time per run", justify="right")
    printed.add_column("weights", no_wrap=True)
    for _, row in table.iterrows():
        cells = [cell(row["setting"]), str(row["runs"])]
        for part in parts:
            low, high = row[f"{part}_less_best_low"], row[f"{part}_less_best_high"]
            cells += [
                interval(row[f"{part}_dice"], row[f"{part}_low"], row[f"{part}_high"]),
                score(row[f"{part}_spread"]),
                interval(row[f"{part}_less_best"], low, high, "+") + (" *" if row[f"{part}_clear"] else ""),
            ]
        keys = row["keys"]
        others = f" +{len(keys) - 1}" if len(keys) > 1 else ""
        printed.add_row(*cells, duration(row["seconds"]), f"runs/{keys[0]}{others}")
    return printed
