import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from petseg.checkpoint import save_tensors, sha256_tensors
from petseg.errors import StoreError, UsageError
from petseg.inference import Predictor
from petseg.models import build_network
from petseg.params import ModelParams, Params
from petseg.tracking import (
    DATA_EXPERIMENT,
    EXPERIMENT,
    connect,
    flat,
    stage_run,
    tracking_uri,
)
from petseg.tracking.logged_model import log_model
from petseg.tracking.reading import found_runs
from tests.test_sources import closed_port

MODEL = ModelParams(name="unet", width=4, depth=2, dropout=0.0, encoder_weights="none")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository as the working folder."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return tmp_path


def runs(experiment: str = EXPERIMENT) -> "list[mlflow.entities.Run]":
    mlflow.set_tracking_uri(tracking_uri())
    found = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return sorted(found, key=lambda run: run.info.start_time)


def test_a_run_has_params_metrics_tags_data_and_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "tidy-lemur")
    (root / "note.txt").write_text("hello")
    with stage_run("train", {"train.epochs": 3}, {"run_key": "abc"}) as log:
        for epoch in (1, 2):
            log.metrics({"loss/train": 1 / epoch, "dice/val": float("nan")}, step=epoch)
        log.dataset("pets", "f" * 64, "data/pets", "train")
        log.artifact(root / "note.txt", "notes")
        log.tags({"weights": "runs/abc/model.safetensors"})
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tidy-lemur"
    assert run.data.params == {"train.epochs": "3"}
    assert run.data.metrics == {"loss/train": 0.5}
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss/train")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    tags = run.data.tags
    assert (tags["run_key"], tags["dvc_experiment"], tags["stage"]) == ("abc", "tidy-lemur", "train")
    (data,) = run.inputs.dataset_inputs
    assert json.loads(data.dataset.profile) == {"sha256": "f" * 64}
    assert run.info.artifact_uri.startswith((root / "mlartifacts" / EXPERIMENT).as_uri())
    assert (root / "mlartifacts" / EXPERIMENT / run.info.run_id / "artifacts/notes/note.txt").exists()


def test_infer_adds_to_the_trainings_row_without_reopening_it(root: Path) -> None:
    with stage_run("train", {"a": 1}, {}) as parent:
        pass
    closed_at = runs()[0].info.end_time
    for threshold in (0.4, 0.5):  # a second evaluation has other params, and must not fail
        with stage_run("infer", {"infer.threshold": threshold}, {}, parent_id=parent.run_id) as log:
            log.mirrored_metrics({"test/dice_per_image": threshold})
    row, *children = runs()
    assert row.data.metrics == {"test/dice_per_image": 0.5}
    assert row.data.params == {"a": "1"}
    assert (row.info.status, row.info.end_time) == ("FINISHED", closed_at)
    assert [child.data.tags["mlflow.parentRunId"] for child in children] == [parent.run_id] * 2
    assert [child.data.params["infer.threshold"] for child in children] == ["0.4", "0.5"]


def test_stages_before_training_have_an_experiment_of_their_own(root: Path) -> None:
    with stage_run("preprocess", {}, {}):
        pass
    assert len(runs(DATA_EXPERIMENT)) == 1
    assert runs() == []


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_how_a_run_ended_is_said(root: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), stage_run("train", {}, {}):
        raise error
    assert [run.info.status for run in runs()] == [status]


def test_a_run_is_gone_on_with_and_an_unknown_one_is_begun_anew(root: Path) -> None:
    with stage_run("train", {}, {}) as first:
        pass
    with stage_run("train", {}, {}, run_id=first.run_id) as second:
        assert second.run_id == first.run_id
    with stage_run("train", {}, {}, run_id="0" * 32, parent_id="1" * 32) as third:
        assert third.run_id != first.run_id
        assert third.parent_id is None
    assert [run.info.status for run in runs()] == ["FINISHED", "FINISHED"]


