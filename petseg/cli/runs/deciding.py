"""``petseg runs prune``, ``promote``, ``champion``, ``sync``: delete runs, choose one, update MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from petseg.cli.output import Answer
from petseg.cli.runs.find import Id, found_key, found_run, store_folder
from petseg.core.formats import counted, score, size
from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.errors import StoreError, UsageError
from petseg.store.champion import Promotion, promotions
from petseg.store.champion import promote as promote_run
from petseg.store.layout import ABOUT, WEIGHTS
from petseg.store.prune import check_prunable
from petseg.store.prune import prune as prune_runs
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs


def prune(
    runs: Annotated[list[str], typer.Argument(metavar="ID...", help="The runs to delete.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also delete a run whose record is broken or was edited.")
    ] = False,
    as_json: bool = False,
) -> Answer:
    """Delete runs for ever, after asking; never the champion, nor the best run by validation Dice."""
    if as_json and not yes:
        raise UsageError("--json can't ask: it needs --yes")
    store = store_folder()
    keys = list(dict.fromkeys(found_key(text) for text in runs))
    check_prunable(store, keys)
    if not as_json:
        for key in keys:
            print_lines(_to_be_pruned(store, key))
    runs_text = counted(len(keys), "run")
    if not yes and not typer.confirm(f"Delete {runs_text} with all weights for ever?"):
        return Answer(None, ["nothing was deleted"], 1)
    prune_runs(store, keys, force)
    return Answer({"deleted": keys}, [f"deleted {runs_text}"])


def _to_be_pruned(store: Path, key: str) -> str:
    """Describe a run, which may be broken or lost."""
    try:
        run = StoredRun.open(store / key)
        edited = "  (its record was edited)" if run.edit() else ""
        return f"{key}  {run.network}  val Dice {score(run.val_dice)}  {size(run.size_bytes)}{edited}"
    except StoreError as error:
        return f"{key}  {error}"


def promote(
    run: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it even if it may be worse than today's champion.")
    ] = False,
) -> Answer:
    """Make a run the champion, in the store's log and as MLflow's alias; a worse run is refused."""
    from petseg.tracking.registry import follow

    found = found_run(run)
    if found.adopted and found.usable:
        _check_network(found)
    line = promote_run(found, force)
    version = follow(found)
    already = "was the champion already" if line is None else "is the champion"
    in_mlflow = f"; in MLflow models:/petseg@champion, version {version}" if version else ""
    facts = {"run": found.key, "was_already": line is None, "mlflow_version": version}
    return Answer(facts, [f"run {found.key} {already}{in_mlflow}"])


def _check_network(run: StoredRun) -> None:
    """Check that adopted weights fit the network that their description names.

    Raises:
        DamagedFile: the weights do not fit, or there is no such network.
    """
    from petseg.models.device import set_up_torch  # imported here: torch is slow
    from petseg.models.predictor import Predictor

    cpu = set_up_torch("cpu", threads=1)
    Predictor.load(run.folder / WEIGHTS, run.folder / ABOUT, cpu, flip_average=False)


def champion(
    log: Annotated[bool, typer.Option("--log", help="Print all promotions, the newest last.")] = False,
) -> Answer:
    """Print which run is the champion, and when and by whom it was promoted."""
    found = promotions(store_folder())
    if not found:
        raise UsageError("there is no champion yet; petseg runs promote ID makes one")
    shown = found if log else found[-1:]
    return Answer([vars(line) for line in shown], map(_promotion, shown))


def _promotion(line: Promotion) -> str:
    before = f", in place of {line.before}" if line.before else ""
    forced = " by force" if line.forced else ""
    return f"{line.when}  {line.key}  val Dice {score(line.val_dice)}{before}, by {line.by}{forced}"


def sync(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Runs to log. Default: only what is still to be logged."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Log all runs of the store, for example to fill an empty MLflow.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only warnings; exit with 1 only if MLflow does not answer.")
    ] = False,
) -> Answer:
    """Log in MLflow what is missing there. Nothing is logged twice."""
    from petseg.tracking.sync import sync as sync_runs

    store = main_root() / "runs"  # a stage calls it too, from a temporary folder of DVC's
    chosen, broken = stored_runs(store) if everything else ([found_run(run) for run in runs or []], [])
    try:
        done = sync_runs(store, chosen)
    except StoreError as error:
        if not quiet:
            raise
        print_lines(f"warning: {error}; the record is in runs/", err=True)
        raise typer.Exit(1) from None
    done.broken += broken
    for line in done.broken:
        print_lines(f"warning: {line}", err=True)
    lines = [f"logged {name}" for name in done.logged]
    lines += [f"{name}: another process is logging it" for name in done.busy]
    lines.append(f"logged in MLflow: {len(done.logged)}; already logged: {len(done.already_logged)}")
    return Answer(vars(done), [] if quiet else lines, 1 if done.broken and not quiet else 0)
