"""The faults that a training must survive. Each test really causes its fault in a small training.

A test names its fault by a number and words. `make faults` runs all tests, slow ones too, and prints a table.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.project import FEW, TINY, Project


@pytest.fixture(scope="session")
def prepared(forks: Path, mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with packed photos, in which nothing is trained yet."""
    project = Project(tmp_path_factory.mktemp("faults"), TINY | FEW, forks)
    shutil.copy(mlflow_database, project.folder / "mlflow.db")
    project.run("dvc", "repro", "encoder", "preprocess")
    project.commit("prepared")
    return project


@pytest.fixture(scope="session")
def reference(prepared: Project, mlflow_database: Path) -> dict[str, Any]:
    """The manifest of a training that nothing disturbed."""
    prepared.run(*prepared.train_command)
    (manifest,) = prepared.manifests().values()
    prepared.forget_trainings(mlflow_database)
    return manifest


@pytest.fixture
def project(prepared: Project, reference: dict[str, Any], mlflow_database: Path) -> Iterator[Project]:
    """The prepared project with an empty store, which a test may damage."""
    yield prepared
    prepared.forget_trainings(mlflow_database)


@pytest.fixture(scope="module")
def two(trained: Project, forks: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two finished runs. The first is scored and drawn; the second is better or worse."""
    project = trained.copy(tmp_path_factory.mktemp("two") / "project", forks)
    project.edit("params.yaml", {"train:\n  seed: 0": "train:\n  seed: 7"})
    project.run(*project.train_command)
    project.run("git", "checkout", "-q", "params.yaml")
    project.run("dvc", "checkout", "-q", "--force", "train")
    Image.new("RGB", (40, 30), "gray").save(project.folder / "photo.jpg")
    return project


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number, words): the fault that a test causes")


_results: list[tuple[int, str, str, float]] = []
# For each command: how many calls of each kind failed, and how many of them it did not survive.
_io_errors: list[tuple[str, dict[str, int], int]] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    if mark := item.get_closest_marker("fault"):
        outcome.get_result().user_properties.append(("fault", mark.args))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        faults: list[Any] = [value for name, value in report.user_properties if name == "fault"]
        _results.extend((*fault, report.outcome, report.duration) for fault in faults)
        counted: list[Any] = [value for name, value in report.user_properties if name == "io_errors"]
        _io_errors.extend(tuple(each) for each in counted)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line per fault. A fault that is caused in several ways has passed if each way has passed."""
    if not _results:
        return
    terminalreporter.write_line("\n| | fault | ways | result | s |\n|---|---|---|---|---|")
    for (number, words), results in groupby(sorted(_results), key=lambda result: result[:2]):
        _, _, outcomes, durations = zip(*results, strict=True)
        outcome = ", ".join(sorted(set(outcomes)))
        terminalreporter.write_line(
            f"| {number} | {words} | {len(outcomes)} | {outcome} | {sum(durations):.0f} |"
        )
    if _io_errors:
        _write_io_errors(terminalreporter)


def _write_io_errors(terminalreporter: Any) -> None:
    """Print one line per command: how many calls of each kind failed, and how many of these it survived."""
    rows: dict[str, Counter[str]] = {}
    for name, failed, not_survived in _io_errors:
        rows.setdefault(name, Counter()).update({**failed, "": not_survived})
    kinds = ("open", "read", "write", "fsync", "rename", "link", "unlink", "mkdir")
    terminalreporter.write_line(f"\n| I/O errors in | {' | '.join(kinds)} | all | survived |")
    terminalreporter.write_line("|---" * (len(kinds) + 3) + "|")
    for name, failed in rows.items():
        numbers = [*(failed[kind] for kind in kinds), sum(failed[kind] for kind in kinds)]
        cells = " | ".join(map(str, [*numbers, numbers[-1] - failed[""]]))
        terminalreporter.write_line(f"| {name} | {cells} |")