def test_a_temporary_folder_of_dvc_logs_to_the_main_repository(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = root / ".dvc/tmp/exps/standalone/tmpabc"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(copy)
    with stage_run("train", {}, {}):
        pass
    assert (root / "mlflow.db").exists()
    assert list(copy.iterdir()) == [copy / ".dvc"]


def test_a_mistake_of_ours_is_not_taken_for_mlflows(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage_run("train", {}, {}) as log:
        log.on_model_row(lambda client, run_id: 1 / 0)


def first_contact(folder: Path, results: "multiprocessing.Queue[str]") -> None:
    import os

    os.chdir(folder)
    with stage_run("train", {}, {}) as log:
        results.put(str(log.run_id))


def test_four_processes_may_start_on_no_database(root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=first_contact, args=(root, results)) for _ in range(4)]
    for process in processes:
        process.start()
    ids = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert {run.info.run_id for run in runs()} == ids
    assert len(ids) == 4
    assert [run.info.status for run in runs()] == ["FINISHED"] * 4


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A server that takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for connection in kept:
        connection.close()


@pytest.mark.parametrize("answering", ["refused", "silent"])
def test_a_server_that_is_away_costs_one_warning(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    silent_server: int,
    answering: str,
) -> None:
    port = silent_server if answering == "silent" else closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:ge@heim@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    work_done = 0
    started = time.monotonic()
    with stage_run("train", {}, {}) as log:
        for epoch in range(100):
            log.metrics({"loss/train": 1.0}, step=epoch)
            work_done += 1
    assert work_done == 100
    assert time.monotonic() - started < 30  # what must hold, and not a figure of speed
    error = capsys.readouterr().err
    assert error.count("MLflow does not answer") == 1
    assert "eim" not in error


def test_flat_names_sections_and_single_values(params: Params) -> None:
    found = flat(data__boundary="ignore", infer=params.infer)
    assert found == {
        "data.boundary": "ignore",
        "infer.threshold": "auto",
        "infer.flip_average": True,
        "infer.batch_size": 64,
    }


def test_the_logged_model_turns_photos_to_masks(root: Path) -> None:
    torch.manual_seed(0)
    network = build_network(MODEL).train()
    network(torch.randn(8, 3, 32, 32))
    weights, about = root / "w.safetensors", root / "w.json"
    save_tensors(weights, network.state_dict(), {})
    digest = sha256_tensors(network.state_dict())
    about.write_text(json.dumps({"model": MODEL.model_dump(), "image_size": 32, "tensors_sha256": digest}))
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    predictor = Predictor.load(weights, about, torch.device("cpu"), flip_average=True)
    threshold = float(predictor.probability(photos, 8).median())
    with stage_run("train", {}, {}) as row:
        pass
    decision = {"threshold": threshold, "flip_average": True}
    with stage_run("infer", {}, {}, parent_id=row.run_id) as log:
        for _ in range(2):  # the second time it is there
            log.on_model_row(
                lambda client, run: log_model(client, run, weights, about, decision, "e1", photos[:1])
            )
    (logged,) = mlflow.MlflowClient().search_logged_models([runs()[0].info.experiment_id])
    assert logged.source_run_id == row.run_id
    assert not list(root.glob("mlartifacts/**/*.pkl"))

    model = mlflow.pyfunc.load_model(logged.model_uri)
    assert model.metadata.signature is not None
    assert model.input_example is not None
    expected = (predictor.probability(photos, 8) >= threshold).numpy()
    masks = model.predict(photos)
    assert masks.dtype == np.uint8
    assert (masks == expected).all()
    assert (model.predict(photos[0]) == expected[0]).all()
    assert model.predict(np.zeros((50, 80, 3), np.uint8)).shape == (50, 80)
    for wrong in (np.zeros((32, 32), np.uint8), np.zeros((1, 32, 32, 3)), np.zeros((0, 32, 32, 3), np.uint8)):
        with pytest.raises(MlflowException, match="expected a photo"):
            model.predict(wrong)


def trained(root: Path, key: str, **params: object) -> str:
    """A finished run in store and MLflow."""
    (root / "runs" / key).mkdir(parents=True)
    with stage_run("train", params, {"run_key": key}) as log:
        pass
    assert log.run_id is not None
    manifest = {"format": 1, "status": "finished", "mlflow_run_id": log.run_id}
    (root / "runs" / key / "manifest.json").write_text(json.dumps(manifest))
    return log.run_id


def test_runs_are_found_as_people_name_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {
        key: trained(root, key, **{"train.loss": loss}) for key, loss in (("abcd", "bce"), ("abff", "dice"))
    }
    store = root / "runs"

    def found(*wanted: str) -> list[str]:
        runs = found_runs(store, wanted)
        assert all(run.manifest["mlflow_run_id"] == ids[run.key] for run in runs)
        return [run.key for run in runs]

    assert found("abc") == ["abcd"]
    assert found(ids["abff"], "abff") == ["abff"]
    assert found("params.`train.loss` = 'dice'") == ["abff"]
    assert found("params.`train.loss` LIKE '%c%'") == ["abff", "abcd"]
    for wrong, message in (
        ("ab", "ab: it fits 2 runs: write more of it"),
        ("..", r"\.\.: no such run in runs/"),
        ("f" * 32, "no finished run fits the filter"),
        ("params.x = ", "is no MLflow filter"),
        ("params.`train.loss` = 'focal'", "no finished run fits"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            found_runs(store, [wrong])
        assert "\n" not in str(error.value)
    (store / "abff/manifest.json").rename(root / "away")
    assert found("params.`train.loss` LIKE '%c%'") == ["abcd"]
    assert "1 runs that MLflow lists are not in runs/" in capsys.readouterr().err
    (store / "abff/manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json: can't be read"):
        found_runs(store, ["abff"])


def test_a_filter_needs_mlflow_and_says_so_without_its_password(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{closed_port()}")
    with pytest.raises(StoreError, match=r"MLflow does not answer .*; name runs by their keys") as error:
        found_runs(root / "runs", ["params.a = '1'"])
    assert "secret" not in str(error.value)


def test_runs_of_killed_processes_are_closed_by_the_next_command(root: Path) -> None:
    with stage_run("train", {}, {}) as mine:
        child = (
            "import os, signal\nfrom petseg.tracking import stage_run\n"
            "with stage_run('infer', {}, {}): os.kill(os.getpid(), signal.SIGKILL)"
        )
        path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        killed = subprocess.run([sys.executable, "-c", child], cwd=root, env=os.environ | path, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert sorted(run.info.status for run in runs()) == ["RUNNING", "RUNNING"]
        client = connect()
        assert sorted(run.info.status for run in runs()) == ["KILLED", "RUNNING"]
        assert client.get_run(mine.run_id).info.status == "RUNNING"
    assert sorted(run.info.status for run in runs()) == ["FINISHED", "KILLED"]
