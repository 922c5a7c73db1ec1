"""What several tests stand on: small archives of drawn pets, and the embedded photos, packed."""

import io
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.data.arrays import PetArrays
from petseg.data.download import ARCHIVES, CHECKSUMS
from petseg.data.preprocess import pack
from petseg.evaluation.outputs import HEADLINES
from petseg.models.networks import build_network
from petseg.models.weights import save_tensors
from petseg.params import ModelParams, Params, load_params
from petseg.store.layout import ABOUT, EVALUATIONS, FORMAT, MANIFEST, RECORDS, WEIGHTS
from petseg.store.run import StoredRun

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
MINI = ROOT.parent / "shared/data/mini"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# Files with whole pipelines in them, which come first: with `--no-loadscope-reorder` no process is left with
# one of them at the end.
LONGEST = ("test_ways", "test_pipeline", "test_never_lost", "test_crash", "test_server", "test_models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


# Source of a function for programs that tests start: the process's own peak of memory. (getrusage
# would count what its parent held.)
PEAK_KB = """
def peak_kb():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def sample_arrays(tmp_path_factory: pytest.TempPathFactory) -> PetArrays:
    """The embedded photos at 64x64."""
    folder = tmp_path_factory.mktemp("sample")
    split = load_params(ROOT / "params.yaml").split
    pack(ROOT / "data/sample", folder / "pets", folder / "rejected.csv", 64, 0.01, split)
    return PetArrays.open(folder / "pets")


def make_run(folder: Path, name: str) -> StoredRun:
    """A finished run of the store, with its evaluation; the network is random."""
    torch.manual_seed(0)
    model = ModelParams.model_validate(
        {"name": name, "width": 4, "depth": 2, "dropout": 0.0, "encoder_weights": "none"}
    )
    network = build_network(model).train()
    for _ in range(20):
        network(torch.randn(8, 3, 64, 64))  # so that the batch norms have seen something
    digest = save_tensors(folder / WEIGHTS, network.state_dict(), {})
    about = {"model": model.model_dump(), "image_size": 64, "boundary": "foreground"}
    write_json(folder / ABOUT, about | {"tensors_sha256": digest})
    hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
    record = {"format": FORMAT, "status": "finished", "created": "2026", "tensors_sha256": digest}
    write_json(folder / MANIFEST, record | {"files": hashes})
    evaluation = folder / EVALUATIONS / "e"
    write_json(evaluation / HEADLINES, {"threshold": 0.45})
    made = {"created": "2026", "settings": {"infer.flip_average": True}}
    hashes = {HEADLINES: sha256_file(evaluation / HEADLINES)}
    write_json(evaluation / RECORDS[EVALUATIONS], made | {"files": hashes})
    return StoredRun.open(folder)


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A photo of smooth noise, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def trimap(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A pet in the middle with a border around it."""
    labels = np.full((size[1], size[0]), 2, np.uint8)
    labels[8:-8, 10:-10] = 3
    labels[12:-12, 14:-14] = 1
    return Image.fromarray(labels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write an honest .tar.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


class PetFolder:
    """Two archives in the layout of the official ones, to be spoilt before they are written."""

    def __init__(self, folder: Path, trainval: int = 12, test: int = 4) -> None:
        self.folder = folder
        names = [f"{breed}_{n}" for n in range((trainval + test) // 2) for breed in ("Bengal", "pug")]
        self.lists = {"trainval": names[:trainval], "test": names[trainval:]}
        self.photos = {f"images/{n}.jpg": encoded(picture(i), "JPEG") for i, n in enumerate(names)}
        self.trimaps = {f"annotations/trimaps/{n}.png": encoded(trimap(), "PNG") for n in names}
        self.extra: dict[str, bytes] = {}

    def write(self) -> Path:
        lists = {
            f"annotations/{part}.txt": "".join(
                f"{name} 1 {1 if name[0].isupper() else 2} 1\n" for name in names
            ).encode()
            for part, names in self.lists.items()
        }
        write_tar(self.folder / "images.tar.gz", self.photos | self.extra)
        write_tar(self.folder / "annotations.tar.gz", lists | self.trimaps)
        return self.folder


@pytest.fixture
def pets(tmp_path: Path) -> PetFolder:
    return PetFolder(tmp_path / "archives")


class Server(ThreadingHTTPServer):
    """Serves a folder, with Range; ``fail`` says how often and how it fails first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.cut_after: list[int] = []  # bytes after which the next answers of an archive break off
        self.status: list[int] = []  # status of the next answers
        self.ranges: list[str | None] = []
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / self.path.rpartition("/")[2]
        if self.server.status and path.name != CHECKSUMS:
            self.send_error(self.server.status.pop(0))
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        asked = self.headers.get("Range")
        if path.name != CHECKSUMS:
            self.server.ranges.append(asked)
        if asked:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
        body = data[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut_after and path.name != CHECKSUMS:
            body = body[: self.server.cut_after.pop(0)]
        for at in range(0, len(body), 4096):
            self.wfile.write(body[at : at + 4096])
            time.sleep(self.server.delay_s)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(pets: PetFolder) -> Iterator[Server]:
    pets.write()
    sums = "".join(f"{sha256_file(pets.folder / name)}  {name}\n" for name in ARCHIVES)
    (pets.folder / CHECKSUMS).write_text(sums)
    server = Server(pets.folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        pytest.skip("needs a browser: no Chromium is installed")
    with playwright.sync_playwright() as started:
        # Containers have no namespaces for a sandbox, and only our own pages are opened.
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
