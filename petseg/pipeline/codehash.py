"""Find the code that a stage imports, and hash the part of it that can change a result.

The hash is part of a run's key, so it must cover every line that can change a weight, and nothing else: a
better comment must not start a new training. It is computed from the syntax tree of each file, in a form
that is the same for every supported Python. Comments, docstrings and layout are not part of it.
"""

import ast
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from petseg.core.files import read_file
from petseg.errors import UnreachedCode

# Files that a stage imports but that can't change a weight, a score or a figure; a folder ends with "/".
LEFT_OUT: dict[str, str] = {
    "petseg/__init__.py": "offers the Python API, which no stage uses, and the version",
    "stages/__init__.py": "reports that the environment is not active",
    "petseg/py.typed": "is empty; it marks the package as typed",
    "petseg/errors.py": "defines errors and their exit codes",
    "petseg/params.py": "checks the params, whose values are part of the key",
    "petseg/core/checked.py": "reads JSON and checks its types",
    "petseg/core/files.py": "hashes and copies files byte for byte",
    "petseg/core/formats.py": "formats numbers for lines and for pages, which petseg report writes again",
    "petseg/core/git.py": "finds the commit, and the difference of the code from it, for records",
    "petseg/core/locks.py": "keeps two processes from doing the same work",
    "petseg/core/loopback.py": "checks requests to local servers",
    "petseg/core/progress.py": "shows the progress of the work",
    "petseg/core/project.py": "finds folders, the user and the time of day",
    "petseg/core/textfiles.py": "writes records, and reads params.yaml, whose values are part of the key",
    "petseg/core/yamlfiles.py": "reads params.yaml, whose values are part of the key",
    "petseg/core/tracked.py": "asks git which files it tracks",
    "petseg/data/download.py": "fetches archives; the hash of their photos is part of the key",
    "petseg/models/description.py": "defines the types of the files beside weights",
    "petseg/models/encoder_download.py": "fetches weights, whose hash is part of the key",
    "petseg/pipeline/": "runs a stage, and reads its entry in dvc.yaml",
    "petseg/store/additions.py": "reads and verifies earlier results",
    "petseg/store/adopt.py": "adopts weights that were trained elsewhere",
    "petseg/store/card.py": "writes a record as text; petseg report and petseg runs show do so again",
    "petseg/store/before.py": "reads a store from before its ledger",
    "petseg/store/beginning.py": "begins the ledger, which holds no results",
    "petseg/store/chain.py": "reads the ledger, which holds no results",
    "petseg/store/champion.py": "says which model is in use",
    "petseg/store/heal.py": "restores damaged files, byte for byte",
    "petseg/store/identify.py": "finds the run that made a file of weights",
    "petseg/store/keep.py": "stores results, byte for byte",
    "petseg/store/layout.py": "names files, and computes the key from these hashes",
    "petseg/store/ledger.py": "logs the changes of the store",
    "petseg/store/pending.py": "finds out whether a change was completed",
    "petseg/store/prune.py": "deletes runs, and the checkpoints of finished ones",
    "petseg/store/rebuild.py": "restores damaged weights, byte for byte",
    "petseg/store/records.py": "reads and verifies records, and copies files byte for byte",
    "petseg/store/run.py": "reads, verifies and copies earlier results",
    "petseg/store/runs.py": "finds the runs of a store",
    "petseg/store/typed.py": "defines the types of records",
    "petseg/tracking/": "logs the runs of the store in MLflow",
}
_API = "petseg/__init__.py"  # imports the rest of the package only when a program asks for it
WIRING = ("dvc.yaml", "params.yaml")
_COMPILED = (".pyc", ".pyo")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # fields that hold statements
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_sha256(start: Path) -> str:
    """Return one sha256 of a stage's script and of all that it imports, except ``LEFT_OUT``."""
    start = start.resolve()
    root = start.parent.parent
    digest = hashlib.sha256()
    for file in keyed_files(start):
        digest.update(f"{file.relative_to(root).as_posix()}\0{_file_sha256(file)}\0".encode())
    return digest.hexdigest()


def keyed_files(start: Path) -> list[Path]:
    """Return the files that are part of the key of a stage's script, sorted."""
    start = start.resolve()
    root = start.parent.parent
    files = sorted(with_assets(reached_files(start, root), root))
    return [file for file in files if not is_left_out(file.relative_to(root).as_posix())]


def needed_files(start: Path) -> list[Path]:
    """Return the files that a stage's script needs: those of its key, and all that it imports."""
    start = start.resolve()
    return sorted({*keyed_files(start), *reached_files(start, start.parent.parent)})


