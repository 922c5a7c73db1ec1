"""What an edit costs: the stages that DVC calls stale in a copy of the project, and the hash of the code."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docs.edits import KEPT_IN_THE_STORE, costs
from petseg.pipeline.codehash import code_sha256
from petseg.pipeline.dvcfiles import CODE
from tests.support import ROOT
from tests.support.project import TINY, Project


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the committed lock, which was made by this code."""
    folder = Project(tmp_path_factory.mktemp("edited"), TINY).folder
    (folder / "dvc.lock").write_bytes((ROOT / "dvc.lock").read_bytes())
    return folder


@pytest.fixture(scope="module")
def stale_by_code(copy: Path) -> Iterator[Callable[[], set[str]]]:
    """A function that asks DVC, in this process, which stages are stale because their code changed."""
    from dvc.repo import Repo

    with Repo(str(copy)) as repo:
        deps = [
            (stage.name, dep)
            for stage in repo.index.stages
            for dep in stage.deps
            if Path(dep.def_path).parts[0] in CODE
        ]
        assert len(deps) > 30
        yield lambda: {stage for stage, dep in deps if dep.status()}


@pytest.mark.whole
def test_an_edit_makes_the_listed_stages_stale(copy: Path, stale_by_code: Callable[[], set[str]]) -> None:
    assert stale_by_code() == set(), "make record makes the lock anew"
    found = {}
    for name in costs(ROOT):
        path = copy / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        found[name] = stale_by_code()
        path.write_bytes(before)
    assert found == {name: set(cost.stale) for name, cost in costs(ROOT).items()}


@pytest.mark.whole
@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize(("edit", "column"), [("# a comment", "comment"), ("ADDED = 1", "constant")])
def test_an_edit_makes_the_listed_stages_compute_again(copy: Path, edit: str, column: str) -> None:
    scripts = {stage: copy / f"stages/{stage}.py" for stage in KEPT_IN_THE_STORE}
    keys = {stage: code_sha256(script) for stage, script in scripts.items()}
    for name, cost in costs(ROOT).items():
        path = copy / name
        before = path.read_bytes()
        path.write_bytes(before + f"\n{edit}\n".encode())
        anew = {stage for stage, script in scripts.items() if code_sha256(script) != keys[stage]}
        path.write_bytes(before)
        assert anew & set(cost.stale) == set(getattr(cost, column)) & set(KEPT_IN_THE_STORE), name
        if anew - set(cost.stale):  # DVC does not watch this file, which has only a docstring
            assert name == "petseg/__init__.py"
