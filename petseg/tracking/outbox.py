"""What MLflow is still to be told: a file for each run of the store, and for each stage before training.

Whoever writes to MLflow about a run holds its file, and removes it once everything is told. The kernel lets
go of it whatever ends the process, so a file that nobody holds is of one that was killed, or that did not
reach MLflow: the next ``petseg runs sync``, which stages start when they are through, goes on with it.

What the store of runs does not know, the file says: of a stage before training everything; of a run its
uid, by which the row of one that was killed and pruned is closed, and how its training ended, if not well.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import petseg
from petseg.core.project import main_root, now

_DATA = "data-"  # how the name of a stage before training begins; a run's is its key
_SLOW_S, _AT_MOST_S = 30, 300  # of what a stage waits for MLflow once its work is done


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
        file: what the outbox has of it; None where another process tells it, and was not waited for.
        told: whether MLflow knows everything; until then the file stays.
    """

    file: IO[str] | None
    told: bool = False

    @property
    def said(self) -> dict[str, Any]:
        """What its file says; empty where it was just made, or its process killed while writing."""
        assert self.file is not None
        self.file.seek(0)
        try:
            return dict(json.loads(self.file.read()))
        except ValueError:
            return {}

    def say(self, said: Mapping[str, object]) -> None:
        """Write down what is to be told should this process not come to it."""
        assert self.file is not None
        self.file.truncate(0)
        self.file.write(json.dumps(said))
        self.file.flush()


@contextmanager
def claimed(name: str, wait: bool = True) -> Iterator[Claim]:
    """Hold the file of what is to be told, for this process alone.

    Args:
        name: a run's key, or what ``left_over`` gave.
        wait: for a process that holds it; else the claim has no file where one does.
    """
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as file:
            if not _locks(file, wait):
                yield Claim(None)
                return
            if not _is_at(file, path):  # the one before was through with it, and has removed it
                continue
            claim = Claim(file)
            try:
                yield claim
            finally:
                if claim.told:
                    path.unlink(missing_ok=True)
            return


def _locks(file: IO[str], wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        waiting = threading.Timer(1, print, ["waiting for another process that tells MLflow of this run"])
        waiting.start()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        finally:
            waiting.cancel()
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def left_over() -> list[str]:
    """Return the names of what nobody is telling MLflow at present."""
    found = []
    for path in sorted(_folder().glob("*")):
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found.append(path.name)
        except (BlockingIOError, FileNotFoundError):  # another is at it, or through with it meanwhile
            continue
    return found


@contextmanager
def recorded(stage: str, params: dict[str, object]) -> Iterator[DataRecord]:
    """Record what a stage before training does, to be filled in, and tell MLflow however it ends."""
    record = DataRecord(stage, params)
    try:
        yield record
    except BaseException as error:
        record.status = status_of(error)
        raise
    finally:
        record.ended = now()
        with claimed(f"{_DATA}{uuid.uuid4().hex}") as claim:
            claim.say(asdict(record))
        tell_mlflow()


def is_data_stage(name: str) -> bool:
    """Tell the record of a stage before training from a run's."""
    return name.startswith(_DATA)


def status_of(error: BaseException) -> str:
    """Return how MLflow calls the end that an exception made."""
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"


def tell_mlflow(besides: str = "") -> bool:
    """Tell MLflow what it has not been told, in a process apart; return whether it was there to listen.

    So a stage that has nothing else to do with MLflow need not import it, and does not run again because
    the code that tells it was edited. Where MLflow does not answer, that process warns, and fails no stage.

    Args:
        besides: what the caller tells by itself; alone, it is no reason to start.
    """
    if {*left_over()} <= {besides}:
        return True
    package = str(Path(petseg.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "petseg", "runs", "sync", "--quiet"]
    waiting = threading.Timer(_SLOW_S, print, [f"MLflow is slow; at most {_AT_MOST_S} s are given to it"])
    waiting.start()
    try:
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, check=False, timeout=_AT_MOST_S)
    except subprocess.TimeoutExpired:
        print(
            f"warning: MLflow was not told everything in {_AT_MOST_S} s; the record is in runs/, and "
            "`petseg runs sync` goes on",
            file=sys.stderr,
        )
        return False
    finally:
        waiting.cancel()
    return done.returncode == 0


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or mlflow.db; a database's path counts from the main repository."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{main_root() / file}" if file != uri else uri.rstrip("/")


def without_password(text: str) -> str:
    """Return a text in one line, without the user and password that a URL in it may carry."""
    return re.sub(r"//\S*@", "//***@", " ".join(text.split()))


def _folder() -> Path:
    """Each tracking store is told for itself, by whoever: once connected, MLflow's URI has no password."""
    uri = without_password(tracking_uri()).replace("//***@", "//")
    store = sha256(uri.encode()).hexdigest()[:12]
    return main_root() / ".dvc" / "tmp" / "petseg-outbox" / store
