"""``petseg runs list``, ``show`` and ``which``: the commands that only read the store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from petseg.cli.output import Answer
from petseg.cli.runs.find import Id, found_run, store_folder
from petseg.cli.table import lines, screen_width
from petseg.cli.targets import regular_file
from petseg.core.files import why_not
from petseg.core.formats import counted, interval, score, size
from petseg.core.project import expanded, main_root
from petseg.core.terminal import print_lines, warn_once
from petseg.core.textfiles import read_yaml
from petseg.errors import StoreError, UsageError
from petseg.store.champion import champion as champion_of
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs

_ORDERS = ("when", "val", "test", "size")
_COLUMNS = (
    "id",
    "when (UTC)",
    "commit",
    "network",
    "differs from params.yaml in",
    "val",
    "test Dice",
    "disk",
)


def list_runs(
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="List only runs with this param, such as train.loss=dice; or status=...",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help=f"The order: {', '.join(_ORDERS)}. The largest comes last.")
    ] = "when",
) -> Answer:
    """List every run, the newest last: the params that differ from params.yaml, the scores, the size."""
    if sort not in _ORDERS:
        raise UsageError(f"--sort {sort}: must be one of {', '.join(_ORDERS)}")
    conditions = [_condition(text) for text in where or []]
    runs, broken = stored_runs(store_folder())
    defaults, champion = _defaults(), champion_of(store_folder())
    matching = [run for run in runs if all(_matches(run, *condition) for condition in conditions)]
    broken += [line for run in matching for line in run.broken]
    rows = []
    for run in matching:
        try:
            rows.append(_row(run, defaults, champion))
        except (StoreError, OSError) as error:
            broken.append(why_not(error))
    rows.sort(
        key=lambda row: (row[sort] is not None, 0 if row[sort] is None else row[sort])
    )  # a run without a value comes first
    for line in broken:
        print_lines(f"warning: {line}", err=True)
    empty = "no run matches" if conditions else "no run yet; dvc repro trains one"
    return Answer({"runs": rows, "broken": broken}, _table(rows) if rows else [empty])


def show(run: Id) -> Answer:
    """Show a run's card: scores with intervals, where it is weak, params, and how to get it back."""
    found = found_run(run)
    evaluation = found.evaluation
    manifest = found.manifest | ({"data": found.data} if "data" in found.manifest else {})
    facts = {"folder": str(found.folder), "size": found.size_bytes, "manifest": manifest}
    facts["evaluation"] = evaluation and evaluation.headlines
    for line in found.broken:
        warn_once(line)
    if found.finished:
        return Answer(facts, lambda: _show_card(found))
    state = f"{counted(len(found.rows()), 'epoch')}, not finished; start the same training again to go on"
    return Answer(facts, [f"run {found.key}: {found.network}; {state}"])


def which(
    file: Annotated[Path, typer.Argument(help="A file of weights, in any place and with any name.")],
) -> Answer:
    """Find the run that made a file of weights, by the hash of its tensors; exit with 1 if there is none."""
    file = regular_file(expanded(file))
    from petseg.store.identify import Weights, runs_of  # imported here: torch is slow

    weights = Weights.read(file)
    runs = runs_of(weights, store_folder())
    claims = weights.about.get("run_key")
    part = "the weights" if weights.epoch is None else f"the checkpoint after epoch {weights.epoch}"
    found = [f"{file}: {part} of run {run.key} ({run.network}); petseg runs show {run.key}" for run in runs]
    if not runs:
        claim = f"; according to its header, run {claims} made it" if claims else ""
        found = [f"{file}: no run of the store has these weights{claim}"]
    facts = {
        "file": str(file),
        "tensors_sha256": weights.sha256,
        "epoch": weights.epoch,
        "claims": claims,
        "runs": [run.key for run in runs],
    }
    return Answer(facts, found, 0 if runs else 1)


def _show_card(run: StoredRun) -> None:
    from rich.console import Console  # imported here: rich is slow
    from rich.markdown import Markdown

    from petseg.store.card import card

    Console(width=screen_width()).print(Markdown(card(run)))


def _row(run: StoredRun, defaults: dict[str, Any], champion: str | None) -> dict[str, Any]:
    scores = run.evaluation.headlines if run.evaluation else {}
    git = run.manifest.get("git", {})
    return {
        "id": run.key,
        "champion": run.key == champion,
        "status": "edited" if run.edit() else run.manifest["status"],
        "when": str(run.manifest["created"]),
        "commit": git.get("commit"),
        "changed": git.get("dirty", False),
        "network": run.network,
        "params": {k: v for k, v in run.params.items() if k in defaults and v != defaults[k]},
        "val": run.val_dice,
        "test": scores.get("dice_per_image"),
        "test_low": scores.get("dice_per_image_low"),
        "test_high": scores.get("dice_per_image_high"),
        "size": run.size_bytes,
    }


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    cells = [list(_cells(row)) for row in rows]
    yield from lines(_COLUMNS, cells, wrapped=4, right=(5, 6, 7), width=screen_width())
    if any(row["champion"] for row in rows):
        yield "* the champion"
    if any(row["changed"] for row in rows):
        yield "+ its code differed from that commit; the run's changes.diff says how"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['id']} *" if row["champion"] else row["id"]
    yield row["when"][:16].replace("T", " ")
    commit = (row["commit"] or "")[:7]
    yield f"{commit}+" if row["changed"] else commit
    yield row["network"]
    yield ", ".join(f"{key.partition('.')[2]}={value}" for key, value in row["params"].items())
    status = "" if row["status"] == "finished" else row["status"]
    yield f"{score(row['val'])} {status}".strip()
    yield interval(row["test"], row["test_low"], row["test_high"])
    yield size(row["size"])


def _defaults() -> dict[str, Any]:
    sections = read_yaml(main_root() / "params.yaml")
    network = ("model.name", "model.width", "model.depth")  # they have their own column
    sections = sections if isinstance(sections, dict) else {}
    known = {name: section for name, section in sections.items() if isinstance(section, dict)}
    flat = {f"{name}.{key}": value for name, section in known.items() for key, value in section.items()}
    return {key: value for key, value in flat.items() if key not in network}


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--where {text}: must be KEY=VALUE, such as train.loss=dice")
    return key, value


def _matches(run: StoredRun, key: str, value: str) -> bool:
    found = run.manifest["status"] if key == "status" else run.params.get(key)
    if isinstance(found, float | int) and not isinstance(found, bool):
        try:
            return float(value) == found
        except ValueError:
            return False
    return str(found).lower() == value.lower() or (found is None and value == "null")
