"""``petseg evaluate`` and ``petseg report``: views by name, and the menu in a pseudo-terminal."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from petseg.cli import app
from petseg.cli.summary import summary
from petseg.core.files import sha256_file
from petseg.core.terminal import warn_once
from petseg.core.textfiles import write_json
from petseg.data.arrays import PetArrays
from petseg.errors import DataError, PetsegError, UsageError
from petseg.evaluation.outputs import HEADLINES, PER_IMAGE
from petseg.pipeline.dvcfiles import stage_paths
from petseg.report.results import Results
from petseg.store.keep import keep
from petseg.store.layout import (
    CURVES,
    EVALUATIONS,
    EVOLUTION_MASKS,
    FIGURES,
    FORMAT,
    HISTORY,
    MANIFEST,
    PAGE,
)
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from tests.support import ROOT
from tests.support.results import KEY, write_results
from tests.support.store import edit

VIEWS = ("curves", "evolution", "best", "worst", "random", "breeds", "histogram", "thresholds", "confusion")
PATIENCE_S = 120


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has results of the pipeline at the paths of dvc.yaml."""
    root = tmp_path_factory.mktemp("project")
    (root / ".dvc").mkdir()
    (root / "stages").mkdir()
    lay_out(root, write_results(root / "made", breeds=("Bengal", "pug", "cost_$5_or_$6")))
    return root


def lay_out(root: Path, made: Results) -> None:
    """Move results to the paths of dvc.yaml."""
    shutil.copy(ROOT / "dvc.yaml", root)
    path = stage_paths(root, "plot")
    for source, name in (
        (made.arrays_folder, "arrays"), (made.evolution_file, "evolution"), (made.history_file, "history"),
        (made.folder, "results"),
    ):  # fmt: skip
        path[name].parent.mkdir(parents=True, exist_ok=True)
        source.rename(path[name])
    write_json(stage_paths(root, "train")["weights"].with_suffix(".json"), {"run_key": KEY})


@pytest.fixture
def here(project: Path) -> Iterator[Path]:
    """Makes a folder below the root the working folder; everything must work from there too."""
    with chdir(project / "stages"):
        yield project


def evaluate(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    if isinstance(result.exception, PetsegError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


# Each view, and a text that only its picture has.
OWN_TEXT = {
    "curves": "best epoch 3",
    "evolution": "epoch 4",
    "best": "test photos, best: masks of the whole pet, scored by the foreground rule",
    "worst": "test photos, worst: masks of",
    "random": "test photos, random: masks of",
    "breeds": "Bengal (n = 6)",
    "histogram": "median",
    "thresholds": "in use: 0.5",
    "confusion": "rightly left out",
    "calibration": "perfect calibration",
}


@pytest.mark.parametrize("view", OWN_TEXT)
def test_each_view_draws_its_own_picture(here: Path, tmp_path: Path, view: str) -> None:
    path = here / f"plots/evaluate/{view}.png"
    assert evaluate(view).strip() == str(path)
    with Image.open(path) as picture:
        assert min(picture.size) > 100
    evaluate(view, "--out", str(tmp_path / "view.svg"))
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "view.svg").read_text())
    assert any(OWN_TEXT[view] in text for text in texts), texts
    has_title = any("masks of the whole pet, scored by the foreground rule" in text for text in texts)
    assert has_title or view == "curves"  # the curves show both masks


@pytest.mark.parametrize("view", [*OWN_TEXT, "photo"])
def test_each_view_shows_a_run_of_one_output(tmp_path: Path, view: str) -> None:
    (tmp_path / ".dvc").mkdir()
    lay_out(tmp_path, write_results(tmp_path / "made", outputs=1))
    arguments = ["photo", "pug_10"] if view == "photo" else [view]
    with chdir(tmp_path):
        evaluate(*arguments, "--out", "view.svg")
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "view.svg").read_text())
    has_title = any("masks scored by the foreground rule" in text for text in texts)
    assert has_title or view == "curves"
    assert not any("whole" in text or "both" in text for text in texts)