def code_archive(start: Path) -> bytes:
    """Return a ZIP archive of the files that are needed to train again: all stages' code, and ``WIRING``.

    Args:
        start: the script of a stage; those of the other stages lie beside it.
    """
    root = start.resolve().parent.parent
    scripts = sorted(start.resolve().parent.glob("*.py"))
    files = {root / name for name in WIRING if (root / name).is_file()}
    files.update(file for script in scripts for file in needed_files(script))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file.relative_to(root).as_posix())  # no time: always the same bytes
            made.writestr(entry, read_file(file), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def check_reached(start: Path) -> None:
    """Check that this process has loaded no project code that a stage's imports do not name.

    Raises:
        UnreachedCode: it has, so the key does not cover that code.
    """
    start = start.resolve()
    root = start.parent.parent
    reached = reached_files(start, root)
    modules = [
        module for name, module in list(sys.modules.items()) if name != "__main__"
    ]  # __main__ calls the stage
    loaded = (getattr(module, "__file__", None) for module in modules)
    # Absolute paths only: torch has modules without a file whose __file__ is "_ops.py".
    files = {
        Path(file).resolve() for file in loaded if file and file.endswith(".py") and Path(file).is_absolute()
    }
    unseen = sorted(file.relative_to(root).as_posix() for file in files - reached if _is_ours(file, root))
    if unseen := [name for name in unseen if not is_left_out(name)]:
        raise UnreachedCode(
            f"{', '.join(unseen)}: loaded, but named by no import statement, so no run's key holds it; "
            "import it by its name"
        )


def reached_files(start: Path, root: Path) -> set[Path]:
    """Return a script and every file of the project that importing it executes.

    Args:
        start: a Python file.
        root: root of the project. Files elsewhere, or in a hidden folder, do not belong to the project.
    """
    found: set[Path] = set()
    named: set[str] = set()
    pending = [start, *_packages_of(start, root)]
    while pending:
        file = pending.pop()
        if file not in found:
            found.add(file)
            if file == root / _API:
                continue
            for module in set(_imported(file, root)) - named:
                named.add(module)
                pending += _files_of(module, root)
    return found


def with_assets(files: set[Path], root: Path) -> set[Path]:
    """Return Python files and the other files in their folders, which they may read, such as parts of pages.

    Files in the root itself are left out: the lock, the databases and the docs lie there, and runs change
    them.
    """
    folders = {file.parent for file in files} - {root}
    beside = (file for folder in folders for file in folder.iterdir())
    return files | {
        file
        for file in beside
        if file.suffix not in (".py", *_COMPILED) and file.is_file() and not file.name.startswith(".")
    }


def is_left_out(name: str) -> bool:
    """Return whether a file, by its path from the root, can't change a result."""
    return any(name == path or (path.endswith("/") and name.startswith(path)) for path in LEFT_OUT)


def _is_ours(file: Path, root: Path) -> bool:
    """Return whether a file belongs to the project, and not to an environment inside it."""
    if not file.is_relative_to(root):
        return False
    parts = file.relative_to(root).parts
    return "site-packages" not in parts and not any(part.startswith(".") for part in parts)


def _packages_of(file: Path, root: Path) -> list[Path]:
    """Return each __init__.py on the way from the root to a file."""
    folders = [folder for folder in file.parents if folder != root and folder.is_relative_to(root)]
    return [init for folder in folders if (init := folder / "__init__.py").is_file()]


def _imported(file: Path, root: Path) -> Iterator[str]:
    """Yield the modules that the imports of a file name, at any depth of its code."""
    package = file.relative_to(root).parent.parts
    tree = _tree(file)
    pending: list[ast.AST] = [] if tree is None else [tree]
    while pending:  # only statements, because no expression holds an import
        node = pending.pop()
        for block in _BLOCKS:
            pending += getattr(node, block, ())
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _files_of(module: str, root: Path) -> list[Path]:
    """Return the files of the project that importing a module executes: its own, and each __init__.py."""
    path = root.joinpath(*module.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    files = [file for file in candidates if file.is_file() and _is_ours(file, root)]
    return files + [init for file in files for init in _packages_of(file, root)]


@cache
def _parsed(file: Path, content: bytes) -> ast.Module | None:
    try:
        return ast.parse(content, file)
    except (SyntaxError, ValueError):  # Python 3.11 raises ValueError for a null byte
        return None


def _tree(file: Path) -> ast.Module | None:
    """Return the syntax tree of a file in any encoding; None if it can't be parsed: then its bytes count."""
    return _parsed(file, read_file(file)) if file.suffix == ".py" else None


def _file_sha256(file: Path) -> str:
    tree = _tree(file)
    content = read_file(file) if tree is None else canonical(tree).encode()
    return hashlib.sha256(content).hexdigest()


def canonical(node: object) -> str:
    """Return a syntax tree as text, without positions, docstrings and empty fields.

    Python 3.12 and 3.13 added fields, which are empty unless new syntax is used, and they divide the texts of
    an f-string in another way. Therefore empty fields are left out, and neighbouring texts are joined.
    """
    match node:
        case ast.JoinedStr():
            return f"JoinedStr({','.join(_texts_joined(node.values))})"
        case ast.Constant():
            return f"Constant({type(node.value).__name__} {node.value!a})"
        case ast.AST():
            return f"{type(node).__name__}({','.join(_fields(node))})"
        case list():
            return f"[{','.join(map(canonical, node))}]"
        case _:
            return ascii(node)


def _fields(node: ast.AST) -> Iterator[str]:
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _WITH_DOCSTRING):
            value = _without_docstring(value)
        if name not in ("ctx", "type_comment", "type_ignores", "kind") and value is not None and value != []:
            yield f"{name}={canonical(value)}"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
        case _:
            return body


def _texts_joined(values: list[ast.expr]) -> Iterator[str]:
    text = ""
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            text += value.value
            continue
        if text:
            yield ascii(text)
        text = ""
        yield canonical(value)
    if text:
        yield ascii(text)
