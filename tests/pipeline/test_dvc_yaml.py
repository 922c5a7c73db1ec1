"""dvc.yaml agrees with the code: each stage declares exactly the code and params that its script uses."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from petseg.core.textfiles import read_yaml
from petseg.params import Params
from petseg.pipeline.codehash import LEFT_OUT, reached_files, with_assets
from petseg.pipeline.dvcfiles import options
from tests.support import ROOT

PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES: dict[str, Any] = PIPELINE["stages"]
# Edits of these files make no stage stale: logging changes no out, and the others change no result.
LOGS = "petseg/tracking/"
NO_DEP = {"petseg/__init__.py", "stages/__init__.py", "petseg/py.typed"}
# Code that download and encoder import, but that neither fetches nor packs: its edits must not fetch again.
FETCHES_NOTHING = {
    "download": ("petseg/errors.py", "petseg/params.py", "petseg/core/", "petseg/pipeline/"),
    "encoder": (
        *("petseg/errors.py", "petseg/params.py", "petseg/core/", "petseg/pipeline/"),
        *("petseg/data/archives.py", "petseg/models/networks.py", "petseg/models/network.py"),
        *("petseg/models/weights.py", "petseg/models/unet.py", "petseg/models/resnet34_unet.py"),
    ),
}
each_stage = pytest.mark.parametrize("stage", STAGES)


def only_describes(file: Path) -> bool:
    """Tell whether a module has only a docstring, as the __init__ of a package may."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def is_code(dep: str) -> bool:
    return dep.startswith(("petseg/", "stages/"))


def outputs(stage: str) -> list[str]:
    listed = STAGES[stage].get("outs", []) + STAGES[stage].get("metrics", [])
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def params_read(stage: str) -> set[str]:
    """Return the params that a script reads, from its source: whole sections and single keys."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    inner: set[ast.AST] = set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in inner:
            names = [node.attr]
            value = node.value
            while isinstance(value, ast.Attribute):
                inner.add(value)
                names.append(value.attr)
                value = value.value
            if isinstance(value, ast.Name) and value.id == "params":
                found.add(".".join(reversed(names)))
    known = Params.model_fields
    keys = {".".join(name.split(".")[:2]) for name in found}
    methods = {key for key in keys if "." in key and key.split(".")[1].startswith("model_")}
    assert {key.split(".")[0] for key in keys} <= known.keys()
    return (keys - methods) | {key.split(".")[0] for key in methods}


def code_reached(stage: str) -> set[str]:
    """Return the files of code that a script reaches, except those that have only a docstring."""
    reached = reached_files(ROOT / f"stages/{stage}.py", ROOT)
    files = {file for file in with_assets(reached, ROOT) if file.suffix != ".py" or not only_describes(file)}
    return {file.relative_to(ROOT).as_posix() for file in files} - NO_DEP


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@each_stage
def test_code_deps_are_the_code_that_the_script_reaches(stage: str) -> None:
    deps = {dep for dep in STAGES[stage]["deps"] if is_code(dep)}
    reached = {file for file in code_reached(stage) if not file.startswith(LOGS)}
    assert all((ROOT / dep).exists() for dep in deps)
    assert {dep for dep in deps if not any(covers(dep, file) for file in reached)} == set()
    uncovered = {file for file in reached if not any(covers(dep, file) for dep in deps)}
    assert {file for file in uncovered if not file.startswith(FETCHES_NOTHING.get(stage, "-"))} == set()


@pytest.mark.parametrize("stage", ["train", "infer", "plot"])
def test_code_in_the_run_key_makes_the_stage_stale(stage: str) -> None:
    """Otherwise DVC would not run the stage, and the stage could not look into the store."""
    deps = {dep for dep in STAGES[stage]["deps"] if is_code(dep)}
    keyed = {file for file in code_reached(stage) if not file.startswith(tuple(LEFT_OUT))}
    assert {file for file in keyed if not any(covers(dep, file) for dep in deps)} == set()


def test_dvc_yaml_is_short() -> None:
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 170


@each_stage
def test_declared_params_are_those_that_the_script_reads(stage: str) -> None:
    declared = set(STAGES[stage]["params"])
    read = params_read(stage)
    whole = {key for key in declared if "." not in key}
    assert whole <= read, "declare a whole section only if the script passes it on as a whole"
    assert {key for key in read if key.split(".")[0] not in whole} == declared - whole


@each_stage
def test_a_command_names_the_files_of_its_stage_and_no_param(stage: str) -> None:
    command = STAGES[stage]["cmd"].split()
    assert command[:3] == ["python", "-m", f"stages.{stage}"]
    data = [dep for dep in STAGES[stage]["deps"] if not is_code(dep)]
    named = options(command[3:])
    assert command[3:] == [word for name, path in named.items() for word in (f"--{name}", path)]
    beside = {"models/model.json"}  # no option, because it is always beside the weights
    assert set(named.values()) == {*data, *outputs(stage)} - beside
    takes = list(inspect.signature(getattr(import_module(f"stages.{stage}"), stage)).parameters)
    assert takes == ["params", *named]
    assert len(named) <= 6


def test_no_command_contains_a_param() -> None:
    assert "${" not in (ROOT / "dvc.yaml").read_text()


@each_stage
def test_no_path_of_the_pipeline_is_written_in_code(stage: str) -> None:
    paths = {path for path in STAGES[stage]["cmd"].split()[3:] if "/" in path}
    for folder in ("petseg", "stages"):
        for file in (ROOT / folder).rglob("*.py"):
            strings = {
                node.value
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not strings & paths, file


def test_every_param_is_declared_by_a_stage() -> None:
    declared = {key for stage in STAGES.values() for key in stage["params"]}
    for section, field in Params.model_fields.items():
        assert field.annotation is not None
        for key in field.annotation.model_fields:
            assert {section, f"{section}.{key}"} & declared, f"{section}.{key} makes no stage run again"


def test_the_files_that_dvc_plots_are_outs() -> None:
    produced = {output for stage in STAGES for output in outputs(stage)}
    for plot in PIPELINE["plots"]:
        if isinstance(plot, str):
            assert plot in produced
        else:
            ((_, settings),) = plot.items()
            for file in {*settings["y"], *(settings["x"] if isinstance(settings["x"], dict) else ())}:
                assert any(covers(out, file) for out in produced), file
