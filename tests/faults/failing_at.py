"""Import a program of petseg once, and run it many times, each time with one call to the disk that fails.

``python failing_at.py FUNCTION MODULE...`` runs with tests/faults/failing_io.c loaded before libc. Each line
of its input is a request in JSON. It forks the program for each, and answers with a line that holds the exit
code.
"""

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    sys.path.insert(0, str(Path.cwd()))  # as for python -m
    function, *modules = sys.argv[1:]
    for module in modules:  # late imports too, so that the program itself reads no modules from the disk
        importlib.import_module(module)
    module, _, name = function.rpartition(".")
    program = getattr(importlib.import_module(module), name)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(program, request)
            return  # so that the interpreter of the child ends as usual
        print(exit_code_of(pid, request["timeout_s"]), flush=True)


def run(program: Callable[[], Any], request: dict[str, Any]) -> None:
    """Run the program as if its process had just been started."""
    sys.argv = request["argv"]
    # Late imports of libraries look into each folder of the path. These are no calls of the program.
    sys.path[:] = [folder for folder in sys.path if not Path(folder).resolve().is_relative_to(Path.cwd())]
    files = [(os.devnull, os.O_RDONLY), (request["stdout"], os.O_WRONLY), (request["stderr"], os.O_WRONLY)]
    for number, (path, flags) in enumerate(files):
        file = os.open(path, flags | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    report = os.open(request["report"], os.O_WRONLY | os.O_APPEND)
    shim = ctypes.CDLL(None)
    shim.failing_io_arm(
        request["watched"].encode(),
        ctypes.c_int(request["kind"]),
        ctypes.c_long(request["nth"]),
        ctypes.c_int(request["error"]),
        ctypes.c_int(report),
    )
    if program.__module__.startswith("stages."):
        sys.modules["petseg.pipeline.stage"].run_stage(program)
    program()


def exit_code_of(pid: int, timeout_s: float) -> int:
    """Wait for a process, and kill it after the timeout; return its exit code, negative for a signal."""
    watch = os.pidfd_open(pid)
    if not select.select([watch], [], [], timeout_s)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(watch)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


main()
