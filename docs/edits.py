"""What an edit of each file of code costs: which stages it makes stale, and which of them compute again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from petseg.core.textfiles import read_yaml
from petseg.pipeline.codehash import is_left_out, reached_files, with_assets
from petseg.pipeline.dvcfiles import CODE, PIPELINE, code_files

# These stages look into the store first, by the hash of the code that can change their result.
KEPT_IN_THE_STORE = ("train", "infer", "plot")

_PAGE = """\
# What an edit costs

A stage is *stale* when a file among its `deps` in `dvc.yaml` changed: `dvc status` lists it, and `dvc repro`
runs it. `download` and `encoder` have single files as deps. The other stages have whole packages, so an edit
that can't change the result of a stage may make it stale. Therefore `train`, `infer` and `plot` look into the
store first, by the hash of the code that they reach (`petseg/pipeline/codehash.py`). The hash leaves out
comments, docstrings and layout, and the files that codehash.py lists, each with its reason. A result that the
store has is copied in a second or two.

If a stage computes again and leaves the same files, no later stage becomes stale. `download` and `encoder`
use the files that they fetched before ([data](data.md)), and need no network.

This page is generated from the code (`make docs`), and `tests/docs/test_edits.py` compares it with DVC.

| an edit of | makes stale | if it is a comment, computes again | if it is a constant, computes again |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Cost:
    """What an edit of a file costs.

    Attributes:
        stale: the stages that DVC runs.
        comment: the stale stages that compute if the edit changes only a comment.
        constant: the stale stages that compute if it changes a constant.
    """

    stale: tuple[str, ...]
    comment: tuple[str, ...]
    constant: tuple[str, ...]


def costs(root: Path) -> dict[str, Cost]:
    """Return the cost of an edit of each file of the pipeline and the library."""
    stages = list(read_yaml(root / PIPELINE)["stages"])
    listed = {
        stage: {file.relative_to(root).as_posix() for file in code_files(root, stage)} for stage in stages
    }
    keyed = {stage: set(_keyed(root, stage)) for stage in stages}
    found = {}
    for file in sorted(path for folder in CODE for path in (root / folder).rglob("*") if _is_code(path)):
        name = _name(file, root)
        stale = tuple(stage for stage in stages if name in listed[stage])
        always = tuple(stage for stage in stale if stage not in KEPT_IN_THE_STORE)
        # Of a file that is not Python, all bytes count, those of comments too.
        by_key = tuple(stage for stage in stale if stage in KEPT_IN_THE_STORE and name in keyed[stage])
        found[name] = Cost(stale, always if file.suffix == ".py" else always + by_key, always + by_key)
    return found


def edits_page(root: Path) -> str:
    """Return what-an-edit-costs.md, in which files of the same cost share a row."""
    rows: dict[Cost, list[str]] = {}
    for name, cost in costs(root).items():
        rows.setdefault(cost, []).append(name)
    lines = (
        f"| {_files(names)} | {_stages(cost.stale)} | {_stages(cost.comment)} | {_stages(cost.constant)} |"
        for cost, names in sorted(rows.items(), key=lambda row: (-len(row[0].stale), row[1]))
    )
    return _PAGE + "\n".join(lines) + "\n"


def _keyed(root: Path, stage: str) -> Iterator[str]:
    for file in with_assets(reached_files(root / f"stages/{stage}.py", root), root):
        name = _name(file, root)
        if not is_left_out(name):
            yield name


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _files(names: list[str]) -> str:
    """Return the names of files by package, such as ``core/`` files, locks."""
    rooms: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.removeprefix("petseg/").rpartition("/")
        rooms.setdefault(folder, []).append(file.removesuffix(".py"))
    return "; ".join(
        f"`{folder}/` {', '.join(files)}" if folder else ", ".join(files) for folder, files in rooms.items()
    )


def _stages(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
