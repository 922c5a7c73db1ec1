"""A model that is served as a user does: its answers, its refusals, and that it still answers after those."""

import json
import os
import pickle
import re
import shutil
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
import torch
from numpy.typing import NDArray
from PIL import Image

from petseg.data.images import decode_photo
from petseg.errors import DamagedFile
from petseg.params import ModelParams
from petseg.tracking.serving import MAX_PHOTOS, MAX_REQUESTS, _as_json
from tests.support.mlflow_server import log_random_model, served
from tests.support.pets import encoded, sample_photos

MODEL = ModelParams(name="unet", width=4, depth=2, dropout=0.0, encoder_weights="none")
JPEGS = sample_photos(3)
FILES = [b64encode(jpeg).decode() for jpeg in JPEGS]
PHOTO = np.asarray(decode_photo(JPEGS[0]))
HOSTS, ORIGINS = "pets.example:*", "https://pets.example"


@dataclass
class Served:
    """A running server, and the same model loaded in this process."""

    url: str
    pid: int
    root: Path
    folder: Path
    model: "mlflow.pyfunc.PyFuncModel"

    def post(self, body: object, **headers: str) -> requests.Response:
        data: Any = body if isinstance(body, bytes | Iterator) else json.dumps(body)
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return requests.post(f"{self.url}/invocations", data=data, headers=headers, timeout=60)

    def masks(self, body: object) -> Any:
        answer = self.post(body)
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]

    def expected(self, photo: NDArray[np.uint8]) -> Any:
        return self.model.predict(photo).tolist()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def peak_kb(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = log_random_model(root, MODEL, 32, JPEGS[0])
        mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
        folder = Path(mlflow.artifacts.download_artifacts(uri))
        # In place of Ghostscript, which Pillow would call for PostScript.
        (root / "bin").mkdir()
        (root / "bin/gs").write_text("#!/bin/sh\necho 10; touch executed\n")
        (root / "bin/gs").chmod(0o755)
        allowed = {"MLFLOW_SERVER_ALLOWED_HOSTS": HOSTS, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ORIGINS}
        with served(uri, root, PATH=str(root / "bin"), **allowed) as (url, pid):
            yield Served(url, pid, root, folder, mlflow.pyfunc.load_model(str(folder)))


def test_a_file_and_its_pixels_get_the_same_mask(server: Served) -> None:
    expected = server.expected(PHOTO)
    assert np.shape(expected) == PHOTO.shape[:2]
    assert 0 < np.mean(expected) < 1
    for single in ({"inputs": PHOTO.tolist()}, {"instances": PHOTO.tolist()}, {"inputs": FILES[0]}):
        assert server.masks(single) == expected
    for several in (
        {"inputs": [PHOTO.tolist()]},
        {"instances": [PHOTO.tolist()]},
        {"inputs": FILES[:1]},
        {"instances": FILES[:1]},
        {"dataframe_split": {"columns": ["image"], "data": [FILES[:1]]}},
        {"dataframe_records": [{"image": FILES[0]}]},
    ):
        assert server.masks(several) == [expected]


def test_params_choose_the_mask(server: Served) -> None:
    seen = set()
    for edge in ("whole", "tight"):
        for as_is in (False, True):
            params = {"edge": edge, "as_is": as_is}
            expected = server.model.predict(PHOTO, params=params).tolist()
            assert server.masks({"inputs": FILES[0], "params": params}) == expected
            assert server.masks({"params": params, "dataframe_records": [{"image": FILES[0]}]}) == [expected]
            seen.add(json.dumps(expected))
    assert len(seen) == 4
    assert server.masks({"inputs": FILES[0], "params": {}}) == server.expected(PHOTO)


def test_one_request_can_have_photos_of_different_sizes(server: Served) -> None:
    photos = [np.asarray(decode_photo(jpeg)) for jpeg in JPEGS]
    assert len({photo.shape for photo in photos}) > 1
    expected = [server.expected(photo) for photo in photos]
    assert server.masks({"inputs": FILES}) == expected
    assert server.masks({"dataframe_records": [{"image": file} for file in FILES]}) == expected


def test_files_of_any_kind_become_upright_rgb(server: Served) -> None:
    image = Image.fromarray(PHOTO)
    turned = Image.Exif()
    turned[0x0112] = 6  # viewers turn it clockwise by a quarter turn
    files = {
        "rotated": encoded(image, "JPEG", exif=turned, quality=95),
        "grey": encoded(image.convert("L"), "PNG"),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "palette": encoded(image.convert("P"), "GIF"),
        "transparent": encoded(image.convert("RGBA"), "WEBP"),
    }
    masks = server.masks({"inputs": [b64encode(file).decode() for file in files.values()]})
    for (name, file), mask in zip(files.items(), masks, strict=True):
        assert mask == server.expected(np.asarray(decode_photo(file))), name
    assert np.shape(masks[0]) == PHOTO.shape[1::-1]


def test_the_model_takes_files_in_python_too(server: Served) -> None:
    assert (server.model.predict(np.array(FILES[:1])) == server.model.predict(PHOTO[None])).all()


def bomb(side: int) -> str:
    """Return a small file of a large black picture, in base64."""
    return b64encode(encoded(Image.new("1", (side, side)), "PNG")).decode()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
REFUSED: dict[str, tuple[int, Callable[[], object], str]] = {
    "broken JSON": (400, lambda: b'{"inputs": [[[1, 2', "no JSON"),
    "no UTF-8": (400, lambda: b"\x80\x81\xff", "no JSON"),
    "nested without end": (400, lambda: b"[" * 1_000_000, "no JSON"),
    "nothing": (400, lambda: b"", "no JSON"),
    "a list": (400, lambda: [1, 2], "expected one of"),
    "another key": (400, lambda: {"secret": 1}, "expected one of"),
    "two keys": (400, lambda: {"inputs": 1, "instances": 1}, "expected one of"),
    "two columns": (400, lambda: {"dataframe_split": {"data": [[1, 2]]}}, "expected one of"),
    "no records": (400, lambda: {"dataframe_records": "secret"}, "expected one of"),
    "wrong shape": (400, lambda: {"inputs": [[1, 2], [3, 4]]}, r"shape \(2, 2\)"),
    "four channels": (400, lambda: {"inputs": [[[1, 2, 3, 4]]]}, r"shape \(1, 1, 4\)"),
    "ragged rows": (400, lambda: {"inputs": [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]]}, "different lengths"),
    "NaN": (400, lambda: {"inputs": [[[float("nan"), 0, 0]]]}, "whole numbers"),
    "fractions": (400, lambda: {"inputs": [[[0.5, 0.25, 1.0]]]}, "whole numbers"),
    "too bright": (400, lambda: {"inputs": [[[0, 0, 256]]]}, "from 0 to 255"),
    "text for numbers": (400, lambda: {"inputs": [[["secret", 1, 2]]]}, "whole numbers"),
    "no photo": (400, lambda: {"inputs": []}, "expected a photo"),
    "no pixel": (400, lambda: {"inputs": [[], []]}, "expected a photo"),
    "null": (400, lambda: {"inputs": None}, "expected a photo"),
    "an object": (400, lambda: {"inputs": {"image": FILES[0]}}, "expected a photo"),
    "bad base64": (400, lambda: {"inputs": ["sec\nret=="]}, "photo 1: expected an image file in base64"),
    "no image": (
        400,
        lambda: {"inputs": [FILES[0], b64encode(b"secret").decode()]},
        "photo 2: not a picture",
    ),
    "no file": (400, lambda: {"inputs": [""]}, "file is empty"),
    "cut short": (400, lambda: {"inputs": [b64encode(JPEGS[0][:3000]).decode()]}, "can't be decoded"),
    "a file and a number": (400, lambda: {"inputs": [FILES[0], 1]}, "photo 2"),
    "PostScript": (400, lambda: {"inputs": [b64encode(EPS).decode()]}, "not a picture"),
    "a bomb": (400, lambda: {"inputs": [bomb(12_000)]}, "photo 1: has more than 52 megapixels"),
    "a bomb in parts": (400, lambda: {"inputs": [bomb(3_000)] * 8}, "together more than 52 megapixels"),
    "many photos": (400, lambda: {"inputs": [FILES[0]] * (MAX_PHOTOS + 1)}, "at most 64 at once"),
    "a large batch": (400, lambda: {"inputs": np.zeros((65, 1, 1, 3), int).tolist()}, "at most 64 at once"),
    "params in a list": (
        400,
        lambda: {"instances": FILES[:1], "params": ["secret"]},
        "expected params such as",
    ),
    "params of a split": (
        400,
        lambda: {"dataframe_split": {"data": [FILES[:1]]}, "params": ["secret"]},
        "expected params such as",
    ),
    "params of records": (
        400,
        lambda: {"dataframe_records": [{"image": FILES[0]}], "params": 1},
        "expected params such as",
    ),
    "params that are none": (
        400,
        lambda: {"inputs": FILES[0], "params": "secret"},
        "expected params such as",
    ),
    "an unknown param": (
        400,
        lambda: {"inputs": FILES[0], "params": {"secret": 1}},
        "expected params such as",
    ),
    "an unknown edge": (400, lambda: {"inputs": FILES[0], "params": {"edge": ["secret"]}}, "expected params"),
    "a word for a switch": (400, lambda: {"inputs": FILES[0], "params": {"as_is": "no"}}, "expected params"),
    "a large body": (413, lambda: b"s" * 100_000_000, "more than 32 MB"),
    "a large body of untold length": (413, lambda: iter([b"s" * 1_000_000] * 100), "more than 32 MB"),
}


