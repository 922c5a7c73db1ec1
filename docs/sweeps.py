"""The experiments behind the defaults: queue them, keep their results, write docs/results.md.

``python -m docs.sweeps queue [NAME...]``   queue the runs of all sweeps, or of some, in DVC
``python -m docs.sweeps finals [SEED...]``  queue the finals: the whole pipeline, at full size
``python -m docs.sweeps keep``              add the finished runs of runs/ to docs/results/runs.jsonl
``python -m docs.sweeps report``            write docs/results.md and its figures from that file

A run of a sweep that is in runs.jsonl is not queued again; to repeat it, remove its line. A run that the
store already has from the same code costs nothing, so runs that were interrupted can be queued again.
"""

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petseg.cli.stages import params_of_recipe
from petseg.core.textfiles import read_yaml, without_nan
from petseg.errors import PetsegError, StoreError
from petseg.params import flatten, load_params
from petseg.report import figures
from petseg.store import compare as comparing
from petseg.store.compare import Record, Setting
from petseg.store.runs import stored_runs

ROOT = Path(__file__).resolve().parent.parent
RECORDS, PAGE, FIGURES = ROOT / "docs/results/runs.jsonl", ROOT / "docs/results.md", ROOT / "docs/results"
PEER = ROOT / "docs/results/peer.json"
PEER_AS_IN_ITS_EXAMPLE = 'peer: smp `Unet("resnet34")`, as in its example'
PEER_AS_WE_INFER = "the same, with our threshold and flip"
GOAL = 0.85  # the report shows the time until this validation Dice
DIGITS = 4  # decimals of each Dice and each duration in the records


@dataclass(frozen=True)
class Sweep:
    """Runs that answer one question.

    Attributes:
        name: name of the sweep and of its figure.
        question: the heading in the report.
        answer: the conclusion in words; empty until somebody has written one.
        runs: the params of each run, flat.
        own: the params that the own line of each run sets.
    """

    name: str
    question: str
    answer: str
    runs: list[dict[str, Any]]
    own: list[dict[str, Any]]

    def label(self, setting: Setting) -> str:
        """Return the params of a setting's line, such as ``batch_size=8, learning_rate=0.025``."""
        own = next(own for run, own in zip(self.runs, self.own, strict=True) if fits(setting.runs[0], run))
        set_here = (f"{key.partition('.')[2]}={value}" for key, value in own.items() if key != "train.seed")
        return ", ".join(set_here) or "the base"


def main() -> None:
    """Run the subcommand that the command line names."""
    match sys.argv[1:]:
        case ["queue", *names]:
            queue(names)
        case ["finals", *seeds]:
            queue_finals([int(seed) for seed in seeds])
        case ["keep"]:
            keep()
        case ["report"]:
            report()
        case _:
            sys.exit(__doc__)


def read_sweeps() -> list[Sweep]:
    """Read docs/sweeps.yaml."""
    content = read_yaml(ROOT / "docs/sweeps.yaml")
    sweeps = []
    for name, sweep in content["sweeps"].items():
        pinned = content["base"] | sweep.get("common", {})
        folds = sweep.get("folds", [pinned["split.fold"]])
        own = [run for run in sweep["runs"] for _ in folds]
        runs = [pinned | run | {"split.fold": fold} for run in sweep["runs"] for fold in folds]
        sweeps.append(Sweep(name, sweep["question"], sweep.get("answer", ""), runs, own))
    return sweeps


def overrides(run: dict[str, Any]) -> list[str]:
    """Return the params in which a run differs from params.yaml, as options of ``dvc exp run``."""
    present = flatten(load_params(ROOT / "params.yaml"))
    changed = {key: value for key, value in run.items() if present[key] != value}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changed.items()}
    return [part for key, text in texts.items() for part in ("-S", f"{key}={text}")]


def queue(names: list[str]) -> None:
    """Queue each run of the sweeps once, except runs that have a record."""
    sweeps = read_sweeps()
    if unknown := set(names) - {sweep.name for sweep in sweeps}:
        sys.exit(f"no such sweep: {', '.join(sorted(unknown))}; known: {', '.join(s.name for s in sweeps)}")
    wanted = [run for sweep in sweeps if not names or sweep.name in names for run in sweep.runs]
    missing = without_record(wanted, read_records())
    print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are in {RECORDS.name} already")
    hand_over(missing, ["train"])
    print("start them, two at once, with: OMP_NUM_THREADS=1 dvc queue start -j 2")


def queue_finals(seeds: list[int]) -> None:
    """Queue the finals with the given seeds, or with all seeds of docs/sweeps.yaml."""
    content = read_yaml(ROOT / "docs/sweeps.yaml")["finals"]
    runs = read_finals().values()
    hand_over([run | {"train.seed": seed} for seed in seeds or content["seeds"] for run in runs], [])
    print("start them, one at a time, with: OMP_NUM_THREADS=2 dvc queue start")


