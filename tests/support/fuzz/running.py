"""Runs a parser on mutated samples, in a process of limited memory, and reports the outcome."""

import multiprocessing
import os
import resource
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from petseg.errors import BadImage, PetsegError

LIMIT_S = 10.0
LIMIT_MB = 3000  # of memory that a parser may reserve beyond what its process had at the start


@dataclass(frozen=True)
class Parser:
    """A parser and its inputs.

    Attributes:
        make: makes an input; the same random state gives the same input.
        parse: reads an input; any exception but petseg's own errors and system errors is a find.
    """

    make: Callable[[Random], bytes]
    parse: Callable[[bytes], object]


Prepare = Callable[[Path], Parser]  # makes a parser, in an empty folder of its own


@dataclass
class Find:
    """An input that a parser does not handle well."""

    kind: str
    number: int
    text: str
    data: bytes = b""


@dataclass
class Outcome:
    """The outcome of the inputs of a parser.

    Attributes:
        tried: the number of inputs.
        refused: the number of inputs that were refused in one line.
        start_mb: the memory of the process before the first input.
        peak_mb: the most memory that the process held.
        finds: in the order of the inputs.
    """

    tried: int = 0
    refused: int = 0
    start_mb: int = 0
    peak_mb: int = 0
    finds: list[Find] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(find.kind == kind for find in self.finds)


def fuzzed(name: str, prepare: Prepare, inputs: int, seed: int, limit_s: float = LIMIT_S) -> Outcome:
    """Feed a parser. A process that hangs or dies is replaced by one that continues with the next input.

    Args:
        name: of the parser; its inputs depend on it.
        prepare: must be importable by its name, because another process calls it.
        inputs: how many inputs.
        seed: of the inputs.
        limit_s: the time after which an input counts as a hang.
    """
    outcome = Outcome()
    while outcome.tried < inputs:
        with tempfile.TemporaryDirectory(prefix="petseg-fuzz-") as folder:
            _feed_one_process(outcome, (name, prepare, inputs, seed, Path(folder)), limit_s)
    return outcome


def _feed_one_process(outcome: Outcome, work: tuple[str, Prepare, int, int, Path], limit_s: float) -> None:
    """Feed inputs to one process until it has had all of them, hangs or dies."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_feed, args=(there, *work, outcome.tried), daemon=True)
    process.start()
    there.close()
    began, data = False, b""
    try:
        while here.poll(limit_s if began else 300):
            match here.recv():
                case "begun", bytes(data):
                    began = True
                case "ended", bool(refused), Find() | None as find, int(start_mb), int(peak_mb):
                    outcome.tried += 1
                    outcome.refused += refused
                    outcome.finds += [find] if find else []
                    outcome.start_mb, outcome.peak_mb = start_mb, max(outcome.peak_mb, peak_mb)
                case "done":
                    return
                case "broken", str(text):
                    raise RuntimeError(text)
        outcome.finds.append(Find("hang", outcome.tried, f"more than {limit_s:g} s", data))
    except EOFError:
        process.join()
        outcome.finds.append(Find("crash", outcome.tried, f"exit code {process.exitcode}", data))
    finally:
        process.kill()
        process.join()
    outcome.tried += 1


def _feed(
    pipe: Connection, name: str, prepare: Prepare, inputs: int, seed: int, folder: Path, first: int
) -> None:
    """Parse the inputs in this process, and report the outcome of each."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(silent, output)
    os.chdir(folder)
    try:
        parser = prepare(folder)
        start_mb = _memory_mb("VmRSS")
        limit = (_memory_mb("VmSize") + LIMIT_MB) << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(first, inputs):
            data = parser.make(Random(f"{seed} {name} {number}"))
            pipe.send(("begun", data))
            refused, find = _parsed(parser, number, data)
            pipe.send(("ended", refused, find, start_mb, _memory_mb("VmHWM")))
    except Exception:  # noqa: BLE001  (a mistake of the harness, which the parent process raises)
        pipe.send(("broken", traceback.format_exc()))
    else:
        pipe.send("done")


def _parsed(parser: Parser, number: int, data: bytes) -> tuple[bool, Find | None]:
    """Parse one input; return whether it was refused, and the find if there is one."""
    try:
        parser.parse(data)
    except (PetsegError, BadImage) as error:
        if isinstance(error, PetsegError) and len(str(error)) > 20_000:
            return True, Find("long message", number, f"{type(error).__name__}: {str(error)[:200]}", data)
        return True, None
    except OSError as error:
        if error.errno is not None:  # an error of the system, which a command shows as one line
            return True, None
        return False, Find("traceback", number, _where(error), data)
    except BaseException as error:  # noqa: BLE001  (any other exception is a find)
        return False, Find("traceback", number, _where(error), data)
    return False, None


def _where(error: BaseException) -> str:
    """Return an error with the last lines of project code in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "/petseg/" in frame.filename and "site-packages" not in frame.filename
    ]
    shown = [*own[-3:], *frames[-1:]]
    way = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in shown)
    return f"{type(error).__name__} at {way}: {' '.join(str(error).split())[:160]}"


def _memory_mb(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) >> 10


def table(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| parser | inputs | refused | tracebacks | hangs over 10 s | crashes | peak MB | MB at start |"
    yield "|---" * 8 + "|"
    for name, outcome in outcomes.items():
        counts = (outcome.count(kind) for kind in ("traceback", "hang", "crash"))
        cells = (outcome.tried, outcome.refused, *counts, outcome.peak_mb, outcome.start_mb)
        yield f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} |"


def kept(outcome: Outcome, name: str, folder: Path) -> list[str]:
    """Write one input of each kind of find into a folder, and return a line for each kind."""
    lines: dict[str, str] = {}
    for find in outcome.finds:
        kind = f"{find.kind} {find.text.partition(': ')[0]}"
        if kind not in lines:
            file = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}-{find.number}"
            folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(find.data)
            same = sum(f"{each.kind} {each.text.partition(': ')[0]}" == kind for each in outcome.finds)
            lines[kind] = (
                f"{name}, input {find.number}, and {same - 1} more: {find.kind}: {find.text} ({file})"
            )
    return list(lines.values())