def test_the_number_of_photos_can_be_chosen(here: Path, tmp_path: Path) -> None:
    def height(n: str) -> int:
        evaluate("worst", "--n", n, "--out", str(tmp_path / "w.png"), "--force")
        with Image.open(tmp_path / "w.png") as picture:
            return picture.size[1]

    assert height("6") < height("12") < height("17")


def test_one_photo_is_shown_by_its_name(here: Path, tmp_path: Path) -> None:
    evaluate("photo", "cost_$5_or_$6_5", "--out", str(tmp_path / "one.svg"))
    assert "Dice" in (tmp_path / "one.svg").read_text()
    evaluate("evolution", "--photo", "pug_1", "--out", str(tmp_path / "e.png"))
    with pytest.raises(DataError, match="pug_99: no such test photo; did you mean pug_"):
        evaluate("photo", "pug_99")
    with pytest.raises(UsageError, match="pug_4: is not shown over the epochs; these are: Bengal_0, pug_1"):
        evaluate("evolution", "--photo", "pug_4")


def test_mistakes_are_named(here: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.gif: must end in \.png"):
        evaluate("curves", "--out", "x.gif")
    with pytest.raises(UsageError, match="no terminal for the menu; name a view"):
        evaluate()
    with chdir(tmp_path):
        shutil.copytree(here, tmp_path / "empty", ignore=shutil.ignore_patterns("plots", "metrics"))
        os.chdir("empty")
        with pytest.raises(UsageError, match="nothing has been trained and scored here yet; dvc repro does"):
            evaluate("curves")
    broken = here / "plots/test/thresholds.csv"
    content = broken.read_bytes()
    broken.unlink()
    with pytest.raises(DataError, match=r"thresholds\.csv: can't be read .*; run dvc repro"):
        evaluate("thresholds")
    broken.write_bytes(content)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_last_lines_of_make_repro_have_the_dice_by_every_rule(tmp_path: Path, outputs: int) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    made = write_results(tmp_path / "made", outputs=outputs)
    (tmp_path / "metrics").mkdir()
    shutil.copy(made.folder / HEADLINES, stage_paths(tmp_path, "infer")["metrics"])
    best = {"best_epoch": 3, "epochs": 4, "val_dice": 0.7123}
    write_json(stage_paths(tmp_path, "train")["metrics"], best)
    lines, headlines = summary(tmp_path), made.headlines
    assert "18 photos" in lines[0]
    shown = [" ".join(line.split()) for line in lines if " (the border " in line]
    assert len(shown) == (3 if outputs == 2 else 1)
    assert shown[0].startswith(f"{headlines['dice_per_image']:.4f} (")
    mask = ": the whole pet" if outputs == 2 else ""
    assert shown[0].endswith(f") foreground (the border counts as pet){mask}")
    if outputs == 2:
        assert shown[1].startswith(f"{headlines['boundary_background']['dice_per_image']:.4f} (")
        assert shown[1].endswith("(the border counts as background): the pet within its border")


@pytest.mark.whole
def test_the_menu_shows_views_until_the_user_quits(project: Path) -> None:
    shutil.rmtree(project / "plots/evaluate", ignore_errors=True)
    terminal, other_end = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"}
    environment.pop("DISPLAY", None)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "petseg", "evaluate"],
        cwd=project / "plots", stdin=other_end, stdout=other_end, stderr=other_end, env=environment,
    ) as process:  # fmt: skip
        os.close(other_end)
        try:
            menu = answer(terminal, "", until="which: ")
            for view in (*VIEWS, "calibration", "photo", "compare"):
                assert view in menu
            assert "plots/evaluate/curves.png" in answer(terminal, "curves", until="which: ")
            assert "99: must be a number from 1 to 12" in answer(terminal, "99", until="which: ")
            assert "how many photos [12]" in answer(terminal, "4", until=": ")  # the fourth view is worst
            assert "greater than or equal to 1" in answer(terminal, "0", until="which: ")
            answer(terminal, "worst", until=": ")
            assert "plots/evaluate/worst.png" in answer(terminal, "2", until="which: ")
            assert "name of the test photo" in answer(terminal, "photo", until=": ")
            assert "nobody: no such test photo" in answer(terminal, "nobody", until="which: ")
            os.write(terminal, b"q\n")
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            os.close(terminal)
    assert {path.name for path in (project / "plots/evaluate").iterdir()} == {"curves.png", "worst.png"}


