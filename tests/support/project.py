"""A clone of this repository with small params, in which tests run commands as a user does."""

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
FEW = {  # with few_photos; from them a tiny network learns more than to call everything pet
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
    """Return the paths of the files that git tracks or does not ignore, relative to the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def hashes(lock: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def ran(printed: str) -> list[str]:
    """Return the stages that DVC ran, according to its output."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


class Project:
    """A clone of this repository with its uncommitted edits and with small params."""

    def __init__(self, folder: Path, changes: Mapping[str, str], forks: Path | None = None) -> None:
        """Copy the files that git tracks or does not ignore, edit the params, and commit.

        Args:
            folder: of the clone.
            changes: texts of params.yaml, each with its replacement.
            forks: a folder with the ``python`` and the ``dvc`` to use (tests.support.forked).
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
        """Return the existing project in a folder."""
        project = cls.__new__(cls)
        project.folder, project.forks = folder, forks
        return project

    def copy(self, folder: Path, forks: Path | None = None) -> "Project":
        """Copy the project with its trainings. Its next command points MLflow to the files of the copy."""
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
        """Run a command, and return all that it printed.

        Limits and other settings that a shell makes for its children do not reach forked programs. Give such
        a command ``environment=project.environment()``, so that it finds the real programs.
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
        """Start a command as a process of its own, which a test can stop or kill. Its stdout is a pipe."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment() | dict(environment or {}),
            text=True,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A shell starts its background jobs, such as these tests, with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def environment(self, first: Path | None = None) -> dict[str, str]:
        """Return the environment of a command: this Python, and no tracking URI of the tests' own.

        Args:
            first: a folder of programs that come first in PATH.
        """
        folders = [first, Path(sys.executable).parent, os.environ["PATH"]]
        path = os.pathsep.join(str(folder) for folder in folders if folder)
        environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def command(self, stage: str) -> list[str]:
        """The command that dvc.yaml has for a stage."""
        return list(read_yaml(self.folder / "dvc.yaml")["stages"][stage]["cmd"].split())

    @property
    def train_command(self) -> list[str]:
        return self.command("train")

    def run_queue(self, workers: int) -> None:
        """Let DVC run the queued experiments, and wait until they have ended."""
        # The workers keep the output open, so it must not be a pipe.
        self.run("bash", "-c", f"dvc queue start -j {workers} > queue.log 2>&1")
        busy = "while dvc queue status | grep -qE 'Queued|Running'; do sleep 1; done"
        self.run("timeout", "600", "bash", "-c", busy)
        (self.folder / "queue.log").unlink()

    def manifests(self) -> dict[str, dict[str, Any]]:
        """The manifest of each run, by its key."""
        return {
            p.parent.name: json.loads(p.read_text()) for p in self.folder.glob("runs/[!.]*/manifest.json")
        }

    def lock(self) -> dict[str, str]:
        """The hashes of all outs, by path."""
        return hashes(read_yaml(self.folder / "dvc.lock"))

    def changed_stages(self) -> set[str]:
        """The stages that ``dvc status`` lists, by DVC in this process."""
        from dvc.repo import Repo

        with Repo(str(self.folder)) as repo:
            status: dict[str, Any] = repo.status()
        return {name.rpartition(":")[2] for name in status}  # the path of dvc.yaml can come before the colon

    def forget_trainings(self, database: Path) -> None:
        """Remove all trainings, also from MLflow.

        Args:
            database: an empty MLflow database.
        """
        for name in ("runs", "mlartifacts", "models"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in self.folder.glob("mlflow.db*"):
            path.unlink()
        shutil.copy(database, self.folder / "mlflow.db")
        self.run("git", "checkout", "-q", ".")

    def last_checkpoints(self) -> list[Path]:
        """The checkpoints of the only run, the newest last; an empty list if there is no run."""
        return sorted(self.folder.glob("runs/*/checkpoints/epoch-*.safetensors"))


def killed_after(project: Project, arguments: list[str], after_s: float | None) -> tuple[int, str]:
    """Run Python as a fork, without the seconds that imports take, and kill it if it is still running.

    Args:
        project: with ``forks``.
        arguments: of ``python``.
        after_s: when to kill it; None lets it end.

    Returns:
        The exit code and the output.
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
    """Return the rows of the models in MLflow, and with ``children`` also the runs of the later stages.

    MLflow keeps a database open by its path as long as the process lives. It gets a new copy here, so that it
    does not read a database that has been replaced since. The copy stays its tracking URI.
    """
    import mlflow  # here, because it takes seconds

    copy = folder / f".dvc/tmp/read-{time.time_ns()}.db"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "mlflow.db", copy)
    mlflow.set_tracking_uri(f"sqlite:///{copy}")
    found = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return [run for run in found if children or "mlflow.parentRunId" not in run.data.tags]


def wait_for(process: Any, text: str) -> None:
    """Read the output of a process up to a line that has this text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never printed")
