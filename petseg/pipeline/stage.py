"""Run a stage: check its params and paths, report errors in one line, and notice edits of its inputs."""

import atexit
import gc
import inspect
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Never

from petseg.core.files import remove_leftovers_of, sha256_file, why_not
from petseg.core.project import expanded
from petseg.core.terminal import print_lines
from petseg.core.textfiles import read_yaml
from petseg.errors import InputsChanged, ParamsError, PetsegError, SecretInParams, UsageError
from petseg.params import load_params
from petseg.pipeline.dvcfiles import code_files, described_stages, inputs_of, options
from petseg.pipeline.forget import forget
from petseg.pipeline.guard import check_outputs

_PARAMS_FILE = Path("params.yaml")


def run_stage(stage: Callable[..., None]) -> Never:
    """Run a stage as a program and exit.

    The stage is called with all params, which are checked, and with the paths of the command line. Each
    parameter of the stage but the first is an option, such as ``--arrays data/pets``.

    Exit codes: 0 done, 1 failed, 2 wrong params or arguments, 130 and 143 stopped by a signal.
    """
    signal.signal(signal.SIGTERM, _stop)
    atexit.register(gc.freeze)  # else Python's last garbage collection takes a second for torch and MLflow
    name = stage.__name__
    try:
        paths = _paths(stage, sys.argv[1:])
        inputs = _inputs(name)
        params = load_params(_PARAMS_FILE)
        read = inputs_of(Path(), name)
        written = {option: path for option, path in paths.items() if option not in read}
        check_outputs(name, written)
        remove_leftovers_of(written.values())
        stage(params, **paths)
        _check_unchanged(name, inputs)
    except PetsegError as error:
        lines = list(error.lines)
        if isinstance(error, SecretInParams) and not forget(_PARAMS_FILE):
            lines.append(f"git keeps a copy of {_PARAMS_FILE} too: in its index, a commit or DVC's queue")
        _exit(error.exit_code, *(f"petseg {name}: {line}" for line in lines))
    except KeyboardInterrupt:
        _exit(130, f"petseg {name}: interrupted")
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        _exit(1, f"petseg {name}: {why_not(error)}")
    sys.exit(0)


def _paths(stage: Callable[..., None], words: list[str]) -> dict[str, Path]:
    names = list(inspect.signature(stage).parameters)[1:]
    given = options(words)
    if len(words) != 2 * len(names) or given.keys() != set(names):
        usage = " ".join(f"--{name.replace('_', '-')} PATH" for name in names)
        raise UsageError(f"usage: python -m stages.{stage.__name__} {usage}; dvc.yaml has the paths")
    return {name: expanded(path) for name, path in given.items()}


def _inputs(stage: str) -> dict[str, Any]:
    """Return the values of the params that dvc.yaml declares for a stage, and the hashes of its code.

    DVC records both after the command. So it would record an edit that was made meanwhile as the origin of
    the outputs, for ever.
    """
    values = read_yaml(_PARAMS_FILE)  # before they are checked, so that no edit between the two is missed
    declared = described_stages(Path()).get(stage, {}).get("params", [])
    inputs: dict[str, Any] = {f"params.yaml: {key}": _lookup(values, str(key)) for key in declared}
    return inputs | {str(file): sha256_file(file) for file in code_files(Path(), stage)}


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _check_unchanged(stage: str, before: dict[str, Any]) -> None:
    try:
        now = _inputs(stage)
        changed = [what for what, value in before.items() if what not in now or now[what] != value]
    except ParamsError as error:  # a file is missing or half edited: the message begins with its name
        changed = [str(error).partition(":")[0]]
    except FileNotFoundError as error:
        changed = [str(error.filename)]
    if changed:
        raise InputsChanged(
            f"{', '.join(changed)} changed while the stage ran, so its outputs belong to neither "
            "state; nothing is lost: run dvc repro again"
        )


def _stop(signum: int, frame: FrameType | None) -> Never:
    sys.exit(128 + signum)


def _exit(code: int, *lines: str) -> Never:
    print_lines(*lines, err=True)
    sys.exit(code)
