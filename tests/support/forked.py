"""Starts Python and DVC without the seconds that imports take: as forks of a process that did the imports.

``python forked.py SOCKET`` imports the slow modules, and forks for each request of ask_forked.py. It imports
nothing of petseg, so that a fork runs the code of its own clone.
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

# Modules outside petseg that the command, the stages and DVC import, and those that they import late.
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
    "torch._dynamo",  # imported by the first step of an optimizer
    "torchvision.transforms.v2",
    "typer.rich_utils",
)
_MANY = 1024  # file descriptors
_PYTHON = sys.executable


@contextmanager
def running(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Run the server, and yield a folder for PATH whose ``python`` and ``dvc`` use it.

    Args:
        folder: for that folder, and for the socket and the log of the server.
        environment: further variables for the server, which its forks do not get.

    Raises:
        RuntimeError: the server did not start.
    """
    path, log = folder / "socket", folder / "log"
    python = Path(sys.executable)
    client = Path(__file__).with_name("ask_forked.py")
    script = f"#!/bin/sh\nexec '{python}' -IS '{client}' '{path}'"
    (folder / "bin").mkdir()
    for name, arguments in (("python", ""), ("dvc", f"'{python.with_name('dvc')}'")):
        (folder / "bin" / name).write_text(f'{script} {arguments} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    # The server must have a single thread, because a fork has only the thread that forks.
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    one_thread |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # the allocator of pyarrow
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
    sys.executable = str(
        Path(path).with_name("bin") / "python"
    )  # so that the children of programs are forked too
    gc.freeze()  # so that the collector of a child does not touch memory that it shares with this process
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
                    _send_exit_code(*key.data)
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def _fork(connection: socket.socket) -> int:
    """Read a request, fork a child that runs its program, and send the id of the child."""
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        request = json.loads(stream.read(int(size)))
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, _MANY)  # the connections, and the descriptors that watch other children
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        _run_and_end(request["arguments"])
    for file in files:
        os.close(file)
    _send(connection, pid)
    return pid


def _send_exit_code(connection: socket.socket, pid: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with connection:
        _send(connection, code)


def _send(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
        connection.sendall(b"%d\n" % number)


def _run_and_end(arguments: list[str]) -> NoReturn:
    """Run the program, and end as Python does, but without tearing down modules, which takes seconds."""
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
    except BaseException:  # noqa: BLE001  (the last handler of the process, like Python's own)
        traceback.print_exc()
    finally:
        # Python waits for threads at its end, also for those of pools. There is no public function for it.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(arguments: list[str]) -> None:
    """Run the program that ``python ARGUMENT...`` would run."""
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
