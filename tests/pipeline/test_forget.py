"""A copy of params.yaml that DVC wrote to git's objects, and that must be removed."""

import subprocess
from pathlib import Path

import pytest

from petseg.pipeline.forget import forget

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A params.yaml whose committed version has other values."""
    file = tmp_path / "params.yaml"
    file.write_text("sample")
    for command in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-qm", "first"]):
        git(tmp_path, *command)
    file.write_text("secret")
    return file


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def has_copy(params: Path, blob: str) -> bool:
    return (params.parent / ".git/objects" / blob[:2] / blob[2:]).exists()


def test_a_copy_that_nothing_refers_to_is_removed(params: Path) -> None:
    blob = git(params.parent, "hash-object", "-w", "params.yaml")
    assert forget(params)
    assert not has_copy(params, blob)
    git(params.parent, "fsck")
    assert forget(params)


def test_a_copy_of_a_running_experiment_is_removed(params: Path) -> None:
    stash = git(params.parent, *IDENTITY, "stash", "create")
    git(params.parent, "update-ref", "refs/exps/exec/EXEC_MERGE", stash)
    blob = git(params.parent, "hash-object", "params.yaml")
    assert has_copy(params, blob)
    assert forget(params)
    assert not has_copy(params, blob)


@pytest.mark.parametrize("how", ["index", "commit", "stash", "queue"])
def test_a_copy_that_the_user_has_in_git_stays(params: Path, how: str) -> None:
    folder = params.parent
    git(folder, "add", "params.yaml")
    if how == "commit":
        git(folder, *IDENTITY, "commit", "-qm", "mine")
    elif how == "stash":
        git(folder, *IDENTITY, "stash")
        params.write_text("secret")
    elif how == "queue":
        git(folder, "update-ref", "refs/exps/celery/stash", git(folder, *IDENTITY, "stash", "create"))
        git(folder, "reset", "-q")
    assert not forget(params)
    assert has_copy(params, git(folder, "hash-object", "params.yaml"))


def test_without_a_repository_there_is_no_copy(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("secret")
    assert forget(tmp_path / "params.yaml")
