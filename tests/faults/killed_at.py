"""Run a stage, and kill it with SIGKILL at the N-th call of a function.

``python killed_at.py MODULE NAME before|after N STAGE ARGUMENT...``
"""

import importlib
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    module_name, name, when, nth, stage = sys.argv[1:6]
    sys.path.insert(0, str(Path.cwd()))  # as for python -m
    owner: Any = importlib.import_module(module_name)
    *path, function = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, function), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(nth) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if calls == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, function, counted)
    sys.argv = [stage, *sys.argv[6:]]
    runpy.run_module(stage, run_name="__main__", alter_sys=True)


main()
