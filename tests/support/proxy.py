"""An HTTP proxy in front of an S3 server that injects latency and faults."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What happens to one request: None = nothing; otherwise a word of `FAULTS`.
Decide = Callable[[str, str, int], "str | None"]
CODES = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "SlowDown": (503, "SlowDown"),
    "ExpiredToken": (400, "ExpiredToken"),
    "AccessDenied": (403, "AccessDenied"),
}
FAULTS = ("drop", "reset", "truncate", "short", "stall", *CODES)
# Answers that arrive whole and are wrong; the last four never end, in one way or another.
WRONG = ("flip", "swap", "other", "shift", "whole", "trickle", "trickled head", "again", "lost")


class FaultProxy:
    """Relays to ``upstream`` (an endpoint URL).

    Args:
        latency: seconds before each request is passed on.
        decide: ``(method, path with query, number of the request) -> fault``.
        stall_seconds: how long a stalled answer stays silent.
        cut: the share of a body that arrives before it breaks off; asked once for each fault.
        other: the contents that the object has for ``swap`` (under the same ETag) and ``other``
            (under another one).
    """

    def __init__(
        self,
        upstream: str,
        latency: float = 0.0,
        decide: Decide | None = None,
        stall_seconds: float = 5.0,
        cut: Callable[[], float] = lambda: 0.5,
        other: bytes = b"",
    ) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self.requests: list[tuple[str, str]] = []
        lock = threading.Lock()
        proxy = self
        local = threading.local()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                return

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def relay(self) -> None:
                with lock:
                    number = len(proxy.requests)
                    proxy.requests.append((self.command, self.path))
                fault = decide(self.command, self.path, number) if decide else None
                if latency:
                    time.sleep(latency)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if fault in CODES:
                    self.refuse(*CODES[fault])
                    return
                if not hasattr(local, "upstream"):
                    local.upstream = http.client.HTTPConnection(host, int(port), timeout=60)
                local.upstream.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for key, value in self.headers.items():
                    local.upstream.putheader(key, value)
                local.upstream.endheaders(body or None)
                answer = local.upstream.getresponse()
                if fault is None and answer.getheader("Content-Length") and self.command != "HEAD":
                    self.head(answer)
                    while chunk := answer.read(1 << 18):
                        self.wfile.write(chunk)
                    return
                data = answer.read()
                if fault == "drop":  # the connection ends before a word was said
                    self.close_connection = True
                    return
                if fault in WRONG:
                    self.mislead(str(fault), answer, data)
                    return
                if fault == "short":  # part of the body, announced as the whole
                    data = data[: int(len(data) * cut())]
                self.head(answer, None if self.command == "HEAD" else len(data))
                if self.command == "HEAD":
                    return
                if fault in ("reset", "truncate", "stall"):
                    self.wfile.write(data[: int(len(data) * cut())])
                    self.wfile.flush()
                    if fault == "stall":
                        time.sleep(stall_seconds)
                    if fault == "reset":
                        self.connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    self.close_connection = True
                    return
                self.wfile.write(data)

            def mislead(self, fault: str, answer: http.client.HTTPResponse, data: bytes) -> None:
                """Passes on an answer that is wrong in one way."""
                headers = {key.lower(): value for key, value in answer.getheaders()}
                status, seen = answer.status, self.headers.get("Range")
                first = int(seen.removeprefix("bytes=").partition("-")[0]) if seen else 0
                if fault == "flip" and data:
                    place = int((len(data) - 1) * cut())
                    data = data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]
                if fault in ("swap", "other"):
                    data = other[first : first + len(data)].ljust(len(data), b"?")
                if fault == "other":
                    headers["etag"] = '"00000000000000000000000000000000"'
                if fault == "shift" and "content-range" in headers:
                    last = first + len(data)
                    total = headers["content-range"].rpartition("/")[2]
                    headers["content-range"] = f"bytes {first + 1}-{last}/{total}"
                if fault == "whole" and seen:
                    status, data = 200, other
                    headers.pop("content-range", None)
                if fault == "again" and b"<ListBucketResult" in data:
                    data = _listed(data, b"<NextContinuationToken>same</NextContinuationToken>")
                if fault == "lost" and b"<ListBucketResult" in data:
                    data = _listed(data, b"")

                self.send_response_only(status)
                if fault == "trickled head":
                    self.trickle(b"X-Slow: " + b"x" * 4000)
                    return
                for key, value in headers.items():
                    if key not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if fault == "trickle":
                    self.trickle(data)
                else:
                    self.wfile.write(data)

            def trickle(self, data: bytes) -> None:
                """A few bytes a second, for as long as anybody listens."""
                self.flush_headers()
                for place in range(len(data)):
                    self.wfile.write(data[place : place + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
                self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

            def head(self, answer: http.client.HTTPResponse, length: int | None = None) -> None:
                self.send_response_only(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in ("transfer-encoding", "connection") and not (
                        length is not None and key.lower() == "content-length"
                    ):
                        self.send_header(key, value)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()

            def refuse(self, status: int, code: str) -> None:
                error = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
                data = f"<?xml version='1.0'?>{error}".encode()
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Content-Type", "application/xml")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _listed(page: bytes, token: bytes) -> bytes:
    """A page of a list that says it goes on."""
    page = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", page)
    page = re.sub(rb"<IsTruncated>\w+</IsTruncated>", b"", page)
    return page.replace(b"</ListBucketResult>", b"<IsTruncated>true</IsTruncated>" + token) + (
        b"</ListBucketResult>"
    )


if (
    __name__ == "__main__"
):  # python -m tests.support.proxy UPSTREAM LATENCY: a process of its own, for benchmarks
    with FaultProxy(sys.argv[1], float(sys.argv[2])) as running:
        print(running.endpoint, flush=True)
        threading.Event().wait()
