"""A reproduction that is stopped leaves no process and no files."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from petseg.core.locks import held
from petseg.store.layout import MANIFEST
from tests.support import ROOT
from tests.support.runs import make_run

KEY = "aaaa111122223333"
PATIENCE_S = 60
STAGE = """
import os, subprocess, sys, tempfile, time
tempfile.mkdtemp(prefix="of the stage")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("pids", os.getpid(), child.pid, file=sys.stderr, flush=True)
time.sleep(600)
"""
PIPELINE = """stages:
  encoder: {cmd: python -m stages.encoder --encoder e}
  train: {cmd: python -m stages.train --arrays a --encoder e}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a run whose commit has stages that do not end."""
    root = tmp_path / "project"
    (root / "stages").mkdir(parents=True)
    (root / "stages/__init__.py").touch()
    (root / "stages/encoder.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text("model: {}\n")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for command in ("init", "add .", "-c user.name=t -c user.email=t@t commit -m all"):
        subprocess.run(["git", *command.split()], cwd=root, check=True, capture_output=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    )
    manifest = make_run(root / "runs" / KEY, "unet").folder / MANIFEST
    described = json.loads(manifest.read_text()) | {"git": {"commit": commit.stdout.strip(), "dirty": False}}
    manifest.write_text(json.dumps(described))
    return root


def reproduce(project: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "petseg", "runs", "reproduce", KEY],
        cwd=project, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def stages_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Wait for the stage, and return its process and its child process."""
    assert process.stderr is not None
    line = next(line for line in process.stderr if line.startswith("pids"))
    return [psutil.Process(int(pid)) for pid in line.split()[1:]]


def worktrees(project: Path) -> int:
    command = ["git", "worktree", "list"]
    done = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
    return len(done.stdout.splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_reproduction_leaves_nothing(project: Path, number: signal.Signals) -> None:
    with reproduce(project) as process:
        stages = stages_of(process)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 128 + number
    assert psutil.wait_procs(stages, PATIENCE_S)[1] == []
    assert list((project.parent / "temporary").iterdir()) == []
    assert worktrees(project) == 1


def test_the_next_reproduction_removes_the_files_of_a_killed_one(project: Path) -> None:
    temporary = project.parent / "temporary"
    with reproduce(project) as process:
        stages = stages_of(process)
        process.kill()
        assert psutil.wait_procs(stages, PATIENCE_S)[1] == []
    assert (len(list(temporary.iterdir())), worktrees(project)) == (1, 2)
    foreign = temporary / "petseg-reproduce-of-somebody"
    at_work = temporary / "petseg-reproduce-at-work"
    foreign.mkdir()
    with held(at_work / "lock"), reproduce(project) as process:
        stages_of(process)
        assert (len(list(temporary.iterdir())), worktrees(project)) == (3, 2)
        process.terminate()
        process.wait(PATIENCE_S)
        assert {*temporary.iterdir()} == {foreign, at_work}
    assert worktrees(project) == 1
