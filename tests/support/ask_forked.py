"""Takes the place of ``python ARGUMENT...``: ``python -IS ask_forked.py SOCKET ARGUMENT...``.

It hands its arguments, folder, environment and open files to the server of forked.py, waits, passes signals
on, and ends as the forked process ended. It imports nothing that takes long.
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
    """Let the server at the other end run a program.

    Args:
        connection: to the server; a line with the exit code arrives when the program has ended.
        arguments: of ``python``.
        folder: where it runs.
        environment: its variables.
        files: its standard input, output and error.

    Returns:
        The id of its process.
    """
    request = {"arguments": arguments, "folder": folder, "environment": environment}
    content = json.dumps(request).encode()
    socket.send_fds(connection, [b"%8d" % len(content)], files)
    connection.sendall(content)
    return read_number(connection)


def read_number(connection: socket.socket) -> int:
    """Wait for a line of the server's, which is a number.

    Raises:
        ConnectionError: the server has ended.
    """
    line = b""
    while not line.endswith(b"\n"):
        got = connection.recv(1)
        if not got:
            raise ConnectionError("the server that forks has ended")
        line += got
    return int(line)


def main() -> None:
    """Be the program that the server runs."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        folder = os.getcwd()  # noqa: PTH109  (pathlib takes long to import)
        pid = ask(connection, sys.argv[2:], folder, dict(os.environ), [0, 1, 2])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = read_number(connection)
    if code < 0:  # by a signal
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
