"""Which code a stage reaches by import, and the hash of all of it that can change a result.

The hash is part of a run's key, so it must see every line that can change a weight, and should see nothing
else: a better comment trains nothing again. It is made of each file's syntax tree, in a form that is the
same for every Python that is supported. Comments, docstrings and layout are not in it.
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

# What a stage reaches that can't change a weight, a score or a figure: by whole path, or by folder.
LEFT_OUT: dict[str, str] = {
    "stages/__init__.py": "says that the environment is absent",
    "petseg/py.typed": "is empty; it tells type checkers that the package has types",
    "petseg/errors.py": "names what can go wrong",
    "petseg/params.py": "checks the params, whose values are in the key themselves",
    "petseg/core/checked.py": "reads records by their types",
    "petseg/core/files.py": "hashes and copies files byte for byte",
    "petseg/core/formats.py": "words numbers for lines and pages, which petseg report writes anew",
    "petseg/core/git.py": "takes the commit, and how the code differs from it, for records",
    "petseg/core/locks.py": "keeps two processes from the same work",
    "petseg/core/loopback.py": "judges requests of the web pages",
    "petseg/core/progress.py": "shows how far the work is",
    "petseg/core/project.py": "finds folders, and the time of day",
    "petseg/core/textfiles.py": "writes records, and reads params.yaml, whose values are in the key",
    "petseg/core/yamlfiles.py": "reads params.yaml, whose values are in the key",
    "petseg/core/tracked.py": "asks git which files it tracks",
    "petseg/data/download.py": "fetches archives, whose photos are in the key by their hash",
    "petseg/models/description.py": "says by type what lies beside weights",
    "petseg/models/encoder_download.py": "fetches weights, which are in the key by their hash",
    "petseg/pipeline/": "surrounds a stage, and reads what dvc.yaml says of it",
    "petseg/store/additions.py": "reads and proves what was computed before",
    "petseg/store/adopt.py": "takes in weights that were trained elsewhere",
    "petseg/store/card.py": "words a record for people; petseg report and petseg runs show do so anew",
    "petseg/store/before.py": "reads what a store has of before its ledger",
    "petseg/store/beginning.py": "begins the ledger, in which no result is",
    "petseg/store/chain.py": "reads the ledger, in which no result is",
    "petseg/store/champion.py": "says which model is in use",
    "petseg/store/heal.py": "puts damaged files back, byte for byte",
    "petseg/store/identify.py": "finds the run of a file of weights",
    "petseg/store/keep.py": "keeps what was computed, byte for byte",
    "petseg/store/layout.py": "names files, and makes the key of these hashes",
    "petseg/store/ledger.py": "logs what the store has ever finished",
    "petseg/store/pending.py": "looks whether a change was made",
    "petseg/store/prune.py": "deletes runs, and the checkpoints of finished ones",
    "petseg/store/rebuild.py": "puts damaged weights back, byte for byte",
    "petseg/store/records.py": "reads and proves records, and copies files byte for byte",
    "petseg/store/run.py": "reads, proves and copies what was computed before",
    "petseg/store/runs.py": "finds the runs of a store",
    "petseg/store/typed.py": "checks records by their types",
    "petseg/tracking/": "logs in MLflow what the store has",
}
WIRING = ("dvc.yaml", "params.yaml")
_COMPILED = (".pyc", ".pyo")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement holds statements
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_sha256(start: Path) -> str:
    """Return one sha256 of a stage's script and of all it reaches that can change a result."""
    start = start.resolve()
    root = start.parent.parent
    digest = hashlib.sha256()
    for file in keyed_files(start):
        digest.update(f"{file.relative_to(root).as_posix()}\0{_file_sha256(file)}\0".encode())
    return digest.hexdigest()


def keyed_files(start: Path) -> list[Path]:
    """Return the files whose hashes the key of a stage's script is made of, sorted."""
    start = start.resolve()
    root = start.parent.parent
    files = sorted(with_assets(reached_files(start, root), root))
    return [file for file in files if not is_left_out(file.relative_to(root).as_posix())]


def needed_files(start: Path) -> list[Path]:
    """Return the files that a stage's script can't run without: those of its key, and all that it imports."""
    start = start.resolve()
    return sorted({*keyed_files(start), *reached_files(start, start.parent.parent)})


