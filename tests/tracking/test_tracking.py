import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from petseg.core.files import sha256_file
from petseg.core.project import tracking_uri
from petseg.core.textfiles import write_json
from petseg.errors import StoreError, UsageError
from petseg.evaluation.outputs import HEADLINES
from petseg.models.masking import Thresholds, cleaned, cut
from petseg.models.networks import build_network
from petseg.models.predictor import Predictor
from petseg.models.weights import save_tensors
from petseg.params import OUTPUTS, ModelParams, Params, flat
from petseg.pipeline.codehash import code_sha256
from petseg.store.keep import keep
from petseg.store.layout import EVALUATIONS, FIGURES
from petseg.store.run import StoredRun
from petseg.tracking import outbox
from petseg.tracking import rows as tracking_rows
from petseg.tracking.client import DATA_EXPERIMENT, EXPERIMENT
from petseg.tracking.entries import of_epoch, of_evaluation, picture_of_epoch
from petseg.tracking.logged_model import EVALUATION_TAG, log_model
from petseg.tracking.outbox import flush_outbox, left_over, lock_entry, recorded
from petseg.tracking.queries import found_runs
from petseg.tracking.registry import version_of
from petseg.tracking.rows import LiveRow, live_row
from petseg.tracking.sync import Delivery, sync
from petseg.tracking.view import save_view
from tests.support import ROOT
from tests.support.http_server import closed_port
from tests.support.runs import save_network
from tests.support.store import edit

