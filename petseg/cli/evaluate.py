"""``petseg evaluate``: one picture at a time of what the pipeline found; without a view, a menu of them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.showing import Force, picture_target, save_figure, show
from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.errors import PetsegError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from petseg.report.results import Results

app = typer.Typer(help="See what was learnt and predicted; a menu of pictures.")

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Where the picture goes: .png, .svg or .pdf; else plots/evaluate/VIEW.png."
    ),
]
Count = Annotated[int, typer.Option("--n", min=1, max=60, help="How many photos.")]
_A_ROW = 6  # photos
_EPOCHS_SHOWN = 12  # of one photo


@app.callback(invoke_without_command=True)
def evaluate(context: typer.Context) -> None:
    """See what was learnt and predicted, a picture a view; without a view, in a terminal, a menu of them."""
    if context.invoked_subcommand is not None:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"no terminal for the menu; name a view: petseg evaluate {'|'.join(_MENU)}")
    _menu()


@app.command()
def curves(out: Out = None, force: Force = False) -> None:
    """Loss and Dice by epoch."""
    target = _target("curves", out, force)
    results = _results()
    from petseg.report import figures

    _keep(figures.curves(results.history), target, opens=out is None)


@app.command()
def evolution(
    photo: Annotated[str | None, typer.Option(help="One of the fixed validation photos; else all.")] = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """How the masks of the fixed validation photos came about, epoch by epoch."""
    target = _target("evolution", out, force)
    results = _results()
    from petseg.report import mask_figures

    shown = results.evolution
    last = len(shown.epochs) - 1
    steps = min(last, _EPOCHS_SHOWN - 1) or 1
    shown = shown.at([shown.epochs[round(step * last / steps)] for step in range(steps)])
    if photo:
        if photo not in shown.names:
            raise UsageError(f"{photo}: is not shown over the epochs; these are: {', '.join(shown.names)}")
        shown = shown.of(photo)
    title = f"validation photos: {results.title}"
    figure = mask_figures.evolution(shown.images, shown.truths, shown.masks, shown.epochs, shown.dices, title)
    _keep(figure, target, opens=out is None)


@app.command()
def best(n: Count = 12, out: Out = None, force: Force = False) -> None:
    """The test photos of the highest Dice."""
    _examples("best", lambda results: results.best_photos(n), out, force)


@app.command()
def worst(n: Count = 12, out: Out = None, force: Force = False) -> None:
    """The test photos of the lowest Dice, the lowest first."""
    _examples("worst", lambda results: results.worst_photos(n)[::-1], out, force)


@app.command("random")
def at_random(
    n: Count = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    out: Out = None,
    force: Force = False,
) -> None:
    """Test photos, drawn from all of them."""
    _examples("random", lambda results: results.random_photos(n, seed), out, force)


@app.command()
def photo(
    name: Annotated[str, typer.Argument(help="Of a test photo.")], out: Out = None, force: Force = False
) -> None:
    """One test photo: truth, prediction, and where they differ."""
    target = _target("photo", out, force)
    results = _results()
    from petseg.report import mask_figures

    figure = mask_figures.one_photo(results.example(results.photo(name)), results.title)
    _keep(figure, target, opens=out is None)


@app.command()
def breeds(out: Out = None, force: Force = False) -> None:
    """Dice of the test photos by breed."""
    target = _target("breeds", out, force)
    results = _results()
    from petseg.report import figures

    _keep(figures.dice_by_breed(results.table, results.title), target, opens=out is None)


@app.command()
def histogram(out: Out = None, force: Force = False) -> None:
    """How the Dice of the test photos is spread."""
    target = _target("histogram", out, force)
    results = _results()
    from petseg.report import figures

    trivial = results.headlines["all_foreground"]["dice_per_image"]
    figure = figures.dice_histogram(results.table["dice"], trivial, results.title)
    _keep(figure, target, opens=out is None)


@app.command()
def thresholds(out: Out = None, force: Force = False) -> None:
    """Scores by the probability from which a pixel is called pet; validation chose one."""
    target = _target("thresholds", out, force)
    results = _results()
    from petseg.report import figures

    threshold = results.headlines["threshold"]
    figure = figures.threshold_curves(results.thresholds, threshold, results.title)
    _keep(figure, target, opens=out is None)


@app.command()
def confusion(out: Out = None, force: Force = False) -> None:
    """How many pixels are rightly and wrongly called pet and background."""
    target = _target("confusion", out, force)
    results = _results()
    from petseg.report import figures

    _keep(figures.confusion(results.counts, results.title), target, opens=out is None)


@app.command()
def calibration(out: Out = None, force: Force = False) -> None:
    """How often the network's probabilities come true."""
    target = _target("calibration", out, force)
    results = _results()
    from petseg.report import figures

    _keep(figures.calibration_diagram(results.calibration, results.title), target, opens=out is None)