def hand_over(runs: list[dict[str, Any]], stages: list[str]) -> None:
    """Queue each run once in DVC, and print each command."""
    commands = dict.fromkeys(
        ("dvc", "exp", "run", "--quiet", "--queue", *overrides(run), *stages) for run in runs
    )
    for command in commands:
        print(shlex.join(command), flush=True)
        subprocess.run(command, cwd=ROOT, check=True)
    print(f"{len(commands)} runs are queued")


def read_finals() -> dict[str, dict[str, Any]]:
    """Return the params of each final by its name, flat and without the seed."""
    content = read_yaml(ROOT / "docs/sweeps.yaml")
    pinned = content["base"] | content["finals"]["common"]
    del pinned["train.seed"]
    finals = content["finals"]["runs"]
    recipes = {name: run for name, run in finals.items() if isinstance(run, str)}
    finals |= {name: params_of_recipe(run, ROOT) for name, run in recipes.items()}
    return {name: pinned | run for name, run in finals.items()}


def keep() -> None:
    """Add the store's finished runs that belong to a sweep or a final; earlier records stay."""
    kept = {record.key: record for record in read_records()}
    wanted = [run for sweep in read_sweeps() for run in sweep.runs] + list(read_finals().values())
    runs, broken = stored_runs(ROOT / "runs")
    for run in runs:
        if run.key in kept and "test" in kept[run.key].dice:
            continue
        try:
            record = Record.of_run(run)
            if any(fits(record, run_params) for run_params in wanted):
                kept[run.key] = record
        except StoreError as error:
            if run.key not in kept:
                broken.append(str(error))
    for reason in broken:
        print(f"left out: {reason}", file=sys.stderr)
    write_records(list(kept.values()))
    print(f"{len(kept)} runs: {RECORDS.relative_to(ROOT)}")


def write_records(records: list[Record]) -> None:
    """Write one line for each run."""
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    rows = [rounded(without_nan(asdict(record))) for record in records]
    for row in rows:
        row["environment"].pop("platform", None)  # readers do not need it
    lines = [json.dumps(row) for row in rows]
    RECORDS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_records() -> list[Record]:
    """Read the records in docs/results/runs.jsonl."""
    if not RECORDS.exists():
        return []
    rows = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["dice"] = {
            part: {name: math.nan if dice is None else dice for name, dice in photos.items()}
            for part, photos in row["dice"].items()
        }
    return [Record(**row) for row in rows]


