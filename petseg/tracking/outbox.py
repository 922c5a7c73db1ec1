"""What MLflow is still to be told: a file for each run of the store, and for each stage before training.

Whoever writes to MLflow about a run holds its file, and removes it once everything is told. The kernel lets
go of it whatever ends the process, so a file that nobody holds is of one that was killed, or that did not
reach MLflow: the next ``petseg runs sync``, which every stage starts when it is through, goes on with it.
"""

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO

import petseg
from petseg.project import main_root
from petseg.store import now

_DATA = "data-"  # how the name of a stage before training begins; a run's is its key


@dataclass
class DataRecord:
    """What a stage before training did, whole.

    Attributes:
        stage: its name.
        params: what it read of params.yaml, flat.
        tags: what else is to be known.
        metrics: numbers.
        datasets: what it read or made: name, sha256, origin.
        texts: the content of files to keep, by their path among the artifacts.
    """

    stage: str
    params: dict[str, object]
    tags: dict[str, object] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    datasets: list[tuple[str, str, str]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    started: str = field(default_factory=now)
    ended: str = ""
    status: str = "FINISHED"


@dataclass
class Claim:
    """The right to tell MLflow of something.

    Attributes:
        held: whether this process has it; no only where another was not waited for.
        told: whether MLflow knows everything; until then the file stays.
    """

    held: bool = True
    told: bool = False


@contextmanager
def claimed(name: str, text: str = "", wait: bool = True) -> Iterator[Claim]:
    """Hold the file of what is to be told, for this process alone.

    Args:
        name: a run's key, or what ``left_over`` gave.
        text: what the file is to say of a stage before training.
        wait: for a process that holds it; else the claim is not held where one does.
    """
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield Claim(held=False)
                return
            if not _is_at(file, path):  # the one before was through with it, and has removed it
                continue
            if not name.startswith(_DATA):
                text = f"process {os.getpid()} on {socket.gethostname()}\n"
            if text:
                file.truncate(0)
                file.write(text)
                file.flush()
            claim = Claim()
            yield claim
            if claim.told:
                path.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def left_over() -> dict[str, str]:
    """Return what nobody is telling MLflow at present, and what its file says, by its name."""
    found = {}
    for path in sorted(_folder().glob("*")):
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found[path.name] = file.read()
        except (BlockingIOError, FileNotFoundError):  # another is at it, or through with it meanwhile
            continue
    return found


@contextmanager
def recorded(stage: str, params: dict[str, object]) -> Iterator[DataRecord]:
    """Record what a stage before training does, to be filled in, and tell MLflow however it ends."""
    record = DataRecord(stage, params)
    try:
        yield record
    except (KeyboardInterrupt, SystemExit):
        record.status = "KILLED"
        raise
    except BaseException:
        record.status = "FAILED"
        raise
    finally:
        record.ended = now()
        with claimed(f"{_DATA}{uuid.uuid4().hex}", json.dumps(asdict(record))):
            pass
        tell_mlflow()


def data_record(name: str, text: str) -> DataRecord | None:
    """Return the record of a stage before training that a file holds; None of a run's file."""
    if not name.startswith(_DATA):
        return None
    try:
        return DataRecord(**json.loads(text))
    except (ValueError, TypeError):  # its process was killed while it wrote
        return None


def tell_mlflow_of(run_key: str) -> None:
    """Tell MLflow what the store knows of a run."""
    with claimed(run_key):
        pass
    tell_mlflow()


def tell_mlflow() -> None:
    """Tell MLflow what it has not been told, in a process apart.

    So a stage that has nothing else to do with MLflow need not import it, and does not run again because
    the code that tells it was edited. Where MLflow does not answer, that process warns, and fails no stage.
    """
    if left_over():
        package = str(Path(petseg.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "petseg", "runs", "sync", "--quiet"]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or mlflow.db; a database's path counts from the main repository."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{main_root() / file}" if file != uri else uri


def without_password(text: str) -> str:
    """Return a text in one line, without the user and password that a URL in it may carry."""
    return re.sub(r"//\S*@", "//***@", " ".join(text.split()))


def _folder() -> Path:
    """Each tracking store is told for itself, by whoever: once connected, MLflow's URI has no password."""
    uri = without_password(tracking_uri()).replace("//***@", "//")
    store = sha256(uri.encode()).hexdigest()[:12]
    return main_root() / ".dvc" / "tmp" / "petseg-outbox" / store
