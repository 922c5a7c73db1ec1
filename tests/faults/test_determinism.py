"""The same params give the same bits in every way of running: faults 25 to 28."""

import json
import shutil
from typing import Any

import pytest

from petseg.store.beginning import begin_anew
from petseg.store.records import sealed
from tests.support.project import Project

Manifest = dict[str, Any]


def digest(project: Project) -> str:
    (manifest,) = project.manifests().values()
    return str(manifest["tensors_sha256"])


@pytest.mark.fault(25, "two runs on one machine")
def test_two_runs_give_the_same_bits(project: Project, reference: Manifest) -> None:
    arrays = {path.name: path.read_bytes() for path in (project.folder / "data/pets").iterdir()}
    project.run("dvc", "repro", "--single-item", "--force", "preprocess")
    assert {path.name: path.read_bytes() for path in (project.folder / "data/pets").iterdir()} == arrays
    project.run(*project.train_command)
    assert digest(project) == reference["tensors_sha256"]


@pytest.mark.fault(27, "one core to preprocess with, or all")
def test_one_core_preprocesses_to_the_same_bytes(project: Project) -> None:
    """Preprocessing uses one worker per core; training loads its data without workers."""
    arrays = {path.name: path.read_bytes() for path in (project.folder / "data/pets").iterdir()}
    one_core = ("taskset", "-c", "0", *project.command("preprocess"))
    project.run(*one_core, environment=project.environment())
    assert {path.name: path.read_bytes() for path in (project.folder / "data/pets").iterdir()} == arrays


@pytest.mark.fault(26, "another environment than the run's record")
def test_a_different_environment_is_named(project: Project) -> None:
    project.run(*project.train_command)
    (key,) = project.manifests()
    path = project.folder / "runs" / key / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["environment"] |= {"torch": "1.0", "cpu_capability": "ABACUS"}
    path.chmod(0o644)
    path.write_text(json.dumps(sealed(manifest)))
    (project.folder / "runs/store.json").unlink()
    shutil.rmtree(project.folder / "runs/ledger")
    begin_anew(project.folder / "runs")  # the old ledger would show that the record was edited
    printed = project.run(*project.train_command)
    assert f"warning: run {key} began elsewhere, where bits may differ: torch 1.0 then" in printed
    assert "cpu_capability ABACUS then" in printed


@pytest.mark.parametrize(
    "way",
    ["repro", *(pytest.param(way, marks=pytest.mark.slow) for way in ("exp run -S", "--temp", "--queue"))],
)
@pytest.mark.fault(28, "repro, exp run -S, --temp, --queue")
def test_every_way_of_running_gives_the_same_bits(project: Project, reference: Manifest, way: str) -> None:
    same = ("-S", f"train.seed={reference['params']['train.seed']}", "--single-item", "train")
    if way == "repro":
        project.run("dvc", "repro", "--single-item", "train")
    elif way == "exp run -S":
        project.run("dvc", "exp", "run", *same)
    elif way == "--temp":
        project.run("dvc", "exp", "run", "--temp", *same)
    else:
        project.run("dvc", "exp", "run", "--queue", *same)
        project.run_queue(workers=1)
        shutil.rmtree(project.folder / ".dvc/tmp/exps", ignore_errors=True)
    assert digest(project) == reference["tensors_sha256"]
