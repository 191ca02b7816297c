"""A plain web server of files, as well or ill equipped as a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(ThreadingHTTPServer):
    """Serves ``files`` (path and query → content).

    ``ranges`` and ``lengths`` say what it can, ``headers`` what it adds to each answer, ``cut``
    ends every whole answer early, ``status`` replaces all answers.
    """

    daemon_threads = True
    ranges, lengths = True, True
    cut: int | None = None
    stall = 0.0
    status = 200
    headers: dict[str, str]

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers = {}
        self.asked: list[str | None] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: object) -> None:
                return

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                data = web.files.get(self.path)
                if data is None or web.status != 200:
                    self.send_error(404 if data is None else web.status)
                    return
                wanted = self.headers.get("Range")
                if body:
                    web.asked.append(wanted)
                partial = web.ranges and wanted is not None
                if partial and wanted is not None:
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    data = data[int(first) : int(last) + 1]
                self.send_response(206 if partial else 200)
                if web.lengths or partial:
                    self.send_header("Content-Length", str(len(data)))
                for name, value in web.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data if web.cut is None or partial else data[: web.cut])
                    self.wfile.flush()
                    if web.stall:
                        threading.Event().wait(web.stall)

        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


@contextmanager
def serving() -> Iterator[Web]:
    """A `Web` on a free port of this machine, until the block ends."""
    server = Web()
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    ).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
