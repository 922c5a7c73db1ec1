"""The rules for the code of this project, which no test of behaviour covers."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "petseg").rglob("*.py")
)


def modules_loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


# A room may import from the rooms before it.
ROOMS = (
    *("errors", "core", "params", "pipeline", "data", "models", "evaluation"),
    *("training", "store", "tracking", "report", "predict", "cluster", "cli"),
)
# Modules of tracking whose import needs MLflow.
NEEDS_MLFLOW = {f"petseg.tracking.{name}" for name in ("logged_model", "pyfunc", "serving")}

# Modules of the standard library that can load code without an import statement, and parts that cannot.
LOADERS = {"builtins", "importlib", "pkgutil", "runpy"}
LOADS_NO_CODE = {"importlib.metadata", "importlib.resources", "importlib.util.find_spec"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def modules_of(*rooms: str) -> set[str]:
    return {name for name in MODULES if name.count(".") and room_of(name) in rooms}


@pytest.mark.whole
def test_importing_the_pipeline_imports_no_mlflow() -> None:
    stages = {f"stages.{name}" for name in ("download", "encoder", "preprocess", "train", "infer", "plot")}
    loaded = modules_loaded_by(", ".join(sorted((modules_of(*ROOMS) - NEEDS_MLFLOW) | stages)))
    assert "mlflow" not in loaded


def test_modules_that_need_no_torch_do_not_import_it() -> None:
    """Commands that read the store, and the stages before training, start within a second."""
    modules = modules_of("errors", "core", "params", "pipeline", "data", "tracking", "cli") - NEEDS_MLFLOW
    modules -= {"petseg.data.batches"}
    modules |= {f"petseg.store.{name}" for name in ("layout", "run", "records", "verify", "card", "champion")}
    modules |= {"petseg.evaluation.outputs", "petseg.training.history", "petseg.models.pretrained"}
    modules |= {"stages.download", "stages.encoder", "stages.preprocess"}
    assert not {"torch", "scipy", "matplotlib"} & modules_loaded_by(", ".join(sorted(modules)))


@pytest.mark.whole
@pytest.mark.parametrize("module", ["petseg.store.identify", "petseg.models.predictor"])
def test_identifying_or_using_a_file_imports_no_training_and_scoring_code(module: str) -> None:
    unwanted = {
        "scipy",
        "petseg.evaluation.scores",
        "petseg.training.losses",
        "petseg.training.augment",
    }
    assert not unwanted & modules_loaded_by(module)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_before_it(module: str) -> None:
    if module in ("petseg", "petseg.__main__"):
        return
    upwards = {
        other
        for other in imported_modules(file_of(module))
        if other.count(".") and ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
    }
    assert upwards == set()


def test_there_are_few_rooms() -> None:
    beside = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    entries = {
        path.name.removesuffix(".py") for path in (ROOT / "petseg").iterdir() if path.name not in beside
    }
    assert len(entries) <= 14
    assert entries <= set(ROOMS)


def test_each_package_has_a_docstring_that_describes_it() -> None:
    for file in (ROOT / "petseg").rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(file.read_text()))
        assert docstring, file
        assert len(docstring.split()) > 7, file


def test_modules_and_functions_are_short() -> None:
    for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        text = file.read_text()
        assert len(text.splitlines()) <= 350, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert code_lines(node) <= 50, f"{file}: {node.name}"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    match function.body[0]:
        case ast.Expr(value=ast.Constant(value=str())) as docstring:
            lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
    return lines


def test_code_is_loaded_only_by_import_statements() -> None:
    """Code that is loaded in another way would be missing from the run key."""
    for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            loaders = {name for name in names if name.partition(".")[0] in LOADERS}
            harmless = {
                name for name in loaders for allowed in LOADS_NO_CODE if f"{name}.".startswith(f"{allowed}.")
            }
            assert loaders == harmless, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("__import__", "exec", "eval", "import_module"), file
                assert not called.startswith(("importlib.import", "runpy.")), file


def test_the_package_itself_does_nothing_on_import() -> None:
    """Its code is in no run's key, so it may only define the Python API, which no stage uses."""
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign, ast.FunctionDef)
    body = ast.parse((ROOT / "petseg/__init__.py").read_text()).body
    assert all(isinstance(node, allowed) for node in body)
    assert [ast.unparse(node.test) for node in body if isinstance(node, ast.If)] == ["TYPE_CHECKING"]
    assigned = [ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)]
    assert assigned == ["__all__", "__version__"]
    imported = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == [
        "import os",
        "from typing import TYPE_CHECKING, Any, Literal",
    ]
    assert all(isinstance(node.value, ast.Constant) for node in body if isinstance(node, ast.Expr))


def test_only_one_function_expands_the_home_folder() -> None:
    """Code that takes a path from the user passes it to ``expanded``, so that ~ means the same everywhere."""
    users = [
        file.relative_to(ROOT).as_posix()
        for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]
        if "expanduser" in file.read_text()
    ]
    assert users == ["petseg/core/project.py"]


def test_only_tracking_imports_mlflow() -> None:
    for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        names = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert "mlflow" not in names or file.parent.name == "tracking", file


@pytest.mark.whole
def test_only_two_modules_print() -> None:
    """Text of others must go through print_lines, because it could move the cursor or forge a line."""
    allowed = {"petseg/core/terminal.py", "petseg/cli/output.py"}  # print_lines; JSON in ASCII
    found = set()
    for path in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.add(str(path.relative_to(ROOT)))
    assert found == allowed


def test_nothing_happens_on_import(tmp_path: Path) -> None:
    importable = [name for name in MODULES if name != "petseg.tracking.pyfunc"]  # MLflow executes that one
    code = (
        "import os, random, sys, torch, numpy\n"
        "before = (dict(os.environ), torch.initial_seed(), torch.get_num_threads(), list(sys.path))\n"
        f"import {', '.join(importable)}\n"
        "assert before[1:] == (torch.initial_seed(), torch.get_num_threads(), list(sys.path))\n"
        "changed = {k for k in os.environ if os.environ[k] != before[0].get(k)}\n"
        # Torch sets these.
        "assert changed <= {'KMP_INIT_AT_FORK', 'KMP_DUPLICATE_LIB_OK', 'TORCHINDUCTOR_CACHE_DIR'}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []


def file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported_modules(file: Path) -> set[str]:
    """Return the modules of petseg that a file imports, also inside functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import hides its room"
            if not node.module or node.module.partition(".")[0] != "petseg":
                continue
            found |= {node.module}
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("petseg.")}
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imported_modules(
            file
        )
        for file in (ROOT / "petseg").rglob("*.py")
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " imports ".join([*above, module])
        if module not in done:
            for below in graph.get(module, set()) - {module}:
                visit(below, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_nothing_is_unpickled() -> None:
    """Published weights are a pickle, from which torch reads tensors only."""
    for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in map(ast.unparse, node.keywords), file
        assert "allow_pickle=True" not in text, file
        assert not re.search(r"import pickle\b", text), file  # pickletools executes nothing


def test_tests_share_code_only_through_support() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                package, _, rest = node.module.partition(".")
                assert package != "benchmarks", file
                assert package != "tests" or rest.partition(".")[0] == "support", file


def test_folders_of_tests_mirror_the_rooms() -> None:
    beside = {"docs", "end_to_end", "faults", "support", "__pycache__"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - beside
    assert folders == {path.name for path in (ROOT / "petseg").iterdir() if path.is_dir()} - beside
