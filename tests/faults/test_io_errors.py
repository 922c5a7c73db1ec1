"""Calls to the disk that fail, one at a time, in commands and stages: faults 46 and 60.

A call counts if its path is below the folder that holds the project, the photos and the output, and if it
comes after the imports. After each failure there is the old state or the new one and nothing else, and the
same command succeeds when it is run again.

In `make test`, a few calls of each kind fail. In `make test-all`, every call of the commands that take less
than a second fails, and more calls of the others. With EVERY_CALL=1 in the environment, every call fails;
that takes hours.
"""

import errno
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import safetensors.torch

from petseg.core.project import now
from petseg.models.weights import load_tensors
from petseg.store.ledger import changing
from tests.support import ROOT, forked
from tests.support.failing_io import HUNG, KINDS, Call, Ended, Folder, Program, build_library, imported
from tests.support.pets import sample_photos
from tests.support.project import FEW, TINY, Project

SOME, SOME_OF_SLOW = 3, 2  # calls of each kind that fail in `make test`: of quick commands, of slow ones
FIRST = 14  # of the calls that Command.above_all names
SPREAD = 12  # calls of each kind that fail in `make test-all`, of slow commands
STAGES = ("train", "infer", "plot")
TWO_EPOCHS = {
    "epochs: 50": "epochs: 2",
    "evolution_epochs: [1, 2, 5, 10, 20, 35, 50]": "evolution_epochs: [1, 2]",
}
MODULES = sorted(  # of the command, which imports many of them late
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "petseg").rglob("*.py")
    if file.stem not in ("__main__", "pyfunc")
)
BEFORE_FINISH = ("petseg.store.writer", "Run.finish", "before", "1")  # where killed_at.py kills a training
LATE_IN_STAGES = ("petseg.tracking.registry", "petseg.tracking.rows", "petseg.tracking.view")

_CHANGING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS)
_READING = (errno.EIO, errno.EACCES)
ERRORS = {  # the errors that each kind of call can have
    "open": _CHANGING,
    "read": _READING[:1],
    "write": _CHANGING[:3],
    "fsync": _CHANGING[:3],
    "rename": _CHANGING,
    "link": _CHANGING,
    "unlink": _CHANGING[2:],
    "mkdir": _CHANGING,
}

# The files of MLflow, which may know more or less after a fault, and the entries that are still to be logged.
MLFLOWS = re.compile(r"project/(mlflow\.db|mlartifacts(/|$)|\.dvc/tmp(/|$))")
MARKER = re.compile(r"/runs/store\.json$")
PRUNED = re.compile(r"\.pruned\.tmp(/|$)")
GOES_LATER = "goes with the next change"
LOCK = re.compile(r"(^|/)\.[^/]*lock$")  # never removed, because two processes could then hold it
CHECKPOINT = re.compile(r"/runs/[0-9a-f]{16}/checkpoints(/epoch-\d+\.safetensors)?$")
DRAFT = re.compile(r"\.tmp(/|$)|\.damaged")
STOPS_NOTHING = re.compile(r"(petseg( \w+)?: )?(warning|note): | *predict: \d+ of \d+")
BLAMES = re.compile(r"\b(is damaged|is gone|differs from|is no run)\b")


@dataclass(frozen=True)
class Command:
    """A command or a stage, and how it is judged.

    Attributes:
        argv: the command line; Machine.words replaces each {word}.
        state: of the folder in which it starts.
        again: the command line for the run after a failure, if it is another one.
        whole: whether it does all or nothing; if not, it may leave some of its files.
        slow: whether it takes seconds, so that only some of its calls are tried.
        above_all: a part of paths; the first calls on such paths are tried in any case.
    """

    argv: str
    state: str = "stored"
    again: str = ""
    whole: bool = True
    slow: bool = False
    above_all: str = ""