MODEL = ModelParams(name="unet", width=4, depth=2, dropout=0.0, encoder_weights="none")
SIZE, SHOWN = 32, 4
EPOCH = {
    "size_px": SIZE, "train_loss": 0.5, "val_loss": 0.6, "train_dice": 0.7, "val_dice": None,
    "learning_rate": 0.1, "images_per_s": 50.0, "elapsed_s": 2.0,
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the working folder."""
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def rows(experiment: str = EXPERIMENT) -> "list[mlflow.entities.Run]":
    mlflow.set_tracking_uri(tracking_uri())
    found = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return sorted(found, key=lambda run: (run.data.tags["stage"] != "train", run.info.start_time))


def training(root: Path, key: str = "abcd", **manifest: Any) -> StoredRun:
    """Make a run of the store that has no epoch yet."""
    known = {
        "format": 1, "status": "running", "created": "2026-01-02T03:04:05+00:00", "uid": f"uid{key}",
        "params": {"train.epochs": 2}, "data_sha256": "f" * 64, "data": {"data.source": "sample"},
        "git": {"commit": "c" * 40, "dirty": False}, "environment": {},
    }  # fmt: skip
    folder = root / "runs" / key
    write_json(folder / "manifest.json", known | manifest)
    photos = np.full((SIZE, SHOWN * SIZE, 3), 90, np.uint8)
    Image.fromarray(photos).save(folder / "shown.png")
    (folder / "evolution").mkdir()
    return StoredRun.open(folder)


def train_epoch(run: StoredRun, epoch: int) -> None:
    masks = np.zeros((SIZE, SHOWN * SIZE), bool)
    masks[: SIZE // 2] = True
    Image.fromarray(masks).save(run.folder / f"evolution/{epoch:05}.png")
    with (run.folder / "history.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch} | EPOCH) + "\n")


def finish(run: StoredRun) -> None:
    network = build_network(MODEL)
    digest = save_tensors(run.folder / "model.safetensors", network.state_dict(), {})
    about = {"model": MODEL.model_dump(), "image_size": SIZE, "outputs": OUTPUTS, "tensors_sha256": digest}
    write_json(run.folder / "model.json", about)
    run.manifest |= {
        "status": "finished", "finished": "2026-01-02T03:05:05+00:00", "tensors_sha256": digest,
        "best": {"epoch": 2, "val_dice": 0.8}, "parameters": 99, "files": {
            path.name: sha256_file(path) for path in run.folder.glob("model.*")
        },
    }  # fmt: skip
    write_json(run.folder / "manifest.json", run.manifest)


def evaluated(
    root: Path, run: StoredRun, key: str = "e1", dice: float = 0.7, **manifest: object
) -> StoredRun:
    (run.folder / "card.md").write_text("card")
    write_json(root / HEADLINES, {"threshold": 0.45, "dice_per_image": dice, "own_resolution": {"iou": 0.5}})
    about: dict[str, Any] = {"settings": {"infer.flip_average": True}, "data_sha256": "f" * 64} | manifest
    keep(run, EVALUATIONS, key, about, {HEADLINES: root / HEADLINES})
    Image.new("RGB", (8, 8)).save(root / "curves.png")
    about["settings"] = {"plot.examples": 6}
    keep(run, FIGURES, f"f{key}", about, {"curves.png": root / "curves.png"})
    return StoredRun.open(run.folder)


def finished(root: Path, key: str = "abcd", **manifest: Any) -> StoredRun:
    """Make a finished run of two epochs in the store, of which MLflow has nothing."""
    run = training(root, key, **manifest)
    for epoch in (1, 2):
        train_epoch(run, epoch)
    finish(run)
    return run


def steps(run_id: str, metric: str) -> list[int]:
    return sorted(point.step for point in mlflow.MlflowClient().get_metric_history(run_id, metric))


def test_a_training_is_logged_while_it_runs(root: Path) -> None:
    run = training(root, dvc_experiment="tidy-lemur")
    with live_row(run) as live:
        (row,) = rows()
        assert row.info.status == "RUNNING"
        assert row.data.params == {"train.epochs": "2", "data.source": "sample"}
        for epoch in (1, 2):
            train_epoch(run, epoch)
            live.log_epochs()
            assert steps(row.info.run_id, "loss/train") == list(range(1, epoch + 1))
        finish(run)
    (row,) = rows()
    assert (row.info.status, row.info.run_name) == ("FINISHED", "tidy-lemur")
    assert row.info.end_time - row.info.start_time == 60_000
    assert row.data.metrics["dice/train"] == 0.7
    assert "dice/val" not in row.data.metrics  # undefined
    assert (row.data.metrics["best/val_dice"], row.data.metrics["seconds"]) == (0.8, 4.0)
    tags = row.data.tags
    assert (tags["run_key"], tags["stage"], tags["git_commit"]) == ("abcd", "train", "c" * 40)
    assert (tags["dvc_experiment"], tags["weights"]) == ("tidy-lemur", "runs/abcd/model.safetensors")
    (data,) = row.inputs.dataset_inputs
    assert json.loads(data.dataset.profile) == {"sha256": "f" * 64}
    artifacts = root / "mlartifacts" / EXPERIMENT / row.info.run_id / "artifacts"
    assert row.info.artifact_uri == artifacts.as_uri()
    assert {path.name for path in artifacts.glob("weights/*")} == {"model.safetensors", "model.json"}
    assert len(list(artifacts.glob("images/evolution+step+*.png"))) == 2
    assert left_over() == []


def test_the_picture_of_an_epoch_fades_the_background(root: Path) -> None:
    run = training(root)
    train_epoch(run, 1)
    picture = picture_of_epoch(run, 1)
    assert picture is not None
    pixels = np.asarray(picture)
    assert pixels.shape == (2 * SIZE, 3 * SIZE, 3)  # four photos in rows of three
    assert (pixels[: SIZE // 2] == 90).all()
    assert (pixels[SIZE // 2 : SIZE] == 255 - (255 - 90) // 5).all()
    assert (pixels[SIZE:, SIZE:] == 255).all()
    assert picture_of_epoch(run, 2) is None


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_stopped_training_has_its_status_and_is_resumed(
    root: Path, error: type[BaseException], status: str
) -> None:
    run = training(root)

    def train_and_stop() -> None:
        with live_row(run) as live:
            train_epoch(run, 1)
            live.log_epochs()
            raise error

    with pytest.raises(error):
        train_and_stop()
    (row,) = rows()
    assert row.info.status == status
    assert left_over() == []
    assert sync(root / "runs", [run]).already_logged == ["abcd"]
    assert rows()[0].info == row.info
    with live_row(run) as live:
        train_epoch(run, 2)
        live.log_epochs()
        finish(run)
    (row,) = rows()
    assert row.info.status == "FINISHED"
    assert steps(row.info.run_id, "loss/train") == [1, 2]


def test_everything_is_logged_once(root: Path) -> None:
    run = evaluated(root, finished(root))
    assert sync(root / "runs", [run]) == Delivery(logged=["abcd"])
    before = [(row.info.run_id, row.info.end_time) for row in rows()]
    assert sync(root / "runs", [run]) == Delivery(already_logged=["abcd"])
    assert [(row.info.run_id, row.info.end_time) for row in rows()] == before
    row, *children = rows()
    names = {child.data.tags["stage"]: child for child in children}
    assert names.keys() == {"infer", "plot"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {row.info.run_id}
    assert names["infer"].data.params == {"infer.flip_average": "True"}
    assert (
        row.data.metrics["test/dice_per_image"] == names["infer"].data.metrics["test/dice_per_image"] == 0.7
    )
    client = mlflow.MlflowClient()
    for metric in ("loss/train", "test/dice_per_image", "test_own_resolution/iou", "best/epoch"):
        assert len(client.get_metric_history(row.info.run_id, metric)) == (2 if metric == "loss/train" else 1)
    for folder in (row, names["plot"]):
        paths = [file.path for file in client.list_artifacts(folder.info.run_id, "figures")]
        assert paths == ["figures/curves.png"]
    (model,) = client.search_logged_models([row.info.experiment_id])
    assert model.source_run_id == row.info.run_id
    assert {metric.key: metric.value for metric in model.metrics}["test/dice_per_image"] == 0.7
    (version,) = client.search_model_versions("name = 'petseg'")
    assert version.tags["run_key"] == "abcd"
    assert version_of(client, run) == str(version.version)


def test_an_unreadable_record_does_not_stop_the_others(root: Path) -> None:
    run = finished(root)
    (root / "runs/0000").mkdir()
    (root / "runs/0000/manifest.json").write_text("{")
    for name, text in (("0000", ""), ("gone", ""), ("data-cut", '{"stage": "down')):
        with lock_entry(name) as entry:
            entry.path.write_text(text)
    delivery = sync(root / "runs", [run])
    assert (delivery.logged, delivery.already_logged) == (["abcd"], ["data-cut", "gone"])
    assert "0000/manifest.json: is no JSON" in delivery.broken[0]
    assert left_over() == ["0000"]


def test_a_history_that_differs_from_its_record_is_not_logged(root: Path) -> None:
    run = finished(root)
    run.manifest["files"] |= {name: sha256_file(run.folder / name) for name in ("history.jsonl", "shown.png")}
    write_json(run.record, run.manifest)
    edit(run.folder / "history.jsonl", '"epoch": 2', '"epoch": 3')
    delivery = sync(root / "runs", [run])
    assert "history.jsonl: differs from its recorded hash" in delivery.broken[0]
    assert rows() == []


def test_another_evaluation_adds_a_child_and_updates_the_row(root: Path) -> None:
    run = evaluated(root, finished(root))
    sync(root / "runs", [run])
    closed_at = rows()[0].info.end_time
    run = evaluated(root, run, "e2", 0.75)
    with lock_entry("abcd"):
        pass
    assert sync(root / "runs").logged == ["abcd"]
    row, *children = rows()
    assert len(children) == 4
    assert row.info.end_time == closed_at
    assert (row.data.metrics["test/dice_per_image"], row.data.tags["evaluation"]) == (0.75, "e2")
    client = mlflow.MlflowClient()
    assert len(client.search_model_versions("name = 'petseg'")) == 1
    models = client.search_logged_models([row.info.experiment_id])
    metrics = [{metric.key: metric.value for metric in model.metrics} for model in models]
    assert sorted(model["test/dice_per_image"] for model in metrics) == [0.7, 0.75]
    assert [model["test/threshold"] for model in metrics] == [0.45, 0.45]  # the unchanged ones are logged too


def test_two_trainings_of_one_key_in_two_stores_are_two_rows(root: Path) -> None:
    """Two clones may log to one server, and their bits may differ if their machines do."""
    sync(root / "runs", [finished(root)])
    sync(root / "elsewhere/runs", [finished(root / "elsewhere", uid="other")])
    assert [row.data.tags["run_key"] for row in rows()] == ["abcd", "abcd"]


@pytest.mark.whole
def test_stages_before_training_have_their_own_experiment(root: Path) -> None:
    with recorded("preprocess", {"data.image_size": 64}) as record:
        record.metrics["kept"] = 12
        record.datasets.append(("pets", "a" * 64, "data/pets"))
        record.tags["data_sha256"] = "a" * 64
        record.texts["report/rejected.csv"] = "name,reason\n"
    with pytest.raises(ValueError, match="no"), recorded("download", {}):
        raise ValueError("no")
    with pytest.raises(SystemExit), recorded("download", {}):
        raise SystemExit(143)
    found = rows(DATA_EXPERIMENT)
    assert sorted((run.data.tags["stage"], run.info.status) for run in found) == [
        ("download", "FAILED"), ("download", "KILLED"), ("preprocess", "FINISHED"),
    ]  # fmt: skip
    (preprocess,) = [run for run in found if run.data.tags["stage"] == "preprocess"]
    assert preprocess.data.metrics == {"kept": 12}
    assert preprocess.data.params == {"data.image_size": "64"}
    assert preprocess.inputs.dataset_inputs[0].dataset.digest == "a" * 36
    assert list((root / "mlartifacts" / DATA_EXPERIMENT).rglob("report/rejected.csv"))
    assert rows() == []
    assert left_over() == []


@pytest.mark.whole
def test_a_temporary_folder_of_dvc_logs_to_the_main_repository(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "mlflow.db").unlink()
    copy = root / ".dvc/tmp/exps/standalone/tmpabc"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(copy)
    with recorded("download", {}):
        pass
    assert (root / "mlflow.db").exists()
    assert list(copy.iterdir()) == [copy / ".dvc"]


def test_a_bug_in_logging_does_not_stop_a_training(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not LiveRow(training(root)).try_to(lambda row: 1 / 0)
    assert "MLflow could not be updated (ZeroDivisionError: division by zero)" in capsys.readouterr().err


def test_an_error_of_the_artifact_store_counts_as_mlflows(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UploadFailedError(Exception):
        """Like the exceptions of boto, which are no subclasses of MLflow's."""

    def fail(*_: object) -> None:
        raise UploadFailedError("bucket is gone")

    run = training(root)
    with monkeypatch.context() as broken:
        repository = "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository"
        broken.setattr(f"{repository}.log_artifact", fail)
        with live_row(run) as live:
            train_epoch(run, 1)
            finish(run)
        assert live.broken
        done = sync(root / "runs")
        assert done.broken == ["abcd: MLflow does not answer (bucket is gone)"]
    assert sync(root / "runs").logged == ["abcd"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_an_irregular_database_gives_one_warning(
    root: Path, capfd: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    (root / "mlflow.db").unlink()
    make(root / "mlflow.db")
    with live_row(training(root)) as row:
        row.log_epochs()
    printed = capfd.readouterr().err
    assert printed.startswith(f"warning: MLflow does not answer ({root}/mlflow.db is no regular file); ")
    assert printed.count("\n") == 1


def test_a_record_that_cannot_be_logged_does_not_stop_the_others(root: Path) -> None:
    runs = [finished(root, key) for key in ("aaaa", "bbbb", "cccc")]
    (runs[0].folder / "evolution/00001.png").write_bytes(b"no picture")
    (runs[1].folder / "history.jsonl").write_text("{")
    done = sync(root / "runs", runs)
    assert done.logged == ["cccc"]
    assert [line.partition(" (")[0] for line in done.broken] == [
        "aaaa: MLflow could not be updated",
        f"{runs[1].folder}/history.jsonl, line 1: is no JSON",
    ]
    assert left_over() == ["aaaa", "bbbb"]


def first_contact(folder: Path, key: str, statuses: "multiprocessing.Queue[bool]") -> None:
    os.chdir(folder)
    with live_row(training(folder, key)) as live:
        statuses.put(live.broken)


@pytest.mark.whole
def test_four_processes_can_start_without_a_database(root: Path) -> None:
    (root / "mlflow.db").unlink()
    context = multiprocessing.get_context("fork")
    broken: multiprocessing.Queue[bool] = context.Queue()
    processes = [context.Process(target=first_contact, args=(root, key * 4, broken)) for key in "abcd"]
    for process in processes:
        process.start()
    assert [broken.get(timeout=120) for _ in processes] == [False] * 4
    for process in processes:
        process.join()
    assert sorted(run.data.tags["run_key"] for run in rows()) == ["aaaa", "bbbb", "cccc", "dddd"]
    assert len(mlflow.MlflowClient().search_experiments(filter_string="name LIKE 'petseg%'")) == 2


def test_only_one_process_logs_a_run(root: Path) -> None:
    run = finished(root)
    other = (
        "import sys, time\nfrom petseg.tracking.outbox import lock_entry\n"
        "with lock_entry('abcd') as entry: print('held', flush=True); sys.stdin.read(); entry.logged = True"
    )
    pipe = subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", other], cwd=root, env=environment, stdin=pipe, stdout=pipe
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert left_over() == []
        assert sync(root / "runs", [run]) == Delivery(busy=["abcd"])
        process.stdin.close()
    assert left_over() == []
    assert sync(root / "runs", [run]) == Delivery(logged=["abcd"])


class Answering(BaseHTTPRequestHandler):
    """A server that hangs, or answers every request but /health with 503."""

    hangs_at: str
    released: threading.Event

    def do_GET(self) -> None:
        if self.path.startswith(self.hangs_at):
            self.released.wait()
            self.close_connection = True
            return
        healthy = self.path == "/health"
        self.send_response(200 if healthy else 503)
        if not healthy:
            self.send_header("Retry-After", "100")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that is down, silent, silent after its health check, or overloaded."""
    if request.param == "away":
        yield closed_port()
        return
    hangs_at = {"silent": "/", "hanging": "/api", "overworked": "nowhere"}[request.param]
    released = threading.Event()
    handler = type("Handler", (Answering,), {"hangs_at": hangs_at, "released": released})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        released.set()
        server.shutdown()


@pytest.mark.whole
@pytest.mark.parametrize("port", ["away", "silent", "hanging", "overworked"], indirect=True)
def test_a_server_that_does_not_answer_is_updated_later(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:ge@heim@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    run = training(root)
    started = time.monotonic()
    with live_row(run) as live:
        for epoch in range(1, 100):
            train_epoch(run, epoch)
            live.log_epochs()
        finish(run)
    assert time.monotonic() - started < 30  # a requirement, not a measurement of speed
    error = capsys.readouterr().err
    assert error.count("MLflow does not answer") == 1
    assert "eim" not in error
    assert left_over() == ["abcd"]
    assert not any(b"heim" in path.read_bytes() for path in (root / ".dvc/tmp").rglob("*") if path.is_file())
    with pytest.raises(StoreError, match=r"MLflow does not answer .*; petseg runs sync updates it later"):
        sync(root / "runs")
    assert left_over() == ["abcd"]
    # Another tracking store was never down, and is updated on request.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(root / "runs") == Delivery()
    assert sync(root / "runs", [run]).logged == ["abcd"]
    assert steps(rows()[0].info.run_id, "loss/train") == list(range(1, 100))


def test_a_stage_without_a_server_prints_one_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{closed_port()}")
    with recorded("download", {}):
        pass
    error = capfd.readouterr().err
    assert error.count("warning: MLflow does not answer") == 1
    assert len(error.splitlines()) == 1
    assert "secret" not in error
    assert len(left_over()) == 1


@pytest.mark.whole
def test_runs_of_killed_processes_are_closed_by_the_next_command(root: Path) -> None:
    killed_run, mine = training(root, "abcd"), training(root, "ffff")
    with live_row(mine) as live:
        child = (
            "import os, signal\nfrom pathlib import Path\nfrom petseg.store.run import StoredRun\n"
            "from petseg.tracking.rows import live_row\n"
            "with live_row(StoredRun.open(Path('runs/abcd'))): os.kill(os.getpid(), signal.SIGKILL)"
        )
        path = {"PYTHONPATH": str(ROOT)}
        killed = subprocess.run([sys.executable, "-c", child], cwd=root, env=os.environ | path, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert sorted(run.info.status for run in rows()) == ["RUNNING", "RUNNING"]
        assert flush_outbox()
        statuses = {run.data.tags["run_key"]: run.info.status for run in rows()}
        assert statuses == {"abcd": "KILLED", "ffff": "RUNNING"}
        train_epoch(killed_run, 1)  # an epoch that it could not log
        assert sync(root / "runs", [killed_run]).logged == ["abcd"]
        finish(mine)
        assert not live.broken
    statuses = {run.data.tags["run_key"]: run.info.status for run in rows()}
    assert statuses == {"abcd": "KILLED", "ffff": "FINISHED"}
    (row,) = [run for run in rows() if run.data.tags["run_key"] == "abcd"]
    assert steps(row.info.run_id, "loss/train") == [1]


def test_a_training_that_failed_without_mlflow_is_logged_as_failed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}/")
    run = training(root)
    with pytest.raises(ValueError, match="no"), live_row(run):
        raise ValueError("no")
    folder = outbox._folder()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder.rename(outbox._folder())
    assert sync(root / "runs").logged == ["abcd"]
    assert [row.info.status for row in rows()] == ["FAILED"]


def test_the_row_of_a_run_that_was_killed_and_pruned_is_closed(root: Path) -> None:
    run = training(root)
    with lock_entry(run.key) as entry:
        LiveRow(run).try_to(lambda row: entry.write({"uid": run.uid}))
    shutil.rmtree(run.folder)
    assert [row.info.status for row in rows()] == ["RUNNING"]
    assert sync(root / "runs").logged == ["abcd"]
    assert [row.info.status for row in rows()] == ["KILLED"]


@pytest.mark.whole
def test_a_training_waits_for_a_slow_mlflow_only_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking_rows, "_SLOW_S", 0)
    run = training(root)
    with live_row(run) as live:
        for epoch in (1, 2, 3):
            train_epoch(run, epoch)
            live.log_epochs()
        finish(run)
    warning = r"warning: MLflow took \d+ s for an epoch; runs/ has the record"
    assert len(re.findall(warning, capsys.readouterr().err)) == 1
    (row,) = rows()
    assert (row.info.status, steps(row.info.run_id, "loss/train")) == ("RUNNING", [1])
    assert flush_outbox()
    (row,) = rows()
    assert (row.info.status, steps(row.info.run_id, "loss/train")) == ("FINISHED", [1, 2, 3])


@pytest.mark.whole
@pytest.mark.parametrize("port", ["hanging"], indirect=True)
def test_waiting_for_mlflow_has_a_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "100")
    monkeypatch.setattr(outbox, "_SLOW_S", 1)
    monkeypatch.setattr(outbox, "_AT_MOST_S", 2)
    with recorded("download", {}):
        pass
    printed = capfd.readouterr()
    assert printed.out == "MLflow is slow; it has 2 s at most\n"
    assert "warning: not everything was logged in MLflow in 2 s" in printed.err
    assert len(left_over()) == 1


def test_a_model_whose_files_did_not_arrive_is_logged_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated(root, finished(root))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.log_model_artifacts", fail)
        assert sync(root / "runs", [run]).logged == []
    experiments, client = [rows()[0].info.experiment_id], mlflow.MlflowClient()
    assert [model.status for model in client.search_logged_models(experiments)] == ["FAILED"]
    assert sync(root / "runs").logged == ["abcd"]
    (model,) = client.search_logged_models(experiments)
    mask = mlflow.pyfunc.load_model(model.model_uri).predict(np.zeros((40, 50, 3), np.uint8))
    assert mask.shape == (40, 50)


RULES = {"foreground": 0.9, "background": 0.8, "ignore": 0.95}


@pytest.mark.parametrize("boundary", RULES)
def test_a_model_has_its_dice_by_every_rule(root: Path, boundary: str) -> None:
    run = evaluated(root, finished(root))
    assert run.evaluation is not None
    others = {
        f"boundary_{rule}": {"dice_per_image": dice} for rule, dice in RULES.items() if rule != boundary
    }
    scores: dict[str, Any] = {"boundary": boundary, "threshold": 0.45, "dice_per_image": RULES[boundary]}
    scores |= {"cleaned_masks": True, "thresholds": {"whole": 0.5, "tight": 0.45}, **others}
    vars(run.evaluation)["headlines"] = scores  # the place of a cached property's value
    metrics = of_evaluation(run, run.evaluation).metrics
    assert {rule: metrics[f"test/dice_{rule}"] for rule in RULES} == RULES
    assert metrics["test/dice_per_image"] == RULES[boundary]
    assert "test/cleaned_masks" not in metrics  # it is no score


def test_a_model_of_one_output_has_its_dice_by_its_one_rule(root: Path) -> None:
    run = evaluated(root, finished(root))
    assert run.evaluation is not None
    scores: dict[str, Any] = {"boundary": "background", "threshold": 0.45, "dice_per_image": 0.7}
    vars(run.evaluation)["headlines"] = scores
    metrics = of_evaluation(run, run.evaluation).metrics
    assert {name for name in metrics if name.startswith("test/dice_")} == {
        "test/dice_background", "test/dice_per_image",
    }  # fmt: skip
    assert metrics["test/dice_background"] == 0.7


def test_an_epoch_of_two_outputs_has_the_dice_of_both() -> None:
    row = EPOCH | {"epoch": 1}
    assert of_epoch(row | {"val_dice_whole": 0.9, "val_dice_tight": 0.8})["dice/val_tight"] == 0.8
    assert of_epoch(row)["dice/val_whole"] is None  # so it is not logged


def test_the_view_has_every_rule_and_only_params_of_trainings(root: Path, params: Params) -> None:
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("shown")
    save_view(client, experiment)
    (text,) = (
        value
        for name, value in client.get_experiment(experiment).tags.items()
        if name.startswith("mlflow.sharedViewState.")
    )
    state = json.loads(json.loads(text)["state"])
    shown = state["selectedColumns"]
    for metric in ("best/val_dice", "test/dice_foreground", "test/dice_background", "test/dice_ignore"):
        assert f"metrics.`{metric}`" in shown[:7]
        assert metric == "best/val_dice" or metric in {
            card.get("metricKey") for card in state["compareRunCharts"]
        }
    trained = flat(model=params.model, train=params.train, augment=params.augment)
    columns = {column.removeprefix("params.`")[:-1] for column in shown if column.startswith("params.")}
    assert columns == {*trained, "data.image_size"}


def test_a_model_packaged_with_other_code_has_a_tag(root: Path) -> None:
    present = code_sha256(ROOT / "stages/infer.py")
    for run, code in [(finished(root, "aaaa"), present), (finished(root, "bbbb"), "0" * 64)]:
        sync(root / "runs", [evaluated(root, run, code_sha256=code)])
    models = mlflow.MlflowClient().search_logged_models([rows()[0].info.experiment_id])
    assert sorted(model.tags.get("packaged_later", "") for model in models) == [
        "",
        f"with code {present[:12]}; infer ran with 000000000000",
    ]


def test_flat_has_whole_sections_and_single_values(params: Params) -> None:
    found = flat(data__boundary="ignore", infer=params.infer)
    assert found == {
        "data.boundary": "ignore",
        "infer.threshold": "auto",
        "infer.flip_average": True,
        "infer.clean": False,
        "infer.batch_size": 64,
    }


def test_the_logged_model_turns_photos_into_masks(root: Path) -> None:
    torch.manual_seed(0)
    network = build_network(MODEL).train()
    network(torch.randn(8, 3, 32, 32))
    weights, about = save_network(network, MODEL, 32, root, "w")
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    predictor = Predictor.load(weights, about, torch.device("cpu"), flip_average=True)
    probability = predictor.probability(photos, 8).numpy()
    thresholds: Thresholds = {"whole": 0.4, "tight": float(np.median(probability[:, 1]))}
    with live_row(training(root)) as live:
        assert live.row is not None
        decision = {"thresholds": thresholds, "flip_average": True}
        for _ in range(2):  # the second time the model exists
            log_model(
                live.row.client, live.row.run_id, weights, about, decision, {EVALUATION_TAG: "e1"}, photos[0]
            )
    (row,) = rows()
    (logged,) = mlflow.MlflowClient().search_logged_models([row.info.experiment_id])
    assert logged.source_run_id == row.info.run_id
    assert not list(root.glob("mlartifacts/**/*.pkl"))

    model = mlflow.pyfunc.load_model(logged.model_uri)
    assert model.metadata.signature is not None
    assert model.input_example is not None
    clean = np.stack([cleaned(each, thresholds) for each in probability])
    expected = cut(clean, thresholds)[:, 1]
    masks = model.predict(photos)
    assert masks.dtype == np.uint8
    assert (masks == expected).all()
    for place, edge in enumerate(OUTPUTS):
        masks = model.predict(photos, params={"edge": edge, "as_is": True})
        assert (masks == cut(probability, thresholds)[:, place]).all()
    assert (model.predict(photos[0]) == expected[0]).all()
    assert model.predict(np.zeros((50, 80, 3), np.uint8)).shape == (50, 80)


def test_runs_are_found_by_key_id_and_filter(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = root / "runs"
    for key, loss in (("abcd", "bce"), ("abff", "dice")):
        sync(store, [finished(root, key, params={"train.loss": loss})])
    ids = {run.data.tags["run_key"]: run.info.run_id for run in rows()}

    def found(*wanted: str) -> list[str]:
        return [run.key for run in found_runs(store, wanted)]

    assert found("abc") == ["abcd"]
    assert found(ids["abff"], "abff") == ["abff"]
    assert found("params.`train.loss` = 'dice'") == ["abff"]
    assert sorted(found("params.`train.loss` LIKE '%c%'")) == ["abcd", "abff"]
    for wrong, message in (
        ("ab", "ab: matches 2 runs; write more of it"),
        ("..", r"\.\.: no such run in runs/"),
        ("f" * 32, "no finished run matches the filter"),
        ("params.x = ", "is no MLflow filter"),
        ("params.`train.loss` = 'focal'", "no finished run matches"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            found_runs(store, [wrong])
        assert "\n" not in str(error.value)
    (store / "abff/manifest.json").rename(root / "away")
    assert found("params.`train.loss` LIKE '%c%'") == ["abcd"]
    assert "MLflow lists 1 run without runs/KEY" in capsys.readouterr().err
    (store / "abff/manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json: is no JSON"):
        found_runs(store, ["abff"])


def test_a_filter_without_mlflow_gives_an_error_without_the_password(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{closed_port()}")
    with pytest.raises(StoreError, match=r"MLflow does not answer .*; name runs by their keys") as error:
        found_runs(root / "runs", ["params.a = '1'"])
    assert "secret" not in str(error.value)
