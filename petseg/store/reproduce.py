"""Train a run again from its commit, in a separate folder, and compare the tensors bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from ruamel.yaml import YAML

from petseg.core.git import apply_changes, neutral_git
from petseg.core.locks import Held, held
from petseg.data.arrays import PetArrays
from petseg.errors import DataError, StoreError
from petseg.models import pretrained
from petseg.models.device import environment
from petseg.models.pretrained import Encoder
from petseg.models.weights import load_tensors
from petseg.pipeline.dvcfiles import options, stage_command
from petseg.store.layout import CHANGES, CODE, WEIGHTS
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs

_PREFIX, _LOCK = "petseg-reproduce-", "lock"  # of its temporary folder, and the lock in it
_ENCODER_PARAM = "model.encoder_weights"


@dataclass
class Comparison:
    """A run and its repetition.

    Attributes:
        tensors: a line for each tensor that differs in any bit.
        environment: a line for each difference in versions, processor or threads.
        inputs: which of params, data and code differ; none, unless files were lost.
    """

    tensors: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        return not self.tensors

    @classmethod
    def of(cls, run: StoredRun, again: StoredRun) -> Self:
        """Compare two finished runs."""
        result = cls()
        ours, theirs = (load_tensors(made.folder / WEIGHTS)[0] for made in (run, again))
        for name in dict.fromkeys((*ours, *theirs)):
            one, other = ours.get(name), theirs.get(name)
            if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
                result.tensors.append(f"{name}: has another shape or type, or is in only one of them")
            elif not torch.equal(_bits(one), _bits(other)):
                farthest = float((one.double() - other.double()).abs().max())
                result.tensors.append(f"{name}: differs by up to {farthest:.3g}")
        then, now = (made.manifest["environment"] for made in (run, again))
        if not result.identical:
            # The code of an old commit does not record the processor, which may explain the difference.
            now = environment(torch.device("cpu")) | now
        result.environment = [
            f"{key}: {then.get(key, 'not recorded')} then, {now.get(key, 'not recorded')} now"
            for key in dict.fromkeys((*then, *now))
            if then.get(key) != now.get(key)
        ]
        result.inputs = [
            what
            for what in ("params", "data_sha256", "code_sha256")
            if run.manifest[what] != again.manifest[what]
        ]
        return result


def reproduce(run: StoredRun, root: Path) -> Comparison:
    """Train a finished run again, from its commit, its changes, its params and its data.

    The main repository, its store and its record in MLflow are not touched.

    Args:
        run: a run of the store.
        root: root of the main repository.

    Raises:
        StoreError: the run's commit or its changes can't be found or applied, or the training fails.
        DataError: its photos can't be found.
    """
    if run.adopted or not run.finished:
        raise StoreError(f"run {run.key} is not a finished training, so it can't be reproduced")
    with _laid_out(run, root) as folder:
        train = stage_command(folder, "train")
        arrays, encoder = input_folders(train)
        _write_params(run.params | _put_encoder(run, root, folder, encoder), folder / "params.yaml")
        _put_data(run, root, folder, arrays)
        _run(folder, train)
        (again,), _ = stored_runs(folder / "runs")
        return Comparison.of(run, again)


def input_folders(train: list[str]) -> tuple[Path, Path]:
    """Return the folders of the arrays and of the encoder's weights that a train command names.

    Args:
        train: the words of the command in dvc.yaml, of any commit.
    """
    words = train[3:]  # after python -m stages.train
    named = options(words)
    # In old commits, such as f2f1b92, the paths have no options; these two come first.
    return Path(named.get("arrays", words[0])), Path(named.get("encoder", words[1]))


@contextmanager
def _laid_out(run: StoredRun, root: Path) -> Iterator[Path]:
    """Put the run's code into a temporary folder: its own copy, over a checkout of its commit if that exists.

    The commit also holds files that are not code, such as the embedded photos. A run from an earlier petseg
    has no copy of its code: then its changes are applied to its commit.
    """
    commit, kept = run.manifest["git"]["commit"], run.folder / CODE
    is_there = commit and not neutral_git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode
    if not is_there and not kept.exists():
        why = "was trained outside a git repository: its code is not known"
        if commit:
            why = f"commit {commit} is not in this repository; git fetch may bring it"
        raise StoreError(f"run {run.key}: {why}")
    _remove_leftovers(root)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as temporary, held(Path(temporary, _LOCK)):
        folder = Path(temporary, "code")
        try:
            if is_there:
                _check_out(run, root, folder, commit)
            if kept.exists():
                run.export({CODE: Path(temporary, CODE)})
                (folder / ".dvc").mkdir(parents=True, exist_ok=True)
                zipfile.ZipFile(Path(temporary, CODE)).extractall(folder)
            yield folder
        finally:
            if is_there:
                neutral_git(root, "worktree", "remove", "--force", str(folder))


def _remove_leftovers(root: Path) -> None:
    """Remove what killed reproductions left; a running one holds the lock in its folder."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(Held, OSError):
            if lock.parent.lstat().st_uid == os.getuid():
                with held(lock, wait=False):
                    shutil.rmtree(lock.parent)
    for line in os.fsdecode(neutral_git(root, "worktree", "list", "--porcelain").stdout).splitlines():
        folder = Path(line.removeprefix("worktree "))
        with suppress(OSError):
            if folder.parent.name.startswith(_PREFIX) and not folder.exists():
                neutral_git(root, "worktree", "remove", "--force", str(folder))


