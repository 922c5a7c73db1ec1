"""``petseg train`` and ``petseg infer``: run a stage of the pipeline, with options for common params."""

import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from petseg.core.extras import check_installed
from petseg.core.files import written_atomically
from petseg.core.project import expanded, main_root
from petseg.core.terminal import print_lines
from petseg.errors import UsageError

_NAMED_SOURCES = ("sample", "oxford")
_PLAIN = re.compile(r"[\w./:+-]*")  # text that DVC's -S takes without quotes

DataPath = Annotated[
    str | None,
    typer.Option(
        "--data-path",
        "-data_path",
        help="Set data.source: sample, oxford, a folder of photos and masks, or a URL.",
    ),
]
Epochs = Annotated[int | None, typer.Option("--epochs", "-epochs", help="Set train.epochs.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", "-batch_size", help="Set train.batch_size; for petseg infer, infer.batch_size."
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", "-learning-rate", help="Set train.learning_rate, the schedule's peak."),
]
Network = Annotated[
    str | None, typer.Option("--model", "-model", help="Set model.name: unet or resnet34_unet.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Set params that belong together: those of recipes/NAME.yaml, or of your own file.",
    ),
]
Others = Annotated[
    list[str] | None,
    typer.Option("-S", metavar="KEY=VALUE", help="Set any other param, such as train.loss=dice."),
]


def train(
    data_path: DataPath = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    model: Network = None,
    recipe: Recipe = None,
    others: Others = None,
) -> None:
    """Train a network with these params.

    The command runs dvc exp run, which writes the params into params.yaml. The results go to the store, to
    MLflow and to dvc.lock, as for any other run. A setting that was already trained is not trained again. An
    option overrides the recipe.
    """
    named: dict[str, Any] = {"data.source": data_path, "train.epochs": epochs, "train.batch_size": batch_size}
    named |= {"model.name": model, "train.learning_rate": learning_rate}
    _run("train", recipe, named, others or [])


def infer(
    data_path: DataPath = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    model: Network = None,
    recipe: Recipe = None,
    others: Others = None,
) -> None:
    """Score the network with these params on the test photos.

    The command runs dvc exp run, which trains the network first if needed. For your own photos without masks,
    use petseg predict.
    """
    named: dict[str, Any] = {"data.source": data_path, "train.epochs": epochs, "infer.batch_size": batch_size}
    named |= {"model.name": model, "train.learning_rate": learning_rate}
    _run("infer", recipe, named, others or [])


def _run(stage: str, recipe: str | None, named: Mapping[str, Any], others: Sequence[str]) -> None:
    """Check the changed params, then run a stage and the stages before it with them.

    Args:
        stage: the stage's name.
        recipe: a recipe that is applied first, as ``params_of_recipe`` takes it; None for none.
        named: params that have their own option; None if the option was not given.
        others: further params, ``KEY=VALUE``.

    Raises:
        UsageError: a param is not KEY=VALUE, or there is no such recipe.
        ParamsError: the params would be invalid; params.yaml is left as it was.
        Exit: DVC has ended. If it failed, params.yaml is as it was, or as it was edited meanwhile.
    """
    root = main_root()
    check_installed("dvc")
    changed = {} if recipe is None else params_of_recipe(recipe, root)
    changed |= {key: value for key, value in named.items() if value is not None}
    if "data.source" in changed:
        changed["data.source"] = source_of(changed["data.source"], root)
    changed |= dict(map(_assignment, others))
    _check(changed, root)
    overrides = [f"{key}={quoted(value)}" for key, value in changed.items()]
    command = ["dvc", "exp", "run", stage]
    for override in overrides:
        command += ["-S", override]
    print_lines(shlex.join(command))
    before = (root / "params.yaml").read_bytes()
    code = _run_dvc(command, root)
    if code and overrides:
        _put_back(root / "params.yaml", before, overrides)
    raise typer.Exit(code)


def _run_dvc(command: Sequence[str], root: Path) -> int:
    """Run DVC until it ends, and return the exit code.

    Ctrl-C in a terminal reaches DVC and the stage too, so it is ignored here. A signal that is sent only to
    this process is passed on to the stage. DVC ends when its stage ends; if DVC itself were stopped, the
    stage would go on running.
    """
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        _terminate_stage(dvc.pid)

    signal.signal(signal.SIGINT, lambda *_: None)
    dvc = subprocess.Popen([sys.executable, "-m", *command], cwd=root)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, stop)
    code = dvc.wait()
    if stopped:
        return 128 + stopped[0]
    return min(code, 1) if code >= 0 else 128 - code


