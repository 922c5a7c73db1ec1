"""The cost of a silent MLflow, and the results of a queue: ``python -m benchmarks.tracking`` prints a table.

Each is measured in a new small project (275 photos at 32 px), with DVC and a real ``mlflow server``.
"""

import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

from benchmarks.__main__ import Row, seconds
from tests.support.mlflow_server import MlflowServer
from tests.support.project import TINY, Project, mlflow_runs

EPOCHS, STOPPED_IN = 20, 3
SYNC = ("python", "-m", "petseg", "runs", "sync")
SEEDS = (1, 2, 3, 4)


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    print("| what | measured | wanted | how |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in chain(stopped_server(Path(folder)), queue(Path(folder))):
            print(f"| {' | '.join(row)} |", flush=True)


def stopped_server(work: Path) -> Iterator[Row]:
    """Stop a server during a training, so that it is silent, and wake it at the end."""
    project = Project(work / "stopped", TINY | {"epochs: 50": f"epochs: {EPOCHS}"})
    project.run("dvc", "repro", "encoder", "preprocess")
    (work / "server").mkdir()
    server = MlflowServer(work / "server", project.environment())
    server.start()
    try:
        logging_to = {"MLFLOW_TRACKING_URI": server.uri}
        ends = []
        with project.start(*project.train_command, environment=logging_to) as training:
            assert training.stdout is not None
            for line in training.stdout:
                if line.startswith("epoch "):
                    ends.append(time.monotonic())
                    if len(ends) == STOPPED_IN:
                        server.send(signal.SIGSTOP)
            ends.append(time.monotonic())
        assert training.returncode == 0
        taken = [after - before for before, after in pairwise(ends)]
        after_it = taken[STOPPED_IN - 1 :]  # the remaining epochs, and the end of the training
        lost_s = sum(after_it) - statistics.median(taken[:-1]) * (len(after_it) - 1)
        yield (
            "a server that stops during a training",
            f"{lost_s:.1f} s lost",
            "30 s",
            f"SIGSTOP after epoch {STOPPED_IN} of {EPOCHS}; time beyond {EPOCHS - STOPPED_IN} median epochs",
        )
        silent_s = seconds(lambda: project.run(*SYNC, environment=logging_to, fails=True))
        yield "wait of each later stage", f"{silent_s:.1f} s", "30 s", "with the start of a process"
        project.run(*project.command("infer"), environment=logging_to)
        project.run(*project.command("plot"), environment=logging_to)
        server.send(signal.SIGCONT)
        sync_s = seconds(lambda: project.run(*SYNC, environment=logging_to))
        yield (
            "`petseg runs sync`, after the server is woken",
            f"{sync_s:.1f} s",
            "-",
            "a training, its infer and plot",
        )
    finally:
        server.kill()


def queue(work: Path) -> Iterator[Row]:
    """Run queued experiments with two workers, in a project in which nothing has run."""
    project = Project(work / "queue", TINY)
    seeds = ",".join(map(str, SEEDS))
    project.run("dvc", "exp", "run", "--queue", "-S", f"train.seed={seeds}")
    elapsed_s = seconds(lambda: project.run_queue(workers=2))
    rows = mlflow_runs(project.folder, children=True)
    finished = [row.data.tags["stage"] for row in rows if row.info.status == "FINISHED"]
    weights = {run["files"]["model.safetensors"] for run in project.manifests().values()}
    left = [path for path in (project.folder / ".dvc/tmp/exps").glob("tmp*") if path.is_dir()]
    left += [path for path in (project.folder / ".dvc/tmp/petseg-outbox").rglob("*") if path.is_file()]
    changed = project.run("git", "status", "--porcelain").splitlines()
    yield (
        f"{len(SEEDS)} queued experiments, two workers",
        f"{finished.count('train')} finished rows with {finished.count('infer')} infer and "
        f"{finished.count('plot')} plot, {len(weights)} sets of weights",
        f"{len(SEEDS)} of each",
        f"{len(left)} left in temporary folders, {len(changed)} changed in the workspace; {elapsed_s:.0f} s",
    )


if __name__ == "__main__":
    main()
