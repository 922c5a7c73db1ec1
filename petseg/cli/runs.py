"""``petseg runs``: the store of every run ever trained."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from petseg.cli.table import lines, screen_width
from petseg.core.project import main_root
from petseg.core.textfiles import read_yaml, to_json
from petseg.errors import StoreError, UsageError
from petseg.pipeline.dvcfiles import stage_paths
from petseg.store.champion import champion as champion_of
from petseg.store.champion import promote as promote_run
from petseg.store.champion import promotions
from petseg.store.layout import ABOUT, WEIGHTS
from petseg.store.run import StoredRun, best_runs, holder_of, stored_runs

app = typer.Typer(no_args_is_help=True, help="Every run ever trained: list, show, get back, prove.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="The beginning of a run's key, an MLflow run id, or an MLflow filter."),
]
_ORDERS = ("when", "val", "test", "size")


@app.command("list")
def list_runs(
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Only runs with this param, such as train.loss=dice; or status=..."
        ),
    ] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(_ORDERS)}: the largest last.")] = "when",
    as_json: Json = False,
) -> None:
    """List every run, the newest last: what is particular about it, how good it is, what it takes."""
    if sort not in _ORDERS:
        raise UsageError(f"--sort {sort}: must be one of {', '.join(_ORDERS)}")
    wanted = [_condition(text) for text in where or []]
    runs, broken = stored_runs(main_root() / "runs")
    defaults, today = _defaults(), champion_of(main_root() / "runs")
    rows = [_row(run, defaults, today) for run in runs]
    rows = [row for row, run in zip(rows, runs, strict=True) if all(_fits(run, *one) for one in wanted)]
    rows.sort(key=lambda row: (row[sort] is not None, row[sort] or 0))  # what has none comes first
    if as_json:
        print(to_json({"runs": rows, "broken": broken}), end="")
        return
    for line in broken:
        print(f"warning: {line}", file=sys.stderr)
    if not rows:
        print("no run" + (" fits" if wanted else " yet; dvc repro trains one"))
        return
    cells = [
        (
            row["id"] + " *" * row["champion"],
            row["when"][:16].replace("T", " "),
            (row["commit"] or "")[:7] + "+" * row["changed"],
            row["network"],
            ", ".join(f"{key.partition('.')[2]}={value}" for key, value in row["params"].items()),
            f"{_number(row['val'])} {row['status'] if row['status'] != 'finished' else ''}".strip(),
            _interval(row["test"], row["test_low"], row["test_high"]),
            decimal(row["size"]),
        )
        for row in rows
    ]
    names = (
        "id",
        "when (UTC)",
        "commit",
        "network",
        "differs from params.yaml in",
        "val",
        "test Dice",
        "disk",
    )
    print(*lines(names, cells, wrapped=4, right=(5, 6, 7), width=screen_width()), sep="\n")
    if any(row["champion"] for row in rows):
        print("* the champion")
    if any(row["changed"] for row in rows):
        print("+ its code differed from that commit; the run's changes.diff says how")


@app.command()
def show(run: Id, as_json: Json = False) -> None:
    """Show a run's card: what it is, scores with intervals, where it is weak, params, and the way back."""
    from rich.console import Console
    from rich.markdown import Markdown

    from petseg.store.card import card

    found = found_run(run)
    if as_json:
        evaluation = found.evaluation
        told = {"folder": str(found.folder), "size": found.size_bytes, "manifest": found.manifest}
        print(to_json(told | {"evaluation": evaluation and evaluation.headlines}), end="")
    elif found.finished:
        Console(width=screen_width()).print(Markdown(card(found)))
    else:
        rows = found.rows()
        print(
            f"run {found.key}: {found.network}; {len(rows)} epochs, not finished: the same training goes on"
        )


