"""The pipeline as a user runs it: real photos, real DVC and real MLflow, in clones of this repository."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from petseg.data.arrays import PetArrays
from petseg.store.writer import open_run
from tests.support.project import FEW, STAGES, TINY, Project, hashes, mlflow_runs, ran


def test_the_pipeline_runs_from_a_clone(trained: Project) -> None:
    printed = (trained.folder / ".dvc/tmp/printed").read_text()
    assert ran(printed) == STAGES
    assert "epoch 6/6  loss " in printed
    assert "Traceback" not in printed
    assert "warning" not in printed.lower()


def test_the_pipeline_leaves_scores_tables_figures_and_a_page(project: Project) -> None:
    metrics = json.loads((project.folder / "metrics/test.json").read_text())
    per_image = pd.read_csv(project.folder / "plots/test/per_image.csv")
    scored = ["dice", "iou", "boundary_f"]
    own = [f"own_{name}" for name in scored]
    assert list(per_image.columns) == ["name", "breed", "species", *scored, *own]
    assert len(per_image) == metrics["photos"] == 8
    assert metrics["dice_per_image"] == pytest.approx(per_image["dice"].mean(), abs=1e-5)
    assert metrics["dice_per_image_low"] < metrics["dice_per_image"] < metrics["dice_per_image_high"]
    assert metrics["own_resolution"]["dice_per_image"] == pytest.approx(
        per_image["own_dice"].mean(), abs=1e-5
    )
    assert metrics["mean_mask"]["dice_per_image"] > metrics["all_foreground"]["dice_per_image"]
    scores = json.loads((project.folder / "plots/test/scores.json").read_text())
    assert scores["model"]["dice_per_image"] == metrics["dice_per_image"]
    assert scores["all_foreground"]["recall"] == 1
    for answer in ("model", "own_resolution", "all_foreground", "mean_mask"):
        background, ignore = (scores[answer][f"boundary_{rule}"] for rule in ("background", "ignore"))
        assert scores[answer].keys() > background.keys() == ignore.keys()
        assert background["boundary_f_per_image"] is not None
        assert ignore["boundary_f_per_image"] is None
    assert {name: group["photos"] for name, group in scores["species"].items()} == (
        per_image["species"].value_counts().to_dict()
    )
    breeds = pd.read_csv(project.folder / "plots/test/breeds.csv")
    assert breeds["photos"].sum() == 8
    thresholds = pd.read_csv(project.folder / "plots/test/thresholds.csv").set_index("threshold")
    in_use = thresholds.loc[metrics["threshold"]]
    for score in ("dice_per_image", "iou_per_image", "precision", "recall"):
        assert in_use[f"test_{score}"] == pytest.approx(metrics[score], abs=1e-5)
    assert thresholds["val_dice_per_image"].max() == pytest.approx(in_use["val_dice_per_image"], abs=0.02)
    calibration = pd.read_csv(project.folder / "plots/test/calibration.csv")
    assert calibration["pixels"].sum() == 8 * 32 * 32
    assert breeds["dice_per_image"].is_monotonic_increasing
    arrays = PetArrays.open(project.folder / "data/pets")
    assert arrays.images.shape == (24, 32, 32, 3)
    figures = sorted(path.stem for path in (project.folder / "plots/figures").iterdir())
    assert figures == [
        "augmentation", "breeds", "calibration", "confusion", "curves", "dice_histogram", "evolution",
        "examples", "preprocessing", "thresholds",
    ]  # fmt: skip
    for path in (project.folder / "plots/figures").iterdir():
        assert np.asarray(Image.open(path)).std() > 0
    run_key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
    (kept,) = (project.folder / "runs" / run_key / "figures").glob("*/report.html")
    page = kept.read_text()
    assert page.count(f"petseg runs restore {run_key}") == 1
    assert '"infer.flip_average","true"' in page
    printed = project.run("python", "-m", "petseg.cli.summary")
    assert f"test Dice   {metrics['photos']} photos" in printed
    assert f"{metrics['dice_per_image']:.4f} (" in printed
    assert f"{metrics['boundary_background']['dice_per_image']:.4f} (" in printed
    assert "bit for bit: all 13 outs are as in the committed dvc.lock" in printed
    project.run("python", "-m", "petseg", "report", "--no-open")
    assert (project.folder / "plots/report.html").read_text() == page


def test_one_row_in_mlflow_has_params_scores_data_and_artifacts(project: Project) -> None:
    (row,) = mlflow_runs(project.folder)
    run_file = json.loads((project.folder / "models/model.json").read_text())
    assert row.info.status == "FINISHED"
    assert row.data.params["train.epochs"] == "6"
    metrics = json.loads((project.folder / "metrics/test.json").read_text())
    assert row.data.metrics["test/dice_per_image"] == pytest.approx(metrics["dice_per_image"])
    assert {"loss/train", "loss/val", "dice/train", "dice/val", "learning_rate"} <= row.data.metrics.keys()
    tags = row.data.tags
    assert tags["run_key"] == run_file["run_key"]
    assert tags["data_sha256"] == PetArrays.open(project.folder / "data/pets").digest
    assert len(tags["git_commit"]) == 40
    assert (project.folder / tags["weights"]).is_file()
    (data,) = row.inputs.dataset_inputs
    assert data.dataset.digest == tags["data_sha256"][:36]
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(row.info.run_id)}
    assert names == {"card.md", "figures", "images", "test", "weights"}


def test_the_logged_model_gives_the_masks_that_were_scored(project: Project) -> None:
    (row,) = mlflow_runs(project.folder)
    (logged,) = mlflow.MlflowClient().search_logged_models([row.info.experiment_id])
    assert logged.source_run_id == row.info.run_id
    arrays = PetArrays.open(project.folder / "data/pets")
    table = pd.read_csv(project.folder / "plots/test/per_image.csv").set_index("name")
    rows = arrays.rows("test")[:3]
    scored = {"edge": "whole", "as_is": True}
    masks = mlflow.pyfunc.load_model(logged.model_uri).predict(np.array(arrays.images[rows]), params=scored)
    for name, mask, trimap in zip(arrays.index["name"][rows], masks, arrays.trimaps[rows], strict=True):
        true = trimap != 2
        dice = 2 * (mask & true).sum() / (mask.sum() + true.sum())
        assert dice == pytest.approx(table.loc[name, "dice"], abs=1e-6)


def test_the_store_has_the_run(project: Project) -> None:
    key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
    with open_run(project.folder / "runs", key, {}) as run:
        assert run.finished
        assert len(run.history) == 6
        stored = (run.folder / "model.safetensors").read_bytes()
        assert run.manifest["environment"]["threads"] == 1
    assert stored == (project.folder / "models/model.safetensors").read_bytes()


def test_a_second_repro_has_nothing_to_do(project: Project) -> None:
    assert "Data and pipelines are up to date." in project.run("dvc", "repro")


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("params.yaml", "examples: 6", "examples: 5", {"plot"}),
        ("params.yaml", "flip_average: true", "flip_average: false", {"infer"}),
        ("params.yaml", "learning_rate: 5.0e-2", "learning_rate: 1e-3", {"train"}),
        ("params.yaml", "threads: 1", "threads: 2", {"train", "infer"}),
        ("params.yaml", "flip: 0.5", "flip: 0.0", {"train", "plot"}),
        ("params.yaml", "boundary: foreground", "boundary: ignore", {"infer"}),
        ("params.yaml", "val_fraction: 0.25", "val_fraction: 0.2", {"preprocess", "train"}),
        ("params.yaml", "source: few", "source: oxford", {"download"}),
        ("params.yaml", "encoder_weights: none", "encoder_weights: imagenet", {"encoder", "train"}),
        ("petseg/report/page.css", ":root {", ":root  {", {"plot"}),
        ("petseg/training/optim.py", '"""', '"""  ', {"train", "plot"}),
        ("petseg/data/download.py", '"""', '"""  ', set(STAGES)),
        ("petseg/core/progress.py", '"""', '"""  ', {"preprocess", "train", "infer", "plot"}),
        ("petseg/tracking/rows.py", '"""', '"""  ', set()),
        ("petseg/models/predictor.py", '"""', '"""  ', {"train", "infer"}),
    ],
)
def test_an_edit_makes_only_dependent_stages_stale(
    project: Project, file: str, old: str, new: str, stages: set[str]
) -> None:
    project.edit(file, {old: new})
    try:
        assert project.changed_stages() == stages
    finally:
        project.run("git", "checkout", "-q", file)


def test_only_changed_stages_run_again(project: Project) -> None:
    project.edit("params.yaml", {"examples: 6": "examples: 4"})
    printed = project.run("dvc", "repro")
    assert [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")] == [
        "plot"
    ]
    project.run("git", "checkout", "-q", "params.yaml")
    assert "Running stage" not in project.run("dvc", "repro")  # DVC's run cache has the outs


def test_wrong_params_stop_everything_with_all_mistakes(project: Project) -> None:
    before = project.lock()
    wrong = ["-S", "data.image_size=96.5", "-S", "train.learning_rate=-1", "-S", "+train.lerning_rate=1"]
    printed = project.run("dvc", "exp", "run", "--temp", *wrong, fails=True)
    for mistake in (
        "petseg preprocess: params.yaml: data.image_size: 96.5 must be a valid integer",
        "petseg preprocess: params.yaml: train.learning_rate: -1",
        "petseg preprocess: params.yaml: train.lerning_rate: unknown key; did you mean learning_rate?",
    ):
        assert mistake in printed
    assert "Traceback" not in printed
    assert project.lock() == before
    assert project.changed_stages() == set()


@pytest.mark.parametrize("value", ["x; touch INJECTED", "$(touch INJECTED)", "`touch INJECTED`"])
def test_a_param_is_never_executed(project: Project, value: str) -> None:
    printed = project.run("dvc", "exp", "run", "--temp", "-S", f"model.name='{value}'", fails=True)
    assert "petseg train: params.yaml: model.name:" in printed
    assert not [path for path in project.folder.rglob("INJECTED*") if ".git" not in path.parts]


@pytest.mark.parametrize("text", ["1e-4", "3e-05"])
def test_numbers_in_scientific_notation_are_accepted(project: Project, text: str) -> None:
    overrides = ["-S", f"train.learning_rate={text}", "-S", "train.epochs=0"]
    printed = project.run("dvc", "exp", "run", "--temp", *overrides, fails=True)
    mistakes = [line for line in printed.splitlines() if line.startswith("petseg train: params.yaml")]
    assert mistakes == ["petseg train: params.yaml: train.epochs: 0 must be greater than or equal to 1"]


def test_an_experiment_is_compared_with_the_last_commit(project: Project) -> None:
    project.run("dvc", "exp", "run", "-n", "other-seed", "-S", "train.seed=1", "-S", "train.epochs=1")
    rows = {run.info.run_name: run for run in mlflow_runs(project.folder)}
    assert len(rows) == 2
    assert rows["other-seed"].data.tags["dvc_experiment"] == "other-seed"
    assert "other-seed" in project.run("dvc", "exp", "show", "--csv")
    assert "dice_per_image" in project.run("dvc", "metrics", "diff")
    assert "train.seed" in project.run("dvc", "params", "diff")
    project.run("dvc", "plots", "diff", "HEAD", "--out", "compared")
    page = (project.folder / "compared/index.html").read_text()
    assert "Loss by epoch" in page
    assert "Dice by epoch" in page
    assert list((project.folder / "compared").rglob("*.png"))
    assert project.changed_stages() == set()
    project.run("git", "checkout", "-q", "dvc.lock", "params.yaml", "metrics")
    project.run("dvc", "checkout")
    assert project.changed_stages() == set()
    assert project.run("git", "status", "--porcelain", "--untracked-files=no") == ""


def test_runs_are_compared_by_key_and_by_filter(project: Project) -> None:
    project.run("dvc", "exp", "run", "--temp", "-S", "train.loss=dice", "-S", "train.epochs=1", "train")
    keys = sorted(project.manifests())
    printed = project.run("python", "-m", "petseg", "compare", *keys, "--figure", "drawn/compared.png")
    assert "loss=dice" in printed
    assert "val Dice, 4 photos" in printed
    assert np.asarray(Image.open(project.folder / "drawn/compared.png")).std() > 0
    filtered = project.run("python", "-m", "petseg", "compare", "params.`train.loss` = 'dice'", "--json")
    (setting,) = json.loads(filtered)["settings"]
    assert set(setting["keys"]) < set(keys)
    key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
    (run_id,) = [r.info.run_id for r in mlflow_runs(project.folder) if r.data.tags["run_key"] == key]
    (mine,) = json.loads(project.run("python", "-m", "petseg", "compare", run_id, "--json"))["settings"]
    metrics = json.loads((project.folder / "metrics/test.json").read_text())
    assert mine["test_dice"] == pytest.approx(metrics["dice_per_image"], abs=1e-5)
    assert mine["val_dice"] == pytest.approx(
        json.loads((project.folder / "metrics/train.json").read_text())["val_dice"], abs=1e-5
    )
    for wrong, message in (("zz", "zz: no such run"), ("params.x =", "params.x =: is no MLflow filter")):
        assert f"petseg: {message}" in project.run("python", "-m", "petseg", "compare", wrong, fails=True)


def petseg(project: Project, *arguments: str, fails: bool = False) -> str:
    return project.run("python", "-m", "petseg", "runs", *arguments, fails=fails)


def test_a_run_is_listed_verified_restored_and_identified(project: Project) -> None:
    key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
    metrics = json.loads((project.folder / "metrics/test.json").read_text())
    (row,) = [row for row in json.loads(petseg(project, "list", "--json"))["runs"] if row["id"] == key]
    assert row["test"] == metrics["dice_per_image"]
    assert not row["changed"]
    report = json.loads(petseg(project, "verify", "--json"))
    assert report["damages"] == []
    assert report["files"]["MLflow"] >= 2  # the copies of the row and of the logged model
    assert report["files"]["DVC's cache"] > 10
    petseg(project, "restore", key, "--to", "away/copy.safetensors")
    assert f"the weights of run {key}" in petseg(project, "which", "away/copy.safetensors")
    card = (project.folder / "runs" / key / "card.md").read_text()
    assert f"{metrics['dice_per_image']:.4f}" in card
    assert "data.source `few`" in card
    copy = next((project.folder / "mlartifacts").rglob("weights/model.safetensors"))
    data = copy.read_bytes()
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    printed = petseg(project, "verify", fails=True)
    copy.write_bytes(data)
    assert "/weights/model.safetensors: differs from run" in printed


def test_the_champion_has_the_alias_in_mlflow(project: Project) -> None:
    key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
    assert "in MLflow models:/petseg@champion, version " in petseg(project, "promote", key)
    assert "was the champion already" in petseg(project, "promote", key)
    mlflow.set_tracking_uri(f"sqlite:///{project.folder / 'mlflow.db'}")
    versions = mlflow.MlflowClient().search_model_versions("name = 'petseg'")
    assert len({version.tags["run_key"] for version in versions}) == len(versions)
    assert mlflow.MlflowClient().get_model_version_by_alias("petseg", "champion").tags["run_key"] == key
    photo = np.zeros((32, 32, 3), np.uint8)
    assert mlflow.pyfunc.load_model("models:/petseg@champion").predict(photo).shape == (32, 32)
    assert "is the champion, and is not pruned" in petseg(project, "prune", key, fails=True)


def test_a_run_without_its_commit_is_reproduced_with_its_stored_code(
    project: Project, forks: Path, tmp_path: Path
) -> None:
    """A clone may be deleted before it was pushed, so that only its runs are left."""
    left = project.copy(tmp_path / "left", forks)
    key = json.loads((left.folder / "models/model.json").read_text())["run_key"]
    shutil.rmtree(left.folder / ".git")
    left.edit("petseg/models/unet.py", {"max_pool2d": "avg_pool2d"})
    left.run("git", "init", "-q")
    left.commit("another history")
    assert f"run {key}: identical" in petseg(left, "reproduce", key)


def test_a_run_is_reproduced_bit_for_bit(project: Project) -> None:
    key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "runs").rglob("*")}
    assert f"run {key}: identical" in petseg(project, "reproduce", key)
    assert {path: path.stat().st_mtime_ns for path in (project.folder / "runs").rglob("*")} == before
    assert len(project.run("git", "worktree", "list").splitlines()) == 1


def test_another_clone_in_a_temporary_folder_gives_the_same_bits(
    project: Project, tmp_path: Path, forks: Path, mlflow_database: Path
) -> None:
    other = Project(tmp_path / "another", TINY | FEW, forks)
    shutil.copy(mlflow_database, other.folder / "mlflow.db")
    other.run("dvc", "exp", "run", "--temp", "-n", "same", "train")
    reference = other.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()[0]
    theirs = hashes(YAML(typ="safe").load(other.run("git", "show", f"{reference}:dvc.lock")))
    ours = project.lock()
    for path in ("archives", "pets"):
        assert ours[f"data/{path}"] == theirs[f"data/{path}"]
    for path in ("model.safetensors", "model.json", "evolution.npz"):
        assert ours[f"models/{path}"] == theirs[f"models/{path}"]
    # The run and its row are in the clone itself, not in the temporary folder.
    (manifest,) = other.manifests().values()
    assert manifest["status"] == "finished"
    assert len(mlflow_runs(other.folder)) == 1
