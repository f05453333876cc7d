"""Hubs that answer wrongly, slowly, endlessly or not at all: real servers on the loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.helpers.hub_server import Handler, HubServer

Answer = Callable[["HostileHandler"], None]
SLOW, ENDLESS = 0.3, 1 << 16
"""Seconds between the bytes of a slow answer; bytes of a part of one that does not end."""
LIST = (
    "/api/datasets/org/pets",
    "/api/datasets/org/pets/refs",
    "/api/datasets/org/pets/tree",
    "/api/datasets/org/pets/commits",
)


class HostileHandler(Handler):
    """What a Hub answers, but where its server is told otherwise."""

    server: HostileServer

    def _serve(self) -> None:
        where = f"{self.command} {self.path}"
        for match, answer in self.server.wrongs.items():
            if match in where:
                self.received = 0
                with suppress(OSError):
                    length = int(self.headers.get("Content-Length", 0))
                    self.rfile.read(min(length, 1 << 20))
                    answer(self)
                return
        if "authorization" in self.headers:
            self.server.shown.append(where)
        super()._serve()

    def raw(self, data: bytes) -> None:
        self.close_connection = True
        self.wfile.write(data)


class HostileServer(HubServer):
    """A HubServer that answers some requests otherwise. wrongs: a part of `METHOD path` -> what it does then; shown: the
    requests that showed the token."""

    def __init__(self, root: Any, wrongs: dict[str, Answer]) -> None:
        super().__init__(root)
        self.RequestHandlerClass = HostileHandler
        self.wrongs, self.shown = wrongs, list[str]()


@contextmanager
def running(root: Any, wrongs: dict[str, Answer]) -> Iterator[HostileServer]:
    server = HostileServer(root, wrongs)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Elsewhere:
    """Another host: a socket that remembers what it was told."""

    heard: list[bytes] = field(default_factory=list)
    port: int = 0

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Elsewhere]:
        """On 127.0.0.2, which is another host than 127.0.0.1."""
        other = cls()
        with socket.create_server(("127.0.0.2", 0)) as listener:
            other.port = listener.getsockname()[1]
            threading.Thread(target=other._hear, args=(listener,), daemon=True).start()
            yield other

    def _hear(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    self.heard.append(connection.recv(1 << 16))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")


# ---- wrong answers


def head(status: int = 200, length: int | None = None, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(
        [*lines, *([] if length is None else [f"Content-Length: {length}"]), "Connection: close", "", ""]
    ).encode()


def says(body: bytes, status: int = 200, **headers: str) -> Answer:
    return lambda handler: handler.raw(head(status, len(body), **headers) + body)


def cut(handler: HostileHandler) -> None:
    handler.raw(head(200, 10_000) + b'{"id": "org/')


def silent(handler: HostileHandler) -> None:
    time.sleep(30)


def silent_after_head(handler: HostileHandler) -> None:
    handler.raw(head(200, 10_000))
    handler.wfile.flush()
    time.sleep(30)


def slow(handler: HostileHandler) -> None:
    handler.raw(head(200))
    for _ in range(1000):
        time.sleep(SLOW)
        handler.wfile.write(b" ")


def endless(handler: HostileHandler) -> None:
    handler.raw(head(200) + b"[")
    while True:
        handler.wfile.write(b"1," * (ENDLESS // 2))


def endless_head(handler: HostileHandler) -> None:
    handler.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-More: " + b"x" * ENDLESS + b"\r\n")


def endless_pages(handler: HostileHandler) -> None:
    body = json.dumps([{"type": "file", "oid": "0" * 40, "size": 1, "path": f"x{time.time_ns()}"}]).encode()
    handler.raw(head(200, len(body), Link=f'<{handler.server.url}{handler.path}>; rel="next"') + body)


def packed(handler: HostileHandler) -> None:
    import gzip

    body = gzip.compress(b" " * (1 << 28))
    handler.raw(head(200, len(body), Content_Encoding="gzip") + body)


def garbage(handler: HostileHandler) -> None:
    handler.raw(b"\x16\x03\x01 what is this\r\n\r\n" + bytes(range(256)))


def closed(handler: HostileHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def leads_to(address: str, status: int = 302) -> Answer:
    return says(b"", status, Location=address)


def next_page_at(address: str) -> Answer:
    return says(b"[]", Link=f'<{address}>; rel="next"')


NONSENSE: dict[str, Answer] = {
    "null": says(b"null"),
    "a list": says(b"[]"),
    "a number": says(b"17"),
    "a text": says(b'"pets"'),
    "an empty object": says(b"{}"),
    "nothing": says(b""),
    "HTML": says(b"<!doctype html><title>Sign in</title>" * 50, Content_Type="text/html"),
    "deep": says(b"[" * 100_000),
    "a number of 5,000 digits": says(b'{"id": ' + b"9" * 5000 + b"}"),
    "not UTF-8": says(b'{"id": "\xff\xfe"}'),
    "wrong types": says(
        json.dumps({"id": 7, "sha": ["x"], "branches": {"a": 1}, "tags": None, "siblings": "x"}).encode()
    ),
    "a commit that leads out": says(json.dumps({"id": "org/pets", "sha": "../../../../etc", "siblings": []}).encode()),
    "control characters": says(b"\x1b[2J\x1b]0;evil\x07" * 9, 418, X_Error_Message="\x1b[31mred"),
    "cut": cut,
    "silent": silent,
    "silent after its head": silent_after_head,
    "slow": slow,
    "endless": endless,
    "an endless head": endless_head,
    "endless pages": endless_pages,
    "a bomb": packed,
    "garbage": garbage,
    "closed": closed,
    "429 for ever": says(b"", 429),
    "429 for a year": says(b"", 429, Retry_After="31536000"),
    "429 in a window of a year": says(b"", 429, RateLimit='"api";r=0;t=31536000'),
    "429 until 2999": says(b"", 429, Retry_After="Wed, 21 Oct 2999 07:28:00 GMT"),
    "503 for ever": says(b"", 503),
    "500 with a page": says(b"<html>" * 9999, 500),
    "401": says(b"{}", 401),
    "redirect to a file": leads_to("file:///etc/passwd"),
    "redirect in a circle": lambda handler: leads_to(handler.path)(handler),
    "redirect to nowhere": leads_to("http://127.0.0.1:9/"),
    "redirect to nonsense": leads_to("http://[::bad"),
}
"""Wrong answers by name."""
