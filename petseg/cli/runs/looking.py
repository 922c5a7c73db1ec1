"""``petseg runs list``, ``show`` and ``which``: what there is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from petseg.cli.output import Answer
from petseg.cli.runs.find import Id, found_run, store_folder
from petseg.cli.table import lines, screen_width
from petseg.cli.targets import regular_file
from petseg.core.files import why_not
from petseg.core.formats import interval, score, size
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
            metavar="KEY=VALUE", help="Only runs with this param, such as train.loss=dice; or status=..."
        ),
    ] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(_ORDERS)}: the largest last.")] = "when",
) -> Answer:
    """List every run, the newest last: what is particular about it, how good it is, what it takes."""
    if sort not in _ORDERS:
        raise UsageError(f"--sort {sort}: must be one of {', '.join(_ORDERS)}")
    wanted = [_condition(text) for text in where or []]
    runs, broken = stored_runs(store_folder())
    defaults, today = _defaults(), champion_of(store_folder())
    fitting = [run for run in runs if all(_fits(run, *one) for one in wanted)]
    broken += [line for run in fitting for line in run.broken]
    rows = []
    for run in fitting:
        try:
            rows.append(_row(run, defaults, today))
        except (StoreError, OSError) as error:
            broken.append(why_not(error))
    rows.sort(
        key=lambda row: (row[sort] is not None, 0 if row[sort] is None else row[sort])
    )  # what has none comes first
    for line in broken:
        print_lines(f"warning: {line}", err=True)
    none = "no run fits" if wanted else "no run yet; dvc repro trains one"
    return Answer({"runs": rows, "broken": broken}, _table(rows) if rows else [none])


def show(run: Id) -> Answer:
    """Show a run's card: what it is, scores with intervals, where it is weak, params, and the way back."""
    found = found_run(run)
    evaluation = found.evaluation
    facts = {
        "folder": str(found.folder),
        "size": found.size_bytes,
        "manifest": found.manifest | {"data": found.data},
    }
    facts["evaluation"] = evaluation and evaluation.headlines
    for line in found.broken:
        warn_once(line)
    if found.finished:
        return Answer(facts, lambda: _show_card(found))
    epochs = len(found.rows())
    words = f"{found.network}; {epochs} epochs, not finished: the same training goes on"
    return Answer(facts, [f"run {found.key}: {words}"])


def which(
    file: Annotated[Path, typer.Argument(help="Weights, wherever they lie and whatever they are called.")],
) -> Answer:
    """Say which run made a file of weights, by the hash of its tensors; exit with 1 where none did."""
    file = regular_file(expanded(file))
    from petseg.store.identify import Weights, runs_of  # not above: torch would slow down every other command

    weights = Weights.read(file)
    runs = runs_of(weights, store_folder())
    claims = weights.about.get("run_key")
    part = "the weights" if weights.epoch is None else f"the checkpoint after epoch {weights.epoch}"
    said = [f"{file}: {part} of run {run.key} ({run.network}); petseg runs show {run.key}" for run in runs]
    if not runs:
        says = f"; it says of itself that run {claims} made it" if claims else ""
        said = [f"{file}: no run of the store has these weights{says}"]
    facts = {
        "file": str(file),
        "tensors_sha256": weights.sha256,
        "epoch": weights.epoch,
        "claims": claims,
        "runs": [run.key for run in runs],
    }
    return Answer(facts, said, 0 if runs else 1)


def _show_card(run: StoredRun) -> None:
    from rich.console import Console  # not above: rich would slow down every other command
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
    network = ("model.name", "model.width", "model.depth")  # which have a column of their own
    sections = sections if isinstance(sections, dict) else {}
    known = {name: section for name, section in sections.items() if isinstance(section, dict)}
    flat = {f"{name}.{key}": value for name, section in known.items() for key, value in section.items()}
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
