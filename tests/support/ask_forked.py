"""Stands in for ``python ARGUMENT...``, and starts at once: ``python -IS ask_forked.py SOCKET ARGUMENT...``.

It sends its arguments, folder, environment and open files to the server of forked.py, and waits. It forwards
signals, and ends as the forked process ends. It imports only modules that load quickly.
"""

import json
import os
import signal
import socket
import sys


def ask(
    connection: socket.socket,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    files: list[int],
) -> int:
    """Ask the server to run a program.

    Args:
        connection: to the server; a line with the exit code arrives when the program has ended.
        arguments: of ``python``.
        folder: the working folder of the program.
        environment: of the program.
        files: its standard input, output and error.

    Returns:
        The process id of the program.
    """
    request = {"arguments": arguments, "folder": folder, "environment": environment}
    content = json.dumps(request).encode()
    socket.send_fds(connection, [b"%8d" % len(content)], files)
    connection.sendall(content)
    return read_number(connection)


def read_number(connection: socket.socket) -> int:
    """Wait for a line from the server that holds a number.

    Raises:
        ConnectionError: the server has ended.
    """
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the server that forks has ended")
        line += byte
    return int(line)


def main() -> None:
    """Run a program by the server, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        folder = os.getcwd()  # noqa: PTH109  (pathlib takes long to import)
        pid = ask(connection, sys.argv[2:], folder, dict(os.environ), [0, 1, 2])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = read_number(connection)
    if code < 0:  # it was ended by a signal
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