def rounded(value: Any) -> Any:
    """Round each float in nested lists and dicts, except the params."""
    if isinstance(value, dict):
        return {key: part if key == "params" else rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def report() -> None:
    """Write the page and its figures from the records."""
    records = read_records()
    lines = [*introduction(records), *finals(records)]
    for sweep in read_sweeps():
        lines += section(sweep, records)
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


def finals(records: list[Record]) -> Iterator[str]:
    """Yield the lines of the final results: scores and minutes, also of the peer."""
    peers = read_peer()
    fair = peers.get(PEER_AS_WE_INFER)
    yield "## Final results"
    yield ""
    yield (
        "| network | processor | runs | minutes | until val Dice 0.85 | val Dice | test Dice (95 % interval) "
        "| seeds ± | test, minus the peer with our threshold and flip |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    curves = {}
    for name, run in read_finals().items():
        found = comparing.group([record for record in records if fits(record, run)])
        if len(found) > 1:
            raise StoreError(
                f"{RECORDS.name}: several settings are {name!r}; pin the params that differ in base"
            )
        for setting in found:
            curves[name] = clock(setting.runs[0])
            yield f"| {name} | {' | '.join(final_cells(setting, fair))} |"
    for name, setting in peers.items():
        curves["peer"] = clock(setting.runs[0])
        yield f"| {name} | {' | '.join(final_cells(setting, None))} |"
    yield ""
    figures.race(curves, GOAL).savefig(FIGURES / "race.png", dpi=100, metadata={"Software": None})
    yield "![Dice against time](results/race.png)"
    yield ""
    yield (
        "Minutes are those of the fastest run of a line, with validation, on two cores: other work on the "
        "machine only makes a run slower. AVX2 and AVX512 are different machines: compare only minutes "
        "of one."
    )
    yield ""
    yield read_yaml(ROOT / "docs/sweeps.yaml")["finals"]["answer"].strip()
    yield ""


def final_cells(setting: Setting, peer: Setting | None) -> Iterator[str]:
    """Yield the cells of a line of the final results, after its name."""
    low, high = setting.interval("test")
    reached = [to_goal(run) for run in setting.runs]
    yield ", ".join(sorted({run.environment.get("cpu_capability", "not recorded") for run in setting.runs}))
    yield str(len(setting.runs))
    yield f"{min(run.seconds for run in setting.runs) / 60:.1f}"
    yield "never" if None in reached else f"{min(s for s in reached if s) / 60:.1f} min"
    yield f"{setting.mean('val'):.4f}"
    yield f"**{setting.mean('test'):.4f}** ({low:.4f} to {high:.4f})"
    yield "" if math.isnan(setting.spread("test")) else f"{setting.spread('test'):.4f}"
    gain = comparing.difference(setting, peer, "test") if peer else None
    yield f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" if gain else ""


def clock(run: Record) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the seconds at the end of each epoch, and the validation Dice there."""
    return np.cumsum(run.elapsed_s), np.array(run.val_dice, dtype=np.float64)


def to_goal(run: Record) -> float | None:
    """Return the seconds until the goal was first reached; None if it never was."""
    seconds, dice = clock(run)
    return next((float(s) for s, d in zip(seconds, dice, strict=True) if d >= GOAL), None)


def read_peer() -> dict[str, Setting]:
    """Read the results of benchmarks.peer as two settings: scored as in its example, and as we infer."""
    if not PEER.exists():
        return {}
    peer = json.loads(PEER.read_text(encoding="utf-8"))
    rows, photos, environment = peer["history"], peer["photos_sha256"], peer.get("environment", {})
    dice, seconds = [row["val_dice"] for row in rows], [row["elapsed_s"] for row in rows]
    return {
        name: Setting((Record("peer", "", {}, "", photos, dice, seconds, peer[scored], environment),))
        for name, scored in ((PEER_AS_IN_ITS_EXAMPLE, "dice"), (PEER_AS_WE_INFER, "dice_as_we_infer"))
    }


def introduction(records: list[Record]) -> Iterator[str]:
    """Yield the first lines of the page."""
    machines = sorted({f"torch {r.environment['torch']}, {r.environment['cpu_capability']}" for r in records})
    yield "# Results of the experiments"
    yield ""
    yield (
        f"{len(records)} trainings on the embedded photos ({'; '.join(machines)}). "
        "`python -m docs.sweeps report` writes this page from [results/runs.jsonl](results/runs.jsonl), "
        "which `keep` fills from the store. [sweeps.yaml](sweeps.yaml) lists the runs."
    )
    yield ""
    yield (
        "Dice is the mean over validation photos, at probability 0.5, with its 95 % bootstrap interval. "
        "*Minus the best* is the paired difference, photo by photo, from the first line of a table; \\* "
        "marks an interval without zero. The intervals cover the choice of photos. Only several seeds show "
        "the chance in training itself (*seeds ±*: the standard deviation of their means), so a small "
        "difference between two single runs proves little. The epoch of each run was chosen on the same "
        "photos. No test photo was used for any choice."
    )
    yield ""


def section(sweep: Sweep, records: list[Record]) -> Iterator[str]:
    """Yield a sweep's question, table, figure and answer."""
    found = [record for record in records if any(fits(record, run) for run in sweep.runs)]
    settings = comparing.group(found)
    yield f"## {sweep.question}"
    yield ""
    if len(settings) < 2:
        yield "Not run yet."
        yield ""
        return
    table = comparing.table(settings)
    labels = {run.key: sweep.label(setting) for setting in settings for run in setting.runs}
    table["setting"] = [labels[keys[0]] for keys in table["keys"]]
    figures.comparison(table).savefig(FIGURES / f"{sweep.name}.png", dpi=80, metadata={"Software": None})
    yield f"`python -m docs.sweeps queue {sweep.name}`"
    yield ""
    if missing := without_record(sweep.runs, records):
        yield f"{len(missing)} of {len(sweep.runs)} runs are not there yet."
        yield ""
    yield "| setting | runs | seeds ± | photos | Dice | minus the best |"
    yield "|---|---|---|---|---|---|"
    for _, row in table.iterrows():
        low, high = row["val_less_best_low"], row["val_less_best_high"]
        star = " \\*" * row["val_clear"]
        below = "" if math.isnan(low) else f"{row['val_less_best']:+.4f} ({low:+.4f} to {high:+.4f}){star}"
        dice = f"{row['val_dice']:.4f} ({row['val_low']:.4f} to {row['val_high']:.4f})"
        spread = "" if math.isnan(row["val_spread"]) else f"{row['val_spread']:.4f}"
        counts = f"{row['runs']} | {spread} | {row['val_photos']}"
        yield f"| {row['setting']} | {counts} | {dice} | {below} |"
    yield ""
    yield f"![{sweep.question}](results/{sweep.name}.png)"
    yield ""
    yield sweep.answer.strip()
    yield ""


def without_record(runs: list[dict[str, Any]], records: list[Record]) -> list[dict[str, Any]]:
    """Return the runs that have no record."""
    return [run for run in runs if not any(fits(record, run) for record in records)]


def fits(record: Record, run: dict[str, Any]) -> bool:
    """Return whether a record belongs to this run; params that its network does not have are ignored."""
    return all(record.params[key] == value for key, value in run.items() if key in record.params)


if __name__ == "__main__":
    try:
        main()
    except PetsegError as error:
        sys.exit(f"petseg: {error}")
