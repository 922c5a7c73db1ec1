"""What dvc.yaml and dvc.lock say of a stage: its command, its paths, and the params that it ran with."""

import ast
import sys
from pathlib import Path
from typing import Any

from petseg.core.textfiles import read_yaml
from petseg.errors import ParamsError, UsageError

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")


def stage_command(root: Path, stage: str) -> list[str]:
    """Return a stage's command as dvc.yaml below ``root`` has it, by this Python."""
    _, *rest = read_yaml(root / PIPELINE)["stages"][stage]["cmd"].split()
    return [sys.executable, *rest]


def stage_paths(root: Path, stage: str) -> dict[str, Path]:
    """Return the paths that dvc.yaml below ``root`` gives a stage, by the names that its function has.

    Raises:
        UsageError: there is no project.
    """
    if not (root / PIPELINE).is_file():
        raise UsageError(f"no project of petseg in {root} or above; cd into the clone of one")
    source = (root / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    _, *names = next(node for node in functions if node.name == stage).args.args
    paths = stage_command(root, stage)[3:]
    return {name.arg: root / path for name, path in zip(names, paths, strict=True)}


def locked_param(stage: str, key: str, root: Path = Path()) -> Any:
    """Return the value of a param that a stage last ran with, by dvc.lock; None where that does not say."""
    try:
        return read_yaml(root / LOCK)["stages"][stage]["params"]["params.yaml"][key]
    except (ParamsError, KeyError, TypeError):
        return None
