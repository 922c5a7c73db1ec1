"""MLflow's pages of two trainings, in a browser with a new profile."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from urllib3.util import Retry

from petseg.tracking.view import link
from tests.support.project import Project, mlflow_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 60_000
SCREENSHOTS = "PETSEG_SCREENSHOTS"  # the variable that names a folder for screenshots of the pages

# Each run has a line for the metric, with every logged point.
CURVES_ARE_DRAWN = """([metric, points]) => {
    const drawn = [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => plot.data);
    return Object.entries(points).every(([run, n]) =>
        drawn.some(line => line.uuid === run && line.metricKey === metric && line.x.length === n));
}"""
IMAGES_ARE_SHOWN = """([runs, epoch]) => runs.every(run =>
    [...document.images].some(image => image.naturalWidth > 0
        && image.src.includes(`run_uuid=${run}`) && image.src.includes(`step%2B${epoch}%2B`)))"""


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A tab with a new profile."""
    context = browser.new_context(viewport={"width": 1500, "height": 700})
    context.set_default_timeout(PATIENCE_MS)
    # Otherwise MLflow opens its assistant beside the first page of a new profile.
    context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def project(browser: "Browser", project: Project) -> Project:
    """A project with two trainings, run as a user runs them."""
    project.run("dvc", "exp", "run", "-n", "other-seed", "-S", "train.seed=1")
    return project


@pytest.fixture(scope="module")
def ui(project: Project) -> Iterator[str]:
    """The URL of ``make ui``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (project.folder / "ui.log").open("w") as log:
        # -o env: make uses the environment of the tests, and makes none.
        started = subprocess.Popen(
            ["make", "-o", "env", "ui", f"PORT={port}"],
            cwd=project.folder,
            env=project.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with requests.Session() as session:
            retries = Retry(60, backoff_factor=0.1, backoff_max=1)
            session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
            session.get(f"{url}/health", timeout=60).raise_for_status()
        yield url
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait()


def test_the_table_shows_each_training_with_its_scores(ui: str, project: Project, page: "Page") -> None:
    first, second = rows = mlflow_runs(project.folder)
    assert {row.data.params["train.seed"] for row in rows} == {"0", "1"}
    assert first.data.metrics["test/dice_per_image"] != second.data.metrics["test/dice_per_image"]
    check_table(page, ui, first.info.experiment_id, {
        row.info.run_id: {
            "metrics.`test/dice_foreground`": shown(row.data.metrics["test/dice_foreground"]),
            "metrics.`test/dice_background`": shown(row.data.metrics["test/dice_background"]),
            "metrics.`best/val_dice`": shown(row.data.metrics["best/val_dice"]),
            "params.`model.name`": row.data.params["model.name"],
            "tags.`data_sha256`": row.data.tags["data_sha256"],
        }
        for row in rows
    })  # fmt: skip
    keep(page, "mlflow-table")


def test_the_charts_compare_curves_and_masks(ui: str, project: Project, page: "Page") -> None:
    rows = mlflow_runs(project.folder)
    epochs = {row.info.run_id: int(row.data.params["train.epochs"]) for row in rows}
    check_charts(page, ui, rows[0].info.experiment_id, epochs)
    keep(page, "mlflow-charts")


def check_table(
    page: "Page", url: str, experiment_id: str, expected: Mapping[str, Mapping[str, str]]
) -> None:
    """Open the table of the trainings. It must have these texts by run and column, and no other run."""
    from playwright.sync_api import expect

    page.goto(url + link(experiment_id))
    for run, cells in expected.items():
        for column, text in cells.items():
            cell = page.locator(f'.ag-row[row-id="{run}"] [col-id="{column}"]')
            expect(cell).to_have_text(text, timeout=PATIENCE_MS)
    expect(page.locator(".ag-center-cols-container .ag-row")).to_have_count(len(expected))


def check_charts(page: "Page", url: str, experiment_id: str, epochs: Mapping[str, int]) -> None:
    """Open the charts. They must show curves over all epochs, and the masks of the first and last epoch."""
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 1500, "height": 1180})
    page.goto(url + link(experiment_id, charts=True))
    for metric in ("loss/train", "loss/val"):
        page.wait_for_function(CURVES_ARE_DRAWN, arg=[metric, dict(epochs)])
    page.wait_for_function(IMAGES_ARE_SHOWN, arg=[list(epochs), 1])
    last = min(epochs.values())
    slider = page.get_by_role("slider")
    for epoch in range(2, last + 1):
        slider.press("ArrowRight")
        expect(slider).to_have_attribute("aria-valuenow", str(epoch), timeout=PATIENCE_MS)
    page.wait_for_function(IMAGES_ARE_SHOWN, arg=[list(epochs), last])


def shown(value: float) -> str:
    """Format a number as MLflow's table does: with all digits, as JavaScript writes it."""
    return repr(value).removesuffix(".0")


def keep(page: "Page", name: str) -> None:
    """Save a screenshot of the page for the README if the variable names a folder."""
    if folder := os.environ.get(SCREENSHOTS):
        page.get_by_role("button", name="Hide banner").click()
        page.mouse.move(0, 0)
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")
