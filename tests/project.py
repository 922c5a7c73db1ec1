"""A clone of this repository with small params, for tests that run it as a user does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow

from petseg.core.textfiles import read_yaml
from tests.conftest import ROOT, write_tar

STAGES = ["download", "encoder", "preprocess", "train", "infer", "plot"]
SMALL = {
    "image_size: 128": "image_size: 64",
    "width: 16": "width: 8",
    "depth: 4": "depth: 3",
    "epochs: 50": "epochs: 2",
    "threads: 2": "threads: 1",
    "evolution_epochs: [1, 2, 5, 10, 20, 35, 50]": "evolution_epochs: [1, 2]",
}
FEW = {"source: sample": "source: few", "val_fraction: 0.15": "val_fraction: 0.25"}  # of few_photos
TINY = SMALL | {
    "image_size: 128": "image_size: 32",
    "width: 16": "width: 2",
    "depth: 4": "depth: 2",
    "epochs: 50": "epochs: 6",
    "evolution_epochs: [1, 2, 5, 10, 20, 35, 50]": "evolution_epochs: [1, 6]",
}


def few_photos(folder: Path) -> None:
    """Write archives of 24 of the sample's photos, cats and dogs: 16 of trainval, 8 of test."""
    files: dict[str, bytes] = {}
    for name in ("annotations.tar.gz", "images.tar.gz"):
        with tarfile.open(ROOT / "data/sample" / name) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    files[member.name] = file.read()
    kept: dict[str, bytes] = {}
    for part, count in (("trainval", 16), ("test", 8)):
        lines = files[f"annotations/{part}.txt"].decode().splitlines()
        lines = [line for line in lines if line.startswith(("Abyssinian", "american_bulldog"))]
        lines = lines[: count // 2] + lines[-count // 2 :]
        kept[f"annotations/{part}.txt"] = "\n".join(lines).encode()
        for name in (line.split()[0] for line in lines):
            for path in (f"annotations/trimaps/{name}.png", f"images/{name}.jpg"):
                kept[path] = files[path]
    for name in ("annotations", "images"):
        members = {path: content for path, content in kept.items() if path.startswith(name)}
        write_tar(folder / f"{name}.tar.gz", members)


def hashes(lock: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def ran(printed: str) -> list[str]:
    """The stages that DVC says it ran."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


class Project:
    """A clone of this repository, as it is now, with small params."""

    def __init__(self, folder: Path, changes: Mapping[str, str] = SMALL) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("metrics/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.edit("params.yaml", changes)
        if changes.items() >= FEW.items():
            few_photos(folder / "few")
        self.run("git", "init", "-q")
        self.commit("as it is")

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
        """Run a command and return all it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder / folder,
            env=self.environment() | dict(environment or {}),
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
        """Start a command, whose output is read from the process."""
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

    def environment(self) -> dict[str, str]:
        """What a command is started with: this Python, and nothing of the tests' own surroundings."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
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
        status: dict[str, Any] = json.loads(self.run("dvc", "status", "--json"))
        return set(status)


def mlflow_runs(
    folder: Path, children: bool = False, experiment: str = "petseg"
) -> "list[mlflow.entities.Run]":
    """The rows of the models in MLflow, and the runs of the stages after them where asked for.

    MLflow keeps a database open by its path for as long as a process lives. So that a database which has
    been replaced meanwhile is not read, what is read is a copy, which MLflow then stands on.
    """
    copy = folder / f".dvc/tmp/read-{time.time_ns()}.db"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "mlflow.db", copy)
    mlflow.set_tracking_uri(f"sqlite:///{copy}")
    found = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return [run for run in found if children or "mlflow.parentRunId" not in run.data.tags]
