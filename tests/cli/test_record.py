"""The committed lock proves a reproduction: the report of make repro, and the files of make record."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from petseg.cli.record import record
from petseg.cli.summary import KIND, RECORDED, reproduction
from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.errors import StoreError
from petseg.store.layout import MANIFEST
from tests.support import ROOT
from tests.support.runs import trained

KEY = "0123456789abcdef"
LOCK: dict[str, Any] = {
    "stages": {
        "train": {
            "deps": [{"path": "data/pets", "md5": "d1"}, {"path": "petseg/training", "md5": "c1"}],
            "params": {"params.yaml": {"train.epochs": 2, "model.width": 4}},
            "outs": [
                {"path": "models/model.safetensors", "md5": "w1"},
                {"path": "models/model.json", "md5": "j1"},
            ],
        }
    }
}
MADE_ON = dict.fromkeys(KIND, "x") | {"processor": "a processor", "threads": 1}


def test_the_committed_record_matches_the_committed_lock() -> None:
    recorded = json.loads((ROOT / RECORDED).read_text())
    assert recorded["dvc_lock_sha256"] == sha256_file(ROOT / "dvc.lock"), "make record writes both"
    assert recorded["made_on"].keys() == set(KIND)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a committed lock, whose pipeline has the same outs."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    write_lock(tmp_path, LOCK)
    write_json(tmp_path / RECORDED, {"dvc_lock_sha256": "s", "made_on": MADE_ON})
    write_json(tmp_path / "models/model.json", {"run_key": KEY})
    write_json(
        tmp_path / "runs" / KEY / MANIFEST,
        trained(environment=MADE_ON),
    )
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "dvc.lock"], [*identity, "commit", "-qm", "recorded"]):
        subprocess.run(["git", *command], check=True, cwd=tmp_path)
    return tmp_path


def write_lock(folder: Path, lock: dict[str, Any]) -> None:
    with (folder / "dvc.lock").open("w") as file:
        YAML().dump(lock, file)


def changed(part: str, **values: str) -> dict[str, Any]:
    """Return the lock with other hashes for some paths."""
    lock = copy.deepcopy(LOCK)
    for entry in lock["stages"]["train"][part]:
        entry["md5"] = values.get(entry["path"].rpartition("/")[2].partition(".")[0], entry["md5"])
    return lock


def test_the_same_outs_are_a_reproduction(project: Path) -> None:
    (line,) = reproduction(project)
    assert line.startswith("reproduced  the recorded weights, scores and figures came out again, bit for bit")
    assert "all 2 outs are as in the committed dvc.lock" in line


def test_the_same_outs_by_other_code_are_a_reproduction(project: Path) -> None:
    write_lock(project, changed("deps", training="c2"))
    (line,) = reproduction(project)
    assert "came out again, with other code, bit for bit" in line


def test_other_outs_on_another_machine_are_named_with_the_differences(project: Path) -> None:
    write_lock(project, changed("outs", model="w2"))
    made_on = MADE_ON | {"processor": "an older one", "threads": 2}
    write_json(project / RECORDED, {"dvc_lock_sha256": "s", "made_on": made_on})
    first, why = reproduction(project)
    assert "2 of 2 outs from the committed dvc.lock: models/model.safetensors, models/model.json" in first
    assert "recorded on another kind of machine, which rounds differently" in why
    assert "processor an older one there, a processor here; threads 2 there, 1 here" in why


def test_other_outs_on_the_same_kind_of_machine_have_another_cause(project: Path) -> None:
    write_lock(project, changed("outs", model="w2"))
    assert "on the same kind of machine, so something else changed them" in reproduction(project)[1]


def test_other_params_are_not_compared(project: Path) -> None:
    lock = copy.deepcopy(LOCK)
    lock["stages"]["train"]["params"]["params.yaml"]["train.epochs"] = 3
    write_lock(project, lock)
    (line,) = reproduction(project)
    assert line == "recorded    with other params (train.epochs): there is nothing to compare"


def test_without_a_committed_lock_nothing_is_compared(project: Path) -> None:
    subprocess.run(["git", "update-ref", "-d", "HEAD"], check=True, cwd=project)
    assert reproduction(project) == []


def test_a_record_names_the_lock_and_the_machine(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert record() == "recorded on a processor: git add dvc.lock recorded.json metrics"
    recorded = json.loads((project / RECORDED).read_text())
    assert recorded == {"dvc_lock_sha256": sha256_file(project / "dvc.lock"), "made_on": MADE_ON}
    (project / "runs" / KEY / MANIFEST).unlink()
    with pytest.raises(StoreError, match="the run whose weights are in models/ is not in runs/"):
        record()
