"""Rules of the house that no single test of behaviour would hold."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "petseg").rglob("*.py")
)


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        *(
            "petseg.training.loop",
            "petseg.store.writer",
            "petseg.report.figures",
            "petseg.tracking.rows",
            "petseg.cli",
        ),
        *("stages.download", "stages.preprocess", "stages.train", "stages.infer", "stages.plot"),
    ],
)
def test_importing_the_library_imports_no_mlflow(module: str) -> None:
    assert "mlflow" not in loaded_by(module)


@pytest.mark.parametrize(
    "module",
    [
        *("petseg.params", "petseg.errors", "petseg.data.preprocess", "petseg.data.download", "petseg.cli"),
        *("petseg.tracking.rows", "stages.download", "stages.preprocess"),
    ],
)
def test_the_ground_imports_no_torch(module: str) -> None:
    assert "torch" not in loaded_by(module)


def test_only_tracking_imports_mlflow() -> None:
    for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        names = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert "mlflow" not in names or file.parent.name == "tracking", file


def test_nothing_happens_on_import(tmp_path: Path) -> None:
    importable = [name for name in MODULES if name != "petseg.tracking.pyfunc"]  # which mlflow executes
    code = (
        "import os, random, sys, torch, numpy\n"
        "before = (dict(os.environ), torch.initial_seed(), torch.get_num_threads(), list(sys.path))\n"
        f"import {', '.join(importable)}\n"
        "assert before[1:] == (torch.initial_seed(), torch.get_num_threads(), list(sys.path))\n"
        "changed = {k for k in os.environ if os.environ[k] != before[0].get(k)}\n"
        "assert changed <= {'KMP_INIT_AT_FORK', 'KMP_DUPLICATE_LIB_OK', 'TORCHINDUCTOR_CACHE_DIR'}"  # torch's
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []


def imports(file: Path) -> set[str]:
    return {
        node.module
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("petseg")
    }


def test_modules_import_in_no_circle() -> None:
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imports(file)
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
    """Published weights are a pickle; of it torch reads tensors and nothing else."""
    for file in [*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in map(ast.unparse, node.keywords), file
        assert "allow_pickle=True" not in text, file
        assert "import pickle" not in text, file