def _check_out(run: StoredRun, root: Path, folder: Path, commit: str) -> None:
    done = neutral_git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    changes = run.folder / CHANGES
    if not done.returncode and changes.exists() and not (run.folder / CODE).exists():
        done = apply_changes(folder, changes)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise StoreError(f"run {run.key}: its code can't be checked out ({reason:.200})")


def _put_encoder(run: StoredRun, root: Path, folder: Path, place: Path) -> dict[str, str]:
    """Put the weights from which the run's encoder started in place; return the param that names them."""
    wanted, source = run.params.get(_ENCODER_PARAM, pretrained.NONE), root / place
    if wanted == pretrained.NONE:
        _run(folder, stage_command(folder, "encoder"))
        return {}
    found = pretrained.described(source)
    if Encoder.open(source, found["origin"]).name != wanted:
        raise DataError(
            f"run {run.key}: its encoder began with weights {wanted}, and {source} holds others; "
            "set model.encoder_weights and run dvc repro encoder first"
        )
    shutil.copytree(source, folder / place)
    return {_ENCODER_PARAM: found["origin"]}


def _write_params(params: Mapping[str, Any], path: Path) -> None:
    """Write a run's params into params.yaml; params on which a run does not depend stay as committed."""
    yaml = YAML()
    values = yaml.load(path.read_text(encoding="utf-8"))
    for key, value in params.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


def _put_data(run: StoredRun, root: Path, folder: Path, place: Path) -> None:
    """Put the run's photos in place: the project's, if their hash is the same, or else packed again."""
    wanted, target = run.manifest["data_sha256"], folder / place
    if (root / place).is_dir() and PetArrays.open(root / place).digest == wanted:
        shutil.copytree(root / place, target)
        return
    _run(folder, [sys.executable, "-m", "dvc", "repro", "--quiet", "preprocess"])
    if PetArrays.open(target).digest != wanted:
        raise DataError(
            f"run {run.key}: its photos (sha256 {wanted}) are neither in {place} nor in data.source; "
            "set data.source to where they are, and run dvc repro preprocess first"
        )


def _run(folder: Path, command: Sequence[str]) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    # ``python`` in the commit's dvc.yaml must be this Python, even if its environment is not activated.
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    variables["TMPDIR"] = str(folder.parent)  # so that it is deleted with what a killed stage leaves
    # The output of a stage must not mix with the one JSON value of --json on stdout.
    child = subprocess.Popen(command, cwd=folder, env=variables, stdout=sys.stderr, start_new_session=True)
    with _ending_with_this(child.pid):
        code = child.wait()
    if code:
        raise StoreError(f"{' '.join(command[1:4])} failed with exit code {code}; see above")


@contextmanager
def _ending_with_this(group: int) -> Iterator[None]:
    """Kill a group of processes as soon as this process ends, or the block is left.

    A shell waits for the end of a pipe that only this process holds, which comes after SIGKILL too.
    """
    words = ["sh", "-c", f"read -r _; kill -s KILL -- -{group}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as watch:
        try:
            yield
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS raises the second if there is none
                os.killpg(group, signal.SIGKILL)
            watch.kill()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes, because as values 0 equals -0, and NaN differs from itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
