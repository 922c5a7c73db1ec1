"""petseg as an installed package: without what only some commands need, and inside a project."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from petseg import __version__
from petseg.core.extras import EXTRAS
from petseg.core.textfiles import write_csv
from petseg.store.export import export_folder
from tests.support import ROOT
from tests.support.pets import sample_photos
from tests.support.runs import make_run

pytestmark = pytest.mark.whole

WITHOUT = "import sys; sys.modules.update(dict.fromkeys({!r})); from petseg.cli import main; main()"


def run(
    *command: str, cwd: Path, code: int = 0, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"} | dict(variables or {})
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def test_it_says_its_version(tmp_path: Path) -> None:
    assert run("-m", "petseg", "--version", cwd=tmp_path).stdout == f"petseg {__version__}\n"


def test_each_package_belongs_to_the_extra_that_installs_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {
        re.split("[<>=]", package)[0]: extra
        for extra, packages in extras.items()
        for package in packages
        if extra != "all"
    }
    assert wanted == EXTRAS


def test_it_predicts_without_any_extra(tmp_path: Path) -> None:
    (jpeg,) = sample_photos(1)
    stored = make_run(tmp_path / "runs/aaaa111122223333", "unet", spread=True)
    row = {"breed": "pug", "photos": 5, "dice_per_image": 0.5}
    write_csv(stored.folder / "evaluations/e/breeds.csv", [row])
    export_folder(stored, tmp_path / "model")
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "rex.jpg").write_bytes(jpeg)
    code = WITHOUT.format(sorted(EXTRAS))
    done = run("-c", code, "predict", "rex.jpg", "--model", "model", cwd=tmp_path)
    assert done.stdout.startswith("1 photo cut out")
    assert (tmp_path / "predicted/cutouts/rex.png").is_file()
    for arguments in (["--help"], ["predict", "--help"], ["runs", "--help"], ["--version"]):
        run("-c", code, *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("mlflow", ["ui"], "pipeline"),
        ("dvc", ["train"], "pipeline"),
        ("fastapi", ["demo", "--no-open", "--port", "0"], "demo"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, module: str, arguments: list[str], extra: str) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    code = WITHOUT.format([module])
    done = run("-c", code, *arguments, cwd=tmp_path, code=2 if module == "dvc" else 1)
    (line,) = done.stderr.splitlines()
    assert line == (
        f"petseg: {module} is not installed, which this needs; install it with: pip install 'petseg[{extra}]'"
    )


def test_inside_a_project_the_command_runs_the_projects_code(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "petseg").mkdir()
    (tmp_path / "petseg/__init__.py").touch()
    (tmp_path / "petseg/__main__.py").write_text("import sys; print('own code', *sys.argv[1:])")
    (tmp_path / "below").mkdir()
    command = "from petseg.__main__ import command; command()"
    for folder in (tmp_path, tmp_path / "below"):
        assert run("-c", command, "a", "b", cwd=folder).stdout == "own code a b\n"


@pytest.mark.parametrize("arguments", [["runs", "list"], ["runs", "show", "abc"], ["runs", "adopt", "x.pt"]])
def test_outside_a_project_the_folder_is_named(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "x.pt").touch()
    done = run("-m", "petseg", *arguments, cwd=tmp_path, code=2)
    assert done.stderr == (f"petseg: no project of petseg in {tmp_path} or above; cd into the clone of one\n")
    assert not (tmp_path / "runs").exists()