COMMANDS = {
    "adopt": Command("petseg runs adopt {base}/given/network.safetensors"),
    "promote": Command("petseg runs promote {better}"),
    "prune": Command("petseg runs prune --yes {adopted}"),
    "restore": Command("petseg runs restore {earlier}"),
    "export": Command("petseg runs export {better} --onnx {base}/out/pets.onnx", slow=True),
    "predict": Command(
        "petseg predict {base}/given --out {base}/out --csv {base}/out/pets.csv --batch-size 1",
        again="petseg predict {base}/given --out {base}/out --csv {base}/out/pets.csv --resume",
        whole=False,
    ),
    "train": Command("train", "prepared", whole=False, slow=True),
    "train, gone on with": Command("train", "begun", whole=False, slow=True, above_all="/checkpoints/"),
    "infer": Command("infer", "trained", whole=False, slow=True),
    "plot": Command("plot", "inferred", whole=False, slow=True),
    "runs sync": Command("petseg runs sync --all", "unlogged", whole=False, slow=True),
}


class Machine:
    """A project with several runs, in which a chosen call to the disk fails."""

    def __init__(self, base: Path, forks: Path, mlflow_database: Path, stack: ExitStack) -> None:
        self.base = base / "base"
        self.project = Project(self.base / "project", TINY | FEW | TWO_EPOCHS, forks)
        self.folder = Folder(self.base, base / "states")
        shutil.copy(mlflow_database, self.project.folder / "mlflow.db")
        (self.base / "given").mkdir()
        (self.base / "out").mkdir()
        for number, photo in enumerate(sample_photos(2)):
            (self.base / f"given/pet{number}.jpg").write_bytes(photo)
        self.words = {"base": str(self.base)}
        self._make_states(mlflow_database)
        self._programs: dict[str, Program] = {}
        self._stack, self._files = stack, base

    def _make_states(self, mlflow_database: Path) -> None:
        project, keep = self.project, self.folder.keep
        project.run("dvc", "repro", "encoder", "preprocess")
        with changing(project.folder / "runs"):  # begins the ledger here, because its name is random
            pass
        keep("prepared")
        killed_at = str(Path(__file__).with_name("killed_at.py"))
        project.run("python", killed_at, *BEFORE_FINISH, *project.train_command[2:], fails=True)
        keep("begun")
        for stage, state in (("train", "trained"), ("infer", "inferred")):
            project.run(*project.command(stage))
            keep(state)
        (earlier,) = project.manifests()
        project.edit("params.yaml", {"learning_rate: 5.0e-2": "learning_rate: 2.0e-2"})
        project.run(*project.train_command)
        project.run(*project.command("infer"))
        dice = {key: run["best"]["val_dice"] for key, run in project.manifests().items()}
        worse, better = sorted(dice, key=lambda key: dice[key])
        project.run("python", "-m", "petseg", "runs", "promote", worse)
        tensors, _ = load_tensors(project.folder / "models/model.safetensors")
        for name, change in (("earlier", 1), ("network", 2)):
            changed = {key: tensor + change for key, tensor in tensors.items()}
            safetensors.torch.save_file(changed, self.base / f"given/{name}.safetensors")
        project.run("python", "-m", "petseg", "runs", "adopt", str(self.base / "given/earlier.safetensors"))
        (adopted,) = project.manifests().keys() - dice
        self.words |= {"earlier": earlier, "worse": worse, "better": better, "adopted": adopted}
        keep("stored")
        shutil.copy(mlflow_database, project.folder / "mlflow.db")
        shutil.rmtree(project.folder / "mlartifacts")
        keep("unlogged")

    def program(self, name: str) -> Program:
        """Import a stage or the command once, and return it."""
        if name not in self._programs:
            stage = name in STAGES
            function, late = (
                (f"stages.{name}.{name}", LATE_IN_STAGES) if stage else ("petseg.cli.main", MODULES)
            )
            files = self._files / f"printed-{name}"
            self._programs[name] = self._stack.enter_context(imported(self.project, files, function, *late))
        return self._programs[name]

    def run(self, argv: str, kind: str | None = None, nth: int = 0, error: int = 0) -> Ended:
        """Run a command or a stage. The nth call of a kind fails; with 0 none does."""
        words = [word.format(**self.words) for word in argv.split()]
        if words[0] in STAGES:
            words = self.project.command(words[0])[2:]
        name = words[0].removeprefix("stages.")
        return self.program(name).run(words, self.base, kind, nth, error)


