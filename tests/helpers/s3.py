"""A real S3 server (moto's) on the loopback, and between it and the client a proxy in which the line fails on purpose."""

from __future__ import annotations

import http.client
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

BUCKET = "photos"
CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD path` matches, after `skip` that pass.

    status: answer this. cut: hang up after so many bytes of the answer's body. wait: seconds before the first byte. die:
    hang up at once, before the server hears of it."""

    match: str
    times: int = 1
    skip: int = 0
    status: int = 0
    cut: int = -1
    wait: float = 0.0
    die: bool = False


@dataclass
class S3:
    """The server behind the proxy. faults: to come; log: (METHOD, path, Range, status) of what was answered."""

    url: str
    behind: str
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str, str, int]] = field(default_factory=list)
    now: int = 0
    most: int = 0
    guard: Any = field(default_factory=threading.Lock)

    @cached_property
    def client(self) -> Any:
        """boto3's, past the proxy."""
        import boto3

        return boto3.client("s3", endpoint_url=self.behind)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def put_folder(self, folder: Any, prefix: str) -> None:
        client = self.client
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())

    def keys(self, prefix: str = "") -> dict[str, bytes]:
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in found}

    def asked(self, match: str) -> list[tuple[str, str, str, int]]:
        """The requests whose `METHOD path` matches, and forget all."""
        with self.guard:
            asked, self.log[:] = [line for line in self.log if re.search(match, f"{line[0]} {line[1]}")], []
        return asked


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        s3 = self.s3
        body = self._body()
        with s3.guard:
            fault = self._fault()
            s3.now += 1
            s3.most = max(s3.most, s3.now)
        try:
            if fault and fault.wait:
                time.sleep(fault.wait)
            if fault and fault.die:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            if fault and fault.status:
                error = f"<?xml version='1.0'?><Error><Code>{CODES[fault.status]}</Code><Message>No.</Message></Error>"
                self._answer(fault.status, {"Content-Type": "application/xml"}, error.encode(), None)
                return
            status, headers, data = self._ask(body)
            self._answer(status, headers, data, fault)
        finally:
            with s3.guard:
                s3.now -= 1

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fault(self) -> Fault | None:
        for fault in self.s3.faults:
            if fault.times and re.search(fault.match, f"{self.command} {self.path}"):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        line = http.client.HTTPConnection(self.s3.behind.removeprefix("http://"), timeout=30)
        try:
            headers = {n: v for n, v in self.headers.items() if n.lower() not in ("transfer-encoding", "expect")}
            headers["Content-Length"] = str(len(body))
            line.request(self.command, self.path, body, headers)
            answer = line.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            line.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes, fault: Fault | None) -> None:
        with self.s3.guard:
            self.s3.log.append((self.command, self.path, self.headers.get("Range", ""), status))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        cut = fault.cut if fault else -1
        if self.command != "HEAD":
            self.wfile.write(data[:cut] if cut >= 0 else data)
        if cut >= 0:
            self.close_connection = True


@contextmanager
def running_s3() -> Iterator[S3]:
    """The server with an empty bucket, and this process's login to it, as AWS's own tools find it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    s3 = S3("", f"http://{host}:{port}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Faulty", (Proxy,), {"s3": s3}))
    server.daemon_threads, s3.url = True, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": s3.url,
            "AWS_ACCESS_KEY_ID": "AKIDTEST",
            "AWS_SECRET_ACCESS_KEY": "secretsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        s3.client.create_bucket(Bucket=BUCKET)
        patch.setattr("builder.buckets.line.WAITS", (0.01, 0.02, 0.05))
        yield s3
    server.shutdown()
    server.server_close()
    thread.join()
    moto.stop()
