"""The page's server: 127.0.0.1 and one port, until Ctrl-C."""

import errno
import signal
import socket
from collections.abc import Callable

import uvicorn

from petseg.core.loopback import App
from petseg.errors import UsageError

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """Take a port of the loopback; 0 for any that is free.

    Raises:
        UsageError: it is taken, or not this person's to take.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a port rests a minute after its use
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken" if taken else f"can't be had ({error.strerror})"
        raise UsageError(f"port {port} of {HOST} {reason}; try --port {max(port, 1024) + 1}") from None
    return listener


def serve(app: App, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C, which is how a person ends it and so no failure.

    Args:
        app: what answers.
        listener: of ``listen``; requests wait there from the first moment on.
        ready: called with the page's address.
    """
    ready(f"http://{HOST}:{listener.getsockname()[1]}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # uvicorn ends by it, and then raises it once more
    settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(settings).run(sockets=[listener])
