"""Checks, made side by side: what each finds, and what becomes of one that fails or hangs."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Literal

from petseg.errors import PetsegError

State = Literal["ok", "warning", "problem"]
TIME_S = 20  # that all checks have together; a server that does not answer must not hold up the rest


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        name: what was looked at.
        state: whether it is as it should be; a problem keeps something from working.
        words: what there is, and what to do if that is not right.
    """

    name: str
    state: State
    words: str


Check = Callable[[Path], Iterator[Finding]]


@dataclass
class _Looking:
    """A check at work, in a thread that nobody has to wait for."""

    name: str
    thread: Thread
    found: list[Finding] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, check: Check, root: Path) -> "_Looking":
        def look() -> None:
            try:
                looking.found.extend(check(root))
            except PetsegError as error:
                looking.found += [Finding(name, "problem", line) for line in error.lines]
            except Exception as error:  # noqa: BLE001  (whatever is broken, the other checks go on)
                said = f"can't be looked at: {type(error).__name__}: {' '.join(str(error).split()):.200}"
                looking.found.append(Finding(name, "problem", said))

        looking = cls(name, Thread(target=look, daemon=True))
        looking.thread.start()
        return looking


def run_checks(checks: Mapping[str, Check], root: Path) -> list[Finding]:
    """Make every check, all at once.

    Args:
        checks: by the name of what they look at.
        root: of the main repository, which is the working folder too.
    """
    until = time.monotonic() + TIME_S
    findings = []
    for looking in [_Looking.start(name, check, root) for name, check in checks.items()]:
        looking.thread.join(max(0, until - time.monotonic()))
        findings += looking.found
        if looking.thread.is_alive():
            findings.append(Finding(looking.name, "warning", f"says nothing within {TIME_S} s"))
    return findings
