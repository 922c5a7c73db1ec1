"""dvc.yaml against the code: each stage declares what its script reaches and reads, and no more."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from petseg.core.textfiles import read_yaml
from petseg.params import Params
from petseg.pipeline.codehash import assets_of, code_sha256, reached_files
from tests.conftest import ROOT

PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES: dict[str, Any] = PIPELINE["stages"]
each_stage = pytest.mark.parametrize("stage", STAGES)


def only_describes(file: Path) -> bool:
    """Whether a module holds nothing but a docstring, as a package's __init__ may."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def is_code(dep: str) -> bool:
    return dep.startswith(("petseg/", "stages/"))


def outputs(stage: str) -> list[str]:
    listed = STAGES[stage].get("outs", []) + STAGES[stage].get("metrics", [])
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def params_read(stage: str) -> set[str]:
    """The params that a script reads: sections it hands on whole, and single keys, read from its source."""
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


@each_stage
def test_deps_are_the_modules_that_the_script_reaches(stage: str) -> None:
    reached = reached_files(ROOT / f"stages/{stage}.py", ROOT)
    modules = {file.relative_to(ROOT).as_posix() for file in reached if not only_describes(file)}
    assets = {file.relative_to(ROOT).as_posix() for file in assets_of(reached)}
    assert modules | assets == {dep for dep in STAGES[stage]["deps"] if is_code(dep)}


@each_stage
def test_params_are_those_that_the_script_reads(stage: str) -> None:
    declared = set(STAGES[stage]["params"])
    read = params_read(stage)
    whole = {key for key in declared if "." not in key}
    assert whole <= read, "a section is declared whole only if it is handed on whole"
    assert {key for key in read if key.split(".")[0] not in whole} == declared - whole


@each_stage
def test_a_command_names_the_stages_files_and_no_param(stage: str) -> None:
    command = STAGES[stage]["cmd"].split()
    assert command[:3] == ["python", "-m", f"stages.{stage}"]
    data = [dep for dep in STAGES[stage]["deps"] if not is_code(dep)]
    assert sorted(command[3:]) == sorted(data + outputs(stage))
    takes = list(inspect.signature(getattr(import_module(f"stages.{stage}"), stage)).parameters)
    assert len(takes) == 1 + len(command[3:])


def test_no_command_lets_the_shell_see_a_param() -> None:
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
            assert {section, f"{section}.{key}"} & declared, f"{section}.{key} reruns nothing"


def test_the_drawn_files_exist_after_a_run() -> None:
    produced = {output for stage in STAGES for output in outputs(stage)}
    for plot in PIPELINE["plots"]:
        if isinstance(plot, str):
            assert plot in produced
        else:
            ((_, settings),) = plot.items()
            assert set(settings["y"]) <= produced


@pytest.mark.parametrize(
    ("stage", "touched"),
    [
        ("train", {"models/unet.py": True, "data/augment.py": True, "compute.py": True, "runs.py": True}),
        ("train", {"params.py": False, "tracking/rows.py": False}),
        ("plot", {"report/page.css": True, "report/charts.js": True, "card.py": False}),
    ],
)
def test_the_code_hash_is_of_what_determines_a_result(
    tmp_path: Path, stage: str, touched: dict[str, bool]
) -> None:
    files = reached_files(ROOT / f"stages/{stage}.py", ROOT)
    for file in files | assets_of(files):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    start = tmp_path / f"stages/{stage}.py"
    before = code_sha256(start)
    assert before == code_sha256(ROOT / f"stages/{stage}.py")
    for name, matters in touched.items():
        file = tmp_path / "petseg" / name
        content = file.read_text()
        file.write_text(content + "\n# edited\n")
        assert (code_sha256(start) != before) is matters, name
        file.write_text(content)
