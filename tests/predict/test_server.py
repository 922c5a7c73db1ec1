"""The server of the demo page, against clients that misbehave."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest
import uvicorn

from petseg.core.loopback import Message, Receive, Send, answer
from petseg.predict.demo import server
from petseg.predict.demo.app import DemoGate
from petseg.predict.demo.server import HOST, Impatient, listen


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of the demo's gate in front of an echo application. Headers must arrive in half a second."""

    async def echo(scope: Message, receive: Receive, send: Send) -> None:
        await answer(send, (await receive()).get("body", b""))

    monkeypatch.setattr(server, "HEADERS_S", 0.5)
    listener = listen(0)
    settings = uvicorn.Config(DemoGate(echo), http=Impatient, log_level="error", lifespan="off")
    serving = uvicorn.Server(settings)
    thread = Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    serving.should_exit = True
    thread.join()


def post(port: int, body: bytes, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=20)) as connection:
        connection.request("POST", "/", body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()


def send_part(port: int, text: bytes) -> socket.socket:
    """Send a part of a request, and return the open connection."""
    connection = socket.create_connection((HOST, port), timeout=20)
    connection.sendall(text)
    return connection


def answer_to(port: int, text: bytes) -> bytes:
    """Send a part of a request, and return the beginning of the answer."""
    with send_part(port, text) as connection:
        return connection.recv(100)


def test_200_half_sent_photos_do_not_block_others(port: int) -> None:
    half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
    visitors = [send_part(port, half) for _ in range(200)]
    assert [post(port, b"whole") for _ in range(3)] == [(200, b"whole")] * 3
    for visitor in visitors:
        visitor.close()


@pytest.mark.parametrize("text", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: localhost\r\nX-"])
def test_a_connection_with_half_a_header_is_closed(port: int, text: bytes) -> None:
    assert answer_to(port, text) == b""  # the connection is closed
    assert post(port, b"whole") == (200, b"whole")


def test_a_refusal_is_sent_before_the_photo(port: int) -> None:
    foreign = b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n\r\n"
    assert answer_to(port, foreign).startswith(b"HTTP/1.1 403 ")
    large = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    assert answer_to(port, large).startswith(b"HTTP/1.1 413 ")


def test_a_refusal_reaches_a_client_that_still_sends(port: int) -> None:
    status, line = post(port, bytes(3_000_000), Host="evil.example")
    assert (status, b"a foreign host name" in line) == (403, True)