def answer(terminal: int, text: str, until: str) -> str:
    """Type a line, and return the output up to the next question."""
    if text:
        os.write(terminal, f"{text}\n".encode())
    printed, deadline = "", time.monotonic() + PATIENCE_S
    while not printed.removeprefix(f"{text}\r\n").endswith(until):
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, printed
        printed += os.read(terminal, 4096).decode()
    return printed


def test_the_report_is_made_from_the_results_of_the_pipeline(here: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report"])
    assert result.stdout.strip() == str(here / "plots/report.html")
    assert result.stderr.strip() == f"run {KEY}, from DVC's files, because it is not in runs/"
    page = (here / "plots/report.html").read_bytes()
    assert b"pug_10" in page
    CliRunner().invoke(app, ["report", "--out", str(tmp_path / "new/copy.html")])
    copy = tmp_path / "new/copy.html"
    assert copy.read_bytes() == page
    copy.write_text("another page")
    refused = CliRunner().invoke(app, ["report", "--out", str(copy)])
    assert "copy.html: is there already; --force replaces it" in str(refused.exception)
    assert copy.read_text() == "another page"
    CliRunner().invoke(app, ["report", "--out", str(copy), "--force"])
    assert copy.read_bytes() == page


def test_during_a_training_the_last_scored_run_is_shown(here: Path) -> None:
    """DVC removes outs before it makes them again, and after a failure they stay away."""
    about, shown = here / "models/model.json", here / "plots/test"
    run = stored(here, "a" * 16, finished="2026-01-02")
    stored(here, "b" * 16, finished="2026-01-01")
    about.rename(here / "aside.json")
    shown.rename(here / "aside")
    try:
        result = CliRunner().invoke(app, ["evaluate", "breeds"])
        assert result.exit_code == 0, result.exception
        assert result.stderr.startswith(f"run {'a' * 16}, the newest that was scored")
        assert CliRunner().invoke(app, ["report"]).exit_code == 0
        assert ("a" * 16).encode() in (here / "plots/report.html").read_bytes()
        assert run.evaluation is not None
    finally:
        (here / "aside.json").rename(about)
        (here / "aside").rename(shown)
        shutil.rmtree(here / "runs")


@pytest.fixture
def run(here: Path) -> Iterator[StoredRun]:
    """The run that the pipeline trained last, as the store has it."""
    warn_once.cache_clear()
    yield stored(here, KEY, finished="2026-01-02")
    shutil.rmtree(here / "runs")


@pytest.mark.parametrize("command", [("report",), ("report", KEY), ("evaluate", "curves")])
@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (CURVES, "0.7123", "0.9876", f"{CURVES}: differs from its recorded hash"),
        (MANIFEST, '"val_dice": 0.7', '"val_dice": 0.9', "differs from the hash that it holds"),
        (f"evaluations/e/{PER_IMAGE}", "pug", "cat", f"run {KEY} has no whole scores"),
        (f"evaluations/e/{HEADLINES}", '"threshold": 0.5', '"threshold": 0.6', "has no whole scores"),
        ("evaluations/e/evaluation.json", '"created": "', '"created": "3', "has no whole scores"),
    ],
)
def test_files_that_differ_from_their_record_are_not_shown(
    here: Path, run: StoredRun, command: tuple[str, ...], name: str, old: str, new: str, message: str
) -> None:
    out = here / "page.html" if command[0] == "report" else here / "curves.png"
    edit(run.folder / name, old, new)
    result = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert message in str(result.exception)
    assert isinstance(result.exception, PetsegError)
    assert not out.exists()
    if "no whole scores" in message:
        assert f"warning: {run.folder / name}: differs from" in result.stderr


@pytest.mark.parametrize("name", [HEADLINES, "evaluation.json"])
def test_lost_scores_are_named(run: StoredRun, name: str) -> None:
    (run.folder / "evaluations/e" / name).unlink()
    assert "no whole scores" in str(CliRunner().invoke(app, ["report", KEY]).exception)


