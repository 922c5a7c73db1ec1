"""A URL with a password and a token that a user gives to DVC: it is kept in no other place."""

import subprocess
import uuid
from pathlib import Path

import pytest

from tests.support.project import FEW, TINY, Project

USER, PASSWORD, TOKEN = SECRETS = [uuid.uuid4().hex for _ in range(3)]  # random, so that no file has them
LOGIN = f"{USER}:{PASSWORD}@127.0.0.1:9"
URL = f"http://{LOGIN}/x?token={TOKEN}"


@pytest.fixture
def project(tmp_path: Path, forks: Path) -> Project:
    return Project(tmp_path / "project", TINY | FEW, forks)


def places_with_a_secret(project: Project) -> list[str]:
    """Return the files that hold a secret, and ``git`` if an object of git does."""
    folder = project.folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [f"{path.relative_to(folder)}" for path in files if has_secret(path.read_bytes())]
    listed = project.run("git", "cat-file", "--batch-all-objects", "--batch-check")
    ids = [line.split()[0] for line in listed.splitlines()]
    contents = subprocess.run(
        ["git", "cat-file", "--batch"],
        cwd=folder,
        input="\n".join(ids).encode(),
        capture_output=True,
        check=True,
    )
    return sorted(found) + (["git"] if has_secret(contents.stdout) else [])


def has_secret(content: bytes) -> bool:
    return any(secret.encode() in content for secret in SECRETS)


@pytest.mark.parametrize("key", ["data.source", "model.encoder_weights"])
def test_a_secret_url_stays_in_params_yaml_alone(project: Project, key: str) -> None:
    printed = project.run("dvc", "exp", "run", "-S", f"{key}='{URL}'", fails=True)
    (line,) = [line for line in printed.splitlines() if "params.yaml:" in line]
    assert f"params.yaml: {key}: is a URL with a user, a password or a query, and params are recorded" in line
    assert "petseg has not stored the URL: remove it from params.yaml" in line
    assert not has_secret(printed.encode())
    assert places_with_a_secret(project) == ["params.yaml"]
    project.run("git", "fsck")
    assert not (project.folder / "runs").exists()


@pytest.mark.parametrize("option", ["--data-path", "-S"])
def test_petseg_train_writes_a_secret_url_nowhere(project: Project, option: str) -> None:
    given = URL if option == "--data-path" else f"data.source={URL}"
    printed = project.run("python", "-m", "petseg", "train", option, given, fails=True)
    assert printed.startswith("petseg: params.yaml: data.source: is a URL with a user")
    assert not has_secret(printed.encode())
    assert places_with_a_secret(project) == []


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("MLFLOW_TRACKING_URI", f"http://127.0.0.1:9/?token={TOKEN}"),
        ("MLFLOW_TRACKING_URI", f"http://{LOGIN}/#{TOKEN}"),
        ("MLFLOW_REGISTRY_URI", f"https://{LOGIN}"),
    ],
    ids=["query", "fragment", "registry"],
)
def test_an_mlflow_server_is_named_without_secrets(project: Project, name: str, uri: str) -> None:
    for command in (project.command("download"), ["python", "-m", "petseg", "runs", "sync", "--all"]):
        printed = project.run(*command, fails=True, environment={name: uri})
        assert f"{name}: is a URL with a user, a password or a query; give the URL alone" in printed
        assert "MLFLOW_TRACKING_PASSWORD" in printed
        assert len(printed.splitlines()) == 1
        assert not has_secret(printed.encode())
    assert places_with_a_secret(project) == []
