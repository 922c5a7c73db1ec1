"""``petseg doctor`` on a small project that is broken in one way after the other."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from threading import Event

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from petseg.cli import app
from petseg.cli.doctor import checks as checkup
from petseg.cli.doctor import findings as findings_of
from petseg.cli.doctor.checks import check_up
from petseg.cli.doctor.findings import Check, Finding
from petseg.core.files import copy_atomically
from petseg.core.textfiles import read_yaml
from petseg.store.chain import MARKER
from petseg.store.champion import promote
from petseg.store.layout import MANIFEST, WEIGHTS
from petseg.tracking.outbox import lock_entry
from tests.support import ROOT
from tests.support.runs import make_run

KEY = "aaaa111122223333"
PIPELINE = """
stages:
  download: {cmd: python -m stages.download in data/archives, outs: [data/archives]}
  preprocess: {cmd: python -m stages.preprocess, outs: [data/pets]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A DVC project without git in which nothing has run, as the working folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n  no_scm = true\n  analytics = false\n")
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml", "requirements.lock", "stages/train.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with chdir(tmp_path):
        yield tmp_path


def found(check: Check, root: Path) -> dict[str, tuple[str, str]]:
    """The state and the words of each finding, by its name."""
    return {finding.name: (finding.state, finding.words) for finding in check(root)}


def test_an_empty_folder_is_described_and_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with chdir(tmp_path):
        findings = check_up(tmp_path)
        result = CliRunner().invoke(app, ["doctor"])
    assert list(tmp_path.iterdir()) == []
    states = {finding.name: finding.state for finding in findings}
    broken = {"packages", "params", "dvc", "git", "data", "weights"}
    assert {name for name, state in states.items() if state == "problem"} == broken
    assert {states[name] for name in ("cores", "gpu", "mlflow", "runs")} == {"ok"}
    assert "\n".join(f.words for f in findings).count("\n") + 1 == len(findings)
    assert result.exit_code == 1
    assert all(finding.words in result.output for finding in findings)


def test_a_failing_check_does_not_stop_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = Event()

    def fails(root: Path) -> Iterator[Finding]:
        yield Finding("fails", "ok", "so far")
        raise RuntimeError("over\ntwo lines")

    def hangs(root: Path) -> Iterator[Finding]:
        ended.wait()
        yield Finding("hangs", "ok", "at last")

    def works(root: Path) -> Iterator[Finding]:
        yield Finding("works", "ok", "well")

    monkeypatch.setattr(checkup, "CHECKS", {"fails": fails, "hangs": hangs, "works": works})
    monkeypatch.setattr(findings_of, "TIME_S", 0.2)
    findings = check_up(tmp_path)
    ended.set()
    assert [(finding.name, finding.state, finding.words) for finding in findings] == [
        ("fails", "ok", "so far"),
        ("fails", "problem", "can't be checked: RuntimeError: over two lines"),
        ("hangs", "warning", "does not end within 0.2 s"),
        ("works", "ok", "well"),
    ]


def test_packages_are_compared_with_the_lock(project: Path) -> None:
    assert found(checkup.check_packages, project)["python"][0] == "ok"
    pins = ["numpy==0.0.1 \\\n    --hash=sha256:00", "never-heard-of==1", "other==1 ; sys_platform == 'none'"]
    (project / "requirements.lock").write_text("\n".join(pins) + "\n")
    state, words = found(checkup.check_packages, project)["packages"]
    assert state == "warning"
    assert words.startswith("differ from requirements.lock: numpy ")
    assert "not 0.0.1, never-heard-of is absent; make env" in words


def test_params_are_compared_with_the_machine(project: Path) -> None:
    assert found(checkup.check_params, project)["params"][0] == "ok"
    text = (project / "params.yaml").read_text().replace("threads: 2", "threads: 999")
    (project / "params.yaml").write_text(text.replace("learning_rate: 5.0e-2", "learning_rate: -1"))
    state, words = found(checkup.check_cores, project)["cores"]
    assert (state, "train.threads 999: set no more" in words) == ("warning", True)
    [finding] = [one for one in check_up(project) if one.name == "params"]
    assert finding.state == "problem"
    assert "train.learning_rate: -1" in finding.words


def test_a_project_without_a_commit_is_a_problem(project: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert found(checkup.check_git, project)["git"][0] == "problem"
    subprocess.run([*git, "add", "params.yaml"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    assert found(checkup.check_git, project)["git"][0] == "ok"


def test_stale_stages_and_an_absent_remote_are_named(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: {copy: {cmd: cp a b, deps: [a], outs: [b]}}")
    (project / "a").write_text("one")
    Repo(str(project)).reproduce()
    before = found(checkup.check_dvc, project)
    assert before["pipeline"] == ("ok", "every stage is current")
    assert before["dvc cache"] == ("ok", "1 objects, 3 bytes, in .dvc/cache/files/md5")
    assert before["dvc remote"][0] == "ok"

    (project / "a").write_text("other")
    (project / "b").unlink()
    with (project / ".dvc/config").open("a") as config:
        config.write("  remote = usb\n['remote \"usb\"']\n  url = /nowhere/at/all\n")
    after = found(checkup.check_dvc, project)
    assert after["pipeline"] == (
        "warning",
        "stale: copy (inputs changed, outputs deleted); dvc repro makes it current",
    )
    assert after["dvc remote"][0] == "warning"
    assert "/nowhere/at/all is not there" in after["dvc remote"][1]


def test_one_wrong_byte_of_the_data_is_found(project: Path) -> None:
    archive = project / "data/archives/sub/images.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"photos")
    (project / "data/archives/b").write_bytes(b"")
    (project / "dvc.yaml").unlink()
    Repo(str(project)).add("data/archives")
    [out] = read_yaml(project / "data/archives.dvc")["outs"]  # DVC's own hash
    (project / "data/archives.dvc").unlink()
    (project / "dvc.yaml").write_text(PIPELINE)
    recorded = {"download": {"outs": [{"path": "data/archives", "md5": out["md5"]}]}}
    (project / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": recorded}))
    findings = found(checkup.check_data, project)
    assert findings["data/archives"] == ("ok", "as in dvc.lock")
    assert findings["data/pets"][0] == "warning"

    times = archive.stat()
    archive.chmod(0o644)
    archive.write_bytes(b"phot0s")
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
    state, words = found(checkup.check_data, project)["data/archives"]
    assert state == "problem"
    assert "dvc checkout -f data/archives" in words
    shutil.rmtree(project / "data/archives")
    assert found(checkup.check_data, project)["data/archives"][0] == "warning"


def test_weights_are_compared_with_the_store(project: Path) -> None:
    name = "models/model.safetensors"
    assert found(checkup.check_weights, project)[name][0] == "warning"
    run = make_run(project / "runs" / KEY, "unet")
    copy_atomically(run.folder / WEIGHTS, project / name)
    assert found(checkup.check_weights, project)[name] == ("ok", "is a run's, byte for byte")
    (project / name).write_bytes(b"trained elsewhere")
    assert "petseg runs adopt" in found(checkup.check_weights, project)[name][1]


def test_the_store_and_its_champion_are_checked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(checkup.check_store, project).keys() == {"runs", "disk of the runs"}
    run = make_run(project / "runs" / KEY, "unet")
    findings = found(checkup.check_store, project)
    assert findings["runs"] == ("ok", "1 finished")
    assert findings["champion"] == ("warning", "none; petseg runs promote ID makes one")
    promote(run, force=False)
    assert found(checkup.check_store, project)["champion"] == ("ok", f"run {KEY}")
    monkeypatch.setattr(checkup, "LOW_BYTES", 10**18)
    assert found(checkup.check_store, project)["disk of the runs"][0] == "warning"

    (run.folder / MANIFEST).write_text("{")
    states = [(finding.name, finding.state) for finding in check_up(project)]
    assert ("runs", "problem") in states
    shutil.rmtree(run.folder)
    state, words = found(checkup.check_store, project)["champion"]
    assert (state, words.startswith(f"{KEY} is not in runs/")) == ("problem", True)
    (project / "runs" / MARKER).write_text("no marker\n")
    assert ("runs", "problem") in [(one.name, one.state) for one in check_up(project)]


def test_records_missing_in_mlflow_are_counted(project: Path) -> None:
    with lock_entry(KEY) as entry:
        entry.write({})
    findings = found(checkup.check_mlflow, project)
    assert findings["mlflow"][0] == "ok"
    assert findings["mlflow outbox"] == ("warning", "1 record still to be logged: petseg runs sync")
    assert not (project / "mlflow.db").exists()
    (project / "mlflow.db").write_bytes(b"no database")
    state, words = found(checkup.check_mlflow, project)["mlflow"]
    assert (state, words.startswith("does not answer (")) == ("warning", True)


def test_the_command_prints_the_findings_as_json(project: Path) -> None:
    findings = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)["findings"]
    assert {one["state"] for one in findings} <= {"ok", "warning", "problem"}
    assert {"python", "dvc cache", "champion"} - {one["name"] for one in findings} == {"champion"}
    result = CliRunner().invoke(app, ["doctor", "--source", "folder"])
    assert "--source: goes with --data" in str(result.exception)
