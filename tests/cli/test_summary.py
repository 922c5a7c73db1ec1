"""The last lines of make repro: a file that differs from what the stages write is named in one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from petseg.cli.summary import RECORDED, reproduction, summary
from petseg.core.textfiles import write_json
from petseg.errors import BrokenRecord, DataError
from petseg.pipeline.dvcfiles import LOCK
from tests.support import ROOT

TEST, BEST = Path("metrics/test.json"), Path("metrics/train.json")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of the pipeline that the summary reads."""
    (tmp_path / ".dvc").mkdir()
    for name in ("dvc.yaml", LOCK, TEST, BEST, RECORDED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def change(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text()) | values)


def test_undefined_scores_are_left_blank(project: Path) -> None:
    assert any(line.startswith("test Dice") for line in summary(project))
    change(project / BEST, val_dice=None)
    change(project / TEST, dice_per_image=None)
    assert any("val Dice" in line for line in summary(project))


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        (BEST, {"val_dice": "0.9"}, "train.json: val_dice: Input should be a valid number"),
        (BEST, {"best_epoch": True}, "train.json: best_epoch: Input should be a valid integer"),
        (TEST, {"photos": -1}, "test.json: photos: Input should be greater"),
        (TEST, {"threshold": 5}, "test.json: threshold: Input should be less"),
        (TEST, {"all_foreground": {}}, "no entry all_foreground.dice_per_image"),
        (TEST, {"thresholds": {"whole": 0.5}}, "test.json: thresholds.tight: Field required"),
    ],
)
def test_odd_metrics_are_named(project: Path, name: Path, values: dict[str, Any], reason: str) -> None:
    change(project / name, **values)
    with pytest.raises(DataError) as refused:
        summary(project)
    assert str(refused.value).startswith(f"{project / name}: can't be read ({reason}")


def test_a_folder_at_the_path_of_metrics_gives_one_line(project: Path) -> None:
    (project / BEST).unlink()
    (project / BEST).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "petseg.cli.summary"],
        cwd=project, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"petseg: {project / BEST}: can't be read (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("stages", ["[]", "{train: 5}", "{train: {outs: [5]}}", "{train: {params: {p: 3}}}"])
def test_an_odd_lock_is_named(project: Path, stages: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "dvc.lock"], [*identity, "commit", "-qm", "recorded"]):
        subprocess.run(["git", *command], check=True, cwd=project)
    (project / LOCK).write_text(f"stages: {stages}\n")
    with pytest.raises(BrokenRecord, match=r"dvc.lock: stages"):
        reproduction(project)
