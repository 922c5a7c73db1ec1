"""Python and DVC without the seconds that their imports take: forked from a process that has imported them.

``python forked.py SOCKET`` imports what is slow, and forks for each request of ask_forked.py. Nothing of
petseg is imported there, so a clone's own code runs.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# What a command of petseg, a stage and DVC import beside the clone's own code, and what these import late.
_SLOW = (
    "dvc.cli",
    "dvc.commands.repro",
    "dvc.commands.experiments.run",
    "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.tempdir",
    "matplotlib.backends.backend_agg",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "safetensors.torch",
    "scipy.ndimage",
    "torch._dynamo",  # which an optimizer's first step imports
    "torchvision.transforms.v2",
    "typer.rich_utils",
)
_MANY = 1024  # file descriptors
_PYTHON = sys.executable


@contextmanager
def running(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Let the server run, and put ``python`` and ``dvc`` into a folder, for PATH, that ask it.

    Args:
        folder: where they are put, and the server's socket and log.
        environment: further variables that the server, and not what it forks, is started with.

    Raises:
        RuntimeError: the server did not start.
    """
    path, log = folder / "socket", folder / "log"
    python = Path(sys.executable)
    asking = Path(__file__).with_name("ask_forked.py")
    ask_it = f"#!/bin/sh\nexec '{python}' -IS '{asking}' '{path}'"
    (folder / "bin").mkdir()
    for name, arguments in (("python", ""), ("dvc", f"'{python.with_name('dvc')}'")):
        (folder / "bin" / name).write_text(f'{ask_it} {arguments} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    # It must have one thread: a fork has only the one that forks. The last is of pyarrow's allocator.
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    one_thread |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    with log.open("w") as file:
        server = subprocess.Popen(
            [python, __file__, path],
            env=os.environ | one_thread | dict(environment or {}),
            stdout=file,
            stderr=file,
            cwd=folder,
        )
    try:
        while not path.exists():
            if server.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield folder / "bin"
    finally:
        server.kill()
        server.wait()


def serve(path: str) -> None:
    """Fork for each request, until the process is killed."""
    for name in _SLOW:
        importlib.import_module(name)
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, f"a process with {len(threads)} threads can't be forked safely"
    sys.executable = str(Path(path).with_name("bin") / "python")  # what a program starts itself is forked too
    gc.freeze()  # so that a child's collector leaves alone what it shares with this process
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(path)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    pid = _fork(connection)
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (connection, pid))
                else:
                    _tell_the_end(*key.data)
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def _fork(connection: socket.socket) -> int:
    """Fork for the request that arrives, and tell the id of the child, which runs the program."""
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        request = json.loads(stream.read(int(size)))
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, _MANY)  # connections, and what watches other children
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        _run_and_end(request["arguments"])
    for file in files:
        os.close(file)
    _send(connection, pid)
    return pid


def _tell_the_end(connection: socket.socket, pid: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with connection:
        _send(connection, code)


def _send(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked was killed
        connection.sendall(b"%d\n" % number)


def _run_and_end(arguments: list[str]) -> NoReturn:
    """End as Python does, but for taking apart what has been imported, which takes seconds."""
    code = 1
    try:
        _run(arguments)
        code = 0
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        else:
            code = exit.code or 0
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001  (nothing is above it: Python's own last handler catches all too)
        traceback.print_exc()
    finally:
        # As Python ends: it waits for threads, those of pools too, for which there is no public function.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(arguments: list[str]) -> None:
    """Run what ``python ARGUMENT...`` runs."""
    match arguments:
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = [module, *rest], str(Path.cwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *rest] if not script.startswith("-"):
            sys.argv, sys.path[0] = [script, *rest], str(Path(script).resolve().parent)
            runpy.run_path(script, run_name="__main__")
        case _:
            os.execv(_PYTHON, [_PYTHON, *arguments])


if __name__ == "__main__":
    serve(sys.argv[1])
