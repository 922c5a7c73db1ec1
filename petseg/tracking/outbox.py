"""What is still to be logged in MLflow: an entry for each run, and for each stage before training.

Whoever logs something about a run locks its entry, and removes it once everything is logged. The system
releases the lock however the process ends, so an entry that nobody holds is of a process that was killed, or
that did not reach MLflow: the next ``petseg runs sync``, which stages start at their end, goes on with it.

An entry holds what the store of runs does not know: of a stage before training everything; of a run its
uid, by which the row of one that was killed and pruned is closed, and how its training ended, if not well.
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
    """What is to be known of a run besides what the store has."""

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
        """Return its content; empty where it was just made, or its process killed while writing.

        Raises:
            BrokenRecord: it is not what it must be.
        """
        text = read_bounded(self.path, MOST_BYTES)
        try:
            content = parsed(text, self.path, nan=True)
        except BrokenRecord:
            return {}
        form: Any = _DataEntry if is_data_stage(self.path.name) else _RunEntry
        return cast("dict[str, Any]", checked(content, form, self.path))

    def write(self, content: Mapping[str, object]) -> None:
        """Write down what is to be logged if this process does not come to it."""
        self.path.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def lock_entry(name: str, wait: bool = True) -> Iterator[Entry]:
    """Hold an entry for this process alone; it is made where there is none.

    Args:
        name: a run's key, or what ``left_over`` gave.
        wait: for a process that holds it.

    Raises:
        Held: a process holds it, and was not waited for.
    """
    path = _folder() / name
    waiting = threading.Timer(1, print, ["waiting for another process that logs this run in MLflow"])
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
                else:  # another process was through with it meanwhile
                    _lock_of(path).unlink()
        except Held:
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
        with lock_entry(f"{_DATA}{uuid.uuid4().hex}") as entry:
            entry.write(asdict(record))
        flush_outbox()


def is_data_stage(name: str) -> bool:
    """Tell the record of a stage before training from a run's."""
    return name.startswith(_DATA)


def status_of(error: BaseException) -> str:
    """Return how MLflow calls the end that an exception made."""
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"


def flush_outbox(besides: str = "") -> bool:
    """Log in MLflow what is still to be logged, in a process apart; return whether MLflow answered.

    So a stage that has nothing else to do with MLflow need not import it, and does not run again because
    the code that logs was edited. Where MLflow does not answer, that process warns, and fails no stage.

    Args:
        besides: the entry that the caller logs by itself; this entry alone does not start a process.
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
        print_lines(
            f"warning: MLflow was not told everything in {_AT_MOST_S} s; the record is in runs/, and "
            "`petseg runs sync` goes on",
            err=True,
        )
        return False
    finally:
        waiting.cancel()
    return done.returncode == 0


def _folder() -> Path:
    """Each tracking store is told for itself, by whoever: once connected, MLflow's URI has no password."""
    uri = without_secrets(tracking_uri()).replace("//***@", "//")
    store = sha256(uri.encode()).hexdigest()[:12]
    return main_root() / ".dvc" / "tmp" / "petseg-outbox" / store
