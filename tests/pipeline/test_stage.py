"""The code around every stage, tested as a program."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from petseg.core.project import main_root
from tests.support import ROOT

STAGE = '''
import sys, time
from pathlib import Path
from petseg.errors import DataError
from petseg.params import Params
from petseg.pipeline.stage import run_stage

def probe(params: Params, what: Path) -> None:
    """Do what the name says."""
    print("started", flush=True)
    match what.name:
        case "fail": raise DataError("no photo is left")
        case "bug": raise ZeroDivisionError("a bug")
        case "full": Path("/dev/full").write_bytes(b"x" * 9999)
        case "forbidden": raise PermissionError(13, "Permission denied", "runs")
        case "wait": time.sleep(60)
        case "edit-read": edit("epochs: 50", "epochs: 61")
        case "edit-unread": edit("examples: 6", "examples: 5")
        case "edit-code": Path("petseg/errors.py").write_text(Path("petseg/errors.py").read_text() + "# x")
        case "edit-page": Path("petseg/report/page.css").write_text("p {}")
        case "no-params": Path("params.yaml").unlink()
        case "no-pipeline": Path("dvc.yaml").unlink()
        case "half-params": Path("params.yaml").write_text("a: [")
        case "no-code": Path("petseg/errors.py").unlink()

def edit(old, new):
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new))

if __name__ == "__main__":
    run_stage(probe)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one stage, which declares the params train and data.boundary."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "petseg", root / "petseg", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", root)
    (root / "stages").mkdir()
    (root / "stages/__init__.py").touch()
    (root / "stages/probe.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(
        "stages: {probe: {cmd: x, params: [train, data.boundary], "
        "deps: [stages/probe.py, petseg/errors.py, petseg/report]}}"
    )
    return root


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.probe", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("fine", 0, ""),
        ("fail", 1, "petseg probe: no photo is left\n"),
        ("full", 1, "petseg probe: disk full (No space left on device)\n"),
        ("forbidden", 1, "petseg probe: runs: Permission denied\n"),
        ("edit-unread", 0, ""),
        ("edit-read", 1, "petseg probe: params.yaml: train changed while the stage ran, so its outputs"),
        ("edit-code", 1, "petseg probe: petseg/errors.py changed while the stage ran"),
        ("edit-page", 1, "petseg probe: petseg/report/page.css changed while the stage ran"),
        ("no-params", 1, "petseg probe: params.yaml changed while the stage ran"),
        ("no-pipeline", 1, "petseg probe: dvc.yaml changed while the stage ran"),
        ("half-params", 1, "petseg probe: params.yaml changed while the stage ran"),
        ("no-code", 1, "petseg probe: petseg/errors.py changed while the stage ran"),
    ],
)
def test_each_failure_of_a_stage_has_its_exit_code_and_line(
    project: Path, what: str, code: int, message: str
) -> None:
    done = run(project, "--what", what)
    assert (done.returncode, done.stdout) == (code, "started\n")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)


@pytest.fixture
def kept(project: Path) -> Path:
    """The project with the folders of petseg, DVC, MLflow and git, and a store in another place."""
    for folder in ("runs/aaaa111122223333", ".git", ".dvc", "mlartifacts", "plots/figures", "../far/store"):
        (project / folder).mkdir(parents=True)
    (project / "../far/store/store.json").touch()
    (project / "runs/aaaa111122223333/model.safetensors").touch()
    (project / "to-store").symlink_to("runs")
    (project / "to-run").symlink_to("../far/store")
    (project / "link.safetensors").symlink_to("runs/aaaa111122223333/model.safetensors")
    return project


PLACES = {
    "runs/new": "the store of runs",
    "to-store/new": "the store of runs",
    "to-run": "the store of runs",
    "../far/store/deep/new": "the store of runs",
    "link.safetensors": "the store of runs",
    ".git/new": "git's own folder",
    ".dvc/new": "DVC's own folder",
    "mlflow.db": "MLflow's files",
    "mlartifacts/new": "MLflow's files",
    "params.yaml": "the pipeline's files",
    "dvc.yaml": "the pipeline's files",
    "dvc.lock": "the pipeline's files",
    "petseg/errors.py": "the pipeline's files",
    "metrics/other.json": "the pipeline's files",  # of another stage
}
# Typed by hand, and named in dvc.yaml. There, the last two would be outs of the stage.
CASES = [*((place, False) for place in PLACES), *((place, True) for place in list(PLACES)[:-2])]
WIRED = """stages:
  probe: {{cmd: python -m stages.probe --what {0}, outs: [{0}]}}
  other: {{cmd: x, deps: [petseg/errors.py], metrics: [metrics/other.json: {{cache: false}}]}}