def check_refused(answer: requests.Response, status: int, message: str) -> None:
    """Check that an answer is one short line that shows nothing of the request or of the server's code."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    (line,) = answer.json().values()
    assert re.search(message, line), line
    assert len(line) <= 300
    assert "\n" not in line
    assert "secret" not in line
    assert "Traceback" not in line


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_is_refused_in_one_line_and_little_memory(server: Served, name: str) -> None:
    status, body, message = REFUSED[name]
    before_kb = server.peak_kb()
    check_refused(server.post(body()), status, message)
    assert server.peak_kb() - before_kb < 100_000
    assert server.masks({"inputs": FILES[0]}) == server.expected(PHOTO)
    assert not (server.root / "executed").exists()


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("Host", "127.0.0.1", True),
        ("Host", "localhost:5001", True),
        ("Host", "[::1]:5001", True),
        ("Host", "pets.example:5001", True),
        ("Host", "pets.example", False),  # the list has this host only with a port
        ("Host", "evil.example", False),
        ("Host", "localhost.evil.example", False),
        ("Host", "127.0.0.1.evil.example:5001", False),
        ("Host", "", False),
        ("Origin", "http://localhost:3000", True),
        ("Origin", "https://127.0.0.1", True),
        ("Origin", "https://pets.example", True),
        ("Origin", "http://pets.example", False),
        ("Origin", "https://evil.example", False),
        ("Origin", "http://localhost.evil.example", False),
        ("Origin", "http://localhost@evil.example", False),
        ("Origin", "null", False),
    ],
)
def test_foreign_hosts_and_pages_are_refused(server: Served, name: str, value: str, known: bool) -> None:
    answers = [
        server.post({"inputs": FILES[0]}, **{name: value}),
        requests.get(f"{server.url}/ping", headers={name: value}, timeout=60),
    ]
    for answer in answers:
        if known:
            assert answer.status_code == 200
        else:
            check_refused(answer, 403, "a foreign .* MLFLOW_SERVER_")


def test_a_wrong_method_path_or_type_is_refused(server: Served) -> None:
    for kind in ("text/csv", "text/plain", "application/vnd.apache.parquet", ""):
        check_refused(server.post(b"secret", Content_Type=kind), 415, "application/json")
    for method, path in (("POST", "/ping"), ("PUT", "/invocations"), ("POST", "/invocations%0A")):
        headers = {"Content-Type": "application/json"}
        answer = requests.request(method, server.url + path, data=b"{}", headers=headers, timeout=60)
        check_refused(answer, 404, "POST /invocations")
    assert requests.get(f"{server.url}/invocations", timeout=60).status_code == 405
    assert requests.get(f"{server.url}/version", timeout=60).text == mlflow.__version__


def test_half_sent_bodies_do_not_block_others(server: Served) -> None:
    slow = (
        b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(3 * MAX_REQUESTS):
            visitor = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            visitor.sendall(slow)
            assert b"100 Continue" in visitor.recv(1000)  # the server waits for the body
        assert server.post({"inputs": FILES[0]}).status_code == 200


@pytest.mark.parametrize("masks", [np.eye(2, 5, dtype=np.uint8), np.ones((2, 3, 1), np.uint8)])
def test_masks_are_valid_json(masks: NDArray[np.uint8]) -> None:
    assert json.loads(_as_json(masks)) == masks.tolist()


class Hostile:
    """A pickle that makes a file if it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("pickles", ["allowed", "forbidden"])
@pytest.mark.parametrize("content", ["pickle", "torch", "garbage", "list", "nothing"])
@pytest.mark.parametrize("file", ["model.safetensors", "model.json", "decision.json"])
def test_a_hostile_file_in_the_model_is_refused_and_not_executed(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str, pickles: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", str(pickles == "allowed"))
    shutil.copytree(server.folder, "model")
    (path,) = Path("model/artifacts").rglob(file)
    if content == "torch":
        torch.save({"weight": Hostile()}, path)
    else:
        contents = {"pickle": pickle.dumps(Hostile()), "garbage": b"\x80\xff" * 99, "list": b"[]"}
        path.write_bytes(contents.get(content, b""))
    with pytest.raises(DamagedFile, match=file) as error:
        mlflow.pyfunc.load_model("model")
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()
