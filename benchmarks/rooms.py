"""The time that stages and the command take to start, in an earlier checkout and in this one, in turn.

``python -m benchmarks.rooms BEFORE``: BEFORE is a clone of an earlier commit. This Python runs both.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROUNDS = 6
HERE = Path(__file__).parent.parent
COMMANDS = {
    "`petseg --help`": ["-m", "petseg", "--help"],
    "`petseg runs list`": ["-m", "petseg", "runs", "list"],
    "start of train": ["-c", "import stages.train; from petseg.tracking.client import connect"],
    **{
        f"start of {stage}": ["-c", f"import stages.{stage}"]
        for stage in ("infer", "plot", "download", "encoder", "preprocess")
    },
    "`dvc repro`, nothing to do": ["-m", "dvc", "repro"],
}


def seconds(command: list[str], folder: Path) -> float:
    """Time a command in a folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "DVC_NO_ANALYTICS": "1"}
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - started


def main(before: Path) -> None:
    """Print the table, with ``dvc repro`` only if the pipelines of both checkouts have run."""
    have_run = all((folder / "models/model.json").is_file() for folder in (before, HERE))
    print("| what | before | after |\n|---|---|---|")
    for name, command in COMMANDS.items():
        if "dvc" in command and not have_run:
            continue
        times = [(seconds(command, before), seconds(command, HERE)) for _ in range(ROUNDS)]
        then, now = (median(each) for each in zip(*times, strict=True))
        print(f"| {name} | {then:.2f} s | {now:.2f} s |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
