"""Which modules of this project a module reaches by import, read from the source."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "petseg"

# They check, report and find files; what they do can't change a weight.
_BESIDE_THE_RESULT = {
    "adopt.py",
    "card.py",
    "dvcfiles.py",
    "errors.py",
    "files.py",
    "identify.py",
    "layout.py",
    "codehash.py",
    "params.py",
    "progress.py",
    "project.py",
    "run.py",
    "stage.py",
    "textfiles.py",
}
_RECORD = "tracking"
_ASSETS = (".css", ".html", ".js")


def code_sha256(start: Path) -> str:
    """Return one sha256 of a script or module and of all it reaches that can change a result."""
    root = start.resolve().parent.parent
    digest = hashlib.sha256()
    files = reached_files(start.resolve(), root)
    for file in sorted(files | assets_of(files)):
        if file.name not in _BESIDE_THE_RESULT and file.parent.name != _RECORD:
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def reached_files(start: Path, root: Path) -> set[Path]:
    """Return ``start`` and every file of the package that importing it executes.

    Args:
        start: a Python file.
        root: folder that holds the package's folder.
    """
    found: set[Path] = set()
    pending = [start]
    while pending:
        file = pending.pop()
        if file not in found:
            found.add(file)
            for module in _imported(ast.parse(file.read_text(encoding="utf-8"))):
                pending += _files_of(module, root)
    return found


def assets_of(files: set[Path]) -> set[Path]:
    """Return the parts of pages that lie beside Python files of the package, which those put together."""
    folders = {file.parent for file in files}
    return {file for folder in folders for file in folder.iterdir() if file.suffix in _ASSETS}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(module: str, root: Path) -> list[Path]:
    """Return the files that importing a module of the package executes: its own, and each __init__."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return []
    candidates = [root.joinpath(*parts[: n + 1], "__init__.py") for n in range(len(parts))]
    candidates.append(root.joinpath(*parts).with_suffix(".py"))
    return [file for file in candidates if file.is_file()]
