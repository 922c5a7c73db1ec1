"""Trainings that crash and are resumed: faults 1 to 11."""

import json
import os
import pickle
import random
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from petseg.models.weights import load_tensors
from petseg.store.run import StoredRun
from tests.support.project import Project, killed_after, mlflow_runs, wait_for

KILLS = 200
KILLED_AT = str(Path(__file__).with_name("killed_at.py"))
Manifest = dict[str, Any]


def kill_at(project: Project, module: str, name: str, when: str, nth: int, *command: str) -> None:
    """Run a program, by default the training, until it is killed at a call of a function."""
    command = command or tuple(project.train_command)
    project.run("python", KILLED_AT, module, name, when, str(nth), *command[2:], fails=True)


def finish(project: Project, reference: Manifest) -> str:
    """Start the same training again, and assert that it ends as if it had not been disturbed."""
    printed = project.run(*project.train_command)
    assert_as_if_undisturbed(project, reference)
    return printed


def assert_as_if_undisturbed(project: Project, reference: Manifest) -> None:
    (manifest,) = project.manifests().values()
    assert manifest["run_key"] == reference["run_key"]
    assert manifest["status"] == "finished"
    assert manifest["tensors_sha256"] == reference["tensors_sha256"]
    rows = [json.loads(line) for line in (folder(project) / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    (row,) = mlflow_runs(project.folder)
    assert row.info.status == "FINISHED"
    logged = mlflow.MlflowClient().get_metric_history(row.info.run_id, "dice/val")
    assert sorted(metric.step for metric in logged) == [1, 2, 3, 4, 5, 6]
    assert not list(folder(project).rglob("*.tmp"))


def folder(project: Project) -> Path:
    (key,) = project.manifests()
    return project.folder / "runs" / key


@pytest.mark.fault(1, "SIGKILL before the first checkpoint")
def test_a_training_killed_before_the_first_checkpoint_starts_again(
    project: Project, reference: Manifest
) -> None:
    kill_at(project, "petseg.store.writer", "Run.add", "before", 1)
    assert project.last_checkpoints() == []
    assert "goes on" not in finish(project, reference)


@pytest.mark.fault(2, "SIGKILL inside write, fsync and rename")
@pytest.mark.parametrize(
    ("module", "name", "when", "nth"),
    [
        ("safetensors.torch", "save", "after", 2),
        ("pathlib", "Path.replace", "before", 9),
        ("petseg.store.writer", "Run.finish", "after", 1),
        *(
            pytest.param(*where, marks=pytest.mark.slow)
            for where in (
                ("os", "fsync", "before", 14),
                ("os", "fsync", "after", 15),
                ("pathlib", "Path.replace", "after", 10),
                ("pathlib", "Path.unlink", "after", 12),
                ("petseg.store.writer", "Run.finish", "before", 1),
                ("petseg.store.records", "copy_bytes", "before", 2),
            )
        ),
    ],
)
def test_a_training_killed_while_writing_finishes(
    project: Project, reference: Manifest, module: str, name: str, when: str, nth: int
) -> None:
    kill_at(project, module, name, when, nth)
    for path in project.last_checkpoints():
        load_tensors(path)  # raises if it is damaged
    finish(project, reference)


@pytest.mark.slow
@pytest.mark.fault(2, f"SIGKILL at {KILLS} random moments")
def test_a_training_killed_at_random_moments_finishes(
    project: Project, reference: Manifest, mlflow_database: Path
) -> None:
    """Each training is killed and resumed until it finishes; then it is removed, and a new one begins."""
    log, chance = project.folder / "training.log", random.Random(0)
    started = time.perf_counter()
    assert train(project, log, None) == 0, log.read_text()
    whole_s = time.perf_counter() - started
    project.forget_trainings(mlflow_database)
    kills, trainings, newest = 0, 0, 0
    while kills < KILLS:
        code = train(project, log, chance.uniform(0, whole_s / 2))
        if code == 0:
            assert_as_if_undisturbed(project, reference)
            project.forget_trainings(mlflow_database)
            trainings, newest = trainings + 1, 0
            continue
        assert code == -signal.SIGKILL, log.read_text()
        kills += 1
        before, newest = newest, intact_epochs(project)
        assert newest >= before, "an epoch was lost"
        print(f"kill {kills}: {newest} epochs are stored; {trainings} trainings have finished")


def intact_epochs(project: Project) -> int:
    """Check that the files of all epochs are intact, and return the number of epochs."""
    found = project.last_checkpoints()
    for path in found:
        load_tensors(path)
    for key, manifest in project.manifests().items():
        if manifest["status"] == "finished":  # its checkpoints may already be removed
            run = StoredRun.open(project.folder / "runs" / key)
            assert list(run.damages()) == []
            return len(run.rows())
    return int(found[-1].stem.removeprefix("epoch-")) if found else 0


def train(project: Project, log: Path, kill_after_s: float | None) -> int:
    """Train as a fork, without the seconds that imports take; kill it after a time if it has not ended.

    Returns:
        The exit code.
    """
    code, printed = killed_after(project, project.train_command[1:], kill_after_s)
    log.write_text(printed)
    return code


@pytest.mark.fault(3, "SIGKILL between checkpoint and history row")
def test_a_training_killed_between_checkpoint_and_row_finishes(project: Project, reference: Manifest) -> None:
    # The first call comes from the start of the run.
    kill_at(project, "petseg.store.writer", "Run._write_history", "before", 3)
    assert len((folder(project) / "history.jsonl").read_text().splitlines()) == 1
    assert len(project.last_checkpoints()) == 2
    assert "goes on after epoch 2" in finish(project, reference)


SYNC = ("python", "-m", "petseg", "runs", "sync")


def logged_models(project: Project) -> list[tuple[str, str]]:
    """The status of each logged model, and the id of its run."""
    (row,) = mlflow_runs(project.folder)
    found = mlflow.MlflowClient().search_logged_models([row.info.experiment_id])
    return [(str(model.status), model.source_run_id) for model in found]


@pytest.mark.fault(4, "SIGKILL while the model is logged to MLflow")
def test_a_model_whose_logging_was_killed_is_logged_once(project: Project) -> None:
    project.run(*project.train_command)
    kill_at(project, "petseg.tracking.outbox", "flush_outbox", "before", 1, *project.command("infer"))
    kill_at(project, "mlflow.tracking.client", "MlflowClient.log_model_artifacts", "before", 1, *SYNC)
    assert [status for status, _ in logged_models(project)] == ["PENDING"]
    assert statuses(project) == ["FINISHED", "RUNNING"]
    project.run(*SYNC)
    (row,) = mlflow_runs(project.folder)
    assert logged_models(project) == [("READY", row.info.run_id)]
    assert statuses(project) == ["FINISHED", "FINISHED"]


@pytest.mark.fault(5, "SIGKILL after logging, before exit")
def test_a_kill_after_logging_leaves_one_model(project: Project) -> None:
    project.run(*project.train_command)
    kill_at(project, "petseg.tracking.outbox", "flush_outbox", "before", 1, *project.command("infer"))
    kill_at(project, "petseg.tracking.logged_model", "log_model", "after", 1, *SYNC)
    kill_at(project, "petseg.tracking.registry", "version_of", "after", 1, *SYNC)
    project.run(*SYNC)
    assert len(logged_models(project)) == 1
    promote = ("python", "-m", "petseg", "runs", "promote", *project.manifests())
    assert "champion, version 1" in project.run(*promote)
    mlflow_runs(project.folder)
    (version,) = mlflow.MlflowClient().search_model_versions("name = 'petseg'")
    assert version.tags["run_key"] in project.manifests()


def statuses(project: Project) -> list[str]:
    """The status of each run in MLflow, including child runs."""
    return sorted(run.info.status for run in mlflow_runs(project.folder, children=True))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.fault(6, "SIGTERM and SIGINT")
def test_a_training_stopped_by_a_signal_is_resumed(
    project: Project, reference: Manifest, number: signal.Signals, code: int
) -> None:
    with project.start(*project.train_command) as process:
        wait_for(process, "epoch 2/6")
        process.send_signal(number)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert "Traceback" not in printed
    (row,) = mlflow_runs(project.folder)
    assert row.info.status == "KILLED"
    assert "goes on after epoch" in finish(project, reference)


@pytest.mark.fault(7, "only dvc is killed, and training goes on as an orphan")
def test_a_second_training_does_not_start_beside_an_orphan(project: Project) -> None:
    project.edit("params.yaml", {"epochs: 6": "epochs: 500"})
    log = project.folder / "orphan.log"
    with project.start("bash", "-c", f"exec dvc repro --single-item train > {log.name} 2>&1") as dvc:
        while "epoch   1/500" not in (log.read_text() if log.exists() else ""):
            assert dvc.poll() is None, log.read_text()
            time.sleep(0.1)
        (key,) = project.manifests()
        training = int((project.folder / "runs" / key / ".lock").read_text())
        dvc.kill()
    try:
        printed = project.run("dvc", "repro", "--single-item", "train", fails=True)
        assert f"is being trained by process {training}" in printed
    finally:
        os.kill(training, signal.SIGKILL)


@pytest.mark.fault(8, "one bit of the newest checkpoint flipped")
def test_a_checkpoint_with_a_flipped_bit_is_moved_aside(project: Project, reference: Manifest) -> None:
    kill_at(project, "petseg.store.writer", "Run.add", "after", 4)
    newest = project.last_checkpoints()[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    printed = finish(project, reference)
    assert f"{newest.name}: is damaged" in printed
    assert newest.with_suffix(".damaged").read_bytes() == data


@pytest.mark.fault(9, "a truncated, an empty, a pickle-bearing checkpoint")
def test_useless_checkpoints_are_moved_aside(project: Project, reference: Manifest) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (project.folder / "EXECUTED",)

    for content in (b"", None, pickle.dumps(Trap())):
        kill_at(project, "petseg.store.writer", "Run.add", "after", 1)
        newest = project.last_checkpoints()[-1]
        newest.write_bytes(newest.read_bytes()[:1000] if content is None else content)
    finish(project, reference)
    assert not (project.folder / "EXECUTED").exists()
    assert len(list(folder(project).glob("checkpoints/*.damaged*"))) == 3  # none has replaced another


@pytest.mark.fault(10, "a checkpoint of other params")
def test_other_params_start_another_run(project: Project, reference: Manifest) -> None:
    kill_at(project, "petseg.store.writer", "Run.add", "after", 3)
    before = {path: path.read_bytes() for path in folder(project).rglob("*.safetensors")}
    project.edit("params.yaml", {"epochs: 6": "epochs: 2", "plot:": "plot:  # of"})
    project.edit("params.yaml", {"[1, 6]": "[1, 2]"})
    assert "goes on" not in project.run(*project.train_command)
    assert len(project.manifests()) == 2
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.fault(11, "a finished run run again")
def test_a_finished_run_writes_nothing(project: Project, reference: Manifest) -> None:
    finish(project, reference)
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "runs").rglob("*")}
    assert "nothing is trained" in project.run(*project.train_command)
    assert {path: path.stat().st_mtime_ns for path in (project.folder / "runs").rglob("*")} == before
