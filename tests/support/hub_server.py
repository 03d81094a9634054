"""A model hub on this machine: repositories of files with one revision each, and those that nobody may read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from loopback import QuietHandler, running


@dataclass
class Hub:
    """Repositories by name, each a folder; ``revision`` is the one that all of them have."""

    repositories: Mapping[str, Path]
    revision: str = "0123456789abcdef0123456789abcdef01234567"
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        """Answer as the hub does: a description of a revision, or a file of it."""
        path = unquote(urlsplit(request.path).path).strip("/")
        self.asked.append(path)
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:], request)
            return
        name, kind, revision, file = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        source = self.repositories.get(name, Path()) / file
        if kind != "resolve" or revision not in (self.revision, "main") or not source.is_file():
            self._refuse(request, 404, "EntryNotFound")
            return
        content = source.read_bytes()
        request.send_response(200)
        request.send_header("X-Repo-Commit", self.revision)
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Accept-Ranges", "bytes")
        request.end_headers()
        if body:
            request.wfile.write(content)

    def _describe(self, name: str, rest: list[str], request: BaseHTTPRequestHandler) -> None:
        folder = self.repositories.get(name)
        wanted = rest[1] if rest[:1] in (["revision"], ["tree"]) else "main"
        if folder is None:
            self._refuse(request, 404, "RepoNotFound")
        elif wanted not in (self.revision, "main"):
            self._refuse(request, 404, "RevisionNotFound")
        else:
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            names = [file.relative_to(folder).as_posix() for file in files]
            found: Any = {"id": name, "sha": self.revision, "siblings": [{"rfilename": each} for each in names]}
            if rest[:1] == ["tree"]:
                found = [
                    {
                        "type": "file",
                        "path": each,
                        "size": file.stat().st_size,
                        "oid": hashlib.sha1(each.encode()).hexdigest(),
                    }
                    for each, file in zip(names, files, strict=True)
                ]
            self._send(request, json.dumps(found).encode())

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """Serve the folders as repositories OWNER/NAME."""
    hub = Hub(repositories)

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            hub.answer(self, body=True)

        def do_HEAD(self) -> None:
            hub.answer(self, body=False)

    with running(Handler) as hub.url:
        yield hub
