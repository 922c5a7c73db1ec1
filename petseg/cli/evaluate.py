"""``petseg evaluate``: a picture for each view of the pipeline's results; without a view, a menu."""

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

app = typer.Typer(help="Look at a training and its predictions: one picture for each view, or a menu.")

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The picture to write: .png, .svg or .pdf. Default: plots/evaluate/VIEW.png."
    ),
]
Count = Annotated[int, typer.Option("--n", min=1, max=60, help="How many photos.")]
_PHOTOS_PER_ROW = 6
_EPOCHS_SHOWN = 12


@app.callback(invoke_without_command=True)
def evaluate(context: typer.Context) -> None:
    """Look at a training and its predictions; without a view, show a menu in the terminal."""
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
    photo: Annotated[
        str | None, typer.Option(help="One of the fixed validation photos. Default: all of them.")
    ] = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """How the masks of the fixed validation photos changed, epoch by epoch."""
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
    """The test photos with the highest Dice."""
    _examples("best", lambda results: results.best_photos(n), out, force)


@app.command()
def worst(n: Count = 12, out: Out = None, force: Force = False) -> None:
    """The test photos with the lowest Dice, the lowest first."""
    _examples("worst", lambda results: results.worst_photos(n)[::-1], out, force)


@app.command("random")
def at_random(
    n: Count = 12,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the random draw.")] = 0,
    out: Out = None,
    force: Force = False,
) -> None:
    """Test photos drawn at random."""
    _examples("random", lambda results: results.random_photos(n, seed), out, force)


@app.command()
def photo(
    name: Annotated[str, typer.Argument(help="The name of a test photo.")],
    out: Out = None,
    force: Force = False,
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
    """The distribution of Dice over the test photos."""
    target = _target("histogram", out, force)
    results = _results()
    from petseg.report import figures

    trivial = results.headlines["all_foreground"]["dice_per_image"]
    figure = figures.dice_histogram(results.table["dice"], trivial, results.title)
    _keep(figure, target, opens=out is None)


@app.command()
def thresholds(out: Out = None, force: Force = False) -> None:
    """Scores at each threshold, the probability from which a pixel counts as pet."""
    target = _target("thresholds", out, force)
    results = _results()
    from petseg.report import figures

    threshold = results.headlines["threshold"]
    figure = figures.threshold_curves(results.thresholds, threshold, results.title)
    _keep(figure, target, opens=out is None)


@app.command()
def confusion(out: Out = None, force: Force = False) -> None:
    """How many pixels are rightly and wrongly predicted as pet and as background."""
    target = _target("confusion", out, force)
    results = _results()
    from petseg.report import figures

    _keep(figures.confusion(results.counts, results.title), target, opens=out is None)


@app.command()
def calibration(out: Out = None, force: Force = False) -> None:
    """How well the network's probabilities agree with the share of pixels that are pet."""
    target = _target("calibration", out, force)
    results = _results()
    from petseg.report import figures

    _keep(figures.calibration_diagram(results.calibration, results.title), target, opens=out is None)


@app.command()
def compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of a run's key.")],
    other: Annotated[str, typer.Argument(metavar="RUN", help="The beginning of the other run's key.")],
    out: Out = None,
    force: Force = False,
) -> None:
    """Two runs: what differs, and whether it is more than chance. For more runs: petseg compare."""
    from petseg.cli.compare import compare as compare_runs

    answer = compare_runs([one, other], _target("compare", out, force), force=True)
    answer.print()


# What the menu asks before it calls each view: the option that takes the answer ("" for an argument), the
# question, and the default answer (None if an answer is needed).
_MENU: dict[str, list[tuple[str, str, str | None]]] = {
    "curves": [],
    "evolution": [("--photo", "which photo; empty for all", "")],
    "best": [("--n", "how many photos", "12")],
    "worst": [("--n", "how many photos", "12")],
    "random": [("--n", "how many photos", "12"), ("--seed", "seed of the random draw", "0")],
    "photo": [("", "name of the test photo", None)],
    "breeds": [],
    "histogram": [],
    "thresholds": [],
    "confusion": [],
    "calibration": [],
    "compare": [("", "the first run's key, or its beginning", None), ("", "the other run's", None)],
}


def _menu() -> None:
    """Ask for a view and draw it, until the user quits. If a view fails, its error is printed."""
    names = list(_MENU)
    views = [(command.name, command.callback) for command in app.registered_commands]
    descriptions = {name or view.__name__: view.__doc__ for name, view in views if view}
    while True:
        print_lines("")
        for number, name in enumerate(names, 1):
            print_lines(f"{number:>3}  {name:<12} {descriptions[name]}")
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
    from petseg.report.latest import latest  # imported here: torch and pandas are slow

    last = latest(main_root())
    print_lines(last.why, err=True)
    return last.results


def _examples(name: str, choose: "Callable[[Results], list[int]]", out: Path | None, force: bool) -> None:
    target = _target(name, out, force)
    results = _results()
    from petseg.report import mask_figures

    shown = [results.example(place) for place in choose(results)]
    starts = range(0, len(shown), _PHOTOS_PER_ROW)
    rows = {f"from {start + 1}": shown[start : start + _PHOTOS_PER_ROW] for start in starts}
    title = f"{len(shown)} of {len(results.table)} test photos, {name}: {results.title}"
    _keep(mask_figures.examples(rows, title), target, opens=out is None)


def _target(name: str, out: Path | None, force: bool) -> Path:
    return picture_target("--out", out, main_root() / "plots/evaluate" / f"{name}.png", force)


def _keep(figure: "Figure", path: Path, opens: bool) -> None:
    """Save a picture, print its path, and open it if there is a screen."""
    save_figure(figure, path)
    show(path, opens)
