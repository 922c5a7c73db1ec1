"""What is still to be logged in MLflow: an entry for each run, and for each stage before training.

A process that logs a run locks the run's entry, and removes it once everything is logged. The system releases
the lock however the process ends. So an entry that no process holds belongs to one that was killed, or that
did not reach MLflow. The next ``petseg runs sync`` logs it; stages start that command when they end.

An entry holds what the store of runs does not have. For a stage before training, that is everything. For a
run, it is the uid, by which the row of a killed and pruned run is closed, and a failed training's status.
"""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, cast

from annotated_types import Len
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

import petseg
from petseg.core.checked import MOST_BYTES, checked, parsed, read_bounded
from petseg.core.files import listed
from petseg.core.locks import Held, held
from petseg.core.project import main_root, now, tracking_uri
from petseg.core.terminal import print_lines
from petseg.core.urls import without_secrets
from petseg.errors import BrokenRecord

_DATA = "data-"  # how the entry of a stage before training begins; a run's entry is named by its key
_SLOW_S, _AT_MOST_S = 30, 300  # how long a stage waits at its end: until a message, and at most


@dataclass
class DataRecord:
    """Everything that is logged of a stage before training.

    Attributes:
        stage: the stage's name.
        params: the params that it read, flat.
        tags: other facts.
        metrics: numbers.
        datasets: the data sets that it read or made: name, sha256, origin.
        texts: the content of files to log, by their path among the artifacts.
        started, ended: UTC, ISO 8601; ended is empty while the stage runs.
        status: FINISHED, FAILED or KILLED.
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


class _DataEntry(TypedDict):
    """A DataRecord in JSON."""

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]  # noqa: RUF012
    stage: str
    params: dict[str, Any]
    tags: dict[str, Any]
    metrics: dict[str, float | None]
    datasets: list[Annotated[list[str], Len(3, 3)]]
    texts: dict[str, str]
    started: str
    ended: str
    status: str


class _RunEntry(TypedDict):
    """What an entry holds of a run, besides what the store has."""

    uid: str
    status: NotRequired[str]
    ended: NotRequired[str]


@dataclass
class Entry:
    """An entry of the outbox that this process holds.

    Attributes:
        path: its file.
        logged: whether MLflow has everything; until then the entry stays.
    """

    path: Path
    logged: bool = False

    def read(self) -> dict[str, Any]:
        """Return the entry's content; empty if it is new, or if its process was killed while writing.

        Raises:
            BrokenRecord: the content does not have the form of an entry.
        """
        text = read_bounded(self.path, MOST_BYTES)
        try:
            content = parsed(text, self.path, nan=True)
        except BrokenRecord:
            return {}
        form: Any = _DataEntry if is_data_stage(self.path.name) else _RunEntry
        return cast("dict[str, Any]", checked(content, form, self.path))

    def write(self, content: Mapping[str, object]) -> None:
        """Write what another process needs to log the entry, if this one does not."""
        self.path.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def lock_entry(name: str, wait: bool = True) -> Iterator[Entry]:
    """Lock an entry for this process; it is created if needed.

    Args:
        name: a run's key, or a name from ``left_over``.
        wait: whether to wait for another process that holds the entry.

    Raises:
        Held: another process holds the entry, and ``wait`` is false.
    """
    path = _folder() / name
    waiting = threading.Timer(1, print_lines, ["waiting for another process that logs this run in MLflow"])
    with ExitStack() as stack:
        stack.callback(waiting.cancel)
        if wait:
            waiting.start()
        stack.enter_context(held(_lock_of(path), wait))
        waiting.cancel()
        path.touch()
        entry = Entry(path)
        try:
            yield entry
        finally:
            if entry.logged:
                path.unlink(missing_ok=True)
                _lock_of(path).unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def left_over() -> list[str]:
    """Return the names of the entries that no process holds."""
    found = []
    for path in listed(_folder(), "[!.]*"):
        try:
            with held(_lock_of(path), wait=False):
                if path.exists():
                    found.append(path.name)
                else:  # another process has finished it meanwhile
                    _lock_of(path).unlink()
        except Held:
            continue
    return found


@contextmanager
def recorded(stage: str, params: dict[str, object]) -> Iterator[DataRecord]:
    """Yield a record for a stage before training to fill in, and log it however the stage ends."""
    record = DataRecord(stage, params)
    try:
        yield record
    except BaseException as error:
        record.status = status_of(error)
        raise
    finally:
        record.ended = now()
        with lock_entry(f"{_DATA}{uuid.uuid4().hex}") as entry:
            entry.write(asdict(record))
        flush_outbox()


def is_data_stage(name: str) -> bool:
    """Return whether an entry is of a stage before training, and not of a run."""
    return name.startswith(_DATA)


def status_of(error: BaseException) -> str:
    """Return MLflow's status of a run that ended with an exception."""
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"


def flush_outbox(besides: str = "") -> bool:
    """Log in MLflow what is still to be logged, in another process; return whether MLflow answered.

    So a stage that does not need MLflow itself does not import it, and does not run again because the code
    that logs was edited. If MLflow does not answer, that process prints a warning, and the stage goes on.

    Args:
        besides: the entry that the caller logs by itself; this entry alone does not start a process.
    """
    if {*left_over()} <= {besides}:
        return True
    package = str(Path(petseg.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "petseg", "runs", "sync", "--quiet"]
    waiting = threading.Timer(_SLOW_S, print_lines, [f"MLflow is slow; it has {_AT_MOST_S} s at most"])
    waiting.start()
    try:
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, check=False, timeout=_AT_MOST_S)
    except subprocess.TimeoutExpired:
        print_lines(
            f"warning: not everything was logged in MLflow in {_AT_MOST_S} s; the record is in runs/, and "
            "`petseg runs sync` logs the rest",
            err=True,
        )
        return False
    finally:
        waiting.cancel()
    return done.returncode == 0


def _folder() -> Path:
    """Return the folder of the tracking store's entries.

    Each tracking store has its own. User and password are left out of its URI, because MLflow's URI has none
    once it is connected.
    """
    uri = without_secrets(tracking_uri()).replace("//***@", "//")
    store = sha256(uri.encode()).hexdigest()[:12]
    return main_root() / ".dvc" / "tmp" / "petseg-outbox" / store
