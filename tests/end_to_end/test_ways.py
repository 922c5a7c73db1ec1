"""Every way of running has the same result: one row per model, one run in the store, the same weights."""

import csv
import shutil
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest

from petseg.core.files import sha256_file
from petseg.core.textfiles import read_yaml
from tests.support.project import Project, mlflow_runs

OUTS = ["models/model.safetensors", "metrics/test.json", "plots/figures/curves.png"]


def checked_rows(project: Project) -> dict[str, Any]:
    """Check the rows of all models in MLflow, and return them by seed."""
    found = mlflow_runs(project.folder, children=True)
    rows = {row.data.params["train.seed"]: row for row in found if row.data.tags["stage"] == "train"}
    manifests = project.manifests()
    assert len(rows) == len(manifests) == sum(row.data.tags["stage"] == "train" for row in found)
    assert {row.info.status for row in found} == {"FINISHED"}
    client = mlflow.MlflowClient()
    for row in rows.values():
        manifest = manifests[row.data.tags["run_key"]]
        assert manifest["status"] == "finished"
        children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == row.info.run_id]
        assert sorted(child.data.tags["stage"] for child in children) == ["infer", "plot"]
        scores = {child.data.tags["stage"]: child.data.metrics for child in children}["infer"]
        assert row.data.metrics["test/dice_per_image"] == scores["test/dice_per_image"]
        epochs = client.get_metric_history(row.info.run_id, "loss/train")
        assert [point.step for point in epochs] == [1, 2, 3, 4, 5, 6]
        weights = project.folder / row.data.tags["weights"]
        recorded = manifest["files"]["model.safetensors"]
        artifacts = project.folder / "mlartifacts/petseg" / row.info.run_id / "artifacts"
        assert sha256_file(weights) == sha256_file(artifacts / "weights/model.safetensors") == recorded
        listed = {path.relative_to(artifacts).parts[0] for path in artifacts.rglob("*")}
        assert listed == {"weights", "images", "test", "figures", "card.md"}
        assert sha256_file(artifacts / "figures/curves.png") in [
            sha256_file(path) for path in weights.parent.glob("figures/*/curves.png")
        ]
    assert len(client.search_logged_models(["1"])) == len(rows)
    assert len(client.search_model_versions("name = 'petseg'")) == len(rows)
    assert not list((project.folder / ".dvc/tmp/exps").rglob("*.safetensors"))
    assert not [path for path in (project.folder / ".dvc/tmp/petseg-outbox").rglob("*") if path.is_file()]
    return rows


def workspace(project: Project) -> dict[str, str]:
    """The state of the workspace, which an experiment in another folder must not change."""
    status = {"git": project.run("git", "status", "--porcelain")}
    return status | {name: sha256_file(project.folder / name) for name in [*OUTS, "params.yaml", "dvc.lock"]}


def test_repro_works_from_a_subfolder(project: Project) -> None:
    project.edit("params.yaml", {"train:\n  seed: 0": "train:\n  seed: 9"})
    project.run("dvc", "repro", "../dvc.yaml", folder="docs")
    assert not list((project.folder / "docs").glob("ml[!f]*"))  # no artifacts
    assert not (project.folder / "docs/mlflow.db").exists()
    assert checked_rows(project).keys() == {"0", "9"}
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout")


def test_a_training_has_the_data_of_the_stages_before(project: Project) -> None:
    row = checked_rows(project)["0"]
    runs = mlflow_runs(project.folder, experiment="petseg-data")
    stages = {run.data.tags["stage"]: run for run in runs}
    assert stages.keys() == {"download", "preprocess"}
    prepared = stages["preprocess"]
    assert prepared.data.tags["data_sha256"] == row.data.tags["data_sha256"]

    def digests(run: Any) -> dict[str, str]:
        return {used.dataset.name: used.dataset.digest for used in run.inputs.dataset_inputs}

    assert digests(prepared)["pets"] == digests(row)["pets"]
    assert digests(prepared).items() > digests(stages["download"]).items() != set()


def test_an_experiment_runs_in_the_workspace(project: Project) -> None:
    project.run("dvc", "exp", "run", "-n", "here", "-S", "train.seed=1")
    row = checked_rows(project)["1"]
    assert (row.info.run_name, row.data.tags["dvc_experiment"]) == ("here", "here")
    assert row.data.tags["source_file"] == str(project.folder / "stages/train.py")
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout")


def test_an_experiment_in_a_temporary_folder_runs_its_own_code(project: Project) -> None:
    project.edit("petseg/core/formats.py", {"def duration": "SNAPSHOT = True\n\n\ndef duration"})
    before = workspace(project)
    project.run("dvc", "exp", "run", "--temp", "-n", "there", "-S", "train.seed=2")
    assert workspace(project) == before
    row = checked_rows(project)["2"]
    assert row.info.run_name == "there"
    source = Path(row.data.tags["source_file"])
    assert source.is_relative_to(project.folder / ".dvc/tmp/exps")
    assert not source.exists()
    run = project.folder / "runs" / row.data.tags["run_key"]
    assert "+SNAPSHOT = True" in (run / "changes.diff").read_text()
    assert row.data.tags["uncommitted_changes"] == "True"
    project.run("git", "checkout", "-q", ".")


