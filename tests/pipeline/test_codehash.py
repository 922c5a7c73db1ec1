"""The run key depends on all code that can change a result, and on nothing else."""

import ast
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from petseg.errors import UnreachedCode
from petseg.pipeline.codehash import (
    LEFT_OUT,
    canonical,
    check_reached,
    code_sha256,
    is_left_out,
    reached_files,
    with_assets,
)
from tests.support import ROOT

pytestmark = pytest.mark.usefixtures("read_once")

KEYED = ("train", "infer", "plot")  # the stages whose results the store keeps under a hash of their code
LISTED_NAMES = sorted(
    {Path(path).name for path in LEFT_OUT if path.endswith(".py")}
    | {file.name for path in LEFT_OUT if path.endswith("/") for file in (ROOT / path).rglob("*.py")}
)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for folder in ("petseg", "stages"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def tree(copied: Path) -> Iterator[Path]:
    """A copy of the code, which is restored after each test."""
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    yield copied
    for path in copied.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


def with_a_constant_changed(text: str) -> str:
    """Change the first constant that is no docstring; add one to a module that has none."""
    tree = ast.parse(text)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and id(node) not in docstrings
            and isinstance(node.value, str | int)
        ):
            node.value = f"{node.value} changed" if isinstance(node.value, str) else node.value + 1
            return ast.unparse(tree)
    return text + "\nCHANGED = 1\n"


@pytest.mark.parametrize("stage", KEYED)
def test_a_changed_constant_in_any_file_changes_the_key_unless_the_file_is_listed(
    tree: Path, stage: str
) -> None:
    start = tree / f"stages/{stage}.py"
    before = code_sha256(start)
    assert before == code_sha256(ROOT / f"stages/{stage}.py")
    files = reached_files(start, tree)
    assert len(files) > 30
    for file in sorted(with_assets(files, tree)):
        content = file.read_text()
        file.write_text(with_a_constant_changed(content) if file.suffix == ".py" else content + " ")
        name = file.relative_to(tree).as_posix()
        assert (code_sha256(start) != before) is not is_left_out(name), name
        file.write_text(content)
    assert code_sha256(start) == before


@pytest.mark.parametrize("name", LISTED_NAMES)
def test_a_file_of_a_listed_name_elsewhere_is_in_the_key(tree: Path, name: str) -> None:
    folder = "petseg/models" if not (tree / "petseg/models" / name).exists() else "petseg/training"
    added = tree / folder / name
    start, user = tree / "stages/train.py", tree / "petseg/models/unet.py"
    module = f"{folder}/{added.stem}".replace("/", ".")
    user.write_text(f"{user.read_text()}\nfrom {module} import WIDTH\n")
    added.write_text("WIDTH = 1\n")
    before = code_sha256(start)
    added.write_text("WIDTH = 2\n")
    assert code_sha256(start) != before


@pytest.mark.parametrize(
    ("where", "statement"),
    [
        ("petseg/models/wider.py", "from . import wider"),
        ("petseg/models/wider.py", "from .wider import WIDTH"),
        ("petseg/training/wider.py", "from ..training.wider import WIDTH"),
        ("wider.py", "import wider"),
        ("helpers/wider.py", "from helpers.wider import WIDTH"),
        ("helpers/wider.py", "import helpers.wider"),
        ("stages/wider.py", "def late():\n    from stages import wider"),
        ("petseg/models/extra/__init__.py", "from petseg.models.extra import WIDTH"),
    ],
)
def test_code_is_in_the_key_however_it_is_imported(tree: Path, where: str, statement: str) -> None:
    start, user, added = tree / "stages/train.py", tree / "petseg/models/unet.py", tree / where
    added.parent.mkdir(exist_ok=True)
    user.write_text(f"{user.read_text()}\n{statement}\n")
    added.write_text("WIDTH = 1\n")
    before = code_sha256(start)
    added.write_text("WIDTH = 2\n")
    changed = code_sha256(start)
    assert changed != before
    (added.parent / "widths.json").write_text("{}")  # beside the module, which could read it
    # Files in the root do not count, because each run changes dvc.lock and mlflow.db there.
    assert (code_sha256(start) == changed) is (added.parent == tree)


@pytest.mark.parametrize(
    "content",
    [
        b"WIDTH = (\n",  # not Python
        b"WIDTH = 1\0\n",
        b"\xef\xbb\xbfWIDTH = 1\n",  # Python in another encoding, as the next one
        b"# coding: latin-1\nWIDTH = '\xe9'\n",
    ],
)
def test_a_file_that_is_not_plain_python_is_in_the_key(tree: Path, content: bytes) -> None:
    start, user, added = (
        tree / "stages/train.py",
        tree / "petseg/models/unet.py",
        tree / "petseg/models/odd.py",
    )
    user.write_text(f"{user.read_text()}\ntry:\n    import petseg.models.odd\nexcept Exception:\n    pass\n")
    keys = set()
    for version in (content, content.replace(b"WIDTH", b"DEPTH")):
        added.write_bytes(version)
        keys.add(code_sha256(start))
    assert len(keys) == 2


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n  import wide",
        "async def f():\n  async with g():\n    import wide",
        "class C:\n  def f(self):\n    async for x in y:\n      pass\n    else:\n      import wide",
        "if a:\n  pass\nelif b:\n  pass\nelse:\n  import wide",
        "for x in y:\n  while x:\n    import wide",
        "try:\n  import wide\nfinally:\n  pass",
        "try:\n  pass\nexcept E:\n  import wide",
        "try:\n  pass\nexcept* E:\n  import wide",
        "try:\n  pass\nexcept E:\n  pass\nelse:\n  import wide",
        "try:\n  pass\nfinally:\n  import wide",
        "match x:\n  case 1:\n    pass\n  case _:\n    import wide",
    ],
)
def test_an_import_in_any_block_is_followed(tmp_path: Path, source: str) -> None:
    (tmp_path / "stages").mkdir()
    start, wide = tmp_path / "stages/train.py", tmp_path / "wide.py"
    start.write_text(source)
    wide.write_text("WIDTH = 1\n")
    assert reached_files(start, tmp_path) == {start, wide}


