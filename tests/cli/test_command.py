"""The command ``petseg``: its help, its errors, and the slow imports that it must avoid."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from typer.testing import CliRunner

from petseg.cli import app
from petseg.cli.stages import quoted, source_of
from petseg.cli.table import lines
from petseg.core.textfiles import read_yaml
from petseg.errors import ParamsError, PetsegError, UsageError
from tests.support import ROOT

COMMANDS = ["train", "infer", "predict", "evaluate", "report", "compare", "runs", "doctor", "demo", "ui"]
SLOW = {"torch", "mlflow", "pandas", "numpy", "matplotlib", "ruamel", "fastapi", "PIL"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project that has only params, and a folder below it as the working folder."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "below/photos/images").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with chdir(tmp_path / "below"):
        yield tmp_path


def petseg(*arguments: str) -> None:
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, PetsegError):
        raise result.exception
    raise AssertionError(result.output)


def test_the_help_names_every_command_on_one_screen() -> None:
    printed = run("--help", COLUMNS="80").splitlines()
    assert len(printed) <= 24
    below = printed[printed.index("Commands:") + 1 :]
    listed = [line.split()[0] for line in below[: below.index("")]]
    assert sorted(listed) == sorted(COMMANDS)
    assert any("Exit codes: 0 done, 1 failed, 2 wrong" in line for line in printed)


@pytest.mark.parametrize("command", [["--help"], ["runs", "list"], ["predict", "--help"]])
def test_quick_commands_import_no_slow_modules(command: list[str], project: Path) -> None:
    code = (
        f"import sys; sys.argv[1:] = {command}; from petseg.cli import main\n"
        "try: main()\nexcept SystemExit: print('imported', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    imported = done.stdout.splitlines()[-1].split()
    assert imported[0] == "imported", done.stderr
    allowed = {"ruamel"} if "list" in command else set()  # the defaults are read from params.yaml
    assert {name.partition(".")[0] for name in imported} & SLOW <= allowed
    assert "rich.console" not in imported


def test_a_shell_completes_commands() -> None:
    printed = run(_PETSEG_COMPLETE="complete_bash", COMP_WORDS="petseg re", COMP_CWORD="1")
    assert printed.split() == ["report"]


def test_wrong_params_are_named_before_anything_runs(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(ParamsError) as error:
        petseg("train", "-epochs", "0", "-learning-rate", "-1", "-S", "train.los=dice")
    mistakes = str(error.value).splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in mistakes] == [
        "train.epochs",
        "train.learning_rate",
        "train.los",
    ]
    with pytest.raises(ParamsError, match=r"infer.batch_size: 0 must be greater than or equal to 1"):
        petseg("infer", "-batch_size", "0")
    with pytest.raises(ParamsError, match=r"model.name: 'vnet' must be 'unet' or 'resnet34_unet'"):
        petseg("train", "-model", "vnet")
    for text in ("loss", "train=3"):
        with pytest.raises(UsageError, match=f"-S {text}: must be KEY=VALUE"):
            petseg("train", "-S", text)
    with pytest.raises(UsageError, match=r"data\.source: nowhere: no such folder"):
        petseg("train", "--data-path", "nowhere")
    assert (project / "params.yaml").read_bytes() == before
    assert read_yaml(project / "params.yaml")["train"]["epochs"] == 50


def test_a_data_path_counts_from_the_working_folder(project: Path) -> None:
    assert source_of("photos", project) == "below/photos"
    assert source_of(str(project / "below/photos"), project) == "below/photos"
    assert source_of("/", project) == "/"
    for untouched in ("sample", "oxford", "https://example.org/pets", "data/not-here"):
        assert source_of(untouched, project) == untouched


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("dice", "dice"),
        (1e-3, "0.001"),
        (True, "true"),
        (None, "null"),
        ("a b", "'a b'"),
        ("it's", r"'it\'s'"),
    ],
)
def test_values_are_written_as_dvc_reads_them(value: object, written: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert quoted(value) == written
    parsed = OverridesParser.create().parse_override(f"key={quoted(value)}")
    assert parsed.value() == value


def test_long_cells_of_a_table_are_wrapped() -> None:
    rows = [("a", "loss=dice, epochs=100, learning_rate=0.1", "1"), ("bbb", "", "22")]
    head, rule, *body = lines(("id", "what", "n"), rows, wrapped=1, right=(2,), width=30)
    assert head == "id   what                    n"
    assert len(rule) == max(map(len, body)) <= 30
    assert body[0].startswith("a    loss=dice,")
    assert body[0].endswith(" 1")
    assert "learning_rate=0.1" in "".join(body[1:-1])
    assert body[-1].startswith("bbb")


def test_ctrl_c_ends_a_command_with_one_line(project: Path) -> None:
    code = (
        "import os, signal, sys; from petseg import cli; sys.argv[1:] = ['wait']\n"
        "cli.app.command('wait')(lambda: os.kill(os.getpid(), signal.SIGINT)); cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "petseg: interrupted\n")


def run(*arguments: str, **variables: str) -> str:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "petseg", *arguments],
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"}
