"""Fixtures that several rooms use. The slow ones are made once per test run, for all its processes."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from petseg.core.files import sha256_file
from petseg.data.arrays import PetArrays
from petseg.data.download import ARCHIVES, CHECKSUMS
from petseg.data.preprocess import pack
from petseg.params import Params, load_params
from petseg.pipeline import codehash
from tests.support import ROOT, forked
from tests.support.http_server import Server
from tests.support.pets import PetFolder, few_photos
from tests.support.project import FEW, TINY, Project

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Shared = Callable[[str, Callable[[Path], None]], Path]

# Tests in these folders, or with one of these fixtures, run whole programs: DVC, a server, a browser.
WHOLE = {"faults", "end_to_end", "browser", "chromium", "forks", "trained", "demo"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ``make check`` leaves out, and run them first, because they take longest."""
    for item in items:
        if not WHOLE.isdisjoint({item.path.parent.name, *getattr(item, "fixturenames", ())}):
            item.add_marker("whole")
    long = {item.path for item in items if item.get_closest_marker("whole")}

    def order(item: pytest.Item) -> tuple[int, int]:
        """First the file that makes the trained project, because others use it; last the short tests."""
        first = ("test_pipeline.py", "faults", "end_to_end")
        places = [
            place for place, name in enumerate(first) if name in (item.path.name, item.path.parent.name)
        ]
        return min(places, default=len(first) + (item.path not in long)), -item.path.stat().st_size

    items.sort(key=order)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Make a folder once per test run, in the process that needs it first. Tests only read it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        made, finished = folder / name, folder / f"{name}.finished"
        with FileLock(folder / f"{name}.lock"):
            if not finished.exists():
                shutil.rmtree(made, ignore_errors=True)  # left by a ``make`` that failed
                made.mkdir()
                make(made)
                finished.touch()
        return made

    return once


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def sample_arrays(shared: Shared) -> PetArrays:
    """Five dozen of the embedded photos at 64x64."""

    def make(folder: Path) -> None:
        few_photos(folder / "few", trainval=48, test=12)
        split = load_params(ROOT / "params.yaml").split
        pack(folder / "few", folder / "pets", folder / "rejected.csv", 64, 0.01, split)

    return PetArrays.open(shared("sample_arrays", make) / "pets")


@pytest.fixture(scope="session")
def mlflow_database(shared: Shared) -> Path:
    """An empty MLflow database to copy, because MLflow takes seconds to make one."""

    def make(folder: Path) -> None:
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return shared("mlflow_database", make) / "mlflow.db"


@pytest.fixture(scope="session")
def forks() -> Iterator[Path]:
    """A folder for PATH with a ``python`` and a ``dvc`` that start at once (tests.support.forked)."""
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="petseg-") as name, forked.running(Path(name)) as programs:
        yield programs


@pytest.fixture(scope="session")
def trained(shared: Shared) -> Project:
    """A clone in which a user's ``dvc repro`` has run and is committed. Tests only read or copy it."""

    def make(folder: Path) -> None:
        project = Project(folder, TINY | FEW)
        (folder / ".dvc/tmp/printed").write_text(project.run("dvc", "repro"))
        project.commit("first results")

    return Project.open(shared("trained", make))


@pytest.fixture(scope="module")
def project(trained: Project, forks: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the trained project for the tests of one file, which may change it."""
    return trained.copy(tmp_path_factory.mktemp("copy") / "project", forks)


hash_of, imported = codehash._file_sha256, codehash._imported


@cache
def hash_of_bytes(file: Path, _: bytes) -> str:
    return hash_of(file)


@cache
def imported_by_bytes(file: Path, root: Path, _: bytes) -> list[str]:
    return list(imported(file, root))


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash and parse each version of a file once: an edit changes one of the many files of a stage."""
    monkeypatch.setattr(codehash, "_file_sha256", lambda file: hash_of_bytes(file, file.read_bytes()))
    monkeypatch.setattr(
        codehash, "_imported", lambda file, root: imported_by_bytes(file, root, file.read_bytes())
    )


@pytest.fixture
def pets(tmp_path: Path) -> PetFolder:
    return PetFolder(tmp_path / "archives")


@pytest.fixture
def server(pets: PetFolder) -> Iterator[Server]:
    """A server of the archives of drawn pets, with their checksums."""
    pets.write()
    sums = "".join(f"{sha256_file(pets.folder / name)}  {name}\n" for name in ARCHIVES)
    (pets.folder / CHECKSUMS).write_text(sums)
    server = Server(pets.folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium browser."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("needs a browser: no Chromium is installed")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
    with playwright.sync_playwright() as started:
        # The sandbox needs namespaces, which containers lack. The tests open only pages of petseg.
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
