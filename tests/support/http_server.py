"""A file server with Range that breaks off and fails on demand, and a port on which nobody listens."""

import socket
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from petseg.data.download import CHECKSUMS


class Server(ThreadingHTTPServer):
    """Serves a folder, with Range; ``cut_after`` and ``status`` make its next answers fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.cut_after: list[int] = []  # after so many bytes each of the next archives breaks off
        self.status: list[int] = []  # the status of each of the next answers
        self.ranges: list[str | None] = []
        self.delay_s = 0.0
        self.credentials = ""  # ``user:password``; if set, requests without it are refused

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / self.path.rpartition("/")[2]
        expected = self.server.credentials and f"Basic {b64encode(self.server.credentials.encode()).decode()}"
        if expected and self.headers.get("Authorization") != expected:
            self.send_error(401)
            return
        if self.server.status and path.name != CHECKSUMS:
            self.send_error(self.server.status.pop(0))
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        requested_range = self.headers.get("Range")
        if path.name != CHECKSUMS:
            self.server.ranges.append(requested_range)
        if requested_range:
            start = int(requested_range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
        body = data[start:]
        self.send_response(206 if requested_range else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut_after and path.name != CHECKSUMS:
            body = body[: self.server.cut_after.pop(0)]
        for at in range(0, len(body), 4096):
            self.wfile.write(body[at : at + 4096])
            time.sleep(self.server.delay_s)

    def log_message(self, *_: object) -> None:
        pass


def closed_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
