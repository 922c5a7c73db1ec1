"""DVC's own views and copies: charts without a network, the table, and models and results in other places."""

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from dvc_render.vega import VegaRenderer

from petseg.core.textfiles import read_yaml
from petseg.params import Params
from tests.support import ROOT
from tests.support.project import Project, ran

CHARTS = [next(iter(plot)) for plot in read_yaml(ROOT / "dvc.yaml")["plots"] if isinstance(plot, dict)]
METRICS = ["metrics/data.json", "metrics/train.json", "metrics/test.json"]


@pytest.fixture(scope="module")
def project(project: Project) -> Project:
    """A project with a remote, a committed and tagged model, and an experiment that is not applied."""
    project.run("dvc", "remote", "add", "-d", "shelf", str(project.folder.parent / "shelf"))
    project.commit("a remote")
    project.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@t", "tag", "-a", "model@v1.0.0", "-m", "first"
    )
    project.run("dvc", "exp", "run", "-n", "other", "-S", "train.loss=dice", "-S", "augment.flip=0", "infer")
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout")
    project.run("dvc", "push")
    return project


def test_the_page_has_the_scripts_that_dvc_requests() -> None:
    page = (ROOT / ".dvc/plots/offline.html").read_text()
    before, after = (ROOT / ".dvc/plots/page.html").read_text().split("{scripts}\n")
    assert page.startswith(before)
    assert page.endswith(after)
    scripts = page.removeprefix(before).removesuffix(after)
    requested = re.findall(r'/npm/([^"]+)"', VegaRenderer.SCRIPTS)
    assert re.findall(r"^/\* (\S+@\S+)$", scripts, re.M) == requested
    assert scripts.count("<script>") == scripts.count("</script>") == len(requested) == 3
    assert scripts.count("Redistributions in binary form must reproduce the above copyright") == 3
    # DVC replaces each occurrence of these.
    assert [page.count(word) for word in ("{plot_divs}", "{refresh_tag}", "{scripts}")] == [1, 1, 0]


@pytest.fixture(scope="module", params=[["HEAD"], ["HEAD", "other"]], ids=["show", "diff"])
def revisions(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


@pytest.fixture(scope="module")
def page(project: Project, revisions: list[str]) -> Path:
    """The page that draws one revision or compares two."""
    command = ["show"] if revisions == ["HEAD"] else ["diff", *revisions]
    project.run("dvc", "plots", *command, "--out", f"pages/{command[0]}")
    return project.folder / f"pages/{command[0]}/index.html"


def test_a_page_has_the_curves_and_loads_nothing(project: Project, page: Path, revisions: list[str]) -> None:
    text = page.read_text()
    assert re.findall(r"<(?:script|link|iframe)[^>]+(?:src|href)[^>]*>|@import", text) == []
    images = re.findall(r'<img src="([^"]+)"', text.rpartition("<body>")[2])
    assert len(images) == 10 * len(revisions)
    assert all((page.parent / image).is_file() for image in images)
    history = pd.read_csv(project.folder / "plots/history.csv", dtype=str)
    for curve in ("train_loss", "val_loss", "train_dice", "val_dice"):
        assert all(f'"{curve}": "{value}"' in text for value in history[curve])


def test_the_charts_are_drawn_without_a_network(
    page: Path, revisions: list[str], chromium: str, tmp_path: Path
) -> None:
    alone = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=8000"]
    command = [chromium, *alone, *offline, "--dump-dom", page.as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    charts = [part.split("</svg>")[0] for part in drawn.split("<svg ") if 'class="marks"' in part]
    assert len(charts) == len(CHARTS) == 4
    for chart, title in zip(charts, CHARTS, strict=True):
        assert f">{title}</text>" in chart
    shown = ["workspace"] if revisions == ["HEAD"] else revisions
    for chart, fields in zip(charts, (["train_loss", "val_loss"], ["train_dice", "val_dice"]), strict=False):
        lines = re.findall(r"rev: (\w+); field: (\w+);[^>]* d=\"M[^\"]+L[^\"]+\"", chart)
        assert sorted(lines) == sorted((rev, field) for rev in shown for field in fields)
    for chart in charts[2:]:
        assert set(re.findall(r"rev: (\w+)\"", chart)) == set(shown)


def test_the_table_has_the_scores_and_the_params_that_differ(project: Project) -> None:
    rows = [line.split() for line in project.run("make", "-s", "table").splitlines() if "──── " not in line]
    assert rows[0] == ["Experiment", "val_dice", "dice_per_image", "train.loss", "augment.flip"]
    assert [row[-2:] for row in rows[1:]] == [["bce_dice", "0.5"], ["bce_dice", "0.5"], ["dice", "0"]]
    assert "[other]" in rows[3]
    sections = re.search(r"\|\(([a-z|]+)\)\\\.", (ROOT / "Makefile").read_text())
    assert sections
    assert set(sections.group(1).split("|")) == set(Params.model_fields) - {"plot"}


def test_scores_and_params_are_compared(project: Project) -> None:
    scores = json.loads(project.run("dvc", "metrics", "diff", "HEAD", "other", "--json"))
    test = json.loads((project.folder / "metrics/test.json").read_text())
    change = scores["metrics/test.json"]["dice_per_image"]
    assert change["old"] == test["dice_per_image"]
    assert change["diff"] == pytest.approx(change["new"] - change["old"])
    params = json.loads(project.run("dvc", "params", "diff", "HEAD", "other", "--json"))["params.yaml"]
    assert params == {
        "train.loss": {"old": "bce_dice", "new": "dice"},
        "augment.flip": {"old": 0.5, "new": 0, "diff": -0.5},
    }


def test_a_clone_pulls_everything_and_trains_nothing(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    project.run("git", "clone", "-q", ".", str(copy))
    project.run("dvc", "--cd", str(copy), "pull")
    for path in [*project.lock(), *METRICS]:
        files = [path] if (copy / path).is_file() else [f"{path}/{f.name}" for f in (copy / path).iterdir()]
        assert files
        for file in files:
            assert (copy / file).read_bytes() == (project.folder / file).read_bytes(), file
    assert json.loads(project.run("dvc", "--cd", str(copy), "status", "--json")) == {}
    assert ran(project.run("dvc", "--cd", str(copy), "repro")) == []
    assert not (copy / "runs").exists()


@pytest.mark.parametrize("version", [[], ["--rev", "v1.0.0"]], ids=["newest", "version"])
def test_a_model_is_fetched_by_name(project: Project, tmp_path: Path, version: list[str]) -> None:
    """The repository has no cache, so the files must come from the remote."""
    project.run("git", "clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    elsewhere = ["dvc", "--cd", str(tmp_path)]
    project.run(*elsewhere, "artifacts", "get", "bare", "model", *version)
    project.run(*elsewhere, "get", "bare", "models/model.json", "--rev", "model@v1.0.0")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / name).read_bytes() == (project.folder / "models" / name).read_bytes()
