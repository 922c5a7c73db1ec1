"""What the pipeline trained last, to look at: from the store, so that it is there while a training runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petseg.core.checked import read_json
from petseg.errors import BrokenRecord, StoreError, UsageError
from petseg.evaluation.outputs import HEADLINES
from petseg.pipeline.dvcfiles import stage_paths
from petseg.report.results import Results
from petseg.store.run import StoredRun
from petseg.store.runs import readable_runs, run_of


@dataclass(frozen=True)
class Latest:
    """What was trained last.

    Attributes:
        results: to look at.
        run: of the store; None where the store does not have it.
        why: which run it is, and why this one, in one line.
    """

    results: Results
    run: StoredRun | None
    why: str


def latest(root: Path) -> Latest:
    """Return the run whose weights lie in models/, with the scores that lie in plots/test/.

    DVC removes both before it makes them anew, and they stay away after a failure; then it is the newest run
    of the store that has been scored. In a clone without that run (after ``dvc pull``) it is what DVC has.

    Raises:
        UsageError: nothing was ever scored here.
        StoreError: the run can't be looked at, or is not as recorded.
        DataError: the packed photos are others than those of the run, or are not there.
    """
    train, plot = stage_paths(root, "train"), stage_paths(root, "plot")
    key = _json(train["weights"].with_suffix(".json")).get("run_key")
    shown = _json(plot["results"] / HEADLINES)
    key = key if isinstance(key, str) and key.isalnum() else None
    run, broken = None, False
    try:
        run = run_of(root / "runs", key) if key else None
    except StoreError:  # readable_runs names it
        broken = True
    if run is not None and run.scored:
        why = f"run {run.key}, which the pipeline trained last"
        return Latest(Results.of_run(run, train["arrays"], shown), run, why)
    if key and run is None and not broken and shown:
        results = Results(train["arrays"], plot["evolution"], plot["history"], plot["results"])
        return Latest(results, None, f"run {key}, which is not in runs/: what DVC has of it")
    runs = readable_runs(root / "runs")
    scored = [run for run in runs if run.finished and not run.adopted and run.scored]
    if not scored:
        raise UsageError("nothing has been trained and scored here yet; dvc repro does both")
    run = max(scored, key=lambda run: str(run.manifest["finished"]))
    why = f"run {run.key}, the newest that was scored: models/ has no scored run at present"
    return Latest(Results.of_run(run, train["arrays"]), run, why)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, BrokenRecord):
        return {}
    return content if isinstance(content, dict) else {}
