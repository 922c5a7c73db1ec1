"""Runs a parser on mutated samples, in a process whose memory is limited, and says what came of it."""

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
LIMIT_MB = 3000  # of memory that a parser may reserve above what its process began with


@dataclass(frozen=True)
class Parser:
    """What is fed.

    Attributes:
        make: gives an input, the same for the same state of the random numbers.
        parse: reads it; anything but the errors of petseg that are one line each is a find.
    """

    make: Callable[[Random], bytes]
    parse: Callable[[bytes], object]


Prepare = Callable[[Path], Parser]  # makes one in an empty folder that is its own


@dataclass
class Find:
    """An input that a parser does not bear."""

    kind: str
    number: int
    text: str
    data: bytes = b""


@dataclass
class Outcome:
    """What came of a parser's inputs.

    Attributes:
        tried: how many inputs.
        refused: how many were refused in one line.
        peak_mb: the most memory that its process held; start_mb: what it held before the first input.
        finds: in their order.
    """

    tried: int = 0
    refused: int = 0
    start_mb: int = 0
    peak_mb: int = 0
    finds: list[Find] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(find.kind == kind for find in self.finds)


def fuzzed(name: str, prepare: Prepare, inputs: int, seed: int, limit_s: float = LIMIT_S) -> Outcome:
    """Feed a parser; a process that hangs or dies is replaced, and goes on with the next input.

    Args:
        name: of the parser, which its inputs depend on.
        prepare: can be imported by its name, as another process calls it.
        inputs: how many.
        seed: of the inputs.
        limit_s: after which an input counts as a hang.
    """
    outcome = Outcome()
    while outcome.tried < inputs:
        with tempfile.TemporaryDirectory(prefix="petseg-fuzz-") as folder:
            _fed(outcome, (name, prepare, inputs, seed, Path(folder)), limit_s)
    return outcome


def _fed(outcome: Outcome, work: tuple[str, Prepare, int, int, Path], limit_s: float) -> None:
    """Feed inputs to one process until they end, or it does."""
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
    """Feed inputs in this process, and say of each what came of it."""
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
    except Exception:  # noqa: BLE001  (a mistake of the harness, which its caller is to see)
        pipe.send(("broken", traceback.format_exc()))
    else:
        pipe.send("done")


def _parsed(parser: Parser, number: int, data: bytes) -> tuple[bool, Find | None]:
    """Parse one input; return whether it was refused, and what is wrong with how."""
    try:
        parser.parse(data)
    except (PetsegError, BadImage) as error:
        if isinstance(error, PetsegError) and len(str(error)) > 20_000:
            return True, Find("long message", number, f"{type(error).__name__}: {str(error)[:200]}", data)
        return True, None
    except OSError as error:
        if error.errno is not None:  # of the system: a command shows it as one line
            return True, None
        return False, Find("traceback", number, _where(error), data)
    except BaseException as error:  # noqa: BLE001  (that is what is looked for)
        return False, Find("traceback", number, _where(error), data)
    return False, None


def _where(error: BaseException) -> str:
    """Return an error with the last lines of the project that it came through."""
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
    """Yield the lines of a table in Markdown."""
    yield "| parser | inputs | refused | tracebacks | hangs over 10 s | crashes | peak MB | MB at start |"
    yield "|---" * 8 + "|"
    for name, outcome in outcomes.items():
        counts = (outcome.count(kind) for kind in ("traceback", "hang", "crash"))
        cells = (outcome.tried, outcome.refused, *counts, outcome.peak_mb, outcome.start_mb)
        yield f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} |"


def kept(outcome: Outcome, name: str, folder: Path) -> list[str]:
    """Write an input of each kind of find into a folder, and return a line for each kind."""
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