def code_archive(start: Path) -> bytes:
    """Return a ZIP archive of what training again needs of the project: its stages' code, and their wiring.

    Args:
        start: the script of a stage, beside those of the others.
    """
    root = start.resolve().parent.parent
    scripts = sorted(start.resolve().parent.glob("*.py"))
    files = {root / name for name in WIRING if (root / name).is_file()}
    files.update(file for script in scripts for file in needed_files(script))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file.relative_to(root).as_posix())  # without a time: the same bytes again
            made.writestr(entry, read_file(file), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def check_reached(start: Path) -> None:
    """Check that this process has loaded no code of the project that a stage's imports do not name.

    Raises:
        UnreachedCode: it has, so the key does not hold that code.
    """
    start = start.resolve()
    root = start.parent.parent
    reached = reached_files(start, root)
    modules = [
        module for name, module in list(sys.modules.items()) if name != "__main__"
    ]  # who calls the stage
    loaded = (getattr(module, "__file__", None) for module in modules)
    # Absolute paths alone: torch has modules that are no files, and say "_ops.py" of themselves.
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
        root: of the project. What lies elsewhere, or in a hidden folder, is not of the project.
    """
    found: set[Path] = set()
    named: set[str] = set()
    pending = [start, *_packages_of(start, root)]
    while pending:
        file = pending.pop()
        if file not in found:
            found.add(file)
            for module in set(_imported(file, root)) - named:
                named.add(module)
                pending += _files_of(module, root)
    return found


def with_assets(files: set[Path], root: Path) -> set[Path]:
    """Return Python files and the other files beside them, which they may read: the parts of pages, say.

    Beside a module in the root itself lie the lock, the databases and the docs, which every run changes:
    they are not its parts.
    """
    folders = {file.parent for file in files} - {root}
    beside = (file for folder in folders for file in folder.iterdir())
    return files | {
        file
        for file in beside
        if file.suffix not in (".py", *_COMPILED) and file.is_file() and not file.name.startswith(".")
    }


def is_left_out(name: str) -> bool:
    """Tell whether a file, by its path from the root, can't change a result."""
    return any(name == path or (path.endswith("/") and name.startswith(path)) for path in LEFT_OUT)


def _is_ours(file: Path, root: Path) -> bool:
    """Tell whether a file is of the project, and not of an environment that lies in it."""
    if not file.is_relative_to(root):
        return False
    parts = file.relative_to(root).parts
    return "site-packages" not in parts and not any(part.startswith(".") for part in parts)


def _packages_of(file: Path, root: Path) -> list[Path]:
    """Return each __init__ on the way from the root to a file."""
    folders = [folder for folder in file.parents if folder != root and folder.is_relative_to(root)]
    return [init for folder in folders if (init := folder / "__init__.py").is_file()]


def _imported(file: Path, root: Path) -> Iterator[str]:
    """Yield the modules that the imports of a file name, at whatever depth of its code."""
    package = file.relative_to(root).parent.parts
    tree = _tree(file)
    pending: list[ast.AST] = [] if tree is None else [tree]
    while pending:  # statements alone, since no expression holds an import
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
    """Return the files of the project that importing a module executes: its own, and each __init__."""
    path = root.joinpath(*module.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    files = [file for file in candidates if file.is_file() and _is_ours(file, root)]
    return files + [init for file in files for init in _packages_of(file, root)]


@cache
def _parsed(file: Path, content: bytes) -> ast.Module | None:
    try:
        return ast.parse(content, file)
    except (SyntaxError, ValueError):  # a null byte is the second for Python 3.11
        return None


def _tree(file: Path) -> ast.Module | None:
    """Return the syntax tree of a file, of whatever encoding; None where it has none, and its bytes count."""
    return _parsed(file, read_file(file)) if file.suffix == ".py" else None


def _file_sha256(file: Path) -> str:
    tree = _tree(file)
    content = read_file(file) if tree is None else canonical(tree).encode()
    return hashlib.sha256(content).hexdigest()


def canonical(node: object) -> str:
    """Write a syntax tree without positions, docstrings and empty fields.

    Python 3.12 and 3.13 added fields that are empty where nothing new is used, and divide the texts of an
    f-string in another way, so empty fields are left out and such texts are joined.
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