@dataclass(frozen=True)
class Undisturbed:
    """The calls and the changes of a command in which no call fails.

    Attributes:
        calls: in their order.
        changes: as returned by Folder.changes, without those of MLflow.
        unequal: the paths whose content differs from run to run.
    """

    calls: list[Call]
    changes: dict[str, str]
    unequal: set[str]

    @classmethod
    def of(cls, machine: Machine, command: Command) -> "Undisturbed":
        """Run the command twice."""
        changes: list[dict[str, str]] = []
        for _ in range(2):
            machine.folder.restore(command.state)
            ended = machine.run(command.argv)
            assert ended.code == 0, ended
            changes.append(own(machine.folder.changes()))
            started = now()
            while now() == started:  # so that files that hold the time differ
                time.sleep(0.05)
        assert changes[0].keys() == changes[1].keys()
        unequal = {path for path, content in changes[0].items() if changes[1][path] != content}
        assert machine.run("petseg runs verify").code == 0
        return cls(ended.calls, changes[0], unequal)

    def is_whole(self, changes: dict[str, str]) -> bool:
        """Tell whether these are all the changes of the command."""
        return changes.keys() == self.changes.keys() and all(
            path in self.unequal or content == self.changes[path] for path, content in changes.items()
        )


def own(changes: dict[str, str]) -> dict[str, str]:
    """Leave out MLflow's files, locks, and the store's marker, which may lag behind the ledger."""
    others = (MLFLOWS, LOCK, MARKER)
    return {
        path: content for path, content in changes.items() if not any(each.search(path) for each in others)
    }


@dataclass(frozen=True)
class Failing:
    """The call that fails, its number among the calls of its kind, and its errno."""

    call: Call
    nth: int
    error: int

    def __str__(self) -> str:
        return (
            f"{self.call.kind} {self.nth}: {self.call.name} {self.call.path}: {errno.errorcode[self.error]}"
        )


def failings(calls: Sequence[Call]) -> list[Failing]:
    """Return a failure for each call. Its kind's errors take turns."""
    seen: Counter[str] = Counter()
    found = []
    for call in calls:
        seen[call.kind] += 1
        errors = ERRORS[call.kind] if call.writes else _READING[: len(ERRORS[call.kind])]
        found.append(Failing(call, seen[call.kind], errors[seen[call.kind] % len(errors)]))
    return found


def spread(found: Sequence[Failing], at_most: int) -> list[Failing]:
    """Choose some failures of each kind, evenly spread, with the first and the last."""
    chosen = []
    for kind in KINDS:
        some = [each for each in found if each.call.kind == kind]
        places = {round(i * (len(some) - 1) / (at_most - 1)) for i in range(at_most)} if some else set()
        chosen += [some[place] for place in sorted(places)]
    return chosen


def first_and_last(found: Sequence[Failing]) -> list[Failing]:
    """Keep only the first and the last of consecutive calls of the same function on the same file."""
    rows = (list(row) for _, row in groupby(found, lambda each: (each.call.name, each.call.path)))
    return [each for row in rows for each in (row[:1] + row[1:][-1:])]


