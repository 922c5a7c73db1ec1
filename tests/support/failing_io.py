"""Programs of petseg with one call to the disk that fails, and the folders that they leave.

tests/faults/failing_io.c lets the call fail, tests/faults/failing_at.py forks the programs.
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
HUNG = -9  # the exit code of a program that was killed since it did not end
_SOURCE = ROOT / "tests/faults/failing_io.c"
_PROGRAM = ROOT / "tests/faults/failing_at.py"
_AT_MOST_S = 60


def built(folder: Path) -> Path | None:
    """Compile the library that is put before libc; None where there is no compiler, or no Linux."""
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
        writes: whether it, or the file that it opens, changes something.
        path: of the file or folder; of a renaming the new one.
    """

    kind: str
    name: str
    writes: bool
    path: str

    @classmethod
    def read(cls, line: str) -> "Call":
        """Read a line of a report."""
        kind, name, writes, path = line.split("\t")
        return cls(kind, name, writes == "1", path)


@dataclass(frozen=True)
class Ended:
    """How a program has ended: its exit code, what it printed, and the calls that were reported."""

    code: int
    stdout: str
    stderr: str
    calls: list[Call]


class Program:
    """A stage, or the command, that is imported once and forked for each run.

    Made by ``imported``.
    """

    def __init__(self, process: "subprocess.Popen[str]", files: Path) -> None:
        self._process, self._files = process, files

    def run(
        self, argv: list[str], watched: Path, kind: str | None = None, nth: int = 0, error: int = 0
    ) -> Ended:
        """Run it.

        Args:
            argv: of the program, its name first.
            watched: folder; only calls below it count.
            kind: of the calls that count; None for all.
            nth: which of them fails; at 0 none does, and all are reported.
            error: the errno that it fails with.
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
        project: started with ``forks`` before which the library stands.
        files: a folder for what the program prints; it is not watched.
        function: its name, and its module's, of a stage or a command.
        modules: what it imports late.
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
_OTHERS = {".git", "__pycache__"}  # what git and Python keep for themselves


class Folder:
    """A folder that is brought back to one of several states.

    Args:
        path: of the folder.
        states: where the states are kept.
    """

    def __init__(self, path: Path, states: Path) -> None:
        self.path, self._states = path, states
        self._state = states
        self._restored: dict[str, Signature] = {}

    def keep(self, state: str) -> None:
        """Keep what is there now as a state."""
        shutil.copytree(self.path, self._states / state, symlinks=True)

    def restore(self, state: str) -> None:
        """Bring the folder back to a state."""
        self._state = self._states / state
        kept, present = _seen(self._state), _seen(self.path)
        wrong = {
            name
            for name, of in present.items()
            if of[:3] != kept.get(name, ())[:3] or of != self._restored.get(name)
        }
        for name in sorted(wrong, reverse=True):  # what lies in a folder before the folder
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
        self._restored = _seen(self.path)

    def changes(self) -> dict[str, str]:
        """Return what differs from the state, by path: ``gone``, ``folder``, or a file's mode and hash."""
        present = _seen(self.path)
        touched = {name for name, of in present.items() if self._restored.get(name) != of}
        changed = dict.fromkeys(self._restored.keys() - present.keys(), "gone")
        for name in touched:
            before = _content(self._state / name) if name in self._restored else None
            if (now := _content(self.path / name)) != before:
                changed[name] = now
        return dict(sorted(changed.items()))


def _seen(folder: Path) -> dict[str, Signature]:
    """Return, of all below a folder, what differs where it was written to; of folders only the mode."""
    found: dict[str, Signature] = {}
    pending = [str(folder)]
    start = len(str(folder)) + 1
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name in _OTHERS:
                    continue
                of = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(of.st_mode):
                    found[entry.path[start:]] = (of.st_mode,)
                    pending.append(entry.path)
                else:
                    found[entry.path[start:]] = (of.st_mode, of.st_size, of.st_mtime_ns, of.st_ctime_ns)
    return found


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    return f"{stat.S_IMODE(path.stat().st_mode):o} {sha256_file(path)}"
