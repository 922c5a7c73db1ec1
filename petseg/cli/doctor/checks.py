"""The checks of ``petseg doctor``, one function each.

A check yields findings, each with what to do if something is wrong, and changes nothing. If a check raises an
error or takes too long, that becomes a finding too, and the other checks go on.
"""

import hashlib
import json
import os
import platform
import shutil
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petseg.cli.doctor.findings import Check, Finding, run_checks
from petseg.core.formats import counted, size
from petseg.core.git import git_state
from petseg.core.project import tracking_uri, usable_cores
from petseg.core.textfiles import read_yaml
from petseg.core.urls import without_secrets
from petseg.errors import ParamsError
from petseg.pipeline.codehash import needed_files
from petseg.pipeline.dvcfiles import LOCK, described_stages, stage_paths
from petseg.store.chain import WAY_OUT
from petseg.store.champion import champion
from petseg.store.ledger import moved_from
from petseg.store.runs import holder_of, run_of, run_of_weights, stored_runs
from petseg.store.verify import against_ledger

if TYPE_CHECKING:
    from dvc.repo import Repo


PINS = "requirements.lock"
LOW_BYTES = 2_000_000_000  # of free disk; training on the whole data set writes less
_NAMED = 4  # the most items of a list that are printed
_DATA_STAGES = ("download", "preprocess")


def check_packages(root: Path) -> Iterator[Finding]:
    """Compare Python and the packages with pyproject.toml and requirements.lock."""
    from packaging.requirements import Requirement  # imported here: no other command needs it
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = project["requires-python"]
    here = platform.python_version()
    if here in SpecifierSet(required):
        yield Finding("python", "ok", here)
    else:
        yield Finding("python", "problem", f"{here}, but petseg needs {required}: make env PYTHON=...")
    pins = root / PINS
    if not pins.is_file():
        yield Finding("packages", "warning", f"there is no {PINS} to compare them with")
        return
    lines = pins.read_text(encoding="utf-8").splitlines()
    texts = (line.removesuffix("\\").strip() for line in lines if line[:1].isalnum())
    pinned = [each for each in map(Requirement, texts) if each.marker is None or each.marker.evaluate()]
    differing = []
    for package in pinned:
        try:
            installed = version(package.name)
        except PackageNotFoundError:
            differing.append(f"{package.name} is absent")
            continue
        if not package.specifier.contains(installed.partition("+")[0], prereleases=True):
            differing.append(f"{package.name} {installed}, not {str(package.specifier).strip('=')}")
    if differing:
        yield Finding(
            "packages", "warning", f"differ from {PINS}: {_some(differing)}; make env installs those"
        )
    else:
        yield Finding("packages", "ok", f"{len(pinned)} as in {PINS}")


def check_cores(root: Path) -> Iterator[Finding]:
    """Compare the cores with train.threads, on which the bits of a training depend."""
    cores, threads = usable_cores(), _param(root, "train", "threads")
    words = f"{cores} usable, OMP_NUM_THREADS is {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    words += f", train.threads {threads}"
    if isinstance(threads, int) and threads > cores:
        yield Finding("cores", "warning", f"{words}: set no more threads than there are cores")
    else:
        yield Finding("cores", "ok", words)


def check_gpu(root: Path) -> Iterator[Finding]:
    """Compare the GPU with train.device."""
    device, found = _param(root, "train", "device"), False
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        import torch  # imported here: it takes two seconds, and finds nothing without a driver

        found = torch.cuda.is_available()
    if found:
        words = f"{torch.cuda.get_device_name()}, train.device {device}"
        yield Finding("gpu", "ok", f"{words}: not used" if device == "cpu" else words)
    elif device == "cuda":
        yield Finding("gpu", "problem", "torch finds none, and train.device is cuda; set auto or cpu")
    else:
        yield Finding("gpu", "ok", f"none found; train.device {device} computes on the CPU")


def check_git(root: Path) -> Iterator[Finding]:
    """Check that there is a commit; a run without one can't be traced."""
    train = root / "stages/train.py"
    git = git_state(root, needed_files(train) if train.is_file() else ())
    if git.commit is None:
        yield Finding("git", "problem", "no commit for runs to record: git init, git add -A, git commit")
    else:
        differs = ", and files that differ from it; runs keep the difference" if git.dirty else ""
        yield Finding("git", "ok", f"commit {git.commit[:10]}{differs}")


