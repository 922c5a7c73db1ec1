"""Read dvc.yaml and dvc.lock: a stage's command, paths and code, and the params that it ran with."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petseg.core.files import below, naming
from petseg.core.terminal import print_lines
from petseg.core.textfiles import printable, read_yaml
from petseg.errors import ParamsError, UsageError

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
_WRITTEN = ("outs", "metrics", "plots")  # keys of a stage
_PATHS = ("deps", *_WRITTEN)
CODE = ("petseg", "stages")  # folders


def stage_command(root: Path, stage: str) -> list[str]:
    """Return a stage's command from dvc.yaml below ``root``, with this Python.

    Raises:
        ParamsError: the stage has no command.
    """
    command = _stage(root, stage).get("cmd")
    if not isinstance(command, str) or not command.split():
        raise ParamsError(f"{PIPELINE}: stages.{stage}.cmd: must be a command")
    return [sys.executable, *command.split()[1:]]


def is_project(root: Path) -> bool:
    """Tell whether a folder is the root of a project of petseg."""
    return (root / PIPELINE).is_file()


def check_project(root: Path) -> None:
    """Check that a folder is the root of a project of petseg.

    Raises:
        UsageError: it is not.
    """
    if not is_project(root):
        raise UsageError(f"no project of petseg in {root} or above; cd into the clone of one")


def stage_paths(root: Path, stage: str) -> dict[str, Path]:
    """Return the paths in a stage's command in dvc.yaml below ``root``, by the names of their options.

    Raises:
        UsageError: there is no project.
    """
    check_project(root)
    return {name: root / path for name, path in options(stage_command(root, stage)[3:]).items()}


def pipeline_paths(root: Path) -> set[Path]:
    """Return the files and folders that the stages of a project read and write, from its dvc.yaml."""
    try:
        stages = described_stages(root).values()
        return {root / each for stage in stages for kind in _PATHS for each in _listed(stage, kind)}
    except ParamsError:  # the dvc.yaml of another program
        return set()


def own_outs(root: Path, stage: str) -> set[Path]:
    """Return the files and folders that dvc.yaml below ``root`` lets a stage write."""
    return {root / each for kind in _WRITTEN for each in _listed(_stage(root, stage), kind)}


def inputs_of(root: Path, stage: str) -> set[str]:
    """Return the names of a stage's options whose paths are its deps, from dvc.yaml below ``root``."""
    described = _stage(root, stage)
    given = options(str(described.get("cmd", "")).split()[3:])
    return {name for name, path in given.items() if path in described.get("deps", [])}


def _stage(root: Path, stage: str) -> dict[str, Any]:
    """Return a stage's entry in dvc.yaml; empty if there is none."""
    return described_stages(root).get(stage, {})


def described_stages(root: Path, file: Path = PIPELINE) -> dict[str, dict[str, Any]]:
    """Return the entry of each stage in dvc.yaml or dvc.lock below ``root``.

    Raises:
        ParamsError: the file can't be read, or has another form.
    """
    content = read_yaml(root / file)
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise ParamsError(f"{file}: must hold stages, each a section")
    for name, stage in stages.items():
        for kind in (*_PATHS, "params"):
            listed = stage.get(kind, [])
            if file == PIPELINE and not (isinstance(listed, list) and all(map(_is_named, listed))):
                raise ParamsError(f"{file}: stages.{printable(name)}.{kind}: must be a list of names")
    return stages


def _is_named(entry: object) -> bool:
    """Return whether an entry of a list is a text, or a section with a key."""
    return isinstance(entry, str | dict) and len(entry) > 0


def _listed(stage: Mapping[str, Any], kind: str) -> Iterator[str]:
    for each in stage.get(kind, []):
        yield each if isinstance(each, str) else next(iter(each))


def options(words: list[str]) -> dict[str, str]:
    """Return the values of a command's options, such as ``--arrays data/pets``, by the options' names."""
    return {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in zip(words[::2], words[1::2], strict=False)
    }


def code_files(root: Path, stage: str) -> Iterator[Path]:
    """Yield the files of code that dvc.yaml below ``root`` lists for a stage, and those in its folders."""
    for dep in _listed(_stage(root, stage), "deps"):
        path = root / dep
        if Path(dep).parts[0] in CODE:
            files = sorted(below(path)) if path.is_dir() else [path]
            yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def dvc_settings(root: Path) -> dict[str, Any] | None:
    """Return DVC's settings of a project, merged from all levels.

    If DVC can't read them, print a warning and return None.

    Raises:
        OSError: a file of the settings can't be read.
    """
    from dvc.config import Config  # imported here, because it takes a quarter of a second
    from dvc.exceptions import DvcException
    from voluptuous import Invalid

    try:
        with naming(root / ".dvc/config"):
            return dict(Config(str(root / ".dvc"), validate=False))
    except (DvcException, Invalid) as error:
        reason = " ".join(str(error).split())
        lost = "so the cache and the remotes that they name are not known"
        print_lines(f"warning: {root / '.dvc'}: DVC can't read its settings ({reason}), {lost}", err=True)
        return None


def locked_param(stage: str, key: str, root: Path = Path()) -> Any:
    """Return the value of a param in a stage's last run, from dvc.lock; None if it is not there."""
    try:
        return read_yaml(root / LOCK)["stages"][stage]["params"]["params.yaml"][key]
    except (ParamsError, KeyError, TypeError):
        return None
