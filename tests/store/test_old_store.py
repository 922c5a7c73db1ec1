"""The commands of today can read a store that an earlier petseg made: tests/store/old_store."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from petseg.core.files import sha256_file
from petseg.models.device import environment
from petseg.models.weights import load_tensors, save_tensors
from petseg.pipeline.dvcfiles import stage_command
from petseg.store.chain import LEDGER, MARKER
from petseg.store.reproduce import input_folders
from petseg.store.run import StoredRun
from tests.support import ROOT

STORE = ROOT / "tests/store/old_store"
FINISHED, KILLED, ADOPTED = "b3e6e8c3768b817b", "e8cf7b82815377ce", "557fb6c827d5049b"
COMMIT = "f2f1b92dda5e954afc71513301aeb325a875422f"  # its code made the store
PROCESSOR = "Intel(R) Xeon(R) Processor, family 6, model 167"  # that code did not record it


class OldProject:
    """A project of today that has the old store and its photos."""

    def __init__(self, folder: Path, forks: Path) -> None:
        self.folder, self._forks = folder, forks
        (folder / ".dvc").mkdir(parents=True)
        for name in (".dvc/config", "dvc.yaml", "params.yaml"):
            shutil.copyfile(ROOT / name, folder / name)
        shutil.copytree(STORE / "runs", folder / "runs", copy_function=shutil.copyfile)
        shutil.copytree(STORE / "pets", folder / "data/pets", copy_function=shutil.copyfile)

    def runs(self, *arguments: str, code: int = 0) -> str:
        """Run ``petseg runs`` as a user does, and return its output, or its error if there is no output."""
        done = self.start("python", "-m", "petseg", "runs", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout or done.stderr

    def read(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.runs(*arguments, "--json", code=code))

    def start(self, *command: str) -> "subprocess.CompletedProcess[str]":
        variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        variables["PATH"] = f"{self._forks}:{variables['PATH']}"
        variables.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run(
            command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )

    def manifest(self, key: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "runs" / key / "manifest.json").read_text()))


def contents(folder: Path) -> dict[Path, bytes]:
    """The bytes of all files except locks, by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def flip_a_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture(scope="module")
def project(forks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldProject]:
    """A project for commands that only read or are refused. At the end, the store must have the same bytes.

    Only the ledger is new: it begins when a promotion is refused.
    """
    project = OldProject(tmp_path_factory.mktemp("old"), forks)
    yield project
    found = contents(project.folder / "runs")
    ledger = {path for path in found if path.parts[0] in (LEDGER, MARKER)}
    assert {path: content for path, content in found.items() if path not in ledger} == contents(
        STORE / "runs"
    )


@pytest.fixture
def own(tmp_path: Path, forks: Path) -> OldProject:
    """A project for commands that change the store. A test may damage it."""
    return OldProject(tmp_path / "own", forks)


def test_list_has_the_old_runs(project: OldProject) -> None:
    listed = project.read("list")
    assert listed["broken"] == []
    finished, killed, adopted = listed["runs"]  # the oldest first
    assert [finished["id"], killed["id"], adopted["id"]] == [FINISHED, KILLED, ADOPTED]
    assert [row["status"] for row in listed["runs"]] == ["finished", "running", "finished"]
    assert [row["champion"] for row in listed["runs"]] == [True, False, False]
    assert [row["commit"] for row in listed["runs"]] == [COMMIT, COMMIT, None]
    assert [row["changed"] for row in listed["runs"]] == [False, False, False]
    assert finished["network"] == killed["network"] == "unet, width 2, depth 2"
    assert finished["val"] == 0.6964647980526115
    assert killed["val"] == 0.0
    scores = [finished[name] for name in ("test", "test_low", "test_high")]
    assert scores == [0.5570834196171055, 0.38809966713720917, 0.7178041235657047]
    assert killed["params"].items() >= {"train.epochs": 500, "train.optimizer": "adam"}.items()
    assert finished["params"].items() >= {"train.epochs": 3, "data.image_size": 32}.items()
    assert [row["id"] for row in project.read("list", "--where", "status=running")["runs"]] == [KILLED]
    assert [row["id"] for row in project.read("list", "--where", "train.epochs=3")["runs"]] == [FINISHED]

    _, _, first, *_ = project.runs("list").splitlines()
    assert first.startswith(f"{FINISHED} *  2026-11-26 08:09  f2f1b92  unet, width 2, depth 2")
    assert "0.6965  0.5571 (0.388 to 0.718)" in first


