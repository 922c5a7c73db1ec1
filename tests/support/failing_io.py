"""Programs of petseg in which one call to the disk fails, and the folders that they leave.

tests/faults/failing_io.c makes the call fail; tests/faults/failing_at.py forks the programs.
"""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from petseg.core.files import sha256_file
from tests.support import ROOT
from tests.support.project import Project

KINDS = ("open", "read", "write", "fsync", "rename", "link", "unlink", "mkdir")  # as in failing_io.c
HUNG = -9  # the exit code of a program that was killed because it did not end
_SOURCE = ROOT / "tests/faults/failing_io.c"
_PROGRAM = ROOT / "tests/faults/failing_at.py"
_AT_MOST_S = 60


def build_library(folder: Path) -> Path | None:
    """Compile the library that is loaded before libc. Return None without a compiler, or without Linux."""
    library = folder / "failing_io.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        return None
    options = ("-std=gnu11", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *options, "-o", library, _SOURCE, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Call:
    """A call to the disk.

    Attributes:
        kind: one of KINDS.
        name: of the function.
        writes: whether the call writes, or opens a file for writing.
        path: of the file or folder; the new path of a rename.
    """

    kind: str
    name: str
    writes: bool
    path: str

    @classmethod
    def read(cls, line: str) -> "Call":
        """Parse one line of a report."""
        kind, name, writes, path = line.split("\t")
        return cls(kind, name, writes == "1", path)


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, its output, and the calls that the library reported."""

    code: int
    stdout: str
    stderr: str
    calls: list[Call]


class Program:
    """A stage or the command, imported once and forked for each run. ``imported`` makes it."""

    def __init__(self, process: "subprocess.Popen[str]", files: Path) -> None:
        self._process, self._files = process, files

    def run(
        self, argv: list[str], watched: Path, kind: str | None = None, nth: int = 0, error: int = 0
    ) -> Ended:
        """Run the program.

        Args:
            argv: the arguments of the program, its name first.
            watched: a folder; only calls below it count.
            kind: the kind of calls that count; None for all kinds.
            nth: the number of the call that fails; with 0 none fails, and all are reported.
            error: the errno of the failing call.
        """
        for name in ("stdout", "stderr", "report"):
            (self._files / name).write_text("")
        request = {name: str(self._files / name) for name in ("stdout", "stderr", "report")} | {
            "argv": argv,
            "watched": str(watched),
            "kind": KINDS.index(kind) if kind else -1,
            "nth": nth,
            "error": error,
            "timeout_s": _AT_MOST_S,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        stdout, stderr, report = (
            (self._files / name).read_text(errors="replace") for name in ("stdout", "stderr", "report")
        )
        return Ended(code, stdout, stderr, [Call.read(line) for line in report.splitlines()])


@contextmanager
def imported(project: Project, files: Path, function: str, *modules: str) -> Iterator[Program]:
    """Import a program of a project.

    Args:
        project: its ``forks`` must have been started with the library before libc.
        files: a folder for the output of the program; it is not watched.
        function: of a stage or a command, with its module.
        modules: that the program imports late.
    """
    files.mkdir()
    with (
        (files / "log").open("w") as log,
        subprocess.Popen(
            ["python", _PROGRAM, function, *modules],
            cwd=project.folder,
            env=project.environment(project.forks) | {"PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n", (files / "log").read_text()
        yield Program(process, files)
        process.stdin.close()


Signature = tuple[int, ...]
_OTHERS = {".git", "__pycache__"}  # kept by git and Python for themselves


class Folder:
    """A folder that can be brought back to one of several states.

    Args:
        path: of the folder.
        states: a folder that keeps the states.
    """

    def __init__(self, path: Path, states: Path) -> None:
        self.path, self._states = path, states
        self._state = states
        self._restored: dict[str, Signature] = {}

    def keep(self, state: str) -> None:
        """Keep the present content as a state."""
        shutil.copytree(self.path, self._states / state, symlinks=True)

    def restore(self, state: str) -> None:
        """Bring the folder back to a state."""
        self._state = self._states / state
        kept, present = _signatures(self._state), _signatures(self.path)
        wrong = {
            name
            for name, signature in present.items()
            if signature[:3] != kept.get(name, ())[:3] or signature != self._restored.get(name)
        }
        for name in sorted(wrong, reverse=True):  # the content of a folder before the folder itself
            path = self.path / name
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif name not in kept:
                path.rmdir()
        for name in sorted(kept.keys() - (present.keys() - wrong)):
            source, target = self._state / name, self.path / name
            if source.is_dir() and not source.is_symlink():
                target.mkdir(exist_ok=True)
                target.chmod(source.stat().st_mode)
            else:
                shutil.copy2(source, target, follow_symlinks=False)
        self._restored = _signatures(self.path)

    def changes(self) -> dict[str, str]:
        """Return what differs from the state, by path: ``gone``, ``folder``, or a file's mode and hash."""
        present = _signatures(self.path)
        touched = {name for name, signature in present.items() if self._restored.get(name) != signature}
        changed = dict.fromkeys(self._restored.keys() - present.keys(), "gone")
        for name in touched:
            before = _content(self._state / name) if name in self._restored else None
            if (now := _content(self.path / name)) != before:
                changed[name] = now
        return dict(sorted(changed.items()))


def _signatures(folder: Path) -> dict[str, Signature]:
    """Return what a write changes of each entry below a folder; of a folder only its mode."""
    found: dict[str, Signature] = {}
    pending = [str(folder)]
    start = len(str(folder)) + 1
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name in _OTHERS:
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    found[entry.path[start:]] = (info.st_mode,)
                    pending.append(entry.path)
                else:
                    found[entry.path[start:]] = (
                        info.st_mode,
                        info.st_size,
                        info.st_mtime_ns,
                        info.st_ctime_ns,
                    )
    return found


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    return f"{stat.S_IMODE(path.stat().st_mode):o} {sha256_file(path)}"
