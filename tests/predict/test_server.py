"""The page's server, asked by sockets that do not do as they should."""

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
    """A gate of the demo before an application that echoes, at a port; headers have half a second."""

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


def ask(port: int, body: bytes, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=20)) as connection:
        connection.request("POST", "/", body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()


def begun(port: int, text: bytes) -> socket.socket:
    """Return a connection on which so much was sent, and no more will be."""
    connection = socket.create_connection((HOST, port), timeout=20)
    connection.sendall(text)
    return connection


def answered(port: int, text: bytes) -> bytes:
    """Return the beginning of what comes back."""
    with begun(port, text) as connection:
        return connection.recv(100)


def test_200_visitors_that_send_half_a_photo_keep_nobody_out(port: int) -> None:
    half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
    visitors = [begun(port, half) for _ in range(200)]
    assert [ask(port, b"whole") for _ in range(3)] == [(200, b"whole")] * 3
    for visitor in visitors:
        visitor.close()


@pytest.mark.parametrize("text", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: localhost\r\nX-"])
def test_half_a_head_is_given_up(port: int, text: bytes) -> None:
    assert answered(port, text) == b""  # the end of the connection
    assert ask(port, b"whole") == (200, b"whole")


def test_a_refusal_comes_before_the_photo_is_sent(port: int) -> None:
    foreign = b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n\r\n"
    assert answered(port, foreign).startswith(b"HTTP/1.1 403 ")
    large = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    assert answered(port, large).startswith(b"HTTP/1.1 413 ")


def test_a_refusal_reaches_who_sends_all_the_same(port: int) -> None:
    status, line = ask(port, bytes(3_000_000), Host="evil.example")
    assert (status, b"a foreign host name" in line) == (403, True)
