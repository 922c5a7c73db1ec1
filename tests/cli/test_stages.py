"""``petseg train`` when DVC fails: its changes of params.yaml are undone, but not the edits of others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from petseg.cli.stages import params_of_recipe
from petseg.core.textfiles import read_yaml
from petseg.params import check_params
from tests.support import ROOT

PARAMS = (ROOT / "params.yaml").read_bytes()
BACK = "petseg: params.yaml is as it was before\n"
LEFT = "petseg: params.yaml was edited meanwhile, and is left as it is now\n"
# A replacement of DVC: it writes params.yaml with DVC's own function. A test appends what happens then.
FAKE_DVC = """
import os, signal, subprocess, sys, time
from pathlib import Path
sys.path.pop(0)  # so that the imports below find the real DVC
from dvc.utils.hydra import apply_overrides
words, params = sys.argv, Path("params.yaml")
apply_overrides(params, [value for word, value in zip(words, words[1:]) if word == "-S"])
"""
COMMENT = "params.write_text('# mine\\n' + params.read_text()); "


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "below").mkdir()
    (tmp_path / "params.yaml").write_bytes(PARAMS)
    return tmp_path


def start(project: Path, during: str, *options: str) -> "subprocess.Popen[str]":
    """Start ``petseg train`` with a DVC that runs this code after it has written params.yaml."""
    (project / "dvc.py").write_text(FAKE_DVC + during)
    return subprocess.Popen(
        [sys.executable, "-m", "petseg", "train", *options],
        cwd=project / "below",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("during", "code"),
    [("sys.exit(255)", 1), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
)
def test_changes_by_dvc_are_undone(project: Path, during: str, code: int) -> None:
    (project / "params.yaml").chmod(0o644)
    with start(project, during, "--epochs", "60", "-S", "train.loss=dice") as process:
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (code, BACK)
    assert (project / "params.yaml").read_bytes() == PARAMS


@pytest.mark.parametrize(
    "edit",
    [
        COMMENT,
        "params.write_text(params.read_text().replace('epochs: 60', 'epochs: 61')); ",
        "params.write_text(params.read_text().replace('seed: 0', 'seed: 7')); ",
        "params.unlink(); ",
    ],
)
def test_an_edit_during_the_run_is_kept(project: Path, edit: str) -> None:
    with start(project, edit + "sys.exit(255)", "--epochs", "60") as process:
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr == LEFT
    params = project / "params.yaml"
    if "unlink" in edit:
        assert not params.exists()
    else:
        text = params.read_text()
        assert ("# mine" in text, "epochs: 61" in text, "seed: 7" in text).count(True) == 1
        assert read_yaml(params)["train"]["epochs"] in (60, 61)


@pytest.mark.parametrize("code", [0, 255])
def test_without_overrides_the_file_is_not_changed(project: Path, code: int) -> None:
    during = f"params.write_bytes({PARAMS!r} + b'# mine\\n'); sys.exit({code})"
    with start(project, during) as process:
        assert process.communicate()[1] == ""
    assert (project / "params.yaml").read_bytes() == PARAMS + b"# mine\n"


def test_success_keeps_the_params(project: Path) -> None:
    with start(project, "", "--epochs", "60") as process:
        assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert read_yaml(project / "params.yaml")["train"]["epochs"] == 60


@pytest.mark.parametrize("edit", ["", COMMENT])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_stage_first(project: Path, number: signal.Signals, edit: str) -> None:
    stage = "open('ended', 'w')" if number == signal.SIGTERM else "sys.exit()"
    during = f"""
{edit}
stage = '''
import signal, sys, time
def end(*_):
    {stage}
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
time.sleep(60)
'''
sys.exit(-subprocess.call([sys.executable, "-c", stage]))
"""
    with start(project, during, "--epochs", "60") as process:
        assert process.stdout is not None
        assert "started\n" in iter(process.stdout.readline, "")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert stderr == (LEFT if edit else BACK)
    assert ("# mine" in (project / "params.yaml").read_text()) is bool(edit)


@pytest.mark.whole
@pytest.mark.parametrize("edit", ["", COMMENT])
def test_the_real_dvc_behaves_like_its_replacement(project: Path, edit: str) -> None:
    """The real DVC, which works with git's stash, writes the same as its replacement here."""
    (project / ".dvc").rmdir()
    (project / "probe.py").write_text(
        f"import sys\nfrom pathlib import Path\nparams = Path('params.yaml')\n"
        f"assert 'epochs: 60' in params.read_text()\n{edit}sys.exit(3)\n"
    )
    (project / "dvc.yaml").write_text("stages: {train: {cmd: python probe.py, params: [train]}}\n")
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", *identity, "commit", "-qm", "all"],
    ):
        subprocess.run(command, cwd=project, check=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "petseg", "train", "--epochs", "60", "-S", "train.loss=dice"],
        cwd=project / "below",
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines(keepends=True)[-1] == (LEFT if edit else BACK)
    present = (project / "params.yaml").read_bytes()
    assert present.startswith(b"# mine\n") if edit else present == PARAMS


def test_typed_params_override_a_recipe(project: Path) -> None:
    (project / "recipes").mkdir()
    (project / "recipes/mine.yaml").write_text("data:\n  image_size: 64\ntrain: {epochs: 7, loss: dice}\n")
    for recipe in ("mine", "../recipes/mine.yaml"):
        with start(project, "", "--recipe", recipe, "--epochs", "9", "-S", "train.seed=3") as process:
            stdout, _ = process.communicate()
        assert process.returncode == 0
        assert stdout == (
            "dvc exp run train -S data.image_size=64 -S train.epochs=9 -S train.loss=dice -S train.seed=3\n"
        )
        values = read_yaml(project / "params.yaml")
        assert (values["data"]["image_size"], values["train"]["epochs"], values["train"]["loss"]) == (
            64,
            9,
            "dice",
        )


@pytest.mark.parametrize(
    ("content", "wanted", "message"),
    [
        ("", "hers", "--recipe hers: neither a file nor a recipe; recipes/ has: mine"),
        ("", "", "--recipe : neither a file nor a recipe; recipes/ has: mine"),
        ("train.epochs: 7\n", "mine", "--recipe mine: must hold sections, such as 'train:', with the keys"),
        ("", "mine", "--recipe mine: must hold sections"),
        ("- train\n", "mine", "--recipe mine: must hold sections"),
        ("train: {epohcs: 7}\n", "mine", "train.epohcs: unknown key; did you mean epochs?"),
        ("train: {epochs: many}\n", "mine", "train.epochs: 'many' must be a valid integer"),
        ("train: [\n", "mine", "mine.yaml: is not valid YAML"),
    ],
)
def test_an_invalid_recipe_is_refused(project: Path, content: str, wanted: str, message: str) -> None:
    (project / "recipes").mkdir()
    (project / "recipes/mine.yaml").write_text(content)
    with start(project, "", "--recipe", wanted) as process:
        _, stderr = process.communicate()
    assert process.returncode != 0
    assert message in stderr
    assert stderr.count("\n") == 1
    assert (project / "params.yaml").read_bytes() == PARAMS


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
def test_a_recipe_of_the_project_fits_its_params(recipe: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    for key, value in params_of_recipe(recipe, ROOT).items():
        section, name = key.split(".")
        assert name in values[section]
        values[section][name] = value
    check_params(values)
