"""MLflow's server and a model that it serves: real processes on loopback, which tests stop and kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import requests
import torch

from petseg.data.images import decode_photo, resize_photo
from petseg.models.networks import build_network
from petseg.models.predictor import Predictor
from petseg.models.weights import save_tensors, sha256_tensors
from petseg.params import OUTPUTS, ModelParams
from petseg.store.writer import open_run
from petseg.tracking.client import connect
from petseg.tracking.entries import of_training
from petseg.tracking.rows import Row
from tests.support.http_server import closed_port


class MlflowServer:
    """``mlflow server`` with its own database and artifacts."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Choose a port; ``environment`` is the environment of the server."""
        self.folder, self._environment, self._port = folder, environment, closed_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = {
            "--host": "127.0.0.1",
            "--port": f"{self._port}",
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination": f"{self.folder}/artifacts",
        }
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                ["mlflow", "server", *(word for option in options.items() for word in option)],
                cwd=self.folder,
                env=self._environment | quiet,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while True:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            try:
                requests.get(f"{self.uri}/health", timeout=5)
                return
            except requests.ConnectionError:
                time.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers: SIGSTOP makes it silent, SIGCONT wakes it."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill the server if it runs."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None


def log_random_model(root: Path, model: ModelParams, size_px: int, jpeg: bytes) -> str:
    """Log a network of random weights to a new store, and return the URI of the model.

    Args:
        root: an empty folder.
        model: the network.
        size_px: the side of its photos.
        jpeg: a photo; the thresholds are chosen so that half of its pixels are pet.
    """
    (root / ".dvc/tmp").mkdir(parents=True)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.manual_seed(0)
    network = build_network(model).train()
    network(torch.randn(8, 3, size_px, size_px))  # gives the batch norms statistics
    weights, about = root / "model.safetensors", root / "model.json"
    save_tensors(weights, network.state_dict(), {})
    description = {"model": model.model_dump(), "image_size": size_px, "outputs": OUTPUTS}
    about.write_text(json.dumps(description | {"tensors_sha256": sha256_tensors(network.state_dict())}))
    photos = np.stack([resize_photo(decode_photo(jpeg), size_px)])
    probability = Predictor.load(weights, about, torch.device("cpu"), True).probability(photos, 1)[0]
    thresholds = {edge: float(values.median()) for edge, values in zip(OUTPUTS, probability, strict=True)}
    from petseg.tracking.logged_model import EVALUATION_TAG, log_model

    decision, tags = {"thresholds": thresholds, "flip_average": True}, {EVALUATION_TAG: "random"}
    with chdir(root), open_run(root / "runs", "b0" * 8, {}) as run:
        row = Row.open(connect(), of_training(run))
        model_id = log_model(row.client, row.run_id, weights, about, decision, tags, photos[0])
    return f"models:/{model_id}"


@contextmanager
def served(uri: str, root: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """Run ``mlflow models serve`` as a user does, in the folder of the model's store.

    Args:
        uri: of the model.
        root: the folder.
        environment: further variables for the server.

    Yields:
        The URL of the server, and the id of the process that answers.
    """
    port = closed_port()
    path = f"{environment.pop('PATH', '')}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        uri,
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    log = root / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command,
            cwd=root,
            env=os.environ | environment | {"PATH": path},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/ping"):
            if server.poll() is not None:
                raise RuntimeError(log.read_text())
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        yield url, int(children)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str) -> bool:
    """Tell whether a server answers; wait a moment if none does."""
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        time.sleep(0.2)
        return False
