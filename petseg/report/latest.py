"""Finds the last training; it is read from the store, so that it can be shown while another one runs."""

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
    """The last training.

    Attributes:
        results: its results.
        run: its run in the store; None if the store does not have it.
        why: one line that says which run it is, and why this one.
    """

    results: Results
    run: StoredRun | None
    why: str


def latest(root: Path) -> Latest:
    """Return the run whose weights are in models/, with the scores that are in plots/test/.

    DVC removes both before it makes them again, and after a failure they stay absent. Then the newest scored
    run of the store is returned. If the store does not have the run (after ``dvc pull``), the results are
    those of DVC's files.

    Raises:
        UsageError: nothing was ever scored here.
        StoreError: the run can't be shown, or differs from its record.
        DataError: the packed photos are not those of the run, or are absent.
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
        return Latest(results, None, f"run {key}, from DVC's files, because it is not in runs/")
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
