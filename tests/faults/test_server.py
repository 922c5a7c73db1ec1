"""An MLflow server that is down, is killed and comes back: a real one, on loopback."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.support.mlflow_server import MlflowServer
from tests.support.project import Project, mlflow_runs

EPOCHS = 10
SECRET = uuid.uuid4().hex  # random, so that no file has it by chance, and not even this one
SYNC = ("python", "-m", "petseg", "runs", "sync")


@pytest.fixture(scope="module")
def project(prepared: Project, forks: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = prepared.copy(tmp_path_factory.mktemp("clone") / "project", forks)
    project.edit("params.yaml", {"epochs: 6": f"epochs: {EPOCHS}"})
    return project


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), project.environment())
    yield server
    server.kill()


@pytest.fixture
def logging_to(server: MlflowServer) -> dict[str, str]:
    """The environment of a program that logs to the server, with a password that must appear nowhere."""
    return {"MLFLOW_TRACKING_URI": server.uri.replace("//", f"//someone:with@{SECRET}@")}


def rows(server: MlflowServer) -> "list[mlflow.entities.Run]":
    mlflow.set_tracking_uri(server.uri)
    found: list[mlflow.entities.Run] = mlflow.search_runs(experiment_names=["petseg"], output_format="list")
    return found


def steps(run: Any, metric: str) -> list[int]:
    return sorted(p.step for p in mlflow.MlflowClient().get_metric_history(run.info.run_id, metric))


def test_a_server_that_was_killed_gets_the_missed_rows_once(
    project: Project, server: MlflowServer, logging_to: dict[str, str]
) -> None:
    server.start()
    with project.start(*project.train_command, environment=logging_to) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "epoch  3/" in line)
        server.kill()
        printed = process.stdout.read()
    assert process.returncode == 0, printed
    assert printed.count("warning: MLflow does not answer") == 1
    (manifest,) = project.manifests().values()
    assert manifest["status"] == "finished"
    for stage in ("infer", "plot"):
        printed += project.run(*project.command(stage), environment=logging_to)
    assert "Traceback" not in printed
    assert SECRET not in printed

    server.start()
    (row,) = rows(server)
    assert row.info.status == "RUNNING"
    assert 3 <= len(steps(row, "loss/train")) < EPOCHS
    printed_by_sync = project.run(*SYNC, environment=logging_to)
    assert "logged in MLflow: 1; already logged: 0" in printed_by_sync
    assert SECRET not in printed_by_sync
    assert "logged in MLflow: 0; already logged: 0" in project.run(*SYNC, environment=logging_to)
    for attempt in ("once", "again"):
        found = {run.data.tags["stage"]: run for run in rows(server)}
        assert len(rows(server)) == 3, attempt
        assert {run.info.status for run in found.values()} == {"FINISHED"}
        row = found["train"]
        assert steps(row, "loss/train") == steps(row, "loss/val") == list(range(1, EPOCHS + 1))
        assert steps(row, "test/dice_per_image") == [0]
        client = mlflow.MlflowClient()
        images = [file.path for file in client.list_artifacts(row.info.run_id, "images")]
        assert len(images) == 2 * EPOCHS
        assert len(client.search_logged_models([row.info.experiment_id])) == 1
        assert len(client.search_model_versions("name = 'petseg'")) == 1
        project.run(*SYNC, "--all", environment=logging_to)
    server.kill()


def test_the_next_stage_logs_the_missed_rows(
    project: Project, server: MlflowServer, logging_to: dict[str, str]
) -> None:
    project.edit("params.yaml", {"threshold: auto": "threshold: 0.5"})
    assert "warning: MLflow does not answer" in project.run(*project.command("infer"), environment=logging_to)
    server.start()
    assert len(rows(server)) == 3
    project.run(*project.command("download"), environment=logging_to)
    assert sorted(run.data.tags["stage"] for run in rows(server)) == ["infer", "infer", "plot", "train"]
    server.kill()


def test_an_empty_mlflow_is_filled_from_the_store(project: Project) -> None:
    elsewhere = {"MLFLOW_TRACKING_URI": f"sqlite:///{project.folder}/new/mlflow.db"}
    (project.folder / "new").mkdir()
    assert "logged in MLflow: 1; already logged: 0" in project.run(*SYNC, "--all", environment=elsewhere)
    assert "logged in MLflow: 0; already logged: 1" in project.run(*SYNC, "--all", environment=elsewhere)
    (row,) = mlflow_runs(project.folder / "new")
    assert len(mlflow_runs(project.folder / "new", children=True)) == 4
    assert steps(row, "loss/train") == list(range(1, EPOCHS + 1))
    assert {"weights", "figures", "test", "images", "card.md"} == {
        file.path for file in mlflow.MlflowClient().list_artifacts(row.info.run_id)
    }


def test_no_file_has_the_password(project: Project, server: MlflowServer) -> None:
    for folder in (project.folder, server.folder):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert SECRET.encode() not in path.read_bytes(), path