@app.command()
def compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of a run's key.")],
    other: Annotated[str, typer.Argument(metavar="RUN", help="Another.")],
    out: Out = None,
    force: Force = False,
) -> None:
    """Two runs: what differs, scores, and is the difference more than chance. For more: petseg compare."""
    from petseg.cli.compare import compare as compare_runs

    answer = compare_runs([one, other], _target("compare", out, force), force=True)
    answer.print()


# What the menu asks for before it calls a view: options, or arguments where there is no option; questions,
# and what is taken for no answer.
_MENU: dict[str, list[tuple[str, str, str | None]]] = {
    "curves": [],
    "evolution": [("--photo", "which photo; empty for all", "")],
    "best": [("--n", "how many", "12")],
    "worst": [("--n", "how many", "12")],
    "random": [("--n", "how many", "12"), ("--seed", "seed of the draw", "0")],
    "photo": [("", "name of the test photo", None)],
    "breeds": [],
    "histogram": [],
    "thresholds": [],
    "confusion": [],
    "calibration": [],
    "compare": [("", "one run's key, or its beginning", None), ("", "another's", None)],
}


def _menu() -> None:
    """Ask for views until there is enough; a view that fails says why, and the menu goes on."""
    names = list(_MENU)
    views = [(command.name, command.callback) for command in app.registered_commands]
    said = {name or view.__name__: view.__doc__ for name, view in views if view}
    while True:
        print_lines("")
        for number, name in enumerate(names, 1):
            print_lines(f"{number:>3}  {name:<12} {said[name]}")
        print_lines("  q  quit")
        try:
            answer = typer.prompt("which").strip()
            if answer in ("q", "quit", "0"):
                return
            name = names[int(answer) - 1] if answer.isdigit() and 0 < int(answer) <= len(names) else answer
            if name not in _MENU:
                print_lines(f"{answer}: must be a number from 1 to {len(names)}, a name, or q")
                continue
            arguments = [name]
            for option, question, default in _MENU[name]:
                value = typer.prompt(question, default)
                arguments += [option, value] if option and value else [value] if value else []
        except typer.Abort:  # the end of the input, or Ctrl-C
            print_lines("")
            return
        try:
            app(arguments, standalone_mode=False)
        except PetsegError as error:
            print_lines(*error.lines)
        except (OSError, typer.BadParameter) as error:
            print_lines(getattr(error, "message", error))


def _results() -> "Results":
    from petseg.report.latest import latest  # not above: torch and pandas would slow down every other command

    last = latest(main_root())
    print_lines(last.why, err=True)
    return last.results


def _examples(name: str, choose: "Callable[[Results], list[int]]", out: Path | None, force: bool) -> None:
    target = _target(name, out, force)
    results = _results()
    from petseg.report import mask_figures

    shown = [results.example(place) for place in choose(results)]
    rows = {f"from {n + 1}": shown[n : n + _A_ROW] for n in range(0, len(shown), _A_ROW)}
    title = f"{len(shown)} of {len(results.table)} test photos, {name}: {results.title}"
    _keep(mask_figures.examples(rows, title), target, opens=out is None)


def _target(name: str, out: Path | None, force: bool) -> Path:
    return picture_target("--out", out, main_root() / "plots/evaluate" / f"{name}.png", force)


def _keep(figure: "Figure", path: Path, opens: bool) -> None:
    """Save a picture, say where, and show it where a person sits before a screen."""
    save_figure(figure, path)
    show(path, opens)
