"""A clone of this repository with small params, for tests that run it as a user does."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petseg.core.textfiles import read_yaml
from tests.support import ROOT
from tests.support.ask_forked import ask, read_number
from tests.support.pets import few_photos

if TYPE_CHECKING:
    import mlflow

STAGES = ["download", "encoder", "preprocess", "train", "infer", "plot"]
FEW = {  # with few_photos, of which a tiny network learns more than that everything is pet
    "source: sample": "source: few",
    "val_fraction: 0.15": "val_fraction: 0.25",
    "  batch_size: 16 ": "  batch_size: 2 ",
}
TINY = {
    "image_size: 128": "image_size: 32",
    "width: 16": "width: 4",
    "depth: 4": "depth: 2",
    "epochs: 50": "epochs: 6",
    "threads: 2": "threads: 1",
    "evolution_epochs: [1, 2, 5, 10, 20, 35, 50]": "evolution_epochs: [1, 6]",
}


def listed_files() -> list[str]:
    """Return the files of this repository that git knows or would take, by their paths in it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def hashes(lock: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def ran(printed: str) -> list[str]:
    """The stages that DVC says it ran."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


class Project:
    """A clone of this repository, as it is now, with small params."""

    def __init__(self, folder: Path, changes: Mapping[str, str], forks: Path | None = None) -> None:
        """Copy what git knows or would take, edit the params, and commit.

        Args:
            folder: where to.
            changes: texts of params.yaml, and what to write instead.
            forks: a folder whose ``python`` and ``dvc`` are to be used (tests.support.forked).
        """
        self.folder, self.forks = folder, forks
        for name in listed_files():
            if name != "dvc.lock" and not name.startswith("metrics/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.edit("params.yaml", changes)
        if changes.items() >= FEW.items():
            few_photos(folder / "few")
        self.run("git", "init", "-q")
        self.commit("as it is")

    @classmethod
    def open(cls, folder: Path, forks: Path | None = None) -> "Project":
        """Return the project that is there."""
        project = cls.__new__(cls)
        project.folder, project.forks = folder, forks
        return project

    def copy(self, folder: Path, forks: Path | None = None) -> "Project":
        """Copy it with all that it has trained; its next command leads MLflow to the files of the copy."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return self.open(folder, forks)

    def edit(self, file: str, changes: Mapping[str, str]) -> None:
        text = (self.folder / file).read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (self.folder / file).write_text(text)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", message)

    def run(
        self,
        *command: str,
        fails: bool = False,
        stdin: str = "",
        folder: str = ".",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command and return all it printed.

        What a shell sets for its children (limits, a core) does not reach forked ones: give such a command
        ``environment=project.environment()``, by which it finds the real programs.
        """
        done = subprocess.run(
            command,
            cwd=self.folder / folder,
            env=self.environment(self.forks) | dict(environment or {}),
            text=True,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    def start(
        self, *command: str, stdin: int | None = None, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start a command as a process of its own, to be stopped or killed; its output is read from it."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment() | dict(environment or {}),
            text=True,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Tests that run in the background of a shell have been started with it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def environment(self, first: Path | None = None) -> dict[str, str]:
        """What a command is started with: this Python, and nothing of the tests' own surroundings.

        Args:
            first: a folder of programs that are used before others.
        """
        folders = [first, Path(sys.executable).parent, os.environ["PATH"]]
        path = os.pathsep.join(str(folder) for folder in folders if folder)
        environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def command(self, stage: str) -> list[str]:
        """A stage's own command, without DVC."""
        return list(read_yaml(self.folder / "dvc.yaml")["stages"][stage]["cmd"].split())

    @property
    def train_command(self) -> list[str]:
        return self.command("train")

    def run_queue(self, workers: int) -> None:
        """Let DVC run what is queued, and wait for the end."""
        self.run(
            "bash", "-c", f"dvc queue start -j {workers} > queue.log 2>&1"
        )  # workers hold what it prints to
        busy = "while dvc queue status | grep -qE 'Queued|Running'; do sleep 1; done"
        self.run("timeout", "600", "bash", "-c", busy)
        (self.folder / "queue.log").unlink()

    def manifests(self) -> dict[str, dict[str, Any]]:
        """What the store says of each run, by its key."""
        return {
            p.parent.name: json.loads(p.read_text()) for p in self.folder.glob("runs/[!.]*/manifest.json")
        }

    def lock(self) -> dict[str, str]:
        """The hashes of all outs, by path."""
        return hashes(read_yaml(self.folder / "dvc.lock"))

    def changed_stages(self) -> set[str]:
        """The stages that ``dvc status`` lists; by DVC, in this process."""
        from dvc.repo import Repo

        with Repo(str(self.folder)) as repo:
            status: dict[str, Any] = repo.status()
        return {name.rpartition(":")[2] for name in status}  # before it is the path of dvc.yaml

    def forget_trainings(self, database: Path) -> None:
        """Bring it to where nothing is trained, and MLflow knows nothing.

        Args:
            database: an empty one of MLflow's.
        """
        for name in ("runs", "mlartifacts", "models"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in self.folder.glob("mlflow.db*"):
            path.unlink()
        shutil.copy(database, self.folder / "mlflow.db")
        self.run("git", "checkout", "-q", ".")

    def last_checkpoints(self) -> list[Path]:
        """The checkpoints of its only run, the newest last; none if it has no run."""
        return sorted(self.folder.glob("runs/*/checkpoints/epoch-*.safetensors"))


def killed_after(project: Project, arguments: list[str], after_s: float | None) -> tuple[int, str]:
    """Run Python without the seconds that imports take, and kill it after a while unless it has ended.

    Args:
        project: with ``forks``.
        arguments: of ``python``.
        after_s: the while; None to let it end.

    Returns:
        The exit code, and what it printed.
    """
    assert project.forks is not None
    log = project.folder / ".dvc/tmp/killed.log"
    with socket.socket(socket.AF_UNIX) as connection, log.open("w") as file:
        connection.connect(str(project.forks.parent / "socket"))
        files = [0, file.fileno(), file.fileno()]
        pid = ask(connection, arguments, str(project.folder), project.environment(project.forks), files)
        if after_s is not None and not select.select([connection], [], [], after_s)[0]:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        return read_number(connection), log.read_text()


def mlflow_runs(
    folder: Path, children: bool = False, experiment: str = "petseg"
) -> "list[mlflow.entities.Run]":
    """The rows of the models in MLflow, and the runs of the stages after them where asked for.

    MLflow keeps a database open by its path for as long as a process lives. So that a database which has
    been replaced meanwhile is not read, what is read is a copy, which MLflow then stands on.
    """
    import mlflow  # takes seconds

    copy = folder / f".dvc/tmp/read-{time.time_ns()}.db"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "mlflow.db", copy)
    mlflow.set_tracking_uri(f"sqlite:///{copy}")
    found = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return [run for run in found if children or "mlflow.parentRunId" not in run.data.tags]


def wait_for(process: Any, text: str) -> None:
    """Read what a process prints, up to a line with this text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never printed")
