"""The model that is used if none is named."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from petseg.core.textfiles import write_json
from petseg.data.arrays import COLUMNS, IMAGES, INDEX, TRIMAPS, PetArrays
from petseg.errors import DamagedFile, ParamsError, StoreError, UsageError
from petseg.models.device import set_up_torch
from petseg.predict.load import Model, choose
from petseg.store.champion import promote
from petseg.store.layout import ABOUT, MANIFEST, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from tests.support import ROOT
from tests.support.runs import make_run

A, B, C = "aaaa111122223333", "bbbb111122223333", "cccc111122223333"
BEST = "the best on these photos by validation Dice"


@dataclass
class Project:
    """A project with packed photos. Each run that is added is newer than the one before."""

    root: Path
    template: Path

    def add(
        self,
        key: str,
        val_dice: float | None,
        data: str | None = None,
        boundary: str | None = None,
        **manifest: Any,
    ) -> StoredRun:
        folder = self.root / "runs" / key
        shutil.copytree(self.template, folder)
        record = json.loads((folder / MANIFEST).read_text())
        record |= {"created": f"2026-01-0{len(list(folder.parent.iterdir()))}"}
        record |= {"data_sha256": data or PetArrays.open(self.arrays).digest}
        record |= {
            "params": {"data.boundary": boundary} if boundary else {},
            "best": {"epoch": 1, "val_dice": val_dice},
        }
        write_json(folder / MANIFEST, record | manifest)
        return StoredRun.open(folder)

    def pull(self, run: StoredRun) -> None:
        """Put the weights of a run where the pipeline puts them."""
        (self.root / "models").mkdir(exist_ok=True)
        for name in (WEIGHTS, ABOUT):
            shutil.copy(run.folder / name, self.root / "models" / name)

    @property
    def arrays(self) -> Path:
        return self.root / "data/pets"

    @property
    def model(self) -> Model:
        return choose(self.root, None, set_up_torch("cpu", 1))

    @property
    def chosen(self) -> str:
        return self.model.name


def split(fold: int | None) -> dict[str, Any]:
    return {"split": {"split.seed": 0, "split.folds": None if fold is None else 3, "split.fold": fold}}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("template") / A, "unet").folder


@pytest.fixture
def project(tmp_path: Path, template: Path) -> Project:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    project = Project(tmp_path, template)
    project.arrays.mkdir(parents=True)
    np.save(project.arrays / IMAGES, np.zeros((1, 2, 2, 3), np.uint8))
    np.save(project.arrays / TRIMAPS, np.ones((1, 2, 2), np.uint8))
    (project.arrays / INDEX).write_text(",".join(COLUMNS) + "\npug_1,pug,dog,val,2,2\n")
    return project


def test_the_champion_precedes_a_better_run(project: Project) -> None:
    project.add(A, 0.9)
    promote(project.add(B, 0.8, data="other photos"), force=False)
    assert project.chosen == f"run {B}, the champion"


def test_an_absent_champion_is_an_error(project: Project) -> None:
    project.add(A, 0.9)
    champion = project.add(B, 0.8)
    promote(champion, force=True)
    shutil.rmtree(champion.folder)
    with pytest.raises(UsageError, match=f"the champion {B} is not in runs/"):
        _ = project.chosen


def test_without_a_champion_the_best_by_validation_is_used(project: Project) -> None:
    project.add(A, 0.7)
    project.add(B, 0.8)
    project.add(C, 0.75)
    assert project.chosen == f"run {B}, {BEST}"
    run = project.model.run
    assert run is not None
    assert run.key == B


def test_of_equal_runs_the_newest_is_used(project: Project) -> None:
    for key in (B, C, A):
        project.add(key, 0.8)
    assert project.chosen == f"run {A}, {BEST}"


@pytest.mark.parametrize(
    "apart",
    [
        {"data": "other photos"},
        {"boundary": "ignore"},
        split(2),
        {"status": "running"},
        {"files": {WEIGHTS: ""}},
    ],
    ids=["other photos", "other boundary rule", "fold", "not finished", "no description"],
)
def test_a_run_that_cannot_be_compared_is_not_used(project: Project, apart: dict[str, Any]) -> None:
    project.add(A, 0.7, **split(None))
    project.add(B, 0.9, **apart)
    assert project.chosen == f"run {A}, {BEST}"
    shutil.rmtree(project.root / "runs" / A)
    with pytest.raises(UsageError, match="there is no model yet: dvc repro trains one, and --model FILE"):
        _ = project.chosen


def test_a_run_without_a_validation_dice_is_not_used(project: Project) -> None:
    project.add(A, 0.1)
    project.add(B, None)
    assert project.chosen == f"run {A}, {BEST}"


def test_a_run_of_two_outputs_precedes_those_of_one(project: Project) -> None:
    project.add(A, 0.9, boundary="foreground")
    project.add(B, 0.7)
    assert project.chosen == f"run {B}, {BEST}"


def test_runs_of_one_output_must_have_the_rule_of_params_yaml(project: Project) -> None:
    project.add(A, 0.9, boundary="foreground")
    project.add(B, 0.7, boundary="ignore")
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("boundary: foreground", "boundary: ignore"))
    assert project.chosen == f"run {B}, {BEST}"
    params.write_text("data: 3\n")
    with pytest.raises(ParamsError, match=r"params.yaml: data"):
        _ = project.chosen


@pytest.mark.parametrize("left", [(), (IMAGES, TRIMAPS)], ids=["nothing", "a part"])
def test_without_packed_photos_the_best_on_the_newest_runs_photos_is_used(
    project: Project, left: Any
) -> None:
    project.add(A, 0.9, data="older photos")
    project.add(B, 0.8, data="newer photos")
    project.add(C, 0.7, data="newer photos")
    adopted = project.add("dddd", None, adopted={"file": "elsewhere", "note": ""})
    write_json(adopted.folder / MANIFEST, {k: v for k, v in adopted.manifest.items() if k != "data_sha256"})
    project.add("eeee", 0.95, data="a fold's photos", **split(0))
    for name in {IMAGES, TRIMAPS, INDEX} - set(left):
        (project.arrays / name).unlink()
    assert project.chosen == f"run {B}, the best on the newest run's photos by validation Dice"


def test_half_written_packed_photos_count_as_absent(project: Project) -> None:
    project.add(A, 0.9, data="newer photos")
    (project.arrays / IMAGES).write_bytes(b"")
    assert project.chosen == f"run {A}, the best on the newest run's photos by validation Dice"


def test_packed_photos_that_vanish_count_as_absent(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.add(A, 0.9, data="newer photos")
    whole = PetArrays.open(project.arrays)
    shutil.rmtree(project.arrays)
    monkeypatch.setattr(PetArrays, "open", lambda folder: whole)
    assert project.chosen == f"run {A}, the best on the newest run's photos by validation Dice"


def test_during_a_training_a_model_of_the_store_is_used(project: Project) -> None:
    run = project.add(A, 0.8)
    project.add(B, None, status="running")
    project.pull(run)
    (project.root / "models" / ABOUT).unlink()  # DVC does that before it runs train
    assert project.chosen == f"run {A}, {BEST}"


def test_after_dvc_pull_the_pulled_model_is_used(project: Project, template: Path) -> None:
    project.pull(StoredRun.open(template))
    weights = project.root / "models" / WEIGHTS
    assert project.chosen == f"{weights}, of no run of this store, because runs/ has none to choose from"
    project.add(A, 0.8, data="other photos")
    assert project.chosen == f"{weights}, of run {A}, because runs/ has none to choose from"
    weights.with_suffix(".json").unlink()
    with pytest.raises(UsageError, match="there is no model yet"):
        _ = project.chosen


def test_a_project_without_runs_has_no_model(project: Project) -> None:
    with pytest.raises(UsageError, match="there is no model yet: dvc repro trains one, and --model FILE"):
        _ = project.chosen
    (project.root / "dvc.yaml").unlink()
    with pytest.raises(UsageError, match="no project of petseg in"):
        _ = project.chosen


def test_an_unreadable_run_is_named_and_the_others_are_compared(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(A, 0.7)
    path = project.add(B, 0.8).folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-9])
    assert A in project.chosen
    assert f"warning: {path}: is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_run_with_an_edited_record_is_named_and_the_others_are_compared(
    project: Project, capsys: pytest.CaptureFixture[str], is_sealed: bool
) -> None:
    project.add(A, 0.7)
    run = project.add(B, 0.6)
    with changing(project.root / "runs"):
        pass  # begins the ledger
    edited = run.manifest | {"best": {"epoch": 1, "val_dice": 0.99}}
    write_json(run.record, sealed(edited) if is_sealed else edited)
    assert A in project.chosen
    edit = f"{run.record}: is not what the ledger says; it was edited"
    assert f"warning: {edit}; the run is not used" in capsys.readouterr().err
    with pytest.raises(DamagedFile, match=f"{edit}; petseg runs verify says more"):
        StoredRun.open(run.folder).export({WEIGHTS: project.root / WEIGHTS})


@pytest.mark.parametrize("name", [WEIGHTS, ABOUT])
def test_a_damaged_best_run_is_named_and_no_other_is_used(project: Project, name: str) -> None:
    project.add(A, 0.7)
    path = project.add(B, 0.8).folder / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=f"{B}/{name}: "):
        _ = project.chosen


@pytest.mark.parametrize("name", [WEIGHTS, ABOUT])
def test_a_best_run_that_lost_a_file_is_named(project: Project, name: str) -> None:
    project.add(A, 0.7)
    (project.add(B, 0.8).folder / name).unlink()
    with pytest.raises(DamagedFile, match=f"{B}/"):
        _ = project.chosen


@pytest.mark.whole
def test_weights_of_another_run_in_the_best_run_are_refused(project: Project, tmp_path: Path) -> None:
    best = project.add(A, 0.8).folder
    other = make_run(tmp_path / "other", "resnet34_unet").folder
    for name in (WEIGHTS, ABOUT):
        shutil.copy(other / name, best / name)
    with pytest.raises(DamagedFile, match=rf"{A}/model\.(json|safetensors): differs from its recorded hash"):
        _ = project.chosen


def test_runs_of_an_earlier_petseg_are_compared(project: Project) -> None:
    run = project.add(A, 0.8)
    manifest = {k: v for k, v in run.manifest.items() if k not in ("data_sha256", "params")}
    write_json(run.folder / MANIFEST, manifest)  # like a run whose origin is not known
    project.add(B, 0.7)  # without "split" and "data", like older runs
    assert project.chosen == f"run {B}, {BEST}"


def test_a_threshold_changes_one_edge_or_the_only_one(tmp_path: Path) -> None:
    device = torch.device("cpu")
    two = Model.of_run(make_run(tmp_path / "two", "unet"), device)
    assert two.shown_as("tight", 0.1).thresholds == {"whole": 0.45, "tight": 0.1}
    assert two.shown_as("whole", 0.1).thresholds == {"whole": 0.1, "tight": 0.27}
    one = Model.of_run(make_run(tmp_path / "one", "unet", one_output=True), device)
    assert one.shown_as("tight").thresholds == {"whole": 0.45, "tight": 0.45}
    assert one.shown_as("tight", 0.1).thresholds == {"whole": 0.1, "tight": 0.1}
