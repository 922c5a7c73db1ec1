"""The page's server: 127.0.0.1 and one port, until Ctrl-C."""

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
HEADERS_S = 10  # in which the headers of a request have to arrive


class Impatient(H11Protocol):
    """Uvicorn's protocol, which would wait for ever for the rest of a request's headers."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on, unless a request is there."""
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
    """Take a port; 0 for any that is free.

    Args:
        port: its number.
        host: the address to listen at: the loopback, unless the machine is a container.

    Raises:
        UsageError: it is taken, or not this person's to take.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a port rests a minute after its use
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken" if taken else f"can't be had ({error.strerror})"
        raise UsageError(f"port {port} of {host} {reason}; try --port {max(port, 1024) + 1}") from None
    return listener


def serve(app: App, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C, which is how a person ends it and so no failure.

    Args:
        app: what answers.
        listener: of ``listen``; requests wait there from the first moment on.
        ready: called with the page's address.
    """
    host, port = listener.getsockname()
    ready(f"http://{HOST if host == ANY else host}:{port}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # uvicorn ends by it, and then raises it once more
    settings = uvicorn.Config(
        app, http=Impatient, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(settings).run(sockets=[listener])