def test_edited_times_are_not_on_the_page(here: Path, run: StoredRun) -> None:
    edit(run.folder / HISTORY, "2.0", "9.0")
    assert "history.jsonl: differs" in str(CliRunner().invoke(app, ["report"]).exception)


def test_the_evaluation_before_a_damaged_one_is_shown(here: Path, run: StoredRun) -> None:
    files = {file.name: file for file in stage_paths(here, "plot")["results"].iterdir()}
    keep(run, EVALUATIONS, "f", {"settings": {}}, files)
    edit(run.folder / f"evaluations/f/{PER_IMAGE}", "pug", "cat")
    result = CliRunner().invoke(app, ["report", KEY])
    assert result.exit_code == 0, result.exception
    assert "differs from its recorded hash; this evaluation is not used" in result.stderr
    assert b"infer.flip_average" in (here / "plots/report.html").read_bytes()


def test_the_stored_page_is_shown_only_if_the_photos_are_missing(
    here: Path, run: StoredRun, tmp_path: Path
) -> None:
    (tmp_path / PAGE).write_text("as plot made it")
    keep(run, FIGURES, "f", {}, {PAGE: tmp_path / PAGE})
    photos, page = stage_paths(here, "plot")["arrays"], tmp_path / "page.html"
    report = ["report", KEY, "--force", "--out", str(page)]
    assert CliRunner().invoke(app, report).stderr == ""
    assert b"pug_10" in page.read_bytes()
    photos.rename(photos.with_name("aside"))
    try:
        result = CliRunner().invoke(app, report)
        assert result.exit_code == 0, result.exception
        assert re.fullmatch(r"note: .*; this is the page that was stored on .*\n", result.stderr)
        assert page.read_text() == "as plot made it"
        edit(run.folder / CURVES, "0.7123", "0.9876")
        assert "history.csv: differs" in str(CliRunner().invoke(app, report).exception)
        edit(run.folder / CURVES, "0.9876", "0.7123")
        edit(run.folder / "figures/f" / PAGE, "made", "forged")
        assert f"{PAGE}: differs" in str(CliRunner().invoke(app, report).exception)
        record = run.folder / "figures/f/figures.json"
        edit(record, run.figures[0].manifest["files"][PAGE], sha256_file(record.with_name(PAGE)))
        assert "figures.json: differs from the hash that it holds" in str(
            CliRunner().invoke(app, report).exception
        )
        assert page.read_text() == "as plot made it"
    finally:
        photos.with_name("aside").rename(photos)


def stored(root: Path, key: str, finished: str) -> StoredRun:
    """Put a finished run into the store, whose files are the results of the pipeline."""
    path, folder = stage_paths(root, "plot"), root / "runs" / key
    folder.mkdir(parents=True)
    shutil.copy(path["evolution"], folder / EVOLUTION_MASKS)
    shutil.copy(path["history"], folder / CURVES)
    (folder / HISTORY).write_text('{"epoch": 1, "val_dice": 0.7, "elapsed_s": 2.0}\n')
    manifest: dict[str, object] = {
        "format": FORMAT, "status": "finished", "created": finished, "finished": finished, "params": {},
        "data_sha256": PetArrays.open(path["arrays"]).digest, "tensors_sha256": "t",
        "best": {"epoch": 3, "val_dice": 0.7},
        "git": {"commit": "c" * 40, "dirty": False}, "photos": {"train": 1, "val": 1}, "data": {},
        "environment": {"device": "cpu", "cpu_capability": "AVX2", "threads": 1, "torch": "2", "python": "3"},
        "files": {name: sha256_file(folder / name) for name in (EVOLUTION_MASKS, CURVES, HISTORY)},
    }  # fmt: skip
    write_json(folder / MANIFEST, sealed(manifest))
    run = StoredRun.open(folder)
    files = {file.name: file for file in path["results"].iterdir()}
    keep(run, EVALUATIONS, "e", {"settings": {"infer.flip_average": True}}, files)
    return run
