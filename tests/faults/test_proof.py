"""What commands report about the store agrees with its bytes: faults 39 to 50, on one trained project."""

import json
import os
import pty
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from petseg.core.files import sha256_file
from tests.support.project import Project

WEIGHTS = "model.safetensors"


@pytest.fixture
def project(two: Project, forks: Path, tmp_path: Path) -> Project:
    """A copy of the project, which a test may damage."""
    return two.copy(tmp_path / "project", forks)


def petseg(project: Project, *words: str, fails: bool = False) -> str:
    return project.run("python", "-m", "petseg", "runs", *words, fails=fails)


def keys(project: Project) -> tuple[str, str]:
    """The keys of the scored run and of the other one."""
    scored = [path.parents[2].name for path in project.folder.glob("runs/*/evaluations/*/test.json")]
    (other,) = project.manifests().keys() - set(scored)
    return scored[0], other


def chain_of(project: Project) -> Path:
    """The file of the ledger to which this project adds lines. The others come from the project it copies."""
    runs = project.folder / "runs"
    return Path(runs, "ledger", json.loads((runs / "store.json").read_text())["clone"] + ".jsonl")


def stored(project: Project) -> dict[str, str]:
    """The hashes of the files of the store, except its ledger and locks."""
    runs = project.folder / "runs"
    files = [path for path in runs.glob("[!.]*/**/*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(runs)): sha256_file(path) for path in files if "ledger" not in path.parts}


@pytest.mark.fault(39, "a path that leads into the store, DVC's cache or a file of the project")
def test_no_command_writes_into_the_store(project: Project) -> None:
    scored, other = keys(project)
    before = stored(project)
    (project.folder / "link").symlink_to("runs", target_is_directory=True)
    for target in (f"runs/{other}/{WEIGHTS}", f"link/{other}/new.safetensors", ".dvc/cache/x.safetensors"):
        printed = petseg(project, "restore", scored, "--to", target, "--force", fails=True)
        assert printed.count("\n") == 1
    petseg(project, "export", scored, "--onnx", f"runs/{other}/model.onnx", "--force", fails=True)
    assert stored(project) == before
    assert "none differ" in petseg(project, "verify")


@pytest.mark.fault(40, "the stored copy is damaged, and the last good one passes by")
def test_adopting_a_good_copy_heals_the_store(project: Project) -> None:
    _, other = keys(project)
    before = stored(project)
    file = project.folder / "runs" / other / WEIGHTS
    shutil.copy(file, project.folder / "mine.safetensors")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert "put back from mine.safetensors" in petseg(project, "adopt", "mine.safetensors")
    assert stored(project) == before
    file.unlink()  # DVC's cache has nothing of the other run, but its outs are in models/
    shutil.copy(project.folder / "mine.safetensors", project.folder / "models" / WEIGHTS)
    assert "put back from " in petseg(project, "adopt", f"models/{WEIGHTS}")
    assert stored(project) == before
    assert "none differ" in petseg(project, "verify")


@pytest.mark.fault(40, "the stored copy is damaged, and DVC's cache has a good one")
def test_dvcs_cache_heals_the_store(project: Project) -> None:
    scored, _ = keys(project)
    before = stored(project)
    for name in (WEIGHTS, "history.csv"):
        (project.folder / "runs" / scored / name).unlink()
    printed = petseg(project, "verify", fails=True)
    assert printed.count("is gone") == 2
    assert f"{WEIGHTS}: was damaged or gone; put back from" in petseg(project, "verify", "--heal")
    assert stored(project) == before


@pytest.mark.fault(41, "models/ holds the weights of one run, and the description of another")
def test_results_are_not_added_to_another_run(project: Project) -> None:
    scored, other = keys(project)
    before = stored(project)
    shutil.copy(project.folder / "runs" / other / WEIGHTS, project.folder / "models" / WEIGHTS)
    printed = project.run(*project.command("infer"), fails=True)
    assert "it is of other weights" in printed
    assert stored(project) == before
    # Now the weights and scores of one run are beside the curves and masks of the other.
    petseg(project, "restore", other, "--force")
    project.run(*project.command("infer"))
    printed = project.run(*project.command("plot"))
    assert f"run {other} has other masks, curves or scores" in printed
    assert not (project.folder / "runs" / other / "figures").exists()
    assert scored in project.manifests()


@pytest.mark.fault(42, "a promotion while prune waits at its question")
def test_a_run_promoted_during_the_prompt_is_not_pruned(project: Project) -> None:
    scored, other = keys(project)
    petseg(project, "promote", scored, "--force")
    best, _ = sorted((scored, other), key=lambda key: -project.manifests()[key]["best"]["val_dice"])
    candidate = other if best == scored else scored
    petseg(project, "promote", best, "--force")
    with prompting(project, "python", "-m", "petseg", "runs", "prune", candidate) as (process, terminal):
        petseg(project, "promote", candidate, "--force")
        os.write(terminal, b"y\n")
        assert process.wait(60) == 2
        assert "is the champion, and is not pruned" in read_all(terminal)
    assert candidate in project.manifests()
    assert "none differ" in petseg(project, "verify")


class prompting:
    """Run a command in a terminal until it asks a question."""

    def __init__(self, project: Project, *command: str) -> None:
        self.project, self.command = project, command

    def __enter__(self) -> "tuple[subprocess.Popen[bytes], int]":
        self.terminal, other_end = pty.openpty()
        self.process = subprocess.Popen(
            self.command,
            cwd=self.project.folder,
            env=self.project.environment(),
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
        )
        os.close(other_end)
        printed = b""
        until = time.monotonic() + 60
        while b"[y/N]" not in printed and time.monotonic() < until:
            printed += os.read(self.terminal, 1000)
        return self.process, self.terminal

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


def read_all(terminal: int) -> str:
    printed = b""
    try:
        while part := os.read(terminal, 1000):
            printed += part
    except OSError:  # the command has closed the terminal
        pass
    return printed.decode()


def edit_unsealed(path: Path, **values: Any) -> None:
    """Change a record, and remove its seal."""
    record = json.loads(path.read_text())
    record.pop("sha256", None)
    path.chmod(0o644)
    path.write_text(json.dumps(record | values))


@pytest.mark.fault(43, "a run, a record, an evaluation, the champion or the ledger lost, edited or torn")
def test_verify_names_what_is_absent_or_edited(project: Project) -> None:
    scored, other = keys(project)
    runs = project.folder / "runs"
    petseg(project, "promote", scored, "--force")
    (evaluation,) = (runs / scored / "evaluations").iterdir()
    chain = chain_of(project)
    whole = chain.read_text()
    manifest = json.loads((runs / other / "manifest.json").read_text())
    kept = project.folder / "kept"
    shutil.copytree(runs, kept)

    def verify_and_undo(message: str) -> None:
        assert message in petseg(project, "verify", fails=True)
        shutil.rmtree(runs)
        shutil.copytree(kept, runs)

    (runs / other / "manifest.json").unlink()
    verify_and_undo(f"{other}/manifest.json: is gone")
    edit_unsealed(runs / other / "manifest.json", best=manifest["best"] | {"val_dice": 0.99})
    verify_and_undo(f"{other}/manifest.json: is not what the ledger says")
    shutil.rmtree(evaluation)
    verify_and_undo("evaluation.json: is gone")
    shutil.rmtree(runs / scored)
    verify_and_undo(f"{scored}: is the champion")
    lines = whole.splitlines(keepends=True)
    chain.write_text("".join(lines[:-1]))
    verify_and_undo("1 of its ")
    chain.write_text(whole.replace("copied from", "moved from"))
    verify_and_undo("line 2: does not hold the hash of the line before it")
    (runs / "ledger" / chain.name).unlink()
    verify_and_undo(f"{chain.name}: is gone")
    assert "none differ" in petseg(project, "verify")


@pytest.mark.fault(44, "one record that is empty, or lacks an entry")
def test_one_broken_record_does_not_affect_other_runs(project: Project) -> None:
    scored, other = keys(project)
    (evaluation,) = (project.folder / "runs" / scored / "evaluations").iterdir()
    for path, content in (
        (evaluation / "evaluation.json", ""),
        (project.folder / "runs" / scored / "manifest.json", '{"format": 1, "status": "finished"}'),
    ):
        path.chmod(0o644)
        path.write_text(content)
        assert other in petseg(project, "list")
        petseg(project, "show", other)
        petseg(project, "which", f"runs/{other}/{WEIGHTS}")
        petseg(project, "restore", other, "--to", "back.safetensors", "--force")
        petseg(project, "promote", other, "--force")
        project.run("python", "-m", "petseg", "predict", "photo.jpg", "--out", "out", "--force")
        assert f"{path.name}" in petseg(project, "verify", fails=True)


@pytest.mark.fault(45, "a promotion cut by a full disk: half a line")
def test_a_torn_line_of_the_ledger_is_dropped(project: Project) -> None:
    scored, other = keys(project)
    petseg(project, "promote", scored, "--force")
    chain = chain_of(project)
    with chain.open("a") as file:
        file.write('{"at": "2026-11-2')
    assert scored in petseg(project, "champion")
    assert scored in petseg(project, "list")
    assert "was torn, and is dropped" in petseg(project, "promote", other, "--force")
    assert other in petseg(project, "champion")
    assert "none differ" in petseg(project, "verify")


@pytest.mark.fault(48, "the project renamed, or copied")
def test_a_moved_or_copied_project_uses_its_own_files(project: Project, tmp_path: Path, forks: Path) -> None:
    scored, _ = keys(project)
    petseg(project, "promote", scored, "--force")
    petseg(project, "sync", "--all")
    copy = project.copy(tmp_path / "copy", forks)
    before = {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}
    printed = copy.run("bash", "-c", "python -m petseg doctor || true")
    assert f"the project was at {project.folder} before" in printed  # about the store
    assert f"the project was at {project.folder}\n" in printed  # about MLflow
    copy.run("dvc", "repro", "--force", "--single-item", "infer")
    assert {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()} == before
    assert "none differ" in petseg(copy, "verify")
    project.folder.rename(tmp_path / "renamed")
    renamed = Project.open(tmp_path / "renamed", forks)
    printed = petseg(renamed, "sync", "--all") + petseg(renamed, "promote", scored)
    assert "was moved here from" in printed
    assert "the project was at" in printed
    assert not project.folder.exists()
    assert "none differ" in petseg(renamed, "verify")


@pytest.mark.fault(50, "a file of the user's beside a target, and a foreign table")
def test_files_of_the_user_are_not_replaced(project: Project) -> None:
    scored, _ = keys(project)
    (project.folder / "site").mkdir()
    (project.folder / "site/package.json").write_text("{}")
    petseg(project, "restore", scored, "--to", "site/package.safetensors", fails=True)
    assert (project.folder / "site/package.json").read_text() == "{}"
    assert not (project.folder / "site/package.safetensors").exists()
    (project.folder / "contacts.csv").write_text("name,phone\nanna,1\n")
    table = ("--resume", "--csv", "contacts.csv")
    project.run("python", "-m", "petseg", "predict", "photo.jpg", "--out", "out", *table, fails=True)
    assert (project.folder / "contacts.csv").read_text() == "name,phone\nanna,1\n"