def check_params(root: Path) -> Iterator[Finding]:
    """Check params.yaml; each mistake is a finding."""
    from petseg.params import load_params  # imported here: pydantic is slow

    load_params(root / "params.yaml")
    yield Finding("params", "ok", "params.yaml is valid")


def check_dvc(root: Path) -> Iterator[Finding]:
    """Check DVC's cache and remote, and which stages would run again."""
    if not (root / ".dvc").is_dir():
        yield Finding("dvc", "problem", f"there is no .dvc in {root}: run petseg in a clone, or dvc init")
        return
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    repo = Repo(str(root))
    cache = Path(repo.cache.local.path)
    sizes = [path.stat().st_size for path in cache.glob("??/*")]
    yield Finding("dvc cache", "ok", f"{len(sizes)} objects, {size(sum(sizes))}, in {_below(cache, root)}")
    yield from _free("disk of the cache", cache)
    yield _remote(repo)
    try:
        status = repo.status()
    except LockError:
        yield Finding("pipeline", "warning", "another dvc command is running; wait for it to end")
    except DvcException as error:
        yield Finding("pipeline", "problem", " ".join(str(error).split()))
    else:
        stale = [f"{stage} ({_changes(changes)})" for stage, changes in status.items()]
        words = f"stale: {_some(stale)}; dvc repro makes it current" if stale else "every stage is current"
        yield Finding("pipeline", "warning" if stale else "ok", words)


def _remote(repo: "Repo") -> Finding:
    names, default = list(repo.config["remote"]), repo.config["core"].get("remote")
    if not names:
        words = "none, which is fine; dvc remote add -d NAME URL lets dvc push keep a copy elsewhere"
        return Finding("dvc remote", "ok", words)
    name = default or names[0]
    remote = repo.cloud.get_remote(name)
    if remote.fs.protocol == "local" and not Path(remote.path).is_dir():
        return Finding("dvc remote", "warning", f"{name}: {remote.path} is not there; dvc push would make it")
    try:
        remote.fs.exists(remote.path)
    except Exception as error:  # noqa: BLE001  (every kind of remote raises its own)
        words = f"{name} does not answer ({' '.join(str(error).split()):.120}); dvc push will fail"
        return Finding("dvc remote", "warning", words)
    words = "reachable" if default else "reachable, but no default: dvc remote default NAME"
    return Finding("dvc remote", "ok", f"{name}: {words}")


def _changes(changes: list[Any]) -> str:
    """Describe the changes that DVC's status lists for one stage."""
    parts = []
    for change in changes:
        if not isinstance(change, dict):
            parts.append(str(change))
            continue
        for kind, paths in change.items():
            how = sorted(set(paths.values()), key=str) if kind == "changed outs" else []
            what = kind.removeprefix("changed ").replace("deps", "inputs").replace("outs", "outputs")
            parts.append(f"{what} {' and '.join(map(str, how))}" if how else f"{what} changed")
    return ", ".join(dict.fromkeys(parts))


