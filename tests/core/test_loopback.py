"""The gate in front of the servers on this machine."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from petseg.core.loopback import Gate, Limits, Message, Receive, Refused, Send, answer

LIMITS = Limits(
    max_bytes=4,
    max_requests=1,
    sending_s=0.05,
    foreign_host=Refused(403, "host"),
    foreign_page=Refused(403, "page"),
    too_large=Refused(413, "too large"),
    busy=Refused(503, "busy"),
    late=Refused(408, "late"),
    hosts="pets.example:*, other.example",
    origins="https://pets.example",
)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answer with the body that was sent."""
    await answer(send, (await receive()).get("body", b""))


class Visitor:
    """A request and its answer.

    Args:
        chunks: of the body; nothing arrives after the last one.
        ends: whether the last chunk is marked as the last one.
        headers: of the request, besides its host.
    """

    def __init__(
        self, chunks: Iterable[bytes] = (b"",), *, ends: bool = True, method: str = "POST", **headers: str
    ) -> None:
        self.scope: Message = {"type": "http", "method": method, "path": "/"}
        given = {"host": "localhost", **headers}
        self.scope["headers"] = [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()]
        chunks = list(chunks)
        self._coming = [
            {"type": "http.request", "body": chunk, "more_body": place < len(chunks) or not ends}
            for place, chunk in enumerate(chunks, start=1)
        ]
        self.answered: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Message:
        if not self._coming:
            await asyncio.Event().wait()
        return self._coming.pop(0)

    async def send(self, message: Message) -> None:
        self.answered.append(message)
        await self.reads.wait()

    async def visit(self, gate: Gate) -> tuple[int, bytes]:
        await gate(self.scope, self.receive, self.send)
        return self.answered[0]["status"], self.answered[1]["body"]


def request(*chunks: bytes, **how: Any) -> tuple[int, bytes]:
    async def visit() -> tuple[int, bytes]:
        return await Visitor(chunks or (b"",), **how).visit(Gate(echo, LIMITS))

    return asyncio.run(visit())


def refused(status: int, line: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": line}).encode()


def test_a_body_arrives_whole() -> None:
    assert request(b"ab", b"cd") == (200, b"abcd")
    assert request(method="GET") == (200, b"")


def test_a_body_that_is_too_large_is_refused() -> None:
    assert request(b"ab", b"cde") == refused(413, "too large")
    assert request(b"a", content_length="5") == refused(413, "too large")


def test_a_body_that_does_not_arrive_is_refused() -> None:
    assert request(b"ab", ends=False) == refused(408, "late")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "127.0.0.1:80", "origin": "http://[::1]:3000"}, (200, b"")),
        ({"host": "pets.example:80", "origin": "https://pets.example"}, (200, b"")),
        ({"host": "other.example"}, (200, b"")),
        ({"host": "pets.example"}, refused(403, "host")),
        ({"host": "other.example:80"}, refused(403, "host")),
        ({"origin": "https://pets.example:80"}, refused(403, "page")),
        ({"origin": "null"}, refused(403, "page")),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_known_hosts_and_pages_may_ask(
    headers: dict[str, str], expected: tuple[int, bytes], method: str
) -> None:
    assert request(method=method, **headers) == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"origin": "https://evil.example"}, refused(403, "page")),
        ({"content_length": "5"}, refused(413, "too large")),
    ],
)
def test_a_refusal_is_sent_before_the_body_is_read(how: dict[str, str], expected: tuple[int, bytes]) -> None:
    async def visit() -> tuple[int, bytes]:
        visitor = Visitor((b"a",), ends=False, **how)
        task = asyncio.create_task(visitor.visit(Gate(echo, LIMITS)))
        while len(visitor.answered) < 2:
            await asyncio.sleep(0)
        assert not task.done()  # it still reads, for a moment
        task.cancel()
        return visitor.answered[0]["status"], visitor.answered[1]["body"]

    assert asyncio.run(visit()) == expected


def test_slow_bodies_do_not_block_other_requests() -> None:
    async def together() -> list[tuple[int, bytes]]:
        gate = Gate(echo, LIMITS)
        slow = [asyncio.create_task(Visitor((b"a",), ends=False).visit(gate)) for _ in range(200)]
        await asyncio.sleep(0)
        quick = await Visitor((b"ab", b"cd")).visit(gate)
        return [quick, *await asyncio.gather(*slow)]

    quick, *slow = asyncio.run(together())
    assert quick == (200, b"abcd")
    assert slow == [refused(408, "late")] * 200


def test_memory_of_bodies_is_bounded_and_stalled_ones_are_refused_first() -> None:
    async def together() -> tuple[int, tuple[int, bytes], bool]:
        gate = Gate(echo, replace(LIMITS, sending_s=60))
        stalled = asyncio.create_task(Visitor((b"abc",), ends=False).visit(gate))
        await asyncio.sleep(0)
        active = asyncio.create_task(Visitor((b"ab", b"c"), ends=False).visit(gate))
        await asyncio.sleep(0)
        held = sum(len(each.body) for each in gate._arrivals)
        first = await stalled
        still = not active.done()
        active.cancel()
        return held, first, still

    assert asyncio.run(together()) == (3, refused(408, "late"), True)


def test_half_a_body_of_a_visitor_who_hung_up_is_not_processed() -> None:
    visitor = Visitor((b"ab",), ends=False)
    visitor._coming.append({"type": "http.disconnect"})
    assert asyncio.run(visitor.visit(Gate(echo, LIMITS))) == refused(408, "late")


def test_a_request_takes_a_place_until_its_answer_begins() -> None:
    async def together() -> list[tuple[int, bytes]]:
        working = asyncio.Event()

        async def patient(scope: Message, receive: Receive, send: Send) -> None:
            await working.wait()
            await echo(scope, receive, send)

        gate = Gate(patient, LIMITS)
        reading = Visitor((b"c",))
        reading.reads.clear()
        first = asyncio.create_task(reading.visit(gate))
        await asyncio.sleep(0)  # it now holds the only place
        answers = [await Visitor().visit(gate)]
        working.set()
        while not reading.answered:
            await asyncio.sleep(0)
        answers.append(
            await Visitor((b"d",)).visit(gate)
        )  # the place is free, though the first answer is not read
        reading.reads.set()
        return [*answers, await first]

    assert asyncio.run(together()) == [refused(503, "busy"), (200, b"d"), (200, b"c")]