def test_a_queue_runs_with_two_workers(project: Project) -> None:
    before = workspace(project)
    project.run("dvc", "exp", "run", "--queue", "-S", "train.seed=3,4")
    project.run_queue(workers=2)
    assert checked_rows(project).keys() == {"0", "1", "2", "3", "4", "9"}
    assert workspace(project) == before


def test_stages_run_as_scripts(project: Project) -> None:
    project.edit("params.yaml", {"train:\n  seed: 0": "train:\n  seed: 5"})
    for stage in ("train", "infer", "plot"):
        project.run(*project.command(stage))
    assert "5" in checked_rows(project)
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "--force")


def test_the_command_petseg_runs_the_pipeline(project: Project) -> None:
    options = ("-batch_size", "4", "-data_path", "../few", "-S", "train.seed=8")
    command = ("python", "-m", "petseg", "infer", *options)
    printed = project.run(*command, folder="docs", environment={"PYTHONPATH": str(project.folder)})
    assert "dvc exp run infer -S data.source=few -S infer.batch_size=4 -S train.seed=8" in printed
    project.run("dvc", "repro")
    assert "8" in checked_rows(project)
    assert read_yaml(project.folder / "params.yaml")["infer"]["batch_size"] == 4
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "--force")


def test_the_same_training_again_keeps_its_row(project: Project) -> None:
    before = {row.info.run_id: row.info.end_time for row in checked_rows(project).values()}
    project.run("dvc", "exp", "run", "--temp", "-S", "train.seed=4")
    project.run("dvc", "repro", "--force", "--single-item", "train")
    project.run("dvc", "repro", "--force", "--single-item", "infer")
    assert {row.info.run_id: row.info.end_time for row in checked_rows(project).values()} == before


def test_another_folder_gives_the_same_weights_and_keeps_its_own_records(
    project: Project, tmp_path: Path, forks: Path, mlflow_database: Path
) -> None:
    other = Project(tmp_path / "other", {}, forks)
    shutil.copy(mlflow_database, other.folder / "mlflow.db")
    subprocess.run(["git", "fetch", "-q", str(project.folder)], cwd=other.folder, check=True)
    other.run("git", "reset", "-q", "--hard", "FETCH_HEAD")
    other.run("dvc", "repro", "train")
    (key,) = other.manifests()
    assert other.manifests()[key]["tensors_sha256"] == project.manifests()[key]["tensors_sha256"]
    assert len(mlflow_runs(other.folder)) == 1
    ours, theirs = project.lock(), other.lock()
    for out in ("data/pets", "models/model.safetensors", "models/evolution.npz", "models/model.json"):
        assert ours[out] == theirs[out]


@pytest.mark.parametrize(
    ("file", "old", "new", "named", "seed"),
    [
        ("params.yaml", "weight_decay: 1.0e-1", "weight_decay: 0.2", "params.yaml: train", 6),
        ("petseg/training/loop.py", '"""', '"""  ', "petseg/training/loop.py", 7),
    ],
)
def test_an_edit_during_a_stage_makes_it_fail(
    project: Project, file: str, old: str, new: str, named: str, seed: int
) -> None:
    lock = (project.folder / "dvc.lock").read_bytes()
    project.edit("params.yaml", {"train:\n  seed: 0": f"train:\n  seed: {seed}", "epochs: 6": "epochs: 20"})
    with project.start("dvc", "repro", "--single-item", "train") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "epoch  1/20" in line)
        project.edit(file, {old: new})
        printed = process.communicate()[0]
    assert process.returncode != 0
    assert f"petseg train: {named}" in printed
    assert "changed while the stage ran" in printed
    assert (project.folder / "dvc.lock").read_bytes() == lock
    project.run("git", "checkout", "-q", ".")


def test_a_training_does_not_show_scores_of_other_weights(project: Project) -> None:
    scores = project.folder / "metrics/test.json"
    assert scores.exists()
    project.run("dvc", "exp", "run", "-n", "unscored", "-S", "train.seed=11", "train")
    assert not scores.exists()
    table = list(csv.DictReader(project.run("dvc", "exp", "show", "--csv").splitlines()))
    (row,) = [row for row in table if row["Experiment"] == "unscored"]
    assert row["val_dice"]
    assert row["dice_per_image"] == "!"  # DVC's sign for an absent value
    assert "unscored" in project.run("make", "table")
    project.run("dvc", "repro")
    assert scores.exists()
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "--force")
