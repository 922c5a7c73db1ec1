"""What dvc.yaml and dvc.lock say of a stage: its command, paths and code, and the params that it ran with."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petseg.core.files import below, naming
from petseg.core.terminal import print_lines
from petseg.core.textfiles import printable, read_yaml
from petseg.errors import ParamsError, UsageError

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
_WRITTEN = ("outs", "metrics", "plots")  # of a stage
_PATHS = ("deps", *_WRITTEN)
CODE = ("petseg", "stages")  # folders


def stage_command(root: Path, stage: str) -> list[str]:
    """Return a stage's command as dvc.yaml below ``root`` has it, by this Python.

    Raises:
        ParamsError: it has none.
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
    """Return the paths that dvc.yaml below ``root`` gives a stage, by the names of its options.

    Raises:
        UsageError: there is no project.
    """
    check_project(root)
    return {name: root / path for name, path in options(stage_command(root, stage)[3:]).items()}


def pipeline_paths(root: Path) -> set[Path]:
    """Return the files and folders that the stages of a project read and write, by dvc.yaml."""
    try:
        stages = described_stages(root).values()
        return {root / each for stage in stages for kind in _PATHS for each in _listed(stage, kind)}
    except ParamsError:  # of another program, by other rules
        return set()


def own_outs(root: Path, stage: str) -> set[Path]:
    """Return the files and folders that dvc.yaml below ``root`` lets a stage write."""
    return {root / each for kind in _WRITTEN for each in _listed(_stage(root, stage), kind)}


def inputs_of(root: Path, stage: str) -> set[str]:
    """Return the names of the options by which dvc.yaml below ``root`` gives a stage what it reads."""
    described = _stage(root, stage)
    given = options(str(described.get("cmd", "")).split()[3:])
    return {name for name, path in given.items() if path in described.get("deps", [])}


def _stage(root: Path, stage: str) -> dict[str, Any]:
    """Return what dvc.yaml says of a stage; nothing where it does not name the stage."""
    return described_stages(root).get(stage, {})


def described_stages(root: Path, file: Path = PIPELINE) -> dict[str, dict[str, Any]]:
    """Return what dvc.yaml or dvc.lock below ``root`` says of each stage.

    Raises:
        ParamsError: it can't be read, or says something else.
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
    """Tell whether an entry of a list is a text, or a section with a key."""
    return isinstance(entry, str | dict) and len(entry) > 0


def _listed(stage: Mapping[str, Any], kind: str) -> Iterator[str]:
    for each in stage.get(kind, []):
        yield each if isinstance(each, str) else next(iter(each))


def options(words: list[str]) -> dict[str, str]:
    """Return what follows each option of a command, ``--arrays data/pets``, by the option's name."""
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
    """Return DVC's settings of a project, of all their levels.

    Where DVC can't read them, it says so, and returns None.

    Raises:
        OSError: a file of them can't be read.
    """
    from dvc.config import Config  # not above: it takes a quarter of a second
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
    """Return the value of a param that a stage last ran with, by dvc.lock; None where that does not say."""
    try:
        return read_yaml(root / LOCK)["stages"][stage]["params"]["params.yaml"][key]
    except (ParamsError, KeyError, TypeError):
        return None