def test_code_loaded_without_an_import_statement_is_refused(tree: Path) -> None:
    (tree / "stages/hidden.py").write_text("WIDTH = 1\n")
    (tree / "stages/probe.py").write_text(
        "import importlib\nfrom pathlib import Path\nfrom petseg.pipeline.codehash import check_reached\n"
        "check_reached(Path(__file__))\nprint('fine so far')\n"
        "importlib.import_module('stages.hidden')\ncheck_reached(Path(__file__))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stages.probe"], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.stdout == "fine so far\n"
    assert "UnreachedCode: stages/hidden.py: loaded, but named by no import statement" in done.stderr


def test_a_process_with_more_code_than_the_stage_imports_is_refused() -> None:
    with pytest.raises(UnreachedCode, match="named by no import statement"):
        check_reached(ROOT / "stages/train.py")


def test_comments_docstrings_and_layout_are_not_in_the_key(tree: Path) -> None:
    start = tree / "stages/train.py"
    before = code_sha256(start)
    for file in tree.rglob("*.py"):
        tree_ = ast.parse(file.read_text())
        for node in ast.walk(tree_):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant("Another sentence."))
        file.write_text(f"# a comment\n{ast.unparse(tree_)}\n")  # changes quotes and line breaks too
    assert code_sha256(start) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"), ("x = 1", "x = True"), ("x = 'a'", "x = b'a'"), ("x = 0.1", "x = 0.2"),
        ("x = a - b - c", "x = a - (b - c)"), ("x = f'{a}b'", "x = f'{a} b'"),
        ("x = f'{a!r}'", "x = f'{a!s}'"),
        ("x = f'{a:.2f}'", "x = f'{a:.3f}'"), ("def f(a=1): pass", "def f(a=2): pass"), ("x = 1,", "x = 1"),
        ("def f():\n  'a'\n  'b'", "def f():\n  'a'\n  'c'"), ("x = 'é'", "x = 'e'"), ("x: int = 1", "x = 1"),
        ("a = b; c", "a = c; b"), ("f(a, b=1)", "f(a, c=1)"), ("f(*a)", "f(**a)"), ("x = None", "x = 0"),
    ],
)  # fmt: skip
def test_code_with_another_meaning_has_another_form(one: str, other: str) -> None:
    assert canonical(ast.parse(one)) != canonical(ast.parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a' 'b'", "x = \"ab\""), ("f(a, b,)", "f(\n    a,\n    b\n)"), ("x = (1)", "x = 1  # one"),
        ("def f():\n  'Old.'\n  return 1", "def f():\n    return 1"), ("x = 0x10", "x = 16"),
        ("x = f'a' f'{b}' 'c'", "x = f'a{b}c'"), ("x = f'{a}' ''", "x = f'{a}'"), ("x = 1_000", "x = 1000"),
    ],
)  # fmt: skip
def test_code_with_the_same_meaning_has_the_same_form(one: str, other: str) -> None:
    assert canonical(ast.parse(one)) == canonical(ast.parse(other))


def test_the_form_is_the_same_in_each_python_version() -> None:
    """Python 3.11, 3.12 and 3.13 gave this hash."""
    source = '''
"""A docstring."""
from __future__ import annotations
import a.b as c

@cached(size=3)
async def f(x: int, /, y=1.5, *rest, z: str = "é\\n", **more) -> list[int]:
    """Another."""
    async with g() as h, i():
        await h
    match x:
        case {"k": [1, *_], **kw} if (n := len(kw)) > 2:
            return [f"{n:>{y}.{z}f} {{}} {n!r:^10}" "tail" f"{n=}" for n in rest if n]
        case C(p=None) | -1 | 2j:
            raise E(b"\\x00", ...) from None
    try:
        del x
    except* ValueError as e:
        pass
    lambda q, *, r=0: (yield q)

class D(Base, metaclass=M):
    v: int = 0
'''
    found = hashlib.sha256(canonical(ast.parse(source)).encode()).hexdigest()
    assert found == "c5bc7ef8271d5d58794dff2c5257f510cebf14dbcdd4076b0ce6bd1281dfa4f5"


def test_each_left_out_path_exists_and_has_a_reason() -> None:
    for path, reason in LEFT_OUT.items():
        assert (ROOT / path).exists(), path
        assert (ROOT / path).is_dir() is path.endswith("/"), path
        assert len(reason.split()) > 3, path