class Judge:
    """Compares what a command did when a call failed with what it does otherwise."""

    def __init__(self, machine: Machine, command: Command, undisturbed: Undisturbed) -> None:
        self.machine, self.command, self.undisturbed = machine, command, undisturbed
        self._followed: dict[tuple[frozenset[tuple[str, str]], bool], list[str]] = {}

    def complaints(self, failing: Failing) -> list[str] | None:
        """Make a call fail, and return what is wrong then, or None if the program did not make the call."""
        machine = self.machine
        machine.folder.restore(self.command.state)
        ended = machine.run(self.command.argv, failing.call.kind, failing.nth, failing.error)
        if not ended.calls:
            return None
        all_changes = machine.folder.changes()
        later = GOES_LATER in ended.stderr  # the command names what is left of a pruned run
        left = {path: content for path, content in all_changes.items() if not (later and PRUNED.search(path))}
        changes = own(left)
        found = [*self._wrong_lines(ended, Failing(ended.calls[0], failing.nth, failing.error))]
        found += self._wrong_files(ended, left, changes)
        whole = ended.code == 0 or self.undisturbed.is_whole(changes)
        found += self._wrong_afterwards(all_changes, done=whole)
        return [f"{text}\n{_last_lines(ended)}" for text in found]

    def _wrong_lines(self, ended: Ended, failing: Failing) -> Iterator[str]:
        """Yield what is wrong with the output."""
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if not STOPS_NOTHING.match(line)]
        if ended.code == HUNG:
            yield "does not end"
        elif "Traceback" in ended.stderr + ended.stdout:
            yield "a traceback"
        elif ended.code != 0:
            if len(errors or lines) != 1:
                yield f"{len(errors or lines)} lines say why it stopped"
            elif not _is_explained_by(failing, (errors or lines)[0]):
                yield "its line does not name the file and the reason"
        if any(BLAMES.search(line) for line in ended.stdout.splitlines() + lines):
            yield "it calls a file damaged that could not be read"

    def _wrong_files(
        self, ended: Ended, all_changes: dict[str, str], changes: dict[str, str]
    ) -> Iterator[str]:
        """Yield what is wrong with the files that it left."""
        usual = self.undisturbed.changes
        if drafts := [
            path for path, content in all_changes.items() if DRAFT.search(path) and content != "gone"
        ]:
            yield f"a leftover: {' '.join(drafts)}"
        odd = {path: content for path, content in changes.items() if path not in usual and path not in drafts}
        if ended.code != 0 and not self.command.whole:  # a training is resumed from its checkpoints
            odd = {path: content for path, content in odd.items() if not CHECKPOINT.search(path)}
        if odd:
            yield f"it changed files that it otherwise does not change: {odd}"
        elif ended.code == 0 and not self.undisturbed.is_whole(changes):
            differing = {
                path for path in usual if changes.get(path) != usual[path]
            } - self.undisturbed.unequal
            yield f"it reports success, but these files are wrong: {sorted(differing)}"
        elif self.command.whole and changes and not drafts and not self.undisturbed.is_whole(changes):
            yield f"neither the old state nor the new: {changes}"

    def _wrong_afterwards(self, all_changes: dict[str, str], done: bool) -> list[str]:
        """Return what is wrong with the store and with a second run, computed once for each state."""
        left = frozenset((path, content) for path, content in all_changes.items() if not LOCK.search(path))
        state = (left, done)
        if state not in self._followed:
            found = []
            if left and (verified := self.machine.run("petseg runs verify")).code != 0:
                found.append(f"runs verify: {(verified.stdout + verified.stderr).strip()}")
            if all_changes and not done:
                found += self._wrong_in_second_run()
            self._followed[state] = found
        return self._followed[state]

    def _wrong_in_second_run(self) -> Iterator[str]:
        """Yield what is wrong with a second run, in which no call fails."""
        again = self.machine.run(self.command.again or self.command.argv)
        changes = own(self.machine.folder.changes())
        if again.code != 0:
            yield f"it can't be run again: {(again.stdout + again.stderr)[-400:].strip()}"
        elif changes.keys() != self.undisturbed.changes.keys():
            wrong = sorted(changes.keys() ^ self.undisturbed.changes.keys())
            yield f"it was run again, and these files are wrong: {wrong}"


def _is_explained_by(failing: Failing, line: str) -> bool:
    """Tell whether a line names the file and the reason. For MLflow's files, the word MLflow is enough."""
    path = Path(failing.call.path)
    name = re.sub(r"^\.(.*?)(\.\d+)?\.tmp$", r"\1", path.name)
    if MLFLOWS.search(failing.call.path) and "MLflow" in line:
        return True
    reasons = [os.strerror(failing.error)]
    reasons += ["disk full"] if failing.error in (errno.ENOSPC, errno.EDQUOT) else []
    return any(reason in line for reason in reasons) and any(
        part in line for part in (name, str(path.parent))
    )


