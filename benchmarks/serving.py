"""How fast a served model answers: ``python -m benchmarks.serving`` prints a Markdown table.

What is served is a network of the default size with random weights, which is as fast as a trained one.
"""

import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import requests
import torch
from PIL import Image

from benchmarks.__main__ import ROOT, SAMPLE, seconds
from petseg.data.archives import PHOTOS
from petseg.data.images import decode_photo, resize_photo
from petseg.models.networks import build_network
from petseg.models.predictor import Predictor
from petseg.models.weights import save_tensors, sha256_tensors
from petseg.params import ModelParams, load_params
from petseg.store.writer import open_run
from petseg.tracking.client import connect
from petseg.tracking.entries import of_training
from petseg.tracking.rows import Row

SIZE = (500, 375)
ROUNDS, WARM_UP = 40, 5


def main() -> None:
    """Print the table."""
    params = load_params(ROOT / "params.yaml")
    (jpeg,) = sample_photos(1)
    photo = Image.open(io.BytesIO(jpeg)).resize(SIZE)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    bodies = {
        "base64 of a JPEG file": json.dumps({"inputs": [b64encode(file.getvalue()).decode()]}),
        "array": json.dumps({"inputs": np.asarray(photo).tolist()}),
    }
    with tempfile.TemporaryDirectory() as folder:
        uri = log_random_model(Path(folder), params.model, params.data.image_size, jpeg)
        with served(uri, Path(folder)) as (url, _), requests.Session() as session:
            print("| {}x{} photo as | request, kB | median, ms | 95 %, ms |".format(*SIZE))
            print("|---|---|---|---|")
            for name, body in bodies.items():

                def ask(body: str = body) -> None:
                    headers = {"Content-Type": "application/json"}
                    session.post(f"{url}/invocations", data=body, headers=headers).raise_for_status()

                taken = [seconds(ask) * 1000 for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
                median, high = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
                print(f"| {name} | {len(body) / 1e3:,.0f} | {median:.0f} | {high:.0f} |", flush=True)


def sample_photos(count: int) -> list[bytes]:
    """Return files of the embedded photos."""
    with tarfile.open(SAMPLE / PHOTOS) as archive:
        files = (archive.extractfile(member) for member in archive if member.isfile())
        return [file.read() for file, _ in zip(filter(None, files), range(count), strict=False)]


def log_random_model(root: Path, model: ModelParams, size_px: int, jpeg: bytes) -> str:
    """Log a network of random weights to a new store, and return its URI.

    Args:
        root: an empty folder.
        model: the network.
        size_px: the side of its photos.
        jpeg: a photo, of which half the pixels are to be pet.
    """
    (root / ".dvc/tmp").mkdir(parents=True)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.manual_seed(0)
    network = build_network(model).train()
    network(torch.randn(8, 3, size_px, size_px))  # so that the batch norms have seen something
    weights, about = root / "model.safetensors", root / "model.json"
    save_tensors(weights, network.state_dict(), {})
    told = {"model": model.model_dump(), "image_size": size_px}
    about.write_text(json.dumps(told | {"tensors_sha256": sha256_tensors(network.state_dict())}))
    photos = np.stack([resize_photo(decode_photo(jpeg), size_px)])
    threshold = float(
        Predictor.load(weights, about, torch.device("cpu"), True).probability(photos, 1).median()
    )
    from petseg.tracking.logged_model import EVALUATION_TAG, log_model

    decision, tags = {"threshold": threshold, "flip_average": True}, {EVALUATION_TAG: "random"}
    with chdir(root), open_run(root / "runs", "b0" * 8, {}) as run:
        row = Row.open(connect(), of_training(run))
        model_id = log_model(row.client, row.run_id, weights, about, decision, tags, photos[0])
    return f"models:/{model_id}"


@contextmanager
def served(uri: str, root: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """Run ``mlflow models serve`` as a person does, in the folder of the model's store.

    Args:
        uri: the model.
        root: the folder.
        environment: variables to start it with.

    Yields:
        The server's URL, and the id of the process that answers.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
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
    """Tell whether somebody answers there, after a moment if not."""
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        time.sleep(0.2)
        return False


if __name__ == "__main__":
    main()
