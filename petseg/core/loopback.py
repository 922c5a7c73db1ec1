"""Check where a request to a local server comes from, and how large it is, before the server handles it.

A page of any website that is open in the same browser can send requests to this machine, and a foreign host
name can be made to point to it. The Host and Origin headers distinguish both from petseg's own pages.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from petseg.core.textfiles import printable

_LOOPBACK = re.compile(r"(https?://)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
WITHOUT_BODY = ("GET", "HEAD")  # methods whose requests have no body
LINGERING_S = 2  # seconds in which the rest of a request that was answered early is still read

Message = MutableMapping[str, Any]  # this and the next three are terms of ASGI
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """A request is answered with this HTTP status and one line of text."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def line(self) -> str:
        """The reason, in one line of bounded length."""
        return printable(" ".join(str(self).split())[:300])


@dataclass(frozen=True)
class Limits:
    """The limits of a gate, and its answers to requests beyond them.

    Attributes:
        max_bytes: size limit of a request's body.
        max_requests: how many requests may wait or be processed at once; so many times ``max_bytes`` of
            arriving bodies may be in memory.
        sending_s: seconds in which a body must arrive.
        foreign_host: the answer to a Host header that does not name this machine.
        foreign_page: the answer to an Origin header that does not name this machine.
        too_large: the answer to a body of more than ``max_bytes``.
        busy: the answer while ``max_requests`` are waiting or being processed.
        late: the answer to a body that does not arrive in time.
        hosts: further Host headers that are allowed: patterns, separated by commas.
        origins: further Origin headers, likewise.
    """

    max_bytes: int
    max_requests: int
    sending_s: float
    foreign_host: Refused
    foreign_page: Refused
    too_large: Refused
    busy: Refused
    late: Refused
    hosts: str = ""
    origins: str = ""


@dataclass
class _Arrival:
    """A body that is arriving.

    Attributes:
        deadline: when it is given up.
        last_received: when its newest part arrived.
        body: the parts that have arrived.
    """

    deadline: asyncio.Timeout
    last_received: float
    body: bytearray = field(default_factory=bytearray)


class Gate:
    """An ASGI middleware that limits who may send requests, how large they are, and how many run at once.

    The application gets the whole body in the first message. A body that arrives slowly does not block other
    requests: it counts among ``max_requests`` only when it is complete.

    Args:
        app: the application behind the gate.
        limits: which requests reach it.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self.limits = app, limits
        self._held = 0
        self._arrivals: list[_Arrival] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or let it through."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refusal = self.refusal(scope, _headers(scope))
        if refusal is not None:
            return await _refuse(receive, send, refusal)
        if scope["method"] in WITHOUT_BODY:
            return await self._app(scope, receive, send)
        body = await self._arrived(receive)
        if isinstance(body, Refused):
            return await _refuse(receive, send, body)
        with ExitStack() as place:
            self._held += 1
            place.callback(self._leave)

            async def send_and_leave(message: Message) -> None:
                place.close()  # a client that reads its answer slowly does not block other requests
                await send(message)

            return await self._app(scope, _given(body, receive), send_and_leave)

    def refusal(self, scope: Message, headers: dict[str, str]) -> Refused | None:
        """Return why a request is refused, without looking at its body; None if it is not."""
        return self.foreign(headers) or self.too_much(scope, headers)

    def foreign(self, headers: dict[str, str]) -> Refused | None:
        """Return why a request is refused for its origin; None if it is not."""
        if not _is_known(headers.get("host", ""), self.limits.hosts):
            return self.limits.foreign_host
        if not _is_known(headers.get("origin", "http://localhost"), self.limits.origins):
            return self.limits.foreign_page
        return None

    def too_much(self, scope: Message, headers: dict[str, str]) -> Refused | None:
        """Return why a request is refused for its size, or for lack of room; None if it is not."""
        if scope["method"] in WITHOUT_BODY:
            return None
        if int(headers.get("content-length", 0)) > self.limits.max_bytes:
            return self.limits.too_large
        return self.limits.busy if self._is_full else None

    @property
    def _is_full(self) -> bool:
        return self._held >= self.limits.max_requests

    async def _arrived(self, receive: Receive) -> bytes | Refused:
        """Read a body to its end, or return why it is refused."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.sending_s) as deadline:
                arrival = _Arrival(deadline, loop.time())
                self._arrivals.append(arrival)
                try:
                    body = await self._read(receive, arrival)
                finally:
                    self._arrivals.remove(arrival)
        except TimeoutError:
            return self.limits.late
        return self.limits.busy if self._is_full else body

    async def _read(self, receive: Receive, arrival: _Arrival) -> bytes | Refused:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return self.limits.late
            arrival.body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(arrival.body) > self.limits.max_bytes:
                return self.limits.too_large
            arrival.last_received = asyncio.get_running_loop().time()
            self._make_room(arrival)
        return bytes(arrival.body)

    def _make_room(self, newest: _Arrival) -> None:
        """If all bodies take too much memory, give up those that have received nothing for longest."""
        most = self.limits.max_bytes * self.limits.max_requests
        while sum(len(each.body) for each in self._arrivals) > most:
            others = (each for each in self._arrivals if each is not newest and each.body)
            stalled = min(others, key=lambda each: each.last_received)
            stalled.body.clear()
            stalled.deadline.reschedule(newest.last_received)

    def _leave(self) -> None:
        self._held -= 1


async def _refuse(receive: Receive, send: Send, refusal: Refused) -> None:
    """Answer at once, then read on for a moment: a client that is still sending would miss the answer."""
    start, body = answer_of(refusal)
    await send(start)
    await send(body | {"more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGERING_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


async def answer(send: Send, answered: Refused | bytes) -> None:
    """Answer a request with JSON: the given bytes, or the line of a refusal."""
    for message in answer_of(answered):
        await send(message)


def answer_of(answered: Refused | bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two ASGI messages of an answer."""
    if isinstance(answered, Refused):
        status, body = answered.status, json.dumps({"error": answered.line}).encode()
    else:
        status, body = 200, answered
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return (
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def _headers(scope: Message) -> dict[str, str]:
    """Return the headers of a request, by their names in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _is_known(host_or_origin: str, listed: str) -> bool:
    """Return whether a Host or Origin header names this machine, or fits a pattern of the list."""
    allowed = [pattern.strip() for pattern in listed.split(",")]
    return _LOOPBACK.fullmatch(host_or_origin) is not None or any(
        fnmatch(host_or_origin, pattern) if "*" in pattern else host_or_origin == pattern
        for pattern in filter(None, allowed)
    )


def _given(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the application the body that was read, and then the later messages."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give