def _terminate_stage(dvc: int) -> None:
    """Terminate the stage that a process of DVC runs, or DVC itself if it runs none."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(dvc)
        for target in process.children() or [process]:
            with suppress(psutil.NoSuchProcess):
                target.terminate()


def _put_back(params: Path, before: bytes, overrides: Sequence[str]) -> None:
    """Undo what DVC wrote into params.yaml, unless the file was edited since then.

    Args:
        params: the path of params.yaml.
        before: its bytes before DVC ran.
        overrides: ``KEY=VALUE``, as they were passed to DVC.
    """
    present = params.read_bytes() if params.exists() else b""
    if present == before:
        return
    if present != _as_dvc_writes(before, overrides):
        print_lines("petseg: params.yaml was edited meanwhile, and is left as it is now", err=True)
        return
    with written_atomically(params.resolve()) as file:
        file.write(before)
    print_lines("petseg: params.yaml is as it was before", err=True)


def _as_dvc_writes(before: bytes, overrides: Sequence[str]) -> bytes | None:
    """Return params.yaml as ``dvc exp run -S`` writes it; None if DVC refuses the overrides."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory(prefix="petseg-") as folder:
        copy = Path(folder, "params.yaml")
        copy.write_bytes(before)
        try:
            apply_overrides(copy, list(overrides))
        except DvcException:
            return None
        return copy.read_bytes()


def params_of_recipe(name: str, root: Path) -> dict[str, Any]:
    """Return the params that a recipe sets, ``{"train.epochs": 300, ...}``.

    Args:
        name: the name of a file in recipes/, without its suffix, or the path of such a file. The file has
            sections as in params.yaml, each with the keys that it changes.
        root: the project's root.

    Raises:
        UsageError: there is no such file, or it is not a recipe.
    """
    from petseg.core.textfiles import read_yaml

    folder = root / "recipes"
    here = expanded(name)
    file = here if here.is_file() else folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
        raise UsageError(f"--recipe {name}: neither a file nor a recipe; recipes/ has: {known}")
    sections = read_yaml(file)
    if not isinstance(sections, dict) or not all(isinstance(keys, dict) for keys in sections.values()):
        raise UsageError(
            f"--recipe {name}: must hold sections, such as 'train:', with the keys that it changes"
        )
    return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}


def _assignment(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``KEY=VALUE``."""
    from petseg.core.textfiles import yaml_value

    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise UsageError(f"-S {text}: must be KEY=VALUE, such as train.loss=dice")
    return key, yaml_value(value)


def _check(changed: Mapping[str, Any], root: Path) -> None:
    """Check params.yaml as it would be with the changes."""
    from petseg.core.textfiles import read_yaml
    from petseg.params import check_params  # imported here: pydantic is slow

    values = read_yaml(root / "params.yaml")
    for key, value in changed.items() if isinstance(values, dict) else ():
        section, _, name = key.partition(".")
        known = values.get(section)
        values[section] = (known if isinstance(known, dict) else {}) | {name: value}
    check_params(values)
    if "data.source" in changed:
        _check_source(changed["data.source"], root)


def _check_source(source: str, root: Path) -> None:
    """Check that data.source is a known name, a URL, or an existing file or folder."""
    known = source in _NAMED_SOURCES or "://" in source
    if not known and not (root / expanded(source)).exists():
        raise UsageError(f"data.source: {source}: no such folder; sample, oxford and URLs are known too")


def source_of(given: str, root: Path) -> str:
    """Return the value for data.source.

    A relative folder counts from the current folder, but the value must count from the project's root.
    """
    here = expanded(given)
    if given in _NAMED_SOURCES or "://" in given or not here.exists():
        return given
    here = here.resolve()
    return str(here.relative_to(root) if here.is_relative_to(root) else here)


def quoted(value: object) -> str:
    """Write a value as DVC's -S reads it."""
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
