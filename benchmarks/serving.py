"""The speed of a served model, and the memory of the model and of the demo over many requests: two tables.

``python -m benchmarks.serving`` prints them in Markdown. The network has the default size and random weights;
it is as fast as a trained one. The demo is the command, without its limit of photos per minute.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import requests
from PIL import Image

from benchmarks.__main__ import ROOT, seconds
from petseg.params import Params, load_params
from tests.support.mlflow_server import log_random_model, served
from tests.support.pets import sample_photos
from tests.support.runs import make_run

SIZE = (500, 375)
ROUNDS, WARM_UP = 40, 5
REQUESTS = (100, 1000, 2000)
KEY = "aaaa111122223333"


def main() -> None:
    """Print the tables."""
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
        with served(uri, Path(folder)) as (url, process), requests.Session() as session:
            print("| {}x{} photo as | request, kB | median, ms | 95 %, ms |".format(*SIZE))
            print("|---|---|---|---|")
            headers = {"Content-Type": "application/json"}

            def post(body: str) -> None:
                session.post(f"{url}/invocations", data=body, headers=headers).raise_for_status()

            for name, body in bodies.items():
                taken = [seconds(partial(post, body)) * 1000 for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
                median, high = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
                print(f"| {name} | {len(body) / 1e3:,.0f} | {median:.0f} | {high:.0f} |", flush=True)
            print("\n| memory, MB, after requests: | {:,} | {:,} | {:,} |".format(*REQUESTS))
            print("|---|---|---|---|")
            print_memory("a served model", process, partial(post, bodies["base64 of a JPEG file"]))
    with (
        tempfile.TemporaryDirectory() as folder,
        demo(Path(folder), params) as (url, process),
        requests.Session() as session,
    ):

        def post_photo() -> None:
            answer = session.post(f"{url}/api/probability", data=file.getvalue(), params={"model": KEY})
            answer.raise_for_status()

        print_memory("the demo", process, post_photo)


def print_memory(name: str, process: int, post: Callable[[], None]) -> None:
    """Print the memory of a server after each number of requests."""
    taken = []
    for before, after in pairwise((0, *REQUESTS)):
        for _ in range(before, after):
            post()
        taken.append(psutil.Process(process).memory_info().rss / 1e6)
    print(f"| {name} |", " | ".join(f"{megabytes:.0f}" for megabytes in taken), "|", flush=True)


@contextmanager
def demo(root: Path, params: Params) -> Iterator[tuple[str, int]]:
    """Run the demo of a random network; yield its URL and its process id."""
    (root / ".dvc").mkdir()
    make_run(root / "runs" / KEY, params.model.name, params.model.width, spread=True)
    command = "import petseg.cli, petseg.predict.demo.app as app; app.PER_MINUTE = 10**9; petseg.cli.main()"
    options = ["demo", "--port=0", "--no-open", "--model", KEY]
    started = subprocess.Popen(
        [sys.executable, "-c", command, *options],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        assert started.stdout is not None
        started.stdout.readline()  # names the model that the page begins with
        yield started.stdout.readline().strip(), started.pid
        started.terminate()


if __name__ == "__main__":
    main()