def test_show_describes_the_old_runs(project: OldProject) -> None:
    for key in (FINISHED, KILLED, ADOPTED):
        shown = project.read("show", key)
        assert shown["manifest"] == project.manifest(key)
        assert shown["folder"] == str(project.folder / "runs" / key)
        assert (shown["evaluation"] is not None) is (key == FINISHED)
    shown = project.read("show", FINISHED[:4])
    (scores,) = (STORE / "runs" / FINISHED / "evaluations").glob("*/test.json")
    assert shown["evaluation"] == json.loads(scores.read_text())

    card = " ".join(project.runs("show", FINISHED).split())
    assert f"run {FINISHED}" in card
    assert f"commit {COMMIT}" in card
    assert "0.5571 (0.388 to 0.718) 0.4238 0.1296" in card
    assert "american bulldog 4 0.6869 (0.454 to 0.839)" in card
    assert project.manifest(FINISHED)["tensors_sha256"] in card
    assert f"{KILLED}: unet, width 2, depth 2; 1 epoch, not finished" in project.runs("show", KILLED)
    assert "from another notebook" in project.runs("show", ADOPTED)


def test_restore_gives_the_recorded_bytes(project: OldProject) -> None:
    for key in (FINISHED, ADOPTED):
        to = project.folder / f"away/{key}.safetensors"
        assert f"run {key}: its weights are in {to}" in project.runs("restore", key, "--to", str(to))
        assert sha256_file(to) == project.manifest(key)["files"]["model.safetensors"]
    about = project.folder / f"away/{FINISHED}.json"
    assert sha256_file(about) == project.manifest(FINISHED)["files"]["model.json"]
    assert not (project.folder / f"away/{ADOPTED}.json").exists()  # it was adopted without a description

    unfinished = project.runs("restore", KILLED, "--to", "away/no.safetensors", code=1)
    assert f"run {KILLED} is not finished" in unfinished
    assert not (project.folder / "away/no.safetensors").exists()


def test_restore_without_a_path_gives_the_pipelines_weights(own: OldProject) -> None:
    own.runs("restore", FINISHED)
    assert (
        sha256_file(own.folder / "models/model.safetensors")
        == (own.manifest(FINISHED)["files"]["model.safetensors"])
    )


def test_verify_names_each_flipped_bit(own: OldProject) -> None:
    proved = own.read("verify")
    assert proved["runs"] == 3
    assert (
        proved["files"]["the store"] == 33 + 1
    )  # the files that the earlier petseg verified, and a checkpoint
    assert proved["damages"] == []

    run = own.folder / "runs" / FINISHED
    damaged = [
        run / "model.safetensors",
        run / "checkpoints/epoch-00003.safetensors",
        run / "evolution/00001.png",
        *run.glob("evaluations/*/test.json"),
        *run.glob("figures/*/report.html"),
        own.folder / "runs" / ADOPTED / "original.pt",
    ]
    assert len(damaged) == 6
    for path in damaged:
        flip_a_bit(path)
    lost = run / "validation.csv"
    kept = lost.read_bytes()
    lost.unlink()
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"epoch": 2', '"epoch": 3'))

    damages = own.read("verify", code=1)["damages"]
    assert sorted(damage.partition(":")[0] for damage in damages) == sorted(
        map(str, [*damaged, lost, manifest])
    )
    assert f"{lost}: is gone" in damages
    assert f"{manifest}: differs from the hash that it holds" in damages
    assert f"{damaged[0]}: differs from its recorded hash" in damages
    refused = own.runs("restore", FINISHED, "--to", "away/x.safetensors", code=1)
    assert f"{manifest}: differs from the hash that it holds" in refused
    assert not (own.folder / "away/x.safetensors").exists()

    for path in damaged:
        flip_a_bit(path)
    lost.write_bytes(kept)
    manifest.write_text(manifest.read_text().replace('"epoch": 3', '"epoch": 2'))
    assert "34 files in the store" in own.runs("verify")


