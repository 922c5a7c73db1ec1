"""``petseg runs prune``, ``promote``, ``champion``, ``sync``: what stays, what is in use, what MLflow has."""

from pathlib import Path
from typing import Annotated

import typer

from petseg.cli.output import Answer
from petseg.cli.runs.find import Id, found_key, found_run, store_folder
from petseg.core.formats import score, size
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
    runs: Annotated[list[str], typer.Argument(metavar="ID...", help="Which.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also one whose record is broken or was edited.")
    ] = False,
    as_json: bool = False,
) -> Answer:
    """Delete runs for ever, once it was asked; never the champion, and never the best by validation."""
    if as_json and not yes:
        raise UsageError("--json can't ask: it needs --yes")
    store = store_folder()
    keys = list(dict.fromkeys(found_key(text) for text in runs))
    check_prunable(store, keys)
    if not as_json:
        for key in keys:
            print_lines(_to_be_pruned(store, key))
    if not yes and not typer.confirm(f"Delete {len(keys)} runs and their weights for ever?"):
        return Answer(None, ["nothing is deleted"], 1)
    prune_runs(store, keys, force)
    return Answer({"deleted": keys}, [f"{len(keys)} runs are deleted"])


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
        bool, typer.Option("--force", help="Though it is not known to be as good as today's champion.")
    ] = False,
) -> Answer:
    """Make a run the champion, in the store's log and as MLflow's alias; a worse one is refused."""
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
        DamagedFile: they don't, or there is no such network.
    """
    from petseg.models.device import set_up_torch  # not above: torch would slow down every other command
    from petseg.models.predictor import Predictor

    cpu = set_up_torch("cpu", threads=1)
    Predictor.load(run.folder / WEIGHTS, run.folder / ABOUT, cpu, flip_average=False)


def champion(
    log: Annotated[bool, typer.Option("--log", help="All promotions, the newest last.")] = False,
) -> Answer:
    """Say which run is the champion, and how it came to that."""
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
    runs: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All runs of the store, as for an empty MLflow store.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings alone; exit 1 only if MLflow is not there.")
    ] = False,
) -> Answer:
    """Log in MLflow what is missing there. Nothing is logged twice."""
    from petseg.tracking.sync import sync as deliver

    store = store_folder()
    chosen, broken = stored_runs(store) if everything else ([found_run(run) for run in runs or []], [])
    try:
        done = deliver(store, chosen)
    except StoreError as error:
        if not quiet:
            raise
        print_lines(f"warning: {error}; the record is in runs/", err=True)
        raise typer.Exit(1) from None
    done.broken += broken
    for line in done.broken:
        print_lines(f"warning: {line}", err=True)
    said = [f"told of {name}" for name in done.told]
    said += [f"{name}: another process is at it" for name in done.busy]
    said.append(f"MLflow was told of {len(done.told)}, and knew {len(done.known)}")
    return Answer(vars(done), [] if quiet else said, 1 if done.broken and not quiet else 0)
