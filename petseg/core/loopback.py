"""What a server on this machine asks of a request before it looks into it: from where, and how much.

A page of anybody's, open in the same browser, can send requests to this machine too, and a name of
anybody's can be made to mean it: by the Host and Origin headers they are told from our own pages.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_LOOPBACK = re.compile(r"(https?://)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)

Message = MutableMapping[str, Any]  # this and the next three are ASGI's words
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """A request gets an answer of this HTTP status and one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def line(self) -> str:
        """The reason, in one line of bounded length."""
        return " ".join(str(self).split())[:300]


def headers_of(scope: Message) -> dict[str, str]:
    """Return a request's headers, by their names in small letters."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def is_loopback(host_or_origin: str) -> bool:
    """Tell whether a Host or Origin header is of this machine's loopback."""
    return _LOOPBACK.fullmatch(host_or_origin) is not None


async def read_body(receive: Receive, most: int) -> bytes | None:
    """Read a request to its end: who is still writing would not see an answer.

    Returns:
        Its body; None where that has more bytes than ``most``.
    """
    kept, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size <= most:
            kept += chunk
        else:
            kept.clear()
    return bytes(kept) if size <= most else None