def _last_lines(ended: Ended) -> str:
    frames = re.findall(r'File "\S*/((?:petseg|stages)/\S+)", line (\d+)', ended.stderr)
    where = " < ".join(f"{file}:{line}" for file, line in reversed(frames[-3:]))
    lines = [f"exit code {ended.code} {where}", *ended.stderr.splitlines()[-2:]]
    return "\n".join(f"        {line:.300}" for line in lines)


def judged(
    machine: Machine, name: str, choose: Callable[[Command, list[Failing]], list[Failing]]
) -> tuple[Counter[str], list[str]]:
    """Make the chosen calls of a command fail; return how many of each kind failed, and what was wrong."""
    command = COMMANDS[name]
    judge = Judge(machine, command, Undisturbed.of(machine, command))
    failed: Counter[str] = Counter()
    wrong: list[str] = []
    chosen = choose(command, failings(judge.undisturbed.calls))
    for place, failing in enumerate(chosen, 1):
        complaints = judge.complaints(failing)
        if complaints is not None:
            failed[failing.call.kind] += 1
            if complaints:
                wrong.append(f"{failing}\n    " + "\n    ".join(complaints))
                print(wrong[-1], flush=True)
        if place % 25 == 0 or place == len(chosen):
            print(f"{name}: {place} of {len(chosen)} calls, {len(wrong)} not survived", flush=True)
    return failed, wrong


def some_calls(command: Command, found: list[Failing]) -> list[Failing]:
    """Choose the calls that fail in `make test`."""
    ours = [each for each in found if not _of_mlflow(each)]
    first = [
        each for each in first_and_last(ours) if command.above_all and command.above_all in each.call.path
    ]
    return first[:FIRST] + spread(ours, SOME_OF_SLOW if command.slow else SOME)


def more_calls(command: Command, found: list[Failing]) -> list[Failing]:
    """Choose the calls that fail in `make test-all`."""
    if command.slow and "EVERY_CALL" not in os.environ:
        ours = [each for each in found if not _of_mlflow(each)]
        theirs = [each for each in found if _of_mlflow(each)]
        return (
            some_calls(command, found)
            + spread(first_and_last(ours), SPREAD)
            + spread(first_and_last(theirs), SOME)
        )
    return found


def _of_mlflow(failing: Failing) -> bool:
    return re.search(MLFLOWS.pattern, failing.call.path) is not None


@pytest.fixture(scope="module")
def machine(mlflow_database: Path) -> Iterator[Machine]:
    with ExitStack() as stack:
        memory = Path("/dev/shm")
        short = stack.enter_context(TemporaryDirectory(prefix="petseg-"))
        base = stack.enter_context(
            TemporaryDirectory(prefix="petseg-", dir=memory if memory.is_dir() else None)
        )
        library = build_library(Path(short))
        if library is None:
            pytest.skip("needs Linux and a C compiler")
        forks = stack.enter_context(forked.running(Path(short), {"LD_PRELOAD": str(library)}))
        yield Machine(Path(base).resolve(), forks, mlflow_database, stack)


@pytest.mark.fault(60, "an I/O error at some calls of a command or stage")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if command.slow else [])
        for name, command in COMMANDS.items()
    ],
)
def test_some_failing_calls_are_survived(
    machine: Machine, name: str, record_property: Callable[[str, object], None]
) -> None:
    failed, wrong = judged(machine, name, some_calls)
    record_property("io_errors", [name, dict(failed), len(wrong)])
    assert failed
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.fault(60, "an I/O error at every call of a command, at many of a stage")
@pytest.mark.parametrize("name", COMMANDS)
def test_many_failing_calls_are_survived(
    machine: Machine, name: str, record_property: Callable[[str, object], None]
) -> None:
    failed, wrong = judged(machine, name, more_calls)
    record_property("io_errors", [name, dict(failed), len(wrong)])
    assert failed
    assert not wrong, "\n".join(wrong)
