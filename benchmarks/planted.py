"""Do the tests notice a fault in the code: ``python -m benchmarks.planted [NUMBER...]`` prints a table.

It puts each fault into a copy of the project, runs ``make check``, and ``make test`` if that passes, prints
the first test that fails, and removes the fault. Tests that fail after any edit of the code, because the
committed lock is then stale, are left out.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT
from tests.support.project import listed_files

FAIL_AT_ANY_EDIT = ("tests/docs/test_edits.py::test_an_edit_makes_the_listed_stages_stale",)


@dataclass(frozen=True)
class Fault:
    """A text of a file, and a wrong text that replaces it."""

    what: str
    file: str
    right: str
    wrong: str

    @property
    def room(self) -> str:
        return self.file.removeprefix("petseg/").partition("/")[0].removesuffix(".py")

    def plant(self, root: Path) -> None:
        """Put the fault into the code."""
        text = (root / self.file).read_text()
        assert text.count(self.right) == 1, f"{self.file} has {text.count(self.right)} of {self.right!r}"
        (root / self.file).write_text(text.replace(self.right, self.wrong))


FAULTS = (
    Fault(
        "a wrong exit code",
        "petseg/errors.py",
        '"""params.yaml is wrong; the message has one line for each mistake."""\n\n    exit_code = 2',
        '"""params.yaml is wrong; the message has one line for each mistake."""\n\n    exit_code = 1',
    ),
    Fault(
        "a lost fsync",
        "petseg/core/files.py",
        "                if durable:\n                    file.flush()\n"
        "                    os.fsync(file.fileno())\n",
        "                if durable:\n                    file.flush()\n",
    ),
    Fault(
        "a rename is not flushed",
        "petseg/core/files.py",
        "            temporary.replace(path)\n            if durable:\n"
        "                fsync_folder(path.parent)\n",
        "            temporary.replace(path)\n",
    ),
    Fault(
        "a lock is not taken",
        "petseg/core/locks.py",
        "        lock.acquire(timeout=-1 if wait else 0)",
        "        pass",
    ),
    Fault(
        "an interval upside down",
        "petseg/core/formats.py",
        "({low:{sign}.3f} to {high",
        "({high:{sign}.3f} to {low",
    ),
    Fault(
        "a learning rate of 0 is accepted",
        "petseg/params.py",
        "    learning_rate: Annotated[float, Field(gt=0)]",
        "    learning_rate: Annotated[float, Field(ge=0)]",
    ),
    Fault(
        "an edit during a stage is not noticed",
        "petseg/pipeline/stage.py",
        "if what not in now or now[what] != value]",
        "if what not in now]",
    ),
    Fault(
        "files beside a module are not in the run key",
        "petseg/pipeline/codehash.py",
        'if file.suffix not in (".py", *_COMPILED) and',
        'if file.suffix in (".py", *_COMPILED) and',
    ),
    Fault(
        "validation photos in the test part",
        "petseg/data/splitting.py",
        '            parts[row] = "val"\n',
        '            parts[row] = "test"\n',
    ),
    Fault(
        "photos of one group in two parts",
        "petseg/data/splitting.py",
        "members.setdefault(photos[row].group or row, [])",
        "members.setdefault(row, [])",
    ),
    Fault(
        "colours not standardized", "petseg/data/batches.py", "(photos - mean) / std", "(photos - mean) * std"
    ),
    Fault(
        "the border counts as background",
        "petseg/data/batches.py",
        '    if boundary == "foreground":',
        '    if boundary == "ignore":',
    ),
    Fault(
        "the hash of weights is not checked",
        "petseg/models/weights.py",
        'if sha256_tensors(tensors) != described["tensors_sha256"]:',
        'if not described["tensors_sha256"]:',
    ),
    Fault(
        "a mirrored prediction is not mirrored back",
        "petseg/models/predictor.py",
        "            flipped = mirrored(self.network(mirrored(batch)).float().sigmoid())",
        "            flipped = self.network(mirrored(batch)).float().sigmoid()",
    ),
    Fault(
        "false and missed pixels swapped",
        "petseg/evaluation/metrics.py",
        "PixelCounts(tp, positive - tp, actual - tp,",
        "PixelCounts(tp, actual - tp, positive - tp,",
    ),
    Fault(
        "a threshold off by one",
        "petseg/evaluation/thresholds.py",
        "torch.bucketize(values, steps, right=True)",
        "torch.bucketize(values, steps, right=False)",
    ),
    Fault(
        "of equal thresholds, the farthest from 0.5 is chosen",
        "petseg/evaluation/thresholds.py",
        "-abs(t - 0.5)",
        "abs(t - 0.5)",
    ),
    Fault(
        "a wrong sign in a loss",
        "petseg/training/losses.py",
        "    return (1 - (2 * both + 1) / (either + 1)).mean()",
        "    return (1 + (2 * both + 1) / (either + 1)).mean()",
    ),
    Fault(
        "a trimap is not turned with its photo",
        "petseg/training/augment.py",
        'F.grid_sample(labels, grid, "nearest"',
        'F.grid_sample(labels, grid.flip(2), "nearest"',
    ),
    Fault(
        "the average moves the wrong way",
        "petseg/training/optim.py",
        "torch._foreach_lerp_(averaged, current, 1 - decay)",
        "torch._foreach_lerp_(averaged, current, decay)",
    ),
    Fault(
        "the last of equal epochs is best",
        "petseg/training/history.py",
        "    return max(defined, key=lambda record: record.val_dice)",
        "    return max(reversed(defined), key=lambda record: record.val_dice)",
    ),
    Fault(
        "the order of the photos does not change with the epoch",
        "petseg/training/loop.py",
        "default_rng((seed, epoch, _ORDER_STREAM))",
        "default_rng((seed, n, _ORDER_STREAM))",
    ),
    Fault(
        "a resumed training forgets its optimizer",
        "petseg/training/loop.py",
        'self.optimizer.load_state_dict({"state": state, "param_groups": groups})',
        'self.optimizer.load_state_dict({"state": {}, "param_groups": groups})',
    ),
    Fault(
        "damaged files are exported",
        "petseg/store/records.py",
        "    if sha256_file(path) != digest:",
        "    if len(sha256_file(path)) != len(digest):",
    ),
    Fault(
        "a worse model is promoted",
        "petseg/store/champion.py",
        "    if run.val_dice < today.val_dice:",
        "    if run.val_dice > today.val_dice:",
    ),
    Fault(
        "promotions do not wait for each other",
        "petseg/store/ledger.py",
        "held(store / LOCK)",
        'held(store / f"{LOCK}.{os.getpid()}")',
    ),
    Fault(
        "two processes write to one training",
        "petseg/store/run.py",
        'held(folder / ".lock", wait=False)',
        'held(folder / f".lock-{os.getpid()}", wait=False)',
    ),
    Fault(
        "epochs are logged twice",
        "petseg/tracking/rows.py",
        "            if epoch not in self.epochs:\n",
        "            if epoch:\n",
    ),
    Fault(
        "half of a password with an @ is printed",
        "petseg/core/urls.py",
        'before.rpartition("@")',
        'before.partition("@")',
    ),
    Fault(
        "the worst photos are the best",
        "petseg/report/results.py",
        "        return self.ranked()[-n:]",
        "        return self.ranked()[:n]",
    ),
    Fault(
        "existing pictures are overwritten",
        "petseg/predict/cutting.py",
        "        return replaces or not outputs[kind].exists()",
        "        return bool(outputs[kind])",
    ),
    Fault(
        "a command that failed exits with 0",
        "petseg/cli/output.py",
        "        raise typer.Exit(answer.exit_code)",
        "        raise typer.Exit(0)",
    ),
    Fault(
        "the threshold is chosen on the test photos",
        "petseg/evaluation/evaluate.py",
        '    rows = arrays.rows("val")\n    trimaps',
        '    rows = arrays.rows("test")\n    trimaps',
    ),
    Fault(
        "scores are not kept in the store",
        "stages/infer.py",
        "            keep(run, EVALUATIONS, key, made_by, files)",
        "            _ = files",
    ),
    Fault(
        "a finished training does not export its weights",
        "stages/train.py",
        "        run.export(copies)",
        "        copies.pop(WEIGHTS)\n        run.export(copies)",
    ),
    Fault(
        "train does not declare a param that it reads",
        "dvc.yaml",
        "params: [split, model, train, augment]",
        "params: [split, train, augment]",
    ),
)


def main() -> None:
    """Print a row for each fault, as soon as it is known."""
    wanted = [int(number) for number in sys.argv[1:]] or range(1, len(FAULTS) + 1)
    print("| | room | fault | noticed by | test |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        copy_project(copy)
        for number in wanted:
            fault = FAULTS[number - 1]
            before = (copy / fault.file).read_bytes()
            fault.plant(copy)
            print(f"| {number} | {fault.room} | {fault.what} | {noticed(copy)} |", flush=True)
            (copy / fault.file).write_bytes(before)


def copy_project(folder: Path) -> None:
    """Copy the files that git tracks or does not ignore, with the history, and link the environment."""
    for name in listed_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".git", folder / ".git")
    for name in (".venv", ".mypy_cache"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)


def noticed(root: Path) -> str:
    """Return the command that fails, and the first test that fails in it."""
    left_out = " ".join(f"--deselect={name}" for name in FAIL_AT_ANY_EDIT)
    for target in ("check", "test"):
        done = subprocess.run(
            ["make", "-o", "env", target],
            cwd=root,
            env=os.environ | {"PYTEST_ADDOPTS": f"-x {left_out}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            failed = re.search(r"^(?:FAILED|ERROR) tests/([^\s\[]+)", done.stdout, re.M)
            last = (done.stdout + done.stderr).strip().splitlines()[-1]
            return f"`make {target}` | {f'`{failed.group(1)}`' if failed else last}"
    return "nobody | "


if __name__ == "__main__":
    main()
