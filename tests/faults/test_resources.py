"""Failures of disks, servers, databases and clocks: faults 19 to 24."""

import json
import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from petseg.models.weights import load_tensors
from tests.support.project import Project, mlflow_runs

Manifest = dict[str, Any]


def only_run(project: Project) -> Path:
    (key,) = project.manifests()
    return project.folder / "runs" / key


def assert_training_finishes(project: Project, reference: Manifest) -> None:
    project.run(*project.train_command)
    (manifest,) = project.manifests().values()
    assert manifest["tensors_sha256"] == reference["tensors_sha256"]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount a tmpfs; skip the test if that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.fault(19, "disk full: the store's file system")
def test_a_full_disk_stops_the_training_with_one_line(project: Project) -> None:
    with mounted(project.folder / "runs", "-o", "size=410k"):
        printed = project.run(*project.train_command, fails=True)
        assert re.search(r"^petseg train: /\S+: disk full \(.*\)$", printed, re.M)
        assert "Traceback" not in printed
        found = project.last_checkpoints()
        assert found
        for path in found:
            load_tensors(path)


@pytest.mark.fault(19, "disk full: a limit on the size of files")
def test_a_training_that_met_a_file_size_limit_goes_on(project: Project, reference: Manifest) -> None:
    killed_at = str(Path(__file__).with_name("killed_at.py"))
    before = ("petseg.store.writer", "Run.add", "before", "3")  # code.zip, which is larger, is written
    project.run("python", killed_at, *before, *project.train_command[2:], fails=True)
    largest = max(path.stat().st_size for path in project.last_checkpoints())
    limit = f"ulimit -f {largest // 1024 - 1}; exec {' '.join(project.train_command)}"
    printed = project.run("bash", "-c", limit, fails=True, environment=project.environment())
    assert "goes on after epoch 2" in printed
    assert re.search(r"^petseg train: /\S+: disk full \(.*\)$", printed, re.M)
    assert_training_finishes(project, reference)


@pytest.mark.fault(19, "disk full: MLflow's artifacts")
def test_a_full_artifact_folder_does_not_stop_a_training(project: Project, reference: Manifest) -> None:
    with mounted(project.folder / "mlartifacts", "-o", "size=8k"):
        printed = project.run(*project.train_command)
    assert printed.count("warning: MLflow does not answer ([Errno 28] No space left") == 1
    (manifest,) = project.manifests().values()
    assert manifest["tensors_sha256"] == reference["tensors_sha256"]


@pytest.mark.fault(19, "disk full: DVC's cache")
def test_a_full_cache_costs_no_training(project: Project, reference: Manifest) -> None:
    repro = ("dvc", "repro", "--single-item", "train")
    with mounted(project.folder / ".dvc/cache", "-o", "size=12k"):
        assert "No space left on device" in project.run(*repro, fails=True)
    (manifest,) = project.manifests().values()
    assert manifest["tensors_sha256"] == reference["tensors_sha256"]
    assert "its weights are used, nothing is trained" in project.run(*repro)


@pytest.mark.fault(20, "a read-only store")
def test_a_read_only_store_stops_the_training_before_its_first_epoch(project: Project) -> None:
    with mounted(project.folder / "runs", "-o", "ro"):
        printed = project.run(*project.train_command, fails=True)
    assert ": Read-only file system" in printed
    assert "epoch" not in printed


@pytest.mark.parametrize("kind", ["down", "silent"])
@pytest.mark.fault(21, "MLflow's server down, or never answering")
def test_a_server_that_does_not_answer_costs_only_a_warning(
    project: Project, reference: Manifest, kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if kind == "down":
            listening.close()
        environment = {"MLFLOW_TRACKING_URI": f"http://user:secret@127.0.0.1:{port}"}
        with project.start(*project.train_command, environment=environment) as process:
            printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert printed.count("warning: MLflow does not answer") == 1
    assert "secret" not in printed
    (manifest,) = project.manifests().values()
    assert manifest["tensors_sha256"] == reference["tensors_sha256"]


@pytest.mark.slow
@pytest.mark.fault(22, "MLflow's database locked for 60 s")
def test_a_locked_database_is_updated_later(project: Project) -> None:
    lock = sqlite3.connect(project.folder / "mlflow.db", check_same_thread=False)
    with project.start(*project.train_command) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "epoch 1/6" in line)
        lock.execute("BEGIN EXCLUSIVE")
        time.sleep(60)
        lock.rollback()
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    (row,) = mlflow_runs(project.folder)
    history = mlflow.MlflowClient().get_metric_history(row.info.run_id, "dice/val")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5, 6], printed


@pytest.mark.fault(22, "four processes that start on no database")
def test_four_processes_create_one_database(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()
    at_once = [
        project.start(
            "python", "-c", "from petseg.tracking.outbox import recorded\nwith recorded('download', {}): pass"
        )
        for _ in range(4)
    ]
    for process in at_once:
        printed = process.communicate()[0]
        assert (process.returncode, printed) == (0, "")
    assert len(mlflow_runs(project.folder, experiment="petseg-data")) == 4


@pytest.mark.fault(23, "the clock set back one hour midway")
def test_a_clock_that_is_set_back_changes_no_result(project: Project, reference: Manifest) -> None:
    """Only the clock of this Python process is set back, from the fourth epoch on."""
    program = (
        "import os, sys, time, runpy; sys.path.insert(0, os.getcwd())\n"
        "from petseg.store.writer import Run\n"
        "real, add, epochs = time.time, Run.add, []\n"
        "def counted(*a): add(*a); epochs.append(1)\n"
        "Run.add, time.time = counted, lambda: real() - 3600 * (len(epochs) > 3)\n"
        "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    project.run("python", "-c", program, *project.train_command[2:])
    (manifest,) = project.manifests().values()
    assert manifest["tensors_sha256"] == reference["tensors_sha256"]
    (row,) = mlflow_runs(project.folder)
    logged = mlflow.MlflowClient().get_metric_history(row.info.run_id, "dice/val")
    logged.sort(key=lambda metric: metric.step)
    assert logged[-1].timestamp < logged[0].timestamp - 3_000_000  # ms; shows that the clock was set back
    assert [metric.step for metric in logged] == [1, 2, 3, 4, 5, 6]
    assert row.data.metrics["dice/val"] == logged[-1].value  # of the last step, not of the latest time


@pytest.mark.fault(24, "the loss becomes NaN")
def test_a_loss_of_nan_stops_the_training_and_keeps_finite_checkpoints(project: Project) -> None:
    project.edit(
        "params.yaml",
        {"learning_rate: 5.0e-2": "learning_rate: 1.0e+6", "schedule: onecycle": "schedule: cosine"},
    )
    printed = project.run(*project.train_command, fails=True)
    assert "petseg train: the loss of epoch " in printed
    assert "; try a lower train.learning_rate" in printed
    rows = [json.loads(line) for line in (only_run(project) / "history.jsonl").read_text().splitlines()]
    for path in project.last_checkpoints():
        tensors, _ = load_tensors(path)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert len(project.last_checkpoints()) <= len(rows)
