"""The page's server: it answers at one port of 127.0.0.1, until Ctrl-C."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from typing import cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from petseg.core.loopback import App
from petseg.errors import UsageError

HOST, ANY = "127.0.0.1", "0.0.0.0"
HEADERS_S = 10  # within which the headers of a request have to arrive


class Impatient(H11Protocol):
    """Uvicorn's HTTP protocol with a time limit for a request's headers; by default there is none."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop the timer once the headers are complete."""
        super().data_received(data)
        self._wait()

    def _wait(self) -> None:
        begun = self.cycle is not None and not self.cycle.response_complete
        if begun and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not begun and self._timer is None:
            self._timer = self.loop.call_later(HEADERS_S, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def listen(port: int, host: str = HOST) -> socket.socket:
    """Take a port; 0 takes any free one.

    Args:
        port: the number of the port.
        host: the address to listen on: the loopback interface, unless this is a container.

    Raises:
        UsageError: the port is taken, or this user may not take it.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a used port is blocked for a minute
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken" if taken else f"can't be used ({error.strerror})"
        raise UsageError(f"port {port} of {host} {reason}; try --port {max(port, 1024) + 1}") from None
    return listener


def serve(app: App, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer requests until Ctrl-C, which is the normal end and no error.

    Args:
        app: the application that answers.
        listener: the socket from ``listen``, in which requests wait until the server has started.
        ready: called with the page's address.
    """
    host, port = listener.getsockname()
    ready(f"http://{HOST if host == ANY else host}:{port}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # uvicorn has its own handler, and sends it again at its end
    settings = uvicorn.Config(
        app, http=Impatient, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(settings).run(sockets=[listener])
