"""The cost of verification: ``petseg runs verify`` of a store of 1,000 runs, and a line in its ledger.

``python -m benchmarks.store [FOLDER]`` makes a temporary folder in FOLDER. The runs are real copies of the
newest scored run of this project (``make repro`` makes one), so they need 1,000 times its space.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from petseg.core.progress import watched
from petseg.store.beginning import begin_anew
from petseg.store.chain import PROMOTED
from petseg.store.ledger import changing
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs

ROOT = Path(__file__).resolve().parent.parent
RUNS, LINES = 1000, 200


def main(work: Path) -> None:
    """Print the table."""
    scored = [run for run in stored_runs(ROOT / "runs")[0] if run.finished and run.evaluation]
    if not scored:
        sys.exit("no scored run in runs/: make repro makes one")
    fill(work, scored[-1])
    print("| what | measured | how |\n|---|---|---|")
    first_s, size_bytes, summary = verified(work)
    how = f"{summary}, {size_bytes / 1e9:.1f} GB"
    print(f"| `petseg runs verify` of {RUNS:,} runs | {first_s:.1f} s | {how} |")
    again_s, _, _ = verified(work)
    print(f"| again | {again_s:.1f} s | files that fit in memory are read from there |")
    times_ms = sorted(line_ms(work / "runs") for _ in range(LINES))
    median_ms, worst_ms = statistics.median(times_ms), times_ms[int(0.99 * LINES)]
    print(
        f"| a new line in a ledger of {RUNS * 3:,} lines, with lock and disk | {median_ms:.1f} ms "
        f"| median of {LINES}; 99 % are below {worst_ms:.1f} ms |"
    )


def fill(work: Path, run: StoredRun) -> None:
    """Make a store of copies of a run, with a ledger that has them."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, work)
    (work / ".dvc").mkdir()
    for number in watched(range(RUNS), "copy runs", RUNS):
        shutil.copytree(run.folder, work / "runs" / f"{number:016x}")
    begin_anew(work / "runs")  # a ledger with a line for each record


def verified(work: Path) -> tuple[float, int, str]:
    """Time the command; return the seconds, the bytes of the store and the last line of the output."""
    command = [sys.executable, "-m", "petseg", "runs", "verify"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=True)
    took_s = time.perf_counter() - started
    size_bytes = sum(path.stat().st_size for path in (work / "runs").rglob("*") if path.is_file())
    return took_s, size_bytes, done.stdout.splitlines()[-1]


def line_ms(store: Path) -> float:
    """Time a change that only writes a line of the ledger."""
    started = time.perf_counter()
    with changing(store) as changes:
        changes.append(PROMOTED, run=f"{0:016x}", val_dice=0.5, replaced=None, forced=True)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        main(Path(folder))
