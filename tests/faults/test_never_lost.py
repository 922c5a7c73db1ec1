"""Weights that were trained once can always be restored: faults 12 to 18."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from petseg.models.weights import load_tensors
from petseg.store.layout import WEIGHTS
from tests.support.project import Project, mlflow_runs, wait_for

Manifest = dict[str, Any]
REPRO = ("dvc", "repro", "--single-item", "train")


def petseg(project: Project, *arguments: str, fails: bool = False) -> str:
    return project.run("python", "-m", "petseg", "runs", *arguments, fails=fails)


@pytest.mark.fault(12, "dvc repro with another learning rate")
def test_training_with_other_params_loses_no_weights(project: Project, reference: Manifest) -> None:
    """Train many times, with the same and with other params, by DVC and by the script alone."""
    weights = project.folder / "models" / WEIGHTS
    made: dict[str, bytes] = {}
    for n in range(6):
        project.run("git", "checkout", "-q", "params.yaml")
        short = {"epochs: 6": "epochs: 2", "[1, 6]": "[1, 2]"}
        project.edit("params.yaml", {"learning_rate: 5.0e-2": f"learning_rate: {n // 2 + 1}.0e-2"} | short)
        project.run(*(project.train_command if n % 3 else REPRO))
        key = json.loads((project.folder / "models/model.json").read_text())["run_key"]
        assert made.setdefault(key, weights.read_bytes()) == weights.read_bytes()
    assert len(made) == 3
    for key, content in made.items():
        petseg(project, "restore", key, "--to", f"back/{key}.safetensors")
        assert (project.folder / f"back/{key}.safetensors").read_bytes() == content
    assert "none differ" in petseg(project, "verify")


@pytest.mark.parametrize("by", ["dvc", "script"])
@pytest.mark.fault(13, "weights laid by hand at the output's path")
def test_weights_laid_by_hand_are_kept(project: Project, by: str) -> None:
    project.run(*REPRO)
    weights = project.folder / "models" / WEIGHTS
    ours = weights.read_bytes()
    for path, text in ((weights, b"precious"), (weights.with_suffix(".json"), b'{"note": "mine"}')):
        path.unlink()
        path.write_bytes(text)
    printed = project.run(*(REPRO if by == "dvc" else project.train_command))
    assert "is in no run of the store; kept as run" in printed
    assert weights.read_bytes() == ours
    assert [p.read_bytes() for p in project.folder.glob("runs/*/original.safetensors")] == [b"precious"]
    (described,) = [path for path in project.folder.glob("runs/*/model.json") if b"mine" in path.read_bytes()]
    assert (described.parent / "original.safetensors").is_file()


@pytest.mark.fault(13, "weights laid by hand at the output's path")
def test_weights_laid_by_hand_during_a_training_are_kept(project: Project) -> None:
    weights = project.folder / "models" / WEIGHTS
    with project.start(*project.train_command) as process:
        wait_for(process, "epoch 2/6")
        weights.parent.mkdir(exist_ok=True)
        weights.write_bytes(b"precious")
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert weights.read_bytes() != b"precious"
    assert [p.read_bytes() for p in project.folder.glob("runs/*/original.safetensors")] == [b"precious"]


@pytest.mark.slow
@pytest.mark.fault(14, "DVC's queue, two workers, one training failing, one killed")
def test_a_queue_with_a_failed_and_a_killed_training_loses_no_weights(project: Project) -> None:
    short = ("-S", "train.epochs=2", "-S", "plot.evolution_epochs=[1,2]")
    project.run("dvc", "exp", "run", "--queue", "-S", "train.seed=1,2", *short, "train")
    project.run("dvc", "exp", "run", "--queue", "-S", "train.learning_rate=1e30", *short, "train")
    project.run("dvc", "exp", "run", "--queue", "-S", "train.epochs=5000", "train")
    # The workers keep the output open, so it must not be a pipe.
    project.run("bash", "-c", "dvc queue start -j 2 > queue.log 2>&1")
    victim = None
    while is_queue_busy(project) or victim is None:
        time.sleep(0.5)
        for key, manifest in project.manifests().items():
            if manifest["params"]["train.epochs"] == 5000 and victim is None and checkpoints(project, key):
                victim = key
                os.kill(int((project.folder / "runs" / key / ".lock").read_text()), signal.SIGKILL)
    assert not list(
        project.folder.glob(".dvc/tmp/exps/tmp*")
    )  # DVC has deleted the folders of the experiments
    finished = {key: m for key, m in project.manifests().items() if m["status"] == "finished"}
    assert {manifest["params"]["train.seed"] for manifest in finished.values()} == {1, 2}
    for key in finished:
        petseg(project, "restore", key, "--to", f"back/{key}.safetensors")
    for path in checkpoints(project, victim):
        load_tensors(path)
    assert "none differ" in petseg(project, "verify")
    petseg(project, "sync")  # closes the row of the killed training, as the next stage would
    statuses = sorted(row.info.status for row in mlflow_runs(project.folder))
    assert statuses == ["FAILED", "FINISHED", "FINISHED", "KILLED"]


def is_queue_busy(project: Project) -> bool:
    table = project.run("dvc", "queue", "status")
    return "Queued" in table or "Running" in table


def checkpoints(project: Project, key: str) -> list[Path]:
    return list((project.folder / "runs" / key / "checkpoints").glob("epoch-*.safetensors"))


@pytest.mark.fault(15, "a failed training")
def test_a_failed_training_does_not_change_the_champion(project: Project) -> None:
    project.run(*project.train_command)
    (key,) = project.manifests()
    petseg(project, "promote", key)
    project.edit("params.yaml", {"learning_rate: 5.0e-2": "learning_rate: 1.0e+30"})
    assert "try a lower train.learning_rate" in project.run(*project.train_command, fails=True)
    assert key in petseg(project, "champion")
    rows = {row["id"]: row for row in json.loads(petseg(project, "list", "--json"))["runs"]}
    assert rows[key]["champion"]
    assert sorted(row.info.status for row in mlflow_runs(project.folder)) == ["FAILED", "FINISHED"]


@pytest.mark.fault(16, "dvc gc, dvc exp remove, mlflow gc")
def test_the_store_survives_garbage_collection_by_dvc_and_mlflow(project: Project) -> None:
    project.run("dvc", "exp", "run", "-n", "one", "-S", "train.seed=5", "--single-item", "train")
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "exp", "remove", "one")
    project.run("dvc", "gc", "--workspace", "--force")
    (row,) = mlflow_runs(project.folder)
    uri = f"sqlite:///{project.folder / 'mlflow.db'}"
    project.run(
        "python", "-c", f"import mlflow; mlflow.MlflowClient('{uri}').delete_run('{row.info.run_id}')"
    )
    project.run("mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri)
    (key,) = project.manifests()
    petseg(project, "restore", key, "--to", "back.safetensors")
    assert "none differ" in petseg(project, "verify")
    assert "nothing is trained" in project.run(
        "dvc", "exp", "run", "-S", "train.seed=5", "--single-item", "train"
    )


@pytest.mark.fault(17, "an object of DVC's cache, a file of the store corrupted")
def test_a_corrupted_file_is_named(project: Project) -> None:
    project.run(*REPRO)
    md5 = project.lock()["models/model.safetensors"]
    (key,) = project.manifests()
    cached = project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    for path in (cached, project.folder / "runs" / key / "validation.csv"):
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + b"?")
        printed = petseg(project, "verify", fails=True)
        assert f"{path.name}: differs" in printed
        assert printed.count("differs") == 1
        path.write_bytes(content)


@pytest.mark.fault(18, "two promotions at once")
def test_of_two_promotions_at_once_none_is_lost(project: Project) -> None:
    keys: list[str] = []
    for seed in ("0", "1"):
        project.run("git", "checkout", "-q", "params.yaml")
        project.edit("params.yaml", {"train:\n  seed: 0": f"train:\n  seed: {seed}"})
        project.run(*project.train_command)
        keys += project.manifests().keys() - set(keys)
    at_once = [project.start("python", "-m", "petseg", "runs", "promote", key, "--force") for key in keys]
    for process in at_once:
        assert process.wait() == 0, process.communicate()
        process.communicate()
    log = json.loads(petseg(project, "champion", "--log", "--json"))
    assert {line["key"] for line in log} == set(keys)
    assert [line["before"] for line in log] == [None, log[0]["key"]]
    best, worst = sorted(keys, key=lambda key: -project.manifests()[key]["best"]["val_dice"])
    petseg(project, "promote", best, "--force")
    assert "less than today's champion" in petseg(project, "promote", worst, fails=True)
