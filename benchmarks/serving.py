"""How fast a served model answers: ``python -m benchmarks.serving`` prints a Markdown table.

What is served is a network of the default size with random weights, which is as fast as a trained one.
"""

import io
import json
import statistics
import tempfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from benchmarks.__main__ import ROOT, seconds
from petseg.params import load_params
from tests.support.mlflow_server import log_random_model, served
from tests.support.pets import sample_photos

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


if __name__ == "__main__":
    main()