def test_which_finds_the_run_of_weights_in_any_place(project: OldProject, tmp_path: Path) -> None:
    weights, checkpoint, theirs = tmp_path / "w.safetensors", tmp_path / "c.safetensors", tmp_path / "t.pt"
    run = project.folder / "runs" / FINISHED
    shutil.copy(run / "model.safetensors", weights)
    shutil.copy(run / "checkpoints/epoch-00003.safetensors", checkpoint)
    shutil.copy(project.folder / "runs" / ADOPTED / "original.pt", theirs)
    assert project.runs("which", str(weights)).startswith(f"{weights}: the weights of run {FINISHED} (unet")
    assert f"the checkpoint after epoch 3 of run {FINISHED}" in project.runs("which", str(checkpoint))
    assert f"the weights of run {ADOPTED} (unknown network)" in project.runs("which", str(theirs))
    found = project.read("which", str(weights))
    assert found["tensors_sha256"] == project.manifest(FINISHED)["tensors_sha256"]
    assert (found["claims"], found["runs"]) == (FINISHED, [FINISHED])

    tensors, about = load_tensors(weights)
    first = next(iter(tensors))
    save_tensors(weights, tensors | {first: tensors[first] + 1}, {"run_key": about["run_key"]})
    assert f"no run of the store has these weights; according to its header, run {FINISHED} made it" in (
        project.runs("which", str(weights), code=1)
    )


def test_the_champion_of_the_old_store_is_still_the_champion(project: OldProject) -> None:
    (line,) = (STORE / "runs/champions.jsonl").read_text().splitlines()
    assert project.read("champion") == project.read("champion", "--log") == [json.loads(line)]
    assert "val Dice 0.6965, by user" in project.runs("champion")
    assert f"can't be compared with today's champion {FINISHED}" in project.runs("promote", ADOPTED, code=1)
    assert f"run {FINISHED} is the champion, and is not pruned" in project.runs(
        "prune", FINISHED, "--yes", code=2
    )


def test_an_old_lock_does_not_block_a_command(own: OldProject) -> None:
    assert (own.folder / "runs" / KILLED / ".lock").read_text().isdigit()  # the id of the killed process
    assert own.read("prune", KILLED, "--yes") == {"deleted": [KILLED]}
    assert [row["id"] for row in own.read("list")["runs"]] == [FINISHED, ADOPTED]


@pytest.mark.parametrize("key", [KILLED, ADOPTED])
def test_only_a_finished_training_is_reproduced(project: OldProject, key: str) -> None:
    assert project.runs("reproduce", key, code=1) == (
        f"petseg: run {key} is not a finished training, so it can't be reproduced\n"
    )


def test_an_old_run_is_reproduced(own: OldProject) -> None:
    has_commit = ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    if subprocess.run(has_commit, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip(f"needs commit {COMMIT[:7]}: git fetch --unshallow, in a clone of the repository")
    before = contents(own.folder / "runs")
    unknown = own.runs("reproduce", FINISHED, code=1)
    assert f"commit {COMMIT} is not in this repository" in unknown
    for command in (["init", "-q"], ["fetch", "-q", "--depth=1", str(ROOT), COMMIT]):
        assert own.start("git", *command).returncode == 0

    done = own.start("python", "-m", "petseg", "runs", "reproduce", FINISHED, "--json")
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert done.returncode == (0 if result["identical"] else 1)
    assert result["inputs"] == []
    differing = {line.partition(":")[0] for line in result["environment"]}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    now = environment(device) | {"threads": 1}  # as in params.yaml
    then = own.manifest(FINISHED)["environment"]
    expected = {name for name in then if then[name] != now[name]}
    if (expected <= {"platform"} and now["processor"] == PROCESSOR) or result["identical"]:
        assert result["identical"], result
        assert differing == expected
    else:
        # Bits may differ on another kind of processor. The command names the possible reason.
        assert differing == expected | {"processor"}

    assert contents(own.folder / "runs") == before
    assert len(own.start("git", "worktree", "list").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "python -m stages.train data/pets data/encoder models/model.safetensors models/model.json "
        "models/evolution.npz models/run.json plots/history.csv metrics/train.json",
        "python -m stages.train --weights models/model.safetensors --encoder data/encoder --arrays data/pets",
    ],
)
def test_commands_of_old_and_new_commits_are_understood(command: str) -> None:
    assert input_folders(command.split()) == (Path("data/pets"), Path("data/encoder"))


def test_todays_command_is_understood() -> None:
    assert input_folders(stage_command(ROOT, "train")) == (Path("data/pets"), Path("data/encoder"))


def test_an_old_run_has_its_evaluation_and_figures() -> None:
    run = StoredRun.open(STORE / "runs" / FINISHED)
    assert list(run.damages()) == []
    (evaluation,), (figures,) = run.evaluations, run.figures
    assert evaluation.headlines["threshold"] == 0.4
    assert {"report.html", "curves.png"} <= figures.manifest["files"].keys()
    assert [row["epoch"] for row in run.rows()] == [1, 2, 3]