def check_mlflow(root: Path) -> Iterator[Finding]:
    """Check that MLflow answers, and whether anything is still to be logged."""
    from petseg.tracking.client import EXPERIMENT, connect, experiment_id, is_mlflow_trouble, reason
    from petseg.tracking.outbox import left_over

    uri = tracking_uri()
    shown = without_secrets(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        yield Finding("mlflow", "ok", "no database yet; the first training makes it")
    else:
        try:
            experiment_id(connect(), EXPERIMENT)
        except Exception as error:
            if not is_mlflow_trouble(error):
                raise
            later = "trainings go on, and petseg runs sync updates it later"
            yield Finding("mlflow", "warning", f"does not answer ({reason(error)}); {later}")
        else:
            yield Finding("mlflow", "ok", f"{shown} answers")
    if unsent := left_over():
        words = f"{counted(len(unsent), 'record')} still to be logged: petseg runs sync"
        yield Finding("mlflow outbox", "warning", words)


def check_store(root: Path) -> Iterator[Finding]:
    """Check the store of runs: what it has, what can't be read, and the champion."""
    store = root / "runs"
    runs, broken = stored_runs(store)
    for line in dict.fromkeys((*broken, *against_ledger(store, runs))):
        more = "" if WAY_OUT in line else "; petseg runs verify checks all of it"
        yield Finding("runs", "problem", f"{line}{more}")
    if (there := moved_from(store)) is not None:
        words = f"the project was at {there} before; the store and MLflow note the move at their next change"
        yield Finding("place of the project", "warning", words)
    finished = sum(run.finished for run in runs)
    open_ones = f", {len(runs) - finished} not finished" if finished < len(runs) else ""
    none = "none yet; dvc repro trains one"
    yield Finding("runs", "ok", f"{finished} finished{open_ones}" if runs else none)
    yield from _free("disk of the runs", store)
    key = champion(store)
    if key is not None and run_of(store, key) is None:
        words = f"{key} is not in {store.name}/; petseg runs promote ID --force makes another"
        yield Finding("champion", "problem", words)
    elif key is not None:
        yield Finding("champion", "ok", f"run {key}")
    elif finished:
        yield Finding("champion", "warning", "none; petseg runs promote ID makes one")


def check_data(root: Path) -> Iterator[Finding]:
    """Compare the archives and the arrays with their hashes in dvc.lock."""
    described = described_stages(root)
    lock = described_stages(root, LOCK) if (root / LOCK).is_file() else {}
    for stage in _DATA_STAGES:
        recorded = {root / out["path"]: out["md5"] for out in lock.get(stage, {}).get("outs", [])}
        for name in described[stage]["outs"]:
            path = root / name
            if path not in recorded:
                yield Finding(name, "warning", f"has not been made yet; dvc repro {stage} makes it")
            elif not path.exists():
                words = f"is not there; dvc repro {stage} makes it, or dvc checkout {name} from the cache"
                yield Finding(name, "warning", words)
            elif _md5(path) != recorded[path]:
                words = f"differs from {LOCK}; dvc checkout -f {name} puts back the copy in the cache"
                yield Finding(name, "problem", words)
            else:
                yield Finding(name, "ok", f"as in {LOCK}")


def check_weights(root: Path) -> Iterator[Finding]:
    """Check that the store has the weights in the working folder."""
    path = stage_paths(root, "train")["weights"]
    name = str(path.relative_to(root))
    if not path.is_file():
        yield Finding(
            name, "warning", "is not there; dvc repro trains it, petseg runs restore ID gets one back"
        )
    elif holder_of(root / "runs", path):
        yield Finding(name, "ok", "is a run's, byte for byte")
    elif run := run_of_weights(root / "runs", path):
        words = f"is run {run.key}'s, whose stored copy is damaged or gone: petseg runs adopt {name} heals it"
        yield Finding(name, "problem", words)
    else:
        yield Finding(name, "warning", f"no run has these weights; petseg runs adopt {name} keeps them")


CHECKS: dict[str, Check] = {
    "packages": check_packages,
    "cores": check_cores,
    "gpu": check_gpu,
    "git": check_git,
    "params": check_params,
    "dvc": check_dvc,
    "mlflow": check_mlflow,
    "runs": check_store,
    "data": check_data,
    "weights": check_weights,
}


def check_up(root: Path) -> list[Finding]:
    """Run all checks at the same time.

    Args:
        root: the root of the main repository, which is also the working folder.
    """
    return run_checks(CHECKS, root)


def _param(root: Path, section: str, key: str) -> Any:
    """Return a param as it is written in params.yaml; whether it is valid is another check."""
    try:
        return read_yaml(root / "params.yaml")[section][key]
    except (ParamsError, KeyError, TypeError):
        return "not known"


def _md5(path: Path) -> str:
    """Return the md5 of a file or folder, as DVC computes it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.parts)
    listed = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def _free(name: str, folder: Path) -> Iterator[Finding]:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    words = f"{size(free)} free"
    if free < LOW_BYTES:
        yield Finding(name, "warning", f"{words}; petseg runs prune and dvc gc make room")
    else:
        yield Finding(name, "ok", words)


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _some(items: list[str]) -> str:
    """Join the first items of a list, and say how many more there are."""
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
