"""What a server on this machine asks of a request before it looks into it: from where, and how much.

A page of any site, open in the same browser, can send requests to this machine too, and a foreign host name
can be made to mean it. The Host and Origin headers tell both from our own pages.
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
WITHOUT_BODY = ("GET", "HEAD")  # methods
LINGERING_S = 2  # in which a request that was answered early may still be sending

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
        return printable(" ".join(str(self).split())[:300])


@dataclass(frozen=True)
class Limits:
    """What a gate lets through, and the answers to what it does not.

    Attributes:
        max_bytes: of a request's body.
        max_requests: that are worked on or wait for it; as many bodies of ``max_bytes`` may be in memory
            while they arrive.
        sending_s: seconds in which a body has to arrive.
        foreign_host: the answer to a Host header that is not of this machine.
        foreign_page: to an Origin header that is not.
        too_large: to a body of more than ``max_bytes``.
        busy: while ``max_requests`` are worked on.
        late: to a body that has not arrived in time.
        hosts: Host headers that are served besides this machine's: patterns, separated by commas.
        origins: likewise Origin headers.
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
    """A body on its way.

    Attributes:
        deadline: when it is given up.
        heard: when something of it came last.
        body: what has come.
    """

    deadline: asyncio.Timeout
    heard: float
    body: bytearray = field(default_factory=bytearray)


class Gate:
    """The ASGI application before another one: who may ask, how much, and how much at once.

    A request that it lets through arrives with its whole body in the first message. A body that arrives
    slowly keeps no other out: it takes a place among ``max_requests`` only when it is whole.

    Args:
        app: the other one.
        limits: what is let through.
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
                place.close()  # who reads an answer slowly keeps no other request out
                await send(message)

            return await self._app(scope, _given(body, receive), send_and_leave)

    def refusal(self, scope: Message, headers: dict[str, str]) -> Refused | None:
        """Judge a request by all but its body."""
        return self.foreign(headers) or self.too_much(scope, headers)

    def foreign(self, headers: dict[str, str]) -> Refused | None:
        """Judge where a request is from."""
        if not _is_known(headers.get("host", ""), self.limits.hosts):
            return self.limits.foreign_host
        if not _is_known(headers.get("origin", "http://localhost"), self.limits.origins):
            return self.limits.foreign_page
        return None

    def too_much(self, scope: Message, headers: dict[str, str]) -> Refused | None:
        """Judge whether there is room for a request's body, if it may have one."""
        if scope["method"] in WITHOUT_BODY:
            return None
        if int(headers.get("content-length", 0)) > self.limits.max_bytes:
            return self.limits.too_large
        return self.limits.busy if self._is_full else None

    @property
    def _is_full(self) -> bool:
        return self._held >= self.limits.max_requests

    async def _arrived(self, receive: Receive) -> bytes | Refused:
        """Read a body to its end."""
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
            arrival.heard = asyncio.get_running_loop().time()
            self._make_room(arrival)
        return bytes(arrival.body)

    def _make_room(self, newest: _Arrival) -> None:
        """Give up the bodies of which nothing has come for the longest time, if all take too much memory."""
        most = self.limits.max_bytes * self.limits.max_requests
        while sum(len(each.body) for each in self._arrivals) > most:
            others = (each for each in self._arrivals if each is not newest and each.body)
            stalled = min(others, key=lambda each: each.heard)
            stalled.body.clear()
            stalled.deadline.reschedule(newest.heard)

    def _leave(self) -> None:
        self._held -= 1


async def _refuse(receive: Receive, send: Send, refusal: Refused) -> None:
    """Answer at once; then read on for a moment, or who is still writing would not see the answer."""
    start, body = answer_of(refusal)
    await send(start)
    await send(body | {"more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGERING_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


async def answer(send: Send, answered: Refused | bytes) -> None:
    """Answer a request with JSON: as it is, or of a refusal its line."""
    for message in answer_of(answered):
        await send(message)


def answer_of(answered: Refused | bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two messages of an answer."""
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
    """Return a request's headers, by their names in small letters."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _is_known(host_or_origin: str, listed: str) -> bool:
    """Tell whether a Host or Origin header is of this machine's loopback, or fits a pattern of a list."""
    allowed = [pattern.strip() for pattern in listed.split(",")]
    return _LOOPBACK.fullmatch(host_or_origin) is not None or any(
        fnmatch(host_or_origin, pattern) if "*" in pattern else host_or_origin == pattern
        for pattern in filter(None, allowed)
    )


def _given(body: bytes, receive: Receive) -> Receive:
    """Return what gives an application a body that was read already, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give
