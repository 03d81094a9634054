"""A large file over HTTP that goes on where it broke off."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from pcl_auto.errors import Problem, ResourceError, UsageError
from pcl_auto.run.disk import require_room
from pcl_auto.run.events import Listener

_CHUNK = 2**16
_MEGABYTE = 10**6
_NO_URL = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
)
_PASSING = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Patience:
    """How long a server may be silent, and how long to wait before each new try that follows one in vain."""

    timeout_seconds: float = 30
    waits_seconds: tuple[float, ...] = (1, 3, 10)


@dataclass(frozen=True)
class Resuming:
    """A downloader for pooch that collects a file in ``part`` and hands it over when nothing is left to fetch.

    ``listener`` hears ``download`` with ``done`` and ``total`` megabytes. The disk must have room for the whole file
    twice: it is a tar archive that will be unpacked.
    """

    part: Path
    patience: Patience
    listener: Listener | None = None

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Fetch what is missing of ``url``.

        Raises:
            ResourceError: the network or the disk does not suffice; what has come stays for the next time.
            UsageError: ``url`` is none.
        """
        waits = iter(self.patience.waits_seconds)
        while True:
            before = self._have()
            try:
                self._try(url)
                break
            except _NO_URL as error:
                fix = "give --base-url as in https://example.org/decathlon"
                problem = Problem(
                    "archive.no-address", "no place to download from", url, fix, "an http or https address", str(error)
                )
                raise UsageError(problem) from error
            except requests.exceptions.RequestException as error:
                if self._have() > before:
                    waits = iter(self.patience.waits_seconds)
                wait = next(waits, None)
                if wait is None or _is_final(error):
                    raise self._broken_off(url, error) from error
                time.sleep(wait)
        self.part.replace(output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _try(self, url: str) -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=self.patience.timeout_seconds) as answer:
            if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is left to fetch; the check sum will tell
            answer.raise_for_status()
            start = _start(answer)
            if start not in {0, have}:
                self.part.unlink()
                raise requests.exceptions.ConnectionError(f"the server began at byte {start} instead of {have}")
            length = answer.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            if total is not None:
                require_room(self.part.parent, 2 * total - have, "the archive and its files")
            self._write(answer, start, total)

    def _write(self, answer: requests.Response, start: int, total: int | None) -> None:
        done = start
        with self.part.open("ab" if start else "wb") as file:
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if self.listener is not None and total:
                    # The last megabyte counts when all of it is there.
                    megabytes = -(-total // _MEGABYTE)
                    counted = megabytes if done == total else min(done // _MEGABYTE, megabytes - 1)
                    self.listener("download", {"done": counted, "total": megabytes})
        if total is not None and done != total:
            raise requests.exceptions.ConnectionError(f"the connection ended after {done} of {total} bytes")

    def _broken_off(self, url: str, error: requests.exceptions.RequestException) -> ResourceError:
        fix = "check the network (and a proxy's HTTPS_PROXY), then repeat the command: it goes on from there"
        if _is_final(error):
            fix = "check --base-url; without it the decathlon's public archive is asked"
        return ResourceError(
            Problem(
                code="archive.download-failed",
                what="download failed",
                where=url,
                expected="the whole archive",
                found=f"{self._have()} bytes, then: {error}",
                fix=fix,
            )
        )


def _start(answer: requests.Response) -> int:
    """The byte at which an answer begins: a server may ignore the range that was asked for."""
    if answer.status_code != requests.codes.partial_content:
        return 0
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _is_final(error: requests.exceptions.RequestException) -> bool:
    """Whether the server has answered, and will answer the same again."""
    status = error.response.status_code if error.response is not None else 0
    return 400 <= status < 500 and status not in _PASSING
