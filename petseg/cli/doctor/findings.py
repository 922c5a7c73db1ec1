"""Runs checks side by side, and makes a finding of a check that fails or hangs."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Literal

from petseg.errors import PetsegError

State = Literal["ok", "warning", "problem"]
TIME_S = 20  # for all checks together; a server that does not answer must not hold up the others


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's report.

    Attributes:
        name: what was checked.
        state: whether it is as it should be; a problem keeps something from working.
        words: what was found, and what to do if that is not right.
    """

    name: str
    state: State
    words: str


Check = Callable[[Path], Iterator[Finding]]


@dataclass
class _RunningCheck:
    """A check that runs in a daemon thread, so that the program can end before it does."""

    name: str
    thread: Thread
    found: list[Finding] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, check: Check, root: Path) -> "_RunningCheck":
        def run() -> None:
            try:
                running.found.extend(check(root))
            except PetsegError as error:
                running.found += [Finding(name, "problem", line) for line in error.lines]
            except Exception as error:  # noqa: BLE001  (whatever is broken, the other checks go on)
                words = f"can't be checked: {type(error).__name__}: {' '.join(str(error).split()):.200}"
                running.found.append(Finding(name, "problem", words))

        running = cls(name, Thread(target=run, daemon=True))
        running.thread.start()
        return running


def run_checks(checks: Mapping[str, Check], root: Path) -> list[Finding]:
    """Run all checks at the same time.

    Args:
        checks: the checks, by the name of what they check.
        root: the root of the main repository, which is also the working folder.
    """
    until = time.monotonic() + TIME_S
    findings = []
    for running in [_RunningCheck.start(name, check, root) for name, check in checks.items()]:
        running.thread.join(max(0, until - time.monotonic()))
        findings += running.found
        if running.thread.is_alive():
            findings.append(Finding(running.name, "warning", f"does not end within {TIME_S} s"))
    return findings