"""


@pytest.mark.parametrize(("place", "wired"), CASES)
def test_a_stage_writes_into_no_protected_folder(kept: Path, place: str, wired: bool) -> None:
    (kept / "dvc.yaml").write_text(WIRED.format(place if wired else "fine"))
    done = run(kept, "--what", place)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"petseg probe: --what {re.escape(place)}: lies in {PLACES[place]} \(\S+\); choose another place\n",
        done.stderr,
    )


@pytest.mark.parametrize("place", [".", "..", "stages/.."])
def test_a_stage_writes_into_no_folder_that_holds_the_project(kept: Path, place: str) -> None:
    done = run(kept, "--what", place)
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose another place" in done.stderr


def test_a_stage_writes_over_no_file_that_git_tracks(kept: Path) -> None:
    (kept / "tracked.md").write_text("mine")
    for words in (["init", "--quiet"], ["add", "tracked.md"]):
        subprocess.run(["git", *words], cwd=kept, check=True)
    done = run(kept, "--what", "tracked.md")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--what tracked.md: is tracked by git; choose another place" in done.stderr
    (kept / "dvc.yaml").write_text(WIRED.format("tracked.md"))  # like the metrics
    assert run(kept, "--what", "tracked.md").returncode == 0


def test_a_stage_writes_its_outs_and_reads_any_file(kept: Path) -> None:
    (kept / "dvc.yaml").write_text(WIRED.format("plots/test"))
    cached = kept / ".dvc/cache/files/md5/aa/bb"
    cached.mkdir(parents=True)
    (cached / "object").touch()
    (kept / "plots/test").symlink_to("../.dvc/cache/files/md5/aa/bb/object")  # DVC can link outs
    for place in ("plots/test", "plots/new/deep", "/tmp/some/new"):
        assert run(kept, "--what", place).returncode == 0
    (kept / "dvc.yaml").write_text("stages: {probe: {cmd: python -m stages.probe --what data, deps: [data]}}")
    assert run(kept, "--what", "runs/aaaa111122223333/model.safetensors").returncode == 0


def test_a_stage_in_an_experiment_of_dvc_writes_only_there(kept: Path) -> None:
    there = kept / ".dvc/tmp/exps/tmpabc"
    (there / ".dvc").mkdir(parents=True)
    (kept / "dvc.yaml").write_text(WIRED.format("plots/test"))
    for name in ("petseg", "stages", "params.yaml", "dvc.yaml"):
        copy = shutil.copytree if (kept / name).is_dir() else shutil.copy
        copy(kept / name, there / name)
    assert run(there, "--what", "plots/test").returncode == 0
    for place in ("../new", "../../../../runs/new", "runs/new", ".dvc/new", "../../../config"):
        assert "choose another place" in run(there, "--what", place).stderr


def test_a_stage_removes_temporary_files_of_a_killed_run(kept: Path) -> None:
    left, other = kept / "plots/.new.csv.99999999.tmp", kept / "plots/.new.99999999.tmp"
    for path in (left, other):
        path.touch()
    assert run(kept, "--what", "plots/new.csv").returncode == 0
    assert (left.exists(), other.exists()) == (False, True)


def test_a_bug_is_a_traceback(project: Path) -> None:
    done = run(project, "--what", "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("--what",), ("--that", "a"), ("--what", "a", "b")])
def test_wrong_arguments_print_the_usage(project: Path, arguments: tuple[str, ...]) -> None:
    done = run(project, *arguments)
    assert done.returncode == 2
    assert done.stderr == "petseg probe: usage: python -m stages.probe --what PATH; dvc.yaml has the paths\n"


def test_wrong_params_stop_a_stage_with_a_line_for_each(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(
        text.replace("epochs: 50", "epochs: 0").replace("examples: 6", "example: 6")
    )
    done = run(project, "--what", "fine")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "petseg probe: params.yaml: train.epochs: 0 must be greater than or equal to 1",
        "petseg probe: params.yaml: plot.examples: is missing",
        "petseg probe: params.yaml: plot.example: unknown key; did you mean examples?",
    ]


@pytest.fixture
def sigint_not_ignored() -> Iterator[None]:
    """A background job of a shell ignores SIGINT, and its child processes would inherit that."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("sigint_not_ignored")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_stage_without_a_traceback(project: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "stages.probe", "--what", "wait"]
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in error


def test_a_stage_without_its_environment_names_the_remedy() -> None:
    code = (
        "import sys, importlib.util as u\n"
        "sys.path.insert(0, '.'); u.find_spec = lambda name: None; import stages"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"petseg: the environment is not active; run: make env && .*\n", done.stderr)


@pytest.mark.whole
def test_programs_of_an_inactive_environment_use_its_own_python() -> None:
    """So `.venv/bin/dvc repro` runs the stages with that Python. `make env` writes a line for this."""
    if not list(Path(sysconfig.get_path("purelib")).glob("petseg_path.pth")):
        pytest.skip("this environment was not made by make env")
    code = (
        "import shutil, subprocess; print(shutil.which('python'))\n"
        "subprocess.run(['python', '-m', 'stages.train'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin"}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(Path(sys.prefix) / "bin/python")
    assert "petseg train: usage: python -m stages.train --arrays PATH" in done.stderr


@pytest.mark.parametrize(
    ("folder", "root"),
    [
        ("", ""),
        ("stages/deep", ""),
        (".dvc/tmp/exps/standalone/tmp1", ""),
        (".dvc/tmp/exps/tmp2/stages", ""),
    ],
)
def test_the_main_repository_is_found(tmp_path: Path, folder: str, root: str) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / ".dvc").mkdir(exist_ok=True) if "exps" in folder and "stages" not in folder else None
    os.environ["DVC_ROOT"] = "/elsewhere"
    try:
        assert main_root(tmp_path / folder) == tmp_path / root
    finally:
        del os.environ["DVC_ROOT"]
