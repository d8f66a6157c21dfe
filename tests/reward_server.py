"""A real reward server on loopback whose behaviour a test chooses request by request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server:
    """`behave(number, request) -> (status, body[, headers])`; None closes the connection without an answer.

    A function writes the whole answer, status line included, to the file that it is given.
    """

    def __init__(self, behave: Callable[[int, dict[str, Any]], Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.times.append(time.monotonic())
                server.headers.append(dict(self.headers))
                answer = behave(len(server.requests), request)
                if answer is None or callable(answer):
                    self.close_connection = True
                    with suppress(OSError):  # whoever asked has had enough
                        if answer is not None:
                            answer(self.wfile)
                    return
                self.send_response(answer[0])
                for name, value in {"Content-Length": str(len(answer[1])), **dict(*answer[2:])}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(answer[1])

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/score"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()


def lengths(request: dict[str, Any]) -> tuple[int, bytes]:
    """A reward model that likes short answers."""
    return 200, json.dumps({"scores": [-float(len(text)) for text in request["completions"]]}).encode()


def slow(seconds: float, request: dict[str, Any]) -> tuple[int, bytes]:
    time.sleep(seconds)
    return lengths(request)


def named(request: dict[str, Any]) -> tuple[int, bytes]:
    """Three reward models at once."""
    count = len(request["completions"])
    scores = {
        "helpful": [1.0] * count,
        "safe": [2.0] * count,
        "short": [-float(len(t)) for t in request["completions"]],
    }
    return 200, json.dumps({"scores": scores}).encode()


def trickle(text: bytes, pause: float = 0.05) -> Callable[[Any], None]:
    """One byte at a time, status line and headers too."""

    def write(file: Any) -> None:
        for byte in text:
            file.write(bytes([byte]))
            file.flush()
            time.sleep(pause)

    return write


def endless(file: Any) -> None:
    """An answer without an end."""
    file.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        file.write(b" " * 2**16)
