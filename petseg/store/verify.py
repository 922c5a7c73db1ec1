"""Proof of the store: each file of it, and each copy that DVC and MLflow keep, hashed against the record."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from petseg.core.files import sha256_file
from petseg.core.progress import watched
from petseg.store.layout import WEIGHTS
from petseg.store.run import StoredRun, stored_runs

STORE, DVC, MLFLOW = "the store", "DVC's cache", "MLflow"


@dataclass
class Report:
    """What was looked at, and what of it differs from the record.

    Attributes:
        runs: how many were looked at.
        files: how many files were hashed, by where they lie.
        damages: a line for each file that is gone or differs.
    """

    runs: int = 0
    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys((STORE, DVC, MLFLOW), 0))
    damages: list[str] = field(default_factory=list)


Copy = tuple[StoredRun, str, Path | None]  # whose weights, where they are, a file with their bytes


def verify(
    root: Path, chosen: Sequence[StoredRun] | None, copies: Callable[[Sequence[StoredRun]], Iterable[Copy]]
) -> Report:
    """Hash every file again.

    Args:
        root: of the main repository.
        chosen: the runs; None for all of them, and for all that DVC's cache holds.
        copies: gives the copies of these runs' weights that are kept elsewhere; no file where one is lost.
    """
    report = Report()
    runs = list(chosen or ())
    if chosen is None:
        runs, report.damages = stored_runs(root / "runs")
        _verify_dvc(root, report)
    report.runs = len(runs)
    finished = [run for run in runs if run.finished]
    for run in watched(finished, "verify runs", len(finished)):
        report.files[STORE] += run.recorded_files
        report.damages += run.damages()
    for run, uri, path in copies(finished):
        report.files[MLFLOW] += 1
        if path is None or not path.is_file():
            report.damages.append(f"{uri}: is gone; it was a copy of run {run.key}'s weights")
        elif sha256_file(path) != run.manifest["files"][WEIGHTS]:
            report.damages.append(f"{uri}: differs from run {run.key}'s weights, whose copy it is")
    return report


def _verify_dvc(root: Path, report: Report) -> None:
    """Hash the objects of DVC's cache, which are named by their own md5; DVC itself does not look again."""
    ask = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(ask, cwd=root, capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip() or root / ".dvc/cache", "files/md5")
    objects = sorted(path for path in folder.glob("??/*") if path.is_file())
    report.files[DVC] = len(objects)
    for path in watched(objects, "verify DVC's cache", len(objects)):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != path.parent.name + path.name.removesuffix(".dir"):
            report.damages.append(f"{path}: differs from the md5 that is its name")
