"""What an edit of each file of code costs: which stages it makes stale, and which of them compute anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from petseg.core.textfiles import read_yaml
from petseg.pipeline.codehash import is_left_out, reached_files, with_assets
from petseg.pipeline.dvcfiles import CODE, PIPELINE, code_files

# They look into the store first, by the hash of the code that can change what they compute.
KEPT_IN_THE_STORE = ("train", "infer", "plot")

_PAGE = """\
# What an edit costs

A stage is *stale* when a file among its `deps` in `dvc.yaml` changed: `dvc status` lists it, and `dvc repro`
runs it. `download` and `encoder` have files as deps, the others whole rooms, so a stage may be stale by an
edit that can't change its result. `train`, `infer` and `plot` therefore ask the store first, by the hash of
the code that they reach (`petseg/pipeline/codehash.py`). Comments, docstrings and layout are not in that
hash, and neither are the files that it lists, each with its reason. What the store has is copied in a second
or two.

A stage that computes anew and leaves the same files makes none of the later ones stale. `download` and
`encoder` use the archives that they fetched before ([data](data.md)), and need no network.

This page is made of the code (`make docs`), and `tests/docs/test_edits.py` holds it to what DVC says.

| an edit of | makes stale | computes anew: a comment | computes anew: a constant |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Cost:
    """What an edit of a file costs.

    Attributes:
        stale: stages that DVC runs.
        comment: those of them that compute, if the edit is a comment.
        constant: those of them that compute, if it is a constant.
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
        # The bytes of what is no Python count, a comment's too.
        by_key = tuple(stage for stage in stale if stage in KEPT_IN_THE_STORE and name in keyed[stage])
        found[name] = Cost(stale, always if file.suffix == ".py" else always + by_key, always + by_key)
    return found


def edits_page(root: Path) -> str:
    """Return the page: files of the same cost share a row."""
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
    """Name files by their rooms, ``core/`` files, locks``."""
    rooms: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.removeprefix("petseg/").rpartition("/")
        rooms.setdefault(folder, []).append(file.removesuffix(".py"))
    return "; ".join(
        f"`{folder}/` {', '.join(files)}" if folder else ", ".join(files) for folder, files in rooms.items()
    )


def _stages(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
