"""A server of archives on this machine, which cuts, stalls, ignores and refuses as it is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback import QuietHandler, running


@dataclass
class Server:
    """A server's content and faults; ``asked`` holds the ranges that were requested."""

    content: bytes
    knows_ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes sent in the first answers
    stalls: bool = False  # an answer that is cut keeps the connection open
    status: int = 200
    shift: int = 0  # answers begin so many bytes too late
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler, released: threading.Event) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.knows_ranges else 0
        if self.status != 200:
            request.send_error(self.status)
            return
        if start >= len(self.content):
            request.send_error(416)
            return
        start += self.shift if wanted else 0
        body = self.content[start:]
        request.send_response(206 if wanted and self.knows_ranges else 200)
        request.send_header("Content-Length", str(len(body)))
        if wanted and self.knows_ranges:
            size = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(body)
        request.wfile.write(body[:cut])
        if self.stalls and cut < len(body):
            request.wfile.flush()
            released.wait(10)


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """Serve ``content`` under every path."""
    served, released = Server(content), threading.Event()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            served.answer(self, released)

    with running(Handler) as served.url:
        try:
            yield served
        finally:
            released.set()
