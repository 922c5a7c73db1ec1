"""MLflow's files follow a project that was moved, renamed or copied."""

import shutil
from pathlib import Path

import mlflow
import pytest

from petseg.core.project import tracking_uri
from petseg.tracking.client import EXPERIMENT, connect, experiment_id


def project_in(folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a project with an MLflow run that has an artifact."""
    (folder / ".dvc/tmp").mkdir(parents=True)
    shutil.copy(database, folder / "mlflow.db")
    log(folder, monkeypatch, "first")


def log(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """Log an artifact from a folder, and return the id of the MLflow run."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = connect()
    run = client.create_run(experiment_id(client, EXPERIMENT))
    client.log_text(run.info.run_id, text, "note.txt")
    return str(run.info.run_id)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def notes(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in (folder / "mlartifacts").rglob("note.txt"))


@pytest.mark.parametrize("name", ["here", "with a space & ü"])
def test_files_follow_a_project_that_was_moved(
    tmp_path: Path,
    mlflow_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    project_in(tmp_path / name, mlflow_database, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).rename(tmp_path / "there now")
    capsys.readouterr()
    log(tmp_path / "there now", monkeypatch, "second")
    assert f"the project was at {tmp_path / name}\n" in capsys.readouterr().err
    assert notes(tmp_path / "there now") == ["first", "second"]
    assert not (tmp_path / name).exists()
    mlflow.set_tracking_uri(tracking_uri())
    for run in mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list"):
        note, got = f"runs:/{run.info.run_id}/note.txt", str(tmp_path / "got")
        file = mlflow.artifacts.download_artifacts(note, dst_path=got)
        assert Path(file).is_file()
    log(tmp_path / "there now", monkeypatch, "third")
    assert capsys.readouterr().err == ""


def test_a_copy_writes_nothing_into_the_original(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_in(tmp_path / "original", mlflow_database, monkeypatch)
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    before = contents(tmp_path / "original")
    log(tmp_path / "copy", monkeypatch, "second")
    assert notes(tmp_path / "copy") == ["first", "second"]
    assert contents(tmp_path / "original") == before


def test_artifacts_in_a_chosen_place_stay_there(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that several projects use belongs to none of them."""
    project_in(tmp_path / "one", mlflow_database, monkeypatch)
    (tmp_path / "two/.dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "two")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/one/mlflow.db")
    client = connect()
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    assert found.artifact_location == (tmp_path / "one/mlartifacts" / EXPERIMENT).as_uri()