@app.command()
def restore(
    run: Id,
    to: Annotated[
        Path | None,
        typer.Option(help=f"Where the weights go, and beside them their description; else models/{WEIGHTS}."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace weights that no run of the store has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Get a run's weights back, byte for byte."""
    found, to = found_run(run), to or stage_paths(main_root(), "train")["weights"]
    if to.suffix != ".safetensors":
        raise UsageError(f"--to {to}: must end in .safetensors")
    if to.exists() and not force and not holder_of(main_root() / "runs", to):
        raise UsageError(f"{to}: is what no run has; petseg runs adopt {to} keeps it, --force does not")
    about = to.with_suffix(".json")
    found.export({WEIGHTS: to} | ({ABOUT: about} if ABOUT in found.manifest.get("files", {}) else {}))
    if as_json:
        print(to_json({"run": found.key, "weights": str(to), "about": str(about)}), end="")
    else:
        print(f"run {found.key}: its weights are in {to}, their description in {about}")


@app.command()
def verify(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Which; without one, all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hash the store's files again, and DVC's and MLflow's copies; exit with 1, naming each that differs."""
    from petseg.store.verify import verify as verify_store
    from petseg.tracking.queries import weights_in_mlflow

    chosen = [found_run(run) for run in runs] if runs else None
    report = verify_store(main_root(), chosen, weights_in_mlflow)
    if as_json:
        print(to_json(vars(report)), end="")
    else:
        looked_at = ", ".join(f"{count} files in {where}" for where, count in report.files.items())
        print(
            "\n".join(
                [*report.damages, f"{report.runs} runs: {looked_at}; {len(report.damages) or 'none'} differ"]
            )
        )
    raise typer.Exit(1 if report.damages else 0)


@app.command()
def which(
    file: Annotated[Path, typer.Argument(help="Weights, wherever they lie and whatever they are called.")],
    as_json: Json = False,
) -> None:
    """Say which run made a file of weights, by the hash of its tensors; exit with 1 where none did."""
    from petseg.store.identify import Weights, runs_of

    weights = Weights.read(file)
    runs = runs_of(weights, main_root() / "runs")
    claimed = weights.about.get("run_key")
    if as_json:
        told = {
            "file": str(file),
            "tensors_sha256": weights.sha256,
            "epoch": weights.epoch,
            "claims": claimed,
        }
        print(to_json(told | {"runs": [run.key for run in runs]}), end="")
    elif not runs:
        says = f"; it says of itself that run {claimed} made it" if claimed else ""
        print(f"{file}: no run of the store has these weights{says}")
    for run in () if as_json else runs:
        part = "the weights" if weights.epoch is None else f"the checkpoint after epoch {weights.epoch}"
        print(f"{file}: {part} of run {run.key} ({run.network}); petseg runs show {run.key}")
    raise typer.Exit(0 if runs else 1)


@app.command()
def reproduce(run: Id, as_json: Json = False) -> None:
    """Train a run again from its commit, params and data, elsewhere; exit with 1 if one bit differs."""
    from petseg.store import reproduce as reproducing

    found = found_run(run)
    result = reproducing.reproduce(found, main_root())
    if as_json:
        print(to_json(vars(result) | {"identical": result.identical}), end="")
    elif result.identical:
        print(f"run {found.key}: identical, to the last bit of every tensor")
    else:
        print(f"run {found.key}: {len(result.tensors)} tensors differ; the first is {result.tensors[0]}")
    for line in () if as_json else (*result.inputs, *result.environment):
        print(f"  differs: {line}")
    raise typer.Exit(0 if result.identical else 1)


@app.command()
def prune(
    runs: Annotated[list[str], typer.Argument(metavar="ID...", help="Which.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete runs for ever, once it was asked; never the champion, and never the best by validation."""
    if as_json and not yes:
        raise UsageError("--json can't ask: it needs --yes")
    store = main_root() / "runs"
    kept = {champion_of(store): "is the champion"}
    for best in best_runs(store):
        kept.setdefault(best.key, "is the best by validation Dice")
    chosen = {run.key: run for run in map(found_run, runs)}.values()
    for run in chosen:
        if run.key in kept:
            raise UsageError(f"run {run.key} {kept[run.key]}, and is not pruned")
        if not as_json:
            print(f"{run.key}  {run.network}  val Dice {_number(run.val_dice)}  {decimal(run.size_bytes)}")
    if not yes and not typer.confirm(f"Delete {len(chosen)} runs and their weights for ever?"):
        print("nothing is deleted")
        raise typer.Exit(1)
    for run in chosen:
        run.delete()
    if as_json:
        print(to_json({"deleted": [run.key for run in chosen]}), end="")
    else:
        print(f"{len(chosen)} runs are deleted")


@app.command()
def adopt(
    file: Annotated[Path, typer.Argument(help="Weights: safetensors, or a state dict by torch.save.")],
    note: Annotated[str, typer.Option(help="What is known of them.")] = "adopted by hand",
    as_json: Json = False,
) -> None:
    """Take weights that were trained elsewhere into the store, byte for byte, with what is known of them."""
    from petseg.store.adopt import adopt as adopt_file

    kept = adopt_file(file, main_root() / "runs", note)
    if as_json:
        print(to_json({"run": kept.key, "manifest": kept.manifest}), end="")
    else:
        unreadable = kept.manifest["adopted"].get("unreadable") if kept.adopted else None
        print(f"{file}: kept as run {kept.key}" + (f"; {unreadable}" if unreadable else ""))


@app.command()
def promote(
    run: Id,
    force: Annotated[
        bool, typer.Option("--force", help="Though it is not known to be as good as today's champion.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a run the champion, in the store's log and as MLflow's alias; a worse one is refused."""
    from petseg.tracking.registry import follow

    found = found_run(run)
    line = promote_run(found, force)
    version = follow(found)
    if as_json:
        print(to_json({"run": found.key, "was_already": line is None, "mlflow_version": version}), end="")
    else:
        already = "was the champion already" if line is None else "is the champion"
        print(
            f"run {found.key} {already}"
            + (f"; in MLflow models:/petseg@champion, version {version}" if version else "")
        )


@app.command()
def export(
    run: Id,
    onnx: Annotated[Path, typer.Option(help="The file: photos of any size in, the probability of pet out.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file, if there is one.")] = False,
    as_json: Json = False,
) -> None:
    """Write a run as ONNX, preprocessing and sigmoid included, once it gives what torch gives."""
    if onnx.suffix != ".onnx":
        raise UsageError(f"--onnx {onnx}: must end in .onnx")
    if onnx.exists() and not force:
        raise UsageError(f"{onnx}: is there already; --force replaces it")
    found = found_run(run)
    from petseg.data.arrays import PetArrays
    from petseg.predict.onnx import INPUT, OUTPUT, export_onnx

    photos = stage_paths(main_root(), "train")["arrays_folder"]
    made = export_onnx(found, PetArrays.open(photos) if photos.is_dir() else None, onnx)
    if as_json:
        print(to_json(vars(made) | {"path": str(made.path), "run": found.key}), end="")
        return
    mask = f"{OUTPUT} >= {made.threshold:g} is pet" if made.threshold is not None else "infer has not run yet"
    compared = (
        f"ONNX Runtime and torch differ by {made.difference:.1e} at most, on {made.compared} photos"
        if made.compared
        else "not compared with torch, as no photos are packed here; dvc repro preprocess packs some"
    )
    print(
        f"run {found.key}: {onnx}, {decimal(made.size_bytes)}; {INPUT} in, {OUTPUT} out, {mask}; {compared}"
    )


@app.command()
def sync(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All runs of the store, as for an empty MLflow store.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings alone; exit 1 only if MLflow is not there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell MLflow what it was not told in time, or of runs that it does not know; nothing twice."""
    from petseg.tracking.sync import sync as deliver

    store = main_root() / "runs"
    chosen, broken = stored_runs(store) if everything else ([found_run(run) for run in runs or []], [])
    try:
        done = deliver(store, chosen)
        done.broken += broken
    except StoreError as error:
        if not quiet:
            raise
        print(f"warning: {error}; the record is in runs/", file=sys.stderr)
        raise typer.Exit(1) from None
    for line in done.broken:
        print(f"warning: {line}", file=sys.stderr)
    if as_json:
        print(to_json(vars(done)), end="")
    elif not quiet:
        for name in done.told:
            print(f"told of {name}")
        for name in done.busy:
            print(f"{name}: another process is at it")
        print(f"MLflow was told of {len(done.told)}, and knew {len(done.known)}")
    raise typer.Exit(1 if done.broken and not quiet else 0)


@app.command()
def champion(
    log: Annotated[bool, typer.Option("--log", help="All promotions, the newest last.")] = False,
    as_json: Json = False,
) -> None:
    """Say which run is the champion, and how it came to that."""
    lines = promotions(main_root() / "runs")
    if not lines:
        raise UsageError("there is no champion yet; petseg runs promote ID makes one")
    shown = lines if log else lines[-1:]
    if as_json:
        print(to_json([vars(line) for line in shown]), end="")
    for line in () if as_json else shown:
        before = f", in place of {line.before}" if line.before else ""
        print(
            f"{line.when}  {line.key}  val Dice {_number(line.val_dice)}{before}, by {line.by}"
            + " by force" * line.forced
        )


def found_run(text: str) -> StoredRun:
    """Find the one run that a person names.

    Raises:
        UsageError: none is called so, or several are.
    """
    from petseg.tracking.queries import found_runs

    found = found_runs(main_root() / "runs", [text])
    if len(found) != 1:
        raise UsageError(f"{text}: fits {len(found)} runs, one is wanted")
    return found[0]


def _row(run: StoredRun, defaults: dict[str, Any], champion: str | None) -> dict[str, Any]:
    told = run.evaluation.headlines if run.evaluation else {}
    git = run.manifest.get("git", {})
    return {
        "id": run.key,
        "champion": run.key == champion,
        "status": run.manifest["status"],
        "when": run.manifest["created"],
        "commit": git.get("commit"),
        "changed": git.get("dirty", False),
        "network": run.network,
        "params": {k: v for k, v in run.params.items() if k in defaults and v != defaults[k]},
        "val": run.val_dice,
        "test": told.get("dice_per_image"),
        "test_low": told.get("dice_per_image_low"),
        "test_high": told.get("dice_per_image_high"),
        "size": run.size_bytes,
    }


def _defaults() -> dict[str, Any]:
    sections = read_yaml(main_root() / "params.yaml")
    network = ("model.name", "model.width", "model.depth")  # which have a column of their own
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return {key: value for key, value in flat.items() if key not in network}


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--where {text}: must be KEY=VALUE, such as train.loss=dice")
    return key, value


def _fits(run: StoredRun, key: str, value: str) -> bool:
    found = run.manifest["status"] if key == "status" else run.params.get(key)
    if isinstance(found, float | int) and not isinstance(found, bool):
        try:
            return float(value) == found
        except ValueError:
            return False
    return str(found).lower() == value.lower() or (found is None and value == "null")


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "" if value is None else f"{value:.4f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
